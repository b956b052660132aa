/* test_lru.c - the cache of empty SuperSlabs: bounded, oldest out first, pinned entries stay, rows split, nothing dirty leaks out
 * as zeroed memory.
 */
#include "hakmem/hakmem.h"
#include "meta/registry.h"
#include "os/os.h"
#include "pool/background.h"
#include "pool/dirty.h"
#include "pool/lru.h"
#include "pool/release.h"
#include "pool/shared_pool.h"
#include "service/budget.h"
#include "service/config.h"
#include "service/stats.h"
#include "left_out.h"
#include "look.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

static int drain(void **state)
{
    (void)state;
    hak_free(hak_malloc(1));  /* the process has started */
    hak_trim(HAK_TRIM_PAGES); /* and no SuperSlab is in use */
    background_hold(true);    /* no thread beside the tests, which change the configuration */
    config.lru_superslabs = 4;
    return lru_count() == 0 ? 0 : -1;
}

static void bounded_and_oldest_out_first(void **state)
{
    (void)state;
    enum { N = 7 };
    void *run[N], *between[N];
    struct superslab *ss[N];
    for (unsigned i = 0; i < N; i++) {
        run[i] = hak_malloc(2 * MIB);     /* one SuperSlab each */
        between[i] = hak_malloc(2 * MIB); /* so that no two of them form a row */
        assert_non_null(run[i]);
        ss[i] = superslab_of(run[i]);
    }
    uint64_t evicted = read_stats().superslabs_evicted_total;
    for (unsigned i = 0; i < N; i++) {
        hak_free(run[i]);
        assert_true(lru_count() <= 4);
    }
    assert_int_equal(lru_count(), 4);
    assert_int_equal(read_stats().superslabs_evicted_total, evicted + 3);
    for (unsigned i = 0; i < N; i++)
        assert_int_equal(ss[i]->state, i < 3 ? SUPERSLAB_ABSENT : SUPERSLAB_CACHED);
    for (unsigned i = 0; i < N; i++)
        hak_free(between[i]);
}

/* Neighbours form one row, in whatever order they come; of a row that is too long the far end goes. */
static void neighbours_form_a_row(void **state)
{
    (void)state;
    static const unsigned order[] = {2, 0, 1, 3, 4};
    void *run[5];
    for (unsigned i = 0; i < 5; i++)
        run[i] = hak_malloc(2 * MIB);
    struct superslab *ss = superslab_of(run[0]);
    for (unsigned i = 0; i < 5; i++)
        assert_ptr_equal(superslab_of(run[i]), ss + i);
    for (unsigned i = 0; i < 5; i++)
        hak_free(run[order[i]]);
    assert_int_equal(lru_count(), 4);
    assert_int_equal(ss[0].run_superslabs, 4);
    assert_int_equal(ss[3].run_superslabs, 4);
    assert_int_equal(ss[4].state, SUPERSLAB_ABSENT);
    void *row = hak_malloc(8 * MIB);
    assert_ptr_equal(row, run[0]);
    assert_int_equal(lru_count(), 0);
    hak_free(row);
}

/* Where a request is aligned, what lies before it stays in the cache. */
static void alignment_splits_a_row(void **state)
{
    (void)state;
    void *run = hak_malloc(8 * MIB);
    struct superslab *ss = superslab_of(run);
    hak_free(run);
    unsigned skip = (uintptr_t)run % (4 * MIB) == 0 ? 0 : 1;
    void *aligned = hak_aligned_alloc(4 * MIB, 3 * MIB);
    assert_ptr_equal(superslab_of(aligned), ss + skip);
    assert_int_equal(lru_count(), 2);
    void *single = hak_malloc(2 * MIB);
    assert_ptr_equal(superslab_of(single), ss + (skip == 0 ? 2 : 3));
    assert_int_equal(lru_count(), 1);
    hak_free(aligned);
    hak_free(single);
    assert_int_equal(lru_count(), 4);
    assert_int_equal(ss->run_superslabs, 4);
}

