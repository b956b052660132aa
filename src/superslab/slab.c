/* slab.c - claim and return the blocks of one slab.
 * Owns     struct slab's bit map, ctl, cursor and dirty_pages.     Called by  pool/, front/     Calls  os.h (purge)
 * Threads  claims by the owner alone; returns by any thread; no lock.
 * I1  A block is in exactly one place: a caller, one magazine, a set bit here, or on its way in one call.
 * I2  popcount(bits) + used == n_blocks, when no call is in progress.                       (slab_check)
 * I3  ctl.used == 0 implies that every bit is set and that no call is on its way to set one: a return sets its bits
 *     first and lowers `used` after, so a slab whose `used` is 0 is touched by nobody but whoever takes it out of its
 *     state.
 * Why one ctl word: state and count change together, so "now full", "no longer full" and "now empty" are each seen by
 * exactly one thread, without a re-check.
 *
 *  edge  release                            acquire                          what becomes visible
 *  R1    slab_return_bits fetch_or       -> slab_claim(_word) fetch_and     the last holder's use of the block
 *  R2    slab_return_count CAS on ctl    -> slab_own, slab_disown CAS,
 *                                           release's re-check               all bits of the returned blocks
 *  R3    slab_disown CAS                 -> slab_own CAS                     cursor, dirty_pages
 *  R4    slab_open store of ctl          -> slab_own, slab_ctl_read          the slab's description
 */
#include "superslab/slab.h"

#include "service/stats.h"
#include "superslab/slab_bits.h"
#include "superslab/slab_gaps.h"

void slab_place(struct slab *slab, struct superslab *ss, unsigned slot)
{
    /* relaxed, both: whoever may use the slab learns of it afterwards */
    if (atomic_load_explicit(&slab->superslab, memory_order_relaxed) != NULL)
        return; /* from an earlier use */
    atomic_store_explicit(&slab->superslab, ss, memory_order_relaxed);
    slab->memory = superslab_memory(ss) + slot * SLAB_BYTES;
}

void slab_recount(struct slab *slab, bool only_up)
{
    slab_ctl ctl = slab_ctl_read(slab), next;
    do {
        unsigned used = class_table[CTL_CLASS(ctl)].n_blocks - slab_count_free(slab);
        if (used == CTL_USED(ctl) || (only_up && used < CTL_USED(ctl)))
            return;
        next = SLAB_CTL(CTL_STATE(ctl), CTL_CLASS(ctl), used);
    } while (!atomic_compare_exchange_weak_explicit(&slab->ctl, &ctl, next, /* R2: then the bits are seen */
                                                    memory_order_acq_rel, memory_order_acquire));
}

void slab_open(struct slab *slab, struct superslab *ss, unsigned slot, unsigned class_id)
{
    const struct class_info *class = &class_table[class_id];
    slab_place(slab, ss, slot);
    slab->n_words = class->n_words;
    slab->last_class = (uint8_t)class_id;
    atomic_store_explicit(&slab->cursor, 0, memory_order_relaxed); /* relaxed, both: hints */
    atomic_store_explicit(&slab->quiet_ticks, 0, memory_order_relaxed);
    atomic_store_explicit(&slab->seen_used, 0, memory_order_relaxed);
    atomic_store_explicit(&slab->gaps, 0, memory_order_relaxed); /* relaxed, both: ctl publishes them */
    atomic_store_explicit(&slab->n_following, 0, memory_order_relaxed);
    slab->bits = class->n_words <= SLAB_SMALL_WORDS
                     ? slab->small_bits
                     : &ss->arena->large_bits[slab_index(ss->arena, slab) * SLAB_MAX_WORDS];
    if (class->n_words > SLAB_SMALL_WORDS)
        atomic_store_explicit(&ss->has_large_bits, 1,
                              memory_order_relaxed); /* relaxed: the slot's state publishes it */
    unsigned full_words = class->n_blocks / 64, rest = class->n_blocks % 64;
    /* relaxed: the release store of ctl below publishes them */
    for (unsigned w = 0; w < full_words; w++)
        atomic_store_explicit(&slab->bits[w], UINT64_MAX, memory_order_relaxed);
    if (rest != 0)
        atomic_store_explicit(&slab->bits[full_words], ((uint64_t)1 << rest) - 1, memory_order_relaxed);
    atomic_store_explicit(&slab->ctl, SLAB_CTL(SLAB_OWNED, class_id, 0), memory_order_release); /* R4 */
}

