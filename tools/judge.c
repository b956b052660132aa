/* judge.c - see judge.h.
 * Owns       a list of violations.     Called by  check.c     Calls  image.h     Threads  one.
 * I1  Nothing in the copy is believed: an index is compared with its bound, an address is looked up, before either is used.
 * I2  What a slot is judged by lies in its SuperSlab's records, which image_refresh_superslab reads at once; what a cached block is
 *     judged by, in those and in its thread's.
 * What a process has in hand at the moment of a look (TAKEN and RETIRING slots, MAPPING and LEAVING SuperSlabs) is judged by nothing. */
#define _GNU_SOURCE
#include "judge.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

const char *const rule_names[N_RULES] = {
    [RULE_UNREADABLE] = "unreadable",
    [RULE_SUPERSLAB] = "superslab",
    [RULE_TAKEN] = "taken",
    [RULE_LISTS] = "lists",
    [RULE_POOL_COUNTS] = "pool-counts",
    [RULE_MASKS] = "masks",
    [RULE_SLAB] = "slab",
    [RULE_CLASS_MAP] = "class-map",
    [RULE_BITS] = "bits",
    [RULE_GAPS] = "gaps",
    [RULE_FULL] = "full",
    [RULE_CLEAN_PAGE] = "clean-page",
    [RULE_SPAN] = "span",
    [RULE_RUN] = "run",
    [RULE_COMMITTED] = "committed",
    [RULE_MAGAZINE] = "magazine",
    [RULE_CACHED] = "cached",
    [RULE_CACHED_FREE] = "cached-free",
    [RULE_CACHED_TWICE] = "cached-twice",
    [RULE_CURRENT] = "current",
    [RULE_HELD] = "held",
};

static const char *slab_state_name(unsigned state)
{
    static const char *const names[] = {"unused",   "empty",       "taken",       "owned", "partial", "full",
                                        "retiring", "span's head", "span's body", "held",  "packed"};
    return state < sizeof names / sizeof names[0] ? names[state] : "of no state";
}

static const char *superslab_state_name(unsigned state)
{
    static const char *const names[] = {"absent", "being mapped", "in the pool", "cached",
                                        "a run",  "in a run",     "leaving"};
    return state < sizeof names / sizeof names[0] ? names[state] : "of no state";
}

/* What a byte of the class map stands for, in a buffer of the caller's. */
struct entry_text {
    char text[40];
};
static const char *entry_name(unsigned entry, struct entry_text *out)
{
    const unsigned class_id = entry / CLASS_OFFSET_SCALE;
    if (entry % CLASS_OFFSET_SCALE == 0 && class_id >= CLASS_FIRST && class_id < CLASS_END)
        snprintf(out->text, sizeof out->text, "blocks of %" PRIu32 " bytes", class_table[class_id].bytes);
    else if (entry == CLASS_SPAN * CLASS_OFFSET_SCALE || entry == CLASS_FOREIGN)
        snprintf(out->text, sizeof out->text, entry == CLASS_FOREIGN ? "no block" : "a span");
    else if (entry == CLASS_GAPS * CLASS_OFFSET_SCALE)
        snprintf(out->text, sizeof out->text, "blocks in gaps");
    else
        snprintf(out->text, sizeof out->text, "nothing known (%u)", entry);
    return out->text;
}

/* A block in a thread's cache. */
struct cached {
    uint64_t address;
    size_t thread;
    unsigned class_id;
};

/* Where an address of a block lies. */
struct spot {
    uint32_t arena, superslab;
    unsigned slot;
};

struct court {
    const struct image *image;
    struct violations *found;
    struct judged *judged;
    uint32_t *by_base; /* numbers of the arenas, by their addresses */
    struct cached *cached;
    size_t n_cached, cached_room;
    uint8_t **listed;       /* per arena and SuperSlab: which kinds of the pool's lists it is in, */
    uint32_t **kept;        /* and which of its slots threads keep, */
    uint64_t **kept_packed; /* and of which heads of packed spans: bit slot * PACKED_HEADS + head */
    bool no_memory;
};

/* ---- Findings ------------------------------------------------------------------------------------------------------ */

/* What a thread has in hand when another one forks is lost to the child: blocks that are neither free nor in use, spans, runs and
 * places that are half made, and the counts that go with them. The pool's lists, slabs' records and caches are mended. */
static bool can_be_left_by_fork(const struct violation *what)
{
    switch (what->rule) {
    case RULE_TAKEN:
    case RULE_POOL_COUNTS:
    case RULE_GAPS:
    case RULE_CLEAN_PAGE:
    case RULE_SPAN:
    case RULE_RUN:
    case RULE_COMMITTED:
    case RULE_HELD:
        return true;
    case RULE_CLASS_MAP:
        return what->class_bytes == 0;
    default:
        return false;
    }
}

/* Notes a violation of which only what it is about is given. */
__attribute__((format(printf, 3, 4))) static void accuse(struct court *court, struct violation what, const char *format,
                                                         ...)
{
    struct violations *found = court->found;
    va_list arguments;
    if (found->n == MAX_VIOLATIONS) {
        found->n_left_out++;
        return;
    }
    if ((found->n & (found->n - 1)) == 0) {
        struct violation *at = reallocarray(found->at, found->n == 0 ? 1 : 2 * found->n, sizeof *at);
        if (at == NULL) {
            court->no_memory = true;
            return;
        }
        found->at = at;
    }
    what.excused = court->image->cut_off != 0 && can_be_left_by_fork(&what);
    va_start(arguments, format);
    vsnprintf(what.text, sizeof what.text, format, arguments);
    va_end(arguments);
    found->at[found->n++] = what;
}

static uint64_t superslab_address(const struct image_arena *arena, uint32_t i)
{
    return target_address(arena->there.base) + ((uint64_t)i << SUPERSLAB_SHIFT);
}

static struct violation of_superslabs(const struct court *court, enum rule rule, uint32_t arena, uint32_t i, uint32_t n)
{
    return (struct violation){.rule = rule,
                              .address = superslab_address(&court->image->arenas[arena], i),
                              .arena = arena,
                              .superslab = i,
                              .n_superslabs = n,
                              .thread = NO_THREAD,
                              .other_thread = NO_THREAD};
}

/* Runs, and rows in the LRU cache, grow, shrink and merge: where one begins now, and how long it is, may be told by records that were
 * none of it before. */
static struct violation of_row(const struct court *court, enum rule rule, uint32_t arena, uint32_t i, uint32_t n)
{
    struct violation what = of_superslabs(court, rule, arena, i, n);
    what.everything = true;
    return what;
}

static struct violation of_slot(const struct court *court, enum rule rule, const struct spot *spot, unsigned class_id)
{
    struct violation what = of_superslabs(court, rule, spot->arena, spot->superslab, 1);
    what.address += spot->slot * SLAB_BYTES;
    what.class_bytes = class_id >= CLASS_FIRST && class_id < CLASS_END ? class_table[class_id].bytes : 0;
    return what;
}

static struct violation of_thread(const struct court *court, enum rule rule, size_t thread, unsigned class_id)
{
    return (struct violation){.rule = rule,
                              .address = court->image->threads[thread]->address,
                              .class_bytes = class_table[class_id].bytes,
                              .superslab = NO_SUPERSLAB,
                              .thread = thread,
                              .other_thread = NO_THREAD};
}

static struct violation of_everything(enum rule rule)
{
    return (struct violation){
        .rule = rule, .superslab = NO_SUPERSLAB, .thread = NO_THREAD, .other_thread = NO_THREAD, .everything = true};
}

/* ---- Addresses ----------------------------------------------------------------------------------------------------- */

static uint64_t arena_base(const struct court *court, uint32_t arena)
{
    return target_address(court->image->arenas[arena].there.base);
}

/* qsort has no argument for it. */
static const struct image *sorted_image;

static int by_base(const void *a, const void *b)
{
    const uint64_t first = target_address(sorted_image->arenas[*(const uint32_t *)a].there.base);
    const uint64_t second = target_address(sorted_image->arenas[*(const uint32_t *)b].there.base);
    return (first > second) - (first < second);
}

