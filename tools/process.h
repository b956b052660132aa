/* process.h - which process people mean, and its threads' names as /proc has them. */
#ifndef HAKMEM_TOOLS_PROCESS_H
#define HAKMEM_TOOLS_PROCESS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* The process that a command is about: by the text of its number, or, if name is not NULL, by its name (target_find_by_name).
 * Returns false after a line on stderr. */
bool process_choose(const char *number, const char *name, pid_t *pid);

struct process_thread {
    int32_t thread_id; /* as the process itself sees it, in its own pid namespace */
    char name[16];
};

/* The process's threads, in ascending order of thread_id, for free(). Returns their number; 0 and NULL when nothing can be read. */
size_t process_threads(pid_t pid, struct process_thread **out);

/* The name of a thread among those, or NULL. */
const char *process_thread_name(const struct process_thread *threads, size_t n_threads, int32_t thread_id);

#endif
