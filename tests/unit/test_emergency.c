/* test_emergency.c - blocks for a signal handler that interrupted the holder of the pool lock.
 * Checked: size, alignment, zeroes and contents of emergency blocks; what free, realloc and malloc_usable_size make of them, and of what
 * only looks like one;
 * that nothing of them is left in the registry; that every kind of call is served while this thread holds the pool lock,
 * and that spans freed meanwhile are put back by the next return of a span.
 * Threads  one: it takes the lock as the interrupted code would have it, and then calls as the handler would.
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
#include "pool/emergency.h"
#include "pool/large.h"
#include "pool/shared_pool.h"
#include "look.h"

#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static const size_t sizes_bytes[] = {1,
                                     2,
                                     15,
                                     16,
                                     63,
                                     64,
                                     65,
                                     1024,
                                     4095,
                                     4096,
                                     4097,
                                     32768,
                                     65536,
                                     1 << 20,
                                     (2 << 20) - 65,
                                     (2 << 20) - 64,
                                     (2 << 20) - 63,
                                     2 << 20,
                                     3 << 20,
                                     8 << 20};
#define N_SIZES (sizeof sizes_bytes / sizeof sizes_bytes[0])

/* A block that has no slab behind it. */
static bool is_emergency_block(const void *block)
{
    const struct arena *arena = registry_arena(block);
    return arena != NULL && arena->class_map == NULL;
}

static void assert_filled(const unsigned char *block, size_t len_bytes, unsigned char value)
{
    for (size_t i = 0; i < len_bytes; i++)
        if (block[i] != value)
            fail_msg("byte %zu of %zu is %u, not %u", i, len_bytes, block[i], value);
}

static void assert_aligned(const void *block, size_t alignment)
{
    if (((uintptr_t)block & (alignment - 1)) != 0)
        fail_msg("%p is no multiple of %zu", block, alignment);
}

/* No trace of [block, block + len_bytes) and of its header is left in the registry. */
static void assert_unknown(const char *block, size_t len_bytes)
{
    assert_null(registry_arena(block - 1));
    for (size_t at = 0; at < len_bytes; at += SUPERSLAB_BYTES)
        assert_null(registry_arena(block + at));
    assert_null(registry_arena(block + len_bytes - 1));
}

/* ---- Blocks by themselves ------------------------------------------------------------------------------------------ */

static void has_every_size_and_alignment(void **state)
{
    (void)state;
    for (size_t i = 0; i <= N_SIZES; i++) {
        for (size_t alignment = 1; alignment <= 4 * MIB; alignment *= 2) {
            size_t size_bytes = i < N_SIZES ? sizes_bytes[i] : 0;
            unsigned char *block = emergency_claim(size_bytes, alignment);
            assert_non_null(block);
            assert_aligned(block, alignment < 16 ? 16 : alignment);
            assert_true(is_emergency_block(block));
            assert_true(is_emergency_block(block + size_bytes - 1));
            assert_true(emergency_usable_bytes(block) >= size_bytes);
            assert_int_equal(hak_usable_size(block), emergency_usable_bytes(block));
            assert_filled(block, size_bytes, 0);
            memset(block, 0xa5, emergency_usable_bytes(block));
            assert_int_equal(emergency_usable_bytes(block), hak_usable_size(block));
            assert_int_equal(emergency_usable_bytes(block + 64), 0); /* not its beginning */
            assert_false(emergency_return(block + 64));
            assert_int_equal(emergency_usable_bytes(block + (size_bytes + 2 * os_page_bytes()) / 64 * 64),
                             0); /* behind it */
            assert_filled(block, size_bytes, 0xa5);
            if (alignment % 3 == 1)
                hak_free(block);
            else
                assert_true(emergency_return(block));
            assert_unknown((char *)block, size_bytes);
            assert_false(emergency_return(block));
            assert_int_equal(emergency_usable_bytes(block), 0);
        }
    }
}

