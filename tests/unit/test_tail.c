/* test_tail.c - what lies in memory behind the end of a block above 32 KiB goes back, and nothing else does.
 * Checked: spans and runs, in places where longer blocks or slabs lay; by ticks, by a trim, at once without a delay; where the
 * system refuses; freed by a signal handler, or in the child of a fork, in the midst of it; contents, while threads replace blocks and
 * others purge. That the background thread wakes for tails alone is in test_idle.c.
 * Threads  one, and six in the last test.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "front/thread.h"
#include "hakmem/hakmem.h"
#include "os/os.h"
#include "pool/background.h"
#include "pool/shared_pool.h"
#include "pool/tail.h"
#include "service/config.h"
#include "churn.h"
#include "look.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE slab_page_bytes()
#define MARKED SLAB_CTL(SLAB_SPAN_HEAD, 0, 1)

static void *heap; /* what a freed run leaves behind waits for the next one where as much is in use */

static int start_clean(void **state)
{
    (void)state;
    start_without_ticks();
    heap = hak_malloc(32 * MIB);
    config.huge_pages = HUGE_PAGES_NEVER; /* no packed spans: they have no tails */
    return 0;
}

static int end_clean(void **state)
{
    (void)state;
    os_fail_from(0, 0, 0);
    hak_free(heap);
    hak_trim(HAK_TRIM_PAGES);
    struct hak_stats s = read_stats();
    return pool_check() == NULL && s.spans == 0 && s.runs == 0 ? 0 : -1;
}

static void *filled(size_t len_bytes, int with)
{
    void *block = hak_malloc(len_bytes);
    assert_non_null(block);
    return memset(block, with, len_bytes);
}

static bool all_are(const unsigned char *block, size_t len_bytes, int value)
{
    return block[0] == value && memcmp(block, block + 1, len_bytes - 1) == 0;
}

static bool is_in_memory(const char *page)
{
    unsigned char in_memory;
    assert_int_equal(mincore((void *)(uintptr_t)page, PAGE, &in_memory), 0);
    return (in_memory & 1) != 0;
}

static struct slab *head_of(const void *block)
{
    struct superslab *ss = superslab_of(block);
    return superslab_slab(ss, (unsigned)((size_t)((const char *)block - superslab_memory(ss)) / SLAB_BYTES));
}

/* A block where a longer one lay, in as many slots or SuperSlabs: behind it there is memory. */
static char *shorter(size_t old_bytes, size_t new_bytes)
{
    char *old = filled(old_bytes, 1);
    hak_free(old);
    char *block = filled(new_bytes, 2);
    assert_ptr_equal(block, old);
    assert_true(is_in_memory(block + old_bytes - PAGE));
    return block;
}

static const struct {
    size_t old_bytes, new_bytes;
} cases[] = {
    {128 * KIB, 65 * KIB},           {64 * KIB, 33 * KIB}, {MIB, 15 * 64 * KIB + 1}, {4 * MIB, 2 * MIB + 1},
    {2 * MIB, 31 * 64 * KIB + 4096}, {6 * MIB, 5 * MIB},
};
#define N_CASES (sizeof cases / sizeof cases[0])

static void assert_purged(const char *block, size_t old_bytes, size_t new_bytes)
{
    size_t used_bytes = (new_bytes + PAGE - 1) & ~(PAGE - 1);
    assert_true(all_are((const unsigned char *)block, new_bytes, 2));
    for (size_t at = 0; at < old_bytes; at += PAGE)
        assert_int_equal(is_in_memory(block + at), at < used_bytes);
    assert_null(pool_check()); /* committed_bytes among others */
}

static void ticks(unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        shared_pool_tick();
}

static void it_goes_back_after_the_delay(void **state)
{
    (void)state;
    for (unsigned k = 0; k < N_CASES; k++) {
        char *block = shorter(cases[k].old_bytes, cases[k].new_bytes);
        uint64_t committed = read_stats().committed_bytes;
        ticks(2);
        assert_true(shared_pool_idle_bytes() != 0); /* it is waited for */
        assert_true(is_in_memory(block + cases[k].old_bytes - PAGE));
        ticks(1);
        assert_purged(block, cases[k].old_bytes, cases[k].new_bytes);
        assert_true(read_stats().committed_bytes < committed);
        hak_free(block);
    }
}

