/* pressure.c - see pressure.h.
 * Owns     the state of reliefs, the program's function.     Called by  refill.c, large_block.c, guarded.c, fork.c, api/
 * Calls    budget.h, thread.h, sleepers.h, shared_pool.h, release.h
 * Threads  any. One relief at a time: who comes meanwhile waits for it, because what it gives back is what he needs. The lock
 *          for that is taken before the pool lock, never after it.
 * Signals  a handler that interrupts a relief on its own thread, or the pool lock's holder, goes without one.
 */
#include "front/pressure.h"

#include "front/front.h"
#include "front/guarded.h"
#include "front/sleepers.h"
#include "os/lock.h"
#include "os/os.h"
#include "pool/lru.h"
#include "pool/release.h"
#include "pool/shared_pool.h"

#include <errno.h>
#include <pthread.h>

/* Above the soft line a relief is due each time that so many parts of the way to the hard line were used up. */
#define SOFT_STEPS 8
#define STEP_MIN_BYTES (256 * KIB)
/* At the hard line a request asks for one where blocks came back to slabs since the last one; and now and then, because of
 * those that came to caches alone. */
#define RELIEF_INTERVAL_MS 10
/* Before a request is refused, the control group's limit is read again, if it was not in that time. */
#define FOLLOW_INTERVAL_MS 1000
#define WAIT_MOST_MS 1000 /* for memory that is on its way back */
#define WAIT_YIELDS 100
#define TOLD_MOST_MS 100

_Atomic uint32_t pressure_soft_news;

static struct lock lock;

static struct {
    _Atomic size_t next_bytes;   /* the next relief is due at so much */
    _Atomic uint32_t number;     /* of reliefs so far */
    _Atomic uint32_t above_soft; /* told, and not below since */
    _Atomic uint32_t last_ms;
} relief;

static __thread bool is_told; /* this thread is inside the program's function */

static struct {
    hak_pressure_function function; /* Both under the lock */
    void *argument;
    _Atomic uint32_t running;
} told;

/* ---- Giving back ------------------------------------------------------------------------------------------------- */

static void give_back(struct thread *thread, int level)
{
    if (level >= HAK_TRIM_CACHE)
        guarded_release_waiting();
    if (thread != NULL)
        thread_empty(thread);
    sleepers_empty_all();
    if (level >= HAK_TRIM_SLABS) {
        shared_pool_retire_idle();
        shared_pool_purge_all_empty();
    }
    if (level >= HAK_TRIM_PAGES)
        shared_pool_purge_pages();
    lru_drain();
    release_refused();
}

void front_trim(int level)
{
    struct thread *thread = thread_enter();
    give_back(thread, level);
    if (thread != NULL)
        thread_leave(thread);
}

COLD void pressure_note_failure(void)
{
    budget_open_reserve(); /* of no meaning without a budget */
    errno = ENOMEM;
}

bool pressure_last_resort(size_t size_bytes)
{
    if (budget_is_set() || size_bytes > stats_read(&stats_counters.mapped_bytes) || pool_lock_is_mine())
        return false;
    struct thread *thread = thread_enter();
    if (thread == NULL)
        return false;
    give_back(thread, HAK_TRIM_SLABS);
    thread_leave(thread);
    return true;
}

/* Above the soft line each running thread gives up its cache once a relief, when it next comes to a slow path. */
static void give_up_cache(struct thread *thread)
{
    uint32_t number = atomic_load_explicit(&relief.number, memory_order_relaxed); /* relaxed: this time or next time */
    if (thread == NULL || thread->relief == number)
        return;
    thread->relief = number;
    thread_empty(thread);
}

static size_t step_bytes(void)
{
    return max_size((atomic_load(&budget.hard_bytes) - atomic_load(&budget.soft_bytes)) / SOFT_STEPS, STEP_MIN_BYTES);
}

static bool is_due(size_t need_bytes)
{
    if (budget_used_bytes() + need_bytes > atomic_load(&relief.next_bytes))
        return true;
    return !budget_has_room(need_bytes, false) &&
           (atomic_load(&budget.freed) != 0 || os_now_ms() - atomic_load(&relief.last_ms) >= RELIEF_INTERVAL_MS);
}

