/* huge_pages.c - see huge_pages.h.
 * Owns     `huge` of SuperSlabs, the list of runs that may not be filled.     Called by  shared_pool.c, span.c, run.c (fresh ones), purge.c, tail.c, packed_pages.c (before parts go back)
 * Calls    os.h, release.h, shared_pool.h (the lock), slab.h; budget.h, config.h, stats.h
 * Threads  any; the records of other SuperSlabs are read as a guess.
 */
#include "pool/huge_pages.h"

#include "os/os.h"
#include "pool/release.h"
#include "pool/shared_pool.h"
#include "service/budget.h"
#include "service/config.h"
#include "service/stats.h"
#include "superslab/slab.h"

#include <string.h>

/* A heap that has grown to so much may hold a huge page of which not all is used: an eighth of it at most. (xmllint: 0.89 of the
 * time of 32 MiB. See docs/memory.md.) */
#define HUGE_HEAP_BYTES (16 * MIB)

/* A larger block may be meant to stay empty for the most part: a huge page for each touch would be ruinous. */
#define HUGE_RUN_MAX_BYTES (64 * MIB)

/* How densely the next SuperSlab will be used: of the slabs in so many before it, the pages handed out tell. */
#define SLABS_SUPERSLABS 16

/* Whether slabs are filled as the heap grows: threads that each begin a slab per class touch a few pages of each, and huge
 * pages would make them use all (bench_workloads threads_100: 58 MiB instead of 9). */
static bool slabs_are_dense(const struct superslab *fresh)
{
    unsigned n_slabs = 0, n_pages = 0, n_all = count_bits(slab_all_pages());
    const struct superslab *first = fresh - (fresh->index < SLABS_SUPERSLABS ? fresh->index : SLABS_SUPERSLABS);
    for (const struct superslab *ss = first; ss < fresh; ss++) {
        if (atomic_load_explicit(&ss->state, memory_order_acquire) != SUPERSLAB_POOLED)
            continue;
        for (unsigned i = 0; i < SUPERSLAB_SLABS; i++) {
            const struct slab *slab = superslab_slab(ss, i);
            enum slab_state state = CTL_STATE(slab_ctl_read(slab));
            if (state != SLAB_OWNED && state != SLAB_PARTIAL && state != SLAB_FULL)
                continue;
            n_slabs++; /* relaxed: a guess */
            n_pages += count_bits(atomic_load_explicit(&slab->dirty_pages, memory_order_relaxed));
        }
    }
    return n_slabs >= SUPERSLAB_SLABS && n_pages * 8 >= n_slabs * n_all * 7;
}

/* Of spans nobody knows how much of them is touched but the system. It is asked about the nearest SPANS_ASKED SuperSlabs before the
 * fresh one that hold spans in small pages: of what was handed out there, all but UNTOUCHED_SIXTEENTHS must be in memory, for what a
 * program leaves untouched stays so. (An answer takes 4 microseconds.) And of the nearest SPANS_SUPERSLABS that hold spans, all but
 * SPARE_SIXTEENTHS must be handed out, as their blocks may leave gaps that nobody fits into; the first SPANS_FILLING of them do not
 * count, for they are often filling still. Behind the first SPARE_SUPERSLABS of an arena gaps are worth more than page faults: all but one
 * sixteenth. (1,500 MiB of blocks of 300,000 bytes, of which six fit into 30 slots: 1.03 times what was written, and 1.16 without.) */
#define UNTOUCHED_SIXTEENTHS 2
#define SPARE_SIXTEENTHS 3
#define SPARE_SUPERSLABS 128
#define SPARE_SIXTEENTHS_BEHIND 1
#define SPANS_ASKED 2
#define SPANS_SUPERSLABS 8
#define SPANS_FILLING 2
#define SPANS_BEFORE 32 /* so far back they are looked for */

enum spans_seen {
    SPANS_FEW,     /* too few in small pages, and in less than a quarter of the SuperSlabs */
    SPANS_UNKNOWN, /* too few in small pages */
    SPANS_UNTOUCHED,
    SPANS_SPARSE,
    SPANS_DENSE
};

