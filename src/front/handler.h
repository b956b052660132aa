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

/* Before a handler is called, with its third argument; frame: where the caller's stack frame lies. Returns what handler_leave is to
 * get. For callers that lie in HIT_TEXT themselves: a second handler that interrupts the first one's
 * beginning or end finds the magazines shut, or whole. Async-signal-safe. */
static ALWAYS_INLINE struct thread *handler_enter(const void *context, uintptr_t frame)
{
    struct thread *thread = tls_thread;
    if (likely(!hit_text_has(os_context_pc(context))) || thread == NULL)
        return NULL; /* without a record every call goes to the pool */
    for (;;) {
        if (atomic_load_explicit(&thread->busy, memory_order_relaxed) != 0) /* relaxed: our own */
            return NULL;
        if (likely(thread_take(thread)))
            break;
        /* Somebody looks whether we sleep (sleepers.c), and will see that we do not. */
    }
    thread_close_door();
    thread->handler_frame = frame;
    thread->signal_stack = os_context_signal_stack(context);
    return thread;
}

/* After it. */
static ALWAYS_INLINE void handler_leave(struct thread *thread)
{
    if (likely(thread == NULL))
        return;
    thread->handler_frame = 0;
    thread_leave(thread);
}

/* Whether a handler that closed the thread's door has been left without handler_leave: its frame lies deeper than ours, so it
 * is gone. Of two frames of which one is on the alternate signal stack the addresses say nothing: one there is gone when we are elsewhere;
 * one elsewhere is not when we are in a handler there. (Of other stacks that the handler changed to that is a guess; then the hit that it
 * interrupted has been left as well, or is unprotected as POSIX has it.) */
static inline bool handler_was_left(const struct thread *thread)
{
    uintptr_t frame = thread->handler_frame, here = (uintptr_t)__builtin_frame_address(0);
    if (likely(frame == 0))
        return false;
    bool it_is_there = os_stack_has(&thread->signal_stack, frame), we_are_there = os_stack_has(&thread->signal_stack, here);
    return it_is_there != we_are_there ? it_is_there : here > frame;
}

#endif
