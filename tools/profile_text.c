/* profile_text.c - see profile_text.h.
 * Owns       nothing.     Called by  profile_write.c, diff.c, flame.c     Calls  heap_profile.h, units.h, libc     Threads  one. */
#define _GNU_SOURCE
#include "profile_text.h"

#include "tool.h"
#include "units.h"

#include <inttypes.h>
#include <limits.h>
#include <math.h>
#include <search.h>
#include <stdlib.h>
#include <string.h>

#define BOUND_DEVIATIONS 1.96 /* 95 of 100 estimates lie within so many standard deviations */

static _Noreturn void end_without_memory(void)
{
    tool_complain("out of memory");
    exit(TOOL_FAILED);
}

/* tsearch that has memory. */
static void *enter(const void *key, void **root, int (*compare)(const void *, const void *))
{
    void **node = tsearch(key, root, compare);
    if (node == NULL)
        end_without_memory();
    return *node;
}

/* ---- Amounts ----------------------------------------------------------------------------------------------------- */

static const char *scaled(char text[TEXT_AMOUNT_BYTES], double bytes, const char *sign)
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    size_t unit = 0;
    for (; bytes >= 1023.95 && unit + 1 < sizeof units / sizeof units[0]; unit++)
        bytes /= 1024;
    snprintf(text, TEXT_AMOUNT_BYTES, unit == 0 ? "%s%.0f %s" : "%s%.1f %s", sign, bytes, units[unit]);
    return text;
}

static const char *sign_of(int64_t amount, bool sign)
{
    return amount < 0 ? "-" : sign && amount > 0 ? "+" : "";
}

char *text_amount(char text[TEXT_AMOUNT_BYTES], int64_t amount, enum heap_value value, bool sign)
{
    if (value == ALLOC_SPACE || value == INUSE_SPACE)
        scaled(text, fabs((double)amount), sign_of(amount, sign));
    else
        snprintf(text, TEXT_AMOUNT_BYTES, "%s%" PRIu64, sign_of(amount, sign),
                 amount < 0 ? -(uint64_t)amount : (uint64_t)amount);
    return text;
}

void text_print_estimate(FILE *out, int64_t bytes, double variance, bool sign)
{
    char text[TEXT_AMOUNT_BYTES];
    fputs(scaled(text, fabs((double)bytes), sign_of(bytes, sign)), out);
    const double bound = BOUND_DEVIATIONS * sqrt(variance);
    if (bound >= 0.5)
        fprintf(out, " ± %s", scaled(text, bound, ""));
}

static const char *blocks_word(int64_t n)
{
    return n == 1 || n == -1 ? "block" : "blocks";
}

/* ---- The head ---------------------------------------------------------------------------------------------------- */

static double variance_of_all(const struct heap_profile *profile, bool live)
{
    double variance = 0;
    for (uint32_t i = 0; i < profile->n_samples; i++)
        variance += heap_variance(profile, &profile->sample[i], live);
    return variance;
}

static void print_total(const struct heap_profile *profile, const char *word, bool live, FILE *out)
{
    int64_t total[N_HEAP_VALUES];
    heap_totals(profile, total);
    fprintf(out, "  %-10s", word);
    text_print_estimate(out, total[live ? INUSE_SPACE : ALLOC_SPACE], variance_of_all(profile, live),
                        profile->is_difference);
    int64_t blocks = total[live ? INUSE_OBJECTS : ALLOC_OBJECTS];
    fprintf(out, " in %" PRId64 " %s\n", blocks, blocks_word(blocks));
}

static void print_head(const struct heap_profile *profile, FILE *out)
{
    char interval[TEXT_AMOUNT_BYTES], program[PATH_MAX];
    fprintf(out, "%s%s%s", profile->is_difference ? "difference of heap profiles" : "heap profile",
            profile->program[0] != 0 ? " of " : "", units_name(program, sizeof program, profile->program));
    if (profile->pid != 0)
        fprintf(out, ", process %" PRId64, profile->pid);
    if (profile->duration_ns != 0)
        fprintf(out, ", %.1f s", (double)profile->duration_ns / 1e9);
    if (profile->interval_bytes != 0)
        fprintf(out, "; %" PRId64 " samples, one for %s in the mean", profile->picked,
                text_amount(interval, profile->interval_bytes, INUSE_SPACE, false));
    fputs("\n", out);
    if (profile->dropped != 0)
        fprintf(out, "  %" PRId64 " samples found no room, and are missing\n", profile->dropped);
    print_total(profile, "live", true, out);
    print_total(profile, "allocated", false, out);
}

/* ---- The table of functions -------------------------------------------------------------------------------------- */

