/* heap_profile.c - see heap_profile.h.
 * Owns       every text, number and stack of a profile.     Called by  all that read, change or write profiles
 * Calls      libc: obstacks for what lives as long as the profile, tsearch for what exists once.     Threads  one.
 * I1  A number that was given out means the same for as long as the profile lives.
 * I2  The index has each text, function, location and stack once; what it points to does not move. */
#define _GNU_SOURCE
#include "heap_profile.h"

#include "tool.h"

#include <inttypes.h>
#include <math.h>
#include <obstack.h>
#include <search.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_SUM 4e18

#define obstack_chunk_alloc heap_alloc
#define obstack_chunk_free free

struct function_key {
    const char *name, *file; /* by address: each text exists once */
    int64_t start_line;
    uint32_t number;
};

struct location_key {
    uint64_t address;
    uint32_t mapping, number;
    uint32_t n_lines; /* of one without an address, which its lines tell apart */
    const struct heap_line *line;
};

struct stack_key {
    uint32_t n, number;
    const uint32_t *location;
};

struct heap_index {
    struct obstack memory;
    double sum[N_HEAP_VALUES];                    /* of all amounts, whatever their sign */
    void *texts, *functions, *locations, *stacks; /* roots of trees */
};

/* ---- Memory ------------------------------------------------------------------------------------------------------ */

void *heap_realloc(void *memory, size_t n, size_t size_bytes)
{
    void *larger = reallocarray(memory, n == 0 ? 1 : n, size_bytes);
    if (larger == NULL) {
        tool_complain("out of memory");
        exit(TOOL_FAILED);
    }
    return larger;
}

void *heap_alloc(size_t size_bytes)
{
    return heap_realloc(NULL, 1, size_bytes);
}

/* Room for one more of n: arrays double when n is a power of two. */
#define GROW(array, n)                                                                                                 \
    do {                                                                                                               \
        if (((n) & ((n)-1)) == 0)                                                                                      \
            (array) = heap_realloc((array), (n) == 0 ? 1 : (size_t)(n)*2, sizeof *(array));                            \
    } while (0)

/* The entry of a tree that equals the key; the key itself, if it is new. */
static void *enter(void **root, const void *key, int (*compare)(const void *, const void *))
{
    void **node = tsearch(key, root, compare);
    if (node == NULL) {
        tool_complain("out of memory");
        exit(TOOL_FAILED);
    }
    return *node;
}

struct heap_profile *heap_profile_new(void)
{
    struct heap_profile *profile = heap_alloc(sizeof *profile);
    *profile = (struct heap_profile){.index = heap_alloc(sizeof *profile->index)};
    *profile->index = (struct heap_index){.texts = NULL};
    obstack_init(&profile->index->memory);
    profile->program = heap_text(profile, "");
    return profile;
}

static void keep(void *unused)
{
    (void)unused; /* it lies in the obstack */
}

void heap_profile_free(struct heap_profile *profile)
{
    if (profile == NULL)
        return;
    void *roots[] = {profile->index->texts, profile->index->functions, profile->index->locations,
                     profile->index->stacks};
    for (size_t i = 0; i < sizeof roots / sizeof roots[0]; i++)
        tdestroy(roots[i], keep);
    obstack_free(&profile->index->memory, NULL);
    free(profile->index);
    free(profile->mapping);
    free(profile->function);
    free(profile->location);
    free(profile->sample);
    free(profile);
}

/* ---- Texts ------------------------------------------------------------------------------------------------------- */

static int compare_texts(const void *a, const void *b)
{
    return strcmp(a, b);
}

/* The bytes of the character at s; 0 when it is none by RFC 3629, a control character, or U+FFFE or U+FFFF, which XML does not allow. */
static size_t character_bytes(const unsigned char *s)
{
    if (s[0] < 0x80)
        return s[0] >= 0x20 && s[0] != 0x7f;
    size_t n = s[0] < 0xc2 ? 0 : s[0] < 0xe0 ? 2 : s[0] < 0xf0 ? 3 : s[0] < 0xf5 ? 4 : 0;
    for (size_t i = 1; i < n; i++)
        if ((s[i] & 0xc0) != 0x80)
            return 0;
    bool overlong = (s[0] == 0xe0 && s[1] < 0xa0) || (s[0] == 0xf0 && s[1] < 0x90);
    bool no_character = (s[0] == 0xed && s[1] > 0x9f) || (s[0] == 0xf4 && s[1] > 0x8f) ||
                        (s[0] == 0xef && s[1] == 0xbf && s[2] >= 0xbe);
    bool control = s[0] == 0xc2 && s[1] < 0xa0;
    return overlong || no_character || control ? 0 : n;
}

const char *heap_text(struct heap_profile *profile, const char *text)
{
    struct obstack *memory = &profile->index->memory;
    for (const unsigned char *s = (const unsigned char *)text; *s != 0;) {
        size_t n = character_bytes(s);
        if (n == 0)
            obstack_1grow(memory, '?');
        else
            obstack_grow(memory, s, (int)n);
        s += n == 0 ? 1 : n;
    }
    obstack_1grow(memory, 0);
    char *own = obstack_finish(memory);
    char *first = enter(&profile->index->texts, own, compare_texts);
    if (first != own)
        obstack_free(memory, own);
    return first;
}

