/* profile.c - see profile.h.
 * Owns     the records, and slab.sample of spans.
 * Called by  doors.c, refill.c, large_block.c, free.c, harden.c (slow paths), thread.c, api/introspect.c     Calls  sampler.h, stack.h, modules.h, os.h
 * Threads  any, and signal handlers: no lock. A record is found, or made, by compare-and-swap in the index, and its sums are
 *          counters. A block's sample belongs to who holds the block.
 * I1  A record's stack does not change while the session lasts.
 * I2  live_* of a record are the sums over the blocks that have its number in their sample, and this session's.
 * I3  Nobody is inside (n_inside) while a session's records are cleared.
 */
#include "front/profile.h"

#include "front/front.h"
#include "front/handler.h"
#include "front/large_block.h"
#include "front/sampler.h"
#include "front/thread.h"
#include "meta/arena.h"
#include "meta/registry.h"
#include "os/os.h"
#include "pool/background.h"
#include "pool/large.h"
#include "pool/shared_pool.h"
#include "service/config.h"
#include "service/modules.h"
#include "service/report.h"
#include "service/unwind.h"

#include <errno.h>
#include <string.h>

/* slab.sample: session | record | class | bytes asked for. A class of 0 stands for a span; CLASS_SPAN for one whose bytes do not
 * fit: then they are pages. So a sample tells its own weight, whatever has become of the block. */
#define SAMPLE_SIZE_BITS 30
#define SAMPLE_CLASS_BITS 6
#define SAMPLE_RECORD_BITS 16
#define SAMPLE_SESSION_BITS 12
#define SAMPLE_SIZE_MAX (((size_t)1 << SAMPLE_SIZE_BITS) - 1)
_Static_assert(SAMPLE_SIZE_BITS + SAMPLE_CLASS_BITS + SAMPLE_RECORD_BITS + SAMPLE_SESSION_BITS == 64,
               "a word is filled");
_Static_assert(PROFILE_MAX_RECORDS >> SAMPLE_RECORD_BITS == 0, "the record numbers fit");

#define RECORDS_BYTES ((PROFILE_MAX_RECORDS + 1) * sizeof(struct profile_record))
#define INDEX_BYTES (PROFILE_INDEX_SLOTS * sizeof(uint32_t))

struct profile_state profile_state = {.version = PROFILE_VERSION,
                                      .record_bytes = sizeof(struct profile_record),
                                      .modules_bytes = sizeof(struct modules),
                                      .epoch = &sampler_epoch,
                                      .closed_cache = &closed_cache};

static _Atomic uint32_t *index_of_stack; /* record numbers by hash; 0: none */
#define INSIDE_YIELDS 100                /* then sleeps, of a millisecond */
#define INSIDE_MAX_WAITS 2000

static _Atomic uint32_t n_inside, next_record, changing;
static _Atomic uint32_t turn;         /* 1: somebody begins or ends a session */
static _Atomic uint64_t requested;    /* the last request from outside */
static _Atomic uint64_t chance_state; /* of the spans' random numbers */

/* ---- Chances ----------------------------------------------------------------------------------------------------- */

/* Of a block that is noted: by its bytes, as the sampler picks, or by its pages. */
static double chance_of(size_t bytes)
{
    return sampler_chance(bytes, (size_t)atomic_load_explicit(&profile_state.interval_bytes, memory_order_relaxed));
}

/* In [0, 1): splitmix64. */
static double uniform(void)
{
    uint64_t z =
        atomic_fetch_add_explicit(&chance_state, 0x9e3779b97f4a7c15u, memory_order_relaxed); /* relaxed: a number */
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return (double)((z ^ z >> 31) >> 11) / 9007199254740992.;
}

/* ---- Records ----------------------------------------------------------------------------------------------------- */

static uint32_t hash_of(const struct stack *stack)
{
    uint64_t hash = stack->n_frames;
    for (uint32_t i = 0; i < stack->n_frames; i++)
        hash = (hash ^ (uintptr_t)stack->frame[i]) * 0x9fb21c651e98df25u, hash ^= hash >> 32;
    return (uint32_t)hash;
}

