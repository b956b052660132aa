/* dirty.c - see dirty.h.
 * Owns     dirty_prefix_bytes and dirty_by_slab of SuperSlab records, but that slots.c sets them as one enters or leaves the pool.
 * Called by  release.c, lru.c, slots.c, shared_pool.c, run.c, tail.c, huge_pages.c, repair.c     Calls  slab.h, stats.h
 * Threads  whoever has the SuperSlab in its hands; others may look, and guess.
 */
#include "pool/dirty.h"

#include "service/stats.h"
#include "superslab/slab.h"

bool superslab_is_clean(const struct superslab *ss)
{
    return !ss->dirty_by_slab && ss->dirty_prefix_bytes == 0;
}

size_t superslab_dirty_bytes(const struct superslab *ss)
{
    if (ss->state != SUPERSLAB_POOLED && !ss->dirty_by_slab)
        return ss->dirty_prefix_bytes;
    size_t sum_bytes = 0;
    for (unsigned i = 0; i < SUPERSLAB_SLABS; i++)
        sum_bytes += slab_dirty_bytes(superslab_slab(ss, i));
    return sum_bytes;
}

void superslab_extend_dirty(struct superslab *ss, size_t len_bytes)
{
    if (len_bytes <= ss->dirty_prefix_bytes)
        return;
    stats_commit((int64_t)(len_bytes - ss->dirty_prefix_bytes));
    ss->dirty_prefix_bytes = (uint32_t)len_bytes;
}

void superslab_cut_dirty(struct superslab *ss, size_t len_bytes)
{
    if (len_bytes >= ss->dirty_prefix_bytes)
        return;
    stats_commit(-(int64_t)(ss->dirty_prefix_bytes - len_bytes));
    ss->dirty_prefix_bytes = (uint32_t)len_bytes;
}

void superslab_forget_slots(struct superslab *ss, bool gone)
{
    size_t dirty_bytes = superslab_dirty_bytes(ss), prefix_bytes = ss->dirty_prefix_bytes;
    for (unsigned i = 0; i < SUPERSLAB_SLABS && ss->dirty_by_slab; i++) {
        struct slab *slab = superslab_slab(ss, i);
        unsigned dirty = atomic_load_explicit(&slab->dirty_pages, memory_order_relaxed);
        if (slab_ctl_read(slab) == 0 && dirty == 0)
            continue;
        if (dirty != 0)
            prefix_bytes = i * SLAB_BYTES + (32 - (size_t)__builtin_clz(dirty)) * slab_page_bytes();
        slab->last_class = 0;
        atomic_store_explicit(&slab->dirty_pages, 0, memory_order_relaxed); /* relaxed: ctl publishes it */
        atomic_store_explicit(&slab->ctl, 0, memory_order_release);
    }
    if (gone)
        prefix_bytes = 0;
    ss->dirty_by_slab = 0;
    ss->dirty_prefix_bytes = (uint32_t)prefix_bytes;
    if (prefix_bytes != dirty_bytes)
        stats_commit((int64_t)prefix_bytes - (int64_t)dirty_bytes);
}
