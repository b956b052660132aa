/* test_stats_json.c - hak_stats_json: every figure of struct hak_stats is in it, and nothing else but the lists; how it is cut.
 * Owns     a small strict reader of JSON, and the list of the fields of struct hak_stats.
 * Threads  one, save where a test starts some.
 * That the text fits its schema, and the schema its documentation, is tests/scripts/stats_schema.sh's to prove.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "api/introspect.h"
#include "front/thread.h"
#include "hakmem/hakmem.h"
#include "look.h"
#include "process.h"

#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

/* Every 64-bit counter of the struct, in its order, but for what JSON has in objects and lists, or not always. The struct's size
 * proves that none is missing. */
/* clang-format off */
#define COUNTERS_BEFORE_LOCKS(X)                                                                                       \
    X(live_bytes) X(live_blocks) X(cached_bytes) X(cached_blocks) X(committed_bytes) X(peak_committed_bytes)           \
    X(reserved_bytes) X(metadata_bytes) X(superslabs) X(superslabs_hot) X(superslabs_draining) X(superslabs_cached)    \
    X(superslabs_mapped_total) X(superslabs_released_total) X(superslabs_evicted_total) X(slots_unused)                \
    X(slots_active) X(slots_empty) X(spans) X(span_bytes) X(runs) X(run_bytes) X(stage_class_list) X(stage_slot)       \
    X(stage_reopen) X(stage_lru) X(stage_os) X(slabs_released) X(slot_reuses_other_class) X(tier_hot_to_draining)      \
    X(tier_draining_to_hot) X(tier_to_free) X(release_refused_pinned) X(purged_bytes)
/* clang-format on */
/* clang-format off */
#define COUNTERS_AFTER_LOCKS(X)                                                                                        \
    X(lock_contended) X(refills) X(flushes) X(threads) X(arenas) X(caches_emptied) X(mapped_bytes)                     \
    X(budget_soft_bytes) X(budget_hard_bytes) X(budget_refusals) X(budget_reliefs) X(sampled_total)                    \
    X(fragmentation_bytes) X(empty_bytes) X(sampled_blocks) X(sampled_bytes) X(waiting_blocks) X(waiting_bytes)        \
    X(gap_slabs) X(gap_blocks_total)
/* clang-format on */
#define ROUNDING(X) X(rounding_bytes) X(rounding_of_bytes) X(rounding_samples)
#define ONE(name) +1
enum {
    N_COUNTERS = 0 COUNTERS_BEFORE_LOCKS(ONE) COUNTERS_AFTER_LOCKS(ONE),
    N_ROUNDING = 0 ROUNDING(ONE),
    N_TENTHS = 2 * HAK_STATS_TENTHS, /* of two tiers */
};
_Static_assert(sizeof(struct hak_stats) == 8 + 8 * (N_COUNTERS + HAK_LOCK_N_CAUSES + N_TENTHS + N_ROUNDING),
               "the list has every field");

static const struct field {
    const char *name;
    size_t offset;
} fields[] = {
#define FIELD(name) {#name, offsetof(struct hak_stats, name)},
    COUNTERS_BEFORE_LOCKS(FIELD) COUNTERS_AFTER_LOCKS(FIELD) ROUNDING(FIELD)};

static uint64_t counter_of(const struct hak_stats *s, size_t offset)
{
    uint64_t n;
    memcpy(&n, (const char *)s + offset, sizeof n);
    return n;
}

/* ---- A reader of JSON -------------------------------------------------------------------------------------------------- */

/* Reads one object of whole numbers, strings without escapes, and objects and lists of the same; RFC 8259's grammar for these, and
 * no key twice. Values are found by path: "threads", "lock_acquisitions.span", "classes.0.slabs". */
#define MAX_VALUES 2048
struct value {
    char path[64], text[32];
    bool number;
};
struct json {
    const char *at;
    struct value values[MAX_VALUES];
    unsigned n_values;
};

static void skip_space(struct json *json)
{
    json->at += strspn(json->at, " \t\r\n");
}

