/* test_stats.c - hak_stats_get and its neighbours: every figure that a known sequence of calls determines.
 * Threads  one, save where a test starts some; figures are compared as differences, so the tests do not depend on each other.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "api/introspect.h"
#include "hakmem/hakmem.h"
#include "meta/layout.h"
#include "meta/sizeclass.h"
#include "os/os.h"
#include "pool/shared_pool.h"
#include "service/config.h"
#include "service/stats.h"
#include "look.h"

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

static void version_is_the_headers(void **state)
{
    (void)state;
    char text[32];
    snprintf(text, sizeof text, "%d.%d.%d", HAKMEM_VERSION_MAJOR, HAKMEM_VERSION_MINOR, HAKMEM_VERSION_PATCH);
    assert_string_equal(hak_version(), text);
    assert_ptr_equal(hak_version(), hak_version());
}

/* ---- hak_stats_get's arguments ----------------------------------------------------------------------------------------- */

static void short_structs_are_filled_as_far_as_they_go(void **state)
{
    (void)state;
    struct hak_stats whole = read_stats();
    assert_int_equal(whole.version, HAK_STATS_VERSION);
    assert_int_equal(whole.struct_size_bytes, sizeof whole);
    for (size_t size_bytes = 8; size_bytes <= sizeof whole + 64; size_bytes++) {
        union {
            struct hak_stats stats;
            unsigned char bytes[sizeof(struct hak_stats) + 128];
        } out;
        size_t filled = size_bytes < sizeof whole ? size_bytes : sizeof whole;
        memset(&out, 0xa5, sizeof out);
        errno = 0;
        assert_int_equal(hak_stats_get(&out.stats, size_bytes), 0);
        assert_int_equal(errno, 0);
        assert_int_equal(out.stats.version, HAK_STATS_VERSION);
        assert_int_equal(out.stats.struct_size_bytes, filled);
        assert_memory_equal(out.bytes + 8, (unsigned char *)&whole + 8, filled - 8);
        for (size_t i = filled; i < sizeof out; i++)
            assert_int_equal(out.bytes[i], 0xa5);
    }
}

/* What a program has that was compiled with version 1 of the struct. */
struct hak_stats_1 {
    uint32_t version, struct_size_bytes;
    uint64_t live_bytes, live_blocks, cached_bytes, cached_blocks, committed_bytes, peak_committed_bytes,
        reserved_bytes, metadata_bytes, superslabs, superslabs_hot, superslabs_draining, superslabs_cached,
        superslabs_mapped_total, superslabs_released_total, superslabs_evicted_total, slots_unused, slots_active,
        slots_empty, spans, span_bytes, runs, run_bytes, stage_class_list, stage_slot, stage_reopen, stage_lru,
        stage_os, slabs_released, slot_reuses_other_class, tier_hot_to_draining, tier_draining_to_hot, tier_to_free,
        release_refused_pinned, purged_bytes, lock_acquisitions[7], lock_contended, refills, flushes, threads, arenas,
        caches_emptied, mapped_bytes, budget_soft_bytes, budget_hard_bytes, budget_refusals, budget_reliefs,
        sampled_total;
};
_Static_assert(sizeof(struct hak_stats_1) == offsetof(struct hak_stats, fragmentation_bytes),
               "version 1 is the beginning");
_Static_assert(sizeof(struct hak_stats_1) + (6 + 2 * 10 + 3) * sizeof(uint64_t) ==
                   offsetof(struct hak_stats, gap_slabs),
               "and then comes what version 2 added");

