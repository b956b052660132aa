/* front.h - what malloc and free call when a magazine cannot serve.
 *
 * The doors decide whether the process is in hardened mode (harden.h) and else lead to what lies behind them.
 */
#ifndef HAKMEM_FRONT_FRONT_H
#define HAKMEM_FRONT_FRONT_H

#include "front/magazine.h"

/* ---- Doors ---- */

/* By which call a block came to be, and by which it is freed. */
enum block_kind { KIND_MALLOC = 0, KIND_NEW, KIND_NEW_ARRAY };

/* How a block is freed: by which call, and what the caller says of it. */
struct release {
    const char *call;
    enum block_kind kind;
    size_t size_bytes; /* RELEASE_ANY_SIZE: not told */
    size_t alignment;  /* 1: not told */
};
/* No size that a mistake comes to: what fell below zero, or stands for an error, is near SIZE_MAX. */
#define RELEASE_ANY_SIZE (SIZE_MAX - 0x5ec1e7edU)

/* A block for a request above 4096 bytes: from a magazine, or a span. NULL with errno ENOMEM. */
NOINLINE void *front_claim_above_small(size_t size_bytes);

/* A block for a request of up to 32768 bytes whose magazine was empty or closed. NULL with errno ENOMEM. */
NOINLINE void *front_claim_slow(size_t size_bytes);

/* Either, of any size, for operator new and new[]. */
NOINLINE void *front_claim_as(size_t size_bytes, enum block_kind kind);

/* What a request with an alignment counts for in a profile: every block of 16 bytes lies on a multiple of them, so it is one
 * without. */
static ALWAYS_INLINE size_t front_told_bytes(size_t size_bytes, size_t alignment)
{
    return alignment <= 16 ? max_size(size_bytes, alignment) : size_bytes;
}

/* A block on a multiple of alignment, a power of two, that is above 4 KiB or whose magazine was empty or closed. */
NOINLINE void *front_claim_aligned(size_t size_bytes, size_t alignment, enum block_kind kind);

/* A block above 32 KiB. *zeroed asks for one that reads as zero, as large_claim's, and tells whether
 * every byte does. NULL with errno ENOMEM. */
void *front_claim_large(size_t size_bytes, bool *zeroed);

/* Frees whatever the hit path could not: NULL, a full or closed magazine, another arena, a span, a mistake. caller: where free
 * returns to. Keeps errno. */
NOINLINE void front_return_slow(void *block, const char *call, const void *caller);

/* The same when more is known than the address. */
NOINLINE void front_return_as(void *block, const struct release *release);

/* ---- Behind them ---- */

/* A block of the class, from a magazine or not. exact: no larger class will do, because of its alignment. NULL with errno
 * ENOMEM. The second tells what of it is clean, as front_claim_medium. */
void *front_claim_class(unsigned class_id, bool exact);
void *front_claim_class_clean(unsigned class_id, bool exact, unsigned *clean);

/* A block for a request of 4097 to 32768 bytes. *clean gets a bit for each page of its slab that reads as zero; others may. NULL with
 * errno ENOMEM. */
NOINLINE void *front_claim_medium(size_t size_bytes, unsigned *clean);

/* Frees a block that is not NULL. Keeps errno. */
void front_return_block(void *block, const char *call);

/* Empties this thread's magazines, lets go of its slabs, and gives back what `level` (enum hak_trim_level) names. */
void front_trim(int level);

#endif
