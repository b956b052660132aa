/* process.c - what hakmem asks Linux about the process that it is in: which one, forks, filters of system calls, limits, the linker.
 * Owns     the process's number, the mark that tells a child of fork, whether a filter was there at the start.
 * Called by every layer above.     Calls  system_call.h; libc's mmap, madvise, prctl, getrlimit; machine.c and threads.c, at the start.
 * Threads  any, no lock.
 */
#include "os/os.h"

#include "os/system_call.h"

#include <errno.h>
#include <link.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>

#ifndef MADV_WIPEONFORK
#define MADV_WIPEONFORK 18 /* since Linux 4.14 */
#endif

static int32_t process_id; /* to ask is a system call */

uintptr_t os_linker_begin, os_linker_bytes;
/* the dynamic linker's; none in a program that is linked statically */
extern struct r_debug _r_debug __attribute__((weak));

static void find_linker(void)
{
    uintptr_t begin = (uintptr_t)getauxval(AT_BASE), end = 0;
    if (begin == 0 && &_r_debug != NULL) /* The linker was started as a program, with ours as its argument. */
        begin = _r_debug.r_ldbase;
    const ElfW(Ehdr) *header = (const ElfW(Ehdr) *)begin; /* NOLINT: an address given by the system */
    if (begin == 0)
        return;
    const ElfW(Phdr) *segment = (const ElfW(Phdr) *)(begin + header->e_phoff); /* NOLINT: likewise */
    for (unsigned i = 0; i < header->e_phnum; i++)
        if (segment[i].p_type == PT_LOAD)
            end = max_size(end, segment[i].p_vaddr + segment[i].p_memsz);
    os_linker_begin = begin;
    os_linker_bytes = end;
}

void os_start(void)
{
    os_machine_start();
    process_id = ask_for_process_id();
    find_linker();
    os_threads_start();
}

int32_t os_process_id(void)
{
    return process_id;
}

bool os_is_vfork_child(void)
{
    int32_t caller = ask_for_process_id();
    /* it has no threads; one of _Fork has */
    return caller != process_id && os_thread_id() == caller && !os_is_new_child();
}

/* In a page that the child of a fork gets as zeros: not 0 in whatever process os_watch_forks or os_fork_child was called in. */
static _Atomic uint32_t *_Atomic watched;

void os_watch_forks(void)
{
    _Atomic uint32_t *none = NULL, *mark;
    if (atomic_load_explicit(&watched, memory_order_relaxed) != NULL) /* relaxed: it is set once */
        return;
    int saved_errno = errno;
    mark = mmap(NULL, os_page_bytes(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    mark = mark == MAP_FAILED ? NULL : mark;
    if (mark != NULL && madvise(mark, os_page_bytes(), MADV_WIPEONFORK) == 0) {
        atomic_store(mark, 1);
        if (atomic_compare_exchange_strong(&watched, &none, mark))
            mark = NULL;
    }
    if (mark != NULL)
        munmap(mark, os_page_bytes());
    errno = saved_errno;
}

bool os_is_new_child(void)
{
    _Atomic uint32_t *mark = atomic_load(&watched);
    return mark != NULL && atomic_load(mark) == 0;
}

void os_fork_child(void)
{
    _Atomic uint32_t *mark = atomic_load(&watched);
    process_id = ask_for_process_id();
    os_bare_thread_fork_child();
    if (mark != NULL)
        atomic_store(mark, 1);
}

/* Who puts itself under a filter says first, unless it is root, that it wants no new privileges. */
static int filter_state(void)
{
    int saved_errno = errno;
    int state = (prctl(PR_GET_SECCOMP, 0, 0, 0, 0) != 0) * 2 + (prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) != 0);
    errno = saved_errno;
    return state;
}

static int filter_state_at_start;

void os_note_filter(void)
{
    filter_state_at_start = filter_state();
}

bool os_calls_are_filtered(void)
{
    int saved_errno = errno;
    bool none = prctl(PR_GET_SECCOMP, 0, 0, 0, 0) == 0;
    errno = saved_errno;
    return !none;
}

bool os_calls_are_filtered_since_start(void)
{
    return filter_state() != filter_state_at_start;
}

uintptr_t os_program_entry(void)
{
    return (uintptr_t)getauxval(AT_ENTRY);
}

_Static_assert(sizeof(struct rlimit) == sizeof(struct rlimit64), "one struct for both");

int os_set_limit(int32_t process, int resource, const void *limit, void *before)
{
    return (int)system_call(SYS_prlimit64, process, resource, (long)limit, (long)before, 0, 0);
}

size_t os_own_address_limit(int32_t process, int resource, const void *limit)
{
    int32_t caller = ask_for_process_id();
    bool own = caller == process_id && (process == 0 || process == caller);
    /* The system is asked, for *limit may be where the limit before was written to. */
    return own && resource == RLIMIT_AS && limit != NULL ? os_address_limit_bytes() : SIZE_MAX;
}

size_t os_address_limit_bytes(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_AS, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY)
        return SIZE_MAX;
    return (size_t)limit.rlim_cur;
}
