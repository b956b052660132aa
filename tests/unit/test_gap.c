/* test_gap.c - larger blocks in the gaps of sparse slabs: that they overlap nothing, keep what is written to them, go back whole, cost
 * no memory, and that mistakes with them are told.
 * Checked: a model of one slab's blocks; patterns in each block; pool_check after each test.
 * Threads  one, a child, and five in the last test.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "front/thread.h"
#include "hakmem/hakmem.h"
#include "pool/background.h"
#include "pool/gap.h"
#include "pool/shared_pool.h"
#include "service/config.h"
#include "look.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static uint32_t random_of(uint32_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 17;
    return *state ^= *state << 5;
}

static int start_clean(void **state)
{
    (void)state;
    start_without_ticks();
    return 0;
}

static int end_clean(void **state)
{
    (void)state;
    hak_trim(HAK_TRIM_PAGES);
    struct hak_stats s = read_stats();
    if (pool_check() != NULL)
        print_error("%s\n", pool_check());
    return pool_check() == NULL && s.gap_slabs == 0 ? 0 : -1;
}

/* ---- One slab ---------------------------------------------------------------------------------------------------- */

enum { MOST_BLOCKS = 4096 };

/* To which block each place belongs: 0, nobody; 1, one of the slab's own; else a larger one's number. */
static unsigned owner[MOST_BLOCKS];

struct larger {
    unsigned first, n; /* n = 0: none */
};

static char *claim_gap(struct slab *slab, size_t size_bytes)
{
    unsigned first = slab_find_gap(slab, size_bytes);
    return first == SLAB_NO_GAP ? NULL : slab_claim_gap(slab, first, size_bytes);
}

/* The first of n free places side by side, by the model; n_blocks if there are none. */
static unsigned first_row(unsigned n, unsigned n_blocks)
{
    for (unsigned i = 0, run = 0; i < n_blocks; i++) {
        run = owner[i] == 0 ? run + 1 : 0;
        if (run == n)
            return i + 1 - n;
    }
    return n_blocks;
}

static void claim_larger(struct slab *slab, struct larger *larger, unsigned number, size_t size_bytes)
{
    const struct class_info *class = &class_table[CTL_CLASS(slab_ctl_read(slab))];
    unsigned n = (unsigned)((size_bytes + class->bytes - 1) / class->bytes), first = first_row(n, class->n_blocks);
    char *block = claim_gap(slab, size_bytes);
    if (block == NULL) {
        assert_int_equal(first, class->n_blocks);
        return;
    }
    assert_ptr_equal(block, slab->memory + first * class->bytes);
    *larger = (struct larger){first, n};
    assert_int_equal(slab_gap_blocks(slab, larger->first), larger->n);
    for (unsigned i = larger->first; i < larger->first + larger->n; i++) {
        assert_int_equal(owner[i], 0);
        assert_int_equal(slab_follows(slab, i), i != larger->first);
        owner[i] = number;
    }
}

static void return_larger(struct slab *slab, struct larger *larger)
{
    assert_int_equal(slab_gap_blocks(slab, larger->first), larger->n); /* whatever came and went beside it */
    assert_true(gap_return(slab, larger->first));
    for (unsigned i = larger->first; i < larger->first + larger->n; i++)
        owner[i] = 0;
    larger->n = 0;
}

