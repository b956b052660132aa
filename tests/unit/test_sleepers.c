/* test_sleepers.c - the caches of threads that sleep are emptied, those of others are left alone, and nothing is lost or
 * owned twice whatever the thread was about to do.
 * The heart of it: a thread runs malloc() and free() one machine instruction at a time, and at each of them in turn sleeps in
 * the handler of a signal while another thread tries to empty its cache.
 * Waits    for a thread to sleep it polls, up to 20 s.
 * ctest: timeout 900
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
#include "os/os.h"
#include "pool/background.h"
#include "pool/shared_pool.h"
#include "service/config.h"
#include "look.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define ADDRESS_SANITIZED 1
#endif
#endif
#if defined(__SANITIZE_ADDRESS__)
#define ADDRESS_SANITIZED 1
#endif

static void set_word(_Atomic uint32_t *word, uint32_t value)
{
    atomic_store(word, value);
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, 100, NULL, NULL, 0);
}

/* No allocation, no lock: also for signal handlers. */
static void wait_for_word(_Atomic uint32_t *word, uint32_t value)
{
    for (uint32_t now; (now = atomic_load(word)) != value;)
        syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, now, NULL, NULL, 0);
}

static struct thread *record_of(int32_t thread_id)
{
    for (struct thread *t = thread_first(); t != NULL; t = t->next)
        if (atomic_load(&t->in_use) != 0 && t->thread_id == thread_id)
            return t;
    return NULL;
}

static bool is_empty(const struct thread *record)
{
    for (unsigned c = CLASS_FIRST; c < CLASS_END; c++)
        if (magazine_count(&record->cache.magazine[c]) != 0 || record->current[c] != NULL)
            return false;
    return record->capacity_bytes == 0;
}

static void wait_until_asleep(int32_t thread_id)
{
    uintptr_t sp;
    for (unsigned i = 0; !os_thread_waits(thread_id, &sp); i++) {
        assert_true(i < 20000);
        os_sleep_ms(1);
    }
}

/* ---- A thread that fills its cache and then sleeps, in one way or another -------------------------------------------- */

enum way { IN_FUTEX, IN_NANOSLEEP, IN_POLL, IN_READ, IN_HANDLER, SPINNING, N_WAYS };

static struct {
    enum way way;
    _Atomic int32_t thread_id;
    _Atomic uint32_t filled, go_on;
    int pipe[2];
    void *held[500];
} worker;

static void wait_in_handler(int unused)
{
    (void)unused;
    wait_for_word(&worker.go_on, 1);
}

static void fall_asleep(void)
{
    char byte;
    struct pollfd poll_read = {.fd = worker.pipe[0], .events = POLLIN};
    switch (worker.way) {
    case IN_FUTEX:
        wait_for_word(&worker.go_on, 1);
        break;
    case IN_NANOSLEEP:
        while (atomic_load(&worker.go_on) == 0)
            os_sleep_ms(500);
        break;
    case IN_POLL:
        poll(&poll_read, 1, -1);
        break;
    case IN_READ:
        if (read(worker.pipe[0], &byte, 1) != 1)
            abort();
        break;
    case IN_HANDLER:
        raise(SIGUSR1);
        break;
    default:
        while (atomic_load(&worker.go_on) == 0)
            cpu_relax();
    }
}

static void check_and_free_held(void)
{
    for (size_t i = 0; i < 500; i++) {
        const unsigned char *block = worker.held[i];
        for (size_t k = 0; k < 100; k++)
            if (block[k] != (unsigned char)i)
                abort();
        hak_free(worker.held[i]);
    }
}

