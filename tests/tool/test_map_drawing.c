/* test_map_drawing.c - the map as SVG and PNG: what is drawn is what the numbers say, by counting points of each colour.
 */
#include "made_up.h"
#include "map_output.h"

#include <cairo.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

struct bytes {
    char *data;
    size_t n, at;
};

typedef int (*drawer)(FILE *, const struct map *, const struct map_drawing *, const char **);

static struct bytes drawn(drawer draw, const struct snapshot *s, enum map_theme theme, enum map_by by)
{
    struct bytes out = {0};
    struct map map;
    const struct map_drawing how = {.theme = theme, .by = by, .when = "2000-01-01 00:00:00"};
    const char *why;
    FILE *file = open_memstream(&out.data, &out.n);
    assert_non_null(file);
    assert_int_equal(map_make(s, &map), 0);
    assert_int_equal(draw(file, &map, &how, &why), 0);
    fclose(file);
    map_drop(&map);
    return out;
}

static cairo_status_t read_bytes(void *closure, unsigned char *data, unsigned length)
{
    struct bytes *from = closure;
    if (from->n - from->at < length)
        return CAIRO_STATUS_READ_ERROR;
    memcpy(data, from->data + from->at, length);
    from->at += length;
    return CAIRO_STATUS_SUCCESS;
}

static cairo_surface_t *image_of(const struct snapshot *s, enum map_theme theme, enum map_by by)
{
    struct bytes png = drawn(map_draw_png, s, theme, by);
    assert_memory_equal(png.data, "\x89PNG\r\n\x1a\n", 8);
    cairo_surface_t *image = cairo_image_surface_create_from_png_stream(read_bytes, &png);
    assert_int_equal(cairo_surface_status(image), CAIRO_STATUS_SUCCESS);
    free(png.data);
    return image;
}

/* Points of exactly this colour. */
static size_t points_of(const struct snapshot *s, enum map_theme theme, enum map_by by, struct map_color color)
{
    cairo_surface_t *image = image_of(s, theme, by);
    const uint32_t wanted = (uint32_t)color.r << 16 | (uint32_t)color.g << 8 | color.b;
    const int width = cairo_image_surface_get_width(image), height = cairo_image_surface_get_height(image);
    size_t n = 0;
    for (int y = 0; y < height; y++) {
        const uint32_t *line = (const uint32_t *)(const void *)(cairo_image_surface_get_data(image) +
                                                                (size_t)y * cairo_image_surface_get_stride(image));
        for (int x = 0; x < width; x++)
            n += (line[x] & 0xffffff) == wanted;
    }
    cairo_surface_destroy(image);
    return n;
}

/* 32 slabs with so many of 64 blocks, all of whose pages are in memory. */
static struct snapshot one_superslab(enum superslab_tier tier, unsigned used)
{
    struct snapshot s = make_snapshot("one", 1);
    struct snapshot_superslab *ss = pooled(&s, 0, tier);
    for (unsigned i = 0; i < SUPERSLAB_SLABS; i++)
        put_slab(ss, i, 1024, used, 16);
    return s;
}

/* The same picture with more unused memory has more of its colour, and the same number of points in all. */
static void unused_memory_is_seen_in_proportion(void **state)
{
    (void)state;
    for (int theme = MAP_LIGHT; theme <= MAP_DARK; theme++) {
        const struct map_color unused = map_tone_color(theme, MAP_TONE_FREE);
        const struct map_color used = map_class_color(theme, class_of(1024));
        struct snapshot all = one_superslab(SS_TIER_HOT, 64), half = one_superslab(SS_TIER_HOT, 32),
                        none = one_superslab(SS_TIER_HOT, 0);
        const size_t unused_all = points_of(&all, theme, MAP_BY_CLASS, unused);
        const size_t unused_half = points_of(&half, theme, MAP_BY_CLASS, unused) - unused_all;
        const size_t unused_none = points_of(&none, theme, MAP_BY_CLASS, unused) - unused_all;
        const size_t used_none = points_of(&none, theme, MAP_BY_CLASS, used);
        const size_t used_half = points_of(&half, theme, MAP_BY_CLASS, used) - used_none;
        const size_t used_all = points_of(&all, theme, MAP_BY_CLASS, used) - used_none;
        assert_in_range(used_half, used_all * 49 / 100, used_all * 51 / 100);
        assert_in_range(unused_half, unused_none * 49 / 100, unused_none * 51 / 100);
        drop_snapshot(&all);
        drop_snapshot(&half);
        drop_snapshot(&none);
    }
}

