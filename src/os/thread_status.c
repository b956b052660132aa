/* thread_status.c - what the system tells of the calling thread in a file.
 * Owns     nothing.     Called by  write.c, front/pressure.c, pool/background.c     Calls  /proc/thread-self/status
 * Threads  any; signal handlers. Does not allocate.
 *
 * Why not prctl and sigpending: under a filter of system calls any call may end the process, and sshd's, for one, kills for those
 * two; but files are opened by libc in so many places (glibc's malloc does) that filters refuse it at worst. It takes some 20 times as long.
 */
#include "os/os.h"
#include "os/system_call.h"

#include <stdlib.h>
#include <string.h>

NOINLINE uint64_t os_thread_status(const char *heading, int base)
{
    char piece[256], line[32]; /* what is longer is of no interest */
    size_t len = 0, heading_len = strlen(heading);
    uint64_t number = UINT64_MAX;
    ssize_t n;
    int file = file_open("/proc/thread-self/status", O_RDONLY, 0);
    while (file >= 0 && number == UINT64_MAX && (n = file_read(file, piece, sizeof piece)) > 0)
        for (ssize_t i = 0; i < n; i++) {
            if (piece[i] != '\n') {
                line[len] = piece[i];
                len += len < sizeof line - 1;
                continue;
            }
            line[len] = 0;
            len = 0;
            if (strncmp(line, heading, heading_len) == 0)
                number = strtoull(line + heading_len, NULL, base);
        }
    if (file >= 0)
        file_close(file);
    return number;
}

bool os_calls_are_filtered_by_file(void)
{
    int saved_errno = errno;
    bool filtered = os_thread_status("Seccomp:", 10) != 0;
    errno = saved_errno;
    return filtered;
}
