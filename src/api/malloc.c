/* malloc.c - START HERE: the native interface, and with it the whole path of an allocation.
 * Owns     nothing.     Called by  programs (hak_*), override.c (the libc names)
 * Calls    front/hit.h (magazines), front/front.h (their slow paths), front/large_block.h (blocks above 32 KiB)
 * Threads  any. Contracts: include/hakmem/hakmem.h
 *
 * malloc(n)   n <= 4096        the thread's magazine of n's class                        front/hit.h
 *             n <= 32 KiB      the same, class by another table                          front/doors.c
 *             magazine empty   a batch from the thread's current slab                    front/refill.c,
 *             superslab/slab.c
 *             slab full        another slab of the class, or a fresh slot                pool/shared_pool.c
 *             no slot          a SuperSlab from the LRU cache, or from the system        pool/release.c, meta/arena.c
 *             n > 32 KiB       slots that the thread holds; else slots in a row,         front/large_block.c,
 *                              pages of them, or SuperSlabs in a row                    pool/large.c
 * free(p)     the mirror image                                                           front/hit.h, front/free.c
 */
#include "front/harden.h"
#include "front/large_block.h"
#include "front/hit.h"
#include "front/locate.h"
#include "front/profile.h"
#include "front/sampled.h"
#include "hakmem/hakmem.h"
#include "os/os.h"
#include "pool/large.h"
#include "service/budget.h"

#include <errno.h>
#include <string.h>

HIT_TEXT void *hak_malloc(size_t size_bytes)
{
    return hit_malloc(size_bytes);
}

HIT_TEXT void hak_free(void *block)
{
    hit_free(block);
}

HIT_TEXT void hak_free_sized(void *block, size_t size_bytes)
{
    hit_release(block, "free_sized", KIND_MALLOC, size_bytes, 1);
}

static COLD void *refuse_product(void)
{
    errno = ENOMEM;
    return NULL;
}

static NOINLINE void *claim_large_zeroed(size_t size_bytes)
{
    bool zeroed = true;
    void *block = front_claim_large(size_bytes, &zeroed);
    if (block != NULL && !zeroed)
        os_clear(block, size_bytes);
    return block;
}

/* What of a fresh block shares pages with others is cleared, and no more: the rest may stay out of memory. */
static NOINLINE void *claim_medium_zeroed(size_t size_bytes)
{
    unsigned clean;
    char *block = front_claim_medium(size_bytes, &clean);
    if (block == NULL)
        return NULL;
    if (likely(clean == 0)) {
        os_clear(block, size_bytes);
        return block;
    }
    size_t page_bytes = slab_page_bytes();
    for (char *at = block, *end = block + size_bytes, *next; at < end; at = next) {
        next = (char *)(((uintptr_t)at | (page_bytes - 1)) + 1);
        next = next < end ? next : end;
        if ((clean >> slab_page_of((uintptr_t)at & (SLAB_BYTES - 1)) & 1) == 0)
            memset(at, 0, (size_t)(next - at));
    }
    return block;
}

/* memset, without a call for few bytes: by two or four stores that may overlap. */
static ALWAYS_INLINE void *zero(void *block, size_t n_bytes)
{
    char *first = block, *end = first + n_bytes;
    if (n_bytes > 64 || n_bytes < 8)
        return memset(block, 0, n_bytes);
    if (n_bytes < 16) {
        memset(first, 0, 8);
        memset(end - 8, 0, 8);
        return block;
    }
    memset(first, 0, 16);
    if (n_bytes > 32) {
        memset(first + 16, 0, 16);
        memset(end - 32, 0, 16);
    }
    memset(end - 16, 0, 16);
    return block;
}

HIT_TEXT void *hak_calloc(size_t count, size_t size_bytes)
{
    size_t total_bytes;
    if (unlikely(__builtin_mul_overflow(count, size_bytes, &total_bytes)))
        return refuse_product();
    if (unlikely(total_bytes > CLASS_MAX_BYTES))
        return claim_large_zeroed(total_bytes);
    if (unlikely(total_bytes > SMALL_MAX_BYTES))
        return claim_medium_zeroed(total_bytes);
    void *block = hit_malloc(total_bytes);
    return likely(block != NULL) ? zero(block, total_bytes) : NULL;
}

static COLD void *refuse_alignment(void)
{
    errno = EINVAL;
    return NULL;
}

HIT_TEXT void *hak_aligned_alloc(size_t alignment_bytes, size_t size_bytes)
{
    if (unlikely(!is_power_of_two(alignment_bytes)))
        return refuse_alignment();
    return hit_claim_aligned(size_bytes, alignment_bytes, KIND_MALLOC);
}

size_t hak_usable_size(const void *block)
{
    size_t class_offset = hit_live_class_offset(block);
    if (likely(class_offset != 0))
        return class_at(class_offset)->bytes;
    if (harden_is_on())
        return harden_usable_bytes(block);
    if (sampled_has(block)) {
        size_t size_bytes = sampled_size_bytes(block, "malloc_usable_size");
        return size_bytes == SIZE_MAX ? 0 : size_bytes;
    }
    bool span;
    return block == NULL ? 0 : locate_usable_bytes(block, "malloc_usable_size", &span);
}

/* Whether a block of old_bytes may stay for a request of size_bytes: it fits, and no more than a quarter of it would lie
 * idle. */
static bool worth_keeping(size_t old_bytes, size_t size_bytes)
{
    return size_bytes <= old_bytes && size_bytes >= old_bytes - old_bytes / 4;
}

