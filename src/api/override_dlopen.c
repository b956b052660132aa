/* override_dlopen.c - dlopen and dlmopen, which take no notice of RTLD_DEEPBIND; dlsym, which finds ours where it would find libc's.
 * Owns     nothing.     Called by  programs     Calls  libc's, by override_next.h; os.h
 * Threads  any, as libc's.
 *
 * With that flag what is opened looks for malloc and free among its own libraries first: it finds libc's, while the program goes
 * on with ours, and the first block that one gives to the other ends the process. (php opens its extensions so.) Without it a
 * name that both have is the program's, as it is everywhere else.
 *
 * Not part of the static library: in a program that is linked statically there is no other dlopen to call.
 */
#include "api/override_next.h"
#include "os/os.h"

#include <dlfcn.h>
#include <gnu/libc-version.h>
#include <stddef.h>

typedef void *dlopen_function(const char *, int);
typedef void *dlmopen_function(Lmid_t, const char *, int);
typedef void *dlsym_function(void *, const char *);

/* libc asks who calls, for it looks along that one's search path: the call must be a jump, so that it is not us. */
__attribute__((visibility("default"))) void *dlopen(const char *path, int mode)
{
    static _Atomic(override_function *) found;
    override_function *libc_s = override_next("dlopen", &found);
    if (unlikely(libc_s == NULL))
        return NULL;
    return ((dlopen_function *)libc_s)(path, mode & ~RTLD_DEEPBIND);
}

/* Defined by libc, not by a libc of another namespace. */
static bool is_of_libc(const void *symbol)
{
    struct os_module its, libc_s;
    return os_module_of(symbol, &its) && os_module_of(gnu_get_libc_version(), &libc_s) && its.dynamic == libc_s.dynamic;
}

static bool is_ours(const void *symbol)
{
    struct os_module its, own;
    return symbol != NULL && os_module_of(symbol, &its) && os_module_of(override_next, &own) &&
           its.dynamic == own.dynamic;
}

/* Foreign function interfaces (Python's ctypes, Ruby's Fiddle, Java's) look for free in libc by a handle of it, and give that free what
 * libc's strdup has made of our blocks. What the program would find by that name is meant, if that is ours. RTLD_NEXT asks who calls. */
__attribute__((visibility("default"))) void *dlsym(void *handle, const char *name)
{
    static _Atomic(override_function *) found;
    override_function *libc_s =
        override_next("dlsym", &found); /* or the next one's, where a library behind us has one */
    if (unlikely(libc_s == NULL))
        return NULL;
    if (handle == RTLD_NEXT || handle == RTLD_DEFAULT)
        return ((dlsym_function *)libc_s)(handle, name);
    void *symbol = ((dlsym_function *)libc_s)(handle, name);
    if (symbol == NULL || !is_of_libc(symbol))
        return symbol;
    void *program_s = ((dlsym_function *)libc_s)(RTLD_DEFAULT, name);
    /* Where the program, or a library before us, has a malloc of its own, names that it lacks are libc's too: its blocks may be. */
    return is_ours(program_s) && is_ours(((dlsym_function *)libc_s)(RTLD_DEFAULT, "free")) ? program_s : symbol;
}

/* In a namespace of its own there is none of our names, and the flag matters to nobody else. */
__attribute__((visibility("default"))) void *dlmopen(Lmid_t space, const char *path, int mode)
{
    static _Atomic(override_function *) found;
    override_function *libc_s = override_next("dlmopen", &found);
    if (unlikely(libc_s == NULL))
        return NULL;
    return ((dlmopen_function *)libc_s)(space, path, space == LM_ID_BASE ? mode & ~RTLD_DEEPBIND : mode);
}
