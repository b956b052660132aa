/* test_map_page.c - the page: a reader that was written for this test unpacks each sample, and finds what went in.
 */
#include "made_up.h"
#include "map_output.h"

#include <jansson.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#include <cmocka.h>

/* ---- The other side ----------------------------------------------------------------------------------------------------- */

struct read_cell {
    unsigned kind, state, second, span_slabs, used, pages;
    uint64_t span_bytes;
};

struct read_row {
    uint64_t address, n_superslabs, run_bytes, memory_bytes;
    unsigned kind;
    struct read_cell cells[SUPERSLAB_SLABS];
};

struct reader {
    json_t *info;
    unsigned char *bytes;
    size_t n, at;
    size_t n_rows;
    struct read_row *rows;
};

static char *page_text(struct map_page *page, size_t *n)
{
    char *text = NULL;
    FILE *out = open_memstream(&text, n);
    assert_non_null(out);
    assert_int_equal(map_page_write(page, out), 0);
    fclose(out);
    return text;
}

static unsigned digit_of(char c)
{
    return c >= 'A' && c <= 'Z'   ? (unsigned)(c - 'A')
           : c >= 'a' && c <= 'z' ? (unsigned)(c - 'a' + 26)
           : c >= '0' && c <= '9' ? (unsigned)(c - '0' + 52)
           : c == '+'             ? 62
                                  : 63;
}

static unsigned char *from_base64(const char *text, size_t *n)
{
    const size_t length = strlen(text);
    unsigned char *out = malloc(length + 1);
    assert_non_null(out);
    assert_int_equal(length % 4, 0);
    *n = 0;
    for (size_t i = 0; i < length; i += 4) {
        const unsigned word = digit_of(text[i]) << 18 | digit_of(text[i + 1]) << 12 |
                              (text[i + 2] == '=' ? 0 : digit_of(text[i + 2]) << 6) |
                              (text[i + 3] == '=' ? 0 : digit_of(text[i + 3]));
        out[(*n)++] = (unsigned char)(word >> 16);
        if (text[i + 2] != '=')
            out[(*n)++] = (unsigned char)(word >> 8);
        if (text[i + 3] != '=')
            out[(*n)++] = (unsigned char)word;
    }
    return out;
}

static void unpack(struct reader *r, const char *base64)
{
    size_t n_packed;
    unsigned char *packed = from_base64(base64, &n_packed);
    const uLongf room = 64u << 20;
    uLongf n = room;
    r->bytes = malloc(room);
    assert_non_null(r->bytes);
    assert_int_equal(uncompress(r->bytes, &n, packed, n_packed), Z_OK);
    r->n = n;
    free(packed);
}

static struct reader open_page(const char *text)
{
    static const char begin[] = "<script type=\"application/json\" id=\"data\">";
    struct reader r = {0};
    json_error_t error;
    const char *from = strstr(text, begin);
    assert_non_null(from);
    const char *end = strstr(from, "</script>");
    assert_non_null(end);
    r.info = json_loadb(from + strlen(begin), (size_t)(end - from) - strlen(begin), 0, &error);
    if (r.info == NULL)
        fail_msg("%s", error.text);
    unpack(&r, json_string_value(json_object_get(r.info, "packed")));
    const json_t *rows = json_object_get(r.info, "rows");
    r.n_rows = json_array_size(rows);
    r.rows = calloc(r.n_rows + 1, sizeof *r.rows);
    assert_non_null(r.rows);
    for (size_t i = 0; i < r.n_rows; i++)
        r.rows[i].address = strtoull(json_string_value(json_array_get(rows, i)), NULL, 16);
    return r;
}

static void close_page(struct reader *r)
{
    json_decref(r->info);
    free(r->bytes);
    free(r->rows);
}

static uint64_t number(struct reader *r)
{
    uint64_t value = 0;
    unsigned shift = 0;
    do {
        assert_true(r->at < r->n);
        value |= (uint64_t)(r->bytes[r->at] & 127) << shift;
        shift += 7;
    } while (r->bytes[r->at++] >= 128);
    return value;
}

static void read_row(struct reader *r, struct read_row *row)
{
    row->kind = r->bytes[r->at++];
    row->n_superslabs = row->kind == MAP_RUN + 1 ? number(r) : 0;
    row->run_bytes = row->kind == MAP_RUN + 1 ? number(r) : 0;
    const bool has_cells = row->kind >= MAP_HOT + 1 && row->kind <= MAP_FREE + 1;
    row->memory_bytes = has_cells ? 0 : number(r);
    if (!has_cells)
        memset(row->cells, 0, sizeof row->cells);
}

