/* hardened_promises.c - what hardened mode says of blocks with pages of their own, and of the children of a fork, one by one. Each in a
 * process with its own HAKMEM_SECURE.
 *   E  max: a block ends before an inaccessible page, also after realloc has made it longer or shorter
 *   G  max: there are as many guards as before, whatever has come and gone; 1: when they have been used up there are others soon
 *   S  1: a byte behind the end is found wherever it lies in the first 8
 *   Q  1 and max: a freed block is not handed out before 16 others have been freed
 *   F  1 and max: blocks that wait for their release count as that, and are not live; those that have waited are committed when they live again
 *   L  1: a block that cannot be moved to a smaller place is shorter where it lies, and what it leaves is cleared
 *   R  1: a block with room to grow where it lies does not grow beyond the budget
 *   C  1: children of one fork after another get blocks in orders of their own
 */
#include "check.h"

#include <malloc.h>

/* Runs an act in a child; whether a signal ended it. */
static bool ends_by_signal(void (*act)(char *), char *block)
{
    int status = 0, null = open("/dev/null", O_WRONLY);
    pid_t pid = fork();
    if (pid == 0) {
        dup2(null, STDERR_FILENO);
        act(block);
        _exit(0);
    }
    close(null);
    REQUIRE(pid > 0 && waitpid(pid, &status, 0) == pid);
    return WIFSIGNALED(status);
}

static void read_byte(char *at)
{
    (void)*(volatile char *)at;
}

static void check_ends(void)
{
    static const size_t sizes[][2] = {{65536, 65552}, {65536, 40000}, {131072, 131073}, {65552, 131088},   {4096, 5000},
                                      {10, 5000},     {40000, 65537}, {131072, 65537},  {3000000, 2097153}};
    for (unsigned i = 0; i < CHECK_COUNT(sizes); i++) {
        char *block = realloc(malloc(sizes[i][0]), sizes[i][1]);
        REQUIRE(block != NULL);
        size_t beyond = (sizes[i][1] + 15) / 16 * 16; /* malloc's alignment may leave a gap */
        CHECK_THAT(ends_by_signal(read_byte, block + beyond), "%zu to %zu: what lies behind can be read", sizes[i][0],
                   sizes[i][1]);
        free(block);
    }
}

/* Blocks that were freed, or could not be had, use up no guards. */
static void check_guards(void)
{
    enum { MORE_THAN_ALL = 17000 };
    for (unsigned i = 0; i < MORE_THAN_ALL; i++) {
        char *block = malloc(40000);
        free(block);
        CHECK(block != NULL && malloc((size_t)1 << 60) == NULL);
    }
    char *block = malloc(65536);
    REQUIRE(block != NULL);
    CHECK_THAT(ends_by_signal(read_byte, block + 65536), "after %d others what lies behind a block can be read",
               MORE_THAN_ALL);
    free(block);
}

/* So many at once, and so many in each millisecond from then on. */
static void check_guards_return(void)
{
    enum { MORE_THAN_AT_ONCE = 20000 };
    for (unsigned i = 0; i < MORE_THAN_AT_ONCE; i++)
        free(malloc(40000));
    usleep(300000);
    for (unsigned i = 0; i < 100; i++) {
        char *block = malloc(65536);
        REQUIRE(block != NULL);
        CHECK_THAT(ends_by_signal(read_byte, block + 65536),
                   "a while after %d others what lies behind a block can be read", MORE_THAN_AT_ONCE);
    }
}

static size_t behind;

static void write_behind_and_free(char *block)
{
    block[behind]++;
    free(block);
}

static void check_slack(void)
{
    static const size_t sizes[] = {4097, 5003, 8189, 32769, 40001, 65537, 100007};
    for (unsigned i = 0; i < CHECK_COUNT(sizes); i++)
        for (size_t more = 0; more < 8; more++)
            for (size_t k = 0; k < 8; k++) {
                char *block = malloc(sizes[i] + more);
                REQUIRE(block != NULL);
                behind = sizes[i] + more + k;
                CHECK_THAT(ends_by_signal(write_behind_and_free, block), "%zu bytes: one written at %zu is not found",
                           sizes[i] + more, behind);
                free(block);
            }
}

