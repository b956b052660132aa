/* harden.c - see harden.h.
 * Owns     the secrets, quarantines, and what is known of large blocks (struct large, in the records of their slab).
 * Called by  the doors of refill.c and flush.c, api/malloc.c, thread.c     Calls  front.h (behind the doors), span.h, os.h
 * Threads  any. A block's seal and contents belong to who holds it; a quarantine to its thread, between thread_enter and
 *          thread_leave; the quarantine of large blocks is exchanged by atomic operations.
 * I1  With SECURE_ZERO every byte of free memory is zero: of blocks in slabs, magazines and quarantines (they were cleared
 *     when they were freed) as of pages never used.
 * I2  A seal that is neither zero nor right was overwritten.
 * I3  A block is in a quarantine or in a magazine, never in both.
 */
#include "front/harden.h"

#include "front/flush.h"
#include "meta/arena.h"
#include "os/os.h"
#include "pool/shared_pool.h"
#include "pool/span.h"
#include "service/config.h"
#include "service/report.h"

#include <errno.h>
#include <string.h>

uint8_t harden_state;

static uint64_t secret_address, secret_factor; /* constant after harden_start */

#define SEAL_BYTES sizeof(uint64_t)

static size_t small_max_bytes; /* up to so many bytes a block is of a class, unless they are 0. Constant likewise */

/* Freed blocks of a class that wait, per thread: so many, or so many bytes, but QUARANTINE_LEAST_SLOTS. A block is handed out again
 * after as many others on average, and each of them may be the next. */
#define QUARANTINE_SLOTS 64
#define QUARANTINE_LEAST_SLOTS 8
#define QUARANTINE_BYTES (8 * KIB)
struct quarantine {
    void *slot[CLASS_END][QUARANTINE_SLOTS];
};
static uint8_t quarantine_slots[CLASS_END]; /* how many of them are in use. Constant likewise */
_Static_assert(sizeof(struct quarantine) <= METAPOOL_PIECE_BYTES, "a quarantine is a piece of metapool.h");

/* Large blocks that wait, of the process; their pages are given back. */
#define LARGE_QUARANTINE_SLOTS 1024 /* with SECURE_PAGES */
#define LARGE_QUARANTINE_FEW 64
#define LARGE_QUARANTINE_LEAST 16 /* so many others are freed before one may be handed out again */
static _Atomic uintptr_t large_quarantine[LARGE_QUARANTINE_SLOTS];
static _Atomic uint32_t n_large_freed;

/* So many live blocks that would fit into a class may be large ones instead: those without a byte, or all (SECURE_PAGES).
 * Each needs two of the mappings of which a process may have 65,530; further blocks are of a class. */
#define MAX_EMPTY_LARGE 4096
#define MAX_SMALL_LARGE 16384
static _Atomic size_t n_small_large;

bool harden_decide(void)
{
    if (harden_state == HARDEN_UNKNOWN)
        thread_start_process();
    return harden_state == HARDEN_ON;
}

void harden_start(void)
{
    if (config.secure != 0) {
        small_max_bytes = CLASS_MAX_BYTES - SEAL_BYTES;
        if ((config.secure & SECURE_GUARD) != 0)
            small_max_bytes = min_size(small_max_bytes, os_page_bytes() - 1);
        if ((config.secure & SECURE_PAGES) != 0)
            small_max_bytes = 0;
        for (unsigned c = CLASS_FIRST; c < CLASS_END; c++)
            quarantine_slots[c] = (uint8_t)max_size(min_size(QUARANTINE_BYTES / class_table[c].bytes, QUARANTINE_SLOTS),
                                                    QUARANTINE_LEAST_SLOTS);
        secret_address = os_random();
        secret_factor = os_random() | 1;
        arena_harden((config.secure & SECURE_RANDOM) != 0, (config.secure & SECURE_GUARD) != 0);
    }
    harden_state = config.secure != 0 ? HARDEN_ON : HARDEN_OFF;
}

static ALWAYS_INLINE bool checks(enum secure what)
{
    return (config.secure & what) != 0;
}

/* xorshift64*, begun by the system's random bits. */
static ALWAYS_INLINE uint64_t next_random(struct thread *thread)
{
    uint64_t x = thread->random;
    x ^= x >> 12;
    x ^= x << 25;
    x ^= x >> 27;
    thread->random = x;
    return x * 0x2545f4914f6cdd1du;
}

