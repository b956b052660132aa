/* lru.c - see lru.h.
 * Owns     the cache and the order in it.     Called by  shared_pool.c, purge.c, span.c, trim.     Calls  release.h, os.h
 * Threads  the cache under the pool lock; system calls outside it.
 * I1  What counts in the cache is at most lru_most(), whenever the lock is free and release_evicted has run; but for the row that
 *     came last, for what spans left (MOST_PART_OF_POOL), and for entries that were pinned when they should have gone: they leave at the next push or trim
 *     after the pin.
 * Why the cache holds rows: what a freed run leaves behind serves the next run. Why it tells warm SuperSlabs, which may be in memory,
 * from clean ones: blocks of many megabytes are often used in part, and what is not in memory needs no room. Why it does not ask at
 * once: a program that frees a block and allocates one as long gets it back as it is. (A loop over 3 MiB of which it touches two pages
 * took 6.8 microseconds a turn.)
 */
#include "pool/lru.h"

#include "os/os.h"
#include "pool/release.h"
#include "pool/shared_pool.h"
#include "service/budget.h"
#include "service/config.h"
#include "service/stats.h"

static struct {
    struct superslab *newest, *oldest;
    _Atomic uint32_t n_superslabs; /* read by anyone, written under the lock */
    uint32_t n_warm;               /* of them, those that may be in memory, but for unasked */
    struct superslab *unasked;     /* the row of which it is not known what is in memory; NULL: none */
} lru;

/* A block that large may stay whatever the heap's size is: 64 MiB. (A loop that takes 20 MiB, fills and frees them: 0.8 ms a
 * turn; 1.3 where they go back each time; glibc 0.9. With 50 MiB 2.3 ms, 4.5 and 21.) */
#define ALONE_SUPERSLABS 32

/* Most clean SuperSlabs in the cache: they cost nothing but the time that it takes to pass them by, under the lock. */
#define CLEAN_SUPERSLABS_MAX 1024

/* The longest run that may wait unasked, a GiB: it does so for the delay at most, and no fresh memory is mapped meanwhile. (A loop that
 * takes 200 MiB and touches two pages: 87 microseconds a turn where it is asked about each time.) */
#define UNASKED_MAX_SUPERSLABS 512

static uint32_t count_warm(const struct superslab *ss, uint32_t n)
{
    uint32_t n_warm = 0;
    for (uint32_t i = 0; i < n; i++)
        n_warm += !superslab_is_clean(ss + i);
    return n_warm;
}

static void unlink_cached(struct superslab *ss)
{
    if (ss == lru.unasked) {
        lru.unasked = NULL;
        lru.n_warm += count_warm(ss, ss->run_superslabs);
    }
    *(ss->previous != NULL ? &ss->previous->next : &lru.newest) = ss->next;
    *(ss->next != NULL ? &ss->next->previous : &lru.oldest) = ss->previous;
    ss->previous = ss->next = NULL;
    lru.n_superslabs -= ss->run_superslabs;
    lru.n_warm -= count_warm(ss, ss->run_superslabs);
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
    lru.n_warm += count_warm(ss, n);
}

