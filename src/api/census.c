/* census.c - see census.h.
 * Owns     nothing.     Called by  introspect.c, tools/     Calls  front/, tier.h (records alone)
 * Threads  any; no lock, so that a process whose lock is stuck can still be asked. What changes meanwhile is off by what was
 *          in flight; no difference goes below 0.
 * I1  Of each class: live + following + cached + free == slabs * blocks per slab.
 * I2  Dirty bytes of the classes + empty_bytes == committed_bytes.
 * I3  The tenths of a tier sum up to its SuperSlabs.     (all exact when nobody allocates)
 */
#include "api/census.h"

#include "front/harden.h"
#include "front/profile.h"
#include "front/thread.h"
#include "pool/tier.h"
#include "service/stats.h"
#include "superslab/slab.h"

#include <string.h>

/* Two figures that were read one after the other. */
static uint64_t beyond(uint64_t whole, uint64_t part)
{
    return whole > part ? whole - part : 0;
}

/* ---- SuperSlabs -------------------------------------------------------------------------------------------------- */

static uint64_t dirty_bytes_of(const struct census_source *source, const struct slab *slab)
{
    /* relaxed, as all that is read here */
    return count_bits(atomic_load_explicit(&slab->dirty_pages, memory_order_relaxed)) * source->slab_page_bytes;
}

static bool is_class(unsigned class_id)
{
    return class_id >= CLASS_FIRST && class_id < CLASS_END;
}

/* A slab with a class. Until all threads' caches are known, a block in one of them counts as live. */
static void add_slab(struct census_class *class, const struct slab *slab, slab_ctl ctl, uint64_t dirty_bytes)
{
    uint64_t n_following = 0;
    if (unlikely(slab_has_gaps(slab)))
        n_following = min_size(atomic_load_explicit(&slab->n_following, memory_order_relaxed), CTL_USED(ctl));
    class->slabs++;
    class->live_blocks += CTL_USED(ctl) - n_following;
    class->following_blocks += n_following;
    class->free_blocks += beyond(class_table[CTL_CLASS(ctl)].n_blocks, CTL_USED(ctl));
    class->dirty_bytes += dirty_bytes;
}

/* A packed span, if one begins there. */
static void add_packed(struct census_class *spans, uint32_t word)
{
    if (PACKED_STATE(word) == PACKED_NONE)
        return;
    bool held = PACKED_STATE(word) != PACKED_LIVE; /* live until part_live_from_cached */
    uint64_t bytes = (held ? PACKED_LENGTH(word) : PACKED_ASKED(word)) * PACKED_PAGE_BYTES;
    spans->live_blocks++;
    spans->live_bytes += bytes;
    spans->cached_blocks += held;
    spans->cached_bytes += held ? bytes : 0;
}

/* 0: the slot has changed hands since its state was read, and a link of the list of idle slabs lies there (a union, layout.h). */
static uint64_t span_bytes_of(const struct slab *head)
{
    uint64_t len_bytes = atomic_load_explicit(&head->span_bytes, memory_order_relaxed);
    return len_bytes <= SPAN_MAX_BYTES ? len_bytes : 0;
}

static void add_slot(const struct census_source *source, struct census *c, const struct slab *slab,
                     struct tier_use *use)
{
    slab_ctl ctl = atomic_load_explicit(&slab->ctl, memory_order_relaxed);
    uint64_t dirty_bytes = dirty_bytes_of(source, slab);
    struct census_class *spans = &c->classes[CENSUS_SPANS];
    switch (CTL_STATE(ctl)) {
    case SLAB_UNUSED:
        c->stats.slots_unused++;
        c->stats.empty_bytes += dirty_bytes;
        break;
    case SLAB_EMPTY:
    case SLAB_TAKEN:
        c->stats.slots_empty++;
        c->stats.empty_bytes += dirty_bytes;
        break;
    case SLAB_SPAN_HEAD:
        spans->live_blocks++;
        spans->live_bytes += span_bytes_of(slab);
        /* fall through */
    case SLAB_SPAN_BODY:
        c->stats.slots_active++;
        spans->slabs++;
        spans->dirty_bytes += dirty_bytes;
        tier_use_add(use, ctl);
        break;
    case SLAB_PACKED:
        for (unsigned i = 0; i < PACKED_HEADS; i++)
            add_packed(spans, atomic_load_explicit(&slab->packed[i].word, memory_order_relaxed));
        c->stats.slots_active++;
        spans->slabs++;
        spans->dirty_bytes += dirty_bytes;
        tier_use_add(use, ctl);
        break;
    case SLAB_HELD: /* live until part_live_from_cached; a block, as it were, of those pages that it has */
        spans->live_blocks++;
        spans->cached_blocks++;
        c->stats.slots_active++;
        spans->slabs++;
        spans->dirty_bytes += dirty_bytes;
        spans->live_bytes += dirty_bytes;
        spans->cached_bytes += dirty_bytes;
        tier_use_add(use, ctl);
        break;
    default:
        c->stats.slots_active++;
        if (!is_class(CTL_CLASS(ctl)))
            break; /* of a damaged heap */
        add_slab(&c->classes[CTL_CLASS(ctl)], slab, ctl, dirty_bytes);
        c->stats.gap_slabs += slab_has_gaps(slab);
        tier_use_add(use, ctl);
    }
}