static bool sort_arenas(struct court *court)
{
    const size_t n = court->image->n_arenas;
    court->by_base = calloc(n == 0 ? 1 : n, sizeof *court->by_base);
    if (court->by_base == NULL)
        return false;
    for (size_t i = 0; i < n; i++)
        court->by_base[i] = (uint32_t)i;
    sorted_image = court->image;
    qsort(court->by_base, n, sizeof *court->by_base, by_base);
    return true;
}

/* Where an address of the arenas' memory lies. False: in no SuperSlab that was ever in use. */
static bool locate(const struct court *court, uint64_t address, struct spot *spot)
{
    size_t low = 0, high = court->image->n_arenas;
    while (low < high) { /* the last arena that begins at or below the address */
        const size_t middle = (low + high) / 2;
        if (arena_base(court, court->by_base[middle]) <= address)
            low = middle + 1;
        else
            high = middle;
    }
    if (low == 0)
        return false;
    spot->arena = court->by_base[low - 1];
    const uint64_t distance = address - arena_base(court, spot->arena);
    if (distance >> SUPERSLAB_SHIFT >= court->image->arenas[spot->arena].high)
        return false;
    spot->superslab = (uint32_t)(distance >> SUPERSLAB_SHIFT);
    spot->slot = (unsigned)(distance >> SLAB_SHIFT) % SUPERSLAB_SLABS;
    return true;
}

/* The same for the address of a record, of which `records` begins with the first of an arena and each has so many bytes. */
static bool locate_record(uint64_t address, const volatile void *records, size_t record_bytes, size_t n, size_t *index)
{
    const uint64_t first = target_address(records);
    if (address < first || (address - first) % record_bytes != 0 || (address - first) / record_bytes >= n)
        return false;
    *index = (size_t)((address - first) / record_bytes);
    return true;
}

static bool locate_slab_record(const struct court *court, uint64_t address, struct spot *spot)
{
    for (size_t a = 0; a < court->image->n_arenas; a++) {
        const struct image_arena *arena = &court->image->arenas[a];
        size_t index;
        if (locate_record(address, arena->there.slabs, sizeof(struct slab), (size_t)arena->high * SUPERSLAB_SLABS,
                          &index)) {
            *spot = (struct spot){(uint32_t)a, (uint32_t)(index / SUPERSLAB_SLABS), index % SUPERSLAB_SLABS};
            return true;
        }
    }
    return false;
}

static const struct image_arena *arena_of(const struct court *court, const struct spot *spot)
{
    return &court->image->arenas[spot->arena];
}

static const struct superslab *superslab_of(const struct court *court, const struct spot *spot)
{
    return &arena_of(court, spot)->superslabs[spot->superslab];
}

static const struct slab *slab_of(const struct court *court, const struct spot *spot)
{
    return image_slab(arena_of(court, spot), spot->superslab, spot->slot);
}

static size_t slab_number(const struct spot *spot)
{
    return (size_t)spot->superslab * SUPERSLAB_SLABS + spot->slot;
}

static unsigned mapped_class(const struct court *court, const struct spot *spot)
{
    return arena_of(court, spot)->class_map[slab_number(spot)];
}

static slab_ctl ctl_of(const struct slab *slab)
{
    return atomic_load_explicit(&slab->ctl, memory_order_relaxed);
}

static unsigned dirty_of(const struct slab *slab)
{
    return atomic_load_explicit(&slab->dirty_pages, memory_order_relaxed);
}

/* ---- Slabs --------------------------------------------------------------------------------------------------------- */

static const uint64_t *large_bits_of(const struct court *court, const struct spot *spot)
{
    return &arena_of(court, spot)->large_bits[slab_number(spot) * SLAB_MAX_WORDS];
}

/* The copy of the words that tell which blocks of a slab with a class are free. */
static const uint64_t *bits_of(const struct court *court, const struct spot *spot, const struct class_info *class)
{
    if (class->n_words <= SLAB_SMALL_WORDS)
        return (const uint64_t *)(const void *)slab_of(court, spot)->small_bits;
    return large_bits_of(court, spot);
}

static bool is_free(const uint64_t *bits, unsigned index)
{
    return (bits[index / 64] >> (index % 64) & 1) != 0;
}

/* The first block in use on a page that counts as given back; n_blocks when there is none. */
static unsigned block_on_clean_page(const struct court *court, const uint64_t *bits, const struct class_info *class,
                                    unsigned dirty)
{
    const size_t page_bytes = court->image->slab_page_bytes;
    for (unsigned i = 0; i < class->n_blocks; i++) {
        const size_t first = (size_t)i * class->bytes / page_bytes;
        const size_t last = ((size_t)(i + 1) * class->bytes - 1) / page_bytes;
        for (size_t page = first; !is_free(bits, i) && page <= last; page++)
            if ((dirty >> page & 1) == 0)
                return i;
    }
    return class->n_blocks;
}

/* Whether a slab's record says where it lies and what class it has. */
static bool describes_itself(const struct court *court, const struct spot *spot, const struct class_info *class)
{
    const struct image_arena *arena = arena_of(court, spot);
    const struct slab *slab = slab_of(court, spot);
    const uint64_t memory = superslab_address(arena, spot->superslab) + spot->slot * SLAB_BYTES;
    const uint64_t record = target_address(arena->there.slabs) + slab_number(spot) * sizeof(struct slab);
    const uint64_t bits =
        class->n_words <= SLAB_SMALL_WORDS
            ? record + offsetof(struct slab, small_bits)
            : target_address(arena->there.large_bits) + slab_number(spot) * SLAB_MAX_WORDS * sizeof(uint64_t);
    return slab->n_words == class->n_words && target_address(slab->memory) == memory &&
           target_address(atomic_load_explicit(&slab->superslab, memory_order_relaxed)) ==
               target_address(arena->there.superslabs) + spot->superslab * sizeof(struct superslab) &&
           target_address(slab->bits) == bits;
}

static void judge_bits(struct court *court, const struct spot *spot, slab_ctl ctl)
{
    const unsigned class_id = CTL_CLASS(ctl);
    const struct class_info *class = &class_table[class_id];
    const uint64_t *bits = bits_of(court, spot, class);
    unsigned n_free = 0;
    for (unsigned i = 0; i < class->n_words; i++)
        n_free += count_bits(bits[i]);
    const unsigned rest = class->n_blocks % 64, in_use = class->n_blocks - n_free;
    if (rest != 0 && bits[class->n_words - 1] >> rest != 0)
        accuse(court, of_slot(court, RULE_BITS, spot, class_id), "free by its bits: a block behind the last one");
    else if (CTL_USED(ctl) < in_use || (CTL_USED(ctl) > in_use && court->image->cut_off == 0))
        accuse(court, of_slot(court, RULE_BITS, spot, class_id),
               "blocks in use: %u by the slab's count, %u by its bits", CTL_USED(ctl), in_use);
    const unsigned lost = block_on_clean_page(court, bits, class, dirty_of(slab_of(court, spot)));
    if (lost != class->n_blocks) {
        struct violation what = of_slot(court, RULE_CLEAN_PAGE, spot, class_id);
        what.address += (uint64_t)lost * class->bytes;
        accuse(court, what, "a block in use lies on a page that counts as given back");
    }
}

/* The second map of a slab with gaps tells which blocks are a larger one's rest: of those in use alone. */
static void judge_gaps(struct court *court, const struct spot *spot, unsigned class_id)
{
    const struct class_info *class = &class_table[class_id];
    const uint64_t *bits = bits_of(court, spot, class), *following = large_bits_of(court, spot) + SLAB_FOLLOW_WORD;
    const unsigned by_count = slab_of(court, spot)->n_following;
    unsigned n = 0;
    bool any_free = false;
    for (unsigned i = 0; i < class->n_words && class->n_words <= SLAB_FOLLOW_WORD; i++) {
        n += count_bits(following[i]);
        any_free |= (following[i] & bits[i]) != 0;
    }
    if (class->n_words > SLAB_FOLLOW_WORD)
        accuse(court, of_slot(court, RULE_GAPS, spot, class_id), "has gaps, though its class has no second map");
    else if (any_free)
        accuse(court, of_slot(court, RULE_GAPS, spot, class_id), "a free block is the rest of a larger one");
    else if (n != by_count)
        accuse(court, of_slot(court, RULE_GAPS, spot, class_id),
               "rests of larger blocks: %u by its count, %u by its map", by_count, n);
}

