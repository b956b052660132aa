/* top.c - `hakmem top`: looks at a running process's heap, on the terminal or for scripts.
 * Owns       the options.     Called by  hakmem.c     Calls  process.h, watch.c, top_*.c.     Threads  one.
 * I1  Whatever is wrong before the first sample is one line on stderr and status TOOL_USAGE.
 * Why --once where stdout is no terminal: a pipe or a file wants the figures, not the strokes that draw them.
 */
#define _GNU_SOURCE
#include "top.h"

#include "process.h"
#include "target.h"
#include "tool.h"

#include <errno.h>
#include <getopt.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { PATIENCE_MS = 5000 };

struct top_settings {
    pid_t pid;
    const char *name; /* NULL: the process is given by pid */
    bool once, json, help;
    double every_s;
    unsigned long samples; /* 0: until the process ends */
    bool samples_are_set;
};

/* ---- Options ----------------------------------------------------------------------------------------------------- */

static bool parse_every(const char *text, double *every_s)
{
    char *end;
    *every_s = strtod(text, &end);
    if (end != text && *end == '\0' && *every_s >= 0.1 && *every_s <= 3600)
        return true;
    tool_complain("--every takes 0.1 to 3600 seconds, not '%s'", text);
    return false;
}

static bool parse_samples(const char *text, unsigned long *samples)
{
    char *end;
    errno = 0;
    *samples = strtoul(text, &end, 10);
    if (text[0] >= '0' && text[0] <= '9' && *end == '\0' && errno == 0 && *samples <= 1000000000)
        return true;
    tool_complain("--samples takes 0 to 1000000000, not '%s'", text);
    return false;
}

static bool take_option(int option, struct top_settings *set)
{
    switch (option) {
    case 'n':
        set->name = optarg;
        return true;
    case 'o':
        return set->once = true;
    case 'j':
        return set->json = true;
    case 'h':
        return set->help = true;
    case 'e':
        return parse_every(optarg, &set->every_s);
    case 's':
        set->samples_are_set = true;
        return parse_samples(optarg, &set->samples);
    default:
        return false; /* getopt has said why */
    }
}

/* The one argument that is no option, if the process has no name. */
static bool take_process(int n, char **arguments, struct top_settings *set)
{
    if (n + (set->name != NULL) != 1) {
        tool_complain("'hakmem top' takes one process: PID or --name NAME");
        return false;
    }
    return process_choose(arguments[0], set->name, &set->pid);
}

static bool check_settings(struct top_settings *set)
{
    if (set->once && set->json) {
        tool_complain("--once and --json exclude each other");
        return false;
    }
    if (!isatty(STDOUT_FILENO) || !isatty(STDIN_FILENO))
        set->once = !set->json;
    if (set->samples_are_set && !set->once && !set->json) {
        tool_complain("--samples is for --once and --json");
        return false;
    }
    return true;
}

static bool parse_arguments(int argc, char **argv, struct top_settings *set)
{
    static const struct option options[] = {{"name", required_argument, NULL, 'n'},
                                            {"every", required_argument, NULL, 'e'},
                                            {"samples", required_argument, NULL, 's'},
                                            {"once", no_argument, NULL, 'o'},
                                            {"json", no_argument, NULL, 'j'},
                                            {"help", no_argument, NULL, 'h'},
                                            {NULL, 0, NULL, 0}};
    int option;
    while ((option = getopt_long(argc, argv, "n:e:s:ojh", options, NULL)) != -1)
        if (!take_option(option, set))
            return false;
    return set->help || (check_settings(set) && take_process(argc - optind, argv + optind, set));
}

/* ---- For scripts ------------------------------------------------------------------------------------------------- */

static int print_sample(const struct top_settings *set, const struct watch *watch)
{
    if (set->json) {
        top_print_json(stdout, &watch->figures);
    } else {
        if (watch->n_samples > 1)
            putchar('\n');
        top_print_text(stdout, &watch->figures);
    }
    return tool_finish_output();
}

