/* test_background.c - how long the background thread waits, how often it looks before it ends or rests, and what wakes it. It is led from
 * wait to wait: the linker puts this file's functions before those of the system that it calls (--wrap, see CMakeLists.txt), and a wait
 * ends when the test says so, as if its time had passed, or when somebody wakes it; but not by itself.
 * Waits    for the thread to come to its next wait, or to end, 20 s at most.
 * Threads  one, and the background thread.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "front/thread.h"
#include "hakmem/hakmem.h"
#include "os/cgroup.h"
#include "os/os.h"
#include "pool/background.h"
#include "pool/shared_pool.h"
#include "service/budget.h"
#include "service/config.h"
#include "service/stats.h"
#include "look.h"

#include <pthread.h>
#include <string.h>

#define DELAY_MS 10000
#define TICK_MS (DELAY_MS / 2)
#define WORTH_BYTES (4 * MIB) /* so much idle starts the thread; so much in caches keeps it */
#define CACHED_BYTES ((int64_t)16 * (int64_t)MIB)
#define N_TICKS 4 /* that find nothing, before it ends */

enum { WHILE_RUNNING = 0, WHILE_RESTING = 2 }; /* what a wait finds in its word */

/* ---- In place of the system's ---------------------------------------------------------------------------------------- */

void __real_os_futex_wait_ms(_Atomic uint32_t *word, uint32_t expected, uint32_t most_ms);
void __wrap_os_futex_wait_ms(_Atomic uint32_t *word, uint32_t expected, uint32_t most_ms);
uint32_t __wrap_os_thread_ms(void);
bool __wrap_os_leave_files(void);
bool __wrap_os_calls_are_filtered_since_start(void);
int __wrap_os_memory_pressure(const char *root);
void __wrap_budget_follow(const char *root);
void __wrap_os_learn_charges(void);
void __real_os_sleep_ms(uint32_t ms);
void __wrap_os_sleep_ms(uint32_t ms);
bool __real_os_thread_lives(int32_t thread_id);
bool __wrap_os_thread_lives(int32_t thread_id);

static struct {
    _Atomic(_Atomic uint32_t *) word;
    _Atomic uint32_t expected, most_ms, n, n_over; /* n_over: so many of the n may end */
    _Atomic int32_t thread_id;
} waits;

static struct {
    _Atomic uint32_t clock_ms, tick_takes_ms;
    _Atomic unsigned n_ticks, n_ticks_gone, n_pressure, n_follows, n_learns, idle_after_tick, n_asked, n_in_vain;
    _Atomic size_t waiting_bytes,
        idle_bytes; /* the latter become idle, unseen, when tick number idle_after_tick is over */
    _Atomic int pressure;
    _Atomic bool has_files, is_filtered, becomes_filtered, gives_back, inside, ends_slowly, stopped, ticking;
} world;

static pthread_key_t end_key;

void __wrap_os_futex_wait_ms(_Atomic uint32_t *word, uint32_t expected, uint32_t most_ms)
{
    if (expected > WHILE_RESTING) { /* the pool lock's */
        __real_os_futex_wait_ms(word, expected, most_ms);
        return;
    }
    waits.word = word;
    waits.expected = expected;
    waits.most_ms = most_ms;
    waits.thread_id = os_thread_id();
    uint32_t number = ++waits.n;
    while (waits.n_over < number && atomic_load(word) == expected)
        __real_os_futex_wait_ms(word, expected, 60000);
    while (world.stopped)
        os_sleep_ms(1);
    if (world.ends_slowly)
        pthread_setspecific(end_key, &end_key);
}

/* The thread has done all that it does, and libc ends it. */
static void end_slowly(void *unused)
{
    (void)unused;
    os_sleep_ms(100);
}

uint32_t __wrap_os_thread_ms(void)
{
    if (world.n_ticks == world.idle_after_tick) {
        world.idle_after_tick = UINT32_MAX;
        shared_pool_note_sparser(world.idle_bytes);
    }
    return world.clock_ms;
}

bool __wrap_os_leave_files(void)
{
    return world.has_files;
}

bool __wrap_os_calls_are_filtered_since_start(void)
{
    return world.is_filtered;
}

int __wrap_os_memory_pressure(const char *root)
{
    (void)root;
    world.n_pressure++;
    return world.pressure;
}

void __wrap_budget_follow(const char *root)
{
    (void)root;
    world.n_follows++;
}

void __wrap_os_learn_charges(void)
{
    world.n_learns++;
}

/* By the library; the test asks the real one. */
bool __wrap_os_thread_lives(int32_t thread_id)
{
    world.n_asked++;
    return __real_os_thread_lives(thread_id);
}

