/* realloc.c - blocks that grow and shrink keep their contents, from 1 byte to 64 MiB. Grows by factors, by small
 * steps, alone and beside neighbours that keep a block from growing where it lies; shrinks; and follows a random
 * course. Every byte is checked after every step, or at the end where that would take too long.
 */
#include "check.h"

#include <malloc.h>

#define MAX_BYTES (64 * CHECK_MIB)

/* The byte at a place of a block depends on the place, with a long period, so that a shifted copy is seen. */
static unsigned char byte_at(size_t i)
{
    return (unsigned char)(i ^ (i >> 8) ^ (i >> 16) * 7);
}

static void write_from(unsigned char *block, size_t from, size_t to)
{
    for (size_t i = from; i < to; i++)
        block[i] = byte_at(i);
}

/* The first byte of [0, len) that is wrong; len when there is none. */
static size_t first_wrong(const unsigned char *block, size_t len)
{
    for (size_t i = 0; i < len; i++)
        if (block[i] != byte_at(i))
            return i;
    return len;
}

static void check_contents(const unsigned char *block, size_t len, const char *what)
{
    size_t wrong = first_wrong(block, len);
    CHECK_THAT(wrong == len, "%s: byte %zu of %zu is wrong", what, wrong, len);
}

/* Grows one block from 1 byte by a ratio, then shrinks it the same way. */
static void factor(unsigned numerator, unsigned denominator)
{
    size_t size = 1;
    unsigned char *block = malloc(size);
    REQUIRE(block != NULL);
    write_from(block, 0, size);
    while (size < MAX_BYTES) {
        size_t grown = size * numerator / denominator + 1;
        block = realloc(block, grown);
        REQUIRE(block != NULL);
        write_from(block, size, grown);
        if (grown < CHECK_MIB)
            check_contents(block, size, "growing by a factor");
        else
            CHECK_THAT(block[size - 1] == byte_at(size - 1) && block[size / 2] == byte_at(size / 2),
                       "growing by a factor: lost bytes at %zu", size);
        size = grown;
    }
    check_contents(block, size, "after growing by a factor");
    while (size > 1) {
        size = size * denominator / numerator;
        size = size == 0 ? 1 : size;
        block = realloc(block, size);
        REQUIRE(block != NULL);
        check_contents(block, size < 65536 ? size : 65536, "shrinking by a factor");
        CHECK(block[size - 1] == byte_at(size - 1));
    }
    free(block);
}

/* Appends small pieces, as a string that is built does. */
static void small_steps(size_t step, size_t end)
{
    unsigned char *block = NULL;
    size_t size = 0;
    while (size < end) {
        block = realloc(block, size + step);
        REQUIRE(block != NULL);
        write_from(block, size, size + step);
        size += step;
    }
    check_contents(block, size, "growing by small steps");
    while (size > step) {
        size -= step;
        block = realloc(block, size);
        REQUIRE(block != NULL);
    }
    check_contents(block, size, "shrinking by small steps");
    free(block);
}

/* Several large blocks grow in turn, so that each finds the next one in its way and must move, again and again. */
static void neighbours(size_t first, size_t step, size_t end)
{
    unsigned char *block[4] = {NULL};
    size_t size[4] = {0};
    for (size_t grown = first; grown <= end; grown += step)
        for (unsigned i = 0; i < CHECK_COUNT(block); i++) {
            block[i] = realloc(block[i], grown + i);
            REQUIRE(block[i] != NULL);
            write_from(block[i], size[i], grown + i);
            size[i] = grown + i;
        }
    for (unsigned i = 0; i < CHECK_COUNT(block); i++) {
        check_contents(block[i], size[i], "growing beside neighbours");
        block[i] = realloc(block[i], first);
        REQUIRE(block[i] != NULL);
        check_contents(block[i], first, "shrunk beside neighbours");
        free(block[i]);
    }
}

/* Moves one block back and forth between sizes, with obstacles behind it that come and go. */
static void random_course(uint64_t seed, unsigned n_steps)
{
    enum { N_SLOTS = 24 };
    unsigned char *block[N_SLOTS] = {NULL};
    size_t size[N_SLOTS] = {0};
    uint64_t state = seed;
    for (unsigned step = 0; step < n_steps; step++) {
        unsigned i = (unsigned)(check_random(&state) % N_SLOTS);
        size_t wanted = check_random_size(&state, i < 4 ? 24 : 18) + 1;
        unsigned char *moved = realloc(block[i], wanted);
        REQUIRE(moved != NULL);
        size_t kept = wanted < size[i] ? wanted : size[i];
        size_t wrong = first_wrong(moved, kept);
        if (wrong != kept) {
            CHECK_FAIL("seed %llu step %u: from %zu to %zu bytes, byte %zu is wrong", (unsigned long long)seed, step,
                       size[i], wanted, wrong);
            write_from(moved, 0, kept);
        }
        write_from(moved, kept, wanted);
        block[i] = moved;
        size[i] = wanted;
    }
    for (unsigned i = 0; i < N_SLOTS; i++)
        free(block[i]);
}

/* A block of calloc that grows past its class keeps its zeros, and what lies behind is the caller's to write. */
static void from_calloc(void)
{
    for (size_t size = 1; size <= 4 * CHECK_MIB; size = size * 3 / 2 + 1) {
        unsigned char *block = calloc(1, size);
        REQUIRE(block != NULL);
        block = realloc(block, size * 2);
        REQUIRE(block != NULL);
        CHECK_THAT(check_zero(block, size), "a calloc'd block of %zu bytes is not zero after realloc", size);
        memset(block, 0xa5, size * 2);
        free(block);
    }
}

