/* fork_stdio.c - threads use stdio, which allocates while it holds a stream's lock, and one thread forks all the
 * while: libc's fork takes the lock of the list of streams, so an allocator that takes a lock of its own before it
 * would come to a deadlock. The children use stdio and the heap too.
 * ctest: timeout 600
 */
#include "check.h"

#include <pthread.h>

#define N_FORKS 600
#define CHILD_LIMIT_S 60

static int stop;
static char path[64];

static int stopped(void)
{
    return __atomic_load_n(&stop, __ATOMIC_RELAXED);
}

/* Lines of growing length, for which getline allocates and reallocates under the stream's lock. */
static void read_lines(void)
{
    FILE *file = fopen(path, "r");
    REQUIRE(file != NULL);
    char *line = NULL;
    size_t capacity = 0, n = 0;
    for (ssize_t len; (len = getline(&line, &capacity, file)) >= 0; n++)
        CHECK_THAT(len > 0 && line[0] == 'x' && line[len - 1] == '\n', "line %zu of %zd bytes is wrong", n, len);
    CHECK_THAT(n == 60, "%zu lines were read", n);
    free(line);
    fclose(file);
}

static void print_lines(void)
{
    FILE *file = fopen("/dev/null", "w");
    REQUIRE(file != NULL);
    for (unsigned i = 0; i < 200; i++)
        CHECK(fprintf(file, "%0*u %s %f\n", (int)(i * 5), i, path, i / 3.0) > 0);
    fclose(file);
}

static void print_to_memory(void)
{
    char *text = NULL;
    size_t len = 0;
    FILE *file = open_memstream(&text, &len);
    REQUIRE(file != NULL);
    for (unsigned i = 0; i < 500; i++)
        fprintf(file, "%u,", i);
    fclose(file);
    CHECK_THAT(len == 1890 && strncmp(text, "0,1,2,", 6) == 0, "a stream in memory has %zu bytes", len);
    free(text);
}

static void *reader(void *unused)
{
    while (!stopped())
        read_lines();
    return unused;
}

static void *printer(void *unused)
{
    while (!stopped()) {
        print_lines();
        print_to_memory();
    }
    return unused;
}

static void *flusher(void *unused)
{
    while (!stopped()) {
        fflush(NULL); /* takes the list's lock, then each stream's */
        free(malloc(1000));
    }
    return unused;
}

/* asprintf and qsort allocate inside libc. */
static void *formatter(void *unused)
{
    while (!stopped()) {
        char *text = NULL;
        CHECK(asprintf(&text, "%2000d", 5) == 2000);
        free(text);
    }
    return unused;
}

static void child(void)
{
    check_n_failures = 0;
    alarm(CHILD_LIMIT_S);
    for (size_t n = 1; n < 300000; n = n * 3 + 1) {
        void *block = malloc(n);
        CHECK(block != NULL);
        check_fill(block, n, n);
        CHECK(check_filled(block, n, n));
        free(block);
    }
    read_lines();
    print_lines();
    print_to_memory();
    fflush(NULL);
    _exit(check_n_failures == 0 ? 0 : 1);
}

static void write_file(void)
{
    snprintf(path, sizeof path, "/tmp/hakmem-fork-stdio.XXXXXX");
    int fd = mkstemp(path);
    REQUIRE(fd >= 0);
    FILE *file = fdopen(fd, "w");
    REQUIRE(file != NULL);
    for (unsigned i = 0; i < 60; i++) {
        for (unsigned k = 0; k <= i * 40; k++)
            fputc('x', file);
        fputc('\n', file);
    }
    REQUIRE(fclose(file) == 0);
}

int main(void)
{
    void *(*const functions[])(void *) = {reader, reader, printer, flusher, flusher, formatter};
    pthread_t threads[CHECK_COUNT(functions)];
    check_on_hakmem();
    write_file();
    for (unsigned i = 0; i < CHECK_COUNT(functions); i++)
        REQUIRE(pthread_create(&threads[i], NULL, functions[i], NULL) == 0);
    unsigned n_bad = 0;
    for (unsigned k = 0; k < N_FORKS && n_bad < 5; k++) {
        pid_t pid = fork();
        REQUIRE(pid >= 0);
        if (pid == 0)
            child();
        n_bad += (unsigned)check_wait(pid, "a child");
        free(malloc(k * 50));
    }
    __atomic_store_n(&stop, 1, __ATOMIC_RELAXED);
    for (unsigned i = 0; i < CHECK_COUNT(functions); i++)
        pthread_join(threads[i], NULL);
    unlink(path);
    return check_status();
}
