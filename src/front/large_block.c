/* large_block.c - see large_block.h.
 * Owns     nothing.     Called by  doors.c, guarded.c, profile.c, api/malloc.c     Calls  span_cache.h, pressure.h, large.h, tail.h
 * Threads  each on its own record; without a record, on the shared pool.
 */
#include "front/large_block.h"

#include "front/harden.h"
#include "front/pressure.h"
#include "front/profile.h"
#include "front/thread.h"
#include "pool/emergency.h"
#include "pool/large.h"
#include "pool/shared_pool.h"
#include "pool/tail.h"
#include "service/budget.h"

/* The longest block that is made of what a thread holds. */
static size_t most_held_bytes(enum large_place place)
{
    return place == LARGE_GROWING ? SPAN_GROWN_MAX_BYTES : SPAN_MAX_BYTES;
}

static bool may_be_packed(size_t alignment, enum large_place place)
{
    return alignment <= PACKED_PAGE_BYTES && place == LARGE_ANYWHERE;
}

static void *claim(size_t size_bytes, size_t alignment, enum large_place place, bool *zeroed)
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

static void *claim_or_make_room(size_t size_bytes, size_t alignment, enum large_place place, bool *zeroed)
{
    void *block = claim(size_bytes, alignment, place, zeroed);
    if (unlikely(pressure_is_news(block)) && pressure_tell(block == NULL))
        block = claim(size_bytes, alignment, place, zeroed);
    if (unlikely(block == NULL) && pressure_last_resort(size_bytes))
        block = claim(size_bytes, alignment, place, zeroed);
    if (unlikely(block == NULL) && pool_lock_is_mine()) {
        block = emergency_claim(size_bytes, alignment);
        *zeroed = true;
    }
    if (unlikely(block == NULL))
        pressure_note_failure();
    return block;
}

void *large_block_try(size_t size_bytes, size_t alignment, bool *zeroed)
{
    return claim(size_bytes, alignment, LARGE_ANYWHERE, zeroed);
}

void *large_block_claim_apart(size_t size_bytes, size_t alignment)
{
    bool zeroed = false;
    return claim(size_bytes, alignment, LARGE_APART, &zeroed);
}

static ALWAYS_INLINE void *claim_any(size_t size_bytes, size_t alignment, enum large_place place, bool *zeroed)
{
    void *block = NULL;
    if (likely(alignment <= SLAB_BYTES && size_bytes <= most_held_bytes(place)))
        block = span_cache_claim_again(size_bytes, may_be_packed(alignment, place), zeroed);
    if (block == NULL)
        block = claim_or_make_room(size_bytes, alignment, place, zeroed);
    if (unlikely(harden_mode() == HARDEN_PROFILING) && block != NULL)
        profile_consider(block, size_bytes);
    return block;
}

void *large_block_claim(size_t size_bytes, size_t alignment, bool *zeroed)
{
    return claim_any(size_bytes, alignment, LARGE_ANYWHERE, zeroed);
}

void *large_block_claim_grown(size_t size_bytes, bool *zeroed)
{
    *zeroed = false;
    return claim_any(size_bytes, 1, LARGE_GROWING, zeroed);
}

/* The end of what was to make the block as long as that. */
static void end_resize(struct thread *thread, void *block, size_t size_bytes, bool resized)
{
    if (resized)
        tail_note(block);
    if (thread != NULL)
        thread_leave(thread);
    if (unlikely(profile_has_records()) && resized)
        profile_resized(block, size_bytes);
}

bool large_block_resize(void *block, size_t size_bytes)
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
    }
    end_resize(thread, block, size_bytes, resized);
    return resized;
}

void large_block_shrink(void *block, size_t size_bytes)
{
    struct thread *thread = thread_enter();
    end_resize(thread, block, size_bytes, large_shrink(block, size_bytes));
}