static void sleep_until(struct timespec *moment, double further_s)
{
    const long further_ns = (long)((further_s - (double)(time_t)further_s) * 1e9);
    moment->tv_sec += (time_t)further_s + (moment->tv_nsec + further_ns) / 1000000000;
    moment->tv_nsec = (moment->tv_nsec + further_ns) % 1000000000;
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, moment, NULL) == EINTR)
        continue;
}

/* The process has ended: what was asked for, if it was asked for as long as it lives. */
static int tell_end(const struct top_settings *set, const struct watch *watch)
{
    tool_complain("process %d has ended after %llu samples", (int)set->pid, (unsigned long long)watch->n_samples);
    return set->samples == 0 ? TOOL_OK : TOOL_FAILED;
}

static int print_samples(const struct top_settings *set, struct watch *watch)
{
    struct timespec moment;
    clock_gettime(CLOCK_MONOTONIC, &moment);
    for (int status = print_sample(set, watch);; status = print_sample(set, watch)) {
        if (status != TOOL_OK || watch->n_samples == set->samples)
            return status;
        sleep_until(&moment, set->every_s);
        const enum watch_result result = watch_sample(watch, PATIENCE_MS);
        if (result == WATCH_ENDED)
            return tell_end(set, watch);
        if (result == WATCH_FAILED) {
            tool_complain("%s", watch->why);
            return TOOL_USAGE;
        }
    }
}

/* ---- For people -------------------------------------------------------------------------------------------------- */

static int show_on_screen(const struct top_settings *set, struct watch *watch)
{
    bool ended;
    const int status = top_run_screen(watch, set->every_s, &ended);
    if (!ended)
        return status;
    figures_sort_classes(&watch->figures, CLASS_COLUMN_BLOCK, false); /* not as the view had them last */
    figures_sort_threads(&watch->figures, THREAD_COLUMN_ID, false);
    printf("Process %d has ended. Its last figures:\n\n", (int)set->pid);
    top_print_text(stdout, &watch->figures);
    return tool_finish_output();
}

static int top_main(int argc, char **argv)
{
    struct top_settings set = {.every_s = 1, .samples = 1};
    struct watch watch;
    if (!parse_arguments(argc, argv, &set))
        return TOOL_USAGE;
    if (set.help) {
        fputs(top_command.help, stdout);
        return tool_finish_output();
    }
    if (!watch_begin(&watch, set.pid)) {
        tool_complain("%s", watch.why);
        return TOOL_USAGE;
    }
    const int status = set.once || set.json ? print_samples(&set, &watch) : show_on_screen(&set, &watch);
    watch_end(&watch);
    return status;
}

const struct tool_command top_command = {
    "top", top_main, "watch a running program's heap",
    "usage: hakmem top [--every SECONDS] PID\n"
    "       hakmem top [--every SECONDS] --name NAME\n"
    "       hakmem top --once | --json [--every SECONDS] [--samples N] PID\n"
    "\n"
    "Shows the heap of a running process that is on hakmem, again each second: how\n"
    "much is live, cached and committed, what happens per second, each size class,\n"
    "each thread. The process is not stopped and runs no code for it.\n"
    "\n"
    "  -n, --name NAME      the process with that name instead of a number\n"
    "  -e, --every SECONDS  look again after so long: 0.1 to 3600, by default 1\n"
    "  -o, --once           print the figures as text and end; so it is, too, where\n"
    "                       input or output is no terminal\n"
    "  -j, --json           print them as one JSON object in one line\n"
    "  -s, --samples N      print N times (0: until the process ends); from the second\n"
    "                       time on with rates per second\n"
    "  -h, --help           show this text\n"
    "\n"
    "Keys: q quit; h help; t classes or threads; s, S sort by the next or previous\n"
    "column; r reverse the order; p pause; arrows and page keys scroll.\n"
    "\n"
    "It needs the right to trace the process: the same user and a kernel that lets\n"
    "it (/proc/sys/kernel/yama/ptrace_scope), or root.\n"
    "\n"
    "Exit status:\n"
    "  0  a key ended it, or the process did and its last figures were printed\n"
    "  1  the output failed, or the process ended before N samples\n"
    "  2  wrong options; no such process, no permission, or not on hakmem\n"};
