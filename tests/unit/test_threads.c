/* test_threads.c - threads that come and go leave nothing behind: no record, no cached block, no memory.
 * 10,000 short threads run one after the other in four rows side by side. Each frees what its predecessor left to it, claims
 * a few hundred blocks, frees most of them and leaves the rest to the next: so blocks outlive their threads all the time.
 * Threads  a row belongs to the one thread of it that runs; main starts and joins them, which orders all its fields.
 * ctest: timeout 600
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "hakmem/hakmem.h"
#include "os/os.h"
#include "pool/shared_pool.h"
#include "look.h"
#include "process.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define N_SHORT_THREADS 10000u
#define N_ROWS 4
#define N_CLAIMED 300
#define N_LEFT 40 /* to the next thread of the row */
#define RSS_SLACK_KIB 2048
/* Records and arrays are used again: their number follows the most threads that ever met, which takes a while to settle. A
 * lost record per thread would be 30 MiB. */
#define METADATA_SLACK_BYTES (256 << 10)

/* A figure of /proc/self/status in KiB. */
static size_t status_kib(const char *name)
{
    static char text[8192];
    FILE *file = fopen("/proc/self/status", "r");
    assert_non_null(file);
    size_t len = fread(text, 1, sizeof text - 1, file);
    fclose(file);
    text[len] = 0;
    const char *at = strstr(text, name);
    assert_non_null(at);
    return strtoull(at + strlen(name), NULL, 10);
}

static void join(pthread_t thread)
{
    assert_int_equal(pthread_join(thread, NULL), 0);
}

static pthread_t start(void *(*routine)(void *), void *argument)
{
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, routine, argument), 0);
    return thread;
}

/* ---- Short threads ------------------------------------------------------------------------------------------------------ */

struct left {
    unsigned char *block;
    size_t size_bytes;
    unsigned char mark;
};

struct row {
    struct left left[N_LEFT];
    uint64_t random;
    _Atomic unsigned n_wrong; /* blocks whose contents changed, or that were not to be had */
};
static struct row rows[N_ROWS];

