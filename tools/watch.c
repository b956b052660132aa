/* watch.c - see watch.h.
 * Owns       the snapshots and the figures of struct watch.     Called by  top.c, top_screen.c
 * Calls      snapshot.h, process.c, figures.c.     Threads  one.
 * I1  snapshots[n_samples & 1] is free; the other is the latest, if there is one.
 * I2  A sample counts only if the process that was noted at the beginning still has the number after it was taken.
 */
#include "watch.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void watch_begin(struct watch *watch, pid_t pid)
{
    memset(watch, 0, sizeof *watch);
    if (!process_note(pid, &watch->process))
        watch->process = (struct process){.pid = pid}; /* the first sample tells why */
}

static void renew_figures(struct watch *watch, const struct snapshot *earlier, const struct snapshot *now)
{
    struct process_thread *names;
    const size_t n_names = process_threads(watch->process.pid, &names);
    figures_free(&watch->figures);
    figures_make(&watch->figures, earlier, now, names, n_names);
    free(names);
}

enum watch_result watch_sample(struct watch *watch)
{
    struct snapshot fresh;
    const bool taken = snapshot_take(watch->process.pid, &fresh, watch->why, sizeof watch->why) == 0;
    if (!process_is_alive(&watch->process) && watch->n_samples != 0) {
        if (taken)
            snapshot_free(&fresh);
        return WATCH_ENDED;
    }
    if (!taken)
        return WATCH_FAILED;
    const unsigned free_one = watch->n_samples & 1;
    if (watch->n_samples >= 2)
        snapshot_free(&watch->snapshots[free_one]);
    watch->snapshots[free_one] = fresh;
    renew_figures(watch, watch->n_samples == 0 ? NULL : &watch->snapshots[!free_one], &watch->snapshots[free_one]);
    watch->n_samples++;
    return WATCH_OK;
}

void watch_end(struct watch *watch)
{
    for (unsigned i = 0; i < 2 && i < watch->n_samples; i++)
        snapshot_free(&watch->snapshots[i]);
    figures_free(&watch->figures);
}
