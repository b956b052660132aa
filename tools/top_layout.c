/* top_layout.c - the view of `hakmem top` in whatever size: a title, groups of figures, a table, a line of keys.
 * Owns       nothing.     Called by  top_screen.c     Calls  canvas.c, figures.c, units.c.     Threads  one.
 * I1  Nothing is drawn over something else: each part gets rows of its own, and a cell is cut to its column.
 * I2  The table comes first: groups give way until it has MIN_TABLE_ROWS, the last group first.
 */
#include "top.h"
#include "units.h"

#include <stdlib.h>
#include <string.h>

enum {
    MIN_TABLE_ROWS = 5,
    CAPTION_WIDTH = 12,
    CAPTIONS_FROM_WIDTH = 76, /* narrower terminals have no room for captions */
    ITEM_LABEL_WIDTH = 9,
    ITEM_VALUE_END = 15, /* a figure has at most 6 characters */
    ITEM_MIN_WIDTH = 16,
    ITEM_MAX_WIDTH = 24,
    FIXED_ROWS = 3, /* the title, the heading of the table, the keys */
    BAR_MIN_WIDTH = 8,
    BAR_MAX_WIDTH = 50
};

/* ---- Groups of figures --------------------------------------------------------------------------------------------- */

enum { MAX_ITEMS = 12, N_GROUPS = 4 };

struct item {
    const char *label; /* at most ITEM_LABEL_WIDTH */
    char value[UNITS_BYTES];
};

struct group {
    const char *caption;
    unsigned n;
    struct item items[MAX_ITEMS];
};

static struct item *add(struct group *group, const char *label)
{
    struct item *item = &group->items[group->n++];
    item->label = label;
    return item;
}

static void add_bytes(struct group *group, const char *label, uint64_t bytes)
{
    units_bytes(add(group, label)->value, bytes);
}

static void add_count(struct group *group, const char *label, uint64_t count)
{
    units_count(add(group, label)->value, count);
}

/* A dash until there are two samples. */
static void add_rate(struct group *group, const struct figures *f, const char *label, double per_second)
{
    struct item *item = add(group, label);
    if (f->rates.interval_s > 0)
        units_rate(item->value, per_second);
    else
        strcpy(item->value, "-");
}

static void fill_memory(struct group *group, const struct figures *f)
{
    const struct hak_stats *s = &f->snapshot->census.stats;
    group->caption = "memory";
    add_bytes(group, "live", s->live_bytes);
    add_bytes(group, "committed", s->committed_bytes);
    add_bytes(group, "resident", f->snapshot->resident_bytes);
    add_bytes(group, "cached", s->cached_bytes);
    add_count(group, "blocks", s->live_blocks);
    add_bytes(group, "peak", s->peak_committed_bytes);
    add_bytes(group, "returned", f->given_back_bytes);
    add_bytes(group, "waste", s->fragmentation_bytes);
}

static void fill_rates(struct group *group, const struct figures *f)
{
    const struct figures_rates *r = &f->rates;
    double slabs = 0;
    group->caption = "per second";
    for (unsigned i = 0; i < FIGURES_STAGES; i++)
        slabs += r->acquired[i];
    strcpy(add(group, "growth/s")->value, "-");
    if (r->interval_s > 0)
        units_growth(group->items[0].value, r->live_bytes);
    add_rate(group, f, "refills/s", r->refills);
    add_rate(group, f, "flushes/s", r->flushes);
    strcpy(add(group, "purged/s")->value, "-");
    if (r->interval_s > 0)
        units_bytes(group->items[3].value, r->purged_bytes < 1e19 ? (uint64_t)r->purged_bytes : UINT64_MAX);
    add_rate(group, f, "locks/s", r->lock_acquisitions);
    add_rate(group, f, "waits/s", r->lock_contended);
    add_rate(group, f, "slabs/s", slabs);
    add_rate(group, f, "emptied/s", r->slabs_released);
}

static void fill_stages(struct group *group, const struct figures *f)
{
    static const char *const labels[FIGURES_STAGES] = {"list/s", "slot/s", "reopen/s", "LRU/s", "system/s"};
    group->caption = "slabs from";
    for (unsigned i = 0; i < FIGURES_STAGES; i++)
        add_rate(group, f, labels[i], f->rates.acquired[i]);
}

