/* map_page.c - a heap's map as one page of HTML, over one sample or many.
 * Owns       struct map_page: the heap as the last sample left it, and what is packed so far.
 * Called by  map.c, tests.     Calls  map_model.c, map_palette.c, pages/, jansson, zlib.     Threads  one.
 * I1  After map_page_add, `rows` holds what a reader of the packed bytes has at that point: the next sample is told by what differs.
 * I2  The page asks for nothing from anywhere, and no text from the other process stands in it but inside of JSON, in which '<'
 *     is written \u003c.
 *
 * The packed bytes are zlib's form of one sample after the other. Numbers are of 7 bits per byte, lowest first, the eighth says
 * that more follow. A gap is the distance from the entry behind the last one.
 *
 *   sample  number of rows that differ, rows; number of cells that differ, cells
 *   row     gap; byte: 0 absent, or 1 + enum map_row_kind; of a run: SuperSlabs, usable bytes; of what has no cells: bytes in memory
 *   cell    gap << 3 | what differs: 1 contents, 2 blocks used, 4 pages
 *           contents: byte kind << 4 | state; byte: class, or in a span the distance from its head; of a head: slabs, bytes;
 *           a PACKED cell is a head, of 1 slab and the bytes of its pages that are in spans
 *           blocks used: the difference, as 2 * d or -2 * d - 1;     pages: exclusive or with those before
 *
 * Rows have numbers in order of their first appearance; cell = row * 32 + slot. A row that has no cells has all of them zero.
 *
 * Why differences, packed: of 16,384 slabs of a heap of 1 GiB few change their class from one second to the next, and a hundred
 * samples in full would be 13 MiB. */
#include "pages.h"
#include "map_output.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

enum { WHAT_CONTENTS = 1, WHAT_USED = 2, WHAT_PAGES = 4 };

struct page_cell {
    uint8_t kind_state, second;
    uint8_t span_slabs;
    uint16_t used, pages;
    uint32_t span_bytes;
};

struct page_row {
    uint64_t address;
    uint8_t kind; /* 0: absent */
    bool has_cells;
    uint32_t n_superslabs; /* of a run */
    uint64_t run_bytes, memory_bytes;
    struct page_cell cells[SUPERSLAB_SLABS];
};

struct bytes {
    unsigned char *data;
    size_t n, room;
    bool failed;
};

struct page_index {
    uint64_t address;
    uint32_t row;
};

struct map_page {
    char when[64];
    enum map_by by;
    json_t *head, *samples;
    uint64_t first_ns;
    struct page_row *rows; /* by number */
    size_t n_rows, room_rows;
    struct page_index *index; /* the same, by address */
    struct page_row *now;     /* the sample that is being added, by number */
    struct bytes plain, packed;
    z_stream zlib;
    bool failed;
};

/* ---- Bytes --------------------------------------------------------------------------------------------------------------- */

static bool make_room(struct bytes *to, size_t n)
{
    if (to->n + n <= to->room)
        return true;
    size_t room = to->room == 0 ? 4096 : to->room;
    while (room < to->n + n)
        room *= 2;
    unsigned char *data = realloc(to->data, room);
    if (data == NULL) {
        to->failed = true;
        return false;
    }
    to->data = data;
    to->room = room;
    return true;
}

static void put_byte(struct bytes *to, unsigned byte)
{
    if (make_room(to, 1))
        to->data[to->n++] = (unsigned char)byte;
}

static void put_number(struct bytes *to, uint64_t number)
{
    for (; number >= 128; number >>= 7)
        put_byte(to, (unsigned)(number & 127) | 128);
    put_byte(to, (unsigned)number);
}

/* Packs what is in `plain`; with Z_FINISH also what zlib held back. */
static void pack(struct map_page *page, int flush)
{
    z_stream *z = &page->zlib;
    int result;
    z->next_in = page->plain.data;
    z->avail_in = (uInt)page->plain.n;
    do {
        if (!make_room(&page->packed, 65536)) {
            page->failed = true;
            return;
        }
        z->next_out = page->packed.data + page->packed.n;
        z->avail_out = 65536;
        result = deflate(z, flush);
        page->packed.n += 65536 - z->avail_out;
    } while (result == Z_OK && z->avail_out == 0);
    page->plain.n = 0;
}

