/* metrics.c - `hakmem metrics`: a process's heap as metrics, once or for Prometheus.
 * Owns       the options, the latest snapshot, the knowledge of whether the process lives.
 * Called by  hakmem.c     Calls  process.h, target.h (names), watch.h, metrics_*.c.     Threads  one.
 * I1  However many ask, the process is read at most once in MIN_AGE_MS.
 * I2  A series of counters never mixes two processes: a scrape that finds another process behind the number answers 503.
 * Why linger after the end: the 503 is how Prometheus learns of it; a closed port would look like a fault of this command.
 */
#define _GNU_SOURCE
#include "metrics.h"

#include "process.h"
#include "target.h"
#include "tool.h"
#include "watch.h"

#include <errno.h>
#include <getopt.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum {
    MIN_AGE_MS = 100,
    LOOK_MS = 500, /* how soon the end of the process is noticed when nobody asks */
    DEFAULT_LINGER_S = 60,
    MAX_LINGER_S = 86400,
    HTTP_OK = 200,
    HTTP_UNAVAILABLE = 503
};

struct metrics_settings {
    pid_t pid;
    const char *name; /* NULL: the process is given by pid */
    bool listens, classic, help;
    struct metrics_address address;
    struct metrics_choice choice;
    unsigned long linger_s;
};

/* What is served. */
struct source {
    const struct metrics_settings *set;
    bool found; /* target is open, and lived when it was last looked at */
    struct target target;
    int64_t ended_ms;
    bool has_snapshot;
    struct snapshot snapshot;
    int64_t taken_ms;
    double read_s;
    char why[TARGET_WHY_BYTES]; /* what was last complained of */
};

static volatile sig_atomic_t signal_came;

static void on_signal(int number)
{
    signal_came = number;
}

static int64_t now_us(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000 + now.tv_nsec / 1000;
}

static int64_t now_ms(void)
{
    return now_us() / 1000;
}

/* ---- The process ------------------------------------------------------------------------------------------------- */

/* A server that is asked each second says what is wrong once, not each second. */
static void complain_once(struct source *source, const char *why)
{
    if (strcmp(source->why, why) == 0)
        return;
    snprintf(source->why, sizeof source->why, "%s", why);
    tool_complain("%s", why);
}

static void forget_snapshot(struct source *source)
{
    if (source->has_snapshot)
        snapshot_free(&source->snapshot);
    source->has_snapshot = false;
}

static bool take_snapshot(struct source *source, char *why, size_t why_bytes)
{
    struct snapshot fresh;
    const int64_t before_us = now_us();
    if (!watch_read(&source->target, &fresh, why, why_bytes))
        return false;
    forget_snapshot(source);
    source->snapshot = fresh;
    source->has_snapshot = true;
    source->read_s = (double)(now_us() - before_us) / 1e6;
    source->taken_ms = now_ms();
    return true;
}

static void note_end(struct source *source)
{
    const struct metrics_settings *set = source->set;
    source->found = false;
    source->ended_ms = now_ms();
    forget_snapshot(source);
    target_close(&source->target);
    if (set->name != NULL)
        tool_complain("process %d has ended; waiting for the next one named %s", (int)source->target.pid, set->name);
    else
        tool_complain("process %d has ended; answering 503 for %lu s", (int)source->target.pid, set->linger_s);
}

/* Notices the end, and with a name the next process that has it. */
static void look_for_process(struct source *source)
{
    char why[TARGET_WHY_BYTES];
    if (source->found && !target_is_alive(&source->target))
        note_end(source);
    if (source->found || source->set->name == NULL)
        return;
    const pid_t pid = target_find_by_name(source->set->name, why, sizeof why);
    source->found = pid > 0 && target_open_to_read(pid, &source->target, why, sizeof why) == 0;
    if (source->found)
        source->why[0] = '\0';
    else if (pid != 0) /* while there is none, it is waited for */
        complain_once(source, why);
}

static bool is_fresh(const struct source *source)
{
    return source->has_snapshot && now_ms() - source->taken_ms < MIN_AGE_MS;
}

static void close_source(struct source *source)
{
    forget_snapshot(source);
    if (source->found)
        target_close(&source->target);
}

