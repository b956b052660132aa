/* test_map_model.c - rows, cells and sums of made-up heaps, and of what no heap can be.
 */
#include "made_up.h"
#include "map_model.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static struct map map_of(const struct snapshot *s)
{
    struct map map;
    assert_int_equal(map_make(s, &map), 0);
    return map;
}

/* I1 of map_model.c, over everything that the map holds. */
static void check_sums(const struct map *map)
{
    uint64_t memory = 0, used = 0, unused = 0, idle = 0, class_memory = 0;
    for (size_t i = 0; i < map->n_rows; i++) {
        const struct map_row *row = &map->rows[i];
        assert_int_equal(row->memory_bytes, row->used_bytes + row->free_bytes + row->idle_bytes);
        memory += row->memory_bytes;
        used += row->used_bytes;
        unused += row->free_bytes;
        idle += row->idle_bytes;
    }
    for (unsigned c = 0; c < CENSUS_CLASSES; c++) {
        assert_int_equal(map->classes[c].memory_bytes, map->classes[c].used_bytes + map->classes[c].free_bytes);
        class_memory += map->classes[c].memory_bytes;
    }
    assert_int_equal(memory, map->memory_bytes);
    assert_int_equal(used, map->used_bytes);
    assert_int_equal(unused, map->free_bytes);
    assert_int_equal(idle, map->idle_bytes);
    assert_int_equal(class_memory + idle, memory);
}

static void an_empty_heap(void **state)
{
    (void)state;
    struct snapshot s = make_snapshot("empty", 0);
    struct map map = map_of(&s);
    assert_int_equal(map.n_rows, 0);
    assert_int_equal(map.memory_bytes, 0);
    uint8_t order[CENSUS_CLASSES];
    assert_int_equal(map_classes_by_free(&map, order), 0);
    map_drop(&map);
    drop_snapshot(&s);
}

static void slabs_spans_and_what_waits(void **state)
{
    (void)state;
    struct snapshot s = make_snapshot("some", 1);
    struct snapshot_superslab *ss = pooled(&s, 0, SS_TIER_DRAINING);
    struct map_cell cells[SUPERSLAB_SLABS];
    put_slab(ss, 0, 64, 512, 16);  /* half */
    put_slab(ss, 1, 64, 1024, 16); /* all */
    put_slab(ss, 2, 1024, 3, 1);   /* three of the four blocks of one page */
    put_span(ss, 3, 2 * SLAB_BYTES + 5000);
    ss->slot[6] = (struct snapshot_slot){.state = SLAB_EMPTY, .dirty_pages = 0x00ff};
    ss->slot[7] = (struct snapshot_slot){.state = SLAB_TAKEN, .dirty_pages = 0x0001};
    struct map map = map_of(&s);
    check_sums(&map);
    assert_int_equal(map.n_rows, 1);
    assert_int_equal(map.rows[0].kind, MAP_DRAINING);
    map_row_cells(&map, &map.rows[0], cells);
    assert_int_equal(cells[0].kind, MAP_SLAB);
    assert_int_equal(cells[0].used, 512);
    assert_int_equal(cells[0].room, 1024);
    assert_int_equal(cells[0].used_bytes, 32768);
    assert_int_equal(cells[0].free_bytes, 32768);
    assert_int_equal(cells[1].free_bytes, 0);
    assert_int_equal(cells[2].memory_bytes, 4096);
    assert_int_equal(cells[2].free_bytes, 1024);
    for (unsigned i = 3; i < 6; i++) {
        assert_int_equal(cells[i].kind, MAP_SPAN);
        assert_int_equal(cells[i].span_slabs, 3);
        assert_int_equal(cells[i].span_distance, i - 3);
    }
    assert_int_equal(cells[5].memory_bytes, 8192);
    assert_int_equal(cells[5].used_bytes, 5000);
    assert_int_equal(cells[6].kind, MAP_IDLE);
    assert_int_equal(cells[7].kind, MAP_IDLE);
    assert_int_equal(cells[8].kind, MAP_NOTHING);
    assert_int_equal(map.idle_bytes, 9 * 4096);
    assert_int_equal(map.spans, 1);
    assert_int_equal(map.span_bytes, 2 * SLAB_BYTES + 5000);
    assert_int_equal(map.classes[class_of(64)].slabs, 2);
    assert_int_equal(map.classes[class_of(64)].free_bytes, 32768);
    assert_int_equal(map_row_fullness(&map.rows[0]), (32768 + 65536 + 3072 + 2 * 65536 + 5000) * 100 / (6 * 65536));
    uint8_t order[CENSUS_CLASSES];
    assert_int_equal(map_classes_by_free(&map, order), 3);
    assert_int_equal(order[0], class_of(64));
    map_drop(&map);
    drop_snapshot(&s);
}

