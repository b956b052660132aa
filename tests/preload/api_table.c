/* api_table.c - every entry point of the malloc family with the arguments at its edges: result, errno, and what is
 * promised about the old block. The answers are those of ISO C, POSIX and glibc; where these differ, of hakmem.h.
 * Functions that glibc's headers do not declare are found by name.
 */
#include "check.h"

#include <limits.h>
#include <malloc.h>

#define MARK 1789 /* an errno that nobody sets */

static void *(*p_reallocarray)(void *, size_t, size_t);
static void *(*p_reallocf)(void *, size_t);
static int (*p_reallocarr)(void *, size_t, size_t);
static size_t (*p_malloc_size)(const void *);
static size_t (*p_malloc_good_size)(size_t);
static void (*p_free_sized)(void *, size_t);
static void (*p_free_aligned_sized)(void *, size_t, size_t);
static void (*p_cfree)(void *);
static int (*p_posix_memalign)(void **, size_t, size_t); /* __posix_memalign */
static void *(*p_hak_malloc)(size_t);
static void *(*p_hak_calloc)(size_t, size_t);
static void *(*p_hak_realloc)(void *, size_t);
static void *(*p_hak_aligned_alloc)(size_t, size_t);
static void (*p_hak_free)(void *);
static void (*p_hak_free_sized)(void *, size_t);
static size_t (*p_hak_usable_size)(const void *);
static size_t (*p_hak_good_size)(size_t);
static size_t (*p_hak_trim)(int);

static void find(void *pointer, const char *name)
{
    void *symbol = check_symbol(name);
    memcpy(pointer, &symbol, sizeof symbol);
}

static void find_symbols(void)
{
    find(&p_reallocarray, "reallocarray");
    find(&p_reallocf, "reallocf");
    find(&p_reallocarr, "reallocarr");
    find(&p_malloc_size, "malloc_size");
    find(&p_malloc_good_size, "malloc_good_size");
    find(&p_free_sized, "free_sized");
    find(&p_free_aligned_sized, "free_aligned_sized");
    find(&p_cfree, "cfree");
    find(&p_posix_memalign, "__posix_memalign");
    find(&p_hak_malloc, "hak_malloc");
    find(&p_hak_calloc, "hak_calloc");
    find(&p_hak_realloc, "hak_realloc");
    find(&p_hak_aligned_alloc, "hak_aligned_alloc");
    find(&p_hak_free, "hak_free");
    find(&p_hak_free_sized, "hak_free_sized");
    find(&p_hak_usable_size, "hak_usable_size");
    find(&p_hak_good_size, "hak_good_size");
    find(&p_hak_trim, "hak_trim");
}

/* ---- Names ------------------------------------------------------------------------------------------------------- */

/* Two heaps never mix: all names of the family come from one library. */
static void test_names(void)
{
    /* clang-format off */
    static const char *const names[] = {
        "malloc", "calloc", "realloc", "reallocarray", "free", "posix_memalign", "aligned_alloc", "memalign",
        "valloc", "pvalloc", "malloc_usable_size", "free_sized", "free_aligned_sized", "cfree", "reallocf",
        "reallocarr", "malloc_size", "malloc_good_size", "mallinfo", "mallinfo2", "mallopt", "malloc_trim",
        "malloc_stats", "malloc_info", "__libc_malloc", "__libc_calloc", "__libc_realloc", "__libc_free",
        "__libc_memalign", "__libc_valloc", "__libc_pvalloc", "__libc_cfree", "__posix_memalign", "hak_malloc",
        "hak_calloc", "hak_realloc", "hak_aligned_alloc", "hak_free", "hak_free_sized", "hak_usable_size",
        "hak_good_size", "hak_trim", "hak_route_get", "hak_profile_name", "hak_stats_get", "hak_stats_json",
        "hak_resident_get", "hak_budget_set", "hak_budget_get", "hak_budget_on_pressure",
        "_Znwm", "_Znam", "_ZdlPv", "_ZdaPv", "_ZdlPvm", "_ZdaPvm", "_ZnwmSt11align_val_t",
        "_ZdlPvSt11align_val_t", "_ZnwmRKSt9nothrow_t"};
    /* clang-format on */
    const void *version = check_symbol("hak_version");
    for (size_t i = 0; i < CHECK_COUNT(names); i++) {
        const void *symbol = dlsym(RTLD_DEFAULT, names[i]);
        CHECK_THAT(symbol != NULL && check_same_library(symbol, version), "%s is not hakmem's", names[i]);
    }
}

/* ---- Allocating functions, all as void *(size_t) ----------------------------------------------------------------- */

static void *by_calloc_1n(size_t n)
{
    return calloc(1, n);
}
static void *by_calloc_n1(size_t n)
{
    return calloc(n, 1);
}
static void *by_realloc(size_t n)
{
    return realloc(NULL, n);
}
static void *by_reallocarray_1n(size_t n)
{
    return p_reallocarray(NULL, 1, n);
}
static void *by_reallocarray_n1(size_t n)
{
    return p_reallocarray(NULL, n, 1);
}
static void *by_reallocf(size_t n)
{
    return p_reallocf(NULL, n);
}
static void *by_aligned_8(size_t n)
{
    return aligned_alloc(8, n);
}
static void *by_aligned_16(size_t n)
{
    return aligned_alloc(16, n);
}
static void *by_aligned_64(size_t n)
{
    return aligned_alloc(64, n);
}
static void *by_aligned_page(size_t n)
{
    return aligned_alloc(4096, n);
}
static void *by_aligned_mib(size_t n)
{
    return aligned_alloc(CHECK_MIB, n);
}
static void *by_aligned_8mib(size_t n)
{
    return aligned_alloc(8 * CHECK_MIB, n);
}
static void *by_memalign_32(size_t n)
{
    return memalign(32, n);
}
static void *by_memalign_page(size_t n)
{
    return memalign(4096, n);
}
static void *by_libc(const char *name, size_t n)
{
    void *(*function)(size_t);
    find(&function, name);
    return function(n);
}
static void *by_libc_malloc(size_t n)
{
    return by_libc("__libc_malloc", n);
}
static void *by_libc_valloc(size_t n)
{
    return by_libc("__libc_valloc", n);
}
static void *by_libc_pvalloc(size_t n)
{
    return by_libc("__libc_pvalloc", n);
}
static void *by_libc_calloc(size_t n)
{
    void *(*function)(size_t, size_t);
    find(&function, "__libc_calloc");
    return function(n, 1);
}
static void *by_libc_realloc(size_t n)
{
    void *(*function)(void *, size_t);
    find(&function, "__libc_realloc");
    return function(NULL, n);
}
static void *by_libc_memalign(size_t n)
{
    void *(*function)(size_t, size_t);
    find(&function, "__libc_memalign");
    return function(64, n);
}
static void *by_hak_malloc(size_t n)
{
    return p_hak_malloc(n);
}
static void *by_hak_calloc(size_t n)
{
    return p_hak_calloc(1, n);
}
static void *by_hak_realloc(size_t n)
{
    return p_hak_realloc(NULL, n);
}
static void *by_hak_aligned(size_t n)
{
    return p_hak_aligned_alloc(256, n);
}

