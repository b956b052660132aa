/* config.h - the HAKMEM_ variables: one table, read once, before the first block.
 */
#ifndef HAKMEM_SERVICE_CONFIG_H
#define HAKMEM_SERVICE_CONFIG_H

#include "base/base.h"

#define CONFIG_PATH_MAX_BYTES 1024

enum profile { PROFILE_CONSERVATIVE = 0, PROFILE_HOT, PROFILE_OFF, PROFILE_FULL, N_PROFILES };
enum on_error { ON_ERROR_ABORT = 0, ON_ERROR_WARN };
enum huge_pages { HUGE_PAGES_NEVER = 0, HUGE_PAGES_AUTO, HUGE_PAGES_ALWAYS };
/* What HAKMEM_SECURE switches on; bits. */
enum secure {
    SECURE_CANARY = 1,     /* slack and the block before are checked when a block is freed */
    SECURE_ZERO = 2,       /* freed memory is cleared, and looked at before it is handed out again */
    SECURE_QUARANTINE = 4, /* a freed block is handed out again only after others */
    SECURE_RANDOM = 8,     /* order of blocks, place of arenas */
    SECURE_GUARD = 16,     /* inaccessible pages around large blocks and records; unused slots are inaccessible */
    SECURE_TYPE = 32,      /* new, new[] and malloc; sizes of sized deletes */
    SECURE_ALL = 63,
    SECURE_PAGES = 64 /* every block has pages of its own */
};
enum stats_output { STATS_OFF = 0, STATS_TEXT, STATS_JSON, STATS_FILE };

struct config {
    enum profile profile;
    enum on_error on_error;
    enum stats_output stats;
    char stats_path[CONFIG_PATH_MAX_BYTES]; /* STATS_FILE: a copy, for programs that overwrite their environment */
    size_t lru_superslabs;                  /* most empty SuperSlabs that are kept */
    size_t empty_slabs;                     /* most empty slabs whose pages are kept */
    int64_t purge_delay_ms;                 /* how long an emptied slab waits before its release; -1: for ever */
    size_t arena_bytes;                     /* 0: chosen by the machine */
    enum huge_pages huge_pages;             /* where the system may use huge pages: see superslab_choose_pages */
    /* heaps of more have packed spans (packed.h); no variable, for tests alone */
    size_t packed_heap_bytes;
    size_t budget_soft_bytes, budget_hard_bytes; /* 0: none; soft 0: a part of hard */
    unsigned budget_percent;                     /* of the control group's limit; 0: not so */
    bool budget_auto;                            /* the control group's limit decides whether, and how much */
    unsigned secure;                             /* enum secure */
    uint32_t guard_sample;                       /* one of so many blocks gets a place of its own; 0: none. sampled.h */
    char profile_path[CONFIG_PATH_MAX_BYTES];    /* where the heap profile goes at exit; "": there is none. profile.h */
    size_t profile_interval_bytes;               /* 0: the default */
    bool profile_report;                         /* on stderr instead */
    bool gaps;                                   /* see pool/gap.h */
    bool background;                             /* a thread of our own may give idle memory back */
    bool debug;                                  /* event log, in builds that have it */
};
extern struct config config __attribute__((visibility("hidden")));

extern const char *const profile_names[N_PROFILES];

/* Reads the environment. A value that is not understood is reported in one line, and the default is used. Called once,
 * before the first use. */
void config_read(void);

/* In a set-user-ID program: takes our variables out of the environment, as the dynamic linker does with its own. A program that becomes
 * root altogether and starts another one would hand them to a process that listens to them, and HAKMEM_STATS and HAKMEM_PROFILE
 * name files to be written. Called once, when the library is loaded. */
void config_drop_refused(void);

/* One line per variable: name, values, default, meaning, as `hakmem help variables` prints them. */
struct config_help {
    const char *name, *values, *standard, *meaning;
};
/* Row i of the table, NULL behind the last. */
const struct config_help *config_help_row(size_t i);

#endif
