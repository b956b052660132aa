/* override.c - nothing but names: the malloc family of libc, and glibc's aliases, on hakmem.
 * Owns     nothing.     Called by  every program.     Calls  front/hit.h, hakmem.h, api/introspect.h, api/printing.h
 * Left out of builds in which another malloc must stay in charge (sanitizers, unit tests).
 * Why all in one object: linked statically, the program then takes the whole family from here or none, so two heaps
 * never mix.
 */
#include "api/introspect.h"
#include "api/override_scope.h"
#include "api/printing.h"
#include "front/hit.h"
#include "hakmem/hakmem.h"
#include "os/os.h"

#include <errno.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>

#define EXPORT HIT_TEXT __attribute__((visibility("default")))
/* gcc wants an alias to carry its target's attributes; clang does not know `copy`, nor complain. */
#if defined(__clang__)
#define ALIAS(target, seen) __attribute__((alias(#target), visibility(seen)))
#else
#define ALIAS(target, seen) __attribute__((alias(#target), copy(target), visibility(seen)))
#endif

/* glibc's headers declare some of these names only on demand, and some not at all. */
void *reallocarray(void *block, size_t count, size_t size_bytes);
void free_sized(void *block, size_t size_bytes);
void free_aligned_sized(void *block, size_t alignment, size_t size_bytes);
void cfree(void *block);
void *reallocf(void *block, size_t size_bytes);
int reallocarr(void *pointer, size_t count, size_t size_bytes);
size_t malloc_size(const void *block);
size_t malloc_good_size(size_t size_bytes);

/* ---- ISO C and POSIX --------------------------------------------------------------------------------------------- */

EXPORT void *malloc(size_t size_bytes)
{
    return hit_malloc(size_bytes);
}

EXPORT void free(void *block)
{
    hit_free(block);
}

EXPORT void *calloc(size_t count, size_t size_bytes)
{
    return hak_calloc(count, size_bytes);
}

EXPORT void *realloc(void *block, size_t size_bytes)
{
    return hak_realloc(block, size_bytes);
}

EXPORT void *aligned_alloc(size_t alignment, size_t size_bytes)
{
    return hak_aligned_alloc(alignment, size_bytes);
}

EXPORT int posix_memalign(void **result, size_t alignment, size_t size_bytes)
{
    if (!is_power_of_two(alignment) || alignment < sizeof(void *))
        return EINVAL;
    int saved_errno = errno;
    void *block = hak_aligned_alloc(alignment, size_bytes);
    if (block == NULL)
        /* POSIX promises nothing of errno; that it is ENOMEM as well is what programs have seen of glibc. */
        return ENOMEM;
    errno = saved_errno;
    *result = block;
    return 0;
}

EXPORT void free_sized(void *block, size_t size_bytes) /* C23 7.24.3.4 */
{
    if (scope_is_ours() || scope_find() || !scope_free(block))
        hak_free_sized(block, size_bytes);
}

EXPORT void free_aligned_sized(void *block, size_t alignment, size_t size_bytes) /* C23 7.24.3.5 */
{
    if (scope_is_ours() || scope_find() || !scope_free(block))
        hit_release(block, "free_aligned_sized", KIND_MALLOC, size_bytes, alignment);
}

/* ---- glibc and BSD ----------------------------------------------------------------------------------------------- */

EXPORT void *memalign(size_t alignment, size_t size_bytes)
{
    size_t rounded = 16;
    while (rounded < alignment && rounded << 1 != 0) /* glibc rounds an odd alignment up to a power of two */
        rounded <<= 1;
    if (rounded < alignment) {
        errno = EINVAL;
        return NULL;
    }
    return hak_aligned_alloc(rounded, size_bytes);
}

EXPORT void *valloc(size_t size_bytes)
{
    return hak_aligned_alloc(os_page_bytes(), size_bytes);
}

EXPORT void *pvalloc(size_t size_bytes)
{
    size_t page_bytes = os_page_bytes();
    if (size_bytes > PTRDIFF_MAX) { /* also keeps the rounding from wrapping (compare CVE-2013-4332) */
        errno = ENOMEM;
        return NULL;
    }
    return hak_aligned_alloc(page_bytes, round_up(max_size(size_bytes, 1), page_bytes));
}

/* realloc as the program's files find it, which may be the program's own. */
static void *realloc_found(void *block, size_t size_bytes)
{
    return ((void *(*)(void *, size_t))scope_found(SCOPE_realloc))(block, size_bytes);
}

EXPORT void *reallocarray(void *block, size_t count, size_t size_bytes)
{
    size_t total_bytes;
    if (__builtin_mul_overflow(count, size_bytes, &total_bytes)) {
        errno = ENOMEM;
        return NULL;
    }
    return realloc_found(block, total_bytes);
}

