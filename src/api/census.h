/* census.h - the sums over a heap's records: how much, of which class, in whose hands.
 *
 * The same code serves the process itself (hak_stats_get, mallinfo, what is printed at exit) and the hakmem command, which
 * runs it on a copy of another process's records. So it touches nothing but what struct census_source leads to, and of
 * the pointers in the records it follows these alone:
 *
 *   arenas     arena.next, arena.superslabs (up to `high`), arena.slabs (32 for each of those)
 *   threads    thread.next, thread.quarantine; thread.current[] only against NULL
 *   profile    profile.records (up to `n_records`)
 *
 * It believes no record: whatever is in them, it ends, and reads nothing outside of them.
 */
#ifndef HAKMEM_API_CENSUS_H
#define HAKMEM_API_CENSUS_H

#include "hakmem/hakmem.h"
#include "meta/layout.h"
#include "meta/sizeclass.h"

#define CENSUS_MAX_THREADS 4096 /* listed one by one; all are counted */

struct profile_state;
struct thread;
struct stats_counters;

struct census_source {
    const struct arena *arenas;   /* by their `next` */
    const struct thread *threads; /* by their `next` */
    const struct stats_counters *counters;
    size_t metapool_bytes;
    size_t slab_page_bytes;
    /* Blocks that lie outside of the arenas' slabs, in places of their own (sampled.h); and freed spans and runs that wait
     * in quarantine (guarded.h). Counted by who has them. */
    uint64_t sampled_blocks, sampled_bytes, sampled_total, waiting_blocks, waiting_bytes;
    uint64_t budget_soft_bytes, budget_hard_bytes;
    const struct profile_state *profile; /* with its records; NULL: nothing is known of it */
};

/* One size class; or, as the last two, spans and runs, which have no free blocks and no block size. Those that wait in quarantine
 * are live here, and cached in the sums. */
struct census_class {
    uint64_t block_bytes;                             /* 0: each has its own */
    uint64_t slabs;                                   /* with this class now: 64 KiB each */
    uint64_t live_blocks, cached_blocks, free_blocks; /* free: inside those slabs */
    uint64_t live_bytes, cached_bytes;                /* usable bytes */
    uint64_t dirty_bytes;                             /* of those slabs' pages: may be in memory */
    /* no blocks, but the rest of larger ones, which count as one each (gap.h); 0 in spans and runs */
    uint64_t following_blocks;
};
#define CENSUS_SPANS CLASS_END
#define CENSUS_RUNS (CLASS_END + 1)
#define CENSUS_CLASSES (CLASS_END + 2)

struct census {
    struct hak_stats stats;
    struct census_class classes[CENSUS_CLASSES]; /* from CLASS_FIRST on */
};

/* One pass over the SuperSlabs in use. Takes no lock; exact when nobody allocates meanwhile. Async-signal-safe. */
void census_take(const struct census_source *source, struct census *out);

/* One thread of the source: what it caches. */
struct census_thread {
    int32_t thread_id; /* the system's */
    uint64_t cached_bytes, cached_blocks, refills, flushes;
    uint64_t owned_slabs;
    /* for blocks above 32 KiB; a part of what is cached, each slab counts as a block */
    uint64_t held_slabs, held_bytes;
    uint32_t cached_by_class[CLASS_END]; /* blocks */
};

/* Goes through the threads that there are: the one behind *at, or the first when that is NULL. False: there is none. */
bool census_thread_next(const struct census_source *source, const struct thread **at, struct census_thread *out);

#endif
