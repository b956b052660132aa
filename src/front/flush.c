/* flush.c - blocks from magazines back to their slabs.
 * Owns     nothing.     Called by  free.c, refill.c, magazine.c, thread.c, harden.c     Calls  locate.h, shared_pool.h, report.h
 * Threads  blocks that the caller holds; a magazine, on the thread's own record.
 */
#include "front/flush.h"

#include "front/locate.h"
#include "meta/arena.h"
#include "pool/shared_pool.h"
#include "service/report.h"

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
        unsigned index;
        bool begins = class_block_at(&class, offset_bytes, &index);
        uint64_t bit = (uint64_t)1 << (index % 64);
        if (unlikely(!begins || (mask & bit) != 0))
            break;
        mask |= bit;
    }
    word->mask = mask;
    return block;
}

static void return_word(struct slab *slab, unsigned class_id, unsigned word, uint64_t mask)
{
    uint64_t doubly = shared_pool_return_blocks(slab, word, mask);
    if (unlikely(doubly != 0))
        report_double_free(slab, class_id, word, doubly);
}

void flush_located(const struct place *place)
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
            (locate_block(*block, "free", &place) && is_of_class(&place, class_id, *block)))
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
    if (locate_block(block, "free", &place))
        flush_located(&place);
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
    if (unlikely(!locate_expected(block, class_id, &place)) && !locate_block(block, "free", &place))
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
