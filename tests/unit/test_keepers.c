/* test_keepers.c - the record of a thread that has ended keeps its slabs for the next one, but not for long, not many do, and not
 * where memory is to go back at once.
 * ctest: timeout 300
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "front/sleepers.h"
#include "front/thread.h"
#include "hakmem/hakmem.h"
#include "pool/shared_pool.h"
#include "service/config.h"
#include "look.h"

#include <pthread.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define N_HELD 100
#define HELD_BYTES ((size_t)100)
#define KEEPERS_MAX 16 /* as in thread.c */

static struct thread *keepers[64]; /* of the last count */

static unsigned count_keepers(void)
{
    unsigned n = 0;
    for (struct thread *t = thread_first(); t != NULL; t = t->next)
        if (atomic_load(&t->kept_bytes) != 0) {
            assert_int_equal(atomic_load(&t->in_use), 0);
            keepers[n++ % 64] = t;
        }
    return n;
}

static int start(void **state)
{
    (void)state;
    config.background = false;
    config.purge_delay_ms = 100000; /* no tick but the test's own */
    sleepers_empty_all();
    return 0;
}

/* One that leaves some blocks. */
static void *live(void *held)
{
    void **block = held;
    for (unsigned i = 0; i < N_HELD; i++)
        memset(block[i] = hak_malloc(HELD_BYTES), 1, HELD_BYTES);
    for (unsigned i = 1; i < 100; i++) /* and some that it frees, of other classes */
        hak_free(hak_malloc(i * 40));
    return NULL;
}

static void run_thread(void *(*function)(void *), void *argument)
{
    pthread_t thread;
    assert_int_equal(pthread_create(&thread, NULL, function, argument), 0);
    assert_int_equal(pthread_join(thread, NULL), 0);
}

static void free_held(void **block)
{
    for (unsigned i = 0; i < N_HELD; i++)
        hak_free(block[i]);
}

static struct slab *slab_of(const void *block)
{
    struct arena *arena = registry_arena(block);
    assert_non_null(arena);
    return &arena->slabs[arena_slab_index(arena, block)];
}

static bool owns_nothing(const struct thread *record)
{
    for (unsigned c = CLASS_FIRST; c < CLASS_END; c++)
        if (record->current[c] != NULL || magazine_count(&record->cache.magazine[c]) != 0)
            return false;
    return record->capacity_bytes == 0;
}

static void the_next_thread_gets_the_slabs(void **state)
{
    (void)state;
    void *first[N_HELD], *second[N_HELD];
    uint64_t live_before = read_stats().live_blocks;
    run_thread(live, first);
    assert_int_equal(count_keepers(), 1);
    struct thread *record = keepers[0];
    unsigned class_id = class_of(HELD_BYTES);
    struct slab *slab = record->current[class_id];
    assert_non_null(slab);
    assert_ptr_equal(slab, slab_of(first[N_HELD - 1]));
    assert_int_equal(CTL_STATE(slab_ctl_read(slab)), SLAB_OWNED);
    assert_int_equal(CTL_USED(slab_ctl_read(slab)), N_HELD); /* what the thread had cached went back */
    assert_int_equal(record->capacity_bytes, 0);
    assert_int_equal(read_stats().live_blocks, live_before + N_HELD);
    assert_null(pool_check());

    run_thread(live, second); /* libc gives it the first one's stack, which is how it is known */
    assert_int_equal(count_keepers(), 1);
    assert_ptr_equal(keepers[0], record);
    assert_ptr_equal(slab_of(second[0]), slab);
    free_held(first);
    free_held(second);
    sleepers_empty_all();
    assert_int_equal(read_stats().live_blocks, live_before);
    assert_null(pool_check());
}

static pthread_barrier_t all_live;

struct line {
    pthread_t self;
    void *held[N_HELD];
};

static void *live_beside_others(void *argument)
{
    struct line *line = argument;
    line->self = pthread_self();
    live(line->held);
    pthread_barrier_wait(&all_live);
    return NULL;
}

static void run_beside(struct line *line, unsigned n)
{
    pthread_t thread[4 * KEEPERS_MAX];
    assert_true(n <= 4 * KEEPERS_MAX);
    pthread_barrier_init(&all_live, NULL, n);
    for (unsigned i = 0; i < n; i++)
        assert_int_equal(pthread_create(&thread[i], NULL, live_beside_others, &line[i]), 0);
    for (unsigned i = 0; i < n; i++)
        pthread_join(thread[i], NULL);
}

/* Whichever was let go last, a thread finds the record that lay where it lies. */
static void lines_of_threads_do_not_mix(void **state)
{
    (void)state;
    enum { N = 4 };
    struct line before[N], after[N];
    unsigned n_found = 0;
    run_beside(before, N);
    assert_int_equal(count_keepers(), N);
    run_beside(after, N);
    for (unsigned i = 0; i < N; i++)
        for (unsigned k = 0; k < N; k++)
            if (pthread_equal(after[i].self, before[k].self)) {
                n_found++;
                assert_ptr_equal(slab_of(after[i].held[0]), slab_of(before[k].held[0]));
            }
    assert_int_equal(n_found, N); /* libc keeps so many stacks */
    for (unsigned i = 0; i < N; i++) {
        free_held(before[i].held);
        free_held(after[i].held);
    }
    sleepers_empty_all();
    assert_null(pool_check());
}

