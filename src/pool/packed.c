/* packed.c - see packed.h.
 * Owns     the heads of packed blocks; those that wait for the lock (pool_gate).     Called by  large.c, front/span_cache.c
 * Calls    packed_pages.h (where there is room), span.h (slots), lru.h, release.h
 * Threads  blocks are made and put back under the pool lock. A head's word changes by compare-exchange where its block is freed; who holds a
 *          block changes anything else of it.
 */
#include "pool/packed.h"

#include "meta/registry.h"
#include "os/os.h"
#include "pool/lru.h"
#include "pool/pool_state.h"
#include "pool/release.h"
#include "pool/span.h"
#include "service/budget.h"
#include "service/config.h"
#include "service/stats.h"

bool packed_suits(size_t len_bytes)
{
    size_t pages = len_bytes / PACKED_PAGE_BYTES, slots_pages = span_slots_for(len_bytes) * PACKED_PAGES;
    return pages >= PACKED_LEAST_PAGES && pages * 8 <= slots_pages * 7 &&
           slots_pages < SUPERSLAB_SLABS * PACKED_PAGES / 2 && os_page_bytes() == PACKED_PAGE_BYTES &&
           config.secure == 0 && config.purge_delay_ms != 0 && config.huge_pages != HUGE_PAGES_NEVER &&
           !budget_is_set() && stats_read(&stats_counters.committed_bytes) > config.packed_heap_bytes;
}

/* ---- Of one block ------------------------------------------------------------------------------------------------- */

static unsigned page_of(const void *block)
{
    return (unsigned)(((uintptr_t)block & (SUPERSLAB_BYTES - 1)) / PACKED_PAGE_BYTES);
}

/* Whether it is the word of a block that begins there, in its half of a slot. */
static bool begins_at(uint32_t word, const void *block)
{
    return ((uintptr_t)block & (PACKED_PAGE_BYTES - 1)) == 0 &&
           PACKED_PAGE(word) == page_of(block) % (PACKED_PAGES / PACKED_HEADS);
}

static struct packed_head *head_at(struct slab *slab, const void *block)
{
    return &slab->packed[page_of(block) % PACKED_PAGES / (PACKED_PAGES / PACKED_HEADS)];
}

/* The head of a block in this slot; NULL: no block of the program's begins there. */
static struct packed_head *head_in(struct slab *slab, const void *block)
{
    struct packed_head *head = head_at(slab, block);
    uint32_t word = packed_is(slab) ? packed_word(head) : 0;
    return PACKED_STATE(word) == PACKED_LIVE && begins_at(word, block) ? head : NULL;
}

struct packed_head *packed_head_of(const void *block)
{
    struct slab *slab = registry_span_slab(block);
    return slab == NULL ? NULL : head_in(slab, block);
}

/* ---- Claim -------------------------------------------------------------------------------------------------------- */

static void *make_block(struct superslab *ss, unsigned page, size_t len_bytes)
{
    unsigned n = (unsigned)(len_bytes / PACKED_PAGE_BYTES), in_slot = page % PACKED_PAGES;
    struct packed_head *head =
        &superslab_slab(ss, page / PACKED_PAGES)->packed[in_slot / (PACKED_PAGES / PACKED_HEADS)];
    head->sample = 0;
    atomic_store_explicit(&head->word, PACKED_WORD(PACKED_LIVE, in_slot, n, n), memory_order_release);
    return superslab_memory(ss) + page * PACKED_PAGE_BYTES;
}

/* A block among those that are there, in the SuperSlab where it leaves the least of a gap. NULL: it fits nowhere. Lock held. */
static void *claim_here(size_t len_bytes, bool *zeroed)
{
    unsigned n = (unsigned)(len_bytes / PACKED_PAGE_BYTES);
    struct packed_fit fit = packed_find(n);
    if (fit.ss == NULL)
        return NULL;
    *zeroed = packed_take_pages(fit.ss, fit.page, n, 0);
    return make_block(fit.ss, fit.page, len_bytes);
}

