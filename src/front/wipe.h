/* wipe.h - clears a block of a class, and looks whether one is clear, in about the same time whatever its size, up to a page; what is longer is
 * cleared page by page.
 *
 * Hardened mode does both with every block. Sizes that follow each other differ mostly, and a loop, or libc's memset, then ends
 * elsewhere than the processor has guessed. That costs some 20 cycles each time, more than the work itself. So here nothing
 * branches by the size but for three ranges of it (up to 256 bytes, to 1024, above): as many steps are made as the longest
 * block of the range needs, and in a shorter one those that lie beyond its end are made at its end.
 *
 * How wide a step is, 64 bytes or 32, the processor decides, once. One that has neither takes 16, by a loop and memset, for the
 * steps would be too many.
 */
#ifndef HAKMEM_FRONT_WIPE_H
#define HAKMEM_FRONT_WIPE_H

#include "base/base.h"

#include <string.h>

/* 64, 32 or 16. Constant after wipe_start. */
extern unsigned wipe_step_bytes __attribute__((visibility("hidden")));

/* Takes the width from the processor; before it is 16. */
void wipe_start(void);

/* Sets a block to zero. Its length is that of a class, a multiple of 16; or more than WIPE_WHOLE_BYTES: that is os_clear's. */
#define WIPE_WHOLE_BYTES 4096
void wipe_clear(void *block, size_t len_bytes);

/* Whether every byte of a block is zero. Likewise a multiple of 16. */
bool wipe_is_clear(const void *block, size_t len_bytes);

/* ---- The same by the width of a step, for who has chosen already ------------------------------------------------- */

/* For every function that calls one of a width: what the processor must have. */
#define WIPE_TARGET_16

static ALWAYS_INLINE void wipe_clear_16(char *block, size_t len_bytes)
{
    memset(block, 0, len_bytes);
}

static ALWAYS_INLINE bool wipe_is_clear_16(const char *block, size_t len_bytes)
{
    typedef uint64_t vector __attribute__((vector_size(16), may_alias, aligned(8)));
    const char *at = block, *end = at + len_bytes;
    vector any = {0, 0};
    for (; end - at >= 64; at += 64) {
        const vector *v = (const vector *)(const void *)at;
        any |= (v[0] | v[1]) | (v[2] | v[3]);
    }
    for (; at != end; at += 16)
        any |= *(const vector *)(const void *)at;
    return (any[0] | any[1]) == 0;
}

#if defined(__x86_64__)
#include <immintrin.h>

#define WIPE_TARGET_32 __attribute__((target("avx2")))
#define WIPE_TARGET_64 __attribute__((target("avx2,avx512f,bmi2")))

#define WIPE_FEW_BYTES 256
#define WIPE_CHUNK_BYTES 256 /* Four of them make 1024. */

/* The lower one, but not by a branch: the compiler does not see that it is one of the two. */
static ALWAYS_INLINE const char *wipe_lower(const char *a, const char *b)
{
    const char *c = a < b ? a : b;
    __asm__("" : "+r"(c));
    return c;
}

/* Steps of 32 bytes. */
static ALWAYS_INLINE WIPE_TARGET_32 void wipe_store_32(const char *at)
{
    _mm256_storeu_si256((__m256i *)(uintptr_t)at, _mm256_setzero_si256());
}

static ALWAYS_INLINE WIPE_TARGET_32 __m256i wipe_load_32(const char *at)
{
    return _mm256_loadu_si256((const __m256i *)(const void *)at);
}

static ALWAYS_INLINE WIPE_TARGET_32 bool wipe_is_zero_32(__m256i any)
{
    return _mm256_testz_si256(any, any) != 0;
}

static ALWAYS_INLINE WIPE_TARGET_32 void wipe_store_chunk_32(const char *at)
{
    wipe_store_32(at);
    wipe_store_32(at + 32);
    wipe_store_32(at + 64);
    wipe_store_32(at + 96);
    wipe_store_32(at + 128);
    wipe_store_32(at + 160);
    wipe_store_32(at + 192);
    wipe_store_32(at + 224);
}

