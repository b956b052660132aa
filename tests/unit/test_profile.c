/* test_profile.c - the heap profile: are its estimates as good as the theory says, over many seeds; is what is live exact to the
 * sample; do sessions begin and end cleanly.
 * Owns     the seeds. With one thread the picks depend on them alone, so a bound that holds once holds for ever.
 * Threads  one, but for the last test.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "front/profile.h"
#include "front/thread.h"
#include "hakmem/hakmem.h"
#include "look.h"
#include "os/os.h"
#include "pool/packed.h"

#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define N_SEEDS 50
#define INTERVAL_BYTES ((size_t)64 * KIB)
#define SITE_BYTES ((size_t)4 * MIB) /* allocated of each size: 64 samples are expected of small blocks */

/* What all records say together. */
struct sums {
    double live_blocks, live_bytes, total_blocks, total_bytes, rounding_bytes;
    unsigned live_samples, total_samples, n_stacks;
};

static struct sums sums(void)
{
    struct sums s = {0};
    for (uint32_t i = 1; i <= atomic_load(&profile_state.n_records); i++) {
        const struct profile_record *record = &profile_state.records[i];
        if (record->total_samples == 0)
            continue;
        s.n_stacks++;
        s.live_blocks += (double)record->live_count / PROFILE_COUNT_SCALE;
        s.live_bytes += (double)record->live_bytes;
        s.total_blocks += (double)record->total_count / PROFILE_COUNT_SCALE;
        s.total_bytes += (double)record->total_bytes;
        s.rounding_bytes += (double)record->live_rounding_bytes;
        s.live_samples += record->live_samples;
        s.total_samples += record->total_samples;
    }
    return s;
}

/* The chance that theory gives a block. */
static double chance(size_t size_bytes)
{
    size_t counted_bytes = size_bytes <= CLASS_MAX_BYTES ? size_bytes : round_up(size_bytes, os_page_bytes());
    return -expm1(-(double)(counted_bytes + 1) / INTERVAL_BYTES);
}

static void *held[SITE_BYTES / 8];

/* Allocates n blocks of a size and frees every other one again; each block is used once more, so that hits are among them. */
static __attribute__((noinline)) void work(size_t size_bytes, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        held[i] = hak_malloc(size_bytes);
        if (i % 2 == 1) {
            hak_free(held[i]);
            held[i] = NULL;
        }
    }
}

static void let_go(size_t n)
{
    for (size_t i = 0; i < n; i++) {
        hak_free(held[i]);
        held[i] = NULL;
    }
}

static void estimates_are_within_their_bounds(void **state)
{
    (void)state;
    static const size_t sizes_bytes[] = {8, 24, 100, 500, 1000, 4000, 10000, 30000, 40000, 100000, 300000, 2000000};
    unsigned n_outside = 0, n_cases = 0;
    for (unsigned k = 0; k < sizeof sizes_bytes / sizeof sizes_bytes[0]; k++) {
        size_t size_bytes = sizes_bytes[k], n = SITE_BYTES / size_bytes;
        double p = chance(size_bytes), deviation = sqrt((double)n * (1 - p)) / sqrt(p), error_sum = 0;
        for (uint64_t seed = 1; seed <= N_SEEDS; seed++) {
            os_pretend_random(seed * 1000003 + k);
            assert_int_equal(hak_profile_start(INTERVAL_BYTES), 0);
            work(size_bytes, n);
            struct sums s = sums();
            double error = s.total_blocks - (double)n, live = (double)(n - n / 2);
            error_sum += error;
            n_cases++;
            n_outside += fabs(error) > 1.96 * deviation + 0.01 * (double)n / PROFILE_COUNT_SCALE;
            if (fabs(error) > 5 * deviation + 1)
                fail_msg("%zu bytes, seed %u: %.0f blocks instead of %zu", size_bytes, (unsigned)seed, s.total_blocks,
                         n);
            if (fabs(s.live_blocks - live) > 5 * deviation / sqrt(2) + 1)
                fail_msg("%zu bytes, seed %u: %.0f live instead of %.0f", size_bytes, (unsigned)seed, s.live_blocks,
                         live);
            /* Bytes are blocks times what was asked for, and the rounding is what theory says of each. */
            assert_true(fabs(s.total_bytes - s.total_blocks * (double)size_bytes) <= 0.002 * s.total_bytes + 1);
            hak_profile_stop();
            let_go(n);
            assert_true(sums().live_samples == 0 && sums().live_blocks == 0 && sums().live_bytes == 0 &&
                        sums().rounding_bytes == 0);
        }
        double mean = error_sum / N_SEEDS;
        if (fabs(mean) > 4 * deviation / sqrt(N_SEEDS) + 0.5)
            fail_msg("%zu bytes: off by %.1f of %zu in the mean of %d seeds", size_bytes, mean, n, N_SEEDS);
    }
    os_pretend_random(0);
    /* 5 of 100 are expected, of 600 cases: 30, with a deviation of 5.3. */
    if (n_outside > n_cases / 20 + 22)
        fail_msg("%u of %u estimates are outside of 95 %% bounds", n_outside, n_cases);
}

