/* straight.c - malloc and free of hardened mode as they nearly always are: a block of a class, with all checks on.
 * Owns     nothing.     Called by  doors.c and free.c     Calls  harden.c, for whatever is not usual
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
static size_t most_bytes; /* of a request. Constant after straight_start */

void straight_start(size_t small_max_bytes)
{
    if ((config.secure & ALL_CHECKS) != ALL_CHECKS || small_max_bytes == 0)
        return;
    straight_step_bytes = wipe_step_bytes;
    most_bytes = min_size(small_max_bytes, SMALL_MAX_BYTES - SEAL_BYTES);
}

/* ---- malloc ------------------------------------------------------------------------------------------------------ */

/* A free block for a request, and its length. False: there is none in the magazine, or it is not to be touched. */
static ALWAYS_INLINE bool pop(size_t size_bytes, void **block, size_t *block_bytes)
{
    if (unlikely(size_bytes - 1 >= most_bytes))
        return false;
    size_t class_offset = small_class_offset[(size_bytes + SEAL_BYTES + 7) / 8];
    struct thread *thread = thread_enter_open(); /* The doors are closed anyway. */
    if (unlikely(thread == NULL))
        return false;
    bool popped = cache_pop(&thread->cache, class_offset, block);
    thread_let_go(thread); /* Nothing in between has wanted the background thread. */
    *block_bytes = class_at(class_offset)->bytes;
    return likely(popped);
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

/* The class offset of a block that may be freed as the caller says; 0: anything else. Of the first block of a slab, what lies before
 * it is another matter. */
static ALWAYS_INLINE size_t whole(char *block, const struct release *release, bool first)
{
    size_t class_offset = small_locate(block);
    if (unlikely(class_offset == 0))
        return 0;
    size_t block_bytes = class_at(class_offset)->bytes;
    char *end = block + block_bytes;
    uint64_t wrong = first ? 0 : difference_before(block, block_bytes);
    __asm__ volatile("" : "+r"(wrong) : : "memory");
    uint64_t seal = seal_read(end), fields = seal_fields(hash_of(block), seal);
    if (unlikely(kind_difference(fields, release->kind) != 0))
        return 0;
    wrong |= slack_difference(end, fields, seal);
    wrong |= ((uintptr_t)block | release->alignment) & (release->alignment - 1);
    if (release->size_bytes != RELEASE_ANY_SIZE)
        wrong |= release->size_bytes ^ (block_bytes - SEAL_BYTES - SEAL_SLACK(fields));
    return unlikely(wrong != 0) ? 0 : class_offset;
}

static ALWAYS_INLINE bool is_first_of_slab(const void *block)
{
    return unlikely(((uintptr_t)block & (SLAB_BYTES - 1)) == 0);
}

static NOINLINE size_t first_whole(char *block, const struct release *release)
{
    size_t class_offset = whole(block, release, true);
    if (class_offset != 0)
        harden_check_before_slab(block, release->call);
    return class_offset;
}

static NOINLINE void return_to_slab(void *block)
{
    front_return_block(block, "free");
}

/* Into quarantine, and what comes out of there into its magazine. */
static ALWAYS_INLINE void let_wait(void *block, size_t class_offset)
{
    struct thread *thread = thread_enter_open();
    if (unlikely(thread == NULL)) {
        return_to_slab(block);
        return;
    }
    uint64_t other = waiting(block, class_offset);
    if (likely(thread->quarantine != NULL))
        other = quarantine_exchange(thread, block, class_offset);
    bool pushed = unlikely(other == 0) || cache_push(&thread->cache, waiting_class_offset(other), waiting_block(other));
    thread_let_go(thread); /* as above */
    if (unlikely(!pushed))
        return_to_slab(waiting_block(other));
}

/* ---- By the width of a step -------------------------------------------------------------------------------------- */

static const struct release plain_free = {"free", KIND_MALLOC, RELEASE_ANY_SIZE, 1};

/* Each in two functions: those with wide registers need a stack frame as soon as they call anything, and many do who use them. */
#define BY_WIDTH(width)                                                                                                \
    static NOINLINE WIPE_TARGET_##width void *seal_##width(char *block, size_t block_bytes, size_t size_bytes,         \
                                                           enum block_kind kind)                                       \
    {                                                                                                                  \
        if (unlikely(!wipe_is_clear_##width(block, block_bytes)))                                                      \
            return clean_and_seal(block, block_bytes, size_bytes, kind);                                               \
        end_write(block, block_bytes, size_bytes, kind, true);                                                         \
        return block;                                                                                                  \
    }                                                                                                                  \
    static NOINLINE WIPE_TARGET_##width void clear_##width(char *block, size_t class_offset)                           \
    {                                                                                                                  \
        size_t block_bytes = class_at(class_offset)->bytes;                                                            \
        seal_write(block + block_bytes, 0);                                                                            \
        if (likely(block_bytes <= WIPE_WHOLE_BYTES))                                                                   \
            wipe_clear_##width(block, block_bytes);                                                                    \
        else                                                                                                           \
            wipe_clear(block, block_bytes);                                                                            \
        let_wait(block, class_offset);                                                                                 \
    }                                                                                                                  \
    static ALWAYS_INLINE void *claim_##width(size_t size_bytes, enum block_kind kind)                                  \
    {                                                                                                                  \
        void *block;                                                                                                   \
        size_t block_bytes;                                                                                            \
        if (unlikely(!pop(size_bytes, &block, &block_bytes)))                                                          \
            return harden_claim(size_bytes, 1, kind);                                                                  \
        return seal_##width(block, block_bytes, size_bytes, kind);                                                     \
    }                                                                                                                  \
    void *straight_malloc_##width(size_t size_bytes)                                                                   \
    {                                                                                                                  \
        return claim_##width(size_bytes, KIND_MALLOC);                                                                 \
    }                                                                                                                  \
    void *straight_new_##width(size_t size_bytes, enum block_kind kind)                                                \
    {                                                                                                                  \
        return claim_##width(size_bytes, kind);                                                                        \
    }                                                                                                                  \
    static NOINLINE void return_first_##width(void *block, const struct release *release)                              \
    {                                                                                                                  \
        size_t class_offset = first_whole(block, release);                                                             \
        if (unlikely(class_offset == 0))                                                                               \
            harden_return(block, release);                                                                             \
        else                                                                                                           \
            clear_##width(block, class_offset);                                                                        \
    }                                                                                                                  \
    static ALWAYS_INLINE void return_##width(void *block, const struct release *release)                               \
    {                                                                                                                  \
        if (is_first_of_slab(block)) {                                                                                 \
            return_first_##width(block, release);                                                                      \
            return;                                                                                                    \
        }                                                                                                              \
        size_t class_offset = whole(block, release, false);                                                            \
        if (unlikely(class_offset == 0))                                                                               \
            harden_return(block, release);                                                                             \
        else                                                                                                           \
            clear_##width(block, class_offset);                                                                        \
    }                                                                                                                  \
    void straight_free_##width(void *block)                                                                            \
    {                                                                                                                  \
        return_##width(block, &plain_free);                                                                            \
    }                                                                                                                  \
    void straight_delete_##width(void *block, const struct release *release)                                           \
    {                                                                                                                  \
        return_##width(block, release);                                                                                \
    }

BY_WIDTH(64)
BY_WIDTH(32)
BY_WIDTH(16)
