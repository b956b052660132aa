/* test_shared_pool.c - the acquisition stages, each refusal of shared_pool_release_slab, pins, and one owner per slab.
 * ctest: timeout 300
 */
#include "front/flush.h"
#include "hakmem/hakmem.h"
#include "meta/arena.h"
#include "meta/registry.h"
#include "pool/lru.h"
#include "pool/release.h"
#include "pool/shared_pool.h"
#include "service/stats.h"
#include "look.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

static unsigned slot_of(const struct slab *slab)
{
    return superslab_slot_of(slab->superslab, slab);
}

/* Takes all blocks of an owned slab. Returns how many. */
static unsigned claim_all(struct slab *slab, void **out, unsigned room)
{
    unsigned n = 0, more;
    while (n < room && (more = slab_claim(slab, room - n, UINT16_MAX, out + n)) != 0)
        n += more;
    return n;
}

static void return_block(struct slab *slab, void *block)
{
    const struct class_info *class = &class_table[CTL_CLASS(slab_ctl_read(slab))];
    unsigned index = class_block_index(class, (uintptr_t)block & (SLAB_BYTES - 1));
    assert_int_equal(shared_pool_return_blocks(slab, index / 64, (uint64_t)1 << (index % 64)), 0);
}

static void stages_in_order(void **state)
{
    (void)state;
    unsigned class_id = class_of(32768); /* two blocks a slab */
    void *block[2];
    hak_free(hak_malloc(1)); /* the process has started */
    hak_trim(HAK_TRIM_PAGES);

    struct hak_stats s0 = read_stats();
    struct slab *first =
        shared_pool_acquire_slab(class_id); /* empty pool: from the system, or a slot of what is there */
    assert_non_null(first);
    struct hak_stats s1 = read_stats();
    assert_int_equal(s1.stage_os + s1.stage_slot + s1.stage_lru, s0.stage_os + s0.stage_slot + s0.stage_lru + 1);

    struct slab *second = shared_pool_acquire_slab(class_id); /* the SuperSlab has slots now */
    struct hak_stats s2 = read_stats();
    assert_int_equal(s2.stage_slot, s1.stage_slot + 1);
    assert_ptr_equal(second->superslab, first->superslab);

    assert_int_equal(slab_claim(second, 1, UINT16_MAX, block), 1); /* one of two: it is listed when let go */
    shared_pool_disown_slab(second);
    struct slab *third = shared_pool_acquire_slab(class_id);
    assert_ptr_equal(third, second);
    assert_int_equal(read_stats().stage_class_list, s2.stage_class_list + 1);
    return_block(third, block[0]);

    shared_pool_disown_slab(third); /* empty: released */
    assert_int_equal(CTL_STATE(slab_ctl_read(third)), SLAB_EMPTY);
    uint64_t reuses = read_stats().slot_reuses_other_class;
    unsigned other_class = class_of(100);
    struct slab *reused = shared_pool_acquire_slab(other_class);
    assert_ptr_equal(reused, third); /* an EMPTY slot comes before an UNUSED one */
    assert_int_equal(read_stats().slot_reuses_other_class, reuses + 1);
    assert_int_equal(CTL_CLASS(slab_ctl_read(reused)), other_class);
    shared_pool_disown_slab(reused);
    shared_pool_disown_slab(first);
    assert_null(pool_check());
}

/* A thread's first slab of a class leaves the slots that have pages to who needs whole slots; with a budget they count anyway. */
static void first_slab_takes_no_pages(void **state)
{
    (void)state;
    unsigned class_id = class_of(20000);
    struct slab *keep = shared_pool_acquire_slab(class_id), *emptied = shared_pool_acquire_slab(class_id);
    shared_pool_disown_slab(emptied);
    assert_int_equal(CTL_STATE(slab_ctl_read(emptied)), SLAB_EMPTY);
    struct slab *first = shared_pool_acquire_first_slab(class_id);
    assert_ptr_not_equal(first, emptied);
    assert_ptr_equal(first->superslab, keep->superslab);
    assert_int_equal(atomic_load(&first->dirty_pages), 0);
    assert_int_equal(CTL_STATE(slab_ctl_read(emptied)), SLAB_EMPTY);

    assert_int_equal(hak_budget_set(0, GIB), 0);
    struct slab *counted = shared_pool_acquire_first_slab(class_id);
    hak_budget_set(0, 0);
    assert_ptr_equal(counted, emptied);
    shared_pool_disown_slab(counted);
    shared_pool_disown_slab(first);
    shared_pool_disown_slab(keep);
    assert_null(pool_check());
}

