/* class_set.h - per class, the lock-free list of slabs that are nobody's and have free blocks.
 *
 * It is a set, kept as a tree of bits over the slabs of an arena: 64 slabs to a word, 64 words to a bit above. So
 * putting a slab in, taking it out (from anywhere) and finding the lowest one are a few atomic operations each,
 * without a lock, a tag or a node, and a snapshot that fork() takes needs no repair: at worst the slabs of a word that a
 * vanished thread was changing are not found in the child. The lowest address comes first: blocks gather in the low
 * SuperSlabs, and the high ones empty.
 *
 * A bit is a hint: the slab's ctl word says what is true, and slab_own decides. A set bit for a slab that is not
 * PARTIAL of the class is dropped by whoever meets it; a PARTIAL slab whose bit is missing for a moment is merely not
 * found. Two sets are of ids that no slab has: of slabs with gaps, and of those that may be worth opening (gap.c).
 */
#ifndef HAKMEM_POOL_CLASS_SET_H
#define HAKMEM_POOL_CLASS_SET_H

#include "superslab/slab.h"

/* Enters a slab that the caller has just made PARTIAL. */
void class_set_enter(struct arena *arena, unsigned class_id, size_t slab);

/* Whether a slab is in it. A guess. */
bool class_set_has(const struct arena *arena, unsigned class_id, size_t slab);

/* Takes a slab out. If it is PARTIAL of the class all the same (the caller was late), it stays in; likewise if it has gaps, in the set
 * of those. */
void class_set_drop(struct arena *arena, unsigned class_id, size_t slab);

/* Takes a slab out though it stays PARTIAL: its SuperSlab is DRAINING. */
void class_set_hide(struct arena *arena, unsigned class_id, size_t slab);

/* The lowest slab of the set at or above `from`; SIZE_MAX when there is none. It stays in the set. */
size_t class_set_find(struct arena *arena, unsigned class_id, size_t from);

#endif