static unsigned tenth_of(const struct tier_use *use)
{
    if (use->capacity_bytes == 0)
        return 0;
    return (unsigned)min_size(use->used_bytes * HAK_STATS_TENTHS / use->capacity_bytes, HAK_STATS_TENTHS - 1);
}

static void add_pooled(const struct census_source *source, struct census *c, const struct superslab *ss,
                       const struct slab *slabs)
{
    struct tier_use use = {0};
    for (unsigned i = 0; i < SUPERSLAB_SLABS; i++)
        add_slot(source, c, &slabs[i], &use);
    bool draining = atomic_load_explicit(&ss->tier, memory_order_relaxed) == SS_TIER_DRAINING;
    c->stats.superslabs++;
    ++*(draining ? &c->stats.superslabs_draining : &c->stats.superslabs_hot);
    (draining ? c->stats.draining_by_fullness : c->stats.hot_by_fullness)[tenth_of(&use)]++;
}

static uint64_t dirty_bytes_outside_pool(const struct census_source *source, const struct superslab *ss,
                                         const struct slab *slabs)
{
    if (!ss->dirty_by_slab)
        return atomic_load_explicit(&ss->dirty_prefix_bytes, memory_order_relaxed);
    uint64_t sum_bytes = 0;
    for (unsigned i = 0; i < SUPERSLAB_SLABS; i++)
        sum_bytes += dirty_bytes_of(source, &slabs[i]);
    return sum_bytes;
}

static void add_superslab(const struct census_source *source, struct census *c, const struct superslab *ss,
                          const struct slab *slabs)
{
    struct census_class *runs = &c->classes[CENSUS_RUNS];
    switch (atomic_load_explicit(&ss->state, memory_order_relaxed)) {
    case SUPERSLAB_POOLED:
        add_pooled(source, c, ss, slabs);
        break;
    case SUPERSLAB_RUN:
        runs->live_blocks++;
        runs->live_bytes += ss->run_bytes;
        /* fall through */
    case SUPERSLAB_RUN_BODY:
        runs->slabs += SUPERSLAB_SLABS;
        runs->dirty_bytes += dirty_bytes_outside_pool(source, ss, slabs);
        break;
    case SUPERSLAB_CACHED:
        c->stats.superslabs_cached++;
        /* fall through */
    default: /* in somebody's hands; or absent, and dirty because the system refused to take it back */
        c->stats.empty_bytes += dirty_bytes_outside_pool(source, ss, slabs);
        break;
    }
}

static void add_arena(const struct census_source *source, struct census *c, const struct arena *arena)
{
    c->stats.arenas++;
    c->stats.reserved_bytes += arena->len_bytes;
    c->stats.metadata_bytes += atomic_load_explicit(&arena->metadata_committed_bytes, memory_order_relaxed);
    uint32_t high = atomic_load_explicit(&arena->high, memory_order_acquire);
    for (uint32_t i = 0; i < high; i++)
        add_superslab(source, c, &arena->superslabs[i], &arena->slabs[(size_t)i * SUPERSLAB_SLABS]);
}

/* ---- Threads ------------------------------------------------------------------------------------------------------ */

