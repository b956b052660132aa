/* map_terminal.c - a heap's map as text: head, a line or a column entry per SuperSlab or run, classes, legend.
 * Owns       nothing.
 * Called by  map.c, tests.     Calls  map_model.c, map_palette.c.     Threads  one.
 * I1  No line is wider than the terminal, and colours end before a line does.
 * I2  Nothing from the other process is printed but numbers, and its name after map_clean_name.
 * Why no colours without UTF-8 and the reverse: a cell with both says how much of it is used, unused and not in memory; without
 * one of them its one character is better spent on a digit. */
#include "map_output.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

enum {
    ADDRESS_COLUMNS = 13, /* 12 digits and a space */
    TAG_COLUMNS = 6,
    NUMBERS_COLUMNS = 20, /* memory, unused, full */
    GAP_COLUMNS = 3,      /* between two columns of rows */
    MIN_WIDTH = 40,
    N_CLASSES_SHOWN = 10
};

#define FULL_BLOCK "\u2588"

/* ---- Ink: the colours in force ---------------------------------------------------------------------------------------- */

struct ink {
    bool on;
    struct map_color color;
};

struct pen {
    FILE *out;
    const struct map_terminal *how;
    struct ink front, back;
};

static const struct ink plain;

static struct ink ink_of(struct map_color color)
{
    return (struct ink){true, color};
}

static struct ink tone(enum map_tone tone)
{
    return ink_of(map_tone_color(MAP_DARK, tone));
}

static bool same_ink(struct ink a, struct ink b)
{
    return a.on == b.on && (!a.on || (a.color.r == b.color.r && a.color.g == b.color.g && a.color.b == b.color.b));
}

/* The nearest of the 6 x 6 x 6 colours that follow the first 16. Their steps are 0, 95, 135, 175, 215, 255. */
static unsigned cube_step(uint8_t value)
{
    return value < 48 ? 0 : value < 115 ? 1 : (value - 35u) / 40;
}

static void set_ink(const struct pen *pen, struct ink ink, unsigned base)
{
    const struct map_color c = ink.color;
    if (!ink.on)
        fprintf(pen->out, "\033[%um", base + 9);
    else if (pen->how->colors == MAP_TRUE_COLORS)
        fprintf(pen->out, "\033[%u;2;%u;%u;%um", base + 8, c.r, c.g, c.b);
    else
        fprintf(pen->out, "\033[%u;5;%um", base + 8, 16 + 36 * cube_step(c.r) + 6 * cube_step(c.g) + cube_step(c.b));
}

static void use_inks(struct pen *pen, struct ink front, struct ink back)
{
    if (pen->how->colors == MAP_ASCII)
        return;
    if (!same_ink(front, pen->front))
        set_ink(pen, front, 30);
    if (!same_ink(back, pen->back))
        set_ink(pen, back, 40);
    pen->front = front;
    pen->back = back;
}

static void end_line(struct pen *pen)
{
    use_inks(pen, plain, plain);
    fputc('\n', pen->out);
}

/* ---- Items that flow: as many on a line as fit -------------------------------------------------------------------------- */

struct flow {
    struct pen *pen;
    unsigned column;
};

static void flow_begin(struct flow *flow, unsigned length)
{
    if (flow->column > 0 && flow->column + 3 + length > flow->pen->how->width) {
        end_line(flow->pen);
        flow->column = 0;
    }
    flow->column += (unsigned)fprintf(flow->pen->out, "%*s", flow->column == 0 ? 0 : 3, "") + length;
}

static void __attribute__((format(printf, 3, 4))) flow_item(struct flow *flow, struct ink ink, const char *format, ...)
{
    char text[96];
    va_list arguments;
    va_start(arguments, format);
    const int length = vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    flow_begin(flow, (unsigned)length);
    use_inks(flow->pen, ink, plain);
    fputs(text, flow->pen->out);
    use_inks(flow->pen, plain, plain);
}

/* With a patch of colour in front, if there are any: text in pale colours is hard to read on a white ground. */
static void flow_bytes(struct flow *flow, struct ink patch, const char *what, uint64_t bytes)
{
    char text[MAP_TEXT_BYTES], item[64];
    const bool has_patch = patch.on && flow->pen->how->colors != MAP_ASCII;
    const int length = snprintf(item, sizeof item, "%s %s", what, map_bytes_text(bytes, text));
    flow_begin(flow, (unsigned)length + (has_patch ? 2 : 0));
    if (has_patch) {
        use_inks(flow->pen, patch, plain);
        fputs(FULL_BLOCK, flow->pen->out);
        use_inks(flow->pen, plain, plain);
        fputc(' ', flow->pen->out);
    }
    fputs(item, flow->pen->out);
}

