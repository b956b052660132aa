/* locate.c - an address of a block: its slab, class and number.
 * Owns     nothing.     Called by  free.c, flush.c, harden.c, api/malloc.c     Calls  registry.h, arena.h, large.h, report.h
 * Threads  any; of a block that somebody else frees meanwhile, whatever was true at some time.
 */
#include "front/locate.h"

#include "pool/large.h"
#include "service/report.h"
#include "superslab/slab_gaps.h"

bool locate_block(const void *block, const char *call, struct place *place)
{
    struct arena *arena = registry_arena(block);
    if (unlikely(arena == NULL)) {
        report_misuse(call, "not a block of this allocator", block, NULL, 0);
        return false;
    }
    if (unlikely(arena->class_map == NULL)) { /* pool/emergency.c */
        place->class_id = CLASS_SPAN;
        place->slab = NULL;
        place->gaps = false;
        return true;
    }
    size_t slab = arena_slab_index(arena, block);
    /* relaxed: see arena_set_class_map */
    place->class_id = atomic_load_explicit(&arena->class_map[slab], memory_order_relaxed) / CLASS_OFFSET_SCALE;
    if (unlikely(place->class_id == CLASS_FOREIGN)) {
        report_misuse(call, "no block lies here (freed already, or never allocated)", block, NULL, 0);
        return false;
    }
    place->slab = &arena->slabs[slab];
    place->gaps = place->class_id == CLASS_GAPS;
    if (place->class_id == CLASS_SPAN)
        return true;
    if (unlikely(place->gaps))
        place->class_id = CTL_CLASS(slab_ctl_read(place->slab));
    const struct class_info *class = &class_table[place->class_id];
    size_t offset = (uintptr_t)block & (SLAB_BYTES - 1);
    if (unlikely(!class_block_at(class, offset, &place->index) || place->index >= class->n_blocks ||
                 (place->gaps && slab_follows(place->slab, place->index)))) {
        report_misuse(call, "pointer into the middle of a block", block, "class of bytes", class->bytes);
        return false;
    }
    return true;
}

size_t locate_usable_bytes(const void *block, const char *call, bool *span)
{
    struct place place;
    size_t usable_bytes = 0;
    if (!locate_block(block, call, &place))
        return 0;
    *span = place.class_id == CLASS_SPAN;
    if (*span) {
        usable_bytes = large_usable_bytes(block);
        if (unlikely(usable_bytes == 0))
            report_misuse(call, NO_BLOCK_BEGINS_HERE, block, NULL, 0);
    } else if (unlikely(slab_is_free(place.slab, place.index))) {
        report_misuse(call, "block freed already", block, "class of bytes", class_table[place.class_id].bytes);
    } else {
        usable_bytes = class_table[place.class_id].bytes;
        if (unlikely(place.gaps))
            usable_bytes *= slab_gap_blocks(place.slab, place.index);
    }
    return usable_bytes;
}
