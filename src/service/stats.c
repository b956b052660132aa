/* stats.c - the counters of stats.h.
 * Owns  stats_counters.     Called by  pool/, front/, api/introspect.c     Calls  nothing.     Threads  any.
 */
#include "service/stats.h"

struct stats_counters stats_counters;

void stats_commit(int64_t bytes)
{
    uint64_t now = atomic_fetch_add_explicit(&stats_counters.committed_bytes, (uint64_t)bytes, memory_order_relaxed) +
                   (uint64_t)bytes;
    uint64_t peak = stats_read(&stats_counters.peak_committed_bytes);
    while ((int64_t)(now - peak) > 0 &&
           !atomic_compare_exchange_weak_explicit(&stats_counters.peak_committed_bytes, &peak, now,
                                                  memory_order_relaxed, memory_order_relaxed))
        continue;
}
