/* layout.h - every shared constant and structure of the heap: what the allocator writes and an inspector reads.
 *
 *   block       what a caller of malloc holds
 *   class       a block size; ids CLASS_FIRST.. ; see sizeclass.h
 *   slab        64 KiB of equal blocks of one class; its free blocks are set bits out of band
 *   SuperSlab   2 MiB, 2 MiB-aligned: 32 slots for slabs and spans
 *   span        1 to 31 slabs in a row for one block above 32 KiB; a packed one takes whole pages, and shares slabs with others
 *   run         whole SuperSlabs in a row for one block above 31 slabs
 *   arena       a reserved address range that SuperSlabs are cut from, with all their records
 *
 *   An arena's records lie in a mapping of their own, in arrays indexed by SuperSlab or slab number:
 *     [struct arena][taken bits][class sets][struct superslab ...][struct slab ...][large bit maps][class map]
 *   Only the part below the frontier is committed.
 */
#ifndef HAKMEM_META_LAYOUT_H
#define HAKMEM_META_LAYOUT_H

#include "base/base.h"

#define LAYOUT_VERSION 10

/* Of a user address; more is only handed out by Linux to those who ask by a hint. */
#if defined(__aarch64__)
#define ADDRESS_BITS 48
#else
#define ADDRESS_BITS 47
#endif

#define SLAB_SHIFT 16
#define SLAB_BYTES ((size_t)1 << SLAB_SHIFT)
#define SUPERSLAB_SHIFT 21
#define SUPERSLAB_BYTES ((size_t)1 << SUPERSLAB_SHIFT)
#define SUPERSLAB_SLABS 32
#define SPAN_MAX_SLABS 31                            /* a longer block is a run */
#define SPAN_MAX_BYTES (SPAN_MAX_SLABS * SLAB_BYTES) /* 1.94 MiB */
#define SPAN_GROWN_MAX_SLABS 16                      /* what grows beyond is a run, and can grow on */
#define SPAN_GROWN_MAX_BYTES (SPAN_GROWN_MAX_SLABS * SLAB_BYTES)
#define CHUNK_SUPERSLABS 128                             /* records are committed for so many at a time: 256 MiB */
#define CHUNK_SLABS (CHUNK_SUPERSLABS * SUPERSLAB_SLABS) /* one word of a class set's second level: 64 * 64 */

/* ---- Slabs ----------------------------------------------------------------------------------------------------- */

/* What a slot holds. The shared pool's slot states are UNUSED, EMPTY and ACTIVE, the last being any of the others.
 *
 *   UNUSED, EMPTY ---stages 2, 3---> TAKEN ---slab_open---> OWNED ---slab_disown---> PARTIAL, FULL or RETIRING
 *   FULL ---enough blocks are returned---> PARTIAL (or RETIRING, if that was all of them)
 *   PARTIAL ---stage 1---> OWNED            PARTIAL ---the last block is returned---> RETIRING
 *   RETIRING ---release---> EMPTY           RETIRING ---release refused---> PARTIAL
 *   EMPTY ---purge---> TAKEN ---> UNUSED, or EMPTY if the system refuses
 *   TAKEN ---> SPAN_HEAD, SPAN_BODY ---large_return---> EMPTY
 *   SPAN_HEAD, used 0 <---tail_purge---> SPAN_HEAD, used 1: only the pool lock's holder may take it out of the program's hands
 *   UNUSED, EMPTY ---packed_claim---> TAKEN ---> PACKED ---its last page is returned---> EMPTY
 *   SPAN_* ---held_take---> HELD ---held_make---> SPAN_HEAD, SPAN_BODY        HELD ---held_put---> EMPTY
 *
 * Who may change it: the one thread that owns an OWNED slab or holds a TAKEN one; whoever wins the compare-exchange
 * out of PARTIAL or FULL; the thread that made it RETIRING; the holder of the pool lock for UNUSED, EMPTY, PACKED and SPAN_*; who
 * frees the block out of SPAN_*, and the thread that then holds the slots, for HELD.
 * */
