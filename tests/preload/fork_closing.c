/* fork_closing.c - in hardened mode what is given back is closed. The child of a fork that comes when that has been done, but not noted yet, and
 * another thread holds the allocator's lock, so that the child files everything anew, gets no block that is closed.
 * The threads are stopped where they are by an mprotect of this program's own.
 */
#include "check.h"

#include <malloc.h>
#include <pthread.h>
#include <semaphore.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#define LARGE (9 * CHECK_MIB)
#define LEAST_CLOSED (8 * CHECK_MIB) /* more than any guard page's neighbours */
/* more than a thread takes slots for in advance: they are opened under the lock */
#define SPAN (CHECK_MIB + CHECK_MIB / 2)
#define N_BLOCKS 8

enum stops { NOWHERE, WHEN_OPENED, ONCE_OPENED, WHEN_CLOSED };
static __thread volatile enum stops stops; /* volatile: malloc is not known to change it */
static sem_t arrived, go_on;

static void arrive(void)
{
    stops = NOWHERE;
    sem_post(&arrived);
    while (sem_wait(&go_on) != 0)
        continue;
}

/* NOLINTNEXTLINE: libc's name */
int mprotect(void *address, size_t len, int protection)
{
    int result = (int)syscall(SYS_mprotect, address, len, protection);
    if (stops == ONCE_OPENED && protection != PROT_NONE)
        stops = WHEN_CLOSED;
    else if ((stops == WHEN_CLOSED && protection == PROT_NONE && len >= LEAST_CLOSED) ||
             (stops == WHEN_OPENED && protection != PROT_NONE))
        arrive();
    return result;
}

static void *give_back(void *unused)
{
    char *block = check_malloc(LARGE);
    check_fill(block, LARGE, 1);
    stops = ONCE_OPENED; /* a freed block is closed, and opened again before it leaves */
    free(block);
    malloc_trim(0);
    REQUIRE(stops == NOWHERE);
    return unused;
}

static void *open_slots(void *unused)
{
    char *first = check_malloc(100); /* makes its record */
    check_fill(first, 100, 2);
    stops = WHEN_OPENED;
    char *span = check_malloc(SPAN);
    check_fill(span, SPAN, 3);
    CHECK(check_filled(first, 100, 2) && check_filled(span, SPAN, 3));
    free(first);
    free(span);
    REQUIRE(stops == NOWHERE);
    return unused;
}

static void wait_for_arrival(void)
{
    while (sem_wait(&arrived) != 0)
        continue;
}

int main(void)
{
    pthread_t closer, opener;
    REQUIRE(sem_init(&arrived, 0, 0) == 0 && sem_init(&go_on, 0, 0) == 0);
    REQUIRE(pthread_create(&closer, NULL, give_back, NULL) == 0);
    wait_for_arrival();
    REQUIRE(pthread_create(&opener, NULL, open_slots, NULL) == 0);
    wait_for_arrival();
    pid_t child = fork();
    REQUIRE(child >= 0);
    if (child == 0) {
        for (unsigned i = 0; i < N_BLOCKS; i++) {
            char *block = check_malloc(LARGE);
            check_fill(block, LARGE, i);
            if (!check_filled(block, LARGE, i))
                _exit(1);
        }
        _exit(0);
    }
    sem_post(&go_on);
    sem_post(&go_on);
    int status = 0;
    REQUIRE(waitpid(child, &status, 0) == child);
    CHECK_THAT(status == 0, "the child ended with status %#x", (unsigned)status);
    REQUIRE(pthread_join(closer, NULL) == 0 && pthread_join(opener, NULL) == 0);
    return check_status();
}
