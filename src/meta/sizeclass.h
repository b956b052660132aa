/* sizeclass.h - from a request to a class, and what a class is.
 *
 * Classes up to 1024 bytes are "tiny": the ranges C0..C7 end at 8, 16, 32, 64, 128, 256, 512 and 1024 bytes, and each
 * range is subdivided: steps of 16 bytes to 256, then eight classes per doubling to 1024, which wastes at most a
 * ninth of a block above 128 bytes; four per doubling to 4096; above that, sizes that divide a slab well, multiples of 64 for those who
 * ask for the alignment of a cache line. The last block size is 32 KiB. Programs like to put a small header before a power of two: 1088, 2176 and 4368 are for them
 * (SQLite asks for 1032 and 4368 bytes: with these classes its memory peaks at 0.91 of what it did without.) So is 17,664: three such blocks
 * lie on 13 pages of their slab, so that 16,400 bytes take 17.3 KiB and not 20.8.
 *
 * A class offset is the class id times CLASS_OFFSET_SCALE. The tables of the fast paths hold offsets: scaled by 8,
 * which an x86 address can do for nothing, an offset is the byte distance of the class's magazine in a cache
 * (magazine.h). Three ids are not classes: what does not belong to us, spans, and slabs with gaps. Their magazines are always
 * empty and full at once.
 */
#ifndef HAKMEM_META_SIZECLASS_H
#define HAKMEM_META_SIZECLASS_H

#include "meta/layout.h"

/* clang-format off */
#define TINY_CLASSES(X)                                                                                                \
    X(8) X(16) X(32) X(48) X(64) X(80) X(96) X(112) X(128) X(144) X(160) X(176) X(192) X(208) X(224) X(240) X(256)     \
    X(288) X(320) X(352) X(384) X(416) X(448) X(480) X(512) X(576) X(640) X(704) X(768) X(832) X(896) X(960) X(1024)
#define MEDIUM_CLASSES(X)                                                                                              \
    X(1088) X(1280) X(1536) X(1792) X(2048) X(2176) X(2560) X(3072) X(3584) X(4096) X(4368) X(5440) X(6528) X(8192)    \
    X(9344) X(10880) X(13056) X(16384) X(17664) X(21760) X(28672) X(32768)
/* clang-format on */

enum {
    CLASS_FOREIGN = 0, /* not a block of ours */
    CLASS_SPAN = 1,    /* inside a span or a run */
    CLASS_GAPS = 2,    /* inside a slab in whose gaps there are larger blocks; the slab itself has a class: see gap.h */
    CLASS_FIRST = 3,
    CLASS_OFFSET_SCALE = 4,
    TINY_MAX_BYTES = 1024,
    SMALL_MAX_BYTES = 4096, /* of requests whose class a table tells at once */
    CLASS_MAX_BYTES = 32768
};

#define CLASS_COUNT_ONE(bytes) +1
enum {
    N_TINY_CLASSES = 0 TINY_CLASSES(CLASS_COUNT_ONE),
    N_CLASSES = N_TINY_CLASSES MEDIUM_CLASSES(CLASS_COUNT_ONE),
    CLASS_END = CLASS_FIRST + N_CLASSES /* one past the last id */
};
_Static_assert(CLASS_END <= CLASS_SET_SLOTS, "class ids fit the class sets, and offsets fit a byte");

struct class_info {
    _Alignas(16) uint32_t bytes; /* block size */
    uint32_t reciprocal;         /* 2^32 / bytes, rounded up: see class_block_index */
    uint16_t n_blocks;           /* per slab */
    uint8_t range;               /* 0..7 for C0..C7; 8 above 1024 bytes */
    uint8_t n_words;             /* of the bit map */
};
_Static_assert(sizeof(struct class_info) == 4 * CLASS_OFFSET_SCALE, "a class offset times 4 is an entry's distance");

extern const struct class_info class_table[CLASS_SET_SLOTS] __attribute__((visibility("hidden")));

static ALWAYS_INLINE const struct class_info *class_at(size_t class_offset)
{
    return (const struct class_info *)(const void *)((const char *)class_table + class_offset * 4);
}

/* The offset of the class for a request of up to 4096 bytes, by (bytes + 7) / 8. */
#define SMALL_TABLE_ENTRIES (SMALL_MAX_BYTES / 8 + 1)
extern const uint8_t small_class_offset[SMALL_TABLE_ENTRIES] __attribute__((visibility("hidden")));

