/* background.c - see background.h.
 * Owns     the thread, and the word that says whether it runs.     Called by  shared_pool.c, purge.c, run.c, tail.c (wake), front/ (what caches hold; hold; end; fork)
 * Calls    shared_pool_tick; libc's pthread_create
 * Threads  any may wake it; the thread itself touches the pool as any other does, and never allocates.
 *
 *   NONE ---enough is idle---> RUNNING ---nothing is idle, LAST_TICKS times---> NONE, or RESTING while threads that are busy elsewhere cache much
 *   RESTING ---something is idle, or REST_MAX_MS at most---> RUNNING
 * The thread appears only when more than BACKGROUND_MIN_BYTES are idle, so small programs never see it. It is detached, blocks all signals, and does not keep the process from exiting.
 * libc frees what belonged to the stacks of threads with the lock held that pthread_create takes: that must not start it (hold).
 * Why not at every start: a program that has one thread stays a program with one thread as long as it can.
 */
#include "pool/background.h"

#include "os/cgroup.h"
#include "os/os.h"
#include "pool/shared_pool.h"
#include "service/budget.h"
#include "service/config.h"
#include "service/stats.h"

#include <pthread.h>

#define BACKGROUND_MIN_BYTES (4 * MIB)
#define END_MAX_ROUNDS 1000 /* of a millisecond */
#define HALTS_MAX                                                                                                      \
    8 /* A program that changes its rights more often has a thread of libc's, for which it need not wait. */
#define RETRY_MS 1000 /* after the system refused a thread */
/* A tick that took long and found nothing, in a heap of many GiB, is followed by so many times its length of rest. */
#define REST_FACTOR 20
#define PRESSURE_MAX 1000 /* hundredths of a per cent of the last ten seconds in which some task waited for memory */

/* How long it rests: twice as long each time, until it has something to do. A thread that has long not allocated, and then sleeps, makes no
 * call that would tell. (32 threads that computed for 6 s before they slept for good kept 0.9 MiB each.) */
#define REST_MIN_MS 500
#define REST_MAX_MS 32000

enum { NONE, RUNNING, RESTING };
static _Atomic uint32_t running;    /* a futex while RESTING */
static _Atomic size_t cached_bytes; /* in caches of threads */
static size_t (*caches_tick)(void), (*caches_tick_gone)(void);
static bool (*is_inside)(void);
static _Atomic uint32_t last_tick_ms; /* by callers, where there is no thread */
static _Atomic uint32_t refused_ms;   /* when a thread was last refused; 0: never */
enum { GO_ON, END_NOW, END_FOR_EVER };
static _Atomic uint32_t told_to_end; /* a futex; END_FOR_EVER after pthread_exit in the process's first thread */
static _Atomic uint32_t n_halts;     /* how often the thread ended for who changed rights */
static _Atomic int32_t thread_id;    /* of the one that was started last; 0: none */

static __thread bool held __attribute__((tls_model("initial-exec")));
static __thread bool ticking __attribute__((tls_model("initial-exec")));
__thread bool background_wanted;

static uint32_t tick_ms(void)
{
    return config.purge_delay_ms < TICKS_OF_DELAY ? 1 : (uint32_t)(config.purge_delay_ms / TICKS_OF_DELAY);
}

static size_t all_cached_bytes(void)
{
    return atomic_load_explicit(&cached_bytes, memory_order_relaxed); /* relaxed: a number, no more */
}

static bool little_is_idle(void)
{
    return shared_pool_idle_bytes() + all_cached_bytes() < BACKGROUND_MIN_BYTES;
}

/* A number that grows with what ticks do. */
static uint64_t given_back(void)
{
    return stats_read(&stats_counters.purged_bytes) + stats_read(&stats_counters.slabs_released) +
           stats_read(&stats_counters.superslabs_evicted_total) + stats_read(&stats_counters.caches_emptied);
}

/* The control group's limit may have been changed. When the system is short of memory, what is idle does not wait. */
static void look_at_system(void)
{
    budget_follow("");
    uint32_t is_short = os_memory_pressure("") > PRESSURE_MAX;
    atomic_store_explicit(&budget.system_short, is_short, memory_order_relaxed); /* relaxed: a hint */
    if (is_short) {
        shared_pool_retire_idle();
        shared_pool_purge_all_empty();
    }
}

/* Returns whether there will be more to do. */
static bool tick(bool may_look_at_threads)
{
    size_t waiting_bytes = may_look_at_threads ? caches_tick() : caches_tick_gone();
    shared_pool_tick();
    return waiting_bytes >= BACKGROUND_MIN_BYTES || shared_pool_idle_bytes() != 0;
}