static bool read_token(struct json *json, char token)
{
    skip_space(json);
    if (*json->at != token)
        return false;
    json->at++;
    skip_space(json);
    return true;
}

static bool read_string(struct json *json, char *out, size_t out_bytes)
{
    if (*json->at != '"')
        return false;
    const char *end = ++json->at;
    for (; *end != '"'; end++)
        if ((unsigned char)*end < 0x20 || *end == '\\')
            return false;
    size_t len = (size_t)(end - json->at);
    if (len >= out_bytes)
        return false;
    memcpy(out, json->at, len);
    out[len] = 0;
    json->at = end + 1;
    return true;
}

/* A whole number without sign: 0, or digits that do not begin with 0. */
static bool read_number(struct json *json, char *out, size_t out_bytes)
{
    size_t len = strspn(json->at, "0123456789");
    if (len == 0 || len >= out_bytes || (json->at[0] == '0' && len > 1) || strchr(".eE", json->at[len]) != NULL)
        return false;
    memcpy(out, json->at, len);
    out[len] = 0;
    json->at += len;
    return true;
}

static bool read_object(struct json *json, const char *prefix);
static bool read_list(struct json *json, const char *prefix);

static bool read_value(struct json *json, const char *path)
{
    char prefix[66];
    snprintf(prefix, sizeof prefix, "%s.", path);
    if (*json->at == '{')
        return read_object(json, prefix);
    if (*json->at == '[')
        return read_list(json, prefix);
    if (json->n_values == MAX_VALUES)
        return false;
    struct value *value = &json->values[json->n_values++];
    strcpy(value->path, path);
    value->number = *json->at != '"';
    return value->number ? read_number(json, value->text, sizeof value->text)
                         : read_string(json, value->text, sizeof value->text);
}

static bool read_member(struct json *json, const char *prefix)
{
    char key[32], path[64];
    if (!read_string(json, key, sizeof key) || !read_token(json, ':') ||
        snprintf(path, sizeof path, "%s%s", prefix, key) >= (int)sizeof path)
        return false;
    for (unsigned i = 0; i < json->n_values; i++)
        if (strcmp(json->values[i].path, path) == 0)
            return false;
    return read_value(json, path);
}

static bool read_object(struct json *json, const char *prefix)
{
    if (!read_token(json, '{'))
        return false;
    if (read_token(json, '}'))
        return true;
    do {
        if (!read_member(json, prefix))
            return false;
    } while (read_token(json, ','));
    return read_token(json, '}');
}

static bool read_list(struct json *json, const char *prefix)
{
    if (!read_token(json, '['))
        return false;
    if (read_token(json, ']'))
        return true;
    unsigned i = 0;
    do {
        char path[64];
        if (snprintf(path, sizeof path, "%s%u", prefix, i++) >= (int)sizeof path || !read_value(json, path))
            return false;
    } while (read_token(json, ','));
    return read_token(json, ']');
}

static bool read_json(struct json *json, const char *text)
{
    memset(json, 0, sizeof *json);
    json->at = text;
    return read_object(json, "") && *json->at == 0;
}

static const struct value *find_value(const struct json *json, const char *path)
{
    for (unsigned i = 0; i < json->n_values; i++)
        if (strcmp(json->values[i].path, path) == 0)
            return &json->values[i];
    return NULL;
}

static void reader_is_strict(void **state)
{
    (void)state;
    static const char *const right[] = {"{}", "{\"a\":1}", " { \"a\" : 0 , \"b\" : { \"c\" : \"x\" } } ",
                                        "{\"a\":[],\"b\":[1,{\"c\":2},[\"x\"]]}"};
    static const char *const wrong[] = {"",
                                        "{",
                                        "{}}",
                                        "{\"a\":1,}",
                                        "{\"a\":01}",
                                        "{\"a\":-1}",
                                        "{\"a\":1 \"b\":2}",
                                        "{a:1}",
                                        "{\"a\":1,\"a\":2}",
                                        "{\"a\":}",
                                        "{\"a\":1}x",
                                        "[1]",
                                        "{\"a\":[1,]}",
                                        "{\"a\":[1}",
                                        "{\"a\":[1 2]}",
                                        "{\"a\":1.5}"};
    struct json json;
    for (size_t i = 0; i < sizeof right / sizeof right[0]; i++)
        assert_true(read_json(&json, right[i]));
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++)
        assert_false(read_json(&json, wrong[i]));
}

