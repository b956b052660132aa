/* slots.c - the pool lock, the lists of SuperSlabs, their tiers and slots: see pool_state.h and shared_pool.h.
 * Owns     the pool lock; the buckets of HOT SuperSlabs, the list of DRAINING ones; the slots' UNUSED and EMPTY masks.
 * Called by  the rest of pool/; front/, api/override_limit.c (the lock alone)     Calls  class_set.h, tier.h, dirty.h, slab.h
 * Threads  any, under the lock.
 * I1  A POOLED SuperSlab is in the bucket of its number of free slots and in the list of its longest row of them if HOT, in the
 *     draining list if not.
 * I2  A slot is in unused_slots  <=> its ctl is UNUSED, in empty_slots <=> EMPTY, in neither <=> TAKEN or ACTIVE.
 * Why buckets: the fullest HOT SuperSlab (fewest free slots) comes first, so that the emptiest get a chance to become
 * empty. Why by rows too: a span wants slots in a row, and to look for them costs a cache miss for each SuperSlab, under the
 * lock (bench_threads large, 16 threads: 1.6 microseconds for each time that the lock was held).
 */
#include "meta/arena.h"
#include "os/lock.h"
#include "os/os.h"
#include "pool/dirty.h"
#include "pool/pool_state.h"
#include "service/budget.h"
#include "service/config.h"
#include "service/event.h"
#include "service/report.h"
#include "service/stats.h"

struct pool_gate pool_gate;

struct pool_state pool;

/* ---- The lock --------------------------------------------------------------------------------------------------- */

bool pool_lock(enum hak_lock_cause cause)
{
    enum lock_result result = lock_take(&pool_gate.lock, lock_self());
    if (unlikely(result == LOCK_SELF))
        return false;
    stats_add(&stats_counters.lock_acquisitions[cause], 1);
    if (result == LOCK_TAKEN_AFTER_WAIT)
        stats_add(&stats_counters.lock_contended, 1);
    return true;
}

void pool_lock_again(enum hak_lock_cause cause, const void *about)
{
    if (!pool_lock(cause))
        report_broken("the pool lock is held by a thread that should not have it", about);
}

bool pool_try_lock(enum hak_lock_cause cause)
{
    if (!lock_try(&pool_gate.lock, lock_self()))
        return false;
    stats_add(&stats_counters.lock_acquisitions[cause], 1);
    return true;
}

bool pool_lock_is_mine(void)
{
    return lock_owner(&pool_gate.lock) == lock_self();
}

void pool_unlock(void)
{
    lock_drop(&pool_gate.lock);
}

bool pool_lock_inherited(void)
{
    uintptr_t owner = lock_owner(&pool_gate.lock);
    if (owner == 0 || owner == lock_self())
        return false;
    lock_reset(&pool_gate.lock);
    return pool_lock(HAK_LOCK_FORK);
}

/* ---- Lists of SuperSlabs (lock held) ----------------------------------------------------------------------------- */

struct superslab **pool_list_of(struct superslab *ss)
{
    return pool_tier_of(ss) == SS_TIER_DRAINING ? &pool.draining : &pool.bucket[ss->bucket];
}

unsigned pool_longest_row(const struct superslab *ss)
{
    unsigned n = 0;
    for (uint32_t free = ss->unused_slots | ss->empty_slots; free != 0; free &= free >> 1)
        n++;
    return n;
}

static void link_row(struct superslab *ss)
{
    ss->longest_row = (uint8_t)pool_longest_row(ss);
    struct superslab **list = &pool.row[ss->longest_row];
    ss->row_previous = NULL;
    ss->row_next = *list;
    if (*list != NULL)
        (*list)->row_previous = ss;
    *list = ss;
    pool.row_bits |= (uint64_t)1 << ss->longest_row;
}

