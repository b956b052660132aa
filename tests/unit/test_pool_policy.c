/* test_pool_policy.c - what the shared pool decides: which stage serves, which slot is taken, when a SuperSlab drains,
 * why a release is refused, what a reference keeps, what the LRU cache does; and that a block has one holder.
 * Checked: the counters of each stage as differences, slot states, pool_check; after every test the pool is empty.
 * Slabs are acquired and disowned directly, so that no magazine stands between a call and what it brings about. Only
 * what is about programs works through hak_malloc.
 * Threads  one, save in the test of references beside other threads and in that of one owner.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "front/thread.h"
#include "hakmem/hakmem.h"
#include "meta/registry.h"
#include "os/os.h"
#include "pool/dirty.h"
#include "pool/large.h"
#include "pool/lru.h"
#include "pool/release.h"
#include "pool/shared_pool.h"
#include "service/config.h"
#include "look.h"

#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MAX_BLOCKS 8192

static void *claimed[MAX_BLOCKS];
static struct slab *slabs[3 * SUPERSLAB_SLABS];

static int start(void **state)
{
    (void)state;
    thread_start_process();
    return 0;
}

/* Nothing is left of the last test. */
static int assert_pool_is_empty(void **state)
{
    (void)state;
    hak_trim(HAK_TRIM_PAGES);
    struct hak_stats s = read_stats();
    assert_null(pool_check());
    assert_int_equal(s.superslabs, 0);
    assert_int_equal(s.superslabs_cached, 0);
    assert_int_equal(s.live_blocks, 0);
    assert_int_equal(s.committed_bytes, 0);
    return 0;
}

static unsigned slot_of(const struct slab *slab)
{
    return superslab_slot_of(slab->superslab, slab);
}

static enum slab_state state_of(const struct slab *slab)
{
    return CTL_STATE(slab_ctl_read(slab));
}

static enum superslab_tier tier_of(const struct superslab *ss)
{
    return (enum superslab_tier)atomic_load(&ss->tier);
}

static struct slab *acquire(unsigned class_id)
{
    struct slab *slab = shared_pool_acquire_slab(class_id);
    assert_non_null(slab);
    assert_int_equal(state_of(slab), SLAB_OWNED);
    assert_int_equal(CTL_CLASS(slab_ctl_read(slab)), class_id);
    return slab;
}

/* A slab whose every block is out, and which is nobody's. */
static struct slab *acquire_full(unsigned class_id)
{
    struct slab *slab = acquire(class_id);
    unsigned n_blocks = class_table[class_id].n_blocks;
    assert_int_equal(slab_claim(slab, n_blocks, UINT16_MAX, claimed), n_blocks);
    shared_pool_disown_slab(slab);
    assert_int_equal(state_of(slab), SLAB_FULL);
    return slab;
}

/* Returns all blocks but the first `keep`: one by one, or as many at once as a word of the bit map has. */
static void give_blocks_by(struct slab *slab, unsigned keep, bool singly)
{
    unsigned n_words = slab->n_words, n_blocks = class_table[CTL_CLASS(slab_ctl_read(slab))].n_blocks;
    for (unsigned w = 0; w < n_words; w++) {
        uint64_t out = 0;
        for (unsigned b = w * 64; b < n_blocks && b < w * 64 + 64; b++)
            if (b >= keep && (atomic_load(&slab->bits[w]) >> (b % 64) & 1) == 0)
                out |= (uint64_t)1 << (b % 64);
        while (out != 0) {
            uint64_t mask = singly ? out & -out : out;
            assert_int_equal(shared_pool_return_blocks(slab, w, mask), 0);
            out &= ~mask;
        }
    }
}

static void give_blocks(struct slab *slab, unsigned keep)
{
    give_blocks_by(slab, keep, true);
}

struct stages {
    unsigned class_list, slot, reopen, lru, os;
};

static void assert_stages(const struct hak_stats *before, struct stages n)
{
    struct hak_stats after = read_stats();
    assert_int_equal(after.stage_class_list - before->stage_class_list, n.class_list);
    assert_int_equal(after.stage_slot - before->stage_slot, n.slot);
    assert_int_equal(after.stage_reopen - before->stage_reopen, n.reopen);
    assert_int_equal(after.stage_lru - before->stage_lru, n.lru);
    assert_int_equal(after.stage_os - before->stage_os, n.os);
}

/* ---- Stages ------------------------------------------------------------------------------------------------------ */

static void each_stage_is_counted(void **state)
{
    (void)state;
    unsigned a = class_of(2048), b = class_of(512);
    struct hak_stats before = read_stats();
    struct slab *first = acquire(a);
    assert_stages(&before, (struct stages){.os = 1});
    assert_int_equal(read_stats().superslabs_mapped_total, before.superslabs_mapped_total + 1);

    before = read_stats();
    struct slab *second = acquire(b);
    assert_stages(&before, (struct stages){.slot = 1});
    assert_ptr_equal(second->superslab, first->superslab);

    assert_int_equal(slab_claim(first, 1, UINT16_MAX, claimed), 1);
    shared_pool_disown_slab(first);
    before = read_stats();
    assert_ptr_equal(acquire(a), first);
    assert_stages(&before, (struct stages){.class_list = 1});

    before = read_stats();
    struct slab *third = acquire(a); /* the first is owned, so it is not listed */
    assert_ptr_not_equal(third, first);
    assert_stages(&before, (struct stages){.slot = 1});

    give_blocks(first, 0);
    shared_pool_disown_slab(first);
    shared_pool_disown_slab(second);
    before = read_stats();
    assert_int_equal(before.superslabs, 1);
    shared_pool_disown_slab(third); /* the last: gone at once, past the LRU cache */
    struct hak_stats after = read_stats();
    assert_int_equal(after.superslabs, 0);
    assert_int_equal(after.superslabs_released_total, before.superslabs_released_total + 1);
    assert_int_equal(after.superslabs_evicted_total, before.superslabs_evicted_total);
    assert_int_equal(after.tier_to_free, before.tier_to_free + 1);
    assert_int_equal(after.slabs_released, before.slabs_released + 1);
    assert_int_equal(lru_count(), 0);
}

/* What spans leave in the LRU cache serves a slab before the system does. */
static void the_lru_cache_comes_before_the_system(void **state)
{
    (void)state;
    bool zeroed;
    void *span = large_claim(40000, 1, LARGE_ANYWHERE, &zeroed);
    assert_non_null(span);
    assert_true(large_return(span));
    assert_int_equal(lru_count(), 1);
    struct hak_stats before = read_stats();
    struct slab *slab = acquire(class_of(100));
    assert_stages(&before, (struct stages){.lru = 1});
    assert_int_equal(lru_count(), 0);
    assert_int_equal(read_stats().superslabs_mapped_total, before.superslabs_mapped_total);
    shared_pool_disown_slab(slab);
}

/* Fills a fresh SuperSlab with slabs of the class and returns all but `keep` blocks of each. */
static struct superslab *fill_and_thin_out(unsigned class_id, unsigned keep, bool singly)
{
    for (unsigned i = 0; i < SUPERSLAB_SLABS; i++) {
        slabs[i] = acquire_full(class_id);
        assert_ptr_equal(slabs[i]->superslab, slabs[0]->superslab);
    }
    struct superslab *ss = slabs[0]->superslab;
    assert_int_equal(tier_of(ss), SS_TIER_HOT);
    for (unsigned i = 0; i < SUPERSLAB_SLABS; i++)
        give_blocks_by(slabs[i], keep, singly);
    return ss;
}

