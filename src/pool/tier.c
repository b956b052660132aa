/* tier.c - see tier.h.
 * Owns  nothing.     Called by  slots.c, shared_pool.c     Calls  nothing.     Threads  any.
 */
#include "pool/tier.h"

bool tier_is_to_drain(bool rising, struct tier_use use)
{
    return !rising && use.active_slots != 0 && use.used_bytes * TIER_DRAIN_DIVISOR <= use.capacity_bytes;
}

bool tier_has_risen(struct tier_use use)
{
    return use.used_bytes * TIER_RISEN_DIVISOR > use.capacity_bytes;
}