static void callers_of_version_1_get_all_that_they_know(void **state)
{
    (void)state;
    void *small = hak_malloc(100), *span = hak_malloc(50000);
    struct hak_stats now = read_stats();
    struct {
        struct hak_stats_1 stats;
        unsigned char behind[256];
    } old;
    memset(&old, 0xa5, sizeof old);
    assert_int_equal(hak_stats_get((struct hak_stats *)(void *)&old.stats, sizeof old.stats), 0);
    assert_int_equal(old.stats.version, HAK_STATS_VERSION);
    assert_int_equal(old.stats.struct_size_bytes, sizeof old.stats);
#define SAME(field) assert_int_equal(old.stats.field, now.field);
    SAME(live_bytes)
    SAME(live_blocks)
    SAME(committed_bytes)
    SAME(slots_active)
    SAME(span_bytes)
    SAME(purged_bytes)
    SAME(lock_acquisitions[HAK_LOCK_METADATA])
    SAME(lock_contended)
    SAME(refills)
    SAME(threads)
    SAME(mapped_bytes)
    SAME(sampled_total)
    assert_true(old.stats.threads == 1 && old.stats.live_bytes >= 50000);
    for (size_t i = 0; i < sizeof old.behind; i++)
        assert_int_equal(old.behind[i], 0xa5);
    hak_free(small);
    hak_free(span);
}

static void bad_arguments_are_refused(void **state)
{
    (void)state;
    struct hak_stats s;
    memset(&s, 0xa5, sizeof s);
    const struct hak_stats untouched = s;
    for (size_t size_bytes = 0; size_bytes < 8; size_bytes++) {
        errno = 0;
        assert_int_equal(hak_stats_get(&s, size_bytes), -1);
        assert_int_equal(errno, EINVAL);
    }
    assert_memory_equal(&s, &untouched, sizeof s);
    errno = 0;
    assert_int_equal(hak_stats_get(NULL, sizeof s), -1);
    assert_int_equal(errno, EINVAL);
}

/* Where no file can be opened the system says nothing of what is in memory. */
static void memory_in_use_may_be_unknown(void **state)
{
    (void)state;
    struct rlimit before, none;
    struct hak_resident resident = {1, 2};
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &before), 0);
    none = before;
    none.rlim_cur = 0;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
    errno = 0;
    int status = hak_resident_get(&resident), error = errno;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &before), 0);
    assert_int_equal(status, -1);
    assert_int_equal(error, ENOSYS);
    assert_true(resident.resident_bytes == 1 && resident.huge_bytes == 2);
}

/* ---- Figures --------------------------------------------------------------------------------------------------------- */

#define N_BLOCKS 1000

static void live_figures_are_exact(void **state)
{
    (void)state;
    static void *blocks[N_BLOCKS];
    static const size_t sizes[] = {1, 8, 9, 24, 100, 128, 129, 250, 1000, 1024, 1025, 4000, 10000, 20000, 32768};
    for (size_t k = 0; k < sizeof sizes / sizeof sizes[0]; k++) {
        struct hak_stats before = read_stats();
        uint64_t usable_bytes = 0;
        for (unsigned i = 0; i < N_BLOCKS; i++) {
            blocks[i] = hak_malloc(sizes[k]);
            assert_non_null(blocks[i]);
            usable_bytes += hak_usable_size(blocks[i]);
        }
        struct hak_stats after = read_stats();
        assert_int_equal(after.live_blocks - before.live_blocks, N_BLOCKS);
        assert_int_equal(after.live_bytes - before.live_bytes, usable_bytes);
        assert_int_equal(after.spans, before.spans);
        assert_int_equal(after.runs, before.runs);
        assert_true(after.committed_bytes >= after.live_bytes);
        for (unsigned i = 0; i < N_BLOCKS / 2; i++)
            hak_free(blocks[i]);
        assert_int_equal(read_stats().live_blocks - before.live_blocks, N_BLOCKS - N_BLOCKS / 2);
        for (unsigned i = N_BLOCKS / 2; i < N_BLOCKS; i++)
            hak_free(blocks[i]);
        after = read_stats();
        assert_int_equal(after.live_blocks, before.live_blocks);
        assert_int_equal(after.live_bytes, before.live_bytes);
        assert_true(after.cached_blocks > 0);
        assert_true(after.cached_bytes >= 8 * after.cached_blocks);
    }
    hak_trim(HAK_TRIM_CACHE);
    assert_int_equal(read_stats().cached_blocks, 0);
    assert_int_equal(read_stats().cached_bytes, 0);
}

