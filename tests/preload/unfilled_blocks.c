/* unfilled_blocks.c - large blocks in which a program writes a byte each, or to few pages, must not be in memory as whole huge pages, nor
 * because calloc writes what is zero already: usually, with the helper off, when nothing is given back unasked, and under a filter of system
 * calls, where hakmem may not ask what is in memory.
 */
#include "check.h"

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/resource.h>

enum { BLOCKS = 100, MANY = 8000, MOST_MIB = 80 };

/* Of each a byte is written: behind the middle as well as before it, in blocks of one huge page, of two, and of one and a part; of some
 * every so manieth; and of many shorter ones by calloc. */
static const struct {
    size_t len_bytes, at;
    unsigned n;
    bool zeroed;
    size_t step_bytes; /* 0: only the one byte */
} ways[] = {{16 * CHECK_MIB, 5 * CHECK_MIB, BLOCKS, false, 0},
            {2 * CHECK_MIB, 100, BLOCKS, false, 0},
            {3000000, 100, BLOCKS, false, 0},
            {3000000, 1600000, BLOCKS, false, 0},
            {4 * CHECK_MIB, 3000000, BLOCKS, false, 0},
            {4 * CHECK_MIB, 100, BLOCKS, false, 0},
            {5000000, 3000000, BLOCKS, false, 0},
            {50000, 100, MANY, true, 0},
            {100000, 100, MANY, true, 0},
            {200000, 100, MANY, true, 0},
            {300000, 100, MANY, true, 0},
            {16384, 100, MANY, true, 0},
            {32768, 100, MANY, true, 0},
            {20000, 100, MANY, false, 0},
            {32768, 100, MANY, false, 0},
            {4 * CHECK_MIB, 0, BLOCKS, false, 50000},
            {8 * CHECK_MIB, 0, BLOCKS, false, 40960},
            {19 * CHECK_MIB, 0, BLOCKS / 2, false, 40960}};

static int hold_blocks(unsigned way)
{
    static volatile char *blocks[MANY];
    size_t before = check_resident_bytes(), most_bytes = MOST_MIB * CHECK_MIB, step_bytes = ways[way].step_bytes;
    size_t page_bytes = (size_t)sysconf(_SC_PAGESIZE);
    if (ways[way].zeroed) /* On a busy machine the page of each that was used before may not have gone back yet. */
        most_bytes += ways[way].n * page_bytes;
    /* What calloc gets has been used before, as little. */
    for (unsigned round = 0; ways[way].zeroed && round < 2; round++)
        for (unsigned i = 0; i < ways[way].n; i++) {
            if (round != 0) {
                free((void *)blocks[i]);
                continue;
            }
            blocks[i] = malloc(ways[way].len_bytes);
            REQUIRE(blocks[i] != NULL);
            blocks[i][ways[way].at] = 1;
        }
    for (unsigned i = 0; i < ways[way].n; i++) {
        blocks[i] = ways[way].zeroed ? calloc(1, ways[way].len_bytes) : malloc(ways[way].len_bytes);
        REQUIRE(blocks[i] != NULL);
        blocks[i][ways[way].at] = 1;
        for (size_t at = ways[way].at; step_bytes != 0 && at < ways[way].len_bytes; at += step_bytes) {
            blocks[i][at] = 1;
            most_bytes += page_bytes;
        }
    }
    return check_resident_bytes() - before > most_bytes;
}

/* Blocks that are filled have huge pages all the same, where the system has them. */
static int fill_blocks(void)
{
    char text[100] = "";
    int file = open("/sys/kernel/mm/transparent_hugepage/enabled", O_RDONLY);
    if (file < 0 || read(file, text, sizeof text - 1) <= 0 || strstr(text, "[never]") != NULL)
        return CHECK_SKIPPED;
    struct rusage before, after;
    getrusage(RUSAGE_SELF, &before);
    check_malloc(16 * CHECK_MIB);
    getrusage(RUSAGE_SELF, &after);
    if (after.ru_minflt - before.ru_minflt > 4096 / 4)
        return CHECK_SKIPPED; /* The system has none to give. */
    for (size_t len_bytes = 2 * CHECK_MIB; len_bytes <= 8 * CHECK_MIB; len_bytes *= 2) {
        getrusage(RUSAGE_SELF, &before);
        for (unsigned i = 0; i < BLOCKS; i++) {
            char *block = malloc(len_bytes);
            REQUIRE(block != NULL);
            check_fill(block, len_bytes, i);
        }
        getrusage(RUSAGE_SELF, &after);
        CHECK_THAT(after.ru_minflt - before.ru_minflt < (long)(BLOCKS * len_bytes / 4096 / 4),
                   "%zu MiB: %ld page faults", len_bytes / CHECK_MIB, after.ru_minflt - before.ru_minflt);
    }
    return check_status();
}

