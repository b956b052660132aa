/* watch.c - see watch.h.
 * Owns       the open process, the snapshots and the figures of struct watch.     Called by  top.c, top_screen.c, metrics.c
 * Calls      target.h, snapshot.h, process.c, figures.c.     Threads  one.
 * I1  snapshots[n_samples & 1] is free, or the one before the latest; the other is the latest, if there is one.
 * I2  All samples are of one process: its number may be given to another, what was opened may not.
 */
#include "watch.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { RETRY_MS = 20 };

static void renew_figures(struct watch *watch, const struct snapshot *earlier, const struct snapshot *now)
{
    struct process_thread *names;
    const size_t n_names = process_threads(watch->target.pid, &names);
    figures_free(&watch->figures);
    figures_make(&watch->figures, earlier, now, names, n_names);
    free(names);
}

static bool open_again(struct target *target, struct snapshot *out, char *why, size_t why_bytes)
{
    struct target opened;
    if (target_open_to_read(target->pid, &opened, why, why_bytes) != 0)
        return false;
    if (opened.start_time != target->start_time || snapshot_read(&opened, out, why, why_bytes) != 0) {
        target_close(&opened);
        return false;
    }
    target_close(target);
    *target = opened;
    return true;
}

bool watch_read(struct target *target, struct snapshot *out, char *why, size_t why_bytes)
{
    return snapshot_read(target, out, why, why_bytes) == 0 || open_again(target, out, why, why_bytes);
}

static void add_sample(struct watch *watch, const struct snapshot *fresh)
{
    struct snapshot *now = &watch->snapshots[watch->n_samples & 1];
    const struct snapshot *earlier = watch->n_samples == 0 ? NULL : &watch->snapshots[!(watch->n_samples & 1)];
    if (watch->n_samples >= 2)
        snapshot_free(now);
    *now = *fresh;
    renew_figures(watch, earlier, now);
    watch->n_samples++;
}

bool watch_begin(struct watch *watch, pid_t pid)
{
    struct snapshot fresh;
    memset(watch, 0, sizeof *watch);
    if (target_open_to_read(pid, &watch->target, watch->why, sizeof watch->why) != 0)
        return false;
    if (snapshot_read(&watch->target, &fresh, watch->why, sizeof watch->why) != 0) {
        target_close(&watch->target);
        return false;
    }
    add_sample(watch, &fresh);
    return true;
}

static enum watch_result try_sample(struct watch *watch)
{
    struct snapshot fresh;
    if (!watch_is_alive(watch))
        return WATCH_ENDED;
    if (watch_read(&watch->target, &fresh, watch->why, sizeof watch->why)) {
        add_sample(watch, &fresh);
        return WATCH_OK;
    }
    return watch_is_alive(watch) ? WATCH_FAILED : WATCH_ENDED;
}

enum watch_result watch_sample(struct watch *watch, unsigned patience_ms)
{
    const struct timespec pause = {.tv_nsec = RETRY_MS * 1000000};
    enum watch_result result = try_sample(watch);
    for (unsigned waited_ms = 0; result == WATCH_FAILED && waited_ms < patience_ms; waited_ms += RETRY_MS) {
        nanosleep(&pause, NULL);
        result = try_sample(watch);
    }
    return result;
}

bool watch_is_alive(const struct watch *watch)
{
    return target_is_alive(&watch->target);
}

void watch_end(struct watch *watch)
{
    for (unsigned i = 0; i < 2 && i < watch->n_samples; i++)
        snapshot_free(&watch->snapshots[i]);
    figures_free(&watch->figures);
    target_close(&watch->target);
}
