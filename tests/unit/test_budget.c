/* test_budget.c - the budget: where requests fail, what stays usable, who is told, what counts; the files of control groups.
 * Checked: committed bytes against the lines at every refusal, contents of all blocks, errno, the order of what is told,
 *          pool_check (committed bytes agree with the records).
 * Threads  1 to 8.
 * ctest: timeout 600
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "hakmem/hakmem.h"
#include "os/cgroup.h"
#include "os/os.h"
#include "pool/packed.h"
#include "pool/shared_pool.h"
#include "service/budget.h"
#include "look.h"
#include "process.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define HARD_BYTES (32 * MIB)
#define SOFT_BYTES (24 * MIB)
#define RESERVE_BYTES (HARD_BYTES / 64)

static int set_lines(void **state)
{
    (void)state;
    hak_budget_set(0, 0);
    hak_trim(HAK_TRIM_PAGES);
    return hak_budget_set(SOFT_BYTES, HARD_BYTES);
}

static int clear_lines(void **state)
{
    (void)state;
    hak_budget_on_pressure(NULL, NULL);
    return hak_budget_set(0, 0);
}

/* Blocks in a list; each is filled with its number. */
struct block {
    struct block *next;
    size_t size_bytes, number;
};

static struct block *claim_until_refused(size_t size_bytes, struct block *list, size_t *n)
{
    errno = 0;
    for (;; ++*n) {
        struct block *block = hak_malloc(size_bytes);
        if (block == NULL)
            break;
        memset(block, (int)(*n & 0xff), size_bytes);
        *block = (struct block){list, size_bytes, *n};
        list = block;
    }
    assert_int_equal(errno, ENOMEM);
    return list;
}

/* Frees every step'th block, and holds the contents of all against what was written. Returns the others. */
static struct block *check_and_free(struct block *list, size_t step, size_t *n)
{
    struct block *kept = NULL, *next;
    size_t i = 0;
    for (; list != NULL; list = next) {
        next = list->next;
        const unsigned char *bytes = (const unsigned char *)list;
        for (size_t k = sizeof *list; k < list->size_bytes; k++)
            if (bytes[k] != (list->number & 0xff))
                fail_msg("block %zu of %zu bytes is damaged at %zu", list->number, list->size_bytes, k);
        if (i++ % step == 0) {
            hak_free(list);
            --*n;
        } else {
            list->next = kept;
            kept = list;
        }
    }
    return kept;
}

/* ---- Lines ------------------------------------------------------------------------------------------------------- */

static void lines_are_looked_at(void **state)
{
    (void)state;
    size_t soft, hard;
    static const size_t wrong[][2] = {{1, 0}, {MIB, 0}, {0, MIB - 1}, {0, 1}, {3 * MIB, 2 * MIB}, {SIZE_MAX, MIB}};
    assert_int_equal(hak_budget_set(3 * MIB, 5 * MIB), 0);
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        errno = 0;
        assert_int_equal(hak_budget_set(wrong[i][0], wrong[i][1]), -1);
        assert_int_equal(errno, EINVAL);
        hak_budget_get(&soft, &hard);
        assert_int_equal(soft, 3 * MIB);
        assert_int_equal(hard, 5 * MIB);
    }
    assert_int_equal(hak_budget_set(0, 8 * MIB), 0);
    hak_budget_get(&soft, NULL);
    hak_budget_get(NULL, &hard);
    assert_int_equal(soft, 7 * MIB);
    assert_int_equal(hard, 8 * MIB);
    struct hak_stats s = read_stats();
    assert_int_equal(s.budget_soft_bytes, 7 * MIB);
    assert_int_equal(s.budget_hard_bytes, 8 * MIB);
    assert_int_equal(hak_budget_set(6 * MIB, 6 * MIB), 0); /* the two may be one */
    hak_budget_get(&soft, &hard);
    assert_true(soft == 6 * MIB && hard == 6 * MIB);
    assert_int_equal(hak_budget_set(0, MIB), 0); /* the least there is */
    hak_budget_get(&soft, &hard);
    assert_true(soft == MIB - MIB / 8 && hard == MIB);
    assert_int_equal(hak_budget_set(0, 0), 0);
    hak_budget_get(&soft, &hard);
    assert_int_equal(soft, 0);
    assert_int_equal(hard, 0);
    assert_int_equal(read_stats().budget_hard_bytes, 0);
}

/* What may be committed: to the byte, with the reserve of small budgets and of large ones, and with what is on its way back. */
static void room_is_counted_to_the_byte(void **state)
{
    (void)state;
    static const struct {
        size_t hard_bytes, reserve_bytes;
    } cases[] = {{3 * MIB, 64 * KIB}, {16 * MIB, 256 * KIB}, {256 * MIB, 4 * MIB}, {1024 * MIB, 4 * MIB}};
    void *held = hak_malloc(500 * KIB); /* else there is nothing that could be on its way */
    assert_non_null(held);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        size_t reserve_bytes = cases[i].reserve_bytes, all_bytes = cases[i].hard_bytes - reserve_bytes;
        assert_true(budget_set(0, cases[i].hard_bytes));
        assert_true(budget_used_bytes() < all_bytes);
        size_t room_bytes = all_bytes - budget_used_bytes();
        assert_true(budget_has_room(room_bytes, false) && budget_has_room(room_bytes, true));
        assert_false(budget_has_room(room_bytes + 1, false) || budget_has_room(room_bytes + 1, true));
        budget_open_reserve(); /* for small blocks */
        assert_true(budget_has_room(room_bytes + reserve_bytes, true));
        assert_false(budget_has_room(room_bytes + reserve_bytes + 1, true) || budget_has_room(room_bytes + 1, false));
        assert_true(budget_set(0, cases[i].hard_bytes)); /* lines that are moved close it */
        assert_false(budget_has_room(room_bytes + 1, true));
        static const int64_t leaving[] = {1000, 2048 * (int64_t)MIB}; /* the latter is more than there is */
        for (size_t k = 0; k < sizeof leaving / sizeof leaving[0]; k++) {
            size_t most_bytes = min_size(room_bytes + (size_t)leaving[k], all_bytes);
            budget_note_leaving(leaving[k]);
            assert_true(budget_may_have_room(most_bytes, false));
            assert_false(budget_may_have_room(most_bytes + 1, false));
            budget_note_leaving(-leaving[k]);
        }
    }
    hak_free(held);
    void *block = hak_malloc(8 * MIB);
    assert_non_null(block);
    assert_true(budget_set(0, 4 * MIB)); /* more is held than there may be */
    assert_false(budget_has_room(0, false) || budget_has_room(1, true) || budget_may_have_room(1, true));
    hak_free(block);
}

/* A large block that is to be small, where no small one is to be had: it stays, and is as small as it was asked to be. */
static void large_blocks_shrink_without_memory(void **state)
{
    (void)state;
    static const size_t sizes[] = {700 * KIB, 5 * MIB};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        char *large = hak_malloc(sizes[i]);
        void *held = NULL;
        unsigned n_refused = 0;
        memset(large, 7, sizes[i]);
        while (n_refused < 2) { /* once for the reserve */
            void **block = hak_malloc(353);
            if (block == NULL) {
                n_refused++;
                continue;
            }
            *block = held;
            held = block;
        }
        errno = 1234;
        assert_ptr_equal(hak_realloc(large, 353), large);
        assert_int_equal(errno, 1234);
        assert_int_equal(hak_usable_size(large), os_page_bytes());
        assert_int_equal(large[352], 7);
        hak_free_sized(large, 353); /* a wrong size would end the process */
        while (held != NULL) {
            void *next = *(void **)held;
            hak_free(held);
            held = next;
        }
        assert_null(pool_check());
    }
}

