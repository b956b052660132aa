/* tier.c - see tier.h.
 * Owns  nothing.     Called by  slots.c, shared_pool.c     Calls  nothing.     Threads  any.
 */
#include "pool/tier.h"

enum superslab_tier tier_next(enum superslab_tier now, bool rising, struct tier_use use)
{
    if (use.active_slots == 0)
        return SS_TIER_FREE;
    if (now == SS_TIER_DRAINING)
        return SS_TIER_DRAINING; /* Only the pool reopens one, when the alternative is to map new memory. */
    if (!rising && use.used_bytes * TIER_DRAIN_DIVISOR <= use.capacity_bytes)
        return SS_TIER_DRAINING;
    return SS_TIER_HOT;
}

bool tier_still_rising(bool rising, struct tier_use use)
{
    return rising && use.used_bytes * TIER_RISEN_DIVISOR <= use.capacity_bytes;
}
