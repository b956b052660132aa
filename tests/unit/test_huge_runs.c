/* test_huge_runs.c - which large blocks get huge pages: how many may stay unfilled, what the probes tell of those that were filled, and how
 * long that is believed. The records say which SuperSlabs may have huge pages, whether the system has any to give or not.
 * Owns     the lists of runs and of probes: each test begins with empty ones, and with nothing believed.
 * Threads  one.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "hakmem/hakmem.h"
#include "os/os.h"
#include "pool/huge_pages.h"
#include "pool/huge_probes.h"
#include "pool/release.h"
#include "pool/shared_pool.h"
#include "service/config.h"
#include "left_out.h"
#include "look.h"

#include <string.h>
#include <unistd.h>

enum { UNFILLED_MOST = 16, TRUST_MOST = 8, HEADS_MOST = 500 };

/* ---- With the lock that they want -------------------------------------------------------------------------------- */

static struct probes_copy look_at_probes(void)
{
    struct probes_copy copy;
    assert_true(pool_lock(HAK_LOCK_SPAN));
    probes_copy(&copy);
    pool_unlock();
    return copy;
}

static void use(void (*function)(void))
{
    assert_true(pool_lock(HAK_LOCK_SPAN));
    function();
    pool_unlock();
}

static void use_heads(bool looked_at)
{
    assert_true(pool_lock(HAK_LOCK_SPAN));
    probes_used_heads(looked_at);
    pool_unlock();
}

static void note_again(const void *block)
{
    assert_true(pool_lock(HAK_LOCK_SPAN));
    huge_pages_note_run(superslab_of(block));
    pool_unlock();
}

/* How often heads are believed to be dense after a look at them, and not for ever. */
static unsigned use_up_heads(void)
{
    unsigned n = 0;
    for (; n < HEADS_MOST && look_at_probes().heads_are_trusted; n++)
        use_heads(false);
    assert_false(look_at_probes().heads_are_trusted);
    return n;
}

/* How often longer runs count as filled before the next look at probes. */
static unsigned count_trust(void)
{
    unsigned n = 0;
    do
        use(probes_used_longer);
    while (++n < 100 && look_at_probes().longer_are_trusted);
    return n;
}

/* ---- Blocks ------------------------------------------------------------------------------------------------------ */

static unsigned char *held[100];
static unsigned n_held;

static unsigned char *hold(size_t len_bytes)
{
    assert_true(n_held < sizeof held / sizeof held[0]);
    assert_non_null(held[n_held] = hak_malloc(len_bytes));
    return held[n_held++];
}

static unsigned char *hold_small_pages(size_t len_bytes)
{
    config.huge_pages = HUGE_PAGES_NEVER;
    unsigned char *block = hold(len_bytes);
    config.huge_pages = HUGE_PAGES_AUTO;
    return block;
}

static void let_go(unsigned char *block)
{
    for (unsigned i = 0; i < n_held; i++)
        if (held[i] == block)
            held[i] = NULL;
    hak_free(block);
    hak_trim(HAK_TRIM_PAGES);
}

static int let_go_of_all(void **state)
{
    (void)state;
    while (n_held > 0)
        hak_free(held[--n_held]);
    hak_trim(HAK_TRIM_PAGES);
    return pool_check() == NULL ? 0 : -1;
}

static int start(void **state)
{
    hak_free(hak_malloc(1));
    let_go_of_all(state);
    config.huge_pages = HUGE_PAGES_AUTO;
    config.background = true;
    use(huge_pages_forget_runs);
    while (look_at_probes().longer_are_trusted)
        use(probes_used_longer);
    use_up_heads();
    usleep(20000); /* a refusal holds for 10 ms */
    return 0;
}

/* Two SuperSlabs' huge pages, as a number: 1 is the first one's, 2 the last one's of the block. */
static unsigned huge_ends(const unsigned char *block)
{
    const struct superslab *ss = superslab_of(block);
    return (ss[0].huge ? 1 : 0) + (ss[(ss->run_bytes >> SUPERSLAB_SHIFT) - 1].huge ? 2 : 0);
}

