/* test_profiles.c - the routing table by profile, what each route does when its magazine or the system fails, and what is
 * said of values that are not understood.
 * The environment is read once, when the library starts, so each case is a process of its own: the program runs itself
 * again with the variables set and the case's name as argument. Its stderr comes back through a pipe.
 * Threads  one.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "front/route.h"
#include "front/thread.h"
#include "hakmem/hakmem.h"
#include "meta/sizeclass.h"
#include "os/os.h"
#include "pool/shared_pool.h"
#include "service/config.h"
#include "look.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define ONLY HAK_ROUTE_TINY_ONLY
#define FIRST HAK_ROUTE_TINY_FIRST
#define POOL HAK_ROUTE_POOL_ONLY

static const struct profile_row {
    const char *name;
    int route[N_RANGES]; /* C0 .. C7 */
} profile_rows[] = {
    {"conservative", {FIRST, FIRST, FIRST, FIRST, FIRST, FIRST, FIRST, FIRST}},
    {"hot", {ONLY, ONLY, ONLY, ONLY, FIRST, FIRST, FIRST, POOL}},
    {"off", {POOL, POOL, POOL, POOL, POOL, POOL, POOL, POOL}},
    {"full", {ONLY, ONLY, ONLY, ONLY, ONLY, ONLY, ONLY, ONLY}},
};
#define N_PROFILE_ROWS (sizeof profile_rows / sizeof profile_rows[0])
_Static_assert(N_PROFILE_ROWS == N_PROFILES, "a row for each profile");

static const size_t range_ends[N_RANGES] = {8, 16, 32, 64, 128, 256, 512, 1024};

/* ---- Inside the child ---------------------------------------------------------------------------------------------------- */

/* A check in the child: its line on stderr, and status 1. */
#define CHECK(condition)                                                                                               \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            fprintf(stderr, "child: line %d: not true: %s\n", __LINE__, #condition);                                   \
            _exit(1);                                                                                                  \
        }                                                                                                              \
    } while (0)

static const struct profile_row *row_in_force(void)
{
    for (size_t i = 0; i < N_PROFILE_ROWS; i++)
        if (strcmp(profile_rows[i].name, hak_profile_name()) == 0)
            return &profile_rows[i];
    return NULL;
}

/* The table is the named profile's, and constant. argument: the profile's name. */
static void child_routes(const char *argument)
{
    CHECK(strcmp(hak_profile_name(), argument) == 0);
    const struct profile_row *row = row_in_force();
    CHECK(row != NULL);
    for (int range = 0; range < N_RANGES; range++)
        CHECK(hak_route_get(range) == row->route[range]);
    static const int outside[] = {-1, -2, 8, 9, 64, INT_MAX, INT_MIN};
    for (size_t i = 0; i < sizeof outside / sizeof outside[0]; i++)
        CHECK(hak_route_get(outside[i]) == -1);
    CHECK(hak_profile_name() == hak_profile_name());
}

/* Blocks in the magazines of all threads, without those of open words. */
static size_t count_magazine_blocks(void)
{
    size_t n = 0;
    for (struct thread *thread = thread_first(); thread != NULL; thread = thread->next)
        for (unsigned c = CLASS_FIRST; c < CLASS_END; c++)
            n += magazine_count(&thread->cache.magazine[c]);
    return n;
}

/* A class without a magazine claims from one word of its slab, in ascending order; a block freed is the next one claimed
 * if it is the lowest, and the thread's trim closes the word. */