static void many_live_side_by_side(void **state)
{
    (void)state;
    enum { N = 200 };
    unsigned char *blocks[N];
    for (unsigned i = 0; i < N; i++) {
        blocks[i] = emergency_claim(1000 + i * 37, (size_t)1 << (i % 14));
        assert_non_null(blocks[i]);
        memset(blocks[i], (int)i, 1000 + i * 37);
    }
    for (unsigned i = 0; i < N; i += 2)
        assert_true(emergency_return(blocks[i]));
    for (unsigned i = 1; i < N; i += 2) {
        assert_filled(blocks[i], 1000 + i * 37, (unsigned char)i);
        assert_true(emergency_return(blocks[i]));
    }
    for (unsigned i = 0; i < N; i++)
        assert_false(emergency_return(blocks[i]));
}

static void other_blocks_are_none(void **state)
{
    (void)state;
    int on_stack = 0;
    void *small = hak_malloc(100), *span = hak_malloc(100 * KIB), *run = hak_malloc(5 * MIB);
    void *foreign[] = {
        NULL, &on_stack, (void *)(uintptr_t)64, (void *)((uintptr_t)1 << ADDRESS_BITS), (void *)UINTPTR_MAX, small,
        span, run};
    for (size_t i = 0; i < sizeof foreign / sizeof foreign[0]; i++) {
        assert_false(emergency_return(foreign[i]));
        assert_int_equal(emergency_usable_bytes(foreign[i]), 0);
    }
    hak_free(small);
    hak_free(span);
    hak_free(run);
}

/* What lies before the block, as the library lays it out. */
static void headers_that_the_program_writes_are_none(void **state)
{
    (void)state;
    enum { HEADER_WORDS = 4 };
    uint64_t *block = emergency_claim(3 * MIB, 1), *header = block - HEADER_WORDS, *victim = emergency_claim(1000, 1);
    assert_non_null(block);
    assert_non_null(victim);
    for (size_t at = 64; at < 2 * MIB + 4096;
         at += 64) { /* a copy of its own, and what says that another mapping is its */
        uint64_t *inside = block + at / sizeof *block;
        memcpy(inside - HEADER_WORDS, header, HEADER_WORDS * sizeof *header);
        assert_int_equal(emergency_usable_bytes(inside), 0);
        assert_false(emergency_return(inside));
        memcpy(inside - HEADER_WORDS, victim - HEADER_WORDS, HEADER_WORDS * sizeof *header);
        assert_false(emergency_return(inside));
    }
    for (unsigned word = 0; word < HEADER_WORDS; word++) {
        header[word] ^= 1 << 21;
        assert_int_equal(emergency_usable_bytes(block), 0);
        assert_false(emergency_return(block));
        header[word] ^= 1 << 21;
    }
    assert_true(emergency_return(block));
    assert_true(emergency_return(victim));
}

/* In a process with HAKMEM_SECURE. 0: the question was answered. */
static int ask_for_the_size_of_a_middle(void)
{
    char *block = emergency_claim(1000, 1);
    if (block == NULL || hak_usable_size(block) != 1000)
        return 2;
    signal(SIGABRT, _exit);
    close(STDERR_FILENO);
    return hak_usable_size(block + 64) != 0;
}

static void hardened_mode_reports_a_middle(void **state)
{
    (void)state;
    int status = 0;
    pid_t pid = fork();
    if (pid == 0) {
        setenv("HAKMEM_SECURE", "1", 1);
        setenv("HAKMEM_ON_ERROR", "abort", 1);
        execl("/proc/self/exe", "test_emergency", "ask", (char *)NULL);
        _exit(127);
    }
    assert_true(pid > 0 && waitpid(pid, &status, 0) == pid);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), SIGABRT);
}

static void realloc_moves_it_into_the_heap(void **state)
{
    (void)state;
    static const size_t new_sizes_bytes[] = {1, 100, 5000, 40000, 300000, 3 << 20, 20 << 20};
    for (size_t i = 0; i < N_SIZES; i++) {
        for (size_t k = 0; k < sizeof new_sizes_bytes / sizeof new_sizes_bytes[0]; k++) {
            unsigned char *block = emergency_claim(sizes_bytes[i], 1);
            assert_non_null(block);
            memset(block, 0x5a, sizes_bytes[i]);
            unsigned char *moved = hak_realloc(block, new_sizes_bytes[k]);
            assert_non_null(moved);
            size_t kept_bytes = min_size(sizes_bytes[i], new_sizes_bytes[k]);
            assert_filled(moved, kept_bytes, 0x5a);
            assert_true(hak_usable_size(moved) >= new_sizes_bytes[k]);
            if (moved != block)
                assert_unknown((char *)block, sizes_bytes[i]);
            hak_free(moved);
        }
    }
}

