/* os_linux.c - the calls of os.h on Linux.
 * Owns     os_page_bytes_known, written once at start.
 * Called by every layer above.     Calls  libc's thin wrappers of mmap, mprotect, madvise, mremap, munmap; system_call.h.
 * Threads  any, no lock.
 * Why reservations carry no MAP_NORESERVE: a PROT_NONE private mapping is not charged to the commit limit, and mprotect
 * to writable charges it then, so that the system's overcommit rules hold for a block as they do under glibc.
 */
#include "os/os.h"

#include "os/system_call.h"

#include <errno.h>
#include <fcntl.h>
#include <link.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

#ifndef CLOSE_RANGE_UNSHARE
#define CLOSE_RANGE_UNSHARE 2 /* since Linux 5.9 */
#endif
#ifndef MADV_COLD
#define MADV_COLD 20 /* since Linux 5.4 */
#endif
#ifndef MADV_WIPEONFORK
#define MADV_WIPEONFORK 18 /* since Linux 4.14 */
#endif
#ifndef MREMAP_DONTUNMAP
#define MREMAP_DONTUNMAP 4
#endif

#if defined(HAKMEM_TESTING)
static _Atomic unsigned long fault_first, fault_count, fault_calls;
static _Atomic unsigned fault_mask;
static _Atomic size_t reserve_limit_bytes = SIZE_MAX;

unsigned long os_fail_from(unsigned long first, unsigned long n, unsigned mask)
{
    unsigned long seen = atomic_exchange(&fault_calls, 0);
    atomic_store(&fault_first, first);
    atomic_store(&fault_count, n);
    atomic_store(&fault_mask, mask);
    return seen;
}

void os_fail_reservations_above(size_t len_bytes)
{
    atomic_store(&reserve_limit_bytes, len_bytes);
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

void os_pretend_page_bytes(size_t page_bytes)
{
    os_page_bytes_known = page_bytes != 0 ? page_bytes : getauxval(AT_PAGESZ);
}

static bool fault(enum os_call call, size_t len_bytes)
{
    if (call == OS_CALL_RESERVE && len_bytes > atomic_load(&reserve_limit_bytes))
        return true;
    if ((atomic_load(&fault_mask) & (unsigned)call) == 0)
        return false;
    unsigned long k = atomic_fetch_add(&fault_calls, 1) + 1, first = atomic_load(&fault_first);
    return first != 0 && k >= first && k - first < atomic_load(&fault_count);
}
#define FAULT(call, len_bytes) fault(call, len_bytes)
#else
#define FAULT(call, len_bytes) false
#define next_pretended() ((uint64_t)0)
#endif

size_t os_page_bytes_known = 4096;

static int32_t process_id; /* to ask is a system call */

static int32_t ask_process_id(void)
{
    return (int32_t)system_call(SYS_getpid, 0, 0, 0, 0, 0, 0);
}

uintptr_t os_linker_begin, os_linker_bytes;
extern struct r_debug _r_debug __attribute__((weak)); /* the dynamic linker's; none in a program that is linked statically */

static void find_linker(void)
{
    uintptr_t begin = (uintptr_t)getauxval(AT_BASE), end = 0;
    if (begin == 0 && &_r_debug != NULL) /* The linker was started as a program, with ours as its argument. */
        begin = _r_debug.r_ldbase;
    const ElfW(Ehdr) *header = (const ElfW(Ehdr) *)begin; /* NOLINT: an address given by the system */
    if (begin == 0)
        return;
    const ElfW(Phdr) *segment = (const ElfW(Phdr) *)(begin + header->e_phoff); /* NOLINT: likewise */
    for (unsigned i = 0; i < header->e_phnum; i++)
        if (segment[i].p_type == PT_LOAD)
            end = max_size(end, segment[i].p_vaddr + segment[i].p_memsz);
    os_linker_begin = begin;
    os_linker_bytes = end;
}

/* The stack of a thread holds all thread-local variables that the process began with, too. Found at the start: later the linker's lock,
 * which this takes, may be held by who waits for us. */
static size_t tls_bytes;

static int add_tls(struct dl_phdr_info *file, size_t size, void *sum_bytes)
{
    (void)size;
    for (unsigned i = 0; i < file->dlpi_phnum; i++)
        if (file->dlpi_phdr[i].p_type == PT_TLS)
            *(size_t *)sum_bytes += file->dlpi_phdr[i].p_memsz + file->dlpi_phdr[i].p_align;
    return 0;
}

static OFTEN void sum_up_tls(void)
{
    size_t sum_bytes = 0;
    dl_iterate_phdr(add_tls, &sum_bytes);
    tls_bytes = round_up(sum_bytes, os_page_bytes_known);
}

/* Who puts itself under a filter says first, unless it is root, that it wants no new privileges. */
static int filter_state(void)
{
    int saved_errno = errno;
    int state = (prctl(PR_GET_SECCOMP, 0, 0, 0, 0) != 0) * 2 + (prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) != 0);
    errno = saved_errno;
    return state;
}