static void fill_superslabs(struct group *group, const struct figures *f)
{
    const struct hak_stats *s = &f->snapshot->census.stats;
    group->caption = "SuperSlabs";
    add_count(group, "hot", s->superslabs_hot);
    add_count(group, "draining", s->superslabs_draining);
    add_count(group, "in LRU", s->superslabs_cached);
    add_count(group, "threads", s->threads);
    add_count(group, "slots", s->slots_active);
    add_count(group, "empty", s->slots_empty);
    add_count(group, "unused", s->slots_unused);
    add_count(group, "torn", f->snapshot->n_torn);
}

/* How the items lie: from which column on, how many in a row, how far apart. */
struct grid {
    int begin, per_row, width;
};

/* From four on a multiple of four, so that groups have full rows. */
static struct grid make_grid(int width)
{
    struct grid grid = {.begin = width >= CAPTIONS_FROM_WIDTH ? CAPTION_WIDTH : 0};
    const int room = width - grid.begin;
    grid.per_row = room < ITEM_MIN_WIDTH ? 1 : room / ITEM_MIN_WIDTH;
    if (grid.per_row > 4)
        grid.per_row -= grid.per_row % 4;
    grid.width = room / grid.per_row < ITEM_MAX_WIDTH ? room / grid.per_row : ITEM_MAX_WIDTH;
    return grid;
}

static void draw_item(struct canvas *canvas, int row, int column, const struct item *item)
{
    canvas_text(canvas, row, column, CANVAS_LABEL, item->label);
    canvas_text_left_of(canvas, row, column + ITEM_VALUE_END, CANVAS_VALUE, item->value);
}

/* Draws as many rows of the group as there is room for. Returns the row behind. */
static int draw_group(struct canvas *canvas, int row, int end, const struct group *group)
{
    const struct grid grid = make_grid(canvas->width);
    if (grid.begin > 0)
        canvas_text(canvas, row, 0, CANVAS_PLAIN, group->caption);
    for (unsigned i = 0; i < group->n; i++) {
        const int at = row + (int)i / grid.per_row;
        if (at < end)
            draw_item(canvas, at, grid.begin + (int)i % grid.per_row * grid.width, &group->items[i]);
    }
    const int behind = row + ((int)group->n + grid.per_row - 1) / grid.per_row;
    return behind < end ? behind : end;
}

/* A column for each tenth, as high as the share of SuperSlabs that are so full; none for none. */
static int draw_tenths(struct canvas *canvas, int row, int column, const uint64_t *by_fullness)
{
    static const char *const glyphs[2][9] = {{".", "1", "2", "3", "4", "5", "6", "7", "8"},
                                             {"·", "▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"}};
    double most = 0;
    for (unsigned i = 0; i < HAK_STATS_TENTHS; i++)
        most = (double)by_fullness[i] > most ? (double)by_fullness[i] : most;
    for (unsigned i = 0; i < HAK_STATS_TENTHS; i++)
        column = canvas_text(canvas, row, column, CANVAS_VALUE,
                             glyphs[canvas->unicode][figures_share((double)by_fullness[i], most, 8)]);
    return column;
}

/* One row: from the emptiest to the fullest SuperSlabs of each tier. Returns the row behind. */
static int draw_fullness(struct canvas *canvas, int row, int end, const struct figures *f)
{
    const struct hak_stats *s = &f->snapshot->census.stats;
    const struct grid grid = make_grid(canvas->width);
    if (row >= end)
        return row;
    if (grid.begin > 0)
        canvas_text(canvas, row, 0, CANVAS_PLAIN, "fullness");
    int at = canvas_text(canvas, row, grid.begin, CANVAS_LABEL, "hot 0% ");
    at = draw_tenths(canvas, row, at, s->hot_by_fullness);
    at = canvas_text(canvas, row, at, CANVAS_LABEL, " 100%  draining 0% ");
    at = draw_tenths(canvas, row, at, s->draining_by_fullness);
    canvas_text(canvas, row, at, CANVAS_LABEL, " 100%");
    return row + 1;
}

/* Returns the row behind the groups. A group is left out rather than cut, but for the first one that does not fit. */
static int draw_groups(struct canvas *canvas, int row, const struct figures *f)
{
    static void (*const fillers[N_GROUPS])(struct group *, const struct figures *) = {fill_memory, fill_rates,
                                                                                      fill_superslabs, fill_stages};
    const int end = row + canvas->height - FIXED_ROWS - MIN_TABLE_ROWS;
    for (unsigned i = 0; i < N_GROUPS && row < end; i++) {
        struct group group = {0};
        fillers[i](&group, f);
        row = draw_group(canvas, row, end, &group);
    }
    return draw_fullness(canvas, row, end, f);
}

