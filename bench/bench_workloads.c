/* bench_workloads.c - the field's classic allocation patterns, one per name: bench_workloads NAME [SCALE].
 *
 * It uses malloc, calloc, realloc, aligned_alloc and free alone, so whatever library is preloaded serves it. Every block is
 * written to, as programs do, and what was written is looked at before the block is freed; a block that changed ends the
 * program with status 1. SCALE (default 100) is the amount of work in per cent. All numbers come from fixed seeds, so that
 * `check` is the same under every allocator, but for workloads whose threads share work.
 * Prints one line:  bench_workloads workload=NAME scale=… ops=… elapsed_s=… check=…       ops: calls of the allocator
 * Called by bench.py, which takes the time from here and the peak memory from measure.
 */
#define _GNU_SOURCE
#include "bench.h"

#include <pthread.h>
#include <spawn.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#if defined(__x86_64__)
#include <x86intrin.h>
#endif

extern char **environ;

static unsigned scale_percent = 100;
static _Atomic uint64_t total_ops, total_check;

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

/* Sizes as programs ask for them: each doubling is equally likely. */
static size_t random_size(uint64_t *state, unsigned from_shift, unsigned to_shift)
{
    uint64_t r = next_random(state);
    unsigned shift = from_shift + (unsigned)(r % (to_shift - from_shift));
    return ((size_t)1 << shift) + (r >> 8) % ((size_t)1 << shift);
}

static size_t scaled(size_t n)
{
    size_t m = n * scale_percent / 100;
    return m == 0 ? 1 : m;
}

/* A block as the workloads hold it: its first and last bytes tell whose it is. */
struct held {
    unsigned char *block;
    size_t size_bytes;
};

static void mark(struct held *held, unsigned char *block, size_t size_bytes)
{
    if (block == NULL)
        die("no memory");
    held->block = block;
    held->size_bytes = size_bytes;
    block[0] = block[size_bytes - 1] = (unsigned char)(size_bytes * 31);
}

static void take(struct held *held, size_t size_bytes)
{
    mark(held, malloc(size_bytes), size_bytes);
}

static void drop(struct held *held)
{
    unsigned char expected = (unsigned char)(held->size_bytes * 31);
    if (held->block[0] != expected || held->block[held->size_bytes - 1] != expected)
        die("a block has changed");
    free(held->block);
    held->block = NULL;
}

static struct held *held_array(size_t n)
{
    struct held *array = calloc(n, sizeof *array);
    if (array == NULL)
        die("no memory");
    return array;
}

static void count(uint64_t ops, uint64_t check)
{
    atomic_fetch_add_explicit(&total_ops, ops, memory_order_relaxed);
    atomic_fetch_add_explicit(&total_check, check, memory_order_relaxed);
}

static void start(pthread_t *thread, void *(*function)(void *), void *argument)
{
    if (pthread_create(thread, NULL, function, argument) != 0)
        die("no thread");
}

/* ---- Bursts: allocate N, free all of them, oldest or newest first ------------------------------------------------- */

static void burst(size_t n, int newest_first)
{
    struct held *held = held_array(n);
    uint64_t state = 42, check = 0;
    size_t n_rounds = scaled(3200000 / n);
    for (size_t round = 0; round < n_rounds; round++) {
        for (size_t i = 0; i < n; i++) {
            take(&held[i], random_size(&state, 4, 12));
            check += held[i].size_bytes;
        }
        for (size_t i = 0; i < n; i++)
            drop(&held[newest_first ? n - 1 - i : i]);
    }
    count(2 * n * n_rounds, check);
    free(held);
}

static void burst_lifo_25(void)
{
    burst(25, 1);
}
static void burst_lifo_400(void)
{
    burst(400, 1);
}
static void burst_lifo_6400(void)
{
    burst(6400, 1);
}
static void burst_fifo_25(void)
{
    burst(25, 0);
}
static void burst_fifo_400(void)
{
    burst(400, 0);
}
static void burst_fifo_6400(void)
{
    burst(6400, 0);
}

/* ---- Skewed life times: most objects die young, a few stay --------------------------------------------------------- */