static void *work(void *holds)
{
    void *block[1000];
    for (size_t i = 0; i < 500 && holds != NULL; i++)
        memset(worker.held[i] = hak_malloc(100), (int)i, 100);
    for (size_t i = 0; i < 1000; i++)
        block[i] = hak_malloc(16 + i);
    for (size_t i = 0; i < 1000; i++)
        hak_free(block[i]);
    worker.thread_id = os_thread_id();
    set_word(&worker.filled, 1);
    fall_asleep();
    if (holds != NULL)
        check_and_free_held();
    /* and its cache is as good as ever */
    for (size_t i = 0; i < 1000; i++)
        memset(block[i] = hak_malloc(16 + i), 1, 16 + i);
    for (size_t i = 0; i < 1000; i++)
        hak_free(block[i]);
    return holds;
}

static pthread_t start_worker(enum way way)
{
    pthread_t thread;
    worker.way = way;
    worker.filled = worker.go_on = 0;
    assert_int_equal(pipe(worker.pipe), 0);
    assert_int_equal(pthread_create(&thread, NULL, work, &worker), 0);
    wait_for_word(&worker.filled, 1);
    return thread;
}

static void end_worker(pthread_t thread)
{
    set_word(&worker.go_on, 1);
    assert_int_equal(write(worker.pipe[1], "x", 1), 1);
    assert_int_equal(pthread_join(thread, NULL), 0);
    close(worker.pipe[0]);
    close(worker.pipe[1]);
    assert_null(pool_check());
}

static void a_sleeper_is_emptied_whatever_it_waits_for(void **state)
{
    (void)state;
    for (enum way way = 0; way < SPINNING; way++) {
#ifdef ADDRESS_SANITIZED
        if (way > IN_NANOSLEEP)
            continue; /* The sanitizer's own functions stand between: old return addresses lie in their large frames. */
#endif
        pthread_t thread = start_worker(way);
        wait_until_asleep(worker.thread_id);
        struct thread *record = record_of(worker.thread_id);
        assert_non_null(record);
        assert_false(is_empty(record));
        uint64_t emptied = read_stats().caches_emptied, live = read_stats().live_blocks;
        sleepers_empty_all();
        if (!is_empty(record))
            fail_msg("way %d: not emptied", (int)way);
        assert_true(read_stats().caches_emptied > emptied);
        assert_int_equal(read_stats().live_blocks, live); /* what it holds stays */
        assert_null(pool_check());
        end_worker(thread);
    }
}

static void a_thread_that_runs_is_left_alone(void **state)
{
    (void)state;
    pthread_t thread = start_worker(SPINNING);
    struct thread *record = record_of(worker.thread_id);
    for (unsigned i = 0; i < 200; i++)
        sleepers_empty_all();
    assert_false(is_empty(record));
    assert_int_equal(atomic_load(&record->claim), THREAD_UNCLAIMED);
    end_worker(thread);
}

static void the_caller_keeps_its_own_cache(void **state)
{
    (void)state;
    void *block[100];
    for (unsigned i = 0; i < 100; i++)
        block[i] = hak_malloc(200);
    for (unsigned i = 0; i < 100; i++)
        hak_free(block[i]);
    uint64_t cached = read_stats().cached_blocks;
    sleepers_empty_all();
    assert_int_equal(read_stats().cached_blocks, cached);
}

static void a_trim_empties_sleepers(void **state)
{
    (void)state;
    pthread_t thread = start_worker(IN_POLL);
    wait_until_asleep(worker.thread_id);
    hak_trim(HAK_TRIM_CACHE);
    assert_true(is_empty(record_of(worker.thread_id)));
    end_worker(thread);
}

