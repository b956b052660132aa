/* system_call.h - the kernel, past libc.
 * Called by  src/os, and api/ for the files it writes.     Calls  the kernel.
 * Threads    any; signal handlers.
 *
 * Why not libc's functions:
 *   - open, read, close, nanosleep and getrandom are cancellation points (POSIX.1-2017, 2.9.5.2): a thread that has been cancelled ends in
 *     them, and would do so in the middle of malloc, maybe with the pool's lock in its hands;
 *   - a program, or a library that is preloaded beside this one, may define them, getpid and syscall too (libfaketime, uid_wrapper): what
 *     it does there, under locks of its own, or allocating, must not happen in the middle of malloc.
 * mmap, munmap, madvise and mremap stay libc's: who registers memory with a device has to see that it goes, and does so by
 * defining these.
 */
#ifndef HAKMEM_OS_SYSTEM_CALL_H
#define HAKMEM_OS_SYSTEM_CALL_H

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <sys/file.h>
#include <sys/syscall.h>
#include <unistd.h>

/* The kernel's own result: -errno for an error. */
static inline long raw_system_call(long number, long a, long b, long c, long d, long e, long f)
{
#if defined(__x86_64__) && !defined(__ILP32__)
    register long fourth __asm__("r10") = d;
    register long fifth __asm__("r8") = e;
    register long sixth __asm__("r9") = f;
    long result;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(number), "D"(a), "S"(b), "d"(c), "r"(fourth), "r"(fifth), "r"(sixth)
                     : "rcx", "r11", "memory");
    return result;
#elif defined(__aarch64__)
    register long which __asm__("x8") = number;
    register long result __asm__("x0") = a;
    register long second __asm__("x1") = b;
    register long third __asm__("x2") = c;
    register long fourth __asm__("x3") = d;
    register long fifth __asm__("x4") = e;
    register long sixth __asm__("x5") = f;
    __asm__ volatile("svc 0"
                     : "+r"(result)
                     : "r"(which), "r"(second), "r"(third), "r"(fourth), "r"(fifth), "r"(sixth)
                     : "memory");
    return result;
#else
    long result = syscall(number, a, b, c, d, e, f);
    return result == -1 ? -errno : result;
#endif
}

/* Result and errno as syscall's. Arguments that the call does not have are 0. */
static inline long system_call(long number, long a, long b, long c, long d, long e, long f)
{
    long result = raw_system_call(number, a, b, c, d, e, f);
    if (result < 0 && result > -4096) {
        errno = (int)-result;
        return -1;
    }
    return result;
}

static inline int32_t ask_for_process_id(void)
{
    return (int32_t)raw_system_call(SYS_getpid, 0, 0, 0, 0, 0, 0);
}

/* As open, with O_CLOEXEC. mode: of a file that is created. */
static inline int file_open(const char *path, int flags, unsigned mode)
{
    return (int)system_call(SYS_openat, AT_FDCWD, (long)path, flags | O_CLOEXEC, (long)mode, 0, 0);
}

/* As read. */
static inline ssize_t file_read(int file, void *to, size_t len_bytes)
{
    return system_call(SYS_read, file, (long)to, (long)len_bytes, 0, 0, 0);
}

/* As flock for others to be shut out, but without waiting: EWOULDBLOCK. */
static inline int file_try_lock(int file)
{
    return (int)system_call(SYS_flock, file, LOCK_EX | LOCK_NB, 0, 0, 0, 0);
}

/* As ftruncate to 0. */
static inline int file_empty(int file)
{
    return (int)system_call(SYS_ftruncate, file, 0, 0, 0, 0, 0);
}

/* As close. */
static inline int file_close(int file)
{
    return (int)system_call(SYS_close, file, 0, 0, 0, 0, 0);
}

#endif
