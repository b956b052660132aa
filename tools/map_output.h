/* map_output.h - the forms in which `hakmem map` shows a heap. Each is a function of snapshots alone: where these come from, and
 * where the text goes, map.c knows.
 */
#ifndef HAKMEM_TOOLS_MAP_OUTPUT_H
#define HAKMEM_TOOLS_MAP_OUTPUT_H

#include "map_palette.h"

#include <stdio.h>

/* ---- Text for a terminal: map_terminal.c ------------------------------------------------------------------------------ */

enum map_terminal_colors { MAP_ASCII, MAP_256_COLORS, MAP_TRUE_COLORS }; /* with colours also UTF-8 */

struct map_terminal {
    unsigned width; /* columns; less than 40 are taken as 40 */
    enum map_terminal_colors colors;
    enum map_by by;
    size_t limit; /* rows of SuperSlabs at most: then those with the most unused memory. 0: all, by address */
};

/* What goes wrong with `out` is to be seen by ferror. */
void map_print_terminal(FILE *out, const struct map *map, const struct map_terminal *how);

/* ---- A picture: map_drawing.c ----------------------------------------------------------------------------------------- */

struct map_drawing {
    enum map_theme theme;
    enum map_by by;
    const char *when; /* a date for the head line; "": none */
};

/* 0, or -1 and why. */
int map_draw_svg(FILE *out, const struct map *map, const struct map_drawing *how, const char **why);
int map_draw_png(FILE *out, const struct map *map, const struct map_drawing *how, const char **why);

/* ---- A page that shows one snapshot or many: map_page.c ---------------------------------------------------------------- */

struct map_page;

/* NULL: no memory. */
struct map_page *map_page_new(enum map_by by, const char *when);
void map_page_drop(struct map_page *page);

/* Adds one more snapshot of the same process, which is not needed afterwards. 0, or -1: no memory. */
int map_page_add(struct map_page *page, const struct snapshot *snapshot);

/* Once, after at least one snapshot. 0, or -1: no memory, or `out` failed. */
int map_page_write(struct map_page *page, FILE *out);

/* ---- JSON: map_json.c -------------------------------------------------------------------------------------------------- */

/* One object on one line. 0, or -1: no memory, or `out` failed. */
int map_print_json(FILE *out, const struct map *map);

#endif
