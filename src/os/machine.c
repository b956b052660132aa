/* machine.c - the machine as Linux tells of it: pages, memory, the processor's vectors, clocks, random bits.
 * Owns     os_page_bytes_known, written once at start.
 * Called by every layer above.     Calls  system_call.h; module.c (the vDSO).
 * Threads  any, no lock.
 */
#include "os/os.h"

#include "os/system_call.h"

#include <errno.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/random.h>
#include <sys/sysinfo.h>
#include <time.h>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

size_t os_page_bytes_known = 4096;

void os_machine_start(void)
{
    os_page_bytes_known = getauxval(AT_PAGESZ); /* no system call, and little of libc is paged in */
}

size_t os_physical_bytes(void)
{
    struct sysinfo info;
    return sysinfo(&info) != 0 ? 0 : (size_t)info.totalram * info.mem_unit;
}

#if defined(__x86_64__)
/* Asked of the processor here, not by __builtin_cpu_supports: with that comes a constructor of libgcc's that executes CPUID
 * again and again in every process, and a virtual machine leaves to its host for each. */
unsigned os_vector_bytes(void)
{
    unsigned eax, ebx, ecx, edx;
    if (__get_cpuid(1, &eax, &ebx, &ecx, &edx) == 0 || (ecx & bit_OSXSAVE) == 0)
        return 16;
    unsigned kept, kept_high; /* the registers that the system keeps for a thread */
    __asm__("xgetbv" : "=a"(kept), "=d"(kept_high) : "c"(0));
    const unsigned ymm = 1u << 1 | 1u << 2, zmm = ymm | 7u << 5;
    if (__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) == 0 || (kept & ymm) != ymm || (ebx & bit_AVX2) == 0)
        return 16;
    bool wide = (kept & zmm) == zmm && (ebx & bit_AVX512F) != 0 && (ebx & bit_BMI2) != 0;
    return wide && (ecx & bit_AVX512VBMI2) != 0 ? 64 : 32; /* Earlier ones lower their clock for it. */
}
#else
unsigned os_vector_bytes(void)
{
    return 16;
}
#endif

typedef int (*clock_function)(clockid_t clock, struct timespec *now);

static int ask_for_time(clockid_t clock, struct timespec *now)
{
    return (int)raw_system_call(SYS_clock_gettime, clock, (long)now, 0, 0, 0, 0);
}

/* The kernel's function, not libc's, where it can be found. Libraries that pretend another time (libfaketime) define libc's name, and
 * what they do there is no business of free's: theirs asked the dynamic linker, which had just called free. And a clock that
 * stands would keep memory for ever. */
static clock_function find_clock(void)
{
    /* arm64 and others: the latter */
    static const char *const names[] = {"__vdso_clock_gettime", "__kernel_clock_gettime"};
    const void *function = NULL;
    for (unsigned i = 0; i < 2 && function == NULL; i++)
        function = os_vdso_function(names[i]);
    return function == NULL ? ask_for_time : (clock_function)(uintptr_t)function;
}

/* Clocks that there always are. */
static void read_clock(clockid_t clock, struct timespec *now)
{
    static _Atomic clock_function found;
    clock_function function = atomic_load_explicit(&found, memory_order_relaxed);
    if (unlikely(function == NULL)) {
        function = find_clock();
        atomic_store_explicit(&found, function, memory_order_relaxed); /* relaxed: the same whoever finds it */
    }
    function(clock, now);
}

uint32_t os_now_ms(void)
{
    struct timespec now = {0};
    read_clock(CLOCK_MONOTONIC_COARSE, &now);
    return (uint32_t)((uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000);
}

uint64_t os_seconds_since_1970(void)
{
    struct timespec now = {0};
    read_clock(CLOCK_REALTIME, &now);
    return (uint64_t)now.tv_sec;
}

uint32_t os_thread_ms(void)
{
    struct timespec used = {0};
    read_clock(CLOCK_THREAD_CPUTIME_ID, &used);
    return (uint32_t)((uint64_t)used.tv_sec * 1000 + (uint64_t)used.tv_nsec / 1000000);
}

#if defined(HAKMEM_TESTING)
void os_pretend_page_bytes(size_t page_bytes)
{
    os_page_bytes_known = page_bytes != 0 ? page_bytes : getauxval(AT_PAGESZ);
}

static _Atomic uint64_t pretended_random; /* 0: none */

void os_pretend_random(uint64_t seed)
{
    atomic_store(&pretended_random, seed);
}

/* splitmix64; 0: no seed was given. */
static uint64_t next_pretended(void)
{
    if (atomic_load(&pretended_random) == 0)
        return 0;
    uint64_t z = atomic_fetch_add(&pretended_random, 0x9e3779b97f4a7c15u);
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}
#else
#define next_pretended() ((uint64_t)0)
#endif

uint64_t os_random(void)
{
    int saved_errno = errno;
    uint64_t bits = next_pretended();
    if (bits != 0)
        return bits;
    /* too early in the system's life */
    if (system_call(SYS_getrandom, (long)&bits, sizeof bits, GRND_NONBLOCK, 0, 0, 0) != sizeof bits) {
        struct timespec now = {0};
        read_clock(CLOCK_MONOTONIC, &now);
        memcpy(&bits, (const void *)getauxval(AT_RANDOM), sizeof bits); /* NOLINT: 16 bytes, given by the system */
        bits = (bits ^ (uint64_t)now.tv_nsec) * 0x9e3779b97f4a7c15u;
    }
    errno = saved_errno;
    return bits;
}
