/* override_dlopen.c - dlopen and dlmopen, which take no notice of RTLD_DEEPBIND.
 * Owns     nothing.     Called by  programs     Calls  libc's
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

typedef void function(void);
typedef void *dlopen_function(const char *, int);
typedef void *dlmopen_function(Lmid_t, const char *, int);

static function *find_libc_s(const char *name, _Atomic(function *) *found)
{
    function *libc_s = atomic_load_explicit(found, memory_order_relaxed); /* relaxed: a constant */
    if (libc_s == NULL) {
        libc_s = (function *)(uintptr_t)dlsym(RTLD_NEXT, name);
        atomic_store_explicit(found, libc_s, memory_order_relaxed);
    }
    return libc_s;
}

/* libc asks who calls, for it looks along that one's search path: the call must be a jump, so that it is not us. */
__attribute__((visibility("default"))) void *dlopen(const char *path, int mode)
{
    static _Atomic(function *) found;
    function *libc_s = find_libc_s("dlopen", &found);
    if (unlikely(libc_s == NULL))
        return NULL;
    return ((dlopen_function *)libc_s)(path, mode & ~RTLD_DEEPBIND);
}

/* In a namespace of its own there is none of our names, and the flag matters to nobody else. */
__attribute__((visibility("default"))) void *dlmopen(Lmid_t space, const char *path, int mode)
{
    static _Atomic(function *) found;
    function *libc_s = find_libc_s("dlmopen", &found);
    if (unlikely(libc_s == NULL))
        return NULL;
    return ((dlmopen_function *)libc_s)(space, path, space == LM_ID_BASE ? mode & ~RTLD_DEEPBIND : mode);
}
