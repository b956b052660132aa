/* map_drawing.c - a heap's map as a picture: one drawing, on a surface that becomes SVG or PNG.
 * Owns       the layout below.
 * Called by  map.c, tests.     Calls  cairo, map_model.c, map_palette.c.     Threads  one.
 * I1  The picture is WIDTH wide; its height follows from the number of rows, before anything is drawn.
 * I2  The rectangles of cells are collected by colour and filled by one path per colour: an SVG of them stays a third of the size.
 * I3  Nothing from the other process is drawn but numbers, and its name after map_clean_name.
 * Why five densities and not a free scale: each decides what a row still has room for (numbers, address, gaps, tag). In the last
 * a SuperSlab is one cell: ten thousand of them with 32 cells each are a carpet that nobody can read, and 40 MB of SVG. */
#include "map_output.h"

#include <cairo-svg.h>
#include <cairo.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

static const double WIDTH = 1280, MARGIN = 28, PANEL_GAP = 16;
enum { N_CLASSES_SHOWN = 8 };

/* How the rows are laid out, by their number. */
struct density {
    size_t max_rows;
    unsigned n_columns;
    double column_gap;
    double address_width, tag_width, cell_width, cell_gap, cell_height, row_height, numbers_width;
    double font_size;
    bool whole_tag; /* a word; else a letter, or where there is no room for that a mark */
    bool coarse;    /* a cell is a whole row, and n_columns of them are on a line */
};

static const struct density densities[] = {
    {36, 1, 0, 112, 84, 22.5, 2, 20, 25, 300, 12, true, false},
    {140, 2, 28, 92, 24, 10.2, 1, 13, 16, 164, 10, false, false},
    {600, 4, 20, 68, 12, 6.6, 0.6, 9, 11, 0, 8, false, false},
    {1500, 6, 14, 0, 7, 5.75, 0, 8, 9.5, 0, 7, false, false},
    {SIZE_MAX, 102, 0, 0, 0, 12, 1.5, 12, 16, 0, 7, false, true},
};

/* ---- Colours and rectangles -------------------------------------------------------------------------------------------- */

struct rectangle {
    float x, y, w, h;
};

struct paint {
    struct map_color color;
    size_t n, room;
    struct rectangle *rectangles;
};

enum { MAX_PAINTS = 40 }; /* tones and two ramps */

struct canvas {
    cairo_t *cr;
    const struct map *map;
    const struct map_drawing *how;
    const struct density *density;
    struct paint paints[MAX_PAINTS];
    unsigned n_paints;
    bool no_memory;
};

static void set_color(struct canvas *c, struct map_color color)
{
    cairo_set_source_rgb(c->cr, color.r / 255.0, color.g / 255.0, color.b / 255.0);
}

static struct map_color tone(const struct canvas *c, enum map_tone of)
{
    return map_tone_color(c->how->theme, of);
}

static void fill_rectangle(struct canvas *c, struct map_color color, double x, double y, double w, double h)
{
    set_color(c, color);
    cairo_rectangle(c->cr, x, y, w, h);
    cairo_fill(c->cr);
}

static struct paint *paint_of(struct canvas *c, struct map_color color)
{
    for (unsigned i = 0; i < c->n_paints; i++)
        if (c->paints[i].color.r == color.r && c->paints[i].color.g == color.g && c->paints[i].color.b == color.b)
            return &c->paints[i];
    if (c->n_paints == MAX_PAINTS)
        return &c->paints[MAX_PAINTS - 1];
    c->paints[c->n_paints].color = color;
    return &c->paints[c->n_paints++];
}

/* A rectangle that continues the last one of its colour lengthens it. */
static void collect(struct canvas *c, struct map_color color, double x, double y, double w, double h)
{
    struct paint *paint = paint_of(c, color);
    if (h <= 0 || w <= 0)
        return;
    if (paint->n > 0) {
        struct rectangle *last = &paint->rectangles[paint->n - 1];
        if (last->y == (float)y && last->h == (float)h && last->x + last->w >= (float)x - 0.01f && last->x < (float)x) {
            last->w = (float)(x + w) - last->x;
            return;
        }
    }
    if (paint->n == paint->room) {
        const size_t room = paint->room == 0 ? 256 : paint->room * 2;
        struct rectangle *more = realloc(paint->rectangles, room * sizeof *more);
        if (more == NULL) {
            c->no_memory = true;
            return;
        }
        paint->rectangles = more;
        paint->room = room;
    }
    paint->rectangles[paint->n++] = (struct rectangle){(float)x, (float)y, (float)w, (float)h};
}

static void fill_collected(struct canvas *c)
{
    for (unsigned i = 0; i < c->n_paints; i++) {
        set_color(c, c->paints[i].color);
        for (size_t k = 0; k < c->paints[i].n; k++) {
            const struct rectangle *r = &c->paints[i].rectangles[k];
            cairo_rectangle(c->cr, r->x, r->y, r->w, r->h);
        }
        cairo_fill(c->cr);
        free(c->paints[i].rectangles);
    }
    memset(c->paints, 0, sizeof c->paints);
    c->n_paints = 0;
}

