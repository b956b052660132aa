/* test_slab.c - one slab at a time: what is claimed is distinct and ascending, what is returned is counted once, and the slab's
 * state changes at the right moment and is reported to exactly one caller.
 * Checked: slab_check after every step; a plain array of booleans as the model of the bit map.
 * Slabs come from the shared pool, as in life, and go back to it. Single return steps are made by hand; a
 * slab that became PARTIAL that way is owned again by slab_own, one that became RETIRING is released by hand.
 * Threads  one.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "front/thread.h"
#include "hakmem/hakmem.h"
#include "pool/shared_pool.h"
#include "superslab/slab.h"
#include "superslab/slab_gaps.h"
#include "look.h"

#include <stdio.h>
#include <string.h>

#define MAX_BLOCKS 8192
#define N_RANDOM_STEPS 3000

static void *claimed[MAX_BLOCKS + 1];
static bool out[MAX_BLOCKS]; /* the model: which blocks are out */

static uint32_t random_state = 2463534242u;
static uint32_t next_random(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 17;
    return random_state ^= random_state << 5;
}

static int start(void **state)
{
    (void)state;
    thread_start_process();
    return 0;
}

static struct slab *acquire(unsigned class_id)
{
    struct slab *slab = shared_pool_acquire_slab(class_id);
    assert_non_null(slab);
    slab_ctl ctl = slab_ctl_read(slab);
    assert_int_equal(CTL_STATE(ctl), SLAB_OWNED);
    assert_int_equal(CTL_CLASS(ctl), class_id);
    assert_int_equal(CTL_USED(ctl), 0); /* nothing else of the class is alive in these tests */
    assert_true(slab_check(slab));
    memset(out, 0, sizeof out);
    return slab;
}

static const struct class_info *class_of_slab(const struct slab *slab)
{
    return &class_table[CTL_CLASS(slab_ctl_read(slab))];
}

static enum slab_state state_of(const struct slab *slab)
{
    return CTL_STATE(slab_ctl_read(slab));
}

static unsigned used_of(const struct slab *slab)
{
    return CTL_USED(slab_ctl_read(slab));
}

static unsigned block_index(const struct slab *slab, const void *block)
{
    size_t offset = (size_t)((const char *)block - slab->memory);
    assert_true(offset < SLAB_BYTES);
    assert_int_equal(offset % class_of_slab(slab)->bytes, 0);
    return (unsigned)(offset / class_of_slab(slab)->bytes);
}

/* Claims, and holds the result against the contract and the model. */
static unsigned claim(struct slab *slab, unsigned n, unsigned end)
{
    unsigned before = used_of(slab), n_free_below = 0;
    for (unsigned b = 0; b < class_of_slab(slab)->n_blocks && b < end; b++)
        n_free_below += !out[b];
    memset(claimed, 0, (n + 1) * sizeof claimed[0]);
    unsigned n_claimed = slab_claim(slab, n, end, claimed);
    assert_int_equal(n_claimed, n < n_free_below ? n : n_free_below);
    assert_null(claimed[n_claimed]); /* it writes no more than it says */
    for (unsigned i = 0; i < n_claimed; i++) {
        unsigned b = block_index(slab, claimed[i]);
        assert_true(b < end && b < class_of_slab(slab)->n_blocks);
        assert_false(out[b]);
        out[b] = true;
    }
    assert_int_equal(used_of(slab), before + n_claimed);
    assert_true(slab_check(slab));
    return n_claimed;
}

/* From the array's end, addresses ascend. (Once around the slab at most: the search begins at the cursor.) */
static void assert_ascending(unsigned n_claimed)
{
    for (unsigned i = 0; i + 1 < n_claimed; i++)
        assert_true((char *)claimed[i] > (char *)claimed[i + 1]);
}

/* Returns blocks of one word that the model knows to be out. */
static enum slab_return give(struct slab *slab, unsigned word, uint64_t mask)
{
    uint64_t doubly = UINT64_MAX;
    enum slab_return result = return_blocks(slab, word, mask, &doubly);
    assert_int_equal(doubly, 0);
    for (unsigned i = 0; i < 64; i++)
        if (mask >> i & 1) {
            assert_true(out[word * 64 + i]);
            out[word * 64 + i] = false;
        }
    assert_true(slab_check(slab));
    return result;
}

