/* release.h - where SuperSlabs come from and where they go: the release guard, the LRU cache, the system.
 */
#ifndef HAKMEM_POOL_RELEASE_H
#define HAKMEM_POOL_RELEASE_H

#include "meta/layout.h"

/* The release guard: a SuperSlab may be given back when no slot is active and nobody refers to it. Pool lock. */
bool release_guard_agrees(const struct superslab *ss);

/* A detached, empty SuperSlab (state LEAVING) goes back to the system at once, past the LRU cache. Not under the lock. */
void release_superslab(struct superslab *ss);

/* n SuperSlabs in a row, detached and empty, go to the LRU cache; what no longer fits, oldest first, must be given back by
 * release_evicted after unlocking. More than the cache holds go back at once that way. Pool lock. */
void lru_push(struct superslab *ss, uint32_t n);
void release_evicted(void);

/* n SuperSlabs in a row from the cache, state MAPPING; NULL when it has none. Pool lock. */
struct superslab *lru_take(uint32_t n, size_t alignment);

/* Number of SuperSlabs in the cache. */
uint32_t lru_count(void);

/* Gives back everything in the cache. Not under the lock. Returns bytes. */
size_t lru_drain(void);

/* n SuperSlabs in a row, writable, from the system. State MAPPING. Not under the lock. NULL: no memory. */
struct superslab *superslab_map(uint32_t n, size_t alignment, bool *lock_refused);

/* Makes n SuperSlabs in a row writable. Not under the lock. */
bool superslab_commit(struct superslab *ss, uint32_t n);

/* The child of a fork found the lists in doubt: the cache is emptied of its entries, which stay usable. Pool lock. */
void lru_rebuild(void);

#endif