static struct superslab *make_draining(unsigned class_id, unsigned keep)
{
    struct superslab *ss = fill_and_thin_out(class_id, keep, true);
    assert_int_equal(tier_of(ss), SS_TIER_DRAINING);
    return ss;
}

/* A slab of the SuperSlab takes blocks until `upto` are out, and is let go. */
static void refill_slab(struct slab *slab, unsigned upto)
{
    slab_ctl ctl = slab_ctl_read(slab);
    assert_true(slab_own(slab, CTL_CLASS(ctl)));
    class_set_drop(slab->superslab->arena, CTL_CLASS(ctl), slab_index(slab->superslab->arena, slab));
    assert_int_equal(slab_claim(slab, upto - CTL_USED(ctl), UINT16_MAX, claimed), upto - CTL_USED(ctl));
    shared_pool_disown_slab(slab);
}

/* One block above a quarter is HOT, exactly a quarter is DRAINING; and between a quarter and a half nothing ever
 * changes, on the way down as on the way up again after it was reopened. */
static void the_threshold_is_exact_and_does_not_flap(void **state)
{
    (void)state;
    unsigned a = class_of(2048), n_blocks = class_table[a].n_blocks;
    struct hak_stats before = read_stats();
    struct superslab *ss = fill_and_thin_out(a, n_blocks / 4 + 1, true);
    assert_int_equal(tier_of(ss), SS_TIER_HOT);
    assert_false(atomic_load(&ss->rising));
    for (unsigned round = 0; round < 50; round++)
        for (unsigned i = 0; i < SUPERSLAB_SLABS; i++) {
            refill_slab(slabs[i], n_blocks / 2);
            if (round % 2 == 0)
                give_blocks(slabs[i], n_blocks / 4 + 1);
            else if (i > 0)
                give_blocks(slabs[i - 1], n_blocks / 4 + 1);
            else
                give_blocks(slabs[SUPERSLAB_SLABS - 1], n_blocks / 4 + 1);
        }
    assert_int_equal(read_stats().tier_hot_to_draining, before.tier_hot_to_draining);
    assert_int_equal(tier_of(ss), SS_TIER_HOT);
    for (unsigned i = 0; i < SUPERSLAB_SLABS; i++) {
        assert_int_equal(tier_of(ss), SS_TIER_HOT);
        give_blocks(slabs[i], n_blocks / 4);
    }
    assert_int_equal(tier_of(ss), SS_TIER_DRAINING);
    assert_int_equal(superslab_use(ss).used_bytes * 4, superslab_use(ss).capacity_bytes);
    assert_int_equal(read_stats().tier_hot_to_draining, before.tier_hot_to_draining + 1);

    shared_pool_disown_slab(acquire(a)); /* reopens it */
    assert_int_equal(tier_of(ss), SS_TIER_HOT);
    before = read_stats();
    for (unsigned round = 0; round < 50; round++)
        for (unsigned i = 0; i < SUPERSLAB_SLABS; i++) {
            refill_slab(slabs[i], n_blocks / 2);
            give_blocks(slabs[i], round % 2 == 0 ? 2 : n_blocks / 4);
        }
    assert_int_equal(read_stats().tier_hot_to_draining, before.tier_hot_to_draining);
    for (unsigned i = 0; i < SUPERSLAB_SLABS; i++) {
        struct tier_use use = superslab_use(ss);
        assert_int_equal(atomic_load(&ss->rising), use.used_bytes * 2 <= use.capacity_bytes);
        refill_slab(slabs[i], n_blocks);
    }
    assert_false(atomic_load(&ss->rising)); /* It has been more than half full, so it may drain again. */
    for (unsigned i = 0; i < SUPERSLAB_SLABS; i++)
        give_blocks(slabs[i], n_blocks / 4);
    assert_int_equal(tier_of(ss), SS_TIER_DRAINING);
    for (unsigned i = 0; i < SUPERSLAB_SLABS; i++)
        give_blocks(slabs[i], 0);
    assert_int_equal(ss->state, SUPERSLAB_ABSENT);
}

/* However many blocks come back in one call, a quarter or less in use is DRAINING. */
static void a_large_return_drains_too(void **state)
{
    (void)state;
    static const struct {
        unsigned block_bytes, keep;
    } rows[] = {{1024, 16}, {1024, 3}, {2048, 4}, {4096, 1}, {16384, 1}};
    for (size_t k = 0; k < sizeof rows / sizeof rows[0]; k++) {
        struct superslab *ss = fill_and_thin_out(class_of(rows[k].block_bytes), rows[k].keep, false);
        enum superslab_tier tier = tier_of(ss);
        struct tier_use use = superslab_use(ss);
        for (unsigned i = 0; i < SUPERSLAB_SLABS; i++)
            give_blocks(slabs[i], 0);
        if (tier != SS_TIER_DRAINING)
            fail_msg("%zu of %zu bytes in blocks of %u are in use, and the SuperSlab is not DRAINING", use.used_bytes,
                     use.capacity_bytes, rows[k].block_bytes);
    }
}

/* A SuperSlab that drains loses slots; it does not begin to drain again. */
static void draining_begins_once(void **state)
{
    (void)state;
    struct superslab *ss = make_draining(class_of(2048), 4);
    uint64_t n_drained = read_stats().tier_hot_to_draining;
    for (unsigned i = 0; i < SUPERSLAB_SLABS - 1; i++)
        give_blocks(slabs[i], 0);
    assert_null(pool_check());
    assert_int_equal(tier_of(ss), SS_TIER_DRAINING);
    assert_int_equal(read_stats().tier_hot_to_draining, n_drained);
    give_blocks(slabs[SUPERSLAB_SLABS - 1], 0);
}

static void draining_reopens_before_new_memory(void **state)
{
    (void)state;
    unsigned a = class_of(2048), b = class_of(512);
    struct superslab *ss = make_draining(a, 4);                  /* an eighth of 32 */
    assert_int_equal(class_set_find(ss->arena, a, 0), SIZE_MAX); /* its slabs are listed no longer */
    assert_null(pool_check());
    struct hak_stats before = read_stats();
    struct slab *slab = acquire(a);
    assert_stages(&before, (struct stages){.reopen = 1, .class_list = 1});
    assert_int_equal(read_stats().tier_draining_to_hot, before.tier_draining_to_hot + 1);
    assert_ptr_equal(slab->superslab, ss);
    assert_int_equal(tier_of(ss), SS_TIER_HOT);
    assert_true(atomic_load(&ss->rising)); /* so it does not drain again at once */
    assert_null(pool_check());
    shared_pool_disown_slab(slab);
    assert_int_equal(tier_of(ss), SS_TIER_HOT);
    for (unsigned i = 0; i < SUPERSLAB_SLABS; i++)
        give_blocks(slabs[i], 0);
    assert_int_equal(ss->state, SUPERSLAB_ABSENT);

    /* For another class a DRAINING SuperSlab helps with a free slot, and only with one. */
    ss = make_draining(a, 4);
    before = read_stats();
    slab = acquire(b);
    assert_stages(&before, (struct stages){.os = 1});
    assert_int_equal(tier_of(ss), SS_TIER_DRAINING);
    shared_pool_disown_slab(slab);
    give_blocks(slabs[7], 0);
    assert_int_equal(state_of(slabs[7]), SLAB_EMPTY);
    before = read_stats();
    slab = acquire(b);
    assert_stages(&before, (struct stages){.reopen = 1, .slot = 1});
    assert_int_equal(read_stats().slot_reuses_other_class, before.slot_reuses_other_class + 1);
    assert_ptr_equal(slab, slabs[7]);
    shared_pool_disown_slab(slab);
    for (unsigned i = 0; i < SUPERSLAB_SLABS; i++)
        if (i != 7)
            give_blocks(slabs[i], 0);
}

