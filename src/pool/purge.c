/* purge.c - memory that lies idle in the pool goes back: EMPTY slots, free pages inside slabs, what lies behind large blocks, and what a
 * tick finds.
 * Owns     the ticks' notes in SuperSlabs and slabs (sparse_ticks, aged_slots, quiet_ticks, seen_used).
 * Called by  background.c, front/; shared_pool.c, span.c, held.c, packed.c (slots that have become EMPTY)
 * Calls    pool_state.h, idle.h, release.h, slab.h
 * Threads  any. A slot is purged while it is TAKEN, a slab while it is owned: nobody else can claim from it, and no lock is
 *          held during the system call.
 */
#include "meta/arena.h"
#include "os/os.h"
#include "pool/background.h"
#include "pool/class_set.h"
#include "pool/gap.h"
#include "pool/huge_pages.h"
#include "pool/idle.h"
#include "pool/lru.h"
#include "pool/packed_pages.h"
#include "pool/pool_state.h"
#include "pool/release.h"
#include "pool/tail.h"
#include "service/budget.h"
#include "service/config.h"
#include "service/stats.h"

#define QUIET_DONE UINT8_MAX /* its free pages were given back */
#define HUGE_WORTH_BYTES (SUPERSLAB_BYTES / 16)

/* ---- Purging ----------------------------------------------------------------------------------------------------- */

void shared_pool_slots_emptied(enum hak_lock_cause cause)
{
    size_t most = budget_presses() ? 0 : config.empty_slabs;
    size_t n_empty = atomic_load_explicit(&pool.n_empty_slots, memory_order_relaxed); /* relaxed: a number */
    if (budget_purge_delay_ms() == 0) {
        if (n_empty > most)
            shared_pool_purge_empty(most / 2, cause);
    } else if (n_empty + (size_t)lru_count() * SUPERSLAB_SLABS > most) { /* its SuperSlab may be in the cache now */
        background_wake();
    }
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
            purged |= superslab_slot_mask(slot, n);
        slot += n + 1;
    }
    return purged;
}

/* Gives back the pages of EMPTY slots of a SuperSlab. Lock held, but given up meanwhile; false: it could not be taken
 * again, or the system refuses. */
static bool purge_empty_slots(struct superslab *ss, uint32_t mask, enum hak_lock_cause cause)
{
    pool_take_slots_out(ss, mask);
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
    pool_relink_superslab(ss);
    if (pool_free_slots(ss) == SUPERSLAB_SLABS) { /* Its other slots were put back while these were being purged. */
        pool_detach_superslab(ss);
        release_detached_and_unlock(ss);
        if (!pool_lock(cause))
            return false;
    }
    return purged == mask;
}

/* Without the lock, so by the slabs' own words, not by the mask. */
static bool any_slot_idle(const struct superslab *ss, bool huge)
{
    unsigned n_unused = 0;
    for (unsigned i = 0; i < SUPERSLAB_SLABS; i++) {
        unsigned state = CTL_STATE(slab_ctl_read(superslab_slab(ss, i)));
        if (state == SLAB_EMPTY)
            return true;
        n_unused += state == SLAB_UNUSED;
    }
    return huge && n_unused * SLAB_BYTES >= HUGE_WORTH_BYTES;
}

/* Of one SuperSlab. False: the system refuses, or the lock is not to be had. */
static bool purge_empty_of(struct superslab *ss, enum hak_lock_cause cause)
{
    if (atomic_load_explicit(&ss->state, memory_order_acquire) != SUPERSLAB_POOLED || !any_slot_idle(ss, false))
        return true;
    if (!pool_lock(cause))
        return false;
    bool purged =
        ss->state != SUPERSLAB_POOLED || ss->empty_slots == 0 || purge_empty_slots(ss, ss->empty_slots, cause);
    if (pool_lock_is_mine())
        pool_unlock();
    return purged;
}

