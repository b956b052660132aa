/* straight.c - malloc and free of hardened mode as they nearly always are: a block of a class, with all checks on.
 * Owns     nothing.     Called by  the doors of refill.c and flush.c     Calls  harden.c, for whatever is not usual
 * Threads  as harden.c.
 *
 * One straight screen each, without a call and, but for the three ranges of wipe.h, without a branch that a size decides. What
 * is found to be wrong is not told apart here: harden.c looks again from the beginning. Where it does not come to that,
 * nothing was changed.
 */
#include "front/straight.h"

#include "front/harden.h"
#include "front/small.h"
#include "front/wipe.h"

#define ALL_CHECKS (SECURE_CANARY | SECURE_ZERO | SECURE_QUARANTINE | SECURE_TYPE)

unsigned straight_step_bytes;
static size_t most_bytes; /* of a request. Constant likewise */

void straight_start(size_t small_max_bytes)
{
    if ((config.secure & ALL_CHECKS) != ALL_CHECKS || small_max_bytes == 0)
        return;
    straight_step_bytes = wipe_step_bytes;
    most_bytes = min_size(small_max_bytes, SMALL_MAX_BYTES - SEAL_BYTES);
}

/* ---- malloc ------------------------------------------------------------------------------------------------------ */

/* A free block for a request, and its length; NULL: the magazine has none, or is not to be touched. */
static ALWAYS_INLINE char *pop(size_t size_bytes, size_t *block_bytes)
{
    if (unlikely(size_bytes - 1 >= most_bytes))
        return NULL;
    size_t class_offset = small_class_offset[(size_bytes + SEAL_BYTES + 7) / 8];
    struct thread *thread = thread_enter_open(); /* The doors are closed anyway. */
    if (unlikely(thread == NULL))
        return NULL;
    void *block = NULL;
    if (unlikely(!magazine_pop(magazine_at(&thread->cache, class_offset), &block))) {
        thread_leave_open(thread);
        return NULL;
    }
    thread_leave_open(thread);
    *block_bytes = class_at(class_offset)->bytes;
    return block;
}

static NOINLINE void *clean_and_seal(char *block, size_t block_bytes, size_t size_bytes, enum block_kind kind)
{
    harden_report_dirty(block, block_bytes);
    end_write(block, block_bytes, size_bytes, kind, true);
    return block;
}

/* ---- free -------------------------------------------------------------------------------------------------------- */

/* Not 0 when the block before this one is in use and its seal has been written to. */
static ALWAYS_INLINE uint64_t difference_before(const char *block, size_t block_bytes)
{
    uint64_t seal = seal_read(block), in_use = -(uint64_t)(seal != 0);
    return seal_difference(seal_fields(hash_of(block - block_bytes), seal)) & in_use;
}

/* The class offset of a block that may be freed as the caller says; 0: anything else. */
static ALWAYS_INLINE size_t whole(char *block, const struct release *release)
{
    size_t class_offset = small_locate(block);
    if (unlikely(class_offset == 0))
        return 0;
    size_t block_bytes = class_at(class_offset)->bytes;
    char *end = block + block_bytes;
    uint64_t wrong = difference_before(block, block_bytes);
    __asm__ volatile("" : "+r"(wrong) : : "memory");
    uint64_t hash = hash_of(block), seal = seal_read(end), fields = seal_fields(hash, seal);
    if (unlikely(kind_difference(fields, release->kind) != 0))
        return 0;
    wrong |= slack_difference(end, fields, hash, seal);
    wrong |= (uintptr_t)block & (release->alignment - 1);
    if (release->size_bytes != RELEASE_ANY_SIZE)
        wrong |= release->size_bytes ^ (block_bytes - SEAL_BYTES - SEAL_SLACK(fields));
    return unlikely(wrong != 0) ? 0 : class_offset;
}

/* Into quarantine, and from there into the magazine. The block that comes out is next of its class, and its ends are what malloc
 * touches first. */
static ALWAYS_INLINE void let_wait(void *block, size_t class_offset)
{
    struct thread *thread = thread_enter_open();
    void *other = block;
    if (unlikely(thread == NULL))
        goto to_slab;
    if (likely(thread->quarantine != NULL))
        other = quarantine_exchange(thread, class_offset, block);
    if (likely(other != NULL)) {
        __builtin_prefetch(other, 1);
        __builtin_prefetch((char *)other + class_at(class_offset)->bytes - 1, 1);
        if (unlikely(!magazine_push(magazine_at(&thread->cache, class_offset), other))) {
            thread_leave_open(thread);
            goto to_slab;
        }
    }
    thread_leave_open(thread);
    return;
to_slab:
    front_return_block(other, "free");
}

/* ---- By the width of a step -------------------------------------------------------------------------------------- */

static const struct release plain_free = {"free", KIND_MALLOC, RELEASE_ANY_SIZE, 1};

#define BY_WIDTH(width)                                                                                                \
    static ALWAYS_INLINE WIPE_TARGET_##width void *claim_##width(size_t size_bytes, enum block_kind kind)              \
    {                                                                                                                  \
        size_t block_bytes;                                                                                            \
        char *block = pop(size_bytes, &block_bytes);                                                                   \
        if (unlikely(block == NULL))                                                                                   \
            return harden_claim(size_bytes, 1, kind);                                                                  \
        if (unlikely(!wipe_is_clear_##width(block, block_bytes)))                                                      \
            return clean_and_seal(block, block_bytes, size_bytes, kind);                                               \
        end_write(block, block_bytes, size_bytes, kind, true);                                                         \
        return block;                                                                                                  \
    }                                                                                                                  \
    static ALWAYS_INLINE WIPE_TARGET_##width void return_##width(char *block, const struct release *release)           \
    {                                                                                                                  \
        size_t class_offset = whole(block, release);                                                                   \
        if (unlikely(class_offset == 0)) {                                                                             \
            harden_return(block, release);                                                                             \
            return;                                                                                                    \
        }                                                                                                              \
        size_t block_bytes = class_at(class_offset)->bytes;                                                            \
        seal_write(block + block_bytes, 0);                                                                            \
        wipe_clear_##width(block, block_bytes);                                                                        \
        let_wait(block, class_offset);                                                                                 \
    }                                                                                                                  \
    WIPE_TARGET_##width void *straight_malloc_##width(size_t size_bytes)                                               \
    {                                                                                                                  \
        return claim_##width(size_bytes, KIND_MALLOC);                                                                 \
    }                                                                                                                  \
    WIPE_TARGET_##width void *straight_new_##width(size_t size_bytes, enum block_kind kind)                            \
    {                                                                                                                  \
        return claim_##width(size_bytes, kind);                                                                        \
    }                                                                                                                  \
    WIPE_TARGET_##width void straight_free_##width(void *block)                                                        \
    {                                                                                                                  \
        return_##width(block, &plain_free);                                                                            \
    }                                                                                                                  \
    WIPE_TARGET_##width void straight_delete_##width(void *block, const struct release *release)                       \
    {                                                                                                                  \
        return_##width(block, release);                                                                                \
    }

BY_WIDTH(64)
BY_WIDTH(32)
BY_WIDTH(16)
