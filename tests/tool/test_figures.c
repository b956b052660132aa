/* test_figures.c - what is computed from one snapshot and from two: rates, rows, orders.
 * Threads  one.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "figures.h"
#include "figures_data.h"

static void test_no_rates_from_one(void **state)
{
    struct snapshot now = begin_data("x", 2);
    struct figures f;
    (void)state;
    fill_data(&now, 5);
    figures_make(&f, NULL, &now, NULL, 0);
    assert_true(f.rates.interval_s == 0 && f.rates.refills == 0 && f.rates.live_bytes == 0);
    assert_int_equal(f.n_threads, 2);
    assert_true(f.threads[0].refills_per_s == 0);
    figures_free(&f);
    figures_make(&f, &now, &now, NULL, 0); /* no time between them */
    assert_true(f.rates.interval_s == 0);
    figures_free(&f);
    end_data(&now);
}

/* Each rate is of its own counter. */
static void test_rates_apart(void **state)
{
    struct snapshot before = begin_data("x", 1), now = begin_data("x", 1);
    struct hak_stats *stats = &now.census.stats;
    struct figures f;
    (void)state;
    fill_data(&before, 0);
    fill_data(&now, 0);
    now.time_ns = before.time_ns + SECOND_NS;
    uint64_t *const later[] = {&stats->stage_class_list, &stats->stage_slot,     &stats->stage_reopen,
                               &stats->stage_lru,        &stats->stage_os,       &stats->refills,
                               &stats->flushes,          &stats->slabs_released, &stats->lock_contended,
                               &stats->purged_bytes};
    for (unsigned i = 0; i < 10; i++) {
        uint64_t *earlier = (uint64_t *)(void *)((char *)&before.census.stats + ((char *)later[i] - (char *)stats));
        *earlier = 100 * i;
        *later[i] = 101 * i + 1;
    }
    figures_make(&f, &before, &now, NULL, 0);
    for (unsigned i = 0; i < FIGURES_STAGES; i++)
        assert_true(f.rates.acquired[i] == i + 1);
    assert_true(f.rates.refills == 6 && f.rates.flushes == 7 && f.rates.slabs_released == 8);
    assert_true(f.rates.lock_contended == 9 && f.rates.purged_bytes == 10 && f.rates.given_back_bytes == 10);
    figures_free(&f);
    end_data(&before);
    end_data(&now);
}

static void test_rates(void **state)
{
    struct snapshot before = begin_data("x", 1), now = begin_data("x", 1);
    struct figures f;
    (void)state;
    fill_data(&before, 100);
    fill_data(&now, 400);
    now.time_ns = before.time_ns + 2 * SECOND_NS;
    now.census.stats.live_bytes = 20;
    figures_make(&f, &before, &now, NULL, 0);
    assert_true(f.rates.interval_s == 2);
    assert_true(f.rates.live_bytes == -40 && f.rates.committed_bytes == 150);
    assert_true(f.rates.refills == 150 && f.rates.flushes == 150 && f.rates.slabs_released == 150);
    for (unsigned i = 0; i < FIGURES_STAGES; i++)
        assert_true(f.rates.acquired[i] == 150);
    assert_true(f.rates.lock_acquisitions == 150 * HAK_LOCK_N_CAUSES && f.rates.lock_contended == 150);
    assert_true(f.rates.purged_bytes == 150);
    assert_true(f.rates.given_back_bytes == 150.0 + 300.0 * SUPERSLAB_BYTES);
    assert_int_equal(f.given_back_bytes, 400 + 800 * SUPERSLAB_BYTES);
    assert_int_equal(f.lock_acquisitions, 400 * HAK_LOCK_N_CAUSES);
    assert_true(f.threads[0].refills_per_s == 150 && f.threads[0].flushes_per_s == 150);
    figures_free(&f);
    end_data(&before);
    end_data(&now);
}

/* Another program has taken the process's place: its counters begin anew. */
static void test_counters_that_went_back(void **state)
{
    struct snapshot before = begin_data("x", 1), now = begin_data("x", 1);
    struct figures f;
    (void)state;
    fill_data(&before, 100);
    fill_data(&now, 1);
    now.time_ns += SECOND_NS;
    figures_make(&f, &before, &now, NULL, 0);
    assert_true(f.rates.refills == 0 && f.rates.purged_bytes == 0 && f.rates.lock_acquisitions == 0);
    assert_true(f.rates.live_bytes == -99);
    assert_true(f.threads[0].flushes_per_s == 0);
    figures_free(&f);
    end_data(&before);
    end_data(&now);
}

