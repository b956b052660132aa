/* harden.c - see harden.h.
 * Owns     the secrets, quarantines.
 * Called by  doors.c, free.c and straight.c, api/, thread.c, fork.c, refill.c (order)     Calls  front.h (behind the doors), guarded.h
 * Threads  any. A block's seal and contents belong to who holds it; a quarantine to its thread, between thread_enter and
 *          thread_leave.
 * I1  With SECURE_ZERO every byte of free memory is zero: of blocks in slabs, magazines and quarantines (they were cleared
 *     when they were freed) as of pages never used.
 * I2  A seal that is neither zero nor right was overwritten.
 * I3  A block is in a quarantine or in a magazine, never in both.
 */
#include "front/harden.h"

#include "front/flush.h"
#include "front/guarded.h"
#include "front/locate.h"
#include "front/profile.h"
#include "front/sampled.h"
#include "front/sampler.h"
#include "front/small.h"
#include "front/straight.h"
#include "front/wipe.h"
#include "meta/arena.h"
#include "os/context.h"
#include "os/os.h"
#include "pool/large.h"
#include "pool/shared_pool.h"
#include "service/config.h"
#include "service/modules.h"
#include "service/report.h"

#include <errno.h>
#include <signal.h>
#include <string.h>

_Atomic uint8_t harden_state;

struct harden_secrets harden_secrets;

/* Up to so many bytes a block is of a class, unless they are 0. Constant after harden_start. */
static size_t small_max_bytes;

bool harden_decide(void)
{
    if (harden_mode() == HARDEN_UNKNOWN)
        thread_start_process();
    return harden_mode() == HARDEN_ON;
}

static SELDOM_USED struct sigaction fault_before;

/* Whether a block that this mode keeps nothing of may lie at an address: one that was executed, say. */
static bool may_have_block(const struct arena *arena, const void *address)
{
    return arena->class_map == NULL ||
           load_byte_relaxed(&arena->class_map[arena_slab_index(arena, address)]) != CLASS_FOREIGN * CLASS_OFFSET_SCALE;
}

/* Says what was touched, if it is ours, and lets the access happen again, as it would have ended without us. A signal that was sent is
 * sent again: it has no address. */
void harden_on_fault(int number, siginfo_t *info, void *context)
{
    if (info->si_code <= 0) {
        sigaction(number, &fault_before, NULL);
        raise(number);
        return;
    }
    const struct arena *arena = registry_arena(info->si_addr);
    if (sampled_has(info->si_addr))
        sampled_explain(info->si_addr, os_context_pc(context));
    else if (arena != NULL && !guarded_explain(info->si_addr) && !may_have_block(arena, info->si_addr))
        report_line("hakmem: fault: no block lies at %p", info->si_addr);
    sigaction(number, &fault_before, NULL);
}

/* Only where nobody else has asked for faults; who does so later takes our place. */
static COLD void watch_faults(void)
{
    struct sigaction action = {.sa_sigaction = harden_on_fault, .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER};
    int saved_errno = errno;
    if (sigaction(SIGSEGV, NULL, &fault_before) == 0 && (fault_before.sa_flags & SA_SIGINFO) == 0 &&
        fault_before.sa_handler == SIG_DFL)
        sigaction(SIGSEGV, &action, NULL);
    errno = saved_errno;
}

static COLD void start_sampling(void)
{
    if (harden_mode() == HARDEN_ON) {
        report_line("hakmem: HAKMEM_GUARD_SAMPLE has no effect with HAKMEM_SECURE");
    } else if (!sampled_start()) {
        report_line("hakmem: HAKMEM_GUARD_SAMPLE has no effect: no memory for it");
    } else {
        sampler_start_by_count(config.guard_sample);
        atomic_store(&harden_state, HARDEN_SAMPLING);
    }
}

