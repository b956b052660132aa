/* sampler.c - see sampler.h.
 * Owns     the chance of a pick; each thread's counts.     Called by  refill.c, thread.c, harden.c, profile.c
 * Calls    flush.h, metapool.h
 * Threads  each on its own record.
 * I1  `left` of a class is how many more allocations there are to the next pick, that one included, less what has been
 *     popped of the portion.
 */
#include "front/sampler.h"

#include "front/flush.h"
#include "os/os.h"
#include "pool/shared_pool.h"

#include <string.h>

/* What a portion has at most. More means fewer slow calls, and more blocks that take turns where one would do. */
#define PORTION_BYTES (32 * KIB)
#define PORTION_LEAST_SLOTS 4

/* After so many portions of less than this part of it the class gets more blocks. (Without it, bench_random_mixed with 256 slots,
 * which has few free blocks of each class at any time, took a slow call for every third allocation. With a half instead of
 * a quarter, threads that live shortly pay for blocks that they do not come to use: larson 19 % instead of 13.) */
#define MEAGRE_PORTIONS 4
#define MEAGRE_PART 4

#define LEFT_MAX ((uint32_t)1 << 31)

struct sampler {
    uint64_t random;
    uint32_t left[CLASS_END], given[CLASS_END]; /* given: the portion's blocks, those popped included */
    uint8_t meagre[CLASS_END];                  /* portions, see MEAGRE_PORTIONS */
    void *slot[CLASS_END][PORTION_MAX_SLOTS];
};
_Static_assert(sizeof(struct sampler) <= METAPOOL_PIECE_BYTES, "it is a piece of metapool.h");

_Atomic uint32_t sampler_epoch;

static _Atomic bool picks;
/* Of each class: the number of allocations from one pick to the next is 1 plus what is whole in -ln(u) times this, u being
 * uniform in (0, 1). 0: each is picked. */
static SELDOM_USED double stretch[CLASS_END];
static uint8_t portion_most[CLASS_END]; /* blocks */

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

/* Geometrically distributed on 1, 2, ... */
static uint32_t draw(struct sampler *sampler, unsigned class_id)
{
    uint64_t x = sampler->random; /* xorshift64* */
    x ^= x >> 12;
    x ^= x << 25;
    x ^= x >> 27;
    sampler->random = x;
    double uniform = ((double)(x * 0x2545f4914f6cdd1du >> 11) + 0.5) / 9007199254740992.; /* in (0, 1), of 53 bits */
    double n = 1 - logarithm(uniform) * stretch[class_id];
    return n < LEFT_MAX ? (uint32_t)n : LEFT_MAX;
}

/* Threads see a new epoch after what it stands for. */
static void change(bool on)
{
    for (unsigned c = CLASS_FIRST; c < CLASS_END && portion_most[CLASS_END - 1] == 0; c++) /* the first time only */
        portion_most[c] = (uint8_t)max_size(min_size(PORTION_BYTES / class_table[c].bytes, PORTION_MAX_SLOTS),
                                            PORTION_LEAST_SLOTS);
    atomic_store_explicit(&picks, on, memory_order_relaxed); /* relaxed: the epoch publishes it */
    atomic_fetch_add_explicit(&sampler_epoch, 1, memory_order_release);
}

void sampler_start_by_count(uint32_t n)
{
    for (unsigned c = CLASS_FIRST; c < CLASS_END; c++)
        stretch[c] = n == 1 ? 0 : -1 / logarithm(1 - 1. / n);
    change(true);
}

/* A block of b bytes is picked with the chance 1 - exp(-b/interval), so -1/ln(1 - chance) is interval/b. */
void sampler_start_by_bytes(size_t interval_bytes)
{
    for (unsigned c = CLASS_FIRST; c < CLASS_END; c++)
        stretch[c] = (double)interval_bytes / class_table[c].bytes;
    change(true);
}

void sampler_stop(void)
{
    change(false);
}

/* Claims pop from the portions, which are empty: so the next ones come by the slow path. */
static void begin(struct thread *thread)
{
    struct sampler *sampler = thread->sampler;
    sampler->random = os_random() | 1;
    for (unsigned c = CLASS_FIRST; c < CLASS_END; c++) {
        sampler->left[c] = draw(sampler, c);
        sampler->given[c] = 0;
        thread->portion[c].top = thread->portion[c].base = sampler->slot[c];
        thread->cache.claim_offset_of_class[c] = cache_offset(&thread->cache, &thread->portion[c]);
    }
    for (unsigned i = 0; i < SMALL_TABLE_ENTRIES; i++)
        thread->cache.claim_offset[i] = thread->cache.claim_offset_of_class[small_class_offset[i] / CLASS_OFFSET_SCALE];
}