static enum slab_return give_one(struct slab *slab, unsigned index)
{
    return give(slab, index / 64, (uint64_t)1 << (index % 64));
}

static void give_all(struct slab *slab)
{
    for (unsigned b = 0; b < class_of_slab(slab)->n_blocks; b++)
        if (out[b])
            assert_int_equal(give_one(slab, b), SLAB_RETURN_NOTHING); /* owned: nothing follows */
    assert_int_equal(used_of(slab), 0);
}

/* An owned, empty slab goes back to the pool. */
static void finish(struct slab *slab)
{
    assert_int_equal(used_of(slab), 0);
    shared_pool_disown_slab(slab);
    assert_null(pool_check());
}

static void release_by_hand(struct slab *slab)
{
    unsigned slot = superslab_slot_of(slab->superslab, slab);
    assert_int_equal(shared_pool_release_slab(slab->superslab, slot), RELEASE_DONE);
    assert_null(pool_check());
}

/* ---- Claims ---- */

static void claims_ascend_and_cover_the_slab(void **state)
{
    (void)state;
    for (unsigned id = CLASS_FIRST; id < CLASS_END; id++) {
        struct slab *slab = acquire(id);
        unsigned n_blocks = class_table[id].n_blocks, sum = 0;
        const char *last = NULL;
        for (unsigned n = 1; sum < n_blocks; n = n * 2 + 1) {
            unsigned n_claimed = claim(slab, n < n_blocks ? n : n_blocks, UINT16_MAX);
            assert_true(n_claimed > 0);
            assert_ascending(n_claimed);
            if (n == 1) /* somewhere in the first page, and what lies before it comes next */
                assert_true((size_t)((char *)claimed[0] - slab->memory) < slab_page_bytes());
            else if (n > 3)
                assert_true((char *)claimed[n_claimed - 1] > last); /* batches ascend too */
            last = claimed[0];
            sum += n_claimed;
        }
        assert_int_equal(sum, n_blocks);
        assert_int_equal(claim(slab, 1, UINT16_MAX), 0);
        assert_int_equal(slab_count_free(slab), 0);
        assert_int_equal(slab_lowest_free(slab), n_blocks);
        give_all(slab);
        assert_int_equal(claim(slab, n_blocks, UINT16_MAX), n_blocks); /* and all at once */
        assert_ascending(n_blocks);
        give_all(slab);
        finish(slab);
    }
}

static void claims_respect_the_end(void **state)
{
    (void)state;
    for (unsigned id = CLASS_FIRST; id < CLASS_END; id += 3) {
        struct slab *slab = acquire(id);
        unsigned n_blocks = class_table[id].n_blocks;
        assert_int_equal(claim(slab, 1, 0), 0);
        for (unsigned end = 1; end <= n_blocks; end += 1 + end / 2) /* model and contract are compared in claim() */
            claim(slab, 5, end);
        claim(slab, n_blocks, n_blocks / 2);
        for (unsigned b = 0; b < n_blocks / 2; b++)
            assert_true(out[b]);
        assert_int_equal(claim(slab, 1, n_blocks / 2), 0);
        give_all(slab);
        finish(slab);
    }
}

/* A claim that starts at the cursor and wraps around finds the blocks below it. */
static void claims_find_every_free_block(void **state)
{
    (void)state;
    unsigned id = class_of(16), n_blocks = class_table[id].n_blocks;
    struct slab *slab = acquire(id);
    assert_int_equal(claim(slab, n_blocks, UINT16_MAX), n_blocks);
    for (unsigned b = 0; b < n_blocks; b += 64) { /* one free block at a time, anywhere */
        unsigned index = (b * 37 + b / 64) % n_blocks;
        give_one(slab, index);
        assert_int_equal(slab_lowest_free(slab), index);
        assert_int_equal(claim(slab, 3, UINT16_MAX), 1);
        assert_int_equal(block_index(slab, claimed[0]), index);
    }
    give_all(slab);
    finish(slab);
}

