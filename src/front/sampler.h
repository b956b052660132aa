/* sampler.h - picks one of N allocations, each with the same chance, and that without an instruction in malloc().
 *
 * In a process that samples, what a thread's hits claim from is parted from what its frees go to. For each class it has a
 * portion: blocks that are popped until they are gone, and never pushed. A hit pops where its table says
 * (cache.claim_offset), so it does not know the difference. A portion that is used up stands for an exact number of
 * allocations; the slow path then counts them, and gives the next portion, out of the magazine that frees have filled: as many
 * blocks as are left until the next pick, or fewer.
 *
 * The number of allocations from one pick to the next is geometrically distributed, for each class by itself. Such counts
 * have no memory: what a thread had left when it ended is no loss, and threads and classes need not know of each other.
 */
#ifndef HAKMEM_FRONT_SAMPLER_H
#define HAKMEM_FRONT_SAMPLER_H

#include "front/thread.h"

#define PORTION_MAX_SLOTS 64

/* Counts up when picks begin or end, or should: a thread whose record has another number calls sampler_follow on its next slow
 * path. Written from outside of the process, too: see profile.h. */
extern _Atomic uint32_t sampler_epoch __attribute__((visibility("hidden")));

/* Begins to pick: one of n allocations; or of each class so many that in the mean one falls on interval_bytes, as if each byte
 * had the same small chance to be the one. Or ends it. Any thread; not two at once. */
void sampler_start_by_count(uint32_t n);
void sampler_start_by_bytes(size_t interval_bytes);
void sampler_stop(void);

/* A thread has got a record, or the epoch has changed: prepares its portions, or dissolves them. Between thread_enter and
 * thread_leave; or, of a record without a thread, under the pool lock. */
void sampler_follow(struct thread *thread, bool locked);

/* Claims pop where frees push, from now on. Likewise. */
void sampler_dissolve(struct thread *thread);

/* A block for an allocation that came by a slow path because its portion is used up: counts it, and gives the next portion. NULL:
 * it is picked, or needs more than that, and has not been counted. Not between thread_enter and thread_leave. */
void *sampler_claim(unsigned class_id);

/* Counts an allocation that comes by a slow path; whether it is picked. Between thread_enter and thread_leave. */
bool sampler_picks(struct thread *thread, unsigned class_id);

/* Takes a block of the portion. False: it is used up, or there is none. */
static inline bool sampler_pop(struct thread *thread, unsigned class_id, void **block)
{
    struct portion *portion = &thread->portion[class_id];
    if (portion->top == portion->base)
        return false;
    *block = *--portion->top;
    return true;
}

/* The blocks in a portion. Any thread; a guess. */
static inline size_t sampler_count(const struct thread *thread, unsigned class_id)
{
    size_t n = thread->sampler == NULL ? 0 : (size_t)(thread->portion[class_id].top - thread->portion[class_id].base);
    return n <= PORTION_MAX_SLOTS ? n : 0; /* read between two changes */
}

/* Gives the class's next portion, out of its magazine, if the last one is used up. True: it wants another block out of a slab.
 * The thread samples. Between thread_enter and thread_leave. */
bool sampler_give(struct thread *thread, unsigned class_id);

/* Adds that block, and those that came into the magazine with it. */
void sampler_give_more(struct thread *thread, unsigned class_id, void *block);

/* What lies in the portions goes back to its slabs; or, after a fork that may have cut a change in half, is lost. The caller
 * has the record as for thread_empty. */
void sampler_empty(struct thread *thread);
void sampler_forget(struct thread *thread);

#endif
