/* tail.c - see tail.h.
 * Owns     the mark of a head whose tail is being purged.     Called by  front/large_block.c, span_cache.c (notes), purge.c, run.c
 * Calls    shared_pool.h (the lock), dirty.h, background.h
 * Threads  any. Records of blocks that others hold are read as a guess; what is done is done under the lock, with the head marked.
 *
 *   SPAN_HEAD, used 0 ---tail_purge---> SPAN_HEAD, used 1 ---when it is done---> SPAN_HEAD, used 0
 *
 * I1  A head is marked only while the pool lock is held, but in the child of a fork, where shared_pool_fork_child unmarks it.
 * Why a mark: a thread frees a span without the lock, and makes another one of its slots, which may need the tail (held.h). That takes a
 * compare-exchange out of SPAN_HEAD, used 0. Where it fails, the free takes the lock, and so waits; it costs nothing else. Runs are
 * freed under the lock alone.
 */
#include "pool/tail.h"

#include "meta/arena.h"
#include "meta/registry.h"
#include "os/os.h"
#include "pool/background.h"
#include "pool/dirty.h"
#include "pool/huge_pages.h"
#include "pool/pool_state.h"
#include "pool/span.h"
#include "service/budget.h"
#include "service/config.h"
#include "service/stats.h"
#include "superslab/slab.h"

static _Atomic size_t noted_bytes; /* by tail_note since the last look */

size_t tail_of_span(const struct slab *head, unsigned *pages)
{
    /* relaxed, as in span.h: a guess, or the caller's block */
    size_t n_slots = span_slots(head), len_bytes = span_bytes(head);
    *pages = 0;
    size_t slot = (uintptr_t)head / sizeof *head % SUPERSLAB_SLABS;             /* Their records fill a page. */
    if (n_slots == 0 || slot + n_slots > SUPERSLAB_SLABS || config.secure != 0) /* 0: a run */
        return 0;
    unsigned dirty = atomic_load_explicit(&head[n_slots - 1].dirty_pages, memory_order_relaxed);
    *pages = dirty & ~slab_pages_below(len_bytes, (n_slots - 1) * SLAB_BYTES);
    return *pages == 0 ? 0 : SLAB_BYTES - (size_t)__builtin_ctz(*pages) * slab_page_bytes();
}

/* Of a run whose first SuperSlab this is: the last, and how much of that is the block's. Who holds the block, or the lock. */
static struct superslab *last_of_run(struct superslab *ss, size_t *used_bytes)
{
    struct superslab *last = &ss[ss->run_superslabs - 1];
    *used_bytes = ss->run_bytes - ((size_t)(last - ss) << SUPERSLAB_SHIFT);
    return last;
}

static size_t run_bytes_behind(struct superslab *ss)
{
    size_t used_bytes;
    const struct superslab *last = last_of_run(ss, &used_bytes);
    size_t dirty_bytes = atomic_load_explicit(&last->dirty_prefix_bytes, memory_order_relaxed); /* relaxed: as above */
    return dirty_bytes <= used_bytes || config.secure != 0 ? 0 : dirty_bytes - used_bytes;
}

/* Lock held. */
static bool is_run(const struct superslab *ss)
{
    return ss->state == SUPERSLAB_RUN && CTL_STATE(slab_ctl_read(superslab_slab(ss, 0))) == SLAB_SPAN_HEAD;
}

size_t tail_bytes(const struct slab *head, enum hak_lock_cause cause)
{
    unsigned pages;
    if (span_slots(head) != 0)
        return tail_of_span(head, &pages);
    if (!pool_lock(cause))
        return 0;
    struct superslab *ss = arena_superslab_of(head);
    size_t bytes = is_run(ss) ? run_bytes_behind(ss) : 0;
    pool_unlock();
    return bytes;
}

/* ---- Purging ----------------------------------------------------------------------------------------------------- */

/* The head is marked, so nobody makes anything else of its slots. */
static size_t purge_span(struct slab *head)
{
    unsigned pages;
    if (tail_of_span(head, &pages) == 0)
        return 0;
    struct superslab *ss = arena_superslab_of(head);
    struct slab *last = head + span_slots(head) - 1;
    char *memory = superslab_memory(ss) + (size_t)(last - superslab_slab(ss, 0)) * SLAB_BYTES;
    size_t from_bytes = (size_t)__builtin_ctz(pages) * slab_page_bytes();
    size_t n_bytes = count_bits(pages) * slab_page_bytes();
    superslab_use_small_pages(ss);
    if (!os_purge(memory + from_bytes, SLAB_BYTES - from_bytes))
        return 0;
    /* relaxed: ctl publishes it */
    atomic_fetch_and_explicit(&last->dirty_pages, (uint16_t)~pages, memory_order_relaxed);
    stats_commit(-(int64_t)n_bytes);
    return n_bytes;
}

