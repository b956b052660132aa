/* lru.h - the cache of empty SuperSlabs, in rows; oldest out first.
 */
#ifndef HAKMEM_POOL_LRU_H
#define HAKMEM_POOL_LRU_H

#include "meta/layout.h"

/* n SuperSlabs in a row, detached and empty, go to the cache; what no longer fits, oldest first, must be given back by
 * release_evicted after unlocking. More than the cache holds go back at once that way. Pool lock. */
void lru_push(struct superslab *ss, uint32_t n);

/* The same for a run of which it is not known what is in memory: it waits by itself and counts for nothing until lru_settle. False:
 * another one waits, or none is to wait; this one was not taken. Pool lock. */
bool lru_push_unasked(struct superslab *ss, uint32_t n);

/* As lru_push, once the system was asked what of them is in memory. Lock held, but given up meanwhile; they are LEAVING then. */
void lru_push_asked(struct superslab *ss, uint32_t n);

/* Asks what of the run that waits is in memory, and lets it count: before another run waits, or one of but_n SuperSlabs is wanted and
 * that which waits is not as long. Lock held, but given up meanwhile. */
void lru_settle(uint32_t but_n);

/* Before n fresh SuperSlabs are mapped: the same, and what the cache has no room for then, oldest first, must be given back by
 * release_evicted after unlocking. */
void lru_make_way(uint32_t n);

/* n SuperSlabs in a row for a run from the cache. State MAPPING; NULL when it has none. Pool lock. Those behind the first n_kept should be
 * purged: late runs were not used so far, and what old ones left would stay in memory. */
struct superslab *lru_take(uint32_t n, size_t alignment, uint32_t *n_kept);

/* The same of one for the pool, which wants so many of its slots now. For more than LRU_POOL_SLOTS what is warm of a run will do, too;
 * then lru_settle comes first. */
#define LRU_POOL_SLOTS (SUPERSLAB_SLABS / 2)
struct superslab *lru_take_for_pool(unsigned n_slots);

/* Number of SuperSlabs in the cache. Without the lock: a guess. */
uint32_t lru_count(void);

/* Gives back what has been in the cache for delay_ms and nobody refers to. Not under the lock. */
void lru_expire(uint32_t now_ms, int64_t delay_ms);

/* Gives back everything in the cache that nobody refers to. Not under the lock. */
void lru_drain(void);

/* The child of a fork found the lists in doubt: the cache forgets its entries, whose records tell what they are. Pool
 * lock. */
void lru_forget(void);

#endif
