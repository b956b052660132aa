/* test_span.c - blocks above 32 KiB: spans of slabs, runs of SuperSlabs, and what realloc makes of one when it becomes
 * the other.
 * Checked: sizes up to 64 MiB, alignments up to 1 GiB, usable sizes, contents and zeroes, growth in place, refusals; under
 * four threads too. After every test the pool is whole and neither spans nor runs are counted.
 * Threads  one, and four in the last test. Resident memory is only looked at in builds without sanitizers.
 * ctest: timeout 600
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "hakmem/hakmem.h"
#include "meta/arena.h"
#include "os/os.h"
#include "pool/large.h"
#include "pool/shared_pool.h"
#include "look.h"
#include "process.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#ifdef SANITIZED
enum { RSS_IS_OURS = false, TRAFFIC_STEPS = 1500 };
#else
enum { RSS_IS_OURS = true, TRAFFIC_STEPS = 8000 };
#endif

#define CLASS_LIMIT_BYTES (32 * KIB) /* the largest class; a longer block is a span */

static const size_t sizes_bytes[] = {
    32 * KIB + 1, 36 * KIB,        64 * KIB - 1,  64 * KIB,      64 * KIB + 1, 100 * KIB,  128 * KIB,
    200000,       512 * KIB,       1000000,       MIB - 4096,    MIB - 1,      MIB,        MIB + 1,
    MIB + 4096,   2 * MIB - 1,     2 * MIB,       2 * MIB + 1,   3 * MIB + 5,  31 * 65536, 7654321,
    16 * MIB,     16 * MIB + 4097, 63 * MIB + 17, 31 * 65536 + 1};
#define N_SIZES (sizeof sizes_bytes / sizeof sizes_bytes[0])

/* ---- Contents ------------------------------------------------------------------------------------------------------ */

static uint64_t word_of(uint64_t seed, size_t i)
{
    return (seed + i) * 0x9e3779b97f4a7c15u;
}

/* Every word of the block tells its seed and its place; the last bytes too. */
static void fill(void *block, size_t len_bytes, uint64_t seed)
{
    uint64_t *words = block;
    for (size_t i = 0; i < len_bytes / 8; i++)
        words[i] = word_of(seed, i);
    for (size_t at = len_bytes & ~(size_t)7; at < len_bytes; at++)
        ((unsigned char *)block)[at] = (unsigned char)(seed + at);
}

/* True when the first kept_bytes are still what fill(len_bytes) wrote. */
static bool holds(const void *block, size_t len_bytes, size_t kept_bytes, uint64_t seed)
{
    const uint64_t *words = block;
    for (size_t i = 0; i < kept_bytes / 8; i++)
        if (words[i] != word_of(seed, i))
            return false;
    for (size_t at = len_bytes & ~(size_t)7; at < kept_bytes; at++)
        if (((const unsigned char *)block)[at] != (unsigned char)(seed + at))
            return false;
    return true;
}

static bool is_zero(const unsigned char *block, size_t len_bytes)
{
    return len_bytes == 0 || (block[0] == 0 && memcmp(block, block + 1, len_bytes - 1) == 0);
}

static size_t page_rounded(size_t size_bytes)
{
    return round_up(size_bytes, os_page_bytes());
}

static void assert_all_gone(void)
{
    struct hak_stats s = read_stats();
    assert_int_equal(s.spans, 0);
    assert_int_equal(s.runs, 0);
    assert_int_equal(s.span_bytes, 0);
    assert_int_equal(s.run_bytes, 0);
    const char *wrong = pool_check();
    if (wrong != NULL)
        fail_msg("pool_check: %s", wrong);
}

static int every_test_ends_clean(void **state)
{
    (void)state;
    assert_all_gone();
    return 0;
}

/* ---- Sizes and alignments ------------------------------------------------------------------------------------------ */

