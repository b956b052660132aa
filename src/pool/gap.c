/* gap.c - see gap.h.
 * Owns     which slabs have gaps.     Called by  front/, shared_pool.c, purge.c (ticks)     Calls  slab.h, class_set.h, shared_pool.h, arena.h
 * Threads  any. Who claims, opens or closes owns the slab meanwhile (slab.h); returns by any thread.
 * I1  While a slab with gaps is not empty, the class map says CLASS_GAPS of it. It is said before the first larger block is claimed,
 *     and until the last one has been returned.
 */
#include "pool/gap.h"

#include "meta/arena.h"
#include "pool/class_set.h"
#include "pool/shared_pool.h"
#include "service/config.h"
#include "service/stats.h"

/* Slabs with gaps looked at for one request, and slabs that might be opened; and requests of a class in a row that find nothing, after
 * which it has to do without: until a tick, or until another slab becomes sparse, which lets it try so often. */
#define LOOKS 16
#define MISSES 32
#define TRIES_PER_NOTE 4

/* A slab is opened when so small a part of its blocks is in use, and so much memory lies between them. */
#define SPARSE_PART 4
#define WORTH_BYTES (SLAB_BYTES / 4)

/* Blocks are so many times as large as the slab's, at least. */
#define LEAST_TIMES 2

/* The set of slabs that may be worth opening (class_set.h): of an id that no slab has. */
#define SPARSE_SET CLASS_SPAN

/* All of it hints, changed by any thread. */
static _Atomic bool asked; /* since the last tick */
static _Atomic unsigned n_notes;
static struct {
    _Atomic unsigned misses, n_notes; /* in a row; and at the last of them that were noted */
} of_class[CLASS_END];
static _Atomic size_t next_open, next_sparse; /* where to look in either set: slabs' numbers in the first arena */

static void set_map(struct slab *slab, unsigned class_id)
{
    struct arena *arena = slab->superslab->arena;
    arena_set_class_map(arena, slab_index(arena, slab), 1, (uint8_t)(class_id * CLASS_OFFSET_SCALE));
}

static bool is_sparse(slab_ctl ctl)
{
    return CTL_USED(ctl) * SPARSE_PART <= class_table[CTL_CLASS(ctl)].n_blocks;
}

/* Whether slabs of a class may have gaps that somebody could ask for. */
static bool could_serve(unsigned class_id)
{
    return slab_may_have_gaps(class_id) && class_table[class_id].bytes * LEAST_TIMES <= CLASS_MAX_BYTES;
}

/* Whether a slab of the set is one of it still: it may have another class by now. */
static bool belongs(const struct slab *slab, unsigned set, slab_ctl ctl)
{
    if (CTL_STATE(ctl) != SLAB_PARTIAL)
        return false;
    if (set == CLASS_GAPS)
        return slab_has_gaps(slab);
    return !slab_has_gaps(slab) && could_serve(CTL_CLASS(ctl)) && CTL_USED(ctl) != 0 && is_sparse(ctl) &&
           slab_free_bytes_in_memory(slab, ctl) >= WORTH_BYTES;
}

static void open_gaps(struct slab *slab)
{
    slab_open_gaps(slab);
    set_map(slab, CLASS_GAPS);
}

static void close_gaps(struct slab *slab)
{
    slab_close_gaps(slab);
    set_map(slab, CTL_CLASS(slab_ctl_read(slab)));
}

/* Whether a block of a class may lie in a slab of another: it is at least LEAST_TIMES as large, and no more than a quarter of the gap
 * would be waste, whatever size of the class was asked for. */
static bool fits(unsigned class_id, unsigned slab_class)
{
    size_t size_bytes = class_table[class_id].bytes, block_bytes = class_table[slab_class].bytes;
    size_t gap_bytes = (size_bytes + block_bytes - 1) / block_bytes * block_bytes;
    return block_bytes * LEAST_TIMES <= size_bytes && gap_bytes - class_table[class_id - 1].bytes <= gap_bytes / 4;
}

/* A block of the class in a gap of a slab of the set. NULL: there is none that is long enough, or the slab is not to be had. */
static void *claim_from(struct arena *arena, unsigned set, size_t index, unsigned class_id)
{
    size_t size_bytes = class_table[class_id].bytes;
    struct slab *slab = &arena->slabs[index];
    slab_ctl ctl = slab_ctl_read(slab);
    const struct class_info *class = &class_table[CTL_CLASS(ctl)];
    if (CTL_STATE(ctl) == SLAB_OWNED)
        return NULL; /* It may be what it was when it is let go of. */
    if (!belongs(slab, set, ctl)) {
        class_set_drop(arena, set, index);
        return NULL;
    }
    if (!fits(class_id, CTL_CLASS(ctl)) || (class->n_blocks - CTL_USED(ctl)) * class->bytes < size_bytes ||
        !slab_own(slab, CTL_CLASS(ctl)))
        return NULL;
    void *block = NULL;
    unsigned first = slab_has_gaps(slab) == (set == CLASS_GAPS) ? slab_find_gap(slab, size_bytes) : SLAB_NO_GAP;
    if (first != SLAB_NO_GAP) {
        if (set == SPARSE_SET) {
            open_gaps(slab);
            class_set_drop(arena, set, index);
        }
        block = slab_claim_gap(slab, first, size_bytes);
    }
    shared_pool_disown_slab(slab);
    return block;
}

