/* shared_pool.h - all SuperSlabs of the process: hands slabs to threads and slots to spans, and takes them back.
 *
 * Acquire a slab for a class:
 *   stage 1  the class's list of slabs with free blocks (class_set.h), without a lock
 *   stage 2  an UNUSED or EMPTY slot of the fullest HOT SuperSlab; else a DRAINING SuperSlab is reopened
 *   stage 3  the LRU cache of empty SuperSlabs; then the system
 *
 * One lock guards slots, buckets and tiers. Every path that takes it has at least a slab's worth of blocks behind it.
 * Lock order: no other lock is taken while it is held (pressure.c's is taken before it). Memory is given back outside of
 * it; taken from the system inside: an arena, the first use of a SuperSlab, records.
 */
#ifndef HAKMEM_POOL_SHARED_POOL_H
#define HAKMEM_POOL_SHARED_POOL_H

#include "hakmem/hakmem.h"
#include "pool/class_set.h"
#include "pool/tier.h"
#include "superslab/slab.h"

/* ---- The lock ---- */

/* Takes the pool lock. Returns false when this thread holds it already: a signal handler interrupted the holder, and
 * the caller must do without. */
bool pool_lock(enum hak_lock_cause cause);
void pool_unlock(void);

/* The same for who knows that it is not this thread that holds it. What is at stake is reported if it is. */
void pool_lock_again(enum hak_lock_cause cause, const void *about);

/* The same without waiting: for what may as well be done another time. */
bool pool_try_lock(enum hak_lock_cause cause);

/* Whether this thread holds it: then a signal handler interrupted the holder. */
bool pool_lock_is_mine(void);

/* ---- Slabs ---- */

/* A slab of the class, owned by the caller, with free blocks unless other threads were quicker. NULL: no memory. */
struct slab *shared_pool_acquire_slab(unsigned class_id);

/* The same for the first slab of a class that a thread has: it may need little of it. If no listed slab will do, it gets a slot of
 * which no page is in memory, where it touches those that it needs; those that are stay for who needs whole slots. */
struct slab *shared_pool_acquire_first_slab(unsigned class_id);

/* The lowest listed slab of the class if it has free blocks on pages that are in memory already, or lies below
 * `fresh`. Owned by the caller; NULL: there is none. */
struct slab *shared_pool_acquire_recycled(unsigned class_id, const struct slab *fresh);

/* A block of the class that commits nothing: from the first listed slab that has one on pages handed out already. NULL:
 * there is none. Looks at every listed slab of the class: for when memory has run out. */
void *shared_pool_claim_in_memory(unsigned class_id);

/* Lists the slabs of the class that count as full and have a free block all the same: for when memory has run out. Looks at every
 * slab. False: there is none. */
bool shared_pool_list_spare(unsigned class_id);

/* The owner lets go of a slab: it is listed, or released if empty. */
void shared_pool_disown_slab(struct slab *slab);

/* The same for all slabs of an array, whose entries become NULL; NULL ones are left out. Takes the lock once, if at all. */
void shared_pool_disown_slabs(struct slab **slabs, unsigned n);

/* The second step of a return (slab.h), of n blocks, 1 or more, and what follows from it. False: of these blocks, or of others, some were
 * freed twice. Any thread. */
bool shared_pool_return_count(struct slab *slab, unsigned n);

/* Returns blocks of one bit map word, both steps. Any thread that holds them. Returns the bits of blocks that were freed twice. */
uint64_t shared_pool_return_blocks(struct slab *slab, unsigned word, uint64_t mask);

enum release_result {
    RELEASE_DONE = 0,
    RELEASE_BAD_ARGUMENT, /* no such SuperSlab in the pool, or slab_idx >= 32 */
    RELEASE_NOT_RETIRING, /* the slot holds no slab that its last user retired */
    RELEASE_IN_USE,       /* blocks are out */
    RELEASE_PINNED        /* references in flight: the slab is listed again, and released on unpin */
};

/* Releases an emptied slab: slot ACTIVE -> EMPTY, and the SuperSlab too if that was its last. The caller made the slab
 * RETIRING, or is refused. */
enum release_result shared_pool_release_slab(struct superslab *ss, unsigned slab_idx);

/* ---- SuperSlabs ---- */

/* A reference: the SuperSlab is not given back while it is held. False when it is not in the pool. */
bool shared_pool_pin(struct superslab *ss);
void shared_pool_unpin(struct superslab *ss);

