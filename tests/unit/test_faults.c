/* test_faults.c - the system says no: one mixed script is run with its k-th call to the system failing, and with all calls
 * from the k-th on failing, for k = 1, 2, ... until the script needs fewer (in steps in debug and sanitizer builds); for all
 * calls together and for each kind. Then systems with small reservations only, and with larger pages.
 * Checked: a refused request gives NULL and ENOMEM and nothing else; what is held keeps its contents; zeroed memory is zero;
 * when the system agrees again everything works, and all of it can be freed: no block, span or run is left, the pool is whole.
 * Threads  each script runs in a forked child of its own, so that every one begins with a fresh heap; the script starts a
 *          second thread and waits for it, so that the number of calls is the same each time.
 * ctest: timeout 900
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "front/harden.h"
#include "front/sampled.h"
#include "front/sampler.h"
#include "front/sleepers.h"
#include "front/thread.h"
#include "hakmem/hakmem.h"
#include "meta/arena.h"
#include "os/os.h"
#include "pool/background.h"
#include "pool/pool_state.h"
#include "pool/shared_pool.h"
#include "service/config.h"
#include "process.h"

#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#ifdef SANITIZED
enum { K_STEP = 37 }; /* forks are dear there */
#elif defined(HAKMEM_DEBUG_BUILD)
enum { K_STEP = 7 };
#else
enum { K_STEP = 1 };
#endif

/* What a child tells its parent; in shared memory. */
static struct report {
    char wrong[256];
    unsigned long n_calls;   /* to the system that the script made, of the kinds that may fail */
    unsigned long n_refused; /* requests that got NULL */
} * report;

#define EXPECT(condition)                                                                                              \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            snprintf(report->wrong, sizeof report->wrong, "line %d: %s", __LINE__, #condition);                        \
            _exit(1);                                                                                                  \
        }                                                                                                              \
    } while (0)

/* ---- Blocks that know what they hold ------------------------------------------------------------------------------- */

#define MAX_HELD 65536

static struct held {
    unsigned char *block;
    size_t size_bytes;
    unsigned char mark;
} held[MAX_HELD]; /* children have their own */
static unsigned n_held;
static unsigned char next_mark;

static void fill(unsigned char *block, size_t len_bytes, unsigned char mark)
{
    if (len_bytes <= 2048) {
        memset(block, mark, len_bytes);
        return;
    }
    for (size_t at = 0; at < len_bytes; at += 512) /* each page is touched */
        block[at] = mark;
    block[len_bytes - 1] = mark;
}

static bool holds(const unsigned char *block, size_t filled_bytes, size_t kept_bytes, unsigned char mark)
{
    size_t step = filled_bytes <= 2048 ? 1 : 512;
    for (size_t at = 0; at < kept_bytes; at += step)
        if (block[at] != mark)
            return false;
    return kept_bytes < filled_bytes || kept_bytes == 0 || block[kept_bytes - 1] == mark;
}

static bool is_zero(const unsigned char *block, size_t len_bytes)
{
    return len_bytes == 0 || (block[0] == 0 && memcmp(block, block + 1, len_bytes - 1) == 0);
}

enum kind { PLAIN, ZEROED, ALIGNED };

/* One request, with all that its result promises. alignment counts for ALIGNED only. */
static struct held claim(enum kind kind, size_t size_bytes, size_t alignment)
{
    struct held h = {NULL, size_bytes, ++next_mark};
    errno = 0;
    h.block = kind == ZEROED    ? hak_calloc(1, size_bytes)
              : kind == ALIGNED ? hak_aligned_alloc(alignment, size_bytes)
                                : hak_malloc(size_bytes);
    if (h.block == NULL) {
        EXPECT(errno == ENOMEM);
        report->n_refused++;
        return h;
    }
    EXPECT(errno == 0);
    EXPECT(hak_usable_size(h.block) >= size_bytes);
    EXPECT(kind != ALIGNED || ((uintptr_t)h.block & (alignment - 1)) == 0);
    EXPECT(kind != ZEROED || is_zero(h.block, size_bytes));
    fill(h.block, size_bytes, h.mark);
    return h;
}

static void hold(enum kind kind, size_t size_bytes, size_t alignment)
{
    struct held h = claim(kind, size_bytes, alignment);
    if (h.block == NULL)
        return;
    EXPECT(n_held < MAX_HELD);
    held[n_held++] = h;
}