enum slab_state {
    SLAB_UNUSED = 0, /* no class; pages untouched or given back, so they read as zero */
    SLAB_EMPTY,      /* no class; pages may hold old data */
    SLAB_TAKEN,      /* in one thread's hands: on its way to OWNED or to a span, or being purged */
    SLAB_OWNED,      /* one thread claims from it */
    SLAB_PARTIAL,    /* nobody's; has free blocks worth a claim; its bit in the class set is (about to be) set */
    SLAB_FULL,       /* nobody's; no free block, or too few: slab_counts_as_full */
    SLAB_RETIRING,   /* no block out; one thread is about to release it */
    SLAB_SPAN_HEAD,  /* first slab of a span or a run */
    SLAB_SPAN_BODY,  /* further slab of a span */
    SLAB_HELD,       /* kept by a thread for its next spans: see span_cache.h */
    SLAB_PACKED      /* pages of packed spans, `used` of them; the others are free: see packed.h */
};

/* State, class and number of blocks out change together, in one word. `used` counts every block that is not a set bit:
 * callers', magazines', and those on their way. It is at most the block count plus what is being returned right now. */
typedef uint32_t slab_ctl; /* state << 24 | class << 16 | used */
#define SLAB_CTL(state, class_id, used) ((slab_ctl)(state) << 24 | (slab_ctl)(class_id) << 16 | (slab_ctl)(used))
#define CTL_STATE(ctl) ((enum slab_state)((ctl) >> 24))
#define CTL_CLASS(ctl) ((unsigned)((ctl) >> 16 & 0xff))
#define CTL_USED(ctl) ((unsigned)((ctl)&0xffff))

#define SLAB_SMALL_WORDS 8  /* bit map words inside the record: up to 512 blocks, classes from 128 bytes */
#define SLAB_MAX_WORDS 128  /* 8192 blocks of 8 bytes */
#define SLAB_FOLLOW_WORD 64 /* of the large map, from where it tells of a slab with gaps which blocks follow others */

/* A packed span, in the record of the slot where it begins. It has more than half of a slot's pages, so in each half of a slot one may
 * begin. A word of 0: there is none. */
#define PACKED_PAGE_BYTES ((size_t)4096)
#define PACKED_PAGES ((unsigned)(SLAB_BYTES / PACKED_PAGE_BYTES)) /* of a slot */
#define PACKED_HEADS 2
#define PACKED_LEAST_PAGES (PACKED_PAGES / PACKED_HEADS + 1)

enum packed_state {
    PACKED_NONE = 0,
    PACKED_LIVE,
    PACKED_HELD,   /* kept by a thread for its next spans: see span_cache.h */
    PACKED_WAITING /* returned by a signal handler, and not yet put back */
};

/* state << 28 | page in its half of the slot << 24 | pages that it has << 12 | pages of what was asked for, the first of these */
#define PACKED_WORD(state, page, pages, asked)                                                                         \
    ((uint32_t)(state) << 28 | (uint32_t)(page) % (PACKED_PAGES / PACKED_HEADS) << 24 | (uint32_t)(pages) << 12 |      \
     (uint32_t)(asked))
#define PACKED_STATE(word) ((enum packed_state)((word) >> 28))
#define PACKED_PAGE(word) ((unsigned)((word) >> 24 & 0xf))
#define PACKED_LENGTH(word) ((unsigned)((word) >> 12 & 0xfff))
#define PACKED_ASKED(word) ((unsigned)((word)&0xfff))

struct packed_head {
    _Atomic uint32_t word; /* Synchronization: atomic */
    union {
        uint64_t sample;                  /* as slab.sample. Who holds the block */
        struct packed_head *next_waiting; /* WAITING */
    };
};

struct superslab;

