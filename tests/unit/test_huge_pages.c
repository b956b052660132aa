/* test_huge_pages.c - which SuperSlabs may have huge pages, that what is purged of them really goes, and that contents survive
 * both. The system's own settings decide whether there are huge pages at all: flags and contents hold either way.
 */
#include "hakmem/hakmem.h"
#include "meta/registry.h"
#include "os/os.h"
#include "pool/large.h"
#include "pool/release.h"
#include "pool/shared_pool.h"
#include "service/config.h"
#include "service/stats.h"
#include "left_out.h"
#include "look.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

static int start(void **state)
{
    (void)state;
    hak_free(hak_malloc(1));
    hak_trim(HAK_TRIM_PAGES);
    config.huge_pages = HUGE_PAGES_AUTO;
    return 0;
}

static size_t resident_bytes(const void *address, size_t len_bytes)
{
    static unsigned char in_memory[1 << 16];
    size_t n_pages = len_bytes / os_page_bytes(), n = 0;
    assert_true(n_pages <= sizeof in_memory);
    assert_int_equal(mincore((void *)(uintptr_t)address, len_bytes, in_memory), 0);
    for (size_t i = 0; i < n_pages; i++)
        n += in_memory[i] & 1;
    return n * os_page_bytes();
}

/* Huge pages of the whole process, by the system's own sum. */
static size_t huge_bytes_of_process(void)
{
    char line[256];
    unsigned long kib = 0;
    FILE *file = fopen("/proc/self/smaps_rollup", "r");
    assert_non_null(file);
    while (fgets(line, sizeof line, file) != NULL && sscanf(line, "AnonHugePages: %lu kB", &kib) != 1)
        continue;
    fclose(file);
    return kib * KIB;
}

/* What the system has in memory is what is counted as committed, and huge pages are told where there are some. */
static void the_system_s_figures(void **state)
{
    (void)state;
    struct hak_resident before, now;
    config.huge_pages = HUGE_PAGES_NEVER;
    size_t process_before_bytes = huge_bytes_of_process();
    assert_int_equal(hak_resident_get(&before), 0);
    unsigned char *block = hak_malloc(48 * MIB);
    memset(block, 1, 48 * MIB);
    assert_int_equal(hak_resident_get(&now), 0);
    assert_int_equal(now.resident_bytes - before.resident_bytes, 48 * MIB);
    assert_int_equal(now.huge_bytes, before.huge_bytes);
    assert_true(now.resident_bytes <= stats_read(&stats_counters.committed_bytes));
    hak_free(block);
    hak_trim(HAK_TRIM_PAGES);
    config.huge_pages = HUGE_PAGES_ALWAYS;
    block = hak_malloc(48 * MIB);
    memset(block, 1, 48 * MIB);
    assert_int_equal(hak_resident_get(&now), 0);
    assert_true(now.huge_bytes <= now.resident_bytes); /* how many were to be had depends on the machine */
    assert_int_equal(now.huge_bytes - before.huge_bytes, huge_bytes_of_process() - process_before_bytes);
    hak_free(block);
    hak_trim(HAK_TRIM_PAGES);
    assert_int_equal(hak_resident_get(&now), 0);
    assert_true(now.resident_bytes <= before.resident_bytes + MIB);
}

static void whole_superslabs_of_a_large_block(void **state)
{
    (void)state;
    void *block = hak_malloc(5 * MIB);
    struct superslab *ss = superslab_of(block);
    assert_int_equal(ss[0].huge, 1);
    assert_int_equal(ss[1].huge, 1);
    assert_int_equal(ss[2].huge, 0);
    hak_free(block);
    hak_trim(HAK_TRIM_PAGES);
    for (unsigned i = 0; i < 3; i++)
        assert_int_equal(ss[i].huge, 0);

    block = hak_malloc(65 * MIB);
    assert_int_equal(superslab_of(block)->huge, 0);
    hak_free(block);
    config.huge_pages = HUGE_PAGES_ALWAYS;
    block = hak_malloc(65 * MIB);
    assert_int_equal(superslab_of(block)->huge, 1);
    hak_free(block);
    hak_trim(HAK_TRIM_PAGES);
    config.huge_pages = HUGE_PAGES_NEVER;
    block = hak_malloc(5 * MIB);
    assert_int_equal(superslab_of(block)->huge, 0);
    hak_free(block);
}

