/* thread.c - see thread.h.
 * Owns     tls_cache, tls_thread, the list of records.     Called by  the rest of front/, api/
 * Calls    metapool.h, shared_pool.h, config.h, fork.h, libc's pthread keys
 * Threads  a record belongs to the thread that took it off the free list.
 * Signals  a handler that interrupts a slow path finds busy set and the door closed, and uses the pool directly.
 * I1  tls_cache points to the thread's own cache only outside slow paths, and inside those that touch no magazine (thread_enter_open).
 */
#include "front/thread.h"

#include "front/flush.h"
#include "front/fork.h"
#include "front/handler.h"
#include "front/harden.h"
#include "front/pressure.h"
#include "front/profile.h"
#include "front/route.h"
#include "front/sampler.h"
#include "front/sleepers.h"
#include "meta/arena.h"
#include "meta/metapool.h"
#include "os/os.h"
#include "pool/background.h"
#include "pool/shared_pool.h"
#include "service/budget.h"
#include "service/config.h"
#include "service/stack.h"

#include <pthread.h>

/* The closed cache: every magazine empty and full at once. Its tables lead to its first magazine. Never written. */
const struct cache closed_cache = {.claim_offset = {0}};

__thread struct cache *tls_cache = (struct cache *)(uintptr_t)&closed_cache;

__thread struct thread *tls_thread;
__thread struct handler_call tls_handler;
__thread struct thread *tls_other; /* written under the pool lock, but to end it */
/* always busy: tls_thread while a record is being created, and after it is gone */
static SELDOM_USED struct thread no_record;

struct thread *_Atomic thread_list;
_Atomic uint32_t thread_cut_off;
static struct thread *free_threads; /* records without a thread. Pool lock */
static _Atomic uint32_t n_threads;  /* records with a thread. Written under the pool lock */
static _Atomic uint32_t n_kept;     /* records without a thread that keep slabs */
static pthread_key_t exit_key;
static bool exit_key_made;

#define CALL_MAX_ROUNDS 50 /* of a millisecond */
#define KEEPERS_MAX 16     /* records that keep slabs */
#define LOOK_AT_RECORDS 8
#define YIELDS_FOR_OTHER 10

enum { START_NOT, START_RUNNING, START_DONE };
static _Atomic int start_state;

struct thread *thread_first(void)
{
    return atomic_load_explicit(&thread_list, memory_order_acquire);
}

/* Blocks go back to their slabs. */
static void flush_all(struct thread *thread)
{
    unsigned n_flushes = 0;
    for (unsigned c = CLASS_FIRST; c < CLASS_END; c++) {
        struct magazine *magazine = &thread->cache.magazine[c];
        if (magazine->base != NULL) {
            n_flushes += magazine_count(magazine) != 0;
            flush_oldest(thread, c, magazine_count(magazine));
            magazine->base = magazine->top = magazine->limit = NULL;
            magazine->misses = 0;
        }
        if (c < CLASS_FIRST + N_TINY_CLASSES && thread->open_word[c].len_bytes != 0)
            flush_open_word(&thread->open_word[c], c);
    }
    span_cache_empty(thread);
    harden_empty(thread);
    magazine_forget_arrays(thread);
    thread->flushes += n_flushes;
}

/* The slabs that the record keeps are a thread's again, or are about to be nobody's. */
static void end_keeping(struct thread *thread)
{
    /* after in_use: see claim_record */
    size_t kept_bytes = atomic_exchange_explicit(&thread->kept_bytes, 0, memory_order_release);
    if (kept_bytes == 0)
        return;
    background_note_cached(-(int64_t)kept_bytes);
    atomic_fetch_sub_explicit(&n_kept, 1, memory_order_relaxed); /* relaxed: a number, no more */
}

void thread_empty(struct thread *thread)
{
    flush_all(thread);
    shared_pool_disown_slabs(thread->current, CLASS_END);
    end_keeping(thread);
}

