/* address_map.c - which file an address of a profile belongs to; see profile_read.h.
 * Owns       the lines of a map, and the modules that the library has noted.     Called by  profile_read.c, profile_live.c
 * Calls      heap_profile.h     Threads  one.
 * I1  A module that was noted before a stack was is preferred to one that came later, and the youngest of them to the others: so a
 *     library that lies where another one lay before takes nothing from it.
 * I2  A module gets one mapping of the profile for each line of the map that has executable addresses of it, or one of its own
 *     when it is not mapped any more. */
#define _GNU_SOURCE
#include "profile_read.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static const char deleted_suffix[] = " (deleted)";

struct map_line {
    uint64_t start, limit, offset, inode;
    bool executable, deleted;
    char *file; /* "" for memory without one */
};

struct map_module {
    struct heap_mapping mapping;
    char *file, *build_id;
    uint64_t since;
};

/* A module, or none, and a line of the map, or none, as a mapping of the profile. */
struct used_mapping {
    size_t module, line;
    uint32_t number;
};

#define NONE SIZE_MAX

struct address_map {
    struct map_line *line;
    struct map_module *module;
    struct used_mapping *used;
    size_t n_lines, n_modules, n_used;
};

struct address_map *address_map_new(void)
{
    struct address_map *map = heap_alloc(sizeof *map);
    *map = (struct address_map){.line = NULL};
    return map;
}

void address_map_free(struct address_map *map)
{
    for (size_t i = 0; i < map->n_lines; i++)
        free(map->line[i].file);
    for (size_t i = 0; i < map->n_modules; i++) {
        free(map->module[i].file);
        free(map->module[i].build_id);
    }
    free(map->line);
    free(map->module);
    free(map->used);
    free(map);
}

static char *copy_text(const char *text)
{
    return strcpy(heap_alloc(strlen(text) + 1), text); /* NOLINT: it fits */
}

/* Newlines are written as \012 in the map. */
static void unescape(char *text)
{
    char *to = text;
    for (const char *from = text; *from != 0; from++)
        if (strncmp(from, "\\012", 4) == 0) {
            *to++ = '\n';
            from += 3;
        } else {
            *to++ = *from;
        }
    *to = 0;
}

bool address_map_add_line(struct address_map *map, const char *text)
{
    struct map_line line = {0};
    char permissions[8];
    int at = 0;
    if (sscanf(text, "%" SCNx64 "-%" SCNx64 " %7s %" SCNx64 " %*x:%*x %" SCNu64 " %n", &line.start, &line.limit,
               permissions, &line.offset, &line.inode, &at) < 5 ||
        at == 0 || line.start >= line.limit)
        return false;
    line.executable = strchr(permissions, 'x') != NULL;
    line.file = copy_text(text + at);
    line.file[strcspn(line.file, "\n")] = 0;
    size_t length = strlen(line.file), suffix = sizeof deleted_suffix - 1;
    if (length > suffix && strcmp(line.file + length - suffix, deleted_suffix) == 0) {
        line.deleted = true;
        line.file[length - suffix] = 0;
    }
    unescape(line.file);
    map->line = heap_realloc(map->line, map->n_lines + 1, sizeof *map->line);
    map->line[map->n_lines++] = line;
    return true;
}

void address_map_add_module(struct address_map *map, const struct heap_mapping *mapping, uint64_t since)
{
    struct map_module module = {.mapping = *mapping,
                                .file = copy_text(mapping->file),
                                .build_id = copy_text(mapping->build_id),
                                .since = since};
    unescape(module.file);
    map->module = heap_realloc(map->module, map->n_modules + 1, sizeof *map->module);
    map->module[map->n_modules++] = module;
}

static bool lies_in(uint64_t address, uint64_t start, uint64_t limit)
{
    return address >= start && address < limit;
}

