/* freeze.h - stops another process for a moment, and makes sure that it goes on.
 *
 * By SIGSTOP and SIGCONT: nothing in the process runs in between, and none of its handlers sees it; its parent may be told, as by
 * a terminal's Ctrl-Z. Whatever ends this command, the process continues: at SIGINT and its like by a handler, and even at SIGKILL
 * by a guard, a process of its own that waits for this one's end. One that was stopped already stays so, also if a debugger did it.
 * Of several commands that stop one process each waits until the one before has ended.
 */
#ifndef HAKMEM_TOOLS_FREEZE_H
#define HAKMEM_TOOLS_FREEZE_H

#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

/* Prepares it: one process at a time. Waits for another command that has prepared the same, for at most half a minute. 0; or -1 and
 * a line in `why`. */
int freeze_begin(pid_t pid, char *why, size_t why_bytes);

/* The same; the waiting also ends, in vain, when *interrupted is not 0. */
int freeze_begin_unless(const volatile sig_atomic_t *interrupted, pid_t pid, char *why, size_t why_bytes);

/* Returns 0 when all threads of the process stand still; or -1 and a line: it has ended, or a thread does not stop within two
 * seconds (it is in an uninterruptible wait). */
int freeze_stop(char *why, size_t why_bytes);

/* It goes on, unless it was stopped before freeze_begin. */
void freeze_continue(void);

/* Continues it if need be, and ends the guard. */
void freeze_end(void);

/* Whether a process is stopped, by a signal or a debugger: all of its threads, and not for a moment only. */
bool freeze_stands(pid_t pid);

#endif
