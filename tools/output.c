/* output.c - a file that appears whole or not at all.
 * Owns       what is collected, and for a moment the temporary file.
 * Called by  map.c.     Calls  hakmem.c (tool_complain).     Threads  one.
 * I1  At `path` lies what lay there before, until all of the new file is written and the system has taken it.
 * I2  What is no plain file (a device, a pipe) is written to, never renamed over: /dev/null stays a device.
 * Why in memory first: a writer of pictures or JSON says that it failed, but not why; write() does. */
#define _GNU_SOURCE
#include "output.h"

#include "tool.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int complain(const char *path, int error)
{
    tool_complain("cannot write %s: %s", path, strerror(error));
    return -1;
}

/* Whether something that is no plain file lies there. */
static bool is_special(const char *path)
{
    struct stat there;
    return stat(path, &there) == 0 && !S_ISREG(there.st_mode);
}

int output_check(const char *path)
{
    char copy[PATH_MAX];
    struct stat there;
    if (path[0] == '\0' || strlen(path) >= sizeof copy)
        return complain(path, path[0] == '\0' ? ENOENT : ENAMETOOLONG);
    if (stat(path, &there) == 0 && S_ISDIR(there.st_mode))
        return complain(path, EISDIR);
    strcpy(copy, path);
    if (is_special(path) ? access(path, W_OK) != 0 : access(dirname(copy), W_OK | X_OK) != 0)
        return complain(path, errno);
    return 0;
}

int output_open(struct output *output, const char *path)
{
    *output = (struct output){.path = path};
    if (output_check(path) != 0)
        return -1;
    output->file = open_memstream(&output->data, &output->len_bytes);
    return output->file == NULL ? complain(path, errno) : 0;
}

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

/* Writes to what lies there. 0, or an error's number. */
static int write_there(const struct output *output)
{
    const int fd = open(output->path, O_WRONLY | O_CLOEXEC);
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

/* Puts a file in the place of what lies at path, or where nothing lies. 0, or an error's number. */
static int replace(const struct output *output)
{
    char path[PATH_MAX], temporary[PATH_MAX + 8];
    if (realpath(output->path, path) == NULL) /* a link leads to what is to be replaced */
        strcpy(path, output->path);           /* it does not exist yet */
    snprintf(temporary, sizeof temporary, "%s.XXXXXX", path);
    const int fd = mkstemp(temporary);
    if (fd < 0)
        return errno;
    int error = fill_temporary(fd, output, path);
    if (error == 0 && rename(temporary, path) != 0)
        error = errno;
    if (error != 0)
        unlink(temporary);
    return error;
}

int output_finish(struct output *output)
{
    int error = ferror(output->file) ? ENOMEM : 0;
    if (fclose(output->file) != 0)
        error = ENOMEM;
    if (error == 0)
        error = is_special(output->path) ? write_there(output) : replace(output);
    free(output->data);
    return error == 0 ? 0 : complain(output->path, error);
}

void output_abandon(struct output *output)
{
    fclose(output->file);
    free(output->data);
}