static void check_waiting(void)
{
    static const size_t sizes[] = {100000, 3000000};
    for (unsigned i = 0; i < CHECK_COUNT(sizes); i++)
        for (unsigned round = 0; round < 2000; round++) {
            char *block = malloc(sizes[i]);
            free(block);
            for (unsigned n = 0; n < 16; n++) {
                char *other = malloc(sizes[i]);
                if (other == block) {
                    CHECK_FAIL("%zu bytes: handed out again after %u others in round %u", sizes[i], n, round);
                    return;
                }
                free(other);
            }
        }
}

/* Blocks that wait are nobody's. */
static void check_figures(void)
{
    static const size_t sizes[] = {40000, 100000, 3000000};
    void *block[16]; /* one more, and the first of them may go */
    const struct hak_stats before = check_stats();
    for (unsigned i = 0; i < CHECK_COUNT(block); i++)
        block[i] = malloc(sizes[i % CHECK_COUNT(sizes)]);
    for (unsigned i = 0; i < CHECK_COUNT(block); i++)
        free(block[i]);
    struct hak_stats after = check_stats();
    CHECK_THAT(after.waiting_blocks == CHECK_COUNT(block) && after.waiting_bytes > CHECK_COUNT(block) * sizes[0],
               "%u blocks wait, of %zu bytes", (unsigned)after.waiting_blocks, (size_t)after.waiting_bytes);
    CHECK_THAT(after.live_blocks == before.live_blocks && after.live_bytes == before.live_bytes,
               "%zu bytes were live, and %zu are", (size_t)before.live_bytes, (size_t)after.live_bytes);
    size_t (*trim)(int);
    void *symbol = check_symbol("hak_trim");
    memcpy(&trim, &symbol, sizeof symbol);
    trim(HAK_TRIM_CACHE);
    after = check_stats();
    CHECK_THAT(after.waiting_blocks == 0 && after.waiting_bytes == 0, "%u blocks of %zu bytes wait after a trim",
               (unsigned)after.waiting_blocks, (size_t)after.waiting_bytes);
    static void *again[100];
    for (unsigned round = 0; round < 20; round++) { /* from the second on some of them have waited */
        for (unsigned i = 0; i < CHECK_COUNT(again); i++)
            again[i] = malloc(sizes[1]);
        after = check_stats();
        CHECK_THAT(after.committed_bytes >= CHECK_COUNT(again) * sizes[1],
                   "of %u blocks of %zu bytes %zu are committed", (unsigned)CHECK_COUNT(again), sizes[1],
                   (size_t)after.committed_bytes);
        for (unsigned i = 0; i < CHECK_COUNT(again); i++)
            free(again[i]);
    }
}

/* How many bytes are not zero. */
static size_t count_set(const char *from, const char *to)
{
    size_t n = 0;
    for (; from < to; from++)
        n += *from != 0;
    return n;
}

/* A block that is to be much smaller, where no small one is to be had, stays, and is as small as it was asked to be: a wrong size would
 * end the process. */
static void check_shorter_without_memory(void)
{
    static const size_t sizes[] = {2000, 20000, 700000, 5 * CHECK_MIB};
    enum { SHORTER = 353, SLACK_BYTES = 40 }; /* a pattern behind the new end, and at the old one */
    int (*budget_set)(size_t, size_t);
    void (*free_sized)(void *, size_t);
    void *symbol = check_symbol("hak_budget_set");
    memcpy(&budget_set, &symbol, sizeof symbol);
    symbol = check_symbol("free_sized");
    memcpy(&free_sized, &symbol, sizeof symbol);
    REQUIRE(budget_set(0, 24 * CHECK_MIB) == 0);
    for (unsigned i = 0; i < CHECK_COUNT(sizes); i++) {
        char *block = malloc(sizes[i]);
        void *held = NULL;
        unsigned n_refused = 0;
        REQUIRE(block != NULL);
        memset(block, 7, sizes[i]);
        while (n_refused < 2) { /* once for the reserve */
            void **other = malloc(SHORTER);
            if (other == NULL) {
                n_refused++;
                continue;
            }
            *other = held;
            held = other;
        }
        errno = 1234;
        char *volatile shorter = realloc(block, SHORTER);
        CHECK_THAT(shorter == block && errno == 1234, "%zu bytes made shorter without memory: %s, errno %d", sizes[i],
                   shorter == NULL    ? "refused"
                   : shorter == block ? "stays"
                                      : "moved",
                   errno);
        CHECK(malloc_usable_size(shorter) == SHORTER && shorter[0] == 7 && shorter[SHORTER - 1] == 7);
        size_t n_left = count_set(shorter + SHORTER, shorter + sizes[i]);
        CHECK_THAT(n_left <= SLACK_BYTES, "%zu bytes made shorter without memory: %zu of what was there are left",
                   sizes[i], n_left);
        free_sized(shorter, SHORTER);
        while (held != NULL) {
            void *next = *(void **)held;
            free(held);
            held = next;
        }
    }
}

