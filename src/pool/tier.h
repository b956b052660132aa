/* tier.h - policy alone: how full is a SuperSlab, and what follows. Knows nothing of locks, lists or memory.
 *
 *   HOT      more than a quarter of its blocks in use (by bytes), or still rising: gets new slabs and blocks
 *   DRAINING a quarter or less: gets none, so that it empties
 *   FREE     no block in use: goes back to the system
 *
 *   born ---> HOT(rising) ---over a half---> HOT ---a quarter or less---> DRAINING ---0---> FREE ---> gone
 *                  ^                                                          |
 *                  +---------reopened, before new memory is mapped------------+
 * `rising` keeps a newborn or reopened SuperSlab from being drained before it has been half full: between a quarter and
 * a half nothing changes, so that one on the threshold does not flap.
 */
#ifndef HAKMEM_POOL_TIER_H
#define HAKMEM_POOL_TIER_H

#include "meta/sizeclass.h"

#define TIER_DRAIN_DIVISOR 4 /* DRAINING at used * 4 <= capacity */
#define TIER_RISEN_DIVISOR 2 /* no longer rising at used * 2 > capacity */

/* How much of a SuperSlab's active slots is in use. */
struct tier_use {
    size_t used_bytes;
    size_t capacity_bytes; /* of the blocks in its ACTIVE slots */
    unsigned active_slots;
};

/* Adds one of its slots. Of a slab the class must be one: CLASS_FIRST to CLASS_END - 1. */
static inline void tier_use_add(struct tier_use *use, slab_ctl ctl)
{
    switch (CTL_STATE(ctl)) {
    case SLAB_UNUSED:
    case SLAB_EMPTY:
    case SLAB_TAKEN:
        break;
    case SLAB_SPAN_HEAD:
    case SLAB_SPAN_BODY:
    case SLAB_HELD:
        use->active_slots++;
        use->used_bytes += SLAB_BYTES;
        use->capacity_bytes += SLAB_BYTES;
        break;
    case SLAB_PACKED:
        use->active_slots++;
        use->used_bytes += (size_t)CTL_USED(ctl) * PACKED_PAGE_BYTES;
        use->capacity_bytes += SLAB_BYTES;
        break;
    default: {
        const struct class_info *class = &class_table[CTL_CLASS(ctl)];
        if (CTL_USED(ctl) == 0)
            break; /* idle: as good as EMPTY */
        use->active_slots++;
        use->used_bytes += (size_t)CTL_USED(ctl) * class->bytes;
        use->capacity_bytes += (size_t) class->n_blocks * class->bytes;
    }
    }
}

/* Whether a HOT SuperSlab is to be drained. Not one without active slots: it is FREE, or about to be. */
bool tier_is_to_drain(bool rising, struct tier_use use);

/* Whether a rising SuperSlab has been full enough to rise no more. */
bool tier_has_risen(struct tier_use use);

#endif
