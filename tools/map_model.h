/* map_model.h - what a map of a heap shows, as plain numbers: rows, the 32 cells of a row, and sums.
 *
 * Made from a snapshot, of which nothing is believed: counts are cut to what can be, what makes no sense is MAP_TORN. The
 * drawings (map_terminal.c, map_drawing.c) and `--json` take their numbers from here; the page does the same sums again, in
 * map_page.js, because it is to show a hundred snapshots.
 */
#ifndef HAKMEM_TOOLS_MAP_MODEL_H
#define HAKMEM_TOOLS_MAP_MODEL_H

#include "snapshot.h"

/* ---- Cells: 64 KiB each ----------------------------------------------------------------------------------------- */

enum map_cell_kind {
    MAP_NOTHING, /* UNUSED: no block and no page */
    MAP_SLAB,    /* blocks of one class */
    MAP_SPAN,    /* part of one block of several slabs; PACKED: pages of some that share it; HELD: kept by a thread */
    MAP_IDLE,    /* EMPTY, or on its way: no block; its pages wait to be used again, or to go back */
    MAP_TORN     /* made no sense when it was read */
};

/* memory_bytes == used_bytes + free_bytes. What is in use and not in memory does not occur: a page is noted before its blocks
 * are handed out. */
struct map_cell {
    enum map_cell_kind kind;
    uint8_t state;         /* enum slab_state */
    uint8_t class_id;      /* MAP_SLAB */
    uint8_t span_slabs;    /* MAP_SPAN: cells of the whole span; PACKED, HELD: 1 */
    uint8_t span_distance; /* MAP_SPAN: from the span's first cell; PACKED, HELD: 0 */
    uint8_t n_spans;       /* MAP_SPAN: spans that begin in it */
    uint16_t used, room;   /* MAP_SLAB: blocks */
    uint16_t dirty_pages;
    uint64_t span_bytes;   /* MAP_SPAN: of the whole span; PACKED: of this cell's pages that are in spans; HELD: all */
    uint64_t begun_bytes;  /* MAP_SPAN: of the spans that begin in it */
    uint32_t memory_bytes; /* of pages that may be in memory */
    uint32_t used_bytes;   /* of that, in blocks: callers', and those in magazines */
    uint32_t free_bytes;   /* of that, the rest */
};

/* ---- Rows: a SuperSlab, or a run ------------------------------------------------------------------------------------- */

struct map;

enum map_row_kind { MAP_HOT, MAP_DRAINING, MAP_FREE, MAP_CACHED, MAP_RUN, MAP_MOVING, MAP_ROW_TORN, MAP_N_ROW_KINDS };

struct map_row {
    const struct snapshot_superslab *ss; /* the first of a run */
    enum map_row_kind kind;
    uint32_t n_superslabs;   /* a run's; else 1 */
    uint64_t memory_bytes;   /* of pages that may be in memory: used + free + idle */
    uint64_t used_bytes;     /* in blocks */
    uint64_t free_bytes;     /* in slabs and spans in use, beside their blocks */
    uint64_t idle_bytes;     /* where no block is: EMPTY slots, CACHED SuperSlabs */
    uint64_t run_bytes;      /* of the run's block */
    uint64_t capacity_bytes; /* of its slabs and spans, whatever of them is in memory: what its tier goes by */
};

/* The cells of a row; of one that is not POOLED: the pages from its beginning on, that wait. A run's are of no use. */
void map_row_cells(const struct map *map, const struct map_row *row, struct map_cell cells[SUPERSLAB_SLABS]);

/* How full it is as its tier counts, in per cent: -1 where that has no meaning. */
int map_row_fullness(const struct map_row *row);

/* How much of a MAP_SLAB's room or a MAP_SPAN is in use, in per cent: a span is, as a whole; of a PACKED slot, its pages in spans. */
int map_cell_fullness(const struct map_cell *cell);

/* ---- All of it ----------------------------------------------------------------------------------------------------- */

struct map_class {
    uint64_t slabs;
    uint64_t used_blocks, room_blocks;
    uint64_t memory_bytes, used_bytes, free_bytes;
    uint64_t cached_blocks, cached_bytes; /* of the used ones: in magazines. By the census */
};

struct map {
    const struct snapshot *snapshot;
    uint64_t live_bytes, cached_bytes, committed_bytes,
        resident_bytes; /* as the snapshot has them, but for what cannot be */
    size_t n_rows;
    struct map_row *rows; /* by address */
    size_t rows_of_kind[MAP_N_ROW_KINDS];
    uint64_t spans, span_bytes, runs, run_bytes, run_superslabs;
    uint64_t memory_bytes, used_bytes, free_bytes, idle_bytes;
    /* used_bytes in the proportion of live_bytes and cached_bytes, whose sum it is, but where blocks are not in memory as a
     * whole: those with pages of their own, in hardened mode. */
    uint64_t live_memory_bytes, cached_memory_bytes;
    struct map_class classes[CENSUS_CLASSES]; /* by class id; CLASS_END: spans, CLASS_END + 1: runs */
};

/* 0, or -1 when there is no memory for it. */
int map_make(const struct snapshot *snapshot, struct map *out);
void map_drop(struct map *map);

/* The classes that have slabs, those with the most free bytes in memory first. Returns how many. */
size_t map_classes_by_free(const struct map *map, uint8_t order[CENSUS_CLASSES]);

/* ---- Words --------------------------------------------------------------------------------------------------------- */

#define MAP_TEXT_BYTES 32

/* "512 B", "1.5 KiB", "2.0 MiB": in out, which is returned. */
const char *map_bytes_text(uint64_t bytes, char out[MAP_TEXT_BYTES]);

/* "64 B", "spans", "runs" */
const char *map_class_text(unsigned class_id, char out[MAP_TEXT_BYTES]);

const char *map_row_kind_name(enum map_row_kind kind); /* "HOT", "DRAINING", ... */
const char *map_slab_state_name(unsigned state);       /* "partial", ... */

/* A name from another process as it may be shown: whole UTF-8 characters are kept (if ascii: none), control characters and
 * anything else become '?'. */
void map_clean_name(const char *name, bool ascii, char *out, size_t out_bytes);

#endif
