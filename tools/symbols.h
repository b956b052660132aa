/* symbols.h - names, source files and lines for a profile's locations, from the files' symbols and debug information.
 */
#ifndef HAKMEM_TOOLS_SYMBOLS_H
#define HAKMEM_TOOLS_SYMBOLS_H

#include "heap_profile.h"

#include <sys/types.h>

/* Gives each location without lines its lines, as far as they can be known, and takes the allocator's own frames away where it
 * is linked statically. A file that is gone, or is another one now (its build id is not the one that was mapped), is said in one
 * line on stderr, and its locations stay without.
 * pid         the process that the profile is of, if it still runs: then its files are found where it has them. Else 0.
 * full_names  C++ names with all their arguments: see names.h */
void symbols_resolve(struct heap_profile *profile, pid_t pid, bool full_names);

#endif
