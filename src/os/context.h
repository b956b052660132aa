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
#define OS_CONTEXT_HAS_PC true
static ALWAYS_INLINE uintptr_t os_context_pc(const void *context)
{
    return (uintptr_t)((const ucontext_t *)context)->uc_mcontext.gregs[REG_RIP];
}

/* Whether the interrupted code was waiting for an event in a system call: the kernel has the call end with EINTR, or goes back before its
 * instruction. */
static ALWAYS_INLINE bool os_context_waits(const void *context)
{
    const greg_t *registers = ((const ucontext_t *)context)->uc_mcontext.gregs;
    const unsigned char *next = (const unsigned char *)(uintptr_t)registers[REG_RIP]; /* NOLINT: the code that was interrupted */
    static const unsigned char instruction[] = {0x0f, 0x05};
    if (registers[REG_RAX] == -EINTR)
        return memcmp(next - sizeof instruction, instruction, sizeof instruction) == 0;
    return os_is_waiting_call(registers[REG_RAX]) && memcmp(next, instruction, sizeof instruction) == 0;
}

/* The thread's alternate signal stack at that moment. */
static ALWAYS_INLINE struct os_stack os_context_signal_stack(const void *context)
{
    const stack_t *stack = &((const ucontext_t *)context)->uc_stack;
    return (struct os_stack){(uintptr_t)stack->ss_sp, (stack->ss_flags & SS_DISABLE) != 0 ? 0 : stack->ss_size};
}
#else
#define OS_CONTEXT_HAS_PC false
static ALWAYS_INLINE uintptr_t os_context_pc(const void *context)
{
    (void)context;
    return 0;
}

static ALWAYS_INLINE bool os_context_waits(const void *context)
{
    (void)context;
    return false;
}

static ALWAYS_INLINE struct os_stack os_context_signal_stack(const void *context)
{
    (void)context;
    return (struct os_stack){0, 0};
}
#endif

#endif
