/* pool_state.h - what the files of the shared pool share: its lists and counters, and what moves a SuperSlab between them.
 * Included by  slots.c, packed.c, packed_pages.c, large.c, shared_pool.c, span.c, held.c, tail.c, purge.c, repair.c and no other file; and by who reads it from another process
 *              (api/anchor.h).
 * Threads  everything here under the pool lock, but for what is said to be looked at without.
 */
#ifndef HAKMEM_POOL_POOL_STATE_H
#define HAKMEM_POOL_POOL_STATE_H

#include "os/lock.h"
#include "pool/shared_pool.h"

#define N_BUCKETS (SUPERSLAB_SLABS + 1) /* by number of free slots */
/* by the longest row of free pages, in steps of PACKED_ROW_STEP; the last has all longer ones */
#define N_PACKED_LISTS 64
#define PACKED_ROW_STEP (SUPERSLAB_SLABS * PACKED_PAGES / N_PACKED_LISTS)
/* SuperSlabs looked at for an aligned row of slots, per list; and DRAINING ones, for whatever is wanted of them */
#define SCAN_LIMIT 32
#define ROW_LOOKS 4 /* SuperSlabs looked at for any other row, per list */

struct pool_state {
    struct superslab *bucket[N_BUCKETS];      /* HOT ones */
    struct superslab *row[N_BUCKETS];         /* the same by the length of their longest row of free slots */
    struct superslab *packed[N_PACKED_LISTS]; /* those with PACKED slots: see packed_pages.c */
    struct superslab *draining;
    uint64_t bucket_bits, row_bits, packed_bits; /* bit k: bucket k, list of rows k, packed k is not empty */
    size_t n_active_slots;                       /* slots of POOLED SuperSlabs that are neither UNUSED nor EMPTY */
    _Atomic size_t n_empty_slots;                /* EMPTY slots of all POOLED SuperSlabs. Written under the lock */
    /* bit: PARTIAL slabs of the class may be in DRAINING SuperSlabs, since pool_reopen last looked in vain */
    _Atomic uint64_t reopen_classes;
    bool reopen_slots; /* likewise free slots. Pool lock */
    /* Written by threads that free, and read without the lock: apart from what its holder writes. */
    /* as reopen_classes, of those that have recycled blocks */
    _Alignas(CACHE_LINE_BYTES) _Atomic uint64_t draining_classes;
    _Atomic size_t sparser_bytes; /* that came to lie free in slabs in use since the last tick; a guess */
    _Atomic size_t waiting_bytes; /* inside slabs in use, that the last tick left to a later one */
};
extern struct pool_state pool __attribute__((visibility("hidden")));

/* The lock, and what waits for it: blocks above 32 KiB that were freed by a signal handler which interrupted its holder. Every claim of one
 * looks whether any do, so they lie with the lock, which it takes next, and apart from all that is written more often. (bench_workloads
 * hand_64k: 18 ms; 34 when they shared a cache line with the LRU cache.) */
struct pool_gate {
    _Alignas(CACHE_LINE_BYTES) struct lock lock;
    struct slab *_Atomic deferred;               /* large.c */
    struct packed_head *_Atomic deferred_packed; /* packed.c */
};
extern struct pool_gate pool_gate __attribute__((visibility("hidden")));

/* In the child of a fork: makes the lock free and takes it, if a thread that no longer exists held it. False: the lists are
 * whole, or their holder is this very thread, which goes on when its signal handler returns. */
bool pool_lock_inherited(void);

static inline enum superslab_tier pool_tier_of(const struct superslab *ss)
{
    return (enum superslab_tier)atomic_load(&ss->tier);
}

static inline unsigned pool_free_slots(const struct superslab *ss)
{
    return count_bits(ss->unused_slots | ss->empty_slots);
}

/* The most free slots in a row that a SuperSlab has. */
unsigned pool_longest_row(const struct superslab *ss);

/* The list that a SuperSlab of the pool belongs to. */
struct superslab **pool_list_of(struct superslab *ss);

/* Into that list, and the one by rows if it is HOT. */
void pool_link_superslab(struct superslab *ss);

/* The number of free slots changed. */
void pool_relink_superslab(struct superslab *ss);

/* Its free pages changed: into the list where it belongs. And out of any. (packed_pages.c) */
void packed_relink(struct superslab *ss);
void packed_unlink(struct superslab *ss);

/* Hardened mode: memory of slots without a block is inaccessible. Makes that of n slots accessible. False: the system refuses. In any
 * other mode it always is. */
bool pool_open_memory(struct superslab *ss, unsigned slot, unsigned n);

/* Takes an empty SuperSlab out of the pool. */
void pool_detach_superslab(struct superslab *ss);

/* Free slots that the caller has found: they become TAKEN. */
void pool_take_slots_out(struct superslab *ss, uint32_t mask);

/* PARTIAL slabs of the class may be in DRAINING SuperSlabs. Without the lock too: a hint. */
void pool_note_draining(unsigned class_id);

/* Looks whether the tier changes, and changes it. */
void pool_evaluate_tier(struct superslab *ss);

/* Whether it would. Without the lock. */
bool pool_is_sparse(const struct superslab *ss);

/* From DRAINING to HOT. */
void pool_reopen_superslab(struct superslab *ss);

/* What committed_bytes should be, by the records. Exact when no other thread is at work. */
uint64_t pool_count_dirty_bytes(void);

#endif
