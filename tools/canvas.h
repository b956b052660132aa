/* canvas.h - a rectangle of characters, each with a style: what a terminal will show, before there is a terminal. */
#ifndef HAKMEM_TOOLS_CANVAS_H
#define HAKMEM_TOOLS_CANVAS_H

#include <stdbool.h>
#include <wchar.h>

enum canvas_style {
    CANVAS_PLAIN,
    CANVAS_TITLE,
    CANVAS_LABEL,
    CANVAS_VALUE,
    CANVAS_HEADING,
    CANVAS_SORTED, /* the heading that the rows are sorted by */
    CANVAS_LIVE,
    CANVAS_CACHED,
    CANVAS_FREE,
    CANVAS_WARNING,
    CANVAS_STYLES
};

struct canvas_cell {
    wchar_t glyph; /* takes one column */
    unsigned char style;
};

struct canvas {
    int width, height;
    bool unicode;              /* the terminal shows more than ASCII */
    struct canvas_cell *cells; /* by row, from the top */
};

/* All blank. A size below 1 counts as 1. */
void canvas_begin(struct canvas *canvas, int width, int height, bool unicode);
void canvas_end(struct canvas *canvas);

/* Writes UTF-8 text from a place on, to the right. What lies outside of the canvas is left out; what takes no or two columns, or what
 * the terminal cannot show, becomes '?'. Returns the column behind it. */
int canvas_text(struct canvas *canvas, int row, int column, enum canvas_style style, const char *text);

/* The same, ending before a column. */
void canvas_text_left_of(struct canvas *canvas, int row, int end, enum canvas_style style, const char *text);

/* Gives a part of a row a style, whatever is there. */
void canvas_paint(struct canvas *canvas, int row, int column, int width, enum canvas_style style);

/* The cell at a place inside. */
static inline struct canvas_cell *canvas_at(const struct canvas *canvas, int row, int column)
{
    return &canvas->cells[row * canvas->width + column];
}

#endif
