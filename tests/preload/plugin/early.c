/* early.c - a library whose fork handler is registered before hakmem's, and allocates: see preload/fork_order.c. */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int early_count(void);

static int n_handled;
static void *volatile seen; /* so that the compiler leaves the calls */

static void allocate(void)
{
    alarm(20); /* ends the child if it waits for ever */
    for (size_t i = 0; i < 20; i++) {
        char *block = malloc(100000 + i * 9000);
        if (block != NULL)
            memset(block, 1, 100);
        seen = block;
        free(block);
    }
    n_handled++;
}

__attribute__((constructor)) static void load(void)
{
    pthread_atfork(NULL, NULL, allocate);
}

int early_count(void)
{
    return n_handled;
}