static void child_claims_from_a_word(const char *argument)
{
    (void)argument;
    for (int range = 0; range < N_RANGES; range++) {
        if (hak_route_get(range) != POOL)
            continue;
        size_t block_bytes = range_ends[range];
        hak_trim(HAK_TRIM_PAGES);
        char *first = hak_malloc(block_bytes), *second = hak_malloc(block_bytes), *third = hak_malloc(block_bytes);
        CHECK(second == first + block_bytes && third == second + block_bytes);
        hak_free(third);
        hak_free(first);
        CHECK(hak_malloc(block_bytes) == first);
        CHECK(hak_malloc(block_bytes) == third);
        CHECK(read_stats().cached_blocks != 0);
        hak_trim(HAK_TRIM_CACHE); /* The blocks that are out now belong to no open word. */
        CHECK(read_stats().cached_blocks == 0);
        CHECK(read_stats().live_blocks == 3);
        hak_free(second);
        CHECK(read_stats().live_blocks == 2);
        CHECK(read_stats().cached_blocks == 0);
        hak_free(first);
        hak_free(third);
        CHECK(read_stats().live_blocks == 0);
        CHECK(pool_check() == NULL);
    }
}

/* The last word of a slab has fewer than 64 blocks: what lies behind it in the next slab is none of the word's. */
static void child_returns_behind_the_last_word(const char *argument)
{
    enum { MOST = SLAB_BYTES / 8 };
    static char *claimed[MOST];
    unsigned n_looked_at = 0;
    for (unsigned class_id = CLASS_FIRST; class_id < CLASS_FIRST + N_TINY_CLASSES; class_id++) {
        const struct class_info *class = &class_table[class_id];
        unsigned n_before = class->n_blocks / 64 * 64, n = 0;
        if (tiny_route_of(class->range) != POOL || n_before == class->n_blocks)
            continue;
        hak_trim(HAK_TRIM_PAGES);
        struct slab *first = shared_pool_acquire_slab(class_id), *last = shared_pool_acquire_slab(class_id);
        struct slab *behind = first < last ? last : first, *before = first < last ? first : last;
        CHECK(behind == before + 1);
        void *block, *listed;
        CHECK(slab_claim(behind, 1, UINT16_MAX, &block) == 1 && slab_claim(before, 1, UINT16_MAX, &listed) == 1);
        shared_pool_disown_slab(before); /* the thread claims from it next */
        while (n < class->n_blocks - 1u && (n == 0 || thread_first()->open_word[class_id].word != n_before / 64))
            claimed[n++] = hak_malloc(class->bytes);
        CHECK(thread_first()->open_word[class_id].slab == before);
        hak_free(block); /* by a thread that has the last word before it open */
        CHECK(CTL_USED(slab_ctl_read(behind)) == 0);
        shared_pool_disown_slab(behind);
        hak_free(listed);
        while (n > 0)
            hak_free(claimed[--n]);
        CHECK(read_stats().live_blocks == 0);
        CHECK(pool_check() == NULL);
        n_looked_at++;
    }
    CHECK(n_looked_at != 0 || strcmp(argument, "off") != 0);
}

/* Blocks of all sizes are whole under the profile, and its magazines hold blocks exactly where a route has magazines. */
static void child_allocates(const char *argument)
{
    enum { N = 3000 };
    static unsigned char *blocks[N];
    (void)argument;
    for (unsigned round = 0; round < 3; round++) {
        for (unsigned i = 0; i < N; i++) {
            size_t size_bytes = i * 37 % 2000 + 1;
            blocks[i] = i % 5 == 0 ? hak_calloc(1, size_bytes) : hak_malloc(size_bytes);
            CHECK(blocks[i] != NULL && hak_usable_size(blocks[i]) >= size_bytes);
            CHECK(i % 5 != 0 || (blocks[i][0] == 0 && memcmp(blocks[i], blocks[i] + 1, size_bytes - 1) == 0));
            memset(blocks[i], (int)(i & 0xff), size_bytes);
        }
        for (unsigned i = 0; i < N; i++) {
            size_t size_bytes = i * 37 % 2000 + 1;
            if (i % 3 == 0)
                CHECK((blocks[i] = hak_realloc(blocks[i], size_bytes + 100)) != NULL);
            for (size_t k = 0; k < size_bytes; k++)
                CHECK(blocks[i][k] == (i & 0xff));
            hak_free(blocks[i]);
        }
        CHECK(read_stats().live_blocks == 0);
        CHECK(pool_check() == NULL);
    }
    for (int range = 0; range < N_RANGES; range++) {
        hak_trim(HAK_TRIM_CACHE);
        CHECK(read_stats().cached_blocks == 0);
        hak_free(hak_malloc(range_ends[range]));
        CHECK((count_magazine_blocks() != 0) == (hak_route_get(range) != POOL));
        CHECK(read_stats().live_blocks == 0);
    }
}

