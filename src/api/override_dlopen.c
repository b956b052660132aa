/* override_dlopen.c - dlopen, which takes no notice of RTLD_DEEPBIND.
 * Owns     nothing.     Called by  programs     Calls  libc's dlopen
 * Threads  any, as libc's.
 *
 * With that flag what is opened looks for malloc and free among its own libraries first: it finds libc's, while the program goes
 * on with ours, and the first block that one gives to the other ends the process. (php opens its extensions so.) Without it a
 * name that both have is the program's, as it is everywhere else.
 *
 * Not part of the static library: in a program that is linked statically there is no other dlopen to call.
 */
#include "base/base.h"

#include <dlfcn.h>
#include <stddef.h>

typedef void *dlopen_function(const char *, int);

static dlopen_function *find_libc_s(void)
{
    static _Atomic(dlopen_function *) found;
    dlopen_function *function = atomic_load_explicit(&found, memory_order_relaxed); /* relaxed: a constant */
    if (function == NULL) {
        function = (dlopen_function *)(uintptr_t)dlsym(RTLD_NEXT, "dlopen");
        atomic_store_explicit(&found, function, memory_order_relaxed);
    }
    return function;
}

/* libc asks who calls, for it looks along that one's search path: the call must be a jump, so that it is not us. */
__attribute__((visibility("default"))) void *dlopen(const char *path, int mode)
{
    dlopen_function *libc_s = find_libc_s();
    if (unlikely(libc_s == NULL))
        return NULL;
    return libc_s(path, mode & ~RTLD_DEEPBIND);
}