/* Up to the hard line and not beyond, for every kind of block; what is held stays; what is freed can be had again. */
static void requests_fail_at_the_line(void **state)
{
    (void)state;
    static const size_t sizes[] = {24,    112,    1000,    1025,    5000,    30000,
                                   33000, 200000, 1000000, 1200000, 5000000, 15000000};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        size_t size_bytes = sizes[i], n = 0, block_bytes = hak_good_size(size_bytes);
        set_lines(state);
        uint64_t refusals = read_stats().budget_refusals;
        struct block *list = claim_until_refused(size_bytes, NULL, &n);
        struct hak_stats s = read_stats();
        assert_true(s.committed_bytes <= HARD_BYTES - RESERVE_BYTES);
        assert_true(s.committed_bytes + block_bytes + 2 * slab_page_bytes() > HARD_BYTES - RESERVE_BYTES);
        assert_true(s.budget_refusals > refusals);
        assert_true(n * block_bytes + (block_bytes + MIB) >= HARD_BYTES - RESERVE_BYTES); /* nearly all was to be had */
        assert_null(pool_check());

        void *small[8]; /* The reserve serves what a program needs to deal with it. */
        for (size_t k = 0; k < sizeof small / sizeof small[0]; k++)
            assert_non_null(small[k] = hak_malloc(100 + 50 * k));
        errno = 0;
        assert_null(hak_malloc(HARD_BYTES));
        assert_int_equal(errno, ENOMEM);
        for (size_t k = 0; k < sizeof small / sizeof small[0]; k++)
            hak_free(small[k]);

        size_t before = n, again;
        list = check_and_free(list, 2, &n);
        again = n;
        list = claim_until_refused(size_bytes, list, &again);
        assert_true(again + 1 + MIB / block_bytes >= before); /* as many as were freed, but for the caches' part */
        assert_true(read_stats().committed_bytes <= HARD_BYTES);
        n = again;
        list = check_and_free(list, 1, &n);
        assert_null(list);
        assert_int_equal(n, 0);
        assert_null(pool_check());
    }
}

/* What small blocks left behind, page by page, is to be had for large ones, without a delay. */
static void idle_memory_is_found(void **state)
{
    (void)state;
    size_t n = 0;
    struct block *list = claim_until_refused(200, NULL, &n);
    struct block *kept = NULL, *next;
    for (size_t i = 0; list != NULL; list = next, i++) {
        next = list->next;
        if (i % 200 == 0) {
            list->next = kept;
            kept = list;
        } else {
            hak_free(list);
        }
    }
    void *large[20];
    for (size_t i = 0; i < 20; i++) {
        assert_non_null(large[i] = hak_malloc(MIB));
        memset(large[i], 1, MIB);
    }
    assert_true(read_stats().committed_bytes <= HARD_BYTES);
    for (size_t i = 0; i < 20; i++)
        hak_free(large[i]);
    for (; kept != NULL; kept = next) {
        next = kept->next;
        hak_free(kept);
    }
    assert_null(pool_check());
}

/* A block that grows beyond half of the budget by moving its pages does not need room for both. */
static void growth_by_moving_pages_counts_once(void **state)
{
    (void)state;
    char *block = hak_malloc(18 * MIB), *wall = hak_malloc(1);
    memset(block, 0x5a, 18 * MIB);
    void *behind = hak_malloc(2 * MIB); /* most likely in its way */
    char *grown = hak_realloc(block, 26 * MIB);
    assert_non_null(grown);
    for (size_t i = 0; i < 18 * MIB; i += 4096)
        assert_int_equal(grown[i], 0x5a);
    assert_null(pool_check());
    errno = 0;
    assert_null(hak_realloc(grown, 33 * MIB));
    assert_int_equal(errno, ENOMEM);
    assert_int_equal(grown[18 * MIB - 1], 0x5a);
    assert_null(pool_check()); /* what was lent was taken back */
    hak_free(grown);
    hak_free(behind);
    hak_free(wall);
    /* The same where the system refuses to move pages. */
    block = hak_malloc(10 * MIB);
    memset(block, 0x5b, 10 * MIB);
    behind = hak_malloc(2 * MIB);
    os_fail_from(1, ULONG_MAX, OS_CALL_MOVE);
    grown = hak_realloc(block, 13 * MIB);
    os_fail_from(0, 0, 0);
    assert_non_null(grown);
    assert_int_equal(grown[10 * MIB - 1], 0x5b);
    assert_null(pool_check());
    hak_free(grown);
    hak_free(behind);
}

/* ---- Telling ----------------------------------------------------------------------------------------------------- */

static struct {
    unsigned n_soft, n_hard;
    uint64_t soft_at_bytes, hard_at_bytes;
    struct block *cache; /* the function frees it at the hard line */
    bool allocates;
} told;

static void on_pressure(enum hak_pressure pressure, void *argument)
{
    assert_ptr_equal(argument, &told);
    if (pressure == HAK_PRESSURE_SOFT) {
        told.n_soft++;
        told.soft_at_bytes = read_stats().committed_bytes;
        return;
    }
    assert_int_equal(pressure, HAK_PRESSURE_HARD);
    told.n_hard++;
    told.hard_at_bytes = read_stats().committed_bytes;
    if (told.allocates) {
        void *note = hak_malloc(500);
        assert_non_null(note);
        hak_free(note);
        assert_null(hak_malloc(HARD_BYTES)); /* and is not told of that */
    }
    while (told.cache != NULL) {
        struct block *next = told.cache->next;
        hak_free(told.cache);
        told.cache = next;
    }
}

static void the_program_is_told_and_can_help(void **state)
{
    (void)state;
    memset(&told, 0, sizeof told);
    told.allocates = true;
    hak_budget_on_pressure(on_pressure, &told);
    for (size_t i = 0; i < 26 * MIB / 2000; i++) {
        struct block *block = hak_malloc(2000);
        assert_non_null(block);
        block->next = told.cache;
        told.cache = block;
    }
    assert_int_equal(told.n_soft, 1);
    assert_int_equal(told.n_hard, 0);
    assert_true(told.soft_at_bytes > SOFT_BYTES - 2 * SLAB_BYTES && told.soft_at_bytes <= SOFT_BYTES + 2 * SLAB_BYTES);
    void *large = hak_malloc(20 * MIB); /* fits once the function has freed the cache */
    assert_non_null(large);
    assert_int_equal(told.n_hard, 1);
    assert_null(told.cache);
    told.allocates = false;
    assert_null(hak_malloc(20 * MIB));
    assert_int_equal(told.n_soft, 2);
    assert_int_equal(told.n_hard, 2);
    hak_free(large);
    assert_non_null(large = hak_malloc(25 * MIB)); /* above the soft line anew */
    assert_int_equal(told.n_soft, 3);
    hak_budget_on_pressure(NULL, NULL);
    assert_null(hak_malloc(20 * MIB));
    assert_int_equal(told.n_hard, 2);
    hak_free(large);
}

static void count_told(enum hak_pressure pressure, void *argument)
{
    (void)argument;
    if (pressure == HAK_PRESSURE_SOFT) {
        told.n_soft++;
        return;
    }
    told.n_hard++;
    assert_int_equal(atomic_load(&budget.reserve), RESERVE_FOR_HANDLER);
    check_and_free(told.cache, 1, &(size_t){0});
    told.cache = NULL;
}

