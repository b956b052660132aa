/* release.c - see release.h.
 * Owns     the LRU cache of empty SuperSlabs.
 * Called by  shared_pool.c, purge.c, span.c, trim.     Calls  arena.h, os.h
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
#include "service/budget.h"
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

/* Makes n SuperSlabs a row. The last record of a row, too, tells its length: so its neighbour finds the first. */
static void make_row(struct superslab *ss, uint32_t n)
{
    set_states(ss, n, SUPERSLAB_CACHED);
    ss->run_superslabs = ss[n - 1].run_superslabs = n;
    lru.n_superslabs += n;
}

/* Enters SuperSlabs in a row; of those that touch a row one with it is made, unless there are references to either. */
static void link_newest(struct superslab *ss, uint32_t n)
{
    bool free = !any_pinned(ss, n);
    if (free && ss->index + n < atomic_load(&ss->arena->high) && ss[n].state == SUPERSLAB_CACHED &&
        !any_pinned(ss + n, ss[n].run_superslabs)) {
        unlink_cached(ss + n);
        n += ss[n].run_superslabs;
    }
    uint32_t before = free && ss->index > 0 && ss[-1].state == SUPERSLAB_CACHED ? ss[-1].run_superslabs : 0;
    if (before != 0 && !any_pinned(ss - before, before)) {
        ss -= before;
        unlink_cached(ss);
        n += before;
    }
    make_row(ss, n);
    ss->previous = NULL;
    ss->next = lru.newest;
    *(lru.newest != NULL ? &lru.newest->previous : &lru.oldest) = ss;
    lru.newest = ss;
}

/* Enters what is left of a row that was the oldest. */
static void link_oldest(struct superslab *ss, uint32_t n)
{
    make_row(ss, n);
    ss->next = NULL;
    ss->previous = lru.oldest;
    *(lru.oldest != NULL ? &lru.oldest->next : &lru.newest) = ss;
    lru.oldest = ss;
}

static void push_evicted(struct superslab *ss, uint32_t n)
{
    set_states(ss, n, SUPERSLAB_LEAVING);
    ss->run_superslabs = n;
    ss->next = atomic_load_explicit(&lru.evicted, memory_order_relaxed); /* relaxed: under the lock */
    atomic_store_explicit(&lru.evicted, ss, memory_order_relaxed);
}

/* How many SuperSlabs the cache may hold. As time empties it, it may grow with the heap: to a quarter of what is
 * mapped, itself included. (bench_workloads large: 63 ms and a peak of 103 MiB with a half, 69 ms and 90 MiB with a
 * third, 74 ms and 74 MiB with a quarter; glibc 273 ms and 99 MiB.) */
static size_t lru_most(void)
{
    if (budget_presses())
        return 0;
    if (config.purge_delay_ms == 0)
        return config.lru_superslabs;
    size_t n_mapped = (size_t)(stats_read(&stats_counters.mapped_bytes) / SUPERSLAB_BYTES);
    return max_size(config.lru_superslabs, n_mapped / 4);
}

void lru_push(struct superslab *ss, uint32_t n)
{
    size_t most = lru_most();
    if ((n > most || !ss->committed) && !any_pinned(ss, n)) {
        push_evicted(ss, n); /* It would only drive out the others before it goes itself; or nobody could use it. */
        return;
    }
    for (uint32_t i = 0, now_ms = os_now_ms(); i < n; i++)
        ss[i].cached_since_ms = now_ms;
    link_newest(ss, n);
    struct superslab *victim = lru.oldest;
    while (lru.n_superslabs > most && victim != NULL) {
        struct superslab *newer = victim->previous;
        uint32_t len = victim->run_superslabs, too_many = lru.n_superslabs - (uint32_t)most;
        if (!any_pinned(victim, len)) {
            uint32_t keep = len > too_many ? len - too_many : 0;
            unlink_cached(victim);
            push_evicted(victim + keep, len - keep);
            if (keep != 0)
                link_oldest(victim, keep);
        }
        victim = newer;
    }
}