/* A word's free blocks below the end come out at once; the model is kept by hand. */
static void a_word_is_claimed_at_once(void **state)
{
    (void)state;
    unsigned sizes[] = {8, 48, 112, 1024};
    for (size_t k = 0; k < sizeof sizes / sizeof sizes[0]; k++) {
        unsigned id = class_of(sizes[k]), n_blocks = class_table[id].n_blocks, word = 99;
        struct slab *slab = acquire(id);
        assert_int_equal(slab_claim_word(slab, 0, &word), 0);
        assert_int_equal(used_of(slab), 0);
        assert_int_equal(slab_claim_word(slab, 5, &word), 0x1f);
        assert_int_equal(word, 0);
        assert_int_equal(used_of(slab), 5);
        assert_int_equal(atomic_load(&slab->dirty_pages) & 1, 1);
        assert_int_equal(slab_claim_word(slab, 5, &word), 0);
        unsigned n_out = 5;
        for (uint64_t bits; (bits = slab_claim_word(slab, UINT16_MAX, &word)) != 0;) {
            n_out += count_bits(bits);
            assert_int_equal(used_of(slab), n_out);
            for (unsigned i = 0; i < 64; i++)
                if (bits >> i & 1) {
                    assert_true(word * 64 + i < n_blocks && (word != 0 || i >= 5));
                    assert_false(out[word * 64 + i]);
                    out[word * 64 + i] = true;
                }
            assert_true(slab_check(slab));
        }
        assert_int_equal(n_out, n_blocks);
        for (unsigned i = 0; i < 5; i++)
            out[i] = true;
        unsigned lone = n_blocks / 2; /* found behind and before the cursor */
        give_one(slab, lone);
        give_one(slab, 1);
        assert_int_equal(slab_claim_word(slab, UINT16_MAX, &word), lone / 64 == 0 ? 2 | (uint64_t)1 << lone : 2);
        if (lone / 64 != 0) {
            assert_int_equal(slab_claim_word(slab, UINT16_MAX, &word), (uint64_t)1 << (lone % 64));
            assert_int_equal(word, lone / 64);
        }
        out[1] = out[lone] = true;
        give_all(slab);
        finish(slab);
    }
}

/* ---- What the pages are ---- */

/* Whether all pages of a block were handed out, byte by byte at its page borders. */
static bool is_handed_out(struct slab *slab, unsigned block)
{
    size_t from = (size_t)block * class_of_slab(slab)->bytes, to = from + class_of_slab(slab)->bytes;
    for (size_t at = from; at < to; at = (at / slab_page_bytes() + 1) * slab_page_bytes())
        if ((atomic_load(&slab->dirty_pages) >> (at / slab_page_bytes()) & 1) == 0)
            return false;
    return true;
}

static unsigned count_recycled(struct slab *slab)
{
    unsigned n = 0;
    for (unsigned b = 0; b < class_of_slab(slab)->n_blocks; b++)
        n += !out[b] && is_handed_out(slab, b);
    return n;
}

static unsigned lowest_of_model(struct slab *slab)
{
    unsigned b = 0;
    while (b < class_of_slab(slab)->n_blocks && out[b])
        b++;
    return b;
}

/* Recycled blocks are those on pages that were handed out, whether these are the first pages of a slab or any; claims of them
 * commit nothing, and find all of them. */