/* Small blocks that have been freed, and wait to go back for longer than the test takes. */
static void leave_idle(size_t sum_bytes)
{
    struct block *list = NULL;
    for (size_t i = 0; i < sum_bytes / 1000; i++) {
        struct block *block = hak_malloc(1000);
        assert_non_null(block);
        block->next = list;
        list = block;
    }
    for (struct block *next; list != NULL; list = next) {
        next = list->next;
        hak_free(list);
    }
    assert_true(read_stats().committed_bytes >= sum_bytes * 3 / 4);
}

/* Each time that the soft line is passed; nobody is told where that was enough. */
static void idle_memory_goes_above_the_soft_line(void **state)
{
    (void)state;
    int64_t delay_ms = config.purge_delay_ms;
    config.purge_delay_ms = 1000000;
    memset(&told, 0, sizeof told);
    hak_budget_on_pressure(count_told, NULL);
    assert_int_equal(hak_budget_set(SOFT_BYTES, 4 * HARD_BYTES), 0);
    for (unsigned round = 0; round < 2; round++) {
        uint64_t reliefs = read_stats().budget_reliefs;
        leave_idle(20 * MIB);
        assert_int_equal(read_stats().budget_reliefs, reliefs);
        void *block = hak_malloc(10 * MIB);
        assert_int_equal(read_stats().budget_reliefs, reliefs + 1);
        assert_true(read_stats().committed_bytes < 12 * MIB);
        hak_free(block);
        hak_trim(HAK_TRIM_PAGES);
    }
    assert_int_equal(told.n_soft, 0);
    config.purge_delay_ms = delay_ms;
}

static void lines_that_are_moved_are_met_anew(void **state)
{
    (void)state;
    int64_t delay_ms = config.purge_delay_ms;
    config.purge_delay_ms = 1000000;
    memset(&told, 0, sizeof told);
    hak_budget_set(0, 0);
    hak_budget_on_pressure(count_told, NULL);
    leave_idle(20 * MIB);
    assert_int_equal(hak_budget_set(8 * MIB, HARD_BYTES), 0);
    assert_true(read_stats().committed_bytes < 4 * MIB); /* without another call */
    void *block[] = {hak_malloc(12 * MIB), hak_malloc(MIB), NULL};
    assert_int_equal(told.n_soft, 1);
    assert_int_equal(hak_budget_set(7 * MIB, HARD_BYTES), 0);
    block[2] = hak_malloc(MIB);
    assert_int_equal(told.n_soft, 2);
    for (unsigned i = 0; i < 3; i++)
        hak_free(block[i]);
    config.purge_delay_ms = delay_ms;
}

/* For the program's function while it runs; for all once a request has failed, until less than the soft line is held. */
static void the_reserve_is_opened_and_closed(void **state)
{
    (void)state;
    size_t n = 0;
    memset(&told, 0, sizeof told);
    told.cache = claim_until_refused(100000, NULL, &n);
    assert_int_equal(atomic_load(&budget.reserve), RESERVE_FOR_ALL);
    size_t more = 0;
    struct block *longer = claim_until_refused(5000, NULL, &more); /* for small blocks only */
    assert_true(more < RESERVE_BYTES / 2 / 5000);
    check_and_free(longer, 1, &more);
    hak_free(hak_malloc(1));
    assert_int_equal(atomic_load(&budget.reserve), RESERVE_FOR_ALL);
    assert_null(check_and_free(told.cache, 1, &n));
    told.cache = NULL;
    hak_trim(HAK_TRIM_PAGES);
    hak_free(hak_malloc(MIB));
    assert_int_equal(atomic_load(&budget.reserve), RESERVE_CLOSED);

    void *held = hak_malloc(30 * MIB);
    told.cache = hak_malloc(MIB);
    *told.cache = (struct block){NULL, sizeof *told.cache, 0};
    hak_budget_on_pressure(count_told, NULL);
    void *block = hak_malloc(MIB);
    assert_non_null(block);
    assert_int_equal(told.n_hard, 1);
    assert_int_equal(atomic_load(&budget.reserve), RESERVE_CLOSED); /* no request has failed */
    hak_free(block);
    hak_free(held);
}

/* A thread that is cancelled in there would end in the middle of malloc, and nobody would be told any more. */
static _Atomic int n_survived;

static void test_cancel(enum hak_pressure pressure, void *argument)
{
    (void)argument;
    if (pressure != HAK_PRESSURE_HARD)
        return;
    pthread_testcancel();
    atomic_fetch_add(&n_survived, 1);
}

static void *cancel_and_ask(void *disables)
{
    int cancel_state = -1;
    if (disables != NULL)
        pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &cancel_state);
    pthread_cancel(pthread_self());
    hak_free(hak_malloc(2 * HARD_BYTES));
    pthread_testcancel();
    return disables;
}

static void the_function_is_not_cancelled(void **state)
{
    (void)state;
    static char disables;
    hak_budget_on_pressure(test_cancel, NULL);
    atomic_store(&n_survived, 0);
    for (int i = 0; i < 2; i++) { /* Afterwards a thread can be cancelled again, if it could before. */
        pthread_t thread;
        void *result;
        assert_int_equal(pthread_create(&thread, NULL, cancel_and_ask, i == 0 ? NULL : &disables), 0);
        assert_int_equal(pthread_join(thread, &result), 0);
        assert_ptr_equal(result, i == 0 ? PTHREAD_CANCELED : &disables);
        assert_int_equal(atomic_load(&n_survived), i + 1);
    }
}

/* What is idle goes back, and the request is made once more. */
static void the_system_s_refusal_is_not_the_last_word(void **state)
{
    (void)state;
    hak_budget_set(0, 0);
    void *held = hak_malloc(20 * MIB);
    os_fail_from(1, 1, OS_CALL_COMMIT | OS_CALL_RESERVE);
    void *block = hak_malloc(10 * MIB);
    os_fail_from(0, 0, 0);
    assert_non_null(block);
    hak_free(block);
    hak_free(held);
}

/* The function is told, too, when there is no budget and the system refuses. */
static void the_system_s_refusal_is_told(void **state)
{
    (void)state;
    hak_budget_set(0, 0);
    memset(&told, 0, sizeof told);
    hak_budget_on_pressure(on_pressure, &told);
    os_fail_from(1, ULONG_MAX, OS_CALL_COMMIT | OS_CALL_RESERVE);
    void *block = hak_malloc(500 * MIB);
    os_fail_from(0, 0, 0);
    assert_null(block);
    assert_int_equal(told.n_hard, 1);
    assert_int_equal(told.n_soft, 0);
}

/* ---- Moving the lines -------------------------------------------------------------------------------------------- */

static void a_lower_line_leaves_what_is_held(void **state)
{
    (void)state;
    size_t n = 0;
    struct block *list = claim_until_refused(3000, NULL, &n);
    assert_int_equal(hak_budget_set(0, 4 * MIB), 0);
    errno = 0;
    assert_null(hak_malloc(100000));
    assert_int_equal(errno, ENOMEM);
    list = check_and_free(list, 3, &n);
    assert_null(hak_malloc(100000)); /* still above */
    size_t before = n, committed_bytes = read_stats().committed_bytes;
    list = claim_until_refused(3000, list, &n); /* but what lies between the others costs nothing */
    assert_true(n > before + before / 4);
    assert_true(read_stats().committed_bytes <= committed_bytes);
    list = check_and_free(list, 1, &n);
    assert_null(list);
    void *block = hak_malloc(100000);
    assert_non_null(block);
    hak_free(block);
    assert_true(read_stats().committed_bytes <= 4 * MIB);
}