/* Of a row only those go back that have been there long enough. */
static void parts_of_a_row_expire(void **state)
{
    (void)state;
    void *run = hak_malloc(8 * MIB);
    struct superslab *ss = superslab_of(run);
    hak_free(run);
    uint32_t now_ms = ss->cached_since_ms;
    lru_expire(now_ms - 20, 500); /* of a tick that began before it was freed */
    assert_int_equal(lru_count(), 4);
    ss[1].cached_since_ms = ss[2].cached_since_ms = now_ms - 1000;
    uint64_t evicted = read_stats().superslabs_evicted_total;
    lru_expire(now_ms, 500);
    assert_int_equal(lru_count(), 2);
    assert_int_equal(read_stats().superslabs_evicted_total, evicted + 2);
    for (unsigned i = 0; i < 4; i++)
        assert_int_equal(ss[i].state, i == 1 || i == 2 ? SUPERSLAB_ABSENT : SUPERSLAB_CACHED);
    lru_expire(now_ms + 500, 500);
    assert_int_equal(lru_count(), 0);
    assert_int_equal(ss[3].state, SUPERSLAB_ABSENT);
}

static void a_run_longer_than_the_cache_goes_at_once(void **state)
{
    (void)state;
    void *run = hak_malloc(10 * MIB);
    struct superslab *ss = superslab_of(run);
    hak_free(run);
    assert_int_equal(lru_count(), 0);
    assert_int_equal(ss->state, SUPERSLAB_ABSENT);
}

static void pinned_entries_stay(void **state)
{
    (void)state;
    void *span = hak_malloc(100000);
    struct superslab *ss = superslab_of(span);
    assert_true(shared_pool_pin(ss));
    hak_free(span); /* empty, but somebody refers to it */
    assert_int_equal(ss->state, SUPERSLAB_CACHED);
    void *run[10];
    for (unsigned i = 0; i < 10; i++)
        run[i] = hak_malloc(2 * MIB);
    for (unsigned i = 0; i < 10; i += 2)
        hak_free(run[i]); /* each pushes the oldest one out, where there are four */
    assert_int_equal(lru_count(), 4);
    assert_int_equal(ss->state, SUPERSLAB_CACHED);
    for (unsigned i = 1; i < 10; i += 2)
        hak_free(run[i]);
    assert_int_equal(ss->state, SUPERSLAB_CACHED);
    lru_drain();
    assert_int_equal(ss->state, SUPERSLAB_CACHED);
    atomic_fetch_sub(&ss->pins, 1); /* it is not in the pool any more: unpin has nothing to release */
    lru_drain();
    assert_int_equal(ss->state, SUPERSLAB_ABSENT);
    assert_int_equal(lru_count(), 0);
}

/* Nor do they become a row with what lies beside them, which others may need, or give back. */
static void pinned_entries_stay_by_themselves(void **state)
{
    (void)state;
    void *run[3];
    for (unsigned i = 0; i < 3; i++)
        run[i] = hak_malloc(2 * MIB);
    struct superslab *ss = superslab_of(run[0]);
    atomic_fetch_add(&ss[1].pins, 1);
    hak_free(run[0]);
    hak_free(run[2]);
    hak_free(run[1]);
    for (unsigned i = 0; i < 3; i++) {
        assert_int_equal(ss[i].state, SUPERSLAB_CACHED);
        assert_int_equal(ss[i].run_superslabs, 1);
    }
    lru_drain();
    for (unsigned i = 0; i < 3; i++)
        assert_int_equal(ss[i].state, i == 1 ? SUPERSLAB_CACHED : SUPERSLAB_ABSENT);
    atomic_fetch_sub(&ss[1].pins, 1);
    lru_drain();
    assert_int_equal(lru_count(), 0);
}

/* Also of lengths that are not told apart. */
static void long_rows_serve_again(void **state)
{
    (void)state;
    config.lru_superslabs = 100;
    for (uint32_t n = 30; n <= 70; n += n < 36 ? 1 : 17) {
        void *run = hak_malloc(n * SUPERSLAB_BYTES);
        assert_non_null(run);
        hak_free(run);
        assert_int_equal(lru_count(), n);
        uint64_t evicted = read_stats().superslabs_evicted_total;
        void *again = hak_malloc(n * SUPERSLAB_BYTES);
        assert_ptr_equal(again, run);
        assert_int_equal(lru_count(), 0);
        assert_int_equal(read_stats().superslabs_evicted_total, evicted);
        hak_free(again);
        lru_drain();
    }
}

