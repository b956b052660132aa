/* output.h - a file that appears whole or not at all: it is written under another name beside it, and renamed at the end.
 */
#ifndef HAKMEM_TOOLS_OUTPUT_H
#define HAKMEM_TOOLS_OUTPUT_H

#include <limits.h>
#include <stdio.h>

struct output {
    FILE *file;
    char path[PATH_MAX];      /* where it is to appear; links are followed */
    char temporary[PATH_MAX]; /* where it is written; "": there itself, for it is no plain file (a pipe, a terminal) */
};

/* Whether output_open is likely to succeed: for who has much to do before. 0, or -1 after a line on stderr. */
int output_check(const char *path);

/* 0, or -1 after a line on stderr. */
int output_open(struct output *output, const char *path);

/* Makes it appear. 0, or -1 after a line on stderr; then nothing is left of it, and what was there before still is. */
int output_finish(struct output *output);

/* Leaves nothing of it. */
void output_abandon(struct output *output);

#endif
