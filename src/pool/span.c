/* span.c - see span.h.
 * Owns     the span fields of slab and SuperSlab records; blocks that wait for the lock; whether one could not be shortened.     Called by  api/malloc.c, front/, held.c
 * Calls    shared_pool.h (slots, lock), release.h (SuperSlabs)
 * Threads  any; records of a block are written by the thread that claims or returns it, under the pool lock.
 * I1  Every slab of a span, and of every SuperSlab of a run, is CLASS_SPAN in the class map; exactly the first one is
 * SPAN_HEAD.
 */
#include "pool/span.h"

#include "meta/registry.h"
#include "os/os.h"
#include "pool/background.h"
#include "pool/emergency.h"
#include "pool/huge_pages.h"
#include "pool/lru.h"
#include "pool/packed.h"
#include "pool/pool_state.h"
#include "pool/release.h"
#include "pool/shared_pool.h"
#include "pool/tail.h"
#include "service/budget.h"
#include "service/config.h"
#include "service/report.h"
#include "service/stats.h"

#include <string.h>

static uint32_t superslabs_for(size_t len_bytes)
{
    return (uint32_t)((len_bytes + SUPERSLAB_BYTES - 1) >> SUPERSLAB_SHIFT);
}

/* The head record of the block that begins at address; NULL when none does. */
static struct slab *head_of(const void *address)
{
    struct arena *arena = registry_arena(address);
    if (arena == NULL || arena->class_map == NULL || ((uintptr_t)address & (SLAB_BYTES - 1)) != 0)
        return NULL;
    size_t index = arena_slab_index(arena, address);
    if (atomic_load_explicit(&arena->class_map[index], memory_order_relaxed) != CLASS_SPAN * CLASS_OFFSET_SCALE)
        return NULL; /* relaxed: see arena_set_class_map */
    struct slab *slab = &arena->slabs[index];
    return CTL_STATE(slab_ctl_read(slab)) == SLAB_SPAN_HEAD ? slab : NULL;
}

/* Of a head: its number in the SuperSlab. */
static unsigned slot_of(const struct slab *slab)
{
    return (unsigned)((size_t)(slab - slab->superslab->arena->slabs) % SUPERSLAB_SLABS);
}

/* ---- Spans ------------------------------------------------------------------------------------------------------- */

bool span_hand_out_pages(struct superslab *ss, unsigned head, size_t len_bytes)
{
    size_t fresh_bytes = 0;
    bool clean = true;
    for (unsigned i = head; (i - head) * SLAB_BYTES < len_bytes; i++) {
        struct slab *slab = superslab_slab(ss, i);
        unsigned needed = slab_pages_below(len_bytes, (size_t)(i - head) * SLAB_BYTES);
        unsigned dirty = atomic_load_explicit(&slab->dirty_pages, memory_order_relaxed); /* relaxed: we hold the slot */
        clean &= (dirty & needed) == 0;
        if ((needed & ~dirty) == 0)
            continue;
        fresh_bytes += count_bits(needed & ~dirty) * slab_page_bytes();
        atomic_store_explicit(&slab->dirty_pages, (uint16_t)(dirty | needed), memory_order_relaxed);
    }
    if (fresh_bytes != 0)
        stats_commit((int64_t)fresh_bytes);
    return clean;
}

/* Describes n slots, which the caller has taken, as part of a span from `head` on. */
static void mark_span(struct superslab *ss, unsigned head, unsigned from, unsigned n)
{
    for (unsigned i = from; i < from + n; i++) {
        struct slab *slab = superslab_slab(ss, i);
        slab_place(slab, ss, i);
        slab->last_class = CLASS_SPAN;
        span_set_slots(slab, i - head);
        span_set_state(slab, i == head ? SLAB_SPAN_HEAD : SLAB_SPAN_BODY);
    }
    arena_set_class_map(ss->arena, (size_t)ss->index * SUPERSLAB_SLABS + from, n, CLASS_SPAN * CLASS_OFFSET_SCALE);
}

