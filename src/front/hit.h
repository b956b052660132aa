/* hit.h - malloc and free as they are nearly always: one straight screen each, with one trapdoor.
 *
 * malloc  size -> class offset (a byte of the thread's own table) -> magazine -> pop          else sampler_hit, front_claim_slow
 * free    address -> class offset (a byte of the arena's map)     -> magazine -> push         else front_return_slow
 *
 * Everything that is rare looks like an empty or a full magazine: a new thread, one that is exiting, a signal handler
 * inside the allocator, a process before its start (closed cache); NULL, spans, foreign addresses (classes without a
 * magazine).
 */
#ifndef HAKMEM_FRONT_HIT_H
#define HAKMEM_FRONT_HIT_H

#include "front/front.h"
#include "front/sampler.h"
#include "superslab/slab.h"

/* For every function that a hit path is part of. Whoever takes the cache of a sleeping thread (sleepers.c) or calls a signal
 * handler (handler.h) must know where they lie. */
#define HIT_TEXT __attribute__((section("hakmem_hits")))

/* By the linker. Weak: a unit test may have none of those functions. */
extern const char __start_hakmem_hits[] __attribute__((weak, visibility("hidden")));
extern const char __stop_hakmem_hits[] __attribute__((weak, visibility("hidden")));

/* Whether an address is that of an instruction there, or of what follows a call there. */
static ALWAYS_INLINE bool hit_text_has(uintptr_t address)
{
    return address - (uintptr_t)__start_hakmem_hits <= (uintptr_t)(__stop_hakmem_hits - __start_hakmem_hits);
}

/* Whether it is that of a first instruction of theirs by a name that programs know. Who is interrupted there has done nothing yet. But
 * programs keep such addresses (whose destructor is free), and the dynamic linker leaves them on the stack when it has looked a name up. By
 * api/override_scope.c; NULL where the library has no such names. */
bool hit_is_entry(uintptr_t address) __attribute__((weak, visibility("hidden")));

static ALWAYS_INLINE void *hit_claim(size_t size_bytes, enum block_kind kind)
{
    if (unlikely(size_bytes > SMALL_MAX_BYTES))
        return kind == KIND_MALLOC ? front_claim_above_small(size_bytes) : front_claim_as(size_bytes, kind);
    struct cache *cache = cache_behind_door();
    void *block;
    if (unlikely(!cache_pop(cache, cache->claim_offset[(size_bytes + 7) / 8], &block)) &&
        !sampler_hit(cache, small_class_offset[(size_bytes + 7) / 8], size_bytes, &block))
        return kind == KIND_MALLOC ? front_claim_slow(size_bytes) : front_claim_as(size_bytes, kind);
    return block;
}

static ALWAYS_INLINE void *hit_malloc(size_t size_bytes)
{
    return hit_claim(size_bytes, KIND_MALLOC);
}

static ALWAYS_INLINE void hit_free(void *block)
{
    if (unlikely(!cache_push(cache_behind_door(), registry_class_offset(block), block)))
        front_return_slow(block, "free", __builtin_return_address(0));
}

/* The same by a caller that says more: what it says is looked at behind the door alone. */
static ALWAYS_INLINE void hit_release(void *block, const char *call, enum block_kind kind, size_t size_bytes,
                                      size_t alignment)
{
    if (unlikely(!cache_push(cache_behind_door(), registry_class_offset(block), block)))
        front_return_as(block, &(struct release){call, kind, size_bytes, alignment});
}

/* A block on a multiple of alignment, a power of two. */
static ALWAYS_INLINE void *hit_claim_aligned(size_t size_bytes, size_t alignment, enum block_kind kind)
{
    size_t least_bytes = class_aligned_bytes(size_bytes, alignment);
    struct cache *cache = cache_behind_door();
    void *block;
    if (unlikely(size_bytes > SMALL_MAX_BYTES || least_bytes > SMALL_MAX_BYTES))
        return front_claim_aligned(size_bytes, alignment, kind);
    if (unlikely(!cache_pop(cache, cache->claim_offset[(least_bytes + 7) / 8], &block)) &&
        !sampler_hit(cache, small_class_offset[(least_bytes + 7) / 8], front_told_bytes(size_bytes, alignment), &block))
        return front_claim_aligned(size_bytes, alignment, kind);
    return block;
}

/* The class offset of a block of the first arena that begins here and is not free by the bit map; 0 when it is anything
 * else: locate_usable_bytes then finds out. What realloc must know of each block, in 26 instructions. */
static ALWAYS_INLINE size_t hit_live_class_offset(const void *block)
{
    size_t class_offset = registry_class_offset(block);
    if (unlikely(class_offset < CLASS_FIRST * CLASS_OFFSET_SCALE))
        return 0;
    const struct class_info *class = class_at(class_offset);
    size_t offset_bytes = (uintptr_t)block & (SLAB_BYTES - 1);
    unsigned index;
    if (unlikely(!class_block_at(class, offset_bytes, &index) || index >= class->n_blocks))
        return 0;
    const struct slab *slab = &registry_primary.slabs[((uintptr_t)block - registry_primary.base) >> SLAB_SHIFT];
    return unlikely(slab_is_free(slab, index)) ? 0 : class_offset;
}

#endif
