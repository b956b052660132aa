/* arena.c - see arena.h.
 * Owns     the list of arenas; each arena's `taken` bits, frontier and committed metadata.
 * Called by  pool/ (takes and puts SuperSlabs), front/thread.c and harden.c (at start), api/override_limit.c, statistics.
 * Calls    os.h, registry.h, metapool.h
 * Threads  takes and puts under the pool lock; the list of arenas is read by any thread.
 * I1  bit i of taken is set  <=>  SuperSlab i is not SUPERSLAB_ABSENT.
 * I2  records of every SuperSlab below the frontier are committed; none above it is touched.
 *  edge  release                    acquire             what becomes visible
 *  A1    a new arena is linked   -> arena_next          its constant fields
 */
#include "meta/arena.h"

#include "meta/metapool.h"
#include "meta/registry.h"
#include "os/os.h"

#define PRIMARY_MIN_BYTES (16 * GIB)
#define PRIMARY_MAX_BYTES (4096 * GIB)
/* Address space per physical memory: room for fragmentation and for programs that overcommit. */
#define PRIMARY_PER_PHYSICAL 4
/* Under an address-space limit an arena is a part of it, so that the program's own mappings find room too. */
#define LIMITED_FIRST_PART 4
#define LIMITED_NEXT_PART 16
/* One for a single large block is longer than that by so small a part, for the next may be longer: else each would have an arena of its own. */
#define LIMITED_SPARE_PART 4
#define RECORDS_PART 48 /* its records take less than so small a part of an arena */

struct arena *_Atomic arena_list;
static struct arena *last_arena; /* Pool lock */
static size_t configured_len_bytes;
static bool hardened, at_random, guarded; /* see arena_harden */

struct arena *arena_first(void)
{
    return atomic_load_explicit(&arena_list, memory_order_acquire); /* A1 */
}

void arena_set_len_bytes(size_t len_bytes)
{
    configured_len_bytes = len_bytes;
}

void arena_harden(bool random, bool guard)
{
    hardened = true;
    at_random = random;
    guarded = guard;
    if (guard)
        metapool_guard();
}

static size_t preferred_len_bytes(size_t need_bytes)
{
    size_t limit_bytes = os_address_limit_bytes();
    if (configured_len_bytes != 0 && configured_len_bytes < limit_bytes)
        return configured_len_bytes;
    if (limit_bytes != SIZE_MAX) {
        size_t len_bytes = limit_bytes / (last_arena == NULL ? LIMITED_FIRST_PART : LIMITED_NEXT_PART);
        /* What does not fit once more would be lost. */
        return len_bytes / 4 < need_bytes ? need_bytes + need_bytes / LIMITED_SPARE_PART : len_bytes;
    }
    size_t wanted_bytes = PRIMARY_MIN_BYTES;
    while (wanted_bytes < PRIMARY_MAX_BYTES && wanted_bytes < os_physical_bytes() * PRIMARY_PER_PHYSICAL)
        wanted_bytes *= 2;
    return wanted_bytes;
}

/* Commits the pages that hold [start, start + len_bytes). */
static bool commit_around(void *start, size_t len_bytes)
{
    size_t page_bytes = os_page_bytes();
    char *from = (char *)((uintptr_t)start & ~(page_bytes - 1));
    char *to = (char *)round_up((uintptr_t)start + len_bytes, page_bytes);
    return os_commit(from, (size_t)(to - from));
}

/* What is only reserved of the memory and of the two largest arrays of records, as far as it lies beyond the first chunk, is in no core
 * file: gdb's gcore would write zeros for all of it. */
static void hide_rest(const struct arena *arena, size_t shown_bytes)
{
    size_t shown_slabs = (size_t)CHUNK_SUPERSLABS * SUPERSLAB_SLABS;
    size_t n_slabs = (size_t)arena->n_superslabs * SUPERSLAB_SLABS;
    if (shown_bytes < arena->len_bytes)
        os_set_in_cores(arena->base + shown_bytes, arena->len_bytes - shown_bytes, false);
    if (n_slabs <= shown_slabs)
        return;
    os_set_in_cores((void *)&arena->slabs[shown_slabs], (n_slabs - shown_slabs) * sizeof(struct slab), false);
    os_set_in_cores((void *)&arena->large_bits[shown_slabs * SLAB_MAX_WORDS],
                    (n_slabs - shown_slabs) * SLAB_MAX_WORDS * sizeof(uint64_t), false);
}

