/* printing.c - the census of this process as text, as JSON and as XML.
 * Owns     nothing.     Called by  programs (hak_stats_json), override.c, introspect.c (end of the process)
 * Calls    introspect.h, census.h
 * Threads  any; no lock but stdio's, for XML.
 * I1  A text is cut nowhere but at the end of a caller's buffer: what goes to a file goes in as many pieces as it takes.
 * I2  Nothing here allocates: statistics show the heap as it is, and can be had when memory is exhausted.
 * What each field means is in docs/statistics.md, and the JSON's schema in docs/stats-schema.json; tests/scripts/stats_schema.sh
 * holds all three together.
 */
#include "api/printing.h"

#include "api/stats_names.h"
#include "api/introspect.h"
#include "front/thread.h"
#include "os/system_call.h"
#include "os/os.h"

#include <fcntl.h>
#include <stdarg.h>
#include <unistd.h>

typedef unsigned long long ull;

/* ---- Text -------------------------------------------------------------------------------------------------------- */

/* Text on its way into a buffer: of a caller's, where it is cut, or to a file, to which the buffer goes whenever it is full. */
struct text {
    char *buffer;
    size_t size_bytes, used; /* used: of the buffer, < size_bytes unless both are 0 */
    size_t len;              /* of the whole text so far */
    int file;                /* CUT: there is none */
    bool failed;             /* the file could not be written */
};
#define CUT (-1)

static void flush_text(struct text *text)
{
    if (text->file == STDERR_FILENO)
        os_write_stderr(text->buffer, text->used);
    else if (!text->failed)
        text->failed = os_write(text->file, text->buffer, text->used) != 0;
    text->used = 0;
}

__attribute__((format(printf, 2, 3))) static void add(struct text *text, const char *format, ...)
{
    va_list arguments;
    size_t room_bytes = text->size_bytes - text->used;
    if (text->file != CUT && room_bytes < PRINTING_LEAST_BYTES) {
        flush_text(text);
        room_bytes = text->size_bytes;
    }
    va_start(arguments, format);
    int n = vsnprintf(room_bytes == 0 ? NULL : text->buffer + text->used, room_bytes, format, arguments);
    va_end(arguments);
    if (n <= 0)
        return;
    text->len += (size_t)n;
    text->used += room_bytes == 0 ? 0 : min_size((size_t)n, room_bytes - 1);
}

/* ---- JSON -------------------------------------------------------------------------------------------------------- */

static void add_numbers(struct text *text, const struct hak_stats *s)
{
#define ADD_FIELD(name) add(text, ",\"" #name "\":%llu", (ull)s->name);
    STATS_NUMBERS(ADD_FIELD)
    if (s->rounding_samples != 0) { /* else it is not known */
        ADD_FIELD(rounding_bytes)
        ADD_FIELD(rounding_of_bytes)
        ADD_FIELD(rounding_samples)
    }
    struct os_resident now;
    if (introspect_resident(&now))
        add(text, ",\"resident_bytes\":%llu,\"huge_bytes\":%llu", (ull)now.resident_bytes, (ull)now.huge_bytes);
}

static void add_locks(struct text *text, const struct hak_stats *s)
{
    add(text, ",\"lock_acquisitions\":{");
    for (unsigned i = 0; i < HAK_LOCK_N_CAUSES; i++)
        add(text, "%s\"%s\":%llu", i == 0 ? "" : ",", stats_lock_cause_names[i], (ull)s->lock_acquisitions[i]);
    add(text, "}");
}

static void add_tier(struct text *text, const char *name, uint64_t superslabs, const uint64_t *by_fullness)
{
    add(text, "\"%s\":{\"superslabs\":%llu,\"by_fullness\":[", name, (ull)superslabs);
    for (unsigned i = 0; i < HAK_STATS_TENTHS; i++)
        add(text, "%s%llu", i == 0 ? "" : ",", (ull)by_fullness[i]);
    add(text, "]}");
}

static const char *kind_of(unsigned class_id)
{
    return class_id == CENSUS_SPANS ? "span" : class_id == CENSUS_RUNS ? "run" : "class";
}