static COLD void choose_secrets(void)
{
    uint64_t f = os_random() | 1, inverse = f; /* of which the lower 3 bits are right, */
    for (unsigned bits = 3; bits < 64; bits *= 2)
        inverse *= 2 - f * inverse; /* and each time twice as many */
    harden_secrets = (struct harden_secrets){
        .address = os_random(), .factor = os_random() | 1, .field_factor = f, .field_inverse = inverse};
}

static COLD void prepare_hardened(void)
{
    small_max_bytes = CLASS_MAX_BYTES - SEAL_BYTES;
    if ((config.secure & SECURE_GUARD) != 0)
        small_max_bytes = min_size(small_max_bytes, os_page_bytes() - 1);
    if ((config.secure & SECURE_PAGES) != 0)
        small_max_bytes = 0;
    wipe_start();
    straight_start(small_max_bytes);
    choose_secrets();
    arena_harden((config.secure & SECURE_RANDOM) != 0, (config.secure & SECURE_GUARD) != 0);
}

void harden_start(void)
{
    if (config.secure != 0)
        prepare_hardened();
    atomic_store(&harden_state, config.secure != 0 ? HARDEN_ON : HARDEN_OFF);
    if (config.guard_sample != 0)
        start_sampling();
    if (checks(SECURE_GUARD) || harden_mode() == HARDEN_SAMPLING)
        watch_faults();
}

unsigned harden_below(struct thread *thread, unsigned n)
{
    return (unsigned)((random_bits(thread) >> 32) * n >> 32);
}

void harden_shuffle(struct thread *thread, void **block, unsigned n)
{
    for (unsigned i = n; i > 1; i--) {
        unsigned k = harden_below(thread, i);
        void *other = block[k];
        block[k] = block[i - 1];
        block[i - 1] = other;
    }
}

/* ---- Blocks of classes ------------------------------------------------------------------------------------------- */

void harden_report_dirty(void *block, size_t block_bytes)
{
    report_misuse("malloc", "a free block was written to", block, "class of bytes", block_bytes);
    memset(block, 0, block_bytes);
}

/* Makes a free block the program's. */
static ALWAYS_INLINE void *seal_block(void *block, size_t block_bytes, size_t size_bytes, enum block_kind kind)
{
    if (checks(SECURE_ZERO) && unlikely(!wipe_is_clear(block, block_bytes)))
        harden_report_dirty(block, block_bytes);
    end_write(block, block_bytes, size_bytes, kind, checks(SECURE_CANARY));
    return block;
}

/* The class that a block was served from: the one that was asked for, or the next larger one. */
static size_t block_bytes_of(const void *block)
{
    const struct arena *arena = registry_arena(block);
    if (unlikely(arena->class_map == NULL))
        return 0; /* emergency.h: outside of all this */
    return class_at(load_byte_relaxed(&arena->class_map[arena_slab_index(arena, block)]))->bytes;
}

static ALWAYS_INLINE void *claim_small(size_t size_bytes, size_t alignment, enum block_kind kind)
{
    size_t least_bytes = max_size(size_bytes, 1) + SEAL_BYTES; /* never a block of 8 bytes */
    unsigned class_id = alignment <= 16 ? class_of(least_bytes) : class_of_aligned(least_bytes, alignment);
    struct thread *thread = thread_enter();
    void *block = NULL; /* set where it is used; gcc does not see it */
    bool popped = thread != NULL && magazine_pop(&thread->cache.magazine[class_id], &block);
    if (thread != NULL)
        thread_leave(thread);
    if (likely(popped))
        return seal_block(block, class_table[class_id].bytes, size_bytes, kind);
    block = front_claim_class(class_id, alignment > 16);
    size_t block_bytes = block == NULL ? 0 : block_bytes_of(block);
    return block_bytes == 0 ? block : seal_block(block, block_bytes, size_bytes, kind);
}

/* What a block's seal says; 0 when it has been written to. (No seal says 0.) */
static ALWAYS_INLINE uint64_t fields_of(const void *block, uint64_t seal)
{
    uint64_t fields = seal_fields(hash_of(block), seal);
    return seal_difference(fields) == 0 ? fields : 0;
}