static void skewed(void)
{
    static const size_t ring_slots[] = {64, 8192, 262144};
    struct held *ring[3];
    size_t at[3] = {0};
    uint64_t state = 7, check = 0;
    size_t n = scaled(6000000);
    for (int k = 0; k < 3; k++)
        ring[k] = held_array(ring_slots[k]);
    for (size_t i = 0; i < n; i++) {
        unsigned r = (unsigned)(next_random(&state) % 100);
        unsigned k = r < 85 ? 0 : r < 95 ? 1 : 2;
        struct held *held = &ring[k][at[k]];
        at[k] = (at[k] + 1) % ring_slots[k];
        if (held->block != NULL)
            drop(held);
        take(held, random_size(&state, 3, 8));
        check += held->size_bytes;
    }
    for (int k = 0; k < 3; k++) {
        for (size_t i = 0; i < ring_slots[k]; i++)
            if (ring[k][i].block != NULL)
                drop(&ring[k][i]);
        free(ring[k]);
    }
    count(2 * n, check);
}

/* ---- Larson: blocks outlive the threads that made them ------------------------------------------------------------- */

#define LARSON_SLOTS 1000
#define LARSON_LIVES 40 /* threads that follow each other on the same blocks */

struct larson {
    struct held *held;
    uint64_t state;
};

static void *larson_life(void *argument)
{
    struct larson *larson = argument;
    size_t n = scaled(50000);
    for (size_t i = 0; i < n; i++) {
        struct held *held = &larson->held[next_random(&larson->state) % LARSON_SLOTS];
        drop(held);
        take(held, random_size(&larson->state, 3, 9));
    }
    count(2 * n, 0);
    return NULL;
}

static void *larson_line(void *argument)
{
    struct larson larson = {held_array(LARSON_SLOTS), (uintptr_t)argument};
    for (size_t i = 0; i < LARSON_SLOTS; i++)
        take(&larson.held[i], random_size(&larson.state, 3, 9));
    for (unsigned life = 0; life < LARSON_LIVES; life++) {
        pthread_t thread;
        start(&thread, larson_life, &larson);
        pthread_join(thread, NULL);
    }
    for (size_t i = 0; i < LARSON_SLOTS; i++) {
        count(0, larson.held[i].size_bytes);
        drop(&larson.held[i]);
    }
    free(larson.held);
    return NULL;
}

static void run_threads(unsigned n, void *(*function)(void *))
{
    pthread_t threads[128];
    for (unsigned i = 0; i < n; i++)
        start(&threads[i], function, (void *)(uintptr_t)(i + 1));
    for (unsigned i = 0; i < n; i++)
        pthread_join(threads[i], NULL);
}

/* What bench/contention.py counts: every 16th block goes through a place that all threads share, and so is freed by
 * another thread than the one that allocated it, if there is another. */
#define SHARED_PLACES 256

static unsigned char *_Atomic shared_place[SHARED_PLACES];
static unsigned contending_threads;

static void *contend_life(void *seed)
{
    enum { SLOTS = 1000 };
    unsigned char **block = calloc(SLOTS, sizeof *block);
    uint64_t state = (uintptr_t)seed;
    size_t n = scaled(4000000) / contending_threads;
    if (block == NULL)
        die("no memory");
    for (size_t i = 0; i < n; i++) {
        unsigned char **slot = &block[next_random(&state) % SLOTS];
        free(*slot);
        *slot = malloc(random_size(&state, 4, 9));
        if (*slot == NULL)
            die("no memory");
        **slot = 1;
        if (i % 16 == 0)
            *slot = atomic_exchange(&shared_place[next_random(&state) % SHARED_PLACES], *slot);
    }
    for (size_t i = 0; i < SLOTS; i++)
        free(block[i]);
    free(block);
    count(2 * n, n);
    return NULL;
}

static void contend(unsigned n_threads)
{
    contending_threads = n_threads;
    run_threads(n_threads, contend_life);
    for (size_t i = 0; i < SHARED_PLACES; i++)
        free(atomic_exchange(&shared_place[i], NULL));
}

static void contend_1(void)
{
    contend(1);
}
static void contend_2(void)
{
    contend(2);
}
static void contend_8(void)
{
    contend(8);
}
static void contend_32(void)
{
    contend(32);
}

static void larson(void)
{
    run_threads(4, larson_line);
}

/* ---- Producers and consumers: one thread allocates, another frees -------------------------------------------------- */

#define QUEUE_SLOTS 4096