static void refuses_the_impossible(void **state)
{
    (void)state;
    errno = 0;
    assert_null(emergency_claim(SIZE_MAX, 1));
    assert_null(emergency_claim(PTRDIFF_MAX, 1));
    assert_null(emergency_claim((size_t)1 << ADDRESS_BITS, 1));
    assert_null(emergency_claim(1, (size_t)1 << 63));
    assert_null(emergency_claim(1, (size_t)1 << ADDRESS_BITS));
    assert_int_equal(errno, 0);
}

/* Of a claim that fails at its k-th call to the system nothing is left. */
static void failing_claims_leave_nothing(void **state)
{
    (void)state;
    unsigned n_failed = 0;
    for (unsigned long k = 1;; k++) {
        assert_true(k < 10);
        os_fail_from(k, ULONG_MAX / 2, OS_CALL_ALL);
        char *block = emergency_claim(3 * MIB, 1);
        os_fail_from(0, 0, 0);
        if (block != NULL) {
            assert_true(emergency_return(block));
            break;
        }
        n_failed++;
    }
    assert_true(n_failed >= 2); /* reserve and commit */
}

/* Nor where the registry's table runs out of memory half-way: a block of 17 GiB needs two leaves of it. */
static void half_entered_claims_leave_nothing(void **state)
{
    (void)state;
    for (unsigned long k = 1; k < 10; k++) {
        os_fail_from(k, ULONG_MAX / 2, OS_CALL_ALL);
        char *block = emergency_claim(17 * GIB, 1);
        os_fail_from(0, 0, 0);
        if (block != NULL) {
            assert_true(emergency_return(block));
            break;
        }
        for (uintptr_t at = 0; at >> ADDRESS_BITS == 0; at += SUPERSLAB_BYTES)
            if (is_emergency_block((void *)at))
                fail_msg("failing from call %lu on: %p is still in the registry", k, (void *)at);
    }
}

/* ---- While this thread holds the lock ------------------------------------------------------------------------------ */

/* Magazines and the thread's slabs are empty: whatever is asked for now needs the pool. */
static void empty_the_thread(void)
{
    hak_trim(HAK_TRIM_CACHE);
}

static void lock_pool(void)
{
    assert_true(pool_lock(HAK_LOCK_SPAN));
    assert_true(pool_lock_is_mine());
    assert_false(pool_lock(HAK_LOCK_SPAN));
}

static void malloc_under_the_lock(void **state)
{
    (void)state;
    enum { N_OF_EACH = 3 };
    unsigned char *blocks[N_SIZES][N_OF_EACH];
    struct hak_stats before = read_stats();
    empty_the_thread();
    lock_pool();
    errno = 0;
    for (size_t i = 0; i < N_SIZES; i++) {
        for (unsigned k = 0; k < N_OF_EACH; k++) {
            unsigned char *block = k == 1 ? hak_calloc(1, sizes_bytes[i]) : hak_malloc(sizes_bytes[i]);
            assert_non_null(block);
            assert_true(is_emergency_block(block));
            assert_true(hak_usable_size(block) >= sizes_bytes[i]);
            if (k == 1)
                assert_filled(block, sizes_bytes[i], 0);
            memset(block, (int)(i * N_OF_EACH + k + 1), sizes_bytes[i]);
            blocks[i][k] = block;
        }
    }
    assert_int_equal(errno, 0);
    for (size_t i = 0; i < N_SIZES; i++) /* One of each goes while the lock is held, */
        hak_free(blocks[i][0]);
    pool_unlock();
    for (size_t i = 0; i < N_SIZES; i++) /* the others later. */
        for (unsigned k = 1; k < N_OF_EACH; k++) {
            assert_filled(blocks[i][k], sizes_bytes[i], (unsigned char)(i * N_OF_EACH + k + 1));
            hak_free(blocks[i][k]);
        }
    for (size_t i = 0; i < N_SIZES; i++)
        for (unsigned k = 0; k < N_OF_EACH; k++)
            assert_unknown((char *)blocks[i][k], sizes_bytes[i]);
    struct hak_stats after = read_stats();
    assert_int_equal(after.spans, before.spans);
    assert_int_equal(after.runs, before.runs);
    assert_null(pool_check());
}

