/* magazine.h - a thread's arrays of free blocks, and the two operations that malloc() and free() hit.
 *
 *   base          top            limit
 *    |b|b|b|b|b|b| | | | | | | | |        pop: b = *--top, unless top == base
 *                                         push: *top++ = b, unless top == limit
 * A magazine whose base, top and limit are equal is a closed door: both operations go to the slow path. So are all
 * magazines of the constant closed cache, and those of classes without a magazine: nothing on the hit path asks why.
 *
 * Invariant: while top moves, a block is above or below it, never counted twice: pop reads the block before it lowers
 * top, push writes the block before it raises top. What a fork() in between copies is a magazine that lacks one block
 * at most.
 */
#ifndef HAKMEM_FRONT_MAGAZINE_H
#define HAKMEM_FRONT_MAGAZINE_H

#include "meta/registry.h"
#include "meta/sizeclass.h"

#define MAGAZINE_FIRST_CAPACITY 8

/* After so many flushes without a refill a thread counts as one that only frees blocks of the class. It gains nothing by
 * keeping more than CONSUMER_CAPACITY of them: its magazine no longer grows. (bench_workloads prodcons_1_1: a peak of 5.9 MiB
 * instead of 8.6.) */
#define MAGAZINE_REFILLED 8
#define CONSUMER_CAPACITY 32

struct magazine {
    void **top;
    void **base;
    void **limit;
    uint16_t max;         /* largest capacity it may grow to; 0: no magazine (POOL_ONLY) */
    uint16_t refilled;    /* MAGAZINE_REFILLED, less one for each flush since the last refill */
    uint16_t misses;      /* refills and flushes since another class of the thread last grew; tells who is in use */
    uint16_t array_slots; /* room in the array, which outlives a shrunk capacity; a power of two */
};
_Static_assert(sizeof(struct magazine) == 8 * CLASS_OFFSET_SCALE, "a class offset times 8 is a magazine's distance");

/* What the hit paths see of a thread. The tables are part of it: a register that points here serves all. They say at which
 * magazine a claim pops: the class's own, by its class offset; or, in a thread that samples (sampler.h), magazine 0, which
 * is always empty. */
struct cache {
    struct magazine magazine[CLASS_END];
    int64_t left;       /* of a thread that samples: what may be allocated before the next pick. Else 0 */
    uint64_t cost_mask; /* an allocation takes 1 of that, and the bits of its size that are set here */
    uint8_t claim_offset[SMALL_TABLE_ENTRIES]; /* by the request's size, rounded up, / 8 */
    uint8_t claim_offset_of_class[CLASS_END];
};

extern __thread struct cache *tls_cache __attribute__((tls_model("initial-exec"), visibility("hidden")));

/* The thread's door: what its hits see. Other threads may close it; see sleepers.c and thread_call_all. */
static ALWAYS_INLINE struct cache *cache_behind_door(void)
{
    return __atomic_load_n(&tls_cache, __ATOMIC_RELAXED);
}

static ALWAYS_INLINE void cache_set_door(struct cache *cache)
{
    __atomic_store_n(&tls_cache, cache, __ATOMIC_RELAXED);
}

static ALWAYS_INLINE struct magazine *magazine_at(struct cache *cache, size_t class_offset)
{
    return (struct magazine *)(void *)((char *)cache + class_offset * 8);
}

/* Takes the youngest block out; false when the magazine is empty or closed. */
static ALWAYS_INLINE bool magazine_pop(struct magazine *magazine, void **block)
{
    void **top = magazine->top;
    if (unlikely(top == magazine->base))
        return false;
    *block = top[-1];
    atomic_signal_fence(memory_order_acq_rel); /* no instruction: keeps the order that fork relies on */
    magazine->top = top - 1;
    return true;
}

/* Puts a block in; false when the magazine is full or closed. */
static ALWAYS_INLINE bool magazine_push(struct magazine *magazine, void *block)
{
    void **top = magazine->top;
    if (unlikely(top == magazine->limit))
        return false;
    *top = block;
    atomic_signal_fence(memory_order_acq_rel); /* as above */
    magazine->top = top + 1;
    return true;
}

/* The same, for the hit paths, which know the magazine by its class offset. Each access addresses it anew, as the cache
 * plus 8 times the offset, which costs an x86 address nothing; gcc would spend an instruction on computing it once, but
 * for OPAQUE, which hides from it that the offset has not changed.
 * Changing top in memory by one instruction would save one or two more and takes longer: the next call's load then waits
 * for a read, an addition and a write (bench_workloads bignum +3 %, burst_lifo_25 +12 %). */
#define OPAQUE(offset) __asm__("" : "+r"(offset))

static ALWAYS_INLINE bool cache_pop(struct cache *cache, size_t offset, void **block)
{
#if defined(__aarch64__) /* Here an address with an offset costs more than the sum once, and two words are one load. */
    struct magazine *magazine = magazine_at(cache, offset);
    OPAQUE(magazine);
    return magazine_pop(magazine, block);
#endif
    void **top = magazine_at(cache, offset)->top;
    OPAQUE(offset);
    if (unlikely(top == magazine_at(cache, offset)->base))
        return false;
    *block = top[-1];
    atomic_signal_fence(memory_order_acq_rel); /* as above */
    OPAQUE(offset);
    magazine_at(cache, offset)->top = top - 1;
    return true;
}

static ALWAYS_INLINE bool cache_push(struct cache *cache, size_t offset, void *block)
{
#if defined(__aarch64__) /* Here an address with an offset costs more than the sum once, and two words are one load. */
    struct magazine *magazine = magazine_at(cache, offset);
    OPAQUE(magazine);
    return magazine_push(magazine, block);
#endif
    OPAQUE(offset);
    void **top = magazine_at(cache, offset)->top;
    OPAQUE(offset);
    if (unlikely(top == magazine_at(cache, offset)->limit))
        return false;
    *top = block;
    atomic_signal_fence(memory_order_acq_rel); /* as above */
    OPAQUE(offset);
    magazine_at(cache, offset)->top = top + 1;
    return true;
}

static inline uint32_t magazine_count(const struct magazine *magazine)
{
    return (uint32_t)(magazine->top - magazine->base);
}

static inline uint32_t magazine_capacity(const struct magazine *magazine)
{
    return (uint32_t)(magazine->limit - magazine->base);
}

/* ---- How they open, grow and shrink: magazine.c --------------------------------------------------------------------- */

struct thread;

/* The largest capacity that a magazine of the class may get; 0: it gets none. */
uint32_t magazine_max(const struct class_info *class);

/* Opens a magazine or doubles it, within the class's maximum and the thread's. False: it stays as it is.
 * Between thread_enter and thread_leave. */
bool magazine_grow(struct thread *thread, unsigned class_id);

/* All magazines are closed, or forgotten: they have no capacity, and the array space is free. The caller has the record as
 * thread_empty. */
void magazine_forget_arrays(struct thread *thread);

/* Gives back the pages of an array space that is free. Likewise. */
void magazine_purge_arrays(struct thread *thread);

#endif