/* One producer, one consumer: each advances its own end. */
struct queue {
    _Alignas(64) _Atomic size_t head; /* the producer's */
    _Alignas(64) _Atomic size_t tail; /* the consumer's */
    _Alignas(64) struct held slot[QUEUE_SLOTS];
};

static void queue_push(struct queue *queue, struct held held)
{
    size_t head = atomic_load_explicit(&queue->head, memory_order_relaxed);
    while (head - atomic_load_explicit(&queue->tail, memory_order_acquire) == QUEUE_SLOTS)
        sched_yield();
    queue->slot[head % QUEUE_SLOTS] = held;
    atomic_store_explicit(&queue->head, head + 1, memory_order_release);
}

static struct held queue_pop(struct queue *queue)
{
    size_t tail = atomic_load_explicit(&queue->tail, memory_order_relaxed);
    while (atomic_load_explicit(&queue->head, memory_order_acquire) == tail)
        sched_yield();
    struct held held = queue->slot[tail % QUEUE_SLOTS];
    atomic_store_explicit(&queue->tail, tail + 1, memory_order_release);
    return held;
}

struct lane {
    struct queue queue[3];
    unsigned n_queues;
    size_t n_blocks;   /* through each queue */
    size_t size_bytes; /* of each; 0: random, to 1 KiB */
    uint64_t seed;
};

static void *produce(void *argument)
{
    struct lane *lane = argument;
    uint64_t state = lane->seed, check = 0;
    for (size_t i = 0; i < lane->n_blocks; i++)
        for (unsigned q = 0; q < lane->n_queues; q++) {
            struct held held;
            take(&held, lane->size_bytes != 0 ? lane->size_bytes : random_size(&state, 4, 10));
            check += held.size_bytes;
            queue_push(&lane->queue[q], held);
        }
    count(2 * lane->n_blocks * lane->n_queues, check);
    return NULL;
}

static size_t lane_blocks; /* what consumers count to; set before they start */

static void *consume(void *argument)
{
    for (size_t i = 0; i < lane_blocks; i++) {
        struct held held = queue_pop(argument);
        drop(&held);
    }
    return NULL;
}

static void producers_and_consumers(unsigned n_lanes, unsigned n_queues, size_t n_blocks, size_t size_bytes)
{
    static struct lane lanes[2];
    pthread_t producer[2], consumer[2][3];
    lane_blocks = n_blocks;
    for (unsigned k = 0; k < n_lanes; k++) {
        lanes[k].n_queues = n_queues;
        lanes[k].n_blocks = n_blocks;
        lanes[k].size_bytes = size_bytes;
        lanes[k].seed = k + 1;
        for (unsigned q = 0; q < n_queues; q++)
            start(&consumer[k][q], consume, &lanes[k].queue[q]);
        start(&producer[k], produce, &lanes[k]);
    }
    for (unsigned k = 0; k < n_lanes; k++) {
        pthread_join(producer[k], NULL);
        for (unsigned q = 0; q < n_queues; q++)
            pthread_join(consumer[k][q], NULL);
    }
}

static void prodcons_1_1(void)
{
    producers_and_consumers(2, 1, scaled(750000), 0);
}

static void prodcons_1_n(void)
{
    producers_and_consumers(1, 3, scaled(600000), 0);
}

static void hand_64k(void)
{
    producers_and_consumers(1, 1, scaled(300000), 65000);
}

static void hand_300k(void)
{
    producers_and_consumers(1, 1, scaled(100000), 300000);
}

/* ---- False sharing: threads that write to small blocks of their own ------------------------------------------------- */

#define CACHE_THREADS 4
#define CACHE_WRITES 200

static void *write_own_blocks(void *seed)
{
    size_t n = scaled(600000);
    uint64_t sum = 0;
    for (size_t i = 0; i < n; i++) {
        volatile unsigned char *block = malloc(8);
        if (block == NULL)
            die("no memory");
        for (unsigned k = 0; k < CACHE_WRITES; k++)
            block[k % 8] = (unsigned char)(k + (uintptr_t)seed);
        sum += block[7] - (uintptr_t)seed;
        free((void *)(uintptr_t)block);
    }
    count(2 * n, sum);
    return NULL;
}