static unsigned hold_and_count_huge(unsigned n, size_t len_bytes)
{
    unsigned n_huge = 0;
    for (unsigned i = 0; i < n; i++)
        n_huge += huge_ends(hold(len_bytes)) != 0;
    return n_huge;
}

/* In how many places of the probes a block is; NULL: the empty ones. */
static unsigned places_of(const struct probes_seen *seen, const unsigned char *block)
{
    const struct superslab *ss = block == NULL ? NULL : superslab_of(block);
    unsigned n = 0;
    for (unsigned i = 0; i < N_PROBES; i++)
        n += seen->of[i] == ss;
    return n;
}

/* ---- Probes ------------------------------------------------------------------------------------------------------ */

/* Twice as long each time. The first of the tests: nothing has been believed before. */
static void trust_in_longer_probes(void **state)
{
    (void)state;
    static const unsigned expected[] = {1, 2, 4, TRUST_MOST, TRUST_MOST, TRUST_MOST};
    for (unsigned i = 0; i < sizeof expected / sizeof expected[0]; i++)
        assert_int_equal(count_trust(), expected[i]);
}

static void the_newest_are_probes(void **state)
{
    (void)state;
    unsigned char *block[N_PROBES + 1];
    for (unsigned i = 0; i <= N_PROBES; i++) {
        assert_int_equal(probes_lack_one(2 * MIB), i < N_PROBES);
        block[i] = hold_small_pages(2 * MIB);
        note_again(block[i]);
    }
    struct probes_copy probes = look_at_probes();
    assert_int_equal(places_of(&probes.longer, NULL), N_PROBES);
    for (unsigned i = 0; i <= N_PROBES; i++) {
        assert_int_equal(places_of(&probes.singles, block[i]), i != 0);
        assert_int_equal(places_of(&probes.heads, block[i]), i != 0);
    }
    use(probes_used_singles); /* the oldest is none any more */
    probes = look_at_probes();
    assert_int_equal(places_of(&probes.singles, block[1]), 0);
    assert_int_equal(places_of(&probes.singles, NULL), 1);
    assert_true(probes_lack_one(2 * MIB));
    assert_int_equal(places_of(&probes.heads, block[1]), 1);
    let_go(block[2]); /* gone */
    probes = look_at_probes();
    assert_int_equal(places_of(&probes.singles, NULL), 2);
    assert_int_equal(places_of(&probes.heads, NULL), 1);
    assert_ptr_equal(hak_realloc(block[3], 1200 * KIB), block[3]); /* none of one SuperSlab */
    probes = look_at_probes();
    assert_int_equal(places_of(&probes.singles, NULL), 3);
    config.huge_pages = HUGE_PAGES_NEVER;
    assert_ptr_equal(hak_realloc(block[4], 4 * MIB), block[4]); /* one of the longer ones now */
    probes = look_at_probes();
    assert_int_equal(places_of(&probes.singles, NULL), N_PROBES);
    assert_int_equal(places_of(&probes.longer, block[4]), 1);
    use(huge_pages_forget_runs);
    probes = look_at_probes();
    assert_int_equal(places_of(&probes.heads, NULL), N_PROBES);
}

static void what_is_no_probe(void **state)
{
    (void)state;
    unsigned char *huge[] = {hold(2 * MIB), hold(4 * MIB)};
    for (unsigned i = 0; i < 2; i++)
        assert_int_equal(huge_ends(huge[i]), 3);
    hold_small_pages(65 * MIB);
    struct probes_copy probes = look_at_probes();
    assert_int_equal(places_of(&probes.singles, NULL), N_PROBES);
    assert_int_equal(places_of(&probes.longer, NULL), N_PROBES);
    assert_int_equal(places_of(&probes.heads, NULL), N_PROBES);
    assert_true(probes_want(&probes, 4 * MIB));
    assert_false(probes_want(&probes, 3 * MIB)); /* there would be no huge page left */
    unsigned char *block = hold_small_pages(4 * MIB);
    probes = look_at_probes();
    assert_int_equal(places_of(&probes.singles, NULL), N_PROBES);
    assert_int_equal(places_of(&probes.longer, block), 1);
    assert_int_equal(places_of(&probes.heads, block), 1);
    assert_false(probes_want(&probes, 4 * MIB));
    count_trust();
    probes = look_at_probes(); /* what the probe told has been believed: there is to be another one */
    assert_int_equal(places_of(&probes.longer, NULL), N_PROBES);
    assert_true(probes_want(&probes, 4 * MIB));
    use(probes_used_longer);
    probes = look_at_probes();
    assert_true(probes.longer_are_trusted);
    assert_false(probes_want(&probes, 4 * MIB));
    block = hold_small_pages(4 * MIB);
    use(huge_pages_forget_runs);
    probes = look_at_probes();
    assert_int_equal(places_of(&probes.longer, NULL), N_PROBES);
}

