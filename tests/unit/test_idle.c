/* test_idle.c - what is empty waits a while and then goes back: to its class, to another class, or to the system; by the
 * background thread, by callers where there is none, and in the child of a fork.
 * Waits    for something that must come it polls, up to 20 s, so that a slow machine changes nothing; that something has
 *          not come yet is only checked where it cannot come at all.
 * Threads  one, and the background thread.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "front/sleepers.h"
#include "front/thread.h"
#include "hakmem/hakmem.h"
#include "os/os.h"
#include "pool/background.h"
#include "pool/idle.h"
#include "pool/release.h"
#include "pool/shared_pool.h"
#include "service/budget.h"
#include "service/config.h"
#include "look.h"

#include <dirent.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define BLOCK_BYTES 256
#define N_BLOCKS ((size_t)64 * MIB / BLOCK_BYTES)

static void *blocks[N_BLOCKS];

static unsigned count_threads(void)
{
    unsigned n = 0;
    DIR *dir = opendir("/proc/self/task");
    if (dir == NULL)
        abort();
    for (struct dirent *entry; (entry = readdir(dir)) != NULL;)
        n += entry->d_name[0] != '.';
    closedir(dir);
    return n;
}

static void claim_all(size_t block_bytes, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        blocks[i] = hak_malloc(block_bytes);
        if (blocks[i] == NULL)
            abort();
        memset(blocks[i], 1, 16);
    }
}

static void free_all(size_t n)
{
    for (size_t i = 0; i < n; i++)
        hak_free(blocks[i]);
}

/* Polls without a call of the allocator's other functions than hak_stats_get, which changes nothing. */
static bool comes_true(bool (*condition)(void))
{
    for (unsigned i = 0; i < 2000; i++) {
        if (condition())
            return true;
        os_sleep_ms(10);
    }
    return false;
}

static bool little_is_committed(void)
{
    return read_stats().committed_bytes <= 8 * MIB;
}

static unsigned own_threads; /* without the background thread */

static bool is_alone(void)
{
    return count_threads() == own_threads;
}

static int set_delay(int64_t delay_ms, bool background)
{
    config.purge_delay_ms = delay_ms;
    config.background = background;
    return 0;
}

static int start_clean(void **state)
{
    (void)state;
    set_delay(100, true);
    hak_trim(HAK_TRIM_PAGES); /* may itself leave enough idle for a moment to start the thread */
    return comes_true(is_alone) ? 0 : -1;
}

/* What came to lie free in slabs in use waits for one tick: else the background thread would never end. */
static void what_was_looked_at_waits_no_longer(void **state)
{
    (void)state;
    assert_false(background_hold(true));
    shared_pool_tick();
    assert_int_equal(shared_pool_idle_bytes(), 0);
    shared_pool_note_sparser(1000);
    assert_int_equal(shared_pool_idle_bytes(), 1000);
    shared_pool_tick();
    assert_int_equal(shared_pool_idle_bytes(), 0);
    assert_true(background_hold(false));
}

/* ---- The list ------------------------------------------------------------------------------------------------------- */

static void oldest_out_first(void **state)
{
    (void)state;
    static struct slab slab[4];
    memset(slab, 0, sizeof slab);
    assert_int_equal(idle_count(), 0);
    assert_null(idle_pop(0, 0));
    for (unsigned i = 0; i < 4; i++)
        idle_push(&slab[i], 1000 + 10 * i);
    assert_int_equal(idle_count(), 4);
    idle_push(&slab[0], 1040); /* empty again: the youngest now */
    assert_int_equal(idle_count(), 4);
    assert_null(idle_pop(1059, 50));
    assert_ptr_equal(idle_pop(1060, 50), &slab[1]);
    assert_null(idle_pop(1060, 50));
    assert_null(idle_pop(1060, -1));
    idle_remove(&slab[3]);
    idle_remove(&slab[3]); /* no longer there: nothing */
    assert_int_equal(idle_count(), 2);
    assert_ptr_equal(idle_pop(0, 0), &slab[2]);
    assert_null(idle_pop(1020, 50)); /* the clock was read before it was pushed */
    assert_ptr_equal(idle_pop(INT32_MAX, 50), &slab[0]);
    assert_int_equal(idle_count(), 0);
    idle_push(&slab[2], UINT32_MAX - 10); /* the clock wraps around */
    assert_null(idle_pop(20, 50));
    assert_ptr_equal(idle_pop(39, 50), &slab[2]);
}

