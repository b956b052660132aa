/* profile_write.h - a profile into a file, in any of the formats.
 */
#ifndef HAKMEM_TOOLS_PROFILE_WRITE_H
#define HAKMEM_TOOLS_PROFILE_WRITE_H

#include "heap_profile.h"

#include <stdio.h>

enum profile_format { FORMAT_PPROF, FORMAT_FOLDED, FORMAT_SVG, FORMAT_HTML, FORMAT_TEXT, FORMAT_LEAKS, N_FORMATS };

#define PROFILE_FORMAT_NAMES "pprof, folded, svg, html, text, leaks"

/* The format of a name, or of a file's name by its end: .pb.gz, .folded, .svg, .html, .txt. N_FORMATS: none. */
enum profile_format profile_format_by_name(const char *name);
enum profile_format profile_format_by_path(const char *path);

/* The number of an option --top, from 0 to PROFILE_MAX_TOP; false: it is none. */
#define PROFILE_MAX_TOP 1000000
bool profile_parse_top(const char *text, unsigned *top);

/* What is to be written. */
struct profile_output {
    enum profile_format format;
    enum heap_value value; /* of one amount only: folded, text; and what a page shows first */
    unsigned top;          /* the most rows of a text; 0: all */
    const char *path;      /* NULL or "-": the standard output */
};

bool profile_is_stdout(const char *path);

/* An option -o: where it is to be written. False after a line on stderr: it was told already. */
bool profile_take_path(const char *path, struct profile_output *output);

/* Writes it. A file is there as a whole, or as it was before. Returns TOOL_OK, or TOOL_FAILED after a line on stderr. */
int profile_write(struct heap_profile *profile, const struct profile_output *output);

/* The same for what a function writes; false of it stands for exhausted memory. */
int profile_write_by(bool (*write)(const void *what, FILE *out), const void *what, const char *path);

#endif
