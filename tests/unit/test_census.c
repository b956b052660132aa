/* test_census.c - the census against a shadow model and against /proc: what it says of each class, thread and tier is what is so.
 * A model knows every block that the program holds, and asks the class map, which the census does not read, what each is.
 * Run again under other profiles and modes: see tests/CMakeLists.txt.
 * Replay   HAKMEM_TEST_SEED=<seed>; a failure prints the seed.
 * Threads  those of a phase stop at a barrier while main looks, so nobody is at work: figures are exact.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "api/introspect.h"
#include "front/profile.h"
#include "front/thread.h"
#include "meta/registry.h"
#include "pool/pool_state.h"
#include "service/config.h"
#include "service/stats.h"
#include "look.h"
#include "process.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#if defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define SEES_RACES 1
#endif
#endif

#define MAX_THREADS 6
#define SLOTS 1024
#define N_STOPS 10
#ifdef SANITIZED
#define OPERATIONS 10000 /* from one stop to the next */
#else
#define OPERATIONS 30000
#endif

static struct worker {
    pthread_t thread;
    uint64_t random;
    void *block[SLOTS];
} workers[MAX_THREADS];
static pthread_barrier_t barrier;
static uint64_t seed = 20240607;
static bool exact_bytes; /* hak_usable_size tells a block's bytes: not so where a mode adds something to each */

/* ---- The model ------------------------------------------------------------------------------------------------------ */

