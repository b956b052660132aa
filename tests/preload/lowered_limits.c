/* lowered_limits.c - RLIMIT_AS and RLIMIT_DATA set at run time below what the process has: blocks that grow are moved or refused, nothing
 * held changes, and the process lives. Each in a child. One below what is reserved, too: it leaves room for everything else.
 */
#include "check.h"

#include <pthread.h>
#include <stdint.h>
#include <sys/mman.h>
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
    CHECK_THAT(status == 0, "%s, %zu MiB: the child ended with status %#x", what, limit_bytes / CHECK_MIB,
               (unsigned)status);
}

static void *free_and_claim(void *block)
{
    free(block);
    return malloc(100000);
}

/* Under a limit of so much there is room for mappings, threads, and blocks; and as much as ever when it is gone. The first blocks, of the
 * first arena, and later ones are freed by another thread. */
static int live_under(size_t limit_bytes)
{
    enum { FEW = 40 };
    char *before[FEW], *after[FEW];
    for (size_t i = 0; i < FEW; i++)
        check_fill(before[i] = malloc(1000 * i + 1), 1000 * i + 1, i);
    struct rlimit limits = {limit_bytes, RLIM_INFINITY}; /* the one before comes in its place */
    if (prlimit(getpid(), RLIMIT_AS, &limits, &limits) != 0)
        return 1;
    if (check_proc_status("VmSize:") / 1024 > limit_bytes / CHECK_MIB)
        return 2;
    void *mapping = mmap(NULL, limit_bytes / 8, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapping == MAP_FAILED)
        return 3;
    munmap(mapping, limit_bytes / 8);
    for (size_t i = 0; i < FEW; i++) {
        size_t size = limit_bytes / 3 / FEW;
        if ((after[i] = malloc(size)) == NULL)
            return 4;
        check_fill(after[i], size, i);
    }
    if (malloc(limit_bytes) != NULL || errno != ENOMEM)
        return 5;
    for (size_t i = 0; i < FEW; i++) {
        pthread_t thread;
        void *other;
        if (!check_filled(before[i], 1000 * i + 1, i) || !check_filled(after[i], limit_bytes / 3 / FEW, i))
            return 6;
        if (pthread_create(&thread, NULL, free_and_claim, i % 2 == 0 ? before[i] : after[i]) != 0 ||
            pthread_join(thread, &other) != 0 || other == NULL)
            return 7;
        free(i % 2 == 0 ? after[i] : before[i]);
        free(other);
    }
    if (setrlimit(RLIMIT_AS, &(struct rlimit){RLIM_INFINITY, RLIM_INFINITY}) != 0)
        return 8;
    void *much = malloc((size_t)4 << 30);
    free(much);
    return much == NULL ? 9 : 0;
}

static int set_in_vfork_child(size_t limit_bytes)
{
    size_t before = check_proc_status("VmSize:");
    pid_t pid = vfork();
    if (pid == 0) {
        setrlimit(RLIMIT_AS, &(struct rlimit){limit_bytes, limit_bytes});
        _exit(0);
    }
    int status = 0;
    if (pid < 0 || waitpid(pid, &status, 0) != pid || status != 0)
        return 1;
    return check_proc_status("VmSize:") == before ? 0 : 2;
}

/* A limit that the system refuses, or that is another process's, takes nothing from what is reserved. */
static int set_none_of_its_own(size_t limit_bytes)
{
    size_t before = check_proc_status("VmSize:");
    errno = 0;
    if (setrlimit(RLIMIT_AS, &(struct rlimit){limit_bytes, limit_bytes / 2}) == 0 || errno != EINVAL)
        return 1;
    if (check_proc_status("VmSize:") != before)
        return 2;
    pid_t pid = fork();
    if (pid == 0) {
        pause();
        _exit(0);
    }
    int status = 0, refused = prlimit(pid, RLIMIT_AS, &(struct rlimit){limit_bytes, limit_bytes}, NULL);
    size_t after = check_proc_status("VmSize:");
    kill(pid, SIGKILL);
    if (pid < 0 || waitpid(pid, &status, 0) != pid || refused != 0)
        return 3;
    return after == before ? 0 : 4;
}

/* As many blocks as the limit allows: how many. */
static size_t fill_up(char **block, size_t most, size_t size)
{
    size_t n = 0;
    while (n < most && (block[n] = malloc(size)) != NULL) {
        check_fill(block[n], size, n);
        n++;
    }
    for (size_t i = 0; i < n; i++)
        if (!check_filled(block[i], size, i))
            return 0;
    return n;
}

