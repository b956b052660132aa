/* large_block.h - blocks above 32 KiB, or with an alignment that no class has, outside of hardened mode: from what the thread holds, or the
 * pool; within a budget; and what is done when there is no memory.
 */
#ifndef HAKMEM_FRONT_LARGE_BLOCK_H
#define HAKMEM_FRONT_LARGE_BLOCK_H

#include "front/front.h"

/* A block; as large_claim, but NULL with errno ENOMEM. */
void *large_block_claim(size_t size_bytes, size_t alignment, bool *zeroed);

/* The same for who has another way: gives up sooner, tells the program nothing of it, and leaves errno as it was. */
void *large_block_try(size_t size_bytes, size_t alignment, bool *zeroed);

/* One for what has outgrown another block, and grows again, mostly (LARGE_GROWING). *zeroed: all of it reads as zero. NULL with errno ENOMEM. */
void *large_block_claim_grown(size_t size_bytes, bool *zeroed);

/* A place for a block that the heap profile has picked: a span, whatever its size; as large_claim. Gives up sooner: NULL, and
 * errno as it was. */
void *large_block_claim_apart(size_t size_bytes, size_t alignment);

/* Makes a block of a span longer or shorter where it lies; as large_resize. */
bool large_block_resize(void *block, size_t size_bytes);

/* Makes it shorter, as large_shrink. */
void large_block_shrink(void *block, size_t size_bytes);

#endif