/* Those in use. */
static void add_classes(struct text *text, const struct census *c)
{
    const char *separator = "";
    add(text, ",\"classes\":[");
    for (unsigned i = CLASS_FIRST; i < CENSUS_CLASSES; i++) {
        const struct census_class *class = &c->classes[i];
        if (class->slabs == 0)
            continue;
        add(text, "%s{\"kind\":\"%s\",\"block_bytes\":%llu,\"slabs\":%llu", separator, kind_of(i),
            (ull) class->block_bytes, (ull) class->slabs);
        add(text, ",\"live_blocks\":%llu,\"following_blocks\":%llu,\"live_bytes\":%llu", (ull) class->live_blocks,
            (ull) class->following_blocks, (ull) class->live_bytes);
        add(text, ",\"cached_blocks\":%llu,\"cached_bytes\":%llu", (ull) class->cached_blocks,
            (ull) class->cached_bytes);
        add(text, ",\"free_blocks\":%llu,\"dirty_bytes\":%llu}", (ull) class->free_blocks, (ull) class->dirty_bytes);
        separator = ",";
    }
    add(text, "]");
}

static void add_thread(struct text *text, const struct census_thread *thread)
{
    const char *separator = "";
    add(text, "{\"thread_id\":%d,\"cached_bytes\":%llu,\"cached_blocks\":%llu", (int)thread->thread_id,
        (ull)thread->cached_bytes, (ull)thread->cached_blocks);
    add(text, ",\"refills\":%llu,\"flushes\":%llu,\"owned_slabs\":%llu", (ull)thread->refills, (ull)thread->flushes,
        (ull)thread->owned_slabs);
    add(text, ",\"held_slabs\":%llu,\"held_bytes\":%llu,\"cached_blocks_by_class\":{", (ull)thread->held_slabs,
        (ull)thread->held_bytes);
    for (unsigned i = CLASS_FIRST; i < CLASS_END; i++)
        if (thread->cached_by_class[i] != 0) {
            add(text, "%s\"%u\":%u", separator, class_table[i].bytes, thread->cached_by_class[i]);
            separator = ",";
        }
    add(text, "}}");
}

static void add_threads(struct text *text, const struct census_source *source)
{
    const struct thread *at = NULL;
    struct census_thread thread;
    add(text, ",\"thread_caches\":[");
    for (unsigned i = 0; i < CENSUS_MAX_THREADS && census_thread_next(source, &at, &thread); i++) {
        add(text, "%s", i == 0 ? "" : ",");
        add_thread(text, &thread);
    }
    add(text, "]");
}

static void add_json(struct text *text)
{
    struct census_source source = introspect_source();
    struct census c;
    census_take(&source, &c);
    add(text, "{\"version\":%u,\"profile\":\"%s\"", c.stats.version, hak_profile_name());
    add_numbers(text, &c.stats);
    add_locks(text, &c.stats);
    add(text, ",\"tiers\":{");
    add_tier(text, "hot", c.stats.superslabs_hot, c.stats.hot_by_fullness);
    add(text, ",");
    add_tier(text, "draining", c.stats.superslabs_draining, c.stats.draining_by_fullness);
    add(text, "}");
    add_classes(text, &c);
    add_threads(text, &source);
    add(text, "}");
}

size_t hak_stats_json(char *buffer, size_t size_bytes)
{
    struct text text = {.buffer = buffer, .size_bytes = size_bytes, .file = CUT};
    add_json(&text);
    return text.len;
}

/* Processes that end together may write the same file: one after the other, or it would hold the end of the longer text too. Half a second at
 * most, and not where a filter of system calls may think otherwise of it: then they may mix. */
static void await_lock(int file)
{
    for (unsigned i = 0; i < 500; i++) {
        if (file_try_lock(file) == 0 || errno != EWOULDBLOCK)
            return;
        os_sleep_ms(1);
    }
}

void printing_json(const char *path, char *buffer, size_t size_bytes)
{
    bool filtered = path != NULL && os_file_tells_of_filter();
    int file = path == NULL ? STDERR_FILENO : file_open(path, O_WRONLY | O_CREAT | (filtered ? O_TRUNC : 0), 0644);
    struct text text = {.buffer = buffer, .size_bytes = size_bytes, .file = file, .failed = file < 0};
    if (file >= 0 && path != NULL && !filtered) {
        await_lock(file);
        file_empty(file); /* a pipe or a device has no length */
    }
    if (file >= 0) {
        add_json(&text);
        add(&text, "\n");
        flush_text(&text);
    }
    if (path != NULL && file >= 0)
        text.failed |= file_close(file) != 0;
    if (text.failed) {
        static const char message[] = "hakmem: HAKMEM_STATS: the file cannot be written\n";
        os_write_stderr(message, sizeof message - 1);
    }
}