/* While another SuperSlab is HOT and has slots, a DRAINING one gets neither slabs nor spans. */
static void draining_gets_nothing_while_there_is_room(void **state)
{
    (void)state;
    unsigned a = class_of(2048), b = class_of(4096);
    for (unsigned i = 0; i < SUPERSLAB_SLABS; i++)
        slabs[i] = acquire_full(a);
    struct slab *other = acquire_full(a); /* in a second SuperSlab, which stays HOT */
    struct superslab *ss = slabs[0]->superslab, *hot = other->superslab;
    assert_ptr_not_equal(ss, hot);
    for (unsigned i = 0; i < SUPERSLAB_SLABS; i++)
        give_blocks(slabs[i], i == 5 ? 0 : 3);
    assert_int_equal(tier_of(ss), SS_TIER_DRAINING);
    assert_int_equal(state_of(slabs[5]), SLAB_EMPTY);
    struct slab *taken[SUPERSLAB_SLABS];
    unsigned n = 0;
    bool zeroed;
    void *span = large_claim(3 * SLAB_BYTES, 1, LARGE_ANYWHERE, &zeroed);
    assert_ptr_equal(registry_arena(span), hot->arena);
    assert_int_equal(arena_slab_index(hot->arena, span) / SUPERSLAB_SLABS, hot->index);
    /* A slab that was listed too late, by a thread that had seen its SuperSlab HOT, is not had either. */
    class_set_enter(ss->arena, a, (size_t)(slabs[1] - ss->arena->slabs));
    while (n < SUPERSLAB_SLABS - 4) {
        taken[n] = acquire(n % 2 == 0 ? a : b);
        assert_ptr_equal(taken[n]->superslab, hot);
        assert_int_equal(tier_of(ss), SS_TIER_DRAINING);
        n++;
    }
    struct hak_stats before = read_stats();
    taken[n] = acquire(b); /* The other is full now. */
    assert_ptr_equal(taken[n++], slabs[5]);
    assert_stages(&before, (struct stages){.reopen = 1, .slot = 1});
    while (n > 0)
        shared_pool_disown_slab(taken[--n]);
    assert_true(large_return(span));
    give_blocks(other, 0);
    for (unsigned i = 0; i < SUPERSLAB_SLABS; i++)
        if (i != 5)
            give_blocks(slabs[i], 0);
}

/* Blocks of a DRAINING SuperSlab on pages that are in memory come before pages that are not; slabs whose free pages were all
 * given back do not. */
static void draining_reopens_before_fresh_pages(void **state)
{
    (void)state;
    unsigned a = class_of(2048), b = class_of(4096);
    for (unsigned purged = 0; purged < 2; purged++) {
        struct superslab *ss = make_draining(a, 2);
        struct slab *fresh = acquire_full(b); /* a HOT SuperSlab with room */
        assert_ptr_not_equal(fresh->superslab, ss);
        if (purged)
            shared_pool_purge_pages();
        struct hak_stats before = read_stats();
        assert_null(shared_pool_acquire_recycled(b, slabs[0])); /* of another class there is nothing */
        assert_int_equal(tier_of(ss), SS_TIER_DRAINING);
        struct slab *slab = shared_pool_acquire_recycled(a, slabs[0]);
        if (slab != NULL) {
            assert_ptr_equal(slab->superslab, ss);
            assert_int_equal(tier_of(ss), SS_TIER_HOT);
            assert_true(slab_has_recycled(slab));
            assert_stages(&before, (struct stages){.class_list = 1, .reopen = 1});
            shared_pool_disown_slab(slab);
        }
        assert_true((slab != NULL) == (!purged || slab_page_bytes() > 4096)); /* two blocks fill a page of 4096 */
        give_blocks(fresh, 0);
        for (unsigned i = 0; i < SUPERSLAB_SLABS; i++)
            give_blocks(slabs[i], 0);
        hak_trim(HAK_TRIM_PAGES);
    }
}

/* A span of a DRAINING SuperSlab does not grow into the free slot behind it. */
static void a_draining_span_does_not_grow(void **state)
{
    (void)state;
    bool zeroed;
    char *span = large_claim(SLAB_BYTES, 1, LARGE_ANYWHERE, &zeroed);
    for (unsigned i = 0; i < SUPERSLAB_SLABS - 1; i++)
        slabs[i] = acquire_full(class_of(2048));
    struct superslab *ss = slabs[0]->superslab;
    assert_ptr_equal(span, superslab_memory(ss));
    assert_ptr_equal(slabs[0]->memory, span + SLAB_BYTES);
    for (unsigned i = 0; i < SUPERSLAB_SLABS - 1; i++)
        give_blocks(slabs[i], i == 0 ? 0 : 4);
    assert_int_equal(tier_of(ss), SS_TIER_DRAINING);
    assert_int_equal(state_of(slabs[0]), SLAB_EMPTY);
    assert_false(large_resize(span, 2 * SLAB_BYTES));
    assert_int_equal(large_usable_bytes(span), SLAB_BYTES);
    assert_int_equal(state_of(slabs[0]), SLAB_EMPTY);
    assert_null(pool_check());
    for (unsigned i = 1; i < SUPERSLAB_SLABS - 1; i++)
        give_blocks(slabs[i], 0);
    assert_true(large_return(span));
}

enum { N_OWN = 1024 }; /* blocks of 2 KiB: a SuperSlab's worth */
static void *own_blocks[N_OWN];

static void *free_most(void *unused)
{
    for (unsigned i = 0; i < N_OWN; i++)
        if (i % 32 >= 3) {
            hak_free(own_blocks[i]);
            own_blocks[i] = NULL;
        }
    return unused;
}

/* A thread lets go of the slab that it claims from, once others' frees have made its SuperSlab DRAINING. */
static void a_thread_leaves_its_draining_slab(void **state)
{
    (void)state;
    for (unsigned i = 0; i < N_OWN; i++)
        own_blocks[i] = hak_malloc(2048);
    struct arena *arena = registry_arena(own_blocks[0]);
    struct superslab *ss = &arena->superslabs[arena_slab_index(arena, own_blocks[0]) / SUPERSLAB_SLABS];
    assert_ptr_equal(&arena->superslabs[arena_slab_index(arena, own_blocks[N_OWN - 1]) / SUPERSLAB_SLABS], ss);
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, free_most, NULL), 0);
    pthread_join(thread, NULL);
    assert_int_equal(tier_of(ss), SS_TIER_DRAINING);
    assert_int_equal(state_of(superslab_slab(ss, SUPERSLAB_SLABS - 1)), SLAB_OWNED);
    struct hak_stats before = read_stats();
    void *block = hak_malloc(2048); /* from there by reopening, which is asked of the pool, or from elsewhere */
    struct superslab *from = &arena->superslabs[arena_slab_index(arena, block) / SUPERSLAB_SLABS];
    assert_int_equal(tier_of(from), SS_TIER_HOT);
    assert_stages(&before, (struct stages){.reopen = 1, .class_list = 1});
    hak_free(block);
    for (unsigned i = 0; i < N_OWN; i++)
        hak_free(own_blocks[i]);
}

