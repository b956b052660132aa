/* packed_pages.c - see packed_pages.h.
 * Owns     packed_pages and the state of PACKED slots; the lists of SuperSlabs by their free pages.
 * Called by  packed.c, slots.c (packed_relink), purge.c, repair.c     Calls  pool_state.h (slots, lock), huge_pages.h
 * Threads  any, under the lock.
 * I1  packed_pages of a SuperSlab's slots are the pages of its heads, whatever their state, and no two heads share one; but under the lock.
 * I2  A slot with such pages is PACKED, and `used` of its ctl says how many they are. packed_slots are those with others, too.
 * I3  A HOT SuperSlab is in the list of packed_row / PACKED_ROW_STEP if that is at least PACKED_LEAST_PAGES, and else in none.
 * In the child of a fork the heads tell: a claim writes its head last, a return clears it first.
 */
#include "pool/packed_pages.h"

#include "meta/arena.h"
#include "os/os.h"
#include "pool/huge_pages.h"
#include "pool/packed.h"
#include "pool/pool_state.h"
#include "service/stats.h"

#define SS_PAGES (SUPERSLAB_SLABS * PACKED_PAGES)
#define MAP_WORDS (SS_PAGES / 64)

/* ---- Free pages of a SuperSlab ------------------------------------------------------------------------------------ */

static uint32_t free_slots(const struct superslab *ss)
{
    return ss->unused_slots | ss->empty_slots;
}

static unsigned pages_of(const struct slab *slab)
{
    return atomic_load_explicit(&slab->packed_pages, memory_order_relaxed); /* relaxed: under the lock, or a guess */
}

/* A bit for each page: those of free slots, and the free ones of PACKED slots. */
static void map_free(const struct superslab *ss, uint64_t map[MAP_WORDS])
{
    uint32_t free = free_slots(ss);
    for (unsigned w = 0; w < MAP_WORDS; w++, free >>= 4) {
        /* Each of four bits to the lowest of 16, then to all of them. */
        uint64_t first = (free & 0xf) * ((uint64_t)1 << 45 | (uint64_t)1 << 30 | 1 << 15 | 1) & 0x0001000100010001;
        map[w] = (first << PACKED_PAGES) - first; /* of the highest slot 2^64 falls off */
    }
    for (uint32_t rest = ss->packed_slots; rest != 0; rest &= rest - 1) {
        unsigned slot = (unsigned)__builtin_ctz(rest);
        uint64_t pages = ~pages_of(superslab_slab(ss, slot)) & 0xffff;
        map[slot / 4] |= pages << slot % 4 * PACKED_PAGES;
    }
}

/* The first page from `from` on that is free, or that is not; SS_PAGES when there is none. */
static unsigned next_page(const uint64_t map[MAP_WORDS], unsigned from, bool is_free)
{
    for (unsigned w = from / 64, skip = from % 64; w < MAP_WORDS; w++, skip = 0) {
        uint64_t word = (is_free ? map[w] : ~map[w]) & UINT64_MAX << skip;
        if (word != 0)
            return w * 64 + (unsigned)__builtin_ctzll(word);
    }
    return SS_PAGES;
}

static uint32_t slots_around(unsigned page, unsigned n)
{
    unsigned first = page / PACKED_PAGES, last = (page + n - 1) / PACKED_PAGES;
    return pool_slot_mask(first, last - first + 1);
}

/* What of n pages from `page` on lies in a slot, as bits of its pages. */
static unsigned part_in_slot(unsigned page, unsigned n, unsigned slot)
{
    unsigned begin = slot * PACKED_PAGES, from = page > begin ? page - begin : 0, end = page + n - begin;
    end = end < PACKED_PAGES ? end : PACKED_PAGES;
    return ((1u << end) - 1) & ~((1u << from) - 1);
}

/* The most free pages in a row of which one is in a PACKED slot: the others are a matter of slots. */
static unsigned longest_row(const struct superslab *ss)
{
    uint64_t map[MAP_WORDS];
    unsigned longest = 0;
    map_free(ss, map);
    for (unsigned end, at = next_page(map, 0, true); at < SS_PAGES; at = next_page(map, end, true)) {
        end = next_page(map, at, false);
        if (end - at > longest && (slots_around(at, end - at) & ss->packed_slots) != 0)
            longest = end - at;
    }
    return longest;
}