static void read_cell(struct reader *r, struct read_cell *cell, unsigned what)
{
    if ((what & 1) != 0) {
        const unsigned byte = r->bytes[r->at++];
        cell->kind = byte >> 4;
        cell->state = byte & 15;
        cell->second = r->bytes[r->at++];
        const bool is_head = cell->kind == MAP_SPAN && cell->second == 0;
        cell->span_slabs = is_head ? (unsigned)number(r) : 0;
        cell->span_bytes = is_head ? number(r) : 0;
    }
    if ((what & 2) != 0) {
        const uint64_t zigzag = number(r);
        cell->used += (unsigned)(zigzag % 2 == 0 ? (int64_t)(zigzag / 2) : -(int64_t)((zigzag + 1) / 2));
    }
    if ((what & 4) != 0)
        cell->pages ^= (unsigned)number(r);
}

static void read_sample(struct reader *r)
{
    size_t next = 0;
    for (uint64_t left = number(r); left > 0; left--) {
        next += number(r);
        assert_true(next < r->n_rows);
        read_row(r, &r->rows[next++]);
    }
    next = 0;
    for (uint64_t left = number(r); left > 0; left--) {
        const uint64_t word = number(r);
        assert_int_not_equal(word & 7, 0);
        next += word >> 3;
        assert_true(next < r->n_rows * SUPERSLAB_SLABS);
        read_cell(r, &r->rows[next / SUPERSLAB_SLABS].cells[next % SUPERSLAB_SLABS], word & 7);
        next++;
    }
}

static const struct read_row *row_at(const struct reader *r, uint64_t address)
{
    for (size_t i = 0; i < r->n_rows; i++)
        if (r->rows[i].address == address)
            return &r->rows[i];
    fail_msg("the page has no row %llx", (unsigned long long)address);
    return NULL;
}

/* What the reader has now is the map of this snapshot. */
static void check_sample(const struct reader *r, const struct snapshot *s)
{
    struct map map;
    size_t n_there = 0;
    assert_int_equal(map_make(s, &map), 0);
    for (size_t i = 0; i < r->n_rows; i++)
        n_there += r->rows[i].kind != 0;
    assert_int_equal(n_there, map.n_rows);
    for (size_t i = 0; i < map.n_rows; i++) {
        const struct map_row *row = &map.rows[i];
        const struct read_row *got = row_at(r, row->ss->address);
        struct map_cell cells[SUPERSLAB_SLABS];
        assert_int_equal(got->kind, row->kind + 1);
        if (row->kind == MAP_RUN) {
            assert_int_equal(got->n_superslabs, row->n_superslabs);
            assert_int_equal(got->run_bytes, row->run_bytes);
        }
        if (row->kind > MAP_FREE) {
            assert_int_equal(got->memory_bytes, row->memory_bytes);
            continue;
        }
        map_row_cells(&map, row, cells);
        for (unsigned k = 0; k < SUPERSLAB_SLABS; k++) {
            assert_int_equal(got->cells[k].kind, cells[k].kind);
            assert_int_equal(got->cells[k].state, cells[k].state <= SLAB_PACKED ? cells[k].state : 15);
            assert_int_equal(got->cells[k].used, cells[k].used);
            assert_int_equal(got->cells[k].pages, cells[k].dirty_pages);
            if (cells[k].kind == MAP_SLAB)
                assert_int_equal(got->cells[k].second, cells[k].class_id);
            if (cells[k].kind == MAP_SPAN) {
                assert_int_equal(got->cells[k].second, cells[k].span_distance);
                assert_int_equal(got->cells[k - cells[k].span_distance].span_bytes, cells[k].span_bytes);
                assert_int_equal(got->cells[k - cells[k].span_distance].span_slabs, cells[k].span_slabs);
            }
        }
    }
    map_drop(&map);
}

/* ---- Heaps that change ----------------------------------------------------------------------------------------------------- */