/* Lock held; given up meanwhile. Returns with it if true. */
static bool take_slots(unsigned n, unsigned align_slots, struct superslab **ss, unsigned *slot)
{
    for (;;) {
        if (pool_take_slots(n, align_slots, ss, slot)) {
            stats_add(&stats_counters.stage_slot, 1);
            return true;
        }
        struct slab *waiting = pool_take_idle();
        if (waiting != NULL) { /* The slots of empty slabs may complete a row. */
            pool_unlock();
            shared_pool_retire(waiting);
            if (!pool_lock(HAK_LOCK_SPAN))
                return false;
            continue;
        }
        if (align_slots == 1 && pool_reopen(n, CLASS_SPAN)) {
            stats_add(&stats_counters.stage_reopen, 1);
            continue;
        }
        if (n > LRU_POOL_SLOTS && !lru_settle(0)) /* which may give the lock up */
            return false;
        struct superslab *fresh = lru_take_for_pool(n);
        if (fresh != NULL) {
            stats_add(&stats_counters.stage_lru, 1);
        } else {
            if (!lru_make_way(1))
                return false;
            pool_unlock();
            release_evicted();
            fresh = superslab_map(1, SUPERSLAB_BYTES);
            if (fresh != NULL)
                superslab_choose_pages(fresh, 1, huge_pages_for_spans(fresh) ? 1 : 0);
            if (fresh == NULL || !pool_lock(HAK_LOCK_SPAN))
                return false;
            stats_add(&stats_counters.stage_os, 1);
        }
        pool_add_superslab(fresh);
    }
}

bool span_take_slots_locked(unsigned n, unsigned align_slots, struct superslab **ss, unsigned *slot)
{
    return pool_lock(HAK_LOCK_SPAN) && take_slots(n, align_slots, ss, slot);
}

/* Puts n slots back and does what follows. Lock held; returns without it. */
static void put_slots_and_unlock(struct superslab *ss, unsigned slot, unsigned n)
{
    struct superslab *freed = pool_put_slots(ss, slot, n);
    /* Large blocks come and go: an emptied SuperSlab waits in the LRU cache for the next one. */
    if (freed != NULL)
        lru_push(freed, 1);
    pool_unlock();
    release_evicted();
    shared_pool_slots_emptied(HAK_LOCK_SPAN);
}

/* Makes a span of slots that were taken out. NULL, and they are put back: their memory cannot be opened. */
static void *make_span_and_unlock(struct superslab *ss, unsigned slot, unsigned n, size_t len_bytes, bool *zeroed)
{
    if (unlikely(!pool_open_memory(ss, slot, n))) {
        put_slots_and_unlock(ss, slot, n);
        return NULL;
    }
    mark_span(ss, slot, slot, n);
    *zeroed = span_hand_out_pages(ss, slot, len_bytes);
    struct slab *head = superslab_slab(ss, slot);
    span_set_slots(head, n);
    span_set_bytes(head, len_bytes);
    head->sample = 0;
    pool_unlock();
    return superslab_memory(ss) + slot * SLAB_BYTES;
}

/* Returns with the lock held, unless it is NULL: no memory, or the lock was held by what a signal handler interrupted. */
static void *claim_packed_locked(size_t len_bytes, bool *zeroed)
{
    unsigned n = (unsigned)span_slots_for(len_bytes), slot;
    struct superslab *ss;
    if (!pool_lock(HAK_LOCK_SPAN))
        return NULL;
    void *block = packed_claim(len_bytes, zeroed);
    if (block != NULL) {
        stats_add(&stats_counters.stage_slot, 1);
        return block;
    }
    return take_slots(n, 1, &ss, &slot) ? packed_claim_in(ss, slot, n, len_bytes, zeroed) : NULL;
}

static struct slab *slab_of(const void *block)
{
    struct arena *arena = registry_arena(block);
    return &arena->slabs[arena_slab_index(arena, block)];
}

