/* background.h - a thread that gives idle memory back when the program no longer calls us.
 */
#ifndef HAKMEM_POOL_BACKGROUND_H
#define HAKMEM_POOL_BACKGROUND_H

#include "base/base.h"

#define TICKS_OF_DELAY 2 /* so many ticks in a row make the purge delay */

/* Something has become idle. Starts the thread if there is enough for it to do and it does not run yet; where it may not or
 * cannot run, the caller does its work when that is due. Not under the pool lock. */
void background_wake(void);

/* Names what tells whether the calling thread is inside a slow path, or in a signal handler. There the thread is not started but wanted:
 * starting it allocates, and the calling thread's cache serves nobody meanwhile. (realloc_vector of bench_workloads: a slab of its own for
 * those 304 bytes kept a SuperSlab from becoming empty, 9.4 MiB instead of 7.0.) */
void background_set_inside(bool (*is_inside)(void));

/* At the end of a slow path: starts the thread if it is wanted. Not under the pool lock. */
extern __thread bool background_wanted __attribute__((visibility("hidden"), tls_model("initial-exec")));
NOINLINE void background_start_wanted(void);
static inline void background_look(void)
{
    if (unlikely(background_wanted))
        background_start_wanted();
}

/* The process's first thread ends, and the process does not: the thread ends, and there will be none any more; callers tick instead. libc
 * has the thread that ends last call exit(), which must be one of the program's, for ours has left its files. Waits until it is gone, a
 * second at most. */
void background_end(void);

/* Before the process gives up rights: ends the thread, if it is one that libc does not know of (os_start_bare_thread), and keeps the calling
 * thread from starting another until background_let is called with the result. Waits until it is gone, a second at most: if it waits for what
 * a signal handler's caller has interrupted, it ends later. */
bool background_halt(void);
void background_let(bool before);

/* Whether the thread runs: it looks again at what waits before it ends. Any thread. */
bool background_runs(void);

/* While on, nothing that the calling thread does starts the thread: libc may hold a lock that it takes to start one. What is to do
 * then is left to whoever wakes it next. Returns whether it was on. */
bool background_hold(bool on);
bool background_is_held(void);

/* Whether the caller, a signal handler, has interrupted the thread's doing the background thread's work. */
bool background_is_ticking(void);

/* What threads keep in their caches, in bytes, has changed by so much. Wakes the thread when it is a lot. */
void background_note_cached(int64_t change_bytes);

/* Names what empties the caches of threads that no longer use them, and what those of threads that are gone alone: one of them is called at
 * each tick, the second where the system is not to be asked whether a thread sleeps. They return how many bytes later calls may find. */
void background_set_caches_tick(size_t (*tick)(void), size_t (*tick_gone)(void));

/* The child of a fork has no such thread. Returns whether its parent had. */
bool background_fork_child(void);

#endif