/* A slot that a thread keeps is cached: used, though no block is in it. */
static void held_slots(void **state)
{
    (void)state;
    struct snapshot s = make_snapshot("held", 1);
    struct snapshot_superslab *ss = pooled(&s, 0, SS_TIER_HOT);
    struct map_cell cells[SUPERSLAB_SLABS];
    ss->slot[2] = (struct snapshot_slot){.state = SLAB_HELD, .dirty_pages = 0x00ff, .span_slabs = 7};
    ss->slot[3] = (struct snapshot_slot){.state = SLAB_HELD};
    struct map map = map_of(&s);
    check_sums(&map);
    map_row_cells(&map, &map.rows[0], cells);
    for (unsigned i = 2; i < 4; i++) {
        assert_int_equal(cells[i].kind, MAP_SPAN);
        assert_int_equal(cells[i].n_spans, 0);
        assert_int_equal(cells[i].span_slabs, 1);
        assert_int_equal(cells[i].free_bytes, 0);
    }
    assert_int_equal(cells[2].used_bytes, 8 * PAGE);
    assert_int_equal(cells[3].used_bytes, 0);
    assert_int_equal(map.used_bytes, 8 * PAGE);
    assert_int_equal(map.idle_bytes, 0);
    assert_int_equal(map.spans, 0);
    assert_int_equal(map.span_bytes, 0);
    map_drop(&map);
    drop_snapshot(&s);
}

/* Pages count where they lie, spans where they begin. */
static void packed_spans(void **state)
{
    (void)state;
    struct snapshot s = make_snapshot("packed", 1);
    struct snapshot_superslab *ss = pooled(&s, 0, SS_TIER_HOT);
    struct map_cell cells[SUPERSLAB_SLABS];
    put_packed(ss, 4, 10, 3);
    ss->slot[5].dirty_pages |= 0x4000; /* beside them, and in memory still */
    put_packed(ss, 8, 9, 1);
    ss->slot[8].packed_spans = 0; /* a thread holds it: not the program's, but used */
    ss->slot[8].span_bytes = 0;
    put_span(ss, 9, SLAB_BYTES);
    struct map map = map_of(&s);
    check_sums(&map);
    map_row_cells(&map, &map.rows[0], cells);
    for (unsigned i = 4; i < 10; i++) {
        if (i == 6 || i == 7)
            continue;
        assert_int_equal(cells[i].kind, MAP_SPAN);
        assert_int_equal(cells[i].span_slabs, 1);
        assert_int_equal(cells[i].span_distance, 0);
        assert_int_equal(cells[i].used_bytes, cells[i].span_bytes);
    }
    assert_int_equal(cells[4].n_spans, 2);
    assert_int_equal(cells[4].begun_bytes, 20 * PAGE);
    assert_int_equal(cells[4].free_bytes, 0);
    assert_int_equal(map_cell_fullness(&cells[4]), 100);
    assert_int_equal(cells[5].n_spans, 1);
    assert_int_equal(cells[5].span_bytes, 14 * PAGE);
    assert_int_equal(cells[5].free_bytes, PAGE);
    assert_int_equal(map_cell_fullness(&cells[5]), 87);
    assert_int_equal(cells[8].n_spans, 0);
    assert_int_equal(cells[8].used_bytes, 9 * PAGE);
    assert_int_equal(map_cell_fullness(&cells[9]), 100);
    assert_int_equal(map.spans, 4);
    assert_int_equal(map.span_bytes, 30 * PAGE + SLAB_BYTES);
    assert_int_equal(map.classes[CLASS_END].slabs, 4);
    assert_int_equal(map.classes[CLASS_END].used_blocks, 4);
    assert_int_equal(map.used_bytes, 39 * PAGE + SLAB_BYTES);
    assert_int_equal(map_row_fullness(&map.rows[0]), (39 * PAGE + SLAB_BYTES) * 100 / (4 * SLAB_BYTES));
    map_drop(&map);
    drop_snapshot(&s);
}