/* Everything idle goes back, if that is due with need_bytes more. */
static void relieve(struct thread *thread, size_t need_bytes)
{
    bool under_way = lock_owner(&lock) != 0 && !budget_has_room(need_bytes, false); /* and may bring what is missing */
    if ((!is_due(need_bytes) && !under_way) || pool_lock_is_mine() || lock_take(&lock, lock_self()) == LOCK_SELF)
        return;
    if (is_due(need_bytes)) { /* not done by another thread while we waited */
        uint32_t number = atomic_fetch_add(&relief.number, 1) + 1;
        if (thread != NULL)
            thread->relief = number;
        atomic_store(&budget.freed, 0);
        give_back(thread, HAK_TRIM_PAGES);
        stats_add(&stats_counters.budget_reliefs, 1);
        atomic_store(&relief.last_ms, os_now_ms());
        atomic_store(&relief.next_bytes,
                     max_size(budget_used_bytes() + need_bytes, atomic_load(&budget.soft_bytes)) + step_bytes());
    }
    lock_drop(&lock);
}

void pressure_lines_moved(void)
{
    atomic_store(&relief.next_bytes, 0);
    atomic_store(&relief.above_soft, 0);
    if (budget_presses())
        front_trim(HAK_TRIM_PAGES);
}

/* ---- Admission --------------------------------------------------------------------------------------------------- */

/* Less than the soft line is held: what is done and told above it begins anew. */
static void start_anew(void)
{
    if (atomic_load_explicit(&relief.next_bytes, memory_order_relaxed) != 0) { /* relaxed: a hint */
        atomic_store(&relief.next_bytes, 0);
        atomic_store(&relief.above_soft, 0);
    }
    budget_close_reserve();
}

/* The hard line is reached: perhaps the control group's limit, of which it is a part, has been raised. In the calling thread, for
 * which a file open for a moment is less of a surprise than a refusal; but not under a filter of system calls. */
static void follow_group(size_t need_bytes)
{
    static _Atomic uint32_t looked_ms;
    if (likely(budget_has_room(need_bytes, false)) || !budget_is_by_group())
        return;
    uint32_t now_ms = os_now_ms(), before_ms = atomic_load(&looked_ms);
    if (now_ms - before_ms >= FOLLOW_INTERVAL_MS && atomic_compare_exchange_strong(&looked_ms, &before_ms, now_ms) &&
        !os_calls_are_filtered() && budget_follow(""))
        atomic_store(&relief.next_bytes, 0);
}

/* Does what is due before need_bytes more are committed. Returns whether they stay below the soft line. */
static bool prepare(struct thread *thread, size_t need_bytes)
{
    size_t soft_bytes = atomic_load(&budget.soft_bytes), used_bytes = budget_used_bytes();
    if (used_bytes + need_bytes <= soft_bytes || used_bytes + step_bytes() <= soft_bytes)
        start_anew();
    if (likely(used_bytes + need_bytes <= soft_bytes))
        return true;
    give_up_cache(thread);
    relieve(thread, need_bytes);
    follow_group(need_bytes);
    if (budget_used_bytes() + need_bytes <= atomic_load(&budget.soft_bytes))
        return true;
    if (atomic_load(&relief.above_soft) == 0 && atomic_exchange(&relief.above_soft, 1) == 0)
        atomic_store(&pressure_soft_news, 1);
    return false;
}

bool pressure_admit(struct thread *thread, size_t need_bytes)
{
    return prepare(thread, need_bytes) || budget_has_room(need_bytes, false);
}

/* Whether there is room, now or in a moment: what was promised to another thread counts twice once it is committed, and what goes back to
 * the system counts until it has arrived there. That is waited for; but not by a signal handler (which has no record), whose thread may
 * be the one that is waited for. */
