/* bench_threads.c - how an allocator fares as threads are added: bench_threads PATTERN THREADS [SCALE].
 *
 * Each thread does the same work, however many there are: where threads do not disturb each other, and each has a core, the
 * time stays. So the operations per second of 1, 2, 4 ... threads are a curve that should be a straight line.
 * It uses malloc and free alone, so whatever library is preloaded serves it. Every block is written to. SCALE (default 100) is
 * the amount of work in per cent. The time is from the first thread's beginning, when all are ready, to the last one's end.
 * Prints one line:  bench_threads pattern=NAME threads=… ops=… elapsed_s=…          ops: calls of malloc and free
 * Called by scaling.py.
 */
#define _GNU_SOURCE
#include "bench.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_THREADS 512

static unsigned n_threads, scale_percent = 100;
static pthread_barrier_t ready;
static _Atomic uint64_t total_ops;

/* ---- Tools ------------------------------------------------------------------------------------------------------- */

static uint64_t next_random(uint64_t *state) /* xorshift64* */
{
    uint64_t x = *state;
    x ^= x >> 12;
    x ^= x << 25;
    x ^= x >> 27;
    *state = x;
    return x * 0x2545f4914f6cdd1du >> 16;
}

static size_t scaled(size_t n)
{
    size_t m = n * scale_percent / 100;
    return m == 0 ? 1 : m;
}

/* The first bytes of each block hold a pointer: the lists below need one. */
static void *take(size_t size_bytes)
{
    void **block = malloc(size_bytes);
    if (block == NULL)
        die("no memory");
    *block = NULL;
    return block;
}

static void **array_of(size_t n)
{
    void **array = calloc(n, sizeof *array);
    if (array == NULL)
        die("no memory");
    return array;
}

/* ---- Patterns: each is what one thread does; it returns its calls of malloc and free ------------------------------- */

/* Replaces random blocks of a working set. */
static uint64_t replace(void **block, size_t n_slots, size_t n, size_t min_bytes, size_t max_bytes, uint64_t *state)
{
    for (size_t i = 0; i < n; i++) {
        void **slot = &block[next_random(state) % n_slots];
        free(*slot);
        *slot = take(min_bytes + next_random(state) % (max_bytes - min_bytes));
    }
    return 2 * n;
}

static void free_all(void **block, size_t n_slots)
{
    for (size_t i = 0; i < n_slots; i++)
        free(block[i]);
    free(block);
}

/* Threads that have nothing to do with each other. */
static uint64_t own(unsigned thread)
{
    enum { SLOTS = 1000 };
    uint64_t state = thread + 1;
    void **block = array_of(SLOTS);
    uint64_t ops = replace(block, SLOTS, scaled(3000000), 16, 1040, &state);
    free_all(block, SLOTS);
    return ops;
}

/* Working sets that are handed on: what one thread allocated, others free. */
static _Atomic(void **) handed_on[MAX_THREADS];

static uint64_t hand_on(unsigned thread)
{
    enum { SLOTS = 1000, TURNS = 100 };
    uint64_t state = thread + 1, ops = 0;
    void **block = array_of(SLOTS);
    for (unsigned turn = 0; turn < TURNS; turn++) {
        ops += replace(block, SLOTS, scaled(2000000) / TURNS, 16, 528, &state);
        void **other = atomic_exchange(&handed_on[(thread + turn) % n_threads], block);
        block = other != NULL ? other : array_of(SLOTS);
    }
    free_all(block, SLOTS);
    return ops;
}

/* Every 16th block is freed by another thread than the one that allocated it. */
#define SHARED_PLACES 4096
static _Atomic(void *) shared_place[SHARED_PLACES];

static uint64_t exchange(unsigned thread)
{
    enum { SLOTS = 1000, PIECE = 16 };
    uint64_t state = thread + 1, ops = 0;
    void **block = array_of(SLOTS);
    size_t n = scaled(2400000) / PIECE;
    for (size_t i = 0; i < n; i++) {
        ops += replace(block, SLOTS, PIECE, 16, 528, &state);
        void **slot = &block[next_random(&state) % SLOTS];
        *slot = atomic_exchange(&shared_place[next_random(&state) % SHARED_PLACES], *slot);
    }
    free_all(block, SLOTS);
    return ops;
}

/* All blocks are freed by another thread: the even ones allocate lists of a hundred blocks, the odd ones free them. */
struct lane {
    _Alignas(128) _Atomic(void **) list[8];
};
static struct lane lanes[MAX_THREADS];

static uint64_t pass_lists(unsigned thread)
{
    enum { LIST = 100 };
    struct lane *lane = &lanes[thread / 2];
    uint64_t state = thread + 1;
    size_t n = scaled(12000);
    bool produces = thread % 2 == 0;
    for (size_t i = 0; i < n; i++) {
        _Atomic(void **) *place = &lane->list[i % 8];
        void **list = NULL;
        for (unsigned k = 0; produces && k < LIST; k++) {
            void **block = take(16 + next_random(&state) % 512);
            *block = list;
            list = block;
        }
        for (unsigned spins = 0; (atomic_load(place) != NULL) == produces; spins++)
            if (spins % 1024 == 1023)
                sched_yield();
        if (produces) {
            atomic_store(place, list);
            continue;
        }
        list = atomic_exchange(place, NULL);
        while (list != NULL) {
            void **next = *list;
            free(list);
            list = next;
        }
    }
    return n * LIST;
}