/* Active: do blocks of different threads share a cache line from the start? */
static void cache_thrash(void)
{
    run_threads(CACHE_THREADS, write_own_blocks);
}

static void *first_blocks[CACHE_THREADS + 1];

static void *free_given_block(void *seed)
{
    free(first_blocks[(uintptr_t)seed]); /* of a line that other threads' blocks lie in */
    return write_own_blocks(seed);
}

/* Passive: does a thread that frees a neighbour's block then get that shared line for its own? */
static void cache_scratch(void)
{
    for (unsigned i = 1; i <= CACHE_THREADS; i++)
        first_blocks[i] = malloc(8);
    run_threads(CACHE_THREADS, free_given_block);
}

/* ---- Big numbers: every result is a new small block, every operand is freed ----------------------------------------- */

struct number {
    unsigned n_digits;
    uint32_t digit[]; /* lowest first, base 2^32 */
};

static struct number *number_new(unsigned n_digits)
{
    struct number *number = calloc(1, sizeof *number + n_digits * sizeof(uint32_t));
    if (number == NULL)
        die("no memory");
    number->n_digits = n_digits;
    return number;
}

static struct number *number_multiply(const struct number *a, const struct number *b)
{
    struct number *c = number_new(a->n_digits + b->n_digits);
    for (unsigned i = 0; i < a->n_digits; i++) {
        uint64_t carry = 0;
        for (unsigned k = 0; k < b->n_digits; k++) {
            carry += (uint64_t)a->digit[i] * b->digit[k] + c->digit[i + k];
            c->digit[i + k] = (uint32_t)carry;
            carry >>= 32;
        }
        c->digit[i + b->n_digits] = (uint32_t)carry;
    }
    return c;
}

static struct number *number_cut(const struct number *a, unsigned n_digits)
{
    struct number *c = number_new(n_digits < a->n_digits ? n_digits : a->n_digits);
    memcpy(c->digit, a->digit, c->n_digits * sizeof(uint32_t));
    return c;
}

static struct number *number_add_small(const struct number *a, uint32_t n)
{
    struct number *c = number_new(a->n_digits + 1);
    uint64_t carry = n;
    for (unsigned i = 0; i < a->n_digits; i++) {
        carry += a->digit[i];
        c->digit[i] = (uint32_t)carry;
        carry >>= 32;
    }
    c->digit[a->n_digits] = (uint32_t)carry;
    return c;
}

static void bignum(void)
{
    uint64_t check = 0;
    size_t n = scaled(3000000);
    struct number *x = number_new(1);
    x->digit[0] = 12345;
    for (size_t i = 0; i < n; i++) { /* x = x * x + i, kept to 1 to 6 digits */
        struct number *square = number_multiply(x, x), *sum = number_add_small(square, (uint32_t)i);
        free(square);
        free(x);
        x = number_cut(sum, 1 + i % 6);
        free(sum);
        check += x->digit[0];
    }
    free(x);
    count(6 * n, check);
}

/* ---- Logic: sets of bit vectors that are copied, merged and thrown away ---------------------------------------------- */

struct cover {
    uint32_t **cube;
    unsigned n, capacity, words;
};

static void cover_add(struct cover *cover, const uint32_t *from)
{
    if (cover->n == cover->capacity) {
        cover->capacity = cover->capacity == 0 ? 4 : cover->capacity * 2;
        cover->cube = realloc(cover->cube, cover->capacity * sizeof *cover->cube);
    }
    uint32_t *cube = malloc(cover->words * sizeof *cube);
    if (cover->cube == NULL || cube == NULL)
        die("no memory");
    memcpy(cube, from, cover->words * sizeof *cube);
    cover->cube[cover->n++] = cube;
}

static void cover_free(struct cover *cover)
{
    for (unsigned i = 0; i < cover->n; i++)
        free(cover->cube[i]);
    free(cover->cube);
}

/* The half of a cover with a variable set or not, as a logic minimizer splits it, down to single cubes. */
static uint64_t cover_split(const struct cover *cover, unsigned variable)
{
    if (cover->n <= 1 || variable >= cover->words * 32)
        return cover->n == 0 ? 1 : cover->cube[0][0];
    struct cover half[2] = {{.words = cover->words}, {.words = cover->words}};
    for (unsigned i = 0; i < cover->n; i++)
        cover_add(&half[cover->cube[i][variable / 32] >> (variable % 32) & 1], cover->cube[i]);
    uint64_t sum = 3 * cover_split(&half[0], variable + 1) + 5 * cover_split(&half[1], variable + 1);
    cover_free(&half[0]);
    cover_free(&half[1]);
    return sum;
}