static void try_a_slab(unsigned class_id, uint32_t seed)
{
    enum { N = 40, N_STEPS = 3000 };
    static struct larger larger[N];
    static void *out[MOST_BLOCKS];
    const struct class_info *class = &class_table[class_id];
    struct slab *slab = shared_pool_acquire_slab(class_id);
    assert_non_null(slab);
    unsigned n = slab_claim(slab, class->n_blocks, UINT16_MAX, out);
    assert_int_equal(n, class->n_blocks);
    memset(owner, 0, sizeof owner);
    memset(larger, 0, sizeof larger);
    for (unsigned i = 0; i < n; i++)
        owner[i] = random_of(&seed) % 16 == 0;
    owner[n / 2] = 1;
    for (unsigned i = 0; i < n; i++)
        if (owner[i] == 0)
            assert_int_equal(shared_pool_return_blocks(slab, i / 64, (uint64_t)1 << i % 64), 0);
    slab_open_gaps(slab);
    for (unsigned step = 0; step < N_STEPS; step++) {
        unsigned i = random_of(&seed) % N;
        if (larger[i].n != 0)
            return_larger(slab, &larger[i]);
        else
            claim_larger(slab, &larger[i], i + 2, class->bytes + 1 + random_of(&seed) % (class->bytes * 100u));
        unsigned n_taken = 0;
        for (unsigned k = 0; k < n; k++)
            n_taken += owner[k] != 0;
        assert_int_equal(CTL_USED(slab_ctl_read(slab)), n_taken);
        assert_true(slab_check(slab));
    }
    for (unsigned i = 0; i < N; i++)
        if (larger[i].n != 0)
            return_larger(slab, &larger[i]);
    assert_int_equal(atomic_load(&slab->n_following), 0);
    slab_close_gaps(slab);
    for (unsigned i = 0; i < n; i++)
        if (owner[i] == 1)
            assert_int_equal(shared_pool_return_blocks(slab, i / 64, (uint64_t)1 << i % 64), 0);
    shared_pool_disown_slab(slab);
}

static void larger_blocks_overlap_nothing(void **state)
{
    (void)state;
    for (unsigned c = CLASS_FIRST; c < CLASS_END; c++)
        if (slab_may_have_gaps(c) && class_table[c].bytes <= 1024)
            try_a_slab(c, 1 + c);
    assert_false(slab_may_have_gaps(CLASS_FIRST)); /* 8 bytes: no room for a second map */
}

/* Blocks larger than all that is in memory are refused, and so are those that would lie on a page that is not. */
static void only_pages_in_memory_serve(void **state)
{
    (void)state;
    unsigned class_id = class_of(64);
    struct slab *slab = shared_pool_acquire_slab(class_id);
    void *out[64];
    assert_int_equal(slab_claim(slab, 64, 64, out), 64); /* the first page, if it is one of 4 KiB */
    /* where a page is the whole slab */
    if (slab_is_all_dirty(slab)) {
        assert_int_equal(shared_pool_return_blocks(slab, 0, ~(uint64_t)0), 0);
        shared_pool_disown_slab(slab);
        skip();
    }
    slab_open_gaps(slab);
    assert_null(claim_gap(slab, 256));
    assert_int_equal(shared_pool_return_blocks(slab, 0, 0xf0), 0);
    assert_null(claim_gap(slab, 257));
    char *block = claim_gap(slab, 256);
    assert_ptr_equal(block, slab->memory + 256);
    assert_true(gap_return(slab, 4));
    slab_close_gaps(slab);
    assert_int_equal(shared_pool_return_blocks(slab, 0, ~(uint64_t)0xf0), 0);
    shared_pool_disown_slab(slab);
}

/* ---- A heap ------------------------------------------------------------------------------------------------------ */

enum { N_SMALL = 100000, KEEP_ONE_OF = 100, N_LARGE = 2000, SMALL_BYTES = 64, LARGE_BYTES = 1000 };
static void *small[N_SMALL], *large[N_LARGE];

static bool in_gap(const void *block)
{
    struct arena *arena = registry_arena(block);
    return atomic_load(&arena->class_map[arena_slab_index(arena, block)]) == CLASS_GAPS * CLASS_OFFSET_SCALE;
}

static unsigned n_large_in_gaps(void)
{
    unsigned n = 0;
    for (unsigned i = 0; i < N_LARGE; i++)
        n += in_gap(large[i]);
    return n;
}

static void make_sparse(void)
{
    for (unsigned i = 0; i < N_SMALL; i++)
        memset(small[i] = hak_malloc(SMALL_BYTES), (int)(i & 0xff), SMALL_BYTES);
    for (unsigned i = 0; i < N_SMALL; i++)
        if (i % KEEP_ONE_OF != 0)
            hak_free(small[i]);
    hak_trim(HAK_TRIM_CACHE);
}

