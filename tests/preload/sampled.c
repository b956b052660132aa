/* sampled.c - HAKMEM_GUARD_SAMPLE: of N allocations about one is picked, whatever the pattern, size, call and thread; a mistake
 * with a picked block ends the process and is reported, with the stacks of those who allocated and freed it; what is no
 * mistake works.
 * The test runs itself once for each case, with the variable set.
 */
#include "check.h"

#include <malloc.h>
#include <pthread.h>
#include <signal.h>

#define TEXT_MAX_BYTES 16384

static uint64_t sampled_total(void)
{
    return check_stats().sampled_total;
}

/* ---- Mistakes, every block being picked -------------------------------------------------------------------------- */

static char *volatile block; /* what the compiler must not see through */

__attribute__((noinline)) static void make(size_t size)
{
    block = check_malloc(size);
}

__attribute__((noinline)) static void drop(void)
{
    free(block);
    __asm__ volatile("" ::: "memory"); /* no jump instead of a call */
}

static bool holds(const void *bytes, size_t size, int value)
{
    const unsigned char *byte = bytes;
    while (size > 0 && byte[size - 1] == value)
        size--;
    return size == 0;
}

static void store_behind(void)
{
    make(48);
    block[48] = 1;
    drop();
}

static void store_before(void)
{
    make(100);
    block[-1] = 1;
    drop();
}

static void store_far_behind(void)
{
    make(5000);
    block[5000 + 40000] = 1;
}

/* Every place has had a block before, which was freed. The store is so near that no other block comes into question. */
static void store_behind_page_after_others(void)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    for (unsigned i = 0; i < 2000; i++)
        free(malloc(1 + i % 100));
    make(5000);
    block[(uintptr_t)block % page == 0 ? (5000 + page - 1) / page * page : 5008] = 1;
}

static void read_after_free(void)
{
    make(48);
    drop();
    (void)*(volatile char *)block;
}

static void store_after_free(void)
{
    make(20000);
    drop();
    block[19999] = 1;
}

static void free_twice(void)
{
    make(48);
    drop();
    drop();
}

static void free_twice_after_others(void)
{
    make(48);
    char *first = block;
    drop();
    for (unsigned i = 0; i < 200; i++) {
        make(i);
        drop();
    }
    block = first;
    drop();
}

static void free_inside(void)
{
    make(1000);
    block += 16;
    drop();
}

static void realloc_after_free(void)
{
    make(1000);
    drop();
    block = realloc(block, 2000);
}

static void usable_size_after_free(void)
{
    make(1000);
    drop();
    block += malloc_usable_size(block);
}

static void *free_block(void *argument)
{
    drop();
    return argument;
}

static void free_twice_by_threads(void)
{
    pthread_t thread;
    make(64);
    REQUIRE(pthread_create(&thread, NULL, free_block, NULL) == 0 && pthread_join(thread, NULL) == 0);
    drop();
}

/* Under HAKMEM_ON_ERROR=warn: each of these is reported and has no effect. */
static void go_on(void)
{
    make(1000);
    char *live = block;
    errno = 0;
    CHECK(realloc(live + 16, 2000) == NULL && errno == EINVAL && malloc_usable_size(live + 16) == 0);
    CHECK(holds(live, 1000, 1));
    drop();
    errno = 0;
    CHECK(realloc(live, 2000) == NULL && errno == EINVAL && malloc_usable_size(live) == 0);
    drop();
    make(1000);
    CHECK(block != live);
    drop();
}

/* ---- No mistakes ------------------------------------------------------------------------------------------------- */

