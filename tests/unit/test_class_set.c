/* test_class_set.c - the per-class sets of slabs: what is entered is found, lowest first, across words, rows, chunks and the
 * topmost words; and four threads that enter and drop at random lose no slab.
 * Checked: against an array of booleans as the model; at the end of the threads' run against the slabs' ctl words.
 * The sets look at nothing but an arena's records, so the arena is made up: large enough for three words of the topmost level,
 * without a byte of memory behind it.
 * Threads  the last tests four and two; the model is used by one.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "meta/sizeclass.h"
#include "os/os.h"
#include "pool/class_set.h"

#include <pthread.h>
#include <sched.h>
#include <sys/mman.h>

#define TOP_SUPERSLABS (64u * CHUNK_SUPERSLABS) /* one word of the topmost level: 16 GiB */
#define N_SUPERSLABS (2 * TOP_SUPERSLABS + CHUNK_SUPERSLABS + 3)
#define N_SLABS ((size_t)N_SUPERSLABS * SUPERSLAB_SLABS)
#define TOP_SLABS ((size_t)TOP_SUPERSLABS * SUPERSLAB_SLABS)
#define N_THREADS 4
#define N_STEPS 200000

static struct arena arena;
static unsigned class_a, class_b;

static void *map_zeroes(size_t len_bytes)
{
    void *at = mmap(NULL, len_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return at == MAP_FAILED ? NULL : at;
}

static int make_arena(void **state)
{
    (void)state;
    size_t n_rows0 = (N_SLABS + 63) / 64, n_rows1 = (n_rows0 + 63) / 64, n_rows2 = (n_rows1 + 63) / 64;
    arena.slabs = map_zeroes(N_SLABS * sizeof(struct slab));
    arena.set0 = map_zeroes(n_rows0 * sizeof(struct class_set_row));
    arena.set1 = map_zeroes(n_rows1 * sizeof(struct class_set_row));
    arena.set2 = map_zeroes(n_rows2 * sizeof(struct class_set_row));
    arena.n_superslabs = N_SUPERSLABS;
    atomic_store(&arena.high, N_SUPERSLABS);
    class_a = class_of(64);
    class_b = class_of(1024);
    return arena.slabs == NULL || arena.set0 == NULL || arena.set1 == NULL || arena.set2 == NULL ? -1 : 0;
}

static void set_ctl(size_t slab, enum slab_state state, unsigned class_id)
{
    atomic_store(&arena.slabs[slab].ctl, SLAB_CTL(state, class_id, 1));
}

/* First and last slabs of words, rows, chunks and topmost words, and some between. */
static const size_t places[] = {0,
                                1,
                                31,
                                62,
                                63,
                                64,
                                65,
                                127,
                                128,
                                64 * 63,
                                64 * 64 - 1,
                                64 * 64,
                                64 * 64 + 1,
                                64 * 65 - 1,
                                64 * 65,
                                5000,
                                2 * CHUNK_SLABS - 1,
                                2 * CHUNK_SLABS,
                                2 * CHUNK_SLABS + 64,
                                7 * CHUNK_SLABS + 77,
                                TOP_SLABS - CHUNK_SLABS - 1,
                                TOP_SLABS - CHUNK_SLABS,
                                TOP_SLABS - 65,
                                TOP_SLABS - 64,
                                TOP_SLABS - 1,
                                TOP_SLABS,
                                TOP_SLABS + 1,
                                TOP_SLABS + 63,
                                TOP_SLABS + 64,
                                TOP_SLABS + CHUNK_SLABS,
                                2 * TOP_SLABS - 1,
                                2 * TOP_SLABS,
                                2 * TOP_SLABS + CHUNK_SLABS,
                                N_SLABS - 65,
                                N_SLABS - 64,
                                N_SLABS - 2,
                                N_SLABS - 1};
#define N_PLACES (sizeof places / sizeof places[0])

static bool entered[N_PLACES];

static size_t model_find(size_t from)
{
    for (size_t k = 0; k < N_PLACES; k++)
        if (entered[k] && places[k] >= from)
            return places[k];
    return SIZE_MAX;
}

static void assert_as_the_model(void)
{
    for (size_t k = 0; k < N_PLACES; k++) {
        size_t around[] = {places[k] == 0 ? 0 : places[k] - 1, places[k], places[k] + 1};
        for (size_t i = 0; i < 3; i++)
            if (class_set_find(&arena, class_a, around[i]) != model_find(around[i]))
                fail_msg("from %zu: found %zu instead of %zu", around[i], class_set_find(&arena, class_a, around[i]),
                         model_find(around[i]));
    }
    assert_int_equal(class_set_find(&arena, class_a, N_SLABS), SIZE_MAX);
}

/* No bit of any level is left. */
static void assert_no_bits(unsigned class_id)
{
    assert_int_equal(class_set_find(&arena, class_id, 0), SIZE_MAX);
    for (size_t k = 0; k < N_PLACES; k++) {
        size_t row0 = places[k] / 64;
        assert_int_equal(atomic_load(&arena.set0[row0].word[class_id]), 0);
        assert_int_equal(atomic_load(&arena.set1[row0 / 64].word[class_id]), 0);
        assert_int_equal(atomic_load(&arena.set2[row0 / 64 / 64].word[class_id]), 0);
    }
}

static void enter_place(size_t k)
{
    set_ctl(places[k], SLAB_PARTIAL, class_a);
    class_set_enter(&arena, class_a, places[k]);
    entered[k] = true;
}

static void drop_place(size_t k)
{
    set_ctl(places[k], SLAB_OWNED, class_a);
    class_set_drop(&arena, class_a, places[k]);
    entered[k] = false;
}

static void nothing_is_found_in_an_empty_set(void **state)
{
    (void)state;
    assert_as_the_model();
    assert_no_bits(class_a);
}

static void each_alone_is_found_from_everywhere(void **state)
{
    (void)state;
    for (size_t k = 0; k < N_PLACES; k++) {
        enter_place(k);
        assert_as_the_model();
        assert_int_equal(class_set_find(&arena, class_b, 0), SIZE_MAX); /* another class's set is another set */
        drop_place(k);
        assert_as_the_model();
    }
    assert_no_bits(class_a);
}

static void the_lowest_comes_first(void **state)
{
    (void)state;
    for (size_t k = N_PLACES; k-- > 0;) { /* from above, so that each becomes the lowest */
        enter_place(k);
        assert_as_the_model();
    }
    size_t n = 0;
    for (size_t i = class_set_find(&arena, class_a, 0); i != SIZE_MAX; i = class_set_find(&arena, class_a, i + 1))
        assert_int_equal(i, places[n++]);
    assert_int_equal(n, N_PLACES); /* finding takes nothing out */
    for (size_t k = 0; k < N_PLACES; k++) {
        drop_place(k);
        assert_as_the_model();
    }
    assert_no_bits(class_a);
}

static uint32_t step_random(uint32_t *random_state)
{
    *random_state ^= *random_state << 13;
    *random_state ^= *random_state >> 17;
    return *random_state ^= *random_state << 5;
}

static void any_order_is_as_the_model(void **state)
{
    (void)state;
    uint32_t random_state = 88172645;
    for (unsigned step = 0; step < 4000; step++) {
        size_t k = step_random(&random_state) % N_PLACES;
        if (entered[k])
            drop_place(k);
        else
            enter_place(k);
        assert_as_the_model();
    }
    for (size_t k = 0; k < N_PLACES; k++)
        drop_place(k);
    assert_no_bits(class_a);
}

static void entering_and_dropping_twice_is_once(void **state)
{
    (void)state;
    enter_place(7);
    enter_place(7);
    assert_as_the_model();
    drop_place(7);
    assert_as_the_model();
    drop_place(7);
    drop_place(8); /* never was in */
    assert_no_bits(class_a);
}

/* A drop that comes late leaves a PARTIAL slab of the class in, a hide does not; another class's slab goes. */
static void a_late_drop_loses_nothing(void **state)
{
    (void)state;
    enter_place(20);
    class_set_drop(&arena, class_a, places[20]);
    assert_as_the_model();
    class_set_hide(&arena, class_a, places[20]);
    entered[20] = false;
    assert_as_the_model();
    assert_no_bits(class_a);
    class_set_enter(&arena, class_a, places[20]);
    set_ctl(places[20], SLAB_PARTIAL, class_b); /* its slot was reused by then */
    class_set_drop(&arena, class_a, places[20]);
    assert_no_bits(class_a);
    assert_no_bits(class_b);
}

/* What lies above `high` is not looked at. */
static void the_search_ends_at_high(void **state)
{
    (void)state;
    enter_place(N_PLACES - 1);
    atomic_store(&arena.high, TOP_SUPERSLABS);
    assert_int_equal(class_set_find(&arena, class_a, 0), SIZE_MAX);
    atomic_store(&arena.high, 0);
    assert_int_equal(class_set_find(&arena, class_a, 0), SIZE_MAX);
    atomic_store(&arena.high, N_SUPERSLABS);
    assert_int_equal(class_set_find(&arena, class_a, 0), N_SLABS - 1);
    drop_place(N_PLACES - 1);
    assert_no_bits(class_a);
}

/* ---- Threads ---- */

/* Few slabs in few words, so that words and rows run empty all the time. */
static const size_t busy[] = {3, 4, 64, 4095, 4096, 4097, 2 * CHUNK_SLABS + 9, TOP_SLABS - 1, TOP_SLABS, N_SLABS - 1};
#define N_BUSY (sizeof busy / sizeof busy[0])
static _Atomic unsigned n_owners[N_BUSY];
static _Atomic unsigned n_shared; /* slabs that two threads owned at once */
static _Atomic uint64_t n_found;

static void own_and_let_go(size_t k, uint32_t r)
{
    struct slab *slab = &arena.slabs[busy[k]];
    slab_ctl ctl = SLAB_CTL(SLAB_FULL, class_a, 1);
    if (r % 2 == 0 && atomic_compare_exchange_strong(&slab->ctl, &ctl, SLAB_CTL(SLAB_PARTIAL, class_a, 1))) {
        class_set_enter(&arena, class_a, busy[k]); /* as a thread that returned a block to a full slab */
        return;
    }
    if (!slab_own(slab, class_a))
        return;
    class_set_drop(&arena, class_a, busy[k]);
    if (atomic_fetch_add(&n_owners[k], 1) != 0)
        atomic_fetch_add(&n_shared, 1);
    atomic_fetch_sub(&n_owners[k], 1);
    if (r % 8 == 1) {
        atomic_store(&slab->ctl, SLAB_CTL(SLAB_FULL, class_a, 1));
        return;
    }
    slab_disown(slab);
    class_set_enter(&arena, class_a, busy[k]);
}

static void *churn(void *argument)
{
    uint32_t random_state = 1234567u + 7919u * (uint32_t)(uintptr_t)argument;
    for (unsigned step = 0; step < N_STEPS; step++) {
        uint32_t r = step_random(&random_state);
        size_t k = (r >> 8) % N_BUSY;
        if (r >> 30 == 0) { /* by way of the search */
            size_t found = class_set_find(&arena, class_a, 0);
            for (k = 0; k < N_BUSY && busy[k] != found; k++)
                continue;
            if (k == N_BUSY)
                continue;
            atomic_fetch_add_explicit(&n_found, 1, memory_order_relaxed);
        }
        own_and_let_go(k, r);
    }
    return NULL;
}

static void threads_lose_no_slab(void **state)
{
    (void)state;
    for (size_t k = 0; k < N_BUSY; k++)
        set_ctl(busy[k], SLAB_FULL, class_a);
    for (unsigned round = 0; round < 10; round++) {
        pthread_t threads[N_THREADS];
        for (uintptr_t t = 0; t < N_THREADS; t++)
            assert_int_equal(pthread_create(&threads[t], NULL, churn, (void *)(t + round * N_THREADS)), 0);
        for (unsigned t = 0; t < N_THREADS; t++)
            pthread_join(threads[t], NULL);
        assert_int_equal(atomic_load(&n_shared), 0);
        for (size_t k = 0; k < N_BUSY; k++) { /* by the search from the beginning: every level must know of it */
            if (CTL_STATE(slab_ctl_read(&arena.slabs[busy[k]])) != SLAB_PARTIAL)
                continue;
            size_t i = 0;
            while (i != SIZE_MAX && i != busy[k]) {
                size_t found = class_set_find(&arena, class_a, i);
                i = found == SIZE_MAX || found == busy[k] ? found : found + 1;
            }
            if (i != busy[k])
                fail_msg("round %u: slab %zu is PARTIAL and not found", round, busy[k]);
        }
    }
    assert_true(atomic_load(&n_found) > 0);
    for (size_t k = 0; k < N_BUSY; k++) {
        set_ctl(busy[k], SLAB_EMPTY, 0);
        class_set_drop(&arena, class_a, busy[k]);
    }
    assert_int_equal(class_set_find(&arena, class_a, 0), SIZE_MAX); /* though levels above may lag */
}

/* The race of class_set.c's header, met head-on: one thread drops the only slab of a word while another enters its neighbour;
 * at first sight afterwards, the neighbour must be found from the beginning. */
#define N_MEETINGS 100000u
#define MEETINGS_MS 20000 /* at most: with one processor, which others want too, a yield takes as long as their turns */
#define MEETING_SLAB (TOP_SLABS + 5 * CHUNK_SLABS + 640) /* alone at every level */
static _Atomic unsigned meeting, n_arrived;

static void wait_at_random(uint32_t *random_state)
{
    for (volatile uint32_t n = step_random(random_state) % 64; n > 0; n--)
        continue;
}

static void *enter_neighbours(void *argument)
{
    uint32_t random_state = 99991;
    for (unsigned k = 1; k <= N_MEETINGS; k++) {
        while (atomic_load(&meeting) < k)
            sched_yield();
        if (atomic_load(&meeting) > N_MEETINGS)
            break;
        wait_at_random(&random_state);
        set_ctl(MEETING_SLAB + 1, SLAB_PARTIAL, class_a);
        class_set_enter(&arena, class_a, MEETING_SLAB + 1);
        atomic_store(&n_arrived, k);
    }
    return argument;
}

static void a_drop_and_an_enter_that_meet_lose_nothing(void **state)
{
    (void)state;
    pthread_t thread;
    uint32_t random_state = 31337;
    size_t found = MEETING_SLAB + 1;
    unsigned n_lost = 0;
    assert_int_equal(pthread_create(&thread, NULL, enter_neighbours, NULL), 0);
    uint32_t from_ms = os_now_ms();
    for (unsigned k = 1; k <= N_MEETINGS && os_now_ms() - from_ms < MEETINGS_MS; k++) {
        set_ctl(MEETING_SLAB, SLAB_PARTIAL, class_a);
        class_set_enter(&arena, class_a, MEETING_SLAB);
        atomic_store(&meeting, k);
        wait_at_random(&random_state);
        set_ctl(MEETING_SLAB, SLAB_OWNED, class_a);
        class_set_drop(&arena, class_a, MEETING_SLAB);
        while (atomic_load(&n_arrived) != k)
            sched_yield();
        found = class_set_find(&arena, class_a, 0);
        n_lost += found != MEETING_SLAB + 1; /* asserted below: the other thread must end first */
        set_ctl(MEETING_SLAB + 1, SLAB_OWNED, class_a);
        class_set_drop(&arena, class_a, MEETING_SLAB + 1);
    }
    atomic_store(&meeting, N_MEETINGS + 1);
    pthread_join(thread, NULL);
    assert_int_equal(n_lost, 0);
    assert_int_equal(class_set_find(&arena, class_a, 0), SIZE_MAX);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nothing_is_found_in_an_empty_set),
        cmocka_unit_test(each_alone_is_found_from_everywhere),
        cmocka_unit_test(the_lowest_comes_first),
        cmocka_unit_test(any_order_is_as_the_model),
        cmocka_unit_test(entering_and_dropping_twice_is_once),
        cmocka_unit_test(a_late_drop_loses_nothing),
        cmocka_unit_test(the_search_ends_at_high),
        cmocka_unit_test(threads_lose_no_slab),
        cmocka_unit_test(a_drop_and_an_enter_that_meet_lose_nothing),
    };
    return cmocka_run_group_tests(tests, make_arena, NULL);
}