static void logic(void)
{
    uint64_t state = 3, check = 0;
    size_t n = scaled(1500);
    for (size_t i = 0; i < n; i++) {
        struct cover cover = {.words = 2 + (unsigned)(i % 7)};
        uint32_t cube[8];
        for (unsigned k = 0; k < 100 + i % 200; k++) {
            for (unsigned w = 0; w < cover.words; w++)
                cube[w] = (uint32_t)next_random(&state);
            cover_add(&cover, cube);
        }
        check += cover_split(&cover, 0);
        cover_free(&cover);
    }
    count(0, check);
}

/* ---- Stress: random sizes to 1 MiB, blocks change hands, threads come and go ----------------------------------------- */

#define STRESS_SHARED 1024
static _Atomic(struct held *) stress_shared[STRESS_SHARED];

static struct held *stress_new(uint64_t *state)
{
    struct held *held = malloc(sizeof *held);
    if (held == NULL)
        die("no memory");
    take(held, random_size(state, 3, next_random(state) % 50 == 0 ? 20 : 11));
    return held;
}

static void stress_free(struct held *held)
{
    if (held == NULL)
        return;
    drop(held);
    free(held);
}

static void *stress_thread(void *seed)
{
    enum { OWN = 300 };
    struct held *own[OWN] = {NULL};
    uint64_t state = (uintptr_t)seed * 0x9e3779b97f4a7c15u;
    size_t n = scaled(20000);
    for (size_t i = 0; i < n; i++) {
        struct held **mine = &own[next_random(&state) % OWN];
        stress_free(*mine);
        *mine = stress_new(&state);
        if (i % 4 == 0)
            *mine = atomic_exchange(&stress_shared[next_random(&state) % STRESS_SHARED], *mine);
    }
    for (unsigned i = 0; i < OWN; i++)
        stress_free(own[i]);
    count(4 * n, 0);
    return NULL;
}

static void stress(void)
{
    for (unsigned generation = 0; generation < 10; generation++)
        run_threads(6, stress_thread);
    for (unsigned i = 0; i < STRESS_SHARED; i++)
        stress_free(atomic_exchange(&stress_shared[i], NULL));
}

/* ---- Large blocks, growing blocks, zeroed blocks, aligned blocks ------------------------------------------------------ */

/* Writes to each page, but to no more than so many bytes of one block. */
static void touch_pages(const struct held *held, size_t most_bytes)
{
    for (size_t at = 4096; at < held->size_bytes - 1 && at < most_bytes; at += 4096)
        held->block[at] = 1;
}

static void large(void)
{
    enum { SLOTS = 8 };
    struct held held[SLOTS] = {{NULL, 0}};
    uint64_t state = 11, check = 0;
    size_t n = scaled(300);
    for (size_t i = 0; i < n; i++) {
        struct held *slot = &held[next_random(&state) % SLOTS];
        if (slot->block != NULL)
            drop(slot);
        take(slot, random_size(&state, 20, 26));
        touch_pages(slot, 4 << 20);
        check += slot->size_bytes;
    }
    for (unsigned i = 0; i < SLOTS; i++)
        if (held[i].block != NULL)
            drop(&held[i]);
    count(2 * n, check);
}

/* Buffers, of files, images and messages: a set of them, of which one is replaced; of each every page is written to, or its ends. */
enum written { ENDS, PAGES };

static void buffers(size_t n_slots, size_t from_bytes, size_t to_bytes, size_t n, enum written written)
{
    struct held *held = held_array(n_slots);
    uint64_t state = 13, check = 0;
    for (size_t i = 0; i < n; i++) {
        struct held *slot = &held[next_random(&state) % n_slots];
        if (slot->block != NULL)
            drop(slot);
        take(slot, from_bytes + next_random(&state) % (to_bytes - from_bytes));
        if (written == PAGES)
            touch_pages(slot, slot->size_bytes);
        check += slot->size_bytes;
    }
    for (size_t i = 0; i < n_slots; i++)
        if (held[i].block != NULL)
            drop(&held[i]);
    free(held);
    count(2 * n, check);
}