static void check_held(void)
{
    for (unsigned i = 0; i < n_held; i++)
        EXPECT(holds(held[i].block, held[i].size_bytes, held[i].size_bytes, held[i].mark));
}

static void free_held(unsigned i)
{
    EXPECT(holds(held[i].block, held[i].size_bytes, held[i].size_bytes, held[i].mark));
    errno = 77;
    hak_free(held[i].block);
    EXPECT(errno == 77);
    held[i] = held[--n_held];
}

static void resize_held(unsigned i, size_t size_bytes)
{
    struct held *h = &held[i];
    size_t usable_bytes = hak_usable_size(h->block);
    errno = 0;
    unsigned char *block = hak_realloc(h->block, size_bytes);
    if (block == NULL) {
        EXPECT(errno == ENOMEM);
        EXPECT(size_bytes > usable_bytes); /* shrinking never fails */
        EXPECT(holds(h->block, h->size_bytes, h->size_bytes, h->mark));
        report->n_refused++;
        return;
    }
    EXPECT(errno == 0);
    EXPECT(hak_usable_size(block) >= size_bytes);
    EXPECT(holds(block, h->size_bytes, min_size(h->size_bytes, size_bytes), h->mark));
    fill(block, size_bytes, h->mark);
    h->block = block;
    h->size_bytes = size_bytes;
}

/* ---- The script ---------------------------------------------------------------------------------------------------- */

static void small_and_medium(enum kind kind, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        hold(kind, i % 13 == 0 ? 1025 + i * 37 % 31744 : 1 + i * 7 % 1024, 16);
}

static void spans_and_runs(enum kind kind)
{
    for (unsigned i = 0; i < 10; i++)
        hold(kind, 32769 + i * 100000, 16);
    hold(kind, MIB, 16);
    hold(kind, MIB + 1, 16);
    hold(kind, 2 * MIB, 16);
    hold(kind, 5 * MIB + 100, 16);
}

static void aligned_blocks(void)
{
    for (size_t alignment = 32; alignment <= 8 * MIB; alignment *= 4) {
        hold(ALIGNED, 100, alignment);
        hold(ALIGNED, 50000, alignment);
    }
}

static void resizes(void)
{
    for (unsigned i = 0; i < n_held; i += 5)
        resize_held(i, held[i].size_bytes + held[i].size_bytes / 2 + 1);
    for (unsigned i = 1; i < n_held; i += 5)
        resize_held(i, held[i].size_bytes / 3 + 1);
    /* A run with another one behind it moves by its pages. */
    for (unsigned i = 0; i < 3; i++) {
        unsigned first = n_held;
        hold(PLAIN, 2 * MIB + 1, 16);
        hold(PLAIN, 2 * MIB, 16);
        if (n_held == first + 2)
            resize_held(first, (5 + i) * MIB);
    }
}

static void free_every(unsigned n)
{
    for (unsigned i = n_held; i-- > 0;)
        if (i % n == 0)
            free_held(i);
}

/* Blocks that a thread leaves behind when it exits, and others that it has had for itself. */
static void *run_thread(void *unused)
{
    (void)unused;
    small_and_medium(PLAIN, 300);
    spans_and_runs(PLAIN);
    for (unsigned i = 0; i < 500; i++) {
        struct held h = claim(PLAIN, 24 + i, 16);
        hak_free(h.block);
    }
    return NULL;
}

static void *run_sleeper(void *barrier)
{
    run_thread(NULL);
    pthread_barrier_wait(barrier);
    pthread_barrier_wait(barrier); /* asleep until the ticks are over */
    return NULL;
}

static void a_thread_comes_and_goes(void)
{
    pthread_t thread;
    EXPECT(pthread_create(&thread, NULL, run_thread, NULL) == 0);
    EXPECT(pthread_join(thread, NULL) == 0);
}

/* Whether the script has a part in which time passes beside a thread that sleeps; how many calls that takes differs. */
static bool time_passes;

