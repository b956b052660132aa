/* watch.h - a process that is looked at again and again: its two latest snapshots, and what follows from them. */
#ifndef HAKMEM_TOOLS_WATCH_H
#define HAKMEM_TOOLS_WATCH_H

#include "figures.h"
#include "process.h"
#include "snapshot.h"

enum watch_result {
    WATCH_OK,
    WATCH_ENDED, /* the process is gone; the figures are those of the last look */
    WATCH_FAILED /* it cannot be read; why says why */
};

struct watch {
    struct process process;
    uint64_t n_samples;           /* that succeeded */
    struct snapshot snapshots[2]; /* the latest, and the one before: see watch.c */
    struct figures figures;       /* of the latest; valid once there is a sample */
    char why[512];
};

/* Begins with the process that has this number now. watch_end ends it, whatever came between. */
void watch_begin(struct watch *watch, pid_t pid);

/* Takes a snapshot. After WATCH_OK the figures are new; after anything else they, and the snapshots, are as they were. */
enum watch_result watch_sample(struct watch *watch);

void watch_end(struct watch *watch);

#endif
