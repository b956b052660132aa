/* test_top_print.c - `hakmem top --once` and `--json`: what they print of made-up figures, edge values among them.
 * Owns     readers of both forms.     Threads  one.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "figures_data.h"
#include "top.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

#define CHARACTERS_OF_A_NAME "q\"b\\n\n\xff"

/* ---- Text -------------------------------------------------------------------------------------------------------- */

static char *print_text(const struct snapshot *earlier, const struct snapshot *now, const struct process_thread *names,
                        size_t n_names)
{
    struct capture c;
    struct figures f;
    figures_make(&f, earlier, now, names, n_names);
    top_print_text(begin_capture(&c), &f);
    figures_free(&f);
    return end_capture(&c);
}

/* The n-th field, from 1, of the line that begins with a word; fails where there is none. As awk would find it. */
static const char *field_of(const char *text, const char *word, unsigned n)
{
    static char copy[1024];
    const size_t len = strlen(word);
    for (const char *line = text; line != NULL; line = strchr(line, '\n')) {
        line += *line == '\n';
        if (strncmp(line, word, len) != 0 || line[len] != ' ')
            continue;
        snprintf(copy, sizeof copy, "%.*s", (int)strcspn(line, "\n"), line);
        char *field = strtok(copy, " ");
        for (unsigned i = 1; i < n && field != NULL; i++)
            field = strtok(NULL, " ");
        assert_non_null(field);
        return field;
    }
    fail_msg("no line begins with %s", word);
    return NULL;
}

static void test_text(void **state)
{
    struct snapshot before = begin_data("redis-server", 1), now = begin_data("redis-server", 1);
    const struct process_thread names[] = {{1, "main thread"}};
    (void)state;
    put_class(&now, 64, 3, 1000, 24, 2048);
    now.census.stats.live_bytes = 64000;
    before.census.stats.live_bytes = 65000;
    now.census.stats.refills = 12;
    now.census.stats.stage_os = 3;
    now.census.stats.gap_slabs = 5;
    now.census.stats.gap_blocks_total = 6;
    now.census.stats.hot_by_fullness[9] = 7;
    now.threads[0].cached_bytes = 1536;
    now.threads[0].refills = 12;
    now.resident_bytes = 1 << 20;
    now.time_ns += SECOND_NS / 2;
    char *text = print_text(&before, &now, names, 1);
    assert_string_equal(field_of(text, "process", 2), "4711");
    assert_string_equal(field_of(text, "process", 3), "redis-server");
    assert_string_equal(field_of(text, "library", 2), "0.1.0");
    assert_string_equal(field_of(text, "interval_s", 2), "0.500");
    assert_string_equal(field_of(text, "live_bytes", 2), "64000");
    assert_string_equal(field_of(text, "live_bytes", 3), "-2000.0");
    assert_string_equal(field_of(text, "refills", 3), "24.0");
    assert_string_equal(field_of(text, "acquired_os", 2), "3");
    assert_string_equal(field_of(text, "process_resident_bytes", 2), "1048576");
    assert_string_equal(field_of(text, "superslabs_hot_100%_full", 2), "7");
    assert_string_equal(field_of(text, "gap_slabs", 2), "5");
    assert_string_equal(field_of(text, "gap_blocks_total", 2), "6");
    assert_string_equal(field_of(text, "64", 2), "3");
    assert_string_equal(field_of(text, "64", 6), "32.6");
    assert_string_equal(field_of(text, "64", 9), "131072");
    assert_string_equal(field_of(text, "64", 10), "128000.0"); /* of 64,000 bytes in half a second */
    assert_string_equal(field_of(text, "1", 2), "1536");
    assert_string_equal(field_of(text, "1", 5), "24.0");
    assert_string_equal(field_of(text, "1", 9), "main");
    assert_non_null(strstr(text, "  main thread\n"));
    free(text);
    text = print_text(NULL, &now, NULL, 0);
    assert_null(strstr(text, "interval_s"));
    assert_string_equal(field_of(text, "live_bytes", 3), "-");
    assert_string_equal(field_of(text, "64", 10), "-");
    assert_string_equal(field_of(text, "1", 5), "-");
    assert_string_equal(field_of(text, "1", 9), "-");
    free(text);
    end_data(&before);
    end_data(&now);
}

