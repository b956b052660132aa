/* watch.h - a process that is looked at again and again: its two latest snapshots, and what follows from them. */
#ifndef HAKMEM_TOOLS_WATCH_H
#define HAKMEM_TOOLS_WATCH_H

#include "figures.h"
#include "snapshot.h"
#include "target.h"

enum watch_result {
    WATCH_OK,
    WATCH_ENDED, /* the process is gone; the figures are those of the last look */
    WATCH_FAILED /* it cannot be read; why says why */
};

struct watch {
    struct target target;
    uint64_t n_samples;           /* that succeeded */
    struct snapshot snapshots[2]; /* the latest, and the one before: see watch.c */
    struct figures figures;       /* of the latest; valid once there is a sample */
    char why[TARGET_WHY_BYTES];
};

/* Reads a process that is open. If it has executed another program its memory is another, and it is opened anew. Returns false, and
 * one line in `why`, when it cannot be read. */
bool watch_read(struct target *target, struct snapshot *out, char *why, size_t why_bytes);

/* Opens the process that has this number now, and takes the first sample. Returns false, and why is set, when that fails; then
 * there is nothing to end. */
bool watch_begin(struct watch *watch, pid_t pid);

/* Takes another. After WATCH_OK the figures are new; after anything else they, and the snapshots, are as they were.
 * patience_ms  how long to try: a process that is ending, or executing another program, cannot be read for some moments */
enum watch_result watch_sample(struct watch *watch, unsigned patience_ms);

/* Whether the process is still there. */
bool watch_is_alive(const struct watch *watch);

void watch_end(struct watch *watch);

#endif
