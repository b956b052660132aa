/* pressure.h - what is done when memory runs short: everything idle goes back, requests are refused, the program is told.
 * The lines are service/budget.h's. Nothing here runs while there is no budget and the system gives memory.
 */
#ifndef HAKMEM_FRONT_PRESSURE_H
#define HAKMEM_FRONT_PRESSURE_H

#include "front/thread.h"
#include "hakmem/hakmem.h"
#include "service/budget.h"

/* Whether need_bytes more may be committed, after what is idle went back where that was due. thread: the caller's record,
 * entered, or NULL; its cache may have been emptied afterwards. */
bool pressure_admit(struct thread *thread, size_t need_bytes);

/* The same for a large block, whose bytes are promised then: the caller settles (budget_settle). False: refused. */
bool pressure_promise(struct thread *thread, size_t need_bytes);

/* One block of the class where pressure_admit said no: one that commits nothing, or as little as it can while there is room
 * for that. NULL: refused. thread as above. */
void *pressure_claim_one(struct thread *thread, unsigned class_id);

/* Whether pressure_tell has something to tell after a request that brought `block`. */
extern _Atomic uint32_t pressure_soft_news __attribute__((visibility("hidden")));
static inline bool pressure_is_news(const void *block)
{
    /* relaxed: whoever comes next tells */
    return block == NULL || atomic_load_explicit(&pressure_soft_news, memory_order_relaxed) != 0;
}

/* Calls the program's function, if it has named one; failed: the caller's request was not served. Not inside a slow path.
 * Returns whether to try once more. */
bool pressure_tell(bool failed);

/* The system refuses a request of size_bytes: what the caller's own thread has cached goes back, and whatever became idle by
 * that. Returns whether to try once more: not where that could not bring enough, nor under a budget, which has seen to it.
 * Not inside a slow path. */
bool pressure_last_resort(size_t size_bytes);

/* A request is refused for good: errno ENOMEM, and what was kept of the budget may be used. */
void pressure_note_failure(void);

/* Names that function. */
void pressure_set_function(hak_pressure_function function, void *argument);

/* The lines have been moved: above the soft one, everything idle goes back now. Not inside a slow path. */
void pressure_lines_moved(void);

/* In the child of a fork. */
void pressure_fork_child(void);

#endif