/* A tick waits until the cache was not used for two ticks, and gives up on a thread that does not sleep. */
static void ticks_are_patient_but_not_for_ever(void **state)
{
    (void)state;
    pthread_t thread = start_worker(SPINNING);
    struct thread *record = record_of(worker.thread_id);
    for (unsigned i = 0; i < 8; i++)
        assert_true(sleepers_tick() >= record->capacity_bytes);
    for (unsigned i = 0; i < 8; i++)
        sleepers_tick();
    size_t waiting_bytes = sleepers_tick();
    assert_true(record->capacity_bytes > 0);
    assert_true(waiting_bytes < record->capacity_bytes);
    end_worker(thread);

    thread = start_worker(IN_FUTEX);
    wait_until_asleep(worker.thread_id);
    record = record_of(worker.thread_id);
    record->seen = 0; /* as if it had just been at work */
    sleepers_tick();
    assert_false(is_empty(record));
    sleepers_tick();
    assert_false(is_empty(record));
    sleepers_tick();
    assert_true(is_empty(record));
    end_worker(thread);
}

/* That its blocks come back is no sign of life: pages that lie free in its slabs go at the next tick. Nor do its magazines' arrays stay. */
static void what_it_gave_back_waits_no_longer(void **state)
{
    (void)state;
    pthread_t thread = start_worker(IN_FUTEX);
    wait_until_asleep(worker.thread_id);
    struct thread *record = record_of(worker.thread_id);
    struct slab *slab[CLASS_END];
    unsigned n_looked_at = 0;
    for (unsigned c = CLASS_FIRST; c < CLASS_END; c++)
        slab[c] = record->current[c];
    assert_true(atomic_load(&record->array_pages_used));
    sleepers_empty_all();
    assert_true(is_empty(record));
    assert_false(atomic_load(&record->array_pages_used));
    for (unsigned c = CLASS_FIRST; c < CLASS_END; c++)
        if (slab[c] != NULL && CTL_USED(slab_ctl_read(slab[c])) != 0) {
            n_looked_at++;
            assert_int_equal(atomic_load(&slab[c]->quiet_ticks), TICKS_OF_DELAY);
            assert_int_equal(atomic_load(&slab[c]->seen_used), CTL_USED(slab_ctl_read(slab[c])));
        }
    assert_true(n_looked_at > 0);
    end_worker(thread);
}

/* Of a stack that cannot be read nobody knows whether a hit was interrupted. */
static void who_cannot_be_read_is_left_alone(void **state)
{
    (void)state;
    pthread_t thread = start_worker(IN_FUTEX);
    wait_until_asleep(worker.thread_id);
    struct thread *record = record_of(worker.thread_id);
    os_fail_from(2, 1, OS_CALL_LOOK); /* the first one: whether it sleeps */
    sleepers_empty_all();
    assert_int_equal(os_fail_from(0, 0, 0), 2);
    assert_false(is_empty(record));
    sleepers_empty_all();
    assert_true(is_empty(record));
    end_worker(thread);
}

/* A hit changes nothing but where a magazine ends. */
static void a_hit_is_a_use(void **state)
{
    (void)state;
    void *block = hak_malloc(200);
    hak_free(block);
    for (unsigned i = 0; i < 3; i++)
        sleepers_tick();
    assert_true(tls_thread->quiet_ticks >= TICKS_OF_DELAY);
    uint64_t refills = tls_thread->refills, flushes = tls_thread->flushes;
    block = hak_malloc(200);
    assert_int_equal(tls_thread->refills, refills);
    assert_int_equal(tls_thread->flushes, flushes);
    sleepers_tick();
    assert_int_equal(tls_thread->quiet_ticks, 0);
    hak_free(block);
}

/* What looks only at threads that are gone leaves one alone that sleeps, and does not count what it has. */
static void where_nobody_may_ask_sleepers_are_left_alone(void **state)
{
    (void)state;
    pthread_t thread = start_worker(IN_FUTEX);
    wait_until_asleep(worker.thread_id);
    struct thread *record = record_of(worker.thread_id);
    size_t waiting_bytes = 0;
    for (unsigned i = 0; i < 5; i++)
        waiting_bytes = sleepers_tick_gone();
    assert_false(is_empty(record));
    assert_true(waiting_bytes < record->capacity_bytes);
    end_worker(thread);
}

/* ---- What a thread keeps for blocks above 32 KiB -------------------------------------------------------------------------- */

