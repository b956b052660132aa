/* resident.c - see resident.h.
 * Owns     nothing.     Called by  api/introspect.c     Calls  open, read, close
 * Threads  any.
 * Source   Linux Documentation/filesystems/proc.rst, /proc/PID/smaps: for each mapping a line "FROM-TO ...", and then lines
 *          "Rss: N kB", "AnonHugePages: N kB" and others.
 */
#include "os/resident.h"

#include "os/system_call.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define LINE_MAX_BYTES 128 /* the rest of a longer one, which is a path, is of no interest */

struct reading {
    bool (*wanted)(uintptr_t from, uintptr_t to);
    bool counts; /* the mapping whose lines are being read */
    struct os_resident *sum;
};

static uint64_t kib_in(const char *text)
{
    return strtoull(text, NULL, 10) * KIB;
}

static void take_line(struct reading *reading, const char *line)
{
    static const char resident[] = "Rss:", huge[] = "AnonHugePages:";
    if ((*line >= '0' && *line <= '9') || (*line >= 'a' && *line <= 'f')) {
        char *at;
        uintptr_t from = (uintptr_t)strtoull(line, &at, 16);
        reading->counts = *at == '-' && reading->wanted(from, (uintptr_t)strtoull(at + 1, NULL, 16));
    } else if (reading->counts && strncmp(line, resident, sizeof resident - 1) == 0) {
        reading->sum->resident_bytes += kib_in(line + sizeof resident - 1);
    } else if (reading->counts && strncmp(line, huge, sizeof huge - 1) == 0) {
        reading->sum->huge_bytes += kib_in(line + sizeof huge - 1);
    }
}

bool os_resident(bool (*wanted)(uintptr_t from, uintptr_t to), struct os_resident *sum)
{
    struct reading reading = {wanted, false, sum};
    char text[4096], line[LINE_MAX_BYTES];
    size_t len = 0;
    int saved_errno = errno, file = file_open("/proc/thread-self/smaps", O_RDONLY, 0);
    ssize_t n = -1;
    *sum = (struct os_resident){0, 0};
    while (file >= 0 && (n = file_read(file, text, sizeof text)) > 0) {
        for (ssize_t i = 0; i < n; i++) {
            if (text[i] != '\n') {
                if (len < sizeof line - 1)
                    line[len++] = text[i];
                continue;
            }
            line[len] = 0;
            take_line(&reading, line);
            len = 0;
        }
    }
    if (file >= 0)
        file_close(file);
    errno = saved_errno;
    return n == 0;
}
