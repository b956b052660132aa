/* dirty.h - which pages of a SuperSlab may be in memory, while it is outside the pool: a run's, one in the cache, one on its way.
 *
 * In the pool each slot's record tells (slab.h, dirty_pages), and so it does for a while of a SuperSlab that left it (dirty_by_slab); from
 * then on, what was handed out is known as a prefix of the memory (dirty_prefix_bytes). What the records say together is
 * committed_bytes; who changes them here changes it as well (stats_commit).
 */
#ifndef HAKMEM_POOL_DIRTY_H
#define HAKMEM_POOL_DIRTY_H

#include "meta/layout.h"

/* The slot records of a SuperSlab outside the pool become those of a fresh one. What may be in memory of it is from then on
 * known as a prefix, or is nothing when `gone`. The caller has it in its hands. */
void superslab_forget_slots(struct superslab *ss, bool gone);

/* Notes that the first len_bytes of a SuperSlab outside the pool may be in memory, or that nothing behind them is. The
 * caller has it in its hands. */
void superslab_extend_dirty(struct superslab *ss, size_t len_bytes);
void superslab_cut_dirty(struct superslab *ss, size_t len_bytes);

/* Whether all of a SuperSlab outside the pool reads as zero. */
bool superslab_is_clean(const struct superslab *ss);

/* What of a SuperSlab may be in memory, by its records. Exact when nobody works on it. */
size_t superslab_dirty_bytes(const struct superslab *ss);

#endif