/* In each table the last character of every number lies below that of its heading. */
static void assert_aligned(const char *text)
{
    size_t ends[16];
    unsigned n_ends = 0;
    for (const char *line = text; *line != '\0'; line += strcspn(line, "\n") + 1) {
        const size_t len = strcspn(line, "\n");
        unsigned column = 0;
        if (len == 0) {
            n_ends = 0;
            continue;
        }
        const bool heading = n_ends == 0;
        const bool table = strncmp(line, "process ", 8) != 0 && strncmp(line, "library ", 8) != 0;
        for (size_t i = 0; i < len && table && column < 8; i++) {
            if (line[i] == ' ' || (i + 1 < len && line[i + 1] != ' '))
                continue;
            if (heading)
                ends[n_ends++] = i;
            else if (column > 0)
                assert_int_equal(i, ends[column]);
            column++;
        }
    }
}

static void test_text_is_aligned(void **state)
{
    static const uint64_t numbers[] = {0, 1, 1 << 20, HUGE_NUMBER, UINT64_MAX};
    (void)state;
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
        struct snapshot now = begin_data("x", 3);
        fill_data(&now, numbers[i]);
        now.threads[0].cached_bytes = 12;
        char *text = print_text(NULL, &now, NULL, 0);
        assert_aligned(strchr(text, '\n') + 1);
        free(text);
        end_data(&now);
    }
}

static void test_text_of_nothing(void **state)
{
    struct snapshot now = begin_data("", 0);
    (void)state;
    char *text = print_text(NULL, &now, NULL, 0);
    assert_string_equal(field_of(text, "live_bytes", 2), "0");
    assert_string_equal(field_of(text, "class", 2), "slabs");
    assert_string_equal(field_of(text, "class", 10), "growth/s");
    assert_string_equal(field_of(text, "thread", 2), "cached_bytes");
    assert_null(strstr(text, "%_full"));
    free(text);
    end_data(&now);
}

/* A name cannot begin a line or reach the terminal. */
static void test_text_of_names(void **state)
{
    struct snapshot now = begin_data("a\nlive_bytes 7\033[2J", 1);
    const struct process_thread names[] = {{1, CHARACTERS_OF_A_NAME}};
    (void)state;
    char *text = print_text(NULL, &now, names, 1);
    assert_null(strchr(text, '\033'));
    assert_string_equal(field_of(text, "live_bytes", 2), "0");
    assert_non_null(strstr(text, "a?live_bytes 7?[2J\n"));
    assert_non_null(strstr(text, "q\"b\\n??\n"));
    free(text);
    end_data(&now);
}

/* ---- JSON -------------------------------------------------------------------------------------------------------- */

static json_t *print_json(const struct snapshot *earlier, const struct snapshot *now,
                          const struct process_thread *names, size_t n_names)
{
    struct capture c;
    struct figures f;
    json_error_t error;
    figures_make(&f, earlier, now, names, n_names);
    top_print_json(begin_capture(&c), &f);
    figures_free(&f);
    char *text = end_capture(&c);
    assert_true(c.len > 0 && strchr(text, '\n') == text + c.len - 1); /* one line */
    json_t *object = json_loads(text, JSON_REJECT_DUPLICATES, &error);
    assert_non_null(object);
    free(text);
    return object;
}

static json_int_t integer_at(json_t *object, const char *key)
{
    json_t *value = json_object_get(object, key);
    assert_true(json_is_integer(value));
    return json_integer_value(value);
}