static void every_size_is_served(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_SIZES; i++) {
        size_t size_bytes = sizes_bytes[i];
        unsigned char *block = hak_malloc(size_bytes);
        assert_non_null(block);
        assert_int_equal((uintptr_t)block % SLAB_BYTES, 0);
        assert_int_equal(hak_usable_size(block), page_rounded(size_bytes));
        assert_int_equal(hak_good_size(size_bytes), page_rounded(size_bytes));
        struct hak_stats s = read_stats();
        bool is_run = size_bytes > SPAN_MAX_BYTES;
        assert_int_equal(s.runs, is_run);
        assert_int_equal(s.spans, !is_run);
        assert_int_equal(is_run ? s.run_bytes : s.span_bytes, page_rounded(size_bytes));
        fill(block, page_rounded(size_bytes), i);
        assert_true(holds(block, page_rounded(size_bytes), page_rounded(size_bytes), i));
        hak_free(block);
        assert_all_gone();
    }
}

static void neighbours_keep_apart(void **state)
{
    (void)state;
    void *blocks[2 * N_SIZES];
    for (size_t i = 0; i < 2 * N_SIZES; i++) {
        size_t len_bytes = page_rounded(sizes_bytes[i / 2]);
        assert_non_null(blocks[i] = hak_malloc(sizes_bytes[i / 2]));
        fill(blocks[i], len_bytes, i);
    }
    assert_null(pool_check());
    for (size_t i = 0; i < 2 * N_SIZES; i++) {
        size_t len_bytes = page_rounded(sizes_bytes[i / 2]);
        assert_true(holds(blocks[i], len_bytes, len_bytes, i));
    }
    for (size_t i = 0; i < 2 * N_SIZES; i += 2)
        hak_free(blocks[i]);
    for (size_t i = 1; i < 2 * N_SIZES; i += 2) {
        size_t len_bytes = page_rounded(sizes_bytes[i / 2]);
        assert_true(holds(blocks[i], len_bytes, len_bytes, i));
        hak_free(blocks[i]);
    }
}

static void every_alignment_is_kept(void **state)
{
    (void)state;
    static const size_t aligned_sizes_bytes[] = {1, 4097, 32 * KIB + 1, 100 * KIB, MIB, MIB + 1, 2 * MIB, 5 * MIB + 3};
    for (size_t alignment = 8; alignment <= GIB; alignment *= 2) {
        for (size_t i = 0; i < sizeof aligned_sizes_bytes / sizeof aligned_sizes_bytes[0]; i++) {
            size_t size_bytes = aligned_sizes_bytes[i];
            unsigned char *two[2];
            for (unsigned k = 0; k < 2; k++) {
                two[k] = hak_aligned_alloc(alignment, size_bytes);
                assert_non_null(two[k]);
                assert_int_equal((uintptr_t)two[k] & (alignment - 1), 0);
                assert_true(hak_usable_size(two[k]) >= size_bytes);
                fill(two[k], hak_usable_size(two[k]), k);
            }
            for (unsigned k = 0; k < 2; k++) {
                size_t len_bytes = hak_usable_size(two[k]);
                assert_true(holds(two[k], len_bytes, len_bytes, k));
                /* Resized, it is a block like any other. */
                unsigned char *resized = hak_realloc(two[k], size_bytes + 70000);
                assert_non_null(resized);
                assert_true(holds(resized, len_bytes, size_bytes & ~(size_t)7, k));
                hak_free(resized);
            }
        }
    }
}

/* ---- Resizing ------------------------------------------------------------------------------------------------------ */

static void contents_survive_every_resize(void **state)
{
    (void)state;
    static const size_t ladder_bytes[] = {1000,    32 * KIB, 32 * KIB + 1, 64 * KIB,     64 * KIB + 1, 300000,      MIB,
                                          MIB + 1, 2 * MIB,  2 * MIB + 1,  5 * MIB + 77, 8 * MIB,      20 * MIB + 9};
    enum { N_STEPS = sizeof ladder_bytes / sizeof ladder_bytes[0] };
    for (unsigned wall = 0; wall < 2; wall++) { /* with a wall behind the block it has to move */
        for (size_t from = 0; from < N_STEPS; from++) {
            for (size_t to = 0; to < N_STEPS; to++) {
                size_t old_bytes = ladder_bytes[from], new_bytes = ladder_bytes[to];
                unsigned char *block = hak_malloc(old_bytes);
                assert_non_null(block);
                void *behind = wall ? hak_malloc(old_bytes) : NULL;
                fill(block, old_bytes, from * 100 + to);
                unsigned char *resized = hak_realloc(block, new_bytes);
                assert_non_null(resized);
                size_t kept_bytes = min_size(old_bytes, new_bytes);
                if (!holds(resized, old_bytes, kept_bytes, from * 100 + to))
                    fail_msg("%zu to %zu bytes: contents lost", old_bytes, new_bytes);
                assert_true(hak_usable_size(resized) >= new_bytes);
                if (new_bytes > CLASS_LIMIT_BYTES)
                    assert_int_equal(hak_usable_size(resized), page_rounded(new_bytes));
                fill(resized, new_bytes, 5);
                assert_true(holds(resized, new_bytes, new_bytes, 5));
                hak_free(behind);
                hak_free(resized);
            }
        }
    }
}