/* ---- Text --------------------------------------------------------------------------------------------------------------- */

enum align { LEFT, RIGHT, MIDDLE };

static double put_text(struct canvas *c, struct map_color color, double size, bool bold, enum align align, double x,
                       double y, const char *text)
{
    cairo_text_extents_t extents;
    cairo_select_font_face(c->cr, "sans-serif", CAIRO_FONT_SLANT_NORMAL,
                           bold ? CAIRO_FONT_WEIGHT_BOLD : CAIRO_FONT_WEIGHT_NORMAL);
    cairo_set_font_size(c->cr, size);
    cairo_text_extents(c->cr, text, &extents);
    set_color(c, color);
    cairo_move_to(c->cr, align == LEFT ? x : align == RIGHT ? x - extents.x_advance : x - extents.x_advance / 2, y);
    cairo_show_text(c->cr, text);
    cairo_new_path(c->cr);
    return extents.x_advance;
}

static double text_width(struct canvas *c, double size, bool bold, const char *text)
{
    cairo_text_extents_t extents;
    cairo_select_font_face(c->cr, "sans-serif", CAIRO_FONT_SLANT_NORMAL,
                           bold ? CAIRO_FONT_WEIGHT_BOLD : CAIRO_FONT_WEIGHT_NORMAL);
    cairo_set_font_size(c->cr, size);
    cairo_text_extents(c->cr, text, &extents);
    return extents.x_advance;
}

static double __attribute__((format(printf, 7, 8)))
put_format(struct canvas *c, struct map_color color, double size, enum align align, double x, double y,
           const char *format, ...)
{
    char text[160];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    return put_text(c, color, size, false, align, x, y, text);
}

/* ---- Rounded boxes and hatching ------------------------------------------------------------------------------------------- */

static void round_path(struct canvas *c, double x, double y, double w, double h, double r)
{
    const double right = 1.5707963267948966;
    cairo_new_sub_path(c->cr);
    cairo_arc(c->cr, x + w - r, y + r, r, -right, 0);
    cairo_arc(c->cr, x + w - r, y + h - r, r, 0, right);
    cairo_arc(c->cr, x + r, y + h - r, r, right, 2 * right);
    cairo_arc(c->cr, x + r, y + r, r, 2 * right, 3 * right);
    cairo_close_path(c->cr);
}

static void put_panel(struct canvas *c, double x, double y, double w, double h)
{
    round_path(c, x, y, w, h, 8);
    set_color(c, tone(c, MAP_TONE_PANEL));
    cairo_fill(c->cr);
}

/* Slanted lines: what waits is told from what is used without colours, too. */
static void hatch(struct canvas *c, double x, double y, double w, double h)
{
    if (h < 2 || w < 2)
        return;
    cairo_save(c->cr);
    cairo_rectangle(c->cr, x, y, w, h);
    cairo_clip(c->cr);
    for (double at = -h; at < w; at += 5) {
        cairo_move_to(c->cr, x + at, y + h);
        cairo_line_to(c->cr, x + at + h, y);
    }
    cairo_set_source_rgba(c->cr, 0, 0, 0, 0.35);
    cairo_set_line_width(c->cr, 1);
    cairo_stroke(c->cr);
    cairo_restore(c->cr);
}

/* ---- Head ---------------------------------------------------------------------------------------------------------------- */

static double draw_title(struct canvas *c, double y)
{
    const struct snapshot *s = c->map->snapshot;
    char name[sizeof s->name], version[sizeof s->version], profile[sizeof s->profile];
    map_clean_name(s->name, false, name, sizeof name);
    map_clean_name(s->version, true, version, sizeof version);
    map_clean_name(s->profile, true, profile, sizeof profile);
    const double width = put_text(c, tone(c, MAP_TONE_TEXT), 24, true, LEFT, MARGIN, y + 24, name);
    put_format(c, tone(c, MAP_TONE_MUTED), 14, LEFT, MARGIN + width + 12, y + 24, "pid %d", (int)s->pid);
    put_format(c, tone(c, MAP_TONE_MUTED), 12, RIGHT, WIDTH - MARGIN, y + 24, "hakmem %s, profile %s%s%s", version,
               profile, c->how->when[0] == '\0' ? "" : "    ", c->how->when);
    return y + 44;
}

struct share {
    const char *name;
    uint64_t bytes, memory_bytes; /* what of it is in memory */
    enum map_tone tone;           /* MAP_N_TONES: none */
};

