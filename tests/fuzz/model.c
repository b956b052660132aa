/* model.c - see model.h.
 * Owns     the slots, and an array of them in the order of addresses.     Called by  fuzz_api.c
 * Calls    hak_usable_size, registry.h
 *
 * A block of up to WHOLE_MAX_BYTES is filled and compared whole. Of a larger one the last bytes are, and the first ones of
 * each page near either end, and of those beside each edge of a slab, above 2 MiB of a SuperSlab. So every page that
 * the model dirties is dirty at its beginning, and that is where zeroes are looked for. The last usable byte belongs to the
 * block, too: it is written, and must stay.
 */
#include "model.h"

#include "front/sampled.h"
#include "hakmem/hakmem.h"
#include "meta/registry.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define WHOLE_MAX_BYTES (4 * KIB)
#define ZEROES_WHOLE_MAX_BYTES (128 * KIB)
#define STEP_BYTES (4 * KIB)
#define EDGE_BYTES (128 * KIB)
#define SPARSE_BYTES (64 * KIB)
#define SPOT_BYTES 16

struct record model_slots[N_SLOTS];
uint64_t model_live_blocks, model_live_bytes;
size_t model_held_bytes;

static struct record *by_address[N_SLOTS];
static size_t n_by_address;
static uint64_t next_mark;

void model_fail(const char *what, const struct record *record)
{
    if (record == NULL)
        fprintf(stderr, "fuzz: broken: %s\n", what);
    else
        fprintf(stderr, "fuzz: broken: %s (block %p, %zu bytes, usable %zu, alignment %zu)\n", what,
                (void *)record->block, record->size_bytes, record->usable_bytes, record->alignment);
    abort();
}

/* ---- Contents ---------------------------------------------------------------------------------------------------- */

static uint64_t word_at(uint64_t mark, size_t i)
{
    return mark + i * 0x9e3779b97f4a7c15u;
}

static void fill_words(unsigned char *block, size_t from, size_t to, uint64_t mark)
{
    for (size_t i = from; i < to; i += 8) {
        uint64_t word = word_at(mark, i);
        memcpy(block + i, &word, min_size(8, to - i));
    }
}

static bool holds_words(const unsigned char *block, size_t from, size_t to, uint64_t mark)
{
    for (size_t i = from; i < to; i += 8) {
        uint64_t word = word_at(mark, i);
        if (memcmp(block + i, &word, min_size(8, to - i)) != 0)
            return false;
    }
    return true;
}

/* The next spot of a large block at or behind `at`, a multiple of STEP_BYTES; SIZE_MAX behind the last but for the end. */
static size_t next_spot(size_t size_bytes, size_t at)
{
    for (; at + SPOT_BYTES <= size_bytes; at += STEP_BYTES) {
        size_t step_bytes = size_bytes <= SUPERSLAB_BYTES ? SPARSE_BYTES : SUPERSLAB_BYTES;
        if (at < EDGE_BYTES || size_bytes - at <= EDGE_BYTES || at % step_bytes == 0 ||
            at % step_bytes == step_bytes - STEP_BYTES)
            return at;
    }
    return SIZE_MAX;
}

static bool has_last_byte(const struct record *r)
{
    return r->usable_bytes > r->size_bytes;
}

static void fill(struct record *r)
{
    r->mark = next_mark += 0xd1342543de82ef95u;
    if (has_last_byte(r))
        r->block[r->usable_bytes - 1] = (unsigned char)(r->mark >> 8);
    if (r->size_bytes <= WHOLE_MAX_BYTES) {
        fill_words(r->block, 0, r->size_bytes, r->mark);
        return;
    }
    for (size_t at = next_spot(r->size_bytes, 0); at != SIZE_MAX; at = next_spot(r->size_bytes, at + STEP_BYTES))
        fill_words(r->block, at, at + SPOT_BYTES, r->mark);
    size_t end = r->size_bytes & ~(size_t)7;
    fill_words(r->block, end - SPOT_BYTES, r->size_bytes, r->mark);
}

