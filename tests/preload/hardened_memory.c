/* hardened_memory.c - what hardened mode keeps for its own sake gives way when memory, address space or mappings run short, and nothing is
 * touched that the program has not touched. In default mode all of it holds as well.
 */
#include "check.h"

#include <pthread.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

static size_t count_mappings(void)
{
    size_t n = 0;
    FILE *file = fopen("/proc/self/maps", "r");
    REQUIRE(file != NULL);
    for (int c; (c = getc(file)) != EOF;)
        n += c == '\n';
    fclose(file);
    return n;
}

/* A block at a time, each longer than the one before: those that wait must not fill the address space. */
static void test_little_address_space(void)
{
    struct rlimit limit = {(rlim_t)4000 * CHECK_MIB, (rlim_t)4000 * CHECK_MIB};
    REQUIRE(setrlimit(RLIMIT_AS, &limit) == 0);
    for (size_t i = 0; i < 200; i++) {
        char *block = malloc(200 * CHECK_MIB + i * CHECK_MIB);
        CHECK_THAT(block != NULL, "block %zu is refused, though nothing is held", i);
        if (block == NULL)
            return;
        block[0] = 1;
        free(block);
    }
}

static void test_shorter_blocks(void)
{
    size_t before_bytes = check_resident_bytes();
    char *block = malloc(1500 * CHECK_MIB);
    REQUIRE(block != NULL);
    memset(block, 1, 40 * CHECK_MIB);
    block = realloc(block, 1000 * CHECK_MIB);
    REQUIRE(block != NULL);
    CHECK_THAT(check_resident_bytes() < before_bytes + 50 * CHECK_MIB, "%zu MiB are in memory",
               (check_resident_bytes() - before_bytes) / CHECK_MIB);
    free(block);
    block = check_malloc(60 * CHECK_MIB);
    block = realloc(block, 31 * CHECK_MIB + 5000);
    REQUIRE(block != NULL);
    block = realloc(block, 45 * CHECK_MIB);
    REQUIRE(block != NULL);
    size_t n_bad = 0;
    for (size_t i = 0; i < 31 * CHECK_MIB + 5000; i++)
        n_bad += block[i] != 1;
    CHECK_THAT(n_bad == 0, "%zu bytes are not as they were", n_bad);
    free(block);
    block = calloc(1, 60 * CHECK_MIB);
    REQUIRE(block != NULL);
    CHECK_THAT(check_zero(block, 60 * CHECK_MIB), "calloc is not zero");
    free(block);
}

/* Many blocks of which a byte is used: to look at them, to clear them and to say that they are zero must not bring the rest into memory.
 * A page at the end of each has its seal, and some have huge pages. */
static void test_hardly_used(size_t size_bytes, bool zeroed)
{
    enum { N = 4000 };
    static char *blocks[N];
    size_t before_bytes = check_resident_bytes(), most_bytes = before_bytes + (size_t)N * 3 * 4096 + 8 * CHECK_MIB;
    for (size_t i = 0; i < N; i++) {
        blocks[i] = zeroed ? calloc(1, size_bytes) : malloc(size_bytes);
        REQUIRE(blocks[i] != NULL);
        blocks[i][0] = 1;
    }
    CHECK_THAT(check_resident_bytes() < most_bytes, "%zu MiB are in memory for %d blocks of %zu bytes",
               (check_resident_bytes() - before_bytes) / CHECK_MIB, N, size_bytes);
    for (size_t i = 0; i < N; i++)
        free(blocks[i]);
    CHECK_THAT(check_resident_bytes() < most_bytes, "%zu MiB are in memory for %d blocks of %zu bytes that were freed",
               (check_resident_bytes() - before_bytes) / CHECK_MIB, N, size_bytes);
}

static void test_hardly_used_blocks(void)
{
    test_hardly_used(28000, false);
}

static void test_hardly_used_zeroed_blocks(void)
{
    test_hardly_used(32000, true);
}

static void test_hardly_used_longer_blocks(void)
{
    test_hardly_used(90000, true);
}

static void *nothing(void *unused)
{
    return unused;
}

/* Every other slot is free, and must not be a mapping of its own without end. */
static void test_many_free_slots(void)
{
    enum { N = 120000 };
    static char *blocks[N];
    pthread_t thread;
    size_t n_refused = 0;
    for (size_t i = 0; i < N; i++) {
        blocks[i] = malloc(40000);
        REQUIRE(blocks[i] != NULL);
        blocks[i][0] = 1;
        if (i % 2 == 0 && i < 40000)
            /* so that as many are guarded as may be, each between others that are not: that takes the most mappings */
            usleep(200);
    }
    for (size_t i = 0; i < N; i += 2)
        free(blocks[i]);
    /* the slower it goes, the more blocks are guarded */
    CHECK_THAT(count_mappings() < 52000, "%zu mappings", count_mappings());
    int error = pthread_create(&thread, NULL, nothing, NULL);
    CHECK_THAT(error == 0, "pthread_create: %d", error);
    if (error == 0)
        pthread_join(thread, NULL);
    for (size_t i = 0; i < N; i += 2) {
        if (i < 40000)
            usleep(200);
        blocks[i] = malloc(40000);
        n_refused += blocks[i] == NULL;
        if (blocks[i] != NULL)
            blocks[i][39999] = 1;
    }
    CHECK_THAT(n_refused == 0, "%zu blocks are refused", n_refused);
    CHECK_THAT(count_mappings() < 52000, "%zu mappings in the end", count_mappings());
}

/* Each in a process of its own. */
static void run(void (*test)(void), const char *name)
{
    int status = 0;
    pid_t child = fork();
    REQUIRE(child >= 0);
    if (child == 0) {
        test();
        _exit(check_status());
    }
    REQUIRE(waitpid(child, &status, 0) == child);
    CHECK_THAT(status == 0, "%s: status %#x", name, status);
}

int main(void)
{
    check_on_hakmem();
    run(test_little_address_space, "little address space");
    run(test_shorter_blocks, "shorter blocks");
    run(test_hardly_used_blocks, "hardly used blocks");
    run(test_hardly_used_zeroed_blocks, "hardly used blocks of calloc");
    run(test_hardly_used_longer_blocks, "hardly used longer blocks");
    run(test_many_free_slots, "many free slots");
    return check_status();
}
