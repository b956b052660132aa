/* span.h - spans: 1 to 31 slots of a SuperSlab for one block above 32 KiB.
 * Its head is the record of its first slab: SPAN_HEAD. Its usable size is the request rounded up to the system's page: nothing behind that
 * is touched, so it costs no memory.
 */
#ifndef HAKMEM_POOL_SPAN_H
#define HAKMEM_POOL_SPAN_H

#include "meta/layout.h"

/* A block of len_bytes, a multiple of the system's page and SPAN_MAX_BYTES at most, on a multiple of alignment, 2 MiB at most; *zeroed as of
 * large_claim. NULL: there is no memory, or a signal handler asks that interrupted the pool lock's holder. Takes the lock. */
void *span_claim(size_t len_bytes, size_t alignment, bool *zeroed);

/* The same of up to SLAB_BYTES, where no huge page is. It gives up sooner. */
void *span_claim_apart(size_t len_bytes, bool *zeroed);

/* Puts a span back whose head this thread has taken. Lock held; returns without it. */
void span_put_and_unlock(struct slab *head);

/* Makes it longer or shorter where it lies. False: it cannot, and nothing has changed. Who holds it; takes the lock. */
bool span_resize(struct slab *head, size_t len_bytes);

/* Gives its pages back, or notes that nobody has touched them: it reads as zero then. False: the system refuses. Who holds it. */
bool span_discard(struct slab *head, bool touched);

/* Gives a part of them back. False: the system refuses. Who holds it. */
bool span_give_pages(struct slab *head, size_t from_bytes, size_t to_bytes);

/* ---- Its records, also for held.c and packed.c ---- */

/* The slots that a block of size_bytes takes. */
static inline size_t span_slots_for(size_t size_bytes)
{
    return (size_bytes + SLAB_BYTES - 1) >> SLAB_SHIFT;
}

/* relaxed, all four: the state publishes them, and who reads them without holding the slots guesses */
static inline void span_set_slots(struct slab *slab, unsigned n)
{
    atomic_store_explicit(&slab->span_slabs, (uint16_t)n, memory_order_relaxed);
}

static inline unsigned span_slots(const struct slab *slab)
{
    return atomic_load_explicit(&slab->span_slabs, memory_order_relaxed);
}

static inline void span_set_bytes(struct slab *head, size_t len_bytes)
{
    atomic_store_explicit(&head->span_bytes, len_bytes, memory_order_relaxed);
}

static inline size_t span_bytes(const struct slab *head)
{
    return atomic_load_explicit(&head->span_bytes, memory_order_relaxed);
}

static inline void span_set_state(struct slab *slab, enum slab_state state)
{
    atomic_store_explicit(&slab->ctl, SLAB_CTL(state, 0, 0), memory_order_release);
}

/* n slots in a row, on a multiple of align_slots, from the pool; maps a SuperSlab if there is none. Returns with the lock held, or
 * false without it: no memory, or it was held by what a signal handler interrupted. The second: who has the lock. */
bool span_take_slots_locked(unsigned n, unsigned align_slots, struct superslab **ss, unsigned *slot);
bool span_take_more_slots(unsigned n, unsigned align_slots, struct superslab **ss, unsigned *slot);

/* Notes that the pages of the first len_bytes of a span with this head are handed out. Returns whether all of them were clean. Who holds the
 * slots. */
bool span_hand_out_pages(struct slab *head, size_t len_bytes);

#endif