static bool open_source(struct source *source, char *why, size_t why_bytes)
{
    source->found = target_open_to_read(source->set->pid, &source->target, why, why_bytes) == 0;
    if (source->found && take_snapshot(source, why, why_bytes))
        return true;
    close_source(source);
    return false;
}

/* ---- Answers ----------------------------------------------------------------------------------------------------- */

static FILE *open_text(char **text, size_t *len_bytes)
{
    FILE *out = open_memstream(text, len_bytes);
    if (out != NULL)
        return out;
    tool_complain("out of memory");
    exit(TOOL_FAILED);
}

static int render(void *argument, enum metrics_format format, char **text, size_t *len_bytes)
{
    struct source *source = argument;
    char why[TARGET_WHY_BYTES];
    look_for_process(source);
    bool readable = source->found && (is_fresh(source) || take_snapshot(source, why, sizeof why));
    if (source->found && !readable)
        complain_once(source, why);
    look_for_process(source); /* it may have ended, and its number may have been given away, while it was read */
    readable = readable && source->has_snapshot;
    FILE *out = open_text(text, len_bytes);
    if (readable)
        metrics_print(out, &source->snapshot, source->read_s, format, &source->set->choice);
    else
        fputs("The process has ended or cannot be read.\n", out);
    if (fclose(out) == 0)
        return readable ? HTTP_OK : HTTP_UNAVAILABLE;
    tool_complain("out of memory");
    exit(TOOL_FAILED);
}

/* ---- Once -------------------------------------------------------------------------------------------------------- */

static int print_once(struct source *source)
{
    const struct metrics_settings *set = source->set;
    metrics_print(stdout, &source->snapshot, source->read_s, set->classic ? METRICS_CLASSIC : METRICS_OPENMETRICS,
                  &set->choice);
    return tool_finish_output();
}

/* ---- As a server ------------------------------------------------------------------------------------------------- */

static void install_handlers(sigset_t *while_waiting)
{
    struct sigaction ending = {.sa_handler = on_signal}, ignoring = {.sa_handler = SIG_IGN};
    sigset_t blocked;
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGTERM);
    sigaddset(&blocked, SIGINT);
    sigprocmask(SIG_BLOCK, &blocked, while_waiting);
    sigaction(SIGTERM, &ending, NULL);
    sigaction(SIGINT, &ending, NULL);
    sigaction(SIGPIPE, &ignoring, NULL); /* a client that goes away is no reason to end */
    sigdelset(while_waiting, SIGTERM);
    sigdelset(while_waiting, SIGINT);
}

/* A process that is known by its number does not come back. */
static bool is_over(const struct source *source)
{
    return !source->found && source->set->name == NULL &&
           now_ms() - source->ended_ms >= (int64_t)source->set->linger_s * 1000;
}

static int serve(struct source *source)
{
    char why[TARGET_WHY_BYTES];
    sigset_t while_waiting;
    install_handlers(&while_waiting);
    struct metrics_server *server = metrics_server_start(&source->set->address, render, source, why, sizeof why);
    if (server == NULL) {
        tool_complain("%s", why);
        return TOOL_FAILED;
    }
    if (!source->set->address.loopback)
        tool_complain("warning: %s is not a loopback address: whoever reaches it reads the metrics",
                      metrics_server_url(server));
    printf("Listening on %s\n", metrics_server_url(server));
    const int status = tool_finish_output();
    while (status == TOOL_OK && signal_came == 0 && !is_over(source)) {
        metrics_server_step(server, LOOK_MS, &while_waiting);
        look_for_process(source);
    }
    metrics_server_stop(server);
    return status;
}

/* ---- Options ----------------------------------------------------------------------------------------------------- */

static bool parse_linger(const char *text, unsigned long *linger_s)
{
    char *end;
    errno = 0;
    *linger_s = strtoul(text, &end, 10);
    if (text[0] >= '0' && text[0] <= '9' && *end == '\0' && errno == 0 && *linger_s <= MAX_LINGER_S)
        return true;
    tool_complain("--linger takes 0 to %d seconds, not '%s'", MAX_LINGER_S, text);
    return false;
}

static bool parse_listen(const char *text, struct metrics_settings *set)
{
    set->listens = true;
    if (metrics_parse_address(text, &set->address))
        return true;
    tool_complain("--listen takes PORT, ADDRESS:PORT or [ADDRESS]:PORT, not '%s'", text);
    return false;
}

