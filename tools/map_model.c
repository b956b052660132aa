/* map_model.c - the rows, cells and sums of a heap's map.
 * Owns       struct map.
 * Called by  map_terminal.c, map_drawing.c, map_json.c, map_page.c, map.c, tests.     Calls  sizeclass.h.     Threads  one.
 * I1  memory == used + free (+ idle) in every cell, row and class, and in the sums.
 * I2  No number of a snapshot is an index, a shift or a divisor before it was checked here.
 * Why a page counts as in memory when its bit in dirty_pages is set: that is what the allocator itself counts. A page that a
 * block has and that its program never wrote to may be missing; only the kernel knows, and asking it costs a walk. */
#include "map_model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* More than any heap has; and so little that sums of some thousand are whole. */
static const uint64_t MOST_BYTES = (uint64_t)1 << 50;

static uint64_t least(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

/* ---- Cells ----------------------------------------------------------------------------------------------------------- */

static uint32_t dirty_bytes(uint16_t dirty_pages, size_t page_bytes)
{
    return (uint32_t)least((uint64_t)__builtin_popcount(dirty_pages) * page_bytes, SLAB_BYTES);
}

static void set_use(struct map_cell *cell, uint64_t used_bytes)
{
    cell->used_bytes = (uint32_t)least(used_bytes, cell->memory_bytes);
    cell->free_bytes = cell->memory_bytes - cell->used_bytes;
}

static bool is_class(unsigned class_id)
{
    return class_id >= CLASS_FIRST && class_id < CLASS_END;
}

static void fill_slab(struct map_cell *cell, const struct snapshot_slot *slot)
{
    if (!is_class(slot->class_id)) {
        cell->kind = MAP_TORN;
        return;
    }
    const struct class_info *class = &class_table[slot->class_id];
    cell->kind = MAP_SLAB;
    cell->class_id = slot->class_id;
    cell->room = class->n_blocks;
    cell->used = (uint16_t)least(slot->used, class->n_blocks); /* what is being returned may be counted too */
    set_use(cell, (uint64_t)cell->used * class->bytes);
}

/* How many slots from i on are this head's: those that are marked as its body. 0: it is no head. */
static unsigned span_length(const struct snapshot_superslab *ss, unsigned i)
{
    unsigned n = ss->slot[i].span_slabs;
    if (n == 0 || n > SPAN_MAX_SLABS || n > SUPERSLAB_SLABS - i)
        return 0;
    for (unsigned k = 1; k < n; k++)
        if (ss->slot[i + k].state != SLAB_SPAN_BODY)
            return k;
    return n;
}

static void fill_span(struct map_cell *cells, const struct snapshot_slot *head, unsigned n)
{
    for (unsigned k = 0; k < n; k++) {
        struct map_cell *cell = &cells[k];
        const uint64_t before = (uint64_t)k * SLAB_BYTES;
        cell->kind = MAP_SPAN;
        cell->span_slabs = (uint8_t)n;
        cell->span_distance = (uint8_t)k;
        cell->span_bytes = least(head->span_bytes, (uint64_t)n * SLAB_BYTES);
        cell->n_spans = k == 0;
        cell->begun_bytes = k == 0 ? cell->span_bytes : 0;
        set_use(cell, cell->span_bytes > before ? least(cell->span_bytes - before, SLAB_BYTES) : 0);
    }
}

/* Blocks that threads keep are cached, and so count as used. */
static void fill_packed(struct map_cell *cell, const struct snapshot_slot *slot)
{
    if (slot->packed_pages == 0 || slot->packed_spans > PACKED_HEADS) {
        cell->kind = MAP_TORN;
        return;
    }
    cell->kind = MAP_SPAN;
    cell->span_slabs = 1;
    cell->span_bytes = count_bits(slot->packed_pages) * PACKED_PAGE_BYTES;
    cell->n_spans = slot->packed_spans;
    cell->begun_bytes = least(slot->span_bytes, cell->n_spans * SUPERSLAB_BYTES);
    set_use(cell, cell->span_bytes);
}

/* A thread keeps all of it for its next spans: cached too. */
static void fill_held(struct map_cell *cell)
{
    cell->kind = MAP_SPAN;
    cell->span_slabs = 1;
    cell->span_bytes = SLAB_BYTES;
    set_use(cell, cell->memory_bytes);
}

static void fill_cell(struct map_cell *cells, const struct snapshot_superslab *ss, unsigned i, unsigned *span_left)
{
    struct map_cell *cell = &cells[i];
    unsigned n;
    switch (ss->slot[i].state) {
    case SLAB_UNUSED:
        cell->kind = cell->memory_bytes == 0 ? MAP_NOTHING : MAP_IDLE;
        return;
    case SLAB_EMPTY:
    case SLAB_TAKEN:
        cell->kind = MAP_IDLE;
        return;
    case SLAB_HELD:
        fill_held(cell);
        return;
    case SLAB_OWNED:
    case SLAB_PARTIAL:
    case SLAB_FULL:
    case SLAB_RETIRING:
        fill_slab(cell, &ss->slot[i]);
        return;
    case SLAB_SPAN_HEAD:
        n = span_length(ss, i);
        if (n == 0)
            break;
        fill_span(cell, &ss->slot[i], n);
        *span_left = n - 1;
        return;
    case SLAB_PACKED:
        fill_packed(cell, &ss->slot[i]);
        return;
    default:
        break; /* the body of no span, or no state at all */
    }
    cell->kind = MAP_TORN;
}

static void slot_cells(const struct snapshot_superslab *ss, size_t page_bytes, struct map_cell cells[SUPERSLAB_SLABS])
{
    for (unsigned i = 0; i < SUPERSLAB_SLABS; i++) {
        cells[i].state = ss->slot[i].state;
        cells[i].dirty_pages = ss->slot[i].dirty_pages;
        cells[i].memory_bytes = dirty_bytes(cells[i].dirty_pages, page_bytes);
        cells[i].free_bytes = cells[i].memory_bytes; /* unless it has blocks */
    }
    unsigned span_left = 0;
    for (unsigned i = 0; i < SUPERSLAB_SLABS; i++) {
        if (span_left > 0)
            span_left--; /* its head has filled it in */
        else
            fill_cell(cells, ss, i, &span_left);
    }
}

static void prefix_cells(uint64_t len_bytes, enum map_cell_kind kind, struct map_cell cells[SUPERSLAB_SLABS])
{
    for (unsigned i = 0; i < SUPERSLAB_SLABS; i++) {
        const uint64_t before = (uint64_t)i * SLAB_BYTES, behind = len_bytes > before ? len_bytes - before : 0;
        cells[i].kind = kind;
        cells[i].memory_bytes = cells[i].free_bytes = (uint32_t)least(behind, SLAB_BYTES);
    }
}

void map_row_cells(const struct map *map, const struct map_row *row, struct map_cell cells[SUPERSLAB_SLABS])
{
    memset(cells, 0, SUPERSLAB_SLABS * sizeof cells[0]);
    if (row->kind == MAP_ROW_TORN)
        prefix_cells(row->memory_bytes, MAP_TORN, cells);
    else if (row->ss->state == SUPERSLAB_POOLED)
        slot_cells(row->ss, map->snapshot->slab_page_bytes, cells);
    else
        prefix_cells(row->memory_bytes, MAP_IDLE, cells);
}

/* ---- Rows -------------------------------------------------------------------------------------------------------------- */

static enum map_row_kind kind_of(const struct snapshot_superslab *ss)
{
    switch (ss->state) {
    case SUPERSLAB_POOLED:
        return ss->tier == SS_TIER_HOT        ? MAP_HOT
               : ss->tier == SS_TIER_DRAINING ? MAP_DRAINING
               : ss->tier == SS_TIER_FREE     ? MAP_FREE
                                              : MAP_ROW_TORN;
    case SUPERSLAB_CACHED:
        return MAP_CACHED;
    case SUPERSLAB_RUN:
        return MAP_RUN;
    case SUPERSLAB_MAPPING:
    case SUPERSLAB_LEAVING:
        return MAP_MOVING;
    default:
        return MAP_ROW_TORN; /* also the body of a run that has no first SuperSlab */
    }
}

static void add_cell(struct map *map, struct map_row *row, const struct map_cell *cell)
{
    struct map_class *class = NULL;
    row->memory_bytes += cell->memory_bytes;
    if (cell->kind == MAP_SLAB) {
        class = &map->classes[cell->class_id];
        class->used_blocks += cell->used;
        class->room_blocks += cell->room;
        row->capacity_bytes += SLAB_BYTES;
    } else if (cell->kind == MAP_SPAN) {
        class = &map->classes[CLASS_END];
        row->capacity_bytes += SLAB_BYTES;
        class->used_blocks += cell->n_spans;
        class->room_blocks += cell->n_spans;
        map->spans += cell->n_spans;
        map->span_bytes += cell->begun_bytes;
    }
    if (class == NULL) {
        row->idle_bytes += cell->memory_bytes;
        return;
    }
    row->used_bytes += cell->used_bytes;
    row->free_bytes += cell->free_bytes;
    class->slabs++;
    class->memory_bytes += cell->memory_bytes;
    class->used_bytes += cell->used_bytes;
    class->free_bytes += cell->free_bytes;
}

static void fill_pooled(struct map *map, struct map_row *row)
{
    struct map_cell cells[SUPERSLAB_SLABS];
    map_row_cells(map, row, cells);
    for (unsigned i = 0; i < SUPERSLAB_SLABS; i++)
        add_cell(map, row, &cells[i]);
}

static uint64_t prefix_bytes(const struct snapshot_superslab *ss)
{
    return least(ss->dirty_prefix_bytes, SUPERSLAB_BYTES);
}

/* The run's further SuperSlabs have records of their own; returns how many follow the first one, and are thereby shown. */
static size_t fill_run(struct map *map, struct map_row *row, size_t n_behind)
{
    const struct snapshot_superslab *ss = row->ss;
    size_t n = 1;
    row->memory_bytes = prefix_bytes(ss);
    while (n <= n_behind && n < ss->run_superslabs && ss[n].state == SUPERSLAB_RUN_BODY &&
           ss[n].address == ss->address + n * SUPERSLAB_BYTES)
        row->memory_bytes += prefix_bytes(&ss[n++]);
    row->n_superslabs = (uint32_t)n;
    row->capacity_bytes = n * SUPERSLAB_BYTES;
    row->run_bytes = least(ss->run_bytes, (uint64_t)1 << ADDRESS_BITS);
    row->used_bytes = least(row->run_bytes, row->memory_bytes);
    row->free_bytes = row->memory_bytes - row->used_bytes;
    struct map_class *class = &map->classes[CLASS_END + 1];
    class->slabs += n * SUPERSLAB_SLABS;
    class->used_blocks++;
    class->room_blocks++;
    class->memory_bytes += row->memory_bytes;
    class->used_bytes += row->used_bytes;
    class->free_bytes += row->free_bytes;
    map->runs++;
    map->run_bytes += row->run_bytes;
    map->run_superslabs += n;
    return n - 1;
}

/* Returns how many of the n_behind SuperSlabs behind it belong to the row. */
static size_t fill_row(struct map *map, struct map_row *row, const struct snapshot_superslab *ss, size_t n_behind)
{
    size_t n_more = 0;
    row->ss = ss;
    row->kind = kind_of(ss);
    row->n_superslabs = 1;
    if (row->kind == MAP_RUN)
        n_more = fill_run(map, row, n_behind);
    else if (ss->state == SUPERSLAB_POOLED && row->kind != MAP_ROW_TORN)
        fill_pooled(map, row);
    else
        row->memory_bytes = row->idle_bytes = prefix_bytes(ss);
    map->rows_of_kind[row->kind]++;
    map->memory_bytes += row->memory_bytes;
    map->used_bytes += row->used_bytes;
    map->free_bytes += row->free_bytes;
    map->idle_bytes += row->idle_bytes;
    return n_more;
}

int map_row_fullness(const struct map_row *row)
{
    if (row->capacity_bytes == 0)
        return -1;
    return (int)(row->used_bytes * 100 / row->capacity_bytes);
}

int map_cell_fullness(const struct map_cell *cell)
{
    if (cell->kind == MAP_SLAB)
        return cell->used * 100 / cell->room;
    return cell->state == SLAB_PACKED ? (int)(cell->span_bytes * 100 / SLAB_BYTES) : 100;
}

/* ---- All of it ------------------------------------------------------------------------------------------------------- */

static void take_census(struct map *map)
{
    const struct hak_stats *s = &map->snapshot->census.stats;
    map->live_bytes = least(s->live_bytes, MOST_BYTES);
    map->cached_bytes = least(s->cached_bytes, MOST_BYTES);
    map->committed_bytes = least(s->committed_bytes, MOST_BYTES);
    map->resident_bytes = least(map->snapshot->resident_bytes, MOST_BYTES);
    const double sum = (double)map->live_bytes + (double)map->cached_bytes;
    map->cached_memory_bytes =
        sum == 0 ? 0 : (uint64_t)((double)map->used_bytes * ((double)map->cached_bytes / sum) + 0.5);
    map->live_memory_bytes = map->used_bytes - map->cached_memory_bytes;
    for (unsigned c = CLASS_FIRST; c < CLASS_END; c++) {
        struct map_class *class = &map->classes[c];
        class->cached_blocks = least(map->snapshot->census.classes[c].cached_blocks, class->used_blocks);
        class->cached_bytes = class->cached_blocks * class_table[c].bytes;
    }
}

int map_make(const struct snapshot *snapshot, struct map *out)
{
    *out = (struct map){.snapshot = snapshot};
    out->rows = calloc(snapshot->n_superslabs + 1, sizeof *out->rows);
    if (out->rows == NULL)
        return -1;
    for (size_t i = 0; i < snapshot->n_superslabs; i++)
        if (snapshot->superslabs[i].state != SUPERSLAB_ABSENT)
            i += fill_row(out, &out->rows[out->n_rows++], &snapshot->superslabs[i], snapshot->n_superslabs - i - 1);
    take_census(out);
    return 0;
}

void map_drop(struct map *map)
{
    free(map->rows);
    map->rows = NULL;
    map->n_rows = 0;
}

size_t map_classes_by_free(const struct map *map, uint8_t order[CENSUS_CLASSES])
{
    size_t n = 0;
    for (unsigned c = CLASS_FIRST; c < CENSUS_CLASSES; c++) {
        if (map->classes[c].slabs == 0)
            continue;
        size_t at = n++;
        for (; at > 0 && map->classes[order[at - 1]].free_bytes < map->classes[c].free_bytes; at--)
            order[at] = order[at - 1];
        order[at] = (uint8_t)c;
    }
    return n;
}

/* ---- Words ----------------------------------------------------------------------------------------------------------- */

const char *map_bytes_text(uint64_t bytes, char out[MAP_TEXT_BYTES])
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    unsigned unit = 0;
    double value = (double)bytes;
    while (value >= 1023.95 && unit < 6) { /* what would be printed as 1024.0 */
        value /= 1024;
        unit++;
    }
    snprintf(out, MAP_TEXT_BYTES, unit == 0 ? "%.0f %s" : "%.1f %s", value, units[unit]);
    return out;
}

