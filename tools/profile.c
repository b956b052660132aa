/* profile.c - `hakmem profile`: a heap profile of a process, or out of a file, in whatever form is wanted.
 * Owns       the options.     Called by  hakmem.c
 * Calls      profile_live.c, profile_read.c, symbols.c, profile_write.c     Threads  one. */
#define _GNU_SOURCE
#include "output.h"
#include "profile_live.h"
#include "profile_read.h"
#include "profile_write.h"
#include "symbols.h"
#include "tool.h"

#include <ctype.h>
#include <errno.h>
#include <getopt.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define STANDARD_SECONDS 30
#define STANDARD_TOP 30
#define MAX_SECONDS 1e7
#define MAX_INTERVAL_BYTES (UINT64_C(1) << 40)

struct profile_settings {
    struct profile_output output;
    struct live_request live;
    const char *file; /* NULL: a process */
    bool full_names, help;
};

/* ---- Options ----------------------------------------------------------------------------------------------------- */

/* A decimal number, perhaps with K, M, G or T for a power of 1024. */
static bool parse_interval(const char *text, uint64_t *bytes)
{
    static const char units[] = "KMGT";
    char *end;
    errno = 0;
    unsigned long long n = isdigit((unsigned char)text[0]) ? strtoull(text, &end, 10) : 0;
    if (n == 0 || errno != 0)
        return false;
    const char *unit = *end == 0 ? NULL : strchr(units, *end);
    unsigned shift = unit == NULL ? 0 : 10 * (unsigned)(unit - units + 1);
    if (end[unit != NULL] != 0 || n > MAX_INTERVAL_BYTES >> shift)
        return false;
    *bytes = (uint64_t)n << shift;
    return true;
}

static bool parse_seconds(const char *text, double *seconds)
{
    char *end;
    *seconds = strtod(text, &end);
    return end != text && *end == 0 && *seconds >= 0 && *seconds <= MAX_SECONDS;
}

static bool refuse(const char *option, const char *value, const char *expected)
{
    tool_complain("--%s: '%s' is not %s (see 'hakmem help profile')", option, value, expected);
    return false;
}

static bool take_option(int option, struct profile_settings *set)
{
    switch (option) {
    case 'o':
        return profile_take_path(optarg, &set->output);
    case 'f':
        set->output.format = profile_format_by_name(optarg);
        return set->output.format != N_FORMATS || refuse("format", optarg, "one of " PROFILE_FORMAT_NAMES);
    case 'v':
        set->output.value = heap_value_by_name(optarg);
        return set->output.value != N_HEAP_VALUES ||
               refuse("value", optarg, "one of inuse_space, inuse_objects, alloc_space, alloc_objects");
    case 't':
        return profile_parse_top(optarg, &set->output.top) || refuse("top", optarg, "a number from 0 to 1000000");
    case 's':
        return parse_seconds(optarg, &set->live.seconds) || refuse("seconds", optarg, "a number of seconds");
    case 'i':
        return parse_interval(optarg, &set->live.interval_bytes) || refuse("interval", optarg, "from 1 to 1T bytes");
    case 'n':
        set->live.name = optarg;
        return true;
    case 'S':
        set->live.stop = true;
        return true;
    case 'F':
        set->full_names = true;
        return true;
    case 'h':
        set->help = true;
        return true;
    default:
        return false; /* getopt has said why */
    }
}

/* A number is a process, anything else a file. */
static bool take_subject(const char *text, struct profile_settings *set)
{
    if (text[strspn(text, "0123456789")] != 0 || text[0] == 0) {
        set->file = text;
        return true;
    }
    unsigned long pid = strtoul(text, NULL, 10);
    if (pid == 0 || pid > INT32_MAX) {
        tool_complain("there is no process %s", text);
        return false;
    }
    set->live.pid = (pid_t)pid;
    return true;
}

static bool check_settings(int argc, char **argv, struct profile_settings *set, bool has_live_option)
{
    if (set->live.name != NULL ? argc != optind : argc != optind + 1) {
        tool_complain("'hakmem profile' takes one process or one file (see 'hakmem help profile')");
        return false;
    }
    if (set->live.name == NULL && !take_subject(argv[optind], set))
        return false;
    if (set->file != NULL && has_live_option) {
        tool_complain("--seconds, --interval and --stop are about a process, and %s is a file", set->file);
        return false;
    }
    const char *path = set->output.path;
    if (set->output.format == N_FORMATS)
        set->output.format = profile_is_stdout(path) ? FORMAT_TEXT : profile_format_by_path(path);
    if (set->output.format == N_FORMATS) {
        tool_complain("%s: no format has this ending (.pb.gz, .folded, .svg, .html, .txt); --format names one", path);
        return false;
    }
    if (set->output.format == FORMAT_PPROF && profile_is_stdout(path) && isatty(STDOUT_FILENO)) {
        tool_complain("pprof's format is not for a terminal; -o FILE writes it to a file");
        return false;
    }
    return true;
}

