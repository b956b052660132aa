/* large.c - see large.h.
 * Owns     the list of blocks that wait for the lock (pool_gate); whether one could not be shortened.     Called by  api/malloc.c, front/
 * Calls    packed.h, span.h, run.h, emergency.h: of each block the one that it is
 * Threads  any.
 */
#include "pool/large.h"

#include "meta/registry.h"
#include "os/os.h"
#include "pool/emergency.h"
#include "pool/packed.h"
#include "pool/pool_state.h"
#include "pool/release.h"
#include "pool/run.h"
#include "pool/span.h"
#include "service/budget.h"

/* The head record of the span or the run that begins at address; NULL when none does. */
static struct slab *head_of(const void *address)
{
    struct slab *slab = ((uintptr_t)address & (SLAB_BYTES - 1)) != 0 ? NULL : registry_span_slab(address);
    return slab != NULL && CTL_STATE(slab_ctl_read(slab)) == SLAB_SPAN_HEAD ? slab : NULL;
}

static bool is_run(const struct slab *head)
{
    return span_slots(head) == 0;
}

/* ---- Return ------------------------------------------------------------------------------------------------------ */

/* Puts a block back whose head this thread has. Lock held; returns without it. */
static void put_block_and_unlock(struct slab *head)
{
    if (is_run(head))
        run_put_and_unlock(head);
    else
        span_put_and_unlock(head);
    budget_note_freed(); /* last: a relief that has begun may have missed it */
}

/* A handler that interrupted the lock's holder cannot put its block back. It leaves it where the next claim or return of any thread finds
 * it. */
static bool defer(struct slab *head)
{
    slab_ctl ctl =
        slab_ctl_read(head); /* maybe marked: the lock's holder may be about to purge what lies behind this block */
    if (CTL_STATE(ctl) != SLAB_SPAN_HEAD ||
        !atomic_compare_exchange_strong(&head->ctl, &ctl, SLAB_CTL(SLAB_RETIRING, 0, 0)))
        return false; /* freed twice */
    head->next_deferred = atomic_load(&pool_gate.deferred);
    while (!atomic_compare_exchange_weak(&pool_gate.deferred, &head->next_deferred, head))
        continue;
    return true;
}

static COLD void put_all(void)
{
    if (pool_lock_is_mine()) /* a signal handler that interrupted its holder, which may come here many times */
        return;
    struct slab *head = atomic_exchange(&pool_gate.deferred, NULL);
    while (head != NULL) {
        struct slab *next = head->next_deferred;
        pool_lock_again(HAK_LOCK_SPAN, head);
        put_block_and_unlock(head);
        head = next;
    }
}

static void put_deferred(void)
{
    packed_put_deferred();
    if (unlikely(atomic_load_explicit(&pool_gate.deferred, memory_order_relaxed) !=
                 NULL)) /* relaxed: the next sees it */
        put_all();
}

bool large_return(void *block)
{
    struct packed_head *packed = packed_head_of(block);
    if (packed != NULL) {
        if (!packed_return(block, packed))
            return false;
        put_deferred();
        return true;
    }
    struct slab *head = head_of(block);
    if (head == NULL)
        return emergency_return(block);
    if (!pool_lock(HAK_LOCK_SPAN))
        return defer(head);
    slab_ctl ctl = SLAB_CTL(SLAB_SPAN_HEAD, 0, 0);
    if (head_of(block) != head || !atomic_compare_exchange_strong(&head->ctl, &ctl, SLAB_CTL(SLAB_TAKEN, 0, 0))) {
        pool_unlock(); /* another thread returned it meanwhile, or holds it: freed twice */
        return false;
    }
    put_block_and_unlock(head);
    put_deferred();
    return true;
}

/* ---- Claim ------------------------------------------------------------------------------------------------------- */

/* One page at least. */
static size_t pages_for(size_t size_bytes)
{
    return round_up(max_size(size_bytes, 1), os_page_bytes());
}

void *large_claim(size_t size_bytes, size_t alignment, enum large_place place, bool *zeroed)
{
    if (size_bytes > PTRDIFF_MAX || alignment > PTRDIFF_MAX)
        return NULL;
    size_t len_bytes = pages_for(size_bytes);
    put_deferred();
    if (place == LARGE_APART && len_bytes <= SLAB_BYTES && alignment <= SLAB_BYTES) {
        void *block = span_claim_apart(len_bytes, zeroed);
        if (block != NULL)
            return block;
    }
    if (place != LARGE_GROWING && alignment <= PACKED_PAGE_BYTES && packed_suits(len_bytes))
        return packed_claim(len_bytes, zeroed);
    if (len_bytes <= (place == LARGE_GROWING ? SPAN_GROWN_MAX_BYTES : SPAN_MAX_BYTES) && alignment <= SUPERSLAB_BYTES) {
        void *block = span_claim(len_bytes, alignment, zeroed);
        /* Free slots that are closed may not be opened for want of memory: see shared_pool.c. */
        return unlikely(block == NULL) && release_waiting() ? span_claim(len_bytes, alignment, zeroed) : block;
    }
    /* More than any address space has; also keeps the number of SuperSlabs within 32 bits. */
    if (len_bytes >> ADDRESS_BITS != 0 || alignment >> ADDRESS_BITS != 0)
        return NULL;
    return run_claim(len_bytes, alignment, zeroed);
}

