/* tail.h - what lies in memory behind the end of a block above 32 KiB: in its last slot, or in its last SuperSlab if it is a run.
 * The block needs none of it. It was handed out for what lay there before, or for the block itself before it was made shorter, and
 * nobody else can have it. After the delay it goes back, as all that is idle. Not in hardened mode, where what is freed goes back.
 */
#ifndef HAKMEM_POOL_TAIL_H
#define HAKMEM_POOL_TAIL_H

#include "hakmem/hakmem.h"
#include "superslab/slab.h"

/* Of the head of a span: which pages of its last slot they are, and bytes from the first of them to the slot's end. 0: it has none, or is
 * no such head. Any thread, no lock: a guess, unless the caller holds the block. */
size_t tail_of_span(const struct slab *head, unsigned *pages);

/* The same of the head of a span or a run, for which it takes the lock. 0 also where a signal handler asks that interrupted its holder. */
size_t tail_bytes(const struct slab *head, enum hak_lock_cause cause);

/* The same, cheaper, of a block of len_bytes whose last slot this is; and what is less than a quarter of a slot does not count. Who holds
 * the block. */
static inline size_t tail_behind(const struct slab *last, size_t len_bytes)
{
    size_t behind_bytes = -len_bytes % SLAB_BYTES;
    if (behind_bytes < SLAB_BYTES / 4)
        return 0;
    unsigned dirty = atomic_load_explicit(&last->dirty_pages, memory_order_relaxed); /* relaxed: the caller's */
    return dirty >> slab_page_of(SLAB_BYTES - behind_bytes) == 0 ? 0 : behind_bytes;
}

/* When so much has come to lie behind blocks, somebody calls tail_look: it counts what does, and wakes the background thread if that is
 * as much. It may be less: two lengths that take turns in one place come to it again and again. False: it is too early for another
 * look. Not under the lock. */
#define TAIL_LOOK_BYTES (4 * MIB)
bool tail_look(void);

/* A block has come to be, or was made shorter: its tail waits, and a look is taken when it is time. With a delay of 0 it goes back at
 * once. Who holds the block; not under the lock. */
void tail_note(const void *block);

/* Gives the tail of a head back. Returns the bytes; 0: there is none, it is no head any more, or the system refuses. Any thread, not
 * under the lock, which it takes. */
size_t tail_purge(struct slab *head, enum hak_lock_cause cause);

/* What lies behind the first used_bytes of a run's last SuperSlab. Lock held. Returns the bytes. */
size_t tail_purge_run_locked(struct superslab *last, size_t used_bytes);

#endif
