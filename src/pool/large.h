/* large.h - blocks above 32 KiB, of any kind: packed ones (packed.h), spans (span.h), runs (run.h), emergency blocks (emergency.h).
 * Which one a block is tells its address: a head in the record of its slab, or the record itself; none, for an emergency block.
 */
#ifndef HAKMEM_POOL_LARGE_H
#define HAKMEM_POOL_LARGE_H

#include "meta/layout.h"

enum large_place {
    LARGE_ANYWHERE,
    /* For what has grown, and grows again, mostly: not packed, where it would have to move each time; nor in the last slots of a SuperSlab,
     * but above SPAN_GROWN_MAX_BYTES a run. (The trace of sqlite3, where tables double: 24.8 MiB; 26.2 without.) */
    LARGE_GROWING,
    /* Up to SLAB_BYTES where no huge page is, so that the block has no more memory than the pages that it needs; or anywhere, if there is no
     * such place. */
    LARGE_APART,
};

/* A block of at least size_bytes on a multiple of alignment, a power of two. *zeroed asks for one that reads as zero, where that costs less
 * than to clear it all, and tells whether every byte is known to be zero. NULL: there is no memory, or none of such a size (above
 * PTRDIFF_MAX too). Any thread. */
void *large_claim(size_t size_bytes, size_t alignment, enum large_place place, bool *zeroed);

/* Returns a block. False: there is no such block (nothing has changed). Any thread that holds it. */
bool large_return(void *block);

/* Usable bytes of a block; 0 when there is no such block. */
size_t large_usable_bytes(const void *block);

/* What the heap profile knows of a block: slab.sample. NULL: no block begins there, or it has none (emergency.h). Who holds it. */
uint64_t *large_sample(const void *block);

/* Makes a block longer or shorter where it lies. False: it cannot, and nothing has changed. */
bool large_resize(void *block, size_t size_bytes);

/* Makes a block shorter where it lies, however short it is then: for want of memory for another one. False: there is no such
 * block, or a signal handler asks that interrupted the pool lock's holder. */
bool large_shrink(void *block, size_t size_bytes);

/* Whether some block has stayed longer than its caller knows, as that was refused. */
bool large_any_unshrunk(void);

/* Before another block is claimed to which large_move will move the first len_bytes: their pages will move too, where that
 * pays, so they are not counted twice. large_take_back undoes it when there is no such block. */
void large_lend(const void *block, size_t len_bytes);
void large_take_back(const void *block, size_t len_bytes);

/* Moves the contents of one block, which were lent, to another one of at least len_bytes, by pages where that pays; the old
 * one's contents are lost. zeroed: the other one is known to be zero. */
void large_move(void *from, void *to, size_t len_bytes, bool zeroed);

/* ---- For guarded.c, of spans and runs ---- */

/* Before a block is returned of which parts were made inaccessible. Who holds the block. */
void large_open(void *block);

/* Gives back the pages of a block, which then reads as zero, as it does already if it was not touched, by the program nor by large_claim (which
 * clears what is to be zero and is not). False: the system refuses,
 * and nothing has changed. And notes that the first len_bytes are used again. Who holds the block. */
bool large_discard(void *block, bool touched);
void large_take_pages(void *block, size_t len_bytes);

/* Gives back whole pages of a block, from byte from_bytes of it to to_bytes, which then read as zero. False: the system refuses. */
bool large_give_pages(void *block, size_t from_bytes, size_t to_bytes);

#endif
