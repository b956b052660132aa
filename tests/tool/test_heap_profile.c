/* test_heap_profile.c - heap profiles in memory, out of files of both formats, and whatever bytes such files may have.
 */
#include "heap_profile.h"
#include "pprof.h"
#include "profile_read.h"
#include "profile_text.h"
#include "tool.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

void tool_complain(const char *format, ...)
{
    (void)format;
} /* hakmem.c has it */

/* A dump of two modules, the second of which lay where the first one did; a stack before, one after, one of code without a file. */
static const char dump[] =
    "heap profile: 30: 3000 [60: 6000] @ heapprofile\n"
    "# module 1000-9000 1000 aabb \n"
    "# module 20000-30000 20000 cc01 /lib/first.so\n"
    "10: 1000 [20: 2000] @ 0x20101 0x1501\n"
    "# module 20000-28000 20000 dd02 /lib/second.so\n"
    "10: 1000 [20: 2000] @ 0x20101 0x1601 0x40001\n"
    "10: 1000 [20: 2000] @\n"
    "# hakmem 0.1.0 pid=77 interval_bytes=4096 seconds=1.500 samples=9 dropped=2 time=1700000000\n"
    "\n"
    "MAPPED_LIBRARIES:\n"
    "1000-2000 r-xp 00000000 fe:00 5  /usr/bin/prog\n"
    "2000-3000 rw-p 00000000 fe:00 5  /usr/bin/prog\n"
    "20000-21000 r-xp 00000000 fe:00 7 /usr/lib/second.so.1\n"
    "40000-41000 r-xp 00000000 00:00 0 \n";

static char path[] = "/tmp/hakmem-heap-profile.XXXXXX";

static struct heap_profile *read_bytes(const char *bytes, size_t len_bytes, char why[READ_WHY_BYTES])
{
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, len_bytes, file), len_bytes);
    fclose(file);
    why[0] = 0;
    return profile_read(path, why, READ_WHY_BYTES);
}

static struct heap_profile *read_text(const char *text, char why[READ_WHY_BYTES])
{
    return read_bytes(text, strlen(text), why);
}

static const struct heap_mapping *mapping_of(const struct heap_profile *profile, uint32_t sample, uint32_t frame)
{
    uint32_t mapping = profile->location[profile->sample[sample].location[frame]].mapping;
    return mapping == HEAP_NONE ? NULL : &profile->mapping[mapping];
}

static void check_dump(struct heap_profile *profile)
{
    int64_t total[N_HEAP_VALUES];
    assert_int_equal(profile->n_samples, 3);
    heap_totals(profile, total);
    assert_true(total[INUSE_OBJECTS] == 30 && total[INUSE_SPACE] == 3000 && total[ALLOC_OBJECTS] == 60 &&
                total[ALLOC_SPACE] == 6000);
    /* The call, not where it returns to. */
    assert_int_equal(profile->location[profile->sample[0].location[0]].address, 0x20100);
    assert_string_equal(mapping_of(profile, 0, 0)->file, "/lib/first.so");
    assert_string_equal(mapping_of(profile, 0, 0)->build_id, "cc01");
    assert_string_equal(mapping_of(profile, 1, 0)->file, "/usr/lib/second.so.1");
    assert_string_equal(mapping_of(profile, 1, 0)->build_id, "dd02");
    assert_string_equal(mapping_of(profile, 0, 1)->file, "/usr/bin/prog");
    assert_true(mapping_of(profile, 0, 1) == &profile->mapping[0]);
    assert_null(mapping_of(profile, 1, 2));
    assert_int_equal(profile->sample[2].n_locations, 0);
    assert_string_equal(profile->program, "prog");
    assert_string_equal(profile->version, "0.1.0");
    assert_true(profile->pid == 77 && profile->interval_bytes == 4096 && profile->picked == 9 && profile->dropped == 2);
    assert_true(profile->duration_ns == 1500000000 && profile->time_ns == 1700000000000000000);
}