static ALWAYS_INLINE unsigned random_below(struct thread *thread, unsigned n)
{
    return (unsigned)((next_random(thread) >> 32) * n >> 32);
}

void harden_shuffle(struct thread *thread, void **block, unsigned n)
{
    for (unsigned i = n; i > 1; i--) {
        unsigned k = random_below(thread, i);
        void *other = block[k];
        block[k] = block[i - 1];
        block[i - 1] = other;
    }
}

/* ---- Seals ------------------------------------------------------------------------------------------------------- */

/* What the seal says, in its low 24 bits; the others are a hash. Bit 23 is set in every seal. */
#define SEAL_FIELDS(slack_bytes, kind) ((uint64_t)1 << 23 | (uint64_t)(kind) << 16 | (uint64_t)(slack_bytes))
#define SEAL_FIELD_MASK ((uint64_t)0xffffff)
#define SEAL_SLACK(seal) ((size_t)((seal)&0xffff))
#define SEAL_KIND(seal) ((enum block_kind)((seal) >> 16 & 3))

/* A hash of the address and the fields under the secrets: the seal's upper bits, and the pattern in the slack. */
static ALWAYS_INLINE uint64_t hash_of(const void *block, uint64_t fields)
{
    uint64_t h = ((uintptr_t)block ^ secret_address ^ fields << 40) * secret_factor;
    return (h ^ h >> 32) * secret_factor;
}

static ALWAYS_INLINE uint64_t seal_of(uint64_t hash, uint64_t fields)
{
    return (hash & ~SEAL_FIELD_MASK) | fields;
}

/* relaxed, both: the neighbour's look at it (check_before) wants a whole word, no more */
static ALWAYS_INLINE uint64_t seal_read(const char *end)
{
    return atomic_load_explicit((const _Atomic uint64_t *)(const void *)(end - SEAL_BYTES), memory_order_relaxed);
}

static ALWAYS_INLINE void seal_write(char *end, uint64_t seal)
{
    atomic_store_explicit((_Atomic uint64_t *)(void *)(end - SEAL_BYTES), seal, memory_order_relaxed);
}

typedef uint64_t word __attribute__((may_alias));
typedef uint64_t vector __attribute__((vector_size(16), may_alias, aligned(8)));

/* The slack from `from` to `to`, a multiple of 8, is guarded by its first bytes, up to a multiple of 8, and its last 8. Whole
 * words are written and read, whatever its length, for lengths that vary cost mispredicted branches, of some 15 cycles
 * each. Without a slack both words are the one at `to`: the seal, which is written afterwards and read by itself. */
static ALWAYS_INLINE void write_slack(char *from, char *to, uint64_t pattern)
{
    unsigned shift = 8 * (unsigned)((uintptr_t)from & 7);
    char *first = (char *)((uintptr_t)from & ~(uintptr_t)7), *last = first < to - 8 ? to - 8 : first;
    uint64_t before = *(word *)(void *)first & (((uint64_t)1 << shift) - 1);
    *(word *)(void *)last = pattern;
    *(word *)(void *)first = before | pattern << shift;
}

static ALWAYS_INLINE bool slack_is_whole(const char *from, const char *to, uint64_t pattern)
{
    unsigned shift = 8 * (unsigned)((uintptr_t)from & 7);
    const char *first = (const char *)((uintptr_t)from & ~(uintptr_t)7), *last = first < to - 8 ? to - 8 : first;
    uint64_t wrong = (*(const word *)(const void *)first >> shift ^ (pattern << shift >> shift));
    wrong |= last == first ? 0 : *(const word *)(const void *)last ^ pattern;
    return first == to || wrong == 0;
}

/* Whether a block of a class, a multiple of 16 bytes, is all zero. */
static ALWAYS_INLINE bool is_zero(const char *from, size_t len_bytes)
{
    vector any = {0, 0};
    const char *at = from, *end = from + len_bytes;
    for (; end - at >= 64; at += 64) {
        const vector *v = (const vector *)(const void *)at;
        any |= (v[0] | v[1]) | (v[2] | v[3]);
    }
    for (; at != end; at += 16)
        any |= *(const vector *)(const void *)at;
    return (any[0] | any[1]) == 0;
}

/* ---- Blocks of classes ------------------------------------------------------------------------------------------- */

static COLD void report_written_after_free(void *block, size_t block_bytes)
{
    report_misuse("malloc", "a free block was written to", block, "class of bytes", block_bytes);
    memset(block, 0, block_bytes);
}

