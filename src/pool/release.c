/* release.c - see release.h.
 * Owns     the LRU cache of empty SuperSlabs.
 * Called by  shared_pool.c, span.c, trim.     Calls  arena.h, os.h
 * Threads  the cache under the pool lock; system calls outside it.
 * I1  A SuperSlab is in exactly one place: absent (arena), MAPPING or LEAVING (one thread's hands), the pool, the
 * cache, a run.
 * I2  Sum of lengths in the cache <= lru_most(), whenever the lock is free and release_evicted has run; but for
 *     entries that were pinned when they should have gone: they leave at the next push or trim after the pin.
 * Why the cache holds rows: what a freed run leaves behind serves the next run, or the pool one by one.
 */
#include "pool/release.h"

#include "meta/arena.h"
#include "os/os.h"
#include "pool/shared_pool.h"
#include "service/config.h"
#include "service/event.h"
#include "service/stats.h"

static struct {
    struct superslab *newest, *oldest;
    _Atomic uint32_t n_superslabs;     /* read by anyone, written under the lock */
    struct superslab *_Atomic evicted; /* linked by next; to be given back */
} lru;

bool release_guard_agrees(const struct superslab *ss)
{
    return (ss->unused_slots | ss->empty_slots) == UINT32_MAX &&
           atomic_load_explicit(&ss->pins, memory_order_acquire) == 0;
}

/* ---- The cache ---- */

static void unlink_cached(struct superslab *ss)
{
    *(ss->previous != NULL ? &ss->previous->next : &lru.newest) = ss->next;
    *(ss->next != NULL ? &ss->next->previous : &lru.oldest) = ss->previous;
    ss->previous = ss->next = NULL;
    lru.n_superslabs -= ss->run_superslabs;
}

static void link_cached(struct superslab *ss, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        ss[i].state = SUPERSLAB_CACHED;
    ss->run_superslabs = n;
    ss->cached_since_ms = os_now_ms();
    ss->previous = NULL;
    ss->next = lru.newest;
    *(lru.newest != NULL ? &lru.newest->previous : &lru.oldest) = ss;
    lru.newest = ss;
    lru.n_superslabs += n;
}

static void set_states(struct superslab *ss, uint32_t n, enum superslab_state state)
{
    for (uint32_t i = 0; i < n; i++)
        ss[i].state = (uint8_t)state;
}

static bool any_pinned(const struct superslab *ss, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        if (atomic_load_explicit(&ss[i].pins, memory_order_acquire) != 0)
            return true;
    return false;
}

static void push_evicted(struct superslab *ss, uint32_t n)
{
    set_states(ss, n, SUPERSLAB_LEAVING);
    ss->run_superslabs = n;
    ss->next = atomic_load_explicit(&lru.evicted, memory_order_relaxed); /* relaxed: under the lock */
    atomic_store_explicit(&lru.evicted, ss, memory_order_relaxed);
}

/* How many SuperSlabs the cache may hold. As time empties it, it may grow with the heap: to a half of what is committed,
 * itself included. (bench_workloads large: 214,000 page faults and a peak of 41 MiB with 4 SuperSlabs, 126,000 and 77 MiB
 * with a half, 121,000 and 319 MiB without a bound; glibc 99,000 and 99 MiB.) */
static size_t lru_most(void)
{
    if (config.purge_delay_ms == 0)
        return config.lru_superslabs;
    size_t n_committed = (size_t)(stats_read(&stats_counters.committed_bytes) / SUPERSLAB_BYTES);
    return max_size(config.lru_superslabs, n_committed / 2);
}

void lru_push(struct superslab *ss, uint32_t n)
{
    size_t most = lru_most();
    if (n > most && !any_pinned(ss, n)) {
        push_evicted(ss, n); /* It would only drive out the others before it goes itself. */
        return;
    }
    link_cached(ss, n);
    struct superslab *victim = lru.oldest;
    while (lru.n_superslabs > most && victim != NULL) {
        struct superslab *newer = victim->previous;
        if (!any_pinned(victim, victim->run_superslabs)) {
            unlink_cached(victim);
            push_evicted(victim, victim->run_superslabs);
        }
        victim = newer;
    }
}

struct superslab *lru_take(uint32_t n, size_t alignment)
{
    for (struct superslab *ss = lru.newest; ss != NULL; ss = ss->next) {
        uint32_t len = ss->run_superslabs;
        if (len < n || ((uintptr_t)superslab_memory(ss) & (alignment - 1)) != 0 || any_pinned(ss, n))
            continue;
        unlink_cached(ss);
        if (len > n)
            link_cached(ss + n, len - n);
        set_states(ss, n, SUPERSLAB_MAPPING);
        return ss;
    }
    return NULL;
}

uint32_t lru_count(void)
{
    return lru.n_superslabs;
}

void lru_forget(void)
{
    lru.newest = lru.oldest = NULL;
    lru.n_superslabs = 0;
    atomic_store_explicit(&lru.evicted, NULL, memory_order_relaxed); /* relaxed: the caller is the only thread */
}

