/* huge_runs.c - which runs have huge pages: huge_pages_for_run of huge_pages.h, and what it must know.
 * Owns     the list of runs that may not be filled.     Called by  run.c, repair.c (fork)
 * Calls    huge_probes.h, os.h, release.h, shared_pool.h (the lock); budget.h, config.h
 * Threads  any; the list under the pool lock, the system is asked without it.
 */
#include "pool/huge_pages.h"

#include "os/os.h"
#include "pool/huge_probes.h"
#include "pool/release.h"
#include "pool/shared_pool.h"
#include "service/budget.h"
#include "service/config.h"

#include <string.h>

/* Runs with huge pages that may never be filled: where a program touches but a byte of each, every touch costs 2 MiB. There are
 * UNFILLED_RUNS at most of which neither the middle nor the end has been seen in memory, and what they have there is UNFILLED_BYTES, or
 * one run's; more runs get small pages until these are filled, or gone. (300 blocks of 16 MiB with one byte written in each: 617 MB
 * without, 37 so, glibc 2.) Where the system may not be asked none is seen filled, and all of each may be in memory. */
#define UNFILLED_RUNS 16
#define UNFILLED_BYTES (64 * MIB)

/* So much where it is not known that what is used of such runs is used densely, as by who fills them from the beginning. The first SuperSlabs of
 * some tell, which have small pages. (A directory server's threads keep five blocks of 3 and of 18 MiB, of which they use some pages here and
 * there: 42 MiB of anonymous memory with 64, 16.6 so, glibc 16.1.) */
#define UNFILLED_SPARSE_BYTES (2 * MIB)

static struct superslab *unfilled[UNFILLED_RUNS]; /* Pool lock. NULL: none */

/* Some of them, as they were at one moment, and their lengths: a run that ends meanwhile is one that was here. */
struct runs {
    struct superslab *of[UNFILLED_RUNS];
    size_t run_bytes[UNFILLED_RUNS];
    unsigned n;
};

static void add_run(struct runs *runs, struct superslab *ss, size_t run_bytes)
{
    runs->of[runs->n] = ss;
    runs->run_bytes[runs->n++] = run_bytes;
}

/* Without those that are gone, and one run. Lock held. */
static struct runs copy_unfilled(const struct superslab *except)
{
    struct runs runs = {.n = 0};
    for (unsigned i = 0; i < UNFILLED_RUNS; i++) {
        if (unfilled[i] != NULL && unfilled[i]->state != SUPERSLAB_RUN)
            unfilled[i] = NULL;
        if (unfilled[i] != NULL && unfilled[i] != except)
            add_run(&runs, unfilled[i], unfilled[i]->run_bytes);
    }
    return runs;
}

/* Lock held. */
static void strike_out(const struct runs *runs)
{
    for (unsigned i = 0; i < UNFILLED_RUNS; i++)
        for (unsigned k = 0; k < runs->n; k++)
            if (unfilled[i] == runs->of[k])
                unfilled[i] = NULL;
}

/* Strikes out those that are filled. Returns the others. Not under the lock. */
static struct runs strike_out_filled(const struct runs *runs, const struct probes_copy *probes)
{
    struct runs filled = {.n = 0}, left = {.n = 0};
    unsigned n_longer = 0;
    bool singles_are_filled = probes_tell_filled(probes), longer_are_dense = probes_tell_dense(probes);
    for (unsigned k = 0; k < runs->n; k++) {
        bool single = runs->run_bytes[k] == SUPERSLAB_BYTES;
        bool is_filled =
            single ? singles_are_filled : longer_are_dense && probes_run_is_filled(runs->of[k], runs->run_bytes[k]);
        add_run(is_filled ? &filled : &left, runs->of[k], runs->run_bytes[k]);
        n_longer += is_filled && !single;
    }
    if (filled.n != 0 && pool_lock(HAK_LOCK_SPAN)) {
        strike_out(&filled);
        if (singles_are_filled)
            probes_used_singles();
        if (n_longer != 0)
            probes_used_longer();
        pool_unlock();
    }
    return left;
}

/* Whether there is a run of which only the density is unknown. */
static bool any_is_filled(const struct runs *runs)
{
    for (unsigned k = 0; k < runs->n; k++)
        if (probes_run_is_filled(runs->of[k], runs->run_bytes[k]))
            return true;
    return false;
}

static size_t all_bytes(const struct runs *runs)
{
    size_t sum_bytes = 0;
    for (unsigned k = 0; k < runs->n; k++)
        sum_bytes += runs->run_bytes[k];
    return sum_bytes;
}

/* Up to UNFILLED_BYTES. By the first page of each SuperSlab, for in a huge page all are. (A question takes as long as it has pages.) */
static size_t bytes_in_memory(const struct runs *runs)
{
    size_t sum_bytes = 0;
    for (unsigned k = 0; k < runs->n; k++)
        for (size_t at = 0; at < runs->run_bytes[k] && sum_bytes < UNFILLED_BYTES; at += SUPERSLAB_BYTES)
            sum_bytes += probes_page_is_in_memory(superslab_memory(runs->of[k]) + at) ? SUPERSLAB_BYTES : 0;
    return sum_bytes;
}

