/* hardened_checks.c - what single checks of hardened mode find and do, also alone, where blocks go other ways than with all of them; what is
 * said of faults, and that a block which is resized where it lies hides nothing and shows nothing. Each case is a process with its own HAKMEM_SECURE.
 */
#include "check.h"

#include <malloc.h>
#include <sys/mman.h>
#include <sys/resource.h>

static char *volatile block; /* what the compiler must not see through */

static void make(size_t size)
{
    block = malloc(size);
    REQUIRE(block != NULL);
    memset(block, 7, size);
}

static bool all_zero(size_t from, size_t to)
{
    while (from < to && block[from] == 0)
        from++;
    return from == to;
}

/* ---- Mistakes ---------------------------------------------------------------------------------------------------- */

static void free_twice(size_t size)
{
    make(size);
    free(block);
    free(block);
}

static void write_behind_and_resize(size_t size)
{
    make(size);
    block[size]++;
    block = realloc(block, size + 2);
    free(block);
}

static void resize_freed(size_t size)
{
    make(size);
    free(block);
    block = realloc(block, 2 * size);
}

static void ask_for_freed(size_t size)
{
    make(size);
    free(block);
    block += malloc_usable_size(block);
}

/* Found when it comes out of quarantine. */
static void write_to_waiting(size_t size)
{
    make(size);
    free(block);
    block[size / 2] = 1;
    for (unsigned i = 0; i < 20000; i++)
        free(malloc(size));
}

/* Whether the system can read a byte: it says so, and does not end the process. */
static bool is_accessible(const char *at)
{
    static int ends[2];
    char unused;
    REQUIRE(ends[1] != 0 || pipe(ends) == 0);
    return write(ends[1], at, 1) == 1 && read(ends[0], &unused, 1) == 1;
}

/* Found when all that waits is let go. */
static void write_to_waiting_and_trim(size_t size)
{
    make(size);
    free(block);
    block[size / 2] = 1;
    malloc_trim(0);
}

enum { MORE_THAN_GUARDED = 10000 };

/* To one without inaccessible pages, as there are once many blocks have some. It may be handed out again afterwards. */
static void write_to_waiting_in_reach(size_t size)
{
    enum { LEAST_FREED = 16 };
    do /* the others stay */
        block = malloc(size);
    while (!is_accessible(block - 1));
    free(block);
    block[size / 2] = 1;
    for (unsigned i = 0; i < LEAST_FREED; i++)
        free(malloc(size));
}

/* Found then. (Or, one time in 64, when it gives way to another.) */
static void write_to_waiting_and_claim(size_t size)
{
    write_to_waiting_in_reach(size);
    for (unsigned i = 0; i < MORE_THAN_GUARDED; i++)
        block = malloc(size);
}

static void write_to_freed_and_end(size_t size)
{
    make(size);
    free(block);
    block[size / 2] = 1;
    exit(0);
}

/* Before the first block of a slab, and behind the last one of another. */
static void write_before_slab(size_t size)
{
    enum { N = 3000, SLAB_BYTES = 65536 };
    static char *blocks[N];
    for (unsigned i = 0; i < N; i++) {
        make(size);
        blocks[i] = block;
    }
    for (unsigned i = 0; i < N; i++)
        for (unsigned k = 0; k < N && (uintptr_t)blocks[i] % SLAB_BYTES == 0; k++)
            if ((uintptr_t)blocks[i] / SLAB_BYTES - 1 == (uintptr_t)blocks[k] / SLAB_BYTES) {
                blocks[i][-1]++;
                free(blocks[i]); /* it may be missed where another thread has the lock */
                break;
            }
}

static void free_with_alignment(size_t size)
{
    void *symbol = check_symbol("free_aligned_sized");
    void (*free_aligned_sized)(void *, size_t, size_t);
    memcpy(&free_aligned_sized, &symbol, sizeof symbol);
    do /* one that is aligned by chance is kept */
        make(size);
    while ((uintptr_t)block % 4096 == 0);
    free_aligned_sized(block, 4096, size);
}

static void free_with_size_below_zero(size_t size)
{
    void *symbol = check_symbol("free_sized");
    void (*free_sized)(void *, size_t);
    memcpy(&free_sized, &symbol, sizeof symbol);
    make(size);
    free_sized(block, SIZE_MAX);
}

static void free_with_no_alignment(size_t size)
{
    void *symbol = check_symbol("free_aligned_sized");
    void (*free_aligned_sized)(void *, size_t, size_t);
    memcpy(&free_aligned_sized, &symbol, sizeof symbol);
    make(size);
    free_aligned_sized(block, 3, size);
}

/* ---- Faults ------------------------------------------------------------------------------------------------------ */