/* Any change that a heap can make from one sample to the next, SuperSlabs that come and go and runs among them. */
static void change(struct snapshot *s, uint32_t *seed)
{
    for (size_t i = 0; i < s->n_superslabs; i++) {
        struct snapshot_superslab *ss = &s->superslabs[i];
        const unsigned chance = next_number(seed) % 20;
        const uint64_t address = ss->address;
        if (chance == 0)
            *ss = (struct snapshot_superslab){.address = address};
        else if (chance == 1)
            *ss = (struct snapshot_superslab){.address = address,
                                              .state = SUPERSLAB_CACHED,
                                              .dirty_prefix_bytes = next_number(seed) % SUPERSLAB_BYTES};
        else if (chance == 2 && i + 3 < s->n_superslabs) {
            for (size_t k = i; k < i + 3; k++)
                s->superslabs[k] = (struct snapshot_superslab){.address = s->superslabs[k].address};
            put_run(s, i, 2 * SUPERSLAB_BYTES + 1 + next_number(seed) % SUPERSLAB_BYTES);
            i += 2;
        } else if (chance < 6) {
            *ss = (struct snapshot_superslab){.address = address};
            put_mixture(pooled(s, i, next_number(seed) % 2), seed);
        } else if (chance < 12 && ss->state == SUPERSLAB_POOLED) {
            struct snapshot_slot *slot = &ss->slot[next_number(seed) % SUPERSLAB_SLABS];
            slot->dirty_pages ^= (uint16_t)next_number(seed);
            slot->used = (uint16_t)(slot->n_blocks == 0 ? 0 : next_number(seed) % (slot->n_blocks + 1));
            slot->packed_pages ^= (uint16_t)next_number(seed);
            if (next_number(seed) % 30 == 0)
                slot->state = (uint8_t)(next_number(seed) % (SLAB_PACKED + 2));
        }
    }
    s->time_ns += 1000000000;
    take_census(s, 10);
}

static void every_sample_is_in_the_page(void **state)
{
    (void)state;
    enum { N = 200, STEP = 7 };
    struct snapshot s = make_snapshot("changing", 60);
    struct snapshot kept[N / STEP + 1];
    struct map_page *page = map_page_new(MAP_BY_CLASS, "");
    uint32_t seed = 2026;
    assert_non_null(page);
    for (unsigned i = 0; i < N; i++) {
        change(&s, &seed);
        assert_int_equal(map_page_add(page, &s), 0);
        if (i % STEP == 0) {
            kept[i / STEP] = make_snapshot("kept", s.n_superslabs);
            memcpy(kept[i / STEP].superslabs, s.superslabs, s.n_superslabs * sizeof s.superslabs[0]);
        }
    }
    size_t n;
    char *text = page_text(page, &n);
    struct reader r = open_page(text);
    assert_int_equal(json_array_size(json_object_get(r.info, "samples")), N);
    for (unsigned i = 0; i < N; i++) {
        read_sample(&r);
        if (i % STEP == 0) {
            check_sample(&r, &kept[i / STEP]);
            drop_snapshot(&kept[i / STEP]);
        }
    }
    assert_int_equal(r.at, r.n);
    close_page(&r);
    free(text);
    map_page_drop(page);
    drop_snapshot(&s);
}

/* A hundred samples of 1 GiB, in which blocks come and go in every slab. */
static void a_hundred_samples_of_a_gibibyte_are_small(void **state)
{
    (void)state;
    struct snapshot s = make_server(512, 1);
    struct map_page *page = map_page_new(MAP_BY_TIER, "");
    uint32_t seed = 4;
    for (unsigned sample = 0; sample < 100; sample++) {
        assert_int_equal(map_page_add(page, &s), 0);
        for (size_t i = 0; i < s.n_superslabs; i++)
            for (unsigned k = 0; k < SUPERSLAB_SLABS; k++) {
                struct snapshot_slot *slot = &s.superslabs[i].slot[k];
                if (slot->n_blocks > 0)
                    slot->used = (uint16_t)(next_number(&seed) % (slot->n_blocks + 1));
            }
    }
    size_t n;
    char *text = page_text(page, &n);
    assert_in_range(n, 100000, 4u << 20);
    free(text);
    map_page_drop(page);
    drop_snapshot(&s);
}

/* ---- Edges ------------------------------------------------------------------------------------------------------------------ */

static struct reader page_of(const struct snapshot *s, char **text)
{
    struct map_page *page = map_page_new(MAP_BY_CLASS, "");
    size_t n;
    assert_int_equal(map_page_add(page, s), 0);
    *text = page_text(page, &n);
    map_page_drop(page);
    struct reader r = open_page(*text);
    read_sample(&r);
    check_sample(&r, s);
    assert_int_equal(r.at, r.n);
    return r;
}

static void edges(void **state)
{
    (void)state;
    enum { N = 5 };
    struct snapshot heaps[N] = {make_snapshot("empty", 0), make_snapshot("run", 1000), make_server(10000, 1),
                                make_server(3, 9), make_snapshot("packed", 1)};
    put_run(&heaps[1], 0, 1000 * SUPERSLAB_BYTES);
    heaps[3].superslabs[0].slot[0].class_id = 99;
    heaps[3].superslabs[1].tier = 50;
    put_packed(pooled(&heaps[4], 0, SS_TIER_HOT), 3, 10, 5);
    for (int i = 0; i < N; i++) {
        char *text;
        struct reader r = page_of(&heaps[i], &text);
        close_page(&r);
        free(text);
        drop_snapshot(&heaps[i]);
    }
}

