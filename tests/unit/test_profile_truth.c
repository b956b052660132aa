/* test_profile_truth.c - does a dump tell the truth: a program whose call sites, sizes and numbers are known is profiled with 50
 * seeds, and what the dump says of each site is held against them.
 * Owns     a file in /tmp. The picks depend on the seeds alone, so a bound that holds once holds for ever.
 * Threads  one.
 *
 * A site's estimates are sums over its blocks: each is noted with the chance p = 1 - exp(-size/interval), and then counts for 1/p.
 * So the variance of the number of blocks is the sum of (1 - p)/p over the blocks, and that of the bytes of size^2 (1 - p)/p.
 * Where few samples are expected the errors are not normally distributed: one sample is many deviations. Bernstein's inequality
 * holds for them, too: a bound of t deviations becomes wider by t^2/3 times the largest thing that one sample counts for.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "front/profile.h"
#include "hakmem/hakmem.h"
#include "os/os.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define N_SEEDS 50
#define INTERVAL_BYTES ((size_t)64 * KIB)
#define MAX_DEVIATIONS 4.5 /* of any one estimate */
#define MAX_MEAN_DEVIATIONS                                                                                            \
    3.0 /* of the mean over all seeds, which has a smaller deviation by the root of their number */
#define MAX_BLOCKS 60000

/* ---- The program ------------------------------------------------------------------------------------------------- */

static void *kept[MAX_BLOCKS];
static size_t n_kept;

/* A site of its own for each: the return address of its call is in it. */
#define SITE(name)                                                                                                     \
    static __attribute__((noinline, aligned(256))) void *name(size_t size_bytes)                                       \
    {                                                                                                                  \
        void *block = hak_malloc(size_bytes);                                                                          \
        __asm__ volatile("" : "+r"(block) : : "memory"); /* no tail call */                                            \
        return block;                                                                                                  \
    }
SITE(tiny)
SITE(small)
SITE(small_freed)
SITE(medium)
SITE(large)
SITE(huge)
SITE(skewed)
SITE(rare)

/* Sizes of which many are small and few have most of the bytes. */
static size_t skewed_size(size_t i)
{
    return (size_t)16 << (i * 2654435761u % 4096 == 0 ? 16 : i * 40503u % 64 == 0 ? 9 : i % 4);
}

/* A site: what the program asks for there, and of how many blocks in a row one is kept. */
static const struct site {
    const char *name;
    void *(*allocate)(size_t);
    size_t n, size_bytes, kept_of; /* size_bytes 0: skewed_size; kept_of 0: none */
} sites[] = {
    {"tiny", tiny, 20000, 24, 2},
    {"small", small, 8000, 200, 1},
    {"small, all freed", small_freed, 30000, 640, 0},
    {"medium", medium, 1500, 5000, 3},
    {"large", large, 100, 100000, 1},
    {"huge", huge, 8, (size_t)3 << 20, 2},
    {"skewed", skewed, 16000, 0, 4},
    {"rare", rare, 3, 40, 1},
};
#define N_SITES (sizeof sites / sizeof sites[0])

static size_t size_at(const struct site *site, size_t i)
{
    return site->size_bytes != 0 ? site->size_bytes : skewed_size(i);
}

static bool is_kept(const struct site *site, size_t i)
{
    return site->kept_of != 0 && i % site->kept_of == 0;
}

static void run_program(void)
{
    for (size_t s = 0; s < N_SITES; s++)
        for (size_t i = 0; i < sites[s].n; i++) {
            void *block = sites[s].allocate(size_at(&sites[s], i));
            assert_non_null(block);
            if (is_kept(&sites[s], i))
                kept[n_kept++] = block;
            else
                hak_free(block);
        }
}

static void let_go(void)
{
    while (n_kept != 0)
        hak_free(kept[--n_kept]);
}

/* ---- What is true, and what the dump says ------------------------------------------------------------------------ */

enum { LIVE_BLOCKS, LIVE_BYTES, ALL_BLOCKS, ALL_BYTES, N_VALUES };
static const char *const value_names[N_VALUES] = {"live blocks", "live bytes", "blocks", "bytes"};

struct truth {
    double value[N_VALUES], variance[N_VALUES], largest[N_VALUES]; /* largest: that one sample counts for */
};

/* What an error of the mean of n runs may be, if its bound is t deviations. */
static double bound(const struct truth *truth, int value, double t, double n)
{
    double rounding = 0.001 * truth->value[value] + 1;
    return t * sqrt(truth->variance[value] / n) + t * t / 3 * truth->largest[value] / n + rounding;
}

