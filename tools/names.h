/* names.h - names of functions as people read them.
 */
#ifndef HAKMEM_TOOLS_NAMES_H
#define HAKMEM_TOOLS_NAMES_H

#include <stdbool.h>

/* The linker's name of a function for people: what C++ has made of it is turned back, and without the arguments of templates and
 * of functions, results and qualifiers, unless it shall be full. A new text; free() it. */
char *name_for_people(const char *system_name, bool full);

/* The short form of a C++ name that is readable already. A new text. */
char *name_shortened(const char *name);

#endif
