/* refill.c - the slow path of malloc: blocks move from slabs into a magazine, a batch at a time; above 4 KiB, the
 * choice of class or span.
 * Owns     nothing.     Called by  api/malloc.c, api/override.c     Calls  thread.h, shared_pool.h, large.h
 * Threads  each on its own record; without a record, on the shared pool.
 * Blocks leave the slab before they enter the magazine, so that at any instruction each is in one place at most.
 */
#include "front/flush.h"
#include "front/harden.h"
#include "front/sampler.h"
#include "front/hit.h"
#include "front/pressure.h"
#include "front/profile.h"
#include "front/route.h"
#include "front/straight.h"
#include "front/thread.h"
#include "pool/emergency.h"
#include "pool/gap.h"
#include "pool/large.h"
#include "pool/shared_pool.h"
#include "pool/tail.h"
#include "service/budget.h"
#include "service/config.h"

#include <errno.h>

#define LOOK_AFTER_REFILLS 128

/* The slab to claim from: the thread's current one, unless its SuperSlab is draining. */
static struct slab *current_slab(struct thread *thread, unsigned class_id)
{
    struct slab *slab = thread->current[class_id];
    if (slab != NULL &&
        unlikely(atomic_load_explicit(&slab->superslab->tier, memory_order_relaxed) == SS_TIER_DRAINING)) {
        thread->current[class_id] = NULL; /* relaxed: a block more or less from a draining SuperSlab does no harm */
        shared_pool_disown_slab(slab);
        return NULL;
    }
    return slab;
}

/* The most fresh blocks that are claimed at once: about a page's worth, so that little lies in the magazine unused. */
static unsigned fresh_batch(unsigned class_id)
{
    return (unsigned)(slab_page_bytes() / class_table[class_id].bytes) + 1;
}

/* A block of the next larger class from this thread's magazine, if there are at least two: it costs no fresh page.
 * Classes grow and shrink at different times; lending upwards keeps the sum of their peaks nearer to the peak of
 * their sum (bench_random_mixed 10000000 4096: 0.2 of 3.1 MiB). Never where more than a quarter of the block would be
 * waste. Taking from the larger class's slab too was tried: it pushes blocks up class by class (working set 100,000:
 * 34.0 MiB instead of 32.2). */
static void *borrow(struct thread *thread, unsigned class_id)
{
    unsigned larger = class_id + 1;
    if (larger == CLASS_END || class_id == CLASS_FIRST)
        return NULL;
    size_t block_bytes = class_table[larger].bytes, smallest_request_bytes = class_table[class_id - 1].bytes + 1;
    struct magazine *magazine = &thread->cache.magazine[larger];
    void *block;
    if (block_bytes - smallest_request_bytes > block_bytes / 4 || magazine_count(magazine) < 2)
        return NULL;
    return magazine_pop(magazine, &block) ? block : NULL;
}

/* Before a fresh page is touched: one block that costs none. */
static void *claim_beside(struct thread *thread, unsigned class_id)
{
    void *block = borrow(thread, class_id);
    return block == NULL && class_table[class_id].bytes >= GAP_LEAST_BYTES ? gap_claim(class_id) : block;
}

/* The thread's first of the class, or as good as that. A class without a magazine counts no misses. */
static bool is_first_refill(const struct magazine *magazine)
{
    return magazine->max != 0 && magazine->misses <= 1;
}

/* The slab to claim from next, acquired if need be, and below which block number a claim must stay; NULL: no memory.
 * Blocks on pages that are in memory already come before fresh ones: they cost no page fault, and the heap stays small,
 * whether those pages are the first of a slab or what a purge has left of it. *fresh tells that only fresh ones are left, of
 * which a claim takes fresh_batch at most. */