static void a_dump_is_read(void **state)
{
    (void)state;
    char why[READ_WHY_BYTES];
    struct heap_profile *profile = read_text(dump, why);
    assert_non_null(profile);
    check_dump(profile);
    heap_profile_free(profile);
}

/* pprof's format keeps all of it. */
static void both_formats_say_the_same(void **state)
{
    (void)state;
    char why[READ_WHY_BYTES], *bytes, *again;
    size_t len_bytes, again_bytes;
    struct heap_profile *profile = read_text(dump, why);
    struct heap_line line[2] = {{heap_function(profile, "inlined", "inlined", "a.h", 3), 7},
                                {heap_function(profile, "outer", "_Z5outerv", "a.cc", 10), 12}};
    heap_set_lines(profile, profile->sample[0].location[0], line, 2);
    FILE *out = open_memstream(&bytes, &len_bytes);
    assert_true(pprof_encode(profile, out));
    fclose(out);
    heap_profile_free(profile);

    profile = read_bytes(bytes, len_bytes, why);
    assert_non_null(profile);
    check_dump(profile);
    struct heap_frame *frame = NULL;
    uint32_t size = 0;
    assert_int_equal(heap_frames(profile, &profile->sample[0], &frame, &size), 3);
    assert_string_equal(frame[0].name, "inlined");
    assert_true(strcmp(frame[0].file, "a.h") == 0 && frame[0].line == 7);
    assert_true(strcmp(frame[1].name, "outer") == 0 && frame[1].line == 12);
    assert_string_equal(frame[2].name, "prog+0x500");
    assert_string_equal(profile->function[frame[1].function].system_name, "_Z5outerv");
    free(frame);
    out = open_memstream(&again, &again_bytes);
    assert_true(pprof_encode(profile, out));
    fclose(out);
    assert_true(again_bytes == len_bytes && memcmp(again, bytes, len_bytes) == 0);
    heap_profile_free(profile);
    free(bytes);
    free(again);
}

static void what_is_no_profile_is_refused(void **state)
{
    (void)state;
    static const char *const bad[] = {
        "",
        "\n",
        "heap",
        "heap profile: 1: 1 [1: 1] @ heap_v2/524288\n\nMAPPED_LIBRARIES:\n",
        "heap profile: 1: 1 [1: 1] @ heapprofile\n",
        "heap profile: 1: 1 [1: 1] @ heapprofile\nnonsense\n\nMAPPED_LIBRARIES:\n",
        "heap profile: 1: 1 [1: 1] @ heapprofile\n1: 1 [1: 1] @ 0x1 zz\n\nMAPPED_LIBRARIES:\n",
        "heap profile: 1: 1 [1: 1] @ heapprofile\n-1: 1 [1: 1] @ 0x1\n\nMAPPED_LIBRARIES:\n",
        ("heap profile: 1: 1 [1: 1] @ heapprofile\n1: 9223372036854775807 [1: 9223372036854775807] @ 0x1\n\n"
         "MAPPED_LIBRARIES:\n"),
        "\x1f\x8b",
        "\x1f\x8b\x08 not really",
    };
    char why[READ_WHY_BYTES];
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        assert_null(read_text(bad[i], why));
        assert_non_null(strstr(why, path));
        assert_null(strchr(why, '\n'));
    }
    assert_null(profile_read("/nowhere/at/all", why, sizeof why));
    assert_non_null(strstr(why, "No such file"));
    assert_null(profile_read("/", why, sizeof why));
}

