/* check.h - what the preload tests share: checks that say their line, the proof that hakmem serves the process,
 * contents that can be told apart, and children whose end is looked at.
 * Called by  every program of tests/preload.     Calls  libc, and hakmem by names that it looks up: nothing here is linked with it.
 * Threads    any: the count of failures is atomic.
 */
#ifndef HAKMEM_TESTS_PRELOAD_CHECK_H
#define HAKMEM_TESTS_PRELOAD_CHECK_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include "hakmem/hakmem.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define CHECK_UNUSED __attribute__((unused))
#define CHECK_COUNT(array) (sizeof(array) / sizeof((array)[0]))
#define CHECK_KIB ((size_t)1024)
#define CHECK_MIB (1024 * CHECK_KIB)
#define CHECK_MAX_LINES 100 /* one broken thing must not fill the log */

#define CHECK_SKIPPED 77 /* the status of a test, or of a child, that could not be run here, or not all of it */

static unsigned check_n_failures, check_n_left_out;

/* Prints one line on stderr. Uses no stdio stream and no heap, so that a forked child may call it. */
CHECK_UNUSED __attribute__((format(printf, 1, 2))) static void check_say(const char *format, ...)
{
    char line[512];
    va_list arguments;
    va_start(arguments, format);
    int n = vsnprintf(line, sizeof line - 1, format, arguments);
    va_end(arguments);
    if (n < 0)
        return;
    size_t len = (size_t)n < sizeof line - 1 ? (size_t)n : sizeof line - 2;
    line[len++] = '\n';
    ssize_t written = write(STDERR_FILENO, line, len);
    (void)written;
}

/* Counts a failure and prints it. */
#define CHECK_FAIL(...)                                                                                                \
    do {                                                                                                               \
        if (__atomic_add_fetch(&check_n_failures, 1, __ATOMIC_RELAXED) <= CHECK_MAX_LINES) {                           \
            char check_text[360];                                                                                      \
            snprintf(check_text, sizeof check_text, __VA_ARGS__);                                                      \
            check_say("%s:%d: %s", __FILE__, __LINE__, check_text);                                                    \
        }                                                                                                              \
    } while (0)

/* Checks a condition and goes on. CHECK_THAT says more than the condition's text does. */
#define CHECK_THAT(condition, ...)                                                                                     \
    do {                                                                                                               \
        if (!(condition))                                                                                              \
            CHECK_FAIL(__VA_ARGS__);                                                                                   \
    } while (0)
#define CHECK(condition) CHECK_THAT(condition, "not true: %s", #condition)

/* Checks a condition without which the rest of the test makes no sense. */
#define REQUIRE(condition)                                                                                             \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            CHECK_FAIL("not true: %s (errno %d)", #condition, errno);                                                  \
            _exit(1);                                                                                                  \
        }                                                                                                              \
    } while (0)

/* The exit status of the test. A part that was left out is no pass. */
CHECK_UNUSED static int check_status(void)
{
    unsigned n = __atomic_load_n(&check_n_failures, __ATOMIC_RELAXED);
    if (n != 0)
        check_say("%u checks failed", n);
    return n != 0 ? 1 : check_n_left_out != 0 ? CHECK_SKIPPED : 0;
}

/* Notes that a part of the test cannot be run here, and goes on. */
CHECK_UNUSED static void check_leave_out(const char *why)
{
    check_say("left out: %s", why);
    check_n_left_out++;
}

/* ---- hakmem ------------------------------------------------------------------------------------------------------ */

/* A function by its name; ends the test when nobody defines it. */
CHECK_UNUSED static void *check_symbol(const char *name)
{
    void *symbol = dlsym(RTLD_DEFAULT, name);
    if (symbol == NULL) {
        check_say("no library defines %s", name);
        _exit(1);
    }
    return symbol;
}

/* The statistics of now; ends the test where there are none. */
CHECK_UNUSED static struct hak_stats check_stats(void)
{
    struct hak_stats stats;
    int (*get)(struct hak_stats *, size_t);
    void *symbol = check_symbol("hak_stats_get");
    memcpy(&get, &symbol, sizeof symbol);
    REQUIRE(get(&stats, sizeof stats) == 0);
    return stats;
}

/* Whether two functions come from the same library. */
CHECK_UNUSED static int check_same_library(const void *a, const void *b)
{
    Dl_info of_a, of_b;
    return dladdr(a, &of_a) != 0 && dladdr(b, &of_b) != 0 && of_a.dli_fbase == of_b.dli_fbase;
}

/* Ends the test unless hakmem is loaded and its malloc and free are the ones that the program calls. */
CHECK_UNUSED static void check_on_hakmem(void)
{
    const void *version = dlsym(RTLD_DEFAULT, "hak_version");
    if (version == NULL || !check_same_library(version, dlsym(RTLD_DEFAULT, "malloc")) ||
        !check_same_library(version, dlsym(RTLD_DEFAULT, "free"))) {
        check_say("this process does not run on hakmem");
        _exit(1);
    }
}

