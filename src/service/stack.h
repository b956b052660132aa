/* stack.h - who called: the return addresses on the calling thread's stack, and how they are shown.
 *
 * By the tables that exceptions use: programs need no frame pointers. unwind.h does it in some 80 instructions a frame; what it
 * cannot do, libc's backtrace() does in some 1,800, with about 4 KiB of stack.
 */
#ifndef HAKMEM_SERVICE_STACK_H
#define HAKMEM_SERVICE_STACK_H

#include "base/base.h"

#define STACK_MAX_FRAMES 48

struct stack {
    uint32_t n_frames;
    int32_t thread_id; /* the system's; by stack_sign */
    void *frame[STACK_MAX_FRAMES];
};

/* Loads what backtrace() needs, which allocates. Once, when the process may allocate, before the first stack is taken. */
void stack_prepare(void);

/* What can be had without an allocation: until stack_prepare, stacks that need backtrace() are empty. */
void stack_prepare_early(void);

/* The calling thread's stack from the first frame outside of this library on. No frame before stack_prepare_early, or where libc
 * cannot unwind. Does not allocate. Keeps errno. */
void stack_take(struct stack *stack);

/* The same in a signal handler: from the interrupted instruction on, if its address is not 0; that address alone, where nothing can be
 * read there. */
void stack_take_interrupted(struct stack *stack, uintptr_t pc);

/* Notes which thread's stack it is: the calling one's. A system call. */
void stack_sign(struct stack *stack);

/* Lines on stderr: "hakmem:   TITLE by thread N:", and one a frame: its address, its function if that is exported, and its
 * place in its module, for addr2line. Nothing for an empty stack. Allocates nothing. */
COLD void stack_report(const char *title, const struct stack *stack);

/* The lines of the frames alone. */
COLD void stack_report_frames(const struct stack *stack);

#endif