/* In the order of addresses: to look for the one with the most each time would take as long for each as there are SuperSlabs. */
void shared_pool_purge_all_empty(void)
{
    for (struct arena *arena = arena_first(); arena != NULL; arena = arena_next(arena))
        for (uint32_t i = 0; i < atomic_load_explicit(&arena->high, memory_order_acquire); i++)
            if (!purge_empty_of(&arena->superslabs[i], HAK_LOCK_TRIM))
                return; /* try again another time */
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

/* A tick drains a SuperSlab that was sparse at the last one too, and purges its slots that were EMPTY then. Slots that were never used
 * are in memory too where a huge page is; for those alone it is not broken up, unless they are HUGE_WORTH_BYTES. */
static void tick_slots(struct superslab *ss)
{
    bool sparse = pool_is_sparse(ss), huge = atomic_load(&ss->huge);
    if (!sparse && atomic_load(&ss->sparse_ticks) == 0 && !any_slot_idle(ss, huge))
        return;
    if (!pool_lock(HAK_LOCK_TIER))
        return;
    if (ss->state == SUPERSLAB_POOLED) {
        uint32_t ticks = sparse ? atomic_load(&ss->sparse_ticks) + 1 : 0;
        atomic_store(&ss->sparse_ticks, ticks);
        if (ticks > 1)
            pool_evaluate_tier(ss);
        uint32_t idle = ss->empty_slots | (huge ? ss->unused_slots : 0), aged = ss->aged_slots & idle;
        if ((aged & ss->empty_slots) == 0 && count_bits(aged) * SLAB_BYTES < HUGE_WORTH_BYTES)
            aged = 0;
        ss->aged_slots = idle & ~aged;
        if (aged != 0 && !purge_empty_slots(ss, aged, HAK_LOCK_TIER) && !pool_lock_is_mine())
            return;
    }
    pool_unlock();
}

/* Gives back the free pages of a PARTIAL slab, and adds their bytes to *purged_bytes. False: it is another thread's now. */
static bool purge_slab(struct slab *slab, unsigned class_id, size_t *purged_bytes)
{
    if (!slab_own(slab, class_id))
        return false;
    class_set_drop(slab->superslab->arena, class_id, slab_index(slab->superslab->arena, slab));
    *purged_bytes += slab_purge_free_pages(slab);
    shared_pool_disown_slab(slab);
    return true;
}

/* What of a slab in use holds nothing: the free pages of a PARTIAL slab, those between packed spans, or what lies behind the end of a
 * span. *number tells whether anything has changed since it was asked for last. */
static size_t idle_in_slab(struct slab *slab, slab_ctl ctl, unsigned *number)
{
    if (CTL_STATE(ctl) == SLAB_PACKED) {
        *number = atomic_load_explicit(&slab->packed_pages, memory_order_relaxed); /* relaxed: a guess */
        return count_bits(packed_idle_pages(slab)) * PACKED_PAGE_BYTES;
    }
    if (CTL_STATE(ctl) == SLAB_SPAN_HEAD)
        return tail_of_span(slab, number);
    *number = CTL_USED(ctl);
    return CTL_STATE(ctl) == SLAB_PARTIAL && *number != 0 ? slab_free_bytes_in_memory(slab, ctl) : 0;
}

/* Whether that has been left alone for so long that it may go. What may go at a later tick is added to *waiting_bytes. */
static bool is_quiet(struct slab *slab, unsigned number, size_t idle_bytes, size_t *waiting_bytes)
{
    if (idle_bytes < slab_page_bytes())
        return false;
    /* relaxed, all: hints, and ticks are alone but for unlikely moments */
    unsigned ticks = atomic_load_explicit(&slab->quiet_ticks, memory_order_relaxed);
    if (number != atomic_load_explicit(&slab->seen_used, memory_order_relaxed))
        ticks = 0;
    else if (ticks == QUIET_DONE)
        return false;
    atomic_store_explicit(&slab->seen_used, (uint16_t)number, memory_order_relaxed);
    atomic_store_explicit(&slab->quiet_ticks, (uint8_t)(ticks < TICKS_OF_DELAY ? ticks + 1 : ticks),
                          memory_order_relaxed);
    if (ticks == TICKS_OF_DELAY)
        return true;
    *waiting_bytes += idle_bytes;
    return false;
}

/* Gives that back. Returns the bytes. */
static size_t purge_idle_in_slab(struct slab *slab)
{
    slab_ctl ctl = slab_ctl_read(slab);
    size_t purged_bytes = 0;
    bool done; /* What was refused is not asked for again. But the next block here may leave as long a tail, or gap. */
    if (CTL_STATE(ctl) == SLAB_SPAN_HEAD) {
        purged_bytes = tail_purge(slab, HAK_LOCK_TIER);
        done = purged_bytes == 0 && tail_bytes(slab, HAK_LOCK_TIER) != 0;
    } else if (CTL_STATE(ctl) == SLAB_PACKED) {
        purged_bytes = packed_purge(slab, HAK_LOCK_TIER);
        done = purged_bytes == 0 && packed_idle_pages(slab) != 0;
    } else {
        done = purge_slab(slab, CTL_CLASS(ctl), &purged_bytes);
    }
    atomic_store_explicit(&slab->quiet_ticks, done ? QUIET_DONE : 0, memory_order_relaxed); /* relaxed: as above */
    return purged_bytes;
}

void shared_pool_note_quiet(struct slab *slab)
{
    /* relaxed, all three: hints */
    atomic_store_explicit(&slab->seen_used, (uint16_t)CTL_USED(slab_ctl_read(slab)), memory_order_relaxed);
    atomic_store_explicit(&slab->quiet_ticks, TICKS_OF_DELAY, memory_order_relaxed);
}

void shared_pool_discount(struct slab *slab)
{
    atomic_fetch_sub_explicit(&slab->seen_used, 1, memory_order_relaxed);
}

/* A tick gives back what is idle in slabs where the last TICKS_OF_DELAY ticks found the same.
 * A huge page is not broken up for less than HUGE_WORTH_BYTES. Returns the bytes that later ticks may give back. */
static size_t tick_slabs(struct superslab *ss)
{
    size_t waiting_bytes = 0, quiet_bytes = 0, purged_bytes = 0;
    uint32_t quiet = 0;
    for (unsigned i = 0; i < SUPERSLAB_SLABS; i++) {
        struct slab *slab = superslab_slab(ss, i);
        slab_ctl ctl = slab_ctl_read(slab);
        unsigned number;
        if (CTL_STATE(ctl) == SLAB_PARTIAL && CTL_USED(ctl) != 0)
            gap_tick_slab(slab, ctl);
        size_t idle_bytes = idle_in_slab(slab, ctl, &number);
        if (is_quiet(slab, number, idle_bytes, &waiting_bytes)) {
            quiet |= 1u << i;
            quiet_bytes += idle_bytes;
        }
    }
    if (quiet == 0 || (atomic_load(&ss->huge) && quiet_bytes < HUGE_WORTH_BYTES))
        return waiting_bytes;
    superslab_use_small_pages(ss);
    for (; quiet != 0; quiet &= quiet - 1)
        purged_bytes += purge_idle_in_slab(superslab_slab(ss, (unsigned)__builtin_ctz(quiet)));
    stats_add(&stats_counters.purged_bytes, purged_bytes);
    return waiting_bytes;
}

/* The same of a run, which has but its tail. */
static size_t tick_run(struct superslab *ss)
{
    struct slab *head = superslab_slab(ss, 0);
    size_t waiting_bytes = 0, idle_bytes = tail_bytes(head, HAK_LOCK_TIER);
    if (is_quiet(head, (unsigned)(idle_bytes / slab_page_bytes()), idle_bytes, &waiting_bytes))
        stats_add(&stats_counters.purged_bytes, purge_idle_in_slab(head));
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

/* What a tick has looked at waits no longer as what came since the last one. Two ticks may have looked at the same. */
static void count_off_sparser(size_t looked_at_bytes)
{
    size_t seen = atomic_load_explicit(&pool.sparser_bytes, memory_order_relaxed); /* relaxed, both: a number */
    while (!atomic_compare_exchange_weak_explicit(&pool.sparser_bytes, &seen, seen - min_size(seen, looked_at_bytes),
                                                  memory_order_relaxed, memory_order_relaxed))
        continue;
}

void shared_pool_tick(void)
{
    uint32_t now_ms = os_now_ms();
    size_t waiting_bytes = 0;
    retire_old_slabs(now_ms);
    /* Counted off at the end, or a child that is forked meanwhile finds nothing that waits. */
    size_t sparser_bytes = atomic_load_explicit(&pool.sparser_bytes, memory_order_relaxed); /* relaxed: as above */
    for (struct arena *arena = arena_first(); arena != NULL; arena = arena_next(arena))
        for (uint32_t i = 0; i < atomic_load_explicit(&arena->high, memory_order_acquire); i++) {
            struct superslab *ss = &arena->superslabs[i];
            /* A racy look: the next tick sees what this one misses. A record that was never used has no arena yet. */
            enum superslab_state state = atomic_load_explicit(&ss->state, memory_order_acquire);
            if (state == SUPERSLAB_RUN)
                waiting_bytes += tick_run(ss);
            if (state != SUPERSLAB_POOLED)
                continue;
            waiting_bytes += tick_slabs(ss);
            tick_slots(ss);
        }
    atomic_store_explicit(&pool.waiting_bytes, waiting_bytes, memory_order_relaxed); /* relaxed: a number */
    count_off_sparser(sparser_bytes);
    gap_tick();
    lru_expire(now_ms, budget_purge_delay_ms());
}

size_t shared_pool_idle_bytes(void)
{
    /* relaxed: a guess, like all of them */
    size_t n_empty = atomic_load_explicit(&pool.n_empty_slots, memory_order_relaxed);
    return (n_empty + idle_count() + (size_t)lru_count() * SUPERSLAB_SLABS) * SLAB_BYTES +
           atomic_load_explicit(&pool.sparser_bytes, memory_order_relaxed) +
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
            if (CTL_STATE(ctl) == SLAB_SPAN_HEAD)
                purged_bytes += tail_purge(slab, HAK_LOCK_TRIM);
            if (CTL_STATE(ctl) == SLAB_PACKED && packed_idle_pages(slab) != 0)
                purged_bytes += packed_purge(slab, HAK_LOCK_TRIM);
            if (CTL_STATE(ctl) != SLAB_PARTIAL || slab_free_bytes_in_memory(slab, ctl) < slab_page_bytes())
                continue;
            superslab_use_small_pages(arena_superslab_of(slab));
            purge_slab(slab, CTL_CLASS(ctl), &purged_bytes);
        }
    }
    stats_add(&stats_counters.purged_bytes, purged_bytes);
}
