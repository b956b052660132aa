/* interposed.c - a program, or a library that is preloaded beside this one, defines functions of libc: to pretend another time or
 * process (libfaketime), to log files. What they do is their business: they may allocate, or ask the dynamic linker, which frees. So
 * the library asks the kernel and not them, from its first call on, whoever is in the middle of what.
 */
#include "check.h"

#include <malloc.h>
#include <sys/syscall.h>
#include <time.h>

#define IDLE_BLOCKS 40000
#define TICKS_MS 800

static bool ignored; /* what the test itself calls */
static const char *volatile called;

static void note(const char *name)
{
    if (!__atomic_load_n(&ignored, __ATOMIC_RELAXED))
        called = name;
    free(malloc(100)); /* as they may */
}

__attribute__((visibility("default"))) int clock_gettime(clockid_t clock, struct timespec *now)
{
    note("clock_gettime");
    return (int)syscall(SYS_clock_gettime, clock, now);
}

__attribute__((visibility("default"))) pid_t getpid(void)
{
    note("getpid");
    return (pid_t)syscall(SYS_getpid);
}

__attribute__((visibility("default"))) int nanosleep(const struct timespec *span, struct timespec *left)
{
    note("nanosleep");
    return (int)syscall(SYS_nanosleep, span, left);
}

__attribute__((visibility("default"))) ssize_t getrandom(void *to, size_t len_bytes, unsigned flags)
{
    note("getrandom");
    return syscall(SYS_getrandom, to, len_bytes, flags);
}

__attribute__((visibility("default"))) int open(const char *path, int flags, ...)
{
    note("open");
    return (int)syscall(SYS_openat, AT_FDCWD, path, flags, 0600); /* the mode counts for new files alone */
}

__attribute__((visibility("default"))) ssize_t read(int file, void *to, size_t len_bytes)
{
    note("read");
    return syscall(SYS_read, file, to, len_bytes);
}

__attribute__((visibility("default"))) int close(int file)
{
    note("close");
    return (int)syscall(SYS_close, file);
}

static void check_stage(const char *stage)
{
    CHECK_THAT(called == NULL, "%s: the library calls the program's %s", stage, called);
    called = NULL;
}

int main(void)
{
    static void *block[IDLE_BLOCKS];
    check_stage("before main");
    ignored = true;
    check_on_hakmem();
    CHECK(
        check_same_library(dlsym(RTLD_DEFAULT, "getpid"), (const void *)(uintptr_t)main)); /* else nothing is tested */
    CHECK(getpid() != 0 && called == NULL);
    ignored = false;

    for (size_t size_bytes = 16; size_bytes < 8 * CHECK_MIB; size_bytes = size_bytes * 3 / 2) {
        size_t n = size_bytes < 4096 ? 2000 : size_bytes < CHECK_MIB ? 64 : 2;
        for (size_t i = 0; i < n; i++)
            block[i] = malloc(size_bytes);
        for (size_t i = 0; i < n; i++)
            free(block[i]);
    }
    check_stage("malloc and free");

    for (size_t i = 0; i < IDLE_BLOCKS; i++)
        block[i] = check_malloc(300);
    for (size_t i = 0; i < IDLE_BLOCKS; i++)
        free(block[i]);
    usleep(TICKS_MS * 1000); /* the library's thread comes, gives back, and goes */
    check_stage("what lies idle");

    malloc_trim(0);
    void *kept = check_malloc(1);
    CHECK(mallinfo2().arena != 0);
    free(kept);
    check_stage("trim and statistics");

    pid_t pid = fork();
    REQUIRE(pid >= 0);
    if (pid == 0) {
        free(malloc(1000));
        _exit(called != NULL);
    }
    ignored = true;
    check_wait(pid, "a child");
    return check_status();
}
