/* introspect.h - the census of this process, and what libc's mallinfo family makes of it. */
#ifndef HAKMEM_API_INTROSPECT_H
#define HAKMEM_API_INTROSPECT_H

#include "api/census.h"
#include "os/resident.h"

/* What the census of this process is taken of. */
struct census_source introspect_source(void);

/* One pass over the SuperSlabs in use. Any thread, no lock; exact when nobody else allocates. */
void introspect_census(struct census *out);

/* What of the blocks is in memory, by the system. False: it does not tell. */
bool introspect_resident(struct os_resident *out);

/* Sums of a census that struct hak_stats does not have. */
struct introspect_totals {
    size_t free_bytes;                /* committed, and not live */
    size_t free_blocks;               /* inside slabs, and not in a cache */
    size_t large_bytes, large_blocks; /* spans and runs: part of live */
    size_t trimmable_bytes;           /* empty slots and cached SuperSlabs */
};
struct introspect_totals introspect_totals(const struct census *census);

#endif
