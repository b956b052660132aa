/* background.h - a thread that gives idle memory back when the program no longer calls us.
 */
#ifndef HAKMEM_POOL_BACKGROUND_H
#define HAKMEM_POOL_BACKGROUND_H

#include "base/base.h"

/* Something has become idle. Starts the thread if there is enough for it to do and it does not run yet; where it may not or
 * cannot run, the caller does its work when that is due. Not under the pool lock. */
void background_wake(void);

/* Whether the thread runs: it looks again at what waits before it ends. Any thread. */
bool background_runs(void);

/* While on, nothing that the calling thread does starts the thread: libc may hold a lock that it takes to start one. What is to do
 * then is left to whoever wakes it next. */
void background_hold(bool on);

/* What threads keep in their caches, in bytes, has changed by so much. Wakes the thread when it is a lot. */
void background_note_cached(int64_t change_bytes);

/* Names what empties the caches of threads that no longer use them; called at each tick. It returns how many bytes later
 * calls may find. */
void background_set_caches_tick(size_t (*tick)(void));

/* The child of a fork has no such thread. Returns whether its parent had. */
bool background_fork_child(void);

#endif