/* Two free SuperSlabs in a row are found wherever they lie. */
static void a_pair_across_words_is_found(void **state)
{
    (void)state;
    enum { N = 200 };
    static void *run[N];
    struct superslab *ss = NULL;
    unsigned first = N;
    for (unsigned i = 0; i < N; i++) {
        run[i] = hak_malloc(2 * MIB);
        assert_non_null(run[i]);
        if (first == N && superslab_of(run[i])->index % 64 == 0)
            first = i;
    }
    assert_true(first + 64 < N);
    ss = superslab_of(run[first]);
    assert_ptr_equal(superslab_of(run[first + 64]), ss + 64);
    hak_free(run[first]);
    hak_free(run[first + 63]); /* the last of one word, and the first of the next */
    hak_free(run[first + 64]);
    lru_drain();
    assert_int_equal(ss[63].state, SUPERSLAB_ABSENT);
    void *pair = hak_malloc(4 * MIB);
    assert_ptr_equal(pair, run[first + 63]);
    hak_free(pair);
    for (unsigned i = 0; i < N; i++)
        if (i != first && i != first + 63 && i != first + 64)
            hak_free(run[i]);
}

/* Where the system purges nothing, a fresh mapping takes its place; if not even that can be purged, as it is in memory at once, one that
 * takes none. */
static void what_cannot_be_purged_is_let_go_of(void **state)
{
    (void)state;
    char *run = hak_malloc(2 * MIB);
    assert_non_null(run);
    memset(run, 1, 2 * MIB);
    struct superslab *ss = superslab_of(run);
    hak_free(run);
    assert_int_equal(ss->state, SUPERSLAB_CACHED);
    os_fail_from(1, 1000000, OS_CALL_PURGE);
    lru_drain();
    os_fail_from(0, 0, 0);
    assert_int_equal(ss->state, SUPERSLAB_ABSENT);
    assert_int_equal(ss->committed, 0);
    char *again = hak_calloc(1, 2 * MIB);
    assert_ptr_equal(again, run);
    for (size_t at = 0; at < 2 * MIB; at += 4096)
        assert_int_equal(again[at], 0);
    assert_int_equal(ss->committed, 1);
    hak_free(again);
}

static bool is_zero(const char *bytes, size_t len_bytes)
{
    return bytes[0] == 0 && memcmp(bytes, bytes + 1, len_bytes - 1) == 0;
}

/* With what the system takes back go the pages of its records: those of its slabs, and the bit maps of small blocks. (By what is read there:
 * a look at a record brings a page of zeros.) */
static void records_of_what_goes_back_go_too(void **state)
{
    (void)state;
    static void *small[300000];
    const size_t slabs_bytes = SUPERSLAB_SLABS * sizeof(struct slab);
    const size_t bits_bytes = (size_t)SUPERSLAB_SLABS * SLAB_MAX_WORDS * sizeof(uint64_t);
    char *run = hak_malloc(2 * MIB);
    struct superslab *of_run = superslab_of(run), *ss = NULL;
    unsigned n = 0;
    while (n < 300000 && (n < 2 || superslab_of(small[n - 1]) == superslab_of(small[0]) || n % 1000 != 0))
        small[n] = hak_malloc(8), n++;
    for (unsigned i = 0; i < n; i++)
        if (superslab_of(small[i]) != of_run)
            ss = superslab_of(small[i]);
    assert_non_null(ss);
    const char *slabs = (const char *)superslab_slab(ss, 0);
    const char *bits = (const char *)(ss->arena->large_bits + superslab_slab_index(ss, 0) * SLAB_MAX_WORDS);
    assert_false(is_zero(slabs, slabs_bytes) || is_zero(bits, bits_bytes));
    for (unsigned i = 0; i < n; i++)
        hak_free(small[i]);
    hak_free(run);
    hak_trim(HAK_TRIM_PAGES);
    assert_int_equal(ss->state, SUPERSLAB_ABSENT);
    assert_true(is_zero(slabs, slabs_bytes) || os_page_bytes() > slabs_bytes);
    assert_true(is_zero(bits, bits_bytes) || os_page_bytes() > bits_bytes);
}

/* Of what the system does not take the next trim rids the process. */
static void what_was_refused_goes_at_the_next_trim(void **state)
{
    (void)state;
    char *run = hak_malloc(2 * MIB);
    assert_non_null(run);
    memset(run, 1, 2 * MIB);
    struct superslab *ss = superslab_of(run);
    uint64_t mapped_bytes = read_stats().mapped_bytes;
    hak_free(run);
    os_fail_from(1, 1000000, OS_CALL_PURGE | OS_CALL_DECOMMIT);
    lru_drain();
    os_fail_from(0, 0, 0);
    assert_int_equal(ss->state, SUPERSLAB_ABSENT);
    assert_int_equal(read_stats().mapped_bytes, mapped_bytes - 2 * MIB);
    assert_int_equal(os_resident_bytes(run, 2 * MIB), 2 * MIB);
    uint64_t committed_bytes = read_stats().committed_bytes;
    hak_trim(HAK_TRIM_PAGES);
    assert_true(superslab_is_clean(ss));
    assert_int_equal(os_resident_bytes(run, 2 * MIB), 0);
    assert_int_equal(read_stats().committed_bytes, committed_bytes - 2 * MIB);
    assert_int_equal(read_stats().mapped_bytes, mapped_bytes - 2 * MIB);
}

