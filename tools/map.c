/* map.c - `hakmem map`: the picture of a running process's heap.
 * Owns       the options, the loop over the samples, and where the outputs go.
 * Called by  hakmem.c.     Calls  snapshot.c, target.c, map_model.c, the four outputs (map_output.h), output.c.     Threads  one.
 * I1  The process that is looked at is only read.
 * I2  All files and the text show the same snapshot; a page the same and those before.
 * I3  A signal that asks to end ends the sampling: what was seen until then is written. A file appears whole or not at all. */
#define _GNU_SOURCE
#include "map_output.h"
#include "output.h"
#include "target.h"
#include "tool.h"

#include <ctype.h>
#include <errno.h>
#include <getopt.h>
#include <langinfo.h>
#include <limits.h>
#include <locale.h>
#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

enum { MAX_FILES = 8, MAX_SAMPLES = 100000, DEFAULT_LIMIT = 64 };

enum file_kind { FILE_SVG, FILE_PNG, FILE_HTML, FILE_N_KINDS };

enum when { AUTO, ALWAYS, NEVER };

struct map_settings {
    pid_t pid;        /* found by name, if there is one */
    const char *name; /* NULL: by number */
    const char *files[MAX_FILES];
    enum file_kind kinds[MAX_FILES];
    unsigned n_files;
    bool json, help;
    enum map_by by;
    enum map_theme theme;
    enum when color;
    size_t limit;
    unsigned n_samples;
    double every_s;
};

/* ---- Options -------------------------------------------------------------------------------------------------------------- */

/* The index of a word in a table of n. -1 after a line on stderr. */
static int find_word(const char *option, const char *word, const char *const *words, int n)
{
    char known[128] = "";
    for (int i = 0; i < n; i++) {
        if (strcmp(word, words[i]) == 0)
            return i;
        strcat(strcat(known, i == 0 ? "" : ", "), words[i]);
    }
    tool_complain("%s: unknown '%s' (known: %s)", option, word, known);
    return -1;
}

static bool parse_number(const char *option, const char *text, long most, long *out)
{
    char *end;
    errno = 0;
    *out = strtol(text, &end, 10);
    if (isdigit((unsigned char)text[0]) && *end == '\0' && errno == 0 && *out >= 1 && *out <= most)
        return true;
    tool_complain("%s: '%s' is not a number from 1 to %ld", option, text, most);
    return false;
}

static bool parse_seconds(const char *text, double *out)
{
    char *end;
    *out = strtod(text, &end);
    if (isdigit((unsigned char)text[0]) && *end == '\0' && isfinite(*out) && *out >= 0.01 && *out <= 86400)
        return true;
    tool_complain("--every: '%s' is not a number of seconds from 0.01 to 86400", text);
    return false;
}

static bool add_file(struct map_settings *set, const char *path)
{
    static const char *const endings[] = {".svg", ".png", ".html", ".htm"};
    static const enum file_kind kinds[] = {FILE_SVG, FILE_PNG, FILE_HTML, FILE_HTML};
    const char *dot = strrchr(path, '.');
    if (set->n_files == MAX_FILES) {
        tool_complain("at most %d files at once", MAX_FILES);
        return false;
    }
    for (unsigned i = 0; i < 4 && dot != NULL; i++)
        if (strcasecmp(dot, endings[i]) == 0) {
            set->kinds[set->n_files] = kinds[i];
            set->files[set->n_files++] = path;
            return true;
        }
    tool_complain("-o %s: the name must end in .svg, .png or .html", path);
    return false;
}

/* One option. False after a line on stderr. */
static bool take_option(struct map_settings *set, int option)
{
    static const char *const bys[] = {"class", "occupancy", "tier"}, *const themes[] = {"light", "dark"};
    static const char *const whens[] = {"auto", "always", "never"};
    long number = 0;
    int word = 0;
    switch (option) {
    case 'n':
        set->name = optarg;
        return true;
    case 'o':
        return add_file(set, optarg);
    case 'j':
        return set->json = true;
    case 'b':
        word = find_word("--by", optarg, bys, 3);
        set->by = (enum map_by)word;
        return word >= 0;
    case 't':
        word = find_word("--theme", optarg, themes, 2);
        set->theme = (enum map_theme)word;
        return word >= 0;
    case 'c':
        word = find_word("--color", optarg, whens, 3);
        set->color = (enum when)word;
        return word >= 0;
    case 'A':
        set->color = NEVER;
        return true;
    case 'a':
        set->limit = 0;
        return true;
    case 'l':
        if (!parse_number("--limit", optarg, INT_MAX, &number))
            return false;
        set->limit = (size_t)number;
        return true;
    case 's':
        if (!parse_number("--samples", optarg, MAX_SAMPLES, &number))
            return false;
        set->n_samples = (unsigned)number;
        return true;
    case 'e':
        return parse_seconds(optarg, &set->every_s);
    case 'h':
        return set->help = true;
    default:
        return false; /* getopt has said why */
    }
}