/* The system gives nothing more. Before: the thread has its record, and a SuperSlab in the pool has room for a slab of every
 * class. */
static void use_up_memory(void)
{
    CHECK(hak_malloc(40000) != NULL); /* a span: maps a SuperSlab, opens no magazine */
    CHECK(read_stats().threads == 1);
    os_fail_from(1, ULONG_MAX, OS_CALL_COMMIT | OS_CALL_RESERVE);
}

/* Magazines grow within the thread's record: every route serves, and keeps what is freed. */
static void child_grows_magazines_without_memory(const char *argument)
{
    enum { N = 40 };
    void *blocks[N_RANGES][N];
    (void)argument;
    use_up_memory();
    for (int range = 0; range < N_RANGES; range++) {
        errno = 0;
        for (unsigned i = 0; i < N; i++) {
            blocks[range][i] = hak_malloc(range_ends[range]);
            CHECK(blocks[range][i] != NULL);
            CHECK(hak_usable_size(blocks[range][i]) >= range_ends[range]);
            memset(blocks[range][i], 0x5a, range_ends[range]);
        }
        CHECK(errno == 0);
    }
    void *medium = hak_malloc(2000);
    CHECK(medium != NULL);
    for (int range = 0; range < N_RANGES; range++)
        for (unsigned i = 0; i < N; i++)
            hak_free(blocks[range][i]);
    hak_free(medium);
    CHECK(read_stats().live_blocks == 1);
    unsigned n_with_magazine = 0;
    for (int range = 0; range < N_RANGES; range++)
        n_with_magazine += hak_route_get(range) != POOL;
    CHECK(count_magazine_blocks() >= n_with_magazine * N / 2);

    os_fail_from(0, 0, 0); /* Now the system has memory again, and every route serves. */
    for (int range = 0; range < N_RANGES; range++) {
        void *block = hak_malloc(range_ends[range]);
        CHECK(block != NULL);
        hak_free(block);
        CHECK(hak_route_get(range) == POOL || read_stats().cached_blocks != 0);
    }
    CHECK(read_stats().live_blocks == 1);
    CHECK(pool_check() == NULL);
}

/* The system has nothing at all from the first call on: every route says so, and every route recovers. */
static void child_without_memory(const char *argument)
{
    (void)argument;
    os_fail_from(1, ULONG_MAX, OS_CALL_COMMIT | OS_CALL_RESERVE);
    for (int range = 0; range < N_RANGES; range++) {
        errno = 0;
        CHECK(hak_malloc(range_ends[range]) == NULL);
        CHECK(errno == ENOMEM);
    }
    static const size_t cleared[] = {1, 100, 1025, 5000, 20000, 32768, 40000, 3000000};
    for (size_t i = 0; i < sizeof cleared / sizeof cleared[0]; i++) {
        errno = 0;
        CHECK(hak_calloc(1, cleared[i]) == NULL);
        CHECK(errno == ENOMEM);
    }
    os_fail_from(0, 0, 0);
    for (int range = 0; range < N_RANGES; range++) {
        errno = 0;
        void *block = hak_malloc(range_ends[range]);
        CHECK(block != NULL);
        CHECK(errno == 0);
        hak_free(block);
    }
    CHECK(read_stats().live_blocks == 0);
    CHECK(pool_check() == NULL);
}

/* A value that was not understood left the defaults in force. */
static void child_has_defaults(const char *argument)
{
    child_routes(argument);
    CHECK(config.on_error == ON_ERROR_ABORT);
    CHECK(config.stats == STATS_OFF);
    CHECK(config.lru_superslabs == 4);
    CHECK(config.empty_slabs == 64);
    CHECK(config.arena_bytes == 0);
    child_allocates(NULL);
}

