/* huge_probes.h - what can be seen of the runs that have huge pages: whether they are filled, and how densely.
 *
 * Of a huge page all is in memory if a byte is used. So some runs, the probes, have small pages, all or some; what they tell holds for the
 * others for a while.
 */
#ifndef HAKMEM_POOL_HUGE_PROBES_H
#define HAKMEM_POOL_HUGE_PROBES_H

#include "meta/layout.h"

/* A larger block may be meant to stay empty for the most part: a huge page for each touch would be ruinous. */
#define HUGE_RUN_MAX_BYTES (64 * MIB)

/* Whether the page at an address of a run is in memory. The system is asked: not under the lock. */
bool probes_page_is_in_memory(const char *address);

/* Whether a run has been filled, by its beginning, its middle and its end. Never so for one of a single huge page. Likewise. */
bool probes_run_is_filled(const struct superslab *ss, size_t run_bytes);

/* The probes that are there still, as they were at one moment, and their lengths: a run may end at any time. */
#define N_PROBES 4
struct probes_seen {
    struct superslab *of[N_PROBES]; /* NULL: none */
    size_t run_bytes[N_PROBES];
};
struct probes_copy {
    struct probes_seen singles; /* runs of one SuperSlab, with small pages */
    struct probes_seen longer;  /* longer ones, of which the last SuperSlab has small pages */
    struct probes_seen heads;   /* those of any length of which the first one has */
    bool longer_are_trusted;    /* without a look */
    bool heads_are_trusted;     /* to be dense, likewise */
};

/* Lock held. */
void probes_copy(struct probes_copy *copy);

/* Whether runs of one SuperSlab count as filled; whether longer ones that are filled count as dense. Not under the lock. */
bool probes_tell_filled(const struct probes_copy *copy);
bool probes_tell_dense(const struct probes_copy *copy);

/* How densely the used parts of runs are used, by the first SuperSlabs of some. Likewise. */
enum probes_heads { HEADS_UNKNOWN, HEADS_SPARSE, HEADS_DENSE };
enum probes_heads probes_tell_heads(const struct probes_copy *copy);

/* A run has got huge pages because heads are dense: looked_at, or trusted to be. Lock held. */
void probes_used_heads(bool looked_at);

/* Runs have been counted as filled by what the probes told, so another one is to come: of one SuperSlab; longer ones. Lock held. */
void probes_used_singles(void);
void probes_used_longer(void);

/* Whether a run of len_bytes is to be a probe of the longer ones. */
bool probes_want(const struct probes_copy *copy, size_t len_bytes);

/* A guess: then the next run of the length shall be looked at as soon as it is there. */
bool probes_lack_one(size_t len_bytes);

/* A run is there, or has become longer: it is a probe if its first or its last SuperSlab has small pages. Lock held. */
void probes_note(struct superslab *ss);

/* In the child of a fork. */
void probes_forget(void);

#endif
