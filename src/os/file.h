/* file.h - files, for what the library itself reads and writes.
 * Called by  src/os, and api/ for the files it writes.     Calls  the system, not libc.
 * Threads    any; signal handlers.
 *
 * libc's open, read, close, nanosleep and getrandom are cancellation points (POSIX.1-2017, 2.9.5.2): a thread that has been cancelled
 * ends in them, and would do so in the middle of malloc, maybe with the pool's lock in its hands. These are the same calls without that.
 */
#ifndef HAKMEM_OS_FILE_H
#define HAKMEM_OS_FILE_H

#include <fcntl.h>
#include <sys/syscall.h>
#include <unistd.h>

/* Result and errno as open's, with O_CLOEXEC. mode: of a file that is created. */
static inline int file_open(const char *path, int flags, unsigned mode)
{
    return (int)syscall(SYS_openat, AT_FDCWD, path, flags | O_CLOEXEC, mode);
}

/* As read. */
static inline ssize_t file_read(int file, void *to, size_t len_bytes)
{
    return syscall(SYS_read, file, to, len_bytes);
}

/* As close. */
static inline int file_close(int file)
{
    return (int)syscall(SYS_close, file);
}

#endif