/* `used` + a 32nd of the blocks reach the slab's end: see slab_counts_as_full. */
static bool counts_as_full(const struct class_info *class, unsigned used)
{
    return used + class->n_blocks / 32 >= class->n_blocks;
}

static void judge_slab(struct court *court, const struct spot *spot)
{
    const slab_ctl ctl = ctl_of(slab_of(court, spot));
    const unsigned class_id = CTL_CLASS(ctl);
    if (class_id < CLASS_FIRST || class_id >= CLASS_END) {
        accuse(court, of_slot(court, RULE_SLAB, spot, 0), "a slab whose class, %u, is none", class_id);
        return;
    }
    court->judged->slabs++;
    court->judged->blocks_in_use += CTL_USED(ctl);
    if (!describes_itself(court, spot, &class_table[class_id]))
        accuse(court, of_slot(court, RULE_SLAB, spot, class_id),
               "the slab's record does not describe its place and class");
    const unsigned expected = slab_has_gaps(slab_of(court, spot)) ? CLASS_GAPS : class_id;
    if (mapped_class(court, spot) != expected * CLASS_OFFSET_SCALE)
        accuse(court, of_slot(court, RULE_CLASS_MAP, spot, class_id), "in the class map, which free() reads: %s",
               entry_name(mapped_class(court, spot), &(struct entry_text){""}));
    judge_bits(court, spot, ctl);
    if (slab_has_gaps(slab_of(court, spot)))
        judge_gaps(court, spot, class_id);
    if (CTL_STATE(ctl) == SLAB_FULL && !counts_as_full(&class_table[class_id], CTL_USED(ctl)))
        accuse(court, of_slot(court, RULE_FULL, spot, class_id), "counts as full with %u of %u blocks in use",
               CTL_USED(ctl), class_table[class_id].n_blocks);
}

/* ---- Spans --------------------------------------------------------------------------------------------------------- */

/* A head; or one that a signal handler returned, and that waits to be put back; or one that a thread is just taking out of what
 * it holds, or adding to it: its bodies follow, or came before. */
static bool is_head(slab_ctl ctl)
{
    return CTL_STATE(ctl) == SLAB_SPAN_HEAD || ctl == SLAB_CTL(SLAB_RETIRING, 0, 0) || ctl == SLAB_CTL(SLAB_HELD, 0, 0);
}

static void judge_head(struct court *court, const struct spot *spot)
{
    const struct slab *head = slab_of(court, spot);
    const unsigned n = head->span_slabs;
    court->judged->spans++;
    if (n == 0 || n > SPAN_MAX_SLABS || n > SUPERSLAB_SLABS - spot->slot || head->span_bytes > n * SLAB_BYTES ||
        head->span_bytes <= (n - 1) * SLAB_BYTES) {
        accuse(court, of_slot(court, RULE_SPAN, spot, 0), "a span of %u slabs for %zu bytes", n, head->span_bytes);
        return;
    }
    for (unsigned i = 1; i < n; i++)
        if (CTL_STATE(ctl_of(head + i)) != SLAB_SPAN_BODY || head[i].span_slabs != i)
            accuse(court, of_slot(court, RULE_SPAN, spot, 0), "slab %u of this span's %u is none of it", i, n);
}

static void judge_body(struct court *court, const struct spot *spot)
{
    const struct slab *slab = slab_of(court, spot);
    const unsigned distance = slab->span_slabs;
    if (distance == 0 || distance > spot->slot || !is_head(ctl_of(slab - distance)) ||
        (slab - distance)->span_slabs <= distance)
        accuse(court, of_slot(court, RULE_SPAN, spot, 0), "part of a span that does not begin %u slabs before",
               distance);
}

static void judge_span_slot(struct court *court, const struct spot *spot)
{
    const unsigned state = CTL_STATE(ctl_of(slab_of(court, spot)));
    if (state == SLAB_SPAN_HEAD)
        judge_head(court, spot);
    else if (state == SLAB_SPAN_BODY)
        judge_body(court, spot);
    if (mapped_class(court, spot) != CLASS_SPAN * CLASS_OFFSET_SCALE)
        accuse(court, of_slot(court, RULE_CLASS_MAP, spot, 0), "a span; in the class map, which free() reads: %s",
               entry_name(mapped_class(court, spot), &(struct entry_text){""}));
}

/* ---- Packed spans -------------------------------------------------------------------------------------------------- */

/* The pages of each slot by the heads: what packed_pages must be. */
struct packed_map {
    uint16_t pages[SUPERSLAB_SLABS];
};

static struct violation of_packed(const struct court *court, enum rule rule, const struct spot *spot, unsigned page)
{
    struct violation what = of_slot(court, rule, spot, 0);
    what.address = superslab_address(arena_of(court, spot), spot->superslab) + page * PACKED_PAGE_BYTES;
    return what;
}

/* What a head says, added to its SuperSlab's pages. */
static void judge_packed_head(struct court *court, const struct spot *spot, unsigned i, struct packed_map *map)
{
    const uint32_t word = slab_of(court, spot)->packed[i].word;
    const unsigned first = packed_first_page(spot->slot, i, word), n = PACKED_LENGTH(word);
    bool shared = false;
    if (word == 0)
        return;
    if (!packed_word_makes_sense(spot->slot, i, word)) {
        accuse(court, of_packed(court, RULE_SPAN, spot, first),
               "a packed span of state %u and %u pages, of which %u were asked for", (unsigned)PACKED_STATE(word), n,
               PACKED_ASKED(word));
        return;
    }
    court->judged->spans += PACKED_STATE(word) == PACKED_LIVE;
    for (unsigned page = first; page < first + n; page++) {
        uint16_t *pages = &map->pages[page / PACKED_PAGES];
        shared |= (*pages >> page % PACKED_PAGES & 1) != 0;
        *pages |= (uint16_t)(1u << page % PACKED_PAGES);
    }
    if (shared)
        accuse(court, of_packed(court, RULE_SPAN, spot, first),
               "a packed span of %u pages, some of which are another one's too", n);
}

static void judge_packed_heads(struct court *court, uint32_t a, uint32_t superslab, struct packed_map *map)
{
    *map = (struct packed_map){0};
    for (struct spot spot = {a, superslab, 0}; spot.slot < SUPERSLAB_SLABS; spot.slot++)
        for (unsigned i = 0; i < PACKED_HEADS && CTL_STATE(ctl_of(slab_of(court, &spot))) == SLAB_PACKED; i++)
            judge_packed_head(court, &spot, i, map);
}

static void judge_packed_slot(struct court *court, const struct spot *spot, unsigned by_heads)
{
    const struct slab *slab = slab_of(court, spot);
    const unsigned pages = slab->packed_pages, used = CTL_USED(ctl_of(slab)), clean = pages & ~dirty_of(slab);
    if (pages != by_heads)
        accuse(court, of_slot(court, RULE_SPAN, spot, 0), "pages of packed spans: %#x by the slot, %#x by the spans",
               pages, by_heads);
    else if (pages == 0 || used != count_bits(pages))
        accuse(court, of_slot(court, RULE_SPAN, spot, 0),
               "pages of packed spans: %u by the slot's count, %u by its bits", used, count_bits(pages));
    if (clean != 0)
        accuse(court,
               of_packed(court, RULE_CLEAN_PAGE, spot, spot->slot * PACKED_PAGES + (unsigned)__builtin_ctz(clean)),
               "a packed span has a page that counts as given back");
}

