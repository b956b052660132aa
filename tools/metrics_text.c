/* metrics_text.c - the metrics as text, in the two formats that Prometheus reads.
 * Owns       the names, units and meanings of the metrics: they are an interface, docs/inspect.md has the same table.
 * Called by  metrics.c     Calls  units.c.     Threads  any.
 * I1  A family is written whole, head and samples, and once: OpenMetrics demands it.
 * I2  The same families and labels come out whatever the heap holds, so that no series comes and goes; but for what the system does
 *     not tell (resident bytes).
 * I3  Nothing that identifies the process or lies in its memory: no address, no command line; number and name if asked for.
 * Why the family's name differs between the formats: OpenMetrics names a counter's family without the _total of its samples.
 */
#include "metrics.h"
#include "units.h"

#include <inttypes.h>
#include <stddef.h>
#include <string.h>

enum metric_type { GAUGE, COUNTER, INFO };

struct writer {
    FILE *out;
    bool openmetrics;
    const char *name;
    enum metric_type type;
};

/* ---- The formats ------------------------------------------------------------------------------------------------- */

static const char *suffix_of(enum metric_type type)
{
    return type == COUNTER ? "_total" : type == INFO ? "_info" : "";
}

/* The unit is the name's last word, or NULL. The help has no character that would have to be escaped. */
static void begin_family(struct writer *w, const char *name, const char *unit, enum metric_type type, const char *help)
{
    static const char *const names[2][3] = {{"gauge", "counter", "gauge"}, {"gauge", "counter", "info"}};
    const char *suffix = w->openmetrics ? "" : suffix_of(type);
    w->name = name;
    w->type = type;
    fprintf(w->out, "# HELP %s%s %s\n", name, suffix, help);
    fprintf(w->out, "# TYPE %s%s %s\n", name, suffix, names[w->openmetrics][type]);
    if (w->openmetrics && unit != NULL)
        fprintf(w->out, "# UNIT %s %s\n", name, unit);
}

/* labels: what stands between the braces, or NULL. */
static void begin_sample(const struct writer *w, const char *labels)
{
    fprintf(w->out, "%s%s", w->name, suffix_of(w->type));
    if (labels != NULL)
        fprintf(w->out, "{%s}", labels);
}

static void add_sample(const struct writer *w, const char *labels, uint64_t value)
{
    begin_sample(w, labels);
    fprintf(w->out, " %" PRIu64 "\n", value);
}

/* One label with a value that needs no escaping. */
static void add_labelled(const struct writer *w, const char *label, const char *value, uint64_t number)
{
    char labels[64];
    snprintf(labels, sizeof labels, "%s=\"%s\"", label, value);
    add_sample(w, labels, number);
}

/* A label with any value: valid UTF-8, and backslash, quote and newline escaped. */
static void print_label(FILE *out, const char *separator, const char *label, const char *value)
{
    char utf8[256];
    fprintf(out, "%s%s=\"", separator, label);
    for (const char *at = units_utf8(utf8, sizeof utf8, value); *at != '\0'; at++) {
        if (*at == '\n')
            fputs("\\n", out);
        else if (*at == '"' || *at == '\\')
            fprintf(out, "\\%c", *at);
        else
            fputc(*at, out);
    }
    fputc('"', out);
}

/* ---- What there is one of ---------------------------------------------------------------------------------------- */

struct plain_metric {
    const char *name, *unit;
    enum metric_type type;
    const char *help;
    size_t offset; /* in struct census */
};

#define STAT(field) offsetof(struct census, stats.field)