OFTEN void sampler_dissolve(struct thread *thread)
{
    sampler_empty(thread);
    thread->sampler = NULL;
    for (unsigned c = CLASS_FIRST; c < CLASS_END; c++)
        thread->cache.claim_offset_of_class[c] = (uint16_t)(c * CLASS_OFFSET_SCALE);
    for (unsigned i = 0; i < SMALL_TABLE_ENTRIES; i++)
        thread->cache.claim_offset[i] = small_class_offset[i];
}

static void *claim_piece(bool locked)
{
    if (!locked && !pool_lock(HAK_LOCK_METADATA))
        return NULL;
    void *piece = metapool_claim();
    if (!locked)
        pool_unlock();
    return piece;
}

OFTEN void sampler_follow(struct thread *thread, bool locked)
{
    uint32_t epoch = atomic_load_explicit(&sampler_epoch, memory_order_acquire);
    bool on = atomic_load_explicit(&picks, memory_order_relaxed);
    /* What an earlier thread's record has still holds: the counts have no memory. relaxed: our own */
    if (atomic_load_explicit(&thread->sampler_epoch, memory_order_relaxed) == epoch && (thread->sampler != NULL) == on)
        return;
    atomic_store(&thread->sampler_epoch, epoch);
    atomic_store(&thread->door, &thread->cache); /* after the epoch: see keep_door_closed in thread.c */
    if (on && thread->sampler_piece == NULL)
        thread->sampler_piece = claim_piece(locked); /* NULL: no memory; nothing of this thread's is picked. */
    if (thread->sampler != NULL)
        sampler_dissolve(thread);
    if (on && thread->sampler_piece != NULL) {
        thread->sampler = thread->sampler_piece;
        begin(thread);
    }
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
    sampler->left[class_id] = draw(sampler, class_id);
    return true;
}

/* The most blocks that a portion of the class may have now. */
static size_t portion_bound(const struct sampler *sampler, unsigned class_id)
{
    return min_size(portion_most[class_id], sampler->left[class_id] - 1);
}

/* Moves the magazine's youngest blocks to the portion, as far as it may have them. */
static ALWAYS_INLINE void move_to_portion(struct thread *thread, unsigned class_id)
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
    if (sampler->given[class_id] >= portion_bound(sampler, class_id) / MEAGRE_PART)
        return false;
    sampler->meagre[class_id] = (sampler->meagre[class_id] + 1) % MEAGRE_PORTIONS;
    return sampler->meagre[class_id] == 0;
}

/* The usual case of all that a claim does in a thread that samples: the portion is used up, the next pick is not due, and the
 * magazine has blocks. NULL: it is another case, and nothing has changed. */
static ALWAYS_INLINE void *take_next(struct thread *thread, unsigned class_id)
{
    struct sampler *sampler = thread->sampler;
    struct portion *portion = &thread->portion[class_id];
    struct magazine *magazine = &thread->cache.magazine[class_id];
    uint32_t left = sampler->left[class_id] - sampler->given[class_id] - 1;
    void **top = magazine->top;
    size_t n = (size_t)(top - magazine->base), bound = min_size(portion_most[class_id], left - 1);
    if (unlikely(portion->top != portion->base || left == 0 || n == 0))
        return NULL;
    n = min_size(n - 1, bound);
    if (n < bound / MEAGRE_PART) {
        if (sampler->meagre[class_id] == MEAGRE_PORTIONS - 1)
            return NULL;
        sampler->meagre[class_id]++;
    }
    void *block = top[-1];
    void **from = top - 1 - n;
    magazine->top = from; /* out of it before into the portion: see flush_oldest */
    atomic_signal_fence(memory_order_acq_rel);
    memcpy(portion->base, from, n * sizeof(void *));
    atomic_signal_fence(memory_order_acq_rel);
    portion->top = portion->base + n;
    sampler->left[class_id] = left;
    sampler->given[class_id] = (uint32_t)n;
    return block;
}

void *sampler_claim(unsigned class_id)
{
    struct thread *thread = thread_enter();
    void *block = NULL;
    if (thread == NULL)
        return NULL;
    /* relaxed, both: see profile_follow_if_due */
    if (thread->sampler != NULL && atomic_load_explicit(&thread->sampler_epoch, memory_order_relaxed) ==
                                       atomic_load_explicit(&sampler_epoch, memory_order_relaxed))
        block = take_next(thread, class_id);
    thread_leave(thread);
    return block;
}

void sampler_give_more(struct thread *thread, unsigned class_id, void *block)
{
    *thread->portion[class_id].top++ = block;
    thread->sampler->given[class_id]++;
    move_to_portion(thread, class_id);
}

OFTEN void sampler_empty(struct thread *thread)
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