static void buffers_64k(void)
{
    buffers(50, 64 << 10, 1 << 20, scaled(40000), PAGES);
}
static void buffers_1m(void)
{
    buffers(20, 1 << 20, 8 << 20, scaled(6000), PAGES);
}
static void buffers_4k(void)
{
    buffers(500, 4 << 10, 32 << 10, scaled(1000000), ENDS);
}
static void buffers_33k(void)
{
    buffers(100, 33 << 10, 64 << 10, scaled(500000), ENDS);
}

/* One block, again and again. */
static void again(size_t size_bytes, size_t n)
{
    struct held held;
    for (size_t i = 0; i < n; i++) {
        take(&held, size_bytes);
        drop(&held);
    }
    count(2 * n, n * size_bytes);
}

static void again_40k(void)
{
    again(40 << 10, scaled(500000));
}
static void again_1000k(void)
{
    again(1000 << 10, scaled(300000));
}
static void again_3m(void)
{
    again(3 << 20, scaled(100000));
}
static void again_40m(void)
{
    again(40 << 20, scaled(30000));
}

/* Vectors that double their capacity, several at a time, filled as they grow. */
static void realloc_vector(void)
{
    enum { VECTORS = 8 };
    uint64_t check = 0, ops = 0;
    size_t n_rounds = scaled(30);
    for (size_t round = 0; round < n_rounds; round++) {
        uint32_t *vector[VECTORS] = {NULL};
        size_t capacity[VECTORS] = {0};
        for (size_t i = 0; i < 100000; i++)
            for (unsigned k = 0; k < VECTORS; k++) {
                if (i == capacity[k]) {
                    capacity[k] = capacity[k] == 0 ? 4 + k : capacity[k] * 2;
                    vector[k] = realloc(vector[k], capacity[k] * sizeof **vector);
                    if (vector[k] == NULL)
                        die("no memory");
                    ops++;
                }
                vector[k][i] = (uint32_t)i;
            }
        for (unsigned k = 0; k < VECTORS; k++) {
            check += vector[k][99999] + vector[k][round * 100 % 100000];
            free(vector[k]);
        }
    }
    count(ops, check);
}

/* Strings that grow by a few bytes at a time, hundreds at once, as text is put together. */
static void realloc_string(void)
{
    enum { STRINGS = 500 };
    static char *string[STRINGS];
    static size_t len[STRINGS];
    uint64_t state = 5, check = 0;
    size_t n = scaled(4000000);
    for (size_t i = 0; i < n; i++) {
        unsigned k = (unsigned)(next_random(&state) % STRINGS);
        size_t more = 1 + next_random(&state) % 32;
        string[k] = realloc(string[k], len[k] + more);
        if (string[k] == NULL)
            die("no memory");
        memset(string[k] + len[k], (int)(k & 0x7f), more);
        len[k] += more;
        if (len[k] > 2000) {
            if (string[k][0] != (char)(k & 0x7f) || string[k][len[k] / 2] != (char)(k & 0x7f))
                die("a string has changed");
            check += len[k];
            free(string[k]);
            string[k] = NULL;
            len[k] = 0;
        }
    }
    for (unsigned k = 0; k < STRINGS; k++)
        free(string[k]);
    count(n, check);
}

static void zeroed(void)
{
    enum { SLOTS = 512 };
    struct held held[SLOTS] = {{NULL, 0}};
    uint64_t state = 9, check = 0;
    size_t n = scaled(2000000);
    for (size_t i = 0; i < n; i++) {
        struct held *slot = &held[next_random(&state) % SLOTS];
        if (slot->block != NULL)
            drop(slot);
        size_t size_bytes = random_size(&state, 4, i % 64 == 0 ? 17 : 11);
        unsigned char *block = calloc(1, size_bytes);
        if (block != NULL && (block[0] | block[size_bytes / 2] | block[size_bytes - 1]) != 0)
            die("calloc returned a block that is not zero");
        mark(slot, block, size_bytes);
        check += size_bytes;
    }
    for (unsigned i = 0; i < SLOTS; i++)
        if (held[i].block != NULL)
            drop(&held[i]);
    count(2 * n, check);
}

