/* stats.h - counters of rare events, for hak_stats. No hit path touches them.
 * Each is a relaxed atomic: nothing is decided by them, and readers want only each one's own value.
 */
#ifndef HAKMEM_SERVICE_STATS_H
#define HAKMEM_SERVICE_STATS_H

#include "base/base.h"
#include "hakmem/hakmem.h"

struct stats_counters {
    _Atomic uint64_t stage_class_list, stage_slot, stage_reopen, stage_lru, stage_os;
    _Atomic uint64_t gap_blocks_total;
    _Atomic uint64_t slabs_released, slot_reuses_other_class;
    _Atomic uint64_t tier_hot_to_draining, tier_draining_to_hot, tier_to_free;
    _Atomic uint64_t superslabs_mapped_total, superslabs_released_total, superslabs_evicted_total;
    _Atomic uint64_t release_refused_pinned, purged_bytes, caches_emptied;
    _Atomic uint64_t lock_acquisitions[HAK_LOCK_N_CAUSES], lock_contended;
    _Atomic uint64_t budget_refusals, budget_reliefs;
    _Atomic uint64_t mapped_bytes, committed_bytes, peak_committed_bytes;
};
extern struct stats_counters stats_counters __attribute__((visibility("hidden")));

static inline void stats_add(_Atomic uint64_t *counter, uint64_t n)
{
    atomic_fetch_add_explicit(counter, n, memory_order_relaxed);
}

static inline uint64_t stats_read(const _Atomic uint64_t *counter)
{
    return atomic_load_explicit(counter, memory_order_relaxed);
}

/* Memory for blocks that may be in memory went up or down: pages handed out, pages given back. Layer by layer, who notes
 * it: slab.c for the pages of slabs, dirty.c for SuperSlabs outside the pool, span.c and packed_pages.c for spans. */
void stats_commit(int64_t bytes);

#endif