static void unlink_row(struct superslab *ss)
{
    struct superslab **list = &pool.row[ss->longest_row];
    *(ss->row_previous != NULL ? &ss->row_previous->row_next : list) = ss->row_next;
    if (ss->row_next != NULL)
        ss->row_next->row_previous = ss->row_previous;
    ss->row_previous = ss->row_next = NULL;
    if (*list == NULL)
        pool.row_bits &= ~((uint64_t)1 << ss->longest_row);
}

void pool_link_superslab(struct superslab *ss)
{
    ss->bucket = (uint8_t)pool_free_slots(ss);
    struct superslab **list = pool_list_of(ss);
    ss->previous = NULL;
    ss->next = *list;
    if (*list != NULL)
        (*list)->previous = ss;
    *list = ss;
    if (list == &pool.draining) {
        pool.reopen_slots |= ss->bucket != 0;
        return;
    }
    pool.bucket_bits |= (uint64_t)1 << ss->bucket;
    link_row(ss);
    packed_relink(ss);
}

static void unlink_superslab(struct superslab *ss)
{
    struct superslab **list = pool_list_of(ss);
    *(ss->previous != NULL ? &ss->previous->next : list) = ss->next;
    if (ss->next != NULL)
        ss->next->previous = ss->previous;
    ss->previous = ss->next = NULL;
    if (list == &pool.draining) {
        pool.reopen_slots |= ss->bucket != 0;
        return;
    }
    if (*list == NULL)
        pool.bucket_bits &= ~((uint64_t)1 << ss->bucket);
    unlink_row(ss);
}

/* Free slots have come or gone. */
void pool_relink_superslab(struct superslab *ss)
{
    if (ss->bucket != pool_free_slots(ss) || ss->longest_row != pool_longest_row(ss)) {
        unlink_superslab(ss);
        pool_link_superslab(ss);
    }
}

/* ---- Inaccessible slots ------------------------------------------------------------------------------------------ */

/* Each row of them makes two mappings, itself and what comes behind it, of which Linux gives a process 65,530; guarded blocks take four
 * each, and there may be 8,192. Beyond so many rows what is free stays accessible. */
#define CLOSED_MAX_ROWS 8192

/* relaxed: a number. Below 0 where a fork cut off a thread that was about to count */
static _Atomic ptrdiff_t n_closed_rows;

static unsigned rows_of(uint32_t slots)
{
    return count_bits(slots & ~(slots << 1));
}

static void note_rows(uint32_t before, uint32_t now)
{
    atomic_fetch_add_explicit(&n_closed_rows, (ptrdiff_t)rows_of(now) - (ptrdiff_t)rows_of(before),
                              memory_order_relaxed);
}

/* Without the lock too, for slots that the caller holds. */
static bool open_memory(struct superslab *ss, unsigned slot, unsigned n)
{
    uint32_t mask = superslab_slot_mask(slot, n);
    if (!os_commit(superslab_memory(ss) + slot * SLAB_BYTES, n * SLAB_BYTES))
        return false;
    uint32_t before = atomic_fetch_and(&ss->closed_slots, ~mask);
    note_rows(before, before & ~mask);
    return true;
}

/* How many slots to open so that no row becomes two. */
static unsigned up_to_row_end(const struct superslab *ss, unsigned slot, unsigned n)
{
    uint32_t closed = atomic_load(&ss->closed_slots);
    while (slot + n < SUPERSLAB_SLABS && (closed >> (slot + n) & 1) != 0)
        n++;
    return n;
}

/* To open a part of what is inaccessible takes mappings, to open all of it takes none. */
bool pool_open_memory(struct superslab *ss, unsigned slot, unsigned n)
{
    if (atomic_load_explicit(&n_closed_rows, memory_order_relaxed) >= CLOSED_MAX_ROWS)
        n = up_to_row_end(ss, slot, n);
    return (config.secure & SECURE_GUARD) == 0 || open_memory(ss, slot, n) || open_memory(ss, 0, SUPERSLAB_SLABS);
}