/* ---- Threads ----------------------------------------------------------------------------------------------------- */

#define N_THREADS 8
static _Atomic size_t n_failures;

static void *churn(void *seed)
{
    uint64_t random = (uintptr_t)seed * 0x9e3779b97f4a7c15u + 1;
    enum { N = 3000 };
    unsigned char **block = calloc(N, sizeof *block);
    size_t *size = calloc(N, sizeof *size);
    for (unsigned i = 0; i < 60000; i++) {
        random = random * 6364136223846793005u + 1442695040888963407u;
        unsigned k = (unsigned)(random >> 33) % N;
        if (block[k] != NULL) {
            if (block[k][0] != (k & 0xff) || block[k][size[k] - 1] != (k & 0xff))
                abort();
            hak_free(block[k]);
        }
        size_t range = (random >> 20 & 63) == 0 ? 3000000 : (random >> 20 & 7) == 0 ? 60000 : 3000;
        size[k] = (size_t)(random >> 8 & 0xfffffff) % range + 1;
        block[k] = hak_malloc(size[k]);
        if (block[k] == NULL)
            atomic_fetch_add(&n_failures, 1);
        else
            memset(block[k], (int)(k & 0xff), size[k]);
    }
    for (unsigned k = 0; k < N; k++)
        hak_free(block[k]);
    free(block);
    free(size);
    return NULL;
}

/* Committed bytes never pass the line by more than a SuperSlab a thread: by the highest value that was ever counted. */
static void threads_keep_to_the_line(void **state)
{
    (void)state;
    pthread_t thread[N_THREADS];
    atomic_store(&stats_counters.peak_committed_bytes, 0);
    atomic_store(&n_failures, 0);
    for (uintptr_t i = 0; i < N_THREADS; i++)
        assert_int_equal(pthread_create(&thread[i], NULL, churn, (void *)(i + 1)), 0);
    for (unsigned i = 0; i < N_THREADS; i++)
        assert_int_equal(pthread_join(thread[i], NULL), 0);
    struct hak_stats s = read_stats();
    assert_true(atomic_load(&n_failures) > 0);
    assert_true(s.peak_committed_bytes > HARD_BYTES - RESERVE_BYTES - 3 * MIB);
    if (s.peak_committed_bytes > HARD_BYTES + N_THREADS * SUPERSLAB_BYTES)
        fail_msg("%llu bytes at the peak", (unsigned long long)s.peak_committed_bytes);
    assert_int_equal(atomic_load(&budget.promised_bytes), 0);
    assert_null(pool_check());
    hak_trim(HAK_TRIM_PAGES);
    assert_true(read_stats().committed_bytes < MIB);
}

#if defined(__x86_64__) && !defined(SANITIZED)
#include "../preload/step.h"

#define PROMISED_BYTES (HARD_BYTES / 2)

static struct {
    unsigned n_steps, meet_at; /* instructions */
    bool has;                  /* the other one was promised and has committed as much */
} other;

static void on_step(int signal)
{
    (void)signal;
    if (++other.n_steps != other.meet_at || !budget_promise(PROMISED_BYTES))
        return;
    stats_commit(PROMISED_BYTES);
    budget_settle(PROMISED_BYTES);
    other.has = true;
}

/* Two claims of which the line has room for one: the other one's promise is made, committed and settled at any instruction of this one's.
 * The sum of what is promised is then what it was. */
static void a_promise_sees_one_made_meanwhile(void **state)
{
    (void)state;
    unsigned n_other = 0, n_own = 0;
    struct sigaction action = {.sa_handler = on_step}, before;
    assert_int_equal(sigaction(SIGTRAP, &action, &before), 0);
    for (unsigned step = 1; step == 1 || other.n_steps >= other.meet_at; step++) {
        memset(&other, 0, sizeof other);
        other.meet_at = step;
        step_on();
        bool promised = budget_promise(PROMISED_BYTES);
        step_off();
        if (promised && other.has)
            fail_msg("both have what there is once, at step %u", step);
        assert_true(promised || other.has);
        n_own += promised;
        n_other += other.has;
        if (promised)
            budget_settle(PROMISED_BYTES);
        if (other.has)
            stats_commit(-PROMISED_BYTES);
        assert_int_equal(atomic_load(&budget.promised_bytes), 0);
    }
    sigaction(SIGTRAP, &before, NULL);
    assert_true(n_other > 10 && n_own > 10);
}

/* Moves the lines whenever it is asked to, and else runs: so it sleeps only where somebody has the lock. */
static struct {
    _Atomic unsigned asked, done;
    _Atomic int32_t thread_id;
    unsigned n_steps, meet_at, n_waits;
    bool by_group;
    _Atomic bool is_inside, may_leave;
} lines;

static void *move_when_asked(void *unused)
{
    atomic_store(&lines.thread_id, os_thread_id());
    for (unsigned n; (n = atomic_load(&lines.asked)) != UINT_MAX;)
        if (n != atomic_load(&lines.done)) {
            hak_budget_set(SOFT_BYTES, HARD_BYTES);
            atomic_store(&lines.done, n);
        }
    return unused;
}

static void on_step_of_lines(int signal)
{
    uintptr_t sp;
    (void)signal;
    if (++lines.n_steps != lines.meet_at)
        return;
    if (lines.by_group) {
        atomic_store(&budget_by_group, 1);
        budget_follow("");
    } else {
        hak_budget_set(SOFT_BYTES, HARD_BYTES);
    }
    atomic_fetch_add(&lines.asked, 1);
    while (atomic_load(&lines.done) != atomic_load(&lines.asked))
        if (os_thread_waits(atomic_load(&lines.thread_id), &sp)) {
            lines.n_waits++;
            break;
        }
}

/* A handler that interrupts who moves the lines, at any instruction, may move them, and leaves the lock to him. */
static void a_handler_keeps_the_lock_of_the_lines(void **state)
{
    (void)state;
    pthread_t thread;
    struct sigaction action = {.sa_handler = on_step_of_lines}, before;
    memset(&lines, 0, sizeof lines);
    assert_int_equal(pthread_create(&thread, NULL, move_when_asked, NULL), 0);
    while (atomic_load(&lines.thread_id) == 0)
        continue;
    assert_int_equal(sigaction(SIGTRAP, &action, &before), 0);
    for (unsigned by_group = 0; by_group < 2; by_group++) {
        lines.by_group = by_group != 0;
        lines.n_waits = 0;
        lines.meet_at = 0;
        do {
            lines.n_steps = 0;
            lines.meet_at++;
            step_on();
            bool moved = budget_set(SOFT_BYTES, HARD_BYTES);
            step_off();
            assert_true(moved);
            while (atomic_load(&lines.done) != atomic_load(&lines.asked))
                continue;
        } while (lines.n_steps >= lines.meet_at);
        atomic_store(&budget_by_group, 0);
        print_message("%u of %u instructions have the lock\n", lines.n_waits, lines.meet_at - 1);
        assert_true(lines.n_waits > 5);
    }
    atomic_store(&lines.asked, UINT_MAX);
    assert_int_equal(pthread_join(thread, NULL), 0);
    sigaction(SIGTRAP, &before, NULL);
}

