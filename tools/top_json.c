/* top_json.c - `hakmem top --json`: the figures as one JSON object.
 * Owns       the names of the members: they are an interface, see docs/inspect.md.
 * Called by  top.c     Calls  figures.h, units.c, jansson.     Threads  one.
 * I1  The object is one line, so that samples can be told apart; its members are always the same, null where something is not known.
 * I2  Every number is exact up to 2^63 - 1, jansson's limit; above, it is given as that. No count of a real process comes near.
 */
#include "top.h"
#include "units.h"

#include "api/stats_names.h"
#include "tool.h"

#include <jansson.h>
#include <stdlib.h>

/* Missing where nothing is known. */
#define ROUNDING(X) X(rounding_bytes) X(rounding_of_bytes) X(rounding_samples)

/* Takes the value over. jansson fails for want of memory alone: the strings are UTF-8, the numbers finite. */
static void set(json_t *object, const char *key, json_t *value)
{
    if (json_object_set_new(object, key, value) == 0)
        return;
    tool_complain("out of memory");
    exit(TOOL_FAILED);
}

static void append(json_t *array, json_t *value)
{
    if (json_array_append_new(array, value) == 0)
        return;
    tool_complain("out of memory");
    exit(TOOL_FAILED);
}

static json_t *number(uint64_t n)
{
    return json_integer(n > INT64_MAX ? INT64_MAX : (json_int_t)n);
}

static json_t *text(const char *name)
{
    char utf8[256];
    return json_string(units_utf8(utf8, sizeof utf8, name));
}

/* ---- The heap: as hak_stats_json has it, see docs/stats-schema.json ------------------------------------------------ */

static json_t *make_locks(const struct hak_stats *s)
{
    json_t *object = json_object();
    for (unsigned i = 0; i < HAK_LOCK_N_CAUSES; i++)
        set(object, stats_lock_cause_names[i], number(s->lock_acquisitions[i]));
    return object;
}

static json_t *make_tier(uint64_t superslabs, const uint64_t *by_fullness)
{
    json_t *object = json_object(), *tenths = json_array();
    for (unsigned i = 0; i < HAK_STATS_TENTHS; i++)
        append(tenths, number(by_fullness[i]));
    set(object, "superslabs", number(superslabs));
    set(object, "by_fullness", tenths);
    return object;
}

static json_t *make_tiers(const struct hak_stats *s)
{
    json_t *object = json_object();
    set(object, "hot", make_tier(s->superslabs_hot, s->hot_by_fullness));
    set(object, "draining", make_tier(s->superslabs_draining, s->draining_by_fullness));
    return object;
}

static json_t *make_class(const struct figures_class *c)
{
    json_t *object = json_object();
    set(object, "kind", json_string(c->block_bytes != 0 ? "class" : c->label));
    set(object, "block_bytes", number(c->block_bytes));
    set(object, "slabs", number(c->slabs));
    set(object, "live_blocks", number(c->live_blocks));
    set(object, "following_blocks", number(c->following_blocks));
    set(object, "live_bytes", number(c->live_bytes));
    set(object, "cached_blocks", number(c->cached_blocks));
    set(object, "cached_bytes", number(c->cached_bytes));
    set(object, "free_blocks", number(c->free_blocks));
    set(object, "dirty_bytes", number(c->memory_bytes));
    return object;
}

static json_t *make_classes(const struct figures *f)
{
    json_t *array = json_array();
    for (size_t i = 0; i < f->n_classes; i++)
        append(array, make_class(&f->classes[i]));
    return array;
}

static json_t *make_cached_by_class(const uint32_t *blocks)
{
    json_t *object = json_object();
    for (unsigned i = CLASS_FIRST; i < CLASS_END; i++) {
        char name[16];
        snprintf(name, sizeof name, "%u", (unsigned)class_table[i].bytes);
        if (blocks[i] != 0)
            set(object, name, number(blocks[i]));
    }
    return object;
}