static void stage_lru(void **state)
{
    (void)state;
    lru_drain();
    void *span = hak_malloc(100000); /* its SuperSlab waits in the cache when it is empty */
    struct superslab *ss =
        &registry_primary.arena->superslabs[arena_slab_index(registry_primary.arena, span) / SUPERSLAB_SLABS];
    hak_free(span);
    assert_int_equal(ss->state, SUPERSLAB_CACHED);
    uint64_t before = read_stats().stage_lru;
    struct slab *slab = shared_pool_acquire_slab(class_of(64));
    assert_int_equal(read_stats().stage_lru, before + 1);
    assert_ptr_equal(slab->superslab, ss);
    shared_pool_disown_slab(slab);
}

static void refusals(void **state)
{
    (void)state;
    unsigned class_id = class_of(1000);
    void *block;
    struct slab *keep = shared_pool_acquire_slab(class_id); /* keeps the SuperSlab in the pool */
    assert_int_equal(slab_claim(keep, 1, UINT16_MAX, &block), 1);
    struct slab *slab = shared_pool_acquire_slab(class_id);
    struct superslab *ss = slab->superslab;
    assert_int_equal(shared_pool_release_slab(NULL, 0), RELEASE_BAD_ARGUMENT);
    assert_int_equal(shared_pool_release_slab(ss, SUPERSLAB_SLABS), RELEASE_BAD_ARGUMENT);
    assert_int_equal(shared_pool_release_slab(ss, slot_of(slab)), RELEASE_NOT_RETIRING); /* OWNED */
    assert_int_equal(CTL_STATE(slab_ctl_read(slab)), SLAB_OWNED);

    void *mine;
    assert_int_equal(slab_claim(slab, 1, UINT16_MAX, &mine), 1);
    shared_pool_disown_slab(slab);
    assert_int_equal(shared_pool_release_slab(ss, slot_of(slab)), RELEASE_NOT_RETIRING); /* PARTIAL */
    /* RETIRING with a block out cannot come about by itself; made up, it is refused all the same. */
    slab_ctl partial = slab_ctl_read(slab);
    assert_true(slab_own(slab, class_id));
    atomic_store(&slab->ctl, SLAB_CTL(SLAB_RETIRING, class_id, 1));
    assert_int_equal(shared_pool_release_slab(ss, slot_of(slab)), RELEASE_IN_USE);
    atomic_store(&slab->ctl, partial);

    /* Pinned: the slab stays, and goes when the pin does. */
    assert_true(shared_pool_pin(ss));
    uint64_t refused = read_stats().release_refused_pinned;
    return_block(slab, mine);
    assert_int_equal(read_stats().release_refused_pinned, refused + 1);
    assert_int_equal(CTL_STATE(slab_ctl_read(slab)), SLAB_PARTIAL);
    assert_int_equal(CTL_USED(slab_ctl_read(slab)), 0);
    shared_pool_unpin(ss);
    assert_int_equal(CTL_STATE(slab_ctl_read(slab)), SLAB_EMPTY);
    assert_int_equal(shared_pool_release_slab(ss, slot_of(slab)), RELEASE_NOT_RETIRING); /* EMPTY */

    return_block(keep, block);
    shared_pool_disown_slab(keep);
    assert_int_equal(ss->state, SUPERSLAB_ABSENT);
    assert_int_equal(shared_pool_release_slab(ss, 0), RELEASE_BAD_ARGUMENT); /* no longer in the pool */
    assert_false(shared_pool_pin(ss));
    assert_null(pool_check());
}

/* ---- Fork ---- */

static _Atomic bool is_held, may_go;

static void *hold_the_lock(void *unused)
{
    if (!pool_lock(HAK_LOCK_TIER))
        abort();
    atomic_store(&is_held, true);
    while (!atomic_load(&may_go))
        usleep(1000);
    pool_unlock();
    return unused;
}

