/* output.c - a file that appears whole or not at all.
 * Owns       what is collected, and for a moment the temporary file.
 * Called by  map.c, profile.c, profile_write.c     Calls  tool.c (tool_complain)     Threads  one.
 * I1  At `path` lies what lay there before, until all of the new file is written and the system has taken it.
 * I2  What is no plain file (a device, a pipe) is written to, never renamed over: /dev/null stays a device.
 * I3  What this process was started with (/dev/stdout, /dev/fd/3) is written to from where it stands, even if it is a plain file:
 *     who started us may have written to it, and go on.
 * Why in memory first: a writer of pictures or JSON says that it failed, but not why; write() does. */
#define _GNU_SOURCE
#include "output.h"

#include "tool.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <signal.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MAX_LINKS = 40 }; /* as the system has it */
#define TEMPORARY_NAME ".hakmem.XXXXXX"

static int complain(const char *path, int error)
{
    tool_complain("cannot write %s: %s", path, strerror(error));
    return -1;
}

/* ---- What lies there ----------------------------------------------------------------------------------------------- */

/* The descriptor of this process that a path names (/dev/stdout, /dev/fd/3, /proc/self/fd/3). -1: none. */
static int own_descriptor(const char *path)
{
    static const char *const names[] = {"/dev/stdin", "/dev/stdout", "/dev/stderr"};
    static const char *const directories[] = {"/dev/fd/", "/proc/self/fd/"};
    for (int i = 0; i < 3; i++)
        if (strcmp(path, names[i]) == 0)
            return i;
    for (int i = 0; i < 2; i++) {
        const size_t length = strlen(directories[i]);
        if (strncmp(path, directories[i], length) != 0 || !isdigit((unsigned char)path[length]))
            continue;
        char *end;
        const unsigned long number = strtoul(path + length, &end, 10);
        return *end == '\0' && number <= INT_MAX ? (int)number : -1;
    }
    return -1;
}

/* Puts what a link says in the place of its own path. 0, or an error's number. */
static int take_link(char path[PATH_MAX], const char *link)
{
    const char *slash = strrchr(path, '/');
    const size_t before = link[0] == '/' || slash == NULL ? 0 : (size_t)(slash + 1 - path), length = strlen(link);
    if (before + length >= PATH_MAX)
        return ENAMETOOLONG;
    memcpy(path + before, link, length + 1);
    return 0;
}

/* Where a file is to appear: where the links lead to, even if nothing lies there yet. Those that lead on from a descriptor of ours
 * are not followed (I3). 0, or an error's number. */
static int follow_links(const char *path, char place[PATH_MAX])
{
    char link[PATH_MAX];
    if (strlen(path) >= PATH_MAX)
        return ENAMETOOLONG;
    strcpy(place, path);
    for (unsigned i = 0; i < MAX_LINKS; i++) {
        const ssize_t length = own_descriptor(place) >= 0 ? -1 : readlink(place, link, sizeof link - 1);
        if (length < 0)
            return 0;
        link[length] = '\0';
        const int error = take_link(place, link);
        if (error != 0)
            return error;
    }
    return ELOOP;
}

/* The name of the file that is renamed in the end: short, as the directory may have little room for names. 0, or an error's number. */
static int name_temporary(const char *place, char temporary[PATH_MAX])
{
    const char *slash = strrchr(place, '/');
    const size_t before = slash == NULL ? 0 : (size_t)(slash + 1 - place);
    if (before + sizeof TEMPORARY_NAME > PATH_MAX)
        return ENAMETOOLONG;
    memcpy(temporary, place, before);
    memcpy(temporary + before, TEMPORARY_NAME, sizeof TEMPORARY_NAME);
    return 0;
}

/* 0, or an error's number. */
static int check_descriptor(int fd)
{
    const int flags = fcntl(fd, F_GETFL);
    if (flags < 0)
        return errno;
    return (flags & O_ACCMODE) == O_RDONLY ? EBADF : 0;
}

