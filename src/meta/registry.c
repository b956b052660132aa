/* registry.c - see registry.h.
 * Owns     registry_primary and the table of the other arenas.
 * Called by  arena.c (enters), everything that gets an address from a caller (looks up).     Calls  os.h
 * Threads  look-ups from any thread without a lock; entries under the pool lock. Entries are never removed.
 *  edge  release                       acquire                     what becomes visible
 *  G1    registry_add stores entry  -> registry_arena loads it     the arena's record
 */
#include "meta/registry.h"

#include "os/os.h"

#define ADDRESS_BITS 47 /* what the kernel hands out unless asked for more by a hint */
#define LEAF_BITS 13
#define ROOT_BITS (ADDRESS_BITS - SUPERSLAB_SHIFT - LEAF_BITS)

struct leaf {
    struct arena *_Atomic arena[1 << LEAF_BITS]; /* per 2 MiB; a leaf covers 16 GiB */
};

struct registry_primary registry_primary;
static struct leaf *_Atomic root[1 << ROOT_BITS];

void registry_set_primary(struct arena *arena)
{
    registry_primary.base = (uintptr_t)arena->base;
    registry_primary.class_map = arena->class_map;
    registry_primary.arena = arena;
    /* Last, so that a thread that sees the length sees the rest (x86 keeps stores in order; elsewhere the look-up of a
     * foreign address in this window reads a class map of zeros or misses, and both mean "not in the first arena"). */
    atomic_thread_fence(memory_order_release);
    registry_primary.n_slabs = (size_t)arena->n_superslabs * SUPERSLAB_SLABS;
}

bool registry_add(struct arena *arena, uint32_t first, uint32_t n)
{
    if (arena == registry_primary.arena)
        return true;
    for (uint32_t i = first; i < first + n; i++) {
        uintptr_t key = ((uintptr_t)arena->base >> SUPERSLAB_SHIFT) + i;
        struct leaf *_Atomic *slot = &root[key >> LEAF_BITS];
        struct leaf *leaf = atomic_load_explicit(slot, memory_order_relaxed); /* relaxed: written under our lock */
        if (leaf == NULL) {
            leaf = os_reserve(sizeof *leaf, SLAB_BYTES);
            if (leaf == NULL)
                return false;
            if (!os_commit(leaf, sizeof *leaf)) {
                os_unreserve(leaf, sizeof *leaf);
                return false;
            }
            atomic_store_explicit(slot, leaf, memory_order_release); /* G1 */
        }
        atomic_store_explicit(&leaf->arena[key & ((1 << LEAF_BITS) - 1)], arena, memory_order_release); /* G1 */
    }
    return true;
}

struct arena *registry_arena(const void *address)
{
    struct registry_primary *primary = &registry_primary;
    if ((uintptr_t)address - primary->base < primary->n_slabs << SLAB_SHIFT)
        return primary->arena;
    uintptr_t key = (uintptr_t)address >> SUPERSLAB_SHIFT;
    if (key >> (LEAF_BITS + ROOT_BITS) != 0)
        return NULL;
    struct leaf *leaf = atomic_load_explicit(&root[key >> LEAF_BITS], memory_order_acquire); /* G1 */
    return leaf == NULL ? NULL : atomic_load_explicit(&leaf->arena[key & ((1 << LEAF_BITS) - 1)], memory_order_acquire);
}