static void flow_end(struct flow *flow)
{
    if (flow->column > 0)
        end_line(flow->pen);
    flow->column = 0;
}

/* ---- Glyphs ---------------------------------------------------------------------------------------------------------- */

static const char *const eighths[] = {" ",      "\u2581", "\u2582", "\u2583",  "\u2584",
                                      "\u2585", "\u2586", "\u2587", FULL_BLOCK};

/* part of whole in eighths; more than nothing is one at least, and less than all seven at most. */
static unsigned eighths_of(uint64_t part, uint64_t whole)
{
    if (part == 0 || whole == 0)
        return 0;
    if (part >= whole)
        return 8;
    const unsigned n = (unsigned)((part * 8 + whole / 2) / whole);
    return n == 0 ? 1 : n == 8 ? 7 : n;
}

static void put_glyph(struct pen *pen, struct ink front, struct ink back, const char *glyph)
{
    use_inks(pen, front, back);
    fputs(glyph, pen->out);
}

/* A character that says, of whole bytes, how many are used, how many are in memory without being used, and how many are not in
 * memory. It has two colours for three parts: where all three occur, the largest two are shown. */
static void put_parts(struct pen *pen, struct ink used_ink, struct ink free_ink, uint64_t used, uint64_t unused,
                      uint64_t whole)
{
    const unsigned n_used = eighths_of(used, whole), n_memory = eighths_of(used + unused, whole);
    if (n_memory == 0)
        put_glyph(pen, tone(MAP_TONE_MUTED), plain, "\u00b7");
    else if (n_used == 0)
        put_glyph(pen, free_ink, plain, eighths[n_memory]);
    else if (unused == 0)
        put_glyph(pen, used_ink, plain, eighths[n_memory]);
    else if (unused >= whole - used - unused)
        put_glyph(pen, used_ink, free_ink, eighths[n_used == 8 ? 7 : n_used]);
    else
        put_glyph(pen, used >= unused ? used_ink : free_ink, plain, eighths[n_memory]);
}

static struct ink used_ink(const struct pen *pen, enum map_row_kind kind, const struct map_cell *cell)
{
    if (pen->how->by == MAP_BY_TIER)
        return ink_of(map_row_color(MAP_DARK, kind));
    if (pen->how->by == MAP_BY_OCCUPANCY)
        return ink_of(map_occupancy_color(MAP_DARK, map_cell_fullness(cell)));
    return ink_of(map_class_color(MAP_DARK, cell->kind == MAP_SLAB ? cell->class_id : CLASS_END));
}

static void put_slab(struct pen *pen, enum map_row_kind kind, const struct map_cell *cell)
{
    const struct ink ink = used_ink(pen, kind, cell);
    const bool whole = pen->how->by == MAP_BY_OCCUPANCY; /* the colour alone says how much is used */
    const bool begins = cell->kind == MAP_SPAN && cell->span_distance == 0 && cell->state != SLAB_PACKED;
    if (begins && cell->free_bytes == 0 && cell->memory_bytes == SLAB_BYTES)
        put_glyph(pen, ink, plain, "\u2590"); /* a gap before each span */
    else
        put_parts(pen, ink, whole ? ink : tone(MAP_TONE_FREE), cell->used_bytes, cell->free_bytes, SLAB_BYTES);
}

static char ascii_of(const struct map_cell *cell)
{
    switch (cell->kind) {
    case MAP_SLAB:
        return cell->used == cell->room ? '#' : (char)('0' + cell->used * 10u / cell->room);
    case MAP_SPAN:
        return cell->state == SLAB_PACKED ? 'P' : cell->span_distance == 0 ? 'S' : 's';
    case MAP_IDLE:
        return cell->memory_bytes > 0 ? 'w' : '.';
    case MAP_TORN:
        return '?';
    default:
        return '.';
    }
}

static void put_cell(struct pen *pen, enum map_row_kind kind, const struct map_cell *cell)
{
    if (pen->how->colors == MAP_ASCII)
        fputc(ascii_of(cell), pen->out);
    else if (cell->kind == MAP_TORN)
        put_glyph(pen, tone(MAP_TONE_TORN), plain, "?");
    else if (cell->kind == MAP_SLAB || cell->kind == MAP_SPAN)
        put_slab(pen, kind, cell);
    else
        put_parts(pen, tone(MAP_TONE_IDLE), tone(MAP_TONE_IDLE), 0, cell->memory_bytes, SLAB_BYTES);
}

