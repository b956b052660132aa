/* handler_exit.c - a handler that interrupts malloc or free is left by siglongjmp, far down the thread's stack, and the thread ends at once.
 * A handler that interrupts its exit, at each of the first instructions in turn, allocates. What it lets go
 * there is the next thread's alone: destructors that come later are served by the pool, not from the magazines of the thread that follows.
 * The processor steps through both (x86's trap flag), as in handlers.c.
 */
#include "check.h"

#include <pthread.h>
#include <setjmp.h>
#include <signal.h>

#if defined(__x86_64__)

#include "step.h"

#include <ucontext.h>

#define SIZE 48
#define DEEP_BYTES (64 * CHECK_KIB)
#define MOST_STEPS 40 /* of a malloc and a free */
#define EXIT_STEPS 60 /* of the thread's exit: until it has closed its door, and some more */
#define N_KEYS 40     /* so that the last one's destructor comes behind hakmem's */

static sigjmp_buf out;
static volatile int leave_after, exit_steps, n_exit_steps;
static int left_after;  /* so many instructions of a malloc and a free */
static int allocate_at; /* the instruction of its exit */
static uintptr_t library_from, library_to;
static pthread_key_t first_key, last_key;
static pthread_barrier_t both;

static void on_trap(int number, siginfo_t *info, void *context)
{
    int saved_errno = errno;
    (void)number, (void)info;
    if (leave_after != 0) {
        if (--leave_after == 0)
            siglongjmp(out, 1);
        return;
    }
    uintptr_t at = (uintptr_t)((ucontext_t *)context)->uc_mcontext.gregs[REG_RIP];
    if (at >= library_from && at < library_to && exit_steps > 0 && --exit_steps == 0) {
        n_exit_steps++;
        void *volatile block = malloc(SIZE);
        if (block != NULL)
            memset(block, 7, SIZE);
        free(block);
    }
    if (exit_steps <= 0)
        ((ucontext_t *)context)->uc_mcontext.gregs[REG_EFL] &= ~TRAP_FLAG;
    errno = saved_errno;
}

static void use_one(void)
{
    void *volatile block = malloc(SIZE);
    free(block);
}

static void *kept; /* lies in the magazine of the thread that follows */

static void *follow(void *argument)
{
    use_one(); /* takes the record that was let go */
    void *volatile block = malloc(SIZE);
    kept = block;
    free(block);
    pthread_barrier_wait(&both);
    pthread_barrier_wait(&both);
    return argument;
}

/* From hakmem's first instruction to its last: its code lies in two places. */
static void find_library(void)
{
    char line[512];
    unsigned long from, to;
    const uintptr_t one = (uintptr_t)check_symbol("malloc"), other = (uintptr_t)check_symbol("hak_version");
    FILE *maps = fopen("/proc/self/maps", "r");
    REQUIRE(maps != NULL);
    library_from = UINTPTR_MAX;
    while (fgets(line, sizeof line, maps) != NULL)
        if (sscanf(line, "%lx-%lx", &from, &to) == 2 && ((one >= from && one < to) || (other >= from && other < to))) {
            library_from = from < library_from ? from : library_from;
            library_to = to > library_to ? to : library_to;
        }
    fclose(maps);
    REQUIRE(library_from < library_to);
}

/* Comes before hakmem's destructor. */
static void begin_exit(void *argument)
{
    (void)argument;
    exit_steps = allocate_at;
    step_on();
}

/* Comes behind it. */
static void end_exit(void *argument)
{
    pthread_t thread;
    (void)argument;
    exit_steps = 0;
    step_off();
    REQUIRE(pthread_create(&thread, NULL, follow, NULL) == 0);
    pthread_barrier_wait(&both);
    void *volatile block = malloc(SIZE);
    CHECK_THAT(block != kept,
               "a thread that ends takes a block out of another's magazine (left after %d, exit's instruction %d)",
               left_after, allocate_at);
    free(block);
    pthread_barrier_wait(&both);
    REQUIRE(pthread_join(thread, NULL) == 0);
}

__attribute__((noinline)) static void leave_deep_down(int after)
{
    volatile char deep[DEEP_BYTES];
    deep[0] = deep[DEEP_BYTES - 1] = 1;
    left_after = leave_after = after;
    if (sigsetjmp(out, 1) == 0) {
        step_on();
        void *volatile block = malloc(SIZE);
        free(block);
        step_off();
    }
    step_off();
    leave_after = 0;
}

static void *run(void *argument)
{
    for (unsigned i = 0; i < 100; i++)
        use_one(); /* from here on a hit */
    pthread_setspecific(first_key, argument);
    pthread_setspecific(last_key, argument);
    leave_deep_down((int)(intptr_t)argument);
    return NULL;
}

int main(void)
{
    pthread_key_t key;
    struct sigaction action = {.sa_sigaction = on_trap, .sa_flags = SA_SIGINFO};
    check_on_hakmem();
    REQUIRE(pthread_key_create(&first_key, begin_exit) == 0);
    for (unsigned i = 0; i < N_KEYS; i++)
        REQUIRE(pthread_key_create(&key, NULL) == 0);
    REQUIRE(pthread_key_create(&last_key, end_exit) == 0 && first_key < last_key);
    REQUIRE(pthread_barrier_init(&both, NULL, 2) == 0);
    REQUIRE(sigaction(SIGTRAP, &action, NULL) == 0);
    find_library();
    for (int after = 1; after < MOST_STEPS; after += 3)
        for (allocate_at = 1; allocate_at < EXIT_STEPS; allocate_at++) {
            pthread_t thread;
            REQUIRE(pthread_create(&thread, NULL, run, (void *)(intptr_t)after) == 0);
            REQUIRE(pthread_join(thread, NULL) == 0);
        }
    CHECK_THAT(n_exit_steps >= (MOST_STEPS - 1) / 3 * (EXIT_STEPS - 1), "%d steps of exits were interrupted",
               n_exit_steps);
    return check_status();
}

#else

int main(void)
{
    check_on_hakmem();
    check_leave_out("there is no trap flag");
    return check_status();
}

#endif