/* Values that are understood are in force. */
static void child_has_values(const char *argument)
{
    (void)argument;
    CHECK(config.profile == PROFILE_OFF);
    CHECK(config.on_error == ON_ERROR_WARN);
    CHECK(config.lru_superslabs == 65536);
    CHECK(config.empty_slabs == 0);
    CHECK(config.arena_bytes == 6 * MIB);
    child_allocates(NULL);
}

/* The numbers that the variables are read into, and what they are without any. argument: which of them are others, as NAME=NUMBER,... */
static void child_reads(const char *argument)
{
    hak_free(hak_malloc(1));
    const struct {
        const char *name;
        long long standard, now;
    } numbers[] = {
        {"profile", PROFILE_CONSERVATIVE, config.profile},
        {"on_error", ON_ERROR_ABORT, config.on_error},
        {"stats", STATS_OFF, config.stats},
        {"lru", 4, (long long)config.lru_superslabs},
        {"empty", 64, (long long)config.empty_slabs},
        {"delay", 250, config.purge_delay_ms},
        {"background", 1, config.background},
        {"gaps", 1, config.gaps},
        {"thp", HUGE_PAGES_AUTO, config.huge_pages},
        {"packed", 12 << 20, (long long)config.packed_heap_bytes},
        {"soft", 0, (long long)config.budget_soft_bytes},
        {"hard", 0, (long long)config.budget_hard_bytes},
        {"percent", 0, config.budget_percent},
        {"auto", 0, config.budget_auto},
        {"secure", 0, config.secure},
        {"sample", 0, config.guard_sample},
        {"report", 0, config.profile_report},
        {"paths", 0, (long long)(strlen(config.stats_path) + strlen(config.profile_path))},
        {"interval", 0, (long long)config.profile_interval_bytes},
        {"arena", 0, (long long)config.arena_bytes},
    };
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
        long long expected = numbers[i].standard;
        size_t len = strlen(numbers[i].name);
        for (const char *at = argument; at != NULL; at = strchr(at, ','), at += at != NULL)
            if (strncmp(at, numbers[i].name, len) == 0 && at[len] == '=')
                expected = strtoll(at + len + 1, NULL, 10);
        if (numbers[i].now != expected)
            fprintf(stderr, "child: %s is %lld instead of %lld\n", numbers[i].name, numbers[i].now, expected);
        CHECK(numbers[i].now == expected);
    }
    _exit(0); /* without what is written at exit */
}

/* Both lines of HAKMEM_BUDGET are in force; but what the program says stands, and be it its first call. argument: who says it. */
static void child_has_a_budget(const char *argument)
{
    bool by_program = strcmp(argument, "program") == 0;
    size_t soft_bytes, hard_bytes;
    CHECK(!by_program || hak_budget_set(2 * MIB, 4 * MIB) == 0);
    hak_free(hak_malloc(1));
    hak_budget_get(&soft_bytes, &hard_bytes);
    CHECK(soft_bytes == (by_program ? 2 : 8) * MIB);
    CHECK(hard_bytes == (by_program ? 4 : 32) * MIB);
}

static const struct {
    const char *name;
    void (*run)(const char *argument);
} children[] = {
    {"routes", child_routes},
    {"allocates", child_allocates},
    {"claims_from_a_word", child_claims_from_a_word},
    {"returns_behind_the_last_word", child_returns_behind_the_last_word},
    {"grows_magazines_without_memory", child_grows_magazines_without_memory},
    {"without_memory", child_without_memory},
    {"has_defaults", child_has_defaults},
    {"has_values", child_has_values},
    {"reads", child_reads},
    {"has_a_budget", child_has_a_budget},
};

static int child_main(const char *name, const char *argument)
{
    for (size_t i = 0; i < sizeof children / sizeof children[0]; i++)
        if (strcmp(children[i].name, name) == 0) {
            children[i].run(argument);
            return 0;
        }
    return 2;
}

