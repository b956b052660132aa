/* run.c - `hakmem run`: start a program on hakmem.
 * Owns       three environment variables of the program: LD_PRELOAD, HAKMEM_TINY_PROFILE, HAKMEM_STATS.
 * Called by  hakmem.c.     Calls  library.c, program.c.     Threads  one.
 * I1  The program replaces this process (execvp), so its exit status, signals, terminal and process id are its own.
 * I2  What was in LD_PRELOAD stays there, behind the library.
 * Why warn and not refuse when preloading cannot work: the program itself runs correctly, only not on hakmem; but in
 * secure mode the dynamic linker is silent about that, and in a static program there is none. */
#define _GNU_SOURCE
#include "tool.h"

#include <errno.h>
#include <getopt.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *const profiles[] = {"conservative", "hot", "off", "full"};

struct run_settings {
    const char *profile; /* NULL: leave HAKMEM_TINY_PROFILE as it is */
    bool stats;
    bool help;
    char **program; /* with its arguments, NULL at the end */
};

static bool profile_is_known(const char *name)
{
    for (size_t i = 0; i < sizeof profiles / sizeof profiles[0]; i++)
        if (strcmp(profiles[i], name) == 0)
            return true;
    return false;
}

static bool check_settings(const struct run_settings *set)
{
    if (set->help)
        return true;
    if (set->profile != NULL && !profile_is_known(set->profile)) {
        tool_complain("unknown profile '%s' (known: conservative, hot, off, full)", set->profile);
        return false;
    }
    if (set->program[0] == NULL) {
        tool_complain("no program to run (see 'hakmem help run')");
        return false;
    }
    return true;
}

/* Returns false after a line on stderr. Parsing stops at the first argument that is no option, the program's name. */
static bool parse_arguments(int argc, char **argv, struct run_settings *set)
{
    static const struct option options[] = {{"profile", required_argument, NULL, 'p'},
                                            {"stats", no_argument, NULL, 's'},
                                            {"help", no_argument, NULL, 'h'},
                                            {NULL, 0, NULL, 0}};
    int option;
    while ((option = getopt_long(argc, argv, "+p:sh", options, NULL)) != -1) {
        if (option == 'p')
            set->profile = optarg;
        else if (option == 's')
            set->stats = true;
        else if (option == 'h')
            set->help = true;
        else
            return false; /* getopt has said why */
    }
    set->program = argv + optind;
    return check_settings(set);
}

/* A `hakmem run` inside another one finds the library in front already. */
static bool is_in_front(const char *library, const char *preload)
{
    const size_t length = strlen(library);
    return strncmp(preload, library, length) == 0 && strchr(": ", preload[length]) != NULL;
}

static int preload(const char *library)
{
    const char *before = getenv("LD_PRELOAD");
    if (before == NULL || before[0] == '\0')
        return setenv("LD_PRELOAD", library, 1);
    if (is_in_front(library, before))
        return 0;
    char *both;
    if (asprintf(&both, "%s:%s", library, before) < 0)
        return -1;
    const int result = setenv("LD_PRELOAD", both, 1);
    free(both);
    return result;
}

/* Returns false after a line on stderr. The dynamic linker splits LD_PRELOAD at colons and spaces and knows no quoting. */
static bool find_library(char *path, size_t size_bytes)
{
    if (library_find(path, size_bytes) != 0) {
        char places[4 * PATH_MAX];
        library_places(places, sizeof places);
        tool_complain("libhakmem.so not found in %s", places);
        return false;
    }
    if (strpbrk(path, ": ") != NULL) {
        tool_complain("%s cannot be preloaded: its path contains a colon or a space", path);
        return false;
    }
    return true;
}

static bool prepare_environment(const struct run_settings *set, const char *library)
{
    if (preload(library) == 0 && (set->profile == NULL || setenv("HAKMEM_TINY_PROFILE", set->profile, 1) == 0) &&
        (!set->stats || setenv("HAKMEM_STATS", "1", 1) == 0))
        return true;
    tool_complain("cannot set the environment: %s", strerror(errno));
    return false;
}

/* A sanitizer's runtime brings a malloc that must serve the program: it refuses to run behind another, or crashes. */
static bool steps_aside(const char *name)
{
    char path[PATH_MAX];
    if (program_find(name, path, sizeof path) != 0 || !program_has_sanitizer(path))
        return false;
    tool_complain("%s is built with a sanitizer, whose malloc it needs: it runs without hakmem", path);
    return true;
}

static void warn_of_obstacle(const char *name)
{
    char path[PATH_MAX];
    if (program_find(name, path, sizeof path) != 0)
        return; /* execvp will say so */
    const char *obstacle = program_preload_obstacle(path);
    if (obstacle != NULL)
        tool_complain("warning: %s %s: it will not run on hakmem", path, obstacle);
}

static int run_main(int argc, char **argv)
{
    struct run_settings set = {0};
    char library[PATH_MAX];
    if (!parse_arguments(argc, argv, &set))
        return TOOL_USAGE;
    if (set.help) {
        fputs(run_command.help, stdout);
        return tool_finish_output();
    }
    if (!steps_aside(set.program[0])) {
        if (!find_library(library, sizeof library) || !prepare_environment(&set, library))
            return TOOL_OWN_ERROR;
        warn_of_obstacle(set.program[0]);
    }
    execvp(set.program[0], set.program);
    const int status = errno == ENOENT ? TOOL_NOT_FOUND : TOOL_NOT_EXECUTABLE;
    tool_complain("%s: %s", set.program[0], strerror(errno));
    return status;
}

const struct tool_command run_command = {
    "run", run_main, "start a program on hakmem",
    "usage: hakmem run [--profile NAME] [--stats] [--] PROGRAM [ARGUMENT]...\n"
    "\n"
    "Starts PROGRAM with the hakmem library preloaded, so that it and the programs\n"
    "it starts allocate through hakmem. PROGRAM takes the place of this command: its\n"
    "exit status and its signals are its own.\n"
    "\n"
    "  -p, --profile NAME  route small blocks by the profile conservative, hot, off\n"
    "                      or full (sets HAKMEM_TINY_PROFILE)\n"
    "  -s, --stats         print a summary on stderr when PROGRAM ends (sets\n"
    "                      HAKMEM_STATS=1)\n"
    "  -h, --help          show this text\n"
    "\n"
    "The library is libhakmem.so, looked for beside this command, in ../lib relative\n"
    "to it, and where it was installed. It goes in front of what LD_PRELOAD holds.\n"
    "Setuid and statically linked programs cannot be preloaded into: they run without\n"
    "hakmem, after a warning. So do programs that need a sanitizer's runtime library\n"
    "(gcc -fsanitize=address or thread), which brings a malloc of its own.\n"
    "\n"
    "Exit status, when it is not PROGRAM's:\n"
    "  2    wrong options or arguments\n"
    "  125  the library was not found or cannot be preloaded\n"
    "  126  PROGRAM cannot be executed\n"
    "  127  PROGRAM was not found\n"};
