/* sizeclass.c - the tables of sizeclass.h, all of them constants.
 * Owns     class_table, tiny_class_offset.     Called by  every layer above.     Calls  nothing.
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

const struct class_info class_table[CLASS_SET_SLOTS] = {{0}, {0}, TINY_CLASSES(CLASS_ROW) MEDIUM_CLASSES(CLASS_ROW)};

const uint8_t tiny_class_offset[TINY_TABLE_ENTRIES] = TINY_CLASS_OFFSETS;

unsigned class_of_medium(size_t size_bytes)
{
    unsigned id = CLASS_FIRST + N_TINY_CLASSES;
    /* Two steps of eight and of four classes bring the search near; at most seven comparisons in all. */
    if (class_table[id + 7].bytes < size_bytes)
        id += 8;
    if (class_table[id + 3].bytes < size_bytes)
        id += 4;
    while (class_table[id].bytes < size_bytes)
        id++;
    return id;
}

unsigned class_of_aligned(size_t size_bytes, size_t alignment)
{
    if (size_bytes > CLASS_MAX_BYTES || alignment > CLASS_MAX_BYTES)
        return 0;
    for (unsigned id = class_of(max_size(size_bytes, alignment)); id < CLASS_END; id++)
        if ((class_table[id].bytes & (alignment - 1)) == 0)
            return id;
    return 0;
}