/* Bytes handed out of a SuperSlab that holds spans; 0: it holds none. Of most that don't, the class map knows, in one line of the cache. */
static size_t bytes_beside_spans(const struct superslab *ss)
{
    const _Atomic uint8_t *class_map = ss->arena->class_map + (size_t)ss->index * SUPERSLAB_SLABS;
    unsigned n_marked = 0, n_spans = 0;
    size_t sum_bytes = 0;
    for (unsigned i = 0; i < SUPERSLAB_SLABS; i++) /* relaxed: a guess */
        n_marked += atomic_load_explicit(&class_map[i], memory_order_relaxed) == CLASS_SPAN * CLASS_OFFSET_SCALE;
    for (unsigned i = 0; i < SUPERSLAB_SLABS && n_marked != 0; i++) {
        const struct slab *slab = superslab_slab(ss, i);
        enum slab_state state = CTL_STATE(slab_ctl_read(slab));
        n_spans += state == SLAB_SPAN_HEAD || state == SLAB_PACKED;
        sum_bytes += slab_dirty_bytes(slab);
    }
    return n_spans == 0 ? 0 : sum_bytes;
}

static enum spans_seen look_at_spans(const struct superslab *fresh)
{
    size_t asked_bytes = 0, in_memory_bytes = 0, all_bytes = 0, handed_out_bytes = 0;
    unsigned n_seen = 0, n_asked = 0, n_before = fresh->index < SPANS_BEFORE ? fresh->index : SPANS_BEFORE;
    for (unsigned i = 1; i <= n_before && (n_asked < SPANS_ASKED || n_seen < SPANS_SUPERSLABS); i++) {
        const struct superslab *ss = fresh - i;
        if (atomic_load_explicit(&ss->state, memory_order_acquire) != SUPERSLAB_POOLED)
            continue;
        size_t bytes = bytes_beside_spans(ss);
        if (bytes == 0)
            continue;
        n_seen++;
        if (n_seen > SPANS_FILLING && n_seen <= SPANS_SUPERSLABS) {
            all_bytes += SUPERSLAB_BYTES;
            handed_out_bytes += bytes;
        }
        if (n_asked < SPANS_ASKED && !atomic_load(&ss->huge)) {
            n_asked++;
            asked_bytes += bytes;
            in_memory_bytes += os_resident_bytes(superslab_memory(ss), SUPERSLAB_BYTES);
        }
    }
    if (n_asked < SPANS_ASKED || all_bytes == 0)
        return n_seen * 4 < n_before ? SPANS_FEW : SPANS_UNKNOWN;
    if (in_memory_bytes * 16 < asked_bytes * (16 - UNTOUCHED_SIXTEENTHS))
        return SPANS_UNTOUCHED;
    unsigned spare = fresh->index < SPARE_SUPERSLABS ? SPARE_SIXTEENTHS : SPARE_SIXTEENTHS_BEHIND;
    return handed_out_bytes * 16 < all_bytes * (16 - spare) ? SPANS_SPARSE : SPANS_DENSE;
}

/* So that there are always such ones, each so manieth has small pages: in heaps of up to so many SuperSlabs, and above. */
#define PROBE_INTERVAL 8
#define PROBE_SUPERSLABS 64
#define PROBE_INTERVAL_ABOVE 16

static bool is_probe(const struct superslab *fresh)
{
    unsigned interval = fresh->index < PROBE_SUPERSLABS ? PROBE_INTERVAL : PROBE_INTERVAL_ABOVE;
    return fresh->index % interval == interval - 1;
}

/* Whether a heap is so large that some may have huge pages, if the program leaves it to us. */
static bool may_be_huge(void)
{
    return config.huge_pages == HUGE_PAGES_AUTO && stats_read(&stats_counters.mapped_bytes) > HUGE_HEAP_BYTES;
}

bool huge_pages_for_spans(const struct superslab *fresh)
{
    if (config.huge_pages == HUGE_PAGES_ALWAYS)
        return true;
    return may_be_huge() && !is_probe(fresh) && !budget_is_set() && release_may_ask(1) &&
           look_at_spans(fresh) == SPANS_DENSE;
}

/* It will hold spans, too, if those before it do. (200 MB of blocks of 33 to 400 KB of which a third is touched, beside 100 MB of small
 * ones: 170 MB instead of 216.) */
bool huge_pages_for_slabs(const struct superslab *fresh)
{
    if (config.huge_pages == HUGE_PAGES_ALWAYS)
        return true;
    if (!may_be_huge() || budget_presses() || !slabs_are_dense(fresh))
        return false;
    enum spans_seen spans = release_may_ask(1) ? look_at_spans(fresh) : SPANS_FEW;
    return spans == SPANS_FEW || (spans != SPANS_UNTOUCHED && !is_probe(fresh));
}

/* Runs with huge pages that may never be filled: where a program touches but a byte of each, every touch costs 2 MiB. There are
 * UNFILLED_RUNS at most of which neither the middle nor the end has been seen in memory, and what they have there is UNFILLED_BYTES, or
 * one run's; more runs get small pages until these are filled, or gone. (300 blocks of 16 MiB with one byte written in each: 617 MB
 * without, 37 so, glibc 2.) Where the system may not be asked none is seen filled, and all of each may be in memory. */
