/* held.h - slots of a SuperSlab that one thread holds for its next blocks (front/span_cache.h): from a block that is freed, or from
 * the pool, to held slots; from these to a block, or back into the pool. Only what has to do with the pool takes the lock.
 * What nearly every block above 32 KiB goes through lies here, to be compiled into front/span_cache.c.
 */
#ifndef HAKMEM_POOL_HELD_H
#define HAKMEM_POOL_HELD_H

#include "pool/span.h"
#include "pool/tail.h"
#include "superslab/slab.h"

/* Of one slot: how many pages may be in memory. */
static inline unsigned held_dirty_pages(const struct slab *slab)
{
    unsigned dirty = atomic_load_explicit(&slab->dirty_pages, memory_order_relaxed); /* relaxed: we hold the slot */
    return likely(dirty == 0xffff) ? 16 : count_bits(dirty); /* all, where pages have 4 KiB: mostly */
}

/* Takes a block that is being freed, in the slab of this record, out of the program's hands: its slots are HELD then. Returns how many;
 * 0: it is no span (a run, or no block), or its SuperSlab drains, and nothing has changed. Any thread that holds the block. */
static ALWAYS_INLINE unsigned held_take(const void *block, struct slab *head, struct held_slots *slots)
{
    slab_ctl ctl = SLAB_CTL(SLAB_SPAN_HEAD, 0, 0);
    if (unlikely(((uintptr_t)block & (SLAB_BYTES - 1)) != 0 || slab_ctl_read(head) != ctl || span_slots(head) == 0))
        return 0;
    struct superslab *ss = head->superslab;
    if (unlikely(atomic_load(&ss->tier) == SS_TIER_DRAINING) ||
        unlikely(!atomic_compare_exchange_strong(&head->ctl, &ctl, SLAB_CTL(SLAB_HELD, 0, 0))))
        return 0; /* The last: another thread is freeing it too. */
    unsigned n = span_slots(head), n_dirty = held_dirty_pages(head);
    for (unsigned i = 1; i < n; i++) {
        n_dirty += held_dirty_pages(&head[i]);
        span_set_state(&head[i], SLAB_HELD);
    }
    unsigned slot = (unsigned)((uintptr_t)block >> SLAB_SHIFT) % SUPERSLAB_SLABS;
    *slots = (struct held_slots){ss, superslab_slot_mask(slot, n), n_dirty};
    return n;
}

/* Whether these slots are n in a row, and no others. (Bits beyond the SuperSlab's end count: n may be more than lie there.) */
static inline bool held_are_row_of(const struct held_slots *slots, size_t n)
{
    return slots->mask == (((uint64_t)1 << n) - 1) << __builtin_ctz(slots->mask);
}

/* The last step of making a block of held slots, which begins at `slot`: from now on it is one. */
static inline void *held_give(struct superslab *ss, struct slab *head, unsigned slot, size_t len_bytes)
{
    span_set_bytes(head, len_bytes);
    head->sample = 0;
    span_set_state(head, SLAB_SPAN_HEAD);
    return superslab_memory(ss) + slot * SLAB_BYTES;
}

/* Makes a block of all of them, which were held as one and are as many as it takes. *behind_bytes: what lies behind it
 * now, as tail_behind, if that has become more; else it is left alone. Who holds them. */
static ALWAYS_INLINE void *held_make_again(const struct held_slots *slots, size_t size_bytes, bool *zeroed,
                                           size_t *behind_bytes)
{
    unsigned slot = (unsigned)__builtin_ctz(slots->mask);
    struct slab *head = superslab_slab(slots->ss, slot);
    unsigned n = span_slots(head);
    size_t len_bytes = round_up(size_bytes, os_page_bytes());
    for (unsigned i = 1; i < n; i++) /* which are numbered still */
        span_set_state(&head[i], SLAB_SPAN_BODY);
    *zeroed = unlikely(len_bytes > span_bytes(head)) && span_hand_out_pages(head, len_bytes);
    if (unlikely(len_bytes < span_bytes(head)))
        *behind_bytes = tail_behind(&head[n - 1], len_bytes);
    return held_give(slots->ss, head, slot, len_bytes);
}

/* Takes a row of n slots from the pool, and further ones that lie behind it and are free, up to `most` in all: each is held as if a
 * block had been freed there. Returns how many; 0: there is no memory, or a signal handler asks that interrupted the lock's
 * holder. Takes the lock as a span would. Not in hardened mode. */
unsigned held_take_rows(unsigned n, unsigned most, struct held_slots *rows);

/* Of these slots the shortest row that n fit into: how many are left over of it, and in *slot its first. SUPERSLAB_SLABS: there is
 * none. */
unsigned held_find(const struct held_slots *slots, unsigned n, unsigned *slot);

/* Makes a block of some of them, from `slot` on, which are theirs no longer. Who holds them. */
void *held_make(struct held_slots *slots, unsigned slot, size_t len_bytes, bool *zeroed);

/* Puts held slots back, of n SuperSlabs. Who holds them; takes the lock once, which the caller must not have interrupted. */
void held_put(const struct held_slots *slots, unsigned n);

#endif
