/* span_cache.h - slots of SuperSlabs that a thread keeps for its requests above 32 KiB that are spans, as magazines keep
 * smaller blocks: claiming and returning one takes no lock.
 *
 *   span_places[i]   a SuperSlab, and a bit for each of its 32 slots that this thread holds: of blocks that it freed, those that
 *                    lie side by side serve as one. But first each is kept as it was, for the next block of as many slots
 *   packed_places[i] a packed span that this thread freed, kept as it was for the next block of about as many pages
 *
 * Who only allocates takes them from the pool, several blocks' worth at a time. There is room for 1 MiB, or one longer block. It
 * grows with the thread's misses, up to a bound, while threads wait for the pool lock often. With a budget, with
 * HAKMEM_PURGE_DELAY_MS=0 and in hardened mode there is none.
 */
#ifndef HAKMEM_FRONT_SPAN_CACHE_H
#define HAKMEM_FRONT_SPAN_CACHE_H

#include "meta/layout.h"

#define SPAN_CACHE_PLACES 32
#define SPAN_CACHE_PACKED 8
#define SPAN_CACHE_MAX_BYTES (8 * MIB)
#define SPAN_CACHE_CROWD_WAITS 256 /* for the pool lock, after which a miss looks how long they took */

struct thread;

struct span_cache {
    uint8_t n_places;    /* of thread.span_places */
    uint8_t n_joined;    /* of these the first: one of each SuperSlab; the others are blocks as they were freed */
    uint16_t held_slabs; /* slots held; of packed spans, those that they would take by themselves */
    uint16_t room_slabs; /* the most that may be */
    /* set by a tick: not used since the last one; its thread empties it on a slow path, or sleepers.c */
    _Atomic uint8_t stale;
    uint8_t crowded;      /* threads waited often for the pool lock when this was last looked at */
    uint8_t n_packed;     /* of thread.packed_places */
    uint8_t missed_slots; /* what the last claim that missed was to take */
    /* so many claims of as many slots missed in a row, and this thread freed no block meanwhile */
    uint8_t misses;
    uint32_t tail_bytes;   /* behind blocks that were claimed at the door, since the last tail_look */
    uint32_t looked_ms;    /* when `crowded` was looked at */
    uint64_t looked_waits; /* for the pool lock, by all threads, until then */
    uint64_t seen_waits;   /* and until the last miss */
    uint32_t n_uses;       /* claims and returns; tells a tick whether the cache is in use */
    uint32_t seen_uses;    /* at the last tick. Written by ticks */
};

/* ---- The doors: what nearly every call comes to. Outside of slow paths; no record of a thread may be there, and nothing is
 * changed where they say no ---- */

/* The youngest block that was freed and takes as many slots as size_bytes (SPAN_MAX_BYTES at most), or about as many pages, as a block again: on a multiple of
 * 64 KiB, or of 4 KiB if `page` will do. NULL: there is none. */
void *span_cache_claim_again(size_t size_bytes, bool page, bool *zeroed);

/* Takes a block that is being freed, in a slab of the first arena and of CLASS_SPAN, if there is room for it. False: none, or it needs a
 * closer look. */
bool span_cache_keep(const void *block);

/* ---- Behind them. All functions: between thread_enter and thread_leave, or as for thread_empty ---- */

/* A block of len_bytes, a multiple of the page up to SPAN_MAX_BYTES, on a multiple of 64 KiB, or of 4 KiB if `page` will do. NULL: none
 * is held, and the room grows. */
void *span_cache_claim(struct thread *thread, size_t len_bytes, bool page, bool *zeroed);

/* Takes a block that is being freed, in the slab of this record (NULL: it is no slab's). False: there is no room for it, or it is no
 * span. */
bool span_cache_return(struct thread *thread, const void *block, struct slab *slab);

/* Before a block grows where it lies: what the thread holds beside it goes back into the pool, for it may be what the block needs. */
void span_cache_make_way(struct thread *thread, const void *block);

/* Puts all of it back into the pool. */
void span_cache_empty(struct thread *thread);

/* Forgets what may be half done, in the child of a fork: those slots are lost to it. */
void span_cache_forget(struct thread *thread);

/* On slow paths: empties a cache that a tick has found unused. */
#define span_cache_look(thread)                                                                                        \
    do {                                                                                                               \
        if (unlikely(atomic_load_explicit(&(thread)->span_cache.stale, memory_order_relaxed) != 0)) /* a hint */       \
            span_cache_empty(thread);                                                                                  \
    } while (0)

/* A tick: an unused cache is to be emptied by its thread. Returns the bytes that wait for it. Any thread; reads beside the
 * owner, as a guess. */
size_t span_cache_tick(struct thread *thread);

#endif