/* All of them, by their beginnings, middles and ends. */
static void singles_that_are_filled(void **state)
{
    (void)state;
    unsigned char *block[N_PROBES];
    for (unsigned i = 0; i < N_PROBES; i++) {
        struct probes_copy probes = look_at_probes();
        assert_false(probes_tell_filled(&probes));
        memset(block[i] = hold_small_pages(2 * MIB), 1, 2 * MIB);
    }
    struct probes_copy probes = look_at_probes();
    assert_true(probes_tell_filled(&probes));
    static const size_t at[] = {0, MIB, 2 * MIB - 1};
    for (unsigned k = 0; k < 3; k++) { /* but for one place of the newest */
        block[0] = hold_small_pages(2 * MIB);
        for (unsigned i = 0; i < 3; i++)
            if (i != k)
                block[0][at[i]] = 1;
        probes = look_at_probes();
        assert_false(probes_tell_filled(&probes));
        config.secure = 1; /* where there is no telling how long the data is */
        assert_int_equal(probes_tell_filled(&probes), k == 2);
        config.secure = 0;
        memset(block[0], 1, 2 * MIB);
        assert_true(probes_tell_filled(&probes));
    }
}

static void runs_that_are_filled(void **state)
{
    (void)state;
    static const struct {
        size_t len_bytes, at[3]; /* these are to be touched */
    } cases[] = {{5 * MIB, {0, 5 * MIB / 2, 4 * MIB - 1}}, {3 * MIB, {0, 3 * MIB / 2, 3 * MIB - 1}}};
    for (unsigned i = 0; i < 2; i++)
        for (unsigned missing = 0; missing <= 3; missing++) {
            unsigned char *block = hold_small_pages(cases[i].len_bytes);
            for (unsigned k = 0; k < 3; k++)
                if (k != missing)
                    block[cases[i].at[k]] = 1;
            const struct superslab *ss = superslab_of(block);
            assert_int_equal(probes_run_is_filled(ss, cases[i].len_bytes), missing == 3);
            config.secure = 1;
            assert_int_equal(probes_run_is_filled(ss, cases[i].len_bytes), i == 0 && missing >= 2);
            config.secure = 0;
        }
    unsigned char *single = hold_small_pages(2 * MIB);
    memset(single, 1, 2 * MIB);
    assert_false(probes_run_is_filled(superslab_of(single), 2 * MIB));
}

static unsigned char *hold_filled_run(size_t last_bytes)
{
    unsigned char *block = hold_small_pages(6 * MIB);
    block[0] = block[3 * MIB] = block[6 * MIB - 1] = 1;
    memset(block + 4 * MIB, 1, last_bytes);
    return block;
}

static bool tells_dense(void)
{
    struct probes_copy probes = look_at_probes();
    return probes_tell_dense(&probes);
}

/* By their last SuperSlabs, those that are filled and no others. */
static void runs_that_are_dense(void **state)
{
    (void)state;
    assert_false(tells_dense());
    unsigned char *sparse = hold_filled_run(3 * MIB / 2);
    assert_false(tells_dense());
    memset(sparse, 1, 4 * MIB); /* which says nothing of the last one */
    assert_false(tells_dense());
    unsigned char *dense = hold_filled_run(15 * MIB / 8);
    assert_false(tells_dense()); /* not all of them */
    let_go(sparse);
    assert_true(tells_dense());
    hold_small_pages(6 * MIB); /* not filled yet */
    assert_true(tells_dense());
    let_go(dense);
    assert_false(tells_dense());
    while (!look_at_probes().longer_are_trusted)
        use(probes_used_longer);
    assert_true(tells_dense());
}

