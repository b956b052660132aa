/* introspect.c - hak_stats, hak_trim, mallinfo's sums, and what is printed at exit.
 * Owns     nothing.     Called by  programs, override.c
 * Calls    census.h, arena.h, shared_pool.h, release.h, front/
 * Threads  any; no lock is taken to read, so that a process whose lock is stuck can still be asked.
 * Signals  hak_stats_get is async-signal-safe.
 */
#include "api/introspect.h"

#include "api/anchor.h"
#include "api/census.h"
#include "api/profile.h"
#include "front/front.h"
#include "front/guarded.h"
#include "front/harden.h"
#include "front/route.h"
#include "front/sampled.h"
#include "front/thread.h"
#include "meta/metapool.h"
#include "os/os.h"
#include "os/resident.h"
#include "pool/release.h"
#include "pool/shared_pool.h"
#include "pool/span.h"
#include "service/budget.h"
#include "service/config.h"
#include "service/stack.h"
#include "service/stats.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define JSON_MAX_BYTES 4096

/* ---- Sums ---------------------------------------------------------------------------------------------------- */

/* What the census of this process is taken of. */
static struct census_source here(void)
{
    struct census_source source = {.arenas = arena_first(),
                                   .threads = thread_first(),
                                   .counters = &stats_counters,
                                   .metapool_bytes = metapool_committed_bytes(),
                                   .slab_page_bytes = slab_page_bytes(),
                                   .sampled_total = sampled_total()};
    sampled_count(&source.sampled_blocks, &source.sampled_bytes);
    size_t waiting_bytes;
    source.waiting_blocks = guarded_waiting(&waiting_bytes);
    source.waiting_bytes = waiting_bytes;
    if (budget_is_set()) {
        source.budget_soft_bytes = atomic_load(&budget.soft_bytes);
        source.budget_hard_bytes = atomic_load(&budget.hard_bytes);
    }
    return source;
}

static void take_census(struct census *out)
{
    struct census_source source = here();
    census_take(&source, out);
}

int hak_stats_get(struct hak_stats *out, size_t size_bytes)
{
    struct census c;
    if (out == NULL || size_bytes < 2 * sizeof(uint32_t)) {
        errno = EINVAL;
        return -1;
    }
    take_census(&c);
    c.stats.struct_size_bytes = (uint32_t)min_size(size_bytes, sizeof c.stats);
    memcpy(out, &c.stats, c.stats.struct_size_bytes);
    return 0;
}

static bool overlaps_arena(uintptr_t from, uintptr_t to)
{
    for (struct arena *arena = arena_first(); arena != NULL; arena = arena_next(arena))
        if (from < (uintptr_t)arena->base + arena->len_bytes && to > (uintptr_t)arena->base)
            return true;
    return false;
}

int hak_resident_get(struct hak_resident *out)
{
    struct os_resident sum;
    if (!os_resident(overlaps_arena, &sum)) {
        errno = ENOSYS;
        return -1;
    }
    *out = (struct hak_resident){sum.resident_bytes, sum.huge_bytes};
    return 0;
}

struct introspect_totals introspect_totals(void)
{
    struct census c;
    take_census(&c);
    struct hak_stats s = c.stats;
    struct introspect_totals totals = {
        .live_bytes = s.live_bytes,
        .live_blocks = s.live_blocks,
        .cached_bytes = s.cached_bytes,
        .cached_blocks = s.cached_blocks,
        .large_bytes = s.span_bytes + s.run_bytes,
        .large_blocks = s.spans + s.runs,
        .committed_bytes = s.committed_bytes,
        .peak_committed_bytes = s.peak_committed_bytes,
        .free_bytes = s.committed_bytes > s.live_bytes ? s.committed_bytes - s.live_bytes : 0, /* read one by one */
        .free_blocks = s.cached_blocks + s.slots_unused + s.slots_empty,
        .trimmable_bytes = s.slots_empty * SLAB_BYTES + s.superslabs_cached * SUPERSLAB_BYTES,
    };
    return totals;
}

/* ---- Names and small questions ----------------------------------------------------------------------------------- */

const char *hak_version(void)
{
    return hakmem_anchor.version;
}

const char *hak_profile_name(void)
{
    thread_start_process();
    return profile_names[config.profile];
}

int hak_route_get(int range)
{
    thread_start_process();
    return range < 0 || range >= N_RANGES ? -1 : (int)tiny_route_of((unsigned)range);
}

