/* registry.c - see registry.h.
 * Owns     registry_primary, registry_first and the table of the other arenas.
 * Called by  arena.c (enters), everything that gets an address from a caller (looks up).     Calls  metapool.h, os.h
 * Threads  any, no lock. A leaf is never removed.
 *  edge  release                       acquire                     what becomes visible
 *  G1    registry_enter stores     -> registry_arena loads it     the arena's record
 */
#include "meta/registry.h"

#include "meta/metapool.h"
#include "os/os.h"

#define LEAF_BITS 13
#define ROOT_BITS (ADDRESS_BITS - SUPERSLAB_SHIFT - LEAF_BITS)

struct leaf {
    struct arena *_Atomic arena[1 << LEAF_BITS]; /* per 2 MiB; a leaf covers 16 GiB */
};

/* Before there is an arena, no address is inside, whatever of the rest is seen already: see describe. */
#define NOWHERE ((uintptr_t)1 << 63)
struct registry_primary registry_primary = {.base = NOWHERE}, registry_first = {.base = NOWHERE};
static SELDOM_USED struct leaf *_Atomic root[1 << ROOT_BITS];

static void describe(struct registry_primary *primary, struct arena *arena)
{
    primary->base = (uintptr_t)arena->base;
    primary->class_map = arena->class_map;
    primary->slabs = arena->slabs;
    primary->arena = arena;
    /* Readers look at the base first and at the length after it, in any order as far as the CPU is concerned. With the old base (NOWHERE)
     * no address is inside. With the new one, an address inside is a block's, which reached its thread after all this. */
    atomic_thread_fence(memory_order_release);
    primary->n_slabs = (size_t)arena->n_superslabs * SUPERSLAB_SLABS;
}

void registry_set_first(struct arena *arena, bool hits)
{
    describe(&registry_first, arena);
    if (hits)
        describe(&registry_primary, arena);
}

/* The leaf of a root slot, made if need be; NULL when there is no memory. */
static struct leaf *leaf_for(struct leaf *_Atomic *slot)
{
    struct leaf *leaf = atomic_load_explicit(slot, memory_order_acquire); /* G1 */
    if (leaf != NULL)
        return leaf;
    struct leaf *fresh = (struct leaf *)(void *)metapool_reserve(sizeof *fresh);
    if (fresh == NULL)
        return NULL;
    /* A signal handler may enter what it needs while the interrupted code is here: the first one wins. */
    if (!os_commit(fresh, sizeof *fresh) ||
        !atomic_compare_exchange_strong_explicit(slot, &leaf, fresh, memory_order_acq_rel,
                                                 memory_order_acquire)) /* G1 */
        metapool_unreserve((char *)fresh, sizeof *fresh);
    else
        leaf = fresh;
    return leaf;
}

bool registry_enter(const void *base, size_t n, struct arena *arena)
{
    uintptr_t key = (uintptr_t)base >> SUPERSLAB_SHIFT;
    for (size_t i = 0; i < n; i++, key++) {
        struct leaf *leaf = key >> (LEAF_BITS + ROOT_BITS) == 0 ? leaf_for(&root[key >> LEAF_BITS]) : NULL;
        if (leaf == NULL)
            return false;
        atomic_store_explicit(&leaf->arena[key & ((1 << LEAF_BITS) - 1)], arena, memory_order_release); /* G1 */
    }
    return true;
}

struct arena *registry_arena(const void *address)
{
    struct registry_primary *first = &registry_first;
    if ((uintptr_t)address - first->base < first->n_slabs << SLAB_SHIFT)
        return first->arena;
    uintptr_t key = (uintptr_t)address >> SUPERSLAB_SHIFT;
    if (key >> (LEAF_BITS + ROOT_BITS) != 0)
        return NULL;
    struct leaf *leaf = atomic_load_explicit(&root[key >> LEAF_BITS], memory_order_acquire); /* G1 */
    return leaf == NULL ? NULL : atomic_load_explicit(&leaf->arena[key & ((1 << LEAF_BITS) - 1)], memory_order_acquire);
}
