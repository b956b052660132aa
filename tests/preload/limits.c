/* limits.c - little memory, and a system that refuses: a process under RLIMIT_AS and RLIMIT_DATA starts, uses
 * nearly all that it may have, gets NULL with ENOMEM behind that, and works again when it has freed its blocks;
 * with all mappings used up, and under a filter that refuses the memory calls, nothing crashes and no contents are
 * lost. Each case is a child, which runs this program anew where the limit must hold from the start.
 * ctest: timeout 600
 */
#include "check.h"

#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <malloc.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>

/* ---- Blocks until there are no more ------------------------------------------------------------------------------ */

/* All blocks held, linked through themselves: the process has no other memory to note them in. */
struct held {
    struct held *next;
    uint64_t mark;
};

static size_t hold(struct held **list, size_t size)
{
    size_t n = 0;
    for (;; n++) {
        errno = 0;
        struct held *block = malloc(size);
        if (block == NULL)
            break;
        memset(block, (int)(n & 0xff), size);
        block->next = *list;
        block->mark = n;
        *list = block;
    }
    CHECK_THAT(errno == ENOMEM, "without memory for %zu bytes errno is %d", size, errno);
    return n;
}

/* Looks at every block and frees it. */
static void let_go(struct held **list, size_t size, size_t n)
{
    size_t seen = 0, n_bad = 0;
    for (struct held *block = *list, *next; block != NULL; block = next, seen++) {
        const char *rest = (const char *)block + sizeof *block;
        size_t rest_bytes = size - sizeof *block;
        next = block->next;
        n_bad += block->mark != n - 1 - seen ||
                 (rest_bytes != 0 && (rest[0] != (char)block->mark || memcmp(rest, rest + 1, rest_bytes - 1) != 0));
        free(block);
    }
    *list = NULL;
    CHECK_THAT(seen == n && n_bad == 0, "of %zu blocks of %zu bytes %zu came back, %zu of them changed", n, size, seen,
               n_bad);
}

/* Address space of everything that has a name: program, libraries, stack. In KiB. Allocates nothing. */
static size_t named_mappings_kib(void)
{
    static char text[65536];
    size_t len = 0, sum = 0;
    int fd = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
    REQUIRE(fd >= 0);
    for (ssize_t n; (n = read(fd, text + len, sizeof text - 1 - len)) > 0;)
        len += (size_t)n;
    close(fd);
    text[len] = 0;
    for (char *line = text, *end; (end = strchr(line, '\n')) != NULL; line = end + 1) {
        *end = 0;
        char *rest;
        size_t from = strtoull(line, &rest, 16), to = strtoull(rest + 1, NULL, 16);
        if ((strchr(line, '/') != NULL || strchr(line, '[') != NULL) && strstr(line, "[vsyscall]") == NULL)
            sum += (to - from) / 1024;
    }
    return sum;
}

/* The child: uses the limit up with blocks of one size, and again with another one, and then with all. */
static int main_limited(size_t limit_kib, size_t first_size, size_t second_size)
{
    check_on_hakmem();
    struct held *list = NULL;
    size_t own_kib = named_mappings_kib();
    const size_t sizes[] = {first_size, second_size};
    for (unsigned i = 0; i < 2; i++) {
        size_t n = hold(&list, sizes[i]), used_kib = n * sizes[i] / 1024 + own_kib;
        CHECK_THAT(n > 0, "no block of %zu bytes at all", sizes[i]);
        CHECK_THAT(limit_kib < 200 * 1024 || used_kib * 100 >= limit_kib * 75,
                   "%s blocks, of %zu bytes: %zu KiB of %zu are used (the process itself has %zu)",
                   i == 0 ? "first" : "second", sizes[i], used_kib, limit_kib, own_kib);
        void *small[50]; /* with nothing left, other sizes fail or succeed, and nothing crashes */
        for (unsigned k = 0; k < CHECK_COUNT(small); k++) {
            errno = 0;
            small[k] = malloc(k * k * 20);
            CHECK(small[k] != NULL || errno == ENOMEM);
        }
        for (unsigned k = 0; k < CHECK_COUNT(small); k++)
            free(small[k]);
        let_go(&list, sizes[i], n);
    }
    for (size_t size = 1; size < CHECK_MIB; size = size * 5 / 4 + 1) {
        void *block = malloc(size);
        CHECK_THAT(block != NULL, "after all was freed there is no block of %zu bytes", size);
        if (block != NULL)
            check_fill(block, size, size);
        free(block);
    }
    return check_status();
}

