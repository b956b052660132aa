/* locate.h - an address of a block: its slab, class and number. */
#ifndef HAKMEM_FRONT_LOCATE_H
#define HAKMEM_FRONT_LOCATE_H

#include "meta/arena.h"
#include "meta/registry.h"
#include "meta/sizeclass.h"

/* Where a block of a class lies, or any address of a span or run. */
struct place {
    struct slab *slab;
    unsigned class_id, index; /* CLASS_SPAN: no index; its slab is NULL for a block of emergency.h */
    bool gaps;                /* the slab has gaps: the block may be longer than its class */
};

/* Finds the place of a block of ours. Reports what is no block's address and returns false. */
bool locate_block(const void *block, const char *call, struct place *place);

/* What is said of an address inside a span or a run that is not its first. */
#define NO_BLOCK_BEGINS_HERE "no block begins here (freed already, or into the middle of one)"

/* The usable bytes of a block of ours, its first address, and in *span whether it is a span or a run; 0 and a report when it is none. */
size_t locate_usable_bytes(const void *block, const char *call, bool *span);

/* What locate_block finds, for the usual case alone: a block in order, of the class that is expected, in the first arena. */
static ALWAYS_INLINE bool locate_expected(const void *block, unsigned class_id, struct place *place)
{
    if (registry_class_offset(block) != class_id * CLASS_OFFSET_SCALE)
        return false;
    const struct class_info *class = &class_table[class_id];
    size_t offset = (uintptr_t)block & (SLAB_BYTES - 1);
    place->slab = &registry_primary.slabs[((uintptr_t)block - registry_primary.base) >> SLAB_SHIFT];
    place->class_id = class_id;
    return likely(class_block_at(class, offset, &place->index)) && likely(place->index < class->n_blocks);
}

#endif
