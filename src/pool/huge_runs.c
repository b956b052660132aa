/* huge_runs.c - which runs have huge pages: huge_pages_for_runs of huge_pages.h, and what it must know.
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

/* A guess: then the next run of 2 MiB shall be looked at as soon as it is there. */
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
    for (unsigned k = 0; k < n; k++)
        sum_bytes += run_bytes[k];
    if (n <= 1 || (n < UNFILLED_RUNS && sum_bytes < UNFILLED_BYTES)) /* whatever of them is in memory: nobody is asked */
        return true;
    sum_bytes = 0;
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

static bool may_be_unfilled(size_t len_bytes)
{
    static _Atomic uint32_t refused_ms; /* when; 0: never */
    uint32_t now_ms = os_now_ms() | 1, refused = atomic_load_explicit(&refused_ms, memory_order_relaxed); /* relaxed: a hint */
    if (refused != 0 && now_ms - refused < REFUSED_MS)
        return false;
    bool may = ask_about_unfilled();
    atomic_store_explicit(&refused_ms, may || (len_bytes == SUPERSLAB_BYTES && a_probe_is_missing()) ? 0 : now_ms, memory_order_relaxed);
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
    return config.huge_pages == HUGE_PAGES_AUTO && huge_pages_fit() && len_bytes <= HUGE_RUN_MAX_BYTES &&
           !budget_presses() && may_be_unfilled(len_bytes);
}