/* Whether the slack of a block, whose seal is right, was not written to. */
static bool slack_is_whole(void *block, size_t block_bytes, uint64_t fields)
{
    char *end = (char *)block + block_bytes;
    return !checks(SECURE_CANARY) || slack_difference(end, fields, seal_read(end)) == 0;
}

static COLD void report_before(const char *call, const void *block)
{
    report_misuse(call, "written before the block's beginning, or behind the end of the one before it", block, NULL, 0);
}

/* The last bytes of another slab, which may go at any moment, unless we hold the lock. */
void harden_check_before_slab(const char *memory, const char *call)
{
    const struct arena *arena = registry_arena(memory - 1);
    if (arena == NULL || arena->class_map == NULL)
        return;
    const _Atomic uint8_t *map = &arena->class_map[arena_slab_index(arena, memory - 1)];
    if (class_at(load_byte_relaxed(map))->n_blocks == 0 || !pool_try_lock(HAK_LOCK_TIER))
        return;
    const struct class_info *class = class_at(load_byte_relaxed(map));
    uint64_t seal = class->n_blocks == 0 ? 0 : seal_read(memory);
    pool_unlock();
    size_t tail_bytes = class->n_blocks == 0 ? 0 : SLAB_BYTES - (size_t) class->n_blocks * class->bytes;
    if (unlikely(seal != 0 && (tail_bytes != 0 || fields_of(memory - class->bytes, seal) == 0)))
        report_before(call, memory);
}

/* What lies right before a block: the seal of the block before it. */
static ALWAYS_INLINE void check_before(const char *block, const struct place *place, const char *call)
{
    if (unlikely(place->index == 0)) {
        harden_check_before_slab(block, call);
        return;
    }
    uint64_t seal = seal_read(block);
    if (unlikely(seal != 0 && fields_of(block - class_table[place->class_id].bytes, seal) == 0))
        report_before(call, block);
}

/* Whether an operator other than ours may stand between malloc and our delete, or between our new and free. A shared library
 * that is linked with its own C++ runtime and -Bsymbolic calls its own new, which calls malloc, while its users find delete in
 * hakmem first: rust's libLLVM.so is one. The runtimes themselves define the operators as well, but there ours take their place. A
 * yes is kept, as blocks may outlive their library; after a no another one may be loaded. */
static COLD bool other_operators_call(const char *const *names, _Atomic bool *found)
{
    static const char *const runtimes[] = {"libstdc++.so", "libc++.so", "libc++abi.so", NULL};
    /* What a type of theirs is called: a file that has it has a runtime in it. */
    static const char own_runtime[] = "\0St9bad_alloc";
    if (atomic_load_explicit(found, memory_order_relaxed)) /* relaxed: who sees it late looks again */
        return true;
    if (!modules_define(names, NULL, runtimes) && !modules_define(names, own_runtime, runtimes))
        return false;
    atomic_store_explicit(found, true, memory_order_relaxed);
    return true;
}

static COLD bool new_may_be_malloc(void)
{
    static const char *const names[] = {"_Znwm", "_Znam", NULL};
    static _Atomic bool found;
    return other_operators_call(names, &found);
}

static COLD bool delete_may_be_free(void)
{
    static const char *const names[] = {"_ZdlPv", "_ZdaPv", NULL};
    static _Atomic bool found;
    return other_operators_call(names, &found);
}