static void a_block_that_grows_and_shrinks(void **state)
{
    (void)state;
    unsigned char *block = hak_malloc(4 * MIB);
    memset(block, 1, 4 * MIB);
    unsigned char *grown = hak_realloc(block, 8 * MIB);
    assert_ptr_equal(grown, block); /* nothing lies behind it */
    struct superslab *ss = superslab_of(block);
    for (unsigned i = 0; i < 4; i++)
        assert_int_equal(ss[i].huge, 1);
    memset(block + 4 * MIB, 2, 4 * MIB);
    assert_ptr_equal(hak_realloc(block, 2 * MIB + 100000), block);
    assert_int_equal(ss[0].huge, 1);
    assert_int_equal(ss[1].huge, 0); /* its tail was purged */
    assert_true(resident_bytes(block + 2 * MIB, 2 * MIB) <= 128 * KIB);
    for (size_t i = 0; i < 2 * MIB + 100000; i++)
        if (block[i] != 1)
            fail_msg("byte %zu is %d", i, block[i]);
    hak_free(block);
}

static void moved_pages_keep_their_advice(void **state)
{
    (void)state;
    unsigned char *block = hak_malloc(4 * MIB), *wall = hak_malloc(2 * MIB);
    memset(block, 3, 4 * MIB);
    unsigned char *moved = hak_realloc(block, 6 * MIB);
    assert_ptr_not_equal(moved, block);
    struct superslab *ss = superslab_of(moved);
    assert_int_equal(ss[0].huge, 1);
    for (size_t i = 0; i < 4 * MIB; i++)
        if (moved[i] != 3)
            fail_msg("byte %zu is %d", i, moved[i]);
    hak_free(moved);
    hak_free(wall);
}

/* A heap above 16 MiB takes its SuperSlabs with huge pages; what becomes empty in them is purged all the same. */
static void a_large_heap(void **state)
{
    (void)state;
    enum { N = 48 * 1024 };
    static unsigned char *blocks[N];
    for (size_t i = 0; i < N; i++) {
        blocks[i] = hak_malloc(1024);
        memset(blocks[i], (int)(i % 251), 1024);
    }
    struct superslab *last = superslab_of(blocks[N - 1]);
    assert_int_equal(superslab_of(blocks[0])->huge, 0);
    assert_int_equal(last->huge, 1);
    /* Every 100th stays: of a SuperSlab's slabs about a third becomes empty. */
    for (size_t i = 0; i < N; i++)
        if (i % 100 != 0)
            hak_free(blocks[i]);
    hak_trim(HAK_TRIM_PAGES);
    assert_int_equal(last->huge, 0);
    struct arena *arena = last->arena;
    size_t len_bytes = (size_t)arena->high << SUPERSLAB_SHIFT, in_memory = resident_bytes(arena->base, len_bytes);
    if (in_memory > 4 * MIB) /* 500 pages hold a survivor each */
        fail_msg("%zu bytes are in memory", in_memory);
    for (size_t i = 0; i < N; i += 100)
        for (unsigned k = 0; k < 1024; k++)
            assert_int_equal(blocks[i][k], i % 251);
    for (size_t i = 0; i < N; i += 100)
        hak_free(blocks[i]);
}

static void *list_of_kibs;

static bool last_is_huge(size_t n_kib)
{
    for (size_t i = 0; i < n_kib; i++) {
        void **block = hak_malloc(1024);
        memset(block, 1, 1024);
        *block = list_of_kibs;
        list_of_kibs = (void *)block;
    }
    return superslab_of(list_of_kibs)->huge != 0;
}

/* What a fork's child shares with its parent does not make it large. */
static void a_child_of_fork_is_small(void **state)
{
    (void)state;
    int status;
    assert_true(last_is_huge(48 * KIB));
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0)
        _exit(last_is_huge(10 * KIB) ? 1 : last_is_huge(38 * KIB) ? 0 : 2);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    while (list_of_kibs != NULL) {
        void **next = *(void **)list_of_kibs;
        hak_free(list_of_kibs);
        list_of_kibs = (void *)next;
    }
    assert_int_equal(status, 0);
}

