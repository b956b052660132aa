/* map_palette.h - the colours of a heap's map, the same in every output, on light and on dark ground.
 *
 * Blocks are cold colours, what is in memory without being used is warm: orange inside slabs, yellow where it waits to go back.
 * So the warm share of a picture is the waste. Each pair that must be told apart differs in lightness or in blue against
 * yellow, which people with the usual colour blindnesses see too; nothing is told by colour alone (tags, hatching, text).
 */
#ifndef HAKMEM_TOOLS_MAP_PALETTE_H
#define HAKMEM_TOOLS_MAP_PALETTE_H

#include "map_model.h"

enum map_theme { MAP_LIGHT, MAP_DARK, MAP_N_THEMES };

enum map_tone {
    MAP_TONE_GROUND, /* behind everything */
    MAP_TONE_PANEL,  /* behind a group */
    MAP_TONE_LINE,   /* thin lines */
    MAP_TONE_TEXT,
    MAP_TONE_MUTED,    /* text that matters less */
    MAP_TONE_NOTHING,  /* a cell, or what of a cell is not in memory */
    MAP_TONE_USED,     /* blocks of any class */
    MAP_TONE_MAGAZINE, /* blocks in magazines */
    MAP_TONE_FREE,     /* in memory, in a slab, not used */
    MAP_TONE_IDLE,     /* in memory and waiting */
    MAP_TONE_SPAN,
    MAP_TONE_RUN,
    MAP_TONE_HOT,
    MAP_TONE_DRAINING,
    MAP_TONE_TORN,
    MAP_N_TONES
};

struct map_color {
    uint8_t r, g, b;
};

struct map_color map_tone_color(enum map_theme theme, enum map_tone tone);
const char *map_tone_name(enum map_tone tone); /* as a CSS variable is named */

/* What a map is coloured by. */
enum map_by { MAP_BY_CLASS, MAP_BY_OCCUPANCY, MAP_BY_TIER };

#define MAP_RAMP_STEPS 9

/* From the smallest to the largest class, and from no block used to all. step is 0 to MAP_RAMP_STEPS - 1. */
struct map_color map_class_ramp(enum map_theme theme, unsigned step);
struct map_color map_occupancy_ramp(enum map_theme theme, unsigned step);

/* The step of a class; 0 of what is none. */
unsigned map_class_step(unsigned class_id);

/* By id, spans and runs too. */
struct map_color map_class_color(enum map_theme theme, unsigned class_id);

/* The colour of what is used in a row or a cell. per_cent as map_row_fullness. */
struct map_color map_occupancy_color(enum map_theme theme, int per_cent);
struct map_color map_row_color(enum map_theme theme, enum map_row_kind kind);

#endif
