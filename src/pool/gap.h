/* gap.h - the gaps of sparse slabs serve larger requests.
 *
 * Where many blocks of one size have gone and other sizes are wanted now, a few that live on keep all pages of their slabs in memory:
 * blocks of 64 bytes, of which one in a hundred is left, lie on nearly as many pages as all of them did. A slab per size cannot use
 * what is free between them, and giving pages back does not help. So a thread that would have to touch a fresh page for a block of
 * GAP_LEAST_BYTES or more looks there first: a larger block lies in place of several free ones side by side.
 *
 *   slab of 64-byte blocks   |x| | | | | | | | | |x| | | | |x| | |      x: in use
 *   with a block of 448      |x|7 > > > > > >| | |x| | | | |x| | |      >: its bit in a second map says that it follows
 *
 * The class map says CLASS_GAPS of such a slab, so all its blocks are freed by the slow path, which asks the slab how much comes back.
 * In all else the slab stays what it was: its bits say what is free, its count how many blocks' worth are in use.
 *
 *   PARTIAL, sparse ---somebody asks---> has gaps ---no larger block left, and its own class claims, or nobody asks---> as it was
 */
#ifndef HAKMEM_POOL_GAP_H
#define HAKMEM_POOL_GAP_H

#include "superslab/slab_gaps.h"

/* For a smaller one, the search would take longer than its share of a fresh page. */
#define GAP_LEAST_BYTES 256

/* A block of the class's bytes in a gap, on a multiple of 16, and no more. NULL: there is none, or none worth a longer search. Any
 * thread; takes the pool's lock when it lets go of a slab that has become empty, and without a purge delay. */
void *gap_claim(unsigned class_id);

/* A slab is PARTIAL, and few of its blocks are in use, if it is not somebody else's by now: somebody who asks may look at it. Any thread,
 * no lock. */
void gap_note_sparse(struct slab *slab, unsigned class_id);

/* Closes the gaps of a slab if no larger block is left in them. Caller owns the slab. */
void gap_close_unused(struct slab *slab);

/* The same for a PARTIAL slab, if nobody has asked for gaps since the last tick, or it is sparse no longer. By ticks. */
void gap_tick_slab(struct slab *slab, slab_ctl ctl);

/* Ends a tick: from now on requests are served again that found nothing. */
void gap_tick(void);

/* A block that is freed, in a slab with gaps: all of it goes back. False: some of it was free already. Any thread that holds the
 * block. */
bool gap_return(struct slab *slab, unsigned index);

#endif