/* Blocks of one class in a thread's hands: in its magazine, its open word, and its quarantine. */
static uint64_t cached_blocks(const struct thread *thread, unsigned class_id)
{
    const struct magazine *magazine = &thread->cache.magazine[class_id];
    uint64_t n = magazine_count(magazine);
    if (n > magazine->max)
        n = 0; /* its thread is just exchanging the array */
    if (class_id < CLASS_FIRST + N_TINY_CLASSES)
        n += count_bits(thread->open_word[class_id].free);
    return n + harden_waiting(thread, class_id);
}

static bool is_in_use(const struct thread *thread)
{
    return atomic_load_explicit(&thread->in_use, memory_order_relaxed) != 0;
}

/* Of a record that no thread has the totals count, too. */
static void add_thread(struct census *c, const struct thread *thread)
{
    if (is_in_use(thread))
        c->stats.threads++;
    c->stats.refills += thread->refills;
    c->stats.flushes += thread->flushes;
    for (unsigned i = CLASS_FIRST; i < CLASS_END; i++)
        c->classes[i].cached_blocks += cached_blocks(thread, i);
}

static void read_thread(const struct census_source *source, const struct thread *thread, struct census_thread *out)
{
    *out =
        (struct census_thread){.thread_id = thread->thread_id, .refills = thread->refills, .flushes = thread->flushes};
    for (unsigned i = CLASS_FIRST; i < CLASS_END; i++) {
        uint64_t n = cached_blocks(thread, i);
        out->cached_by_class[i] = (uint32_t)n;
        out->cached_blocks += n;
        out->cached_bytes += n * class_table[i].bytes;
        out->owned_slabs += thread->current[i] != NULL;
    }
    out->held_slabs = thread->span_cache.held_slabs;
    out->held_bytes = thread_held_pages(thread) * source->slab_page_bytes;
    out->cached_blocks += thread_held_blocks(thread);
    out->cached_bytes += out->held_bytes;
}

bool census_thread_next(const struct census_source *source, const struct thread **at, struct census_thread *out)
{
    const struct thread *thread = *at == NULL ? source->threads : (*at)->next;
    while (thread != NULL && !is_in_use(thread))
        thread = thread->next;
    if (thread == NULL)
        return false;
    *at = thread;
    read_thread(source, thread, out);
    return true;
}

/* ---- Sums --------------------------------------------------------------------------------------------------------- */

/* What was counted as live so far, but is in a cache or waits. */
static void part_live_from_cached(struct census_class *class)
{
    class->live_blocks = beyond(class->live_blocks, class->cached_blocks);
    class->live_bytes = beyond(class->live_bytes, class->cached_bytes);
}

static void sum_classes(const struct census_source *source, struct census *c)
{
    const struct census_class *spans = &c->classes[CENSUS_SPANS], *runs = &c->classes[CENSUS_RUNS];
    struct hak_stats *s = &c->stats;
    s->spans = beyond(spans->live_blocks, spans->cached_blocks);
    s->span_bytes = beyond(spans->live_bytes, spans->cached_bytes);
    s->runs = runs->live_blocks;
    s->run_bytes = runs->live_bytes;
    for (unsigned i = CLASS_FIRST; i < CENSUS_CLASSES; i++) {
        struct census_class *class = &c->classes[i];
        if (i < CLASS_END) {
            class->block_bytes = class_table[i].bytes;
            class->live_bytes = (class->live_blocks + class->following_blocks) * class->block_bytes;
            class->cached_bytes = class->cached_blocks * class->block_bytes;
        }
        part_live_from_cached(class);
        s->live_blocks += class->live_blocks;
        s->live_bytes += class->live_bytes;
        s->cached_blocks += class->cached_blocks;
        s->cached_bytes += class->cached_bytes;
        s->fragmentation_bytes += beyond(class->dirty_bytes, class->live_bytes + class->cached_bytes);
    }
    s->fragmentation_bytes += s->empty_bytes;
    s->live_blocks = beyond(s->live_blocks, source->waiting_blocks);
    s->live_bytes = beyond(s->live_bytes, source->waiting_bytes);
    s->cached_blocks += source->waiting_blocks;
    s->cached_bytes += source->waiting_bytes;
}