/* ---- JSON --------------------------------------------------------------------------------------------------------------- */

static void assert_number(const struct json *json, const char *path, uint64_t n)
{
    const struct value *value = find_value(json, path);
    if (value == NULL || !value->number)
        fail_msg("no number named %s", path);
    if (strtoull(value->text, NULL, 10) != n)
        fail_msg("%s is %s, not %llu", path, value->text, (unsigned long long)n);
}

static void assert_text(const struct json *json, const char *path, const char *text)
{
    const struct value *value = find_value(json, path);
    if (value == NULL || value->number || strcmp(value->text, text) != 0)
        fail_msg("%s is %s, not %s", path, value == NULL ? "not there" : value->text, text);
}

/* How many values lie below a path. */
static unsigned count_below(const struct json *json, const char *prefix)
{
    unsigned n = 0;
    for (unsigned i = 0; i < json->n_values; i++)
        n += strncmp(json->values[i].path, prefix, strlen(prefix)) == 0;
    return n;
}

static char text[65536];
static struct json json;

static void read_all(void)
{
    size_t len = hak_stats_json(text, sizeof text);
    assert_true(len < sizeof text);
    assert_int_equal(strlen(text), len);
    assert_true(read_json(&json, text));
}

/* Nothing happens between the two readings, so every figure is the same in both. */
static void json_has_every_field(void **state)
{
    (void)state;
    void *small = hak_malloc(100), *span = hak_malloc(100000), *run = hak_malloc(3 << 20);
    struct hak_stats s = read_stats();
    read_all();
    for (size_t i = 0; i < N_COUNTERS; i++)
        assert_number(&json, fields[i].name, counter_of(&s, fields[i].offset));
    for (unsigned i = 0; i < HAK_LOCK_N_CAUSES; i++) {
        char path[64];
        snprintf(path, sizeof path, "lock_acquisitions.%s", lock_names[i]);
        assert_number(&json, path, s.lock_acquisitions[i]);
    }
    assert_number(&json, "version", HAK_STATS_VERSION);
    assert_text(&json, "profile", hak_profile_name());
    struct hak_resident resident;
    assert_int_equal(hak_resident_get(&resident), 0);
    assert_number(&json, "resident_bytes", resident.resident_bytes);
    assert_number(&json, "huge_bytes", resident.huge_bytes);
    unsigned n_listed = count_below(&json, "classes.") + count_below(&json, "thread_caches.");
    assert_int_equal(count_below(&json, "tiers."), N_TENTHS + 2);
    assert_int_equal(json.n_values,
                     N_COUNTERS + HAK_LOCK_N_CAUSES + 2 + 2 + N_TENTHS + 2 + n_listed); /* nothing else */
    hak_free(small);
    hak_free(span);
    hak_free(run);
}

static void assert_member(const char *list, unsigned i, const char *name, uint64_t n)
{
    char path[128];
    snprintf(path, sizeof path, "%s.%u.%s", list, i, name);
    assert_number(&json, path, n);
}