/* Of this thread's time only the kernel knows, and a filter of the program's own may end the process for the question. */
static uint32_t clock_ms(bool is_filtered)
{
    return is_filtered ? os_now_ms() : os_thread_ms();
}

/* So many ticks in a row must find nothing more to do before the thread ends: as many as it takes to see that another thread sleeps, so
 * that none that has gone to sleep with the others' work keeps its cache. (600 MiB of 1 KiB to 1 MiB, freed by a thread that then sleeps,
 * all but every thousandth: 1.46 times what is needed were left after one tick, as 22 KiB of cached blocks kept 20 SuperSlabs.) */
#define LAST_TICKS 4

/* Until that time has passed, or something is idle. */
static void rest(uint32_t most_ms)
{
    atomic_store(&running, RESTING);
    atomic_thread_fence(memory_order_seq_cst); /* B1 */
    /* What became idle before the store woke nobody. */
    if (shared_pool_idle_bytes() == 0)
        os_futex_wait_ms(&running, RESTING, most_ms);
    atomic_store(&running, RUNNING);
}

static void *run(void *unused)
{
    /* a filter may end the process for the question; background_end does without, too */
    if (!os_calls_are_filtered_since_start())
        atomic_store(&thread_id, os_thread_id());
    bool has_own_files = os_leave_files(); /* Looking at threads opens files, at moments that nobody expects. */
    if (has_own_files && !os_calls_are_filtered_since_start())
        os_learn_charges();
    for (uint32_t took_ms = 0, n_last = 0, rest_ms = REST_MIN_MS;;) {
        os_futex_wait_ms(&told_to_end, GO_ON, (uint32_t)max_size(tick_ms(), (size_t)took_ms * REST_FACTOR));
        if (atomic_load(&told_to_end) != GO_ON)
            break;
        bool is_filtered = os_calls_are_filtered_since_start();
        uint32_t from_ms = clock_ms(is_filtered);
        uint64_t before = given_back();
        if (has_own_files && !is_filtered)
            look_at_system();
        bool more = tick(has_own_files);
        bool same_clock = is_filtered == os_calls_are_filtered_since_start();
        took_ms = same_clock && given_back() == before ? clock_ms(is_filtered) - from_ms : 0;
        n_last = more ? 0 : n_last + 1;
        rest_ms = more ? REST_MIN_MS : rest_ms;
        if (n_last < LAST_TICKS)
            continue;
        atomic_store(&budget.system_short, 0); /* nobody looks from here on */
        if (has_own_files && all_cached_bytes() >= BACKGROUND_MIN_BYTES) {
            rest(rest_ms);
            rest_ms = rest_ms < REST_MAX_MS ? 2 * rest_ms : rest_ms;
            n_last = LAST_TICKS - 1;
            continue;
        }
        atomic_store(&running, NONE);
        atomic_thread_fence(memory_order_seq_cst); /* B1 */
        /* What became idle before the store found us running, and woke nobody. */
        uint32_t none = NONE;
        if (shared_pool_idle_bytes() < BACKGROUND_MIN_BYTES ||
            !atomic_compare_exchange_strong(&running, &none, RUNNING))
            return unused;
    }
    atomic_store(&budget.system_short, 0);
    atomic_store(&running, NONE);
    return unused;
}

static void tick_by_caller(uint32_t now_ms)
{
    uint32_t last = atomic_load(&last_tick_ms);
    if (ticking || now_ms - last < tick_ms() || !atomic_compare_exchange_strong(&last_tick_ms, &last, now_ms))
        return;
    ticking = true;
    /* Who switches the thread off may be under a filter of system calls: then nothing is asked of the system. */
    tick(config.background && atomic_load(&told_to_end) != END_FOR_EVER);
    ticking = false;
}

bool background_is_ticking(void)
{
    return ticking;
}

/* B1: who makes something idle writes that, and then reads `running`; the thread that ends writes `running`, and then reads what is idle. One
 * of them must see the other, so on each side a fence lies between. On x86 the callers' last write was a locked instruction, which is one. */
static inline void fence_before_look(void)
{
#if !defined(__x86_64__)
    atomic_thread_fence(memory_order_seq_cst);
#endif
}

/* Who was told to end, and has, keeps no other one from being started. */
static void forget_halt(void)
{
    uint32_t end_now = END_NOW;
    if (atomic_load(&told_to_end) == END_NOW && !os_bare_thread_lives())
        atomic_compare_exchange_strong(&told_to_end, &end_now, GO_ON);
}

