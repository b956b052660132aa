/* packed.c - see packed.h.
 * Owns     the records of PACKED slots.     Called by  span.c, front/span_cache.c, slots.c (packed_relink), purge.c, repair.c
 * Calls    pool_state.h (slots, lock), release.h, lru.h
 * Threads  pages under the pool lock. A head's word changes by compare-exchange where its block is freed; who holds a block changes
 *          anything else of it.
 * I1  packed_pages of a SuperSlab's slots are the pages of its heads, whatever their state, and no two heads share one; but under the lock.
 * I2  A slot with such pages is PACKED, and `used` of its ctl says how many they are. packed_slots are those with others, too.
 * I3  A HOT SuperSlab is in the list of packed_row / PACKED_ROW_STEP if that is at least PACKED_LEAST_PAGES, and else in none.
 * In the child of a fork the heads tell: a claim writes its head last, a return clears it first.
 */
#include "pool/packed.h"

#include "meta/arena.h"
#include "meta/registry.h"
#include "os/os.h"
#include "pool/huge_pages.h"
#include "pool/lru.h"
#include "pool/pool_state.h"
#include "pool/release.h"
#include "pool/span.h"
#include "service/budget.h"
#include "service/config.h"
#include "service/report.h"
#include "service/stats.h"

#define SS_PAGES (SUPERSLAB_SLABS * PACKED_PAGES)
#define MAP_WORDS (SS_PAGES / 64)

bool packed_suits(size_t len_bytes)
{
    size_t pages = len_bytes / PACKED_PAGE_BYTES, slots_pages = span_slots_for(len_bytes) * PACKED_PAGES;
    return pages >= PACKED_LEAST_PAGES && pages * 8 <= slots_pages * 7 && slots_pages < SS_PAGES / 2 &&
           os_page_bytes() == PACKED_PAGE_BYTES && config.secure == 0 && config.purge_delay_ms != 0 &&
           config.huge_pages != HUGE_PAGES_NEVER && !budget_is_set() &&
           stats_read(&stats_counters.committed_bytes) > config.packed_heap_bytes;
}

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

/* ---- Claim (lock held) -------------------------------------------------------------------------------------------- */

/* A place for some pages: what would be left over of the row. */
struct fit {
    struct superslab *ss; /* NULL: there is none */
    unsigned page, left;
};

/* The smallest row of one SuperSlab that will do, at that end of it where other blocks are. */
static void fit_into(struct superslab *ss, unsigned n, struct fit *best)
{
    uint64_t map[MAP_WORDS];
    map_free(ss, map);
    for (unsigned end, at = next_page(map, 0, true); at < SS_PAGES; at = next_page(map, end, true)) {
        end = next_page(map, at, false);
        if (end - at < n || (best->ss != NULL && end - at - n >= best->left) ||
            (slots_around(at, end - at) & ss->packed_slots) == 0)
            continue;
        bool at_begin = (ss->packed_slots >> at / PACKED_PAGES & 1) != 0;
        *best = (struct fit){ss, at_begin ? at : end - n, end - at - n};
    }
}