/* A block above 32 KiB is a span up to 31 slots and a run above; its bytes are the request in whole pages. */
static void spans_and_runs_are_exact(void **state)
{
    (void)state;
    static const struct {
        size_t size_bytes;
        unsigned spans, runs;
    } rows[] = {{32769, 1, 0},   {65536, 1, 0},         {65537, 1, 0},    {500000, 1, 0},
                {1 << 20, 1, 0}, {(1 << 20) + 1, 1, 0}, {31 << 16, 1, 0}, {(31 << 16) + 1, 0, 1},
                {2 << 20, 0, 1}, {(2 << 20) + 1, 0, 1}, {5 << 20, 0, 1},  {33 << 20, 0, 1}};
    for (size_t k = 0; k < sizeof rows / sizeof rows[0]; k++) {
        struct hak_stats before = read_stats();
        void *block = hak_malloc(rows[k].size_bytes);
        assert_non_null(block);
        struct hak_stats after = read_stats();
        uint64_t len_bytes = round_up(rows[k].size_bytes, os_page_bytes());
        assert_int_equal(hak_usable_size(block), len_bytes);
        assert_int_equal(after.spans - before.spans, rows[k].spans);
        assert_int_equal(after.span_bytes - before.span_bytes, rows[k].spans * len_bytes);
        assert_int_equal(after.runs - before.runs, rows[k].runs);
        assert_int_equal(after.run_bytes - before.run_bytes, rows[k].runs * len_bytes);
        assert_int_equal(after.live_blocks - before.live_blocks, 1);
        assert_int_equal(after.live_bytes - before.live_bytes, len_bytes);
        if (rows[k].spans != 0)
            assert_int_equal(after.slots_active - before.slots_active, (len_bytes + SLAB_BYTES - 1) / SLAB_BYTES);
        hak_free(block);
        after = read_stats();
        assert_int_equal(after.spans, before.spans);
        assert_int_equal(after.runs, before.runs);
        assert_int_equal(after.span_bytes, before.span_bytes);
        assert_int_equal(after.run_bytes, before.run_bytes);
        assert_int_equal(after.live_bytes, before.live_bytes);
    }
}

static void assert_sums(void)
{
    struct hak_stats s = read_stats();
    assert_int_equal(s.slots_unused + s.slots_active + s.slots_empty, SUPERSLAB_SLABS * s.superslabs);
    assert_int_equal(s.superslabs_hot + s.superslabs_draining, s.superslabs);
    assert_int_equal(s.mapped_bytes % SUPERSLAB_BYTES, 0);
    assert_true(s.mapped_bytes >= (s.superslabs + s.superslabs_cached + s.runs) * SUPERSLAB_BYTES);
    assert_true(s.committed_bytes <= s.mapped_bytes); /* nothing was refused by the system */
    assert_true(s.committed_bytes >= s.live_bytes + s.cached_bytes);
    assert_true(s.peak_committed_bytes >= s.committed_bytes);
    assert_true(s.reserved_bytes >= s.committed_bytes);
    assert_true(s.metadata_bytes > 0);
    assert_true(s.arenas >= 1);
    assert_true(s.threads >= 1);
    assert_int_equal((s.superslabs_mapped_total - s.superslabs_released_total - s.superslabs_evicted_total) *
                         SUPERSLAB_BYTES,
                     s.mapped_bytes);
    assert_null(pool_check());
}

/* 32 slots for each SuperSlab, and every SuperSlab at one tier, while a heap grows, thins out and goes. */
static void sums_hold(void **state)
{
    (void)state;
    enum { N = 20000 };
    static void *blocks[N];
    hak_free(hak_malloc(1));
    assert_sums();
    for (unsigned i = 0; i < N; i++) {
        blocks[i] = hak_malloc(i % 500 == 0 ? 40000 + i * 100 : 16 + i % 2000);
        if (i % 1000 == 0)
            assert_sums();
    }
    for (unsigned i = 0; i < N; i++) {
        if (i % 64 != 0) {
            hak_free(blocks[i]);
            blocks[i] = NULL;
        }
        if (i % 1000 == 0)
            assert_sums();
    }
    hak_trim(HAK_TRIM_PAGES);
    assert_sums();
    for (unsigned i = 0; i < N; i++)
        hak_free(blocks[i]);
    hak_trim(HAK_TRIM_PAGES);
    assert_sums();
    assert_int_equal(read_stats().live_blocks, 0);
    assert_int_equal(read_stats().superslabs_cached, 0);
}

