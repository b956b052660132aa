/* seal.h - what harden.c and guarded.c share: keyed hashes, seals and patterns; and what a caller says of a block.
 */
#ifndef HAKMEM_FRONT_SEAL_H
#define HAKMEM_FRONT_SEAL_H

#include "front/front.h"
#include "service/config.h"

/* The secrets. Constant after harden_start. */
extern struct harden_secrets {
    uint64_t address, factor;
} harden_secrets __attribute__((visibility("hidden")));

static ALWAYS_INLINE bool checks(enum secure what)
{
    return (config.secure & what) != 0;
}

/* Reports what a caller says of the block and is not so. */
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

#define SEAL_BYTES sizeof(uint64_t)

typedef uint64_t word __attribute__((may_alias));

/* What the seal says, in its low 24 bits; the others are a hash. Bit 23 is set in every seal. */
#define SEAL_FIELDS(slack_bytes, kind) ((uint64_t)1 << 23 | (uint64_t)(kind) << 16 | (uint64_t)(slack_bytes))
#define SEAL_FIELD_MASK ((uint64_t)0xffffff)
#define SEAL_SLACK(seal) ((size_t)((seal)&0xffff))
#define SEAL_KIND(seal) ((enum block_kind)((seal) >> 16 & 3))

/* A hash of the address and the fields under the secrets: the seal's upper bits, and the pattern in the slack. */
static ALWAYS_INLINE uint64_t hash_of(const void *block, uint64_t fields)
{
    uint64_t h = ((uintptr_t)block ^ harden_secrets.address ^ fields << 40) * harden_secrets.factor;
    return (h ^ h >> 32) * harden_secrets.factor;
}

static ALWAYS_INLINE uint64_t seal_of(uint64_t hash, uint64_t fields)
{
    return (hash & ~SEAL_FIELD_MASK) | fields;
}

/* relaxed, both: the neighbour's look at it (check_before) wants a whole word, no more */
static ALWAYS_INLINE uint64_t seal_read(const char *end)
{
    return atomic_load_explicit((const _Atomic uint64_t *)(const void *)(end - SEAL_BYTES), memory_order_relaxed);
}

static ALWAYS_INLINE void seal_write(char *end, uint64_t seal)
{
    atomic_store_explicit((_Atomic uint64_t *)(void *)(end - SEAL_BYTES), seal, memory_order_relaxed);
}

/* The slack from `from` to `to`, a multiple of 8, is guarded by its first bytes, up to a multiple of 8, and its last 8. Whole
 * words are written and read, whatever its length, for lengths that vary cost mispredicted branches, of some 15 cycles
 * each. Without a slack both words are the one at `to`: the seal, which is written afterwards and read by itself. */
static ALWAYS_INLINE void write_slack(char *from, char *to, uint64_t pattern)
{
    unsigned shift = 8 * (unsigned)((uintptr_t)from & 7);
    char *first = (char *)((uintptr_t)from & ~(uintptr_t)7), *last = first < to - 8 ? to - 8 : first;
    uint64_t before = *(word *)(void *)first & (((uint64_t)1 << shift) - 1);
    *(word *)(void *)last = pattern;
    *(word *)(void *)first = before | pattern << shift;
}

static ALWAYS_INLINE bool slack_is_whole(const char *from, const char *to, uint64_t pattern)
{
    unsigned shift = 8 * (unsigned)((uintptr_t)from & 7);
    const char *first = (const char *)((uintptr_t)from & ~(uintptr_t)7), *last = first < to - 8 ? to - 8 : first;
    uint64_t wrong = (*(const word *)(const void *)first >> shift ^ (pattern << shift >> shift));
    wrong |= last == first ? 0 : *(const word *)(const void *)last ^ pattern;
    return first == to || wrong == 0;
}

#endif
