/* output.h - a file that appears whole or not at all: it is collected in memory, written under another name beside its own, and
 * renamed. Only what is no plain file, and what is open in this process already, is written to.
 */
#ifndef HAKMEM_TOOLS_OUTPUT_H
#define HAKMEM_TOOLS_OUTPUT_H

#include <stddef.h>
#include <stdio.h>

struct output {
    FILE *file;       /* to be written to: memory */
    const char *path; /* as the user says it */
    char *data;
    size_t len_bytes;
};

/* Whether a file is likely to appear there in the end: for who has much to do before. 0, or -1 after a line on stderr. */
int output_check(const char *path);

/* The path stays the caller's. 0, or -1 after a line on stderr. */
int output_open(struct output *output, const char *path);

/* Makes it appear. 0, or -1 after a line on stderr; then nothing is left of it, and what was there before still is. */
int output_finish(struct output *output);

/* Leaves nothing of it. */
void output_abandon(struct output *output);

#endif
