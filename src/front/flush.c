/* flush.c - the slow path of free: what no magazine takes, and blocks from magazines back to their slabs.
 * Owns     nothing.     Called by  api/, thread.c     Calls  thread.h, shared_pool.h, span.h, report.h
 * Threads  each on its own record; without a record, on the shared pool.
 *
 * The whole decision of free(p), in order:
 *   hit path      p lies in the first arena, its slab has a class, this thread's magazine has room: push
 *   slow path     p is NULL: nothing
 *                 p lies in no arena: misuse "not a block of this allocator"
 *                 its slab holds a span: p is its first address: span_return; else misuse
 *                 its slab has no class: misuse
 *                 p is not at a block's beginning: misuse "into the middle of a block"
 *                 this thread has a magazine for the class: make room (grow, or flush the older half), push
 *                 it has none: POOL_ONLY and the block is of the word that this thread has open: set its bit there
 *                              else (or no record): return the block to its slab
 */
#include "front/flush.h"

#include "front/front.h"
#include "front/harden.h"
#include "front/profile.h"
#include "front/route.h"
#include "front/sampled.h"
#include "front/straight.h"
#include "meta/arena.h"
#include "os/os.h"
#include "pool/background.h"
#include "pool/gap.h"
#include "pool/shared_pool.h"
#include "pool/span.h"
#include "service/report.h"

#include <errno.h>
#include <string.h>

/* ---- Blocks to slabs --------------------------------------------------------------------------------------------- */

static void report_double_free(const struct slab *slab, unsigned class_id, unsigned word, uint64_t doubly)
{
    size_t block_bytes = class_table[class_id].bytes;
    const struct superslab *ss = arena_superslab_of(slab); /* which may have gone */
    const char *memory = superslab_memory(ss) + (size_t)(slab - superslab_slab(ss, 0)) * SLAB_BYTES;
    for (; doubly != 0; doubly &= doubly - 1) {
        size_t index = word * 64 + (size_t)__builtin_ctzll(doubly);
        report_misuse("free", "block freed twice", memory + index * block_bytes, "class of bytes", block_bytes);
    }
}

bool front_locate(const void *block, const char *call, struct place *place)
{
    struct arena *arena = registry_arena(block);
    if (unlikely(arena == NULL)) {
        report_misuse(call, "not a block of this allocator", block, NULL, 0);
        return false;
    }
    if (unlikely(arena->class_map == NULL)) { /* pool/emergency.c */
        place->class_id = CLASS_SPAN;
        place->slab = NULL;
        place->gaps = false;
        return true;
    }
    size_t slab = arena_slab_index(arena, block);
    /* relaxed: see arena_set_class_map */
    place->class_id = atomic_load_explicit(&arena->class_map[slab], memory_order_relaxed) / CLASS_OFFSET_SCALE;
    if (unlikely(place->class_id == CLASS_FOREIGN)) {
        report_misuse(call, "no block lies here (freed already, or never allocated)", block, NULL, 0);
        return false;
    }
    place->slab = &arena->slabs[slab];
    place->gaps = place->class_id == CLASS_GAPS;
    if (place->class_id == CLASS_SPAN)
        return true;
    if (unlikely(place->gaps))
        place->class_id = CTL_CLASS(slab_ctl_read(place->slab));
    const struct class_info *class = &class_table[place->class_id];
    size_t offset = (uintptr_t)block & (SLAB_BYTES - 1);
    place->index = class_block_index(class, offset);
    if (unlikely((size_t)place->index * class->bytes != offset || place->index >= class->n_blocks ||
                 (place->gaps && slab_follows(place->slab, place->index)))) {
        report_misuse(call, "pointer into the middle of a block", block, "class of bytes", class->bytes);
        return false;
    }
    return true;
}

/* Blocks of a class on their way back. Those of one bit map word wait until the others have been looked at, and so do the counts of slabs
 * of which words were sent: what comes back in no order makes few atomic operations, one for each word and one for each slab.
 * (Words seen and words sent, of the trace of redis: 64 and 15 a flush; bench_workloads skewed: 107 and 27.) */
