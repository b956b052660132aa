/* guarded.c - see guarded.h.
 * Owns     what is known of large blocks (struct large, in the records of the slab in which they begin).
 * Called by  harden.c     Calls  guarded_wait.c; front.h (behind the doors), large.h, os.h
 * Threads  any. What is known of a block belongs to who holds it; freeing is one compare-exchange of its state.
 */
#include "front/guarded_block.h"

#include "front/large_block.h"
#include "front/locate.h"
#include "front/pressure.h"
#include "front/wipe.h"
#include "meta/arena.h"
#include "meta/registry.h"
#include "os/os.h"
#include "pool/large.h"
#include "pool/span.h"
#include "service/budget.h"
#include "service/report.h"
#include "superslab/slab.h"

#include <errno.h>
#include <string.h>

/* So many live blocks may have inaccessible pages around them, those without a byte fewer. Each needs four of the mappings of which a
 * process may have 65,530, and which threads' stacks and the program's own files need too; or two, where the blocks beside it have them
 * too, as all have with SECURE_PAGES. Further blocks are of a class, or lie beside each other. */
#define MAX_GUARDED 8192
#define MAX_GUARDED_PAGES 16384
#define MAX_GUARDED_EMPTY 4096
static _Atomic size_t n_guarded;

static size_t max_guarded(void)
{
    return checks(SECURE_PAGES) ? MAX_GUARDED_PAGES : MAX_GUARDED;
}

/* Each of them costs some four system calls and the page faults of a block that was never used. A program that asks for many, one after
 * the other, gets so many at once, and so many in each millisecond from then on; with SECURE_PAGES, for hunting a bug, it gets
 * them all. (With 16,384 at once, git log --stat took 2.9 times what it takes in default mode, and takes 1.3 times; ImageMagick's -fx
 * without a bound 23 s instead of a quarter of a second.) */
#define GUARDS_AT_ONCE 1024
#define GUARDS_PER_MS 4
static struct {
    _Atomic uint32_t since_ms, n;
} guards_used;

static uint64_t large_seal(const struct large *large)
{
    uint64_t hash = fold(hash_of(large->block) ^ large->size_bytes, harden_secrets.factor);
    return fold(hash ^ (uintptr_t)large->base, harden_secrets.factor) ^ large->total_bytes;
}

/* What its slack is filled with. */
static uint64_t large_pattern(const struct large *large)
{
    return fold(hash_of(large->block) ^ ~large->size_bytes, harden_secrets.factor);
}

/* The place of what is known of a block that begins in a span or run. NULL: no address of an arena with slabs. */
static struct large *large_at(const void *block)
{
    struct arena *arena = registry_arena(block);
    if (arena == NULL || arena->class_map == NULL)
        return NULL;
    size_t slab = arena_slab_index(arena, block);
    return (struct large *)(void *)&arena->large_bits[slab * SLAB_MAX_WORDS];
}

/* The large block that begins at an address, freed or not; NULL: none does. */
static struct large *large_of(const void *block)
{
    struct large *large = large_at(block);
    return large == NULL || large->block != block || large->seal != large_seal(large) ? NULL : large;
}

static void forbid(char *from, size_t len_bytes)
{
    if (len_bytes != 0)
        os_forbid(from, len_bytes); /* Refused (too many mappings): the memory stays accessible. */
}

/* The slack from `from` to `to`, a multiple of 8, is guarded by its first bytes, up to a multiple of 8, and its last 8. */
static void write_slack(char *from, char *to, uint64_t pattern)
{
    unsigned shift = 8 * (unsigned)((uintptr_t)from & 7);
    char *first = (char *)((uintptr_t)from & ~(uintptr_t)7), *last = first < to - 8 ? to - 8 : first;
    uint64_t before = *(word *)(void *)first & (((uint64_t)1 << shift) - 1);
    char *second = last - first < 8 ? last : first + 8;
    *(word *)(void *)last = pattern;
    *(word *)(void *)second = pattern;
    *(word *)(void *)first = before | pattern << shift;
}