static void show_chunk(const struct arena *arena, size_t slab, size_t n_slabs)
{
    os_set_in_cores((void *)&arena->slabs[slab], n_slabs * sizeof(struct slab), true);
    os_set_in_cores((void *)&arena->large_bits[slab * SLAB_MAX_WORDS], n_slabs * SLAB_MAX_WORDS * sizeof(uint64_t),
                    true);
}

/* Cuts len_bytes from the metadata mapping, on a multiple of 64 KiB so that parts never share a page. */
static size_t cut(size_t *end, size_t len_bytes)
{
    size_t start = *end;
    *end = round_up(start + len_bytes, SLAB_BYTES);
    return start;
}

/* Address space for a class map, which is readable as a whole, with inaccessible space on both sides if that is wanted. */
static void *reserve_class_map(size_t len_bytes)
{
    if (!guarded)
        return os_reserve_readable(len_bytes);
    char *space = os_reserve_readable(len_bytes + 2 * SLAB_BYTES);
    if (space == NULL)
        return NULL;
    os_forbid(space, SLAB_BYTES); /* Refused, either: it cannot be written to. */
    os_forbid(space + SLAB_BYTES + len_bytes, SLAB_BYTES);
    return space + SLAB_BYTES;
}

static void unreserve_class_map(char *map, size_t len_bytes)
{
    os_unreserve(guarded ? map - SLAB_BYTES : map, len_bytes + (guarded ? 2 * SLAB_BYTES : 0));
}

/* What was never used of an array of records, but for inaccessible space on both sides of it if that is wanted: the program's own mappings
 * will lie there. */
static void unreserve_tail(void *from, void *end)
{
    size_t kept_bytes = guarded ? SLAB_BYTES : 0;
    uintptr_t first = round_up((uintptr_t)from, os_page_bytes()) + kept_bytes, last = (uintptr_t)end - kept_bytes;
    if (first < last)
        os_unreserve((void *)first, last - first); /* NOLINT(performance-no-int-to-ptr) */
}

/* Where the records of an arena begin in their mapping; and how much of it is committed at once. */
struct places {
    size_t taken, set2, set1, set0, superslabs, slabs, large_bits, head_bytes, end;
};

static struct places lay_out(size_t n_superslabs)
{
    struct places at = {.taken = sizeof(struct arena)};
    size_t n_slabs = n_superslabs * SUPERSLAB_SLABS;
    size_t n_rows0 = (n_slabs + 63) / 64, n_rows1 = (n_rows0 + 63) / 64, n_rows2 = (n_rows1 + 63) / 64;
    at.set2 = round_up(at.taken + (n_superslabs + 63) / 64 * sizeof(uint64_t), CACHE_LINE_BYTES);
    at.set1 = at.set2 + n_rows2 * sizeof(struct class_set_row);
    at.head_bytes = at.set1 + n_rows1 * sizeof(struct class_set_row);
    cut(&at.end, at.head_bytes);
    at.set0 = cut(&at.end, n_rows0 * sizeof(struct class_set_row));
    at.superslabs = cut(&at.end, n_superslabs * sizeof(struct superslab));
    at.slabs = cut(&at.end, n_slabs * sizeof(struct slab));
    at.large_bits = cut(&at.end, n_slabs * SLAB_MAX_WORDS * sizeof(uint64_t));
    return at;
}

/* Writes the arena's own record, the first of them. */
static struct arena *describe(char *base, size_t len_bytes, char *metadata, const struct places *at, void *class_map)
{
    struct arena *arena = (struct arena *)(void *)metadata;
    arena->base = base;
    arena->len_bytes = len_bytes;
    arena->n_superslabs = (uint32_t)(len_bytes >> SUPERSLAB_SHIFT);
    arena->taken = (uint64_t *)(void *)(metadata + at->taken);
    arena->set0 = (struct class_set_row *)(void *)(metadata + at->set0);
    arena->set1 = (struct class_set_row *)(void *)(metadata + at->set1);
    arena->set2 = (struct class_set_row *)(void *)(metadata + at->set2);
    arena->superslabs = (struct superslab *)(void *)(metadata + at->superslabs);
    arena->slabs = (struct slab *)(void *)(metadata + at->slabs);
    arena->large_bits = (_Atomic uint64_t *)(void *)(metadata + at->large_bits);
    arena->class_map = class_map;
    arena->metadata = metadata;
    arena->metadata_bytes = at->end;
    arena->metadata_committed_bytes = at->head_bytes;
    return arena;
}