/* A thread that holds a cache and sleeps; what a tick finds idle. Three make the delay. */
static void tick_beside_a_sleeper(void)
{
    if (!time_passes)
        return;
    pthread_t thread;
    pthread_barrier_t barrier;
    EXPECT(pthread_barrier_init(&barrier, NULL, 2) == 0);
    EXPECT(pthread_create(&thread, NULL, run_sleeper, &barrier) == 0);
    pthread_barrier_wait(&barrier);
    for (unsigned i = 0; i < 3; i++) {
        sleepers_tick();
        shared_pool_tick();
    }
    sleepers_empty_all();
    pthread_barrier_wait(&barrier);
    EXPECT(pthread_join(thread, NULL) == 0);
    pthread_barrier_destroy(&barrier);
}

static void script(void)
{
    small_and_medium(PLAIN, 1500);
    spans_and_runs(PLAIN);
    small_and_medium(ZEROED, 300);
    aligned_blocks();
    resizes();
    check_held();
    free_every(2);
    tick_beside_a_sleeper();
    check_held();
    hak_trim(HAK_TRIM_PAGES);
    check_held();
    spans_and_runs(ZEROED);
    a_thread_comes_and_goes();
    check_held();
    free_every(3);
    hak_trim(HAK_TRIM_CACHE);
    small_and_medium(ZEROED, 600);
    free_every(1); /* everything */
    hak_trim(HAK_TRIM_SLABS);
    small_and_medium(ZEROED, 600);
    spans_and_runs(ZEROED);
    resizes();
    check_held();
    free_every(1); /* runs that moved go back too: that is what decommits */
    hak_trim(HAK_TRIM_PAGES);
}

/* The system agrees again: everything is served, and nothing is left when it has gone. */
static void everything_works(void)
{
    check_held();
    report->n_refused = 0;
    small_and_medium(PLAIN, 500);
    small_and_medium(ZEROED, 500);
    spans_and_runs(PLAIN);
    spans_and_runs(ZEROED);
    aligned_blocks();
    resizes();
    a_thread_comes_and_goes();
    EXPECT(report->n_refused == 0);
    check_held();
    free_every(2);
    hak_trim(HAK_TRIM_PAGES);
    free_every(1);
    EXPECT(n_held == 0);
    hak_trim(HAK_TRIM_PAGES);
    struct hak_stats s;
    EXPECT(hak_stats_get(&s, sizeof s) == 0);
    EXPECT(s.spans == 0);
    EXPECT(s.runs == 0);
    EXPECT(s.live_blocks == 0);
    EXPECT(s.live_bytes == 0);
    const char *wrong = pool_check();
    if (wrong != NULL)
        snprintf(report->wrong, sizeof report->wrong, "pool_check: %s", wrong);
    EXPECT(wrong == NULL);
}

/* ---- Children ------------------------------------------------------------------------------------------------------ */

/* Runs body(a, b, c) in a fresh process; fails with what it found wrong. */
static void in_child(void (*body)(unsigned long, unsigned long, unsigned), unsigned long a, unsigned long b, unsigned c)
{
    memset(report, 0, sizeof *report);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        alarm(120);
        body(a, b, c);
        _exit(0);
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    if (status != 0)
        fail_msg("(%lu, %lu, %u): status 0x%x: %s", a, b, c, (unsigned)status,
                 report->wrong[0] != 0 ? report->wrong : "no word");
}

static void run_faulty_script(unsigned long first, unsigned long n, unsigned mask)
{
    os_fail_from(first, n, mask);
    script();
    report->n_calls = os_fail_from(0, 0, 0);
    const char *wrong = pool_check(); /* committed bytes agree with the records, too */
    if (wrong != NULL)
        snprintf(report->wrong, sizeof report->wrong, "pool_check after the faults: %s", wrong);
    EXPECT(wrong == NULL);
    unsigned long n_refused = report->n_refused;
    everything_works();
    report->n_refused = n_refused;
}

/* Nothing goes back at once: ticks and trims find it all. */
static void run_faulty_script_with_ticks(unsigned long first, unsigned long n, unsigned mask)
{
    config.purge_delay_ms = -1;
    time_passes = true;
    run_faulty_script(first, n, mask);
}

/* Above the soft line throughout: reliefs, no refusal. */
static void run_faulty_script_with_budget(unsigned long first, unsigned long n, unsigned mask)
{
    EXPECT(hak_budget_set(MIB, GIB) == 0);
    config.purge_delay_ms = -1;
    time_passes = true;
    run_faulty_script(first, n, mask);
    struct hak_stats s;
    EXPECT(hak_stats_get(&s, sizeof s) == 0);
    EXPECT(s.budget_reliefs > 0);
    EXPECT(s.budget_refusals == 0);
}

