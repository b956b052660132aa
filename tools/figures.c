/* figures.c - see figures.h.
 * Owns       the list of threads in struct figures.     Called by  watch.c, top_*.c
 * Calls      process.h (names), tool.c (memory).     Threads  one.
 * I1  Nothing here fails or overflows, whatever the snapshot holds: it was read from a process that went on running.
 */
#define _GNU_SOURCE
#include "figures.h"

#include "tool.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *const figures_stage_names[FIGURES_STAGES] = {"class_list", "slot", "reopen", "lru", "os"};

static uint64_t subtract(uint64_t from, uint64_t what)
{
    return from > what ? from - what : 0;
}

static uint64_t add(uint64_t a, uint64_t b)
{
    return a + b < a ? UINT64_MAX : a + b;
}

/* ---- Sums and rates ---------------------------------------------------------------------------------------------- */

static uint64_t given_back(const struct hak_stats *s)
{
    const uint64_t superslabs = add(s->superslabs_released_total, s->superslabs_evicted_total);
    return superslabs > UINT64_MAX / SUPERSLAB_BYTES ? UINT64_MAX : add(s->purged_bytes, superslabs * SUPERSLAB_BYTES);
}

static uint64_t lock_sum(const struct hak_stats *s)
{
    uint64_t sum = 0;
    for (unsigned i = 0; i < HAK_LOCK_N_CAUSES; i++)
        sum = add(sum, s->lock_acquisitions[i]);
    return sum;
}

static double rate(uint64_t before, uint64_t now, double interval_s)
{
    return (double)subtract(now, before) / interval_s;
}

static double growth(uint64_t before, uint64_t now, double interval_s)
{
    return now >= before ? rate(before, now, interval_s) : -rate(now, before, interval_s);
}

static void compute_rates(struct figures_rates *r, const struct snapshot *earlier, const struct snapshot *later)
{
    const struct hak_stats *a = &earlier->census.stats, *b = &later->census.stats;
    const double s = (double)(later->time_ns - earlier->time_ns) / 1e9;
    r->interval_s = s;
    r->live_bytes = growth(a->live_bytes, b->live_bytes, s);
    r->committed_bytes = growth(a->committed_bytes, b->committed_bytes, s);
    r->refills = rate(a->refills, b->refills, s);
    r->flushes = rate(a->flushes, b->flushes, s);
    r->acquired[0] = rate(a->stage_class_list, b->stage_class_list, s);
    r->acquired[1] = rate(a->stage_slot, b->stage_slot, s);
    r->acquired[2] = rate(a->stage_reopen, b->stage_reopen, s);
    r->acquired[3] = rate(a->stage_lru, b->stage_lru, s);
    r->acquired[4] = rate(a->stage_os, b->stage_os, s);
    r->slabs_released = rate(a->slabs_released, b->slabs_released, s);
    r->purged_bytes = rate(a->purged_bytes, b->purged_bytes, s);
    r->given_back_bytes = rate(given_back(a), given_back(b), s);
    r->lock_acquisitions = rate(lock_sum(a), lock_sum(b), s);
    r->lock_contended = rate(a->lock_contended, b->lock_contended, s);
}

/* ---- Rows -------------------------------------------------------------------------------------------------------- */

static void name_class(struct figures_class *row, uint64_t block_bytes)
{
    row->block_bytes = row->index < CLASS_END ? block_bytes : 0;
    if (row->index == CLASS_END)
        strcpy(row->label, "span");
    else if (row->index == CLASS_END + 1)
        strcpy(row->label, "run");
    else
        snprintf(row->label, sizeof row->label, "%u", (unsigned)(block_bytes & 0xffffff));
}

static void list_classes(struct figures *out, const struct snapshot *earlier, const struct census *census)
{
    for (unsigned i = CLASS_FIRST; i < CENSUS_CLASSES; i++) {
        const struct census_class *c = &census->classes[i];
        if (c->slabs == 0 && c->live_blocks == 0 && c->cached_blocks == 0 && c->dirty_bytes == 0)
            continue;
        struct figures_class *row = &out->classes[out->n_classes++];
        row->index = i;
        name_class(row, c->block_bytes);
        row->slabs = c->slabs;
        row->live_blocks = c->live_blocks;
        row->cached_blocks = c->cached_blocks;
        row->free_blocks = c->free_blocks;
        row->following_blocks = c->following_blocks;
        row->live_bytes = c->live_bytes;
        row->memory_bytes = c->dirty_bytes;
        row->cached_bytes = c->cached_bytes;
        row->waste_bytes = subtract(c->dirty_bytes, add(c->live_bytes, c->cached_bytes));
        if (out->rates.interval_s > 0)
            row->growth = growth(earlier->census.classes[i].live_bytes, c->live_bytes, out->rates.interval_s);
    }
}

/* The same thread in the earlier snapshot; it is mostly at the same place. */
static const struct census_thread *find_earlier(const struct snapshot *earlier, size_t guess, int32_t thread_id)
{
    for (size_t i = 0; earlier != NULL && i < earlier->n_threads; i++) {
        const struct census_thread *thread = &earlier->threads[(guess + i) % earlier->n_threads];
        if (thread->thread_id == thread_id)
            return thread;
    }
    return NULL;
}

