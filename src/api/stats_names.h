/* stats_names.h - the names of what struct hak_stats holds, as JSON has them: in the process, and in the hakmem command's. */
#ifndef HAKMEM_API_STATS_NAMES_H
#define HAKMEM_API_STATS_NAMES_H

#include "hakmem/hakmem.h"

/* Every number of struct hak_stats by name, in the order of the struct, but for those that JSON has in objects and lists. */
/* clang-format off */
#define STATS_NUMBERS(X)                                                                                               \
    X(live_bytes) X(live_blocks) X(cached_bytes) X(cached_blocks) X(committed_bytes) X(peak_committed_bytes)           \
    X(reserved_bytes) X(metadata_bytes) X(superslabs) X(superslabs_hot) X(superslabs_draining) X(superslabs_cached)    \
    X(superslabs_mapped_total) X(superslabs_released_total) X(superslabs_evicted_total) X(slots_unused)                \
    X(slots_active) X(slots_empty) X(spans) X(span_bytes) X(runs) X(run_bytes) X(stage_class_list) X(stage_slot)       \
    X(stage_reopen) X(stage_lru) X(stage_os) X(slabs_released) X(slot_reuses_other_class) X(tier_hot_to_draining)      \
    X(tier_draining_to_hot) X(tier_to_free) X(release_refused_pinned) X(purged_bytes) X(lock_contended) X(refills)     \
    X(flushes) X(threads) X(arenas) X(caches_emptied) X(mapped_bytes) X(budget_soft_bytes) X(budget_hard_bytes)        \
    X(budget_refusals) X(budget_reliefs) X(sampled_total) X(fragmentation_bytes) X(empty_bytes) X(sampled_blocks)      \
    X(sampled_bytes) X(waiting_blocks) X(waiting_bytes) X(gap_slabs) X(gap_blocks_total)
/* clang-format on */

static const char *const stats_lock_cause_names[HAK_LOCK_N_CAUSES] = {"acquire_slab", "release_slab", "span", "tier",
                                                                      "metadata",     "trim",         "fork"};

#endif