/* The classes in use in their order, then spans and runs. */
static void compare_classes(const struct census *c)
{
    unsigned n = 0;
    for (unsigned i = CLASS_FIRST; i < CENSUS_CLASSES; i++) {
        const struct census_class *class = &c->classes[i];
        if (class->slabs == 0)
            continue;
        char path[64];
        snprintf(path, sizeof path, "classes.%u.kind", n);
        assert_text(&json, path, i == CENSUS_SPANS ? "span" : i == CENSUS_RUNS ? "run" : "class");
        assert_member("classes", n, "block_bytes", i < CLASS_END ? class_table[i].bytes : 0);
#define COMPARE(name) assert_member("classes", n, #name, class->name);
        COMPARE(slabs)
        COMPARE(live_blocks)
        COMPARE(following_blocks)
        COMPARE(live_bytes)
        COMPARE(cached_blocks)
        COMPARE(cached_bytes)
        COMPARE(free_blocks)
        COMPARE(dirty_bytes)
        n++;
    }
    assert_true(n >= 5);
    assert_int_equal(count_below(&json, "classes."), n * 10);
}

static void compare_threads(void)
{
    struct census_source source = introspect_source();
    const struct thread *at = NULL;
    struct census_thread thread;
    unsigned n = 0, n_values = 0;
    for (; census_thread_next(&source, &at, &thread); n++) {
        assert_member("thread_caches", n, "thread_id", (uint64_t)thread.thread_id);
        assert_member("thread_caches", n, "cached_bytes", thread.cached_bytes);
        assert_member("thread_caches", n, "cached_blocks", thread.cached_blocks);
        assert_member("thread_caches", n, "refills", thread.refills);
        assert_member("thread_caches", n, "flushes", thread.flushes);
        assert_member("thread_caches", n, "owned_slabs", thread.owned_slabs);
        assert_member("thread_caches", n, "held_slabs", thread.held_slabs);
        assert_member("thread_caches", n, "held_bytes", thread.held_bytes);
        n_values += 8;
        for (unsigned i = CLASS_FIRST; i < CLASS_END; i++) {
            char path[64];
            snprintf(path, sizeof path, "cached_blocks_by_class.%u", class_table[i].bytes);
            if (thread.cached_by_class[i] == 0)
                continue;
            assert_member("thread_caches", n, path, thread.cached_by_class[i]);
            n_values++;
        }
    }
    assert_int_equal(n, read_stats().threads);
    assert_int_equal(count_below(&json, "thread_caches."), n_values);
}

#define N_THREADS 3
static pthread_barrier_t barrier;

static void *hold_blocks(void *size_bytes)
{
    void *blocks[40];
    for (unsigned i = 0; i < 40; i++)
        blocks[i] = hak_malloc((uintptr_t)size_bytes + i);
    for (unsigned i = 0; i < 20; i++)
        hak_free(blocks[i]);
    pthread_barrier_wait(&barrier);
    pthread_barrier_wait(&barrier);
    for (unsigned i = 20; i < 40; i++)
        hak_free(blocks[i]);
    return NULL;
}

static void json_has_the_lists(void **state)
{
    (void)state;
    pthread_t threads[N_THREADS];
    void *span = hak_malloc(100000), *run = hak_malloc(3 << 20);
    pthread_barrier_init(&barrier, NULL, N_THREADS + 1);
    for (uintptr_t i = 0; i < N_THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, hold_blocks, (void *)(100 + i * 1000)), 0);
    pthread_barrier_wait(&barrier);
    struct census c;
    introspect_census(&c);
    read_all();
    compare_classes(&c);
    compare_threads();
    static const char *const tiers[] = {"hot", "draining"};
    const uint64_t sums[] = {c.stats.superslabs_hot, c.stats.superslabs_draining};
    for (unsigned t = 0; t < 2; t++) {
        char path[64];
        snprintf(path, sizeof path, "tiers.%s.superslabs", tiers[t]);
        assert_number(&json, path, sums[t]);
        for (unsigned i = 0; i < HAK_STATS_TENTHS; i++) {
            snprintf(path, sizeof path, "tiers.%s.by_fullness.%u", tiers[t], i);
            assert_number(&json, path, t == 0 ? c.stats.hot_by_fullness[i] : c.stats.draining_by_fullness[i]);
        }
    }
    pthread_barrier_wait(&barrier);
    for (unsigned i = 0; i < N_THREADS; i++)
        assert_int_equal(pthread_join(threads[i], NULL), 0);
    pthread_barrier_destroy(&barrier);
    hak_free(span);
    hak_free(run);
}