static void steady_growth_keeps_contents(void **state)
{
    (void)state;
    size_t len_bytes = 30000;
    unsigned char *block = hak_malloc(len_bytes);
    fill(block, len_bytes, 1);
    while (len_bytes < 64 * MIB) {
        size_t new_bytes = len_bytes + len_bytes / 3 + 4095;
        block = hak_realloc(block, new_bytes);
        assert_non_null(block);
        assert_true(holds(block, len_bytes, len_bytes, 1));
        len_bytes = new_bytes;
        fill(block, len_bytes, 1);
    }
    while (len_bytes > 1000) {
        size_t new_bytes = len_bytes / 2 - 3;
        block = hak_realloc(block, new_bytes);
        assert_non_null(block);
        assert_true(holds(block, len_bytes, new_bytes, 1));
        len_bytes = new_bytes;
        fill(block, len_bytes, 1);
    }
    hak_free(block);
}

/* What the longest spans leave of their SuperSlabs serves shorter ones; and what a run left in memory serves such a span. */
static void long_spans_share_superslabs(void **state)
{
    (void)state;
    unsigned char *longer[4], *shorter[4];
    hak_trim(HAK_TRIM_PAGES);
    for (unsigned i = 0; i < 4; i++) {
        longer[i] = hak_malloc(SPAN_MAX_BYTES - 8 * SLAB_BYTES * (i % 2));
        assert_non_null(longer[i]);
        fill(longer[i], SPAN_MAX_BYTES - 8 * SLAB_BYTES * (i % 2), i);
    }
    uint64_t mapped_bytes = read_stats().mapped_bytes;
    for (unsigned i = 0; i < 4; i++) {
        shorter[i] = hak_malloc((i % 2 == 0 ? 1 : 9) * SLAB_BYTES);
        assert_non_null(shorter[i]);
        fill(shorter[i], SLAB_BYTES, i + 4);
    }
    assert_int_equal(read_stats().mapped_bytes, mapped_bytes);
    for (unsigned i = 0; i < 4; i++) {
        assert_true(holds(longer[i], SPAN_MAX_BYTES - 8 * SLAB_BYTES * (i % 2), SPAN_MAX_BYTES / 2, i));
        assert_true(holds(shorter[i], SLAB_BYTES, SLAB_BYTES, i + 4));
        hak_free(longer[i]);
        hak_free(shorter[i]);
    }
    hak_trim(HAK_TRIM_PAGES);
    unsigned char *run = hak_malloc(6 * MIB);
    fill(run, 6 * MIB, 9);
    hak_free(run);
    mapped_bytes = read_stats().mapped_bytes;
    unsigned char *block = hak_malloc(SPAN_MAX_BYTES / 2 + SLAB_BYTES);
    assert_true(block >= run && block < run + 6 * MIB);
    assert_int_equal(read_stats().mapped_bytes, mapped_bytes);
    hak_free(block);
    block = hak_calloc(1, SPAN_MAX_BYTES);
    assert_true(is_zero(block, SPAN_MAX_BYTES));
    hak_free(block);
    hak_trim(HAK_TRIM_PAGES);
}