/* A slot is taken from the fullest SuperSlab, so that the emptiest may become empty. */
static void the_fullest_superslab_comes_first(void **state)
{
    (void)state;
    unsigned a = class_of(32768), b = class_of(1000);
    for (unsigned i = 0; i < 2 * SUPERSLAB_SLABS + 1; i++)
        slabs[i] = acquire_full(a);
    struct superslab *first = slabs[0]->superslab, *second = slabs[32]->superslab, *third = slabs[64]->superslab;
    for (unsigned i = 0; i < 5; i++)
        give_blocks(slabs[i * 3], 0);
    for (unsigned i = 0; i < 2; i++)
        give_blocks(slabs[32 + i * 7], 0);
    struct slab *taken[8];
    for (unsigned n = 0; n < 8; n++) {
        taken[n] = acquire(b);
        assert_ptr_equal(taken[n]->superslab, n < 2 ? second : n < 7 ? first : third);
    }
    assert_null(pool_check());
    for (unsigned n = 0; n < 8; n++)
        shared_pool_disown_slab(taken[n]);
    for (unsigned i = 0; i < 2 * SUPERSLAB_SLABS + 1; i++)
        if ((i >= 15 || i % 3 != 0) && i != 32 && i != 39)
            give_blocks(slabs[i], 0);
}

/* ---- Slots ------------------------------------------------------------------------------------------------------- */

static unsigned class_in_map(const struct slab *slab)
{
    const struct arena *arena = slab->superslab->arena;
    return atomic_load(&arena->class_map[slab_index(arena, slab)]) / CLASS_OFFSET_SCALE;
}

static void an_emptied_slot_serves_another_class(void **state)
{
    (void)state;
    struct slab *keeper = acquire_full(class_of(32768));
    const struct slab *slot = NULL;
    unsigned last_class = 0;
    for (unsigned id = CLASS_FIRST; id < CLASS_END; id++) {
        struct hak_stats before = read_stats();
        struct slab *slab = acquire_full(id);
        assert_true(slot == NULL || slab == slot); /* the EMPTY one, whose pages are there already */
        assert_int_equal(read_stats().slot_reuses_other_class - before.slot_reuses_other_class,
                         last_class != 0 && last_class != id);
        assert_int_equal(class_in_map(slab), id);
        slot = slab;
        last_class = id;
        before = read_stats();
        assert_int_equal(before.slots_active, 2);
        give_blocks(slab, 0);
        struct hak_stats after = read_stats();
        assert_int_equal(after.slabs_released, before.slabs_released + 1);
        assert_int_equal(after.slots_active, 1);
        assert_int_equal(after.slots_empty, before.slots_empty + 1);
        assert_int_equal(state_of(slab), SLAB_EMPTY);
        assert_int_equal(class_in_map(slab), CLASS_FOREIGN);
        assert_null(pool_check());
    }
    give_blocks(keeper, 0);
}

/* Which of several slots serves: one without free neighbours before one that has pages, and that before any; from the end for a
 * class whose bit maps lie apart, else from the beginning. */
static void a_slab_leaves_rows_whole(void **state)
{
    (void)state;
    unsigned a = class_of(4096), b = class_of(64);
    for (unsigned i = 0; i < 8; i++)
        slabs[i] = acquire_full(a);
    struct slab *small[2] = {acquire(b), acquire(class_of(112))};
    assert_int_equal(slot_of(slabs[0]), 0);
    assert_int_equal(slot_of(slabs[7]), 7);
    assert_int_equal(slot_of(small[0]), SUPERSLAB_SLABS - 1);
    assert_int_equal(slot_of(small[1]), SUPERSLAB_SLABS - 2);
    give_blocks(slabs[1], 0); /* alone */
    give_blocks(slabs[3], 0); /* a row of two */
    give_blocks(slabs[4], 0);
    shared_pool_purge_empty(0, HAK_LOCK_TRIM);
    give_blocks(slabs[6], 0); /* alone, with pages */
    struct slab *taken[4] = {acquire(b), acquire(a), acquire(b), acquire(a)};
    assert_int_equal(slot_of(taken[0]), 6);
    assert_int_equal(slot_of(taken[1]), 1);
    assert_int_equal(slot_of(taken[2]),
                     SUPERSLAB_SLABS - 3); /* nobody is alone: the row of two is no better than the long one */
    assert_int_equal(slot_of(taken[3]), 3);
    assert_null(pool_check());
    for (unsigned i = 0; i < 4; i++)
        shared_pool_disown_slab(taken[i]);
    shared_pool_disown_slab(small[0]);
    shared_pool_disown_slab(small[1]);
    static const unsigned rest[] = {0, 2, 5, 7};
    for (unsigned i = 0; i < 4; i++)
        give_blocks(slabs[rest[i]], 0);
}

/* An EMPTY slot, whose pages are there, comes before an UNUSED one that lies lower. */
static void a_slot_with_pages_comes_first(void **state)
{
    (void)state;
    unsigned a = class_of(4096);
    for (unsigned i = 0; i < 5; i++)
        slabs[i] = acquire_full(a);
    give_blocks(slabs[1], 0);
    shared_pool_purge_empty(0, HAK_LOCK_TRIM);
    assert_int_equal(state_of(slabs[1]), SLAB_UNUSED);
    give_blocks(slabs[3], 0);
    assert_int_equal(state_of(slabs[3]), SLAB_EMPTY);
    struct slab *taken[2] = {acquire(a), acquire(a)};
    assert_ptr_equal(taken[0], slabs[3]);
    assert_ptr_equal(taken[1], slabs[1]);
    shared_pool_disown_slab(taken[0]);
    shared_pool_disown_slab(taken[1]);
    give_blocks(slabs[0], 0);
    give_blocks(slabs[2], 0);
    give_blocks(slabs[4], 0);
}