/* ---- Outside ------------------------------------------------------------------------------------------------------------ */

static char child_stderr[16384];

/* Runs a child with "NAME=value" settings and no other HAKMEM_ variable; fails the test unless its status is 0. */
static void run_child(const char *name, const char *argument, const char *const settings[], size_t n_settings)
{
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        for (size_t i = 0; config_help_row(i) != NULL; i++)
            unsetenv(config_help_row(i)->name);
        for (size_t i = 0; i < n_settings; i++)
            putenv((char *)(uintptr_t)settings[i]);
        dup2(ends[1], STDERR_FILENO);
        close(ends[0]);
        close(ends[1]);
        execl("/proc/self/exe", "test_profiles", name, argument, (char *)NULL);
        _exit(127);
    }
    close(ends[1]);
    size_t len = 0;
    for (ssize_t n; (n = read(ends[0], child_stderr + len, sizeof child_stderr - 1 - len)) > 0;)
        len += (size_t)n;
    child_stderr[len] = 0;
    close(ends[0]);
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    if (status != 0)
        fail_msg("%s %s (%s): status 0x%x\n%s", name, argument, n_settings != 0 ? settings[0] : "no settings",
                 (unsigned)status, child_stderr);
}

static void run_in_each_profile(const char *name)
{
    for (size_t i = 0; i < N_PROFILE_ROWS; i++) {
        char setting[64];
        snprintf(setting, sizeof setting, "HAKMEM_TINY_PROFILE=%s", profile_rows[i].name);
        run_child(name, profile_rows[i].name, (const char *const[]){setting}, 1);
        assert_string_equal(child_stderr, "");
    }
}

static void tables_are_the_designs(void **state)
{
    (void)state;
    run_in_each_profile("routes");
    run_child("routes", "conservative", NULL, 0); /* the default */
    assert_string_equal(child_stderr, "");
}

static void classes_without_magazines_use_open_words(void **state)
{
    (void)state;
    run_in_each_profile("claims_from_a_word");
}

static void the_last_word_ends_with_its_slab(void **state)
{
    (void)state;
    run_in_each_profile("returns_behind_the_last_word");
}

static void every_profile_allocates(void **state)
{
    (void)state;
    run_in_each_profile("allocates");
}

static void every_route_serves_without_memory_for_arrays(void **state)
{
    (void)state;
    run_in_each_profile("grows_magazines_without_memory");
}

static void no_memory_is_said_and_survived(void **state)
{
    (void)state;
    run_in_each_profile("without_memory");
}

/* Each bad value is reported in one line that names the variable and the value, and the default is used. */
static void bad_values_are_reported_once(void **state)
{
    (void)state;
    static const char *const bad[] = {"HAKMEM_TINY_PROFILE=turbo",
                                      "HAKMEM_TINY_PROFILE=",
                                      "HAKMEM_TINY_PROFILE=HOT",
                                      "HAKMEM_TINY_PROFILE=hot ",
                                      "HAKMEM_ON_ERROR=foo",
                                      "HAKMEM_ON_ERROR=",
                                      "HAKMEM_STATS=foo",
                                      "HAKMEM_STATS=2",
                                      "HAKMEM_STATS=stats.json",
                                      "HAKMEM_LRU_SUPERSLABS=x",
                                      "HAKMEM_LRU_SUPERSLABS=65537",
                                      "HAKMEM_LRU_SUPERSLABS=-1",
                                      "HAKMEM_LRU_SUPERSLABS=4K",
                                      "HAKMEM_LRU_SUPERSLABS=99999999999999999999999",
                                      "HAKMEM_EMPTY_SLABS=1048577",
                                      "HAKMEM_EMPTY_SLABS= 1",
                                      "HAKMEM_ARENA_BYTES=1K",
                                      "HAKMEM_ARENA_BYTES=1",
                                      "HAKMEM_ARENA_BYTES=2097151",
                                      "HAKMEM_ARENA_BYTES=65T",
                                      "HAKMEM_ARENA_BYTES=2MB",
                                      "HAKMEM_ARENA_BYTES=M",
                                      "HAKMEM_DEBUG=yes",
                                      "HAKMEM_ARENA_BYTES=18446744073709551616",
                                      "HAKMEM_ARENA_BYTES=17179869185G"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        run_child("has_defaults", "conservative", &bad[i], 1);
        char expected[128];
        snprintf(expected, sizeof expected, "hakmem: %s is not understood", bad[i]);
        if (strncmp(child_stderr, expected, strlen(expected)) != 0)
            fail_msg("%s: stderr says: %s", bad[i], child_stderr);
        const char *newline = strchr(child_stderr, '\n');
        if (newline == NULL || newline[1] != 0)
            fail_msg("%s: not one line: %s", bad[i], child_stderr);
    }
}