/* As long a tail at the same place is another one. */
static void so_does_the_next_one(void **state)
{
    (void)state;
    for (unsigned k = 0; k < N_CASES; k++)
        for (unsigned i = 0; i < 3; i++) {
            char *block = shorter(cases[k].old_bytes, cases[k].new_bytes);
            ticks(5);
            assert_purged(block, cases[k].old_bytes, cases[k].new_bytes);
            hak_free(block);
        }
}

static void a_trim_does_not_wait(void **state)
{
    (void)state;
    for (unsigned k = 0; k < N_CASES; k++) {
        char *block = shorter(cases[k].old_bytes, cases[k].new_bytes);
        hak_trim(HAK_TRIM_PAGES);
        assert_purged(block, cases[k].old_bytes, cases[k].new_bytes);
        hak_free(block);
    }
}

/* Where a block is made shorter where it lies; of runs much goes back at once. */
static void what_realloc_leaves_goes_back(void **state)
{
    (void)state;
    for (unsigned k = 0; k < N_CASES; k++) {
        char *old = filled(cases[k].old_bytes, 2), *block = hak_realloc(old, cases[k].new_bytes);
        assert_ptr_equal(block, old);
        if (cases[k].new_bytes > 2 * MIB)
            assert_purged(block, cases[k].old_bytes, cases[k].new_bytes);
        ticks(3);
        assert_purged(block, cases[k].old_bytes, cases[k].new_bytes);
        hak_free(block);
    }
}

/* Slabs that were full, not a longer block. */
static void where_slabs_lay_too(void **state)
{
    (void)state;
    enum { N = 12000 };
    static void *small[N];
    for (unsigned i = 0; i < N; i++)
        small[i] = filled(1024, 1);
    for (unsigned i = 0; i < N; i++)
        hak_free(small[i]);
    hak_trim(HAK_TRIM_CACHE); /* emptied slabs become slots */
    char *block[64];
    size_t n_behind = 0;
    for (unsigned i = 0; i < 64; i++) {
        unsigned pages;
        block[i] = filled(65 * KIB, 2);
        n_behind += tail_of_span(head_of(block[i]), &pages) != 0;
    }
    assert_true(n_behind > 16);
    ticks(3);
    for (unsigned i = 0; i < 64; i++) {
        unsigned pages;
        assert_int_equal(tail_of_span(head_of(block[i]), &pages), 0);
        assert_true(all_are((unsigned char *)block[i], 65 * KIB, 2));
        hak_free(block[i]);
    }
}

static void without_a_delay_it_goes_at_once(void **state)
{
    (void)state;
    config.purge_delay_ms = 0;
    char *other = filled(64 * KIB, 1); /* keeps the SuperSlab */
    for (unsigned k = 0; k < 3; k++) {
        char *old = filled(cases[k].old_bytes, 1);
        hak_free(old);
        char *block = filled(cases[k].new_bytes, 2);
        assert_ptr_equal(block, old);
        assert_purged(block, cases[k].old_bytes, cases[k].new_bytes);
        hak_free(block);
        old = filled(cases[k].old_bytes, 2);
        block = hak_realloc(old, cases[k].new_bytes); /* made shorter where it lies */
        assert_ptr_equal(block, old);
        assert_purged(block, cases[k].old_bytes, cases[k].new_bytes);
        hak_free(block);
    }
    hak_free(other);
}

static void never_means_never(void **state)
{
    (void)state;
    config.purge_delay_ms = -1;
    char *block = shorter(cases[0].old_bytes, cases[0].new_bytes);
    tail_look();
    assert_true(is_in_memory(block + cases[0].old_bytes - PAGE));
    hak_free(block);
}

/* The system refuses: it stays, and is counted; it is not asked again and again. */
static void refusals_change_nothing(void **state)
{
    (void)state;
    for (unsigned k = 0; k < N_CASES; k++) {
        hak_trim(HAK_TRIM_PAGES); /* nothing else is to go */
        char *block = shorter(cases[k].old_bytes, cases[k].new_bytes);
        os_fail_from(1, ~0ul, OS_CALL_PURGE);
        ticks(10);
        assert_int_equal(os_fail_from(0, 0, 0), 1);
        assert_true(is_in_memory(block + cases[k].old_bytes - PAGE));
        assert_null(pool_check());
        assert_int_equal(slab_ctl_read(head_of(block)), SLAB_CTL(SLAB_SPAN_HEAD, 0, 0));
        hak_trim(HAK_TRIM_PAGES); /* but whoever trims asks again */
        assert_purged(block, cases[k].old_bytes, cases[k].new_bytes);
        hak_free(block);
    }
}