/* ---- Life -------------------------------------------------------------------------------------------------------- */

/* Where in the list the record is that a new thread is to get; NULL: the list is empty. libc gives the stack of a thread that
 * another one has waited for to the next that it starts: often to one that goes on with the same data. That it lies in the same place
 * tells the record, and with it the slabs. So blocks of two lines of threads that follow each other do not get mixed in one cache line
 * (bench_workloads larson: 54 ms to 39). Lock held. */
static struct thread **find_free_record(void)
{
    struct thread **at = &free_threads;
    for (unsigned i = 0; i < LOOK_AT_RECORDS && *at != NULL; i++, at = &(*at)->next_free)
        if ((*at)->tls_slot == &tls_cache)
            return at;
    return free_threads != NULL ? &free_threads : NULL;
}

static struct thread *claim_record(void)
{
    if (os_is_vfork_child())
        return NULL; /* The record would tell of the child for as long as its parent's thread lives. */
    int32_t thread_id = os_thread_id(); /* a system call: not under the lock */
    if (!pool_lock(HAK_LOCK_METADATA))
        return NULL;
    struct thread *thread = NULL, **at = find_free_record();
    if (at != NULL) {
        thread = *at;
        *at = thread->next_free;
    } else if ((thread = metapool_claim()) != NULL) {
        sampler_open_magazines(thread);
        thread->next = atomic_load_explicit(&thread_list, memory_order_relaxed); /* relaxed: written under our lock */
        atomic_store_explicit(&thread_list, thread, memory_order_release);
    }
    if (thread != NULL) {
        atomic_store(&thread->busy, 1); /* nobody else's until create() is done with it */
        thread->tls_slot = &tls_cache;
        atomic_store_explicit(&thread->door,
                              harden_mode() == HARDEN_ON ? (struct cache *)(uintptr_t)&closed_cache : &thread->cache,
                              memory_order_relaxed); /* relaxed: nobody calls it before it is in use */
        if (harden_mode() == HARDEN_ON)
            harden_prepare(thread);
        else
            sampler_follow(thread);
        profile_let_hear(thread);
        thread->handler_frame = 0;
        thread->refills_before = thread->refills;
        thread->thread_id = thread_id;
        thread->stack_end = os_stack_end(thread_id);
        atomic_store_explicit(&thread->in_use, 1, memory_order_relaxed); /* relaxed: the lock publishes what matters */
        atomic_fetch_add_explicit(&n_threads, 1, memory_order_relaxed);  /* relaxed: a number, no more */
        end_keeping(thread); /* it is in use first: a fork must find its slabs, by one or the other */
    }
    pool_unlock();
    return thread;
}

size_t thread_count(void)
{
    return atomic_load_explicit(&n_threads, memory_order_relaxed); /* relaxed: a number, no more */
}

size_t thread_cache_max_bytes(void)
{
    if (budget_presses())
        return THREAD_CACHE_PRESSED_MAX_BYTES;
    return thread_count() <= FEW_THREADS ? THREAD_CACHE_FEW_MAX_BYTES : THREAD_CACHE_MAX_BYTES;
}

void thread_forget_free(void)
{
    free_threads = NULL;
}

/* Another thread has what this one waits for. To yield lets no thread of a lower real-time priority run: that takes sleep. */
static void wait_for_other(unsigned i)
{
    if (i < YIELDS_FOR_OTHER)
        os_yield();
    else
        os_sleep_ms(1);
}

void thread_release(struct thread *thread)
{
    for (unsigned i = 0;; i++) {
        if (!pool_lock(HAK_LOCK_METADATA))
            return; /* a handler that interrupts the lock's holder: the record is lost */
        if (likely(atomic_load(&thread->claim) == THREAD_UNCLAIMED))
            break;
        pool_unlock(); /* Claimed since we looked: it must not be the next thread's before that has ended. */
        wait_for_other(i);
    }
    if (atomic_exchange_explicit(&thread->in_use, 0, memory_order_relaxed) != 0)
        atomic_fetch_sub_explicit(&n_threads, 1, memory_order_relaxed);
    atomic_store_explicit(&thread->busy, 0, memory_order_relaxed);
    thread->next_free = free_threads;
    free_threads = thread;
    pool_unlock();
}