struct row {
    const char *name, *file; /* texts of the profile: equal ones have equal addresses */
    int64_t flat, cumulative;
    uint32_t last_sample; /* whose amount is in cumulative already, plus 1 */
};

struct table {
    void *rows; /* a tree */
    struct row **row;
    size_t n;
};

static int compare_names(const void *one, const void *other)
{
    const struct row *a = one, *b = other;
    if (a->name != b->name)
        return (uintptr_t)a->name < (uintptr_t)b->name ? -1 : 1;
    return ((uintptr_t)a->file > (uintptr_t)b->file) - ((uintptr_t)a->file < (uintptr_t)b->file);
}

static struct row *row_of(struct table *table, const struct heap_frame *frame)
{
    struct row *row = heap_alloc(sizeof *row);
    *row = (struct row){.name = frame->name, .file = frame->file};
    struct row *first = enter(row, &table->rows, compare_names);
    if (first != row) {
        free(row);
        return first;
    }
    if ((table->n & (table->n - 1)) == 0)
        table->row = heap_realloc(table->row, 2 * table->n + 1, sizeof(struct row *));
    table->row[table->n++] = row;
    return row;
}

static void fill_table(struct heap_profile *profile, enum heap_value value, struct table *table)
{
    struct heap_frame *frame = NULL;
    uint32_t size = 0;
    for (uint32_t i = 0; i < profile->n_samples; i++) {
        uint32_t n = heap_frames(profile, &profile->sample[i], &frame, &size);
        int64_t amount = profile->sample[i].value[value];
        for (uint32_t f = 0; f < n; f++) {
            struct row *row = row_of(table, &frame[f]);
            if (f == 0)
                row->flat += amount;
            if (row->last_sample != i + 1)
                row->cumulative += amount;
            row->last_sample = i + 1;
        }
    }
    free(frame);
}

static int compare_amounts(int64_t one, int64_t other)
{
    uint64_t a = one < 0 ? -(uint64_t)one : (uint64_t)one, b = other < 0 ? -(uint64_t)other : (uint64_t)other;
    return (a < b) - (a > b);
}

static int compare_rows(const void *one, const void *other)
{
    const struct row *a = *(struct row *const *)one, *b = *(struct row *const *)other;
    int order = compare_amounts(a->flat, b->flat);
    if (order == 0)
        order = compare_amounts(a->cumulative, b->cumulative);
    if (order == 0)
        order = strcmp(a->name, b->name);
    return order != 0 ? order : strcmp(a->file, b->file);
}

static double percent(int64_t part, int64_t whole)
{
    return whole == 0 ? 0 : 100. * (double)part / (double)whole;
}

static const char *title_of(enum heap_value value)
{
    static const char *const titles[N_HEAP_VALUES] = {[ALLOC_OBJECTS] = "allocated blocks",
                                                      [ALLOC_SPACE] = "allocated bytes",
                                                      [INUSE_OBJECTS] = "live blocks",
                                                      [INUSE_SPACE] = "live bytes"};
    return titles[value];
}

void text_write_top(struct heap_profile *profile, enum heap_value value, unsigned top, FILE *out)
{
    struct table table = {.rows = NULL};
    int64_t total[N_HEAP_VALUES];
    char flat[TEXT_AMOUNT_BYTES], cumulative[TEXT_AMOUNT_BYTES];
    heap_totals(profile, total);
    fill_table(profile, value, &table);
    for (size_t i = 0; i < table.n;)
        if (table.row[i]->flat == 0 && table.row[i]->cumulative == 0)
            table.row[i] = table.row[--table.n];
        else
            i++;
    if (table.n != 0)
        qsort(table.row, table.n, sizeof(struct row *), compare_rows);
    size_t n = top == 0 || top > table.n ? table.n : top;
    print_head(profile, out);
    fprintf(out, "\n%s by function\n%11s %7s %11s %7s  %s\n", title_of(value), "flat", "flat%", "cum", "cum%",
            "function");
    for (size_t i = 0; i < n; i++) {
        const struct row *row = table.row[i];
        fprintf(out, "%11s %6.1f%% %11s %6.1f%%  %s%s%s\n", text_amount(flat, row->flat, value, profile->is_difference),
                percent(row->flat, total[value]),
                text_amount(cumulative, row->cumulative, value, profile->is_difference),
                percent(row->cumulative, total[value]), row->name, row->file[0] == 0 ? "" : "  ", row->file);
    }
    if (n < table.n)
        fprintf(out, "and %zu more function%s\n", table.n - n, table.n - n == 1 ? "" : "s");
    tdestroy(table.rows, free);
    free(table.row);
}

/* ---- Stacks ------------------------------------------------------------------------------------------------------ */