static void aligned_alloc_under_the_lock(void **state)
{
    (void)state;
    static const size_t aligned_sizes_bytes[] = {1, 100, 5000, 40000, 2 << 20};
    empty_the_thread();
    for (size_t alignment = 1; alignment <= 4 * MIB; alignment *= 2) {
        for (size_t i = 0; i < sizeof aligned_sizes_bytes / sizeof aligned_sizes_bytes[0]; i++) {
            lock_pool();
            unsigned char *block = hak_aligned_alloc(alignment, aligned_sizes_bytes[i]);
            pool_unlock();
            assert_non_null(block);
            assert_aligned(block, alignment);
            assert_true(hak_usable_size(block) >= aligned_sizes_bytes[i]);
            memset(block, 0x77, aligned_sizes_bytes[i]);
            hak_free(block);
        }
    }
    assert_null(pool_check());
}

static void realloc_under_the_lock(void **state)
{
    (void)state;
    for (size_t i = 0; i < N_SIZES; i++) {
        for (size_t k = 0; k < N_SIZES; k++) {
            unsigned char *block = hak_malloc(sizes_bytes[i]);
            assert_non_null(block);
            memset(block, 0x3c, sizes_bytes[i]);
            lock_pool();
            unsigned char *moved = hak_realloc(block, sizes_bytes[k]);
            pool_unlock();
            assert_non_null(moved);
            assert_true(hak_usable_size(moved) >= sizes_bytes[k]);
            assert_filled(moved, min_size(sizes_bytes[i], sizes_bytes[k]), 0x3c);
            hak_free(moved);
        }
    }
    hak_free(hak_malloc(100 * KIB)); /* puts back what was deferred */
    struct hak_stats s = read_stats();
    assert_int_equal(s.spans, 0);
    assert_int_equal(s.runs, 0);
    assert_null(pool_check());
}

/* Without memory for a smaller block, and without the lock, a large one stays as long as it was: who frees it as one of the new size is
 * right. */
static void what_cannot_get_shorter_may_be_freed_by_its_size(void **state)
{
    (void)state;
    static const size_t lens_bytes[] = {60 * KIB, 300 * KIB, 5 * MIB};
    for (size_t i = 0; i < sizeof lens_bytes / sizeof lens_bytes[0]; i++) {
        unsigned char *block = hak_malloc(lens_bytes[i]);
        assert_non_null(block);
        lock_pool();
        os_fail_from(1, ULONG_MAX / 2, OS_CALL_ALL);
        unsigned char *same = hak_realloc(block, 30000); /* of a class that this test has no block of */
        os_fail_from(0, 0, 0);
        pool_unlock();
        assert_ptr_equal(same, block);
        assert_true(hak_usable_size(same) >= 30000);
        hak_free_sized(same, 30000); /* a complaint would end the process */
    }
    hak_trim(HAK_TRIM_PAGES);
    assert_int_equal(read_stats().spans + read_stats().runs, 0);
}

/* What a run held before it was copied to an emergency block does not show in the block that gets its memory next. */
static void run_left_for_an_emergency_block_is_not_clean(void **state)
{
    (void)state;
    unsigned char *run = hak_malloc(6 * MIB); /* whole SuperSlabs: all of it is lent for the move */
    assert_non_null(run);
    memset(run, 0x3c, 6 * MIB);
    lock_pool();
    unsigned char *moved = hak_realloc(run, 40 * MIB);
    pool_unlock();
    assert_non_null(moved);
    assert_true(is_emergency_block(moved));
    assert_filled(moved, 6 * MIB, 0x3c);
    hak_free(moved);
    hak_free(hak_malloc(100 * KIB)); /* puts back what was deferred */
    assert_null(pool_check());
    unsigned char *zeroed = hak_calloc(1, 6 * MIB);
    assert_ptr_equal(zeroed, run); /* else the next line would show nothing */
    assert_filled(zeroed, 6 * MIB, 0);
    hak_free(zeroed);
    assert_null(pool_check());
}

