/* anchor.h - where an outside reader begins: addresses of all that tells about the heap, and what they are addresses of.
 *
 * The hakmem command reads the heap of a running process from outside. It finds the library, or the program that the library
 * was linked into, by an ELF note that is mapped with it; the note says how far from itself the anchor lies; the anchor says
 * the rest. None of this needs a symbol, so it is there after stripping, in a static program, and while the process is stopped.
 *
 *   ELF header -> PT_NOTE -> note of owner "hakmem" -> struct anchor -> arenas, threads, counters, ...
 *
 * The reader trusts the records only if layout_version and every size are its own.
 */
#ifndef HAKMEM_API_ANCHOR_H
#define HAKMEM_API_ANCHOR_H

#include "base/base.h"

#define ANCHOR_NOTE_OWNER "hakmem"                  /* with its final 0, the name of the note */
#define ANCHOR_NOTE_TYPE 1                          /* its text is 8 bytes: from their own address to the anchor */
#define ANCHOR_MAGIC ((uint64_t)0x726f68636e614b48) /* "HKanchor" */
#define ANCHOR_VERSION_BYTES 16

struct arena;
struct budget;
struct class_info;
struct config;
struct guarded_figures;
struct lock;
struct pool_state;
struct profile_state;
struct sampled_figures;
struct stats_counters;
struct thread;

/* sizeof of each. No change of a structure goes unnoticed but one that keeps its size: that counts LAYOUT_VERSION up. */
struct anchor_sizes {
    uint32_t anchor, arena, superslab, slab, thread, magazine, class_info, counters, pool_state, budget, config,
        quarantine, sampled_figures, guarded_figures, profile_state, profile_record;
};

/* Down to sizes.anchor all stays where it is in every version, so that a reader of another one can say which versions they are. */
struct anchor {
    uint64_t magic;                     /* ANCHOR_MAGIC */
    const struct anchor *self;          /* its own address: it is loaded, and not only a part of a mapped file */
    char version[ANCHOR_VERSION_BYTES]; /* of the library, as hak_version says it */
    uint32_t layout_version;            /* LAYOUT_VERSION */
    struct anchor_sizes sizes;
    struct arena *_Atomic *arenas; /* the first; further ones by their `next`, as of all lists here */
    struct thread *_Atomic *threads;
    const struct class_info *classes; /* CLASS_SET_SLOTS of them */
    struct stats_counters *counters;
    struct pool_state *pool;
    struct lock *pool_lock;
    struct budget *budget;
    const struct config *config;
    const size_t *page_bytes; /* the system's */
    _Atomic size_t *metapool_bytes;
    struct sampled_figures *sampled;
    struct guarded_figures *guarded;
    struct profile_state *profile; /* front/profile.h */
    _Atomic uint32_t *cut_off;     /* front/thread.h: in the child of a fork */
};
extern const struct anchor hakmem_anchor __attribute__((visibility("hidden")));

#endif