static struct fit find_fit(unsigned n)
{
    struct fit best = {0};
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

/* Takes pages, all of them free or in slots that are `ours`: TAKEN, and not PACKED yet. Returns whether all are clean. */
static bool take_pages(struct superslab *ss, unsigned page, unsigned n, uint32_t ours)
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

static void *make_block(struct superslab *ss, unsigned page, size_t len_bytes)
{
    unsigned n = (unsigned)(len_bytes / PACKED_PAGE_BYTES), in_slot = page % PACKED_PAGES;
    struct packed_head *head =
        &superslab_slab(ss, page / PACKED_PAGES)->packed[in_slot / (PACKED_PAGES / PACKED_HEADS)];
    head->sample = 0;
    atomic_store_explicit(&head->word, PACKED_WORD(PACKED_LIVE, in_slot, n, n), memory_order_release);
    return superslab_memory(ss) + page * PACKED_PAGE_BYTES;
}

void *packed_claim(size_t len_bytes, bool *zeroed)
{
    unsigned n = (unsigned)(len_bytes / PACKED_PAGE_BYTES);
    struct fit fit = find_fit(n);
    if (fit.ss == NULL)
        return NULL;
    *zeroed = take_pages(fit.ss, fit.page, n, 0);
    return make_block(fit.ss, fit.page, len_bytes);
}

void *packed_claim_in(struct superslab *ss, unsigned slot, unsigned n, size_t len_bytes, bool *zeroed)
{
    *zeroed = take_pages(ss, slot * PACKED_PAGES, (unsigned)(len_bytes / PACKED_PAGE_BYTES), pool_slot_mask(slot, n));
    return make_block(ss, slot * PACKED_PAGES, len_bytes);
}

/* ---- Return (lock held) ------------------------------------------------------------------------------------------- */

/* Returns the SuperSlab if it is empty now, and detached. */
static struct superslab *put_pages(struct superslab *ss, unsigned page, unsigned n)
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

static unsigned page_of(const void *block)
{
    return (unsigned)(((uintptr_t)block & (SUPERSLAB_BYTES - 1)) / PACKED_PAGE_BYTES);
}

static struct superslab *superslab_of(const void *block)
{
    struct arena *arena = registry_arena(block);
    return &arena->superslabs[arena_slab_index(arena, block) / SUPERSLAB_SLABS];
}

/* Whether it is the word of a block that begins there, in its half of a slot. */
static bool begins_at(uint32_t word, const void *block)
{
    return ((uintptr_t)block & (PACKED_PAGE_BYTES - 1)) == 0 &&
           PACKED_PAGE(word) == page_of(block) % (PACKED_PAGES / PACKED_HEADS);
}

/* Puts back what this word was the head of, in the state that is expected. False: it is in another. */
static bool put(const void *block, struct packed_head *head, enum packed_state expected, struct superslab **freed)
{
    uint32_t word = packed_word(head);
    *freed = NULL;
    if (!begins_at(word, block) || PACKED_STATE(word) != expected ||
        !atomic_compare_exchange_strong(&head->word, &word, 0))
        return false;
    *freed = put_pages(superslab_of(block), page_of(block), PACKED_LENGTH(word));
    return true;
}

bool packed_put(const void *block, struct packed_head *head, struct superslab **freed)
{
    *freed = NULL;
    return packed_head_of(block) ==
               head && /* Another thread may have returned it meanwhile, and its slot may be a slab's. */
           put(block, head, PACKED_LIVE, freed);
}

bool packed_let_wait(const void *block, struct packed_head *head)
{
    uint32_t word = packed_word(head);
    return PACKED_STATE(word) == PACKED_LIVE && begins_at(word, block) &&
           atomic_compare_exchange_strong(
               &head->word, &word,
               PACKED_WORD(PACKED_WAITING, PACKED_PAGE(word), PACKED_LENGTH(word), PACKED_ASKED(word)));
}

void packed_put_waiting(struct packed_head *head, struct superslab **freed)
{
    const struct slab *slab = (const struct slab *)((uintptr_t)head & ~(uintptr_t)(sizeof *slab - 1));
    unsigned page = (unsigned)(head - slab->packed) * (PACKED_PAGES / PACKED_HEADS) + PACKED_PAGE(packed_word(head));
    put(slab->memory + page * PACKED_PAGE_BYTES, head, PACKED_WAITING, freed);
}

/* ---- Of one block ------------------------------------------------------------------------------------------------- */

static struct packed_head *head_at(struct slab *slab, const void *block)
{
    return &slab->packed[page_of(block) % PACKED_PAGES / (PACKED_PAGES / PACKED_HEADS)];
}

struct packed_head *packed_head_in(struct slab *slab, const void *block)
{
    struct packed_head *head = head_at(slab, block);
    uint32_t word = packed_is(slab) ? packed_word(head) : 0;
    return PACKED_STATE(word) == PACKED_LIVE && begins_at(word, block) ? head : NULL;
}

struct packed_head *packed_head_of(const void *block)
{
    struct arena *arena = registry_arena(block);
    if (arena == NULL || arena->class_map == NULL)
        return NULL;
    size_t index = arena_slab_index(arena, block);
    if (atomic_load_explicit(&arena->class_map[index], memory_order_relaxed) != CLASS_SPAN * CLASS_OFFSET_SCALE)
        return NULL; /* relaxed: see arena_set_class_map */
    return packed_head_in(&arena->slabs[index], block);
}

/* Takes the n pages behind one that grows. False: they are not free. */
static bool take_behind(struct superslab *ss, unsigned page, unsigned n)
{
    uint64_t map[MAP_WORDS];
    if (page + n > SS_PAGES || pool_tier_of(ss) != SS_TIER_HOT)
        return false;
    map_free(ss, map);
    if (next_page(map, page, false) < page + n)
        return false;
    take_pages(ss, page, n, 0);
    return true;
}

bool packed_resize(const void *block, struct packed_head *head, size_t len_bytes)
{
    uint32_t word = packed_word(head);
    struct superslab *ss = superslab_of(block);
    unsigned page = page_of(block), n_old = PACKED_LENGTH(word), n_asked = (unsigned)(len_bytes / PACKED_PAGE_BYTES);
    unsigned n = n_asked < PACKED_LEAST_PAGES ? PACKED_LEAST_PAGES : n_asked;
    if (n > n_old && !take_behind(ss, page + n_old, n - n_old))
        return false;
    atomic_store_explicit(&head->word, PACKED_WORD(PACKED_LIVE, page % PACKED_PAGES, n, n_asked), memory_order_release);
    if (n < n_old)
        put_pages(ss, page + n, n_old - n);
    return true;
}

/* ---- Held --------------------------------------------------------------------------------------------------------- */

unsigned packed_length_in(struct slab *slab, const void *block)
{
    const struct packed_head *head = packed_head_in(slab, block);
    return head == NULL || head->sample != 0 ? 0 : PACKED_LENGTH(packed_word(head));
}

unsigned packed_hold(struct slab *slab, const void *block)
{
    struct packed_head *head = head_at(slab, block);
    uint32_t word =
        packed_is(slab) ? packed_word(head) : 0; /* read once: should others free it too, one of us takes it */
    if (PACKED_STATE(word) != PACKED_LIVE || !begins_at(word, block) ||
        atomic_load(&slab->superslab->tier) == SS_TIER_DRAINING)
        return 0;
    unsigned n = PACKED_LENGTH(word);
    bool ours = atomic_compare_exchange_strong(&head->word, &word,
                                               PACKED_WORD(PACKED_HELD, PACKED_PAGE(word), n, PACKED_ASKED(word)));
    return ours ? n : 0;
}

static struct packed_head *held_head(const void *block)
{
    struct arena *arena = registry_arena(block);
    return head_at(&arena->slabs[arena_slab_index(arena, block)], block);
}

void packed_give(const void *block, unsigned asked_pages)
{
    struct packed_head *head = held_head(block);
    uint32_t word = packed_word(head);
    head->sample = 0;
    atomic_store_explicit(&head->word, PACKED_WORD(PACKED_LIVE, PACKED_PAGE(word), PACKED_LENGTH(word), asked_pages),
                          memory_order_release);
}

void packed_put_held(const struct packed_block *blocks, unsigned n)
{
    if (n == 0)
        return;
    if (!pool_lock(HAK_LOCK_SPAN))
        report_broken(span_lock_is_gone, blocks);
    for (unsigned i = 0; i < n; i++) {
        struct superslab *freed;
        put(blocks[i].block, held_head(blocks[i].block), PACKED_HELD, &freed);
        if (freed != NULL)
            lru_push(freed, 1);
    }
    pool_unlock();
    release_evicted();
    shared_pool_slots_emptied(HAK_LOCK_SPAN);
    shared_pool_note_sparser();
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
