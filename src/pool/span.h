/* span.h - blocks above 32 KiB: spans of slabs inside SuperSlabs up to 31 of them, runs of whole SuperSlabs above.
 * A block is known by its first slab's record: state SPAN_HEAD; or by a head in that, if it is packed with others: see packed.h. Its usable size is the request rounded up to the
 * system's page: nothing behind that is touched, so it costs no memory.
 */
#ifndef HAKMEM_POOL_SPAN_H
#define HAKMEM_POOL_SPAN_H

#include "meta/layout.h"

/* A block of at least size_bytes (not above PTRDIFF_MAX) on a multiple of alignment (a power of two). *zeroed asks for one that reads
 * as zero, where that costs less than to clear it all, and tells whether every byte is known to be zero. Above SPAN_GROWN_MAX_BYTES an
 * alignment of 2 MiB gets a run, whose block can grow where it lies.
 * Returns NULL when there is no memory. Any thread. */
void *span_claim(size_t size_bytes, size_t alignment, bool *zeroed);

/* The same for up to SLAB_BYTES, where no huge page is: the block has no more memory than the pages that it needs. */
void *span_claim_apart(size_t size_bytes, size_t alignment, bool *zeroed);

/* Packed blocks of len_bytes for a thread to hold (packed.h): one, and further ones that need no memory of the system's, up to `most` in
 * all. Returns how many; 0: there is no memory. Takes the lock as span_claim. */
unsigned span_hold_packed(size_t len_bytes, unsigned most, struct packed_block *blocks);

/* Returns a block. False: there is no such block (nothing has changed). Any thread that holds it. */
bool span_return(void *block);

/* Usable bytes of a block; 0 when there is no such block. */
size_t span_usable_bytes(const void *block);

/* What the heap profile knows of a block: slab.sample. NULL: no block begins there, or it has none (emergency.h). Who holds it. */
uint64_t *span_sample(const void *block);

/* Makes a block longer or shorter where it lies. False: it cannot, and nothing has changed. */
bool span_resize(void *block, size_t size_bytes);

/* Makes a block shorter where it lies, however short it is then: for want of memory for another one. False: there is no such
 * block, or a signal handler asks that interrupted the pool lock's holder. */
bool span_shrink(void *block, size_t size_bytes);

/* Whether some block has stayed longer than its caller knows, as that was refused. */
bool span_any_unshrunk(void);

/* Before another block is claimed to which span_move will move the first len_bytes: their pages will move too, where that
 * pays, so they are not counted twice. span_take_back undoes it when there is no such block. */
void span_lend(const void *block, size_t len_bytes);
void span_take_back(const void *block, size_t len_bytes);

/* Before a block is returned of which parts were made inaccessible. Who holds the block. */
void span_open(void *block);

/* Gives back the pages of a block, which then reads as zero, as it does already if it was not touched. False: the system refuses,
 * and nothing has changed. And notes that the first len_bytes are used again. Who holds the block. */
bool span_discard(void *block, bool touched);
void span_take_pages(void *block, size_t len_bytes);

/* Moves the contents of one block, which were lent, to another one of at least len_bytes, by pages where that pays; the old
 * one's contents are lost. */
void span_move(void *from, void *to, size_t len_bytes);

/* ---- For span.c and held.c --------------------------------------------------------------------------------------- */

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
 * false without it: no memory, or it was held by what a signal handler interrupted. */
bool span_take_slots_locked(unsigned n, unsigned align_slots, struct superslab **ss, unsigned *slot);

/* Notes that the pages of a span of len_bytes, from the slot on, are handed out. Returns whether all of them were clean. Who holds the
 * slots. */
bool span_hand_out_pages(struct superslab *ss, unsigned head, size_t len_bytes);

extern const char span_lock_is_gone[] __attribute__((visibility("hidden")));

#endif
