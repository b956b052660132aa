/* made_up.h - snapshots of heaps that never were, for tests of what is made of them.
 * Called by  tests/tool/test_*.c.     Calls  sizeclass.h
 */
#ifndef HAKMEM_TESTS_TOOL_MADE_UP_H
#define HAKMEM_TESTS_TOOL_MADE_UP_H

#include "snapshot.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PAGE = 4096 };
#define FIRST_ADDRESS 0x7f0000000000ull

/* Room for n SuperSlabs, all ABSENT. Ended by drop_snapshot. */
static inline struct snapshot make_snapshot(const char *name, size_t n_superslabs)
{
    struct snapshot s = {.pid = 4711, .slab_page_bytes = PAGE, .n_superslabs = n_superslabs};
    snprintf(s.name, sizeof s.name, "%s", name);
    strcpy(s.version, "0.1.0");
    strcpy(s.profile, "conservative");
    s.time_ns = 1000000000;
    s.superslabs = calloc(n_superslabs + 1, sizeof s.superslabs[0]);
    if (s.superslabs == NULL)
        abort();
    for (size_t i = 0; i < n_superslabs; i++)
        s.superslabs[i].address = FIRST_ADDRESS + i * SUPERSLAB_BYTES;
    return s;
}

static inline void drop_snapshot(struct snapshot *s)
{
    free(s->superslabs);
    s->superslabs = NULL;
}

static inline struct snapshot_superslab *pooled(struct snapshot *s, size_t i, enum superslab_tier tier)
{
    s->superslabs[i].state = SUPERSLAB_POOLED;
    s->superslabs[i].tier = (uint8_t)tier;
    return &s->superslabs[i];
}

/* A slab with `used` blocks out, on the first n_pages of its pages. */
static inline void put_slab(struct snapshot_superslab *ss, unsigned slot, size_t block_bytes, unsigned used,
                            unsigned n_pages)
{
    const unsigned class_id = class_of(block_bytes);
    ss->slot[slot] = (struct snapshot_slot){.state = used == class_table[class_id].n_blocks ? SLAB_FULL : SLAB_PARTIAL,
                                            .class_id = (uint8_t)class_id,
                                            .used = (uint16_t)used,
                                            .n_blocks = class_table[class_id].n_blocks,
                                            .dirty_pages = (uint16_t)((1u << n_pages) - 1)};
}

static inline void put_span(struct snapshot_superslab *ss, unsigned slot, uint64_t bytes)
{
    const unsigned n = (unsigned)((bytes + SLAB_BYTES - 1) / SLAB_BYTES);
    for (unsigned k = 0; k < n; k++) {
        const uint64_t left = bytes - (uint64_t)k * SLAB_BYTES, pages = (left + PAGE - 1) / PAGE;
        ss->slot[slot + k] = (struct snapshot_slot){
            .state = k == 0 ? SLAB_SPAN_HEAD : SLAB_SPAN_BODY,
            .dirty_pages = (uint16_t)((1u << (pages < 16 ? pages : 16)) - 1),
        };
    }
    ss->slot[slot].span_slabs = (uint16_t)n;
    ss->slot[slot].span_bytes = bytes;
}

/* n blocks as packed spans of n_pages each, one behind the other from a slot's beginning on. */
static inline void put_packed(struct snapshot_superslab *ss, unsigned first_slot, unsigned n_pages, unsigned n)
{
    for (unsigned page = 0; page < n * n_pages; page++) {
        struct snapshot_slot *slot = &ss->slot[first_slot + page / PACKED_PAGES];
        slot->state = SLAB_PACKED;
        slot->packed_pages |= (uint16_t)(1u << page % PACKED_PAGES);
        slot->dirty_pages |= slot->packed_pages;
        if (page % n_pages == 0) {
            slot->packed_spans++;
            slot->span_bytes += n_pages * PACKED_PAGE_BYTES;
        }
    }
}

static inline void put_run(struct snapshot *s, size_t i, uint64_t bytes)
{
    const uint32_t n = (uint32_t)((bytes + SUPERSLAB_BYTES - 1) / SUPERSLAB_BYTES);
    for (uint32_t k = 0; k < n; k++) {
        const uint64_t left = bytes - (uint64_t)k * SUPERSLAB_BYTES;
        s->superslabs[i + k].state = k == 0 ? SUPERSLAB_RUN : SUPERSLAB_RUN_BODY;
        s->superslabs[i + k].dirty_prefix_bytes = (uint32_t)(left < SUPERSLAB_BYTES ? left : SUPERSLAB_BYTES);
    }
    s->superslabs[i].run_superslabs = n;
    s->superslabs[i].run_bytes = bytes;
}

static inline uint32_t next_number(uint32_t *seed)
{
    *seed = *seed * 1664525u + 1013904223u;
    return *seed >> 8;
}

