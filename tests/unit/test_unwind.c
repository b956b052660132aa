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

/* ---- Tables of all kinds ----------------------------------------------------------------------------------------- */

#if defined(__x86_64__)

/* Functions whose tables are written by hand, for compilers write few kinds. Each leaves nothing of use in the base pointer, and is called by
 * a function that is found by it: who takes it to be kept where it is not, or elsewhere, goes astray. */
enum found { FOLLOWED, GIVEN_UP, ENDED };

static enum found made_to_be;
static _Atomic unsigned n_looked;

void look_from_made(void);
void look_from_made(void)
{
    void *frame[MAX_FRAMES];
    n_looked++;
    if (made_to_be == FOLLOWED) {
        compare();
    } else {
        int n = unwind_take(frame, MAX_FRAMES);
        n_wrong += made_to_be == GIVEN_UP ? n != -1 : n < 1 || n > 2; /* this one's caller is the last */
    }
    KEEP_CALL;
}

#define MADE_BARE(name, begin, body, end)                                                                              \
    void made_##name(void);                                                                                            \
    __asm__(".pushsection .text\n.balign 16\n.type made_" #name ", @function\n.globl made_" #name                      \
            "\n.hidden made_" #name "\nmade_" #name ":\n" begin "push %rbp\n" body "pop %rbp\n" end                    \
            "ret\n.size made_" #name ", . - made_" #name "\n.popsection\n");
#define MADE(name, table, body)                                                                                        \
    MADE_BARE(name, ".cfi_startproc\n", ".cfi_def_cfa_offset 16\n" table body,                                         \
              ".cfi_restore rbp\n.cfi_def_cfa rsp, 8\n.cfi_endproc\n")
#define SAVED ".cfi_offset rbp, -16\n"
#define LOST "mov $1, %ebp\n"
#define CALL "call look_from_made\n"
#define DEEPER "sub $16, %rsp\n.cfi_adjust_cfa_offset 16\n"
#define TWO_STATES ".cfi_remember_state\n.cfi_remember_state\n"

MADE(plain, SAVED, LOST CALL)
MADE(offset_extended, ".cfi_escape 0x05, 6, 2\n", LOST CALL)
MADE(offset_extended_signed, ".cfi_escape 0x11, 6, 2\n", LOST CALL)
MADE(offset_signed, SAVED,
     LOST "sub $496, %rsp\n.cfi_escape 0x13, 0x40\n" CALL "add $496, %rsp\n.cfi_def_cfa_offset 16\n")
MADE(offset_signed_long, SAVED,
     LOST "sub $1024, %rsp\n.cfi_escape 0x13, 0xfe, 0x7e\n" CALL "add $1024, %rsp\n.cfi_def_cfa_offset 16\n")
MADE(cfa_signed, SAVED ".cfi_escape 0x12, 7, 0x7e\n", LOST CALL)
MADE(remembered, SAVED,
     LOST ".cfi_remember_state\nsub $32, %rsp\n.cfi_def_cfa_offset 48\n.cfi_remember_state\nsub $32, "
          "%rsp\n.cfi_def_cfa_offset 80\n" CALL "add $32, %rsp\n.cfi_restore_state\n" CALL
          "add $32, %rsp\n.cfi_restore_state\n" CALL)
MADE(long_ways, SAVED,
     LOST ".skip 100, 0x90\nsub $16, %rsp\n.cfi_def_cfa_offset 32\n" CALL
          ".skip 300, 0x90\nsub $16, %rsp\n.cfi_def_cfa_offset 48\n" CALL
          ".skip 70000, 0x90\nsub $16, %rsp\n.cfi_def_cfa_offset 64\n" CALL "add $48, %rsp\n.cfi_def_cfa_offset 16\n")
MADE(after_the_call, SAVED, LOST CALL ".cfi_def_cfa_offset 4096\nnop\n.cfi_def_cfa_offset 16\n")
MADE(many_rows, SAVED,
     LOST DEEPER DEEPER DEEPER DEEPER DEEPER DEEPER DEEPER DEEPER CALL "add $128, %rsp\n.cfi_def_cfa_offset 16\n")
/* holds from the call's last byte on */
MADE(in_the_call, SAVED, LOST ".cfi_def_cfa_offset 4096\n.cfi_escape 0x44, 0x0e, 16\n" CALL)
MADE(pushed_arguments, ".cfi_escape 0x2e, 0x90, 0x01\n" SAVED, LOST CALL)
MADE(other_expression, ".cfi_escape 0x10, 3, 2, 0x77, 0\n" SAVED, LOST CALL)
MADE(other_value, ".cfi_escape 0x16, 3, 2, 0x77, 0\n" SAVED, LOST CALL)
MADE(restored, SAVED ".cfi_restore rbp\n", CALL)
MADE(restored_extended, SAVED ".cfi_escape 0x06, 6\n", CALL)
MADE(same_again, SAVED ".cfi_same_value rbp\n", CALL)
MADE(personality, ".cfi_personality 0x1b, look_from_made\n.cfi_lsda 0x1b, look_from_made\n" SAVED, LOST CALL)

MADE(end, SAVED ".cfi_undefined rip\n", LOST CALL)
MADE(beyond_the_stack, SAVED ".cfi_def_cfa rbp, 16\n", "movabs $0x7fffffffefe0, %rbp\n" CALL)

MADE(bp_expression, ".cfi_escape 0x10, 6, 2, 0x77, 0\n", LOST CALL)
MADE(bp_value_expression, ".cfi_escape 0x16, 6, 2, 0x77, 0\n", LOST CALL)
MADE(bp_value, ".cfi_escape 0x14, 6, 2\n", LOST CALL)
MADE(bp_value_signed, ".cfi_escape 0x15, 6, 2\n", LOST CALL)
MADE(bp_in_register, ".cfi_register rbp, rbx\n", LOST CALL)
MADE(bp_undefined, ".cfi_undefined rbp\n", LOST CALL)
MADE(bp_far, ".cfi_escape 0x05, 6, 0x88, 0x27\n", LOST CALL)
MADE(sp_value, SAVED ".cfi_escape 0x14, 7, 0\n", LOST CALL)
MADE(cfa_expression, SAVED ".cfi_escape 0x0f, 2, 0x77, 16\n", LOST CALL)
MADE(cfa_other_register, SAVED ".cfi_def_cfa rbx, 16\n", LOST CALL)
MADE(cfa_below, SAVED ".cfi_def_cfa rbp, 16\n", "lea -256(%rsp), %rbp\n" CALL)
MADE(cfa_askew, SAVED ".cfi_def_cfa rbp, 16\n", "lea 4(%rsp), %rbp\n" CALL)
MADE(address_elsewhere, SAVED ".cfi_offset rip, -16\n", LOST CALL)
MADE(address_column, ".cfi_return_column 3\n" SAVED, LOST CALL)
MADE(signal_frame, ".cfi_signal_frame\n" SAVED, LOST CALL)
MADE(too_many_states, SAVED TWO_STATES TWO_STATES TWO_STATES TWO_STATES ".cfi_remember_state\n", LOST CALL)
MADE(no_state, SAVED ".cfi_escape 0x0b\n", LOST CALL)
/* Behind the end of what has a table, by which it would be followed. */
MADE_BARE(no_table, ".cfi_startproc\nnop\n.cfi_def_cfa_offset 16\n" SAVED "nop\n.cfi_endproc\n", LOST CALL, "")

static const struct {
    const char *name;
    void (*function)(void);
    enum found found;
    unsigned n_looks;
} made[] = {
    {"plain", made_plain, FOLLOWED, 1},
    {"offset_extended", made_offset_extended, FOLLOWED, 1},
    {"offset_extended_signed", made_offset_extended_signed, FOLLOWED, 1},
    {"offset_signed", made_offset_signed, FOLLOWED, 1},
    {"offset_signed_long", made_offset_signed_long, FOLLOWED, 1},
    {"cfa_signed", made_cfa_signed, FOLLOWED, 1},
    {"remembered", made_remembered, FOLLOWED, 3},
    {"long_ways", made_long_ways, FOLLOWED, 3},
    {"after_the_call", made_after_the_call, FOLLOWED, 1},
    {"many_rows", made_many_rows, FOLLOWED, 1},
    {"in_the_call", made_in_the_call, FOLLOWED, 1},
    {"pushed_arguments", made_pushed_arguments, FOLLOWED, 1},
    {"other_expression", made_other_expression, FOLLOWED, 1},
    {"other_value", made_other_value, FOLLOWED, 1},
    {"restored", made_restored, FOLLOWED, 1},
    {"restored_extended", made_restored_extended, FOLLOWED, 1},
    {"same_again", made_same_again, FOLLOWED, 1},
    {"personality", made_personality, FOLLOWED, 1},
    {"end", made_end, ENDED, 1},
    {"beyond_the_stack", made_beyond_the_stack, ENDED, 1},
    {"bp_expression", made_bp_expression, GIVEN_UP, 1},
    {"bp_value_expression", made_bp_value_expression, GIVEN_UP, 1},
    {"bp_value", made_bp_value, GIVEN_UP, 1},
    {"bp_value_signed", made_bp_value_signed, GIVEN_UP, 1},
    {"bp_in_register", made_bp_in_register, GIVEN_UP, 1},
    {"bp_undefined", made_bp_undefined, GIVEN_UP, 1},
    {"bp_far", made_bp_far, GIVEN_UP, 1},
    {"sp_value", made_sp_value, GIVEN_UP, 1},
    {"cfa_expression", made_cfa_expression, GIVEN_UP, 1},
    {"cfa_other_register", made_cfa_other_register, GIVEN_UP, 1},
    {"cfa_below", made_cfa_below, GIVEN_UP, 1},
    {"cfa_askew", made_cfa_askew, GIVEN_UP, 1},
    {"address_elsewhere", made_address_elsewhere, GIVEN_UP, 1},
    {"address_column", made_address_column, GIVEN_UP, 1},
    {"signal_frame", made_signal_frame, GIVEN_UP, 1},
    {"too_many_states", made_too_many_states, GIVEN_UP, 1},
    {"no_state", made_no_state, GIVEN_UP, 1},
    {"no_table", made_no_table, GIVEN_UP, 1},
};

/* Found by its base pointer. */
static __attribute__((noinline)) void call_made(size_t i)
{
    volatile char *array = alloca(i + 1);
    array[0] = 1;
    made[i].function();
    array[0] = array[i];
}

/* Twice: by the tables, and by what is kept of them. */
static void tables_are_read_or_left_to_others(void **state)
{
    (void)state;
    for (unsigned round = 0; round < 2; round++)
        for (size_t i = 0; i < sizeof made / sizeof made[0]; i++) {
            n_compared = n_given_up = n_wrong = n_looked = 0;
            made_to_be = made[i].found;
            call_made(i);
            if (n_wrong != 0 || n_given_up != 0 || n_looked != made[i].n_looks)
                fail_msg("%s, round %u: %u of %u are wrong, %u are given up", made[i].name, round, n_wrong, n_looked,
                         n_given_up);
        }
    n_compared = 0;
}

#else

static void tables_are_read_or_left_to_others(void **state)
{
    (void)state; /* nobody reads any */
}

#endif

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
        cmocka_unit_test(frames_are_those_of_backtrace),      cmocka_unit_test(a_long_stack_is_cut),
        cmocka_unit_test(signal_handlers_are_left_to_others), cmocka_unit_test(children_of_fork_go_on),
        cmocka_unit_test(tables_are_read_or_left_to_others),  cmocka_unit_test(threads_share_the_rules),
    };
    void *frame[2];
    (void)!backtrace(frame, 2); /* loads what it needs */
    return cmocka_run_group_tests(tests, NULL, NULL);
}
