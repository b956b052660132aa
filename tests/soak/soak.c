/* soak.c - everything at once, for a long time: threads that stay and threads that come and go, blocks handed from one to
 * another, forks, refused system calls, trims, a budget that is nearly used up, every other second none. Once a second all threads stop, every block's
 * contents are looked at, and all records of the heap are walked.
 *
 * Usage: soak SECONDS [SEED]     30 minutes: build/soak 1800. scripts/soak.sh runs two minutes in the test suite.
 * Status 0: no error and no drift.
 * Linked with the internals; the process keeps libc's malloc for itself, so that what is live is what is counted here.
 * Each thread's calls depend on the seed and its number alone, but for whose turn it is.
 */
#include "hakmem/hakmem.h"
#include "os/os.h"
#include "pool/shared_pool.h"
#include "service/config.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define N_WORKERS 4
#define N_SLOTS 1500
#define N_MAILBOXES 256
#define VISITOR_STEPS 300
#define BUDGET_BYTES ((size_t)48 << 20)
#define CHILD_LIMIT_S 10

struct block {
    unsigned char *memory; /* of hakmem; the record is libc's */
    size_t size;
    unsigned char pattern;
};

static struct worker {
    pthread_t thread;
    uint64_t random;
    struct block *slot[N_SLOTS];
} workers[N_WORKERS];

static struct block *_Atomic mailbox[N_MAILBOXES];
static pthread_barrier_t stopped, resumed;
static _Atomic int stop_asked, ended;
static _Atomic uint64_t n_calls, n_refused, n_children, n_visitors;

#define FAIL(...)                                                                                                      \
    (fprintf(stderr, "soak: "), fprintf(stderr, __VA_ARGS__), fprintf(stderr, "\n"), fflush(NULL), abort())

static uint64_t next_random(uint64_t *state) /* xorshift64* */
{
    uint64_t x = *state;
    x ^= x >> 12;
    x ^= x << 25;
    x ^= x >> 27;
    *state = x;
    return x * 0x2545f4914f6cdd1du >> 16;
}

static uint64_t below(uint64_t *state, uint64_t n)
{
    return next_random(state) % n;
}

/* Small mostly; each doubling as likely as the next, up to 32 KiB; sometimes large. */
static size_t any_size(uint64_t *state)
{
    unsigned kind = (unsigned)below(state, 1000);
    if (kind == 0)
        return (size_t)1 << 20 | below(state, 4 << 20);
    if (kind < 10)
        return below(state, 1 << 20);
    return below(state, (uint64_t)16 << below(state, 12));
}

static void check_contents(const struct block *block, size_t n)
{
    for (size_t i = 0; i<n; i += n> 4096 && i > 64 && i + 64 < n ? 997 : 1)
        if (block->memory[i] != block->pattern)
            FAIL("byte %zu of a block of %zu at %p is %#x, not %#x", i, block->size, (void *)block->memory,
                 block->memory[i], block->pattern);
}

static void fill(struct block *block, uint64_t *random)
{
    block->pattern = (unsigned char)next_random(random);
    memset(block->memory, block->pattern, block->size);
}

static struct block *claim(uint64_t *random)
{
    size_t size = any_size(random), alignment = (size_t)1 << below(random, 14);
    struct block *block = malloc(sizeof *block);
    if (block == NULL)
        FAIL("libc has no memory");
    block->size = size;
    errno = 0;
    switch (below(random, 8)) {
    case 0:
        block->memory = hak_calloc(1, size);
        block->pattern = 0;
        if (block->memory != NULL)
            check_contents(block, size);
        break;
    case 1:
        block->memory = hak_aligned_alloc(alignment, size);
        if ((uintptr_t)block->memory % alignment != 0)
            FAIL("%p is not on a multiple of %zu", (void *)block->memory, alignment);
        break;
    default:
        block->memory = hak_malloc(size);
    }
    if (block->memory == NULL) {
        if (errno != ENOMEM)
            FAIL("NULL for %zu bytes, with errno %d", size, errno);
        atomic_fetch_add(&n_refused, 1);
        free(block);
        return NULL;
    }
    fill(block, random);
    return block;
}

static void release(struct block *block)
{
    if (block == NULL)
        return;
    check_contents(block, block->size);
    hak_free(block->memory);
    free(block);
}

static void resize(struct block *block, uint64_t *random)
{
    size_t size = any_size(random) + 1;
    unsigned char *memory = hak_realloc(block->memory, size);
    if (memory == NULL) {
        atomic_fetch_add(&n_refused, 1);
        return;
    }
    block->memory = memory;
    check_contents(block, size < block->size ? size : block->size);
    block->size = size;
    fill(block, random);
}