/* Keeps the rules of posix_memalign: the error is the result, errno stays, but for ENOMEM as glibc has it, and *result is written on success
 * only. */
static void *by_either_posix_memalign(int (*function)(void **, size_t, size_t), size_t alignment, size_t n)
{
    void *marker = &marker, *result = marker;
    int saved_errno = errno = MARK;
    int error = function(&result, alignment, n);
    CHECK_THAT(errno == (error == 0 ? saved_errno : ENOMEM), "posix_memalign(%zu, %zu) sets errno to %d", alignment, n,
               errno);
    CHECK_THAT(error == 0 || error == ENOMEM, "posix_memalign(%zu, %zu) returns %d", alignment, n, error);
    if (error != 0) {
        CHECK_THAT(result == marker, "posix_memalign(%zu, %zu) fails and writes its result", alignment, n);
        errno = error;
        return NULL;
    }
    CHECK(result != marker);
    return result;
}
static void *by_posix_memalign_8(size_t n)
{
    return by_either_posix_memalign(posix_memalign, 8, n);
}
static void *by_posix_memalign_page(size_t n)
{
    return by_either_posix_memalign(posix_memalign, 4096, n);
}
static void *by_posix_memalign_4mib(size_t n)
{
    return by_either_posix_memalign(posix_memalign, 4 * CHECK_MIB, n);
}
static void *by_other_posix_memalign(size_t n)
{
    return by_either_posix_memalign(p_posix_memalign, 64, n);
}
static void *by_reallocarr(size_t n)
{
    void *block = NULL;
    int saved_errno = errno = MARK;
    int error = p_reallocarr(&block, n, 1);
    CHECK_THAT(errno == saved_errno, "reallocarr(%zu) sets errno to %d", n, errno);
    if (error != 0) {
        CHECK_THAT(block == NULL, "reallocarr(%zu) fails and writes its result", n);
        errno = error;
    }
    return block;
}

static const struct allocator {
    const char *name;
    void *(*allocate)(size_t);
    size_t alignment;
    int unique_at_0; /* size 0 gives a unique block */
} allocators[] = {
    {"malloc", malloc, 16, 1},
    {"calloc(1, n)", by_calloc_1n, 16, 1},
    {"calloc(n, 1)", by_calloc_n1, 16, 1},
    {"realloc(NULL, n)", by_realloc, 16, 1},
    {"reallocarray(NULL, 1, n)", by_reallocarray_1n, 16, 1},
    {"reallocarray(NULL, n, 1)", by_reallocarray_n1, 16, 1},
    {"reallocf(NULL, n)", by_reallocf, 16, 1},
    {"reallocarr(NULL, n)", by_reallocarr, 16, 0},
    {"aligned_alloc(8, n)", by_aligned_8, 16, 1},
    {"aligned_alloc(16, n)", by_aligned_16, 16, 1},
    {"aligned_alloc(64, n)", by_aligned_64, 64, 1},
    {"aligned_alloc(4096, n)", by_aligned_page, 4096, 1},
    {"aligned_alloc(1 MiB, n)", by_aligned_mib, CHECK_MIB, 1},
    {"aligned_alloc(8 MiB, n)", by_aligned_8mib, 8 * CHECK_MIB, 1},
    {"memalign(32, n)", by_memalign_32, 32, 1},
    {"memalign(4096, n)", by_memalign_page, 4096, 1},
    {"valloc", valloc, 4096, 1},
    {"pvalloc", pvalloc, 4096, 1},
    {"posix_memalign(8, n)", by_posix_memalign_8, 16, 1},
    {"posix_memalign(4096, n)", by_posix_memalign_page, 4096, 1},
    {"posix_memalign(4 MiB, n)", by_posix_memalign_4mib, 4 * CHECK_MIB, 1},
    {"__posix_memalign(64, n)", by_other_posix_memalign, 64, 1},
    {"__libc_malloc", by_libc_malloc, 16, 1},
    {"__libc_calloc", by_libc_calloc, 16, 1},
    {"__libc_realloc", by_libc_realloc, 16, 1},
    {"__libc_memalign(64, n)", by_libc_memalign, 64, 1},
    {"__libc_valloc", by_libc_valloc, 4096, 1},
    {"__libc_pvalloc", by_libc_pvalloc, 4096, 1},
    {"hak_malloc", by_hak_malloc, 16, 1},
    {"hak_calloc", by_hak_calloc, 16, 1},
    {"hak_realloc(NULL, n)", by_hak_realloc, 16, 1},
    {"hak_aligned_alloc(256, n)", by_hak_aligned, 256, 1},
};

