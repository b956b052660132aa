/* cancel.c - no call of the library is a cancellation point (POSIX.1-2017, 2.9.5.2): a thread that has been cancelled meanwhile comes
 * back from all of them, having done what was asked, and ends at the next call that is one. Else it would leave the allocator in the
 * middle of things: its record marked as busy, a file open, a report cut short.
 * Each call is made by a fresh thread, whose first call of the library it is; without a budget, and with one.
 */
#include "check.h"

#include <malloc.h>
#include <pthread.h>

#define LARGE_BLOCKS 64

static char path[] = "/tmp/hakmem-cancel.XXXXXX", text[65536];
static int file, stderr_before;
static bool done;
static long result;

/* ---- What a cancelled thread calls: nothing but the library ---------------------------------------------------------- */

/* Of every class, so many that magazines are filled and emptied, and of spans and runs. */
static void allocate(void)
{
    void *block[2000];
    result = 0;
    for (size_t size_bytes = 1; size_bytes < 8 * CHECK_MIB; size_bytes = size_bytes * 5 / 4 + 1) {
        size_t n = size_bytes < 4096 ? CHECK_COUNT(block) : size_bytes < CHECK_MIB ? LARGE_BLOCKS : 2;
        for (size_t i = 0; i < n; i++)
            result += (block[i] = malloc(size_bytes)) == NULL;
        for (size_t i = 0; i < n; i++)
            free(block[i]);
    }
}

static void resize(void)
{
    char *block = NULL;
    void *aligned = aligned_alloc(65536, 65536), *second = NULL;
    result = posix_memalign(&second, 256, 10000);
    for (size_t size_bytes = 1; size_bytes < 8 * CHECK_MIB; size_bytes = size_bytes * 3 / 2 + 1) {
        char *longer = realloc(block, size_bytes);
        result += longer == NULL;
        block = longer;
    }
    free(block);
    block = calloc(1, 100000);
    result += block == NULL || aligned == NULL;
    free(block);
    free(aligned);
    free(second);
}

static void stats(void)
{
    malloc_stats();
    result = 0;
}

static size_t (*stats_json)(char *, size_t);
static void json(void)
{
    result = stats_json(text, sizeof text) < 100;
}

static int (*resident_get)(uint64_t *);
static void resident(void)
{
    uint64_t bytes[64] = {0};
    result = resident_get(bytes) != 0 || bytes[0] == 0;
}

static int (*profile_dump)(const char *);
static void dump(void)
{
    result = profile_dump(path);
}

static size_t (*trim_level)(int);
static void trim(void)
{
    malloc_trim(0);
    for (int level = 0; level < 3; level++)
        trim_level(level);
    result = mallinfo2().arena == 0;
}

static int (*budget_set)(size_t, size_t);
static void set_budget(void)
{
    int refused = budget_set(0, CHECK_MIB << 10);
    allocate();
    result += refused;
}

/* ---- Around it ------------------------------------------------------------------------------------------------------- */

static void *run(void *call)
{
    void (*function)(void) = (void (*)(void))(uintptr_t)call;
    pthread_cancel(pthread_self());
    function();
    done = true;
    pthread_testcancel();
    return NULL;
}

/* What the library writes to stderr meanwhile goes to the file. */
static void check_call(const char *name, void (*function)(void))
{
    pthread_t thread;
    void *end = NULL;
    done = false;
    REQUIRE(ftruncate(file, 0) == 0 && dup2(file, STDERR_FILENO) == STDERR_FILENO);
    int error = pthread_create(&thread, NULL, run, (void *)(uintptr_t)function);
    error = error != 0 ? error : pthread_join(thread, &end);
    dup2(stderr_before, STDERR_FILENO);
    REQUIRE(error == 0);
    CHECK_THAT(done, "%s: ends the thread", name);
    CHECK_THAT(!done || result == 0, "%s: fails with %ld", name, result);
    CHECK_THAT(end == PTHREAD_CANCELED, "%s: the thread has not been cancelled at all", name);
}