/* ---- While it waits --------------------------------------------------------------------------------------------------- */

static void a_waiting_slab_serves_its_class(void **state)
{
    (void)state;
    set_delay(-1, true);
    claim_all(BLOCK_BYTES, N_BLOCKS);
    free_all(N_BLOCKS);
    assert_false(background_runs()); /* there is nothing for it to do, ever */
    struct hak_stats before = read_stats();
    assert_int_equal(before.live_blocks, 0);
    assert_true(before.committed_bytes >= 64 * MIB);
    claim_all(BLOCK_BYTES, N_BLOCKS);
    struct hak_stats after = read_stats();
    assert_int_equal(after.superslabs_mapped_total, before.superslabs_mapped_total);
    assert_int_equal(after.slabs_released, before.slabs_released);
    assert_int_equal(after.purged_bytes, before.purged_bytes);
    free_all(N_BLOCKS);
    assert_null(pool_check());
    hak_trim(HAK_TRIM_PAGES);
    assert_true(little_is_committed());
    assert_int_equal(idle_count(), 0);
}

static void another_class_takes_its_slot_before_new_memory(void **state)
{
    (void)state;
    set_delay(-1, true);
    claim_all(BLOCK_BYTES, N_BLOCKS);
    free_all(N_BLOCKS);
    struct hak_stats before = read_stats();
    claim_all(2 * BLOCK_BYTES, N_BLOCKS / 2 - N_BLOCKS / 16);
    struct hak_stats after = read_stats();
    assert_true(after.slot_reuses_other_class > before.slot_reuses_other_class + 500);
    assert_true(after.peak_committed_bytes <= before.peak_committed_bytes + 2 * MIB);
    free_all(N_BLOCKS / 2 - N_BLOCKS / 16);
    void *span = hak_malloc(900 * KIB); /* wants fourteen slots in a row: empty slabs make room */
    assert_non_null(span);
    assert_true(read_stats().peak_committed_bytes <= before.peak_committed_bytes + 2 * MIB);
    hak_free(span);
    assert_null(pool_check());
}

/* ---- When it has waited ------------------------------------------------------------------------------------------------ */

static void the_background_thread_gives_back_and_ends(void **state)
{
    (void)state;
    assert_int_equal(count_threads(), own_threads);
    set_delay(60000, true);
    claim_all(BLOCK_BYTES, N_BLOCKS);
    assert_int_equal(count_threads(), own_threads); /* nothing is idle */
    config.purge_delay_ms = 100;
    free_all(N_BLOCKS);
    assert_true(comes_true(little_is_committed));
    assert_true(comes_true(is_alone));
    assert_null(pool_check());
    claim_all(BLOCK_BYTES, N_BLOCKS); /* and once more */
    free_all(N_BLOCKS);
    assert_true(comes_true(little_is_committed));
    assert_true(comes_true(is_alone));
}

/* Nor where little is idle, nor while its caller may hold the lock that it takes to start one. */
static void little_brings_no_thread(void **state)
{
    (void)state;
    claim_all(BLOCK_BYTES, MIB / BLOCK_BYTES);
    free_all(MIB / BLOCK_BYTES);
    background_wake();
    assert_true(shared_pool_idle_bytes() != 0);
    assert_false(background_runs());
    assert_false(background_hold(true));
    claim_all(BLOCK_BYTES, N_BLOCKS);
    free_all(N_BLOCKS);
    background_wake();
    assert_false(background_runs());
    assert_true(background_hold(false));
    background_wake();
    assert_true(background_runs());
    assert_true(comes_true(little_is_committed));
    assert_true(comes_true(is_alone));
}

