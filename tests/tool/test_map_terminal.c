/* test_map_terminal.c - the map as text: every width, every way of colouring, small and very large heaps.
 */
#include "made_up.h"
#include "map_output.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static char *text_of(const struct snapshot *s, struct map_terminal how)
{
    char *text = NULL;
    size_t n = 0;
    struct map map;
    FILE *out = open_memstream(&text, &n);
    assert_non_null(out);
    assert_int_equal(map_make(s, &map), 0);
    map_print_terminal(out, &map, &how);
    fclose(out);
    map_drop(&map);
    return text;
}

static size_t n_lines_of(const char *text)
{
    size_t n = 0;
    for (; *text != '\0'; text++)
        n += *text == '\n';
    return n;
}

/* The columns of the line at text; *end is behind it. Colours must have ended where it does. */
static size_t columns_of(const char *text, const char **end)
{
    size_t n = 0;
    bool front = false, back = false;
    for (; *text != '\n'; text++) {
        assert_int_not_equal(*text, '\0');
        if (*text == '\033') {
            const unsigned long code = strtoul(text + 2, NULL, 10);
            front = code == 38 || (front && code != 39);
            back = code == 48 || (back && code != 49);
            text = strchr(text, 'm');
            assert_non_null(text);
        } else {
            n += ((unsigned char)*text & 0xc0) != 0x80;
        }
    }
    assert_false(front);
    assert_false(back);
    *end = text + 1;
    return n;
}

static void check_width(const char *text, unsigned width)
{
    while (*text != '\0') {
        const size_t n = columns_of(text, &text);
        if (n > width)
            fail_msg("%zu columns where there are %u", n, width);
    }
}

static void check_ascii(const char *text)
{
    for (; *text != '\0'; text++)
        assert_true(*text == '\n' || (*text >= 0x20 && *text < 0x7f));
}

static void no_line_is_wider_than_the_terminal(void **state)
{
    (void)state;
    struct snapshot s = make_server(40, 3);
    strcpy(s.name, "a-name-as-long-as-there-is-room-for-in-a-snapshot-of-a-process");
    s.n_torn = 12;
    for (unsigned width = 1; width < 260; width += width < 90 ? 1 : 13)
        for (int colors = MAP_ASCII; colors <= MAP_TRUE_COLORS; colors++)
            for (int by = MAP_BY_CLASS; by <= MAP_BY_TIER; by++)
                for (size_t limit = 0; limit < 14; limit += 13) {
                    char *text = text_of(&s, (struct map_terminal){width, colors, by, limit});
                    check_width(text, width < 40 ? 40 : width);
                    if (colors == MAP_ASCII)
                        check_ascii(text);
                    free(text);
                }
    drop_snapshot(&s);
}

static void the_exact_text_of_a_small_heap(void **state)
{
    (void)state;
    struct snapshot s = make_snapshot("tiny", 4);
    struct snapshot_superslab *ss = pooled(&s, 0, SS_TIER_DRAINING);
    put_slab(ss, 0, 64, 512, 16);
    put_slab(ss, 1, 64, 1024, 16);
    put_slab(ss, 2, 64, 1, 1);
    put_span(ss, 4, 2 * SLAB_BYTES);
    ss->slot[7] = (struct snapshot_slot){.state = SLAB_EMPTY, .dirty_pages = 1};
    ss->slot[8] = (struct snapshot_slot){.state = 99};
    put_run(&s, 1, 3 * SUPERSLAB_BYTES);
    take_census(&s, 0);
    char *text = text_of(&s, (struct map_terminal){.width = 80});
    assert_string_equal(text, "tiny, pid 4711   hakmem 0.1.0   profile conservative\n"
                              "live 6.2 MiB   cached 0 B   free in slabs 35.9 KiB   waiting 4.0 KiB\n"
                              "committed 6.3 MiB   resident 9.1 MiB\n"
                              "##############################################################################-w\n"
                              "SuperSlabs: 0 HOT   1 DRAINING   0 FREE   0 CACHED   3 in runs (1, 6.0 MiB)\n"
                              "1 spans (128.0 KiB)\n"
                              "\n"
                              "address      tier  slabs, 64 KiB each               memory unused  full\n"
                              "7f0000000000 DRAIN 5#0.Ss.w?.......................   264K    40K   70%\n"
                              "7f0000200000 RUN   x 3 RRRRRRRRRRRRRRRRRRRRRRRRRRRR   6.0M     0B  100%\n"
                              "\n"
                              "    class    slabs  memory  unused\n"
                              "     64 B        3    132K     36K  #-\n"
                              "    spans        2    128K      0B  #\n"
                              "     runs       96    6.0M      0B  ############################################\n"
                              "\n"
                              "0-9 tenths of blocks used  # all\n"
                              "S span, s more of it       R run\n"
                              "P packed spans\n"
                              "w waits, in memory         . nothing\n"
                              "- in memory, not used      ? torn\n");
    free(text);
    drop_snapshot(&s);
}