/* Counts pages that are handed out for the first time. Owner. */
static NOINLINE void hand_out_pages(struct slab *slab, unsigned fresh)
{
    unsigned dirty = atomic_load_explicit(&slab->dirty_pages, memory_order_relaxed); /* relaxed: only owners write */
    stats_commit((int64_t)(count_bits(fresh) * slab_page_bytes()));
    atomic_store_explicit(&slab->dirty_pages, (uint16_t)(dirty | fresh), memory_order_relaxed);
    /* relaxed: a hint. A tick looks again, though no more blocks may be in use than when it was here last. */
    atomic_store_explicit(&slab->quiet_ticks, 0, memory_order_relaxed);
}

/* Notes that the pages of [from, to) may now hold data. Owner. */
static inline void mark_dirty(struct slab *slab, size_t from_byte, size_t to_byte)
{
    unsigned dirty = atomic_load_explicit(&slab->dirty_pages, memory_order_relaxed); /* relaxed: only owners write */
    if (dirty == slab_all_pages())
        return;
    unsigned fresh = ((2u << slab_page_of(to_byte - 1)) - (1u << slab_page_of(from_byte))) & ~dirty;
    if (fresh != 0)
        hand_out_pages(slab, fresh);
}

/* SLAB_RECYCLED as a block number, where one says as much: unless there are holes, pages that were given back before others. */
static unsigned end_of_claim(const struct slab *slab, unsigned end)
{
    if (end != SLAB_RECYCLED)
        return end;
    unsigned dirty = atomic_load_explicit(&slab->dirty_pages, memory_order_relaxed); /* relaxed: only owners write */
    if (dirty == slab_all_pages())
        return UINT16_MAX;
    if ((dirty & (dirty + 1)) != 0)
        return SLAB_RECYCLED;
    const struct class_info *class = &class_table[CTL_CLASS(slab_ctl_read(slab))];
    unsigned n_pages = (unsigned)__builtin_ctz(dirty + 1);        /* the lowest are set, and no others */
    return class_block_index(class, n_pages * slab_page_bytes()); /* blocks that end there */
}

NOINLINE uint64_t slab_between_holes(const struct slab *slab, unsigned word)
{
    unsigned dirty = atomic_load_explicit(&slab->dirty_pages, memory_order_relaxed); /* relaxed: only owners write */
    const struct class_info *class = &class_table[CTL_CLASS(slab_ctl_read(slab))];
    size_t from = (size_t)word * 64 * class->bytes, page_bytes = slab_page_bytes();
    size_t to = min_size(from + (size_t)64 * class->bytes, (size_t) class->n_blocks * class->bytes);
    uint64_t blocks = UINT64_MAX;
    for (unsigned page = slab_page_of(from); page <= slab_page_of(to - 1); page++) {
        if (dirty >> page & 1)
            continue;
        unsigned first = class_block_index(class, max_size(from, page * page_bytes)) % 64;
        unsigned last = class_block_index(class, min_size(to, (page + 1) * page_bytes) - 1) % 64;
        blocks &= ~(((uint64_t)2 << last) - ((uint64_t)1 << first));
    }
    return blocks;
}

/* How many blocks below `end` are free, but no more than n. *first gets the word where the search found the first. */
static unsigned count_available(const struct slab *slab, unsigned n, unsigned end, unsigned *first)
{
    unsigned n_words = slab->n_words, n_found = 0;
    unsigned word = atomic_load_explicit(&slab->cursor, memory_order_relaxed); /* relaxed: a hint */
    for (unsigned seen = 0; seen < n_words && n_found < n; seen++, word++) {
        if (word >= n_words)
            word = 0;
        uint64_t free = slab_free_below(slab, word, end);
        if (free == 0)
            continue;
        if (n_found == 0)
            *first = word;
        n_found += n == 1 ? 1 : count_bits(free);
    }
    return n_found < n ? n_found : n;
}

/* The block with which the first claim of n from an empty slab begins, if they all fit into the first page: where in it
 * depends on the class. Slabs begin at multiples of 64 KiB, so without this the first blocks of all classes would share a
 * few sets of the processor's cache, and those are the blocks that a program with a small heap uses over and over
 * (bench_workloads bignum: 4 to 13 % less time). No memory is lost: what is skipped comes next. */