static void touch_behind(size_t size)
{
    make(size);
    block[(size + 4095) / 4096 * 4096] = 1;
}

static void touch_before(size_t size)
{
    make(size);
    block[-1] = 1;
}

/* Far behind its beginning: in another slab of it, or another SuperSlab. */
static void touch_freed(size_t size)
{
    make(size);
    free(block);
    block[size / 10 * 9] = 1;
}

/* A jump into a block, which is whole: only its pages may not be executed. */
static void execute(size_t size)
{
    make(size);
    ((void (*)(void))(uintptr_t)(block + 64))();
}

/* Pages that the program itself has made inaccessible. */
static void forbid_and_touch(size_t size)
{
    make(size);
    char *page = (char *)(((uintptr_t)block + 4095) & ~(uintptr_t)4095);
    REQUIRE(mprotect(page, 4096, PROT_READ) == 0);
    page[100] = 1;
}

/* ---- What is no mistake ------------------------------------------------------------------------------------------ */

static void clear_freed(size_t size)
{
    make(size);
    free(block);
    CHECK_THAT(all_zero(0, size), "of %zu bytes some are left when the block is freed", size);
}

/* Longer and shorter where it lies, what is added reads as zero. */
static void resize(size_t size)
{
    make(size);
    block = realloc(block, size + 3);
    REQUIRE(block != NULL);
    CHECK_THAT(all_zero(size, size + 3), "%zu bytes made three longer: not zero", size);
    memset(block, 7, size + 3);
    block = realloc(block, size * 2 / 3);
    REQUIRE(block != NULL);
    block = realloc(block, size);
    REQUIRE(block != NULL);
    CHECK_THAT(block[0] == 7 && block[size * 2 / 3 - 1] == 7 && all_zero(size * 2 / 3, size),
               "%zu bytes made shorter and longer", size);
    free(block);
}

/* To a whole number of pages, whose end is where the block's pages end: all of it is there, and is the block's. */
static void resize_to_pages(size_t size)
{
    enum { PAGE = 4096 };
    size_t shorter = size / PAGE * PAGE, longer = shorter + 2 * PAGE;
    make(size);
    block = realloc(block, shorter);
    REQUIRE(block != NULL);
    for (size_t at = 0; at < shorter; at++)
        if (block[at] != 7) {
            CHECK_FAIL("%zu bytes made %zu: byte %zu is lost", size, shorter, at);
            break;
        }
    memset(block, 8, shorter);
    block = realloc(block, longer);
    REQUIRE(block != NULL);
    CHECK_THAT(block[0] == 8 && block[shorter - 1] == 8 && all_zero(shorter, longer), "%zu bytes made %zu", shorter,
               longer);
    memset(block, 9, longer);
    free(block);
}

/* The room of a block that moved to grow reads as zero as well, where it waits and the next one of its place is longer. What is there before
 * are small blocks. */
static void claim_longer(size_t size)
{
    enum { ROUNDS = 20, N = 16000, N_GROWN = 60 };
    static char *blocks[N];
    for (unsigned round = 0; round < ROUNDS; round++) {
        for (unsigned i = 0; i < N; i++) {
            make(1000);
            blocks[i] = block;
        }
        for (unsigned i = 0; i < N; i++)
            free(blocks[i]);
        for (unsigned i = 0; i < N_GROWN; i++) {
            make(size * 3 / 4);
            blocks[i] = realloc(block, size);
        }
        for (unsigned i = 0; i < N_GROWN; i++)
            free(blocks[i]);
        for (unsigned i = 0; i < N_GROWN; i++) {
            blocks[i] = block = calloc(1, size + size / 2);
            REQUIRE(block != NULL);
            CHECK_THAT(all_zero(0, size + size / 2), "calloc of %zu bytes: not zero in round %u", size + size / 2,
                       round);
        }
        for (unsigned i = 0; i < N_GROWN; i++)
            free(blocks[i]);
    }
}

/* With HAKMEM_ON_ERROR=warn. */
static void claim_written_to(size_t size)
{
    write_to_waiting_in_reach(size);
    const char *written = block;
    for (unsigned i = 0; i < MORE_THAN_GUARDED; i++) {
        block = calloc(1, size);
        CHECK_THAT(all_zero(0, size), "calloc of %zu bytes: not zero", size);
        if (block == written)
            break;
    }
}

/* Likewise. */
static void refuse_freed(size_t size)
{
    make(size);
    free(block);
    errno = 0;
    CHECK_THAT(realloc(block, 2 * size) == NULL && errno == EINVAL, "realloc of a freed block of %zu bytes: errno %d",
               size, errno);
    CHECK(malloc_usable_size(block) == 0);
    free(malloc(size));
}

