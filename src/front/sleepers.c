/* sleepers.c - see sleepers.h.
 * Owns     struct thread's seen and quiet_ticks.     Called by  background.c (ticks), pressure.c (trim)
 * Calls    thread.h, os.h
 * Threads  any; one claims a record at a time.
 *
 * What a thread keeps in its magazines, and the slabs that it owns, are its alone: it touches them without atomic operations,
 * at any time. Only when it sleeps can another thread take them, and the order of things is this:
 *   1  claim the record and close its door, under the pool lock, so that the thread cannot exit meanwhile.
 *      From now on all its calls take the slow path, find the claim, and do without the record.
 *   2  ask the system whether the thread sleeps in a call that waits. Then it is past whatever it did before step 1, and all
 *      that it stored is seen; unless a signal handler sleeps that interrupted it
 *        - on a slow path: then busy is set;
 *        - on a hit path: then the interrupted instruction's address lies on the stack. All hit paths are in one section. (What is
 *          left of an earlier call may look like that, too: then the cache stays until the stack looks otherwise.)
 *   3  empty the cache, and end the claim. The thread's next slow call opens the door.
 * What it keeps for blocks above 32 KiB needs less: see empty_spans.
 * Where an emulator runs the program (valgrind, qemu), the system's stack is not the program's: it lies elsewhere, and the
 * thread is left alone.
 */
#include "front/sleepers.h"

#include "front/hit.h"
#include "front/thread.h"
#include "meta/registry.h"
#include "os/os.h"
#include "pool/shared_pool.h"
#include "service/stats.h"

#define GIVE_UP_TICKS 8
#define STACK_MAX_BYTES MIB /* of a thread's stack that are looked at; a deeper one is left alone */
#define PEEK_BYTES 4096

/* Whether an address inside the hit paths lies on the stack, or cannot be ruled out. */
static bool may_be_inside_hit(uintptr_t sp, uintptr_t stack_end)
{
    uintptr_t word[PEEK_BYTES / sizeof(uintptr_t)], at = sp & ~(uintptr_t)(sizeof(uintptr_t) - 1);
    if (sp > stack_end || stack_end - sp > STACK_MAX_BYTES)
        return true;
    while (at < stack_end) {
        size_t len_bytes = PEEK_BYTES - at % PEEK_BYTES; /* to the end of the page */
        if (!os_peek(at, word, len_bytes))
            return true;
        for (size_t i = 0; i < len_bytes / sizeof(uintptr_t); i++)
            if (unlikely(hit_text_has(word[i])) && (hit_is_entry == NULL || !hit_is_entry(word[i])))
                return true;
        at += len_bytes;
    }
    return false;
}

static bool sleeps_outside_of_us(const struct thread *thread)
{
    uintptr_t sp;
    return os_thread_waits(thread->thread_id, &sp) && atomic_load(&thread->busy) == 0 &&
           !may_be_inside_hit(sp, thread->stack_end);
}

/* What comes back now, comes by our doing: no sign that the program uses its slabs. */
static void discount(struct thread *thread)
{
    for (unsigned c = CLASS_FIRST; c < CLASS_END; c++) {
        struct magazine *magazine = &thread->cache.magazine[c];
        if (thread->current[c] != NULL)
            shared_pool_note_quiet(thread->current[c]);
        for (void **at = magazine->base; at != magazine->top; at++) {
            struct slab *slab = registry_slab(*at);
            if (slab != NULL)
                shared_pool_discount(slab);
        }
    }
}

/* A record that has no thread now keeps no slabs and no arrays. (The lock may be taken: see take_keeper in thread.c.) */
static void empty_free_record(struct thread *thread)
{
    /* relaxed, both: guesses, until the lock */
    if (!atomic_load_explicit(&thread->array_pages_used, memory_order_relaxed) &&
        atomic_load_explicit(&thread->kept_bytes, memory_order_relaxed) == 0)
        return;
    thread_empty_kept(thread);
    if (!pool_try_lock(HAK_LOCK_METADATA))
        return;
    if (atomic_load(&thread->in_use) == 0)
        magazine_purge_arrays(thread);
    pool_unlock();
}

