/* slab.h - the blocks of one 64 KiB slab as bits: claim and return.
 *
 * A set bit is a free block. Only the slab's owner clears bits (claims); whoever holds a block sets its bit (returns
 * it).
 */
#ifndef HAKMEM_SUPERSLAB_SLAB_H
#define HAKMEM_SUPERSLAB_SLAB_H

#include "meta/sizeclass.h"
#include "os/os.h"

/* Pages as dirty_pages counts them: the system's, but at least 4 KiB. */
static inline size_t slab_page_bytes(void)
{
    return max_size(os_page_bytes(), 4096);
}

/* For shifts instead of divisions: the size of a page is known at run time alone. */
static inline unsigned slab_page_shift(void)
{
    return (unsigned)__builtin_ctzll(slab_page_bytes());
}

/* The page in which a byte of the slab lies. */
static inline unsigned slab_page_of(size_t byte)
{
    return (unsigned)(byte >> slab_page_shift());
}

static inline unsigned slab_all_pages(void)
{
    return (1u << (SLAB_BYTES >> slab_page_shift())) - 1;
}

/* The pages of a slab that begin below byte `end` of its SuperSlab, when the slab begins at byte `from` of it. */
static inline unsigned slab_pages_below(size_t end, size_t from)
{
    if (end <= from)
        return 0;
    if (end - from >= SLAB_BYTES)
        return slab_all_pages();
    return (1u << ((end - from + slab_page_bytes() - 1) >> slab_page_shift())) - 1;
}

/* What a return brought about; the caller acts on it (shared_pool.c). */
enum slab_return {
    SLAB_RETURN_NOTHING,
    SLAB_RETURN_LISTABLE, /* was FULL, now PARTIAL: the caller sets its bit in the class set */
    SLAB_RETURN_RETIRING, /* was nobody's and is now empty: the caller alone may and must release it */
    SLAB_RETURN_SPARSER,  /* its use fell to a half, a quarter or an eighth: the SuperSlab's tier may change */
    /* nothing: more came back than had gone out, so some were freed twice and handed out in between */
    SLAB_RETURN_TOO_MANY
};

/* Notes where a slot's slab lies. Caller holds the slot. */
void slab_place(struct slab *slab, struct superslab *ss, unsigned slot);

/* Sets the count by the bit map: for the child of a fork, in which a claim may have been cut in half. only_up: but not to less, as blocks
 * that are free already may yet be taken off it; then by the owner beside returns, too, to which the count is never below the bits. */
void slab_recount(struct slab *slab, bool only_up);

/* Prepares a slot for a class: every block free. The caller is the only one who knows the slab (it holds a TAKEN
 * slot, see layout.h). Ends in state OWNED. */
void slab_open(struct slab *slab, struct superslab *ss, unsigned slot, unsigned class_id);

/* Instead of an end: blocks all of whose pages were handed out already, and not given back since. They cost no memory. */
#define SLAB_RECYCLED 0x10000u

/* Claims up to n of the blocks below number `end`, or of the recycled ones, in ascending order of address, and writes them to out so that
 * out[0] is the highest of them: an array from whose end they are popped in ascending order. The first claim from an
 * empty slab, if it fits into the first page, begins at a place there that depends on the class.
 * Returns how many. Caller owns the slab. */
unsigned slab_claim(struct slab *slab, unsigned n, unsigned end, void **out);

/* Claims the free blocks below number `end`, or the recycled ones, of one bit map word, whose number goes to *word. Returns their bits; 0 when
 * there are none. Caller owns the slab. */
uint64_t slab_claim_word(struct slab *slab, unsigned end, unsigned *word);

/* Claims one block all of whose pages were handed out already, so that nothing is committed; NULL: there is none. Looks at
 * every free block: for when memory has run out. Caller owns the slab. */
void *slab_claim_in_memory(struct slab *slab);