static bool slack_is_whole(const char *from, const char *to, uint64_t pattern)
{
    unsigned shift = 8 * (unsigned)((uintptr_t)from & 7);
    const char *first = (const char *)((uintptr_t)from & ~(uintptr_t)7), *last = first < to - 8 ? to - 8 : first;
    uint64_t wrong = (*(const word *)(const void *)first >> shift ^ (pattern << shift >> shift));
    const char *second = last - first < 8 ? last : first + 8;
    wrong |= last == first
                 ? 0
                 : (*(const word *)(const void *)last ^ pattern) | (*(const word *)(const void *)second ^ pattern);
    return wrong == 0;
}

/* Where the slots, or SuperSlabs, of a large block end. */
static char *end_of(const struct large *large)
{
    size_t grain_bytes = large->total_bytes <= SPAN_MAX_BYTES ? SLAB_BYTES : SUPERSLAB_BYTES;
    return large->base + round_up(large->total_bytes, grain_bytes);
}

/* Sets a large block's size within its pages, and what is inaccessible: up to the next block's inaccessible pages, for then the two
 * are one mapping. */
static void seal_large(struct large *large, size_t size_bytes, size_t data_bytes, bool end_is_forbidden)
{
    char *first = large->base + large->front_bytes, *end = first + data_bytes;
    large->size_bytes = size_bytes;
    large->data_bytes = data_bytes;
    large->seal = large_seal(large);
    if (large->is_guarded && !end_is_forbidden)
        forbid(end, (size_t)(end_of(large) - end));
    if (checks(SECURE_CANARY)) {
        uint64_t pattern = large_pattern(large);
        memset(first, (int)(pattern & 0xff), (size_t)(large->block - first));
        if (large->block + size_bytes != end)
            write_slack(large->block + size_bytes, end, pattern);
    }
}

/* Whether another block may be guarded now; it counts then. */
static bool count_guard(size_t most)
{
    /* relaxed, all: about so many */
    uint32_t now_ms = os_now_ms(), since_ms = atomic_load_explicit(&guards_used.since_ms, memory_order_relaxed);
    uint32_t n = atomic_load_explicit(&guards_used.n, memory_order_relaxed);
    if (now_ms != since_ms && atomic_compare_exchange_strong(&guards_used.since_ms, &since_ms, now_ms)) {
        n -= (uint32_t)min_size(n, (size_t)(now_ms - since_ms) * GUARDS_PER_MS);
        atomic_store_explicit(&guards_used.n, n, memory_order_relaxed);
    }
    if ((n >= GUARDS_AT_ONCE && !checks(SECURE_PAGES)) ||
        atomic_load_explicit(&n_guarded, memory_order_relaxed) >= most)
        return false;
    atomic_fetch_add_explicit(&guards_used.n, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&n_guarded, 1, memory_order_relaxed);
    return true;
}

static void discount_guard(void)
{
    atomic_fetch_sub_explicit(&n_guarded, 1, memory_order_relaxed); /* relaxed: a number */
}

/* What a large block has of its span or run: inaccessible space, pages with its bytes, room to grow, inaccessible space. */
struct extent {
    size_t front_bytes, data_bytes, total_bytes;
};

static struct extent extent_for(size_t size_bytes, size_t room_bytes, size_t alignment)
{
    size_t page_bytes = os_page_bytes(), guard_bytes = checks(SECURE_GUARD) ? page_bytes : 0;
    size_t least_bytes = guard_bytes == 0 ? 1 : 0;
    struct extent extent = {.front_bytes = guard_bytes == 0 ? 0 : max_size(guard_bytes, alignment),
                            .data_bytes = round_up(max_size(size_bytes, least_bytes), page_bytes)};
    extent.total_bytes = extent.front_bytes + round_up(max_size(room_bytes, least_bytes), page_bytes) + guard_bytes;
    if (checks(SECURE_PAGES) && extent.total_bytes < SUPERSLAB_BYTES)
        /* Nothing accessible lies near, and what lies far lies at no round distance. */
        extent.total_bytes = SUPERSLAB_BYTES;
    return extent;
}