/* ---- In the midst of it -------------------------------------------------------------------------------------------- */

/* A signal handler that interrupted tail_purge: the lock is this thread's, the head is marked. */
static void a_handler_may_free_it(void **state)
{
    (void)state;
    for (unsigned k = 0; k < N_CASES; k++) {
        char *block = shorter(cases[k].old_bytes, cases[k].new_bytes);
        struct slab *head = head_of(block);
        slab_ctl marked = MARKED;
        assert_true(pool_lock(HAK_LOCK_TIER));
        atomic_store(&head->ctl, marked);
        hak_free(block); /* a complaint would end the process */
        assert_int_equal(CTL_STATE(slab_ctl_read(head)), SLAB_RETIRING);
        assert_false(atomic_compare_exchange_strong(&head->ctl, &marked, SLAB_CTL(SLAB_SPAN_HEAD, 0, 0)));
        pool_unlock();
        hak_free(hak_malloc(300 * KIB)); /* puts it back, by and by */
        hak_free(hak_malloc(3 * MIB));
        hak_trim(HAK_TRIM_CACHE);
        assert_int_equal(read_stats().spans, 0);
        assert_int_equal(read_stats().runs, 1); /* the heap */
    }
}

static _Atomic int is_held, may_go;

static void *hold_and_mark(void *block)
{
    struct slab *head = head_of(block);
    if (!pool_lock(HAK_LOCK_TIER))
        abort();
    atomic_store(&head->ctl, MARKED);
    atomic_store(&is_held, 1);
    while (!atomic_load(&may_go))
        usleep(1000);
    atomic_store(&head->ctl, SLAB_CTL(SLAB_SPAN_HEAD, 0, 0));
    pool_unlock();
    return NULL;
}

/* Another thread was at it when this one forked: in the child nobody is. */
static void a_child_may_free_it(void **state)
{
    (void)state;
    for (unsigned k = 0; k < N_CASES; k += 3) {
        char *block = shorter(cases[k].old_bytes, cases[k].new_bytes);
        pthread_t thread;
        atomic_store(&is_held, 0);
        atomic_store(&may_go, 0);
        assert_int_equal(pthread_create(&thread, NULL, hold_and_mark, block), 0);
        while (!atomic_load(&is_held))
            usleep(1000);
        pid_t pid = fork();
        assert_true(pid >= 0);
        if (pid == 0) {
            if (slab_ctl_read(head_of(block)) != SLAB_CTL(SLAB_SPAN_HEAD, 0, 0))
                _exit(1);
            hak_free(block);
            _exit(read_stats().spans + read_stats().runs != 1 ? 2 : pool_check() != NULL ? 3 : 0);
        }
        int status;
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_int_equal(status, 0);
        atomic_store(&may_go, 1);
        hak_free(block); /* waits for the lock, if the other one is not done */
        pthread_join(thread, NULL);
    }
}

/* ---- Threads --------------------------------------------------------------------------------------------------------- */

static void threads_lose_nothing(void **state)
{
    static const size_t lens_bytes[CHURN_LENGTHS] = {33 * KIB,  40 * KIB,  63 * KIB,  65 * KIB,
                                                     100 * KIB, 128 * KIB, 300 * KIB, MIB + 1};
    (void)state;
    memcpy(churn.lens_bytes, lens_bytes, sizeof lens_bytes);
    churn_all(4000);
    assert_null(pool_check());
}

int main(void)
{
#define CLEAN(test) cmocka_unit_test_setup_teardown(test, start_clean, end_clean)
    const struct CMUnitTest tests[] = {
        CLEAN(it_goes_back_after_the_delay),
        CLEAN(so_does_the_next_one),
        CLEAN(a_trim_does_not_wait),
        CLEAN(what_realloc_leaves_goes_back),
        CLEAN(where_slabs_lay_too),
        CLEAN(without_a_delay_it_goes_at_once),
        CLEAN(never_means_never),
        CLEAN(refusals_change_nothing),
        CLEAN(a_handler_may_free_it),
        CLEAN(a_child_may_free_it),
        CLEAN(threads_lose_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
