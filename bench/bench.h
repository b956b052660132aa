/* bench.h - what the benchmark programs share.
 */
#ifndef HAKMEM_BENCH_BENCH_H
#define HAKMEM_BENCH_BENCH_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* program_invocation_short_name */
#endif
#include <errno.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

/* Ends the process with status 1, from any thread. */
static inline _Noreturn void die(const char *what)
{
    fprintf(stderr, "%s: %s\n", program_invocation_short_name, what);
    _exit(1);
}

static inline double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

#endif