/* The most free pages in a row of which one is in a slot with packed spans; 0: fewer than a packed span takes, or it is not HOT. */
static unsigned packed_row_of(const struct court *court, uint32_t a, uint32_t i)
{
    const struct superslab *ss = &court->image->arenas[a].superslabs[i];
    const uint32_t free_slots = ss->unused_slots | ss->empty_slots;
    unsigned longest = 0, n = 0;
    bool beside = false;
    for (unsigned page = 0; page < SUPERSLAB_SLABS * PACKED_PAGES && ss->tier == SS_TIER_HOT; page++) {
        const unsigned slot = page / PACKED_PAGES;
        const bool packed = ss->packed_slots >> slot & 1;
        const unsigned taken = packed ? image_slab(&court->image->arenas[a], i, slot)->packed_pages : 0xffff;
        const bool is_free = free_slots >> slot & 1 || (taken >> page % PACKED_PAGES & 1) == 0;
        n = is_free ? n + 1 : 0;
        beside = is_free && (beside || packed);
        longest = beside && n > longest ? n : longest;
    }
    return longest < PACKED_LEAST_PAGES ? 0 : longest;
}

/* What holds of any slot, packed or not. */
static void judge_packed_rest(struct court *court, const struct spot *spot, unsigned by_heads)
{
    const struct slab *slab = slab_of(court, spot);
    const unsigned state = CTL_STATE(ctl_of(slab));
    const bool listed = superslab_of(court, spot)->packed_slots >> spot->slot & 1;
    if (listed != (state == SLAB_PACKED && slab->packed_pages != 0xffff))
        accuse(court, of_slot(court, RULE_MASKS, spot, 0),
               "a slot that is %s; by the SuperSlab's mask it %s free pages beside packed spans",
               slab_state_name(state), listed ? "has" : "has no");
    const unsigned noted =
        superslab_of(court, spot)->packed_free[spot->slot / 4] >> spot->slot % 4 * PACKED_PAGES & 0xffff;
    const unsigned free = state == SLAB_PACKED ? ~slab->packed_pages & 0xffffu : 0;
    if (noted != free)
        accuse(court, of_slot(court, RULE_MASKS, spot, 0),
               "a slot that is %s, with %#x as its free pages beside packed spans; by the SuperSlab's map %#x",
               slab_state_name(state), free, noted);
    if (state != SLAB_PACKED && by_heads != 0)
        accuse(court, of_slot(court, RULE_SPAN, spot, 0), "a slot that is %s; a packed span has pages in it",
               slab_state_name(state));
}

/* ---- SuperSlabs ---------------------------------------------------------------------------------------------------- */

static void judge_free_slot(struct court *court, const struct spot *spot, unsigned state)
{
    if (mapped_class(court, spot) != CLASS_FOREIGN)
        accuse(court, of_slot(court, RULE_CLASS_MAP, spot, 0),
               "a slot without blocks; in the class map, which free() reads: %s",
               entry_name(mapped_class(court, spot), &(struct entry_text){""}));
    if (state == SLAB_UNUSED && dirty_of(slab_of(court, spot)) != 0)
        accuse(court, of_slot(court, RULE_CLEAN_PAGE, spot, 0), "an unused slot has pages that were handed out");
}

static void judge_slot(struct court *court, const struct spot *spot, unsigned packed_by_heads)
{
    const struct superslab *ss = superslab_of(court, spot);
    const unsigned state = CTL_STATE(ctl_of(slab_of(court, spot)));
    const bool unused = ss->unused_slots >> spot->slot & 1, empty = ss->empty_slots >> spot->slot & 1;
    if (unused != (state == SLAB_UNUSED) || empty != (state == SLAB_EMPTY))
        accuse(court, of_slot(court, RULE_MASKS, spot, 0), "a slot that is %s; by the SuperSlab's masks it is%s%s%s",
               slab_state_name(state), unused ? " unused" : "", empty ? " empty" : "",
               unused || empty ? "" : " in use");
    judge_packed_rest(court, spot, packed_by_heads);
    switch (state) {
    case SLAB_UNUSED:
    case SLAB_EMPTY:
        judge_free_slot(court, spot, state);
        break;
    case SLAB_OWNED:
    case SLAB_PARTIAL:
    case SLAB_FULL:
        judge_slab(court, spot);
        break;
    case SLAB_SPAN_HEAD:
    case SLAB_SPAN_BODY:
    case SLAB_HELD:
        judge_span_slot(court, spot);
        break;
    case SLAB_PACKED:
        judge_packed_slot(court, spot, packed_by_heads);
        judge_span_slot(court, spot);
        break;
    case SLAB_TAKEN:
    case SLAB_RETIRING:
        break; /* in somebody's hands */
    default:
        accuse(court, of_slot(court, RULE_SLAB, spot, 0), "a slot whose state, %u, is none", state);
    }
}

static void judge_pooled(struct court *court, uint32_t a, uint32_t i)
{
    const struct superslab *ss = &court->image->arenas[a].superslabs[i];
    struct packed_map packed;
    if (ss->tier != SS_TIER_HOT && ss->tier != SS_TIER_DRAINING)
        accuse(court, of_superslabs(court, RULE_SUPERSLAB, a, i, 1), "in the pool, at tier %u", ss->tier);
    if ((ss->unused_slots & ss->empty_slots) != 0)
        accuse(court, of_superslabs(court, RULE_MASKS, a, i, 1), "slots are both unused and empty");
    judge_packed_heads(court, a, i, &packed);
    for (unsigned slot = 0; slot < SUPERSLAB_SLABS; slot++)
        judge_slot(court, &(struct spot){a, i, slot}, packed.pages[slot]);
    if (ss->packed_row != packed_row_of(court, a, i))
        accuse(court, of_superslabs(court, RULE_LISTS, a, i, 1),
               "notes %" PRIu32 " free pages in a row beside packed spans; it has %u", ss->packed_row,
               packed_row_of(court, a, i));
}

static bool all_have_state(const struct image_arena *arena, uint32_t from, uint32_t n, unsigned state)
{
    for (uint32_t i = from; i < from + n; i++)
        if (arena->superslabs[i].state != state)
            return false;
    return true;
}

static bool all_have_class(const struct image_arena *arena, uint32_t from, uint32_t n, unsigned entry)
{
    for (size_t i = (size_t)from * SUPERSLAB_SLABS; i < (size_t)(from + n) * SUPERSLAB_SLABS; i++)
        if (arena->class_map[i] != entry)
            return false;
    return true;
}

/* A run that begins here. Returns how many SuperSlabs it has. */
static uint32_t judge_run(struct court *court, uint32_t a, uint32_t i)
{
    const struct image_arena *arena = &court->image->arenas[a];
    const struct superslab *ss = &arena->superslabs[i];
    const uint32_t n = ss->run_superslabs;
    court->judged->runs++;
    if (n == 0 || n > arena->high - i || ss->run_bytes > (size_t)n << SUPERSLAB_SHIFT ||
        ss->run_bytes <= (size_t)(n - 1) << SUPERSLAB_SHIFT) {
        accuse(court, of_row(court, RULE_RUN, a, i, 1), "a run of %" PRIu32 " SuperSlabs for %zu bytes", n,
               ss->run_bytes);
        return 1;
    }
    if (!all_have_state(arena, i + 1, n - 1, SUPERSLAB_RUN_BODY))
        accuse(court, of_row(court, RULE_RUN, a, i, n), "not all of this run's %" PRIu32 " SuperSlabs are part of it",
               n);
    if (!is_head(ctl_of(image_slab(arena, i, 0))))
        accuse(court, of_row(court, RULE_RUN, a, i, 1), "the first slab of a run is not its head");
    if (!all_have_class(arena, i, n, CLASS_SPAN * CLASS_OFFSET_SCALE))
        accuse(court, of_row(court, RULE_CLASS_MAP, a, i, n), "not all of a run is one in the class map");
    return n;
}

