/* introspect.c - hak_stats_get, hak_trim, mallinfo's sums, the start and the end of the process.
 * Owns     nothing.     Called by  programs, override.c
 * Calls    census.h, printing.h, arena.h, shared_pool.h, release.h, front/
 * Threads  any; no lock is taken to read, so that a process whose lock is stuck can still be asked.
 * Signals  hak_stats_get is async-signal-safe.
 */
#include "api/introspect.h"

#include "api/anchor.h"
#include "api/override_identity.h"
#include "api/override_scope.h"
#include "api/printing.h"
#include "api/profile.h"
#include "front/front.h"
#include "front/guarded.h"
#include "front/harden.h"
#include "front/profile.h"
#include "front/route.h"
#include "front/sampled.h"
#include "front/thread.h"
#include "meta/metapool.h"
#include "pool/release.h"
#include "pool/shared_pool.h"
#include "service/budget.h"
#include "service/config.h"
#include "service/stack.h"
#include "service/stats.h"

#include <errno.h>
#include <string.h>

/* ---- Sums ---------------------------------------------------------------------------------------------------- */

struct census_source introspect_source(void)
{
    struct census_source source = {.arenas = arena_first(),
                                   .threads = thread_first(),
                                   .counters = &stats_counters,
                                   .metapool_bytes = metapool_committed_bytes(),
                                   .slab_page_bytes = slab_page_bytes(),
                                   .sampled_total = sampled_total()};
    if (profile_has_records())
        source.profile = &profile_state;
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

void introspect_census(struct census *out)
{
    struct census_source source = introspect_source();
    census_take(&source, out);
}

int hak_stats_get(struct hak_stats *out, size_t size_bytes)
{
    struct census c;
    if (out == NULL || size_bytes < 2 * sizeof(uint32_t)) {
        errno = EINVAL;
        return -1;
    }
    introspect_census(&c);
    c.stats.struct_size_bytes = (uint32_t)min_size(size_bytes, sizeof c.stats);
    memcpy(out, &c.stats, c.stats.struct_size_bytes);
    return 0;
}

/* Whether a mapping has memory for blocks. */
static bool overlaps_arena(uintptr_t from, uintptr_t to)
{
    for (struct arena *arena = arena_first(); arena != NULL; arena = arena_next(arena))
        if (from < (uintptr_t)arena->base + arena->len_bytes && to > (uintptr_t)arena->base)
            return true;
    return false;
}

bool introspect_resident(struct os_resident *out)
{
    return os_resident(overlaps_arena, out);
}

int hak_resident_get(struct hak_resident *out)
{
    struct os_resident sum;
    if (!introspect_resident(&sum)) {
        errno = ENOSYS;
        return -1;
    }
    *out = (struct hak_resident){sum.resident_bytes, sum.huge_bytes};
    return 0;
}

struct introspect_totals introspect_totals(const struct census *c)
{
    const struct hak_stats *s = &c->stats;
    struct introspect_totals totals = {
        .large_bytes = s->span_bytes + s->run_bytes,
        .large_blocks = s->spans + s->runs,
        .free_bytes = s->committed_bytes > s->live_bytes ? s->committed_bytes - s->live_bytes : 0, /* read one by one */
        .trimmable_bytes = s->slots_empty * SLAB_BYTES + s->superslabs_cached * SUPERSLAB_BYTES,
    };
    for (unsigned i = CLASS_FIRST; i < CLASS_END; i++)
        totals.free_blocks += c->classes[i].free_blocks;
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

/* ---- The process ------------------------------------------------------------------------------------------------- */

/* Where the library has no names, as in unit tests, there is none of this. */
#pragma weak scope_has_free
#pragma weak scope_prepare
#pragma weak identity_watch

__attribute__((constructor)) static void on_load(void)
{
    bool program_has_free = &scope_has_free == NULL || scope_has_free();
    thread_start_process();
    config_drop_refused();
    if (&scope_prepare != NULL)
        scope_prepare();
    if (program_has_free && &identity_watch != NULL)
        identity_watch();
    if (program_has_free && (harden_mode() == HARDEN_SAMPLING || config.profile_path[0] != 0))
        stack_prepare();
    profile_start_process();
}

static COLD void write_statistics(void)
{
    static char
        buffer[64 * KIB]; /* Of a page of it that is not written to nobody has to pay. What is longer goes in pieces. */
    if (config.stats == STATS_TEXT)
        printing_text(buffer, sizeof buffer);
    else
        printing_json(config.stats == STATS_FILE ? config.stats_path : NULL, buffer, sizeof buffer);
}

__attribute__((destructor)) static void on_exit_process(void)
{
    harden_check_at_exit();
    profile_end_process();
    if (config.stats != STATS_OFF)
        write_statistics();
}
