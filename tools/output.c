/* output.c - a file that appears whole or not at all.
 * Owns       the temporary file beside it.
 * Called by  map.c.     Calls  hakmem.c (tool_complain).     Threads  one.
 * I1  At `path` lies what lay there before, until all of the new file is written and the system has taken it.
 * I2  What is no plain file is never renamed over: /dev/null stays a device. */
#define _GNU_SOURCE
#include "output.h"

#include "tool.h"

#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
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
    if (strlen(path) >= sizeof copy - 16)
        return complain(path, ENAMETOOLONG);
    if (stat(path, &there) == 0 && S_ISDIR(there.st_mode))
        return complain(path, EISDIR);
    strcpy(copy, path);
    if (is_special(path) ? access(path, W_OK) != 0 : access(dirname(copy), W_OK | X_OK) != 0)
        return complain(path, errno);
    return 0;
}

/* mkstemp makes what its owner alone may read; files otherwise appear as the user's umask says. */
static void set_usual_mode(int fd, const char *path)
{
    struct stat there;
    const mode_t mask = umask(0);
    umask(mask);
    fchmod(fd, stat(path, &there) == 0 ? there.st_mode & 0777 : 0666 & ~mask);
}

static int open_beside(struct output *output)
{
    strcpy(output->temporary, output->path);
    strcat(output->temporary, ".XXXXXX");
    const int fd = mkstemp(output->temporary);
    if (fd < 0)
        return -1;
    set_usual_mode(fd, output->path);
    output->file = fdopen(fd, "w");
    if (output->file == NULL) {
        close(fd);
        unlink(output->temporary);
        return -1;
    }
    return 0;
}

int output_open(struct output *output, const char *path)
{
    if (output_check(path) != 0)
        return -1;
    if (realpath(path, output->path) == NULL)
        strcpy(output->path, path); /* it does not exist yet */
    output->temporary[0] = '\0';
    if (strlen(output->path) >= sizeof output->temporary - 16)
        return complain(path, ENAMETOOLONG);
    if (is_special(output->path))
        return (output->file = fopen(output->path, "w")) == NULL ? complain(path, errno) : 0;
    return open_beside(output) != 0 ? complain(path, errno) : 0;
}

int output_finish(struct output *output)
{
    errno = 0;
    const bool written = fflush(output->file) == 0 && !ferror(output->file) &&
                         (output->temporary[0] == '\0' || fsync(fileno(output->file)) == 0);
    const int error = errno;
    if (!written) {
        output_abandon(output);
        return complain(output->path, error != 0 ? error : EIO);
    }
    fclose(output->file);
    if (output->temporary[0] == '\0' || rename(output->temporary, output->path) == 0)
        return 0;
    complain(output->path, errno);
    unlink(output->temporary);
    return -1;
}

void output_abandon(struct output *output)
{
    fclose(output->file);
    if (output->temporary[0] != '\0')
        unlink(output->temporary);
}