/* Returns false after a line on stderr. */
static bool parse_arguments(int argc, char **argv, struct profile_settings *set)
{
    static const struct option options[] = {{"output", required_argument, NULL, 'o'},
                                            {"format", required_argument, NULL, 'f'},
                                            {"value", required_argument, NULL, 'v'},
                                            {"top", required_argument, NULL, 't'},
                                            {"seconds", required_argument, NULL, 's'},
                                            {"interval", required_argument, NULL, 'i'},
                                            {"name", required_argument, NULL, 'n'},
                                            {"stop", no_argument, NULL, 'S'},
                                            {"full-names", no_argument, NULL, 'F'},
                                            {"help", no_argument, NULL, 'h'},
                                            {NULL, 0, NULL, 0}};
    bool has_live_option = false;
    for (int option; (option = getopt_long(argc, argv, "o:f:v:t:s:i:n:SFh", options, NULL)) != -1;) {
        if (!take_option(option, set))
            return false;
        has_live_option |= option == 's' || option == 'i' || option == 'S';
    }
    return set->help || check_settings(argc, argv, set, has_live_option);
}

/* ---- What is done ------------------------------------------------------------------------------------------------ */

static int profile_main(int argc, char **argv)
{
    struct profile_settings set = {
        .output = {.format = N_FORMATS, .value = INUSE_SPACE, .top = STANDARD_TOP},
        .live = {.seconds = STANDARD_SECONDS},
    };
    char why[READ_WHY_BYTES];
    if (!parse_arguments(argc, argv, &set))
        return TOOL_USAGE;
    if (set.help) {
        fputs(profile_command.help, stdout);
        return tool_finish_output();
    }
    /* Before the time is spent on sampling. */
    if (!profile_is_stdout(set.output.path) && output_check(set.output.path) != 0)
        return TOOL_FAILED;
    pid_t pid = 0;
    struct heap_profile *profile =
        set.file != NULL ? profile_read(set.file, why, sizeof why) : profile_take(&set.live, &pid, why, sizeof why);
    if (profile == NULL) {
        tool_complain("%s", why);
        return TOOL_USAGE;
    }
    symbols_resolve(profile, pid, set.full_names);
    int status = profile_write(profile, &set.output);
    heap_profile_free(profile);
    return status;
}

const struct tool_command profile_command = {
    "profile", profile_main, "show which calls allocate, and whose memory is live",
    "usage: hakmem profile [OPTION]... PID\n"
    "       hakmem profile [OPTION]... --name NAME\n"
    "       hakmem profile [OPTION]... FILE\n"
    "\n"
    "Shows which call stacks allocate memory and whose is still live, by a sample of\n"
    "the allocations: of a process on hakmem, which needs no preparation for it, or\n"
    "out of a FILE that the library (HAKMEM_PROFILE, hak_profile_dump) or this\n"
    "command has written. - is the standard input.\n"
    "\n"
    "A process is sampled for --seconds, or until Ctrl-C, and then left as it was.\n"
    "It begins when it next asks for more blocks than a thread has at hand, or is\n"
    "refused when it has not done so for as long, at least 10 seconds.\n"
    "What was allocated before is not in its profile. One that was started with\n"
    "HAKMEM_PROFILE, or samples itself, is read by --seconds 0, and goes on. So is\n"
    "one that another 'hakmem profile' samples; and when that has ended, what is\n"
    "left then of what was allocated in its time.\n"
    "\n"
    "  -o, --output FILE    write to FILE. Its ending chooses the format:\n"
    "                       .pb.gz   for pprof: go tool pprof FILE\n"
    "                       .html    flame graph, a page that needs no other file\n"
    "                       .svg     flame graph, an image that can be clicked\n"
    "                       .folded  stacks on one line each, for other programs\n"
    "                       .txt     text\n"
    "                       Without it, text goes to the standard output.\n"
    "  -f, --format NAME    pprof, html, svg, folded, text (functions, the largest\n"
    "                       first) or leaks (what is live, by stacks, with lines)\n"
    "  -v, --value NAME     what text, folded and graphs are about: inuse_space (the\n"
    "                       default), inuse_objects, alloc_space or alloc_objects\n"
    "  -t, --top N          at most N rows of text or leaks (30; 0: all)\n"
    "  -s, --seconds S      sample a process for S seconds (30). 0: begin nothing,\n"
    "                       read what it has sampled so far\n"
    "  -i, --interval BYTES one sample for so many bytes in the mean (512K; K, M, G, T\n"
    "                       are powers of 1024). Smaller is more exact and costs more\n"
    "  -S, --stop           stop the process for a moment, if it does not hear otherwise:\n"
    "                       to sample one whose threads' caches serve all that it\n"
    "                       allocates, so that they meet none of the slower paths\n"
    "  -n, --name NAME      the one process on hakmem that has this name\n"
    "  -F, --full-names     C++ names with the arguments of templates and functions\n"
    "  -h, --help           show this text\n"
    "\n"
    "Amounts are estimates; a figure behind ± bounds 95 of 100. Names and lines\n"
    "come from the files' symbols and debug information, by elfutils.\n"
    "docs/heap-profile.md tells how exact this is, what it costs, and its limits.\n"
    "\n"
    "Reading a process needs the right to trace it: root, or the same user and a\n"
    "permissive /proc/sys/kernel/yama/ptrace_scope.\n"
    "\n"
    "Exit status:\n"
    "  0  the profile is written\n"
    "  1  it cannot be written\n"
    "  2  wrong arguments, no such process or profile, or the process cannot be\n"
    "     sampled; one line on stderr says why\n"};