static void recycled_blocks_commit_nothing(void **state)
{
    (void)state;
    hak_trim(HAK_TRIM_PAGES); /* so that the slot is UNUSED */
    uint64_t random_state = 5;
    for (unsigned id = CLASS_FIRST; id < CLASS_END; id++) {
        struct slab *slab = acquire(id);
        unsigned n_blocks = class_of_slab(slab)->n_blocks;
        assert_int_equal(atomic_load(&slab->dirty_pages), 0);
        assert_false(slab_has_recycled(slab));
        assert_int_equal(slab_claim(slab, 1, SLAB_RECYCLED, claimed), 0);
        for (unsigned round = 0; round < 40; round++) {
            random_state = random_state * 6364136223846793005u + 1442695040888963407u;
            unsigned k = (unsigned)(random_state >> 40);
            if (k % 4 == 0) { /* pages go, wherever no block is */
                slab_purge_free_pages(slab);
            } else if (k % 4 == 1) { /* fresh ones, not beyond a half of the slab, so that there are holes */
                unsigned upto = (unsigned)(random_state >> 33) % (n_blocks / 2 + 1);
                if (slab_lowest_free(slab) == lowest_of_model(slab) && lowest_of_model(slab) < upto)
                    claim(slab, 1 + k / 4 % 50, upto);
            } else if (k % 4 == 2) { /* most of them back */
                for (unsigned b = 0; b < n_blocks; b++)
                    if (out[b] && (random_state >> (b % 40) & 7) != 0)
                        give_one(slab, b);
            } else { /* one far away, which the last words' search must find */
                unsigned n_free = n_blocks - used_of(slab);
                if (n_free > 1)
                    claim(slab, n_free / 2, UINT16_MAX);
            }
            unsigned n_recycled = count_recycled(slab), dirty = atomic_load(&slab->dirty_pages), n = 0;
            atomic_store(&slab->cursor, 0); /* from there the search sees all */
            assert_int_equal(slab_has_recycled(slab), n_recycled != 0);
            for (unsigned n_claimed; (n_claimed = slab_claim(slab, 7, SLAB_RECYCLED, claimed)) != 0; n += n_claimed)
                for (unsigned i = 0; i < n_claimed; i++) {
                    unsigned b = block_index(slab, claimed[i]);
                    assert_false(out[b]);
                    assert_true(is_handed_out(slab, b));
                    out[b] = true;
                }
            assert_int_equal(n, n_recycled);
            assert_int_equal(atomic_load(&slab->dirty_pages), dirty);
            assert_true(slab_check(slab));
        }
        give_all(slab);
        finish(slab);
        hak_trim(HAK_TRIM_PAGES);
    }
}

/* The same for a word at a time. */
static void recycled_words_commit_nothing(void **state)
{
    (void)state;
    hak_trim(HAK_TRIM_PAGES);
    unsigned id = class_of(48), n_blocks = class_table[id].n_blocks, word;
    struct slab *slab = acquire(id);
    assert_int_equal(slab_claim_word(slab, SLAB_RECYCLED, &word), 0);
    assert_int_equal(claim(slab, n_blocks, UINT16_MAX), n_blocks);
    for (unsigned b = 0; b < n_blocks; b++)
        if (b % 300 > 20)
            give_one(slab, b);
    slab_purge_free_pages(slab);
    unsigned n_recycled = count_recycled(slab), dirty = atomic_load(&slab->dirty_pages), n = 0;
    if (slab_page_bytes() == 4096)
        assert_true(n_recycled > 0 && n_recycled < n_blocks - used_of(slab));
    for (uint64_t bits; (bits = slab_claim_word(slab, SLAB_RECYCLED, &word)) != 0; n += count_bits(bits))
        for (unsigned i = 0; i < 64; i++)
            if (bits >> i & 1) {
                assert_false(out[word * 64 + i]);
                assert_true(is_handed_out(slab, word * 64 + i));
                out[word * 64 + i] = true;
            }
    assert_int_equal(n, n_recycled);
    assert_int_equal(atomic_load(&slab->dirty_pages), dirty);
    give_all(slab);
    finish(slab);
}

/* Pages without a block go back and read as zero; those with one keep it. */
static void purge_spares_blocks_in_use(void **state)
{
    (void)state;
    unsigned id = class_of(256);
    struct slab *slab = acquire(id);
    unsigned n_blocks = class_table[id].n_blocks;
    size_t page_bytes = slab_page_bytes(), n_pages = SLAB_BYTES / page_bytes;
    claim(slab, n_blocks, UINT16_MAX);
    memset(slab->memory, 0x5a, SLAB_BYTES);
    for (unsigned b = 0; b < n_blocks; b++)
        if (b != 3 && b != n_blocks / 2)
            give_one(slab, b);
    size_t kept_pages = n_pages == 1 ? 1 : 2;
    assert_int_equal(slab_purge_free_pages(slab), (n_pages - kept_pages) * page_bytes);
    assert_int_equal(count_bits(atomic_load(&slab->dirty_pages)), kept_pages);
    assert_true(slab_check(slab));
    assert_int_equal(slab->memory[3 * 256], 0x5a);
    assert_int_equal(slab->memory[n_blocks / 2 * 256 + 255], 0x5a);
    assert_int_equal(slab->memory[SLAB_BYTES - 1], n_pages > 2 ? 0 : 0x5a);
    assert_int_equal(slab_purge_free_pages(slab), 0); /* nothing is left to give */
    give_all(slab);
    finish(slab);
}