static unsigned colour_block(unsigned class_id, unsigned n, unsigned end)
{
    const struct class_info *class = &class_table[class_id];
    unsigned block = class_block_index(class, class_id * 7 % 16 * 256);
    return block + n <= end && (size_t)(block + n) * class->bytes <= slab_page_bytes() ? block : 0;
}

/* Writes the addresses of free blocks of a word, which begins at `memory`, below out[at], and clears their bits, until there are no
 * more or at is 0. Returns at. */
static ALWAYS_INLINE unsigned write_addresses(char *memory, size_t block_bytes, uint64_t *free, void **out, unsigned at)
{
    if (*free == UINT64_MAX) { /* often enough: no look at each bit (the trace of python: 2 % of its instructions) */
        unsigned n = at < 64 ? at : 64;
        for (unsigned i = 0; i < n; i++)
            out[--at] = memory + i * block_bytes;
        *free = n == 64 ? 0 : UINT64_MAX << n;
        return at;
    }
    uint64_t rest = *free;
    for (; rest != 0 && at > 0; rest &= rest - 1)
        out[--at] = memory + (size_t)__builtin_ctzll(rest) * block_bytes;
    *free = rest;
    return at;
}

/* No block below `end` is free. Where the count says otherwise, a fork in a signal handler has cut a claim in half: the slab would be
 * offered again for ever. */
static NOINLINE unsigned serve_nothing(struct slab *slab, unsigned end)
{
    slab_ctl ctl = slab_ctl_read(slab);
    unsigned n_blocks = class_table[CTL_CLASS(ctl)].n_blocks;
    if (end != SLAB_RECYCLED && end >= n_blocks && CTL_USED(ctl) < n_blocks)
        slab_recount(slab, true);
    return 0;
}

unsigned slab_claim(struct slab *slab, unsigned n, unsigned end, void **out)
{
    bool recycled = end == SLAB_RECYCLED;
    end = end_of_claim(slab, end);
    unsigned word = 0, n_claimed = count_available(slab, n, end, &word), at = n_claimed;
    if (n_claimed == 0)
        return serve_nothing(slab, end);
    slab_ctl ctl = slab_ctl_read(slab);
    size_t block_bytes = class_table[CTL_CLASS(ctl)].bytes;
    uint64_t skipped = 0;
    if (CTL_USED(ctl) == 0) {
        unsigned first = colour_block(CTL_CLASS(ctl), n_claimed, end);
        word = first / 64;
        skipped = ((uint64_t)1 << (first % 64)) - 1;
    }
    for (;; word++, skipped = 0) {
        if (word >= slab->n_words)
            word = 0;
        uint64_t free = slab_free_below(slab, word, end) & ~skipped, rest = free;
        if (free == 0)
            continue;
        size_t word_offset = (size_t)word * 64 * block_bytes;
        at = write_addresses(slab->memory + word_offset, block_bytes, &rest, out, at);
        uint64_t taken = free & ~rest;
        atomic_fetch_and_explicit(&slab->bits[word], ~taken, memory_order_acquire); /* R1 */
        if (!recycled)
            mark_dirty(slab, word_offset + (size_t)__builtin_ctzll(taken) * block_bytes,
                       word_offset + (64 - (size_t)__builtin_clzll(taken)) * block_bytes);
        if (at == 0)
            break;
    }
    /* The last word may have more. A return that lowers the hint at this moment may be overwritten: its block is
     * found when the search wraps around. */
    atomic_store_explicit(&slab->cursor, CTL_USED(ctl) == 0 ? 0 : (uint16_t)word, memory_order_relaxed);
    /* relaxed: in state OWNED nobody acts on the count but the owner, and the blocks become known only after this */
    atomic_fetch_add_explicit(&slab->ctl, n_claimed, memory_order_relaxed);
    return n_claimed;
}