static void stay_inside(int signal)
{
    (void)signal;
    if (++lines.n_steps != lines.meet_at)
        return;
    atomic_store(&lines.is_inside, true);
    while (!atomic_load(&lines.may_leave))
        usleep(100);
}

static void *move_and_stay(void *unused)
{
    step_on();
    budget_set(SOFT_BYTES, HARD_BYTES);
    step_off();
    atomic_store(&lines.is_inside, true);
    return unused;
}

/* Who was moving the lines is not there in a child, which moves them all the same. */
static void a_child_moves_lines_that_another_was_moving(void **state)
{
    (void)state;
    struct sigaction action = {.sa_handler = stay_inside}, before;
    assert_int_equal(sigaction(SIGTRAP, &action, &before), 0);
    memset(&lines, 0, sizeof lines);
    do {
        pthread_t thread;
        int status;
        lines.n_steps = 0;
        lines.meet_at++;
        atomic_store(&lines.is_inside, false);
        atomic_store(&lines.may_leave, false);
        assert_int_equal(pthread_create(&thread, NULL, move_and_stay, NULL), 0);
        while (!atomic_load(&lines.is_inside))
            usleep(100);
        pid_t child = fork();
        assert_true(child >= 0);
        if (child == 0) {
            alarm(10);
            _exit(hak_budget_set(SOFT_BYTES, HARD_BYTES) == 0 ? 0 : 1);
        }
        assert_int_equal(waitpid(child, &status, 0), child);
        atomic_store(&lines.may_leave, true);
        assert_int_equal(pthread_join(thread, NULL), 0);
        assert_int_equal(status, 0);
    } while (lines.n_steps >= lines.meet_at);
    sigaction(SIGTRAP, &before, NULL);
}
#endif

/* ---- On its way back ---- */

static _Atomic size_t most_leaving_bytes;
static _Atomic bool stop_watching;

static void *watch_what_leaves(void *unused)
{
    while (!atomic_load(&stop_watching)) {
        size_t leaving_bytes = atomic_load(&budget.leaving_bytes);
        if (leaving_bytes > atomic_load(&most_leaving_bytes))
            atomic_store(&most_leaving_bytes, leaving_bytes);
    }
    return unused;
}

/* While the system is asked about memory, or takes it, who is about to be refused knows of it: he waits. */
static void what_leaves_is_announced(void **state)
{
    (void)state;
    static const struct {
        size_t size_bytes, touched_bytes, announced_bytes;
        int64_t delay_ms;
    } rows[] = {{129 * MIB, 129 * MIB, 129 * MIB, -1}, /* release_row: what it commits */
                {GIB, 1, GIB, 0}};                     /* run.c, which asks what of it is in memory */
    int64_t delay_ms = config.purge_delay_ms;
    pthread_t thread;
    assert_int_equal(hak_budget_set(7 * GIB, 8 * GIB), 0);
    background_hold(true);
    config.background = true;
    atomic_store(&stop_watching, false);
    assert_int_equal(pthread_create(&thread, NULL, watch_what_leaves, NULL), 0);
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        hak_trim(HAK_TRIM_PAGES);
        config.purge_delay_ms = rows[i].delay_ms;
        atomic_store(&most_leaving_bytes, 0);
        uint32_t from_ms = os_now_ms();
        while (atomic_load(&most_leaving_bytes) != rows[i].announced_bytes && os_now_ms() - from_ms < 20000) {
            char *run = hak_malloc(rows[i].size_bytes);
            assert_non_null(run);
            memset(run, 1, rows[i].touched_bytes);
            hak_free(run);
            if (rows[i].delay_ms < 0)
                hak_trim(HAK_TRIM_PAGES);
        }
        if (atomic_load(&most_leaving_bytes) != rows[i].announced_bytes)
            fail_msg("row %zu: at most %zu bytes were on their way", i, atomic_load(&most_leaving_bytes));
    }
    atomic_store(&stop_watching, true);
    assert_int_equal(pthread_join(thread, NULL), 0);
    config.background = false;
    config.purge_delay_ms = delay_ms;
    background_hold(false);
    hak_trim(HAK_TRIM_PAGES);
    assert_int_equal(atomic_load(&budget.leaving_bytes), 0);
}

static _Atomic int lock_is_held;

static void *meet_the_line(void *unused)
{
    hak_free(hak_malloc(1));
    while (atomic_load(&lock_is_held) == 0)
        usleep(100);
    hak_free(hak_malloc(HARD_BYTES));
    return unused;
}

/* A handler that interrupted the pool lock's holder must not wait for a relief: that may wait for the pool lock. */
static void a_handler_waits_for_no_relief(void **state)
{
    (void)state;
    pthread_t thread;
    size_t n = 0;
    struct block *list = claim_until_refused(100000, NULL, &n);
    atomic_store(&lock_is_held, 0);
    assert_int_equal(pthread_create(&thread, NULL, meet_the_line, NULL), 0);
    usleep(50000); /* the next relief is due */
    assert_true(pool_lock(HAK_LOCK_SPAN));
    atomic_store(&lock_is_held, 1);
    usleep(50000); /* it has begun, on the other thread */
    void *block = hak_malloc(HARD_BYTES);
    pool_unlock();
    assert_int_equal(pthread_join(thread, NULL), 0);
    hak_free(block);
    assert_null(check_and_free(list, 1, &n));
}

/* Blocks that are packed were made before there was a budget. */
static void packed_blocks_made_shorter_make_room(void **state)
{
    (void)state;
    enum { N = 600 };
    static char *blocks[N];
    hak_budget_set(0, 0);
    for (unsigned i = 0; i < N; i++) {
        blocks[i] = hak_malloc(72000);
        memset(blocks[i], 1, 72000);
    }
    assert_non_null(packed_head_of(blocks[N - 1]));
    size_t committed_bytes = read_stats().committed_bytes;
    assert_int_equal(hak_budget_set(committed_bytes - MIB, committed_bytes + 100000), 0);
    assert_null(hak_malloc(3000000));
    assert_int_equal(atomic_load(&budget.freed), 0);
    for (unsigned i = N / 2; i < N; i++)
        assert_ptr_equal(hak_realloc(blocks[i], 40000), blocks[i]);
    assert_int_not_equal(atomic_load(&budget.freed), 0);
    void *block = hak_malloc(3000000);
    assert_non_null(block);
    hak_free(block);
    for (unsigned i = 0; i < N; i++)
        hak_free(blocks[i]);
    assert_null(pool_check());
}

static void a_child_of_fork_keeps_the_budget(void **state)
{
    (void)state;
    size_t n = 0;
    struct block *list = claim_until_refused(700, NULL, &n);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        int status = hak_malloc(MIB) != NULL ? 1 : 0;
        list = check_and_free(list, 1, &n);
        void *block = hak_malloc(MIB);
        _exit(status != 0 ? status : block == NULL ? 2 : pool_check() != NULL ? 3 : 0);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    assert_null(check_and_free(list, 1, &n));
}

/* What another thread has promised, or has on its way to the system, is nothing to a child, where there is no other thread; the caller's own
 * stands there until it is settled. */
static pthread_barrier_t both_are_there;

static void *promise_half(void *unused)
{
    bool promised = budget_promise(HARD_BYTES / 2);
    budget_note_leaving(MIB);
    pthread_barrier_wait(&both_are_there);
    pthread_barrier_wait(&both_are_there);
    budget_note_leaving(-(int64_t)MIB);
    if (promised)
        budget_settle(HARD_BYTES / 2);
    return promised ? unused : &both_are_there;
}