static void draw_tile(struct canvas *c, const struct share *share, uint64_t whole, double x, double y, double w)
{
    char text[MAP_TEXT_BYTES];
    put_panel(c, x, y, w, 64);
    double at = x + 14;
    if (share->tone != MAP_N_TONES) {
        fill_rectangle(c, tone(c, share->tone), at, y + 14, 12, 12);
        if (share->tone == MAP_TONE_IDLE)
            hatch(c, at, y + 14, 12, 12);
        at += 19;
    }
    put_text(c, tone(c, MAP_TONE_MUTED), 12, false, LEFT, at, y + 24, share->name);
    put_text(c, tone(c, MAP_TONE_TEXT), 20, true, LEFT, x + 14, y + 51, map_bytes_text(share->bytes, text));
    if (share->tone != MAP_N_TONES && whole > 0)
        put_format(c, tone(c, MAP_TONE_MUTED), 12, RIGHT, x + w - 14, y + 50, "%.0f %%",
                   (double)share->memory_bytes * 100 / (double)whole);
}

/* The four parts of what is committed, their sum, and what the system says. */
static double draw_shares(struct canvas *c, double y)
{
    const struct map *m = c->map;
    const struct share shares[] = {{"live", m->live_bytes, m->live_memory_bytes, MAP_TONE_USED},
                                   {"cached by threads", m->cached_bytes, m->cached_memory_bytes, MAP_TONE_MAGAZINE},
                                   {"free in slabs", m->free_bytes, m->free_bytes, MAP_TONE_FREE},
                                   {"waiting to go back", m->idle_bytes, m->idle_bytes, MAP_TONE_IDLE},
                                   {"committed", m->committed_bytes, 0, MAP_N_TONES},
                                   {"resident, whole process", m->resident_bytes, 0, MAP_N_TONES}};
    const double gap = 12, w = (WIDTH - 2 * MARGIN - 5 * gap) / 6;
    const uint64_t whole = m->memory_bytes;
    for (unsigned i = 0; i < 6; i++)
        if (i < 5 || shares[i].bytes > 0)
            draw_tile(c, &shares[i], whole, MARGIN + i * (w + gap), y, w);
    y += 78;
    double x = MARGIN;
    fill_rectangle(c, tone(c, MAP_TONE_NOTHING), MARGIN, y, WIDTH - 2 * MARGIN, 24);
    for (unsigned i = 0; i < 4 && whole > 0; i++) {
        const double part = (WIDTH - 2 * MARGIN) * (double)shares[i].memory_bytes / (double)whole;
        fill_rectangle(c, tone(c, shares[i].tone), x, y, part, 24);
        if (shares[i].tone == MAP_TONE_IDLE)
            hatch(c, x, y, part, 24);
        x += part;
    }
    return y + 40;
}

/* ---- Counts: tiers, runs, spans -------------------------------------------------------------------------------------------- */

static double draw_tag(struct canvas *c, enum map_row_kind kind, double x, double y, double h, double size,
                       const char *text)
{
    const bool loud = kind == MAP_DRAINING || kind == MAP_ROW_TORN;
    const double w = text_width(c, size, true, text) + 12;
    round_path(c, x + 0.5, y + 0.5, w, h - 1, 4);
    set_color(c, map_row_color(c->how->theme, kind));
    cairo_set_line_width(c->cr, 1);
    if (loud)
        cairo_fill(c->cr);
    else
        cairo_stroke(c->cr);
    put_text(c, tone(c, loud ? MAP_TONE_GROUND : MAP_TONE_TEXT), size, true, LEFT, x + 6.5, y + h / 2 + size * 0.36,
             text);
    return w;
}

static double draw_count(struct canvas *c, double x, double y, enum map_row_kind kind)
{
    const double w = draw_tag(c, kind, x, y, 20, 11, map_row_kind_name(kind));
    return x + w + 8 + 22 +
           put_format(c, tone(c, MAP_TONE_TEXT), 13, LEFT, x + w + 8, y + 15, "%zu", c->map->rows_of_kind[kind]);
}

static double draw_counts(struct canvas *c, double y)
{
    const struct map *map = c->map;
    char text[MAP_TEXT_BYTES];
    double x = MARGIN + 12 + put_text(c, tone(c, MAP_TONE_TEXT), 13, true, LEFT, MARGIN, y + 15, "SuperSlabs");
    for (enum map_row_kind kind = MAP_HOT; kind <= MAP_CACHED; kind++)
        x = draw_count(c, x, y, kind);
    if (map->rows_of_kind[MAP_MOVING] > 0)
        x = draw_count(c, x, y, MAP_MOVING);
    x += draw_tag(c, MAP_RUN, x, y, 20, 11, map_row_kind_name(MAP_RUN)) + 8;
    x += 22 + put_format(c, tone(c, MAP_TONE_TEXT), 13, LEFT, x, y + 15, "%llu in %llu run%s, %s",
                         (unsigned long long)map->run_superslabs, (unsigned long long)map->runs,
                         map->runs == 1 ? "" : "s", map_bytes_text(map->run_bytes, text));
    x += 22 + put_format(c, tone(c, MAP_TONE_TEXT), 13, LEFT, x, y + 15, "%llu span%s, %s",
                         (unsigned long long)map->spans, map->spans == 1 ? "" : "s",
                         map_bytes_text(map->span_bytes, text));
    if (map->snapshot->n_torn > 0)
        put_format(c, tone(c, MAP_TONE_TORN), 13, LEFT, x, y + 15, "%u records changed while they were read",
                   map->snapshot->n_torn);
    return y + 36;
}