/* Returns with the lock held, unless it is NULL: no memory, or the lock was held by what a signal handler interrupted. */
static void *claim_locked(size_t len_bytes, bool *zeroed)
{
    unsigned n = (unsigned)span_slots_for(len_bytes), slot;
    struct superslab *ss;
    if (!pool_lock(HAK_LOCK_SPAN))
        return NULL;
    void *block = claim_here(len_bytes, zeroed);
    if (block != NULL) {
        stats_add(&stats_counters.stage_slot, 1);
        return block;
    }
    if (!span_take_more_slots(n, 1, &ss, &slot))
        return NULL;
    unsigned pages = (unsigned)(len_bytes / PACKED_PAGE_BYTES);
    *zeroed = packed_take_pages(ss, slot * PACKED_PAGES, pages, superslab_slot_mask(slot, n));
    return make_block(ss, slot * PACKED_PAGES, len_bytes);
}

void *packed_claim(size_t len_bytes, bool *zeroed)
{
    void *block = claim_locked(len_bytes, zeroed);
    if (block != NULL)
        pool_unlock();
    return block;
}

/* ---- Return ------------------------------------------------------------------------------------------------------- */

/* Puts back what this word was the head of, in the state that is expected. False: it is in another. Lock held. */
static bool put(const void *block, struct packed_head *head, enum packed_state expected)
{
    uint32_t word = packed_word(head);
    if (!begins_at(word, block) || PACKED_STATE(word) != expected ||
        !atomic_compare_exchange_strong(&head->word, &word, 0))
        return false;
    struct superslab *freed = packed_put_pages(registry_slab(block)->superslab, page_of(block), PACKED_LENGTH(word));
    if (freed != NULL)
        lru_push(freed, 1);
    return true;
}

/* What follows when pages were put back. Lock held; returns without it. */
static void unlock_after_put(void)
{
    pool_unlock();
    release_evicted();
    shared_pool_slots_emptied(HAK_LOCK_SPAN);
    shared_pool_note_sparser(SLAB_BYTES / 2); /* more or less */
}

static bool defer(const void *block, struct packed_head *head)
{
    uint32_t word = packed_word(head);
    if (PACKED_STATE(word) != PACKED_LIVE || !begins_at(word, block) ||
        !atomic_compare_exchange_strong(
            &head->word, &word,
            PACKED_WORD(PACKED_WAITING, PACKED_PAGE(word), PACKED_LENGTH(word), PACKED_ASKED(word))))
        return false; /* freed twice */
    head->next_waiting = atomic_load(&pool_gate.deferred_packed);
    while (!atomic_compare_exchange_weak(&pool_gate.deferred_packed, &head->next_waiting, head))
        continue;
    return true;
}

static COLD void put_deferred(void)
{
    if (pool_lock_is_mine()) /* a signal handler that interrupted its holder, which may come here many times */
        return;
    struct packed_head *head = atomic_exchange(&pool_gate.deferred_packed, NULL);
    while (head != NULL) {
        struct packed_head *next = head->next_waiting;
        const struct slab *slab = (const struct slab *)((uintptr_t)head & ~(uintptr_t)(sizeof *slab - 1));
        unsigned half = (unsigned)(head - slab->packed) * (PACKED_PAGES / PACKED_HEADS);
        pool_lock_again(HAK_LOCK_SPAN, head);
        put(slab->memory + (half + PACKED_PAGE(packed_word(head))) * PACKED_PAGE_BYTES, head, PACKED_WAITING);
        unlock_after_put();
        budget_note_freed();
        head = next;
    }
}

void packed_put_deferred(void)
{
    /* relaxed: the next one sees it */
    if (unlikely(atomic_load_explicit(&pool_gate.deferred_packed, memory_order_relaxed) != NULL))
        put_deferred();
}

bool packed_return(const void *block, struct packed_head *head)
{
    if (!pool_lock(HAK_LOCK_SPAN))
        return defer(block, head);
    /* Another thread may have returned it meanwhile, and its slot may be a slab's. */
    if (packed_head_of(block) != head || !put(block, head, PACKED_LIVE)) {
        pool_unlock();
        return false;
    }
    unlock_after_put();
    budget_note_freed();
    return true;
}