static void step(struct block **slot, uint64_t n_slots, uint64_t *random)
{
    struct block **at = &slot[below(random, n_slots)];
    uint64_t kind = below(random, 100);
    atomic_fetch_add(&n_calls, 1);
    if (kind < 10) {
        *at = atomic_exchange(&mailbox[below(random, N_MAILBOXES)], *at);
    } else if (*at == NULL) {
        *at = claim(random);
    } else if (kind < 25) {
        resize(*at, random);
    } else {
        release(*at);
        *at = NULL;
    }
    if (below(random, 50000) == 0)
        hak_trim((int)below(random, 3));
}

static void *work(void *argument)
{
    struct worker *w = argument;
    while (!atomic_load(&ended)) {
        step(w->slot, N_SLOTS, &w->random);
        if (atomic_load(&stop_asked)) {
            pthread_barrier_wait(&stopped);
            pthread_barrier_wait(&resumed);
        }
    }
    return NULL;
}

/* A thread of a moment: what it holds at its end goes to the mailboxes, or back. */
static void *visit(void *argument)
{
    uint64_t random = (uint64_t)(uintptr_t)argument;
    struct block *slot[32] = {0};
    for (unsigned i = 0; i < VISITOR_STEPS; i++)
        step(slot, 32, &random);
    for (unsigned i = 0; i < 32; i++)
        release(i % 2 == 0 ? slot[i] : atomic_exchange(&mailbox[below(&random, N_MAILBOXES)], slot[i]));
    return NULL;
}

static void for_each_block(void (*visitor)(struct block *, uint64_t *), uint64_t *sum)
{
    for (unsigned w = 0; w < N_WORKERS; w++)
        for (unsigned i = 0; i < N_SLOTS; i++)
            if (workers[w].slot[i] != NULL)
                visitor(workers[w].slot[i], sum);
    for (unsigned i = 0; i < N_MAILBOXES; i++)
        if (atomic_load(&mailbox[i]) != NULL)
            visitor(atomic_load(&mailbox[i]), sum);
}

static void look_at(struct block *block, uint64_t *sum)
{
    check_contents(block, block->size);
    sum[0]++;
    sum[1] += hak_usable_size(block->memory);
}

static struct hak_stats stats(void)
{
    struct hak_stats s;
    if (hak_stats_get(&s, sizeof s) != 0)
        FAIL("no statistics");
    return s;
}

/* All other threads are stopped, outside of the allocator. */
static void check_all(void)
{
    uint64_t sum[2] = {0};
    const char *wrong = pool_check();
    if (wrong != NULL)
        FAIL("pool_check: %s", wrong);
    for_each_block(look_at, sum);
    struct hak_stats s = stats();
    if (s.live_blocks != sum[0] || (config.secure == 0 && s.live_bytes != sum[1]))
        FAIL("%" PRIu64 " blocks of %" PRIu64 " bytes live by the statistics, %" PRIu64 " of %" PRIu64 " here",
             s.live_blocks, s.live_bytes, sum[0], sum[1]);
}

/* Beside the threads at work. The child has copies of their blocks, and may be in the midst of anything. */
static void fork_one(uint64_t *random)
{
    pid_t child = fork();
    if (child < 0)
        return;
    if (child == 0) {
        alarm(CHILD_LIMIT_S);
        void *block[200];
        for (unsigned round = 0; round < 5; round++) {
            for (unsigned i = 0; i < 200; i++) {
                size_t size = any_size(random) % 65536;
                block[i] = hak_malloc(size);
                if (block[i] != NULL)
                    memset(block[i], (int)i, size);
            }
            for (unsigned i = 0; i < 200; i++)
                hak_free(block[i]);
        }
        _exit(0);
    }
    int status = 0;
    if (waitpid(child, &status, 0) != child || status != 0)
        FAIL("a child ended with status %#x", (unsigned)status);
    atomic_fetch_add(&n_children, 1);
}

static void visit_one(uint64_t *random)
{
    pthread_t visitor[4];
    for (unsigned i = 0; i < 4; i++)
        if (pthread_create(&visitor[i], NULL, visit, (void *)(uintptr_t)(next_random(random) | 1)) != 0)
            FAIL("no thread");
    for (unsigned i = 0; i < 4; i++)
        pthread_join(visitor[i], NULL);
    atomic_fetch_add(&n_visitors, 4);
}

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void release_all(void)
{
    for (unsigned w = 0; w < N_WORKERS; w++)
        for (unsigned i = 0; i < N_SLOTS; i++)
            release(workers[w].slot[i]);
    for (unsigned i = 0; i < N_MAILBOXES; i++)
        release(atomic_load(&mailbox[i]));
}

