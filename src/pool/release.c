/* release.c - see release.h.
 * Owns     the SuperSlabs that are to be given back.
 * Called by  the rest of pool/, front/pressure.c.     Calls  arena.h, dirty.h, os.h
 * Threads  lists under the pool lock; system calls outside it.
 * I1  A SuperSlab is in exactly one place: absent (arena), MAPPING or LEAVING (one thread's hands), the pool, the
 * cache (lru.c), a run.
 */
#include "pool/release.h"

#include "meta/arena.h"
#include "os/os.h"
#include "pool/dirty.h"
#include "pool/lru.h"
#include "pool/shared_pool.h"
#include "service/budget.h"
#include "service/config.h"
#include "service/event.h"
#include "service/stats.h"

static struct superslab *_Atomic evicted; /* linked by next; to be given back */

bool release_guard_agrees(const struct superslab *ss)
{
    return (ss->unused_slots | ss->empty_slots) == UINT32_MAX &&
           atomic_load_explicit(&ss->pins, memory_order_acquire) == 0;
}

/* ---- Back to the system ---- */

/* The system has refused to take some SuperSlab back: it is nobody's, and its pages are in memory. */
static _Atomic bool any_refused;

/* What has become of memory that was given back. */
struct given_back {
    bool clean;       /* false: the system has refused, and it is in memory still */
    bool decommitted; /* a fresh mapping lies there */
    bool committed;   /* writable */
};

static struct given_back give_back(char *memory, size_t len_bytes, bool moved, bool committed)
{
    bool charged = os_charges_writable();
    /* Pages that came by remapping sit in a mapping of their own, which only a fresh mapping merges again. Only that ends a charge, too. */
    bool decommitted = (moved || charged) && os_decommit(memory, len_bytes);
    bool clean = decommitted || os_purge(memory, len_bytes);
    if (!clean) /* Locked by mlockall, on an old system: a fresh mapping takes its place. */
        decommitted = clean = os_decommit(memory, len_bytes);
    /* Where protection and advice are the same, mappings merge, of which a process may have some ten thousand. */
    if (decommitted)
        committed = !charged && os_commit(memory, len_bytes);
    if (decommitted && committed && !os_purge(memory, len_bytes)) /* Locked, it is in memory at once. */
        committed = !os_decommit(memory, len_bytes);
    /* Nor is any of it writable then: who takes it closes its slots anyway, and what is writable counts against RLIMIT_DATA, so that none could
     * be opened. Also where not all of it is: of what could not be made so for want of memory some is. Refused, a part may be closed all the
     * same (where several mappings lie there, and the last one had to be cut): who takes it opens it. */
    if ((config.secure & SECURE_GUARD) != 0) {
        os_forbid(memory, len_bytes);
        committed = false;
    }
    return (struct given_back){clean, decommitted, committed};
}

void release_row(struct superslab *ss, uint32_t n)
{
    size_t len_bytes = (size_t)n << SUPERSLAB_SHIFT, leaving_bytes = 0;
    bool moved = false, huge = false, committed = ss->committed;
    for (uint32_t i = 0; i < n && unlikely(budget_is_set()); i++)
        leaving_bytes += superslab_dirty_bytes(&ss[i]);
    if (leaving_bytes != 0)
        budget_note_leaving((int64_t)leaving_bytes);
    for (uint32_t i = 0; i < n; i++) {
        moved |= ss[i].moved;
        huge |= atomic_exchange(&ss[i].huge, 0) != 0;
        ss[i].committed = 0; /* until it is known: a fork's child may take it from here */
    }
    struct given_back given = give_back(superslab_memory(ss), len_bytes, moved, committed);
    /* A program may have asked for huge pages itself, as numpy does for arrays of 4 MiB and more. */
    if (huge || given.decommitted || n > 1)
        os_advise_huge(superslab_memory(ss), len_bytes, false);
    for (uint32_t i = 0; i < n; i++) {
        superslab_forget_slots(ss + i, given.clean);
        ss[i].committed = given.committed;
        if (given.decommitted)
            ss[i].moved = 0;
    }
    if (leaving_bytes != 0)
        budget_note_leaving(-(int64_t)leaving_bytes);
    arena_purge_records(ss, n);
    stats_add(&stats_counters.mapped_bytes, -(uint64_t)len_bytes);
    if (!pool_lock(HAK_LOCK_RELEASE_SLAB))
        return; /* Stays LEAVING: a signal handler in the midst of the lock; address space is lost, no more. */
    arena_put(ss, n);
    if (!given.clean) /* behind it, for who looks takes only what is the arena's */
        atomic_store_explicit(&any_refused, true, memory_order_relaxed); /* relaxed: a hint */
    pool_unlock();
}

/* Of less than a sixteenth in memory it costs as much to bring it there again as to keep account of it. */
static bool is_touched(const struct superslab *ss)
{
    return os_resident_bytes(superslab_memory(ss), SUPERSLAB_BYTES) >= SUPERSLAB_BYTES / 16;
}