/* Whether the system may use huge pages there, by madvise. False, too, where it does not tell. */
static bool is_advised(const void *address)
{
    char line[512];
    unsigned long from, to;
    bool there = false, advised = false;
    FILE *file = fopen("/proc/self/smaps", "r");
    assert_non_null(file);
    while (fgets(line, sizeof line, file) != NULL)
        if (sscanf(line, "%lx-%lx ", &from, &to) == 2)
            there = (uintptr_t)address >= from && (uintptr_t)address < to;
        else if (there && strncmp(line, "VmFlags:", 8) == 0)
            advised = strstr(line, " hg") != NULL;
    fclose(file);
    return advised;
}

/* What a program has asked for ends when its block goes back. */
static void advice_of_the_program_s(void **state)
{
    (void)state;
    config.huge_pages = HUGE_PAGES_NEVER;
    char *block = hak_malloc(6 * MIB);
    assert_false(is_advised(block));
    if (madvise(block, 6 * MIB, MADV_HUGEPAGE) != 0 || !is_advised(block))
        leave_out(); /* none here */
    memset(block, 1, 6 * MIB);
    hak_free(block);
    hak_trim(HAK_TRIM_PAGES);
    for (unsigned i = 0; i < 3; i++)
        assert_false(is_advised(block + 2 * MIB * i));
}

/* 50 MiB of blocks of len_bytes of which so much is touched, and behind each so many small ones: how many of their SuperSlabs have huge
 * pages. Those that are left for asking have none. */
static unsigned huge_superslabs(size_t len_bytes, size_t touched_bytes, unsigned n_small)
{
    enum { N = 400, N_SMALL = 64 };
    static unsigned char *blocks[N];
    static void *small[N][N_SMALL];
    unsigned n = (unsigned)(50 * MIB / len_bytes), n_huge = 0;
    const struct superslab *before = NULL;
    assert_true(n <= N && n_small <= N_SMALL);
    for (unsigned i = 0; i < n; i++) {
        blocks[i] = hak_malloc(len_bytes);
        memset(blocks[i], (int)(i % 251), touched_bytes);
        for (unsigned k = 0; k < n_small; k++)
            memset(small[i][k] = hak_malloc(2000), 1, 2000);
        const struct superslab *ss = superslab_of(blocks[i]);
        if (ss != before && ss->huge) {
            n_huge++;
            assert_int_not_equal(ss->index % 8, 7);
        }
        before = ss;
    }
    for (unsigned i = 0; i < n; i++) {
        for (size_t k = 0; k < touched_bytes; k++)
            if (blocks[i][k] != i % 251)
                fail_msg("byte %zu of block %u is %d", k, i, blocks[i][k]);
        hak_free(blocks[i]);
        for (unsigned k = 0; k < n_small; k++)
            hak_free(small[i][k]);
    }
    hak_trim(HAK_TRIM_PAGES);
    return n_huge;
}

static void spans_that_are_touched(void **state)
{
    (void)state;
    leave_out_where_nobody_may_ask();
    assert_in_range(huge_superslabs(128 * KIB, 128 * KIB, 0), 8, 24);
    assert_int_equal(huge_superslabs(128 * KIB, 96 * KIB, 0), 0);
    assert_int_equal(hak_budget_set(512 * MIB, 512 * MIB), 0);
    assert_int_equal(huge_superslabs(128 * KIB, 128 * KIB, 0), 0);
    assert_int_equal(hak_budget_set(0, 0), 0);
    config.background = false; /* then the system is not asked */
    assert_int_equal(huge_superslabs(128 * KIB, 128 * KIB, 0), 0);
    config.background = true;
    config.huge_pages = HUGE_PAGES_NEVER;
    assert_int_equal(huge_superslabs(128 * KIB, 128 * KIB, 0), 0);
}

/* Each in a SuperSlab of its own: what lies behind the shorter ones is nobody's. */
static void spans_that_leave_gaps(void **state)
{
    (void)state;
    leave_out_where_nobody_may_ask();
    assert_int_equal(huge_superslabs(1300 * KIB, 1300 * KIB, 0), 0);
    assert_in_range(huge_superslabs(1920 * KIB, 1920 * KIB, 0), 8, 24);
}

