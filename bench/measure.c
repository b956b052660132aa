/* measure.c - run one command; report its time and its peak memory as the kernel accounts for them.
 * Usage      measure [-o FILE] [-e NAME=VALUE]... -- COMMAND [ARGUMENT]...
 * Called by  bench/run.sh, bench/compare.sh.     Calls  libc only.     Threads  one.
 * Output     one line, to FILE or else to stderr:
 *            elapsed_s=… user_s=… sys_s=… max_rss_kib=… exit=… signal=…
 *            exit is -1 when a signal ended the command, signal is 0 when none did.
 * Exit       the command's status; 128 + N when signal N ended it; 127 when it was not found, 126 when it could not be
 *            executed, 125 for an error of measure itself.
 * Why -e: Linux charges a process for the memory of the image that calls exec. An `env` or a shell in between would
 * set a floor under the peak of a small program; measure itself is smaller than anything it measures. */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { MAX_ASSIGNMENTS = 32, STATUS_OWN_ERROR = 125, STATUS_NOT_EXECUTABLE = 126, STATUS_NOT_FOUND = 127 };

struct settings {
    const char *output; /* NULL for stderr */
    char *assignments[MAX_ASSIGNMENTS];
    int n_assignments;
    char **command;
};

struct result {
    double elapsed_s;
    int wait_status;
    struct rusage usage;
};

static _Noreturn void die(const char *what, const char *why)
{
    fprintf(stderr, "measure: %s: %s\n", what, why);
    exit(STATUS_OWN_ERROR);
}

static struct settings parse_arguments(int argc, char **argv)
{
    struct settings set = {0};
    int option;
    while ((option = getopt(argc, argv, "+o:e:")) != -1) {
        if (option == 'o')
            set.output = optarg;
        else if (option == 'e' && set.n_assignments == MAX_ASSIGNMENTS)
            die(optarg, "too many assignments");
        else if (option == 'e' && strchr(optarg, '=') == NULL)
            die(optarg, "an assignment is NAME=VALUE");
        else if (option == 'e')
            set.assignments[set.n_assignments++] = optarg;
        else
            exit(STATUS_OWN_ERROR); /* getopt has said why */
    }
    set.command = argv + optind;
    if (set.command[0] == NULL)
        die("usage", "measure [-o FILE] [-e NAME=VALUE]... -- COMMAND [ARGUMENT]...");
    return set;
}

static double now_s(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

static double seconds(struct timeval time)
{
    return (double)time.tv_sec + (double)time.tv_usec * 1e-6;
}

static _Noreturn void become_command(const struct settings *set)
{
    for (int i = 0; i < set->n_assignments; i++)
        putenv(set->assignments[i]);
    execvp(set->command[0], set->command);
    const int status = errno == ENOENT ? STATUS_NOT_FOUND : STATUS_NOT_EXECUTABLE;
    fprintf(stderr, "measure: %s: %s\n", set->command[0], strerror(errno));
    _exit(status);
}

/* The keyboard's signals go to the whole foreground group: the command decides about them, measure reports. */
static struct result run_command(const struct settings *set)
{
    struct result result;
    const double start_s = now_s();
    const pid_t child = fork();
    if (child < 0)
        die("fork", strerror(errno));
    if (child == 0)
        become_command(set);
    signal(SIGINT, SIG_IGN);
    signal(SIGQUIT, SIG_IGN);
    while (wait4(child, &result.wait_status, 0, &result.usage) < 0)
        if (errno != EINTR)
            die("wait4", strerror(errno));
    result.elapsed_s = now_s() - start_s;
    return result;
}

static void report(const struct settings *set, const struct result *result)
{
    const int status = result->wait_status;
    FILE *out = set->output != NULL ? fopen(set->output, "we") : stderr;
    if (out == NULL)
        die(set->output, strerror(errno));
    fprintf(out, "elapsed_s=%.6f user_s=%.6f sys_s=%.6f max_rss_kib=%ld exit=%d signal=%d\n", result->elapsed_s,
            seconds(result->usage.ru_utime), seconds(result->usage.ru_stime), result->usage.ru_maxrss,
            WIFEXITED(status) ? WEXITSTATUS(status) : -1, WIFSIGNALED(status) ? WTERMSIG(status) : 0);
    if (fflush(out) != 0)
        die(set->output != NULL ? set->output : "stderr", strerror(errno));
}

int main(int argc, char **argv)
{
    const struct settings set = parse_arguments(argc, argv);
    const struct result result = run_command(&set);
    report(&set, &result);
    return WIFSIGNALED(result.wait_status) ? 128 + WTERMSIG(result.wait_status) : WEXITSTATUS(result.wait_status);
}
