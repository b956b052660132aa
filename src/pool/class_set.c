/* class_set.c - see class_set.h.
 * Owns     the arenas' set0, set1, set2.     Called by  slots.c, shared_pool.c, gap.c, purge.c     Calls  slab.h (to look at ctl)
 * Threads  any, no lock.
 * I1  A bit above is set while the word below it is not 0, except for a moment in class_set_enter.
 * The race that matters: A empties a word and clears the bit above, while B sets a bit in that word and finds the one
 * above still set. A therefore looks at the word again after clearing, and sets the bit above again if needed. The
 * same holds for a dropped slab: after clearing, the slab's ctl is read again. All operations are sequentially
 * consistent, because each side writes one word and then reads the other's.
 */
#include "pool/class_set.h"

static bool set_bit(_Atomic uint64_t *word, size_t bit)
{
    return atomic_fetch_or(word, (uint64_t)1 << (bit % 64)) == 0; /* was the word empty? */
}

static bool clear_bit(_Atomic uint64_t *word, size_t bit)
{
    uint64_t mask = (uint64_t)1 << (bit % 64), before = atomic_fetch_and(word, ~mask);
    return (before & mask) != 0 && (before & ~mask) == 0; /* is it empty now? */
}

static void enter_above(struct arena *arena, unsigned class_id, size_t row0)
{
    size_t row1 = row0 / 64;
    if (set_bit(&arena->set1[row1].word[class_id], row0))
        set_bit(&arena->set2[row1 / 64].word[class_id], row1);
}

void class_set_enter(struct arena *arena, unsigned class_id, size_t slab)
{
    if (set_bit(&arena->set0[slab / 64].word[class_id], slab))
        enter_above(arena, class_id, slab / 64);
}

bool class_set_has(const struct arena *arena, unsigned class_id, size_t slab)
{
    /* relaxed: a guess */
    return (atomic_load_explicit(&arena->set0[slab / 64].word[class_id], memory_order_relaxed) >> slab % 64 & 1) != 0;
}

static void drop_above(struct arena *arena, unsigned class_id, size_t row0)
{
    size_t row1 = row0 / 64, row2 = row1 / 64;
    if (clear_bit(&arena->set1[row1].word[class_id], row0)) {
        clear_bit(&arena->set2[row2].word[class_id], row1);
        if (atomic_load(&arena->set1[row1].word[class_id]) != 0)
            set_bit(&arena->set2[row2].word[class_id], row1);
    }
    if (atomic_load(&arena->set0[row0].word[class_id]) != 0)
        enter_above(arena, class_id, row0);
}

void class_set_hide(struct arena *arena, unsigned class_id, size_t slab)
{
    if (clear_bit(&arena->set0[slab / 64].word[class_id], slab))
        drop_above(arena, class_id, slab / 64);
}

void class_set_drop(struct arena *arena, unsigned class_id, size_t slab)
{
    class_set_hide(arena, class_id, slab);
    slab_ctl ctl = atomic_load(&arena->slabs[slab].ctl);
    if (CTL_STATE(ctl) == SLAB_PARTIAL &&
        (CTL_CLASS(ctl) == class_id || (class_id == CLASS_GAPS && slab_has_gaps(&arena->slabs[slab]))))
        class_set_enter(arena, class_id, slab);
}

/* The first set bit at or above `from` in a word; 64 when there is none. */
static size_t first_bit(uint64_t word, size_t from)
{
    word &= UINT64_MAX << from;
    return word == 0 ? 64 : (size_t)__builtin_ctzll(word);
}

size_t class_set_find(struct arena *arena, unsigned class_id, size_t from)
{
    size_t n_slabs = (size_t)atomic_load_explicit(&arena->high, memory_order_acquire) * SUPERSLAB_SLABS;
    size_t n_rows1 = (n_slabs + CHUNK_SLABS - 1) / CHUNK_SLABS;
    while (from < n_slabs) {
        /* relaxed loads: what is found is a hint, and slab_own's CAS acquires */
        size_t row0 = from / 64, row1 = row0 / 64;
        size_t bit =
            first_bit(atomic_load_explicit(&arena->set0[row0].word[class_id], memory_order_relaxed), from % 64);
        if (bit < 64)
            return row0 * 64 + bit;
        size_t next0 = row0 + 1; /* Look up for the next word that is not empty ... */
        row1 = next0 / 64;
        if (row1 >= n_rows1)
            return SIZE_MAX;
        bit = first_bit(atomic_load_explicit(&arena->set1[row1].word[class_id], memory_order_relaxed), next0 % 64);
        if (bit == 64) { /* ... and further up. */
            for (row1++; row1 < n_rows1; row1 = (row1 | 63) + 1) {
                uint64_t word2 = atomic_load_explicit(&arena->set2[row1 / 64].word[class_id], memory_order_relaxed);
                size_t bit2 = first_bit(word2, row1 % 64);
                if (bit2 < 64) {
                    row1 = (row1 & ~(size_t)63) + bit2;
                    break;
                }
            }
            if (row1 >= n_rows1)
                return SIZE_MAX;
            bit = first_bit(atomic_load_explicit(&arena->set1[row1].word[class_id], memory_order_relaxed), 0);
            if (bit == 64) { /* A summary that lags: go on behind it. */
                from = (row1 + 1) * CHUNK_SLABS;
                continue;
            }
        }
        from = (row1 * 64 + bit) * 64;
    }
    return SIZE_MAX;
}