/* ---- Lists of SuperSlabs (lock held) ------------------------------------------------------------------------------ */

static unsigned list_of(unsigned row)
{
    unsigned list = row / PACKED_ROW_STEP;
    return list < N_PACKED_LISTS ? list : N_PACKED_LISTS - 1;
}

void packed_unlink(struct superslab *ss)
{
    if (ss->packed_row == 0)
        return;
    struct superslab **list = &pool.packed[list_of(ss->packed_row)];
    *(ss->packed_previous != NULL ? &ss->packed_previous->packed_next : list) = ss->packed_next;
    if (ss->packed_next != NULL)
        ss->packed_next->packed_previous = ss->packed_previous;
    if (*list == NULL)
        pool.packed_bits &= ~((uint64_t)1 << list_of(ss->packed_row));
    ss->packed_previous = ss->packed_next = NULL;
    ss->packed_row = 0;
}

void packed_relink(struct superslab *ss)
{
    unsigned row = ss->packed_slots == 0 || pool_tier_of(ss) != SS_TIER_HOT ? 0 : longest_row(ss);
    if (row < PACKED_LEAST_PAGES)
        row = 0;
    if (row == ss->packed_row)
        return;
    packed_unlink(ss);
    if (row == 0)
        return;
    struct superslab **list = &pool.packed[list_of(row)];
    ss->packed_row = row;
    ss->packed_next = *list;
    if (*list != NULL)
        (*list)->packed_previous = ss;
    *list = ss;
    pool.packed_bits |= (uint64_t)1 << list_of(row);
}

/* ---- Take (lock held) --------------------------------------------------------------------------------------------- */

/* The smallest row of one SuperSlab that will do, at that end of it where other blocks are. */
static void fit_into(struct superslab *ss, unsigned n, struct packed_fit *best)
{
    uint64_t map[MAP_WORDS];
    map_free(ss, map);
    for (unsigned end, at = next_page(map, 0, true); at < SS_PAGES; at = next_page(map, end, true)) {
        end = next_page(map, at, false);
        if (end - at < n || (best->ss != NULL && end - at - n >= best->left) ||
            (slots_around(at, end - at) & ss->packed_slots) == 0)
            continue;
        bool at_begin = (ss->packed_slots >> at / PACKED_PAGES & 1) != 0;
        *best = (struct packed_fit){ss, at_begin ? at : end - n, end - at - n};
    }
}

struct packed_fit packed_find(unsigned n)
{
    struct packed_fit best = {0};
    uint64_t lists = pool.packed_bits & UINT64_MAX << list_of(n);
    for (; lists != 0 && best.ss == NULL; lists &= lists - 1) {
        unsigned n_looks = 0;
        struct superslab *ss = pool.packed[__builtin_ctzll(lists)];
        for (; ss != NULL && n_looks < ROW_LOOKS; ss = ss->packed_next, n_looks++)
            if (ss->packed_row >= n)
                fit_into(ss, n, &best);
    }
    return best;
}

/* Before slots come or go of which packed_relink is to hear but once, at the end. Returns packed_slots, to be set again. */
static uint32_t hush(struct superslab *ss)
{
    uint32_t packed = ss->packed_slots;
    ss->packed_slots = 0;
    return packed;
}

