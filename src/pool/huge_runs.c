/* huge_runs.c - which runs have huge pages: huge_pages_for_run of huge_pages.h, and what it must know.
 * Owns     the list of runs that may not be filled, and the probes.     Called by  run.c
 * Calls    os.h, release.h, shared_pool.h (the lock); budget.h, config.h
 * Threads  any; the lists under the pool lock, the system is asked without it.
 */
#include "pool/huge_pages.h"

#include "os/os.h"
#include "pool/release.h"
#include "pool/shared_pool.h"
#include "service/budget.h"
#include "service/config.h"

#include <string.h>

/* A larger block may be meant to stay empty for the most part: a huge page for each touch would be ruinous. */
#define HUGE_RUN_MAX_BYTES (64 * MIB)

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
 * 2 MiB of which 20 are filled, the others one byte, took 1,279 MiB; 55 would do.)
 * A longer run tells itself that it is filled, but not how densely: of a huge page all is in memory if a byte is used. So of some the last
 * SuperSlab has small pages, where half of what may be unfilled is. What they tell holds for as many times UNFILLED_BYTES as all before
 * them, up to TRUST_MAX. (64 blocks of 8 MiB of which every tenth page is used: 513 MiB without, 115 so.) */
#define N_PROBES 4
#define TRUST_MAX 8

struct probes {
    struct superslab *_Atomic of[N_PROBES]; /* Written under the pool lock. NULL: none */
    _Atomic unsigned next;                  /* the oldest one's place. Likewise */
};

static struct probes singles, longer;
static _Atomic unsigned trust, trust_left; /* of the longer ones. Written under the pool lock */

/* The last SuperSlab that a run fills. */
static uint32_t last_whole(size_t run_bytes)
{
    return (uint32_t)(run_bytes >> SUPERSLAB_SHIFT) - 1;
}

/* Those that are there still, with their lengths. The place of one that is gone stays NULL. Lock held. */
struct probes_seen {
    struct superslab *of[N_PROBES];
    size_t run_bytes[N_PROBES];
};

static void copy_probes(const struct probes *probes, bool single, struct probes_seen *seen)
{
    for (unsigned i = 0; i < N_PROBES; i++) {
        struct superslab *ss = probes->of[i];
        if (ss == NULL || ss->state != SUPERSLAB_RUN || ss->run_bytes < SUPERSLAB_BYTES || ss->run_bytes > HUGE_RUN_MAX_BYTES ||
            (ss->run_bytes == SUPERSLAB_BYTES) != single || ss[last_whole(ss->run_bytes)].huge)
            ss = NULL;
        seen->of[i] = ss;
        seen->run_bytes[i] = ss == NULL ? 0 : ss->run_bytes;
    }
}

static bool single_is_filled(const struct superslab *ss)
{
    const char *memory = superslab_memory(ss);
    return is_in_memory(memory) && is_in_memory(memory + SUPERSLAB_BYTES / 2) &&
           (config.secure != 0 || is_in_memory(memory + SUPERSLAB_BYTES - 1));
}

static bool has_any(const struct probes_seen *seen)
{
    bool any = false;
    for (unsigned i = 0; i < N_PROBES; i++)
        any |= seen->of[i] != NULL;
    return any;
}

/* Whether there are so many as there can be, and all are filled. */
static bool singles_are_filled(const struct probes_seen *seen)
{
    for (unsigned i = 0; i < N_PROBES; i++)
        if (seen->of[i] == NULL || !single_is_filled(seen->of[i]))
            return false;
    return true;
}

static bool is_dense(const struct superslab *ss, size_t run_bytes)
{
    const char *last = superslab_memory(ss) + ((size_t)last_whole(run_bytes) << SUPERSLAB_SHIFT);
    return os_resident_bytes(last, SUPERSLAB_BYTES) >= SUPERSLAB_BYTES / 8 * 7;
}

/* Whether there are filled ones, and all of them are dense. */
static bool longer_are_dense(const struct probes_seen *seen)
{
    bool any = false;
    for (unsigned i = 0; i < N_PROBES; i++) {
        if (seen->of[i] == NULL || !is_filled(seen->of[i], seen->run_bytes[i]))
            continue;
        if (!is_dense(seen->of[i], seen->run_bytes[i]))
            return false;
        any = true;
    }
    return any;
}

