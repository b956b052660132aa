/* bench_memory.c - what a program's memory is after it has let go of it. Runs on whatever malloc the process has.
 *
 * Usage: bench_memory return ORDER THREADS MIN_BYTES MAX_BYTES MIB
 *            THREADS threads allocate MIB of blocks of MIN_BYTES to MAX_BYTES, write to all of them, and free all but every
 *            thousandth; then nobody calls the allocator for a second; then they free the rest, and all is quiet for another
 *            second, the threads asleep. ORDER: inorder, random, or other (each frees what the next one allocated).
 *        bench_memory patterns SEED WAIT_MS [PER_CENT KIB]
 *            What programs do, drawn by lot: 1 to 4 threads that end or sleep, each with 1 to 4 phases. A phase allocates 8 to 67 MiB
 *            of blocks of one of ten mixtures of sizes, from 1 byte to 8 MiB, writes to all of them, and frees some in one of several
 *            orders, or replaces them by others, or makes them shorter or longer. Then nobody calls the allocator for WAIT_MS; or
 *            until what is resident is within so much of what is needed, WAIT_MS at most.
 *        bench_memory sawtooth MIB PERIOD_MS CYCLES
 *            CYCLES times: MIB of blocks of about 200 bytes are allocated, written and freed; then the period's rest passes.
 * Prints   one line of name=value. Sizes in KiB, resident as the kernel counts it (/proc/self/statm):
 *            start, full, freed (at once), quiet (a second later, or when the wait is over), emptied (a second after the rest was
 *            freed)
 *            table     what the program itself keeps for the blocks' addresses; part of all of these but start
 *            needed    start, table, and the pages on which a block is left: no allocator can have less at `quiet`
 *            free_s    seconds that freeing took; work_s: seconds of allocating, writing and freeing
 *            faults    page faults of the process
 */
#include "bench.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#define KEEP_EVERY 1000
#define MAX_THREADS 4096
#define STACK_BYTES ((size_t)128 << 10)

static long resident_kib(void)
{
    long pages = 0, resident = 0;
    char text[128] = ""; /* no stream: that would be a call of the allocator */
    int file = open("/proc/self/statm", O_RDONLY);
    if (file < 0 || read(file, text, sizeof text - 1) <= 0 || sscanf(text, "%ld %ld", &pages, &resident) != 2)
        die("/proc/self/statm cannot be read");
    close(file);
    return resident * (sysconf(_SC_PAGESIZE) / 1024);
}

static long page_faults(void)
{
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return usage.ru_minflt;
}

static uint64_t next_random(uint64_t *state)
{
    uint64_t x = *state;
    x ^= x >> 12;
    x ^= x << 25;
    x ^= x >> 27;
    *state = x;
    return x * 2685821657736338717u;
}

