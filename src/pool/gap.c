/* gap.c - see gap.h.
 * Owns     which slabs have gaps.     Called by  front/, purge.c (ticks)     Calls  slab.h, class_set.h, shared_pool.h, arena.h
 * Threads  any. Who claims, opens or closes owns the slab meanwhile (slab.h); returns by any thread.
 * I1  While a slab with gaps is not empty, the class map says CLASS_GAPS of it. It is said before the first larger block is claimed,
 *     and until the last one has been returned.
 */
#include "pool/gap.h"

#include "meta/arena.h"
#include "pool/background.h"
#include "pool/class_set.h"
#include "pool/shared_pool.h"
#include "service/config.h"
#include "service/stats.h"

/* Slabs looked at for one request, and requests in a row that find nothing, after which those of that size and above have to do
 * without until the next tick. */
#define LOOKS 16
#define MISSES 32

/* A slab is opened when so small a part of its blocks is in use, and so much memory lies between them. */
#define SPARSE_PART 2
#define WORTH_BYTES (SLAB_BYTES / 4)

/* Blocks are so many times as large as the slab's, at least. */
#define LEAST_TIMES 2

/* All of it hints, changed by any thread. */
static _Atomic bool wanted;                  /* since the last tick */
static _Atomic size_t none_bytes = SIZE_MAX; /* of so much and more none was found */
static _Atomic size_t next_look;             /* a slab's number in the first arena */
static _Atomic unsigned n_misses;
static _Atomic size_t sparse_bytes;          /* in slabs that might be opened, by the last tick */
static _Atomic size_t sparse_bytes_so_far;   /* and by the one that is under way */

static void set_map(struct slab *slab, unsigned class_id)
{
    struct arena *arena = slab->superslab->arena;
    arena_set_class_map(arena, (size_t)(slab - arena->slabs), 1, (uint8_t)(class_id * CLASS_OFFSET_SCALE));
}

/* Owns a slab with gaps that fit, as far as its count tells. False: it has none. */
static bool own(struct arena *arena, size_t index, size_t size_bytes)
{
    struct slab *slab = &arena->slabs[index];
    slab_ctl ctl = slab_ctl_read(slab);
    if (CTL_STATE(ctl) != SLAB_PARTIAL || !slab_has_gaps(slab)) {
        class_set_drop(arena, CLASS_GAPS, index);
        return false;
    }
    const struct class_info *class = &class_table[CTL_CLASS(ctl)];
    if (class->bytes * LEAST_TIMES > size_bytes || (class->n_blocks - CTL_USED(ctl)) * class->bytes < size_bytes ||
        !slab_own(slab, CTL_CLASS(ctl)))
        return false;
    if (slab_has_gaps(slab))
        return true;
    shared_pool_disown_slab(slab);
    return false;
}

void *gap_claim(unsigned class_id)
{
    struct arena *arena = arena_first();
    size_t size_bytes = class_table[class_id].bytes;
    /* relaxed, all: hints */
    if (!atomic_load_explicit(&wanted, memory_order_relaxed)) {
        atomic_store_explicit(&wanted, true, memory_order_relaxed);
        background_wake(); /* If ticks have ended, there may be something to open now. */
    }
    if (size_bytes >= atomic_load_explicit(&none_bytes, memory_order_relaxed) || arena == NULL)
        return NULL;
    size_t i = atomic_load_explicit(&next_look, memory_order_relaxed);
    for (unsigned looks = 0; looks < LOOKS; looks++, i++) {
        i = class_set_find(arena, CLASS_GAPS, i);
        if (i == SIZE_MAX) {
            i = 0;
            break;
        }
        if (!own(arena, i, size_bytes))
            continue;
        void *block = slab_claim_gap(&arena->slabs[i], size_bytes);
        shared_pool_disown_slab(&arena->slabs[i]);
        if (block == NULL)
            continue;
        atomic_store_explicit(&next_look, i, memory_order_relaxed);
        atomic_store_explicit(&n_misses, 0, memory_order_relaxed);
        stats_add(&stats_counters.gap_blocks_total, 1);
        return block;
    }
    atomic_store_explicit(&next_look, i, memory_order_relaxed);
    if (atomic_fetch_add_explicit(&n_misses, 1, memory_order_relaxed) >= MISSES) {
        atomic_store_explicit(&n_misses, 0, memory_order_relaxed);
        atomic_store_explicit(&none_bytes, size_bytes, memory_order_relaxed);
    }
    return NULL;
}