static struct probes *probes_for(size_t len_bytes)
{
    return len_bytes == SUPERSLAB_BYTES ? &singles : &longer;
}

/* A guess: then the next run of the length shall be looked at as soon as it is there. */
static bool a_probe_is_missing(size_t len_bytes)
{
    const struct probes *probes = probes_for(len_bytes);
    return atomic_load(&probes->of[atomic_load(&probes->next)]) == NULL;
}

/* Lock held. */
static void note_probe(struct superslab *ss)
{
    struct probes *probes = probes_for(ss->run_bytes);
    for (unsigned i = 0; i < N_PROBES; i++)
        if (probes->of[i] == ss)
            return;
    probes->of[probes->next] = ss;
    probes->next = (probes->next + 1) % N_PROBES;
}

static void forget_probes(struct probes *probes)
{
    for (unsigned i = 0; i < N_PROBES; i++)
        atomic_store(&probes->of[i], NULL);
}

/* Longer runs were taken to be filled. Lock held. */
static void use_trust(void)
{
    if (trust_left != 0) {
        trust_left--;
        return;
    }
    trust = trust == 0 ? 1 : trust < TRUST_MAX ? trust * 2 : TRUST_MAX;
    trust_left = trust - 1;
    forget_probes(&longer);
}

/* By the first page of each SuperSlab, for in a huge page all are. (A question takes as long as it has pages.) */
static size_t bytes_in_memory(const struct superslab *ss, size_t run_bytes, bool may_ask)
{
    size_t sum_bytes = may_ask ? 0 : run_bytes;
    for (size_t at = 0; at < run_bytes && sum_bytes < run_bytes; at += SUPERSLAB_BYTES)
        sum_bytes += is_in_memory(superslab_memory(ss) + at) ? SUPERSLAB_BYTES : 0;
    return sum_bytes;
}