unsigned span_hold_packed(size_t len_bytes, unsigned most, struct packed_block *blocks)
{
    unsigned n = 0;
    bool zeroed;
    void *block = claim_packed_locked(len_bytes, &zeroed); /* which may map a SuperSlab; the others don't */
    while (block != NULL) {
        blocks[n++] = (struct packed_block){block, (uint32_t)(len_bytes / PACKED_PAGE_BYTES)};
        packed_hold(slab_of(block), block);
        block = n < most ? packed_claim(len_bytes, &zeroed) : NULL;
    }
    if (n != 0)
        pool_unlock();
    return n;
}

static void *claim_span(size_t len_bytes, size_t alignment, bool *zeroed)
{
    if (alignment <= PACKED_PAGE_BYTES && packed_suits(len_bytes)) {
        void *block = claim_packed_locked(len_bytes, zeroed);
        if (block != NULL)
            pool_unlock();
        return block;
    }
    unsigned n = (unsigned)span_slots_for(len_bytes), slot;
    unsigned align_slots = alignment <= SLAB_BYTES ? 1 : (unsigned)(alignment >> SLAB_SHIFT);
    struct superslab *ss;
    if (!span_take_slots_locked(n, align_slots, &ss, &slot))
        return NULL;
    return make_span_and_unlock(ss, slot, n, len_bytes, zeroed);
}

/* A slot where no huge page is; a SuperSlab of its own is mapped if all that are free have some. With the lock held, if true. */
static bool take_apart_locked(struct superslab **ss, unsigned *slot)
{
    if (!pool_lock(HAK_LOCK_SPAN))
        return false;
    enum apart taken = pool_take_slot_apart(ss, slot);
    if (taken == APART_HUGE) {
        pool_unlock();
        struct superslab *fresh = superslab_map(1, SUPERSLAB_BYTES);
        if (fresh == NULL)
            return false;
        superslab_choose_pages(fresh, 1, 0);
        if (!pool_lock(HAK_LOCK_SPAN))
            return false;
        stats_add(&stats_counters.stage_os, 1);
        pool_add_superslab(fresh);
        pool_set_apart(fresh);
        taken = pool_take_slot_apart(ss, slot);
    }
    if (taken == APART_TAKEN)
        stats_add(&stats_counters.stage_slot, 1);
    else
        pool_unlock();
    return taken == APART_TAKEN;
}

static bool resize_span(struct slab *head, size_t len_bytes)
{
    struct superslab *ss = head->superslab;
    unsigned slot = slot_of(head);
    size_t n_new = span_slots_for(len_bytes);
    unsigned n_old = span_slots(head);
    if (n_new == 0 || n_new > SPAN_MAX_SLABS || (n_old <= SPAN_GROWN_MAX_SLABS && n_new > SPAN_GROWN_MAX_SLABS) ||
        !pool_lock(HAK_LOCK_SPAN))
        return false;
    if (n_new > n_old) {
        unsigned more = (unsigned)n_new - n_old;
        if (!pool_take_slots_at(ss, slot + n_old, more)) {
            pool_unlock();
            return false;
        }
        if (unlikely(!pool_open_memory(ss, slot + n_old, more))) {
            put_slots_and_unlock(ss, slot + n_old, more);
            return false;
        }
        mark_span(ss, slot, slot + n_old, more);
    }
    span_set_slots(head, (unsigned)n_new);
    span_set_bytes(head, len_bytes);
    span_hand_out_pages(ss, slot, len_bytes);
    if (n_new < n_old)
        put_slots_and_unlock(ss, slot + (unsigned)n_new, n_old - (unsigned)n_new);
    else
        pool_unlock();
    return true;
}

const char span_lock_is_gone[] = "the pool lock is held by the thread that has just given it back";

/* ---- Runs -------------------------------------------------------------------------------------------------------- */

/* What of a run's SuperSlab number i lies within len_bytes. */
static size_t part_of_run(size_t len_bytes, uint32_t i)
{
    size_t before_bytes = (size_t)i << SUPERSLAB_SHIFT;
    return len_bytes <= before_bytes ? 0 : min_size(len_bytes - before_bytes, SUPERSLAB_BYTES);
}

