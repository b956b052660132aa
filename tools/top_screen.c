/* top_screen.c - the terminal of `hakmem top`: keys, time, signals, and the canvas onto the screen by ncurses.
 * Owns       the terminal while top_run_screen runs, the handlers of signals that end or stop the command.
 * Called by  top.c     Calls  watch.c, top_layout.c, canvas.c, ncurses.     Threads  one.
 * I1  The terminal is given back before this command ends, however it ends: by a key, by the process's end, by exit() in some
 *     helper, by a signal that asks it to end, or by a fault of its own. Against SIGKILL nothing helps.
 * I2  Signals are blocked but for the wait in ppoll, so none comes between a look at the flag and the wait.
 * Why wait outside of ncurses: its getch may go on waiting after a signal.
 */
#define _GNU_SOURCE
#define NCURSES_WIDECHAR 1
#include "top.h"

#include "clock.h"
#include "tool.h"

#include <curses.h>
#include <errno.h>
#include <langinfo.h>
#include <locale.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <term.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

static const int ending_signals[] = {SIGTERM, SIGINT, SIGHUP, SIGQUIT};
static const int fatal_signals[] = {SIGSEGV, SIGBUS, SIGABRT, SIGFPE, SIGILL};
enum {
    SECOND_NS = 1000000000,
    MAX_CELLS = 2000, /* rows or columns */
    N_ENDING = sizeof ending_signals / sizeof ending_signals[0],
    N_FATAL = sizeof fatal_signals / sizeof fatal_signals[0]
};

/* ---- The terminal is given back ------------------------------------------------------------------------------------ */

static volatile sig_atomic_t signal_that_ends;
static bool screen_is_on;
static SCREEN *screen;
static int columns_asked_for, lines_asked_for; /* by the user's variables; 0: not */
static struct termios modes_before;
static char leave_text[128]; /* what makes the terminal as it was: for the handler of faults */
static size_t leave_length;

static void on_ending_signal(int number)
{
    signal_that_ends = number;
}

/* Async-signal-safe: two system calls. The signal then does what it would have done. */
static void on_fault(int number)
{
    if (screen_is_on && write(STDOUT_FILENO, leave_text, leave_length) >= 0)
        tcsetattr(STDIN_FILENO, TCSANOW, &modes_before);
    signal(number, SIG_DFL);
    raise(number);
}

static void leave_screen(void)
{
    if (!screen_is_on)
        return;
    screen_is_on = false;
    endwin();
}

static bool has_capability(const char *name)
{
    const char *text = tigetstr(name);
    return text != NULL && text != (char *)-1;
}

static void append_capability(const char *name)
{
    const char *text = tigetstr(name);
    if (!has_capability(name) || leave_length + strlen(text) > sizeof leave_text)
        return;
    memcpy(leave_text + leave_length, text, strlen(text));
    leave_length += strlen(text);
}

static void note_how_to_leave(void)
{
    leave_length = 0;
    append_capability("sgr0");
    append_capability("rmkx");
    append_capability("cnorm");
    append_capability("rmcup");
}

static void install_handlers(sigset_t *while_waiting)
{
    struct sigaction ending = {.sa_handler = on_ending_signal}, fatal = {.sa_handler = on_fault};
    sigset_t blocked;
    sigemptyset(&blocked);
    for (int i = 0; i < N_ENDING; i++) {
        sigaction(ending_signals[i], &ending, NULL);
        sigaddset(&blocked, ending_signals[i]);
    }
    for (int i = 0; i < N_FATAL; i++)
        sigaction(fatal_signals[i], &fatal, NULL);
    sigaddset(&blocked, SIGWINCH);
    sigprocmask(SIG_BLOCK, &blocked, while_waiting);
}

static bool has_colours;

static void choose_colours(void)
{
    has_colours = has_colors() && tool_may_use_colors();
    if (!has_colours)
        return;
    start_color();
    use_default_colors();
    init_pair(CANVAS_LIVE, COLOR_GREEN, -1);
    init_pair(CANVAS_CACHED, COLOR_YELLOW, -1);
    init_pair(CANVAS_WARNING, COLOR_RED, -1);
    init_pair(CANVAS_LABEL, COLOR_CYAN, -1);
}

/* What the user's COLUMNS or LINES say; 0, and they are forgotten, if that is a size that no terminal has. */
static int read_size(const char *variable)
{
    const char *text = getenv(variable);
    char *end;
    const long n = text == NULL ? 0 : strtol(text, &end, 10);
    if (text != NULL && (end == text || *end != '\0' || n < 1 || n > MAX_CELLS)) {
        unsetenv(variable);
        return 0;
    }
    return (int)n;
}