/* For every k: returns how many calls the script makes when none fails. */
static unsigned long fail_each_in(void (*body)(unsigned long, unsigned long, unsigned), unsigned long step,
                                  unsigned long n, unsigned mask, unsigned long *n_refused)
{
    *n_refused = 0;
    for (unsigned long k = 1;; k += step) {
        in_child(body, k, n, mask);
        *n_refused += report->n_refused;
        if (report->n_calls < k) {
            assert_int_equal(report->n_refused, 0);
            return report->n_calls;
        }
        assert_true(k < 100000);
    }
}

static unsigned long fail_each(unsigned long n, unsigned mask, unsigned long *n_refused)
{
    return fail_each_in(run_faulty_script, K_STEP, n, mask, n_refused);
}

static void fail_kind(unsigned mask, bool refuses)
{
    unsigned long refused_by_one, refused_by_all;
    unsigned long n_calls = fail_each(1, mask, &refused_by_one);
    assert_true(n_calls >= 1);
    assert_int_equal(fail_each(ULONG_MAX / 2, mask, &refused_by_all), n_calls);
    if (refuses)
        assert_true(refused_by_all > 0);
    else { /* What only gives memory back may fail without anybody noticing. */
        assert_int_equal(refused_by_one, 0);
        assert_int_equal(refused_by_all, 0);
    }
}

static void any_call_fails(void **state)
{
    (void)state;
    fail_kind(OS_CALL_ALL, true);
}

static void reservations_fail(void **state)
{
    (void)state;
    fail_kind(OS_CALL_RESERVE, true);
}

static void commits_fail(void **state)
{
    (void)state;
    fail_kind(OS_CALL_COMMIT, true);
}

static void decommits_fail(void **state)
{
    (void)state;
    if (config.secure != 0)
        skip(); /* Then no pages move from run to run, and nothing is decommitted. */
    fail_kind(OS_CALL_DECOMMIT, false);
}

static void purges_fail(void **state)
{
    (void)state;
    fail_kind(OS_CALL_PURGE, false);
}

static void moves_fail(void **state)
{
    (void)state;
    fail_kind(OS_CALL_MOVE, false);
}

static void looks_at_threads_fail(void **state)
{
    (void)state;
    unsigned long refused;
    if (UNDER_THREAD_SANITIZER)
        skip(); /* where ticks do not look at threads */
    assert_true(fail_each_in(run_faulty_script_with_ticks, K_STEP * 9, 1, OS_CALL_LOOK, &refused) >= 1);
    assert_int_equal(refused, 0);
}

/* The same where time and budget give back, instead of the calls that free. How many calls there are depends on what
 * threads do meanwhile, so they are not compared. */
static void calls_fail_while_ticks_give_back(void **state)
{
    (void)state;
    unsigned long refused;
    fail_each_in(run_faulty_script_with_ticks, K_STEP * 9, 1, OS_CALL_ALL, &refused);
    fail_each_in(run_faulty_script_with_ticks, K_STEP * 9, 1, OS_CALL_PURGE, &refused);
    assert_int_equal(refused, 0);
    fail_each_in(run_faulty_script_with_ticks, K_STEP * 9, ULONG_MAX / 2,
                 OS_CALL_PURGE | OS_CALL_DECOMMIT | OS_CALL_MOVE, &refused);
    assert_int_equal(refused, 0);
}

static void calls_fail_under_a_budget(void **state)
{
    (void)state;
    unsigned long refused;
    fail_each_in(run_faulty_script_with_budget, K_STEP * 9, 1, OS_CALL_ALL, &refused);
    fail_each_in(run_faulty_script_with_budget, K_STEP * 9, ULONG_MAX / 2,
                 OS_CALL_PURGE | OS_CALL_DECOMMIT | OS_CALL_MOVE, &refused);
    assert_int_equal(refused, 0);
}

/* ---- Small reservations -------------------------------------------------------------------------------------------- */

#define HEAP_BYTES (200 * MIB)