/* Makes memory of slots without a block inaccessible. */
static void close_memory(struct superslab *ss, unsigned slot, unsigned n)
{
    uint32_t mask = superslab_slot_mask(slot, n), before = atomic_load(&ss->closed_slots);
    if ((config.secure & SECURE_GUARD) == 0)
        return;
    if (rows_of(before | mask) > rows_of(before) &&
        atomic_load_explicit(&n_closed_rows, memory_order_relaxed) >= CLOSED_MAX_ROWS) {
        open_memory(ss, slot, n); /* with what a block had between its guard pages */
    } else if (os_forbid(superslab_memory(ss) + slot * SLAB_BYTES, n * SLAB_BYTES)) { /* else it stays accessible */
        before = atomic_fetch_or(&ss->closed_slots, mask);
        note_rows(before, before | mask);
    }
}

void pool_add_superslab(struct superslab *ss)
{
    atomic_store(&ss->tier, SS_TIER_HOT);
    atomic_store(&ss->rising, 1);
    ss->unused_slots = UINT32_MAX;
    ss->empty_slots = 0;
    for (unsigned i = 0; i < SUPERSLAB_SLABS && !superslab_is_clean(ss); i++) {
        struct slab *slab = superslab_slab(ss, i);
        if (!ss->dirty_by_slab) /* relaxed: ctl publishes it */
            atomic_store_explicit(&slab->dirty_pages,
                                  (uint16_t)slab_pages_below(ss->dirty_prefix_bytes, (size_t)i * SLAB_BYTES),
                                  memory_order_relaxed);
        bool dirty = atomic_load_explicit(&slab->dirty_pages, memory_order_relaxed) != 0;
        atomic_store_explicit(&slab->ctl, SLAB_CTL(dirty ? SLAB_EMPTY : SLAB_UNUSED, 0, 0), memory_order_release);
        if (dirty)
            ss->empty_slots |= 1u << i;
    }
    ss->unused_slots = ~ss->empty_slots;
    ss->dirty_by_slab = 0;
    ss->dirty_prefix_bytes = 0;
    ss->state = SUPERSLAB_POOLED; /* The child of a fork goes by the slots' records from here on. */
    close_memory(ss, 0, SUPERSLAB_SLABS);
    atomic_fetch_add(&pool.n_empty_slots, count_bits(ss->empty_slots));
    pool_link_superslab(ss);
}

/* Takes an empty SuperSlab out of the pool. */
void pool_detach_superslab(struct superslab *ss)
{
    unlink_superslab(ss);
    packed_unlink(ss);
    atomic_fetch_sub(&pool.n_empty_slots, count_bits(ss->empty_slots));
    atomic_store(&ss->tier, SS_TIER_FREE);
    /* If the system refuses, lru_push gives it back, and arena_take tries again. A fork's child sees 0 before LEAVING. */
    ss->committed = 0;
    ss->state = SUPERSLAB_LEAVING;
    ss->dirty_by_slab = ss->empty_slots != 0;
    ss->committed = pool_open_memory(ss, 0, SUPERSLAB_SLABS);
    stats_add(&stats_counters.tier_to_free, 1);
    EVENT("superslab empty ss=%p unused=%u empty=%u", superslab_memory(ss), count_bits(ss->unused_slots),
          count_bits(ss->empty_slots));
}

/* ---- Tiers ------------------------------------------------------------------------------------------------------- */

struct tier_use superslab_use(const struct superslab *ss)
{
    struct tier_use use = {0};
    for (unsigned i = 0; i < SUPERSLAB_SLABS; i++)
        tier_use_add(&use, slab_ctl_read(superslab_slab(ss, i)));
    return use;
}

void pool_note_draining(unsigned class_id)
{
    uint64_t bit = (uint64_t)1 << class_id;
    if ((atomic_load(&pool.reopen_classes) & bit) == 0)
        atomic_fetch_or(&pool.reopen_classes, bit);
    if ((atomic_load_explicit(&pool.draining_classes, memory_order_relaxed) & bit) == 0) /* relaxed, both: a hint */
        atomic_fetch_or_explicit(&pool.draining_classes, bit, memory_order_relaxed);
}

