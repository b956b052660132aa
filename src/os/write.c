/* write.c - writing that raises no signal: os_write of os.h.
 * Owns     nothing.     Called by  threads.c (stderr), api/printing.c and api/profile.c (files)
 * Calls    write, pthread_sigmask, sigtimedwait; /proc/thread-self/status
 * Threads  any; signal handlers, the end of the process. Does not allocate.
 * Source   POSIX write(): EPIPE comes with SIGPIPE, EFBIG at the limit on the size of files with SIGXFSZ, both to the thread
 *          that writes. Linux takes a thread's own pending signals before those of the process.
 * I1  The thread's mask and pending signals are afterwards what they were, except as told at `leave_as_it_was`.
 *
 * The program did not ask for what we write, so it must neither end nor have its handler called for a reader that has gone or
 * a limit that it has set to itself. The two signals are blocked for the thread while it writes, and the one that came of
 * our own write is taken before it is let through again.
 *
 * What it takes to see more than that is asked of a file, not of prctl and sigpending, and only when something hangs on it.
 * Under a filter of system calls any call may end the process, and sshd's, for one, kills for those two, and for
 * sigtimedwait; but files are opened by libc in so many places (glibc's malloc does) that filters refuse it at worst.
 */
#include "os/system_call.h"
#include "os/os.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define UNKNOWN UINT64_MAX

/* A number that the system tells of the calling thread. UNKNOWN: it cannot be seen. */
static COLD uint64_t thread_status(const char *heading, int base)
{
    char piece[256], line[32]; /* what is longer is of no interest */
    size_t len = 0, heading_len = strlen(heading);
    uint64_t number = UNKNOWN;
    ssize_t n;
    int file = file_open("/proc/thread-self/status", O_RDONLY, 0);
    while (file >= 0 && number == UNKNOWN && (n = file_read(file, piece, sizeof piece)) > 0)
        for (ssize_t i = 0; i < n; i++) {
            if (piece[i] != '\n') {
                line[len] = piece[i];
                len += len < sizeof line - 1;
                continue;
            }
            line[len] = 0;
            len = 0;
            if (strncmp(line, heading, heading_len) == 0)
                number = strtoull(line + heading_len, NULL, base);
        }
    if (file >= 0)
        file_close(file);
    return number;
}

struct signals {
    bool blocked;     /* by us; false where a filter refuses it: then all is as it was */
    sigset_t mask;    /* the thread's before */
    uint64_t pending; /* what waited for the thread alone before, bit by bit; UNKNOWN is all bits */
};

/* A signal that was not blocked cannot have been pending. */
static COLD void block(struct signals *before)
{
    sigset_t both;
    sigemptyset(&both);
    sigaddset(&both, SIGPIPE);
    sigaddset(&both, SIGXFSZ);
    before->blocked = pthread_sigmask(SIG_BLOCK, &both, &before->mask) == 0;
    before->pending = 0;
    if (before->blocked && (sigismember(&before->mask, SIGPIPE) || sigismember(&before->mask, SIGXFSZ)))
        before->pending = thread_status("SigPnd:", 16);
}

COLD bool os_file_tells_of_filter(void)
{
    int saved_errno = errno;
    bool none = thread_status("Seccomp:", 10) == 0;
    errno = saved_errno;
    return !none;
}

/* Takes the signal if it is pending. False: to try could end the process. */
static COLD bool take(int number)
{
    const struct timespec at_once = {0};
    sigset_t one;
    if (os_file_tells_of_filter())
        return false;
    sigemptyset(&one);
    sigaddset(&one, number);
    sigtimedwait(&one, NULL, &at_once);
    return true;
}

/* The mask is what it was, but for a signal that could not be taken, under a filter of system calls or without /proc: it stays
 * blocked in this thread. The program goes on, and later writes of its own fail without the signal. */
static COLD void leave_as_it_was(struct signals *before, int error)
{
    int raised = error == EPIPE ? SIGPIPE : error == EFBIG ? SIGXFSZ : 0;
    if (!before->blocked)
        return;
    if (raised != 0 && (before->pending >> (raised - 1) & 1) == 0 && !take(raised))
        sigaddset(&before->mask, raised);
    pthread_sigmask(SIG_SETMASK, &before->mask, NULL);
}

static COLD int write_all(int file, const char *text, size_t len_bytes)
{
    while (len_bytes > 0) {
        ssize_t n = write(file, text, len_bytes);
        if (n == 0)
            return EIO;
        if (n < 0 && errno != EINTR)
            return errno;
        text += n < 0 ? 0 : n;
        len_bytes -= n < 0 ? 0 : (size_t)n;
    }
    return 0;
}

COLD int os_write(int file, const char *text, size_t len_bytes)
{
    struct signals before;
    int saved_errno = errno, cancel_state;
    /* Else a thread that is cancelled in here would run its clean-up with the signals blocked. */
    pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &cancel_state);
    block(&before);
    int error = write_all(file, text, len_bytes);
    leave_as_it_was(&before, error);
    pthread_setcancelstate(cancel_state, NULL);
    errno = saved_errno;
    return error;
}