static void use_rightly(void)
{
    uint64_t before = sampled_total();
    for (size_t size = 0; size <= 40000; size = size * 9 / 8 + 1) {
        unsigned char *p = malloc(size), *z = calloc(1, size), *a = aligned_alloc(256, size);
        REQUIRE(p != NULL && z != NULL && a != NULL);
        CHECK((uintptr_t)p % (size <= 8 ? 8 : 16) == 0 && (uintptr_t)a % 256 == 0);
        CHECK(malloc_usable_size(p) >= size && malloc_usable_size(p) < size + 8192);
        for (size_t i = 0; i < size; i++)
            CHECK(z[i] == 0);
        memset(p, 1, size);
        memset(z, 2, size);
        memset(a, 3, size);
        size_t longer = size * 2 + 1;
        p = realloc(p, longer);
        REQUIRE(p != NULL);
        CHECK_THAT(holds(p, size, 1), "contents of %zu bytes changed when they moved", size);
        p = realloc(p, size / 3 + 1);
        REQUIRE(p != NULL);
        CHECK(holds(p, size / 3 < size ? size / 3 : size, 1));
        CHECK(holds(z, size, 2) && holds(a, size, 3));
        free(a);
        free(p);
        free(z);
    }
    CHECK_THAT(sampled_total() - before > 200 / strtoul(getenv("HAKMEM_GUARD_SAMPLE"), NULL, 10),
               "only %u blocks were picked", (unsigned)(sampled_total() - before));
    /* More live blocks than there are places: the others are like any. */
    static char *many[3000];
    for (size_t i = 0; i < CHECK_COUNT(many); i++) {
        many[i] = malloc(i % 300);
        REQUIRE(many[i] != NULL);
        memset(many[i], (int)(i % 251), i % 300);
    }
    for (size_t i = 0; i < CHECK_COUNT(many); i++) {
        CHECK(holds(many[i], i % 300, (int)(i % 251)));
        free(many[i]);
    }
    const struct hak_stats stats = check_stats();
    CHECK_THAT(stats.live_blocks < 100 && stats.live_bytes < CHECK_MIB, "%u blocks of %u bytes are live",
               (unsigned)stats.live_blocks, (unsigned)stats.live_bytes);
}

/* ---- How many are picked ----------------------------------------------------------------------------------------- */

#define INTERVAL 1000
#define N_EACH 1000000
#define DEVIATIONS 5 /* of sqrt(1000): beyond that by chance in one of a million runs */

static int64_t all_picked, all_expected;

static void expect(const char *what, int64_t picked, int64_t expected)
{
    int64_t off = picked - expected;
    CHECK_THAT(off * off < DEVIATIONS * DEVIATIONS * expected, "%s: %d picks of %d allocations", what, (int)picked,
               (int)expected * INTERVAL);
}

static void expect_picks(const char *what, uint64_t before)
{
    int64_t picked = (int64_t)(sampled_total() - before);
    expect(what, picked, N_EACH / INTERVAL);
    all_picked += picked;
    all_expected += N_EACH / INTERVAL;
}

static void *churn(void *argument)
{
    for (unsigned i = 0; i < N_EACH / 100; i++) {
        block = malloc(i % 500);
        free(block);
    }
    return argument;
}

static void count_picks(void)
{
    static const size_t sizes[] = {8, 48, 1000, 10000};
    for (unsigned s = 0; s < CHECK_COUNT(sizes); s++) {
        uint64_t before = sampled_total();
        for (unsigned i = 0; i < N_EACH; i++) {
            block = malloc(sizes[s]);
            free(block);
        }
        expect_picks("the same block again and again", before);
    }
    static char *held[1000];
    uint64_t before = sampled_total();
    for (unsigned i = 0; i < N_EACH; i++) {
        free(held[i * 7919u % 1000]);
        held[i * 7919u % 1000] = i % 4 == 0   ? calloc(1, i % 1000)
                                 : i % 4 == 1 ? aligned_alloc(64, i % 2000)
                                 : i % 4 == 2 ? realloc(NULL, i % 700 + 1)
                                              : malloc(i % 30000);
    }
    expect_picks("a thousand blocks of many sizes", before);
    before = sampled_total();
    for (unsigned i = 0; i < 100; i++) {
        pthread_t thread;
        REQUIRE(pthread_create(&thread, NULL, churn, NULL) == 0 && pthread_join(thread, NULL) == 0);
    }
    expect_picks("threads that do not live for long", before);
    expect("all of them", all_picked, all_expected); /* within 7 %, where each alone is within 16 */
}

/* Of 60 million allocations and one pick of 1,000 million: four picks come by chance in one of 2 million runs. */
static void count_few(void)
{
    uint64_t before = sampled_total();
    for (unsigned i = 0; i < 60000000; i++) {
        block = malloc(48);
        free(block);
    }
    CHECK_THAT(sampled_total() - before < 4, "%d picks", (int)(sampled_total() - before));
}

/* ---- Cases ------------------------------------------------------------------------------------------------------- */