static void large_blocks_go_back_too(void **state)
{
    (void)state;
    void *span[40], *run = hak_malloc(7 * MIB);
    for (unsigned i = 0; i < 40; i++)
        memset(span[i] = hak_malloc(700 * KIB), 1, 700 * KIB);
    memset(run, 1, 7 * MIB);
    for (unsigned i = 0; i < 40; i++)
        hak_free(span[i]);
    hak_free(run);
    assert_true(comes_true(little_is_committed));
    assert_true(comes_true(is_alone));
    assert_int_equal(read_stats().superslabs_cached, 0);
}

/* No slab is emptied, no run is freed: SuperSlabs become empty slot by slot. */
static void spans_alone_go_back(void **state)
{
    (void)state;
    static const size_t lens_bytes[] = {40 * KIB, 60000, 65 * KIB, 200000, 700 * KIB};
    for (unsigned k = 0; k < sizeof lens_bytes / sizeof lens_bytes[0]; k++) {
        size_t n = 64 * MIB / lens_bytes[k];
        for (size_t i = 0; i < n; i++)
            memset(blocks[i] = hak_malloc(lens_bytes[k]), 1, lens_bytes[k]);
        assert_true(read_stats().committed_bytes >= 60 * MIB);
        free_all(n);
        assert_true(comes_true(little_is_committed));
        assert_true(comes_true(is_alone));
    }
}

#define TAIL_BLOCKS 500
static bool only_what_they_need(void)
{
    return read_stats().committed_bytes <= (uint64_t)TAIL_BLOCKS * 68 * KIB + 8 * MIB;
}

/* Each block is freed and a shorter one takes its place, so that nothing is ever idle but what lies behind blocks. */
static void what_lies_behind_blocks_goes_back(void **state)
{
    (void)state;
    static const size_t lens_bytes[] = {128 * KIB, 100 * KIB, 65 * KIB};
    for (unsigned k = 0; k < 3; k++)
        for (size_t i = 0; i < TAIL_BLOCKS; i++) {
            if (k != 0)
                hak_free(blocks[i]);
            memset(blocks[i] = hak_malloc(lens_bytes[k]), 1, lens_bytes[k]);
        }
    assert_true(comes_true(only_what_they_need));
    assert_true(comes_true(is_alone));
    assert_null(pool_check());
    free_all(TAIL_BLOCKS);
}

/* Callers do the work, at their next calls. */
static void assert_callers_give_back(void)
{
    claim_all(BLOCK_BYTES, N_BLOCKS);
    free_all(N_BLOCKS);
    assert_int_equal(count_threads(), own_threads);
    for (unsigned i = 0; i < 2000 && !little_is_committed(); i++) {
        os_sleep_ms(10);
        claim_all(2048, 2000); /* empties slabs of its own */
        free_all(2000);
    }
    assert_true(read_stats().committed_bytes <= 16 * MIB);
    assert_int_equal(count_threads(), own_threads);
    assert_null(pool_check());
}

static void callers_give_back_where_no_thread_may_be(void **state)
{
    (void)state;
    set_delay(100, false);
    assert_callers_give_back();
}

static void callers_give_back_where_no_thread_can_be(void **state)
{
    (void)state;
    uint32_t from_ms = os_now_ms();
    os_fail_from(1, ~0ul, OS_CALL_THREAD);
    assert_callers_give_back();
    assert_in_range(os_fail_from(0, 0, 0), 1, 1 + (os_now_ms() - from_ms) / 1000);
    os_sleep_ms(1100); /* A refusal is remembered for a second. */
}

static unsigned n_looks;

static size_t count_look(void)
{
    n_looks++;
    return 0;
}

/* Once each half of the delay, however many calls come. Threads are looked at only where the thread may be: who has switched it off may be
 * under a filter of system calls. */