static json_t *make_thread_cache(const struct census_thread *t)
{
    json_t *object = json_object();
    set(object, "thread_id", json_integer(t->thread_id));
    set(object, "cached_bytes", number(t->cached_bytes));
    set(object, "cached_blocks", number(t->cached_blocks));
    set(object, "refills", number(t->refills));
    set(object, "flushes", number(t->flushes));
    set(object, "owned_slabs", number(t->owned_slabs));
    set(object, "held_slabs", number(t->held_slabs));
    set(object, "held_bytes", number(t->held_bytes));
    set(object, "cached_blocks_by_class", make_cached_by_class(t->cached_by_class));
    return object;
}

static json_t *make_thread_caches(const struct snapshot *snapshot)
{
    json_t *array = json_array();
    for (size_t i = 0; i < snapshot->n_threads && i < CENSUS_MAX_THREADS; i++)
        append(array, make_thread_cache(&snapshot->threads[i]));
    return array;
}

static json_t *make_heap(const struct figures *f)
{
    const struct hak_stats *s = &f->snapshot->census.stats;
    json_t *object = json_object();
    set(object, "version", json_integer(s->version));
    set(object, "profile", text(f->snapshot->profile));
#define SET(name) set(object, #name, number(s->name));
    STATS_NUMBERS(SET)
    if (s->rounding_samples != 0) {
        ROUNDING(SET)
    }
#undef SET
    set(object, "lock_acquisitions", make_locks(s));
    set(object, "tiers", make_tiers(s));
    set(object, "classes", make_classes(f));
    set(object, "thread_caches", make_thread_caches(f->snapshot));
    return object;
}

/* ---- What is seen from outside ------------------------------------------------------------------------------------ */

static json_t *make_rates(const struct figures_rates *r)
{
    if (r->interval_s <= 0)
        return json_null();
    json_t *object = json_object(), *acquired = json_object();
    set(object, "live_bytes", json_real(r->live_bytes));
    set(object, "committed_bytes", json_real(r->committed_bytes));
    set(object, "refills", json_real(r->refills));
    set(object, "flushes", json_real(r->flushes));
    for (unsigned i = 0; i < FIGURES_STAGES; i++)
        set(acquired, figures_stage_names[i], json_real(r->acquired[i]));
    set(object, "acquired", acquired);
    set(object, "slabs_released", json_real(r->slabs_released));
    set(object, "purged_bytes", json_real(r->purged_bytes));
    set(object, "given_back_bytes", json_real(r->given_back_bytes));
    set(object, "lock_acquisitions", json_real(r->lock_acquisitions));
    set(object, "lock_contended", json_real(r->lock_contended));
    return object;
}

static json_t *make_thread(const struct figures_thread *t, bool with_rates)
{
    json_t *object = json_object();
    set(object, "thread_id", json_integer(t->thread_id));
    set(object, "name", t->name[0] == '\0' ? json_null() : text(t->name));
    set(object, "refills_per_s", with_rates ? json_real(t->refills_per_s) : json_null());
    set(object, "flushes_per_s", with_rates ? json_real(t->flushes_per_s) : json_null());
    return object;
}

static json_t *make_object(const struct figures *f)
{
    const struct snapshot *snapshot = f->snapshot;
    json_t *object = json_object(), *threads = json_array();
    set(object, "pid", json_integer(snapshot->pid));
    set(object, "name", text(snapshot->name));
    set(object, "hakmem", text(snapshot->version));
    set(object, "time_ns", number(snapshot->time_ns));
    set(object, "interval_s", f->rates.interval_s > 0 ? json_real(f->rates.interval_s) : json_null());
    set(object, "torn_records", number(snapshot->n_torn));
    set(object, "process_resident_bytes",
        snapshot->resident_bytes == 0 ? json_null() : number(snapshot->resident_bytes));
    set(object, "given_back_bytes", number(f->given_back_bytes));
    set(object, "rates", make_rates(&f->rates));
    set(object, "heap", make_heap(f));
    for (size_t i = 0; i < f->n_threads; i++)
        append(threads, make_thread(&f->threads[i], f->rates.interval_s > 0));
    set(object, "threads", threads);
    return object;
}

void top_print_json(FILE *out, const struct figures *figures)
{
    json_t *object = make_object(figures);
    json_dumpf(object, out, JSON_COMPACT); /* what cannot be written is found when the stream is flushed */
    json_decref(object);
    fputc('\n', out);
}