/* ---- Resize ------------------------------------------------------------------------------------------------------- */

/* Lock held. */
static bool resize(const void *block, struct packed_head *head, size_t len_bytes)
{
    uint32_t word = packed_word(head);
    struct superslab *ss = registry_slab(block)->superslab;
    unsigned page = page_of(block), n_old = PACKED_LENGTH(word), n_asked = (unsigned)(len_bytes / PACKED_PAGE_BYTES);
    unsigned n = n_asked < PACKED_LEAST_PAGES ? PACKED_LEAST_PAGES : n_asked;
    if (n > n_old && !packed_take_behind(ss, page + n_old, n - n_old))
        return false;
    atomic_store_explicit(&head->word, PACKED_WORD(PACKED_LIVE, page % PACKED_PAGES, n, n_asked), memory_order_release);
    if (n < n_old)
        packed_put_pages(ss, page + n, n_old - n);
    return true;
}

bool packed_resize(const void *block, struct packed_head *head, size_t len_bytes)
{
    if (len_bytes > SPAN_GROWN_MAX_BYTES || !pool_lock(HAK_LOCK_SPAN))
        return false;
    bool shorter = len_bytes < packed_bytes(head), resized = resize(block, head, len_bytes);
    if (shorter) {
        unlock_after_put();
        budget_note_freed();
    } else {
        pool_unlock();
    }
    return resized;
}

/* ---- Held --------------------------------------------------------------------------------------------------------- */

unsigned packed_hold_ahead(size_t len_bytes, unsigned most, struct packed_block *blocks)
{
    unsigned n = 0;
    bool zeroed;
    void *block = claim_locked(len_bytes, &zeroed); /* which may map a SuperSlab; the others don't */
    while (block != NULL) {
        blocks[n++] = (struct packed_block){block, (uint32_t)(len_bytes / PACKED_PAGE_BYTES), zeroed};
        packed_hold(registry_slab(block), block);
        block = n < most ? claim_here(len_bytes, &zeroed) : NULL;
    }
    if (n != 0)
        pool_unlock();
    return n;
}

unsigned packed_length_in(struct slab *slab, const void *block)
{
    const struct packed_head *head = head_in(slab, block);
    return head == NULL || head->sample != 0 ? 0 : PACKED_LENGTH(packed_word(head));
}

unsigned packed_hold(struct slab *slab, const void *block)
{
    struct packed_head *head = head_at(slab, block);
    uint32_t word =
        packed_is(slab) ? packed_word(head) : 0; /* read once: should others free it too, one of us takes it */
    if (PACKED_STATE(word) != PACKED_LIVE || !begins_at(word, block) ||
        atomic_load(&slab->superslab->tier) == SS_TIER_DRAINING)
        return 0;
    unsigned n = PACKED_LENGTH(word);
    bool ours = atomic_compare_exchange_strong(&head->word, &word,
                                               PACKED_WORD(PACKED_HELD, PACKED_PAGE(word), n, PACKED_ASKED(word)));
    return ours ? n : 0;
}

static struct packed_head *held_head(const void *block)
{
    return head_at(registry_slab(block), block);
}

void packed_give(const void *block, unsigned asked_pages)
{
    struct packed_head *head = held_head(block);
    uint32_t word = packed_word(head);
    head->sample = 0;
    atomic_store_explicit(&head->word, PACKED_WORD(PACKED_LIVE, PACKED_PAGE(word), PACKED_LENGTH(word), asked_pages),
                          memory_order_release);
}

void packed_put_held(const struct packed_block *blocks, unsigned n)
{
    if (n == 0)
        return;
    pool_lock_again(HAK_LOCK_SPAN, blocks);
    for (unsigned i = 0; i < n; i++)
        put(blocks[i].block, held_head(blocks[i].block), PACKED_HELD);
    unlock_after_put();
}