/* Heaps that grow and shrink by megabytes: slabs come and go. */
static uint64_t grow_and_shrink(unsigned thread)
{
    enum { SLOTS = 10000 };
    uint64_t state = thread + 1;
    void **block = array_of(SLOTS);
    size_t n = scaled(150);
    for (size_t i = 0; i < n; i++) {
        for (size_t k = 0; k < SLOTS; k++)
            block[k] = take(16 + next_random(&state) % 496);
        for (size_t k = 0; k < SLOTS; k++)
            free(block[k]);
    }
    free(block);
    return 2 * n * SLOTS;
}

/* Blocks of 40 KiB to 512 KiB, of which little is touched. */
static uint64_t large(unsigned thread)
{
    enum { SLOTS = 20 };
    uint64_t state = thread + 1;
    void **block = array_of(SLOTS);
    uint64_t ops = replace(block, SLOTS, scaled(100000), (size_t)40 << 10, (size_t)512 << 10, &state);
    free_all(block, SLOTS);
    return ops;
}

/* Threads that live for a hundred blocks. */
static void *short_life(void *seed)
{
    uint64_t state = (uintptr_t)seed + 1;
    void *block[100];
    for (unsigned i = 0; i < 100; i++)
        block[i] = take(16 + next_random(&state) % 496);
    for (unsigned i = 0; i < 100; i++)
        free(block[i]);
    return NULL;
}

static uint64_t short_lives(unsigned thread)
{
    size_t n = scaled(600);
    for (size_t i = 0; i < n; i++) {
        pthread_t child;
        if (pthread_create(&child, NULL, short_life, (void *)(uintptr_t)(thread * n + i)) != 0)
            die("no thread");
        pthread_join(child, NULL);
    }
    return n * 200;
}

static const struct {
    const char *name;
    uint64_t (*run)(unsigned thread);
} patterns[] = {
    {"own", own},
    {"hand_on", hand_on},
    {"exchange", exchange},
    {"pass_lists", pass_lists},
    {"grow_and_shrink", grow_and_shrink},
    {"large", large},
    {"short_lives", short_lives},
};
#define N_PATTERNS (sizeof patterns / sizeof patterns[0])

/* ---- Threads ------------------------------------------------------------------------------------------------------- */

static uint64_t (*pattern)(unsigned thread);
static double began_s[MAX_THREADS], ended_s[MAX_THREADS];

static void *life(void *number)
{
    unsigned thread = (unsigned)(uintptr_t)number;
    pthread_barrier_wait(&ready);
    began_s[thread] = seconds();
    uint64_t ops = pattern(thread);
    ended_s[thread] = seconds();
    atomic_fetch_add(&total_ops, ops);
    return NULL;
}

/* The clocks are the threads' own: on a busy machine the first may have ended before this one runs again. */
static double run_all(void)
{
    pthread_t threads[MAX_THREADS];
    double first_s, last_s;
    pthread_barrier_init(&ready, NULL, n_threads);
    for (uintptr_t i = 0; i < n_threads; i++)
        if (pthread_create(&threads[i], NULL, life, (void *)i) != 0)
            die("no thread");
    for (unsigned i = 0; i < n_threads; i++)
        pthread_join(threads[i], NULL);
    first_s = began_s[0], last_s = ended_s[0];
    for (unsigned i = 1; i < n_threads; i++) {
        first_s = began_s[i] < first_s ? began_s[i] : first_s;
        last_s = ended_s[i] > last_s ? ended_s[i] : last_s;
    }
    return last_s - first_s;
}

static int usage(void)
{
    fprintf(stderr,
            "usage: bench_threads PATTERN THREADS [SCALE in per cent, 1 to 10000]\n"
            "THREADS: 1 to %d; pass_lists needs an even number\npatterns:",
            MAX_THREADS);
    for (size_t i = 0; i < N_PATTERNS; i++)
        fprintf(stderr, " %s", patterns[i].name);
    fprintf(stderr, "\n");
    return 2;
}

/* A decimal number from 1 to max; 0: it is none. */
static unsigned number_from(const char *text, unsigned long max)
{
    char *end;
    unsigned long n = strtoul(text, &end, 10);
    return *text < '0' || *text > '9' || *end != 0 || n > max ? 0 : (unsigned)n;
}

int main(int argc, char **argv)
{
    if (argc < 3 || argc > 4)
        return usage();
    n_threads = number_from(argv[2], MAX_THREADS);
    scale_percent = argc == 4 ? number_from(argv[3], 10000) : 100;
    for (size_t i = 0; i < N_PATTERNS; i++)
        if (strcmp(argv[1], patterns[i].name) == 0)
            pattern = patterns[i].run;
    if (pattern == NULL || n_threads == 0 || scale_percent == 0 || (pattern == pass_lists && n_threads % 2 != 0))
        return usage();
    double elapsed_s = run_all();
    printf("bench_threads pattern=%s threads=%u ops=%llu elapsed_s=%.6f\n", argv[1], n_threads,
           (unsigned long long)total_ops, elapsed_s);
    return 0;
}