/* Where in its pages it begins. */
static char *place_block(char *base, const struct extent *extent, size_t size_bytes, size_t alignment)
{
    char *first = base + extent->front_bytes;
    if (!checks(SECURE_PAGES) || extent->data_bytes == 0)
        return first;
    size_t least_alignment = max_size(alignment, size_bytes < 16 ? 8 : 16); /* right before the inaccessible page */
    return (char *)((uintptr_t)(first + extent->data_bytes - size_bytes) & ~(least_alignment - 1));
}

/* Makes zeros of it, unless it consists of them. */
static void clear_fresh(char *base, const struct extent *extent, bool zeroed, bool guard)
{
    /* its room too: the block may wait, and be taken again longer */
    if (!zeroed && is_cleared_in_place(extent->total_bytes, guard)) {
        wipe_clear(base + extent->front_bytes, extent->total_bytes - extent->front_bytes);
        return;
    }
    if (!large_discard(base, !zeroed))
        memset(base, 0, extent->total_bytes);
    large_take_pages(base, extent->front_bytes + extent->data_bytes);
}

typedef void *claim_span_function(size_t size_bytes, size_t alignment, bool *zeroed);

/* room_bytes: how long it may become where it lies; address space alone. */
static void *claim(claim_span_function *claim_span, size_t size_bytes, size_t room_bytes, size_t alignment,
                   enum block_kind kind, bool guard)
{
    bool zeroed = false; /* Not asked for: what is not clean goes back whole. */
    if (room_bytes >> ADDRESS_BITS != 0 || alignment >> ADDRESS_BITS != 0)
        return claim_span(room_bytes, alignment, &zeroed); /* It is refused there, as any other. */
    struct extent extent = extent_for(size_bytes, room_bytes, alignment);
    char *base = guarded_take_waiting(extent.total_bytes, extent.front_bytes, extent.data_bytes, alignment, guard);
    bool waited = base != NULL;
    if (!waited)
        base = claim_span(extent.total_bytes, max_size(alignment, os_page_bytes()), &zeroed);
    if (base == NULL)
        return NULL;
    char *block = place_block(base, &extent, size_bytes, alignment);
    struct large *large = large_at(block);
    if (large == NULL) {
        if (guard)
            discount_guard();
        return base; /* emergency.h: outside of all this */
    }
    if (!waited)
        clear_fresh(base, &extent, zeroed, guard);
    struct arena *arena = registry_arena(block);
    atomic_store(&arena->superslabs[arena_slab_index(arena, block) / SUPERSLAB_SLABS].has_large_bits, 1);
    *large = (struct large){.block = block,
                            .base = base,
                            .front_bytes = extent.front_bytes,
                            .total_bytes = extent.total_bytes,
                            .kind = kind,
                            .is_guarded = guard,
                            .state = LARGE_LIVE};
    if (!waited && guard)
        forbid(base, extent.front_bytes);
    seal_large(large, size_bytes, extent.data_bytes, waited);
    return block;
}

void *guarded_claim(size_t size_bytes, size_t alignment, enum block_kind kind)
{
    bool guard = checks(SECURE_GUARD) && count_guard(max_guarded());
    void *block = claim(large_block_claim, size_bytes, size_bytes, alignment, kind, guard);
    if (block == NULL && guard)
        discount_guard();
    return block;
}

void *guarded_try(size_t size_bytes, size_t room_bytes, size_t alignment, enum block_kind kind, bool counted)
{
    int saved_errno = errno;
    bool guard = counted || (checks(SECURE_GUARD) && count_guard(max_guarded()));
    void *block = claim(large_block_try, size_bytes, room_bytes, alignment, kind, guard);
    if (block == NULL && guard)
        discount_guard();
    errno = saved_errno;
    return block;
}

