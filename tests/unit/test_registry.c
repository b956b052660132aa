/* test_registry.c - two million live blocks in many tiny arenas, and in thousands of SuperSlabs, again and again: addresses find their arena, nothing ever
 * fills up, and all of it goes back.
 * Checked: registry_arena against the ranges of all arenas, foreign addresses, blocks of further arenas in every call of the
 * interface, statistics, resident memory at the end; that the table's size grows by the address space that arenas lie in, and not by
 * rounds, blocks or arenas. (That a look-up costs the same in any heap: tests/scripts/lookup_cost.sh.)
 * Threads  one, and four in the last test. Resident memory is only looked at in builds without sanitizers.
 * ctest: timeout 600
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "front/thread.h"
#include "hakmem/hakmem.h"
#include "meta/registry.h"
#include "os/os.h"
#include "pool/shared_pool.h"
#include "look.h"
#include "process.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#ifdef SANITIZED
enum { RSS_IS_OURS = false };
#else
enum { RSS_IS_OURS = true };
#endif
#if defined(SANITIZED) || defined(HAKMEM_DEBUG_BUILD)
enum { N_ROUNDS = 2 };
#else
enum { N_ROUNDS = 20 };
#endif

#define ARENA_BYTES (8 * MIB)
#define LEAF_BYTES ((uintptr_t)16 * GIB) /* of addresses that one leaf of the registry's table describes */
#define N_BLOCKS ((size_t)2000000)
#define MIN_BYTES 16
#define MAX_BYTES 1039

static unsigned char **blocks; /* mapped, so that the books are no part of any heap */

static size_t size_of_block(size_t i, unsigned round)
{
    return MIN_BYTES + ((i * 0x9e3779b97f4a7c15u + round * 0x85ebca6bu) >> 20) % (MAX_BYTES - MIN_BYTES + 1);
}

static bool lies_in(const struct arena *arena, const void *address, size_t len_bytes)
{
    uintptr_t from = (uintptr_t)address, base = (uintptr_t)arena->base;
    return from >= base && from + len_bytes <= base + arena->len_bytes;
}

static bool is_in_further_arena(const void *address)
{
    const struct arena *arena = registry_arena(address);
    return arena != NULL && arena != arena_first();
}

/* ---- Arenas -------------------------------------------------------------------------------------------------------- */

static size_t count_arenas(void)
{
    size_t n = 0;
    for (struct arena *arena = arena_first(); arena != NULL; arena = arena_next(arena))
        n++;
    return n;
}

/* The most leaves that the table can need: those that the arenas' ranges touch. */
static size_t count_leaf_ranges(void)
{
    static uintptr_t seen[4096];
    size_t n = 0;
    for (struct arena *arena = arena_first(); arena != NULL; arena = arena_next(arena)) {
        for (unsigned end = 0; end < 2; end++) {
            uintptr_t leaf = ((uintptr_t)arena->base + (end != 0 ? arena->len_bytes - 1 : 0)) / LEAF_BYTES;
            size_t i = 0;
            while (i < n && seen[i] != leaf)
                i++;
            if (i == n) {
                assert_true(n < sizeof seen / sizeof seen[0]);
                seen[n++] = leaf;
            }
        }
    }
    return n;
}

/* Every 64 KiB of every arena below its frontier is known as the arena's; ranges are disjoint. */
static void assert_ranges_known(void)
{
    for (struct arena *arena = arena_first(); arena != NULL; arena = arena_next(arena)) {
        assert_int_equal((uintptr_t)arena->base % SUPERSLAB_BYTES, 0);
        size_t known_bytes = (size_t)arena->frontier << SUPERSLAB_SHIFT;
        for (size_t at = 0; at < known_bytes; at += SLAB_BYTES)
            if (registry_arena(arena->base + at) != arena)
                fail_msg("%p is not known as the arena's at %p", (void *)(arena->base + at), (void *)arena->base);
        if (known_bytes != 0)
            assert_ptr_equal(registry_arena(arena->base + known_bytes - 1), arena);
    }
}

