/* churn.h - threads that replace blocks at random in places that all of them share, while others purge: what a block holds must stay.
 * Included by  test_tail.c, test_packed.c
 * A block's first words tell its length, and each of its pages repeats them.
 */
#ifndef HAKMEM_TESTS_UNIT_CHURN_H
#define HAKMEM_TESTS_UNIT_CHURN_H

#include "hakmem/hakmem.h"
#include "pool/shared_pool.h"

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

#endif
