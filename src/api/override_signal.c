/* override_signal.c - libc's functions that install signal handlers: each handler is called by way of a trampoline, which
 * keeps it from damaging a magazine that it interrupted the use of (front/handler.h).
 * Owns     the table of handlers.     Called by  every program.     Calls  libc's own functions, front/handler.h
 * Threads  any, and signal handlers: entries of the table are written once, with one compare-and-swap each.
 * I1  The kernel knows a trampoline exactly when the program has installed a handler that has an entry. What the program is
 *     told of earlier handlers is always its own.
 *
 * Why a trampoline for each handler instead of one for all: which handler a signal has is then for the kernel to know alone.
 * A child of vfork, which shares our memory but not the parent's handlers, may install what it likes.
 * Not seen are handlers that a program installs by system calls of its own. Neither are those beyond N_TRAMPOLINES different
 * ones, nor those of processors whose frames we do not know: they are installed as they are.
 */
#include "front/handler.h"
#include "front/harden.h"
#include "os/context.h"

#include <errno.h>
#include <signal.h>
#include <stddef.h>

#define EXPORT __attribute__((visibility("default")))

typedef void (*handler_function)(int, siginfo_t *, void *);

/* glibc's other names of the same functions; its headers declare some only on demand. */
int __sigaction(int number, const struct sigaction *action, struct sigaction *before);
__sighandler_t ssignal(int number, __sighandler_t handler);
__sighandler_t bsd_signal(int number, __sighandler_t handler);
__sighandler_t __sysv_signal(int number, __sighandler_t handler);

/* ---- Trampolines ------------------------------------------------------------------------------------------------- */

#define N_TRAMPOLINES 64

static SELDOM_USED _Atomic(handler_function) handlers[N_TRAMPOLINES]; /* NULL: no entry yet. Never changed once set */

#if defined(__aarch64__)
/* The kernel passes the second and the third argument only to handlers that were installed with SA_SIGINFO. But it leaves both where the
 * stack pointer is: struct rt_sigframe. Trampolines are no C, for that says nothing of the stack pointer at a function's beginning. */
void call_handler_at(unsigned i, int number, char *frame) __asm__("hakmem_call_handler")
    __attribute__((visibility("hidden")));
static ALWAYS_INLINE HIT_TEXT void call_handler(unsigned i, int number, siginfo_t *info, void *context);
__attribute__((used)) NOINLINE HIT_TEXT void call_handler_at(unsigned i, int number, char *frame)
{
    call_handler(i, number, (siginfo_t *)(void *)frame, frame + sizeof(siginfo_t));
}
#define CALL_HANDLER_INLINE ALWAYS_INLINE
#else
/* A handler that was installed without SA_SIGINFO ignores what it gets beside the number; the kernel passes all three. */
#define CALL_HANDLER_INLINE NOINLINE
#endif
static CALL_HANDLER_INLINE HIT_TEXT void call_handler(unsigned i, int number, siginfo_t *info, void *context)
{
    uintptr_t frame = (uintptr_t)__builtin_frame_address(0), pc = os_context_pc(context);
    /* Elsewhere nothing of ours, nor of libc's, was interrupted; and thread-local variables are not touched, for such code may lend their
     * register to other code, until its handler puts it right (Wine). */
    if (!hit_text_has(pc) && !os_is_libc((const void *)pc)) { /* NOLINT: the interrupted code */
        /* relaxed, as below: set before installed */
        atomic_load_explicit(&handlers[i], memory_order_relaxed)(number, info, context);
        return;
    }
    struct thread *thread = handler_enter(context, frame);
    struct handler_call outer = handler_note(number, context, frame);
    atomic_load_explicit(&handlers[i], memory_order_relaxed)(number, info, context); /* relaxed: set before installed */
    handler_leave(thread);
    tls_handler = outer;
}

#if defined(__aarch64__)
#define TRAMPOLINE(i)                                                                                                  \
    void trampoline_##i(int number, siginfo_t *info, void *context) __asm__("hakmem_trampoline_" #i)                   \
        __attribute__((visibility("hidden")));                                                                         \
    __asm__(".pushsection hakmem_hits, \"ax\", %progbits\n"                                                            \
            ".balign 4\n"                                                                                              \
            ".hidden hakmem_trampoline_" #i "\n"                                                                       \
            ".type hakmem_trampoline_" #i ", %function\n"                                                              \
            "hakmem_trampoline_" #i ":\n"                                                                              \
            ".cfi_startproc\n"                                                                                         \
            "hint #34\n" /* bti c */                                                                                   \
            "mov x2, sp\n"                                                                                             \
            "mov w1, w0\n"                                                                                             \
            "mov w0, #" #i "\n"                                                                                        \
            "b hakmem_call_handler\n"                                                                                  \
            ".cfi_endproc\n"                                                                                           \
            ".size hakmem_trampoline_" #i ", . - hakmem_trampoline_" #i "\n"                                           \
            ".popsection");
