/* misuse.c - mistakes with blocks, one forked child each: reported in one line on stderr and ended by abort(), and
 * never a crash inside the allocator. What a thread frees goes to its magazine first, unseen: such a mistake is
 * found when the magazine is flushed, at the latest when the thread trims or ends. Each row says when its mistake
 * must be found:
 *   AT_ONCE   by the very call
 *   AT_FLUSH  by then, or when the magazines are flushed afterwards
 *   QUIET     not promised; but if it is found it is reported, and it must not crash
 * In the second part the process runs with HAKMEM_ON_ERROR=warn: each mistake is reported and ignored, and what is
 * allocated afterwards is sound.
 */
#include "check.h"

#include <malloc.h>
#include <pthread.h>
#include <sys/mman.h>

enum when { AT_ONCE, AT_FLUSH, QUIET };

#define EXIT_UNNOTICED 40 /* the child came to its end */
#define TEXT_MAX_BYTES 4096

static const size_t block_sizes[] = {8, 64, 1000, 4096, 20000, 100000, 1500000, 5000000};
static const size_t slab_sizes[] = {8, 48, 64, 1000, 4096, 20000};
static const size_t large_sizes[] = {40000, 100000, 1048576, 1048577, 2031616, 2031617, 5000000};

static void *volatile keep; /* what the compiler must not see through */

static void *block_of(size_t size)
{
    keep = malloc(size);
    REQUIRE(keep != NULL);
    check_fill(keep, size, size);
    return keep;
}

static void flush(void)
{
    malloc_trim(0);
}

/* ---- Double frees ------------------------------------------------------------------------------------------------ */

static void free_twice(size_t size)
{
    void *block = block_of(size);
    free(block);
    free(block);
    flush();
}

static void free_twice_across_another(size_t size)
{
    void *block = block_of(size), *other = block_of(size);
    free(block);
    free(other);
    free(block);
    flush();
}

/* One that is back in its slab, which others keep in use. */
static void *returned(size_t size)
{
    static void *volatile neighbours[8];
    void *block = NULL;
    for (unsigned i = 0; i < CHECK_COUNT(neighbours); i++) {
        neighbours[i] = block_of(size);
        if (i == 3)
            block = block_of(size);
    }
    free(block);
    flush();
    return block;
}

/* The first free has long gone to the slab when the second comes. */
static void free_twice_after_flush(size_t size)
{
    free(returned(size));
    flush();
}

/* The slab of the block has been given up altogether. */
static void free_twice_after_release(size_t size)
{
    void *block = block_of(size);
    free(block);
    flush();
    free(block);
    flush();
}

static void free_twice_delayed(size_t size)
{
    enum { N = 20000 };
    static void *blocks[N];
    unsigned n = (unsigned)(64 * CHECK_MIB / size < N ? 64 * CHECK_MIB / size : N);
    for (unsigned i = 0; i < n; i++) {
        blocks[i] = malloc(size);
        REQUIRE(blocks[i] != NULL);
    }
    for (unsigned i = 0; i < n; i++)
        free(blocks[i]);
    free(blocks[n / 2]);
    flush();
}

static void *free_it(void *block)
{
    free(block);
    return NULL;
}

static void run_thread(void *(*function)(void *), void *argument)
{
    pthread_t thread;
    REQUIRE(pthread_create(&thread, NULL, function, argument) == 0);
    pthread_join(thread, NULL);
}

/* Runs first: a process's first thread makes libc allocate, possibly where the freed block was. */
static void *do_nothing(void *argument)
{
    return argument;
}

static void free_here_and_in_a_thread(size_t size)
{
    run_thread(do_nothing, NULL);
    void *block = block_of(size), *neighbour = block_of(size);
    free(block);
    run_thread(free_it, block);
    flush();
    keep = neighbour;
}

static void free_in_two_threads(size_t size)
{
    void *block = block_of(size), *neighbour = block_of(size);
    run_thread(free_it, block);
    run_thread(free_it, block);
    flush();
    keep = neighbour;
}

static void *free_it_twice(void *block)
{
    free(block);
    free(block);
    return NULL;
}

/* No call follows: the end of the thread is the flush. */
static void free_twice_and_end_thread(size_t size)
{
    void *block = block_of(size), *neighbour = block_of(size);
    run_thread(free_it_twice, block);
    keep = neighbour;
}