/* From here on everybody finds it. */
static void link_arena(struct arena *arena)
{
    if (last_arena == NULL) {
        registry_set_first(arena, !hardened);
        atomic_store_explicit(&arena_list, arena, memory_order_release); /* A1 */
    } else {
        atomic_store_explicit(&last_arena->next, arena, memory_order_release); /* A1 */
    }
    last_arena = arena;
}

/* need_bytes of it are committed at once: a request that the system will not serve shall not leave an arena behind. */
static struct arena *arena_create(size_t len_bytes, size_t alignment, size_t need_bytes)
{
    const struct places at = lay_out(len_bytes >> SUPERSLAB_SHIFT);
    size_t map_bytes = round_up(len_bytes >> SLAB_SHIFT, SLAB_BYTES);
    char *base = (at_random ? os_reserve_anywhere : os_reserve)(len_bytes, max_size(alignment, SUPERSLAB_BYTES));
    char *metadata = base == NULL || !os_commit(base, need_bytes) ? NULL : metapool_reserve(at.end);
    void *class_map = metadata == NULL ? NULL : reserve_class_map(map_bytes);
    if (class_map == NULL || !commit_around(metadata, at.head_bytes)) {
        if (class_map != NULL)
            unreserve_class_map(class_map, map_bytes);
        if (metadata != NULL)
            metapool_unreserve(metadata, at.end);
        if (base != NULL)
            os_unreserve(base, len_bytes);
        return NULL;
    }
    struct arena *arena = describe(base, len_bytes, metadata, &at, class_map);
    hide_rest(arena, need_bytes);
    os_advise_huge(base, len_bytes, false); /* Where huge pages pay is decided for each SuperSlab. */
    /* Nor do records get one at the first touch where the system gives them to all. */
    os_advise_huge(metadata, at.end, false);
    os_advise_huge(class_map, map_bytes, false);
    link_arena(arena);
    return arena;
}

/* Gives up all but the first n SuperSlabs, none of the others ever having been in use. First of all nobody finds any address there any more:
 * what can be mapped there from now on is another's. */
static void give_up_from(struct arena *arena, uint32_t n)
{
    char *end = arena->base + arena->len_bytes;
    size_t n_before = (size_t)arena->n_superslabs * SUPERSLAB_SLABS, n_slabs = (size_t)n * SUPERSLAB_SLABS;
    arena->n_superslabs = n;
    arena->len_bytes = (size_t)n << SUPERSLAB_SHIFT;
    if (arena == registry_first.arena)
        registry_set_first(arena, !hardened);
    if (arena->frontier > n)
        arena->frontier = n; /* metadata_committed_bytes tells of the whole chunk still */
    unreserve_tail(arena->base + arena->len_bytes, end);
    unreserve_tail(&arena->set0[(n_slabs + 63) / 64], &arena->set0[(n_before + 63) / 64]);
    unreserve_tail(&arena->superslabs[n], &arena->superslabs[n_before / SUPERSLAB_SLABS]);
    unreserve_tail(&arena->slabs[n_slabs], &arena->slabs[n_before]);
    /* To the end of its last page, not of all that was reserved: that page is the last one kept where this is not the first time. */
    unreserve_tail((void *)&arena->class_map[n_slabs], (void *)&arena->class_map[round_up(n_before, os_page_bytes())]);
    unreserve_tail((void *)&arena->large_bits[n_slabs * SLAB_MAX_WORDS],
                   (void *)&arena->large_bits[n_before * SLAB_MAX_WORDS]);
}

