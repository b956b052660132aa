/* core_files.c - what core files have of the heap: every page of every block, but not the address space that is only reserved, for
 * which gcore would write zeros. The system's own list of mappings says which are left out (the flag "dd").
 */
#include "check.h"

#include <malloc.h>

struct mapping {
    uintptr_t from, to;
    bool left_out;
};
enum { MAX_MAPPINGS = 4000 };
static struct mapping mappings[MAX_MAPPINGS];
static unsigned n_mappings;

/* By read() into an array: a stream would allocate meanwhile. */
static void read_mappings(void)
{
    static char text[4 * 1024 * 1024];
    size_t len = 0;
    int file = open("/proc/self/smaps", O_RDONLY | O_CLOEXEC);
    REQUIRE(file >= 0);
    for (ssize_t n; len < sizeof text - 1 && (n = read(file, text + len, sizeof text - 1 - len)) > 0;)
        len += (size_t)n;
    close(file);
    text[len] = 0;
    n_mappings = 0;
    for (char *line = text, *next; (next = strchr(line, '\n')) != NULL; line = next + 1) {
        char *rest;
        *next = 0;
        uintptr_t from = strtoull(line, &rest, 16);
        if (rest != line && *rest == '-' && n_mappings < MAX_MAPPINGS)
            mappings[n_mappings++] = (struct mapping){from, strtoull(rest + 1, NULL, 16), false};
        else if (strncmp(line, "VmFlags:", 8) == 0 && n_mappings > 0)
            mappings[n_mappings - 1].left_out = strstr(line, " dd") != NULL;
    }
    REQUIRE(n_mappings > 0 && n_mappings < MAX_MAPPINGS);
}

/* Whether all of a block is in core files. */
static bool is_shown(const void *block, size_t size)
{
    uintptr_t at = (uintptr_t)block;
    for (unsigned i = 0; i < n_mappings && at < (uintptr_t)block + size; i++)
        if (at >= mappings[i].from && at < mappings[i].to && !mappings[i].left_out)
            at = mappings[i].to; /* they come in order */
    return at >= (uintptr_t)block + size;
}

int main(void)
{
    static const size_t sizes[] = {8,      100,     4096,    30000,          40000,
                                   300000, 1500000, 3000000, 40 * CHECK_MIB, 300 * CHECK_MIB};
    void *block[CHECK_COUNT(sizes)];
    check_on_hakmem();
    for (unsigned i = 0; i < CHECK_COUNT(sizes); i++) {
        block[i] = malloc(sizes[i]);
        REQUIRE(block[i] != NULL);
        *(volatile char *)block[i] = 1;
    }
    read_mappings();
    for (unsigned i = 0; i < CHECK_COUNT(sizes); i++)
        CHECK_THAT(is_shown(block[i], sizes[i]), "a block of %zu bytes is in no core file", sizes[i]);
    size_t reserved_bytes = 0;
    for (unsigned i = 0; i < n_mappings; i++)
        reserved_bytes += mappings[i].left_out ? mappings[i].to - mappings[i].from : 0;
    CHECK_THAT(reserved_bytes > 1024 * CHECK_MIB, "of what is reserved but %zu MiB are left out",
               reserved_bytes / CHECK_MIB);
    for (unsigned i = 0; i < CHECK_COUNT(sizes); i++) /* and again, what was freed and is used once more */
        free(block[i]);
    malloc_trim(0);
    for (unsigned i = 0; i < CHECK_COUNT(sizes); i++) {
        block[i] = malloc(sizes[i]);
        REQUIRE(block[i] != NULL);
    }
    read_mappings();
    for (unsigned i = 0; i < CHECK_COUNT(sizes); i++)
        CHECK_THAT(is_shown(block[i], sizes[i]), "a block of %zu bytes is in no core file after a trim", sizes[i]);
    return check_status();
}