/* With nothing behind it a span grows to 16 slabs, and a run on, without moving; shrinking never moves either. */
static void grows_in_place_when_there_is_room(void **state)
{
    (void)state;
    hak_trim(HAK_TRIM_PAGES);
    /* The first span of a fresh SuperSlab has 31 free slabs behind it: 2 MiB of alignment gives slot 0. */
    unsigned char *block = hak_aligned_alloc(2 * MIB, 40 * KIB);
    assert_non_null(block);
    fill(block, 40 * KIB, 3);
    for (size_t n = 1; n <= SPAN_GROWN_MAX_SLABS; n++) {
        unsigned char *grown = hak_realloc(block, n * SLAB_BYTES);
        assert_ptr_equal(grown, block);
        assert_true(holds(block, 40 * KIB, 40 * KIB, 3));
        assert_int_equal(hak_usable_size(block), n * SLAB_BYTES);
        memset(block + 40 * KIB, (int)n, n * SLAB_BYTES - 40 * KIB);
        assert_null(pool_check());
    }
    assert_false(large_resize(block, 17 * SLAB_BYTES)); /* what grows beyond becomes a run */
    for (size_t n = SPAN_GROWN_MAX_SLABS; n >= 1; n--) {
        assert_ptr_equal(hak_realloc(block, n * SLAB_BYTES), block);
        assert_int_equal(hak_usable_size(block), n * SLAB_BYTES);
        assert_null(pool_check());
    }
    assert_true(holds(block, 40 * KIB, 40 * KIB, 3));
    /* A neighbour in the next slab stops it. */
    void *neighbour = NULL, *others[64];
    unsigned n_others = 0;
    while (n_others < 64 && neighbour == NULL) {
        void *other = hak_malloc(64 * KIB);
        others[n_others++] = other;
        if ((unsigned char *)other == block + SLAB_BYTES)
            neighbour = other;
    }
    assert_non_null(neighbour);
    assert_false(large_resize(block, 2 * SLAB_BYTES));
    unsigned char *moved = hak_realloc(block, 2 * SLAB_BYTES);
    assert_non_null(moved);
    assert_ptr_not_equal(moved, block);
    assert_true(holds(moved, 40 * KIB, 40 * KIB, 3));
    hak_free(moved);
    while (n_others > 0)
        hak_free(others[--n_others]);

    block = hak_malloc(MIB);
    assert_non_null(block = hak_realloc(block, MIB + 1));
    assert_int_equal(read_stats().runs, 1);
    for (size_t len_bytes = MIB + 1; len_bytes <= 2 * MIB; len_bytes += 100000)
        assert_ptr_equal(hak_realloc(block, len_bytes), block);
    hak_free(block);

    hak_trim(HAK_TRIM_PAGES);
    /* The last run below the arena's end of use has free SuperSlabs behind it. */
    unsigned char *run = hak_malloc(200 * MIB);
    assert_non_null(run);
    fill(run, 3 * MIB, 4);
    assert_ptr_equal(hak_realloc(run, 3 * MIB), run);
    for (size_t len_bytes = 4 * MIB; len_bytes < 40 * MIB; len_bytes += 1500000) {
        assert_ptr_equal(hak_realloc(run, len_bytes), run);
        assert_true(holds(run, 3 * MIB, 3 * MIB, 4));
        assert_int_equal(hak_usable_size(run), page_rounded(len_bytes));
        run[len_bytes - 1] = 1;
        assert_null(pool_check());
    }
    hak_free(run);
}

/* What a run grows by where it lies is part of it, be it one SuperSlab or more. */
static void what_a_run_grows_by_is_its_own(void **state)
{
    (void)state;
    for (uint32_t n = 1; n <= 3; n++) {
        char *run = hak_malloc(4 * MIB);
        assert_non_null(run);
        memset(run, 1, 4 * MIB);
        hak_trim(HAK_TRIM_PAGES); /* what lies behind it is nobody's */
        assert_true(large_resize(run, 4 * MIB + n * SUPERSLAB_BYTES));
        struct superslab *ss = superslab_of(run);
        assert_int_equal(ss->run_superslabs, 2 + n);
        for (uint32_t i = 0; i < 2 + n; i++)
            assert_int_equal(ss[i].state, i == 0 ? SUPERSLAB_RUN : SUPERSLAB_RUN_BODY);
        memset(run + 4 * MIB, 2, n * SUPERSLAB_BYTES);
        assert_int_equal(hak_usable_size(run), 4 * MIB + n * SUPERSLAB_BYTES);
        assert_null(pool_check());
        hak_free(run);
    }
}

