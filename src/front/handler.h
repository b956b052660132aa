/* handler.h - a signal handler that interrupts a hit path keeps away from the magazines.
 *
 * A hit reads a magazine's top, moves a block, and stores the new top: a handler in between that took or freed a block of
 * the class would have its change undone, and a block would have two owners. So whoever calls a program's handler looks at
 * the interrupted instruction first. If it belongs to a hit path, the thread is marked as busy and its door closed, as in a
 * slow path: what the handler asks for comes from the pool, and the magazines are as the hit left them when it goes on.
 * Slow paths need none of this: they are busy with their door closed anyway, and so are threads in hardened mode.
 *
 * A handler that leaves by siglongjmp leaves the mark behind. handler_was_left tells, and the next slow call clears it.
 */
#ifndef HAKMEM_FRONT_HANDLER_H
#define HAKMEM_FRONT_HANDLER_H

#include "front/hit.h"
#include "front/thread.h"
#include "os/context.h"

/* The innermost handler that the thread is in which interrupted libc or the linker, but not in a wait, 0 for none; and the thread's alternate
 * stack then. What it interrupted may be pthread_create, which holds a lock that a second one takes. */
struct handler_call {
    uintptr_t frame;
    int signal;
    struct os_stack signal_stack;
};
extern __thread struct handler_call tls_handler __attribute__((tls_model("initial-exec"), visibility("hidden")));

/* Whether a handler with this frame has been left by siglongjmp: it lies deeper than ours then, and is gone. Of two frames of which one is
 * on the alternate signal stack the addresses say nothing: one there is gone when we are elsewhere; one elsewhere is not when we are in a
 * handler there. */
static ALWAYS_INLINE bool handler_frame_is_gone(uintptr_t frame, const struct os_stack *signal_stack)
{
    uintptr_t here = (uintptr_t)__builtin_frame_address(0);
    bool it_is_there = os_stack_has(signal_stack, frame), we_are_there = os_stack_has(signal_stack, here);
    return it_is_there != we_are_there ? it_is_there : here > frame;
}

/* Whether the thread is in such a handler. One that was left by siglongjmp is found out by its signal, which is not blocked any more; with
 * SA_NODEFER not where the stack reaches deeper than its frame. */
static inline bool handler_runs(void)
{
    return tls_handler.frame != 0 && !handler_frame_is_gone(tls_handler.frame, &tls_handler.signal_stack) &&
           os_may_be_handling(tls_handler.signal);
}

/* Before a handler is called, with its third argument; frame: where the caller's stack frame lies. Returns what handler_leave is to
 * get. For callers that lie in HIT_TEXT themselves: a second handler that interrupts the first one's
 * beginning or end finds the magazines shut, or whole. Async-signal-safe. */
static ALWAYS_INLINE struct thread *handler_enter(const void *context, uintptr_t frame)
{
    struct thread *thread = tls_thread;
    if (likely(!hit_text_has(os_context_pc(context))) || thread == NULL)
        return NULL; /* without a record every call goes to the pool */
    if (atomic_load_explicit(&thread->busy, memory_order_relaxed) != 0) /* relaxed: our own */
        return NULL;
    /* Claimed or not: who has claimed the record may be stopped, in a handler that waits for this one. He sees that we do not sleep, for our
     * return address lies in a hit; or he touches nothing but what is kept for blocks above 32 KiB, which a busy thread does without. */
    atomic_store_explicit(&thread->busy, 1, memory_order_relaxed);
    thread_close_door();
    thread->handler_frame = frame;
    thread->signal_stack = os_context_signal_stack(context);
    return thread;
}

/* After it. Nothing else is done here, for the hit that was interrupted is not over: where the background thread is wanted the door stays
 * closed, so that the thread's next call starts it. */
static ALWAYS_INLINE void handler_leave(struct thread *thread)
{
    if (likely(thread == NULL))
        return;
    thread->handler_frame = 0;
    if (likely(!background_wanted && atomic_load(&thread->claim) == THREAD_UNCLAIMED))
        thread_open_door(thread);
    thread_let_go(thread);
}

/* Before a handler is called. Returns what tls_handler is to be after it. */
static ALWAYS_INLINE struct handler_call handler_note(int signal, const void *context, uintptr_t frame)
{
    struct handler_call outer = tls_handler;
    /* NOLINT: the interrupted code */
    if (os_is_libc((const void *)os_context_pc(context)) && !os_context_waits(context))
        tls_handler = (struct handler_call){frame, signal, os_context_signal_stack(context)};
    return outer;
}

/* Whether a handler that closed the thread's door has been left without handler_leave. (Of other stacks that it changed to that is a guess;
 * then the hit that it interrupted has been left as well, or is unprotected as POSIX has it.) */
static inline bool handler_was_left(const struct thread *thread)
{
    return unlikely(thread->handler_frame != 0) && handler_frame_is_gone(thread->handler_frame, &thread->signal_stack);
}

#endif