/* Small pages for all, or for the first SuperSlab, or the last one that is filled; or for none. */
enum answer { ANSWER_NO, ANSWER_SMALL_HEAD, ANSWER_SMALL_END, ANSWER_YES };

/* What is used of the runs is more than may be, if it is not dense. */
static enum answer ask_about_heads(const struct probes_copy *probes, enum answer yes, bool grows)
{
    enum probes_heads heads = probes_tell_heads(probes);
    if (heads == HEADS_UNKNOWN)
        return grows ? yes : ANSWER_SMALL_HEAD;
    if (heads == HEADS_SPARSE || !pool_lock(HAK_LOCK_SPAN))
        return ANSWER_NO;
    probes_used_heads(true);
    pool_unlock();
    return yes;
}

/* Whether there may be one more, of len_bytes, beside `except`, which is to become it. */
static enum answer ask_about_unfilled(const struct superslab *except, size_t len_bytes)
{
    struct probes_copy probes;
    if (!pool_lock(HAK_LOCK_SPAN))
        return ANSWER_NO;
    struct runs runs = copy_unfilled(except);
    size_t sum_bytes = all_bytes(&runs);
    probes_copy(&probes);
    if (probes.heads_are_trusted && sum_bytes >= UNFILLED_SPARSE_BYTES)
        probes_used_heads(false);
    pool_unlock();
    size_t most_bytes = probes.heads_are_trusted ? UNFILLED_BYTES : UNFILLED_SPARSE_BYTES;
    bool wants_probe = probes_want(&probes, len_bytes);
    enum answer yes =
        wants_probe && (runs.n >= UNFILLED_RUNS / 2 || sum_bytes >= UNFILLED_BYTES / 2) ? ANSWER_SMALL_END : ANSWER_YES;
    /* whatever of them is in memory: nobody is asked */
    if (runs.n == 0 || (runs.n < UNFILLED_RUNS && sum_bytes < most_bytes))
        return yes;
    if (!release_may_ask(1)) /* all of them is in memory */
        return runs.n <= 1 || (runs.n < UNFILLED_RUNS && sum_bytes < UNFILLED_BYTES) ? yes : ANSWER_NO;
    runs = strike_out_filled(&runs, &probes);
    size_t in_memory_bytes = bytes_in_memory(&runs);
    if (runs.n < UNFILLED_RUNS && in_memory_bytes < most_bytes)
        return yes;
    if (runs.n < UNFILLED_RUNS && in_memory_bytes < UNFILLED_BYTES)
        return ask_about_heads(&probes, yes, except != NULL);
    return wants_probe && any_is_filled(&runs) ? ANSWER_SMALL_END : ANSWER_NO;
}

/* A refusal holds for a moment, so that a program that takes large blocks again and again does not ask each time. */
#define REFUSED_MS 10

static enum answer may_be_unfilled(const struct superslab *except, size_t len_bytes)
{
    static _Atomic uint32_t refused_ms; /* when; 0: never */
    /* relaxed: a hint */
    uint32_t now_ms = os_now_ms() | 1, refused = atomic_load_explicit(&refused_ms, memory_order_relaxed);
    if (refused != 0 && now_ms - refused < REFUSED_MS)
        return ANSWER_NO;
    enum answer answer = ask_about_unfilled(except, len_bytes);
    atomic_store_explicit(&refused_ms, answer != ANSWER_NO || probes_lack_one(len_bytes) ? 0 : now_ms,
                          memory_order_relaxed);
    return answer;
}

void huge_pages_note_run(struct superslab *ss)
{
    unsigned free = UNFILLED_RUNS;
    if (ss->run_bytes < SUPERSLAB_BYTES || ss->run_bytes > HUGE_RUN_MAX_BYTES)
        return;
    probes_note(ss);
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
    probes_forget();
}

struct huge_part huge_pages_for_run(const struct superslab *grown, size_t len_bytes)
{
    uint32_t n_whole = (uint32_t)(len_bytes >> SUPERSLAB_SHIFT);
    const struct huge_part none = {0}, all = {.end = n_whole};
    if (config.huge_pages == HUGE_PAGES_ALWAYS && !budget_presses())
        return all;
    if (config.huge_pages != HUGE_PAGES_AUTO || !huge_pages_fit() || len_bytes > HUGE_RUN_MAX_BYTES || budget_presses())
        return none;
    switch (may_be_unfilled(grown, len_bytes)) {
    case ANSWER_YES:
        return all;
    case ANSWER_SMALL_HEAD:
        return (struct huge_part){.first = 1, .end = n_whole};
    case ANSWER_SMALL_END:
        return (struct huge_part){.end = n_whole - 1};
    default:
        return none;
    }
}