static void hand_out_at_random(size_t size)
{
    enum { N = 1000 };
    char *blocks[N];
    unsigned n_neighbours = 0;
    for (unsigned i = 0; i < N; i++) {
        blocks[i] = malloc(size);
        REQUIRE(blocks[i] != NULL);
        n_neighbours += i != 0 && blocks[i] - blocks[i - 1] == (ptrdiff_t)size + 8; /* the seal */
    }
    CHECK_THAT(n_neighbours < N / 5, "%u of %d blocks follow their neighbour", n_neighbours, N);
}

static void hand_out_without_magazines(size_t size)
{
    hand_out_at_random(size);
}

/* ---- Cases ------------------------------------------------------------------------------------------------------- */

static const struct {
    const char *name, *secure;
    void (*run)(size_t size);
    size_t sizes[4];
    const char *said; /* NULL: it is no mistake; " lies ...": the system finds it */
} cases[] = {
    {"free twice", "canary", free_twice, {40, 1000, 40000}, "hakmem: free: "},
    {"free twice", "zero", free_twice, {40, 1000, 40000}, "hakmem: free: "},
    {"free twice", "quarantine", free_twice, {40, 1000, 40000}, "freed twice"},
    {"free twice", "random", free_twice, {40, 1000, 40000}, "hakmem: free: "},
    {"free twice", "type", free_twice, {40, 1000, 40000}, "hakmem: free: "},
    {"write behind and resize", "1", write_behind_and_resize, {100, 1100, 40001, 70001}, "written behind"},
    {"write behind and resize", "canary", write_behind_and_resize, {100, 1100, 40001, 70001}, "written behind"},
    {"resize what was freed", "1", resize_freed, {100, 5000, 40000, 3000000}, "hakmem: realloc: "},
    {"ask for the size of what was freed",
     "1",
     ask_for_freed,
     {100, 5000, 40000, 3000000},
     "hakmem: malloc_usable_size: "},
    {"write to what waits",
     "zero,quarantine",
     write_to_waiting,
     {40, 5000, 40000, 70000},
     "a free block was written to"},
    {"write to what waits, and trim",
     "zero,quarantine",
     write_to_waiting_and_trim,
     {40000, 70000},
     "a free block was written to"},
    {"write to what waits, and claim it",
     "1",
     write_to_waiting_and_claim,
     {40000, 70000},
     "a free block was written to"},
    {"write to what was freed, and end",
     "1",
     write_to_freed_and_end,
     {40, 1000},
     "hakmem: exit: a free block was written to"},
    {"write to what was freed, and end",
     "zero",
     write_to_freed_and_end,
     {40, 1000},
     "hakmem: exit: a free block was written to"},
    {"write before the first block of a slab",
     "1",
     write_before_slab,
     {24, 40, 1016, 3000},
     "written before the block's beginning"},
    {"free with a wrong alignment", "1", free_with_alignment, {100, 1000}, "the alignment is not the block's"},
    {"free with a wrong alignment", "type", free_with_alignment, {100, 1000}, "the alignment is not the block's"},
    {"free with an alignment that is none",
     "1",
     free_with_no_alignment,
     {100, 5000, 40000},
     "the alignment is not the block's"},
    {"free with an alignment that is none",
     "type",
     free_with_no_alignment,
     {100, 5000, 40000},
     "the alignment is not the block's"},
    {"free with a size below zero",
     "1",
     free_with_size_below_zero,
     {100, 5000, 40000, 3000000},
     "the size is not the block's"},
    {"free with a size below zero",
     "type",
     free_with_size_below_zero,
     {100, 5000, 40000, 3000000},
     "the size is not the block's"},
    {"touch what lies behind",
     "1",
     touch_behind,
     {39990},
     " lies 970 bytes behind the end of the block of 39990 bytes at "},
    {"touch what lies behind",
     "1",
     touch_behind,
     {400000},
     " lies 1408 bytes behind the end of the block of 400000 bytes at "},
    {"touch what lies behind",
     "1",
     touch_behind,
     {5000000},
     " lies 1216 bytes behind the end of the block of 5000000 bytes at "},
    {"touch what lies before", "1", touch_before, {400000}, " lies 1 bytes before the block of 400000 bytes at "},
    {"touch what lies before", "1", touch_before, {5000000}, " lies 1 bytes before the block of 5000000 bytes at "},
    {"touch what was freed", "1", touch_freed, {400000}, " lies in a block of 400000 bytes at "},
    {"touch what was freed", "1", touch_freed, {5000000}, " lies in a block of 5000000 bytes at "},
    {"touch what was freed", "max", touch_freed, {3000}, " lies in a block of 3000 bytes at "},
    {"execute a block", "1", execute, {10000}, " lies in a block of 10000 bytes at "},
    {"execute a block", "max", execute, {300}, " lies in a block of 300 bytes at "},
    {"forbid and touch", "1", forbid_and_touch, {400000}, " lies in a block of 400000 bytes at "},
    {"free", "zero", clear_freed, {1, 40, 1000, 30000}, NULL},
    {"free", "zero,canary,type", clear_freed, {1, 40, 1000, 30000}, NULL},
    {"free", "1", clear_freed, {1, 40, 1000, 4000}, NULL},
    {"free", "zero", clear_freed, {40000, 70000, 90000}, NULL},
    {"resize", "1", resize, {100, 1101, 70001, 400001}, NULL},
    {"resize", "zero", resize, {100, 1101, 70001, 400001}, NULL},
    {"resize", "canary", resize, {100, 1101}, NULL},
    {"resize to whole pages", "max", resize_to_pages, {50001, 100001, 400001, 3000001}, NULL},
    {"resize to whole pages", "1", resize_to_pages, {50001, 100001, 400001, 3000001}, NULL},
    {"refuse what was freed", "1", refuse_freed, {100, 5000, 40000, 3000000}, NULL},
    {"claim a longer one", "guard,quarantine", claim_longer, {48001, 56001}, NULL},
    {"claim what was written to while it waited", "1", claim_written_to, {40000, 70000}, NULL},
    {"hand out", "random", hand_out_at_random, {24, 40, 88}, NULL},
    {"hand out", "1", hand_out_at_random, {24, 40, 88}, NULL},
    {"hand out without magazines", "random", hand_out_without_magazines, {24, 40, 88, 504}, NULL},
    {"hand out without magazines", "1", hand_out_without_magazines, {24, 40, 88, 504}, NULL},
};

