/* override_limit.c - libc's functions that set limits: a process that limits its own address space gives up what was reserved of it.
 * Owns     nothing.     Called by  programs     Calls  the kernel, arena.h under the pool lock
 * Threads  any; signal handlers.
 *
 * The kernel counts what is reserved, and refuses every mapping to a process that is over its limit: no thread would start any more.
 * A child of vfork, which sets a limit for the program that it is about to call, has its parent's memory, and gives up nothing.
 */
#include "meta/arena.h"
#include "os/os.h"
#include "os/system_call.h"
#include "pool/shared_pool.h"

#include <sys/resource.h>

#define EXPORT __attribute__((visibility("default")))

static int set_limit(pid_t process, int resource, const struct rlimit *limit, struct rlimit *before)
{
    int status = (int)system_call(SYS_prlimit64, process, resource, (long)limit, (long)before, 0, 0);
    if (status == 0 && limit != NULL && resource == RLIMIT_AS && limit->rlim_cur != RLIM_INFINITY &&
        os_is_own_process(process) && pool_lock(HAK_LOCK_METADATA)) {
        arena_fit_limit((size_t)limit->rlim_cur);
        pool_unlock();
    }
    return status;
}

/* Both kinds of struct are one: offsets have 64 bits. */
_Static_assert(sizeof(struct rlimit) == sizeof(struct rlimit64), "as prlimit64 has it");

EXPORT int setrlimit(__rlimit_resource_t resource, const struct rlimit *limit)
{
    return set_limit(0, (int)resource, limit, NULL);
}

EXPORT int setrlimit64(__rlimit_resource_t resource, const struct rlimit64 *limit)
{
    return set_limit(0, (int)resource, (const struct rlimit *)(const void *)limit, NULL);
}

EXPORT int prlimit(pid_t process, enum __rlimit_resource resource, const struct rlimit *limit, struct rlimit *before)
{
    return set_limit(process, (int)resource, limit, before);
}

EXPORT int prlimit64(pid_t process, enum __rlimit_resource resource, const struct rlimit64 *limit, struct rlimit64 *before)
{
    return set_limit(process, (int)resource, (const struct rlimit *)(const void *)limit, (struct rlimit *)(void *)before);
}
