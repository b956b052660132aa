/* slab_bits.h - a look at the words of a slab's bit map, for slab.c and slab_gaps.c. */
#ifndef HAKMEM_SUPERSLAB_SLAB_BITS_H
#define HAKMEM_SUPERSLAB_SLAB_BITS_H

#include "superslab/slab.h"

/* The blocks of a word all of whose pages were handed out, where there are holes. Owner. */
uint64_t slab_between_holes(const struct slab *slab, unsigned word);

/* The free blocks of a word that lie below number `end`, or are recycled. */
static ALWAYS_INLINE uint64_t slab_free_below(const struct slab *slab, unsigned word, unsigned end)
{
    /* relaxed: bits only appear meanwhile, and slab_claim acquires those it takes */
    uint64_t free = atomic_load_explicit(&slab->bits[word], memory_order_relaxed);
    if (unlikely(end == SLAB_RECYCLED) && free != 0)
        return free & slab_between_holes(slab, word);
    if (likely(end >= word * 64 + 64))
        return free;
    return end <= word * 64 ? 0 : free & (((uint64_t)1 << (end - word * 64)) - 1);
}

#endif