static void an_empty_heap_says_so(void **state)
{
    (void)state;
    struct snapshot s = make_snapshot("empty", 0);
    for (int colors = MAP_ASCII; colors <= MAP_TRUE_COLORS; colors++) {
        char *text = text_of(&s, (struct map_terminal){.width = 80, .colors = colors});
        check_width(text, 80);
        assert_non_null(strstr(text, "no SuperSlab"));
        free(text);
    }
    drop_snapshot(&s);
}

static void ten_thousand_are_cut_and_that_is_said(void **state)
{
    (void)state;
    struct snapshot s = make_server(10000, 5);
    char *text = text_of(&s, (struct map_terminal){.width = 80, .limit = 64});
    assert_non_null(strstr(text, "64 of 9997 rows are shown"));
    assert_non_null(strstr(text, "--all"));
    assert_in_range(n_lines_of(text), 64, 100);
    free(text);
    text = text_of(&s, (struct map_terminal){.width = 80});
    assert_null(strstr(text, "are shown"));
    assert_in_range(n_lines_of(text), 9997, 10040);
    free(text);
    text = text_of(&s, (struct map_terminal){.width = 150}); /* two side by side */
    assert_in_range(n_lines_of(text), 4999, 5040);
    free(text);
    drop_snapshot(&s);
}

/* Which rows are shown when not all are: those with the most unused memory, the first one first. */
static void the_worst_come_first(void **state)
{
    (void)state;
    struct snapshot s = make_snapshot("worst", 5);
    for (size_t i = 0; i < 5; i++)
        put_slab(pooled(&s, i, SS_TIER_HOT), 0, 1024, i == 3 ? 0 : i == 1 ? 32 : 64, 16);
    char *text = text_of(&s, (struct map_terminal){.width = 80, .limit = 2});
    const char *first = strstr(text, "7f0000600000"), *second = strstr(text, "7f0000200000");
    assert_non_null(first);
    assert_non_null(second);
    assert_true(first < second);
    assert_null(strstr(text, "7f0000000000"));
    free(text);
    drop_snapshot(&s);
}

static void a_name_cannot_steer_the_terminal(void **state)
{
    (void)state;
    struct snapshot s = make_server(3, 1);
    strcpy(s.name, "\033]0;owned\007\033[31m");
    char *text = text_of(&s, (struct map_terminal){.width = 80});
    check_ascii(text);
    free(text);
    text = text_of(&s, (struct map_terminal){.width = 80, .colors = MAP_TRUE_COLORS});
    assert_null(strstr(text, "\033]0"));
    assert_null(strstr(text, "\033[31m"));
    free(text);
    drop_snapshot(&s);
}

/* What a cell shows by its character: nothing, all, the half that is used, and where the colours are. */
static void cells_in_colors(void **state)
{
    (void)state;
    struct snapshot s = make_snapshot("cells", 1);
    struct snapshot_superslab *ss = pooled(&s, 0, SS_TIER_HOT);
    put_slab(ss, 1, 1024, 64, 16);
    put_slab(ss, 2, 1024, 32, 16);
    put_slab(ss, 3, 1024, 0, 4);
    char *text = text_of(&s, (struct map_terminal){.width = 80, .colors = MAP_TRUE_COLORS});
    char *row = strstr(text, "7f0000000000");
    assert_non_null(row);
    const struct map_color unused = map_tone_color(MAP_DARK, MAP_TONE_FREE);
    char ground[40], front[40];
    snprintf(ground, sizeof ground, "\033[48;2;%u;%u;%um\u2584", unused.r, unused.g, unused.b);
    snprintf(front, sizeof front, "\033[38;2;%u;%u;%um\033[49m\u2582", unused.r, unused.g, unused.b);
    const char *nothing = strstr(row, "\u00b7"), *all = strstr(row, "\u2588"), *half = strstr(row, ground);
    assert_non_null(nothing);
    assert_non_null(all);
    assert_non_null(half);
    assert_non_null(strstr(row, front));
    assert_true(nothing < all && all < half && half < strstr(row, front));
    free(text);
    drop_snapshot(&s);
}

static void any_bytes_at_all(void **state)
{
    (void)state;
    uint32_t seed = 7;
    for (unsigned round = 0; round < 120; round++) {
        struct snapshot s = make_noise(20, &seed);
        char *text =
            text_of(&s, (struct map_terminal){60 + round, (int)(round % 3), (int)(round % 9 / 3), round % 2 * 5});
        check_width(text, 60 + round);
        free(text);
        drop_snapshot(&s);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(no_line_is_wider_than_the_terminal),
        cmocka_unit_test(the_exact_text_of_a_small_heap),
        cmocka_unit_test(an_empty_heap_says_so),
        cmocka_unit_test(ten_thousand_are_cut_and_that_is_said),
        cmocka_unit_test(the_worst_come_first),
        cmocka_unit_test(a_name_cannot_steer_the_terminal),
        cmocka_unit_test(cells_in_colors),
        cmocka_unit_test(any_bytes_at_all),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