/* Only so many EMPTY slots keep their pages; the others' are given back, and are zero when a span gets them. */
static void empty_slots_are_purged_beyond_the_limit(void **state)
{
    (void)state;
    enum { N = 20, LIMIT = 10 };
    size_t empty_slabs = config.empty_slabs;
    unsigned a = class_of(1024);
    struct slab *keeper = acquire_full(a);
    config.empty_slabs = LIMIT;
    for (unsigned i = 0; i < N; i++) {
        slabs[i] = acquire_full(a);
        memset(slabs[i]->memory, 0xa5, SLAB_BYTES);
    }
    for (unsigned i = 0; i < N; i++) {
        struct hak_stats before = read_stats();
        give_blocks(slabs[i], 0);
        struct hak_stats after = read_stats();
        assert_true(after.slots_empty <= LIMIT);
        assert_int_equal(after.purged_bytes - before.purged_bytes,
                         (before.slots_empty + 1 - after.slots_empty) * SLAB_BYTES);
        assert_null(pool_check());
    }
    for (unsigned i = 0; i < N; i++)
        if (state_of(slabs[i]) == SLAB_UNUSED) {
            assert_int_equal(atomic_load(&slabs[i]->dirty_pages), 0);
            for (size_t k = 0; k < SLAB_BYTES; k += 512)
                assert_int_equal(slabs[i]->memory[k], 0);
        }
    config.empty_slabs = empty_slabs;
    size_t n_empty = (size_t)read_stats().slots_empty;
    uint64_t purged_bytes = read_stats().purged_bytes;
    shared_pool_purge_empty(0, HAK_LOCK_TRIM);
    assert_int_equal(read_stats().slots_empty, 0);
    assert_int_equal(read_stats().purged_bytes, purged_bytes + n_empty * SLAB_BYTES);
    shared_pool_purge_empty(0, HAK_LOCK_TRIM);
    assert_int_equal(read_stats().purged_bytes, purged_bytes + n_empty * SLAB_BYTES);
    give_blocks(keeper, 0);
}

/* ---- Release refused --------------------------------------------------------------------------------------------- */

static void bad_arguments_are_refused(void **state)
{
    (void)state;
    unsigned a = class_of(64);
    struct slab *slab = acquire(a);
    struct superslab *ss = slab->superslab;
    assert_int_equal(shared_pool_release_slab(NULL, 0), RELEASE_BAD_ARGUMENT);
    assert_int_equal(shared_pool_release_slab(NULL, 32), RELEASE_BAD_ARGUMENT);
    assert_int_equal(shared_pool_release_slab(ss, 32), RELEASE_BAD_ARGUMENT);
    assert_int_equal(shared_pool_release_slab(ss, UINT32_MAX), RELEASE_BAD_ARGUMENT);
    shared_pool_disown_slab(slab);
    assert_int_equal(ss->state, SUPERSLAB_ABSENT);
    assert_int_equal(shared_pool_release_slab(ss, 0), RELEASE_BAD_ARGUMENT);

    bool zeroed;
    void *span = large_claim(40000, 1, LARGE_ANYWHERE, &zeroed);
    ss = &registry_arena(span)->superslabs[arena_slab_index(registry_arena(span), span) / SUPERSLAB_SLABS];
    assert_true(large_return(span));
    assert_int_equal(ss->state, SUPERSLAB_CACHED);
    assert_int_equal(shared_pool_release_slab(ss, 0), RELEASE_BAD_ARGUMENT);

    void *run = large_claim(3 * MIB, 1, LARGE_ANYWHERE, &zeroed);
    ss = &registry_arena(run)->superslabs[arena_slab_index(registry_arena(run), run) / SUPERSLAB_SLABS];
    assert_int_equal(ss[0].state, SUPERSLAB_RUN);
    assert_int_equal(shared_pool_release_slab(&ss[0], 0), RELEASE_BAD_ARGUMENT);
    assert_int_equal(shared_pool_release_slab(&ss[1], 0), RELEASE_BAD_ARGUMENT);
    assert_true(large_return(run));
}

static void only_retiring_slabs_are_released(void **state)
{
    (void)state;
    unsigned a = class_of(1024);
    bool zeroed;
    struct slab *full = acquire_full(a), *owned = acquire(a), *partial = acquire(class_of(64));
    struct superslab *ss = full->superslab;
    assert_int_equal(slab_claim(partial, 3, UINT16_MAX, claimed), 3);
    shared_pool_disown_slab(partial);
    char *span = large_claim(2 * SLAB_BYTES, 1, LARGE_ANYWHERE, &zeroed);
    struct slab *emptied = acquire_full(class_of(2048));
    give_blocks(emptied, 0);
    struct {
        const struct slab *slab;
        enum slab_state state;
    } rows[] = {{full, SLAB_FULL},
                {owned, SLAB_OWNED},
                {partial, SLAB_PARTIAL},
                {emptied, SLAB_EMPTY},
                {&ss->arena->slabs[arena_slab_index(ss->arena, span)], SLAB_SPAN_HEAD},
                {&ss->arena->slabs[arena_slab_index(ss->arena, span) + 1], SLAB_SPAN_BODY},
                {superslab_slab(ss, SUPERSLAB_SLABS / 2), SLAB_UNUSED}};
    struct hak_stats before = read_stats();
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        assert_ptr_equal(rows[i].slab->superslab == NULL ? ss : rows[i].slab->superslab, ss);
        assert_int_equal(state_of(rows[i].slab), rows[i].state);
        slab_ctl ctl = slab_ctl_read(rows[i].slab);
        unsigned slot = superslab_slot_of(ss, rows[i].slab);
        assert_int_equal(shared_pool_release_slab(ss, slot), RELEASE_NOT_RETIRING);
        assert_int_equal(slab_ctl_read(rows[i].slab), ctl); /* nothing has changed */
    }
    assert_null(pool_check());

    /* A slab that claims to retire while a block is out: only damaged records say so. */
    assert_int_equal(slab_claim(owned, 1, UINT16_MAX, claimed), 1);
    slab_ctl ctl = slab_ctl_read(owned);
    atomic_store(&owned->ctl, SLAB_CTL(SLAB_RETIRING, a, 1));
    assert_int_equal(shared_pool_release_slab(ss, slot_of(owned)), RELEASE_IN_USE);
    assert_int_equal(slab_ctl_read(owned), SLAB_CTL(SLAB_RETIRING, a, 1));
    atomic_store(&owned->ctl, ctl);

    struct hak_stats after = read_stats();
    assert_int_equal(after.slabs_released, before.slabs_released);
    assert_int_equal(after.slots_active, before.slots_active);
    assert_null(pool_check());
    give_blocks(owned, 0);
    shared_pool_disown_slab(owned);
    give_blocks(partial, 0);
    give_blocks(full, 0);
    assert_true(large_return(span));
}

static void a_retiring_slab_is_released_by_hand(void **state)
{
    (void)state;
    struct slab *slab = acquire(class_of(64)), *neighbour = acquire(class_of(1024));
    struct superslab *ss = slab->superslab;
    assert_int_equal(slab_disown(slab), SLAB_RETURN_RETIRING);
    assert_int_equal(shared_pool_release_slab(ss, slot_of(slab)), RELEASE_DONE);
    assert_int_equal(state_of(slab), SLAB_EMPTY);
    assert_int_equal(shared_pool_release_slab(ss, slot_of(slab)), RELEASE_NOT_RETIRING); /* not twice */
    shared_pool_disown_slab(neighbour);
}

/* ---- References -------------------------------------------------------------------------------------------------- */

