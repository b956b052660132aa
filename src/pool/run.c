/* run.c - see run.h.
 * Owns     the fields run_superslabs and run_bytes of SuperSlab records.     Called by  large.c
 * Calls    lru.h, release.h, dirty.h, huge_pages.h (SuperSlabs), shared_pool.h (lock), tail.h, background.h
 * Threads  any; records are written by the thread that claims or returns the run, or resizes it, under the pool lock or with the
 *          SuperSlabs in its hands.
 * I1  Every slab of a run is CLASS_SPAN in the class map; the first one alone is SPAN_HEAD, with 0 slots.
 */
#include "pool/run.h"

#include "meta/arena.h"
#include "os/os.h"
#include "pool/background.h"
#include "pool/dirty.h"
#include "pool/huge_pages.h"
#include "pool/lru.h"
#include "pool/release.h"
#include "pool/shared_pool.h"
#include "pool/span.h"
#include "pool/tail.h"
#include "service/config.h"
#include "service/stats.h"

static uint32_t superslabs_for(size_t len_bytes)
{
    return (uint32_t)((len_bytes + SUPERSLAB_BYTES - 1) >> SUPERSLAB_SHIFT);
}

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

/* Whether less than half of it is in memory, as far as one may ask, so that it is better purged than looked through. */
static bool is_sparse(const struct superslab *ss)
{
    return release_may_ask(1) && os_resident_bytes(superslab_memory(ss), SUPERSLAB_BYTES) < SUPERSLAB_BYTES / 2;
}

/* Clears what may be dirty of n SuperSlabs that a block of len_bytes is about to be made of. (800 MiB of which one page in 16 had been
 * written, freed, were all in memory after the next calloc, when this was a memset.) */
static void clear_dirty(struct superslab *ss, uint32_t n, size_t len_bytes)
{
    for (uint32_t i = 0; i < n; i++) {
        size_t dirty_bytes = ss[i].dirty_by_slab ? SUPERSLAB_BYTES : ss[i].dirty_prefix_bytes;
        if (superslab_is_clean(&ss[i]))
            continue;
        if (is_sparse(&ss[i]))
            superslab_purge(&ss[i], 1);
        if (!superslab_is_clean(&ss[i]))
            os_clear(superslab_memory(&ss[i]), min_size(part_of_run(len_bytes, i), dirty_bytes));
    }
}

/* Which SuperSlabs of a run of so many bytes are to have huge pages: of those that lie wholly within the block, as it will
 * most likely be filled from its beginning. Not in blocks so large that a program may mean to use little of them. */
static struct huge_part huge_superslabs(const struct superslab *grown, size_t len_bytes)
{
    /* Where every block is a run, nobody is asked for each: a filter of system calls may end the process for the question. */
    size_t least_bytes = (config.secure & SECURE_PAGES) != 0 ? 2 * SUPERSLAB_BYTES : SUPERSLAB_BYTES;
    return len_bytes < least_bytes ? (struct huge_part){0} : huge_pages_for_run(grown, len_bytes);
}

/* Those that are used again with huge pages keep them, which costs nothing: nobody is asked. */
static struct huge_part huge_superslabs_of(const struct superslab *ss, size_t len_bytes)
{
    uint32_t n = (uint32_t)(len_bytes >> SUPERSLAB_SHIFT);
    for (uint32_t i = 0; i < n; i++)
        /* relaxed: they are ours */
        if (!atomic_load_explicit(&ss[i].huge, memory_order_relaxed) || superslab_is_clean(&ss[i]))
            return huge_superslabs(NULL, len_bytes);
    return (struct huge_part){.end = n};
}

void *run_claim(size_t len_bytes, size_t alignment, bool *zeroed)
{
    uint32_t n = superslabs_for(len_bytes);
    alignment = max_size(alignment, SUPERSLAB_BYTES);
    if (!pool_lock(HAK_LOCK_SPAN))
        return NULL;
    lru_settle(!*zeroed && alignment == SUPERSLAB_BYTES ? n : 0);
    uint32_t n_kept;
    struct superslab *ss = lru_take(n, alignment, &n_kept);
    if (ss == NULL)
        lru_make_way(n);
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
    superslab_choose_pages(ss, n, huge_superslabs_of(ss, len_bytes));
    if (*zeroed)
        clear_dirty(ss, n, len_bytes);
    else
        *zeroed = all_clean(ss, n);
    pool_lock_again(HAK_LOCK_SPAN, ss);
    mark_run(ss, 0, n, len_bytes);
    ss->run_superslabs = n;
    ss->run_bytes = len_bytes;
    struct slab *head = superslab_slab(ss, 0);
    slab_place(head, ss, 0);
    span_set_slots(head, 0); /* tells a run from a span */
    head->sample = 0;
    span_set_state(head, SLAB_SPAN_HEAD);
    huge_pages_note_run(ss);
    pool_unlock();
    return superslab_memory(ss);
}

