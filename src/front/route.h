/* route.h - the routing table: per range C0..C7, who serves it. Applied where magazines are opened; hit paths never
 * read it.
 */
#ifndef HAKMEM_FRONT_ROUTE_H
#define HAKMEM_FRONT_ROUTE_H

#include "hakmem/hakmem.h"
#include "service/config.h"

#define N_RANGES 8

/* The table in force: one byte per range, of enum hak_route. */
extern uint8_t tiny_route_table[N_RANGES] __attribute__((visibility("hidden")));

/* Fills the table in. Called once, at start, after the configuration is read. */
void tiny_route_set(enum profile profile);

/* The route of range 0..7; ranges above are TINY_FIRST. */
static inline enum hak_route tiny_route_of(unsigned range)
{
    return range < N_RANGES ? (enum hak_route)tiny_route_table[range] : HAK_ROUTE_TINY_FIRST;
}

#endif