static bool large_is_whole(const struct large *large)
{
    uint64_t pattern = large_pattern(large);
    const char *first = large->base + large->front_bytes, *end = first + large->data_bytes;
    if (!checks(SECURE_CANARY))
        return true;
    bool whole =
        large->block + large->size_bytes == end || slack_is_whole(large->block + large->size_bytes, end, pattern);
    for (const char *at = first; at != large->block; at++)
        whole &= (unsigned char)*at == (pattern & 0xff);
    return whole;
}

void guarded_return(void *block, const struct release *release)
{
    struct large *large = large_of(block);
    uint32_t live = LARGE_LIVE;
    if (large == NULL) {
        report_misuse(release->call, NO_BLOCK_BEGINS_HERE, block, NULL, 0);
        return;
    }
    if (!atomic_compare_exchange_strong(&large->state, &live, LARGE_FREED)) {
        report_misuse(release->call, "block freed twice", block, "asked for bytes", large->size_bytes);
        return;
    }
    if (unlikely(!large_is_whole(large)))
        report_misuse(release->call, "written behind the block's end, or before its beginning", block,
                      "asked for bytes", large->size_bytes);
    check_release(release, block, large->size_bytes, (enum block_kind)large->kind);
    if (large->is_guarded)
        discount_guard();
    if ((checks(SECURE_ZERO) || checks(SECURE_QUARANTINE)) &&
        (is_cleared_in_place(large->total_bytes, large->is_guarded) || !large_discard(large->base, true)))
        wipe_clear(large->base + large->front_bytes, large->data_bytes);
    if (large->is_guarded)
        forbid(large->base, (size_t)(end_of(large) - large->base));
    if (checks(SECURE_QUARANTINE))
        guarded_let_wait(large);
    else
        guarded_release(large);
}

/* Makes more of a block's room its own. */
static bool open_room(const struct large *large, size_t data_bytes)
{
    size_t more_bytes = data_bytes - large->data_bytes;
    bool promised = budget_is_set();
    if (promised && !pressure_promise(NULL, more_bytes))
        return false;
    bool open = !large->is_guarded || os_commit(large->base + large->front_bytes + large->data_bytes, more_bytes);
    if (open)
        large_take_pages(large->base, large->front_bytes + data_bytes);
    if (promised)
        budget_settle(more_bytes);
    return open;
}

/* What a block that gets shorter leaves is zero. Whole pages go back, if they are worth a call: they may never have been touched. */
static void clear(const struct large *large, char *from, char *to)
{
    char *first = large->base + round_up((size_t)(from - large->base), os_page_bytes());
    char *end = large->base + ((size_t)(to - large->base) & ~(os_page_bytes() - 1));
    if (first + SLAB_BYTES > end ||
        !large_give_pages(large->base, (size_t)(first - large->base), (size_t)(end - large->base)))
        first = end = to;
    memset(from, 0, (size_t)(first - from));
    memset(end, 0, (size_t)(to - end));
}

/* With SECURE_PAGES, where a longer block is resized in place, what lies behind its end within a page can be read. */
#define MOVED_MAX_BYTES (64 * MIB)

bool guarded_resize(void *block, size_t size_bytes)
{
    struct large *large = large_of(block);
    if (large == NULL || !large_is_whole(large))
        return false;
    char *first = large->base + large->front_bytes;
    size_t guard_bytes = checks(SECURE_GUARD) ? os_page_bytes() : 0;
    size_t room_bytes = large->total_bytes - large->front_bytes - guard_bytes;
    size_t old_bytes = large->size_bytes, data_bytes = round_up(size_bytes, os_page_bytes());
    if (large->block != first || size_bytes <= CLASS_MAX_BYTES || size_bytes > room_bytes || size_bytes < old_bytes / 2)
        return false;
    if (checks(SECURE_PAGES) && size_bytes != data_bytes && size_bytes <= MOVED_MAX_BYTES)
        return false; /* it is to end before an inaccessible page */
    if (data_bytes > large->data_bytes && !open_room(large, data_bytes))
        return false;
    if (size_bytes > old_bytes)
        memset(first + old_bytes, 0, min_size(large->data_bytes, size_bytes) - old_bytes);
    else
        clear(large, first + size_bytes, first + large->data_bytes);
    seal_large(large, size_bytes, data_bytes, false);
    return true;
}