/* SuperSlabs from number `from` on become part of a run of len_bytes. */
static void mark_run(struct superslab *ss, uint32_t from, uint32_t n, size_t len_bytes)
{
    for (uint32_t i = from; i < from + n; i++) {
        superslab_forget_slots(&ss[i], false);
        superslab_extend_dirty(&ss[i], part_of_run(len_bytes, i));
        ss[i].state = i == 0 ? SUPERSLAB_RUN : SUPERSLAB_RUN_BODY;
    }
    arena_set_class_map(ss->arena, (size_t)(ss->index + from) * SUPERSLAB_SLABS, (size_t)n * SUPERSLAB_SLABS,
                        CLASS_SPAN * CLASS_OFFSET_SCALE);
}

/* What was in a run is no longer in the class map. */
static void unmark_run(struct superslab *ss, uint32_t from, uint32_t n)
{
    arena_set_class_map(ss->arena, (size_t)(ss->index + from) * SUPERSLAB_SLABS, (size_t)n * SUPERSLAB_SLABS,
                        CLASS_FOREIGN);
}

/* True when every page of n empty SuperSlabs reads as zero. */
static bool all_clean(const struct superslab *ss, uint32_t n)
{
    bool clean = true;
    for (uint32_t i = 0; i < n; i++)
        clean &= superslab_is_clean(&ss[i]);
    return clean;
}

/* Clears what may be dirty of n SuperSlabs that a block of len_bytes is about to be made of. */
static void clear_dirty(struct superslab *ss, uint32_t n, size_t len_bytes)
{
    for (uint32_t i = 0; i < n; i++) {
        size_t dirty_bytes = ss[i].dirty_by_slab ? SUPERSLAB_BYTES : ss[i].dirty_prefix_bytes;
        if (!superslab_is_clean(&ss[i]))
            memset(superslab_memory(&ss[i]), 0, min_size(part_of_run(len_bytes, i), dirty_bytes));
    }
}

/* How many SuperSlabs of a run of so many bytes are to have huge pages: those that lie wholly within the block, as it will
 * most likely be filled from its beginning. Not in blocks so large that a program may mean to use little of them. */
static uint32_t huge_superslabs(size_t len_bytes)
{
    return huge_pages_for_runs(len_bytes) ? (uint32_t)(len_bytes >> SUPERSLAB_SHIFT) : 0;
}

static void *claim_run(size_t len_bytes, size_t alignment, bool *zeroed)
{
    uint32_t n = superslabs_for(len_bytes);
    alignment = max_size(alignment, SUPERSLAB_BYTES);
    if (!pool_lock(HAK_LOCK_SPAN) || !lru_settle(!*zeroed && alignment == SUPERSLAB_BYTES ? n : 0))
        return NULL;
    uint32_t n_kept;
    struct superslab *ss = lru_take(n, alignment, &n_kept);
    if (ss == NULL && !lru_make_way(n))
        return NULL;
    pool_unlock();
    release_evicted();
    if (ss != NULL) {
        stats_add(&stats_counters.stage_lru, 1);
        superslab_purge(ss + n_kept, n - n_kept); /* of which some may be clean */
    } else {
        ss = superslab_map(n, alignment);
        if (ss == NULL)
            return NULL;
        stats_add(&stats_counters.stage_os, 1);
    }
    superslab_choose_pages(ss, n, huge_superslabs(len_bytes));
    if (*zeroed)
        clear_dirty(ss, n, len_bytes);
    else
        *zeroed = all_clean(ss, n);
    if (!pool_lock(HAK_LOCK_SPAN)) /* It was free for us a moment ago, so it is not ours now. */
        report_broken(span_lock_is_gone, ss);
    mark_run(ss, 0, n, len_bytes);
    ss->run_superslabs = n;
    ss->run_bytes = len_bytes;
    struct slab *head = superslab_slab(ss, 0);
    slab_place(head, ss, 0);
    span_set_slots(head, 0); /* tells a run from a span */
    head->sample = 0;
    span_set_state(head, SLAB_SPAN_HEAD);
    pool_unlock();
    return superslab_memory(ss);
}

