/* base.h - words that every layer uses: branch hints, arithmetic on powers of two, nothing that allocates or calls out.
 */
#ifndef HAKMEM_BASE_BASE_H
#define HAKMEM_BASE_BASE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)
#define NOINLINE __attribute__((noinline))
#define ALWAYS_INLINE inline __attribute__((always_inline))
#define COLD __attribute__((cold, noinline))
/* A large variable, zero at the start, that ordinary programs do not touch: it lies behind the others, likewise. */
#define SELDOM_USED __attribute__((section(".bss.seldom")))
#define CACHE_LINE_BYTES 64

#define KIB ((size_t)1 << 10)
#define MIB ((size_t)1 << 20)
#define GIB ((size_t)1 << 30)

static inline bool is_power_of_two(size_t n)
{
    return n != 0 && (n & (n - 1)) == 0;
}

/* Rounds up to a multiple of a power of two. The caller makes sure that n + multiple does not wrap. */
static inline size_t round_up(size_t n, size_t multiple)
{
    return (n + multiple - 1) & ~(multiple - 1);
}

static inline size_t min_size(size_t a, size_t b)
{
    return a < b ? a : b;
}

static inline size_t max_size(size_t a, size_t b)
{
    return a > b ? a : b;
}

/* Whether this is built for ThreadSanitizer or AddressSanitizer: gcc's way to tell, and clang's. */
#if defined(__has_feature)
#define UNDER_THREAD_SANITIZER __has_feature(thread_sanitizer)
#define UNDER_ADDRESS_SANITIZER __has_feature(address_sanitizer)
#else
#ifdef __SANITIZE_THREAD__
#define UNDER_THREAD_SANITIZER 1
#else
#define UNDER_THREAD_SANITIZER 0
#endif
#ifdef __SANITIZE_ADDRESS__
#define UNDER_ADDRESS_SANITIZER 1
#else
#define UNDER_ADDRESS_SANITIZER 0
#endif
#endif

/* A relaxed atomic load of a byte, zero-extended. Clang makes two instructions of the atomic one, and a volatile load of a
 * byte is one load as well; only ThreadSanitizer must see that it is atomic. */
static ALWAYS_INLINE size_t load_byte_relaxed(const _Atomic uint8_t *byte)
{
#if defined(__aarch64__) && !defined(__clang__) && !UNDER_THREAD_SANITIZER
    size_t value; /* gcc would extend what is extended already */
    __asm__("ldrb %w0, %1" : "=r"(value) : "m"(*(const uint8_t *)(const void *)byte));
    return value;
#endif
#if defined(__clang__) && !UNDER_THREAD_SANITIZER
    return *(const volatile uint8_t *)(const volatile void *)byte;
#endif
    return atomic_load_explicit(byte, memory_order_relaxed);
}

/* Tells the processor that this is a spin loop. */
static inline void cpu_relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("yield");
#endif
}

/* Number of set bits. Without -mpopcnt the compiler's builtin is a function call. */
static inline unsigned count_bits(uint64_t word)
{
    word -= word >> 1 & 0x5555555555555555u;
    word = (word & 0x3333333333333333u) + (word >> 2 & 0x3333333333333333u);
    word = (word + (word >> 4)) & 0x0f0f0f0f0f0f0f0fu;
    return (unsigned)(word * 0x0101010101010101u >> 56);
}

#endif
