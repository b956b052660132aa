/* idle.c - see idle.h.
 * Owns     the list, and the idle fields of slab records.     Called by  shared_pool.c, purge.c, repair.c (fork)     Calls  nothing.
 * Threads  any, under the pool lock.
 * I1  A slab's idle_waits says whether it is in the list; a slot that holds no slab of a class is not.
 */
#include "pool/idle.h"

#include "os/os.h"

static struct {
    struct slab *newest, *oldest;
    _Atomic size_t n; /* read by anyone, written under the lock */
} idle;

void idle_remove(struct slab *slab)
{
    if (!slab->idle_waits)
        return;
    *(slab->idle.newer != NULL ? &slab->idle.newer->idle.older : &idle.newest) = slab->idle.older;
    *(slab->idle.older != NULL ? &slab->idle.older->idle.newer : &idle.oldest) = slab->idle.newer;
    slab->idle_waits = 0;
    atomic_store_explicit(&idle.n, idle_count() - 1, memory_order_relaxed); /* relaxed: a number, no more */
}

void idle_push(struct slab *slab, uint32_t now_ms)
{
    idle_remove(slab);
    slab->idle_since_ms = now_ms;
    slab->idle_waits = 1;
    slab->idle.newer = NULL;
    slab->idle.older = idle.newest;
    *(idle.newest != NULL ? &idle.newest->idle.newer : &idle.oldest) = slab;
    idle.newest = slab;
    atomic_store_explicit(&idle.n, idle_count() + 1, memory_order_relaxed);
}

struct slab *idle_pop(uint32_t now_ms, int64_t delay_ms)
{
    struct slab *slab = idle.oldest;
    if (slab == NULL || delay_ms < 0 || !os_has_waited(now_ms, slab->idle_since_ms, delay_ms))
        return NULL;
    idle_remove(slab);
    return slab;
}

size_t idle_count(void)
{
    return atomic_load_explicit(&idle.n, memory_order_relaxed);
}

void idle_forget(void)
{
    idle.newest = idle.oldest = NULL;
    atomic_store_explicit(&idle.n, 0, memory_order_relaxed);
}