void arena_fit_limit(size_t limit_bytes)
{
    size_t part = LIMITED_FIRST_PART;
    for (struct arena *arena = arena_first(); arena != NULL; arena = arena_next(arena), part = LIMITED_NEXT_PART) {
        /* The registry's table knows all of a later arena below its frontier. */
        uint32_t n =
            arena == registry_first.arena ? atomic_load_explicit(&arena->high, memory_order_relaxed) : arena->frontier;
        size_t most = max_size(limit_bytes / part >> SUPERSLAB_SHIFT, max_size(n, 1));
        if (most < arena->n_superslabs)
            give_up_from(arena, (uint32_t)most);
    }
}

/* Makes an arena of the preferred size, or of halves of it until the system agrees, but of at least need_bytes. */
static struct arena *arena_create_for(size_t need_bytes, size_t alignment)
{
    static bool exhausted; /* not even the smallest could be made the last time: no halving, just one try. Pool lock */
    size_t len_bytes = need_bytes;
    if (!exhausted || last_arena == NULL)
        len_bytes = max_size(preferred_len_bytes(need_bytes) & ~(SUPERSLAB_BYTES - 1), need_bytes);
    for (;;) {
        struct arena *arena = arena_create(len_bytes, alignment, need_bytes);
        exhausted = arena == NULL && len_bytes == SUPERSLAB_BYTES;
        if (arena != NULL || len_bytes == need_bytes)
            return arena;
        len_bytes = max_size(len_bytes / 2 & ~(SUPERSLAB_BYTES - 1), need_bytes);
    }
}

/* The first arena needs no entry: its addresses are found by subtraction. */
static bool enter_in_registry(struct arena *arena, uint32_t first, uint32_t n)
{
    return arena == registry_first.arena || registry_enter(arena->base + ((size_t)first << SUPERSLAB_SHIFT), n, arena);
}

/* Commits the records of SuperSlabs up to `until`, a chunk at a time. */
static bool extend_frontier(struct arena *arena, uint32_t until)
{
    while (arena->frontier < until) {
        uint32_t first = arena->frontier;
        uint32_t n = arena->n_superslabs - first < CHUNK_SUPERSLABS ? arena->n_superslabs - first : CHUNK_SUPERSLABS;
        size_t slab = (size_t)first * SUPERSLAB_SLABS, n_slabs = (size_t)n * SUPERSLAB_SLABS;
        if (!commit_around(&arena->superslabs[first], n * sizeof(struct superslab)) ||
            !commit_around(&arena->slabs[slab], n_slabs * sizeof(struct slab)) ||
            !commit_around(&arena->large_bits[slab * SLAB_MAX_WORDS], n_slabs * SLAB_MAX_WORDS * sizeof(uint64_t)) ||
            !commit_around(&arena->set0[slab / 64], (n_slabs + 63) / 64 * sizeof(struct class_set_row)) ||
            !commit_around((void *)&arena->class_map[slab], n_slabs) || !enter_in_registry(arena, first, n))
            return false; /* What was committed stays so, and is committed again without harm next time. */
        if (first != 0)
            show_chunk(arena, slab, n_slabs);
        atomic_fetch_add_explicit(&arena->metadata_committed_bytes,
                                  n * sizeof(struct superslab) +
                                      n_slabs * (sizeof(struct slab) + SLAB_MAX_WORDS * 8 + 9),
                                  memory_order_relaxed); /* a statistic; 9: the class map and a slab's share of set0 */
        arena->frontier = first + n;
    }
    return true;
}

static bool is_taken(const struct arena *arena, uint32_t i)
{
    return arena->taken[i / 64] >> (i % 64) & 1;
}

/* Whether none of 64 SuperSlabs is the first of n free ones in a row; where n is more than 64, of so many. (Every other of 16,000 free, and
 * two wanted: 22 instructions for each without.) */
static bool has_no_row(const struct arena *arena, uint32_t word, uint32_t n)
{
    __extension__ typedef unsigned __int128 two_words;
    bool more = (word + 1) * 64 < arena->n_superslabs;
    two_words first = (two_words)(more ? ~arena->taken[word + 1] : 0) << 64 | ~arena->taken[word];
    for (uint32_t len = 1, most = n < 64 ? n : 64, step; len < most; len += step) {
        step = len < most - len ? len : most - len;
        first &= first >> step; /* of len + step free ones */
    }
    return (uint64_t)first == 0;
}

