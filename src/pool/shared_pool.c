/* shared_pool.c - see shared_pool.h.
 * Owns     the pool lock; the buckets of HOT SuperSlabs, the list of DRAINING ones; the slots' UNUSED and EMPTY masks.
 * Called by  front/, span.c, api/introspect.c     Calls  class_set.h, tier.h, release.h, slab.h, arena.h
 * Threads  any. Slots, buckets and tiers under the lock; slabs by their ctl word (slab.h).
 * I1  A POOLED SuperSlab is in exactly one list: the bucket of its number of free slots if HOT, the draining list if
 * not.
 * I2  A slot is in unused_slots  <=> its ctl is UNUSED, in empty_slots <=> EMPTY, in neither <=> TAKEN or ACTIVE.
 * I3  A SuperSlab leaves the pool only when all its slots are in the masks and nobody refers to it (release guard),
 * under
 *     the same lock that hands its slots out; so no slab of it can be acquired meanwhile.
 * I4  A slab has one owner at a time: the slot is handed out under the lock to one thread, or won by a
 * compare-exchange.
 * Why buckets: the fullest HOT SuperSlab (fewest free slots) comes first, so that the emptiest get a chance to become
 * empty.
 */
#include "pool/shared_pool.h"

#include "meta/arena.h"
#include "os/lock.h"
#include "os/os.h"
#include "pool/background.h"
#include "pool/idle.h"
#include "pool/release.h"
#include "service/budget.h"
#include "service/config.h"
#include "service/event.h"
#include "service/report.h"
#include "service/stats.h"

#define N_BUCKETS (SUPERSLAB_SLABS + 1) /* by number of free slots */
#define SCAN_LIMIT 32                   /* SuperSlabs looked at for a row of slots, per bucket */
#define WAKE_EVERY 16                   /* slabs that became sparser */
#define QUIET_TICKS 2                   /* so many ticks, half a delay apart, make the delay */
#define QUIET_DONE UINT8_MAX            /* its free pages were given back */
#define HUGE_WORTH_BYTES (SUPERSLAB_BYTES / 16)

static struct lock lock;
static __thread uint64_t lock_self; /* its address names this thread to the lock */

static struct {
    struct superslab *bucket[N_BUCKETS];
    struct superslab *draining;
    uint64_t bucket_bits;              /* bit k: bucket k is not empty */
    size_t n_active_slots;             /* slots of POOLED SuperSlabs that are neither UNUSED nor EMPTY */
    _Atomic size_t n_empty_slots;      /* EMPTY slots of all POOLED SuperSlabs. Written under the lock */
    _Atomic uint64_t draining_classes; /* bit: PARTIAL slabs of the class may be in DRAINING SuperSlabs */
    _Atomic size_t n_sparser;          /* slabs that became sparser since the last tick */
    _Atomic size_t waiting_bytes;      /* inside slabs in use, that the last tick left to a later one */
} pool;

/* ---- The lock --------------------------------------------------------------------------------------------------- */

bool pool_lock(enum hak_lock_cause cause)
{
    enum lock_result result = lock_take(&lock, (uintptr_t)&lock_self);
    if (unlikely(result == LOCK_SELF))
        return false;
    stats_add(&stats_counters.lock_acquisitions[cause], 1);
    if (result == LOCK_TAKEN_AFTER_WAIT)
        stats_add(&stats_counters.lock_contended, 1);
    return true;
}

bool pool_try_lock(enum hak_lock_cause cause)
{
    if (!lock_try(&lock, (uintptr_t)&lock_self))
        return false;
    stats_add(&stats_counters.lock_acquisitions[cause], 1);
    return true;
}

bool pool_lock_is_mine(void)
{
    return lock_owner(&lock) == (uintptr_t)&lock_self;
}

void pool_unlock(void)
{
    lock_drop(&lock);
}

/* ---- Lists of SuperSlabs (lock held) ----------------------------------------------------------------------------- */

static enum superslab_tier tier_of(const struct superslab *ss)
{
    return (enum superslab_tier)atomic_load(&ss->tier);
}

static unsigned free_slots(const struct superslab *ss)
{
    return count_bits(ss->unused_slots | ss->empty_slots);
}

static struct superslab **list_of(struct superslab *ss)
{
    return tier_of(ss) == SS_TIER_DRAINING ? &pool.draining : &pool.bucket[ss->bucket];
}

static void link_superslab(struct superslab *ss)
{
    ss->bucket = (uint8_t)free_slots(ss);
    struct superslab **list = list_of(ss);
    ss->previous = NULL;
    ss->next = *list;
    if (*list != NULL)
        (*list)->previous = ss;
    *list = ss;
    if (list != &pool.draining)
        pool.bucket_bits |= (uint64_t)1 << ss->bucket;
}

static void unlink_superslab(struct superslab *ss)
{
    struct superslab **list = list_of(ss);
    *(ss->previous != NULL ? &ss->previous->next : list) = ss->next;
    if (ss->next != NULL)
        ss->next->previous = ss->previous;
    ss->previous = ss->next = NULL;
    if (list != &pool.draining && *list == NULL)
        pool.bucket_bits &= ~((uint64_t)1 << ss->bucket);
}

/* The number of free slots changed. */
static void relink_superslab(struct superslab *ss)
{
    if (ss->bucket != free_slots(ss)) {
        unlink_superslab(ss);
        link_superslab(ss);
    }
}

void pool_add_superslab(struct superslab *ss)
{
    ss->state = SUPERSLAB_POOLED;
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
    atomic_fetch_add(&pool.n_empty_slots, count_bits(ss->empty_slots));
    link_superslab(ss);
}

/* Takes an empty SuperSlab out of the pool. */
static void detach_superslab(struct superslab *ss)
{
    unlink_superslab(ss);
    atomic_fetch_sub(&pool.n_empty_slots, count_bits(ss->empty_slots));
    atomic_store(&ss->tier, SS_TIER_FREE);
    ss->state = SUPERSLAB_LEAVING;
    ss->dirty_by_slab = ss->empty_slots != 0;
    stats_add(&stats_counters.tier_to_free, 1);
    EVENT("superslab empty ss=%p unused=%u empty=%u", superslab_memory(ss), count_bits(ss->unused_slots),
          count_bits(ss->empty_slots));
}