static const size_t too_large[] = {
    PTRDIFF_MAX,
    (size_t)PTRDIFF_MAX + 1,
    (size_t)PTRDIFF_MAX + 4097,
    (size_t)PTRDIFF_MAX - 4096,
    SIZE_MAX,
    SIZE_MAX - 1,
    SIZE_MAX - 15,
    SIZE_MAX - 4094,
    SIZE_MAX - 4095,
    SIZE_MAX - 4096,
    SIZE_MAX - 65535,
    SIZE_MAX - 2 * CHECK_MIB,
    (size_t)1 << 62,
    (size_t)1 << 48,
    ((size_t)1 << 47) - 1, /* fits, but for what the process already has */
};

static void test_too_large(const struct allocator *a)
{
    for (size_t i = 0; i < CHECK_COUNT(too_large); i++) {
        errno = MARK;
        void *block = a->allocate(too_large[i]);
        CHECK_THAT(block == NULL, "%s gives a block of %zu bytes", a->name, too_large[i]);
        CHECK_THAT(errno == ENOMEM, "%s of %zu bytes: errno %d", a->name, too_large[i], errno);
        free(block);
    }
}

static void test_sizes(const struct allocator *a)
{
    static const size_t sizes[] = {0,      1,       7,       8,       9,       15,      16,      17,      100,    1024,
                                   1025,   4095,    4096,    4097,    8192,    32767,   32768,   32769,   65536,  65537,
                                   200000, 1048575, 1048576, 1048577, 2031616, 2031617, 2097152, 2097153, 5000000};
    for (size_t i = 0; i < CHECK_COUNT(sizes); i++) {
        size_t n = sizes[i];
        errno = MARK;
        void *first = a->allocate(n), *second = a->allocate(n);
        CHECK_THAT(errno == MARK, "%s of %zu bytes succeeds and sets errno to %d", a->name, n, errno);
        if (n == 0 && !a->unique_at_0) {
            free(first);
            free(second);
            continue;
        }
        CHECK_THAT(first != NULL && second != NULL, "%s of %zu bytes fails", a->name, n);
        CHECK_THAT(first != second, "%s of %zu bytes gives one block twice", a->name, n);
        size_t alignment = a->alignment == 16 && n <= 8 ? 8 : a->alignment;
        CHECK_THAT((uintptr_t)first % alignment == 0 && (uintptr_t)second % alignment == 0,
                   "%s of %zu bytes is not aligned to %zu", a->name, n, alignment);
        size_t usable = malloc_usable_size(first);
        CHECK_THAT(usable >= n, "%s of %zu bytes has only %zu", a->name, n, usable);
        check_fill(first, n, 0x5a11);
        check_fill(second, n, 0xbeef);
        CHECK_THAT(check_filled(first, n, 0x5a11), "%s of %zu bytes overlaps its neighbour", a->name, n);
        errno = MARK;
        free(first);
        free(second);
        CHECK_THAT(errno == MARK, "free of %zu bytes sets errno to %d", n, errno);
    }
}

/* A page more or less, in particular in valloc's and pvalloc's rounding. */
static void test_pvalloc_rounds(void)
{
    for (size_t n = 0; n <= 3 * 4096; n += 512) {
        void *block = pvalloc(n);
        size_t whole = n == 0 ? 4096 : (n + 4095) / 4096 * 4096;
        REQUIRE(block != NULL);
        CHECK_THAT(malloc_usable_size(block) >= whole, "pvalloc(%zu) has %zu bytes", n, malloc_usable_size(block));
        free(block);
    }
}

/* ---- Products ---------------------------------------------------------------------------------------------------- */

static void test_products(void)
{
    static const size_t products[][2] = {
        {(size_t)1 << 32, (size_t)1 << 32}, /* wrap to exactly 0 */
        {(size_t)1 << 33, (size_t)1 << 31},
        {(size_t)1 << 63, 2},
        {2, (size_t)1 << 63},
        {SIZE_MAX / 2 + 1, 4},
        {SIZE_MAX / 16 + 1, 17}, /* wrap to a small size */
        {SIZE_MAX / 3 + 1, 3},
        {SIZE_MAX, SIZE_MAX}, /* wrap to 1 */
        {SIZE_MAX, 2},
        {SIZE_MAX, 1}, /* do not wrap */
        {1, SIZE_MAX},
        {PTRDIFF_MAX, 2},
        {(size_t)PTRDIFF_MAX + 1, 1},
    };
    for (size_t i = 0; i < CHECK_COUNT(products); i++) {
        size_t count = products[i][0], size = products[i][1], ignored;
        errno = MARK;
        CHECK_THAT(calloc(count, size) == NULL && errno == ENOMEM, "calloc(%zu, %zu): errno %d", count, size, errno);
        errno = MARK;
        CHECK_THAT(p_hak_calloc(count, size) == NULL && errno == ENOMEM, "hak_calloc(%zu, %zu)", count, size);
        errno = MARK;
        CHECK_THAT(p_reallocarray(NULL, count, size) == NULL && errno == ENOMEM, "reallocarray(NULL, %zu, %zu): %d",
                   count, size, errno);
        static const size_t old_sizes[] = {24, 3000, 100000, 3 * 1024 * 1024};
        for (size_t k = 0; k < CHECK_COUNT(old_sizes); k++) {
            void *block = malloc(old_sizes[k]), *slot = block;
            REQUIRE(block != NULL);
            check_fill(block, old_sizes[k], 77);
            errno = MARK;
            CHECK_THAT(p_reallocarray(block, count, size) == NULL && errno == ENOMEM,
                       "reallocarray(block, %zu, %zu): %d", count, size, errno);
            errno = MARK;
            int error = p_reallocarr(&slot, count, size);
            int wraps = __builtin_mul_overflow(count, size, &ignored);
            CHECK_THAT(error == (wraps ? EOVERFLOW : ENOMEM), "reallocarr(%zu, %zu) returns %d", count, size, error);
            CHECK_THAT(slot == block && errno == MARK, "reallocarr(%zu, %zu) changes more than its result", count,
                       size);
            CHECK_THAT(check_filled(block, old_sizes[k], 77), "a failed reallocarray changes the old block");
            free(block);
        }
    }
    for (int zero_first = 0; zero_first < 2; zero_first++) { /* a product of 0 is a unique block, whatever the other */
        void *a = zero_first ? calloc(0, SIZE_MAX) : calloc(SIZE_MAX, 0), *b = calloc(0, 0);
        CHECK(a != NULL && b != NULL && a != b);
        free(a);
        free(b);
    }
}

