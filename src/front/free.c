/* free.c - the slow path of free: what no magazine takes.
 * Owns     nothing.     Called by  api/, harden.c, guarded_wait.c     Calls  locate.h, flush.h, span_cache.h, shared_pool.h, large.h, report.h
 * Threads  each on its own record; without a record, on the shared pool.
 *
 * The whole decision of free(p), in order:
 *   hit path      p lies in the first arena, its slab has a class, this thread's magazine has room: push
 *   slow path     hardened mode: harden.c
 *                 p is NULL: nothing
 *                 its slab holds spans, and the thread keeps this one (span_cache.c)
 *                 POOL_ONLY and the block is of the word that this thread has open: set its bit there
 *                 p is a sampled block: sampled.c
 *                 p lies in no arena: misuse "not a block of this allocator"
 *                 its slab has no class: misuse
 *                 p is not at a block's beginning: misuse "into the middle of a block"
 *                 its slab has gaps, and p is longer than the slab's own blocks: gap.c
 *                 its slab holds spans: p is one's first address: large_return; else misuse
 *                 this thread has a magazine for the class: make room (grow, or flush the older half), push
 *                 it has none (POOL_ONLY), or there is no record: return the block to its slab
 */
#include "front/flush.h"
#include "front/front.h"
#include "front/harden.h"
#include "front/locate.h"
#include "front/profile.h"
#include "front/route.h"
#include "front/sampled.h"
#include "front/span_cache.h"
#include "front/straight.h"
#include "os/os.h"
#include "pool/background.h"
#include "pool/gap.h"
#include "pool/large.h"
#include "service/report.h"

#include <errno.h>

/* Whether the block is the first of its class that the thread has in its hands, and of another thread's slab: what the thread was given
 * when it began. In its magazine, the block would be the next to be allocated, and the thread would write to a cache line beside the
 * blocks of whoever gave it (bench_workloads cache_scratch). */
static bool was_given(const struct thread *thread, const struct place *place)
{
    return thread->cache.magazine[place->class_id].base == NULL && thread->current[place->class_id] != place->slab;
}

/* Into the thread's magazine, for which room is made. */
static void return_to_magazine(struct thread *thread, const struct place *place, void *block)
{
    struct magazine *magazine = &thread->cache.magazine[place->class_id];
    if (magazine_push(magazine, block))
        return; /* The door was closed, or the block is of another arena. */
    if (magazine->max != 0) {
        bool given = was_given(thread, place);
        magazine->misses++;
        bool grow = magazine->refilled != 0 || magazine_capacity(magazine) < CONSUMER_CAPACITY;
        if (!(grow && magazine_grow(thread, place->class_id)) && magazine_capacity(magazine) != 0) {
            flush_oldest(thread, place->class_id, (magazine_count(magazine) + 1) / 2);
            thread->flushes++;
            magazine->refilled -= magazine->refilled != 0;
        }
        if (!given && magazine_push(magazine, block))
            return;
    }
    flush_located(place);
}

/* A block of a class without a magazine, whose word this thread has open. False: it is none, or not in order. */
static bool return_to_open_word(void *block, size_t class_id)
{
    struct thread *thread = thread_enter_open();
    if (unlikely(thread == NULL))
        return false;
    bool returned = class_id < CLASS_FIRST + N_TINY_CLASSES &&
                    open_word_push(&thread->open_word[class_id], (unsigned)class_id, block);
    thread_leave_open(thread);
    return returned;
}

/* A block of a class without a magazine: to the thread's open word if it is of that, else to its slab. */
static void return_pool_only(const struct place *place, void *block, const char *call)
{
    struct thread *thread = thread_enter_open();
    struct open_word *open = thread == NULL ? NULL : &thread->open_word[place->class_id];
    if (likely(open == NULL || !open_word_covers(open, block)))
        flush_located(place);
    else if (!open_word_push(open, place->class_id, block)) /* It is in order (locate), so it is free already. */
        report_misuse(call, "block freed twice", block, "class of bytes", class_table[place->class_id].bytes);
    if (thread != NULL)
        thread_leave_open(thread);
}