static double chance(size_t size_bytes)
{
    size_t counted_bytes = size_bytes <= CLASS_MAX_BYTES ? size_bytes : round_up(size_bytes, os_page_bytes());
    return -expm1(-(double)(counted_bytes + 1) / INTERVAL_BYTES);
}

static void add_block(struct truth *truth, int value, double amount, double p)
{
    truth->value[value] += amount;
    truth->variance[value] += amount * amount * (1 - p) / p;
    truth->largest[value] = fmax(truth->largest[value], amount / p);
}

static struct truth truth_of(const struct site *site)
{
    struct truth truth = {{0}, {0}, {0}};
    for (size_t i = 0; i < site->n; i++) {
        double size = (double)size_at(site, i), p = chance(size_at(site, i));
        add_block(&truth, ALL_BLOCKS, 1, p);
        add_block(&truth, ALL_BYTES, size, p);
        if (is_kept(site, i)) {
            add_block(&truth, LIVE_BLOCKS, 1, p);
            add_block(&truth, LIVE_BYTES, size, p);
        }
    }
    return truth;
}

/* Adds up the lines whose stack has an address in each site's function. */
static void read_dump(const char *path, double value[N_SITES][N_VALUES])
{
    static char line[4096];
    FILE *file = fopen(path, "r");
    assert_non_null(file);
    memset(value, 0, N_SITES * sizeof value[0]);
    while (fgets(line, sizeof line, file) != NULL && strcmp(line, "MAPPED_LIBRARIES:\n") != 0) {
        unsigned long long own[N_VALUES];
        int at = 0;
        if (sscanf(line, "%llu: %llu [%llu: %llu] @%n", &own[0], &own[1], &own[2], &own[3], &at) != 4)
            continue;
        for (char *frame = strtok(line + at, " \n"); frame != NULL; frame = strtok(NULL, " \n"))
            for (size_t s = 0; s < N_SITES; s++)
                if (strtoull(frame, NULL, 16) - (uintptr_t)sites[s].allocate < 256)
                    for (int v = 0; v < N_VALUES; v++)
                        value[s][v] += (double)own[v];
    }
    fclose(file);
}

static void a_dump_is_within_its_bounds(void **state)
{
    (void)state;
    static double value[N_SITES][N_VALUES], sum[N_SITES][N_VALUES];
    struct truth truth[N_SITES];
    unsigned n_outside = 0, n_estimates = 0;
    char path[] = "/tmp/hakmem-truth.XXXXXX";
    int file = mkstemp(path);
    assert_true(file >= 0);
    close(file);
    for (size_t s = 0; s < N_SITES; s++)
        truth[s] = truth_of(&sites[s]);
    for (uint64_t seed = 1; seed <= N_SEEDS; seed++) {
        os_pretend_random(seed * 7919);
        assert_int_equal(hak_profile_start(INTERVAL_BYTES), 0);
        run_program();
        assert_int_equal(hak_profile_dump(path), 0);
        hak_profile_stop();
        let_go();
        read_dump(path, value);
        for (size_t s = 0; s < N_SITES; s++)
            for (int v = 0; v < N_VALUES; v++) {
                double error = value[s][v] - truth[s].value[v], deviation = sqrt(truth[s].variance[v]);
                sum[s][v] += error;
                n_estimates++;
                n_outside += fabs(error) > 1.96 * deviation + 1;
                if (fabs(error) > bound(&truth[s], v, MAX_DEVIATIONS, 1))
                    fail_msg("%s, seed %u: %.0f %s instead of %.0f, whose deviation is %.0f", sites[s].name,
                             (unsigned)seed, value[s][v], value_names[v], truth[s].value[v], deviation);
            }
    }
    os_pretend_random(0);
    unlink(path);
    for (size_t s = 0; s < N_SITES; s++)
        for (int v = 0; v < N_VALUES; v++) {
            double mean = sum[s][v] / N_SEEDS;
            if (fabs(mean) > bound(&truth[s], v, MAX_MEAN_DEVIATIONS, N_SEEDS))
                fail_msg("%s: %s are off by %.1f of %.0f in the mean, whose deviation is %.1f", sites[s].name,
                         value_names[v], mean, truth[s].value[v], sqrt(truth[s].variance[v] / N_SEEDS));
        }
    /* 5 of 100 are expected there, but of those whose blocks are all seen, or nearly none. They are not independent (bytes follow
     * blocks), hence some room. */
    print_message("%u of %u estimates are outside of their 95 %% bounds\n", n_outside, n_estimates);
    if (n_outside > n_estimates / 14 || n_outside < n_estimates / 60)
        fail_msg("%u of %u estimates are outside of their 95 %% bounds", n_outside, n_estimates);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_dump_is_within_its_bounds),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