static void any_bytes_at_all(void **state)
{
    (void)state;
    uint32_t seed = 9;
    for (unsigned round = 0; round < 20; round++) {
        struct snapshot s = make_noise(30, &seed);
        char *text;
        struct reader r = page_of(&s, &text);
        close_page(&r);
        free(text);
        drop_snapshot(&s);
    }
}

/* A process may call itself anything; 15 bytes suffice for mischief. */
static void a_name_stays_text(void **state)
{
    (void)state;
    struct snapshot s = make_server(2, 1);
    char *text;
    strcpy(s.name, "</script><script>alert(1)//<!--\"\\ \xff");
    struct reader r = page_of(&s, &text);
    assert_string_equal(json_string_value(json_object_get(r.info, "name")), "</script><script>alert(1)//<!--\"\\ ?");
    assert_null(strstr(text, "<script>alert"));
    assert_null(strstr(text, "<!--\""));
    close_page(&r);
    free(text);
    drop_snapshot(&s);
}

/* Nothing is loaded from anywhere: no address of the net, no source, no import. */
static void the_page_stands_alone(void **state)
{
    (void)state;
    static const char *const forbidden[] = {"http://w", "https:",         " src=",   "@import",  "url(",
                                            "fetch(",   "XMLHttpRequest", "@STYLE@", "@SCRIPT@", "@DATA@"};
    struct snapshot s = make_server(2, 1);
    char *text;
    struct reader r = page_of(&s, &text);
    for (size_t i = 0; i < sizeof forbidden / sizeof forbidden[0]; i++) {
        const char *found = strstr(text, forbidden[i]);
        if (found != NULL && strncmp(found, "http://www.w3.org/2000/svg", 26) != 0) /* the name of a language */
            fail_msg("the page has '%s'", forbidden[i]);
    }
    assert_non_null(strstr(text, "default-src 'none'"));
    assert_memory_equal(text, "<!DOCTYPE html>", 15);
    close_page(&r);
    free(text);
    drop_snapshot(&s);
}

static void the_sums_are_those_of_the_map(void **state)
{
    (void)state;
    struct snapshot s = make_server(50, 8);
    struct map map;
    char *text;
    s.n_torn = 3;
    struct reader r = page_of(&s, &text);
    const json_t *sample = json_array_get(json_object_get(r.info, "samples"), 0);
    assert_int_equal(map_make(&s, &map), 0);
    const struct {
        const char *field;
        uint64_t value;
    } rows[] = {{"live", s.census.stats.live_bytes},
                {"cached", s.census.stats.cached_bytes},
                {"free", map.free_bytes},
                {"idle", map.idle_bytes},
                {"committed", s.census.stats.committed_bytes},
                {"resident", s.resident_bytes},
                {"torn", 3},
                {"runs", map.runs},
                {"run_superslabs", map.run_superslabs},
                {"run_bytes", map.run_bytes},
                {"spans", map.spans},
                {"span_bytes", map.span_bytes}};
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        assert_int_equal(json_integer_value(json_object_get(sample, rows[i].field)), rows[i].value);
    for (unsigned kind = 0; kind < MAP_N_ROW_KINDS; kind++)
        assert_int_equal(json_integer_value(json_array_get(json_object_get(sample, "rows"), kind)),
                         map.rows_of_kind[kind]);
    map_drop(&map);
    close_page(&r);
    free(text);
    drop_snapshot(&s);
}

static void a_full_disk_is_noticed(void **state)
{
    (void)state;
    struct snapshot s = make_server(20, 1);
    struct map_page *page = map_page_new(MAP_BY_CLASS, "");
    FILE *full = fopen("/dev/full", "w");
    assert_int_equal(map_page_add(page, &s), 0);
    assert_non_null(full);
    assert_int_not_equal(map_page_write(page, full), 0);
    fclose(full);
    map_page_drop(page);
    drop_snapshot(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_sample_is_in_the_page),
        cmocka_unit_test(a_hundred_samples_of_a_gibibyte_are_small),
        cmocka_unit_test(edges),
        cmocka_unit_test(any_bytes_at_all),
        cmocka_unit_test(a_name_stays_text),
        cmocka_unit_test(the_page_stands_alone),
        cmocka_unit_test(the_sums_are_those_of_the_map),
        cmocka_unit_test(a_full_disk_is_noticed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