/* The same for a place in the file system. */
static int check_place(const char *place)
{
    char temporary[PATH_MAX];
    struct stat there;
    const bool exists = stat(place, &there) == 0;
    if (place[0] == '\0' || (!exists && errno != ENOENT))
        return place[0] == '\0' ? ENOENT : errno;
    if (exists && S_ISDIR(there.st_mode))
        return EISDIR;
    if (exists && !S_ISREG(there.st_mode))
        return access(place, W_OK) == 0 ? 0 : errno;
    const int error = name_temporary(place, temporary);
    if (error != 0)
        return error;
    return access(dirname(temporary), W_OK | X_OK) == 0 ? 0 : errno;
}

int output_check(const char *path)
{
    char place[PATH_MAX];
    int error = follow_links(path, place);
    if (error == 0)
        error = own_descriptor(place) >= 0 ? check_descriptor(own_descriptor(place)) : check_place(place);
    return error == 0 ? 0 : complain(path, error);
}

int output_open(struct output *output, const char *path)
{
    *output = (struct output){.path = path};
    if (output_check(path) != 0)
        return -1;
    output->file = open_memstream(&output->data, &output->len_bytes);
    return output->file == NULL ? complain(path, errno) : 0;
}

/* ---- Writing ------------------------------------------------------------------------------------------------------- */

/* 0, or -1 and errno. */
static int write_all(int fd, const char *data, size_t len_bytes)
{
    while (len_bytes > 0) {
        const ssize_t n = write(fd, data, len_bytes);
        if (n < 0 && errno != EINTR)
            return -1;
        if (n > 0) {
            data += n;
            len_bytes -= (size_t)n;
        }
    }
    return 0;
}

/* Writes to what is open, and closes it. 0, or an error's number. */
static int write_to(int fd, const struct output *output)
{
    if (fd < 0)
        return errno;
    const int error = write_all(fd, output->data, output->len_bytes) == 0 ? 0 : errno;
    return close(fd) == 0 || error != 0 ? error : errno;
}

/* mkstemp makes what its owner alone may read; files otherwise are as they were, or as the user's umask says. */
static int set_usual_mode(int fd, const char *path)
{
    struct stat there;
    const mode_t mask = umask(0);
    umask(mask);
    return fchmod(fd, stat(path, &there) == 0 ? there.st_mode & 0777 : 0666 & ~mask);
}

/* Fills the temporary file and closes it. 0, or an error's number. */
static int fill_temporary(int fd, const struct output *output, const char *path)
{
    int error = 0;
    if (set_usual_mode(fd, path) != 0 || write_all(fd, output->data, output->len_bytes) != 0 || fsync(fd) != 0)
        error = errno;
    return close(fd) == 0 || error != 0 ? error : errno;
}

/* Puts a file in the place of what lies there, or where nothing lies. 0, or an error's number. */
static int replace(const struct output *output, const char *place)
{
    char temporary[PATH_MAX];
    int error = name_temporary(place, temporary);
    if (error != 0)
        return error;
    const int fd = mkstemp(temporary);
    if (fd < 0)
        return errno;
    error = fill_temporary(fd, output, place);
    if (error == 0 && rename(temporary, place) != 0)
        error = errno;
    if (error != 0)
        unlink(temporary);
    return error;
}

/* 0, or an error's number. */
static int put(const struct output *output)
{
    char place[PATH_MAX];
    struct stat there;
    const int error = follow_links(output->path, place);
    if (error != 0)
        return error;
    if (own_descriptor(place) >= 0)
        return write_to(fcntl(own_descriptor(place), F_DUPFD_CLOEXEC, 0), output);
    if (stat(place, &there) == 0 && !S_ISREG(there.st_mode))
        return write_to(open(place, O_WRONLY | O_CLOEXEC), output);
    return replace(output, place);
}

int output_finish(struct output *output)
{
    const struct sigaction ignored = {.sa_handler = SIG_IGN}; /* then write says EFBIG, and the temporary file goes */
    struct sigaction before;
    int error = ferror(output->file) ? ENOMEM : 0;
    if (fclose(output->file) != 0)
        error = ENOMEM;
    sigaction(SIGXFSZ, &ignored, &before);
    if (error == 0)
        error = put(output);
    sigaction(SIGXFSZ, &before, NULL);
    free(output->data);
    return error == 0 ? 0 : complain(output->path, error);
}

void output_abandon(struct output *output)
{
    fclose(output->file);
    free(output->data);
}
