/* profile_live.h - a heap profile of a running process, from outside.
 */
#ifndef HAKMEM_TOOLS_PROFILE_LIVE_H
#define HAKMEM_TOOLS_PROFILE_LIVE_H

#include "heap_profile.h"

#include <sys/types.h>

struct live_request {
    pid_t pid;
    const char *name;        /* not NULL: the process of this name instead */
    double seconds;          /* to sample it for; 0: begin nothing, read what there is */
    uint64_t interval_bytes; /* 0: the library's default */
    bool stop; /* stop the process for a moment, to reach threads whose caches serve all that they allocate */
};

/* Samples the process for so long, or until SIGINT, SIGTERM or SIGHUP; then ends the session and reads it. NULL, and one line
 * without a newline in `why`: the process cannot be read or does not want to. *pid is a thread of the process whose
 * files in /proc can be read, 0 when it has ended since. */
struct heap_profile *profile_take(const struct live_request *request, pid_t *pid, char *why, size_t why_bytes);

#endif