/* ---- Bars ------------------------------------------------------------------------------------------------------------ */

struct part {
    uint64_t bytes;
    enum map_tone tone;
    char ascii;
};

/* The columns of each part, of n_columns for whole bytes. What is there gets one at least, if need be at the cost of the largest. */
static void share_columns(const struct part *parts, size_t n_parts, uint64_t whole, unsigned n_columns,
                          unsigned *columns)
{
    size_t largest = 0;
    uint64_t before = 0;
    unsigned given = 0, end = 0;
    for (size_t i = 0; i < n_parts; i++) {
        const unsigned begin = end;
        before += parts[i].bytes;
        end = whole == 0 ? 0 : (unsigned)((double)before / (double)whole * n_columns + 0.5);
        columns[i] = parts[i].bytes > 0 && end == begin ? 1 : end - begin;
        given += columns[i];
        largest = parts[i].bytes > parts[largest].bytes ? i : largest;
    }
    if (given > n_columns)
        columns[largest] -= given - n_columns;
}

/* Returns how many of the columns are left behind it. */
static unsigned put_bar(struct pen *pen, const struct part *parts, size_t n_parts, uint64_t whole, unsigned n_columns)
{
    unsigned columns[4], left = n_columns;
    share_columns(parts, n_parts, whole, n_columns, columns);
    for (size_t i = 0; i < n_parts; i++)
        for (; columns[i] > 0 && left > 0; columns[i]--, left--) {
            if (pen->how->colors == MAP_ASCII)
                fputc(parts[i].ascii, pen->out);
            else
                put_glyph(pen, tone(parts[i].tone), plain, FULL_BLOCK);
        }
    use_inks(pen, plain, plain);
    return left;
}

/* A bar that ends where the lines do, n_before columns from their beginning, but on a wide terminal earlier. */
static unsigned bar_columns(const struct pen *pen, unsigned n_before)
{
    return (pen->how->width < 100 ? pen->how->width : 100) - n_before;
}

/* ---- Head ------------------------------------------------------------------------------------------------------------ */

static void print_name(struct pen *pen, const struct map *map)
{
    const struct snapshot *s = map->snapshot;
    struct flow flow = {.pen = pen};
    char text[24]; /* of a name the system keeps 15 bytes */
    map_clean_name(s->name, pen->how->colors == MAP_ASCII, text, sizeof text);
    flow_item(&flow, plain, "%s, pid %d", text, (int)s->pid);
    map_clean_name(s->version, true, text, sizeof text);
    flow_item(&flow, plain, "hakmem %.15s", text);
    map_clean_name(s->profile, true, text, sizeof text);
    flow_item(&flow, plain, "profile %.15s", text);
    flow_end(&flow);
}

static void print_use(struct pen *pen, const struct map *map)
{
    struct flow flow = {.pen = pen};
    flow_bytes(&flow, tone(MAP_TONE_USED), "live", map->live_bytes);
    flow_bytes(&flow, tone(MAP_TONE_MAGAZINE), "cached", map->cached_bytes);
    flow_bytes(&flow, tone(MAP_TONE_FREE), "free in slabs", map->free_bytes);
    flow_bytes(&flow, tone(MAP_TONE_IDLE), "waiting", map->idle_bytes);
    flow_bytes(&flow, plain, "committed", map->committed_bytes);
    if (map->resident_bytes > 0)
        flow_bytes(&flow, plain, "resident", map->resident_bytes);
    flow_end(&flow);
}

static void print_bar_of_all(struct pen *pen, const struct map *map)
{
    const struct part parts[] = {{map->live_memory_bytes, MAP_TONE_USED, '#'},
                                 {map->cached_memory_bytes, MAP_TONE_MAGAZINE, 'm'},
                                 {map->free_bytes, MAP_TONE_FREE, '-'},
                                 {map->idle_bytes, MAP_TONE_IDLE, 'w'}};
    if (map->memory_bytes == 0)
        return;
    put_bar(pen, parts, 4, map->memory_bytes, bar_columns(pen, 0));
    end_line(pen);
}