/* Whether a record may keep anything for the next thread: not where memory is to go back at once. */
static bool may_keep(void)
{
    return budget_purge_delay_ms() != 0 && !budget_is_set() && harden_mode() != HARDEN_ON;
}

/* Counted already. */
static void begin_keeping(struct thread *thread)
{
    size_t kept_bytes = 1;
    for (unsigned c = CLASS_FIRST; c < CLASS_END; c++)
        if (thread->current[c] != NULL)
            kept_bytes += slab_reach_bytes(thread->current[c]);
    atomic_store_explicit(&thread->kept_bytes, kept_bytes, memory_order_relaxed); /* relaxed: read as a guess */
    background_note_cached((int64_t)kept_bytes);
}

/* The thread's blocks go back, but its slabs stay the record's until a tick finds that no thread has taken it: the next one need not
 * look for slabs. False: nothing is done. */
static bool keep_slabs(struct thread *thread)
{
    if (!may_keep())
        return false;
    if (atomic_fetch_add_explicit(&n_kept, 1, memory_order_relaxed) >= KEEPERS_MAX) { /* relaxed: a number, no more */
        atomic_fetch_sub_explicit(&n_kept, 1, memory_order_relaxed);
        return false;
    }
    flush_all(thread);
    begin_keeping(thread);
    return true;
}

bool thread_keep_all(struct thread *thread)
{
    if (!may_keep() || config.purge_delay_ms < 0) /* there are no ticks: who has no threads could never use it */
        return false;
    atomic_fetch_add_explicit(&n_kept, 1, memory_order_relaxed); /* as above */
    begin_keeping(thread);
    return true;
}

/* Takes a record out of the list, if it is still there and keeps slabs. Not when the lock is taken: its holder may be stopped, in a
 * handler that waits for us. */
static bool take_keeper(struct thread *thread)
{
    if (tls_other != NULL || !pool_try_lock(HAK_LOCK_METADATA))
        return false;
    for (struct thread **at = &free_threads; *at != NULL; at = &(*at)->next_free)
        if (*at == thread && atomic_load_explicit(&thread->kept_bytes, memory_order_relaxed) != 0) {
            *at = thread->next_free;
            tls_other = thread;
            /* for a child of the child, where it may keep magazines, too */
            atomic_store(&thread->claim, THREAD_EMPTYING);
            break;
        }
    pool_unlock();
    return tls_other != NULL;
}

void thread_empty_kept(struct thread *thread)
{
    if (!take_keeper(thread))
        return;
    thread_empty(thread);
    atomic_store(&thread->claim, THREAD_UNCLAIMED);
    thread_release(thread);
    tls_other = NULL;
}

bool thread_claim_other(struct thread *thread, bool close_door)
{
    if (tls_other != NULL || !pool_lock(HAK_LOCK_METADATA))
        return false;
    if (atomic_load(&thread->in_use) != 0 && atomic_load(&thread->claim) == THREAD_UNCLAIMED) {
        tls_other = thread;
        atomic_store(&thread->claim, THREAD_CLAIMED);
        if (close_door)
            __atomic_store_n(thread->tls_slot, (struct cache *)(uintptr_t)&closed_cache, __ATOMIC_SEQ_CST);
    }
    pool_unlock();
    return tls_other != NULL;
}

/* In the child of a fork: the record's thread is gone, and it was us who had claimed it. */
static COLD void let_go_orphan(struct thread *thread)
{
    if (atomic_load(&thread->busy) != 0)
        fork_mend(thread, true);
    thread_empty(thread);
    thread_release(thread);
}