static uint64_t next_random(struct row *row)
{
    uint64_t z = row->random += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static void free_left(struct row *row)
{
    for (unsigned i = 0; i < N_LEFT; i++) {
        struct left *l = &row->left[i];
        if (l->block == NULL)
            continue;
        for (size_t k = 0; k < l->size_bytes; k++)
            if (l->block[k] != l->mark) {
                row->n_wrong++;
                break;
            }
        hak_free(l->block);
        l->block = NULL;
    }
}

static void *live_shortly(void *argument)
{
    struct row *row = argument;
    void *blocks[N_CLAIMED];
    free_left(row);
    for (unsigned i = 0; i < N_CLAIMED; i++) {
        uint64_t r = next_random(row);
        size_t size_bytes = (size_t)(r >> 16) % (r % 64 == 0 ? 8192 : 512) + 1;
        blocks[i] = hak_malloc(size_bytes);
        if (blocks[i] == NULL) {
            row->n_wrong++;
            continue;
        }
        memset(blocks[i], 0x11, size_bytes);
        if (i < N_LEFT) {
            row->left[i] = (struct left){blocks[i], size_bytes, (unsigned char)r};
            memset(blocks[i], (unsigned char)r, size_bytes);
        }
    }
    for (unsigned i = N_LEFT; i < N_CLAIMED; i++)
        hak_free(blocks[i]);
    return NULL;
}

static void short_threads_leave_nothing(void **state)
{
    (void)state;
    hak_free(hak_malloc(1)); /* main's own record */
    hak_trim(HAK_TRIM_CACHE);
    for (unsigned i = 0; i < N_ROWS; i++)
        rows[i].random = i;
    struct hak_stats before = read_stats();
    size_t rss_early_kib = 0;
    uint64_t metadata_early_bytes = 0;
    for (unsigned n = 0; n < N_SHORT_THREADS; n += N_ROWS) {
        pthread_t threads[N_ROWS];
        for (unsigned i = 0; i < N_ROWS; i++)
            threads[i] = start(live_shortly, &rows[i]);
        for (unsigned i = 0; i < N_ROWS; i++)
            join(threads[i]);
        if (n == 2000) {
            rss_early_kib = status_kib("VmRSS:");
            metadata_early_bytes = read_stats().metadata_bytes;
            assert_int_equal(read_stats().live_blocks, before.live_blocks + N_ROWS * N_LEFT);
        }
    }
    size_t rss_late_kib = status_kib("VmRSS:");
    struct hak_stats after = read_stats();
    assert_int_equal(after.threads, before.threads);
    assert_int_equal(after.cached_blocks, before.cached_blocks);
    assert_int_equal(after.live_blocks, before.live_blocks + N_ROWS * N_LEFT);
    assert_true(after.metadata_bytes <= metadata_early_bytes + METADATA_SLACK_BYTES);
    assert_null(pool_check());
#ifndef SANITIZED
    if (rss_late_kib > rss_early_kib + RSS_SLACK_KIB)
        fail_msg("VmRSS grew from %zu KiB after 2,000 threads to %zu KiB", rss_early_kib, rss_late_kib);
#else
    (void)rss_late_kib, (void)rss_early_kib;
#endif
    for (unsigned i = 0; i < N_ROWS; i++) {
        free_left(&rows[i]);
        assert_int_equal(rows[i].n_wrong, 0);
    }
    assert_int_equal(read_stats().live_blocks, before.live_blocks);
    assert_int_equal(read_stats().live_bytes, before.live_bytes);
}

/* ---- A thread's end ------------------------------------------------------------------------------------------------------ */

#define N_SHOWN 500

struct shown {
    pthread_barrier_t barrier;
    unsigned char *blocks[N_SHOWN];
};

static size_t shown_bytes(unsigned i)
{
    return 1 + i * 7 % 3000;
}

/* Fills its magazines, shows itself, and ends with N_SHOWN blocks out. */
static void *cache_and_end(void *argument)
{
    struct shown *shown = argument;
    static void *passing[2000];
    for (unsigned i = 0; i < 2000; i++)
        passing[i] = hak_malloc(16 + i % 8 * 16);
    for (unsigned i = 0; i < N_SHOWN; i++) {
        shown->blocks[i] = hak_malloc(shown_bytes(i));
        memset(shown->blocks[i], (int)(i & 0xff), shown_bytes(i));
    }
    for (unsigned i = 0; i < 2000; i++)
        hak_free(passing[i]);
    pthread_barrier_wait(&shown->barrier);
    pthread_barrier_wait(&shown->barrier);
    return NULL;
}

static void exit_returns_the_magazines(void **state)
{
    (void)state;
    static struct shown shown;
    pthread_barrier_init(&shown.barrier, NULL, 2);
    hak_trim(HAK_TRIM_CACHE);
    struct hak_stats before = read_stats();
    pthread_t thread = start(cache_and_end, &shown);
    pthread_barrier_wait(&shown.barrier);
    struct hak_stats during = read_stats();
    pthread_barrier_wait(&shown.barrier);
    join(thread);
    struct hak_stats after = read_stats();
    pthread_barrier_destroy(&shown.barrier);

    assert_int_equal(during.threads, before.threads + 1);
    assert_true(during.cached_blocks > before.cached_blocks + 100);
    assert_true(during.cached_bytes > before.cached_bytes);
    assert_int_equal(during.live_blocks, before.live_blocks + N_SHOWN);
    assert_int_equal(after.threads, before.threads);
    assert_int_equal(after.cached_blocks, before.cached_blocks);
    assert_int_equal(after.cached_bytes, before.cached_bytes);
    assert_int_equal(after.live_blocks, during.live_blocks);
    assert_int_equal(after.live_bytes, during.live_bytes);
    assert_null(pool_check());

    /* The blocks are whole, can be resized and freed, by a thread that claimed none of them. */
    for (unsigned i = 0; i < N_SHOWN; i++) {
        size_t size_bytes = shown_bytes(i);
        if (i % 3 == 0)
            assert_non_null(shown.blocks[i] = hak_realloc(shown.blocks[i], size_bytes * 3));
        for (size_t k = 0; k < size_bytes; k++)
            assert_int_equal(shown.blocks[i][k], i & 0xff);
        hak_free(shown.blocks[i]);
    }
    hak_trim(HAK_TRIM_CACHE);
    after = read_stats();
    assert_int_equal(after.live_blocks, before.live_blocks);
    assert_int_equal(after.live_bytes, before.live_bytes);
    assert_int_equal(after.cached_blocks, 0);
    assert_null(pool_check());
}

/* ---- After a thread's end ------------------------------------------------------------------------------------------------ */

#define LATE_ROUNDS 3 /* of the 4 that POSIX grants; in the last one ThreadSanitizer takes the thread apart */

static pthread_key_t late_key;
static unsigned late_rounds;
static void *late_block;

/* Runs after the allocator's own destructor in the rounds behind the first. */
static void allocate_late(void *block)
{
    hak_free(block);
    late_rounds++;
    late_block = hak_calloc(1, 200);
    void *medium = hak_malloc(5000);
    medium = hak_realloc(medium, 9000);
    hak_free(medium);
    if (late_rounds < LATE_ROUNDS)
        pthread_setspecific(late_key, late_block);
}

static void *set_late(void *unused)
{
    pthread_setspecific(late_key, hak_malloc(77));
    return unused;
}

static void destructors_may_still_allocate(void **state)
{
    (void)state;
    assert_int_equal(pthread_key_create(&late_key, allocate_late), 0);
    struct hak_stats before = read_stats();
    join(start(set_late, NULL));
    assert_int_equal(late_rounds, LATE_ROUNDS);
    struct hak_stats after = read_stats();
    assert_int_equal(after.live_blocks, before.live_blocks + 1);
    assert_int_equal(after.threads, before.threads);
    assert_non_null(late_block);
    for (unsigned i = 0; i < 200; i++)
        assert_int_equal(((unsigned char *)late_block)[i], 0);
    hak_free(late_block);
    assert_int_equal(read_stats().live_blocks, before.live_blocks);
    assert_int_equal(pthread_key_delete(late_key), 0);
    assert_null(pool_check());
}

static void *do_nothing(void *unused)
{
    return unused;
}

/* A record is made by the first slow call, not by the thread. */
static void idle_threads_have_no_record(void **state)
{
    (void)state;
    bool background = config.background;
    config.background = false; /* one that gave back what earlier tests left would take locks meanwhile */
    hak_trim(HAK_TRIM_PAGES);
    while (background_runs())
        os_sleep_ms(1);
    struct hak_stats before = read_stats();
    for (unsigned i = 0; i < 100; i++)
        join(start(do_nothing, NULL));
    struct hak_stats after = read_stats();
    config.background = background;
    assert_int_equal(after.threads, before.threads);
    assert_int_equal(after.metadata_bytes, before.metadata_bytes);
    assert_memory_equal(after.lock_acquisitions, before.lock_acquisitions, sizeof after.lock_acquisitions);
}

#define N_GIVEN 20

/* Every other given block is of a class that this thread has not seen yet. Returns NULL, or the block that it should not have got. */
static void *free_what_was_given(void *argument)
{
    void **given = argument;
    for (unsigned i = 0; i < N_GIVEN; i++) {
        size_t size_bytes = 16 * (i / 2 + 1);
        hak_free(given[i]);
        void *block = hak_malloc(size_bytes);
        bool same = block == given[i];
        hak_free(block);
        if (same != (i % 2 != 0))
            return given[i];
    }
    return NULL;
}

/* A thread's first block of a class, if another thread allocated it, goes back there: its neighbours are that thread's. From the second
 * on such blocks are kept, and are the next to be handed out. */
static void a_given_block_goes_back(void **state)
{
    (void)state;
    void *given[N_GIVEN], *wrong;
    pthread_t thread;
    for (unsigned i = 0; i < N_GIVEN; i++)
        assert_non_null(given[i] = hak_malloc(16 * (i / 2 + 1)));
    assert_int_equal(pthread_create(&thread, NULL, free_what_was_given, given), 0);
    assert_int_equal(pthread_join(thread, &wrong), 0);
    assert_null(wrong);
    assert_null(pool_check());
}

/* The library's own threads take no signal of the program's, and who starts one has the mask that he had, and errno. */
static _Atomic unsigned n_blocked;
static _Atomic bool has_run;
static const int not_ours[] = {SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2, SIGALRM, SIGCHLD, SIGPROF};
#define N_NOT_OURS (sizeof not_ours / sizeof not_ours[0])

static unsigned count_blocked(void)
{
    sigset_t mask;
    unsigned n = 0;
    assert_int_equal(pthread_sigmask(SIG_BLOCK, NULL, &mask), 0);
    for (size_t i = 0; i < N_NOT_OURS; i++)
        n += sigismember(&mask, not_ours[i]) == 1;
    return n;
}

static void *look_at_mask(void *unused)
{
    atomic_store(&n_blocked, count_blocked());
    atomic_store(&has_run, true);
    return unused;
}

static void own_threads_take_no_signals(void **state)
{
    (void)state;
    sigset_t one, before;
    sigemptyset(&one);
    sigaddset(&one, SIGUSR2);
    assert_int_equal(pthread_sigmask(SIG_SETMASK, &one, &before), 0);
    errno = 1234;
    assert_true(os_start_thread(look_at_mask));
    assert_int_equal(errno, 1234);
    assert_int_equal(count_blocked(), 1);
    assert_int_equal(pthread_sigmask(SIG_SETMASK, &before, NULL), 0);
    while (!atomic_load(&has_run))
        os_sleep_ms(1);
    assert_int_equal(atomic_load(&n_blocked), N_NOT_OURS);
}

#define N_SHARING 100u
#define SHARED_BYTES ((size_t)200)

static pthread_barrier_t all_hold;
static _Atomic unsigned n_owners;

/* One at a time, but all of them live on. */
static void *hold_one(void *place)
{
    void *block = hak_malloc(SHARED_BYTES);
    struct arena *arena = registry_arena(block);
    if (tls_thread->current[CTL_CLASS(slab_ctl_read(&arena->slabs[arena_slab_index(arena, block)]))] != NULL)
        atomic_fetch_add(&n_owners, 1);
    atomic_store((void *_Atomic *)place, block); /* behind the look: who waits for it counts the owners */
    pthread_barrier_wait(&all_hold);
    hak_free(block);
    return NULL;
}

static void many_threads_share_slabs(void **state)
{
    (void)state;
    static pthread_t thread[MANY_THREADS + N_SHARING];
    static void *_Atomic held[MANY_THREADS + N_SHARING];
    assert_int_equal(pthread_barrier_init(&all_hold, NULL, MANY_THREADS + N_SHARING + 1), 0);
    for (unsigned i = 0; i < MANY_THREADS + N_SHARING; i++) {
        assert_int_equal(pthread_create(&thread[i], NULL, hold_one, (void *)(uintptr_t)&held[i]), 0); /* NOLINT */
        while (atomic_load(&held[i]) == NULL)
            os_yield();
    }
    while (thread_count() < MANY_THREADS + N_SHARING)
        os_yield();
    assert_in_range(atomic_load(&n_owners), 1, MANY_THREADS);
    pthread_barrier_wait(&all_hold);
    for (unsigned i = 0; i < MANY_THREADS + N_SHARING; i++)
        join(thread[i]);
    pthread_barrier_destroy(&all_hold);
    assert_null(pool_check());
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(short_threads_leave_nothing),    cmocka_unit_test(exit_returns_the_magazines),
        cmocka_unit_test(destructors_may_still_allocate), cmocka_unit_test(idle_threads_have_no_record),
        cmocka_unit_test(a_given_block_goes_back),        cmocka_unit_test(own_threads_take_no_signals),
        cmocka_unit_test(many_threads_share_slabs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
