/* test_top_layout.c - the view of `hakmem top` in all sizes, before there is a terminal.
 * Owns     a reader of rows.     Threads  one.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "figures_data.h"
#include "top.h"

#include <locale.h>
#include <stdlib.h>
#include <string.h>

/* A row as ASCII; what is not becomes '?'. */
static const char *row_text(const struct canvas *canvas, int row)
{
    static char text[512];
    for (int i = 0; i < canvas->width; i++) {
        const wchar_t glyph = canvas_at(canvas, row, i)->glyph;
        text[i] = glyph >= ' ' && glyph <= '~' ? (char)glyph : '?';
    }
    text[canvas->width] = '\0';
    return text;
}

/* The number of the first row that has the text, or -1. */
static int find_row(const struct canvas *canvas, const char *text)
{
    for (int row = 0; row < canvas->height; row++)
        if (strstr(row_text(canvas, row), text) != NULL)
            return row;
    return -1;
}

static struct snapshot make_heap(void)
{
    struct snapshot s = begin_data("redis-server", 3);
    put_class(&s, 16, 1, 100, 7, 3989);
    put_class(&s, 64, 9, 5000, 7, 4209);
    put_class(&s, 1024, 2, 120, 8, 0);
    s.census.stats.live_bytes = 64 << 20;
    s.census.stats.hot_by_fullness[9] = 3;
    s.threads[0].cached_bytes = 3 << 10;
    return s;
}

static size_t draw(struct canvas *canvas, int width, int height, struct figures *f, struct top_view *view)
{
    canvas_begin(canvas, width, height, false);
    return top_draw(canvas, f, view);
}

static void test_80_by_24(void **state)
{
    struct snapshot s = make_heap();
    struct top_view view = {.every_s = 1, .class_column = CLASS_COLUMN_MEMORY};
    struct canvas canvas;
    struct figures f;
    (void)state;
    figures_make(&f, NULL, &s, NULL, 0);
    const size_t n_visible = draw(&canvas, 80, 24, &f, &view);
    assert_true(n_visible >= 10);
    assert_non_null(strstr(row_text(&canvas, 0), "redis-server 4711  hakmem 0.1.0, conservative"));
    assert_non_null(strstr(row_text(&canvas, 0), "every 1 s"));
    assert_non_null(strstr(row_text(&canvas, 1), "live      64.0M"));
    assert_true(find_row(&canvas, "refills/s     -") > 0); /* one sample has no rates */
    assert_true(find_row(&canvas, "hot 0% .........8 100%  draining 0% .......... 100%") > 0);
    const int heading =
        find_row(&canvas, "BLOCK  SLABS   LIVE  CACHED   FREE  USED MEMORYv  WASTE  GROW/S  # live . free");
    assert_true(heading > 0);
    assert_non_null(
        strstr(row_text(&canvas, heading + 1), "    64      9  5.00k       7  4.21k   54%    576K   263K       -  ##"));
    assert_non_null(strstr(row_text(&canvas, heading + 2), "  1024 "));
    assert_non_null(strstr(row_text(&canvas, heading + 3), "    16 "));
    assert_non_null(strstr(row_text(&canvas, 23), "q quit  h help"));
    assert_non_null(strstr(row_text(&canvas, 23), "1-3 of 3"));
    canvas_end(&canvas);
    figures_free(&f);
    end_data(&s);
}

static void test_order_and_tables(void **state)
{
    struct snapshot s = make_heap();
    const struct process_thread names[] = {{1, "main"}, {2, "io\033"}};
    struct top_view view = {
        .every_s = 2.5, .class_column = CLASS_COLUMN_BLOCK, .class_ascending = true, .paused = true};
    struct canvas canvas;
    struct figures f;
    (void)state;
    figures_make(&f, NULL, &s, names, 2);
    draw(&canvas, 80, 24, &f, &view);
    int heading = find_row(&canvas, "BLOCK^");
    assert_true(heading > 0);
    assert_non_null(strstr(row_text(&canvas, heading + 1), "    16 "));
    assert_non_null(strstr(row_text(&canvas, 0), "paused"));
    canvas_end(&canvas);
    view = (struct top_view){
        .every_s = 2.5, .threads = true, .thread_column = THREAD_COLUMN_CACHED, .message = "cannot be read"};
    draw(&canvas, 80, 24, &f, &view);
    heading = find_row(&canvas, "TID NAME            CACHEDv");
    assert_true(heading > 0);
    assert_non_null(strstr(row_text(&canvas, heading + 1), "       3 -                 3.00K"));
    assert_non_null(strstr(row_text(&canvas, heading + 3), "       2 io?"));
    assert_non_null(strstr(row_text(&canvas, 0), "every 2.5 s"));
    assert_int_equal(find_row(&canvas, "cannot be read"), 23);
    canvas_end(&canvas);
    figures_free(&f);
    end_data(&s);
}