#define WORDS 32
#define COUNTS 8
struct word {
    struct slab *slab;
    uint64_t mask;
    unsigned number;
};
struct count {
    struct slab *slab;
    unsigned n, last_word; /* blocks */
    uint64_t last_mask;
};
struct batch {
    unsigned class_id;
    uint32_t words, counts; /* bit i: word[i], count[i] is in use */
    struct word word[WORDS];
    struct count count[COUNTS];
};

static size_t slab_number(const struct slab *slab)
{
    return (uintptr_t)slab / sizeof *slab;
}

static void send_count(const struct count *count, unsigned class_id)
{
    if (unlikely(!shared_pool_return_count(count->slab, count->n)))
        report_double_free(count->slab, class_id, count->last_word, count->last_mask);
}

static void send_word(struct batch *batch, const struct word *word)
{
    uint64_t doubly;
    unsigned n = slab_return_bits(word->slab, word->number, word->mask, &doubly);
    if (unlikely(doubly != 0))
        report_double_free(word->slab, batch->class_id, word->number, doubly);
    if (unlikely(n == 0))
        return;
    unsigned i = slab_number(word->slab) % COUNTS;
    struct count *count = &batch->count[i];
    bool used = (batch->counts >> i & 1) != 0;
    if (!used || count->slab != word->slab) {
        if (used)
            send_count(count, batch->class_id);
        batch->counts |= 1u << i;
        count->slab = word->slab;
        count->n = 0;
    }
    count->n += n;
    count->last_word = word->number;
    count->last_mask = word->mask;
}

static void send_all(struct batch *batch)
{
    for (; batch->words != 0; batch->words &= batch->words - 1)
        send_word(batch, &batch->word[__builtin_ctz(batch->words)]);
    for (; batch->counts != 0; batch->counts &= batch->counts - 1)
        send_count(&batch->count[__builtin_ctz(batch->counts)], batch->class_id);
}

/* The word of a block, to which it is added; another one that has its place is sent. */
static struct word *collect(struct batch *batch, const struct place *place)
{
    const struct class_info *class = &class_table[place->class_id];
    unsigned number = place->index / 64;
    unsigned i = (unsigned)(slab_number(place->slab) * class->n_words + number) % WORDS;
    uint64_t bit = (uint64_t)1 << (place->index % 64);
    struct word *word = &batch->word[i];
    bool used = (batch->words >> i & 1) != 0;
    if (!used || word->slab != place->slab || word->number != number) {
        if (used)
            send_word(batch, word);
        batch->words |= 1u << i;
        *word = (struct word){.slab = place->slab, .number = number};
    }
    if (unlikely((word->mask & bit) != 0))
        report_double_free(word->slab, place->class_id, number, bit);
    word->mask |= bit;
    return word;
}

/* Adds those behind *block, whose place this is, as many as lie in its word and are in order. Returns the first that is not. A class's
 * blocks that were claimed together come back together, mostly: then this is all there is to do for each, and nothing of it is in
 * memory. */
static ALWAYS_INLINE void *const *collect_more(struct word *word, const struct place *place, void *const *block,
                                               void *const *end)
{
    const struct class_info class = class_table[place->class_id];
    uint64_t mask = word->mask;
    unsigned at = place->index % 64;
    const char *memory = (const char *)*block - (size_t)at * class.bytes;
    size_t len_bytes = min_size(64, class.n_blocks - (place->index - at)) * class.bytes;
    while (++block < end) {
        size_t offset_bytes = (size_t)((const char *)*block - memory);
        if (offset_bytes >= len_bytes)
            break;
        unsigned index = class_block_index(&class, offset_bytes);
        uint64_t bit = (uint64_t)1 << (index % 64);
        if (unlikely((size_t)index * class.bytes != offset_bytes || (mask & bit) != 0))
            break;
        mask |= bit;
    }
    word->mask = mask;
    return block;
}

/* What locate finds, for the usual case alone: a block in order, of the class that is expected, in the first arena. */
static ALWAYS_INLINE bool locate_expected(const void *block, unsigned class_id, struct place *place)
{
    if (registry_class_offset(block) != class_id * CLASS_OFFSET_SCALE)
        return false;
    const struct class_info *class = &class_table[class_id];
    size_t offset = (uintptr_t)block & (SLAB_BYTES - 1);
    place->slab = &registry_primary.slabs[((uintptr_t)block - registry_primary.base) >> SLAB_SHIFT];
    place->class_id = class_id;
    place->index = class_block_index(class, offset);
    return likely((size_t)place->index * class->bytes == offset && place->index < class->n_blocks);
}