static bool take_process(struct map_settings *set, int n, char **arguments)
{
    long pid;
    if (n > 1 || (n == 1 && set->name != NULL)) {
        tool_complain("one process at a time: a PID or --name NAME");
        return false;
    }
    if (n == 0 && set->name == NULL) {
        tool_complain("which process? (a PID or --name NAME; see 'hakmem help map')");
        return false;
    }
    if (n == 0)
        return true;
    if (!parse_number("PID", arguments[0], INT_MAX, &pid))
        return false;
    set->pid = (pid_t)pid;
    return true;
}

static bool check_samples(const struct map_settings *set)
{
    bool shows_one = set->n_files == 0 && !set->json;
    for (unsigned i = 0; i < set->n_files; i++)
        shows_one |= set->kinds[i] != FILE_HTML;
    if (set->n_samples == 1 || !shows_one)
        return true;
    tool_complain("several samples are for -o FILE.html and --json: a picture and the terminal show one");
    return false;
}

/* False after a line on stderr. */
static bool parse_arguments(int argc, char **argv, struct map_settings *set)
{
    static const struct option options[] = {{"name", required_argument, NULL, 'n'},
                                            {"output", required_argument, NULL, 'o'},
                                            {"json", no_argument, NULL, 'j'},
                                            {"by", required_argument, NULL, 'b'},
                                            {"theme", required_argument, NULL, 't'},
                                            {"color", required_argument, NULL, 'c'},
                                            {"ascii", no_argument, NULL, 'A'},
                                            {"all", no_argument, NULL, 'a'},
                                            {"limit", required_argument, NULL, 'l'},
                                            {"samples", required_argument, NULL, 's'},
                                            {"every", required_argument, NULL, 'e'},
                                            {"help", no_argument, NULL, 'h'},
                                            {NULL, 0, NULL, 0}};
    int option;
    while ((option = getopt_long(argc, argv, "n:o:jb:al:s:e:h", options, NULL)) != -1)
        if (!take_option(set, option))
            return false;
    return set->help || (take_process(set, argc - optind, argv + optind) && check_samples(set));
}

/* ---- The terminal ------------------------------------------------------------------------------------------------------------ */

static unsigned terminal_width(void)
{
    struct winsize size;
    long columns;
    char *end;
    if (isatty(STDOUT_FILENO) && ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0)
        return size.ws_col;
    const char *text = getenv("COLUMNS");
    if (text == NULL || (columns = strtol(text, &end, 10)) < 1 || columns > 10000 || *end != '\0')
        return 80;
    return (unsigned)columns;
}

static enum map_terminal_colors terminal_colors(enum when color)
{
    const char *term = getenv("TERM"), *depth = getenv("COLORTERM");
    const bool deep = depth != NULL && (strcmp(depth, "truecolor") == 0 || strcmp(depth, "24bit") == 0);
    if (color == NEVER)
        return MAP_ASCII;
    if (color == AUTO && (!isatty(STDOUT_FILENO) || !tool_may_use_colors() || term == NULL))
        return MAP_ASCII;
    if (color == AUTO && !deep && strstr(term, "256color") == NULL)
        return MAP_ASCII;
    setlocale(LC_CTYPE, "");
    if (color == AUTO && strcmp(nl_langinfo(CODESET), "UTF-8") != 0)
        return MAP_ASCII;
    return deep ? MAP_TRUE_COLORS : MAP_256_COLORS;
}

static int show(const struct map_settings *set, const struct map *map)
{
    const struct map_terminal how = {
        .width = terminal_width(), .colors = terminal_colors(set->color), .by = set->by, .limit = set->limit};
    map_print_terminal(stdout, map, &how);
    return tool_finish_output();
}