/* Memory that is no allocator's. */
static void *map(size_t len_bytes)
{
    void *memory = mmap(NULL, len_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        die("no memory for the table");
    memset(memory, 0, len_bytes);
    return memory;
}

static void *claim(size_t size_bytes)
{
    void *block = malloc(size_bytes);
    if (block == NULL)
        die("no memory");
    memset(block, 1, size_bytes);
    return block;
}

/* ---- return ---------------------------------------------------------------------------------------------------------- */

struct entry {
    char *block;
    uint32_t size_bytes, next; /* next: whom to free after this one, in random order */
};

static struct {
    const char *order;
    unsigned n_threads;
    size_t min_bytes, max_bytes, n_each;
    struct entry *table; /* n_each per thread */
    pthread_barrier_t barrier;
} job;

static void free_part(struct entry *entry, int all)
{
    size_t k = 0;
    for (size_t i = 0; i < job.n_each; i++, k = entry[k].next)
        if ((all || k % KEEP_EVERY != 0) && entry[k].block != NULL) {
            free(entry[k].block);
            entry[k].block = NULL;
        }
}

/* A ring through all entries: in order, or a random cyclic permutation (Sattolo). */
static void link_entries(struct entry *entry, uint64_t *random)
{
    uint32_t n = (uint32_t)job.n_each;
    for (uint32_t i = 0; i < n; i++)
        entry[i].next = strcmp(job.order, "random") == 0 ? i : (i + 1) % n;
    for (uint32_t i = n - 1; i > 0 && strcmp(job.order, "random") == 0; i--) {
        uint32_t k = (uint32_t)(next_random(random) % i), other = entry[k].next;
        entry[k].next = entry[i].next;
        entry[i].next = other;
    }
}

static void *work(void *number)
{
    size_t mine = (uintptr_t)number, freed = mine;
    uint64_t random = mine * 2 + 1;
    struct entry *entry = job.table + mine * job.n_each;
    if (strcmp(job.order, "other") == 0)
        freed = (mine + 1) % job.n_threads;
    link_entries(entry, &random);
    for (size_t i = 0; i < job.n_each; i++) {
        entry[i].size_bytes = (uint32_t)(job.min_bytes + next_random(&random) % (job.max_bytes - job.min_bytes + 1));
        entry[i].block = claim(entry[i].size_bytes);
    }
    pthread_barrier_wait(&job.barrier); /* full */
    pthread_barrier_wait(&job.barrier);
    free_part(job.table + freed * job.n_each, 0);
    pthread_barrier_wait(&job.barrier); /* freed */
    pthread_barrier_wait(&job.barrier);
    free_part(job.table + freed * job.n_each, 1);
    pthread_barrier_wait(&job.barrier); /* emptied */
    pthread_barrier_wait(&job.barrier);
    return NULL;
}

static int compare_pages(const void *a, const void *b)
{
    uintptr_t x = *(const uintptr_t *)a, y = *(const uintptr_t *)b;
    return x < y ? -1 : x > y;
}

/* KiB of the pages on which a block lies that is left. */
static long kib_with_blocks(size_t page_bytes)
{
    size_t n = 0, n_different = 0;
    for (size_t i = 0; i < job.n_each * job.n_threads; i++)
        if (job.table[i].block != NULL)
            n += job.table[i].size_bytes / page_bytes + 2;
    uintptr_t *page = map((n + 1) * sizeof *page);
    size_t len_bytes = (n + 1) * sizeof *page;
    n = 0;
    for (size_t i = 0; i < job.n_each * job.n_threads; i++)
        for (uintptr_t at = (uintptr_t)job.table[i].block / page_bytes;
             job.table[i].block != NULL && at * page_bytes < (uintptr_t)job.table[i].block + job.table[i].size_bytes;
             at++)
            page[n++] = at;
    qsort(page, n, sizeof *page,
          compare_pages); /* libc's, which may call malloc: it is counted before the quiet second */
    for (size_t i = 0; i < n; i++)
        n_different += i == 0 || page[i] != page[i - 1];
    munmap(page, len_bytes);
    return (long)(n_different * (page_bytes / 1024));
}

static void sleep_s(double s)
{
    struct timespec span = {.tv_sec = (time_t)s, .tv_nsec = (long)((s - (double)(time_t)s) * 1e9)};
    nanosleep(&span, NULL);
}

static int run_return(char **argument)
{
    static pthread_t thread[MAX_THREADS];
    pthread_attr_t attributes;
    job.order = argument[0];
    job.n_threads = (unsigned)atoi(argument[1]);
    job.min_bytes = (size_t)atol(argument[2]);
    job.max_bytes = (size_t)atol(argument[3]);
    if (job.n_threads < 1 || job.n_threads > MAX_THREADS || job.min_bytes < 1 || job.max_bytes < job.min_bytes)
        die("return: threads 1 to 4096, sizes above 0");
    job.n_each = ((size_t)atol(argument[4]) << 20) / ((job.min_bytes + job.max_bytes) / 2) / job.n_threads;
    long start = resident_kib();
    size_t table_bytes = job.n_each * job.n_threads * sizeof *job.table;
    job.table = map(table_bytes);
    pthread_barrier_init(&job.barrier, NULL, job.n_threads + 1);
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, STACK_BYTES);
    for (unsigned i = 0; i < job.n_threads; i++)
        if (pthread_create(&thread[i], &attributes, work, (void *)(uintptr_t)i) != 0)
            die("no thread");
    pthread_barrier_wait(&job.barrier);
    long full = resident_kib();
    double free_s = seconds();
    pthread_barrier_wait(&job.barrier);
    pthread_barrier_wait(&job.barrier);
    free_s = seconds() - free_s;
    long freed = resident_kib(), pages = kib_with_blocks((size_t)sysconf(_SC_PAGESIZE));
    sleep_s(1);
    long quiet = resident_kib();
    pthread_barrier_wait(&job.barrier);
    pthread_barrier_wait(&job.barrier);
    sleep_s(1);
    long emptied = resident_kib();
    pthread_barrier_wait(&job.barrier);
    for (unsigned i = 0; i < job.n_threads; i++)
        pthread_join(thread[i], NULL);
    long table = (long)(table_bytes / 1024);
    printf("start=%ld table=%ld full=%ld freed=%ld needed=%ld quiet=%ld emptied=%ld free_s=%.4f faults=%ld\n", start,
           table, full, freed, start + table + pages, quiet, emptied, free_s, page_faults());
    return 0;
}

