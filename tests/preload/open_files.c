/* open_files.c - what hakmem opens it closes: as many files are open as before, whichever call reads the system's files or writes one, also
 * where that fails. So at the beginning of main, too, and in every mode.
 * Owns     a directory, that is removed.
 */
#include "check.h"

#include <malloc.h>
#include <pthread.h>
#include <sys/resource.h>

static char directory[] = "/tmp/hakmem-open-files.XXXXXX", path[64];
static FILE *nowhere;

static int (*resident_get)(struct hak_resident *);
static size_t (*stats_json)(char *, size_t);
static size_t (*trim)(int);
static int (*profile_start)(size_t);
static void (*profile_stop)(void);
static int (*profile_dump)(const char *);

static int count_open_files(void)
{
    int n = 0;
    for (int file = 0; file < 1024; file++)
        n += fcntl(file, F_GETFD) != -1;
    return n;
}

/* ---- Calls ------------------------------------------------------------------------------------------------------- */

static void ask_what_is_in_memory(void)
{
    struct hak_resident now;
    CHECK(resident_get(&now) == 0);
}

static void print_statistics(void)
{
    static char text[1 << 20];
    CHECK(stats_json(text, sizeof text) < sizeof text);
    CHECK(malloc_info(0, nowhere) == 0);
}

static void dump(void)
{
    CHECK(profile_dump("/dev/null") == 0);
}

static void dump_nowhere(void)
{
    CHECK(profile_dump("/nowhere/at/all") == -1 && errno == ENOENT);
    CHECK(profile_dump("/dev/full") == -1 && errno == ENOSPC);
}

/* The signal that comes of it is looked for in a file. */
static void dump_beyond_the_limit(void)
{
    struct rlimit before, small;
    REQUIRE(getrlimit(RLIMIT_FSIZE, &before) == 0);
    small = (struct rlimit){100, before.rlim_max};
    REQUIRE(setrlimit(RLIMIT_FSIZE, &small) == 0);
    CHECK_THAT(profile_dump(path) == -1 && errno == EFBIG, "a dump beyond the limit: errno %d", errno);
    REQUIRE(setrlimit(RLIMIT_FSIZE, &before) == 0);
    unlink(path);
}

static void be_refused(void)
{
    CHECK(malloc((size_t)1 << 62) == NULL && errno == ENOMEM);
    free(malloc((size_t)1 << 38)); /* more than any budget here has room for */
}

/* Whether the other thread sleeps is read in a file. */
static void trim_beside_a_thread_that_sleeps(void)
{
    trim(HAK_TRIM_PAGES);
}

static const struct {
    const char *name;
    void (*call)(void);
} calls[] = {{"what is in memory", ask_what_is_in_memory},
             {"statistics", print_statistics},
             {"a dump", dump},
             {"a dump that has no place", dump_nowhere},
             {"a dump beyond the limit on the size of files", dump_beyond_the_limit},
             {"a request that is refused", be_refused},
             {"a trim", trim_beside_a_thread_that_sleeps}};

/* ---- One mode ---------------------------------------------------------------------------------------------------- */

static int ends[2];

static void *cache_and_sleep(void *unused)
{
    enum { N = 1000 };
    static char *blocks[N];
    char byte;
    for (unsigned i = 0; i < N; i++)
        blocks[i] = malloc(500);
    for (unsigned i = 0; i < N; i++)
        free(blocks[i]);
    while (read(ends[0], &byte, 1) < 0 && errno == EINTR)
        ;
    return unused;
}

static int use_all(int n_open)
{
    pthread_t thread;
    CHECK_THAT(count_open_files() == n_open, "%d files are left open before main", count_open_files() - n_open);
    nowhere = fopen("/dev/null", "w");
    REQUIRE(mkdtemp(directory) != NULL && nowhere != NULL && pipe(ends) == 0);
    snprintf(path, sizeof path, "%s/dump", directory);
    REQUIRE(pthread_create(&thread, NULL, cache_and_sleep, NULL) == 0);
    profile_start(1);
    n_open = count_open_files();
    for (size_t i = 0; i < CHECK_COUNT(calls); i++)
        for (unsigned round = 0; round < 3; round++) {
            calls[i].call();
            CHECK_THAT(count_open_files() == n_open, "%s: %d files are left open", calls[i].name,
                       count_open_files() - n_open);
            n_open = count_open_files();
        }
    profile_stop();
    close(ends[1]);
    REQUIRE(pthread_join(thread, NULL) == 0);
    rmdir(directory);
    return check_status();
}

/* ---- Cases ------------------------------------------------------------------------------------------------------- */

static const char *const settings[] = {"HAKMEM_STATS=0",       "HAKMEM_SECURE=1",    "HAKMEM_GUARD_SAMPLE=3",
                                       "HAKMEM_BUDGET=1%",     "HAKMEM_BUDGET=auto", "HAKMEM_PROFILE=/dev/null",
                                       "HAKMEM_BACKGROUND=off"};

static void find(void *function, const char *name)
{
    void *symbol = check_symbol(name);
    memcpy(function, &symbol, sizeof symbol);
}

int main(int argc, char **argv)
{
    char number[12];
    check_on_hakmem();
    find(&resident_get, "hak_resident_get");
    find(&stats_json, "hak_stats_json");
    find(&trim, "hak_trim");
    find(&profile_start, "hak_profile_start");
    find(&profile_stop, "hak_profile_stop");
    find(&profile_dump, "hak_profile_dump");
    if (argc == 2)
        return use_all((int)strtol(argv[1], NULL, 10));
    snprintf(number, sizeof number, "%d", count_open_files());
    for (size_t i = 0; i < CHECK_COUNT(settings); i++) {
        pid_t pid = fork();
        if (pid == 0) {
            alarm(60);
            putenv((char *)(uintptr_t)settings[i]);
            execl("/proc/self/exe", argv[0], number, (char *)NULL);
            _exit(127);
        }
        REQUIRE(pid > 0);
        check_wait(pid, settings[i]);
    }
    return check_status();
}