static void a_pinned_superslab_stays(void **state)
{
    (void)state;
    unsigned a = class_of(64);
    struct slab *slab = acquire(a);
    struct superslab *ss = slab->superslab;
    assert_true(shared_pool_pin(ss));
    assert_true(shared_pool_pin(ss));
    struct hak_stats before = read_stats();
    assert_int_equal(slab_disown(slab), SLAB_RETURN_RETIRING);
    assert_int_equal(shared_pool_release_slab(ss, slot_of(slab)), RELEASE_PINNED);
    struct hak_stats after = read_stats();
    assert_int_equal(after.release_refused_pinned, before.release_refused_pinned + 1);
    assert_int_equal(after.slabs_released, before.slabs_released);
    assert_int_equal(state_of(slab), SLAB_PARTIAL);
    assert_int_equal(class_set_find(ss->arena, a, 0), slab_index(ss->arena, slab)); /* listed: it serves on */
    assert_null(pool_check());
    hak_trim(HAK_TRIM_PAGES);
    assert_int_equal(ss->state, SUPERSLAB_POOLED);

    assert_ptr_equal(acquire(a), slab);
    assert_int_equal(slab_claim(slab, 5, UINT16_MAX, claimed), 5);
    shared_pool_disown_slab(slab);
    give_blocks(slab, 0); /* refused again, this time in a return */
    assert_int_equal(state_of(slab), SLAB_PARTIAL);
    assert_int_equal(ss->state, SUPERSLAB_POOLED);

    shared_pool_unpin(ss);
    assert_int_equal(ss->state, SUPERSLAB_POOLED); /* one reference is left */
    before = read_stats();
    shared_pool_unpin(ss);
    assert_int_equal(ss->state, SUPERSLAB_ABSENT);
    assert_int_equal(read_stats().superslabs_released_total, before.superslabs_released_total + 1);
    assert_int_equal(class_set_find(ss->arena, a, 0), SIZE_MAX);
    assert_false(shared_pool_pin(ss)); /* nobody may refer to what is gone */
}

/* Several empty slabs, of a SuperSlab that drains, all go with the last reference. */
static void unpin_releases_all_that_waited(void **state)
{
    (void)state;
    struct superslab *ss = make_draining(class_of(2048), 4);
    assert_true(shared_pool_pin(ss));
    for (unsigned i = 0; i < SUPERSLAB_SLABS; i++)
        give_blocks(slabs[i], 0);
    assert_int_equal(tier_of(ss), SS_TIER_DRAINING);
    assert_int_equal(ss->state, SUPERSLAB_POOLED);
    for (unsigned i = 0; i < SUPERSLAB_SLABS; i++)
        assert_int_equal(state_of(slabs[i]), SLAB_PARTIAL);
    assert_null(pool_check());
    struct hak_stats before = read_stats();
    shared_pool_unpin(ss);
    assert_int_equal(ss->state, SUPERSLAB_ABSENT);
    assert_int_equal(read_stats().slabs_released - before.slabs_released, SUPERSLAB_SLABS);
}

static _Atomic bool stop;

/* Grows and empties a heap of its own, again and again, so that SuperSlabs come and go. */
static void *come_and_go(void *argument)
{
    enum { N = 2000 };
    void **blocks = calloc(N, sizeof *blocks);
    uint32_t random_state = 77777u + (uint32_t)(uintptr_t)argument;
    while (!atomic_load(&stop)) {
        for (unsigned i = 0; i < N; i++) {
            random_state = random_state * 1664525u + 1013904223u;
            blocks[i] = hak_malloc(random_state >> 16 & 0xfff);
        }
        for (unsigned i = 0; i < N; i++)
            hak_free(blocks[i]);
        hak_trim(HAK_TRIM_CACHE);
    }
    free(blocks);
    return NULL;
}

static void a_pinned_superslab_stays_beside_other_threads(void **state)
{
    (void)state;
    enum { N_THREADS = 3, N_ROUNDS = 300 };
    pthread_t threads[N_THREADS];
    struct hak_stats before = read_stats();
    atomic_store(&stop, false);
    for (uintptr_t t = 0; t < N_THREADS; t++)
        assert_int_equal(pthread_create(&threads[t], NULL, come_and_go, (void *)t), 0);
    for (unsigned round = 0; round < N_ROUNDS; round++) {
        size_t size_bytes = round % 4 == 0 ? 100000 : 1 + round * 13;
        char *block = hak_malloc(size_bytes);
        assert_non_null(block);
        struct arena *arena = registry_arena(block);
        struct superslab *ss = &arena->superslabs[arena_slab_index(arena, block) / SUPERSLAB_SLABS];
        assert_true(shared_pool_pin(ss));
        hak_free(block);
        hak_trim(HAK_TRIM_CACHE);
        for (unsigned look = 0; look < 20; look++) {
            assert_true(pool_lock(HAK_LOCK_TRIM));
            unsigned now = ss->state;
            bool committed = ss->committed;
            pool_unlock();
            if ((now != SUPERSLAB_POOLED && now != SUPERSLAB_CACHED) || !committed)
                fail_msg("round %u: the pinned SuperSlab is in state %u, committed: %d", round, now, committed);
            if (look % 8 == 7)
                hak_trim(HAK_TRIM_CACHE);
        }
        shared_pool_unpin(ss);
    }
    atomic_store(&stop, true);
    for (unsigned t = 0; t < N_THREADS; t++)
        pthread_join(threads[t], NULL);
    assert_true(read_stats().superslabs_released_total > before.superslabs_released_total); /* else it proved nothing */
}

/* ---- The LRU cache ----------------------------------------------------------------------------------------------- */

static void a_cache_of_none_keeps_nothing(void **state)
{
    (void)state;
    size_t lru_superslabs = config.lru_superslabs;
    config.lru_superslabs = 0;
    struct hak_stats before = read_stats();
    hak_free(hak_malloc(40000));
    hak_free(hak_malloc(2 * MIB));
    hak_free(hak_malloc(7 * MIB));
    config.lru_superslabs = lru_superslabs;
    struct hak_stats after = read_stats();
    assert_int_equal(after.superslabs_cached, 0);
    assert_int_equal(after.committed_bytes, before.committed_bytes);
    assert_int_equal(after.superslabs_evicted_total - before.superslabs_evicted_total, 1 + 1 + 4);
    assert_int_equal(after.stage_lru, before.stage_lru);
}

/* An entry that lies wrong for an alignment stays, one that lies right serves. */
static void alignment_is_looked_at(void **state)
{
    (void)state;
    void *runs[4];
    for (unsigned i = 0; i < 4; i++)
        runs[i] = hak_malloc(2 * MIB);
    for (unsigned i = 0; i < 4; i++)
        hak_free(runs[i]);
    assert_int_equal(lru_count(), 4);
    unsigned n_right = 0; /* they form a row, of which two or more lie on such a multiple */
    for (unsigned i = 0; i < 4; i++)
        n_right += (uintptr_t)runs[i] % (4 * MIB) == 0;
    void *taken[4];
    for (unsigned i = 0; i < 4; i++) {
        struct hak_stats before = read_stats();
        taken[i] = hak_aligned_alloc(4 * MIB, 2 * MIB);
        assert_int_equal((uintptr_t)taken[i] % (4 * MIB), 0);
        assert_stages(&before, (struct stages){.lru = i < n_right, .os = i >= n_right});
    }
    assert_int_equal(lru_count(), 4 - n_right);
    for (unsigned i = 0; i < 4; i++)
        hak_free(taken[i]);
}