/* The table as an initializer. The class of n bytes is the first id plus the number of classes that are too small. */
#define SMALL_E(k) (uint8_t)(CLASS_OFFSET_SCALE * (CLASS_FIRST SMALL_STEPS((k)*8)))
#define SMALL_STEP(n, b) +((n) > (b))
/* clang-format off */
#define SMALL_STEPS(n)                                                                                                 \
    SMALL_STEP(n, 8) SMALL_STEP(n, 16) SMALL_STEP(n, 32) SMALL_STEP(n, 48) SMALL_STEP(n, 64) SMALL_STEP(n, 80)         \
    SMALL_STEP(n, 96) SMALL_STEP(n, 112) SMALL_STEP(n, 128) SMALL_STEP(n, 144) SMALL_STEP(n, 160) SMALL_STEP(n, 176)   \
    SMALL_STEP(n, 192) SMALL_STEP(n, 208) SMALL_STEP(n, 224) SMALL_STEP(n, 240) SMALL_STEP(n, 256) SMALL_STEP(n, 288)  \
    SMALL_STEP(n, 320) SMALL_STEP(n, 352) SMALL_STEP(n, 384) SMALL_STEP(n, 416) SMALL_STEP(n, 448) SMALL_STEP(n, 480)  \
    SMALL_STEP(n, 512) SMALL_STEP(n, 576) SMALL_STEP(n, 640) SMALL_STEP(n, 704) SMALL_STEP(n, 768) SMALL_STEP(n, 832)  \
    SMALL_STEP(n, 896) SMALL_STEP(n, 960) SMALL_STEP(n, 1024) SMALL_STEP(n, 1088) SMALL_STEP(n, 1280)                  \
    SMALL_STEP(n, 1536) SMALL_STEP(n, 1792) SMALL_STEP(n, 2048) SMALL_STEP(n, 2176) SMALL_STEP(n, 2560)                \
    SMALL_STEP(n, 3072) SMALL_STEP(n, 3584)
/* clang-format on */
#define SMALL_E8(k)                                                                                                    \
    SMALL_E(k), SMALL_E(k + 1), SMALL_E(k + 2), SMALL_E(k + 3), SMALL_E(k + 4), SMALL_E(k + 5), SMALL_E(k + 6),        \
        SMALL_E(k + 7)
#define SMALL_E32(k) SMALL_E8(k), SMALL_E8(k + 8), SMALL_E8(k + 16), SMALL_E8(k + 24)
#define SMALL_E128(k) SMALL_E32(k), SMALL_E32(k + 32), SMALL_E32(k + 64), SMALL_E32(k + 96)
#define SMALL_CLASS_OFFSETS                                                                                            \
    {                                                                                                                  \
        SMALL_E128(0), SMALL_E128(128), SMALL_E128(256), SMALL_E128(384), SMALL_E(512)                                 \
    }

/* The class of a request of 4097 to 32768 bytes. */
unsigned class_of_medium(size_t size_bytes);

/* The class of any request up to 32768 bytes. */
static inline unsigned class_of(size_t size_bytes)
{
    return size_bytes <= SMALL_MAX_BYTES ? small_class_offset[(size_bytes + 7) / 8] / CLASS_OFFSET_SCALE
                                         : class_of_medium(size_bytes);
}

/* class_of_aligned, for what no table tells: by a search. */
unsigned class_of_medium_aligned(size_t size_bytes, size_t alignment);

/* A size of whose class, if both are at most SMALL_MAX_BYTES, all blocks lie on multiples of alignment, a power of two: a multiple of
 * the alignment is a class itself where classes are as close as that, and where they lie further apart they are multiples of more.
 * No search, and no branch. */
static inline size_t class_aligned_bytes(size_t size_bytes, size_t alignment)
{
    return round_up(max_size(size_bytes, alignment), alignment);
}

/* The smallest class of at least size_bytes whose blocks all lie on multiples of alignment (a power of two, up to a
 * slab); 0 when there is none. A slab begins on such a multiple, so its blocks do when their size is one. */
static inline unsigned class_of_aligned(size_t size_bytes, size_t alignment)
{
    if (size_bytes <= SMALL_MAX_BYTES && alignment <= SMALL_MAX_BYTES)
        return small_class_offset[(class_aligned_bytes(size_bytes, alignment) + 7) / 8] / CLASS_OFFSET_SCALE;
    return class_of_medium_aligned(size_bytes, alignment);
}

/* offset_bytes / class size for offsets within a slab: exact, because 2^16 offsets times an error below 2^15 stay below
 * 2^32. */
static inline unsigned class_block_index(const struct class_info *class, size_t offset_bytes)
{
    return (unsigned)((uint64_t)offset_bytes * class->reciprocal >> 32);
}

/* Whether a block begins at an offset within a slab, and its index (also if none does). The lower half of the product is what the division
 * leaves, times the reciprocal: that once at least, or, of a multiple, the error times the index, which is below 2^16 and below any reciprocal. */
static ALWAYS_INLINE bool class_block_at(const struct class_info *class, size_t offset_bytes, unsigned *index)
{
    uint64_t product = (uint64_t)offset_bytes * class->reciprocal;
    *index = (unsigned)(product >> 32);
    return (uint32_t)product < class->reciprocal;
}

#endif
