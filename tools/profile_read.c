/* profile_read.c - heap profiles out of files; see profile_read.h.
 * Owns       nothing.     Called by  profile.c, diff.c, pprof.c     Calls  address_map.c, pprof.c, heap_profile.h     Threads  one.
 * I1  A file that is damaged, cut, or no profile at all is refused with the line where it went wrong; whatever its bytes are, no
 *     memory is taken beyond what they account for. */
#define _GNU_SOURCE
#include "profile_read.h"

#include "pprof.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define MAX_FRAMES 1024                  /* of a stack; ours have 48 at most */
#define MAX_FILE_BYTES ((size_t)1 << 30) /* of a profile */
#define NS_PER_S INT64_C(1000000000)

/* ---- A whole file ------------------------------------------------------------------------------------------------ */

/* Its bytes, and a 0 behind them. NULL and a line in why. */
static char *read_whole(const char *path, size_t *len_bytes, char *why, size_t why_bytes)
{
    FILE *file = strcmp(path, "-") == 0 ? stdin : fopen(path, "re");
    if (file == NULL) {
        snprintf(why, why_bytes, "cannot read %s: %s", path, strerror(errno));
        return NULL;
    }
    size_t size = 1 << 16, len = 0;
    char *bytes = heap_alloc(size + 1);
    for (size_t n; len < MAX_FILE_BYTES && (n = fread(bytes + len, 1, size - len, file)) > 0;) {
        len += n;
        if (len == size)
            bytes = heap_realloc(bytes, (size *= 2) + 1, 1);
    }
    int error = ferror(file) ? errno : 0;
    if (file != stdin)
        fclose(file);
    if (error != 0 || len >= MAX_FILE_BYTES) {
        snprintf(why, why_bytes, "cannot read %s: %s", path, error != 0 ? strerror(error) : "it is too large");
        free(bytes);
        return NULL;
    }
    bytes[len] = 0;
    *len_bytes = len;
    return bytes;
}

/* ---- The text dump ----------------------------------------------------------------------------------------------- */

/* A stack as it stands in the dump. */
struct dumped_stack {
    int64_t value[N_HEAP_VALUES];
    uint32_t n_frames;
    uint64_t *frame; /* return addresses */
};

struct dump {
    struct heap_profile *profile;
    struct address_map *map;
    struct dumped_stack *stack;
    size_t n_stacks;
    bool in_map, has_map;
};

/* "N: N [N: N] @": the sums of a stack. Returns what follows, NULL when it is no such line. */
static const char *read_sums(const char *text, int64_t value[N_HEAP_VALUES])
{
    int at = 0;
    if (sscanf(text, " %" SCNd64 ": %" SCNd64 " [%" SCNd64 ": %" SCNd64 "] @%n", &value[INUSE_OBJECTS],
               &value[INUSE_SPACE], &value[ALLOC_OBJECTS], &value[ALLOC_SPACE], &at) != 4 ||
        at == 0)
        return NULL;
    for (int v = 0; v < N_HEAP_VALUES; v++)
        if (value[v] < 0)
            return NULL;
    return text + at;
}

static bool add_stack(struct dump *dump, const char *text)
{
    struct dumped_stack stack = {.n_frames = 0};
    uint64_t frame[MAX_FRAMES];
    text = read_sums(text, stack.value);
    if (text == NULL)
        return false;
    for (;;) {
        char *end;
        while (isspace((unsigned char)*text))
            text++;
        if (*text == 0)
            break;
        frame[stack.n_frames] = strtoull(text, &end, 16);
        if (end == text || ++stack.n_frames == MAX_FRAMES)
            return false;
        text = end;
    }
    stack.frame = heap_realloc(NULL, stack.n_frames, sizeof *stack.frame);
    memcpy(stack.frame, frame, stack.n_frames * sizeof *frame);
    if ((dump->n_stacks & (dump->n_stacks - 1)) == 0)
        dump->stack = heap_realloc(dump->stack, 2 * dump->n_stacks + 1, sizeof *dump->stack);
    dump->stack[dump->n_stacks++] = stack;
    return true;
}

/* "# module START-END BIAS BUILD-ID PATH", from the stack that comes next on. */
static void add_module(struct dump *dump, const char *text)
{
    struct heap_mapping module = {.has_bias = true};
    char build_id[130];
    int at = 0;
    if (sscanf(text, "# module %" SCNx64 "-%" SCNx64 " %" SCNx64 " %129s%n", &module.start, &module.limit, &module.bias,
               build_id, &at) != 4)
        return;
    module.file = text[at] == ' ' ? text + at + 1 : "";
    module.build_id = strcmp(build_id, "-") == 0 ? "" : build_id;
    address_map_add_module(dump->map, &module, dump->n_stacks);
}

static const char difference_text[] = "hakmem: a difference of two heap profiles";

