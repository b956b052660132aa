/* test_packed.c - packed spans: blocks that take whole pages, and share slots with their neighbours (pool/packed.h).
 * Checked: how densely they lie; what a small heap, an alignment or a growing block gets instead; a long random run against a model of
 * who has which page; what a thread keeps; resizing; misuse; calloc; what lies idle goes back, also where the system refuses at first;
 * a handler that interrupts the lock's holder; the child of a fork in the midst of other threads' calls; contents under threads.
 * Threads  one, and six in the last two tests.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "front/thread.h"
#include "hakmem/hakmem.h"
#include "churn.h"
#include "look.h"
#include "os/os.h"
#include "pool/large.h"
#include "pool/packed.h"
#include "pool/shared_pool.h"
#include "pool/span.h"
#include "service/stats.h"

#include <limits.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE PACKED_PAGE_BYTES
#define BALLAST_BYTES (16 * MIB) /* a heap in which blocks are packed */

static char *ballast;

static int start_clean(void **state)
{
    (void)state;
    start_without_ticks();
    config.huge_pages = HUGE_PAGES_AUTO;
    ballast = hak_malloc(BALLAST_BYTES);
    return ballast == NULL;
}

static int end_clean(void **state)
{
    (void)state;
    os_fail_from(0, 0, 0);
    hak_free(ballast);
    hak_trim(HAK_TRIM_PAGES);
    if (pool_check() != NULL)
        print_error("%s\n", pool_check());
    struct hak_stats s = read_stats();
    return pool_check() == NULL && s.spans == 0 && s.runs == 0 && s.span_bytes == 0 ? 0 : -1;
}

static char *claim(size_t size_bytes)
{
    char *block = hak_malloc(size_bytes);
    assert_non_null(block);
    return block;
}

static struct slab *slab_of(const void *block)
{
    struct arena *arena = registry_arena(block);
    return &arena->slabs[arena_slab_index(arena, block)];
}

static bool is_packed(const void *block)
{
    return packed_head_of(block) != NULL;
}

static uint64_t span_locks(void)
{
    return read_stats().lock_acquisitions[HAK_LOCK_SPAN];
}

static bool is_in_memory(const char *page)
{
    unsigned char in_memory;
    assert_int_equal(mincore((void *)(uintptr_t)page, PAGE, &in_memory), 0);
    return (in_memory & 1) != 0;
}

/* Puts back what this thread keeps. */
static void empty_cache(void)
{
    hak_trim(HAK_TRIM_CACHE);
}

/* ---- Where they lie -------------------------------------------------------------------------------------------------- */

static void one_behind_the_other(void **state)
{
    (void)state;
    enum { N = 100 };
    char *block[N];
    hak_trim(HAK_TRIM_PAGES);
    size_t before_bytes = read_stats().committed_bytes;
    for (unsigned i = 0; i < N; i++) {
        block[i] = claim(40000);
        memset(block[i], (int)i, 40000);
        assert_true(is_packed(block[i]));
        assert_int_equal(hak_usable_size(block[i]), 10 * PAGE);
        assert_int_equal((uintptr_t)block[i] % PAGE, 0);
    }
    /* But for what a thread takes ahead: pages and no more; and of each SuperSlab all but its last few. */
    assert_true(read_stats().committed_bytes - before_bytes <= (N + 16) * 10 * PAGE);
    unsigned n_beside = 0;
    for (unsigned i = 0; i < N; i++)
        for (unsigned k = 0; k < N; k++)
            n_beside += block[k] == block[i] + 10 * PAGE;
    assert_true(n_beside >= N - 5);
    assert_null(pool_check());
    for (unsigned i = 0; i < N; i++) {
        assert_int_equal(block[i][0], (char)i);
        assert_int_equal(block[i][39999], (char)i);
        hak_free(block[i]);
    }
}