/* Whatever becomes of sampled blocks: when all are gone, nothing is live, to the last bit. */
static void what_is_live_is_exact(void **state)
{
    (void)state;
    enum { N = 3000 };
    uint64_t random = 12345;
    assert_int_equal(hak_profile_start(4096), 0);
    for (unsigned i = 0; i < 200000; i++) {
        random = random * 6364136223846793005u + 1442695040888963407u;
        void **slot = &held[random >> 40 & 2047];
        size_t size_bytes = (random >> 33 & 63) == 0 ? random >> 20 & 0xfffff : random >> 20 & 0x7ff;
        switch (random >> 60) {
        case 0:
            hak_free(*slot);
            *slot = hak_calloc(3, size_bytes / 3 + 1);
            for (size_t at = 0; at < size_bytes / 3 * 3; at++)
                assert_int_equal(((char *)*slot)[at], 0);
            memset(*slot, 1, size_bytes);
            break;
        case 1:
        case 2:
        case 3:
        case 4: {
            void *moved = hak_realloc(*slot, size_bytes + 1);
            assert_non_null(moved);
            *slot = moved;
            memset(*slot, 1, size_bytes + 1);
            break;
        }
        case 5:
            hak_free(*slot);
            *slot = hak_aligned_alloc((size_t)1 << (random >> 50 & 15), size_bytes);
            assert_true(((uintptr_t)*slot & (((size_t)1 << (random >> 50 & 15)) - 1)) == 0);
            memset(*slot, 1, size_bytes);
            break;
        default:
            hak_free(*slot);
            *slot = hak_malloc(size_bytes);
            assert_true(*slot != NULL && hak_usable_size(*slot) >= size_bytes);
            memset(*slot, 1, size_bytes);
        }
    }
    struct sums s = sums();
    assert_true(s.live_samples > 100 && s.total_samples > 20000);
    let_go(2048);
    s = sums();
    assert_true(s.live_samples == 0 && s.live_blocks == 0 && s.live_bytes == 0 && s.rounding_bytes == 0);
    hak_profile_stop();
}

static void blocks_of_an_earlier_session_do_not_count(void **state)
{
    (void)state;
    assert_int_equal(hak_profile_start(1), 0);
    for (unsigned i = 0; i < 100; i++)
        held[i] = hak_malloc(i * 1000);
    assert_int_equal(sums().live_samples, 100);
    assert_true(sums().live_blocks == 100 && sums().live_bytes == 4950000);
    hak_profile_stop();
    hak_free(held[0]); /* still known */
    hak_free(held[99]);
    held[0] = held[99] = NULL;
    assert_int_equal(sums().live_samples, 98);
    assert_int_equal(hak_profile_start(1), 0);
    assert_int_equal(sums().total_samples, 0);
    let_go(100);
    assert_true(sums().live_samples == 0 && sums().live_blocks == 0);
    hak_profile_stop();
}

/* Each path is a stack of its own: the two calls stay two, and are no jumps. */
static __attribute__((noinline)) void *claim_by_path(unsigned path, unsigned depth)
{
    void *block;
    if (depth == 0) {
        block = hak_malloc(8);
        __asm__ volatile("# last" : "+r"(block));
    } else if (path % 2 == 0) {
        __asm__ volatile("# even" : "+r"(path));
        block = claim_by_path(path / 2, depth - 1);
        __asm__ volatile("# even" : "+r"(block));
    } else {
        __asm__ volatile("# odd" : "+r"(path));
        block = claim_by_path(path / 2, depth - 1);
        __asm__ volatile("# odd" : "+r"(block));
    }
    return block;
}