/* ---- Rows ---------------------------------------------------------------------------------------------------------------- */

static int by_address(const void *a, const void *b)
{
    const struct page_index *x = a, *y = b;
    return x->address < y->address ? -1 : x->address > y->address;
}

static struct page_row *row_at(struct map_page *page, uint64_t address, size_t n_sorted)
{
    const struct page_index key = {.address = address};
    const struct page_index *found =
        n_sorted == 0 ? NULL : bsearch(&key, page->index, n_sorted, sizeof key, by_address);
    return found == NULL ? NULL : &page->now[found->row];
}

static bool grow_array(void **array, size_t room, size_t old_room, size_t size_bytes)
{
    char *more = realloc(*array, room * size_bytes);
    if (more == NULL)
        return false;
    memset(more + old_room * size_bytes, 0, (room - old_room) * size_bytes);
    *array = more;
    return true;
}

static bool grow_rows(struct map_page *page, size_t n)
{
    size_t room = page->room_rows == 0 ? 64 : page->room_rows;
    while (room < n)
        room *= 2;
    if (room == page->room_rows)
        return true;
    if (!grow_array((void **)&page->rows, room, page->room_rows, sizeof *page->rows) ||
        !grow_array((void **)&page->now, room, page->room_rows, sizeof *page->now) ||
        !grow_array((void **)&page->index, room, page->room_rows, sizeof *page->index))
        return false;
    page->room_rows = room;
    return true;
}

static void fill_cells(const struct map *map, const struct map_row *from, struct page_row *to)
{
    struct map_cell cells[SUPERSLAB_SLABS];
    map_row_cells(map, from, cells);
    for (unsigned i = 0; i < SUPERSLAB_SLABS; i++) {
        const struct map_cell *cell = &cells[i];
        const bool is_head = cell->kind == MAP_SPAN && cell->span_distance == 0;
        const unsigned state = cell->state <= SLAB_PACKED ? cell->state : 15;
        to->cells[i] = (struct page_cell){.kind_state = (uint8_t)((unsigned)cell->kind << 4 | state),
                                          .second = cell->kind == MAP_SPAN ? cell->span_distance : cell->class_id,
                                          .span_slabs = is_head ? cell->span_slabs : 0,
                                          .span_bytes = is_head ? (uint32_t)cell->span_bytes : 0,
                                          .used = cell->used,
                                          .pages = cell->dirty_pages};
    }
}

static void fill_row(const struct map *map, const struct map_row *from, struct page_row *to)
{
    *to = (struct page_row){.address = from->ss->address, .kind = (uint8_t)(from->kind + 1)};
    to->has_cells = from->kind == MAP_HOT || from->kind == MAP_DRAINING || from->kind == MAP_FREE;
    if (to->has_cells) {
        fill_cells(map, from, to);
        return;
    }
    to->memory_bytes = from->memory_bytes;
    to->n_superslabs = from->kind == MAP_RUN ? from->n_superslabs : 0;
    to->run_bytes = from->kind == MAP_RUN ? from->run_bytes : 0;
}

/* The sample's rows in the order of their numbers; those that were not there before get the next ones. */
static bool number_rows(struct map_page *page, const struct map *map)
{
    const size_t n_sorted = page->n_rows;
    if (!grow_rows(page, page->n_rows + map->n_rows))
        return false;
    for (size_t i = 0; i < page->n_rows; i++)
        page->now[i] = (struct page_row){.address = page->rows[i].address};
    for (size_t i = 0; i < map->n_rows; i++) {
        struct page_row *row = row_at(page, map->rows[i].ss->address, n_sorted);
        if (row == NULL) {
            page->index[page->n_rows] = (struct page_index){map->rows[i].ss->address, (uint32_t)page->n_rows};
            row = &page->now[page->n_rows++];
        }
        fill_row(map, &map->rows[i], row);
    }
    qsort(page->index, page->n_rows, sizeof page->index[0], by_address);
    return true;
}