/* Makes a free block the program's. */
static ALWAYS_INLINE void *seal_block(void *block, size_t block_bytes, size_t size_bytes, enum block_kind kind)
{
    char *end = (char *)block + block_bytes;
    if (checks(SECURE_ZERO) && unlikely(!is_zero(block, block_bytes)))
        report_written_after_free(block, block_bytes);
    uint64_t fields = SEAL_FIELDS(block_bytes - SEAL_BYTES - size_bytes, kind);
    uint64_t hash = hash_of(block, fields);
    if (checks(SECURE_CANARY))
        write_slack((char *)block + size_bytes, end - SEAL_BYTES, hash);
    seal_write(end, seal_of(hash, fields));
    return block;
}

/* The class that a block was served from: the one that was asked for, or the next larger one. */
static size_t block_bytes_of(const void *block)
{
    const struct arena *arena = registry_arena(block);
    if (unlikely(arena->class_map == NULL))
        return 0; /* emergency.h: outside of all this */
    return class_at(load_byte_relaxed(&arena->class_map[arena_slab_index(arena, block)]))->bytes;
}

static ALWAYS_INLINE void *claim_small(size_t size_bytes, size_t alignment, enum block_kind kind)
{
    size_t least_bytes = max_size(size_bytes, 1) + SEAL_BYTES; /* never a block of 8 bytes */
    unsigned class_id = alignment <= 16 ? class_of(least_bytes) : class_of_aligned(least_bytes, alignment);
    struct thread *thread = thread_enter();
    void *block;
    bool popped = thread != NULL && magazine_pop(&thread->cache.magazine[class_id], &block);
    if (thread != NULL)
        thread_leave(thread);
    if (likely(popped))
        return seal_block(block, class_table[class_id].bytes, size_bytes, kind);
    block = front_claim_class(class_id, alignment > 16);
    size_t block_bytes = block == NULL ? 0 : block_bytes_of(block);
    return block_bytes == 0 ? block : seal_block(block, block_bytes, size_bytes, kind);
}

/* A block's seal: what it should be, and what the slack should be filled with. */
static ALWAYS_INLINE bool seal_is_right(const void *block, uint64_t seal, uint64_t *pattern)
{
    uint64_t fields = seal & SEAL_FIELD_MASK;
    *pattern = hash_of(block, fields);
    return seal_of(*pattern, fields) == seal;
}

/* Whether neither a block's seal nor its slack was written to. */
static ALWAYS_INLINE bool end_is_whole(const void *block, size_t block_bytes, uint64_t seal)
{
    uint64_t pattern;
    const char *end = (const char *)block + block_bytes - SEAL_BYTES;
    return seal_is_right(block, seal, &pattern) &&
           (!checks(SECURE_CANARY) || slack_is_whole(end - SEAL_SLACK(seal), end, pattern));
}

static COLD void report_before(const char *call, const void *block)
{
    report_misuse(call, "written before the block's beginning, or behind the end of the one before it", block, NULL, 0);
}

/* What lies before the first block of a slab: the last bytes of another slab, which may go at any moment, unless we hold
 * the lock. */
static NOINLINE void check_before_slab(const char *memory, const char *call)
{
    const struct arena *arena = registry_arena(memory - 1);
    if (arena == NULL || arena->class_map == NULL)
        return;
    const _Atomic uint8_t *map = &arena->class_map[arena_slab_index(arena, memory - 1)];
    if (class_at(load_byte_relaxed(map))->n_blocks == 0 || !pool_try_lock(HAK_LOCK_TIER))
        return;
    const struct class_info *class = class_at(load_byte_relaxed(map));
    uint64_t seal = class->n_blocks == 0 ? 0 : seal_read(memory), pattern;
    pool_unlock();
    size_t tail_bytes = class->n_blocks == 0 ? 0 : SLAB_BYTES - (size_t) class->n_blocks * class->bytes;
    bool wrong = seal != 0 && (tail_bytes != 0 || !seal_is_right(memory - class->bytes, seal, &pattern));
    if (unlikely(wrong && (checks(SECURE_ZERO) || tail_bytes == 0)))
        report_before(call, memory);
}

/* What lies right before a block: the seal of the block before it. */
static ALWAYS_INLINE void check_before(const char *block, const struct place *place, const char *call)
{
    uint64_t pattern;
    if (unlikely(place->index == 0)) {
        check_before_slab(block, call);
        return;
    }
    uint64_t seal = seal_read(block);
    if (unlikely(seal != 0 && !seal_is_right(block - class_table[place->class_id].bytes, seal, &pattern)))
        report_before(call, block);
}