void text_print_stack(const struct heap_frame *frame, uint32_t n_frames, FILE *out)
{
    for (uint32_t i = 0; i < n_frames; i++) {
        fprintf(out, "    %s", frame[i].name);
        if (frame[i].file[0] != 0)
            fprintf(out, "  %s", frame[i].file);
        if (frame[i].line != 0)
            fprintf(out, ":%" PRId64, frame[i].line);
        fputs("\n", out);
    }
    if (n_frames == 0)
        fputs("    (no stack)\n", out);
}

static int compare_live(const void *one, const void *other)
{
    const struct heap_sample *a = *(const struct heap_sample *const *)one;
    const struct heap_sample *b = *(const struct heap_sample *const *)other;
    int order = compare_amounts(a->value[INUSE_SPACE], b->value[INUSE_SPACE]);
    return order != 0 ? order : (a > b) - (a < b);
}

void text_write_leaks(struct heap_profile *profile, unsigned top, FILE *out)
{
    const struct heap_sample **live = heap_realloc(NULL, profile->n_samples, sizeof *live);
    struct heap_frame *frame = NULL;
    int64_t total[N_HEAP_VALUES], rest = 0;
    uint32_t size = 0;
    size_t n = 0;
    for (uint32_t i = 0; i < profile->n_samples; i++)
        if (profile->sample[i].value[INUSE_SPACE] != 0 || profile->sample[i].value[INUSE_OBJECTS] != 0)
            live[n++] = &profile->sample[i];
    qsort(live, n, sizeof *live, compare_live);
    heap_totals(profile, total);
    print_head(profile, out);
    for (size_t i = 0; i < n; i++) {
        const struct heap_sample *sample = live[i];
        if (top != 0 && i >= top) {
            rest += sample->value[INUSE_SPACE];
            continue;
        }
        fprintf(out, "\n%zu. ", i + 1);
        text_print_estimate(out, sample->value[INUSE_SPACE], heap_variance(profile, sample, true),
                            profile->is_difference);
        fprintf(out, " in %" PRId64 " %s, %.1f %% of what is live, allocated by\n", sample->value[INUSE_OBJECTS],
                blocks_word(sample->value[INUSE_OBJECTS]), percent(sample->value[INUSE_SPACE], total[INUSE_SPACE]));
        uint32_t n_frames = heap_frames(profile, sample, &frame, &size);
        text_print_stack(frame, n_frames, out);
    }
    if (top != 0 && n > top) {
        char text[TEXT_AMOUNT_BYTES];
        fprintf(out, "\nand %s by %zu more stack%s\n", text_amount(text, rest, INUSE_SPACE, false), n - top,
                n - top == 1 ? "" : "s");
    }
    free(frame);
    free(live);
}

/* ---- Folded ------------------------------------------------------------------------------------------------------ */

struct folded {
    char *stack;
    int64_t amount;
};

static int compare_folded(const void *one, const void *other)
{
    return strcmp(((const struct folded *)one)->stack, ((const struct folded *)other)->stack);
}

/* The frames from the outermost on, with semicolons between them; those in names become colons. */
static char *fold(const struct heap_frame *frame, uint32_t n_frames)
{
    char *text;
    size_t len;
    FILE *stream = open_memstream(&text, &len);
    if (stream == NULL)
        end_without_memory();
    for (uint32_t i = n_frames; i-- > 0;) {
        for (const char *c = frame[i].name; *c != 0; c++)
            fputc(*c == ';' ? ':' : *c, stream);
        if (i != 0)
            fputc(';', stream);
    }
    if (n_frames == 0)
        fputs("(no stack)", stream);
    fclose(stream);
    return text;
}

static void print_folded(const void *node, VISIT visit, void *out)
{
    const struct folded *folded = *(const struct folded *const *)node;
    if ((visit == postorder || visit == leaf) && folded->amount != 0)
        fprintf(out, "%s %" PRId64 "\n", folded->stack, folded->amount);
}

static void free_folded(void *node)
{
    struct folded *folded = node;
    free(folded->stack);
    free(folded);
}

void text_write_folded(struct heap_profile *profile, enum heap_value value, FILE *out)
{
    void *lines = NULL; /* a tree */
    struct heap_frame *frame = NULL;
    uint32_t size = 0;
    for (uint32_t i = 0; i < profile->n_samples; i++) {
        uint32_t n = heap_frames(profile, &profile->sample[i], &frame, &size);
        struct folded *own = heap_alloc(sizeof *own);
        *own = (struct folded){fold(frame, n), 0};
        struct folded *first = enter(own, &lines, compare_folded);
        first->amount += profile->sample[i].value[value];
        if (first != own)
            free_folded(own);
    }
    twalk_r(lines, print_folded, out);
    tdestroy(lines, free_folded);
    free(frame);
}