void thread_end_claim(struct thread *thread)
{
    atomic_store(&thread->claim, THREAD_UNCLAIMED);
    if (unlikely(thread->tls_slot == &tls_cache)) /* see fork.c */
        let_go_orphan(thread);
    tls_other = NULL;
}

/* The thread's exit, or what comes nearest: later destructors may still allocate, and are served by the pool. */
static void on_thread_exit(void *record)
{
    struct thread *thread = tls_thread; /* not the argument: see make_exit_key */
    (void)record;
    if (thread == NULL || thread == &no_record)
        return;
    /* of a handler that was left for good: or one in here would take the record for its thread's again */
    thread->handler_frame = 0;
    atomic_store(&thread->busy, 1);
    thread_close_door();
    /* It will see that we are awake, or is nearly done. */
    for (unsigned i = 0; atomic_load(&thread->claim) != THREAD_UNCLAIMED; i++)
        wait_for_other(i);
    int32_t thread_id = thread->thread_id;
    tls_thread = &no_record;
    if (!keep_slabs(thread))
        thread_empty(thread);
    thread_release(thread);
    if (unlikely(thread_id == os_process_id()))
        background_end();
}

/* The thread shall leave slow paths with its door closed until it has followed: not all of them follow. It may have done so
 * meanwhile; then, at worst, it comes back once for nothing. By the epoch as it is now: another session may have begun or ended since the
 * caller looked, and who has followed that one already opens its door for no other. */
static void keep_door_closed(struct thread *thread)
{
    atomic_store(&thread->door, (struct cache *)(uintptr_t)&closed_cache);
    if (atomic_load(&thread->sampler_epoch) == atomic_load(&sampler_epoch))
        atomic_store(&thread->door, &thread->cache);
}

/* Whether every thread has followed the sampler, or will before its next hit: its door is closed, and it is not inside a slow
 * path, whose end might be about to open it. Closes the doors of the others. */
static bool all_are_called(void)
{
    uint32_t epoch = atomic_load(&sampler_epoch);
    bool all = true;
    if (!pool_lock(HAK_LOCK_METADATA)) /* under which no thread's record is let go, and so no tls_slot goes */
        return true;
    for (struct thread *thread = thread_first(); thread != NULL; thread = thread->next) {
        if (atomic_load_explicit(&thread->in_use, memory_order_relaxed) == 0 || /* relaxed: written under our lock */
            atomic_load(&thread->sampler_epoch) == epoch || !os_thread_lives(thread->thread_id))
            /* the last: it ended by a system call of its own, and its variables are gone */
            continue;
        keep_door_closed(thread); /* before the look: who enters behind it leaves with the door closed */
        bool inside = atomic_load(&thread->busy) != 0;
        if (!inside && __atomic_load_n(thread->tls_slot, __ATOMIC_SEQ_CST) == &closed_cache)
            continue;
        /* Not while somebody looks whether it sleeps: for him an open door says that it went on (sleepers.c). He claims under our lock. */
        if (atomic_load(&thread->claim) == THREAD_UNCLAIMED)
            __atomic_store_n(thread->tls_slot, (struct cache *)(uintptr_t)&closed_cache, __ATOMIC_SEQ_CST);
        all = false;
    }
    pool_unlock();
    return all;
}

void thread_call_all(void)
{
    for (unsigned i = 0; i < CALL_MAX_ROUNDS && !all_are_called(); i++)
        if (i != 0) /* The second look finds all those called that were not inside a slow path at the first. */
            os_sleep_ms(1);
}

/* Whether this thread must not start another one now: it will come to thread_leave, thread_leave_open or handler_leave; or it is in a handler
 * that may have interrupted libc with a lock in its hands that this takes. Then its next call does it, which finds the door closed. */
