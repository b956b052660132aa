/* shared_pool.c - slabs to threads and back: see shared_pool.h.
 * Owns     nothing: the lists are slots.c's.
 * Called by  front/, large.c and what it leads to     Calls  pool_state.h, class_set.h, gap.h, idle.h, release.h, dirty.h, slab.h, arena.h
 * Threads  any. Slots, buckets and tiers under the lock; slabs by their ctl word (slab.h).
 * I1  A SuperSlab leaves the pool only when all its slots are in the masks and nobody refers to it (release guard), under
 *     the same lock that hands its slots out; so no slab of it can be acquired meanwhile.
 * I2  A slab has one owner at a time: the slot is handed out under the lock to one thread, or won by a compare-exchange.
 */
#include "pool/shared_pool.h"

#include "meta/arena.h"
#include "os/os.h"
#include "pool/background.h"
#include "pool/dirty.h"
#include "pool/gap.h"
#include "pool/huge_pages.h"
#include "pool/idle.h"
#include "pool/lru.h"
#include "pool/pool_state.h"
#include "pool/release.h"
#include "service/budget.h"
#include "service/config.h"
#include "service/event.h"
#include "service/stats.h"

#define WAKE_EVERY_BYTES (512 * KIB) /* of what came to lie free in slabs in use */

/* ---- Acquire ----------------------------------------------------------------------------------------------------- */

/* Owns a slab that was found in the class's list. False: it is no longer to be had. */
static bool own_listed(struct arena *arena, unsigned class_id, size_t index)
{
    struct slab *slab = &arena->slabs[index];
    bool owned = slab_own(slab, class_id);
    class_set_drop(arena, class_id, index);
    if (owned && pool_tier_of(slab->superslab) == SS_TIER_DRAINING) {
        shared_pool_disown_slab(slab); /* Its SuperSlab began to drain after its bit was found. */
        return false;
    }
    if (owned)
        gap_close_unused(slab);
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
                pool_note_draining(class_id); /* there may be more */
                pool_reopen_superslab(ss);
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

/* A slot whose memory the system refuses to make accessible. */
static COLD void put_back(struct superslab *ss, unsigned slot)
{
    if (!pool_lock(HAK_LOCK_ACQUIRE_SLAB))
        return; /* Stays TAKEN: a slot is lost. */
    struct superslab *freed = pool_put_slots(ss, slot, 1);
    if (freed != NULL)
        lru_push(freed, 1);
    pool_unlock();
    release_evicted();
}

static struct slab *open_slot(struct superslab *ss, unsigned slot, unsigned class_id)
{
    struct slab *slab = superslab_slab(ss, slot);
    if (unlikely(!pool_open_memory(ss, slot, 1))) {
        put_back(ss, slot);
        return NULL;
    }
    if (slab->last_class != 0 && slab->last_class != class_id)
        stats_add(&stats_counters.slot_reuses_other_class, 1);
    slab_open(slab, ss, slot, class_id);
    arena_set_class_map(ss->arena, slab_index(ss->arena, slab), 1, (uint8_t)(class_id * CLASS_OFFSET_SCALE));
    return slab;
}

/* Slabs whose bit maps lie apart, four to a page (SLAB_SMALL_WORDS), take slots from the end of a SuperSlab, others from its
 * beginning: so few pages have bit maps. (bench_workloads burst_lifo_25: 12 KiB of them instead of 24.) */
static bool begins_at_end(unsigned class_id)
{
    return class_table[class_id].n_words > SLAB_SMALL_WORDS;
}

/* Brings an empty SuperSlab into the pool and takes its first slot. */
static struct slab *acquire_from_new(struct superslab *ss, unsigned class_id)
{
    if (!pool_lock(HAK_LOCK_ACQUIRE_SLAB))
        return NULL;
    pool_add_superslab(ss);
    unsigned slot = begins_at_end(class_id) ? SUPERSLAB_SLABS - 1 : 0;
    pool_take_slots_out(ss, superslab_slot_mask(slot, 1));
    pool_unlock();
    return open_slot(ss, slot, class_id);
}

/* Stage 3: an empty SuperSlab from the cache or the system. NULL: no memory. Lock held; returns without it. */
static struct superslab *take_superslab_and_unlock(void)
{
    struct superslab *ss = lru_take_for_pool(1);
    if (ss == NULL)
        lru_make_way(1);
    pool_unlock();
    if (ss != NULL) {
        stats_add(&stats_counters.stage_lru, 1);
    } else {
        release_evicted();
        ss = superslab_map(1, SUPERSLAB_BYTES);
        if (ss == NULL)
            return NULL;
        stats_add(&stats_counters.stage_os, 1);
    }
    if (superslab_is_clean(ss)) /* Old pages are better than new ones, large or small. */
        superslab_choose_page(ss, huge_pages_for_slabs(ss));
    return ss;
}

static struct slab *acquire(unsigned class_id, bool untouched)
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
        /* relaxed: under the lock */
        if (!untouched && atomic_load_explicit(&pool.n_empty_slots, memory_order_relaxed) == 0) {
            struct slab *waiting = pool_take_idle();
            if (waiting != NULL) { /* Its pages are in memory: better than an UNUSED slot. */
                pool_unlock();
                shared_pool_retire(waiting);
                continue;
            }
        }
        if (pool_take_slot(begins_at_end(class_id), untouched, &ss, &slot)) { /* stage 2 */
            pool_unlock();
            stats_add(&stats_counters.stage_slot, 1);
            return open_slot(ss, slot, class_id);
        }
        if (pool_reopen(0, class_id)) {
            pool_unlock();
            stats_add(&stats_counters.stage_reopen, 1);
            continue; /* It offers slabs of the class, or slots. */
        }
        ss = take_superslab_and_unlock();
        return ss == NULL ? NULL : acquire_from_new(ss, class_id);
    }
}