/* A row of the LRU cache that begins here: the first and the last tell its length. Returns that. */
static uint32_t judge_row(struct court *court, uint32_t a, uint32_t i)
{
    const struct image_arena *arena = &court->image->arenas[a];
    const uint32_t n = arena->superslabs[i].run_superslabs;
    if (n == 0 || n > arena->high - i || !all_have_state(arena, i, n, SUPERSLAB_CACHED) ||
        arena->superslabs[i + n - 1].run_superslabs != n) {
        const uint32_t n_looked_at = n == 0 || n > arena->high - i ? 1 : n;
        accuse(court, of_row(court, RULE_RUN, a, i, n_looked_at),
               "a row of %" PRIu32 " SuperSlabs in the LRU cache whose ends do not agree", n);
        return 1;
    }
    if (!all_have_class(arena, i, n, CLASS_FOREIGN))
        accuse(court, of_row(court, RULE_CLASS_MAP, a, i, n), "a cached SuperSlab is in the class map");
    return n;
}

/* What every record below `high` must say, whatever the SuperSlab is. */
static void judge_record(struct court *court, uint32_t a, uint32_t i)
{
    const struct image_arena *arena = &court->image->arenas[a];
    const struct superslab *ss = &arena->superslabs[i];
    const bool taken = arena->taken[i / 64] >> (i % 64) & 1;
    if (ss->state > SUPERSLAB_LEAVING)
        accuse(court, of_superslabs(court, RULE_SUPERSLAB, a, i, 1), "a SuperSlab whose state, %u, is none", ss->state);
    if (taken != (ss->state != SUPERSLAB_ABSENT))
        accuse(court, of_superslabs(court, RULE_TAKEN, a, i, 1), "%s; by the arena's bit it is %s",
               superslab_state_name(ss->state), taken ? "taken" : "free");
    if (ss->state != SUPERSLAB_ABSENT && (target_address(ss->arena) != arena->address || ss->index != i))
        accuse(court, of_superslabs(court, RULE_SUPERSLAB, a, i, 1), "the record does not say its own place");
    if (atomic_load_explicit(&ss->dirty_prefix_bytes, memory_order_relaxed) > SUPERSLAB_BYTES)
        accuse(court, of_superslabs(court, RULE_SUPERSLAB, a, i, 1), "more than all of it counts as handed out");
}

static void judge_arena(struct court *court, uint32_t a)
{
    const struct image_arena *arena = &court->image->arenas[a];
    uint32_t part_until = 0; /* SuperSlabs below belong to a run that was met */
    for (uint32_t i = 0; i < arena->high; i++) {
        const unsigned state = arena->superslabs[i].state;
        judge_record(court, a, i);
        court->judged->superslabs += state != SUPERSLAB_ABSENT;
        if (state == SUPERSLAB_POOLED)
            judge_pooled(court, a, i);
        else if (state == SUPERSLAB_RUN)
            part_until = i + judge_run(court, a, i);
        else if (state == SUPERSLAB_CACHED && i >= part_until)
            part_until = i + judge_row(court, a, i);
        else if (state == SUPERSLAB_RUN_BODY && i >= part_until)
            accuse(court, of_superslabs(court, RULE_RUN, a, i, 1), "part of a run that does not begin before it");
    }
}

/* ---- The pool's lists and counts ----------------------------------------------------------------------------------- */

/* What is in a list is judged by what was read together with the lists. */
static struct violation of_list(const struct court *court, uint32_t arena, uint32_t i)
{
    struct violation what = of_superslabs(court, RULE_LISTS, arena, i, 1);
    what.superslab = NO_SUPERSLAB;
    what.lists = true;
    return what;
}

static bool locate_superslab_record(const struct court *court, uint64_t address, uint32_t *arena, uint32_t *index)
{
    for (size_t a = 0; a < court->image->n_arenas; a++) {
        size_t i;
        if (locate_record(address, court->image->arenas[a].there.superslabs, sizeof(struct superslab),
                          court->image->arenas[a].high, &i)) {
            *arena = (uint32_t)a;
            *index = (uint32_t)i;
            return true;
        }
    }
    return false;
}

/* The kinds of lists: a SuperSlab is in one of BUCKETS and one of ROWS if it is HOT, or in DRAINING; and if it is HOT and has room for
 * packed spans, in one of PACKED. */
enum list_kind { LIST_BUCKET = 1, LIST_ROW = 2, LIST_DRAINING = 4, LIST_PACKED = 8 };

/* The list of PACKED for a row of free pages: as packed_pages.c has it. */
static unsigned packed_list_of(unsigned row)
{
    return (unsigned)min_size(row / PACKED_ROW_STEP, N_PACKED_LISTS - 1);
}

/* The neighbours of a SuperSlab in a list. */
static uint64_t listed_before(const struct superslab *ss, enum list_kind kind)
{
    return target_address(kind == LIST_PACKED ? ss->packed_previous
                          : kind == LIST_ROW  ? ss->row_previous
                                              : ss->previous);
}

static uint64_t listed_behind(const struct superslab *ss, enum list_kind kind)
{
    return target_address(kind == LIST_PACKED ? ss->packed_next : kind == LIST_ROW ? ss->row_next : ss->next);
}

static bool belongs_to(const struct superslab *ss, enum list_kind kind, unsigned number)
{
    if (ss->state != SUPERSLAB_POOLED)
        return false;
    if (kind == LIST_DRAINING)
        return ss->tier == SS_TIER_DRAINING;
    if (kind == LIST_PACKED)
        return ss->tier == SS_TIER_HOT && ss->packed_row != 0 && packed_list_of(ss->packed_row) == number;
    return ss->tier == SS_TIER_HOT && (kind == LIST_ROW ? ss->longest_row : ss->bucket) == number;
}

/* Follows a list of the pool's as long as it is one. */
static void follow_list(struct court *court, uint64_t address, enum list_kind kind, unsigned number)
{
    uint64_t previous = 0;
    while (address != 0) {
        uint32_t a, i;
        if (!locate_superslab_record(court, address, &a, &i)) {
            struct violation what = of_everything(RULE_LISTS); /* it may be newer than the copy */
            what.lists = true;
            what.address = address;
            accuse(court, what, "in a list of the pool's, and no SuperSlab's record");
            return;
        }
        const struct superslab *ss = &court->image->arenas[a].listed[i];
        const struct violation what = of_list(court, a, i);
        if ((court->listed[a][i] & kind) != 0) {
            accuse(court, what, "in the pool's lists twice");
            return; /* and from here on they may go in circles */
        }
        court->listed[a][i] |= kind;
        if (!belongs_to(ss, kind, number) || listed_before(ss, kind) != previous)
            accuse(court, what, "in a list of the pool's that is not its own, or between the wrong ones");
        previous = address;
        address = listed_behind(ss, kind);
    }
}

/* What a SuperSlab of the pool says of itself, and which lists it was found in. */
static void judge_listed(struct court *court, uint32_t a, uint32_t i)
{
    const struct superslab *ss = &court->image->arenas[a].listed[i];
    const unsigned n_free = count_bits(ss->unused_slots | ss->empty_slots), longest = pool_longest_row(ss);
    const unsigned in = court->listed[a][i] & ~(unsigned)LIST_PACKED;
    const bool in_packed = (court->listed[a][i] & LIST_PACKED) != 0;
    if (in != LIST_DRAINING && in != (LIST_BUCKET | LIST_ROW))
        accuse(court, of_list(court, a, i), "in %s of the pool's lists that it belongs to",
               in == 0 ? "none" : "one alone");
    if (in_packed != (ss->packed_row != 0))
        accuse(court, of_list(court, a, i),
               "in %s of the lists for packed spans; it notes %" PRIu32 " free pages in a row",
               in_packed ? "one" : "none", ss->packed_row);
    if (ss->bucket != n_free)
        accuse(court, of_list(court, a, i), "listed with %u free slots; it has %u", ss->bucket, n_free);
    else if (in != LIST_DRAINING && ss->longest_row != longest)
        accuse(court, of_list(court, a, i), "listed with %u free slots in a row; it has %u", ss->longest_row, longest);
}

