/* context.h - what the system tells a signal handler of the code that it interrupted.
 */
#ifndef HAKMEM_OS_CONTEXT_H
#define HAKMEM_OS_CONTEXT_H

#include "os/os.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <ucontext.h>

/* The interrupted instruction's address, by the handler's third argument; 0 on processors whose frames we do not know. */
#if defined(__x86_64__)
#define OS_CONTEXT_HAS_PC 1
static ALWAYS_INLINE uintptr_t os_context_pc(const void *context)
{
    return (uintptr_t)((const ucontext_t *)context)->uc_mcontext.gregs[REG_RIP];
}

/* The register that a system call's number is in before it, and its result after it. */
static ALWAYS_INLINE long os_context_number(const void *context)
{
    return (long)((const ucontext_t *)context)->uc_mcontext.gregs[REG_RAX];
}

static ALWAYS_INLINE long os_context_result(const void *context)
{
    return os_context_number(context);
}

#define OS_SYSTEM_CALL_BYTES "\x0f\x05"
#elif defined(__aarch64__)
#define OS_CONTEXT_HAS_PC 1
static ALWAYS_INLINE uintptr_t os_context_pc(const void *context)
{
    return (uintptr_t)((const ucontext_t *)context)->uc_mcontext.pc;
}

static ALWAYS_INLINE long os_context_number(const void *context)
{
    return (long)((const ucontext_t *)context)->uc_mcontext.regs[8];
}

static ALWAYS_INLINE long os_context_result(const void *context)
{
    return (long)((const ucontext_t *)context)->uc_mcontext.regs[0];
}

#define OS_SYSTEM_CALL_BYTES "\x01\x00\x00\xd4"
#else
#define OS_CONTEXT_HAS_PC 0
static ALWAYS_INLINE uintptr_t os_context_pc(const void *context)
{
    (void)context;
    return 0;
}
#endif

/* Whether the interrupted code was waiting for an event in a system call: the kernel has the call end with EINTR, or goes back before its
 * instruction. */
static ALWAYS_INLINE bool os_context_waits(const void *context)
{
#if OS_CONTEXT_HAS_PC
    static const char instruction[] = OS_SYSTEM_CALL_BYTES;
    const char *next = (const char *)os_context_pc(context); /* NOLINT: the code that was interrupted */
    const size_t len_bytes = sizeof instruction - 1;
    bool has_ended = os_context_result(context) == -EINTR;
    struct os_module module;
    if ((!has_ended && !os_is_waiting_call(os_context_number(context))) ||
        (!os_is_linker(next) && !os_module_of(next, &module))) /* a jump to an address where nothing is: SIGSEGV */
        return false;
    return memcmp(has_ended ? next - len_bytes : next, instruction, len_bytes) == 0;
#else
    (void)context;
    return false;
#endif
}

/* The thread's alternate signal stack at that moment. */
static ALWAYS_INLINE struct os_stack os_context_signal_stack(const void *context)
{
    const stack_t *stack = &((const ucontext_t *)context)->uc_stack;
    return (struct os_stack){(uintptr_t)stack->ss_sp, (stack->ss_flags & SS_DISABLE) != 0 ? 0 : stack->ss_size};
}

#endif