/* Six of these take 30 slots of 32: so much may be lost where the heap is small. */
static void spans_that_leave_gaps_in_a_larger_heap(void **state)
{
    (void)state;
    leave_out_where_nobody_may_ask();
    enum { LEN_BYTES = 300000, N = 1200, LEAST = 128 }; /* SuperSlabs from that on */
    static unsigned char *blocks[N];
    unsigned n_huge = 0, n_behind = 0;
    const struct superslab *before = NULL;
    for (unsigned i = 0; i < N; i++) {
        blocks[i] = hak_malloc(LEN_BYTES);
        memset(blocks[i], 1, LEN_BYTES);
        const struct superslab *ss = superslab_of(blocks[i]);
        n_huge += ss != before && ss->index < LEAST && ss->huge;
        n_behind += ss->index >= LEAST;
        if (ss->index >= LEAST)
            assert_int_equal(ss->huge, 0);
        before = ss;
    }
    assert_in_range(n_huge, LEAST / 2, LEAST);
    assert_in_range(n_behind, 100, N);
    for (unsigned i = 0; i < N; i++)
        hak_free(blocks[i]);
    hak_trim(HAK_TRIM_PAGES);
}

/* Slabs that are filled would have huge pages, were it not for the spans that would be in them, too. */
static void spans_beside_slabs(void **state)
{
    (void)state;
    leave_out_where_nobody_may_ask();
    assert_in_range(huge_superslabs(128 * KIB, 128 * KIB, 64), 8, 50);
    assert_int_equal(huge_superslabs(128 * KIB, 16 * KIB, 64), 0);
}

/* In memory with the rest of a huge page is what was never handed out: it goes when the rest is left alone. */
static void slots_that_were_never_used(void **state)
{
    (void)state;
    leave_out_where_nobody_may_ask();
    void *block[64];
    unsigned n = 0;
    struct superslab *ss;
    config.huge_pages = HUGE_PAGES_ALWAYS;
    do {
        assert_non_null(block[n] = hak_malloc(128 * KIB));
        memset(block[n], 7, 128 * KIB);
        ss = superslab_of(block[n]);
    } while (!ss->huge && ++n < 63);
    assert_true(ss->huge);
    assert_true(count_bits(ss->unused_slots) > SUPERSLAB_SLABS / 2);
    for (unsigned i = 0; i < 4; i++)
        shared_pool_tick();
    assert_false(ss->huge);
    assert_in_range(resident_bytes(superslab_memory(ss), SUPERSLAB_BYTES), 128 * KIB, 256 * KIB);
    assert_null(pool_check());
    for (unsigned i = 0; i < 128 * KIB; i++)
        assert_int_equal(((unsigned char *)block[n])[i], 7);
    for (unsigned i = 0; i <= n; i++)
        hak_free(block[i]);
    hak_trim(HAK_TRIM_PAGES);
}

static void zeroed_memory(void **state)
{
    (void)state;
    for (unsigned round = 0; round < 4; round++) {
        static const size_t sizes[] = {2 * MIB, 5 * MIB, 3 * MIB + 1, 9 * MIB};
        void *held[4];
        for (unsigned k = 0; k < 4; k++) {
            unsigned char *block = held[k] = hak_calloc(1, sizes[k]);
            assert_non_null(block);
            for (size_t i = 0; i < sizes[k]; i++)
                if (block[i] != 0)
                    fail_msg("round %u: byte %zu of %zu is %d", round, i, sizes[k], block[i]);
            memset(block, 0xa5, sizes[k]);
        }
        for (unsigned k = 0; k < 4; k++)
            hak_free(held[(k + round) % 4]);
    }
}