void __wrap_os_sleep_ms(uint32_t ms)
{
    world.n_in_vain += waits.thread_id != 0 && !__real_os_thread_lives(waits.thread_id);
    __real_os_sleep_ms(ms);
}

static bool is_inside(void)
{
    return world.inside;
}

static size_t caches_tick(void)
{
    world.n_ticks++;
    world.clock_ms += world.tick_takes_ms;
    if (world.gives_back)
        stats_add(&stats_counters.caches_emptied, 1);
    if (world.becomes_filtered)
        world.is_filtered = true;
    return world.waiting_bytes;
}

static size_t caches_tick_gone(void)
{
    world.ticking = background_is_ticking();
    if (++world.n_ticks_gone < 100 &&
        !background_runs()) { /* by a caller: who is not to begin it anew when he comes here */
        os_sleep_ms(5);
        background_wake();
    }
    return 0;
}

/* ---- From wait to wait ------------------------------------------------------------------------------------------------ */

static uint32_t n_seen; /* waits */

/* Whether the thread waits again; false: it has ended. */
static bool waits_again(bool over)
{
    for (unsigned i = 0; i < 20000; i++) {
        if (over) {
            waits.n_over = n_seen;
            os_futex_wake(waits.word, 1);
        }
        if (waits.n != n_seen) {
            assert_int_equal(waits.n, ++n_seen);
            return true;
        }
        if (waits.thread_id != 0 && !__real_os_thread_lives(waits.thread_id)) {
            waits.thread_id = 0; /* the next one has not waited yet */
            return false;
        }
        os_sleep_ms(1);
    }
    fail_msg("neither does it wait nor has it ended");
    return false;
}

static void assert_waits(uint32_t expected, uint32_t most_ms)
{
    assert_int_equal(waits.expected, expected);
    assert_int_equal(waits.most_ms, most_ms);
    assert_int_equal(background_runs(), expected == WHILE_RUNNING);
}

static void pass_time(uint32_t expected, uint32_t most_ms)
{
    assert_true(waits_again(true));
    assert_waits(expected, most_ms);
}

static void pass_ticks(unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        pass_time(WHILE_RUNNING, TICK_MS);
}

static void pass_last_time(void)
{
    assert_false(waits_again(true));
    assert_false(background_runs());
}

static void start_thread(void)
{
    shared_pool_note_sparser(WORTH_BYTES);
    background_wake();
    assert_true(waits_again(false));
    assert_waits(WHILE_RUNNING, TICK_MS);
}

/* Threads have much in their caches, for which the thread stays. */
static void start_resting(void)
{
    background_note_cached(CACHED_BYTES); /* which starts it, too */
    start_thread();
    pass_ticks(N_TICKS - 1);
    pass_time(WHILE_RESTING, 500);
}

static void end_resting(void)
{
    background_note_cached(-CACHED_BYTES);
    while (waits_again(true))
        continue;
    assert_false(background_runs());
}

static int start(void **state)
{
    (void)state;
    memset(&world, 0, sizeof world);
    world.has_files = true;
    world.idle_after_tick = UINT32_MAX;
    config.purge_delay_ms = DELAY_MS;
    config.background = true;
    background_set_caches_tick(caches_tick, caches_tick_gone);
    shared_pool_tick();
    return shared_pool_idle_bytes() != 0 || background_runs();
}

/* ---- The tests -------------------------------------------------------------------------------------------------------- */

static void it_ends_when_four_ticks_have_found_nothing(void **state)
{
    (void)state;
    start_thread();
    pass_ticks(N_TICKS - 1);
    world.waiting_bytes = WORTH_BYTES;
    pass_ticks(1);
    world.waiting_bytes = WORTH_BYTES - 1;
    pass_ticks(N_TICKS - 1);
    assert_int_equal(world.n_ticks, 2 * N_TICKS - 1);
    pass_last_time();
    assert_int_equal(world.n_ticks, 2 * N_TICKS);
}

static void a_short_delay_is_no_wait_of_none(void **state)
{
    (void)state;
    config.purge_delay_ms = 1;
    shared_pool_note_sparser(WORTH_BYTES);
    background_wake();
    assert_true(waits_again(false));
    assert_waits(WHILE_RUNNING, 1);
    world.gives_back = true;
    pass_time(WHILE_RUNNING, 1);
    config.purge_delay_ms = 7;
    pass_time(WHILE_RUNNING, 3);
    pass_time(WHILE_RUNNING, 3);
    pass_last_time();
}

