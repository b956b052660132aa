/* refill.c - a block of a class where its magazine is empty: blocks move from slabs into a magazine, a batch at a time.
 * Owns     nothing.     Called by  doors.c, harden.c     Calls  thread.h, flush.h, pressure.h, shared_pool.h
 * Threads  each on its own record; without a record, on the shared pool.
 * Blocks leave the slab before they enter the magazine, so that at any instruction each is in one place at most.
 */
#include "front/flush.h"
#include "front/harden.h"
#include "front/pressure.h"
#include "front/profile.h"
#include "front/route.h"
#include "front/thread.h"
#include "pool/emergency.h"
#include "pool/gap.h"
#include "pool/shared_pool.h"
#include "service/budget.h"
#include "service/config.h"

#define LOOK_AFTER_REFILLS 128

/* With more than MANY_THREADS a thread owns no slab of a class before its fourth refill of it, flushes counted as refills: until then it
 * claims 512 bytes at a time, or one block, and lets the slab go, so that the next thread claims the blocks beside. A slab of its own
 * costs a thread a page for each class, however few blocks it wants. (1,000 threads that hold 60 blocks of 8 to 1024 bytes each: 111 MiB
 * without, 48 so, glibc 25. With a bound of 8 threads and 1 KiB at a time, after one refill 59, after two 46, after three 42, always 42.) */
#define SHARED_REFILLS 3
#define SHARED_BATCH_BYTES 512

/* The slab to claim from: the thread's current one, unless its SuperSlab is draining. */
static struct slab *current_slab(struct thread *thread, unsigned class_id)
{
    struct slab *slab = thread->current[class_id];
    if (slab != NULL &&
        unlikely(atomic_load_explicit(&slab->superslab->tier, memory_order_relaxed) == SS_TIER_DRAINING)) {
        thread_leave_slab(thread, class_id); /* relaxed: a block more or less from a draining SuperSlab does no harm */
        return NULL;
    }
    return slab;
}

/* The most fresh blocks that are claimed at once: about a page's worth, or two where the slab has handed out two, so that little
 * lies in the magazine unused. (Always one: bench_random_mixed 2000000 20000 took 1.2 instructions more for each operation, and 1 % fewer
 * page faults.) */
static unsigned fresh_batch(const struct slab *slab, unsigned class_id)
{
    size_t block_bytes = class_table[class_id].bytes, page_bytes = slab_page_bytes();
    /* relaxed: the owner */
    unsigned n_before = count_bits(atomic_load_explicit(&slab->dirty_pages, memory_order_relaxed));
    return (unsigned)((n_before < 2 || block_bytes > page_bytes / 2 ? page_bytes : 2 * page_bytes) / block_bytes) + 1;
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
    *end = slab_lowest_free(slab) + fresh_batch(slab, class_id);
    return slab;
}

/* Claims up to n blocks, out[0] the highest; acquires slabs until there is at least one. 0: no memory.
 * Before fresh blocks, unless the class must be exact, one of the next class. */
static unsigned claim(struct thread *thread, unsigned class_id, bool exact, unsigned n, void **out, unsigned *clean)
{
    for (;;) {
        unsigned end;
        bool fresh;
        struct slab *slab = choose_slab(thread, class_id, &end, &fresh);
        if (slab == NULL)
            return 0;
        if (fresh && !exact && config.secure == 0 && (out[0] = claim_beside(thread, class_id)) != NULL)
            return 1;
        unsigned dirty = atomic_load_explicit(&slab->dirty_pages, memory_order_relaxed); /* relaxed: the owner */
        unsigned n_claimed = slab_claim(slab, n, end, out);
        if (n_claimed != 0) {
            *clean = fresh ? ~dirty : 0;
            return n_claimed;
        }
        thread_leave_slab(thread, class_id);
    }
}