/* ---- Legend ---------------------------------------------------------------------------------------------------------------- */

static void draw_ramp(struct canvas *c, double x, double y, struct map_color (*ramp)(enum map_theme, unsigned))
{
    for (unsigned step = 0; step < MAP_RAMP_STEPS; step++)
        fill_rectangle(c, ramp(c->how->theme, step), x + step * 20, y, 20.2, 12);
}

static void draw_key(struct canvas *c, enum map_tone of, double x, double y, const char *what)
{
    fill_rectangle(c, tone(c, of), x, y, 12, 12);
    if (of == MAP_TONE_IDLE)
        hatch(c, x, y, 12, 12);
    put_text(c, tone(c, MAP_TONE_TEXT), 11.5, false, LEFT, x + 19, y + 10.5, what);
}

static struct map_color sample_color(struct canvas *c)
{
    if (c->how->by == MAP_BY_TIER)
        return map_row_color(c->how->theme, MAP_HOT);
    return c->how->by == MAP_BY_OCCUPANCY ? map_occupancy_color(c->how->theme, 55) : map_class_ramp(c->how->theme, 4);
}

/* One cell, large, with what its parts mean. */
static void draw_sample(struct canvas *c, double x, double y)
{
    const bool whole = c->how->by == MAP_BY_OCCUPANCY;
    static const char *const parts[] = {"not in memory", "in memory, not used", "blocks in use"};
    const double top[] = {y + 22, y + 55, y + 86};
    fill_rectangle(c, tone(c, MAP_TONE_NOTHING), x, y, 64, 110);
    fill_rectangle(c, whole ? sample_color(c) : tone(c, MAP_TONE_FREE), x, y + 34, 64, 76);
    fill_rectangle(c, sample_color(c), x, y + 66, 64, 44);
    for (unsigned i = 0; i < 3; i++) {
        if (whole && i == 1)
            continue;
        fill_rectangle(c, tone(c, MAP_TONE_LINE), x + 66, top[i] - 4.5, 14, 1);
        put_text(c, tone(c, MAP_TONE_TEXT), 11.5, false, LEFT, x + 86, top[i],
                 whole && i == 2 ? "in memory" : parts[i]);
    }
    put_text(c, tone(c, MAP_TONE_MUTED), 11, false, LEFT, x, y + 128, "a slab: 64 KiB");
}

static void draw_color_key(struct canvas *c, double x, double y)
{
    static const char *const titles[] = {"used, by block size", "by blocks used, of those there is room for",
                                         "used, by tier of the SuperSlab"};
    put_text(c, tone(c, MAP_TONE_MUTED), 11.5, false, LEFT, x, y, titles[c->how->by]);
    if (c->how->by == MAP_BY_TIER) {
        draw_key(c, MAP_TONE_HOT, x, y + 10, "HOT");
        draw_key(c, MAP_TONE_DRAINING, x + 70, y + 10, "DRAINING");
    } else if (c->how->by == MAP_BY_OCCUPANCY) {
        draw_ramp(c, x, y + 8, map_occupancy_ramp);
        put_text(c, tone(c, MAP_TONE_MUTED), 11, false, LEFT, x, y + 33, "none");
        put_text(c, tone(c, MAP_TONE_MUTED), 11, false, RIGHT, x + 180, y + 33, "all");
    } else {
        draw_ramp(c, x, y + 8, map_class_ramp);
        put_text(c, tone(c, MAP_TONE_MUTED), 11, false, LEFT, x, y + 33, "8 B");
        put_text(c, tone(c, MAP_TONE_MUTED), 11, false, RIGHT, x + 180, y + 33, "32 KiB");
    }
}

static void draw_legend(struct canvas *c, double x, double y, double w, double h)
{
    put_panel(c, x, y, w, h);
    put_text(c, tone(c, MAP_TONE_TEXT), 13, true, LEFT, x + 16, y + 24, "What the colours mean");
    draw_sample(c, x + 16, y + 42);
    x += 244;
    draw_color_key(c, x, y + 52);
    y += 98;
    if (c->how->by == MAP_BY_CLASS)
        draw_key(c, MAP_TONE_SPAN, x, y, "span: one block above 32 KiB");
    draw_key(c, MAP_TONE_RUN, x, y + 20, "run: one block above 1.9 MiB");
    draw_key(c, MAP_TONE_IDLE, x, y + 40, "no block, waits to go back");
    draw_key(c, MAP_TONE_TORN, x, y + 60, "changed while it was read");
}

/* ---- Classes --------------------------------------------------------------------------------------------------------------- */