/* Sums of huge numbers stop at the largest one instead of starting again. */
static void test_huge_numbers(void **state)
{
    struct snapshot before = begin_data("x", 1), now = begin_data("x", 1);
    struct figures f;
    (void)state;
    fill_data(&now, HUGE_NUMBER);
    now.time_ns += SECOND_NS;
    figures_make(&f, &before, &now, NULL, 0);
    assert_true(f.lock_acquisitions == UINT64_MAX && f.given_back_bytes == UINT64_MAX);
    assert_true(f.rates.refills == 9223372036854775808.0);
    assert_int_equal(f.n_classes, CENSUS_CLASSES - CLASS_FIRST);
    for (size_t i = 0; i < f.n_classes; i++)
        assert_int_equal(f.classes[i].waste_bytes, 0); /* more live and cached than in memory */
    figures_free(&f);
    end_data(&before);
    end_data(&now);
}

static void test_classes(void **state)
{
    struct snapshot now = begin_data("x", 0);
    struct figures f;
    (void)state;
    figures_make(&f, NULL, &now, NULL, 0);
    assert_true(f.n_classes == 0 && f.n_threads == 0); /* nothing is used, nothing is listed */
    figures_free(&f);
    put_class(&now, 64, 3, 1000, 24, 2048);
    now.census.classes[CENSUS_SPANS] =
        (struct census_class){.slabs = 5, .live_blocks = 2, .live_bytes = 300000, .dirty_bytes = 327680};
    now.census.classes[CENSUS_RUNS] =
        (struct census_class){.slabs = 64, .live_blocks = 1, .live_bytes = 4 << 20, .dirty_bytes = 4 << 20};
    figures_make(&f, NULL, &now, NULL, 0);
    assert_int_equal(f.n_classes, 3);
    assert_string_equal(f.classes[0].label, "64");
    assert_int_equal(f.classes[0].waste_bytes, 3 * SLAB_BYTES - 1024 * 64);
    assert_string_equal(f.classes[1].label, "span");
    assert_int_equal(f.classes[1].block_bytes, 0);
    assert_int_equal(f.classes[1].waste_bytes, 27680);
    assert_string_equal(f.classes[2].label, "run");
    figures_free(&f);
    end_data(&now);
}

/* Threads by number, with the names that there are; one that is new has no rates. */
static void test_threads(void **state)
{
    struct snapshot before = begin_data("x", 2), now = begin_data("x", 3);
    const struct process_thread names[] = {{1, "one"}, {3, "three"}, {9, "gone"}};
    struct figures f;
    (void)state;
    fill_data(&before, 10);
    fill_data(&now, 30);
    now.time_ns += SECOND_NS;
    figures_make(&f, &before, &now, names, 3);
    assert_int_equal(f.n_threads, 3);
    assert_int_equal(f.threads[0].thread_id, 1);
    assert_string_equal(f.threads[0].name, "one");
    assert_true(f.threads[0].refills_per_s == 20);
    assert_string_equal(f.threads[1].name, "");
    assert_string_equal(f.threads[2].name, "three");
    assert_true(f.threads[2].refills_per_s == 0);
    figures_free(&f);
    end_data(&before);
    end_data(&now);
}

static void test_many_threads(void **state)
{
    struct snapshot before = begin_data("x", 4096), now = begin_data("x", 4096);
    struct figures f;
    (void)state;
    for (size_t i = 0; i < 4096; i++)
        now.threads[i].refills = (uint64_t)now.threads[i].thread_id * 2;
    now.time_ns += 2 * SECOND_NS;
    figures_make(&f, &before, &now, NULL, 0);
    for (size_t i = 0; i < 4096; i++) {
        assert_int_equal(f.threads[i].thread_id, i + 1);
        assert_true(f.threads[i].refills_per_s == (double)(i + 1));
    }
    figures_sort_threads(&f, THREAD_COLUMN_REFILLS, true);
    assert_int_equal(f.threads[0].thread_id, 4096);
    assert_int_equal(f.threads[4095].thread_id, 1);
    figures_free(&f);
    end_data(&before);
    end_data(&now);
}