static struct slab *choose_slab(struct thread *thread, unsigned class_id, unsigned *end, bool *fresh)
{
    struct slab *slab = current_slab(thread, class_id);
    if (slab == NULL) {
        slab = is_first_refill(&thread->cache.magazine[class_id]) ? shared_pool_acquire_first_slab(class_id)
                                                                  : shared_pool_acquire_slab(class_id);
        if (slab == NULL)
            return NULL;
        thread->current[class_id] = slab;
    }
    *fresh = false;
    *end = SLAB_RECYCLED;
    if (slab_is_all_dirty(slab) || slab_has_recycled(slab))
        return slab;
    struct slab *recycled = shared_pool_acquire_recycled(class_id, slab);
    if (recycled != NULL) {
        thread->current[class_id] = recycled;
        shared_pool_disown_slab(slab);
        slab = recycled;
        if (slab_is_all_dirty(slab) || slab_has_recycled(slab))
            return slab;
    }
    *fresh = true;
    *end = slab_lowest_free(slab) + fresh_batch(class_id);
    return slab;
}

/* The thread's slab has no free block: another one next time. */
static void leave_full_slab(struct thread *thread, unsigned class_id)
{
    struct slab *slab = thread->current[class_id];
    thread->current[class_id] = NULL;
    shared_pool_disown_slab(slab);
}

/* Claims up to n blocks, out[0] the highest; acquires slabs until there is at least one. 0: no memory.
 * Before fresh blocks, unless the class must be exact, one of the next class. */
static unsigned claim(struct thread *thread, unsigned class_id, bool exact, unsigned n, void **out)
{
    for (;;) {
        unsigned end;
        bool fresh;
        struct slab *slab = choose_slab(thread, class_id, &end, &fresh);
        if (slab == NULL)
            return 0;
        if (fresh && !exact && config.secure == 0 && (out[0] = claim_beside(thread, class_id)) != NULL)
            return 1;
        unsigned n_claimed = slab_claim(slab, n, end, out);
        if (n_claimed != 0)
            return n_claimed;
        leave_full_slab(thread, class_id);
    }
}

/* Opens a word of the thread's slab, whose last one has no free block, and claims a block of it. NULL: no memory. */
static void *open_next_word(struct thread *thread, unsigned class_id)
{
    struct open_word *open = &thread->open_word[class_id];
    open->len_bytes = 0;
    for (;;) {
        unsigned end;
        bool fresh;
        struct slab *slab = choose_slab(thread, class_id, &end, &fresh);
        if (slab == NULL)
            return NULL;
        open->free = slab_claim_word(slab, end, &open->word);
        if (open->free != 0) {
            const struct class_info *class = &class_table[class_id];
            open->slab = slab;
            open->memory = slab->memory + (size_t)open->word * 64 * class->bytes;
            open->len_bytes = (uint32_t)min_size(64, class->n_blocks - open->word * 64) * class->bytes;
            return open_word_pop(open, class_id);
        }
        leave_full_slab(thread, class_id);
    }
}

/* Without a record: one block from a slab that is ours for the moment. */
static void *claim_from_pool(unsigned class_id)
{
    for (;;) {
        struct slab *slab = shared_pool_acquire_slab(class_id);
        if (slab == NULL)
            return NULL;
        void *block;
        unsigned n = slab_claim(slab, 1, UINT16_MAX, &block);
        shared_pool_disown_slab(slab);
        if (n == 1)
            return block;
    }
}

/* What a thread cached wrongly is found when it ends, for then all of that is flushed. Only for one that lives on, or the
 * process's first, which ends without it, is it looked for before. (bench_workloads thread_churn, whose threads live for 30
 * microseconds: 10 million instructions instead of 43.) */
static bool worth_a_look(const struct thread *thread)
{
    return thread->next == NULL || thread->refills - thread->refills_before > LOOK_AFTER_REFILLS;
}