/* ---- Mappings, functions, locations ------------------------------------------------------------------------------ */

#define COMPARE(a, b) (((a) > (b)) - ((a) < (b)))

uint32_t heap_add_mapping(struct heap_profile *profile, const struct heap_mapping *mapping)
{
    GROW(profile->mapping, profile->n_mappings);
    struct heap_mapping *own = &profile->mapping[profile->n_mappings];
    *own = *mapping;
    own->file = heap_text(profile, mapping->file);
    own->build_id = heap_text(profile, mapping->build_id);
    return profile->n_mappings++;
}

static int compare_functions(const void *one, const void *other)
{
    const struct function_key *a = one, *b = other;
    int order = COMPARE((uintptr_t)a->name, (uintptr_t)b->name);
    if (order == 0)
        order = COMPARE((uintptr_t)a->file, (uintptr_t)b->file);
    return order != 0 ? order : COMPARE(a->start_line, b->start_line);
}

uint32_t heap_function(struct heap_profile *profile, const char *name, const char *system_name, const char *file,
                       int64_t start_line)
{
    struct obstack *memory = &profile->index->memory;
    struct function_key key = {heap_text(profile, name), heap_text(profile, file), start_line, profile->n_functions};
    const char *own_system_name = heap_text(profile, system_name);
    struct function_key *own = obstack_copy(memory, &key, sizeof key);
    struct function_key *first = enter(&profile->index->functions, own, compare_functions);
    if (first != own) {
        obstack_free(memory, own);
        return first->number;
    }
    GROW(profile->function, profile->n_functions);
    profile->function[profile->n_functions] = (struct heap_function){key.name, own_system_name, key.file, start_line};
    return profile->n_functions++;
}

static int compare_lines(const struct heap_line *a, const struct heap_line *b, uint32_t n)
{
    int order = 0;
    for (uint32_t i = 0; i < n && order == 0; i++) {
        order = COMPARE(a[i].function, b[i].function);
        if (order == 0)
            order = COMPARE(a[i].line, b[i].line);
    }
    return order;
}

static int compare_locations(const void *one, const void *other)
{
    const struct location_key *a = one, *b = other;
    int order = COMPARE(a->address, b->address);
    if (order == 0)
        order = COMPARE(a->mapping, b->mapping);
    if (order == 0)
        order = COMPARE(a->n_lines, b->n_lines);
    return order != 0 ? order : compare_lines(a->line, b->line, a->n_lines);
}

static uint32_t enter_location(struct heap_profile *profile, const struct location_key *key)
{
    struct obstack *memory = &profile->index->memory;
    struct location_key *own = obstack_copy(memory, key, sizeof *key);
    struct location_key *first = enter(&profile->index->locations, own, compare_locations);
    if (first != own) {
        obstack_free(memory, own);
        return first->number;
    }
    if (key->n_lines != 0)
        own->line = obstack_copy(memory, key->line, (int)(key->n_lines * sizeof *key->line));
    GROW(profile->location, profile->n_locations);
    profile->location[profile->n_locations] = (struct heap_location){.address = key->address, .mapping = key->mapping};
    if (key->n_lines != 0)
        heap_set_lines(profile, profile->n_locations, key->line, key->n_lines);
    return profile->n_locations++;
}

uint32_t heap_location(struct heap_profile *profile, uint32_t mapping, uint64_t address)
{
    const struct location_key key = {.address = address, .mapping = mapping, .number = profile->n_locations};
    return enter_location(profile, &key);
}

uint32_t heap_location_of_lines(struct heap_profile *profile, uint32_t mapping, const struct heap_line *line,
                                uint32_t n_lines)
{
    const struct location_key key = {
        .mapping = mapping, .number = profile->n_locations, .n_lines = n_lines, .line = line};
    return enter_location(profile, &key);
}

void heap_set_lines(struct heap_profile *profile, uint32_t location, const struct heap_line *line, uint32_t n_lines)
{
    struct heap_location *own = &profile->location[location];
    own->line = n_lines == 0 ? NULL : obstack_copy(&profile->index->memory, line, (int)(n_lines * sizeof *line));
    own->n_lines = n_lines;
    if (own->mapping != HEAP_NONE && n_lines != 0)
        profile->mapping[own->mapping].has_functions = true;
}

const char *heap_mapping_name(const struct heap_profile *profile, uint32_t mapping)
{
    if (mapping == HEAP_NONE)
        return "";
    const char *file = profile->mapping[mapping].file, *slash = strrchr(file, '/');
    return slash == NULL ? file : slash + 1;
}

/* ---- Samples ----------------------------------------------------------------------------------------------------- */

static int compare_stacks(const void *one, const void *other)
{
    const struct stack_key *a = one, *b = other;
    int order = COMPARE(a->n, b->n);
    return order != 0 || a->n == 0 ? order : memcmp(a->location, b->location, a->n * sizeof *a->location);
}