/* ---- What differs ----------------------------------------------------------------------------------------------------------- */

static bool row_differs(const struct page_row *a, const struct page_row *b)
{
    return a->kind != b->kind || a->n_superslabs != b->n_superslabs || a->run_bytes != b->run_bytes ||
           a->memory_bytes != b->memory_bytes;
}

static unsigned what_differs(const struct page_cell *a, const struct page_cell *b)
{
    const bool contents = a->kind_state != b->kind_state || a->second != b->second || a->span_slabs != b->span_slabs ||
                          a->span_bytes != b->span_bytes;
    return (contents ? WHAT_CONTENTS : 0) | (a->used != b->used ? WHAT_USED : 0) |
           (a->pages != b->pages ? WHAT_PAGES : 0);
}

static void put_row(struct map_page *page, size_t number)
{
    static const struct page_cell zero[SUPERSLAB_SLABS];
    const struct page_row *row = &page->now[number];
    put_byte(&page->plain, row->kind);
    if (row->kind == MAP_RUN + 1) {
        put_number(&page->plain, row->n_superslabs);
        put_number(&page->plain, row->run_bytes);
    }
    if (!row->has_cells) {
        put_number(&page->plain, row->memory_bytes);
        memcpy(page->rows[number].cells, zero, sizeof zero); /* as the reader does */
    }
}

static void put_cell(struct bytes *to, const struct page_cell *cell, const struct page_cell *before, unsigned what)
{
    if ((what & WHAT_CONTENTS) != 0) {
        put_byte(to, cell->kind_state);
        put_byte(to, cell->second);
        if (cell->kind_state >> 4 == MAP_SPAN && cell->second == 0) {
            put_number(to, cell->span_slabs);
            put_number(to, cell->span_bytes);
        }
    }
    if ((what & WHAT_USED) != 0) {
        const int32_t difference = (int32_t)cell->used - before->used;
        put_number(to, difference >= 0 ? (uint64_t)difference * 2 : (uint64_t)-difference * 2 - 1);
    }
    if ((what & WHAT_PAGES) != 0)
        put_number(to, cell->pages ^ before->pages);
}

static void put_rows(struct map_page *page)
{
    size_t n = 0, next = 0;
    for (size_t i = 0; i < page->n_rows; i++)
        n += row_differs(&page->now[i], &page->rows[i]);
    put_number(&page->plain, n);
    for (size_t i = 0; i < page->n_rows; i++) {
        if (!row_differs(&page->now[i], &page->rows[i]))
            continue;
        put_number(&page->plain, i - next);
        put_row(page, i);
        next = i + 1;
    }
}

static void put_cells(struct map_page *page)
{
    size_t n = 0, next = 0;
    const size_t n_cells = page->n_rows * SUPERSLAB_SLABS;
    for (size_t i = 0; i < n_cells; i++)
        n += what_differs(&page->now[i / SUPERSLAB_SLABS].cells[i % SUPERSLAB_SLABS],
                          &page->rows[i / SUPERSLAB_SLABS].cells[i % SUPERSLAB_SLABS]) != 0;
    put_number(&page->plain, n);
    for (size_t i = 0; i < n_cells; i++) {
        const struct page_cell *cell = &page->now[i / SUPERSLAB_SLABS].cells[i % SUPERSLAB_SLABS];
        const struct page_cell *before = &page->rows[i / SUPERSLAB_SLABS].cells[i % SUPERSLAB_SLABS];
        const unsigned what = what_differs(cell, before);
        if (what == 0)
            continue;
        put_number(&page->plain, (i - next) << 3 | what);
        put_cell(&page->plain, cell, before, what);
        next = i + 1;
    }
}

/* ---- Numbers beside the rows ----------------------------------------------------------------------------------------------- */

static json_t *number(uint64_t value)
{
    return json_integer((json_int_t)value);
}

