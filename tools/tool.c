/* tool.c - what the subcommands share: lines on stderr, the end of stdout, memory that is there.
 * Owns       nothing.     Called by  the subcommands.     Calls  libc only.     Threads  any.
 * Why apart from hakmem.c: tests link everything but the table and main. */
#define _GNU_SOURCE
#include "tool.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void tool_complain(const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    fputs("hakmem: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
}

int tool_finish_output(void)
{
    if (fflush(stdout) == 0)
        return TOOL_OK;
    tool_complain("cannot write the output: %s", strerror(errno));
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