static ALWAYS_INLINE WIPE_TARGET_32 __m256i wipe_load_chunk_32(const char *at)
{
    __m256i a = _mm256_or_si256(wipe_load_32(at), wipe_load_32(at + 32));
    __m256i b = _mm256_or_si256(wipe_load_32(at + 64), wipe_load_32(at + 96));
    __m256i c = _mm256_or_si256(wipe_load_32(at + 128), wipe_load_32(at + 160));
    __m256i d = _mm256_or_si256(wipe_load_32(at + 192), wipe_load_32(at + 224));
    return _mm256_or_si256(_mm256_or_si256(a, b), _mm256_or_si256(c, d));
}

/* Up to WIPE_FEW_BYTES: 8 steps; into a block of 16 bytes fits none. */
static ALWAYS_INLINE WIPE_TARGET_32 void wipe_clear_few_32(char *block, size_t len_bytes)
{
    if (unlikely(len_bytes < 32)) {
        memset(block, 0, 16);
        return;
    }
    const char *last = block + len_bytes - 32;
    wipe_store_32(block);
    wipe_store_32(wipe_lower(block + 32, last));
    wipe_store_32(wipe_lower(block + 64, last));
    wipe_store_32(wipe_lower(block + 96, last));
    wipe_store_32(wipe_lower(block + 128, last));
    wipe_store_32(wipe_lower(block + 160, last));
    wipe_store_32(wipe_lower(block + 192, last));
    wipe_store_32(last);
}

static ALWAYS_INLINE WIPE_TARGET_32 bool wipe_few_are_clear_32(const char *block, size_t len_bytes)
{
    if (unlikely(len_bytes < 32))
        return wipe_is_clear_16(block, 16);
    const char *last = block + len_bytes - 32;
    __m256i a = _mm256_or_si256(wipe_load_32(block), wipe_load_32(last));
    __m256i b = _mm256_or_si256(wipe_load_32(wipe_lower(block + 32, last)), wipe_load_32(wipe_lower(block + 64, last)));
    __m256i c =
        _mm256_or_si256(wipe_load_32(wipe_lower(block + 96, last)), wipe_load_32(wipe_lower(block + 128, last)));
    __m256i d =
        _mm256_or_si256(wipe_load_32(wipe_lower(block + 160, last)), wipe_load_32(wipe_lower(block + 192, last)));
    return wipe_is_zero_32(_mm256_or_si256(_mm256_or_si256(a, b), _mm256_or_si256(c, d)));
}

/* Steps of 64 bytes. */
static ALWAYS_INLINE WIPE_TARGET_64 bool wipe_is_zero_64(__m512i any)
{
    return _mm512_test_epi64_mask(any, any) == 0;
}

static ALWAYS_INLINE WIPE_TARGET_64 void wipe_store_chunk_64(const char *at)
{
    char *to = (char *)(uintptr_t)at;
    _mm512_storeu_si512(to, _mm512_setzero_si512());
    _mm512_storeu_si512(to + 64, _mm512_setzero_si512());
    _mm512_storeu_si512(to + 128, _mm512_setzero_si512());
    _mm512_storeu_si512(to + 192, _mm512_setzero_si512());
}

static ALWAYS_INLINE WIPE_TARGET_64 __m512i wipe_load_chunk_64(const char *at)
{
    __m512i a = _mm512_or_si512(_mm512_loadu_si512(at), _mm512_loadu_si512(at + 64));
    __m512i b = _mm512_or_si512(_mm512_loadu_si512(at + 128), _mm512_loadu_si512(at + 192));
    return _mm512_or_si512(a, b);
}

