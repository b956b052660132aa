/* figures_data.h - snapshots that never were, by their sums: for tests of what `hakmem top` and `hakmem metrics` make of them.
 * Called by  tests/tool/test_*.c.     Calls  sizeclass.h
 */
#ifndef HAKMEM_TESTS_TOOL_FIGURES_DATA_H
#define HAKMEM_TESTS_TOOL_FIGURES_DATA_H

#include "snapshot.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SECOND_NS 1000000000ull
#define HUGE_NUMBER ((uint64_t)1 << 63)

/* A process with an empty heap and room for threads. Ended by end_data. */
static inline struct snapshot begin_data(const char *name, size_t n_threads)
{
    struct snapshot s = {.pid = 4711, .time_ns = 10 * SECOND_NS, .slab_page_bytes = 4096, .n_threads = n_threads};
    snprintf(s.name, sizeof s.name, "%s", name);
    strcpy(s.version, "0.1.0");
    strcpy(s.profile, "conservative");
    s.census.stats.version = HAK_STATS_VERSION;
    s.threads = calloc(n_threads + 1, sizeof s.threads[0]);
    if (s.threads == NULL)
        abort();
    for (size_t i = 0; i < n_threads; i++)
        s.threads[i].thread_id = (int32_t)(n_threads - i); /* in no order that would please */
    for (unsigned c = CLASS_FIRST; c < CLASS_END; c++)
        s.census.classes[c].block_bytes = class_table[c].bytes;
    return s;
}

static inline void end_data(struct snapshot *s)
{
    free(s->threads);
    s->threads = NULL;
}

/* Every number that there is becomes n. */
static inline void fill_data(struct snapshot *s, uint64_t n)
{
    uint64_t *numbers = (uint64_t *)((char *)&s->census.stats + 2 * sizeof(uint32_t));
    for (size_t i = 0; i < (sizeof s->census.stats - 2 * sizeof(uint32_t)) / sizeof n; i++)
        numbers[i] = n;
    for (unsigned c = CLASS_FIRST; c < CENSUS_CLASSES; c++) {
        const uint64_t block_bytes = s->census.classes[c].block_bytes;
        s->census.classes[c] = (struct census_class){block_bytes, n, n, n, n, n, n, n, n};
    }
    for (size_t i = 0; i < s->n_threads; i++) {
        s->threads[i].cached_bytes = s->threads[i].cached_blocks = n;
        s->threads[i].refills = s->threads[i].flushes = s->threads[i].owned_slabs = n;
    }
    s->resident_bytes = n;
}

/* A class of slabs of that block size. */
static inline void put_class(struct snapshot *s, size_t block_bytes, uint64_t slabs, uint64_t live, uint64_t cached,
                             uint64_t unused)
{
    s->census.classes[class_of(block_bytes)] =
        (struct census_class){.block_bytes = class_table[class_of(block_bytes)].bytes,
                              .slabs = slabs,
                              .live_blocks = live,
                              .cached_blocks = cached,
                              .free_blocks = unused,
                              .live_bytes = live * block_bytes,
                              .cached_bytes = cached * block_bytes,
                              .dirty_bytes = slabs * SLAB_BYTES};
}

/* What a printer writes: a text for free(). */
struct capture {
    FILE *out;
    char *text;
    size_t len;
};

static inline FILE *begin_capture(struct capture *c)
{
    c->out = open_memstream(&c->text, &c->len);
    if (c->out == NULL)
        abort();
    return c->out;
}

static inline char *end_capture(struct capture *c)
{
    if (fclose(c->out) != 0)
        abort();
    return c->text;
}

#endif
