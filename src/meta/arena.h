/* arena.h - address ranges that SuperSlabs are cut from, and the records that describe them.
 *
 * The first arena is sized so that most programs never need another; free() finds its class with one subtraction, one
 * compare and one byte load (registry.h). When it is full, or could only be made small, further arenas are chained:
 * their number has no limit, and an address in them is found through the registry's table.
 */
#ifndef HAKMEM_META_ARENA_H
#define HAKMEM_META_ARENA_H

#include "meta/layout.h"

/* Takes n SuperSlabs in a row whose first lies on a multiple of alignment (a power of two, at least 2 MiB), and makes
 * them writable; makes an arena when none has room.
 * Returns the first one's record, each record's state set to SUPERSLAB_MAPPING; NULL when there is no memory.
 * Caller holds the pool lock. */
struct superslab *arena_take(uint32_t n, size_t alignment);

/* Whether the n SuperSlabs from number `first` on are free; and takes them, if they are, and makes them writable. Caller holds the pool
 * lock. */
bool arena_is_free(const struct arena *arena, uint32_t first, uint32_t n);
bool arena_take_at(struct arena *arena, uint32_t first, uint32_t n);

/* Gives back the memory of the slots' records and large bit maps of n SuperSlabs in a row, none of whose slots holds a slab:
 * they read as zero, as if never used. Where pages are larger than they, they stay. Caller has the SuperSlabs in its hands. */
void arena_purge_records(struct superslab *ss, uint32_t n);

/* The SuperSlab of a slab for who holds neither the slab nor a block of it: that may have gone with all its SuperSlab, and its
 * record read as zero; then the record's place tells. */
struct superslab *arena_superslab_of(const struct slab *slab);

/* Puts n SuperSlabs back. Caller holds the pool lock. */
void arena_put(struct superslab *ss, uint32_t n);

/* All arenas in order of creation; NULL when there is none yet. arena_list is where outside readers begin: see api/anchor.h. */
extern struct arena *_Atomic arena_list __attribute__((visibility("hidden")));
struct arena *arena_first(void);
static inline struct arena *arena_next(const struct arena *arena)
{
    return atomic_load_explicit(&arena->next, memory_order_acquire);
}

/* Sets the size of arenas made from now on; 0 means: chosen by the machine's memory and the address-space limit. */
void arena_set_len_bytes(size_t len_bytes);

/* The process is about to have no more address space than so much: arenas give up what they have never used, but for the part of that
 * which they would have taken in a process that began with the limit. Caller holds the pool lock. */
void arena_fit_limit(size_t limit_bytes);

/* From now on arenas lie at places that nobody can guess, their records have inaccessible pages around them, and no hit path
 * of free or realloc finds a block. Before the first arena. */
void arena_harden(bool random, bool guard);

/* Writes one byte of the class map for n slabs from `index` on: a class offset. */
static inline void arena_set_class_map(struct arena *arena, size_t index, size_t n, uint8_t class_offset)
{
    /* relaxed: a block's address reaches another thread only after this, through the program's own synchronization */
    for (size_t i = 0; i < n; i++)
        atomic_store_explicit(&arena->class_map[index + i], class_offset, memory_order_relaxed);
}

#endif
