/* span_cache.c - see span_cache.h.
 * Owns     thread.span_cache.     Called by  large_block.c (claims), free.c (returns), refill.c (looks), thread.c, fork.c, sleepers.c
 * Calls    held.h, background.h, shared_pool.h (the lock)
 * Threads  each on its own record; who empties a sleeper's has its record claimed (sleepers.c).
 * I1  A slot is HELD if and only if its bit is set in one place of one thread, or it is on its way there.
 * I2  held_slabs is the sum over all places, packed ones included.
 * I3  Of the first n_joined places no two are of the same SuperSlab; each further one is a block as it was freed, the youngest last.
 * None is empty.
 * Why: sixteen threads that replace blocks of 40 to 512 KiB did 1.1 million operations a second through the pool lock, and fewer
 * with each thread that was added (bench_threads large). Why bits: lists of spans by length, from which shorter ones were cut,
 * soon held nothing but pieces: 63 of 100 claims took the lock, because neighbours were not joined again.
 */
#include "front/span_cache.h"

#include "front/thread.h"
#include "meta/registry.h"
#include "os/os.h"
#include "pool/background.h"
#include "pool/held.h"
#include "pool/packed.h"
#include "pool/shared_pool.h"
#include "pool/tail.h"
#include "service/budget.h"
#include "service/config.h"
#include "service/stats.h"

/* As much as magazines may hold, or a thread's share of so large a part of the heap, up to a bound; but an eighth of the heap at
 * most. (bench_threads large, 16 threads: with what magazines may hold alone, 1 MiB and 8 places, 24 to 30 of 100 calls took the
 * lock.) */
#define ROOM_PART 8
#define ALL_ROOMS_PART 2

/* Slots that are held whether threads wait or not; then they serve blocks that take more than half of a row, and any other block puts
 * them back before it takes some: with what lies beside them they may be what it needs. (A block of 40 KiB, allocated and freed: 345
 * ns without, 55 with. If smaller blocks took from longer rows, bench_workloads stress had 18 MiB instead of 15, realloc_vector 8.9
 * instead of 7.2.) */
#define LEAST_ROOM 16

#define CROWD_MS 4 /* the clock's steps, where they are largest */

/* A thread whose claims of one length have missed so often in a row allocates what other threads free, or much at once: it takes slots
 * for several blocks at a time, if they lie beside each other, so many slots at most. (bench_workloads hand_64k: 57 ms, and 112
 * without.) */
#define AHEAD_MISSES 8
#define AHEAD_SLOTS LEAST_ROOM

static unsigned max_room_slabs(void)
{
    size_t heap_bytes = (size_t)stats_read(&stats_counters.committed_bytes);
    size_t share_bytes = heap_bytes / ALL_ROOMS_PART / max_size(thread_count(), 1);
    size_t most_bytes = min_size(max_size(thread_cache_max_bytes(), share_bytes), SPAN_CACHE_MAX_BYTES);
    return (unsigned)(min_size(most_bytes, heap_bytes / ROOM_PART) >> SLAB_SHIFT);
}

static bool is_allowed(void)
{
    return config.purge_delay_ms != 0 && config.secure == 0 && !budget_is_set();
}

/* Whether the pool lock was waited for since the last miss, and often: SPAN_CACHE_CROWD_WAITS times in CROWD_MS when this was last
 * looked at.
 * (bench_threads large, 2 to 16 threads that hold nothing: 430 times in a millisecond, and it takes two to four times as long.
 * bench_workloads stress: 13 times, and it takes as long as with slots held, which doubled its peak when it touched all of its blocks.) */
static bool is_crowded(struct span_cache *cache)
{
    uint64_t n_waits = stats_read(&stats_counters.lock_contended), seen = cache->seen_waits;
    cache->seen_waits = n_waits;
    if (n_waits - cache->looked_waits >= SPAN_CACHE_CROWD_WAITS) {
        uint32_t now_ms = os_now_ms();
        cache->crowded = now_ms - cache->looked_ms <= CROWD_MS;
        cache->looked_ms = now_ms;
        cache->looked_waits = n_waits;
    }
    return cache->crowded && n_waits != seen;
}

