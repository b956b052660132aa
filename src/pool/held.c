/* held.c - see held.h.
 * Owns     the records of HELD slots.     Called by  front/span_cache.c     Calls  span.h, pool_state.h (slots, lock), lru.h
 * Threads  each on the slots that it holds; taking them from the pool and putting them back takes the lock.
 */
#include "pool/held.h"

#include "meta/arena.h"
#include "pool/lru.h"
#include "pool/pool_state.h"
#include "pool/release.h"
#include "pool/shared_pool.h"

unsigned held_find(const struct held_slots *slots, unsigned n, unsigned *slot)
{
    unsigned least_left = SUPERSLAB_SLABS;
    for (uint32_t rest = slots->mask; rest != 0;) {
        unsigned first = (unsigned)__builtin_ctz(rest), len = (unsigned)__builtin_ctzll(~((uint64_t)rest >> first));
        rest &= ~superslab_slot_mask(first, len);
        if (len >= n && len - n < least_left) {
            least_left = len - n;
            *slot = first;
        }
    }
    return least_left;
}

void *held_make(struct held_slots *slots, unsigned slot, size_t len_bytes, bool *zeroed)
{
    struct slab *head = superslab_slab(slots->ss, slot);
    unsigned n = (unsigned)span_slots_for(len_bytes), n_dirty = held_dirty_pages(head);
    span_set_slots(head, n); /* before the bodies: who looks from outside finds them part of something */
    for (unsigned i = 1; i < n; i++) {
        n_dirty += held_dirty_pages(&head[i]);
        span_set_slots(&head[i], i);
        span_set_state(&head[i], SLAB_SPAN_BODY);
    }
    slots->mask &= ~superslab_slot_mask(slot, n);
    slots->dirty_pages -= n_dirty;
    *zeroed = span_hand_out_pages(head, len_bytes);
    return held_give(slots->ss, head, slot, len_bytes);
}

/* Slots that were taken out of the pool, held as a block of no bytes yet. Lock held. */
static struct held_slots hold(struct superslab *ss, unsigned slot, unsigned n)
{
    struct slab *head = superslab_slab(ss, slot);
    unsigned n_dirty = 0;
    for (unsigned i = 0; i < n; i++) {
        slab_place(&head[i], ss, slot + i);
        head[i].last_class = CLASS_SPAN;
        span_set_slots(&head[i], i == 0 ? n : i);
        n_dirty += held_dirty_pages(&head[i]);
        span_set_state(&head[i], SLAB_HELD);
    }
    span_set_bytes(head, 0);
    arena_set_class_map(ss->arena, superslab_slab_index(ss, slot), n, CLASS_SPAN * CLASS_OFFSET_SCALE);
    return (struct held_slots){ss, superslab_slot_mask(slot, n), n_dirty};
}

unsigned held_take_rows(unsigned n, unsigned most, struct held_slots *rows)
{
    struct superslab *ss;
    unsigned slot, n_rows = 0;
    if (!span_take_slots_locked(n, 1, &ss, &slot))
        return 0;
    do
        n_rows++;
    while (n_rows < most && pool_take_slots_at(ss, slot + n_rows * n, n));
    for (unsigned i = 0; i < n_rows; i++)
        rows[i] = hold(ss, slot + i * n, n);
    pool_unlock();
    return n_rows;
}

/* The slots of one SuperSlab, row by row. Lock held. */
static void put(const struct held_slots *slots)
{
    for (uint32_t rest = slots->mask; rest != 0;) {
        unsigned slot = (unsigned)__builtin_ctz(rest), n = (unsigned)__builtin_ctzll(~((uint64_t)rest >> slot));
        struct superslab *freed = pool_put_slots(slots->ss, slot, n);
        rest &= ~superslab_slot_mask(slot, n);
        if (freed != NULL) /* then this was its last row */
            lru_push(freed, 1);
    }
}

void held_put(const struct held_slots *slots, unsigned n)
{
    if (n == 0)
        return;
    pool_lock_again(HAK_LOCK_SPAN, slots->ss);
    for (unsigned i = 0; i < n; i++)
        put(&slots[i]);
    pool_unlock();
    release_evicted();
    shared_pool_slots_emptied(HAK_LOCK_SPAN);
}
