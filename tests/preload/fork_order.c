/* fork_order.c - in the child of a fork another library's handler allocates before hakmem's own has run, while a thread that is gone may have
 * held a lock: nobody waits for it, and all is in order afterwards.
 */
#include "check.h"

#include <pthread.h>
#include <unistd.h>

#define N_THREADS 4
#define N_FORKS 300
#define CHILD_LIMIT_S 20

int early_count(void); /* plugin/early.c */

static void *replace_blocks(void *seed)
{
    uint64_t state = (uintptr_t)seed;
    void *blocks[64] = {0};
    for (;;) {
        size_t i = check_random(&state) % CHECK_COUNT(blocks);
        free(blocks[i]);
        blocks[i] = malloc(70000 + check_random(&state) % 3000000);
    }
    return NULL;
}

static void child(const char *held)
{
    alarm(CHILD_LIMIT_S);
    CHECK_THAT(early_count() == 1, "the handler has run %d times", early_count());
    uint64_t state = 1;
    for (unsigned i = 0; i < 200; i++) {
        size_t size = check_random_size(&state, 21);
        char *block = malloc(size);
        REQUIRE(block != NULL);
        check_fill(block, size, i);
        CHECK_THAT(check_filled(block, size, i), "block %u is not as it was", i);
        free(block);
    }
    CHECK_THAT(check_filled(held, 500000, 7), "what the parent held is not as it was");
    _exit(check_status());
}

int main(void)
{
    char what[40];
    check_on_hakmem();
    char *held = malloc(500000);
    REQUIRE(held != NULL);
    check_fill(held, 500000, 7);
    for (uintptr_t i = 0; i < N_THREADS; i++) {
        pthread_t thread;
        REQUIRE(pthread_create(&thread, NULL, replace_blocks, (void *)(i + 1)) == 0);
    }
    unsigned n_bad = 0;
    for (unsigned k = 0; k < N_FORKS && n_bad < 3; k++) {
        pid_t pid = fork();
        REQUIRE(pid >= 0);
        if (pid == 0)
            child(held);
        snprintf(what, sizeof what, "child %u", k);
        n_bad += (unsigned)check_wait(pid, what);
    }
    fflush(NULL);
    _exit(check_status());
}
