/* tool.c - what the subcommands share: lines on stderr, colours, the end of stdout, memory that is there.
 * Owns       nothing.     Called by  the subcommands.     Calls  units.h     Threads  any.
 * Why apart from hakmem.c: tests link everything but the table and main. */
#define _GNU_SOURCE
#include "tool.h"

#include "units.h"

#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_LINE_BYTES = 10000 }; /* two paths and some words; what is longer is cut */

void tool_complain(const char *format, ...)
{
    char text[MAX_LINE_BYTES], clean[MAX_LINE_BYTES]; /* allocates nothing: it may be about memory that is not there */
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    fprintf(stderr, "hakmem: %s\n", units_name(clean, sizeof clean, text));
}

bool tool_may_use_colors(void)
{
    const char *no = getenv("NO_COLOR");
    return no == NULL || no[0] == '\0';
}

int tool_finish_output(void)
{
    /* a part of it before: libc has dropped that, and what follows may have gone out */
    const bool lost = ferror(stdout) != 0;
    if (fflush(stdout) == 0 && !lost)
        return TOOL_OK;
    tool_complain("cannot write the output: %s", errno != 0 ? strerror(errno) : "a part of it is lost");
    return TOOL_FAILED;
}

void *tool_reallocate(void *block, size_t count, size_t size_bytes)
{
    void *moved = reallocarray(block, count == 0 ? 1 : count, size_bytes);
    if (moved != NULL)
        return moved;
    tool_complain("out of memory");
    exit(TOOL_FAILED);
}
