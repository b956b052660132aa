/* lowered_limits.c - RLIMIT_AS and RLIMIT_DATA set at run time below what the process has: blocks that grow are moved or refused, nothing
 * held changes, and the process lives. Each in a child.
 */
#include "check.h"

#include <sys/resource.h>

static void limit(int resource, size_t bytes)
{
    struct rlimit limit = {bytes, bytes};
    REQUIRE(setrlimit(resource, &limit) == 0);
}

/* Two blocks in turns, so that neither can grow where it lies. */
static int grow(void)
{
    char *blocks[2] = {NULL, NULL};
    size_t sizes[2] = {0, 0};
    for (size_t size = 4 * CHECK_MIB; size <= 256 * CHECK_MIB; size *= 2)
        for (unsigned i = 0; i < 2; i++) {
            char *grown = realloc(blocks[i], size);
            if (grown == NULL) {
                if (errno != ENOMEM)
                    return 2;
                continue;
            }
            blocks[i] = grown;
            if (sizes[i] != 0 && !check_filled(grown, sizes[i], i + sizes[i]))
                return 3;
            sizes[i] = size;
            check_fill(grown, size, i + size);
        }
    for (unsigned i = 0; i < 2; i++)
        if (!check_filled(blocks[i], sizes[i], i + sizes[i]))
            return 4;
    free(blocks[0]);
    free(blocks[1]);
    return 0;
}

static void in_child(const char *what, int resource, size_t limit_bytes, size_t before_bytes)
{
    int status = 0;
    pid_t pid = fork();
    if (pid == 0) {
        char *early = malloc(before_bytes);
        memset(early, 1, before_bytes);
        free(early);
        limit(resource, limit_bytes);
        _exit(grow());
    }
    REQUIRE(pid > 0 && waitpid(pid, &status, 0) == pid);
    CHECK_THAT(status == 0, "%s, %zu MiB: the child ended with status %#x", what, limit_bytes / CHECK_MIB, (unsigned)status);
}

int main(void)
{
    static const size_t limits_mib[] = {1, 100, 300, 1000, 4000};
    check_on_hakmem();
    free(malloc(1));
    for (unsigned i = 0; i < CHECK_COUNT(limits_mib); i++) {
        in_child("RLIMIT_AS", RLIMIT_AS, limits_mib[i] * CHECK_MIB, CHECK_MIB);
        in_child("RLIMIT_DATA", RLIMIT_DATA, limits_mib[i] * CHECK_MIB, CHECK_MIB);
        in_child("RLIMIT_DATA, after use", RLIMIT_DATA, limits_mib[i] * CHECK_MIB, 300 * CHECK_MIB);
    }
    return check_status();
}