static bool holds(const struct record *was, const unsigned char *block, size_t kept_bytes)
{
    if (was->size_bytes <= WHOLE_MAX_BYTES)
        return holds_words(block, 0, kept_bytes, was->mark);
    bool right = true;
    for (size_t at = next_spot(was->size_bytes, 0); at != SIZE_MAX && at + SPOT_BYTES <= kept_bytes;
         at = next_spot(was->size_bytes, at + STEP_BYTES))
        right &= holds_words(block, at, at + SPOT_BYTES, was->mark);
    size_t end = was->size_bytes & ~(size_t)7;
    return right && (kept_bytes < was->size_bytes || holds_words(block, end - SPOT_BYTES, was->size_bytes, was->mark));
}

static bool all_zero(const unsigned char *block, size_t len_bytes)
{
    return len_bytes == 0 || (block[0] == 0 && memcmp(block, block + 1, len_bytes - 1) == 0);
}

static bool is_zeroed(const unsigned char *block, size_t size_bytes)
{
    if (size_bytes <= ZEROES_WHOLE_MAX_BYTES)
        return all_zero(block, size_bytes);
    bool right = all_zero(block + size_bytes - SPOT_BYTES, SPOT_BYTES);
    for (size_t at = next_spot(size_bytes, 0); at != SIZE_MAX; at = next_spot(size_bytes, at + STEP_BYTES))
        right &= all_zero(block + at, SPOT_BYTES);
    return right;
}

/* ---- Addresses --------------------------------------------------------------------------------------------------- */

/* How many blocks begin below an address. */
static size_t rank_of(const unsigned char *address)
{
    size_t low = 0, high = n_by_address;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (by_address[middle]->block < address)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static void file(struct record *r)
{
    size_t rank = rank_of(r->block);
    if (rank > 0) {
        const struct record *below = by_address[rank - 1];
        REQUIRE(below->block + below->usable_bytes <= r->block && "blocks overlap", r);
    }
    if (rank < n_by_address)
        REQUIRE(r->block + r->usable_bytes <= by_address[rank]->block && "blocks overlap", r);
    memmove(&by_address[rank + 1], &by_address[rank], (n_by_address - rank) * sizeof *by_address);
    by_address[rank] = r;
    n_by_address++;
}

static void unfile(struct record *r)
{
    size_t rank = rank_of(r->block);
    REQUIRE(rank < n_by_address && by_address[rank] == r, r);
    n_by_address--;
    memmove(&by_address[rank], &by_address[rank + 1], (n_by_address - rank) * sizeof *by_address);
}

/* ---- Records ----------------------------------------------------------------------------------------------------- */

void model_enter(struct record *r, void *block, size_t size_bytes, size_t alignment, bool zeroed)
{
    const struct arena *arena = registry_arena(block);
    *r = (struct record){.block = block, .size_bytes = size_bytes, .alignment = alignment};
    r->sampled = sampled_has(block);
    REQUIRE((arena != NULL) != r->sampled && "the block lies in no arena, or in one and in a place of its own", r);
    r->emergency = !r->sampled && arena->class_map == NULL;
    r->usable_bytes = hak_usable_size(block);
    REQUIRE(r->usable_bytes >= size_bytes, r);
    REQUIRE(((uintptr_t)block & (alignment - 1)) == 0, r);
    REQUIRE(!zeroed || is_zeroed(block, size_bytes), r);
    file(r);
    fill(r);
    model_held_bytes += r->usable_bytes;
    if (!r->emergency) {
        model_live_blocks++;
        model_live_bytes += r->usable_bytes;
    }
}

void model_check_kept(const struct record *was, const void *block, size_t kept_bytes)
{
    REQUIRE(holds(was, block, kept_bytes), was);
}

void model_check(const struct record *r)
{
    REQUIRE(hak_usable_size(r->block) == r->usable_bytes, r);
    REQUIRE(holds(r, r->block, r->size_bytes), r);
    REQUIRE(!has_last_byte(r) || r->block[r->usable_bytes - 1] == (unsigned char)(r->mark >> 8), r);
}

void model_leave(struct record *r)
{
    unfile(r);
    model_held_bytes -= r->usable_bytes;
    if (!r->emergency) {
        model_live_blocks--;
        model_live_bytes -= r->usable_bytes;
    }
    r->block = NULL;
}

void model_check_all(void)
{
    for (size_t i = 0; i < n_by_address; i++)
        if (!by_address[i]->in_call)
            model_check(by_address[i]);
}