static void run_limited(int resource, const char *name, size_t limit_kib, size_t first_size, size_t second_size)
{
    char what[120], arguments[3][24];
    snprintf(what, sizeof what, "%s of %zu KiB, blocks of %zu, then %zu bytes", name, limit_kib, first_size,
             second_size);
    snprintf(arguments[0], sizeof arguments[0], "%zu", limit_kib);
    snprintf(arguments[1], sizeof arguments[1], "%zu", first_size);
    snprintf(arguments[2], sizeof arguments[2], "%zu", second_size);
    pid_t pid = fork();
    REQUIRE(pid >= 0);
    if (pid == 0) {
        struct rlimit limit = {limit_kib * 1024, limit_kib * 1024};
        alarm(120);
        REQUIRE(setrlimit(resource, &limit) == 0);
        execl("/proc/self/exe", "limits", arguments[0], arguments[1], arguments[2], (char *)NULL);
        _exit(127);
    }
    check_wait(pid, what);
}

/* The child: one block at a time, each longer than all before it. What these left behind must not stand in its way. */
static int main_growing(size_t limit_kib)
{
    check_on_hakmem();
    for (size_t size = 20 * CHECK_MIB; size <= limit_kib * 1024 / 5 * 2; size += 5 * CHECK_MIB) {
        char *block = malloc(size);
        CHECK_THAT(block != NULL, "no block of %zu MiB alone", size / CHECK_MIB);
        if (block == NULL)
            break;
        block[0] = block[size - 1] = 1;
        free(block);
    }
    for (unsigned i = 0; i < 200; i++) { /* too much, and then less: what is refused must not cost anything */
        CHECK(malloc(limit_kib * 1024 / 10 * 9) == NULL);
        void *volatile block = malloc(limit_kib * 1024 / 10 * 3);
        CHECK_THAT(block != NULL, "round %u: no block of %zu MiB", i, limit_kib / 1024 / 10 * 3);
        if (block == NULL)
            break;
        free(block);
    }
    struct held *list = NULL;
    size_t n = hold(&list, 100000); /* all is to be had for others */
    CHECK_THAT(n * 100000 / 1024 > limit_kib / 2, "then %zu blocks of 100000 bytes", n);
    let_go(&list, 100000, n);
    return check_status();
}

static void test_growing_blocks(void)
{
    for (size_t limit_kib = 256 * 1024; limit_kib <= 2048 * 1024; limit_kib *= 2)
        run_limited(RLIMIT_AS, "RLIMIT_AS", limit_kib, 0, 0);
}

static void test_resource_limits(void)
{
    static const size_t limits_kib[] = {400000,    200 * 1024, 64 * 1024, 32 * 1024,
                                        16 * 1024, 12 * 1024,  10 * 1024, 8 * 1024};
    static const size_t sizes[][2] = {{64, CHECK_MIB}, {CHECK_MIB, 64}, {1000, 20000}, {20000, 2 * 1024 * 1024}};
    for (size_t i = 0; i < CHECK_COUNT(limits_kib); i++)
        for (size_t k = 0; k < CHECK_COUNT(sizes); k++) {
            if (sizes[k][1] > CHECK_MIB && limits_kib[i] < 200 * 1024)
                continue;
            run_limited(RLIMIT_AS, "RLIMIT_AS", limits_kib[i], sizes[k][0], sizes[k][1]);
            run_limited(RLIMIT_DATA, "RLIMIT_DATA", limits_kib[i], sizes[k][0], sizes[k][1]);
        }
}

/* ---- A random course that takes NULL for an answer --------------------------------------------------------------- */

enum { N_COURSE = 2000 };
static struct {
    void *block;
    size_t size;
    uint64_t mark;
} course[N_COURSE];

/* Returns how many requests were refused. */
static unsigned run_course(uint64_t seed, unsigned n_steps, unsigned max_bits, const char *when)
{
    unsigned n_refused = 0;
    uint64_t state = seed;
    for (unsigned step = 0; step < n_steps; step++) {
        unsigned i = (unsigned)(check_random(&state) % N_COURSE);
        size_t size = check_random_size(&state, step % 50 == 0 ? max_bits : 13);
        void *block;
        if (course[i].block != NULL)
            CHECK_THAT(check_filled(course[i].block, course[i].size, course[i].mark),
                       "%s: a block of %zu bytes has changed", when, course[i].size);
        errno = 0;
        if (course[i].block != NULL && step % 4 == 0) {
            block = realloc(course[i].block, size + 1);
            if (block == NULL) {
                CHECK_THAT(errno == ENOMEM, "%s: realloc fails with errno %d", when, errno);
                CHECK(check_filled(course[i].block, course[i].size, course[i].mark));
                n_refused++;
                continue;
            }
            size++;
        } else {
            free(course[i].block);
            course[i].block = NULL;
            block = step % 3 == 0 ? calloc(1, size) : step % 3 == 1 ? memalign(256, size) : malloc(size);
            CHECK_THAT(block == NULL || step % 3 != 0 || check_zero(block, size), "%s: calloc of %zu bytes is not zero",
                       when, size);
        }
        if (block == NULL) {
            CHECK_THAT(errno == ENOMEM, "%s: malloc fails with errno %d", when, errno);
            n_refused++;
            continue;
        }
        course[i].block = block;
        course[i].size = size;
        course[i].mark = check_random(&state);
        check_fill(block, size, course[i].mark);
        if (step % 10000 == 9999)
            malloc_trim(0);
    }
    return n_refused;
}