/* ---- realloc ----------------------------------------------------------------------------------------------------- */

static const size_t block_sizes[] = {1, 8, 24, 100, 1000, 1500, 5000, 32768, 40000, 1000000, 3000000};

static void test_realloc(void)
{
    for (size_t i = 0; i < CHECK_COUNT(block_sizes); i++) {
        size_t n = block_sizes[i];
        void *block = malloc(n);
        REQUIRE(block != NULL);
        check_fill(block, n, 99);
        for (size_t k = 0; k < CHECK_COUNT(too_large); k++) {
            errno = MARK;
            CHECK_THAT(realloc(block, too_large[k]) == NULL && errno == ENOMEM, "realloc of %zu to %zu bytes: errno %d",
                       n, too_large[k], errno);
            errno = MARK;
            CHECK_THAT(p_hak_realloc(block, too_large[k]) == NULL && errno == ENOMEM, "hak_realloc of %zu to %zu", n,
                       too_large[k]);
        }
        CHECK_THAT(check_filled(block, n, 99), "a failed realloc of %zu bytes changes them", n);
        errno = MARK;
        void *same = realloc(block, malloc_usable_size(block));
        CHECK_THAT(same == block && errno == MARK, "realloc to the usable size of %zu bytes moves, or sets errno", n);
        errno = MARK;
        CHECK_THAT(realloc(same, 0) == NULL && errno == MARK, "realloc(%zu bytes, 0): errno %d", n, errno);

        block = malloc(n);
        errno = MARK;
        CHECK_THAT(p_reallocarray(block, 0, 8) == NULL && errno == MARK, "reallocarray(block, 0, 8): errno %d", errno);
        block = malloc(n);
        errno = MARK;
        CHECK(p_reallocf(block, 0) == NULL && errno == MARK);
        block = malloc(n);
        errno = MARK;
        CHECK_THAT(p_reallocf(block, SIZE_MAX) == NULL && errno == ENOMEM, "reallocf to SIZE_MAX: errno %d", errno);
        block = malloc(n);
        void *slot = block;
        errno = MARK;
        CHECK_THAT(p_reallocarr(&slot, 0, 8) == 0 && slot == NULL && errno == MARK, "reallocarr to 0 elements");
        block = malloc(n);
        slot = block;
        CHECK(p_reallocarr(&slot, 5, 500) == 0 && slot != NULL);
        free(slot);
    }
}

/* Whether the old block was freed is seen in the live count, which realloc(p, 0) and a failed reallocf must lower. */
static void test_freed_by_realloc(void)
{
    for (size_t i = 0; i < CHECK_COUNT(block_sizes); i++) {
        size_t before = mallinfo2().uordblks;
        for (unsigned k = 0; k < 50; k++) {
            void *block = malloc(block_sizes[i]);
            CHECK(realloc(block, 0) == NULL);
            block = malloc(block_sizes[i]);
            CHECK(p_reallocf(block, SIZE_MAX) == NULL);
            block = malloc(block_sizes[i]);
            CHECK(p_reallocf(block, 0) == NULL);
        }
        size_t after = mallinfo2().uordblks;
        CHECK_THAT(after == before,
                   "blocks of %zu bytes are lost by realloc(p, 0) or reallocf: %zu bytes before, %zu after",
                   block_sizes[i], before, after);
    }
}

/* ---- Alignment --------------------------------------------------------------------------------------------------- */

static void test_bad_alignment(void)
{
    static const size_t bad[] = {0,  3,   5,    6,    7,        12,          24,
                                 48, 100, 4095, 4097, SIZE_MAX, PTRDIFF_MAX, (size_t)PTRDIFF_MAX + 2};
    int (*const functions[])(void **, size_t, size_t) = {posix_memalign, p_posix_memalign};
    for (size_t i = 0; i < CHECK_COUNT(bad); i++) {
        errno = MARK;
        CHECK_THAT(aligned_alloc(bad[i], 64) == NULL && errno == EINVAL, "aligned_alloc(%zu, 64): errno %d", bad[i],
                   errno);
        errno = MARK;
        CHECK_THAT(p_hak_aligned_alloc(bad[i], 64) == NULL && errno == EINVAL, "hak_aligned_alloc(%zu)", bad[i]);
        for (size_t k = 0; k < CHECK_COUNT(functions); k++) {
            void *result = &errno;
            errno = MARK;
            CHECK_THAT(functions[k](&result, bad[i], 64) == EINVAL, "posix_memalign(%zu) is accepted", bad[i]);
            CHECK_THAT(result == &errno && errno == MARK, "posix_memalign(%zu) writes *memptr or errno", bad[i]);
        }
    }
    static const size_t below_a_pointer[] = {1, 2, 4};
    for (size_t i = 0; i < CHECK_COUNT(below_a_pointer); i++) {
        void *result = &errno;
        CHECK_THAT(posix_memalign(&result, below_a_pointer[i], 64) == EINVAL && result == &errno,
                   "posix_memalign(%zu) is accepted", below_a_pointer[i]);
        void *block = aligned_alloc(below_a_pointer[i], 64); /* a power of two: valid here */
        CHECK_THAT(block != NULL, "aligned_alloc(%zu, 64) fails", below_a_pointer[i]);
        free(block);
    }
    /* memalign rounds up, as glibc does, until there is nothing left to round up to. */
    static const size_t rounded[][2] = {{0, 16}, {1, 16}, {3, 16}, {17, 32}, {33, 64}, {100, 128}, {4097, 8192}};
    for (size_t i = 0; i < CHECK_COUNT(rounded); i++) {
        void *block = memalign(rounded[i][0], 100);
        CHECK_THAT(block != NULL && (uintptr_t)block % rounded[i][1] == 0, "memalign(%zu, 100) gives %p", rounded[i][0],
                   block);
        free(block);
    }
    volatile size_t top = (size_t)1 << 63; /* compilers know that these alignments cannot be */
    errno = MARK;
    CHECK_THAT(memalign(top + (top - 1), 8) == NULL && errno == EINVAL, "memalign(SIZE_MAX, 8): errno %d", errno);
    errno = MARK;
    CHECK_THAT(memalign(top + 1, 8) == NULL && errno == EINVAL, "memalign(SIZE_MAX / 2 + 2, 8): errno %d", errno);
    errno = MARK;
    CHECK_THAT(memalign(top, 8) == NULL && errno == ENOMEM, "memalign(2^63, 8): errno %d", errno);
    errno = MARK;
    CHECK_THAT(memalign(4096, SIZE_MAX - 100) == NULL && errno == ENOMEM, "memalign(4096, SIZE_MAX - 100): errno %d",
               errno);
    errno = MARK;
    CHECK_THAT(aligned_alloc(top, top) == NULL && errno == ENOMEM, "aligned_alloc(2^63, 2^63)");
}

