/* report.c - see report.h.
 * Owns  nothing.     Called by  every layer from service up.     Calls  os.h, abort.     Threads  any.
 * Signals  async-signal-safe, except that abort() ends the process.
 */
#include "service/report.h"

#include "os/os.h"
#include "service/config.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#define LINE_MAX_BYTES 400
#define VALUE_MAX_BYTES 100 /* of a value that is not understood */

struct line {
    char text[LINE_MAX_BYTES];
    size_t len;
};

static void put(struct line *line, const char *text, size_t len)
{
    len = min_size(len, LINE_MAX_BYTES - 1 - line->len); /* one byte is kept for the newline */
    memcpy(line->text + line->len, text, len);
    line->len += len;
}

static void put_number(struct line *line, size_t n, unsigned base)
{
    char digits[24];
    size_t at = sizeof digits;
    do {
        digits[--at] = "0123456789abcdef"[n % base];
        n /= base;
    } while (n != 0);
    put(line, digits + at, sizeof digits - at);
}

void report_line(const char *format, ...)
{
    struct line line = {.len = 0};
    va_list arguments;
    va_start(arguments, format);
    for (; *format != 0; format++) {
        if (*format != '%') {
            put(&line, format, 1);
            continue;
        }
        switch (*++format) {
        case 's': {
            const char *text = va_arg(arguments, const char *);
            put(&line, text, strlen(text));
            break;
        }
        case 'p':
            put(&line, "0x", 2);
            put_number(&line, (uintptr_t)va_arg(arguments, const void *), 16);
            break;
        case 'z':
            put_number(&line, va_arg(arguments, size_t), 10);
            break;
        case 'u':
            put_number(&line, va_arg(arguments, unsigned), 10);
            break;
        case 'x':
            put_number(&line, va_arg(arguments, unsigned), 16);
            break;
        default:
            put(&line, format, 1);
        }
    }
    va_end(arguments);
    line.text[line.len++] = '\n';
    os_write_stderr(line.text, line.len);
}

void report_mistake(const char *call, const char *what, const void *address, const char *detail, size_t number)
{
    if (detail == NULL)
        report_line("hakmem: %s: %s: %p", call, what, address);
    else
        report_line("hakmem: %s: %s: %p (%s %z)", call, what, address, detail, number);
}

void report_end_of_mistake(void)
{
    if (config.on_error == ON_ERROR_ABORT)
        os_abort();
}

void report_misuse(const char *call, const char *what, const void *address, const char *detail, size_t number)
{
    report_mistake(call, what, address, detail, number);
    report_end_of_mistake();
}

void report_bad_value(const char *name, const char *value, const char *values, const char *standard)
{
    char beginning[VALUE_MAX_BYTES + 1];
    size_t len = strlen(value) < VALUE_MAX_BYTES ? strlen(value) : VALUE_MAX_BYTES;
    memcpy(beginning, value, len);
    beginning[len] = 0;
    report_line("hakmem: %s=%s%s is not understood (expected %s); using %s", name, beginning,
                value[len] == 0 ? "" : "...", values, standard);
}

void report_broken(const char *what, const void *address)
{
    report_line("hakmem: internal records are damaged: %s: %p", what, address);
    os_abort();
}