/* A pinned entry is not evicted although it is the oldest, and serves nobody although nothing else is there. */
static void a_pinned_entry_serves_nobody(void **state)
{
    (void)state;
    void *span = hak_malloc(40000);
    struct superslab *ss = superslab_of(span);
    assert_true(shared_pool_pin(ss));
    hak_free(span);
    assert_int_equal(ss->state, SUPERSLAB_CACHED);
    struct hak_stats before = read_stats();
    void *run = hak_malloc(2 * MIB);
    void *other_span = hak_malloc(40000);
    struct slab *slab = acquire(class_of(100));
    assert_int_equal(read_stats().stage_lru, before.stage_lru);
    assert_ptr_not_equal(superslab_of(run), ss);
    assert_ptr_not_equal(superslab_of(other_span), ss);
    assert_ptr_not_equal(slab->superslab, ss);
    assert_int_equal(ss->state, SUPERSLAB_CACHED);
    shared_pool_disown_slab(slab);
    hak_free(other_span);
    hak_free(run);
    shared_pool_unpin(ss);
    assert_true(lru_count() <= config.lru_superslabs);
    before = read_stats();
    void *runs[3] = {hak_malloc(2 * MIB), hak_malloc(2 * MIB), hak_malloc(2 * MIB)};
    assert_true(runs[0] == superslab_memory(ss) || runs[1] == superslab_memory(ss) || runs[2] == superslab_memory(ss));
    assert_stages(&before, (struct stages){.lru = 3});
    for (unsigned i = 0; i < 3; i++)
        hak_free(runs[i]);
}

/* More references than the cache has room for: it is within its bound again with the next entry after they went. */
static void the_bound_returns_when_references_go(void **state)
{
    (void)state;
    enum { N = 4 };
    size_t lru_superslabs = config.lru_superslabs;
    config.lru_superslabs = 2;
    void *spans[N];
    struct superslab *ss[N];
    for (unsigned i = 0; i < N; i++) {
        spans[i] = hak_aligned_alloc(2 * MIB, 40000); /* a SuperSlab each: only its first slot lies right */
        ss[i] = superslab_of(spans[i]);
        assert_true(i == 0 || ss[i] != ss[i - 1]);
        assert_true(shared_pool_pin(ss[i]));
    }
    for (unsigned i = 0; i < N; i++)
        hak_free(spans[i]);
    assert_int_equal(lru_count(), N);
    for (unsigned i = 0; i < N; i++)
        shared_pool_unpin(ss[i]);
    hak_free(hak_malloc(4 * MIB)); /* two in a row, which the cache does not have but has room for */
    assert_true(lru_count() <= 2);
    config.lru_superslabs = lru_superslabs;
}

/* More blocks come back than the count says are out, though their bits are clear: between two returns of one block
 * another thread had it. Only made-up records show it for sure. */
static void more_returns_than_claims_are_told(void **state)
{
    (void)state;
    struct slab *slab = acquire(class_of(1024));
    assert_int_equal(slab_claim(slab, 2, UINT16_MAX, claimed), 2);
    slab_ctl ctl = slab_ctl_read(slab);
    atomic_store(&slab->ctl, ctl - 1);
    unsigned lower = (unsigned)((char *)claimed[1] - slab->memory) / 1024; /* of two neighbours */
    uint64_t doubly = 0, both = (uint64_t)3 << lower % 64;
    assert_int_equal(return_blocks(slab, lower / 64, both, &doubly), SLAB_RETURN_TOO_MANY);
    assert_int_equal(doubly, both);
    assert_int_equal(slab_ctl_read(slab), ctl - 1); /* and not below zero */
    slab_recount(slab, false);
    assert_int_equal(CTL_USED(slab_ctl_read(slab)), 0);
    assert_true(slab_check(slab));
    shared_pool_disown_slab(slab);
}

/* ---- Back to the system ------------------------------------------------------------------------------------------ */

static void the_guard_wants_nobody_inside(void **state)
{
    (void)state;
    struct superslab ss = {.unused_slots = 0xffff0000u, .empty_slots = 0x0000ffffu};
    assert_true(release_guard_agrees(&ss));
    atomic_store(&ss.pins, 1);
    assert_false(release_guard_agrees(&ss));
    atomic_store(&ss.pins, 0);
    for (unsigned slot = 0; slot < SUPERSLAB_SLABS; slot++) {
        struct superslab active = ss;
        active.unused_slots &= ~(1u << slot);
        active.empty_slots &= ~(1u << slot);
        assert_false(release_guard_agrees(&active));
    }
}

static void assert_zero(const unsigned char *block, size_t len_bytes)
{
    assert_non_null(block);
    assert_true(block[0] == 0 && memcmp(block, block + 1, len_bytes - 1) == 0);
}

/* Where the system refuses to take pages back, what returns to the arena is known to be dirty: calloc clears it. */
static void refused_pages_are_known_as_dirty(void **state)
{
    (void)state;
    static const size_t sizes_bytes[] = {40000, 900000, 2 * MIB, 5 * MIB};
    size_t lru_superslabs = config.lru_superslabs;
    config.lru_superslabs = 0;
    for (size_t i = 0; i < sizeof sizes_bytes / sizeof sizes_bytes[0]; i++) {
        unsigned char *block = hak_malloc(sizes_bytes[i]);
        memset(block, 0xa5, sizes_bytes[i]);
        struct superslab *ss = superslab_of(block);
        os_fail_from(1, ULONG_MAX, OS_CALL_PURGE | OS_CALL_DECOMMIT);
        hak_free(block);
        os_fail_from(0, 0, 0);
        assert_int_equal(ss->state, SUPERSLAB_ABSENT);
        assert_false(superslab_is_clean(ss));
        assert_null(pool_check()); /* and still counted as committed */
        unsigned char *again = hak_calloc(1, sizes_bytes[i]);
        assert_ptr_equal(again, block);
        assert_zero(again, sizes_bytes[i]);
        hak_free(again);
        again = hak_calloc(1, sizes_bytes[i]);
        assert_zero(again, sizes_bytes[i]);
        hak_free(again);
    }
    config.lru_superslabs = lru_superslabs;
}

/* The number of the process's mappings. */
static unsigned count_mappings(void)
{
    static char text[1 << 16];
    unsigned n = 0;
    int fd = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
    assert_true(fd >= 0);
    for (ssize_t len; (len = read(fd, text, sizeof text)) > 0;)
        for (ssize_t i = 0; i < len; i++)
            n += text[i] == '\n';
    close(fd);
    return n;
}

/* Pages that were moved sit in mappings of their own, of which a system grants a process some ten thousand. When they
 * go, at most the moved run's place differs from its neighbours; and the number does not grow with the moves. */
static void moved_pages_leave_few_mappings_behind(void **state)
{
    (void)state;
    enum { N = 60, SLACK = 20 };
    unsigned char *blocks[N];
    void *walls[N];
    unsigned before = count_mappings(), at_most = 0;
    for (unsigned round = 0; round < 5; round++) {
        for (unsigned i = 0; i < N; i++) {
            blocks[i] = hak_malloc(2 * MIB);
            walls[i] = hak_malloc(2 * MIB); /* so that no block grows where it lies */
            blocks[i][i] = 7;
        }
        for (unsigned i = 0; i < N; i++) {
            unsigned char *moved = hak_realloc(blocks[i], 4 * MIB);
            assert_non_null(moved);
            assert_int_equal(moved[i], 7);
            blocks[i] = moved;
        }
        unsigned now = count_mappings();
        at_most = now > at_most ? now : at_most;
        for (unsigned i = 0; i < N; i++) {
            hak_free(blocks[i]);
            hak_free(walls[i]);
        }
        hak_trim(HAK_TRIM_PAGES);
        if (count_mappings() > before + N + SLACK)
            fail_msg("round %u: %u mappings before, %u afterwards", round, before, count_mappings());
    }
    assert_true(at_most > before + N + SLACK); /* else nothing was moved, and nothing is proved */
}

