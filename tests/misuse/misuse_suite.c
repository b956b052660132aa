/* misuse_suite.c - programs that misuse the heap, as cases of one program: how many of them does an allocator stop?
 *
 * Owns     the table of kinds in C.     Called by  tests/scripts/misuse_table.sh, by hand with any malloc preloaded
 * Threads  one.     Output and cases  misuse.h
 *
 * Unlike preload/misuse.c, which proves that what hakmem promises holds, this counts also what nobody promises.
 *
 * Luck is kept out. A block that is written past has live neighbours of its size on both sides, as far as the write
 * reaches, so that a fault is the allocator's doing rather than the end of a heap that holds only one block. Of several
 * such blocks the first is taken whose misuse does not fault, if there is one: an attacker may try again. Answers that
 * may be random are asked for often, and a guess that is right half of the time counts as one.
 *
 * Blocks of 8 bytes are smaller than the smallest class of some allocators; what is written into the rest of such a
 * block hurts nobody, and yet is a misuse as any other.
 */
#include "misuse.h"

#include <alloca.h>
#include <malloc.h>

#define SECRET 0x5ec2e75ec2e75ec2u
#define FLIP 'A' /* Values are changed, not set, so that what was there by chance makes no difference. */
#define TRIES 64
#define MOST_NEIGHBOURS 140000 /* on either side */
#define N_CANDIDATES 32

enum { NEAR_BYTES = 32, FAR_BYTES = 1024 * 1024 };

/* ---- Past the ends of a block ------------------------------------------------------------------------------------ */

/* Claimed one after the other. Those in the middle are the candidates; the others only have to be there. */
static char *claimed[2 * MOST_NEIGHBOURS + N_CANDIDATES];
static size_t n_claimed, first_candidate;

static void claim_surrounded(size_t size_bytes, size_t reach_bytes)
{
    first_candidate = reach_bytes / size_bytes + 8;
    NEVER_FAILS(first_candidate <= MOST_NEIGHBOURS, "too many neighbours");
    for (n_claimed = 0; n_claimed < 2 * first_candidate + N_CANDIDATES; n_claimed++)
        claimed[n_claimed] = claim(size_bytes);
}

/* Whether all of a range can be read and written. The system is asked, by one byte of each page through a pipe and
 * back: where the program itself would fault, the system says so. */
static int accessible(char *from, size_t len_bytes)
{
    static int ends[2];
    char spare;
    if (ends[1] == 0)
        NEVER_FAILS(pipe(ends) == 0, "there is no pipe");
    for (char *at = from; at < from + len_bytes; at = (char *)(((uintptr_t)at & ~(uintptr_t)4095) + 4096)) {
        if (write(ends[1], at, 1) != 1)
            return 0;
        if (read(ends[0], at, 1) != 1) {
            NEVER_FAILS(read(ends[0], &spare, 1) == 1, "the pipe is empty");
            return 0;
        }
    }
    return 1;
}

/* The candidate from k on for which the range at that offset is accessible; else the first, which faults. */
static char *candidate_from(size_t k, ptrdiff_t offset_bytes, size_t len_bytes)
{
    for (; k < N_CANDIDATES; k++)
        if (accessible(claimed[first_candidate + k] + offset_bytes, len_bytes))
            return claimed[first_candidate + k];
    return claimed[first_candidate];
}

/* One byte at a distance from the block's first; then the block is freed. Stopped: by a fault, or by free. */
static enum verdict store_at(size_t size_bytes, ptrdiff_t offset_bytes, size_t reach_bytes)
{
    claim_surrounded(size_bytes, reach_bytes);
    volatile char *block = candidate_from(0, offset_bytes, 1);
    block[offset_bytes] ^= FLIP;
    do_free((void *)block);
    return EFFECTIVE;
}

static enum verdict store_over_1(size_t size_bytes)
{
    return store_at(size_bytes, (ptrdiff_t)size_bytes, 1);
}
static enum verdict store_over_32(size_t size_bytes)
{
    return store_at(size_bytes, (ptrdiff_t)size_bytes + NEAR_BYTES - 1, NEAR_BYTES);
}
static enum verdict store_over_1m(size_t size_bytes)
{
    return store_at(size_bytes, (ptrdiff_t)size_bytes + FAR_BYTES - 1, FAR_BYTES);
}
static enum verdict store_under_1(size_t size_bytes)
{
    return store_at(size_bytes, -1, 1);
}
static enum verdict store_under_32(size_t size_bytes)
{
    return store_at(size_bytes, -NEAR_BYTES, NEAR_BYTES);
}
static enum verdict store_under_1m(size_t size_bytes)
{
    return store_at(size_bytes, -FAR_BYTES, FAR_BYTES);
}