size_t tail_purge_run_locked(struct superslab *last, size_t used_bytes)
{
    size_t dirty_bytes = last->dirty_prefix_bytes;
    if (dirty_bytes <= used_bytes)
        return 0;
    superslab_use_small_pages(last);
    if (!os_purge(superslab_memory(last) + used_bytes, dirty_bytes - used_bytes))
        return 0;
    superslab_cut_dirty(last, used_bytes);
    return dirty_bytes - used_bytes;
}

size_t tail_purge(struct slab *head, enum hak_lock_cause cause)
{
    slab_ctl ctl = SLAB_CTL(SLAB_SPAN_HEAD, 0, 0), marked = SLAB_CTL(SLAB_SPAN_HEAD, 0, 1);
    struct superslab *ss = arena_superslab_of(head);
    size_t purged_bytes = 0;
    unsigned pages;
    if ((span_slots(head) != 0 && tail_of_span(head, &pages) == 0) || !pool_lock(cause))
        return 0;
    if (atomic_compare_exchange_strong(&head->ctl, &ctl, marked)) {
        if (ss->state == SUPERSLAB_POOLED) {
            purged_bytes = purge_span(head);
        } else if (ss->state == SUPERSLAB_RUN && run_bytes_behind(ss) != 0) {
            size_t used_bytes;
            struct superslab *last = last_of_run(ss, &used_bytes);
            purged_bytes = tail_purge_run_locked(last, used_bytes);
        }
        /* Fails where a signal handler of this very thread has freed the block meanwhile: large.c, defer. */
        atomic_compare_exchange_strong(&head->ctl, &marked, SLAB_CTL(SLAB_SPAN_HEAD, 0, 0));
    }
    pool_unlock();
    return purged_bytes;
}

/* ---- Notes ------------------------------------------------------------------------------------------------------- */

/* Of all blocks, until it is TAIL_LOOK_BYTES. A guess, but for runs. */
static size_t count_tails(void)
{
    size_t sum_bytes = 0;
    for (struct arena *arena = arena_first(); arena != NULL; arena = arena_next(arena)) {
        uint32_t high = atomic_load_explicit(&arena->high, memory_order_acquire);
        for (uint32_t i = 0; i < high && sum_bytes < TAIL_LOOK_BYTES; i++) {
            struct superslab *ss = &arena->superslabs[i];
            enum superslab_state state = atomic_load_explicit(&ss->state, memory_order_acquire);
            if (state == SUPERSLAB_RUN)
                sum_bytes += tail_bytes(superslab_slab(ss, 0), HAK_LOCK_SPAN);
            for (unsigned slot = 0; slot < SUPERSLAB_SLABS && state == SUPERSLAB_POOLED; slot++) {
                const struct slab *slab = superslab_slab(ss, slot);
                unsigned pages;
                if (CTL_STATE(slab_ctl_read(slab)) == SLAB_SPAN_HEAD)
                    sum_bytes += tail_of_span(slab, &pages);
            }
        }
    }
    return sum_bytes;
}

/* Nothing but tails may be idle: then nobody else wakes who looks at them. In a heap of so many GiB that it takes long, a look is
 * followed by LOOK_REST times its length without one. */
bool tail_look(void)
{
    enum { LOOK_REST = 20 };
    static _Atomic uint32_t looked_ms, rest_ms;
    /* relaxed, all: numbers, and hints */
    uint32_t now_ms = os_now_ms(), rest = atomic_load_explicit(&rest_ms, memory_order_relaxed);
    if (rest != 0 && now_ms - atomic_load_explicit(&looked_ms, memory_order_relaxed) < rest)
        return false;
    if (background_runs() || config.purge_delay_ms < 0 || pool_lock_is_mine())
        return true;
    atomic_store_explicit(&pool.waiting_bytes, count_tails(), memory_order_relaxed);
    uint32_t done_ms = os_now_ms();
    atomic_store_explicit(&looked_ms, done_ms, memory_order_relaxed);
    atomic_store_explicit(&rest_ms, (done_ms - now_ms) * LOOK_REST, memory_order_relaxed);
    background_wake();
    return true;
}

void tail_note(const void *block)
{
    unsigned pages;
    struct slab *head = config.secure != 0 || config.purge_delay_ms < 0 ? NULL : registry_slab(block);
    /* the latter: it is packed, and nothing lies behind it */
    if (head == NULL || CTL_STATE(slab_ctl_read(head)) != SLAB_SPAN_HEAD)
        return;
    bool run = span_slots(head) == 0;
    size_t bytes = run ? run_bytes_behind(arena_superslab_of(head)) : tail_of_span(head, &pages);
    if (likely(bytes == 0))
        return;
    if (budget_purge_delay_ms() == 0) {
        stats_add(&stats_counters.purged_bytes, tail_purge(head, HAK_LOCK_SPAN));
        return;
    }
    /* relaxed, both: a number, of which nothing is lost but of two threads at once */
    size_t sum_bytes = atomic_load_explicit(&noted_bytes, memory_order_relaxed) + bytes;
    if (sum_bytes >= TAIL_LOOK_BYTES && tail_look())
        sum_bytes = 0;
    atomic_store_explicit(&noted_bytes, sum_bytes, memory_order_relaxed);
}