/* Enters or hides the PARTIAL slabs of a SuperSlab whose tier has just changed. */
static void list_slabs(struct superslab *ss, bool enter)
{
    for (unsigned i = 0; i < SUPERSLAB_SLABS; i++) {
        struct slab *slab = superslab_slab(ss, i);
        slab_ctl ctl = atomic_load(&slab->ctl);
        size_t index = slab_index(ss->arena, slab);
        if (CTL_STATE(ctl) != SLAB_PARTIAL)
            continue;
        (enter ? class_set_enter : class_set_hide)(ss->arena, CTL_CLASS(ctl), index);
        if (!enter)
            pool_note_draining(CTL_CLASS(ctl));
    }
}

/* Looks whether the tier changes, and changes it. Lock held. One that has left the pool meanwhile is FREE. */
void pool_evaluate_tier(struct superslab *ss)
{
    if (pool_tier_of(ss) != SS_TIER_HOT || !tier_is_to_drain(atomic_load(&ss->rising), superslab_use(ss)))
        return;
    unlink_superslab(ss);
    packed_unlink(ss);
    atomic_store(&ss->tier, SS_TIER_DRAINING);
    pool_link_superslab(ss);
    list_slabs(ss, false);
    stats_add(&stats_counters.tier_hot_to_draining, 1);
    EVENT("superslab draining ss=%p free=%u", superslab_memory(ss), pool_free_slots(ss));
}

bool pool_is_sparse(const struct superslab *ss)
{
    return pool_tier_of(ss) == SS_TIER_HOT && !atomic_load(&ss->rising) && tier_is_to_drain(false, superslab_use(ss));
}

void pool_reopen_superslab(struct superslab *ss)
{
    unlink_superslab(ss);
    atomic_store(&ss->tier, SS_TIER_HOT);
    atomic_store(&ss->rising, 1);
    pool_link_superslab(ss);
    list_slabs(ss, true);
    stats_add(&stats_counters.tier_draining_to_hot, 1);
    EVENT("superslab reopened ss=%p free=%u", superslab_memory(ss), pool_free_slots(ss));
}

/* ---- Slots (lock held) ------------------------------------------------------------------------------------------- */

/* The first of n slots in a row among `free`, on a multiple of align; SUPERSLAB_SLABS when there is none. */
static unsigned find_slots(uint32_t free, unsigned n, unsigned align)
{
    for (unsigned k = 1; k < n; k++)
        free &= free >> 1;                                         /* bit i stays if bits i .. i + k were set */
    free &= UINT32_MAX / ((uint32_t)(((uint64_t)1 << align) - 1)); /* bits 0, align, 2 align, ... */
    return free == 0 ? SUPERSLAB_SLABS : (unsigned)__builtin_ctz(free);
}

void pool_take_slots_out(struct superslab *ss, uint32_t mask)
{
    atomic_fetch_sub(&pool.n_empty_slots, count_bits(ss->empty_slots & mask));
    pool.n_active_slots += count_bits(mask);
    ss->unused_slots &= ~mask;
    ss->empty_slots &= ~mask;
    ss->aged_slots &= ~mask;
    for (uint32_t rest = mask; rest != 0; rest &= rest - 1) /* a fork's child must see that somebody has them */
        atomic_store_explicit(&superslab_slab(ss, (unsigned)__builtin_ctz(rest))->ctl, SLAB_CTL(SLAB_TAKEN, 0, 0),
                              memory_order_release);
    pool_relink_superslab(ss);
}

/* A slot of a SuperSlab that has one: without a free neighbour if there is such a one, so that rows stay whole, those of packed spans
 * too; and with pages. Untouched: above all without pages. */