struct slab {
    _Atomic slab_ctl ctl;         /* Synchronization: atomic */
    _Atomic uint16_t dirty_pages; /* bit p: page p (4 KiB, or the system's if larger) was handed out. Owner */
    _Atomic uint16_t cursor;      /* a hint: no free block below this word. Raised by the owner, lowered by returns */
    uint16_t n_words;             /* of the bit map. Set on acquire */
    uint8_t last_class;           /* of the last acquisition; tells reuse by another class. Pool lock */
    uint8_t idle_waits;           /* in the list of idle.h. Pool lock */
    union {
        /* head: slabs in the span, 0: a run; body: distance to the head. Who holds the slots */
        _Atomic uint16_t span_slabs;
        _Atomic uint16_t packed_pages; /* PACKED: bit p: page p is a packed span's. Pool lock */
    };
    /* blocks in use at the last tick that found it PARTIAL; else see idle_in_slab. Written by ticks */
    _Atomic uint16_t seen_used;
    uint32_t idle_since_ms; /* while idle_waits: when it became empty. Pool lock */
    /* ticks in a row that found seen_used; see is_quiet in purge.c. Written by ticks, who hands out pages */
    _Atomic uint8_t quiet_ticks;
    _Atomic uint8_t gaps;         /* larger blocks may lie in its gaps; see gap.h. Owner */
    _Atomic uint16_t n_following; /* blocks' worth of those beyond the first of each. Synchronization: atomic */
    /* Set on acquire, for who holds the slab or a block of it; others: arena_superslab_of */
    struct superslab *_Atomic superslab;
    char *memory; /* the slab's 64 KiB. Likewise */
    union {
        _Atomic uint64_t *bits; /* small_bits or the large map. Set on acquire */
        /* head of a span: what the heap profile knows of the block; 0: nothing. Who holds the block */
        uint64_t sample;
    };
    union {
        struct {
            _Atomic size_t span_bytes;  /* head: usable bytes, a multiple of the page. Who holds the slots */
            struct slab *next_deferred; /* head: returned by a signal handler, and not yet put back. See large.c */
        };
        struct {
            struct slab *newer, *older;
        } idle; /* while idle_waits. Pool lock */
    };
    union {
        /* set = free. Synchronization: atomic */
        _Alignas(CACHE_LINE_BYTES) _Atomic uint64_t small_bits[SLAB_SMALL_WORDS];
        struct packed_head packed[PACKED_HEADS]; /* PACKED */
    };
};
_Static_assert(sizeof(struct slab) == 128, "32 slab records fill a page");

/* ---- SuperSlabs ------------------------------------------------------------------------------------------------ */

enum superslab_state {
    SUPERSLAB_ABSENT = 0, /* address space only, or committed but empty and purged */
    SUPERSLAB_MAPPING,    /* taken from the arena, on its way into the pool */
    SUPERSLAB_POOLED,     /* in the pool, at a tier */
    SUPERSLAB_CACHED,     /* empty, in the LRU cache */
    SUPERSLAB_RUN,        /* first of a run */
    SUPERSLAB_RUN_BODY,
    SUPERSLAB_LEAVING /* detached, being given back */
};

enum superslab_tier { SS_TIER_HOT = 0, SS_TIER_DRAINING, SS_TIER_FREE };

struct superslab {
    struct arena *arena;
    uint32_t index;         /* in the arena */
    _Atomic uint8_t state;  /* enum superslab_state. Written under the pool lock */
    _Atomic uint8_t tier;   /* enum superslab_tier. Written under the pool lock, read anywhere */
    _Atomic uint8_t rising; /* born or reopened, and not yet half full: not to be drained */
    uint8_t committed;      /* writable. Pool lock, or the thread that maps it */
    uint8_t dirty_by_slab;  /* outside the pool: dirty_pages of its slots tell. Pool lock */
    /* its large bit maps were in use. Raised by slab_open, gaps, hardened mode's spans */
    _Atomic uint8_t has_large_bits;
    uint8_t moved;                     /* pages came here by remapping. Pool lock, or the thread that maps it */
    _Atomic uint8_t huge;              /* the system may use huge pages. Raised by the thread that maps it */
    uint8_t bucket;                    /* number of free slots under which it is listed. Pool lock */
    uint8_t longest_row;               /* of free slots, under which it is listed. Pool lock */
    _Atomic uint32_t pins;             /* references in flight; not given back while > 0 */
    uint32_t unused_slots;             /* bit i: slot i is UNUSED. Pool lock */
    uint32_t empty_slots;              /* bit i: slot i is EMPTY. Pool lock */
    uint32_t aged_slots;               /* bit i: slot i was idle at the last tick already. Pool lock */
    _Atomic uint32_t sparse_ticks;     /* ticks in a row that found it fit for draining. Written under the pool lock */
    uint32_t cached_since_ms;          /* since when it is in the LRU cache. Pool lock */
    uint32_t run_superslabs;           /* RUN, first and last CACHED of a row: its length. Pool lock */
    _Atomic uint32_t closed_slots;     /* bit i: slot i is inaccessible, or was to be (HAKMEM_SECURE=guard) */
    struct superslab *previous, *next; /* in the bucket, among the DRAINING ones, or in the LRU cache. Pool lock */
    struct superslab *row_previous, *row_next; /* POOLED and HOT: among those with as long a row. Pool lock */
    size_t run_bytes;                          /* RUN: usable bytes. Pool lock */
    uint32_t packed_slots;                     /* bit i: slot i is PACKED and has free pages. Pool lock */
    /* the most free pages in a row of which one is in such a slot; 0: it is in no list. Pool lock */
    uint32_t packed_row;
    struct superslab *packed_previous, *packed_next; /* HOT: among those with about as many. Pool lock */
    /* a bit for each page: it is a free one of such a slot. Pool lock */
    uint64_t packed_free[SUPERSLAB_SLABS * PACKED_PAGES / 64];
    /* Outside the pool, unless dirty_by_slab: no page from here on was handed out since the memory was last given back. Pool
     * lock, or the thread that has it in its hands */
    _Atomic uint32_t dirty_prefix_bytes;
};
_Static_assert(sizeof(struct superslab) <= 192, "one SuperSlab record stays within three cache lines");