/* What is packed, and what begins on a slot. */
static void lengths_that_fill_their_slots_are_not(void **state)
{
    (void)state;
    static const struct {
        size_t bytes, alignment;
        bool packed;
    } cases[] = {
        {32769, 1, true},    {14 * 4096, 1, true}, {14 * 4096 + 1, 1, false}, {65536, 1, false},
        {65537, 1, true},    {28 * 4096, 1, true}, {29 * 4096, 1, false},     {130000, 1, false},
        {131073, 1, true},   {98 * 4096, 1, true}, {99 * 4096, 1, false},     {1000000, 1, false},
        {40000, 4096, true}, {40000, 8192, false}, {40000, 65536, false},     {40000, 1 << 20, false},
    };
    for (unsigned i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *block = hak_aligned_alloc(cases[i].alignment, cases[i].bytes);
        assert_non_null(block);
        assert_int_equal((uintptr_t)block % cases[i].alignment, 0);
        if (is_packed(block) != cases[i].packed)
            fail_msg("%zu bytes on multiples of %zu", cases[i].bytes, cases[i].alignment);
        hak_free(block);
        empty_cache();
    }
}

/* Nor what a thread takes ahead, when it only allocates. */
static void alignments_are_kept_ahead_too(void **state)
{
    (void)state;
    enum { N = 60 };
    char *block[N];
    for (unsigned i = 0; i < N; i++) {
        block[i] = i % 20 < 10 ? claim(40000) : hak_aligned_alloc(32768, 40000);
        assert_non_null(block[i]);
        if (i % 20 >= 10)
            assert_int_equal((uintptr_t)block[i] % 32768, 0);
    }
    for (unsigned i = 0; i < N; i++) {
        hak_free(block[i]);
        char *again = hak_aligned_alloc(32768, 40000);
        assert_int_equal((uintptr_t)again % 32768, 0);
        block[i] = again;
    }
    for (unsigned i = 0; i < N; i++)
        hak_free(block[i]);
}

static void small_heaps_have_none(void **state)
{
    (void)state;
    hak_free(ballast);
    hak_trim(HAK_TRIM_PAGES);
    char *block = claim(40000);
    assert_false(is_packed(block));
    hak_free(block);
    empty_cache();
    ballast = claim(BALLAST_BYTES);
    config.huge_pages = HUGE_PAGES_NEVER; /* then there is nothing to gain */
    block = claim(40000);
    assert_false(is_packed(block));
    hak_free(block);
}

/* A gap that a block left is the next one's that fits best, not the open end of a SuperSlab. */
static void gaps_are_used_again(void **state)
{
    (void)state;
    enum { N = 60 };
    char *block[N];
    for (unsigned i = 0; i < N; i++)
        block[i] = claim(i % 2 == 0 ? 40000 : 50000);
    empty_cache();
    size_t before_bytes = read_stats().committed_bytes;
    hak_free(block[20]); /* 10 pages between two others */
    hak_free(block[31]); /* 13 */
    empty_cache();
    char *longer = claim(50000), *shorter = claim(40000);
    assert_ptr_equal(longer, block[31]);
    assert_ptr_equal(shorter, block[20]);
    assert_true(read_stats().committed_bytes <= before_bytes);
    block[20] = shorter;
    block[31] = longer;
    for (unsigned i = 0; i < N; i++)
        hak_free(block[i]);
}

/* ---- A model of all pages -------------------------------------------------------------------------------------------- */