/* Whoever is cut off by a fork may have marked the slot already, or still: no block is there for the child. */
static void free_slots_have_no_class_in_a_child(void **state)
{
    (void)state;
    struct slab *slab = shared_pool_acquire_slab(class_of(64)), *emptied = shared_pool_acquire_slab(class_of(64));
    struct superslab *ss = slab->superslab;
    assert_ptr_equal(emptied->superslab, ss);
    void *block;
    assert_int_equal(slab_claim(emptied, 1, UINT16_MAX, &block), 1);
    shared_pool_disown_slab(emptied);
    return_block(emptied, block);
    assert_int_equal(CTL_STATE(slab_ctl_read(emptied)), SLAB_EMPTY);
    unsigned unused = SUPERSLAB_SLABS / 2;
    assert_int_equal(CTL_STATE(slab_ctl_read(superslab_slab(ss, unused))), SLAB_UNUSED);

    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, hold_the_lock, NULL), 0);
    while (!atomic_load(&is_held))
        usleep(1000);
    uint8_t offset = (uint8_t)(class_of(64) * CLASS_OFFSET_SCALE);
    size_t index[] = {superslab_slab_index(ss, slot_of(emptied)), superslab_slab_index(ss, unused)};
    for (size_t i = 0; i < 2; i++)
        arena_set_class_map(ss->arena, index[i], 1, offset);
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0)
        _exit(pool_check() == NULL ? 0 : 1);
    for (size_t i = 0; i < 2; i++)
        arena_set_class_map(ss->arena, index[i], 1, CLASS_FOREIGN);
    int status;
    pid_t ended = waitpid(pid, &status, 0);
    atomic_store(&may_go, true);
    pthread_join(thread, NULL);
    shared_pool_disown_slab(slab);
    assert_int_equal(ended, pid);
    assert_int_equal(status, 0);
    assert_null(pool_check());
}

/* ---- Pins against threads ---- */

static _Atomic bool stop;

static void *churn(void *seed)
{
    uint64_t x = (uintptr_t)seed * 0x9e3779b97f4a7c15u;
    while (!atomic_load(&stop)) {
        void *block[64];
        for (unsigned i = 0; i < 64; i++) {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            block[i] = hak_malloc(x % 40000);
        }
        for (unsigned i = 0; i < 64; i++)
            hak_free(block[i]);
        hak_trim(HAK_TRIM_CACHE);
    }
    return NULL;
}

static void a_pinned_superslab_stays_while_threads_churn(void **state)
{
    (void)state;
    enum { N_THREADS = 4, N_PINS = 3000 };
    pthread_t thread[N_THREADS];
    unsigned n_pinned = 0;
    atomic_store(&stop, false);
    for (uintptr_t i = 0; i < N_THREADS; i++)
        assert_int_equal(pthread_create(&thread[i], NULL, churn, (void *)(i + 1)), 0);
    for (unsigned k = 0; k < N_PINS; k++) {
        void *block = hak_malloc(200);
        struct arena *arena = registry_arena(block);
        struct superslab *ss = &arena->superslabs[arena_slab_index(arena, block) / SUPERSLAB_SLABS];
        if (shared_pool_pin(ss)) {
            n_pinned++;
            hak_free(block);
            hak_trim(HAK_TRIM_CACHE);
            for (unsigned i = 0; i < 50; i++) { /* pooled, or at most empty in the cache: never given back */
                pool_lock(HAK_LOCK_TRIM);
                uint8_t now = ss->state;
                pool_unlock();
                assert_true(now == SUPERSLAB_POOLED || now == SUPERSLAB_CACHED);
            }
            shared_pool_unpin(ss);
        } else {
            hak_free(block);
        }
    }
    atomic_store(&stop, true);
    for (unsigned i = 0; i < N_THREADS; i++)
        pthread_join(thread[i], NULL);
    assert_true(n_pinned > N_PINS / 2);
    hak_trim(HAK_TRIM_PAGES);
    assert_null(pool_check());
    assert_int_equal(read_stats().live_blocks, 0);
}

/* ---- One owner ---- */

enum { N_OWNED_FLAGS = 1 << 16 };
static _Atomic int owners[N_OWNED_FLAGS];
static _Atomic unsigned n_doubly_owned;