/* Enters a row, which stays by itself. */
static void link_alone(struct superslab *ss, uint32_t n)
{
    make_row(ss, n);
    ss->previous = NULL;
    ss->next = lru.newest;
    *(lru.newest != NULL ? &lru.newest->previous : &lru.oldest) = ss;
    lru.newest = ss;
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
    link_alone(ss, n);
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

/* Whether only time, and not the number of SuperSlabs, empties the cache in the end. */
static bool time_empties(void)
{
    return config.purge_delay_ms != 0 && !budget_presses();
}

/* How many SuperSlabs the cache may hold. As time empties it, it may grow with the heap: to a part of what is mapped, warm ones
 * in it included. (bench_workloads large: 28 ms and a peak of 71 MiB with a third, 44 and 72 with an eighth;
 * mimalloc 36 and 268, jemalloc 200 and 60, glibc 135 and 99. A working set of 20 blocks of 1 to 8 MiB, all of them written to: 4.0 s
 * and 182 MiB, and 18 to 24 and 158; mimalloc 1.0 and 194, jemalloc 20 and 194, glibc 6.3 and 159.) */
#define MOST_PART 3

/* What spans leave behind may be more, for the pool takes from it before it maps anything. (50 blocks of 64 KiB to 1 MiB, all of them
 * written to: 510 ms and a peak of 49.6 MiB instead of 800 and 47.5; jemalloc 870 and 47.8, glibc 1640 and 40.7.) */
#define MOST_PART_OF_POOL 2

static size_t mapped_superslabs(void)
{
    return (size_t)(stats_read(&stats_counters.mapped_bytes) / SUPERSLAB_BYTES);
}

static size_t lru_most(void)
{
    if (!time_empties())
        return budget_presses() ? 0 : config.lru_superslabs;
    size_t n_mapped = mapped_superslabs(), n_clean = lru.n_superslabs - lru.n_warm;
    return max_size(config.lru_superslabs, (n_mapped > n_clean ? n_mapped - n_clean : 0) / MOST_PART);
}

/* How many of so many SuperSlabs count. Clean ones are but address space, which time gives back; where it does not, they do. */
static uint32_t counted(uint32_t n_all, uint32_t n_warm)
{
    uint32_t n_clean = n_all - n_warm;
    return !time_empties() ? n_all : n_warm + (n_clean > CLEAN_SUPERSLABS_MAX ? n_clean - CLEAN_SUPERSLABS_MAX : 0);
}

/* How long a row may stay if too_many that count must go, from its end. */
static uint32_t cut_row(const struct superslab *ss, uint32_t too_many)
{
    bool all_count = counted(lru.n_superslabs, lru.n_warm) != lru.n_warm;
    uint32_t keep = ss->run_superslabs;
    if (!all_count && count_warm(ss, keep) == 0)
        return keep; /* It would go for nothing. */
    while (keep != 0 && too_many != 0) {
        keep--;
        too_many -= all_count || !superslab_is_clean(ss + keep);
    }
    return keep;
}

static void set_time(struct superslab *ss, uint32_t n)
{
    for (uint32_t i = 0, now_ms = os_now_ms(); i < n; i++)
        ss[i].cached_since_ms = now_ms;
}

/* The oldest leave, until no more than `most` are left that count. */
static void evict(size_t most)
{
    struct superslab *victim = lru.oldest;
    while (counted(lru.n_superslabs, lru.n_warm) > most && victim != NULL) {
        struct superslab *newer = victim->previous;
        uint32_t len = victim->run_superslabs;
        uint32_t keep = cut_row(victim, counted(lru.n_superslabs, lru.n_warm) - (uint32_t)most);
        if (victim != lru.unasked && keep < len && !any_pinned(victim, len)) {
            unlink_cached(victim);
            release_later(victim + keep, len - keep);
            if (keep != 0)
                link_oldest(victim, keep);
        }
        victim = newer;
    }
}

/* last: no other run has been freed since. */
static void push(struct superslab *ss, uint32_t n, bool last)
{
    uint32_t n_counted = counted(n, count_warm(ss, n));
    size_t most = lru_most();
    if (last && time_empties() && n_counted <= ALONE_SUPERSLABS)
        most = max_size(most, n_counted); /* What was used last may be used next. */
    if (time_empties() && ss->dirty_by_slab)
        most = max_size(most, mapped_superslabs() / MOST_PART_OF_POOL);
    if ((n_counted > most || !ss->committed) && !any_pinned(ss, n)) {
        release_later(ss, n); /* It would only drive out the others before it goes itself; or nobody could use it. */
        return;
    }
    set_time(ss, n);
    link_newest(ss, n);
    evict(most);
}

void lru_push(struct superslab *ss, uint32_t n)
{
    push(ss, n, true);
}

bool lru_push_unasked(struct superslab *ss, uint32_t n)
{
    if (!time_empties() || !config.background || n > UNASKED_MAX_SUPERSLABS || lru.unasked != NULL || !ss->committed ||
        any_pinned(ss, n))
        return false;
    set_time(ss, n);
    link_alone(ss, n);
    lru.n_warm -= count_warm(ss, n);
    lru.unasked = ss;
    evict(lru_most());
    return true;
}

bool lru_settle(uint32_t but_n, bool last)
{
    struct superslab *ss = lru.unasked;
    if (ss == NULL || ss->run_superslabs == but_n || any_pinned(ss, ss->run_superslabs))
        return true;
    uint32_t n = ss->run_superslabs;
    unlink_cached(ss);
    set_states(ss, n, SUPERSLAB_LEAVING);
    pool_unlock();
    release_untouched(ss, n);
    if (!pool_lock(HAK_LOCK_SPAN))
        return false;
    push(ss, n, last);
    return true;
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

/* Of n SuperSlabs, how many from the first on are warm. */
static uint32_t warm_prefix(const struct superslab *ss, uint32_t n)
{
    uint32_t i = 0;
    while (i < n && !superslab_is_clean(ss + i))
        i++;
    return i;
}

/* Where in a row n SuperSlabs for a run are best taken from: where most warm ones follow each other, for blocks are filled from their
 * beginning. As fit_in_row. */
static uint32_t best_in_row(const struct superslab *ss, uint32_t n, size_t alignment, uint32_t *n_warm)
{
    uint32_t len = ss->run_superslabs, best = fit_in_row(ss, n, alignment);
    *n_warm = best == len ? 0 : warm_prefix(ss + best, n);
    if (alignment > SUPERSLAB_BYTES || best == len)
        return best;
    for (uint32_t i = *n_warm; i + n <= len && *n_warm < n; i++) {
        uint32_t warm = warm_prefix(ss + i, n);
        if (warm > *n_warm) {
            *n_warm = warm;
            best = i;
        }
        i += warm;
    }
    return best;
}

/* Where in a row one for the pool is: one that came from there, or is clean. What is warm of a run waits for the next run, which
 * would find no place if one were missing. */
static uint32_t best_for_pool(const struct superslab *ss, uint32_t *n_warm)
{
    uint32_t len = ss->run_superslabs, clean = len;
    for (uint32_t i = 0; i < len; i++) {
        if (ss[i].dirty_by_slab) {
            *n_warm = 1;
            return i;
        }
        if (clean == len && superslab_is_clean(ss + i))
            clean = i;
    }
    *n_warm = 0;
    return clean;
}

/* Of all rows the one with the most warm ones; of equal ones the shortest, as long ones are for long blocks; of these the youngest. */
static struct superslab *take(uint32_t n, size_t alignment, bool for_pool)
{
    struct superslab *best = NULL;
    uint32_t best_first = 0, best_warm = 0;
    for (struct superslab *ss = lru.newest; ss != NULL; ss = ss->next) {
        uint32_t warm, first = for_pool ? best_for_pool(ss, &warm) : best_in_row(ss, n, alignment, &warm);
        if (first != ss->run_superslabs &&
            (best == NULL || warm > best_warm || (warm == best_warm && ss->run_superslabs < best->run_superslabs)) &&
            !any_pinned(ss, ss->run_superslabs)) {
            best = ss;
            best_first = first;
            best_warm = warm;
            if (ss->run_superslabs == n && warm == n)
                break;
        }
    }
    if (best == NULL)
        return NULL;
    take_out(best, best_first, n, SUPERSLAB_MAPPING);
    return best + best_first;
}

struct superslab *lru_take(uint32_t n, size_t alignment)
{
    return take(n, alignment, false);
}

struct superslab *lru_take_for_pool(void)
{
    return take(1, SUPERSLAB_BYTES, true);
}

uint32_t lru_count(void)
{
    return lru.n_superslabs;
}

void lru_forget(void)
{
    lru.newest = lru.oldest = lru.unasked = NULL;
    lru.n_superslabs = lru.n_warm = 0;
    release_forget();
}

/* ---- Time -------------------------------------------------------------------------------------------------------- */

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
        release_row(ss, n);
    }
}

void lru_drain(void)
{
    lru_expire(0, 0);
}