/* ---- Back to the system ---- */

void superslab_forget_slots(struct superslab *ss)
{
    for (unsigned i = 0; i < SUPERSLAB_SLABS && ss->dirty == DIRTY_BY_SLAB; i++) {
        struct slab *slab = superslab_slab(ss, i);
        if (slab_ctl_read(slab) == 0)
            continue;
        slab->last_class = 0;
        atomic_store_explicit(&slab->dirty_pages, 0, memory_order_relaxed); /* relaxed: ctl publishes it */
        atomic_store_explicit(&slab->ctl, 0, memory_order_release);
    }
    if (ss->dirty == DIRTY_BY_SLAB)
        ss->dirty = DIRTY_ALL;
}

static void give_back(struct superslab *ss, uint32_t n)
{
    size_t len_bytes = (size_t)n << SUPERSLAB_SHIFT;
    bool moved = false;
    for (uint32_t i = 0; i < n; i++)
        moved |= ss[i].moved;
    /* Pages that came by remapping sit in a mapping of their own, which only a fresh mapping merges again. */
    bool decommitted = moved && os_decommit(superslab_memory(ss), len_bytes);
    bool clean = decommitted || os_purge(superslab_memory(ss), len_bytes);
    for (uint32_t i = 0; i < n; i++) {
        superslab_forget_slots(ss + i);
        ss[i].dirty = clean ? DIRTY_NONE : DIRTY_ALL;
        if (decommitted) {
            ss[i].committed = 0;
            ss[i].moved = 0;
        }
    }
    stats_commit(-(int64_t)len_bytes);
    if (!pool_lock(HAK_LOCK_RELEASE_SLAB))
        return; /* Stays LEAVING: a signal handler in the midst of the lock; address space is lost, no more. */
    arena_put(ss, n);
    pool_unlock();
}

void release_superslab(struct superslab *ss)
{
    EVENT("superslab eager free ss=%p cached=%u", superslab_memory(ss), lru.n_superslabs);
    stats_add(&stats_counters.superslabs_released_total, 1);
    give_back(ss, 1);
}

void release_evicted(void)
{
    for (;;) {
        /* relaxed look without the lock: a miss is somebody else's to give back */
        if (atomic_load_explicit(&lru.evicted, memory_order_relaxed) == NULL || !pool_lock(HAK_LOCK_RELEASE_SLAB))
            return;
        struct superslab *ss = atomic_load_explicit(&lru.evicted, memory_order_relaxed);
        if (ss != NULL)
            atomic_store_explicit(&lru.evicted, ss->next, memory_order_relaxed);
        pool_unlock();
        if (ss == NULL)
            return;
        ss->next = NULL;
        EVENT("superslab evicted ss=%p count=%u", superslab_memory(ss), ss->run_superslabs);
        stats_add(&stats_counters.superslabs_evicted_total, ss->run_superslabs);
        give_back(ss, ss->run_superslabs);
    }
}

/* The oldest entry that nobody refers to, taken out; NULL when there is none, or it has not been there for delay_ms. */
static struct superslab *take_oldest(uint32_t now_ms, int64_t delay_ms)
{
    struct superslab *ss = lru.oldest;
    while (ss != NULL && any_pinned(ss, ss->run_superslabs))
        ss = ss->previous;
    if (ss == NULL || now_ms - ss->cached_since_ms < (uint64_t)delay_ms)
        return NULL;
    unlink_cached(ss);
    set_states(ss, ss->run_superslabs, SUPERSLAB_LEAVING);
    return ss;
}

void lru_expire(uint32_t now_ms, int64_t delay_ms)
{
    while (delay_ms >= 0 && pool_lock(HAK_LOCK_TRIM)) {
        struct superslab *ss = take_oldest(now_ms, delay_ms);
        pool_unlock();
        if (ss == NULL)
            return;
        stats_add(&stats_counters.superslabs_evicted_total, ss->run_superslabs);
        give_back(ss, ss->run_superslabs);
    }
}

void lru_drain(void)
{
    lru_expire(0, 0);
}

/* ---- From the system ---- */

static struct superslab *take_from_arena(uint32_t n, size_t alignment)
{
    if (!pool_lock(n == 1 ? HAK_LOCK_ACQUIRE_SLAB : HAK_LOCK_SPAN))
        return NULL;
    struct superslab *ss = arena_take(n, alignment);
    pool_unlock();
    return ss;
}

struct superslab *superslab_map(uint32_t n, size_t alignment)
{
    struct superslab *ss = take_from_arena(n, alignment);
    if (ss == NULL && shared_pool_idle_bytes() != 0) { /* What waits may be what is missing. */
        shared_pool_retire_idle();
        lru_drain();
        ss = take_from_arena(n, alignment);
    }
    if (ss != NULL) {
        stats_add(&stats_counters.superslabs_mapped_total, n);
        stats_commit((int64_t)n << SUPERSLAB_SHIFT);
    }
    return ss;
}