/* Returns whether the thread's cache is empty now. */
static bool empty_if_asleep(struct thread *thread)
{
    /* The first look: most are awake, and need no closed door. */
    if (thread == tls_thread || !os_may_look_at_threads() || !sleeps_outside_of_us(thread) ||
        !thread_claim_other(thread, true))
        return false;
    /* A slow path that was under way when the door was closed has opened it again. */
    bool asleep = sleeps_outside_of_us(thread) &&
                  __atomic_load_n(thread->tls_slot, __ATOMIC_SEQ_CST) == (struct cache *)(uintptr_t)&closed_cache;
    if (asleep) {
        atomic_store(&thread->claim, THREAD_EMPTYING);
        discount(thread);
        thread_empty(thread);
        magazine_purge_arrays(thread);
        stats_add(&stats_counters.caches_emptied, 1);
    }
    thread_end_claim(thread);
    return asleep;
}

/* What a thread keeps for blocks above 32 KiB is touched behind busy alone. So nobody need sleep: it is enough that nobody is behind busy when
 * the record is claimed, for who sets it from the barrier on sees the claim. (Where /proc is root's, nobody is ever seen asleep: 25 threads of
 * a web server kept 10 MiB.) The door stays as it is: of a thread that ended by a system call of its own the variables are gone. */
static void empty_spans(struct thread *thread)
{
    if (thread == tls_thread || thread->span_cache.held_slabs == 0 || !os_may_look_at_threads() ||
        !thread_claim_other(thread, false))
        return;
    if (os_barrier_of_all() && atomic_load(&thread->busy) == 0) {
        atomic_store(&thread->claim, THREAD_EMPTYING_SPANS);
        span_cache_empty(thread);
    }
    thread_end_claim(thread);
}

/* A number that changes when the thread uses its cache; all of it is read beside the thread, as a guess. */
static uint64_t trace_of(const struct thread *thread, bool *holds_anything)
{
    uint64_t trace = thread->refills + thread->flushes + thread->span_cache.n_uses + (uint64_t)thread->cache.left;
    *holds_anything = thread->capacity_bytes != 0 || thread->span_cache.room_slabs != 0;
    for (unsigned c = CLASS_FIRST; c < CLASS_END; c++) {
        trace = trace * 31 + (uintptr_t)thread->cache.magazine[c].top;
        *holds_anything |= thread->current[c] != NULL;
    }
    return trace;
}

/* The living ones too, or only records that no thread has. */
static size_t tick(bool of_living)
{
    size_t waiting_bytes = 0;
    if (UNDER_THREAD_SANITIZER) /* The order that the system's answer gives is not one that it sees. */
        return 0;
    for (struct thread *thread = thread_first(); thread != NULL; thread = thread->next) {
        bool holds_anything;
        if (!of_living && atomic_load_explicit(&thread->in_use, memory_order_relaxed) != 0) /* relaxed: a guess */
            continue;
        uint64_t trace = trace_of(thread, &holds_anything);
        if (trace != thread->seen)
            thread->quiet_ticks = 0;
        else if (thread->quiet_ticks < GIVE_UP_TICKS)
            thread->quiet_ticks++;
        thread->seen = trace;
        if (atomic_load_explicit(&thread->in_use, memory_order_relaxed) == 0) { /* relaxed: a guess */
            if (thread->quiet_ticks >= TICKS_OF_DELAY)
                empty_free_record(thread);
            /* relaxed, both: a guess */
            waiting_bytes += atomic_load_explicit(&thread->kept_bytes, memory_order_relaxed);
            continue;
        }
        if (!holds_anything)
            continue;
        waiting_bytes += span_cache_tick(thread);
        if (thread->quiet_ticks >= TICKS_OF_DELAY && empty_if_asleep(thread))
            continue;
        if (thread->quiet_ticks >= TICKS_OF_DELAY &&
            atomic_load_explicit(&thread->span_cache.stale, memory_order_relaxed) != 0) /* a hint */
            empty_spans(thread);
        if (thread->quiet_ticks < GIVE_UP_TICKS) /* else it is busy elsewhere, for how long nobody knows */
            waiting_bytes += thread->capacity_bytes;
    }
    return waiting_bytes;
}

size_t sleepers_tick(void)
{
    return tick(true);
}

size_t sleepers_tick_gone(void)
{
    return tick(false);
}

void sleepers_empty_all(void)
{
    for (struct thread *thread = thread_first(); thread != NULL; thread = thread->next)
        /* relaxed, both: who empties it looks again */
        if (atomic_load_explicit(&thread->in_use, memory_order_relaxed) == 0)
            empty_free_record(thread);
        else if (!UNDER_THREAD_SANITIZER && !empty_if_asleep(thread))
            empty_spans(thread);
}
