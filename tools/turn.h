/* turn.h - commands wait for each other where two at a time would disturb one process.
 */
#ifndef HAKMEM_TOOLS_TURN_H
#define HAKMEM_TOOLS_TURN_H

#include <signal.h>
#include <sys/types.h>

/* One command at a time does something to a process, and the others wait for their turn. The lock goes with who holds it, whatever
 * ends them; a child of fork holds it, too. Where both are held, TURN_TO_ASK was taken first. */
#define TURN_TO_ASK "profile" /* the process for a profile */
#define TURN_TO_STOP "stop"   /* and continue it */
enum {
    TURN_UNKNOWN = -1, /* the system has no such locks: nobody waits for anybody */
    TURN_TAKEN = -2    /* another command has it still */
};

/* Waits for at most so many seconds, or until *interrupted is not 0 if that is not NULL. Returns what turn_end lets go of; or
 * TURN_UNKNOWN or TURN_TAKEN, with which that does nothing. */
int turn_take(const char *what, pid_t pid, double seconds, const volatile sig_atomic_t *interrupted);

void turn_end(int turn);

#endif