/* What the caller says of the block contradicts what is known. */
static COLD void report_release(const struct release *release, const void *block, size_t size_bytes,
                                enum block_kind kind)
{
    static const char *const allocated_by[] = {"the block was allocated by malloc or the like",
                                               "the block was allocated by operator new",
                                               "the block was allocated by operator new[]"};
    if (release->kind != kind)
        report_misuse(release->call, allocated_by[kind], block, "asked for bytes", size_bytes);
    else if (((uintptr_t)block & (release->alignment - 1)) != 0)
        report_misuse(release->call, "the alignment is not the block's", block, "alignment", release->alignment);
    else if (release->size_bytes != RELEASE_ANY_SIZE && release->size_bytes != size_bytes)
        report_misuse(release->call, "the size is not the block's", block, "asked for bytes", size_bytes);
}

static ALWAYS_INLINE void check_release(const struct release *release, const void *block, size_t size_bytes,
                                        enum block_kind kind)
{
    if (unlikely(release->kind != kind || release->size_bytes != RELEASE_ANY_SIZE || release->alignment != 1) &&
        checks(SECURE_TYPE))
        report_release(release, block, size_bytes, kind);
}

/* Into the thread's quarantine, in the place of another block or none; that one is returned. */
static ALWAYS_INLINE void *exchange(struct thread *thread, unsigned class_id, void *block)
{
    if (!checks(SECURE_QUARANTINE) || thread->quarantine == NULL)
        return block;
    void **slot = &thread->quarantine->slot[class_id][random_below(thread, quarantine_slots[class_id])];
    void *other = *slot;
    *slot = block;
    return other;
}

static ALWAYS_INLINE void return_small(void *block, const struct place *place, const struct release *release)
{
    size_t block_bytes = class_table[place->class_id].bytes;
    char *end = (char *)block + block_bytes;
    uint64_t seal = seal_read(end);
    if (unlikely(seal == 0)) {
        report_misuse(release->call, "block freed twice", block, "class of bytes", block_bytes);
        return;
    }
    size_t size_bytes = block_bytes - SEAL_BYTES - SEAL_SLACK(seal);
    if (unlikely(!end_is_whole(block, block_bytes, seal)))
        report_misuse(release->call, "written behind the block's end", block, "class of bytes", block_bytes);
    else
        check_release(release, block, size_bytes, SEAL_KIND(seal));
    if (checks(SECURE_CANARY))
        check_before(block, place, release->call);

    seal_write(end, 0);
    if (checks(SECURE_ZERO))
        memset(block, 0, block_bytes);
    struct thread *thread = thread_enter();
    if (unlikely(thread == NULL)) {
        front_return_block(block, release->call);
        return;
    }
    void *other = exchange(thread, place->class_id, block);
    bool pushed = other == NULL || magazine_push(&thread->cache.magazine[place->class_id], other);
    thread_leave(thread);
    if (!pushed)
        front_return_block(other, release->call);
}

/* ---- Large blocks ------------------------------------------------------------------------------------------------ */

/* What is known of a large block, in the bit map of the slab in which it begins: spans have no use for it. */
struct large {
    uint64_t seal; /* keyed hash of the rest; anything else: no block */
    char *block, *base;
    size_t size_bytes;              /* asked for */
    size_t front_bytes, data_bytes; /* from base: inaccessible, accessible; then inaccessible again */
    size_t total_bytes;
    uint32_t kind, freed_at; /* how many were freed before it, modulo 2^32 */
    _Atomic uint32_t state;  /* enum */
};
enum { LARGE_LIVE = 1, LARGE_FREED };
_Static_assert(sizeof(struct large) <= SLAB_MAX_WORDS * sizeof(uint64_t), "fits into a slab's large bit map");

