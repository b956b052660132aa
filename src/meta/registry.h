/* registry.h - from an address to what lies there.
 *
 * Hot: the first arena, by subtraction.  Cold: any other arena, by a two-level table that grows with the address
 * space in use and so is never full.
 */
#ifndef HAKMEM_META_REGISTRY_H
#define HAKMEM_META_REGISTRY_H

#include "meta/arena.h"
#include "meta/sizeclass.h"

/* The first arena as free() wants it. Before there is one, n_slabs is 0 and no address is inside. */
struct registry_primary {
    uintptr_t base;
    size_t n_slabs;
    _Atomic uint8_t *class_map;
    struct slab *slabs;
    struct arena *arena;
};
extern struct registry_primary registry_primary __attribute__((visibility("hidden")));

/* The same for everybody else: unlike registry_primary it is also there when no hit path shall find a block (see
 * arena_harden). */
extern struct registry_primary registry_first __attribute__((visibility("hidden")));

/* The class offset of the slab that holds address, if it is in the first arena; else CLASS_FOREIGN's offset, 0. */
static ALWAYS_INLINE size_t registry_class_offset(const void *address)
{
    const struct registry_primary *primary = &registry_primary;
#if defined(__aarch64__)
    __asm__("" : "+r"(primary)); /* its address once: two words are one load */
#endif
    size_t slab = ((uintptr_t)address - primary->base) >> SLAB_SHIFT;
    if (unlikely(slab >= primary->n_slabs))
        return 0;
    return load_byte_relaxed(&primary->class_map[slab]); /* relaxed: see arena_set_class_map */
}

/* The arena that holds address, NULL when none does. Any thread, no lock. */
struct arena *registry_arena(const void *address);

/* The record of the slab that holds address; NULL when none does: it lies in no arena, or in a mapping of pool/emergency.h, which has
 * no slabs. Any thread, no lock. */
static inline struct slab *registry_slab(const void *address)
{
    struct arena *arena = registry_arena(address);
    return arena == NULL || arena->class_map == NULL ? NULL : &arena->slabs[arena_slab_index(arena, address)];
}

/* The same where spans, packed blocks or runs lie; NULL for a slab of a class, too, and where no block lies. */
static inline struct slab *registry_span_slab(const void *address)
{
    struct arena *arena = registry_arena(address);
    if (arena == NULL || arena->class_map == NULL)
        return NULL;
    size_t index = arena_slab_index(arena, address);
    /* relaxed: see arena_set_class_map */
    bool spans =
        atomic_load_explicit(&arena->class_map[index], memory_order_relaxed) == CLASS_SPAN * CLASS_OFFSET_SCALE;
    return spans ? &arena->slabs[index] : NULL;
}

/* Enters n times 2 MiB of address space from base on, as the arena's, or as nobody's (NULL). Returns false when there
 * is no memory for the table. Any thread, no lock. */
bool registry_enter(const void *base, size_t n, struct arena *arena);

/* Makes arena the first one, which the hit paths shall find, or not. Caller holds the pool lock. */
void registry_set_first(struct arena *arena, bool hits);

#endif
