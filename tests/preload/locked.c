/* locked.c - mlockall: what is freed goes back all the same, by a trim and by time, and what is handed out again is whole and, where that
 * is promised, zero. Needs the right to lock memory; without it that is a failure of the test, not of what it tests.
 */
#include "check.h"

#include <malloc.h>
#include <sys/mman.h>

#define SUM_BYTES (100 * CHECK_MIB)

static void use(size_t size_bytes)
{
    size_t n = SUM_BYTES / size_bytes;
    char **blocks = calloc(n, sizeof *blocks);
    REQUIRE(blocks != NULL);
    for (size_t i = 0; i < n; i++) {
        blocks[i] = i % 2 == 0 ? malloc(size_bytes) : calloc(1, size_bytes);
        REQUIRE(blocks[i] != NULL);
        CHECK(i % 2 == 0 || check_zero(blocks[i], size_bytes));
        check_fill(blocks[i], size_bytes, i);
    }
    if (size_bytes > CHECK_MIB) /* moved by remapping */
        for (size_t i = 0; i < n; i++) {
            char *grown = realloc(blocks[i], size_bytes * 3);
            REQUIRE(grown != NULL);
            blocks[i] = realloc(grown, size_bytes);
        }
    for (size_t i = 0; i < n; i++) {
        CHECK(check_filled(blocks[i], size_bytes, i));
        free(blocks[i]);
    }
    free(blocks);
}

static void check_all_sizes(const char *how)
{
    static const size_t sizes[] = {100, 3000, 50000, 400000, 3000000, 10000000};
    size_t before_bytes = check_resident_bytes();
    for (unsigned i = 0; i < CHECK_COUNT(sizes); i++) {
        use(sizes[i]);
        if (i % 2 == 0)
            malloc_trim(0);
        check_await_resident(how, before_bytes + SUM_BYTES / 3);
    }
}

int main(void)
{
    check_on_hakmem();
    free(malloc(1));
    REQUIRE(mlockall(MCL_CURRENT | MCL_ONFAULT) == 0);
    check_all_sizes("locked, what was there");
    REQUIRE(mlockall(MCL_CURRENT | MCL_FUTURE) == 0);
    check_all_sizes("locked, and what is to come");
    return check_status();
}
