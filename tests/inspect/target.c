/* target.c - a process to look at: its heap has something of everything, and then rests, or is used without pause.
 *
 * Usage: inspect_plain [THREADS | zombie | heirs | hasty]. Says "ready" once the heap is there. With THREADS it begins so many that allocate and free all the
 * time; without, nothing changes any more. Ends when it is killed, or after five minutes. `zombie` does without all that, and says
 * "ready" and the number of a child that has ended and stays a zombie. With `heirs` the first thread ends, and its heirs one after the other:
 * each allocates for 50 ms, begins the next one, and ends. With `hasty` that takes 0.2 ms.
 */
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { N_KEPT = 20000, N_SLOTS = 2000, N_SPARSE = 20000, N_BETWEEN = 100, LIFE_S = 300 };

static void *kept[N_KEPT], *sparse[N_SPARSE], *between[N_BETWEEN];

static uint32_t next(uint32_t *state)
{
    *state = *state * 1664525 + 1013904223;
    return *state >> 8;
}

/* Mostly small, some spans, few runs; never 0. */
static size_t any_size(uint32_t *state)
{
    const uint32_t kind = next(state) % 256;
    if (kind == 0)
        return 1 + next(state) % 5000000;
    if (kind < 8)
        return 1 + next(state) % 400000;
    return 1 + next(state) % (kind < 32 ? 40000 : 1200);
}

/* Blocks of every kind, every third of which is freed again: partly used slabs, full ones, spans, runs, an LRU cache, magazines. */
static void build(void)
{
    uint32_t state = 1;
    for (int i = 0; i < N_KEPT; i++) {
        const size_t size_bytes = i < N_KEPT / 2 ? 1 + next(&state) % 200 : any_size(&state) % 100000 + 1;
        kept[i] = malloc(size_bytes);
        if (kept[i] == NULL)
            abort();
        memset(kept[i], 1, 1);
    }
    for (int i = 0; i < 6; i++) {
        free(kept[i]);
        kept[i] = malloc((size_t)(i + 1) * 1200000);
    }
    free(kept[3]);
    free(kept[5]);
    kept[3] = kept[5] = NULL;
    for (int i = 6; i < N_KEPT; i += 3) {
        free(kept[i]);
        kept[i] = NULL;
    }
}

/* Small blocks of which few are left, and larger ones that lie between them. */
static void build_gaps(void)
{
    for (int i = 0; i < N_SPARSE; i++)
        sparse[i] = malloc(640);
    for (int i = 0; i < N_SPARSE; i++)
        if (i % 50 != 0)
            free(sparse[i]);
    for (int i = 0; i < N_BETWEEN; i++)
        between[i] = malloc(3000);
}

static void *work(void *number)
{
    uint32_t state = (uint32_t)(uintptr_t)number + 7;
    static void *_Atomic shared[64];
    void **slots = calloc(N_SLOTS, sizeof *slots);
    for (;;) {
        void **slot = &slots[next(&state) % N_SLOTS];
        free(*slot);
        *slot = malloc(any_size(&state));
        if (*slot != NULL)
            *(char *)*slot = 1;
        if (next(&state) % 16 == 0) /* what one thread claims another returns */
            *slot = __atomic_exchange_n((void **)&shared[next(&state) % 64], *slot, __ATOMIC_ACQ_REL);
    }
    return NULL;
}

/* A child that has ended, and whose end nobody has asked for. */
static int keep_zombie(void)
{
    siginfo_t info;
    const pid_t zombie = fork();
    if (zombie == 0)
        _exit(0);
    if (zombie < 0 || waitid(P_PID, (id_t)zombie, &info, WEXITED | WNOWAIT) != 0)
        return 1;
    printf("ready %d\n", (int)zombie);
    fflush(stdout);
    sleep(LIFE_S);
    return 0;
}

/* As many as fill no cache, so that some are asked for and given back. */
__attribute__((noinline)) static void use_blocks(void)
{
    static void *volatile block[2000];
    for (int i = 0; i < 2000; i++)
        block[i] = malloc(3000);
    for (int i = 0; i < 2000; i++)
        free(block[i]);
}

static bool is_hasty;

static void *be_heir(void *unused)
{
    pthread_t next_one;
    for (int i = 0; i < 5 && !is_hasty; i++) {
        use_blocks();
        usleep(10000);
    }
    if (is_hasty)
        usleep(200);
    if (pthread_create(&next_one, NULL, be_heir, NULL) != 0)
        abort();
    pthread_detach(next_one);
    return unused;
}

int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "zombie") == 0)
        return keep_zombie();
    const int n_threads = argc > 1 ? atoi(argv[1]) : 0;
    build();
    build_gaps();
    is_hasty = argc > 1 && strcmp(argv[1], "hasty") == 0;
    if (is_hasty || (argc > 1 && strcmp(argv[1], "heirs") == 0)) {
        alarm(LIFE_S);
        be_heir(NULL);
        puts("ready");
        fflush(stdout);
        pthread_exit(NULL);
    }
    for (int i = 0; i < n_threads; i++) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, work, (void *)(uintptr_t)i) != 0)
            return 1;
    }
    puts("ready");
    fflush(stdout);
    sleep(LIFE_S);
    return 0;
}
