/* vfork.c - what a child of vfork does in its parent's memory. A thread whose first allocation is made by it: what is known of it afterwards
 * names the thread, not the child that is gone. And what it frees wakes no background thread that would end with it: the parent's idle
 * memory goes back as ever.
 */
#include "check.h"

#include <dlfcn.h>
#include <pthread.h>
#include <sys/wait.h>
#include <unistd.h>

typedef size_t stats_json_function(char *buffer, size_t size_bytes);

static void allocate(void)
{
    void *volatile blocks[200];
    for (unsigned i = 0; i < 200; i++)
        blocks[i] = malloc(16 + 16 * i);
    for (unsigned i = 0; i < 200; i++)
        free(blocks[i]);
}

/* Every thread that the statistics name is one of this process. */
static void check_threads(void)
{
    static char text[1 << 20];
    stats_json_function *stats_json = (stats_json_function *)(uintptr_t)dlsym(RTLD_DEFAULT, "hak_stats_json");
    unsigned n_named = 0;
    REQUIRE(stats_json != NULL && stats_json(text, sizeof text) < sizeof text);
    for (const char *at = text; (at = strstr(at, "\"thread_id\":")) != NULL; n_named++) {
        char path[64];
        at += strlen("\"thread_id\":");
        snprintf(path, sizeof path, "/proc/self/task/%ld", strtol(at, NULL, 10));
        CHECK_THAT(access(path, F_OK) == 0, "%s is no thread of this process", path);
    }
    CHECK_THAT(n_named >= 2, "%u threads are named", n_named);
}

static void *first_call_in_child(void *unused)
{
    int status = -1;
    pid_t child = vfork(); /* NOLINT: what is allowed there is more than POSIX has it, on Linux and glibc */
    if (child == 0) {
        allocate();
        _exit(0);
    }
    REQUIRE(child > 0 && waitpid(child, &status, 0) == child);
    CHECK_THAT(status == 0, "the child's status is %#x", status);
    allocate();
    check_threads();
    return unused;
}

enum { N_BLOCKS = 20000, BLOCK_BYTES = 1000 };
static char *held[N_BLOCKS];

static void fill_blocks(void)
{
    for (unsigned i = 0; i < N_BLOCKS; i++)
        held[i] = check_malloc(BLOCK_BYTES);
}

static void free_blocks(void)
{
    for (unsigned i = 0; i < N_BLOCKS; i++)
        free(held[i]);
}

static void check_reclaim(void)
{
    int status = -1;
    size_t before_bytes = check_resident_bytes();
    fill_blocks();
    pid_t child = vfork(); /* NOLINT: as above */
    if (child == 0) {
        free_blocks();
        execl("/bin/true", "true", (char *)NULL);
        _exit(127);
    }
    REQUIRE(child > 0 && waitpid(child, &status, 0) == child);
    CHECK_THAT(status == 0, "the child's status is %#x", status);
    fill_blocks();
    free_blocks();
    check_await_resident("what a child of vfork freed, and the parent after it", before_bytes + 4 * CHECK_MIB);
}

int main(void)
{
    pthread_t thread;
    check_on_hakmem();
    check_reclaim();
    allocate();
    REQUIRE(pthread_create(&thread, NULL, first_call_in_child, NULL) == 0);
    REQUIRE(pthread_join(thread, NULL) == 0);
    return check_status();
}