/* A size, as a variable for ncurses. 0: it is not known, and ncurses goes by the terminal's type. */
static int tell_size(const char *variable, int asked_for, int real)
{
    char text[16];
    const int n = asked_for != 0 ? asked_for : real < MAX_CELLS ? real : MAX_CELLS;
    snprintf(text, sizeof text, "%d", n);
    if (n != 0)
        setenv(variable, text, 1);
    return n;
}

/* Has ncurses take the size of the terminal, or that of the user's variables. It is told by the variables, which it prefers to what
 * the terminal says, at the start as after Ctrl-Z: of 32,767 rows and columns it would make gigabytes, of more it dies. */
static void follow_size(void)
{
    struct winsize size = {0}; /* all 0 where the terminal does not say */
    ioctl(STDOUT_FILENO, TIOCGWINSZ, &size);
    const int n_columns = tell_size("COLUMNS", columns_asked_for, size.ws_col);
    const int n_lines = tell_size("LINES", lines_asked_for, size.ws_row);
    if (screen_is_on && n_columns != 0 && n_lines != 0 && is_term_resized(n_lines, n_columns))
        resizeterm(n_lines, n_columns);
}

/* Returns false after a line on stderr: the terminal cannot do it. */
static bool enter_screen(void)
{
    const char *type = getenv("TERM");
    int result;
    tcgetattr(STDIN_FILENO, &modes_before);
    columns_asked_for = read_size("COLUMNS");
    lines_asked_for = read_size("LINES");
    follow_size();
    if (setupterm(NULL, STDOUT_FILENO, &result) == OK && !has_capability("cup")) { /* one of paper, or "dumb" */
        tool_complain("the terminal '%s' cannot move its cursor; --once prints without it", type == NULL ? "" : type);
        return false;
    }
    screen = newterm(NULL, stdout, stdin);
    if (screen == NULL) {
        tool_complain("the terminal '%s' is not known to ncurses; --once prints without it", type == NULL ? "" : type);
        return false;
    }
    screen_is_on = true;
    atexit(leave_screen);
    note_how_to_leave();
    cbreak();
    noecho();
    nodelay(stdscr, TRUE);
    keypad(stdscr, TRUE);
    set_escdelay(25);
    curs_set(0);
    choose_colours();
    return true;
}

/* ---- The canvas onto the screen -------------------------------------------------------------------------------------- */

static attr_t attributes_of(enum canvas_style style)
{
    static const attr_t attributes[CANVAS_STYLES] = {[CANVAS_TITLE] = A_BOLD,      [CANVAS_VALUE] = A_BOLD,
                                                     [CANVAS_HEADING] = A_REVERSE, [CANVAS_SORTED] = A_REVERSE | A_BOLD,
                                                     [CANVAS_FREE] = A_DIM,        [CANVAS_WARNING] = A_BOLD};
    const bool coloured =
        style == CANVAS_LIVE || style == CANVAS_CACHED || style == CANVAS_WARNING || style == CANVAS_LABEL;
    return attributes[style] | (coloured && has_colours ? (attr_t)COLOR_PAIR((int)style) : 0);
}

/* Cells of one style go out together. */
static void show_row(const struct canvas *canvas, int row)
{
    wchar_t text[512];
    for (int column = 0; column < canvas->width;) {
        const struct canvas_cell *first = canvas_at(canvas, row, column);
        int n = 0;
        while (column + n < canvas->width && n < 512 && first[n].style == first[0].style) {
            text[n] = first[n].glyph;
            n++;
        }
        attrset((int)attributes_of((enum canvas_style)first->style));
        mvaddnwstr(row, column, text, n);
        column += n;
    }
}

static size_t show(struct watch *watch, struct top_view *view)
{
    struct canvas canvas;
    canvas_begin(&canvas, COLS, LINES, strcmp(nl_langinfo(CODESET), "UTF-8") == 0);
    const size_t n_visible = top_draw(&canvas, &watch->figures, view);
    for (int row = 0; row < canvas.height; row++)
        show_row(&canvas, row);
    refresh();
    canvas_end(&canvas);
    return n_visible;
}

/* ---- Keys -------------------------------------------------------------------------------------------------------- */

static void choose_column(struct top_view *view, int step)
{
    if (view->threads)
        view->thread_column =
            (enum figures_thread_column)((int)view->thread_column + THREAD_COLUMNS + step) % THREAD_COLUMNS;
    else
        view->class_column =
            (enum figures_class_column)((int)view->class_column + CLASS_COLUMNS + step) % CLASS_COLUMNS;
    view->scroll = 0;
}

