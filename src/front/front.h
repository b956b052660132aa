/* front.h - the doors behind the hit paths: what malloc and free call when a magazine cannot serve.
 */
#ifndef HAKMEM_FRONT_FRONT_H
#define HAKMEM_FRONT_FRONT_H

#include "front/magazine.h"

/* A block for a request above 4096 bytes: from a magazine, or a span. NULL with errno ENOMEM. */
NOINLINE void *front_claim_above_small(size_t size_bytes);

/* A block for a request of up to 32768 bytes whose magazine was empty or closed. NULL with errno ENOMEM. */
NOINLINE void *front_claim_slow(size_t size_bytes);

/* The same for a class that the caller has worked out. exact: no larger class will do, because of its alignment. */
void *front_claim_class(unsigned class_id, bool exact);

/* A block above 32 KiB, or one with an alignment that no class has; as span_claim, with errno. */
void *front_claim_span(size_t size_bytes, size_t alignment, bool *zeroed);

/* Makes a block of a span longer or shorter where it lies; as span_resize. */
bool front_resize_span(void *block, size_t size_bytes);

/* Frees whatever the hit path could not: NULL, a full or closed magazine, another arena, a span, a mistake. Keeps
 * errno. */
NOINLINE void front_return_slow(void *block, const char *call);

/* What is said of an address inside a span or a run that is not its first. */
#define NO_BLOCK_BEGINS_HERE "no block begins here (freed already, or into the middle of one)"

/* The class of a block of ours, its first address; 0 and a report when it is none. CLASS_SPAN for spans and runs. */
unsigned front_class_of_block(const void *block, const char *call);

/* Empties this thread's magazines, lets go of its slabs, and gives back what `level` (enum hak_trim_level) names. */
void front_trim(int level);

#endif
