/* map_files.h - files of tools/ that are part of the command: each is a text without a NUL at its end.
 * Made by    map_files.c, from the files themselves when the command is built.
 */
#ifndef HAKMEM_TOOLS_MAP_FILES_H
#define HAKMEM_TOOLS_MAP_FILES_H

#include <stddef.h>

struct map_file {
    const char *text, *end;
};

extern const struct map_file map_page_html, map_page_css, map_page_js;

#endif