static void small_blocks_freed_under_the_lock(void **state)
{
    (void)state;
    enum { N = 20000 };
    static void *blocks[N];
    empty_the_thread();
    uint64_t live_blocks = read_stats().live_blocks;
    for (unsigned i = 0; i < N; i++) {
        blocks[i] = hak_malloc(16 + i % 2000);
        assert_non_null(blocks[i]);
    }
    lock_pool();
    for (unsigned i = 0; i < N; i++)
        hak_free(blocks[i]);
    pool_unlock();
    hak_trim(HAK_TRIM_PAGES);
    assert_int_equal(read_stats().live_blocks, live_blocks);
    assert_null(pool_check());
    for (unsigned i = 0; i < N; i++) { /* and all of it is still good for something */
        blocks[i] = hak_calloc(1, 16 + i % 2000);
        assert_non_null(blocks[i]);
        assert_filled(blocks[i], 16 + i % 2000, 0);
    }
    for (unsigned i = 0; i < N; i++)
        hak_free(blocks[i]);
    hak_trim(HAK_TRIM_PAGES);
    assert_null(pool_check());
}

static void spans_freed_under_the_lock_are_deferred(void **state)
{
    (void)state;
    enum { N = 120 };
    unsigned char *blocks[N];
    assert_int_equal(read_stats().spans, 0);
    assert_int_equal(read_stats().runs, 0);
    for (unsigned i = 0; i < N; i++) {
        blocks[i] = hak_malloc(i % 8 == 7 ? SPAN_MAX_BYTES + 1 + i * 50000 : 32769 + i * 8000);
        assert_non_null(blocks[i]);
        blocks[i][0] = 1;
    }
    struct hak_stats held = read_stats();
    assert_int_equal(held.spans + held.runs, N);
    assert_int_equal(held.runs, N / 8);
    lock_pool();
    errno = 0;
    for (unsigned i = 0; i < N; i++)
        hak_free(blocks[i]);
    for (unsigned i = 0; i < N; i++)
        assert_false(large_return(blocks[i])); /* freed twice: found although it is not yet put back */
    pool_unlock();
    assert_int_equal(errno, 0);
    for (unsigned i = 0; i < N; i++)
        assert_int_equal(large_usable_bytes(blocks[i]), 0);
    hak_free(hak_malloc(100 * KIB)); /* the next return of a span puts them back */
    struct hak_stats after = read_stats();
    assert_int_equal(after.spans, 0);
    assert_int_equal(after.runs, 0);
    assert_int_equal(after.span_bytes, 0);
    assert_int_equal(after.run_bytes, 0);
    assert_null(pool_check());
    for (unsigned i = 0; i < N; i++) /* The same memory serves again, zeroed where that is asked for. */
        assert_non_null(blocks[i] = hak_calloc(1, 32769 + i * 8000));
    for (unsigned i = 0; i < N; i++) {
        assert_filled(blocks[i], 32769 + i * 8000, 0);
        hak_free(blocks[i]);
    }
    assert_int_equal(read_stats().spans, 0);
    assert_null(pool_check());
}

static _Atomic int is_deferred, may_go_on;

/* Frees a block as a handler would that interrupted it under the lock. */
static void *free_under_the_lock(void *block)
{
    hak_free(hak_malloc(1));
    lock_pool();
    hak_free(block);
    atomic_store(&is_deferred, 1);
    while (atomic_load(&may_go_on) == 0)
        usleep(1000);
    pool_unlock();
    return NULL;
}