static void *acquire_and_let_go(void *unused)
{
    for (unsigned k = 0; k < 60000; k++) {
        unsigned class_id = class_of(k % 3 == 0 ? 20000 : 4096);
        struct slab *slab = shared_pool_acquire_slab(class_id);
        if (slab == NULL)
            continue;
        _Atomic int *flag = &owners[slab_index(slab->superslab->arena, slab) % N_OWNED_FLAGS];
        if (atomic_fetch_add(flag, 1) != 0)
            atomic_fetch_add(&n_doubly_owned, 1);
        void *block[2];
        unsigned n = slab_claim(slab, 2, UINT16_MAX, block);
        atomic_fetch_sub(flag, 1);
        shared_pool_disown_slab(slab);
        while (n > 0)
            return_block(slab, block[--n]);
    }
    return unused;
}

static void a_slab_has_one_owner(void **state)
{
    (void)state;
    pthread_t thread[4];
    for (unsigned i = 0; i < 4; i++)
        assert_int_equal(pthread_create(&thread[i], NULL, acquire_and_let_go, NULL), 0);
    for (unsigned i = 0; i < 4; i++)
        pthread_join(thread[i], NULL);
    assert_int_equal(n_doubly_owned, 0);
    assert_null(pool_check());
}

static void full_slabs_hold_all_blocks_once(void **state)
{
    (void)state;
    static void *block[8192];
    for (unsigned class_id = CLASS_FIRST; class_id < CLASS_END; class_id++) {
        struct slab *slab = shared_pool_acquire_slab(class_id);
        unsigned n = claim_all(slab, block, 8192);
        assert_int_equal(n, class_table[class_id].n_blocks);
        for (unsigned i = 0; i < n; i++)
            *(char *)block[i] = 0;
        shared_pool_disown_slab(slab);
        assert_int_equal(CTL_STATE(slab_ctl_read(slab)), SLAB_FULL);
        for (unsigned i = 0; i < n; i++)
            return_block(slab, block[i]);
    }
    assert_null(pool_check());
}

/* Blocks of more slabs than a flush counts for at a time, and of several words of each, in no order. */
static void a_flush_takes_blocks_of_many_slabs(void **state)
{
    (void)state;
    enum { N_SLABS = 30, N_BLOCKS = SLAB_BYTES / 256, N = N_SLABS * N_BLOCKS, BATCH = 200 };
    static void *block[N];
    struct slab *slab[N_SLABS];
    unsigned class_id = class_of(256), seed = 1;
    for (unsigned s = 0; s < N_SLABS; s++) {
        slab[s] = shared_pool_acquire_first_slab(class_id);
        assert_int_equal(claim_all(slab[s], block + s * N_BLOCKS, N_BLOCKS), N_BLOCKS);
        if (s % 2 == 0)
            shared_pool_disown_slab(slab[s]); /* some are nobody's */
    }
    for (unsigned i = N - 1; i > 0; i--) {
        seed = seed * 1103515245 + 12345;
        unsigned k = (seed >> 8) % (i + 1);
        void *other = block[i];
        block[i] = block[k];
        block[k] = other;
    }
    for (unsigned i = 0; i < N; i += BATCH) {
        flush_blocks(block + i, i + BATCH < N ? BATCH : N - i, class_id);
        assert_null(pool_check()); /* whatever was counted for several words: bits and count agree */
    }
    for (unsigned s = 0; s < N_SLABS; s++) {
        assert_int_equal(CTL_USED(slab_ctl_read(slab[s])), 0);
        if (s % 2 != 0)
            shared_pool_disown_slab(slab[s]);
    }
    assert_null(pool_check());
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(stages_in_order),
        cmocka_unit_test(first_slab_takes_no_pages),
        cmocka_unit_test(stage_lru),
        cmocka_unit_test(refusals),
        cmocka_unit_test(free_slots_have_no_class_in_a_child),
        cmocka_unit_test(full_slabs_hold_all_blocks_once),
        cmocka_unit_test(a_flush_takes_blocks_of_many_slabs),
        cmocka_unit_test(a_pinned_superslab_stays_while_threads_churn),
        cmocka_unit_test(a_slab_has_one_owner),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
