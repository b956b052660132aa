/* snapshot.h - a copy of another process's heap records, as plain data: what `hakmem top`, `map`, `check` and `metrics` show.
 *
 * The other process needs nothing for it: no thread, no hook, no signal. Its records are read by process_vm_readv, found by
 * the ELF note of the library (or of the program that it is linked into), and may change while they are read: a count may be
 * off by what was in flight, an entry that makes no sense is read again, and then counted in n_torn. Whatever was read, every
 * count and state in here is within its bounds: class ids are those of classes, slots of a span lie in their SuperSlab.
 *
 * Cost: the records are read once, 2.1 MiB for each GiB of small blocks and 100 KiB for each GiB of large ones, and 5 KiB for each
 * thread (6 in hardened mode), by one system call for each stretch of SuperSlabs and each thread. The process gets no memory by it.
 */
#ifndef HAKMEM_TOOLS_SNAPSHOT_H
#define HAKMEM_TOOLS_SNAPSHOT_H

#include "api/census.h"
#include "meta/layout.h"
#include "meta/sizeclass.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/* One slot of a SuperSlab: a slab of 64 KiB, part of a span, pages of packed spans, or nothing. */
struct snapshot_slot {
    uint8_t state;         /* enum slab_state */
    uint8_t class_id;      /* of a slab with a class, else 0 */
    uint16_t used;         /* blocks out: callers', magazines', and those on their way */
    uint16_t n_blocks;     /* that it has room for */
    uint16_t dirty_pages;  /* bit p: page p, of snapshot.slab_page_bytes, may be in memory */
    uint16_t span_slabs;   /* head of a span: its slots */
    uint16_t packed_pages; /* PACKED: bit p: page p, of 4 KiB, is in a block */
    uint8_t packed_spans;  /* PACKED: blocks of the program's that begin in it */
    uint64_t span_bytes;   /* head of a span: usable bytes; PACKED: those of these blocks */
};

struct snapshot_superslab {
    uint64_t address;
    uint32_t arena;                             /* its number, in order of creation */
    uint8_t state;                              /* enum superslab_state; ABSENT ones are left out */
    uint8_t tier;                               /* enum superslab_tier, if POOLED */
    uint32_t run_superslabs;                    /* RUN: how many in a row */
    uint64_t run_bytes;                         /* RUN: usable bytes */
    uint32_t dirty_prefix_bytes;                /* not POOLED: so much may be in memory; of a run, from its beginning */
    struct snapshot_slot slot[SUPERSLAB_SLABS]; /* POOLED */
};

struct snapshot {
    pid_t pid;
    char name[64];           /* the program's, by /proc/PID/comm */
    char version[16];        /* of the library in it */
    char profile[16];        /* HAKMEM_TINY_PROFILE in force */
    uint64_t time_ns;        /* CLOCK_MONOTONIC, when the reading began */
    uint64_t resident_bytes; /* the whole process, by /proc; 0: not told */
    size_t slab_page_bytes;
    uint32_t n_torn;      /* records that could not be read in one piece */
    struct census census; /* the sums, by the code that hak_stats_get runs */
    size_t n_threads;
    struct census_thread *threads; /* those that there are, in no order */
    size_t n_superslabs;
    struct snapshot_superslab *superslabs; /* by address */
};

/* Reads the heap of a process. Returns 0 and fills *out, to be given to snapshot_free; or -1, and one line that says why, without
 * a newline, is in `why`: no such process, no permission, not on hakmem, another version. */
int snapshot_take(pid_t pid, struct snapshot *out, char *why, size_t why_bytes);

/* The same of a process that is open already: for who looks at it again and again. */
struct target;
int snapshot_read(struct target *target, struct snapshot *out, char *why, size_t why_bytes);

void snapshot_free(struct snapshot *snapshot);

#endif
