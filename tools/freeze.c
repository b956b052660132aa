/* freeze.c - see freeze.h.
 * Owns       the guard process, this process's handlers of the signals that end it.     Called by  check.c, profile_live.c
 * Calls      turn.h, libc, the proc file system.     Threads  one; the handler calls what is async-signal-safe.
 * I1  From before the first SIGSTOP until after the last SIGCONT there is a guard, which sends SIGCONT when the pipe from this
 *     process closes, for whatever reason.
 * I2  One command at a time stops a process: SIGCONT of the first would let it run while another one takes it to stand.
 * Why a descriptor of the process and not its number: the number may come to mean another process, which nobody asked to continue.
 */
#define _GNU_SOURCE
#include "freeze.h"

#include "turn.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum {
    STOP_MS = 2000,    /* that all threads have to stop */
    TRACED_MS = 10000, /* if one is traced: each of its steps waits until its tracer has run */
    ROUND_US = 500,    /* from one look whether they do to the next */
    APART_MS = 50,     /* two looks: strace, on a busy machine, may take that long to let a thread go on */
    TURN_SECONDS = 30, /* to wait for another command: longer than check waits for a thread */
    STATUS_BYTES = 8192
};

static const int ending_signals[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGPIPE, SIGALRM};
enum { N_ENDING_SIGNALS = sizeof ending_signals / sizeof ending_signals[0] };

static struct {
    pid_t pid;
    int process; /* its descriptor; -1: the system has none (Linux before 5.3), then the number serves */
    pid_t guard;
    int guard_pipe; /* held open as long as this process lives */
    int turn;       /* the guard has it too: the next command waits until that has sent SIGCONT */
    bool was_stopped;
    bool is_traced; /* as the last look at its threads found */
    volatile sig_atomic_t is_stopped;
    struct sigaction before[N_ENDING_SIGNALS];
} frozen = {.process = -1, .guard_pipe = -1, .turn = TURN_UNKNOWN};

static uint64_t now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static int send(int number)
{
    if (frozen.process >= 0)
        return (int)syscall(SYS_pidfd_send_signal, frozen.process, number, NULL, 0);
    return kill(frozen.pid, number);
}

/* ---- Whether it stands -------------------------------------------------------------------------------------------- */

/* What a look at all threads has seen. */
struct stand {
    bool all;            /* stand: none runs or sleeps */
    bool stopped;        /* one of them by a signal, which comes to the others, too */
    bool traced;         /* one of them by the hand of a debugger or of strace */
    unsigned n;          /* that have not ended */
    uint64_t n_switches; /* of theirs, so far, from one thread to another: one that goes on and stands again has more */
};

/* The number behind a word of /proc/PID/status, 0 if it is not there. */
static uint64_t number_behind(const char *text, const char *word)
{
    const char *found = strstr(text, word);
    return found == NULL ? 0 : strtoull(found + strlen(word), NULL, 10);
}

/* Adds a thread by its status, in which the name has no newline. */
static void add_thread(struct stand *stand, const char *path)
{
    char text[STATUS_BYTES];
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    const ssize_t length = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
    if (fd >= 0)
        close(fd);
    text[length > 0 ? length : 0] = '\0';
    const char *line = strstr(text, "\nState:\t");
    const char state = line == NULL ? 'X' : line[sizeof "\nState:\t" - 1];
    if (state == 'Z' || state == 'X')
        return;
    stand->all &= state == 'T' || state == 't';
    stand->stopped |= state == 'T';
    stand->traced |= state == 't';
    stand->n++;
    stand->n_switches +=
        number_behind(text, "\nvoluntary_ctxt_switches:") + number_behind(text, "\nnonvoluntary_ctxt_switches:");
}

static struct stand look_at(pid_t pid)
{
    char path[320];
    struct stand stand = {.all = true};
    snprintf(path, sizeof path, "/proc/%d/task", (int)pid);
    DIR *tasks = opendir(path);
    const struct dirent *entry;
    while (tasks != NULL && (entry = readdir(tasks)) != NULL) {
        if (!isdigit((unsigned char)entry->d_name[0]))
            continue;
        snprintf(path, sizeof path, "/proc/%d/task/%.200s/status", (int)pid, entry->d_name);
        add_thread(&stand, path);
    }
    stand.all &= tasks != NULL;
    if (tasks != NULL)
        closedir(tasks);
    return stand;
}

/* Whether nothing has changed since it was seen to stand. */
static bool stands_still(pid_t pid, const struct stand *before)
{
    const struct timespec apart = {.tv_nsec = APART_MS * 1000000L};
    nanosleep(&apart, NULL);
    const struct stand now = look_at(pid);
    return now.all && now.n == before->n && now.n_switches == before->n_switches;
}

bool freeze_stands(pid_t pid)
{
    const struct timespec round = {.tv_nsec = ROUND_US * 1000L};
    struct stand stand = look_at(pid);
    for (const uint64_t begin = now_ms(); stand.stopped && !stand.all && now_ms() - begin < APART_MS;) {
        nanosleep(&round, NULL);
        stand = look_at(pid);
    }
    return stand.all && stand.n != 0 && stands_still(pid, &stand);
}

/* Whether no thread runs, of a process that has been sent SIGSTOP or was stopped before. Under strace each stands for a moment at
 * each of its system calls, and a signal is not delivered before that is over. */
static bool all_stand(pid_t pid)
{
    const struct stand stand = look_at(pid);
    frozen.is_traced = stand.traced;
    return stand.all && (!stand.traced || stands_still(pid, &stand));
}

/* ---- The guard ----------------------------------------------------------------------------------------------------- */

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

/* ---- All of it ----------------------------------------------------------------------------------------------------- */

int freeze_begin_unless(const volatile sig_atomic_t *interrupted, pid_t pid, char *why, size_t why_bytes)
{
    frozen.turn = turn_take(TURN_TO_STOP, pid, TURN_SECONDS, interrupted);
    if (frozen.turn == TURN_TAKEN) {
        if (interrupted != NULL && *interrupted != 0)
            snprintf(why, why_bytes, "interrupted before process %d was stopped", (int)pid);
        else
            snprintf(why, why_bytes, "process %d is not stopped: another command has stopped it and has not ended",
                     (int)pid);
        return -1;
    }
    frozen.pid = pid;
    frozen.process = (int)syscall(SYS_pidfd_open, pid, 0);
    frozen.was_stopped = freeze_stands(pid);
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

int freeze_begin(pid_t pid, char *why, size_t why_bytes)
{
    return freeze_begin_unless(NULL, pid, why, why_bytes);
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
    for (const uint64_t begin = now_ms(); now_ms() - begin < (frozen.is_traced ? TRACED_MS : STOP_MS);) {
        if (all_stand(frozen.pid))
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
    turn_end(frozen.turn);
    frozen.process = frozen.guard_pipe = -1;
    frozen.turn = TURN_UNKNOWN;
}