static bool wait_for_room(struct thread *thread, size_t need_bytes, bool small)
{
    uint32_t from_ms = os_now_ms();
    for (unsigned i = 0; !budget_has_room(need_bytes, small); i++) {
        if (thread == NULL || !budget_may_have_room(need_bytes, small) || os_now_ms() - from_ms >= WAIT_MOST_MS)
            return false;
        if (i < WAIT_YIELDS)
            os_yield();
        else
            os_sleep_ms(1);
        relieve(thread, need_bytes);
    }
    return true;
}

bool pressure_promise(struct thread *thread, size_t need_bytes)
{
    prepare(thread, need_bytes);
    while (!budget_promise(need_bytes))
        if (!wait_for_room(thread, need_bytes, false)) {
            stats_add(&stats_counters.budget_refusals, 1);
            return false;
        }
    return true;
}

void *pressure_claim_one(struct thread *thread, unsigned class_id)
{
    size_t block_bytes = class_table[class_id].bytes;
    if (thread != NULL && thread->current[class_id] != NULL)
        thread_leave_slab(thread, class_id); /* so that it is listed, too */
    void *block = shared_pool_claim_in_memory(class_id);
    if (block != NULL)
        return block;
    size_t need_bytes = round_up(block_bytes, slab_page_bytes()) + slab_page_bytes();
    if (wait_for_room(thread, need_bytes, block_bytes <= BUDGET_SMALL_BYTES)) {
        struct slab *slab = shared_pool_acquire_slab(class_id);
        if (slab != NULL && slab_claim(slab, 1, UINT16_MAX, &block) == 0)
            block = NULL; /* others were quicker */
        if (slab != NULL)
            shared_pool_disown_slab(slab);
        return block;
    }
    stats_add(&stats_counters.budget_refusals, 1);
    return NULL;
}

/* ---- Telling ----------------------------------------------------------------------------------------------------- */

void pressure_set_function(hak_pressure_function function, void *argument)
{
    if (lock_take(&lock, lock_self()) == LOCK_SELF)
        return;
    told.function = function;
    told.argument = argument;
    lock_drop(&lock);
}

/* Another thread is inside the function, and what that lets go of may be enough for this one too. It may wait for a lock that this
 * thread holds, so not for ever. Returns true: the request is worth another try. */
static bool wait_until_told(void)
{
    for (unsigned i = 0; i < TOLD_MOST_MS && atomic_load(&told.running) != 0; i++)
        os_sleep_ms(1);
    return true;
}

bool pressure_tell(bool failed)
{
    struct thread *thread = tls_thread;
    bool inside = pool_lock_is_mine() || (thread != NULL && atomic_load(&thread->busy) != 0); /* a signal handler */
    if (inside || is_told)
        return false;
    if (atomic_exchange(&told.running, 1) != 0)
        return failed && wait_until_told();
    bool news = atomic_exchange(&pressure_soft_news, 0) != 0;
    hak_pressure_function function = NULL;
    void *argument = NULL;
    if (lock_take(&lock, lock_self()) != LOCK_SELF) {
        function = told.function;
        argument = told.argument;
        lock_drop(&lock);
    }
    is_told = true;
    /* Else a thread that is cancelled in there ends in the middle of malloc, and nobody is told any more. */
    int cancel_state;
    pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &cancel_state);
    if (function != NULL && news)
        function(HAK_PRESSURE_SOFT, argument);
    if (function != NULL && failed) {
        uint32_t closed = RESERVE_CLOSED, for_handler = RESERVE_FOR_HANDLER;
        atomic_compare_exchange_strong(&budget.reserve, &closed, RESERVE_FOR_HANDLER);
        function(HAK_PRESSURE_HARD, argument);
        atomic_compare_exchange_strong(&budget.reserve, &for_handler, RESERVE_CLOSED);
    }
    pthread_setcancelstate(cancel_state, NULL);
    is_told = false;
    atomic_store(&told.running, 0);
    return function != NULL && failed;
}

void pressure_fork_child(void)
{
    if (lock_owner(&lock) != lock_self())
        lock_reset(&lock);
    budget_fork_child();
    if (!is_told)
        atomic_store(&told.running, 0);
}