bool packed_take_pages(struct superslab *ss, unsigned page, unsigned n, uint32_t ours)
{
    uint32_t slots = slots_around(page, n), fresh = slots & free_slots(ss);
    size_t n_fresh_pages = 0;
    bool clean = true;
    if (fresh != 0) {
        uint32_t packed = hush(ss);
        pool_take_slots_out(ss, fresh);
        ss->packed_slots = packed;
    }
    fresh |= ours;
    for (uint32_t rest = slots; rest != 0; rest &= rest - 1) {
        unsigned slot = (unsigned)__builtin_ctz(rest), mine = part_in_slot(page, n, slot);
        struct slab *slab = superslab_slab(ss, slot);
        /* relaxed, all: ctl publishes them */
        unsigned dirty = atomic_load_explicit(&slab->dirty_pages, memory_order_relaxed);
        unsigned pages = fresh >> slot & 1 ? 0 : pages_of(slab);
        if (fresh >> slot & 1) {
            slab_place(slab, ss, slot);
            slab->last_class = CLASS_SPAN;
            for (unsigned i = 0; i < PACKED_HEADS; i++)
                atomic_store_explicit(&slab->packed[i].word, 0, memory_order_relaxed);
        }
        atomic_store_explicit(&slab->quiet_ticks, 0, memory_order_relaxed);
        pages |= mine;
        clean &= (dirty & mine) == 0;
        n_fresh_pages += count_bits(mine & ~dirty);
        atomic_store_explicit(&slab->dirty_pages, (uint16_t)(dirty | mine), memory_order_relaxed);
        atomic_store_explicit(&slab->packed_pages, (uint16_t)pages, memory_order_relaxed);
        atomic_store_explicit(&slab->ctl, SLAB_CTL(SLAB_PACKED, 0, count_bits(pages)), memory_order_release);
        if (pages == 0xffff)
            ss->packed_slots &= ~(1u << slot);
        else
            ss->packed_slots |= 1u << slot;
    }
    for (uint32_t rest = fresh & slots; rest != 0; rest &= rest - 1)
        arena_set_class_map(ss->arena, (size_t)ss->index * SUPERSLAB_SLABS + (unsigned)__builtin_ctz(rest), 1,
                            CLASS_SPAN * CLASS_OFFSET_SCALE);
    if (n_fresh_pages != 0)
        stats_commit((int64_t)(n_fresh_pages * PACKED_PAGE_BYTES));
    packed_relink(ss);
    return clean;
}

bool packed_take_behind(struct superslab *ss, unsigned page, unsigned n)
{
    uint64_t map[MAP_WORDS];
    if (page + n > SS_PAGES || pool_tier_of(ss) != SS_TIER_HOT)
        return false;
    map_free(ss, map);
    if (next_page(map, page, false) < page + n)
        return false;
    packed_take_pages(ss, page, n, 0);
    return true;
}

/* ---- Put back (lock held) ----------------------------------------------------------------------------------------- */

struct superslab *packed_put_pages(struct superslab *ss, unsigned page, unsigned n)
{
    uint32_t emptied = 0;
    for (uint32_t rest = slots_around(page, n); rest != 0; rest &= rest - 1) {
        unsigned slot = (unsigned)__builtin_ctz(rest);
        struct slab *slab = superslab_slab(ss, slot);
        unsigned pages = pages_of(slab) & ~part_in_slot(page, n, slot);
        atomic_store_explicit(&slab->packed_pages, (uint16_t)pages, memory_order_relaxed); /* relaxed: as above */
        if (pages == 0) {
            emptied |= 1u << slot;
        } else {
            atomic_store_explicit(&slab->ctl, SLAB_CTL(SLAB_PACKED, 0, count_bits(pages)), memory_order_release);
            ss->packed_slots |= 1u << slot;
        }
    }
    ss->packed_slots &= ~emptied;
    if (emptied != 0) { /* they are side by side */
        uint32_t packed = hush(ss);
        struct superslab *freed = pool_put_slots(ss, (unsigned)__builtin_ctz(emptied), count_bits(emptied));
        if (freed != NULL)
            return freed;
        ss->packed_slots = packed;
    }
    packed_relink(ss);
    return NULL;
}

/* ---- What lies idle ----------------------------------------------------------------------------------------------- */

