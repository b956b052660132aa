/* heap_profile.h - a heap profile as the command has it in memory, wherever it came from and whatever becomes of it.
 *
 *   sample     a stack, the innermost location first, and four sums
 *   location   where a call was, in a mapping; and, once it is known, its lines: the innermost inlined function first
 *   function   a name and a source file
 *   mapping    a file that was mapped somewhere
 *
 * These are the notions of pprof's format. All of them are numbered from 0, and each exists once. Texts belong to the profile, are
 * valid UTF-8, and have no control characters: names come from other programs, and go to terminals and pages.
 */
#ifndef HAKMEM_TOOLS_HEAP_PROFILE_H
#define HAKMEM_TOOLS_HEAP_PROFILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The sums of a sample, in the order in which they are written. */
enum heap_value { ALLOC_OBJECTS, ALLOC_SPACE, INUSE_OBJECTS, INUSE_SPACE, N_HEAP_VALUES };

#define HEAP_NONE UINT32_MAX /* no mapping, no function */

struct heap_mapping {
    uint64_t start, limit; /* its addresses; both 0: not known */
    uint64_t offset;       /* in the file, of what lies at start */
    uint64_t bias;         /* if has_bias: what was added to the addresses in the file */
    uint64_t inode;        /* of the file when it was mapped; 0: not known */
    const char *file;      /* "": not known */
    const char *build_id;  /* in hexadecimal; "": not known */
    bool has_bias;
    bool deleted;       /* the file was gone when the map was read */
    bool has_functions; /* some location in it has lines */
};

struct heap_function {
    const char *name;        /* as people read it */
    const char *system_name; /* as the linker knows it */
    const char *file;        /* "": not known */
    int64_t start_line;      /* 0: not known */
};

struct heap_line {
    uint32_t function;
    int64_t line; /* 0: not known */
};

struct heap_location {
    uint64_t address; /* of the call: the return address less 1. 0: not known */
    uint32_t mapping; /* or HEAP_NONE */
    uint32_t n_lines;
    struct heap_line *line; /* the innermost first; NULL: none */
};

struct heap_sample {
    uint32_t n_locations;
    uint32_t *location;
    int64_t value[N_HEAP_VALUES];
};

struct heap_profile {
    struct heap_mapping *mapping;
    struct heap_function *function;
    struct heap_location *location;
    struct heap_sample *sample;
    uint32_t n_mappings, n_functions, n_locations, n_samples;

    const char *program;     /* its name, "" if not known */
    char version[32];        /* of the library, "" if not known */
    int64_t pid;             /* 0: not known */
    int64_t interval_bytes;  /* 0: not known */
    int64_t duration_ns;     /* 0: not known */
    int64_t time_ns;         /* since 1970; 0: not known */
    int64_t picked, dropped; /* allocations that were looked at, and those of them that found no room */
    bool is_difference;      /* sums may be negative */
    bool is_too_large;       /* some sum does not fit, and was left out: no real profile */

    struct heap_index *index; /* private to heap_profile.c */
};

/* An empty one. The command ends with a line on stderr when memory is exhausted: so nothing here fails. */
struct heap_profile *heap_profile_new(void);
void heap_profile_free(struct heap_profile *profile);

/* A copy of the text, made fit as is said above; each exists once, so equal ones have equal addresses. */
const char *heap_text(struct heap_profile *profile, const char *text);

/* Each returns a number. The first always makes a new one. */
uint32_t heap_add_mapping(struct heap_profile *profile, const struct heap_mapping *mapping);
uint32_t heap_function(struct heap_profile *profile, const char *name, const char *system_name, const char *file,
                       int64_t start_line);
uint32_t heap_location(struct heap_profile *profile, uint32_t mapping, uint64_t address);

/* A location that has no address, but these lines. */
uint32_t heap_location_of_lines(struct heap_profile *profile, uint32_t mapping, const struct heap_line *line,
                                uint32_t n_lines);

/* Gives a location its lines; a copy is made. */
void heap_set_lines(struct heap_profile *profile, uint32_t location, const struct heap_line *line, uint32_t n_lines);

/* Adds to the sums of a stack. */
void heap_add_sample(struct heap_profile *profile, const uint32_t *location, uint32_t n_locations,
                     const int64_t value[N_HEAP_VALUES]);

/* The sums over all samples. */
void heap_totals(const struct heap_profile *profile, int64_t total[N_HEAP_VALUES]);

/* One call of a sample's stack, inlined ones included. */
struct heap_frame {
    /* of the function; of a location without lines its place in its file, "libx.so+0x1234", or its address */
    const char *name;
    const char *file;            /* "": not known */
    int64_t line;                /* 0: not known */
    uint32_t location, function; /* function: HEAP_NONE for a location without lines */
};

/* All frames of a sample, the innermost first. *frame is memory for reuse, NULL at first, and the caller's to free; *size the room
 * that it has. Returns their number. */
uint32_t heap_frames(struct heap_profile *profile, const struct heap_sample *sample, struct heap_frame **frame,
                     uint32_t *size);

/* The file's name of a mapping, without its directories; "" if there is none. */
const char *heap_mapping_name(const struct heap_profile *profile, uint32_t mapping);

/* The standard deviation's square of a sample's estimate of bytes, live or allocated: see docs/heap-profile.md. 0 when the
 * interval is not known. */
double heap_variance(const struct heap_profile *profile, const struct heap_sample *sample, bool live);

/* "inuse_space" and its kin; "bytes" or "count". By name: N_HEAP_VALUES when there is none. */
const char *heap_value_name(enum heap_value value);
const char *heap_value_unit(enum heap_value value);
enum heap_value heap_value_by_name(const char *name);

/* Memory that is there, or the command ends. */
void *heap_alloc(size_t size_bytes);
void *heap_realloc(void *memory, size_t n, size_t size_bytes);

#endif