/* The first of n free SuperSlabs in a row on a multiple of alignment; n_superslabs when there is none. */
static uint32_t find_free(struct arena *arena, uint32_t n, size_t alignment)
{
    uint32_t end = arena->n_superslabs, i = arena->first_free_hint;
    while (i < end && end - i >= n) {
        if (i % 64 == 0 && has_no_row(arena, i / 64, n)) {
            i += 64;
            continue;
        }
        if (is_taken(arena, i) || ((uintptr_t)(arena->base + ((size_t)i << SUPERSLAB_SHIFT)) & (alignment - 1)) != 0) {
            i++;
            continue;
        }
        uint32_t run = 1;
        while (run < n && !is_taken(arena, i + run))
            run++;
        if (run == n)
            return i;
        i += run;
    }
    return end;
}

static void mark_taken(struct arena *arena, uint32_t first, uint32_t n)
{
    for (uint32_t i = first; i < first + n; i++) {
        arena->taken[i / 64] |= (uint64_t)1 << (i % 64);
        if (arena->superslabs[i].arena == NULL) { /* Others may be reading them: they never change once they are set. */
            arena->superslabs[i].arena = arena;
            arena->superslabs[i].index = i;
        }
        arena->superslabs[i].state = SUPERSLAB_MAPPING;
    }
    if (first == arena->first_free_hint)
        arena->first_free_hint = first + n;
    if (first + n > atomic_load_explicit(&arena->high, memory_order_relaxed)) /* relaxed: written under our lock */
        atomic_store_explicit(&arena->high, first + n, memory_order_release);
}

/* Makes n free SuperSlabs from number i on writable, memory first: of what the system will not serve, no record is
 * made. */
static bool commit_superslabs(struct arena *arena, uint32_t i, uint32_t n)
{
    bool all = i + n <= arena->frontier;
    for (uint32_t k = i; all && k < i + n; k++)
        all = arena->superslabs[k].committed;
    if (all)
        return true;
    char *memory = arena->base + ((size_t)i << SUPERSLAB_SHIFT);
    if (!os_commit(memory, (size_t)n << SUPERSLAB_SHIFT) || !extend_frontier(arena, i + n))
        return false; /* Memory that stays writable unused is charged, no more; the next request finds it here. */
    os_set_in_cores(memory, (size_t)n << SUPERSLAB_SHIFT, true);
    for (uint32_t k = i; k < i + n; k++)
        arena->superslabs[k].committed = 1;
    return true;
}

/* *had_room tells whether only the system's refusal stood in the way. */
static struct superslab *take_from(struct arena *arena, uint32_t n, size_t alignment, bool *had_room)
{
    uint32_t i = find_free(arena, n, alignment);
    *had_room |= i != arena->n_superslabs;
    if (i == arena->n_superslabs || !commit_superslabs(arena, i, n))
        return NULL;
    mark_taken(arena, i, n);
    return &arena->superslabs[i];
}

static bool is_unused(const struct arena *arena)
{
    bool unused = arena != registry_first.arena && arena->n_superslabs != 0;
    for (uint32_t i = 0; unused && i < (arena->n_superslabs + 63) / 64; i++)
        unused = arena->taken[i] == 0;
    /* What the system has refused to take back of it goes on counting, and is tried again (release_refused). */
    uint32_t high = atomic_load_explicit(&arena->high, memory_order_relaxed); /* relaxed: written under our lock */
    for (uint32_t i = 0; unused && i < high; i++)
        unused = arena->superslabs[i].dirty_prefix_bytes == 0;
    return unused;
}

/* Whether an arena of so many bytes would find room where these are and beside them. Their records stay, so nothing is given back in vain:
 * a program that asks for too much, and takes less then, again and again, would come to the end of its addresses. */
static bool would_help(size_t need_bytes)
{
    size_t unused_bytes = 0, wanted_bytes = need_bytes + need_bytes / RECORDS_PART;
    for (struct arena *arena = arena_first(); arena != NULL; arena = arena_next(arena))
        if (is_unused(arena))
            unused_bytes += arena->len_bytes;
    if (unused_bytes == 0 || unused_bytes >= wanted_bytes)
        return unused_bytes != 0;
    void *probe = os_reserve(wanted_bytes - unused_bytes, SLAB_BYTES);
    if (probe != NULL)
        os_unreserve(probe, wanted_bytes - unused_bytes);
    return probe != NULL;
}

