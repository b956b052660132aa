/* stack.c - see stack.h.
 * Owns     nothing.     Called by  front/sampled.c, front/profile.c, front/thread.c, api/introspect.c, api/profile.c
 * Calls    unwind.h, os.h, report.h; libc's backtrace, and dladdr before 2.35
 * Threads  any.
 * Signals  stack_take and stack_report may be called in a handler of a fault: backtrace's locks are recursive, and whoever holds one is
 *          running. dladdr's may be held by who waits for this thread (tests/scripts/report_in_dlopen.sh), so only old systems use it.
 */
#include "service/stack.h"

#include "os/os.h"
#include "service/report.h"
#include "service/unwind.h"

#include <dlfcn.h>
#include <errno.h>
#include <execinfo.h>

/* Our own code, by the linker. In a program that is linked statically the whole program. */
extern const char __ehdr_start[] __attribute__((weak, visibility("hidden")));
extern const char etext[] __attribute__((weak, visibility("hidden")));
extern const char hakmem_rare_begin[] __attribute__((weak, visibility("hidden"))); /* cmake/order.ld: NULL without it */
extern const char hakmem_rare_end[] __attribute__((weak, visibility("hidden")));

static _Atomic bool prepared, prepared_early;
static bool own_frames_are_known;

static bool is_own(uintptr_t address)
{
    return address - (uintptr_t)__ehdr_start < (uintptr_t)(etext - __ehdr_start) ||
           address - (uintptr_t)hakmem_rare_begin < (uintptr_t)(hakmem_rare_end - hakmem_rare_begin);
}

void stack_prepare_early(void)
{
    own_frames_are_known = !is_own(os_program_entry()); /* else the program's beginning is among them */
    unwind_prepare();
    atomic_store_explicit(&prepared_early, true, memory_order_release);
}

void stack_prepare(void)
{
    void *frame[2];
    if (atomic_load_explicit(&prepared, memory_order_acquire))
        return;
    stack_prepare_early();
    (void)!backtrace(frame, 2);
    atomic_store_explicit(&prepared, true, memory_order_release);
}

/* backtrace() for what unwind.h cannot do: frames of signal handlers, for one. */
static ALWAYS_INLINE int take_frames(void **frame, int n)
{
    int n_taken = unwind_take(frame, n);
    if (n_taken >= 0)
        return n_taken;
    return atomic_load_explicit(&prepared, memory_order_acquire) ? backtrace(frame, n) : 0;
}

void stack_take(struct stack *stack)
{
    stack_take_interrupted(stack, 0);
}

void stack_sign(struct stack *stack)
{
    stack->thread_id = os_thread_id();
}

void stack_take_interrupted(struct stack *stack, uintptr_t pc)
{
    int saved_errno = errno;
    void *frame[STACK_MAX_FRAMES + 16]; /* some are our own */
    int n = 0, first = 0;
    /* Who has jumped to where nothing can be read is beyond an unwinder: it would read the instruction there, and fault in turn. */
    if (pc != 0 && !os_is_readable((const void *)(pc & ~(uintptr_t)7))) /* NOLINT: an instruction's place */
        frame[n++] = (void *)pc;                                        /* NOLINT: likewise */
    else if (atomic_load_explicit(&prepared_early, memory_order_acquire))
        n = take_frames(frame, STACK_MAX_FRAMES + 16);
    while (pc != 0 && first < n && (uintptr_t)frame[first] != pc)
        first++;
    first = first == n ? 0 : first;
    while (own_frames_are_known && first < n && is_own((uintptr_t)frame[first]))
        first++;
    stack->n_frames = 0;
    for (; first < n && stack->n_frames < STACK_MAX_FRAMES; first++)
        stack->frame[stack->n_frames++] = frame[first];
    errno = saved_errno;
}

/* A return address lies behind its call, perhaps in another function: the byte before it tells. Not by dladdr where there is another
 * way: its lock is held, throughout the constructors, by who opens a library, and who may be waiting for this thread. */
static void report_frame(unsigned i, const char *address)
{
    struct os_module module;
    Dl_info info = {.dli_fname = NULL};
    if (os_module_of(address - 1, &module)) {
        info.dli_fname = module.path[0] == 0 ? program_invocation_name : module.path;
        info.dli_fbase = (void *)module.bias; /* NOLINT: in files that cannot be moved places are addresses */
        info.dli_sname = os_module_name_at(&module, address - 1);
    } else if (dladdr(address - 1, &info) == 0) {
        info.dli_fname = NULL;
    }
    const void *place = (const void *)((uintptr_t)address - 1 - (uintptr_t)info.dli_fbase); /* NOLINT: a number */
    if (info.dli_fname == NULL)
        report_line("hakmem:     #%u %p", i, address);
    else if (info.dli_sname == NULL)
        report_line("hakmem:     #%u %p (%s+%p)", i, address, info.dli_fname, place);
    else
        report_line("hakmem:     #%u %p %s (%s+%p)", i, address, info.dli_sname, info.dli_fname, place);
}

void stack_report(const char *title, const struct stack *stack)
{
    if (stack->n_frames == 0)
        return;
    report_line("hakmem:   %s by thread %z:", title, (size_t)stack->thread_id);
    stack_report_frames(stack);
}

void stack_report_frames(const struct stack *stack)
{
    for (unsigned i = 0; i < stack->n_frames; i++)
        report_frame(i, stack->frame[i]);
}