static void draw_class(struct canvas *c, unsigned id, uint64_t most_bytes, double x, double y, double w)
{
    const struct map_class *class = &c->map->classes[id];
    char name[MAP_TEXT_BYTES], memory[MAP_TEXT_BYTES], unused[MAP_TEXT_BYTES];
    const double bar_x = x + 176, bar_w = w - 176 - 180;
    const double per_byte = most_bytes == 0 ? 0 : bar_w / (double)most_bytes;
    fill_rectangle(c, map_class_color(c->how->theme, id), x + 16, y - 10, 12, 12);
    put_text(c, tone(c, MAP_TONE_TEXT), 12, false, RIGHT, x + 94, y, map_class_text(id, name));
    put_format(c, tone(c, MAP_TONE_MUTED), 12, RIGHT, x + 160, y, "%llu", (unsigned long long)class->slabs);
    fill_rectangle(c, tone(c, MAP_TONE_NOTHING), bar_x, y - 10, bar_w, 12);
    fill_rectangle(c, tone(c, MAP_TONE_USED), bar_x, y - 10, (double)class->used_bytes * per_byte, 12);
    fill_rectangle(c, tone(c, MAP_TONE_FREE), bar_x + (double)class->used_bytes * per_byte, y - 10,
                   (double)class->free_bytes * per_byte, 12);
    put_text(c, tone(c, MAP_TONE_MUTED), 12, false, RIGHT, x + w - 100, y, map_bytes_text(class->memory_bytes, memory));
    put_text(c, tone(c, MAP_TONE_TEXT), 12, true, RIGHT, x + w - 16, y, map_bytes_text(class->free_bytes, unused));
}

static void draw_classes(struct canvas *c, double x, double y, double w, double h)
{
    uint8_t order[CENSUS_CLASSES];
    const size_t n = map_classes_by_free(c->map, order), n_shown = n < N_CLASSES_SHOWN ? n : N_CLASSES_SHOWN;
    uint64_t most_bytes = 0;
    put_panel(c, x, y, w, h);
    put_text(c, tone(c, MAP_TONE_TEXT), 13, true, LEFT, x + 16, y + 24, "Who holds memory that is not used");
    if (n > n_shown)
        put_format(c, tone(c, MAP_TONE_MUTED), 11, LEFT, x + 300, y + 24, "%zu more classes have less", n - n_shown);
    static const struct {
        double from_left, from_right;
        const char *text;
    } heads[] = {{94, 0, "block"}, {160, 0, "slabs"}, {0, 100, "in memory"}, {0, 16, "not used"}};
    for (unsigned i = 0; i < 4 && n > 0; i++)
        put_text(c, tone(c, MAP_TONE_MUTED), 11, false, RIGHT,
                 heads[i].from_left > 0 ? x + heads[i].from_left : x + w - heads[i].from_right, y + 44, heads[i].text);
    for (size_t i = 0; i < n_shown; i++)
        if (c->map->classes[order[i]].memory_bytes > most_bytes)
            most_bytes = c->map->classes[order[i]].memory_bytes;
    for (size_t i = 0; i < n_shown; i++)
        draw_class(c, order[i], most_bytes, x, y + 62 + (double)i * 17.5, w);
}

/* ---- Cells ----------------------------------------------------------------------------------------------------------------- */

/* One part of a cell, from `below` to `below` + bytes of its 64 KiB, counted from the bottom. */
static void collect_part(struct canvas *c, struct map_color color, double x, double y, double w, uint32_t below,
                         uint32_t bytes)
{
    const double h = c->density->cell_height, per_byte = h / (double)SLAB_BYTES;
    collect(c, color, x, y + h - (below + bytes) * per_byte, w, bytes * per_byte);
}

static struct map_color used_color(const struct canvas *c, enum map_row_kind kind, const struct map_cell *cell)
{
    if (c->how->by == MAP_BY_TIER)
        return map_row_color(c->how->theme, kind);
    if (c->how->by == MAP_BY_OCCUPANCY)
        return map_occupancy_color(c->how->theme, map_cell_fullness(cell));
    return map_class_color(c->how->theme, cell->kind == MAP_SLAB ? cell->class_id : CLASS_END);
}

static void collect_cell(struct canvas *c, enum map_row_kind kind, const struct map_cell *cell, double x, double y)
{
    const struct density *d = c->density;
    const bool goes_on = cell->kind == MAP_SPAN && cell->span_distance + 1 < cell->span_slabs;
    const double w = d->cell_width - (goes_on ? 0 : d->cell_gap);
    collect(c, tone(c, MAP_TONE_NOTHING), x, y, w, d->cell_height);
    if (cell->kind == MAP_TORN) {
        collect(c, tone(c, MAP_TONE_TORN), x, y, w, d->cell_height);
    } else if (cell->kind == MAP_SLAB || cell->kind == MAP_SPAN) {
        const struct map_color color = used_color(c, kind, cell);
        collect_part(c, color, x, y, w, 0, cell->used_bytes);
        collect_part(c, c->how->by == MAP_BY_OCCUPANCY ? color : tone(c, MAP_TONE_FREE), x, y, w, cell->used_bytes,
                     cell->free_bytes);
    } else {
        collect_part(c, tone(c, MAP_TONE_IDLE), x, y, w, 0, cell->memory_bytes);
    }
}

