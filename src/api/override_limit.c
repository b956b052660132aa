/* override_limit.c - libc's functions that set limits: a process that limits its own address space gives up what was reserved of it.
 * Owns     nothing.     Called by  programs     Calls  os.h, arena.h under the pool lock
 * Threads  any; signal handlers.
 *
 * The kernel counts what is reserved, and refuses every mapping to a process that is over its limit: no thread would start any more.
 * A child of vfork, which sets a limit for the program that it is about to call, has its parent's memory, and gives up nothing.
 * Structs are passed on as they are: with and without 64 they are one, for offsets have 64 bits.
 */
#include "meta/arena.h"
#include "os/os.h"
#include "pool/shared_pool.h"

/* Weak: a program that is linked statically may define one of these itself, and take another from here. */
#define EXPORT __attribute__((visibility("default"), weak))

/* As <sys/resource.h> has them, which is for src/os. */
struct rlimit;
struct rlimit64;
int setrlimit(int resource, const struct rlimit *limit);
int setrlimit64(int resource, const struct rlimit64 *limit);
int prlimit(int32_t process, int resource, const struct rlimit *limit, struct rlimit *before);
int prlimit64(int32_t process, int resource, const struct rlimit64 *limit, struct rlimit64 *before);

static int set_limit(int32_t process, int resource, const void *limit, void *before)
{
    int status = os_set_limit(process, resource, limit, before);
    size_t limit_bytes = status == 0 ? os_own_address_limit(process, resource, limit) : SIZE_MAX;
    if (limit_bytes != SIZE_MAX && pool_lock(HAK_LOCK_METADATA)) {
        arena_fit_limit(limit_bytes);
        pool_unlock();
    }
    return status;
}

EXPORT int setrlimit(int resource, const struct rlimit *limit)
{
    return set_limit(0, resource, limit, NULL);
}

EXPORT int setrlimit64(int resource, const struct rlimit64 *limit)
{
    return set_limit(0, resource, limit, NULL);
}

EXPORT int prlimit(int32_t process, int resource, const struct rlimit *limit, struct rlimit *before)
{
    return set_limit(process, resource, limit, before);
}

EXPORT int prlimit64(int32_t process, int resource, const struct rlimit64 *limit, struct rlimit64 *before)
{
    return set_limit(process, resource, limit, before);
}