static void callers_tick_now_and_then(void **state)
{
    (void)state;
    set_delay(100, true);
    os_sleep_ms(100); /* the next one is due */
    background_set_caches_tick(count_look, sleepers_tick_gone);
    os_fail_from(1, ~0ul, OS_CALL_THREAD);
    claim_all(BLOCK_BYTES, N_BLOCKS / 8);
    free_all(N_BLOCKS / 8);
    background_wake();
    os_sleep_ms(60);
    n_looks = 0;
    config.purge_delay_ms = 120000;
    for (unsigned i = 0; i < 100; i++)
        background_wake();
    assert_int_equal(n_looks, 0);
    config.purge_delay_ms = 100;
    for (unsigned i = 0; i < 2 && n_looks == 0; i++)
        background_wake(); /* where a second has passed meanwhile, the first call asks for a thread again */
    assert_int_equal(n_looks, 1);
    config.background = false;
    os_sleep_ms(60);
    background_wake();
    assert_int_equal(n_looks, 1);
    assert_true(os_fail_from(0, 0, 0) > 0);
    background_set_caches_tick(sleepers_tick, sleepers_tick_gone);
    config.background = true;
    hak_trim(HAK_TRIM_PAGES);
    os_sleep_ms(1100); /* A refusal is remembered for a second. */
}

/* A SuperSlab drains when it was sparse at two ticks in a row, and not when it filled up in between. */
static void a_sparse_superslab_drains_at_the_second_tick(void **state)
{
    (void)state;
    set_delay(-1, false);
    claim_all(1024, 32 * 64); /* a SuperSlab's worth, or more */
    for (size_t i = 0; i < 32 * 64; i++)
        if (i % 16 != 0)
            hak_free(blocks[i]);
    hak_trim(HAK_TRIM_CACHE);
    uint64_t draining = read_stats().superslabs_draining;
    shared_pool_tick();
    assert_int_equal(read_stats().superslabs_draining, draining);
    shared_pool_tick();
    assert_true(read_stats().superslabs_draining > draining);
    for (size_t i = 0; i < 32 * 64; i += 16)
        hak_free(blocks[i]);
}

/* Free pages of slabs in use go when nothing has changed there for two ticks; what the system refuses then is not asked for again. */
static void free_pages_go_when_their_slab_is_quiet(void **state)
{
    (void)state;
    enum { N = 64 * 64 };
    set_delay(-1, false);
    claim_all(1024, N);
    for (size_t i = 0; i < N; i++)
        if (i % 16 < 8)
            hak_free(blocks[i]);
    hak_trim(HAK_TRIM_CACHE);
    struct hak_stats before = read_stats();
    shared_pool_tick();
    shared_pool_tick();
    for (size_t i = 0; i < N; i++)
        if (i % 16 == 8)
            hak_free(blocks[i]);
    hak_trim(HAK_TRIM_CACHE);
    shared_pool_tick();
    shared_pool_tick();
    assert_int_equal(read_stats().committed_bytes, before.committed_bytes);
    shared_pool_tick();
    struct hak_stats after = read_stats();
    assert_true(after.committed_bytes <= before.committed_bytes - N * 256);
    assert_int_equal(after.purged_bytes - before.purged_bytes, before.committed_bytes - after.committed_bytes);
    for (size_t i = 0; i < N; i++)
        if (i % 16 > 8 && i % 16 < 12)
            hak_free(blocks[i]);
    hak_trim(HAK_TRIM_CACHE);
    os_fail_from(1, ULONG_MAX, OS_CALL_PURGE);
    for (unsigned i = 0; i < 3; i++)
        shared_pool_tick();
    assert_true(os_fail_from(1, ULONG_MAX, OS_CALL_PURGE) > 0);
    for (unsigned i = 0; i < 5; i++)
        shared_pool_tick();
    assert_int_equal(os_fail_from(0, 0, 0), 0);
    for (size_t i = 0; i < N; i++)
        if (i % 16 >= 12)
            hak_free(blocks[i]);
}