static uint64_t large_seal(const struct large *large)
{
    return hash_of(large->block, large->size_bytes ^ (uintptr_t)large->base) ^ large->total_bytes;
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

/* The pages of a large block become the heap's again. */
static void release_large(struct large *large)
{
    char *base = large->base;
    large->seal = 0;
    large->block = NULL;
    if (checks(SECURE_GUARD))
        span_open(base);
    front_return_block(base, "free");
}

/* Sets a large block's size within its pages, and what is inaccessible. */
static void seal_large(struct large *large, size_t size_bytes, size_t data_bytes, bool end_is_forbidden)
{
    char *first = large->base + large->front_bytes, *end = first + data_bytes;
    large->size_bytes = size_bytes;
    large->data_bytes = data_bytes;
    large->seal = large_seal(large);
    if (checks(SECURE_GUARD) && !end_is_forbidden)
        forbid(end, (size_t)(large->base + large->total_bytes - end));
    if (checks(SECURE_CANARY)) {
        uint64_t pattern = hash_of(large->block, size_bytes);
        memset(first, (int)(pattern & 0xff), (size_t)(large->block - first));
        if (large->block + size_bytes != end)
            write_slack(large->block + size_bytes, end, pattern);
    }
}

static unsigned large_slots(void)
{
    return checks(SECURE_PAGES) ? LARGE_QUARANTINE_SLOTS : LARGE_QUARANTINE_FEW;
}

/* Into the quarantine, at a random place; what was there is released. */
static void let_wait(struct large *large)
{
    _Atomic uintptr_t *slot = &large_quarantine[os_random() % large_slots()];
    large = (struct large *)atomic_exchange(slot, (uintptr_t)large); /* NOLINT: our own record */
    if (large != NULL)
        release_large(large);
}

static bool fits(const struct large *large, size_t total_bytes, size_t front_bytes, size_t alignment)
{
    return large != NULL && large->total_bytes == total_bytes && large->front_bytes == front_bytes &&
           ((uintptr_t)(large->base + front_bytes) & (alignment - 1)) == 0 &&
           atomic_load(&n_large_freed) - large->freed_at > LARGE_QUARANTINE_LEAST;
}

/* The beginning of a freed block of the very same lengths, its data accessible and zero; NULL: none has waited for long
 * enough. It saves what the heap would do, and most system calls. */
static char *take_waiting(size_t total_bytes, size_t front_bytes, size_t data_bytes, size_t alignment)
{
    if (!checks(SECURE_GUARD) || !checks(SECURE_QUARANTINE))
        return NULL;
    unsigned at = (unsigned)(os_random() % large_slots());
    for (unsigned tries = 0; tries < LARGE_QUARANTINE_FEW; tries++, at = (at + 1) % large_slots()) {
        /* A look beside whoever may take it: its record is never unmapped. */
        if (!fits((struct large *)atomic_load(&large_quarantine[at]), total_bytes, front_bytes, alignment)) /* NOLINT */
            continue;
        struct large *large = (struct large *)atomic_exchange(&large_quarantine[at], 0); /* NOLINT: our own record */
        if (large == NULL)
            continue;
        if (fits(large, total_bytes, front_bytes, alignment) && os_commit(large->base + front_bytes, data_bytes)) {
            char *base = large->base;
            span_take_pages(base, front_bytes + data_bytes);
            large->seal = 0;
            large->block = NULL;
            return base;
        }
        let_wait(large);
        return NULL;
    }
    return NULL;
}

/* room_bytes: how long it may become where it lies; address space alone. */
static void *claim_large(size_t size_bytes, size_t room_bytes, size_t alignment, enum block_kind kind)
{
    size_t page_bytes = os_page_bytes(), guard_bytes = checks(SECURE_GUARD) ? page_bytes : 0;
    if (room_bytes >> ADDRESS_BITS != 0 || alignment >> ADDRESS_BITS != 0) {
        errno = ENOMEM;
        return NULL;
    }
    size_t front_bytes = guard_bytes == 0 ? 0 : max_size(guard_bytes, alignment);
    size_t least_bytes = guard_bytes == 0 ? 1 : 0;
    size_t data_bytes = round_up(max_size(size_bytes, least_bytes), page_bytes);
    size_t total_bytes = front_bytes + round_up(max_size(room_bytes, least_bytes), page_bytes) + guard_bytes;
    if (checks(SECURE_PAGES) && total_bytes < SUPERSLAB_BYTES)
        total_bytes = SUPERSLAB_BYTES; /* Nothing accessible lies near, and what lies far lies at no round distance. */
    bool zeroed = true, waited = true;
    char *base = take_waiting(total_bytes, front_bytes, data_bytes, alignment);
    if (base == NULL) {
        waited = false;
        base = front_claim_span(total_bytes, max_size(alignment, page_bytes), &zeroed);
    }
    if (base == NULL)
        return NULL;
    char *block = base + front_bytes;
    if (checks(SECURE_PAGES) && data_bytes != 0) { /* right before the inaccessible page */
        size_t least_alignment = max_size(alignment, size_bytes < 16 ? 8 : 16);
        block = (char *)((uintptr_t)(block + data_bytes - size_bytes) & ~(least_alignment - 1));
    }
    struct large *large = large_at(block);
    if (large == NULL)
        return base; /* emergency.h: outside of all this */
    if (!waited) {
        if (!span_discard(base, !zeroed))
            memset(base, 0, total_bytes);
        span_take_pages(base, front_bytes + data_bytes);
    }
    struct arena *arena = registry_arena(block);
    atomic_store(&arena->superslabs[arena_slab_index(arena, block) / SUPERSLAB_SLABS].has_large_bits, 1);
    *large = (struct large){.block = block,
                            .base = base,
                            .front_bytes = front_bytes,
                            .total_bytes = total_bytes,
                            .kind = kind,
                            .state = LARGE_LIVE};
    if (!waited)
        forbid(base, front_bytes);
    seal_large(large, size_bytes, data_bytes, waited);
    if (size_bytes <= CLASS_MAX_BYTES)
        atomic_fetch_add(&n_small_large, 1);
    return block;
}

static bool large_is_whole(const struct large *large)
{
    uint64_t pattern = hash_of(large->block, large->size_bytes);
    const char *first = large->base + large->front_bytes, *end = first + large->data_bytes;
    if (!checks(SECURE_CANARY))
        return true;
    bool whole =
        large->block + large->size_bytes == end || slack_is_whole(large->block + large->size_bytes, end, pattern);
    for (const char *at = first; at != large->block; at++)
        whole &= (unsigned char)*at == (pattern & 0xff);
    return whole;
}

static void return_large(void *block, const struct release *release)
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
    if (large->size_bytes <= CLASS_MAX_BYTES)
        atomic_fetch_sub(&n_small_large, 1);
    if ((checks(SECURE_ZERO) || checks(SECURE_QUARANTINE)) && !span_discard(large->base, true))
        memset(large->base + large->front_bytes, 0, large->data_bytes);
    if (checks(SECURE_GUARD))
        forbid(large->base, large->total_bytes);
    large->freed_at = atomic_fetch_add(&n_large_freed, 1);
    if (checks(SECURE_QUARANTINE))
        let_wait(large);
    else
        release_large(large);
}