static const struct plain_metric plain_metrics[] = {
    {"hakmem_live_bytes", "bytes", GAUGE, "Usable bytes of blocks that the program holds.", STAT(live_bytes)},
    {"hakmem_live_blocks", NULL, GAUGE, "Blocks that the program holds.", STAT(live_blocks)},
    {"hakmem_cached_bytes", "bytes", GAUGE, "Free blocks in the caches of threads.", STAT(cached_bytes)},
    {"hakmem_cached_blocks", NULL, GAUGE, "Number of free blocks in the caches of threads.", STAT(cached_blocks)},
    {"hakmem_committed_bytes", "bytes", GAUGE, "Pages handed out and not given back since: they may be in memory.",
     STAT(committed_bytes)},
    {"hakmem_peak_committed_bytes", "bytes", GAUGE, "The most that was ever committed.", STAT(peak_committed_bytes)},
    {"hakmem_fragmentation_bytes", "bytes", GAUGE,
     "Committed and neither live nor cached: holes, and what waits to go back.", STAT(fragmentation_bytes)},
    {"hakmem_empty_bytes", "bytes", GAUGE,
     "Committed in slots and SuperSlabs that hold nothing: a part of fragmentation.", STAT(empty_bytes)},
    {"hakmem_mapped_bytes", "bytes", GAUGE, "Address space of SuperSlabs and runs in use.", STAT(mapped_bytes)},
    {"hakmem_reserved_bytes", "bytes", GAUGE, "Address space reserved, most of which costs no memory.",
     STAT(reserved_bytes)},
    {"hakmem_metadata_bytes", "bytes", GAUGE,
     "Memory made writable for the allocator's own records, most of it untouched.", STAT(metadata_bytes)},
    {"hakmem_threads", NULL, GAUGE, "Threads that have a cache.", STAT(threads)},
    {"hakmem_arenas", NULL, GAUGE, "Address ranges reserved.", STAT(arenas)},
    {"hakmem_superslabs_mapped", NULL, COUNTER, "SuperSlabs taken from the system.", STAT(superslabs_mapped_total)},
    {"hakmem_superslabs_released", NULL, COUNTER, "SuperSlabs given back as soon as they were empty.",
     STAT(superslabs_released_total)},
    {"hakmem_superslabs_evicted", NULL, COUNTER, "SuperSlabs given back from the LRU cache.",
     STAT(superslabs_evicted_total)},
    {"hakmem_slabs_released", NULL, COUNTER, "Slabs that became empty and were released.", STAT(slabs_released)},
    {"hakmem_slots_reused_by_other_class", NULL, COUNTER, "Empty slots that another size class took.",
     STAT(slot_reuses_other_class)},
    {"hakmem_releases_refused", NULL, COUNTER, "Releases put off because the SuperSlab was in use.",
     STAT(release_refused_pinned)},
    {"hakmem_purged_bytes", "bytes", COUNTER, "Given back to the system from inside SuperSlabs.", STAT(purged_bytes)},
    {"hakmem_lock_contended", NULL, COUNTER, "Acquisitions of the pool lock that had to wait.", STAT(lock_contended)},
    {"hakmem_refills", NULL, COUNTER, "Batches of blocks taken from slabs into caches.", STAT(refills)},
    {"hakmem_flushes", NULL, COUNTER, "Batches of blocks returned from caches to slabs.", STAT(flushes)},
    {"hakmem_caches_emptied", NULL, COUNTER, "Caches of sleeping threads that were emptied.", STAT(caches_emptied)},
    {"hakmem_budget_refusals", NULL, COUNTER, "Times that the budget refused a request.", STAT(budget_refusals)},
    {"hakmem_budget_reliefs", NULL, COUNTER, "Times that all idle memory was given back because of the budget.",
     STAT(budget_reliefs)},
    {"hakmem_guard_samples", NULL, COUNTER, "Blocks that got guard pages by HAKMEM_GUARD_SAMPLE.", STAT(sampled_total)},
    {"hakmem_guarded_blocks", NULL, GAUGE, "Blocks with guard pages that the program holds.", STAT(sampled_blocks)},
    {"hakmem_guarded_bytes", "bytes", GAUGE, "Bytes that were requested for blocks with guard pages.",
     STAT(sampled_bytes)},
    {"hakmem_quarantined_blocks", NULL, GAUGE, "Freed blocks above 32 KiB that wait in quarantine: a part of cached.",
     STAT(waiting_blocks)},
    {"hakmem_quarantined_bytes", "bytes", GAUGE, "Usable bytes of blocks that wait in quarantine.",
     STAT(waiting_bytes)},
    {"hakmem_rounding_bytes", "bytes", GAUGE,
     "Lost by rounding up to block sizes, estimated by the heap profile; 0 without samples.", STAT(rounding_bytes)},
    {"hakmem_rounding_of_bytes", "bytes", GAUGE, "Usable bytes of the blocks whose rounding is estimated.",
     STAT(rounding_of_bytes)},
    {"hakmem_rounding_samples", NULL, GAUGE, "Blocks that the rounding is estimated from.", STAT(rounding_samples)},
    {"hakmem_gap_slabs", NULL, GAUGE, "Sparse slabs whose gaps serve larger blocks.", STAT(gap_slabs)},
    {"hakmem_gap_blocks", NULL, COUNTER, "Blocks that got a place in a gap of a sparse slab.", STAT(gap_blocks_total)},
};

static uint64_t value_at(const struct census *census, size_t offset)
{
    uint64_t value;
    memcpy(&value, (const char *)census + offset, sizeof value);
    return value;
}

static void print_plain(struct writer *w, const struct census *census)
{
    for (size_t i = 0; i < sizeof plain_metrics / sizeof plain_metrics[0]; i++) {
        const struct plain_metric *m = &plain_metrics[i];
        begin_family(w, m->name, m->unit, m->type, m->help);
        add_sample(w, NULL, value_at(census, m->offset));
    }
}

