/* repair.c - the pool by what its records say: built anew in the child of a fork, and checked.
 * Owns     nothing.     Called by  front/fork.c, tests     Calls  pool_state.h, idle.h, dirty.h, slab.h, arena.h
 * Threads  a child's only one; the check is exact when no other thread is at work.
 */
#include "meta/arena.h"
#include "pool/dirty.h"
#include "pool/huge_pages.h"
#include "pool/idle.h"
#include "pool/lru.h"
#include "pool/packed_pages.h"
#include "pool/pool_state.h"
#include "service/stats.h"

uint64_t pool_count_dirty_bytes(void)
{
    uint64_t sum_bytes = 0;
    for (struct arena *arena = arena_first(); arena != NULL; arena = arena_next(arena))
        for (uint32_t i = 0; i < atomic_load(&arena->high); i++)
            if (arena->superslabs[i].arena != NULL) /* else never used */
                sum_bytes += superslab_dirty_bytes(&arena->superslabs[i]);
    return sum_bytes;
}

/* What mapped_bytes should be, by the records, if no SuperSlab is on its way. */
static uint64_t count_mapped_bytes(void)
{
    uint64_t n = 0;
    for (struct arena *arena = arena_first(); arena != NULL; arena = arena_next(arena))
        for (uint32_t i = 0; i < atomic_load(&arena->high); i++)
            n += atomic_load(&arena->superslabs[i].state) != SUPERSLAB_ABSENT;
    return n << SUPERSLAB_SHIFT;
}

/* ---- Fork -------------------------------------------------------------------------------------------------------- */

/* What the class map says of a slab with a class. */
static unsigned class_in_map(const struct slab *slab)
{
    return slab_has_gaps(slab) ? CLASS_GAPS : CTL_CLASS(slab_ctl_read(slab));
}

/* What lies behind the block was being purged: tail.c. */
static void unmark_head(struct slab *head)
{
    if (slab_ctl_read(head) == SLAB_CTL(SLAB_SPAN_HEAD, 0, 1))
        atomic_store_explicit(&head->ctl, SLAB_CTL(SLAB_SPAN_HEAD, 0, 0), memory_order_relaxed);
}

/* Blocks that wait for the lock are spans and runs yet. (Packed ones are told by their heads.) */
static void unmark_deferred(void)
{
    for (struct slab *head = atomic_load(&pool_gate.deferred); head != NULL; head = head->next_deferred)
        atomic_store_explicit(&head->ctl, SLAB_CTL(SLAB_SPAN_HEAD, 0, 0), memory_order_relaxed);
}

static void set_class_in_map(const struct superslab *ss, unsigned slot, unsigned class_id)
{
    arena_set_class_map(ss->arena, superslab_slab_index(ss, slot), 1, (uint8_t)(class_id * CLASS_OFFSET_SCALE));
}

/* Whoever took or put back a free slot may have been cut off between its state and the class map, which would let a free of an address
 * in it pass as that of a block. interrupted: it may be this very thread, which goes on. */
static void unmark_free(const struct superslab *ss, unsigned slot, bool interrupted)
{
    if (!interrupted)
        set_class_in_map(ss, slot, CLASS_FOREIGN);
}

/* One slot of a SuperSlab of the pool, whose pages of packed spans are right already. */
static void rebuild_slot(struct superslab *ss, unsigned i, bool interrupted)
{
    struct slab *slab = superslab_slab(ss, i);
    slab->idle_waits = 0;
    switch (CTL_STATE(slab_ctl_read(slab))) {
    case SLAB_UNUSED:
        unmark_free(ss, i, interrupted);
        ss->unused_slots |= 1u << i;
        break;
    case SLAB_RETIRING:
    case SLAB_TAKEN:
        if (interrupted)
            break;
        set_class_in_map(ss, i, CLASS_FOREIGN);
        atomic_store_explicit(&slab->ctl, SLAB_CTL(SLAB_EMPTY, 0, 0), memory_order_relaxed);
        ss->empty_slots |= 1u << i;
        break;
    case SLAB_EMPTY:
        unmark_free(ss, i, interrupted);
        ss->empty_slots |= 1u << i;
        break;
    case SLAB_SPAN_HEAD:
        unmark_head(slab);
        /* fall through */
    case SLAB_SPAN_BODY:
    case SLAB_HELD:
    case SLAB_PACKED: /* It may have been on its way there. */
        set_class_in_map(ss, i, CLASS_SPAN);
        break;
    case SLAB_OWNED: /* It may have been on its way to have gaps, or no longer. */
        set_class_in_map(ss, i, class_in_map(slab));
        break;
    default:
        break;
    }
}

static void rebuild_pooled(struct superslab *ss, bool interrupted)
{
    ss->previous = ss->next = NULL;
    ss->unused_slots = ss->empty_slots = 0;
    for (uint32_t emptied = packed_rebuild(ss); emptied != 0; emptied &= emptied - 1)
        set_class_in_map(ss, (unsigned)__builtin_ctz(emptied), CLASS_FOREIGN);
    for (unsigned i = 0; i < SUPERSLAB_SLABS; i++)
        rebuild_slot(ss, i, interrupted);
    pool.n_active_slots += SUPERSLAB_SLABS - pool_free_slots(ss);
    atomic_fetch_add(&pool.n_empty_slots, count_bits(ss->empty_slots));
    pool_link_superslab(ss);
}