static void a_row_serves_shorter_requests(void **state)
{
    (void)state;
    void *run = hak_malloc(8 * MIB);
    struct superslab *ss = superslab_of(run);
    hak_free(run);
    assert_int_equal(lru_count(), 4);
    void *part = hak_malloc(4 * MIB);
    assert_ptr_equal(superslab_of(part), ss);
    assert_int_equal(lru_count(), 2);
    assert_int_equal(ss[2].state, SUPERSLAB_CACHED);
    assert_int_equal(ss[2].run_superslabs, 2);
    void *single = hak_malloc(2 * MIB);
    assert_ptr_equal(superslab_of(single), ss + 2);
    assert_int_equal(lru_count(), 1);
    hak_free(part);
    hak_free(single);
    assert_int_equal(lru_count(), 4);
}

static void cached_memory_is_cleared_for_calloc(void **state)
{
    (void)state;
    static const size_t sizes[] = {40000, 300000, 1000000, 2 * MIB, 3 * MIB, 7 * MIB};
    for (unsigned round = 0; round < 4; round++)
        for (unsigned i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
            unsigned char *block = hak_calloc(1, sizes[i]);
            assert_non_null(block);
            for (size_t k = 0; k < sizes[i]; k++)
                if (block[k] != 0)
                    fail_msg("byte %zu of %zu is not zero in round %u", k, sizes[i], round);
            memset(block, 0xa5, sizes[i]);
            hak_free(block);
            if (round == 2)
                hak_trim(HAK_TRIM_PAGES);
        }
}

/* ---- Where time empties the cache -------------------------------------------------------------------------------- */

static int drain_by_time(void **state)
{
    config.purge_delay_ms = 60000;
    return drain(state);
}

static int drain_at_once(void **state)
{
    (void)state;
    hak_trim(HAK_TRIM_PAGES);
    config.purge_delay_ms = 0;
    return lru_count() == 0 ? 0 : -1;
}

static uint64_t committed_bytes(void)
{
    return stats_read(&stats_counters.committed_bytes);
}

/* Long enough that it is forgotten what was in use before. */
static void ticks_pass(void)
{
    for (unsigned i = 0; i < 1000; i++)
        lru_expire(os_now_ms(), 60000);
}

/* What comes next wants to know what of the last run is in memory. */
static void ask(void)
{
    assert_true(pool_lock(HAK_LOCK_SPAN));
    lru_settle(0);
    pool_unlock();
    release_evicted();
    assert_int_equal(atomic_load(&budget.leaving_bytes), 0); /* Who is about to be refused would wait for it. */
}

/* Of a block that is used in part the cache holds that part's memory, however long the rest is; and the next block begins there. */
static void what_nobody_touched_takes_no_room(void **state)
{
    (void)state;
    leave_out_where_nobody_may_ask();
    uint64_t before_bytes = committed_bytes();
    char *run = hak_malloc(200 * MIB);
    struct superslab *ss = superslab_of(run);
    memset(run, 1, 5 * MIB);
    run[200 * MIB - 1] = 1; /* one page of a SuperSlab: purged */
    hak_free(run);
    assert_int_equal(lru_count(), 100);
    ask();
    assert_int_equal(lru_count(), 100);
    for (unsigned i = 0; i < 100; i++)
        assert_int_equal(superslab_is_clean(&ss[i]), i >= 3);
    assert_int_equal(committed_bytes(), before_bytes + 6 * MIB);
    unsigned char *zeroed = hak_calloc(1, 200 * MIB);
    assert_ptr_equal(zeroed, run);
    for (size_t at = 0; at < 200 * MIB; at += 4096)
        assert_int_equal(zeroed[at] | zeroed[at + 4095], 0);
    hak_free(zeroed);
}