/* ---- What has labels --------------------------------------------------------------------------------------------- */

static void print_process(struct writer *w, const struct snapshot *snapshot, const struct metrics_choice *choice)
{
    begin_family(w, "hakmem_process", NULL, INFO, "The process and the hakmem in it.");
    fprintf(w->out, "hakmem_process_info{");
    print_label(w->out, "", "version", snapshot->version);
    print_label(w->out, ",", "profile", snapshot->profile);
    if (choice->label_pid)
        fprintf(w->out, ",pid=\"%d\"", (int)snapshot->pid);
    if (choice->label_name)
        print_label(w->out, ",", "name", snapshot->name);
    fputs("} 1\n", w->out);
    if (snapshot->resident_bytes == 0)
        return;
    begin_family(w, "hakmem_process_resident_bytes", "bytes", GAUGE,
                 "Memory of the whole process, as the system has it.");
    add_sample(w, NULL, snapshot->resident_bytes);
}

/* One family with a label that has a few known values. */
struct value_of_label {
    const char *label_value;
    size_t offset; /* in struct census */
};

static void print_by_label(struct writer *w, const struct census *census, const char *label,
                           const struct value_of_label *values, size_t n)
{
    for (size_t i = 0; i < n; i++)
        add_labelled(w, label, values[i].label_value, value_at(census, values[i].offset));
}

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

static void print_superslabs(struct writer *w, const struct census *census)
{
    static const struct value_of_label tiers[] = {
        {"hot", STAT(superslabs_hot)}, {"draining", STAT(superslabs_draining)}, {"cached", STAT(superslabs_cached)}};
    static const struct value_of_label slots[] = {
        {"active", STAT(slots_active)}, {"empty", STAT(slots_empty)}, {"unused", STAT(slots_unused)}};
    static const struct value_of_label changes[] = {
        {"draining", STAT(tier_hot_to_draining)}, {"hot", STAT(tier_draining_to_hot)}, {"free", STAT(tier_to_free)}};
    begin_family(w, "hakmem_superslabs", NULL, GAUGE,
                 "SuperSlabs of 2 MiB by state: tier in the pool, or in the LRU cache.");
    print_by_label(w, census, "state", tiers, COUNT(tiers));
    begin_family(w, "hakmem_slots", NULL, GAUGE, "Slots of 64 KiB of the SuperSlabs in the pool, by state.");
    print_by_label(w, census, "state", slots, COUNT(slots));
    begin_family(w, "hakmem_tier_changes", NULL, COUNTER, "SuperSlabs that went to another tier.");
    print_by_label(w, census, "to", changes, COUNT(changes));
}

static void print_fullness(struct writer *w, const struct hak_stats *s)
{
    begin_family(w, "hakmem_superslabs_by_fullness", NULL, GAUGE,
                 "SuperSlabs in the pool by how much of their slabs is in use, in tenths.");
    for (unsigned i = 0; i < 2 * HAK_STATS_TENTHS; i++) {
        const unsigned tenth = i % HAK_STATS_TENTHS;
        const bool hot = i < HAK_STATS_TENTHS;
        char labels[64];
        snprintf(labels, sizeof labels, "tier=\"%s\",up_to=\"%u.%u\"", hot ? "hot" : "draining", (tenth + 1) / 10,
                 (tenth + 1) % 10);
        add_sample(w, labels, hot ? s->hot_by_fullness[tenth] : s->draining_by_fullness[tenth]);
    }
}

static void print_large(struct writer *w, const struct census *census)
{
    static const struct value_of_label blocks[] = {{"span", STAT(spans)}, {"run", STAT(runs)}};
    static const struct value_of_label bytes[] = {{"span", STAT(span_bytes)}, {"run", STAT(run_bytes)}};
    begin_family(w, "hakmem_large_blocks", NULL, GAUGE, "Blocks above 32 KiB: inside SuperSlabs, or of whole ones.");
    print_by_label(w, census, "kind", blocks, COUNT(blocks));
    begin_family(w, "hakmem_large_bytes", "bytes", GAUGE, "Usable bytes of blocks above 32 KiB.");
    print_by_label(w, census, "kind", bytes, COUNT(bytes));
}

static void print_stages(struct writer *w, const struct census *census)
{
    static const struct value_of_label stages[] = {{"class_list", STAT(stage_class_list)},
                                                   {"slot", STAT(stage_slot)},
                                                   {"reopen", STAT(stage_reopen)},
                                                   {"lru", STAT(stage_lru)},
                                                   {"os", STAT(stage_os)}};
    begin_family(w, "hakmem_slabs_acquired", NULL, COUNTER, "Slabs and spans by the stage that they came from.");
    print_by_label(w, census, "stage", stages, COUNT(stages));
}