static uint64_t next_random(struct worker *w)
{
    uint64_t z = w->random += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

/* Every power of two to 1 MiB as likely as the next, but above 4 KiB more rarely; a run now and then. */
static size_t next_size(struct worker *w)
{
    uint64_t r = next_random(w);
    if (r % 3000 == 0)
        return (r >> 32) % (5u << 20) + 1;
    return (r >> 32) % ((size_t)2 << (r % 50 == 0 ? r / 64 % 20 : r / 64 % 12)) + 1;
}

static void step(struct worker *w)
{
    uint64_t r = next_random(w);
    void **slot = &w->block[r % SLOTS];
    r >>= 32;
    if (*slot == NULL)
        *slot = r % 16 == 0 ? hak_aligned_alloc((size_t)1 << r / 16 % 14, next_size(w)) : hak_malloc(next_size(w));
    else if (r % 8 == 0)
        *slot = hak_realloc(*slot, next_size(w));
    else
        hak_free(*slot), *slot = NULL;
}

static void *work(void *argument)
{
    struct worker *w = argument;
    for (unsigned stop = 0; stop < N_STOPS; stop++) {
        for (unsigned i = 0; i < OPERATIONS; i++)
            step(w);
        pthread_barrier_wait(&barrier);
        pthread_barrier_wait(&barrier);
    }
    return NULL;
}

/* What the program holds, by what the class map says of each block's slab. */
struct model {
    uint64_t blocks[CENSUS_CLASSES], bytes[CENSUS_CLASSES];
    uint64_t in_places; /* blocks that lie in no arena */
};

static void model_add(struct model *m, const void *block)
{
    struct arena *arena = registry_arena(block);
    if (arena == NULL) {
        m->in_places++;
        return;
    }
    size_t index = arena_slab_index(arena, block);
    unsigned class_id = atomic_load(&arena->class_map[index]) / CLASS_OFFSET_SCALE;
    if (class_id == CLASS_GAPS)
        class_id = CTL_CLASS(slab_ctl_read(&arena->slabs[index]));
    if (class_id == CLASS_SPAN)
        class_id = superslab_of(block)->state == SUPERSLAB_POOLED ? CENSUS_SPANS : CENSUS_RUNS;
    m->blocks[class_id]++;
    m->bytes[class_id] += hak_usable_size(block);
}

static void take_model(struct model *m)
{
    memset(m, 0, sizeof *m);
    for (unsigned t = 0; t < MAX_THREADS; t++)
        for (unsigned i = 0; i < SLOTS; i++)
            if (workers[t].block[i] != NULL)
                model_add(m, workers[t].block[i]);
}

/* ---- Comparisons ----------------------------------------------------------------------------------------------------- */

static void assert_equal(uint64_t is, uint64_t shall, const char *what, unsigned class_id)
{
    if (is != shall)
        fail_msg("%s of class %u (%u bytes): %llu instead of %llu (HAKMEM_TEST_SEED=%llu)", what, class_id,
                 class_id < CLASS_END ? class_table[class_id].bytes : 0, (unsigned long long)is,
                 (unsigned long long)shall, (unsigned long long)seed);
}

static void compare_classes(const struct census *c, const struct model *m)
{
    uint64_t dirty_bytes = 0, live_blocks = 0, cached_blocks = 0;
    for (unsigned i = CLASS_FIRST; i < CENSUS_CLASSES; i++) {
        const struct census_class *class = &c->classes[i];
        uint64_t waiting = i < CLASS_END ? 0 : class->live_blocks - m->blocks[i]; /* in quarantine */
        if (c->stats.waiting_blocks == 0)
            assert_equal(waiting, 0, "blocks too many", i);
        if (i < CLASS_END) {
            assert_equal(class->live_blocks, m->blocks[i], "live blocks", i);
            assert_equal(class->live_bytes, (m->blocks[i] + class->following_blocks) * class_table[i].bytes,
                         "live bytes", i);
            assert_equal(class->cached_bytes, class->cached_blocks * class_table[i].bytes, "cached bytes", i);
            assert_equal(class->live_blocks + class->following_blocks + class->cached_blocks + class->free_blocks,
                         class->slabs * class_table[i].n_blocks, "blocks of all kinds", i);
        }
        if (exact_bytes)
            assert_equal(class->live_bytes, m->bytes[i], "live bytes by hak_usable_size", i);
        assert_true(class->dirty_bytes <= class->slabs * SLAB_BYTES);
        if (i < CLASS_END || exact_bytes) /* hardened mode's large blocks have pages that are not there */
            assert_true(class->dirty_bytes >= class->live_bytes + class->cached_bytes);
        dirty_bytes += class->dirty_bytes;
        live_blocks += class->live_blocks;
        cached_blocks += class->cached_blocks;
    }
    assert_equal(dirty_bytes + c->stats.empty_bytes, c->stats.committed_bytes, "dirty bytes", 0);
    assert_equal(pool_count_dirty_bytes(), c->stats.committed_bytes, "dirty bytes by the records", 0);
    assert_equal(live_blocks + m->in_places, c->stats.live_blocks + c->stats.waiting_blocks, "live blocks", 0);
    assert_equal(cached_blocks + c->stats.waiting_blocks, c->stats.cached_blocks, "cached blocks", 0);
    assert_equal(c->stats.sampled_blocks, m->in_places, "sampled blocks", 0);
}

static void assert_tenths(const struct hak_stats *s)
{
    uint64_t hot = 0, draining = 0;
    for (unsigned i = 0; i < HAK_STATS_TENTHS; i++) {
        hot += s->hot_by_fullness[i];
        draining += s->draining_by_fullness[i];
    }
    assert_int_equal(hot, s->superslabs_hot);
    assert_int_equal(draining, s->superslabs_draining);
    assert_int_equal(hot + draining, s->superslabs);
}

static void compare_sums(const struct hak_stats *s)
{
    assert_tenths(s);
    uint64_t held_bytes = s->live_bytes - s->sampled_bytes + s->cached_bytes;
    if (exact_bytes)
        assert_int_equal(s->fragmentation_bytes, s->committed_bytes - held_bytes);
    assert_true(s->empty_bytes <= s->fragmentation_bytes);
    assert_true(s->peak_committed_bytes >= s->committed_bytes);
}

/* Threads one by one: together they have what is cached. */
static void compare_threads(const struct census *c)
{
    struct census_source source = introspect_source();
    uint64_t blocks = 0, bytes = 0, owned = 0, by_class[CLASS_END] = {0};
    const struct thread *at = NULL;
    struct census_thread thread;
    size_t n = 0;
    for (; census_thread_next(&source, &at, &thread); n++) {
        blocks += thread.cached_blocks;
        bytes += thread.cached_bytes;
        owned += thread.owned_slabs;
        for (unsigned i = CLASS_FIRST; i < CLASS_END; i++)
            by_class[i] += thread.cached_by_class[i];
    }
    assert_int_equal(n, c->stats.threads);
    assert_int_equal(blocks + c->stats.waiting_blocks, c->stats.cached_blocks);
    assert_int_equal(bytes + c->stats.waiting_bytes, c->stats.cached_bytes);
    for (unsigned i = CLASS_FIRST; i < CLASS_END; i++)
        assert_equal(by_class[i], c->classes[i].cached_blocks, "cached blocks of all threads", i);
    assert_true(owned <= c->stats.slots_active);
}

static void compare(void)
{
    struct model m;
    struct census c;
    take_model(&m);
    introspect_census(&c);
    assert_null(pool_check());
    compare_classes(&c, &m);
    compare_sums(&c.stats);
    compare_threads(&c);
}

static void run_phase(unsigned n_threads)
{
    pthread_barrier_init(&barrier, NULL, n_threads + 1);
    for (unsigned i = 0; i < n_threads; i++) {
        workers[i].random = seed + 1000 * n_threads + i;
        assert_int_equal(pthread_create(&workers[i].thread, NULL, work, &workers[i]), 0);
    }
    for (unsigned stop = 0; stop < N_STOPS; stop++) {
        pthread_barrier_wait(&barrier);
        compare();
        pthread_barrier_wait(&barrier);
    }
    for (unsigned i = 0; i < n_threads; i++)
        pthread_join(workers[i].thread, NULL);
    pthread_barrier_destroy(&barrier);
    compare();
}

static _Atomic bool enough;

static void *work_without_a_stop(void *argument)
{
    struct worker *w = argument;
    while (!enough)
        step(w);
    return NULL;
}

/* Read beside threads that allocate: what one pass counts agrees with itself, and no difference falls below 0. */
static void figures_beside_threads(void **state)
{
    (void)state;
#ifdef SEES_RACES
    skip(); /* the census reads what threads write, by design */
#endif
    enum { N = 4, N_READINGS = 300 };
    enough = false;
    for (unsigned i = 0; i < N; i++) {
        workers[i].random = seed + 77 + i;
        assert_int_equal(pthread_create(&workers[i].thread, NULL, work_without_a_stop, &workers[i]), 0);
    }
    for (unsigned n = 0; n < N_READINGS; n++) {
        struct census c;
        introspect_census(&c);
        assert_tenths(&c.stats);
        assert_int_equal(c.stats.slots_unused + c.stats.slots_active + c.stats.slots_empty,
                         c.stats.superslabs * SUPERSLAB_SLABS);
        uint64_t live_bytes = c.stats.sampled_bytes;
        for (unsigned i = CLASS_FIRST; i < CENSUS_CLASSES; i++) {
            const struct census_class *class = &c.classes[i];
            live_bytes += class->live_bytes;
            assert_true(class->dirty_bytes <= class->slabs * SLAB_BYTES);
            if (i < CLASS_END) /* `used` may be beyond by what is being returned: see layout.h */
                assert_true(class->live_blocks <= class->slabs * class_table[i].n_blocks + N * SLOTS);
        }
        assert_true(c.stats.live_bytes <= live_bytes && c.stats.live_bytes < (uint64_t)1 << 40);
        assert_true(c.stats.fragmentation_bytes < (uint64_t)1 << 40 && c.stats.threads <= N + 1);
    }
    enough = true;
    for (unsigned i = 0; i < N; i++)
        pthread_join(workers[i].thread, NULL);
    compare();
}

static void free_some(unsigned one_of)
{
    for (unsigned t = 0; t < MAX_THREADS; t++)
        for (unsigned i = 0; i < SLOTS; i++)
            if (i % one_of == 0) {
                hak_free(workers[t].block[i]);
                workers[t].block[i] = NULL;
            }
}

static void one_thread(void **state)
{
    (void)state;
    run_phase(1);
}

static void many_threads(void **state)
{
    (void)state;
#ifdef SEES_RACES
    if (config.secure != 0)
        skip(); /* guarded_wait.c looks at records beside whoever may take them, and says so */
#endif
    run_phase(MAX_THREADS);
}

/* A heap that thins out has DRAINING SuperSlabs, purged pages inside slabs, and empty slots. */
static void thin_heaps(void **state)
{
    (void)state;
    for (unsigned one_of = 3; one_of != 0; one_of--) {
        free_some(one_of);
        compare();
        hak_trim(HAK_TRIM_SLABS);
        compare();
        hak_trim(HAK_TRIM_PAGES);
        compare();
    }
    assert_int_equal(read_stats().live_blocks, 0);
}

/* Free slots that were never used, or are purged, apart from those with pages: by the masks of their SuperSlabs, which the census does not
 * read. */
static void free_slots_are_what_their_superslabs_say(void **state)
{
    (void)state;
    static void *blocks[64];
    uint64_t n_unused = 0, n_empty = 0;
    for (unsigned i = 0; i < 64; i++)
        assert_non_null(blocks[i] = memset(hak_malloc(300 * KIB), 1, 300 * KIB));
    for (unsigned i = 0; i < 63; i++) /* more than a thread keeps; and of the last SuperSlab something stays */
        hak_free(blocks[i]);
    hak_free(hak_malloc(100));
    struct hak_stats s = read_stats();
    assert_true(pool_lock(HAK_LOCK_METADATA)); /* a background thread of a test before may be about to end */
    for (struct arena *arena = arena_first(); arena != NULL; arena = arena_next(arena))
        for (uint32_t i = 0; i < atomic_load(&arena->high); i++) {
            const struct superslab *ss = &arena->superslabs[i];
            if (ss->state != SUPERSLAB_POOLED)
                continue;
            n_unused += count_bits(ss->unused_slots);
            n_empty += count_bits(ss->empty_slots);
        }
    pool_unlock();
    hak_free(blocks[63]);
    hak_trim(HAK_TRIM_PAGES);
    assert_true(n_unused != n_empty); /* else the one could stand for the other */
    assert_int_equal(s.slots_unused, n_unused);
    assert_int_equal(s.slots_empty, n_empty);
    assert_int_equal(s.slots_unused + s.slots_empty + s.slots_active, s.superslabs * SUPERSLAB_SLABS);
}

/* ---- Rounding -------------------------------------------------------------------------------------------------------- */

/* With an interval of a byte every block is noted, and the estimate is no estimate. */
static void rounding_is_what_the_profile_knows(void **state)
{
    (void)state;
    static void *blocks[1000];
    struct hak_stats s = read_stats();
    if (config.profile_path[0] != 0)
        skip(); /* a session is on */
    assert_int_equal(s.rounding_samples, 0);
    assert_int_equal(s.rounding_bytes + s.rounding_of_bytes, 0);
    if (hak_profile_start(1) != 0)
        skip(); /* another mode is on */
    uint64_t asked_bytes = 0, usable_bytes = 0;
    for (unsigned i = 0; i < 1000; i++) {
        size_t size_bytes = 1 + i * 37 % 3000;
        blocks[i] = hak_malloc(size_bytes);
        asked_bytes += size_bytes;
        usable_bytes += class_table[class_of(size_bytes)].bytes;
    }
    s = read_stats();
    assert_int_equal(s.rounding_samples, 1000);
    assert_int_equal(s.rounding_of_bytes, usable_bytes);
    assert_int_equal(s.rounding_bytes, usable_bytes - asked_bytes);
    hak_profile_stop();
    void *later = hak_malloc(100);
    assert_int_equal(read_stats().rounding_samples, 1000); /* what it knows stays true */
    hak_free(later);
    for (unsigned i = 0; i < 1000; i++)
        hak_free(blocks[i]);
    s = read_stats();
    assert_int_equal(s.rounding_samples, 0);
    assert_int_equal(s.rounding_bytes + s.rounding_of_bytes, 0);
}

/* ---- Made-up records ---------------------------------------------------------------------------------------------------- */

/* The census is taken of a copy, at other addresses, of which all pointers but those that it says it follows are wild. */
static void copies_do_as_well(void **state)
{
    (void)state;
    void *small = hak_malloc(100), *span = hak_malloc(100000), *run = hak_malloc(3 << 20);
    struct census_source source = introspect_source();
    struct census here, there;
    census_take(&source, &here);

    struct arena arena = *source.arenas;
    assert_null(arena.next);
    uint32_t n = atomic_load(&arena.high);
    struct superslab *superslabs = malloc(n * sizeof *superslabs);
    struct slab *slabs = aligned_alloc(CACHE_LINE_BYTES, n * SUPERSLAB_SLABS * sizeof *slabs);
    assert_true(superslabs != NULL && slabs != NULL);
    memcpy(superslabs, arena.superslabs, n * sizeof *superslabs);
    memcpy(slabs, arena.slabs, n * SUPERSLAB_SLABS * sizeof *slabs);
    for (uint32_t i = 0; i < n; i++) {
        superslabs[i].arena = (struct arena *)16;
        superslabs[i].previous = superslabs[i].next = (struct superslab *)16;
    }
    for (uint32_t i = 0; i < n * SUPERSLAB_SLABS; i++) {
        slabs[i].bits = (void *)16;
        slabs[i].memory = (char *)16;
        atomic_store(&slabs[i].superslab, (struct superslab *)16);
    }
    arena.superslabs = superslabs;
    arena.slabs = slabs;
    arena.base = (char *)16;
    arena.taken = (void *)16;
    arena.class_map = (void *)16;

    struct thread *first = NULL, *copies[64];
    size_t n_copies = 0;
    for (const struct thread *thread = source.threads; thread != NULL; thread = thread->next) {
        struct thread *copy = malloc(sizeof *copy);
        assert_true(copy != NULL && n_copies < 64);
        copies[n_copies++] = copy;
        *copy = *thread;
        copy->door = (struct cache *)16;
        for (unsigned i = 0; i < CLASS_END; i++)
            copy->current[i] = copy->current[i] == NULL ? NULL : (struct slab *)16;
        copy->next = first;
        first = copy;
    }
    struct stats_counters counters = *source.counters;
    source.arenas = &arena;
    source.threads = first;
    source.counters = &counters;
    census_take(&source, &there);
    assert_memory_equal(&here, &there, sizeof here);

    /* Nothing that is in the records leads it astray. */
    uint64_t random = seed;
    for (unsigned round = 0; round < 50; round++) {
        for (uint32_t i = 0; i < n * SUPERSLAB_SLABS; i++) {
            random = random * 6364136223846793005u + 1442695040888963407u;
            atomic_store(&slabs[i].ctl, (slab_ctl)(random >> 32));
            atomic_store(&slabs[i].dirty_pages, (uint16_t)(random >> 16));
        }
        for (uint32_t i = 0; i < n; i++) {
            superslabs[i].state = (uint8_t)(round % 2 == 0 ? SUPERSLAB_POOLED : random >> (i % 40));
            superslabs[i].tier = (uint8_t)(random >> (i % 37));
        }
        census_take(&source, &there);
        assert_int_equal(there.stats.superslabs_hot + there.stats.superslabs_draining, there.stats.superslabs);
        assert_int_equal(there.stats.slots_unused + there.stats.slots_active + there.stats.slots_empty,
                         there.stats.superslabs * SUPERSLAB_SLABS);
    }
    while (n_copies != 0)
        free(copies[--n_copies]);
    free(superslabs);
    free(slabs);
    hak_free(small);
    hak_free(span);
    hak_free(run);
}

/* ---- What the system says -------------------------------------------------------------------------------------------------- */

/* Anonymous memory of the process. */
static uint64_t anonymous_bytes(void)
{
    char line[256];
    unsigned long long kib = 0;
    FILE *file = fopen("/proc/self/status", "r");
    while (file != NULL && fgets(line, sizeof line, file) != NULL)
        if (sscanf(line, "RssAnon: %llu kB", &kib) == 1)
            break;
    if (file != NULL)
        fclose(file);
    return kib * KIB;
}

/* Without huge pages no page is in memory that does not count as committed; and what was written to is there. */
static void resident_is_within_bounds(void **state)
{
    (void)state;
    if (config.secure != 0 || config.guard_sample != 0 || config.profile_path[0] != 0)
        skip(); /* these have blocks elsewhere, pages that come and go one by one, or memory of their own */
    enum { N = 20000 };
    static void *blocks[N];
    static const size_t sizes[] = {24, 100, 1000, 5000, 40000};
    for (size_t k = 0; k < sizeof sizes / sizeof sizes[0]; k++) {
        hak_trim(HAK_TRIM_PAGES);
        struct hak_stats before = read_stats();
        uint64_t before_bytes = anonymous_bytes();
        unsigned n = sizes[k] < 5000 ? N : 1500;
        for (unsigned i = 0; i < n; i++) {
            blocks[i] = hak_malloc(sizes[k]);
            memset(blocks[i], 1, sizes[k]);
        }
        struct hak_stats after = read_stats();
        uint64_t after_bytes = anonymous_bytes();
        struct hak_resident resident;
        assert_int_equal(hak_resident_get(&resident), 0);
        assert_true(resident.resident_bytes <= after.committed_bytes);
        assert_true(resident.resident_bytes >= n * sizes[k]);
#ifndef SANITIZED
        /* The heap is all that grew: by what was written at least, and at most by what it commits and its records. */
        uint64_t grown_bytes = after_bytes - before_bytes;
        assert_true(after_bytes > before_bytes && grown_bytes + 64 * KIB >= n * sizes[k]);
        assert_true(grown_bytes <= after.committed_bytes - before.committed_bytes + after.metadata_bytes -
                                       before.metadata_bytes + after.committed_bytes / 50 +
                                       256 * KIB); /* records: README.md */
#else
        (void)before_bytes, (void)after_bytes, (void)before;
#endif
        for (unsigned i = 0; i < n; i++)
            hak_free(blocks[i]);
        hak_trim(HAK_TRIM_PAGES);
        assert_int_equal(hak_resident_get(&resident), 0);
        assert_true(resident.resident_bytes <= read_stats().committed_bytes);
    }
}

static int read_seed(void **state)
{
    (void)state;
    const char *text = getenv("HAKMEM_TEST_SEED");
    if (text != NULL)
        seed = strtoull(text, NULL, 0);
    exact_bytes = config.secure == 0 && config.profile_path[0] == 0;
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(copies_do_as_well),
        cmocka_unit_test(one_thread),
        cmocka_unit_test(many_threads),
        cmocka_unit_test(figures_beside_threads),
        cmocka_unit_test(thin_heaps),
        cmocka_unit_test(free_slots_are_what_their_superslabs_say),
        cmocka_unit_test(resident_is_within_bounds),
        cmocka_unit_test(rounding_is_what_the_profile_knows),
    };
    return cmocka_run_group_tests(tests, read_seed, NULL);
}
