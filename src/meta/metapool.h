/* metapool.h - memory for the allocator's own records of threads, and for their quarantines in hardened mode.
 * Out of band: none of it lies near users' blocks, and none of it is ever given to them.
 */
#ifndef HAKMEM_META_METAPOOL_H
#define HAKMEM_META_METAPOOL_H

#include "base/base.h"

#define METAPOOL_PIECE_BYTES ((size_t)64 * KIB) /* a multiple of any system page */

/* A zeroed piece of METAPOOL_PIECE_BYTES, on a multiple of as many; NULL when there is no memory. Nobody gives one back: threads
 * use each other's, one after another. Caller holds the pool lock. */
void *metapool_claim(void);

/* Bytes committed so far. The variable is for outside readers: see api/anchor.h. */
extern _Atomic size_t metapool_committed __attribute__((visibility("hidden")));
size_t metapool_committed_bytes(void);

#endif