/* Likewise, of the first slab from *next on that has one. */
static void *claim_from_set(struct arena *arena, unsigned set, unsigned class_id, _Atomic size_t *next)
{
    size_t from = atomic_load_explicit(next, memory_order_relaxed), i = from; /* relaxed, as below: hints */
    void *block = NULL;
    bool round = false;
    for (unsigned looks = 0; looks < LOOKS && block == NULL; looks++) {
        size_t found = class_set_find(arena, set, i);
        if (found == SIZE_MAX && !round) {
            round = true;
            found = class_set_find(arena, set, 0);
        }
        if (found == SIZE_MAX || (round && found >= from))
            break;
        block = claim_from(arena, set, found, class_id);
        i = block == NULL ? found + 1 : found;
    }
    if (i != from)
        atomic_store_explicit(next, i, memory_order_relaxed);
    return block;
}

/* Whether the class has not asked in vain too often. */
static bool may_ask(unsigned class_id)
{
    /* relaxed, all: hints */
    unsigned notes = atomic_load_explicit(&n_notes, memory_order_relaxed);
    if (atomic_load_explicit(&of_class[class_id].misses, memory_order_relaxed) < MISSES)
        return true;
    if (atomic_load_explicit(&of_class[class_id].n_notes, memory_order_relaxed) == notes)
        return false;
    atomic_store_explicit(&of_class[class_id].n_notes, notes, memory_order_relaxed);
    atomic_store_explicit(&of_class[class_id].misses, MISSES - TRIES_PER_NOTE, memory_order_relaxed);
    return true;
}

static void set_misses(unsigned class_id, unsigned n)
{
    if (atomic_load_explicit(&of_class[class_id].misses, memory_order_relaxed) != n)
        atomic_store_explicit(&of_class[class_id].misses, n, memory_order_relaxed); /* relaxed, both: as above */
}

void *gap_claim(unsigned class_id)
{
    struct arena *arena = arena_first();
    if (!atomic_load_explicit(&asked, memory_order_relaxed)) /* relaxed, both: as above */
        atomic_store_explicit(&asked, true, memory_order_relaxed);
    if (!config.gaps || arena == NULL || !may_ask(class_id))
        return NULL;
    void *block = claim_from_set(arena, CLASS_GAPS, class_id, &next_open);
    if (block == NULL)
        block = claim_from_set(arena, SPARSE_SET, class_id, &next_sparse);
    if (block != NULL) {
        set_misses(class_id, 0);
        stats_add(&stats_counters.gap_blocks_total, 1);
    } else {
        set_misses(class_id, atomic_load_explicit(&of_class[class_id].misses, memory_order_relaxed) + 1);
    }
    return block;
}

void gap_note_sparse(struct slab *slab, unsigned class_id)
{
    if (!is_sparse(slab_ctl_read(slab)) || !could_serve(class_id))
        return;
    struct arena *arena = arena_superslab_of(slab)->arena;
    size_t index = slab_index(arena, slab);
    if (arena != arena_first() || class_set_has(arena, SPARSE_SET, index))
        return;
    class_set_enter(arena, SPARSE_SET, index);
    atomic_fetch_add_explicit(&n_notes, 1, memory_order_relaxed); /* relaxed: a hint */
}

bool gap_return(struct slab *slab, unsigned index)
{
    unsigned n = slab_gap_blocks(slab, index), end = index + n;
    unsigned n_returned = 0;
    uint64_t doubly = 0;
    slab_split_gap(slab, index, n);
    while (index < end && doubly == 0) {
        unsigned at = index % 64, len = end - index < 64 - at ? end - index : 64 - at;
        uint64_t mask = (len == 64 ? UINT64_MAX : ((uint64_t)1 << len) - 1) << at;
        n_returned += slab_return_bits(slab, index / 64, mask, &doubly);
        index += len;
    }
    return (n_returned == 0 || shared_pool_return_count(slab, n_returned)) && doubly == 0;
}

void gap_close_unused(struct slab *slab)
{
    if (unlikely(slab_has_gaps(slab)) && atomic_load(&slab->n_following) == 0)
        close_gaps(slab);
}

void gap_tick_slab(struct slab *slab, slab_ctl ctl)
{
    /* relaxed, both: hints; we look again */
    if (!slab_has_gaps(slab) || atomic_load_explicit(&slab->n_following, memory_order_relaxed) != 0 ||
        (is_sparse(ctl) && atomic_load_explicit(&asked, memory_order_relaxed)))
        return;
    if (!slab_own(slab, CTL_CLASS(ctl)))
        return;
    gap_close_unused(slab);
    shared_pool_disown_slab(slab);
}

void gap_tick(void)
{
    atomic_store_explicit(&asked, false, memory_order_relaxed); /* relaxed: a hint */
    for (unsigned c = CLASS_FIRST; c < CLASS_END; c++)
        set_misses(c, 0);
}
