/* judge.h - whether a copy of a heap's records obeys the heap's invariants, and where not.
 *
 * The copy is of a process that may run on meanwhile. So what is found is a suspicion: it holds if it is found again after what
 * it is about was read again, several times (check.c), or if nothing ran while the copy was made.
 */
#ifndef HAKMEM_TOOLS_JUDGE_H
#define HAKMEM_TOOLS_JUDGE_H

#include "image.h"

enum rule {
    RULE_UNREADABLE,   /* records that cannot be read, or lists that do not end */
    RULE_SUPERSLAB,    /* a SuperSlab's state or tier is none, or its record does not say its own place */
    RULE_TAKEN,        /* the arena's bit says otherwise than the SuperSlab's state */
    RULE_LISTS,        /* a SuperSlab of the pool is not in exactly its list */
    RULE_POOL_COUNTS,  /* the pool counts other slots than there are */
    RULE_MASKS,        /* a slot's state says otherwise than its SuperSlab's masks */
    RULE_SLAB,         /* a slab's record does not describe its place and its class */
    RULE_CLASS_MAP,    /* the class map, which free() reads, says otherwise than the slot */
    RULE_BITS,         /* blocks in use by a slab's count, and by its bits */
    RULE_GAPS,         /* larger blocks in a slab's gaps, by its second map, and by its count and its bits */
    RULE_FULL,         /* a slab counts as full and is not */
    RULE_CLEAN_PAGE,   /* a block in use lies on a page that counts as given back; an unused slot has pages */
    RULE_SPAN,         /* a span's head, bodies and length do not fit together */
    RULE_RUN,          /* the same of a run, or of a row in the LRU cache */
    RULE_COMMITTED,    /* committed bytes, and pages that were handed out */
    RULE_MAGAZINE,     /* a thread's magazine or open word lies outside of its bounds */
    RULE_CACHED,       /* what a thread caches is no block of the class */
    RULE_CACHED_FREE,  /* ... is a free block of its slab, too */
    RULE_CACHED_TWICE, /* ... is cached a second time */
    RULE_CURRENT,      /* the slab that a thread claims from is not its own */
    RULE_HELD,         /* slots that threads keep for their spans, and the slots' states */
    N_RULES
};

/* For users: a word, and what it means. */
extern const char *const rule_names[N_RULES];

enum { NO_SUPERSLAB = UINT32_MAX, VIOLATION_TEXT_BYTES = 120 };
#define NO_THREAD SIZE_MAX

struct violation {
    enum rule rule;
    uint64_t address;     /* there: a block, a slab, a SuperSlab, a thread's record; 0: the whole heap */
    uint32_t class_bytes; /* of blocks; 0: no class */
    /* RULE_COMMITTED, RULE_POOL_COUNTS, the pages of RULE_HELD: it must be found again with the same one */
    int64_t difference;
    /* it may be what a fork has left: a call of a thread that the child does not have was cut off there */
    bool excused;
    char text[VIOLATION_TEXT_BYTES];
    /* What it is about, to be read again: */
    uint32_t arena, superslab, n_superslabs; /* superslab NO_SUPERSLAB: none */
    size_t thread, other_thread;             /* NO_THREAD: none */
    bool lists;                              /* the pool's lists and counts */
    bool everything;
};

/* Two are the same if rule, address, class and difference are. */
struct violations {
    struct violation *at;
    size_t n;
    uint64_t n_left_out; /* beyond MAX_VIOLATIONS: what they are is not known, nor whether they are found again */
};
#define MAX_VIOLATIONS ((size_t)262144)

/* What was looked at, for the verdict. */
struct judged {
    uint64_t superslabs, slabs, spans, runs, blocks_in_use, cached_blocks, threads;
};

/* Judges a copy with IMAGE_DETAIL, but for its lists if they are torn. Returns false when there is no memory. The violations are to be given to violations_free. */
bool judge(const struct image *image, struct violations *out, struct judged *judged);

void violations_free(struct violations *violations);

/* Keeps of `found` what was found `again`, with what it says now; what was left out is as it is now. Puts both in order. */
void violations_intersect(struct violations *found, struct violations *again);

#endif
