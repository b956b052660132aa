/* test_shadow.c - a shadow model: random calls of the whole interface by 1, 2, 4 and 8 threads, while a record of every block
 * says where it lies, how long it is and what it holds.
 * Checked at each call: alignment, usable size, zeroes of calloc, contents when a block is freed or resized.
 * Checked after each phase, when its threads have ended: pool_check, and the statistics against the records, of all classes too.
 * Replay   a failure prints the seed; HAKMEM_TEST_SEED=<seed> runs the same calls again. Each thread's calls depend on the
 *          seed and on what it finds in the mailboxes, so the phase of one thread repeats exactly, the others nearly.
 * Threads  a record belongs to one thread, to one mailbox, or, between phases, to main. A thread exchanges one of its
 *          records for a mailbox's (acquire and release), which passes the block on.
 * ctest: timeout 600
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "api/introspect.h"
#include "hakmem/hakmem.h"
#include "meta/registry.h"
#include "pool/shared_pool.h"
#include "service/config.h"
#include "process.h"

#include <errno.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if defined(SANITIZED) || HAKMEM_DEBUG_BUILD
#define SLOW_BUILD 1
#endif

#ifdef SLOW_BUILD
#define N_OPERATIONS 1000000u
#else
#define N_OPERATIONS 100000000u
#endif

#define MAX_THREADS 8
#define RECORDS_PER_THREAD 4096
#define N_MAILBOXES 512
#define N_RECORDS (MAX_THREADS * RECORDS_PER_THREAD + N_MAILBOXES)
#define SEED_STANDARD 20240607u

struct record {
    unsigned char *block; /* NULL: none */
    size_t size_bytes;    /* as asked for */
    uint64_t mark;        /* what the contents depend on */
    bool whole;           /* every byte was written; else 16 at either end */
};

static struct record records[N_RECORDS];
static struct record *_Atomic mailboxes[N_MAILBOXES];
static struct record *owned[MAX_THREADS][RECORDS_PER_THREAD];
static uint64_t seed = SEED_STANDARD;

struct worker {
    pthread_t thread;
    uint64_t random;
    unsigned index, n_threads;
    uint64_t n_operations, operation;
};

static _Noreturn void die(const struct worker *w, const char *what, const struct record *r)
{
    fprintf(stderr,
            "test_shadow: %s: block %p of %zu bytes, thread %u of %u, operation %" PRIu64
            "\ntest_shadow: replay with HAKMEM_TEST_SEED=%" PRIu64 "\n",
            what, (void *)r->block, r->size_bytes, w->index, w->n_threads, w->operation, seed);
    abort();
}

/* ---- Random numbers -------------------------------------------------------------------------------------------------- */