/* What finds no room is counted, in the dump too, and what has found some is as exact as ever; a new session has room again. */
static void stacks_beyond_the_table_are_counted(void **state)
{
    (void)state;
    enum { N_KEPT = 1000, N_BEYOND = 2000, N = PROFILE_MAX_RECORDS + N_BEYOND };
    static char text[1 << 16];
    char path[] = "/tmp/hakmem-profile.XXXXXX";
    unsigned samples = 0, dropped = 0;
    assert_int_equal(hak_profile_start(1), 0);
    for (unsigned i = 0; i < N; i++) {
        void *block = claim_by_path(i, 17);
        assert_non_null(block);
        if (i < N - N_KEPT)
            hak_free(block);
        else
            held[i - (N - N_KEPT)] = block;
    }
    assert_int_equal(atomic_load(&profile_state.n_samples), N);
    assert_int_equal(atomic_load(&profile_state.n_dropped), N_BEYOND);
    struct sums s = sums();
    assert_int_equal(s.n_stacks, PROFILE_MAX_RECORDS);
    assert_int_equal(s.total_samples, PROFILE_MAX_RECORDS);
    assert_true(s.live_samples == 0 && s.live_blocks == 0 && s.live_bytes == 0);
    int file = mkstemp(path);
    assert_true(file >= 0);
    assert_int_equal(hak_profile_dump(path), 0);
    for (ssize_t n; (n = read(file, text, sizeof text - 1)) > 0;) {
        text[n] = 0;
        char *line = strstr(text, "# hakmem ");
        if (line != NULL && strstr(line, " samples=") != NULL)
            sscanf(strstr(line, " samples="), " samples=%u dropped=%u", &samples, &dropped);
        if (n == sizeof text - 1) /* the line may be cut here: it is whole in the next piece */
            lseek(file, -256, SEEK_CUR);
    }
    close(file);
    unlink(path);
    assert_true(samples == N && dropped == N_BEYOND);
    let_go(N_KEPT); /* nobody knows of them */
    s = sums();
    assert_true(s.live_samples == 0 && s.live_blocks == 0 && s.live_bytes == 0);
    hak_profile_stop();
    assert_int_equal(hak_profile_start(1), 0);
    assert_true(atomic_load(&profile_state.n_samples) == 0 && atomic_load(&profile_state.n_dropped) == 0);
    hak_free(claim_by_path(0, 17));
    assert_true(sums().total_samples == 1 && atomic_load(&profile_state.n_dropped) == 0);
    hak_profile_stop();
}

/* What hak_good_size promises holds for noted blocks, too, which have pages of their own. */
static void noted_blocks_are_as_usable_as_others(void **state)
{
    (void)state;
    assert_int_equal(hak_profile_start(1), 0);
    for (size_t size_bytes = 1; size_bytes <= 100000; size_bytes += size_bytes / 8 + 1) {
        void *block = hak_malloc(size_bytes), *aligned = hak_aligned_alloc(64, size_bytes);
        assert_true(hak_usable_size(block) >= hak_good_size(size_bytes));
        assert_true(hak_usable_size(aligned) >= size_bytes);
        assert_int_equal((uintptr_t)aligned % 64, 0);
        memset(block, 1, hak_usable_size(block));
        hak_free_sized(block, size_bytes);
        hak_free(aligned);
    }
    hak_profile_stop();
}

static void wrong_calls_are_told(void **state)
{
    (void)state;
    errno = 0;
    assert_true(hak_profile_start(((size_t)1 << 40) + 1) == -1 && errno == EINVAL);
    assert_int_equal(hak_profile_start(0), 0);
    assert_int_equal(atomic_load(&profile_state.interval_bytes), 512 * KIB);
    assert_true(hak_profile_start(0) == -1 && errno == EBUSY);
    assert_true(hak_profile_dump("/nowhere/at/all") == -1 && errno == ENOENT);
    assert_true(hak_profile_dump(NULL) == -1 && errno == EINVAL);
    assert_true(hak_profile_dump("/dev/full") == -1 && errno == ENOSPC);
    hak_profile_stop();
    hak_profile_stop();
    os_fail_from(1, 1000, OS_CALL_RESERVE | OS_CALL_PURGE | OS_CALL_COMMIT);
    assert_true(hak_profile_start(0) == -1 && errno == ENOMEM);
    os_fail_from(0, 0, 0);
    assert_int_equal(hak_profile_start(0), 0);
    hak_profile_stop();
}

/* Without memory for a sampled block's place the request is served as ever. */
static void samples_that_find_no_memory_do_no_harm(void **state)
{
    (void)state;
    assert_int_equal(hak_profile_start(1), 0);
    void *first = hak_malloc(100);
    os_fail_from(1, 1000000, OS_CALL_RESERVE | OS_CALL_COMMIT);
    unsigned n = 0;
    while (n < 300000 && (held[n] = hak_malloc(100)) != NULL)
        n++;
    os_fail_from(0, 0, 0);
    assert_true(n > 100);
    let_go(n);
    hak_free(first);
    assert_true(sums().live_samples == 0);
    hak_profile_stop();
}

static __attribute__((noinline, aligned(256))) void *by_one_way(size_t size_bytes)
{
    void *block = hak_malloc(size_bytes);
    __asm__ volatile("" : "+r"(block)); /* no tail call */
    return block;
}

static __attribute__((noinline, aligned(256))) void *by_another(size_t size_bytes)
{
    void *block = hak_malloc(size_bytes);
    __asm__ volatile("" : "+r"(block) : : "memory");
    return block;
}

