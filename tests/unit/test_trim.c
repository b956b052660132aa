/* test_trim.c - hak_trim gives back what is free and nothing else: a heap of small blocks thins out to every 1000th, is
 * trimmed page by page, grows again over the trimmed pages, and goes.
 * Checked: VmRSS against what the pages with survivors need, their contents, zeroes of calloc, the statistics.
 * Threads  one. Resident memory is only looked at in builds without sanitizers, whose shadow is part of it.
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
#include "service/config.h"
#include "look.h"
#include "process.h"

#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#ifdef SANITIZED
enum { RSS_IS_OURS = false };
#else
enum { RSS_IS_OURS = true };
#endif

#define HEAP_BYTES (64 * MIB)
#define MIN_BYTES 16
#define MAX_BYTES 255
#define MAX_BLOCKS (HEAP_BYTES / 100)
#define SURVIVOR_STEP 1000

/* The books are mapped and touched beforehand, so that they do not count. */
struct entry {
    unsigned char *block;
    uint32_t size_bytes, mark;
};
static struct entry *entries;
static size_t n_entries;
static size_t rss_at_start_bytes;

static void assert_rss_at_most(size_t limit_bytes, const char *when)
{
    size_t now_bytes = rss_bytes();
    if (RSS_IS_OURS && now_bytes > rss_at_start_bytes + limit_bytes)
        fail_msg("%s: resident %zu KiB above the start, at most %zu expected", when,
                 (now_bytes - rss_at_start_bytes) / KIB, limit_bytes / KIB);
}

static uint32_t random_state = 12345;
static uint32_t next_random(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 17;
    return random_state ^= random_state << 5;
}

static void write_entry(struct entry *e)
{
    for (uint32_t k = 0; k < e->size_bytes; k++)
        e->block[k] = (unsigned char)(e->mark + k * 7);
}

static void check_entry(const struct entry *e)
{
    for (uint32_t k = 0; k < e->size_bytes; k++)
        if (e->block[k] != (unsigned char)(e->mark + k * 7))
            fail_msg("block %p of %u bytes changed at %u", (void *)e->block, e->size_bytes, k);
}

static void grow_heap(void)
{
    size_t sum_bytes = 0;
    for (n_entries = 0; sum_bytes < HEAP_BYTES; n_entries++) {
        assert_true(n_entries < MAX_BLOCKS);
        struct entry *e = &entries[n_entries];
        e->mark = next_random();
        e->size_bytes = MIN_BYTES + next_random() % (MAX_BYTES - MIN_BYTES + 1);
        e->block = hak_malloc(e->size_bytes);
        assert_non_null(e->block);
        write_entry(e);
        sum_bytes += e->size_bytes;
    }
}

static void thin_out(void)
{
    for (size_t i = 0; i < n_entries; i++)
        if (i % SURVIVOR_STEP != 0) {
            hak_free(entries[i].block);
            entries[i].block = NULL;
        }
}

static int compare_pages(const void *a, const void *b)
{
    uintptr_t x = *(const uintptr_t *)a, y = *(const uintptr_t *)b;
    return x < y ? -1 : x > y;
}

/* Bytes of the pages that hold a byte of a survivor's block. */
static size_t survivor_pages_bytes(void)
{
    static uintptr_t pages[2 * (MAX_BLOCKS / SURVIVOR_STEP + 1)];
    size_t n = 0, n_distinct = 0, page_bytes = os_page_bytes();
    for (size_t i = 0; i < n_entries; i += SURVIVOR_STEP) {
        uintptr_t first = (uintptr_t)entries[i].block / page_bytes;
        uintptr_t last = ((uintptr_t)entries[i].block + hak_usable_size(entries[i].block) - 1) / page_bytes;
        pages[n++] = first;
        if (last != first)
            pages[n++] = last;
    }
    qsort(pages, n, sizeof pages[0], compare_pages);
    for (size_t i = 0; i < n; i++)
        n_distinct += i == 0 || pages[i] != pages[i - 1];
    return n_distinct * page_bytes;
}

