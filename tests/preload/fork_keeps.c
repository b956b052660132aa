/* fork_keeps.c - what threads have cached when another one forks stays in the child as it is: there is no thread that it could be taken from, and
 * who only calls exec pays for no page of it. A trim takes it apart, and threads of the child's own use it, beside the blocks that are held.
 */
#include "check.h"

#include <malloc.h>
#include <pthread.h>
#include <sys/resource.h>

#define N_THREADS 50
#define N_CHILD_THREADS 20
#define N_BLOCKS 200         /* that a thread holds; it caches as many */
#define MOST_FAULTS 3        /* a thread. Its cache taken apart: 6 */
#define LEAST_CACHED 50      /* blocks a thread */
#define MOST_CACHED_OWN 1000 /* by the thread that forks */

struct held {
    void *block[N_BLOCKS];
    uint64_t seed;
};

static struct held held[N_THREADS], of_child[N_CHILD_THREADS];
static pthread_barrier_t all_hold, all_end;

static size_t size_of(unsigned i)
{
    return 16 + i * 37 % 2000;
}

static void fill(struct held *mine)
{
    for (unsigned i = 0; i < N_BLOCKS; i++) {
        mine->block[i] = check_malloc(size_of(i));
        check_fill(mine->block[i], size_of(i), mine->seed + i);
    }
}

static void look(const struct held *mine, const char *whose)
{
    for (unsigned i = 0; i < N_BLOCKS; i++)
        CHECK_THAT(check_filled(mine->block[i], size_of(i), mine->seed + i), "a block of %zu bytes of %s has changed",
                   size_of(i), whose);
}

static void *hold_and_cache(void *record)
{
    struct held *mine = record, cached = {.seed = 7};
    fill(mine);
    fill(&cached);
    for (unsigned i = 0; i < N_BLOCKS; i++)
        free(cached.block[i]);
    pthread_barrier_wait(&all_hold);
    pthread_barrier_wait(&all_end);
    return NULL;
}

static void *fill_only(void *record)
{
    fill(record);
    return NULL;
}

/* The pages that a child had to copy, or to find, before it does anything. */
static long faults_of_child(void)
{
    struct rusage used;
    int status;
    pid_t pid = fork();
    REQUIRE(pid >= 0);
    if (pid == 0)
        _exit(0);
    REQUIRE(wait4(pid, &status, 0, &used) == pid && status == 0);
    return used.ru_minflt;
}

static void trim_in_child(void)
{
    CHECK_THAT(check_stats().cached_blocks >= N_THREADS * LEAST_CACHED, "the child has %llu cached blocks",
               (unsigned long long)check_stats().cached_blocks);
    malloc_trim(0);
    CHECK_THAT(check_stats().cached_blocks <= MOST_CACHED_OWN, "after a trim the child has %llu cached blocks",
               (unsigned long long)check_stats().cached_blocks);
}

static void use_in_child(void)
{
    pthread_t thread[N_CHILD_THREADS];
    for (unsigned i = 0; i < N_CHILD_THREADS; i++) {
        of_child[i].seed = 1000000 + i * 1000;
        REQUIRE(pthread_create(&thread[i], NULL, fill_only, &of_child[i]) == 0);
    }
    for (unsigned i = 0; i < N_CHILD_THREADS; i++)
        pthread_join(thread[i], NULL);
    for (unsigned i = 0; i < N_CHILD_THREADS; i++)
        look(&of_child[i], "a thread of the child's");
    for (unsigned i = 0; i < N_THREADS; i++)
        look(&held[i], "a thread that is gone");
    for (unsigned k = 0; k < N_BLOCKS; k++) {
        for (unsigned i = 0; i < N_CHILD_THREADS; i++)
            free(of_child[i].block[k]);
        for (unsigned i = 0; i < N_THREADS; i++)
            free(held[i].block[k]);
    }
}

static void in_child(void (*part)(void), const char *what)
{
    pid_t pid = fork();
    REQUIRE(pid >= 0);
    if (pid == 0) {
        part();
        _exit(check_status());
    }
    check_wait(pid, what);
}

int main(void)
{
    pthread_t thread[N_THREADS];
    check_on_hakmem();
    REQUIRE(pthread_barrier_init(&all_hold, NULL, N_THREADS + 1) == 0 &&
            pthread_barrier_init(&all_end, NULL, N_THREADS + 1) == 0);
    free(check_malloc(100));
    long faults_before = faults_of_child();
    for (unsigned i = 0; i < N_THREADS; i++) {
        held[i].seed = i * 1000;
        REQUIRE(pthread_create(&thread[i], NULL, hold_and_cache, &held[i]) == 0);
    }
    pthread_barrier_wait(&all_hold);
    long n_faults = faults_of_child() - faults_before;
    CHECK_THAT(n_faults <= MOST_FAULTS * N_THREADS, "%ld page faults more in a child with %d threads' caches", n_faults,
               N_THREADS);
    in_child(trim_in_child, "trim in a child");
    in_child(use_in_child, "threads in a child");
    pthread_barrier_wait(&all_end);
    for (unsigned i = 0; i < N_THREADS; i++)
        pthread_join(thread[i], NULL);
    return check_status();
}