static bool is_of(const struct profile_record *record, uint32_t hash, const struct stack *stack)
{
    return record->hash == hash && record->stack.n_frames == stack->n_frames &&
           memcmp(record->stack.frame, stack->frame, stack->n_frames * sizeof stack->frame[0]) == 0;
}

/* A new record, which nobody knows yet; 0: there is no room. */
static uint32_t make_record(uint32_t hash, const struct stack *stack)
{
    uint32_t number = atomic_load(&next_record);
    do {
        if (number > PROFILE_MAX_RECORDS)
            return 0;
    } while (!atomic_compare_exchange_weak(&next_record, &number, number + 1));
    struct profile_record *record = &profile_state.records[number];
    record->hash = hash;
    record->stack = *stack;
    modules_enter(profile_state.modules, stack->frame, stack->n_frames, number);
    return number;
}

/* The record of a stack; 0: there is no room for it. One that two threads make at once is made twice and found once: the
 * other's number stays unused. */
static uint32_t record_of(const struct stack *stack)
{
    uint32_t hash = hash_of(stack), made = 0;
    for (uint32_t i = hash;; i++) {
        _Atomic uint32_t *slot = &index_of_stack[i % PROFILE_INDEX_SLOTS];
        uint32_t number = atomic_load_explicit(slot, memory_order_acquire);
        if (number == 0) {
            if (made == 0 && (made = make_record(hash, stack)) == 0)
                return 0;
            if (atomic_compare_exchange_strong(slot, &number, made)) {
                uint32_t seen = atomic_load(&profile_state.n_records);
                while (seen < made && !atomic_compare_exchange_weak(&profile_state.n_records, &seen, made))
                    ;
                return made;
            }
        }
        if (is_of(&profile_state.records[number], hash, stack))
            return number;
    }
}

/* ---- Samples ----------------------------------------------------------------------------------------------------- */

static uint64_t sample_of(uint32_t record, unsigned class_id, size_t size_bytes)
{
    uint64_t session = atomic_load_explicit(&profile_state.session, memory_order_relaxed); /* relaxed: we are inside */
    if (size_bytes > SAMPLE_SIZE_MAX) {
        class_id = CLASS_SPAN;
        size_bytes = min_size(size_bytes / os_page_bytes() + 1, SAMPLE_SIZE_MAX);
    }
    return session << (64 - SAMPLE_SESSION_BITS) | (uint64_t)record << (SAMPLE_SIZE_BITS + SAMPLE_CLASS_BITS) |
           (uint64_t)class_id << SAMPLE_SIZE_BITS | size_bytes;
}

static bool is_of_session(uint64_t sample)
{
    uint64_t session = atomic_load_explicit(&profile_state.session, memory_order_relaxed); /* relaxed: we are inside */
    return sample != 0 && (sample ^ session << (64 - SAMPLE_SESSION_BITS)) >> (64 - SAMPLE_SESSION_BITS) == 0;
}

/* What a sample adds to its record's sums, as counted there. */
struct weight {
    uint64_t count, bytes, rounding_bytes;
};

static struct weight weight_of(uint64_t sample)
{
    unsigned class_id = (unsigned)(sample >> SAMPLE_SIZE_BITS) & ((1u << SAMPLE_CLASS_BITS) - 1);
    size_t asked_bytes = sample & SAMPLE_SIZE_MAX;
    if (class_id == CLASS_SPAN)
        asked_bytes *= os_page_bytes();
    bool is_small = class_id >= CLASS_FIRST;
    size_t block_bytes = is_small ? class_table[class_id].bytes : round_up(asked_bytes, os_page_bytes());
    double times = 1 / chance_of(is_small ? asked_bytes : block_bytes);
    return (struct weight){(uint64_t)(times * PROFILE_COUNT_SCALE + 0.5), (uint64_t)(times * (double)asked_bytes + 0.5),
                           (uint64_t)(times * (double)(block_bytes - asked_bytes) + 0.5)};
}