static void return_word(struct slab *slab, unsigned class_id, unsigned word, uint64_t mask)
{
    uint64_t doubly = shared_pool_return_blocks(slab, word, mask);
    if (unlikely(doubly != 0))
        report_double_free(slab, class_id, word, doubly);
}

static void return_one(const struct place *place)
{
    return_word(place->slab, place->class_id, place->index / 64, (uint64_t)1 << (place->index % 64));
}

static bool is_of_class(const struct place *place, unsigned class_id, const void *block)
{
    if (likely(place->class_id == class_id))
        return true;
    report_misuse("free", "block freed twice: its slab holds other blocks by now", block, NULL, 0);
    return false;
}

void flush_blocks(void *const *block, unsigned n, unsigned class_id)
{
    struct batch batch; /* not all of it is set: this is called for single blocks, too */
    struct place place;
    batch.class_id = class_id;
    batch.words = batch.counts = 0;
    void *const *end = block + n;
    while (block < end) {
        if (likely(locate_expected(*block, class_id, &place)) ||
            (front_locate(*block, "free", &place) && is_of_class(&place, class_id, *block)))
            block = collect_more(collect(&batch, &place), &place, block, end);
        else
            block++;
    }
    send_all(&batch);
}

void flush_oldest(struct thread *thread, unsigned class_id, uint32_t n)
{
    struct magazine *magazine = &thread->cache.magazine[class_id];
    void *out[REFILL_MAX];
    uint32_t count = magazine_count(magazine);
    if (n == 0)
        return;
    thread->flushes++;
    if (n == count) { /* Nobody pushes until we are done, so they can lie where they are. */
        magazine->top = magazine->base;
        atomic_signal_fence(memory_order_acq_rel);
        flush_blocks(magazine->base, n, class_id);
        return;
    }
    memcpy(out, magazine->base, n * sizeof(void *));
    /* Out of the magazine before into the slab. The younger half moves down in two steps that never show a block twice
     * to a fork: top goes to the bottom first. */
    magazine->top = magazine->base;
    atomic_signal_fence(memory_order_acq_rel);
    memmove(magazine->base, magazine->base + n, (count - n) * sizeof(void *));
    atomic_signal_fence(memory_order_acq_rel);
    magazine->top = magazine->base + (count - n);
    flush_blocks(out, n, class_id);
}

void flush_block(void *block)
{
    struct place place;
    if (front_locate(block, "free", &place))
        return_one(&place);
}

void flush_open_word(struct open_word *open, unsigned class_id)
{
    uint64_t mask = open->len_bytes == 0 ? 0 : open->free;
    open->len_bytes = 0;
    open->free = 0;
    if (mask != 0)
        return_word(open->slab, class_id, open->word, mask);
}

/* ---- A look at what is cached ------------------------------------------------------------------------------------ */

/* What a look takes in: of each magazine so many of the youngest blocks, and of each of them whether it is there a second time among
 * so many below it. All of them were the square of 512 comparisons. */
#define LOOK_BLOCKS 32
#define LOOK_BELOW 8

static void **lower_end(void **base, void **top, size_t n)
{
    return (size_t)(top - base) > n ? top - n : base;
}

/* A block that is in a magazine twice is there a second time above the first. */
static bool is_below(void **base, void **at)
{
    for (void **other = lower_end(base, at, LOOK_BELOW); other < at; other++)
        if (*other == *at)
            return true;
    return false;
}

/* Reports what is wrong with a block in a magazine. False: nothing. */
static bool is_misuse(const struct magazine *magazine, void **at, unsigned class_id)
{
    const void *block = *at;
    struct place place;
    if (unlikely(!locate_expected(block, class_id, &place)) && !front_locate(block, "free", &place))
        return true;
    if (likely(place.class_id == class_id && !slab_is_free(place.slab, place.index) && !is_below(magazine->base, at)))
        return false;
    report_misuse("free", "block freed twice", block, "class of bytes", class_table[class_id].bytes);
    return true;
}