bool gap_return(struct slab *slab, unsigned index)
{
    unsigned n = slab_gap_blocks(slab, index), end = index + n;
    uint64_t doubly = 0;
    slab_split_gap(slab, index, n);
    while (index < end && doubly == 0) {
        unsigned at = index % 64, len = end - index < 64 - at ? end - index : 64 - at;
        doubly = shared_pool_return_blocks(slab, index / 64, (len == 64 ? UINT64_MAX : ((uint64_t)1 << len) - 1) << at);
        index += len;
    }
    return doubly == 0;
}

static bool is_sparse(slab_ctl ctl)
{
    return CTL_USED(ctl) * SPARSE_PART <= class_table[CTL_CLASS(ctl)].n_blocks;
}

/* Whether a tick may open it: sparse, and with no more blocks in use than the tick before found. */
static bool is_worth_opening(const struct slab *slab, slab_ctl ctl)
{
    const struct class_info *class = &class_table[CTL_CLASS(ctl)];
    return config.gaps && is_sparse(ctl) && class->bytes * LEAST_TIMES <= CLASS_MAX_BYTES &&
           slab_may_have_gaps(CTL_CLASS(ctl)) && slab_free_bytes_in_memory(slab, ctl) >= WORTH_BYTES &&
           CTL_USED(ctl) <= atomic_load_explicit(&slab->seen_used, memory_order_relaxed); /* relaxed: a hint */
}

void gap_tick_slab(struct slab *slab, slab_ctl ctl)
{
    bool open = slab_has_gaps(slab), asked = atomic_load_explicit(&wanted, memory_order_relaxed); /* relaxed: a hint */
    if (!open && is_worth_opening(slab, ctl)) {
        atomic_fetch_add_explicit(&sparse_bytes_so_far, slab_free_bytes_in_memory(slab, ctl), memory_order_relaxed);
        if (!asked)
            return;
    } else if (!open || atomic_load_explicit(&slab->n_following, memory_order_relaxed) != 0 ||
               (asked && is_sparse(ctl))) {
        return; /* relaxed, both: a number; we look again */
    }
    struct arena *arena = slab->superslab->arena;
    size_t index = (size_t)(slab - arena->slabs);
    if (!slab_own(slab, CTL_CLASS(ctl)))
        return;
    class_set_drop(arena, CTL_CLASS(ctl), index);
    if (!slab_has_gaps(slab)) {
        slab_open_gaps(slab);
        set_map(slab, CLASS_GAPS);
    } else if (atomic_load(&slab->n_following) == 0) {
        slab_close_gaps(slab);
        set_map(slab, CTL_CLASS(ctl));
    }
    shared_pool_disown_slab(slab);
}

size_t gap_sparse_bytes(void)
{
    /* relaxed, both: hints */
    return atomic_load_explicit(&wanted, memory_order_relaxed)
               ? atomic_load_explicit(&sparse_bytes, memory_order_relaxed)
               : 0;
}

void gap_tick(void)
{
    /* relaxed, all: hints */
    atomic_store_explicit(&sparse_bytes, atomic_exchange_explicit(&sparse_bytes_so_far, 0, memory_order_relaxed),
                          memory_order_relaxed);
    atomic_store_explicit(&wanted, false, memory_order_relaxed);
    atomic_store_explicit(&none_bytes, SIZE_MAX, memory_order_relaxed);
}