EXPORT void *reallocf(void *block, size_t size_bytes) /* FreeBSD: frees the block when it cannot be resized */
{
    void *moved = realloc_found(block, size_bytes);
    if (moved == NULL && size_bytes != 0 && !scope_free(block))
        hak_free(block);
    return moved;
}

EXPORT int reallocarr(void *pointer, size_t count,
                      size_t size_bytes) /* NetBSD: *(void **)pointer, error as the result */
{
    void **slot = pointer;
    size_t total_bytes;
    if (__builtin_mul_overflow(count, size_bytes, &total_bytes))
        return EOVERFLOW;
    int saved_errno = errno;
    void *moved = realloc_found(*slot, total_bytes);
    errno = saved_errno;
    if (moved == NULL && total_bytes != 0)
        return ENOMEM;
    *slot = moved;
    return 0;
}

EXPORT size_t malloc_usable_size(void *block)
{
    return hak_usable_size(block);
}

EXPORT size_t malloc_size(const void *block) /* macOS */
{
    return hak_usable_size(block);
}

EXPORT size_t malloc_good_size(size_t size_bytes) /* macOS */
{
    return hak_good_size(size_bytes);
}

/* ---- Introspection ----------------------------------------------------------------------------------------------- */

EXPORT int malloc_trim(size_t pad_bytes)
{
    (void)pad_bytes;
    return hak_trim(HAK_TRIM_PAGES) != 0;
}

EXPORT struct mallinfo2 mallinfo2(void)
{
    struct census census;
    introspect_census(&census);
    struct introspect_totals totals = introspect_totals(&census);
    return (struct mallinfo2){.arena = census.stats.committed_bytes,
                              .ordblks = census.stats.cached_blocks + totals.free_blocks + census.stats.slots_empty,
                              .hblks = totals.large_blocks,
                              .hblkhd = totals.large_bytes,
                              .usmblks = census.stats.peak_committed_bytes,
                              .fsmblks = census.stats.cached_bytes,
                              .uordblks = census.stats.live_bytes,
                              .fordblks = totals.free_bytes,
                              .keepcost = totals.trimmable_bytes};
}

static int clamp(size_t n)
{
    return n > INT32_MAX ? INT32_MAX : (int)n;
}

EXPORT struct mallinfo mallinfo(void) /* the old form, whose counters end at 2 GiB */
{
    struct mallinfo2 info = mallinfo2();
    return (struct mallinfo){.arena = clamp(info.arena),
                             .ordblks = clamp(info.ordblks),
                             .hblks = clamp(info.hblks),
                             .hblkhd = clamp(info.hblkhd),
                             .usmblks = clamp(info.usmblks),
                             .fsmblks = clamp(info.fsmblks),
                             .uordblks = clamp(info.uordblks),
                             .fordblks = clamp(info.fordblks),
                             .keepcost = clamp(info.keepcost)};
}

EXPORT int mallopt(int parameter, int value) /* glibc's knobs have no counterpart: accepted and ignored */
{
    (void)parameter;
    (void)value;
    return 1;
}

EXPORT void malloc_stats(void)
{
    char buffer[2 * KIB];
    printing_text(buffer, sizeof buffer);
}

EXPORT int malloc_info(int options, FILE *stream)
{
    if (options != 0) {
        errno = EINVAL;
        return -1;
    }
    return printing_xml(stream);
}

/* ---- glibc's other names ----------------------------------------------------------------------------------------- */

void cfree(void *block) ALIAS(free, "default");
void *__libc_malloc(size_t size_bytes) ALIAS(malloc, "default");
void __libc_free(void *block) ALIAS(free, "default");
void *__libc_calloc(size_t count, size_t size_bytes) ALIAS(calloc, "default");
void *__libc_realloc(void *block, size_t size_bytes) ALIAS(realloc, "default");
void *__libc_memalign(size_t alignment, size_t size_bytes) ALIAS(memalign, "default");
void *__libc_valloc(size_t size_bytes) ALIAS(valloc, "default");
void *__libc_pvalloc(size_t size_bytes) ALIAS(pvalloc, "default");
void __libc_cfree(void *block) ALIAS(free, "default");
int __posix_memalign(void **result, size_t alignment, size_t size_bytes) ALIAS(posix_memalign, "default");

/* ---- For override_scope.c ---------------------------------------------------------------------------------------- */

void own_free(void *block) ALIAS(free, "hidden");
void *own_realloc(void *block, size_t size_bytes) ALIAS(realloc, "hidden");