void flush_look_for_misuse(struct thread *thread)
{
    for (unsigned c = CLASS_FIRST; c < CLASS_END; c++) {
        struct magazine *magazine = &thread->cache.magazine[c];
        for (void **at = lower_end(magazine->base, magazine->top, LOOK_BLOCKS); at < magazine->top;) {
            if (likely(!is_misuse(magazine, at, c))) {
                at++;
                continue;
            }
            void **last = magazine->top - 1; /* only with HAKMEM_ON_ERROR=warn do we come here */
            *at = *last;
            magazine->top = last;
        }
    }
}

/* ---- free's slow path -------------------------------------------------------------------------------------------- */

size_t front_usable_bytes(const void *block, const char *call, bool *span)
{
    struct place place;
    size_t usable_bytes = 0;
    if (!front_locate(block, call, &place))
        return 0;
    *span = place.class_id == CLASS_SPAN;
    if (*span) {
        usable_bytes = span_usable_bytes(block);
        if (unlikely(usable_bytes == 0))
            report_misuse(call, NO_BLOCK_BEGINS_HERE, block, NULL, 0);
    } else if (unlikely(slab_is_free(place.slab, place.index))) {
        report_misuse(call, "block freed already", block, "class of bytes", class_table[place.class_id].bytes);
    } else {
        usable_bytes = class_table[place.class_id].bytes;
        if (unlikely(place.gaps))
            usable_bytes *= slab_gap_blocks(place.slab, place.index);
    }
    return usable_bytes;
}

/* Whether the block is the first of its class that the thread has in its hands, and of another thread's slab: what the thread was given
 * when it began. In its magazine, the block would be the next to be allocated, and the thread would write to a cache line beside the
 * blocks of whoever gave it (bench_workloads cache_scratch). */
static bool was_given(const struct thread *thread, const struct place *place)
{
    return thread->cache.magazine[place->class_id].base == NULL && thread->current[place->class_id] != place->slab;
}

/* Into the thread's magazine, for which room is made. */
static void return_to_magazine(struct thread *thread, const struct place *place, void *block)
{
    struct magazine *magazine = &thread->cache.magazine[place->class_id];
    if (magazine_push(magazine, block))
        return; /* The door was closed, or the block is of another arena. */
    if (magazine->max != 0) {
        bool given = was_given(thread, place);
        magazine->misses++;
        bool grow = magazine->refilled != 0 || magazine_capacity(magazine) < CONSUMER_CAPACITY;
        if (!(grow && magazine_grow(thread, place->class_id)) && magazine_capacity(magazine) != 0) {
            flush_oldest(thread, place->class_id, (magazine_count(magazine) + 1) / 2);
            magazine->refilled -= magazine->refilled != 0;
        }
        if (!given && magazine_push(magazine, block))
            return;
    }
    return_one(place);
}

/* A block of a class without a magazine, whose word this thread has open. False: it is none, or not in order. */
static bool return_to_open_word(void *block, size_t class_id)
{
    struct thread *thread = thread_enter_open();
    if (unlikely(thread == NULL))
        return false;
    bool returned = class_id < CLASS_FIRST + N_TINY_CLASSES &&
                    open_word_push(&thread->open_word[class_id], (unsigned)class_id, block);
    thread_leave_open(thread);
    return returned;
}

/* A block of a class without a magazine: to the thread's open word if it is of that, else to its slab. */
static void return_pool_only(const struct place *place, void *block, const char *call)
{
    struct thread *thread = thread_enter_open();
    struct open_word *open = thread == NULL ? NULL : &thread->open_word[place->class_id];
    if (likely(open == NULL || !open_word_covers(open, block)))
        return_one(place);
    else if (!open_word_push(open, place->class_id, block)) /* It is in order (locate), so it is free already. */
        report_misuse(call, "block freed twice", block, "class of bytes", class_table[place->class_id].bytes);
    if (thread != NULL)
        thread_leave_open(thread);
}

