/* signals.c - a signal handler that allocates, while the main program and two more threads are inside malloc, free and
 * realloc: it is served, nobody waits for ever, and no block is damaged. POSIX does not let a handler do that; programs do.
 * Handlers interrupt each other, also in their first and last instructions: there are three signals, and none holds the
 * others off. Each holds itself off, so three frames are the most that a stack gets, however fast the signals come. One of
 * the threads has an alternate stack for them.
 */
#include "check.h"

#include <pthread.h>
#include <signal.h>
#include <sys/time.h>
#include <time.h>

#define N_THREADS 2
#define RUN_S 5
#define N_SLOTS 64
#define PERIOD_US 100

static const int numbers[] = {SIGALRM, SIGUSR1, SIGUSR2};

static volatile sig_atomic_t ended;
static _Atomic unsigned long n_handled, n_nested, n_bad, n_without_memory;
static __thread volatile int depth;
static pthread_t main_thread;

struct slot {
    unsigned char *block;
    size_t size;
    unsigned char pattern;
};

static uint64_t next_random(uint64_t *state)
{
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return *state >> 33;
}

static void check_slot(const struct slot *slot)
{
    for (size_t i = 0; i<slot->size; i += slot->size> 512 ? 61 : 1)
        if (slot->block[i] != slot->pattern) {
            n_bad++;
            return;
        }
}

static void use(struct slot *slot, uint64_t *random)
{
    size_t size = next_random(random) % 64 == 0 ? next_random(random) % 200000 : next_random(random) % 3000;
    if (slot->block != NULL && next_random(random) % 2 == 0) {
        check_slot(slot);
        free(slot->block);
        slot->block = NULL;
        return;
    }
    size_t kept = slot->block == NULL ? 0 : slot->size < size ? slot->size : size;
    unsigned char *block = realloc(slot->block, size + 1);
    if (block == NULL) {
        n_without_memory++;
        return;
    }
    slot->block = block;
    slot->size = kept;
    check_slot(slot);
    slot->size = size;
    slot->pattern = (unsigned char)next_random(random);
    memset(block, slot->pattern, size);
}

static void handler(int number)
{
    static __thread uint64_t random = 88172645463325252u;
    (void)number;
    int saved_errno = errno;
    if (depth++ > 0)
        n_nested++;
    struct slot slot[4] = {{0}};
    for (unsigned i = 0; i < 12; i++)
        use(&slot[i % 4], &random);
    for (unsigned i = 0; i < 4; i++) {
        if (slot[i].block != NULL)
            check_slot(&slot[i]);
        free(slot[i].block);
    }
    n_handled++;
    depth--;
    errno = saved_errno;
}

static void interrupt(pthread_t thread, uint64_t *random)
{
    pthread_kill(thread, numbers[next_random(random) % (sizeof numbers / sizeof numbers[0])]);
}

static void *work(void *argument)
{
    uint64_t random = (uintptr_t)argument;
    struct slot slot[N_SLOTS] = {{0}};
    static const size_t stack_bytes = 256 * 1024;
    stack_t stack = {.ss_sp = malloc(stack_bytes), .ss_size = stack_bytes};
    if ((uintptr_t)argument % 2 == 0)
        REQUIRE(sigaltstack(&stack, NULL) == 0);
    while (!ended) {
        use(&slot[next_random(&random) % N_SLOTS], &random);
        if (next_random(&random) % 16 == 0)
            interrupt(main_thread, &random);
    }
    for (unsigned i = 0; i < N_SLOTS; i++) {
        if (slot[i].block != NULL)
            check_slot(&slot[i]);
        free(slot[i].block);
    }
    return NULL;
}

int main(void)
{
    check_on_hakmem();
    pthread_t threads[N_THREADS];
    main_thread = pthread_self();
    struct sigaction action = {.sa_handler = handler, .sa_flags = SA_RESTART | SA_ONSTACK};
    for (unsigned i = 0; i < sizeof numbers / sizeof numbers[0]; i++)
        REQUIRE(sigaction(numbers[i], &action, NULL) == 0);
    struct itimerval timer = {{0, PERIOD_US}, {0, PERIOD_US}};
    REQUIRE(setitimer(ITIMER_REAL, &timer, NULL) == 0);
    for (uintptr_t i = 0; i < N_THREADS; i++)
        REQUIRE(pthread_create(&threads[i], NULL, work, (void *)(i + 1)) == 0);
    uint64_t random = 1;
    struct slot slot[N_SLOTS] = {{0}};
    for (time_t end = time(NULL) + RUN_S; time(NULL) < end;) {
        use(&slot[next_random(&random) % N_SLOTS], &random);
        interrupt(threads[next_random(&random) % N_THREADS], &random);
    }
    ended = 1;
    for (unsigned i = 0; i < N_THREADS; i++)
        pthread_join(threads[i], NULL);
    timer = (struct itimerval){{0, 0}, {0, 0}};
    REQUIRE(setitimer(ITIMER_REAL, &timer, NULL) == 0);
    for (unsigned i = 0; i < N_SLOTS; i++)
        free(slot[i].block);
    CHECK_THAT(n_bad == 0, "%lu blocks were damaged", (unsigned long)n_bad);
    CHECK_THAT(n_without_memory == 0, "%lu calls got no memory", (unsigned long)n_without_memory);
    CHECK_THAT(n_nested > 0, "no handler was interrupted by another, of %lu", (unsigned long)n_handled);
    CHECK_THAT(n_handled > 1000, "the handler ran %lu times only", (unsigned long)n_handled);
    return check_status();
}