void background_wake(void)
{
    fence_before_look();
    /* relaxed: it looks again before it ends (B1) */
    uint32_t state = atomic_load_explicit(&running, memory_order_relaxed), none = NONE;
    if (likely(state == RUNNING) || config.purge_delay_ms <= 0)
        return;
    if (state == RESTING) {
        if (atomic_compare_exchange_strong(&running, &state, RUNNING))
            os_futex_wake(&running, 1);
        return;
    }
    forget_halt();
    /* never 0; nor below what a call in the same millisecond noted */
    uint32_t now_ms = os_now_ms() | 1, refused = atomic_load(&refused_ms);
    if (!config.background || atomic_load(&told_to_end) != GO_ON || (refused != 0 && now_ms - refused < RETRY_MS)) {
        tick_by_caller(now_ms);
        return;
    }
    if (held || little_is_idle())
        return;
    if (is_inside != NULL && is_inside()) {
        background_wanted = true;
        return;
    }
    /* The thread would end with the child, maybe with the lock in its hands. The parent starts it. */
    if (os_is_vfork_child())
        return;
    if (!atomic_compare_exchange_strong(&running, &none, RUNNING))
        return;
    os_watch_forks(); /* it may hold the lock at a fork */
    atomic_store(&thread_id, 0);
    bool bare = atomic_load(&n_halts) < HALTS_MAX;
    if (atomic_load(&told_to_end) != GO_ON || !(bare ? os_start_bare_thread : os_start_thread)(run)) {
        atomic_store(&refused_ms, now_ms);
        atomic_store(&running, NONE);
    }
}

void background_set_inside(bool (*function)(void))
{
    is_inside = function;
}

void background_start_wanted(void)
{
    background_wanted = false;
    background_wake();
}

static bool is_gone(void)
{
    int32_t id = atomic_load(&thread_id);
    return atomic_load(&running) == NONE && (id == 0 || os_calls_are_filtered_since_start() || !os_thread_lives(id));
}

static bool bare_is_gone(void)
{
    return !os_bare_thread_lives();
}

/* Waits until the thread has heard that it is to end, and has. */
static void wait_for_end(bool (*has_ended)(void))
{
    os_futex_wake(&told_to_end, 1);
    for (unsigned i = 0; i < END_MAX_ROUNDS && !has_ended(); i++) {
        uint32_t resting = RESTING; /* in each round: it may have been about to rest */
        if (atomic_compare_exchange_strong(&running, &resting, RUNNING))
            os_futex_wake(&running, 1);
        os_sleep_ms(1);
    }
}

void background_end(void)
{
    atomic_store(&told_to_end, END_FOR_EVER);
    wait_for_end(is_gone);
}

bool background_halt(void)
{
    bool before = background_hold(true);
    uint32_t none = GO_ON;
    if (!os_bare_thread_lives() || os_is_vfork_child())
        return before;
    atomic_compare_exchange_strong(&told_to_end, &none, END_NOW);
    wait_for_end(bare_is_gone);
    atomic_fetch_add(&n_halts, 1);
    return before;
}

void background_let(bool before)
{
    background_hold(before);
    if (atomic_load(&told_to_end) == END_NOW)
        background_wake(); /* What was left undone may be enough for another thread. */
}

bool background_runs(void)
{
    return atomic_load_explicit(&running, memory_order_relaxed) == RUNNING; /* relaxed: a hint */
}

bool background_hold(bool on)
{
    bool before = held;
    held = on;
    return before;
}

bool background_is_held(void)
{
    return held;
}

void background_note_cached(int64_t change_bytes)
{
    /* relaxed: a number, no more */
    size_t before = atomic_fetch_add_explicit(&cached_bytes, (size_t)change_bytes, memory_order_relaxed);
    if (before / BACKGROUND_MIN_BYTES < (before + (size_t)change_bytes) / BACKGROUND_MIN_BYTES)
        background_wake();
}

void background_set_caches_tick(size_t (*function)(void), size_t (*function_gone)(void))
{
    caches_tick = function;
    caches_tick_gone = function_gone;
}

bool background_fork_child(void)
{
    atomic_store(&budget.system_short, 0);
    atomic_store(&told_to_end, GO_ON); /* The child's first thread is the one that forked. */
    atomic_store(&thread_id, 0);
    return atomic_exchange(&running, NONE) != NONE;
}