/* Lines over what waits, where cells are large enough. After fill_collected. */
static void hatch_cell(struct canvas *c, const struct map_cell *cell, double x, double y)
{
    const struct density *d = c->density;
    const double h = d->cell_height * cell->memory_bytes / (double)SLAB_BYTES;
    if (cell->kind == MAP_IDLE && d->cell_width > 8)
        hatch(c, x, y + d->cell_height - h, d->cell_width - d->cell_gap, h);
}

/* ---- Rows ------------------------------------------------------------------------------------------------------------------ */

static void collect_run(struct canvas *c, const struct map_row *row, double x, double y)
{
    const struct density *d = c->density;
    const double w = d->cell_width * SUPERSLAB_SLABS - d->cell_gap;
    const double per_byte = w / ((double)row->n_superslabs * SUPERSLAB_BYTES);
    const double used = (double)row->used_bytes * per_byte, unused = (double)row->free_bytes * per_byte;
    collect(c, tone(c, MAP_TONE_RUN), x, y, used, d->cell_height);
    collect(c, tone(c, MAP_TONE_FREE), x + used, y, unused, d->cell_height);
    collect(c, tone(c, MAP_TONE_NOTHING), x + used + unused, y, w - used - unused, d->cell_height);
}

struct place {
    double x, y; /* of the row; its cells begin further to the right */
};

static double cells_x(const struct canvas *c, struct place at)
{
    return at.x + c->density->address_width + c->density->tag_width;
}

static void collect_row(struct canvas *c, const struct map_row *row, struct place at)
{
    struct map_cell cells[SUPERSLAB_SLABS];
    const double x = cells_x(c, at);
    if (row->kind == MAP_RUN) {
        collect_run(c, row, x, at.y);
        return;
    }
    map_row_cells(c->map, row, cells);
    for (unsigned i = 0; i < SUPERSLAB_SLABS; i++)
        collect_cell(c, row->kind, &cells[i], x + i * c->density->cell_width, at.y);
}

static void draw_row_tag(struct canvas *c, const struct map_row *row, struct place at)
{
    const struct density *d = c->density;
    const double x = at.x + d->address_width, h = d->cell_height;
    char letter[2] = {map_row_kind_name(row->kind)[0], '\0'};
    if (d->whole_tag) {
        draw_tag(c, row->kind, x, at.y, h, d->font_size - 2.5, map_row_kind_name(row->kind));
    } else if (d->tag_width >= 20) {
        draw_tag(c, row->kind, x, at.y, h, d->font_size - 1, letter);
    } else if (row->kind != MAP_HOT) {
        fill_rectangle(c, map_row_color(c->how->theme, row->kind), x, at.y, d->tag_width - 2, h);
        if (d->tag_width >= 10)
            put_text(c, tone(c, MAP_TONE_GROUND), d->font_size, true, MIDDLE, x + d->tag_width / 2 - 1,
                     at.y + h / 2 + d->font_size * 0.36, letter);
    }
}

static void draw_numbers(struct canvas *c, const struct map_row *row, struct place at, double base)
{
    const struct density *d = c->density;
    const double x = cells_x(c, at) + d->cell_width * SUPERSLAB_SLABS, w = d->numbers_width;
    const int full = map_row_fullness(row);
    char text[MAP_TEXT_BYTES];
    if (w == 0)
        return;
    put_text(c, tone(c, MAP_TONE_TEXT), d->font_size, false, RIGHT, x + w * 0.37, base,
             map_bytes_text(row->memory_bytes, text));
    put_text(c, tone(c, MAP_TONE_TEXT), d->font_size, false, RIGHT, x + w * 0.75, base,
             map_bytes_text(row->free_bytes + row->idle_bytes, text));
    if (full >= 0)
        put_format(c, tone(c, MAP_TONE_TEXT), d->font_size, RIGHT, x + w, base, "%d %%", full);
}

/* All of a row that is not cells, and the hatching over them. */
static void draw_row_text(struct canvas *c, const struct map_row *row, struct place at)
{
    struct map_cell cells[SUPERSLAB_SLABS];
    const struct density *d = c->density;
    const double base = at.y + d->cell_height / 2 + d->font_size * 0.36, x = cells_x(c, at);
    if (d->address_width > 0)
        put_format(c, tone(c, MAP_TONE_MUTED), d->font_size, LEFT, at.x, base, "%llx",
                   (unsigned long long)row->ss->address);
    draw_row_tag(c, row, at);
    draw_numbers(c, row, at, base);
    if (row->kind == MAP_RUN && d->cell_height >= 8) {
        put_format(c, (struct map_color){0, 0, 0}, d->font_size, LEFT, x + 6, base, "%u SuperSlab%s", row->n_superslabs,
                   row->n_superslabs == 1 ? "" : "s");
        return;
    }
    if (row->kind == MAP_RUN || d->cell_width <= 8)
        return;
    map_row_cells(c->map, row, cells);
    for (unsigned i = 0; i < SUPERSLAB_SLABS; i++)
        hatch_cell(c, &cells[i], x + i * d->cell_width, at.y);
}

