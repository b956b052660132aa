/* stops_world.c - a collector that stops all threads by a signal, each in a handler that waits for another one, while one of them trims: none
 * waits in its handler for what another has in hand that stands already. (A deadlock of this kind came within 300 rounds.)
 */
#include "check.h"

#include <malloc.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <time.h>

enum { N_WORKERS = 3, N_ROUNDS = 600, WAIT_SECONDS = 60 };

static sem_t standing, going_on;
static sigset_t until_restart;
static _Atomic bool ends;

static void on_stop(int number)
{
    int saved_errno = errno;
    (void)number;
    sem_post(&standing);
    sigsuspend(&until_restart);
    sem_post(&going_on);
    errno = saved_errno;
}

static void on_restart(int number)
{
    (void)number;
}

static void *work(void *unused)
{
    for (unsigned i = 0; !ends; i++) {
        char *volatile block = malloc(i % 200 == 0 ? 40000 + i % 3 * 30000 : 64);
        free(block);
    }
    return unused;
}

static void *trim(void *unused)
{
    while (!ends)
        malloc_trim(0);
    return unused;
}

static void await(sem_t *all, const char *what, unsigned round)
{
    struct timespec end;
    clock_gettime(CLOCK_REALTIME, &end);
    end.tv_sec += WAIT_SECONDS;
    for (unsigned i = 0; i <= N_WORKERS; i++)
        while (sem_timedwait(all, &end) != 0)
            if (errno != EINTR) {
                CHECK_FAIL("round %u: %u of %u threads %s", round, i, N_WORKERS + 1, what);
                _exit(check_status());
            }
}

int main(void)
{
    pthread_t thread[N_WORKERS + 1];
    struct sigaction stop = {.sa_handler = on_stop, .sa_flags = SA_RESTART},
                     restart = {.sa_handler = on_restart, .sa_flags = SA_RESTART};
    check_on_hakmem();
    sigfillset(&stop.sa_mask);
    sigfillset(&until_restart);
    sigdelset(&until_restart, SIGUSR2);
    REQUIRE(sigaction(SIGUSR1, &stop, NULL) == 0 && sigaction(SIGUSR2, &restart, NULL) == 0);
    REQUIRE(sem_init(&standing, 0, 0) == 0 && sem_init(&going_on, 0, 0) == 0);
    for (unsigned i = 0; i <= N_WORKERS; i++)
        REQUIRE(pthread_create(&thread[i], NULL, i == 0 ? trim : work, NULL) == 0);
    for (unsigned round = 0; round < N_ROUNDS; round++) {
        for (unsigned i = 0; i <= N_WORKERS; i++)
            REQUIRE(pthread_kill(thread[i], SIGUSR1) == 0);
        await(&standing, "stand", round);
        for (unsigned i = 0; i <= N_WORKERS; i++)
            REQUIRE(pthread_kill(thread[i], SIGUSR2) == 0);
        await(&going_on, "go on", round);
        usleep(20 + round * 7 % 200);
    }
    ends = true;
    for (unsigned i = 0; i <= N_WORKERS; i++)
        REQUIRE(pthread_join(thread[i], NULL) == 0);
    return check_status();
}