/* ---- For people --------------------------------------------------------------------------------------------------- */

static ull kib(uint64_t bytes)
{
    return bytes / KIB;
}

static uint64_t lock_sum(const struct hak_stats *s)
{
    uint64_t sum = 0;
    for (unsigned i = 0; i < HAK_LOCK_N_CAUSES; i++)
        sum += s->lock_acquisitions[i];
    return sum;
}

static void add_memory(struct text *text, const struct hak_stats *s)
{
    add(text, "  live        %10llu KiB in %llu blocks\n", kib(s->live_bytes), (ull)s->live_blocks);
    add(text, "  cached      %10llu KiB in %llu blocks, %llu threads\n", kib(s->cached_bytes), (ull)s->cached_blocks,
        (ull)s->threads);
    add(text, "  committed   %10llu KiB, at most %llu; mapped %llu, records %llu\n", kib(s->committed_bytes),
        kib(s->peak_committed_bytes), kib(s->mapped_bytes), kib(s->metadata_bytes));
    struct os_resident now;
    if (introspect_resident(&now))
        add(text, "  in memory   %10llu KiB, %llu of them in huge pages\n", kib(now.resident_bytes),
            kib(now.huge_bytes));
    add(text, "  fragmented  %10llu KiB committed without a block, %llu of them in empty slots; %llu were purged\n",
        kib(s->fragmentation_bytes), kib(s->empty_bytes), kib(s->purged_bytes));
    if (s->rounding_samples != 0)
        add(text, "  rounding    %10llu KiB of %llu, estimated by %llu blocks of the heap profile\n",
            kib(s->rounding_bytes), kib(s->rounding_of_bytes), (ull)s->rounding_samples);
}

static void add_events(struct text *text, const struct hak_stats *s)
{
    add(text, "  SuperSlabs  %10llu hot, %llu draining, %llu cached; %llu mapped, %llu released, %llu evicted\n",
        (ull)s->superslabs_hot, (ull)s->superslabs_draining, (ull)s->superslabs_cached, (ull)s->superslabs_mapped_total,
        (ull)s->superslabs_released_total, (ull)s->superslabs_evicted_total);
    add(text, "  slots       %10llu active, %llu empty, %llu unused; %llu reused by another class\n",
        (ull)s->slots_active, (ull)s->slots_empty, (ull)s->slots_unused, (ull)s->slot_reuses_other_class);
    add(text, "  large       %10llu spans of %llu KiB, %llu runs of %llu KiB\n", (ull)s->spans, kib(s->span_bytes),
        (ull)s->runs, kib(s->run_bytes));
    add(text, "  acquired    %10llu from class lists, %llu slots, %llu reopened, %llu cached, %llu from the system\n",
        (ull)s->stage_class_list, (ull)s->stage_slot, (ull)s->stage_reopen, (ull)s->stage_lru, (ull)s->stage_os);
    add(text, "  gaps        %10llu slabs have some open, %llu larger blocks were placed in them\n", (ull)s->gap_slabs,
        (ull)s->gap_blocks_total);
    add(text, "  tiers       %10llu to draining, %llu reopened, %llu to free\n", (ull)s->tier_hot_to_draining,
        (ull)s->tier_draining_to_hot, (ull)s->tier_to_free);
    add(text, "  batches     %10llu refills, %llu flushes; lock taken %llu times, %llu after a wait\n", (ull)s->refills,
        (ull)s->flushes, (ull)lock_sum(s), (ull)s->lock_contended);
}

static void add_fullness(struct text *text, const char *tier, const uint64_t *by_fullness)
{
    add(text, "  %-11s", tier);
    for (unsigned i = 0; i < HAK_STATS_TENTHS; i++)
        add(text, " %6llu", (ull)by_fullness[i]);
    add(text, "\n");
}

