/* metapool.h - memory for the allocator's own records of threads, and for their quarantines in hardened mode.
 * Out of band: none of it lies near users' blocks, and none of it is ever given to them.
 */
#ifndef HAKMEM_META_METAPOOL_H
#define HAKMEM_META_METAPOOL_H

#include "base/base.h"

#define METAPOOL_PIECE_BYTES ((size_t)64 * KIB) /* a multiple of any system page */

#define METAPOOL_GUARD_BYTES METAPOOL_PIECE_BYTES

/* From now on records have inaccessible space on both sides. Before the first of them. */
void metapool_guard(void);

/* Address space for records, on a multiple of 64 KiB, with inaccessible space on both sides if that is wanted; NULL when there is none. */
char *metapool_reserve(size_t len_bytes);
void metapool_unreserve(char *space, size_t len_bytes);

/* A zeroed piece of METAPOOL_PIECE_BYTES, on a multiple of as many; NULL when there is no memory. Nobody gives one back: threads
 * use each other's, one after another. Caller holds the pool lock. */
void *metapool_claim(void);

/* Bytes committed so far. The variable is for outside readers: see api/anchor.h. */
extern _Atomic size_t metapool_committed __attribute__((visibility("hidden")));
size_t metapool_committed_bytes(void);

#endif