static void aligned(void)
{
    enum { SLOTS = 512 };
    struct held held[SLOTS] = {{NULL, 0}};
    uint64_t state = 13, check = 0;
    size_t n = scaled(2000000);
    for (size_t i = 0; i < n; i++) {
        struct held *slot = &held[next_random(&state) % SLOTS];
        if (slot->block != NULL)
            drop(slot);
        size_t alignment = (size_t)16 << next_random(&state) % (i % 32 == 0 ? 9 : 4);
        size_t size_bytes = random_size(&state, 4, 11);
        unsigned char *block = aligned_alloc(alignment, size_bytes);
        if (((uintptr_t)block & (alignment - 1)) != 0)
            die("a block is not aligned");
        mark(slot, block, size_bytes);
        check += size_bytes;
    }
    for (unsigned i = 0; i < SLOTS; i++)
        if (held[i].block != NULL)
            drop(&held[i]);
    count(2 * n, check);
}

/* ---- Threads -------------------------------------------------------------------------------------------------------- */

static void *short_life(void *seed)
{
    enum { N = 100 };
    struct held held[N];
    uint64_t state = (uintptr_t)seed, check = 0;
    for (unsigned i = 0; i < N; i++) {
        take(&held[i], random_size(&state, 4, 10));
        check += held[i].size_bytes;
    }
    for (unsigned i = 0; i < N; i++)
        drop(&held[i]);
    count(2 * N, check);
    return NULL;
}

static void thread_churn(void)
{
    size_t n = scaled(800);
    for (size_t i = 0; i < n; i++)
        run_threads(4, short_life);
}

static void *mixed_life(void *seed)
{
    enum { SLOTS = 200 };
    struct held held[SLOTS] = {{NULL, 0}};
    uint64_t state = (uintptr_t)seed, check = 0;
    size_t n = scaled(150000);
    for (size_t i = 0; i < n; i++) {
        struct held *slot = &held[next_random(&state) % SLOTS];
        if (slot->block != NULL)
            drop(slot);
        take(slot, random_size(&state, 4, 10));
        check += slot->size_bytes;
    }
    for (unsigned i = 0; i < SLOTS; i++)
        if (held[i].block != NULL)
            drop(&held[i]);
    count(2 * n, check);
    return NULL;
}

static void threads_100(void)
{
    run_threads(100, mixed_life);
}

/* ---- Start of a process ----------------------------------------------------------------------------------------------- */

static void spawn(void)
{
    char *arguments[] = {(char *)(uintptr_t) "/bin/true", NULL};
    size_t n = scaled(300);
    for (size_t i = 0; i < n; i++) {
        pid_t pid;
        int status;
        if (posix_spawn(&pid, arguments[0], NULL, NULL, arguments, environ) != 0 || waitpid(pid, &status, 0) != pid ||
            status != 0)
            die("/bin/true failed");
    }
    count(0, n);
}

/* ---- Latency: how long single calls take, in cycles of the time stamp counter ------------------------------------------ */

