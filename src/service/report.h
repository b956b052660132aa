/* report.h - one line on stderr about what went wrong, without malloc; and the end of the process where that is right.
 */
#ifndef HAKMEM_SERVICE_REPORT_H
#define HAKMEM_SERVICE_REPORT_H

#include "base/base.h"

/* A caller's mistake: says "hakmem: CALL: WHAT: ADDRESS (DETAIL NUMBER)" and aborts, unless HAKMEM_ON_ERROR=warn:
 * then it returns and the caller ignores the call. detail may be NULL. Keeps errno. */
COLD void report_misuse(const char *call, const char *what, const void *address, const char *detail, size_t number);

/* The same in two parts, for who has more to say in between. */
COLD void report_mistake(const char *call, const char *what, const void *address, const char *detail, size_t number);
COLD void report_end_of_mistake(void);

/* A value of an environment variable that is not understood. */
COLD void report_bad_value(const char *name, const char *value, const char *values, const char *standard);

/* Our own records contradict each other: always ends the process. */
COLD _Noreturn void report_broken(const char *what, const void *address);

/* Formats without allocation: %s string, %p pointer, %z size_t, %u unsigned, %x unsigned in hexadecimal. Writes one
 * line, at most 400 bytes, to stderr. */
void report_line(const char *format, ...);

#endif
