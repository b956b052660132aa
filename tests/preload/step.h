/* step.h - the processor stops behind each instruction, by x86's trap flag: SIGTRAP tells.
 * Called by  handlers.c, handler_exit.c, unit/test_budget.c.     Calls  nothing
 */
#ifndef HAKMEM_TESTS_PRELOAD_STEP_H
#define HAKMEM_TESTS_PRELOAD_STEP_H

#define TRAP_FLAG 0x100 /* in the flags register */

static inline void step_on(void)
{
    __asm__ volatile("lea -128(%%rsp), %%rsp\n\tpushfq\n\torq $0x100, (%%rsp)\n\tpopfq\n\tlea 128(%%rsp), %%rsp" ::
                         : "memory", "cc");
}

static inline void step_off(void)
{
    __asm__ volatile("lea -128(%%rsp), %%rsp\n\tpushfq\n\tandq $~0x100, (%%rsp)\n\tpopfq\n\tlea 128(%%rsp), %%rsp" ::
                         : "memory", "cc");
}

#endif