/* ---- Tiers ------------------------------------------------------------------------------------------------------- */

struct tier_use superslab_use(const struct superslab *ss)
{
    struct tier_use use = {0};
    for (unsigned i = 0; i < SUPERSLAB_SLABS; i++) {
        slab_ctl ctl = slab_ctl_read(superslab_slab(ss, i));
        switch (CTL_STATE(ctl)) {
        case SLAB_UNUSED:
        case SLAB_EMPTY:
        case SLAB_TAKEN:
            break;
        case SLAB_SPAN_HEAD:
        case SLAB_SPAN_BODY:
            use.active_slots++;
            use.used_bytes += SLAB_BYTES;
            use.capacity_bytes += SLAB_BYTES;
            break;
        default: {
            const struct class_info *class = &class_table[CTL_CLASS(ctl)];
            if (CTL_USED(ctl) == 0)
                break; /* idle: as good as EMPTY */
            use.active_slots++;
            use.used_bytes += (size_t)CTL_USED(ctl) * class->bytes;
            use.capacity_bytes += (size_t) class->n_blocks * class->bytes;
        }
        }
    }
    return use;
}

static void note_draining(unsigned class_id)
{
    uint64_t bit = (uint64_t)1 << class_id;
    if ((atomic_load_explicit(&pool.draining_classes, memory_order_relaxed) & bit) == 0) /* relaxed, both: a hint */
        atomic_fetch_or_explicit(&pool.draining_classes, bit, memory_order_relaxed);
}

/* Enters or hides the PARTIAL slabs of a SuperSlab whose tier has just changed. */
static void list_slabs(struct superslab *ss, bool enter)
{
    for (unsigned i = 0; i < SUPERSLAB_SLABS; i++) {
        struct slab *slab = superslab_slab(ss, i);
        slab_ctl ctl = atomic_load(&slab->ctl);
        size_t index = (size_t)(slab - ss->arena->slabs);
        if (CTL_STATE(ctl) != SLAB_PARTIAL)
            continue;
        (enter ? class_set_enter : class_set_hide)(ss->arena, CTL_CLASS(ctl), index);
        if (!enter)
            note_draining(CTL_CLASS(ctl));
    }
}

/* Looks whether the tier changes, and changes it. Lock held. */
static void evaluate_tier(struct superslab *ss)
{
    enum superslab_tier now = tier_of(ss);
    if (ss->state != SUPERSLAB_POOLED || now != SS_TIER_HOT)
        return;
    if (tier_next(now, atomic_load(&ss->rising), superslab_use(ss)) == SS_TIER_DRAINING) {
        unlink_superslab(ss);
        atomic_store(&ss->tier, SS_TIER_DRAINING);
        link_superslab(ss);
        list_slabs(ss, false);
        stats_add(&stats_counters.tier_hot_to_draining, 1);
        EVENT("superslab draining ss=%p free=%u", superslab_memory(ss), free_slots(ss));
    }
}

static bool is_sparse(const struct superslab *ss)
{
    return tier_of(ss) == SS_TIER_HOT && !atomic_load(&ss->rising) &&
           tier_next(SS_TIER_HOT, false, superslab_use(ss)) == SS_TIER_DRAINING;
}

/* A slab's use fell. Without a delay the SuperSlab drains at once, if it is to; otherwise shared_pool_tick sees to it.
 * Looks without the lock first: most SuperSlabs stay as they are. */
static void consider_draining(struct superslab *ss)
{
    if (budget_purge_delay_ms() == 0 && is_sparse(ss) && pool_lock(HAK_LOCK_TIER)) {
        evaluate_tier(ss);
        pool_unlock();
    }
}

/* A slab became full. */
static void consider_risen(struct superslab *ss)
{
    if (atomic_load_explicit(&ss->rising, memory_order_relaxed) && !tier_still_rising(true, superslab_use(ss)))
        atomic_store(&ss->rising, 0);
}