static size_t lines_of(const struct canvas *c)
{
    return (c->map->n_rows + c->density->n_columns - 1) / c->density->n_columns;
}

/* Down the columns, as the addresses rise. */
static struct place place_of(const struct canvas *c, size_t i, double y)
{
    const struct density *d = c->density;
    const size_t n_lines = lines_of(c);
    const double w = (WIDTH - 2 * MARGIN - (d->n_columns - 1) * d->column_gap) / d->n_columns + d->column_gap;
    return (struct place){MARGIN + (double)(i / n_lines) * w, y + (double)(i % n_lines) * d->row_height};
}

static void draw_column_heads(struct canvas *c, double y)
{
    const struct density *d = c->density;
    const size_t n_lines = lines_of(c);
    for (size_t i = 0; i < c->map->n_rows; i += n_lines) {
        const struct place at = place_of(c, i, y);
        const double x = cells_x(c, at), end = x + d->cell_width * SUPERSLAB_SLABS, w = d->numbers_width;
        if (d->address_width == 0) {
            put_format(c, tone(c, MAP_TONE_MUTED), 9, LEFT, x, y, "from %llx",
                       (unsigned long long)c->map->rows[i].ss->address);
            continue;
        }
        put_text(c, tone(c, MAP_TONE_MUTED), d->font_size, false, LEFT, at.x, y, "address");
        if (w == 0)
            continue;
        put_text(c, tone(c, MAP_TONE_MUTED), d->font_size, false, RIGHT, end + w * 0.37, y, "in memory");
        put_text(c, tone(c, MAP_TONE_MUTED), d->font_size, false, RIGHT, end + w * 0.75, y, "not used");
        put_text(c, tone(c, MAP_TONE_MUTED), d->font_size, false, RIGHT, end + w, y, "full");
    }
}

/* ---- Coarse: a row as one cell --------------------------------------------------------------------------------------------- */

/* Of the class that has most of what is used in the row. */
static struct map_color color_of_whole_row(const struct canvas *c, const struct map_row *row)
{
    struct map_cell cells[SUPERSLAB_SLABS];
    uint64_t used_bytes[CLASS_END + 1] = {0};
    unsigned most = CLASS_END;
    if (row->kind == MAP_RUN || c->how->by == MAP_BY_TIER)
        return map_row_color(c->how->theme, row->kind);
    if (c->how->by == MAP_BY_OCCUPANCY)
        return map_occupancy_color(c->how->theme, map_row_fullness(row));
    map_row_cells(c->map, row, cells);
    for (unsigned i = 0; i < SUPERSLAB_SLABS; i++) {
        const unsigned id = cells[i].kind == MAP_SLAB ? cells[i].class_id : CLASS_END;
        used_bytes[id] += cells[i].used_bytes;
        if (used_bytes[id] > used_bytes[most])
            most = id;
    }
    return map_class_color(c->how->theme, most);
}

static void collect_coarse(struct canvas *c, const struct map_row *row, double x, double y)
{
    const struct density *d = c->density;
    const double w = d->cell_width - d->cell_gap, h = d->cell_height;
    const double per_byte = h / ((double)row->n_superslabs * SUPERSLAB_BYTES);
    const double used = (double)row->used_bytes * per_byte, unused = (double)row->free_bytes * per_byte;
    const double idle = (double)row->idle_bytes * per_byte;
    const struct map_color color = color_of_whole_row(c, row);
    const struct map_color free_color = c->how->by == MAP_BY_OCCUPANCY ? color : tone(c, MAP_TONE_FREE);
    collect(c, row->kind == MAP_ROW_TORN ? tone(c, MAP_TONE_TORN) : tone(c, MAP_TONE_NOTHING), x, y, w,
            h - used - unused - idle);
    collect(c, tone(c, MAP_TONE_IDLE), x, y + h - used - unused - idle, w, idle);
    collect(c, free_color, x, y + h - used - unused, w, unused);
    collect(c, color, x, y + h - used, w, used);
    if (row->kind == MAP_DRAINING)
        collect(c, tone(c, MAP_TONE_DRAINING), x, y + h + 0.5, w, 2.5);
}

static void draw_coarse(struct canvas *c, double y)
{
    const struct density *d = c->density;
    for (size_t i = 0; i < c->map->n_rows; i++)
        collect_coarse(c, &c->map->rows[i], MARGIN + (double)(i % d->n_columns) * d->cell_width,
                       y + (double)(i / d->n_columns) * d->row_height);
    fill_collected(c);
}