/* ---- Events -------------------------------------------------------------------------------------------------------------- */

static uint64_t lock_sum(const struct hak_stats *s)
{
    uint64_t sum = 0;
    for (unsigned i = 0; i < HAK_LOCK_N_CAUSES; i++)
        sum += s->lock_acquisitions[i];
    return sum;
}

/* Asserts that the lock was taken for this cause, and for no other. */
static void assert_only_cause(const struct hak_stats *before, enum hak_lock_cause cause)
{
    struct hak_stats after = read_stats();
    for (unsigned i = 0; i < HAK_LOCK_N_CAUSES; i++) {
        if (i == cause && after.lock_acquisitions[i] == before->lock_acquisitions[i])
            fail_msg("no acquisition counted for %s", lock_names[i]);
        if (i != cause && after.lock_acquisitions[i] != before->lock_acquisitions[i])
            fail_msg("an acquisition counted for %s instead of %s", lock_names[i], lock_names[cause]);
    }
}

static void *claim_and_return(void *unused)
{
    hak_free(hak_malloc(100));
    return unused;
}

/* A neighbour pins the SuperSlab's tier and keeps it from being given back. */
static void locks_are_counted_by_cause(void **state)
{
    (void)state;
    void *neighbour = hak_malloc(40000);
    hak_free(hak_malloc(40000));

    hak_free(hak_malloc(64));
    struct hak_stats before = read_stats(); /* From here on the magazine serves all: hits. */
    for (unsigned i = 0; i < 1000; i++)
        hak_free(hak_malloc(64));
    struct hak_stats after = read_stats();
    assert_int_equal(lock_sum(&after), lock_sum(&before));
    assert_int_equal(after.refills, before.refills);
    assert_int_equal(after.flushes, before.flushes);

    before = read_stats();
    void *span = hak_malloc(50000);
    assert_only_cause(&before, HAK_LOCK_SPAN);
    assert_int_equal(read_stats().lock_acquisitions[HAK_LOCK_SPAN], before.lock_acquisitions[HAK_LOCK_SPAN] + 1);
    before = read_stats();
    hak_free(span);
    assert_only_cause(&before, HAK_LOCK_SPAN);

    before = read_stats();
    assert_false(shared_pool_pin(&(struct superslab){.state = SUPERSLAB_ABSENT}));
    assert_only_cause(&before, HAK_LOCK_TRIM);

    before = read_stats();
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, claim_and_return, NULL), 0);
    assert_int_equal(pthread_join(thread, NULL), 0);
    after = read_stats();
    assert_true(after.lock_acquisitions[HAK_LOCK_METADATA] > before.lock_acquisitions[HAK_LOCK_METADATA]);

    static void *blocks[3000]; /* 100 slabs of 2 KiB blocks */
    before = read_stats();
    for (unsigned i = 0; i < 3000; i++)
        blocks[i] = hak_malloc(2048);
    after = read_stats();
    uint64_t n_slabs =
        after.stage_slot + after.stage_os + after.stage_lru - before.stage_slot - before.stage_os - before.stage_lru;
    assert_true(n_slabs >= 3000 / (SLAB_BYTES / 2048));
    assert_true(after.lock_acquisitions[HAK_LOCK_ACQUIRE_SLAB] - before.lock_acquisitions[HAK_LOCK_ACQUIRE_SLAB] >=
                n_slabs);
    assert_int_equal(after.lock_acquisitions[HAK_LOCK_RELEASE_SLAB], before.lock_acquisitions[HAK_LOCK_RELEASE_SLAB]);
    assert_true(after.refills > before.refills);

    before = read_stats();
    for (unsigned i = 0; i < 3000; i++)
        hak_free(blocks[i]);
    hak_trim(HAK_TRIM_CACHE);
    after = read_stats();
    uint64_t n_released = after.slabs_released - before.slabs_released;
    assert_true(n_released >= 3000 / (SLAB_BYTES / 2048));
    assert_true(after.lock_acquisitions[HAK_LOCK_RELEASE_SLAB] - before.lock_acquisitions[HAK_LOCK_RELEASE_SLAB] >=
                n_released);
    assert_true(after.flushes > before.flushes);
    assert_int_equal(after.lock_acquisitions[HAK_LOCK_FORK], 0); /* nobody forked */
    hak_free(neighbour);
}