static void free_after_realloc_moved(size_t size)
{
    void *block = block_of(size), *obstacle = block_of(size), *moved = realloc(block, 20 * size);
    if (moved == block)
        free(moved); /* grown where it lay: then freeing it twice is the same mistake */
    free(block);
    flush();
    keep = obstacle;
}

/* Fills at least one slab and keeps the block nearest to its end. */
static void *allocate_last_of_slab(void *argument)
{
    size_t size = (size_t)(uintptr_t)argument, n = 65536 / size;
    static void *blocks[65536 / 8];
    size_t last = 0;
    for (size_t i = 0; i < n; i++) {
        blocks[i] = malloc(size);
        REQUIRE(blocks[i] != NULL);
        if ((uintptr_t)blocks[i] % 65536 > (uintptr_t)blocks[last] % 65536)
            last = i;
    }
    void *kept = blocks[last];
    for (size_t i = 0; i < n; i++)
        if (i != last)
            free(blocks[i]);
    return kept;
}

/* One copy of the pointer waits in this thread's magazine while another's lets the slab go, to another class. */
static void free_twice_across_a_change(size_t size, size_t other)
{
    enum { N = 9000 };
    static void *blocks[N];
    pthread_t thread;
    void *block;
    unsigned n = (unsigned)(2 * CHECK_MIB / other < N ? 2 * CHECK_MIB / other : N);
    REQUIRE(pthread_create(&thread, NULL, allocate_last_of_slab, (void *)(uintptr_t)size) == 0);
    pthread_join(thread, &block);
    free(block);
    run_thread(free_it, block);
    for (unsigned i = 0; i < n; i++) {
        blocks[i] = malloc(other);
        REQUIRE(blocks[i] != NULL);
        check_fill(blocks[i], other, i);
    }
    flush();
    for (unsigned i = 0; i < n; i++) {
        CHECK_THAT(check_filled(blocks[i], other, i), "blocks of %zu bytes change", other);
        free(blocks[i]);
    }
    flush();
    for (unsigned i = 0; i < 2000; i++)
        free(malloc(i * 17));
}

static void free_twice_across_a_larger_class(size_t size)
{
    free_twice_across_a_change(size, 30000);
}

static void free_twice_across_a_smaller_class(size_t size)
{
    free_twice_across_a_change(size, 16);
}

static void free_twice_across_a_span(size_t size)
{
    free_twice_across_a_change(size, 60000);
}

/* ---- Pointers that are no blocks --------------------------------------------------------------------------------- */

static char in_data[4096] __attribute__((aligned(64))) = {1};
static char in_bss[65536 * 3];

