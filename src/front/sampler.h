/* sampler.h - picks one of N allocations, each with the same chance, and that without an instruction in malloc().
 *
 * In a thread that samples all claims' tables lead to magazine 0, which is always empty: so each malloc misses, and its miss begins
 * with sampler_hit, which counts the allocation and pops from the class's own magazine. That costs 15 instructions for each malloc
 * while the process samples, and none else; free does not know of it.
 *
 * What is left until the next pick is geometrically distributed, in allocations or in bytes. Such counts have no memory: what
 * a thread had left when it ended is no loss, and threads need not know of each other.
 *
 * (Another way was tried for long: hits popped from portions of blocks that were counted before and not pushed to, with a slow call for
 * each. It took half the instructions, and twice the time: blocks took turns where one would have served. docs/heap-profile.md)
 */
#ifndef HAKMEM_FRONT_SAMPLER_H
#define HAKMEM_FRONT_SAMPLER_H

#include "front/thread.h"

/* Counts up when picks begin or end, or should: a thread whose record has another number calls sampler_follow on its next slow
 * path. Written from outside of the process, too: see profile.h. */
extern _Atomic uint32_t sampler_epoch __attribute__((visibility("hidden")));

/* Begins to pick: one of n allocations; or, as if each byte had the same small chance to be the one, such that one falls on
 * interval_bytes in the mean: an allocation of b bytes, with the chance sampler_chance(b, interval_bytes). Or ends it. Any
 * thread; not two at once. */
void sampler_start_by_count(uint32_t n);
void sampler_start_by_bytes(size_t interval_bytes);
void sampler_stop(void);

/* By the size that was asked for. At an interval of 1 every allocation is picked. */
double sampler_chance(size_t size_bytes, size_t interval_bytes);

/* A thread has got a record, or the epoch has changed: begins to sample, or ends it. Between thread_enter and thread_leave; or, of
 * a record without a thread, under the pool lock. */
void sampler_follow(struct thread *thread);

/* Claims pop where frees push, from now on. Likewise. */
void sampler_open_magazines(struct thread *thread);

/* Counts an allocation that comes by a slow path; whether it is picked. Between thread_enter and thread_leave. */
bool sampler_picks(struct thread *thread, size_t size_bytes);

static ALWAYS_INLINE int64_t sampler_cost(const struct cache *cache, size_t size_bytes)
{
    return (int64_t)((size_bytes & cache->cost_mask) + 1);
}

/* The hit of a thread that samples. False, and nothing is counted: the thread does not sample, the door is closed, the allocation
 * is picked, or the magazine is empty. For HIT_TEXT alone: a signal handler must find it as it finds a hit. */
static ALWAYS_INLINE bool sampler_hit(struct cache *cache, size_t class_offset, size_t size_bytes, void **block)
{
    int64_t left = cache->left;
    if (likely(left <= 0)) /* most misses, by one instruction and a jump */
        return false;
    left -= sampler_cost(cache, size_bytes);
    if (left < 0 || !cache_pop(cache, class_offset, block))
        return false;
    cache->left = left;
    return true;
}

#endif