static const struct {
    const char *name, *interval;
    void (*run)(void);
    const char *said;     /* NULL: it ends with status 0 and says nothing */
    bool is_freed, lives; /* the latter: under HAKMEM_ON_ERROR=warn */
} cases[] = {
    {"store_behind", "1", store_behind, "behind the", false, false},
    {"store_before", "1", store_before, "before the block", false, false},
    {"store_far_behind", "1", store_far_behind, "hakmem: fault: ", false, false},
    {"store_behind_page_after_others", "1", store_behind_page_after_others,
     " behind the end of the block of 5000 bytes at ", false, false},
    {"read_after_free", "1", read_after_free, "which was freed", true, false},
    {"store_after_free", "1", store_after_free, "which was freed", true, false},
    {"free_twice", "1", free_twice, "hakmem: free: block freed twice: ", true, false},
    {"free_twice_after_others", "1", free_twice_after_others, "hakmem: free: block freed twice: ", true, false},
    {"free_twice_by_threads", "1", free_twice_by_threads, "hakmem: free: block freed twice: ", true, false},
    {"free_inside", "1", free_inside, "hakmem: free: pointer into the middle of a block: ", false, false},
    {"realloc_after_free", "1", realloc_after_free, "hakmem: realloc: block freed already: ", true, false},
    {"usable_size_after_free", "1", usable_size_after_free, "hakmem: malloc_usable_size: block freed already: ", true,
     false},
    {"go_on", "1", go_on, "hakmem: realloc: block freed already: ", true, true},
    {"use_rightly", "1", use_rightly, NULL, false, false},
    {"use_rightly", "5", use_rightly, NULL, false, false},
    {"count_picks", "1000", count_picks, NULL, false, false},
    {"count_few", "1000000000", count_few, NULL, false, false},
};

static void check_case(unsigned i)
{
    char text[TEXT_MAX_BYTES], number[12];
    int out[2], status;
    REQUIRE(pipe(out) == 0);
    snprintf(number, sizeof number, "%u", i);
    pid_t child = fork();
    REQUIRE(child >= 0);
    if (child == 0) {
        dup2(out[1], STDERR_FILENO);
        setenv("HAKMEM_GUARD_SAMPLE", cases[i].interval, 1);
        setenv("HAKMEM_ON_ERROR", cases[i].lives ? "warn" : "abort", 1);
        execl("/proc/self/exe", "preload_sampled", number, (char *)NULL);
        _exit(1);
    }
    close(out[1]);
    size_t len = 0;
    for (ssize_t n; len < sizeof text - 1 && (n = read(out[0], text + len, sizeof text - 1 - len)) > 0;)
        len += (size_t)n;
    text[len] = 0;
    close(out[0]);
    REQUIRE(waitpid(child, &status, 0) == child);
    if (cases[i].said == NULL) {
        CHECK_THAT(WIFEXITED(status) && WEXITSTATUS(status) == 0 && len == 0, "%s: status %#x: %.200s", cases[i].name,
                   (unsigned)status, text);
        return;
    }
    bool ended = cases[i].lives ? WIFEXITED(status) && WEXITSTATUS(status) == 0
                                : WIFSIGNALED(status) && (WTERMSIG(status) == SIGABRT || WTERMSIG(status) == SIGSEGV);
    CHECK_THAT(ended, "%s: status %#x: %.300s", cases[i].name, (unsigned)status, text);
    CHECK_THAT(strstr(text, cases[i].said) != NULL, "%s says %.200s", cases[i].name, text);
    const char *allocated = strstr(text, "  allocated by thread "), *freed = strstr(text, "  freed by thread ");
    CHECK_THAT(allocated != NULL && strstr(allocated, "preload_sampled+0x") != NULL, "%s: who allocated it? %.200s",
               cases[i].name, text);
    CHECK_THAT(!cases[i].is_freed || (freed != NULL && strstr(freed, "preload_sampled+0x") != NULL),
               "%s: who freed it? %.200s", cases[i].name, text);
    CHECK_THAT(cases[i].run != store_behind_page_after_others || freed == NULL, "%s: it lives: %.200s", cases[i].name,
               text);
}

int main(int argc, char **argv)
{
    check_on_hakmem();
    if (argc == 2) {
        cases[atoi(argv[1]) % (int)CHECK_COUNT(cases)].run();
        return check_status();
    }
    for (unsigned round = 0; round < 4; round++) /* beginning and end of a place, by chance */
        for (unsigned i = 0; i < CHECK_COUNT(cases); i++)
            if (round == 0 || cases[i].said != NULL)
                check_case(i);
    return check_status();
}