void profile_read_facts(struct heap_profile *profile, const char *text)
{
    char version[32];
    long long pid, interval, samples, dropped, seconds, ms, time = 0;
    profile->is_difference |= strcmp(text, difference_text) == 0;
    if (sscanf(text, "hakmem %31s pid=%lld interval_bytes=%lld seconds=%lld.%lld samples=%lld dropped=%lld time=%lld",
               version, &pid, &interval, &seconds, &ms, &samples, &dropped, &time) < 7)
        return;
    const long long most_s = INT64_MAX / NS_PER_S - 1;
    if (seconds < 0 || seconds > most_s || ms < 0 || ms >= 1000 || time < 0 || time > most_s)
        /* not one of ours */
        return;
    strcpy(profile->version, heap_text(profile, version)); /* NOLINT: as long as version */
    profile->pid = pid;
    profile->interval_bytes = interval;
    profile->duration_ns = seconds * NS_PER_S + ms * (NS_PER_S / 1000);
    profile->picked = samples;
    profile->dropped = dropped;
    profile->time_ns = time * NS_PER_S;
}

int profile_print_facts(const struct heap_profile *profile, char *text, size_t size_bytes)
{
    if (profile->is_difference)
        return snprintf(text, size_bytes, "%s", difference_text);
    return snprintf(text, size_bytes,
                    "hakmem %s pid=%" PRId64 " interval_bytes=%" PRId64 " seconds=%" PRId64 ".%03d samples=%" PRId64
                    " dropped=%" PRId64 " time=%" PRId64,
                    profile->version[0] == 0 ? "?" : profile->version, profile->pid, profile->interval_bytes,
                    profile->duration_ns / NS_PER_S, (int)(profile->duration_ns % NS_PER_S / (NS_PER_S / 1000)),
                    profile->picked, profile->dropped, profile->time_ns / NS_PER_S);
}

/* One line behind the first. False: it has no place in a dump. */
static bool read_line(struct dump *dump, const char *text)
{
    if (dump->in_map) {
        address_map_add_line(dump->map, text); /* and what is no line of a map is not for us */
        return true;
    }
    if (strncmp(text, "# module ", 9) == 0)
        add_module(dump, text);
    else if (text[0] == '#')
        profile_read_facts(dump->profile, text + strspn(text, "# "));
    else if (strcmp(text, "MAPPED_LIBRARIES:") == 0)
        dump->in_map = dump->has_map = true;
    else if (text[strspn(text, " \t\r")] != 0)
        return add_stack(dump, text);
    return true;
}

/* I1 of address_map.c needs all modules, so stacks come last. */
static void resolve_stacks(struct dump *dump)
{
    uint32_t location[MAX_FRAMES];
    address_map_begin(dump->map, dump->profile);
    for (size_t i = 0; i < dump->n_stacks; i++) {
        const struct dumped_stack *stack = &dump->stack[i];
        for (uint32_t f = 0; f < stack->n_frames; f++) {
            uint64_t call = stack->frame[f] - 1;
            location[f] = heap_location(dump->profile, address_map_find(dump->map, dump->profile, call, i), call);
        }
        heap_add_sample(dump->profile, location, stack->n_frames, stack->value);
    }
}

/* The lines of a dump, which become texts of their own. 0, or the number of the line that is wrong. */
static size_t read_lines(struct dump *dump, char *bytes)
{
    int64_t total[N_HEAP_VALUES];
    size_t number = 0;
    for (char *line = bytes, *next; line != NULL; line = next) {
        next = strchr(line, '\n');
        if (next != NULL)
            *next++ = 0;
        number++;
        if (number == 1) {
            const char *kind = strncmp(line, "heap profile:", 13) == 0 ? read_sums(line + 13, total) : NULL;
            if (kind == NULL || strncmp(kind, " heapprofile", 12) != 0)
                return number;
        } else if (!read_line(dump, line)) {
            return number;
        }
    }
    return dump->has_map ? 0 : number;
}

static struct heap_profile *read_dump(const char *path, char *bytes, size_t len_bytes, char *why, size_t why_bytes)
{
    struct dump dump = {.profile = heap_profile_new(), .map = address_map_new()};
    size_t wrong = memchr(bytes, 0, len_bytes) != NULL ? 1 : read_lines(&dump, bytes);
    if (wrong == 0)
        resolve_stacks(&dump);
    else if (wrong == 1)
        snprintf(why, why_bytes, "%s is no heap profile", path);
    else
        snprintf(why, why_bytes, "%s is cut or damaged: line %zu", path, wrong);
    for (size_t i = 0; i < dump.n_stacks; i++)
        free(dump.stack[i].frame);
    free(dump.stack);
    address_map_free(dump.map);
    if (wrong != 0)
        heap_profile_free(dump.profile);
    return wrong == 0 ? dump.profile : NULL;
}

/* ---- Either ------------------------------------------------------------------------------------------------------ */

struct heap_profile *profile_read(const char *path, char *why, size_t why_bytes)
{
    size_t len_bytes;
    char problem[READ_WHY_BYTES / 2];
    char *bytes = read_whole(path, &len_bytes, why, why_bytes);
    struct heap_profile *profile;
    if (bytes == NULL)
        return NULL;
    if (pprof_is_compressed(bytes, len_bytes)) {
        profile = pprof_decode(bytes, len_bytes, problem, sizeof problem);
        if (profile == NULL)
            snprintf(why, why_bytes, "%s %s", path, problem);
    } else {
        profile = read_dump(path, bytes, len_bytes, why, why_bytes);
    }
    free(bytes);
    if (profile != NULL && profile->is_too_large) {
        snprintf(why, why_bytes, "%s is damaged: its amounts are too large", path);
        heap_profile_free(profile);
        return NULL;
    }
    return profile;
}