/* The thread of a forked child has another number than the one that forked. */
static void a_childs_thread_is_its_own(void **state)
{
    (void)state;
    static char text[65536];
    hak_free(hak_malloc(100));
    pid_t child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        char wanted[64];
        snprintf(wanted, sizeof wanted, "\"thread_id\":%d,", (int)getpid());
        hak_free(hak_malloc(100));
        _exit(hak_stats_json(text, sizeof text) >= sizeof text ? 1 : strstr(text, wanted) == NULL ? 2 : 0);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
}

/* Not a number where nothing is known. */
static void rounding_is_told_where_it_is_known(void **state)
{
    (void)state;
    read_all();
    assert_int_equal(count_below(&json, "rounding_"), 0);
    assert_int_equal(hak_profile_start(1), 0);
    void *block = hak_malloc(1000);
    struct hak_stats s = read_stats();
    read_all();
    for (size_t i = N_COUNTERS; i < N_COUNTERS + N_ROUNDING; i++)
        assert_number(&json, fields[i].name, counter_of(&s, fields[i].offset));
    assert_number(&json, "rounding_bytes", 24);
    assert_number(&json, "rounding_of_bytes", 1024);
    hak_profile_stop();
    hak_free(block);
    read_all();
    assert_int_equal(count_below(&json, "rounding_"), 0);
}

/* Every shorter buffer holds the beginning of the text and a NUL, nothing behind it is touched, and the length is told. */
static void json_is_cut(void **state)
{
    (void)state;
    static char whole[65536], cut[65536];
    size_t len = hak_stats_json(whole, sizeof whole), n = 0;
    assert_true(len + 16 < sizeof whole);
    for (size_t size_bytes = 0; size_bytes <= len + 2; n++) {
        memset(cut, '#', len + 16);
        assert_int_equal(hak_stats_json(cut, size_bytes), len);
        size_t kept = size_bytes == 0 ? 0 : size_bytes <= len ? size_bytes - 1 : len;
        assert_memory_equal(cut, whole, kept);
        if (size_bytes != 0)
            assert_int_equal(cut[kept], 0);
        for (size_t i = size_bytes == 0 ? 0 : kept + 1; i < len + 16; i++)
            if (cut[i] != '#')
                fail_msg("with %zu bytes, byte %zu was written", size_bytes, i);
        size_bytes += size_bytes < 100 || size_bytes + 20 > len ? 1 : 17;
    }
    assert_true(len > 1000 && n > 100 + (len - 100) / 17); /* how long the text is depends on what is in use */
    assert_int_equal(hak_stats_json(NULL, 0), len);
}

/* ---- Little memory ------------------------------------------------------------------------------------------------------- */

static void *print_it(void *len)
{
    *(size_t *)len = hak_stats_json(text, sizeof text);
    return NULL;
}

/* A thread with 16 KiB beside what threads need anyway. */
static void little_stack_is_enough(void **state)
{
    (void)state;
#ifdef SANITIZED
    skip(); /* frames are larger there */
#endif
    pthread_attr_t attributes;
    pthread_t thread;
    size_t len = 0;
    pthread_attr_init(&attributes);
    assert_int_equal(pthread_attr_setstacksize(&attributes, (size_t)PTHREAD_STACK_MIN + 16384), 0);
    assert_int_equal(pthread_create(&thread, &attributes, print_it, &len), 0);
    assert_int_equal(pthread_join(thread, NULL), 0);
    pthread_attr_destroy(&attributes);
    assert_true(len > 1000 && len < sizeof text && text[len - 1] == '}');
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(reader_is_strict),           cmocka_unit_test(json_has_every_field),
        cmocka_unit_test(json_has_the_lists),         cmocka_unit_test(rounding_is_told_where_it_is_known),
        cmocka_unit_test(a_childs_thread_is_its_own), cmocka_unit_test(json_is_cut),
        cmocka_unit_test(little_stack_is_enough),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
