/* profile.c - the heap profile as users meet it: HAKMEM_PROFILE at the start, hak_profile_* at run time; the file's sums, its
 * name, children of fork, threads that only hit, and what is said when it cannot be.
 * Owns     a directory, that is removed. With an interval of 1 byte every block is a sample, so sums are exact.
 */
#include "check.h"

#include <dirent.h>
#include <pthread.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <time.h>

#define N_LEAKED 1000
#define LEAKED_BYTES 100

static char directory[] = "/tmp/hakmem-profile.XXXXXX";

static int (*profile_start)(size_t);
static void (*profile_stop)(void);
static int (*profile_dump)(const char *);

/* The sums of a dump's line: what is live, and all. */
struct sums {
    unsigned long long live_blocks, live_bytes, blocks, bytes;
};

/* Reads a dump: the sums of its first line, and those of the lines whose stack has an address of the function. True: it is whole,
 * and the lines' sums are those of the first one; or more, where threads went on meanwhile. */
static bool read_dump(bool may_grow, const char *name, struct sums *all, const void *function, struct sums *own)
{
    static char line[1 << 16];
    struct sums sum = {0}, one;
    bool has_maps = false;
    FILE *file = fopen(name, "r");
    *own = *all = (struct sums){0};
    if (file == NULL)
        return false;
    if (fgets(line, sizeof line, file) == NULL ||
        sscanf(line, "heap profile: %llu: %llu [%llu: %llu] @ heapprofile", &all->live_blocks, &all->live_bytes,
               &all->blocks, &all->bytes) != 4)
        return false;
    while (fgets(line, sizeof line, file) != NULL) {
        int at;
        if (sscanf(line, "%llu: %llu [%llu: %llu] @%n", &one.live_blocks, &one.live_bytes, &one.blocks, &one.bytes,
                   &at) != 4) {
            has_maps |= strcmp(line, "MAPPED_LIBRARIES:\n") == 0;
            continue;
        }
        sum.live_blocks += one.live_blocks, sum.live_bytes += one.live_bytes;
        sum.blocks += one.blocks, sum.bytes += one.bytes;
        bool is_own = false;
        for (char *frame = strtok(line + at, " \n"); frame != NULL; frame = strtok(NULL, " \n"))
            is_own |= strtoull(frame, NULL, 16) - (uintptr_t)function < 256;
        if (is_own) {
            own->live_blocks += one.live_blocks, own->live_bytes += one.live_bytes;
            own->blocks += one.blocks, own->bytes += one.bytes;
        }
    }
    fclose(file);
    return has_maps && sum.bytes >= all->bytes &&
           (may_grow || (sum.live_bytes == all->live_bytes && sum.bytes == all->bytes));
}

static __attribute__((noinline, aligned(256))) void *leak(size_t size)
{
    void *block = malloc(size);
    __asm__ volatile("" : "+r"(block) : : "memory"); /* no tail call */
    return block;
}

/* ---- Programs that are started anew ------------------------------------------------------------------------------ */

static int leak_and_exit(void)
{
    for (unsigned i = 0; i < N_LEAKED; i++) {
        CHECK_THAT(leak(LEAKED_BYTES) != NULL, "no memory");
        free(leak(LEAKED_BYTES));
    }
    printf("%p\n", (void *)(uintptr_t)leak);
    fflush(stdout);
    if (getenv("TEST_FORKS") != NULL) {
        pid_t pid = fork();
        if (pid == 0) {
            for (unsigned i = 0; i < N_LEAKED; i++)
                CHECK_THAT(leak(LEAKED_BYTES) != NULL, "no memory");
            exit(check_status());
        }
        int status;
        REQUIRE(waitpid(pid, &status, 0) == pid);
        CHECK_THAT(status == 0, "the child's status is %#x", (unsigned)status);
        printf("%d\n", (int)pid);
        fflush(stdout);
    }
    return check_status();
}