/* ---- Returns ---- */

static void owned_slab_only_counts(void **state)
{
    (void)state;
    unsigned id = class_of(512), n_blocks = class_table[id].n_blocks;
    struct slab *slab = acquire(id);
    assert_int_equal(claim(slab, n_blocks, UINT16_MAX), n_blocks);
    assert_int_equal(give(slab, 0, 0xff), SLAB_RETURN_NOTHING);
    assert_int_equal(used_of(slab), n_blocks - 8);
    give_all(slab); /* also past a quarter, an eighth, and the last: NOTHING, the owner will see */
    assert_int_equal(state_of(slab), SLAB_OWNED);
    finish(slab);
}

/* A FULL slab stays so until it has more than a 32nd free, which makes it LISTABLE; SPARSER comes when its use crosses a half, a quarter and an eighth, once each;
 * the last block makes it RETIRING. */
static void nobodys_slab_tells_each_change_once(void **state)
{
    (void)state;
    for (unsigned id = CLASS_FIRST; id < CLASS_END; id++) {
        unsigned n_blocks = class_table[id].n_blocks;
        struct slab *slab = acquire(id);
        claim(slab, n_blocks, UINT16_MAX);
        assert_int_equal(slab_disown(slab), SLAB_RETURN_NOTHING);
        assert_int_equal(state_of(slab), SLAB_FULL);
        for (unsigned left = n_blocks; left-- > 0;) {
            enum slab_return expected = SLAB_RETURN_NOTHING;
            if (left == 0)
                expected = SLAB_RETURN_RETIRING;
            else if (left == n_blocks - n_blocks / 32 - 1)
                expected = SLAB_RETURN_LISTABLE;
            else if (left == n_blocks / 2 || left == n_blocks / 4 || left == n_blocks / 8)
                expected = SLAB_RETURN_SPARSER;
            unsigned index = (left * 7919u) % n_blocks; /* any order; 7919 is a prime that divides no block count */
            enum slab_return result = give_one(slab, index);
            if (result != expected)
                fail_msg("class of %u, %u of %u left: %d instead of %d", class_table[id].bytes, left, n_blocks, result,
                         expected);
            assert_int_equal(state_of(slab), left == 0                         ? SLAB_RETIRING
                                             : n_blocks - left > n_blocks / 32 ? SLAB_PARTIAL
                                                                               : SLAB_FULL);
            assert_int_equal(used_of(slab), left);
        }
        release_by_hand(slab);
    }
}

/* One return that crosses several lines at once reports the last of them. */
static void a_large_return_tells_the_most_important_change(void **state)
{
    (void)state;
    unsigned id = class_of(1024);
    assert_int_equal(class_table[id].n_blocks, 64);
    struct slab *slab = acquire(id);
    claim(slab, 64, UINT16_MAX);
    slab_disown(slab);
    assert_int_equal(give(slab, 0, UINT64_MAX), SLAB_RETURN_RETIRING); /* FULL to empty in one step */
    assert_int_equal(state_of(slab), SLAB_RETIRING);
    slab_unretire(slab);
    assert_int_equal(state_of(slab), SLAB_PARTIAL);
    assert_true(slab_own(slab, id));

    claim(slab, 64, UINT16_MAX);
    give(slab, 0, (uint64_t)3 << 62);
    assert_int_equal(slab_disown(slab), SLAB_RETURN_NOTHING); /* two of 64 free: counts as full */
    assert_int_equal(give_one(slab, 61), SLAB_RETURN_LISTABLE);
    assert_int_equal(give(slab, 0, UINT64_MAX >> 3 & ~(uint64_t)0xf),
                     SLAB_RETURN_SPARSER); /* 61 to 4, past both lines */
    assert_int_equal(give(slab, 0, 7), SLAB_RETURN_NOTHING);
    assert_int_equal(give_one(slab, 3), SLAB_RETURN_RETIRING);
    release_by_hand(slab);
}