/* One line for each of several. */
static void all_bad_values_are_reported(void **state)
{
    (void)state;
    static const char *const bad[] = {"HAKMEM_TINY_PROFILE=turbo", "HAKMEM_ON_ERROR=foo", "HAKMEM_STATS=foo",
                                      "HAKMEM_LRU_SUPERSLABS=x", "HAKMEM_ARENA_BYTES=1K"};
    size_t n_bad = sizeof bad / sizeof bad[0], n_lines = 0;
    run_child("has_defaults", "conservative", bad, n_bad);
    for (const char *at = child_stderr; (at = strchr(at, '\n')) != NULL; at++)
        n_lines++;
    assert_int_equal(n_lines, n_bad);
    for (size_t i = 0; i < n_bad; i++)
        assert_non_null(strstr(child_stderr, bad[i]));
}

/* A value longer than a line is cut, and the line still ends. */
static void long_values_are_cut(void **state)
{
    (void)state;
    static char setting[3000] = "HAKMEM_TINY_PROFILE=";
    memset(setting + strlen(setting), 'x', sizeof setting - 1 - strlen(setting));
    run_child("has_defaults", "conservative", (const char *const[]){setting}, 1);
    size_t len = strlen(child_stderr);
    assert_true(len > 0 && len < 1000);
    assert_ptr_equal(strchr(child_stderr, '\n'), child_stderr + len - 1);
}

static void good_values_are_in_force(void **state)
{
    (void)state;
    static const char *const good[] = {
        "HAKMEM_TINY_PROFILE=off", "HAKMEM_ON_ERROR=warn",  "HAKMEM_STATS=0", "HAKMEM_LRU_SUPERSLABS=65536",
        "HAKMEM_EMPTY_SLABS=0",    "HAKMEM_ARENA_BYTES=7M", "HAKMEM_DEBUG=0"};
    run_child("has_values", "", good, sizeof good / sizeof good[0]); /* an arena is whole SuperSlabs */
    assert_string_equal(child_stderr, "");
}