#define UNFILLED_RUNS 16
#define UNFILLED_BYTES (64 * MIB)

static struct superslab *unfilled[UNFILLED_RUNS]; /* Pool lock. NULL: none */

static bool is_in_memory(const char *address)
{
    size_t page_bytes = os_page_bytes();
    return os_resident_bytes((const void *)((uintptr_t)address & ~(page_bytes - 1)), page_bytes) != 0; /* NOLINT: that block's */
}

/* Where a run is looked at: a touch brings a whole huge page, so there must be two at least, or small ones behind the only one. In
 * hardened mode what lies behind the data is inaccessible, for an unknown length. */
static bool is_filled(const struct superslab *ss, size_t run_bytes)
{
    const char *memory = superslab_memory(ss);
    size_t last = run_bytes < 2 * SUPERSLAB_BYTES ? run_bytes - 1 : (run_bytes & ~(SUPERSLAB_BYTES - 1)) - 1;
    if (run_bytes == SUPERSLAB_BYTES || (config.secure != 0 && run_bytes < 2 * SUPERSLAB_BYTES))
        return false;
    return is_in_memory(memory) && is_in_memory(memory + run_bytes / 2) && (config.secure != 0 || is_in_memory(memory + last));
}

/* Of a run of one huge page nothing can be seen; but of those as long with small pages, the newest that there are. If all of them have been
 * filled, the others count as filled, once: then the oldest is no probe any more, so that there will be another. (By one alone, 1,000 blocks of
 * 2 MiB of which 20 are filled, the others one byte, took 1,279 MiB; 55 would do.) */
#define N_PROBES 4

static struct superslab *_Atomic probe[N_PROBES]; /* Written under the pool lock. NULL: none */
static _Atomic unsigned next_probe;               /* the oldest one's place. Likewise */

static bool probe_is_filled(const struct superslab *ss)
{
    const char *memory;
    if (ss == NULL || ss->state != SUPERSLAB_RUN || ss->run_bytes != SUPERSLAB_BYTES || ss->huge)
        return false;
    memory = superslab_memory(ss);
    return is_in_memory(memory) && is_in_memory(memory + SUPERSLAB_BYTES / 2) &&
           (config.secure != 0 || is_in_memory(memory + SUPERSLAB_BYTES - 1));
}

static bool probes_are_filled(void)
{
    bool filled = true;
    for (unsigned i = 0; i < N_PROBES && filled; i++)
        filled = probe_is_filled(probe[i]);
    return filled;
}

/* A guess: then the next run shall be looked at as soon as it is there. */
static bool a_probe_is_missing(void)
{
    return atomic_load(&probe[atomic_load(&next_probe)]) == NULL;
}

/* Lock held. */
static void note_probe(struct superslab *ss)
{
    for (unsigned i = 0; i < N_PROBES; i++)
        if (probe[i] == ss)
            return;
    probe[next_probe] = ss;
    next_probe = (next_probe + 1) % N_PROBES;
}

/* By the first page of each SuperSlab, for in a huge page all are. (A question takes as long as it has pages.) */
static size_t bytes_in_memory(const struct superslab *ss, size_t run_bytes, bool may_ask)
{
    size_t sum_bytes = may_ask ? 0 : run_bytes;
    for (size_t at = 0; at < run_bytes && sum_bytes < run_bytes; at += SUPERSLAB_BYTES)
        sum_bytes += is_in_memory(superslab_memory(ss) + at) ? SUPERSLAB_BYTES : 0;
    return sum_bytes;
}

/* Copies the list, without those that are gone. Returns how many there are. Lock held. */
static unsigned copy_unfilled(struct superslab **run, size_t *run_bytes)
{
    unsigned n = 0;
    for (unsigned i = 0; i < UNFILLED_RUNS; i++) {
        if (unfilled[i] != NULL && unfilled[i]->state != SUPERSLAB_RUN)
            unfilled[i] = NULL;
        if (unfilled[i] == NULL)
            continue;
        run[n] = unfilled[i];
        run_bytes[n++] = unfilled[i]->run_bytes;
    }
    return n;
}

/* Lock held. */
static void strike_out(struct superslab *const *run, unsigned n)
{
    for (unsigned i = 0; i < UNFILLED_RUNS; i++)
        for (unsigned k = 0; k < n; k++)
            if (unfilled[i] == run[k])
                unfilled[i] = NULL;
}

