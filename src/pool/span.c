/* span.c - see span.h.
 * Owns     the span fields of slab records.     Called by  large.c, packed.c and held.c (slots); held.h, in front/span_cache.c
 * Calls    shared_pool.h (slots, lock), lru.h and release.h (SuperSlabs)
 * Threads  any; records of a span are written by the thread that claims or returns it, under the pool lock.
 * I1  Every slab of a span is CLASS_SPAN in the class map; exactly the first one is SPAN_HEAD.
 */
#include "pool/span.h"

#include "meta/arena.h"
#include "os/os.h"
#include "pool/huge_pages.h"
#include "pool/lru.h"
#include "pool/pool_state.h"
#include "pool/release.h"
#include "pool/shared_pool.h"
#include "service/stats.h"

bool span_hand_out_pages(struct slab *head, size_t len_bytes)
{
    size_t fresh_bytes = 0;
    bool clean = true;
    for (size_t i = 0; i * SLAB_BYTES < len_bytes; i++) {
        struct slab *slab = &head[i];
        unsigned needed = slab_pages_below(len_bytes, i * SLAB_BYTES);
        unsigned dirty = atomic_load_explicit(&slab->dirty_pages, memory_order_relaxed); /* relaxed: we hold the slot */
        clean &= (dirty & needed) == 0;
        if ((needed & ~dirty) == 0)
            continue;
        fresh_bytes += count_bits(needed & ~dirty) * slab_page_bytes();
        atomic_store_explicit(&slab->dirty_pages, (uint16_t)(dirty | needed), memory_order_relaxed);
    }
    if (fresh_bytes != 0)
        stats_commit((int64_t)fresh_bytes);
    return clean;
}

/* Describes n slots, which the caller has taken, as part of a span from `head` on. */
static void mark_span(struct superslab *ss, unsigned head, unsigned from, unsigned n)
{
    for (unsigned i = from; i < from + n; i++) {
        struct slab *slab = superslab_slab(ss, i);
        slab_place(slab, ss, i);
        slab->last_class = CLASS_SPAN;
        span_set_slots(slab, i - head);
        span_set_state(slab, i == head ? SLAB_SPAN_HEAD : SLAB_SPAN_BODY);
    }
    arena_set_class_map(ss->arena, superslab_slab_index(ss, from), n, CLASS_SPAN * CLASS_OFFSET_SCALE);
}

bool span_take_more_slots(unsigned n, unsigned align_slots, struct superslab **ss, unsigned *slot)
{
    for (;;) {
        if (pool_take_slots(n, align_slots, ss, slot)) {
            stats_add(&stats_counters.stage_slot, 1);
            return true;
        }
        struct slab *waiting = pool_take_idle();
        if (waiting != NULL) { /* The slots of empty slabs may complete a row. */
            pool_unlock();
            shared_pool_retire(waiting);
            pool_lock_again(HAK_LOCK_SPAN, waiting);
            continue;
        }
        if (align_slots == 1 && pool_reopen(n, CLASS_SPAN)) {
            stats_add(&stats_counters.stage_reopen, 1);
            continue;
        }
        if (n > LRU_POOL_SLOTS)
            lru_settle(0); /* which may give the lock up */
        struct superslab *fresh = lru_take_for_pool(n);
        if (fresh != NULL) {
            stats_add(&stats_counters.stage_lru, 1);
        } else {
            lru_make_way(1);
            pool_unlock();
            release_evicted();
            fresh = superslab_map(1, SUPERSLAB_BYTES);
            if (fresh == NULL)
                return false;
            superslab_choose_page(fresh, huge_pages_for_spans(fresh));
            pool_lock_again(HAK_LOCK_SPAN, fresh);
            stats_add(&stats_counters.stage_os, 1);
        }
        pool_add_superslab(fresh);
    }
}

bool span_take_slots_locked(unsigned n, unsigned align_slots, struct superslab **ss, unsigned *slot)
{
    return pool_lock(HAK_LOCK_SPAN) && span_take_more_slots(n, align_slots, ss, slot);
}

/* Puts n slots back and does what follows. Lock held; returns without it. */
static void put_slots_and_unlock(struct superslab *ss, unsigned slot, unsigned n)
{
    struct superslab *freed = pool_put_slots(ss, slot, n);
    /* Large blocks come and go: an emptied SuperSlab waits in the LRU cache for the next one. */
    if (freed != NULL)
        lru_push(freed, 1);
    pool_unlock();
    release_evicted();
    shared_pool_slots_emptied(HAK_LOCK_SPAN);
}

/* Makes a span of slots that were taken out. NULL, and they are put back: their memory cannot be opened. */
static void *make_span_and_unlock(struct superslab *ss, unsigned slot, unsigned n, size_t len_bytes, bool *zeroed)
{
    if (unlikely(!pool_open_memory(ss, slot, n))) {
        put_slots_and_unlock(ss, slot, n);
        return NULL;
    }
    struct slab *head = superslab_slab(ss, slot);
    /* first: what is there else are links of idle.h, and readers without the lock believe the state */
    span_set_bytes(head, len_bytes);
    mark_span(ss, slot, slot, n);
    *zeroed = span_hand_out_pages(head, len_bytes);
    span_set_slots(head, n);
    head->sample = 0;
    pool_unlock();
    return superslab_memory(ss) + slot * SLAB_BYTES;
}

