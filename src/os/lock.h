/* lock.h - a lock that knows its owner.
 *
 * The word holds the owner's identity (an address that belongs to one thread, such as that of a thread-local variable),
 * set by the same atomic operation that takes the lock. So two questions have an exact answer at any instruction:
 *   does this very thread hold it (a signal handler that interrupted the holder)?  lock_take says LOCK_SELF, nobody hangs;
 *   in a child after fork(): did the thread that forked hold it, or one that no longer exists?  lock_owner tells.
 *
 *   word                meaning
 *   0                   free
 *   owner               held, nobody sleeps
 *   owner | 1           held, somebody may sleep
 */
#ifndef HAKMEM_OS_LOCK_H
#define HAKMEM_OS_LOCK_H

#include "base/base.h"

struct lock {
    _Atomic uint64_t word;
};

/* The calling thread's name for any lock. */
extern __thread uint64_t lock_name __attribute__((visibility("hidden"), tls_model("initial-exec")));
static inline uintptr_t lock_self(void)
{
    return (uintptr_t)&lock_name;
}

enum lock_result { LOCK_SELF = 0, LOCK_TAKEN = 1, LOCK_TAKEN_AFTER_WAIT = 2 };

/* Takes the lock for `self` (even, not 0). LOCK_SELF: this thread holds it already and nothing was changed. */
enum lock_result lock_take(struct lock *lock, uintptr_t self);

/* The same without waiting; false: somebody holds it. */
bool lock_try(struct lock *lock, uintptr_t self);

void lock_drop(struct lock *lock);

/* What is to be done in the child of a fork before it waits for a lock: the holder may be gone. It must free such locks (lock_reset), and is
 * called only where os_is_new_child() knows of the fork. */
void lock_before_wait_in_child(void (*function)(void));

/* Who holds the lock: 0 when it is free. */
uintptr_t lock_owner(const struct lock *lock);

/* Makes the lock free, whoever held it: for the child of a fork, whose only thread is the caller. */
void lock_reset(struct lock *lock);

#endif
