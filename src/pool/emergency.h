/* emergency.h - blocks for a signal handler that interrupted the holder of the pool lock: it can neither wait nor go
 * on. Each is a mapping of its own, found through the registry, so it may be freed by anyone at any time.
 */
#ifndef HAKMEM_POOL_EMERGENCY_H
#define HAKMEM_POOL_EMERGENCY_H

#include "meta/layout.h"

/* A zeroed block; NULL when there is no memory. Any thread, no lock, in a signal handler too. */
void *emergency_claim(size_t size_bytes, size_t alignment);

/* Unmaps a block. False: it is none of these. */
bool emergency_return(void *block);

/* Usable bytes; 0 when it is none of these. */
size_t emergency_usable_bytes(const void *block);

#endif