/* What was freed can be had again, whatever it was before: it is the limit's no more, or serves without being charged again. */
static int live_at_data_limit(size_t limit_bytes)
{
    enum { MOST = 100000, LARGE = 50000, SMALL = 1000 };
    static char *block[MOST];
    if (setrlimit(RLIMIT_DATA, &(struct rlimit){limit_bytes, limit_bytes}) != 0)
        return 1;
    size_t n_large[2], n_small[2];
    for (unsigned round = 0; round < 2; round++) {
        n_large[round] = fill_up(block, MOST, LARGE);
        for (size_t i = 0; i < n_large[round]; i++)
            free(block[i]);
        n_small[round] = fill_up(block, MOST, SMALL);
        for (size_t i = 0; i < n_small[round]; i++)
            free(block[i]);
    }
    if (n_large[0] * LARGE < limit_bytes / 2 || n_small[0] * SMALL < limit_bytes / 2)
        return 2;
    return n_large[1] < n_large[0] / 4 * 3 || n_small[1] < n_small[0] / 4 * 3 ? 3 : 0;
}

/* Maps pages of the program's own right behind whatever is mapped. */
static size_t map_neighbours(char **page, size_t most)
{
    enum { EACH = 16, PAGE_BYTES = 4096 };
    static uintptr_t end[4096];
    FILE *maps = fopen("/proc/self/maps", "r");
    char line[512];
    size_t n_ends = 0, n = 0;
    REQUIRE(maps != NULL);
    while (n_ends < CHECK_COUNT(end) && fgets(line, sizeof line, maps) != NULL) {
        const char *dash = strchr(line, '-');
        end[n_ends++] = dash == NULL ? 0 : (uintptr_t)strtoull(dash + 1, NULL, 16);
    }
    fclose(maps);
    for (size_t i = 0; i < n_ends; i++)
        for (size_t k = 0; k < EACH && n < most; k++) {
            void *wanted = (void *)(end[i] + k * PAGE_BYTES); /* NOLINT(performance-no-int-to-ptr) */
            page[n] = mmap(wanted, PAGE_BYTES, PROT_READ | PROT_WRITE,
                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
            if (page[n] != MAP_FAILED && page[n] != wanted)
                munmap(page[n], PAGE_BYTES); /* a system that does not know the flag */
            else
                n += page[n] != MAP_FAILED;
        }
    return n;
}

/* Where an arena ended after the first limit other mappings of the program may lie. A further limit takes nothing from them. */
static int lower_again(size_t limit_bytes)
{
    static char *page[20000];
    unsigned char in_memory;
    for (unsigned round = 0; round < 4; round++) {
        limit_bytes -= limit_bytes / 5;
        if (setrlimit(RLIMIT_AS, &(struct rlimit){limit_bytes, RLIM_INFINITY}) != 0)
            return 1;
        size_t n = map_neighbours(page, CHECK_COUNT(page));
        if (n == 0)
            return 2;
        limit_bytes -= limit_bytes / 5;
        if (setrlimit(RLIMIT_AS, &(struct rlimit){limit_bytes, RLIM_INFINITY}) != 0)
            return 3;
        for (size_t i = 0; i < n; i++)
            if (mincore(page[i], 1, &in_memory) != 0)
                return 4;
        for (size_t i = 0; i < n; i++)
            munmap(page[i], 1);
    }
    return 0;
}

static void check_child(const char *what, int (*function)(size_t), size_t limit_bytes)
{
    int status = 0;
    pid_t pid = fork();
    if (pid == 0)
        _exit(function(limit_bytes));
    REQUIRE(pid > 0 && waitpid(pid, &status, 0) == pid);
    CHECK_THAT(status == 0, "%s, %zu MiB: the child ended with status %#x", what, limit_bytes / CHECK_MIB,
               (unsigned)status);
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
    check_child("living under RLIMIT_AS", live_under, 200 * CHECK_MIB);
    check_child("living under RLIMIT_AS", live_under, 1000 * CHECK_MIB);
    const char *secure = getenv("HAKMEM_SECURE");
    /* whose blocks take mappings, of which a process may have so many */
    if (secure == NULL || strcmp(secure, "max") != 0)
        check_child("living at RLIMIT_DATA", live_at_data_limit, 60 * CHECK_MIB);
    check_child("RLIMIT_AS again and again", lower_again, (size_t)10000 * CHECK_MIB);
    check_child("RLIMIT_AS of a child of vfork", set_in_vfork_child, 200 * CHECK_MIB);
    check_child("RLIMIT_AS, refused, and of another process", set_none_of_its_own, 200 * CHECK_MIB);
    return check_status();
}
