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
#include <string.h>

/* Of a path, or of a line of /proc/self/cgroup behind the mount point's. These functions may run on a request's own stack. */
#define PATH_MAX_BYTES 1024

struct path {
    size_t len;
    char text[PATH_MAX_BYTES]; /* ends with 0 */
};

/* False: it does not fit, and the path is as it was. */
static bool append(struct path *path, const char *text)
{
    size_t len = strlen(text);
    if (len >= PATH_MAX_BYTES - path->len)
        return false;
    memcpy(path->text + path->len, text, len + 1);
    path->len += len;
    return true;
}

static void cut(struct path *path, size_t len)
{
    path->len = len;
    path->text[len] = 0;
}

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

enum version { VERSION_1, VERSION_2 };

/* The group that a line of /proc/self/cgroup names, a part of the line; NULL: it is another version's, or another controller's. */
static const char *group_in(const char *line, enum version version)
{
    const char *first = strchr(line, ':'), *second = first == NULL ? NULL : strchr(first + 1, ':');
    if (second == NULL)
        return NULL;
    bool is_2 = second == first + 1 && line[0] == '0' && first == line + 1;
    return (version == VERSION_2 ? is_2 : !is_2 && has_memory(first + 1, second)) ? second + 1 : NULL;
}

/* Behind the path's end lies a line of so many bytes, or too many: appends the group that it names. False: it names none. */
static bool append_group_of_line(struct path *path, size_t len, enum version version)
{
    char *line = path->text + path->len;
    line[len < PATH_MAX_BYTES - path->len ? len : 0] = 0;
    const char *group = group_in(line, version);
    if (group == NULL)
        return false;
    memmove(line, group, strlen(group) + 1);
    path->len += strlen(line);
    return true;
}

/* Appends the process's group, as the open file tells. */
static bool append_group(struct path *path, int file, enum version version)
{
    char piece[256];
    size_t len = 0, room = PATH_MAX_BYTES - path->len;
    for (ssize_t n; (n = file_read(file, piece, sizeof piece)) > 0;)
        for (ssize_t i = 0; i < n; i++) {
            if (piece[i] == '\n') {
                if (append_group_of_line(path, len, version))
                    return true;
                len = 0;
            } else if (len < room) { /* room: too long */
                path->text[path->len + len++] = piece[i];
            }
        }
    if (append_group_of_line(path, len, version))
        return true;
    cut(path, path->len);
    return false;
}

/* The directory of the process's group below a mount point: *top is the length of the mount point's own path. False: there is none. */
static bool find_group(struct path *path, size_t *top, const char *root, const char *mount, enum version version)
{
    cut(path, 0);
    int file = append(path, root) && append(path, "/proc/self/cgroup") ? file_open(path->text, O_RDONLY, 0) : -1;
    if (file < 0)
        return false;
    cut(path, 0);
    bool found = append(path, root) && append(path, mount);
    *top = path->len;
    found = found && append_group(path, file, version);
    file_close(file);
    return found;
}

/* The least number in files of this name in the group's directory and those above it, up to the mount point. SIZE_MAX: none. */
static size_t least_on_the_way_up(const char *root, const char *mount, enum version version, const char *name)
{
    struct path path;
    char text[64];
    size_t least_bytes = SIZE_MAX, top;
    if (!find_group(&path, &top, root, mount, version))
        return SIZE_MAX;
    for (;;) {
        while (path.len > top && path.text[path.len - 1] == '/')
            cut(&path, path.len - 1);
        size_t len = path.len;
        if (append(&path, "/") && append(&path, name) && read_text(path.text, text, sizeof text))
            least_bytes = min_size(least_bytes, parse_limit(text));
        cut(&path, len);
        if (len == top)
            return least_bytes;
        while (path.len > top && path.text[path.len - 1] != '/')
            cut(&path, path.len - 1);
    }
}

size_t os_cgroup_limit_bytes(const char *root)
{
    int saved_errno = errno;
    /* Beside version 1 the tree of version 2 is mounted elsewhere. */
    size_t limit_bytes = least_on_the_way_up(root, "/sys/fs/cgroup", VERSION_2, "memory.max");
    limit_bytes = min_size(limit_bytes, least_on_the_way_up(root, "/sys/fs/cgroup/unified", VERSION_2, "memory.max"));
    limit_bytes =
        min_size(limit_bytes, least_on_the_way_up(root, "/sys/fs/cgroup/memory", VERSION_1, "memory.limit_in_bytes"));
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
    struct path path;
    char text[128];
    size_t top;
    int saved_errno = errno, pressure = -1;
    if (find_group(&path, &top, root, "/sys/fs/cgroup", VERSION_2) && append(&path, "/memory.pressure") &&
        read_text(path.text, text, sizeof text))
        pressure = parse_pressure(text);
    cut(&path, 0);
    if (pressure < 0 && append(&path, root) && append(&path, "/proc/pressure/memory") &&
        read_text(path.text, text, sizeof text))
        pressure = parse_pressure(text);
    errno = saved_errno;
    return pressure;
}
