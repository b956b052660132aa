/* cgroup.c - see cgroup.h.
 * Owns     nothing.     Called by  service/budget.c, pool/background.c     Calls  open, read, close
 * Threads  any.
 * Sources  Linux Documentation/admin-guide/cgroup-v2.rst, cgroup-v1/memory.rst, accounting/psi.rst.
 *
 * /proc/self/cgroup has a line for each hierarchy, "0::/PATH" for version 2 and "N:memory:/PATH" (memory may be one of
 * several, separated by commas) for version 1. A limit holds for all groups below, so all on the way up count. In a container
 * the path may be one of the host's, of which only the top is to be seen here: what is missing is passed over.
 */
#include "os/cgroup.h"

#include "base/decimal.h"
#include "os/system_call.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define PATH_MAX_BYTES 1024

/* Reads the beginning of a file as text. False: it cannot be read. */
static bool read_text(const char *path, char *text, size_t size_bytes)
{
    int file = file_open(path, O_RDONLY, 0);
    if (file < 0)
        return false;
    size_t len = 0;
    ssize_t n;
    while (len < size_bytes - 1 && (n = file_read(file, text + len, size_bytes - 1 - len)) > 0)
        len += (size_t)n;
    file_close(file);
    text[len] = 0;
    return len != 0;
}

/* A decimal number of bytes at the beginning of the text; SIZE_MAX for "max" and what else is none. */
static size_t parse_limit(const char *text)
{
    size_t n;
    return read_decimal(text, &n) == NULL ? SIZE_MAX : n;
}

/* The least number in files of this name in the group's directory and those above it, up to the mount point. */
static size_t least_on_the_way_up(const char *root, const char *mount, const char *group, const char *name)
{
    char path[PATH_MAX_BYTES], text[64], at[PATH_MAX_BYTES];
    size_t least_bytes = SIZE_MAX, len = strlen(group);
    if (len >= sizeof at)
        return SIZE_MAX;
    memcpy(at, group, len + 1);
    for (;;) {
        while (len > 0 && at[len - 1] == '/')
            at[--len] = 0;
        int n = snprintf(path, sizeof path, "%s%s%s/%s", root, mount, at, name);
        if (n > 0 && (size_t)n < sizeof path && read_text(path, text, sizeof text))
            least_bytes = min_size(least_bytes, parse_limit(text));
        if (len == 0)
            return least_bytes;
        while (len > 0 && at[len - 1] != '/')
            at[--len] = 0;
    }
}

/* Whether the list of controllers, which ends at `end`, has "memory". */
static bool has_memory(const char *list, const char *end)
{
    while (list < end) {
        const char *comma = memchr(list, ',', (size_t)(end - list));
        size_t len = (size_t)((comma != NULL ? comma : end) - list);
        if (len == 6 && memcmp(list, "memory", 6) == 0)
            return true;
        list += len + 1;
    }
    return false;
}

/* The process's group by version 2 (*v2) and by version 1 (*v1), as parts of text; NULL for none. */
static void find_groups(char *text, char **v2, char **v1)
{
    *v2 = *v1 = NULL;
    for (char *line = text, *next; line != NULL && *line != 0; line = next) {
        next = strchr(line, '\n');
        if (next != NULL)
            *next++ = 0;
        char *first = strchr(line, ':'), *second = first == NULL ? NULL : strchr(first + 1, ':');
        if (second == NULL)
            continue;
        if (second == first + 1 && line[0] == '0' && first == line + 1)
            *v2 = second + 1;
        else if (has_memory(first + 1, second))
            *v1 = second + 1;
    }
}

static bool read_groups(const char *root, char *text, size_t size_bytes, char **v2, char **v1)
{
    char path[PATH_MAX_BYTES];
    int n = snprintf(path, sizeof path, "%s/proc/self/cgroup", root);
    if (n <= 0 || (size_t)n >= sizeof path || !read_text(path, text, size_bytes))
        return false;
    find_groups(text, v2, v1);
    return true;
}

size_t os_cgroup_limit_bytes(const char *root)
{
    char text[4096], *v2, *v1;
    size_t limit_bytes = SIZE_MAX;
    int saved_errno = errno;
    if (read_groups(root, text, sizeof text, &v2, &v1)) {
        if (v2 != NULL) { /* beside version 1 its tree is mounted elsewhere */
            limit_bytes = least_on_the_way_up(root, "/sys/fs/cgroup", v2, "memory.max");
            limit_bytes = min_size(limit_bytes, least_on_the_way_up(root, "/sys/fs/cgroup/unified", v2, "memory.max"));
        }
        if (v1 != NULL)
            limit_bytes =
                min_size(limit_bytes, least_on_the_way_up(root, "/sys/fs/cgroup/memory", v1, "memory.limit_in_bytes"));
    }
    errno = saved_errno;
    /* Version 1 says "none" by a number near 2^63. */
    return limit_bytes >= (size_t)1 << 62 ? SIZE_MAX : limit_bytes;
}

/* The number behind "some avg10=", in hundredths; -1 when there is none. */
static int parse_pressure(const char *text)
{
    static const char key[] = "some avg10=";
    const char *at = strstr(text, key);
    int hundredths = 0, decimals = -1;
    if (at == NULL || at[sizeof key - 1] < '0' || at[sizeof key - 1] > '9')
        return -1;
    for (at += sizeof key - 1; decimals < 2 && ((*at >= '0' && *at <= '9') || (*at == '.' && decimals < 0)); at++) {
        if (*at == '.')
            decimals = 0;
        else {
            hundredths = hundredths * 10 + (*at - '0');
            decimals += decimals >= 0;
        }
    }
    for (decimals = decimals < 0 ? 0 : decimals; decimals < 2; decimals++)
        hundredths *= 10;
    return hundredths;
}

int os_memory_pressure(const char *root)
{
    char path[PATH_MAX_BYTES], text[4096], *v2, *v1;
    int saved_errno = errno, n, pressure = -1;
    if (read_groups(root, text, sizeof text, &v2, &v1) && v2 != NULL) {
        n = snprintf(path, sizeof path, "%s/sys/fs/cgroup%s/memory.pressure", root, v2);
        if (n > 0 && (size_t)n < sizeof path && read_text(path, text, sizeof text))
            pressure = parse_pressure(text);
    }
    if (pressure < 0) {
        snprintf(path, sizeof path, "%s/proc/pressure/memory", root);
        if (read_text(path, text, sizeof text))
            pressure = parse_pressure(text);
    }
    errno = saved_errno;
    return pressure;
}