static int end_what_is_promised(void)
{
    if (atomic_load(&budget.promised_bytes) != 2 * MIB || atomic_load(&budget.leaving_bytes) != 3 * MIB)
        return 1;
    void *block = hak_malloc(HARD_BYTES * 3 / 4);
    if (block == NULL)
        return 2;
    hak_free(block);
    budget_note_leaving(-3 * (int64_t)MIB);
    budget_settle(2 * MIB);
    return atomic_load(&budget.promised_bytes) != 0 || atomic_load(&budget.leaving_bytes) != 0 ? 3
           : pool_check() != NULL                                                              ? 4
                                                                                               : 0;
}

static void a_child_of_fork_keeps_its_own_promises(void **state)
{
    (void)state;
    pthread_t thread;
    void *failed;
    int status;
    assert_false(budget_promise(2 * HARD_BYTES)); /* nothing stays of this, */
    assert_true(budget_promise(MIB));             /* nor of that */
    budget_settle(MIB);
    budget_note_leaving(MIB);
    budget_note_leaving(-(int64_t)MIB);
    assert_true(budget_promise(2 * MIB));
    budget_note_leaving(3 * MIB);
    assert_int_equal(pthread_barrier_init(&both_are_there, NULL, 2), 0);
    assert_int_equal(pthread_create(&thread, NULL, promise_half, NULL), 0);
    pthread_barrier_wait(&both_are_there);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0)
        _exit(end_what_is_promised());
    pthread_barrier_wait(&both_are_there);
    assert_int_equal(pthread_join(thread, &failed), 0);
    assert_null(failed);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    assert_int_equal(end_what_is_promised(), 0);
}

/* Another thread that was inside the program's function is gone: the child's own threads are told. */
static void wait_inside(enum hak_pressure pressure, void *argument)
{
    (void)argument;
    if (pressure != HAK_PRESSURE_HARD)
        return;
    pthread_barrier_wait(&both_are_there);
    pthread_barrier_wait(&both_are_there);
}

static void *ask_for_too_much(void *unused)
{
    hak_free(hak_malloc(2 * HARD_BYTES));
    return unused;
}

static void count_in_child(enum hak_pressure pressure, void *argument)
{
    *(unsigned *)argument += pressure == HAK_PRESSURE_HARD;
}

static void a_child_of_fork_is_told(void **state)
{
    (void)state;
    pthread_t thread;
    int status;
    assert_int_equal(pthread_barrier_init(&both_are_there, NULL, 2), 0);
    hak_budget_on_pressure(wait_inside, NULL);
    assert_int_equal(pthread_create(&thread, NULL, ask_for_too_much, NULL), 0);
    pthread_barrier_wait(&both_are_there);
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        unsigned n_told = 0;
        hak_budget_on_pressure(count_in_child, &n_told);
        _exit(hak_malloc(2 * HARD_BYTES) != NULL ? 1 : n_told == 1 ? 0 : 2);
    }
    pthread_barrier_wait(&both_are_there);
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
}

/* A thread that is inside the function may wait for what the one that asks holds: so that one waits for it, but not for ever. */
static _Atomic bool was_refused;
static bool came_first;

static void wait_for_the_other(enum hak_pressure pressure, void *argument)
{
    (void)argument;
    if (pressure != HAK_PRESSURE_HARD)
        return;
    pthread_barrier_wait(&both_are_there);
    for (unsigned i = 0; i < 2000 && !atomic_load(&was_refused); i++)
        usleep(10000);
    came_first = atomic_load(&was_refused);
}

static void nobody_waits_for_ever_for_the_function(void **state)
{
    (void)state;
    pthread_t thread;
    was_refused = false;
    assert_int_equal(pthread_barrier_init(&both_are_there, NULL, 2), 0);
    hak_budget_on_pressure(wait_for_the_other, NULL);
    assert_int_equal(pthread_create(&thread, NULL, ask_for_too_much, NULL), 0);
    pthread_barrier_wait(&both_are_there);
    assert_null(hak_malloc(2 * HARD_BYTES));
    atomic_store(&was_refused, true);
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_true(came_first);
}

/* Above the soft line each thread gives up its cache when it next comes to a slow path; whose thread does not sleep, nobody else does. */
static _Atomic bool is_filled, is_above;

static void *pass_the_soft_line(void *unused)
{
    while (!atomic_load(&is_filled))
        usleep(1000);
    void *block = hak_malloc(SOFT_BYTES + MIB);
    atomic_store(&is_above, true);
    while (atomic_load(&is_above))
        usleep(1000);
    hak_free(block);
    return block != NULL ? unused : &is_above;
}

static void running_threads_give_up_their_caches(void **state)
{
    (void)state;
    pthread_t thread;
    void *failed, *blocks[100], *block;
    is_filled = is_above = false;
    assert_int_equal(pthread_create(&thread, NULL, pass_the_soft_line, NULL), 0);
    for (unsigned i = 0; i < 100; i++)
        blocks[i] = hak_malloc(100);
    for (unsigned i = 0; i < 100; i++)
        hak_free(blocks[i]);
    atomic_store(&is_filled, true);
    while (!atomic_load(&is_above)) { /* without a call that sleeps */
    }
    uint64_t reliefs = read_stats().budget_reliefs;
    assert_true(tls_thread->capacity_bytes != 0);
    assert_non_null(block = hak_malloc(100000));
    assert_int_equal(read_stats().budget_reliefs, reliefs);
    assert_int_equal(tls_thread->capacity_bytes, 0);
    hak_free(block);
    atomic_store(&is_above, false);
    assert_int_equal(pthread_join(thread, &failed), 0);
    assert_null(failed);
}

/* A thread that gives back what is idle is not there in a child. */
static void *give_much_back(void *unused)
{
    void *block = hak_malloc(SOFT_BYTES);
    hak_free(block);
    return unused;
}

static void a_child_waits_for_no_relief(void **state)
{
    (void)state;
    pthread_t thread;
    int status;
    int64_t delay_ms = config.purge_delay_ms;
    config.purge_delay_ms = 1000000;
    hak_budget_set(0, 0);
    leave_idle(256 * MIB);
    uint64_t before = read_stats().committed_bytes;
    atomic_store(&budget.soft_bytes, SOFT_BYTES); /* without what hak_budget_set does at once */
    atomic_store(&budget.hard_bytes, GIB);
    assert_int_equal(pthread_create(&thread, NULL, give_much_back, NULL), 0);
    while (read_stats().committed_bytes >= before) { /* it has begun */
    }
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        alarm(20);
        hak_budget_set(MIB, 4 * MIB);
        void *block = hak_malloc(8 * MIB);
        _exit(block != NULL ? 1 : pool_check() != NULL ? 2 : 0);
    }
    assert_int_equal(pthread_join(thread, NULL), 0);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    config.purge_delay_ms = delay_ms;
}

/* ---- The system's files ------------------------------------------------------------------------------------------ */

static char root[64];

static void put(const char *path, const char *text)
{
    char full[512];
    snprintf(full, sizeof full, "%s%s", root, path);
    for (char *at = full + strlen(root) + 1; (at = strchr(at, '/')) != NULL; at++) {
        *at = 0;
        mkdir(full, 0755);
        *at = '/';
    }
    FILE *file = fopen(full, "w");
    assert_non_null(file);
    assert_true(fputs(text, file) >= 0);
    assert_int_equal(fclose(file), 0);
}