static void add_counters(const struct stats_counters *c, struct hak_stats *s)
{
    s->committed_bytes = stats_read(&c->committed_bytes);
    s->peak_committed_bytes = stats_read(&c->peak_committed_bytes);
    s->superslabs_mapped_total = stats_read(&c->superslabs_mapped_total);
    s->superslabs_released_total = stats_read(&c->superslabs_released_total);
    s->superslabs_evicted_total = stats_read(&c->superslabs_evicted_total);
    s->stage_class_list = stats_read(&c->stage_class_list);
    s->stage_slot = stats_read(&c->stage_slot);
    s->stage_reopen = stats_read(&c->stage_reopen);
    s->stage_lru = stats_read(&c->stage_lru);
    s->stage_os = stats_read(&c->stage_os);
    s->slabs_released = stats_read(&c->slabs_released);
    s->slot_reuses_other_class = stats_read(&c->slot_reuses_other_class);
    s->tier_hot_to_draining = stats_read(&c->tier_hot_to_draining);
    s->tier_draining_to_hot = stats_read(&c->tier_draining_to_hot);
    s->tier_to_free = stats_read(&c->tier_to_free);
    s->release_refused_pinned = stats_read(&c->release_refused_pinned);
    s->purged_bytes = stats_read(&c->purged_bytes);
    s->caches_emptied = stats_read(&c->caches_emptied);
    s->mapped_bytes = stats_read(&c->mapped_bytes);
    s->budget_refusals = stats_read(&c->budget_refusals);
    s->budget_reliefs = stats_read(&c->budget_reliefs);
    s->gap_blocks_total = stats_read(&c->gap_blocks_total);
    for (unsigned i = 0; i < HAK_LOCK_N_CAUSES; i++)
        s->lock_acquisitions[i] = stats_read(&c->lock_acquisitions[i]);
    s->lock_contended = stats_read(&c->lock_contended);
}

/* Sums of what is read while it changes: together they are off by what was in flight, and may be so below 0. */
static uint64_t at_least_0(uint64_t sum)
{
    return (int64_t)sum < 0 ? 0 : sum;
}

static void add_rounding(const struct profile_state *profile, struct hak_stats *s)
{
    uint64_t asked_bytes = 0, rounding_bytes = 0, samples = 0;
    size_t n = profile->records == NULL
                   ? 0
                   : min_size(atomic_load_explicit(&profile->n_records, memory_order_acquire), PROFILE_MAX_RECORDS);
    for (size_t i = 1; i <= n; i++) {
        const struct profile_record *record = &profile->records[i];
        if (atomic_load_explicit(&record->total_samples, memory_order_acquire) == 0)
            continue; /* not valid yet */
        samples += (uint64_t)(int32_t)atomic_load_explicit(&record->live_samples, memory_order_relaxed);
        asked_bytes += atomic_load_explicit(&record->live_bytes, memory_order_relaxed);
        rounding_bytes += atomic_load_explicit(&record->live_rounding_bytes, memory_order_relaxed);
    }
    s->rounding_samples = at_least_0(samples);
    s->rounding_bytes = at_least_0(rounding_bytes);
    s->rounding_of_bytes = at_least_0(asked_bytes) + s->rounding_bytes;
}

void census_take(const struct census_source *source, struct census *out)
{
    struct hak_stats *s = &out->stats;
    memset(out, 0, sizeof *out);
    for (const struct arena *arena = source->arenas; arena != NULL;
         arena = atomic_load_explicit(&arena->next, memory_order_acquire))
        add_arena(source, out, arena);
    for (const struct thread *thread = source->threads; thread != NULL; thread = thread->next)
        add_thread(out, thread);
    sum_classes(source, out);
    add_counters(source->counters, s);
    s->version = HAK_STATS_VERSION;
    s->struct_size_bytes = sizeof *s;
    s->metadata_bytes += source->metapool_bytes;
    s->live_blocks += source->sampled_blocks; /* outside of what is committed */
    s->live_bytes += source->sampled_bytes;
    s->sampled_total = source->sampled_total;
    s->waiting_blocks = source->waiting_blocks;
    s->waiting_bytes = source->waiting_bytes;
    s->sampled_blocks = source->sampled_blocks;
    s->sampled_bytes = source->sampled_bytes;
    if (source->profile != NULL)
        add_rounding(source->profile, s);
    s->budget_soft_bytes = source->budget_soft_bytes;
    s->budget_hard_bytes = source->budget_hard_bytes;
}