/* A slot that another class used before is counted as such; one that the same class takes again is not. */
static void reuse_by_another_class_is_counted(void **state)
{
    (void)state;
    void *neighbour = hak_malloc(40000);
    hak_free(hak_malloc(3000));
    hak_trim(HAK_TRIM_CACHE); /* its slot is EMPTY now */
    struct hak_stats before = read_stats();
    void *block = hak_malloc(3000);
    assert_int_equal(read_stats().slot_reuses_other_class, before.slot_reuses_other_class);
    hak_free(block);
    hak_trim(HAK_TRIM_CACHE);
    block = hak_malloc(700);
    assert_int_equal(read_stats().slot_reuses_other_class, before.slot_reuses_other_class + 1);
    hak_free(block);
    hak_trim(HAK_TRIM_CACHE);
    hak_free(neighbour);
}

/* Of small blocks a hundredth lives on; larger ones that are asked for from tick to tick come to lie between them. */
static void blocks_in_gaps_are_counted(void **state)
{
    (void)state;
    enum { N_SMALL = 100000, N_LARGE = 400, TICKS = 8, KEEP_ONE_OF = 100 };
    static void *small[N_SMALL], *large[TICKS * N_LARGE];
    unsigned n_large = 0;
    struct hak_stats before = read_stats(), s = before;
    assert_int_equal(before.gap_slabs, 0);
    for (unsigned i = 0; i < N_SMALL; i++)
        small[i] = hak_malloc(64);
    for (unsigned i = 0; i < N_SMALL; i++)
        if (i % KEEP_ONE_OF != 0)
            hak_free(small[i]);
    hak_trim(HAK_TRIM_CACHE);
    while (n_large < TICKS * N_LARGE && s.gap_blocks_total == before.gap_blocks_total) {
        for (unsigned i = 0; i < N_LARGE; i++)
            large[n_large++] = hak_malloc(1000);
        shared_pool_tick();
        s = read_stats();
    }
    assert_true(s.gap_slabs > 0 && s.gap_blocks_total > before.gap_blocks_total);
    assert_true(s.gap_blocks_total - before.gap_blocks_total <= n_large);
    assert_int_equal(s.live_blocks - before.live_blocks, N_SMALL / KEEP_ONE_OF + n_large);
    uint64_t most_blocks = s.gap_blocks_total;
    for (unsigned i = 0; i < n_large; i++)
        hak_free(large[i]);
    for (unsigned i = 0; i < N_SMALL; i += KEEP_ONE_OF)
        hak_free(small[i]);
    hak_trim(HAK_TRIM_PAGES);
    s = read_stats();
    assert_int_equal(s.gap_slabs, 0);
    assert_int_equal(s.gap_blocks_total, most_blocks);
    assert_int_equal(s.live_blocks, before.live_blocks);
}

static void *wait_with_a_block(void *barrier)
{
    void *block = hak_malloc(64);
    pthread_barrier_wait(barrier);
    pthread_barrier_wait(barrier);
    hak_free(block);
    return NULL;
}