static void *foreign_pointer(size_t kind)
{
    static const uintptr_t numbers[] = {1,
                                        8,
                                        16,
                                        4096,
                                        0x100000,
                                        UINTPTR_MAX,
                                        UINTPTR_MAX - 15,
                                        0xdeadbeefdeadbee0,
                                        (uintptr_t)1 << 47,
                                        (uintptr_t)1 << 63,
                                        0x7ffffffff000};
    char on_stack[256];
    volatile uintptr_t number;
    memset(on_stack, (int)kind, sizeof on_stack);
    void *mapped;
    switch (kind) {
    case 0:
        number = (uintptr_t)on_stack + 64; /* by way of a volatile number, or compilers see that it dangles */
        return (void *)number;
    case 1:
        return in_data + 64;
    case 2:
        return in_bss + 65536;
    case 3:
        return (void *)(uintptr_t)&free_it;
    case 4: /* in hakmem itself */
        return check_symbol("hak_version");
    case 5:
        mapped = mmap(NULL, 8 * CHECK_MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        REQUIRE(mapped != MAP_FAILED);
        return (char *)mapped + 4096;
    case 6:
        mapped = mmap(NULL, 8 * CHECK_MIB, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        REQUIRE(mapped != MAP_FAILED);
        return (void *)(((uintptr_t)mapped + 2 * CHECK_MIB) & ~(uintptr_t)(2 * CHECK_MIB - 1));
    case 7: /* beside the blocks: never handed out */
        return (char *)(((uintptr_t)block_of(64)) & ~(uintptr_t)(2 * CHECK_MIB - 1)) + 40 * CHECK_MIB;
    case 8: /* far behind them, but before the end of any heap that a process is given */
        return (char *)(((uintptr_t)block_of(64)) & ~(uintptr_t)(2 * CHECK_MIB - 1)) + 1024 * CHECK_MIB;
    case 9:
        return (char *)(((uintptr_t)block_of(64)) & ~(uintptr_t)(2 * CHECK_MIB - 1)) - 2 * CHECK_MIB;
    default:
        return kind - 10 < CHECK_COUNT(numbers) ? (void *)numbers[kind - 10] : NULL;
    }
}

static void free_foreign(size_t kind)
{
    free(foreign_pointer(kind));
}

static void realloc_foreign(size_t kind)
{
    keep = realloc(foreign_pointer(kind), 100);
}

static void usable_size_of_foreign(size_t kind)
{
    keep = (void *)malloc_usable_size(foreign_pointer(kind));
}

/* Sizes below 32 KiB: a pointer into a block, by a byte, by half, by all but a byte. */
static void free_interior_by_1(size_t size)
{
    keep = block_of(size);
    free((char *)keep + 1);
    flush();
}

static void free_interior_by_half(size_t size)
{
    keep = block_of(size);
    free((char *)keep + size / 2);
    flush();
}

static void free_interior_by_8(size_t size)
{
    keep = block_of(size);
    free((char *)keep + 8);
    flush();
}

static void free_last_byte(size_t size)
{
    keep = block_of(size);
    free((char *)keep + malloc_usable_size(keep) - 1);
    flush();
}

static void realloc_interior(size_t size)
{
    keep = block_of(size);
    keep = realloc((char *)keep + size / 2, size * 3);
}

static void realloc_interior_by_1(size_t size)
{
    keep = block_of(size);
    keep = realloc((char *)keep + 1, size * 3);
}

static void usable_size_of_interior(size_t size)
{
    keep = block_of(size);
    keep = (void *)malloc_usable_size((char *)keep + size / 2);
}

/* The rest of a slab behind its last block; sizes that do not divide 64 KiB. */
static void free_behind_last_block(size_t size)
{
    char *block = block_of(size);
    size_t usable = malloc_usable_size(block);
    char *slab = (char *)((uintptr_t)block & ~(uintptr_t)65535);
    char *tail = slab + 65536 / usable * usable;
    if (tail >= slab + 65536)
        tail = slab + 65536 - 1;
    free(tail);
    flush();
}

/* Large blocks: 4 KiB, one slab or one SuperSlab into them. */
static void free_page_of_large(size_t size)
{
    free((char *)block_of(size) + 4096);
}

static void free_slab_of_large(size_t size)
{
    free((char *)block_of(size) + (size > 65536 ? 65536 : 16384));
}

static void free_superslab_of_large(size_t size)
{
    free((char *)block_of(size) + (size > 2 * CHECK_MIB ? 2 * CHECK_MIB : 32768));
}

static void usable_size_inside_large(size_t size)
{
    keep = (void *)malloc_usable_size((char *)block_of(size) + 4096);
}

/* ---- Blocks that are free already -------------------------------------------------------------------------------- */

static void realloc_freed(size_t size)
{
    void *block = block_of(size);
    free(block);
    keep = realloc(block, size * 4);
    flush();
}

static void realloc_freed_to_0(size_t size)
{
    void *block = block_of(size);
    free(block);
    keep = realloc(block, 0);
    flush();
}

static void usable_size_of_freed(size_t size)
{
    void *block = block_of(size);
    free(block);
    keep = (void *)malloc_usable_size(block);
}

static void realloc_released(size_t size)
{
    void *block = block_of(size);
    free(block);
    flush();
    keep = realloc(block, size * 4);
    flush();
}

static void usable_size_of_released(size_t size)
{
    void *block = block_of(size);
    free(block);
    flush();
    keep = (void *)malloc_usable_size(block);
}

static void realloc_returned(size_t size)
{
    keep = realloc(returned(size), size * 4);
}

static void usable_size_of_returned(size_t size)
{
    keep = (void *)malloc_usable_size(returned(size));
}

/* A freed block is free memory in a shared slab when another thread frees it again much later. */
static void *churn_and_free(void *block)
{
    for (unsigned i = 0; i < 50000; i++)
        free(malloc(i % 3000));
    free(block);
    malloc_trim(0);
    return NULL;
}

static void free_again_in_a_busy_thread(size_t size)
{
    void *block = block_of(size), *neighbour = block_of(size);
    free(block);
    flush();
    run_thread(churn_and_free, block);
    keep = neighbour;
}

/* ---- What the caller says of a block ----------------------------------------------------------------------------- */

static void free_with_wrong_size(size_t size)
{
    void (*free_with_size)(void *, size_t) = (void (*)(void *, size_t))dlsym(RTLD_DEFAULT, "free_sized");
    REQUIRE(free_with_size != NULL);
    free_with_size(block_of(size), size / 2);
}

static void free_with_size_below_zero(size_t size)
{
    void (*free_with_size)(void *, size_t) = (void (*)(void *, size_t))dlsym(RTLD_DEFAULT, "free_sized");
    REQUIRE(free_with_size != NULL);
    free_with_size(block_of(size), SIZE_MAX);
}

/* ---- The table --------------------------------------------------------------------------------------------------- */

static const size_t foreign_kinds[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20};
static const size_t sizes_with_tail[] = {48, 80, 1000, 3000, 20000};

#define SIZES(array) array, CHECK_COUNT(array)

static const struct misuse {
    const char *name;
    void (*function)(size_t);
    const size_t *arguments;
    size_t n_arguments;
    enum when when;
} misuses[] = {
    {"free twice", free_twice, SIZES(slab_sizes), AT_FLUSH},
    {"free twice", free_twice, SIZES(large_sizes), AT_ONCE},
    {"free twice, another between", free_twice_across_another, SIZES(slab_sizes), AT_FLUSH},
    {"free twice, another between", free_twice_across_another, SIZES(large_sizes), AT_ONCE},
    {"free twice, flushed between", free_twice_after_flush, SIZES(block_sizes), AT_FLUSH},
    {"free twice, slab released between", free_twice_after_release, SIZES(block_sizes), AT_ONCE},
    {"free twice, thousands between", free_twice_delayed, SIZES(block_sizes), AT_FLUSH},
    {"free here and in a thread", free_here_and_in_a_thread, SIZES(block_sizes), AT_FLUSH},
    {"free in two threads", free_in_two_threads, SIZES(block_sizes), AT_FLUSH},
    {"free twice at the end of a thread", free_twice_and_end_thread, SIZES(block_sizes), AT_FLUSH},
    {"free again in a busy thread", free_again_in_a_busy_thread, SIZES(slab_sizes), AT_FLUSH},
    {"free what realloc has moved", free_after_realloc_moved, SIZES(block_sizes), AT_FLUSH},
    {"free twice, a larger class between", free_twice_across_a_larger_class, SIZES(slab_sizes), AT_FLUSH},
    {"free twice, a smaller class between", free_twice_across_a_smaller_class, SIZES(slab_sizes), AT_FLUSH},
    {"free twice, a span between", free_twice_across_a_span, SIZES(slab_sizes), AT_FLUSH},
    {"free with half the size", free_with_wrong_size, SIZES(large_sizes), AT_ONCE},
    {"free with a size below zero", free_with_size_below_zero, SIZES(large_sizes), AT_ONCE},
    {"free a foreign pointer", free_foreign, SIZES(foreign_kinds), AT_ONCE},
    {"realloc a foreign pointer", realloc_foreign, SIZES(foreign_kinds), AT_ONCE},
    {"malloc_usable_size of a foreign pointer", usable_size_of_foreign, SIZES(foreign_kinds), AT_ONCE},
    {"free a block + 1", free_interior_by_1, SIZES(slab_sizes), AT_FLUSH},
    {"free a block + 1", free_interior_by_1, SIZES(large_sizes), AT_ONCE},
    {"free a block + 8", free_interior_by_8, slab_sizes + 1, CHECK_COUNT(slab_sizes) - 1, AT_FLUSH},
    {"free a block + 8", free_interior_by_8, SIZES(large_sizes), AT_ONCE},
    {"free the middle of a block", free_interior_by_half, SIZES(slab_sizes), AT_FLUSH},
    {"free the middle of a block", free_interior_by_half, SIZES(large_sizes), AT_ONCE},
    {"free the last byte of a block", free_last_byte, SIZES(block_sizes), AT_FLUSH},
    {"free behind a slab's last block", free_behind_last_block, SIZES(sizes_with_tail), AT_FLUSH},
    {"free a later page of a block", free_page_of_large, SIZES(large_sizes), AT_ONCE},
    {"free a later slab of a block", free_slab_of_large, SIZES(large_sizes), AT_ONCE},
    {"free a later SuperSlab of a block", free_superslab_of_large, SIZES(large_sizes), AT_ONCE},
    {"realloc the middle of a block", realloc_interior, SIZES(block_sizes), AT_ONCE},
    {"realloc a block + 1", realloc_interior_by_1, SIZES(block_sizes), AT_ONCE},
    {"malloc_usable_size of a middle", usable_size_of_interior, SIZES(block_sizes), AT_ONCE},
    {"malloc_usable_size inside a large block", usable_size_inside_large, SIZES(large_sizes), AT_ONCE},
    {"realloc a freed block", realloc_freed, SIZES(slab_sizes), AT_FLUSH},
    {"realloc a freed block", realloc_freed, SIZES(large_sizes), AT_ONCE},
    {"realloc a freed block to 0", realloc_freed_to_0, SIZES(slab_sizes), AT_FLUSH},
    {"realloc a freed block to 0", realloc_freed_to_0, SIZES(large_sizes), AT_ONCE},
    {"realloc a released block", realloc_released, SIZES(block_sizes), AT_ONCE},
    {"malloc_usable_size of a freed block", usable_size_of_freed, SIZES(slab_sizes), QUIET},
    {"malloc_usable_size of a freed block", usable_size_of_freed, SIZES(large_sizes), AT_ONCE},
    {"realloc a returned block", realloc_returned, SIZES(block_sizes), AT_ONCE},
    {"malloc_usable_size of a returned block", usable_size_of_returned, SIZES(block_sizes), AT_ONCE},
    {"malloc_usable_size of a released block", usable_size_of_released, SIZES(block_sizes), AT_ONCE},
};

/* ---- Children ---------------------------------------------------------------------------------------------------- */

/* Runs a function in a child and collects what it writes on stderr. Returns its wait status. */
static int run_child(void (*function)(size_t), size_t argument, char *text)
{
    int ends[2], status = 0;
    REQUIRE(pipe(ends) == 0);
    pid_t pid = fork();
    REQUIRE(pid >= 0);
    if (pid == 0) {
        check_n_failures = 0;
        alarm(30);
        dup2(ends[1], STDERR_FILENO);
        close(ends[0]);
        close(ends[1]);
        function(argument);
        _exit(EXIT_UNNOTICED);
    }
    close(ends[1]);
    size_t len = 0;
    for (ssize_t n = 1; n > 0 && len<TEXT_MAX_BYTES - 1; len += n> 0 ? (size_t)n : 0)
        n = read(ends[0], text + len, TEXT_MAX_BYTES - 1 - len);
    text[len] = 0;
    close(ends[0]);
    REQUIRE(waitpid(pid, &status, 0) == pid);
    return status;
}

static int is_one_report(const char *text)
{
    const char *end = strchr(text, '\n');
    return strncmp(text, "hakmem: ", 8) == 0 && end != NULL && end[1] == 0;
}

static void check_misuse(const struct misuse *misuse, size_t argument)
{
    static char text[TEXT_MAX_BYTES];
    int status = run_child(misuse->function, argument, text);
    if (WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT)
        CHECK_THAT(is_one_report(text), "%s (%zu): aborts, but says: %.200s", misuse->name, argument, text);
    else if (WIFSIGNALED(status))
        CHECK_FAIL("%s (%zu): ended by signal %d; it says: %.100s", misuse->name, argument, WTERMSIG(status), text);
    else if (WEXITSTATUS(status) != EXIT_UNNOTICED)
        CHECK_FAIL("%s (%zu): ended with status %d: %.200s", misuse->name, argument, WEXITSTATUS(status), text);
    else if (misuse->when != QUIET)
        CHECK_FAIL("%s (%zu): goes unnoticed", misuse->name, argument);
    else
        CHECK_THAT(text[0] == 0, "%s (%zu): reports and does not abort: %.200s", misuse->name, argument, text);
}

/* Found by the call itself, with nothing after it that could have found it. */
static size_t n_at_once;
static void at_once_only(size_t k)
{
    void *block = block_of(large_sizes[k]);
    free(block);
    free(block);
    _exit(EXIT_UNNOTICED); /* not reached */
}

/* ---- Warnings only ----------------------------------------------------------------------------------------------- */

/* Blocks of all sizes are distinct and keep their contents. */
static void check_sound(const char *after, size_t argument)
{
    enum { N = 3000 };
    static unsigned char *blocks[N];
    static size_t sizes[N];
    uint64_t state = 7;
    for (unsigned i = 0; i < N; i++) {
        sizes[i] = check_random_size(&state, i % 50 == 0 ? 22 : 13);
        blocks[i] = malloc(sizes[i]);
        REQUIRE(blocks[i] != NULL);
        check_fill(blocks[i], sizes[i], i * 0x0101010101u + 1);
    }
    for (unsigned i = 0; i < N; i++) {
        CHECK_THAT(check_filled(blocks[i], sizes[i], i * 0x0101010101u + 1),
                   "after \"%s\" (%zu): a block of %zu bytes changes", after, argument, sizes[i]);
        free(blocks[i]);
    }
    flush();
}

/* What is no block is not resized: NULL, and EINVAL. Nor has it a size. */
static void refused_child(size_t kind)
{
    errno = 0;
    CHECK_THAT(realloc(foreign_pointer(kind), 100) == NULL && errno == EINVAL,
               "realloc of foreign pointer %zu: errno %d", kind, errno);
    CHECK_THAT(malloc_usable_size(foreign_pointer(kind)) == 0, "foreign pointer %zu has a size", kind);
    _exit(check_n_failures == 0 ? EXIT_UNNOTICED : 1);
}

/* The second program: runs under HAKMEM_ON_ERROR=warn, one mistake and then honest work. */
static const struct misuse *warned;
static void warn_child(size_t argument)
{
    warned->function(argument);
    flush();
    check_sound(warned->name, argument);
    _exit(check_n_failures == 0 ? EXIT_UNNOTICED : 1);
}

static int main_warn(void)
{
    static char text[TEXT_MAX_BYTES];
    for (size_t i = 0; i < CHECK_COUNT(misuses); i++) {
        warned = &misuses[i];
        for (size_t k = 0; k < warned->n_arguments; k++) {
            size_t argument = warned->arguments[k];
            int status = run_child(warn_child, argument, text);
            CHECK_THAT(WIFEXITED(status) && WEXITSTATUS(status) == EXIT_UNNOTICED,
                       "with warnings only: %s (%zu): status %#x; it says: %.200s", warned->name, argument, status,
                       text);
            CHECK_THAT(warned->when == QUIET || strncmp(text, "hakmem: ", 8) == 0,
                       "with warnings only: %s (%zu): goes unnoticed", warned->name, argument);
        }
    }
    static const size_t foreign_to_all[] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9};
    for (size_t k = 0; k < CHECK_COUNT(foreign_to_all); k++) {
        int status = run_child(refused_child, foreign_to_all[k], text);
        CHECK_THAT(WIFEXITED(status) && WEXITSTATUS(status) == EXIT_UNNOTICED, "with warnings only: status %#x: %.300s",
                   status, text);
    }
    return check_status();
}

int main(int argc, char **argv)
{
    check_on_hakmem();
    if (getenv("HAKMEM_BACKGROUND") == NULL) {
        /* To start the background thread libc allocates, perhaps where the block was that is freed a second time. */
        setenv("HAKMEM_BACKGROUND", "off", 1);
        execl("/proc/self/exe", argv[0], (char *)NULL);
        return 127;
    }
    if (argc > 1 && strcmp(argv[1], "warn") == 0)
        return main_warn();
    for (size_t i = 0; i < CHECK_COUNT(misuses); i++)
        for (size_t k = 0; k < misuses[i].n_arguments; k++)
            check_misuse(&misuses[i], misuses[i].arguments[k]);
    static char text[TEXT_MAX_BYTES];
    for (n_at_once = 0; n_at_once < CHECK_COUNT(large_sizes); n_at_once++) {
        int status = run_child(at_once_only, n_at_once, text);
        CHECK_THAT(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT && is_one_report(text),
                   "a block of %zu bytes freed twice is not reported by the second free", large_sizes[n_at_once]);
    }
    pid_t pid = fork();
    REQUIRE(pid >= 0);
    if (pid == 0) {
        setenv("HAKMEM_ON_ERROR", "warn", 1);
        execl("/proc/self/exe", argv[0], "warn", (char *)NULL);
        _exit(127);
    }
    check_wait(pid, "the part with warnings only");
    if (getenv("HAKMEM_TINY_PROFILE") == NULL) { /* all of it once more, for blocks without magazines */
        setenv("HAKMEM_TINY_PROFILE", "off", 1);
        pid = fork();
        REQUIRE(pid >= 0);
        if (pid == 0) {
            execl("/proc/self/exe", argv[0], (char *)NULL);
            _exit(127);
        }
        check_wait(pid, "the profile off");
    }
    return check_status();
}