static enum probes_heads tell_heads(void)
{
    struct probes_copy probes = look_at_probes();
    return probes_tell_heads(&probes);
}

static void heads_that_are_dense(void **state)
{
    (void)state;
    unsigned char *block[N_PROBES];
    assert_int_equal(tell_heads(), HEADS_UNKNOWN);
    for (unsigned i = 0; i < N_PROBES; i++) {
        block[i] = hold_small_pages(4 * MIB);
        assert_int_equal(tell_heads(),
                         i + 1 < N_PROBES ? HEADS_UNKNOWN : HEADS_SPARSE); /* nobody begins at the beginning */
    }
    memset(block[0], 1, 3 * MIB / 2);
    assert_int_equal(tell_heads(), HEADS_UNKNOWN); /* it may be being filled */
    memset(block[0], 1, 15 * MIB / 8);
    assert_int_equal(tell_heads(), HEADS_DENSE);
    memset(block[1], 1, 3 * MIB / 4);
    assert_int_equal(tell_heads(), HEADS_SPARSE);

    assert_int_equal(use_up_heads(), 0);
    use_heads(true);
    assert_true(use_up_heads() > 1);
    use_heads(false);
    assert_int_equal(use_up_heads(), 0);
}

/* ---- Runs -------------------------------------------------------------------------------------------------------- */

static void so_many_may_be_unfilled(void **state)
{
    (void)state;
    leave_out_where_nobody_may_ask();
    for (unsigned i = 0; i < UNFILLED_MOST; i++)
        hold_small_pages(2 * MIB); /* which do not count */
    for (unsigned round = 0; round < 2; round++) {
        assert_int_equal(hold_and_count_huge(UNFILLED_MOST + N_PROBES, 2 * MIB), UNFILLED_MOST);
        let_go_of_all(state); /* nor do those that are gone */
        usleep(20000);
    }
}

/* Of half as many, or of half as much, the last SuperSlab of one more is a probe. */
static void one_of_the_longer_runs_is_a_probe(void **state)
{
    (void)state;
    leave_out_where_nobody_may_ask();
    hold_and_count_huge(UNFILLED_MOST / 2 - 1, 2 * MIB);
    assert_int_equal(huge_ends(hold(4 * MIB)), 3);
    assert_int_equal(huge_ends(hold(4 * MIB)), 1);
    assert_int_equal(huge_ends(hold(4 * MIB)), 3);
    let_go_of_all(state);
    hold_and_count_huge(3, 10 * MIB);
    assert_int_equal(huge_ends(hold(4 * MIB)), 3);
    assert_int_equal(huge_ends(hold(4 * MIB)), 1);
    assert_int_equal(huge_ends(hold(4 * MIB)), 3);
}

static void singles_count_as_filled_once(void **state)
{
    (void)state;
    leave_out_where_nobody_may_ask();
    assert_int_equal(hold_and_count_huge(UNFILLED_MOST + N_PROBES, 2 * MIB), UNFILLED_MOST);
    for (unsigned i = UNFILLED_MOST; i < UNFILLED_MOST + N_PROBES; i++)
        memset(held[i], 1, 2 * MIB);
    assert_int_equal(hold_and_count_huge(UNFILLED_MOST + 2, 2 * MIB), UNFILLED_MOST);
    assert_false(look_at_probes().longer_are_trusted);
}

/* Those that are filled, if the probe is dense: so the one that is not counts still. */
static void longer_runs_count_as_filled(void **state)
{
    (void)state;
    leave_out_where_nobody_may_ask();
    while (count_trust() < TRUST_MOST)
        continue;
    assert_int_equal(hold_and_count_huge(UNFILLED_MOST, 4 * MIB), UNFILLED_MOST);
    const unsigned char *probe = held[UNFILLED_MOST / 2];
    assert_int_equal(huge_ends(probe), 1);
    for (unsigned i = 0; i < UNFILLED_MOST - 1; i++)
        memset(held[i], 1, 4 * MIB);
    assert_int_equal(huge_ends(hold(4 * MIB)), 3);
    struct probes_copy probes = look_at_probes();
    assert_true(probes.longer_are_trusted);
    assert_int_equal(places_of(&probes.longer, probe), 0);
    assert_int_equal(hold_and_count_huge(UNFILLED_MOST, 4 * MIB), UNFILLED_MOST - 2);
}