/* The sums of the stacks that a function is on. */
static double blocks_by(void *(*function)(size_t))
{
    double blocks = 0;
    for (uint32_t i = 1; i <= atomic_load(&profile_state.n_records); i++) {
        const struct profile_record *record = &profile_state.records[i];
        for (uint32_t f = 0; f < record->stack.n_frames; f++)
            if ((uintptr_t)record->stack.frame[f] - (uintptr_t)function < 256) {
                blocks += (double)record->total_count / PROFILE_COUNT_SCALE;
                break;
            }
    }
    return blocks;
}

static void stacks_tell_who_allocates(void **state)
{
    (void)state;
    assert_int_equal(hak_profile_start(1), 0);
    for (unsigned i = 0; i < 300; i++)
        hak_free(i % 3 == 0 ? by_one_way(100 + i) : by_another(100 + i));
    assert_true(blocks_by(by_one_way) == 100 && blocks_by(by_another) == 200);
    hak_profile_stop();
}

/* ---- Threads ------------------------------------------------------------------------------------------------------- */

static _Atomic bool go_on;
static _Atomic unsigned n_at_work;

static void *churn(void *argument)
{
    uint64_t random = (uintptr_t)argument;
    void *slots[64] = {NULL};
    n_at_work++;
    while (go_on) {
        random = random * 6364136223846793005u + 1442695040888963407u;
        void **slot = &slots[random >> 58];
        hak_free(*slot);
        *slot = hak_malloc(random >> 40 & 1023);
    }
    for (unsigned i = 0; i < 64; i++)
        hak_free(slots[i]);
    return NULL;
}

/* Sessions begin and end while threads allocate; each sees them, and what is live in the end is nothing. */
static void sessions_change_under_threads(void **state)
{
    (void)state;
    enum { N_THREADS = 3, N_SESSIONS = 60 };
    pthread_t threads[N_THREADS];
    go_on = true;
    for (uintptr_t i = 0; i < N_THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, churn, (void *)(i + 1)), 0);
    while (n_at_work < N_THREADS)
        usleep(100);
    for (unsigned i = 0; i < N_SESSIONS; i++) {
        assert_int_equal(hak_profile_start(i % 2 == 0 ? 4096 : 1 << 20), 0);
        for (unsigned wait = 0; wait < 100000 && sums().total_samples < 100; wait++)
            usleep(100);
        assert_true(sums().total_samples >= 100);
        char name[64];
        snprintf(name, sizeof name, "/dev/null");
        assert_int_equal(hak_profile_dump(name), 0);
        hak_profile_stop();
    }
    go_on = false;
    for (unsigned i = 0; i < N_THREADS; i++)
        pthread_join(threads[i], NULL);
    struct sums s = sums();
    assert_true(s.live_samples == 0 && s.live_blocks == 0 && s.live_bytes == 0);
}

/* In the child of a fork nobody reads the records any more: it may begin a session of its own. */
static void children_may_begin_one(void **state)
{
    (void)state;
    int status;
    hak_free(hak_malloc(1));
    assert_true(profile_hold());
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0)
        _exit(hak_profile_start(0) != 0);
    profile_let_go();
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
}

/* A block that the thread keeps for its next one is live no more, whether it shares its slots with others or not. */
static void what_a_thread_keeps_is_not_live(void **state)
{
    (void)state;
    static const size_t sizes_bytes[] = {128 * KIB, 40000};
    start_without_ticks();
    config.huge_pages = HUGE_PAGES_AUTO;
    void *ballast = hak_malloc(16 * MIB); /* a heap in which blocks are packed */
    for (unsigned i = 0; i < 2; i++) {
        hak_free(hak_malloc(sizes_bytes[i])); /* now it has room for one */
        assert_int_equal(hak_profile_start(1), 0);
        void *block = hak_malloc(sizes_bytes[i]);
        assert_int_equal(packed_head_of(block) != NULL, i == 1 && os_page_bytes() == PACKED_PAGE_BYTES);
        assert_int_equal(sums().live_samples, 1);
        hak_free(block);
        assert_int_equal(sums().live_samples, 0);
        hak_profile_stop();
    }
    hak_free(ballast);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(estimates_are_within_their_bounds),
        cmocka_unit_test(what_is_live_is_exact),
        cmocka_unit_test(blocks_of_an_earlier_session_do_not_count),
        cmocka_unit_test(stacks_beyond_the_table_are_counted),
        cmocka_unit_test(noted_blocks_are_as_usable_as_others),
        cmocka_unit_test(wrong_calls_are_told),
        cmocka_unit_test(samples_that_find_no_memory_do_no_harm),
        cmocka_unit_test(stacks_tell_who_allocates),
        cmocka_unit_test(sessions_change_under_threads),
        cmocka_unit_test(children_may_begin_one),
        cmocka_unit_test(what_a_thread_keeps_is_not_live),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