static bool take_option(int option, struct metrics_settings *set)
{
    switch (option) {
    case 'n':
        set->name = optarg;
        return true;
    case 'l':
        return parse_listen(optarg, set);
    case 'g':
        return parse_linger(optarg, &set->linger_s);
    case 'c':
        return set->classic = true;
    case 'C':
        return set->choice.without_classes = true;
    case 'p':
        return set->choice.label_pid = true;
    case 'N':
        return set->choice.label_name = true;
    case 'h':
        return set->help = true;
    default:
        return false; /* getopt has said why */
    }
}

static bool take_process(int n, char **arguments, struct metrics_settings *set)
{
    if (n + (set->name != NULL) != 1) {
        tool_complain("'hakmem metrics' takes one process: PID or --name NAME");
        return false;
    }
    return process_choose(arguments[0], set->name, &set->pid);
}

static bool parse_arguments(int argc, char **argv, struct metrics_settings *set)
{
    static const struct option options[] = {{"name", required_argument, NULL, 'n'},
                                            {"listen", required_argument, NULL, 'l'},
                                            {"linger", required_argument, NULL, 'g'},
                                            {"classic", no_argument, NULL, 'c'},
                                            {"no-classes", no_argument, NULL, 'C'},
                                            {"label-pid", no_argument, NULL, 'p'},
                                            {"label-name", no_argument, NULL, 'N'},
                                            {"help", no_argument, NULL, 'h'},
                                            {NULL, 0, NULL, 0}};
    int option;
    while ((option = getopt_long(argc, argv, "n:l:h", options, NULL)) != -1)
        if (!take_option(option, set))
            return false;
    if (set->help)
        return true;
    if (set->classic && set->listens) {
        tool_complain("--classic is for printing: a server's clients choose by the header Accept");
        return false;
    }
    return take_process(argc - optind, argv + optind, set);
}

static int metrics_main(int argc, char **argv)
{
    struct metrics_settings set = {.linger_s = DEFAULT_LINGER_S};
    struct source source = {.set = &set};
    char why[TARGET_WHY_BYTES];
    if (!parse_arguments(argc, argv, &set))
        return TOOL_USAGE;
    if (set.help) {
        fputs(metrics_command.help, stdout);
        return tool_finish_output();
    }
    if (!open_source(&source, why, sizeof why)) {
        tool_complain("%s", why);
        return TOOL_USAGE;
    }
    const int status = set.listens ? serve(&source) : print_once(&source);
    close_source(&source);
    return status;
}

const struct tool_command metrics_command = {
    "metrics", metrics_main, "a running program's heap as metrics, for Prometheus",
    "usage: hakmem metrics [--classic] PID\n"
    "       hakmem metrics --listen [ADDRESS:]PORT PID\n"
    "       (or --name NAME instead of PID)\n"
    "\n"
    "Prints the heap of a running process that is on hakmem as OpenMetrics text, or\n"
    "serves it over HTTP at /metrics. The process is not stopped and runs no code\n"
    "for it; it is read when somebody asks, ten times a second at most.\n"
    "\n"
    "  -n, --name NAME    the process with that name. A server then waits for the next\n"
    "                     process of that name whenever one has ended\n"
    "  -l, --listen ADDRESS:PORT\n"
    "                     serve, in OpenMetrics or in Prometheus's classic text format\n"
    "                     as the client asks for. PORT alone means 127.0.0.1; 0 lets\n"
    "                     the system choose. The address is printed\n"
    "      --linger SECONDS\n"
    "                     when the process has ended, answer 503 for so long and then\n"
    "                     end; by default 60\n"
    "      --classic      print the classic text format, for promtool and for the\n"
    "                     textfile collector of node_exporter\n"
    "      --no-classes   leave out what there is one of for each size class\n"
    "      --label-pid, --label-name\n"
    "                     tell the process's number and name in hakmem_process_info\n"
    "  -h, --help         show this text\n"
    "\n"
    "SIGTERM and SIGINT end a server.\n"
    "\n"
    "Exit status:\n"
    "  0  printed; or the server was ended by a signal or by the process's end\n"
    "  1  the output failed, or the server cannot listen\n"
    "  2  wrong options; no such process, no permission, or not on hakmem\n"};