static void print_counts(struct pen *pen, const struct map *map)
{
    struct flow flow = {.pen = pen};
    char text[MAP_TEXT_BYTES];
    flow_item(&flow, plain, "SuperSlabs: %zu HOT", map->rows_of_kind[MAP_HOT]);
    flow_item(&flow, tone(MAP_TONE_DRAINING), "%zu DRAINING", map->rows_of_kind[MAP_DRAINING]);
    flow_item(&flow, plain, "%zu FREE", map->rows_of_kind[MAP_FREE]);
    flow_item(&flow, plain, "%zu CACHED", map->rows_of_kind[MAP_CACHED]);
    flow_item(&flow, plain, "%llu in runs (%llu, %s)", (unsigned long long)map->run_superslabs,
              (unsigned long long)map->runs, map_bytes_text(map->run_bytes, text));
    flow_item(&flow, plain, "%llu spans (%s)", (unsigned long long)map->spans, map_bytes_text(map->span_bytes, text));
    if (map->rows_of_kind[MAP_MOVING] > 0)
        flow_item(&flow, plain, "%zu coming or going", map->rows_of_kind[MAP_MOVING]);
    if (map->snapshot->n_torn > 0)
        flow_item(&flow, tone(MAP_TONE_TORN), "%u records changed while they were read", map->snapshot->n_torn);
    flow_end(&flow);
}

/* ---- Rows ------------------------------------------------------------------------------------------------------------- */

/* What of a row fits, and how many rows fit side by side. */
struct layout {
    bool address, numbers;
    unsigned row_columns, n_across;
};

static struct layout lay_out(unsigned width)
{
    struct layout l = {.row_columns = TAG_COLUMNS + SUPERSLAB_SLABS, .n_across = 1};
    l.address = width >= l.row_columns + ADDRESS_COLUMNS;
    l.row_columns += l.address ? ADDRESS_COLUMNS : 0;
    l.numbers = width >= l.row_columns + NUMBERS_COLUMNS;
    l.row_columns += l.numbers ? NUMBERS_COLUMNS : 0;
    if (l.numbers)
        l.n_across = (width + GAP_COLUMNS) / (l.row_columns + GAP_COLUMNS);
    return l;
}

static const char *tag_of(enum map_row_kind kind)
{
    static const char *const tags[MAP_N_ROW_KINDS] = {"HOT", "DRAIN", "FREE", "CACHE", "RUN", "MOVE", "TORN"};
    return tags[kind];
}

static void put_tag(struct pen *pen, enum map_row_kind kind)
{
    const bool loud = kind == MAP_DRAINING || kind == MAP_ROW_TORN;
    if (loud)
        use_inks(pen, tone(MAP_TONE_GROUND), ink_of(map_row_color(MAP_DARK, kind)));
    fprintf(pen->out, "%-5s", tag_of(kind));
    use_inks(pen, plain, plain);
    fputc(' ', pen->out);
}

/* A run as one bar over the columns of the 32 cells, behind its length. */
static void put_run(struct pen *pen, const struct map_row *row)
{
    const struct part parts[] = {{row->used_bytes, MAP_TONE_RUN, 'R'}, {row->free_bytes, MAP_TONE_FREE, '-'}};
    char text[24];
    const int length = snprintf(text, sizeof text, "x %u ", row->n_superslabs);
    fputs(text, pen->out);
    const unsigned left =
        put_bar(pen, parts, 2, (uint64_t)row->n_superslabs * SUPERSLAB_BYTES, (unsigned)(SUPERSLAB_SLABS - length));
    fprintf(pen->out, "%*s", (int)left, "");
}

static void put_cells(struct pen *pen, const struct map *map, const struct map_row *row)
{
    struct map_cell cells[SUPERSLAB_SLABS];
    if (row->kind == MAP_RUN) {
        put_run(pen, row);
        return;
    }
    map_row_cells(map, row, cells);
    for (unsigned i = 0; i < SUPERSLAB_SLABS; i++)
        put_cell(pen, row->kind, &cells[i]);
    use_inks(pen, plain, plain);
}

/* At most 6 columns: "2.0M". */
static const char *short_bytes(uint64_t bytes, char out[MAP_TEXT_BYTES])
{
    char text[MAP_TEXT_BYTES];
    double value;
    char unit;
    map_bytes_text(bytes, text);
    if (sscanf(text, "%lf %c", &value, &unit) != 2)
        return strcpy(out, "?");
    snprintf(out, MAP_TEXT_BYTES, value < 9.95 && unit != 'B' ? "%.1f%c" : "%.0f%c", value, unit);
    return out;
}