/* ---- Slots, for slabs and for spans; all under the pool lock ---- */

/* n slots in a row of a HOT SuperSlab, the first on a multiple of align_slots; they leave UNUSED and EMPTY.
 * Returns false when there are none. */
bool pool_take_slots(unsigned n, unsigned align_slots, struct superslab **ss, unsigned *slot);

/* One slot of the fullest HOT SuperSlab, for a slab; among equals the last one or the first; untouched: one without pages
 * rather than with. Likewise. */
bool pool_take_slot(bool last, bool untouched, struct superslab **ss, unsigned *slot);

/* One slot of a HOT SuperSlab without huge pages, for a block that is to have no more memory than it needs. NONE: there is no free slot
 * at all; HUGE: those that are looked at are in huge pages. */
enum apart { APART_TAKEN, APART_NONE, APART_HUGE };
enum apart pool_take_slot_apart(struct superslab **ss, unsigned *slot);

/* A SuperSlab that was added just now, without huge pages: the next such slots are to be its. NULL: of none in particular. */
void pool_set_apart(struct superslab *ss);

/* The n slots behind, for a span that grows in place. */
bool pool_take_slots_at(struct superslab *ss, unsigned slot, unsigned n);

/* Puts slots back as EMPTY. Returns the SuperSlab if it is now free and detached: the caller has it, and gives it to lru_push or to
 * release_detached_and_unlock; NULL otherwise. */
struct superslab *pool_put_slots(struct superslab *ss, unsigned slot, unsigned n);

/* Puts an empty SuperSlab into the pool, HOT and rising. */
void pool_add_superslab(struct superslab *ss);

/* Reopens a DRAINING SuperSlab that may help a request for n slots, or for a class (n 0). False: none. */
bool pool_reopen(unsigned n, unsigned class_id);

/* ---- Purging ---- */

/* Releases every slab that is empty and waits (idle.h). Not under the lock. */
void shared_pool_retire_idle(void);

/* Under the lock: the oldest of these, which then waits no longer; NULL: none. */
struct slab *pool_take_idle(void);

/* Releases a slab that is empty and nobody's; leaves any other as it is. Not under the lock. */
void shared_pool_retire(struct slab *slab);

/* Gives back the pages of EMPTY slots until at most `keep` have pages. Takes the lock by itself. */
void shared_pool_purge_empty(size_t keep, enum hak_lock_cause cause);

/* The same for a trim: all of them. Looks at every SuperSlab. */
void shared_pool_purge_all_empty(void);

/* Gives back every wholly free page inside listed slabs, those between packed spans, and what lies behind large blocks (tail.h). */
void shared_pool_purge_pages(void);

/* Slots have become EMPTY: what exceeds the number that keeps its pages is purged, at once or when the delay has passed. */
void shared_pool_slots_emptied(enum hak_lock_cause cause);

/* About so many bytes inside a slot in use became free: a tick may give them back. Not under the lock. */
void shared_pool_note_sparser(size_t len_bytes);

/* What has been idle for the purge delay goes back: slabs that wait are released, slots that were EMPTY at the last tick
 * are purged, and so are free pages of slabs in which nothing has changed, and what lies behind large blocks; SuperSlabs that were sparse at the last tick
 * drain, old rows in the LRU cache are given back. Called every half delay while shared_pool_idle_bytes is not 0. Not under the lock. */
void shared_pool_tick(void);

/* A tick is about to let go of a slab that its owner has left alone for the delay, or to return one of its blocks: neither is
 * a sign that the slab is in use. Whoever calls acts for the owner, or holds the block. */
void shared_pool_note_quiet(struct slab *slab);
void shared_pool_discount(struct slab *slab);

/* Memory that shared_pool_tick may give back in time. Any thread, no lock: a guess. */
size_t shared_pool_idle_bytes(void);

/* ---- Fork and checks ---- */

/* In the child: repairs what the lock's holder left half done, if that was another thread. interrupted: the thread that
 * forked did so in a signal handler that interrupted this allocator; then what is in somebody's hands may be in its
 * own, and is left there. */
void shared_pool_fork_child(bool interrupted);

/* Walks every SuperSlab: lists, masks, counts and class map agree. For tests and the inspector; exact when no other
 * thread is at work. Returns NULL, or what is wrong. */
const char *pool_check(void);

/* How much of a SuperSlab is in use, by its slabs' ctl words. */
struct tier_use superslab_use(const struct superslab *ss);

#endif