static void set_room(struct span_cache *cache, unsigned n)
{
    background_note_cached(((int64_t)n - cache->room_slabs) << SLAB_SHIFT);
    cache->room_slabs = (uint16_t)n;
}

/* A miss: the room grows, if threads wait for the lock often. Where they don't there is nothing to gain but instructions, and
 * memory to lose (bench_workloads realloc_vector, one thread: a peak of 9.1 MiB instead of 7.6). */
static void grow(struct span_cache *cache, unsigned n)
{
    if (!is_crowded(cache))
        return;
    unsigned room = (unsigned)min_size(cache->room_slabs + n, max_room_slabs());
    if (room <= cache->room_slabs || !is_allowed())
        return;
    set_room(cache, room);
}

/* The place of a SuperSlab where blocks have been joined; NULL: there is none. */
static struct held_slots *place_of(struct thread *thread, const struct superslab *ss)
{
    for (unsigned i = 0; i < thread->span_cache.n_joined; i++)
        if (thread->span_places[i].ss == ss)
            return &thread->span_places[i];
    return NULL;
}

/* Joins the blocks that are kept as they were freed with what lies beside them. */
static void join(struct thread *thread)
{
    struct span_cache *cache = &thread->span_cache;
    unsigned n = cache->n_places;
    for (unsigned i = cache->n_places = cache->n_joined; i < n; i++) {
        struct held_slots block = thread->span_places[i], *place = place_of(thread, block.ss);
        if (place == NULL) {
            thread->span_places[cache->n_places] = block;
            cache->n_joined = ++cache->n_places;
        } else {
            place->mask |= block.mask;
            place->dirty_pages += block.dirty_pages;
        }
    }
}

static void leave_place(struct thread *thread, unsigned i)
{
    struct span_cache *cache = &thread->span_cache;
    if (i < cache->n_joined) {
        thread->span_places[i] = thread->span_places[--cache->n_joined];
        i = cache->n_joined;
    }
    thread->span_places[i] = thread->span_places[--cache->n_places];
}

static inline void count_in(struct span_cache *cache, size_t n)
{
    cache->held_slabs = (uint16_t)(cache->held_slabs + n);
}

static inline void count_out(struct span_cache *cache, size_t n)
{
    cache->held_slabs = (uint16_t)(cache->held_slabs - n);
}

/* Out of the cache, with its slots: the caller uses them or puts them back. */
static struct held_slots take_out(struct thread *thread, unsigned i)
{
    struct held_slots slots = thread->span_places[i];
    count_out(&thread->span_cache, count_bits(slots.mask));
    leave_place(thread, i);
    return slots;
}

static unsigned place_with_fewest_slots(const struct thread *thread)
{
    unsigned fewest = 0;
    for (unsigned i = 1; i < thread->span_cache.n_places; i++)
        if (count_bits(thread->span_places[i].mask) < count_bits(thread->span_places[fewest].mask))
            fewest = i;
    return fewest;
}

/* ---- Packed blocks ------------------------------------------------------------------------------------------------ */

/* A kept block may be so much of it longer than what is asked for. */
#define SLACK_PART 8

static unsigned slots_of_packed(unsigned pages)
{
    return (pages + PACKED_PAGES - 1) / PACKED_PAGES;
}

static void *claim_packed_again(struct thread *thread, size_t size_bytes, bool *zeroed)
{
    struct span_cache *cache = &thread->span_cache;
    unsigned n = (unsigned)((size_bytes + PACKED_PAGE_BYTES - 1) / PACKED_PAGE_BYTES);
    for (unsigned i = cache->n_packed; i-- > 0;) {
        struct packed_block kept = thread->packed_places[i];
        if (kept.pages < n || kept.pages - n > kept.pages / SLACK_PART)
            continue;
        thread->packed_places[i] = thread->packed_places[--cache->n_packed];
        count_out(cache, slots_of_packed(kept.pages));
        cache->n_uses++;
        packed_give(kept.block, n);
        *zeroed = kept.is_zero != 0;
        return kept.block;
    }
    return NULL;
}

