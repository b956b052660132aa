/* lru.c - see lru.h.
 * Owns     the cache and the order in it.     Called by  shared_pool.c, purge.c, span.c, run.c, packed.c, held.c, release.c, repair.c, pressure.c.
 * Calls    release.h, dirty.h, os.h
 * Threads  the cache under the pool lock; system calls outside it.
 * I1  What counts in the cache is at most lru_most(), whenever the lock is free and release_evicted has run; but for the row that
 *     came last, and for entries that were pinned when they should have gone: they leave at the next push or trim after the pin.
 * Why the cache holds rows: what a freed run leaves behind serves the next run. Why it tells warm SuperSlabs, which may be in memory,
 * from clean ones: blocks of many megabytes are often used in part, and what is not in memory needs no room. Why it does not ask at
 * once: a program that frees a block and allocates one as long gets it back as it is. (A loop over 3 MiB of which it touches two pages
 * took 6.8 microseconds a turn.)
 */
#include "pool/lru.h"

#include "meta/arena.h"
#include "os/os.h"
#include "pool/dirty.h"
#include "pool/release.h"
#include "pool/shared_pool.h"
#include "service/budget.h"
#include "service/config.h"
#include "service/stats.h"

#include <string.h>

#define LENGTHS 33

static struct {
    struct superslab *newest, *oldest;
    _Atomic uint32_t n_superslabs; /* read by anyone, written under the lock */
    uint32_t n_warm;               /* of them, those that may be in memory, but for unasked */
    uint32_t most_live;            /* SuperSlabs mapped, and not in the cache: the most lately */
    uint64_t pushed,
        touched; /* of what came lately, the later the more: all SuperSlabs, and those that were in memory */
    struct superslab *unasked; /* the row of which it is not known what is in memory; NULL: none */
    uint32_t n_rows[LENGTHS];  /* by length; the last one: so long and longer */
} lru;

/* Most clean SuperSlabs in the cache: they cost nothing but the time that it takes to pass them by, under the lock. */
#define CLEAN_SUPERSLABS_MAX 1024

static uint32_t count_warm(const struct superslab *ss, uint32_t n)
{
    uint32_t n_warm = 0;
    for (uint32_t i = 0; i < n; i++)
        n_warm += !superslab_is_clean(ss + i);
    return n_warm;
}

static uint32_t *rows_as_long(uint32_t n)
{
    return &lru.n_rows[n < LENGTHS ? n : LENGTHS - 1];
}

