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

#include "hakmem/hakmem.h"
#include "superslab/slab.h"

/* Whether a new block of len_bytes, a multiple of the page, is to be packed. */
bool packed_suits(size_t len_bytes);

static inline bool packed_is(const struct slab *slab)
{
    return CTL_STATE(slab_ctl_read(slab)) == SLAB_PACKED;
}

/* The head of a block in this slot; NULL: no block of the program's begins there. Any thread. */
struct packed_head *packed_head_in(struct slab *slab, const void *block);

/* The same of any address. */
struct packed_head *packed_head_of(const void *block);

static inline uint32_t packed_word(const struct packed_head *head)
{
    return atomic_load_explicit(&head->word, memory_order_acquire);
}

/* Usable bytes of a block. Who holds it. */
static inline size_t packed_bytes(const struct packed_head *head)
{
    return PACKED_ASKED(packed_word(head)) * PACKED_PAGE_BYTES;
}

/* ---- Under the pool lock ---- */

/* A block among those that are there, in the SuperSlab where it leaves the least of a gap. NULL: it fits nowhere. */
void *packed_claim(size_t len_bytes, bool *zeroed);

/* A block in n slots of which the caller has just taken the first, which hold nothing yet. */
void *packed_claim_in(struct superslab *ss, unsigned slot, unsigned n, size_t len_bytes, bool *zeroed);

/* Takes a block out of the program's hands, and puts its pages back. False: it is none (freed twice). *freed: a SuperSlab that has become
 * empty, for lru_push. */
bool packed_put(const void *block, struct packed_head *head, struct superslab **freed);

/* For a signal handler that interrupted the lock's holder: takes a block out of the program's hands, to be put back another time, with the
 * lock. False: it is none. Without the lock; and then with it. */
bool packed_let_wait(const void *block, struct packed_head *head);
void packed_put_waiting(struct packed_head *head, struct superslab **freed);

/* Makes a block longer or shorter where it lies. False: it cannot. */
bool packed_resize(const void *block, struct packed_head *head, size_t len_bytes);

/* ---- Held by a thread: without the lock ---- */

/* Of a block in this slot that the heap profile knows nothing of: its pages. 0: it is none. */
unsigned packed_length_in(struct slab *slab, const void *block);

/* Takes a block that is being freed out of the program's hands. Returns its pages; 0: it is none, or its SuperSlab drains. */
unsigned packed_hold(struct slab *slab, const void *block);

/* Makes a held block of so many pages the program's again. */
void packed_give(const void *block, unsigned asked_pages);

/* Puts held blocks back, and takes the lock for it, which the caller must not have interrupted. */
void packed_put_held(const struct packed_block *blocks, unsigned n);

/* ---- What lies idle, fork, checks ---- */

/* Pages of a PACKED slot that are in no block, and in memory. A guess; any thread. */
static inline unsigned packed_idle_pages(const struct slab *slab)
{
    /* relaxed, both: a guess */
    return atomic_load_explicit(&slab->dirty_pages, memory_order_relaxed) &
           ~(unsigned)atomic_load_explicit(&slab->packed_pages, memory_order_relaxed) & 0xffff;
}

/* Gives them back. Returns the bytes. Takes the lock. */
size_t packed_purge(struct slab *slab, enum hak_lock_cause cause);

/* The pages of each slot by the heads: what packed_pages must be. */
void packed_count(const struct superslab *ss, uint16_t pages[SUPERSLAB_SLABS]);

/* In the child of a fork, lock held: sets the PACKED slots' pages by the heads. Those without become EMPTY, and are in the mask that is
 * returned. */
uint32_t packed_rebuild(struct superslab *ss);

/* What is wrong with its PACKED slots; NULL: nothing. Exact when no other thread is at work. */
const char *packed_check(const struct superslab *ss);

#endif