/* ---- patterns -------------------------------------------------------------------------------------------------------- */

enum { PATTERN_BLOCKS = 200000, PATTERN_THREADS = 4 };
#define PATTERN_LIVE_BYTES ((size_t)150 << 20) /* of a phase that replaces blocks by longer ones */

static size_t choose(uint64_t *random, size_t from, size_t n)
{
    return from + next_random(random) % n;
}

static size_t size_of_mixture(size_t mixture, uint64_t *random)
{
    switch (mixture) {
    case 0:
        return choose(random, 1, 256);
    case 1:
        return choose(random, 1, 4096);
    case 2:
        return choose(random, 1024, 31 << 10);
    case 3:
        return choose(random, (32 << 10) + 1, 64 << 10);
    case 4:
        return choose(random, (32 << 10) + 1, 1000000);
    case 5:
        return choose(random, 1000000, 7000000);
    case 6:
        return 65600;
    case 7:
        return 20048;
    case 8:
        return 40000 * choose(random, 1, 3);
    default: { /* mostly small */
        size_t part = choose(random, 0, 100);
        return part < 80   ? choose(random, 1, 512)
               : part < 95 ? choose(random, 512, 8192)
               : part < 99 ? choose(random, 8192, 100000)
                           : choose(random, 100000, 2000000);
    }
    }
}

static void set_entry(struct entry *entry, size_t size_bytes)
{
    entry->size_bytes = (uint32_t)size_bytes;
    entry->block = claim(size_bytes);
}

static size_t clear_entry(struct entry *entry)
{
    free(entry->block);
    entry->block = NULL;
    return entry->size_bytes;
}

/* Frees all but every keep-th of n blocks. */
static void free_some(struct entry *entry, size_t n, size_t keep, size_t order, uint64_t *random)
{
    for (size_t i = 0; i < (order == 2 ? 2 * n : n); i++) {
        size_t k = order == 0 ? i : order == 1 ? n - 1 - i : choose(random, 0, n);
        if (entry[k].block != NULL && k % keep != 0)
            clear_entry(&entry[k]);
    }
}

static void resize_all(struct entry *entry, size_t n, uint64_t *random)
{
    for (size_t i = 0; i < n; i++) {
        if (entry[i].block == NULL)
            continue;
        size_t size_bytes = 1 + entry[i].size_bytes * choose(random, 1, 6) / choose(random, 4, 4);
        entry[i].block = realloc(entry[i].block, size_bytes);
        if (entry[i].block == NULL)
            die("no memory");
        memset(entry[i].block, 2, size_bytes);
        entry[i].size_bytes = (uint32_t)size_bytes;
    }
}

static void replace_some(struct entry *entry, size_t n, size_t keep, uint64_t *random)
{
    size_t mixture = choose(random, 0, 10), live_bytes = 0;
    for (size_t i = 0; i < n; i++) {
        if (entry[i].block == NULL || i % keep == 0)
            continue;
        clear_entry(&entry[i]);
        if (live_bytes > PATTERN_LIVE_BYTES)
            continue;
        set_entry(&entry[i], size_of_mixture(mixture, random));
        live_bytes += entry[i].size_bytes;
    }
}

static void phase(struct entry *entry, size_t n, uint64_t *random)
{
    static const size_t keeps[] = {1, 2, 10, 100, 1000, 1000000};
    size_t mixture = choose(random, 0, 10), most_bytes = choose(random, 8, 60) << 20, what = choose(random, 0, 5);
    size_t keep = keeps[choose(random, 0, 6)];
    for (size_t i = 0, sum_bytes = 0; i < n && sum_bytes < most_bytes; i++) {
        if (entry[i].block != NULL)
            continue;
        set_entry(&entry[i], size_of_mixture(mixture, random));
        sum_bytes += entry[i].size_bytes;
    }
    if (what < 3)
        free_some(entry, n, keep, what, random);
    else if (what == 3)
        resize_all(entry, n, random);
    else
        replace_some(entry, n, keep, random);
}

static struct {
    uint64_t seed;
    bool sleep;
    pthread_barrier_t all_done, end;
} patterns;