static void grow_in_small_arenas(unsigned long limit_bytes, unsigned long unused, unsigned unused_too)
{
    (void)unused;
    (void)unused_too;
    os_fail_reservations_above(limit_bytes);
    for (unsigned round = 0; round < 2; round++) {
        size_t claimed_bytes = 0;
        for (unsigned i = 0; claimed_bytes < HEAP_BYTES; i++) {
            size_t size_bytes = i % 16 == 15 ? limit_bytes - i % 5 * 4096
                                : i % 4 == 3 ? 32769 + i * 9999 % MIB
                                             : 1 + i * 777 % 32768;
            hold(i % 3 == 0 ? ZEROED : PLAIN, size_bytes, 16);
            claimed_bytes += size_bytes;
        }
        EXPECT(report->n_refused == 0);
        struct hak_stats s;
        EXPECT(hak_stats_get(&s, sizeof s) == 0);
        EXPECT(s.arenas >= HEAP_BYTES / limit_bytes);
        for (struct arena *arena = arena_first(); arena != NULL; arena = arena_next(arena))
            EXPECT(arena->len_bytes <= limit_bytes);
        hold(PLAIN, limit_bytes + 1, 16); /* more than the system ever gives at once */
        EXPECT(report->n_refused == 1);
        report->n_refused = 0;
        resizes();
        report->n_refused = 0; /* growth beyond the limit */
        check_held();
        EXPECT(pool_check() == NULL);
        free_every(2);
        hak_trim(HAK_TRIM_PAGES);
        check_held();
        free_every(1);
    }
    os_fail_reservations_above(SIZE_MAX);
    everything_works();
}

static void small_reservations_make_many_arenas(void **state)
{
    (void)state;
    in_child(grow_in_small_arenas, 4 * MIB, 0, 0);
    in_child(grow_in_small_arenas, 64 * MIB, 0, 0);
}

/* A request that no system serves does not spoil the heap of those that follow: the first arena is as large as ever. */
static void begin_with_the_impossible(unsigned long size_bytes, unsigned long unused, unsigned unused_too)
{
    (void)unused;
    (void)unused_too;
    os_fail_reservations_above(size_bytes - 1);
    hold(PLAIN, size_bytes, 16);
    EXPECT(report->n_refused == 1);
    hold(PLAIN, 100, 16);
    EXPECT(n_held == 1);
    EXPECT(arena_first()->len_bytes >= GIB);
}

static void an_impossible_first_request_spoils_nothing(void **state)
{
    (void)state;
    in_child(begin_with_the_impossible, (unsigned long)1 << 46, 0, 0);
}

/* A block that outgrows its class gets a quarter more than it had; without memory for that, what was asked for. */
static void grow_by_little(unsigned long unused, unsigned long unused_too, unsigned unused_as_well)
{
    (void)unused;
    (void)unused_too;
    (void)unused_as_well;
    unsigned char *block = hak_realloc(hak_malloc(576), 577);
    EXPECT(block != NULL && hak_usable_size(block) >= 576 + 576 / 4);
    hak_free(block);
    block = hak_realloc(hak_malloc(28672), 28673);
    EXPECT(block != NULL && hak_usable_size(block) == CLASS_MAX_BYTES);
    hak_free(block);

    block = hak_malloc(576);
    memset(block, 1, 576);
    void *reserve = hak_malloc(640);
    EXPECT(block != NULL && reserve != NULL);
    os_fail_from(1, ULONG_MAX / 2, OS_CALL_COMMIT | OS_CALL_RESERVE);
    for (size_t size_bytes = 32768; size_bytes >= 641; size_bytes--)
        while (hak_malloc(size_bytes) != NULL)
            continue;
    while (hak_malloc(640) != NULL)
        continue;
    errno = 0;
    EXPECT(hak_realloc(block, 640) == NULL && errno == ENOMEM && block[0] == 1 && block[575] == 1);
    hak_free(reserve);
    unsigned char *grown = hak_realloc(block, 640);
    EXPECT(grown != NULL && hak_usable_size(grown) >= 640 && grown[0] == 1 && grown[575] == 1);
}

static void growth_is_roomy_where_memory_allows(void **state)
{
    (void)state;
    in_child(grow_by_little, 0, 0, 0);
}

/* ---- Sampled blocks ------------------------------------------------------------------------------------------------- */

enum { MORE_THAN_PLACES = 600 };