/* Copies the list, without those that are gone, and one run. Returns how many there are. Lock held. */
static unsigned copy_unfilled(const struct superslab *except, struct superslab **run, size_t *run_bytes)
{
    unsigned n = 0;
    for (unsigned i = 0; i < UNFILLED_RUNS; i++) {
        if (unfilled[i] != NULL && unfilled[i]->state != SUPERSLAB_RUN)
            unfilled[i] = NULL;
        if (unfilled[i] == NULL || unfilled[i] == except)
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

/* Which of n runs that may not be filled are. The system is asked, without the lock: a run that ends meanwhile is one that was here.
 * Returns how many are left, moved to the beginning. */
static unsigned strike_out_filled(struct superslab **run, size_t *run_bytes, unsigned n, const struct probes_seen *single_probes,
                                  const struct probes_seen *longer_probes)
{
    struct superslab *filled[UNFILLED_RUNS];
    unsigned n_filled = 0, n_left = 0, n_longer = 0;
    bool single_filled = singles_are_filled(single_probes), longer_filled = trust_left != 0 || longer_are_dense(longer_probes);
    for (unsigned k = 0; k < n; k++) {
        bool single = run_bytes[k] == SUPERSLAB_BYTES;
        if (single ? single_filled : longer_filled && is_filled(run[k], run_bytes[k])) {
            filled[n_filled++] = run[k];
            n_longer += !single;
        } else {
            run[n_left] = run[k];
            run_bytes[n_left++] = run_bytes[k];
        }
    }
    if (n_filled != 0 && pool_lock(HAK_LOCK_SPAN)) {
        strike_out(filled, n_filled);
        if (single_filled)
            singles.of[singles.next] = NULL;
        if (n_longer != 0)
            use_trust();
        pool_unlock();
    }
    return n_left;
}

/* Whether there is a run of which only the density is unknown. */
static bool any_is_filled(struct superslab *const *run, const size_t *run_bytes, unsigned n)
{
    for (unsigned k = 0; k < n; k++)
        if (is_filled(run[k], run_bytes[k]))
            return true;
    return false;
}

enum answer { ANSWER_NO, ANSWER_PROBE, ANSWER_YES };

/* Whether there may be one more, of len_bytes, beside `except`, which is to become it. */
static enum answer ask_about_unfilled(const struct superslab *except, size_t len_bytes)
{
    struct superslab *run[UNFILLED_RUNS];
    size_t run_bytes[UNFILLED_RUNS], sum_bytes = 0;
    if (!pool_lock(HAK_LOCK_SPAN))
        return ANSWER_NO;
    struct probes_seen single_probes, longer_probes;
    unsigned n = copy_unfilled(except, run, run_bytes);
    copy_probes(&singles, true, &single_probes);
    copy_probes(&longer, false, &longer_probes);
    bool wants_probe = len_bytes >= 2 * SUPERSLAB_BYTES && trust_left == 0 && !has_any(&longer_probes);
    pool_unlock();
    for (unsigned k = 0; k < n; k++)
        sum_bytes += run_bytes[k];
    enum answer yes = wants_probe && (n >= UNFILLED_RUNS / 2 || sum_bytes >= UNFILLED_BYTES / 2) ? ANSWER_PROBE : ANSWER_YES;
    if (n <= 1 || (n < UNFILLED_RUNS && sum_bytes < UNFILLED_BYTES)) /* whatever of them is in memory: nobody is asked */
        return yes;
    bool may_ask = release_may_ask(1);
    unsigned n_left = may_ask ? strike_out_filled(run, run_bytes, n, &single_probes, &longer_probes) : n;
    enum answer no = wants_probe && may_ask && any_is_filled(run, run_bytes, n_left) ? ANSWER_PROBE : ANSWER_NO;
    if (n_left == UNFILLED_RUNS)
        return no;
    sum_bytes = 0;
    for (unsigned k = 0; k < n_left && sum_bytes < UNFILLED_BYTES; k++)
        sum_bytes += bytes_in_memory(run[k], run_bytes[k], may_ask);
    return n_left <= 1 || sum_bytes < UNFILLED_BYTES ? yes : no;
}

/* A refusal holds for a moment, so that a program that takes large blocks again and again does not ask each time. */
#define REFUSED_MS 10

static enum answer may_be_unfilled(const struct superslab *except, size_t len_bytes)
{
    static _Atomic uint32_t refused_ms; /* when; 0: never */
    uint32_t now_ms = os_now_ms() | 1, refused = atomic_load_explicit(&refused_ms, memory_order_relaxed); /* relaxed: a hint */
    if (refused != 0 && now_ms - refused < REFUSED_MS)
        return ANSWER_NO;
    enum answer answer = ask_about_unfilled(except, len_bytes);
    atomic_store_explicit(&refused_ms, answer != ANSWER_NO || a_probe_is_missing(len_bytes) ? 0 : now_ms, memory_order_relaxed);
    return answer;
}

void huge_pages_note_run(struct superslab *ss)
{
    unsigned free = UNFILLED_RUNS;
    if (config.huge_pages == HUGE_PAGES_ALWAYS || ss->run_bytes < SUPERSLAB_BYTES || ss->run_bytes > HUGE_RUN_MAX_BYTES)
        return;
    if (!ss[last_whole(ss->run_bytes)].huge)
        note_probe(ss);
    if (!ss->huge)
        return;
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
    forget_probes(&singles);
    forget_probes(&longer);
}

uint32_t huge_pages_for_run(const struct superslab *grown, size_t len_bytes)
{
    uint32_t n_whole = (uint32_t)(len_bytes >> SUPERSLAB_SHIFT);
    if (config.huge_pages == HUGE_PAGES_ALWAYS)
        return n_whole;
    if (config.huge_pages != HUGE_PAGES_AUTO || !huge_pages_fit() || len_bytes > HUGE_RUN_MAX_BYTES || budget_presses())
        return 0;
    switch (may_be_unfilled(grown, len_bytes)) {
    case ANSWER_YES:
        return n_whole;
    case ANSWER_PROBE:
        return n_whole - 1;
    default:
        return 0;
    }
}