/* A block in a slab with gaps, if it is longer than the slab's own, or free already. False: it is neither. */
static NOINLINE bool return_to_gaps(const struct place *place, const void *block, const char *call)
{
    bool free_already = slab_is_free(place->slab, place->index);
    if (!free_already) {
        if (slab_gap_blocks(place->slab, place->index) == 1)
            return false;
        struct thread *thread = thread_enter();                /* as for all that may take the pool's lock */
        free_already = !gap_return(place->slab, place->index); /* by two threads at once */
        if (thread != NULL)
            thread_leave(thread);
    }
    if (unlikely(free_already))
        report_misuse(call, "block freed twice", block, "class of bytes", class_table[place->class_id].bytes);
    return true;
}

static void return_located(const struct place *place, void *block, const char *call)
{
    if (unlikely(place->gaps) && return_to_gaps(place, block, call))
        return;
    if (place->class_id != CLASS_SPAN && tiny_route_of(class_table[place->class_id].range) == HAK_ROUTE_POOL_ONLY) {
        return_pool_only(place, block, call);
        return;
    }
    struct thread *thread = thread_enter();
    if (thread != NULL)
        span_cache_look(thread);
    if (place->class_id == CLASS_SPAN) {
        if (unlikely(profile_has_records()))
            profile_forget(block);
        if ((thread == NULL || !span_cache_return(thread, block, place->slab)) && !large_return(block))
            report_misuse(call, NO_BLOCK_BEGINS_HERE, block, NULL, 0);
    } else if (thread != NULL) {
        return_to_magazine(thread, place, block);
    } else {
        flush_located(place);
    }
    if (thread != NULL)
        thread_leave(thread);
}

void front_return_block(void *block, const char *call)
{
    int saved_errno = errno;
    struct place place;
    if (unlikely(sampled_has(block)))
        sampled_return(block, call);
    else if (locate_block(block, call, &place))
        return_located(&place, block, call);
    errno = saved_errno;
}

static NOINLINE void return_slow(void *block, const char *call)
{
    static const struct release plain = {"free", KIND_MALLOC, RELEASE_ANY_SIZE, 1};
    if (harden_is_on()) {
        harden_return(block, &plain);
        return;
    }
    if (block == NULL)
        return;
    size_t class_id = registry_class_offset(block) / CLASS_OFFSET_SCALE;
    if (class_id == CLASS_SPAN ? !span_cache_keep(block) : !return_to_open_word(block, class_id))
        front_return_block(block, call);
}

static void return_any(void *block, const char *call)
{
    STRAIGHT(free, return_slow(block, call), block);
}

static NOINLINE void return_for_linker(void *block, const char *call)
{
    /* libc may be freeing what threads' stacks had, and hold the lock that the next thread's start takes */
    bool before = background_hold(true);
    return_any(block, call);
    background_hold(before);
}

void front_return_slow(void *block, const char *call, const void *caller)
{
    if (likely(!os_is_linker(caller)))
        return_any(block, call);
    else
        return_for_linker(block, call);
}

/* Whether a block with these usable bytes, of a span, may have been asked for with that size. One that the heap profile has noted
 * has the bytes of its class, whatever its alignment; and one that could not be made shorter those it had. */
static bool may_be_size(size_t size_bytes, size_t usable_bytes)
{
    return round_up(max_size(size_bytes, 1), os_page_bytes()) == usable_bytes ||
           (size_bytes <= usable_bytes &&
            ((profile_has_records() && usable_bytes <= CLASS_MAX_BYTES) || large_any_unshrunk()));
}

/* What the caller says of a large block: these come here anyway. */
static void check_release(const void *block, const struct release *release)
{
    if (registry_class_offset(block) != CLASS_SPAN * CLASS_OFFSET_SCALE)
        return;
    size_t usable_bytes = large_usable_bytes(block); /* 0: no block; that is found next */
    if (unlikely(usable_bytes != 0 && release->size_bytes != RELEASE_ANY_SIZE &&
                 !may_be_size(release->size_bytes, usable_bytes)))
        report_misuse(release->call, "the size is not the block's", block, "usable bytes", usable_bytes);
}

void front_return_as(void *block, const struct release *release)
{
    if (harden_is_on()) {
        STRAIGHT(delete, harden_return(block, release), block, release);
    } else {
        check_release(block, release);
        return_any(block, release->call);
    }
}