/* ---- Contents ---------------------------------------------------------------------------------------------------- */

/* A block that has been written to as a whole; ends the test when there is no memory. */
CHECK_UNUSED static void *check_malloc(size_t size_bytes)
{
    void *block = malloc(size_bytes);
    REQUIRE(block != NULL);
    memset(block, 1, size_bytes);
    return block;
}

/* Fills a block with what depends on the seed: its lowest byte everywhere, and all of it at both ends where it fits. */
CHECK_UNUSED static void check_fill(void *block, size_t size_bytes, uint64_t seed)
{
    char *bytes = (char *)block;
    memset(bytes, (int)(seed & 0xff), size_bytes);
    if (size_bytes >= 16) {
        memcpy(bytes, &seed, 8);
        memcpy(bytes + size_bytes - 8, &seed, 8);
    }
}

/* Whether all of a block is as check_fill left it. */
CHECK_UNUSED static int check_filled(const void *block, size_t size_bytes, uint64_t seed)
{
    const char *bytes = (const char *)block;
    size_t from = 0, to = size_bytes;
    if (size_bytes >= 16) {
        if (memcmp(bytes, &seed, 8) != 0 || memcmp(bytes + size_bytes - 8, &seed, 8) != 0)
            return 0;
        from = 8;
        to -= 8;
    }
    if (from == to)
        return 1;
    return bytes[from] == (char)(seed & 0xff) && memcmp(bytes + from, bytes + from + 1, to - from - 1) == 0;
}

/* Whether every byte of a block is zero. */
CHECK_UNUSED static int check_zero(const void *block, size_t size_bytes)
{
    const char *bytes = (const char *)block;
    return size_bytes == 0 || (bytes[0] == 0 && memcmp(bytes, bytes + 1, size_bytes - 1) == 0);
}

/* A sequence of numbers that depends on its start alone (splitmix64). */
CHECK_UNUSED static uint64_t check_random(uint64_t *state)
{
    uint64_t z = (*state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/* A size up to 2^max_bits bytes: every power of two as likely as any other, so that small ones prevail. */
CHECK_UNUSED static size_t check_random_size(uint64_t *state, unsigned max_bits)
{
    uint64_t r = check_random(state);
    return (size_t)((r >> 8) & (((uint64_t)1 << (r % max_bits + 1)) - 1));
}

/* ---- The system -------------------------------------------------------------------------------------------------- */

/* The number that follows a field's name in /proc/self/status, in KiB for sizes; 0 when it is not there. Allocates
 * nothing and keeps errno. */
CHECK_UNUSED static size_t check_proc_status(const char *field)
{
    char text[4096];
    int saved_errno = errno;
    int fd = open("/proc/self/status", O_RDONLY | O_CLOEXEC);
    ssize_t len = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
    if (fd >= 0)
        close(fd);
    errno = saved_errno;
    if (len <= 0)
        return 0;
    text[len] = 0;
    const char *at = strstr(text, field);
    return at == NULL ? 0 : (size_t)strtoull(at + strlen(field), NULL, 10);
}

/* What of this process is in memory. */
CHECK_UNUSED static size_t check_resident_bytes(void)
{
    return check_proc_status("VmRSS:") * CHECK_KIB;
}

/* Waits, without a call of the allocator, until no more than so much is: a minute at most, then it is a failure. */
CHECK_UNUSED static void check_await_resident(const char *what, size_t most_bytes)
{
    size_t bytes = check_resident_bytes();
    for (unsigned i = 0; i < 600 && bytes > most_bytes; i++) {
        usleep(100000);
        bytes = check_resident_bytes();
    }
    CHECK_THAT(bytes <= most_bytes, "%s: %zu KiB in memory, and %zu would do", what, bytes / 1024, most_bytes / 1024);
}

/* Waits for a child. Returns 0 when it ended with status 0, or left a part out; otherwise prints how it ended, and returns 1. */
CHECK_UNUSED static int check_wait(pid_t pid, const char *what)
{
    int status;
    pid_t got;
    do {
        got = waitpid(pid, &status, 0);
    } while (got < 0 && errno == EINTR);
    if (got != pid) {
        CHECK_FAIL("%s: waitpid fails with errno %d", what, errno);
        return 1;
    }
    if (WIFEXITED(status) && WEXITSTATUS(status) == CHECK_SKIPPED)
        check_n_left_out++;
    if (WIFEXITED(status) && (WEXITSTATUS(status) == 0 || WEXITSTATUS(status) == CHECK_SKIPPED))
        return 0;
    if (WIFSIGNALED(status))
        CHECK_FAIL("%s: ended by signal %d%s", what, WTERMSIG(status),
                   WTERMSIG(status) == SIGALRM ? ", which means that it hung" : "");
    else
        CHECK_FAIL("%s: ended with status %d", what, WEXITSTATUS(status));
    return 1;
}

#endif
