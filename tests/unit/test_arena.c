/* test_arena.c - rows of SuperSlabs of one arena: each request gets the lowest row that is long enough and lies as it asks, whatever holes there are.
 * And when the addresses of an arena that nothing is in use of go back; and what lies beside records in hardened mode.
 * Checked against a look at one SuperSlab after the other; rows shorter and longer than a word of the arena's map, and across its words.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "hakmem/hakmem.h"
#include "meta/arena.h"
#include "meta/metapool.h"
#include "os/os.h"
#include "pool/dirty.h"
#include "pool/shared_pool.h"
#include "look.h"

#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define ARENA_SUPERSLABS 2048
#define N_STEPS 6000
#define N_ROWS 400 /* at a time */

struct row {
    struct superslab *first;
    uint32_t n;
};

static struct row rows[N_ROWS];
static unsigned n_rows;
static bool taken[ARENA_SUPERSLABS];
static uint64_t random_state = 7;

static uint32_t next_random(uint32_t below)
{
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(random_state >> 33) % below;
}

/* Short ones mostly. */
static uint32_t random_length(void)
{
    static const uint32_t lengths[] = {1, 1, 1, 2, 2, 3, 4, 5, 7, 16, 33, 63, 64, 65, 100};
    return lengths[next_random(sizeof lengths / sizeof lengths[0])];
}

static uint32_t lowest_row(const struct arena *arena, uint32_t n, size_t alignment)
{
    for (uint32_t i = 0; i + n <= arena->n_superslabs; i++) {
        uint32_t len = 0;
        while (len < n && !taken[i + len])
            len++;
        if (len == n && ((uintptr_t)arena->base + ((uintptr_t)i << SUPERSLAB_SHIFT)) % alignment == 0)
            return i;
    }
    return arena->n_superslabs;
}

static void mark(const struct row *row, bool is_taken)
{
    for (uint32_t i = 0; i < row->n; i++) {
        assert_int_equal(taken[row->first->index + i], !is_taken);
        taken[row->first->index + i] = is_taken;
    }
}

static void put_one(void)
{
    unsigned i = next_random(n_rows);
    mark(&rows[i], false);
    arena_put(rows[i].first, rows[i].n);
    rows[i] = rows[--n_rows];
}

static void the_lowest_row_that_is_long_enough(void **state)
{
    (void)state;
    thread_start_process();
    arena_set_len_bytes((size_t)ARENA_SUPERSLABS << SUPERSLAB_SHIFT);
    assert_null(arena_first());
    assert_true(pool_lock(HAK_LOCK_METADATA));
    const struct arena *arena = NULL;
    for (unsigned step = 0; step < N_STEPS; step++) {
        size_t alignment = (size_t)SUPERSLAB_BYTES << (next_random(8) == 0 ? next_random(5) : 0);
        uint32_t n = random_length(), expected = arena == NULL ? 0 : lowest_row(arena, n, alignment);
        if (n_rows == N_ROWS || (arena != NULL && expected == arena->n_superslabs) ||
            (n_rows != 0 && next_random(100) < 45)) {
            put_one();
            continue;
        }
        struct row row = {arena_take(n, alignment), n};
        assert_non_null(row.first);
        if (arena == NULL)
            arena = row.first->arena;
        else
            assert_int_equal(row.first->index, expected);
        assert_ptr_equal(row.first->arena, arena);
        assert_in_range(arena->n_superslabs, 1, ARENA_SUPERSLABS);
        mark(&row, true);
        rows[n_rows++] = row;
    }
    while (n_rows != 0)
        put_one();
    pool_unlock();
}

/* How many addresses arenas hold but the first. */
static size_t further_bytes(void)
{
    size_t sum_bytes = 0;
    for (struct arena *arena = arena_next(arena_first()); arena != NULL; arena = arena_next(arena))
        sum_bytes += arena->len_bytes;
    return sum_bytes;
}

/* Addresses that nothing is in use of go back where they may stand in the way of a longer arena; but not while there is memory that the
 * system has refused to take back: it counts, and is tried again. */
