/* magazine.c - the capacity of magazines: they open small, double while that saves misses, and give up what they no longer
 * need, within a bound per thread.
 * Owns     struct thread's capacity_bytes and shrink_cursor, a magazine's array.
 * Called by  refill.c, free.c, thread.c, fork.c, sleepers.c     Calls  os.h, flush.h
 * Threads  each on its own record, between thread_enter and thread_leave.
 * Arrays of up to 8 blocks are part of the record, larger ones lie behind it, cut from the thread's own space: no lock is
 * taken, and when the cache is emptied the space is as good as new.
 */
#include "front/flush.h"
#include "front/route.h"
#include "os/os.h"
#include "pool/background.h"
#include "pool/shared_pool.h"

#include <string.h>

/* Of so many wishes to grow at the thread's bound one is granted, at another magazine's cost: capacity follows the use,
 * but classes that all want more do not take it from each other at every miss (bench_workloads burst_lifo_6400: a tenth
 * of the allocator's instructions went into that). */
#define GROW_AT_BOUND_EVERY 8

#define NOTE_GRAIN_BYTES (16 * KIB)

/* Blocks to 64 bytes, of which programs have most, in larger magazines: bench_workloads logic 46.3 ms to 44.0. Blocks above 1088 bytes
 * too, or a few of them would be all: 500 blocks of 4 to 32 KiB that are replaced at random took 67 ms instead of 31, those of 2 to
 * 4 KiB 28 instead of 22. (The same for smaller ones: bench_workloads realloc_string has 4.6 MiB instead of 4.4.) */
#define SMALLER_MAX_BYTES 1088
uint32_t magazine_max(const struct class_info *class)
{
    if (tiny_route_of(class->range) == HAK_ROUTE_POOL_ONLY)
        return 0;
    size_t n = (class->bytes > SMALLER_MAX_BYTES ? 256 : 64) * KIB / class->bytes;
    size_t most = class->bytes <= 64 ? 512 : 256;
    return n > most ? (uint32_t)most : n < 2 ? 2 : (uint32_t)n;
}

static void note_capacity(struct thread *thread)
{
    background_note_cached((int64_t)thread->capacity_bytes - (int64_t)thread->noted_bytes);
    thread->noted_bytes = thread->capacity_bytes;
}

/* The number is everybody's: a thread that opens twenty magazines is not to change it as often. */
static void note_capacity_change(struct thread *thread)
{
    /* by so much, up or down */
    if (thread->capacity_bytes - thread->noted_bytes + NOTE_GRAIN_BYTES >= 2 * NOTE_GRAIN_BYTES)
        note_capacity(thread);
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
        bool flushes = magazine_count(magazine) > capacity / 2;
        if (flushes)
            flush_oldest(thread, victim, magazine_count(magazine) - capacity / 2);
        magazine->limit = magazine->base + capacity / 2;
        size_t less_bytes = (size_t)(capacity - capacity / 2) * class_table[victim].bytes;
        thread->capacity_bytes -= less_bytes;
        thread->flushes += flushes;
        note_capacity_change(thread);
        return;
    }
}

/* ---- Arrays ------------------------------------------------------------------------------------------------------ */

/* Which list of free arrays has those of so many slots: 16, 32, ... 512. */
static unsigned array_kind(uint32_t slots)
{
    return slots <= ARRAY_MIN_SLOTS ? 0 : 32 - (unsigned)__builtin_clz((slots - 1) / ARRAY_MIN_SLOTS);
}

/* NULL: the thread's space is full. */
static void **claim_array(struct thread *thread, unsigned kind)
{
    void **array = thread->free_array[kind];
    size_t slots = (size_t)ARRAY_MIN_SLOTS << kind;
    if (array != NULL) {
        thread->free_array[kind] = (void **)array[0];
        return array;
    }
    /* No class is to stay small for another one's largest array. */
    size_t spare_slots = kind == N_ARRAY_KINDS - 1 ? THREAD_ARRAY_SLOTS / 2 : 0;
    if (THREAD_ARRAY_SLOTS - thread->array_slots_used < slots + spare_slots)
        return NULL;
    array = thread_array_space(thread) + thread->array_slots_used;
    thread->array_slots_used += (uint32_t)slots;
    atomic_store_explicit(&thread->array_pages_used, true, memory_order_relaxed); /* relaxed: others guess */
    return array;
}

static void return_array(struct thread *thread, void **array, unsigned kind)
{
    array[0] = (void *)thread->free_array[kind];
    thread->free_array[kind] = array;
}

void magazine_forget_arrays(struct thread *thread)
{
    memset(thread->free_array, 0, sizeof thread->free_array);
    thread->array_slots_used = 0;
    thread->capacity_bytes = 0;
    if (thread->noted_bytes != 0)
        note_capacity(thread);
}

void magazine_purge_arrays(struct thread *thread)
{
    size_t page_bytes = os_page_bytes();
    uintptr_t from = round_up((uintptr_t)thread_array_space(thread), page_bytes), to = (uintptr_t)thread + THREAD_BYTES;
    /* relaxed, both: others guess */
    if (atomic_load_explicit(&thread->array_pages_used, memory_order_relaxed) && thread->array_slots_used == 0 &&
        from < to)
        /* NOLINT: our own address */
        atomic_store_explicit(&thread->array_pages_used, !os_purge((void *)from, to - from), memory_order_relaxed);
}

/* An array for `new` blocks with what the old one holds, which is given up. False: there is no room. */
static bool exchange_array(struct thread *thread, unsigned class_id, uint32_t new)
{
    struct magazine *magazine = &thread->cache.magazine[class_id];
    unsigned kind = array_kind(new);
    void **old_slots = magazine->base, **slots = claim_array(thread, kind);
    if (slots == NULL)
        return false;
    uint32_t n = magazine_count(magazine);
    memcpy(slots, old_slots, n * sizeof(void *));
    magazine->base = slots;
    magazine->top = slots + n;
    if (old_slots != thread->first_array[class_id])
        return_array(thread, old_slots, array_kind(magazine->array_slots));
    magazine->array_slots = (uint16_t)(ARRAY_MIN_SLOTS << kind);
    return true;
}

/* ---- Growth ------------------------------------------------------------------------------------------------------ */

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
    if (old == 0) {
        magazine->base = magazine->top = thread->first_array[class_id];
        magazine->array_slots = MAGAZINE_FIRST_CAPACITY;
    } else if (new > magazine->array_slots && !exchange_array(thread, class_id, new)) {
        return false;
    }
    magazine->limit = magazine->base + new;
    thread->capacity_bytes += more_bytes;
    note_capacity_change(thread);
    return true;
}
