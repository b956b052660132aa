/* doors.c - where malloc leads when no magazine has served: hardened mode, or a block of a class, or a large one.
 * Owns     nothing.     Called by  api/malloc.c, api/override.c, hit.h     Calls  refill.c, large_block.h, harden.h, straight.h
 * Threads  each on its own record; without a record, on the shared pool.
 *
 * The whole decision of malloc(n), in order:
 *   hit path      n is 4 KiB at most, and the magazine of its class is not empty: pop
 *   its door      n is more: another table tells its class, whose magazine is tried; above 32 KiB: large_block.c
 *   slow path     hardened mode: straight.c, harden.c; where blocks are sampled, or the sampler has picked this one: sampled.c, profile.c
 *                 a class without a magazine (POOL_ONLY): the word that the thread has open
 *                 refill.c: what the thread has at hand, or a batch from slabs
 */
#include "front/front.h"

#include "front/harden.h"
#include "front/hit.h"
#include "front/large_block.h"
#include "front/sampler.h"
#include "front/straight.h"
#include "front/thread.h"

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

static NOINLINE void *claim_medium_slow(size_t size_bytes, unsigned class_id)
{
    void *block;
    return is_answered(size_bytes, 1, &block) ? block : front_claim_class(class_id, false);
}

/* As front_claim_above_small. */
HIT_TEXT void *front_claim_medium(size_t size_bytes, unsigned *clean)
{
    void *block;
    unsigned class_id = class_of_medium(size_bytes);
    struct cache *cache = cache_behind_door();
    *clean = 0;
    if (likely(cache_pop(cache, cache->claim_offset_of_class[class_id], &block)) ||
        sampler_hit(cache, (size_t)class_id * CLASS_OFFSET_SCALE, size_bytes, &block) ||
        is_answered(size_bytes, 1, &block))
        return block;
    return front_claim_class_clean(class_id, false, clean);
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
    return class_id != 0 ? front_claim_class(class_id, true) : large_block_claim(size_bytes, alignment, &zeroed);
}

void *front_claim_large(size_t size_bytes, bool *zeroed)
{
    if (!harden_is_on())
        return large_block_claim(size_bytes, 1, zeroed);
    *zeroed = true; /* harden.c clears large blocks */
    return harden_claim(size_bytes, 1, KIND_MALLOC);
}