/* The system is asked, and does not end the process. */
static bool is_accessible(const void *address)
{
    int ends[2];
    EXPECT(pipe(ends) == 0);
    bool accessible = write(ends[1], address, 1) == 1;
    close(ends[0]);
    close(ends[1]);
    return accessible;
}

/* Every allocation is picked for a place of its own, from now on. */
static void sample_each(void)
{
    thread_start_process();
    EXPECT(sampled_start());
    sampler_start_by_count(1);
    atomic_store(&harden_state, HARDEN_SAMPLING);
    uint64_t before = sampled_total();
    hak_free(hak_malloc(100));
    EXPECT(sampled_total() == before + 1);
}

/* A block whose place gets no memory is like any other, and the place can be had again. */
static void claim_places_without_memory(unsigned long unused, unsigned long unused_too, unsigned unused_as_well)
{
    (void)unused;
    (void)unused_too;
    (void)unused_as_well;
    sample_each();
    for (unsigned i = 0; i < MORE_THAN_PLACES; i++)
        hold(PLAIN, 100, 16);
    free_every(1);
    uint64_t before = sampled_total();
    os_fail_from(1, ULONG_MAX / 2, OS_CALL_COMMIT);
    for (unsigned i = 0; i < MORE_THAN_PLACES; i++)
        hak_free(claim(PLAIN, 100, 16).block);
    os_fail_from(0, 0, 0);
    EXPECT(report->n_refused == 0);
    EXPECT(sampled_total() == before);
    hak_free(hak_malloc(100));
    EXPECT(sampled_total() == before + 1);
}

/* A freed block whose pages do not go back is inaccessible all the same, and what it held is not seen by the place's next one. */
static void free_places_that_stay(unsigned long unused, unsigned long unused_too, unsigned unused_as_well)
{
    (void)unused;
    (void)unused_too;
    (void)unused_as_well;
    sample_each();
    uint64_t before = sampled_total();
    for (unsigned i = 0; i < MORE_THAN_PLACES; i++) {
        size_t size_bytes = i % 2 == 0 ? CLASS_MAX_BYTES : 100;
        unsigned char *block = hak_calloc(1, size_bytes);
        EXPECT(block != NULL && is_zero(block, size_bytes));
        memset(block, 7, size_bytes);
        os_fail_from(1, ULONG_MAX / 2, OS_CALL_DECOMMIT);
        hak_free(block);
        os_fail_from(0, 0, 0);
        EXPECT(!is_accessible(block));
    }
    for (unsigned i = 0; i < MORE_THAN_PLACES; i++) {
        unsigned char *block = hak_malloc(CLASS_MAX_BYTES); /* calloc clears in any case */
        EXPECT(block != NULL && is_zero(block, CLASS_MAX_BYTES));
        hak_free(block);
    }
    EXPECT(sampled_total() == before + 2 * MORE_THAN_PLACES);
}

static void sampled_blocks_have_what_they_had(void **state)
{
    (void)state;
    if (config.secure != 0)
        skip(); /* nothing is sampled */
    in_child(claim_places_without_memory, 0, 0, 0);
    in_child(free_places_that_stay, 0, 0, 0);
}

/* ---- Closed slots --------------------------------------------------------------------------------------------------- */

/* Twice: a slot by itself, and all of its SuperSlab. */
#define COMMITS_OF_A_SLOT 2

/* What cannot be opened, or mapped, for want of memory is had when what waits has gone back. With a budget nothing else is tried. */
static void claim_without_memory(unsigned long size_bytes, unsigned long n_refusals, unsigned unused)
{
    (void)unused;
    thread_start_process();
    background_hold(true);
    config.secure = SECURE_GUARD; /* of what it brings closed slots alone */
    config.purge_delay_ms = 100000;
    EXPECT(hak_budget_set(0, GIB) == 0);
    hold(PLAIN, 100, 16); /* of a SuperSlab that has slots */
    hak_free(hak_malloc(10 * MIB));
    EXPECT(shared_pool_idle_bytes() != 0);
    os_fail_from(1, n_refusals, OS_CALL_COMMIT);
    hold(PLAIN, size_bytes, 16);
    EXPECT(os_fail_from(0, 0, 0) > n_refusals);
    EXPECT(report->n_refused == 0);
    everything_works();
}