/* Sums that nobody reads together: relaxed. */
static void add(_Atomic uint64_t *sum, uint64_t n)
{
    atomic_fetch_add_explicit(sum, n, memory_order_relaxed);
}

static void note(void *block, size_t size_bytes, unsigned class_id)
{
    uint64_t *sample_of_block = large_sample(block);
    struct stack stack;
    if (sample_of_block == NULL)
        return;
    stack_take(&stack);
    uint32_t number = record_of(&stack);
    add(&profile_state.n_samples, 1);
    if (number == 0) {
        add(&profile_state.n_dropped, 1);
        return;
    }
    struct profile_record *record = &profile_state.records[number];
    uint64_t sample = sample_of(number, class_id, size_bytes);
    struct weight weight = weight_of(sample);
    *sample_of_block = sample;
    add(&record->live_count, weight.count);
    add(&record->live_bytes, weight.bytes);
    add(&record->live_rounding_bytes, weight.rounding_bytes);
    add(&record->total_count, weight.count);
    add(&record->total_bytes, weight.bytes);
    atomic_fetch_add_explicit(&record->live_samples, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&record->total_samples, 1, memory_order_release); /* valid from now on */
}

static void forget(uint64_t *sample_of_block)
{
    uint64_t sample = *sample_of_block;
    *sample_of_block = 0;
    if (!is_of_session(sample))
        return;
    struct profile_record *record =
        &profile_state.records[sample >> (SAMPLE_SIZE_BITS + SAMPLE_CLASS_BITS) & PROFILE_MAX_RECORDS];
    struct weight weight = weight_of(sample);
    add(&record->live_count, -weight.count);
    add(&record->live_bytes, -weight.bytes);
    add(&record->live_rounding_bytes, -weight.rounding_bytes);
    atomic_fetch_sub_explicit(&record->live_samples, 1, memory_order_relaxed);
}

/* Not below 0: a signal handler that interrupted who is inside may have forked, and in its child nobody counts as inside. */
static void leave(void)
{
    uint32_t n = atomic_load(&n_inside);
    while (n != 0 && !atomic_compare_exchange_weak(&n_inside, &n, n - 1))
        continue;
}

/* Whether the session goes on; then its records stay until leave(). */
static bool enter(void)
{
    atomic_fetch_add(&n_inside, 1);
    if (atomic_load(&changing) == 0)
        return true;
    leave();
    return false;
}

/* A signal handler that interrupted who begins a session would wait for ever. */
bool profile_hold(void)
{
    for (unsigned i = 0; !enter(); i++) {
        if (i == INSIDE_MAX_WAITS)
            return false;
        os_sleep_ms(1);
    }
    return true;
}

void profile_let_go(void)
{
    leave();
}

void *profile_claim(size_t size_bytes, size_t alignment, unsigned class_id)
{
    int saved_errno = errno;
    /* usable as any other: see hak_good_size */
    void *block = large_block_claim_apart(class_table[class_id].bytes, alignment);
    if (block != NULL && enter()) {
        note(block, size_bytes, class_id);
        leave();
    }
    errno = saved_errno;
    return block;
}

static void consider(void *block, size_t size_bytes)
{
    if (uniform() < chance_of(round_up(min_size(size_bytes, PTRDIFF_MAX), os_page_bytes())))
        note(block, size_bytes, 0);
}

void profile_consider(void *block, size_t size_bytes)
{
    int saved_errno = errno;
    if (enter()) {
        consider(block, size_bytes);
        leave();
    }
    errno = saved_errno;
}

size_t profile_noted_bytes(const void *block)
{
    const uint64_t *sample = large_sample(block);
    unsigned class_id = sample == NULL ? 0 : (unsigned)(*sample >> SAMPLE_SIZE_BITS) & ((1u << SAMPLE_CLASS_BITS) - 1);
    return class_id >= CLASS_FIRST && class_id < CLASS_END ? class_table[class_id].bytes : 0;
}