/* ---- The map --------------------------------------------------------------------------------------------------------------- */

static void draw_rows(struct canvas *c, double y)
{
    const struct map *map = c->map;
    const double x =
        MARGIN + 12 + put_text(c, tone(c, MAP_TONE_TEXT), 13, true, LEFT, MARGIN, y, "SuperSlabs and runs by address");
    put_text(
        c, tone(c, MAP_TONE_MUTED), 12, false, LEFT, x, y,
        c->density->coarse
            ? "a cell is a SuperSlab of 2 MiB, or a whole run, in the colour of its largest class; underlined: DRAINING"
            : "a row is a SuperSlab: 2 MiB in 32 slabs; a run of several is one row");
    if (c->density->coarse) {
        draw_coarse(c, y + 16);
        return;
    }
    if (map->n_rows == 0) {
        put_text(c, tone(c, MAP_TONE_MUTED), 12, false, LEFT, MARGIN, y + 28, "The heap has none.");
        return;
    }
    draw_column_heads(c, y + 24);
    y += 32;
    for (size_t i = 0; i < map->n_rows; i++)
        collect_row(c, &map->rows[i], place_of(c, i, y));
    fill_collected(c);
    for (size_t i = 0; i < map->n_rows; i++)
        draw_row_text(c, &map->rows[i], place_of(c, i, y));
}

/* ---- All of it ------------------------------------------------------------------------------------------------------------- */

static const double BAND_HEIGHT = 200, ROWS_TOP = 464;

static double height_of(const struct canvas *c)
{
    return ROWS_TOP + 32 + (double)(lines_of(c) > 0 ? lines_of(c) : 1) * c->density->row_height + MARGIN;
}

static void draw(struct canvas *c)
{
    double y = MARGIN - 8;
    fill_rectangle(c, tone(c, MAP_TONE_GROUND), 0, 0, WIDTH, height_of(c));
    y = draw_title(c, y);
    y = draw_shares(c, y);
    y = draw_counts(c, y);
    const double legend = 460;
    draw_legend(c, MARGIN, y, legend, BAND_HEIGHT);
    draw_classes(c, MARGIN + legend + PANEL_GAP, y, WIDTH - 2 * MARGIN - legend - PANEL_GAP, BAND_HEIGHT);
    draw_rows(c, ROWS_TOP);
}

static struct canvas prepare(const struct map *map, const struct map_drawing *how)
{
    struct canvas c = {.map = map, .how = how, .density = densities};
    while (map->n_rows > c.density->max_rows)
        c.density++;
    return c;
}

static cairo_status_t write_to_file(void *out, const unsigned char *data, unsigned length)
{
    return fwrite(data, 1, length, out) == length ? CAIRO_STATUS_SUCCESS : CAIRO_STATUS_WRITE_ERROR;
}

/* Draws, and lets go of the surface and what belongs to it. */
static int finish(struct canvas *c, cairo_surface_t *surface, FILE *png, double scale, const char **why)
{
    cairo_status_t status = cairo_surface_status(surface);
    if (status == CAIRO_STATUS_SUCCESS) {
        c->cr = cairo_create(surface);
        cairo_scale(c->cr, scale, scale);
        draw(c);
        status = cairo_status(c->cr);
        cairo_destroy(c->cr);
    }
    if (status == CAIRO_STATUS_SUCCESS && png != NULL)
        status = cairo_surface_write_to_png_stream(surface, write_to_file, png);
    cairo_surface_finish(surface);
    if (status == CAIRO_STATUS_SUCCESS)
        status = cairo_surface_status(surface);
    cairo_surface_destroy(surface);
    if (c->no_memory)
        status = CAIRO_STATUS_NO_MEMORY;
    *why = cairo_status_to_string(status);
    return status == CAIRO_STATUS_SUCCESS ? 0 : -1;
}

int map_draw_svg(FILE *out, const struct map *map, const struct map_drawing *how, const char **why)
{
    struct canvas c = prepare(map, how);
    cairo_surface_t *surface = cairo_svg_surface_create_for_stream(write_to_file, out, WIDTH, height_of(&c));
    cairo_svg_surface_set_document_unit(surface, CAIRO_SVG_UNIT_PX);
    return finish(&c, surface, NULL, 1, why);
}

/* Twice as many points as the picture has units, as good screens do; but what is very high, once. */
int map_draw_png(FILE *out, const struct map *map, const struct map_drawing *how, const char **why)
{
    struct canvas c = prepare(map, how);
    const double height = height_of(&c), scale = height > 6000 ? 1 : 2;
    if (height * scale > 32000) {
        *why =
            "the heap is too large for one picture (a PNG is at most 32767 points high): take -o FILE.svg or FILE.html";
        return -1;
    }
    cairo_surface_t *surface =
        cairo_image_surface_create(CAIRO_FORMAT_RGB24, (int)(WIDTH * scale), (int)(height * scale + 0.999));
    return finish(&c, surface, out, scale, why);
}