static void put_numbers(struct pen *pen, const struct map_row *row)
{
    char memory[MAP_TEXT_BYTES], unused[MAP_TEXT_BYTES];
    const int full = map_row_fullness(row);
    fprintf(pen->out, " %6s %6s", short_bytes(row->memory_bytes, memory),
            short_bytes(row->free_bytes + row->idle_bytes, unused));
    if (full >= 0)
        fprintf(pen->out, " %4d%%", full);
    else
        fputs("     -", pen->out);
}

static void put_row(struct pen *pen, const struct map *map, const struct map_row *row, const struct layout *l)
{
    if (l->address)
        fprintf(pen->out, "%012llx ", (unsigned long long)row->ss->address);
    put_tag(pen, row->kind);
    put_cells(pen, map, row);
    if (l->numbers)
        put_numbers(pen, row);
}

static void print_row_heads(struct pen *pen, const struct layout *l, size_t n_rows)
{
    const unsigned n = n_rows < l->n_across ? (unsigned)n_rows : l->n_across;
    use_inks(pen, tone(MAP_TONE_MUTED), plain);
    for (unsigned i = 0; i < n; i++) {
        if (i > 0)
            fprintf(pen->out, "%*s", GAP_COLUMNS, "");
        if (l->address)
            fprintf(pen->out, "%-*s", ADDRESS_COLUMNS, "address");
        fprintf(pen->out, l->numbers ? "%-*s%-32s" : "%-*s%s", TAG_COLUMNS, "tier", "slabs, 64 KiB each");
        if (l->numbers)
            fputs(" memory unused  full", pen->out);
    }
    end_line(pen);
}

static int by_unused(const void *a, const void *b)
{
    const struct map_row *x = *(const struct map_row *const *)a, *y = *(const struct map_row *const *)b;
    const uint64_t x_bytes = x->free_bytes + x->idle_bytes, y_bytes = y->free_bytes + y->idle_bytes;
    if (x_bytes != y_bytes)
        return x_bytes > y_bytes ? -1 : 1;
    return x->ss->address < y->ss->address ? -1 : 1;
}

/* The rows, in the order in which they are shown. NULL: no memory. */
static const struct map_row **chosen_rows(const struct map *map, size_t limit)
{
    const struct map_row **rows = calloc(map->n_rows + 1, sizeof(struct map_row *));
    if (rows == NULL)
        return NULL;
    for (size_t i = 0; i < map->n_rows; i++)
        rows[i] = &map->rows[i];
    if (limit != 0 && limit < map->n_rows)
        qsort(rows, map->n_rows, sizeof(struct map_row *), by_unused);
    return rows;
}

static void say_what_is_shown(struct pen *pen, const struct map *map, size_t n_shown)
{
    struct flow flow = {.pen = pen};
    if (n_shown == map->n_rows)
        return;
    flow_item(&flow, plain, "%zu of %zu rows are shown", n_shown, map->n_rows);
    flow_item(&flow, plain, "the most unused memory first");
    flow_item(&flow, plain, "--all: all, by address");
    flow_end(&flow);
}

static void print_rows(struct pen *pen, const struct map *map)
{
    const struct layout l = lay_out(pen->how->width);
    const size_t limit = pen->how->limit, n = limit != 0 && limit < map->n_rows ? limit : map->n_rows;
    const struct map_row **rows = chosen_rows(map, limit);
    if (rows == NULL) {
        fputs("no memory to sort the SuperSlabs\n", pen->out);
        return;
    }
    say_what_is_shown(pen, map, n);
    if (n > 0)
        print_row_heads(pen, &l, n);
    else
        fputs("The heap has no SuperSlab.\n", pen->out);
    const size_t n_lines = (n + l.n_across - 1) / l.n_across;
    for (size_t line = 0; line < n_lines; line++) {
        for (size_t i = line; i < n; i += n_lines) {
            if (i != line)
                fprintf(pen->out, "%*s", GAP_COLUMNS, "");
            put_row(pen, map, rows[i], &l);
        }
        end_line(pen);
    }
    free(rows);
}

/* ---- Classes ------------------------------------------------------------------------------------------------------------ */

