/* look.h - what unit tests ask of the library's state.
 * Called by  tests/unit/test_*.c.     Calls  hakmem_testing
 */
#ifndef HAKMEM_TESTS_UNIT_LOOK_H
#define HAKMEM_TESTS_UNIT_LOOK_H

#include "hakmem/hakmem.h"
#include "meta/arena.h"
#include "meta/registry.h"

#include <stdio.h>
#include <stdlib.h>

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