static void a_run_begins_where_memory_is_warm(void **state)
{
    (void)state;
    leave_out_where_nobody_may_ask();
    char *cold = hak_malloc(20 * MIB), *warm = hak_malloc(10 * MIB), *more = hak_malloc(20 * MIB);
    assert_ptr_equal(superslab_of(warm), superslab_of(cold) + 10);
    assert_ptr_equal(superslab_of(more), superslab_of(cold) + 15);
    memset(warm, 1, 6 * MIB);
    hak_free(cold);
    hak_free(warm);
    hak_free(more);
    assert_int_equal(lru_count(), 25);
    assert_int_equal(superslab_of(cold)->run_superslabs, 15); /* The last one waits by itself. */
    assert_int_equal(superslab_of(more)->run_superslabs, 10);
    char *next = hak_malloc(30 * MIB); /* fits there, and at the row's beginning */
    assert_ptr_equal(next, warm);
    char *longer = hak_malloc(20 * MIB); /* only cold ones are left of it */
    assert_ptr_equal(longer, cold);
    hak_free(next);
    hak_free(longer);
}

/* Of two rows that are long enough the one in memory serves, though the other one came later. */
static void the_warm_row_serves(void **state)
{
    (void)state;
    leave_out_where_nobody_may_ask();
    char *warm = hak_malloc(6 * MIB), *between = hak_malloc(2 * MIB);
    char *cold = hak_malloc(6 * MIB), *end = hak_malloc(2 * MIB);
    memset(warm, 1, 6 * MIB);
    hak_free(warm);
    ask();
    hak_free(cold);
    ask();
    assert_int_equal(lru_count(), 6);
    assert_int_equal(superslab_of(warm)->run_superslabs, 3);
    char *next = hak_malloc(6 * MIB);
    assert_ptr_equal(next, warm);
    hak_free(next);
    hak_free(between);
    hak_free(end);
}

/* Of three blocks beside each other one waits, warm, and the others have gone: a block of twice the length begins where it should. */
static void check_beside(unsigned kept, unsigned begin)
{
    char *part[3];
    for (unsigned i = 0; i < 3; i++) {
        part[i] = hak_malloc(6 * MIB);
        memset(part[i], 1, 6 * MIB);
        assert_ptr_equal(part[i], part[0] + i * 6 * MIB);
    }
    char *end = hak_malloc(2 * MIB);
    for (unsigned i = 0; i < 3; i++)
        if (i != kept)
            hak_free(part[i]);
    ask();
    lru_expire(os_now_ms(), 0);
    assert_int_equal(lru_count(), 0);
    hak_free(part[kept]);
    assert_int_equal(lru_count(), 3);
    uint64_t mapped_bytes = read_stats().mapped_bytes;
    char *longer = hak_malloc(12 * MIB);
    assert_ptr_equal(longer, part[begin]);
    assert_int_equal(read_stats().mapped_bytes, mapped_bytes + 6 * MIB);
    assert_in_range(os_resident_bytes(longer, 12 * MIB), 6 * MIB, 7 * MIB);
    for (size_t at = 0; at < 6 * MIB; at++)
        assert_int_equal(part[kept][at], 1);
    hak_free(longer);
    hak_free(end);
}

static void what_is_free_beside_a_row_completes_it(void **state)
{
    leave_out_where_nobody_may_ask();
    check_beside(0, 0);
    hak_trim(HAK_TRIM_PAGES);
    drain_by_time(state);
    check_beside(2, 1);
}

/* A block as long as the last one gets it as it is, whatever was touched of it, and nothing is purged meanwhile; before any other one
 * is served it is asked what of it is in memory. */
