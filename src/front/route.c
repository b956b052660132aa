/* route.c - see route.h.
 * Owns  tiny_route_table.     Called by  thread.c at start; read where magazines open, by refill.c and free.c.     Calls  nothing.
 * Threads  written once before the first block, constant afterwards.
 */
#include "front/route.h"

#include <string.h>

#define ONLY HAK_ROUTE_TINY_ONLY
#define FIRST HAK_ROUTE_TINY_FIRST
#define POOL HAK_ROUTE_POOL_ONLY

static const uint8_t profiles[N_PROFILES][N_RANGES] = {
    /*                        C0     C1     C2     C3     C4     C5     C6     C7 */
    [PROFILE_CONSERVATIVE] = {FIRST, FIRST, FIRST, FIRST, FIRST, FIRST, FIRST, FIRST},
    [PROFILE_HOT] = {ONLY, ONLY, ONLY, ONLY, FIRST, FIRST, FIRST, POOL},
    [PROFILE_OFF] = {POOL, POOL, POOL, POOL, POOL, POOL, POOL, POOL},
    [PROFILE_FULL] = {ONLY, ONLY, ONLY, ONLY, ONLY, ONLY, ONLY, ONLY},
};

uint8_t tiny_route_table[N_RANGES];

void tiny_route_set(enum profile profile)
{
    memcpy(tiny_route_table, profiles[profile], sizeof tiny_route_table);
}
