/* packed.h - packed spans: blocks above 32 KiB that take whole pages, one behind the other, and share slots with their neighbours.
 *
 *   slots of a SuperSlab   |aaaaaaaaaabbbbbb|bbbbbbcccccccccc|cccc............|     one letter a page
 *
 * A span that begins on a slot leaves what is behind its end to nobody: of blocks of 40,000 bytes, 6 of 16 pages. So their SuperSlabs
 * never get a huge page, each of whose small pages would come by a page fault of its own (docs/memory.md). Packed, they lie as densely as
 * small blocks do in slabs. Who is packed: lengths that would leave an eighth of their slots or more, in heaps that may come to have huge
 * pages; not in hardened mode, with a budget, with a delay of 0, nor where pages are larger than 4 KiB.
 * A slot with such pages is PACKED. Where a block begins tells its head, in the slot's record (layout.h).
 */
#ifndef HAKMEM_POOL_PACKED_H
#define HAKMEM_POOL_PACKED_H

#include "pool/packed_pages.h"

/* Whether a new block of len_bytes, a multiple of the page, is to be packed. */
bool packed_suits(size_t len_bytes);

/* The head of a block; NULL: no block of the program's begins there. Any thread, any address. */
struct packed_head *packed_head_of(const void *block);

/* Usable bytes of a block. Who holds it. */
static inline size_t packed_bytes(const struct packed_head *head)
{
    return PACKED_ASKED(packed_word(head)) * PACKED_PAGE_BYTES;
}

/* A block of len_bytes, beside others where it leaves the least of a gap, or in slots that nobody has; *zeroed as of large_claim. NULL:
 * there is no memory, or a signal handler asks that interrupted the lock's holder. Takes the lock, as all of these. */
void *packed_claim(size_t len_bytes, bool *zeroed);

/* Puts a block back; later, if a signal handler asks that interrupted the lock's holder. False: it is none (freed twice). */
bool packed_return(const void *block, struct packed_head *head);

/* Puts back what was to come later. */
void packed_put_deferred(void);

/* Makes a block longer or shorter where it lies. False: it cannot. */
bool packed_resize(const void *block, struct packed_head *head, size_t len_bytes);

/* ---- Held by a thread ---- */

/* Blocks of len_bytes to hold: one, and further ones that need no memory of the system's, up to `most` in all. Returns how many; 0: there
 * is no memory. Takes the lock. */
unsigned packed_hold_ahead(size_t len_bytes, unsigned most, struct packed_block *blocks);

/* Of a block in this slot that the heap profile knows nothing of: its pages. 0: it is none. */
unsigned packed_length_in(struct slab *slab, const void *block);

/* Takes a block that is being freed out of the program's hands. Returns its pages; 0: it is none, or its SuperSlab drains. */
unsigned packed_hold(struct slab *slab, const void *block);

/* Makes a held block of so many pages the program's again. */
void packed_give(const void *block, unsigned asked_pages);

/* Puts held blocks back, and takes the lock for it, which the caller must not have interrupted. */
void packed_put_held(const struct packed_block *blocks, unsigned n);

#endif
