/* test_map_json.c - the map as JSON: one line that parses, and whose parts add up to its sums.
 */
#include "made_up.h"
#include "map_output.h"

#include <jansson.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static json_t *json_of(const struct snapshot *s)
{
    char *text = NULL;
    size_t n = 0;
    struct map map;
    json_error_t error;
    FILE *out = open_memstream(&text, &n);
    assert_non_null(out);
    assert_int_equal(map_make(s, &map), 0);
    assert_int_equal(map_print_json(out, &map), 0);
    fclose(out);
    map_drop(&map);
    assert_ptr_equal(strchr(text, '\n'), text + n - 1);
    json_t *json = json_loadb(text, n, JSON_REJECT_DUPLICATES, &error);
    if (json == NULL)
        fail_msg("%s", error.text);
    free(text);
    return json;
}

static int64_t integer(const json_t *object, const char *field)
{
    const json_t *value = json_object_get(object, field);
    if (!json_is_integer(value))
        fail_msg("no number %s", field);
    return json_integer_value(value);
}

static int64_t sum_of(const json_t *array, const char *field)
{
    int64_t sum = 0;
    size_t i;
    json_t *one;
    json_array_foreach((json_t *)(uintptr_t)array, i, one) sum += integer(one, field);
    return sum;
}

static void parts_add_up(void **state)
{
    (void)state;
    struct snapshot s = make_server(60, 3);
    json_t *json = json_of(&s);
    const json_t *totals = json_object_get(json, "totals"), *rows = json_object_get(json, "superslabs");
    static const char *const fields[] = {"memory_bytes", "used_bytes", "free_bytes", "idle_bytes"};
    for (unsigned i = 0; i < 4; i++)
        assert_int_equal(sum_of(rows, fields[i]), integer(totals, fields[i]));
    assert_int_equal(sum_of(json_object_get(json, "classes"), "free_bytes"), integer(totals, "free_bytes"));
    assert_int_equal(integer(totals, "live_memory_bytes") + integer(totals, "cached_memory_bytes"),
                     integer(totals, "used_bytes"));
    size_t i;
    json_t *row;
    json_array_foreach((json_t *)(uintptr_t)rows, i, row)
    {
        const json_t *slots = json_object_get(row, "slots");
        if (slots == NULL)
            continue;
        assert_int_equal(sum_of(slots, "used_bytes"), integer(row, "used_bytes"));
        assert_int_equal(sum_of(slots, "free_bytes"), integer(row, "free_bytes") + integer(row, "idle_bytes"));
    }
    json_decref(json);
    drop_snapshot(&s);
}

static void fields_of_a_small_heap(void **state)
{
    (void)state;
    struct snapshot s = make_snapshot("small<\"\\\xff", 4);
    struct snapshot_superslab *ss = pooled(&s, 0, SS_TIER_DRAINING);
    put_slab(ss, 3, 64, 100, 2);
    put_span(ss, 5, 100000);
    put_packed(ss, 9, 10, 2);
    put_run(&s, 1, 3 * SUPERSLAB_BYTES);
    json_t *json = json_of(&s);
    const json_t *rows = json_object_get(json, "superslabs"), *first = json_array_get(rows, 0),
                 *run = json_array_get(rows, 1);
    assert_string_equal(json_string_value(json_object_get(json, "name")), "small<\"\\?");
    assert_int_equal(json_array_size(rows), 2);
    assert_string_equal(json_string_value(json_object_get(first, "address")), "0x7f0000000000");
    assert_string_equal(json_string_value(json_object_get(first, "kind")), "draining");
    const json_t *slots = json_object_get(first, "slots"), *slab = json_array_get(slots, 0),
                 *head = json_array_get(slots, 1);
    assert_int_equal(json_array_size(slots), 5);
    assert_int_equal(integer(slab, "slot"), 3);
    assert_int_equal(integer(slab, "block_bytes"), 64);
    assert_int_equal(integer(slab, "used"), 100);
    assert_int_equal(integer(slab, "room"), 1024);
    assert_int_equal(integer(slab, "pages"), 3);
    assert_string_equal(json_string_value(json_object_get(slab, "state")), "partial");
    assert_int_equal(integer(head, "span_bytes"), 100000);
    assert_int_equal(integer(head, "span_slabs"), 2);
    assert_string_equal(json_string_value(json_object_get(head, "state")), "span");
    const json_t *full = json_array_get(slots, 3), *rest = json_array_get(slots, 4);
    assert_string_equal(json_string_value(json_object_get(full, "state")), "packed");
    assert_int_equal(integer(full, "span_bytes"), 16 * PAGE);
    assert_int_equal(integer(full, "spans"), 2);
    assert_int_equal(integer(rest, "slot"), 10);
    assert_int_equal(integer(rest, "span_bytes"), 4 * PAGE);
    assert_int_equal(integer(rest, "used_bytes"), 4 * PAGE);
    assert_int_equal(integer(rest, "spans"), 0);
    assert_int_equal(integer(json_object_get(json, "totals"), "spans"), 3);
    assert_int_equal(integer(json_object_get(json, "totals"), "span_bytes"), 100000 + 20 * PAGE);
    assert_int_equal(integer(run, "run_superslabs"), 3);
    assert_int_equal(integer(run, "run_bytes"), 3 * SUPERSLAB_BYTES);
    json_decref(json);
    drop_snapshot(&s);
}

static void edges(void **state)
{
    (void)state;
    struct snapshot heaps[] = {make_snapshot("empty", 0), make_server(3000, 2)};
    heaps[1].superslabs[0].slot[0].state = 90;
    heaps[1].superslabs[1].state = 90;
    for (unsigned i = 0; i < 2; i++) {
        json_t *json = json_of(&heaps[i]);
        assert_int_equal(json_array_size(json_object_get(json, "superslabs")), i == 0 ? 0 : 2997);
        json_decref(json);
        drop_snapshot(&heaps[i]);
    }
}

static void any_bytes_at_all(void **state)
{
    (void)state;
    uint32_t seed = 10;
    for (unsigned round = 0; round < 30; round++) {
        struct snapshot s = make_noise(20, &seed);
        json_t *json = json_of(&s);
        assert_int_equal(sum_of(json_object_get(json, "superslabs"), "memory_bytes"),
                         integer(json_object_get(json, "totals"), "memory_bytes"));
        json_decref(json);
        drop_snapshot(&s);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(parts_add_up),
        cmocka_unit_test(fields_of_a_small_heap),
        cmocka_unit_test(edges),
        cmocka_unit_test(any_bytes_at_all),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