/* I1. */
static size_t find_module(const struct address_map *map, uint64_t address, uint64_t number)
{
    size_t youngest = NONE, later = NONE;
    for (size_t i = 0; i < map->n_modules; i++) {
        const struct map_module *module = &map->module[i];
        if (!lies_in(address, module->mapping.start, module->mapping.limit))
            continue;
        if (module->since <= number && (youngest == NONE || module->since >= map->module[youngest].since))
            youngest = i;
        if (module->since > number && (later == NONE || module->since < map->module[later].since))
            later = i;
    }
    return youngest != NONE ? youngest : later;
}

static size_t find_line(const struct address_map *map, uint64_t address)
{
    for (size_t i = 0; i < map->n_lines; i++)
        if (lies_in(address, map->line[i].start, map->line[i].limit))
            return i;
    return NONE;
}

static const char *base_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash == NULL ? path : slash + 1;
}

/* Whether what lies there now is the module, as far as can be seen. The map names a file by its real path, the linker by the one
 * it was asked for: libx.so.1 and libx.so.1.2. */
static bool is_line_of(const struct map_line *line, const struct map_module *module)
{
    const struct heap_mapping *mapping = &module->mapping;
    if (!lies_in(line->start, mapping->start, mapping->limit) || line->file[0] == 0)
        return false;
    if (module->file[0] == 0 || strcmp(line->file, "[vdso]") == 0)
        return true; /* the program, which stays; the vDSO has no file */
    const char *one = base_name(line->file), *other = base_name(module->file);
    size_t stem = strcspn(other, ".");
    return strncmp(one, other, stem) == 0 && (one[stem] == 0 || strchr(".-", one[stem]) != NULL);
}

static uint32_t use(struct address_map *map, struct heap_profile *profile, size_t module, size_t line)
{
    for (size_t i = 0; i < map->n_used; i++)
        if (map->used[i].module == module && map->used[i].line == line)
            return map->used[i].number;
    struct heap_mapping mapping = {.file = "", .build_id = ""};
    if (module != NONE) {
        mapping = map->module[module].mapping;
        mapping.file = map->module[module].file;
        mapping.build_id = map->module[module].build_id;
        mapping.has_bias = true;
    }
    if (line != NONE) {
        const struct map_line *own = &map->line[line];
        mapping.start = own->start;
        mapping.limit = own->limit;
        mapping.offset = own->offset;
        mapping.inode = own->inode;
        mapping.deleted = own->deleted;
        mapping.file = own->file;
    }
    map->used = heap_realloc(map->used, map->n_used + 1, sizeof *map->used);
    map->used[map->n_used++] = (struct used_mapping){module, line, heap_add_mapping(profile, &mapping)};
    return map->used[map->n_used - 1].number;
}

uint32_t address_map_find(struct address_map *map, struct heap_profile *profile, uint64_t address, uint64_t number)
{
    size_t module = find_module(map, address, number), line = find_line(map, address);
    if (module != NONE && line != NONE && !is_line_of(&map->line[line], &map->module[module]))
        line = NONE;
    if (module == NONE && line == NONE)
        return HEAP_NONE;
    if (module == NONE && map->line[line].file[0] == 0)
        return HEAP_NONE; /* code that was made at run time */
    return use(map, profile, module, line);
}

/* The first executable mapping of the program's file: it is the module without a name, or else what lies lowest. */
static size_t find_program(const struct address_map *map, size_t *module)
{
    *module = NONE;
    for (size_t i = 0; i < map->n_modules && *module == NONE; i++)
        if (map->module[i].file[0] == 0)
            *module = i;
    for (size_t i = 0; i < map->n_lines; i++) {
        const struct map_line *line = &map->line[i];
        if (line->executable && line->file[0] == '/' &&
            (*module == NONE ||
             lies_in(line->start, map->module[*module].mapping.start, map->module[*module].mapping.limit)))
            return i;
    }
    return NONE;
}

void address_map_begin(struct address_map *map, struct heap_profile *profile)
{
    size_t module, line = find_program(map, &module);
    if (line == NONE)
        return;
    use(map, profile, module, line);
    profile->program = heap_text(profile, base_name(map->line[line].file));
}