void guarded_shrink(void *block, size_t size_bytes)
{
    struct large *large = large_of(block);
    if (large == NULL || !large_is_whole(large))
        return; /* is found when it is freed */
    clear(large, large->block + size_bytes, large->block + large->size_bytes);
    seal_large(large, size_bytes, large->data_bytes, true);
}

bool guarded_wants(size_t size_bytes)
{
    if (!checks(SECURE_GUARD) || (size_bytes != 0 && size_bytes < os_page_bytes() && !checks(SECURE_PAGES)))
        return false;
    return count_guard(size_bytes == 0 && !checks(SECURE_PAGES) ? MAX_GUARDED_EMPTY : max_guarded());
}

bool guarded_is_live(const void *block, size_t *size_bytes, enum block_kind *kind)
{
    const struct large *large = large_of(block);
    if (large == NULL || atomic_load(&large->state) != LARGE_LIVE)
        return false;
    *size_bytes = large->size_bytes;
    *kind = (enum block_kind)large->kind;
    return true;
}

/* ---- Faults ------------------------------------------------------------------------------------------------------ */

/* The beginning of the span or run that an address lies in; NULL: in none. */
static const char *span_around(const struct arena *arena, const void *address)
{
    size_t index = arena_slab_index(arena, address);
    const struct superslab *ss = &arena->superslabs[index / SUPERSLAB_SLABS];
    if (load_byte_relaxed(&arena->class_map[index]) != CLASS_SPAN * CLASS_OFFSET_SCALE)
        return NULL;
    if (atomic_load(&ss->state) == SUPERSLAB_RUN || atomic_load(&ss->state) == SUPERSLAB_RUN_BODY) {
        while (ss->index > 0 && atomic_load(&ss->state) == SUPERSLAB_RUN_BODY)
            ss--;
        return superslab_memory(ss);
    }
    const struct slab *slab = &arena->slabs[index];
    return CTL_STATE(slab_ctl_read(slab)) == SLAB_SPAN_HEAD ? slab->memory
                                                            : slab->memory - span_slots(slab) * SLAB_BYTES;
}

bool guarded_explain(const void *address)
{
    const struct arena *arena = registry_arena(address);
    const char *at = address, *base = arena == NULL || arena->class_map == NULL ? NULL : span_around(arena, address);
    if (base == NULL)
        return false;
    for (const char *slab = base; slab <= at || slab == base; slab += SLAB_BYTES) {
        const struct large *large = large_at(slab);
        if (large == NULL || large->base != base || large->seal != large_seal(large))
            continue;
        size_t size_bytes = large->size_bytes;
        const char *end = large->block + size_bytes;
        if (atomic_load(&large->state) != LARGE_LIVE)
            report_line("hakmem: fault: %p lies in a block of %z bytes at %p, which was freed", address, size_bytes,
                        large->block);
        else if (at >= end)
            report_line("hakmem: fault: %p lies %z bytes behind the end of the block of %z bytes at %p", address,
                        (size_t)(at - end), size_bytes, large->block);
        else if (at >= large->block) /* executed, or made inaccessible by the program */
            report_line("hakmem: fault: %p lies in a block of %z bytes at %p", address, size_bytes, large->block);
        else
            report_line("hakmem: fault: %p lies %z bytes before the block of %z bytes at %p", address,
                        (size_t)(large->block - at), size_bytes, large->block);
        return true;
    }
    return false;
}