/* What took long and found nothing is done less often. */
static void a_long_tick_is_followed_by_a_long_wait(void **state)
{
    (void)state;
    start_thread();
    world.waiting_bytes = WORTH_BYTES;
    world.tick_takes_ms = 1000;
    pass_time(WHILE_RUNNING, 20000);
    world.gives_back = true;
    pass_time(WHILE_RUNNING, TICK_MS);
    world.gives_back = false;
    world.tick_takes_ms = 100;
    pass_time(WHILE_RUNNING, TICK_MS);
    world.tick_takes_ms = 1000;
    world.becomes_filtered = true; /* the clock is another one after it: their difference tells nothing */
    pass_time(WHILE_RUNNING, TICK_MS);
    world.waiting_bytes = 0;
    while (waits_again(true))
        continue;
}

static void it_rests_twice_as_long_each_time(void **state)
{
    (void)state;
    start_resting();
    for (uint32_t most_ms = 1000; most_ms <= 64000; most_ms *= 2) {
        pass_time(WHILE_RUNNING, TICK_MS);
        pass_time(WHILE_RESTING, most_ms < 32000 ? most_ms : 32000);
    }
    pass_time(WHILE_RUNNING, TICK_MS);
    world.waiting_bytes = WORTH_BYTES;
    pass_time(WHILE_RUNNING, TICK_MS);
    world.waiting_bytes = 0;
    pass_ticks(N_TICKS - 1);
    pass_time(WHILE_RESTING, 500);
    end_resting();
}

static void what_becomes_idle_wakes_it(void **state)
{
    (void)state;
    start_resting();
    os_sleep_ms(50); /* it sleeps by now: there is no other way out than to be woken */
    world.stopped = true;
    shared_pool_note_sparser(64 * KIB);
    background_wake();
    assert_true(background_runs()); /* before it does: nobody else may start another */
    world.stopped = false;
    assert_true(waits_again(false));
    assert_waits(WHILE_RUNNING, TICK_MS);
    end_resting();
}

/* Who makes something idle while the thread runs wakes nobody: the thread looks once more. */
static void what_became_idle_unseen_keeps_it(void **state)
{
    (void)state;
    start_thread();
    world.idle_bytes = WORTH_BYTES;
    world.idle_after_tick = N_TICKS;
    pass_ticks(N_TICKS);
    assert_int_equal(world.n_ticks, N_TICKS);
    pass_last_time();
    assert_int_equal(shared_pool_idle_bytes(), 0);
}

static void what_became_idle_unseen_keeps_it_from_rest(void **state)
{
    (void)state;
    background_note_cached(CACHED_BYTES);
    start_thread();
    world.idle_bytes = 64 * KIB;
    world.idle_after_tick = N_TICKS;
    pass_ticks(N_TICKS);
    assert_int_equal(world.n_ticks, N_TICKS);
    pass_time(WHILE_RESTING, 1000);
    assert_int_equal(shared_pool_idle_bytes(), 0);
    end_resting();
}

static bool system_is_short(void)
{
    return atomic_load(&budget.system_short) != 0;
}

/* When the system is short of memory what is idle goes at the next look; from the end on nobody looks, so that it counts as short no more. */
static void a_short_system_is_served_at_once(void **state)
{
    (void)state;
    enum { N = 500 };
    void *block[N];
    config.purge_delay_ms = 3600000;
    for (unsigned i = 0; i < N; i++)
        memset(block[i] = hak_malloc(32 * KIB), 1, 32 * KIB);
    for (unsigned i = 0; i < N; i++)
        hak_free(block[i]);
    uint64_t committed_bytes = read_stats().committed_bytes;
    assert_true(waits_again(false)); /* so much idle has started it */
    world.pressure = 1000;
    assert_true(waits_again(true));
    assert_false(system_is_short());
    assert_int_equal(read_stats().committed_bytes, committed_bytes);
    world.pressure = 1001;
    assert_true(waits_again(true));
    assert_true(system_is_short());
    assert_true(read_stats().committed_bytes <= committed_bytes - N / 2 * 32 * KIB);
    world.pressure = 1000;
    assert_true(waits_again(true));
    assert_false(system_is_short());
    world.pressure = 1001;
    config.purge_delay_ms = 1; /* The empty SuperSlabs go. */
    while (waits_again(true))
        assert_true(system_is_short());
    assert_false(system_is_short());
}