/* Everything that has gone back to the system since the start. */
static uint64_t given_back_bytes(void)
{
    struct stats_counters *c = &stats_counters;
    return stats_read(&c->purged_bytes) +
           (stats_read(&c->superslabs_released_total) + stats_read(&c->superslabs_evicted_total)) * SUPERSLAB_BYTES;
}

size_t hak_trim(int level)
{
    uint64_t before_bytes = given_back_bytes();
    front_trim(level);
    return given_back_bytes() - before_bytes;
}

/* ---- Printing ---------------------------------------------------------------------------------------------------- */

/* Text that is cut at the end of its buffer; len counts what the whole would have. */
struct text {
    char *buffer;
    size_t size_bytes, len;
};

__attribute__((format(printf, 2, 3))) static void add(struct text *text, const char *format, ...)
{
    __builtin_va_list arguments;
    __builtin_va_start(arguments, format);
    size_t room = text->len < text->size_bytes ? text->size_bytes - text->len : 0;
    int n = vsnprintf(room != 0 ? text->buffer + text->len : NULL, room, format, arguments);
    __builtin_va_end(arguments);
    text->len += n > 0 ? (size_t)n : 0;
}

/* Every counter of struct hak_stats by name, in the order of the struct. */
#define FIELDS(X)                                                                                                      \
    X(live_bytes)                                                                                                      \
    X(live_blocks) X(cached_bytes) X(cached_blocks) X(committed_bytes) X(peak_committed_bytes) X(reserved_bytes)       \
        X(metadata_bytes) X(superslabs) X(superslabs_hot) X(superslabs_draining) X(superslabs_cached)                  \
            X(superslabs_mapped_total) X(superslabs_released_total) X(superslabs_evicted_total) X(slots_unused)        \
                X(slots_active) X(slots_empty) X(spans) X(span_bytes) X(runs) X(run_bytes) X(stage_class_list)         \
                    X(stage_slot) X(stage_reopen) X(stage_lru) X(stage_os) X(slabs_released)                           \
                        X(slot_reuses_other_class) X(tier_hot_to_draining) X(tier_draining_to_hot) X(tier_to_free)     \
                            X(release_refused_pinned) X(purged_bytes) X(lock_contended) X(refills) X(flushes)          \
                                X(threads) X(arenas) X(caches_emptied) X(mapped_bytes)              \
                                    X(budget_soft_bytes) X(budget_hard_bytes) X(budget_refusals) X(budget_reliefs)   \
                                    X(sampled_total)

static const char *const lock_cause_names[HAK_LOCK_N_CAUSES] = {"acquire_slab", "release_slab", "span", "tier",
                                                                "metadata",     "trim",         "fork"};

size_t hak_stats_json(char *buffer, size_t size_bytes)
{
    struct census c;
    struct text text = {buffer, size_bytes, 0};
    take_census(&c);
    struct hak_stats s = c.stats;
    add(&text, "{\"version\":%u,\"profile\":\"%s\"", s.version, hak_profile_name());
#define ADD_FIELD(name) add(&text, ",\"" #name "\":%llu", (unsigned long long)s.name);
    FIELDS(ADD_FIELD)
    struct os_resident now;
    if (os_resident(overlaps_arena, &now))
        add(&text, ",\"resident_bytes\":%llu,\"huge_bytes\":%llu", (unsigned long long)now.resident_bytes,
            (unsigned long long)now.huge_bytes);
    add(&text, ",\"lock_acquisitions\":{");
    for (unsigned i = 0; i < HAK_LOCK_N_CAUSES; i++)
        add(&text, "%s\"%s\":%llu", i == 0 ? "" : ",", lock_cause_names[i], (unsigned long long)s.lock_acquisitions[i]);
    add(&text, "}}");
    return text.len;
}

static unsigned long long kib(uint64_t bytes)
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

typedef unsigned long long ull;