void harden_report_release(const struct release *release, const void *block, size_t size_bytes, enum block_kind kind)
{
    static const char *const allocated_by[] = {"the block was allocated by malloc or the like",
                                               "the block was allocated by operator new",
                                               "the block was allocated by operator new[]"};
    if (release->kind != kind && kind == KIND_MALLOC && new_may_be_malloc())
        return; /* nor is anything else known of it: that new may have asked for more */
    if (release->kind != kind && release->kind == KIND_MALLOC && delete_may_be_free())
        return;
    if (release->kind != kind)
        report_misuse(release->call, allocated_by[kind], block, "asked for bytes", size_bytes);
    else if ((((uintptr_t)block | release->alignment) & (release->alignment - 1)) != 0) /* or it is no power of two */
        report_misuse(release->call, "the alignment is not the block's", block, "alignment", release->alignment);
    else if (release->size_bytes != RELEASE_ANY_SIZE && release->size_bytes != size_bytes)
        report_misuse(release->call, "the size is not the block's", block, "asked for bytes", size_bytes);
}

static void return_small(void *block, const struct place *place, const struct release *release)
{
    size_t block_bytes = class_table[place->class_id].bytes;
    char *end = (char *)block + block_bytes;
    uint64_t seal = seal_read(end), fields = fields_of(block, seal);
    if (unlikely(seal == 0)) {
        report_misuse(release->call, "block freed twice", block, "class of bytes", block_bytes);
        return;
    }
    if (unlikely(fields == 0 || !slack_is_whole(block, block_bytes, fields)))
        report_misuse(release->call, "written behind the block's end", block, "class of bytes", block_bytes);
    else
        check_release(release, block, block_bytes - SEAL_BYTES - SEAL_SLACK(fields), SEAL_KIND(fields));
    if (checks(SECURE_CANARY) && checks(SECURE_ZERO)) /* else anything may lie in a free block */
        check_before(block, place, release->call);

    seal_write(end, 0);
    if (checks(SECURE_ZERO))
        wipe_clear(block, block_bytes);
    struct thread *thread = thread_enter();
    if (unlikely(thread == NULL)) {
        front_return_block(block, release->call);
        return;
    }
    uint64_t other = waiting(block, place->class_id * CLASS_OFFSET_SCALE);
    if (checks(SECURE_QUARANTINE) && thread->quarantine != NULL)
        other = quarantine_exchange(thread, block, place->class_id * CLASS_OFFSET_SCALE);
    bool pushed =
        other == 0 || magazine_push(magazine_at(&thread->cache, waiting_class_offset(other)), waiting_block(other));
    thread_leave(thread);
    if (!pushed)
        front_return_block(waiting_block(other), release->call);
}

/* ---- Doors ------------------------------------------------------------------------------------------------------- */

/* Whether no class will do, or a large block is wanted though one would. */
static bool fits_no_class(size_t size_bytes, size_t alignment)
{
    return size_bytes > CLASS_MAX_BYTES - SEAL_BYTES ||
           (alignment > 16 && class_of_aligned(size_bytes + SEAL_BYTES, alignment) == 0);
}

void *harden_claim(size_t size_bytes, size_t alignment, enum block_kind kind)
{
    if (likely(size_bytes - 1 < small_max_bytes && alignment <= 16))
        return claim_small(size_bytes, alignment, kind);
    if (unlikely(fits_no_class(size_bytes, alignment)))
        return guarded_claim(size_bytes, alignment, kind);
    if (unlikely(guarded_wants(size_bytes))) {
        void *block = guarded_try(size_bytes, size_bytes, alignment, kind, true);
        if (block != NULL)
            return block;
    }
    return claim_small(size_bytes, alignment, kind);
}

/* Counts an allocation; if it is picked it gets a place of its own, or is noted. NULL: it is not. */
static void *claim_sampled(size_t size_bytes, size_t alignment)
{
    unsigned class_id = class_of_aligned(size_bytes, alignment);
    struct thread *thread = class_id == 0 ? NULL : thread_enter();
    if (thread == NULL)
        return NULL;
    profile_follow_if_due(thread);
    bool picked = sampler_picks(thread, size_bytes);
    thread_leave(thread);
    if (!picked)
        return NULL;
    return harden_mode() == HARDEN_SAMPLING ? sampled_claim(size_bytes, alignment)
                                            : profile_claim(size_bytes, alignment, class_id);
}