static void print_locks(struct writer *w, const struct census *census)
{
    static const char *const causes[HAK_LOCK_N_CAUSES] = {"acquire_slab", "release_slab", "span", "tier",
                                                          "metadata",     "trim",         "fork"};
    begin_family(w, "hakmem_lock_acquisitions", NULL, COUNTER, "Acquisitions of the pool lock by cause.");
    for (unsigned i = 0; i < HAK_LOCK_N_CAUSES; i++)
        add_labelled(w, "cause", causes[i], census->stats.lock_acquisitions[i]);
}

static void print_budget(struct writer *w, const struct census *census)
{
    static const struct value_of_label lines[] = {{"soft", STAT(budget_soft_bytes)}, {"hard", STAT(budget_hard_bytes)}};
    begin_family(w, "hakmem_budget_bytes", "bytes", GAUGE, "The budget's lines; 0 where there is no budget.");
    print_by_label(w, census, "line", lines, COUNT(lines));
}

/* ---- Size classes ------------------------------------------------------------------------------------------------ */

static void write_class(char *text, size_t size_bytes, unsigned class_id)
{
    if (class_id >= CLASS_END)
        snprintf(text, size_bytes, "%s", class_id == CLASS_END ? "span" : "run");
    else
        snprintf(text, size_bytes, "%u", (unsigned)class_table[class_id].bytes);
}

/* One sample for each class, of a number of struct census_class. */
static void print_by_class(struct writer *w, const struct census *census, size_t offset)
{
    for (unsigned i = CLASS_FIRST; i < CENSUS_CLASSES; i++) {
        char name[16];
        uint64_t value;
        write_class(name, sizeof name, i);
        memcpy(&value, (const char *)&census->classes[i] + offset, sizeof value);
        add_labelled(w, "class", name, value);
    }
}

static void print_class_blocks(struct writer *w, const struct census *census)
{
    begin_family(w, "hakmem_class_blocks", NULL, GAUGE,
                 "Blocks of a size class, by state; the class is the block size in bytes.");
    for (unsigned i = CLASS_FIRST; i < CENSUS_CLASSES; i++) {
        static const char *const states[] = {"live", "cached", "free"};
        const struct census_class *c = &census->classes[i];
        const uint64_t values[] = {c->live_blocks, c->cached_blocks, c->free_blocks};
        char name[16], labels[64];
        write_class(name, sizeof name, i);
        for (unsigned j = 0; j < 3; j++) {
            snprintf(labels, sizeof labels, "class=\"%s\",state=\"%s\"", name, states[j]);
            add_sample(w, labels, values[j]);
        }
    }
}

static void print_classes(struct writer *w, const struct census *census)
{
    begin_family(w, "hakmem_class_slabs", NULL, GAUGE, "Slabs of 64 KiB that a size class has.");
    print_by_class(w, census, offsetof(struct census_class, slabs));
    print_class_blocks(w, census);
    begin_family(w, "hakmem_class_live_bytes", "bytes", GAUGE, "Usable bytes of live blocks of a size class.");
    print_by_class(w, census, offsetof(struct census_class, live_bytes));
    begin_family(w, "hakmem_class_committed_bytes", "bytes", GAUGE,
                 "Pages of a size class's slabs that may be in memory.");
    print_by_class(w, census, offsetof(struct census_class, dirty_bytes));
}

/* ---- The whole --------------------------------------------------------------------------------------------------- */

static void print_reading(struct writer *w, const struct snapshot *snapshot, double read_s)
{
    begin_family(w, "hakmem_read_seconds", "seconds", GAUGE, "How long it took to read the process.");
    begin_sample(w, NULL);
    fprintf(w->out, " %.6f\n", read_s);
    begin_family(w, "hakmem_torn_records", NULL, GAUGE,
                 "Records that could not be read in one piece, because they changed meanwhile.");
    add_sample(w, NULL, snapshot->n_torn);
}

void metrics_print(FILE *out, const struct snapshot *snapshot, double read_s, enum metrics_format format,
                   const struct metrics_choice *choice)
{
    struct writer w = {.out = out, .openmetrics = format == METRICS_OPENMETRICS};
    const struct census *census = &snapshot->census;
    print_process(&w, snapshot, choice);
    print_plain(&w, census);
    print_superslabs(&w, census);
    print_fullness(&w, &census->stats);
    print_large(&w, census);
    print_stages(&w, census);
    print_locks(&w, census);
    print_budget(&w, census);
    if (!choice->without_classes)
        print_classes(&w, census);
    print_reading(&w, snapshot, read_s);
    if (w.openmetrics)
        fputs("# EOF\n", out);
}