static void what_waits_makes_room(void **state)
{
    (void)state;
    in_child(claim_without_memory, 2000, COMMITS_OF_A_SLOT, 0);
    in_child(claim_without_memory, 1200000, COMMITS_OF_A_SLOT, 0);
    in_child(claim_without_memory, 20 * MIB, 1, 0);
}

static unsigned count_closed_rows(void)
{
    unsigned n = 0;
    for (struct arena *arena = arena_first(); arena != NULL; arena = arena_next(arena))
        for (uint32_t i = 0; i < atomic_load(&arena->high); i++) {
            uint32_t closed = atomic_load(&arena->superslabs[i].closed_slots);
            n += count_bits(closed & ~(closed << 1));
        }
    return n;
}

static bool is_closed(const struct slab *slab)
{
    struct superslab *ss = slab->superslab;
    unsigned slot = superslab_slot_of(ss, slab);
    bool closed = (atomic_load(&ss->closed_slots) >> slot & 1) != 0;
    EXPECT(closed != is_accessible(superslab_memory(ss) + slot * SLAB_BYTES));
    return closed;
}

/* Each row of closed slots takes mappings of the system's, so there are so many at most, whatever comes free where. */
static void close_many_rows(unsigned long most_rows, unsigned long unused, unsigned unused_too)
{
    (void)unused;
    (void)unused_too;
    enum { N_SUPERSLABS = 520, N = N_SUPERSLABS * SUPERSLAB_SLABS };
    static struct slab *slabs[N], *odd[N];
    unsigned class_id = class_of(1024), n_odd = 0;
    thread_start_process();
    config.secure = SECURE_GUARD; /* as above */
    config.purge_delay_ms = 0;
    for (unsigned i = 0; i < N; i++)
        EXPECT((slabs[i] = shared_pool_acquire_slab(class_id)) != NULL);
    struct slab *alone = shared_pool_acquire_slab(class_id); /* in a SuperSlab whose other slots are one row */
    EXPECT(alone != NULL);
    struct superslab *ss = alone->superslab;
    EXPECT(atomic_load(&ss->closed_slots) == UINT32_MAX - 1);

    for (unsigned i = 0; i < N; i++)
        if ((slabs[i] - slabs[i]->superslab->arena->slabs) % 2 != 0)
            odd[n_odd++] = slabs[i];
    EXPECT(n_odd == N / 2 && n_odd > most_rows);
    EXPECT(os_forbid(odd[n_odd - 1]->memory, os_page_bytes())); /* as behind a block that has guard pages */
    for (unsigned i = 0; i < n_odd; i++)
        shared_pool_disown_slab(odd[i]);
    EXPECT(count_closed_rows() == most_rows);
    EXPECT(is_closed(odd[0]));
    EXPECT(!is_closed(odd[n_odd - 1]));

    EXPECT(pool_lock(HAK_LOCK_TRIM));
    EXPECT(pool_open_memory(ss, 10, 1)); /* no row becomes two */
    EXPECT(atomic_load(&ss->closed_slots) == superslab_slot_mask(1, 9));
    pool_unlock();
    EXPECT(count_closed_rows() == most_rows);
    shared_pool_disown_slab(odd[0] + 1); /* what two rows become one by is closed yet */
    EXPECT(is_closed(odd[0] + 1));
    EXPECT(count_closed_rows() == most_rows - 1);

    EXPECT(pool_lock(HAK_LOCK_TRIM));
    os_fail_from(1, 1, OS_CALL_COMMIT);
    EXPECT(pool_open_memory(ss, 5, 1)); /* where there is no mapping left for a part, all of it is opened */
    os_fail_from(0, 0, 0);
    EXPECT(atomic_load(&ss->closed_slots) == 0);
    pool_unlock();
    EXPECT(count_closed_rows() == most_rows - 2);
    EXPECT(pool_check() == NULL);
}

static void closed_slots_take_so_many_mappings(void **state)
{
    (void)state;
    in_child(close_many_rows, 8192, 0, 0);
}

/* A thread that a fork cuts off may have closed slots that it has not counted yet. When the child opens them, it counts fewer than none: no
 * reason not to close any more. */
