/* test_unwind.c - stacks by rules that are kept: are they what libc's backtrace() says, frame by frame.
 * Owns     nothing.
 * Threads  one, but for the last test.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "service/unwind.h"

#include <alloca.h>
#include <execinfo.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define MAX_FRAMES 200

static _Atomic unsigned n_compared, n_given_up, n_wrong;

/* Both are called from here, so that all but the first frame must be the same. (A sanitizer puts a function of its own before
 * backtrace(), whose frame comes first then.) */
static __attribute__((noinline)) void compare(void)
{
    void *own[MAX_FRAMES], *expected[MAX_FRAMES];
    int n_own = unwind_take(own, MAX_FRAMES), n_expected = backtrace(expected, MAX_FRAMES);
    if (n_own < 0) {
        n_given_up++;
        return;
    }
    n_compared++;
    int more = n_expected - n_own;
    bool same = n_own > 1 && (more == 0 || more == 1);
    for (int i = 1; i < n_own && same; i++)
        same = own[i] == expected[i + more];
    n_wrong += !same;
}

/* x86-64 alone has rules; elsewhere it always gives up, and says so. */
static void check(unsigned least)
{
#if defined(__x86_64__)
    assert_int_equal(n_wrong, 0);
    assert_true(n_compared >= least);
    assert_int_equal(n_given_up, 0);
#else
    (void)least;
    assert_true(n_wrong == 0 && n_compared == 0);
#endif
    n_compared = n_given_up = 0;
}

#define KEEP_CALL __asm__ volatile("" : : : "memory") /* what comes before is no tail call */

/* ---- Frames of all kinds ----------------------------------------------------------------------------------------- */

static void descend(unsigned depth);

static __attribute__((noinline)) void with_fixed_frame(unsigned depth)
{
    volatile char array[1000];
    array[depth] = 1;
    descend(depth);
    array[depth] = array[0];
}

/* Of which the table's numbers take three bytes. */
static __attribute__((noinline)) void with_long_frame(unsigned depth)
{
    volatile char array[40000];
    array[depth] = 1;
    descend(depth);
    array[depth] = array[0];
}

static __attribute__((noinline)) void with_alloca(unsigned depth)
{
    volatile char *array = alloca(depth * 100 + 1);
    array[0] = 1;
    descend(depth);
    array[0] = array[depth];
}

/* Many values that live across the call: all registers that a callee must keep are pushed. */
static __attribute__((noinline)) uint64_t with_saved_registers(unsigned depth, uint64_t a, uint64_t b, uint64_t c,
                                                               uint64_t d, uint64_t e, uint64_t f, uint64_t g,
                                                               uint64_t h)
{
    descend(depth);
    KEEP_CALL;
    return a * 3 + b * 5 + c * 7 + d * 11 + e * 13 + f * 17 + g * 19 + h * 23;
}

static __attribute__((noinline, aligned(64))) void with_aligned_local(unsigned depth)
{
    volatile char array[64] __attribute__((aligned(16)));
    array[0] = 1;
    descend(depth);
    array[1] = array[0];
}

static _Thread_local unsigned wanted_depth;

static int order(const void *a, const void *b)
{
    descend(wanted_depth);
    KEEP_CALL;
    return *(const int *)a - *(const int *)b;
}

static __attribute__((noinline)) void through_libc(unsigned depth)
{
    int numbers[3] = {3, 1, 2};
    wanted_depth = depth;
    qsort(numbers, 3, sizeof numbers[0], order);
    KEEP_CALL;
}

static __attribute__((noinline)) void descend(unsigned depth)
{
    compare();
    switch (depth == 0 ? 99 : depth % 5) {
    case 0:
        if (depth == 10)
            with_long_frame(depth - 1);
        else
            with_fixed_frame(depth - 1);
        break;
    case 1:
        with_alloca(depth - 1);
        break;
    case 2:
        with_saved_registers(depth - 1, 1, 2, 3, 4, 5, 6, 7, 8);
        break;
    case 3:
        with_aligned_local(depth - 1);
        break;
    case 4:
        if (depth < 12)
            through_libc(depth - 1);
        break;
    default:
        break;
    }
    KEEP_CALL;
}

static void frames_are_those_of_backtrace(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 3; i++)
        for (unsigned depth = 0; depth < 13; depth++)
            descend(depth);
    check(100);
}

static void a_long_stack_is_cut(void **state)
{
    (void)state;
    void *few[3], *many[MAX_FRAMES];
    int n = unwind_take(few, 3);
    int n_all = unwind_take(many, MAX_FRAMES);
    if (n < 0)
        return; /* no rules for this processor */
    assert_int_equal(n, 3);
    assert_true(n_all > 3);
    assert_true(few[1] == many[1] && few[2] == many[2]);
}

/* A handler's frame has rules of another kind: it must give up, whatever it has been told before. */
static _Atomic int taken_in_handler;

static void handle(int signal_number)
{
    void *frame[MAX_FRAMES];
    (void)signal_number;
    taken_in_handler = unwind_take(frame, MAX_FRAMES);
}

static void signal_handlers_are_left_to_others(void **state)
{
    (void)state;
    struct sigaction action = {.sa_handler = handle}, old;
    assert_int_equal(sigaction(SIGUSR1, &action, &old), 0);
    for (unsigned i = 0; i < 3; i++) {
        taken_in_handler = 0;
        raise(SIGUSR1);
        assert_int_equal(taken_in_handler, -1);
    }
    sigaction(SIGUSR1, &old, NULL);
}

static void children_of_fork_go_on(void **state)
{
    (void)state;
    pid_t pid = fork();
    if (pid == 0) {
        unwind_fork_child();
        descend(9);
        _exit(n_wrong != 0 || n_compared + n_given_up == 0);
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
}

/* ---- Threads ------------------------------------------------------------------------------------------------------- */

static void *work(void *argument)
{
    for (unsigned i = 0; i < 300; i++)
        descend((unsigned)(uintptr_t)argument % 5 + i % 12);
    return NULL;
}

static void threads_share_the_rules(void **state)
{
    (void)state;
    enum { N_THREADS = 4 };
    pthread_t threads[N_THREADS];
    n_compared = n_given_up = 0;
    for (uintptr_t i = 0; i < N_THREADS; i++)
        assert_int_equal(pthread_create(&threads[i], NULL, work, (void *)i), 0);
    for (unsigned i = 0; i < N_THREADS; i++)
        pthread_join(threads[i], NULL);
    check(1000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(frames_are_those_of_backtrace),
        cmocka_unit_test(a_long_stack_is_cut),
        cmocka_unit_test(signal_handlers_are_left_to_others),
        cmocka_unit_test(children_of_fork_go_on),
        cmocka_unit_test(threads_share_the_rules),
    };
    void *frame[2];
    (void)!backtrace(frame, 2); /* loads what it needs */
    return cmocka_run_group_tests(tests, NULL, NULL);
}