static void a_double_return_is_told_and_not_counted(void **state)
{
    (void)state;
    unsigned id = class_of(128), n_blocks = class_table[id].n_blocks;
    struct slab *slab = acquire(id);
    uint64_t doubly = 0;
    assert_int_equal(claim(slab, 20, 20), 20);
    assert_int_equal(give(slab, 0, 0xf0), SLAB_RETURN_NOTHING);
    assert_int_equal(return_blocks(slab, 0, 0x30, &doubly), SLAB_RETURN_NOTHING);
    assert_int_equal(doubly, 0x30);
    assert_int_equal(used_of(slab), 16);
    assert_true(slab_check(slab));
    assert_int_equal(return_blocks(slab, 0, 0x3f, &doubly), SLAB_RETURN_NOTHING); /* four good ones, two not */
    assert_int_equal(doubly, 0x30);
    assert_int_equal(used_of(slab), 12);
    assert_true(slab_check(slab));
    out[0] = out[1] = out[2] = out[3] = false;
    assert_int_equal(return_blocks(slab, 3, 1, &doubly), SLAB_RETURN_NOTHING); /* never handed out */
    assert_int_equal(doubly, 1);
    give_all(slab);
    /* Nobody's: a double return lists or retires nothing. */
    assert_int_equal(claim(slab, n_blocks, UINT16_MAX), n_blocks);
    slab_disown(slab);
    unsigned few = n_blocks / 32;
    assert_int_equal(few, 16);
    assert_int_equal(give(slab, 1, 0xffff), SLAB_RETURN_NOTHING);
    assert_int_equal(return_blocks(slab, 1, 1, &doubly), SLAB_RETURN_NOTHING);
    assert_int_equal(doubly, 1);
    assert_int_equal(give_one(slab, 9), SLAB_RETURN_LISTABLE);
    assert_int_equal(return_blocks(slab, 0, 1 << 9, &doubly), SLAB_RETURN_NOTHING);
    assert_int_equal(doubly, 1 << 9);
    assert_int_equal(used_of(slab), n_blocks - few - 1);
    assert_true(slab_own(slab, id));
    give_all(slab);
    finish(slab);
}

/* Bits first, of several words, and one count for all of them. Until then the slab stays what it is, and who owns it may claim them. */
static void one_count_serves_several_words(void **state)
{
    (void)state;
    unsigned id = class_of(128), n_blocks = class_table[id].n_blocks;
    struct slab *slab = acquire(id);
    uint64_t doubly = 1;
    assert_int_equal(n_blocks, 512);
    assert_int_equal(claim(slab, n_blocks, UINT16_MAX), n_blocks);
    assert_int_equal(slab_disown(slab), SLAB_RETURN_NOTHING);
    for (unsigned word = 0; word < 4; word++) {
        assert_int_equal(slab_return_bits(slab, word, UINT64_MAX, &doubly), 64);
        assert_int_equal(doubly, 0);
        assert_int_equal(state_of(slab), SLAB_FULL);
        assert_int_equal(used_of(slab), 512);
    }
    assert_false(slab_own(slab, id));
    assert_int_equal(slab_return_count(slab, 256), SLAB_RETURN_LISTABLE);
    assert_int_equal(used_of(slab), 256);
    assert_true(slab_check(slab));
    assert_int_equal(slab_return_bits(slab, 4, UINT64_MAX, &doubly), 64);
    assert_int_equal(slab_return_bits(slab, 5, 3, &doubly), 2);
    assert_int_equal(slab_return_bits(slab, 5, 7, &doubly), 1);
    assert_int_equal(doubly, 3);
    assert_true(slab_own(slab, id));
    assert_int_equal(slab_claim(slab, n_blocks, UINT16_MAX, claimed), 256 + 67);
    assert_int_equal(used_of(slab), 512 + 67); /* see slab_ctl */
    assert_int_equal(slab_return_count(slab, 67), SLAB_RETURN_NOTHING);
    assert_int_equal(used_of(slab), 512);
    assert_true(slab_check(slab));
    assert_int_equal(slab_disown(slab), SLAB_RETURN_NOTHING);
    for (unsigned word = 0; word < 8; word++)
        assert_int_equal(slab_return_bits(slab, word, UINT64_MAX, &doubly), 64);
    assert_int_equal(slab_return_count(slab, 513), SLAB_RETURN_TOO_MANY);
    assert_int_equal(used_of(slab), 512);
    assert_int_equal(slab_return_count(slab, 512), SLAB_RETURN_RETIRING);
    release_by_hand(slab);
}

