/* write.c - writing that raises no signal: os_write of os.h.
 * Owns     nothing.     Called by  os_linux.c (stderr), api/printing.c and api/profile.c (files)
 * Calls    write, pthread_sigmask, sigtimedwait; thread_status.c
 * Threads  any; signal handlers, the end of the process. Does not allocate.
 * Source   POSIX write(): EPIPE comes with SIGPIPE, EFBIG at the limit on the size of files with SIGXFSZ, both to the thread
 *          that writes. Linux takes a thread's own pending signals before those of the process.
 * I1  The thread's mask and pending signals are afterwards what they were, except as told at `leave_as_it_was`.
 *
 * The program did not ask for what we write, so it must neither end nor have its handler called for a reader that has gone or
 * a limit that it has set to itself. The two signals are blocked for the thread while it writes, and the one that came of
 * our own write is taken before it is let through again.
 *
 * What it takes to see more than that is asked of a file (thread_status.c), not of sigpending, and only when something hangs on it.
 */
#include "os/os.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <time.h>
#include <unistd.h>

struct signals {
    bool blocked;     /* by us; false where a filter refuses it: then all is as it was */
    sigset_t mask;    /* the thread's before */
    uint64_t pending; /* what waited for the thread alone before, bit by bit; all bits: it cannot be seen */
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
        before->pending = os_thread_status("SigPnd:", 16);
}

/* Takes the signal if it is pending. False: to try could end the process. */
static COLD bool take(int number)
{
    const struct timespec at_once = {0};
    sigset_t one;
    if (os_calls_are_filtered_by_file())
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