/* A dump that is cut anywhere is refused, or was cut behind all that counts; and no byte of either format is trusted. */
static void damaged_files_do_no_harm(void **state)
{
    (void)state;
    char why[READ_WHY_BYTES], *bytes, copy[4096];
    size_t len_bytes, map_at = (size_t)(strstr(dump, "MAPPED_LIBRARIES:") - dump);
    uint64_t random = 1;
    for (size_t n = 0; n < sizeof dump; n++) {
        struct heap_profile *profile = read_bytes(dump, n, why);
        assert_true((profile != NULL) == (n >= map_at + strlen("MAPPED_LIBRARIES:")));
        heap_profile_free(profile);
    }
    struct heap_profile *whole = read_text(dump, why);
    FILE *out = open_memstream(&bytes, &len_bytes);
    assert_true(pprof_encode(whole, out));
    fclose(out);
    heap_profile_free(whole);
    for (unsigned i = 0; i < 4000; i++) {
        const char *from = i % 2 == 0 ? dump : bytes;
        size_t n = i % 2 == 0 ? sizeof dump - 1 : len_bytes;
        assert_true(n < sizeof copy);
        memcpy(copy, from, n);
        for (unsigned k = 0; k <= i % 3; k++) {
            random = random * 6364136223846793005u + 1442695040888963407u;
            copy[(random >> 33) % n] = (char)(random >> 24);
        }
        struct heap_profile *profile = read_bytes(copy, n, why);
        assert_true(profile != NULL || why[0] != 0);
        heap_profile_free(profile);
    }
    free(bytes);
}

/* What the compression hides: the messages themselves, of the dump in pprof's format. */
#define MESSAGE_BYTES 4096

static size_t message_of_dump(char *message)
{
    char why[READ_WHY_BYTES], command[200];
    struct heap_profile *whole = read_text(dump, why);
    FILE *out = fopen(path, "w");
    assert_true(pprof_encode(whole, out));
    fclose(out);
    heap_profile_free(whole);
    snprintf(command, sizeof command, "gzip -dc < %s", path);
    FILE *plain = popen(command, "r");
    size_t n = fread(message, 1, MESSAGE_BYTES, plain);
    assert_int_equal(pclose(plain), 0);
    assert_true(n > 100 && n < MESSAGE_BYTES);
    return n;
}

static struct heap_profile *read_message(const char *message, size_t n, char *why)
{
    char command[200];
    snprintf(command, sizeof command, "gzip -1c > %s", path);
    FILE *packed = popen(command, "w");
    assert_int_equal(fwrite(message, 1, n, packed), n);
    assert_int_equal(pclose(packed), 0);
    return profile_read(path, why, READ_WHY_BYTES);
}

static void damaged_messages_do_no_harm(void **state)
{
    (void)state;
    char why[READ_WHY_BYTES], message[MESSAGE_BYTES], copy[MESSAGE_BYTES];
    size_t n = message_of_dump(message);
    uint64_t random = 7;
    for (unsigned i = 0; i < 300; i++) {
        memcpy(copy, message, n);
        for (unsigned k = 0; k <= i % 3; k++) {
            random = random * 6364136223846793005u + 1442695040888963407u;
            copy[(random >> 33) % n] = (char)(random >> 24);
        }
        struct heap_profile *profile = read_message(copy, n, why);
        if (profile != NULL) { /* then it can be shown */
            FILE *null = fopen("/dev/null", "w");
            text_write_top(profile, INUSE_SPACE, 0, null);
            text_write_leaks(profile, 0, null);
            text_write_folded(profile, ALLOC_OBJECTS, null);
            assert_true(pprof_encode(profile, null));
            fclose(null);
        }
        heap_profile_free(profile);
    }
}

/* Each location's number of a mapping (`Location` of pprof.proto: 08 its number, 10 this, 18 its address) becomes one that no mapping has. */
static void numbers_of_nothing_are_refused(void **state)
{
    (void)state;
    char why[READ_WHY_BYTES], message[MESSAGE_BYTES], copy[MESSAGE_BYTES];
    size_t n = message_of_dump(message), n_changed = 0;
    for (size_t i = 2; i + 2 < n; i++) {
        if (message[i - 2] != 0x08 || message[i] != 0x10 || message[i + 2] != 0x18)
            continue;
        memcpy(copy, message, n);
        copy[i + 1] = 0x7f;
        assert_null(read_message(copy, n, why));
        assert_non_null(strstr(why, "refers to what is not in it"));
        n_changed++;
    }
    assert_true(n_changed >= 2);
}

