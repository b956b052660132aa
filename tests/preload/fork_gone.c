/* fork_gone.c - what threads have cached that a fork's child does not have goes back in the child, also where the system is not asked whether
 * threads sleep: its own calls see to it.
 */
#include "check.h"

#include <pthread.h>
#include <unistd.h>

#define N_THREADS 50
#define N_BLOCKS 200
#define SLAB_BYTES 65536
#define N_SLABS 32           /* that the child empties in a round, beside what its magazine takes */
#define LEAST_CACHED 50      /* blocks a thread */
#define MOST_CACHED_OWN 1000 /* by the thread that forks */
#define ROUNDS 1000          /* of 10 ms */

static pthread_barrier_t all_cache, all_end;

static void *cache(void *unused)
{
    void *block[N_BLOCKS];
    for (unsigned i = 0; i < N_BLOCKS; i++)
        block[i] = check_malloc(16 + i * 37 % 2000);
    for (unsigned i = 0; i < N_BLOCKS; i++)
        free(block[i]);
    pthread_barrier_wait(&all_cache);
    pthread_barrier_wait(&all_end);
    return unused;
}

/* Calls that empty slabs, for these do ticks' work. */
static void empty_slabs(void)
{
    enum { N = N_SLABS * SLAB_BYTES / 4096 };
    void *block[N];
    for (unsigned i = 0; i < N; i++)
        block[i] = check_malloc(4096);
    for (unsigned i = 0; i < N; i++)
        free(block[i]);
}

static void child(void)
{
    CHECK_THAT(check_stats().cached_blocks >= N_THREADS * LEAST_CACHED, "the child has %llu cached blocks",
               (unsigned long long)check_stats().cached_blocks);
    for (unsigned i = 0; i < ROUNDS && check_stats().cached_blocks > MOST_CACHED_OWN; i++) {
        empty_slabs();
        usleep(10000);
    }
    CHECK_THAT(check_stats().cached_blocks <= MOST_CACHED_OWN, "the child still has %llu cached blocks",
               (unsigned long long)check_stats().cached_blocks);
}

int main(void)
{
    pthread_t thread[N_THREADS];
    check_on_hakmem();
    REQUIRE(pthread_barrier_init(&all_cache, NULL, N_THREADS + 1) == 0 &&
            pthread_barrier_init(&all_end, NULL, N_THREADS + 1) == 0);
    for (unsigned i = 0; i < N_THREADS; i++)
        REQUIRE(pthread_create(&thread[i], NULL, cache, NULL) == 0);
    pthread_barrier_wait(&all_cache);
    pid_t pid = fork();
    REQUIRE(pid >= 0);
    if (pid == 0) {
        child();
        _exit(check_status());
    }
    check_wait(pid, "the child");
    pthread_barrier_wait(&all_end);
    for (unsigned i = 0; i < N_THREADS; i++)
        pthread_join(thread[i], NULL);
    return check_status();
}