void introspect_print_text(void)
{
    struct census c;
    char buffer[JSON_MAX_BYTES];
    struct text text = {buffer, sizeof buffer, 0};
    take_census(&c);
    struct hak_stats s = c.stats;
    add(&text, "hakmem %s, profile %s, process %d\n", hak_version(), hak_profile_name(), (int)getpid());
    add(&text, "  live        %10llu KiB in %llu blocks\n", kib(s.live_bytes), (ull)s.live_blocks);
    add(&text, "  cached      %10llu KiB in %llu blocks, %llu threads\n", kib(s.cached_bytes), (ull)s.cached_blocks,
        (ull)s.threads);
    add(&text, "  committed   %10llu KiB, at most %llu; mapped %llu, records %llu\n", kib(s.committed_bytes),
        kib(s.peak_committed_bytes), kib(s.mapped_bytes), kib(s.metadata_bytes));
    struct os_resident now;
    if (os_resident(overlaps_arena, &now))
        add(&text, "  in memory   %10llu KiB, %llu of them in huge pages\n", kib(now.resident_bytes), kib(now.huge_bytes));
    add(&text, "  SuperSlabs  %10llu hot, %llu draining, %llu cached; %llu mapped, %llu released, %llu evicted\n",
        (ull)s.superslabs_hot, (ull)s.superslabs_draining, (ull)s.superslabs_cached, (ull)s.superslabs_mapped_total,
        (ull)s.superslabs_released_total, (ull)s.superslabs_evicted_total);
    add(&text, "  slots       %10llu active, %llu empty, %llu unused; %llu reused by another class\n",
        (ull)s.slots_active, (ull)s.slots_empty, (ull)s.slots_unused, (ull)s.slot_reuses_other_class);
    add(&text, "  large       %10llu spans of %llu KiB, %llu runs of %llu KiB\n", (ull)s.spans, kib(s.span_bytes),
        (ull)s.runs, kib(s.run_bytes));
    add(&text, "  acquired    %10llu from class lists, %llu slots, %llu reopened, %llu cached, %llu from the system\n",
        (ull)s.stage_class_list, (ull)s.stage_slot, (ull)s.stage_reopen, (ull)s.stage_lru, (ull)s.stage_os);
    add(&text, "  tiers       %10llu to draining, %llu reopened, %llu to free\n", (ull)s.tier_hot_to_draining,
        (ull)s.tier_draining_to_hot, (ull)s.tier_to_free);
    add(&text, "  batches     %10llu refills, %llu flushes; lock taken %llu times, %llu after a wait\n", (ull)s.refills,
        (ull)s.flushes, (ull)lock_sum(&s), (ull)s.lock_contended);
    os_write_stderr(buffer, min_size(text.len, sizeof buffer - 1));
}

int introspect_print_xml(FILE *stream)
{
    struct introspect_totals t = introspect_totals();
    int n =
        fprintf(stream,
                "<malloc version=\"1\">\n<heap nr=\"0\">\n"
                "<total type=\"live\" count=\"%zu\" size=\"%zu\"/>\n"
                "<total type=\"cached\" count=\"%zu\" size=\"%zu\"/>\n"
                "<total type=\"rest\" count=\"%zu\" size=\"%zu\"/>\n"
                "<total type=\"mmap\" count=\"%zu\" size=\"%zu\"/>\n"
                "<system type=\"current\" size=\"%zu\"/>\n<system type=\"max\" size=\"%zu\"/>\n</heap>\n</malloc>\n",
                t.live_blocks, t.live_bytes, t.cached_blocks, t.cached_bytes, t.free_blocks, t.free_bytes,
                t.large_blocks, t.large_bytes, t.committed_bytes, t.peak_committed_bytes);
    return n < 0 ? -1 : 0;
}

static void write_file(const char *path, const char *bytes, size_t len)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    bool written = fd >= 0 && write(fd, bytes, len) == (ssize_t)len;
    if (fd >= 0)
        close(fd);
    if (!written) {
        static const char message[] = "hakmem: HAKMEM_STATS: the file cannot be written\n";
        os_write_stderr(message, sizeof message - 1);
    }
}

/* ---- The process ------------------------------------------------------------------------------------------------- */

__attribute__((constructor)) static void on_load(void)
{
    thread_start_process();
    if (harden_mode() == HARDEN_SAMPLING || config.profile_path[0] != 0)
        stack_prepare();
    profile_start_process();
}

__attribute__((destructor)) static void on_exit_process(void)
{
    harden_check_at_exit();
    profile_end_process();
    if (config.stats == STATS_OFF)
        return;
    if (config.stats == STATS_TEXT) {
        introspect_print_text();
        return;
    }
    char buffer[JSON_MAX_BYTES];
    size_t len = min_size(hak_stats_json(buffer, sizeof buffer - 1), sizeof buffer - 2);
    buffer[len++] = '\n';
    if (config.stats == STATS_JSON)
        os_write_stderr(buffer, len);
    else
        write_file(config.stats_path, buffer, len);
}
