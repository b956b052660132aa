/* top_text.c - `hakmem top --once`: the figures as text for people and for scripts.
 * Owns       the names of lines and columns: they are an interface, new ones come behind the old.
 * Called by  top.c     Calls  figures.h, units.c.     Threads  one.
 * I1  Each line is fields separated by blanks; only the last may have blanks itself. So awk '$1 == "live_bytes" { print $2 }' works.
 * I2  A column is as wide as its widest field: whatever the numbers, columns are aligned.
 */
#include "top.h"
#include "units.h"

#include "tool.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

/* ---- Tables ------------------------------------------------------------------------------------------------------ */

enum { MAX_COLUMNS = 10, CELL_BYTES = 64 };

typedef char table_row[MAX_COLUMNS][CELL_BYTES];

/* Cells by row; the first row is the heading. */
struct table {
    unsigned n_columns;
    size_t n_rows, room;
    table_row *rows;
};

static table_row *add_row(struct table *table)
{
    if (table->n_rows == table->room) {
        table->room = table->room == 0 ? 64 : 2 * table->room;
        table->rows = tool_reallocate(table->rows, table->room, sizeof *table->rows);
    }
    table_row *row = &table->rows[table->n_rows++];
    memset(row, 0, sizeof *row);
    return row;
}

static void table_begin(struct table *table, unsigned n_columns, const char *const *headings)
{
    *table = (struct table){.n_columns = n_columns};
    table_row *row = add_row(table);
    for (unsigned i = 0; i < n_columns; i++)
        snprintf((*row)[i], CELL_BYTES, "%s", headings[i]);
}

__attribute__((format(printf, 3, 4))) static void fill(table_row *row, unsigned column, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vsnprintf((*row)[column], CELL_BYTES, format, arguments);
    va_end(arguments);
}

static int width_of(const struct table *table, unsigned column)
{
    size_t width = 0;
    for (size_t i = 0; i < table->n_rows; i++)
        if (strlen(table->rows[i][column]) > width)
            width = strlen(table->rows[i][column]);
    return (int)width;
}

/* The first column is aligned to the left, the others to the right; a last one of names to the left again. */
static void table_end(FILE *out, struct table *table, bool names_last)
{
    int width[MAX_COLUMNS];
    for (unsigned j = 0; j < table->n_columns; j++)
        width[j] = width_of(table, j);
    for (size_t i = 0; i < table->n_rows; i++) {
        fprintf(out, "%-*s", width[0], table->rows[i][0]);
        for (unsigned j = 1; j < table->n_columns; j++) {
            const bool to_the_left = names_last && j + 1 == table->n_columns;
            fprintf(out, "  %*s", to_the_left ? 0 : width[j], table->rows[i][j]);
        }
        fputc('\n', out);
    }
    free(table->rows);
}

/* ---- What is in them --------------------------------------------------------------------------------------------- */

static void add_figure(struct table *table, const char *name, uint64_t value)
{
    table_row *row = add_row(table);
    fill(row, 0, "%s", name);
    fill(row, 1, "%" PRIu64, value);
    fill(row, 2, "-");
}

static void add_rated(struct table *table, const struct figures *f, const char *name, uint64_t value, double per_second)
{
    add_figure(table, name, value);
    if (f->rates.interval_s > 0)
        fill(&table->rows[table->n_rows - 1], 2, "%.1f", per_second);
}

static void add_memory(struct table *t, const struct figures *f)
{
    const struct hak_stats *s = &f->snapshot->census.stats;
    add_rated(t, f, "live_bytes", s->live_bytes, f->rates.live_bytes);
    add_figure(t, "live_blocks", s->live_blocks);
    add_figure(t, "cached_bytes", s->cached_bytes);
    add_figure(t, "cached_blocks", s->cached_blocks);
    add_rated(t, f, "committed_bytes", s->committed_bytes, f->rates.committed_bytes);
    add_figure(t, "peak_committed_bytes", s->peak_committed_bytes);
    add_figure(t, "fragmentation_bytes", s->fragmentation_bytes);
    add_figure(t, "empty_bytes", s->empty_bytes);
    add_figure(t, "process_resident_bytes", f->snapshot->resident_bytes);
    add_figure(t, "metadata_bytes", s->metadata_bytes);
    add_rated(t, f, "given_back_bytes", f->given_back_bytes, f->rates.given_back_bytes);
    add_rated(t, f, "purged_bytes", s->purged_bytes, f->rates.purged_bytes);
}

static void add_events(struct table *t, const struct figures *f)
{
    const struct hak_stats *s = &f->snapshot->census.stats;
    const uint64_t acquired[FIGURES_STAGES] = {s->stage_class_list, s->stage_slot, s->stage_reopen, s->stage_lru,
                                               s->stage_os};
    add_rated(t, f, "refills", s->refills, f->rates.refills);
    add_rated(t, f, "flushes", s->flushes, f->rates.flushes);
    for (unsigned i = 0; i < FIGURES_STAGES; i++) {
        char name[32];
        snprintf(name, sizeof name, "acquired_%s", figures_stage_names[i]);
        add_rated(t, f, name, acquired[i], f->rates.acquired[i]);
    }
    add_rated(t, f, "slabs_released", s->slabs_released, f->rates.slabs_released);
    add_rated(t, f, "lock_acquisitions", f->lock_acquisitions, f->rates.lock_acquisitions);
    add_rated(t, f, "lock_contended", s->lock_contended, f->rates.lock_contended);
}

