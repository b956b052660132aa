/* hakmem.c - the hakmem command: finds the subcommand in a table and calls it.
 * Owns       the table of subcommands, the help and version texts.
 * Called by  people and scripts.     Calls  the subcommands.     Threads  one.
 * I1  A subcommand gets argv[0] "hakmem NAME" and a fresh getopt state, and owns its options.
 * Why a table: a new subcommand is one row here and one file beside this one. */
#define _GNU_SOURCE
#include "tool.h"

#include "hakmem/hakmem.h"
#include "service/config.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <stdio.h>
#include <string.h>

#define TEXT_OF(number) #number
#define VERSION_TEXT(major, minor, patch) TEXT_OF(major) "." TEXT_OF(minor) "." TEXT_OF(patch)

static int help_main(int argc, char **argv);

static const struct tool_command help_command = {
    "help", help_main, "explain a command",
    "usage: hakmem help [COMMAND|variables]\n"
    "\n"
    "Lists the commands, explains one, or lists the variables that the library reads.\n"};

static const struct tool_command *const commands[] = {&run_command,  &top_command,   &map_command,     &profile_command,
                                                      &diff_command, &check_command, &metrics_command, &help_command};

enum { N_COMMANDS = sizeof commands / sizeof commands[0] };

static const struct tool_command *find_command(const char *name)
{
    for (int i = 0; i < N_COMMANDS; i++)
        if (strcmp(commands[i]->name, name) == 0)
            return commands[i];
    tool_complain("no command '%s' (see 'hakmem --help')", name);
    return NULL;
}

static void print_overview(FILE *out)
{
    fputs("usage: hakmem COMMAND [ARGUMENT]...\n"
          "       hakmem --help | --version\n"
          "\n"
          "Commands:\n",
          out);
    for (int i = 0; i < N_COMMANDS; i++)
        fprintf(out, "  %-9s %s\n", commands[i]->name, commands[i]->summary);
    fputs("\n'hakmem help COMMAND' explains a command, 'hakmem help variables' what the library reads when a process "
          "starts.\n",
          out);
}

static void print_variables(FILE *out)
{
    const struct config_help *row;
    for (size_t i = 0; (row = config_help_row(i)) != NULL; i++)
        fprintf(out, "%s%s=%s\n    %s\n    default: %s\n", i == 0 ? "" : "\n", row->name, row->values, row->meaning,
                row->standard);
}

static int help_main(int argc, char **argv)
{
    if (argc > 2) {
        tool_complain("'hakmem help' takes one command");
        return TOOL_USAGE;
    }
    if (argc < 2) {
        print_overview(stdout);
        return tool_finish_output();
    }
    if (strcmp(argv[1], "variables") == 0) {
        print_variables(stdout);
        return tool_finish_output();
    }
    const struct tool_command *command = find_command(argv[1]);
    if (command == NULL)
        return TOOL_USAGE;
    fputs(command->help, stdout);
    return tool_finish_output();
}

static int call_command(int argc, char **argv)
{
    const struct tool_command *command = find_command(argv[0]);
    if (command == NULL)
        return TOOL_USAGE;
    char name[32];
    snprintf(name, sizeof name, "hakmem %s", command->name);
    argv[0] = name;
    optind = 0; /* getopt starts afresh */
    return command->main(argc, argv);
}

static int print_version(void)
{
    puts("hakmem " VERSION_TEXT(HAKMEM_VERSION_MAJOR, HAKMEM_VERSION_MINOR, HAKMEM_VERSION_PATCH));
    return tool_finish_output();
}

/* Fills what is closed of the descriptors 0, 1 and 2, so that no file that is opened later, like a process's memory, is taken for
 * the output. What is written or read there fails as it would have, and a program that is run finds them closed as before. */
static bool fill_standard_descriptors(void)
{
    for (int fd = 0; fd <= 2; fd++)
        if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", (fd == 0 ? O_WRONLY : O_RDONLY) | O_CLOEXEC) != fd)
            return false;
    return true;
}

int main(int argc, char **argv)
{
    static char name[] = "hakmem";
    static const struct option options[] = {
        {"help", no_argument, NULL, 'h'}, {"version", no_argument, NULL, 'V'}, {NULL, 0, NULL, 0}};
    if (!fill_standard_descriptors()) {
        tool_complain("standard input, output or error is closed, and /dev/null cannot be opened: %s", strerror(errno));
        return TOOL_USAGE;
    }
    if (argc > 0)
        argv[0] = name; /* getopt puts it before its messages */
    switch (getopt_long(argc, argv, "+hV", options, NULL)) {
    case 'h':
        print_overview(stdout);
        return tool_finish_output();
    case 'V':
        return print_version();
    case '?':
        return TOOL_USAGE; /* getopt has said why */
    default:
        break;
    }
    if (optind < argc)
        return call_command(argc - optind, argv + optind);
    print_overview(stderr);
    return TOOL_USAGE;
}