static void claim_large(void)
{
    for (unsigned i = 0; i < N_LARGE; i++)
        memset(large[i] = hak_malloc(LARGE_BYTES), (int)(i & 0xff), LARGE_BYTES);
}

/* Blocks of which one in KEEP_ONE_OF is left, and larger ones, which need no tick to find what is free between them. */
static void make_gaps(void)
{
    make_sparse();
    assert_int_equal(read_stats().gap_slabs, 0); /* nobody has asked */
    claim_large();
    assert_true(read_stats().gap_slabs > 0);
}

static void free_large(void)
{
    for (unsigned i = 0; i < N_LARGE; i++) {
        hak_free(large[i]);
        large[i] = NULL;
    }
    hak_trim(HAK_TRIM_CACHE);
}

static bool is_filled(const unsigned char *block, unsigned char with, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (block[i] != with)
            return false;
    return true;
}

static void end_gaps(void)
{
    for (unsigned i = 0; i < N_SMALL; i += KEEP_ONE_OF) {
        assert_true(is_filled(small[i], (unsigned char)i, SMALL_BYTES));
        hak_free(small[i]);
    }
    for (unsigned i = 0; i < N_LARGE; i++) {
        if (large[i] != NULL)
            assert_true(is_filled(large[i], (unsigned char)i, LARGE_BYTES));
        hak_free(large[i]);
        large[i] = NULL;
    }
}

static void they_cost_no_memory(void **state)
{
    (void)state;
    make_gaps();
    unsigned n_in_gaps = n_large_in_gaps();
    assert_true(n_in_gaps > N_LARGE / 2);
    struct hak_stats s = read_stats();
    /* Two million bytes on those pages, of which all were needed for a hundredth of the small ones. */
    assert_true(s.committed_bytes < N_SMALL * SMALL_BYTES + (N_LARGE - n_in_gaps + 100) * 1024 + MIB);
    end_gaps();
    hak_trim(HAK_TRIM_PAGES);
    assert_int_equal(read_stats().live_blocks, 0);
}

static void they_are_blocks_as_others(void **state)
{
    (void)state;
    make_gaps();
    unsigned n_seen = 0;
    for (unsigned i = 0; i < N_LARGE; i++) {
        if (!in_gap(large[i]))
            continue;
        n_seen++;
        assert_int_equal((uintptr_t)large[i] % 16, 0);
        size_t usable_bytes = hak_usable_size(large[i]);
        assert_in_range(usable_bytes, LARGE_BYTES, LARGE_BYTES + SMALL_BYTES);
        memset(large[i], (int)(i & 0xff), usable_bytes); /* all of it is ours */
        switch (n_seen % 4) {
        case 0: { /* it stays */
            void *same = large[i];
            large[i] = hak_realloc(large[i], LARGE_BYTES + 1);
            assert_true(large[i] == same || usable_bytes <= LARGE_BYTES);
            break;
        }
        case 1: /* it moves */
            large[i] = hak_realloc(large[i], 3 * LARGE_BYTES);
            break;
        case 2: /* aligned ones are never in gaps */
            hak_free(large[i]);
            large[i] = hak_aligned_alloc(512, LARGE_BYTES);
            assert_int_equal((uintptr_t)large[i] % 512, 0);
            memset(large[i], (int)(i & 0xff), LARGE_BYTES);
            break;
        default:
            hak_free(large[i]);
            large[i] = hak_calloc(1, LARGE_BYTES);
            assert_true(is_filled(large[i], 0, LARGE_BYTES));
            memset(large[i], (int)(i & 0xff), LARGE_BYTES);
        }
    }
    assert_true(n_seen > N_LARGE / 2);
    end_gaps();
}

/* When no larger block is left, the slab is as any other, after a tick: its blocks are freed on the hit path again. */
static void gaps_are_closed_again(void **state)
{
    (void)state;
    make_gaps();
    free_large();
    shared_pool_tick(); /* somebody had asked before it */
    shared_pool_tick();
    assert_int_equal(read_stats().gap_slabs, 0);
    for (unsigned i = 0; i < N_SMALL; i += KEEP_ONE_OF)
        assert_false(in_gap(small[i]));
    claim_large(); /* and may be opened again */
    assert_true(n_large_in_gaps() > N_LARGE / 2);
    end_gaps();
}