static void fill_thread(struct figures_thread *row, const struct census_thread *now, const struct census_thread *before,
                        double interval_s)
{
    row->thread_id = now->thread_id;
    row->cached_bytes = now->cached_bytes;
    row->cached_blocks = now->cached_blocks;
    row->owned_slabs = now->owned_slabs;
    row->refills = now->refills;
    row->flushes = now->flushes;
    if (before == NULL || interval_s <= 0)
        return;
    row->refills_per_s = rate(before->refills, now->refills, interval_s);
    row->flushes_per_s = rate(before->flushes, now->flushes, interval_s);
}

static void list_threads(struct figures *out, const struct snapshot *earlier, const struct process_thread *names,
                         size_t n_names)
{
    const struct snapshot *now = out->snapshot;
    out->threads = tool_reallocate(NULL, now->n_threads, sizeof *out->threads);
    memset(out->threads, 0, now->n_threads * sizeof *out->threads);
    out->n_threads = now->n_threads;
    for (size_t i = 0; i < now->n_threads; i++) {
        const struct census_thread *thread = &now->threads[i];
        fill_thread(&out->threads[i], thread, find_earlier(earlier, i, thread->thread_id), out->rates.interval_s);
        const char *name = process_thread_name(names, n_names, thread->thread_id);
        if (name != NULL)
            snprintf(out->threads[i].name, sizeof out->threads[i].name, "%s", name);
    }
    figures_sort_threads(out, THREAD_COLUMN_ID, false);
}

void figures_make(struct figures *out, const struct snapshot *earlier, const struct snapshot *now,
                  const struct process_thread *names, size_t n_names)
{
    memset(out, 0, sizeof *out);
    out->snapshot = now;
    out->given_back_bytes = given_back(&now->census.stats);
    out->lock_acquisitions = lock_sum(&now->census.stats);
    if (earlier != NULL && now->time_ns > earlier->time_ns)
        compute_rates(&out->rates, earlier, now);
    list_classes(out, earlier, &now->census);
    list_threads(out, earlier, names, n_names);
}

void figures_free(struct figures *figures)
{
    free(figures->threads);
    figures->threads = NULL;
    figures->n_threads = 0;
}

unsigned figures_share(double part, double whole, unsigned scale)
{
    if (part <= 0 || whole <= 0)
        return 0;
    const unsigned steps = (unsigned)((part >= whole ? 1 : part / whole) * scale);
    return steps == 0 ? 1 : steps;
}

/* ---- Order ------------------------------------------------------------------------------------------------------- */

struct order {
    int column;
    bool descending;
};

/* Compares by value, and by position where values are equal, which does not turn round with the order. */
static int compare(double a, double b, double position_a, double position_b, bool descending)
{
    if (a != b)
        return (a < b) == descending ? 1 : -1;
    return (position_a > position_b) - (position_a < position_b);
}

static double class_value(const struct figures_class *row, enum figures_class_column column)
{
    switch (column) {
    case CLASS_COLUMN_SLABS:
        return (double)row->slabs;
    case CLASS_COLUMN_LIVE:
        return (double)row->live_blocks;
    case CLASS_COLUMN_CACHED:
        return (double)row->cached_blocks;
    case CLASS_COLUMN_FREE:
        return (double)row->free_blocks;
    case CLASS_COLUMN_OCCUPANCY:
        return figures_room(row) > 0 ? figures_taken(row) / figures_room(row) : 0;
    case CLASS_COLUMN_MEMORY:
        return (double)row->memory_bytes;
    case CLASS_COLUMN_WASTE:
        return (double)row->waste_bytes;
    case CLASS_COLUMN_GROWTH:
        return row->growth;
    default:
        return row->index;
    }
}

static int compare_classes(const void *a, const void *b, void *argument)
{
    const struct figures_class *first = a, *second = b;
    const struct order *order = argument;
    const enum figures_class_column column = (enum figures_class_column)order->column;
    return compare(class_value(first, column), class_value(second, column), first->index, second->index,
                   order->descending);
}

void figures_sort_classes(struct figures *figures, enum figures_class_column column, bool descending)
{
    struct order order = {(int)column, descending};
    qsort_r(figures->classes, figures->n_classes, sizeof figures->classes[0], compare_classes, &order);
}

static double thread_value(const struct figures_thread *row, enum figures_thread_column column)
{
    switch (column) {
    case THREAD_COLUMN_CACHED:
        return (double)row->cached_bytes;
    case THREAD_COLUMN_REFILLS:
        return row->refills_per_s;
    case THREAD_COLUMN_FLUSHES:
        return row->flushes_per_s;
    case THREAD_COLUMN_SLABS:
        return (double)row->owned_slabs;
    default:
        return row->thread_id;
    }
}

static int compare_threads(const void *a, const void *b, void *argument)
{
    const struct figures_thread *first = a, *second = b;
    const struct order *order = argument;
    const enum figures_thread_column column = (enum figures_thread_column)order->column;
    const int by_name = column == THREAD_COLUMN_NAME ? strcmp(first->name, second->name) : 0;
    if (column == THREAD_COLUMN_NAME)
        return compare(by_name, 0, first->thread_id, second->thread_id, order->descending);
    return compare(thread_value(first, column), thread_value(second, column), first->thread_id, second->thread_id,
                   order->descending);
}

void figures_sort_threads(struct figures *figures, enum figures_thread_column column, bool descending)
{
    struct order order = {(int)column, descending};
    if (figures->n_threads != 0)
        qsort_r(figures->threads, figures->n_threads, sizeof figures->threads[0], compare_threads, &order);
}
