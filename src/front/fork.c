/* fork.c - see fork.h.
 * Owns     whether this child is mended.     Called by  libc in the child, lock.c (before it waits there), thread.c
 * Calls    the fork functions of os.h, shared_pool.h, background.h, pressure.h and profile.h; thread.h
 * Threads  the child's only one.
 * Signals  the fork may have been called by a handler that interrupted any line of ours.
 */
#include "front/fork.h"

#include "front/harden.h"
#include "front/pressure.h"
#include "front/profile.h"
#include "os/lock.h"
#include "os/os.h"
#include "pool/background.h"
#include "pool/huge_pages.h"
#include "pool/shared_pool.h"

#include <pthread.h>

/* The magazines may be half changed, and a claim from a slab half done; interrupted: so may be what this very thread returns, which is taken
 * off the count when its signal handler has come back. */
void fork_mend(struct thread *thread, bool interrupted)
{
    for (unsigned c = CLASS_FIRST; c < CLASS_END; c++)
        thread->cache.magazine[c] = (struct magazine){.max = thread->cache.magazine[c].max};
    span_cache_forget(thread);
    harden_forget(thread);
    magazine_forget_arrays(thread);
    for (unsigned c = CLASS_FIRST; c < CLASS_END; c++)
        if (thread->current[c] != NULL)
            slab_recount(thread->current[c], interrupted);
}

/* Whether the record is the calling thread's, or is being made so, or was and is being let go. */
static bool is_own(const struct thread *thread)
{
    return thread->tls_slot == &tls_cache && atomic_load_explicit(&thread->in_use, memory_order_relaxed) != 0;
}

/* The record that is the calling thread's. */
static void mend_own(struct thread *thread, bool interrupted, bool being_emptied)
{
    thread->thread_id = os_thread_id();
    harden_fork_child(thread, interrupted || being_emptied);
    if (being_emptied) /* It woke up meanwhile, and has not touched its cache since. */
        fork_mend(thread, interrupted);
}

/* The record of a thread that is gone: what it held in its cache is free memory. Outside slow paths magazines are whole at any instruction
 * (magazine.h). What a thread inside a slow path held is lost to the child: a bounded leak. Returns how many calls were cut off. */
static unsigned mend_others(struct thread *thread, bool interrupted, bool being_emptied)
{
    bool in_use = atomic_load_explicit(&thread->in_use, memory_order_relaxed) != 0;
    bool keeps = atomic_load_explicit(&thread->kept_bytes, memory_order_relaxed) != 0;
    bool cut_off = in_use ? being_emptied || atomic_load(&thread->busy) != 0 : keeps && being_emptied;
    if (cut_off)
        fork_mend(thread, interrupted);
    if (in_use) {
        if (cut_off || pool_lock_is_mine() || !thread_keep_all(thread)) /* with the lock it could not be filed */
            thread_empty(thread);
    } else if (keeps) { /* One that keeps nothing may be about to be claimed, and half prepared. */
        thread_empty(thread);
    }
    thread_release(thread);
    return cut_off;
}

static unsigned mend_record(struct thread *thread, bool interrupted)
{
    if (thread == tls_other) { /* We were at it, and go on. */
        if (atomic_load_explicit(&thread->in_use, memory_order_relaxed) != 0)
            thread->tls_slot = &tls_cache; /* so that thread_end_claim knows it for an orphan */
        return 0;
    }
    unsigned claim = atomic_load(&thread->claim);
    if (claim != THREAD_UNCLAIMED) /* what is not written is not copied */
        atomic_store(&thread->claim, THREAD_UNCLAIMED);
    if (claim == THREAD_EMPTYING_SPANS)
        span_cache_forget(thread);
    if (!is_own(thread))
        return mend_others(thread, interrupted, claim == THREAD_EMPTYING);
    mend_own(thread, interrupted, claim == THREAD_EMPTYING);
    return 0;
}

/* interrupted: what this very thread is in the midst of goes on afterwards. */
static void mend_child(bool interrupted)
{
    os_fork_child();
    bool held = background_hold(true); /* not a second thread within fork() */
    shared_pool_fork_child(interrupted);
    huge_pages_fork_child();
    uint32_t n_cut_off = background_fork_child() + interrupted;
    pressure_fork_child();
    profile_fork_child();
    if (!pool_lock_is_mine())
        thread_forget_free(); /* The lock's holder may have been in the midst of it: all records are filed again. */
    for (struct thread *thread = thread_first(); thread != NULL; thread = thread->next)
        n_cut_off += mend_record(thread, interrupted);
    atomic_fetch_add(&thread_cut_off, n_cut_off);
    profile_end_inherited();
    background_hold(held);
}

static bool fork_is_mended;

/* Other libraries' handlers may come before ours, and allocate: they must not wait for threads that are gone. */
static void mend_before_wait(void)
{
    mend_child(true);
    fork_is_mended = true;
}

static void on_fork_child(void)
{
    const struct thread *self = tls_thread;
    bool interrupted = (self != NULL && atomic_load(&self->busy) != 0) || tls_other != NULL || background_is_ticking();
    if (!fork_is_mended || os_is_new_child())
        mend_child(interrupted);
    fork_is_mended = false;
}

void fork_start(void)
{
    lock_before_wait_in_child(mend_before_wait);
    pthread_atfork(NULL, NULL, on_fork_child);
}
