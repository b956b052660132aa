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

#define PAGES_OF(slots) /* of each of four bits 16 */                                                                  \
    (((slots)&1 ? 0xffffu : 0) | ((slots)&2 ? 0xffffull << 16 : 0) | ((slots)&4 ? 0xffffull << 32 : 0) |               \
     ((slots)&8 ? 0xffffull << 48 : 0))

/* A bit for each page: those of free slots, and the free ones of PACKED slots. */
static void map_free(const struct superslab *ss, uint64_t map[MAP_WORDS])
{
    static const uint64_t pages_of_slots[16] = {
        PAGES_OF(0), PAGES_OF(1), PAGES_OF(2),  PAGES_OF(3),  PAGES_OF(4),  PAGES_OF(5),  PAGES_OF(6),  PAGES_OF(7),
        PAGES_OF(8), PAGES_OF(9), PAGES_OF(10), PAGES_OF(11), PAGES_OF(12), PAGES_OF(13), PAGES_OF(14), PAGES_OF(15),
    };
    uint32_t free = free_slots(ss);
    for (unsigned w = 0; w < MAP_WORDS; w++, free >>= 4)
        map[w] = pages_of_slots[free & 15] | ss->packed_free[w];
}

/* Which pages of a slot are in blocks: all, if it is not PACKED. */
static void note_pages(struct superslab *ss, unsigned slot, unsigned pages)
{
    unsigned shift = slot % 4 * PACKED_PAGES;
    uint64_t free = ~pages & 0xffff, *word = &ss->packed_free[slot / 4];
    *word = (*word & ~((uint64_t)0xffff << shift)) | free << shift;
    ss->packed_slots = (ss->packed_slots & ~(1u << slot)) | (uint32_t)(free != 0) << slot;
}

/* How many pages in a row are free from a free one on. */
static ALWAYS_INLINE unsigned row_at(const uint64_t map[MAP_WORDS], unsigned page)
{
    unsigned w = page / 64, rest = 64 - page % 64;
    uint64_t taken = ~map[w] >> page % 64;
    if (likely(taken != 0))
        return (unsigned)__builtin_ctzll(taken);
    for (w++; w < MAP_WORDS && map[w] == UINT64_MAX; w++)
        rest += 64;
    return w == MAP_WORDS ? rest : rest + (unsigned)__builtin_ctzll(~map[w]);
}

struct row {
    unsigned page, n; /* n is 0: there is none */
};

/* The first row of at least `least` free pages from `page` on. */
static ALWAYS_INLINE struct row next_row(const uint64_t map[MAP_WORDS], unsigned page, unsigned least)
{
    while (page + least <= SS_PAGES) {
        uint64_t free = map[page / 64] >> page % 64;
        if (free == 0) {
            page = (page | 63) + 1;
            continue;
        }
        page += (unsigned)__builtin_ctzll(free);
        unsigned n = row_at(map, page);
        if (n >= least)
            return (struct row){page, n};
        page += n;
    }
    return (struct row){SS_PAGES, 0};
}

static uint32_t slots_around(unsigned page, unsigned n)
{
    unsigned first = page / PACKED_PAGES, last = (page + n - 1) / PACKED_PAGES;
    return superslab_slot_mask(first, last - first + 1);
}

/* What of n pages from `page` on lies in a slot, as bits of its pages. */
static unsigned part_in_slot(unsigned page, unsigned n, unsigned slot)
{
    unsigned begin = slot * PACKED_PAGES, from = page > begin ? page - begin : 0, end = page + n - begin;
    end = end < PACKED_PAGES ? end : PACKED_PAGES;
    return ((1u << end) - 1) & ~((1u << from) - 1);
}

/* Whether one of them is in a PACKED slot: other rows are a matter of slots. */
static ALWAYS_INLINE bool is_ours(const struct superslab *ss, struct row row)
{
    return (slots_around(row.page, row.n) & ss->packed_slots) != 0;
}

