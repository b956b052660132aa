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

#include "meta/layout.h"

#define TIER_DRAIN_DIVISOR 4 /* DRAINING at used * 4 <= capacity */
#define TIER_RISEN_DIVISOR 2 /* no longer rising at used * 2 > capacity */

/* How much of a SuperSlab's active slots is in use. */
struct tier_use {
    size_t used_bytes;
    size_t capacity_bytes; /* of the blocks in its ACTIVE slots */
    unsigned active_slots;
};

/* The tier that follows. */
enum superslab_tier tier_next(enum superslab_tier now, bool rising, struct tier_use use);

/* Whether a rising SuperSlab goes on rising. */
bool tier_still_rising(bool rising, struct tier_use use);

#endif
