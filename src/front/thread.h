/* thread.h - one record per thread: its cache, the slabs it owns, its life.
 *
 *   none ---first slow call---> creating ---> open <---> busy (inside a slow path) 
 *                                              |
 *                                              +---the thread's exit---> gone
 * Only `open` has the cache in tls_cache (and not in hardened mode: see harden.h); in all other states tls_cache is the closed
 * cache, every call comes to the slow path, and those that find no usable record (creating, busy in a signal handler, gone) go to the shared pool
 * directly. The record of a thread that is gone keeps for a while the slabs that it claimed from, for the next thread that gets it;
 * in the child of a fork its whole cache.
 */
#ifndef HAKMEM_FRONT_THREAD_H
#define HAKMEM_FRONT_THREAD_H

#include "front/magazine.h"
#include "front/open_word.h"
#include "front/span_cache.h"
#include "meta/metapool.h"
#include "os/os.h"
#include "pool/background.h"
#include "pool/shared_pool.h"

/* Cached memory a thread may hold: magazines stop growing, or shrink each other, at this sum of capacities. Few threads may
 * hold more each. (Geometric mean of 15 workloads of `make bench`: with 512 KiB 1.13 times the time of 1 MiB, 256 KiB 1.33,
 * 128 KiB 1.40; with 2 MiB 0.92, with 4 MiB as with 2. Peak memory: 1.01 with 2 MiB, 0.97 with 128 KiB.) */
#define THREAD_CACHE_MAX_BYTES MIB
#define THREAD_CACHE_FEW_MAX_BYTES (2 * MIB)
#define FEW_THREADS 8
/* With more, those that want little share slabs; see refill.c. That takes own and disown for each batch: with 8 instead, bench_threads
 * short_lives of 16 threads executed 1.9 times the instructions; with 64, of 128 threads it took 1.1 times as long, with 0.75 of the
 * memory. */
#define MANY_THREADS 128
#define THREAD_CACHE_PRESSED_MAX_BYTES (128 * KIB) /* while the budget presses */

size_t thread_cache_max_bytes(void);

/* How many threads have a record. Any thread; a guess. */
size_t thread_count(void);

#define ARRAY_MIN_SLOTS 16
#define N_ARRAY_KINDS 6

struct thread {
    struct cache cache;
    struct slab *current[CLASS_END];                          /* the slab that this thread claims from */
    struct open_word open_word[CLASS_FIRST + N_TINY_CLASSES]; /* of classes without a magazine */
    _Atomic(struct cache *) door;  /* what tls_cache points to outside of slow paths: the cache, or the closed one */
    struct quarantine *quarantine; /* hardened mode's: freed blocks that wait. NULL: none */
    uint64_t random;               /* hardened mode's, or the sampler's, of the thread */
    struct cache **tls_slot;       /* the thread's tls_cache: storing the closed cache there closes its door. While it
                                       * has none: of the last one */
    size_t capacity_bytes;         /* sum of magazine capacities times block size */
    size_t noted_bytes;            /* of capacity_bytes, what background.h was told of */
    struct span_cache span_cache;  /* of blocks above 32 KiB */
    uint64_t refills, flushes;     /* written by the thread, read by anyone */
    uint64_t refills_before;       /* those of threads that had the record before */
    struct thread *next;           /* all records ever made; constant */
    /* of memory in the slabs that a record without a thread keeps. 0: it keeps nothing */
    _Atomic size_t kept_bytes;
    struct thread *next_free;         /* while free. Pool lock */
    _Atomic uint32_t in_use;          /* 0: free for the next thread. Written under the pool lock */
    _Atomic uint32_t busy;            /* inside a slow path. Written by the thread */
    _Atomic uint32_t claim;           /* enum thread_claim: another thread is at the record. See sleepers.c */
    uint32_t relief;                  /* the last relief in which it gave up its cache; see pressure.c */
    _Atomic uint32_t sampler_epoch;   /* that the record follows; see sampler.h */
    bool samples;                     /* its claims pop where magazine 0 is; see sampler.h */
    uint8_t shrink_cursor;            /* class that next gives up capacity */
    uint8_t crowded;                  /* wishes to grow at the bound so far, modulo 256; see magazine.c */
    uint8_t quiet_ticks;              /* ticks in a row that found the same `seen`. Written by ticks */
    int32_t thread_id;                /* the system's */
    uintptr_t stack_end;              /* no frame of its stack lies above */
    uintptr_t handler_frame;          /* of the signal handler that closed the door; 0: none. See handler.h */
    struct os_stack signal_stack;     /* the alternate one, when it did */
    uint64_t seen;                    /* at the last tick: changes when the thread uses its cache. Written by ticks */
    _Atomic bool array_pages_used;    /* some of the array space may be in memory */
    uint32_t array_slots_used;        /* of the array space, from its beginning */
    void **free_array[N_ARRAY_KINDS]; /* in it, linked by their first slot: of 16, 32, ... 512 slots */
    struct held_slots span_places[SPAN_CACHE_PLACES];     /* the first span_cache.n_places */
    struct packed_block packed_places[SPAN_CACHE_PACKED]; /* the first span_cache.n_packed */
    /* what magazines begin with. Last: see IMAGE_SUMS in image.h */
    void *first_array[CLASS_END][MAGAZINE_FIRST_CAPACITY];
};

