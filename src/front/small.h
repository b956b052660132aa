/* small.h - blocks of classes in hardened mode, as harden.c and straight.c see them: seals, slack, quarantine.
 *
 *   | what the program asked for | slack: the seal again | seal |
 *
 * The seal, a block's last 8 bytes, says how long the slack is and how the block was allocated. It is the hash of the address,
 * combined with what it says times a secret factor: any change of it turns what it says into a random number of 64 bits, of
 * which the upper 46 must have a certain value.
 */
#ifndef HAKMEM_FRONT_SMALL_H
#define HAKMEM_FRONT_SMALL_H

#include "front/harden.h"
#include "front/seal.h"
#include "front/thread.h"

#define SEAL_BYTES sizeof(uint64_t)

/* What a seal says: the length of the slack, 16 bits, the kind, and a mark. */
#define SEAL_MARK ((uint64_t)1 << 23)
#define SEAL_FIELDS(slack_bytes, kind) (SEAL_MARK | (uint64_t)(kind) << 16 | (uint64_t)(slack_bytes))
#define SEAL_SLACK(fields) ((size_t)((fields)&0xffff))
#define SEAL_KIND(fields) ((enum block_kind)((fields) >> 16 & 3))

static ALWAYS_INLINE uint64_t seal_of(uint64_t hash, uint64_t fields)
{
    return hash ^ fields * harden_secrets.field_factor;
}

static ALWAYS_INLINE uint64_t seal_fields(uint64_t hash, uint64_t seal)
{
    return (hash ^ seal) * harden_secrets.field_inverse;
}

/* Not 0 when a seal has been written to: then it says anything. Nor when the kind is another. */
static ALWAYS_INLINE uint64_t seal_difference(uint64_t fields)
{
    return (fields ^ SEAL_MARK) >> 18;
}

static ALWAYS_INLINE uint64_t kind_difference(uint64_t fields, enum block_kind kind)
{
    return (fields ^ SEAL_FIELDS(0, kind)) >> 16;
}

/* relaxed, both: the neighbour's look at it wants a whole word, no more */
static ALWAYS_INLINE uint64_t seal_read(const char *end)
{
    return atomic_load_explicit((const _Atomic uint64_t *)(const void *)(end - SEAL_BYTES), memory_order_relaxed);
}

static ALWAYS_INLINE void seal_write(char *end, uint64_t seal)
{
    atomic_store_explicit((_Atomic uint64_t *)(void *)(end - SEAL_BYTES), seal, memory_order_relaxed);
}

/* ---- A block's end ----------------------------------------------------------------------------------------------- */

/* The slack holds the seal again and again, in its first 8 bytes and in its last 8; in all of them where it has fewer. Each byte of
 * the seal has its place in a word, so that the two agree where they overlap, and the first 8 bytes of a shorter slack, which
 * reach into the seal itself, with that. So two words are written and read whatever the slack's length, and nothing
 * branches: for lengths that vary that costs some 20 cycles each time. */
struct slack {
    char *first, *last;  /* the first at any address, the last at a multiple of 8 */
    uint64_t first_word; /* the last one is the seal */
};

typedef uint64_t unaligned_word __attribute__((may_alias, aligned(1)));

static ALWAYS_INLINE struct slack slack_of(char *end, size_t slack_bytes, uint64_t seal)
{
    OPAQUE(slack_bytes); /* or gcc, here and there, makes branches of what follows */
    char *to = end - SEAL_BYTES;
    unsigned turn = 8 * (unsigned)slack_bytes & 63;
    return (struct slack){.first = to - slack_bytes,
                          .last = to - (8 & -(size_t)(slack_bytes >= 8)),
                          .first_word = seal << turn | seal >> (-turn & 63)};
}

/* The seal first: for whoever looks at it from behind, it is there whole or not at all. */
static ALWAYS_INLINE void end_write(char *block, size_t block_bytes, size_t size_bytes, enum block_kind kind,
                                    bool canary)
{
    char *end = block + block_bytes;
    size_t slack_bytes = block_bytes - SEAL_BYTES - size_bytes;
    uint64_t seal = seal_of(hash_of(block), SEAL_FIELDS(slack_bytes, kind));
    struct slack slack = slack_of(end, slack_bytes, seal);
    seal_write(end, seal);
    if (canary) {
        *(unaligned_word *)(void *)slack.first = slack.first_word;
        *(word *)(void *)slack.last = seal;
    }
}

/* Not 0 when the slack has been written to. */
static ALWAYS_INLINE uint64_t slack_difference(char *end, uint64_t fields, uint64_t seal)
{
    struct slack slack = slack_of(end, SEAL_SLACK(fields), seal);
    return (*(const unaligned_word *)(const void *)slack.first ^ slack.first_word) |
           (*(const word *)(const void *)slack.last ^ seal);
}

/* ---- Quarantine -------------------------------------------------------------------------------------------------- */

/* 64 random bits, of which the upper ones are the good ones: a generator of the simplest kind, begun by the system's random bits,
 * and with a step that is a secret. */
static ALWAYS_INLINE uint64_t random_bits(struct thread *thread)
{
    thread->random = thread->random * 0x5851f42d4c957f2du + harden_secrets.factor;
    return thread->random;
}

/* A block into the thread's quarantine, in the place of another one, of any class, or of none: that is returned, as quarantines have
 * it. */
static ALWAYS_INLINE uint64_t quarantine_exchange(struct thread *thread, void *block, size_t class_offset)
{
    uint64_t *slot = &thread->quarantine->slot[random_bits(thread) >> (64 - QUARANTINE_SHIFT)], other = *slot;
    *slot = waiting(block, class_offset);
    return other;
}

/* ---- Places ------------------------------------------------------------------------------------------------------ */

/* locate_block for the usual case: the class offset of a block in the first arena, if one may begin here: the seal tells
 * whether one does. 0: anything else. */
static ALWAYS_INLINE size_t small_locate(const void *block)
{
    size_t slab = ((uintptr_t)block - registry_first.base) >> SLAB_SHIFT;
    if (unlikely(slab >= registry_first.n_slabs))
        return 0;
    size_t class_offset = load_byte_relaxed(&registry_first.class_map[slab]);
    size_t offset_bytes = (uintptr_t)block & (SLAB_BYTES - 1);
    if (unlikely(offset_bytes > SLAB_BYTES - class_at(class_offset)->bytes || offset_bytes % 16 != 0))
        return 0;
    return likely(class_offset >= CLASS_FIRST * CLASS_OFFSET_SCALE) ? class_offset : 0;
}

#endif