static void *refill(struct thread *thread, unsigned class_id, bool exact)
{
    struct magazine *magazine = &thread->cache.magazine[class_id];
    thread->refills++;
    if (tiny_route_of(class_table[class_id].range) == HAK_ROUTE_POOL_ONLY)
        return open_next_word(thread, class_id);

    if (magazine->base == NULL) {
        if (worth_a_look(thread))
            flush_look_for_misuse(thread); /* rarely enough, and while little is cached */
        magazine_grow(thread, class_id);
    }
    magazine->misses++;
    magazine->refilled = MAGAZINE_REFILLED;
    uint32_t capacity = magazine_capacity(magazine);
    void **batch = magazine->base;                /* above top: nobody looks there yet */
    unsigned n = capacity < 2 ? 1 : capacity / 2; /* The other half is room for what the program frees meanwhile. */
    unsigned n_claimed = claim(thread, class_id, exact, n, batch);
    if (n_claimed == 0)
        return NULL;
    if (unlikely(config.secure & SECURE_RANDOM))
        harden_shuffle(thread, batch, n_claimed);
    void *block = batch[n_claimed - 1];
    atomic_signal_fence(memory_order_acq_rel); /* contents before top: see magazine.h */
    magazine->top = magazine->base + (n_claimed - 1);
    if (n_claimed == n) /* A full batch: a larger one would have saved the next miss. */
        magazine_grow(thread, class_id);
    return block;
}

/* A block of the class from what the thread has at hand: the door was closed, so its magazine need not be empty; or the
 * class has no magazine, but an open word. */
static void *pop_at_hand(struct thread *thread, unsigned class_id)
{
    void *block;
    if (magazine_pop(&thread->cache.magazine[class_id], &block))
        return block;
    return class_id < CLASS_FIRST + N_TINY_CLASSES ? open_word_pop(&thread->open_word[class_id], class_id) : NULL;
}

static COLD void note_failure(void)
{
    budget_open_reserve(); /* of no meaning without a budget */
    errno = ENOMEM;
}

/* From slabs: a batch; while the budget has no room for a slab's worth, one block. */
static void *claim_from_slabs(struct thread *thread, unsigned class_id, bool exact)
{
    if (unlikely(budget_is_set()) && !pressure_admit(thread, SLAB_BYTES))
        return pressure_claim_one(thread, class_id);
    return thread != NULL ? refill(thread, class_id, exact) : claim_from_pool(class_id);
}

static void *claim_class(unsigned class_id, bool exact)
{
    struct thread *thread = thread_enter();
    if (thread == NULL)
        return claim_from_slabs(NULL, class_id, exact);
    profile_follow_if_due(thread);
    span_cache_look(thread);
    void *block = pop_at_hand(thread, class_id);
    if (block == NULL)
        block = claim_from_slabs(thread, class_id, exact);
    thread_leave(thread);
    return block;
}

void *front_claim_class(unsigned class_id, bool exact)
{
    void *block = claim_class(class_id, exact);
    if (unlikely(pressure_is_news(block)) && pressure_tell(block == NULL))
        block = claim_class(class_id, exact);
    if (unlikely(block == NULL) && pressure_last_resort(class_table[class_id].bytes))
        block = claim_class(class_id, exact);
    if (unlikely(block == NULL) && shared_pool_list_spare(class_id))
        block = claim_class(class_id, exact);
    if (unlikely(block == NULL) && pool_lock_is_mine()) {
        size_t block_bytes = class_table[class_id].bytes;
        block = emergency_claim(block_bytes, block_bytes & -block_bytes); /* any alignment that the class stands for */
    }
    if (unlikely(block == NULL))
        note_failure();
    return block;
}

/* For the doors: whether *block is the answer, in a process that is hardened, or samples; else the door leads on. */
static inline bool is_answered(size_t size_bytes, size_t alignment, void **block)
{
    return unlikely(harden_mode() != HARDEN_OFF) && harden_answers(size_bytes, alignment, block);
}