/* ---- Tables ------------------------------------------------------------------------------------------------------ */

/* A column: its heading, the columns of the terminal that it takes, and from which width of the terminal on it is shown. */
struct column {
    const char *heading;
    int width;
    bool to_the_left;
    int from_width;
};

/* The widths up to `from_width` make just that: a column is shown as soon as it has room beside those that come first. */
static const struct column class_columns[CLASS_COLUMNS] = {
    [CLASS_COLUMN_BLOCK] = {"BLOCK", 6, false, 0},    [CLASS_COLUMN_SLABS] = {"SLABS", 7, false, 35},
    [CLASS_COLUMN_LIVE] = {"LIVE", 7, false, 13},     [CLASS_COLUMN_CACHED] = {"CACHED", 8, false, 56},
    [CLASS_COLUMN_FREE] = {"FREE", 7, false, 48},     [CLASS_COLUMN_OCCUPANCY] = {"USED", 6, false, 41},
    [CLASS_COLUMN_MEMORY] = {"MEMORY", 8, false, 21}, [CLASS_COLUMN_WASTE] = {"WASTE", 7, false, 28},
    [CLASS_COLUMN_GROWTH] = {"GROW/S", 8, false, 64},
};

static const struct column thread_columns[THREAD_COLUMNS] = {
    [THREAD_COLUMN_ID] = {"TID", 8, false, 0},           [THREAD_COLUMN_NAME] = {"NAME", 16, true, 58},
    [THREAD_COLUMN_CACHED] = {"CACHED", 8, false, 16},   [THREAD_COLUMN_REFILLS] = {"REFILL/S", 10, false, 26},
    [THREAD_COLUMN_FLUSHES] = {"FLUSH/S", 9, false, 35}, [THREAD_COLUMN_SLABS] = {"SLABS", 7, false, 42},
};

static void draw_cell(struct canvas *canvas, int row, int column, const struct column *c, enum canvas_style style,
                      const char *text)
{
    if (c->to_the_left)
        canvas_text(canvas, row, column + 1, style, text);
    else
        canvas_text_left_of(canvas, row, column + c->width, style, text);
}

static bool is_shown(const struct column *c, int width)
{
    return width >= c->from_width;
}

/* Draws the headings over the whole row. Returns the column behind the last one. */
static int draw_headings(struct canvas *canvas, int row, const struct column *columns, int n, int sorted,
                         bool ascending)
{
    int at = 0;
    canvas_paint(canvas, row, 0, canvas->width, CANVAS_HEADING);
    for (int i = 0; i < n; i++) {
        char heading[24];
        if (!is_shown(&columns[i], canvas->width))
            continue;
        const char *arrow = canvas->unicode ? (ascending ? "▲" : "▼") : (ascending ? "^" : "v");
        snprintf(heading, sizeof heading, "%s%s", columns[i].heading, i == sorted ? arrow : "");
        draw_cell(canvas, row, at, &columns[i], i == sorted ? CANVAS_SORTED : CANVAS_HEADING, heading);
        at += columns[i].width;
    }
    return at;
}

/* ---- Classes ----------------------------------------------------------------------------------------------------- */

static void write_class_cell(char *text, size_t size_bytes, const struct figures_class *c, int column, bool with_rates)
{
    char unit[UNITS_BYTES] = "-";
    switch (column) {
    case CLASS_COLUMN_BLOCK:
        snprintf(text, size_bytes, "%s", c->label);
        return;
    case CLASS_COLUMN_OCCUPANCY:
        if (c->block_bytes != 0 && figures_room(c) > 0)
            snprintf(unit, sizeof unit, "%.0f%%", 100 * figures_taken(c) / figures_room(c));
        break;
    case CLASS_COLUMN_SLABS:
        units_count(unit, c->slabs);
        break;
    case CLASS_COLUMN_LIVE:
        units_count(unit, c->live_blocks);
        break;
    case CLASS_COLUMN_CACHED:
        units_count(unit, c->cached_blocks);
        break;
    case CLASS_COLUMN_FREE:
        units_count(unit, c->free_blocks);
        break;
    case CLASS_COLUMN_MEMORY:
        units_bytes(unit, c->memory_bytes);
        break;
    case CLASS_COLUMN_GROWTH:
        if (with_rates)
            units_growth(unit, c->growth);
        break;
    default:
        units_bytes(unit, c->waste_bytes);
        break;
    }
    snprintf(text, size_bytes, "%s", unit);
}