static void test_json(void **state)
{
    struct snapshot before = begin_data("redis-server", 1), now = begin_data("redis-server", 2);
    const struct process_thread names[] = {{1, "main"}};
    (void)state;
    put_class(&now, 64, 3, 1000, 24, 2048);
    now.census.stats.live_bytes = 64000;
    now.census.classes[class_of(64)].following_blocks = 13;
    now.census.stats.gap_slabs = 5;
    now.census.stats.gap_blocks_total = 6;
    now.census.stats.lock_acquisitions[HAK_LOCK_SPAN] = 9;
    now.census.stats.draining_by_fullness[0] = 2;
    now.threads[1].refills = 12; /* thread 1 */
    now.threads[1].cached_by_class[class_of(64)] = 24;
    now.time_ns += SECOND_NS;
    json_t *object = print_json(&before, &now, names, 1), *heap = json_object_get(object, "heap");
    assert_int_equal(integer_at(object, "pid"), 4711);
    assert_string_equal(json_string_value(json_object_get(object, "name")), "redis-server");
    assert_true(json_real_value(json_object_get(object, "interval_s")) == 1);
    assert_true(json_is_null(json_object_get(object, "process_resident_bytes")));
    assert_true(json_real_value(json_object_get(json_object_get(object, "rates"), "live_bytes")) == 64000);
    assert_int_equal(integer_at(heap, "version"), HAK_STATS_VERSION);
    assert_int_equal(integer_at(heap, "live_bytes"), 64000);
    assert_int_equal(integer_at(heap, "gap_slabs"), 5);
    assert_int_equal(integer_at(heap, "gap_blocks_total"), 6);
    assert_int_equal(integer_at(json_object_get(heap, "lock_acquisitions"), "span"), 9);
    json_t *draining = json_object_get(json_object_get(heap, "tiers"), "draining");
    assert_int_equal(json_integer_value(json_array_get(json_object_get(draining, "by_fullness"), 0)), 2);
    json_t *classes = json_object_get(heap, "classes");
    assert_int_equal(json_array_size(classes), 1);
    assert_int_equal(integer_at(json_array_get(classes, 0), "block_bytes"), 64);
    assert_int_equal(integer_at(json_array_get(classes, 0), "cached_blocks"), 24);
    assert_int_equal(integer_at(json_array_get(classes, 0), "following_blocks"), 13);
    assert_null(json_object_get(heap, "rounding_bytes"));
    json_t *threads = json_object_get(object, "threads"), *caches = json_object_get(heap, "thread_caches");
    assert_int_equal(json_array_size(threads), 2);
    assert_int_equal(json_array_size(caches), 2);
    assert_string_equal(json_string_value(json_object_get(json_array_get(threads, 0), "name")), "main");
    assert_true(json_real_value(json_object_get(json_array_get(threads, 0), "refills_per_s")) == 12);
    assert_true(json_is_null(json_object_get(json_array_get(threads, 1), "name")));
    assert_int_equal(integer_at(json_object_get(json_array_get(caches, 1), "cached_blocks_by_class"), "64"), 24);
    json_decref(object);
    object = print_json(NULL, &now, NULL, 0);
    assert_true(json_is_null(json_object_get(object, "interval_s")));
    assert_true(json_is_null(json_object_get(object, "rates")));
    json_decref(object);
    end_data(&before);
    end_data(&now);
}

static void test_json_of_edges(void **state)
{
    static const struct {
        uint64_t number;
        json_int_t printed;
    } rows[] = {{1, 1}, {INT64_MAX, INT64_MAX}, {HUGE_NUMBER, INT64_MAX}, {UINT64_MAX, INT64_MAX}};
    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct snapshot now = begin_data("x", 2);
        fill_data(&now, rows[i].number);
        json_t *object = print_json(NULL, &now, NULL, 0), *heap = json_object_get(object, "heap");
        assert_true(integer_at(heap, "live_bytes") == rows[i].printed);
        assert_true(integer_at(heap, "rounding_samples") == rows[i].printed);
        assert_true(integer_at(json_array_get(json_object_get(heap, "classes"), 0), "slabs") == rows[i].printed);
        assert_int_equal(json_array_size(json_object_get(heap, "classes")), CENSUS_CLASSES - CLASS_FIRST);
        json_decref(object);
        end_data(&now);
    }
}

static void test_json_of_nothing_and_of_many(void **state)
{
    struct snapshot none = begin_data("", 0), many = begin_data("x", 5000);
    (void)state;
    json_t *object = print_json(NULL, &none, NULL, 0);
    assert_int_equal(json_array_size(json_object_get(object, "threads")), 0);
    assert_int_equal(integer_at(json_object_get(object, "heap"), "live_bytes"), 0);
    json_decref(object);
    object = print_json(NULL, &many, NULL, 0);
    assert_int_equal(json_array_size(json_object_get(object, "threads")), 5000);
    assert_int_equal(json_array_size(json_object_get(json_object_get(object, "heap"), "thread_caches")),
                     CENSUS_MAX_THREADS); /* as many as the library itself lists */
    json_decref(object);
    end_data(&none);
    end_data(&many);
}

static void test_json_of_names(void **state)
{
    struct snapshot now = begin_data(CHARACTERS_OF_A_NAME, 1);
    const struct process_thread names[] = {{1, CHARACTERS_OF_A_NAME}};
    (void)state;
    json_t *object = print_json(NULL, &now, names, 1);
    assert_string_equal(json_string_value(json_object_get(object, "name")), "q\"b\\n\n?");
    json_t *thread = json_array_get(json_object_get(object, "threads"), 0);
    assert_string_equal(json_string_value(json_object_get(thread, "name")), "q\"b\\n\n?");
    json_decref(object);
    end_data(&now);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_text),
        cmocka_unit_test(test_text_is_aligned),
        cmocka_unit_test(test_text_of_nothing),
        cmocka_unit_test(test_text_of_names),
        cmocka_unit_test(test_json),
        cmocka_unit_test(test_json_of_edges),
        cmocka_unit_test(test_json_of_nothing_and_of_many),
        cmocka_unit_test(test_json_of_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