static void realloc_to_nothing_frees(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_SIZES; i++) {
        void *block = hak_malloc(sizes_bytes[i]);
        assert_non_null(block);
        errno = 7;
        assert_null(hak_realloc(block, 0));
        assert_int_equal(errno, 7);
        assert_all_gone();
    }
}

/* ---- Zeroes -------------------------------------------------------------------------------------------------------- */

static void assert_calloc_is_zero(size_t size_bytes, const char *when)
{
    unsigned char *block = hak_calloc(1, size_bytes);
    assert_non_null(block);
    if (!is_zero(block, size_bytes))
        fail_msg("calloc of %zu bytes is not zero: %s", size_bytes, when);
    memset(block, 0xee, hak_usable_size(block));
    hak_free(block);
}

static void calloc_clears_what_was_used(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_SIZES; i++) {
        /* From slots that spans and slabs left, */
        void *dirty[8];
        for (unsigned k = 0; k < 8; k++) {
            dirty[k] = hak_malloc(k % 2 == 0 ? 60 * KIB + k * 50000 : 20000);
            memset(dirty[k], 0xdd, hak_usable_size(dirty[k]));
        }
        for (unsigned k = 0; k < 8; k++)
            hak_free(dirty[k]);
        assert_calloc_is_zero(sizes_bytes[i], "after spans and slabs");
        assert_calloc_is_zero(sizes_bytes[i], "after itself: an empty slot, or the LRU cache");
        /* from the LRU cache, */
        uint64_t from_lru = read_stats().stage_lru;
        void *run = hak_malloc(4 * MIB);
        memset(run, 0xdd, 4 * MIB);
        hak_free(run);
        assert_calloc_is_zero(4 * MIB, "after a run of the same length");
        assert_true(read_stats().stage_lru > from_lru);
        assert_calloc_is_zero(sizes_bytes[i], "after a run");
        /* from trimmed memory, */
        hak_trim((int)(i % 3));
        assert_calloc_is_zero(sizes_bytes[i], "after a trim");
    }
}

static void calloc_is_zero_after_page_moves(void **state)
{
    (void)state;
    for (unsigned round = 0; round < 6; round++) {
        unsigned char *block = hak_malloc(2 * MIB + 1), *walls[8];
        memset(block, 0xcc, 2 * MIB + 1);
        size_t len_bytes = 2 * MIB + 1;
        for (unsigned k = 0; k < 8; k++) {
            walls[k] = hak_malloc(2 * MIB); /* What lies behind is taken: the block moves by its pages. */
            memset(walls[k], 0xcc, 2 * MIB);
            size_t new_bytes = len_bytes + (2 + round) * MIB + 3;
            block = hak_realloc(block, new_bytes);
            assert_non_null(block);
            for (size_t at = 0; at < len_bytes; at += 1021)
                assert_int_equal(block[at], 0xcc);
            memset(block, 0xcc, new_bytes);
            len_bytes = new_bytes;
        }
        hak_free(block);
        for (unsigned k = 0; k < 8; k++)
            hak_free(walls[k]);
        for (size_t i = 0; i < N_SIZES; i++)
            assert_calloc_is_zero(sizes_bytes[i], "after moves");
        unsigned char *held[12]; /* all at once, so that every SuperSlab that was moved from or to comes up again */
        for (unsigned k = 0; k < 12; k++) {
            assert_non_null(held[k] = hak_calloc(3 + k, MIB));
            assert_true(is_zero(held[k], (3 + k) * MIB));
            memset(held[k], 0xcc, (3 + k) * MIB);
        }
        for (unsigned k = 0; k < 12; k++)
            hak_free(held[k]);
        if (round % 2 == 1)
            hak_trim(HAK_TRIM_PAGES);
    }
}