/* What packed_row must be. */
static unsigned longest_row(const struct superslab *ss)
{
    uint64_t map[MAP_WORDS];
    unsigned longest = PACKED_LEAST_PAGES - 1;
    if (ss->packed_slots == 0 || pool_tier_of(ss) != SS_TIER_HOT)
        return 0;
    map_free(ss, map);
    for (struct row row = {0}; (row = next_row(map, row.page + row.n, longest + 1)).n != 0;)
        if (is_ours(ss, row))
            longest = row.n;
    return longest < PACKED_LEAST_PAGES ? 0 : longest;
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

/* While slots come or go of which packed_relink is to hear but once, at the end. In the child of a fork packed_rebuild ends it. */
static bool hushed;

void packed_relink(struct superslab *ss)
{
    if (hushed)
        return;
    unsigned row = longest_row(ss);
    if (row == ss->packed_row)
        return;
    if (row != 0 && ss->packed_row != 0 && list_of(row) == list_of(ss->packed_row)) {
        ss->packed_row = row;
        return;
    }
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
    for (struct row row = {0}; (row = next_row(map, row.page + row.n, n)).n != 0;) {
        if ((best->ss != NULL && row.n - n >= best->left) || !is_ours(ss, row))
            continue;
        bool at_begin = (ss->packed_slots >> row.page / PACKED_PAGES & 1) != 0;
        *best = (struct packed_fit){ss, at_begin ? row.page : row.page + row.n - n, row.n - n};
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

bool packed_take_pages(struct superslab *ss, unsigned page, unsigned n, uint32_t ours)
{
    uint32_t slots = slots_around(page, n), fresh = slots & free_slots(ss);
    size_t n_fresh_pages = 0;
    bool clean = true;
    if (fresh != 0) {
        hushed = true;
        pool_take_slots_out(ss, fresh);
        hushed = false;
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
        note_pages(ss, slot, pages);
    }
    for (uint32_t rest = fresh & slots; rest != 0; rest &= rest - 1)
        arena_set_class_map(ss->arena, superslab_slab_index(ss, (unsigned)__builtin_ctz(rest)), 1,
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
    if ((map[page / 64] >> page % 64 & 1) == 0 || row_at(map, page) < n)
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
            note_pages(ss, slot, 0xffff); /* none of its pages is that of a PACKED slot any more */
        } else {
            atomic_store_explicit(&slab->ctl, SLAB_CTL(SLAB_PACKED, 0, count_bits(pages)), memory_order_release);
            note_pages(ss, slot, pages);
        }
    }
    struct superslab *freed = NULL;
    if (emptied != 0) { /* they are side by side */
        hushed = true;
        freed = pool_put_slots(ss, (unsigned)__builtin_ctz(emptied), count_bits(emptied));
        hushed = false;
    }
    if (freed == NULL)
        packed_relink(ss);
    return freed;
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

/* The pages of each slot by the heads: what packed_pages must be. */
static void count_pages(const struct superslab *ss, uint16_t pages[SUPERSLAB_SLABS])
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
    count_pages(ss, pages);
    hushed = false;
    ss->packed_slots = ss->packed_row = 0;
    ss->packed_previous = ss->packed_next = NULL;
    for (unsigned i = 0; i < MAP_WORDS; i++)
        ss->packed_free[i] = 0;
    for (unsigned i = 0; i < SUPERSLAB_SLABS; i++) {
        struct slab *slab = superslab_slab(ss, i);
        if (!packed_is(slab))
            continue;
        /* relaxed, both: the child's only thread */
        atomic_store_explicit(&slab->packed_pages, pages[i], memory_order_relaxed);
        note_pages(ss, i, pages[i] == 0 ? 0xffff : pages[i]);
        emptied |= (uint32_t)(pages[i] == 0) << i;
        atomic_store_explicit(
            &slab->ctl, pages[i] == 0 ? SLAB_CTL(SLAB_EMPTY, 0, 0) : SLAB_CTL(SLAB_PACKED, 0, count_bits(pages[i])),
            memory_order_relaxed);
    }
    return emptied;
}

const char *packed_check(const struct superslab *ss)
{
    uint16_t pages[SUPERSLAB_SLABS];
    count_pages(ss, pages);
    for (unsigned i = 0; i < SUPERSLAB_SLABS; i++) {
        const struct slab *slab = superslab_slab(ss, i);
        bool partly = packed_is(slab) && pages[i] != 0xffff;
        if (!packed_is(slab) && pages[i] != 0)
            return "a packed span lies in a slot that is not packed";
        if ((ss->packed_slots >> i & 1) != partly)
            return "a packed slot and the mask of those with free pages differ";
        if ((ss->packed_free[i / 4] >> i % 4 * PACKED_PAGES & 0xffff) != (packed_is(slab) ? ~pages[i] & 0xffffu : 0))
            return "the free pages of a packed slot and their map differ";
        if (packed_is(slab) && (pages_of(slab) != pages[i] || pages[i] == 0))
            return "the pages of a packed slot and its heads differ";
        if (packed_is(slab) && CTL_USED(slab_ctl_read(slab)) != count_bits(pages[i]))
            return "the pages of a packed slot and their number differ";
    }
    return ss->packed_row == longest_row(ss) ? NULL : "a row of free pages is longer than noted";
}
