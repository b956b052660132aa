/* memory.c - address space and memory, asked of Linux.
 * Owns     nothing but whether a purge clears what it gives back, whether a move keeps its source, and what the system charges.
 * Called by every layer above.     Calls  libc's thin wrappers of mmap, mprotect, madvise, mremap, munmap; system_call.h
 * Threads  any, no lock.
 * Why reservations carry no MAP_NORESERVE: a PROT_NONE private mapping is not charged to the commit limit, and mprotect
 * to writable charges it then, so that the system's overcommit rules hold for a block as they do under glibc.
 */
#include "os/fault.h"
#include "os/os.h"

#include "os/system_call.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#ifndef MADV_COLD
#define MADV_COLD 20 /* since Linux 5.4 */
#endif
#ifndef MADV_DONTNEED_LOCKED
#define MADV_DONTNEED_LOCKED 24 /* since Linux 5.18 */
#endif
#ifndef MREMAP_DONTUNMAP
#define MREMAP_DONTUNMAP 4 /* since Linux 5.7 */
#endif

static void *map(void *hint, size_t len_bytes, int protection)
{
    int saved_errno = errno;
    void *p = mmap(hint, len_bytes, protection, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    errno = saved_errno;
    return p == MAP_FAILED ? NULL : p;
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

static bool protect(void *address, size_t len_bytes, int protection)
{
    int saved_errno = errno;
    bool done = mprotect(address, len_bytes, protection) == 0;
    errno = saved_errno;
    return done;
}

bool os_commit(void *address, size_t len_bytes)
{
    return !FAULT(OS_CALL_COMMIT, len_bytes) && protect(address, len_bytes, PROT_READ | PROT_WRITE);
}

bool os_forbid(void *address, size_t len_bytes)
{
    return !FAULT(OS_CALL_FORBID, len_bytes) && protect(address, len_bytes, PROT_NONE);
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

static _Atomic bool charges_writable;

void os_learn_charges(void)
{
    char mode = '0';
    int saved_errno = errno, file = file_open("/proc/sys/vm/overcommit_memory", O_RDONLY, 0);
    if (file >= 0) {
        if (file_read(file, &mode, 1) == 1)
            atomic_store_explicit(&charges_writable, mode == '2', memory_order_relaxed); /* relaxed: a hint */
        file_close(file);
    }
    errno = saved_errno;
}

bool os_charges_writable(void)
{
    return atomic_load_explicit(&charges_writable, memory_order_relaxed);
}

/* Emulators (qemu-user before 7.1) say that they have given memory back, and do nothing: it would be taken for zero. Tried once, at the first
 * purge; false only when it has been seen. */
static bool purge_clears(void)
{
    static _Atomic uint8_t known;                                      /* 1: it does, 2: it does not */
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

/* An emulator may take the source for unmapped (qemu-user 7.2 does): system calls refuse it from then on, and a purge does nothing there. Tried
 * once, at the first move. */
static bool move_keeps_source(void)
{
    enum { NOT_TRIED, KEEPS, LOSES };
    static _Atomic uint8_t result;
    uint8_t known = atomic_load_explicit(&result, memory_order_relaxed); /* relaxed: the same, whoever finds it */
    if (likely(known != NOT_TRIED))
        return known == KEEPS;
    int saved_errno = errno;
    size_t page_bytes = os_page_bytes();
    char *pages = map(NULL, 2 * page_bytes, PROT_READ | PROT_WRITE);
    if (pages == NULL)
        return false;
    *(volatile char *)pages = 1;
    bool keeps = mremap(pages, page_bytes, page_bytes, MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP,
                        pages + page_bytes) != MAP_FAILED;
    if (keeps) {
        *(volatile char *)pages = 1;
        /* refused: after mlockall() */
        keeps = madvise(pages, page_bytes, MADV_DONTNEED) != 0 || *(volatile char *)pages == 0;
    }
    munmap(pages, 2 * page_bytes);
    errno = saved_errno;
    atomic_store_explicit(&result, keeps ? KEEPS : LOSES, memory_order_relaxed);
    return keeps;
}

bool os_move_pages(void *from, void *to, size_t len_bytes)
{
    if (FAULT(OS_CALL_MOVE, len_bytes) || !move_keeps_source())
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
        os_abort();
    }
    errno = saved_errno;
    return done;
}

/* A page. 16 bytes at a time, for that is what every processor has. */
static bool is_zero(const char *page, size_t page_bytes)
{
    typedef uint64_t vector __attribute__((vector_size(16), may_alias));
    for (const vector *v = (const vector *)(const void *)page, *end = v + page_bytes / sizeof *v; v != end; v += 8) {
        vector any = ((v[0] | v[1]) | (v[2] | v[3])) | ((v[4] | v[5]) | (v[6] | v[7]));
        if ((any[0] | any[1]) != 0)
            return false;
    }
    return true;
}

void os_clear(void *memory, size_t len_bytes)
{
    size_t page_bytes = os_page_bytes();
    for (char *at = memory, *end = at + len_bytes, *next; at < end; at = next) {
        next = (char *)(((uintptr_t)at | (page_bytes - 1)) + 1); /* NOLINT: in that block, or behind its end */
        next = next < end ? next : end;
        if ((size_t)(next - at) != page_bytes || !is_zero(at, page_bytes))
            memset(at, 0, (size_t)(next - at));
    }
}

void os_copy(void *to, const void *from, size_t len_bytes, bool zeroed)
{
    size_t page_bytes = os_page_bytes(), done_bytes = 0;
    for (size_t at = -(uintptr_t)from & (page_bytes - 1); at + page_bytes <= len_bytes; at += page_bytes) {
        if (!is_zero((const char *)from + at, page_bytes))
            continue;
        memcpy((char *)to + done_bytes, (const char *)from + done_bytes, at - done_bytes);
        if (!zeroed)
            os_clear((char *)to + at, page_bytes);
        done_bytes = at + page_bytes;
    }
    memcpy((char *)to + done_bytes, (const char *)from + done_bytes, len_bytes - done_bytes);
}

size_t os_resident_bytes(const void *address, size_t len_bytes)
{
    const uint64_t ones = 0x0101010101010101u;
    uint64_t in_memory[64]; /* of so many times eight pages at a time, a byte for each */
    size_t page_bytes = os_page_bytes(), n_pages = len_bytes / page_bytes, n_resident = 0;
    int saved_errno = errno;
    for (size_t i = 0, n; i < n_pages; i += n) {
        n = min_size(n_pages - i, sizeof in_memory);
        in_memory[(n - 1) / 8] = 0; /* what lies behind */
        if (FAULT(OS_CALL_LOOK, len_bytes) ||
            mincore((char *)(uintptr_t)address + i * page_bytes, n * page_bytes, (unsigned char *)in_memory) != 0) {
            n_resident = n_pages;
            break;
        }
        for (size_t k = 0; k < (n + 7) / 8; k++)
            n_resident += (in_memory[k] & ones) * ones >> 56;
    }
    errno = saved_errno;
    return n_resident * page_bytes;
}