/* Of the slots that it holds for blocks above 32 KiB: how many pages may be in memory. Any thread, or an outside reader; a guess. */
static inline size_t thread_held_pages(const struct thread *thread)
{
    size_t n_pages = 0;
    for (unsigned i = 0; i < thread->span_cache.n_places && i < SPAN_CACHE_PLACES; i++)
        n_pages += thread->span_places[i].dirty_pages;
    for (unsigned i = 0; i < thread->span_cache.n_packed && i < SPAN_CACHE_PACKED; i++)
        n_pages += thread->packed_places[i].pages;
    return n_pages;
}

/* How many blocks those are that it holds above 32 KiB: each slot counts as one, and each packed span. Likewise. */
static inline size_t thread_held_blocks(const struct thread *thread)
{
    size_t n = min_size(thread->span_cache.n_packed, SPAN_CACHE_PACKED);
    for (unsigned i = 0; i < thread->span_cache.n_places && i < SPAN_CACHE_PLACES; i++)
        n += count_bits(thread->span_places[i].mask);
    return n;
}

/* A record and, behind it, the space for its magazines' larger arrays; together a piece of metapool.h. */
#define THREAD_BYTES METAPOOL_PIECE_BYTES
#define THREAD_RECORD_BYTES ((size_t)12288)
#define THREAD_ARRAY_SLOTS ((THREAD_BYTES - THREAD_RECORD_BYTES) / sizeof(void *))
_Static_assert(sizeof(struct thread) <= THREAD_RECORD_BYTES, "the array space begins behind the record");

static inline void **thread_array_space(struct thread *thread)
{
    return (void **)(void *)((char *)thread + THREAD_RECORD_BYTES);
}

/* CLAIMED: somebody looks whether the thread sleeps; EMPTYING: it does, and its cache is being emptied; EMPTYING_SPANS: what it keeps for
 * blocks above 32 KiB is, and it may be awake, outside of slow paths. */
enum thread_claim { THREAD_UNCLAIMED = 0, THREAD_CLAIMED, THREAD_EMPTYING, THREAD_EMPTYING_SPANS };

/* The thread's record; NULL: none yet; one that is always busy: it is being created, or gone. */
extern __thread struct thread *tls_thread __attribute__((tls_model("initial-exec"), visibility("hidden")));

/* A record that is not this thread's, while this thread empties it or has it claimed; NULL: none. A signal handler may fork meanwhile: the
 * child goes on with it. */
extern __thread struct thread *tls_other __attribute__((tls_model("initial-exec"), visibility("hidden")));

/* The empty cache that is never written. */
extern const struct cache closed_cache __attribute__((visibility("hidden")));

/* What thread_enter does for a thread that has no record, or is inside a slow path already. */
NOINLINE struct thread *thread_enter_first(void);

/* Sets busy; false when it is set already, or somebody else has claimed the record.
 * busy is stored before the claim is read, and that without a fence: who claims the record then makes sure that this
 * thread sleeps in the kernel, and does not go on if it finds busy set. So either the thread saw the claim, or what it
 * stored is seen. */