/* Live, cached and free blocks as parts of a bar. */
static void draw_bar(struct canvas *canvas, int row, int column, int width, const struct figures_class *c)
{
    static const char *const glyphs[2][3] = {{"#", "+", "."}, {"█", "▒", "·"}};
    const unsigned scale = (unsigned)width;
    const unsigned live = figures_share(figures_taken(c), figures_room(c), scale);
    unsigned cached = figures_share((double)c->cached_blocks, figures_room(c), scale);
    if (live + cached > scale)
        cached = scale - live;
    for (unsigned i = 0; i < scale; i++) {
        const int part = i < live ? 0 : i < live + cached ? 1 : 2;
        static const enum canvas_style styles[3] = {CANVAS_LIVE, CANVAS_CACHED, CANVAS_FREE};
        canvas_text(canvas, row, column + (int)i, styles[part], glyphs[canvas->unicode][part]);
    }
}

static void draw_class(struct canvas *canvas, int row, const struct figures_class *c, int bar_column, int bar_width,
                       bool with_rates)
{
    int at = 0;
    for (int i = 0; i < CLASS_COLUMNS; i++) {
        char text[32];
        if (!is_shown(&class_columns[i], canvas->width))
            continue;
        write_class_cell(text, sizeof text, c, i, with_rates);
        draw_cell(canvas, row, at, &class_columns[i], CANVAS_PLAIN, text);
        at += class_columns[i].width;
    }
    if (bar_width >= BAR_MIN_WIDTH && c->block_bytes != 0)
        draw_bar(canvas, row, bar_column, bar_width, c);
}

/* ---- Threads ------------------------------------------------------------------------------------------------------ */

static void write_thread_cell(char *text, size_t size_bytes, const struct figures_thread *t, int column,
                              bool with_rates)
{
    char unit[UNITS_BYTES] = "-";
    switch (column) {
    case THREAD_COLUMN_ID:
        snprintf(text, size_bytes, "%d", (int)t->thread_id);
        return;
    case THREAD_COLUMN_NAME:
        units_name(text, size_bytes, t->name[0] == '\0' ? "-" : t->name);
        return;
    case THREAD_COLUMN_CACHED:
        units_bytes(unit, t->cached_bytes);
        break;
    case THREAD_COLUMN_SLABS:
        units_count(unit, t->owned_slabs);
        break;
    default:
        if (with_rates)
            units_rate(unit, column == THREAD_COLUMN_REFILLS ? t->refills_per_s : t->flushes_per_s);
        break;
    }
    snprintf(text, size_bytes, "%s", unit);
}

static void draw_thread(struct canvas *canvas, int row, const struct figures_thread *t, bool with_rates)
{
    int at = 0;
    for (int i = 0; i < THREAD_COLUMNS; i++) {
        char text[64];
        if (!is_shown(&thread_columns[i], canvas->width))
            continue;
        write_thread_cell(text, sizeof text, t, i, with_rates);
        draw_cell(canvas, row, at, &thread_columns[i], CANVAS_PLAIN, text);
        at += thread_columns[i].width;
    }
}

/* ---- The whole ----------------------------------------------------------------------------------------------------- */

static void draw_title(struct canvas *canvas, const struct figures *f, const struct top_view *view)
{
    char name[3 * sizeof f->snapshot->name], text[256];
    canvas_paint(canvas, 0, 0, canvas->width, CANVAS_TITLE);
    snprintf(text, sizeof text, "%s %d", units_name(name, sizeof name, f->snapshot->name), (int)f->snapshot->pid);
    int at = canvas_text(canvas, 0, 0, CANVAS_TITLE, text);
    snprintf(text, sizeof text, view->paused ? "  paused" : "  every %g s", view->every_s);
    const int right = canvas->width - (int)strlen(text);
    if (right > at)
        canvas_text(canvas, 0, right, view->paused ? CANVAS_WARNING : CANVAS_TITLE, text);
    snprintf(text, sizeof text, "  hakmem %s, %s", f->snapshot->version, f->snapshot->profile);
    if (at + (int)strlen(text) <= right)
        canvas_text(canvas, 0, at, CANVAS_TITLE, text);
}