static uint64_t next(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

struct held_block {
    char *block;
    size_t bytes;
    unsigned char with;
};

static void write_pages(struct held_block *b)
{
    for (size_t at = 0; at < b->bytes; at += PAGE)
        b->block[at] = (char)(b->with + at / PAGE);
    b->block[b->bytes - 1] = (char)b->with;
}

static void check_pages(const struct held_block *b, size_t bytes)
{
    for (size_t at = 0; at < bytes && at + 1 < b->bytes; at += PAGE)
        if (b->block[at] != (char)(b->with + at / PAGE))
            fail_msg("a page of another block's");
}

static void a_long_random_run(void **state)
{
    (void)state;
    enum { N = 150, STEPS = 30000 };
    static struct held_block held[N];
    uint64_t random = 88172645463325252u;
    memset(held, 0, sizeof held);
    for (unsigned step = 0; step < STEPS; step++) {
        struct held_block *b = &held[next(&random) % N];
        size_t bytes = next(&random) % 4 == 0 ? 1 + next(&random) % 30000 : 32769 + next(&random) % 400000;
        unsigned what = (unsigned)(next(&random) % 8);
        if (b->block == NULL) {
            *b = (struct held_block){what == 0 ? hak_calloc(1, bytes) : claim(bytes), bytes, (unsigned char)step};
            assert_non_null(b->block);
            for (size_t at = 0; what == 0 && at < bytes; at++)
                if (b->block[at] != 0)
                    fail_msg("calloc: byte %zu of %zu is not 0", at, bytes);
        } else if (what < 3) { /* grows by a little, shrinks by a little, or anything */
            size_t new_bytes = what == 0 ? b->bytes + next(&random) % 9000 : what == 1 ? b->bytes * 7 / 8 + 1 : bytes;
            check_pages(b, b->bytes);
            b->block = hak_realloc(b->block, new_bytes);
            assert_non_null(b->block);
            check_pages(b, b->bytes < new_bytes ? b->bytes : new_bytes - 1);
            b->bytes = new_bytes;
        } else {
            check_pages(b, b->bytes);
            if (what == 3)
                hak_free_sized(b->block, b->bytes);
            else
                hak_free(b->block);
            b->block = NULL;
            continue;
        }
        assert_true(hak_usable_size(b->block) >= b->bytes);
        write_pages(b);
        if (step % 97 == 0)
            shared_pool_tick();
        if (step % 701 == 0)
            hak_trim(step % 2 == 0 ? HAK_TRIM_CACHE : HAK_TRIM_PAGES);
        if (step % 50 == 0 && pool_check() != NULL)
            fail_msg("step %u: %s", step, pool_check());
    }
    for (unsigned i = 0; i < N; i++)
        hak_free(held[i].block);
}

/* ---- What a thread keeps --------------------------------------------------------------------------------------------- */

static void what_is_freed_serves_again_without_a_lock(void **state)
{
    (void)state;
    char *other = claim(40000);
    hak_free(claim(50000));
    uint64_t before = span_locks();
    for (unsigned i = 0; i < 1000; i++) {
        char *block = claim(i % 2 == 0 ? 50000 : 48000); /* 13 pages, or 12 of them */
        assert_true(is_packed(block));
        assert_int_equal(hak_usable_size(block), i % 2 == 0 ? 13 * PAGE : 12 * PAGE);
        block[hak_usable_size(block) - 1] = 1;
        hak_free_sized(block, i % 2 == 0 ? 50000 : 48000);
    }
    assert_int_equal(span_locks(), before);
    struct hak_stats s = read_stats();
    assert_int_equal(s.spans, 1);
    assert_int_equal(s.span_bytes, 10 * PAGE);
    assert_true(s.cached_bytes >= 13 * PAGE);
    assert_null(pool_check());
    hak_free(other);
}

/* However many misses of one length: nothing is taken ahead where all places are taken, and no more than there are places. */
static void places_have_a_bound(void **state)
{
    (void)state;
    enum { N = 40 };
    const struct span_cache *cache = &tls_thread->span_cache;
    char *kept[SPAN_CACHE_PACKED], *block[N];
    bool any_full = false;
    for (unsigned n = 0; n <= SPAN_CACHE_PACKED; n++) {
        empty_cache();
        for (unsigned i = 0; i < n; i++)
            kept[i] = claim(40000);
        for (unsigned i = 0; i < n; i++)
            hak_free(kept[i]);
        any_full |= cache->n_packed == SPAN_CACHE_PACKED;
        for (unsigned i = 0; i < N; i++) {
            assert_non_null(block[i] = claim(50000)); /* longer than what is kept */
            assert_true(cache->n_packed <= SPAN_CACHE_PACKED);
        }
        for (unsigned i = 0; i < N; i++)
            hak_free(block[i]);
        assert_null(pool_check());
    }
    assert_true(any_full);
}

/* One that is kept is clean no more. */
static void calloc_clears_what_was_kept(void **state)
{
    (void)state;
    char *block = claim(50000);
    memset(block, 1, 50000);
    hak_free(block);
    char *again = hak_calloc(1, 48000);
    assert_ptr_equal(again, block);
    for (unsigned i = 0; i < 48000; i++)
        assert_int_equal(again[i], 0);
    hak_free(again);
}

/* Nor does it bring to memory what nobody has used, be it taken ahead or not. */
static void calloc_touches_nothing_fresh(void **state)
{
    (void)state;
    enum { N = 40 }; /* a few of them before the thread takes some ahead */
    char *block[N];
    hak_trim(HAK_TRIM_PAGES);
    for (unsigned i = 0; i < N; i++) {
        block[i] = hak_calloc(1, 40000);
        assert_true(is_packed(block[i]));
    }
    for (unsigned i = 0; i < N; i++) {
        for (unsigned page = 0; page < 10; page++)
            assert_false(is_in_memory(block[i] + page * PAGE));
        hak_free(block[i]);
    }
}

static void keeping_has_a_bound(void **state)
{
    (void)state;
    enum { N = 200 };
    char *block[N];
    for (unsigned i = 0; i < N; i++)
        block[i] = claim(40000);
    for (unsigned i = 0; i < N; i++)
        hak_free(block[i]);
    assert_true(read_stats().cached_bytes <= MIB + 64 * KIB);
    assert_int_equal(read_stats().spans, 0);
    assert_null(pool_check());
}

/* ---- Longer and shorter ---------------------------------------------------------------------------------------------- */

static void resized_in_place(void **state)
{
    (void)state;
    char *first = claim(40000), *second = claim(40000);
    empty_cache();
    memset(first, 1, 40000);
    memset(second, 2, 40000);
    assert_ptr_equal(second, first + 10 * PAGE);
    char *longer = hak_realloc(second, 70000); /* nothing lies behind it */
    assert_ptr_equal(longer, second);
    assert_int_equal(hak_usable_size(longer), 18 * PAGE);
    assert_int_equal(longer[39999], 2);
    memset(longer, 2, 70000);
    longer = hak_realloc(longer, 41000);
    assert_ptr_equal(longer, second);
    assert_int_equal(hak_usable_size(longer), 11 * PAGE);
    char *moved = hak_realloc(first, 60000); /* something lies behind this one: it moves, to where it may grow */
    assert_ptr_not_equal(moved, first);
    assert_false(is_packed(moved));
    assert_int_equal(moved[0], 1);
    assert_int_equal(moved[39999], 1);
    assert_null(pool_check());
    hak_free(moved);
    hak_free(longer);
}

/* One that gets shorter than any may be made keeps so many pages that no other one begins in its half of a slot. */
static void the_shortest_keep_their_half(void **state)
{
    (void)state;
    empty_cache();
    uint64_t before_bytes = read_stats().span_bytes;
    char *block = claim(40000);
    empty_cache();
    struct packed_head *head = packed_head_of(block);
    assert_non_null(head);
    assert_true(large_shrink(block, PAGE));
    assert_int_equal(hak_usable_size(block), PAGE);
    assert_int_equal(PACKED_LENGTH(packed_word(head)), PACKED_LEAST_PAGES);
    assert_int_equal(read_stats().span_bytes - before_bytes, PAGE); /* what it was asked for, not what it keeps */
    char *next = claim(40000);
    assert_true(next != block + PAGE);
    assert_ptr_equal(packed_head_of(block), head);
    assert_int_equal(hak_usable_size(block), PAGE);
    assert_null(pool_check());
    hak_free(block);
    hak_free(next);
}

/* Nor does a thread keep one whose SuperSlab is to go. */
static void what_drains_is_not_kept(void **state)
{
    (void)state;
    char *block = claim(40000);
    _Atomic uint8_t *tier = &slab_of(block)->superslab->tier;
    uint8_t before = atomic_exchange(tier, SS_TIER_DRAINING);
    assert_int_equal(packed_hold(slab_of(block), block), 0);
    atomic_store(tier, before);
    assert_true(is_packed(block));
    hak_free(block);
}

/* ---- Misuse ---------------------------------------------------------------------------------------------------------- */

/* What a child says on stderr that frees an address, and is stopped for it. */
static void expect_report(const void *block, unsigned times, const char *words)
{
    int ends[2];
    char text[512] = "";
    assert_int_equal(pipe(ends), 0);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        dup2(ends[1], STDERR_FILENO);
        for (unsigned i = 0; i < times; i++)
            hak_free((void *)(uintptr_t)block);
        _exit(0);
    }
    int status;
    close(ends[1]);
    size_t len = 0;
    for (ssize_t n; len < sizeof text - 1 && (n = read(ends[0], text + len, sizeof text - 1 - len)) > 0;)
        len += (size_t)n;
    close(ends[0]);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
    if (strstr(text, words) == NULL)
        fail_msg("%s", text);
}