void profile_forget(void *block)
{
    uint64_t *sample = large_sample(block);
    if (sample == NULL || *sample == 0 || !enter())
        return;
    forget(sample);
    leave();
}

void profile_resized(void *block, size_t size_bytes)
{
    uint64_t *sample = large_sample(block);
    int saved_errno = errno;
    if (sample == NULL || !enter())
        return;
    forget(sample);
    if (atomic_load(&profile_state.on) != 0)
        consider(block, size_bytes);
    leave();
    errno = saved_errno;
}

/* ---- Sessions ---------------------------------------------------------------------------------------------------- */

/* The records' memory: all zero. It is made once; later sessions give its pages back first. */
static bool make_room(void)
{
    size_t records_bytes = round_up(RECORDS_BYTES, os_page_bytes()),
           index_bytes = round_up(INDEX_BYTES, os_page_bytes()),
           all_bytes = records_bytes + index_bytes + round_up(sizeof(struct modules), os_page_bytes());
    if (profile_state.records != NULL)
        return os_purge(profile_state.records, all_bytes);
    char *memory = os_reserve(all_bytes, os_page_bytes());
    if (memory == NULL)
        return false;
    if (!os_commit(memory, all_bytes)) {
        os_unreserve(memory, all_bytes);
        return false;
    }
    profile_state.modules = (struct modules *)(void *)(memory + records_bytes + index_bytes);
    profile_state.records = (struct profile_record *)(void *)memory;
    index_of_stack = (_Atomic uint32_t *)(void *)(memory + records_bytes);
    return true;
}

/* With `changing` set. */
static int begin(size_t interval_bytes)
{
    for (unsigned i = 0; atomic_load(&n_inside) != 0; i++) { /* I3: they will not come back before we are done */
        if (i == INSIDE_MAX_WAITS)
            return EBUSY; /* a signal handler has left by siglongjmp while it was inside */
        if (i < INSIDE_YIELDS)
            os_yield();
        else
            os_sleep_ms(1); /* who is inside may wait for a processor */
    }
    if (!make_room())
        return ENOMEM;
    uint32_t session = atomic_load(&profile_state.session) % ((1u << SAMPLE_SESSION_BITS) - 1) + 1;
    atomic_store(&next_record, 1);
    atomic_store(&profile_state.n_records, 0);
    atomic_store(&profile_state.n_samples, 0);
    atomic_store(&profile_state.n_dropped, 0);
    atomic_store(&profile_state.interval_bytes, interval_bytes);
    atomic_store(&profile_state.from_ms, os_now_ms());
    atomic_store(&chance_state, os_random());
    atomic_store(&profile_state.session, session);
    return 0;
}

static _Atomic uint32_t until_ms; /* when the last session ended, as from_ms */

/* Whether the session that is on was begun by a request: who asked for it ends it in the process that was asked, and in no child. */
static _Atomic bool is_from_outside;

static int start(size_t interval_bytes, bool from_outside)
{
    uint32_t no = 0;
    if (interval_bytes == 0)
        interval_bytes = PROFILE_DEFAULT_INTERVAL_BYTES;
    if (interval_bytes > PROFILE_MAX_INTERVAL_BYTES)
        return EINVAL;
    if (!atomic_compare_exchange_strong(&turn, &no, 1))
        return EBUSY;
    int status = atomic_load(&profile_state.on) != 0 ? EBUSY : harden_mode() != HARDEN_OFF ? ENOTSUP : 0;
    if (status == 0) { /* only now: what is freed while it changes is not taken off the sums */
        atomic_store(&changing, 1);
        status = begin(interval_bytes);
        atomic_store(&changing, 0);
    }
    if (status == 0) {
        sampler_start_by_bytes(interval_bytes);
        atomic_store(&is_from_outside, from_outside);
        atomic_store(&profile_state.on, 1);
        atomic_store(&harden_state, HARDEN_PROFILING);
    }
    atomic_store(&turn, 0);
    if (status == 0)
        thread_call_all(); /* a thread that would go on hitting for long sees it now */
    return status;
}