static NOINLINE void *claim_slow(size_t size_bytes)
{
    void *block = NULL;
    unsigned class_id = class_of(size_bytes);
    if (is_answered(size_bytes, 1, &block))
        return block;
    struct thread *thread = thread_enter_open();
    if (likely(thread != NULL)) { /* A class without a magazine comes here every time. */
        if (class_id < CLASS_FIRST + N_TINY_CLASSES)
            block = open_word_pop(&thread->open_word[class_id], class_id);
        thread_leave_open(thread);
        if (block != NULL)
            return block;
    }
    return front_claim_class(class_id, false);
}

void *front_claim_slow(size_t size_bytes)
{
    return STRAIGHT(malloc, claim_slow(size_bytes), size_bytes);
}

/* The longest block that is made of what a thread holds. */
static size_t most_held_bytes(enum large_place place)
{
    return place == LARGE_GROWING ? SPAN_GROWN_MAX_BYTES : SPAN_MAX_BYTES;
}

static bool may_be_packed(size_t alignment, enum large_place place)
{
    return alignment <= PACKED_PAGE_BYTES && place == LARGE_ANYWHERE;
}

static void *claim_large(size_t size_bytes, size_t alignment, enum large_place place, bool *zeroed)
{
    struct thread *thread = thread_enter();
    size_t len_bytes = round_up(min_size(size_bytes, PTRDIFF_MAX), os_page_bytes());
    bool promised = budget_is_set();
    void *block = NULL;
    if (thread != NULL)
        profile_follow_if_due(thread);
    if (thread != NULL && place != LARGE_APART && len_bytes <= most_held_bytes(place) && alignment <= SLAB_BYTES)
        block = span_cache_claim(thread, max_size(len_bytes, os_page_bytes()), may_be_packed(alignment, place), zeroed);
    if (block == NULL && (likely(!promised) || pressure_promise(thread, len_bytes))) {
        block = large_claim(size_bytes, alignment, place, zeroed);
        if (promised)
            budget_settle(len_bytes);
    }
    if (likely(block != NULL))
        tail_note(block);
    if (thread != NULL)
        thread_leave(thread);
    return block;
}

static void *claim_large_or_more(size_t size_bytes, size_t alignment, enum large_place place, bool *zeroed)
{
    void *block = claim_large(size_bytes, alignment, place, zeroed);
    if (unlikely(pressure_is_news(block)) && pressure_tell(block == NULL))
        block = claim_large(size_bytes, alignment, place, zeroed);
    if (unlikely(block == NULL) && pressure_last_resort(size_bytes))
        block = claim_large(size_bytes, alignment, place, zeroed);
    if (unlikely(block == NULL) && pool_lock_is_mine()) {
        block = emergency_claim(size_bytes, alignment);
        *zeroed = true;
    }
    if (unlikely(block == NULL))
        note_failure();
    return block;
}

void *front_try_span(size_t size_bytes, size_t alignment, bool *zeroed)
{
    return claim_large(size_bytes, alignment, LARGE_ANYWHERE, zeroed);
}

void *front_claim_apart(size_t size_bytes, size_t alignment)
{
    bool zeroed = false;
    return claim_large(size_bytes, alignment, LARGE_APART, &zeroed);
}

static ALWAYS_INLINE void *claim_at(size_t size_bytes, size_t alignment, enum large_place place, bool *zeroed)
{
    void *block = NULL;
    if (likely(alignment <= SLAB_BYTES && size_bytes <= most_held_bytes(place)))
        block = span_cache_claim_again(size_bytes, may_be_packed(alignment, place), zeroed);
    if (block == NULL)
        block = claim_large_or_more(size_bytes, alignment, place, zeroed);
    if (unlikely(harden_mode() == HARDEN_PROFILING) && block != NULL)
        profile_consider(block, size_bytes);
    return block;
}

void *front_claim_span(size_t size_bytes, size_t alignment, bool *zeroed)
{
    return claim_at(size_bytes, alignment, LARGE_ANYWHERE, zeroed);
}

void *front_claim_grown(size_t size_bytes)
{
    bool zeroed = false;
    return claim_at(size_bytes, 1, LARGE_GROWING, &zeroed);
}

