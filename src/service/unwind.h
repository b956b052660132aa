/* unwind.h - the calling thread's stack by the tables that exceptions use (.eh_frame), read once for each place.
 *
 * What libc's backtrace() does, at a tenth of its cost and less: for each call that stacks go through it keeps what the tables say
 * of it. It knows the rules that compilers write for ordinary code. At any other (a signal handler's frame, code without
 * tables, expressions) it gives up, and who calls asks backtrace(). Not so on arm64: there it does no more than to follow the
 * frames' records where a signal handler is among them, of which backtrace() may not come back.
 */
#ifndef HAKMEM_SERVICE_UNWIND_H
#define HAKMEM_SERVICE_UNWIND_H

#include "base/base.h"

/* Makes it cheaper from now on. Once, by one thread, before or after the first use; more often does no harm. */
void unwind_prepare(void);

/* Return addresses, the caller's own first: at most n. Returns their number; -1: it gives up. Takes no lock, allocates nothing; signal
 * handlers may call it. */
int unwind_take(void **frame, int n);

/* In the child of a fork, which has one thread. */
void unwind_fork_child(void);

#endif
