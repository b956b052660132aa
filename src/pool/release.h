/* release.h - where SuperSlabs come from and where they go: the release guard, the LRU cache, the system.
 */
#ifndef HAKMEM_POOL_RELEASE_H
#define HAKMEM_POOL_RELEASE_H

#include "meta/layout.h"

/* The release guard: a SuperSlab may be given back when no slot is active and nobody refers to it. Pool lock. */
bool release_guard_agrees(const struct superslab *ss);

/* A detached, empty SuperSlab (state LEAVING) goes back to the system at once, past the LRU cache. Not under the
 * lock. */
void release_superslab(struct superslab *ss);

/* n SuperSlabs in a row, detached and empty, go to the LRU cache; what no longer fits, oldest first, must be given
 * back by release_evicted after unlocking. More than the cache holds go back at once that way. Pool lock. */
void lru_push(struct superslab *ss, uint32_t n);
void release_evicted(void);

/* n SuperSlabs in a row from the cache, state MAPPING; NULL when it has none. Pool lock. */
struct superslab *lru_take(uint32_t n, size_t alignment);

/* An empty SuperSlab's slot records become those of a fresh one; what its pages hold is then known as a whole
 * (DIRTY_ALL). The caller has it in its hands. */
void superslab_forget_slots(struct superslab *ss);

/* Number of SuperSlabs in the cache. Without the lock: a guess. */
uint32_t lru_count(void);

/* Gives back what has been in the cache for delay_ms and nobody refers to. Not under the lock. */
void lru_expire(uint32_t now_ms, int64_t delay_ms);

/* Gives back everything in the cache that nobody refers to. Not under the lock. */
void lru_drain(void);

/* n SuperSlabs in a row, writable, from the system. State MAPPING. Not under the lock. NULL: no memory, or the lock
 * is this thread's already. */
struct superslab *superslab_map(uint32_t n, size_t alignment);

/* The child of a fork found the lists in doubt: the cache forgets its entries, whose records tell what they are. Pool
 * lock. */
void lru_forget(void);

#endif