/* Gives up n SuperSlabs in a row. Lock held; returns without it. */
static void put_run_and_unlock(struct superslab *ss, uint32_t n)
{
    unmark_run(ss, 0, n);
    if (n > 1) { /* Whoever asks for much does not always use all of it. */
        for (uint32_t i = 0; i < n; i++)
            ss[i].state = SUPERSLAB_LEAVING; /* ours, also while the lock is given up */
        if (!lru_settle(0))
            report_broken(span_lock_is_gone, ss);
    }
    if (n == 1 || !lru_push_unasked(ss, n)) {
        if (n > 1) {
            pool_unlock();
            release_untouched(ss, n);
            if (!pool_lock(HAK_LOCK_SPAN))
                report_broken(span_lock_is_gone, ss);
        }
        lru_push(ss, n);
    }
    pool_unlock();
    release_evicted();
    background_wake();
}

/* Takes the free SuperSlabs behind a run of n_old, so that it has n_new. False: they are not free. */
static bool take_behind(struct superslab *ss, uint32_t n_old, uint32_t n_new, size_t len_bytes)
{
    if (!pool_lock(HAK_LOCK_SPAN))
        return false;
    bool taken = arena_take_at(ss->arena, ss->index + n_old, n_new - n_old);
    pool_unlock();
    if (!taken)
        return false;
    uint32_t n_huge = huge_superslabs(len_bytes);
    superslab_count_mapped(n_new - n_old);
    superslab_choose_pages(ss + n_old, n_new - n_old, n_huge > n_old ? n_huge - n_old : 0);
    return true;
}

static bool resize_run(struct slab *head, size_t len_bytes)
{
    struct superslab *ss = head->superslab;
    uint32_t n_new = superslabs_for(len_bytes), n_old = ss->run_superslabs; /* the caller's block: it stays as it is */
    if ((n_new > n_old && !take_behind(ss, n_old, n_new, len_bytes)) || !pool_lock(HAK_LOCK_SPAN))
        return false;
    if (n_new > n_old)
        mark_run(ss, n_old, n_new - n_old, len_bytes);
    if (n_new >= n_old)
        superslab_extend_dirty(&ss[n_old - 1], part_of_run(len_bytes, n_old - 1));
    size_t old_bytes = ss->run_bytes, kept_bytes = min_size(old_bytes, (size_t)n_new << SUPERSLAB_SHIFT);
    ss->run_superslabs = n_new;
    ss->run_bytes = len_bytes;
    if (kept_bytes >= len_bytes + SLAB_BYTES) /* what is worth a call at once; of less, tail_note hears */
        tail_purge_run_locked(&ss[n_new - 1], part_of_run(len_bytes, n_new - 1));
    if (n_new < n_old)
        put_run_and_unlock(ss + n_new, n_old - n_new);
    else
        pool_unlock();
    return true;
}

/* Puts a block back whose head this thread has. Lock held; returns without it. */
static void put_block_and_unlock(struct slab *head)
{
    struct superslab *ss = head->superslab;
    budget_note_freed();
    if (span_slots(head) == 0) {
        span_set_state(head, SLAB_UNUSED);
        put_run_and_unlock(ss, ss->run_superslabs);
    } else {
        put_slots_and_unlock(ss, slot_of(head), span_slots(head));
    }
}

/* ---- Returned by signal handlers --------------------------------------------------------------------------------- */

/* A handler that interrupted the lock's holder cannot put its block back. It leaves it here, and the next span
 * operation of any thread does it. */
static struct slab *_Atomic deferred;