/* Where slots are closed (SECURE_GUARD) a free one may be there that cannot be opened for want of memory. */
static COLD struct slab *acquire_again(unsigned class_id)
{
    return release_waiting() ? acquire(class_id, false) : NULL;
}

struct slab *shared_pool_acquire_slab(unsigned class_id)
{
    struct slab *slab = acquire(class_id, false);
    return likely(slab != NULL) ? slab : acquire_again(class_id);
}

/* What lies idle counts against a budget already. */
struct slab *shared_pool_acquire_first_slab(unsigned class_id)
{
    struct slab *slab = acquire(class_id, !budget_is_set());
    return likely(slab != NULL) ? slab : acquire_again(class_id);
}

/* ---- Return and release ------------------------------------------------------------------------------------------ */

/* A slab's use fell. Without a delay the SuperSlab drains at once, if it is to; otherwise shared_pool_tick sees to it.
 * Looks without the lock first: most SuperSlabs stay as they are. */
static void consider_draining(struct superslab *ss)
{
    if (budget_purge_delay_ms() == 0 && pool_is_sparse(ss) && pool_lock(HAK_LOCK_TIER)) {
        pool_evaluate_tier(ss);
        pool_unlock();
    }
}

/* A slab became full. */
static void consider_risen(struct superslab *ss)
{
    if (atomic_load_explicit(&ss->rising, memory_order_relaxed) && tier_has_risen(superslab_use(ss)))
        atomic_store(&ss->rising, 0);
}

/* The slab is PARTIAL, and may be anybody's by now: what is asked of it must not depend on its record; should it have gaps since a
 * moment, whoever opened them lists it, too. */
static void list_slab(struct slab *slab, unsigned class_id)
{
    struct superslab *ss = arena_superslab_of(slab);
    if (unlikely(slab_has_gaps(slab))) /* Draining or not: its pages are in memory anyway. */
        class_set_enter(ss->arena, CLASS_GAPS, slab_index(ss->arena, slab));
    else
        gap_note_sparse(slab, class_id);
    if (pool_tier_of(ss) != SS_TIER_DRAINING)
        class_set_enter(ss->arena, class_id, slab_index(ss->arena, slab));
    else
        pool_note_draining(class_id);
}