/* Without a tick: by whoever claims blocks of the slab's own size. */
static void its_own_class_closes_them(void **state)
{
    (void)state;
    make_gaps();
    free_large();
    unsigned n_before = read_stats().gap_slabs;
    void **more = hak_malloc(N_SMALL * sizeof *more);
    for (unsigned i = 0; i < N_SMALL; i++)
        more[i] = hak_malloc(SMALL_BYTES);
    assert_true(n_before > 1);
    assert_int_equal(read_stats().gap_slabs, 0);
    for (unsigned i = 0; i < N_SMALL; i++)
        hak_free(more[i]);
    hak_free(more);
    end_gaps();
}

/* A slab that was sparse and then became one of a class that has no room for a second map. */
static void other_classes_keep_their_bits(void **state)
{
    (void)state;
    enum { N_TINY = 400000 };
    static uint64_t *tiny[N_TINY];
    make_sparse();
    for (unsigned i = 0; i < N_SMALL; i += KEEP_ONE_OF)
        hak_free(small[i]);
    hak_trim(HAK_TRIM_SLABS);
    for (uint64_t i = 0; i < N_TINY; i++)
        *(tiny[i] = hak_malloc(sizeof i)) = i;
    for (unsigned i = 0; i < N_TINY; i++)
        if (i % KEEP_ONE_OF != 0)
            hak_free(tiny[i]);
    hak_trim(HAK_TRIM_CACHE);
    claim_large();
    assert_int_equal(n_large_in_gaps(), 0);
    assert_null(pool_check());
    for (uint64_t i = 0; i < N_TINY; i += KEEP_ONE_OF) {
        assert_int_equal(*tiny[i], i);
        hak_free(tiny[i]);
    }
    free_large();
}

static void none_where_that_is_said(void **state)
{
    (void)state;
    config.gaps = false;
    make_sparse();
    claim_large();
    assert_int_equal(read_stats().gap_slabs, 0);
    config.gaps = true;
    end_gaps();
}

/* ---- Mistakes and children --------------------------------------------------------------------------------------- */

/* How a child ends that does as told with a block in a gap: 0, or the signal's number. */
static int end_of_child(void (*act)(char *block))
{
    char *block = NULL;
    for (unsigned i = 0; i < N_LARGE && block == NULL; i++)
        if (in_gap(large[i]))
            block = large[i];
    assert_non_null(block);
    pid_t pid = fork();
    if (pid == 0) {
        dup2(open("/dev/null", O_WRONLY), STDERR_FILENO);
        act(block);
        _exit(0);
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    return WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status);
}

static void free_twice(char *block)
{
    hak_free(block);
    hak_free(block);
}

static void free_middle(char *block)
{
    hak_free(block + SMALL_BYTES);
}

static void resize_middle(char *block)
{
    hak_realloc(block + 2 * SMALL_BYTES, 5000);
}

static void free_all_and_go_on(char *block)
{
    (void)block;
    for (unsigned i = 0; i < N_LARGE; i++)
        hak_free(large[i]);
    for (unsigned i = 0; i < N_SMALL; i += KEEP_ONE_OF)
        hak_free(small[i]);
    for (unsigned i = 0; i < N_LARGE; i++)
        large[i] = hak_malloc(LARGE_BYTES);
    if (pool_check() != NULL)
        _exit(1);
}

static void mistakes_are_told(void **state)
{
    (void)state;
    make_gaps();
    assert_int_equal(end_of_child(free_twice), SIGABRT);
    assert_int_equal(end_of_child(free_middle), SIGABRT);
    assert_int_equal(end_of_child(resize_middle), SIGABRT);
    assert_int_equal(end_of_child(free_all_and_go_on), 0);
    end_gaps();
}