static void judge_pool_counts(struct court *court, uint64_t n_active, uint64_t n_empty)
{
    const struct pool_state *pool = &court->image->pool;
    struct violation what = of_everything(RULE_POOL_COUNTS); /* likewise */
    what.lists = true;
    what.difference = (int64_t)((pool->n_active_slots - n_active) * 2 + (atomic_load(&pool->n_empty_slots) - n_empty));
    if (pool->n_active_slots != n_active)
        accuse(court, what, "slots in use: %zu by the pool's count, %" PRIu64 " by the SuperSlabs'",
               pool->n_active_slots, n_active);
    else if (atomic_load(&pool->n_empty_slots) != n_empty)
        accuse(court, what, "empty slots: %zu by the pool's count, %" PRIu64 " by the SuperSlabs'",
               atomic_load(&pool->n_empty_slots), n_empty);
}

static void judge_lists(struct court *court)
{
    const struct image *image = court->image;
    uint64_t n_active = 0, n_empty = 0;
    for (unsigned k = 0; k < N_BUCKETS; k++) {
        follow_list(court, target_address(image->pool.bucket[k]), LIST_BUCKET, k);
        follow_list(court, target_address(image->pool.row[k]), LIST_ROW, k);
    }
    for (unsigned k = 0; k < N_PACKED_LISTS; k++)
        follow_list(court, target_address(image->pool.packed[k]), LIST_PACKED, k);
    follow_list(court, target_address(image->pool.draining), LIST_DRAINING, 0);
    for (uint32_t a = 0; a < image->n_arenas; a++)
        for (uint32_t i = 0; i < image->arenas[a].high; i++) {
            const struct superslab *ss = &image->arenas[a].listed[i];
            if (ss->state != SUPERSLAB_POOLED)
                continue;
            n_active += SUPERSLAB_SLABS - count_bits(ss->unused_slots | ss->empty_slots);
            n_empty += count_bits(ss->empty_slots);
            judge_listed(court, a, i);
        }
    judge_pool_counts(court, n_active, n_empty);
}

static uint64_t dirty_bytes_of(const struct court *court, uint32_t a, uint32_t i)
{
    const struct image_arena *arena = &court->image->arenas[a];
    const struct superslab *ss = &arena->superslabs[i];
    uint64_t n_pages = 0;
    if (ss->state != SUPERSLAB_POOLED && ss->dirty_by_slab == 0)
        return atomic_load_explicit(&ss->dirty_prefix_bytes, memory_order_relaxed);
    for (unsigned slot = 0; slot < SUPERSLAB_SLABS; slot++)
        n_pages += count_bits(dirty_of(image_slab(arena, i, slot)));
    return n_pages * court->image->slab_page_bytes;
}

static void judge_committed(struct court *court)
{
    const struct image *image = court->image;
    const uint64_t committed = atomic_load(&image->counters.committed_bytes);
    uint64_t dirty = 0;
    for (uint32_t a = 0; a < image->n_arenas; a++)
        for (uint32_t i = 0; i < image->arenas[a].high; i++)
            dirty += dirty_bytes_of(court, a, i);
    if (committed == dirty)
        return;
    struct violation what = of_everything(RULE_COMMITTED);
    what.difference = (int64_t)(committed - dirty);
    accuse(court, what, "committed bytes: %" PRIu64 " by the counter, %" PRIu64 " by the records", committed, dirty);
}

/* ---- Threads ------------------------------------------------------------------------------------------------------- */

static void note_cached(struct court *court, size_t thread, unsigned class_id, uint64_t address)
{
    if (court->n_cached == court->cached_room) {
        const size_t room = court->cached_room == 0 ? 1024 : 2 * court->cached_room;
        struct cached *cached = reallocarray(court->cached, room, sizeof *cached);
        if (cached == NULL) {
            court->no_memory = true;
            return;
        }
        court->cached = cached;
        court->cached_room = room;
    }
    court->cached[court->n_cached++] = (struct cached){address, thread, class_id};
}

/* The copy of a magazine's array; NULL: it does not lie where a thread's arrays lie. */
static void *const *copied_array(const struct image_thread *thread, unsigned class_id, uint64_t base, size_t n_slots)
{
    const uint64_t distance = base - thread->address;
    const uint64_t first = offsetof(struct thread, first_array) + class_id * sizeof thread->record->first_array[0];
    if (distance == first && n_slots <= MAGAZINE_FIRST_CAPACITY)
        return thread->record->first_array[class_id];
    if (distance < THREAD_RECORD_BYTES || distance > THREAD_BYTES || distance % sizeof(void *) != 0 ||
        n_slots > (THREAD_BYTES - distance) / sizeof(void *))
        return NULL;
    return (void *const *)(const void *)((const char *)thread->record + distance);
}

static void judge_magazine(struct court *court, size_t number, unsigned class_id, uint64_t *capacity_bytes)
{
    const struct image_thread *thread = court->image->threads[number];
    const struct magazine *magazine = &thread->record->cache.magazine[class_id];
    const uint64_t base = target_address(magazine->base), top = target_address(magazine->top);
    const uint64_t limit = target_address(magazine->limit);
    if (base == 0 && top == 0 && limit == 0)
        return;
    const size_t n = (size_t)(top - base) / sizeof(void *), capacity = (size_t)(limit - base) / sizeof(void *);
    void *const *array = top < base || limit < top || (top - base) % sizeof(void *) != 0 ||
                                 (limit - base) % sizeof(void *) != 0 || capacity > magazine->max ||
                                 capacity > magazine->array_slots
                             ? NULL
                             : copied_array(thread, class_id, base, capacity);
    if (array == NULL) {
        accuse(court, of_thread(court, RULE_MAGAZINE, number, class_id),
               "thread %" PRId32 ": a magazine from %#" PRIx64 " to %#" PRIx64 ", filled to %#" PRIx64,
               thread->record->thread_id, base, limit, top);
        return;
    }
    *capacity_bytes += capacity * class_table[class_id].bytes;
    for (size_t i = 0; i < n; i++)
        note_cached(court, number, class_id, target_address(array[i]));
}

/* The blocks of the bit map word that a thread has taken out of its slab. */
static void judge_open_word(struct court *court, size_t number, unsigned class_id)
{
    const struct image_thread *thread = court->image->threads[number];
    const struct open_word *open = &thread->record->open_word[class_id];
    const struct class_info *class = &class_table[class_id];
    struct spot spot;
    if (open->free == 0)
        return;
    const bool right = open->len_bytes != 0 && open->word < class->n_words &&
                       locate_slab_record(court, target_address(open->slab), &spot) &&
                       target_address(open->memory) == superslab_address(arena_of(court, &spot), spot.superslab) +
                                                           spot.slot * SLAB_BYTES +
                                                           (uint64_t)open->word * 64 * class->bytes;
    if (!right) {
        accuse(court, of_thread(court, RULE_MAGAZINE, number, class_id),
               "thread %" PRId32 ": an open word that is none of a slab's", thread->record->thread_id);
        return;
    }
    for (uint64_t rest = open->free; rest != 0; rest &= rest - 1)
        note_cached(court, number, class_id,
                    target_address(open->memory) + (uint64_t)__builtin_ctzll(rest) * class->bytes);
}

static void judge_current(struct court *court, size_t number, unsigned class_id)
{
    const struct thread *record = court->image->threads[number]->record;
    const uint64_t address = target_address(record->current[class_id]);
    struct violation what = of_thread(court, RULE_CURRENT, number, class_id);
    struct spot spot;
    if (address == 0)
        return;
    if (!locate_slab_record(court, address, &spot)) {
        accuse(court, what, "thread %" PRId32 ": claims from %#" PRIx64 ", which is no slab's record",
               record->thread_id, address);
        return;
    }
    const slab_ctl ctl = ctl_of(slab_of(court, &spot));
    what.address = superslab_address(arena_of(court, &spot), spot.superslab) + spot.slot * SLAB_BYTES;
    what.arena = spot.arena;
    what.superslab = spot.superslab;
    what.n_superslabs = 1;
    if (CTL_STATE(ctl) != SLAB_OWNED || CTL_CLASS(ctl) != class_id)
        accuse(court, what, "thread %" PRId32 ": claims from a slab that is %s, of class %u", record->thread_id,
               slab_state_name(CTL_STATE(ctl)), CTL_CLASS(ctl));
}