/* The block and what follows it or goes before it without a gap, by memcpy; the block is not freed. Stopped: by a fault
 * only. What is copied differs everywhere from what was there, so that is read first; a guard page stops it, too. */
static enum verdict copy_at(size_t size_bytes, ptrdiff_t from, size_t beyond_bytes)
{
    static char changed[256 * 1024 + FAR_BYTES];
    size_t len_bytes = size_bytes + beyond_bytes;
    NEVER_FAILS(len_bytes <= sizeof changed, "the copy is too long");
    claim_surrounded(size_bytes, beyond_bytes);
    char *to = candidate_from(0, from, len_bytes) + from;
    for (size_t i = 0; i < len_bytes; i++)
        changed[i] = (char)(((volatile char *)to)[i] ^ FLIP);
    do_memcpy(to, changed, len_bytes);
    return EFFECTIVE;
}

static enum verdict copy_over_1(size_t size_bytes)
{
    return copy_at(size_bytes, 0, 1);
}
static enum verdict copy_over_32(size_t size_bytes)
{
    return copy_at(size_bytes, 0, NEAR_BYTES);
}
static enum verdict copy_over_1m(size_t size_bytes)
{
    return copy_at(size_bytes, 0, FAR_BYTES);
}
static enum verdict copy_under_1(size_t size_bytes)
{
    return copy_at(size_bytes, -1, 1);
}
static enum verdict copy_under_32(size_t size_bytes)
{
    return copy_at(size_bytes, -NEAR_BYTES, NEAR_BYTES);
}
static enum verdict copy_under_1m(size_t size_bytes)
{
    return copy_at(size_bytes, -FAR_BYTES, FAR_BYTES);
}

/* Stopped: by a fault, or when none of the 4 KiB behind any block is another block's secret. */
static enum verdict read_over(size_t size_bytes)
{
    claim_surrounded(size_bytes, 4 * KIB);
    for (size_t i = 0; i < n_claimed; i++)
        fill_words(claimed[i], size_bytes, SECRET);
    for (size_t k = 0; k < N_CANDIDATES; k++)
        if (holds_word(candidate_from(k, (ptrdiff_t)size_bytes, 4 * KIB) + size_bytes, 4 * KIB, SECRET))
            return EFFECTIVE;
    return HARMLESS;
}

/* ---- Double frees ------------------------------------------------------------------------------------------------ */

static enum verdict double_free(size_t size_bytes)
{
    char *block = claim(size_bytes);
    do_free(block);
    do_free(block);
    return EFFECTIVE;
}

/* A thousand blocks are freed between the two. */
static enum verdict double_free_delayed(size_t size_bytes)
{
    static char *others[1000];
    char *block = claim(size_bytes);
    for (size_t i = 0; i < 1000; i++)
        others[i] = claim(size_bytes);
    do_free(block);
    for (size_t i = 0; i < 1000; i++)
        do_free(others[i]);
    do_free(block);
    return EFFECTIVE;
}

static enum verdict double_free_interleaved(size_t size_bytes)
{
    char *a = claim(size_bytes), *b = claim(size_bytes);
    do_free(a);
    do_free(b);
    do_free(a);
    return EFFECTIVE;
}

/* The address belongs to another block by the time of the second free, if the allocator likes to reuse; then it is that
 * one's owner who frees for the third time. */
static enum verdict double_free_reused(size_t size_bytes)
{
    char *block = claim(size_bytes);
    do_free(block);
    char *other = claim(size_bytes);
    do_free(block);
    do_free(other);
    return EFFECTIVE;
}

/* The program goes on for long afterwards, with a thousand blocks out at a time. */
static enum verdict double_free_then_work(size_t size_bytes)
{
    static char *blocks[1000];
    char *block = claim(size_bytes);
    do_free(block);
    do_free(block);
    for (unsigned round = 0; round < 50; round++) {
        for (size_t i = 0; i < 1000; i++)
            blocks[i] = claim(size_bytes);
        for (size_t i = 0; i < 1000; i++)
            do_free(blocks[i]);
    }
    return EFFECTIVE;
}

