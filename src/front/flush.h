/* flush.h - blocks from magazines back to their slabs. */
#ifndef HAKMEM_FRONT_FLUSH_H
#define HAKMEM_FRONT_FLUSH_H

#include "front/locate.h"
#include "front/thread.h"

#define REFILL_MAX 256 /* half of the largest magazine */

/* Returns the n oldest blocks of a magazine: all of them, or REFILL_MAX at most. The caller counts it in `flushes`, when what it does is
 * done: `hakmem check` takes a change of that for another call, at whose beginning all agrees. Between thread_enter and thread_leave, or
 * for a thread that is gone. */
void flush_oldest(struct thread *thread, unsigned class_id, uint32_t n);

/* Looks at the youngest blocks in each of the thread's magazines: whether they are blocks, and were not freed twice. What is none is
 * reported and taken out. As above. */
void flush_look_for_misuse(struct thread *thread);

/* Returns blocks of a class; one of any; one whose place is known. Any thread that holds them. */
void flush_blocks(void *const *block, unsigned n, unsigned class_id);
void flush_block(void *block);
void flush_located(const struct place *place);

/* Closes a word: what is free in it goes back to its slab. As above. */
void flush_open_word(struct open_word *open, unsigned class_id);

#endif