/* And some small ones, or none. */
static void *keep_spans_and_spin(void *and_small)
{
    void *block[6];
    for (unsigned i = 0; i < 6; i++)
        memset(block[i] = hak_malloc(64 * KIB), 1, 64 * KIB);
    for (unsigned i = 0; i < 6; i++)
        hak_free(block[i]);
    if (and_small != NULL)
        hak_free(hak_malloc(100));
    worker.thread_id = os_thread_id();
    set_word(&worker.filled, 1);
    while (atomic_load(&worker.go_on) == 0)
        cpu_relax();
    return and_small;
}

static struct thread *start_keeping_spans(pthread_t *thread, bool and_small)
{
    worker.filled = worker.go_on = 0;
    config.purge_delay_ms = 100000; /* where it is switched off nothing is kept */
    sleepers_empty_all();           /* no record that has something of a thread before */
    assert_int_equal(pthread_create(thread, NULL, keep_spans_and_spin, and_small ? &worker : NULL), 0);
    wait_for_word(&worker.filled, 1);
    struct thread *record = record_of(worker.thread_id);
    assert_non_null(record);
    assert_true(record->span_cache.held_slabs > 0);
    assert_int_equal(is_empty(record), !and_small);
    return record;
}

static void end_keeping_spans(pthread_t thread)
{
    set_word(&worker.go_on, 1);
    assert_int_equal(pthread_join(thread, NULL), 0);
    config.purge_delay_ms = -1;
    assert_null(pool_check());
}

/* Of a thread that is awake it goes, if the thread is not about to touch it, and nothing else does. */
static void spans_go_though_their_thread_is_awake(void **state)
{
    (void)state;
    if (!os_barrier_of_all())
        skip();
    pthread_t thread;
    struct thread *record = start_keeping_spans(&thread, true);
    uint32_t held_slabs = record->span_cache.held_slabs;
    atomic_store(&record->busy, 1); /* as on a slow path */
    sleepers_empty_all();
    assert_int_equal(record->span_cache.held_slabs, held_slabs);
    assert_int_equal(atomic_load(&record->claim), THREAD_UNCLAIMED);
    atomic_store(&record->busy, 0);
    sleepers_empty_all();
    assert_int_equal(record->span_cache.held_slabs, 0);
    assert_int_equal(atomic_load(&record->claim), THREAD_UNCLAIMED);
    assert_true(record->capacity_bytes > 0);
    assert_ptr_equal(*record->tls_slot, &record->cache); /* its door is as it was */
    end_keeping_spans(thread);
}

static void ticks_take_spans_that_are_not_used(void **state)
{
    (void)state;
    if (!os_barrier_of_all())
        skip();
    pthread_t thread;
    struct thread *record = start_keeping_spans(&thread, false);
    uint32_t held_slabs = record->span_cache.held_slabs;
    size_t kept_bytes = held_slabs * SLAB_BYTES;
    assert_in_range(sleepers_tick(), kept_bytes, kept_bytes + GIB);
    assert_int_equal(record->span_cache.held_slabs, held_slabs);
    sleepers_tick();
    assert_int_equal(record->span_cache.held_slabs, held_slabs);
    sleepers_tick();
    assert_int_equal(record->span_cache.held_slabs, 0);
    assert_int_equal(atomic_load(&record->claim), THREAD_UNCLAIMED);
    end_keeping_spans(thread);
}

static void deep_stacks_and_foreign_ones_are_left_alone(void **state)
{
    (void)state;
    pthread_t thread = start_worker(IN_FUTEX);
    wait_until_asleep(worker.thread_id);
    struct thread *record = record_of(worker.thread_id);
    uintptr_t stack_end = record->stack_end;
    record->stack_end = stack_end + 2 * MIB; /* a stack in which more than 1 MiB is in use */
    sleepers_empty_all();
    assert_false(is_empty(record));
    record->stack_end = stack_end - 64 * KIB; /* as an emulator's threads, whose stack is not the program's */
    sleepers_empty_all();
    assert_false(is_empty(record));
    record->stack_end = stack_end;
    record->thread_id = 1 << 30; /* as where the system does not tell */
    sleepers_empty_all();
    assert_false(is_empty(record));
    record->thread_id = worker.thread_id;
    sleepers_empty_all();
    assert_true(is_empty(record));
    end_worker(thread);
}

