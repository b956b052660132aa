/* idle.h - emptied slabs that wait a while before they are released, in the order in which they became empty.
 *
 * A slab that has lost its last block is often wanted again at once: by its class, whose list it stays in, or as a slot for
 * another class. Released at once, its pages would soon go back to the system and come again, one page fault each
 * (bench_replay sqlite3, 34 times: 1.5 times the time of glibc's malloc without this wait, 1.0 with it).
 * The list may hold slabs that are in use again: whoever takes one out looks. All functions: pool lock.
 */
#ifndef HAKMEM_POOL_IDLE_H
#define HAKMEM_POOL_IDLE_H

#include "meta/layout.h"

/* Notes that a slab has just become empty: it is now the youngest, wherever it was before. */
void idle_push(struct slab *slab, uint32_t now_ms);

/* Takes the oldest slab out if it has waited for delay_ms (negative: never long enough). NULL: none. */
struct slab *idle_pop(uint32_t now_ms, int64_t delay_ms);

/* Takes a slab out, if it is there: it is about to be released. */
void idle_remove(struct slab *slab);

/* How many wait, with those that are in use again. Without the lock: a guess. */
size_t idle_count(void);

/* The child of a fork found the list in doubt. Its slabs must each be marked as not waiting. */
void idle_forget(void);

#endif