static uint64_t mix(uint64_t z)
{
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

static uint64_t next_random(struct worker *w)
{
    return mix(w->random += 0x9e3779b97f4a7c15u);
}

/* Mostly up to 1 KiB, every power of two as likely as the next; 1 % up to 64 KiB, 0.01 % up to 4 MiB. */
static size_t next_size(struct worker *w)
{
    uint64_t r = next_random(w);
    unsigned kind = (unsigned)(r % 10000);
    r >>= 16;
    if (kind == 0)
        return (size_t)(r % (4u << 20)) + 1;
    if (kind <= 100)
        return (size_t)(r % (64u << 10)) + 1;
    return (size_t)(r >> 8 & ((2u << r % 10) - 1)) + (r % 10 == 9);
}

/* ---- Contents -------------------------------------------------------------------------------------------------------- */

static uint64_t word_at(uint64_t mark, size_t i)
{
    return mark + i * 0x9e3779b97f4a7c15u;
}

static void fill_whole(unsigned char *block, size_t size_bytes, uint64_t mark)
{
    size_t i = 0;
    for (; i + 8 <= size_bytes; i += 8) {
        uint64_t word = word_at(mark, i);
        memcpy(block + i, &word, 8);
    }
    uint64_t word = word_at(mark, i);
    memcpy(block + i, &word, size_bytes - i);
}

static bool holds_whole(const unsigned char *block, size_t size_bytes, uint64_t mark)
{
    size_t i = 0;
    uint64_t wrong = 0;
    for (; i + 8 <= size_bytes; i += 8) {
        uint64_t word;
        memcpy(&word, block + i, 8);
        wrong |= word ^ word_at(mark, i);
    }
    uint64_t word = word_at(mark, i);
    return wrong == 0 && memcmp(block + i, &word, size_bytes - i) == 0;
}

/* 16 bytes at `offset`. */
static void fill_16(unsigned char *block, size_t offset, uint64_t mark)
{
    uint64_t words[2] = {word_at(mark, offset), word_at(mark, offset + 8)};
    memcpy(block + offset, words, 16);
}

static bool holds_16(const unsigned char *block, size_t offset, uint64_t mark)
{
    uint64_t words[2] = {word_at(mark, offset), word_at(mark, offset + 8)};
    return memcmp(block + offset, words, 16) == 0;
}

static bool is_zero(const unsigned char *block, size_t size_bytes)
{
    return size_bytes == 0 || (block[0] == 0 && memcmp(block, block + 1, size_bytes - 1) == 0);
}

static void fill(struct worker *w, struct record *r)
{
    r->mark = next_random(w);
    r->whole = r->size_bytes < 64 || r->mark % 16 == 0;
    if (r->whole) {
        fill_whole(r->block, r->size_bytes, r->mark);
    } else {
        fill_16(r->block, 0, r->mark);
        fill_16(r->block, r->size_bytes - 16, r->mark);
    }
}

/* The first kept_bytes of what `was` held, now at `block`. */
static void check_contents(const struct worker *w, const struct record *was, const unsigned char *block,
                           size_t kept_bytes)
{
    const uint64_t head[2] = {word_at(was->mark, 0), word_at(was->mark, 8)};
    bool right;
    if (was->whole)
        right = holds_whole(block, kept_bytes, was->mark);
    else if (kept_bytes < sizeof head)
        right = memcmp(block, head, kept_bytes) == 0;
    else
        right = holds_16(block, 0, was->mark) &&
                (kept_bytes < was->size_bytes || holds_16(block, kept_bytes - 16, was->mark));
    if (!right)
        die(w, "contents changed", was);
}

/* ---- Operations ------------------------------------------------------------------------------------------------------ */

static void check_block(const struct worker *w, const struct record *r, size_t alignment)
{
    if (r->block == NULL)
        die(w, "no block", r);
    if (((uintptr_t)r->block & (alignment - 1)) != 0)
        die(w, "wrong alignment", r);
    if (hak_usable_size(r->block) < r->size_bytes)
        die(w, "usable size below the request", r);
}

static size_t natural_alignment(size_t size_bytes)
{
    return size_bytes <= 8 ? 8 : 16;
}

/* Mostly up to a page; sometimes to a slab, rarely to two SuperSlabs. */
static size_t next_alignment(struct worker *w)
{
    uint64_t r = next_random(w);
    unsigned kind = (unsigned)(r % 4096);
    r >>= 16;
    return (size_t)1 << r % (kind == 0 ? 23 : kind < 64 ? 17 : 13);
}

static void claim(struct worker *w, struct record *r)
{
    r->size_bytes = next_size(w);
    uint64_t how = next_random(w) % 16;
    size_t alignment = natural_alignment(r->size_bytes);
    if (how < 2) {
        size_t count = how == 0 ? 1 : r->size_bytes % 7 + 1;
        r->size_bytes -= r->size_bytes % count;
        alignment = natural_alignment(r->size_bytes);
        r->block = hak_calloc(count, r->size_bytes / count);
        if (r->block != NULL && !is_zero(r->block, r->size_bytes))
            die(w, "calloc's memory is not zero", r);
    } else if (how < 4) {
        alignment = next_alignment(w);
        r->block = hak_aligned_alloc(alignment, r->size_bytes);
    } else if (how == 4) {
        r->block = hak_realloc(NULL, r->size_bytes);
    } else {
        r->block = hak_malloc(r->size_bytes);
    }
    check_block(w, r, alignment);
    fill(w, r);
}

static void resize(struct worker *w, struct record *r)
{
    const struct record was = *r;
    /* Near the old size as often as anywhere else: growth and shrinkage in place. */
    uint64_t how = next_random(w);
    size_t new_bytes = how % 2 == 0 ? next_size(w) : was.size_bytes / 2 + (size_t)(how >> 8) % (was.size_bytes + 1) + 1;
    if (new_bytes == 0)
        new_bytes = 1;
    r->size_bytes = new_bytes;
    r->block = hak_realloc(was.block, new_bytes);
    check_block(w, r, natural_alignment(new_bytes));
    check_contents(w, &was, r->block, was.size_bytes < new_bytes ? was.size_bytes : new_bytes);
    fill(w, r);
}

static void give_back(struct worker *w, struct record *r, uint64_t how)
{
    check_contents(w, r, r->block, r->size_bytes);
    if (how == 0)
        hak_free_sized(r->block, r->size_bytes);
    else if (how == 1 && hak_realloc(r->block, 0) != NULL)
        die(w, "realloc to 0 returns a block", r);
    else if (how > 1)
        hak_free(r->block);
    r->block = NULL;
}

static void *work(void *argument)
{
    struct worker *w = argument;
    for (w->operation = 0; w->operation < w->n_operations; w->operation++) {
        uint64_t what = next_random(w);
        struct record **place = &owned[w->index][what % RECORDS_PER_THREAD];
        what /= RECORDS_PER_THREAD;
        if (what % 16 == 0)
            *place = atomic_exchange_explicit(&mailboxes[what / 16 % N_MAILBOXES], *place, memory_order_acq_rel);
        struct record *r = *place;
        what >>= 20;
        if (r->block == NULL)
            claim(w, r);
        else if (what % 4 == 0)
            resize(w, r);
        else
            give_back(w, r, what / 4 % 32);
    }
    return NULL;
}

/* ---- Phases ---------------------------------------------------------------------------------------------------------- */

/* The census of each class, against what the class map says of the records' blocks. */
static void check_classes(const char *when)
{
    uint64_t blocks[CENSUS_CLASSES] = {0};
    for (unsigned i = 0; i < N_RECORDS; i++) {
        if (records[i].block == NULL)
            continue;
        struct arena *arena = registry_arena(records[i].block);
        size_t slab = arena_slab_index(arena, records[i].block);
        unsigned class_id = atomic_load(&arena->class_map[slab]) / CLASS_OFFSET_SCALE;
        if (class_id == CLASS_GAPS)
            class_id = CTL_CLASS(slab_ctl_read(&arena->slabs[slab]));
        bool run = class_id == CLASS_SPAN && arena->superslabs[slab / SUPERSLAB_SLABS].state != SUPERSLAB_POOLED;
        blocks[run ? CENSUS_RUNS : class_id == CLASS_SPAN ? CENSUS_SPANS : class_id]++;
    }
    struct census c;
    introspect_census(&c);
    for (unsigned i = CLASS_FIRST; i < CENSUS_CLASSES; i++) {
        const struct census_class *class = &c.classes[i];
        if (class->live_blocks != blocks[i])
            fail_msg("%s: %" PRIu64 " blocks of class %u live by the census, %" PRIu64
                     " by the records (HAKMEM_TEST_SEED=%" PRIu64 ")",
                     when, class->live_blocks, i, blocks[i], seed);
        if (i < CLASS_END)
            assert_int_equal(class->live_blocks + class->following_blocks + class->cached_blocks + class->free_blocks,
                             class->slabs * class_table[i].n_blocks);
    }
}

static void check_books(const char *when)
{
    const char *wrong = pool_check();
    if (wrong != NULL)
        fail_msg("pool_check %s: %s (HAKMEM_TEST_SEED=%" PRIu64 ")", when, wrong, seed);
    uint64_t n_blocks = 0, n_bytes = 0;
    for (unsigned i = 0; i < N_RECORDS; i++)
        if (records[i].block != NULL) {
            n_blocks++;
            n_bytes += hak_usable_size(records[i].block);
        }
    struct hak_stats s;
    assert_int_equal(hak_stats_get(&s, sizeof s), 0);
    /* Hardened mode tells the bytes that were asked for. */
    if (s.live_blocks != n_blocks || (config.secure == 0 && s.live_bytes != n_bytes))
        fail_msg("%s: %" PRIu64 " blocks of %" PRIu64 " bytes live by the statistics, %" PRIu64 " of %" PRIu64
                 " by the records (HAKMEM_TEST_SEED=%" PRIu64 ")",
                 when, s.live_blocks, s.live_bytes, n_blocks, n_bytes, seed);
    if (config.secure == 0 && config.guard_sample == 0) /* else blocks lie elsewhere, or wait in quarantine */
        check_classes(when);
}

static void run_phase(unsigned n_threads)
{
    static struct worker workers[MAX_THREADS];
    for (unsigned i = 0; i < n_threads; i++) {
        workers[i] = (struct worker){.index = i,
                                     .n_threads = n_threads,
                                     .random = mix(seed + n_threads * MAX_THREADS + i),
                                     .n_operations = N_OPERATIONS / 4 / n_threads};
        assert_int_equal(pthread_create(&workers[i].thread, NULL, work, &workers[i]), 0);
    }
    for (unsigned i = 0; i < n_threads; i++)
        assert_int_equal(pthread_join(workers[i].thread, NULL), 0);
    char when[32];
    snprintf(when, sizeof when, "after %u threads", n_threads);
    check_books(when);
}

static void one_thread(void **state)
{
    (void)state;
    run_phase(1);
}

static void two_threads(void **state)
{
    (void)state;
    run_phase(2);
}

static void four_threads(void **state)
{
    (void)state;
    run_phase(4);
}

static void eight_threads(void **state)
{
    (void)state;
    run_phase(8);
}

/* Blocks of all phases, by a thread that claimed none of them. */
static void nothing_is_left(void **state)
{
    (void)state;
    struct worker w = {.random = seed};
    for (unsigned i = 0; i < N_RECORDS; i++)
        if (records[i].block != NULL)
            give_back(&w, &records[i], i % 8);
    check_books("at the end");
    struct hak_stats s;
    assert_int_equal(hak_stats_get(&s, sizeof s), 0);
    assert_int_equal(s.live_blocks, 0);
    assert_int_equal(s.live_bytes, 0);
    assert_int_equal(s.spans, 0);
    assert_int_equal(s.runs, 0);
    hak_trim(HAK_TRIM_PAGES);
    check_books("after the trim");
}

static int deal_records(void **state)
{
    (void)state;
    const char *text = getenv("HAKMEM_TEST_SEED");
    if (text != NULL)
        seed = strtoull(text, NULL, 0);
    struct record *next = records;
    for (unsigned i = 0; i < N_MAILBOXES; i++)
        atomic_store(&mailboxes[i], next++);
    for (unsigned t = 0; t < MAX_THREADS; t++)
        for (unsigned i = 0; i < RECORDS_PER_THREAD; i++)
            owned[t][i] = next++;
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_thread),    cmocka_unit_test(two_threads),     cmocka_unit_test(four_threads),
        cmocka_unit_test(eight_threads), cmocka_unit_test(nothing_is_left),
    };
    return cmocka_run_group_tests(tests, deal_records, NULL);
}