/* ---- One instruction at a time ---------------------------------------------------------------------------------------- */

#if defined(__x86_64__) && !defined(ADDRESS_SANITIZED)
static struct {
    _Atomic uint32_t asleep, go_on, done;
    unsigned long n_steps, stop_at; /* of the whole run */
    uintptr_t stopped_pc;
    _Atomic int32_t thread_id;
    unsigned n_rounds;
} stepper;

static void on_step(int signal, siginfo_t *info, void *context)
{
    (void)signal;
    (void)info;
    if (++stepper.n_steps != stepper.stop_at)
        return;
    stepper.stopped_pc = (uintptr_t)((ucontext_t *)context)->uc_mcontext.gregs[REG_RIP];
    set_word(&stepper.asleep, 1);
    wait_for_word(&stepper.go_on, 1);
}

static void set_trap_flag(bool on)
{
    if (on)
        __asm__ volatile("pushfq; orq $0x100, (%%rsp); popfq" ::: "memory", "cc");
    else
        __asm__ volatile("pushfq; andq $~0x100, (%%rsp); popfq" ::: "memory", "cc");
}

/* What is stepped through; `before` brings the cache into the state in which `stepped` takes the path that is meant. */
static unsigned char *block[600];

static void claim_blocks(size_t size_bytes, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        memset(block[i] = hak_malloc(size_bytes), (int)i, size_bytes);
}

static void free_blocks(size_t size_bytes, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        if (block[i][0] != (unsigned char)i || block[i][size_bytes - 1] != (unsigned char)i)
            abort();
        hak_free(block[i]);
    }
}

static void fill_magazines(void)
{
    claim_blocks(48, 20);
    free_blocks(48, 20);
    claim_blocks(5000, 6);
    free_blocks(5000, 6);
    claim_blocks(96, 20);
    free_blocks(96, 20);
}

static void hold_some(void)
{
    fill_magazines();
    claim_blocks(48, 4);
}

static void malloc_and_free(void)
{
    claim_blocks(48, 2);
    free_blocks(48, 2);
}

static void other_entries(void)
{
    hak_free(hak_calloc(3, 16));
    hak_free(hak_aligned_alloc(32, 96));
    hak_free(hak_malloc(5000));
}

static void grow_held(void)
{
    block[0] = hak_realloc(block[0], 90);
    if (block[0][0] != 0 || block[0][47] != 0)
        abort();
    memset(block[0], 0, 90);
}

static void free_held(void)
{
    free_blocks(48, 4);
}

static void nothing(void) {}

static void refill(void)
{
    claim_blocks(200, 9);
}

static void free_refilled(void)
{
    free_blocks(200, 9);
}

static void hold_many(void)
{
    claim_blocks(640, 30);
}

static void flush(void)
{
    free_blocks(640, 30);
}

static void span(void)
{
    hak_free(hak_malloc(100000));
}

static const struct scene {
    void (*before)(void), (*stepped)(void), (*after)(void);
    bool hits; /* and nothing else */
} scenes[] = {
    {fill_magazines, malloc_and_free, nothing, true},
    {fill_magazines, other_entries, nothing, false},
    {hold_some, grow_held, free_held, false},
    {nothing, refill, free_refilled, false},
    {hold_many, flush, nothing, false},
    {nothing, span, nothing, false},
};

