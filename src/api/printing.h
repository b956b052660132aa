/* printing.h - the census of this process as text, as JSON and as XML. None of it allocates. */
#ifndef HAKMEM_API_PRINTING_H
#define HAKMEM_API_PRINTING_H

#include "base/base.h"

#include <stdio.h>

#define PRINTING_LEAST_BYTES 512 /* of a buffer: no piece of the text is longer */

/* Text for people on stderr, in pieces that fill the buffer. */
void printing_text(char *buffer, size_t size_bytes);

/* JSON, as hak_stats_json has it, and a newline: to a file, or to stderr if path is NULL. A file that cannot be written is
 * reported in one line. */
void printing_json(const char *path, char *buffer, size_t size_bytes);

/* malloc_info: XML. 0, or -1 with errno. */
int printing_xml(FILE *stream);

#endif