/* A block apart takes no huge page along, however many of those are about, and such blocks keep each other company. */
static void blocks_apart(void **state)
{
    (void)state;
    enum { N_BLOCKS = 20000, N_APART = 40 };
    static void *block[N_BLOCKS];
    void *apart[N_APART];
    bool zeroed;
    config.huge_pages = HUGE_PAGES_ALWAYS;
    hak_trim(HAK_TRIM_PAGES);
    for (unsigned i = 0; i < N_BLOCKS; i++)
        assert_non_null(block[i] = hak_malloc(1000));
    assert_true(superslab_of(block[N_BLOCKS - 1])->huge);
    for (unsigned i = 0; i < N_APART; i++) {
        apart[i] = large_claim(i * 1000 + 1, 16, LARGE_APART, &zeroed);
        assert_non_null(apart[i]);
        memset(apart[i], 1, i * 1000 + 1);
        assert_false(superslab_of(apart[i])->huge);
        if (i > 0 && i < SUPERSLAB_SLABS - 1)
            assert_ptr_equal(superslab_of(apart[i]), superslab_of(apart[i - 1]));
    }
    assert_null(pool_check());
    for (unsigned i = 0; i < N_APART; i++)
        assert_true(large_return(apart[i]));
    for (unsigned i = 0; i < N_BLOCKS; i++)
        hak_free(block[i]);
    assert_null(pool_check());
    hak_trim(HAK_TRIM_PAGES);
}

/* Large blocks of which hardly anything is touched get huge pages up to a bound; others do beside them, once some are filled. */
/* But for the first SuperSlab, which may tell how densely the others are used, and the last. */
static bool has_huge_pages(const void *block)
{
    return superslab_of(block)[1].huge;
}

static void runs_that_stay_empty(void **state)
{
    (void)state;
    leave_out_where_nobody_may_ask();
    enum { N = 60, BLOCK_BYTES = 8 * MIB };
    unsigned char *block[N];
    unsigned n_huge = 0;
    for (unsigned i = 0; i < N; i++) {
        block[i] = hak_malloc(BLOCK_BYTES);
        block[i][0] = 1;
        n_huge += has_huge_pages(block[i]);
    }
    assert_in_range(n_huge, 1, N / 3);
    for (unsigned i = 0; i < N; i++)
        if (has_huge_pages(block[i]))
            memset(block[i], 2, BLOCK_BYTES);
    for (unsigned i = 0; i < N; i++) {
        if (has_huge_pages(block[i]))
            continue;
        hak_free(block[i]);
        block[i] = NULL;
    }
    hak_trim(HAK_TRIM_PAGES);
    /* a refusal holds for 10 ms */
    usleep(50000);
    for (unsigned i = 0; i < N; i++) { /* each is filled before the next one comes */
        if (block[i] != NULL)
            continue;
        block[i] = hak_malloc(BLOCK_BYTES);
        assert_true(has_huge_pages(block[i]));
        memset(block[i], 3, BLOCK_BYTES);
    }
    for (unsigned i = 0; i < N; i++)
        hak_free(block[i]);
    hak_trim(HAK_TRIM_PAGES);
    for (unsigned i = 0; i < N; i++) { /* those that are gone do not count */
        block[i] = hak_malloc(BLOCK_BYTES);
        assert_true(has_huge_pages(block[i]));
        block[i][0] = 4;
        hak_free(block[i]);
        hak_trim(HAK_TRIM_PAGES);
    }
    assert_null(pool_check());
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(the_system_s_figures, start),
        cmocka_unit_test_setup(whole_superslabs_of_a_large_block, start),
        cmocka_unit_test_setup(a_block_that_grows_and_shrinks, start),
        cmocka_unit_test_setup(moved_pages_keep_their_advice, start),
        cmocka_unit_test_setup(a_large_heap, start),
        cmocka_unit_test_setup(a_child_of_fork_is_small, start),
        cmocka_unit_test_setup(advice_of_the_program_s, start),
        cmocka_unit_test_setup(spans_that_are_touched, start),
        cmocka_unit_test_setup(spans_that_leave_gaps, start),
        cmocka_unit_test_setup(spans_that_leave_gaps_in_a_larger_heap, start),
        cmocka_unit_test_setup(spans_beside_slabs, start),
        cmocka_unit_test_setup(slots_that_were_never_used, start),
        cmocka_unit_test_setup(zeroed_memory, start),
        cmocka_unit_test_setup(blocks_apart, start),
        cmocka_unit_test_setup(runs_that_stay_empty, start),
    };
    return status_with_left_out(cmocka_run_group_tests(tests, NULL, NULL));
}