uint64_t slab_claim_word(struct slab *slab, unsigned end, unsigned *out_word)
{
    unsigned n_words = slab->n_words;
    bool recycled = end == SLAB_RECYCLED;
    end = end_of_claim(slab, end);
    unsigned word = atomic_load_explicit(&slab->cursor, memory_order_relaxed); /* relaxed: a hint */
    uint64_t free = 0;
    for (unsigned seen = 0; seen <= n_words; seen++, word++) {
        if (word >= n_words)
            word = 0;
        free = slab_free_below(slab, word, end);
        if (free != 0)
            break;
    }
    if (free == 0)
        return serve_nothing(slab, end);
    atomic_fetch_and_explicit(&slab->bits[word], ~free, memory_order_acquire); /* R1 */
    if (!recycled &&
        atomic_load_explicit(&slab->dirty_pages, memory_order_relaxed) != slab_all_pages()) { /* relaxed: the owner */
        size_t block_bytes = class_table[CTL_CLASS(slab_ctl_read(slab))].bytes;
        size_t from_byte = (word * 64 + (size_t)__builtin_ctzll(free)) * block_bytes;
        mark_dirty(slab, from_byte, (word * 64 + 64 - (size_t)__builtin_clzll(free)) * block_bytes);
    }
    /* relaxed, both: as in slab_claim */
    atomic_store_explicit(&slab->cursor, (uint16_t)word, memory_order_relaxed);
    atomic_fetch_add_explicit(&slab->ctl, count_bits(free), memory_order_relaxed);
    *out_word = word;
    return free;
}

void *slab_claim_in_memory(struct slab *slab)
{
    size_t block_bytes = class_table[CTL_CLASS(slab_ctl_read(slab))].bytes;
    unsigned dirty = atomic_load_explicit(&slab->dirty_pages, memory_order_relaxed); /* relaxed: the owner */
    for (unsigned word = 0; word < slab->n_words; word++) {
        /* relaxed: as in slab_free_below */
        uint64_t free = atomic_load_explicit(&slab->bits[word], memory_order_relaxed);
        for (; free != 0; free &= free - 1) {
            size_t offset = (word * 64 + (size_t)__builtin_ctzll(free)) * block_bytes;
            unsigned pages = (2u << slab_page_of(offset + block_bytes - 1)) - (1u << slab_page_of(offset));
            if ((pages & ~dirty) != 0)
                continue;
            atomic_fetch_and_explicit(&slab->bits[word], ~(free & -free), memory_order_acquire); /* R1 */
            atomic_fetch_add_explicit(&slab->ctl, 1, memory_order_relaxed); /* relaxed: as in slab_claim */
            return slab->memory + offset;
        }
    }
    return NULL;
}

bool slab_has_recycled(const struct slab *slab)
{
    unsigned n_words = slab->n_words, end = end_of_claim(slab, SLAB_RECYCLED);
    if (end < SLAB_RECYCLED)
        return slab_lowest_free(slab) < min_size(end, class_table[CTL_CLASS(slab_ctl_read(slab))].n_blocks);
    /* relaxed: a hint */
    for (unsigned word = atomic_load_explicit(&slab->cursor, memory_order_relaxed); word < n_words; word++)
        if (slab_free_below(slab, word, SLAB_RECYCLED) != 0)
            return true;
    return false;
}

unsigned slab_lowest_free(const struct slab *slab)
{
    unsigned n_words = slab->n_words;
    /* relaxed: the cursor is a hint, and what is returned meanwhile makes the answer too high at worst */
    for (unsigned word = atomic_load_explicit(&slab->cursor, memory_order_relaxed); word < n_words; word++) {
        uint64_t free = atomic_load_explicit(&slab->bits[word], memory_order_relaxed);
        if (free != 0)
            return word * 64 + (unsigned)__builtin_ctzll(free);
    }
    return class_table[CTL_CLASS(slab_ctl_read(slab))].n_blocks;
}

bool slab_maybe_recycled(const struct slab *slab, unsigned class_id)
{
    slab_ctl ctl = slab_ctl_read(slab);
    unsigned dirty = atomic_load_explicit(&slab->dirty_pages, memory_order_relaxed); /* relaxed: a guess */
    const struct class_info *class = &class_table[class_id];
    /* Fewer blocks out than the pages that were handed out have room for: some of those are free. */
    return CTL_STATE(ctl) == SLAB_PARTIAL && CTL_CLASS(ctl) == class_id &&
           CTL_USED(ctl) < count_bits(dirty) * slab_page_bytes() / class->bytes;
}

/* Fewer free blocks than a 32nd of all are not worth the way through the class's list: such a slab counts as full.
 * (bench_random_mixed 5000000 400000, profile off: 184 ns per operation instead of 230, for 1.4 % more memory; with a
 * 16th 175 ns and 3 %. The default profile gains nothing and loses nothing.) */