/* ---- Frees of what malloc did not return ------------------------------------------------------------------------- */

static enum verdict free_address_1(size_t size_bytes)
{
    (void)size_bytes;
    do_free((void *)1);
    return EFFECTIVE;
}

static enum verdict free_static(size_t size_bytes)
{
    static char object[64] __attribute__((aligned(16)));
    (void)size_bytes;
    do_free(claim(64)); /* An allocator that has not begun yet knows no address at all. */
    do_free(object + 16);
    return EFFECTIVE;
}

static enum verdict free_code(size_t size_bytes)
{
    (void)size_bytes;
    do_free(claim(64));
    do_free((void *)(((uintptr_t)&free_static + 15) & ~(uintptr_t)15));
    return EFFECTIVE;
}

/* A block so large that its memory goes back to the system. */
static enum verdict free_unmapped(size_t size_bytes)
{
    (void)size_bytes;
    char *block = claim(64 * MIB);
    block[0] = 1;
    do_free(block);
    malloc_trim(0);
    do_free(block);
    return EFFECTIVE;
}

static enum verdict free_stack(size_t size_bytes)
{
    char object[256 * 1024] __attribute__((aligned(16)));
    char *inside = object + sizeof object - size_bytes;
    do_free(claim(size_bytes));
    HIDE(inside);
    do_free(inside);
    return EFFECTIVE;
}

static enum verdict free_alloca(size_t size_bytes)
{
    char *object = (char *)alloca(size_bytes);
    do_free(claim(size_bytes));
    HIDE(object);
    do_free(object);
    return EFFECTIVE;
}

/* The program holds one block, so whatever lies at the offset was never its own. */
static enum verdict free_at(size_t size_bytes, size_t offset_bytes)
{
    do_free(claim(size_bytes) + offset_bytes);
    return EFFECTIVE;
}
static enum verdict free_plus_1(size_t size_bytes)
{
    return free_at(size_bytes, 1);
}
static enum verdict free_plus_8(size_t size_bytes)
{
    return free_at(size_bytes, 8);
}
static enum verdict free_plus_4k(size_t size_bytes)
{
    return free_at(size_bytes, 4 * KIB);
}
static enum verdict free_plus_1g(size_t size_bytes)
{
    return free_at(size_bytes, 1024 * MIB);
}

/* ---- Blocks of no bytes ------------------------------------------------------------------------------------------ */

/* NULL as the answer to malloc(0) is harmless: the access that follows would be the program's own end. */
static enum verdict access_empty(int write_it, int free_it)
{
    volatile char *block = (volatile char *)do_malloc(0);
    if (block == NULL)
        return HARMLESS;
    if (write_it)
        *block ^= FLIP;
    else
        (void)*block;
    if (free_it)
        do_free((void *)block);
    return EFFECTIVE;
}
static enum verdict read_empty(size_t size_bytes)
{
    (void)size_bytes;
    return access_empty(0, 0);
}
static enum verdict read_empty_free(size_t size_bytes)
{
    (void)size_bytes;
    return access_empty(0, 1);
}
static enum verdict write_empty(size_t size_bytes)
{
    (void)size_bytes;
    return access_empty(1, 0);
}
static enum verdict write_empty_free(size_t size_bytes)
{
    (void)size_bytes;
    return access_empty(1, 1);
}

/* ---- After free -------------------------------------------------------------------------------------------------- */

static enum verdict write_after_free(size_t size_bytes)
{
    char *block = claim(size_bytes);
    do_free(block);
    do_memset(block, FLIP, size_bytes);
    return EFFECTIVE;
}

/* Stopped: by the write, or by the allocator as the block comes up for reuse. */
static enum verdict write_after_free_then_work(size_t size_bytes)
{
    write_after_free(size_bytes);
    for (unsigned i = 0; i < 100000; i++)
        do_free(claim(size_bytes));
    return EFFECTIVE;
}

/* Stopped: by the read, or when none of the next sixteen blocks shows what its owner wrote through the old pointer. */
static enum verdict read_after_reuse(size_t size_bytes)
{
    enum { N = 16 };
    char *blocks[N];
    for (unsigned round = 0; round < TRIES; round++) {
        char *block = claim(size_bytes);
        do_free(block);
        for (unsigned i = 0; i < N; i++)
            fill_words(blocks[i] = claim(size_bytes), size_bytes, SECRET);
        if (holds_word(block, size_bytes, SECRET))
            return EFFECTIVE;
        for (unsigned i = 0; i < N; i++) {
            fill_words(blocks[i], size_bytes, 0);
            do_free(blocks[i]);
        }
    }
    return HARMLESS;
}