static int map_books(void **state)
{
    (void)state;
    size_t len_bytes = MAX_BLOCKS * sizeof(struct entry);
    entries = mmap(NULL, len_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (entries == MAP_FAILED)
        return -1;
    memset(entries, 1, len_bytes);
    memset(entries, 0, len_bytes);
    hak_free(hak_malloc(100));
    survivor_pages_bytes();
    rss_bytes();
    rss_at_start_bytes = rss_bytes();
    return 0;
}

static void free_pages_go_back(void **state)
{
    (void)state;
    grow_heap();
    assert_int_equal(read_stats().live_blocks, n_entries);
    if (RSS_IS_OURS)
        assert_true(rss_bytes() - rss_at_start_bytes >= HEAP_BYTES); /* else the rest proves nothing */
    thin_out();
    size_t n_survivors = (n_entries + SURVIVOR_STEP - 1) / SURVIVOR_STEP;
    struct hak_stats before = read_stats();
    size_t rss_before_bytes = rss_bytes();
    assert_int_equal(before.live_blocks, n_survivors);

    size_t trimmed_bytes = hak_trim(HAK_TRIM_PAGES);
    struct hak_stats after = read_stats();
    size_t rss_after_bytes = rss_bytes();
    assert_rss_at_most(survivor_pages_bytes() * 3 / 2 + 2 * MIB, "after the trim");
    /* It does not claim more than went. By committed bytes, which count pages: purged bytes count slots as a whole, whatever of them
     * was in memory, and in hardened mode chance decides that. */
    if (RSS_IS_OURS)
        assert_true(rss_before_bytes - rss_after_bytes + 2 * MIB >= before.committed_bytes - after.committed_bytes);
    assert_true(trimmed_bytes >= after.purged_bytes - before.purged_bytes);
    assert_int_equal(after.live_blocks, n_survivors);
    assert_int_equal(after.live_bytes, before.live_bytes);
    assert_int_equal(after.cached_blocks, 0);
    assert_int_equal(after.slots_empty, 0);
    assert_int_equal(after.superslabs_cached, 0);
    assert_null(pool_check());
    for (size_t i = 0; i < n_entries; i += SURVIVOR_STEP)
        check_entry(&entries[i]);
}

/* A second trim finds nothing more. */
static void trim_is_idempotent(void **state)
{
    (void)state;
    uint64_t purged_bytes = read_stats().purged_bytes;
    assert_int_equal(hak_trim(HAK_TRIM_PAGES), 0);
    assert_int_equal(read_stats().purged_bytes, purged_bytes);
    assert_null(pool_check());
}

/* New blocks lie on pages that were given back, on pages of survivors, and on fresh ones. */
static void calloc_is_zero_afterwards(void **state)
{
    (void)state;
    static const unsigned char zero[MAX_BYTES + 1];
    for (size_t i = 0; i < n_entries; i++)
        if (entries[i].block == NULL) {
            struct entry *e = &entries[i];
            e->block = hak_calloc(1, e->size_bytes);
            assert_non_null(e->block);
            if (memcmp(e->block, zero, e->size_bytes) != 0)
                fail_msg("calloc's block %p of %u bytes is not zero", (void *)e->block, e->size_bytes);
            write_entry(e);
        }
    for (size_t i = 0; i < n_entries; i++) /* survivors too: nothing lies on top of them */
        check_entry(&entries[i]);
    assert_int_equal(read_stats().live_blocks, n_entries);
    assert_null(pool_check());
}

static void everything_goes_back(void **state)
{
    (void)state;
    for (size_t i = 0; i < n_entries; i++) {
        hak_free(entries[i].block);
        entries[i].block = NULL;
    }
    hak_trim(HAK_TRIM_PAGES);
    struct hak_stats s = read_stats();
    assert_int_equal(s.live_blocks, 0);
    assert_int_equal(s.live_bytes, 0);
    assert_int_equal(s.superslabs, 0);
    assert_int_equal(s.superslabs_cached, 0);
    assert_int_equal(s.committed_bytes, 0);
    assert_rss_at_most(4 * MIB, "when all is free");
    assert_null(pool_check());
}

/* What each level reaches: caches; then empty slabs; then pages inside slabs in use. */
static void levels_reach_further(void **state)
{
    (void)state;
    grow_heap();
    thin_out();
    hak_trim(HAK_TRIM_CACHE);
    struct hak_stats cache = read_stats();
    size_t rss_cache_bytes = rss_bytes();
    assert_int_equal(cache.cached_blocks, 0);
    assert_int_equal(cache.superslabs_cached, 0);

    hak_trim(HAK_TRIM_SLABS);
    struct hak_stats slabs = read_stats();
    assert_int_equal(slabs.slots_empty, 0);
    assert_int_equal(slabs.purged_bytes - cache.purged_bytes, cache.slots_empty * SLAB_BYTES);

    size_t trimmed_bytes = hak_trim(HAK_TRIM_PAGES);
    struct hak_stats pages = read_stats();
    assert_int_equal(trimmed_bytes, pages.purged_bytes - slabs.purged_bytes);
    assert_true(trimmed_bytes > HEAP_BYTES / 4);
    assert_int_equal(pages.live_blocks, cache.live_blocks);
    if (RSS_IS_OURS)
        assert_true(rss_bytes() + HEAP_BYTES / 4 < rss_cache_bytes);
    for (size_t i = 0; i < n_entries; i += SURVIVOR_STEP) {
        check_entry(&entries[i]);
        hak_free(entries[i].block);
        entries[i].block = NULL;
    }
    hak_trim(HAK_TRIM_PAGES);
    assert_int_equal(read_stats().live_blocks, 0);
    assert_int_equal(read_stats().superslabs, 0);
}

/* Slabs that empty because the magazines do may be purged on the way: those bytes are given back by the trim too. */
static void all_that_goes_is_returned(void **state)
{
    (void)state;
    size_t empty_slabs = config.empty_slabs;
    void *neighbour = hak_malloc(40000); /* keeps the SuperSlab in the pool */
    for (size_t size_bytes = 16; size_bytes <= MAX_BYTES; size_bytes += 16)
        hak_free(hak_malloc(size_bytes)); /* a slab each, which only the magazine keeps from being empty */
    struct hak_stats before = read_stats();
    config.empty_slabs = 0;
    size_t trimmed_bytes = hak_trim(HAK_TRIM_CACHE);
    config.empty_slabs = empty_slabs;
    struct hak_stats after = read_stats();
    hak_free(neighbour);
    hak_trim(HAK_TRIM_PAGES);
    assert_true(after.purged_bytes > before.purged_bytes);
    assert_int_equal(trimmed_bytes, after.purged_bytes - before.purged_bytes);
}

/* So are SuperSlabs that leave the pool on the way, because their last slabs waited until then. */
static void superslabs_that_go_are_returned(void **state)
{
    (void)state;
    int64_t delay_ms = config.purge_delay_ms;
    bool background = config.background;
    hak_trim(HAK_TRIM_PAGES);
    start_without_ticks();
    grow_heap();
    for (size_t i = 0; i < n_entries; i++) {
        hak_free(entries[i].block);
        entries[i].block = NULL;
    }
    struct hak_stats before = read_stats();
    size_t trimmed_bytes = hak_trim(HAK_TRIM_PAGES);
    struct hak_stats after = read_stats();
    config.purge_delay_ms = delay_ms;
    config.background = background;
    uint64_t n_released = after.superslabs_released_total - before.superslabs_released_total;
    uint64_t n_evicted = after.superslabs_evicted_total - before.superslabs_evicted_total;
    assert_true(n_released >= HEAP_BYTES / SUPERSLAB_BYTES / 2);
    assert_int_equal(trimmed_bytes,
                     after.purged_bytes - before.purged_bytes + (n_released + n_evicted) * SUPERSLAB_BYTES);
    assert_true(trimmed_bytes >= HEAP_BYTES / 2);
    assert_int_equal(after.live_blocks, 0);
    assert_int_equal(after.superslabs, 0);
}

/* Where the system refuses to take pages back, nothing is lost and nothing is claimed to have gone. */
static void a_refusal_does_no_harm(void **state)
{
    (void)state;
    grow_heap();
    thin_out();
    hak_trim(HAK_TRIM_CACHE);
    struct hak_stats before = read_stats();
    os_fail_from(1, ULONG_MAX, OS_CALL_PURGE);
    size_t trimmed_bytes = hak_trim(HAK_TRIM_PAGES);
    os_fail_from(0, 0, 0);
    struct hak_stats after = read_stats();
    assert_int_equal(trimmed_bytes, 0);
    assert_int_equal(after.purged_bytes, before.purged_bytes);
    assert_int_equal(after.live_blocks, before.live_blocks);
    assert_null(pool_check());
    static const unsigned char zero[MAX_BYTES + 1];
    for (size_t i = 0; i < n_entries; i += 7) {
        if (entries[i].block != NULL)
            continue;
        entries[i].block = hak_calloc(1, entries[i].size_bytes);
        assert_memory_equal(entries[i].block, zero, entries[i].size_bytes);
        write_entry(&entries[i]);
    }
    for (size_t i = 0; i < n_entries; i++)
        if (entries[i].block != NULL) {
            check_entry(&entries[i]);
            hak_free(entries[i].block);
        }
    hak_trim(HAK_TRIM_PAGES);
    assert_int_equal(read_stats().live_blocks, 0);
    assert_rss_at_most(4 * MIB, "when all is free after a refusal");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(free_pages_go_back),
        cmocka_unit_test(trim_is_idempotent),
        cmocka_unit_test(calloc_is_zero_afterwards),
        cmocka_unit_test(everything_goes_back),
        cmocka_unit_test(levels_reach_further),
        cmocka_unit_test(all_that_goes_is_returned),
        cmocka_unit_test(superslabs_that_go_are_returned),
        cmocka_unit_test(a_refusal_does_no_harm),
    };
    return cmocka_run_group_tests(tests, map_books, NULL);
}
