/* image.h - the raw records of another process's heap, copied into this one: what snapshot.c sums up, and check.c judges.
 *
 *   IMAGE_SUMS     SuperSlab records; slab records of those in the pool; thread records but for the blocks they hold
 *   IMAGE_DETAIL   all of that, and the class map, the arenas' taken bits, the large bit maps of slabs in use, the blocks in
 *                  magazines and quarantines
 *
 * What is in a copy is whatever was there: torn, damaged, or made up. Only counts that bound the copies (image_arena.high, the
 * numbers of arenas and threads) were proven. Nothing else may be used as an index or an address without a look.
 *
 * Cost: 200 bytes for each SuperSlab below arena.high and 4096 for each in the pool, so 2.1 MiB for a GiB of small blocks and 100 KiB
 * for a GiB of large ones; 5 KiB for each thread, or 6 KiB in hardened mode; 448 bytes for each stack of a heap profile. With
 * IMAGE_DETAIL 16 MiB more for a GiB of blocks of up to 112 bytes, and up to 64 KiB for each thread.
 */
#ifndef HAKMEM_TOOLS_IMAGE_H
#define HAKMEM_TOOLS_IMAGE_H

#include "target.h"

#include "api/census.h"
#include "front/guarded.h"
#include "front/harden.h"
#include "front/profile.h"
#include "front/sampled.h"
#include "front/thread.h"
#include "meta/layout.h"
#include "pool/pool_state.h"
#include "service/budget.h"
#include "service/stats.h"

enum image_extent { IMAGE_SUMS, IMAGE_DETAIL };

struct image_arena {
    uint64_t address;    /* of its record, there */
    struct arena there;  /* as it was read: its pointers are addresses there */
    struct arena record; /* the same for census_take: its pointers lead to the copies */
    uint32_t high;       /* so many SuperSlabs were copied */
    struct superslab *superslabs;
    struct slab *slabs; /* 32 for each; zero where a SuperSlab has none in use */
    /* IMAGE_DETAIL, else NULL: */
    uint8_t *class_map;       /* 32 for each */
    uint64_t *taken;          /* a bit for each */
    uint64_t *large_bits;     /* SLAB_MAX_WORDS per slab; zero where a slab has no large bit map */
    struct superslab *listed; /* the SuperSlabs' records once more, read together with the pool's lists */
};

struct image_thread {
    uint64_t address; /* of its record, there: a piece of THREAD_BYTES begins with it */
    /* IMAGE_SUMS: what lies before first_array. IMAGE_DETAIL: and the array space. next and quarantine lead to the copies. */
    struct thread *record;
    size_t record_bytes; /* that were allocated for it */
    struct quarantine *quarantine;
};

struct image {
    struct target *target;
    enum image_extent extent;
    uint64_t time_ns; /* CLOCK_MONOTONIC, when the reading began */
    uint32_t n_torn;  /* records that could not be read, or made no sense each time */
    size_t n_arenas;  /* in order of creation */
    struct image_arena *arenas;
    size_t n_threads;
    struct image_thread **threads;
    size_t slab_page_bytes;
    struct stats_counters counters;
    struct pool_state pool; /* IMAGE_DETAIL */
    bool lists_torn;        /* the pool's lists changed whenever they were read: nothing can be said of them */
    uint64_t lock_word;     /* of the pool lock; 0: it is free */
    uint32_t cut_off;       /* thread_cut_off: counts may be off by what was in the hands of a fork's lost threads */
    struct budget budget;
    struct config config;
    uint64_t metapool_bytes;
    struct sampled_figures sampled;
    struct guarded_figures guarded;
    struct profile_state profile; /* its records are a copy; NULL: there was no session */
    struct census_source source;  /* of all this */
};

/* Copies what is there. 0; or -1 and a line in `why`: the process has ended, or there is no memory for the copy. */
int image_take(struct target *target, enum image_extent extent, struct image *out, char *why, size_t why_bytes);

void image_free(struct image *image);

/* Reads a SuperSlab's records, or a thread's, or all that is one for the process, again, each as close to one moment as can be.
 * False: they cannot be read. */
bool image_refresh_superslab(struct image *image, struct image_arena *arena, uint32_t index);
bool image_refresh_thread(struct image *image, struct image_thread *thread);
bool image_refresh_process(struct image *image);

/* The pool's lists: its heads and counts (image.pool), and image_arena.listed; and whether they are torn. */
bool image_refresh_lists(struct image *image);

/* Whether SuperSlabs have come that the copy does not have: what leads to them looks wrong in it. */
bool image_has_grown(const struct image *image);

/* Records that make no sense, though they were read several times, are made harmless: from then on all counts are within their
 * bounds. Adds them to n_torn. */
void image_repair(struct image *image);

static inline const struct slab *image_slab(const struct image_arena *arena, uint32_t superslab, unsigned slot)
{
    return &arena->slabs[(size_t)superslab * SUPERSLAB_SLABS + slot];
}

/* Whether a slab state is one of those with a class. */
static inline bool slab_state_has_class(unsigned state)
{
    return state == SLAB_OWNED || state == SLAB_PARTIAL || state == SLAB_FULL;
}

/* The page of its SuperSlab at which the packed span of a head begins: head i of a slot. */
static inline unsigned packed_first_page(unsigned slot, unsigned i, uint32_t word)
{
    return slot * PACKED_PAGES + i * (PACKED_PAGES / PACKED_HEADS) + PACKED_PAGE(word);
}

/* Whether it is one that can be, or there is none. */
static inline bool packed_word_makes_sense(unsigned slot, unsigned i, uint32_t word)
{
    const unsigned state = PACKED_STATE(word), length = PACKED_LENGTH(word);
    return word == 0 ||
           (state >= PACKED_LIVE && state <= PACKED_WAITING && PACKED_PAGE(word) < PACKED_PAGES / PACKED_HEADS &&
            length >= PACKED_LEAST_PAGES && PACKED_ASKED(word) <= length &&
            packed_first_page(slot, i, word) + length <= SUPERSLAB_SLABS * PACKED_PAGES);
}

#endif
