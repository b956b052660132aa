/* test_units.c - numbers in few columns, names made harmless.
 * Owns     tables of rows.     Threads  one.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "units.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const struct {
    uint64_t number;
    const char *bytes, *count;
} numbers[] = {
    {0, "0", "0"},
    {1, "1", "1"},
    {999, "999", "999"},
    {1000, "1000", "1.00k"},
    {1023, "1023", "1.02k"},
    {1024, "1.00K", "1.02k"},
    {9994, "9.76K", "9.99k"},
    {9996, "9.76K", "10.0k"},
    {10229, "9.99K", "10.2k"},
    {10239, "10.0K", "10.2k"},
    {102348, "99.9K", "102k"},
    {102399, "100K", "102k"},
    {1048000, "1023K", "1.05M"},
    {1048575, "1.00M", "1.05M"},
    {1048576, "1.00M", "1.05M"},
    {999499, "976K", "999k"},
    {999500, "976K", "1.00M"},
    {(uint64_t)1 << 40, "1.00T", "1.10T"},
    {(uint64_t)1 << 63, "8.00E", "9.22E"},
    {UINT64_MAX, "16.0E", "18.4E"},
};

static void test_numbers(void **state)
{
    char text[UNITS_BYTES];
    (void)state;
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
        assert_string_equal(units_bytes(text, numbers[i].number), numbers[i].bytes);
        assert_string_equal(units_count(text, numbers[i].number), numbers[i].count);
    }
}

static const struct {
    double number;
    const char *rate, *growth;
} rates[] = {
    {0, "0", "0"},
    {0.04, "0", "0"},
    {0.05, "0.1", "0"},
    {0.5, "0.5", "0"},
    {1, "1.0", "+1"},
    {9.94, "9.9", "+10"},
    {9.96, "10", "+10"},
    {999.4, "999", "+999"},
    {999.6, "1.00k", "+1000"},
    {12345, "12.3k", "+12.1K"},
    {1e19, "10.0E", "+8.67E"},
    {1e300, "100E", "+86.7E"},
    {HUGE_VAL, "0", "0"},
    {NAN, "0", "0"},
};

static void test_rates(void **state)
{
    char text[UNITS_BYTES];
    (void)state;
    for (size_t i = 0; i < sizeof rates / sizeof rates[0]; i++) {
        assert_string_equal(units_rate(text, rates[i].number), rates[i].rate);
        assert_string_equal(units_growth(text, rates[i].number), rates[i].growth);
        units_growth(text, -rates[i].number);
        if (strcmp(rates[i].growth, "0") == 0)
            assert_string_equal(text, "0");
        else
            assert_true(text[0] == '-' && strcmp(text + 1, rates[i].growth + 1) == 0);
    }
}

/* Whatever the number, a column is wide enough. */
static void test_widths(void **state)
{
    char text[UNITS_BYTES];
    (void)state;
    for (unsigned shift = 0; shift < 64; shift++)
        for (int delta = -2; delta <= 2; delta++) {
            const uint64_t n = ((uint64_t)1 << shift) + (uint64_t)(int64_t)delta;
            assert_true(strlen(units_bytes(text, n)) <= 5);
            assert_true(strlen(units_count(text, n)) <= 5);
            assert_true(strlen(units_rate(text, (double)n / 7)) <= 5);
            assert_true(strlen(units_growth(text, -(double)n)) <= 6);
        }
    uint64_t power = 1;
    for (unsigned i = 0; i < 19; i++, power *= 10)
        for (uint64_t n = power * 9; n < power * 10; n += power / 100 + 1)
            assert_true(strlen(units_bytes(text, n)) <= 5 && strlen(units_count(text, n)) <= 5);
}

static const struct {
    const char *name, *shown, *utf8;
} names[] = {
    {"redis-server", "redis-server", "redis-server"},
    {"", "", ""},
    {"a b\"c\\d", "a b\"c\\d", "a b\"c\\d"},
    {"\033[31mred\n", "?[31mred?", "\033[31mred\n"},
    {"\x7f\x01\t", "???", "\x7f\x01\t"},
    {"b\xc3\xa4r", "b\xc3\xa4r", "b\xc3\xa4r"}, /* an umlaut */
    {"\xc2\x9b"
     "1m",
     "?1m",
     "\xc2\x9b"
     "1m"}, /* a control character above ASCII */
    {"\xff\xfe", "??", "??"},
    {"\xc3", "?", "?"}, /* cut in the middle, as the system does it */
    {"\xe2\x82", "??", "??"},
    {"\xc0\x80", "??", "??"},             /* overlong */
    {"\xed\xa0\x80", "???", "???"},       /* a surrogate */
    {"\xf4\x90\x80\x80", "????", "????"}, /* above U+10FFFF */
    {"\xf0\x9f\x90\xa7", "\xf0\x9f\x90\xa7", "\xf0\x9f\x90\xa7"},
};

static void test_names(void **state)
{
    char text[64];
    (void)state;
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        assert_string_equal(units_name(text, sizeof text, names[i].name), names[i].shown);
        assert_string_equal(units_utf8(text, sizeof text, names[i].name), names[i].utf8);
    }
}

/* Cut between characters, within the room; the buffer is exact, so that a sanitizer sees what is beyond. */
static void test_cut(void **state)
{
    (void)state;
    for (size_t room = 1; room < 12; room++) {
        char *text = malloc(room);
        assert_non_null(text);
        units_name(text, room, "a\xc3\xa4\xe2\x82\xac\xf0\x9f\x90\xa7z");
        const size_t len = strlen(text);
        assert_true(len == 0 || len == 1 || len == 3 || len == 6 || len == 10 || len == 11);
        assert_true(len + 1 <= room);
        free(text);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_numbers), cmocka_unit_test(test_rates), cmocka_unit_test(test_widths),
        cmocka_unit_test(test_names),   cmocka_unit_test(test_cut),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