static void misuse_is_told(void **state)
{
    (void)state;
    char *block = claim(40000), *other = claim(40000);
    expect_report(block, 2, "no block begins here");
    expect_report(block + PAGE, 1, "no block begins here");
    expect_report(block + 16, 1, "no block begins here");
    expect_report((char *)((uintptr_t)block & ~(uintptr_t)(SLAB_BYTES - 1)) + 15 * PAGE, 1, "no block begins here");
    assert_int_equal(hak_usable_size(other), 10 * PAGE);
    hak_free(block);
    hak_free(other);
}

/* ---- What lies idle -------------------------------------------------------------------------------------------------- */

/* 100 blocks of which each third stays. */
enum { N_SPARSE = 99 };
static char *sparse[N_SPARSE];

static void make_sparse(void)
{
    for (unsigned i = 0; i < N_SPARSE; i++) {
        sparse[i] = claim(40000);
        memset(sparse[i], 3, 40000);
    }
    for (unsigned i = 0; i < N_SPARSE; i++)
        if (i % 3 != 0)
            hak_free(sparse[i]);
    empty_cache();
}

static void drop_sparse(void)
{
    for (unsigned i = 0; i < N_SPARSE; i += 3) {
        assert_int_equal(sparse[i][0], 3);
        assert_int_equal(sparse[i][39999], 3);
        hak_free(sparse[i]);
    }
}