bool front_resize_span(void *block, size_t size_bytes)
{
    struct thread *thread = thread_enter();
    size_t old_bytes = budget_is_set() ? large_usable_bytes(block) : SIZE_MAX;
    size_t more_bytes =
        size_bytes <= old_bytes ? 0 : round_up(min_size(size_bytes, PTRDIFF_MAX) - old_bytes, os_page_bytes());
    bool resized = false;
    if (thread != NULL && thread->span_cache.held_slabs != 0 && size_bytes > large_usable_bytes(block))
        span_cache_make_way(thread, block);
    if (more_bytes == 0 || pressure_promise(thread, more_bytes)) {
        resized = large_resize(block, size_bytes);
        if (more_bytes != 0)
            budget_settle(more_bytes);
        if (resized)
            tail_note(block);
    }
    if (thread != NULL)
        thread_leave(thread);
    if (unlikely(profile_has_records()) && resized)
        profile_resized(block, size_bytes);
    return resized;
}

void front_shrink_span(void *block, size_t size_bytes)
{
    struct thread *thread = thread_enter();
    bool shrunk = large_shrink(block, size_bytes);
    if (shrunk)
        tail_note(block);
    if (thread != NULL)
        thread_leave(thread);
    if (unlikely(profile_has_records()) && shrunk)
        profile_resized(block, size_bytes);
}

static NOINLINE void *claim_medium_slow(size_t size_bytes, unsigned class_id)
{
    void *block;
    return is_answered(size_bytes, 1, &block) ? block : front_claim_class(class_id, false);
}

HIT_TEXT void *front_claim_above_small(size_t size_bytes)
{
    void *block;
    if (likely(size_bytes <= CLASS_MAX_BYTES)) {
        unsigned class_id = class_of_medium(size_bytes);
        struct cache *cache = cache_behind_door();
        if (likely(cache_pop(cache, cache->claim_offset_of_class[class_id], &block)) ||
            sampler_hit(cache, (size_t)class_id * CLASS_OFFSET_SCALE, size_bytes, &block))
            return block;
        return claim_medium_slow(size_bytes, class_id);
    }
    bool zeroed = false;
    return front_claim_large(size_bytes, &zeroed);
}

void *front_claim_as(size_t size_bytes, enum block_kind kind)
{
    if (harden_is_on())
        return STRAIGHT(new, harden_claim(size_bytes, 1, kind), size_bytes, kind);
    return size_bytes <= SMALL_MAX_BYTES ? front_claim_slow(size_bytes) : front_claim_above_small(size_bytes);
}

HIT_TEXT void *front_claim_aligned(size_t size_bytes, size_t alignment, enum block_kind kind)
{
    if (harden_is_on())
        return harden_claim(size_bytes, alignment, kind);
    if (alignment <= 16) {
        size_t least_bytes = front_told_bytes(size_bytes, alignment);
        return least_bytes <= SMALL_MAX_BYTES ? front_claim_slow(least_bytes) : front_claim_above_small(least_bytes);
    }
    unsigned class_id = class_of_aligned(size_bytes, alignment);
    bool zeroed = false;
    struct cache *cache = cache_behind_door();
    void *block;
    if (class_id != 0 && (cache_pop(cache, cache->claim_offset_of_class[class_id], &block) ||
                          sampler_hit(cache, (size_t)class_id * CLASS_OFFSET_SCALE, size_bytes, &block)))
        return block;
    if (is_answered(size_bytes, alignment, &block))
        return block;
    return class_id != 0 ? front_claim_class(class_id, true) : front_claim_span(size_bytes, alignment, &zeroed);
}

void *front_claim_large(size_t size_bytes, bool *zeroed)
{
    if (!harden_is_on())
        return front_claim_span(size_bytes, 1, zeroed);
    *zeroed = true; /* harden.c clears large blocks */
    return harden_claim(size_bytes, 1, KIND_MALLOC);
}