static void add_class_table(struct text *text, const struct census *c)
{
    add(text, "  class            slabs        live      cached        free   dirty KiB\n");
    for (unsigned i = CLASS_FIRST; i < CENSUS_CLASSES; i++) {
        const struct census_class *class = &c->classes[i];
        if (class->slabs == 0)
            continue;
        if (i < CLASS_END)
            add(text, "  %-11llu", (ull) class->block_bytes);
        else
            add(text, "  %-11s", i == CENSUS_SPANS ? "spans" : "runs");
        add(text, " %10llu  %10llu  %10llu  %10llu  %10llu\n", (ull) class->slabs, (ull) class->live_blocks,
            (ull) class->cached_blocks, (ull) class->free_blocks, kib(class->dirty_bytes));
    }
}

void printing_text(char *buffer, size_t size_bytes)
{
    struct text text = {.buffer = buffer, .size_bytes = size_bytes, .file = STDERR_FILENO};
    struct census c;
    introspect_census(&c);
    add(&text, "hakmem %s, profile %s, process %d\n", hak_version(), hak_profile_name(), (int)getpid());
    add_memory(&text, &c.stats);
    add_events(&text, &c.stats);
    add(&text, "  full to      10 %%   20 %%   30 %%   40 %%   50 %%   60 %%   70 %%   80 %%   90 %%  100 %%\n");
    add_fullness(&text, "hot", c.stats.hot_by_fullness);
    add_fullness(&text, "draining", c.stats.draining_by_fullness);
    add_class_table(&text, &c);
    flush_text(&text);
}

/* ---- XML ---------------------------------------------------------------------------------------------------------- */

/* What glibc lists by sizes are free blocks. */
static int print_sizes(const struct census *c, FILE *stream)
{
    int n = fprintf(stream, "<sizes>\n");
    ull from_bytes = 1;
    for (unsigned i = CLASS_FIRST; i < CLASS_END && n >= 0; i++) {
        const struct census_class *class = &c->classes[i];
        ull free_blocks = class->cached_blocks + class->free_blocks;
        if (class->slabs != 0)
            n = fprintf(stream,
                        "  <size from=\"%llu\" to=\"%llu\" total=\"%llu\" count=\"%llu\" slabs=\"%llu\" live=\"%llu\" "
                        "cached=\"%llu\" dirty=\"%llu\"/>\n",
                        from_bytes, (ull) class->block_bytes, free_blocks * class->block_bytes, free_blocks,
                        (ull) class->slabs, (ull) class->live_blocks, (ull) class->cached_blocks,
                        (ull) class->dirty_bytes);
        from_bytes = class->block_bytes + 1;
    }
    return n < 0 ? n : fprintf(stream, "</sizes>\n");
}

static int print_totals(const struct census *c, FILE *stream)
{
    const struct hak_stats *s = &c->stats;
    struct introspect_totals t = introspect_totals(c);
    return fprintf(stream,
                   "<total type=\"live\" count=\"%llu\" size=\"%llu\"/>\n"
                   "<total type=\"fast\" count=\"%llu\" size=\"%llu\"/>\n"
                   "<total type=\"rest\" count=\"%zu\" size=\"%llu\"/>\n"
                   "<total type=\"mmap\" count=\"%zu\" size=\"%zu\"/>\n"
                   "<system type=\"current\" size=\"%llu\"/>\n<system type=\"max\" size=\"%llu\"/>\n"
                   "<aspace type=\"total\" size=\"%llu\"/>\n<aspace type=\"mprotect\" size=\"%llu\"/>\n",
                   (ull)s->live_blocks, (ull)s->live_bytes, (ull)s->cached_blocks, (ull)s->cached_bytes, t.free_blocks,
                   (ull)s->fragmentation_bytes, t.large_blocks, t.large_bytes, (ull)s->committed_bytes,
                   (ull)s->peak_committed_bytes, (ull)s->reserved_bytes, (ull)s->mapped_bytes);
}

/* As glibc has it: one heap, and the sums over all heaps, which are the same here. */
int printing_xml(FILE *stream)
{
    struct census c;
    introspect_census(&c);
    bool written = fprintf(stream, "<malloc version=\"1\">\n<heap nr=\"0\">\n") >= 0 && print_sizes(&c, stream) >= 0 &&
                   print_totals(&c, stream) >= 0 && fprintf(stream, "</heap>\n") >= 0 &&
                   print_totals(&c, stream) >= 0 && fprintf(stream, "</malloc>\n") >= 0;
    return written ? 0 : -1;
}