bool slab_counts_as_full(unsigned class_id, unsigned used)
{
    unsigned n_blocks = class_table[class_id].n_blocks;
    return used + n_blocks / 32 >= n_blocks; /* `used` may be above n_blocks, see slab_ctl */
}

unsigned slab_return_bits(struct slab *slab, unsigned word, uint64_t mask, uint64_t *doubly)
{
    uint64_t before = atomic_fetch_or_explicit(&slab->bits[word], mask, memory_order_release); /* R1 */
    *doubly = before & mask;
    /* Low addresses first: the next claim begins here, so that blocks gather at the beginning of the slab. */
    if (word < atomic_load_explicit(&slab->cursor, memory_order_relaxed)) /* relaxed: a hint */
        atomic_store_explicit(&slab->cursor, (uint16_t)word, memory_order_relaxed);
    mask &= ~before;
    return (mask & (mask - 1)) == 0 ? mask != 0 : count_bits(mask);
}

enum slab_return slab_return_count(struct slab *slab, unsigned n)
{
    slab_ctl ctl = atomic_load_explicit(&slab->ctl, memory_order_relaxed), next; /* relaxed: the CAS decides */
    enum slab_return result;
    do {
        enum slab_state state = CTL_STATE(ctl);
        if (unlikely(CTL_USED(ctl) < n))
            return SLAB_RETURN_TOO_MANY;
        unsigned used = CTL_USED(ctl) - n;
        unsigned n_blocks = class_table[CTL_CLASS(ctl)].n_blocks;
        next = ctl - n;
        result = SLAB_RETURN_NOTHING;
        if (state == SLAB_FULL) {
            if (used == 0) {
                next = SLAB_CTL(SLAB_RETIRING, CTL_CLASS(ctl), used);
                result = SLAB_RETURN_RETIRING;
            } else if (!slab_counts_as_full(CTL_CLASS(ctl), used)) {
                next = SLAB_CTL(SLAB_PARTIAL, CTL_CLASS(ctl), used);
                result = SLAB_RETURN_LISTABLE;
            }
        } else if (state == SLAB_PARTIAL) {
            if (used == 0) {
                next = SLAB_CTL(SLAB_RETIRING, CTL_CLASS(ctl), 0);
                result = SLAB_RETURN_RETIRING;
            } else if ((CTL_USED(ctl) > n_blocks / 2 && used <= n_blocks / 2) ||
                       (CTL_USED(ctl) > n_blocks / 4 && used <= n_blocks / 4) ||
                       (CTL_USED(ctl) > n_blocks / 8 && used <= n_blocks / 8)) {
                result = SLAB_RETURN_SPARSER;
            }
        }
    } while (!atomic_compare_exchange_weak_explicit(&slab->ctl, &ctl, next, memory_order_acq_rel, /* R2 */
                                                    memory_order_relaxed));
    return result;
}

enum slab_return slab_disown(struct slab *slab)
{
    slab_ctl ctl = atomic_load_explicit(&slab->ctl, memory_order_relaxed), next; /* relaxed: the CAS decides */
    enum slab_return result;
    do {
        unsigned used = CTL_USED(ctl), class_id = CTL_CLASS(ctl);
        if (used == 0) {
            next = SLAB_CTL(SLAB_RETIRING, class_id, 0);
            result = SLAB_RETURN_RETIRING;
        } else if (slab_counts_as_full(class_id, used)) {
            next = SLAB_CTL(SLAB_FULL, class_id, used);
            result = SLAB_RETURN_NOTHING;
        } else {
            next = SLAB_CTL(SLAB_PARTIAL, class_id, used);
            result = SLAB_RETURN_LISTABLE;
        }
    } while (!atomic_compare_exchange_weak_explicit(&slab->ctl, &ctl, next, memory_order_acq_rel, /* R2, R3 */
                                                    memory_order_relaxed));
    return result;
}

bool slab_unfill(struct slab *slab, unsigned class_id)
{
    slab_ctl ctl = atomic_load_explicit(&slab->ctl, memory_order_relaxed); /* relaxed: the CAS decides */
    do {
        if (CTL_STATE(ctl) != SLAB_FULL || CTL_CLASS(ctl) != class_id ||
            CTL_USED(ctl) >= class_table[class_id].n_blocks)
            return false;
    } while (!atomic_compare_exchange_weak_explicit(&slab->ctl, &ctl, SLAB_CTL(SLAB_PARTIAL, class_id, CTL_USED(ctl)),
                                                    memory_order_acq_rel, memory_order_relaxed)); /* R2, as a return */
    return true;
}

