/* sampled.h - HAKMEM_GUARD_SAMPLE: one of N blocks lies in a place of its own, which is inaccessible before the block is allocated,
 * after it is freed, and on both sides. What goes wrong with such a block is reported with the stacks of those who
 * allocated and freed it. For programs at work: what one run in a thousand meets is found in one of a thousand runs.
 *
 *   place   | inaccessible page | up to 32 KiB, of which the block's pages are accessible | inaccessible page | ...
 *
 * The block lies at the beginning or at the end of its pages, by chance: one of its sides touches what is inaccessible, and the
 * other is padded with a pattern, which is looked at when the block is freed. A place is used again after all others.
 */
#ifndef HAKMEM_FRONT_SAMPLED_H
#define HAKMEM_FRONT_SAMPLED_H

#include "base/base.h"

/* All places, as addresses. No length: none was made. Constant after sampled_start. */
extern struct sampled_space {
    uintptr_t base;
    size_t len_bytes;
} sampled_space __attribute__((visibility("hidden")));

static inline bool sampled_has(const void *address)
{
    return unlikely((uintptr_t)address - sampled_space.base < sampled_space.len_bytes);
}

/* Makes the places. False: the system has no address space, or no memory for their records. Once. */
bool sampled_start(void);

/* A block that is all zero, on a multiple of alignment. NULL, and errno as it was: too large, all places are in use, or the
 * system refuses. Async-signal-safe but for the stack. */
void *sampled_claim(size_t size_bytes, size_t alignment);

/* Frees the block of a place. Anything but a live block is reported. Keeps errno. */
void sampled_return(void *block, const char *call);

/* What was asked for; SIZE_MAX and a report when no live block begins here. */
size_t sampled_size_bytes(const void *block, const char *call);

/* Says what is known of an address of a place that was touched though it is inaccessible, by the instruction at pc. Async-signal-safe. */
void sampled_explain(const void *address, uintptr_t pc);

/* What is counted of places: blocks that got one so far, those that live, and what was asked for for them. Outside readers read
 * the figures: see api/anchor.h. */
extern struct sampled_figures {
    _Atomic uint64_t n_total, n_live, live_bytes;
} sampled_figures __attribute__((visibility("hidden")));

/* How many blocks got a place so far. */
uint64_t sampled_total(void);

/* The live blocks and their bytes. Any thread; a guess. Their pages are not among the committed bytes, which a budget
 * counts: they are one for most blocks, and 16 MiB if all places hold the largest ones. */
void sampled_count(uint64_t *n, uint64_t *size_bytes);

#endif