static void addresses_of_refused_memory_stay(void **state)
{
    (void)state;
    const uint32_t n_first = arena_first()->n_superslabs, n = 8;
    assert_true(pool_lock(HAK_LOCK_METADATA));
    struct superslab *all = arena_take(n_first, SUPERSLAB_BYTES);
    assert_non_null(all);
    assert_ptr_equal(all->arena, arena_first());
    arena_set_len_bytes((size_t)n << SUPERSLAB_SHIFT);
    struct superslab *ss = arena_take(n, SUPERSLAB_BYTES);
    assert_non_null(ss);
    assert_ptr_not_equal(ss->arena, arena_first());
    const size_t one_bytes = further_bytes();
    const size_t longer_n = ss->arena->n_superslabs + 1;
    superslab_extend_dirty(ss + n - 1, SUPERSLAB_BYTES); /* the last one: all are looked at */
    arena_put(ss, n);
    os_fail_from(1, 1, OS_CALL_RESERVE);
    assert_null(arena_take((uint32_t)longer_n, SUPERSLAB_BYTES));
    os_fail_from(0, 0, 0);
    assert_int_equal(further_bytes(), one_bytes);
    superslab_cut_dirty(ss + n - 1, 0);
    os_fail_from(1, 1, OS_CALL_RESERVE);
    struct superslab *longer = arena_take((uint32_t)longer_n, SUPERSLAB_BYTES);
    os_fail_from(0, 0, 0);
    assert_non_null(longer);
    assert_int_equal(further_bytes(), longer->arena->len_bytes);
    arena_put(longer, (uint32_t)longer_n);
    arena_put(all, n_first);
    pool_unlock();
}

/* Whether nothing can be read or mapped at an address. */
static bool is_closed(const void *address)
{
    size_t page_bytes = os_page_bytes();
    void *page = (void *)((uintptr_t)address & ~(page_bytes - 1)); /* NOLINT(performance-no-int-to-ptr) */
    void *mapped = mmap(page, page_bytes, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    if (mapped == MAP_FAILED)
        return !os_is_readable(page);
    munmap(mapped, page_bytes);
    return false;
}

/* In a process with HAKMEM_SECURE. */
static void records_lie_between_inaccessible_pages(void **state)
{
    (void)state;
    hak_free(hak_malloc(1));
    const struct arena *arena = arena_first();
    const char *map = (const char *)arena->class_map, *records = arena->metadata;
    assert_true(is_closed(records - 1));
    assert_true(is_closed(records + arena->metadata_bytes));
    assert_true(is_closed(map - 1));
    assert_true(is_closed(map + round_up((size_t)arena->n_superslabs * SUPERSLAB_SLABS, SLAB_BYTES)));
    assert_true(pool_lock(HAK_LOCK_METADATA));
    unsigned n_regions = 0;
    for (const char *before = NULL, *piece; n_regions < 3; before = piece) { /* records of threads */
        piece = metapool_claim();
        assert_non_null(piece);
        if (piece == before + METAPOOL_PIECE_BYTES)
            continue;
        n_regions += before != NULL;
        assert_true(before == NULL || (is_closed(piece - 1) && is_closed(before + METAPOOL_PIECE_BYTES)));
    }
    pool_unlock();
}

static void hardened_mode_guards_records(void **state)
{
    (void)state;
    int status = 0;
    pid_t pid = fork();
    if (pid == 0) {
        setenv("HAKMEM_SECURE", "guard", 1);
        execl("/proc/self/exe", "test_arena", "guards", (char *)NULL);
        _exit(127);
    }
    assert_true(pid > 0 && waitpid(pid, &status, 0) == pid);
    assert_int_equal(status, 0);
}

int main(int argc, char **argv)
{
    (void)argv;
    const struct CMUnitTest hardened[] = {cmocka_unit_test(records_lie_between_inaccessible_pages)};
    if (argc > 1)
        return cmocka_run_group_tests(hardened, NULL, NULL);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_lowest_row_that_is_long_enough),
        cmocka_unit_test(addresses_of_refused_memory_stay),
        cmocka_unit_test(hardened_mode_guards_records),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
