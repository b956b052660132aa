/* override_identity.c - libc's functions that change whose rights the process has: before it, the thread ends that libc does not know of.
 * Owns     nothing.     Called by  programs; introspect.c     Calls  libc's own functions, background.h
 * Threads  any; signal handlers.
 *
 * The kernel has rights for each thread, and libc takes them from all that it knows. The background thread of a program with one thread is
 * none of them (os/bare_thread.c): it would keep what the program gives up. It ends, and a later one has the new rights.
 *
 * Not part of the static library: there a process with rights to lose has no such thread.
 */
#include "api/override_identity.h"

#include "api/override_next.h"
#include "os/os.h"
#include "pool/background.h"

#include <errno.h>
#include <grp.h>
#include <unistd.h>

void identity_watch(void)
{
    os_bare_thread_keeps_rights();
}

/* `arguments` in parentheses, with types and without. */
#define OVERRIDE(name, typed, arguments)                                                                               \
    __attribute__((visibility("default"))) int name typed                                                              \
    {                                                                                                                  \
        static _Atomic(override_function *) found;                                                                     \
        override_function *next = override_next(#name, &found);                                                        \
        if (unlikely(next == NULL)) {                                                                                  \
            errno = ENOSYS;                                                                                            \
            return -1;                                                                                                 \
        }                                                                                                              \
        bool held = background_halt();                                                                                 \
        int status = ((int(*) typed)next)arguments;                                                                    \
        background_let(held);                                                                                          \
        return status;                                                                                                 \
    }

OVERRIDE(setuid, (uid_t user), (user))
OVERRIDE(seteuid, (uid_t user), (user))
OVERRIDE(setreuid, (uid_t real, uid_t effective), (real, effective))
OVERRIDE(setresuid, (uid_t real, uid_t effective, uid_t saved), (real, effective, saved))
OVERRIDE(setgid, (gid_t group), (group))
OVERRIDE(setegid, (gid_t group), (group))
OVERRIDE(setregid, (gid_t real, gid_t effective), (real, effective))
OVERRIDE(setresgid, (gid_t real, gid_t effective, gid_t saved), (real, effective, saved))
OVERRIDE(setgroups, (size_t n, const gid_t *groups), (n, groups))
OVERRIDE(initgroups, (const char *user, gid_t group), (user, group))