static bool defer(struct slab *head)
{
    slab_ctl ctl =
        slab_ctl_read(head); /* maybe marked: the lock's holder may be about to purge what lies behind this block */
    if (CTL_STATE(ctl) != SLAB_SPAN_HEAD ||
        !atomic_compare_exchange_strong(&head->ctl, &ctl, SLAB_CTL(SLAB_RETIRING, 0, 0)))
        return false; /* freed twice */
    head->next_deferred = atomic_load(&deferred);
    while (!atomic_compare_exchange_weak(&deferred, &head->next_deferred, head))
        continue;
    return true;
}

/* The same of a packed span. */
static struct packed_head *_Atomic deferred_packed;

/* What follows when pages of packed spans were put back. Lock held; returns without it. freed: a SuperSlab that is empty now, or NULL. */
static void put_packed_and_unlock(struct superslab *freed)
{
    if (freed != NULL)
        lru_push(freed, 1);
    pool_unlock();
    budget_note_freed();
    release_evicted();
    shared_pool_slots_emptied(HAK_LOCK_SPAN);
    shared_pool_note_sparser();
}

static void push_packed(struct packed_head *head)
{
    head->next_waiting = atomic_load(&deferred_packed);
    while (!atomic_compare_exchange_weak(&deferred_packed, &head->next_waiting, head))
        continue;
}

static bool defer_packed(const void *block, struct packed_head *head)
{
    if (!packed_let_wait(block, head))
        return false; /* freed twice */
    push_packed(head);
    return true;
}

static COLD void put_deferred_packed(void)
{
    struct packed_head *head = atomic_exchange(&deferred_packed, NULL);
    while (head != NULL) {
        struct packed_head *next = head->next_waiting;
        if (pool_lock(HAK_LOCK_SPAN)) {
            struct superslab *freed;
            packed_put_waiting(head, &freed);
            put_packed_and_unlock(freed);
        } else {
            push_packed(head);
        }
        head = next;
    }
}

static void put_deferred(void)
{
    /* relaxed, both: the next one sees it */
    if (unlikely(atomic_load_explicit(&deferred_packed, memory_order_relaxed) != NULL))
        put_deferred_packed();
    if (likely(atomic_load_explicit(&deferred, memory_order_relaxed) == NULL))
        return;
    struct slab *head = atomic_exchange(&deferred, NULL);
    while (head != NULL) {
        struct slab *next = head->next_deferred;
        span_set_state(head, SLAB_SPAN_HEAD);
        if (pool_lock(HAK_LOCK_SPAN))
            put_block_and_unlock(head);
        else
            defer(head);
        head = next;
    }
}

/* ---- Either ------------------------------------------------------------------------------------------------------ */

void *span_claim(size_t size_bytes, size_t alignment, bool *zeroed)
{
    if (size_bytes > PTRDIFF_MAX || alignment > PTRDIFF_MAX)
        return NULL;
    size_t len_bytes = round_up(max_size(size_bytes, 1), os_page_bytes());
    put_deferred();
    size_t most_bytes = alignment < SUPERSLAB_BYTES ? SPAN_MAX_BYTES : SPAN_GROWN_MAX_BYTES;
    if (len_bytes <= most_bytes && alignment <= SUPERSLAB_BYTES)
        return claim_span(len_bytes, alignment, zeroed);
    /* More than any address space has; also keeps the number of SuperSlabs within 32 bits. */
    if (len_bytes >> ADDRESS_BITS != 0 || alignment >> ADDRESS_BITS != 0)
        return NULL;
    return claim_run(len_bytes, alignment, zeroed);
}

void *span_claim_apart(size_t size_bytes, size_t alignment, bool *zeroed)
{
    size_t len_bytes = round_up(max_size(size_bytes, 1), os_page_bytes());
    struct superslab *ss;
    unsigned slot;
    if (len_bytes > SLAB_BYTES || alignment > SLAB_BYTES)
        return span_claim(size_bytes, alignment, zeroed);
    put_deferred();
    if (!take_apart_locked(&ss, &slot))
        return span_claim(size_bytes, alignment, zeroed);
    return make_span_and_unlock(ss, slot, 1, len_bytes, zeroed);
}

