/* look.h - what unit tests ask of the library's state.
 * Called by  tests/unit/test_*.c.     Calls  hakmem_testing
 */
#ifndef HAKMEM_TESTS_UNIT_LOOK_H
#define HAKMEM_TESTS_UNIT_LOOK_H

#include "front/thread.h"
#include "hakmem/hakmem.h"
#include "meta/arena.h"
#include "meta/registry.h"
#include "pool/background.h"
#include "service/config.h"
#include "superslab/slab.h"

#include <stdio.h>
#include <stdlib.h>

/* What the statistics call the causes for which the pool lock is taken. */
static const char *const lock_names[HAK_LOCK_N_CAUSES] __attribute__((unused)) = {
    [HAK_LOCK_ACQUIRE_SLAB] = "acquire_slab",
    [HAK_LOCK_RELEASE_SLAB] = "release_slab",
    [HAK_LOCK_SPAN] = "span",
    [HAK_LOCK_TIER] = "tier",
    [HAK_LOCK_METADATA] = "metadata",
    [HAK_LOCK_TRIM] = "trim",
    [HAK_LOCK_FORK] = "fork",
};

/* The statistics of now. Also for children and threads, where cmocka's assertions do not reach. */
static inline struct hak_stats read_stats(void)
{
    struct hak_stats s;
    if (hak_stats_get(&s, sizeof s) != 0) {
        fprintf(stderr, "hak_stats_get failed\n");
        abort();
    }
    return s;
}

/* A process that ticks only when the test does, and has nothing to give back. */
static inline void start_without_ticks(void)
{
    thread_start_process();
    config.background = false;
    config.purge_delay_ms = 1;
    /* the first tick is due at once */
    background_wake();
    config.purge_delay_ms = 2000000000; /* and the next in days: on a busy machine a test may take minutes */
    hak_trim(HAK_TRIM_PAGES);
}

/* Both steps of a return of blocks of one word. *doubly gets the bits of those that were free already; of too many all. */
static inline enum slab_return return_blocks(struct slab *slab, unsigned word, uint64_t mask, uint64_t *doubly)
{
    unsigned n = slab_return_bits(slab, word, mask, doubly);
    enum slab_return result = n == 0 ? SLAB_RETURN_NOTHING : slab_return_count(slab, n);
    if (result == SLAB_RETURN_TOO_MANY)
        *doubly = mask;
    return result;
}

/* The record of the SuperSlab that a block of ours lies in. */
static inline struct superslab *superslab_of(const void *block)
{
    struct arena *arena = registry_arena(block);
    if (arena == NULL) {
        fprintf(stderr, "a block lies in no arena\n");
        abort();
    }
    return &arena->superslabs[arena_slab_index(arena, block) / SUPERSLAB_SLABS];
}

#endif
