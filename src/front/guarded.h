/* guarded.h - hardened mode's blocks with pages of their own: inaccessible space on both sides, and all of it inaccessible once
 * it is freed, until others have been.
 *
 *   base           block                      end of the data, a page's      total
 *    | inaccessible | what was asked for | slack: a pattern | inaccessible ... |
 *
 * With SECURE_PAGES what was asked for ends where the inaccessible page begins, as far as alignment lets it.
 */
#ifndef HAKMEM_FRONT_GUARDED_H
#define HAKMEM_FRONT_GUARDED_H

#include "front/front.h"

/* Whether a block that fits into a class is to have pages of its own, with inaccessible ones around it: one of a page and more, as
 * long as there are not too many; and one without a byte, which nobody may touch. It counts then: guarded_try is next. */
bool guarded_wants(size_t size_bytes);

/* A block, all zero, on a multiple of alignment; inaccessible pages around it if there are not too many. NULL with errno ENOMEM. */
void *guarded_claim(size_t size_bytes, size_t alignment, enum block_kind kind);

/* The same for who has another way. room_bytes: how long it may become where it lies; address space alone. counted: by guarded_wants.
 * NULL: there is none, nobody was told, and errno is as it was. */
void *guarded_try(size_t size_bytes, size_t room_bytes, size_t alignment, enum block_kind kind, bool counted);

/* Returns the block that begins here; anything else is reported. */
void guarded_return(void *block, const struct release *release);

/* Makes a block longer or shorter where it lies. False: it cannot, and nothing has changed. What is added is zero. */
bool guarded_resize(void *block, size_t size_bytes);

/* Notes that a live block is shorter from now on, whose pages stay as they are: there is no memory for a smaller one. */
void guarded_shrink(void *block, size_t size_bytes);

/* Whether a block begins here that was not freed; and what is known of it. */
bool guarded_is_live(const void *block, size_t *size_bytes, enum block_kind *kind);

/* How many freed ones wait, and their bytes. Any thread; a guess. Outside readers read the figures: see api/anchor.h. */
extern struct guarded_figures {
    _Atomic uint64_t n_waiting, waiting_bytes;
} guarded_figures __attribute__((visibility("hidden")));
size_t guarded_waiting(size_t *sum_bytes);

/* Ends their wait. */
void guarded_release_waiting(void);

/* In the child of a fork: random choices are not its parent's. */
void guarded_fork_child(void);

/* A line about an address that was touched though it is inaccessible: in what block, or how far from which. False: nothing is known
 * of it. Async-signal-safe. */
bool guarded_explain(const void *address);

#endif