static void runs_do_not_count_as_filled_unseen(void **state)
{
    (void)state;
    leave_out_where_nobody_may_ask();
    assert_int_equal(hold_and_count_huge(UNFILLED_MOST, 4 * MIB), UNFILLED_MOST);
    for (unsigned i = 0; i < UNFILLED_MOST; i++)
        if (i != UNFILLED_MOST / 2) /* the probe */
            memset(held[i], 1, 4 * MIB);
    assert_int_equal(huge_ends(hold(4 * MIB)), 0);
}

/* Beyond the bound for those that are filled: if there is no probe, and one to be told of. */
static void a_probe_beyond_the_bound(void **state)
{
    (void)state;
    leave_out_where_nobody_may_ask();
    for (unsigned filled = 0; filled < 2; filled++) {
        use_heads(true);
        assert_int_equal(hold_and_count_huge(6, 16 * MIB), 6);
        assert_int_equal(huge_ends(held[2]), 1);
        for (unsigned i = 0; i < 6; i++)
            for (size_t at = 0; at < 16 * MIB; at += 2 * MIB)
                if (i != 2 && (filled || at != 8 * MIB)) {
                    held[i][at] = 1;
                    held[i][at + 2 * MIB - 1] = 1;
                }
        let_go(held[2]);
        assert_int_equal(huge_ends(hold(4 * MIB)), filled ? 1 : 0);
        let_go_of_all(state);
    }
}

/* All of a run may be in memory, then. */
static void where_nobody_may_ask(void **state)
{
    (void)state;
    config.background = false;
    assert_int_equal(hold_and_count_huge(10, 8 * MIB), 8);
    let_go_of_all(state);
    usleep(20000);
    hold(64 * MIB);
    assert_int_equal(huge_ends(hold(4 * MIB)), 1); /* beside one run, however long, there may be another one */
    assert_int_equal(huge_ends(hold(4 * MIB)), 0);
}

/* Where so much of them is in memory, by the first page of each SuperSlab, that it matters how densely it is used. */
static void a_head_tells(void **state)
{
    (void)state;
    leave_out_where_nobody_may_ask();
    unsigned char *first = hold(4 * MIB);
    assert_int_equal(huge_ends(first), 3);
    first[0] = 1;
    unsigned char *head = hold(4 * MIB);
    assert_int_equal(huge_ends(head), 2);
    head[0] = 1; /* and no more, it seems */
    unsigned char *refused = hold(4 * MIB);
    assert_int_equal(huge_ends(refused), 0);
    let_go(refused);
    memset(head, 1, 2 * MIB);
    assert_int_equal(huge_ends(hold(4 * MIB)), 3);
    let_go(head); /* What it told holds for a while. */
    unsigned n = 0;
    for (unsigned ends = 3; ends == 3 && n < HEADS_MOST; n++) {
        unsigned char *block = hold(4 * MIB);
        ends = huge_ends(block);
        assert_int_equal(ends | 1, 3); /* then the next one is a head */
        let_go(block);
        n_held--;
    }
    use_heads(true);
    assert_int_equal(use_up_heads() + 1, n);
}

/* A run that grows counts once, and not beside itself. */
static void a_run_that_grows(void **state)
{
    (void)state;
    leave_out_where_nobody_may_ask();
    hold_small_pages(4 * MIB); /* a probe, so that no other run has to be one */
    assert_int_equal(hold_and_count_huge(UNFILLED_MOST - 1, 2 * MIB), UNFILLED_MOST - 1);
    unsigned char *last = hold(4 * MIB);
    for (size_t len_bytes = 8 * MIB; len_bytes <= 32 * MIB; len_bytes *= 2) {
        assert_ptr_equal(hak_realloc(last, len_bytes), last);
        assert_int_equal(huge_ends(last), 3);
    }
    for (unsigned i = 0; i < 4; i++)
        let_go(held[1 + i]);
    for (size_t len_bytes = 36 * MIB; len_bytes <= 60 * MIB; len_bytes += 12 * MIB)
        assert_ptr_equal(hak_realloc(last, len_bytes), last);
    assert_int_equal(hold_and_count_huge(8, 2 * MIB), 4);
}