/* The slots of one SuperSlab that a thread keeps. */
static void judge_held_slots(struct court *court, size_t number, const struct held_slots *slots)
{
    const int32_t thread_id = court->image->threads[number]->record->thread_id;
    struct violation what = of_thread(court, RULE_HELD, number, 0);
    struct spot spot;
    uint64_t n_pages = 0;
    if (!locate_superslab_record(court, target_address(slots->ss), &spot.arena, &spot.superslab)) {
        accuse(court, what, "thread %" PRId32 ": keeps slots of %#" PRIx64 ", which is no SuperSlab's record",
               thread_id, target_address(slots->ss));
        return;
    }
    what.arena = spot.arena;
    what.superslab = spot.superslab;
    what.n_superslabs = 1;
    court->kept[spot.arena][spot.superslab] |= slots->mask;
    for (uint32_t rest = slots->mask; rest != 0; rest &= rest - 1) {
        spot.slot = (unsigned)__builtin_ctz(rest);
        const unsigned state = CTL_STATE(ctl_of(slab_of(court, &spot)));
        n_pages += count_bits(dirty_of(slab_of(court, &spot)));
        what.address = superslab_address(arena_of(court, &spot), spot.superslab) + spot.slot * SLAB_BYTES;
        if (state != SLAB_HELD)
            accuse(court, what, "thread %" PRId32 ": keeps a slot that is %s", thread_id, slab_state_name(state));
    }
    if (n_pages == slots->dirty_pages)
        return;
    what.everything = true; /* the pages and their count are read one after the other */
    what.difference = (int64_t)(slots->dirty_pages - n_pages);
    accuse(court, what, "thread %" PRId32 ": keeps %" PRIu32 " pages by its count, %" PRIu64 " by the slots", thread_id,
           slots->dirty_pages, n_pages);
}

/* A packed span that a thread keeps. */
static void judge_held_packed(struct court *court, size_t number, const struct packed_block *kept)
{
    const int32_t thread_id = court->image->threads[number]->record->thread_id;
    struct violation what = of_thread(court, RULE_HELD, number, 0);
    struct spot spot;
    what.address = target_address(kept->block);
    if (!locate(court, what.address, &spot)) {
        accuse(court, what, "thread %" PRId32 ": keeps it as a packed span, and it is no address of the heap's",
               thread_id);
        return;
    }
    what.arena = spot.arena;
    what.superslab = spot.superslab;
    what.n_superslabs = 1;
    const struct slab *slab = slab_of(court, &spot);
    const unsigned page = (unsigned)(what.address % SLAB_BYTES / PACKED_PAGE_BYTES);
    const unsigned half = PACKED_PAGES / PACKED_HEADS, i = page / half;
    const uint32_t word = slab->packed[i].word;
    if (superslab_of(court, &spot)->state != SUPERSLAB_POOLED || CTL_STATE(ctl_of(slab)) != SLAB_PACKED ||
        PACKED_STATE(word) != PACKED_HELD || PACKED_PAGE(word) != page % half ||
        what.address % PACKED_PAGE_BYTES != 0) {
        accuse(court, what, "thread %" PRId32 ": keeps a packed span, and none that is held begins here", thread_id);
        return;
    }
    court->kept_packed[spot.arena][spot.superslab] |= (uint64_t)1 << (spot.slot * PACKED_HEADS + i);
    if (PACKED_LENGTH(word) != kept->pages)
        accuse(court, what, "thread %" PRId32 ": keeps a packed span of %" PRIu32 " pages; it has %u", thread_id,
               kept->pages, PACKED_LENGTH(word));
}

static void judge_span_cache(struct court *court, size_t number)
{
    const struct thread *record = court->image->threads[number]->record;
    const struct span_cache *cache = &record->span_cache;
    uint64_t n_slots = 0;
    for (unsigned i = 0; i < cache->n_places && i < SPAN_CACHE_PLACES; i++) {
        n_slots += count_bits(record->span_places[i].mask);
        judge_held_slots(court, number, &record->span_places[i]);
    }
    for (unsigned i = 0; i < cache->n_packed && i < SPAN_CACHE_PACKED; i++) {
        n_slots += ((uint64_t)record->packed_places[i].pages + PACKED_PAGES - 1) / PACKED_PAGES;
        judge_held_packed(court, number, &record->packed_places[i]);
    }
    if (cache->n_places > SPAN_CACHE_PLACES || cache->n_packed > SPAN_CACHE_PACKED || cache->held_slabs != n_slots)
        accuse(court, of_thread(court, RULE_HELD, number, 0),
               "thread %" PRId32 ": keeps %u slots by its count, %" PRIu64 " in %u places and %u packed spans",
               record->thread_id, cache->held_slabs, n_slots, cache->n_places, cache->n_packed);
}

static void judge_lost_packed(struct court *court, const struct spot *spot)
{
    const struct slab *slab = slab_of(court, spot);
    const uint64_t kept = court->kept_packed[spot->arena][spot->superslab] >> spot->slot * PACKED_HEADS;
    for (unsigned i = 0; i < PACKED_HEADS && CTL_STATE(ctl_of(slab)) == SLAB_PACKED; i++) {
        const uint32_t word = slab->packed[i].word;
        if (PACKED_STATE(word) != PACKED_HELD || (kept >> i & 1) != 0)
            continue;
        struct violation what = of_packed(court, RULE_HELD, spot, packed_first_page(spot->slot, i, word));
        what.everything = true;
        accuse(court, what, "a packed span that is held, but by no thread");
    }
}

/* Slots that no thread keeps, though they say so. One that is on its way to or from a thread is another one at the next look: how many
 * there are would be the same too often, where several threads are always at it. */
static void judge_lost_slots(struct court *court, uint32_t a, uint32_t i)
{
    if (court->image->arenas[a].superslabs[i].state != SUPERSLAB_POOLED)
        return;
    for (struct spot spot = {a, i, 0}; spot.slot < SUPERSLAB_SLABS; spot.slot++) {
        judge_lost_packed(court, &spot);
        if (CTL_STATE(ctl_of(slab_of(court, &spot))) != SLAB_HELD || (court->kept[a][i] >> spot.slot & 1) != 0)
            continue;
        struct violation what = of_slot(court, RULE_HELD, &spot, 0);
        what.everything = true; /* who keeps it is told by threads' records */
        accuse(court, what, "a slot that is held, but by no thread");
    }
}

static void judge_thread(struct court *court, size_t number)
{
    const struct image_thread *thread = court->image->threads[number];
    uint64_t capacity_bytes = 0;
    court->judged->threads += atomic_load_explicit(&thread->record->in_use, memory_order_relaxed) != 0;
    for (unsigned c = CLASS_FIRST; c < CLASS_END; c++) {
        judge_magazine(court, number, c, &capacity_bytes);
        judge_current(court, number, c);
        if (c < CLASS_FIRST + N_TINY_CLASSES)
            judge_open_word(court, number, c);
    }
    for (unsigned i = 0; thread->record->quarantine != NULL && i < QUARANTINE_SLOTS; i++)
        if (thread->quarantine->slot[i] != 0)
            note_cached(court, number,
                        (unsigned)(waiting_class_offset(thread->quarantine->slot[i]) / CLASS_OFFSET_SCALE),
                        target_address(waiting_block(thread->quarantine->slot[i])));
    judge_span_cache(court, number);
    if (capacity_bytes != thread->record->capacity_bytes)
        accuse(court, of_thread(court, RULE_MAGAZINE, number, 0),
               "thread %" PRId32 ": capacity of its magazines: %zu bytes by the count, %" PRIu64 " by themselves",
               thread->record->thread_id, thread->record->capacity_bytes, capacity_bytes);
}

/* ---- What threads cache -------------------------------------------------------------------------------------------- */