#else
#define TRAMPOLINE(i)                                                                                                  \
    static HIT_TEXT void trampoline_##i(int number, siginfo_t *info, void *context)                                    \
    {                                                                                                                  \
        call_handler(i, number, info, context);                                                                        \
    }
#endif
#define EIGHT(do, tens)                                                                                                \
    do                                                                                                                 \
    (tens##0) do(tens##1) do(tens##2) do(tens##3) do(tens##4) do(tens##5) do(tens##6) do(tens##7)
#define ALL(do)                                                                                                        \
    EIGHT(do, 00) EIGHT(do, 01) EIGHT(do, 02) EIGHT(do, 03) EIGHT(do, 04) EIGHT(do, 05) EIGHT(do, 06) EIGHT(do, 07)
ALL(TRAMPOLINE) /* octal: trampoline_000 to trampoline_077 */
#define NAME_OF(i) trampoline_##i,
static const handler_function trampolines[N_TRAMPOLINES] = {ALL(NAME_OF)};

static bool is_handler(__sighandler_t handler)
{
    return handler != SIG_DFL && handler != SIG_IGN && handler != SIG_ERR && handler != NULL;
}

/* What the kernel is to call for a handler: a trampoline, or the handler itself when there is none left. */
static handler_function trampoline_of(handler_function handler)
{
    if (!OS_CONTEXT_HAS_PC)
        return handler;
    for (unsigned i = 0; i < N_TRAMPOLINES; i++) {
        handler_function found = NULL;
        if (handler == trampolines[i])
            return handler; /* out of a structure that somebody filled behind our back */
        if (atomic_compare_exchange_strong(&handlers[i], &found, handler) || found == handler)
            return trampolines[i];
    }
    return handler;
}

/* The program's own handler behind what the kernel calls. */
static handler_function handler_behind(handler_function called)
{
    for (unsigned i = 0; i < N_TRAMPOLINES; i++)
        if (called == trampolines[i])
            return atomic_load_explicit(&handlers[i], memory_order_relaxed); /* relaxed: set before installed */
    return called;
}

/* The library's own handler of faults is none of the program's, which might call it, or install it again in its own way. */
static bool is_ours(handler_function handler)
{
    return handler == harden_on_fault;
}

/* ---- The names --------------------------------------------------------------------------------------------------- */

EXPORT int sigaction(int number, const struct sigaction *action, struct sigaction *before)
{
    struct sigaction ours;
    if (action != NULL && is_handler(action->sa_handler)) {
        ours = *action;
        ours.sa_sigaction = trampoline_of(action->sa_sigaction);
        action = &ours;
    }
    int status = __sigaction(number, action, before);
    if (status == 0 && before != NULL && is_handler(before->sa_handler))
        before->sa_sigaction = handler_behind(before->sa_sigaction);
    if (status == 0 && before != NULL && is_ours(before->sa_sigaction))
        *before = (struct sigaction){.sa_handler = SIG_DFL};
    return status;
}

/* By libc's function under a name that is not ours: it knows what siginterrupt() was told. */
EXPORT __sighandler_t signal(int number, __sighandler_t handler)
{
    if (is_handler(handler))
        handler = (__sighandler_t)(void *)trampoline_of((handler_function)(void *)handler);
    __sighandler_t before = ssignal(number, handler);
    handler_function behind = is_handler(before) ? handler_behind((handler_function)(void *)before) : NULL;
    return behind == NULL ? before : is_ours(behind) ? SIG_DFL : (__sighandler_t)(void *)behind;
}

EXPORT __sighandler_t bsd_signal(int number, __sighandler_t handler)
{
    return signal(number, handler);
}

/* What signal() means to programs compiled for strict System V or XPG. Weak: a program that is linked statically and calls
 * sysv_signal gets libc's definition of this name along with it. */
EXPORT __attribute__((weak)) __sighandler_t __sysv_signal(int number, __sighandler_t handler)
{
    struct sigaction action = {.sa_handler = handler, .sa_flags = SA_RESETHAND | SA_NODEFER}, before;
    if (handler == SIG_ERR) {
        errno = EINVAL;
        return SIG_ERR;
    }
    return sigaction(number, &action, &before) == 0 ? before.sa_handler : SIG_ERR;
}
