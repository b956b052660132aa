/* override_next.c - see override_next.h.
 * Owns     nothing.     Called by  override_dlopen.c, override_identity.c     Calls  libc's dlvsym and dlsym
 * Threads  any.
 *
 * Not part of the static library: in a program that is linked statically there is no other function to call.
 */
#include "api/override_next.h"

#include <dlfcn.h>
#include <stddef.h>

typedef void *dlsym_function(void *, const char *);

#if defined(__x86_64__)
#define DLSYM_VERSION "GLIBC_2.2.5"
#elif defined(__aarch64__)
#define DLSYM_VERSION "GLIBC_2.17"
#else
#define DLSYM_VERSION "GLIBC_2.34"
#endif

/* libc's dlsym, past ours, and past those of other libraries, which may have no version: dlvsym passes them by. */
static dlsym_function *libc_dlsym(void)
{
    static _Atomic(dlsym_function *) found;
    dlsym_function *libc_s = atomic_load_explicit(&found, memory_order_relaxed); /* relaxed: a constant */
    if (libc_s == NULL) {
        libc_s = (dlsym_function *)(uintptr_t)dlvsym(RTLD_NEXT, "dlsym", DLSYM_VERSION);
        atomic_store_explicit(&found, libc_s, memory_order_relaxed);
    }
    return libc_s;
}

override_function *override_next(const char *name, _Atomic(override_function *) *found)
{
    override_function *next = atomic_load_explicit(found, memory_order_relaxed); /* relaxed: a constant */
    if (next == NULL) {
        dlsym_function *look_up = libc_dlsym();
        next = look_up == NULL ? NULL : (override_function *)(uintptr_t)look_up(RTLD_NEXT, name);
        atomic_store_explicit(found, next, memory_order_relaxed);
    }
    return next;
}