/* Takes n SuperSlabs from number `first` on out of a row. */
static void take_out(struct superslab *ss, uint32_t first, uint32_t n, enum superslab_state state)
{
    uint32_t len = ss->run_superslabs;
    unlink_cached(ss);
    set_states(ss, len, state);
    if (first > 0)
        link_newest(ss, first);
    if (len > first + n)
        link_newest(ss + first + n, len - first - n);
}

/* Where n SuperSlabs on a multiple of alignment begin in a row: the number of the first; its length when they do not fit. */
static uint32_t fit_in_row(const struct superslab *ss, uint32_t n, size_t alignment)
{
    uint32_t len = ss->run_superslabs;
    uintptr_t from = (uintptr_t)superslab_memory(ss);
    uintptr_t skip = ((from + alignment - 1) & ~(alignment - 1)) - from;
    return skip >> SUPERSLAB_SHIFT < len && len - (uint32_t)(skip >> SUPERSLAB_SHIFT) >= n
               ? (uint32_t)(skip >> SUPERSLAB_SHIFT)
               : len;
}

struct superslab *lru_take(uint32_t n, size_t alignment)
{
    /* The shortest row that will do, the youngest of those: long ones are for long blocks. */
    struct superslab *best = NULL;
    for (struct superslab *ss = lru.newest; ss != NULL && (best == NULL || best->run_superslabs > n); ss = ss->next)
        if ((best == NULL || ss->run_superslabs < best->run_superslabs) &&
            fit_in_row(ss, n, alignment) != ss->run_superslabs && !any_pinned(ss, ss->run_superslabs))
            best = ss;
    if (best == NULL)
        return NULL;
    uint32_t skip = fit_in_row(best, n, alignment);
    take_out(best, skip, n, SUPERSLAB_MAPPING);
    return best + skip;
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

bool superslab_is_clean(const struct superslab *ss)
{
    return !ss->dirty_by_slab && ss->dirty_prefix_bytes == 0;
}

size_t superslab_dirty_bytes(const struct superslab *ss)
{
    if (ss->state != SUPERSLAB_POOLED && !ss->dirty_by_slab)
        return ss->dirty_prefix_bytes;
    size_t sum_bytes = 0;
    for (unsigned i = 0; i < SUPERSLAB_SLABS; i++)
        sum_bytes += slab_dirty_bytes(superslab_slab(ss, i));
    return sum_bytes;
}

void superslab_extend_dirty(struct superslab *ss, size_t len_bytes)
{
    if (len_bytes <= ss->dirty_prefix_bytes)
        return;
    stats_commit((int64_t)(len_bytes - ss->dirty_prefix_bytes));
    ss->dirty_prefix_bytes = (uint32_t)len_bytes;
}

void superslab_cut_dirty(struct superslab *ss, size_t len_bytes)
{
    if (len_bytes >= ss->dirty_prefix_bytes)
        return;
    stats_commit(-(int64_t)(ss->dirty_prefix_bytes - len_bytes));
    ss->dirty_prefix_bytes = (uint32_t)len_bytes;
}

void superslab_forget_slots(struct superslab *ss, bool gone)
{
    size_t dirty_bytes = superslab_dirty_bytes(ss), prefix_bytes = ss->dirty_prefix_bytes;
    for (unsigned i = 0; i < SUPERSLAB_SLABS && ss->dirty_by_slab; i++) {
        struct slab *slab = superslab_slab(ss, i);
        if (slab_ctl_read(slab) == 0)
            continue;
        unsigned dirty = atomic_load_explicit(&slab->dirty_pages, memory_order_relaxed);
        if (dirty != 0)
            prefix_bytes = i * SLAB_BYTES + (32 - (size_t)__builtin_clz(dirty)) * slab_page_bytes();
        slab->last_class = 0;
        atomic_store_explicit(&slab->dirty_pages, 0, memory_order_relaxed); /* relaxed: ctl publishes it */
        atomic_store_explicit(&slab->ctl, 0, memory_order_release);
    }
    if (gone)
        prefix_bytes = 0;
    ss->dirty_by_slab = 0;
    ss->dirty_prefix_bytes = (uint32_t)prefix_bytes;
    if (prefix_bytes != dirty_bytes)
        stats_commit((int64_t)prefix_bytes - (int64_t)dirty_bytes);
}

/* The system has refused to take some SuperSlab back: it is nobody's, and its pages are in memory. */
static _Atomic bool any_refused;

static void give_back(struct superslab *ss, uint32_t n)
{
    size_t len_bytes = (size_t)n << SUPERSLAB_SHIFT;
    bool moved = false, huge = false;
    for (uint32_t i = 0; i < n; i++) {
        moved |= ss[i].moved;
        huge |= atomic_exchange(&ss[i].huge, 0) != 0;
    }
    /* Pages that came by remapping sit in a mapping of their own, which only a fresh mapping merges again. */
    bool decommitted = moved && os_decommit(superslab_memory(ss), len_bytes);
    bool clean = decommitted || os_purge(superslab_memory(ss), len_bytes);
    /* Where protection and advice are the same, mappings merge, of which a process may have some ten thousand. */
    bool committed = decommitted ? os_commit(superslab_memory(ss), len_bytes) : ss->committed;
    if (huge || decommitted)
        os_advise_huge(superslab_memory(ss), len_bytes, false);
    if (!clean)
        atomic_store_explicit(&any_refused, true, memory_order_relaxed); /* relaxed: a hint */
    for (uint32_t i = 0; i < n; i++) {
        superslab_forget_slots(ss + i, clean);
        ss[i].committed = committed;
        if (decommitted)
            ss[i].moved = 0;
    }
    arena_purge_records(ss, n);
    stats_add(&stats_counters.mapped_bytes, -(uint64_t)len_bytes);
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

/* The SuperSlabs of a row that have been there for delay_ms: sets how many follow each other, and returns the number of the
 * first; the row's length when there is none. */
static uint32_t find_expired(const struct superslab *ss, uint32_t now_ms, int64_t delay_ms, uint32_t *n)
{
    uint32_t len = ss->run_superslabs, first = 0;
    while (first < len && now_ms - ss[first].cached_since_ms < (uint64_t)delay_ms)
        first++;
    uint32_t end = first;
    while (end < len && now_ms - ss[end].cached_since_ms >= (uint64_t)delay_ms)
        end++;
    *n = end - first;
    return first;
}

/* SuperSlabs in a row that nobody refers to and that have been there for delay_ms, taken out; NULL when there are none. */
static struct superslab *take_expired(uint32_t now_ms, int64_t delay_ms, uint32_t *n)
{
    for (struct superslab *ss = lru.oldest; ss != NULL; ss = ss->previous) {
        uint32_t len = ss->run_superslabs;
        uint32_t first = any_pinned(ss, len) ? len : find_expired(ss, now_ms, delay_ms, n);
        if (first == len)
            continue;
        take_out(ss, first, *n, SUPERSLAB_LEAVING);
        return ss + first;
    }
    return NULL;
}

void lru_expire(uint32_t now_ms, int64_t delay_ms)
{
    while (delay_ms >= 0 && pool_lock(HAK_LOCK_TRIM)) {
        uint32_t n;
        struct superslab *ss = take_expired(now_ms, delay_ms, &n);
        pool_unlock();
        if (ss == NULL)
            return;
        stats_add(&stats_counters.superslabs_evicted_total, n);
        give_back(ss, n);
    }
}

/* Takes a SuperSlab that is nobody's and has pages out of the arena. */
static bool take_refused(struct superslab *ss)
{
    if (!pool_lock(HAK_LOCK_TRIM))
        return false;
    bool taken = ss->state == SUPERSLAB_ABSENT && !superslab_is_clean(ss) && arena_take_behind(ss, 0, 1);
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
            give_back(ss, 1);
        }
}

void lru_drain(void)
{
    lru_expire(0, 0);
}

/* ---- From the system ---- */

/* A heap that has grown to so much may hold a huge page of which not all is used: a sixteenth of it at most.
 * (bench_random_mixed 10000000 1000000: 0.80 of the time, for 0.7 % more memory.) */
#define HUGE_HEAP_BYTES (32 * MIB)
/* What tells how densely the next SuperSlab will be used: of the slabs in so many before it, the pages handed out. */
#define DENSITY_SUPERSLABS 16

/* A larger block may be meant to stay empty for the most part: a huge page for each touch would be ruinous. */
#define HUGE_RUN_MAX_BYTES (64 * MIB)

/* Whether slabs are filled as the heap grows: threads that each begin a slab per class touch a few pages of each, and huge
 * pages would make them use all (bench_workloads threads_100: 58 MiB instead of 9). */
static bool grows_densely(const struct superslab *fresh)
{
    unsigned n_slabs = 0, n_pages = 0, n_all = count_bits(slab_all_pages());
    const struct superslab *first = fresh - (fresh->index < DENSITY_SUPERSLABS ? fresh->index : DENSITY_SUPERSLABS);
    for (const struct superslab *ss = first; ss < fresh; ss++) {
        if (atomic_load_explicit(&ss->state, memory_order_acquire) != SUPERSLAB_POOLED)
            continue;
        for (unsigned i = 0; i < SUPERSLAB_SLABS; i++) {
            const struct slab *slab = superslab_slab(ss, i);
            enum slab_state state = CTL_STATE(slab_ctl_read(slab));
            if (state != SLAB_OWNED && state != SLAB_PARTIAL && state != SLAB_FULL)
                continue;
            n_slabs++; /* relaxed: a guess */
            n_pages += count_bits(atomic_load_explicit(&slab->dirty_pages, memory_order_relaxed));
        }
    }
    return n_slabs >= SUPERSLAB_SLABS && n_pages * 8 >= n_slabs * n_all * 7;
}

bool huge_pages_for_slabs(const struct superslab *fresh)
{
    if (config.huge_pages != HUGE_PAGES_AUTO)
        return config.huge_pages == HUGE_PAGES_ALWAYS;
    return stats_read(&stats_counters.mapped_bytes) > HUGE_HEAP_BYTES && !budget_presses() && grows_densely(fresh);
}

bool huge_pages_for_runs(size_t len_bytes)
{
    return config.huge_pages == HUGE_PAGES_ALWAYS ||
           (config.huge_pages == HUGE_PAGES_AUTO && len_bytes <= HUGE_RUN_MAX_BYTES && !budget_presses());
}

void superslab_use_small_pages(struct superslab *ss)
{
    if (atomic_exchange(&ss->huge, 0) == 0)
        return;
    os_advise_huge(superslab_memory(ss), SUPERSLAB_BYTES, false);
    os_split_huge_page(superslab_memory(ss));
}

void superslab_choose_pages(struct superslab *ss, uint32_t n, uint32_t n_huge)
{
    /* Small pages would keep the system from using a huge one, and cost more than a huge one does: one by one, they are
     * mostly missing. */
    for (uint32_t i = 0; i < n_huge; i++)
        if (!superslab_is_clean(ss + i) && !ss[i].huge && os_purge(superslab_memory(ss + i), SUPERSLAB_BYTES))
            superslab_forget_slots(ss + i, true);
    for (uint32_t i = 0; i < n;) {
        uint32_t end = i;
        bool huge = i < n_huge;
        while (end < n && superslab_is_clean(ss + end) && ss[end].huge != huge && huge == (end < n_huge))
            ss[end++].huge = huge;
        if (end > i)
            os_advise_huge(superslab_memory(ss + i), (size_t)(end - i) << SUPERSLAB_SHIFT, huge);
        i = end > i ? end : i + 1;
    }
}

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
        stats_add(&stats_counters.mapped_bytes, (uint64_t)n << SUPERSLAB_SHIFT);
    }
    return ss;
}