/* A block of an open word: the lowest, or any of them in hardened mode. */
static void *pop_open(struct thread *thread, unsigned class_id)
{
    struct open_word *open = &thread->open_word[class_id];
    if (unlikely(config.secure & SECURE_RANDOM))
        return open_word_pop_nth(open, class_id, harden_below(thread, (unsigned)__builtin_popcountll(open->free)));
    return open_word_pop(open, class_id);
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
            return pop_open(thread, class_id);
        }
        thread_leave_slab(thread, class_id);
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

/* Whether the thread is to own no slab of the class yet. (Misses are few again in a magazine that was spared at the thread's bound: then its
 * slab serves others too, for a while.) */
static bool shares_slabs(const struct magazine *magazine)
{
    return magazine->misses <= SHARED_REFILLS && thread_count() > MANY_THREADS;
}

/* How many blocks of n it then claims. */
static unsigned shared_batch(unsigned class_id, unsigned n)
{
    unsigned most = SHARED_BATCH_BYTES / class_table[class_id].bytes;
    return most == 0 ? 1 : (unsigned)min_size(most, n);
}

static void *refill(struct thread *thread, unsigned class_id, bool exact, unsigned *clean)
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
    bool shares = shares_slabs(magazine);
    unsigned n_claimed = claim(thread, class_id, exact, unlikely(shares) ? shared_batch(class_id, n) : n, batch, clean);
    if (n_claimed == 0)
        return NULL;
    if (unlikely(config.secure & SECURE_RANDOM))
        harden_shuffle(thread, batch, n_claimed);
    void *block = batch[n_claimed - 1];
    atomic_signal_fence(memory_order_acq_rel); /* contents before top: see magazine.h */
    magazine->top = magazine->base + (n_claimed - 1);
    if (unlikely(shares) && thread->current[class_id] != NULL)
        thread_leave_slab(thread, class_id); /* the blocks are in the magazine: a fork meanwhile loses none */
    /* A full batch: a larger one would have saved the next miss. */
    if (n_claimed == n)
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
    return class_id < CLASS_FIRST + N_TINY_CLASSES ? pop_open(thread, class_id) : NULL;
}

/* From slabs: a batch; while the budget has no room for a slab's worth, one block. */
static void *claim_from_slabs(struct thread *thread, unsigned class_id, bool exact, unsigned *clean)
{
    if (unlikely(budget_is_set()) && !pressure_admit(thread, SLAB_BYTES))
        return pressure_claim_one(thread, class_id);
    return thread != NULL ? refill(thread, class_id, exact, clean) : claim_from_pool(class_id);
}

static void *claim_class(unsigned class_id, bool exact, unsigned *clean)
{
    *clean = 0;
    struct thread *thread = thread_enter();
    if (thread == NULL)
        return claim_from_slabs(NULL, class_id, exact, clean);
    profile_follow_if_due(thread);
    span_cache_look(thread);
    void *block = pop_at_hand(thread, class_id);
    if (block == NULL)
        block = claim_from_slabs(thread, class_id, exact, clean);
    thread_leave(thread);
    return block;
}

void *front_claim_class_clean(unsigned class_id, bool exact, unsigned *clean)
{
    void *block = claim_class(class_id, exact, clean);
    if (unlikely(pressure_is_news(block)) && pressure_tell(block == NULL))
        block = claim_class(class_id, exact, clean);
    if (unlikely(block == NULL) && pressure_last_resort(class_table[class_id].bytes))
        block = claim_class(class_id, exact, clean);
    if (unlikely(block == NULL) && shared_pool_list_spare(class_id))
        block = claim_class(class_id, exact, clean);
    if (unlikely(block == NULL) && pool_lock_is_mine()) {
        size_t block_bytes = class_table[class_id].bytes;
        block = emergency_claim(block_bytes, block_bytes & -block_bytes); /* any alignment that the class stands for */
    }
    if (unlikely(block == NULL))
        pressure_note_failure();
    return block;
}

void *front_claim_class(unsigned class_id, bool exact)
{
    unsigned clean;
    return front_claim_class_clean(class_id, exact, &clean);
}