/* ---- Owning ---- */

static void disown_tells_what_the_slab_has(void **state)
{
    (void)state;
    unsigned id = class_of(2048), n_blocks = class_table[id].n_blocks;
    struct slab *slab = acquire(id);
    assert_int_equal(slab_disown(slab), SLAB_RETURN_RETIRING);
    assert_int_equal(state_of(slab), SLAB_RETIRING);
    assert_false(slab_own(slab, id));
    slab_unretire(slab);
    assert_int_equal(state_of(slab), SLAB_PARTIAL);
    assert_false(slab_own(slab, id + 1)); /* another class's */
    assert_true(slab_own(slab, id));
    assert_int_equal(state_of(slab), SLAB_OWNED);
    assert_false(slab_own(slab, id)); /* one owner at a time */

    claim(slab, 1, 1);
    assert_int_equal(slab_disown(slab), SLAB_RETURN_LISTABLE);
    assert_int_equal(state_of(slab), SLAB_PARTIAL);
    assert_true(slab_own(slab, id));
    claim(slab, n_blocks - 3, UINT16_MAX);
    assert_int_equal(slab_disown(slab), SLAB_RETURN_LISTABLE); /* two of 32 free */
    assert_true(slab_own(slab, id));
    claim(slab, 1, UINT16_MAX);
    assert_int_equal(slab_disown(slab), SLAB_RETURN_NOTHING); /* one of 32 free: counts as full */
    assert_int_equal(state_of(slab), SLAB_FULL);
    assert_false(slab_own(slab, id));
    assert_int_equal(give_one(slab, 5), SLAB_RETURN_LISTABLE);
    assert_true(slab_own(slab, id));
    give_all(slab);
    finish(slab);
    assert_false(slab_own(slab, id)); /* EMPTY or UNUSED now */
}

static void a_guess_about_recycled_blocks(void **state)
{
    (void)state;
    hak_trim(HAK_TRIM_PAGES);
    unsigned id = class_of(64);
    struct slab *slab = acquire(id);
    unsigned per_page = (unsigned)(slab_page_bytes() / 64);
    assert_int_equal(claim(slab, per_page, UINT16_MAX), per_page);
    assert_false(slab_maybe_recycled(slab, id)); /* owned */
    slab_disown(slab);
    if (per_page < class_table[id].n_blocks)
        assert_false(slab_maybe_recycled(slab, id)); /* its only page is all in use */
    give_one(slab, 7);
    for (unsigned b = 8; slab_counts_as_full(id, used_of(slab)); b++)
        give_one(slab, b); /* where a page is the whole slab */
    assert_true(slab_maybe_recycled(slab, id));
    assert_false(slab_maybe_recycled(slab, id + 1));
    assert_true(slab_own(slab, id));
    give_all(slab);
    finish(slab);
}

/* ---- Any order ---- */

