/* bench_longlife.c - a server's life in a minute: what its memory does over time, on whatever malloc the process has.
 *
 * Usage: bench_longlife SCENE [SECONDS]     SECONDS: 10 to 3600, default 60; they stand for ten times as many and more
 *
 * cache   A cache of 2^21 keys with a budget of 100 MiB of values. Two threads take turns of 2 ms, so that half of the
 *         values are freed by the thread that did not allocate them. A look-up that misses loads a value, one hit in 16
 *         writes a new one. Half of the look-ups go to few keys (Zipf), half to all alike. Values expire, most of them
 *         soon, some not before the end; over the budget those go that were not looked up since the clock's hand passed
 *         (CLOCK). Their mean size drifts: 64 bytes, 2 KiB, 300 bytes, 1 KiB, 64 bytes, four times. After a turn comes
 *         sleep: 0.3 to 0.5 of a processor is busy.
 * phases  100 phases, each SECONDS/100 long: about a sixth of it is work, at the default SECONDS, and then it rests.
 *           parse  44 MiB of documents of 64 nodes and 64 strings each; all go at the end but one document in 40, and
 *                  but one block in 200, which is kept alone
 *           index  32 MiB of tree nodes in segments of 100, and 128 vectors that grow by realloc to 16 to 512 KiB, all
 *                  at the same time; of both one in 32 is kept
 *           serve  8000 requests of a buffer of 1 to 64 KiB and 8 small blocks, 2000 of them at a time; one in 32
 *                  leaves a session of 6 blocks
 *         What is kept takes the place of something kept of its kind, at random: it lives for 12 phases on average,
 *         some of it for most of the run. Beside that the server has 48 MiB of its own from the start. So 60 MiB are
 *         live after each phase; and since lives and sizes are the same all the time, so should be what is resident.
 * The work is the same in every run, whatever the allocator. SECONDS says how fast it is asked for, and in `cache` how
 * much of it.
 *
 * Prints  one line per sample, each 100 ms:
 *           t_ms          since the start
 *           live_bytes    asked for and not freed
 *           rss_bytes     resident, less base_bytes
 *           label         sample; phase_end when a phase's work is done; rested before the next one; end
 *           needed_bytes  pages on which a live block lies, at rested and at the end of cache; else 0
 *         and where the process runs on hakmem some fields of its struct hak_stats (see STATS). Lines that begin with #
 *         tell the names of the columns; base_bytes, what was resident before the first call, the program's tables
 *         included; and at the end the processor time and the page faults.
 */
#define _GNU_SOURCE
#include "bench.h"

#include <dlfcn.h>
#include <fcntl.h>
#include <math.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include "hakmem/hakmem.h"

#define SAMPLE_MS 100
#define MIB ((size_t)1 << 20)

/* What is printed of hakmem's own figures. */
#define STATS(X)                                                                                                       \
    X(superslabs_hot)                                                                                                  \
    X(superslabs_draining)                                                                                             \
    X(superslabs_cached)                                                                                               \
    X(committed_bytes)                                                                                                 \
    X(live_bytes)                                                                                                      \
    X(cached_bytes)                                                                                                    \
    X(metadata_bytes)                                                                                                  \
    X(slots_active)                                                                                                    \
    X(slots_empty)                                                                                                     \
    X(slots_unused)                                                                                                    \
    X(tier_hot_to_draining)                                                                                            \
    X(tier_draining_to_hot)                                                                                            \
    X(tier_to_free)                                                                                                    \
    X(stage_reopen)                                                                                                    \
    X(purged_bytes)

static double run_s = 60;

/* ---- Tools ------------------------------------------------------------------------------------------------------- */

static void sleep_until(double when_s)
{
    struct timespec t = {.tv_sec = (time_t)when_s, .tv_nsec = (long)((when_s - (double)(time_t)when_s) * 1e9)};
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL) != 0)
        ;
}

/* One sequence for the whole program: in `cache` whose turn it is may use it. */
static uint64_t next_random(void)
{
    static uint64_t state = 88172645463325252u;
    uint64_t x = state;
    x ^= x >> 12;
    x ^= x << 25;
    x ^= x >> 27;
    state = x;
    return (x * 2685821657736338717u) >> 16;
}