/* ---- Doors ------------------------------------------------------------------------------------------------------- */

/* Whether no class will do, or a large block is wanted though one would. */
static bool fits_no_class(size_t size_bytes, size_t alignment)
{
    return size_bytes > CLASS_MAX_BYTES - SEAL_BYTES ||
           (alignment > 16 && class_of_aligned(size_bytes + SEAL_BYTES, alignment) == 0);
}

/* A block of a page and more has pages of its own, as long as there are not too many; so has one without a byte, which nobody
 * may touch. */
static bool wants_pages(size_t size_bytes)
{
    if (!checks(SECURE_GUARD) || (size_bytes != 0 && size_bytes < os_page_bytes() && !checks(SECURE_PAGES)))
        return false;
    size_t most = size_bytes == 0 && !checks(SECURE_PAGES) ? MAX_EMPTY_LARGE : MAX_SMALL_LARGE;
    return atomic_load_explicit(&n_small_large, memory_order_relaxed) < most; /* relaxed: about so many */
}

void *harden_claim(size_t size_bytes, size_t alignment, enum block_kind kind)
{
    if (likely(size_bytes - 1 < small_max_bytes && alignment <= 16))
        return claim_small(size_bytes, alignment, kind);
    if (unlikely(fits_no_class(size_bytes, alignment)))
        return claim_large(size_bytes, size_bytes, alignment, kind);
    if (unlikely(wants_pages(size_bytes))) {
        int saved_errno = errno;
        void *block = claim_large(size_bytes, size_bytes, alignment, kind);
        if (block != NULL)
            return block;
        errno = saved_errno;
    }
    return claim_small(size_bytes, alignment, kind);
}

/* front_locate for the usual case: a block in order, in the first arena. */
static ALWAYS_INLINE bool locate_small(const void *block, struct place *place)
{
    size_t slab = ((uintptr_t)block - registry_first.base) >> SLAB_SHIFT;
    if (unlikely(slab >= registry_first.n_slabs))
        return false;
    size_t class_offset = load_byte_relaxed(&registry_first.class_map[slab]);
    const struct class_info *class = class_at(class_offset);
    size_t offset_bytes = (uintptr_t)block & (SLAB_BYTES - 1);
    place->index = class_block_index(class, offset_bytes);
    place->class_id = (unsigned)(class_offset / CLASS_OFFSET_SCALE);
    place->slab = NULL;
    return likely((size_t)place->index * class->bytes == offset_bytes && place->index < class->n_blocks);
}

