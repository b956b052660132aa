/* slab_gaps.h - larger blocks between those of a sparse slab, each in place of several. Which slabs have them: pool/gap.h.
 *
 * A second bit map tells which blocks are the rest of a larger one that begins before them. It lies in the upper half of the slab's
 * large bit map, which only 8-byte blocks need.
 */
#ifndef HAKMEM_SUPERSLAB_SLAB_GAPS_H
#define HAKMEM_SUPERSLAB_SLAB_GAPS_H

#include "superslab/slab.h"

#include <limits.h>

/* Whether slabs of the class can have gaps: their bit maps leave room for a second one. */
static inline bool slab_may_have_gaps(unsigned class_id)
{
    return class_table[class_id].n_words <= SLAB_FOLLOW_WORD;
}

/* From now on it has, or no longer: then nothing may lie in them. Caller owns the slab. */
void slab_open_gaps(struct slab *slab);
void slab_close_gaps(struct slab *slab);

#define SLAB_NO_GAP UINT_MAX

/* The first of several free blocks side by side, on pages that are in memory, in whose place there is room for size_bytes; or
 * SLAB_NO_GAP. Caller owns the slab. */
unsigned slab_find_gap(const struct slab *slab, size_t size_bytes);

/* A block of at least size_bytes there, on a multiple of 16. Caller owns the slab, which has gaps. */
void *slab_claim_gap(struct slab *slab, unsigned first, size_t size_bytes);

/* Whether a block lies in the place of a larger one that begins before it. Who holds a block of the slab, which has gaps. */
bool slab_follows(const struct slab *slab, unsigned index);

/* In place of how many blocks the one that begins at `index` lies: 1 or more. Who holds the block. */
unsigned slab_gap_blocks(const struct slab *slab, unsigned index);

/* Makes n blocks of it, each of which is to be returned. Likewise. */
void slab_split_gap(struct slab *slab, unsigned index, unsigned n);

/* Whether the second map tells of blocks in use alone, and of as many as n_following. Exact when nobody claims or returns. */
bool slab_gaps_are_whole(const struct slab *slab);

#endif
