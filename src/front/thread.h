/* thread.h - one record per thread: its cache, the slabs it owns, its life.
 *
 *   none ---first slow call---> creating ---> open <---> busy (inside a slow path) 
 *                                              |
 *                                              +---the thread's exit---> gone
 * Only `open` has the cache in tls_cache; in all other states tls_cache is the closed cache, every call comes to the
 * slow path, and those that find no usable record (creating, busy in a signal handler, gone) go to the shared pool
 * directly.
 */
#ifndef HAKMEM_FRONT_THREAD_H
#define HAKMEM_FRONT_THREAD_H

#include "front/magazine.h"

/* Cached memory a thread may hold: magazines stop growing, or shrink each other, at this sum of capacities. */
#define THREAD_CACHE_MAX_BYTES MIB

struct thread {
    struct cache cache;
    struct slab *current[CLASS_SET_SLOTS]; /* the slab that this thread claims from */
    struct cache **tls_slot;               /* the thread's tls_cache: storing the closed cache there closes its door */
    size_t capacity_bytes;                 /* sum of magazine capacities times block size */
    uint64_t refills, flushes;             /* written by the thread, read by anyone */
    struct thread *next;                   /* all records ever made; constant */
    struct thread *next_free;              /* while free. Pool lock */
    _Atomic uint32_t in_use;               /* 0: free for the next thread. Written under the pool lock */
    uint32_t busy;                         /* inside a slow path */
    uint8_t shrink_cursor;                 /* class that next gives up capacity */
};

/* Enters a slow path: the caller's record with its door closed, or NULL when it must do without one. */
struct thread *thread_enter(void);

/* Leaves it: the door opens. */
void thread_leave(struct thread *thread);

/* Opens a magazine or doubles it, within the class's maximum and the thread's. False: it stays as it is. Between
 * thread_enter and thread_leave. */
bool thread_grow_magazine(struct thread *thread, unsigned class_id);

/* Takes the record's magazines and slabs apart: blocks go back to their slabs. The record's thread is the caller, or
 * gone. */
void thread_empty(struct thread *thread);

/* All records; NULL when there are none. Any thread. */
struct thread *thread_first(void);

/* Starts the allocator if need be: configuration, handlers. Any number of times. */
void thread_start_process(void);

#endif
