/* profile_read.h - heap profiles out of files and out of processes.
 */
#ifndef HAKMEM_TOOLS_PROFILE_READ_H
#define HAKMEM_TOOLS_PROFILE_READ_H

#include "heap_profile.h"

#include <stdio.h>

#define READ_WHY_BYTES 512 /* room for any line that says why not */

/* Reads a profile: the library's dump, or what `hakmem profile` wrote in pprof's format, which of the two its first bytes tell.
 * "-" is the standard input. NULL, and one line without a newline in `why`. */
struct heap_profile *profile_read(const char *path, char *why, size_t why_bytes);

/* What a profile knows about itself as the line that the library's dump has, without its "# "; and back. Printing returns the
 * length. */
void profile_read_facts(struct heap_profile *profile, const char *text);
int profile_print_facts(const struct heap_profile *profile, char *text, size_t size_bytes);

/* The modules and mappings that an address can belong to, in the order in which they are told. */
struct address_map;
struct address_map *address_map_new(void);
void address_map_free(struct address_map *map);

/* A line of /proc/PID/maps; false: it is none. */
bool address_map_add_line(struct address_map *map, const char *line);

/* A module that frames lay in from stack number `since` on, whatever else lay there before. */
void address_map_add_module(struct address_map *map, const struct heap_mapping *module, uint64_t since);

/* The mapping that an address of stack number `number` belongs to, as a mapping of the profile; HEAP_NONE. */
uint32_t address_map_find(struct address_map *map, struct heap_profile *profile, uint64_t address, uint64_t number);

/* Makes the program's own file the profile's first mapping, and the profile's name. Before the first address is looked for. */
void address_map_begin(struct address_map *map, struct heap_profile *profile);

#endif
