/* guarded_block.h - what guarded.c and guarded_wait.c know of a large block of hardened mode.
 */
#ifndef HAKMEM_FRONT_GUARDED_BLOCK_H
#define HAKMEM_FRONT_GUARDED_BLOCK_H

#include "front/guarded.h"
#include "front/seal.h"

/* What is known of a large block, in the bit map of the slab in which it begins: spans have no use for it. */
struct large {
    uint64_t seal; /* keyed hash of the rest; anything else: no block */
    char *block, *base;
    size_t size_bytes;              /* asked for */
    size_t front_bytes, data_bytes; /* from base: inaccessible, accessible; then inaccessible again */
    size_t total_bytes;
    uint16_t kind, is_guarded; /* the latter: counted in n_guarded */
    uint32_t freed_at;         /* since it waits: how many were freed before it, modulo 2^32 */
    _Atomic uint32_t state;    /* LARGE_LIVE, LARGE_FREED */
};
enum { LARGE_LIVE = 1, LARGE_FREED };
_Static_assert(sizeof(struct large) <= SLAB_MAX_WORDS * sizeof(uint64_t), "fits into a slab's large bit map");

/* A freed block without inaccessible pages, up to so many bytes with its room to grow, is cleared; longer ones give their pages back.
 * (64 KiB: some 2 microseconds, against a system call and 16 page faults. 64 of them may wait.) */
#define CLEARED_MAX_BYTES (96 * KIB)

static inline bool is_cleared_in_place(size_t total_bytes, bool guard)
{
    return !guard && total_bytes <= CLEARED_MAX_BYTES;
}

/* Puts a freed block into the quarantine. What has waited there for long enough, and gives way to it, becomes the heap's again. */
void guarded_let_wait(struct large *large);

/* The beginning of a freed block of the very same lengths, its data accessible and zero; NULL: none has waited for long
 * enough. It saves what the heap would do, and most system calls; but a budget must be asked, which the heap does. */
char *guarded_take_waiting(size_t total_bytes, size_t front_bytes, size_t data_bytes, size_t alignment, bool guard);

/* Without a wait: the pages of a freed block become the heap's again. */
void guarded_release(struct large *large);

#endif