static void close_after_a_fork(unsigned long unused, unsigned long unused_too, unsigned unused_also)
{
    (void)unused;
    (void)unused_too;
    (void)unused_also;
    struct slab *slabs[SUPERSLAB_SLABS];
    thread_start_process();
    config.secure = SECURE_GUARD; /* as above */
    config.purge_delay_ms = 0;
    for (unsigned i = 0; i < SUPERSLAB_SLABS; i++)
        EXPECT((slabs[i] = shared_pool_acquire_slab(class_of(1024))) != NULL);
    struct superslab *ss = slabs[0]->superslab;
    EXPECT(slabs[SUPERSLAB_SLABS - 1]->superslab == ss && count_closed_rows() == 0);
    EXPECT(pool_lock(HAK_LOCK_TRIM));
    atomic_store(&ss->closed_slots, 1); /* as the fork leaves it */
    EXPECT(pool_open_memory(ss, 0, 1));
    pool_unlock();
    shared_pool_disown_slab(slabs[5]);
    EXPECT(is_closed(slabs[5]));
    EXPECT(pool_check() == NULL);
}

static void what_a_fork_left_uncounted_is_no_limit(void **state)
{
    (void)state;
    in_child(close_after_a_fork, 0, 0, 0);
}

/* ---- Larger pages -------------------------------------------------------------------------------------------------- */

static void live_on_larger_pages(unsigned long page_bytes, unsigned long unused, unsigned unused_too)
{
    (void)unused;
    (void)unused_too;
    thread_start_process();
    os_pretend_page_bytes(page_bytes);
    EXPECT(os_page_bytes() == page_bytes);
    for (unsigned round = 0; round < 4; round++) {
        /* Slabs: every page but some is free when it is trimmed, by blocks of all lengths. */
        for (size_t size_bytes = 8; size_bytes <= 32768; size_bytes = size_bytes * 3 / 2 + 1)
            for (size_t n = 0; n < 300000 / size_bytes + 3 && n < 600; n++)
                hold(n % 2 == 0 ? PLAIN : ZEROED, size_bytes, 16);
        for (unsigned i = n_held; i-- > 0;)
            if (i % 50 != 0)
                free_held(i);
        hak_trim(HAK_TRIM_PAGES);
        check_held();
        small_and_medium(ZEROED, 1500); /* partly on trimmed pages, partly on dirty ones */
        check_held();
        EXPECT(pool_check() == NULL);
        /* Spans and runs: whole pages of the system's. */
        unsigned first = n_held;
        spans_and_runs(ZEROED);
        spans_and_runs(PLAIN);
        for (unsigned i = first; i < n_held; i++)
            EXPECT(hak_usable_size(held[i].block) == round_up(held[i].size_bytes, page_bytes));
        EXPECT(hak_good_size(32769) == round_up(32769, page_bytes));
        aligned_blocks();
        resizes();
        hak_trim((int)round % 3);
        free_every(2);
        spans_and_runs(ZEROED);
        EXPECT(pool_check() == NULL);
        script();
    }
    EXPECT(report->n_refused == 0);
    everything_works();
}

static void larger_pages_hold_the_same_blocks(void **state)
{
    (void)state;
    in_child(live_on_larger_pages, 4 * KIB, 0, 0);
    in_child(live_on_larger_pages, 16 * KIB, 0, 0);
    in_child(live_on_larger_pages, 64 * KIB, 0, 0);
}

int main(void)
{
    /* No call of the allocator is made in this process, so that every child begins where a program begins. */
    report = mmap(NULL, sizeof *report, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (report == MAP_FAILED)
        return 77;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_call_fails),
        cmocka_unit_test(reservations_fail),
        cmocka_unit_test(commits_fail),
        cmocka_unit_test(decommits_fail),
        cmocka_unit_test(purges_fail),
        cmocka_unit_test(moves_fail),
        cmocka_unit_test(looks_at_threads_fail),
        cmocka_unit_test(calls_fail_while_ticks_give_back),
        cmocka_unit_test(calls_fail_under_a_budget),
        cmocka_unit_test(small_reservations_make_many_arenas),
        cmocka_unit_test(an_impossible_first_request_spoils_nothing),
        cmocka_unit_test(growth_is_roomy_where_memory_allows),
        cmocka_unit_test(sampled_blocks_have_what_they_had),
        cmocka_unit_test(what_waits_makes_room),
        cmocka_unit_test(closed_slots_take_so_many_mappings),
        cmocka_unit_test(what_a_fork_left_uncounted_is_no_limit),
        cmocka_unit_test(larger_pages_hold_the_same_blocks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
