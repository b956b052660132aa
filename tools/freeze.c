/* freeze.c - see freeze.h.
 * Owns       the guard process, this process's handlers of the signals that end it.     Called by  check.c
 * Calls      libc, the proc file system.     Threads  one; the handler calls what is async-signal-safe.
 * I1  From before the first SIGSTOP until after the last SIGCONT there is a guard, which sends SIGCONT when the pipe from this
 *     process closes, for whatever reason.
 * Why a descriptor of the process and not its number: the number may come to mean another process, which nobody asked to continue.
 */
#define _GNU_SOURCE
#include "freeze.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { STOP_ROUNDS = 4000, ROUND_US = 500 }; /* two seconds */

static const int ending_signals[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGPIPE, SIGALRM};
enum { N_ENDING_SIGNALS = sizeof ending_signals / sizeof ending_signals[0] };

static struct {
    pid_t pid;
    int process; /* its descriptor; -1: the system has none (Linux before 5.3), then the number serves */
    pid_t guard;
    int guard_pipe; /* held open as long as this process lives */
    bool was_stopped;
    volatile sig_atomic_t is_stopped;
    struct sigaction before[N_ENDING_SIGNALS];
} frozen = {.process = -1, .guard_pipe = -1};

static int send(int number)
{
    if (frozen.process >= 0)
        return (int)syscall(SYS_pidfd_send_signal, frozen.process, number, NULL, 0);
    return kill(frozen.pid, number);
}

/* The state of a thread by /proc, or 0 when it is not there. */
static char state_of(const char *path)
{
    char text[512];
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    const ssize_t length = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
    if (fd >= 0)
        close(fd);
    text[length > 0 ? length : 0] = '\0';
    const char *end = strrchr(text, ')'); /* the name before it may hold anything */
    return end != NULL && end[1] == ' ' ? end[2] : '\0';
}

static bool is_standing(char state)
{
    return state == 'T' || state == 't' || state == 'Z' || state == 'X' || state == '\0';
}

/* Whether no thread of the process runs. */
static bool all_stand(void)
{
    char path[320];
    snprintf(path, sizeof path, "/proc/%d/task", (int)frozen.pid);
    DIR *tasks = opendir(path);
    const struct dirent *entry;
    bool all = true;
    while (tasks != NULL && all && (entry = readdir(tasks)) != NULL) {
        if (!isdigit((unsigned char)entry->d_name[0]))
            continue;
        snprintf(path, sizeof path, "/proc/%d/task/%.200s/stat", (int)frozen.pid, entry->d_name);
        all = is_standing(state_of(path));
    }
    if (tasks != NULL)
        closedir(tasks);
    return all && tasks != NULL;
}

/* The process goes on, and the guard need not see to it: a SIGCONT of its own might come when somebody else has stopped the
 * process for a reason. */
static void tell_guard(void)
{
    const ssize_t told = write(frozen.guard_pipe, "", 1);
    (void)told; /* else it sees the end of the pipe */
}

static void on_ending_signal(int number)
{
    const int saved_errno = errno;
    freeze_continue();
    tell_guard();
    for (int i = 0; i < N_ENDING_SIGNALS; i++)
        if (ending_signals[i] == number)
            sigaction(number, &frozen.before[i], NULL);
    raise(number); /* now it does what it would have done */
    errno = saved_errno;
}

/* The guard's life. Ends when the other end of the pipe is closed, or tells that the process goes on. */
__attribute__((noreturn)) static void guard(int pipe_end)
{
    char byte;
    for (int i = 0; i < N_ENDING_SIGNALS; i++)
        signal(ending_signals[i], SIG_IGN);
    setsid(); /* out of the reach of the terminal's signals */
    ssize_t n;
    do
        n = read(pipe_end, &byte, 1);
    while (n < 0 && errno == EINTR);
    if (n == 0)
        send(SIGCONT);
    _exit(0);
}

static bool start_guard(void)
{
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0)
        return false;
    fflush(NULL); /* what is buffered is this process's to write */
    frozen.guard = fork();
    if (frozen.guard == 0) {
        close(ends[1]);
        guard(ends[0]);
    }
    close(ends[0]);
    frozen.guard_pipe = ends[1];
    if (frozen.guard > 0)
        return true;
    close(ends[1]);
    frozen.guard_pipe = -1;
    return false;
}

int freeze_begin(pid_t pid, char *why, size_t why_bytes)
{
    char path[64];
    frozen.pid = pid;
    frozen.process = (int)syscall(SYS_pidfd_open, pid, 0);
    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    frozen.was_stopped = state_of(path) == 'T' || state_of(path) == 't';
    if (frozen.was_stopped)
        return 0;
    if (!start_guard()) {
        snprintf(why, why_bytes, "process %d is not stopped: nobody could make sure that it goes on: %s", (int)pid,
                 strerror(errno));
        freeze_end();
        return -1;
    }
    const struct sigaction action = {.sa_handler = on_ending_signal};
    for (int i = 0; i < N_ENDING_SIGNALS; i++) {
        sigaction(ending_signals[i], NULL, &frozen.before[i]);
        if (frozen.before[i].sa_handler != SIG_IGN) /* else it ends nothing, as nohup wants */
            sigaction(ending_signals[i], &action, NULL);
    }
    return 0;
}

int freeze_stop(char *why, size_t why_bytes)
{
    const struct timespec round = {0, ROUND_US * 1000L};
    if (!frozen.was_stopped) {
        frozen.is_stopped = 1; /* before it is: better one SIGCONT too many */
        if (send(SIGSTOP) != 0) {
            snprintf(why, why_bytes, "process %d cannot be stopped: %s", (int)frozen.pid, strerror(errno));
            freeze_continue();
            return -1;
        }
    }
    for (int i = 0; i < STOP_ROUNDS; i++) {
        if (all_stand())
            return 0;
        nanosleep(&round, NULL);
    }
    freeze_continue();
    snprintf(why, why_bytes, "process %d does not stop: a thread of it waits in the kernel, or it has ended",
             (int)frozen.pid);
    return -1;
}

void freeze_continue(void)
{
    if (frozen.is_stopped == 0)
        return;
    send(SIGCONT);
    frozen.is_stopped = 0;
}

void freeze_end(void)
{
    freeze_continue();
    if (frozen.guard_pipe >= 0) {
        tell_guard();
        close(frozen.guard_pipe);
        while (waitpid(frozen.guard, NULL, 0) < 0 && errno == EINTR)
            continue;
        for (int i = 0; i < N_ENDING_SIGNALS; i++)
            sigaction(ending_signals[i], &frozen.before[i], NULL);
    }
    if (frozen.process >= 0)
        close(frozen.process);
    frozen.process = frozen.guard_pipe = -1;
}