/* The longest form that fits, and which rows are shown if there is room for that, too. */
static void draw_keys(struct canvas *canvas, const struct top_view *view, size_t n_rows, size_t n_visible)
{
    static const char *const forms[] = {"q quit  h help  t table  s S sort  r reverse  p pause",
                                        "q quit  h help  t table  s sort  r turn  p pause", "q quit  h help"};
    const int row = canvas->height - 1;
    if (view->message != NULL) {
        canvas_text(canvas, row, 0, CANVAS_WARNING, view->message);
        return;
    }
    unsigned i = 0;
    while (i < 2 && (int)strlen(forms[i]) > canvas->width)
        i++;
    const int end = canvas_text(canvas, row, 0, CANVAS_LABEL, forms[i]);
    char rows[64];
    const size_t behind = view->scroll + n_visible < n_rows ? view->scroll + n_visible : n_rows;
    snprintf(rows, sizeof rows, "%zu-%zu of %zu", n_rows == 0 ? 0 : view->scroll + 1, behind, n_rows);
    if (end + 2 + (int)strlen(rows) <= canvas->width)
        canvas_text_left_of(canvas, row, canvas->width, CANVAS_LABEL, rows);
}

static void clamp_scroll(struct top_view *view, size_t n_rows, size_t n_visible)
{
    const size_t last = n_rows > n_visible ? n_rows - n_visible : 0;
    if (view->scroll > last)
        view->scroll = last;
}

static void draw_classes(struct canvas *canvas, int row, size_t n_visible, struct figures *f, struct top_view *view)
{
    figures_sort_classes(f, view->class_column, !view->class_ascending);
    const int behind =
        draw_headings(canvas, row, class_columns, CLASS_COLUMNS, (int)view->class_column, view->class_ascending) + 2;
    const int rest = canvas->width - behind;
    const int bar_width = rest < BAR_MAX_WIDTH ? rest : BAR_MAX_WIDTH;
    if (bar_width >= 22)
        canvas_text(canvas, row, behind, CANVAS_HEADING,
                    canvas->unicode ? "█ live ▒ cached · free" : "# live + cached . free");
    else if (bar_width >= 13)
        canvas_text(canvas, row, behind, CANVAS_HEADING, canvas->unicode ? "█ live · free" : "# live . free");
    clamp_scroll(view, f->n_classes, n_visible);
    for (size_t i = 0; i < n_visible && view->scroll + i < f->n_classes; i++)
        draw_class(canvas, row + 1 + (int)i, &f->classes[view->scroll + i], behind, bar_width, f->rates.interval_s > 0);
}

static void draw_threads(struct canvas *canvas, int row, size_t n_visible, struct figures *f, struct top_view *view)
{
    figures_sort_threads(f, view->thread_column, !view->thread_ascending);
    draw_headings(canvas, row, thread_columns, THREAD_COLUMNS, (int)view->thread_column, view->thread_ascending);
    clamp_scroll(view, f->n_threads, n_visible);
    for (size_t i = 0; i < n_visible && view->scroll + i < f->n_threads; i++)
        draw_thread(canvas, row + 1 + (int)i, &f->threads[view->scroll + i], f->rates.interval_s > 0);
}

/* The keys and the words that need it, in the 15 rows of 48 columns that even small terminals have. */
static void draw_help(struct canvas *canvas)
{
    static const char *const lines[] = {
        "q quit    p pause, go on    t classes, threads",   "s S sort by next, previous column   r reverse",
        "arrows, pages, Home, End scroll    any key: back", "",
        "live       in blocks that the program holds",      "cached     free, in the caches of threads",
        "committed  handed out, and not returned since",    "returned   to the system, since the start",
        "resident   the whole process, says the system",    "waste      committed, neither live nor cached",
        "waits/s    lock acquisitions that had to wait",    "fullness   SuperSlabs by tenths of blocks out",
        "MEMORY     pages that may be in memory",           "WASTE      of these, neither live nor cached",
        "GROW/S     change of live bytes per second",
    };
    for (int i = 0; i < (int)(sizeof lines / sizeof lines[0]); i++)
        canvas_text(canvas, i + 1, 0, CANVAS_PLAIN, lines[i]);
}

size_t top_draw(struct canvas *canvas, struct figures *figures, struct top_view *view)
{
    draw_title(canvas, figures, view);
    if (view->help) {
        draw_help(canvas);
        return 0;
    }
    const int row = draw_groups(canvas, 1, figures);
    const int room = canvas->height - 1 - (row + 1);
    const size_t n_visible = room > 0 ? (size_t)room : 0;
    if (view->threads)
        draw_threads(canvas, row, n_visible, figures, view);
    else
        draw_classes(canvas, row, n_visible, figures, view);
    draw_keys(canvas, view, view->threads ? figures->n_threads : figures->n_classes, n_visible);
    return n_visible;
}
