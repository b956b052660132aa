/* top.h - the parts of `hakmem top`: two that print, one that lays out, one that runs the terminal. */
#ifndef HAKMEM_TOOLS_TOP_H
#define HAKMEM_TOOLS_TOP_H

#include "canvas.h"
#include "figures.h"
#include "watch.h"

#include <stdbool.h>
#include <stdio.h>

/* ---- Prints ------------------------------------------------------------------------------------------------------ */

/* Everything as text: a figure a line, then the classes and the threads as tables. Numbers are whole, fields are separated by
 * blanks, the first word of a line says what it is. The figures must be in the order that they were made in. */
void top_print_text(FILE *out, const struct figures *figures);

/* Everything as one JSON object in one line. Numbers above 2^63 - 1 are given as that. */
void top_print_json(FILE *out, const struct figures *figures);

/* ---- The view ---------------------------------------------------------------------------------------------------- */

/* What the keys have set, and what is said. */
struct top_view {
    bool threads; /* the table of threads, else of classes */
    enum figures_class_column class_column;
    enum figures_thread_column thread_column;
    bool class_ascending, thread_ascending;
    size_t scroll; /* first row shown */
    bool paused, help;
    double every_s;
    const char *message; /* in place of the keys; NULL: none */
};

/* Draws the view in the size of the canvas, whatever that is. The figures' rows get the order of the view, and view->scroll is
 * brought into what there is. Returns the number of rows of the table that are visible. */
size_t top_draw(struct canvas *canvas, struct figures *figures, struct top_view *view);

/* ---- The terminal ------------------------------------------------------------------------------------------------ */

/* Shows the process until a key ends it, the process ends, or a signal comes; watch has a sample already.
 * Returns an exit status; *ended says that the process is gone. The terminal is as it was before. */
int top_run_screen(struct watch *watch, double every_s, bool *ended);

#endif