/* Whether there may be one more. The system is asked without the lock: a run that ends meanwhile is one that was here. */
static bool ask_about_unfilled(void)
{
    struct superslab *run[UNFILLED_RUNS], *filled[UNFILLED_RUNS];
    size_t run_bytes[UNFILLED_RUNS], sum_bytes = 0;
    if (!pool_lock(HAK_LOCK_SPAN))
        return false;
    unsigned n = copy_unfilled(run, run_bytes), n_filled = 0, n_left = 0;
    pool_unlock();
    if (n <= 1)
        return true;
    bool may_ask = release_may_ask(1), singles_are_filled = may_ask && probes_are_filled();
    for (unsigned k = 0; k < n; k++) {
        if ((singles_are_filled && run_bytes[k] == SUPERSLAB_BYTES) || (may_ask && is_filled(run[k], run_bytes[k]))) {
            filled[n_filled++] = run[k];
        } else {
            run[n_left] = run[k];
            run_bytes[n_left++] = run_bytes[k];
        }
    }
    if (n_filled != 0 && pool_lock(HAK_LOCK_SPAN)) {
        strike_out(filled, n_filled);
        if (singles_are_filled)
            probe[next_probe] = NULL;
        pool_unlock();
    }
    if (n_left == UNFILLED_RUNS)
        return false;
    for (unsigned k = 0; k < n_left && sum_bytes < UNFILLED_BYTES; k++)
        sum_bytes += bytes_in_memory(run[k], run_bytes[k], may_ask);
    return n_left <= 1 || sum_bytes < UNFILLED_BYTES;
}

/* A refusal holds for a moment, so that a program that takes large blocks again and again does not ask each time. */
#define REFUSED_MS 10

static bool may_be_unfilled(void)
{
    static _Atomic uint32_t refused_ms; /* when; 0: never */
    uint32_t now_ms = os_now_ms() | 1, refused = atomic_load_explicit(&refused_ms, memory_order_relaxed); /* relaxed: a hint */
    if (refused != 0 && now_ms - refused < REFUSED_MS)
        return false;
    bool may = ask_about_unfilled();
    atomic_store_explicit(&refused_ms, may || a_probe_is_missing() ? 0 : now_ms, memory_order_relaxed);
    return may;
}

void huge_pages_note_run(struct superslab *ss)
{
    unsigned free = UNFILLED_RUNS;
    if (config.huge_pages == HUGE_PAGES_ALWAYS)
        return;
    if (!ss->huge) {
        if (ss->run_bytes == SUPERSLAB_BYTES)
            note_probe(ss);
        return;
    }
    for (unsigned i = 0; i < UNFILLED_RUNS; i++) {
        if (unfilled[i] == ss)
            return;
        if (unfilled[i] == NULL)
            free = i;
    }
    if (free != UNFILLED_RUNS) /* else other threads were quicker: it counts as filled */
        unfilled[free] = ss;
}

void huge_pages_forget_runs(void)
{
    memset(unfilled, 0, sizeof unfilled);
    for (unsigned i = 0; i < N_PROBES; i++)
        atomic_store(&probe[i], NULL);
}

bool huge_pages_for_runs(size_t len_bytes)
{
    if (config.huge_pages == HUGE_PAGES_ALWAYS)
        return true;
    return config.huge_pages == HUGE_PAGES_AUTO && len_bytes <= HUGE_RUN_MAX_BYTES && !budget_presses() &&
           may_be_unfilled();
}

void superslab_choose_pages(struct superslab *ss, uint32_t n, uint32_t n_huge)
{
    /* Small pages would keep the system from using a huge one, and cost more than a huge one does: one by one, they are
     * mostly missing. */
    for (uint32_t i = 0; i < n_huge; i++)
        if (!superslab_is_clean(ss + i) && !ss[i].huge && os_purge(superslab_memory(ss + i), SUPERSLAB_BYTES))
            superslab_forget_slots(ss + i, true);
    for (uint32_t i = 0; i < n;) {
        uint32_t end = i;
        bool huge = i < n_huge;
        while (end < n && superslab_is_clean(ss + end) && ss[end].huge != huge && huge == (end < n_huge))
            ss[end++].huge = huge;
        if (end > i)
            os_advise_huge(superslab_memory(ss + i), (size_t)(end - i) << SUPERSLAB_SHIFT, huge);
        i = end > i ? end : i + 1;
    }
}

void superslab_use_small_pages(struct superslab *ss)
{
    if (atomic_exchange(&ss->huge, 0) == 0)
        return;
    os_advise_huge(superslab_memory(ss), SUPERSLAB_BYTES, false);
    os_split_huge_page(superslab_memory(ss));
}
