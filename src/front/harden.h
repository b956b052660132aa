/* harden.h - hardened mode (HAKMEM_SECURE): what is done to blocks between the program and the heap, to find its mistakes.
 *
 * In this mode no door of a hit path ever opens: every thread keeps the closed cache, and registry_primary has no
 * arena. So every call comes here by the doors of front.h, and the mode costs nothing where it is off.
 *
 *   a block of a class     | what the program asked for | slack: the seal again | seal |        see small.h
 *   any other              see guarded.h
 *
 * A seal is there while the program has the block, and zero otherwise.
 */
#ifndef HAKMEM_FRONT_HARDEN_H
#define HAKMEM_FRONT_HARDEN_H

#include "front/front.h"
#include "front/thread.h"

#include <signal.h>

/* Freed blocks of a thread that wait. One that comes takes the place of another, at random, so each waits for as many others on
 * average, and that one may be the next to be handed out. */
#define QUARANTINE_SHIFT 7
#define QUARANTINE_SLOTS (1 << QUARANTINE_SHIFT)
struct quarantine {
    uint64_t slot[QUARANTINE_SLOTS]; /* of a block its address and, in the upper byte, its class offset; 0: none */
};
_Static_assert(sizeof(struct quarantine) <= METAPOOL_PIECE_BYTES, "a quarantine is a piece of metapool.h");

/* SAMPLING: not hardened, but some blocks are sampled (sampled.h). PROFILING: not hardened, but some are noted with the
 * stack of who allocated them (profile.h): the only one that begins and ends while the process runs. */
enum { HARDEN_UNKNOWN = 0, HARDEN_OFF, HARDEN_ON, HARDEN_SAMPLING, HARDEN_PROFILING };
extern _Atomic uint8_t harden_state __attribute__((visibility("hidden")));

static inline unsigned harden_mode(void)
{
    return atomic_load_explicit(&harden_state, memory_order_relaxed); /* relaxed: who sees it late follows late */
}

/* Starts the process if need be, and says whether it is hardened. */
NOINLINE bool harden_decide(void);

static inline bool harden_is_on(void)
{
    unsigned mode = harden_mode();
    return unlikely(mode != HARDEN_OFF) && (mode == HARDEN_ON || (mode == HARDEN_UNKNOWN && harden_decide()));
}

/* For the doors of malloc: whether *block is the answer, and else the door leads on. */
NOINLINE bool harden_answers(size_t size_bytes, size_t alignment, void **block);

/* Takes the mode from config. Once, before the first block. */
void harden_start(void);

/* Reports a free block that is not clear, and clears it. */
COLD void harden_report_dirty(void *block, size_t block_bytes);

/* Looks at what lies before the first block of a slab, whose memory begins here, and reports what is wrong with it. */
NOINLINE void harden_check_before_slab(const char *memory, const char *call);

/* What the doors lead to, where straight.h does not help. A block on a multiple of alignment (a power of two); NULL with errno
 * ENOMEM. */
void *harden_claim(size_t size_bytes, size_t alignment, enum block_kind kind);
void harden_return(void *block, const struct release *release);
void *harden_realloc(void *block, size_t size_bytes);

/* The bytes that were asked for; 0 and a report when no block begins here. */
size_t harden_usable_bytes(const void *block);

/* A number below n that nobody can guess; 0 where n is 0. */
unsigned harden_below(struct thread *thread, unsigned n);

/* Puts a batch of blocks into an order that nobody can guess. */
void harden_shuffle(struct thread *thread, void **block, unsigned n);

/* A thread has got a record: prepares what it needs. Caller holds the pool lock. */
void harden_prepare(struct thread *thread);

/* In the child of a fork: what comes next is another than in its parent and its siblings, as far as that can be; the secrets stay, for
 * blocks are sealed with them. thread: the caller's record. interrupted: it may be in the midst of a change of its magazines. */
void harden_fork_child(struct thread *thread, bool interrupted);

/* Blocks that wait in the record go back to their slabs; or, after a fork that may have cut a change in half, are lost. The
 * caller has the record as for thread_empty. */
void harden_empty(struct thread *thread);
void harden_forget(struct thread *thread);

/* What a slot of a quarantine says. */
#define WAITING_SHIFT 56
_Static_assert(WAITING_SHIFT >= ADDRESS_BITS, "an address and a class offset fit a word");

static inline uint64_t waiting(const void *block, size_t class_offset)
{
    return (uint64_t)class_offset << WAITING_SHIFT | (uintptr_t)block;
}

static inline void *waiting_block(uint64_t slot)
{
    return (void *)(uintptr_t)(slot & (((uint64_t)1 << WAITING_SHIFT) - 1)); /* NOLINT(performance-no-int-to-ptr) */
}

static inline size_t waiting_class_offset(uint64_t slot)
{
    return slot >> WAITING_SHIFT;
}

/* Freed blocks of a class that wait in a thread's record. Any thread; a guess. */
static inline size_t harden_waiting(const struct thread *thread, unsigned class_id)
{
    size_t n = 0;
    for (unsigned i = 0; i < QUARANTINE_SLOTS && thread->quarantine != NULL; i++)
        n += waiting_class_offset(thread->quarantine->slot[i]) == (size_t)class_id * CLASS_OFFSET_SCALE;
    return n;
}

/* What the library has faults reported by (SIGSEGV), where the program has asked for none: api/override_signal.c does not tell it. */
void harden_on_fault(int number, siginfo_t *info, void *context);

/* The process ends: looks at the calling thread's freed blocks, whether they were written to. */
void harden_check_at_exit(void);

#endif