static inline bool thread_take(struct thread *thread)
{
    if (unlikely(atomic_load_explicit(&thread->busy, memory_order_relaxed) != 0)) /* relaxed: our own */
        return false;
    atomic_store_explicit(&thread->busy, 1, memory_order_relaxed);
    atomic_signal_fence(memory_order_seq_cst);
    if (likely(atomic_load_explicit(&thread->claim, memory_order_acquire) == THREAD_UNCLAIMED))
        return true;
    atomic_store_explicit(&thread->busy, 0, memory_order_relaxed);
    return false;
}

static inline void thread_let_go(struct thread *thread)
{
    atomic_signal_fence(memory_order_seq_cst);
    atomic_store_explicit(&thread->busy, 0, memory_order_release);
}

/* busy is set: before the door closes, or a handler that came between would open it again when it leaves. */
static inline void thread_close_door(void)
{
    atomic_signal_fence(memory_order_seq_cst);
    cache_set_door((struct cache *)(uintptr_t)&closed_cache);
    atomic_signal_fence(memory_order_seq_cst); /* before anything that a signal handler must not find half done */
}

static inline void thread_open_door(struct thread *thread)
{
    atomic_signal_fence(memory_order_seq_cst);
    /* relaxed: a thread is called more than once */
    cache_set_door(atomic_load_explicit(&thread->door, memory_order_relaxed));
}

/* Enters a slow path: the caller's record with its door closed, or NULL when it must do without one. */
static inline struct thread *thread_enter(void)
{
    struct thread *thread = tls_thread;
    if (unlikely(thread == NULL || !thread_take(thread)))
        return thread_enter_first();
    thread_close_door();
    return thread;
}

/* Leaves it: the door opens, and the background thread is started if that was wanted inside. */
static inline void thread_leave(struct thread *thread)
{
    thread_open_door(thread);
    thread_let_go(thread);
    background_look();
}

/* The same for what touches no magazine: the door stays open, and only slow paths of signal handlers are kept out.
 * NULL: no record, or inside a slow path already. */
static inline struct thread *thread_enter_open(void)
{
    struct thread *thread = tls_thread;
    return unlikely(thread == NULL || !thread_take(thread)) ? NULL : thread;
}

static inline void thread_leave_open(struct thread *thread)
{
    thread_let_go(thread);
    background_look();
}

/* The thread's slab of the class, which there is, has no free block, or is to serve others: another one next time. */
static inline void thread_leave_slab(struct thread *thread, unsigned class_id)
{
    struct slab *slab = thread->current[class_id];
    thread->current[class_id] = NULL;
    shared_pool_disown_slab(slab);
}

/* Takes the record's magazines and slabs apart: blocks go back to their slabs. The record's thread is the caller, is
 * gone, or sleeps and has its door closed and its record claimed. */
void thread_empty(struct thread *thread);

/* The same for a record that no thread has, and that keeps slabs, or all it had. Not under the pool lock. */
void thread_empty_kept(struct thread *thread);

/* In the child of a fork: the record of a thread that is gone keeps its cache as it is, until a thread takes it or a tick finds that none
 * has. Whatever is written there would be copied, page by page, and most children only call exec. False: it may keep nothing. */
bool thread_keep_all(struct thread *thread);

/* The record is for the next thread. The caller has it as for thread_empty, and it is empty or keeps something. */
void thread_release(struct thread *thread);

/* In the child of a fork: there are no such records, until they are released again. */
void thread_forget_free(void);

/* Claims another thread's record, and closes its door, for which the thread must be known to live: see sleepers.c. False: it is claimed, or
 * nobody's, or the caller has claimed one. Not under the pool lock. */
bool thread_claim_other(struct thread *thread, bool close_door);
void thread_end_claim(struct thread *thread);

/* All records; NULL when there are none. Any thread. thread_list is where outside readers begin: see api/anchor.h. */
extern struct thread *_Atomic thread_list __attribute__((visibility("hidden")));
struct thread *thread_first(void);

/* In the child of a fork: how many threads, which it does not have, were inside a slow path. What they had in hand is lost, and
 * counts may be off by it; outside readers must know (api/anchor.h). Adds up over generations. */
extern _Atomic uint32_t thread_cut_off __attribute__((visibility("hidden")));

/* Makes all threads follow the sampler (sampler.h) at their next call, by closing their doors. One that is inside a slow path
 * for longer than 50 ms follows when it has left it. Not on a slow path. */
void thread_call_all(void);

/* Starts the allocator if need be: configuration, handlers. Any number of times. */
void thread_start_process(void);

#endif
