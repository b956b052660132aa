/* threads.c - blocks pass from thread to thread, and threads come and go: producers and consumers over blocks of
 * all sizes, then 10,000 short threads that leave blocks to each other. All contents are checked, and memory does
 * not grow.
 * ctest: timeout 600
 */
#include "check.h"

#include <pthread.h>

/* ---- Producers and consumers ------------------------------------------------------------------------------------- */

#define N_PRODUCERS 4
#define N_CONSUMERS 4
#define RING_SLOTS 1024
#define N_ROUNDS 60000 /* blocks per producer */

struct message {
    void *block;
    size_t size;
    uint64_t mark;
};

static struct {
    pthread_mutex_t mutex;
    pthread_cond_t not_empty, not_full;
    struct message message[RING_SLOTS];
    unsigned from, n, n_producers;
} ring = {.mutex = PTHREAD_MUTEX_INITIALIZER,
          .not_empty = PTHREAD_COND_INITIALIZER,
          .not_full = PTHREAD_COND_INITIALIZER,
          .n_producers = N_PRODUCERS};

static void put(struct message message)
{
    pthread_mutex_lock(&ring.mutex);
    while (ring.n == RING_SLOTS)
        pthread_cond_wait(&ring.not_full, &ring.mutex);
    ring.message[(ring.from + ring.n++) % RING_SLOTS] = message;
    pthread_cond_signal(&ring.not_empty);
    pthread_mutex_unlock(&ring.mutex);
}

/* False when all producers have ended and the ring is empty. */
static int take(struct message *message)
{
    pthread_mutex_lock(&ring.mutex);
    while (ring.n == 0 && ring.n_producers != 0)
        pthread_cond_wait(&ring.not_empty, &ring.mutex);
    int taken = ring.n != 0;
    if (taken) {
        *message = ring.message[ring.from];
        ring.from = (ring.from + 1) % RING_SLOTS;
        ring.n--;
        pthread_cond_signal(&ring.not_full);
    }
    pthread_mutex_unlock(&ring.mutex);
    return taken;
}

static void *produce(void *seed)
{
    uint64_t state = (uintptr_t)seed;
    for (unsigned i = 0; i < N_ROUNDS; i++) {
        struct message message;
        message.size = check_random_size(&state, i % 100 == 0 ? 21 : i % 10 == 0 ? 16 : 11);
        message.mark = check_random(&state);
        message.block = i % 7 == 0 ? aligned_alloc(64, message.size) : malloc(message.size);
        REQUIRE(message.block != NULL);
        check_fill(message.block, message.size, message.mark);
        put(message);
    }
    pthread_mutex_lock(&ring.mutex);
    ring.n_producers--;
    pthread_cond_broadcast(&ring.not_empty);
    pthread_mutex_unlock(&ring.mutex);
    return NULL;
}

static void *consume(void *n_consumed)
{
    struct message message;
    for (size_t n = 0; take(&message); n++) {
        CHECK_THAT(check_filled(message.block, message.size, message.mark), "a block of %zu bytes changes on its way",
                   message.size);
        if (n % 9 == 0) {
            void *moved = realloc(message.block, message.size / 2 + 1);
            REQUIRE(moved != NULL);
            message.block = moved;
        }
        free(message.block);
        *(size_t *)n_consumed = n + 1;
    }
    return NULL;
}

static void test_producers_and_consumers(void)
{
    pthread_t producers[N_PRODUCERS], consumers[N_CONSUMERS];
    size_t n_consumed[N_CONSUMERS] = {0}, sum = 0;
    for (uintptr_t i = 0; i < N_PRODUCERS; i++)
        REQUIRE(pthread_create(&producers[i], NULL, produce, (void *)(i + 1)) == 0);
    for (unsigned i = 0; i < N_CONSUMERS; i++)
        REQUIRE(pthread_create(&consumers[i], NULL, consume, &n_consumed[i]) == 0);
    for (unsigned i = 0; i < N_PRODUCERS; i++)
        pthread_join(producers[i], NULL);
    for (unsigned i = 0; i < N_CONSUMERS; i++) {
        pthread_join(consumers[i], NULL);
        sum += n_consumed[i];
    }
    CHECK_THAT(sum == (size_t)N_PRODUCERS * N_ROUNDS, "%zu blocks arrived", sum);
}

/* ---- Short threads ----------------------------------------------------------------------------------------------- */

#define N_SHORT_THREADS 10000
#define N_AT_ONCE 8
#define N_LEFT 40 /* blocks that each leaves to the next but seven */
#define SETTLED_AFTER 2000

struct legacy {
    struct message left[N_LEFT];
    uint64_t seed;
};

