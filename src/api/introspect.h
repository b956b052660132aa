/* introspect.h - sums over the heap, for hak_stats and libc's mallinfo family. */
#ifndef HAKMEM_API_INTROSPECT_H
#define HAKMEM_API_INTROSPECT_H

#include "base/base.h"

#include <stdio.h>

struct introspect_totals {
    size_t live_bytes, live_blocks, cached_bytes, cached_blocks;
    size_t free_bytes, free_blocks;   /* free inside slabs, and whole free slots */
    size_t large_bytes, large_blocks; /* spans and runs: part of live */
    size_t committed_bytes, peak_committed_bytes;
    size_t trimmable_bytes; /* empty slots and cached SuperSlabs */
};

/* One pass over the SuperSlabs in use. Any thread, no lock; exact when nobody else allocates. */
struct introspect_totals introspect_totals(void);

/* malloc_stats: a table on stderr. */
void introspect_print_text(void);

/* malloc_info: XML. 0, or -1 with errno. */
int introspect_print_xml(FILE *stream);

#endif
