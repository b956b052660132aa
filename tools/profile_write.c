/* profile_write.c - see profile_write.h.
 * Owns       nothing.     Called by  profile.c, diff.c     Calls  output.c, pprof.c, flame.c, profile_text.c     Threads  one. */
#define _GNU_SOURCE
#include "profile_write.h"

#include "flame.h"
#include "output.h"
#include "pprof.h"
#include "profile_text.h"
#include "tool.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

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

bool profile_take_path(const char *path, struct profile_output *output)
{
    if (output->path != NULL) {
        tool_complain("--output: '%s' is a second file, after '%s'; only one is written", path, output->path);
        return false;
    }
    output->path = path;
    return true;
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

struct job {
    struct heap_profile *profile;
    const struct profile_output *output;
};

static bool write_job(const void *what, FILE *out)
{
    const struct job *job = what;
    return write_stream(job->profile, job->output, out);
}

int profile_write(struct heap_profile *profile, const struct profile_output *output)
{
    const struct job job = {profile, output};
    return profile_write_by(write_job, &job, output->path);
}

/* ---- Files ------------------------------------------------------------------------------------------------------- */

bool profile_is_stdout(const char *path)
{
    return path == NULL || strcmp(path, "-") == 0;
}

int profile_write_by(bool (*write)(const void *what, FILE *out), const void *what, const char *path)
{
    struct output output;
    const bool to_stdout = profile_is_stdout(path);
    if (!to_stdout && output_open(&output, path) != 0)
        return TOOL_FAILED;
    if (!write(what, to_stdout ? stdout : output.file)) {
        if (!to_stdout)
            output_abandon(&output);
        tool_complain("cannot make the output: out of memory");
        return TOOL_FAILED;
    }
    if (to_stdout)
        return tool_finish_output();
    return output_finish(&output) == 0 ? TOOL_OK : TOOL_FAILED;
}
