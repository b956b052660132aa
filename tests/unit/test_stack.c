/* test_stack.c - stacks as reports have them: so many frames at most, from the interrupted instruction on in a handler, none before it is
 * known how, and the lines they become.
 * Owns     nothing; SIGUSR1.
 * Threads  one.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "os/context.h"
#include "os/os.h"
#include "service/stack.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define DEEP (2 * STACK_MAX_FRAMES)
#define KEEP_CALL __asm__ volatile("" : : : "memory") /* what comes before is no tail call */

static struct {
    struct stack stack;
    void *behind[32]; /* nobody's */
} taken;

static uintptr_t interrupted_pc; /* what the handler says of it; by default what the system says */

static void begin(void)
{
    memset(&taken, 0xa5, sizeof taken);
    errno = 1234;
}

static void nothing_else_is_written(void)
{
    assert_int_equal(errno, 1234);
    for (size_t i = 0; i < sizeof taken.behind; i++)
        assert_int_equal(((unsigned char *)taken.behind)[i], 0xa5);
}

static void on_signal(int number, siginfo_t *info, void *context)
{
    (void)number;
    (void)info;
    if (interrupted_pc == 0)
        interrupted_pc = os_context_pc(context);
    stack_take_interrupted(&taken.stack, interrupted_pc);
}

static __attribute__((noinline)) void go_down(unsigned n, void (*function)(void))
{
    if (n > 1)
        go_down(n - 1, function);
    else
        function();
    KEEP_CALL;
}

static void take(void)
{
    stack_take(&taken.stack);
}

static void interrupt(void)
{
    raise(SIGUSR1);
}

static void take_interrupted(unsigned depth, uintptr_t pc)
{
    struct sigaction action = {.sa_sigaction = on_signal, .sa_flags = SA_SIGINFO}, before;
    interrupted_pc = pc;
    assert_int_equal(sigaction(SIGUSR1, &action, &before), 0);
    begin();
    go_down(depth, interrupt);
    nothing_else_is_written();
    sigaction(SIGUSR1, &before, NULL);
}

/* The first of the tests: nothing has been prepared. What needs no allocation comes first. */
static void what_is_not_prepared_is_empty(void **state)
{
    (void)state;
    begin();
    go_down(1, take);
    assert_int_equal(taken.stack.n_frames, 0);
    take_interrupted(1, 0);
    assert_int_equal(taken.stack.n_frames, 0);
    stack_prepare_early();
    take_interrupted(1, 0);
    assert_int_equal(taken.stack.n_frames, 0);
#if defined(__x86_64__)
    begin();
    go_down(1, take);
    assert_true(taken.stack.n_frames > 0);
#endif
    for (unsigned round = 0; round < 2; round++)
        stack_prepare();
}

/* The test is linked statically, so all frames are the program's. */
static void so_many_frames_at_most(void **state)
{
    (void)state;
    unsigned before = 0;
    for (unsigned depth = 1; depth <= DEEP; depth++) {
        begin();
        go_down(depth, take);
        nothing_else_is_written();
        if (depth > 1)
            assert_int_equal(taken.stack.n_frames, before < STACK_MAX_FRAMES ? before + 1 : STACK_MAX_FRAMES);
        before = taken.stack.n_frames;
    }
    assert_int_equal(before, STACK_MAX_FRAMES);
}

/* Nothing of the handler, though there may be more frames than are kept; all of it where the instruction is not known to be there. */
static void a_handler_s_frames_are_left_out(void **state)
{
    (void)state;
    if (!OS_CONTEXT_HAS_PC)
        skip();
    take_interrupted(1, 0);
    unsigned n_frames = taken.stack.n_frames;
    assert_in_range(n_frames, 3, STACK_MAX_FRAMES - 1);
    assert_ptr_equal(taken.stack.frame[0], (void *)interrupted_pc); /* NOLINT: where the signal came */
    take_interrupted(1, (uintptr_t)&taken);
    assert_true(taken.stack.n_frames > n_frames);
    take_interrupted(DEEP, 0);
    assert_int_equal(taken.stack.n_frames, STACK_MAX_FRAMES);
    assert_ptr_equal(taken.stack.frame[0], (void *)interrupted_pc); /* NOLINT: likewise */
}

/* An unwinder would look at the instruction, and fault in the handler of a fault. */
static void who_jumped_where_nothing_is_has_one_frame(void **state)
{
    (void)state;
    if (!OS_CONTEXT_HAS_PC)
        skip();
    char *page = mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_ptr_not_equal(page, MAP_FAILED);
    for (size_t at = 16; at < 24; at++) {
        take_interrupted(1, (uintptr_t)page + at);
        assert_int_equal(taken.stack.n_frames, 1);
        assert_ptr_equal(taken.stack.frame[0], page + at);
    }
    munmap(page, 4096);
}

static const char *report(const struct stack *stack)
{
    static char text[16384];
    int ends[2], saved = dup(STDERR_FILENO);
    assert_int_equal(pipe(ends), 0);
    assert_int_equal(dup2(ends[1], STDERR_FILENO), STDERR_FILENO);
    close(ends[1]);
    stack_report("taken", stack);
    assert_int_equal(dup2(saved, STDERR_FILENO), STDERR_FILENO);
    close(saved);
    ssize_t n = read(ends[0], text, sizeof text - 1);
    close(ends[0]);
    text[n < 0 ? 0 : n] = 0;
    return text;
}

/* A title, and a line to each frame; nothing at all of none. An address that lies in no module is shown by itself. */
static void a_stack_is_reported_by_lines(void **state)
{
    (void)state;
    struct stack stack = {.n_frames = 0};
    char expected[200];
    stack_sign(&stack);
    assert_string_equal(report(&stack), "");
    stack.n_frames = 2;
    stack.frame[0] = (void *)(uintptr_t)0x1235;
    stack.frame[1] = (void *)(uintptr_t)0x1236;
    snprintf(expected, sizeof expected, "hakmem:   taken by thread %d:\nhakmem:     #0 0x1235\nhakmem:     #1 0x1236\n",
             (int)os_thread_id());
    assert_string_equal(report(&stack), expected);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_not_prepared_is_empty),   cmocka_unit_test(so_many_frames_at_most),
        cmocka_unit_test(a_handler_s_frames_are_left_out), cmocka_unit_test(who_jumped_where_nothing_is_has_one_frame),
        cmocka_unit_test(a_stack_is_reported_by_lines),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