void *span_claim(size_t len_bytes, size_t alignment, bool *zeroed)
{
    unsigned n = (unsigned)span_slots_for(len_bytes), slot;
    unsigned align_slots = alignment <= SLAB_BYTES ? 1 : (unsigned)(alignment >> SLAB_SHIFT);
    struct superslab *ss;
    if (!span_take_slots_locked(n, align_slots, &ss, &slot))
        return NULL;
    return make_span_and_unlock(ss, slot, n, len_bytes, zeroed);
}

/* A slot where no huge page is; a SuperSlab of its own is mapped if all that are free have some. With the lock held, if true. */
static bool take_apart_locked(struct superslab **ss, unsigned *slot)
{
    if (!pool_lock(HAK_LOCK_SPAN))
        return false;
    enum apart taken = pool_take_slot_apart(ss, slot);
    if (taken == APART_HUGE) {
        pool_unlock();
        struct superslab *fresh = superslab_map(1, SUPERSLAB_BYTES);
        if (fresh == NULL)
            return false;
        superslab_choose_page(fresh, false);
        pool_lock_again(HAK_LOCK_SPAN, fresh);
        stats_add(&stats_counters.stage_os, 1);
        pool_add_superslab(fresh);
        pool_set_apart(fresh);
        taken = pool_take_slot_apart(ss, slot);
    }
    if (taken == APART_TAKEN)
        stats_add(&stats_counters.stage_slot, 1);
    else
        pool_unlock();
    return taken == APART_TAKEN;
}

void *span_claim_apart(size_t len_bytes, bool *zeroed)
{
    struct superslab *ss;
    unsigned slot;
    return take_apart_locked(&ss, &slot) ? make_span_and_unlock(ss, slot, 1, len_bytes, zeroed) : NULL;
}

bool span_resize(struct slab *head, size_t len_bytes)
{
    struct superslab *ss = head->superslab;
    unsigned slot = superslab_slot_of(head->superslab, head);
    size_t n_new = span_slots_for(len_bytes);
    unsigned n_old = span_slots(head);
    if (n_new == 0 || n_new > SPAN_MAX_SLABS || (n_old <= SPAN_GROWN_MAX_SLABS && n_new > SPAN_GROWN_MAX_SLABS) ||
        !pool_lock(HAK_LOCK_SPAN))
        return false;
    if (n_new > n_old) {
        unsigned more = (unsigned)n_new - n_old;
        if (!pool_take_slots_at(ss, slot + n_old, more)) {
            pool_unlock();
            return false;
        }
        if (unlikely(!pool_open_memory(ss, slot + n_old, more))) {
            put_slots_and_unlock(ss, slot + n_old, more);
            return false;
        }
        mark_span(ss, slot, slot + n_old, more);
    }
    span_set_slots(head, (unsigned)n_new);
    span_set_bytes(head, len_bytes);
    span_hand_out_pages(superslab_slab(ss, slot), len_bytes);
    if (n_new < n_old)
        put_slots_and_unlock(ss, slot + (unsigned)n_new, n_old - (unsigned)n_new);
    else
        pool_unlock();
    return true;
}

void span_put_and_unlock(struct slab *head)
{
    put_slots_and_unlock(head->superslab, superslab_slot_of(head->superslab, head), span_slots(head));
}

/* Notes that these pages of a slab are not in memory. */
static void note_gone(struct slab *slab, unsigned pages)
{
    unsigned dirty = atomic_load_explicit(&slab->dirty_pages, memory_order_relaxed); /* relaxed, both: we hold it */
    stats_commit(-(int64_t)(count_bits(dirty & pages) * slab_page_bytes()));
    atomic_store_explicit(&slab->dirty_pages, (uint16_t)(dirty & ~pages), memory_order_relaxed);
}

bool span_discard(struct slab *head, bool touched)
{
    unsigned n = span_slots(head);
    if (touched)
        superslab_use_small_pages(head->superslab);
    if (touched && !os_purge(head->memory, n * SLAB_BYTES))
        return false;
    for (unsigned i = 0; i < n; i++)
        /* What lies behind the block in its last slab was not asked about when nobody had touched the block. */
        note_gone(&head[i], touched ? slab_all_pages() : slab_pages_below(span_bytes(head), i * SLAB_BYTES));
    return true;
}

bool span_give_pages(struct slab *head, size_t from_bytes, size_t to_bytes)
{
    superslab_use_small_pages(head->superslab);
    if (!os_purge(head->memory + from_bytes, to_bytes - from_bytes))
        return false;
    for (size_t i = from_bytes >> SLAB_SHIFT; i * SLAB_BYTES < to_bytes; i++)
        note_gone(&head[i], slab_pages_below(to_bytes, i * SLAB_BYTES) & ~slab_pages_below(from_bytes, i * SLAB_BYTES));
    return true;
}