static void a_run_of_a_thousand_is_one_row(void **state)
{
    (void)state;
    struct snapshot s = make_snapshot("run", 1002);
    put_slab(pooled(&s, 0, SS_TIER_HOT), 0, 16, 1, 1);
    put_run(&s, 1, 1000 * SUPERSLAB_BYTES - 4096);
    s.superslabs[1001].state = SUPERSLAB_CACHED;
    s.superslabs[1001].dirty_prefix_bytes = 12345;
    s.superslabs[700].dirty_prefix_bytes = 0; /* given back, or never written to */
    struct map map = map_of(&s);
    check_sums(&map);
    assert_int_equal(map.n_rows, 3);
    assert_int_equal(map.rows[1].kind, MAP_RUN);
    assert_int_equal(map.rows[1].n_superslabs, 1000);
    assert_int_equal(map.rows[1].memory_bytes, 999 * SUPERSLAB_BYTES - 4096);
    assert_int_equal(map.runs, 1);
    assert_int_equal(map.run_superslabs, 1000);
    assert_int_equal(map.rows[2].kind, MAP_CACHED);
    assert_int_equal(map.rows[2].idle_bytes, 12345);
    assert_int_equal(map_row_fullness(&map.rows[2]), -1);
    map_drop(&map);
    drop_snapshot(&s);
}

/* Each of these is a record that was read while it changed. */
static void what_makes_no_sense_is_torn_and_counted_as_waiting(void **state)
{
    (void)state;
    struct snapshot s = make_snapshot("torn", 6);
    struct snapshot_superslab *ss = pooled(&s, 0, SS_TIER_HOT);
    struct map_cell cells[SUPERSLAB_SLABS];
    put_slab(ss, 0, 64, 100, 16);
    ss->slot[0].class_id = 0;
    put_slab(ss, 1, 64, 100, 16);
    ss->slot[1].class_id = 255;
    ss->slot[2] = (struct snapshot_slot){.state = 77, .dirty_pages = 3};
    ss->slot[3] = (struct snapshot_slot){.state = SLAB_SPAN_BODY, .dirty_pages = 1};
    put_slab(ss, 4, 64, 100, 16);
    ss->slot[4].used = 65535; /* more than there is room for: cut */
    ss->slot[5] = (struct snapshot_slot){.state = SLAB_SPAN_HEAD, .span_slabs = 0};
    ss->slot[6] = (struct snapshot_slot){.state = SLAB_SPAN_HEAD, .span_slabs = 60000, .span_bytes = UINT64_MAX};
    put_span(ss, 8, 3 * SLAB_BYTES);
    ss->slot[10].state = SLAB_EMPTY; /* its third slab is gone: the span has two */
    ss->slot[11] = (struct snapshot_slot){.state = SLAB_PACKED, .dirty_pages = 1};
    put_packed(ss, 12, 9, 1);
    ss->slot[12].packed_spans = PACKED_HEADS + 1;
    put_packed(ss, 13, 9, 1);
    ss->slot[13].span_bytes = UINT64_MAX; /* cut */
    ss->slot[31] = (struct snapshot_slot){.state = SLAB_SPAN_HEAD, .span_slabs = 2, .span_bytes = 70000};
    pooled(&s, 1, 9);
    s.superslabs[2].state = SUPERSLAB_RUN_BODY;
    s.superslabs[2].dirty_prefix_bytes = UINT32_MAX;
    put_run(&s, 3, SUPERSLAB_BYTES);
    s.superslabs[3].run_superslabs = UINT32_MAX; /* its bodies are not there */
    s.superslabs[3].run_bytes = UINT64_MAX;
    s.superslabs[4].state = 200;
    s.superslabs[5].state = SUPERSLAB_LEAVING;
    struct map map = map_of(&s);
    check_sums(&map);
    map_row_cells(&map, &map.rows[0], cells);
    static const unsigned torn[] = {0, 1, 2, 3, 5, 6, 11, 12, 31};
    for (size_t i = 0; i < sizeof torn / sizeof torn[0]; i++)
        assert_int_equal(cells[torn[i]].kind, MAP_TORN);
    assert_int_equal(cells[4].used, 1024);
    assert_int_equal(cells[4].free_bytes, 0);
    assert_int_equal(cells[8].span_slabs, 2);
    assert_int_equal(cells[9].span_distance, 1);
    assert_int_equal(cells[10].kind, MAP_IDLE);
    assert_int_equal(cells[13].begun_bytes, SUPERSLAB_BYTES);
    static const enum map_row_kind kinds[] = {MAP_HOT, MAP_ROW_TORN, MAP_ROW_TORN, MAP_RUN, MAP_ROW_TORN, MAP_MOVING};
    assert_int_equal(map.n_rows, 6);
    for (size_t i = 0; i < 6; i++)
        assert_int_equal(map.rows[i].kind, kinds[i]);
    assert_int_equal(map.rows[2].memory_bytes, SUPERSLAB_BYTES);
    assert_int_equal(map.rows[3].n_superslabs, 1);
    map_drop(&map);
    drop_snapshot(&s);
}

/* Whatever bytes a snapshot holds, the sums hold and nothing is read beyond. */
static void any_bytes_at_all(void **state)
{
    (void)state;
    uint32_t seed = 42;
    for (int round = 0; round < 300; round++) {
        struct snapshot s = make_noise(8, &seed);
        struct map map = map_of(&s);
        check_sums(&map);
        map_drop(&map);
        drop_snapshot(&s);
    }
}