static void random_steps_keep_the_counts(void **state)
{
    (void)state;
    unsigned sizes[] = {8, 16, 112, 128, 144, 1024, 1536, 6528, 28672, 32768};
    for (size_t k = 0; k < sizeof sizes / sizeof sizes[0]; k++) {
        unsigned id = class_of(sizes[k]), n_blocks = class_table[id].n_blocks, n_out = 0;
        unsigned n_full = n_blocks - n_blocks / 32; /* from here on it counts as full */
        struct slab *slab = acquire(id);
        bool owned = true;
        for (unsigned step = 0; step < N_RANDOM_STEPS; step++) {
            uint32_t r = next_random();
            if (owned && r % 4 == 0) {
                unsigned end = r >> 8 & 1 ? UINT16_MAX : 1 + (r >> 9) % n_blocks;
                n_out += claim(slab, 1 + (r >> 4) % 40, end);
            } else if (owned && r % 16 == 1) {
                enum slab_return expected = n_out == 0        ? SLAB_RETURN_RETIRING
                                            : n_out >= n_full ? SLAB_RETURN_NOTHING
                                                              : SLAB_RETURN_LISTABLE;
                assert_int_equal(slab_disown(slab), expected);
                if (n_out == 0)
                    slab_unretire(slab);
                owned = false;
            } else if (!owned && r % 4 == 2) {
                owned = slab_own(slab, id);
                assert_int_equal(owned, n_out < n_full);
            } else {
                unsigned word = (r >> 8) % slab->n_words;
                uint64_t mask = 0;
                for (unsigned i = 0; i < 64; i++)
                    if (out[word * 64 + i] && next_random() % 2 == 0)
                        mask |= (uint64_t)1 << i;
                if (mask == 0)
                    continue;
                bool was_full = n_out >= n_full;
                n_out -= count_bits(mask);
                enum slab_return result = give(slab, word, mask);
                assert_int_equal(result == SLAB_RETURN_RETIRING, !owned && n_out == 0);
                assert_int_equal(result == SLAB_RETURN_LISTABLE, !owned && was_full && n_out < n_full && n_out != 0);
                if (result == SLAB_RETURN_RETIRING)
                    slab_unretire(slab);
            }
            assert_int_equal(used_of(slab), n_out);
            assert_int_equal(slab_count_free(slab), n_blocks - n_out);
        }
        if (!owned && !slab_own(slab, id)) {
            for (unsigned b = 0, n_more = n_out - n_full + 1; n_more > 0; b++)
                if (out[b]) {
                    n_more--;
                    if (give_one(slab, b) == SLAB_RETURN_RETIRING)
                        slab_unretire(slab);
                }
            assert_true(slab_own(slab, id));
        }
        give_all(slab);
        finish(slab);
    }
}

/* Where a fork cut a thread off. A return of which only the bits are back is counted later: by who goes on. */
static void a_recount_tells_what_is_out(void **state)
{
    (void)state;
    struct slab *slab = acquire(class_of(64));
    uint64_t doubly;
    assert_int_equal(claim(slab, 10, UINT16_MAX), 10);
    unsigned first = block_index(slab, claimed[9]);
    assert_int_equal(slab_return_bits(slab, first / 64, (uint64_t)1 << first % 64, &doubly), 1);
    slab_recount(slab, true);
    assert_int_equal(used_of(slab), 10);
    assert_int_equal(slab_return_count(slab, 1), SLAB_RETURN_NOTHING);
    out[first] = false;
    atomic_fetch_sub(&slab->ctl, 2);
    slab_recount(slab, true);
    assert_int_equal(used_of(slab), 9);
    atomic_fetch_add(&slab->ctl, 2);
    slab_recount(slab, false);
    assert_int_equal(used_of(slab), 9);
    give_all(slab);
    finish(slab);
}

/* Whatever the slot was before. */
static void an_opened_slab_has_no_gaps(void **state)
{
    (void)state;
    struct slab *slab = acquire(class_of(64));
    slab_open_gaps(slab);
    assert_true(slab_has_gaps(slab));
    slab_open(slab, slab->superslab, (unsigned)(slab - superslab_slab(slab->superslab, 0)), class_of(64));
    assert_false(slab_has_gaps(slab));
    assert_true(slab_check(slab));
    finish(slab);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(claims_ascend_and_cover_the_slab),
        cmocka_unit_test(claims_respect_the_end),
        cmocka_unit_test(claims_find_every_free_block),
        cmocka_unit_test(a_word_is_claimed_at_once),
        cmocka_unit_test(recycled_blocks_commit_nothing),
        cmocka_unit_test(recycled_words_commit_nothing),
        cmocka_unit_test(purge_spares_blocks_in_use),
        cmocka_unit_test(owned_slab_only_counts),
        cmocka_unit_test(nobodys_slab_tells_each_change_once),
        cmocka_unit_test(a_large_return_tells_the_most_important_change),
        cmocka_unit_test(a_double_return_is_told_and_not_counted),
        cmocka_unit_test(one_count_serves_several_words),
        cmocka_unit_test(disown_tells_what_the_slab_has),
        cmocka_unit_test(a_guess_about_recycled_blocks),
        cmocka_unit_test(random_steps_keep_the_counts),
        cmocka_unit_test(a_recount_tells_what_is_out),
        cmocka_unit_test(an_opened_slab_has_no_gaps),
    };
    return cmocka_run_group_tests(tests, start, NULL);
}
