/* pprof.h - profiles in pprof's own format: profile.proto, compressed by gzip.
 */
#ifndef HAKMEM_TOOLS_PPROF_H
#define HAKMEM_TOOLS_PPROF_H

#include "heap_profile.h"

#include <stdio.h>

/* Writes it to a stream. False: it could not be compressed; errors of the stream are the caller's to see. */
bool pprof_encode(struct heap_profile *profile, FILE *out);

/* Reads what pprof_encode has written. NULL, and what is wrong with it in `why`, to stand behind the file's name. */
struct heap_profile *pprof_decode(const char *bytes, size_t len_bytes, char *why, size_t why_bytes);

/* Whether it begins as such a file does. */
bool pprof_is_compressed(const char *bytes, size_t len_bytes);

#endif