static void *run_stepper(void *scene_pointer)
{
    const struct scene *scene = scene_pointer;
    stepper.thread_id = os_thread_id();
    scene->before();
    set_trap_flag(true);
    scene->stepped();
    set_trap_flag(false);
    scene->after();
    fill_magazines();
    set_word(&stepper.done, 1);
    set_word(&stepper.asleep, 1);
    return NULL;
}

/* Runs a scene with a stop at one of its steps. Returns whether there are as many. *emptied: the attempt at it
 * succeeded. */
static bool stop_at(unsigned long step, const struct scene *scene, bool *emptied)
{
    pthread_t thread;
    stepper.asleep = stepper.go_on = stepper.done = 0;
    stepper.n_steps = 0;
    stepper.stop_at = step;
    assert_int_equal(pthread_create(&thread, NULL, run_stepper, (void *)(uintptr_t)scene), 0);
    wait_for_word(&stepper.asleep, 1);
    bool stopped = atomic_load(&stepper.done) == 0;
    if (stopped) {
        wait_until_asleep(stepper.thread_id);
        uint64_t before = read_stats().caches_emptied;
        sleepers_empty_all();
        *emptied = read_stats().caches_emptied != before;
        set_word(&stepper.go_on, 1);
    }
    assert_int_equal(pthread_join(thread, NULL), 0);
    return stopped;
}

static void any_instruction_may_be_interrupted(void **state)
{
    (void)state;
    struct sigaction action = {.sa_flags = SA_SIGINFO}, before;
    action.sa_sigaction = on_step;
    assert_int_equal(sigaction(SIGTRAP, &action, &before), 0);
    uint64_t live = read_stats().live_blocks;
    for (unsigned i = 0; i < sizeof scenes / sizeof scenes[0]; i++) {
        unsigned long n_stops = 0, n_emptied = 0;
        for (unsigned long step = 1;; step += step < 150 ? 1 : step / 20) { /* the first ones each, then ever fewer */
            bool emptied;
            if (!stop_at(step, &scenes[i], &emptied))
                break;
            n_stops++;
            n_emptied += emptied;
            const char *wrong = step % 16 == 0 ? pool_check() : NULL;
            if (wrong != NULL)
                fail_msg("scene %u, after a stop at step %lu: %s", i, step, wrong);
        }
        assert_null(pool_check());
        assert_int_equal(read_stats().live_blocks, live);
        assert_true(n_stops > 60);
        assert_true(n_emptied < n_stops); /* not within the allocator */
#ifndef HAKMEM_DEBUG_BUILD
        /* But outside of it. Old return addresses may lie anywhere on the stack: of slow paths and of unoptimised code that
         * is too many to count on a moment without. */
        if (scenes[i].hits)
            assert_true(n_emptied > 0);
#endif
        if (scenes[i].hits) /* of four calls 15 instructions each, and a few more for the jump to them, are hits */
            assert_true(n_stops - n_emptied >= 4 * 14);
    }
    sigaction(SIGTRAP, &before, NULL);
}
#endif

/* ---- Against threads that wake up, exit, fork ------------------------------------------------------------------------- */

static _Atomic bool stop;

static void *come_and_go(void *seed)
{
    uint64_t random = (uintptr_t)seed * 0x9e3779b97f4a7c15u + 1;
    unsigned char *block[64] = {NULL};
    for (unsigned i = 0; i < 2000; i++) {
        random = random * 6364136223846793005u + 1442695040888963407u;
        unsigned k = random >> 40 & 63;
        if (block[k] != NULL) {
            size_t size_bytes = block[k][0] * 4u + 1;
            if (block[k][size_bytes - 1] != block[k][0] && size_bytes > 1)
                abort();
            hak_free(block[k]);
        }
        unsigned char size = (unsigned char)(random >> 50);
        block[k] = hak_malloc(size * 4u + 1);
        block[k][size * 4u] = block[k][0] = size;
        if (i % 64 == 0)
            usleep((useconds_t)(random >> 56));
    }
    for (unsigned k = 0; k < 64; k++)
        hak_free(block[k]);
    return NULL;
}