/* Stopped: by the read, or when the contents are gone. */
static enum verdict secret_after_free(size_t size_bytes)
{
    char *block = claim(size_bytes);
    fill_words(block, size_bytes, SECRET);
    do_free(block);
    return holds_word(block, size_bytes, SECRET) ? EFFECTIVE : HARMLESS;
}

/* Stopped: when none of the next blocks has a word of what was written into blocks that have been freed. */
static enum verdict secret_in_new_block(size_t size_bytes)
{
    enum { N = 64 };
    char *blocks[N];
    for (unsigned i = 0; i < N; i++)
        fill_words(blocks[i] = claim(size_bytes), size_bytes, SECRET);
    for (unsigned i = 0; i < N; i++)
        do_free(blocks[i]);
    for (unsigned i = 0; i < N; i++)
        if (holds_word(claim(size_bytes), size_bytes, SECRET))
            return EFFECTIVE;
    return HARMLESS;
}

/* Stopped: when no new block holds an address near its own, left there by the allocator in memory that the program had
 * cleared before it freed it. */
static enum verdict address_in_new_block(size_t size_bytes)
{
    enum { N = 64 };
    char *blocks[N];
    for (unsigned i = 0; i < N; i++)
        fill_words(blocks[i] = claim(size_bytes), size_bytes, 0);
    for (unsigned i = 0; i < N; i++)
        do_free(blocks[i]);
    for (unsigned i = 0; i < N; i++) {
        const volatile uintptr_t *words = (const volatile uintptr_t *)(const volatile void *)claim(size_bytes);
        for (size_t k = 0; k < size_bytes / sizeof(uintptr_t); k++) {
            uintptr_t distance = words[k] - (uintptr_t)words;
            if (words[k] != 0 && (distance < 1024 * MIB || -distance < 1024 * MIB))
                return EFFECTIVE;
        }
    }
    return HARMLESS;
}

/* ---- Reuse that can be foreseen ---------------------------------------------------------------------------------- */

/* Stopped: when the next block lies at the address of the one just freed less than half of the time. */
static enum verdict reuse(size_t size_bytes, size_t next_bytes)
{
    unsigned hits = 0;
    for (unsigned i = 0; i < TRIES; i++) {
        uintptr_t freed = (uintptr_t)claim(size_bytes);
        do_free((void *)freed);
        hits += (uintptr_t)claim(next_bytes) == freed;
    }
    return hits >= TRIES / 2 ? EFFECTIVE : HARMLESS;
}
static enum verdict reuse_same(size_t size_bytes)
{
    return reuse(size_bytes, size_bytes);
}
static enum verdict reuse_smaller(size_t size_bytes)
{
    return reuse(size_bytes, size_bytes / 2);
}

/* The same for what realloc has moved away from. */
static enum verdict reuse_after_realloc(size_t size_bytes)
{
    unsigned hits = 0;
    (void)size_bytes;
    for (unsigned i = 0; i < TRIES; i++) {
        uintptr_t old = (uintptr_t)claim(8);
        uintptr_t moved = (uintptr_t)do_realloc((void *)old, KIB);
        NEVER_FAILS(moved != 0, "realloc returns NULL");
        hits += moved != old && (uintptr_t)claim(8) == old;
    }
    return hits >= TRIES / 2 ? EFFECTIVE : HARMLESS;
}

/* ---- Others ------------------------------------------------------------------------------------------------------ */

/* Stopped: by a fault at the call. */
static enum verdict run_code_in_block(size_t size_bytes)
{
#if defined __x86_64__ || defined __i386__
    static const unsigned char code[] = {0xc3}; /* ret */
#elif defined __aarch64__
    static const unsigned char code[] = {0xc0, 0x03, 0x5f, 0xd6}; /* ret */
#else
#error "one instruction that returns is missing for this machine"
#endif
    char *block = claim(size_bytes);
    do_memcpy(block, code, sizeof code);
    __builtin___clear_cache(block, block + sizeof code);
    void (*function)(void);
    memcpy(&function, &block, sizeof function);
    function();
    return EFFECTIVE;
}

