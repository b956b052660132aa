/* fork_threads.c - a process with eight allocating threads forks 1,000 times; each child allocates, frees what it
 * inherited, starts a thread and forks a child of its own. Nobody hangs, and nobody's heap is damaged.
 * ctest: timeout 600
 */
#include "check.h"

#include <pthread.h>

#define N_THREADS 8
#define N_FORKS 1000
#define N_INHERITED 60
#define CHILD_LIMIT_S 60 /* far more than a child needs on a busy machine */

static int stop;
static void *inherited[N_INHERITED];
static size_t inherited_sizes[N_INHERITED];

/* Keeps a changing set of blocks and looks at each before it frees it. */
static void allocate_at_random(uint64_t seed, unsigned n_steps, const int *stop_flag)
{
    enum { N = 200 };
    void *blocks[N] = {NULL};
    size_t sizes[N];
    uint64_t state = seed, marks[N];
    for (unsigned step = 0; step < n_steps && !__atomic_load_n(stop_flag, __ATOMIC_RELAXED); step++) {
        unsigned i = (unsigned)(check_random(&state) % N);
        if (blocks[i] != NULL) {
            CHECK_THAT(check_filled(blocks[i], sizes[i], marks[i]), "seed %llx: %zu bytes have changed",
                       (unsigned long long)seed, sizes[i]);
            if (step % 5 == 0) {
                size_t old = sizes[i];
                void *moved = realloc(blocks[i], old * 2 + 1);
                CHECK(moved != NULL);
                sizes[i] = old * 2 + 1;
                blocks[i] = moved;
                check_fill(moved, sizes[i], marks[i]);
                if (sizes[i] < 300000)
                    continue;
            }
            free(blocks[i]);
        }
        sizes[i] = check_random_size(&state, step % 30 == 0 ? 18 : 12);
        marks[i] = check_random(&state);
        blocks[i] = step % 3 == 0 ? calloc(1, sizes[i]) : malloc(sizes[i]);
        CHECK_THAT(blocks[i] != NULL, "no memory for %zu bytes", sizes[i]);
        CHECK_THAT(step % 3 != 0 || check_zero(blocks[i], sizes[i]), "calloc of %zu bytes is not zero", sizes[i]);
        check_fill(blocks[i], sizes[i], marks[i]);
    }
    for (unsigned i = 0; i < N; i++) {
        CHECK(blocks[i] == NULL || check_filled(blocks[i], sizes[i], marks[i]));
        free(blocks[i]);
    }
}

static void *worker(void *seed)
{
    while (!__atomic_load_n(&stop, __ATOMIC_RELAXED)) {
        allocate_at_random((uintptr_t)seed, 3000, &stop);
        seed = (void *)((uintptr_t)seed + 1000);
    }
    return NULL;
}

static const int never = 0;

static void *child_thread(void *seed)
{
    allocate_at_random((uintptr_t)seed, 300, &never);
    return NULL;
}

static void check_inherited(int and_free)
{
    for (unsigned i = 0; i < N_INHERITED; i++) {
        CHECK_THAT(check_filled(inherited[i], inherited_sizes[i], i), "an inherited block of %zu bytes has changed",
                   inherited_sizes[i]);
        if (and_free)
            free(inherited[i]);
    }
}

static void child(unsigned k)
{
    pthread_t thread;
    check_n_failures = 0;
    alarm(CHILD_LIMIT_S);
    CHECK_THAT(check_proc_status("Threads:") == 1, "%zu threads when fork returns", check_proc_status("Threads:"));
    allocate_at_random(k, 200, &never);
    check_inherited(k % 2 == 0);
    REQUIRE(pthread_create(&thread, NULL, child_thread, (void *)(uintptr_t)(k + 1)) == 0);
    pid_t pid = fork(); /* while the child's own thread allocates */
    REQUIRE(pid >= 0);
    if (pid == 0) {
        alarm(CHILD_LIMIT_S);
        allocate_at_random(k + 2, 200, &never);
        _exit(check_n_failures == 0 ? 0 : 1);
    }
    check_wait(pid, "a grandchild");
    pthread_join(thread, NULL);
    allocate_at_random(k + 3, 100, &never);
    _exit(check_n_failures == 0 ? 0 : 1);
}

int main(void)
{
    pthread_t threads[N_THREADS];
    char what[40];
    check_on_hakmem();
    uint64_t state = 11;
    for (unsigned i = 0; i < N_INHERITED; i++) {
        inherited_sizes[i] = check_random_size(&state, 20);
        inherited[i] = malloc(inherited_sizes[i]);
        REQUIRE(inherited[i] != NULL);
        check_fill(inherited[i], inherited_sizes[i], i);
    }
    for (uintptr_t i = 0; i < N_THREADS; i++)
        REQUIRE(pthread_create(&threads[i], NULL, worker, (void *)(i * 1000000 + 77)) == 0);
    unsigned n_bad = 0;
    for (unsigned k = 0; k < N_FORKS && n_bad < 5; k++) {
        pid_t pid = fork();
        REQUIRE(pid >= 0);
        if (pid == 0)
            child(k);
        snprintf(what, sizeof what, "child %u", k);
        n_bad += (unsigned)check_wait(pid, what);
        if (k % 10 == 0)
            allocate_at_random(k, 100, &never);
    }
    __atomic_store_n(&stop, 1, __ATOMIC_RELAXED);
    for (unsigned i = 0; i < N_THREADS; i++)
        pthread_join(threads[i], NULL);
    check_inherited(1);
    allocate_at_random(5, 20000, &never);
    return check_status();
}