static int filter_state_at_start;

void os_start(void)
{
    os_page_bytes_known = getauxval(AT_PAGESZ); /* no system call, and little of libc is paged in */
    process_id = ask_process_id();
    find_linker();
    sum_up_tls();
}

void os_note_filter(void)
{
    filter_state_at_start = filter_state();
}

int32_t os_process_id(void)
{
    return process_id;
}

static void *map(void *hint, size_t len_bytes, int protection)
{
    int saved_errno = errno;
    void *p = mmap(hint, len_bytes, protection, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    errno = saved_errno;
    return p == MAP_FAILED ? NULL : p;
}

/* In a page that the child of a fork gets as zeros: not 0 in whatever process os_watch_forks or os_fork_child was called in. */
static _Atomic uint32_t *_Atomic watched;

void os_watch_forks(void)
{
    _Atomic uint32_t *none = NULL, *mark;
    if (atomic_load_explicit(&watched, memory_order_relaxed) != NULL) /* relaxed: it is set once */
        return;
    mark = map(NULL, os_page_bytes_known, PROT_READ | PROT_WRITE);
    int saved_errno = errno;
    if (mark != NULL && madvise(mark, os_page_bytes_known, MADV_WIPEONFORK) == 0) {
        atomic_store(mark, 1);
        if (atomic_compare_exchange_strong(&watched, &none, mark))
            mark = NULL;
    }
    if (mark != NULL)
        munmap(mark, os_page_bytes_known);
    errno = saved_errno;
}

bool os_is_new_child(void)
{
    _Atomic uint32_t *mark = atomic_load(&watched);
    return mark != NULL && atomic_load(mark) == 0;
}

void os_fork_child(void)
{
    _Atomic uint32_t *mark = atomic_load(&watched);
    process_id = ask_process_id();
    if (mark != NULL)
        atomic_store(mark, 1);
}

void os_unreserve(void *address, size_t len_bytes)
{
    int saved_errno = errno;
    munmap(address, len_bytes); /* On failure the range stays reserved, which costs address space alone. */
    errno = saved_errno;
}

void *os_reserve(size_t len_bytes, size_t alignment)
{
    if (FAULT(OS_CALL_RESERVE, len_bytes) || len_bytes + alignment < len_bytes)
        return NULL;
    char *p = map(NULL, len_bytes, PROT_NONE);
    if (p == NULL || ((uintptr_t)p & (alignment - 1)) == 0)
        return p;
    os_unreserve(p, len_bytes); /* Not aligned by luck: reserve more and cut off both ends. */
    p = map(NULL, len_bytes + alignment, PROT_NONE);
    if (p == NULL)
        return NULL;
    size_t head_bytes = round_up((uintptr_t)p, alignment) - (uintptr_t)p;
    if (head_bytes != 0)
        os_unreserve(p, head_bytes);
    os_unreserve(p + head_bytes + len_bytes, alignment - head_bytes);
    return p + head_bytes;
}

/* Above what programs place at fixed addresses, below the stack and libraries of any process. */
#define ANYWHERE_FROM ((uintptr_t)1 << 36)
#define ANYWHERE_BITS 46

void *os_reserve_anywhere(size_t len_bytes, size_t alignment)
{
    for (unsigned tries = 0; tries < 8; tries++) {
        uintptr_t hint = ANYWHERE_FROM + ((uintptr_t)os_random() & (((uintptr_t)1 << ANYWHERE_BITS) - 1));
        hint &= ~(alignment - 1);
        if (FAULT(OS_CALL_RESERVE, len_bytes))
            return NULL;
        void *p = map((void *)hint, len_bytes, PROT_NONE); /* NOLINT: no more than a wish */
        if (p == NULL || (uintptr_t)p == hint)
            return p;
        os_unreserve(p, len_bytes);
    }
    return os_reserve(len_bytes, alignment);
}

void *os_reserve_readable(size_t len_bytes)
{
    return FAULT(OS_CALL_RESERVE, len_bytes) ? NULL : map(NULL, len_bytes, PROT_READ);
}

bool os_commit(void *address, size_t len_bytes)
{
    if (FAULT(OS_CALL_COMMIT, len_bytes))
        return false;
    int saved_errno = errno;
    bool done = mprotect(address, len_bytes, PROT_READ | PROT_WRITE) == 0;
    errno = saved_errno;
    return done;
}

bool os_forbid(void *address, size_t len_bytes)
{
    if (FAULT(OS_CALL_FORBID, len_bytes))
        return false;
    int saved_errno = errno;
    bool done = mprotect(address, len_bytes, PROT_NONE) == 0;
    errno = saved_errno;
    return done;
}

bool os_decommit(void *address, size_t len_bytes)
{
    if (FAULT(OS_CALL_DECOMMIT, len_bytes))
        return false;
    int saved_errno = errno;
    bool done = mmap(address, len_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == address;
    errno = saved_errno;
    return done;
}

#ifndef MADV_DONTNEED_LOCKED
#define MADV_DONTNEED_LOCKED 24 /* Linux 5.18 */
#endif

/* Emulators (qemu-user before 7.1) say that they have given memory back, and do nothing: it would be taken for zero. Tried once, at the first
 * purge; false only when it has been seen. */
static bool purge_clears(void)
{
    static _Atomic uint8_t known; /* 1: it does, 2: it does not */
    uint8_t seen = atomic_load_explicit(&known, memory_order_relaxed); /* relaxed: the same whoever finds it */
    if (likely(seen != 0))
        return seen == 1;
    volatile char *page = map(NULL, os_page_bytes_known, PROT_READ | PROT_WRITE);
    if (page == NULL)
        return true;
    page[0] = 1;
    seen = madvise((void *)page, os_page_bytes_known, MADV_DONTNEED) == 0 && page[0] != 0 ? 2 : 1;
    munmap((void *)page, os_page_bytes_known);
    atomic_store_explicit(&known, seen, memory_order_relaxed);
    return seen == 1;
}

bool os_purge(void *address, size_t len_bytes)
{
    if (FAULT(OS_CALL_PURGE, len_bytes))
        return false;
    int saved_errno = errno;
    bool clears = purge_clears(), done = clears && madvise(address, len_bytes, MADV_DONTNEED) == 0;
    if (clears && !done && errno == EINVAL) /* after mlock(); what is touched again is locked again */
        done = madvise(address, len_bytes, MADV_DONTNEED_LOCKED) == 0;
    errno = saved_errno;
    return done;
}

void os_set_in_cores(void *address, size_t len_bytes, bool on)
{
    int saved_errno = errno;
    madvise(address, len_bytes, on ? MADV_DODUMP : MADV_DONTDUMP);
    errno = saved_errno;
}

void os_advise_huge(void *address, size_t len_bytes, bool huge)
{
    int saved_errno = errno;
    madvise(address, len_bytes, huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE); /* refused: no huge pages in this system */
    errno = saved_errno;
}

void os_split_huge_page(void *address)
{
    int saved_errno = errno;
    madvise(address, os_page_bytes(), MADV_COLD); /* Advice for a part of a huge page makes Linux split it. */
    errno = saved_errno;
}

/* Tried out: a filter of system calls may allow mmap, and not to ask for limits. */
bool os_may_map(size_t len_bytes)
{
    void *probe = map(NULL, len_bytes, PROT_READ | PROT_WRITE);
    if (probe != NULL)
        os_unreserve(probe, len_bytes);
    return probe != NULL;
}

bool os_move_pages(void *from, void *to, size_t len_bytes)
{
    if (FAULT(OS_CALL_MOVE, len_bytes))
        return false;
    /* MREMAP_DONTUNMAP keeps the source mapped: without it another thread's mmap could land in the hole. */
    int saved_errno = errno;
    bool done = mremap(from, len_bytes, len_bytes, MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP, to) != MAP_FAILED;
    /* A refusal can come after the target was unmapped; then it is mapped anew. Where it is still there it is left alone: what made the
     * system refuse, as too many mappings do, makes it refuse another one. */
    if (!done && mprotect(to, len_bytes, PROT_READ | PROT_WRITE) != 0 &&
        mmap(to, len_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != to) {
        static const char message[] = "hakmem: the system refuses to map back what mremap unmapped\n";
        os_write_stderr(message, sizeof message - 1);
        abort();
    }
    errno = saved_errno;
    return done;
}

size_t os_resident_bytes(const void *address, size_t len_bytes)
{
    unsigned char in_memory[512]; /* of so many pages at a time */
    size_t page_bytes = os_page_bytes(), n_pages = len_bytes / page_bytes, n_resident = 0;
    int saved_errno = errno;
    for (size_t i = 0, n; i < n_pages; i += n) {
        n = min_size(n_pages - i, sizeof in_memory);
        if (FAULT(OS_CALL_LOOK, len_bytes) ||
            mincore((char *)(uintptr_t)address + i * page_bytes, n * page_bytes, in_memory) != 0) {
            n_resident = n_pages;
            break;
        }
        for (size_t k = 0; k < n; k++)
            n_resident += in_memory[k] & 1;
    }
    errno = saved_errno;
    return n_resident * page_bytes;
}

bool os_calls_are_filtered(void)
{
    int saved_errno = errno;
    bool none = prctl(PR_GET_SECCOMP, 0, 0, 0, 0) == 0;
    errno = saved_errno;
    return !none;
}

bool os_calls_are_filtered_since_start(void)
{
    return filter_state() != filter_state_at_start;
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

/* The kernel's function, not libc's, where it can be found. Libraries that pretend another time (libfaketime) define libc's name, and
 * what they do there is no business of free's: theirs asked the dynamic linker, which had just called free. And a clock that
 * stands would keep memory for ever. */
static clock_function find_clock(void)
{
    static const char *const names[] = {"__vdso_clock_gettime", "__kernel_clock_gettime"}; /* arm64 and others: the latter */
    const void *function = NULL;
    for (unsigned i = 0; i < 2 && function == NULL; i++)
        function = os_vdso_function(names[i]);
    return function == NULL ? clock_gettime : (clock_function)(uintptr_t)function;
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

uint64_t os_random(void)
{
    int saved_errno = errno;
    uint64_t bits = next_pretended();
    if (bits != 0)
        return bits;
    if (system_call(SYS_getrandom, (long)&bits, sizeof bits, GRND_NONBLOCK, 0, 0, 0) != sizeof bits) { /* too early in the system's life */
        struct timespec now = {0};
        read_clock(CLOCK_MONOTONIC, &now);
        memcpy(&bits, (const void *)getauxval(AT_RANDOM), sizeof bits); /* NOLINT: 16 bytes, given by the system */
        bits = (bits ^ (uint64_t)now.tv_nsec) * 0x9e3779b97f4a7c15u;
    }
    errno = saved_errno;
    return bits;
}

uintptr_t os_program_entry(void)
{
    return (uintptr_t)getauxval(AT_ENTRY);
}

_Static_assert(sizeof(struct rlimit) == sizeof(struct rlimit64), "one struct for both");

int os_set_limit(int32_t process, int resource, const void *limit, void *before)
{
    return (int)system_call(SYS_prlimit64, process, resource, (long)limit, (long)before, 0, 0);
}

size_t os_own_address_limit(int32_t process, int resource, const void *limit)
{
    const struct rlimit *given = limit;
    int32_t caller = ask_process_id();
    bool own = caller == process_id && (process == 0 || process == caller);
    return !own || resource != RLIMIT_AS || given == NULL || given->rlim_cur == RLIM_INFINITY ? SIZE_MAX : (size_t)given->rlim_cur;
}

size_t os_address_limit_bytes(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_AS, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY)
        return SIZE_MAX;
    return (size_t)limit.rlim_cur;
}

void os_futex_wait(_Atomic uint32_t *word, uint32_t expected)
{
    int saved_errno = errno;
    system_call(SYS_futex, (long)word, FUTEX_WAIT_PRIVATE, expected, 0, 0, 0);
    errno = saved_errno;
}

void os_futex_wait_ms(_Atomic uint32_t *word, uint32_t expected, uint32_t most_ms)
{
    int saved_errno = errno;
    struct timespec most = {.tv_sec = most_ms / 1000, .tv_nsec = most_ms % 1000 * 1000000L};
    system_call(SYS_futex, (long)word, FUTEX_WAIT_PRIVATE, expected, (long)&most, 0, 0);
    errno = saved_errno;
}

void os_futex_wake(_Atomic uint32_t *word, int n)
{
    int saved_errno = errno;
    system_call(SYS_futex, (long)word, FUTEX_WAKE_PRIVATE, n, 0, 0, 0);
    errno = saved_errno;
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

void os_sleep_ms(uint32_t ms)
{
    struct timespec span = {.tv_sec = ms / 1000, .tv_nsec = (long)(ms % 1000) * 1000000};
    raw_system_call(SYS_nanosleep, (long)&span, 0, 0, 0, 0, 0); /* errno stays */
}

#define THREAD_STACK_BYTES ((size_t)256 * KIB)

bool os_start_thread(void *(*function)(void *))
{
    int saved_errno = errno, status;
    pthread_t thread;
    pthread_attr_t attributes;
    sigset_t all, before;
    if (FAULT(OS_CALL_THREAD, 0) || pthread_attr_init(&attributes) != 0)
        return false;
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&attributes, THREAD_STACK_BYTES + tls_bytes);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before); /* inherited by the thread */
    status = pthread_create(&thread, &attributes, function, NULL);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
    errno = saved_errno;
    return status == 0;
}

int32_t os_thread_id(void)
{
    return (int32_t)system_call(SYS_gettid, 0, 0, 0, 0, 0, 0);
}

bool os_thread_lives(int32_t thread_id)
{
    return raw_system_call(SYS_tgkill, ask_process_id(), thread_id, 0, 0, 0, 0) == 0;
}

uintptr_t os_stack_end(int32_t thread_id)
{
    /* The system puts these bytes above the first thread's frames, and libc's threads have their descriptor there. */
    return thread_id == process_id ? (uintptr_t)getauxval(AT_RANDOM) : (uintptr_t)pthread_self();
}

/* System calls in which a thread waits for what others do. None of them can have another task run in this thread's place
 * (as vfork does), and none is ever part of this library's own paths but futex, when it waits for the lock. */
static bool waits_for_event(long number)
{
    switch (number) {
    case SYS_futex:
    case SYS_clock_nanosleep:
    case SYS_nanosleep:
    case SYS_ppoll:
    case SYS_pselect6:
    case SYS_epoll_pwait:
    case SYS_read:
    case SYS_readv:
    case SYS_recvfrom:
    case SYS_recvmsg:
    case SYS_accept:
    case SYS_accept4:
    case SYS_wait4:
    case SYS_waitid:
    case SYS_rt_sigtimedwait:
    case SYS_rt_sigsuspend:
#ifdef SYS_poll /* what older architectures have besides */
    case SYS_pause:
    case SYS_poll:
    case SYS_select:
    case SYS_epoll_wait:
#endif
        return true;
    default:
        return false;
    }
}

bool os_thread_waits(int32_t thread_id, uintptr_t *stack_pointer)
{
    char path[48], line[256];
    if (FAULT(OS_CALL_LOOK, 0))
        return false;
    int saved_errno = errno;
    snprintf(path, sizeof path, "/proc/self/task/%d/syscall", (int)thread_id);
    int file = file_open(path, O_RDONLY, 0);
    ssize_t n = file < 0 ? -1 : file_read(file, line, sizeof line - 1);
    if (file >= 0)
        file_close(file);
    errno = saved_errno;
    if (n <= 0)
        return false;
    line[n] = 0; /* number, six arguments, stack pointer, program counter; or "running"; or -1 and the last two */
    char *at;
    long number = strtol(line, &at, 10);
    if (at == line || !waits_for_event(number))
        return false;
    unsigned long long value = 0;
    for (unsigned i = 0; i < 7; i++) {
        char *from = at;
        value = strtoull(from, &at, 16);
        if (at == from)
            return false;
    }
    *stack_pointer = (uintptr_t)value;
    return true;
}

bool os_peek(uintptr_t address, void *to, size_t len_bytes)
{
    if (FAULT(OS_CALL_LOOK, len_bytes))
        return false;
    int saved_errno = errno;
    struct iovec local = {to, len_bytes}, remote = {(void *)address, len_bytes};
    bool done = process_vm_readv(ask_process_id(), &local, 1, &remote, 1, 0) == (ssize_t)len_bytes;
    errno = saved_errno;
    return done;
}

void os_yield(void)
{
    sched_yield();
}

static __thread bool has_left_files __attribute__((tls_model("initial-exec")));

bool os_may_look_at_threads(void)
{
    return has_left_files ? !os_calls_are_filtered_since_start() : !os_calls_are_filtered();
}

bool os_leave_files(void)
{
    has_left_files = system_call(SYS_close_range, 0, ~0u, CLOSE_RANGE_UNSHARE, 0, 0, 0) == 0;
    return has_left_files;
}

/* The process's standard error stream for a thread that has left it; -1: it cannot be had. */
static int stderr_of_process(void)
{
    int process = (int)system_call(SYS_pidfd_open, ask_process_id(), 0, 0, 0, 0, 0);
    int file = process < 0 ? -1 : (int)system_call(SYS_pidfd_getfd, process, STDERR_FILENO, 0, 0, 0, 0);
    if (process >= 0)
        file_close(process);
    return file;
}

void os_write_stderr(const char *text, size_t len_bytes)
{
    int saved_errno = errno, file;
    if (os_write(STDERR_FILENO, text, len_bytes) == EBADF && has_left_files && (file = stderr_of_process()) >= 0) {
        os_write(file, text, len_bytes);
        file_close(file);
    }
    errno = saved_errno;
}