/* Gives up n SuperSlabs in a row. Lock held; returns without it. */
static void put_superslabs_and_unlock(struct superslab *ss, uint32_t n)
{
    unmark_run(ss, 0, n);
    if (n > 1) { /* Whoever asks for much does not always use all of it. */
        for (uint32_t i = 0; i < n; i++)
            ss[i].state = SUPERSLAB_LEAVING; /* ours, also while the lock is given up */
        lru_settle(0);
    }
    if (n == 1)
        lru_push(ss, n);
    else if (!lru_push_unasked(ss, n))
        lru_push_asked(ss, n);
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
    struct huge_part part = huge_superslabs(ss, len_bytes);
    superslab_count_mapped(n_new - n_old);
    superslab_choose_pages(ss + n_old, n_new - n_old,
                           (struct huge_part){.end = part.end > n_old ? part.end - n_old : 0});
    return true;
}

bool run_resize(struct slab *head, size_t len_bytes)
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
    if (n_new > n_old)
        huge_pages_note_run(ss);
    if (kept_bytes >= len_bytes + SLAB_BYTES) /* what is worth a call at once; of less, tail_note hears */
        tail_purge_run_locked(&ss[n_new - 1], part_of_run(len_bytes, n_new - 1));
    if (n_new < n_old)
        put_superslabs_and_unlock(ss + n_new, n_old - n_new);
    else
        pool_unlock();
    return true;
}

void run_put_and_unlock(struct slab *head)
{
    struct superslab *ss = head->superslab;
    span_set_state(head, SLAB_UNUSED);
    put_superslabs_and_unlock(ss, ss->run_superslabs);
}

/* ---- Its pages --------------------------------------------------------------------------------------------------- */

void run_open(const struct slab *head)
{
    struct superslab *ss = head->superslab;
    bool open = os_commit(superslab_memory(ss), (size_t)ss->run_superslabs << SUPERSLAB_SHIFT);
    for (uint32_t i = 0; i < ss->run_superslabs; i++) /* As pool_detach_superslab: arena_take tries again. */
        ss[i].committed = open;
}

bool run_discard(const struct slab *head, bool touched)
{
    struct superslab *ss = head->superslab;
    if (touched && !os_purge(superslab_memory(ss), (size_t)ss->run_superslabs << SUPERSLAB_SHIFT))
        return false;
    for (uint32_t i = 0; i < ss->run_superslabs; i++) /* All of it is clean when nobody had touched it. */
        superslab_cut_dirty(&ss[i], 0);
    return true;
}

bool run_give_pages(const struct slab *head, size_t from_bytes, size_t to_bytes)
{
    struct superslab *ss = head->superslab;
    uint32_t last = superslabs_for(to_bytes) - 1;
    superslab_use_small_pages(&ss[from_bytes >> SUPERSLAB_SHIFT]);
    superslab_use_small_pages(&ss[last]);
    if (!os_purge(superslab_memory(ss) + from_bytes, to_bytes - from_bytes))
        return false;
    for (uint32_t i = (uint32_t)(from_bytes >> SUPERSLAB_SHIFT); i <= last; i++)
        if (ss[i].dirty_prefix_bytes <= part_of_run(to_bytes, i)) /* else the system has some behind them */
            superslab_cut_dirty(&ss[i], part_of_run(from_bytes, i));
    return true;
}

void run_hand_out_pages(const struct slab *head, size_t len_bytes)
{
    struct superslab *ss = head->superslab;
    for (uint32_t i = 0; i < ss->run_superslabs; i++)
        superslab_extend_dirty(&ss[i], part_of_run(len_bytes, i));
}

/* The SuperSlabs that lie wholly within the first len_bytes. */
static uint32_t whole_superslabs(size_t len_bytes)
{
    return (uint32_t)(len_bytes >> SUPERSLAB_SHIFT);
}

void run_lend(const struct slab *head, size_t len_bytes)
{
    for (uint32_t i = 0; i < whole_superslabs(len_bytes); i++)
        superslab_cut_dirty(&head->superslab[i], 0);
}

void run_take_back(const struct slab *head, size_t len_bytes)
{
    for (uint32_t i = 0; i < whole_superslabs(len_bytes); i++)
        superslab_extend_dirty(&head->superslab[i], SUPERSLAB_BYTES);
}

/* A move unmaps its target before the system charges as much again, and what others take meanwhile, or what it has not added up yet (it
 * counts by processor), may make it refuse for good. So where it charges what is writable, pages move only while there is far more room.
 * (Four threads at the limit of vm.overcommit_memory=2 that let blocks grow: ended within 15 s, 3 times of 3.) */
#define MOVE_ROOM_BYTES (32 * SUPERSLAB_BYTES)

size_t run_move(const struct slab *from_head, const struct slab *to_head, size_t len_bytes)
{
    struct superslab *from = from_head->superslab, *to = to_head->superslab;
    uint32_t n = whole_superslabs(len_bytes);
    bool may_move = os_may_map(SUPERSLAB_BYTES), charged = os_charges_writable();
    for (uint32_t i = 0; i < n; i++) { /* each lies in one mapping of the system's */
        if (charged)
            may_move = os_may_map(MOVE_ROOM_BYTES);
        if (may_move)
            from[i].moved = to[i].moved = 1;
        if (may_move && os_move_pages(superslab_memory(&from[i]), superslab_memory(&to[i]), SUPERSLAB_BYTES)) {
            to[i].huge = from[i].huge; /* advice moves with the mapping */
        } else {
            superslab_extend_dirty(&from[i], SUPERSLAB_BYTES);
            os_copy(superslab_memory(&to[i]), superslab_memory(&from[i]), SUPERSLAB_BYTES, false);
        }
    }
    return (size_t)n << SUPERSLAB_SHIFT;
}
