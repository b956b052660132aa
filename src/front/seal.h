/* seal.h - what all blocks of hardened mode share: the secrets, keyed hashes; and what a caller says of a block.
 */
#ifndef HAKMEM_FRONT_SEAL_H
#define HAKMEM_FRONT_SEAL_H

#include "front/front.h"
#include "service/config.h"

/* The secrets. Constant after harden_start. */
extern struct harden_secrets {
    uint64_t address, factor;             /* of hashes; the factor is odd */
    uint64_t field_factor, field_inverse; /* of what a seal says; their product is 1 */
} harden_secrets __attribute__((visibility("hidden")));

static ALWAYS_INLINE bool checks(enum secure what)
{
    return (config.secure & what) != 0;
}

/* Reports what a caller says of the block and is not so, unless a block of malloc is deleted that may be of another operator new. */
COLD void harden_report_release(const struct release *release, const void *block, size_t size_bytes,
                                enum block_kind kind);

/* What the caller says of the block, against what is known. */
static ALWAYS_INLINE void check_release(const struct release *release, const void *block, size_t size_bytes,
                                        enum block_kind kind)
{
    if (unlikely(release->kind != kind || release->size_bytes != RELEASE_ANY_SIZE || release->alignment != 1) &&
        checks(SECURE_TYPE))
        harden_report_release(release, block, size_bytes, kind);
}

typedef uint64_t word __attribute__((may_alias));

/* The product's two halves in one: each bit of the result depends on all of both factors, by a single multiplication. */
static ALWAYS_INLINE uint64_t fold(uint64_t a, uint64_t b)
{
    __extension__ typedef unsigned __int128 product;
    product p = (product)a * b;
    return (uint64_t)p ^ (uint64_t)(p >> 64);
}

/* A hash of an address under the secrets. It keeps out mistakes and guesses, not who can read a block's end: such a one can
 * put back what was there, whatever the hash. */
static ALWAYS_INLINE uint64_t hash_of(const void *block)
{
    return fold((uintptr_t)block ^ harden_secrets.address, harden_secrets.factor);
}

#endif
