/* canvas.c - see canvas.h.
 * Owns       the cells.     Called by  top_layout.c, top_screen.c     Calls  tool.c.     Threads  one.
 * I1  Each cell holds a glyph of one column, so that the columns of the canvas are those of the terminal.
 * Why not draw into ncurses at once: so the whole view is a function of its data, and tests look at it in any size.
 */
#define _GNU_SOURCE
#include "canvas.h"

#include "tool.h"

#include <stdlib.h>

void canvas_begin(struct canvas *canvas, int width, int height, bool unicode)
{
    canvas->width = width < 1 ? 1 : width;
    canvas->height = height < 1 ? 1 : height;
    canvas->unicode = unicode;
    const size_t n = (size_t)canvas->width * (size_t)canvas->height;
    canvas->cells = tool_reallocate(NULL, n, sizeof *canvas->cells);
    for (size_t i = 0; i < n; i++)
        canvas->cells[i] = (struct canvas_cell){L' ', CANVAS_PLAIN};
}

void canvas_end(struct canvas *canvas)
{
    free(canvas->cells);
    canvas->cells = NULL;
}

/* Takes one character off the text, which is valid UTF-8; a byte that is not counts as itself. */
static wchar_t next_character(const unsigned char **text)
{
    const unsigned char first = *(*text)++;
    const int n_more = first < 0xc0 ? 0 : first < 0xe0 ? 1 : first < 0xf0 ? 2 : 3;
    wchar_t character = n_more == 0 ? first : first & (0x3f >> n_more);
    for (int i = 0; i < n_more && (**text & 0xc0) == 0x80; i++)
        character = (wchar_t)(character << 6 | (*(*text)++ & 0x3f));
    return character;
}

static wchar_t showable(const struct canvas *canvas, wchar_t character)
{
    if (character >= L' ' && character <= L'~')
        return character;
    return canvas->unicode && wcwidth(character) == 1 ? character : L'?';
}

int canvas_text(struct canvas *canvas, int row, int column, enum canvas_style style, const char *text)
{
    for (const unsigned char *at = (const unsigned char *)text; *at != '\0'; column++) {
        const wchar_t glyph = showable(canvas, next_character(&at));
        if (row >= 0 && row < canvas->height && column >= 0 && column < canvas->width)
            *canvas_at(canvas, row, column) = (struct canvas_cell){glyph, (unsigned char)style};
    }
    return column;
}

void canvas_text_left_of(struct canvas *canvas, int row, int end, enum canvas_style style, const char *text)
{
    int width = 0;
    for (const unsigned char *at = (const unsigned char *)text; *at != '\0'; width++)
        next_character(&at);
    canvas_text(canvas, row, end - width, style, text);
}

void canvas_paint(struct canvas *canvas, int row, int column, int width, enum canvas_style style)
{
    for (int i = column < 0 ? 0 : column; row >= 0 && row < canvas->height && i < column + width && i < canvas->width;
         i++)
        canvas_at(canvas, row, i)->style = (unsigned char)style;
}
