/* main_leaves.c - a program whose first thread calls pthread_exit: libc has the thread that ends last call exit(), and that must be one of the
 * program's. What it wrote to its streams is written, and its handlers for atexit run, with its files open, though the background thread was
 * at work. And what is freed afterwards goes back by the calls of the other threads.
 */
#include "check.h"

#include <pthread.h>

static bool waits; /* for memory to go back */
static char path[] = "/tmp/hakmem-main-leaves.XXXXXX";

static void at_exit(void)
{
    static const char text[] = "end\n";
    int file = open(path, O_WRONLY | O_APPEND | O_CLOEXEC);
    REQUIRE(file >= 0);
    REQUIRE(write(file, text, sizeof text - 1) == (ssize_t)sizeof text - 1);
    close(file);
}

/* Whether the system's figures and a dump's table of libraries can be had, though the process's own directory in /proc tells nothing. */
static bool can_look(void)
{
    static char dump[] = "/tmp/hakmem-main-leaves-dump.XXXXXX", line[4096];
    int (*resident_get)(uint64_t *) = (int (*)(uint64_t *))(uintptr_t)check_symbol("hak_resident_get");
    int (*profile_start)(size_t) = (int (*)(size_t))(uintptr_t)check_symbol("hak_profile_start");
    int (*profile_dump)(const char *) = (int (*)(const char *))(uintptr_t)check_symbol("hak_profile_dump");
    uint64_t bytes[64] = {0};
    bool tells = resident_get(bytes) == 0 && bytes[0] != 0, named = false;
    int file = mkstemp(dump);
    REQUIRE(file >= 0 && profile_start(100) == 0 && profile_dump(dump) == 0);
    FILE *stream = fdopen(file, "r");
    while (fgets(line, sizeof line, stream) != NULL)
        named |= strstr(line, "libhakmem") != NULL;
    fclose(stream);
    unlink(dump);
    return tells && named;
}

enum { N = 20000 };
static char *blocks[N];

static void fill_and_free(void)
{
    for (unsigned i = 0; i < N; i++)
        blocks[i] = check_malloc(1000);
    for (unsigned i = 0; i < N; i++)
        free(blocks[i]);
}

/* /proc/self tells nothing once the first thread has left. */
static bool little_is_in_memory(void)
{
    int (*resident_get)(uint64_t *) = (int (*)(uint64_t *))(uintptr_t)check_symbol("hak_resident_get");
    uint64_t bytes[64] = {0};
    REQUIRE(resident_get(bytes) == 0 && bytes[0] != 0);
    return bytes[0] < 4 * CHECK_MIB;
}

static bool memory_goes_back(void)
{
    fill_and_free();
    for (unsigned ms = 0; ms < 20000 && !little_is_in_memory(); ms += 10) {
        usleep(10000);
        for (unsigned i = 0; i < 200; i++)
            blocks[i] = malloc(1000);
        for (unsigned i = 0; i < 200; i++)
            free(blocks[i]);
    }
    return little_is_in_memory();
}

/* Frees so much that the background thread begins, before the first thread leaves, or only after it has. */
static void *work(void *first)
{
    if (first != NULL)
        REQUIRE(pthread_join(*(pthread_t *)first, NULL) == 0);
    for (unsigned round = 0; round < 2; round++)
        fill_and_free();
    if (first == NULL)
        usleep(20000); /* the first thread leaves meanwhile */
    FILE *file = fopen(path, "a");
    REQUIRE(file != NULL);
    bool good = first == NULL ? !waits || memory_goes_back() : can_look();
    fputs(good ? "result\n" : "not as it should be\n", file); /* Nobody closes it, so exit() has to write it. */
    return NULL;
}

static void child(bool after)
{
    static pthread_t self;
    pthread_t thread;
    self = pthread_self();
    alarm(60);
    REQUIRE(atexit(at_exit) == 0);
    REQUIRE(pthread_create(&thread, NULL, work, after ? &self : NULL) == 0);
    free(malloc(100));
    if (!after)
        usleep(10000);
    pthread_exit(NULL);
}

static void check_file(const char *when)
{
    char text[64] = "";
    int file = open(path, O_RDONLY | O_CLOEXEC);
    REQUIRE(file >= 0);
    ssize_t n = read(file, text, sizeof text - 1);
    CHECK_THAT(n > 0 && strcmp(text, "end\nresult\n") == 0, "%s the file has %zd bytes: %s", when, n, text);
    close(file);
    REQUIRE(truncate(path, 0) == 0);
}

int main(void)
{
    check_on_hakmem();
    int file = mkstemp(path);
    REQUIRE(file >= 0);
    close(file);
    for (unsigned i = 0; i < 20; i++) {
        const char *when = i % 2 == 0 ? "where memory is freed before," : "where memory is freed after,";
        waits = i == 0;
        pid_t pid = fork();
        REQUIRE(pid >= 0);
        if (pid == 0)
            child(i % 2 != 0);
        check_wait(pid, when);
        check_file(when);
    }
    unlink(path);
    return check_status();
}
