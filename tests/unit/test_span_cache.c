/* test_span_cache.c - what a thread holds for its blocks above 32 KiB: that it saves the lock, joins what lies side by side,
 * stays within its room, goes back when it is not used, and is nobody's when the thread has gone.
 * Threads  one, and some that come and go; four that free each other's blocks in the last test.
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
#include "pool/shared_pool.h"
#include "service/config.h"
#include "service/stats.h"
#include "look.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define MOST_BYTES SPAN_CACHE_MAX_BYTES

static uint64_t span_locks(void)
{
    return read_stats().lock_acquisitions[HAK_LOCK_SPAN];
}

static size_t held_bytes(void)
{
    return (size_t)tls_thread->span_cache.held_slabs * SLAB_BYTES;
}

/* Sixteen misses, as if threads had waited for the lock so many times before each. Of two lengths in turns: of one, several would be
 * claimed ahead. */
static void miss_after_waits(unsigned n_waits)
{
    void *block[16];
    for (unsigned i = 0; i < 16; i++) {
        stats_add(&stats_counters.lock_contended, n_waits);
        block[i] = hak_malloc((i % 2 == 0 ? 200 : 150) * KIB);
    }
    for (unsigned i = 0; i < 16; i++)
        hak_free(block[i]);
}

/* Enough misses for all the room that there may be. */
static void make_room(void)
{
    miss_after_waits(SPAN_CACHE_CROWD_WAITS);
}

static int start_clean(void **state)
{
    (void)state;
    start_without_ticks();
    config.huge_pages = HUGE_PAGES_NEVER; /* spans of whole slots; those of packed ones: test_packed.c */
    return 0;
}

#define MANY 64

/* Blocks of one length which this thread has not freed: other threads do, or nobody. */
static void claim_many(char *block[MANY], size_t size_bytes)
{
    for (unsigned i = 0; i < MANY; i++) {
        block[i] = hak_malloc(size_bytes);
        assert_non_null(block[i]);
        memset(block[i], (int)i, size_bytes);
    }
}

static void are_whole(char *const block[MANY], size_t size_bytes)
{
    for (unsigned i = 0; i < MANY; i++) {
        assert_int_equal(block[i][0], (char)i);
        assert_int_equal(block[i][size_bytes - 1], (char)i);
        assert_int_equal(hak_usable_size(block[i]), size_bytes);
    }
}

static void *free_many(void *block)
{
    for (unsigned i = 0; i < MANY; i++)
        hak_free(((char **)block)[i]);
    return NULL;
}

static int end_clean(void **state)
{
    (void)state;
    hak_budget_set(0, 0);
    hak_trim(HAK_TRIM_PAGES);
    if (pool_check() != NULL)
        print_error("%s\n", pool_check());
    return pool_check() == NULL && held_bytes() == 0 && read_stats().spans == 0 ? 0 : -1;
}

static void same_sizes_again_take_no_lock(void **state)
{
    (void)state;
    make_room();
    uint64_t before = span_locks();
    for (unsigned i = 0; i < 1000; i++) {
        void *a = hak_malloc(100 * KIB), *b = hak_malloc(300 * KIB);
        hak_free(a);
        hak_free(b);
    }
    assert_int_equal(span_locks(), before);
    assert_int_equal(read_stats().spans, 0);
    assert_true(read_stats().cached_bytes >= 400 * KIB); /* the two blocks' pages, and not a block of theirs is live */
    assert_null(pool_check());
}

/* Whoever allocates and does not free takes the lock for several blocks at once, of any length that fits several times, and what is
 * taken ahead is what it was: clean or not, and the pool's again when nobody wants it. */
static void what_others_free_is_claimed_ahead(void **state)
{
    (void)state;
    static const size_t sizes_bytes[] = {64 * KIB, 36 * KIB, 300 * KIB};
    char *block[MANY];
    for (unsigned s = 0; s < 3; s++)
        for (unsigned round = 0; round < 3; round++) {
            hak_free(hak_malloc(64 * KIB)); /* it frees, too: from now on it does not */
            uint64_t before = span_locks();
            claim_many(block, sizes_bytes[s]);
            uint64_t n_locks = span_locks() - before;
            print_message("%u blocks of %u KiB: %u locks\n", MANY, (unsigned)(sizes_bytes[s] / KIB), (unsigned)n_locks);
            assert_true(n_locks <= (sizes_bytes[s] > 64 * KIB ? 3 * MANY / 4 : MANY / 3));
            are_whole(block, sizes_bytes[s]);
            assert_null(pool_check());
            pthread_t consumer;
            assert_int_equal(pthread_create(&consumer, NULL, free_many, block), 0);
            pthread_join(consumer, NULL);
            assert_null(pool_check());
        }
    assert_true(held_bytes() <= MIB);
    hak_trim(HAK_TRIM_PAGES);
    assert_int_equal(held_bytes(), 0);
}