static void print_class(struct pen *pen, const struct map *map, unsigned id, uint64_t most_bytes)
{
    const struct map_class *class = &map->classes[id];
    const struct part parts[] = {{class->used_bytes, MAP_TONE_USED, '#'}, {class->free_bytes, MAP_TONE_FREE, '-'}};
    char name[MAP_TEXT_BYTES], memory[MAP_TEXT_BYTES], unused[MAP_TEXT_BYTES];
    if (pen->how->colors != MAP_ASCII)
        put_glyph(pen, ink_of(map_class_color(MAP_DARK, id)), plain, FULL_BLOCK);
    use_inks(pen, plain, plain);
    fprintf(pen->out, "%*s", pen->how->colors == MAP_ASCII ? 9 : 8, map_class_text(id, name));
    fprintf(pen->out, " %8llu %7s %7s", (unsigned long long)class->slabs, short_bytes(class->memory_bytes, memory),
            short_bytes(class->free_bytes, unused));
    if (pen->how->width >= 60) {
        fputs("  ", pen->out);
        put_bar(pen, parts, 2, most_bytes, bar_columns(pen, 36));
    }
    end_line(pen);
}

static void print_classes(struct pen *pen, const struct map *map)
{
    uint8_t order[CENSUS_CLASSES];
    const size_t n = map_classes_by_free(map, order), n_shown = n < N_CLASSES_SHOWN ? n : N_CLASSES_SHOWN;
    uint64_t most_bytes = 0;
    for (size_t i = 0; i < n_shown; i++)
        if (map->classes[order[i]].memory_bytes > most_bytes)
            most_bytes = map->classes[order[i]].memory_bytes;
    if (n_shown == 0)
        return;
    end_line(pen);
    use_inks(pen, tone(MAP_TONE_MUTED), plain);
    fprintf(pen->out, "%9s %8s %7s %7s", "class", "slabs", "memory", "unused");
    end_line(pen);
    for (size_t i = 0; i < n_shown; i++)
        print_class(pen, map, order[i], most_bytes);
    if (n > n_shown)
        fprintf(pen->out, "  and %zu more with less unused memory\n", n - n_shown);
}

/* ---- Legend -------------------------------------------------------------------------------------------------------------- */

static void put_swatches(struct pen *pen, struct map_color (*ramp)(enum map_theme, unsigned))
{
    for (unsigned step = 0; step < MAP_RAMP_STEPS; step++)
        put_glyph(pen, ink_of(ramp(MAP_DARK, step)), plain, FULL_BLOCK);
    use_inks(pen, plain, plain);
}

static void put_swatch(struct pen *pen, enum map_tone of, const char *what)
{
    put_glyph(pen, tone(of), plain, FULL_BLOCK);
    use_inks(pen, plain, plain);
    fprintf(pen->out, " %s   ", what);
}

static void print_color_key(struct pen *pen)
{
    if (pen->how->by == MAP_BY_OCCUPANCY) {
        fputs("no block used ", pen->out);
        put_swatches(pen, map_occupancy_ramp);
        fputs(" all", pen->out);
    } else if (pen->how->by == MAP_BY_TIER) {
        put_swatch(pen, MAP_TONE_HOT, "HOT");
        put_swatch(pen, MAP_TONE_DRAINING, "DRAINING");
        put_swatch(pen, MAP_TONE_RUN, "run");
    } else {
        fputs("8 B ", pen->out);
        put_swatches(pen, map_class_ramp);
        fputs(" 32 KiB   ", pen->out);
        put_swatch(pen, MAP_TONE_SPAN, "span");
    }
    end_line(pen);
}

static void print_legend(struct pen *pen)
{
    end_line(pen);
    if (pen->how->colors == MAP_ASCII) {
        fputs("0-9 tenths of blocks used  # all\n"
              "S span, s more of it       R run\n"
              "P packed spans\n"
              "w waits, in memory         . nothing\n"
              "- in memory, not used      ? torn\n",
              pen->out);
        return;
    }
    print_color_key(pen);
    if (pen->how->by != MAP_BY_OCCUPANCY)
        put_swatch(pen, MAP_TONE_FREE, "free in slabs");
    put_swatch(pen, MAP_TONE_IDLE, "waits");
    put_glyph(pen, tone(MAP_TONE_MUTED), plain, "\u00b7");
    use_inks(pen, plain, plain);
    fputs(" no memory", pen->out);
    end_line(pen);
}

void map_print_terminal(FILE *out, const struct map *map, const struct map_terminal *how)
{
    struct map_terminal settings = *how;
    if (settings.width < MIN_WIDTH)
        settings.width = MIN_WIDTH;
    struct pen pen = {.out = out, .how = &settings};
    print_name(&pen, map);
    print_use(&pen, map);
    print_bar_of_all(&pen, map);
    print_counts(&pen, map);
    end_line(&pen);
    print_rows(&pen, map);
    print_classes(&pen, map);
    print_legend(&pen);
}
