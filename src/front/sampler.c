/* sampler.c - see sampler.h.
 * Owns     the interval; each thread's counts.     Called by  refill.c, thread.c     Calls  flush.h, metapool.h
 * Threads  each on its own record.
 * I1  `left` of a class is how many more allocations there are to the next pick, that one included, less what has been
 *     popped of the portion.
 */
#include "front/sampler.h"

#include "front/flush.h"
#include "os/os.h"

#include <string.h>

/* What a portion has at most. More means fewer slow calls, and more blocks that take turns where one would do. */
#define PORTION_BYTES (16 * KIB)
#define PORTION_LEAST_SLOTS 4

/* After so many portions of less than half of that the class gets more blocks. (Without it, bench_random_mixed with 256 slots,
 * which has few free blocks of each class at any time, took a slow call for every third allocation.) */
#define MEAGRE_PORTIONS 4

#define LEFT_MAX ((uint32_t)1 << 31)

struct sampler {
    uint64_t random;
    uint32_t left[CLASS_END], given[CLASS_END]; /* given: the portion's blocks, those popped included */
    uint8_t meagre[CLASS_END];                  /* portions, see MEAGRE_PORTIONS */
    void *slot[CLASS_END][PORTION_MAX_SLOTS];
};
_Static_assert(sizeof(struct sampler) <= METAPOOL_PIECE_BYTES, "it is a piece of metapool.h");

static uint32_t pick_interval; /* 0: no picks */

void sampler_start(uint32_t interval)
{
    pick_interval = interval;
}

/* The natural logarithm of x > 0, to 7 digits. libm has a better one, and hakmem needs libc alone. */
static double logarithm(double x)
{
    const double ln_2 = 0.69314718055994531;
    double shift = 0;
    for (; x < 1; x *= 2)
        shift -= ln_2;
    for (; x >= 2; x /= 2)
        shift += ln_2;
    double t = (x - 1) / (x + 1), square = t * t; /* ln x = 2 (t + t^3/3 + t^5/5 + ...), t at most 1/3 */
    return shift +
           2 * t * (1 + square * (1 / 3. + square * (1 / 5. + square * (1 / 7. + square * (1 / 9. + square / 11)))));
}

/* Geometrically distributed on 1, 2, ... with the mean pick_interval. */
static uint32_t draw(struct sampler *sampler)
{
    uint64_t x = sampler->random; /* xorshift64* */
    x ^= x >> 12;
    x ^= x << 25;
    x ^= x >> 27;
    sampler->random = x;
    if (pick_interval == 1)
        return 1;
    double uniform = ((double)(x * 0x2545f4914f6cdd1du >> 11) + 0.5) / 9007199254740992.; /* in (0, 1), of 53 bits */
    double n = 1 + logarithm(uniform) / logarithm(1 - 1. / pick_interval);
    return n < LEFT_MAX ? (uint32_t)n : LEFT_MAX;
}

void sampler_prepare(struct thread *thread)
{
    if (pick_interval == 0)
        return;
    if (thread->sampler == NULL)
        thread->sampler = metapool_claim();
    struct sampler *sampler = thread->sampler;
    if (sampler == NULL)
        return; /* No memory: nothing of this thread's is picked. */
    sampler->random = os_random() | 1;
    for (unsigned c = CLASS_FIRST; c < CLASS_END; c++) {
        sampler->left[c] = draw(sampler);
        sampler->given[c] = 0;
        thread->portion[c].top = thread->portion[c].base = sampler->slot[c];
        thread->cache.claim_offset_of_class[c] = cache_offset(&thread->cache, &thread->portion[c]);
    }
    for (unsigned i = 0; i < SMALL_TABLE_ENTRIES; i++)
        thread->cache.claim_offset[i] = thread->cache.claim_offset_of_class[small_class_offset[i] / CLASS_OFFSET_SCALE];
}

bool sampler_picks(struct thread *thread, unsigned class_id)
{
    struct sampler *sampler = thread->sampler;
    struct portion *portion = &thread->portion[class_id];
    if (sampler == NULL || portion->top != portion->base)
        return false; /* the door was closed: the portion is popped next */
    sampler->left[class_id] -= sampler->given[class_id];
    sampler->given[class_id] = 0;
    if (--sampler->left[class_id] != 0)
        return false;
    sampler->left[class_id] = draw(sampler);
    return true;
}

/* The most blocks that a portion of the class may have now. */
static size_t portion_bound(const struct sampler *sampler, unsigned class_id)
{
    size_t most =
        max_size(min_size(PORTION_BYTES / class_table[class_id].bytes, PORTION_MAX_SLOTS), PORTION_LEAST_SLOTS);
    return min_size(most, sampler->left[class_id] - 1);
}

/* Moves the magazine's youngest blocks to the portion, as far as it may have them. */
static void move_to_portion(struct thread *thread, unsigned class_id)
{
    struct sampler *sampler = thread->sampler;
    struct portion *portion = &thread->portion[class_id];
    struct magazine *magazine = &thread->cache.magazine[class_id];
    size_t n = min_size(magazine_count(magazine), portion_bound(sampler, class_id) - sampler->given[class_id]);
    /* Out of the magazine before into the portion: see flush_oldest. */
    void **from = magazine->top - n;
    magazine->top = from;
    atomic_signal_fence(memory_order_acq_rel);
    memcpy(portion->top, from, n * sizeof(void *));
    atomic_signal_fence(memory_order_acq_rel);
    portion->top += n;
    sampler->given[class_id] += (uint32_t)n;
}

bool sampler_give(struct thread *thread, unsigned class_id)
{
    struct sampler *sampler = thread->sampler;
    if (thread->portion[class_id].top != thread->portion[class_id].base || sampler->given[class_id] != 0 ||
        thread->cache.magazine[class_id].max == 0)
        return false;
    move_to_portion(thread, class_id);
    if (sampler->given[class_id] >= portion_bound(sampler, class_id) / 2)
        return false;
    sampler->meagre[class_id] = (sampler->meagre[class_id] + 1) % MEAGRE_PORTIONS;
    return sampler->meagre[class_id] == 0;
}

void sampler_give_more(struct thread *thread, unsigned class_id, void *block)
{
    *thread->portion[class_id].top++ = block;
    thread->sampler->given[class_id]++;
    move_to_portion(thread, class_id);
}

void sampler_empty(struct thread *thread)
{
    for (unsigned c = CLASS_FIRST; c < CLASS_END && thread->sampler != NULL; c++) {
        struct portion *portion = &thread->portion[c];
        unsigned n = (unsigned)(portion->top - portion->base);
        portion->top = portion->base;
        thread->sampler->given[c] -= n;
        if (n != 0)
            flush_blocks(portion->base, n, c);
    }
}

void sampler_forget(struct thread *thread)
{
    for (unsigned c = CLASS_FIRST; c < CLASS_END && thread->sampler != NULL; c++) {
        thread->portion[c].top = thread->portion[c].base;
        thread->sampler->given[c] = 0;
    }
}