static unsigned count_idle_in_memory(void)
{
    unsigned n = 0;
    for (unsigned i = 0; i < N_SPARSE; i++)
        for (unsigned page = 0; page < 10 && i % 3 != 0; page++)
            n += is_in_memory(sparse[i] + page * PAGE);
    return n;
}

static void free_pages_go_back_after_the_delay(void **state)
{
    (void)state;
    make_sparse();
    assert_int_equal(count_idle_in_memory(), 66 * 10);
    shared_pool_tick();
    assert_int_equal(count_idle_in_memory(), 66 * 10);
    for (unsigned i = 0; i < 2; i++) /* the first takes what was EMPTY slots */
        shared_pool_tick();
    assert_int_equal(count_idle_in_memory(), 0);
    assert_null(pool_check());
    drop_sparse();
}

static void a_trim_does_not_wait(void **state)
{
    (void)state;
    make_sparse();
    hak_trim(HAK_TRIM_PAGES);
    assert_int_equal(count_idle_in_memory(), 0);
    assert_null(pool_check());
    drop_sparse();
}

static void refusals_change_nothing(void **state)
{
    (void)state;
    make_sparse();
    os_fail_from(1, 1000000, OS_CALL_PURGE);
    hak_trim(HAK_TRIM_PAGES);
    os_fail_from(0, 0, 0);
    assert_int_equal(count_idle_in_memory(), 66 * 10);
    assert_null(pool_check());
    hak_trim(HAK_TRIM_PAGES);
    assert_int_equal(count_idle_in_memory(), 0);
    drop_sparse();
}

/* The last of its blocks takes a SuperSlab along. */
static void emptied_superslabs_go(void **state)
{
    (void)state;
    make_sparse();
    drop_sparse();
    hak_trim(HAK_TRIM_PAGES);
    struct hak_stats s = read_stats();
    assert_int_equal(s.spans, 0);
    assert_true(s.committed_bytes <= BALLAST_BYTES + 256 * KIB);
}

/* ---- In the midst of it ---------------------------------------------------------------------------------------------- */