bool harden_answers(size_t size_bytes, size_t alignment, void **block)
{
    if (harden_is_on()) {
        *block = harden_claim(size_bytes, alignment, KIND_MALLOC);
        return true;
    }
    if (harden_mode() != HARDEN_SAMPLING && harden_mode() != HARDEN_PROFILING)
        return false;
    *block = claim_sampled(size_bytes, alignment);
    return *block != NULL;
}

void harden_return(void *block, const struct release *release)
{
    struct place place;
    if (block == NULL)
        return;
    int saved_errno = errno;
    if (locate_block(block, release->call, &place)) {
        if (place.class_id != CLASS_SPAN)
            return_small(block, &place, release);
        else if (place.slab != NULL)
            guarded_return(block, release);
        else
            front_return_block(block, release->call);
    }
    errno = saved_errno;
}

/* What a block is, for realloc and the like: the bytes that were asked for; SIZE_MAX and a report if it is none. */
static size_t look(const void *block, const char *call, struct place *place, enum block_kind *kind)
{
    if (!locate_block(block, call, place))
        return SIZE_MAX;
    *kind = KIND_MALLOC;
    if (place->class_id == CLASS_SPAN) {
        size_t size_bytes = place->slab == NULL ? large_usable_bytes(block) : 0; /* of these never 0 */
        if (size_bytes != 0 || (place->slab != NULL && guarded_is_live(block, &size_bytes, kind)))
            return size_bytes;
        report_misuse(call, NO_BLOCK_BEGINS_HERE, block, NULL, 0);
        return SIZE_MAX;
    }
    size_t block_bytes = class_table[place->class_id].bytes;
    uint64_t seal = seal_read((const char *)block + block_bytes), fields = fields_of(block, seal);
    if (fields == 0) {
        report_misuse(call, seal == 0 ? "block freed already" : "written behind the block's end", block,
                      "class of bytes", block_bytes);
        return SIZE_MAX;
    }
    *kind = SEAL_KIND(fields);
    return block_bytes - SEAL_BYTES - SEAL_SLACK(fields);
}

size_t harden_usable_bytes(const void *block)
{
    struct place place;
    enum block_kind kind;
    size_t n = block == NULL ? 0 : look(block, "malloc_usable_size", &place, &kind);
    return n == SIZE_MAX ? 0 : n;
}

/* Makes a block, whose seal is right, longer or shorter where it lies, if it can be. The bytes that are added read as zero. */
static bool resize_small(void *block, size_t block_bytes, size_t old_bytes, size_t size_bytes)
{
    size_t most_bytes = block_bytes - SEAL_BYTES;
    if (size_bytes > most_bytes || size_bytes < most_bytes / 2 ||
        !slack_is_whole(block, block_bytes, SEAL_FIELDS(most_bytes - old_bytes, KIND_MALLOC)))
        return false;
    if (size_bytes > old_bytes)
        memset((char *)block + old_bytes, 0, size_bytes - old_bytes);
    else
        memset((char *)block + size_bytes, 0, old_bytes - size_bytes);
    end_write(block, block_bytes, size_bytes, KIND_MALLOC, checks(SECURE_CANARY));
    return true;
}

/* Shorter than resize_small makes it: when there is no memory for a smaller block. */
static void shrink_small(void *block, size_t block_bytes, size_t old_bytes, size_t size_bytes)
{
    if (!slack_is_whole(block, block_bytes, SEAL_FIELDS(block_bytes - SEAL_BYTES - old_bytes, KIND_MALLOC)))
        return; /* is found when it is freed */
    memset((char *)block + size_bytes, 0, old_bytes - size_bytes);
    end_write(block, block_bytes, size_bytes, KIND_MALLOC, checks(SECURE_CANARY));
}