/* One SuperSlab of what a server may have: slabs of some classes, more or less full, spans, emptied slots. */
static inline void put_mixture(struct snapshot_superslab *ss, uint32_t *seed)
{
    static const size_t sizes[] = {16, 32, 48, 64, 96, 128, 192, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768};
    const unsigned fullness = 20 + next_number(seed) % 80; /* per cent */
    for (unsigned i = 0; i < SUPERSLAB_SLABS; i++) {
        const size_t bytes = sizes[next_number(seed) % (sizeof sizes / sizeof sizes[0])];
        const unsigned room = class_table[class_of(bytes)].n_blocks, kind = next_number(seed) % 20;
        unsigned used = room * (fullness + next_number(seed) % 30) / 110;
        if (ss->tier == SS_TIER_DRAINING)
            used /= 6;
        if (kind == 0)
            ss->slot[i] = (struct snapshot_slot){.state = SLAB_EMPTY, .dirty_pages = 0x0fff};
        else if (kind == 1 && i < SUPERSLAB_SLABS - 6) {
            put_span(ss, i, 300000);
            i += 4;
        } else if (kind != 2)
            put_slab(ss, i, bytes, used < room ? used : room, ss->tier == SS_TIER_DRAINING ? 10 : 16);
    }
}

/* Any bytes at all, but for addresses; states, tiers and the rest are often what they may be. */
static inline struct snapshot make_noise(size_t n_superslabs, uint32_t *seed)
{
    struct snapshot s = make_snapshot("noise", n_superslabs);
    unsigned char *bytes = (unsigned char *)&s.census;
    for (size_t k = 0; k < sizeof s.census; k++)
        bytes[k] = (unsigned char)next_number(seed);
    for (size_t i = 0; i < n_superslabs; i++) {
        struct snapshot_superslab *ss = &s.superslabs[i];
        bytes = (unsigned char *)ss;
        for (size_t k = 0; k < sizeof *ss; k++)
            bytes[k] = (unsigned char)(next_number(seed) >> (next_number(seed) % 9));
        ss->address = FIRST_ADDRESS + i * SUPERSLAB_BYTES;
        ss->state = (uint8_t)(next_number(seed) % 9);
        ss->tier = (uint8_t)(next_number(seed) % 4);
        for (unsigned k = 0; k < SUPERSLAB_SLABS; k++)
            ss->slot[k].state = (uint8_t)(next_number(seed) % (SLAB_PACKED + 2));
    }
    s.n_torn = next_number(seed);
    s.resident_bytes = UINT64_MAX - next_number(seed);
    return s;
}

/* The sums as the census has them, for what the snapshot holds. cached: one of so many blocks is in a magazine; 0: none. */
static inline void take_census(struct snapshot *s, unsigned cached)
{
    struct hak_stats *t = &s->census.stats;
    memset(&s->census, 0, sizeof s->census);
    for (size_t i = 0; i < s->n_superslabs; i++) {
        const struct snapshot_superslab *ss = &s->superslabs[i];
        t->committed_bytes += ss->state == SUPERSLAB_POOLED ? 0 : ss->dirty_prefix_bytes;
        t->live_bytes += ss->run_bytes;
        t->superslabs += ss->state == SUPERSLAB_POOLED;
        for (unsigned k = 0; k < SUPERSLAB_SLABS && ss->state == SUPERSLAB_POOLED; k++) {
            const unsigned c = ss->slot[k].class_id, n_cached = cached == 0 ? 0 : ss->slot[k].used / cached;
            t->committed_bytes += (uint64_t)__builtin_popcount(ss->slot[k].dirty_pages) * PAGE;
            t->live_bytes += ss->slot[k].span_bytes + (uint64_t)(ss->slot[k].used - n_cached) * class_table[c].bytes;
            t->cached_bytes += (uint64_t)n_cached * class_table[c].bytes;
            s->census.classes[c].cached_blocks += n_cached;
        }
    }
    s->resident_bytes = t->committed_bytes + 3000000;
}

/* A heap of n SuperSlabs: every ninth drains; a run, an empty one in the cache. */
static inline struct snapshot make_server(size_t n_superslabs, uint32_t seed)
{
    struct snapshot s = make_snapshot("made-up-server", n_superslabs);
    for (size_t i = 0; i < n_superslabs; i++)
        put_mixture(pooled(&s, i, i % 9 == 4 ? SS_TIER_DRAINING : SS_TIER_HOT), &seed);
    if (n_superslabs >= 12) {
        for (size_t i = 6; i < 11; i++)
            s.superslabs[i] = (struct snapshot_superslab){.address = FIRST_ADDRESS + i * SUPERSLAB_BYTES};
        put_run(&s, 6, 4 * SUPERSLAB_BYTES - 700000);
        s.superslabs[10].state = SUPERSLAB_CACHED;
        s.superslabs[10].dirty_prefix_bytes = 1200000;
    }
    take_census(&s, 40);
    return s;
}

#endif