/* Runs this program as leak_and_exit; what it writes on stdout and stderr goes to `out`. Returns its process's number. */
static pid_t run_again(const char *profile, const char *interval, const char *secure, bool forks, char *out,
                       size_t size)
{
    int ends[2];
    REQUIRE(pipe(ends) == 0);
    pid_t pid = fork();
    REQUIRE(pid >= 0);
    if (pid == 0) {
        dup2(ends[1], STDOUT_FILENO);
        dup2(ends[1], STDERR_FILENO);
        setenv("HAKMEM_PROFILE", profile, 1);
        setenv("HAKMEM_PROFILE_INTERVAL", interval, 1);
        if (secure != NULL)
            setenv("HAKMEM_SECURE", secure, 1);
        if (forks)
            setenv("TEST_FORKS", "1", 1);
        execl("/proc/self/exe", "preload_profile", "leak", (char *)NULL);
        _exit(127);
    }
    close(ends[1]);
    size_t len = 0;
    for (ssize_t n; len < size - 1 && (n = read(ends[0], out + len, size - 1 - len)) > 0;)
        len += (size_t)n;
    out[len] = 0;
    close(ends[0]);
    int status;
    REQUIRE(waitpid(pid, &status, 0) == pid);
    CHECK_THAT(status == 0, "%s: status %#x: %s", profile, (unsigned)status, out);
    return pid;
}

static void check_leaks(const char *name, const char *out, unsigned n_live, unsigned n_all)
{
    struct sums all, own;
    void *function = NULL;
    CHECK_THAT(sscanf(out, "%p", &function) == 1, "the program said: %s", out);
    CHECK_THAT(read_dump(false, name, &all, function, &own), "%s is not a whole dump", name);
    CHECK_THAT(own.live_blocks == n_live && own.live_bytes == (unsigned long long)n_live * LEAKED_BYTES,
               "%s: %llu live blocks of %llu bytes instead of %u", name, own.live_blocks, own.live_bytes, n_live);
    CHECK_THAT(own.blocks == n_all && all.blocks >= n_all, "%s: %llu blocks instead of %u", name, own.blocks, n_all);
}

static void profile_of_a_whole_run(void)
{
    char name[128], out[8192];
    snprintf(name, sizeof name, "%s/plain", directory);
    run_again(name, "1", NULL, false, out, sizeof out);
    check_leaks(name, out, N_LEAKED, 2 * N_LEAKED);
    struct stat status;
    CHECK_THAT(stat(name, &status) == 0 && (status.st_mode & 0777) == 0600, "others may read the dump");
}

static void children_write_their_own(void)
{
    char name[128], own_name[160], out[8192];
    snprintf(name, sizeof name, "%s/forks", directory);
    run_again(name, "1", NULL, true, out, sizeof out);
    check_leaks(name, out, N_LEAKED, 2 * N_LEAKED);
    char *line = strchr(out, '\n');
    REQUIRE(line != NULL);
    snprintf(own_name, sizeof own_name, "%s.%d", name, atoi(line + 1));
    check_leaks(own_name, out, 2 * N_LEAKED, 3 * N_LEAKED);

    snprintf(name, sizeof name, "%s/a.%%p.prof", directory);
    pid_t pid = run_again(name, "1", NULL, true, out, sizeof out);
    snprintf(own_name, sizeof own_name, "%s/a.%d.prof", directory, (int)pid);
    check_leaks(own_name, out, N_LEAKED, 2 * N_LEAKED);
    line = strchr(out, '\n');
    REQUIRE(line != NULL);
    snprintf(own_name, sizeof own_name, "%s/a.%d.prof", directory, atoi(line + 1));
    check_leaks(own_name, out, 2 * N_LEAKED, 3 * N_LEAKED);
}