bool slab_own(struct slab *slab, unsigned class_id)
{
    slab_ctl ctl = atomic_load_explicit(&slab->ctl, memory_order_relaxed); /* relaxed: the CAS decides */
    while (CTL_STATE(ctl) == SLAB_PARTIAL && CTL_CLASS(ctl) == class_id)
        if (atomic_compare_exchange_weak_explicit(&slab->ctl, &ctl, SLAB_CTL(SLAB_OWNED, class_id, CTL_USED(ctl)),
                                                  memory_order_acquire, memory_order_relaxed)) /* R2, R3, R4 */
            return true;
    return false;
}

void slab_unretire(struct slab *slab)
{
    slab_ctl ctl = atomic_load_explicit(&slab->ctl, memory_order_relaxed); /* relaxed: only we change a RETIRING slab */
    atomic_store_explicit(&slab->ctl, SLAB_CTL(SLAB_PARTIAL, CTL_CLASS(ctl), CTL_USED(ctl)), memory_order_release);
}

/* True when every block that overlaps bytes [from, to) is free. The tail behind the last block belongs to no block. */
static bool all_free(const struct slab *slab, const struct class_info *class, size_t from, size_t to)
{
    unsigned first = class_block_index(class, from), last = class_block_index(class, to - 1);
    for (unsigned b = first; b <= last && b < class->n_blocks; b++)
        if ((atomic_load_explicit(&slab->bits[b / 64], memory_order_acquire) >> (b % 64) & 1) == 0) /* R1 */
            return false;
    return true;
}

size_t slab_dirty_bytes(const struct slab *slab)
{
    /* relaxed: only who holds the slab writes them */
    unsigned dirty = atomic_load_explicit(&slab->dirty_pages, memory_order_relaxed);
    return dirty == slab_all_pages() ? SLAB_BYTES : count_bits(dirty) * slab_page_bytes(); /* mostly the former */
}

size_t slab_free_bytes_in_memory(const struct slab *slab, slab_ctl ctl)
{
    size_t in_memory_bytes = slab_dirty_bytes(slab); /* another thread's, maybe */
    size_t used_bytes = (size_t)CTL_USED(ctl) * class_table[CTL_CLASS(ctl)].bytes;
    return in_memory_bytes > used_bytes ? in_memory_bytes - used_bytes : 0;
}

size_t slab_purge_free_pages(struct slab *slab)
{
    const struct class_info *class = &class_table[CTL_CLASS(slab_ctl_read(slab))];
    size_t page_bytes = slab_page_bytes(), purged_bytes = 0;
    unsigned n_pages = (unsigned)(SLAB_BYTES / page_bytes);
    unsigned dirty = atomic_load_explicit(&slab->dirty_pages, memory_order_relaxed); /* relaxed: only owners write */
    for (unsigned page = 0; page < n_pages;) {
        unsigned end = page;
        while (end < n_pages && (dirty >> end & 1) != 0 &&
               all_free(slab, class, end * page_bytes, (end + 1) * page_bytes))
            end++;
        if (end > page && os_purge(slab->memory + page * page_bytes, (end - page) * page_bytes)) {
            dirty &= ~((1u << end) - (1u << page));
            purged_bytes += (end - page) * page_bytes;
        }
        page = end + 1;
    }
    atomic_store_explicit(&slab->dirty_pages, (uint16_t)dirty, memory_order_relaxed);
    stats_commit(-(int64_t)purged_bytes);
    return purged_bytes;
}

unsigned slab_count_free(const struct slab *slab)
{
    unsigned n = 0;
    for (unsigned w = 0; w < slab->n_words; w++)
        n += count_bits(atomic_load_explicit(&slab->bits[w], memory_order_relaxed));
    return n;
}

bool slab_check(const struct slab *slab)
{
    slab_ctl ctl = slab_ctl_read(slab);
    const struct class_info *class = &class_table[CTL_CLASS(ctl)];
    unsigned rest = class->n_blocks % 64;
    uint64_t last = atomic_load_explicit(&slab->bits[slab->n_words - 1], memory_order_relaxed);
    if ((rest != 0 && last >> rest != 0) || (slab_has_gaps(slab) && !slab_gaps_are_whole(slab)))
        return false;
    return slab_count_free(slab) + CTL_USED(ctl) == class->n_blocks;
}