/* 0: no block of the child's lies in another one, though the one that waited was put back there. */
static int use_memory_in_child(void)
{
    enum { N_SMALL = 4000, SMALL_BYTES = 100, N_LARGE = 40 };
    static unsigned char *small[N_SMALL];
    for (unsigned i = 0; i < N_SMALL; i++) {
        small[i] = hak_malloc(SMALL_BYTES);
        memset(small[i], (int)(i % 250), SMALL_BYTES);
    }
    for (unsigned i = 0; i < N_LARGE; i++)
        memset(hak_malloc(150000 + i % 2 * 150000), 255, 150000);
    for (unsigned i = 0; i < N_SMALL; i++)
        for (unsigned k = 0; k < SMALL_BYTES; k++)
            if (small[i][k] != i % 250)
                return 1;
    return pool_check() != NULL ? 2 : 0;
}

/* The lock's holder is gone in the child, and a block that waits for the lock is neither free nor the program's. */
static void spans_that_wait_are_put_back_once_in_a_child(void **state)
{
    (void)state;
    for (size_t len_bytes = 200000; len_bytes < 5 * MIB; len_bytes *= 20) {
        pthread_t thread;
        int status;
        void *beside = hak_malloc(100000), *block = hak_malloc(len_bytes);
        memset(block, 1, len_bytes);
        atomic_store(&is_deferred, 0);
        atomic_store(&may_go_on, 0);
        assert_int_equal(pthread_create(&thread, NULL, free_under_the_lock, block), 0);
        while (atomic_load(&is_deferred) == 0)
            usleep(1000);
        pid_t child = fork();
        assert_true(child >= 0);
        if (child == 0)
            _exit(use_memory_in_child());
        assert_int_equal(waitpid(child, &status, 0), child);
        atomic_store(&may_go_on, 1);
        assert_int_equal(pthread_join(thread, NULL), 0);
        assert_int_equal(status, 0);
        hak_free(beside);
        hak_free(hak_malloc(100 * KIB));
        assert_null(pool_check());
    }
}

static int start(void **state)
{
    (void)state;
    hak_free(hak_malloc(1)); /* the first arena exists before any mapping of ours */
    return 0;
}

/* A child builds nothing anew where the lists are whole, nor where their holder is the very thread that forked. */
static void a_child_leaves_lists_alone(void **state)
{
    (void)state;
    uint64_t before = read_stats().lock_acquisitions[HAK_LOCK_FORK];
    shared_pool_fork_child(false);
    assert_false(pool_lock_is_mine());
    assert_true(pool_lock(HAK_LOCK_TRIM));
    shared_pool_fork_child(true);
    assert_true(pool_lock_is_mine());
    pool_unlock();
    assert_int_equal(read_stats().lock_acquisitions[HAK_LOCK_FORK], before);
    assert_null(pool_check());
}

int main(int argc, char **argv)
{
    (void)argv;
    if (argc > 1)
        return ask_for_the_size_of_a_middle();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(half_entered_claims_leave_nothing), /* first: while the table has no leaves */
        cmocka_unit_test(has_every_size_and_alignment),
        cmocka_unit_test(many_live_side_by_side),
        cmocka_unit_test(other_blocks_are_none),
        cmocka_unit_test(headers_that_the_program_writes_are_none),
        cmocka_unit_test(hardened_mode_reports_a_middle),
        cmocka_unit_test(realloc_moves_it_into_the_heap),
        cmocka_unit_test(refuses_the_impossible),
        cmocka_unit_test(failing_claims_leave_nothing),
        cmocka_unit_test(malloc_under_the_lock),
        cmocka_unit_test(aligned_alloc_under_the_lock),
        cmocka_unit_test(what_cannot_get_shorter_may_be_freed_by_its_size), /* while no block was of this class */
        cmocka_unit_test(realloc_under_the_lock),
        cmocka_unit_test(run_left_for_an_emergency_block_is_not_clean),
        cmocka_unit_test(small_blocks_freed_under_the_lock),
        cmocka_unit_test(spans_freed_under_the_lock_are_deferred),
        cmocka_unit_test(spans_that_wait_are_put_back_once_in_a_child),
        cmocka_unit_test(a_child_leaves_lists_alone),
    };
    return cmocka_run_group_tests(tests, start, NULL);
}