static void reopen(struct superslab *ss)
{
    unlink_superslab(ss);
    atomic_store(&ss->tier, SS_TIER_HOT);
    atomic_store(&ss->rising, 1);
    link_superslab(ss);
    list_slabs(ss, true);
    stats_add(&stats_counters.tier_draining_to_hot, 1);
    EVENT("superslab reopened ss=%p free=%u", superslab_memory(ss), free_slots(ss));
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

static uint32_t slot_mask(unsigned slot, unsigned n)
{
    return (uint32_t)((((uint64_t)1 << n) - 1) << slot);
}

static void take_slots_out(struct superslab *ss, uint32_t mask)
{
    atomic_fetch_sub(&pool.n_empty_slots, count_bits(ss->empty_slots & mask));
    pool.n_active_slots += count_bits(mask);
    ss->unused_slots &= ~mask;
    ss->empty_slots &= ~mask;
    ss->aged_slots &= ~mask;
    for (uint32_t rest = mask; rest != 0; rest &= rest - 1) /* a fork's child must see that somebody has them */
        atomic_store_explicit(&superslab_slab(ss, (unsigned)__builtin_ctz(rest))->ctl, SLAB_CTL(SLAB_TAKEN, 0, 0),
                              memory_order_release);
    relink_superslab(ss);
}

bool pool_take_slots(unsigned n, unsigned align_slots, struct superslab **out_ss, unsigned *out_slot)
{
    uint64_t candidates = pool.bucket_bits & (UINT64_MAX << n);
    for (; candidates != 0; candidates &= candidates - 1) {
        struct superslab *ss = pool.bucket[__builtin_ctzll(candidates)];
        for (unsigned tries = 0; ss != NULL && tries < SCAN_LIMIT; ss = ss->next, tries++) {
            unsigned slot = find_slots(ss->empty_slots, n, align_slots); /* their pages are there already */
            if (slot == SUPERSLAB_SLABS)
                slot = find_slots(ss->unused_slots | ss->empty_slots, n, align_slots);
            if (slot == SUPERSLAB_SLABS)
                continue;
            take_slots_out(ss, slot_mask(slot, n));
            *out_ss = ss;
            *out_slot = slot;
            return true;
        }
    }
    return false;
}

bool pool_take_slots_at(struct superslab *ss, unsigned slot, unsigned n)
{
    uint32_t mask = slot_mask(slot, n);
    if (slot + n > SUPERSLAB_SLABS || tier_of(ss) != SS_TIER_HOT ||
        ((ss->unused_slots | ss->empty_slots) & mask) != mask)
        return false;
    take_slots_out(ss, slot_mask(slot, n));
    return true;
}

struct superslab *pool_put_slots(struct superslab *ss, unsigned slot, unsigned n)
{
    size_t index = (size_t)ss->index * SUPERSLAB_SLABS + slot;
    arena_set_class_map(ss->arena, index, n, CLASS_FOREIGN);
    for (unsigned i = slot; i < slot + n; i++)
        atomic_store_explicit(&superslab_slab(ss, i)->ctl, SLAB_CTL(SLAB_EMPTY, 0, 0), memory_order_release);
    ss->empty_slots |= slot_mask(slot, n);
    pool.n_active_slots -= n;
    atomic_fetch_add(&pool.n_empty_slots, n);
    relink_superslab(ss);
    if (free_slots(ss) == SUPERSLAB_SLABS) {
        detach_superslab(ss);
        return ss;
    }
    if (budget_purge_delay_ms() == 0)
        evaluate_tier(ss);
    return NULL;
}

bool pool_reopen(unsigned n, unsigned class_id)
{
    struct superslab *best = NULL;
    unsigned best_free = SUPERSLAB_SLABS + 1, tries = 0;
    /* The best of the first that help: all are looked at only while none does, which is still cheaper than new
     * memory. */
    for (struct superslab *ss = pool.draining; ss != NULL && (best == NULL || tries < SCAN_LIMIT);
         ss = ss->next, tries++) {
        uint32_t free = ss->unused_slots | ss->empty_slots;
        bool helps = find_slots(free, n == 0 ? 1 : n, 1) != SUPERSLAB_SLABS;
        for (unsigned i = 0; n == 0 && !helps && i < SUPERSLAB_SLABS; i++) {
            slab_ctl ctl = slab_ctl_read(superslab_slab(ss, i));
            helps = CTL_STATE(ctl) == SLAB_PARTIAL && CTL_CLASS(ctl) == class_id;
        }
        if (helps && free_slots(ss) < best_free) {
            best = ss;
            best_free = free_slots(ss);
        }
    }
    if (best != NULL)
        reopen(best);
    return best != NULL;
}

/* ---- Acquire ----------------------------------------------------------------------------------------------------- */

/* Owns a slab that was found in the class's list. False: it is no longer to be had. */
static bool own_listed(struct arena *arena, unsigned class_id, size_t index)
{
    struct slab *slab = &arena->slabs[index];
    bool owned = slab_own(slab, class_id);
    class_set_drop(arena, class_id, index);
    if (owned && tier_of(slab->superslab) == SS_TIER_DRAINING) {
        shared_pool_disown_slab(slab); /* Its SuperSlab began to drain after its bit was found. */
        return false;
    }
    return owned;
}

static struct slab *acquire_from_class_list(unsigned class_id)
{
    for (struct arena *arena = arena_first(); arena != NULL; arena = arena_next(arena)) {
        for (size_t i = class_set_find(arena, class_id, 0); i != SIZE_MAX; i = class_set_find(arena, class_id, i + 1))
            if (own_listed(arena, class_id, i))
                return &arena->slabs[i];
    }
    return NULL;
}

/* Reopens a DRAINING SuperSlab that has recycled blocks of the class. */
static bool reopen_recycled(unsigned class_id)
{
    uint64_t bit = (uint64_t)1 << class_id;
    unsigned tries = 0;
    struct superslab *ss;
    /* relaxed, both: a hint, and the lock decides */
    if ((atomic_load_explicit(&pool.draining_classes, memory_order_relaxed) & bit) == 0 || !pool_lock(HAK_LOCK_TIER))
        return false;
    atomic_fetch_and_explicit(&pool.draining_classes, ~bit, memory_order_relaxed);
    for (ss = pool.draining; ss != NULL && tries < SCAN_LIMIT; ss = ss->next, tries++)
        for (unsigned i = 0; i < SUPERSLAB_SLABS; i++)
            if (slab_maybe_recycled(superslab_slab(ss, i), class_id)) {
                note_draining(class_id); /* there may be more */
                reopen(ss);
                pool_unlock();
                stats_add(&stats_counters.stage_reopen, 1);
                return true;
            }
    pool_unlock();
    return false;
}

static struct slab *find_recycled(unsigned class_id, const struct slab *fresh)
{
    for (struct arena *arena = arena_first(); arena != NULL; arena = arena_next(arena)) {
        size_t i = class_set_find(arena, class_id, 0);
        struct slab *slab = i == SIZE_MAX ? NULL : &arena->slabs[i];
        if (slab != NULL && (slab < fresh || slab_maybe_recycled(slab, class_id)) && own_listed(arena, class_id, i)) {
            stats_add(&stats_counters.stage_class_list, 1);
            return slab;
        }
    }
    return NULL;
}

struct slab *shared_pool_acquire_recycled(unsigned class_id, const struct slab *fresh)
{
    struct slab *slab = find_recycled(class_id, fresh);
    return slab == NULL && reopen_recycled(class_id) ? find_recycled(class_id, fresh) : slab;
}

void *shared_pool_claim_in_memory(unsigned class_id)
{
    for (struct arena *arena = arena_first(); arena != NULL; arena = arena_next(arena)) {
        for (size_t i = class_set_find(arena, class_id, 0); i != SIZE_MAX; i = class_set_find(arena, class_id, i + 1)) {
            if (!own_listed(arena, class_id, i))
                continue;
            void *block = slab_claim_in_memory(&arena->slabs[i]);
            shared_pool_disown_slab(&arena->slabs[i]);
            if (block != NULL)
                return block;
        }
    }
    return NULL;
}

static struct slab *open_slot(struct superslab *ss, unsigned slot, unsigned class_id)
{
    struct slab *slab = superslab_slab(ss, slot);
    if (slab->last_class != 0 && slab->last_class != class_id)
        stats_add(&stats_counters.slot_reuses_other_class, 1);
    slab_open(slab, ss, slot, class_id);
    arena_set_class_map(ss->arena, (size_t)(slab - ss->arena->slabs), 1, (uint8_t)(class_id * CLASS_OFFSET_SCALE));
    return slab;
}

/* Brings an empty SuperSlab into the pool and takes its first slot. */
static struct slab *acquire_from_new(struct superslab *ss, unsigned class_id)
{
    if (!pool_lock(HAK_LOCK_ACQUIRE_SLAB))
        return NULL;
    pool_add_superslab(ss);
    unsigned slot = find_slots(ss->unused_slots | ss->empty_slots, 1, 1);
    take_slots_out(ss, slot_mask(slot, 1));
    pool_unlock();
    return open_slot(ss, slot, class_id);
}

struct slab *shared_pool_acquire_slab(unsigned class_id)
{
    for (;;) {
        struct slab *slab = acquire_from_class_list(class_id); /* stage 1 */
        if (slab != NULL) {
            stats_add(&stats_counters.stage_class_list, 1);
            return slab;
        }
        if (!pool_lock(HAK_LOCK_ACQUIRE_SLAB))
            return NULL;
        struct superslab *ss;
        unsigned slot;
        if (atomic_load_explicit(&pool.n_empty_slots, memory_order_relaxed) == 0) { /* relaxed: under the lock */
            struct slab *waiting = pool_take_idle();
            if (waiting != NULL) { /* Its pages are in memory: better than an UNUSED slot. */
                pool_unlock();
                shared_pool_retire(waiting);
                continue;
            }
        }
        if (pool_take_slots(1, 1, &ss, &slot)) { /* stage 2 */
            pool_unlock();
            stats_add(&stats_counters.stage_slot, 1);
            return open_slot(ss, slot, class_id);
        }
        if (pool_reopen(0, class_id)) {
            pool_unlock();
            stats_add(&stats_counters.stage_reopen, 1);
            continue; /* It offers slabs of the class, or slots. */
        }
        ss = lru_take(1, SUPERSLAB_BYTES); /* stage 3 */
        pool_unlock();
        if (ss != NULL) {
            stats_add(&stats_counters.stage_lru, 1);
        } else {
            ss = superslab_map(1, SUPERSLAB_BYTES);
            if (ss == NULL)
                return NULL;
            stats_add(&stats_counters.stage_os, 1);
        }
        if (superslab_is_clean(ss)) /* Old pages are better than new ones, large or small. */
            superslab_choose_pages(ss, 1, huge_pages_for_slabs(ss) ? 1 : 0);
        return acquire_from_new(ss, class_id);
    }
}

/* ---- Return and release ------------------------------------------------------------------------------------------ */

/* The slab is PARTIAL, and may be anybody's by now: what is asked of it must not depend on its record. */
static void list_slab(struct slab *slab, unsigned class_id)
{
    struct superslab *ss = arena_superslab_of(slab);
    if (tier_of(ss) != SS_TIER_DRAINING)
        class_set_enter(ss->arena, class_id, (size_t)(slab - ss->arena->slabs));
    else
        note_draining(class_id);
}

static void release_retiring(struct slab *slab)
{
    struct superslab *ss = slab->superslab;
    shared_pool_release_slab(ss, (unsigned)((size_t)(slab - ss->arena->slabs) % SUPERSLAB_SLABS));
}

struct slab *pool_take_idle(void)
{
    return idle_pop(0, 0);
}

void shared_pool_retire(struct slab *slab)
{
    slab_ctl ctl = slab_ctl_read(slab);
    if (CTL_STATE(ctl) != SLAB_PARTIAL || CTL_USED(ctl) != 0 || !slab_own(slab, CTL_CLASS(ctl)))
        return;
    class_set_drop(slab->superslab->arena, CTL_CLASS(ctl), (size_t)(slab - slab->superslab->arena->slabs));
    switch (slab_disown(slab)) {
    case SLAB_RETURN_LISTABLE: /* It was used in between. */
        list_slab(slab, CTL_CLASS(ctl));
        break;
    case SLAB_RETURN_RETIRING:
        release_retiring(slab);
        break;
    default:
        break;
    }
}

/* A slab has lost its last block and is RETIRING, by us: it waits in its class's list for shared_pool_tick, unless its
 * SuperSlab drains. */
static void let_wait(struct slab *slab)
{
    if (budget_purge_delay_ms() == 0 || tier_of(slab->superslab) == SS_TIER_DRAINING ||
        !pool_lock(HAK_LOCK_RELEASE_SLAB)) {
        release_retiring(slab);
        return;
    }
    unsigned class_id = CTL_CLASS(slab_ctl_read(slab));
    slab_unretire(slab);
    list_slab(slab,
              class_id); /* Should its SuperSlab have begun to drain just now: the wait's end is its release too. */
    idle_push(slab, os_now_ms());
    pool_unlock();
    background_wake();
}

void shared_pool_retire_idle(void)
{
    for (;;) {
        if (!pool_lock(HAK_LOCK_TRIM))
            return;
        struct slab *slab = pool_take_idle();
        pool_unlock();
        if (slab == NULL)
            return;
        shared_pool_retire(slab);
    }
}

void shared_pool_disown_slab(struct slab *slab)
{
    slab_ctl ctl = slab_ctl_read(slab); /* ours: the class cannot change */
    unsigned class_id = CTL_CLASS(ctl);
    switch (slab_disown(slab)) {
    case SLAB_RETURN_LISTABLE:
        list_slab(slab, class_id);
        /* While its slabs are each more than a quarter full, so is the SuperSlab. */
        if (CTL_USED(ctl) * 4 <= class_table[class_id].n_blocks)
            consider_draining(arena_superslab_of(slab));
        break;
    case SLAB_RETURN_RETIRING:
        let_wait(slab);
        break;
    default:
        consider_risen(arena_superslab_of(slab));
    }
}

uint64_t shared_pool_return_blocks(struct slab *slab, unsigned word, uint64_t mask)
{
    uint64_t doubly;
    budget_note_freed();
    unsigned class_id = CTL_CLASS(slab_ctl_read(slab)); /* we hold a block of it: the class cannot change */
    switch (slab_return_blocks(slab, word, mask, &doubly)) {
    case SLAB_RETURN_LISTABLE:
        list_slab(slab, class_id);
        if (count_bits(mask) * 4 >= class_table[class_id].n_blocks * 3u) /* from full to a quarter in one step */
            consider_draining(arena_superslab_of(slab));
        break;
    case SLAB_RETURN_SPARSER:
        consider_draining(arena_superslab_of(slab));
        if (atomic_fetch_add_explicit(&pool.n_sparser, 1, memory_order_relaxed) % WAKE_EVERY ==
            0) /* relaxed: a number */
            background_wake();
        break;
    case SLAB_RETURN_RETIRING:
        let_wait(slab);
        break;
    case SLAB_RETURN_NOTHING:
        break;
    }
    return doubly;
}

/* Why a release is refused, lock held. */
static enum release_result check_release(struct superslab *ss, unsigned slab_idx)
{
    if (ss->state != SUPERSLAB_POOLED)
        return RELEASE_BAD_ARGUMENT;
    slab_ctl ctl = slab_ctl_read(superslab_slab(ss, slab_idx));
    if (CTL_STATE(ctl) != SLAB_RETIRING)
        return RELEASE_NOT_RETIRING;
    if (CTL_USED(ctl) != 0)
        return RELEASE_IN_USE;
    return atomic_load_explicit(&ss->pins, memory_order_acquire) != 0 ? RELEASE_PINNED : RELEASE_DONE;
}

enum release_result shared_pool_release_slab(struct superslab *ss, unsigned slab_idx)
{
    if (ss == NULL || slab_idx >= SUPERSLAB_SLABS)
        return RELEASE_BAD_ARGUMENT;
    struct slab *slab = superslab_slab(ss, slab_idx);
    unsigned class_id = CTL_CLASS(slab_ctl_read(slab));
    if (!pool_lock(HAK_LOCK_RELEASE_SLAB)) {
        if (CTL_STATE(slab_ctl_read(slab)) == SLAB_RETIRING) {
            slab_unretire(slab); /* In a signal handler that interrupted the lock's holder: somebody else's turn. */
            list_slab(slab, class_id);
        }
        return RELEASE_PINNED;
    }
    enum release_result result = check_release(ss, slab_idx);
    if (result != RELEASE_DONE) {
        if (result == RELEASE_PINNED) {
            stats_add(&stats_counters.release_refused_pinned, 1);
            EVENT("slab skip, pinned ss=%p slab=%u class=%u", superslab_memory(ss), slab_idx, class_id);
            slab_unretire(slab);
            list_slab(slab, class_id); /* under the lock: unpin then finds it */
        }
        pool_unlock();
        return result;
    }
    idle_remove(slab);
    EVENT("slab release ss=%p slab=%u class=%u empty=%u", superslab_memory(ss), slab_idx, class_id, free_slots(ss) + 1);
    stats_add(&stats_counters.slabs_released, 1);
    struct superslab *freed = pool_put_slots(ss, slab_idx, 1);
    EVENT("free-list push ss=%p slab=%u empties=%z", superslab_memory(ss), slab_idx, atomic_load(&pool.n_empty_slots));
    bool eager = freed != NULL && release_guard_agrees(freed);
    if (freed != NULL && !eager)
        lru_push(freed, 1);
    pool_unlock();
    if (eager)
        release_superslab(freed);
    else if (freed != NULL)
        release_evicted();
    else
        shared_pool_slots_emptied(HAK_LOCK_RELEASE_SLAB);
    return RELEASE_DONE;
}

/* ---- Pins -------------------------------------------------------------------------------------------------------- */

bool shared_pool_pin(struct superslab *ss)
{
    if (!pool_lock(HAK_LOCK_TRIM))
        return false;
    bool pooled = ss->state == SUPERSLAB_POOLED;
    if (pooled)
        atomic_fetch_add_explicit(&ss->pins, 1, memory_order_relaxed); /* relaxed: the guard reads it under the lock */
    pool_unlock();
    return pooled;
}

void shared_pool_unpin(struct superslab *ss)
{
    /* Empty slabs left behind are released while we still hold the last reference to the record, which is never
     * unmapped. */
    if (!pool_lock(HAK_LOCK_TRIM))
        return; /* A handler that interrupts the lock's holder leaves the SuperSlab pinned: it is not given back. */
    bool last = atomic_fetch_sub_explicit(&ss->pins, 1, memory_order_release) == 1;
    pool_unlock();
    if (last)
        for (unsigned i = 0; i < SUPERSLAB_SLABS; i++)
            shared_pool_retire(superslab_slab(ss, i)); /* their release was refused while somebody referred to ss */
}

/* ---- Purging ----------------------------------------------------------------------------------------------------- */

void shared_pool_slots_emptied(enum hak_lock_cause cause)
{
    size_t most = budget_presses() ? 0 : config.empty_slabs;
    if (atomic_load_explicit(&pool.n_empty_slots, memory_order_relaxed) <= most)
        return;
    if (budget_purge_delay_ms() == 0)
        shared_pool_purge_empty(most / 2, cause);
    else
        background_wake();
}

/* The SuperSlab with the most free slots that has EMPTY ones, HOT or DRAINING. Lock held. */
static struct superslab *find_purgeable(void)
{
    unsigned tries = 0;
    for (struct superslab *ss = pool.draining; ss != NULL && tries < SCAN_LIMIT; ss = ss->next, tries++)
        if (ss->empty_slots != 0)
            return ss;
    for (uint64_t bits = pool.bucket_bits; bits != 0;) {
        unsigned k = 63 - (unsigned)__builtin_clzll(bits);
        for (struct superslab *ss = pool.bucket[k]; ss != NULL; ss = ss->next)
            if (ss->empty_slots != 0)
                return ss;
        bits &= ~((uint64_t)1 << k);
    }
    for (struct superslab *ss = pool.draining; ss != NULL; ss = ss->next)
        if (ss->empty_slots != 0)
            return ss;
    return NULL;
}

/* Gives back the pages of the slots in mask, which are TAKEN. Returns the slots whose pages are gone. */
static uint32_t purge_slots(struct superslab *ss, uint32_t mask)
{
    uint32_t purged = 0;
    for (unsigned slot = 0; slot < SUPERSLAB_SLABS;) {
        unsigned n = 0;
        while (slot + n < SUPERSLAB_SLABS && (mask >> (slot + n) & 1) != 0)
            n++;
        if (n > 0 && os_purge(superslab_memory(ss) + slot * SLAB_BYTES, n * SLAB_BYTES))
            purged |= slot_mask(slot, n);
        slot += n + 1;
    }
    return purged;
}

/* Gives back the pages of EMPTY slots of a SuperSlab. Lock held, but given up meanwhile; false: it could not be taken
 * again, or the system refuses. */
static bool purge_empty_slots(struct superslab *ss, uint32_t mask, enum hak_lock_cause cause)
{
    take_slots_out(ss, mask);
    pool_unlock();

    superslab_use_small_pages(ss);
    uint32_t purged = purge_slots(ss, mask); /* Not in the masks: neither handed out nor given back meanwhile. */
    stats_add(&stats_counters.purged_bytes, count_bits(purged) * SLAB_BYTES);

    if (!pool_lock(cause))
        return false;
    for (unsigned i = 0; i < SUPERSLAB_SLABS; i++) {
        struct slab *slab = superslab_slab(ss, i);
        if ((mask >> i & 1) == 0)
            continue;
        if (purged >> i & 1) {
            stats_commit(-(int64_t)slab_dirty_bytes(slab));
            atomic_store_explicit(&slab->dirty_pages, 0, memory_order_relaxed); /* relaxed: ctl publishes it */
        }
        atomic_store_explicit(&slab->ctl, SLAB_CTL(purged >> i & 1 ? SLAB_UNUSED : SLAB_EMPTY, 0, 0),
                              memory_order_release);
    }
    ss->unused_slots |= purged;
    ss->empty_slots |= mask & ~purged;
    pool.n_active_slots -= count_bits(mask);
    atomic_fetch_add(&pool.n_empty_slots, count_bits(mask & ~purged));
    relink_superslab(ss);
    if (free_slots(ss) == SUPERSLAB_SLABS) { /* Its other slots were put back while these were being purged. */
        detach_superslab(ss);
        bool eager = release_guard_agrees(ss);
        if (!eager)
            lru_push(ss, 1);
        pool_unlock();
        if (eager)
            release_superslab(ss);
        else
            release_evicted();
        if (!pool_lock(cause))
            return false;
    }
    return purged == mask;
}

void shared_pool_purge_empty(size_t keep, enum hak_lock_cause cause)
{
    if (!pool_lock(cause))
        return;
    while (atomic_load_explicit(&pool.n_empty_slots, memory_order_relaxed) > keep) {
        struct superslab *ss = find_purgeable();
        if (ss == NULL)
            break;
        if (!purge_empty_slots(ss, ss->empty_slots, cause)) {
            if (!pool_lock_is_mine())
                return;
            break; /* The system refuses: try again another time. */
        }
    }
    pool_unlock();
}

/* ---- What time brings -------------------------------------------------------------------------------------------- */

/* Without the lock, so by the slabs' own words, not by the mask. */
static bool any_slot_empty(const struct superslab *ss)
{
    for (unsigned i = 0; i < SUPERSLAB_SLABS; i++)
        if (CTL_STATE(slab_ctl_read(superslab_slab(ss, i))) == SLAB_EMPTY)
            return true;
    return false;
}

/* A tick drains a SuperSlab that was sparse at the last one too, and purges its slots that were EMPTY then. */
static void tick_slots(struct superslab *ss)
{
    bool sparse = is_sparse(ss);
    if (!sparse && atomic_load(&ss->sparse_ticks) == 0 && !any_slot_empty(ss))
        return;
    if (!pool_lock(HAK_LOCK_TIER))
        return;
    if (ss->state == SUPERSLAB_POOLED) {
        uint32_t ticks = sparse ? atomic_load(&ss->sparse_ticks) + 1 : 0;
        atomic_store(&ss->sparse_ticks, ticks);
        if (ticks > 1)
            evaluate_tier(ss);
        uint32_t aged = ss->aged_slots & ss->empty_slots;
        ss->aged_slots = ss->empty_slots & ~aged;
        if (aged != 0 && !purge_empty_slots(ss, aged, HAK_LOCK_TIER) && !pool_lock_is_mine())
            return;
    }
    pool_unlock();
}

/* Gives back the free pages of a PARTIAL slab. Returns their bytes. */
static size_t purge_slab(struct slab *slab, unsigned class_id)
{
    if (!slab_own(slab, class_id))
        return 0;
    class_set_drop(slab->superslab->arena, class_id, (size_t)(slab - slab->superslab->arena->slabs));
    size_t purged_bytes = slab_purge_free_pages(slab);
    shared_pool_disown_slab(slab);
    return purged_bytes;
}

/* Whether a slab in use has been left alone for so long that its free pages may go. What may go at a later tick is added
 * to *waiting_bytes. */
static bool slab_is_quiet(struct slab *slab, slab_ctl ctl, size_t *waiting_bytes)
{
    size_t free_bytes = slab_free_bytes_in_memory(slab, ctl);
    if (free_bytes < slab_page_bytes())
        return false;
    /* relaxed, all: hints, and ticks are alone but for unlikely moments */
    unsigned ticks = atomic_load_explicit(&slab->quiet_ticks, memory_order_relaxed);
    if (CTL_USED(ctl) != atomic_load_explicit(&slab->seen_used, memory_order_relaxed))
        ticks = 0;
    else if (ticks == QUIET_DONE)
        return false;
    atomic_store_explicit(&slab->seen_used, (uint16_t)CTL_USED(ctl), memory_order_relaxed);
    atomic_store_explicit(&slab->quiet_ticks, (uint8_t)(ticks < QUIET_TICKS ? ticks + 1 : ticks), memory_order_relaxed);
    if (ticks == QUIET_TICKS)
        return true;
    *waiting_bytes += free_bytes;
    return false;
}

void shared_pool_note_quiet(struct slab *slab)
{
    /* relaxed, all three: hints */
    atomic_store_explicit(&slab->seen_used, (uint16_t)CTL_USED(slab_ctl_read(slab)), memory_order_relaxed);
    atomic_store_explicit(&slab->quiet_ticks, QUIET_TICKS, memory_order_relaxed);
}

void shared_pool_discount(struct slab *slab)
{
    atomic_fetch_sub_explicit(&slab->seen_used, 1, memory_order_relaxed);
}

/* A tick gives back the free pages of slabs that the last QUIET_TICKS ticks found with the same number of blocks in use.
 * A huge page is not broken up for less than HUGE_WORTH_BYTES. Returns the bytes that later ticks may give back. */
static size_t tick_slabs(struct superslab *ss)
{
    size_t waiting_bytes = 0, quiet_bytes = 0, purged_bytes = 0;
    uint32_t quiet = 0;
    for (unsigned i = 0; i < SUPERSLAB_SLABS; i++) {
        struct slab *slab = superslab_slab(ss, i);
        slab_ctl ctl = slab_ctl_read(slab);
        if (CTL_STATE(ctl) == SLAB_PARTIAL && CTL_USED(ctl) != 0 && slab_is_quiet(slab, ctl, &waiting_bytes)) {
            quiet |= 1u << i;
            quiet_bytes += slab_free_bytes_in_memory(slab, ctl);
        }
    }
    if (quiet == 0 || (atomic_load(&ss->huge) && quiet_bytes < HUGE_WORTH_BYTES))
        return waiting_bytes;
    superslab_use_small_pages(ss);
    for (; quiet != 0; quiet &= quiet - 1) {
        struct slab *slab = superslab_slab(ss, (unsigned)__builtin_ctz(quiet));
        purged_bytes += purge_slab(slab, CTL_CLASS(slab_ctl_read(slab)));
        atomic_store_explicit(&slab->quiet_ticks, QUIET_DONE, memory_order_relaxed); /* relaxed: as above */
    }
    stats_add(&stats_counters.purged_bytes, purged_bytes);
    return waiting_bytes;
}

static void retire_old_slabs(uint32_t now_ms)
{
    for (;;) {
        if (!pool_lock(HAK_LOCK_RELEASE_SLAB))
            return;
        struct slab *slab = idle_pop(now_ms, budget_purge_delay_ms());
        pool_unlock();
        if (slab == NULL)
            return;
        shared_pool_retire(slab);
    }
}

void shared_pool_tick(void)
{
    uint32_t now_ms = os_now_ms();
    size_t waiting_bytes = 0;
    retire_old_slabs(now_ms);
    atomic_store_explicit(&pool.n_sparser, 0, memory_order_relaxed); /* relaxed: they are looked at from here on */
    for (struct arena *arena = arena_first(); arena != NULL; arena = arena_next(arena))
        for (uint32_t i = 0; i < atomic_load_explicit(&arena->high, memory_order_acquire); i++) {
            struct superslab *ss = &arena->superslabs[i];
            /* A racy look: the next tick sees what this one misses. A record that was never used has no arena yet. */
            if (atomic_load_explicit(&ss->state, memory_order_acquire) != SUPERSLAB_POOLED)
                continue;
            waiting_bytes += tick_slabs(ss);
            tick_slots(ss);
        }
    atomic_store_explicit(&pool.waiting_bytes, waiting_bytes, memory_order_relaxed); /* relaxed: a number */
    lru_expire(now_ms, budget_purge_delay_ms());
}

size_t shared_pool_idle_bytes(void)
{
    /* relaxed: a guess, like all of them */
    size_t n_empty = atomic_load_explicit(&pool.n_empty_slots, memory_order_relaxed);
    size_t n_sparser = atomic_load_explicit(&pool.n_sparser, memory_order_relaxed);
    return (n_empty + idle_count() + n_sparser / 2 + (size_t)lru_count() * SUPERSLAB_SLABS) * SLAB_BYTES +
           atomic_load_explicit(&pool.waiting_bytes, memory_order_relaxed);
}

void shared_pool_purge_pages(void)
{
    size_t purged_bytes = 0;
    for (struct arena *arena = arena_first(); arena != NULL; arena = arena_next(arena)) {
        size_t n_slabs = (size_t)atomic_load_explicit(&arena->high, memory_order_acquire) * SUPERSLAB_SLABS;
        for (size_t i = 0; i < n_slabs; i++) {
            struct slab *slab = &arena->slabs[i];
            slab_ctl ctl = slab_ctl_read(slab);
            if (CTL_STATE(ctl) != SLAB_PARTIAL || slab_free_bytes_in_memory(slab, ctl) < slab_page_bytes())
                continue;
            superslab_use_small_pages(arena_superslab_of(slab));
            purged_bytes += purge_slab(slab, CTL_CLASS(ctl));
        }
    }
    stats_add(&stats_counters.purged_bytes, purged_bytes);
}

/* What committed_bytes should be, by the records. */
static uint64_t count_dirty_bytes(void)
{
    uint64_t sum_bytes = 0;
    for (struct arena *arena = arena_first(); arena != NULL; arena = arena_next(arena))
        for (uint32_t i = 0; i < atomic_load(&arena->high); i++)
            if (arena->superslabs[i].arena != NULL) /* else never used */
                sum_bytes += superslab_dirty_bytes(&arena->superslabs[i]);
    return sum_bytes;
}

/* ---- Fork -------------------------------------------------------------------------------------------------------- */

/* Files one SuperSlab anew by what its records say. */
static void rebuild_superslab(struct superslab *ss, bool interrupted)
{
    switch (atomic_load(&ss->state)) {
    case SUPERSLAB_POOLED:
        break;
    case SUPERSLAB_CACHED:
        pool_add_superslab(ss);
        return;
    case SUPERSLAB_RUN:
    case SUPERSLAB_RUN_BODY:
    case SUPERSLAB_ABSENT:
        return;
    default: /* MAPPING, LEAVING: in the hands of a thread that is gone, and empty */
        if (!interrupted) {
            superslab_forget_slots(ss, false);
            superslab_extend_dirty(ss, SUPERSLAB_BYTES);
            arena_put(ss, 1);
        }
        return;
    }
    ss->previous = ss->next = NULL;
    ss->unused_slots = ss->empty_slots = 0;
    for (unsigned i = 0; i < SUPERSLAB_SLABS; i++) {
        struct slab *slab = superslab_slab(ss, i);
        slab->idle_waits = 0;
        switch (CTL_STATE(slab_ctl_read(slab))) {
        case SLAB_UNUSED:
            ss->unused_slots |= 1u << i;
            break;
        case SLAB_RETIRING:
        case SLAB_TAKEN:
            if (interrupted)
                break;
            arena_set_class_map(ss->arena, (size_t)(slab - ss->arena->slabs), 1, CLASS_FOREIGN);
            atomic_store_explicit(&slab->ctl, SLAB_CTL(SLAB_EMPTY, 0, 0), memory_order_relaxed);
            ss->empty_slots |= 1u << i;
            break;
        case SLAB_EMPTY:
            ss->empty_slots |= 1u << i;
            break;
        default:
            break;
        }
    }
    pool.n_active_slots += SUPERSLAB_SLABS - free_slots(ss);
    atomic_fetch_add(&pool.n_empty_slots, count_bits(ss->empty_slots));
    link_superslab(ss);
}

void shared_pool_fork_child(bool interrupted)
{
    uintptr_t owner = lock_owner(&lock);
    if (owner == 0 || owner == (uintptr_t)&lock_self)
        return; /* Free, so the lists are whole; or held by this very thread, which goes on when its handler returns. */
    lock_reset(&lock);
    if (!pool_lock(HAK_LOCK_FORK))
        return;
    for (unsigned k = 0; k < N_BUCKETS; k++)
        pool.bucket[k] = NULL;
    pool.bucket_bits = 0;
    pool.draining = NULL;
    pool.n_active_slots = 0;
    atomic_store(&pool.n_empty_slots, 0);
    idle_forget();
    lru_forget();
    for (struct arena *arena = arena_first(); arena != NULL; arena = arena_next(arena))
        for (uint32_t i = 0; i < atomic_load(&arena->high); i++)
            rebuild_superslab(&arena->superslabs[i], interrupted);
    /* Those who counted may have been in the midst of it. */
    atomic_store_explicit(&stats_counters.committed_bytes, count_dirty_bytes(), memory_order_relaxed);
    pool_unlock();
}

/* ---- Checks ------------------------------------------------------------------------------------------------------ */

static const char *check_superslab(const struct superslab *ss)
{
    bool listed = false;
    for (struct superslab *other = *list_of((struct superslab *)(uintptr_t)ss); other != NULL; other = other->next)
        listed |= other == ss;
    if (!listed)
        return "a SuperSlab of the pool is in no list";
    for (unsigned i = 0; i < SUPERSLAB_SLABS; i++) {
        const struct slab *slab = superslab_slab(ss, i);
        slab_ctl ctl = slab_ctl_read(slab);
        enum slab_state state = CTL_STATE(ctl);
        bool unused = ss->unused_slots >> i & 1, empty = ss->empty_slots >> i & 1;
        unsigned offset = atomic_load(&ss->arena->class_map[slab - ss->arena->slabs]);
        if (unused != (state == SLAB_UNUSED) || empty != (state == SLAB_EMPTY))
            return "a slot's mask and state differ";
        if (state == SLAB_UNUSED && atomic_load(&slab->dirty_pages) != 0)
            return "an unused slot is dirty";
        if (state == SLAB_OWNED || state == SLAB_PARTIAL || state == SLAB_FULL) {
            if (offset != CTL_CLASS(ctl) * CLASS_OFFSET_SCALE)
                return "a slab's class and the class map differ";
            if (!slab_check(slab))
                return "a slab's bits and count differ";
            if (state == SLAB_FULL && !slab_counts_as_full(CTL_CLASS(ctl), CTL_USED(ctl)))
                return "a full slab has many free blocks";
        } else if (state == SLAB_SPAN_HEAD || state == SLAB_SPAN_BODY) {
            if (offset != CLASS_SPAN * CLASS_OFFSET_SCALE)
                return "a span and the class map differ";
        } else if (offset != CLASS_FOREIGN) {
            return "a slot without blocks is in the class map";
        }
    }
    return NULL;
}

const char *pool_check(void)
{
    for (struct arena *arena = arena_first(); arena != NULL; arena = arena_next(arena))
        for (uint32_t i = 0; i < atomic_load(&arena->high); i++) {
            const struct superslab *ss = &arena->superslabs[i];
            const char *wrong = ss->state == SUPERSLAB_POOLED ? check_superslab(ss) : NULL;
            if (wrong != NULL)
                return wrong;
        }
    return count_dirty_bytes() == stats_read(&stats_counters.committed_bytes)
               ? NULL
               : "pages handed out and committed bytes differ";
}