static bool keep_packed(struct thread *thread, const void *block, struct slab *slab)
{
    struct span_cache *cache = &thread->span_cache;
    unsigned n = packed_hold(slab, block);
    if (unlikely(n == 0))
        return false;
    cache->n_uses++;
    cache->misses = 0;
    count_in(cache, slots_of_packed(n));
    thread->packed_places[cache->n_packed++] = (struct packed_block){(char *)(uintptr_t)block, n, 0};
    return true;
}

/* The first n of them. */
static void put_packed(struct thread *thread, unsigned n)
{
    struct span_cache *cache = &thread->span_cache;
    struct packed_block put[SPAN_CACHE_PACKED];
    for (unsigned i = 0; i < cache->n_packed; i++) {
        if (i >= n) {
            thread->packed_places[i - n] = thread->packed_places[i];
            continue;
        }
        put[i] = thread->packed_places[i];
        count_out(cache, slots_of_packed(put[i].pages));
    }
    cache->n_packed = (uint8_t)(cache->n_packed - n);
    packed_put_held(put, n);
}

/* The slots that a block takes if it is kept; 0: it is none, or not to be kept. */
static unsigned slots_in(struct slab *slab, const void *block)
{
    if (packed_is(slab))
        return slots_of_packed(packed_length_in(slab, block));
    return slab->sample != 0 ? 0 : span_slots(slab);
}

/* ---- Either ------------------------------------------------------------------------------------------------------- */

/* Puts the places with the fewest slots back, which are the least likely to serve, until `keep` slots and n places are
 * left at most. One lock for all of them. A signal handler that interrupted its holder puts nothing back, and adds nothing. */
static void shrink(struct thread *thread, unsigned keep, unsigned n)
{
    const struct span_cache *cache = &thread->span_cache;
    struct held_slots put[SPAN_CACHE_PLACES];
    unsigned n_put = 0;
    if (pool_lock_is_mine())
        return;
    put_packed(thread, cache->n_packed);
    join(thread);
    while (cache->n_places > n || cache->held_slabs > keep)
        put[n_put++] = take_out(thread, place_with_fewest_slots(thread));
    held_put(put, n_put);
}

/* Makes a block of n slots of a place, from `slot` on. */
static void *claim_at(struct thread *thread, struct held_slots *place, unsigned slot, size_t len_bytes, bool *zeroed)
{
    struct span_cache *cache = &thread->span_cache;
    cache->n_uses++;
    void *block = held_make(place, slot, len_bytes, zeroed);
    count_out(cache, span_slots_for(len_bytes));
    if (place->mask == 0)
        leave_place(thread, (unsigned)(place - thread->span_places));
    return block;
}

static void *claim_packed_ahead(struct thread *thread, unsigned n, size_t len_bytes, bool *zeroed)
{
    struct span_cache *cache = &thread->span_cache;
    struct packed_block blocks[AHEAD_SLOTS];
    unsigned most = min_size(AHEAD_SLOTS / n, SPAN_CACHE_PACKED - cache->n_packed + 1u);
    unsigned n_blocks = most < 2 || !is_allowed() ? 0 : packed_hold_ahead(len_bytes, most, blocks);
    if (n_blocks == 0)
        return NULL;
    for (unsigned i = n_blocks - 1; i != 0; i--)
        thread->packed_places[cache->n_packed++] = blocks[i];
    count_in(cache, (n_blocks - 1) * n);
    cache->n_uses++;
    packed_give(blocks[0].block, blocks[0].pages);
    *zeroed = blocks[0].is_zero != 0;
    return blocks[0].block;
}

/* After a miss: several rows of n slots from the pool, or packed blocks, the first of them as a block, the others held. NULL: it is not
 * time for that, or there is no memory. */
