/* tool.h - what the files of the hakmem command share.
 *
 * The command is a table of subcommands (hakmem.c), one or several files each, on top of helpers that know where the library
 * is (library.c), what kind of program a file holds (program.c), how to open another process (target.c) and how to say what is
 * wrong (tool.c). It does not link the library. */
#ifndef HAKMEM_TOOL_H
#define HAKMEM_TOOL_H

#include <stdbool.h>
#include <stddef.h>

/* Exit statuses. The last three are those of env(1), nohup(1) and timeout(1), so that they can be told from a status
 * of the program that was run. */
enum tool_status {
    TOOL_OK = 0,
    TOOL_FAILED = 1,
    TOOL_USAGE = 2,            /* wrong options or arguments */
    TOOL_OWN_ERROR = 125,      /* the library is missing or cannot be preloaded */
    TOOL_NOT_EXECUTABLE = 126, /* the program exists and cannot be executed */
    TOOL_NOT_FOUND = 127       /* the program does not exist */
};

struct tool_command {
    const char *name;
    int (*main)(int argc, char **argv); /* argv[0] is "hakmem NAME"; returns the exit status */
    const char *summary;                /* one line, for the list of commands */
    const char *help;                   /* whole text, for `hakmem help NAME` */
};

extern const struct tool_command run_command, top_command, map_command, profile_command, diff_command, check_command,
    metrics_command;

/* Writes one line to stderr, "hakmem: " and the message. Control characters in that are shown as '?': names in it may be another
 * process's choice. */
void tool_complain(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* Flushes stdout. Returns TOOL_OK, or TOOL_FAILED after a line on stderr when what was printed did not arrive. */
int tool_finish_output(void);

/* False: the user's NO_COLOR asks for no colours where no option asks for any (https://no-color.org). */
bool tool_may_use_colors(void);

/* As reallocarray; ends the command with a line on stderr and status TOOL_FAILED when there is no memory. */
void *tool_reallocate(void *block, size_t count, size_t size_bytes);

/* Writes the absolute path of the library into path.
 * Returns    0, or -1 when no library is at any of the places where it may be. */
int library_find(char *path, size_t size_bytes);

/* Writes the places where library_find looks, separated by commas; cut to size_bytes. */
void library_places(char *text, size_t size_bytes);

/* Writes the path of the file that execvp would execute for name into path.
 * Returns    0, or -1 when there is none. */
int program_find(const char *name, char *path, size_t size_bytes);

/* Why the dynamic linker will not preload a library into the program at path: a constant string that completes
 * "the program ...". NULL when nothing stands in the way, or when that cannot be told. */
const char *program_preload_obstacle(const char *path);

/* Whether the program at path needs the runtime library of a sanitizer that brings its own malloc. False, too, when that cannot
 * be told. */
bool program_has_sanitizer(const char *path);

#endif
