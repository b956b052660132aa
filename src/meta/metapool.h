/* metapool.h - memory for the allocator's own small records: thread records and magazine arrays.
 * Out of band: none of it lies near users' blocks, and none of it is ever given to them.
 */
#ifndef HAKMEM_META_METAPOOL_H
#define HAKMEM_META_METAPOOL_H

#include "base/base.h"

#define METAPOOL_MIN_BYTES 64
#define METAPOOL_MAX_BYTES ((size_t)32 * KIB)

/* A zeroed piece of at least size_bytes (64 to 32768, rounded up to a power of two, aligned to min(size, 4096)); NULL
 * when there is no memory. Caller holds the pool lock. */
void *metapool_claim(size_t size_bytes);

/* Gives a piece back for reuse. Caller holds the pool lock. */
void metapool_return(void *piece, size_t size_bytes);

/* Bytes committed so far. */
size_t metapool_committed_bytes(void);

#endif