static int make_root(void **state)
{
    (void)state;
    snprintf(root, sizeof root, "/tmp/hakmem-budget.XXXXXX");
    return mkdtemp(root) == NULL ? -1 : 0;
}

static int remove_root(void **state)
{
    (void)state;
    char command[128];
    snprintf(command, sizeof command, "rm -rf %s", root);
    return system(command);
}

static void limits_of_version_2(void **state)
{
    (void)state;
    assert_true(os_cgroup_limit_bytes(root) == SIZE_MAX); /* no file at all */
    put("/proc/self/cgroup", "0::/a/b/c\n");
    assert_true(os_cgroup_limit_bytes(root) == SIZE_MAX);
    put("/sys/fs/cgroup/a/b/c/memory.max", "max\n");
    assert_true(os_cgroup_limit_bytes(root) == SIZE_MAX);
    put("/sys/fs/cgroup/a/b/memory.max", "536870912\n");
    assert_int_equal(os_cgroup_limit_bytes(root), 512 * MIB); /* of a group around it */
    put("/sys/fs/cgroup/a/b/c/memory.max", "1073741824\n");
    assert_int_equal(os_cgroup_limit_bytes(root), 512 * MIB);
    put("/sys/fs/cgroup/a/memory.max", "1048576\n");
    assert_int_equal(os_cgroup_limit_bytes(root), MIB);
    put("/proc/self/cgroup", "0::/of/the/host\n"); /* in a container without a name space of its own */
    assert_true(os_cgroup_limit_bytes(root) == SIZE_MAX);
    put("/sys/fs/cgroup/memory.max", "268435456\n");
    assert_int_equal(os_cgroup_limit_bytes(root), 256 * MIB);
    put("/proc/self/cgroup", "0::/\n");
    assert_int_equal(os_cgroup_limit_bytes(root), 256 * MIB);
    put("/sys/fs/cgroup/memory.max", "nonsense\n");
    assert_true(os_cgroup_limit_bytes(root) == SIZE_MAX);
    put("/sys/fs/cgroup/memory.max", "99999999999999999999999\n");
    assert_true(os_cgroup_limit_bytes(root) == SIZE_MAX);
}

static void limits_of_version_1(void **state)
{
    (void)state;
    put("/proc/self/cgroup", "12:cpu,cpuacct:/x\n5:hugetlb,memory:/docker/1\n0::/x\n");
    put("/sys/fs/cgroup/memory/docker/1/memory.limit_in_bytes", "104857600\n");
    put("/sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"); /* none */
    assert_int_equal(os_cgroup_limit_bytes(root), 100 * MIB);
    put("/sys/fs/cgroup/memory/docker/1/memory.limit_in_bytes", "9223372036854771712\n");
    assert_true(os_cgroup_limit_bytes(root) == SIZE_MAX);
    put("/sys/fs/cgroup/unified/x/memory.max", "52428800\n"); /* both at once */
    assert_int_equal(os_cgroup_limit_bytes(root), 50 * MIB);
    put("/sys/fs/cgroup/memory.max", "73400320\n");
    put("/sys/fs/cgroup/memory/docker/1/memory.limit_in_bytes", "104857600\n");
    /* no group of ours */
    put("/proc/self/cgroup", "4:memoryless:/docker/1\nnonsense\n:\n::\n3:memory\n0:cpu:/docker/1\n");
    assert_true(os_cgroup_limit_bytes(root) == SIZE_MAX);
}

/* What does not fit is passed over, whatever it is; the last line may lack its end. */
static void groups_with_long_names(void **state)
{
    (void)state;
    static char line[4096];
    unsigned n_fit = 0;
    put("/sys/fs/cgroup/memory.max", "268435456\n");
    put("/sys/fs/cgroup/a/memory.max", "104857600\n");
    put("/proc/self/cgroup", "0::/a");
    assert_int_equal(os_cgroup_limit_bytes(root), 100 * MIB);
    put("/proc/self/cgroup", "0::/a///");
    assert_int_equal(os_cgroup_limit_bytes(root), 100 * MIB);
    for (size_t len = 900; len < 1100; len++) { /* around what there is room for */
        memset(line, 'x', len);
        memcpy(line, "0::/", 4);
        strcpy(line + len, "\n");
        put("/proc/self/cgroup", line);
        size_t limit_bytes = os_cgroup_limit_bytes(root);
        n_fit += limit_bytes == 256 * MIB; /* of the group around it */
        assert_true(limit_bytes == 256 * MIB ? n_fit == len - 899 : limit_bytes == SIZE_MAX);
    }
    assert_true(n_fit > 0 && n_fit < 200);
    memset(line, 'x', 3000);
    memcpy(line, "7:memory:/", 10);
    strcpy(line + 3000, "\n0::/a\n"); /* the next one is read */
    put("/proc/self/cgroup", line);
    assert_int_equal(os_cgroup_limit_bytes(root), 100 * MIB);
}

static void limit_group(const char *limit)
{
    put("/proc/self/cgroup", "0::/g\n");
    put("/sys/fs/cgroup/g/memory.max", limit);
}

static void budget_by_the_group_s_limit(void **state)
{
    (void)state;
    struct config before = config;
    char more_than_there_is[32];
    size_t soft, hard;
    limit_group("104857600\n");
    config.budget_percent = 80;
    budget_start(root);
    hak_budget_get(&soft, &hard);
    assert_int_equal(hard, 80 * MIB);
    assert_int_equal(soft, 70 * MIB);
    config.budget_percent = 0;
    config.budget_auto = true;
    budget_start(root);
    hak_budget_get(NULL, &hard);
    assert_int_equal(hard, 90 * MIB);
    limit_group("1048576\n"); /* 90 % of it is below the least there is */
    budget_start(root);
    hak_budget_get(NULL, &hard);
    assert_int_equal(hard, MIB);
    limit_group("max\n"); /* nothing to be a part of: no budget, but by percentage of the machine */
    hak_budget_set(0, 0);
    budget_start(root);
    hak_budget_get(NULL, &hard);
    assert_int_equal(hard, 0);
    config.budget_auto = false;
    config.budget_percent = 50;
    budget_start(root);
    hak_budget_get(NULL, &hard);
    assert_int_equal(hard, os_physical_bytes() / 100 * 50);
    snprintf(more_than_there_is, sizeof more_than_there_is, "%zu\n", 2 * os_physical_bytes());
    limit_group(more_than_there_is); /* a limit all the same, and a part of the machine */
    hak_budget_set(0, 0);
    budget_start(root);
    hak_budget_get(NULL, &hard);
    assert_int_equal(hard, os_physical_bytes() / 100 * 50);
    config.budget_percent = 0;
    config.budget_auto = true;
    hak_budget_set(0, 0);
    budget_start(root);
    hak_budget_get(NULL, &hard);
    assert_int_equal(hard, os_physical_bytes() / 100 * 90);
    config = before;
}

