/* leave.c - part of the library in builds that measure coverage (HAKMEM_COVERAGE): a process that leaves by _exit or abort,
 * as most children of tests do, writes its counts, too. One that a signal ends writes none.
 * _exit and _Exit take the place of libc's; abort does, too, and ends by the same signal.
 */
#include <signal.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))

void __gcov_dump(void);

/* A handler may leave while this thread writes. */
static void dump(void)
{
    static __thread int inside;
    if (inside == 0) {
        inside = 1;
        __gcov_dump();
    }
}

EXPORT void _exit(int status)
{
    dump();
    for (;;)
        syscall(SYS_exit_group, status);
}

EXPORT void _Exit(int status)
{
    _exit(status);
}

/* Only a handler of the program can come between: without one the process is gone after the first raise. */
EXPORT void abort(void)
{
    dump();
    raise(SIGABRT);
    signal(SIGABRT, SIG_DFL);
    raise(SIGABRT);
    for (;;)
        syscall(SYS_exit_group, 127);
}