static void colors_follow_what_is_asked(void **state)
{
    (void)state;
    struct snapshot hot = one_superslab(SS_TIER_HOT, 16), draining = one_superslab(SS_TIER_DRAINING, 16);
    const struct map_color loud = map_tone_color(MAP_LIGHT, MAP_TONE_DRAINING);
    assert_true(points_of(&draining, MAP_LIGHT, MAP_BY_CLASS, loud) >
                points_of(&hot, MAP_LIGHT, MAP_BY_CLASS, loud) + 500);
    assert_true(points_of(&draining, MAP_LIGHT, MAP_BY_TIER, loud) >
                points_of(&draining, MAP_LIGHT, MAP_BY_CLASS, loud) + 5000);
    const struct map_color quarter = map_occupancy_color(MAP_LIGHT, 25);
    assert_true(points_of(&hot, MAP_LIGHT, MAP_BY_OCCUPANCY, quarter) >
                points_of(&hot, MAP_LIGHT, MAP_BY_CLASS, quarter) + 20000);
    drop_snapshot(&hot);
    drop_snapshot(&draining);
}

/* Every density, the empty heap among them. */
static void any_number_of_superslabs(void **state)
{
    (void)state;
    static const size_t numbers[] = {0, 1, 36, 37, 150, 700, 1501, 10000};
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
        struct snapshot s = make_server(numbers[i], 11);
        struct bytes svg = drawn(map_draw_svg, &s, MAP_LIGHT, MAP_BY_OCCUPANCY);
        assert_memory_equal(svg.data, "<?xml", 5);
        assert_non_null(strstr(svg.data, "width=\"1280px\""));
        assert_memory_equal(svg.data + svg.n - 7, "</svg>\n", 7);
        assert_true(svg.n < 9000000);
        free(svg.data);
        drop_snapshot(&s);
    }
}

static void pictures_have_the_size_of_a_screen_or_few(void **state)
{
    (void)state;
    static const size_t numbers[] = {0, 150, 10000};
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
        struct snapshot s = make_server(numbers[i], 11);
        cairo_surface_t *image = image_of(&s, MAP_DARK, MAP_BY_CLASS);
        const int width = cairo_image_surface_get_width(image), height = cairo_image_surface_get_height(image);
        assert_int_equal(width, 2560);
        assert_in_range(height / 2, 500, 2500);
        cairo_surface_destroy(image);
        drop_snapshot(&s);
    }
}

static void a_run_of_a_thousand(void **state)
{
    (void)state;
    struct snapshot s = make_snapshot("run", 1000);
    put_run(&s, 0, 1000 * SUPERSLAB_BYTES);
    take_census(&s, 0);
    struct bytes svg = drawn(map_draw_svg, &s, MAP_LIGHT, MAP_BY_CLASS);
    assert_true(svg.n < 200000);
    free(svg.data);
    const size_t run = points_of(&s, MAP_LIGHT, MAP_BY_CLASS, map_tone_color(MAP_LIGHT, MAP_TONE_RUN));
    assert_true(run > 20000);
    drop_snapshot(&s);
}

static void torn_records_are_marked(void **state)
{
    (void)state;
    struct snapshot s = one_superslab(SS_TIER_HOT, 64);
    const struct map_color torn = map_tone_color(MAP_LIGHT, MAP_TONE_TORN);
    const size_t before = points_of(&s, MAP_LIGHT, MAP_BY_CLASS, torn);
    s.superslabs[0].slot[9].class_id = 200;
    s.n_torn = 1;
    assert_true(points_of(&s, MAP_LIGHT, MAP_BY_CLASS, torn) > before + 1000);
    strcpy(s.name, "\xff\xfe\033[31m<&>");
    struct bytes svg = drawn(map_draw_svg, &s, MAP_LIGHT, MAP_BY_CLASS); /* cairo refuses what is no UTF-8 */
    free(svg.data);
    drop_snapshot(&s);
}

static void any_bytes_at_all(void **state)
{
    (void)state;
    uint32_t seed = 8;
    for (unsigned round = 0; round < 24; round++) {
        struct snapshot s = make_noise(round % 4 == 3 ? 200 : 20, &seed);
        struct bytes svg = drawn(map_draw_svg, &s, (int)(round % 2), (int)(round % 3));
        assert_null(strstr(svg.data, "nan"));
        assert_null(strstr(svg.data, "inf "));
        free(svg.data);
        drop_snapshot(&s);
    }
}

static void a_full_disk_is_noticed(void **state)
{
    (void)state;
    struct snapshot s = make_server(20, 1);
    struct map map;
    const struct map_drawing how = {.when = ""};
    const char *why;
    assert_int_equal(map_make(&s, &map), 0);
    for (int i = 0; i < 2; i++) {
        FILE *full = fopen("/dev/full", "w");
        assert_non_null(full);
        const int result = (i == 0 ? map_draw_svg : map_draw_png)(full, &map, &how, &why);
        assert_true(result != 0 || fflush(full) != 0 || ferror(full));
        fclose(full);
    }
    map_drop(&map);
    drop_snapshot(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(unused_memory_is_seen_in_proportion),
        cmocka_unit_test(colors_follow_what_is_asked),
        cmocka_unit_test(any_number_of_superslabs),
        cmocka_unit_test(pictures_have_the_size_of_a_screen_or_few),
        cmocka_unit_test(a_run_of_a_thousand),
        cmocka_unit_test(torn_records_are_marked),
        cmocka_unit_test(any_bytes_at_all),
        cmocka_unit_test(a_full_disk_is_noticed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