static void assert_foreign_unknown(void)
{
    int on_stack = 0;
    static int in_data;
    const void *foreign[] = {&on_stack,
                             &in_data,
                             (const void *)(uintptr_t)&assert_ranges_known,
                             "text",
                             NULL,
                             (const void *)(uintptr_t)1,
                             (const void *)UINTPTR_MAX,
                             (const void *)((uintptr_t)1 << ADDRESS_BITS),
                             (const void *)(((uintptr_t)1 << ADDRESS_BITS) - 1),
                             (const void *)((uintptr_t)1 << (ADDRESS_BITS + 1)),
                             (const void *)((uintptr_t)1 << 63),
                             blocks,
                             blocks + N_BLOCKS - 1};
    for (size_t i = 0; i < sizeof foreign / sizeof foreign[0]; i++) {
        assert_null(registry_arena(foreign[i]));
        assert_int_equal(registry_class_offset(foreign[i]), 0);
    }
}

/* ---- Rounds -------------------------------------------------------------------------------------------------------- */

static void claim_all(unsigned round)
{
    for (size_t i = 0; i < N_BLOCKS; i++) {
        size_t size_bytes = size_of_block(i, round);
        unsigned char *block = hak_malloc(size_bytes);
        if (block == NULL)
            fail_msg("round %u: block %zu of %zu bytes is refused", round, i, size_bytes);
        memcpy(block, &i, sizeof i);
        block[size_bytes - 1] = (unsigned char)i;
        blocks[i] = block;
    }
}

static void assert_each_in_its_arena(unsigned round)
{
    size_t n_further = 0;
    for (size_t i = 0; i < N_BLOCKS; i++) {
        size_t size_bytes = size_of_block(i, round);
        const unsigned char *block = blocks[i];
        const struct arena *arena = registry_arena(block);
        if (arena == NULL || !lies_in(arena, block, size_bytes) || registry_arena(block + size_bytes - 1) != arena)
            fail_msg("round %u: block %zu at %p is not found", round, i, (const void *)block);
        n_further += arena != arena_first();
        if (memcmp(block, &i, sizeof i) != 0 || (size_bytes > sizeof i && block[size_bytes - 1] != (unsigned char)i))
            fail_msg("round %u: block %zu has lost its contents", round, i);
        if (i % 16 == 0)
            assert_true(hak_usable_size(block) >= size_bytes);
    }
    assert_true(n_further > N_BLOCKS * 9 / 10); /* one arena holds less than a hundredth of the heap */
}

/* In another order each round: as claimed, backwards, interleaved. */
static void free_all(unsigned round)
{
    static const size_t strides[] = {1, N_BLOCKS - 1, 999983, 7919}; /* each without a common divisor with N_BLOCKS */
    size_t i = round, stride = strides[round % 4];
    for (size_t n = 0; n < N_BLOCKS; n++) {
        i = (i + stride) % N_BLOCKS;
        hak_free(blocks[i]);
        blocks[i] = NULL;
    }
}

static void two_million_blocks_again_and_again(void **state)
{
    (void)state;
    size_t rss_before_bytes = rss_bytes();
    struct hak_stats before = read_stats();
    assert_int_equal(arena_first()->len_bytes, ARENA_BYTES);
    size_t arenas_before = count_arenas(), arenas_after_first = 0;
    os_fail_from(0, 0, OS_CALL_RESERVE); /* fails nothing, but counts */
    for (unsigned round = 0; round < N_ROUNDS; round++) {
        claim_all(round);
        struct hak_stats full = read_stats();
        assert_true(full.arenas > 100);
        assert_int_equal(full.arenas, count_arenas());
        assert_true(full.superslabs > 400);
        assert_true(full.live_blocks - before.live_blocks == N_BLOCKS);
        assert_each_in_its_arena(round);
        assert_ranges_known();
        assert_foreign_unknown();
        assert_null(pool_check());

        unsigned long n_reserved = os_fail_from(0, 0, OS_CALL_RESERVE);
        /* Three mappings for each new arena, and a leaf for each 16 GiB of addresses that arenas are scattered over; and
         * some for the thread's own records. */
        size_t new_arenas = count_arenas() - arenas_before;
        assert_true(n_reserved <= 3 * new_arenas + count_leaf_ranges() + 16);
        if (round == 0) {
            arenas_after_first = count_arenas();
            assert_true(new_arenas > 100);
        } else { /* What was freed serves again: other sizes need a few per cent more at most. */
            assert_true(count_arenas() <= arenas_after_first + arenas_after_first / 20);
        }
        arenas_before = count_arenas();

        free_all(round);
        assert_int_equal(read_stats().live_blocks, before.live_blocks);
        if (round % 5 == 4)
            hak_trim(HAK_TRIM_PAGES);
        assert_null(pool_check());
    }
    hak_trim(HAK_TRIM_PAGES);
    assert_ranges_known();
    assert_foreign_unknown();
    struct hak_stats after = read_stats();
    assert_int_equal(after.live_blocks, before.live_blocks);
    assert_true(after.superslabs <= before.superslabs + 2);
    assert_int_equal(after.superslabs_cached, 0);
    /* What stays is records: some 9 KiB for each of thousands of slabs, were all of them of the smallest class. */
    if (RSS_IS_OURS)
        assert_true(rss_bytes() <= rss_before_bytes + 64 * MIB);
}

