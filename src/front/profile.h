/* profile.h - the heap profile: which call stacks allocate, and whose blocks are live, by a sample of the allocations.
 *
 * A block is noted with the chance p = 1 - exp(-b/interval), b being one more than the bytes that were asked for, or than those of
 * its pages: as if each byte had the same small chance to be the one that is looked at. A noted block counts for 1/p blocks of its
 * kind. So the sums are estimates without bias, for every size, and their errors are known: docs/heap-profile.md.
 *
 * Off, it costs nothing: no hit path knows of it. On, each malloc misses first (sampler.h).
 *
 *   noted block     a span of its own (large.h), whatever its size, so its free comes to the slow path
 *     its slab      `sample`: session, record, class, bytes asked for (SAMPLE_... in profile.c)
 *   record          a stack, and sums over its blocks; records are never removed while a session lasts
 *   module          a file that frames of records lie in, which may be unloaded by now (modules.h)
 *
 * The hakmem command reads the records from outside, and begins and ends a session there: it writes `request`, and then counts
 * sampler_epoch up. The thread that next meets a slow path sees that. While the process is stopped, the command may also do from
 * outside what thread_call_all does, for threads that would go on hitting.
 */
#ifndef HAKMEM_FRONT_PROFILE_H
#define HAKMEM_FRONT_PROFILE_H

#include "front/harden.h"
#include "front/sampler.h"
#include "meta/layout.h"
#include "service/modules.h"
#include "service/stack.h"

#define PROFILE_VERSION 1
#define PROFILE_DEFAULT_INTERVAL_BYTES ((size_t)512 * KIB)
#define PROFILE_MAX_INTERVAL_BYTES ((size_t)1 << 40)
#define PROFILE_MAX_RECORDS ((uint32_t)65535) /* stacks; those beyond are counted as dropped */
#define PROFILE_INDEX_SLOTS ((uint32_t)1 << 17)
#define PROFILE_COUNT_SCALE 1024 /* blocks are counted in units of 1/1024 */

struct profile_record {
    _Atomic uint64_t live_count, live_bytes, total_count,
        total_bytes;                      /* estimates; counts in units of PROFILE_COUNT_SCALE */
    _Atomic uint64_t live_rounding_bytes; /* of live blocks: usable beyond what was asked for */
    _Atomic uint32_t live_samples, total_samples;
    uint32_t hash;
    struct stack stack; /* return addresses, the innermost first */
};

/* What a request from outside asks for: an interval in bytes begins a session, PROFILE_REQUEST_STOP ends it. */
#define PROFILE_REQUEST_STOP UINT64_MAX

struct profile_state {
    uint32_t version, record_bytes; /* PROFILE_VERSION, sizeof(struct profile_record) */
    uint64_t modules_bytes;         /* sizeof(struct modules) */
    _Atomic uint32_t *epoch;        /* &sampler_epoch */
    _Atomic uint64_t request;       /* written from outside, 0 once it is seen */
    /* to it: EINPROGRESS, then 0 (it was obeyed) or another errno; EPERM: HAKMEM_BACKGROUND=off */
    _Atomic uint32_t answer;
    _Atomic uint32_t session; /* 0: there was none; counts up */
    _Atomic uint32_t on;
    _Atomic uint32_t n_records; /* from 1 to here; a record is valid when its total_samples is not 0 */
    _Atomic uint64_t interval_bytes;
    _Atomic uint64_t n_samples, n_dropped; /* dropped: no room for another stack */
    _Atomic uint64_t from_ms;              /* when the session began, CLOCK_MONOTONIC, modulo 2^32 */
    struct profile_record *records;
    struct modules *modules; /* made with the records */
    const struct cache *closed_cache;
};
extern struct profile_state profile_state __attribute__((visibility("hidden")));

/* Begins a session; what an earlier one noted is dropped. 0, or an errno: EBUSY (one is on), EINVAL (the interval), ENOTSUP
 * (HAKMEM_SECURE or HAKMEM_GUARD_SAMPLE is on), ENOMEM. Not on a slow path. */
int profile_start(size_t interval_bytes);

/* Ends it. Live blocks stay noted, and are forgotten when they are freed. */
void profile_stop(void);

/* For who reads the records, which a new session drops: none begins until profile_let_go (it waits, and is refused after two seconds).
 * False: one is beginning, for as long; there is nothing to read, and to let go of. */
bool profile_hold(void);
void profile_let_go(void);

/* How long the session has lasted, or did. */
uint32_t profile_lasted_ms(void);

/* On a slow path whose thread has another epoch: obeys a request from outside, and sampler_follow. */
COLD void profile_follow(struct thread *thread);

/* On each slow path that claims a block. */
static inline void profile_follow_if_due(struct thread *thread)
{
    /* relaxed, both: the one is our own, and sampler_follow looks at the other again */
    if (unlikely(atomic_load_explicit(&thread->sampler_epoch, memory_order_relaxed) !=
                 atomic_load_explicit(&sampler_epoch, memory_order_relaxed)))
        profile_follow(thread);
}

/* For a new thread, whose record follows already: it, too, is to hear of a request at its first slow path. */
static inline void profile_let_hear(struct thread *thread)
{
    if (unlikely(atomic_load_explicit(&profile_state.request, memory_order_relaxed) != 0)) /* relaxed: a hint */
        atomic_fetch_sub(&thread->sampler_epoch, 1);
}

/* In the child of a fork, which has one thread. */
void profile_fork_child(void);

/* The same, when the records of threads that are gone were let go: ends a session that was begun from outside. */
void profile_end_inherited(void);

/* Whether a span may have a sample. */
static inline bool profile_has_records(void)
{
    return atomic_load_explicit(&profile_state.session, memory_order_relaxed) !=
           0; /* relaxed: who sees it late has none */
}

/* A block that was picked: its memory, and the note. NULL, and errno as it was: there is no memory for it. */
COLD void *profile_claim(size_t size_bytes, size_t alignment, unsigned class_id);

/* A span was claimed: notes it or not, by chance. */
COLD void profile_consider(void *block, size_t size_bytes);

/* A block, if it is a span's first address, is about to be returned. */
COLD void profile_forget(void *block);

/* The bytes of a span's class if it is a small block that was picked; else 0. */
COLD size_t profile_noted_bytes(const void *block);

/* A span is longer or shorter now: as if it had been freed and claimed. */
COLD void profile_resized(void *block, size_t size_bytes);

#endif
