/* silent_threads.c - threads that never call malloc leave nothing behind, though libc frees what it had for others' stacks in them, after their
 * destructors have run. There is a heap profile on and off meanwhile, which calls upon all threads. (A record for each would be 24 MiB; hardened mode
 * keeps 6 MiB of freed blocks.) Nor does it call upon one that has ended without a destructor, and a trim takes only what that one kept.
 */
#include "check.h"

#include <malloc.h>
#include <pthread.h>
#include <sys/syscall.h>
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

/* It has a record, and no destructor lets go of it. With so large a stack its variables are gone when it is joined. */
static void *end_by_system_call(void *unused)
{
    free(malloc(100));
    free(check_malloc(100000)); /* which is kept for the next such block */
    syscall(SYS_exit, 0);
    return unused;
}

static void run_thread_that_lets_go_of_nothing(void)
{
    pthread_attr_t attributes;
    pthread_t thread;
    REQUIRE(pthread_attr_init(&attributes) == 0 && pthread_attr_setstacksize(&attributes, 64 * CHECK_MIB) == 0);
    REQUIRE(pthread_create(&thread, &attributes, end_by_system_call, NULL) == 0 && pthread_join(thread, NULL) == 0);
    malloc_trim(0);
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

static void allocate(void)
{
    for (unsigned k = 0; k < 1000; k++)
        free(malloc(k * 100));
}

/* Begins a profile; hardened or sampling, the library refuses to. */
static void begin_profile(int (*start)(size_t))
{
    bool refused = getenv("HAKMEM_SECURE") != NULL || getenv("HAKMEM_GUARD_SAMPLE") != NULL;
    int status = start(100000);
    CHECK_THAT(refused ? status == -1 && errno == ENOTSUP : status == 0, "hak_profile_start: %d, errno %d", status,
               errno);
}

int main(void)
{
    int (*start)(size_t);
    void (*stop)(void);
    void *start_symbol = check_symbol("hak_profile_start"), *stop_symbol = check_symbol("hak_profile_stop");
    memcpy(&start, &start_symbol, sizeof start);
    memcpy(&stop, &stop_symbol, sizeof stop);
    check_on_hakmem();
    run_thread_that_lets_go_of_nothing(); /* first: libc keeps no stack so large if it is the only one */
    begin_profile(start);
    stop();
    run_threads();
    allocate();
    size_t before_bytes = check_resident_bytes();
    for (unsigned i = 0; i < N_ROUNDS; i++) {
        if (i % 10 == 3)
            begin_profile(start);
        run_threads();
        allocate();
        if (i % 10 == 6)
            stop();
    }
    size_t now_bytes = check_resident_bytes();
    CHECK_THAT(now_bytes < before_bytes + 12 * CHECK_MIB, "%zu KiB instead of %zu", now_bytes / 1024,
               before_bytes / 1024);
    return check_status();
}
