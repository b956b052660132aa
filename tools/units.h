/* units.h - numbers in few columns, and names of other processes made harmless.
 * All functions are pure; each returns `text`, so that a call may stand among the arguments of printf. */
#ifndef HAKMEM_TOOLS_UNITS_H
#define HAKMEM_TOOLS_UNITS_H

#include <stddef.h>
#include <stdint.h>

#define UNITS_BYTES 8 /* room for any of them: at most 5 characters, or 6 with a sign */

/* Three digits and a prefix of powers of 1024: "0", "1023", "9.99K", "99.9M", "1023G". */
char *units_bytes(char text[UNITS_BYTES], uint64_t bytes);

/* The same by powers of 1000: "999", "1.00k", "12.3M". */
char *units_count(char text[UNITS_BYTES], uint64_t count);

/* So many per second: "0", "0.4", "12", "1.23k". */
char *units_rate(char text[UNITS_BYTES], double per_second);

/* A change of so many bytes per second, with its sign unless it is 0: "+1.20M", "-300". */
char *units_growth(char text[UNITS_BYTES], double bytes_per_second);

/* Copies a name that another process has chosen: control characters (a terminal would obey them) and bytes that are no UTF-8
 * become '?'. What does not fit is cut between characters. */
char *units_name(char *text, size_t size_bytes, const char *name);

/* The same, with control characters as they are: for formats that escape them. */
char *units_utf8(char *text, size_t size_bytes, const char *name);

#endif