static void end_course(const char *when)
{
    for (unsigned i = 0; i < N_COURSE; i++) {
        CHECK_THAT(course[i].block == NULL || check_filled(course[i].block, course[i].size, course[i].mark),
                   "%s: a block of %zu bytes has changed", when, course[i].size);
        free(course[i].block);
        course[i].block = NULL;
    }
}

static void run_child(void (*function)(size_t), size_t argument, const char *what)
{
    pid_t pid = fork();
    REQUIRE(pid >= 0);
    if (pid == 0) {
        check_n_failures = 0;
        alarm(120);
        function(argument);
        _exit(check_status());
    }
    check_wait(pid, what);
}

/* ---- No mappings left -------------------------------------------------------------------------------------------- */

/* Every second page of a mapping gets another protection, which makes two mappings of each pair, until none is left. */
static void without_mappings(size_t warm)
{
    const size_t page = (size_t)sysconf(_SC_PAGESIZE), n_pages = (size_t)1 << 21;
    if (warm)
        run_course(1, 20000, 22, "before the mappings are used up");
    char *wall = mmap(NULL, n_pages * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    REQUIRE(wall != MAP_FAILED);
    size_t i = 0;
    while (i < n_pages && mprotect(wall + i * page, page, PROT_READ) == 0)
        i += 2;
    if (i >= n_pages) {
        check_leave_out("this system allows so many mappings that they cannot be used up");
        munmap(wall, n_pages * page);
        return;
    }
    /* Single ones are left now and then, as when the wall's end merges. */
    while (mmap(NULL, page, i++ % 2 == 0 ? PROT_READ : PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) != MAP_FAILED &&
           i < n_pages)
        ;
    run_course(2, 60000, 23, "without mappings");
    size_t n = 0;
    struct held *list = NULL;
    for (; n < 200; n++) { /* large blocks that come and go take and leave mappings */
        struct held *block = malloc(3 * CHECK_MIB);
        if (block == NULL)
            break;
        memset(block, (int)n, 3 * CHECK_MIB);
        block->next = list;
        block->mark = n;
        list = block;
    }
    let_go(&list, 3 * CHECK_MIB, n);
    REQUIRE(munmap(wall, n_pages * page) == 0);
    unsigned n_refused = run_course(3, 60000, 23, "after the mappings are free again");
    CHECK_THAT(n_refused == 0, "after the mappings are free again %u requests are refused", n_refused);
    end_course("after the mappings are free again");
}

/* ---- Refused calls ----------------------------------------------------------------------------------------------- */

#define REFUSE_MMAP 1u
#define REFUSE_MUNMAP 2u
#define REFUSE_MPROTECT 4u
#define REFUSE_MADVISE 8u
#define REFUSE_MREMAP 16u
#define REFUSE_ALL 31u
#define WITH_EINVAL 32u

#if defined(__x86_64__)
#define THIS_ARCHITECTURE AUDIT_ARCH_X86_64
#elif defined(__aarch64__)
#define THIS_ARCHITECTURE AUDIT_ARCH_AARCH64
#endif

/* Installs the filter. False when the system has none. */
static int refuse_calls(size_t which)
{
    static const unsigned numbers[] = {SYS_mmap, SYS_munmap, SYS_mprotect, SYS_madvise, SYS_mremap};
    struct sock_filter program[32];
    unsigned short n = 0;
    unsigned error = (which & WITH_EINVAL) != 0 ? EINVAL : ENOMEM;
    program[n++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch));
    program[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, THIS_ARCHITECTURE, 1, 0);
    program[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    program[n++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
    for (unsigned i = 0; i < CHECK_COUNT(numbers); i++)
        if ((which >> i & 1) != 0) {
            program[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, numbers[i], 0, 1);
            program[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | error);
        }
    program[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    struct sock_fprog filter = {n, program};
    return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 && prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) == 0;
}

static void with_refused_calls(size_t which)
{
    char when[80];
    snprintf(when, sizeof when, "with refused calls (mask %#zx)", which);
    run_course(4, 20000, 22, "before calls are refused");
    if (!refuse_calls(which)) {
        check_leave_out("this system has no seccomp filters: refused calls");
        return;
    }
    unsigned n_refused = run_course(5, 60000, 24, when);
    struct held *list = NULL;
    size_t n = 0;
    for (; n < 20; n++) {
        struct held *block = malloc(9 * CHECK_MIB);
        if (block == NULL)
            break;
        memset(block, (int)n, 9 * CHECK_MIB);
        block->next = list;
        block->mark = n;
        list = block;
    }
    let_go(&list, 9 * CHECK_MIB, n);
    n_refused += run_course(6, 60000, 20, when);
    /* Without these calls memory is only not given back, or copied instead of moved. */
    if ((which & (REFUSE_MMAP | REFUSE_MPROTECT)) == 0)
        CHECK_THAT(n_refused == 0 && n == 20, "%s: %u requests are refused", when, n_refused);
    end_course(when);
    /* What was in use before can be used again. */
    CHECK_THAT(run_course(7, 5000, 16, when) == 0 || (which & REFUSE_MPROTECT) != 0,
               "%s: freed memory is not to be had", when);
    end_course(when);
}

/* A filter of a service that does not know what its malloc calls: what is not needed ends the process. */
static int kill_for_calls(void)
{
    static const unsigned numbers[] = {SYS_mincore, SYS_move_pages, SYS_prlimit64, SYS_sysinfo, SYS_gettid};
    struct sock_filter program[16];
    unsigned short n = 0;
    program[n++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
    for (unsigned i = 0; i < CHECK_COUNT(numbers); i++) {
        program[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, numbers[i], 0, 1);
        program[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS);
    }
    program[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    struct sock_fprog filter = {n, program};
    return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 && prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) == 0;
}

static void use_large_blocks_in_part(void)
{
    for (unsigned i = 0; i < 20; i++) {
        char *block = malloc((5 + i) * CHECK_MIB);
        CHECK_THAT(block != NULL, "no block of %u MiB", 5 + i);
        memset(block, (int)i, 3 * CHECK_MIB);
        char *beside = malloc(3 * CHECK_MIB), *grown = realloc(block, (25 + i) * CHECK_MIB); /* moved, mostly */
        CHECK_THAT(beside != NULL && grown != NULL, "no block of %u MiB", 25 + i);
        free(beside);
        free(grown);
    }
}

static void with_calls_that_kill(size_t unused)
{
    (void)unused;
    use_large_blocks_in_part(); /* What was found before says nothing of later. */
    if (!kill_for_calls()) {
        check_leave_out("this system has no seccomp filters: calls that kill");
        return;
    }
    use_large_blocks_in_part();
    struct held *list = NULL;
    for (size_t n = 0; n < 20000; n++) { /* enough for the background thread to be started when they are freed */
        struct held *block = malloc(1000);
        REQUIRE(block != NULL);
        memset(block, (int)n, 1000);
        block->next = list;
        block->mark = n;
        list = block;
    }
    let_go(&list, 1000, 20000);
    usleep(300000); /* for it to do what it does */
    run_course(8, 20000, 24, "where unexpected calls kill");
    end_course("where unexpected calls kill");
}

static void test_calls_that_kill(void)
{
    run_child(with_calls_that_kill, 0, "the process where unexpected calls kill");
}

static void test_refused_calls(void)
{
    static const size_t masks[] = {REFUSE_MMAP,
                                   REFUSE_MUNMAP,
                                   REFUSE_MPROTECT,
                                   REFUSE_MADVISE,
                                   REFUSE_MREMAP,
                                   REFUSE_ALL,
                                   REFUSE_MMAP | REFUSE_MADVISE,
                                   REFUSE_MADVISE | REFUSE_MREMAP};
    char what[80];
    for (size_t i = 0; i < CHECK_COUNT(masks); i++)
        for (unsigned error = 0; error < 2; error++) {
            size_t mask = masks[i] | (error ? WITH_EINVAL : 0);
            snprintf(what, sizeof what, "the process with refused calls (mask %#zx)", mask);
            run_child(with_refused_calls, mask, what);
        }
}

int main(int argc, char **argv)
{
    if (argc == 4 && strcmp(argv[2], "0") == 0)
        return main_growing(strtoull(argv[1], NULL, 10));
    if (argc == 4)
        return main_limited(strtoull(argv[1], NULL, 10), strtoull(argv[2], NULL, 10), strtoull(argv[3], NULL, 10));
    check_on_hakmem();
    test_resource_limits();
    test_growing_blocks();
    run_child(without_mappings, 1, "the process without mappings, warm");
    run_child(without_mappings, 0, "the process without mappings, cold");
#if defined(THIS_ARCHITECTURE)
    test_refused_calls();
    test_calls_that_kill();
#else
    check_leave_out("the calls of this architecture have no number here: refused calls");
#endif
    return check_status();
}