void harden_return(void *block, const struct release *release)
{
    struct place place;
    if (likely(locate_small(block, &place))) {
        return_small(block, &place, release);
        return;
    }
    if (block == NULL)
        return;
    int saved_errno = errno;
    if (front_locate(block, release->call, &place)) {
        if (place.class_id != CLASS_SPAN)
            return_small(block, &place, release);
        else if (place.slab != NULL)
            return_large(block, release);
        else
            front_return_block(block, release->call);
    }
    errno = saved_errno;
}

/* What a block is, for realloc and the like: the bytes that were asked for; SIZE_MAX and a report if it is none. */
static size_t look(const void *block, const char *call, struct place *place, enum block_kind *kind)
{
    if (!front_locate(block, call, place))
        return SIZE_MAX;
    *kind = KIND_MALLOC;
    if (place->class_id == CLASS_SPAN) {
        if (place->slab == NULL)
            return span_usable_bytes(block);
        const struct large *large = large_of(block);
        if (large == NULL || atomic_load(&large->state) != LARGE_LIVE) {
            report_misuse(call, NO_BLOCK_BEGINS_HERE, block, NULL, 0);
            return SIZE_MAX;
        }
        *kind = (enum block_kind)large->kind;
        return large->size_bytes;
    }
    size_t block_bytes = class_table[place->class_id].bytes;
    uint64_t seal = seal_read((const char *)block + block_bytes), pattern;
    if (seal == 0 || !seal_is_right(block, seal, &pattern)) {
        report_misuse(call, seal == 0 ? "block freed already" : "written behind the block's end", block,
                      "class of bytes", block_bytes);
        return SIZE_MAX;
    }
    *kind = SEAL_KIND(seal);
    return block_bytes - SEAL_BYTES - SEAL_SLACK(seal);
}

size_t harden_usable_bytes(const void *block)
{
    struct place place;
    enum block_kind kind;
    size_t n = block == NULL ? 0 : look(block, "malloc_usable_size", &place, &kind);
    return n == SIZE_MAX ? 0 : n;
}

/* Makes a block longer or shorter where it lies, if it can be. The bytes that are added read as zero. */
static bool resize_small(void *block, const struct place *place, size_t size_bytes, enum block_kind kind)
{
    size_t block_bytes = class_table[place->class_id].bytes, most_bytes = block_bytes - SEAL_BYTES;
    char *end = (char *)block + block_bytes;
    if (size_bytes > most_bytes || size_bytes < most_bytes / 2)
        return false;
    size_t old_bytes = most_bytes - SEAL_SLACK(seal_read(end));
    if (size_bytes > old_bytes)
        memset((char *)block + old_bytes, 0, size_bytes - old_bytes);
    else
        memset((char *)block + size_bytes, 0, old_bytes - size_bytes);
    uint64_t fields = SEAL_FIELDS(most_bytes - size_bytes, kind), hash = hash_of(block, fields);
    if (checks(SECURE_CANARY))
        write_slack((char *)block + size_bytes, end - SEAL_BYTES, hash);
    seal_write(end, seal_of(hash, fields));
    return true;
}

static bool resize_large(struct large *large, size_t size_bytes)
{
    char *first = large->base + large->front_bytes;
    size_t guard_bytes = checks(SECURE_GUARD) ? os_page_bytes() : 0;
    size_t room_bytes = large->total_bytes - large->front_bytes - guard_bytes;
    size_t old_bytes = large->size_bytes, data_bytes = round_up(size_bytes, os_page_bytes());
    if (large->block != first || size_bytes <= CLASS_MAX_BYTES || size_bytes > room_bytes || size_bytes < old_bytes / 2)
        return false;
    if (data_bytes > large->data_bytes && checks(SECURE_GUARD) &&
        !os_commit(first + large->data_bytes, data_bytes - large->data_bytes))
        return false;
    if (size_bytes > old_bytes)
        memset(first + old_bytes, 0, min_size(large->data_bytes, size_bytes) - old_bytes);
    else
        memset(first + size_bytes, 0, large->data_bytes - size_bytes);
    seal_large(large, size_bytes, data_bytes, false);
    return true;
}

