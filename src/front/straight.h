/* straight.h - malloc and free of hardened mode with all of its checks, in the usual case; see straight.c.
 *
 * The doors ask for it first. There is one function for each width of a step (wipe.h), so that nothing has to be called on
 * the way.
 */
#ifndef HAKMEM_FRONT_STRAIGHT_H
#define HAKMEM_FRONT_STRAIGHT_H

#include "front/front.h"

/* The width; 0: not in this process. Constant after straight_start. */
extern unsigned straight_step_bytes __attribute__((visibility("hidden")));

/* Decides whether it is taken. small_max_bytes: up to so many bytes a block is of a class. By harden_start. */
void straight_start(size_t small_max_bytes);

/* straight_NAME(...) of the width, or what is done without. */
#define STRAIGHT(name, otherwise, ...)                                                                                 \
    (likely(straight_step_bytes == 64)     ? straight_##name##_64(__VA_ARGS__)                                         \
     : unlikely(straight_step_bytes == 32) ? straight_##name##_32(__VA_ARGS__)                                         \
     : unlikely(straight_step_bytes == 16) ? straight_##name##_16(__VA_ARGS__)                                         \
                                           : otherwise)

#define STRAIGHT_DECLARE(width)                                                                                        \
    NOINLINE void *straight_malloc_##width(size_t size_bytes);                                                         \
    NOINLINE void *straight_new_##width(size_t size_bytes, enum block_kind kind);                                      \
    NOINLINE void straight_free_##width(void *block);                                                                  \
    NOINLINE void straight_delete_##width(void *block, const struct release *release);
STRAIGHT_DECLARE(64)
STRAIGHT_DECLARE(32)
STRAIGHT_DECLARE(16)

#endif
