/* ops.c - see ops.h.
 * Owns     nothing.     Called by  fuzz_api.c     Calls  meta/sizeclass.h for the edges of classes
 */
#include "ops.h"

#include "meta/sizeclass.h"
#include "service/config.h"

#include <limits.h>

enum { SETTINGS_BYTES = 4, OP_BYTES = 8, KIND_ENTRIES = 64 };
#define FOREVER_MS 86400000 /* the longest delay there is: nothing goes back by the clock */

/* How many of the 64 entries each kind has. */
static const uint8_t weights[N_OP_KINDS] = {
    [OP_CLAIM] = 20, [OP_GIVE_BACK] = 13, [OP_RESIZE] = 10, [OP_LOOK] = 2,     [OP_TRIM] = 3,
    [OP_TICK] = 4,   [OP_THREAD_END] = 2, [OP_BUDGET] = 2,  [OP_PRESSURE] = 1, [OP_FAULT] = 4,
    [OP_LIMIT] = 1,  [OP_STATS] = 1,      [OP_ASK] = 1};

static const uint16_t counts[16] = {1, 1, 1, 1, 2, 3, 4, 6, 9, 16, 32, 64, 128, 256, 700, 2000};

static enum op_kind kind_of(unsigned entry)
{
    unsigned kind = 0;
    while (kind + 1 < N_OP_KINDS && entry >= weights[kind])
        entry -= weights[kind++];
    return (enum op_kind)kind;
}

/* No system serves these; each is near an edge of some arithmetic. */
static size_t impossible_size(unsigned v)
{
    static const size_t edges[] = {SIZE_MAX,     SIZE_MAX - 4095, (size_t)PTRDIFF_MAX + 1, PTRDIFF_MAX,
                                   SIZE_MAX / 2, (size_t)1 << 47, ((size_t)1 << 47) + 1,   (size_t)1 << 62};
    return edges[v % 8] - v / 8 % 16;
}

static size_t size_of(unsigned value, int delta)
{
    unsigned v = value & 0x1fff;
    switch (value >> 13) {
    case 0: /* anything small, as it is */
        return v;
    case 1: /* up to 1 KiB */
        return v / 8;
    case 2: /* at the edges of classes */
        return (size_t)((int)class_table[CLASS_FIRST + v % N_CLASSES].bytes + delta % 3);
    case 3: /* up to 40 KiB, classes and spans */
        return (size_t)v * 5;
    case 4: /* spans */
        return (size_t)(CLASS_MAX_BYTES + (int)v * 128 + delta);
    case 5: /* at the edges of slabs, spans and SuperSlabs */
        return (size_t)((int64_t)(1 + v % 68) * 65536 + delta % 3 * (v & 4096 ? 4096 : 1));
    case 6: /* runs; to 4 MiB more often than to 64 */
        return (size_t)(MIB + (v & 4096 ? (size_t)(v & 4095) * 16384 : (size_t)v * 768)) + (size_t)(delta + 128);
    default:
        return v < 512 ? impossible_size(v) : v % 512;
    }
}

/* A power of two to 8 MiB, the smaller ones more often; sometimes one that no system can serve, or none at all. */
static size_t alignment_of(unsigned v)
{
    static const size_t odd[] = {0, 3, 24, 48, 4097, SIZE_MAX, ((size_t)1 << 63) + 1, 12};
    if (v < 192)
        return (size_t)1 << (v < 104 ? v % 13 : v % 24);
    if (v < 208)
        return odd[v % 8];
    return v < 216 ? (size_t)1 << (47 + v % 17) : 16;
}

struct ops_settings ops_begin(struct ops_reader *reader, const uint8_t *bytes, size_t len_bytes)
{
    static const int64_t delays_ms[4] = {FOREVER_MS, FOREVER_MS, 0, -1};
    static const size_t superslabs[4] = {4, 0, 1, 16}, slabs[4] = {64, 0, 4, 1000};
    uint8_t first[SETTINGS_BYTES] = {0};
    for (size_t i = 0; i < SETTINGS_BYTES && i < len_bytes; i++)
        first[i] = bytes[i];
    reader->at = bytes + min_size(len_bytes, SETTINGS_BYTES);
    reader->end = bytes + len_bytes;
    return (struct ops_settings){.profile = first[0] % N_PROFILES,
                                 .purge_delay_ms = delays_ms[first[1] % 4],
                                 .lru_superslabs = superslabs[first[2] % 4],
                                 .empty_slabs = slabs[first[2] / 4 % 4],
                                 .huge_pages = first[3] % 32 == 31 ? HUGE_PAGES_ALWAYS
                                               : first[3] % 4 == 3 ? HUGE_PAGES_AUTO
                                                                   : HUGE_PAGES_NEVER,
                                 .packed = first[3] % 4 == 3};
}

bool ops_next(struct ops_reader *reader, struct op *op)
{
    const uint8_t *b = reader->at;
    if (reader->end - b < OP_BYTES)
        return false;
    reader->at += OP_BYTES;
    op->kind = kind_of(b[0] % KIND_ENTRIES);
    op->thread = b[0] / KIND_ENTRIES;
    op->slot = b[1] * (N_SLOTS / 256u);
    op->how = b[2] % 32;
    op->context = b[2] >= 232 ? (enum op_context)(b[2] / 8 % 4) : CONTEXT_PLAIN;
    op->value = b[3] + b[4] * 256u;
    op->size_bytes = size_of(op->value, (int8_t)b[7]);
    op->n = counts[b[5] % 16];
    op->stride = 1 + b[5] / 16;
    op->alignment = alignment_of(b[6]);
    return true;
}