/* Hardened mode has blocks on pages of their own in a SuperSlab each: live are the usable bytes, in memory a few pages. */
static void live_and_not_in_memory(void **state)
{
    (void)state;
    struct snapshot s = make_snapshot("hardened", 3);
    put_run(&s, 0, 3 * SUPERSLAB_BYTES);
    for (size_t i = 0; i < 3; i++)
        s.superslabs[i].dirty_prefix_bytes = PAGE;
    s.census.stats.live_bytes = 2 * SUPERSLAB_BYTES;
    s.census.stats.cached_bytes = SUPERSLAB_BYTES;
    struct map map = map_of(&s);
    check_sums(&map);
    assert_int_equal(map.live_bytes, 2 * SUPERSLAB_BYTES);
    assert_int_equal(map.cached_memory_bytes + map.live_memory_bytes, 3 * PAGE);
    map_drop(&map);
    drop_snapshot(&s);
}

static void larger_system_pages(void **state)
{
    (void)state;
    struct snapshot s = make_snapshot("pages", 1);
    put_slab(pooled(&s, 0, SS_TIER_HOT), 0, 1024, 10, 1);
    s.slab_page_bytes = 65536;
    struct map map = map_of(&s);
    assert_int_equal(map.memory_bytes, 65536);
    assert_int_equal(map.free_bytes, 65536 - 10240);
    map_drop(&map);
    drop_snapshot(&s);
}

static void sizes_as_text(void **state)
{
    (void)state;
    static const struct {
        uint64_t bytes;
        const char *text;
    } rows[] = {{0, "0 B"},
                {1023, "1023 B"},
                {1024, "1.0 KiB"},
                {1536, "1.5 KiB"},
                {1048575, "1.0 MiB"}, /* not 1024.0 KiB */
                {1048576, "1.0 MiB"},
                {(uint64_t)5 << 40, "5.0 TiB"},
                {UINT64_MAX, "16.0 EiB"}};
    char text[MAP_TEXT_BYTES];
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        assert_string_equal(map_bytes_text(rows[i].bytes, text), rows[i].text);
    assert_string_equal(map_class_text(class_of(64), text), "64 B");
    assert_string_equal(map_class_text(CLASS_END, text), "spans");
    assert_string_equal(map_class_text(CLASS_END + 1, text), "runs");
}

/* Another process chooses its name: no control character and no half of a character of it may reach a terminal or a file. */
static void names_are_cleaned(void **state)
{
    (void)state;
    static const struct {
        const char *name, *text, *ascii;
    } rows[] = {{"redis-server", "redis-server", "redis-server"},
                {"\033[2Jevil\n", "?[2Jevil?", "?[2Jevil?"},
                {"caf\u00e9 \u65e5\u672c", "caf\u00e9 \u65e5\u672c", "caf? ??"},
                {"\xc3", "?", "?"}, /* cut within a character, as the system does after 15 bytes */
                {"\xe6\x97x", "??x", "??x"},
                {"\xc0\xaf", "??", "??"},             /* '/' in two bytes */
                {"\xed\xa0\x80", "???", "???"},       /* half of a pair */
                {"\xf5\x80\x80\x80", "????", "????"}, /* beyond Unicode */
                {"\xc2\x9b"
                 "31m",
                 "??31m", "??31m"}, /* the one-byte form of ESC [ */
                {"a\u202e"
                 "b",
                 "a???b", "a???b"}, /* turns the direction of writing */
                {"", "", ""}};
    char text[64];
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        map_clean_name(rows[i].name, false, text, sizeof text);
        assert_string_equal(text, rows[i].text);
        map_clean_name(rows[i].name, true, text, sizeof text);
        assert_string_equal(text, rows[i].ascii);
    }
    char small[4];
    map_clean_name("ab\u00e9", false, small, sizeof small); /* the last character does not fit whole */
    assert_string_equal(small, "ab");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_empty_heap),
        cmocka_unit_test(slabs_spans_and_what_waits),
        cmocka_unit_test(held_slots),
        cmocka_unit_test(packed_spans),
        cmocka_unit_test(a_run_of_a_thousand_is_one_row),
        cmocka_unit_test(what_makes_no_sense_is_torn_and_counted_as_waiting),
        cmocka_unit_test(any_bytes_at_all),
        cmocka_unit_test(live_and_not_in_memory),
        cmocka_unit_test(larger_system_pages),
        cmocka_unit_test(sizes_as_text),
        cmocka_unit_test(names_are_cleaned),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