/* Files one SuperSlab anew by what its records say. */
static void rebuild_superslab(struct superslab *ss, bool interrupted)
{
    switch (atomic_load(&ss->state)) {
    case SUPERSLAB_POOLED:
        rebuild_pooled(ss, interrupted);
        break;
    case SUPERSLAB_CACHED:
        pool_add_superslab(ss);
        break;
    case SUPERSLAB_RUN:
        unmark_head(superslab_slab(ss, 0));
        break;
    case SUPERSLAB_RUN_BODY:
    case SUPERSLAB_ABSENT:
        break;
    default: /* MAPPING, LEAVING: in the hands of a thread that is gone, and empty */
        if (interrupted)
            break;
        ss->dirty_by_slab = 1; /* It may not say so yet, or no longer. */
        superslab_forget_slots(ss, false);
        superslab_extend_dirty(ss, SUPERSLAB_BYTES);
        arena_put(ss, 1);
    }
}

void shared_pool_fork_child(bool interrupted)
{
    if (!pool_lock_inherited())
        return;
    for (unsigned k = 0; k < N_BUCKETS; k++)
        pool.bucket[k] = pool.row[k] = NULL;
    for (unsigned k = 0; k < N_PACKED_LISTS; k++)
        pool.packed[k] = NULL;
    pool.bucket_bits = pool.row_bits = pool.packed_bits = 0;
    pool.draining = NULL;
    atomic_store(&pool.reopen_classes, UINT64_MAX); /* Whoever looked may have been cut off. */
    /* It may be in no list any more. */
    pool_set_apart(NULL);
    pool.n_active_slots = 0;
    atomic_store(&pool.n_empty_slots, 0);
    idle_forget();
    lru_forget();
    huge_pages_forget_runs();
    unmark_deferred();
    for (struct arena *arena = arena_first(); arena != NULL; arena = arena_next(arena))
        for (uint32_t i = 0; i < atomic_load(&arena->high); i++)
            rebuild_superslab(&arena->superslabs[i], interrupted);
    /* Those who counted may have been in the midst of it. */
    atomic_store_explicit(&stats_counters.committed_bytes, pool_count_dirty_bytes(), memory_order_relaxed);
    if (!interrupted) /* else what is on its way may be in this thread's hands, which counts it when it goes on */
        atomic_store_explicit(&stats_counters.mapped_bytes, count_mapped_bytes(), memory_order_relaxed);
    pool_unlock();
}

/* ---- Checks ------------------------------------------------------------------------------------------------------ */

static const char *check_superslab(const struct superslab *ss)
{
    bool listed = false;
    for (struct superslab *other = *pool_list_of((struct superslab *)(uintptr_t)ss); other != NULL; other = other->next)
        listed |= other == ss;
    if (!listed)
        return "a SuperSlab of the pool is in no list";
    listed = pool_tier_of(ss) == SS_TIER_DRAINING;
    for (struct superslab *other = pool.row[pool_longest_row(ss)]; other != NULL; other = other->row_next)
        listed |= other == ss;
    if (!listed)
        return "a SuperSlab is not listed by its longest row of free slots";
    for (unsigned i = 0; i < SUPERSLAB_SLABS; i++) {
        const struct slab *slab = superslab_slab(ss, i);
        slab_ctl ctl = slab_ctl_read(slab);
        enum slab_state state = CTL_STATE(ctl);
        bool unused = ss->unused_slots >> i & 1, empty = ss->empty_slots >> i & 1;
        unsigned offset = atomic_load(&ss->arena->class_map[slab_index(ss->arena, slab)]);
        if (unused != (state == SLAB_UNUSED) || empty != (state == SLAB_EMPTY))
            return "a slot's mask and state differ";
        if (state == SLAB_UNUSED && atomic_load(&slab->dirty_pages) != 0)
            return "an unused slot is dirty";
        if (state == SLAB_OWNED || state == SLAB_PARTIAL || state == SLAB_FULL) {
            if (offset != class_in_map(slab) * CLASS_OFFSET_SCALE)
                return "a slab's class and the class map differ";
            if (!slab_check(slab))
                return "a slab's bits and count differ";
            if (state == SLAB_FULL && !slab_counts_as_full(CTL_CLASS(ctl), CTL_USED(ctl)))
                return "a full slab has many free blocks";
        } else if (state == SLAB_SPAN_HEAD || state == SLAB_SPAN_BODY || state == SLAB_HELD || state == SLAB_PACKED) {
            if (offset != CLASS_SPAN * CLASS_OFFSET_SCALE)
                return "a span and the class map differ";
        } else if (offset != CLASS_FOREIGN) {
            return "a slot without blocks is in the class map";
        }
    }
    return packed_check(ss);
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
    return pool_count_dirty_bytes() == stats_read(&stats_counters.committed_bytes)
               ? NULL
               : "pages handed out and committed bytes differ";
}
