/* census.h - the sums over a heap's records: how much, of which class, in whose hands.
 *
 * The same code serves the process itself (hak_stats_get, mallinfo, what is printed at exit) and the hakmem command, which
 * runs it on a copy of another process's records. So it touches nothing but what struct census_source leads to.
 */
#ifndef HAKMEM_API_CENSUS_H
#define HAKMEM_API_CENSUS_H

#include "hakmem/hakmem.h"
#include "meta/layout.h"
#include "meta/sizeclass.h"

#define CENSUS_MAX_THREADS 4096 /* listed one by one; all are counted */

struct thread;
struct stats_counters;

struct census_source {
    const struct arena *arenas;              /* by their `next` */
    const struct thread *threads;            /* by their `next` */
    const struct stats_counters *counters;
    size_t metapool_bytes;
    size_t slab_page_bytes;
    /* Blocks that lie outside of the arenas' slabs, or wait in quarantine: counted by who has them. */
    uint64_t sampled_blocks, sampled_bytes, sampled_total, waiting_blocks, waiting_bytes;
    uint64_t budget_soft_bytes, budget_hard_bytes;
};

/* One size class; or, as the last two, spans (CLASS_END) and runs (CLASS_END + 1). */
struct census_class {
    uint64_t block_bytes;
    uint64_t slabs;                        /* with this class now: 64 KiB each */
    uint64_t live_blocks, cached_blocks, free_blocks; /* free: inside those slabs */
    uint64_t live_bytes;                   /* usable bytes of live blocks */
    uint64_t dirty_bytes;                  /* of those slabs' pages: may be in memory */
};
#define CENSUS_CLASSES (CLASS_END + 2)

struct census {
    struct hak_stats stats;
    struct census_class classes[CENSUS_CLASSES];
    uint64_t fragmentation_bytes; /* committed, and neither live nor cached: holes, and what waits to go back */
};

/* One pass over the SuperSlabs in use. Takes no lock; exact when nobody allocates meanwhile. Async-signal-safe. */
void census_take(const struct census_source *source, struct census *out);

/* One thread of the source: what it caches. Returns false when there is no i-th. */
struct census_thread {
    int32_t thread_id; /* the system's */
    uint64_t cached_bytes, cached_blocks, refills, flushes;
    uint64_t owned_slabs;
};
bool census_thread_at(const struct census_source *source, size_t i, struct census_thread *out);

#endif