/* Slots of one SuperSlab that a thread holds. */
struct held_slots {
    struct superslab *ss;
    uint32_t mask;        /* bit i: slot i */
    uint32_t dirty_pages; /* of all of them: how many may be in memory */
};

/* A packed span that a thread holds. */
struct packed_block {
    char *block;
    uint32_t pages;
    uint32_t is_zero; /* 1: it has never been used, and reads as zero */
};

/* ---- Arenas ---------------------------------------------------------------------------------------------------- */

#define CLASS_SET_SLOTS 64 /* class ids fit in 6 bits */

/* One level of a class set: the words of all classes side by side, so that a small heap touches one page. */
struct class_set_row {
    _Atomic uint64_t word[CLASS_SET_SLOTS];
};

struct arena {
    char *base;                 /* 2 MiB-aligned. Constant */
    size_t len_bytes;           /* Constant, but see arena_fit_limit */
    struct arena *_Atomic next; /* in order of creation */
    uint32_t n_superslabs;      /* Likewise */
    _Atomic uint32_t frontier;  /* SuperSlabs below it have committed records. Written under the pool lock */
    _Atomic uint32_t high;      /* SuperSlabs below it have been in use. Written under the pool lock */
    uint32_t first_free_hint;   /* no free SuperSlab below it. Pool lock */
    uint64_t *taken;            /* bit per SuperSlab: in use or cached. Pool lock */
    struct superslab *superslabs;
    struct slab *slabs;
    _Atomic uint64_t *large_bits; /* SLAB_MAX_WORDS per slab */
    struct class_set_row *set0;   /* a bit per slab, a row per 64 slabs */
    struct class_set_row *set1;   /* a bit per row of set0, a row per CHUNK */
    struct class_set_row *set2;   /* a bit per row of set1 */
    _Atomic uint8_t *class_map;   /* per slab: what free() reads, a class offset; see sizeclass.h */
    void *metadata;
    size_t metadata_bytes;
    _Atomic size_t metadata_committed_bytes;
};

static inline char *superslab_memory(const struct superslab *ss)
{
    return ss->arena->base + ((size_t)ss->index << SUPERSLAB_SHIFT);
}

/* A slab's number in its arena, by which the class map, the class sets and the large bit maps have it: of a slot, and of a record. */
static inline size_t superslab_slab_index(const struct superslab *ss, unsigned slot)
{
    return (size_t)ss->index * SUPERSLAB_SLABS + slot;
}

static inline size_t slab_index(const struct arena *arena, const struct slab *slab)
{
    return (size_t)(slab - arena->slabs);
}

static inline struct slab *superslab_slab(const struct superslab *ss, unsigned slot)
{
    return &ss->arena->slabs[superslab_slab_index(ss, slot)];
}

/* Of a slab of this SuperSlab: in which slot it lies. */
static inline unsigned superslab_slot_of(const struct superslab *ss, const struct slab *slab)
{
    return (unsigned)(slab_index(ss->arena, slab) % SUPERSLAB_SLABS);
}

/* The bits of n slots in a row, in one of a SuperSlab's masks. */
static inline uint32_t superslab_slot_mask(unsigned slot, unsigned n)
{
    return (uint32_t)((((uint64_t)1 << n) - 1) << slot);
}

static inline size_t arena_slab_index(const struct arena *arena, const void *address)
{
    return (size_t)((const char *)address - arena->base) >> SLAB_SHIFT;
}

#endif