static void *claim_ahead(struct thread *thread, unsigned n, size_t len_bytes, bool packed, bool *zeroed)
{
    struct span_cache *cache = &thread->span_cache;
    struct held_slots rows[AHEAD_SLOTS];
    if (n != cache->missed_slots) {
        cache->missed_slots = (uint8_t)n;
        cache->misses = 0;
    }
    if (likely(cache->misses < AHEAD_MISSES)) {
        cache->misses++;
        return NULL;
    }
    if (packed) {
        void *block = claim_packed_ahead(thread, n, len_bytes, zeroed);
        if (block != NULL && cache->held_slabs > cache->room_slabs)
            set_room(cache, cache->held_slabs);
        return block;
    }
    unsigned most = min_size(AHEAD_SLOTS / n, SPAN_CACHE_PLACES - cache->n_places + 1u);
    unsigned n_rows = most < 2 || !is_allowed() ? 0 : held_take_rows(n, most, rows);
    if (n_rows == 0)
        return NULL;
    for (unsigned i = n_rows - 1; i != 0; i--) /* the last one is claimed next: the lowest */
        thread->span_places[cache->n_places++] = rows[i];
    count_in(cache, (n_rows - 1) * n);
    if (cache->held_slabs > cache->room_slabs)
        set_room(cache, cache->held_slabs);
    cache->n_uses++;
    size_t behind_bytes; /* the caller notes them */
    return held_make_again(&rows[0], len_bytes, zeroed, &behind_bytes);
}

/* From the smallest gap, so that long rows last (bench_threads large, 16 threads: 0.8 of 100 calls take the lock; 1.5 with the first
 * that fits). */
void *span_cache_claim(struct thread *thread, size_t len_bytes, bool page, bool *zeroed)
{
    struct span_cache *cache = &thread->span_cache;
    struct held_slots *best = NULL;
    unsigned n = (unsigned)span_slots_for(len_bytes), least_left = SUPERSLAB_SLABS, best_slot = 0;
    join(thread);
    for (unsigned i = 0; i < cache->n_places && least_left != 0; i++) {
        unsigned slot, left = held_find(&thread->span_places[i], n, &slot);
        if (left < least_left) {
            least_left = left;
            best = &thread->span_places[i];
            best_slot = slot;
        }
    }
    if (best != NULL && (cache->crowded || least_left < n))
        return claim_at(thread, best, best_slot, len_bytes, zeroed);
    grow(cache, n);
    bool packed = page && packed_suits(len_bytes);
    /* Packed ones of up to a slot stay if there are no others: one that fits is soon among them. */
    if (!cache->crowded && (!packed || n > 1 || cache->n_places != 0))
        shrink(thread, 0, 0);
    return claim_ahead(thread, n, len_bytes, packed, zeroed);
}

/* Keeps a block that is being freed as it is. False: it is no span, or not in order. */
static ALWAYS_INLINE bool keep(struct thread *thread, const void *block, struct slab *slab)
{
    struct span_cache *cache = &thread->span_cache;
    struct held_slots slots;
    unsigned n = held_take(block, slab, &slots);
    if (unlikely(n == 0))
        return false;
    cache->n_uses++;
    cache->misses = 0;
    count_in(cache, n);
    thread->span_places[cache->n_places++] = slots;
    return true;
}

bool span_cache_return(struct thread *thread, const void *block, struct slab *slab)
{
    struct span_cache *cache = &thread->span_cache;
    if (slab == NULL || !is_allowed() || pool_lock_is_mine())
        return false;
    bool packed = packed_is(slab);
    unsigned n = packed ? slots_in(slab, block) : (unsigned)min_size(span_slots(slab), SPAN_MAX_SLABS);
    size_t room = cache->crowded ? max_size(cache->room_slabs, LEAST_ROOM) : LEAST_ROOM;
    if (cache->held_slabs + n > room)
        shrink(thread, cache->crowded && n < room ? (unsigned)min_size(room * 3 / 4, room - n) : 0, SPAN_CACHE_PLACES);
    if (cache->n_places == SPAN_CACHE_PLACES)
        shrink(thread, cache->room_slabs, SPAN_CACHE_PLACES / 2);
    if (cache->n_packed == SPAN_CACHE_PACKED)
        put_packed(thread, SPAN_CACHE_PACKED / 2);
    if (packed ? !keep_packed(thread, block, slab) : !keep(thread, block, slab)) /* if it is a block: both look */
        return false;
    if (cache->held_slabs > cache->room_slabs)
        set_room(cache, cache->held_slabs);
    return true;
}