/* The least that one of some blocks takes: now and then a longer one is lent. */
static size_t least_usable(void *(*function)(size_t, size_t), size_t alignment, size_t n)
{
    void *block[16];
    size_t least = SIZE_MAX;
    for (size_t i = 0; i < CHECK_COUNT(block); i++) {
        REQUIRE((block[i] = function(alignment, n)) != NULL);
        if (malloc_usable_size(block[i]) < least)
            least = malloc_usable_size(block[i]);
    }
    for (size_t i = 0; i < CHECK_COUNT(block); i++)
        free(block[i]);
    return least;
}

/* memalign rounds an odd alignment up to a power of two, and leaves one that is: its blocks take no more than aligned_alloc's. */
static void test_alignment_costs_no_more(void)
{
    for (size_t alignment = 16; alignment <= 8192; alignment *= 2)
        for (size_t n = 1; n <= 3 * alignment && n < 10000; n += alignment / 4) {
            size_t is = least_usable(memalign, alignment, n), shall = least_usable(aligned_alloc, alignment, n);
            CHECK_THAT(is == shall, "memalign(%zu, %zu) takes %zu bytes, aligned_alloc %zu", alignment, n, is, shall);
            is = least_usable(memalign, alignment / 2 + 1, n);
            CHECK_THAT(is == shall, "memalign(%zu, %zu) takes %zu bytes instead of %zu", alignment / 2 + 1, n, is,
                       shall);
        }
}

static void test_alignment(void)
{
    static const size_t sizes[] = {0, 1, 8, 40, 1000, 5000, 32768, 40000, 1048576, 1048577, 2031616, 2031617, 3000000};
    for (size_t alignment = 16; alignment <= (size_t)1 << 30; alignment *= 2)
        for (size_t i = 0; i < CHECK_COUNT(sizes); i++) {
            if (alignment > 64 * CHECK_MIB && i % 4 != 1)
                continue;
            void *block[4] = {aligned_alloc(alignment, sizes[i]), memalign(alignment, sizes[i]), NULL,
                              p_hak_aligned_alloc(alignment, sizes[i])};
            CHECK(posix_memalign(&block[2], alignment, sizes[i]) == 0);
            for (unsigned k = 0; k < CHECK_COUNT(block); k++) {
                CHECK_THAT(block[k] != NULL, "form %u: no block of %zu bytes on %zu", k, sizes[i], alignment);
                CHECK_THAT((uintptr_t)block[k] % alignment == 0, "form %u: %p is not on %zu", k, block[k], alignment);
                if (block[k] == NULL)
                    continue;
                CHECK(malloc_usable_size(block[k]) >= sizes[i]);
                check_fill(block[k], sizes[i], k + 1);
            }
            /* An aligned block is as good as any for realloc; the alignment is not promised afterwards. */
            if (block[1] != NULL) {
                memset(block[1], 0x42, sizes[i]);
                unsigned char *moved = realloc(block[1], sizes[i] + 10000);
                CHECK(moved != NULL);
                for (size_t at = 0; moved != NULL && at < sizes[i]; at++)
                    if (moved[at] != 0x42) {
                        CHECK_FAIL("realloc of an aligned block of %zu bytes loses byte %zu", sizes[i], at);
                        break;
                    }
                block[1] = moved;
            }
            for (unsigned k = 0; k < CHECK_COUNT(block); k++) {
                if (k != 1 && block[k] != NULL)
                    CHECK_THAT(check_filled(block[k], sizes[i], k + 1), "aligned blocks of %zu bytes overlap",
                               sizes[i]);
                free(block[k]);
            }
        }
}

/* Blocks of 16 bytes and more lie on 16; smaller ones may lie on 8, which is enough for what fits into them. */
static void test_natural_alignment(void)
{
    for (size_t n = 0; n <= 65536; n += n < 2048 ? 1 : 61) {
        void *block = malloc(n);
        REQUIRE(block != NULL);
        size_t alignment = n <= 8 ? 8 : 16;
        CHECK_THAT((uintptr_t)block % alignment == 0, "malloc(%zu) gives %p", n, block);
        free(block);
    }
}

/* ---- Sizes ------------------------------------------------------------------------------------------------------- */