/* ---- Thousands of SuperSlabs ----------------------------------------------------------------------------------------- */

#define BIG_ARENA_BYTES (2 * GIB)
#define BIG_MIN_BYTES 2048
#define BIG_MAX_BYTES 6144

/* Two million blocks that nobody writes to, so that they take addresses and records but hardly memory. */
static void thousands_of_superslabs_again_and_again(void **state)
{
    (void)state;
    hak_trim(HAK_TRIM_PAGES);
    struct hak_stats before = read_stats();
    arena_set_len_bytes(BIG_ARENA_BYTES);
    uint64_t most_superslabs = 0;
    for (unsigned round = 0; round < N_ROUNDS; round++) {
        for (size_t i = 0; i < N_BLOCKS; i++) {
            size_t size_bytes = BIG_MIN_BYTES + i * 7919 % (BIG_MAX_BYTES - BIG_MIN_BYTES + 1);
            blocks[i] = hak_malloc(size_bytes);
            if (blocks[i] == NULL)
                fail_msg("round %u: block %zu of %zu bytes is refused", round, i, size_bytes);
        }
        struct hak_stats full = read_stats();
        assert_int_equal(full.live_blocks - before.live_blocks, N_BLOCKS);
        assert_true(full.superslabs >= 4000);
        if (round == 0)
            most_superslabs = full.superslabs;
        assert_true(full.superslabs <= most_superslabs + most_superslabs / 20);
        for (size_t i = 0; i < N_BLOCKS; i++) {
            const struct arena *arena = registry_arena(blocks[i]);
            if (arena == NULL || !lies_in(arena, blocks[i], BIG_MIN_BYTES))
                fail_msg("round %u: block %zu at %p is not found", round, i, (void *)blocks[i]);
            if (i % 64 == 0)
                assert_true(hak_usable_size(blocks[i]) >=
                            BIG_MIN_BYTES + i * 7919 % (BIG_MAX_BYTES - BIG_MIN_BYTES + 1));
        }
        free_all(round);
        assert_int_equal(read_stats().live_blocks, before.live_blocks);
    }
    assert_null(pool_check());
    hak_trim(HAK_TRIM_PAGES);
    assert_true(read_stats().superslabs <= before.superslabs + 2);
    arena_set_len_bytes(ARENA_BYTES);
}

/* ---- Single blocks of further arenas ------------------------------------------------------------------------------- */

/* A block of the size that lies in a further arena; those before it go to the list. */
static unsigned char *claim_in_further_arena(size_t size_bytes, size_t *n_others)
{
    for (*n_others = 0; *n_others < N_BLOCKS; ++*n_others) {
        unsigned char *block = hak_malloc(size_bytes);
        assert_non_null(block);
        if (is_in_further_arena(block))
            return block;
        blocks[*n_others] = block;
    }
    fail_msg("no block of %zu bytes lies in a further arena", size_bytes);
    return NULL;
}