void *harden_realloc(void *block, size_t size_bytes)
{
    static const struct release release = {"realloc", KIND_MALLOC, RELEASE_ANY_SIZE, 1};
    struct place place;
    enum block_kind kind;
    size_t old_bytes = look(block, release.call, &place, &kind);
    if (old_bytes == SIZE_MAX) {
        errno = EINVAL;
        return NULL;
    }
    bool large = place.class_id == CLASS_SPAN;
    if (kind == KIND_MALLOC && (large ? guarded_resize(block, size_bytes)
                                      : resize_small(block, class_table[place.class_id].bytes, old_bytes, size_bytes)))
        return block;
    int saved_errno = errno;
    bool grows = large && size_bytes > old_bytes && size_bytes >> ADDRESS_BITS == 0 && !checks(SECURE_PAGES);
    void *moved = grows ? guarded_try(size_bytes, size_bytes + size_bytes / 2, 1, KIND_MALLOC, false) : NULL;
    if (moved == NULL)
        moved = harden_claim(size_bytes, 1, KIND_MALLOC);
    if (moved == NULL) {
        if (size_bytes > old_bytes)
            return NULL;
        errno = saved_errno; /* Shrinking never fails; a sized free will tell the new size. */
        if (kind == KIND_MALLOC && large)
            guarded_shrink(block, size_bytes);
        else if (kind == KIND_MALLOC)
            shrink_small(block, class_table[place.class_id].bytes, old_bytes, size_bytes);
        return block;
    }
    os_copy(moved, block, min_size(old_bytes, size_bytes), false);
    harden_return(block, &release);
    return moved;
}

/* ---- Threads and the process ------------------------------------------------------------------------------------- */

void harden_prepare(struct thread *thread)
{
    thread->random = os_random() | 1;
    if (checks(SECURE_QUARANTINE) && thread->quarantine == NULL)
        thread->quarantine = metapool_claim(); /* NULL: no delay for this thread's blocks */
}

void harden_fork_child(struct thread *thread, bool interrupted)
{
    if (harden_mode() != HARDEN_ON)
        return;
    thread->random = os_random() | 1;
    guarded_fork_child();
    /* Taken, or a handler would find a magazine half changed. */
    if (interrupted || !checks(SECURE_RANDOM) || !thread_take(thread))
        return;
    for (unsigned c = CLASS_FIRST; c < CLASS_END; c++)
        harden_shuffle(thread, thread->cache.magazine[c].base, magazine_count(&thread->cache.magazine[c]));
    thread_let_go(thread);
}

void harden_empty(struct thread *thread)
{
    for (unsigned i = 0; i < QUARANTINE_SLOTS && thread->quarantine != NULL; i++) {
        void *block = waiting_block(thread->quarantine->slot[i]);
        thread->quarantine->slot[i] = 0;
        if (block != NULL)
            flush_block(block);
    }
}

void harden_forget(struct thread *thread)
{
    if (thread->quarantine != NULL)
        memset(thread->quarantine, 0, sizeof *thread->quarantine);
}

static void check_free(void *block)
{
    size_t block_bytes = block_bytes_of(block);
    if (block_bytes != 0 && !wipe_is_clear(block, block_bytes))
        report_misuse("exit", "a free block was written to", block, "class of bytes", block_bytes);
}

static COLD void check_caches(struct thread *thread)
{
    for (unsigned c = CLASS_FIRST; c < CLASS_END; c++)
        for (void **at = thread->cache.magazine[c].base; at != thread->cache.magazine[c].top; at++)
            check_free(*at);
    for (unsigned i = 0; i < QUARANTINE_SLOTS && thread->quarantine != NULL; i++)
        if (thread->quarantine->slot[i] != 0)
            check_free(waiting_block(thread->quarantine->slot[i]));
}

void harden_check_at_exit(void)
{
    struct thread *thread = harden_mode() == HARDEN_ON && checks(SECURE_ZERO) ? thread_enter() : NULL;
    if (thread == NULL)
        return;
    check_caches(thread);
    thread_leave(thread);
}