/* A second of everything; then all stop and are looked at. */
static void soak_for_a_second(uint64_t *random)
{
    for (double end = seconds() + 1; seconds() < end;) {
        switch (below(random, 3)) {
        case 0:
            fork_one(random);
            break;
        case 1:
            visit_one(random);
            break;
        default: /* one to three system calls fail, among the next hundred */
            os_fail_from(1 + below(random, 100), 1 + below(random, 3), OS_CALL_ALL & ~OS_CALL_THREAD);
            usleep(20000);
            os_fail_from(0, 0, 0);
        }
    }
    atomic_store(&stop_asked, 1);
    pthread_barrier_wait(&stopped);
    check_all();
    size_t hard_bytes;
    hak_budget_get(NULL, &hard_bytes);
    hak_budget_set(0, hard_bytes == 0 ? BUDGET_BYTES : 0);
    atomic_store(&stop_asked, 0);
    pthread_barrier_wait(&resumed);
}

int main(int argc, char **argv)
{
    int run_s = argc > 1 ? atoi(argv[1]) : 0;
    uint64_t seed = argc > 2 ? strtoull(argv[2], NULL, 0) : (uint64_t)time(NULL);
    if (run_s <= 0) {
        fprintf(stderr, "usage: soak SECONDS [SEED]\n");
        return 2;
    }
    printf("soak: %d s, seed %" PRIu64 "\n", run_s, seed);
    config.background = false; /* The walk is exact while nobody is at work: ticks come from callers. */
    hak_free(hak_malloc(1));
    hak_trim(HAK_TRIM_PAGES);
    struct hak_stats before = stats();
    hak_budget_set(0, BUDGET_BYTES);
    pthread_barrier_init(&stopped, NULL, N_WORKERS + 1);
    pthread_barrier_init(&resumed, NULL, N_WORKERS + 1);
    for (unsigned w = 0; w < N_WORKERS; w++) {
        workers[w].random = (seed + w) * 0x9e3779b97f4a7c15u | 1;
        if (pthread_create(&workers[w].thread, NULL, work, &workers[w]) != 0)
            FAIL("no thread");
    }
    uint64_t random = seed * 0x9e3779b97f4a7c15u | 1, records_after_a_third = UINT64_MAX;
    for (int second = 1; second <= run_s; second++) {
        soak_for_a_second(&random);
        struct hak_stats s = stats();
        if (second == (run_s + 2) / 3)
            records_after_a_third = s.metadata_bytes;
        if (second % ((run_s + 9) / 10) == 0)
            printf("%5d s: %" PRIu64 " calls, %" PRIu64 " refused, %" PRIu64 " children, %" PRIu64
                   " short threads; live %" PRIu64 " KiB, committed %" PRIu64 ", records %" PRIu64 "\n",
                   second, n_calls, n_refused, n_children, n_visitors, s.live_bytes / 1024, s.committed_bytes / 1024,
                   s.metadata_bytes / 1024);
        fflush(stdout);
    }
    atomic_store(&ended, 1);
    for (unsigned w = 0; w < N_WORKERS; w++)
        pthread_join(workers[w].thread, NULL);
    check_all();
    release_all();
    hak_budget_set(0, 0);
    hak_trim(HAK_TRIM_PAGES);
    struct hak_stats after = stats();
    if (pool_check() != NULL)
        FAIL("pool_check at the end: %s", pool_check());
    if (after.live_blocks != before.live_blocks)
        FAIL("%" PRIu64 " blocks are left", after.live_blocks - before.live_blocks);
    if (after.committed_bytes > before.committed_bytes + ((uint64_t)1 << 20))
        FAIL("%" PRIu64 " bytes stay committed: %" PRIu64 " cached, %" PRIu64 " in empty slots, %" PRIu64
             " SuperSlabs, %" PRIu64 " active slots",
             after.committed_bytes, after.cached_bytes, after.empty_bytes, after.superslabs, after.slots_active);
    /* Records are made for 256 MiB of address space at a time, and for as many threads as ever lived at once. */
    if (after.metadata_bytes > records_after_a_third + ((uint64_t)8 << 20))
        FAIL("records grew from %" PRIu64 " to %" PRIu64 " bytes", records_after_a_third, after.metadata_bytes);
    printf("soak: no error in %" PRIu64 " calls; %" PRIu64 " children, %" PRIu64 " short threads\n", n_calls,
           n_children, n_visitors);
    return 0;
}
