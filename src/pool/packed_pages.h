/* packed_pages.h - the pages of PACKED slots: which are free, and which SuperSlab has room for a block. What the blocks are: packed.h.
 * A page is numbered within its SuperSlab. Under the pool lock, but for packed_purge, packed_check and what reads one word.
 */
#ifndef HAKMEM_POOL_PACKED_PAGES_H
#define HAKMEM_POOL_PACKED_PAGES_H

#include "hakmem/hakmem.h"
#include "superslab/slab.h"

static inline bool packed_is(const struct slab *slab)
{
    return CTL_STATE(slab_ctl_read(slab)) == SLAB_PACKED;
}

static inline uint32_t packed_word(const struct packed_head *head)
{
    return atomic_load_explicit(&head->word, memory_order_acquire);
}

/* A place for some pages: what would be left over of the row. */
struct packed_fit {
    struct superslab *ss; /* NULL: there is none */
    unsigned page, left;
};

/* The place for n pages, beside others, that leaves the least. */
struct packed_fit packed_find(unsigned n);

/* Takes n pages, all of them free or in slots that are `ours`: TAKEN, and not PACKED yet. Returns whether all are clean. */
bool packed_take_pages(struct superslab *ss, unsigned page, unsigned n, uint32_t ours);

/* Takes the n pages behind a block that grows. False: they are not free. */
bool packed_take_behind(struct superslab *ss, unsigned page, unsigned n);

/* Puts n pages back. Returns the SuperSlab if it is empty now, and detached. */
struct superslab *packed_put_pages(struct superslab *ss, unsigned page, unsigned n);

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

/* In the child of a fork: sets the PACKED slots' pages by the heads. Those without become EMPTY, and are in the mask that is returned. */
uint32_t packed_rebuild(struct superslab *ss);

/* What is wrong with its PACKED slots; NULL: nothing. Exact when no other thread is at work. */
const char *packed_check(const struct superslab *ss);

#endif
