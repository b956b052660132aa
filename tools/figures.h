/* figures.h - what `hakmem top` shows, computed from one snapshot or from two of the same process. Pure: no file, no clock. */
#ifndef HAKMEM_TOOLS_FIGURES_H
#define HAKMEM_TOOLS_FIGURES_H

#include "process.h"
#include "snapshot.h"

enum { FIGURES_STAGES = 5, FIGURES_LABEL_BYTES = 12 };

/* Events per second between two snapshots. A counter that went back (another program has taken the process's place) counts 0. */
struct figures_rates {
    double interval_s;                  /* between the snapshots; 0: there is only one, and all rates are 0 */
    double live_bytes, committed_bytes; /* growth: may be negative */
    double refills, flushes;
    double acquired[FIGURES_STAGES]; /* slabs and spans, in the order of figures_stage_names */
    double slabs_released;
    double purged_bytes, given_back_bytes;
    double lock_acquisitions, lock_contended;
};

extern const char *const figures_stage_names[FIGURES_STAGES];

/* A size class, or all spans, or all runs, if the process has any slab or block of it. */
struct figures_class {
    unsigned index;                  /* in census.classes */
    char label[FIGURES_LABEL_BYTES]; /* its block size in bytes; "span", "run" */
    uint64_t block_bytes;            /* spans and runs: 0, because each has its own */
    uint64_t slabs, live_blocks, cached_blocks, free_blocks, live_bytes, cached_bytes;
    uint64_t following_blocks; /* see struct census_class */
    uint64_t memory_bytes;     /* of its pages: may be in memory */
    uint64_t waste_bytes;      /* of those, what is neither live nor cached */
    double growth;             /* of live bytes, per second: may be negative; 0 if there is one snapshot */
};

/* The blocks that a class's slabs have room for, and those that live ones take. */
static inline double figures_room(const struct figures_class *c)
{
    return (double)c->live_blocks + (double)c->following_blocks + (double)c->cached_blocks + (double)c->free_blocks;
}

static inline double figures_taken(const struct figures_class *c)
{
    return (double)c->live_blocks + (double)c->following_blocks;
}

struct figures_thread {
    int32_t thread_id;
    char name[16]; /* as the system has it; empty: not told */
    uint64_t cached_bytes, cached_blocks, owned_slabs, refills, flushes;
    double refills_per_s, flushes_per_s;
};

struct figures {
    const struct snapshot *snapshot; /* must outlive the figures */
    struct figures_rates rates;
    uint64_t given_back_bytes;  /* to the system, since the start: pages and SuperSlabs */
    uint64_t lock_acquisitions; /* of all causes */
    /* By block size, spans and runs behind them, until sorted otherwise. */
    size_t n_classes;
    struct figures_class classes[CENSUS_CLASSES];
    /* By thread id, until sorted otherwise. */
    size_t n_threads;
    struct figures_thread *threads;
};

/* Computes all. earlier may be NULL. The names may be those of threads that have ended, or be missing. */
void figures_make(struct figures *out, const struct snapshot *earlier, const struct snapshot *now,
                  const struct process_thread *names, size_t n_names);
void figures_free(struct figures *figures);

/* Of a class's blocks, how many out of `scale` are `part`, rounded down, but at least one if there is any. */
unsigned figures_share(double part, double whole, unsigned scale);

/* ---- Order ------------------------------------------------------------------------------------------------------ */

enum figures_class_column {
    CLASS_COLUMN_BLOCK,
    CLASS_COLUMN_SLABS,
    CLASS_COLUMN_LIVE,
    CLASS_COLUMN_CACHED,
    CLASS_COLUMN_FREE,
    CLASS_COLUMN_OCCUPANCY,
    CLASS_COLUMN_MEMORY,
    CLASS_COLUMN_WASTE,
    CLASS_COLUMN_GROWTH,
    CLASS_COLUMNS
};

enum figures_thread_column {
    THREAD_COLUMN_ID,
    THREAD_COLUMN_NAME,
    THREAD_COLUMN_CACHED,
    THREAD_COLUMN_REFILLS,
    THREAD_COLUMN_FLUSHES,
    THREAD_COLUMN_SLABS,
    THREAD_COLUMNS
};

/* Sort the rows by a column. Rows that are equal there keep the order of sizes, or of thread ids. */
void figures_sort_classes(struct figures *figures, enum figures_class_column column, bool descending);
void figures_sort_threads(struct figures *figures, enum figures_thread_column column, bool descending);

#endif