static void every_call_takes_a_block_of_a_further_arena(void **state)
{
    (void)state;
    static const size_t sizes_bytes[] = {
        8,     16,        100, 1024,    1025,    5000,    32768,
        32769, 100 * KIB, MIB, MIB + 1, 3 * MIB, 7 * MIB, 20 * MIB + 5 /* longer than an arena: gets one of its own */};
    for (size_t i = 0; i < sizeof sizes_bytes / sizeof sizes_bytes[0]; i++) {
        size_t size_bytes = sizes_bytes[i], n_others;
        unsigned char *block = claim_in_further_arena(size_bytes, &n_others);
        assert_true(lies_in(registry_arena(block), block, size_bytes));
        assert_ptr_equal(registry_arena(block + size_bytes - 1), registry_arena(block));
        assert_int_equal(registry_class_offset(block), 0); /* the hit path leaves it to the slow one */
        assert_true(hak_usable_size(block) >= size_bytes);
        assert_int_equal(hak_usable_size(block), hak_good_size(size_bytes));
        memset(block, 0x42, size_bytes);
        for (unsigned k = 0; k < 3; k++) {
            size_t new_bytes = k == 0 ? size_bytes + size_bytes / 3 : k == 1 ? size_bytes / 2 + 1 : size_bytes * 3;
            size_t kept_bytes = min_size(size_bytes / 2 + 1, min_size(size_bytes, new_bytes));
            block = hak_realloc(block, new_bytes);
            assert_non_null(block);
            assert_non_null(registry_arena(block));
            assert_true(lies_in(registry_arena(block), block, new_bytes));
            for (size_t at = 0; at < kept_bytes; at++)
                assert_int_equal(block[at], 0x42);
            memset(block, 0x42, new_bytes);
        }
        hak_free(block);
        unsigned char *zeroed = hak_calloc(1, size_bytes);
        assert_non_null(zeroed);
        for (size_t at = 0; at < size_bytes; at++)
            assert_int_equal(zeroed[at], 0);
        hak_free_sized(zeroed, size_bytes);
        while (n_others > 0)
            hak_free(blocks[--n_others]);
        assert_null(pool_check());
    }
}

static void aligned_blocks_find_an_arena(void **state)
{
    (void)state;
    for (size_t alignment = 16; alignment <= 256 * MIB; alignment *= 4) {
        unsigned char *block = hak_aligned_alloc(alignment, 3 * MIB);
        assert_non_null(block);
        assert_int_equal((uintptr_t)block & (alignment - 1), 0);
        assert_true(lies_in(registry_arena(block), block, 3 * MIB));
        block[3 * MIB - 1] = 1;
        hak_free(block);
    }
    assert_ranges_known();
}

/* ---- Threads ------------------------------------------------------------------------------------------------------- */

#define N_THREADS 4
#define N_PER_THREAD 40000

static void *claim_and_look_up(void *argument)
{
    unsigned char **mine = argument;
    for (size_t i = 0; i < N_PER_THREAD; i++) {
        size_t size_bytes = i % 400 == 0 ? 64 * KIB + i : size_of_block(i, 0);
        mine[i] = hak_malloc(size_bytes);
        if (mine[i] == NULL)
            return "no memory";
        struct arena *arena = registry_arena(mine[i]);
        if (arena == NULL || !lies_in(arena, mine[i], size_bytes))
            return "a block is not found";
        mine[i][0] = (unsigned char)i;
    }
    return NULL;
}

static void blocks_of_one_thread_are_freed_by_another(void **state)
{
    (void)state;
    uint64_t live_blocks = read_stats().live_blocks;
    pthread_t threads[N_THREADS];
    for (unsigned t = 0; t < N_THREADS; t++)
        assert_int_equal(pthread_create(&threads[t], NULL, claim_and_look_up, blocks + t * N_PER_THREAD), 0);
    for (unsigned t = 0; t < N_THREADS; t++) {
        void *wrong;
        pthread_join(threads[t], &wrong);
        if (wrong != NULL)
            fail_msg("thread %u: %s", t, (const char *)wrong);
    }
    for (size_t i = 0; i < N_THREADS * N_PER_THREAD; i++) {
        assert_int_equal(blocks[i][0], (unsigned char)(i % N_PER_THREAD));
        hak_free(blocks[i]);
    }
    hak_trim(HAK_TRIM_PAGES);
    assert_int_equal(read_stats().live_blocks, live_blocks);
    assert_int_equal(read_stats().spans, 0);
    assert_null(pool_check());
}

int main(void)
{
    thread_start_process(); /* reads the environment, which may ask for another size */
    arena_set_len_bytes(ARENA_BYTES);
    blocks = mmap(NULL, N_BLOCKS * sizeof *blocks, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE,
                  -1, 0);
    if (blocks == MAP_FAILED)
        return 77;
    hak_free(hak_malloc(1));
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(two_million_blocks_again_and_again),
        cmocka_unit_test(thousands_of_superslabs_again_and_again),
        cmocka_unit_test(every_call_takes_a_block_of_a_further_arena),
        cmocka_unit_test(aligned_blocks_find_an_arena),
        cmocka_unit_test(blocks_of_one_thread_are_freed_by_another),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