void *harden_realloc(void *block, size_t size_bytes)
{
    static const struct release release = {"realloc", KIND_MALLOC, RELEASE_ANY_SIZE, 1};
    struct place place;
    enum block_kind kind;
    size_t old_bytes = look(block, release.call, &place, &kind);
    if (old_bytes == SIZE_MAX) {
        errno = EINVAL;
        return NULL;
    }
    bool large = place.class_id == CLASS_SPAN;
    if (kind == KIND_MALLOC &&
        (large ? large_of(block) != NULL && large_is_whole(large_of(block)) && resize_large(large_of(block), size_bytes)
               : end_is_whole(block, class_table[place.class_id].bytes,
                              seal_read((const char *)block + class_table[place.class_id].bytes)) &&
                     resize_small(block, &place, size_bytes, kind)))
        return block;
    int saved_errno = errno;
    bool grows = large && size_bytes > old_bytes && size_bytes >> ADDRESS_BITS == 0 && !checks(SECURE_PAGES);
    void *moved = grows ? claim_large(size_bytes, size_bytes + size_bytes / 2, 1, KIND_MALLOC)
                        : harden_claim(size_bytes, 1, KIND_MALLOC);
    if (moved == NULL && grows) {
        errno = saved_errno;
        moved = harden_claim(size_bytes, 1, KIND_MALLOC);
    }
    if (moved == NULL) {
        if (size_bytes > old_bytes)
            return NULL;
        errno = saved_errno; /* Shrinking never fails; the block keeps the size that it had. */
        return block;
    }
    memcpy(moved, block, min_size(old_bytes, size_bytes));
    harden_return(block, &release);
    return moved;
}

/* ---- Threads and the process ------------------------------------------------------------------------------------- */

void harden_prepare(struct thread *thread)
{
    thread->random = os_random() | 1;
    if (checks(SECURE_QUARANTINE) && thread->quarantine == NULL)
        thread->quarantine = metapool_claim(); /* NULL: no delay for this thread's blocks */
}

void harden_empty(struct thread *thread)
{
    for (unsigned c = CLASS_FIRST; c < CLASS_END && thread->quarantine != NULL; c++)
        for (unsigned i = 0; i < QUARANTINE_SLOTS; i++) {
            void *block = thread->quarantine->slot[c][i];
            thread->quarantine->slot[c][i] = NULL;
            if (block != NULL)
                flush_block(block);
        }
}

void harden_forget(struct thread *thread)
{
    if (thread->quarantine != NULL)
        memset(thread->quarantine, 0, sizeof *thread->quarantine);
}

size_t harden_waiting(const struct thread *thread, unsigned class_id)
{
    size_t n = 0;
    for (unsigned i = 0; i < QUARANTINE_SLOTS && thread->quarantine != NULL; i++)
        n += thread->quarantine->slot[class_id][i] != NULL;
    return n;
}

size_t harden_waiting_large(size_t *sum_bytes)
{
    size_t n = 0;
    *sum_bytes = 0;
    for (unsigned i = 0; i < LARGE_QUARANTINE_SLOTS; i++) {
        const struct large *large =
            (const struct large *)atomic_load(&large_quarantine[i]); /* NOLINT: our own record */
        n += large != NULL;
        *sum_bytes += large == NULL ? 0 : span_usable_bytes(large->base);
    }
    return n;
}

void harden_release_waiting(void)
{
    for (unsigned i = 0; i < LARGE_QUARANTINE_SLOTS; i++) {
        struct large *large = (struct large *)atomic_exchange(&large_quarantine[i], 0); /* NOLINT: our own record */
        if (large != NULL)
            release_large(large);
    }
}

static void check_free(void *block)
{
    size_t block_bytes = block_bytes_of(block);
    if (block_bytes != 0 && !is_zero(block, block_bytes))
        report_misuse("exit", "a free block was written to", block, "class of bytes", block_bytes);
}

void harden_check_at_exit(void)
{
    struct thread *thread = harden_state == HARDEN_ON && checks(SECURE_ZERO) ? thread_enter() : NULL;
    if (thread == NULL)
        return;
    for (unsigned c = CLASS_FIRST; c < CLASS_END; c++) {
        for (void **at = thread->cache.magazine[c].base; at != thread->cache.magazine[c].top; at++)
            check_free(*at);
        for (unsigned i = 0; i < QUARANTINE_SLOTS && thread->quarantine != NULL; i++)
            if (thread->quarantine->slot[c][i] != NULL)
                check_free(thread->quarantine->slot[c][i]);
    }
    thread_leave(thread);
}