/* ---- Of one block ------------------------------------------------------------------------------------------------ */

size_t large_usable_bytes(const void *block)
{
    const struct packed_head *packed = packed_head_of(block);
    if (packed != NULL)
        return packed_bytes(packed);
    const struct slab *head = head_of(block);
    if (head == NULL)
        return emergency_usable_bytes(block);
    return is_run(head) ? head->superslab->run_bytes : span_bytes(head);
}

uint64_t *large_sample(const void *block)
{
    struct packed_head *packed = packed_head_of(block);
    struct slab *head = packed != NULL ? NULL : head_of(block);
    return packed != NULL ? &packed->sample : head != NULL ? &head->sample : NULL;
}

/* A run stays one down to run_least_bytes. */
static bool resize(void *block, size_t len_bytes, size_t run_least_bytes)
{
    struct packed_head *packed = packed_head_of(block);
    if (packed != NULL)
        return packed_resize(block, packed, len_bytes);
    struct slab *head = head_of(block);
    if (head == NULL)
        return false;
    return is_run(head) ? len_bytes >= run_least_bytes && run_resize(head, len_bytes) : span_resize(head, len_bytes);
}

bool large_resize(void *block, size_t size_bytes)
{
    if (size_bytes >> ADDRESS_BITS != 0)
        return false;
    return resize(block, round_up(size_bytes, os_page_bytes()), SPAN_GROWN_MAX_BYTES + 1);
}

static _Atomic bool any_unshrunk;

bool large_shrink(void *block, size_t size_bytes)
{
    bool shrunk = resize(block, pages_for(size_bytes), 0);
    if (!shrunk)
        atomic_store_explicit(&any_unshrunk, true, memory_order_relaxed); /* relaxed: read by who frees the block */
    return shrunk;
}

bool large_any_unshrunk(void)
{
    return atomic_load_explicit(&any_unshrunk, memory_order_relaxed);
}

/* ---- Its pages --------------------------------------------------------------------------------------------------- */

void large_open(void *block)
{
    struct slab *head = head_of(block);
    if (head != NULL && is_run(head)) /* Slots of the pool are inaccessible anyway: pool_open_memory. */
        run_open(head);
}

bool large_discard(void *block, bool touched)
{
    struct slab *head = head_of(block);
    if (head == NULL)
        return false;
    return is_run(head) ? run_discard(head, touched) : span_discard(head, touched);
}

void large_take_pages(void *block, size_t len_bytes)
{
    struct slab *head = head_of(block);
    if (is_run(head))
        run_hand_out_pages(head, len_bytes);
    else
        span_hand_out_pages(head, len_bytes);
}

bool large_give_pages(void *block, size_t from_bytes, size_t to_bytes)
{
    struct slab *head = head_of(block);
    if (head == NULL)
        return false;
    return is_run(head) ? run_give_pages(head, from_bytes, to_bytes) : span_give_pages(head, from_bytes, to_bytes);
}

/* Pages move between runs alone: they take their mapping with them, and those of a run are replaced on release. */
static struct slab *run_at(const void *block)
{
    struct slab *head = head_of(block);
    return head != NULL && is_run(head) ? head : NULL;
}

void large_lend(const void *block, size_t len_bytes)
{
    struct slab *run = run_at(block);
    if (run != NULL)
        run_lend(run, len_bytes);
}

void large_take_back(const void *block, size_t len_bytes)
{
    struct slab *run = run_at(block);
    if (run != NULL)
        run_take_back(run, len_bytes);
}

void large_move(void *from, void *to, size_t len_bytes, bool zeroed)
{
    struct slab *from_run = run_at(from), *to_run = run_at(to);
    size_t moved_bytes = 0;
    if (from_run != NULL && to_run != NULL)
        moved_bytes = run_move(from_run, to_run, len_bytes);
    else if (from_run != NULL) /* lent, but copied: to a handler's emergency block */
        run_take_back(from_run, len_bytes);
    os_copy((char *)to + moved_bytes, (char *)from + moved_bytes, len_bytes - moved_bytes, zeroed);
}
