/* clock.h - the time that passes, for whoever measures or waits.
 */
#ifndef HAKMEM_TOOLS_CLOCK_H
#define HAKMEM_TOOLS_CLOCK_H

#include <stdint.h>
#include <time.h>

/* Nanoseconds, and seconds, of CLOCK_MONOTONIC. */
static inline int64_t clock_now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static inline double clock_now_seconds(void)
{
    return (double)clock_now_ns() / 1e9;
}

#endif