static unsigned find_slot(const struct superslab *ss, bool last, bool untouched)
{
    uint32_t slots = ss->unused_slots | ss->empty_slots, any = slots | ss->packed_slots;
    uint32_t alone = slots & ~(any << 1) & ~(any >> 1);
    if (untouched && ss->unused_slots != 0) {
        slots = ss->unused_slots;
        alone &= slots;
    }
    if (alone != 0)
        slots = alone;
    if ((slots & ss->empty_slots) != 0)
        slots &= ss->empty_slots;
    last |= ss->packed_slots != 0;
    return last ? SUPERSLAB_SLABS - 1 - (unsigned)__builtin_clz(slots) : (unsigned)__builtin_ctz(slots);
}

/* NULL: no SuperSlab has a slot. */
static struct superslab *fullest(void)
{
    uint64_t buckets = pool.bucket_bits & ~(uint64_t)1;
    return buckets == 0 ? NULL : pool.bucket[__builtin_ctzll(buckets)];
}

bool pool_take_slot(bool last, bool untouched, struct superslab **ss, unsigned *slot)
{
    *ss = fullest();
    if (*ss == NULL)
        return false;
    *slot = find_slot(*ss, last, untouched);
    pool_take_slots_out(*ss, superslab_slot_mask(*slot, 1));
    return true;
}

/* A place for a row of slots: what would be left over of the gap, and how many of the slots have pages already. */
struct fit {
    struct superslab *ss; /* NULL: there is none */
    unsigned slot, left, n_empty;
};

/* Looks for a better place in one SuperSlab. */
static void fit_into(struct superslab *ss, unsigned n, unsigned align, struct fit *best)
{
    for (uint32_t rest = ss->unused_slots | ss->empty_slots; rest != 0;) {
        unsigned first = (unsigned)__builtin_ctz(rest);
        unsigned len = (unsigned)__builtin_ctzll(~((uint64_t)rest >> first));
        unsigned slot = (first + align - 1) & ~(align - 1);
        if (align == 1 && len > n && first != 0 && (ss->packed_slots >> (first - 1) & 1) != 0)
            slot = first + len - n; /* What is free before it goes on with the row's beginning. */
        rest &= ~superslab_slot_mask(first, len);
        if (slot + n > first + len || (best->ss != NULL && len - n > best->left))
            continue;
        unsigned n_empty = count_bits(ss->empty_slots & superslab_slot_mask(slot, n));
        if (best->ss == NULL || len - n < best->left || n_empty > best->n_empty)
            *best = (struct fit){ss, slot, len - n, n_empty};
    }
}

/* The smallest gap of some SuperSlabs whose longest is the shortest that will do; of equal ones that with the most pages.
 * (bench_workloads stress, blocks of 8 bytes to 1 MiB: 0.90 of the memory that it took with the first row of the fullest
 * SuperSlab, and no more page faults.) */
static struct fit find_row(unsigned n, unsigned align_slots)
{
    struct fit best = {0};
    unsigned most = align_slots == 1 ? ROW_LOOKS : SCAN_LIMIT;
    uint64_t lists = pool.row_bits & (UINT64_MAX << n);
    for (; lists != 0 && best.ss == NULL; lists &= lists - 1) {
        unsigned n_looks = 0;
        struct superslab *ss = pool.row[__builtin_ctzll(lists)];
        for (; ss != NULL && n_looks < most; ss = ss->row_next, n_looks++)
            fit_into(ss, n, align_slots, &best);
    }
    return best;
}

bool pool_take_slots(unsigned n, unsigned align_slots, struct superslab **ss, unsigned *slot)
{
    struct fit found = find_row(n, align_slots);
    if (found.ss == NULL)
        return false;
    pool_take_slots_out(found.ss, superslab_slot_mask(found.slot, n));
    *ss = found.ss;
    *slot = found.slot;
    return true;
}

/* Where the last slot apart was taken: the next one, too, as long as it has any. */
static struct superslab *apart;

static bool is_apart(const struct superslab *ss)
{
    return ss != NULL && atomic_load(&ss->state) == SUPERSLAB_POOLED && pool_tier_of(ss) == SS_TIER_HOT &&
           atomic_load(&ss->huge) == 0 && (ss->unused_slots | ss->empty_slots) != 0;
}