static void test_usable_size(void)
{
    CHECK(malloc_usable_size(NULL) == 0 && p_malloc_size(NULL) == 0 && p_hak_usable_size(NULL) == 0);
    size_t last_good = 0;
    for (size_t n = 0; n <= 8 * CHECK_MIB; n += n < 70000 ? 1 : n / 7) {
        size_t good = p_malloc_good_size(n);
        CHECK_THAT(good >= n && good >= last_good, "malloc_good_size(%zu) is %zu, and less before", n, good);
        CHECK_THAT(p_malloc_good_size(good) == good, "malloc_good_size(%zu) is not its own good size", good);
        CHECK(p_hak_good_size(n) == good);
        last_good = good;
    }
    CHECK(p_malloc_good_size(SIZE_MAX) == 0 && p_malloc_good_size((size_t)PTRDIFF_MAX + 1) == 0);
    CHECK(p_malloc_good_size(((size_t)1 << 47) - 1) == 0); /* whose last page would end where addresses do */
    for (size_t n = 1; n <= 4 * CHECK_MIB; n = n + n / 3 + 1) {
        unsigned char *block = malloc(n);
        REQUIRE(block != NULL);
        size_t usable = malloc_usable_size(block);
        CHECK_THAT(usable >= p_malloc_good_size(n), "malloc(%zu) has %zu usable bytes, good size %zu", n, usable,
                   p_malloc_good_size(n));
        CHECK(p_malloc_size(block) == usable && p_hak_usable_size(block) == usable);
        check_fill(block, usable, n);
        CHECK_THAT(malloc_usable_size(block) == usable, "the usable size of %zu bytes changes in use", n);
        CHECK(check_filled(block, usable, n));
        free(block);
    }
}

/* Free blocks of the next larger class lie about in the thread's magazine, and may be lent. A block has at least the size
 * that hak_good_size promises, no more than a quarter of it is waste above 64 bytes, and it lies on the alignment that was
 * asked for. A child, in which no class has been used;
 * its status says which of both is wrong. */
enum { WRONG_SIZE = 2, WRONG_ALIGNMENT = 4 };

static void try_beside_larger(size_t n, unsigned count)
{
    static void *block[300];
    check_n_failures = 0;
    int is_power = (n & (n - 1)) == 0 && n >= 16;
    unsigned n_different = 0, n_astray = 0;
    for (unsigned round = 0; round < 3; round++) {
        for (unsigned i = 0; i < count; i++) {
            block[i] = malloc(p_malloc_good_size(n) + 1);
            REQUIRE(block[i] != NULL);
        }
        for (unsigned i = 0; i < count; i++)
            free(block[i]);
        for (unsigned i = 0; i < count; i++) {
            block[i] = is_power && round != 1 ? aligned_alloc(n, n) : malloc(n);
            REQUIRE(block[i] != NULL);
            size_t usable = malloc_usable_size(block[i]);
            n_different += usable < p_malloc_good_size(n) || (n > 64 && (usable - n) * 4 > usable);
            n_astray += is_power && round != 1 && (uintptr_t)block[i] % n != 0;
        }
    }
    _exit((n_different != 0 ? WRONG_SIZE : 0) | (n_astray != 0 ? WRONG_ALIGNMENT : 0) |
          (check_n_failures != 0 ? 1 : 0));
}

static void test_beside_larger(void)
{
    static const unsigned counts[] = {16, 64, 300};
    unsigned n_different = 0, n_astray = 0;
    size_t different = 0, astray = 0;
    if (p_malloc_good_size(1) == 1)
        return; /* hardened mode has no larger classes that one could see */
    for (size_t k = 0; k < CHECK_COUNT(counts); k++)
        for (size_t n = p_malloc_good_size(1); n <= 32768; n = p_malloc_good_size(n + 1)) {
            int status = 0;
            pid_t pid = fork();
            REQUIRE(pid >= 0);
            if (pid == 0)
                try_beside_larger(n, counts[k]);
            REQUIRE(waitpid(pid, &status, 0) == pid);
            CHECK_THAT(WIFEXITED(status) && (WEXITSTATUS(status) & 1) == 0, "%zu bytes: status %#x", n, status);
            if ((WEXITSTATUS(status) & WRONG_SIZE) != 0 && n_different++ == 0)
                different = n;
            if ((WEXITSTATUS(status) & WRONG_ALIGNMENT) != 0 && n_astray++ == 0)
                astray = n;
        }
    CHECK_THAT(n_different == 0, "in %u cases, first for %zu bytes, blocks have not the size of malloc_good_size",
               n_different, different);
    CHECK_THAT(n_astray == 0, "in %u cases, first for %zu bytes on %zu, blocks are not aligned", n_astray, astray,
               astray);
}

/* ---- Ways to free ------------------------------------------------------------------------------------------------ */

static void test_frees(void)
{
    void (*libc_free)(void *), (*libc_cfree)(void *);
    find(&libc_free, "__libc_free");
    find(&libc_cfree, "__libc_cfree");
    size_t before = mallinfo2().uordblks;
    for (size_t i = 0; i < CHECK_COUNT(block_sizes); i++) {
        size_t n = block_sizes[i];
        errno = MARK;
        free(malloc(n));
        p_cfree(malloc(n));
        libc_free(malloc(n));
        libc_cfree(malloc(n));
        p_free_sized(malloc(n), n);
        p_free_sized(calloc(1, n), n);
        p_free_aligned_sized(aligned_alloc(64, n), 64, n);
        p_free_aligned_sized(aligned_alloc(8192, n), 8192, n);
        p_hak_free(malloc(n));
        p_hak_free_sized(malloc(n), n);
        free(p_hak_malloc(n));
        CHECK_THAT(errno == MARK, "freeing %zu bytes sets errno to %d", n, errno);
    }
    errno = MARK;
    free(NULL);
    p_cfree(NULL);
    p_free_sized(NULL, 0);
    p_free_sized(NULL, 100);
    p_free_aligned_sized(NULL, 16, 0);
    p_hak_free(NULL);
    CHECK(errno == MARK);
    size_t after = mallinfo2().uordblks;
    CHECK_THAT(after == before, "one of the ways to free loses blocks: %zu bytes before, %zu after", before, after);
}

/* errno is kept where freeing makes system calls: many blocks of every class, freed in one go. */
static void test_errno_kept(void)
{
    enum { N = 6000 };
    static void *block[N];
    for (size_t n = 8; n <= 4 * CHECK_MIB; n = n * 3 / 2) {
        unsigned count = (unsigned)(32 * CHECK_MIB / n < N ? 32 * CHECK_MIB / n : N);
        errno = MARK;
        for (unsigned i = 0; i < count; i++)
            block[i] = malloc(n);
        CHECK_THAT(errno == MARK, "malloc(%zu) sets errno to %d", n, errno);
        for (unsigned i = 0; i < count; i++)
            free(block[i]);
        CHECK_THAT(errno == MARK, "free of %zu bytes sets errno to %d", n, errno);
    }
}

