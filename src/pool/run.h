/* run.h - runs: whole SuperSlabs in a row for one block of more than 1.94 MiB (SPAN_MAX_BYTES), or of 1 MiB if it has grown.
 * Its head is the record of its first slab: SPAN_HEAD, with 0 slots.
 */
#ifndef HAKMEM_POOL_RUN_H
#define HAKMEM_POOL_RUN_H

#include "meta/layout.h"

/* A block of len_bytes, a multiple of the system's page, on a multiple of alignment; *zeroed as of large_claim. NULL: there is no memory, or
 * a signal handler asks that interrupted the pool lock's holder. Takes the lock. */
void *run_claim(size_t len_bytes, size_t alignment, bool *zeroed);

/* Puts a run back whose head this thread has taken. Lock held; returns without it. */
void run_put_and_unlock(struct slab *head);

/* Makes it longer or shorter where it lies. False: it cannot. Who holds it; takes the lock. */
bool run_resize(struct slab *head, size_t len_bytes);

/* ---- Its pages: who holds it, without the lock ---- */

/* Makes all of it accessible again. */
void run_open(const struct slab *head);

/* Gives its pages back, or notes that nobody has touched them: it reads as zero then. False: the system refuses. */
bool run_discard(const struct slab *head, bool touched);

/* Gives a part of them back. False: the system refuses. */
bool run_give_pages(const struct slab *head, size_t from_bytes, size_t to_bytes);

/* Notes that the pages of its first len_bytes are in use. */
void run_hand_out_pages(const struct slab *head, size_t len_bytes);

/* The SuperSlabs that lie wholly within the first len_bytes are about to move, and no longer count as in memory; and are not,
 * and do so again. */
void run_lend(const struct slab *head, size_t len_bytes);
void run_take_back(const struct slab *head, size_t len_bytes);

/* Moves those, which were lent, from one run to another: by pages, or where the system refuses by a copy. Returns the bytes moved. */
size_t run_move(const struct slab *from_head, const struct slab *to_head, size_t len_bytes);

#endif