/* mincore is not among the calls of systemd's @system-service, say. Who switches the helper off may have a filter that allows even
 * less than to ask for it. */
bool release_may_ask(uint32_t n)
{
    return n <= RELEASE_ASK_MAX_SUPERSLABS && config.purge_delay_ms >= 0 && config.background &&
           !os_calls_are_filtered();
}

void release_untouched(struct superslab *ss, uint32_t n)
{
    if (!release_may_ask(n))
        return;
    for (uint32_t i = 0, end; i < n; i = end + 1) {
        for (end = i; end < n && !is_touched(ss + end);)
            end++;
        /* Purged even if nothing is in memory: what has been swapped out is not, and does not read as zero. */
        if (end > i && os_purge(superslab_memory(ss + i), (size_t)(end - i) << SUPERSLAB_SHIFT))
            for (uint32_t k = i; k < end; k++)
                superslab_forget_slots(ss + k, true);
    }
}

void superslab_purge(struct superslab *ss, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        if (!superslab_is_clean(ss + i) && os_purge(superslab_memory(ss + i), SUPERSLAB_BYTES))
            superslab_forget_slots(ss + i, true);
}

static void release_superslab(struct superslab *ss)
{
    EVENT("superslab eager free ss=%p cached=%u", superslab_memory(ss), lru_count());
    stats_add(&stats_counters.superslabs_released_total, 1);
    release_row(ss, 1);
}

void release_detached_and_unlock(struct superslab *ss)
{
    bool eager = release_guard_agrees(ss);
    if (!eager)
        lru_push(ss, 1);
    pool_unlock();
    if (eager)
        release_superslab(ss);
    else
        release_evicted();
}

void release_later(struct superslab *ss, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        ss[i].state = SUPERSLAB_LEAVING;
    ss->run_superslabs = n;
    ss->next = atomic_load_explicit(&evicted, memory_order_relaxed); /* relaxed: under the lock */
    atomic_store_explicit(&evicted, ss, memory_order_relaxed);
}

void release_forget(void)
{
    atomic_store_explicit(&evicted, NULL, memory_order_relaxed); /* relaxed: the caller is the only thread */
}

void release_evicted(void)
{
    for (;;) {
        /* relaxed look without the lock: a miss is somebody else's to give back */
        if (atomic_load_explicit(&evicted, memory_order_relaxed) == NULL || !pool_lock(HAK_LOCK_RELEASE_SLAB))
            return;
        struct superslab *ss = atomic_load_explicit(&evicted, memory_order_relaxed);
        if (ss != NULL)
            atomic_store_explicit(&evicted, ss->next, memory_order_relaxed);
        pool_unlock();
        if (ss == NULL)
            return;
        ss->next = NULL;
        EVENT("superslab evicted ss=%p count=%u", superslab_memory(ss), ss->run_superslabs);
        stats_add(&stats_counters.superslabs_evicted_total, ss->run_superslabs);
        release_row(ss, ss->run_superslabs);
    }
}

/* Takes a SuperSlab that is nobody's and has pages out of the arena. */
static bool take_refused(struct superslab *ss)
{
    if (!pool_lock(HAK_LOCK_TRIM))
        return false;
    bool taken = ss->state == SUPERSLAB_ABSENT && !superslab_is_clean(ss) && arena_take_at(ss->arena, ss->index, 1);
    if (taken)
        ss->state = SUPERSLAB_LEAVING;
    pool_unlock();
    return taken;
}

void release_refused(void)
{
    if (!atomic_exchange(&any_refused, false))
        return;
    for (struct arena *arena = arena_first(); arena != NULL; arena = arena_next(arena))
        for (uint32_t i = 0; i < atomic_load_explicit(&arena->high, memory_order_acquire); i++) {
            struct superslab *ss = &arena->superslabs[i];
            if (ss->arena == NULL || !take_refused(ss)) /* the former: never used */
                continue;
            stats_add(&stats_counters.mapped_bytes, SUPERSLAB_BYTES);
            release_row(ss, 1);
        }
}

bool release_waiting(void)
{
    if (shared_pool_idle_bytes() == 0)
        return false;
    shared_pool_retire_idle();
    lru_drain();
    return true;
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

void superslab_count_mapped(uint32_t n)
{
    stats_add(&stats_counters.superslabs_mapped_total, n);
    stats_add(&stats_counters.mapped_bytes, (uint64_t)n << SUPERSLAB_SHIFT);
}

struct superslab *superslab_map(uint32_t n, size_t alignment)
{
    struct superslab *ss = take_from_arena(n, alignment);
    if (ss == NULL && release_waiting())
        ss = take_from_arena(n, alignment);
    if (ss != NULL)
        superslab_count_mapped(n);
    return ss;
}