/* Only tenths that have any: most have none. */
static void add_fullness(struct table *t, const char *tier, const uint64_t *by_fullness)
{
    for (unsigned i = 0; i < HAK_STATS_TENTHS; i++) {
        char name[48];
        snprintf(name, sizeof name, "%s_%u%%_full", tier, 100 * (i + 1) / HAK_STATS_TENTHS);
        if (by_fullness[i] != 0)
            add_figure(t, name, by_fullness[i]);
    }
}

static void add_superslabs(struct table *t, const struct figures *f)
{
    const struct hak_stats *s = &f->snapshot->census.stats;
    add_figure(t, "superslabs_hot", s->superslabs_hot);
    add_figure(t, "superslabs_draining", s->superslabs_draining);
    add_figure(t, "superslabs_cached", s->superslabs_cached);
    add_fullness(t, "superslabs_hot", s->hot_by_fullness);
    add_fullness(t, "superslabs_draining", s->draining_by_fullness);
    add_figure(t, "slots_active", s->slots_active);
    add_figure(t, "slots_empty", s->slots_empty);
    add_figure(t, "slots_unused", s->slots_unused);
    add_figure(t, "threads", s->threads);
    add_figure(t, "torn_records", f->snapshot->n_torn);
    add_figure(t, "gap_slabs", s->gap_slabs);
    add_figure(t, "gap_blocks_total", s->gap_blocks_total);
}

static void print_head(FILE *out, const struct figures *f)
{
    char name[3 * sizeof f->snapshot->name];
    fprintf(out, "process %d %s\n", (int)f->snapshot->pid, units_name(name, sizeof name, f->snapshot->name));
    fprintf(out, "library %s profile %s\n", f->snapshot->version, f->snapshot->profile);
    if (f->rates.interval_s > 0)
        fprintf(out, "interval_s %.3f\n", f->rates.interval_s);
}

static void print_figures(FILE *out, const struct figures *f)
{
    static const char *const headings[] = {"figure", "now", "per_second"};
    struct table table;
    table_begin(&table, 3, headings);
    add_memory(&table, f);
    add_events(&table, f);
    add_superslabs(&table, f);
    table_end(out, &table, false);
}

/* Blocks out of those that the class's slabs have room for, in per cent; a dash where a class has no room to fill. */
static void fill_occupancy(table_row *row, unsigned column, const struct figures_class *c)
{
    const double room = figures_room(c);
    if (room > 0 && c->block_bytes != 0)
        fill(row, column, "%.1f", 100 * figures_taken(c) / room);
    else
        fill(row, column, "-");
}

static void fill_rate(table_row *row, unsigned column, const struct figures *f, double per_second)
{
    if (f->rates.interval_s > 0)
        fill(row, column, "%.1f", per_second);
    else
        fill(row, column, "-");
}

static void print_classes(FILE *out, const struct figures *f)
{
    static const char *const headings[] = {"class",  "slabs",      "live",        "cached",      "free",
                                           "used_%", "live_bytes", "dirty_bytes", "waste_bytes", "growth/s"};
    struct table table;
    table_begin(&table, 10, headings);
    for (size_t i = 0; i < f->n_classes; i++) {
        const struct figures_class *c = &f->classes[i];
        const uint64_t numbers[] = {c->slabs, c->live_blocks, c->cached_blocks, c->free_blocks};
        const uint64_t sizes[] = {c->live_bytes, c->memory_bytes, c->waste_bytes};
        table_row *row = add_row(&table);
        fill(row, 0, "%s", c->label);
        for (unsigned j = 0; j < 4; j++)
            fill(row, 1 + j, "%" PRIu64, numbers[j]);
        fill_occupancy(row, 5, c);
        for (unsigned j = 0; j < 3; j++)
            fill(row, 6 + j, "%" PRIu64, sizes[j]);
        fill_rate(row, 9, f, c->growth);
    }
    table_end(out, &table, false);
}

static void print_threads(FILE *out, const struct figures *f)
{
    static const char *const headings[] = {"thread",  "cached_bytes", "cached", "refills", "refills/s",
                                           "flushes", "flushes/s",    "slabs",  "name"};
    struct table table;
    table_begin(&table, 9, headings);
    for (size_t i = 0; i < f->n_threads; i++) {
        const struct figures_thread *t = &f->threads[i];
        char name[3 * sizeof t->name];
        table_row *row = add_row(&table);
        fill(row, 0, "%d", (int)t->thread_id);
        fill(row, 1, "%" PRIu64, t->cached_bytes);
        fill(row, 2, "%" PRIu64, t->cached_blocks);
        fill(row, 3, "%" PRIu64, t->refills);
        fill_rate(row, 4, f, t->refills_per_s);
        fill(row, 5, "%" PRIu64, t->flushes);
        fill_rate(row, 6, f, t->flushes_per_s);
        fill(row, 7, "%" PRIu64, t->owned_slabs);
        fill(row, 8, "%s", t->name[0] == '\0' ? "-" : units_name(name, sizeof name, t->name));
    }
    table_end(out, &table, true);
}

void top_print_text(FILE *out, const struct figures *figures)
{
    print_head(out, figures);
    fputc('\n', out);
    print_figures(out, figures);
    fputc('\n', out);
    print_classes(out, figures);
    fputc('\n', out);
    print_threads(out, figures);
}
