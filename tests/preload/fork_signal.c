/* fork_signal.c - a signal handler forks 1,000 times, whatever the thread that it interrupts is doing: most often
 * the threads are inside malloc or free. The children allocate, and leave by _exit. Nobody hangs, and the parent's
 * heap stays sound. The signals come one at a time, to the main thread and to others in turn; half of them by a
 * timer of the process.
 * ctest: timeout 600
 */
#include "check.h"

#include <pthread.h>
#include <semaphore.h>
#include <sys/time.h>

#define N_THREADS 4
#define N_FORKS 1000
#define CHILD_LIMIT_S 30
#define MAX_WITHOUT_MEMORY 0 /* hakmem.h: a handler that interrupts the slow paths is served */

static int stop;
static sem_t handled;
static unsigned n_children, n_without_memory, n_bad;

enum { CHILD_GOOD = 0, CHILD_WITHOUT_MEMORY = 3, CHILD_DAMAGED = 4 };

/* What a child does inside the handler: blocks of many sizes, all distinct, freed in part. */
static int child(void)
{
    enum { N = 120 };
    void *blocks[N];
    size_t sizes[N];
    uint64_t state = (uint64_t)getpid();
    sigset_t alarm_only;
    sigemptyset(&alarm_only);
    sigaddset(&alarm_only, SIGALRM);
    signal(SIGALRM, SIG_DFL); /* blocked and handled until here */
    pthread_sigmask(SIG_UNBLOCK, &alarm_only, NULL);
    alarm(CHILD_LIMIT_S);
    for (unsigned i = 0; i < N; i++) {
        sizes[i] = check_random_size(&state, i % 10 == 0 ? 20 : 13);
        blocks[i] = malloc(sizes[i]);
        if (blocks[i] == NULL)
            return CHILD_WITHOUT_MEMORY;
        check_fill(blocks[i], sizes[i], i + 1);
    }
    for (unsigned i = 0; i < N; i++) {
        if (!check_filled(blocks[i], sizes[i], i + 1))
            return CHILD_DAMAGED;
        if (i % 2 == 0)
            free(blocks[i]);
    }
    for (unsigned i = 0; i < 1000; i++)
        free(malloc(i * 7));
    return CHILD_GOOD;
}

/* fork and waitpid are async-signal-safe; so is what reports. */
static void on_signal(int signal_number)
{
    int saved_errno = errno, status = 0;
    pid_t pid = fork();
    if (pid == 0)
        _exit(child());
    if (pid < 0 || waitpid(pid, &status, 0) != pid || (!WIFEXITED(status) || WEXITSTATUS(status) == CHILD_DAMAGED)) {
        __atomic_add_fetch(&n_bad, 1, __ATOMIC_RELAXED);
        check_say("signal %d: child %d ended with status %#x%s", signal_number, (int)pid, (unsigned)status,
                  WIFSIGNALED(status) && WTERMSIG(status) == SIGALRM ? ": it hung" : "");
    } else if (WEXITSTATUS(status) == CHILD_WITHOUT_MEMORY) {
        __atomic_add_fetch(&n_without_memory, 1, __ATOMIC_RELAXED);
    }
    __atomic_add_fetch(&n_children, 1, __ATOMIC_RELAXED);
    errno = saved_errno;
    sem_post(&handled);
}

/* Batches of one size defeat the threads' magazines, so that much of the time goes by in the slow paths. */
static void allocate_in_batches(uint64_t seed)
{
    enum { N = 600 };
    static __thread void *blocks[N];
    uint64_t state = seed;
    size_t size = check_random_size(&state, 17);
    unsigned n = size > 8192 ? N / 10 : N;
    for (unsigned i = 0; i < n; i++) {
        blocks[i] = malloc(size);
        CHECK_THAT(blocks[i] != NULL, "no memory for %zu bytes", size);
        check_fill(blocks[i], size < 64 ? size : 64, seed + i);
    }
    for (unsigned i = 0; i < n; i++) {
        CHECK_THAT(check_filled(blocks[i], size < 64 ? size : 64, seed + i), "a block of %zu bytes has changed", size);
        free(blocks[i]);
    }
}

static void *worker(void *seed)
{
    for (uint64_t k = (uintptr_t)seed; !__atomic_load_n(&stop, __ATOMIC_RELAXED); k += 1000)
        allocate_in_batches(k);
    return NULL;
}

static pthread_t main_thread, workers[N_THREADS];

/* Sends the signals, each when the last one's handler has ended. */
static void *signaller(void *unused)
{
    for (unsigned k = 0; k < N_FORKS && __atomic_load_n(&n_bad, __ATOMIC_RELAXED) < 5; k++) {
        unsigned whom = k % (N_THREADS + 1);
        if (k % 2 == 0) {
            struct itimerval soon = {{0, 0}, {0, 100 + (k * 37) % 500}};
            setitimer(ITIMER_REAL, &soon, NULL); /* any thread but this one */
        } else {
            pthread_kill(whom == 0 ? main_thread : workers[whom - 1], SIGUSR1);
        }
        while (sem_wait(&handled) != 0)
            ;
    }
    __atomic_store_n(&stop, 1, __ATOMIC_RELAXED);
    return unused;
}

int main(void)
{
    pthread_t sender;
    sigset_t both;
    struct sigaction action;
    check_on_hakmem();
    memset(&action, 0, sizeof action);
    action.sa_handler = on_signal;
    action.sa_flags = SA_RESTART;
    sigemptyset(&both);
    sigaddset(&both, SIGUSR1);
    sigaddset(&both, SIGALRM);
    action.sa_mask = both; /* one fork at a time in a thread */
    REQUIRE(sem_init(&handled, 0, 0) == 0);
    REQUIRE(sigaction(SIGUSR1, &action, NULL) == 0 && sigaction(SIGALRM, &action, NULL) == 0);
    main_thread = pthread_self();
    for (uintptr_t i = 0; i < N_THREADS; i++)
        REQUIRE(pthread_create(&workers[i], NULL, worker, (void *)(i + 1)) == 0);
    REQUIRE(pthread_sigmask(SIG_BLOCK, &both, NULL) == 0);
    REQUIRE(pthread_create(&sender, NULL, signaller, NULL) == 0);
    REQUIRE(pthread_sigmask(SIG_UNBLOCK, &both, NULL) == 0);
    worker((void *)(uintptr_t)500);
    pthread_join(sender, NULL);
    for (unsigned i = 0; i < N_THREADS; i++)
        pthread_join(workers[i], NULL);
    CHECK_THAT(n_bad == 0, "%u of %u children ended badly", n_bad, n_children);
    CHECK_THAT(n_without_memory <= MAX_WITHOUT_MEMORY, "%u of %u children got no memory", n_without_memory, n_children);
    CHECK(n_bad != 0 || n_children == N_FORKS);
    for (uint64_t k = 0; k < 200; k++)
        allocate_in_batches(k);
    return check_status();
}
