/* override_next.h - libc's function of a name that this library has, too.
 */
#ifndef HAKMEM_API_OVERRIDE_NEXT_H
#define HAKMEM_API_OVERRIDE_NEXT_H

#include "base/base.h"

typedef void override_function(void);

/* libc's, or that of a library behind this one, which calls libc's in turn. NULL: there is none. found remembers it: a variable of the
 * caller's, for one name. The first call for a name takes the dynamic linker's lock. Any thread. */
override_function *override_next(const char *name, _Atomic(override_function *) *found);

#endif