/* A profile of one stack: so many frames, in turns of two locations, each of which has so many lines. */
static struct heap_profile *read_deep(uint32_t n_frames, uint32_t n_lines, char why[READ_WHY_BYTES])
{
    static const int64_t value[N_HEAP_VALUES] = {1, 100, 1, 100};
    struct heap_profile *profile = heap_profile_new();
    uint32_t *stack = heap_alloc(n_frames * sizeof *stack);
    struct heap_line *line = heap_alloc(n_lines * sizeof *line + 1);
    char *bytes;
    size_t len_bytes;
    for (uint32_t i = 0; i < n_lines; i++)
        line[i] = (struct heap_line){heap_function(profile, "f", "f", "f.c", 1), i + 1};
    for (uint32_t i = 0; i < n_frames; i++) {
        stack[i] = heap_location(profile, HEAP_NONE, 0x1000 + i % 2);
        if (i < 2 && n_lines != 0)
            heap_set_lines(profile, stack[i], line, n_lines);
    }
    heap_add_sample(profile, stack, n_frames, value);
    FILE *out = open_memstream(&bytes, &len_bytes);
    assert_true(pprof_encode(profile, out));
    fclose(out);
    heap_profile_free(profile);
    free(line);
    free(stack);
    profile = read_bytes(bytes, len_bytes, why);
    free(bytes);
    return profile;
}

/* Trees of calls are walked by recursion: as deep as is read, not as deep as any file says. */
static void stacks_without_end_are_refused(void **state)
{
    (void)state;
    static const struct {
        uint32_t n_frames, n_lines;
        bool is_read;
    } cases[] = {{16384, 0, true}, {16385, 0, false}, {1000000, 0, false}, /* frames */
                 {4, 4095, true},  {4, 4096, false},  {1, 1000000, false}, /* with their lines */
                 {8192, 1, true},  {8193, 1, false}};
    char why[READ_WHY_BYTES];
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct heap_profile *profile = read_deep(cases[i].n_frames, cases[i].n_lines, why);
        if (cases[i].is_read) {
            assert_non_null(profile);
            assert_int_equal(profile->sample[0].n_locations, cases[i].n_frames);
        } else {
            assert_null(profile);
            assert_non_null(strstr(why, "has a stack of too many frames"));
        }
        heap_profile_free(profile);
    }
}

static void texts_are_made_fit(void **state)
{
    (void)state;
    struct heap_profile *profile = heap_profile_new();
    assert_string_equal(heap_text(profile, "plain"), "plain");
    assert_true(heap_text(profile, "plain") == heap_text(profile, "plain"));
    assert_string_equal(heap_text(profile, "\033[2Jx\ny\x7f"), "?[2Jx?y?");
    assert_string_equal(heap_text(profile, "\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80"),
                        "\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80");
    assert_string_equal(heap_text(profile, "\xc0\x80|\xed\xa0\x80|\xf5|\xc3"), "??|???|?|?");
    assert_string_equal(heap_text(profile, "\xc2\x9b"), "??"); /* some terminals obey it */
    assert_string_equal(heap_text(profile, "\xef\xbf\xbe|\xef\xbf\xbf|\xef\xbf\xbd"), "???|???|\xef\xbf\xbd"); /* XML */
    heap_profile_free(profile);
}

static void equal_stacks_are_one(void **state)
{
    (void)state;
    struct heap_profile *profile = heap_profile_new();
    const int64_t value[N_HEAP_VALUES] = {1, 2, 3, 4};
    uint32_t stack[2] = {heap_location(profile, HEAP_NONE, 16), heap_location(profile, HEAP_NONE, 32)};
    assert_true(heap_location(profile, HEAP_NONE, 16) == stack[0] && stack[0] != stack[1]);
    heap_add_sample(profile, stack, 2, value);
    heap_add_sample(profile, stack, 2, value);
    heap_add_sample(profile, stack, 1, value);
    assert_int_equal(profile->n_samples, 2);
    assert_true(profile->sample[0].value[3] == 8 && profile->sample[1].value[3] == 4);
    heap_profile_free(profile);
}