/* What a run gives up when it shrinks, and what it gets when it grows again, does not mix up with a neighbour's. */
static void shrunk_runs_leave_zeroes_to_calloc(void **state)
{
    (void)state;
    for (unsigned round = 0; round < 10; round++) {
        unsigned char *run = hak_malloc(20 * MIB);
        memset(run, 0xbb, 20 * MIB);
        unsigned char *shrunk = hak_realloc(run, 3 * MIB);
        assert_ptr_equal(shrunk, run);
        unsigned char *zeroed = hak_calloc(1, 10 * MIB);
        assert_true(is_zero(zeroed, 10 * MIB));
        memset(zeroed, 0xaa, 10 * MIB);
        run = hak_realloc(run, 20 * MIB);
        assert_non_null(run);
        for (size_t at = 0; at < 3 * MIB; at += 509)
            assert_int_equal(run[at], 0xbb);
        memset(run, 0xbb, 20 * MIB);
        for (size_t at = 0; at < 10 * MIB; at += 509)
            assert_int_equal(zeroed[at], 0xaa);
        hak_free(zeroed);
        hak_free(run);
    }
}

/* The run before reached further into the SuperSlab than the one that shrinks: what it left there is not zero either. */
static void shrinking_a_run_in_a_used_superslab_hides_nothing(void **state)
{
    (void)state;
    unsigned char *run = hak_malloc(2 * MIB);
    memset(run, 0xbb, 2 * MIB);
    hak_free(run);
    unsigned char *shorter = hak_malloc(2 * MIB - 64 * KIB);
    assert_ptr_equal(shorter, run); /* from the LRU cache, as it was left */
    assert_ptr_equal(hak_realloc(shorter, MIB + 64 * KIB), run);
    hak_free(shorter);
    unsigned char *zeroed = hak_calloc(1, 2 * MIB - 64 * KIB);
    assert_ptr_equal(zeroed, run);
    assert_true(is_zero(zeroed, 2 * MIB - 64 * KIB));
    hak_free(zeroed);
}

/* ---- Refusals ------------------------------------------------------------------------------------------------------ */

static void interior_pointers_are_refused(void **state)
{
    (void)state;
    static const size_t lengths_bytes[] = {100 * KIB, MIB, 5 * MIB};
    int on_stack;
    assert_false(large_return(&on_stack));
    assert_false(large_return(NULL));
    assert_int_equal(large_usable_bytes(&on_stack), 0);
    for (size_t i = 0; i < 3; i++) {
        size_t len_bytes = lengths_bytes[i];
        char *block = hak_malloc(len_bytes);
        assert_non_null(block);
        memset(block, 0x11, len_bytes);
        static const size_t offsets_bytes[] = {
            1, 8, 16, 4096, SLAB_BYTES - 16, SLAB_BYTES, SUPERSLAB_BYTES, SUPERSLAB_BYTES + SLAB_BYTES};
        for (size_t k = 0; k < sizeof offsets_bytes / sizeof offsets_bytes[0]; k++) {
            if (offsets_bytes[k] >= len_bytes)
                continue;
            assert_false(large_return(block + offsets_bytes[k]));
            assert_int_equal(large_usable_bytes(block + offsets_bytes[k]), 0);
            assert_false(large_resize(block + offsets_bytes[k], 2 * len_bytes));
        }
        assert_int_equal(large_usable_bytes(block), page_rounded(len_bytes));
        for (size_t at = 0; at < len_bytes; at++)
            assert_int_equal(block[at], 0x11);
        assert_true(large_return(block));
        assert_false(large_return(block)); /* freed twice */
        assert_int_equal(large_usable_bytes(block), 0);
    }
    void *small = hak_malloc(100);
    assert_false(large_return(small));
    assert_int_equal(large_usable_bytes(small), 0);
    hak_free(small);
}

static void assert_refused(size_t size_bytes, size_t alignment)
{
    errno = 0;
    assert_null(hak_malloc(size_bytes));
    assert_int_equal(errno, ENOMEM);
    errno = 0;
    assert_null(hak_calloc(1, size_bytes));
    assert_int_equal(errno, ENOMEM);
    errno = 0;
    assert_null(hak_aligned_alloc(alignment, size_bytes));
    assert_int_equal(errno, ENOMEM);
    char *block = hak_malloc(100 * KIB);
    memset(block, 0x22, 100 * KIB);
    errno = 0;
    assert_null(hak_realloc(block, size_bytes));
    assert_int_equal(errno, ENOMEM);
    for (size_t at = 0; at < 100 * KIB; at++)
        assert_int_equal(block[at], 0x22);
    hak_free(block);
}

