/* slab_gaps.c - see slab_gaps.h.
 * Owns     the second map, n_following and gaps of struct slab.     Called by  pool/gap.c, front/free.c, front/locate.c, slab.c     Calls  slab_bits.h
 * Threads  who claims owns the slab; returns by any thread that holds the block; no lock.
 */
#include "superslab/slab_gaps.h"

#include "superslab/slab_bits.h"

/* The map whose bit i is set when block i is part of a larger one that begins before it. Free blocks have none: it is written before
 * `bits` by who claims, and before them, too, by who returns. */
static _Atomic uint64_t *following(const struct slab *slab)
{
    const struct arena *arena = slab->superslab->arena;
    return &arena->large_bits[slab_index(arena, slab) * SLAB_MAX_WORDS + SLAB_FOLLOW_WORD];
}

void slab_open_gaps(struct slab *slab)
{
    for (unsigned w = 0; w < slab->n_words; w++)
        atomic_store_explicit(&following(slab)[w], 0, memory_order_relaxed); /* relaxed, all: ctl publishes them */
    atomic_store_explicit(&slab->superslab->has_large_bits, 1, memory_order_relaxed);
    atomic_store_explicit(&slab->n_following, 0, memory_order_relaxed);
    atomic_store(&slab->gaps, 1);
}

void slab_close_gaps(struct slab *slab)
{
    atomic_store(&slab->gaps, 0);
}

/* Of n blocks from `first` on, those in a word: as its bits. */
static uint64_t part_of_word(unsigned first, unsigned n, unsigned word)
{
    unsigned from = first > word * 64 ? first - word * 64 : 0;
    unsigned to = first + n - word * 64; /* above `from`: the caller sees to it */
    return (to >= 64 ? UINT64_MAX : ((uint64_t)1 << to) - 1) & (UINT64_MAX << from);
}

/* In place of how many of its blocks one of size_bytes lies. */
static unsigned blocks_for(const struct slab *slab, size_t size_bytes)
{
    size_t block_bytes = class_table[CTL_CLASS(slab_ctl_read(slab))].bytes;
    return (unsigned)((size_bytes + block_bytes - 1) / block_bytes);
}

/* The first of n blocks side by side whose row begins in the first of two words; 64: there is none. n is at most 64. */
static unsigned find_row(uint64_t free, uint64_t next, unsigned n)
{
    unsigned __int128 rows = (unsigned __int128)next << 64 | free; /* bit i: a row of `len` begins there */
    unsigned len = 1;
    for (; len * 2 <= n; len *= 2)
        rows &= rows >> len;
    rows &= rows >> (n - len);
    return (uint64_t)rows == 0 ? 64 : (unsigned)__builtin_ctzll((uint64_t)rows);
}

/* The same of a whole slab, of more than 64. */
static unsigned find_long_row(const struct slab *slab, unsigned n, unsigned end)
{
    unsigned run = 0, first = 0;
    for (unsigned word = 0; word < slab->n_words; word++) {
        uint64_t free = slab_free_below(slab, word, end);
        for (unsigned at = 0; at < 64;) {
            uint64_t rest = free >> at;
            if ((rest & 1) == 0) {
                run = 0;
                at = rest == 0 ? 64 : at + (unsigned)__builtin_ctzll(rest);
                continue;
            }
            unsigned len =
                rest == UINT64_MAX ? 64 : (unsigned)__builtin_ctzll(~rest); /* above the shift there are zeros */
            if (run == 0)
                first = word * 64 + at;
            run += len;
            at += len;
            if (run >= n)
                return first;
        }
    }
    return SLAB_NO_GAP;
}

unsigned slab_find_gap(const struct slab *slab, size_t size_bytes)
{
    unsigned n = blocks_for(slab, size_bytes), end = slab_is_all_dirty(slab) ? UINT16_MAX : SLAB_RECYCLED;
    if (n > 64)
        return find_long_row(slab, n, end);
    uint64_t free = slab_free_below(slab, 0, end), next;
    for (unsigned word = 0; word < slab->n_words; word++, free = next) {
        next = word + 1 < slab->n_words ? slab_free_below(slab, word + 1, end) : 0;
        unsigned at = find_row(free, next, n);
        if (at < 64)
            return word * 64 + at;
    }
    return SLAB_NO_GAP;
}

void *slab_claim_gap(struct slab *slab, unsigned first, size_t size_bytes)
{
    unsigned n = blocks_for(slab, size_bytes);
    for (unsigned word = (first + 1) / 64; n > 1 && word <= (first + n - 1) / 64; word++)
        atomic_fetch_or_explicit(&following(slab)[word], part_of_word(first + 1, n - 1, word), memory_order_relaxed);
    for (unsigned word = first / 64; word <= (first + n - 1) / 64; word++)
        atomic_fetch_and_explicit(&slab->bits[word], ~part_of_word(first, n, word), memory_order_acquire); /* R1 */
    /* relaxed, both: as in slab_claim */
    atomic_fetch_add_explicit(&slab->n_following, (uint16_t)(n - 1), memory_order_relaxed);
    atomic_fetch_add_explicit(&slab->ctl, n, memory_order_relaxed);
    return slab->memory + first * class_table[CTL_CLASS(slab_ctl_read(slab))].bytes;
}

bool slab_follows(const struct slab *slab, unsigned index)
{
    /* relaxed: the bits of a block that the caller holds cannot change */
    return (atomic_load_explicit(&following(slab)[index / 64], memory_order_relaxed) >> (index % 64) & 1) != 0;
}

unsigned slab_gap_blocks(const struct slab *slab, unsigned index)
{
    unsigned n = 1;
    while (index + n < slab->n_words * 64) {
        unsigned at = (index + n) % 64;
        uint64_t rest = atomic_load_explicit(&following(slab)[(index + n) / 64], memory_order_relaxed) >> at;
        unsigned len = rest == UINT64_MAX ? 64 : (unsigned)__builtin_ctzll(~rest);
        n += len;
        if (at + len < 64)
            break;
    }
    return n;
}

void slab_split_gap(struct slab *slab, unsigned index, unsigned n)
{
    if (n == 1)
        return;
    for (unsigned word = (index + 1) / 64; word <= (index + n - 1) / 64; word++)
        atomic_fetch_and_explicit(&following(slab)[word], ~part_of_word(index + 1, n - 1, word), memory_order_relaxed);
    atomic_fetch_sub_explicit(&slab->n_following, (uint16_t)(n - 1), memory_order_relaxed);
}

bool slab_gaps_are_whole(const struct slab *slab)
{
    unsigned n = 0;
    for (unsigned w = 0; w < slab->n_words; w++) {
        uint64_t follow = atomic_load_explicit(&following(slab)[w], memory_order_relaxed);
        if ((follow & atomic_load_explicit(&slab->bits[w], memory_order_relaxed)) != 0)
            return false;
        n += count_bits(follow);
    }
    return n == atomic_load_explicit(&slab->n_following, memory_order_relaxed);
}
