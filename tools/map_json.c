/* map_json.c - a heap's map as JSON, for programs.
 * Owns       nothing.
 * Called by  map.c, tests.     Calls  jansson, map_model.c.     Threads  one.
 * I1  One object is one line, so that several samples can be read line by line.
 * Why row by row and not as one tree: a heap of ten thousand SuperSlabs would need some hundred MiB for it. */
#include "map_output.h"

#include <ctype.h>
#include <inttypes.h>
#include <jansson.h>

enum { FORM = JSON_COMPACT };

static json_t *number(uint64_t value)
{
    return json_integer((json_int_t)value);
}

static json_t *lower_case(const char *text)
{
    char lower[16];
    size_t n = 0;
    for (; text[n] != '\0' && n < sizeof lower - 1; n++)
        lower[n] = (char)tolower((unsigned char)text[n]);
    return json_stringn(lower, n);
}

static json_t *totals(const struct map *map)
{
    return json_pack("{s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o}",
                     "live_bytes", number(map->live_bytes), "cached_bytes", number(map->cached_bytes),
                     "live_memory_bytes", number(map->live_memory_bytes), "cached_memory_bytes",
                     number(map->cached_memory_bytes), "committed_bytes", number(map->committed_bytes),
                     "resident_bytes", number(map->resident_bytes), "memory_bytes", number(map->memory_bytes),
                     "used_bytes", number(map->used_bytes), "free_bytes", number(map->free_bytes), "idle_bytes",
                     number(map->idle_bytes), "superslabs_hot", number(map->rows_of_kind[MAP_HOT]),
                     "superslabs_draining", number(map->rows_of_kind[MAP_DRAINING]), "superslabs_free",
                     number(map->rows_of_kind[MAP_FREE]), "superslabs_cached", number(map->rows_of_kind[MAP_CACHED]),
                     "runs", number(map->runs), "run_superslabs", number(map->run_superslabs), "run_bytes",
                     number(map->run_bytes), "spans", number(map->spans), "span_bytes", number(map->span_bytes));
}

static json_t *classes(const struct map *map)
{
    json_t *all = json_array();
    for (unsigned id = CLASS_FIRST; id < CENSUS_CLASSES; id++) {
        const struct map_class *class = &map->classes[id];
        char name[MAP_TEXT_BYTES];
        if (class->slabs == 0)
            continue;
        json_t *one = json_pack("{s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "slabs", number(class->slabs), "used_blocks",
                                number(class->used_blocks), "room_blocks", number(class->room_blocks), "cached_blocks",
                                number(class->cached_blocks), "memory_bytes", number(class->memory_bytes), "used_bytes",
                                number(class->used_bytes), "free_bytes", number(class->free_bytes));
        if (id < CLASS_END)
            json_object_set_new(one, "block_bytes", number(class_table[id].bytes));
        else
            json_object_set_new(one, "kind", json_string(map_class_text(id, name)));
        json_array_append_new(all, one);
    }
    return all;
}

static json_t *head(const struct map *map)
{
    const struct snapshot *s = map->snapshot;
    char name[sizeof s->name], version[sizeof s->version], profile[sizeof s->profile];
    map_clean_name(s->name, false, name, sizeof name);
    map_clean_name(s->version, true, version, sizeof version);
    map_clean_name(s->profile, true, profile, sizeof profile);
    return json_pack("{s:i, s:i, s:s, s:s, s:s, s:o, s:o, s:o, s:o, s:o}", "version", 1, "pid", (int)s->pid, "name",
                     name, "library", version, "profile", profile, "time_ns", number(s->time_ns), "page_bytes",
                     number(s->slab_page_bytes), "torn_records", number(s->n_torn), "totals", totals(map), "classes",
                     classes(map));
}

static json_t *cell_object(const struct map_cell *cell, unsigned slot)
{
    json_t *one =
        json_pack("{s:i, s:s, s:i, s:i, s:i}", "slot", (int)slot, "state",
                  cell->kind == MAP_TORN ? "torn" : map_slab_state_name(cell->state), "pages", (int)cell->dirty_pages,
                  "used_bytes", (int)cell->used_bytes, "free_bytes", (int)cell->free_bytes);
    if (cell->kind == MAP_SLAB) {
        json_object_set_new(one, "block_bytes", number(class_table[cell->class_id].bytes));
        json_object_set_new(one, "used", number(cell->used));
        json_object_set_new(one, "room", number(cell->room));
    } else if (cell->kind == MAP_SPAN) {
        json_object_set_new(one, "span_bytes", number(cell->span_bytes));
        json_object_set_new(one, "span_slabs", number(cell->span_slabs));
        json_object_set_new(one, "span_distance", number(cell->span_distance));
        json_object_set_new(one, "spans", number(cell->n_spans));
    }
    return one;
}

/* All cells but those in which nothing is. */
static json_t *slots(const struct map *map, const struct map_row *row)
{
    struct map_cell cells[SUPERSLAB_SLABS];
    json_t *all = json_array();
    map_row_cells(map, row, cells);
    for (unsigned i = 0; i < SUPERSLAB_SLABS; i++)
        if (cells[i].kind != MAP_NOTHING)
            json_array_append_new(all, cell_object(&cells[i], i));
    return all;
}

static json_t *row_object(const struct map *map, const struct map_row *row)
{
    char address[24];
    snprintf(address, sizeof address, "0x%" PRIx64, row->ss->address);
    json_t *one = json_pack("{s:s, s:o, s:i, s:o, s:o, s:o, s:o}", "address", address, "kind",
                            lower_case(map_row_kind_name(row->kind)), "arena", (int)row->ss->arena, "memory_bytes",
                            number(row->memory_bytes), "used_bytes", number(row->used_bytes), "free_bytes",
                            number(row->free_bytes), "idle_bytes", number(row->idle_bytes));
    if (row->kind == MAP_RUN) {
        json_object_set_new(one, "run_superslabs", number(row->n_superslabs));
        json_object_set_new(one, "run_bytes", number(row->run_bytes));
    } else if (row->kind == MAP_HOT || row->kind == MAP_DRAINING || row->kind == MAP_FREE) {
        json_object_set_new(one, "slots", slots(map, row));
    }
    return one;
}

/* Writes an object and lets go of it. */
static int write_object(FILE *out, json_t *object, size_t flags)
{
    const int result = object == NULL ? -1 : json_dumpf(object, out, flags);
    json_decref(object);
    return result;
}

int map_print_json(FILE *out, const struct map *map)
{
    fputc('{', out);
    int result = write_object(out, head(map), FORM | JSON_EMBED);
    fputs(",\"superslabs\":[", out);
    for (size_t i = 0; i < map->n_rows && result == 0; i++) {
        if (i > 0)
            fputc(',', out);
        result = write_object(out, row_object(map, &map->rows[i]), FORM);
    }
    fputs("]}\n", out);
    return result == 0 && !ferror(out) ? 0 : -1;
}
