/* alternate_stack.c - signal handlers of which one runs on the thread's alternate signal stack, the other on its own, with the alternate one
 * above it and below: after each instruction of malloc
 *   N  one interrupts the other, which has interrupted malloc: no block gets two owners
 *   L  one leaves malloc by siglongjmp: later calls are served by the thread's magazines again
 * Single steps by the trap flag, so x86-64 alone.
 */
#include "check.h"

#include <pthread.h>
#include <setjmp.h>
#include <sys/mman.h>

#if defined(__x86_64__)

enum { SIZE = 48, MOST_STEPS = 400, STACK_BYTES = 65536 };
enum way { NEST, LEAVE };

static volatile enum way way;
static volatile long n_steps, target;
static volatile int reached, n_got;
static void *got[3];
static sigjmp_buf outside;

static void take(int number)
{
    (void)number;
    for (n_got = 0; n_got < 3; n_got++)
        got[n_got] = malloc(SIZE);
}

static void step(int number)
{
    (void)number;
    if (n_steps++ != target)
        return;
    reached = 1;
    if (way == NEST)
        raise(SIGUSR1);
    else
        siglongjmp(outside, 1);
}

#define TRAP_FLAG_ON __asm__ volatile("pushfq; orl $0x100, (%%rsp); popfq" ::: "memory", "cc")
#define TRAP_FLAG_OFF __asm__ volatile("pushfq; andl $~0x100, (%%rsp); popfq" ::: "memory", "cc")

static void check_nested(void *interrupted)
{
    void *after = malloc(SIZE);
    for (int i = 0; i < n_got; i++)
        CHECK_THAT(got[i] != interrupted && got[i] != after, "instruction %ld: %p has two owners", target, got[i]);
    for (int i = 0; i < n_got; i++)
        free(got[i]);
    free(after);
    free(interrupted);
}

/* A magazine hands out what came last. The pool, from which a closed door is served, hands out the first free one. */
static void check_left(void)
{
    void *warm[3], *again;
    for (int round = 0; round < 2; round++) {
        for (int i = 0; i < 3; i++)
            warm[i] = malloc(SIZE);
        for (int i = 0; i < 3; i++)
            free(warm[i]);
    }
    again = malloc(SIZE);
    CHECK_THAT(again == warm[2], "left at instruction %ld: %p is handed out after %p was freed", target, again,
               warm[2]);
    free(again);
}

static void step_through(void)
{
    for (target = 0; target < MOST_STEPS; target++) {
        void *volatile block = NULL;
        n_steps = reached = n_got = 0;
        if (sigsetjmp(outside, 1) == 0) {
            TRAP_FLAG_ON;
            block = malloc(SIZE);
            TRAP_FLAG_OFF;
        }
        if (reached && way == NEST)
            check_nested(block);
        else if (reached)
            check_left();
        else
            return;
    }
    CHECK_FAIL("malloc takes more than %d instructions", MOST_STEPS);
}

static void *work(void *alternate)
{
    void *warm[40];
    stack_t stack = {.ss_sp = alternate, .ss_size = STACK_BYTES};
    REQUIRE(sigaltstack(&stack, NULL) == 0);
    for (int i = 0; i < 40; i++)
        warm[i] = malloc(SIZE);
    for (int i = 0; i < 40; i++)
        free(warm[i]);
    step_through();
    return NULL;
}

static void try_with(enum way wanted, int flags_of_step, int flags_of_take, bool above)
{
    size_t space_bytes = 2 * STACK_BYTES + CHECK_MIB;
    char *space = mmap(NULL, space_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    pthread_attr_t attributes;
    pthread_t thread;
    REQUIRE(space != MAP_FAILED && pthread_attr_init(&attributes) == 0);
    REQUIRE(pthread_attr_setstack(&attributes, above ? space : space + STACK_BYTES, CHECK_MIB) == 0);
    REQUIRE(sigaction(SIGTRAP, &(struct sigaction){.sa_handler = step, .sa_flags = flags_of_step}, NULL) == 0);
    REQUIRE(sigaction(SIGUSR1, &(struct sigaction){.sa_handler = take, .sa_flags = flags_of_take}, NULL) == 0);
    way = wanted;
    REQUIRE(pthread_create(&thread, &attributes, work, above ? space + STACK_BYTES + CHECK_MIB : space) == 0);
    REQUIRE(pthread_join(thread, NULL) == 0);
    pthread_attr_destroy(&attributes);
    munmap(space, space_bytes);
}

int main(void)
{
    check_on_hakmem();
    for (int above = 0; above < 2; above++) {
        try_with(NEST, 0, SA_ONSTACK, above);
        try_with(NEST, SA_ONSTACK, 0, above);
        try_with(NEST, 0, 0, above);
        try_with(NEST, SA_ONSTACK, SA_ONSTACK, above);
        try_with(LEAVE, SA_ONSTACK, 0, above);
        try_with(LEAVE, 0, 0, above);
    }
    return check_status();
}

#else

int main(void)
{
    check_say("skipped: x86-64 alone has its handlers watched");
    return CHECK_SKIPPED;
}

#endif