/* ---- One owner --------------------------------------------------------------------------------------------------- */

enum { N_OWNERS = 4, N_STEPS = 30000, N_MAILBOXES = 3000, MAX_SLABS = 1 << 16, BATCH = 24 };
static _Atomic uint8_t owners[MAX_SLABS];
static uint64_t *_Atomic mailboxes[N_MAILBOXES];
static _Atomic unsigned n_shared, n_doubly, n_wrong;

/* The first word of a block that is out is its own address. */
static void give_block(uint64_t *block)
{
    if (*block != (uintptr_t)block)
        atomic_fetch_add(&n_wrong, 1);
    *block = 0;
    struct arena *arena = registry_arena(block);
    size_t index = arena_slab_index(arena, block);
    const struct class_info *class = &class_table[atomic_load(&arena->class_map[index]) / CLASS_OFFSET_SCALE];
    unsigned b = class_block_index(class, (uintptr_t)block & (SLAB_BYTES - 1));
    if (shared_pool_return_blocks(&arena->slabs[index], b / 64, (uint64_t)1 << (b % 64)) != 0)
        atomic_fetch_add(&n_doubly, 1);
}

static void *own_in_turn(void *argument)
{
    uint32_t random_state = 4242u + (uint32_t)(uintptr_t)argument * 99991u;
    for (unsigned step = 0; step < N_STEPS; step++) {
        random_state = random_state * 1664525u + 1013904223u;
        static const uint16_t sizes[] = {16, 1024, 4096, 21760};
        struct slab *slab = shared_pool_acquire_slab(class_of(sizes[random_state >> 30]));
        size_t index = slab_index(slab->superslab->arena, slab);
        if (index < MAX_SLABS && atomic_fetch_add(&owners[index], 1) != 0)
            atomic_fetch_add(&n_shared, 1);
        void *out[BATCH];
        unsigned n = slab_claim(slab, 1 + (random_state >> 8) % BATCH, UINT16_MAX, out);
        for (unsigned i = 0; i < n; i++) {
            uint64_t *block = out[i];
            if (*block == (uintptr_t)block)
                atomic_fetch_add(&n_wrong, 1);
            *block = (uintptr_t)block;
        }
        if (index < MAX_SLABS)
            atomic_fetch_sub(&owners[index], 1);
        shared_pool_disown_slab(slab);
        for (unsigned i = 0; i < n; i++) {
            random_state = random_state * 1664525u + 1013904223u;
            uint64_t *other = atomic_exchange(&mailboxes[(random_state >> 10) % N_MAILBOXES], out[i]);
            if (other != NULL)
                give_block(other);
        }
        if (step % 4096 == 4095) /* a heap that empties now and then */
            for (unsigned k = 0; k < N_MAILBOXES; k++) {
                uint64_t *other = atomic_exchange(&mailboxes[k], NULL);
                if (other != NULL)
                    give_block(other);
            }
    }
    return NULL;
}

static void a_slab_has_one_owner(void **state)
{
    (void)state;
    pthread_t threads[N_OWNERS];
    for (uintptr_t t = 0; t < N_OWNERS; t++)
        assert_int_equal(pthread_create(&threads[t], NULL, own_in_turn, (void *)t), 0);
    for (unsigned t = 0; t < N_OWNERS; t++)
        pthread_join(threads[t], NULL);
    assert_int_equal(atomic_load(&n_shared), 0); /* two owners at once */
    assert_int_equal(atomic_load(&n_wrong), 0);  /* a block handed out twice, or overwritten */
    assert_int_equal(atomic_load(&n_doubly), 0);
    assert_null(pool_check());
    uint64_t n_out = 0;
    for (unsigned k = 0; k < N_MAILBOXES; k++)
        n_out += atomic_load(&mailboxes[k]) != NULL;
    assert_int_equal(read_stats().live_blocks, n_out);
    for (unsigned k = 0; k < N_MAILBOXES; k++)
        if (atomic_load(&mailboxes[k]) != NULL)
            give_block(atomic_exchange(&mailboxes[k], NULL));
}

#define EMPTY_AFTERWARDS(test) cmocka_unit_test_teardown(test, assert_pool_is_empty)

int main(void)
{
    const struct CMUnitTest tests[] = {
        EMPTY_AFTERWARDS(each_stage_is_counted),
        EMPTY_AFTERWARDS(the_lru_cache_comes_before_the_system),
        EMPTY_AFTERWARDS(the_threshold_is_exact_and_does_not_flap),
        EMPTY_AFTERWARDS(a_large_return_drains_too),
        EMPTY_AFTERWARDS(draining_begins_once),
        EMPTY_AFTERWARDS(draining_reopens_before_new_memory),
        EMPTY_AFTERWARDS(draining_gets_nothing_while_there_is_room),
        EMPTY_AFTERWARDS(draining_reopens_before_fresh_pages),
        EMPTY_AFTERWARDS(a_draining_span_does_not_grow),
        EMPTY_AFTERWARDS(a_thread_leaves_its_draining_slab),
        EMPTY_AFTERWARDS(the_fullest_superslab_comes_first),
        EMPTY_AFTERWARDS(an_emptied_slot_serves_another_class),
        EMPTY_AFTERWARDS(a_slab_leaves_rows_whole),
        EMPTY_AFTERWARDS(a_slot_with_pages_comes_first),
        EMPTY_AFTERWARDS(empty_slots_are_purged_beyond_the_limit),
        EMPTY_AFTERWARDS(bad_arguments_are_refused),
        EMPTY_AFTERWARDS(only_retiring_slabs_are_released),
        EMPTY_AFTERWARDS(a_retiring_slab_is_released_by_hand),
        EMPTY_AFTERWARDS(a_pinned_superslab_stays),
        EMPTY_AFTERWARDS(unpin_releases_all_that_waited),
        EMPTY_AFTERWARDS(a_pinned_superslab_stays_beside_other_threads),
        EMPTY_AFTERWARDS(a_cache_of_none_keeps_nothing),
        EMPTY_AFTERWARDS(alignment_is_looked_at),
        EMPTY_AFTERWARDS(a_pinned_entry_serves_nobody),
        EMPTY_AFTERWARDS(the_bound_returns_when_references_go),
        EMPTY_AFTERWARDS(the_guard_wants_nobody_inside),
        EMPTY_AFTERWARDS(refused_pages_are_known_as_dirty),
        EMPTY_AFTERWARDS(moved_pages_leave_few_mappings_behind),
        EMPTY_AFTERWARDS(more_returns_than_claims_are_told),
        EMPTY_AFTERWARDS(a_slab_has_one_owner),
    };
    return cmocka_run_group_tests(tests, start, NULL);
}