static bool is_resting(void)
{
    return !background_runs() && count_threads() == own_threads + 1;
}

/* While threads cache much, the background thread stays, and looks less and less often; what becomes idle wakes it. */
static void the_background_thread_rests(void **state)
{
    (void)state;
    background_note_cached(8 * MIB); /* of threads that never sleep */
    assert_true(comes_true(is_resting));
    config.purge_delay_ms = 2000;
    claim_all(BLOCK_BYTES, N_BLOCKS / 8);
    free_all(N_BLOCKS / 8);
    assert_true(background_runs());
    config.purge_delay_ms = 100;
    background_note_cached(-8 * (int64_t)MIB);
    assert_true(comes_true(little_is_committed));
    assert_true(comes_true(is_alone));
}

static void a_child_has_a_thread_of_its_own(void **state)
{
    (void)state;
    set_delay(200, true);
    claim_all(BLOCK_BYTES, N_BLOCKS);
    for (size_t i = 0; i < N_BLOCKS / 2; i++)
        hak_free(blocks[i]);
    pid_t pid = fork(); /* the thread runs, or is about to */
    assert_true(pid >= 0);
    if (pid == 0) {
        for (size_t i = N_BLOCKS / 2; i < N_BLOCKS; i++)
            hak_free(blocks[i]);
        _exit(!comes_true(little_is_committed) ? 1 : !comes_true(is_alone) ? 2 : pool_check() != NULL ? 3 : 0);
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    for (size_t i = N_BLOCKS / 2; i < N_BLOCKS; i++)
        hak_free(blocks[i]);
    assert_true(comes_true(little_is_committed));
    assert_true(comes_true(is_alone));
}

/* Whose first thread has left, or whose parent was short of memory: the child's first thread is there, and it has not asked. */
static void a_child_begins_anew(void **state)
{
    (void)state;
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        background_end();
        claim_all(BLOCK_BYTES, N_BLOCKS);
        free_all(N_BLOCKS);
        if (background_runs())
            _exit(1);
        atomic_store(&budget.system_short, 1);
        pid = fork();
        if (pid == 0) {
            bool is_short = atomic_load(&budget.system_short) != 0;
            background_wake();
            _exit(is_short ? 2 : !background_runs() ? 3 : !comes_true(little_is_committed) ? 4 : 0);
        }
        int status;
        _exit(waitpid(pid, &status, 0) != pid || !WIFEXITED(status) ? 5 : WEXITSTATUS(status));
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
}

int main(void)
{
#if UNDER_THREAD_SANITIZER
    return 77; /* ThreadSanitizer starts a thread of its own at some time, which cannot be told from ours. */
#endif
    hak_free(hak_malloc(1));
    own_threads = count_threads();
#define CLEAN(test) cmocka_unit_test_setup(test, start_clean)
    const struct CMUnitTest tests[] = {
        CLEAN(oldest_out_first),
        CLEAN(what_was_looked_at_waits_no_longer),
        CLEAN(a_waiting_slab_serves_its_class),
        CLEAN(another_class_takes_its_slot_before_new_memory),
        CLEAN(the_background_thread_gives_back_and_ends),
        CLEAN(little_brings_no_thread),
        CLEAN(large_blocks_go_back_too),
        CLEAN(spans_alone_go_back),
        CLEAN(what_lies_behind_blocks_goes_back),
        CLEAN(callers_give_back_where_no_thread_may_be),
        CLEAN(callers_give_back_where_no_thread_can_be),
        CLEAN(callers_tick_now_and_then),
        CLEAN(a_sparse_superslab_drains_at_the_second_tick),
        CLEAN(free_pages_go_when_their_slab_is_quiet),
        CLEAN(the_background_thread_rests),
        CLEAN(a_child_has_a_thread_of_its_own),
        CLEAN(a_child_begins_anew),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