/* What a class's live bytes grow or shrink by; with one snapshot it is not known. */
static void test_growth_of_classes(void **state)
{
    struct snapshot before = begin_data("x", 0), now = begin_data("x", 0);
    struct figures f;
    (void)state;
    put_class(&before, 16, 1, 100, 0, 3996);
    put_class(&before, 64, 1, 900, 0, 124);
    put_class(&now, 16, 1, 50, 0, 4046);
    put_class(&now, 64, 2, 1000, 0, 1048);
    put_class(&now, 1024, 1, 10, 0, 54); /* new */
    now.time_ns += 2 * SECOND_NS;
    figures_make(&f, &before, &now, NULL, 0);
    assert_true(f.classes[0].growth == -50 * 16 / 2.);
    assert_true(f.classes[1].growth == 100 * 64 / 2.);
    assert_true(f.classes[2].growth == 10 * 1024 / 2.);
    figures_sort_classes(&f, CLASS_COLUMN_GROWTH, true);
    assert_string_equal(f.classes[0].label, "1024");
    assert_string_equal(f.classes[2].label, "16");
    figures_free(&f);
    figures_make(&f, NULL, &now, NULL, 0);
    assert_true(f.classes[1].growth == 0);
    figures_free(&f);
    end_data(&before);
    end_data(&now);
}

static void test_order_of_classes(void **state)
{
    struct snapshot now = begin_data("x", 0);
    struct figures f;
    (void)state;
    put_class(&now, 16, 1, 100, 7, 3989);
    put_class(&now, 64, 9, 5000, 7, 4209);
    put_class(&now, 1024, 2, 120, 8, 0);
    figures_make(&f, NULL, &now, NULL, 0);
    static const struct {
        enum figures_class_column column;
        const char *labels[3]; /* descending */
    } orders[] = {
        {CLASS_COLUMN_BLOCK, {"1024", "64", "16"}},  {CLASS_COLUMN_SLABS, {"64", "1024", "16"}},
        {CLASS_COLUMN_LIVE, {"64", "1024", "16"}},   {CLASS_COLUMN_CACHED, {"1024", "16", "64"}},
        {CLASS_COLUMN_FREE, {"64", "16", "1024"}},   {CLASS_COLUMN_OCCUPANCY, {"1024", "64", "16"}},
        {CLASS_COLUMN_MEMORY, {"64", "1024", "16"}}, {CLASS_COLUMN_WASTE, {"64", "16", "1024"}},
    };
    for (size_t i = 0; i < sizeof orders / sizeof orders[0]; i++) {
        figures_sort_classes(&f, orders[i].column, true);
        for (unsigned j = 0; j < 3; j++)
            assert_string_equal(f.classes[j].label, orders[i].labels[j]);
    }
    figures_sort_classes(&f, CLASS_COLUMN_CACHED, false); /* equal ones keep the order of sizes */
    assert_string_equal(f.classes[0].label, "16");
    assert_string_equal(f.classes[1].label, "64");
    figures_sort_classes(&f, CLASS_COLUMN_BLOCK, false);
    assert_string_equal(f.classes[0].label, "16");
    figures_free(&f);
    end_data(&now);
}

static void test_order_of_names(void **state)
{
    struct snapshot now = begin_data("x", 3);
    const struct process_thread names[] = {{1, "pear"}, {2, "apple"}, {3, "pear"}};
    struct figures f;
    (void)state;
    figures_make(&f, NULL, &now, names, 3);
    figures_sort_threads(&f, THREAD_COLUMN_NAME, false);
    assert_int_equal(f.threads[0].thread_id, 2);
    assert_int_equal(f.threads[1].thread_id, 1);
    figures_sort_threads(&f, THREAD_COLUMN_NAME, true);
    assert_int_equal(f.threads[0].thread_id, 1);
    assert_int_equal(f.threads[2].thread_id, 2);
    figures_free(&f);
    end_data(&now);
}

static void test_shares(void **state)
{
    (void)state;
    assert_int_equal(figures_share(0, 0, 10), 0);
    assert_int_equal(figures_share(0, 5, 10), 0);
    assert_int_equal(figures_share(5, 0, 10), 0);
    assert_int_equal(figures_share(1, 1e6, 10), 1);
    assert_int_equal(figures_share(5, 10, 10), 5);
    assert_int_equal(figures_share(10, 10, 10), 10);
    assert_int_equal(figures_share(1e19, 1, 10), 10);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_no_rates_from_one),
        cmocka_unit_test(test_rates),
        cmocka_unit_test(test_rates_apart),
        cmocka_unit_test(test_counters_that_went_back),
        cmocka_unit_test(test_huge_numbers),
        cmocka_unit_test(test_classes),
        cmocka_unit_test(test_threads),
        cmocka_unit_test(test_many_threads),
        cmocka_unit_test(test_growth_of_classes),
        cmocka_unit_test(test_growth_of_classes),
        cmocka_unit_test(test_order_of_classes),
        cmocka_unit_test(test_order_of_names),
        cmocka_unit_test(test_shares),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
