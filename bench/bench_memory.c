/* bench_memory.c - what a program's memory is after it has let go of it. Runs on whatever malloc the process has.
 *
 * Usage: bench_memory return ORDER THREADS MIN_BYTES MAX_BYTES MIB
 *            THREADS threads allocate MIB of blocks of MIN_BYTES to MAX_BYTES, write to all of them, and free all but every
 *            thousandth; then nobody calls the allocator for a second; then they free the rest, and all is quiet for another
 *            second, the threads asleep. ORDER: inorder, random, or other (each frees what the next one allocated).
 *        bench_memory sawtooth MIB PERIOD_MS CYCLES
 *            CYCLES times: MIB of blocks of about 200 bytes are allocated, written and freed; then the period's rest passes.
 * Prints   one line of name=value. Sizes in KiB, resident as the kernel counts it (/proc/self/statm):
 *            start, full, freed (at once), quiet (a second later), emptied (a second after the rest was freed)
 *            table     what the program itself keeps for the blocks' addresses; part of all of these but start
 *            needed    start, table, and the pages on which a block is left: no allocator can have less at `quiet`
 *            free_s    seconds that freeing took; work_s: seconds of allocating, writing and freeing
 *            faults    page faults of the process
 */
#include "bench.h"

#include <pthread.h>
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
    FILE *file = fopen("/proc/self/statm", "r");
    if (file == NULL || fscanf(file, "%ld %ld", &pages, &resident) != 2)
        die("/proc/self/statm cannot be read");
    fclose(file);
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
    if (argc == 5 && strcmp(argv[1], "sawtooth") == 0)
        return run_sawtooth(argv + 2);
    fprintf(stderr, "usage: bench_memory return ORDER THREADS MIN_BYTES MAX_BYTES MIB\n"
                    "       bench_memory sawtooth MIB PERIOD_MS CYCLES\n");
    return 2;
}
