/* churn.h - threads that replace blocks at random in places that all of them share, while others purge: what a block holds must stay.
 * Included by  test_tail.c, test_packed.c
 * A block's first words tell its length, and each of its pages repeats them.
 */
#ifndef HAKMEM_TESTS_UNIT_CHURN_H
#define HAKMEM_TESTS_UNIT_CHURN_H

#include "hakmem/hakmem.h"
#include "pool/shared_pool.h"
#include "service/stats.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum { CHURN_SLOTS = 64, CHURN_LENGTHS = 8 };

static struct {
    size_t lens_bytes[CHURN_LENGTHS]; /* set by the test */
    unsigned steps;                   /* of each thread; UINT_MAX: until it is done */
    void *_Atomic slots[CHURN_SLOTS];
    _Atomic bool done;
    _Atomic unsigned n_wrong; /* pages that were not what had been written */
} churn;

static inline void *churn_make(uint32_t random)
{
    size_t len_bytes = churn.lens_bytes[random % CHURN_LENGTHS];
    char *block = hak_malloc(len_bytes);
    if (block == NULL)
        abort();
    for (size_t at = 0; at + 16 <= len_bytes; at += 4096) {
        memcpy(block + at, &len_bytes, sizeof len_bytes);
        memcpy(block + at + 8, &random, sizeof random);
    }
    return block;
}

static inline void churn_unmake(char *block)
{
    size_t len_bytes;
    if (block == NULL)
        return;
    memcpy(&len_bytes, block, sizeof len_bytes);
    for (size_t at = 0; at + 16 <= len_bytes; at += 4096)
        if (memcmp(block + at, block, 12) != 0)
            atomic_fetch_add(&churn.n_wrong, 1);
    hak_free(block);
}

/* A thread: */
static inline void *churn_replace(void *seed)
{
    uint32_t random = 77 + (uint32_t)(uintptr_t)seed;
    for (unsigned i = 0; i < churn.steps && !atomic_load(&churn.done); i++) {
        random ^= random << 13;
        random ^= random >> 17;
        random ^= random << 5;
        churn_unmake(atomic_exchange(&churn.slots[random / 8 % CHURN_SLOTS], churn_make(random)));
    }
    return NULL;
}

/* Another: ticks with nothing between them; or purges whatever lies idle. */
static inline void *churn_purge(void *at_once)
{
    while (!atomic_load(&churn.done))
        if (at_once != NULL)
            shared_pool_purge_pages();
        else
            shared_pool_tick();
    return NULL;
}

static inline void churn_drop(void)
{
    for (unsigned i = 0; i < CHURN_SLOTS; i++)
        churn_unmake(atomic_exchange(&churn.slots[i], NULL));
}

/* Threads that replace and threads that purge, until something was purged: on a busy machine the purgers may long not come to it. All of
 * them have ended, and all blocks are freed, when it returns. */
static inline void churn_all(unsigned steps)
{
    enum { N_THREADS = 4, N_PURGERS = 2, MOST_ROUNDS = 100 };
    pthread_t threads[N_THREADS], purgers[N_PURGERS];
    uint64_t before = stats_read(&stats_counters.purged_bytes);
    unsigned rounds = 0;
    churn.steps = steps;
    atomic_store(&churn.done, false);
    for (uintptr_t i = 0; i < N_PURGERS; i++)
        assert_int_equal(pthread_create(&purgers[i], NULL, churn_purge, (void *)i), 0);
    do {
        for (uintptr_t i = 0; i < N_THREADS; i++)
            assert_int_equal(pthread_create(&threads[i], NULL, churn_replace, (void *)i), 0);
        for (unsigned i = 0; i < N_THREADS; i++)
            pthread_join(threads[i], NULL);
    } while (stats_read(&stats_counters.purged_bytes) == before && ++rounds < MOST_ROUNDS);
    atomic_store(&churn.done, true);
    for (unsigned i = 0; i < N_PURGERS; i++)
        pthread_join(purgers[i], NULL);
    churn_drop();
    assert_int_equal(atomic_load(&churn.n_wrong), 0);
    assert_true(stats_read(&stats_counters.purged_bytes) > before);
}

#endif