static void ticks_end_it(void **state)
{
    (void)state;
    if (UNDER_THREAD_SANITIZER)
        skip(); /* where ticks do not look at threads */
    void *held[N_HELD];
    run_thread(live, held);
    assert_int_equal(count_keepers(), 1);
    struct thread *record = keepers[0];
    size_t kept_bytes = atomic_load(&record->kept_bytes);
    assert_true(kept_bytes >= N_HELD * HELD_BYTES);
    assert_in_range(sleepers_tick(), kept_bytes, kept_bytes + GIB); /* the first may see that the thread was at work */
    assert_int_equal(count_keepers(), 1);
    for (unsigned i = 0; i < 3; i++)
        sleepers_tick();
    assert_int_equal(count_keepers(), 0);
    assert_true(owns_nothing(record));
    assert_false(atomic_load(&record->array_pages_used)); /* its magazines' arrays have gone, too */
    assert_int_equal(CTL_STATE(slab_ctl_read(slab_of(held[0]))), SLAB_PARTIAL); /* anybody's */
    assert_null(pool_check());
    free_held(held);
    run_thread(live, held); /* The record is as good as ever. */
    assert_int_equal(count_keepers(), 1);
    free_held(held);
}

static void a_trim_ends_it(void **state)
{
    (void)state;
    void *held[N_HELD];
    run_thread(live, held);
    assert_int_equal(count_keepers(), 1);
    struct thread *record = keepers[0];
    hak_trim(HAK_TRIM_CACHE);
    assert_int_equal(count_keepers(), 0);
    assert_true(owns_nothing(record));
    free_held(held);
}

static void only_some_keep(void **state)
{
    (void)state;
    enum { N = 3 * KEEPERS_MAX };
    static struct line line[N];
    run_beside(line, N);
    assert_int_equal(count_keepers(), KEEPERS_MAX);
    for (struct thread *t = thread_first(); t != NULL; t = t->next)
        if (atomic_load(&t->in_use) == 0 && atomic_load(&t->kept_bytes) == 0)
            assert_true(owns_nothing(t));
    assert_null(pool_check());
    sleepers_empty_all();
    assert_int_equal(count_keepers(), 0);
    for (struct thread *t = thread_first(); t != NULL; t = t->next)
        assert_true(atomic_load(&t->in_use) != 0 || !atomic_load(&t->array_pages_used));
    for (unsigned i = 0; i < N; i++)
        free_held(line[i].held);
    run_thread(live, line[0].held);
    assert_int_equal(count_keepers(), 1); /* the count went back, too */
    free_held(line[0].held);
}

static void a_child_has_none(void **state)
{
    (void)state;
    void *held[N_HELD];
    run_thread(live, held);
    assert_int_equal(count_keepers(), 1);
    struct thread *record = keepers[0];
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        bool right = count_keepers() == 0 && owns_nothing(record) && pool_check() == NULL;
        free_held(held);
        pthread_t thread;
        right = right && pthread_create(&thread, NULL, live, held) == 0 && pthread_join(thread, NULL) == 0;
        right = right && count_keepers() == 1 && pool_check() == NULL;
        _exit(right ? 0 : 1);
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_int_equal(status, 0);
    assert_int_equal(count_keepers(), 1);
    free_held(held);
}

static void nothing_is_kept_where_memory_goes_back_at_once(void **state)
{
    (void)state;
    void *held[N_HELD];
    config.purge_delay_ms = 0;
    run_thread(live, held);
    assert_int_equal(count_keepers(), 0);
    free_held(held);
    config.purge_delay_ms = 100000;
    assert_int_equal(hak_budget_set(512 * MIB, 1024 * MIB), 0);
    run_thread(live, held);
    assert_int_equal(count_keepers(), 0);
    free_held(held);
    assert_int_equal(hak_budget_set(0, 0), 0);
}

/* ---- Threads that end and begin while others empty what they kept ------------------------------------------------------ */

static _Atomic bool stop;

static void *keep_coming(void *unused)
{
    void *held[N_HELD];
    for (unsigned i = 0; i < 300; i++) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, live, held) != 0 || pthread_join(thread, NULL) != 0)
            abort();
        free_held(held);
    }
    return unused;
}

static void *keep_emptying(void *unused)
{
    while (!atomic_load(&stop))
        sleepers_empty_all();
    return unused;
}

static void meanwhile_others_empty(void **state)
{
    (void)state;
    pthread_t line[3], emptier;
    uint64_t live_before = read_stats().live_blocks;
    stop = false;
    assert_int_equal(pthread_create(&emptier, NULL, keep_emptying, NULL), 0);
    for (unsigned i = 0; i < 3; i++)
        assert_int_equal(pthread_create(&line[i], NULL, keep_coming, NULL), 0);
    for (unsigned i = 0; i < 3; i++)
        pthread_join(line[i], NULL);
    stop = true;
    pthread_join(emptier, NULL);
    sleepers_empty_all();
    assert_int_equal(count_keepers(), 0);
    assert_int_equal(read_stats().live_blocks, live_before);
    assert_null(pool_check());
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(the_next_thread_gets_the_slabs, start),
        cmocka_unit_test_setup(lines_of_threads_do_not_mix, start),
        cmocka_unit_test_setup(ticks_end_it, start),
        cmocka_unit_test_setup(a_trim_ends_it, start),
        cmocka_unit_test_setup(only_some_keep, start),
        cmocka_unit_test_setup(a_child_has_none, start),
        cmocka_unit_test_setup(nothing_is_kept_where_memory_goes_back_at_once, start),
        cmocka_unit_test_setup(meanwhile_others_empty, start),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