static bool return_packed(void *block, struct packed_head *head)
{
    struct superslab *freed;
    if (!pool_lock(HAK_LOCK_SPAN))
        return defer_packed(block, head);
    if (!packed_put(block, head, &freed)) {
        pool_unlock();
        return false;
    }
    put_packed_and_unlock(freed);
    put_deferred();
    return true;
}

bool span_return(void *block)
{
    struct packed_head *packed = packed_head_of(block);
    if (packed != NULL)
        return return_packed(block, packed);
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

size_t span_usable_bytes(const void *block)
{
    const struct packed_head *packed = packed_head_of(block);
    if (packed != NULL)
        return packed_bytes(packed);
    const struct slab *head = head_of(block);
    if (head == NULL)
        return emergency_usable_bytes(block);
    return span_slots(head) == 0 ? head->superslab->run_bytes : span_bytes(head);
}

static bool resize_packed(const void *block, struct packed_head *head, size_t len_bytes)
{
    if (len_bytes > SPAN_GROWN_MAX_BYTES || !pool_lock(HAK_LOCK_SPAN))
        return false;
    bool shorter = len_bytes < packed_bytes(head), resized = packed_resize(block, head, len_bytes);
    if (shorter)
        put_packed_and_unlock(NULL);
    else
        pool_unlock();
    return resized;
}

uint64_t *span_sample(const void *block)
{
    struct packed_head *packed = packed_head_of(block);
    struct slab *head = packed != NULL ? NULL : head_of(block);
    return packed != NULL ? &packed->sample : head != NULL ? &head->sample : NULL;
}

bool span_resize(void *block, size_t size_bytes)
{
    struct packed_head *packed = packed_head_of(block);
    if (packed != NULL)
        return resize_packed(block, packed, round_up(min_size(size_bytes, PTRDIFF_MAX), os_page_bytes()));
    struct slab *head = head_of(block);
    if (head == NULL || size_bytes >> ADDRESS_BITS != 0)
        return false;
    size_t len_bytes = round_up(size_bytes, os_page_bytes());
    if (span_slots(head) != 0)
        return resize_span(head, len_bytes);
    return len_bytes > SPAN_GROWN_MAX_BYTES && resize_run(head, len_bytes);
}

static bool shrink(void *block, size_t len_bytes)
{
    struct packed_head *packed = packed_head_of(block);
    if (packed != NULL)
        return resize_packed(block, packed, len_bytes);
    struct slab *head = head_of(block);
    if (head == NULL)
        return false;
    return span_slots(head) == 0 ? resize_run(head, len_bytes) : resize_span(head, len_bytes);
}

static _Atomic bool any_unshrunk;

bool span_shrink(void *block, size_t size_bytes)
{
    bool shrunk = shrink(block, round_up(max_size(size_bytes, 1), os_page_bytes()));
    if (!shrunk)
        atomic_store_explicit(&any_unshrunk, true, memory_order_relaxed); /* relaxed: read by who frees the block */
    return shrunk;
}

bool span_any_unshrunk(void)
{
    return atomic_load_explicit(&any_unshrunk, memory_order_relaxed);
}

void span_open(void *block)
{
    struct slab *head = head_of(block);
    if (head == NULL || span_slots(head) != 0) /* Slots of the pool are inaccessible anyway: pool_open_memory. */
        return;
    struct superslab *ss = head->superslab;
    bool open = os_commit(block, (size_t)ss->run_superslabs << SUPERSLAB_SHIFT);
    for (uint32_t i = 0; i < ss->run_superslabs; i++) /* As pool_detach_superslab: arena_take tries again. */
        ss[i].committed = open;
}

bool span_discard(void *block, bool touched)
{
    struct slab *head = head_of(block);
    size_t len_bytes = span_usable_bytes(block);
    if (head == NULL || len_bytes == 0)
        return false;
    struct superslab *ss = head->superslab;
    size_t n_superslabs = span_slots(head) == 0 ? ss->run_superslabs : 0; /* 0: a span */
    size_t whole_bytes = n_superslabs != 0 ? n_superslabs << SUPERSLAB_SHIFT : (size_t)span_slots(head) << SLAB_SHIFT;
    if (touched && span_slots(head) != 0)
        superslab_use_small_pages(ss);
    if (touched && !os_purge(block, whole_bytes))
        return false;
    for (unsigned i = 0; i < span_slots(head); i++) {
        /* What lies behind the block in its last slab was not asked about when nobody had touched the block. */
        unsigned mine = touched ? slab_all_pages() : slab_pages_below(len_bytes, (size_t)i * SLAB_BYTES);
        unsigned dirty =
            atomic_load_explicit(&head[i].dirty_pages, memory_order_relaxed); /* relaxed, both: we hold it */
        unsigned gone = dirty & mine;
        stats_commit(-(int64_t)(count_bits(gone) * slab_page_bytes()));
        atomic_store_explicit(&head[i].dirty_pages, (uint16_t)(dirty & ~gone), memory_order_relaxed);
    }
    for (size_t i = 0; i < n_superslabs; i++) /* All of a run is clean when nobody had touched it. */
        superslab_cut_dirty(&ss[i], 0);
    return true;
}

void span_take_pages(void *block, size_t len_bytes)
{
    struct slab *head = head_of(block);
    struct superslab *ss = head->superslab;
    if (span_slots(head) != 0)
        span_hand_out_pages(ss, slot_of(head), len_bytes);
    for (uint32_t i = 0; span_slots(head) == 0 && i < ss->run_superslabs; i++)
        superslab_extend_dirty(&ss[i], part_of_run(len_bytes, i));
}

/* The SuperSlabs that lie wholly within the first len_bytes of a run; 0 for a span. */
static uint32_t whole_superslabs(const struct slab *head, size_t len_bytes)
{
    return head == NULL || span_slots(head) != 0 ? 0 : (uint32_t)(len_bytes >> SUPERSLAB_SHIFT);
}

void span_lend(const void *block, size_t len_bytes)
{
    struct slab *head = head_of(block);
    for (uint32_t i = 0, n = whole_superslabs(head, len_bytes); i < n; i++)
        superslab_cut_dirty(&head->superslab[i], 0);
}

void span_take_back(const void *block, size_t len_bytes)
{
    struct slab *head = head_of(block);
    for (uint32_t i = 0, n = whole_superslabs(head, len_bytes); i < n; i++)
        superslab_extend_dirty(&head->superslab[i], SUPERSLAB_BYTES);
}

/* Moves n whole SuperSlabs of one run, which were lent, to another: each lies in one mapping of the system's. */
static void move_superslabs(struct superslab *from, struct superslab *to, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        from[i].moved = to[i].moved = 1;
        if (os_move_pages(superslab_memory(&from[i]), superslab_memory(&to[i]), SUPERSLAB_BYTES)) {
            to[i].huge = from[i].huge; /* advice moves with the mapping */
        } else {
            superslab_extend_dirty(&from[i], SUPERSLAB_BYTES);
            memcpy(superslab_memory(&to[i]), superslab_memory(&from[i]), SUPERSLAB_BYTES);
        }
    }
}

void span_move(void *from, void *to, size_t len_bytes)
{
    struct slab *from_head = head_of(from), *to_head = head_of(to);
    size_t moved_bytes = 0;
    /* Only between runs: pages that move take their mapping with them, and those of a run are replaced on release. */
    uint32_t n_lent = whole_superslabs(from_head, len_bytes);
    uint32_t n = min_size(n_lent, whole_superslabs(to_head, len_bytes));
    if (n != 0) {
        moved_bytes = (size_t)n << SUPERSLAB_SHIFT;
        move_superslabs(from_head->superslab, to_head->superslab, n);
    }
    for (uint32_t i = n; i < n_lent; i++) /* Lent, but copied: to a handler's emergency block. */
        superslab_extend_dirty(&from_head->superslab[i], SUPERSLAB_BYTES);
    memcpy((char *)to + moved_bytes, (char *)from + moved_bytes, len_bytes - moved_bytes);
}