static void what_goes_wrong_is_said(void)
{
    char out[8192];
    run_again("report", "1", NULL, false, out, sizeof out);
    CHECK_THAT(strstr(out, "hakmem: live at exit, by samples:") != NULL &&
                   strstr(out, "hakmem:   100000 bytes in 1000 blocks, allocated by\nhakmem:     #0") != NULL,
               "the report says: %.300s", out);
    run_again("/nowhere/at/all", "1", NULL, false, out, sizeof out);
    CHECK_THAT(strstr(out, "hakmem: HAKMEM_PROFILE: the file cannot be written: /nowhere/at/all") != NULL, "%.300s",
               out);
    run_again("report", "1", "1", false, out, sizeof out);
    CHECK_THAT(strstr(out, "hakmem: HAKMEM_PROFILE has no effect with HAKMEM_SECURE") != NULL, "%.300s", out);
    run_again("report", "much", NULL, false, out, sizeof out);
    CHECK_THAT(strstr(out, "HAKMEM_PROFILE_INTERVAL") != NULL, "%.300s", out);
    run_again("0", "1", NULL, false, out, sizeof out);
    CHECK_THAT(strstr(out, "hakmem") == NULL, "%.300s", out);
}

/* ---- At run time ------------------------------------------------------------------------------------------------- */

static _Atomic bool ended;
static _Atomic unsigned n_running;

static __attribute__((noinline, aligned(256))) void *hit(size_t size)
{
    void *block = malloc(size);
    __asm__ volatile("" : "+r"(block) : : "memory");
    return block;
}

/* Never leaves the hit paths, unless its door is closed. */
static void *only_hit(void *unused)
{
    for (unsigned i = 0; i < 100; i++)
        free(hit(40));
    n_running++;
    while (!ended)
        free(hit(40));
    return unused;
}

static void threads_that_only_hit_are_seen(void)
{
    char name[128];
    struct sums all, own;
    pthread_t thread;
    snprintf(name, sizeof name, "%s/threads", directory);
    REQUIRE(pthread_create(&thread, NULL, only_hit, NULL) == 0);
    while (n_running == 0)
        usleep(100);
    for (unsigned round = 0; round < 3; round++) {
        REQUIRE(profile_start(1000) == 0);
        do {
            REQUIRE(profile_dump(name) == 0);
            CHECK_THAT(read_dump(true, name, &all, (const void *)(uintptr_t)hit, &own), "%s is not a whole dump", name);
        } while (own.blocks < 1000);
        profile_stop();
    }
    ended = true;
    pthread_join(thread, NULL);
    REQUIRE(profile_dump(name) == 0);
    CHECK_THAT(read_dump(false, name, &all, (const void *)(uintptr_t)hit, &own) && own.live_blocks == 0 &&
                   own.live_bytes == 0,
               "%llu blocks are live", own.live_blocks);
}

static void remove_directory(void)
{
    char name[512];
    DIR *entries = opendir(directory);
    for (struct dirent *entry; entries != NULL && (entry = readdir(entries)) != NULL;)
        if (entry->d_name[0] != '.') {
            snprintf(name, sizeof name, "%s/%s", directory, entry->d_name);
            unlink(name);
        }
    if (entries != NULL)
        closedir(entries);
    rmdir(directory);
}

static double now_seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

/* What a dump says of the session's length is not how long ago it began. */
static void lasts_until_it_is_stopped(void)
{
    char path[100], line[1000];
    double said = -1;
    snprintf(path, sizeof path, "%s/lasted", directory);
    double begin = now_seconds();
    REQUIRE(profile_start(1000) == 0);
    profile_stop();
    double lasted = now_seconds() - begin;
    usleep(300000);
    REQUIRE(profile_dump(path) == 0);
    FILE *file = fopen(path, "r");
    while (file != NULL && fgets(line, sizeof line, file) != NULL) {
        const char *at = strncmp(line, "# hakmem ", 9) == 0 ? strstr(line, " seconds=") : NULL;
        if (at != NULL)
            sscanf(at, " seconds=%lf", &said);
    }
    if (file != NULL)
        fclose(file);
    /* by a coarse clock */
    CHECK_THAT(said >= 0 && said <= lasted + 0.02, "it lasted %.3f s, and %.3f are said", lasted, said);
}

/* What is read for a dump is dropped by a new session. */
static void *begin_again_and_again(void *unused)
{
    while (!ended) {
        profile_start(1000);
        for (unsigned i = 0; i < 400; i++)
            free(leak(64 + 7 * i));
        profile_stop();
    }
    return unused;
}