/* Each value is in force as it is meant, and nothing else is changed by it. */
static void values_mean_what_they_say(void **state)
{
    (void)state;
    static const char *const rows[][2] = {
        {"HAKMEM_TINY_PROFILE=hot", "profile=1"},
        {"HAKMEM_TINY_PROFILE=off", "profile=2"},
        {"HAKMEM_TINY_PROFILE=full", "profile=3"},
        {"HAKMEM_ON_ERROR=warn", "on_error=1"},
        {"HAKMEM_ON_ERROR=abort", ""},
        {"HAKMEM_STATS=1", "stats=1"},
        {"HAKMEM_STATS=json", "stats=2"},
        {"HAKMEM_STATS=/dev/null", "stats=3,paths=9"},
        {"HAKMEM_LRU_SUPERSLABS=0", "lru=0"},
        {"HAKMEM_EMPTY_SLABS=1048576", "empty=1048576"},
        {"HAKMEM_PURGE_DELAY_MS=-1", "delay=-1"},
        {"HAKMEM_PURGE_DELAY_MS=0", "delay=0"},
        {"HAKMEM_PURGE_DELAY_MS=86400000", "delay=86400000"},
        {"HAKMEM_BACKGROUND=off", "background=0"},
        {"HAKMEM_BACKGROUND=auto", ""},
        {"HAKMEM_GAPS=off", "gaps=0"},
        {"HAKMEM_GAPS=on", ""},
        {"HAKMEM_THP=never", "thp=0"},
        {"HAKMEM_THP=always", "thp=2"},
        {"HAKMEM_BUDGET=0", ""},
        {"HAKMEM_BUDGET=1048576", "hard=1048576"},
        {"HAKMEM_BUDGET=2048K", "hard=2097152"},
        {"HAKMEM_BUDGET=64M", "hard=67108864"},
        {"HAKMEM_BUDGET=3G", "hard=3221225472"},
        {"HAKMEM_BUDGET=2T", "hard=2199023255552"},
        {"HAKMEM_BUDGET=8M:16M", "soft=8388608,hard=16777216"},
        {"HAKMEM_BUDGET=16M:16M", "soft=16777216,hard=16777216"},
        {"HAKMEM_BUDGET=1%", "percent=1"},
        {"HAKMEM_BUDGET=50%", "percent=50"},
        {"HAKMEM_BUDGET=100%", "percent=100"},
        {"HAKMEM_BUDGET=auto", "auto=1"},
        {"HAKMEM_SECURE=1", "secure=63"},
        {"HAKMEM_SECURE=max", "secure=127"},
        {"HAKMEM_SECURE=canary", "secure=1"},
        {"HAKMEM_SECURE=zero", "secure=2"},
        {"HAKMEM_SECURE=quarantine", "secure=4"},
        {"HAKMEM_SECURE=random", "secure=8"},
        {"HAKMEM_SECURE=guard", "secure=16"},
        {"HAKMEM_SECURE=type", "secure=32"},
        {"HAKMEM_SECURE=type,canary,type", "secure=33"},
        {"HAKMEM_GUARD_SAMPLE=auto", "sample=50000"},
        {"HAKMEM_GUARD_SAMPLE=7", "sample=7"},
        {"HAKMEM_GUARD_SAMPLE=1000000000", "sample=1000000000"},
        {"HAKMEM_PROFILE=0", ""},
        {"HAKMEM_PROFILE=report", "report=1,paths=6"},
        {"HAKMEM_PROFILE=/dev/null", "paths=9"},
        {"HAKMEM_PROFILE_INTERVAL=1", "interval=1"},
        {"HAKMEM_PROFILE_INTERVAL=512K", "interval=524288"},
        {"HAKMEM_PROFILE_INTERVAL=1T", "interval=1099511627776"},
        {"HAKMEM_ARENA_BYTES=2M", "arena=2097152"},
        {"HAKMEM_ARENA_BYTES=5G", "arena=5368709120"},
    };
    run_child("reads", "", NULL, 0);
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        run_child("reads", rows[i][1], &rows[i][0], 1);
        assert_string_equal(child_stderr, "");
    }
}

static void budgets_of_the_variable_and_of_the_program(void **state)
{
    (void)state;
    static const char *const setting[] = {"HAKMEM_BUDGET=8M:32M"};
    run_child("has_a_budget", "variable", setting, 1);
    run_child("has_a_budget", "program", setting, 1);
}

int main(int argc, char **argv)
{
    if (argc == 3)
        return child_main(argv[1], argv[2]);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tables_are_the_designs),
        cmocka_unit_test(every_profile_allocates),
        cmocka_unit_test(classes_without_magazines_use_open_words),
        cmocka_unit_test(the_last_word_ends_with_its_slab),
        cmocka_unit_test(every_route_serves_without_memory_for_arrays),
        cmocka_unit_test(no_memory_is_said_and_survived),
        cmocka_unit_test(bad_values_are_reported_once),
        cmocka_unit_test(all_bad_values_are_reported),
        cmocka_unit_test(long_values_are_cut),
        cmocka_unit_test(good_values_are_in_force),
        cmocka_unit_test(values_mean_what_they_say),
        cmocka_unit_test(budgets_of_the_variable_and_of_the_program),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