/* Of another thread that begins or ends a session. A signal handler that interrupted it waits in vain, and goes on without. */
static bool wait_for_turn(void)
{
    uint32_t no = 0;
    for (unsigned i = 0; !atomic_compare_exchange_strong(&turn, &no, 1); i++, no = 0) {
        if (i == INSIDE_MAX_WAITS)
            return false;
        os_sleep_ms(1);
    }
    return true;
}

int profile_start(size_t interval_bytes)
{
    return start(interval_bytes, false);
}

void profile_stop(void)
{
    uint32_t yes = 1;
    if (atomic_load(&profile_state.on) == 0)
        return;
    bool in_turn = wait_for_turn(), ended = atomic_compare_exchange_strong(&profile_state.on, &yes, 0);
    if (ended) {
        atomic_store(&until_ms, os_now_ms());
        atomic_store(&harden_state, HARDEN_OFF);
        sampler_stop();
    }
    if (in_turn)
        atomic_store(&turn, 0);
    if (ended)
        thread_call_all();
}

uint32_t profile_lasted_ms(void)
{
    uint32_t to_ms = atomic_load(&profile_state.on) != 0 ? os_now_ms() : atomic_load(&until_ms);
    return to_ms - (uint32_t)atomic_load(&profile_state.from_ms);
}

/* In a thread of its own, for what backtrace() loads takes locks of libc's that the program's thread may not wait for. */
static void *obey(void *unused)
{
    uint64_t request = atomic_load(&requested);
    int status = 0;
    if (request == PROFILE_REQUEST_STOP) {
        profile_stop();
    } else {
        stack_prepare(); /* it may wait for a lock of the linker's, longer than who has asked */
        status = atomic_load(&profile_state.answer) == EINPROGRESS ? start(request, true) : ECANCELED;
    }
    atomic_store(&profile_state.answer, (uint32_t)status);
    return unused;
}

void profile_follow(struct thread *thread)
{
    sampler_follow(thread);
    /* What a signal handler interrupted may be pthread_create, with a lock in its hands that ours takes; a child's thread would end with it.
     * The thread's next call obeys. */
    if (unlikely(atomic_load(&profile_state.request) != 0) &&
        (handler_runs() || background_is_held() || os_is_vfork_child())) {
        atomic_store(&thread->door, (struct cache *)(uintptr_t)&closed_cache);
        /* whether the request is still there or not: the door must open again */
        atomic_fetch_sub(&thread->sampler_epoch, 1);
        return;
    }
    uint64_t request = atomic_exchange(&profile_state.request, 0);
    if (likely(request == 0))
        return;
    atomic_store(&requested, request);
    atomic_store(&profile_state.answer, EINPROGRESS);
    if (!config.background || !os_start_thread(obey))
        atomic_store(&profile_state.answer, EPERM); /* without a thread of our own there is no one to do it */
}

void profile_fork_child(void)
{
    unwind_fork_child();
    atomic_store(&n_inside, 0);
    atomic_store(&changing, 0);
    /* Who began or ended a session just then is gone: what belongs together is made to agree. */
    uint32_t mode = atomic_load(&harden_state);
    if (atomic_exchange(&turn, 0) != 0 && (mode == HARDEN_OFF || mode == HARDEN_PROFILING)) {
        bool on = atomic_load(&profile_state.on) != 0;
        atomic_store(&harden_state, on ? HARDEN_PROFILING : HARDEN_OFF);
        if (!on)
            sampler_stop();
    }
    atomic_store(&profile_state.request, 0);
}

void profile_end_inherited(void)
{
    if (atomic_exchange(&is_from_outside, false))
        profile_stop();
}