/* A block stays where it is while at least three quarters of it are wanted; else it is moved to the smallest that fits. No two sizes of blocks
 * are further apart than that, or 16 bytes. */
static void made_much_shorter(void)
{
    /* A small block that was picked has whole pages. */
    size_t page_bytes = getenv("HAKMEM_PROFILE") != NULL ? 4096 : 0;
    for (size_t size = 100; size <= 32768; size = size * 3 / 2)
        for (size_t shorter = size; shorter > 16; shorter = shorter * 2 / 3) {
            char *block = malloc(size);
            REQUIRE(block != NULL);
            block = realloc(block, shorter);
            REQUIRE(block != NULL);
            CHECK_THAT(malloc_usable_size(block) <= shorter * 4 / 3 + 16 + page_bytes,
                       "a block of %zu bytes, made one of %zu, has %zu", size, shorter, malloc_usable_size(block));
            free(block);
        }
}

/* Blocks of which little is used stay so when they move: what nobody has written to is not in memory afterwards either. */
static void hardly_used(size_t old_bytes, size_t new_bytes)
{
    enum { N = 200 };
    static unsigned char *block[N];
    size_t used_bytes = old_bytes / 10, before_bytes = check_resident_bytes();
    for (unsigned i = 0; i < N; i++) {
        block[i] = calloc(1, old_bytes);
        REQUIRE(block[i] != NULL);
        write_from(block[i], 0, used_bytes);
    }
    for (unsigned i = 0; i < N; i++) {
        block[i] = realloc(block[i], new_bytes);
        REQUIRE(block[i] != NULL);
    }
    size_t after_bytes = check_resident_bytes(), kept_bytes = old_bytes < new_bytes ? old_bytes : new_bytes;
    CHECK_THAT(after_bytes < before_bytes + N * (2 * used_bytes + 32 * CHECK_KIB),
               "%zu to %zu: %zu KiB are in memory, %zu were written", old_bytes, new_bytes,
               (after_bytes - before_bytes) / CHECK_KIB, N * used_bytes / CHECK_KIB);
    for (unsigned i = 0; i < N; i++) {
        check_contents(block[i], used_bytes, "hardly used");
        CHECK(check_zero(block[i] + used_bytes, kept_bytes - used_bytes));
        free(block[i]);
    }
}

/* A block that is as good as it is to be stays: at three quarters it does, and with all of its bytes. */
static void stays_at_three_quarters(void)
{
    if (getenv("HAKMEM_SECURE") != NULL || getenv("HAKMEM_GUARD_SAMPLE") != NULL || getenv("HAKMEM_PROFILE") != NULL)
        return; /* whose blocks have other lengths */
    for (size_t size = 16; size <= 32768; size = size * 5 / 4 + 4) {
        char *block = malloc(size);
        REQUIRE(block != NULL);
        size_t usable = malloc_usable_size(block), least = usable - usable / 4;
        CHECK_THAT(realloc(block, least) == block && realloc(block, usable) == block,
                   "a block of %zu bytes moves to have %zu", usable, least);
        char *moved = realloc(block, least / 2);
        CHECK_THAT(moved != NULL && moved != block, "a block of %zu bytes has but %zu", usable, least / 2);
        free(moved);
    }
}

/* Pages of zeros are no less a block's contents than others, where it moves to what another one has left. */
static void zeros_move_onto_dirt(size_t old_bytes, size_t new_bytes)
{
    enum { N = 40 };
    unsigned char *dirty[N];
    for (unsigned i = 0; i < N; i++) {
        dirty[i] = malloc(new_bytes);
        REQUIRE(dirty[i] != NULL);
        memset(dirty[i], 0xa5, new_bytes);
    }
    for (unsigned i = 0; i < N; i++)
        free(dirty[i]);
    for (unsigned i = 0; i < N; i++) {
        dirty[i] = calloc(1, old_bytes);
        REQUIRE(dirty[i] != NULL);
        write_from(dirty[i], 0, 100);
        dirty[i] = realloc(dirty[i], new_bytes);
        REQUIRE(dirty[i] != NULL);
    }
    size_t kept_bytes = old_bytes < new_bytes ? old_bytes : new_bytes;
    for (unsigned i = 0; i < N; i++) {
        check_contents(dirty[i], 100, "beside zeros");
        CHECK_THAT(check_zero(dirty[i] + 100, kept_bytes - 100), "from %zu to %zu bytes: zeros are not kept", old_bytes,
                   new_bytes);
        free(dirty[i]);
    }
}

int main(void)
{
    check_on_hakmem();
    hardly_used(600000, 900000);
    hardly_used(900000, 1900000);
    hardly_used(1900000, 300000);
    hardly_used(300001, 600000);
    factor(2, 1);
    factor(3, 2);
    factor(9, 8);
    small_steps(1, 70000);
    small_steps(13, CHECK_MIB);
    small_steps(4096, 12 * CHECK_MIB);
    neighbours(100, 1000, 200000);
    neighbours(CHECK_MIB + 1, 700 * CHECK_KIB, 24 * CHECK_MIB);
    neighbours(4 * CHECK_MIB, 4 * CHECK_MIB, 60 * CHECK_MIB);
    for (uint64_t seed = 1; seed <= 4; seed++)
        random_course(seed, 1500);
    from_calloc();
    made_much_shorter();
    stays_at_three_quarters();
    zeros_move_onto_dirt(1900000, 300000);
    zeros_move_onto_dirt(500000, 100000);
    zeros_move_onto_dirt(100000, 40000);
    zeros_move_onto_dirt(300000, 700000);
    return check_status();
}