static void bounds_follow_theory(void **state)
{
    (void)state;
    struct heap_profile *profile = heap_profile_new();
    const struct heap_sample sample = {.value = {1000, 64000, 500, 32000}};
    assert_true(heap_variance(profile, &sample, true) == 0); /* the interval is not known */
    profile->interval_bytes = 4096;
    double p = -expm1(-65. / 4096), expected = 500 * 64. * 64. * (1 - p) / p;
    assert_true(fabs(heap_variance(profile, &sample, true) - expected) < 1e-6 * expected);
    assert_true(fabs(heap_variance(profile, &sample, false) - 2 * expected) < 1e-6 * expected);
    profile->interval_bytes = 1; /* every block is a sample */
    assert_true(heap_variance(profile, &sample, true) == 0);
    heap_profile_free(profile);
}

static void texts_say_what_there_is(void **state)
{
    (void)state;
    char why[READ_WHY_BYTES], *text;
    size_t len_bytes;
    struct heap_profile *profile = read_text(dump, why);
    FILE *out = open_memstream(&text, &len_bytes);
    text_write_folded(profile, INUSE_SPACE, out);
    fclose(out);
    assert_string_equal(text, "(no stack) 1000\n"
                              "0x40000;prog+0x600;second.so.1+0x100 1000\n"
                              "prog+0x500;first.so+0x100 1000\n");
    free(text);
    out = open_memstream(&text, &len_bytes);
    text_write_top(profile, ALLOC_OBJECTS, 1, out);
    fclose(out);
    assert_non_null(strstr(text, "heap profile of prog, process 77, 1.5 s; 9 samples, one for 4.0 KiB in the mean\n"
                                 "  2 samples found no room, and are missing\n"));
    assert_non_null(strstr(text, "  live      2.9 KiB ± "));
    assert_non_null(strstr(text, " in 30 blocks\n  allocated 5.9 KiB ± "));
    assert_non_null(strstr(text, "\nallocated blocks by function\n"));
    assert_non_null(strstr(text, "         20   33.3%          20   33.3%  "));
    assert_non_null(strstr(text, "\nand 4 more functions\n"));
    free(text);
    out = open_memstream(&text, &len_bytes);
    text_write_leaks(profile, 2, out);
    fclose(out);
    assert_non_null(strstr(text, "\n1. 1000 B ± "));
    assert_non_null(
        strstr(text, " in 10 blocks, 33.3 % of what is live, allocated by\n    first.so+0x100\n    prog+0x500\n"));
    assert_non_null(strstr(text, "\nand 1000 B by 1 more stack\n"));
    free(text);
    heap_profile_free(profile);
}

static int make_file(void **state)
{
    (void)state;
    int file = mkstemp(path);
    return file < 0 || close(file) != 0;
}

static int remove_file(void **state)
{
    (void)state;
    return unlink(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_dump_is_read),
        cmocka_unit_test(both_formats_say_the_same),
        cmocka_unit_test(what_is_no_profile_is_refused),
        cmocka_unit_test(damaged_files_do_no_harm),
        cmocka_unit_test(damaged_messages_do_no_harm),
        cmocka_unit_test(numbers_of_nothing_are_refused),
        cmocka_unit_test(stacks_without_end_are_refused),
        cmocka_unit_test(texts_are_made_fit),
        cmocka_unit_test(equal_stacks_are_one),
        cmocka_unit_test(bounds_follow_theory),
        cmocka_unit_test(texts_say_what_there_is),
    };
    return cmocka_run_group_tests(tests, make_file, remove_file);
}
