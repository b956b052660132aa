/* model.h - what the fuzzer knows of each block: where it lies, how long it is, what it holds.
 * Called by  fuzz_api.c.     Calls  hakmem.h, meta/registry.h
 * Threads    one at a time; fuzz_api.c sees to it.
 */
#ifndef HAKMEM_TESTS_FUZZ_MODEL_H
#define HAKMEM_TESTS_FUZZ_MODEL_H

#include "ops.h"

struct record {
    unsigned char *block; /* NULL: none */
    size_t size_bytes;    /* as asked for */
    size_t usable_bytes;  /* as the allocator says */
    size_t alignment;     /* as asked for; what free_aligned_sized is told */
    uint64_t mark;        /* what the contents depend on */
    bool sampled;         /* it has a place of its own: HAKMEM_GUARD_SAMPLE */
    bool emergency;       /* it has no slab, and counts nowhere */
    bool in_call;         /* a call is at work on it: hands off */
};

extern struct record model_slots[N_SLOTS];

/* What the allocator's statistics must say. */
extern uint64_t model_live_blocks, model_live_bytes;
/* What bounds an input: usable bytes, emergency blocks included. */
extern size_t model_held_bytes;

/* Prints one line and aborts. */
_Noreturn void model_fail(const char *what, const struct record *record) __attribute__((cold));
#define REQUIRE(condition, record)                                                                                     \
    do {                                                                                                               \
        if (__builtin_expect(!(condition), 0))                                                                         \
            model_fail(#condition, record);                                                                            \
    } while (0)

/* A block has come: it overlaps no other, is as large and aligned as it must be, and is filled. zeroed: it was promised to
 * hold zeroes. */
void model_enter(struct record *record, void *block, size_t size_bytes, size_t alignment, bool zeroed);

/* The block is as it was left: its contents, its usable size. */
void model_check(const struct record *record);

/* The block is about to go (after model_check), or has gone. */
void model_leave(struct record *record);

/* realloc's answer: the first kept_bytes of what `was` held are at `block` now. */
void model_check_kept(const struct record *was, const void *block, size_t kept_bytes);

/* Every block is as it was left. */
void model_check_all(void);

#endif