/* The room of a block that has grown once is address space alone: it is promised when it is used. */
static void check_longer_without_memory(void)
{
    enum { LONGER = 6 * 1024 * 1024 - 5000 };
    int (*budget_set)(size_t, size_t);
    void *symbol = check_symbol("hak_budget_set");
    memcpy(&budget_set, &symbol, sizeof symbol);
    char *block = realloc(malloc(2 * CHECK_MIB), 4 * CHECK_MIB);
    REQUIRE(block != NULL);
    memset(block, 7, 4 * CHECK_MIB);
    REQUIRE(budget_set(0, check_stats().committed_bytes + 4 * CHECK_MIB) == 0);
    for (unsigned i = 0; i < 20; i++) { /* what was promised is settled each time */
        CHECK_THAT(realloc(block, LONGER) == block, "a block does not grow where it lies, the %u. time", i + 1);
        CHECK(realloc(block, 4 * CHECK_MIB) == block);
    }
    for (unsigned n_refused = 0; n_refused < 2;) /* once for the reserve */
        n_refused += malloc(60000) == NULL;
    errno = 0;
    char *longer = realloc(block, LONGER);
    CHECK_THAT(longer == NULL && errno == ENOMEM, "a block grows beyond the budget %s, errno %d",
               longer == block ? "where it lies" : "", errno);
    CHECK(block[0] == 7 && block[4 * CHECK_MIB - 1] == 7);
}

enum { N_SEEN = 6 };

static void see(size_t size, void *seen[N_SEEN])
{
    int ends[2];
    REQUIRE(pipe(ends) == 0);
    pid_t pid = fork();
    if (pid == 0) {
        for (unsigned i = 0; i < N_SEEN; i++)
            seen[i] = malloc(size);
        _exit(write(ends[1], seen, N_SEEN * sizeof *seen) != N_SEEN * sizeof *seen);
    }
    REQUIRE(pid > 0 && read(ends[0], seen, N_SEEN * sizeof *seen) == N_SEEN * sizeof *seen &&
            check_wait(pid, "a child") == 0);
    close(ends[0]);
    close(ends[1]);
}

/* What is handed out next is drawn by each child anew: of a class's blocks, and of larger ones that wait. */
static void check_children(void)
{
    static const size_t sizes[] = {40, 100000};
    for (unsigned k = 0; k < CHECK_COUNT(sizes); k++) {
        void *seen[3][N_SEEN], *warm[100];
        for (unsigned i = 0; i < 100; i++)
            warm[i] = malloc(sizes[k]);
        for (unsigned i = 0; i < 100; i++)
            free(warm[i]);
        for (unsigned i = 0; i < 3; i++)
            see(sizes[k], seen[i]);
        CHECK_THAT(memcmp(seen[0], seen[1], sizeof seen[0]) != 0 || memcmp(seen[1], seen[2], sizeof seen[0]) != 0,
                   "three children get the same blocks of %zu bytes in the same order", sizes[k]);
    }
}

static const struct {
    const char *secure;
    void (*run)(void);
} cases[] = {{"max", check_ends},
             {"max", check_guards},
             {"1", check_guards_return},
             {"1", check_slack},
             {"1", check_waiting},
             {"max", check_waiting},
             {"1", check_children},
             {"1", check_figures},
             {"max", check_figures},
             {"1", check_shorter_without_memory},
             {"1", check_longer_without_memory}};

int main(int argc, char **argv)
{
    check_on_hakmem();
    if (argc == 2) {
        cases[strtoul(argv[1], NULL, 10)].run();
        return check_status();
    }
    for (unsigned i = 0; i < CHECK_COUNT(cases); i++) {
        char number[12];
        snprintf(number, sizeof number, "%u", i);
        pid_t pid = fork();
        if (pid == 0) {
            setenv("HAKMEM_SECURE", cases[i].secure, 1);
            execl(argv[0], argv[0], number, (char *)NULL);
            _exit(127);
        }
        REQUIRE(pid > 0);
        check_n_failures += (unsigned)check_wait(pid, number);
    }
    return check_status();
}