size_t packed_purge(struct slab *slab, enum hak_lock_cause cause)
{
    size_t purged_bytes = 0;
    if (!pool_lock(cause))
        return 0;
    /* With those that are idle all that are free: where a huge page is, it had them in memory too. */
    unsigned pages = packed_is(slab) && packed_idle_pages(slab) != 0 ? ~pages_of(slab) & 0xffff : 0;
    if (pages != 0)
        superslab_use_small_pages(slab->superslab);
    while (pages != 0) {
        unsigned from = (unsigned)__builtin_ctz(pages), n = (unsigned)__builtin_ctz(~(pages >> from));
        unsigned row = ((1u << n) - 1) << from;
        pages &= ~row;
        if (!os_purge(slab->memory + from * PACKED_PAGE_BYTES, n * PACKED_PAGE_BYTES))
            continue;
        /* relaxed: under the lock */
        unsigned dirty = atomic_fetch_and_explicit(&slab->dirty_pages, (uint16_t)~row, memory_order_relaxed);
        purged_bytes += count_bits(dirty & row) * PACKED_PAGE_BYTES;
    }
    stats_commit(-(int64_t)purged_bytes);
    pool_unlock();
    return purged_bytes;
}

/* ---- Fork and checks ---------------------------------------------------------------------------------------------- */

void packed_count(const struct superslab *ss, uint16_t pages[SUPERSLAB_SLABS])
{
    for (unsigned i = 0; i < SUPERSLAB_SLABS; i++)
        pages[i] = 0;
    for (unsigned i = 0; i < SUPERSLAB_SLABS * PACKED_HEADS; i++) {
        const struct slab *slab = superslab_slab(ss, i / PACKED_HEADS);
        uint32_t word = packed_is(slab) ? packed_word(&slab->packed[i % PACKED_HEADS]) : 0;
        unsigned page = i * (PACKED_PAGES / PACKED_HEADS) + PACKED_PAGE(word), n = PACKED_LENGTH(word);
        if (PACKED_STATE(word) == PACKED_NONE || n == 0 || page + n > SS_PAGES)
            continue;
        for (uint32_t rest = slots_around(page, n); rest != 0; rest &= rest - 1) {
            unsigned slot = (unsigned)__builtin_ctz(rest);
            pages[slot] |= (uint16_t)part_in_slot(page, n, slot);
        }
    }
}

uint32_t packed_rebuild(struct superslab *ss)
{
    uint16_t pages[SUPERSLAB_SLABS];
    uint32_t emptied = 0;
    packed_count(ss, pages);
    ss->packed_slots = ss->packed_row = 0;
    ss->packed_previous = ss->packed_next = NULL;
    for (unsigned i = 0; i < SUPERSLAB_SLABS; i++) {
        struct slab *slab = superslab_slab(ss, i);
        if (!packed_is(slab))
            continue;
        /* relaxed, both: the child's only thread */
        atomic_store_explicit(&slab->packed_pages, pages[i], memory_order_relaxed);
        if (pages[i] == 0)
            emptied |= 1u << i;
        else if (pages[i] != 0xffff)
            ss->packed_slots |= 1u << i;
        atomic_store_explicit(
            &slab->ctl, pages[i] == 0 ? SLAB_CTL(SLAB_EMPTY, 0, 0) : SLAB_CTL(SLAB_PACKED, 0, count_bits(pages[i])),
            memory_order_relaxed);
    }
    return emptied;
}

const char *packed_check(const struct superslab *ss)
{
    uint16_t pages[SUPERSLAB_SLABS];
    packed_count(ss, pages);
    for (unsigned i = 0; i < SUPERSLAB_SLABS; i++) {
        const struct slab *slab = superslab_slab(ss, i);
        bool partly = packed_is(slab) && pages[i] != 0xffff;
        if (!packed_is(slab) && pages[i] != 0)
            return "a packed span lies in a slot that is not packed";
        if ((ss->packed_slots >> i & 1) != partly)
            return "a packed slot and the mask of those with free pages differ";
        if (packed_is(slab) && (pages_of(slab) != pages[i] || pages[i] == 0))
            return "the pages of a packed slot and its heads differ";
        if (packed_is(slab) && CTL_USED(slab_ctl_read(slab)) != count_bits(pages[i]))
            return "the pages of a packed slot and their number differ";
    }
    unsigned row = ss->packed_slots == 0 || pool_tier_of(ss) != SS_TIER_HOT ? 0 : longest_row(ss);
    return ss->packed_row == (row < PACKED_LEAST_PAGES ? 0 : row) ? NULL : "a row of free pages is longer than noted";
}
