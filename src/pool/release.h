/* release.h - where SuperSlabs come from and where they go: the release guard, the system. What waits between: lru.h.
 */
#ifndef HAKMEM_POOL_RELEASE_H
#define HAKMEM_POOL_RELEASE_H

#include "meta/layout.h"

/* The release guard: a SuperSlab may be given back when no slot is active and nobody refers to it. Pool lock. */
bool release_guard_agrees(const struct superslab *ss);

/* A detached, empty SuperSlab (state LEAVING) goes back to the system at once, past the LRU cache; or to the cache while somebody refers to
 * it. Lock held; returns without it. */
void release_detached_and_unlock(struct superslab *ss);

/* n in a row, in the caller's hands, go back to the system at once. Not under the lock. */
void release_row(struct superslab *ss, uint32_t n);

/* n in a row are to be given back by release_evicted, which the caller calls when it has unlocked. Pool lock. */
void release_later(struct superslab *ss, uint32_t n);
void release_evicted(void);

/* The child of a fork: what was to be given back is forgotten; the records tell what it is. Pool lock. */
void release_forget(void);

/* A GiB. Of longer rows the system is not asked what is in memory: 512 questions take some 200 microseconds. Nor may a longer run wait to
 * be asked about (lru_push_unasked). */
#define RELEASE_ASK_MAX_SUPERSLABS 512

/* Asks the system which of n SuperSlabs in a row, detached and empty, are in memory at all, and purges those that hardly are: they
 * are clean afterwards. It asks nothing of longer rows, under a filter of system calls, with HAKMEM_BACKGROUND=off, or where
 * only a trim may give back (HAKMEM_PURGE_DELAY_MS=-1). Not under the lock. */
void release_untouched(struct superslab *ss, uint32_t n);

/* Whether the system may be asked what of n SuperSlabs is in memory: see above. */
bool release_may_ask(uint32_t n);

/* Tries again to give back what the system has refused to take. For trims. Not under the lock. */
void release_refused(void);

/* Gives back what waits, for it may be what is missing: whether there was any. Not under the lock. */
bool release_waiting(void);

/* Gives back the pages of n SuperSlabs outside the pool, each as it was but clean. The caller has them in its hands. Not under the
 * lock. */
void superslab_purge(struct superslab *ss, uint32_t n);

/* n SuperSlabs in a row, writable, from the system. State MAPPING. Not under the lock. NULL: no memory, or the lock
 * is this thread's already. */
struct superslab *superslab_map(uint32_t n, size_t alignment);

/* Notes that n SuperSlabs more are mapped: by whoever takes fresh ones of an arena. */
void superslab_count_mapped(uint32_t n);

#endif
