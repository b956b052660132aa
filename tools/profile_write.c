/* profile_write.c - see profile_write.h.
 * Owns       the file that is being written.     Called by  profile.c, diff.c     Calls  pprof.c, flame.c, profile_text.c
 * Threads    one.
 * I1  What is written is complete in memory before a file is opened; a regular file is written beside its name, and then takes its
 *     place. So whatever fails, an earlier file is not lost. */
#define _GNU_SOURCE
#include "profile_write.h"

#include "flame.h"
#include "pprof.h"
#include "profile_text.h"
#include "tool.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const struct {
    const char *name, *suffix;
} formats[N_FORMATS] = {
    [FORMAT_PPROF] = {"pprof", ".pb.gz"}, [FORMAT_FOLDED] = {"folded", ".folded"}, [FORMAT_SVG] = {"svg", ".svg"},
    [FORMAT_HTML] = {"html", ".html"},    [FORMAT_TEXT] = {"text", ".txt"},        [FORMAT_LEAKS] = {"leaks", ""},
};

enum profile_format profile_format_by_name(const char *name)
{
    int i = 0;
    while (i < N_FORMATS && strcmp(formats[i].name, name) != 0)
        i++;
    return (enum profile_format)i;
}

enum profile_format profile_format_by_path(const char *path)
{
    size_t length = strlen(path);
    for (int i = 0; i < N_FORMATS; i++) {
        size_t suffix = strlen(formats[i].suffix);
        if (suffix != 0 && length > suffix && strcmp(path + length - suffix, formats[i].suffix) == 0)
            return (enum profile_format)i;
    }
    return N_FORMATS;
}

bool profile_parse_top(const char *text, unsigned *top)
{
    char *end;
    if (!isdigit((unsigned char)text[0]))
        return false;
    unsigned long n = strtoul(text, &end, 10);
    *top = (unsigned)n;
    return *end == 0 && n <= PROFILE_MAX_TOP;
}

/* ---- Files ------------------------------------------------------------------------------------------------------- */

static bool write_all(int file, const char *bytes, size_t len_bytes)
{
    while (len_bytes != 0) {
        ssize_t n = write(file, bytes, len_bytes);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return false;
        bytes += n;
        len_bytes -= (size_t)n;
    }
    return true;
}

/* Onto what is there: a terminal, a pipe, a device. */
static bool write_through(const char *bytes, size_t len_bytes, const char *path)
{
    int file = path == NULL ? STDOUT_FILENO : open(path, O_WRONLY | O_CLOEXEC);
    bool written = file >= 0 && write_all(file, bytes, len_bytes);
    int error = errno;
    if (file >= 0 && path != NULL && close(file) != 0 && written) {
        written = false;
        error = errno;
    }
    errno = error;
    return written;
}

/* What a new file may be read by. */
static mode_t new_mode(void)
{
    mode_t mask = umask(0);
    umask(mask);
    return 0666 & ~mask;
}

/* I1. */
static bool write_beside(const char *bytes, size_t len_bytes, const char *path, mode_t mode)
{
    char *temporary;
    if (asprintf(&temporary, "%s.XXXXXX", path) < 0)
        return false;
    int file = mkostemp(temporary, O_CLOEXEC);
    if (file < 0) {
        free(temporary);
        return false;
    }
    bool written = write_all(file, bytes, len_bytes) && fchmod(file, mode) == 0 && fsync(file) == 0;
    int error = errno;
    if (close(file) != 0 && written) {
        written = false;
        error = errno;
    }
    if (written && rename(temporary, path) != 0) {
        written = false;
        error = errno;
    }
    if (!written)
        unlink(temporary);
    free(temporary);
    errno = error;
    return written;
}

/* Follows links, so that a link stays one. */
static bool write_file(const char *bytes, size_t len_bytes, const char *path)
{
    struct stat status;
    if (stat(path, &status) == 0 && !S_ISREG(status.st_mode))
        return write_through(bytes, len_bytes, path);
    char *real = realpath(path, NULL);
    bool written = real == NULL ? write_beside(bytes, len_bytes, path, new_mode())
                                : write_beside(bytes, len_bytes, real, status.st_mode & 0777);
    int error = errno;
    free(real);
    errno = error;
    return written;
}

int profile_write_bytes(const char *bytes, size_t len_bytes, const char *path)
{
    bool to_stdout = path == NULL || strcmp(path, "-") == 0;
    if (to_stdout ? write_through(bytes, len_bytes, NULL) : write_file(bytes, len_bytes, path))
        return TOOL_OK;
    tool_complain("cannot write %s: %s", to_stdout ? "the output" : path, strerror(errno));
    return TOOL_FAILED;
}

/* ---- Formats ----------------------------------------------------------------------------------------------------- */

static bool write_stream(struct heap_profile *profile, const struct profile_output *output, FILE *out)
{
    switch (output->format) {
    case FORMAT_PPROF:
        return pprof_encode(profile, out);
    case FORMAT_FOLDED:
        text_write_folded(profile, output->value, out);
        return true;
    case FORMAT_SVG:
        flame_write_svg(profile, output->value, out);
        return true;
    case FORMAT_HTML:
        flame_write_html(profile, output->value, out);
        return true;
    case FORMAT_LEAKS:
        text_write_leaks(profile, output->top, out);
        return true;
    default:
        text_write_top(profile, output->value, output->top, out);
        return true;
    }
}

int profile_write(struct heap_profile *profile, const struct profile_output *output)
{
    char *bytes = NULL;
    size_t len_bytes = 0;
    FILE *stream = open_memstream(&bytes, &len_bytes);
    bool made = stream != NULL && write_stream(profile, output, stream);
    made = stream != NULL && fclose(stream) == 0 && made;
    int status = TOOL_FAILED;
    if (made)
        status = profile_write_bytes(bytes, len_bytes, output->path);
    else
        tool_complain("cannot make the output: out of memory");
    free(bytes);
    return status;
}