static void calloc_clears_what_was_claimed_ahead(void **state)
{
    (void)state;
    char *block[MANY];
    claim_many(block, 64 * KIB);
    free_many(block);
    for (unsigned i = 0; i < MANY; i++) {
        block[i] = hak_calloc(1, 64 * KIB);
        for (size_t at = 0; at < 64 * KIB; at++)
            if (block[i][at] != 0)
                fail_msg("block %u is not clear", i);
    }
    free_many(block);
}

/* Lengths in turns: nothing to take ahead. And a thread that frees what it allocates has no need. */
static void nothing_is_claimed_ahead_for_nobody(void **state)
{
    (void)state;
    char *block[MANY];
    hak_trim(HAK_TRIM_PAGES);
    for (unsigned i = 0; i < MANY; i++) {
        block[i] = hak_malloc((i % 2 == 0 ? 40 : 100) * KIB);
        assert_int_equal(held_bytes(), 0);
    }
    free_many(block);
    for (unsigned i = 0; i < MANY; i++) {
        void *one = hak_malloc(64 * KIB), *other = hak_malloc(64 * KIB);
        hak_free(one);
        hak_free(other);
    }
    assert_true(held_bytes() <= 16 * SLAB_BYTES);
}

/* Blocks that lie beside each other serve for as many slots again as they were, the youngest first; a longer one may have pages that
 * nobody had yet. */
static void the_youngest_serves_its_like(void **state)
{
    (void)state;
    hak_trim(HAK_TRIM_PAGES);
    char *one = hak_malloc(40 * KIB), *two = hak_malloc(100 * KIB), *other = hak_malloc(40 * KIB);
    assert_true(two == one + SLAB_BYTES && other == one + 3 * SLAB_BYTES);
    uint64_t before = span_locks();
    hak_free(other);
    hak_free(two);
    hak_free(one);
    assert_ptr_equal(hak_malloc(64 * KIB), one);
    assert_ptr_equal(hak_malloc(50 * KIB), other);
    size_t committed_bytes = read_stats().committed_bytes;
    assert_ptr_equal(hak_malloc(90 * KIB), two);
    assert_int_equal(read_stats().committed_bytes, committed_bytes);
    hak_free(two);
    assert_ptr_equal(hak_malloc(120 * KIB), two);
    assert_int_equal(hak_usable_size(two), 120 * KIB);
    assert_int_equal(read_stats().committed_bytes, committed_bytes + 20 * KIB);
    assert_null(pool_check());
    hak_free(one);
    hak_free(two);
    hak_free(other);
    assert_int_equal(span_locks(), before);
}

/* A signal handler that interrupted the lock's holder, outside of a slow path: in hak_stats_get, say. What the thread holds is not put
 * back then, and not lost. */
static void a_handler_inside_the_lock_loses_nothing(void **state)
{
    (void)state;
    char *block[6];
    hak_trim(HAK_TRIM_PAGES);
    size_t committed_bytes = read_stats().committed_bytes;
    for (unsigned i = 0; i < 6; i++)
        block[i] = hak_malloc(200 * KIB);
    for (unsigned i = 0; i < 4; i++)
        hak_free(block[i]);
    assert_int_equal(held_bytes(), MIB);
    assert_true(pool_lock(HAK_LOCK_SPAN));
    hak_free(block[4]); /* no room: it waits for the lock */
    hak_free(block[5]);
    assert_int_equal(held_bytes(), MIB);
    void *other = hak_malloc(64 * KIB); /* no held slots fit */
    assert_non_null(other);
    assert_int_equal(held_bytes(), MIB);
    pool_unlock();
    hak_free(other);
    hak_free(hak_malloc(2 * MIB)); /* what waited is put back */
    hak_trim(HAK_TRIM_PAGES);
    assert_int_equal(held_bytes(), 0);
    assert_true(read_stats().committed_bytes <= committed_bytes);
    assert_null(pool_check());
}

