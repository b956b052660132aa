/* decimal.h - numbers in text: variables, files of the system. libc's strtoull looks at the locale and sets errno.
 */
#ifndef HAKMEM_BASE_DECIMAL_H
#define HAKMEM_BASE_DECIMAL_H

#include "base/base.h"

/* Reads the decimal digits at the beginning of the text. Returns where they end; NULL: there is none, or too many. */
static inline const char *read_decimal(const char *text, size_t *out)
{
    size_t n = 0;
    if (*text < '0' || *text > '9')
        return NULL;
    for (; *text >= '0' && *text <= '9'; text++) {
        if (n > (SIZE_MAX - 9) / 10)
            return NULL;
        n = n * 10 + (size_t)(*text - '0');
    }
    *out = n;
    return text;
}

#endif
