/* fork.h - what the child of a fork mends: it has the memory of all threads, and one of them. */
#ifndef HAKMEM_FRONT_FORK_H
#define HAKMEM_FRONT_FORK_H

#include "front/thread.h"

/* From now on children are mended, before they wait for a lock or fork() returns. Once, at the process's start. */
void fork_start(void);

/* Makes a record whole whose thread was inside a slow path, or whose cache was being emptied: what was in hand is lost. The caller has it
 * as for thread_empty. interrupted: the calling thread is inside one too, and goes on. */
void fork_mend(struct thread *thread, bool interrupted);

#endif