static void *keep_coming(void *seed)
{
    for (uintptr_t n = 0; !atomic_load(&stop); n++) {
        pthread_t thread;
        if (pthread_create(&thread, NULL, come_and_go, (void *)((uintptr_t)seed * 1000 + n)) != 0)
            abort();
        pthread_join(thread, NULL);
    }
    return NULL;
}

static void *keep_emptying(void *unused)
{
    while (!atomic_load(&stop))
        sleepers_empty_all();
    return unused;
}

static void threads_wake_exit_and_fork_meanwhile(void **state)
{
    (void)state;
    enum { N = 4 };
    pthread_t thread[N], emptier;
    stop = false;
    uint64_t emptied = read_stats().caches_emptied;
    assert_int_equal(pthread_create(&emptier, NULL, keep_emptying, NULL), 0);
    for (uintptr_t i = 0; i < N; i++)
        assert_int_equal(pthread_create(&thread[i], NULL, keep_coming, (void *)i), 0);
    for (unsigned i = 0; i < 30; i++) {
        usleep(5000);
        pid_t pid = fork();
        assert_true(pid >= 0);
        if (pid == 0) {
            alarm(60);
            come_and_go((void *)7);
            _exit(0);
        }
        int status;
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_int_equal(status, 0);
    }
    stop = true;
    for (unsigned i = 0; i < N; i++)
        pthread_join(thread[i], NULL);
    pthread_join(emptier, NULL);
    assert_true(read_stats().caches_emptied > emptied + 50);
    assert_null(pool_check());
}

/* ---- The background thread ------------------------------------------------------------------------------------------- */

static unsigned count_entries(const char *path)
{
    unsigned n = 0;
    DIR *dir = opendir(path);
    if (dir == NULL)
        return 0;
    for (struct dirent *entry; (entry = readdir(dir)) != NULL;)
        n += entry->d_name[0] != '.';
    closedir(dir);
    return n;
}

/* Many threads that sleep with full caches make it appear. It keeps no file open, empties them, and goes. */
static void many_sleepers_bring_the_background_thread(void **state)
{
    (void)state;
    enum { N = 16 };
    unsigned own_threads = count_entries("/proc/self/task");
    config.purge_delay_ms = 100;
    config.background = true;
    static pthread_t thread[N];
    struct thread *record[N];
    worker.way = IN_FUTEX;
    worker.go_on = 0;
    for (unsigned i = 0; i < N; i++) {
        worker.filled = 0;
        assert_int_equal(pthread_create(&thread[i], NULL, work, NULL), 0);
        wait_for_word(&worker.filled, 1);
        record[i] = record_of(worker.thread_id);
    }
    bool seen_without_files = false, all_empty = false;
    for (unsigned i = 0; i < 2000 && !all_empty; i++) {
        os_sleep_ms(10);
        DIR *dir = opendir("/proc/self/task");
        for (struct dirent *entry; (entry = readdir(dir)) != NULL;) {
            char path[300];
            snprintf(path, sizeof path, "/proc/self/task/%s/fd", entry->d_name);
            seen_without_files |= entry->d_name[0] != '.' && count_entries(path) <= 1;
        }
        closedir(dir);
        all_empty = true;
        for (unsigned k = 0; k < N; k++)
            all_empty &= is_empty(record[k]);
    }
    assert_true(all_empty);
    assert_true(seen_without_files);
    for (unsigned i = 0; i < 2000 && count_entries("/proc/self/task") > own_threads + N; i++)
        os_sleep_ms(10);
    assert_int_equal(count_entries("/proc/self/task"), own_threads + N); /* it has gone while they sleep on */
    set_word(&worker.go_on, 1);
    for (unsigned i = 0; i < N; i++)
        pthread_join(thread[i], NULL);
}

static _Atomic uint32_t compute;