/* Whether a block that is made so much shorter in place would leave a row that the next block of its old length does not fit into: who
 * reads into a long buffer and keeps what came would take fresh memory for each. (300 times 131 KB of which 33 KB are kept: 34 MB.) */
static bool leaves_a_gap(size_t old_bytes, size_t size_bytes)
{
    return size_bytes <= SPAN_MAX_BYTES && size_bytes < old_bytes / 2 && !budget_is_set();
}

/* What a block that outgrows old_bytes gets at least. What grew once grows again, mostly, and by as little: a quarter more
 * makes a string or a vector that is lengthened bit by bit move half as often (bench_workloads realloc_string: 0.79 of
 * the time, and 0.96 of the memory, for fewer classes are in use). */
static size_t roomy_bytes(size_t old_bytes)
{
    return min_size(old_bytes + old_bytes / 4, CLASS_MAX_BYTES);
}

/* A block for what has grown. *zeroed: all of it is known to read as zero. */
static HIT_TEXT void *claim_grown(size_t size_bytes, bool *zeroed)
{
    return size_bytes > CLASS_MAX_BYTES ? large_block_claim_grown(size_bytes, zeroed) : hit_malloc(size_bytes);
}

/* Moves a block. Shrinking never fails: without memory for a smaller block it stays where it is, and a large one gets shorter there,
 * for a sized free will tell the new size. */
static HIT_TEXT void *move(void *block, bool span, size_t old_bytes, size_t size_bytes)
{
    int saved_errno = errno;
    size_t kept_bytes = min_size(old_bytes, size_bytes);
    bool zeroed = false, lends = span && kept_bytes > SPAN_MAX_BYTES; /* between runs, pages move */
    if (lends)
        large_lend(block, kept_bytes);
    void *moved = size_bytes > old_bytes ? claim_grown(size_bytes, &zeroed) : hit_malloc(size_bytes);
    if (unlikely(moved == NULL)) {
        if (lends)
            large_take_back(block, kept_bytes);
        if (size_bytes > old_bytes)
            return NULL;
        if (span)
            large_block_shrink(block, size_bytes);
        errno = saved_errno;
        return block;
    }
    if (span && size_bytes > CLASS_MAX_BYTES)
        large_move(block, moved, kept_bytes, zeroed);
    else
        memcpy(moved, block, kept_bytes);
    hit_free(block);
    return moved;
}

static NOINLINE void *realloc_sampled(void *block, size_t size_bytes)
{
    size_t old_bytes = sampled_size_bytes(block, "realloc");
    if (old_bytes != SIZE_MAX)
        return move(block, false, old_bytes, size_bytes);
    errno = EINVAL;
    return NULL;
}

/* Whether it is as long as it is to be where it lies, or has become so. */
static bool may_stay(void *block, bool span, size_t old_bytes, size_t size_bytes)
{
    size_t noted_bytes = span && profile_has_records() ? profile_noted_bytes(block) : 0;
    if (noted_bytes != 0) /* a small block in a page of its own: it stays where others of its class do */
        return worth_keeping(noted_bytes, size_bytes);
    if (!span)
        return worth_keeping(old_bytes, size_bytes);
    return size_bytes > CLASS_MAX_BYTES && !leaves_a_gap(old_bytes, size_bytes) &&
           large_block_resize(block, size_bytes);
}

/* realloc of a block above 32 KiB, in another arena than the first, or with something wrong about it. */
static NOINLINE void *realloc_other(void *block, size_t size_bytes)
{
    if (harden_is_on())
        return harden_realloc(block, size_bytes);
    if (sampled_has(block))
        return realloc_sampled(block, size_bytes);
    bool span;
    size_t old_bytes = locate_usable_bytes(block, "realloc", &span);
    if (unlikely(old_bytes == 0)) { /* reported */
        errno = EINVAL;
        return NULL;
    }
    if (may_stay(block, span, old_bytes, size_bytes))
        return block;
    return move(block, span, old_bytes, size_bytes);
}

static NOINLINE HIT_TEXT void *realloc_block(void *block, size_t size_bytes)
{
    if (size_bytes == 0) {
        hit_free(block);
        return NULL;
    }
    size_t class_offset = hit_live_class_offset(block);
    if (unlikely(class_offset == 0))
        return realloc_other(block, size_bytes);
    size_t old_bytes = class_at(class_offset)->bytes;
    if (worth_keeping(old_bytes, size_bytes))
        return block;
    if (size_bytes < old_bytes)
        return move(block, false, old_bytes, size_bytes);
    int saved_errno = errno;
    bool zeroed;
    void *moved = claim_grown(max_size(size_bytes, roomy_bytes(old_bytes)), &zeroed);
    if (unlikely(moved == NULL)) {
        errno = saved_errno; /* of the request that follows alone */
        return move(block, false, old_bytes, size_bytes);
    }
    memcpy(moved, block, old_bytes);
    hit_free(block);
    return moved;
}

/* Many growing vectors begin with NULL: that costs what malloc does, without the registers that the rest must save. */
HIT_TEXT void *hak_realloc(void *block, size_t size_bytes)
{
    return block == NULL ? hit_malloc(size_bytes) : realloc_block(block, size_bytes);
}

size_t hak_good_size(size_t size_bytes)
{
    bool hardened = harden_is_on();
    if (size_bytes <= CLASS_MAX_BYTES && !hardened)
        return class_table[class_of(size_bytes)].bytes;
    size_t page_bytes = round_up(size_bytes, os_page_bytes());
    if (size_bytes >> ADDRESS_BITS != 0 || page_bytes >> ADDRESS_BITS != 0)
        return 0;
    return hardened ? size_bytes : page_bytes; /* then not a byte more is usable */
}