/* A signal handler that interrupted the lock's holder. */
static void a_handler_may_free(void **state)
{
    (void)state;
    char *block = claim(40000), *other = claim(40000);
    empty_cache();
    assert_true(pool_lock(HAK_LOCK_TIER));
    hak_free(block); /* a complaint would end the process */
    assert_int_equal(PACKED_STATE(packed_word(&slab_of(block)->packed[(uintptr_t)block / PAGE % 16 / 8])),
                     PACKED_WAITING);
    char *longer = hak_realloc(other, 200000); /* of the emergency's memory */
    assert_non_null(longer);
    pool_unlock();
    hak_free(claim(300 * KIB)); /* puts it back */
    hak_free(longer);
    empty_cache();
    assert_int_equal(read_stats().spans, 0);
    assert_false(is_packed(block));
}

static void prepare_churn(unsigned steps)
{
    static const size_t lens_bytes[CHURN_LENGTHS] = {33 * KIB,  40 * KIB,  56 * KIB, 66 * KIB,
                                                     100 * KIB, 140 * KIB, 64 * KIB, 3 * KIB};
    memcpy(churn.lens_bytes, lens_bytes, sizeof lens_bytes);
    churn.steps = steps;
    atomic_store(&churn.done, false);
}

static void threads_lose_nothing(void **state)
{
    (void)state;
    prepare_churn(6000);
    churn_all(6000);
    assert_null(pool_check());
}

/* As pool_check, but for the sum: a thread that was cut off may not have counted yet what it gave back outside the lock. */
static bool is_in_order(void)
{
    const char *wrong = pool_check();
    if (wrong == NULL || strstr(wrong, "committed") != NULL)
        return true;
    fprintf(stderr, "%s\n", wrong);
    return false;
}

/* Other threads are at it when this one forks. In the child the pool is in order; what is in the slots is whole, or was on its way. */
static void children_find_the_pool_in_order(void **state)
{
    (void)state;
    pthread_t threads[2];
    prepare_churn(UINT_MAX);
    for (uintptr_t i = 0; i < 2; i++) /* as long as it takes */
        assert_int_equal(pthread_create(&threads[i], NULL, i == 0 ? churn_replace : churn_purge, NULL), 0);
    for (unsigned i = 0; i < 200; i++) {
        pid_t pid = fork();
        assert_true(pid >= 0);
        if (pid == 0) {
            alarm(60);
            if (!is_in_order())
                _exit(1);
            churn_drop();
            for (unsigned k = 0; k < 50; k++)
                churn_unmake(churn_make(k * 7919));
            _exit(atomic_load(&churn.n_wrong) != 0 ? 2 : is_in_order() ? 0 : 3);
        }
        int status;
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_int_equal(status, 0);
    }
    atomic_store(&churn.done, true);
    for (unsigned i = 0; i < 2; i++)
        pthread_join(threads[i], NULL);
    churn_drop();
    assert_int_equal(atomic_load(&churn.n_wrong), 0);
}

int main(void)
{
#define CLEAN(test) cmocka_unit_test_setup_teardown(test, start_clean, end_clean)
    const struct CMUnitTest tests[] = {
        CLEAN(one_behind_the_other),
        CLEAN(lengths_that_fill_their_slots_are_not),
        CLEAN(alignments_are_kept_ahead_too),
        CLEAN(small_heaps_have_none),
        CLEAN(gaps_are_used_again),
        CLEAN(a_long_random_run),
        CLEAN(what_is_freed_serves_again_without_a_lock),
        CLEAN(places_have_a_bound),
        CLEAN(calloc_clears_what_was_kept),
        CLEAN(calloc_touches_nothing_fresh),
        CLEAN(keeping_has_a_bound),
        CLEAN(resized_in_place),
        CLEAN(the_shortest_keep_their_half),
        CLEAN(what_drains_is_not_kept),
        CLEAN(misuse_is_told),
        CLEAN(free_pages_go_back_after_the_delay),
        CLEAN(a_trim_does_not_wait),
        CLEAN(refusals_change_nothing),
        CLEAN(emptied_superslabs_go),
        CLEAN(a_handler_may_free),
        CLEAN(threads_lose_nothing),
        CLEAN(children_find_the_pool_in_order),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