#if defined(__x86_64__)
static int compare_u32(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static uint64_t tick(void)
{
    unsigned aux;
    uint64_t t = __rdtscp(&aux);
    _mm_lfence();
    return t;
}

static void report_latency(const char *call, uint32_t *cycles, size_t n, uint32_t timer_cycles)
{
    qsort(cycles, n, sizeof *cycles, compare_u32);
    static const struct {
        const char *name;
        unsigned per_10000;
    } rows[] = {{"p50", 5000}, {"p99", 9900}, {"p999", 9990}};
    for (unsigned i = 0; i < 3; i++) {
        uint32_t value = cycles[(n - 1) / 10000 * rows[i].per_10000];
        printf("%s_%s=%u ", call, rows[i].name, value > timer_cycles ? value - timer_cycles : 0);
    }
}

/* Random sizes to 2 KiB in a working set of 10,000; the median cost of reading the clock twice is subtracted. */
static void latency(void)
{
    enum { SLOTS = 10000 };
    struct held *held = held_array(SLOTS);
    size_t n = scaled(2000000);
    uint32_t *of_malloc = calloc(n, sizeof(uint32_t)), *of_free = calloc(n, sizeof(uint32_t)), timer[1001];
    uint64_t state = 17, check = 0;
    size_t n_malloc = 0, n_free = 0;
    if (of_malloc == NULL || of_free == NULL)
        die("no memory");
    memset(of_malloc, 1, n * sizeof(uint32_t)); /* no page fault of ours inside a measured call */
    memset(of_free, 1, n * sizeof(uint32_t));
    for (unsigned i = 0; i < 1001; i++) {
        uint64_t before = tick();
        timer[i] = (uint32_t)(tick() - before);
    }
    qsort(timer, 1001, sizeof *timer, compare_u32);
    for (size_t i = 0; i < n; i++) {
        struct held *slot = &held[next_random(&state) % SLOTS];
        if (slot->block != NULL) {
            uint64_t before = tick();
            free(slot->block);
            of_free[n_free++] = (uint32_t)(tick() - before);
            slot->block = NULL;
        } else {
            size_t size_bytes = 1 + next_random(&state) % 2048;
            uint64_t before = tick();
            unsigned char *block = malloc(size_bytes);
            of_malloc[n_malloc++] = (uint32_t)(tick() - before);
            mark(slot, block, size_bytes);
            check += size_bytes;
        }
    }
    report_latency("malloc", of_malloc, n_malloc, timer[500]);
    report_latency("free", of_free, n_free, timer[500]);
    count(n, check);
}
#else
static void latency(void)
{
    die("latency needs the time stamp counter of x86-64");
}
#endif

/* ---- The table -------------------------------------------------------------------------------------------------------- */

static const struct {
    const char *name;
    void (*run)(void);
} workloads[] = {
    {"burst_lifo_25", burst_lifo_25},
    {"burst_lifo_400", burst_lifo_400},
    {"burst_lifo_6400", burst_lifo_6400},
    {"burst_fifo_25", burst_fifo_25},
    {"burst_fifo_400", burst_fifo_400},
    {"burst_fifo_6400", burst_fifo_6400},
    {"skewed", skewed},
    {"larson", larson},
    {"contend_1", contend_1},
    {"contend_2", contend_2},
    {"contend_8", contend_8},
    {"contend_32", contend_32},
    {"prodcons_1_1", prodcons_1_1},
    {"prodcons_1_n", prodcons_1_n},
    {"cache_thrash", cache_thrash},
    {"cache_scratch", cache_scratch},
    {"bignum", bignum},
    {"logic", logic},
    {"stress", stress},
    {"large", large},
    {"buffers_64k", buffers_64k},
    {"buffers_1m", buffers_1m},
    {"realloc_vector", realloc_vector},
    {"realloc_string", realloc_string},
    {"calloc", zeroed},
    {"aligned", aligned},
    {"thread_churn", thread_churn},
    {"threads_100", threads_100},
    {"spawn", spawn},
    {"latency", latency},
    /* For docs/performance.md; `make bench` does without. */
    {"again_40k", again_40k},
    {"again_1000k", again_1000k},
    {"again_3m", again_3m},
    {"again_40m", again_40m},
    {"buffers_4k", buffers_4k},
    {"buffers_33k", buffers_33k},
    {"hand_64k", hand_64k},
    {"hand_300k", hand_300k},
};
#define N_WORKLOADS (sizeof workloads / sizeof workloads[0])

static int usage(void)
{
    fprintf(stderr, "usage: bench_workloads NAME [SCALE in per cent, 1 to 10000]\nnames:");
    for (size_t i = 0; i < N_WORKLOADS; i++)
        fprintf(stderr, " %s", workloads[i].name);
    fprintf(stderr, "\n");
    return 2;
}

int main(int argc, char **argv)
{
    if (argc < 2 || argc > 3)
        return usage();
    if (argc == 3) {
        char *end;
        unsigned long n = strtoul(argv[2], &end, 10);
        if (*end != 0 || n < 1 || n > 10000)
            return usage();
        scale_percent = (unsigned)n;
    }
    for (size_t i = 0; i < N_WORKLOADS; i++)
        if (strcmp(argv[1], workloads[i].name) == 0) {
            double before = seconds();
            workloads[i].run();
            double elapsed_s = seconds() - before;
            printf("bench_workloads workload=%s scale=%u ops=%llu elapsed_s=%.6f check=%llu\n", workloads[i].name,
                   scale_percent, (unsigned long long)total_ops, elapsed_s, (unsigned long long)total_check);
            return 0;
        }
    return usage();
}