enum apart pool_take_slot_apart(struct superslab **ss, unsigned *slot)
{
    *ss = is_apart(apart) ? apart : fullest();
    if (*ss == NULL)
        return APART_NONE;
    if (!is_apart(*ss))
        return APART_HUGE;
    apart = *ss;
    *slot = find_slot(*ss, false, false);
    pool_take_slots_out(*ss, superslab_slot_mask(*slot, 1));
    return APART_TAKEN;
}

void pool_set_apart(struct superslab *ss)
{
    apart = ss;
}

bool pool_take_slots_at(struct superslab *ss, unsigned slot, unsigned n)
{
    uint32_t mask = superslab_slot_mask(slot, n);
    if (slot + n > SUPERSLAB_SLABS || pool_tier_of(ss) != SS_TIER_HOT ||
        ((ss->unused_slots | ss->empty_slots) & mask) != mask)
        return false;
    pool_take_slots_out(ss, mask);
    return true;
}

struct superslab *pool_put_slots(struct superslab *ss, unsigned slot, unsigned n)
{
    close_memory(ss, slot, n);
    size_t index = superslab_slab_index(ss, slot);
    arena_set_class_map(ss->arena, index, n, CLASS_FOREIGN);
    for (unsigned i = slot; i < slot + n; i++)
        atomic_store_explicit(&superslab_slab(ss, i)->ctl, SLAB_CTL(SLAB_EMPTY, 0, 0), memory_order_release);
    ss->empty_slots |= superslab_slot_mask(slot, n);
    pool.n_active_slots -= n;
    atomic_fetch_add(&pool.n_empty_slots, n);
    pool_relink_superslab(ss);
    if (pool_free_slots(ss) == SUPERSLAB_SLABS) {
        pool_detach_superslab(ss);
        return ss;
    }
    if (budget_purge_delay_ms() == 0)
        pool_evaluate_tier(ss);
    return NULL;
}

/* The best of the first that help; all are looked at only while none does. For a slab that is not done again until something has changed:
 * in a heap of some GiB it takes longer than new memory. (4 GiB, of which one block in 61 was kept, and then 1 GiB of another size: 920,000
 * SuperSlabs were looked at for 512 new ones.) */
bool pool_reopen(unsigned n, unsigned class_id)
{
    struct superslab *best = NULL;
    unsigned best_free = SUPERSLAB_SLABS + 1, tries = 0;
    uint64_t bit = (uint64_t)1 << class_id;
    bool any_slots = false;
    if (n == 0 && !pool.reopen_slots && (atomic_load(&pool.reopen_classes) & bit) == 0)
        return false;
    if (n == 0)
        atomic_fetch_and(&pool.reopen_classes, ~bit); /* Whoever lists one behind us raises it again. */
    for (struct superslab *ss = pool.draining; ss != NULL && (best == NULL || tries < SCAN_LIMIT);
         ss = ss->next, tries++) {
        uint32_t free = ss->unused_slots | ss->empty_slots;
        bool helps = find_slots(free, n == 0 ? 1 : n, 1) != SUPERSLAB_SLABS;
        any_slots |= free != 0;
        for (unsigned i = 0; n == 0 && !helps && i < SUPERSLAB_SLABS; i++) {
            slab_ctl ctl = slab_ctl_read(superslab_slab(ss, i));
            helps = CTL_STATE(ctl) == SLAB_PARTIAL && CTL_CLASS(ctl) == class_id;
        }
        if (helps && pool_free_slots(ss) < best_free) {
            best = ss;
            best_free = pool_free_slots(ss);
        }
    }
    if (best == NULL) {
        pool.reopen_slots = any_slots;
        return false;
    }
    if (n == 0)
        atomic_fetch_or(&pool.reopen_classes, bit); /* there may be more */
    pool_reopen_superslab(best);
    return true;
}