/* ---- The doors --------------------------------------------------------------------------------------------------- */

void *span_cache_claim_again(size_t size_bytes, bool page, bool *zeroed)
{
    struct thread *thread = thread_enter_open();
    if (unlikely(thread == NULL))
        return NULL;
    struct span_cache *cache = &thread->span_cache;
    size_t n = span_slots_for(size_bytes);
    void *block = page && cache->n_packed != 0 ? claim_packed_again(thread, size_bytes, zeroed) : NULL;
    size_t behind_bytes = 0;
    bool look = false;
    for (unsigned i = cache->n_places; block == NULL && i-- > cache->n_joined;)
        if (held_are_row_of(&thread->span_places[i], n)) {
            struct held_slots slots = thread->span_places[i];
            count_out(cache, n);
            thread->span_places[i] = thread->span_places[--cache->n_places];
            cache->n_uses++;
            block = held_make_again(&slots, size_bytes, zeroed, &behind_bytes);
            if (unlikely(behind_bytes != 0))
                look = (cache->tail_bytes += (uint32_t)behind_bytes) >= TAIL_LOOK_BYTES;
            break;
        }
    thread_leave_open(thread);
    if (unlikely(look) && tail_look())
        cache->tail_bytes = 0; /* the owner's, and a number: a signal handler between costs nothing */
    return block;
}

bool span_cache_keep(const void *block)
{
    struct thread *thread = thread_enter_open();
    if (unlikely(thread == NULL))
        return false;
    struct span_cache *cache = &thread->span_cache;
    struct slab *slab = &registry_primary.slabs[((uintptr_t)block - registry_primary.base) >> SLAB_SHIFT];
    bool packed = packed_is(slab);
    unsigned n = slots_in(slab, block), held = cache->held_slabs + n;
    bool kept = held <= cache->room_slabs && (held <= LEAST_ROOM || cache->crowded) &&
                (packed ? cache->n_packed < SPAN_CACHE_PACKED : cache->n_places < SPAN_CACHE_PLACES) && n != 0 &&
                !budget_is_set() && atomic_load_explicit(&cache->stale, memory_order_relaxed) == 0 && /* a hint */
                (packed ? keep_packed(thread, block, slab) : keep(thread, block, slab));
    thread_leave_open(thread);
    return kept;
}

/* ---- The rest of its life ---------------------------------------------------------------------------------------- */

void span_cache_make_way(struct thread *thread, const void *block)
{
    struct span_cache *cache = &thread->span_cache;
    const struct slab *slab = cache->n_places + cache->n_packed == 0 ? NULL : registry_slab(block);
    if (slab == NULL || pool_lock_is_mine())
        return;
    put_packed(thread, cache->n_packed);
    join(thread);
    struct held_slots *place = place_of(thread, arena_superslab_of(slab));
    if (place == NULL)
        return;
    struct held_slots slots = take_out(thread, (unsigned)(place - thread->span_places));
    held_put(&slots, 1);
}

void span_cache_empty(struct thread *thread)
{
    struct span_cache *cache = &thread->span_cache;
    if (pool_lock_is_mine())
        return; /* the next time */
    shrink(thread, 0, 0);
    background_note_cached(-((int64_t)cache->room_slabs << SLAB_SHIFT));
    cache->room_slabs = 0;
    cache->crowded = 0;
    atomic_store_explicit(&cache->stale, 0, memory_order_relaxed); /* relaxed: a hint */
}

void span_cache_forget(struct thread *thread)
{
    thread->span_cache.n_places = thread->span_cache.n_joined = thread->span_cache.n_packed = 0;
    thread->span_cache.held_slabs = 0;
}

size_t span_cache_tick(struct thread *thread)
{
    struct span_cache *cache = &thread->span_cache;
    if (cache->room_slabs == 0)
        return 0;
    if (cache->seen_uses == cache->n_uses)
        atomic_store_explicit(&cache->stale, 1, memory_order_relaxed); /* relaxed: a hint */
    cache->seen_uses = cache->n_uses;
    return thread_held_pages(thread) * slab_page_bytes();
}