static void limit_that_changes(void **state)
{
    (void)state;
    struct config before = config;
    size_t soft, hard;
    limit_group("104857600\n");
    config.budget_auto = true;
    budget_start(root);
    assert_false(budget_follow(root)); /* nothing has changed */
    limit_group("209715200\n");
    assert_true(budget_follow(root));
    hak_budget_get(&soft, &hard);
    assert_int_equal(hard, 180 * MIB);
    assert_int_equal(soft, hard - hard / 8);
    limit_group("52428800\n");
    assert_true(budget_follow(root));
    hak_budget_get(NULL, &hard);
    assert_int_equal(hard, 45 * MIB);
    limit_group("max\n");
    assert_true(budget_follow(root));
    assert_false(budget_is_set());
    assert_false(budget_follow(root));
    limit_group("104857600\n"); /* a limit where there was none */
    assert_true(budget_follow(root));
    hak_budget_get(NULL, &hard);
    assert_int_equal(hard, 90 * MIB);

    assert_int_equal(hak_budget_set(2 * MIB, MIB), -1); /* refused: the group still counts */
    limit_group("209715200\n");
    assert_true(budget_follow(root));
    assert_int_equal(hak_budget_set(0, 64 * MIB), 0); /* what the program says stands */
    limit_group("52428800\n");
    assert_false(budget_follow(root));
    hak_budget_get(NULL, &hard);
    assert_int_equal(hard, 64 * MIB);
    assert_int_equal(hak_budget_set(0, 0), 0);
    config = before;
}

static void pressure_of_the_system(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        int pressure;
    } cases[] = {{"some avg10=0.00 avg60=9.99 avg300=0 total=0\nfull avg10=50.00\n", 0},
                 {"some avg10=12.34 avg60=0.00\n", 1234},
                 {"some avg10=100.00 avg60=0.00\n", 10000},
                 {"some avg10=7\n", 700},
                 {"some avg10=7.5\n", 750},
                 {"some avg10=x\n", -1},
                 {"full avg10=50.00\n", -1},
                 {"", -1}};
    assert_int_equal(os_memory_pressure(root), -1);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        put("/proc/pressure/memory", cases[i].text);
        assert_int_equal(os_memory_pressure(root), cases[i].pressure);
    }
    put("/proc/self/cgroup", "0::/g\n");
    put("/sys/fs/cgroup/g/memory.pressure", "some avg10=1.00 avg60=0.00\n");
    put("/proc/pressure/memory", "some avg10=2.00 avg60=0.00\n");
    assert_int_equal(os_memory_pressure(root), 100); /* the group's own counts */
}

static int count_open_files(void)
{
    int n = 0;
    for (int file = 0; file < 1024; file++)
        n += fcntl(file, F_GETFD) != -1;
    return n;
}

/* They are read by whatever thread makes the first call, or meets the line. */
static void reading_leaves_no_trace(void **state)
{
    (void)state;
    int before = count_open_files();
    errno = 1234;
    assert_true(os_cgroup_limit_bytes(root) == SIZE_MAX); /* no file at all */
    assert_int_equal(os_memory_pressure(root), -1);
    assert_int_equal(errno, 1234);
    put("/proc/self/cgroup", "4:memory:/a/b\n0::/a/b\n");
    put("/proc/pressure/memory", "some avg10=2.00 avg60=0.00\n");
    put("/sys/fs/cgroup/a/memory.max", "209715200\n");
    put("/sys/fs/cgroup/unified/a/b/memory.max", "157286400\n");
    put("/sys/fs/cgroup/memory/a/b/memory.limit_in_bytes", "104857600\n");
    errno = 1234;
    assert_int_equal(os_cgroup_limit_bytes(root), 100 * MIB);
    assert_int_equal(os_memory_pressure(root), 200);
    assert_int_equal(errno, 1234);
    assert_int_equal(count_open_files(), before);
}

/* pool_check is exact only when nobody else is at work. */
static int end_background(void **state)
{
    (void)state;
    hak_free(hak_malloc(1)); /* the variables are read */
    config.background = false;
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(lines_are_looked_at, NULL, clear_lines),
        cmocka_unit_test_setup_teardown(room_is_counted_to_the_byte, set_lines, clear_lines),
        cmocka_unit_test_setup_teardown(large_blocks_shrink_without_memory, set_lines, clear_lines),
        cmocka_unit_test_setup_teardown(requests_fail_at_the_line, set_lines, clear_lines),
        cmocka_unit_test_setup_teardown(idle_memory_is_found, set_lines, clear_lines),
        cmocka_unit_test_setup_teardown(growth_by_moving_pages_counts_once, set_lines, clear_lines),
        cmocka_unit_test_setup_teardown(the_program_is_told_and_can_help, set_lines, clear_lines),
        cmocka_unit_test_setup_teardown(idle_memory_goes_above_the_soft_line, set_lines, clear_lines),
        cmocka_unit_test_setup_teardown(lines_that_are_moved_are_met_anew, set_lines, clear_lines),
        cmocka_unit_test_setup_teardown(the_reserve_is_opened_and_closed, set_lines, clear_lines),
        cmocka_unit_test_setup_teardown(the_function_is_not_cancelled, set_lines, clear_lines),
        cmocka_unit_test_setup_teardown(the_system_s_refusal_is_not_the_last_word, set_lines, clear_lines),
        cmocka_unit_test_setup_teardown(the_system_s_refusal_is_told, set_lines, clear_lines),
        cmocka_unit_test_setup_teardown(a_lower_line_leaves_what_is_held, set_lines, clear_lines),
        cmocka_unit_test_setup_teardown(threads_keep_to_the_line, set_lines, clear_lines),
#if defined(__x86_64__) && !defined(SANITIZED)
        cmocka_unit_test_setup_teardown(a_promise_sees_one_made_meanwhile, set_lines, clear_lines),
        cmocka_unit_test_setup_teardown(a_handler_keeps_the_lock_of_the_lines, set_lines, clear_lines),
        cmocka_unit_test_setup_teardown(a_child_moves_lines_that_another_was_moving, set_lines, clear_lines),
#endif
        cmocka_unit_test_setup_teardown(what_leaves_is_announced, set_lines, clear_lines),
        cmocka_unit_test_setup_teardown(a_handler_waits_for_no_relief, set_lines, clear_lines),
        cmocka_unit_test_setup_teardown(packed_blocks_made_shorter_make_room, set_lines, clear_lines),
        cmocka_unit_test_setup_teardown(a_child_of_fork_keeps_the_budget, set_lines, clear_lines),
        cmocka_unit_test_setup_teardown(a_child_of_fork_keeps_its_own_promises, set_lines, clear_lines),
        cmocka_unit_test_setup_teardown(a_child_of_fork_is_told, set_lines, clear_lines),
        cmocka_unit_test_setup_teardown(nobody_waits_for_ever_for_the_function, set_lines, clear_lines),
        cmocka_unit_test_setup_teardown(running_threads_give_up_their_caches, set_lines, clear_lines),
        cmocka_unit_test_setup_teardown(a_child_waits_for_no_relief, set_lines, clear_lines),
        cmocka_unit_test_setup_teardown(limits_of_version_2, make_root, remove_root),
        cmocka_unit_test_setup_teardown(limits_of_version_1, make_root, remove_root),
        cmocka_unit_test_setup_teardown(groups_with_long_names, make_root, remove_root),
        cmocka_unit_test_setup_teardown(budget_by_the_group_s_limit, make_root, remove_root),
        cmocka_unit_test_setup_teardown(limit_that_changes, make_root, remove_root),
        cmocka_unit_test_setup_teardown(pressure_of_the_system, make_root, remove_root),
        cmocka_unit_test_setup_teardown(reading_leaves_no_trace, make_root, remove_root),
    };
    return cmocka_run_group_tests(tests, end_background, clear_lines);
}