const char *map_class_text(unsigned class_id, char out[MAP_TEXT_BYTES])
{
    if (class_id == CLASS_END)
        snprintf(out, MAP_TEXT_BYTES, "spans");
    else if (class_id == CLASS_END + 1)
        snprintf(out, MAP_TEXT_BYTES, "runs");
    else
        snprintf(out, MAP_TEXT_BYTES, "%u B", is_class(class_id) ? class_table[class_id].bytes : 0);
    return out;
}

const char *map_row_kind_name(enum map_row_kind kind)
{
    static const char *const names[MAP_N_ROW_KINDS] = {"HOT", "DRAINING", "FREE", "CACHED", "RUN", "MOVING", "TORN"};
    return kind < MAP_N_ROW_KINDS ? names[kind] : "TORN";
}

const char *map_slab_state_name(unsigned state)
{
    static const char *const names[] = {"unused", "empty",    "taken", "owned", "partial",
                                        "full",   "retiring", "span",  "span",  "held by a thread",
                                        "packed"};
    return state < sizeof names / sizeof names[0] ? names[state] : "torn";
}

/* The length of the character at text that may be shown as it is: 0, if it is none. By Unicode's table of well-formed sequences,
 * and without the control characters, those from U+0080 on and the ones that turn the direction of writing among them. */