/* A large block of which every so manieth page is used, freed, is not all in memory because calloc hands it out again: nor where what is in
 * memory must not be asked. */
static int reuse_block(void)
{
    const size_t len_bytes = 600 * CHECK_MIB, page_bytes = (size_t)sysconf(_SC_PAGESIZE);
    char *block = malloc(len_bytes);
    REQUIRE(block != NULL);
    for (size_t at = 0; at < len_bytes; at += 15 * page_bytes)
        block[at] = 1;
    free(block);
    for (unsigned i = 0; i < 2; i++) {
        block = calloc(1, len_bytes);
        REQUIRE(block != NULL);
        CHECK_THAT(check_resident_bytes() < MOST_MIB * CHECK_MIB, "%zu MiB are in memory",
                   check_resident_bytes() / CHECK_MIB);
        CHECK(check_zero(block, len_bytes));
        free(block);
    }
    return check_status();
}

/* Few blocks of which some pages are used: the process is small, and stays so. */
static int hold_few(void)
{
    static volatile char *blocks[10];
    size_t before_bytes = check_resident_bytes();
    for (unsigned i = 0; i < CHECK_COUNT(blocks); i++) {
        size_t len_bytes = (i % 2 == 0 ? 18 : 3) * CHECK_MIB;
        blocks[i] = malloc(len_bytes);
        REQUIRE(blocks[i] != NULL);
        for (size_t at = 0; at < len_bytes; at += 5 * CHECK_MIB)
            blocks[i][at] = 1;
    }
    size_t now_bytes = check_resident_bytes();
    CHECK_THAT(now_bytes < before_bytes + 20 * CHECK_MIB, "%zu MiB are in memory",
               (now_bytes - before_bytes) / CHECK_MIB);
    return check_status();
}

static void allow_everything(void)
{
    struct sock_filter allow = BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    struct sock_fprog program = {1, &allow};
    REQUIRE(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 && prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0);
}

/* Runs this program again, which then only holds blocks in one of the ways. */
static void try_with(const char *self, const char *variable, const char *value, bool filtered, unsigned way)
{
    char number[12];
    int status = 0;
    snprintf(number, sizeof number, "%u", way);
    pid_t pid = fork();
    if (pid == 0) {
        setenv(variable, value, 1);
        if (filtered)
            allow_everything();
        execl(self, self, number, (char *)NULL);
        _exit(127);
    }
    REQUIRE(pid > 0 && waitpid(pid, &status, 0) == pid);
    if (WIFEXITED(status) && WEXITSTATUS(status) == CHECK_SKIPPED) {
        check_leave_out("this system has no huge pages, or none to give");
        return;
    }
    CHECK_THAT(status == 0, "%s=%s%s, way %u: %#x", variable, value, filtered ? ", filtered" : "", way,
               (unsigned)status);
}

int main(int argc, char **argv)
{
    check_on_hakmem();
    if (argc > 1) {
        unsigned way = (unsigned)strtoul(argv[1], NULL, 10);
        return way < CHECK_COUNT(ways)        ? hold_blocks(way)
               : way == CHECK_COUNT(ways)     ? fill_blocks()
               : way == CHECK_COUNT(ways) + 1 ? reuse_block()
                                              : hold_few();
    }
    for (unsigned way = 0; way <= CHECK_COUNT(ways) + 2; way++)
        try_with(argv[0], "HAKMEM_STATS", "0", false, way);
    for (unsigned way = 0; way < CHECK_COUNT(ways); way++)
        if (ways[way].n == BLOCKS)
            try_with(argv[0], "HAKMEM_SECURE", "1", false, way);
    for (unsigned way = 0; way < CHECK_COUNT(ways); way++) {
        try_with(argv[0], "HAKMEM_STATS", "0", true, way);
        try_with(argv[0], "HAKMEM_BACKGROUND", "off", false, way);
        try_with(argv[0], "HAKMEM_PURGE_DELAY_MS", "-1", false, way);
    }
    try_with(argv[0], "HAKMEM_STATS", "0", true, CHECK_COUNT(ways) + 1);
    try_with(argv[0], "HAKMEM_BACKGROUND", "off", false, CHECK_COUNT(ways) + 1);
    return check_status();
}