/* A block in a slab with gaps, if it is longer than the slab's own, or free already. False: it is neither. */
static NOINLINE bool return_to_gaps(const struct place *place, const void *block, const char *call)
{
    bool free_already = slab_is_free(place->slab, place->index);
    if (!free_already) {
        if (slab_gap_blocks(place->slab, place->index) == 1)
            return false;
        struct thread *thread = thread_enter(); /* as for all that may take the pool's lock */
        free_already = !gap_return(place->slab, place->index); /* by two threads at once */
        if (thread != NULL)
            thread_leave(thread);
    }
    if (unlikely(free_already))
        report_misuse(call, "block freed twice", block, "class of bytes", class_table[place->class_id].bytes);
    return true;
}

static void return_located(const struct place *place, void *block, const char *call)
{
    if (unlikely(place->gaps) && return_to_gaps(place, block, call))
        return;
    if (place->class_id != CLASS_SPAN && tiny_route_of(class_table[place->class_id].range) == HAK_ROUTE_POOL_ONLY) {
        return_pool_only(place, block, call);
        return;
    }
    struct thread *thread = thread_enter();
    if (thread != NULL)
        span_cache_look(thread);
    if (place->class_id == CLASS_SPAN) {
        if (unlikely(profile_has_records()))
            profile_forget(block);
        if ((thread == NULL || !span_cache_return(thread, block, place->slab)) && !span_return(block))
            report_misuse(call, NO_BLOCK_BEGINS_HERE, block, NULL, 0);
    } else if (thread != NULL) {
        return_to_magazine(thread, place, block);
    } else {
        return_one(place);
    }
    if (thread != NULL)
        thread_leave(thread);
}

void front_return_block(void *block, const char *call)
{
    int saved_errno = errno;
    struct place place;
    if (unlikely(sampled_has(block)))
        sampled_return(block, call);
    else if (front_locate(block, call, &place))
        return_located(&place, block, call);
    errno = saved_errno;
}

static NOINLINE void return_slow(void *block, const char *call)
{
    static const struct release plain = {"free", KIND_MALLOC, RELEASE_ANY_SIZE, 1};
    if (harden_is_on()) {
        harden_return(block, &plain);
        return;
    }
    if (block == NULL)
        return;
    size_t class_id = registry_class_offset(block) / CLASS_OFFSET_SCALE;
    if (class_id == CLASS_SPAN ? !span_cache_keep(block) : !return_to_open_word(block, class_id))
        front_return_block(block, call);
}

static void return_any(void *block, const char *call)
{
    STRAIGHT(free, return_slow(block, call), block);
}

static NOINLINE void return_for_linker(void *block, const char *call)
{
    background_hold(true); /* libc may be freeing what threads' stacks had, and hold the lock that the next thread's start takes */
    return_any(block, call);
    background_hold(false);
}

void front_return_slow(void *block, const char *call, const void *caller)
{
    if (likely(!os_is_linker(caller)))
        return_any(block, call);
    else
        return_for_linker(block, call);
}

/* Whether a block with these usable bytes, of a span, may have been asked for with that size. One that the heap profile has noted
 * has the bytes of its class, whatever its alignment. */
static bool may_be_size(size_t size_bytes, size_t usable_bytes)
{
    return round_up(max_size(size_bytes, 1), os_page_bytes()) == usable_bytes ||
           (profile_has_records() && size_bytes <= usable_bytes && usable_bytes <= CLASS_MAX_BYTES);
}

/* What the caller says of a large block: these come here anyway. */
static void check_release(const void *block, const struct release *release)
{
    if (registry_class_offset(block) != CLASS_SPAN * CLASS_OFFSET_SCALE)
        return;
    size_t usable_bytes = span_usable_bytes(block); /* 0: no block; that is found next */
    if (unlikely(usable_bytes != 0 && release->size_bytes != RELEASE_ANY_SIZE &&
                 !may_be_size(release->size_bytes, usable_bytes)))
        report_misuse(release->call, "the size is not the block's", block, "usable bytes", usable_bytes);
}

void front_return_as(void *block, const struct release *release)
{
    if (harden_is_on()) {
        STRAIGHT(delete, harden_return(block, release), block, release);
    } else {
        check_release(block, release);
        return_any(block, release->call);
    }
}
