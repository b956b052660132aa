/* process.h - what unit tests ask of their build and of their own process.
 * Called by  tests/unit/test_*.c.     Calls  nothing of the library
 */
#ifndef HAKMEM_TESTS_UNIT_PROCESS_H
#define HAKMEM_TESTS_UNIT_PROCESS_H

#include <fcntl.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Under AddressSanitizer or ThreadSanitizer: calls take longer, frames are larger, and resident memory is mostly theirs. */
#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SANITIZED 1
#endif
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#endif

/* Resident memory, exact to the page: the sum over the page tables, which VmRSS may lag behind. Uses no heap. */
static inline size_t rss_bytes(void)
{
    static char text[4096];
    int fd = open("/proc/self/smaps_rollup", O_RDONLY | O_CLOEXEC);
    const char *name = "Rss:";
    if (fd < 0) {
        fd = open("/proc/self/status", O_RDONLY | O_CLOEXEC);
        name = "VmRSS:";
    }
    ssize_t len = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
    if (fd >= 0)
        close(fd);
    text[len < 0 ? 0 : len] = '\0';
    const char *at = strstr(text, name);
    if (at == NULL) {
        fprintf(stderr, "/proc says nothing of resident memory\n");
        abort();
    }
    return (size_t)strtoull(at + strlen(name), NULL, 10) * 1024;
}

#endif
