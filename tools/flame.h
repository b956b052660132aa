/* flame.h - flame graphs: pages that hold all they need, and ask no network for anything.
 */
#ifndef HAKMEM_TOOLS_FLAME_H
#define HAKMEM_TOOLS_FLAME_H

#include "heap_profile.h"

#include <stdio.h>

/* Writes the page; it shows `value` first. */
void flame_write_html(struct heap_profile *profile, enum heap_value value, FILE *out);
void flame_write_svg(struct heap_profile *profile, enum heap_value value, FILE *out);

#endif
