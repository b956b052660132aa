/* pages.h - the files of pages/, which the build puts into this program as texts. */
#ifndef HAKMEM_TOOLS_PAGES_H
#define HAKMEM_TOOLS_PAGES_H

extern const char page_flame_css[], page_flame_html[], page_flame_js[], page_flame_svg[];
extern const char page_map_css[], page_map_html[], page_map_js[];

#endif
