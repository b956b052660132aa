/* misuse.h - what the two programs of misuse share: calls that the compiler cannot see through, the sizes, and main.
 *
 * Owns     one table of kinds per program, and its list of cases.
 * Called by  misuse_suite.c, misuse_suite_cxx.cc     Calls  libc only; nothing here is linked with hakmem.
 *
 *   PROGRAM list       prints the name of every case, KIND@SIZE, or KIND@- where the kind has no size
 *   PROGRAM run CASE   does it, once, in this process
 *
 * What `run` says:
 *   NOT_CAUGHT, status 0   the program came to its end, and the misuse had its effect
 *   HARMLESS, status 0     it came to its end, and what the allocator answered took the effect away
 *   ended by a signal      stopped; a line on stderr may say why
 *   status 2               the case does not exist or could not be set up
 * NOT_CAUGHT is written before the exit handlers run: what ends the process after it came late.
 *
 * A kind's function returns EFFECTIVE or HARMLESS. Its comment says what counts as stopped; where there is none, only
 * an end before the last line does.
 */
#ifndef HAKMEM_TESTS_MISUSE_H
#define HAKMEM_TESTS_MISUSE_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define MISUSE_UNUSED __attribute__((unused))
#define KIB ((size_t)1024)
#define MIB (1024 * KIB)
#define HANGS_AFTER_SECONDS 20
#define NEVER_FAILS(condition, what)                                                                                   \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            misuse_say(STDERR_FILENO, "cannot set up the case: " what);                                                \
            _exit(2);                                                                                                  \
        }                                                                                                              \
    } while (0)

enum verdict { EFFECTIVE, HARMLESS };
enum sizes { NO_SIZE = 0, SMALL = 1, MEDIUM = 2, LARGE = 4, ALL_SIZES = SMALL | MEDIUM | LARGE };

struct kind {
    const char *name;
    unsigned sizes;
    enum verdict (*function)(size_t size_bytes);
};

static const struct {
    unsigned bit;
    const char *name;
    size_t bytes;
} misuse_sizes[] = {{SMALL, "8", 8}, {MEDIUM, "4K", 4 * KIB}, {LARGE, "256K", 256 * KIB}};

/* Through variables that might change, so that no compiler knows what is called and leaves it out. */
static void *(*volatile do_malloc)(size_t) = malloc;
static void *(*volatile do_calloc)(size_t, size_t) = calloc;
static void *(*volatile do_realloc)(void *, size_t) = realloc;
static void (*volatile do_free)(void *) = free;
static void *(*volatile do_memcpy)(void *, const void *, size_t) = memcpy;
static void *(*volatile do_memset)(void *, int, size_t) = memset;

/* The same address, and the compiler has forgotten where it is from. */
#define HIDE(pointer) __asm__ volatile("" : "+r"(pointer) : : "memory")

/* One line, by one write: neither stdio nor the heap, which may be damaged. */
MISUSE_UNUSED static void misuse_say(int fd, const char *text)
{
    char line[128];
    size_t len = strlen(text);
    if (len > sizeof line - 1)
        len = sizeof line - 1;
    memcpy(line, text, len);
    line[len++] = '\n';
    if (write(fd, line, len) < 0)
        _exit(2);
}

MISUSE_UNUSED static char *claim(size_t size_bytes)
{
    char *block = (char *)do_malloc(size_bytes);
    NEVER_FAILS(block != NULL, "malloc returns NULL");
    return block;
}

/* Whether an aligned word of the bytes is this one. A word is not there by chance, as a single byte may be. */
MISUSE_UNUSED static int holds_word(const char *bytes, size_t len_bytes, uint64_t word)
{
    const volatile uint64_t *words = (const volatile uint64_t *)(const volatile void *)bytes;
    for (size_t i = 0; i < len_bytes / 8; i++)
        if (words[i] == word)
            return 1;
    return 0;
}

MISUSE_UNUSED static void fill_words(char *bytes, size_t len_bytes, uint64_t word)
{
    for (size_t i = 0; i + 8 <= len_bytes; i += 8)
        do_memcpy(bytes + i, &word, 8);
}

static int misuse_main(int argc, char **argv, const struct kind *kinds, size_t n_kinds)
{
    char name[64];
    int list = argc == 2 && strcmp(argv[1], "list") == 0;
    if (!list && (argc != 3 || strcmp(argv[1], "run") != 0)) {
        misuse_say(STDERR_FILENO, "usage: list | run CASE");
        return 2;
    }
    for (size_t i = 0; i < n_kinds; i++) {
        for (size_t k = 0; k < sizeof misuse_sizes / sizeof misuse_sizes[0]; k++) {
            int no_size = kinds[i].sizes == NO_SIZE;
            if (no_size ? k != 0 : (kinds[i].sizes & misuse_sizes[k].bit) == 0)
                continue;
            snprintf(name, sizeof name, "%s@%s", kinds[i].name, no_size ? "-" : misuse_sizes[k].name);
            if (list) {
                misuse_say(STDOUT_FILENO, name);
            } else if (strcmp(argv[2], name) == 0) {
                alarm(HANGS_AFTER_SECONDS);
                enum verdict verdict = kinds[i].function(misuse_sizes[k].bytes);
                if (verdict == EFFECTIVE)
                    do_free(do_malloc(KIB)); /* The program goes on, at least as far as to a stream's buffer. */
                misuse_say(STDOUT_FILENO, verdict == EFFECTIVE ? "NOT_CAUGHT" : "HARMLESS");
                return 0;
            }
        }
    }
    if (!list)
        misuse_say(STDERR_FILENO, "there is no such case");
    return list ? 0 : 2;
}

#endif