static void dumps_beside_sessions_that_begin(void)
{
    pthread_t thread;
    ended = false;
    REQUIRE(pthread_create(&thread, NULL, begin_again_and_again, NULL) == 0);
    for (unsigned i = 0; i < 5000; i++)
        CHECK_THAT(profile_dump("/dev/null") == 0, "a dump fails: %d", errno);
    ended = true;
    pthread_join(thread, NULL);
}

/* A block that was picked stays where any other of its class would, and stays noted. */
static void resized_in_place(void)
{
    char path[100];
    struct sums all, own;
    void *block[100];
    snprintf(path, sizeof path, "%s/resized", directory);
    REQUIRE(profile_start(1) == 0);
    for (unsigned i = 0; i < CHECK_COUNT(block); i++) {
        void *before = block[i] = leak(100);
        block[i] = realloc(before, 104);
        CHECK_THAT(block[i] == before, "it moves");
        block[i] = realloc(block[i], 97);
    }
    REQUIRE(profile_dump(path) == 0);
    CHECK_THAT(read_dump(false, path, &all, (const void *)(uintptr_t)leak, &own) &&
                   own.live_blocks == CHECK_COUNT(block),
               "%llu blocks are live", own.live_blocks);
    for (unsigned i = 0; i < CHECK_COUNT(block); i++)
        free(block[i]);
    REQUIRE(profile_dump(path) == 0);
    CHECK_THAT(read_dump(false, path, &all, (const void *)(uintptr_t)leak, &own) && own.live_blocks == 0,
               "%llu blocks are live in the end", own.live_blocks);
    profile_stop();
}

static volatile bool is_child;
static volatile unsigned n_forks, n_failed;

static void fork_in_handler(int number)
{
    int status = -1;
    (void)number;
    pid_t pid = fork();
    if (pid == 0) {
        is_child = true; /* and goes on with what was interrupted */
        return;
    }
    n_forks++;
    n_failed += pid < 0 || waitpid(pid, &status, 0) != pid || status != 0;
}

/* A handler that interrupts the sampler forks: the child ends the call, and can begin a session of its own. */
static void handlers_fork(void)
{
    enum { FORKS = 100, LIMIT_S = 30 };
    REQUIRE(profile_start(1) == 0 && signal(SIGALRM, fork_in_handler) == SIG_DFL);
    for (time_t end = time(NULL) + LIMIT_S; n_forks < FORKS && n_failed < 3 && time(NULL) < end;) {
        struct itimerval once = {.it_value = {.tv_usec = 200 + n_forks % 10 * 37}};
        unsigned before = n_forks; /* the signal may come before setitimer has returned */
        REQUIRE(setitimer(ITIMER_REAL, &once, NULL) == 0);
        while (before == n_forks && !is_child) {
            void *volatile block = malloc(100);
            free(block);
        }
        if (is_child) {
            signal(SIGALRM, SIG_DFL);
            alarm(LIMIT_S);
            profile_stop();
            _exit(profile_start(1) == 0 ? 0 : 1);
        }
    }
    CHECK_THAT(n_failed == 0 && n_forks > 0, "of %u children %u could begin no session", n_forks, n_failed);
    signal(SIGALRM, SIG_DFL);
    profile_stop();
}

int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "leak") == 0)
        return leak_and_exit();
    check_on_hakmem();
    *(void **)&profile_start = dlsym(RTLD_DEFAULT, "hak_profile_start");
    *(void **)&profile_stop = dlsym(RTLD_DEFAULT, "hak_profile_stop");
    *(void **)&profile_dump = dlsym(RTLD_DEFAULT, "hak_profile_dump");
    REQUIRE(profile_start != NULL && profile_stop != NULL && profile_dump != NULL);
    REQUIRE(mkdtemp(directory) != NULL);
    profile_of_a_whole_run();
    children_write_their_own();
    what_goes_wrong_is_said();
    threads_that_only_hit_are_seen();
    lasts_until_it_is_stopped();
    dumps_beside_sessions_that_begin();
    resized_in_place();
    handlers_fork();
    remove_directory();
    return check_status();
}
