/* ops.h - the language of the fuzzer: any bytes are a list of operations, so that no mutation is lost on a parser.
 * Called by  fuzz_api.c.     Calls  nothing.
 *
 * The first 4 bytes are the settings, then each 8 bytes are an operation; what is left at the end is ignored.
 *   byte 0     kind, by a table in which frequent kinds have more entries; the two high bits are the thread
 *   byte 1     first slot / 64: blocks live in numbered slots
 *   byte 2     how: which of the functions that do the same; the three high bits are the context
 *   bytes 3-4  a size: the three high bits of byte 4 say of which sort
 *   byte 5     how many slots, and how far apart
 *   byte 6     an alignment
 *   byte 7     what is added to the size, -128 to 127, in steps that depend on the sort
 */
#ifndef HAKMEM_TESTS_FUZZ_OPS_H
#define HAKMEM_TESTS_FUZZ_OPS_H

#include "base/base.h"

enum { N_THREADS = 4, N_SLOTS = 16384 };
#define SIZE_WANTED_MAX_BYTES (68 * MIB) /* larger sizes are such as no system can serve */

enum op_kind {
    OP_CLAIM,      /* a block into each slot; what was there is given back first */
    OP_GIVE_BACK,  /* each slot's block */
    OP_RESIZE,     /* each slot's block */
    OP_LOOK,       /* at each slot's block */
    OP_TRIM,       /* to one of the levels */
    OP_TICK,       /* time passes */
    OP_THREAD_END, /* the thread exits; its next operation is that of a new one */
    OP_BUDGET,     /* both lines are set */
    OP_PRESSURE,   /* what the program does when it is told of pressure */
    OP_FAULT,      /* from now on calls to the system fail */
    OP_LIMIT,      /* reservations above a size fail */
    OP_STATS,      /* all that tells of the state */
    OP_ASK,        /* questions that have fixed answers, and wrong arguments */
    N_OP_KINDS
};

/* Where the calls come from: the program itself, or a signal handler that interrupted the allocator on a slow path. */
enum op_context { CONTEXT_PLAIN, CONTEXT_ON_SLOW_PATH, CONTEXT_UNDER_LOCK, CONTEXT_ON_SLOW_PATH_UNDER_LOCK };

struct op {
    enum op_kind kind;
    enum op_context context;
    unsigned thread;
    unsigned slot, n, stride; /* slot, slot + stride, ..., n of them, modulo N_SLOTS */
    unsigned how;             /* 0..31 */
    unsigned value;           /* bytes 3-4 as they are */
    size_t size_bytes;
    size_t alignment; /* any number, mostly a power of two */
};

/* What is chosen once for an input. */
struct ops_settings {
    unsigned profile;       /* enum profile */
    unsigned huge_pages;    /* enum huge_pages */
    bool packed;            /* spans are, however small the heap */
    int64_t purge_delay_ms; /* 0, -1, or so long that only ticks end it */
    size_t lru_superslabs, empty_slabs;
};

struct ops_reader {
    const uint8_t *at, *end;
};

struct ops_settings ops_begin(struct ops_reader *reader, const uint8_t *bytes, size_t len_bytes);

/* False: there is no further operation. */
bool ops_next(struct ops_reader *reader, struct op *op);

#endif
