/* units.c - see units.h.
 * Owns       nothing.     Called by  top*.c, metrics*.c, check.c, tool.c, profile_text.c     Calls  libc only.     Threads  any.
 * I1  A figure has at most 5 characters, with a sign 6, whatever the number: columns stay columns.
 * I2  A name leaves here as valid UTF-8. Without control characters, too, on its way to a terminal: no process steers the
 *     terminal of who looks at it. */
#include "units.h"

#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

/* Three digits, as long as the number is below 1000; the fourth only where powers of 1024 need it. */
static int digits_behind_the_point(double scaled)
{
    return scaled < 9.995 ? 2 : scaled < 99.95 ? 1 : 0;
}

static char *scale(char text[UNITS_BYTES], double number, double step, const char *prefixes)
{
    size_t power = 0;
    while (number >= step - 0.5 && prefixes[power] != '\0') {
        number /= step;
        power++;
    }
    if (power == 0)
        snprintf(text, UNITS_BYTES, "%.0f", number);
    else
        snprintf(text, UNITS_BYTES, "%.*f%c", digits_behind_the_point(number), number, prefixes[power - 1]);
    return text;
}

char *units_bytes(char text[UNITS_BYTES], uint64_t bytes)
{
    return scale(text, (double)bytes, 1024, "KMGTPE");
}

char *units_count(char text[UNITS_BYTES], uint64_t count)
{
    return scale(text, (double)count, 1000, "kMGTPE");
}

/* A rate that is not a number, or not finite, cannot come from two snapshots; it would break the columns. */
static double tame(double per_second)
{
    return isfinite(per_second) ? fmin(fabs(per_second), 1e20) : 0;
}

char *units_rate(char text[UNITS_BYTES], double per_second)
{
    const double rate = tame(per_second);
    if (rate < 9.95 && rate >= 0.05) {
        snprintf(text, UNITS_BYTES, "%.1f", rate);
        return text;
    }
    return scale(text, rate, 1000, "kMGTPE");
}

char *units_growth(char text[UNITS_BYTES], double bytes_per_second)
{
    const double size = tame(bytes_per_second);
    if (size <= 0.5) /* printf would round it to 0 */
        return strcpy(text, "0");
    text[0] = bytes_per_second < 0 ? '-' : '+';
    char figure[UNITS_BYTES];
    snprintf(text + 1, UNITS_BYTES - 1, "%.5s", scale(figure, size, 1024, "KMGTPE"));
    return text;
}

/* ---- Names ------------------------------------------------------------------------------------------------------- */

/* How many bytes the character at s has, or 0 if it is none by RFC 3629: no overlong form, no surrogate, none above U+10FFFF. */
static size_t utf8_length(const unsigned char *s)
{
    if (s[0] < 0x80)
        return 1;
    const size_t length = s[0] < 0xc2 ? 0 : s[0] < 0xe0 ? 2 : s[0] < 0xf0 ? 3 : s[0] < 0xf5 ? 4 : 0;
    for (size_t i = 1; i < length; i++)
        if ((s[i] & 0xc0) != 0x80)
            return 0;
    if ((s[0] == 0xe0 && s[1] < 0xa0) || (s[0] == 0xed && s[1] > 0x9f) || (s[0] == 0xf0 && s[1] < 0x90) ||
        (s[0] == 0xf4 && s[1] > 0x8f))
        return 0;
    return length;
}

/* U+0000 to U+001F, U+007F, and U+0080 to U+009F, which some terminals obey too. */
static bool is_control(const unsigned char *s)
{
    return s[0] < 0x20 || s[0] == 0x7f || (s[0] == 0xc2 && s[1] < 0xa0);
}

static char *copy_name(char *text, size_t size_bytes, const char *name, bool with_controls)
{
    size_t used = 0;
    for (const unsigned char *s = (const unsigned char *)name; *s != '\0';) {
        const size_t length = utf8_length(s);
        const bool kept = length != 0 && (with_controls || !is_control(s));
        const size_t step = length == 0 ? 1 : length;
        const size_t needed = kept ? length : 1;
        if (used + needed >= size_bytes)
            break;
        if (kept)
            memcpy(text + used, s, length);
        else
            text[used] = '?';
        used += needed;
        s += step;
    }
    text[used] = '\0';
    return text;
}

char *units_name(char *text, size_t size_bytes, const char *name)
{
    return copy_name(text, size_bytes, name, false);
}

char *units_utf8(char *text, size_t size_bytes, const char *name)
{
    return copy_name(text, size_bytes, name, true);
}