static void *compute_and_sleep(void *unused)
{
    static __thread void *block[3000];
    for (unsigned i = 0; i < 3000; i++)
        block[i] = hak_malloc(16 + i % 1000);
    for (unsigned i = 0; i < 3000; i++)
        hak_free(block[i]);
    worker.thread_id = os_thread_id();
    set_word(&worker.filled, 1);
    while (atomic_load(&compute) != 0)
        sched_yield(); /* it runs, for all that anybody sees */
    wait_for_word(&worker.go_on, 1);
    return unused;
}

/* Threads with full caches that do not allocate and do not sleep do not end it; when they sleep at last they are emptied, and it goes. */
static void who_sleeps_late_is_emptied_too(void **state)
{
    (void)state;
    enum { N = 10 };
    unsigned own_threads = count_entries("/proc/self/task");
    pthread_t thread[N];
    struct thread *record[N];
    config.purge_delay_ms = 20;
    config.background = true;
    worker.go_on = 0;
    compute = 1;
    for (unsigned i = 0; i < N; i++) {
        worker.filled = 0;
        assert_int_equal(pthread_create(&thread[i], NULL, compute_and_sleep, NULL), 0);
        wait_for_word(&worker.filled, 1);
        record[i] = record_of(worker.thread_id);
    }
    os_sleep_ms(1500); /* many times what it takes to give them up */
    for (unsigned i = 0; i < N; i++)
        assert_false(is_empty(record[i]));
    compute = 0;
    unsigned n_empty = 0;
    for (unsigned i = 0; i < 6000 && n_empty < N; i++) {
        os_sleep_ms(10);
        n_empty = 0;
        for (unsigned k = 0; k < N; k++)
            n_empty += is_empty(record[k]);
    }
    assert_int_equal(n_empty, N);
    for (unsigned i = 0; i < 2000 && count_entries("/proc/self/task") > own_threads + N; i++)
        os_sleep_ms(10);
    assert_int_equal(count_entries("/proc/self/task"), own_threads + N);
    set_word(&worker.go_on, 1);
    for (unsigned i = 0; i < N; i++)
        pthread_join(thread[i], NULL);
}

int main(void)
{
#if UNDER_THREAD_SANITIZER
    return 77; /* Caches of sleepers are left alone under ThreadSanitizer. */
#endif
    struct sigaction action = {.sa_handler = wait_in_handler};
    sigaction(SIGUSR1, &action, NULL);
    config_read();
    config.background = false;
    config.purge_delay_ms = -1;
    thread_start_process();
    config.background = false; /* but in the last test */
    config.purge_delay_ms = -1;
    hak_free(hak_malloc(1));
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_sleeper_is_emptied_whatever_it_waits_for),
        cmocka_unit_test(a_thread_that_runs_is_left_alone),
        cmocka_unit_test(the_caller_keeps_its_own_cache),
        cmocka_unit_test(a_trim_empties_sleepers),
        cmocka_unit_test(ticks_are_patient_but_not_for_ever),
        cmocka_unit_test(what_it_gave_back_waits_no_longer),
        cmocka_unit_test(who_cannot_be_read_is_left_alone),
        cmocka_unit_test(a_hit_is_a_use),
        cmocka_unit_test(where_nobody_may_ask_sleepers_are_left_alone),
        cmocka_unit_test(spans_go_though_their_thread_is_awake),
        cmocka_unit_test(ticks_take_spans_that_are_not_used),
        cmocka_unit_test(deep_stacks_and_foreign_ones_are_left_alone),
#if defined(__x86_64__) && !defined(ADDRESS_SANITIZED)
        cmocka_unit_test(any_instruction_may_be_interrupted),
#endif
        cmocka_unit_test(threads_wake_exit_and_fork_meanwhile),
        cmocka_unit_test(many_sleepers_bring_the_background_thread),
        cmocka_unit_test(who_sleeps_late_is_emptied_too),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