/* Whether the system promises memory without looking at what it has: then 32 TiB may be granted. */
static bool system_promises_anything(void)
{
    char text[8] = "";
    int fd = open("/proc/sys/vm/overcommit_memory", O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return true;
    ssize_t len = read(fd, text, sizeof text - 1);
    close(fd);
    return len <= 0 || text[0] == '1';
}

static void the_impossible_costs_nothing(void **state)
{
    (void)state;
    assert_refused(SIZE_MAX, 1); /* warms up */
    hak_trim(HAK_TRIM_PAGES);
    uint32_t high = 0;
    for (struct arena *arena = arena_first(); arena != NULL; arena = arena_next(arena))
        high += arena->high;
    struct hak_stats before = read_stats();
    size_t rss_before_bytes = rss_bytes();
    for (unsigned i = 0; i < 50; i++) {
        assert_refused(PTRDIFF_MAX, 64 * KIB);
        assert_refused((size_t)PTRDIFF_MAX + 1, 64);
        assert_refused(SIZE_MAX, 1);
        assert_refused(SIZE_MAX - 4096, 4096);
        assert_refused((size_t)1 << ADDRESS_BITS, GIB);
        assert_refused((size_t)1 << 62, 16);
        if (!system_promises_anything())
            assert_refused((size_t)1 << 45, 4 * MIB);
        errno = 0;
        assert_null(hak_calloc(SIZE_MAX / 2, 3));
        assert_int_equal(errno, ENOMEM);
        assert_null(hak_calloc((size_t)1 << 32, (size_t)1 << 32));
    }
    uint32_t high_now = 0;
    for (struct arena *arena = arena_first(); arena != NULL; arena = arena_next(arena))
        high_now += arena->high;
    struct hak_stats after = read_stats();
    assert_true(high_now <= high + 1); /* the small block of assert_refused */
    assert_int_equal(after.arenas, before.arenas);
    assert_true(after.committed_bytes <= before.committed_bytes + 2 * SUPERSLAB_BYTES);
    if (RSS_IS_OURS)
        assert_true(rss_bytes() <= rss_before_bytes + MIB);
}

/* ---- Traffic ------------------------------------------------------------------------------------------------------- */

struct traffic {
    pthread_t thread;
    uint64_t random;
    const char *wrong;
};

static uint64_t next_random(struct traffic *t)
{
    t->random ^= t->random << 13;
    t->random ^= t->random >> 7;
    t->random ^= t->random << 17;
    return t->random;
}

static size_t random_size(struct traffic *t)
{
    uint64_t r = next_random(t);
    switch (r % 8) {
    case 0:
        return 1 + r / 8 % (2 * CLASS_LIMIT_BYTES);
    case 1:
        return MIB + 1 + r / 8 % (4 * MIB);
    case 2:
        return r / 8 % 16 == 0 ? 5 * MIB + r / 128 % (12 * MIB) : MIB - r / 128 % 1000;
    default:
        return CLASS_LIMIT_BYTES + 1 + r / 8 % (MIB - CLASS_LIMIT_BYTES);
    }
}

/* Only the ends of a block are written: that is where neighbours meet. */
static void mark_ends(unsigned char *block, size_t len_bytes, uint64_t seed)
{
    for (size_t i = 0; i < 64 && i < len_bytes; i++) {
        block[i] = (unsigned char)(seed + i);
        block[len_bytes - 1 - i] = (unsigned char)(seed ^ i);
    }
    if (len_bytes >= 128)
        memcpy(block, &seed, sizeof seed);
}

static bool ends_hold(const unsigned char *block, size_t len_bytes, uint64_t seed)
{
    if (len_bytes < 128)
        return true;
    for (size_t i = sizeof seed; i < 64; i++)
        if (block[i] != (unsigned char)(seed + i))
            return false;
    for (size_t i = 0; i < 64; i++)
        if (block[len_bytes - 1 - i] != (unsigned char)(seed ^ i))
            return false;
    return memcmp(block, &seed, sizeof seed) == 0;
}

static void *run_traffic(void *argument)
{
    struct traffic *t = argument;
    enum { N_HELD = 24 };
    struct {
        unsigned char *block;
        size_t len_bytes;
        uint64_t seed;
    } held[N_HELD] = {0};
    for (unsigned step = 0; step < TRAFFIC_STEPS && t->wrong == NULL; step++) {
        unsigned i = (unsigned)(next_random(t) % N_HELD), what = (unsigned)(next_random(t) % 8);
        size_t new_bytes = random_size(t);
        if (held[i].block != NULL && !ends_hold(held[i].block, held[i].len_bytes, held[i].seed)) {
            t->wrong = "contents lost";
        } else if (held[i].block != NULL && what < 4) {
            size_t kept_bytes = min_size(held[i].len_bytes, new_bytes);
            unsigned char *block = hak_realloc(held[i].block, new_bytes);
            if (block == NULL)
                t->wrong = "realloc failed";
            else if (kept_bytes >= 128 && memcmp(block, &held[i].seed, sizeof held[i].seed) != 0)
                t->wrong = "realloc lost the head";
            else if (kept_bytes == held[i].len_bytes && !ends_hold(block, kept_bytes, held[i].seed))
                t->wrong = "realloc lost the tail";
            held[i].block = block;
        } else {
            hak_free(held[i].block);
            if (what == 4)
                held[i].block = hak_calloc(1, new_bytes);
            else if (what == 5)
                held[i].block = hak_aligned_alloc((size_t)1 << next_random(t) % 22, new_bytes);
            else
                held[i].block = hak_malloc(new_bytes);
            if (held[i].block == NULL)
                t->wrong = "no memory";
            else if (what == 4 && !is_zero(held[i].block, new_bytes))
                t->wrong = "calloc is not zero";
        }
        if (t->wrong != NULL)
            return NULL;
        held[i].len_bytes = new_bytes;
        held[i].seed = next_random(t);
        mark_ends(held[i].block, new_bytes, held[i].seed);
        if (hak_usable_size(held[i].block) < new_bytes)
            t->wrong = "usable size below the request";
        if (step % 1000 == 999)
            hak_trim((int)(step / 1000 % 3));
    }
    for (unsigned i = 0; i < N_HELD; i++) {
        if (held[i].block != NULL && !ends_hold(held[i].block, held[i].len_bytes, held[i].seed))
            t->wrong = "contents lost at the end";
        hak_free(held[i].block);
    }
    return NULL;
}

static void four_threads_of_traffic(void **state)
{
    (void)state;
    struct traffic traffic[4] = {0};
    for (unsigned i = 0; i < 4; i++) {
        traffic[i].random = 0x9e3779b97f4a7c15u * (i + 1);
        assert_int_equal(pthread_create(&traffic[i].thread, NULL, run_traffic, &traffic[i]), 0);
    }
    for (unsigned i = 0; i < 4; i++)
        pthread_join(traffic[i].thread, NULL);
    for (unsigned i = 0; i < 4; i++)
        if (traffic[i].wrong != NULL)
            fail_msg("thread %u: %s", i, traffic[i].wrong);
    assert_all_gone();
    hak_trim(HAK_TRIM_PAGES);
    assert_all_gone();
    assert_int_equal(read_stats().superslabs_cached, 0);
}

#define TEST(name) cmocka_unit_test_teardown(name, every_test_ends_clean)

int main(void)
{
    hak_free(hak_malloc(1));
    const struct CMUnitTest tests[] = {
        TEST(every_size_is_served),
        TEST(neighbours_keep_apart),
        TEST(every_alignment_is_kept),
        TEST(contents_survive_every_resize),
        TEST(steady_growth_keeps_contents),
        TEST(long_spans_share_superslabs),
        TEST(grows_in_place_when_there_is_room),
        TEST(what_a_run_grows_by_is_its_own),
        TEST(realloc_to_nothing_frees),
        TEST(calloc_clears_what_was_used),
        TEST(calloc_is_zero_after_page_moves),
        TEST(shrunk_runs_leave_zeroes_to_calloc),
        TEST(shrinking_a_run_in_a_used_superslab_hides_nothing),
        TEST(interior_pointers_are_refused),
        TEST(the_impossible_costs_nothing),
        TEST(four_threads_of_traffic),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