static void the_last_run_serves_as_it_is(void **state)
{
    (void)state;
    leave_out_where_nobody_may_ask();
    char *run = hak_malloc(7 * MIB);
    run[0] = run[7 * MIB - 1] = 1;
    uint64_t purged = read_stats().purged_bytes, committed = committed_bytes();
    for (unsigned i = 0; i < 3; i++) {
        hak_free(run);
        assert_int_equal(committed_bytes(), committed);
        assert_false(superslab_is_clean(superslab_of(run) + 1));
        assert_ptr_equal(hak_malloc(7 * MIB), run);
        assert_int_equal(run[0] + run[7 * MIB - 1], 2);
    }
    assert_int_equal(read_stats().purged_bytes, purged);
    hak_free(run);
    unsigned char *shorter = hak_calloc(1, 5 * MIB);
    assert_ptr_equal(shorter, run);
    assert_int_equal(shorter[0] | shorter[5 * MIB - 1], 0);
    assert_true(superslab_is_clean(superslab_of(run) + 3)); /* asked about */
    hak_free(shorter);

    /* A long span takes part of it: the rest is asked about, too. */
    char *part, *most = hak_malloc(SPAN_MAX_BYTES), *untouched = hak_malloc(70 * MIB);
    untouched[0] = 1;
    hak_free(untouched);
    committed = committed_bytes();
    assert_non_null(part = hak_malloc(SPAN_MAX_BYTES));
    assert_true(committed_bytes() < committed - 60 * MIB);
    hak_free(part);
    hak_free(most);

    /* Who wants it zero does not clear, and so touch, what nobody has touched. */
    unsigned char *same = hak_malloc(70 * MIB);
    same[0] = same[70 * MIB - 1] = 1;
    hak_free(same);
    same = hak_calloc(1, 70 * MIB);
    assert_true(os_resident_bytes(same, 70 * MIB) < 8 * MIB);
    for (size_t at = 0; at < 70 * MIB; at += 4096)
        assert_int_equal(same[at] | same[at + 4095], 0);
    hak_free(same);
}

/* What the cache has kept goes before fresh memory makes the process larger than it was, by more than a twelfth: whether that is for
 * spans, slabs or runs. */
static void fresh_memory_takes_its_place(void **state)
{
    (void)state;
    static const struct {
        size_t size_bytes, n;
    } kinds[] = {{MIB, 80}, {30000, 2560}, {3 * MIB, 20}};
    for (unsigned k = 0; k < sizeof kinds / sizeof kinds[0]; k++) {
        void **blocks = NULL;
        drain(state);
        ticks_pass();
        uint64_t before = committed_bytes(), most = before + 100 * MIB + 100 * MIB / 12 + 4 * MIB;
        char *run = hak_malloc(100 * MIB);
        memset(run, 1, 100 * MIB);
        hak_free(run);
        assert_int_equal(committed_bytes(), before + 100 * MIB);
        for (size_t i = 0; i < kinds[k].n; i++) {
            void **block = hak_malloc(kinds[k].size_bytes);
            *block = (void *)blocks;
            blocks = block;
            assert_in_range(committed_bytes(), before, most);
        }
        while (blocks != NULL) {
            void **next = *blocks;
            hak_free((void *)blocks);
            blocks = next;
        }
    }
}

/* Also that of the few that the cache may always keep. */
static void fresh_memory_takes_the_place_of_few(void **state)
{
    (void)state;
    leave_out_where_nobody_may_ask();
    enum { N = 12 };
    char *run[N];
    ticks_pass();
    for (unsigned i = 0; i < N; i++)
        memset(run[i] = hak_malloc(2 * MIB), 1, 2 * MIB);
    for (unsigned i = 0; i < 8; i += 2) /* no two of them form a row */
        hak_free(run[i]);
    assert_int_equal(lru_count(), 4);
    char *longer = hak_malloc(6 * MIB);
    assert_in_range(lru_count(), 1, 3);
    hak_free(longer);
    for (unsigned i = 0; i < N; i++)
        if (i % 2 != 0 || i >= 8)
            hak_free(run[i]);
}

/* A slab would take one SuperSlab of what the next turn of the loop needs. */
static void slabs_leave_a_warm_run_alone(void **state)
{
    (void)state;
    char *run = hak_malloc(6 * MIB);
    memset(run, 1, 6 * MIB);
    hak_free(run);
    char *small = hak_malloc(100);
    assert_true(small < run || small >= run + 6 * MIB);
    char *again = hak_malloc(6 * MIB);
    assert_ptr_equal(again, run);
    hak_free(again);
    hak_free(small);
}

/* The cache keeps as much as was in use; then a longer block takes the place of some of it. */
static void what_was_in_use_is_kept(void **state)
{
    (void)state;
    char *run[3];
    void *between[3];
    ticks_pass();
    uint64_t before = committed_bytes();
    for (unsigned i = 0; i < 3; i++) {
        run[i] = hak_malloc(64 * MIB);
        between[i] = hak_malloc(2 * MIB);
        memset(run[i], 1, 64 * MIB);
    }
    for (unsigned i = 0; i < 3; i++)
        hak_free(run[i]);
    assert_int_equal(lru_count(), 3 * 32);
    char *larger = hak_malloc(80 * MIB);
    memset(larger, 1, 80 * MIB);
    assert_in_range(committed_bytes() - before, 180 * MIB, 226 * MIB);
    hak_free(larger);
    ask();
    assert_in_range(lru_count(), 80, 108);
    assert_int_equal(superslab_of(larger)->state, SUPERSLAB_CACHED);
    for (unsigned i = 0; i < 3; i++)
        hak_free(between[i]);
}