static void check_case(const char *self, unsigned i, unsigned k)
{
    char text[4096], numbers[2][12];
    int ends[2], status = 0;
    size_t len = 0;
    struct rlimit none = {0, 0};
    snprintf(numbers[0], sizeof numbers[0], "%u", i);
    snprintf(numbers[1], sizeof numbers[1], "%u", k);
    REQUIRE(pipe(ends) == 0);
    pid_t pid = fork();
    if (pid == 0) {
        alarm(60);
        dup2(ends[1], STDERR_FILENO);
        close(ends[0]);
        close(ends[1]);
        setrlimit(RLIMIT_CORE, &none);
        setenv("HAKMEM_SECURE", cases[i].secure, 1);
        setenv("HAKMEM_ON_ERROR", cases[i].run == refuse_freed || cases[i].run == claim_written_to ? "warn" : "abort",
               1);
        if (cases[i].run == hand_out_without_magazines)
            setenv("HAKMEM_TINY_PROFILE", "off", 1);
        execl(self, self, numbers[0], numbers[1], (char *)NULL);
        _exit(127);
    }
    close(ends[1]);
    for (ssize_t n; len < sizeof text - 1 && (n = read(ends[0], text + len, sizeof text - 1 - len)) > 0;)
        len += (size_t)n;
    text[len] = 0;
    close(ends[0]);
    REQUIRE(pid > 0 && waitpid(pid, &status, 0) == pid);
    bool is_fault = cases[i].said != NULL && strncmp(cases[i].said, " lies ", 6) == 0;
    if (cases[i].said == NULL)
        CHECK_THAT(WIFEXITED(status) && WEXITSTATUS(status) == 0, "HAKMEM_SECURE=%s: %s %zu bytes: status %#x: %.250s",
                   cases[i].secure, cases[i].name, cases[i].sizes[k], (unsigned)status, text);
    else
        CHECK_THAT(WIFSIGNALED(status) && WTERMSIG(status) == (is_fault ? SIGSEGV : SIGABRT) &&
                       strncmp(text, "hakmem: ", 8) == 0 && strstr(text, cases[i].said) != NULL,
                   "HAKMEM_SECURE=%s: %s, %zu bytes: status %#x: %.250s", cases[i].secure, cases[i].name,
                   cases[i].sizes[k], (unsigned)status, text);
}

int main(int argc, char **argv)
{
    check_on_hakmem();
    if (argc == 3) {
        unsigned i = (unsigned)strtoul(argv[1], NULL, 10) % CHECK_COUNT(cases);
        cases[i].run(cases[i].sizes[strtoul(argv[2], NULL, 10) % CHECK_COUNT(cases[i].sizes)]);
        return check_status();
    }
    for (unsigned i = 0; i < CHECK_COUNT(cases); i++)
        for (unsigned k = 0; k < CHECK_COUNT(cases[i].sizes) && cases[i].sizes[k] != 0; k++)
            check_case(argv[0], i, k);
    return check_status();
}