static void test_scroll(void **state)
{
    struct snapshot s = begin_data("x", 4096);
    struct top_view view = {.every_s = 1,
                            .threads = true,
                            .thread_column = THREAD_COLUMN_ID,
                            .thread_ascending = true,
                            .scroll = SIZE_MAX / 2};
    struct canvas canvas;
    struct figures f;
    (void)state;
    figures_make(&f, NULL, &s, NULL, 0);
    const size_t n_visible = draw(&canvas, 80, 24, &f, &view);
    assert_int_equal(view.scroll, 4096 - n_visible);
    assert_non_null(strstr(row_text(&canvas, 22), "    4096 "));
    assert_non_null(strstr(row_text(&canvas, 23), "of 4096"));
    canvas_end(&canvas);
    view.scroll = 100;
    draw(&canvas, 80, 24, &f, &view);
    assert_int_equal(view.scroll, 100);
    assert_non_null(strstr(row_text(&canvas, 23), "101-"));
    canvas_end(&canvas);
    figures_free(&f);
    end_data(&s);
}

/* In no size does anything lie outside (a sanitizer sees that), or a control character reach the screen; the table has its rows
 * wherever there is any room, and the title and the keys are there. */
static void test_all_sizes(void **state)
{
    static const uint64_t numbers[] = {0, 12345, HUGE_NUMBER, UINT64_MAX};
    (void)state;
    for (size_t n = 0; n < sizeof numbers / sizeof numbers[0]; n++) {
        struct snapshot s = begin_data("a name with \"quotes\" \\ and\nnewlines, as long as it can be....", 3);
        struct figures f;
        fill_data(&s, numbers[n]);
        figures_make(&f, NULL, &s, NULL, 0);
        for (int width = 1; width <= 220; width += width < 130 ? 1 : 17)
            for (int height = 1; height <= 60; height += height < 30 ? 1 : 7)
                for (int variant = 0; variant < 3; variant++) {
                    struct top_view view = {.every_s = 1, .threads = variant == 1, .help = variant == 2};
                    struct canvas canvas;
                    const size_t n_visible = draw(&canvas, width, height, &f, &view);
                    for (int i = 0; i < width * height; i++)
                        assert_true(canvas.cells[i].glyph >= ' ' && canvas.cells[i].glyph <= '~');
                    if (height >= 8 && variant < 2)
                        assert_true(n_visible >= 5);
                    if (height >= 2 && width >= 12 && variant < 2)
                        assert_int_equal(strncmp(row_text(&canvas, height - 1), "q quit  h he", 12), 0);
                    canvas_end(&canvas);
                }
        figures_free(&f);
        end_data(&s);
    }
}

/* Two numbers never touch: before each column there is a blank, whatever the numbers. */
static void test_columns_stay_apart(void **state)
{
    struct snapshot s = begin_data("x", 1);
    struct figures f;
    (void)state;
    fill_data(&s, 1023ull << 50);
    figures_make(&f, NULL, &s, NULL, 0);
    for (int width = 20; width <= 120; width++) {
        struct top_view view = {.every_s = 1, .class_column = CLASS_COLUMN_BLOCK, .class_ascending = true};
        struct canvas canvas;
        draw(&canvas, width, 24, &f, &view);
        const int heading = find_row(&canvas, "BLOCK^");
        unsigned n_headings = 0, n_fields = 0;
        char *text = strdup(row_text(&canvas, heading));
        for (char *field = strtok(text, " "); field != NULL && *field != '#'; field = strtok(NULL, " "))
            n_headings++;
        free(text);
        text = strdup(row_text(&canvas, heading + 1));
        for (char *field = strtok(text, " "); field != NULL && *field != '#'; field = strtok(NULL, " "))
            n_fields++;
        free(text);
        assert_int_equal(n_headings, n_fields);
        canvas_end(&canvas);
    }
    figures_free(&f);
    end_data(&s);
}

static void test_unicode(void **state)
{
    struct snapshot s = make_heap();
    struct top_view view = {.every_s = 1};
    struct canvas canvas;
    struct figures f;
    (void)state;
    if (setlocale(LC_CTYPE, "C.UTF-8") == NULL)
        skip();
    figures_make(&f, NULL, &s, NULL, 0);
    canvas_begin(&canvas, 100, 24, true);
    top_draw(&canvas, &f, &view);
    unsigned n_full = 0, n_cached = 0;
    for (int i = 0; i < 100 * 24; i++) {
        n_full += canvas.cells[i].glyph == L'█';
        n_cached += canvas.cells[i].glyph == L'▒';
    }
    assert_true(n_full > 20 && n_cached >= 4); /* one for each class, one in the heading */
    canvas_end(&canvas);
    canvas_begin(&canvas, 10, 1, true);
    assert_int_equal(canvas_text(&canvas, 0, 0, CANVAS_PLAIN, "a\xc3\xa4\xe6\xbc\xa2z"),
                     4); /* the third takes two columns */
    assert_true(canvas.cells[1].glyph == L'ä' && canvas.cells[2].glyph == L'?' && canvas.cells[3].glyph == L'z');
    canvas_end(&canvas);
    setlocale(LC_CTYPE, "C");
    figures_free(&f);
    end_data(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_80_by_24),  cmocka_unit_test(test_order_and_tables),   cmocka_unit_test(test_scroll),
        cmocka_unit_test(test_all_sizes), cmocka_unit_test(test_columns_stay_apart), cmocka_unit_test(test_unicode),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