/* Gives back the addresses of all arenas but the first of which nothing is in use or cached: they may stand in the way of a longer one.
 * Their records stay, for somebody may be looking at them. (Under a limit of 512 MiB python3 could not have a buffer of 20 MiB, then of 25,
 * and so on to more than 130.) */
static bool give_back_unused(size_t need_bytes)
{
    bool any = false;
    if (!would_help(need_bytes))
        return false;
    for (struct arena *arena = arena_first(); arena != NULL; arena = arena_next(arena)) {
        size_t len_bytes = arena->len_bytes;
        if (!is_unused(arena))
            continue;
        /* First: in the child of a fork nothing is taken from what the registry may not know any more. */
        arena->n_superslabs = 0;
        if (!registry_enter(arena->base, arena->frontier, NULL))
            continue;
        arena->len_bytes = 0; /* The frontier stays: it tells how many records there are. */
        atomic_store_explicit(&arena->high, 0, memory_order_relaxed); /* relaxed: the records of those below it stay */
        os_unreserve(arena->base, len_bytes);
        any = true;
    }
    return any;
}

struct superslab *arena_take(uint32_t n, size_t alignment)
{
    bool had_room = false;
    for (struct arena *arena = arena_first(); arena != NULL; arena = arena_next(arena)) {
        struct superslab *ss = take_from(arena, n, alignment, &had_room);
        if (ss != NULL)
            return ss;
    }
    struct arena *arena = had_room ? NULL : arena_create_for((size_t)n << SUPERSLAB_SHIFT, alignment);
    if (arena == NULL && !had_room && give_back_unused(((size_t)n << SUPERSLAB_SHIFT) + alignment))
        arena = arena_create_for((size_t)n << SUPERSLAB_SHIFT, alignment);
    return arena == NULL ? NULL : take_from(arena, n, alignment, &had_room);
}

bool arena_is_free(const struct arena *arena, uint32_t first, uint32_t n)
{
    if (first > arena->n_superslabs || arena->n_superslabs - first < n)
        return false;
    for (uint32_t i = first; i < first + n; i++)
        if (is_taken(arena, i))
            return false;
    return true;
}

bool arena_take_at(struct arena *arena, uint32_t first, uint32_t n)
{
    if (!arena_is_free(arena, first, n) || !commit_superslabs(arena, first, n))
        return false;
    mark_taken(arena, first, n);
    return true;
}

void arena_purge_records(struct superslab *ss, uint32_t n)
{
    const size_t bits_bytes = SUPERSLAB_SLABS * SLAB_MAX_WORDS * sizeof(uint64_t);
    const size_t slabs_bytes = SUPERSLAB_SLABS * sizeof(struct slab);
    for (uint32_t i = 0; i < n; i++)
        if (ss[i].has_large_bits && os_page_bytes() <= bits_bytes) {
            os_purge((void *)&ss->arena->large_bits[superslab_slab_index(&ss[i], 0) * SLAB_MAX_WORDS], bits_bytes);
            ss[i].has_large_bits = 0;
        }
    if (os_page_bytes() <= slabs_bytes)
        os_purge(superslab_slab(ss, 0), n * slabs_bytes);
}

struct superslab *arena_superslab_of(const struct slab *slab)
{
    /* relaxed: it is what it always was, or not there */
    struct superslab *ss = atomic_load_explicit(&slab->superslab, memory_order_relaxed);
    if (likely(ss != NULL))
        return ss;
    struct arena *arena = arena_first(); /* Below the frontier: of one given back the records are still there. */
    while (slab < arena->slabs || slab >= arena->slabs + (size_t)arena->frontier * SUPERSLAB_SLABS)
        arena = arena_next(arena);
    return &arena->superslabs[slab_index(arena, slab) / SUPERSLAB_SLABS];
}

void arena_put(struct superslab *ss, uint32_t n)
{
    struct arena *arena = ss->arena;
    for (uint32_t i = ss->index; i < ss->index + n; i++) {
        arena->superslabs[i].state = SUPERSLAB_ABSENT;
        arena->taken[i / 64] &= ~((uint64_t)1 << (i % 64));
    }
    if (ss->index < arena->first_free_hint)
        arena->first_free_hint = ss->index;
}
