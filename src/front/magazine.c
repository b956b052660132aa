/* magazine.c - the capacity of magazines: they open small, double while that saves misses, and give up what they no longer
 * need, within a bound per thread.
 * Owns     struct thread's capacity_bytes and shrink_cursor, a magazine's array.
 * Called by  refill.c, flush.c, thread.c     Calls  metapool.h, flush.h
 * Threads  each on its own record, between thread_enter and thread_leave.
 */
#include "front/flush.h"
#include "front/route.h"
#include "meta/metapool.h"
#include "pool/background.h"
#include "pool/shared_pool.h"

#include <string.h>

/* Of so many wishes to grow at the thread's bound one is granted, at another magazine's cost: capacity follows the use,
 * but classes that all want more do not take it from each other at every miss (bench_workloads burst_lifo_6400: a tenth
 * of the allocator's instructions went into that). */
#define GROW_AT_BOUND_EVERY 8

uint32_t magazine_max(const struct class_info *class)
{
    if (tiny_route_of(class->range) == HAK_ROUTE_POOL_ONLY)
        return 0;
    size_t n = 64 * KIB / class->bytes;
    return n > 256 ? 256 : n < 2 ? 2 : (uint32_t)n;
}

/* Another class gives up half of its capacity, so that this one may grow. */
static void shrink_another(struct thread *thread, unsigned class_id)
{
    for (unsigned k = 0; k < N_CLASSES; k++) {
        unsigned victim = thread->shrink_cursor + 1u;
        if (victim < CLASS_FIRST || victim >= CLASS_END)
            victim = CLASS_FIRST;
        thread->shrink_cursor = (uint8_t)victim;
        struct magazine *magazine = &thread->cache.magazine[victim];
        uint32_t capacity = magazine_capacity(magazine);
        if (victim == class_id || capacity < 2 * MAGAZINE_FIRST_CAPACITY)
            continue;
        if (magazine->misses != 0) {
            magazine->misses = 0; /* In use: spared this time. */
            continue;
        }
        if (magazine_count(magazine) > capacity / 2)
            flush_oldest(thread, victim, magazine_count(magazine) - capacity / 2);
        magazine->limit = magazine->base + capacity / 2;
        size_t less_bytes = (size_t)(capacity - capacity / 2) * class_table[victim].bytes;
        thread->capacity_bytes -= less_bytes;
        background_note_cached(-(int64_t)less_bytes);
        return;
    }
}

/* An array for `new` blocks with what the old one holds, which is given up. Sets top; NULL: there is no memory. */
static void **claim_larger_array(struct thread *thread, unsigned class_id, uint32_t new)
{
    struct magazine *magazine = &thread->cache.magazine[class_id];
    if (!pool_lock(HAK_LOCK_METADATA))
        return NULL;
    void **slots = metapool_claim(new * sizeof(void *)), **old_slots = magazine->base;
    if (slots != NULL) {
        uint32_t n = magazine_count(magazine);
        memcpy(slots, old_slots, n * sizeof(void *));
        magazine->base = slots;
        magazine->top = slots + n;
        /* The array keeps its size when capacity shrinks, so what it was claimed with is not known by the capacity. */
        if (old_slots != thread->first_array[class_id])
            metapool_return(old_slots, magazine->array_slots * sizeof(void *));
    }
    pool_unlock();
    return slots;
}

bool magazine_grow(struct thread *thread, unsigned class_id)
{
    struct magazine *magazine = &thread->cache.magazine[class_id];
    size_t block_bytes = class_table[class_id].bytes;
    uint32_t old = magazine_capacity(magazine), new = old == 0 ? MAGAZINE_FIRST_CAPACITY : old * 2;
    if (new > magazine->max)
        new = magazine->max;
    if (new <= old)
        return false;
    size_t more_bytes = (new - old) * block_bytes, max_bytes = thread_cache_max_bytes();
    if (thread->capacity_bytes + more_bytes > max_bytes) {
        if (old != 0 && ++thread->crowded % GROW_AT_BOUND_EVERY != 0)
            return false;
        shrink_another(thread, class_id);
        if (old != 0 && thread->capacity_bytes + more_bytes > max_bytes)
            return false;
    }
    void **slots = thread->first_array[class_id];
    if (old == 0)
        magazine->top = slots;
    else if ((slots = claim_larger_array(thread, class_id, new)) == NULL)
        return false;
    magazine->base = slots;
    magazine->limit = slots + new;
    magazine->array_slots = (uint16_t) new;
    thread->capacity_bytes += more_bytes;
    background_note_cached((int64_t)more_bytes);
    return true;
}

void magazine_close(struct thread *thread, unsigned class_id)
{
    struct magazine *magazine = &thread->cache.magazine[class_id];
    void **slots = magazine->base;
    magazine->base = magazine->top = magazine->limit = NULL;
    if (slots != NULL && slots != thread->first_array[class_id] && pool_lock(HAK_LOCK_METADATA)) {
        metapool_return(slots, magazine->array_slots * sizeof(void *));
        pool_unlock();
    }
}
