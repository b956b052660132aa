/* process.c - see process.h.
 * Owns       nothing; reads /proc.     Called by  check.c, figures.c, metrics.c, top.c, watch.c     Calls  target.c, tool.c     Threads  one.
 * I1  What cannot be read counts as not there: names are an ornament.
 * Why namespaces: the heap's records have thread ids as the process sees them; /proc has them as we do. */
#define _GNU_SOURCE
#include "process.h"

#include "target.h"
#include "tool.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { NAME_BYTES = 16, DIRECTORY_BYTES = 64, PATH_BYTES = DIRECTORY_BYTES + 16, STATUS_BYTES = 4096 };

/* Reads "1234". Returns false when the text is no process id. */
static bool parse_pid(const char *text, pid_t *pid)
{
    char *end;
    if (!isdigit((unsigned char)text[0]))
        return false;
    errno = 0;
    const long number = strtol(text, &end, 10);
    if (errno != 0 || *end != '\0' || number < 1 || number > INT_MAX)
        return false;
    *pid = (pid_t)number;
    return true;
}

bool process_choose(const char *number, const char *name, pid_t *pid)
{
    char why[TARGET_WHY_BYTES];
    if (name == NULL) {
        if (parse_pid(number, pid))
            return true;
        tool_complain("'%s' is no process id", number);
        return false;
    }
    *pid = target_find_by_name(name, why, sizeof why);
    if (*pid <= 0)
        tool_complain("%s", why);
    return *pid > 0;
}

/* Reads the beginning of a small file. Returns false, and an empty text, when that fails. */
static bool read_text(const char *path, char *text, size_t size_bytes)
{
    const int file = open(path, O_RDONLY | O_CLOEXEC);
    const ssize_t length = file < 0 ? -1 : read(file, text, size_bytes - 1);
    if (file >= 0)
        close(file);
    text[length > 0 ? length : 0] = '\0';
    return length > 0;
}

/* /proc/PID/comm or that of a thread: the name and a newline. The name may have newlines of its own. */
static bool read_name(const char *directory, char name[NAME_BYTES])
{
    char path[PATH_BYTES], text[NAME_BYTES + 2];
    snprintf(path, sizeof path, "%s/comm", directory);
    if (!read_text(path, text, sizeof text))
        return false;
    char *newline = strrchr(text, '\n');
    if (newline != NULL)
        *newline = '\0';
    snprintf(name, NAME_BYTES, "%.15s", text);
    return true;
}

/* ---- Its threads -------------------------------------------------------------------------------------------------- */

/* The last of the numbers in the line "NSpid: 4242 17": the innermost namespace's. Returns fallback when there is no such line. */
static int32_t read_inner_id(const char *directory, int32_t fallback)
{
    char path[PATH_BYTES], text[STATUS_BYTES];
    snprintf(path, sizeof path, "%s/status", directory);
    const char *line = read_text(path, text, sizeof text) ? strstr(text, "\nNSpid:") : NULL;
    if (line == NULL)
        return fallback;
    const size_t length = strcspn(line + 1, "\n");
    const char *last = line + length;
    while (last > line && isdigit((unsigned char)*last))
        last--;
    return (int32_t)strtol(last, NULL, 10);
}

static int by_id(const void *a, const void *b)
{
    const int32_t first = ((const struct process_thread *)a)->thread_id;
    const int32_t second = ((const struct process_thread *)b)->thread_id;
    return (first > second) - (first < second);
}

static size_t add_thread(struct process_thread **threads, size_t n, size_t *room, const struct process_thread *thread)
{
    if (n == *room) {
        *room = *room == 0 ? 64 : 2 * *room;
        *threads = tool_reallocate(*threads, *room, sizeof **threads);
    }
    (*threads)[n] = *thread;
    return n + 1;
}

size_t process_threads(pid_t pid, struct process_thread **out)
{
    char path[PATH_BYTES], directory[DIRECTORY_BYTES];
    size_t n = 0, room = 0;
    *out = NULL;
    snprintf(directory, sizeof directory, "/proc/%d", (int)pid);
    const bool elsewhere = read_inner_id(directory, pid) != pid;
    snprintf(path, sizeof path, "/proc/%d/task", (int)pid);
    DIR *task = opendir(path);
    for (struct dirent *entry; task != NULL && (entry = readdir(task)) != NULL;) {
        pid_t id;
        struct process_thread thread;
        if (!parse_pid(entry->d_name, &id))
            continue;
        snprintf(directory, sizeof directory, "/proc/%d/task/%d", (int)pid, (int)id);
        thread.thread_id = elsewhere ? read_inner_id(directory, id) : id;
        if (read_name(directory, thread.name))
            n = add_thread(out, n, &room, &thread);
    }
    if (task != NULL)
        closedir(task);
    if (n != 0)
        qsort(*out, n, sizeof **out, by_id);
    return n;
}

const char *process_thread_name(const struct process_thread *threads, size_t n_threads, int32_t thread_id)
{
    const struct process_thread key = {.thread_id = thread_id};
    const struct process_thread *found =
        n_threads == 0 ? NULL : bsearch(&key, threads, n_threads, sizeof *threads, by_id);
    return found == NULL ? NULL : found->name;
}