/* ---- Introspection ----------------------------------------------------------------------------------------------- */

static void test_mallinfo(void)
{
    enum { N_SMALL = 5000, N_LARGE = 20 };
    static void *small[N_SMALL], *large[N_LARGE];
    struct mallinfo2 before = mallinfo2();
    size_t small_bytes = 0, large_bytes = 0;
    for (unsigned i = 0; i < N_SMALL; i++) {
        small[i] = malloc(i % 1500);
        REQUIRE(small[i] != NULL);
        small_bytes += malloc_usable_size(small[i]);
    }
    for (unsigned i = 0; i < N_LARGE; i++) {
        large[i] = malloc(40000 + i * 333333);
        REQUIRE(large[i] != NULL);
        large_bytes += malloc_usable_size(large[i]);
    }
    struct mallinfo2 during = mallinfo2();
    CHECK_THAT(during.uordblks - before.uordblks == small_bytes + large_bytes, "uordblks grew by %zu, not by %zu",
               during.uordblks - before.uordblks, small_bytes + large_bytes);
    CHECK_THAT(during.hblks - before.hblks == N_LARGE, "hblks grew by %zu", during.hblks - before.hblks);
    CHECK_THAT(during.hblkhd - before.hblkhd == large_bytes, "hblkhd grew by %zu, not by %zu",
               during.hblkhd - before.hblkhd, large_bytes);
    CHECK_THAT(during.arena >= during.uordblks && during.arena < ((size_t)1 << 40), "arena is %zu, uordblks %zu",
               during.arena, during.uordblks);
    CHECK_THAT(during.fordblks == during.arena - during.uordblks, "fordblks is %zu", during.fordblks);
    CHECK_THAT(during.usmblks >= during.arena, "usmblks %zu is below arena %zu", during.usmblks, during.arena);
    struct mallinfo old = mallinfo();
    CHECK_THAT((size_t)old.uordblks == during.uordblks && (size_t)old.hblks == during.hblks,
               "mallinfo says %d, mallinfo2 %zu", old.uordblks, during.uordblks);
    CHECK_THAT((size_t)old.arena == during.arena && (size_t)old.ordblks == during.ordblks &&
                   (size_t)old.hblkhd == during.hblkhd && (size_t)old.usmblks == during.usmblks &&
                   (size_t)old.fsmblks == during.fsmblks && (size_t)old.fordblks == during.fordblks &&
                   (size_t)old.keepcost == during.keepcost,
               "mallinfo and mallinfo2 differ: ordblks %d, %zu", old.ordblks, during.ordblks);
    for (unsigned i = 0; i < N_SMALL; i++)
        free(small[i]);
    for (unsigned i = 0; i < N_LARGE; i++)
        free(large[i]);
    struct mallinfo2 after = mallinfo2();
    CHECK_THAT(after.uordblks == before.uordblks && after.hblks == before.hblks && after.hblkhd == before.hblkhd,
               "after all was freed: uordblks %zu, hblks %zu, hblkhd %zu; before %zu, %zu, %zu", after.uordblks,
               after.hblks, after.hblkhd, before.uordblks, before.hblks, before.hblkhd);
    malloc_trim(0);
    after = mallinfo2();
    CHECK_THAT(after.arena < during.arena && after.usmblks >= during.usmblks, "usmblks is %zu, was %zu; arena is %zu",
               after.usmblks, during.usmblks, after.arena);
}

/* Every block that is freed is one that is free, wherever it waits. (None of the slabs becomes empty.) */
static void test_mallinfo_free_blocks(void)
{
    enum { N = 6000 };
    static void *block[N];
    for (unsigned i = 0; i < N; i++) {
        block[i] = malloc(48);
        REQUIRE(block[i] != NULL);
    }
    size_t before = mallinfo2().ordblks;
    for (unsigned i = 0; i < N; i += 2)
        free(block[i]);
    size_t after = mallinfo2().ordblks;
    CHECK_THAT(after - before == N / 2, "of %d freed blocks %zu are free", N / 2, after - before);
    for (unsigned i = 1; i < N; i += 2)
        free(block[i]);
}

/* What a trim would give back at once. Time may do so between two looks: then it is looked at again. */
static void test_mallinfo_keepcost(void)
{
    size_t keepcost = 0, expected = SIZE_MAX;
    for (unsigned i = 0; i < 100 && keepcost != expected; i++) {
        void *block = check_malloc(3 * CHECK_MIB);
        free(block);
        const struct hak_stats before = check_stats();
        keepcost = mallinfo2().keepcost;
        const struct hak_stats after = check_stats();
        if (before.slots_empty == after.slots_empty && before.superslabs_cached == after.superslabs_cached)
            expected = after.slots_empty * 65536 + after.superslabs_cached * 2 * CHECK_MIB;
    }
    CHECK_THAT(keepcost == expected && keepcost >= 2 * CHECK_MIB, "keepcost is %zu, not %zu", keepcost, expected);
}

/* The old form says no more than its numbers can hold. The block is not written to. */
static void test_mallinfo_of_much(void)
{
    void *block = malloc(3072 * CHECK_MIB);
    if (block == NULL) {
        check_leave_out("there is no block of 3 GiB here: numbers that mallinfo cannot hold");
        return;
    }
    struct mallinfo old = mallinfo();
    CHECK_THAT(old.hblkhd == INT_MAX && old.uordblks == INT_MAX && old.hblks > 0, "mallinfo says %d of 3 GiB",
               old.hblkhd);
    CHECK(mallinfo2().hblkhd >= 3072 * CHECK_MIB);
    free(block);
}

/* The number behind `name="` in the element that begins with `element`. */
static size_t attribute(const char *text, const char *element, const char *name)
{
    const char *at = strstr(text, element);
    at = at == NULL ? NULL : strstr(at, name);
    return at == NULL ? SIZE_MAX : (size_t)strtoull(at + strlen(name), NULL, 10);
}