/* ---- Threads ----------------------------------------------------------------------------------------------------- */

enum { N_THREADS = 4, N_SLOTS = 32768, N_STEPS = 60000, ROUNDS_MOST = 40, ENOUGH = 2000 };
static _Atomic(unsigned char *) slots[N_SLOTS]; /* of 16 bytes and more: the length, and a pattern at the end */
static _Atomic bool done;
static _Atomic unsigned n_wrong;

static void give_back(unsigned char *block)
{
    uint32_t n;
    if (block == NULL)
        return;
    memcpy(&n, block, sizeof n);
    if (n < 16 || n > 32768 || block[n - 1] != (unsigned char)n || block[4] != (unsigned char)~n ||
        hak_usable_size(block) < n)
        atomic_fetch_add(&n_wrong, 1);
    hak_free(block);
}

static unsigned char *take(uint32_t n)
{
    unsigned char *block = hak_malloc(n);
    memcpy(block, &n, sizeof n);
    block[4] = (unsigned char)~n;
    block[n - 1] = (unsigned char)n;
    return block;
}

/* Small blocks first, then larger ones in their place, and again: of any thread's. */
static void *replace(void *number)
{
    uint32_t seed = 77 + (uint32_t)(uintptr_t)number;
    for (unsigned step = 0; step < N_STEPS; step++) {
        bool larger = step >= N_STEPS / 2;
        uint32_t n = larger ? 256 + random_of(&seed) % 3000 : 16 + random_of(&seed) % 100;
        unsigned slot = random_of(&seed) % N_SLOTS;
        if (larger && random_of(&seed) % 16 == 0) /* few of the small ones stay */
            continue;
        give_back(atomic_exchange(&slots[slot], take(n)));
    }
    return NULL;
}

static void *tick(void *nothing)
{
    while (!atomic_load(&done)) {
        shared_pool_tick();
        usleep(500);
    }
    return nothing;
}

static void threads_share_them(void **state)
{
    (void)state;
    pthread_t threads[N_THREADS], ticks;
    atomic_store(&done, false);
    uint64_t before = read_stats().gap_blocks_total;
    pthread_create(&ticks, NULL, tick, NULL);
    for (unsigned round = 0; round < ROUNDS_MOST && read_stats().gap_blocks_total < before + ENOUGH; round++) {
        for (uintptr_t i = 0; i < N_THREADS; i++)
            assert_int_equal(pthread_create(&threads[i], NULL, replace, (void *)(i + round * N_THREADS)), 0);
        for (unsigned i = 0; i < N_THREADS; i++)
            pthread_join(threads[i], NULL);
    }
    atomic_store(&done, true);
    pthread_join(ticks, NULL);
    assert_true(read_stats().gap_blocks_total >= before + ENOUGH);
    assert_null(pool_check());
    for (unsigned i = 0; i < N_SLOTS; i++)
        give_back(atomic_exchange(&slots[i], NULL));
    assert_int_equal(atomic_load(&n_wrong), 0);
    hak_trim(HAK_TRIM_PAGES);
    assert_int_equal(read_stats().live_blocks, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(larger_blocks_overlap_nothing, start_clean, end_clean),
        cmocka_unit_test_setup_teardown(only_pages_in_memory_serve, start_clean, end_clean),
        cmocka_unit_test_setup_teardown(they_cost_no_memory, start_clean, end_clean),
        cmocka_unit_test_setup_teardown(they_are_blocks_as_others, start_clean, end_clean),
        cmocka_unit_test_setup_teardown(gaps_are_closed_again, start_clean, end_clean),
        cmocka_unit_test_setup_teardown(its_own_class_closes_them, start_clean, end_clean),
        cmocka_unit_test_setup_teardown(other_classes_keep_their_bits, start_clean, end_clean),
        cmocka_unit_test_setup_teardown(none_where_that_is_said, start_clean, end_clean),
        cmocka_unit_test_setup_teardown(mistakes_are_told, start_clean, end_clean),
        cmocka_unit_test_setup_teardown(threads_share_them, start_clean, end_clean),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
