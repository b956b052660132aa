/* calloc_zero.c - every byte of a calloc'd block is zero, whatever lay there before: freed blocks of every class,
 * of other threads, pages given back and taken again, and pages that realloc has moved.
 */
#include "check.h"

#include <malloc.h>
#include <pthread.h>

#define DIRT 0xa5
#define MAX_SIZES 200

static size_t class_sizes[MAX_SIZES]; /* the largest request of every class, and large sizes */
static size_t n_class_sizes, n_small_sizes;

static void collect_class_sizes(void)
{
    size_t (*good_size)(size_t);
    void *symbol = check_symbol("malloc_good_size");
    memcpy(&good_size, &symbol, sizeof symbol);
    for (size_t n = good_size(1); n <= 32768 && n_class_sizes < MAX_SIZES - 20; n = good_size(n + 1))
        class_sizes[n_class_sizes++] = n;
    n_small_sizes = n_class_sizes;
    static const size_t large[] = {32769,   40000,   65536,   65537,   131072,  300000,  524289,  1048575, 1048576,
                                   1048577, 2031616, 2031617, 2097152, 2097153, 3000000, 4194304, 9000000};
    for (size_t i = 0; i < CHECK_COUNT(large); i++)
        class_sizes[n_class_sizes++] = large[i];
    REQUIRE(n_small_sizes >= 8);
}

/* Writes on total_bytes of blocks of one size, then frees them all, forwards or backwards. */
static void dirty(size_t size, size_t total_bytes, int backwards)
{
    size_t n = total_bytes / size + 1;
    char **blocks = malloc(n * sizeof *blocks);
    REQUIRE(blocks != NULL);
    for (size_t i = 0; i < n; i++) {
        blocks[i] = malloc(size);
        REQUIRE(blocks[i] != NULL);
        memset(blocks[i], DIRT, malloc_usable_size(blocks[i]));
    }
    for (size_t i = 0; i < n; i++)
        free(blocks[backwards ? n - 1 - i : i]);
    memset(blocks, DIRT, n * sizeof *blocks);
    free(blocks);
}

static void dirty_everything(void)
{
    for (size_t k = 0; k < n_class_sizes; k++)
        dirty(class_sizes[k], 3 * CHECK_MIB, k % 2 == 0);
}

/* Callocs total_bytes of blocks of one size, looks at them, writes on them, and frees them. */
static void check_size(size_t size, size_t total_bytes, const char *when)
{
    size_t n = total_bytes / size + 1, n_bad = 0;
    char **blocks = malloc(n * sizeof *blocks);
    REQUIRE(blocks != NULL);
    for (size_t i = 0; i < n; i++) {
        blocks[i] = i % 2 == 0 ? calloc(1, size) : calloc(size, 1);
        REQUIRE(blocks[i] != NULL);
        n_bad += !check_zero(blocks[i], size);
        memset(blocks[i], DIRT, size);
    }
    CHECK_THAT(n_bad == 0, "%s: %zu of %zu calloc'd blocks of %zu bytes are not zero", when, n_bad, n, size);
    for (size_t i = 0; i < n; i++)
        free(blocks[i]);
    free(blocks);
}

static void check_every_size(const char *when)
{
    for (size_t k = 0; k < n_class_sizes; k++)
        check_size(class_sizes[k], 2 * CHECK_MIB, when);
}

static void *dirty_in_thread(void *unused)
{
    dirty_everything();
    return unused;
}

/* Blocks that are dirtied by a thread, freed by another, and calloc'd by both. */
static void test_across_threads(void)
{
    pthread_t threads[3];
    for (unsigned i = 0; i < CHECK_COUNT(threads); i++)
        REQUIRE(pthread_create(&threads[i], NULL, dirty_in_thread, NULL) == 0);
    check_every_size("while threads dirty the heap");
    for (unsigned i = 0; i < CHECK_COUNT(threads); i++)
        pthread_join(threads[i], NULL);
    check_every_size("after the threads' end");
}

/* Single pages inside slabs are given back and come again as zero pages beside dirty ones. */
static void test_after_partial_trim(size_t size)
{
    enum { N = 30000 };
    static char *blocks[N];
    size_t n = 4 * CHECK_MIB / size < N ? 4 * CHECK_MIB / size : N;
    for (size_t i = 0; i < n; i++) {
        blocks[i] = malloc(size);
        REQUIRE(blocks[i] != NULL);
        memset(blocks[i], DIRT, size);
    }
    uint64_t state = size;
    for (size_t i = 0; i < n; i++)
        if (check_random(&state) % 30 != 0) {
            free(blocks[i]);
            blocks[i] = NULL;
        }
    malloc_trim(0);
    size_t n_bad = 0, n_changed = 0;
    for (size_t i = 0; i < n; i++) {
        if (blocks[i] != NULL) {
            for (size_t at = 0; at < size; at++)
                n_changed += (unsigned char)blocks[i][at] != DIRT;
            continue;
        }
        blocks[i] = calloc(1, size);
        REQUIRE(blocks[i] != NULL);
        n_bad += !check_zero(blocks[i], size);
        memset(blocks[i], DIRT, size);
    }
    CHECK_THAT(n_bad == 0, "after a trim of half-used slabs: %zu blocks of %zu bytes are not zero", n_bad, size);
    CHECK_THAT(n_changed == 0, "trimming changes %zu bytes of held blocks of %zu bytes", n_changed, size);
    for (size_t i = 0; i < n; i++)
        free(blocks[i]);
}