static void *pattern(void *number)
{
    uint64_t random = patterns.seed * 7919 + (uintptr_t)number * 104729 + 1;
    for (unsigned i = 0; i < 8; i++)
        next_random(&random);
    for (size_t left = choose(&random, 1, 4); left != 0; left--)
        phase(job.table + (uintptr_t)number * job.n_each, job.n_each, &random);
    if (patterns.sleep) {
        pthread_barrier_wait(&patterns.all_done);
        pthread_barrier_wait(&patterns.end);
    }
    return NULL;
}

static int run_patterns(char **argument, bool until)
{
    pthread_t thread[PATTERN_THREADS];
    patterns.seed = strtoull(argument[0], NULL, 10);
    double wait_s = atof(argument[1]) / 1000;
    uint64_t random = patterns.seed * 0x9e3779b97f4a7c15u + 1;
    next_random(&random);
    job.n_threads = (unsigned)(choose(&random, 0, 2) == 0 ? 1 : choose(&random, 2, PATTERN_THREADS - 1));
    patterns.sleep = job.n_threads > 1 && choose(&random, 0, 2) != 0;
    job.n_each = PATTERN_BLOCKS / job.n_threads;
    pthread_barrier_init(&patterns.all_done, NULL, job.n_threads + 1);
    pthread_barrier_init(&patterns.end, NULL, job.n_threads + 1);
    long start = resident_kib(), table = (long)(PATTERN_BLOCKS * sizeof *job.table / 1024);
    job.table = map(PATTERN_BLOCKS * sizeof *job.table);
    for (unsigned i = 0; i < job.n_threads; i++)
        if (job.n_threads == 1)
            pattern(NULL);
        else if (pthread_create(&thread[i], NULL, pattern, (void *)(uintptr_t)i) != 0)
            die("no thread");
    if (patterns.sleep)
        pthread_barrier_wait(&patterns.all_done);
    for (unsigned i = 0; i < job.n_threads && job.n_threads > 1 && !patterns.sleep; i++)
        pthread_join(thread[i], NULL);
    long freed = resident_kib(), needed = start + table + kib_with_blocks((size_t)sysconf(_SC_PAGESIZE));
    long most = until ? needed + needed * atol(argument[2]) / 100 + atol(argument[3]) : 0;
    double from = seconds();
    while (seconds() - from < wait_s && resident_kib() > most)
        sleep_s(0.05);
    long quiet = resident_kib();
    printf("seed=%s threads=%u sleep=%d start=%ld table=%ld freed=%ld needed=%ld quiet=%ld faults=%ld\n", argument[0],
           job.n_threads, patterns.sleep, start, table, freed, needed, quiet, page_faults());
    if (patterns.sleep)
        pthread_barrier_wait(&patterns.end);
    return until && quiet > most;
}

/* ---- sawtooth -------------------------------------------------------------------------------------------------------- */

static int run_sawtooth(char **argument)
{
    size_t n = ((size_t)atol(argument[0]) << 20) / 200;
    double period_s = atof(argument[1]) / 1000, work_s = 0;
    long n_cycles = atol(argument[2]);
    char **block = map(n * sizeof *block);
    uint64_t random = 1;
    for (long k = 0; k < n_cycles; k++) {
        double from = seconds();
        for (size_t i = 0; i < n; i++)
            block[i] = claim(100 + next_random(&random) % 200);
        for (size_t i = 0; i < n; i++)
            free(block[i]);
        double took = seconds() - from;
        work_s += took;
        if (took < period_s && k + 1 < n_cycles)
            sleep_s(period_s - took);
    }
    printf("work_s=%.4f faults=%ld\n", work_s, page_faults());
    return 0;
}

int main(int argc, char **argv)
{
    if (argc == 7 && strcmp(argv[1], "return") == 0)
        return run_return(argv + 2);
    if ((argc == 4 || argc == 6) && strcmp(argv[1], "patterns") == 0)
        return run_patterns(argv + 2, argc == 6);
    if (argc == 5 && strcmp(argv[1], "sawtooth") == 0)
        return run_sawtooth(argv + 2);
    fprintf(stderr, "usage: bench_memory return ORDER THREADS MIN_BYTES MAX_BYTES MIB\n"
                    "       bench_memory patterns SEED WAIT_MS [PER_CENT KIB]\n"
                    "       bench_memory sawtooth MIB PERIOD_MS CYCLES\n");
    return 2;
}