/* While it is not known how what is in memory is used, a new run begins with a head of small pages; one that grows ends with a probe. */
static void a_probe_at_the_end_of_growth(void **state)
{
    (void)state;
    leave_out_where_nobody_may_ask();
    unsigned char *grows = hold(4 * MIB), *behind = hold_small_pages(2 * MIB);
    hold_and_count_huge(2, 10 * MIB);
    unsigned char *touched = hold(12 * MIB);
    touched[0] = 1;
    let_go(behind);
    assert_ptr_equal(hak_realloc(grows, 6 * MIB), grows);
    assert_int_equal(huge_ends(grows), 1);
    assert_int_equal(huge_ends(hold(4 * MIB)), 2);
}

/* Leaves SuperSlabs with huge pages for others to take. */
static void leave_huge(unsigned n, size_t len_bytes)
{
    assert_int_equal(hold_and_count_huge(n, len_bytes), n);
    while (n_held > 0)
        hak_free(held[--n_held]);
    use(huge_pages_forget_runs);
}

/* Runs that are shorter, or longer, than those that get huge pages do not count, though they keep some that were there before. */
static void neither_short_nor_long_ones_count(void **state)
{
    (void)state;
    leave_out_where_nobody_may_ask();
    config.purge_delay_ms = -1;
    leave_huge(UNFILLED_MOST, 2 * MIB);
    for (unsigned i = 0; i < UNFILLED_MOST; i++)
        assert_true(superslab_of(hold(2 * MIB - 4 * KIB))->huge);
    assert_int_equal(huge_ends(hold(2 * MIB)), 3);
    let_go_of_all(state);

    leave_huge(2, 40 * MIB);
    unsigned char *block = hold(64 * MIB + SLAB_BYTES);
    assert_int_equal(huge_ends(block), 3);
    for (size_t at = 0; at < 64 * MIB; at += 2 * MIB)
        block[at] = 1;
    assert_int_equal(hold_and_count_huge(10, 2 * MIB), 10); /* more than were left */
    config.purge_delay_ms = 0;
}

static void a_budget_that_presses(void **state)
{
    (void)state;
    unsigned char *block = hold(20 * MIB);
    assert_int_equal(hak_budget_set(8 * MIB, GIB), 0);
    assert_int_equal(huge_ends(hold(4 * MIB)), 0);
    config.huge_pages = HUGE_PAGES_ALWAYS;
    assert_int_equal(huge_ends(hold(4 * MIB)), 0);
    let_go(block);
    let_go_of_all(state);
    assert_int_equal(huge_ends(hold(4 * MIB)), 3);
    assert_int_equal(hak_budget_set(0, 0), 0);
}

int main(void)
{
    hak_free(hak_malloc(1));
    if (!huge_pages_fit())
        return 77;
#define CLEAN(test) cmocka_unit_test_setup_teardown(test, start, let_go_of_all)
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(trust_in_longer_probes),
        CLEAN(the_newest_are_probes),
        CLEAN(what_is_no_probe),
        CLEAN(singles_that_are_filled),
        CLEAN(runs_that_are_filled),
        CLEAN(runs_that_are_dense),
        CLEAN(heads_that_are_dense),
        CLEAN(so_many_may_be_unfilled),
        CLEAN(one_of_the_longer_runs_is_a_probe),
        CLEAN(singles_count_as_filled_once),
        CLEAN(longer_runs_count_as_filled),
        CLEAN(runs_do_not_count_as_filled_unseen),
        CLEAN(a_probe_beyond_the_bound),
        CLEAN(where_nobody_may_ask),
        CLEAN(a_head_tells),
        CLEAN(a_run_that_grows),
        CLEAN(a_probe_at_the_end_of_growth),
        CLEAN(neither_short_nor_long_ones_count),
        CLEAN(a_budget_that_presses),
    };
    return status_with_left_out(cmocka_run_group_tests(tests, NULL, NULL));
}