static void turn_order(struct top_view *view)
{
    bool *ascending = view->threads ? &view->thread_ascending : &view->class_ascending;
    *ascending = !*ascending;
    view->scroll = 0;
}

/* Rows up, if negative, or down. The layout limits it at the end. */
static void scroll_rows(struct top_view *view, long rows)
{
    view->scroll = rows < 0 && view->scroll < (size_t)-rows ? 0 : view->scroll + (size_t)rows;
}

static void scroll_by_key(struct top_view *view, int key, size_t n_visible)
{
    const long page = n_visible > 1 ? (long)n_visible - 1 : 1;
    if (key == KEY_UP || key == 'k')
        scroll_rows(view, -1);
    else if (key == KEY_DOWN || key == 'j')
        scroll_rows(view, 1);
    else if (key == KEY_PPAGE)
        scroll_rows(view, -page);
    else if (key == KEY_NPAGE)
        scroll_rows(view, page);
    else if (key == KEY_HOME || key == 'g')
        view->scroll = 0;
    else if (key == KEY_END || key == 'G')
        view->scroll = SIZE_MAX / 2;
}

/* Returns false when the key ends the view. */
static bool obey(struct top_view *view, int key, size_t n_visible)
{
    if (view->help && key != KEY_RESIZE) {
        view->help = false;
        return key != 'q';
    }
    switch (key) {
    case 'q':
        return false;
    case 'h':
    case '?':
        view->help = true;
        break;
    case 'p':
    case ' ':
        view->paused = !view->paused;
        break;
    case 't':
    case '\t':
        view->threads = !view->threads;
        view->scroll = 0;
        break;
    case 's':
        choose_column(view, 1);
        break;
    case 'S':
        choose_column(view, -1);
        break;
    case 'r':
        turn_order(view);
        break;
    default:
        scroll_by_key(view, key, n_visible);
    }
    return true;
}

/* ---- Time -------------------------------------------------------------------------------------------------------- */

/* Waits for a key, a signal or the moment, and a second at most. Returns false when the terminal has gone. */
static bool wait_until(int64_t moment_ns, const sigset_t *while_waiting)
{
    struct pollfd keys = {.fd = STDIN_FILENO, .events = POLLIN};
    const int64_t left_ns = moment_ns - clock_now_ns();
    struct timespec left = {.tv_sec = 1};
    if (left_ns < SECOND_NS)
        left = (struct timespec){.tv_nsec = left_ns > 0 ? left_ns : 0};
    if (ppoll(&keys, 1, &left, while_waiting) < 0)
        return errno == EINTR;
    return (keys.revents & (POLLHUP | POLLERR | POLLNVAL)) == 0;
}

/* Takes the next sample when it is due. Returns false when the process is gone. */
static bool sample_if_due(struct watch *watch, struct top_view *view, int64_t *due_ns)
{
    if (view->paused || clock_now_ns() < *due_ns)
        return watch_is_alive(watch);
    *due_ns = clock_now_ns() + (int64_t)(view->every_s * SECOND_NS);
    const enum watch_result result = watch_sample(watch, 0); /* the next one comes soon */
    view->message = result == WATCH_FAILED ? watch->why : NULL;
    return result != WATCH_ENDED;
}

static void end_by_signal(void)
{
    leave_screen();
    signal(signal_that_ends, SIG_DFL);
    sigset_t one;
    sigemptyset(&one);
    sigaddset(&one, signal_that_ends);
    raise(signal_that_ends);
    sigprocmask(SIG_UNBLOCK, &one, NULL);
}

int top_run_screen(struct watch *watch, double every_s, bool *ended)
{
    struct top_view view = {
        .every_s = every_s, .class_column = CLASS_COLUMN_MEMORY, .thread_column = THREAD_COLUMN_CACHED};
    sigset_t while_waiting;
    *ended = false;
    setlocale(LC_CTYPE, "");
    if (!enter_screen())
        return TOOL_USAGE;
    install_handlers(&while_waiting);
    int64_t due_ns = clock_now_ns() + (int64_t)(every_s * SECOND_NS);
    bool goes_on = true;
    while (goes_on && !*ended && signal_that_ends == 0) {
        follow_size();
        const size_t n_visible = show(watch, &view);
        goes_on = wait_until(view.paused ? INT64_MAX : due_ns, &while_waiting);
        for (int key; goes_on && (key = getch()) != ERR;)
            goes_on = obey(&view, key, n_visible);
        *ended = goes_on && signal_that_ends == 0 && !sample_if_due(watch, &view, &due_ns);
    }
    leave_screen();
    sigprocmask(SIG_SETMASK, &while_waiting, NULL);
    if (signal_that_ends != 0)
        end_by_signal();
    return TOOL_OK;
}