static bool is_inside(void)
{
    const struct thread *thread = tls_thread;
    /* relaxed: our own */
    if (thread != NULL && thread != &no_record && atomic_load_explicit(&thread->busy, memory_order_relaxed) != 0)
        return true;
    if (likely(!handler_runs()))
        return false;
    thread_close_door();
    return true;
}

/* A library that dlmopen() puts into a namespace of its own has a libc of its own, which counts keys from 0 as ours does, while
 * both keep the values in the same thread's array: equal keys would be one. So ours is the last of those whose values lie in
 * the thread's own block (no memory is needed for them), as far from the first as can be. */
static bool make_exit_key(void)
{
    enum { FAR = 32 };
    pthread_key_t taken[FAR];
    unsigned n = 0;
    bool made;
    while ((made = pthread_key_create(&exit_key, NULL) == 0) && exit_key < FAR - 1 && n < FAR)
        taken[n++] = exit_key;
    if (made)
        pthread_key_delete(exit_key);
    made = pthread_key_create(&exit_key, on_thread_exit) == 0;
    while (n > 0)
        pthread_key_delete(taken[--n]);
    return made;
}

void thread_start_process(void)
{
    int state = START_NOT;
    if (atomic_load_explicit(&start_state, memory_order_acquire) == START_DONE)
        return;
    if (!atomic_compare_exchange_strong(&start_state, &state, START_RUNNING)) {
        /* Another thread starts; or this one does, and a libc function called malloc: then the pool serves it. */
        for (unsigned i = 0;
             tls_thread != &no_record && atomic_load_explicit(&start_state, memory_order_acquire) != START_DONE; i++)
            wait_for_other(i);
        return;
    }
    struct thread *before = tls_thread;
    atomic_store(&no_record.busy, 1);
    tls_thread = &no_record;
    os_start();
    config_read();
    if (config.background)
        os_note_filter();
    tiny_route_set(config.profile);
    arena_set_len_bytes(config.arena_bytes);
    harden_start();
    budget_start("");
    background_set_caches_tick(sleepers_tick, sleepers_tick_gone);
    background_set_inside(is_inside);
    exit_key_made = make_exit_key();
    fork_start();
    tls_thread = before;
    atomic_store_explicit(&start_state, START_DONE, memory_order_release);
    /* Libraries' constructors, which may come before ours, are part of the run. A static program has none, and its libc is not ready yet. */
    if (config.profile_path[0] != 0 && os_linker_bytes != 0) {
        stack_prepare_early();
        profile_start(config.profile_interval_bytes);
    }
}

/* The first slow call of a thread. */
static struct thread *create(void)
{
    thread_start_process();
    if (tls_thread == &no_record)
        /* called by libc from within the start */
        return NULL;
    if (thread_first() != NULL) /* another thread may fork while this one holds the lock */
        os_watch_forks();
    if (unlikely(!exit_key_made) && os_thread_id() != os_process_id())
        return NULL;         /* Nobody would let its record go: the pool serves it. */
    tls_thread = &no_record; /* what the next lines call may allocate */
    struct thread *thread = claim_record();
    if (thread == NULL) {
        tls_thread = NULL;
        return NULL;
    }
    /* also of a record that was another's: tests change the routes */
    for (unsigned c = CLASS_FIRST; c < CLASS_END; c++)
        thread->cache.magazine[c].max = (uint16_t)magazine_max(&class_table[c]);
    if (exit_key_made)
        pthread_setspecific(exit_key,
                            thread); /* On failure the record stays in use after the thread: a bounded loss. */
    thread_close_door();
    tls_thread = thread;
    return thread;
}

struct thread *thread_enter_first(void)
{
    struct thread *thread = tls_thread;
    if (thread == NULL) /* The linker frees what a thread had that has ended: its record would be let go by nobody. */
        return background_is_held() ? NULL : create();
    if (!handler_was_left(thread))
        return NULL;
    handler_leave(thread);
    return thread_enter();
}