static size_t shown_length(const unsigned char *text)
{
    if (text[0] < 0x80)
        return text[0] >= 0x20 && text[0] != 0x7f;
    const size_t n = text[0] >= 0xc2 && text[0] <= 0xdf   ? 2
                     : text[0] >= 0xe0 && text[0] <= 0xef ? 3
                     : text[0] >= 0xf0 && text[0] <= 0xf4 ? 4
                                                          : 0;
    uint32_t code = n == 0 ? 0 : text[0] & (0x7fu >> n);
    for (size_t i = 1; i < n; i++) {
        if ((text[i] & 0xc0) != 0x80)
            return 0;
        code = code << 6 | (text[i] & 0x3f);
    }
    static const uint32_t smallest[] = {1, 1, 0xa0, 0x800, 0x10000};
    if (code < smallest[n] || code > 0x10ffff || (code >= 0xd800 && code <= 0xdfff) || code == 0x61c ||
        (code >= 0x200b && code <= 0x200f) || (code >= 0x2028 && code <= 0x202e) ||
        (code >= 0x2060 && code <= 0x2069) || code == 0xfeff)
        return 0;
    return n;
}

void map_clean_name(const char *name, bool ascii, char *out, size_t out_bytes)
{
    const unsigned char *from = (const unsigned char *)name;
    size_t n = 0;
    while (*from != '\0') {
        size_t length = shown_length(from);
        const bool shown = length == 1 || (length > 1 && !ascii);
        if (n + (shown ? length : 1) >= out_bytes)
            break;
        if (shown)
            memcpy(out + n, from, length);
        else
            out[n] = '?';
        n += shown ? length : 1;
        from += length > 0 ? length : 1;
    }
    out[n] = '\0';
}