static void judge_cached_block(struct court *court, const struct cached *cached)
{
    const struct class_info *class = &class_table[cached->class_id];
    const int32_t thread_id = court->image->threads[cached->thread]->record->thread_id;
    struct violation what = of_thread(court, RULE_CACHED, cached->thread, cached->class_id);
    struct spot spot;
    what.address = cached->address;
    if (!locate(court, cached->address, &spot)) {
        accuse(court, what, "cached by thread %" PRId32 ", and no address of the heap's", thread_id);
        return;
    }
    what.arena = spot.arena;
    what.superslab = spot.superslab;
    what.n_superslabs = 1;
    const slab_ctl ctl = ctl_of(slab_of(court, &spot));
    const size_t offset = (size_t)(cached->address - arena_base(court, spot.arena)) % SLAB_BYTES;
    const unsigned index = (unsigned)(offset / class->bytes);
    if (superslab_of(court, &spot)->state != SUPERSLAB_POOLED || !slab_state_has_class(CTL_STATE(ctl)) ||
        CTL_CLASS(ctl) != cached->class_id || offset % class->bytes != 0 || index >= class->n_blocks) {
        accuse(court, what, "cached by thread %" PRId32 ", and no block of the class begins here", thread_id);
    } else if (is_free(bits_of(court, &spot, class), index)) {
        what.rule = RULE_CACHED_FREE;
        accuse(court, what, "cached by thread %" PRId32 ", and free by its slab's bits", thread_id);
    }
}

static int by_address(const void *a, const void *b)
{
    const struct cached *first = a, *second = b;
    if (first->address != second->address)
        return first->address > second->address ? 1 : -1;
    return (first->thread > second->thread) - (first->thread < second->thread);
}

static void judge_cached(struct court *court)
{
    court->judged->cached_blocks = court->n_cached;
    for (size_t i = 0; i < court->n_cached; i++)
        judge_cached_block(court, &court->cached[i]);
    if (court->n_cached != 0)
        qsort(court->cached, court->n_cached, sizeof *court->cached, by_address);
    for (size_t i = 1; i < court->n_cached; i++) {
        const struct cached *one = &court->cached[i - 1], *other = &court->cached[i];
        if (one->address != other->address)
            continue;
        struct violation what = of_thread(court, RULE_CACHED_TWICE, one->thread, one->class_id);
        what.address = one->address;
        what.other_thread = other->thread;
        accuse(court, what, "cached twice: by thread %" PRId32 " and thread %" PRId32,
               court->image->threads[one->thread]->record->thread_id,
               court->image->threads[other->thread]->record->thread_id);
    }
}

struct current {
    uint64_t slab;
    size_t thread;
    unsigned class_id;
};

static int by_slab(const void *a, const void *b)
{
    const uint64_t first = ((const struct current *)a)->slab, second = ((const struct current *)b)->slab;
    return (first > second) - (first < second);
}

/* No slab has two owners. */
static void judge_owners(struct court *court)
{
    const size_t n_threads = court->image->n_threads;
    struct current *current = n_threads == 0 ? NULL : calloc(n_threads, CLASS_END * sizeof *current);
    size_t n = 0;
    if (current == NULL) {
        court->no_memory |= n_threads != 0;
        return;
    }
    for (size_t i = 0; i < n_threads; i++)
        for (unsigned c = CLASS_FIRST; c < CLASS_END; c++)
            if (court->image->threads[i]->record->current[c] != NULL)
                current[n++] = (struct current){target_address(court->image->threads[i]->record->current[c]), i, c};
    qsort(current, n, sizeof *current, by_slab);
    for (size_t i = 1; i < n; i++) {
        if (current[i - 1].slab != current[i].slab)
            continue;
        struct violation what = of_thread(court, RULE_CURRENT, current[i - 1].thread, current[i - 1].class_id);
        what.other_thread = current[i].thread;
        what.address = current[i].slab;
        accuse(court, what, "the slab of this record is claimed from by thread %" PRId32 " and thread %" PRId32,
               court->image->threads[current[i - 1].thread]->record->thread_id,
               court->image->threads[current[i].thread]->record->thread_id);
    }
    free(current);
}

/* ---- All of it ----------------------------------------------------------------------------------------------------- */

static bool prepare(struct court *court)
{
    const struct image *image = court->image;
    const size_t n_arenas = max_size(image->n_arenas, 1);
    court->listed = calloc(n_arenas, sizeof *court->listed);
    court->kept = calloc(n_arenas, sizeof *court->kept);
    court->kept_packed = calloc(n_arenas, sizeof *court->kept_packed);
    if (court->listed == NULL || court->kept == NULL || court->kept_packed == NULL || !sort_arenas(court))
        return false;
    for (size_t a = 0; a < image->n_arenas; a++) {
        const size_t n = max_size(image->arenas[a].high, 1);
        court->listed[a] = calloc(n, sizeof *court->listed[a]);
        court->kept[a] = calloc(n, sizeof *court->kept[a]);
        court->kept_packed[a] = calloc(n, sizeof *court->kept_packed[a]);
        if (court->listed[a] == NULL || court->kept[a] == NULL || court->kept_packed[a] == NULL)
            return false;
    }
    return true;
}

static void clean_up(struct court *court)
{
    for (size_t a = 0; court->listed != NULL && a < court->image->n_arenas; a++)
        free(court->listed[a]);
    for (size_t a = 0; court->kept != NULL && a < court->image->n_arenas; a++)
        free(court->kept[a]);
    for (size_t a = 0; court->kept_packed != NULL && a < court->image->n_arenas; a++)
        free(court->kept_packed[a]);
    free((void *)court->listed);
    free((void *)court->kept);
    free((void *)court->kept_packed);
    free(court->by_base);
    free(court->cached);
}

bool judge(const struct image *image, struct violations *out, struct judged *judged)
{
    struct court court = {.image = image, .found = out, .judged = judged};
    *out = (struct violations){0};
    *judged = (struct judged){0};
    bool judged_all = prepare(&court);
    if (judged_all) {
        if (image->n_torn != 0)
            accuse(&court, of_everything(RULE_UNREADABLE), "%" PRIu32 " records, or lists of them, cannot be read",
                   image->n_torn);
        for (uint32_t a = 0; a < image->n_arenas; a++)
            judge_arena(&court, a);
        if (!image->lists_torn)
            judge_lists(&court);
        judge_committed(&court);
        for (size_t i = 0; i < image->n_threads; i++)
            judge_thread(&court, i);
        for (uint32_t a = 0; a < image->n_arenas; a++)
            for (uint32_t i = 0; i < image->arenas[a].high; i++)
                judge_lost_slots(&court, a, i);
        judge_owners(&court);
        judge_cached(&court);
        judged_all = !court.no_memory;
    }
    clean_up(&court);
    return judged_all;
}

void violations_free(struct violations *violations)
{
    free(violations->at);
    *violations = (struct violations){0};
}

static int by_identity(const void *a, const void *b)
{
    const struct violation *one = a, *other = b;
    if (one->rule != other->rule)
        return one->rule < other->rule ? -1 : 1;
    if (one->address != other->address)
        return one->address < other->address ? -1 : 1;
    if (one->class_bytes != other->class_bytes)
        return one->class_bytes < other->class_bytes ? -1 : 1;
    return (one->difference > other->difference) - (one->difference < other->difference);
}

static void sort_violations(struct violations *violations)
{
    if (violations->n != 0)
        qsort(violations->at, violations->n, sizeof *violations->at, by_identity);
}

void violations_intersect(struct violations *found, struct violations *again)
{
    size_t n = 0, other = 0;
    sort_violations(found);
    sort_violations(again);
    for (size_t i = 0; i < found->n; i++) {
        while (other < again->n && by_identity(&again->at[other], &found->at[i]) < 0)
            other++;
        if (other < again->n && by_identity(&again->at[other], &found->at[i]) == 0)
            found->at[n++] = again->at[other];
    }
    found->n = n;
    found->n_left_out = again->n_left_out;
}