/* Stopped: when all answers are NULL. */
static enum verdict malloc_huge(size_t size_bytes)
{
    static const size_t huge[] = {SIZE_MAX, SIZE_MAX - 1, SIZE_MAX - 16, SIZE_MAX - 4 * KIB, (size_t)PTRDIFF_MAX + 1};
    (void)size_bytes;
    for (size_t i = 0; i < sizeof huge / sizeof huge[0]; i++)
        if (do_malloc(huge[i]) != NULL)
            return EFFECTIVE;
    return HARMLESS;
}

static enum verdict calloc_huge(size_t size_bytes)
{
    static const size_t huge[][2] = {
        {SIZE_MAX / 2 + 2, 2}, {SIZE_MAX / 16 + 2, 16}, {(size_t)1 << 33, (size_t)1 << 33}};
    (void)size_bytes;
    for (size_t i = 0; i < sizeof huge / sizeof huge[0]; i++)
        if (do_calloc(huge[i][0], huge[i][1]) != NULL || do_calloc(huge[i][1], huge[i][0]) != NULL)
            return EFFECTIVE;
    return HARMLESS;
}

/* ---- The table --------------------------------------------------------------------------------------------------- */

static const struct kind kinds[] = {
    {"store_over_1", ALL_SIZES, store_over_1},
    {"store_over_32", ALL_SIZES, store_over_32},
    {"store_over_1m", ALL_SIZES, store_over_1m},
    {"store_under_1", ALL_SIZES, store_under_1},
    {"store_under_32", ALL_SIZES, store_under_32},
    {"store_under_1m", ALL_SIZES, store_under_1m},
    {"copy_over_1", ALL_SIZES, copy_over_1},
    {"copy_over_32", ALL_SIZES, copy_over_32},
    {"copy_over_1m", ALL_SIZES, copy_over_1m},
    {"copy_under_1", ALL_SIZES, copy_under_1},
    {"copy_under_32", ALL_SIZES, copy_under_32},
    {"copy_under_1m", ALL_SIZES, copy_under_1m},
    {"read_over", ALL_SIZES, read_over},
    {"double_free", ALL_SIZES, double_free},
    {"double_free_delayed", ALL_SIZES, double_free_delayed},
    {"double_free_interleaved", ALL_SIZES, double_free_interleaved},
    {"double_free_reused", ALL_SIZES, double_free_reused},
    {"double_free_then_work", ALL_SIZES, double_free_then_work},
    {"free_address_1", NO_SIZE, free_address_1},
    {"free_static", NO_SIZE, free_static},
    {"free_code", NO_SIZE, free_code},
    {"free_unmapped", NO_SIZE, free_unmapped},
    {"free_stack", ALL_SIZES, free_stack},
    {"free_alloca", ALL_SIZES, free_alloca},
    {"free_plus_1", ALL_SIZES, free_plus_1},
    {"free_plus_8", ALL_SIZES, free_plus_8},
    {"free_plus_4k", ALL_SIZES, free_plus_4k},
    {"free_plus_1g", ALL_SIZES, free_plus_1g},
    {"read_empty", NO_SIZE, read_empty},
    {"read_empty_free", NO_SIZE, read_empty_free},
    {"write_empty", NO_SIZE, write_empty},
    {"write_empty_free", NO_SIZE, write_empty_free},
    {"write_after_free", ALL_SIZES, write_after_free},
    {"write_after_free_then_work", ALL_SIZES, write_after_free_then_work},
    {"read_after_reuse", ALL_SIZES, read_after_reuse},
    {"secret_after_free", ALL_SIZES, secret_after_free},
    {"secret_in_new_block", ALL_SIZES, secret_in_new_block},
    {"address_in_new_block", SMALL | MEDIUM, address_in_new_block},
    {"reuse_same", ALL_SIZES, reuse_same},
    {"reuse_smaller", ALL_SIZES, reuse_smaller},
    {"reuse_after_realloc", NO_SIZE, reuse_after_realloc},
    {"run_code_in_block", ALL_SIZES, run_code_in_block},
    {"malloc_huge", NO_SIZE, malloc_huge},
    {"calloc_huge", NO_SIZE, calloc_huge},
};

int main(int argc, char **argv)
{
    return misuse_main(argc, argv, kinds, sizeof kinds / sizeof kinds[0]);
}