/* Whether the slab has free blocks all of whose pages were handed out, as far as the search from its cursor sees. Caller owns
 * the slab. */
bool slab_has_recycled(const struct slab *slab);

/* The number of the lowest free block; n_blocks when there is none. Caller owns the slab. */
unsigned slab_lowest_free(const struct slab *slab);

/* Whether a listed slab of the class seems to have free blocks on pages that are in memory. A guess; any thread. */
bool slab_maybe_recycled(const struct slab *slab, unsigned class_id);

/* Blocks come back in two steps, each by any thread that holds them, without a lock. First the bits of those of one word. *doubly gets the
 * bits that were set already: blocks that were free. Returns how many were not. */
unsigned slab_return_bits(struct slab *slab, unsigned word, uint64_t mask, uint64_t *doubly);

/* Then the count: of one word, or of several. n is at least 1. */
enum slab_return slab_return_count(struct slab *slab, unsigned n);

/* Whether larger blocks may lie between the slab's own (slab_gaps.h). Any thread. */
static inline bool slab_has_gaps(const struct slab *slab)
{
    return atomic_load(&slab->gaps) != 0;
}

/* Whether a slab with so many blocks in use has too few free ones to be listed. */
bool slab_counts_as_full(unsigned class_id, unsigned used);

/* Makes a FULL slab of the class PARTIAL if it has any free block: the caller lists it. False: it has none, or is not FULL. Any
 * thread, no lock. */
bool slab_unfill(struct slab *slab, unsigned class_id);

/* The owner lets go. Returns SLAB_RETURN_LISTABLE, SLAB_RETURN_RETIRING, or NOTHING when the slab is full. */
enum slab_return slab_disown(struct slab *slab);

/* Takes ownership of a PARTIAL slab of the class. Any thread, no lock. */
bool slab_own(struct slab *slab, unsigned class_id);

/* Takes an idle RETIRING slab back to PARTIAL: its release was refused. Caller made it RETIRING. */
void slab_unretire(struct slab *slab);

static inline slab_ctl slab_ctl_read(const struct slab *slab)
{
    return atomic_load_explicit(&slab->ctl, memory_order_acquire);
}

/* Whether all of its pages were handed out: then every free block is recycled. */
static inline bool slab_is_all_dirty(const struct slab *slab)
{
    return atomic_load_explicit(&slab->dirty_pages, memory_order_relaxed) == slab_all_pages(); /* relaxed: the owner */
}

/* How much of the slab's memory may be in memory: pages that were handed out and not given back since. */
size_t slab_dirty_bytes(const struct slab *slab);

/* At most as much, by the last of these pages: without counting them. */
static inline size_t slab_reach_bytes(const struct slab *slab)
{
    unsigned dirty = atomic_load_explicit(&slab->dirty_pages, memory_order_relaxed); /* relaxed: as above */
    return dirty == 0 ? 0 : (32 - (size_t)__builtin_clz(dirty)) * slab_page_bytes();
}

/* How much of the slab's memory holds no block in use, but for pages that were given back already. A guess; any thread. */
size_t slab_free_bytes_in_memory(const struct slab *slab, slab_ctl ctl);

/* Gives back the pages of an owned slab on which no block is in use.
 * Returns the bytes given back. Caller owns the slab. */
size_t slab_purge_free_pages(struct slab *slab);

/* Whether a block is free by the bit map: then nobody holds it. Any thread. */
static inline bool slab_is_free(const struct slab *slab, unsigned index)
{
    /* relaxed: the bit of a block that the caller holds cannot change */
    return (atomic_load_explicit(&slab->bits[index / 64], memory_order_relaxed) >> (index % 64) & 1) != 0;
}

/* Number of free blocks by the bit map. Exact when nobody claims or returns. */
unsigned slab_count_free(const struct slab *slab);

/* True when bits and count agree and no bit past the last block is set. Exact when nobody claims or returns. */
bool slab_check(const struct slab *slab);

#endif
