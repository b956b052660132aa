/* huge_pages.h - which SuperSlabs have huge pages, of 2 MiB as they are.
 * 512 page faults take 250 to 700 microseconds, that of a huge page some 85; but all of a huge page is in memory, used or not.
 */
#ifndef HAKMEM_POOL_HUGE_PAGES_H
#define HAKMEM_POOL_HUGE_PAGES_H

#include "meta/layout.h"

/* Whether a fresh SuperSlab for slabs or for spans is to have huge pages. Not under the lock. */
bool huge_pages_for_slabs(const struct superslab *fresh);
bool huge_pages_for_spans(const struct superslab *fresh);

/* SuperSlabs in a row, from `first` on and before `end`. */
struct huge_part {
    uint32_t first, end;
};

/* Which SuperSlabs of a block of len_bytes, that of a SuperSlab at least, are to have them. grown: the run that is to become so long, or
 * NULL. Not under the lock. */
struct huge_part huge_pages_for_run(const struct superslab *grown, size_t len_bytes);

/* Whether the system's huge pages are as long as a SuperSlab: where pages have 16 or 64 KiB they have 32 or 512 MiB, and one touch of a
 * block may bring all of that. */
bool huge_pages_fit(void);

/* A run is there, or has become longer. With huge pages it counts as one that may never be filled until it is seen to be. Lock held. */
void huge_pages_note_run(struct superslab *ss);

/* In the child of a fork, whose parent may have been in the midst of it. */
void huge_pages_forget_runs(void);

/* In the child of a fork: what is mapped already is the parent's, too. */
void huge_pages_fork_child(void);

/* Lets the system use huge pages for a part of n SuperSlabs in a row that are being brought into use, and for no others. Of those
 * others, the ones that hold old pages stay as they are. State MAPPING. Not under the lock. */
void superslab_choose_pages(struct superslab *ss, uint32_t n, struct huge_part part);

/* The same for one. */
static inline void superslab_choose_page(struct superslab *ss, bool huge)
{
    superslab_choose_pages(ss, 1, (struct huge_part){.end = huge ? 1 : 0});
}

/* Ends the use of huge pages in a SuperSlab, before a part of it is purged: the part would stay in memory, and the system
 * might make a huge page of what is left. Under the lock only where a part of a block is purged (tail.c). */
void superslab_use_small_pages(struct superslab *ss);

#endif