/* Without files of its own, and under a filter of system calls, it asks the system nothing. */
static void who_may_not_ask_does_not(void **state)
{
    (void)state;
    world.has_files = false;
    background_note_cached(CACHED_BYTES);
    start_thread();
    pass_ticks(N_TICKS - 1);
    pass_last_time(); /* there is no rest: of threads that live it would learn nothing */
    background_note_cached(-CACHED_BYTES);
    assert_int_equal(world.n_ticks_gone, N_TICKS);
    assert_int_equal(world.n_ticks, 0);
    assert_int_equal(world.n_pressure, 0);
    assert_int_equal(world.n_follows, 0);
    assert_int_equal(world.n_learns, 0);
    world.has_files = world.is_filtered = true;
    start_thread();
    pass_ticks(N_TICKS - 1);
    pass_last_time();
    assert_int_equal(world.n_ticks, N_TICKS);
    assert_int_equal(world.n_pressure, 0);
    assert_int_equal(world.n_learns, 0);
    world.is_filtered = false;
    start_thread();
    pass_ticks(1);
    assert_int_equal(world.n_pressure, 1);
    assert_int_equal(world.n_follows, 1);
    assert_int_equal(world.n_learns, 1);
    while (waits_again(true))
        continue;
}

/* Who is inside a slow path starts it when he leaves that. */
static void who_is_inside_starts_it_later(void **state)
{
    (void)state;
    world.inside = true;
    shared_pool_note_sparser(WORTH_BYTES);
    background_wake();
    assert_false(background_runs());
    assert_true(background_wanted);
    world.inside = false;
    background_look();
    assert_true(background_runs());
    assert_false(background_wanted);
    while (waits_again(true) || background_runs())
        continue;
}

/* Where there is no thread a caller ticks; a handler of signals may ask whether it interrupted that. */
static void a_caller_ticks_once(void **state)
{
    (void)state;
    config.background = false;
    config.purge_delay_ms = 2;
    os_sleep_ms(5);
    background_wake();
    assert_int_equal(world.n_ticks_gone, 1);
    assert_true(world.ticking);
    assert_false(background_is_ticking());
    os_sleep_ms(5);
    background_wake();
    assert_int_equal(world.n_ticks_gone, 2);
}

/* The first thread leaves: the background thread does, at once, and is waited for until libc has ended it, and there is none any more. */
static void assert_ends(void)
{
    os_sleep_ms(50); /* as above */
    world.n_asked = world.n_in_vain = 0;
    background_end();
    assert_int_equal(__real_os_thread_lives(waits.thread_id), world.is_filtered);
    assert_int_equal(world.n_asked == 0, world.is_filtered);
    assert_true(world.n_in_vain <= 1); /* it may go between a look and a sleep */
    while (__real_os_thread_lives(waits.thread_id))
        os_sleep_ms(1);
    waits.thread_id = 0;
    n_seen = waits.n;
    assert_false(background_runs());
    assert_false(system_is_short());
    shared_pool_note_sparser(WORTH_BYTES);
    background_wake();
    assert_false(background_runs());
    assert_false(background_fork_child()); /* the first thread of a child is there again */
    shared_pool_tick();
}

static void it_ends_when_the_first_thread_leaves(void **state)
{
    (void)state;
    world.ends_slowly = true;
    world.pressure = 1001;
    start_thread();
    pass_ticks(1);
    assert_true(system_is_short());
    assert_ends();
    start_thread();
    world.is_filtered = true; /* Then nobody asks whether it is gone. */
    assert_ends();
    world.is_filtered = false;
    start_resting();
    assert_ends();
    background_note_cached(-CACHED_BYTES);
}

static void *do_nothing(void *unused)
{
    return unused;
}

/* With a thread of the program's own the background thread is one of libc's, too, whose end a key's destructor can delay. */
int main(void)
{
    pthread_t thread;
#if UNDER_THREAD_SANITIZER
    (void)thread;
    return 77; /* That the thread waits or has ended is told by the system: no order that ThreadSanitizer sees. */
#endif
    hak_free(hak_malloc(1));
    if (pthread_create(&thread, NULL, do_nothing, NULL) != 0 || pthread_join(thread, NULL) != 0)
        return 1;
    background_set_inside(is_inside);
    if (pthread_key_create(&end_key, end_slowly) != 0)
        return 1;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(it_ends_when_four_ticks_have_found_nothing, start),
        cmocka_unit_test_setup(a_short_delay_is_no_wait_of_none, start),
        cmocka_unit_test_setup(a_long_tick_is_followed_by_a_long_wait, start),
        cmocka_unit_test_setup(it_rests_twice_as_long_each_time, start),
        cmocka_unit_test_setup(what_becomes_idle_wakes_it, start),
        cmocka_unit_test_setup(what_became_idle_unseen_keeps_it, start),
        cmocka_unit_test_setup(what_became_idle_unseen_keeps_it_from_rest, start),
        cmocka_unit_test_setup(a_short_system_is_served_at_once, start),
        cmocka_unit_test_setup(who_may_not_ask_does_not, start),
        cmocka_unit_test_setup(who_is_inside_starts_it_later, start),
        cmocka_unit_test_setup(a_caller_ticks_once, start),
        cmocka_unit_test_setup(it_ends_when_the_first_thread_leaves, start),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
