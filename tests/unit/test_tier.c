/* test_tier.c - the tiers: the policy on made-up uses, and HOT -> DRAINING -> FREE -> gone and back in a live heap.
 * ctest: timeout 300
 */
#include "hakmem/hakmem.h"
#include "meta/registry.h"
#include "pool/lru.h"
#include "pool/shared_pool.h"
#include "pool/tier.h"
#include "look.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* ---- Policy ---- */

static void policy_edges(void **state)
{
    (void)state;
    static const struct {
        bool rising;
        struct tier_use use;
        bool drains;
    } rows[] = {
        {true, {0, 65536, 1}, false},      /* a newborn, 0 % full */
        {true, {1, 65536, 1}, false},      /* rising: not drained yet */
        {false, {16385, 65536, 1}, false}, /* just over a quarter */
        {false, {16384, 65536, 1}, true},  /* exactly a quarter */
        {false, {1, 65536, 1}, true},      /* nearly empty */
        {false, {65536, 65536, 1}, false}, /* full */
        {false, {0, 0, 0}, false},         /* no active slot: it is FREE */
        {true, {0, 0, 0}, false},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        assert_int_equal(tier_is_to_drain(rows[i].rising, rows[i].use), rows[i].drains);
}

static void rising_ends_over_a_half(void **state)
{
    (void)state;
    assert_false(tier_has_risen((struct tier_use){0, 65536, 1}));
    assert_false(tier_has_risen((struct tier_use){32768, 65536, 1}));
    assert_true(tier_has_risen((struct tier_use){32769, 65536, 1}));
}

/* ---- Live ---- */

enum { BLOCK_BYTES = 1024, PER_SUPERSLAB = SUPERSLAB_BYTES / BLOCK_BYTES, N_SUPERSLABS = 64 };

static enum superslab_tier tier_at(const void *block)
{
    return (enum superslab_tier)atomic_load(&superslab_of(block)->tier);
}

static void *block[N_SUPERSLABS * PER_SUPERSLAB];
enum { N_BLOCKS = N_SUPERSLABS * PER_SUPERSLAB };

/* Fills the heap, then frees all blocks of every second SuperSlab but one in sixteen. */
static void fill_and_thin_out(void)
{
    for (size_t i = 0; i < N_BLOCKS; i++) {
        block[i] = hak_malloc(BLOCK_BYTES);
        assert_non_null(block[i]);
        memset(block[i], (int)i, BLOCK_BYTES);
    }
    for (size_t i = 0; i < N_BLOCKS; i++)
        if (superslab_of(block[i])->index % 2 == 0 && i % 16 != 0) {
            hak_free(block[i]);
            block[i] = NULL;
        }
    hak_trim(HAK_TRIM_CACHE); /* no free block stays in the magazine */
}

static void free_all(void)
{
    for (size_t i = 0; i < N_BLOCKS; i++) {
        if (block[i] != NULL)
            assert_int_equal(*(unsigned char *)block[i], (unsigned char)i);
        hak_free(block[i]);
        block[i] = NULL;
    }
    hak_trim(HAK_TRIM_CACHE);
}

static void draining_gets_nothing_and_reopens_before_new_memory(void **state)
{
    (void)state;
    fill_and_thin_out();
    struct hak_stats thin = read_stats();
    assert_true(thin.superslabs_draining >= N_SUPERSLABS / 2 - 2);
    assert_true(thin.tier_hot_to_draining >= thin.superslabs_draining);
    assert_null(pool_check());

    /* A few blocks of another class: they fit in no DRAINING SuperSlab while a HOT one has a slot or may be mapped. */
    enum { N_FEW = 64 };
    void *few[N_FEW];
    for (size_t i = 0; i < N_FEW; i++) {
        struct hak_stats before = read_stats();
        few[i] = hak_malloc(BLOCK_BYTES);
        assert_non_null(few[i]);
        /* Either its SuperSlab was HOT, or it was reopened for this very request. */
        assert_int_equal(tier_at(few[i]), SS_TIER_HOT);
        assert_true(read_stats().superslabs_draining <= before.superslabs_draining);
    }

    /* Growing again: all DRAINING SuperSlabs are reopened before one is mapped. */
    struct hak_stats before = read_stats();
    size_t n_refilled = 0;
    for (size_t i = 0; i < N_BLOCKS && read_stats().superslabs_draining > 0; i++)
        if (block[i] == NULL) {
            block[i] = hak_malloc(BLOCK_BYTES);
            assert_non_null(block[i]);
            memset(block[i], (int)i, BLOCK_BYTES);
            n_refilled++;
        }
    struct hak_stats after = read_stats();
    assert_true(n_refilled > 0);
    assert_int_equal(after.superslabs_draining, 0);
    assert_true(after.stage_reopen > thin.stage_reopen);
    assert_true(after.tier_draining_to_hot >= before.superslabs_draining);
    assert_int_equal(after.stage_os, before.stage_os);
    for (size_t i = 0; i < N_FEW; i++)
        hak_free(few[i]);
    assert_null(pool_check());
    free_all();
}

static void an_empty_superslab_goes_at_once(void **state)
{
    (void)state;
    fill_and_thin_out();
    /* Any DRAINING SuperSlab: free what is left in it, and it is gone, past the LRU cache. */
    struct superslab *victim = NULL;
    for (size_t i = 0; i < N_BLOCKS && victim == NULL; i++)
        if (block[i] != NULL && tier_at(block[i]) == SS_TIER_DRAINING)
            victim = superslab_of(block[i]);
    assert_non_null(victim);
    uint32_t cached = lru_count();
    struct hak_stats before = read_stats();
    for (size_t i = 0; i < N_BLOCKS; i++)
        if (block[i] != NULL && superslab_of(block[i]) == victim) {
            hak_free(block[i]);
            block[i] = NULL;
        }
    hak_trim(HAK_TRIM_CACHE);
    struct hak_stats after = read_stats();
    assert_int_equal(victim->state, SUPERSLAB_ABSENT);
    assert_true(after.superslabs_released_total > before.superslabs_released_total);
    assert_true(after.tier_to_free > before.tier_to_free);
    assert_true(lru_count() <= cached);
    assert_null(pool_check());
    free_all();
    assert_int_equal(read_stats().live_blocks, 0);
}

static void no_flapping_at_the_threshold(void **state)
{
    (void)state;
    fill_and_thin_out();
    /* Reopen all, then hover around a quarter: the tier changes a bounded number of times, not once per step. */
    uint64_t before = read_stats().tier_hot_to_draining;
    for (unsigned round = 0; round < 200; round++) {
        void *some[128];
        for (size_t i = 0; i < 128; i++)
            assert_non_null(some[i] = hak_malloc(BLOCK_BYTES));
        for (size_t i = 0; i < 128; i++)
            hak_free(some[i]);
        hak_trim(HAK_TRIM_CACHE);
    }
    assert_true(read_stats().tier_hot_to_draining - before <= N_SUPERSLABS);
    assert_null(pool_check());
    free_all();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(policy_edges),
        cmocka_unit_test(rising_ends_over_a_half),
        cmocka_unit_test(draining_gets_nothing_and_reopens_before_new_memory),
        cmocka_unit_test(an_empty_superslab_goes_at_once),
        cmocka_unit_test(no_flapping_at_the_threshold),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