void heap_add_sample(struct heap_profile *profile, const uint32_t *location, uint32_t n_locations,
                     const int64_t value[N_HEAP_VALUES])
{
    struct obstack *memory = &profile->index->memory;
    for (int i = 0; i < N_HEAP_VALUES; i++)
        if ((profile->index->sum[i] += fabs((double)value[i])) > MAX_SUM) {
            profile->is_too_large = true; /* no sum over samples overflows */
            return;
        }
    uint32_t *stack = obstack_copy(memory, location, (int)(n_locations * sizeof *location));
    const struct stack_key key = {n_locations, profile->n_samples, stack};
    struct stack_key *own = obstack_copy(memory, &key, sizeof key);
    struct stack_key *first = enter(&profile->index->stacks, own, compare_stacks);
    if (first != own) {
        for (int i = 0; i < N_HEAP_VALUES; i++)
            profile->sample[first->number].value[i] += value[i];
        obstack_free(memory, stack);
        return;
    }
    GROW(profile->sample, profile->n_samples);
    struct heap_sample *sample = &profile->sample[profile->n_samples++];
    *sample = (struct heap_sample){.n_locations = n_locations, .location = stack};
    memcpy(sample->value, value, sizeof sample->value);
}

void heap_totals(const struct heap_profile *profile, int64_t total[N_HEAP_VALUES])
{
    memset(total, 0, N_HEAP_VALUES * sizeof total[0]);
    for (uint32_t i = 0; i < profile->n_samples; i++)
        for (int v = 0; v < N_HEAP_VALUES; v++)
            total[v] += profile->sample[i].value[v];
}

double heap_variance(const struct heap_profile *profile, const struct heap_sample *sample, bool live)
{
    double blocks = (double)sample->value[live ? INUSE_OBJECTS : ALLOC_OBJECTS];
    double bytes = (double)sample->value[live ? INUSE_SPACE : ALLOC_SPACE];
    if (profile->interval_bytes <= 0 || blocks == 0 || bytes == 0)
        return 0;
    /* Each of n blocks of size s is seen with the chance p (sampler_chance), and then counts for 1/p: n s^2 (1 - p)/p. */
    double size = fabs(bytes / blocks), interval = (double)profile->interval_bytes,
           p = interval <= 1 ? 1 : -expm1(-(size + 1) / interval);
    return fabs(blocks) * size * size * (1 - p) / p;
}

/* ---- Frames ------------------------------------------------------------------------------------------------------ */

static const char *name_of_location(struct heap_profile *profile, uint32_t number)
{
    char name[512];
    const struct heap_location *location = &profile->location[number];
    const struct heap_mapping *mapping = location->mapping == HEAP_NONE ? NULL : &profile->mapping[location->mapping];
    if (mapping != NULL && mapping->limit != 0 && mapping->file[0] != 0)
        snprintf(name, sizeof name, "%s+%#" PRIx64, heap_mapping_name(profile, location->mapping),
                 location->address - mapping->start + mapping->offset);
    else
        snprintf(name, sizeof name, "%#" PRIx64, location->address);
    return heap_text(profile, name);
}

uint32_t heap_frames(struct heap_profile *profile, const struct heap_sample *sample, struct heap_frame **frame,
                     uint32_t *size)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < sample->n_locations; i++) {
        const struct heap_location *location = &profile->location[sample->location[i]];
        uint32_t own = location->n_lines == 0 ? 1 : location->n_lines;
        if (n + own > *size) {
            *size = 2 * (n + own);
            *frame = heap_realloc(*frame, *size, sizeof **frame);
        }
        for (uint32_t k = 0; k < location->n_lines; k++) {
            const struct heap_function *function = &profile->function[location->line[k].function];
            (*frame)[n++] = (struct heap_frame){function->name, function->file, location->line[k].line,
                                                sample->location[i], location->line[k].function};
        }
        if (location->n_lines == 0)
            (*frame)[n++] = (struct heap_frame){name_of_location(profile, sample->location[i]), "", 0,
                                                sample->location[i], HEAP_NONE};
    }
    return n;
}

/* ---- Values ------------------------------------------------------------------------------------------------------ */

static const struct {
    const char *name, *unit;
} values[N_HEAP_VALUES] = {
    [ALLOC_OBJECTS] = {"alloc_objects", "count"},
    [ALLOC_SPACE] = {"alloc_space", "bytes"},
    [INUSE_OBJECTS] = {"inuse_objects", "count"},
    [INUSE_SPACE] = {"inuse_space", "bytes"},
};

const char *heap_value_name(enum heap_value value)
{
    return values[value].name;
}

const char *heap_value_unit(enum heap_value value)
{
    return values[value].unit;
}

enum heap_value heap_value_by_name(const char *name)
{
    int i = 0;
    while (i < N_HEAP_VALUES && strcmp(values[i].name, name) != 0)
        i++;
    return (enum heap_value)i;
}