bool shared_pool_list_spare(unsigned class_id)
{
    bool any = false;
    for (struct arena *arena = arena_first(); arena != NULL; arena = arena_next(arena)) {
        size_t n_slabs = (size_t)atomic_load_explicit(&arena->high, memory_order_acquire) * SUPERSLAB_SLABS;
        for (size_t i = 0; i < n_slabs; i++)
            if (slab_unfill(&arena->slabs[i], class_id)) {
                list_slab(&arena->slabs[i], class_id);
                any = true;
            }
    }
    return any;
}

static void release_retiring(struct slab *slab)
{
    struct superslab *ss = slab->superslab;
    shared_pool_release_slab(ss, superslab_slot_of(ss, slab));
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
    class_set_drop(slab->superslab->arena, CTL_CLASS(ctl), slab_index(slab->superslab->arena, slab));
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
static bool may_wait(const struct slab *slab)
{
    return budget_purge_delay_ms() != 0 && pool_tier_of(slab->superslab) != SS_TIER_DRAINING;
}

/* Lock held. */
static void let_wait_locked(struct slab *slab, uint32_t now_ms)
{
    unsigned class_id = CTL_CLASS(slab_ctl_read(slab));
    slab_unretire(slab);
    list_slab(slab,
              class_id); /* Should its SuperSlab have begun to drain just now: the wait's end is its release too. */
    idle_push(slab, now_ms);
}

static void let_wait(struct slab *slab)
{
    if (!may_wait(slab) || !pool_lock(HAK_LOCK_RELEASE_SLAB)) {
        release_retiring(slab);
        return;
    }
    let_wait_locked(slab, os_now_ms());
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

/* Returns whether the slab is RETIRING now, by us. */
static bool disown(struct slab *slab)
{
    slab_ctl ctl = slab_ctl_read(slab); /* ours: the class cannot change */
    unsigned class_id = CTL_CLASS(ctl);
    switch (slab_disown(slab)) {
    case SLAB_RETURN_LISTABLE:
        list_slab(slab, class_id);
        /* While its slabs are each more than a quarter full, so is the SuperSlab. */
        if (CTL_USED(ctl) * 4 <= class_table[class_id].n_blocks)
            consider_draining(arena_superslab_of(slab));
        return false;
    case SLAB_RETURN_RETIRING:
        return true;
    default:
        consider_risen(arena_superslab_of(slab));
        return false;
    }
}

void shared_pool_disown_slab(struct slab *slab)
{
    if (disown(slab))
        let_wait(slab);
}

/* A thread that lived for a hundred blocks has some twenty slabs, all of them empty when it ends. With a lock for each, 16
 * processors started and ended threads no faster than 4 (bench_threads short_lives). */
void shared_pool_disown_slabs(struct slab **slabs, unsigned n)
{
    struct slab *retiring[CLASS_END];
    unsigned n_retiring = 0;
    for (unsigned i = 0; i < n; i++) {
        struct slab *slab = slabs[i];
        slabs[i] = NULL;
        if (slab == NULL || !disown(slab))
            continue;
        if (may_wait(slab) && n_retiring < CLASS_END)
            retiring[n_retiring++] = slab;
        else
            release_retiring(slab);
    }
    if (n_retiring == 0)
        return;
    bool locked = pool_lock(HAK_LOCK_RELEASE_SLAB);
    for (unsigned i = 0, now_ms = os_now_ms(); i < n_retiring; i++)
        if (locked)
            let_wait_locked(retiring[i], now_ms);
        else
            release_retiring(retiring[i]);
    if (locked) {
        pool_unlock();
        background_wake();
    }
}

void shared_pool_note_sparser(size_t len_bytes)
{
    /* relaxed: a number */
    size_t before = atomic_fetch_add_explicit(&pool.sparser_bytes, len_bytes, memory_order_relaxed);
    if (before / WAKE_EVERY_BYTES != (before + len_bytes) / WAKE_EVERY_BYTES)
        background_wake();
}

/* How many blocks more count as idle in a slab in use that had `used` and has `left`: by eighths of it, and below the last eighth each
 * time that half of the rest has gone. So not every return is noted, and nothing that is worth a tick goes unseen. */
static unsigned newly_idle(unsigned n_blocks, unsigned used, unsigned left)
{
    unsigned shift = 31 - (unsigned)__builtin_clz(n_blocks >> 3 | 1);
    unsigned eighths = ((n_blocks - left) >> shift) - ((n_blocks - used) >> shift);
    if (eighths != 0)
        return eighths << shift;
    return left <= n_blocks / 8 && __builtin_clz(left) != __builtin_clz(used) ? left : 0;
}

/* n blocks have come back to a slab that was in this state, and is nobody's. Returns of other threads at the same time may be taken for
 * ours: a guess. */
static void note_idle(slab_ctl before, unsigned n)
{
    const struct class_info *class = &class_table[CTL_CLASS(before)];
    unsigned used = CTL_USED(before);
    if (used <= n || used > class->n_blocks)
        return; /* empty: that is noted elsewhere */
    unsigned n_idle = newly_idle(class->n_blocks, CTL_STATE(before) == SLAB_FULL ? class->n_blocks : used, used - n);
    if (n_idle != 0)
        shared_pool_note_sparser((size_t)n_idle * class->bytes);
}

/* What n returned blocks brought about. */
static void follow(struct slab *slab, unsigned class_id, unsigned n, enum slab_return result)
{
    switch (result) {
    case SLAB_RETURN_LISTABLE:
        list_slab(slab, class_id);
        if (n * 4 >= class_table[class_id].n_blocks * 3u) /* from full to a quarter in one step */
            consider_draining(arena_superslab_of(slab));
        break;
    case SLAB_RETURN_SPARSER:
        gap_note_sparse(slab, class_id);
        consider_draining(arena_superslab_of(slab));
        break;
    case SLAB_RETURN_RETIRING:
        let_wait(slab);
        break;
    case SLAB_RETURN_NOTHING:
    case SLAB_RETURN_TOO_MANY:
        break;
    }
}

bool shared_pool_return_count(struct slab *slab, unsigned n)
{
    slab_ctl before = slab_ctl_read(slab);
    unsigned class_id = CTL_CLASS(before); /* these blocks count as ours still: the class cannot change */
    enum slab_return result = slab_return_count(slab, n);
    follow(slab, class_id, n, result);
    if (result != SLAB_RETURN_NOTHING || CTL_STATE(before) == SLAB_PARTIAL) /* else its owner's, or full still */
        note_idle(before, n);
    budget_note_freed(); /* last: a relief that is under way may have missed them */
    return result != SLAB_RETURN_TOO_MANY;
}

uint64_t shared_pool_return_blocks(struct slab *slab, unsigned word, uint64_t mask)
{
    uint64_t doubly;
    unsigned n = slab_return_bits(slab, word, mask, &doubly);
    return n == 0 || shared_pool_return_count(slab, n) ? doubly : mask;
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
    EVENT("slab release ss=%p slab=%u class=%u empty=%u", superslab_memory(ss), slab_idx, class_id,
          pool_free_slots(ss) + 1);
    stats_add(&stats_counters.slabs_released, 1);
    struct superslab *freed = pool_put_slots(ss, slab_idx, 1);
    EVENT("free-list push ss=%p slab=%u empties=%z", superslab_memory(ss), slab_idx, atomic_load(&pool.n_empty_slots));
    if (freed != NULL) {
        release_detached_and_unlock(freed);
        return RELEASE_DONE;
    }
    pool_unlock();
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