static void test_malloc_info(void)
{
    static char text[65536];
    errno = MARK;
    CHECK_THAT(malloc_info(1, stdout) == -1 && errno == EINVAL, "malloc_info(1): errno %d", errno);
    FILE *file = tmpfile();
    static char buffer[BUFSIZ];
    REQUIRE(file != NULL && setvbuf(file, buffer, _IOFBF, sizeof buffer) == 0); /* else the stream allocates one */
    void *block = malloc(7 * CHECK_MIB);
    CHECK(malloc_info(0, file) == 0);
    FILE *full = fopen("/dev/full", "w");
    REQUIRE(full != NULL && setvbuf(full, NULL, _IONBF, 0) == 0);
    CHECK_THAT(malloc_info(0, full) == -1, "malloc_info does not say that it cannot write");
    fclose(full);
    rewind(file);
    size_t len = fread(text, 1, sizeof text - 1, file);
    text[len] = 0;
    CHECK_THAT(strncmp(text, "<malloc version=\"", 17) == 0 && strstr(text, "</malloc>") != NULL,
               "malloc_info writes %.80s", text);
    CHECK_THAT(attribute(text, "type=\"mmap\"", "size=\"") >= 7 * CHECK_MIB, "malloc_info misses a block of 7 MiB");
    struct mallinfo2 info = mallinfo2();
    CHECK_THAT(attribute(text, "type=\"live\"", "size=\"") == info.uordblks &&
                   attribute(text, "type=\"fast\"", "size=\"") == info.fsmblks &&
                   attribute(text, "type=\"current\"", "size=\"") == info.arena &&
                   attribute(text, "type=\"mmap\"", "count=\"") == info.hblks,
               "malloc_info and mallinfo2 differ: %zu, %zu", attribute(text, "type=\"live\"", "size=\""),
               info.uordblks);
    free(block);
    fclose(file);
}

static void test_malloc_stats(void)
{
    int ends[2], saved = dup(STDERR_FILENO);
    static char text[8192];
    REQUIRE(pipe(ends) == 0 && saved >= 0);
    dup2(ends[1], STDERR_FILENO);
    errno = MARK;
    malloc_stats();
    int error = errno;
    dup2(saved, STDERR_FILENO);
    close(ends[1]);
    ssize_t len = read(ends[0], text, sizeof text - 1);
    text[len < 0 ? 0 : len] = 0;
    CHECK_THAT(strstr(text, "hakmem") != NULL && strstr(text, "live") != NULL, "malloc_stats writes %.80s", text);
    CHECK_THAT(error == MARK, "malloc_stats sets errno to %d", error);
    close(ends[0]);
    close(saved);
}

static void test_malloc_trim(void)
{
    enum { N = 60000 };
    static void *block[N];
    for (unsigned i = 0; i < N; i++)
        block[i] = check_malloc(1000);
    size_t full_kib = check_proc_status("VmRSS:");
    for (unsigned i = 0; i < N; i++)
        if (i % 1000 != 0)
            free(block[i]);
    size_t committed_before = mallinfo2().arena;
    errno = MARK;
    malloc_trim(0);
    CHECK_THAT(errno == MARK, "malloc_trim sets errno to %d", errno);
    size_t trimmed_kib = check_proc_status("VmRSS:");
    CHECK_THAT(full_kib > trimmed_kib + 50000, "trimming leaves %zu of %zu KiB in memory", trimmed_kib, full_kib);
    CHECK(mallinfo2().arena <= committed_before);
    for (unsigned i = 0; i < N; i += 1000) {
        CHECK(*(unsigned char *)block[i] == 1 && check_filled(block[i], 1000, 0x0101010101010101u));
        free(block[i]);
    }
    size_t given_back = 0; /* Time may be quicker: then once more. */
    for (unsigned i = 0; i < 100 && given_back < 2 * CHECK_MIB; i++) {
        char *large = check_malloc(3 * CHECK_MIB);
        free(large);
        given_back = p_hak_trim(HAK_TRIM_CACHE);
    }
    CHECK_THAT(given_back >= 2 * CHECK_MIB, "of an empty SuperSlab hak_trim tells %zu bytes", given_back);
    int told = 0; /* as above */
    for (unsigned i = 0; i < 5 && !told; i++) {
        char *large = check_malloc(3 * CHECK_MIB);
        free(large);
        told = malloc_trim(0);
    }
    CHECK_THAT(told, "malloc_trim does not tell that it has given memory back");
    int again = 1;
    for (unsigned i = 0; i < 4 && again; i++)
        again = malloc_trim(0);
    CHECK_THAT(!again, "malloc_trim claims to give memory back again and again");
    for (int level = -1; level <= 4; level++)
        (void)p_hak_trim(level);
}

static void test_mallopt(void)
{
    errno = MARK;
    CHECK(mallopt(M_MMAP_THRESHOLD, 65536) == 1 && mallopt(M_ARENA_MAX, 1) == 1 && mallopt(M_TRIM_THRESHOLD, -1) == 1);
    CHECK(errno == MARK);
    free(malloc(100000));
}

int main(void)
{
    check_on_hakmem();
    find_symbols();
    test_names();
    test_beside_larger(); /* first, while no class has been used */
    for (size_t i = 0; i < CHECK_COUNT(allocators); i++) {
        test_too_large(&allocators[i]);
        test_sizes(&allocators[i]);
    }
    test_pvalloc_rounds();
    test_products();
    test_realloc();
    test_freed_by_realloc();
    test_bad_alignment();
    test_alignment();
    test_alignment_costs_no_more();
    test_natural_alignment();
    test_usable_size();
    test_frees();
    test_errno_kept();
    test_mallinfo();
    test_mallinfo_free_blocks();
    test_mallinfo_keepcost();
    test_mallinfo_of_much();
    test_malloc_info();
    test_malloc_stats();
    test_malloc_trim();
    test_mallopt();
    return check_status();
}