static json_t *sums_of(const struct map_page *page, const struct map *map)
{
    const struct snapshot *s = map->snapshot;
    json_t *rows = json_array();
    for (unsigned kind = 0; kind < MAP_N_ROW_KINDS; kind++)
        json_array_append_new(rows, number(map->rows_of_kind[kind]));
    return json_pack("{s:f, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "seconds",
                     (double)(int64_t)(s->time_ns - page->first_ns) / 1e9, "live", number(map->live_bytes), "cached",
                     number(map->cached_bytes), "free", number(map->free_bytes), "idle", number(map->idle_bytes),
                     "live_memory", number(map->live_memory_bytes), "cached_memory", number(map->cached_memory_bytes),
                     "committed", number(map->committed_bytes), "resident", number(map->resident_bytes), "torn",
                     number(s->n_torn), "rows", rows, "runs", number(map->runs), "run_superslabs",
                     number(map->run_superslabs), "run_bytes", number(map->run_bytes), "spans", number(map->spans),
                     "span_bytes", number(map->span_bytes));
}

static json_t *color_text(struct map_color color)
{
    char text[8];
    snprintf(text, sizeof text, "#%02x%02x%02x", color.r, color.g, color.b);
    return json_string(text);
}

static json_t *theme_colors(enum map_theme theme)
{
    json_t *tones = json_object(), *classes = json_array(), *occupancy = json_array();
    for (unsigned i = 0; i < MAP_N_TONES; i++)
        json_object_set_new(tones, map_tone_name(i), color_text(map_tone_color(theme, i)));
    for (unsigned i = 0; i < MAP_RAMP_STEPS; i++) {
        json_array_append_new(classes, color_text(map_class_ramp(theme, i)));
        json_array_append_new(occupancy, color_text(map_occupancy_ramp(theme, i)));
    }
    return json_pack("{s:o, s:o, s:o}", "tones", tones, "classes", classes, "occupancy", occupancy);
}

static json_t *class_rows(void)
{
    json_t *rows = json_array();
    for (unsigned id = CLASS_FIRST; id < CLASS_END; id++)
        json_array_append_new(
            rows, json_pack("[i, i, i]", (int)id, (int)class_table[id].bytes, (int)class_table[id].n_blocks));
    return rows;
}

static json_t *class_steps(void)
{
    json_t *steps = json_array();
    for (unsigned id = 0; id < CLASS_END; id++)
        json_array_append_new(steps, number(map_class_step(id)));
    return steps;
}

static json_t *head_of(const struct map_page *page, const struct snapshot *s)
{
    static const char *const by[] = {"class", "occupancy", "tier"};
    char name[sizeof s->name], version[sizeof s->version], profile[sizeof s->profile];
    map_clean_name(s->name, false, name, sizeof name);
    map_clean_name(s->version, true, version, sizeof version);
    map_clean_name(s->profile, true, profile, sizeof profile);
    return json_pack("{s:s, s:i, s:s, s:s, s:s, s:s, s:I, s:i, s:i, s:o, s:o, s:{s:o, s:o}}", "name", name, "pid",
                     (int)s->pid, "library", version, "profile", profile, "when", page->when, "by", by[page->by],
                     "page_bytes", (json_int_t)s->slab_page_bytes, "span_id", CLASS_END, "run_id", CLASS_END + 1,
                     "classes", class_rows(), "class_step", class_steps(), "palette", "light", theme_colors(MAP_LIGHT),
                     "dark", theme_colors(MAP_DARK));
}

/* ---- Life ------------------------------------------------------------------------------------------------------------------- */

struct map_page *map_page_new(enum map_by by, const char *when)
{
    struct map_page *page = calloc(1, sizeof *page);
    if (page == NULL)
        return NULL;
    page->by = by;
    map_clean_name(when, false, page->when, sizeof page->when);
    page->samples = json_array();
    if (page->samples == NULL || deflateInit(&page->zlib, 9) != Z_OK) {
        json_decref(page->samples);
        free(page);
        return NULL;
    }
    return page;
}

void map_page_drop(struct map_page *page)
{
    deflateEnd(&page->zlib);
    json_decref(page->head);
    json_decref(page->samples);
    free(page->rows);
    free(page->now);
    free(page->index);
    free(page->plain.data);
    free(page->packed.data);
    free(page);
}