static void neighbours_serve_as_one(void **state)
{
    (void)state;
    make_room();
    hak_trim(HAK_TRIM_CACHE);
    make_room(); /* fresh slots in a row */
    char *block[4];
    for (unsigned i = 0; i < 4; i++)
        block[i] = hak_malloc(64 * KIB);
    for (unsigned i = 1; i < 4; i++)
        assert_ptr_equal(block[i], block[0] + i * SLAB_BYTES);
    uint64_t before = span_locks();
    for (unsigned i = 0; i < 4; i++)
        hak_free(block[(i * 3) % 4]);
    char *whole = hak_malloc(4 * SLAB_BYTES);
    assert_int_equal(span_locks(), before);
    assert_ptr_equal(whole, block[0]);
    assert_int_equal(hak_usable_size(whole), 4 * SLAB_BYTES);
    hak_free(whole);
}

/* A block that grows may take the slots behind it, also when its thread holds them. */
static void growth_in_place_takes_what_is_held(void **state)
{
    (void)state;
    make_room();
    hak_trim(HAK_TRIM_CACHE);
    make_room();
    char *first = hak_malloc(64 * KIB), *second = hak_malloc(64 * KIB);
    assert_ptr_equal(second, first + SLAB_BYTES);
    hak_free(second);
    assert_ptr_equal(hak_realloc(first, 2 * SLAB_BYTES), first);
    hak_free(first);
}

static void calloc_clears_what_was_held(void **state)
{
    (void)state;
    make_room();
    for (size_t len_bytes = 33 * KIB; len_bytes <= MIB; len_bytes += 70001) {
        unsigned char *dirty = hak_malloc(len_bytes);
        memset(dirty, 0xa5, len_bytes);
        hak_free(dirty);
        unsigned char *zero = hak_calloc(1, len_bytes);
        assert_int_equal(zero[0], 0);
        assert_memory_equal(zero, zero + 1, len_bytes - 1);
        hak_free(zero);
    }
}

static void room_has_a_bound(void **state)
{
    (void)state;
    static void *block[200];
    make_room();
    for (unsigned i = 0; i < 200; i++) {
        block[i] = hak_malloc(128 * KIB);
        memset(block[i], 1, 128 * KIB);
    }
    for (unsigned i = 0; i < 200; i++) {
        hak_free(block[i]);
        assert_true(held_bytes() <= MOST_BYTES);
    }
    assert_true(held_bytes() > 0);
    assert_null(pool_check());
}

#define MORE 1200

/* Frees a block of each of so many SuperSlabs, but of one. */
static void free_one_of_each(char *block[MORE], uintptr_t but, unsigned n)
{
    uintptr_t seen[SPAN_CACHE_PLACES + 2];
    unsigned n_seen = 0;
    for (unsigned i = 0; i < MORE && n_seen < n; i++) {
        uintptr_t superslab = (uintptr_t)block[i] >> SUPERSLAB_SHIFT;
        bool is_new = superslab != but;
        for (unsigned k = 0; k < n_seen; k++)
            is_new &= seen[k] != superslab;
        if (is_new) {
            seen[n_seen++] = superslab;
            hak_free(block[i]);
            block[i] = NULL;
            assert_true(tls_thread->span_cache.n_places <= SPAN_CACHE_PLACES);
        }
    }
    assert_int_equal(n_seen, n);
}

/* A block that is larger than the room, and of a SuperSlab that needs a place when all are taken: what is held goes back, and no
 * more than that. */
static void large_block_and_full_places(void **state)
{
    (void)state;
    static char *block[MORE], *missed[12];
    struct span_cache *cache = &tls_thread->span_cache;
    make_room();
    hak_trim(HAK_TRIM_CACHE);
    make_room();
    char *large = hak_malloc(MIB);
    for (unsigned i = 0; i < MORE; i++)
        block[i] = hak_malloc(SLAB_BYTES);
    hak_trim(HAK_TRIM_CACHE);
    cache->crowded = 1;
    cache->room_slabs = SPAN_CACHE_PLACES + 2;
    free_one_of_each(block, (uintptr_t)large >> SUPERSLAB_SHIFT, SPAN_CACHE_PLACES);
    assert_int_equal(cache->n_places, SPAN_CACHE_PLACES);
    for (unsigned i = 0; i < 12; i++) { /* misses, after which several would be claimed at once */
        missed[i] = hak_malloc(2 * SLAB_BYTES);
        assert_int_equal(cache->n_places, SPAN_CACHE_PLACES);
    }
    hak_free(large);
    assert_true(cache->n_places <= SPAN_CACHE_PLACES);
    assert_true(cache->held_slabs <= cache->room_slabs);
    assert_null(pool_check());
    for (unsigned i = 0; i < MORE; i++)
        hak_free(block[i]);
    for (unsigned i = 0; i < 12; i++)
        hak_free(missed[i]);
}