/* ---- Files --------------------------------------------------------------------------------------------------------------------- */

static const char *date_of_now(char out[32])
{
    const time_t now = time(NULL);
    struct tm parts;
    if (localtime_r(&now, &parts) == NULL || strftime(out, 32, "%Y-%m-%d %H:%M:%S", &parts) == 0)
        out[0] = '\0';
    return out;
}

/* 0, or -1 and why. */
static int write_form(FILE *out, enum file_kind kind, const struct map_settings *set, const struct map *map,
                      struct map_page *page, const char **why)
{
    char date[32];
    const struct map_drawing how = {.theme = set->theme, .by = set->by, .when = date_of_now(date)};
    if (kind == FILE_SVG)
        return map_draw_svg(out, map, &how, why);
    if (kind == FILE_PNG)
        return map_draw_png(out, map, &how, why);
    *why = "not enough memory";
    return map_page_write(page, out);
}

static int write_file(const struct map_settings *set, unsigned i, const struct map *map, struct map_page *page)
{
    struct output output;
    const char *why = NULL;
    if (output_open(&output, set->files[i]) != 0)
        return TOOL_FAILED;
    if (write_form(output.file, set->kinds[i], set, map, page, &why) == 0)
        return output_finish(&output) == 0 ? TOOL_OK : TOOL_FAILED;
    output_abandon(&output);
    tool_complain("cannot write %s: %s", set->files[i], why);
    return TOOL_FAILED;
}

/* ---- Samples -------------------------------------------------------------------------------------------------------------------- */

static volatile sig_atomic_t asked_to_end;

static void on_signal(int number)
{
    (void)number;
    asked_to_end = 1;
}

static void catch_signals(void)
{
    static const int numbers[] = {SIGINT, SIGTERM, SIGHUP};
    struct sigaction action = {.sa_handler = on_signal}, before;
    sigemptyset(&action.sa_mask);
    for (unsigned i = 0; i < 3; i++)
        if (sigaction(numbers[i], NULL, &before) == 0 && before.sa_handler != SIG_IGN)
            sigaction(numbers[i], &action, NULL);
}

/* Until so long after `begin`. */
static void sleep_until(const struct timespec *begin, double seconds)
{
    const double whole = floor(seconds);
    struct timespec at = {.tv_sec = begin->tv_sec + (time_t)whole,
                          .tv_nsec = begin->tv_nsec + (long)((seconds - whole) * 1e9)};
    if (at.tv_nsec >= 1000000000) {
        at.tv_sec++;
        at.tv_nsec -= 1000000000;
    }
    while (!asked_to_end && clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, NULL) == EINTR)
        continue;
}

struct samples {
    struct snapshot last;
    struct map map;        /* of the last */
    struct map_page *page; /* NULL: none is wanted */
    unsigned n;
};

/* What is done with each sample. TOOL_OK, or another status after a line on stderr. */
static int take_sample(const struct map_settings *set, struct samples *samples)
{
    if (map_make(&samples->last, &samples->map) != 0 ||
        (samples->page != NULL && map_page_add(samples->page, &samples->last) != 0)) {
        tool_complain("not enough memory for the map");
        return TOOL_FAILED;
    }
    samples->n++;
    if (!set->json)
        return TOOL_OK;
    if (map_print_json(stdout, &samples->map) != 0 && !ferror(stdout)) {
        tool_complain("not enough memory for the map");
        return TOOL_FAILED;
    }
    return tool_finish_output();
}

static void drop_last(struct samples *samples)
{
    if (samples->n == 0)
        return;
    map_drop(&samples->map);
    snapshot_free(&samples->last);
}

/* Reads the heap again and again. TOOL_OK when at least one sample is there. */
static int take_samples(const struct map_settings *set, struct target *target, struct samples *samples)
{
    char why[TARGET_WHY_BYTES];
    struct timespec begin;
    clock_gettime(CLOCK_MONOTONIC, &begin);
    for (unsigned i = 0; i < set->n_samples && !asked_to_end; i++) {
        struct snapshot now;
        if (i > 0)
            sleep_until(&begin, i * set->every_s);
        if (i > 0 && asked_to_end)
            break;
        if (snapshot_read(target, &now, why, sizeof why) != 0) {
            tool_complain("%s%s", why, i > 0 ? ": what was seen until then is shown" : "");
            return i > 0 ? TOOL_OK : TOOL_USAGE;
        }
        drop_last(samples);
        samples->last = now;
        const int status = take_sample(set, samples);
        if (status != TOOL_OK)
            return status;
    }
    return samples->n > 0 ? TOOL_OK : TOOL_FAILED;
}