/* What realloc leaves behind where it moved away, shrank, or grew and was freed. */
static void test_after_realloc(void)
{
    for (size_t size = 40000; size <= 20 * CHECK_MIB; size = size * 2 + 4096) {
        char *a = malloc(size), *b = malloc(size);
        REQUIRE(a != NULL && b != NULL);
        memset(a, DIRT, size);
        memset(b, DIRT, size);
        a = realloc(a, size * 3);
        REQUIRE(a != NULL);
        memset(a, DIRT, size * 3);
        b = realloc(b, size / 2);
        a = realloc(a, size);
        REQUIRE(a != NULL && b != NULL);
        for (size_t k = 0; k < 3; k++) {
            char *c = calloc(1, size * (k + 1)), *d = calloc(1, size / (k + 1));
            REQUIRE(c != NULL && d != NULL);
            CHECK_THAT(check_zero(c, size * (k + 1)) && check_zero(d, size / (k + 1)),
                       "calloc after realloc around %zu bytes is not zero", size);
            memset(c, DIRT, size * (k + 1));
            free(c);
            free(d);
        }
        free(a);
        free(b);
        char *e = calloc(1, size * 4);
        REQUIRE(e != NULL);
        CHECK_THAT(check_zero(e, size * 4), "calloc of %zu bytes after realloc is not zero", size * 4);
        free(e);
    }
}

/* A longer block where a shorter one was cleared in part of what a dirty one had left: what lay behind it is dirty still. */
static void test_runs_of_changing_lengths(void)
{
    for (size_t i = 1; i < 50; i++) {
        size_t lengths[] = {7 * CHECK_MIB / 2, 2 * CHECK_MIB + i * 4096, 7 * CHECK_MIB / 2 - 100000};
        char *first = malloc(lengths[0]);
        REQUIRE(first != NULL);
        memset(first, DIRT, lengths[0]);
        free(first);
        free(calloc(1, lengths[1]));
        char *last = calloc(1, lengths[2]);
        REQUIRE(last != NULL);
        CHECK_THAT(check_zero(last, lengths[2]), "calloc of %zu bytes after one of %zu is not zero", lengths[2],
                   lengths[1]);
        free(last);
    }
}

/* What a block has grown into, where it lies, is as dirty as its beginning when it is freed. */
static void test_after_growth_in_place(void)
{
    for (size_t size = 40000; size < 4 * CHECK_MIB; size = size * 2 + 4096) {
        char *block = malloc(size);
        REQUIRE(block != NULL);
        for (size_t grown = size * 3 / 2; grown < size * 8; grown = grown * 3 / 2) {
            block = realloc(block, grown);
            REQUIRE(block != NULL);
            memset(block, DIRT, grown);
        }
        free(block);
        for (unsigned i = 0; i < 12; i++) {
            char *next = calloc(1, 100000 + size); /* kept, so that all of the memory comes again */
            REQUIRE(next != NULL);
            CHECK_THAT(check_zero(next, 100000 + size), "calloc of %zu bytes after a block grew is not zero",
                       100000 + size);
            if (i % 4 == 3)
                free(next);
        }
    }
}

/* The last page of a large block counts too, and sizes that are no multiple of anything. */
static void test_odd_sizes(void)
{
    uint64_t state = 3;
    for (unsigned i = 0; i < 20000; i++) {
        size_t size = check_random_size(&state, i % 40 == 0 ? 22 : 14);
        char *block = calloc(1, size);
        REQUIRE(block != NULL);
        CHECK_THAT(check_zero(block, size), "calloc of %zu bytes in a random course is not zero", size);
        memset(block, DIRT, malloc_usable_size(block));
        free(block);
        if (i % 3000 == 0)
            malloc_trim(0);
    }
}

/* Small blocks are cleared by stores that may overlap. None of them touches the block before, or what lies behind the bytes that
 * were asked for: of a block that was there before, that is what its last holder left. */
static void test_nothing_else_is_cleared(void)
{
    enum { N = 64, MOST = 200 };
    char *block[N];
    for (size_t size = 1; size <= MOST; size++) {
        size_t n_changed = 0;
        for (unsigned i = 0; i < N; i++) {
            block[i] = malloc(size);
            REQUIRE(block[i] != NULL);
            memset(block[i], DIRT, malloc_usable_size(block[i]));
        }
        for (unsigned i = 1; i < N; i += 2) {
            char *before = block[i];
            size_t was_usable = malloc_usable_size(before);
            free(before);
            block[i] = calloc(1, size);
            REQUIRE(block[i] != NULL && check_zero(block[i], size));
            for (size_t at = size; block[i] == before && at < was_usable && at < malloc_usable_size(before); at++)
                n_changed += (unsigned char)before[at] != DIRT;
        }
        for (unsigned i = 0; i < N; i += 2)
            for (size_t at = 0; at < malloc_usable_size(block[i]); at++)
                n_changed += (unsigned char)block[i][at] != DIRT;
        CHECK_THAT(n_changed == 0, "calloc of %zu bytes changes %zu bytes that were not asked for", size, n_changed);
        for (unsigned i = 0; i < N; i++)
            free(block[i]);
    }
}

int main(void)
{
    check_on_hakmem();
    collect_class_sizes();
    test_nothing_else_is_cleared();
    check_every_size("on a fresh heap");
    dirty_everything();
    check_every_size("on a dirty heap");
    dirty_everything();
    malloc_trim(0);
    check_every_size("after malloc_trim");
    for (size_t k = 0; k < n_small_sizes; k++)
        test_after_partial_trim(class_sizes[k]);
    test_after_realloc();
    test_runs_of_changing_lengths();
    test_after_growth_in_place();
    test_odd_sizes();
    test_across_threads();
    return check_status();
}