static void *live_shortly(void *argument)
{
    struct legacy *legacy = argument;
    uint64_t state = legacy->seed;
    for (unsigned i = 0; i < N_LEFT; i++) {
        struct message *message = &legacy->left[i];
        if (message->block != NULL)
            CHECK_THAT(check_filled(message->block, message->size, message->mark),
                       "an inherited block of %zu bytes has changed", message->size);
        free(message->block);
    }
    for (unsigned i = 0; i < 300; i++) {
        size_t size = check_random_size(&state, i % 50 == 0 ? 17 : 11);
        void *block = malloc(size);
        CHECK(block != NULL);
        check_fill(block, size, i);
        CHECK(check_filled(block, size, i));
        free(block);
    }
    for (unsigned i = 0; i < N_LEFT; i++) {
        struct message *message = &legacy->left[i];
        message->size = check_random_size(&state, i % 20 == 0 ? 16 : 10);
        message->mark = check_random(&state);
        message->block = malloc(message->size);
        CHECK(message->block != NULL);
        check_fill(message->block, message->size, message->mark);
    }
    return NULL;
}

static void test_short_threads(void)
{
    static struct legacy legacies[N_AT_ONCE];
    pthread_t threads[N_AT_ONCE];
    size_t settled_kib = 0, most_kib = 0;
    for (unsigned n = 0; n < N_SHORT_THREADS; n += N_AT_ONCE) {
        for (unsigned i = 0; i < N_AT_ONCE; i++) {
            legacies[i].seed = n + i;
            REQUIRE(pthread_create(&threads[i], NULL, live_shortly, &legacies[i]) == 0);
        }
        for (unsigned i = 0; i < N_AT_ONCE; i++)
            pthread_join(threads[i], NULL);
        if (n % 200 != 0)
            continue;
        size_t now_kib = check_proc_status("VmRSS:");
        size_t *most = n < SETTLED_AFTER ? &settled_kib : &most_kib;
        *most = now_kib > *most ? now_kib : *most;
    }
    /* What lies idle at a moment differs by some MiB. A record or a slab lost per thread would be 8,000 times 12 to 64 KiB. */
    CHECK_THAT(settled_kib > 0 && most_kib <= settled_kib + settled_kib / 10 + 8192,
               "%d threads grow the process from %zu to %zu KiB", N_SHORT_THREADS, settled_kib, most_kib);
    for (unsigned i = 0; i < N_AT_ONCE; i++)
        for (unsigned k = 0; k < N_LEFT; k++)
            free(legacies[i].left[k].block);
}

/* ---- Many threads at once ---------------------------------------------------------------------------------------- */

#define N_TOGETHER 300

static pthread_barrier_t all_here;

/* Everybody allocates, then everybody frees what his neighbour allocated. */
static struct message together[N_TOGETHER][20];

static void *meet(void *number)
{
    uintptr_t me = (uintptr_t)number;
    uint64_t state = me;
    for (unsigned i = 0; i < 20; i++) {
        struct message *message = &together[me][i];
        message->size = check_random_size(&state, 14);
        message->mark = check_random(&state);
        message->block = calloc(1, message->size);
        REQUIRE(message->block != NULL);
        CHECK(check_zero(message->block, message->size));
        check_fill(message->block, message->size, message->mark);
    }
    pthread_barrier_wait(&all_here);
    for (unsigned i = 0; i < 20; i++) {
        struct message *message = &together[(me + 1) % N_TOGETHER][i];
        CHECK_THAT(check_filled(message->block, message->size, message->mark),
                   "a neighbour's block of %zu bytes has changed", message->size);
        free(message->block);
    }
    return NULL;
}

static void test_many_together(void)
{
    pthread_t threads[N_TOGETHER];
    pthread_attr_t small_stack;
    REQUIRE(pthread_barrier_init(&all_here, NULL, N_TOGETHER) == 0);
    REQUIRE(pthread_attr_init(&small_stack) == 0 && pthread_attr_setstacksize(&small_stack, 128 * CHECK_KIB) == 0);
    for (unsigned round = 0; round < 5; round++) {
        for (uintptr_t i = 0; i < N_TOGETHER; i++)
            REQUIRE(pthread_create(&threads[i], &small_stack, meet, (void *)i) == 0);
        for (unsigned i = 0; i < N_TOGETHER; i++)
            pthread_join(threads[i], NULL);
    }
    pthread_attr_destroy(&small_stack);
    pthread_barrier_destroy(&all_here);
}

int main(void)
{
    check_on_hakmem();
    test_producers_and_consumers();
    test_short_threads();
    test_many_together();
    return check_status();
}