static int show_samples(const struct map_settings *set, const struct samples *samples)
{
    int status = TOOL_OK;
    if (set->n_files == 0 && !set->json)
        status = show(set, &samples->map);
    for (unsigned i = 0; i < set->n_files; i++)
        if (write_file(set, i, &samples->map, samples->page) != TOOL_OK)
            status = TOOL_FAILED;
    return status;
}

static bool wants_page(const struct map_settings *set)
{
    for (unsigned i = 0; i < set->n_files; i++)
        if (set->kinds[i] == FILE_HTML)
            return true;
    return false;
}

static int map_target(const struct map_settings *set, struct target *target)
{
    struct samples samples = {0};
    char date[32];
    if (wants_page(set) && (samples.page = map_page_new(set->by, date_of_now(date))) == NULL) {
        tool_complain("not enough memory for the map");
        return TOOL_FAILED;
    }
    int status = take_samples(set, target, &samples);
    if (status == TOOL_OK)
        status = show_samples(set, &samples);
    drop_last(&samples);
    if (samples.page != NULL)
        map_page_drop(samples.page);
    return status;
}

static int map_main(int argc, char **argv)
{
    struct map_settings set = {.n_samples = 1, .every_s = 1, .limit = DEFAULT_LIMIT};
    struct target target;
    char why[TARGET_WHY_BYTES];
    if (!parse_arguments(argc, argv, &set))
        return TOOL_USAGE;
    if (set.help) {
        fputs(map_command.help, stdout);
        return tool_finish_output();
    }
    for (unsigned i = 0; i < set.n_files; i++)
        if (output_check(set.files[i]) != 0)
            return TOOL_FAILED;
    if (set.name != NULL)
        set.pid = target_find_by_name(set.name, why, sizeof why);
    if (set.pid <= 0 || target_open_to_read(set.pid, &target, why, sizeof why) != 0) {
        tool_complain("%s", why);
        return TOOL_USAGE;
    }
    if (set.n_files > 0)
        catch_signals();
    const int status = map_target(&set, &target);
    target_close(&target);
    return status;
}

const struct tool_command map_command = {
    "map", map_main, "show the heap of a running process as a picture",
    "usage: hakmem map PID [OPTION]...\n"
    "       hakmem map --name NAME [OPTION]...\n"
    "\n"
    "Shows every SuperSlab (2 MiB) of the process's heap with its 32 slabs: what is\n"
    "used, what is in memory without being used, and what is not in memory; which\n"
    "SuperSlabs drain, and which classes of blocks hold memory that is not used. The\n"
    "process is read from outside and not stopped, so counts may be off by what was\n"
    "in flight.\n"
    "\n"
    "  -n, --name NAME      the one process on hakmem of this name\n"
    "  -o, --output FILE    write a picture (FILE.svg, FILE.png) or a page for a\n"
    "                       browser (FILE.html) instead of text; up to 8 times\n"
    "  -j, --json           write one line of JSON per sample to stdout\n"
    "  -b, --by WHAT        colour by class (default), occupancy or tier\n"
    "      --theme THEME    light (default) or dark, for pictures; a page has both\n"
    "  -s, --samples N      take N samples, for a page with a slider or for --json\n"
    "  -e, --every SECONDS  from one sample to the next (default 1)\n"
    "  -l, --limit N        text: the N SuperSlabs and runs with the most unused\n"
    "                       memory (default 64)\n"
    "  -a, --all            text: all of them, by address\n"
    "      --ascii          text: no colours, and ASCII alone\n"
    "      --color WHEN     text: auto (default: where the terminal shows UTF-8 and 256\n"
    "                       colours), always or never\n"
    "  -h, --help           show this text\n"
    "\n"
    "Ctrl-C ends the sampling, and so does the end of the process; what was seen until\n"
    "then is written. A file appears whole or not at all. To read a process you need\n"
    "its user and a permissive ptrace_scope, or CAP_SYS_PTRACE.\n"
    "\n"
    "Exit status: 0; 1 when the output cannot be written; 2 for wrong options, and when\n"
    "the process does not exist, is not on hakmem, or may not be read.\n"};