/* There is room for more, but no place: half of them are given up. */
static void full_places_and_more_room(void **state)
{
    (void)state;
    static char *block[MORE];
    struct span_cache *cache = &tls_thread->span_cache;
    make_room();
    for (unsigned i = 0; i < MORE; i++)
        block[i] = hak_malloc(SLAB_BYTES);
    hak_trim(HAK_TRIM_CACHE);
    cache->crowded = 1;
    cache->room_slabs = SPAN_CACHE_PLACES + 2;
    free_one_of_each(block, 0, SPAN_CACHE_PLACES + 1);
    assert_int_equal(cache->n_places, SPAN_CACHE_PLACES / 2 + 1);
    assert_null(pool_check());
    for (unsigned i = 0; i < MORE; i++)
        hak_free(block[i]);
}

/* Where nobody waits, 1 MiB is held of what was freed, and is put back all at once. It serves blocks that take more than half of a row;
 * any other one puts it back before it takes slots. */
static void little_is_held_while_nobody_waits(void **state)
{
    (void)state;
    void *block[8];
    make_room();
    hak_trim(HAK_TRIM_CACHE);
    assert_int_equal(tls_thread->span_cache.room_slabs, 0);
    for (unsigned i = 0; i < 8; i++)
        block[i] = hak_malloc(200 * KIB);
    uint64_t before = span_locks();
    for (unsigned i = 0; i < 8; i++) {
        hak_free(block[i]);
        assert_in_range(held_bytes(), 4 * SLAB_BYTES, MIB);
    }
    assert_int_equal(span_locks(), before + 1);
    block[0] = hak_malloc(64 * KIB);
    assert_int_equal(held_bytes(), 0);
    hak_free(block[0]);

    hak_trim(HAK_TRIM_CACHE);
    hak_free(hak_malloc(200 * KIB));
    before = span_locks();
    block[0] = hak_malloc(130 * KIB); /* three slots of the four */
    assert_int_equal(held_bytes(), SLAB_BYTES);
    hak_free(block[0]);
    assert_int_equal(held_bytes(), 4 * SLAB_BYTES);
    for (unsigned i = 0; i < 1000; i++)
        hak_free(hak_malloc(150 * KIB));
    assert_int_equal(span_locks(), before);
    block[0] = hak_malloc(MIB);
    assert_int_equal(held_bytes(), 0);
    hak_free(block[0]);
    assert_int_equal(held_bytes(), MIB);
    assert_null(pool_check());
}

/* As many waits as make room, but over a longer time; then one now and then. */
static void little_is_held_while_few_wait(void **state)
{
    (void)state;
    make_room();
    hak_trim(HAK_TRIM_CACHE);
    os_sleep_ms(50);
    miss_after_waits(SPAN_CACHE_CROWD_WAITS / 16);
    miss_after_waits(1);
    assert_in_range(held_bytes(), 4 * SLAB_BYTES, MIB);
    assert_in_range(tls_thread->span_cache.room_slabs, 12, MIB / SLAB_BYTES);
}

static void nothing_is_held_where_it_must_not_be(void **state)
{
    (void)state;
    assert_int_equal(hak_budget_set(0, GIB), 0);
    make_room();
    assert_int_equal(held_bytes(), 0);
    hak_budget_set(0, 0);
    config.purge_delay_ms = 0;
    make_room();
    assert_int_equal(held_bytes(), 0);
}

/* A thread that does other things than use such blocks gives them up. */
static void an_unused_cache_is_given_up(void **state)
{
    (void)state;
    if (UNDER_THREAD_SANITIZER)
        skip(); /* where ticks do not look at threads */
    make_room();
    assert_true(held_bytes() > 0);
    sleepers_tick();
    assert_int_equal(tls_thread->span_cache.stale, 0); /* used since the tick before */
    sleepers_tick();
    assert_int_equal(tls_thread->span_cache.stale, 1);
    for (unsigned i = 0; i < 100 && held_bytes() != 0; i++)
        (void)!hak_malloc(3000); /* a slow call now and then */
    assert_int_equal(held_bytes(), 0);
}