/* Whether there is a row of n or more: to look through all in vain takes time under the lock. */
static bool has_row(uint32_t n)
{
    const uint32_t *at = rows_as_long(n), *end = lru.n_rows + LENGTHS;
    while (at < end && *at == 0)
        at++;
    return at != end;
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
    --*rows_as_long(ss->run_superslabs);
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
    ++*rows_as_long(n);
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

static uint32_t live_superslabs(void)
{
    uint64_t n_mapped = stats_read(&stats_counters.mapped_bytes) / SUPERSLAB_BYTES;
    return n_mapped > lru.n_superslabs ? (uint32_t)(n_mapped - lru.n_superslabs) : 0;
}

/* Notes what is in use, and what comes from there: how much of it was used. */
static void note_pushed(uint32_t n, uint32_t n_warm)
{
    enum { SCALE = 16, OLD_PART = 8 };
    lru.most_live = (uint32_t)max_size(lru.most_live, live_superslabs());
    lru.pushed += (uint64_t)n * SCALE - lru.pushed / OLD_PART;
    lru.touched += (uint64_t)n_warm * SCALE - lru.touched / OLD_PART;
}

/* The part of n that is used, if it is used as what came lately was. */
static size_t touched_part(size_t n)
{
    return n * (lru.touched + 1) / (lru.pushed + 1);
}

/* What is free lies in pieces: with a twelfth more than was in use, one of them is long enough more often. (A working set of 20
 * blocks of 1 to 8 MiB, all of them written to: 1.3 s and a peak of 167 MiB; 3.3 s and 155 without; 1.4 and 167 with an eighth. By a
 * third of the heap, whatever was in use: 3.2 and 186. mimalloc 0.9 and 198, tcmalloc 1.3 and 212, glibc 6.4 and 163, jemalloc 20 and 200.
 * bench_workloads large: 24 ms and 61 MiB, where by a third of the heap it had 25 and 71.) */
#define ROOM_PART 12

/* How many SuperSlabs the cache may hold, if so many more are in use than now: of what was in use lately and is no longer, such a part
 * as is used. So the cache makes no process larger than it was, by more than ROOM_PART; and time empties it. */
static size_t lru_most(int64_t n_more)
{
    if (!time_empties())
        return budget_presses() ? 0 : config.lru_superslabs;
    int64_t n_live = live_superslabs() + n_more, n_most = lru.most_live + lru.most_live / ROOM_PART;
    if (!config.background && n_most > 2 * n_live)
        n_most = 2 * n_live; /* Who makes no more calls keeps what waits: as much as is in use is enough. */
    size_t n_room = n_most > n_live ? (size_t)(n_most - n_live) : 0;
    size_t n_least = config.lru_superslabs < n_room ? config.lru_superslabs : n_room;
    return max_size(n_least, touched_part(n_room));
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

void lru_push(struct superslab *ss, uint32_t n)
{
    uint32_t n_warm = count_warm(ss, n);
    note_pushed(n, n_warm);
    size_t most = lru_most(-(int64_t)n);
    if ((counted(n, n_warm) > most || !ss->committed) && !any_pinned(ss, n)) {
        release_later(ss, n); /* It would only drive out the others before it goes itself; or nobody could use it. */
    } else {
        set_time(ss, n);
        link_newest(ss, n);
    }
    evict(most);
}

/* It waits for the delay at most, and no fresh memory is mapped meanwhile. (A loop that takes 200 MiB and touches two pages: 87
 * microseconds a turn where it is asked about each time.) */
bool lru_push_unasked(struct superslab *ss, uint32_t n)
{
    if (!time_empties() || !config.background || n > RELEASE_ASK_MAX_SUPERSLABS || lru.unasked != NULL ||
        !ss->committed || any_pinned(ss, n))
        return false;
    set_time(ss, n);
    link_alone(ss, n);
    lru.n_warm -= count_warm(ss, n);
    lru.unasked = ss;
    evict(lru_most(0));
    return true;
}

void lru_push_asked(struct superslab *ss, uint32_t n)
{
    int64_t len_bytes = (int64_t)n << SUPERSLAB_SHIFT;
    set_states(ss, n, SUPERSLAB_LEAVING);
    budget_note_leaving(len_bytes); /* out of the reach of a relief */
    pool_unlock();
    release_untouched(ss, n);
    pool_lock_again(HAK_LOCK_SPAN, ss);
    lru_push(ss, n);
    budget_note_freed();
    budget_note_leaving(-len_bytes);
}

void lru_settle(uint32_t but_n)
{
    struct superslab *ss = lru.unasked;
    if (ss == NULL || ss->run_superslabs == but_n || any_pinned(ss, ss->run_superslabs))
        return;
    unlink_cached(ss);
    lru_push_asked(ss, ss->run_superslabs);
}

void lru_make_way(uint32_t n)
{
    lru_settle(0);
    evict(lru_most(n));
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

/* So many rows are looked at for a better one than what was found, or for one that could be made longer. (16,000 rows of one SuperSlab
 * each, and a block of several: 0.9 million instructions without.) */
#define ROW_LOOKS_MAX 512

/* Of all rows the one with the most warm ones; of equal ones the shortest, as long ones are for long blocks; of these the youngest. */
static struct superslab *take(uint32_t n, size_t alignment, bool for_pool)
{
    struct superslab *best = NULL;
    uint32_t best_first = 0, best_warm = 0, n_looks = 0;
    struct superslab *ss = has_row(n) ? lru.newest : NULL;
    for (; ss != NULL && (best == NULL || n_looks < ROW_LOOKS_MAX); ss = ss->next, n_looks++) {
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

/* A row that is too short for n, with what it lacks: that lies free behind it or before it. Of all such rows the one with the most warm
 * ones. */
static struct superslab *take_beside(uint32_t n)
{
    struct superslab *best = NULL;
    uint32_t best_warm = 0, free_first = 0, n_looks = 0;
    for (struct superslab *ss = lru.newest; ss != NULL && n_looks < ROW_LOOKS_MAX; ss = ss->next, n_looks++) {
        uint32_t len = ss->run_superslabs, warm = len < n ? count_warm(ss, len) : 0;
        if (warm <= best_warm || any_pinned(ss, len))
            continue;
        bool behind = arena_is_free(ss->arena, ss->index + len, n - len);
        if (behind || (ss->index >= n - len && arena_is_free(ss->arena, ss->index - (n - len), n - len))) {
            best = ss;
            best_warm = warm;
            free_first = behind ? ss->index + len : ss->index - (n - len);
        }
    }
    if (best == NULL)
        return NULL;
    uint32_t len = best->run_superslabs;
    if (!arena_take_at(best->arena, free_first, n - len))
        return NULL;
    superslab_count_mapped(n - len);
    take_out(best, 0, len, SUPERSLAB_MAPPING);
    evict(lru_most(0));
    return free_first > best->index ? best : best - (n - len);
}

/* A run is used from its beginning, and what is warm behind that, since an older one used it, would only stay in memory. Three times
 * as much as late runs used is kept. (bench_workloads large: 20 ms and 71 MiB with four times, 24 and 61 with three, 46 and 55 with
 * twice. The longest turns of it, 1000 instead of 100: 89 ms and 102 MiB, 129 and 64, 265 and 54; 187 and 98 if all is kept.) */
#define KEPT_PARTS 3

struct superslab *lru_take(uint32_t n, size_t alignment, uint32_t *n_kept)
{
    const struct superslab *unasked = lru.unasked;
    struct superslab *ss = take(n, alignment, false);
    *n_kept = ss != NULL && ss == unasked ? n : (uint32_t)min_size(n, touched_part(KEPT_PARTS * (size_t)n) + 1);
    return ss != NULL || alignment > SUPERSLAB_BYTES ? ss : take_beside(n);
}

/* A span that will have most of it is as good as a run. (20 blocks of 1 to 8 MiB, one replaced at random: 0.11 s; 0.25 without.) */
struct superslab *lru_take_for_pool(unsigned n_slots)
{
    return take(1, SUPERSLAB_BYTES, n_slots <= LRU_POOL_SLOTS);
}

uint32_t lru_count(void)
{
    return lru.n_superslabs;
}

void lru_forget(void)
{
    lru.newest = lru.oldest = lru.unasked = NULL;
    lru.n_superslabs = lru.n_warm = lru.most_live = 0;
    memset(lru.n_rows, 0, sizeof lru.n_rows);
    release_forget();
}

/* ---- Time -------------------------------------------------------------------------------------------------------- */

/* The SuperSlabs of a row that have been there for delay_ms: sets how many follow each other, and returns the number of the
 * first; the row's length when there is none. */
static uint32_t find_expired(const struct superslab *ss, uint32_t now_ms, int64_t delay_ms, uint32_t *n)
{
    uint32_t len = ss->run_superslabs, first = 0;
    while (first < len && !os_has_waited(now_ms, ss[first].cached_since_ms, delay_ms))
        first++;
    uint32_t end = first;
    while (end < len && os_has_waited(now_ms, ss[end].cached_since_ms, delay_ms))
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

/* What was in use long ago is not what is to be expected: at each tick a 64th of it is forgotten. */
static void forget_most_live(void)
{
    enum { FORGOTTEN_PART = 64 };
    if (!pool_lock(HAK_LOCK_TRIM))
        return;
    uint32_t n_live = live_superslabs();
    if (lru.most_live > n_live)
        lru.most_live -= (lru.most_live - n_live + FORGOTTEN_PART - 1) / FORGOTTEN_PART;
    pool_unlock();
}

void lru_expire(uint32_t now_ms, int64_t delay_ms)
{
    forget_most_live();
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
