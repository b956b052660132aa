/* sizeclass.c - the tables of sizeclass.h, all of them constants.
 * Owns     class_table, small_class_offset.     Called by  every layer above.     Calls  nothing.
 */
#include "meta/sizeclass.h"

#define RANGE_OF(bytes)                                                                                                \
    (((bytes) > 8) + ((bytes) > 16) + ((bytes) > 32) + ((bytes) > 64) + ((bytes) > 128) + ((bytes) > 256) +            \
     ((bytes) > 512) + ((bytes) > 1024))
#define CLASS_ROW(b)                                                                                                   \
    {.bytes = (b),                                                                                                     \
     .reciprocal = (uint32_t)((((uint64_t)1 << 32) + (b)-1) / (b)),                                                    \
     .n_blocks = (uint16_t)(SLAB_BYTES / (b)),                                                                         \
     .range = RANGE_OF(b),                                                                                             \
     .n_words = (uint8_t)((SLAB_BYTES / (b) + 63) / 64)},

const struct class_info class_table[CLASS_SET_SLOTS] = {
    {0}, {0}, {0}, TINY_CLASSES(CLASS_ROW) MEDIUM_CLASSES(CLASS_ROW)};

const uint8_t small_class_offset[SMALL_TABLE_ENTRIES] = SMALL_CLASS_OFFSETS;

/* The class of 4096 + k * 256 + 1 bytes, as an initializer: the number of classes that are too small. No two classes
 * above 4096 bytes end within the same 256 bytes, so a request's class is this one or the next: no search, whose branches
 * a processor cannot foresee when sizes are random. */
enum { MEDIUM_GRAIN_BYTES = 256 };
#define MEDIUM_E(k) (uint8_t)(CLASS_OF_4096 + 1 MEDIUM_STEPS(SMALL_MAX_BYTES + (k)*MEDIUM_GRAIN_BYTES + 1))
#define MEDIUM_S(n, b) +((n) > (b))
/* clang-format off */
#define MEDIUM_STEPS(n)                                                                                                \
    MEDIUM_S(n, 4368) MEDIUM_S(n, 5440) MEDIUM_S(n, 6528) MEDIUM_S(n, 8192) MEDIUM_S(n, 9344) MEDIUM_S(n, 10880)       \
    MEDIUM_S(n, 13056) MEDIUM_S(n, 16384) MEDIUM_S(n, 17664) MEDIUM_S(n, 21760) MEDIUM_S(n, 28672)
/* clang-format on */
#define MEDIUM_E4(k) MEDIUM_E(k), MEDIUM_E(k + 1), MEDIUM_E(k + 2), MEDIUM_E(k + 3)
#define MEDIUM_E16(k) MEDIUM_E4(k), MEDIUM_E4(k + 4), MEDIUM_E4(k + 8), MEDIUM_E4(k + 12)
enum { CLASS_OF_4096 = CLASS_FIRST SMALL_STEPS(SMALL_MAX_BYTES) };
static const uint8_t medium_class[(CLASS_MAX_BYTES - SMALL_MAX_BYTES) / MEDIUM_GRAIN_BYTES] = {
    MEDIUM_E16(0), MEDIUM_E16(16), MEDIUM_E16(32), MEDIUM_E16(48), MEDIUM_E16(64), MEDIUM_E16(80), MEDIUM_E16(96),
};

unsigned class_of_medium(size_t size_bytes)
{
    unsigned id = medium_class[(size_bytes - 1 - SMALL_MAX_BYTES) / MEDIUM_GRAIN_BYTES];
    return id + (class_table[id].bytes < size_bytes);
}

unsigned class_of_medium_aligned(size_t size_bytes, size_t alignment)
{
    if (size_bytes > CLASS_MAX_BYTES || alignment > CLASS_MAX_BYTES)
        return 0;
    for (unsigned id = class_of(max_size(size_bytes, alignment)); id < CLASS_END; id++)
        if ((class_table[id].bytes & (alignment - 1)) == 0)
            return id;
    return 0;
}