static void freed_twice_is_refused(void **state)
{
    (void)state;
    make_room();
    void *block = hak_malloc(100 * KIB);
    hak_free(block);
    pid_t child = fork();
    if (child == 0) {
        close(STDERR_FILENO);
        hak_free(block);
        _exit(0);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
}

static void *use_and_end(void *unused)
{
    make_room();
    return held_bytes() > 0 ? unused : (void *)1;
}

static void ended_threads_hold_nothing(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 20; i++) {
        pthread_t thread;
        void *result;
        assert_int_equal(pthread_create(&thread, NULL, use_and_end, NULL), 0);
        assert_int_equal(pthread_join(thread, &result), 0);
        assert_null(result);
    }
    struct hak_stats stats = read_stats();
    assert_int_equal(stats.spans, 0);
    assert_true(stats.cached_bytes < 256 * KIB);
    assert_null(pool_check());
}

static pthread_barrier_t barrier;

static void *hold_and_wait(void *unused)
{
    make_room();
    pthread_barrier_wait(&barrier);
    pthread_barrier_wait(&barrier);
    return unused;
}

/* In a child nobody holds what another thread held. */
static void forks_child_gets_them_back(void **state)
{
    (void)state;
    pthread_t thread;
    pthread_barrier_init(&barrier, NULL, 2);
    assert_int_equal(pthread_create(&thread, NULL, hold_and_wait, NULL), 0);
    pthread_barrier_wait(&barrier);
    pid_t child = fork();
    if (child == 0) {
        hak_trim(HAK_TRIM_PAGES);
        struct hak_stats stats = read_stats();
        _exit(pool_check() != NULL ? 1 : stats.cached_bytes > 256 * KIB ? 2 : 0);
    }
    pthread_barrier_wait(&barrier);
    pthread_join(thread, NULL);
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
}

#define N_SHARED 64
static _Atomic(unsigned char *) shared[N_SHARED];
static _Atomic unsigned n_wrong;

static void *exchange(void *seed)
{
    uint64_t random = (uintptr_t)seed * 0x9e3779b97f4a7c15u;
    for (unsigned i = 0; i < 20000; i++) {
        random = random * 6364136223846793005u + 1442695040888963407u;
        size_t len_bytes = 33 * KIB + (random >> 33) % (900 * KIB);
        unsigned char *block = hak_malloc(len_bytes), mark = (unsigned char)(len_bytes >> 4);
        block[0] = block[len_bytes - 1] = mark;
        memcpy(block + 8, &len_bytes, sizeof len_bytes);
        block = atomic_exchange(&shared[(random >> 20) % N_SHARED], block);
        if (block == NULL)
            continue;
        memcpy(&len_bytes, block + 8, sizeof len_bytes);
        mark = (unsigned char)(len_bytes >> 4);
        if (block[0] != mark || block[len_bytes - 1] != mark)
            atomic_fetch_add(&n_wrong, 1);
        hak_free(block);
    }
    return NULL;
}

static void threads_free_each_others(void **state)
{
    (void)state;
    pthread_t threads[4];
    for (uintptr_t i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, exchange, (void *)(i + 1)), 0);
    for (unsigned i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    for (unsigned i = 0; i < N_SHARED; i++)
        hak_free(atomic_exchange(&shared[i], NULL));
    assert_int_equal(n_wrong, 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, start_clean, end_clean)

int main(void)
{
    void *heap = hak_malloc(32 * MIB); /* the room is a part of it */
    const struct CMUnitTest tests[] = {
        TEST(same_sizes_again_take_no_lock),
        TEST(the_youngest_serves_its_like),
        TEST(what_others_free_is_claimed_ahead),
        TEST(calloc_clears_what_was_claimed_ahead),
        TEST(nothing_is_claimed_ahead_for_nobody),
        TEST(a_handler_inside_the_lock_loses_nothing),
        TEST(neighbours_serve_as_one),
        TEST(growth_in_place_takes_what_is_held),
        TEST(calloc_clears_what_was_held),
        TEST(room_has_a_bound),
        TEST(large_block_and_full_places),
        TEST(full_places_and_more_room),
        TEST(little_is_held_while_nobody_waits),
        TEST(little_is_held_while_few_wait),
        TEST(nothing_is_held_where_it_must_not_be),
        TEST(an_unused_cache_is_given_up),
        TEST(freed_twice_is_refused),
        TEST(ended_threads_hold_nothing),
        TEST(forks_child_gets_them_back),
        TEST(threads_free_each_others),
    };
    int status = cmocka_run_group_tests(tests, NULL, NULL);
    hak_free(heap);
    return status;
}
