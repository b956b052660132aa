/* budget_threads.c - under a budget (HAKMEM_BUDGET=256M) no request fails whose program never comes near it: threads that claim and free
 * large blocks again and again, beside one with small ones. And where requests do fail, those of all threads profit from what the
 * function that is told of it lets go of.
 */
#include "check.h"

#include <pthread.h>

#define ROUNDS 5000

static void (*call_on_pressure)(hak_pressure_function, void *);
static unsigned n_failed, stop;

static void *claim_large(void *size_bytes)
{
    for (unsigned i = 0; i < ROUNDS; i++) {
        char *block = malloc((uintptr_t)size_bytes);
        if (block == NULL)
            __atomic_add_fetch(&n_failed, 1, __ATOMIC_RELAXED);
        else
            block[i] = 1;
        free(block);
    }
    return NULL;
}

static void *claim_small(void *unused)
{
    enum { N = 30000 };
    static void *kept[N];
    for (unsigned i = 0; !__atomic_load_n(&stop, __ATOMIC_RELAXED); i = (i + 1) % N) {
        free(kept[i]);
        kept[i] = malloc(100 + i % 500);
        if (kept[i] == NULL)
            __atomic_add_fetch(&n_failed, 1, __ATOMIC_RELAXED);
    }
    for (unsigned i = 0; i < N; i++) {
        free(kept[i]);
        kept[i] = NULL;
    }
    return unused;
}

static void take_turns(unsigned n_threads, size_t size_bytes)
{
    pthread_t small, large[3];
    n_failed = stop = 0;
    REQUIRE(pthread_create(&small, NULL, claim_small, NULL) == 0);
    for (unsigned i = 0; i < n_threads; i++)
        REQUIRE(pthread_create(&large[i], NULL, claim_large, (void *)size_bytes) == 0); /* NOLINT */
    for (unsigned i = 0; i < n_threads; i++)
        pthread_join(large[i], NULL);
    __atomic_store_n(&stop, 1, __ATOMIC_RELAXED);
    pthread_join(small, NULL);
    CHECK_THAT(n_failed == 0, "%u threads with %zu MiB each: %u requests failed", n_threads, size_bytes / CHECK_MIB,
               n_failed);
}

/* ---- Requests of several threads at the line ---------------------------------------------------------------------- */

static char *ballast[60];

static void let_go(enum hak_pressure pressure, void *unused)
{
    (void)unused;
    if (pressure != HAK_PRESSURE_HARD)
        return;
    usleep(30000); /* so that the others come meanwhile */
    for (unsigned i = 0; i < CHECK_COUNT(ballast); i++) {
        free(ballast[i]);
        ballast[i] = NULL;
    }
}

static pthread_barrier_t at_once;

static void *claim_at_line(void *unused)
{
    pthread_barrier_wait(&at_once);
    for (unsigned i = 0; i < 3; i++) {
        char *block = malloc(4 * CHECK_MIB);
        if (block == NULL)
            __atomic_add_fetch(&n_failed, 1, __ATOMIC_RELAXED);
        free(block);
    }
    return unused;
}

static void all_are_served(void)
{
    enum { N = 6 };
    pthread_t threads[N];
    n_failed = 0;
    for (unsigned i = 0; i < CHECK_COUNT(ballast); i++) {
        ballast[i] = malloc(4 * CHECK_MIB + 200 * CHECK_KIB);
        REQUIRE(ballast[i] != NULL);
    }
    call_on_pressure(let_go, NULL);
    pthread_barrier_init(&at_once, NULL, N);
    for (unsigned i = 0; i < N; i++)
        REQUIRE(pthread_create(&threads[i], NULL, claim_at_line, NULL) == 0);
    for (unsigned i = 0; i < N; i++)
        pthread_join(threads[i], NULL);
    call_on_pressure(NULL, NULL);
    CHECK_THAT(n_failed == 0, "%u of %u requests at the line failed, though all that was held was let go of", n_failed,
               3 * N);
}

int main(void)
{
    void *function = check_symbol("hak_budget_on_pressure");
    memcpy(&call_on_pressure, &function, sizeof call_on_pressure);
    check_on_hakmem();
    take_turns(2, 100 * CHECK_MIB);
    take_turns(3, 76 * CHECK_MIB);
    all_are_served();
    return check_status();
}
