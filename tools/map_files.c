/* map_files.c - takes the page's template, style and script into the command, as they are.
 * Owns       their bytes.     Called by  map_page.c.
 * Why the assembler's .incbin: it needs no program but the one that assembles, and no C string of a thousand lines. CMake names the
 * directory (MAP_FILES_DIR), and compiles this file again when one of them changes (OBJECT_DEPENDS). */
#include "map_files.h"

#define TAKE(name, file)                                                                                               \
    __asm__(".pushsection .rodata\n"                                                                                   \
            ".global " #name "_begin\n.global " #name "_end\n" #name "_begin:\n.incbin \"" MAP_FILES_DIR "/" file      \
            "\"\n" #name "_end:\n"                                                                                     \
            ".byte 0\n.popsection\n");                                                                                 \
    extern const char name##_begin[], name##_end[];                                                                    \
    const struct map_file name = {name##_begin, name##_end}

TAKE(map_page_html, "map_page.html");
TAKE(map_page_css, "map_page.css");
TAKE(map_page_js, "map_page.js");