static void add_sample(struct map_page *page, const struct map *map)
{
    if (page->head == NULL) {
        page->first_ns = map->snapshot->time_ns;
        page->head = head_of(page, map->snapshot);
    }
    if (page->head == NULL || json_array_append_new(page->samples, sums_of(page, map)) != 0 ||
        !number_rows(page, map)) {
        page->failed = true;
        return;
    }
    put_rows(page);
    put_cells(page);
    pack(page, Z_NO_FLUSH);
    struct page_row *before = page->rows;
    page->rows = page->now;
    page->now = before;
}

int map_page_add(struct map_page *page, const struct snapshot *snapshot)
{
    struct map map;
    if (page->failed || map_make(snapshot, &map) != 0)
        return -1;
    add_sample(page, &map);
    map_drop(&map);
    page->failed |= page->plain.failed || page->packed.failed;
    return page->failed ? -1 : 0;
}

/* ---- The page ----------------------------------------------------------------------------------------------------------------- */

static void write_base64(FILE *out, const struct bytes *from)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for (size_t i = 0; i < from->n; i += 3) {
        const size_t n = from->n - i < 3 ? from->n - i : 3;
        const uint32_t word = (uint32_t)from->data[i] << 16 | (n > 1 ? (uint32_t)from->data[i + 1] << 8 : 0) |
                              (n > 2 ? from->data[i + 2] : 0u);
        fputc(digits[word >> 18], out);
        fputc(digits[word >> 12 & 63], out);
        fputc(n > 1 ? digits[word >> 6 & 63] : '=', out);
        fputc(n > 2 ? digits[word & 63] : '=', out);
    }
}

/* Takes what jansson writes. '<' occurs inside of strings alone, and there \u003c is the same. */
static int write_json_part(const char *text, size_t n, void *out)
{
    for (size_t i = 0; i < n; i++)
        if ((text[i] == '<' ? fputs("\\u003c", out) : fputc(text[i], out)) == EOF)
            return -1;
    return 0;
}

static json_t *row_addresses(const struct map_page *page)
{
    json_t *addresses = json_array();
    char text[20];
    for (size_t i = 0; i < page->n_rows; i++) {
        snprintf(text, sizeof text, "%" PRIx64, page->rows[i].address);
        json_array_append_new(addresses, json_string(text));
    }
    return addresses;
}

static int write_data(const struct map_page *page, FILE *out)
{
    json_t *all = json_copy(page->head);
    int result = all == NULL || json_object_set_new(all, "rows", row_addresses(page)) != 0 ||
                 json_object_set(all, "samples", page->samples) != 0;
    fputc('{', out);
    if (result == 0)
        result = json_dump_callback(all, write_json_part, out, JSON_COMPACT | JSON_EMBED | JSON_REAL_PRECISION(9));
    json_decref(all);
    fputs(",\"packed\":\"", out);
    write_base64(out, &page->packed);
    fputs("\"}\n", out);
    return result == 0 ? 0 : -1;
}

/* What stands for @NAME@ in the template. */
static int write_part(const struct map_page *page, const char *name, size_t length, FILE *out)
{
    if (length == 5 && memcmp(name, "STYLE", length) == 0)
        fputs(page_map_css, out);
    else if (length == 6 && memcmp(name, "SCRIPT", length) == 0)
        fputs(page_map_js, out);
    else
        return write_data(page, out);
    return 0;
}

int map_page_write(struct map_page *page, FILE *out)
{
    const char *at = page_map_html, *mark, *end;
    pack(page, Z_FINISH);
    if (page->failed || page->packed.failed)
        return -1;
    while ((mark = strchr(at, '@')) != NULL && (end = strchr(mark + 1, '@')) != NULL) {
        fwrite(at, 1, (size_t)(mark - at), out);
        if (write_part(page, mark + 1, (size_t)(end - mark - 1), out) != 0)
            return -1;
        at = end + 1;
    }
    fputs(at, out);
    return ferror(out) ? -1 : 0;
}