/* Where no thread gives back what waits, no more waits than is in use. */
static void without_the_thread_little_waits(void **state)
{
    (void)state;
    leave_out_where_nobody_may_ask();
    char *run[4];
    config.background = false;
    for (unsigned i = 0; i < 4; i++) {
        run[i] = hak_malloc(32 * MIB);
        memset(run[i], 1, 32 * MIB);
    }
    for (unsigned i = 1; i < 4; i++)
        hak_free(run[i]);
    assert_in_range(lru_count(), 8, 16 + 4); /* 16 are in use, and a few of the process's own */
    hak_free(run[0]);
    assert_in_range(lru_count(), 0, 8);
    config.background = true;
}

/* What runs are not used of is not kept from one to the next: of large blocks that are touched at their beginning, little but that part
 * is in memory, whatever lay there before. */
static void what_is_not_used_is_not_inherited(void **state)
{
    (void)state;
    leave_out_where_nobody_may_ask();
    enum { SLOTS = 8, TOUCHED_BYTES = 4 * MIB };
    char *block[SLOTS] = {NULL};
    size_t size_bytes[SLOTS], resident_bytes = 0;
    uint64_t random = 11;
    for (unsigned i = 0; i < 400; i++) {
        random = random * 6364136223846793005u + 1442695040888963407u;
        unsigned k = (unsigned)(random >> 40) % SLOTS;
        hak_free(block[k]);
        size_bytes[k] = (8 + (random >> 50) % 56) * MIB;
        block[k] = hak_malloc(size_bytes[k]);
        assert_non_null(block[k]);
        memset(block[k], 1, TOUCHED_BYTES);
    }
    for (unsigned k = 0; k < SLOTS; k++)
        resident_bytes += os_resident_bytes(block[k], size_bytes[k]);
    assert_in_range(resident_bytes, SLOTS * TOUCHED_BYTES, 2 * SLOTS * TOUCHED_BYTES);
    for (unsigned k = 0; k < SLOTS; k++)
        hak_free(block[k]);
}

static void clean_ones_are_bounded_too(void **state)
{
    (void)state;
    leave_out_where_nobody_may_ask();
    void *run[20], *between[20];
    for (unsigned i = 0; i < 20; i++) {
        run[i] = hak_malloc(200 * MIB);
        between[i] = hak_malloc(2 * MIB);
        assert_non_null(run[i]);
    }
    for (unsigned i = 0; i < 20; i++)
        hak_free(run[i]);
    ask();
    assert_in_range(lru_count(), 1000, 1024 + 32);
    for (unsigned i = 0; i < 20; i++)
        hak_free(between[i]);
}

static void where_only_a_trim_gives_back_nothing_is_purged(void **state)
{
    (void)state;
    config.purge_delay_ms = -1;
    char *run = hak_malloc(40 * MIB);
    struct superslab *ss = superslab_of(run);
    hak_free(run); /* nobody has touched it */
    for (unsigned i = 0; i < 20; i++)
        assert_false(superslab_is_clean(&ss[i]));
}

/* Where the system does not tell what is in memory, all of it may be; where it does not purge, nothing is clean. */
static void without_an_answer_all_is_touched(void **state)
{
    (void)state;
    static const unsigned refused[] = {OS_CALL_LOOK, OS_CALL_PURGE};
    for (unsigned k = 0; k < 2; k++) {
        char *run = hak_malloc(40 * MIB);
        struct superslab *ss = superslab_of(run);
        memset(run, 1, 2 * MIB);
        os_fail_from(1, 1000, refused[k]);
        hak_free(run);
        os_fail_from(0, 0, 0);
        for (unsigned i = 0; i < 20; i++)
            assert_false(superslab_is_clean(&ss[i]));
        unsigned char *zeroed = hak_calloc(1, 40 * MIB);
        for (size_t at = 0; at < 40 * MIB; at += 4096)
            assert_int_equal(zeroed[at], 0);
        hak_free(zeroed);
        hak_trim(HAK_TRIM_PAGES);
    }
}

/* ---- Fork ---- */

static _Atomic int is_held, may_go;

