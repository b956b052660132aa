/* budget_growth.c - blocks that realloc makes longer, where they lie or not, count against the budget (HAKMEM_BUDGET=64M): at the line realloc
 * refuses, what is held keeps its contents, and the system has no more of the process in memory than the budget and what it began with.
 */
#include "check.h"

#include <errno.h>

#define BUDGET_BYTES (64 * CHECK_MIB)
#define N_BLOCKS 300

static unsigned char *blocks[N_BLOCKS];
static size_t sizes[N_BLOCKS];

/* Makes a block longer, step by step. False: refused, and it is as it was. */
static int grow(size_t i, const size_t *steps, size_t n_steps)
{
    for (size_t k = 0; k < n_steps; k++) {
        errno = 0;
        unsigned char *grown = realloc(blocks[i], steps[k]);
        if (grown == NULL) {
            CHECK_THAT(errno == ENOMEM, "errno is %d", errno);
            return 0;
        }
        blocks[i] = grown;
        memset(grown + sizes[i], (int)(i % 251), steps[k] - sizes[i]);
        sizes[i] = steps[k];
    }
    return 1;
}

static unsigned n_hard;

static void on_pressure(enum hak_pressure pressure, void *unused)
{
    (void)unused;
    n_hard += pressure == HAK_PRESSURE_HARD;
}

/* Half as much again would be reserved for a block that has grown; there is no room for that, but for the block. Nobody is told that a
 * request fails, because none does. */
static void grow_without_reserve(void)
{
    void (*call_on_pressure)(hak_pressure_function, void *);
    void *function = check_symbol("hak_budget_on_pressure");
    memcpy(&call_on_pressure, &function, sizeof call_on_pressure);
    call_on_pressure(on_pressure, NULL);
    char *block = malloc(24 * CHECK_MIB);
    errno = 0;
    char *grown = realloc(block, 30 * CHECK_MIB);
    CHECK_THAT(block != NULL && grown != NULL, "refused");
    CHECK_THAT(errno == 0, "errno is %d", errno);
    CHECK_THAT(n_hard == 0, "told %u times that a request would fail", n_hard);
    free(grown);
    CHECK(malloc(BUDGET_BYTES * 2) == NULL && n_hard == 1);
    call_on_pressure(NULL, NULL);
}

/* What was counted for a block while it grew counts no more when it is gone. */
static void grow_and_free(void)
{
    for (unsigned k = 0; k < 100; k++) {
        char *block = malloc(2000000);
        for (size_t size = 2400000; size <= 3000000 && block != NULL; size += 200000) {
            char *grown = realloc(block, size);
            CHECK_THAT(grown != NULL, "%zu bytes: refused in round %u", size, k);
            block = grown != NULL ? grown : block;
            block[grown != NULL ? size - 1 : 0] = 1;
        }
        free(block);
    }
}

int main(void)
{
    grow_without_reserve();
    grow_and_free();
    /* What waits for nothing but time must give way. (HAKMEM_SECURE=quarantine) */
    for (unsigned k = 0; k < 100; k++) {
        void *some[20];
        for (unsigned j = 0; j < CHECK_COUNT(some); j++)
            some[j] = check_malloc(80000);
        for (unsigned j = 0; j < CHECK_COUNT(some); j++)
            free(some[j]);
    }
    void *most = malloc(BUDGET_BYTES - 3 * CHECK_MIB);
    CHECK_THAT(most != NULL, "refused, though nothing is held");
    free(most);
    static const size_t steps[] = {40000, 60000, 2000000, 2500000, 2990000};
    check_on_hakmem();
    size_t before_bytes = check_resident_bytes(), held_bytes = 0, i = 0;
    while (i < N_BLOCKS && grow(i, steps, CHECK_COUNT(steps)))
        i++;
    REQUIRE(i < N_BLOCKS); /* refused */
    for (size_t k = 0; k <= i; k++) {
        held_bytes += sizes[k];
        size_t n_bad = 0;
        for (size_t at = 0; at < sizes[k]; at++)
            n_bad += blocks[k][at] != k % 251;
        CHECK_THAT(n_bad == 0, "block %zu of %zu bytes: %zu bytes are not as they were", k, sizes[k], n_bad);
    }
    size_t used_bytes = check_resident_bytes() - before_bytes;
    printf("%zu KiB held, %zu KiB more in memory\n", held_bytes / 1024, used_bytes / 1024);
    CHECK_THAT(held_bytes > BUDGET_BYTES / 2, "refused with %zu bytes held", held_bytes);
    CHECK_THAT(used_bytes < BUDGET_BYTES + CHECK_MIB, "%zu bytes in memory", used_bytes);
    for (size_t k = 0; k <= i; k++)
        free(blocks[k]);
    return check_status();
}