static void threads_are_counted(void **state)
{
    (void)state;
    enum { N_THREADS = 5 };
    pthread_t threads[N_THREADS];
    pthread_barrier_t barrier;
    pthread_barrier_init(&barrier, NULL, N_THREADS + 1);
    struct hak_stats before = read_stats();
    for (unsigned i = 0; i < N_THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, wait_with_a_block, &barrier), 0);
    pthread_barrier_wait(&barrier);
    struct hak_stats during = read_stats();
    pthread_barrier_wait(&barrier);
    for (unsigned i = 0; i < N_THREADS; i++)
        assert_int_equal(pthread_join(threads[i], NULL), 0);
    pthread_barrier_destroy(&barrier);
    assert_int_equal(during.threads, before.threads + N_THREADS);
    assert_int_equal(during.live_blocks, before.live_blocks + N_THREADS);
    assert_int_equal(read_stats().threads, before.threads);
    assert_int_equal(read_stats().live_blocks, before.live_blocks);
}

/* Each counter is told under its own name: each is raised by another number, and put back. */
static void counters_are_told_as_themselves(void **state)
{
    (void)state;
/* clang-format off */
#define COUNTERS(X)                                                                                                    \
    X(stage_class_list) X(stage_slot) X(stage_reopen) X(stage_lru) X(stage_os) X(gap_blocks_total) X(slabs_released)   \
    X(slot_reuses_other_class) X(tier_hot_to_draining) X(tier_draining_to_hot) X(tier_to_free)                         \
    X(superslabs_mapped_total) X(superslabs_released_total) X(superslabs_evicted_total) X(release_refused_pinned)      \
    X(purged_bytes) X(caches_emptied) X(lock_contended) X(budget_refusals) X(budget_reliefs)
    /* clang-format on */
    struct hak_stats before = read_stats();
    uint64_t by = 0;
#define RAISE(name) stats_add(&stats_counters.name, by += 1000);
    COUNTERS(RAISE)
    struct hak_stats after = read_stats();
#define PUT_BACK(name) stats_add(&stats_counters.name, (uint64_t)0 - (by += 1000));
    by = 0;
    COUNTERS(PUT_BACK)
    by = 0;
#define HOLD(name) assert_int_equal(after.name, before.name + (by += 1000));
    COUNTERS(HOLD)
}

/* What the threads' lines say of caches sums up to what is told of all of them. */
static void caches_of_threads_sum_up(void **state)
{
    (void)state;
    int64_t delay_ms = config.purge_delay_ms;
    config.purge_delay_ms = 1000000; /* a thread keeps a large block */
    void *small = hak_malloc(500), *large = hak_malloc(100 * KIB);
    memset(large, 1, 100 * KIB);
    hak_free(small);
    hak_free(large);
    struct census_source source = introspect_source();
    const struct thread *at = NULL;
    struct census_thread thread;
    uint64_t blocks = 0, bytes = 0, held_bytes = 0;
    while (census_thread_next(&source, &at, &thread)) {
        blocks += thread.cached_blocks;
        bytes += thread.cached_bytes;
        held_bytes += thread.held_bytes;
    }
    struct hak_stats s = read_stats();
    assert_true(held_bytes >= 100 * KIB);
    assert_int_equal(blocks, s.cached_blocks);
    assert_int_equal(bytes, s.cached_bytes);
    config.purge_delay_ms = delay_ms;
    hak_trim(HAK_TRIM_PAGES);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(version_is_the_headers),
        cmocka_unit_test(short_structs_are_filled_as_far_as_they_go),
        cmocka_unit_test(callers_of_version_1_get_all_that_they_know),
        cmocka_unit_test(bad_arguments_are_refused),
        cmocka_unit_test(memory_in_use_may_be_unknown),
        cmocka_unit_test(live_figures_are_exact),
        cmocka_unit_test(spans_and_runs_are_exact),
        cmocka_unit_test(sums_hold),
        cmocka_unit_test(locks_are_counted_by_cause),
        cmocka_unit_test(reuse_by_another_class_is_counted),
        cmocka_unit_test(blocks_in_gaps_are_counted),
        cmocka_unit_test(threads_are_counted),
        cmocka_unit_test(counters_are_told_as_themselves),
        cmocka_unit_test(caches_of_threads_sum_up),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