/* A SuperSlab and the lock in the hands of a thread. (It stands for two: one that maps a SuperSlab, and one that has the lock.) */
static void *map_and_hold(void *result)
{
    struct superslab *ss = superslab_map(1, SUPERSLAB_BYTES);
    *(struct superslab **)result = ss;
    if (ss == NULL || !pool_lock(HAK_LOCK_SPAN))
        abort();
    atomic_store(&is_held, 1);
    while (!atomic_load(&may_go))
        usleep(1000);
    pool_unlock();
    release_row(ss, 1);
    return NULL;
}

/* The child gives it back to the arena, and so it counts no longer. */
static void what_a_child_takes_back_is_not_mapped(void **state)
{
    (void)state;
    struct superslab *ss = NULL;
    pthread_t thread;
    uint64_t before_bytes = read_stats().mapped_bytes;
    assert_int_equal(pthread_create(&thread, NULL, map_and_hold, &ss), 0);
    while (!atomic_load(&is_held))
        usleep(1000);
    assert_int_equal(read_stats().mapped_bytes, before_bytes + SUPERSLAB_BYTES);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0)
        _exit(ss->state != SUPERSLAB_ABSENT ? 1 : read_stats().mapped_bytes != before_bytes ? 2 : 0);
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    atomic_store(&may_go, 1);
    pthread_join(thread, NULL);
    assert_int_equal(read_stats().mapped_bytes, before_bytes);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(bounded_and_oldest_out_first, drain),
        cmocka_unit_test_setup(neighbours_form_a_row, drain),
        cmocka_unit_test_setup(alignment_splits_a_row, drain),
        cmocka_unit_test_setup(parts_of_a_row_expire, drain),
        cmocka_unit_test_setup(a_run_longer_than_the_cache_goes_at_once, drain),
        cmocka_unit_test_setup(pinned_entries_stay, drain),
        cmocka_unit_test_setup(pinned_entries_stay_by_themselves, drain),
        cmocka_unit_test_setup(long_rows_serve_again, drain),
        cmocka_unit_test_setup(a_pair_across_words_is_found, drain),
        cmocka_unit_test_setup(what_cannot_be_purged_is_let_go_of, drain),
        cmocka_unit_test_setup(records_of_what_goes_back_go_too, drain),
        cmocka_unit_test_setup(what_was_refused_goes_at_the_next_trim, drain),
        cmocka_unit_test_setup(a_row_serves_shorter_requests, drain),
        cmocka_unit_test_setup(cached_memory_is_cleared_for_calloc, drain),
        cmocka_unit_test_setup(what_a_child_takes_back_is_not_mapped, drain),
        cmocka_unit_test_setup_teardown(what_nobody_touched_takes_no_room, drain_by_time, drain_at_once),
        cmocka_unit_test_setup_teardown(a_run_begins_where_memory_is_warm, drain_by_time, drain_at_once),
        cmocka_unit_test_setup_teardown(the_warm_row_serves, drain_by_time, drain_at_once),
        cmocka_unit_test_setup_teardown(what_is_free_beside_a_row_completes_it, drain_by_time, drain_at_once),
        cmocka_unit_test_setup_teardown(the_last_run_serves_as_it_is, drain_by_time, drain_at_once),
        cmocka_unit_test_setup_teardown(fresh_memory_takes_its_place, drain_by_time, drain_at_once),
        cmocka_unit_test_setup_teardown(fresh_memory_takes_the_place_of_few, drain_by_time, drain_at_once),
        cmocka_unit_test_setup_teardown(slabs_leave_a_warm_run_alone, drain_by_time, drain_at_once),
        cmocka_unit_test_setup_teardown(what_was_in_use_is_kept, drain_by_time, drain_at_once),
        cmocka_unit_test_setup_teardown(without_the_thread_little_waits, drain_by_time, drain_at_once),
        cmocka_unit_test_setup_teardown(what_is_not_used_is_not_inherited, drain_by_time, drain_at_once),
        cmocka_unit_test_setup_teardown(clean_ones_are_bounded_too, drain_by_time, drain_at_once),
        cmocka_unit_test_setup_teardown(where_only_a_trim_gives_back_nothing_is_purged, drain_by_time, drain_at_once),
        cmocka_unit_test_setup_teardown(without_an_answer_all_is_touched, drain_by_time, drain_at_once),
    };
    return status_with_left_out(cmocka_run_group_tests(tests, NULL, NULL));
}