static uint32_t below(uint32_t n)
{
    return (uint32_t)(next_random() % n);
}

/* From min to max, the small ones more often: the mean is a quarter of the way. */
static uint32_t skewed(uint32_t min, uint32_t max)
{
    uint64_t random = next_random();
    return min + (uint32_t)((uint64_t)(max - min) * (random & 0xffff) * (random >> 16 & 0xffff) >> 32);
}

/* From 2^first to 2^last, each power of two as often. */
static uint32_t log_uniform(unsigned first, unsigned last)
{
    uint32_t power = (uint32_t)1 << (first + below(last - first));
    return power + below(power);
}

/* Memory that is no allocator's, resident from the start. */
static void *map(size_t len_bytes)
{
    void *memory = mmap(NULL, len_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        die("no memory for a table");
    memset(memory, 0xff, len_bytes);
    memset(memory, 0, len_bytes);
    return memory;
}

/* ---- Samples ----------------------------------------------------------------------------------------------------- */

static _Atomic uint64_t live_bytes;

static struct {
    double start_s, next_s;
    uint64_t base_bytes;
    int statm;
    int (*stats_get)(struct hak_stats *, size_t); /* NULL on any other allocator */
} sampler;

static void note_live(int64_t difference_bytes)
{
    atomic_fetch_add_explicit(&live_bytes, (uint64_t)difference_bytes, memory_order_relaxed);
}

/* Without stdio, whose buffer would come from the allocator. */
static uint64_t resident_bytes(void)
{
    char text[128] = "";
    unsigned long pages, resident;
    if (pread(sampler.statm, text, sizeof text - 1, 0) <= 0 || sscanf(text, "%lu %lu", &pages, &resident) != 2)
        die("/proc/self/statm cannot be read");
    return (uint64_t)resident * (uint64_t)sysconf(_SC_PAGESIZE);
}

/* A line of output. stdout has no buffer of the allocator's either, and each line is out when its sample is taken. */
__attribute__((format(printf, 1, 2))) static void print(const char *format, ...)
{
    static char line[1024];
    static size_t len_bytes;
    va_list arguments;
    va_start(arguments, format);
    len_bytes += (size_t)vsnprintf(line + len_bytes, sizeof line - len_bytes, format, arguments);
    va_end(arguments);
    if (len_bytes >= sizeof line)
        die("a line is too long");
    if (line[len_bytes - 1] == '\n') {
        if (write(STDOUT_FILENO, line, len_bytes) != (ssize_t)len_bytes)
            die("the output cannot be written");
        len_bytes = 0;
    }
}

static void start_samples(void)
{
    void *found = dlsym(RTLD_DEFAULT, "hak_stats_get");
    memcpy(&sampler.stats_get, &found, sizeof found);
    sampler.statm = open("/proc/self/statm", O_RDONLY | O_CLOEXEC);
    sampler.base_bytes = resident_bytes();
    sampler.start_s = sampler.next_s = seconds();
    print("# base_bytes=%llu\n", (unsigned long long)sampler.base_bytes);
    print("# columns: t_ms live_bytes rss_bytes label needed_bytes");
#define NAME(field) print(" hak_" #field);
    if (sampler.stats_get != NULL) {
        STATS(NAME)
    }
    print("\n");
}

/* needed_bytes: finds the pages in use, or NULL. Called after memory was looked at, for it takes time. */
static void sample(const char *label, uint64_t (*needed_bytes)(void))
{
    struct hak_stats stats = {0};
    uint64_t rss_bytes = resident_bytes(), live = atomic_load_explicit(&live_bytes, memory_order_relaxed);
    double now_s = seconds();
    if (sampler.stats_get != NULL && sampler.stats_get(&stats, sizeof stats) != 0)
        die("hak_stats_get failed");
    rss_bytes = rss_bytes > sampler.base_bytes ? rss_bytes - sampler.base_bytes : 0;
    print("%.0f %llu %llu %s %llu", (now_s - sampler.start_s) * 1000, (unsigned long long)live,
          (unsigned long long)rss_bytes, label, (unsigned long long)(needed_bytes ? needed_bytes() : 0));
#define VALUE(field) print(" %llu", (unsigned long long)stats.field);
    if (sampler.stats_get != NULL) {
        STATS(VALUE)
    }
    print("\n");
    while (sampler.next_s <= now_s)
        sampler.next_s += SAMPLE_MS / 1e3;
}

static void sample_if_due(void)
{
    if (seconds() >= sampler.next_s)
        sample("sample", NULL);
}

static void rest_until(double when_s)
{
    while (sampler.next_s < when_s) {
        sleep_until(sampler.next_s);
        sample_if_due();
    }
    sleep_until(when_s);
}

/* ---- The pages on which blocks lie: a hash table of page numbers ------------------------------------------------- */

#define PAGE_SET_SLOTS ((size_t)1 << 19)

static struct {
    uintptr_t *page; /* number + 1, or 0 */
    size_t n;
} page_set;

static void add_pages(const void *block, size_t size_bytes)
{
    size_t page_bytes = (size_t)sysconf(_SC_PAGESIZE);
    uintptr_t last = ((uintptr_t)block + size_bytes - 1) / page_bytes;
    for (uintptr_t page = (uintptr_t)block / page_bytes; page <= last; page++) {
        size_t i = (page * 0x9e3779b97f4a7c15u >> 32) % PAGE_SET_SLOTS;
        while (page_set.page[i] != 0 && page_set.page[i] != page + 1)
            i = (i + 1) % PAGE_SET_SLOTS;
        if (page_set.page[i] == 0 && ++page_set.n > PAGE_SET_SLOTS / 4 * 3)
            die("too many pages");
        page_set.page[i] = page + 1;
    }
}

static void forget_pages(void)
{
    memset(page_set.page, 0, PAGE_SET_SLOTS * sizeof *page_set.page);
    page_set.n = 0;
}

/* ---- cache ------------------------------------------------------------------------------------------------------- */

enum {
    KEYS_LOG2 = 21,
    N_KEYS = 1 << KEYS_LOG2,
    TURN_MS = 2,
    LOOKUPS_PER_TURN = 1200, /* 0.3 to 0.5 of a processor here, an AMD EPYC of the 9004 series */
    N_CYCLES = 4,
    BUDGET_BYTES = 100 << 20,
};

struct entry {
    char *value; /* NULL: none */
    uint32_t size_bytes;
    uint32_t expires_turn : 31, used : 1; /* used: looked up since the hand passed */
};

static struct {
    struct entry *entry; /* N_KEYS of them */
    uint32_t hand;
    uint32_t turn, n_turns;
    double mean_bytes; /* of the sizes of new values, at this turn */
    sem_t may_work[2]; /* a thread waits for its own and posts the other's: all of this is its, meanwhile */
    _Atomic int done;
} cache;

static void drop_value(struct entry *entry)
{
    free(entry->value);
    note_live(-(int64_t)entry->size_bytes);
    entry->value = NULL;
}

static int expired(const struct entry *entry)
{
    return entry->expires_turn <= cache.turn;
}

/* The clock's hand moves on by one entry, which goes if it has expired, or must make room and was not used. */
static void move_hand(int make_room)
{
    struct entry *entry = &cache.entry[cache.hand];
    cache.hand = (cache.hand + 1) % N_KEYS;
    if (entry->value == NULL)
        return;
    if (expired(entry) || (make_room && !entry->used))
        drop_value(entry);
    else if (make_room)
        entry->used = 0;
}

/* Lives are distributed so that a tenth of the values live ten times as long (Pareto): 1 % of the run to all of it. */
static uint32_t expiry_turn(void)
{
    uint64_t life = (uint64_t)cache.n_turns / 100 * 65536 / (1 + below(65536));
    return cache.turn + (uint32_t)(life < cache.n_turns ? life : cache.n_turns);
}

static void load_value(struct entry *entry)
{
    uint32_t size_bytes = 16 + skewed(0, (uint32_t)(4 * cache.mean_bytes));
    if (entry->value != NULL)
        drop_value(entry);
    while (atomic_load_explicit(&live_bytes, memory_order_relaxed) + size_bytes > BUDGET_BYTES)
        move_hand(1);
    char *value = malloc(size_bytes);
    if (value == NULL)
        die("no memory");
    memset(value, 1, size_bytes);
    note_live(size_bytes);
    *entry = (struct entry){.value = value, .size_bytes = size_bytes, .expires_turn = expiry_turn()};
}

static void look_up(void)
{
    uint32_t key = next_random() & 1 ? below(N_KEYS) : log_uniform(0, KEYS_LOG2);
    struct entry *entry = &cache.entry[(uint32_t)(key * 0x9e3779b1u) >> (32 - KEYS_LOG2)]; /* keys have no order */
    if (entry->value == NULL || expired(entry) || below(16) == 0)
        load_value(entry);
    entry->used = 1;
}

/* The mean moves in straight lines between its logarithms. */
static double drifting_mean(uint32_t turn)
{
    static const double log2_bytes[] = {6, 11, 8.2, 10, 6};
    enum { N_LEGS = sizeof log2_bytes / sizeof *log2_bytes - 1 };
    double leg = (double)turn / cache.n_turns * N_CYCLES * N_LEGS, part = leg - floor(leg);
    unsigned i = (unsigned)leg % N_LEGS;
    return exp2(log2_bytes[i] * (1 - part) + log2_bytes[i + 1] * part);
}

static void *take_turns(void *number)
{
    int mine = number != NULL;
    for (;;) {
        while (sem_wait(&cache.may_work[mine]) != 0)
            ;
        if (cache.turn >= cache.n_turns)
            break;
        sleep_until(sampler.start_s + cache.turn * (TURN_MS / 1e3));
        cache.mean_bytes = drifting_mean(cache.turn);
        for (int i = 0; i < LOOKUPS_PER_TURN; i++)
            look_up();
        for (uint32_t i = 0; i < (uint64_t)N_KEYS * 30 / cache.n_turns; i++) /* thirty times round in a run */
            move_hand(0);
        cache.turn++;
        sem_post(&cache.may_work[!mine]);
    }
    atomic_store(&cache.done, 1);
    sem_post(&cache.may_work[!mine]);
    return NULL;
}

static uint64_t cache_needed_bytes(void)
{
    forget_pages();
    for (size_t i = 0; i < N_KEYS; i++)
        if (cache.entry[i].value != NULL)
            add_pages(cache.entry[i].value, cache.entry[i].size_bytes);
    return page_set.n * (uint64_t)sysconf(_SC_PAGESIZE);
}

static void run_cache(void)
{
    pthread_t thread[2];
    cache.entry = map(N_KEYS * sizeof *cache.entry);
    cache.n_turns = (uint32_t)(run_s * 1000 / TURN_MS);
    start_samples();
    for (int i = 0; i < 2; i++) /* both before the first thread runs, which posts the other's */
        if (sem_init(&cache.may_work[i], 0, i == 0) != 0)
            die("no semaphore");
    for (int i = 0; i < 2; i++)
        if (pthread_create(&thread[i], NULL, take_turns, i == 0 ? NULL : &cache) != 0)
            die("no thread");
    while (!atomic_load(&cache.done)) {
        sleep_until(sampler.next_s);
        sample("sample", NULL);
    }
    for (int i = 0; i < 2; i++)
        pthread_join(thread[i], NULL);
    sample("end", cache_needed_bytes);
}

/* ---- phases: blocks that know their size, in chains that are kept and freed as a whole --------------------------- */

enum {
    N_PHASES = 100,
    N_STEPS = 200, /* of a phase */
    DOCUMENTS_PER_STEP = 20,
    SEGMENTS_PER_STEP = 5,
    N_VECTORS = 128,
    REQUESTS_PER_STEP = 40,
    N_REQUESTS = 2000, /* at a time */
    OWN_BYTES = 48 << 20,
};

struct block {
    struct block *next;
    uint32_t size_bytes;
};
#define BLOCK_MIN_BYTES 16

static struct block *claim(uint32_t size_bytes, struct block *next)
{
    struct block *block = malloc(size_bytes);
    if (block == NULL)
        die("no memory");
    memset(block, 1, size_bytes);
    block->next = next;
    block->size_bytes = size_bytes;
    note_live(size_bytes);
    return block;
}

static void free_chain(struct block *block)
{
    while (block != NULL) {
        struct block *next = block->next;
        note_live(-(int64_t)block->size_bytes);
        free(block);
        block = next;
    }
}

/* What outlives its phase: a fixed number of chains of a kind. */
struct store {
    uint32_t n;
    struct block *chain[100000];
};

static struct {
    struct store names, documents, segments, vectors, sessions, own;
    struct block *document[DOCUMENTS_PER_STEP * N_STEPS], *segment[SEGMENTS_PER_STEP * N_STEPS];
    struct block *vector[N_VECTORS], *request[N_REQUESTS];
    uint32_t length_bytes[N_VECTORS]; /* that the vectors reach */
} * server;

static void replace(struct store *store, struct block *chain)
{
    uint32_t i = below(store->n);
    free_chain(store->chain[i]);
    store->chain[i] = chain;
}

/* The end of a step's chains: one in `one_in`, at random, stays in the store in another's place. */
static void release_most(struct block **chain, int n, uint32_t one_in, struct store *store)
{
    for (int i = 0; i < n; i++)
        if (below(one_in) == 0)
            replace(store, chain[i]);
        else
            free_chain(chain[i]);
}

static struct block *small_block(uint32_t min_bytes, uint32_t max_bytes, struct block *next)
{
    struct block *block = claim(skewed(min_bytes, max_bytes), next);
    if (below(200) != 0)
        return block;
    block->next = NULL;
    replace(&server->names, block);
    return next;
}

static struct block *make_document(void)
{
    struct block *chain = NULL;
    for (int i = 0; i < 64; i++) {
        chain = small_block(32, 160, chain);
        chain = small_block(BLOCK_MIN_BYTES, 256, chain);
    }
    return chain;
}

static struct block *make_segment(void)
{
    struct block *chain = NULL;
    for (int i = 0; i < 100; i++)
        chain = claim(128 + below(385), chain);
    return chain;
}

static struct block *make_session(void)
{
    struct block *chain = NULL;
    for (int i = 0; i < 6; i++)
        chain = claim(skewed(64, 1024), chain);
    return chain;
}

static struct block *make_request(void)
{
    struct block *chain = claim(log_uniform(10, 16), NULL);
    for (int i = 0; i < 8; i++)
        chain = claim(skewed(BLOCK_MIN_BYTES, 512), chain);
    return chain;
}

/* Grows a vector as programs do, by half of what it has. Its last bytes are written when it has them. */
static struct block *grow_vector(struct block *vector, uint32_t len_bytes)
{
    uint32_t had_bytes = vector->size_bytes, size_bytes = had_bytes;
    while (size_bytes < len_bytes)
        size_bytes += size_bytes / 2;
    if (size_bytes == had_bytes)
        return vector;
    vector = realloc(vector, size_bytes);
    if (vector == NULL)
        die("no memory");
    memset((char *)vector + had_bytes, 1, size_bytes - had_bytes);
    vector->size_bytes = size_bytes;
    note_live((int64_t)size_bytes - had_bytes);
    return vector;
}

static struct block *make_vector(void)
{
    return claim(64, NULL);
}

static struct block *make_own(void)
{
    return claim(skewed(BLOCK_MIN_BYTES, 2048), NULL);
}

/* Each kind does a phase's work in steps, with the step's number; and, with N_STEPS, lets go of it. */
static void parse(int step)
{
    struct block **document = server->document + step * DOCUMENTS_PER_STEP;
    if (step < N_STEPS) {
        for (int i = 0; i < DOCUMENTS_PER_STEP; i++)
            document[i] = make_document();
        return;
    }
    release_most(server->document, DOCUMENTS_PER_STEP * N_STEPS, 40, &server->documents);
}

static void build_index(int step)
{
    struct block **segment = server->segment + step * SEGMENTS_PER_STEP;
    if (step < N_STEPS) {
        for (int i = 0; i < SEGMENTS_PER_STEP; i++)
            segment[i] = make_segment();
        for (int i = 0; i < N_VECTORS; i++) {
            if (step == 0) {
                server->vector[i] = make_vector();
                server->length_bytes[i] = log_uniform(14, 19);
            }
            uint32_t len_bytes = (uint32_t)((uint64_t)server->length_bytes[i] * (unsigned)(step + 1) / N_STEPS);
            server->vector[i] = grow_vector(server->vector[i], len_bytes);
        }
        return;
    }
    release_most(server->segment, SEGMENTS_PER_STEP * N_STEPS, 32, &server->segments);
    for (int i = 0; i < N_VECTORS; i++)
        if (i % 32 == 0) /* not at random: they are few, and what is live would vary */
            replace(&server->vectors, server->vector[i]);
        else
            free_chain(server->vector[i]);
}

static void serve(int step)
{
    if (step < N_STEPS) {
        for (int i = 0; i < REQUESTS_PER_STEP; i++) {
            struct block **request = &server->request[below(N_REQUESTS)];
            free_chain(*request);
            *request = make_request();
            if (below(32) == 0)
                replace(&server->sessions, make_session());
        }
        return;
    }
    for (int i = 0; i < N_REQUESTS; i++) {
        free_chain(server->request[i]);
        server->request[i] = NULL;
    }
}

static void fill(struct store *store, uint32_t n, struct block *(*make)(void))
{
    for (store->n = 1; store->n <= n; store->n++)
        store->chain[store->n - 1] = make();
    store->n = n;
}

static struct block *make_name(void)
{
    return claim(skewed(BLOCK_MIN_BYTES, 256), NULL);
}

static struct block *make_long_vector(void)
{
    return grow_vector(make_vector(), log_uniform(14, 19));
}

/* What the server has after its first few phases: four phases of each kind leave as much as a store holds. */
static void start_server(void)
{
    fill(&server->names, 10240, make_name);
    fill(&server->documents, 400, make_document);
    fill(&server->segments, 125, make_segment);
    fill(&server->vectors, 16, make_long_vector);
    fill(&server->sessions, 1000, make_session);
    fill(&server->own, OWN_BYTES / 524, make_own);
}

static void add_store(const struct store *store)
{
    for (uint32_t i = 0; i < store->n; i++)
        for (const struct block *block = store->chain[i]; block != NULL; block = block->next)
            add_pages(block, block->size_bytes);
}

static uint64_t server_needed_bytes(void)
{
    forget_pages();
    add_store(&server->names);
    add_store(&server->documents);
    add_store(&server->segments);
    add_store(&server->vectors);
    add_store(&server->sessions);
    add_store(&server->own);
    return page_set.n * (uint64_t)sysconf(_SC_PAGESIZE);
}

static void run_phases(void)
{
    static void (*const kind[])(int) = {parse, build_index, serve};
    server = map(sizeof *server);
    start_samples();
    start_server();
    double phase_s = run_s / N_PHASES, end_s = seconds();
    for (int k = 0; k < N_PHASES; k++) {
        end_s += phase_s;
        for (int step = 0; step <= N_STEPS; step++) {
            kind[k % 3](step);
            sample_if_due();
        }
        sample("phase_end", NULL);
        /* On a machine that is too slow the run takes longer, but there is always a rest. */
        if (end_s < seconds() + phase_s / 4)
            end_s = seconds() + phase_s / 4;
        rest_until(end_s);
        sample("rested", server_needed_bytes);
    }
}

/* ---- Main -------------------------------------------------------------------------------------------------------- */

int main(int argc, char **argv)
{
    struct rusage usage;
    void (*scene)(void) = NULL;
    if (argc == 3)
        run_s = atof(argv[2]);
    if (argc >= 2)
        scene = strcmp(argv[1], "cache") == 0 ? run_cache : strcmp(argv[1], "phases") == 0 ? run_phases : NULL;
    if (scene == NULL || argc > 3 || !(run_s >= 10 && run_s <= 3600)) {
        fprintf(stderr, "usage: bench_longlife cache|phases [SECONDS]\n");
        return 2;
    }
    page_set.page = map(PAGE_SET_SLOTS * sizeof *page_set.page);
    scene();
    getrusage(RUSAGE_SELF, &usage);
    print("# cpu_s=%.2f faults=%ld\n",
          (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
              (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6,
          usage.ru_minflt);
    return 0;
}