/* Up to WIPE_FEW_BYTES: 4 steps. Of a block that has not 64 bytes they take the words that it has. */
static ALWAYS_INLINE WIPE_TARGET_64 void wipe_clear_few_64(char *block, size_t len_bytes)
{
    const char *last = block + max_size(len_bytes, 64) - 64;
    __mmask8 words = (__mmask8)_bzhi_u32(0xff, (unsigned)len_bytes / 8);
    __m512i zero = _mm512_setzero_si512();
    _mm512_mask_storeu_epi64(block, words, zero);
    _mm512_mask_storeu_epi64((void *)(uintptr_t)wipe_lower(block + 64, last), words, zero);
    _mm512_mask_storeu_epi64((void *)(uintptr_t)wipe_lower(block + 128, last), words, zero);
    _mm512_mask_storeu_epi64((void *)(uintptr_t)last, words, zero);
}

static ALWAYS_INLINE WIPE_TARGET_64 bool wipe_few_are_clear_64(const char *block, size_t len_bytes)
{
    const char *last = block + max_size(len_bytes, 64) - 64;
    __mmask8 words = (__mmask8)_bzhi_u32(0xff, (unsigned)len_bytes / 8);
    __m512i a = _mm512_maskz_loadu_epi64(words, block), b = _mm512_maskz_loadu_epi64(words, last);
    a = _mm512_or_si512(a, _mm512_maskz_loadu_epi64(words, wipe_lower(block + 64, last)));
    b = _mm512_or_si512(b, _mm512_maskz_loadu_epi64(words, wipe_lower(block + 128, last)));
    return wipe_is_zero_64(_mm512_or_si512(a, b));
}

/* A block of any size. What the two widths do alike. */
#define WIPE_ANY(width, vector, or)                                                                                    \
    static ALWAYS_INLINE WIPE_TARGET_##width void wipe_clear_##width(char *block, size_t len_bytes)                    \
    {                                                                                                                  \
        if (len_bytes <= WIPE_FEW_BYTES) {                                                                             \
            wipe_clear_few_##width(block, len_bytes);                                                                  \
            return;                                                                                                    \
        }                                                                                                              \
        const char *last = block + len_bytes - WIPE_CHUNK_BYTES;                                                       \
        wipe_store_chunk_##width(block);                                                                               \
        wipe_store_chunk_##width(wipe_lower(block + WIPE_CHUNK_BYTES, last));                                          \
        wipe_store_chunk_##width(wipe_lower(block + 2 * WIPE_CHUNK_BYTES, last));                                      \
        wipe_store_chunk_##width(last);                                                                                \
        for (const char *at = block + 3 * WIPE_CHUNK_BYTES; unlikely(at < last); at += WIPE_CHUNK_BYTES)               \
            wipe_store_chunk_##width(at);                                                                              \
    }                                                                                                                  \
    static ALWAYS_INLINE WIPE_TARGET_##width bool wipe_is_clear_##width(const char *block, size_t len_bytes)           \
    {                                                                                                                  \
        if (len_bytes <= WIPE_FEW_BYTES)                                                                               \
            return wipe_few_are_clear_##width(block, len_bytes);                                                       \
        const char *last = block + len_bytes - WIPE_CHUNK_BYTES;                                                       \
        vector any = or (wipe_load_chunk_##width(block), wipe_load_chunk_##width(last));                               \
        any = or (any, wipe_load_chunk_##width(wipe_lower(block + WIPE_CHUNK_BYTES, last)));                           \
        any = or (any, wipe_load_chunk_##width(wipe_lower(block + 2 * WIPE_CHUNK_BYTES, last)));                       \
        for (const char *at = block + 3 * WIPE_CHUNK_BYTES; unlikely(at < last); at += WIPE_CHUNK_BYTES)               \
            any = or (any, wipe_load_chunk_##width(at));                                                               \
        return wipe_is_zero_##width(any);                                                                              \
    }

WIPE_ANY(32, __m256i, _mm256_or_si256)
WIPE_ANY(64, __m512i, _mm512_or_si512)

#else
#define WIPE_TARGET_32
#define WIPE_TARGET_64
#define wipe_clear_32 wipe_clear_16
#define wipe_clear_64 wipe_clear_16
#define wipe_is_clear_32 wipe_is_clear_16
#define wipe_is_clear_64 wipe_is_clear_16
#endif

#endif