static void check_file_says(const char *name, const char *what)
{
    ssize_t n = pread(file, text, sizeof text - 1, 0);
    text[n < 0 ? 0 : n] = 0;
    CHECK_THAT(strstr(text, what) != NULL, "%s: \"%s\" is not in what was written: %.200s", name, what, text);
}

/* ---- In the program's own function ----------------------------------------------------------------------------------- */

static volatile bool is_told, is_cancelled;
static volatile unsigned n_told;

static void on_pressure(enum hak_pressure pressure, void *unused)
{
    (void)unused;
    n_told += pressure == HAK_PRESSURE_HARD;
    is_told = true;
    while (!is_cancelled)
        usleep(1000);
    usleep(1000); /* a cancellation point, as writing a line to a log is */
}

static void *want_too_much(void *unused)
{
    void *volatile block = malloc(CHECK_MIB << 10);
    CHECK(block == NULL);
    done = true;
    pthread_testcancel();
    return unused;
}

/* A thread that is cancelled while it tells the program of pressure ends behind malloc, so that others are told afterwards. */
static void check_pressure(void)
{
    pthread_t thread;
    void *end = NULL, *function = check_symbol("hak_budget_on_pressure");
    void (*tell)(hak_pressure_function, void *);
    memcpy(&tell, &function, sizeof tell);
    REQUIRE(budget_set(0, 256 * CHECK_MIB) == 0);
    tell(on_pressure, NULL);
    done = false;
    REQUIRE(pthread_create(&thread, NULL, want_too_much, NULL) == 0);
    while (!is_told)
        usleep(100);
    REQUIRE(pthread_cancel(thread) == 0);
    is_cancelled = true;
    REQUIRE(pthread_join(thread, &end) == 0);
    CHECK_THAT(done && end == PTHREAD_CANCELED, "a thread that tells the program of pressure ends there");
    unsigned before = n_told;
    void *volatile block = malloc(CHECK_MIB << 10);
    CHECK_THAT(block == NULL && n_told == before + 1, "afterwards the program was told %u times", n_told - before);
    tell(NULL, NULL);
    REQUIRE(budget_set(0, 0) == 0);
}

static bool stop;

/* A thread with a cache, which others may empty. */
static void *sleeper(void *unused)
{
    free(malloc(1000));
    while (!__atomic_load_n(&stop, __ATOMIC_RELAXED))
        usleep(10000);
    return unused;
}

int main(int argc, char **argv)
{
    pthread_t asleep;
    check_on_hakmem();
    stats_json = (size_t(*)(char *, size_t))(uintptr_t)check_symbol("hak_stats_json");
    resident_get = (int (*)(uint64_t *))(uintptr_t)check_symbol("hak_resident_get");
    profile_dump = (int (*)(const char *))(uintptr_t)check_symbol("hak_profile_dump");
    trim_level = (size_t(*)(int))(uintptr_t)check_symbol("hak_trim");
    budget_set = (int (*)(size_t, size_t))(uintptr_t)check_symbol("hak_budget_set");
    file = mkstemp(path);
    stderr_before = dup(STDERR_FILENO);
    REQUIRE(file >= 0 && stderr_before >= 0 && pthread_create(&asleep, NULL, sleeper, NULL) == 0);

    check_call("malloc and free", allocate);
    check_call("realloc and others", resize);
    check_call("malloc_stats", stats);
    check_file_says("malloc_stats", "dirty KiB");
    check_call("hak_stats_json", json);
    check_call("hak_resident_get", resident);
    check_call("hak_profile_dump", dump);
    check_file_says("hak_profile_dump", "MAPPED_LIBRARIES");
    check_call("trims", trim);
    check_call("hak_budget_set", set_budget);
    check_pressure();

    __atomic_store_n(&stop, true, __ATOMIC_RELAXED);
    pthread_join(asleep, NULL);
    unlink(path);
    if (argc == 1 && check_status() == 0) {
        setenv("HAKMEM_BUDGET", "50%", 1);
        execl("/proc/self/exe", argv[0], "with a budget", (char *)NULL);
        REQUIRE(0);
    }
    return check_status();
}
