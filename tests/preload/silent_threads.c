/* silent_threads.c - threads that never call malloc leave nothing behind, though libc frees what it had for others' stacks in them, after their
 * destructors have run. There is a heap profile on and off meanwhile, which calls upon all threads.
 */
#include "check.h"

#include <pthread.h>
#include <unistd.h>

#define N_THREADS 100 /* at once: more stacks than libc keeps */
#define N_ROUNDS 30

static pthread_barrier_t all_run;
static _Atomic int n_ended;

static void *do_nothing(void *unused)
{
    pthread_barrier_wait(&all_run);
    usleep(1000);
    n_ended++;
    return unused;
}

static void run_threads(void)
{
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    n_ended = 0;
    REQUIRE(pthread_barrier_init(&all_run, NULL, N_THREADS + 1) == 0);
    for (unsigned i = 0; i < N_THREADS; i++) {
        pthread_t thread;
        REQUIRE(pthread_create(&thread, &attributes, do_nothing, NULL) == 0);
    }
    pthread_barrier_wait(&all_run);
    while (n_ended < N_THREADS)
        usleep(1000);
    usleep(20000); /* they end */
}

int main(void)
{
    int (*start)(size_t);
    void (*stop)(void);
    void *start_symbol = check_symbol("hak_profile_start"), *stop_symbol = check_symbol("hak_profile_stop");
    memcpy(&start, &start_symbol, sizeof start);
    memcpy(&stop, &stop_symbol, sizeof stop);
    check_on_hakmem();
    run_threads();
    size_t before_bytes = check_resident_bytes();
    for (unsigned i = 0; i < N_ROUNDS; i++)
        run_threads();
    size_t now_bytes = check_resident_bytes();
    CHECK_THAT(now_bytes < before_bytes + 4 * CHECK_MIB, "%zu KiB instead of %zu", now_bytes / 1024,
               before_bytes / 1024);
    for (unsigned i = 0; i < 3; i++) {
        start(100000);
        for (unsigned k = 0; k < 1000; k++)
            free(malloc(k * 100));
        stop();
    }
    return check_status();
}
