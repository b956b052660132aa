/* snapshot.c - see snapshot.h.
 * Owns       nothing but what it fills in.     Called by  the subcommands that show a heap
 * Calls      image.h (the copy of the records), census.h (the sums)     Threads  one.
 * I1  The sums and the list of SuperSlabs are of the same copy. */
#define _GNU_SOURCE
#include "snapshot.h"

#include "image.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { RESIDENT_TRIES = 1000 }; /* by another thread each time */

static const char *profile_name(unsigned profile)
{
    static const char *const names[N_PROFILES] = {
        [PROFILE_CONSERVATIVE] = "conservative", [PROFILE_HOT] = "hot", [PROFILE_OFF] = "off", [PROFILE_FULL] = "full"};
    return profile < N_PROFILES ? names[profile] : "?";
}

/* By the second number of /proc/PID/statm, in pages; 0 when it is not told, as by a thread that is about to end. */
static uint64_t resident_by(pid_t pid)
{
    char path[64], text[256] = "";
    unsigned long pages = 0;
    snprintf(path, sizeof path, "/proc/%d/statm", (int)pid);
    const int fd = open(path, O_RDONLY | O_CLOEXEC);
    const ssize_t length = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
    if (fd >= 0)
        close(fd);
    if (length <= 0 || sscanf(text, "%*u %lu", &pages) != 1)
        return 0;
    return (uint64_t)pages * (uint64_t)sysconf(_SC_PAGESIZE);
}

static uint64_t resident_bytes(struct target *target)
{
    uint64_t bytes = 0;
    pid_t reader;
    for (unsigned i = 0; i < RESIDENT_TRIES && bytes == 0 && (reader = target_reader(target)) != 0; i++)
        bytes = resident_by(reader);
    return bytes;
}

static void fill_packed_slot(const struct slab *slab, struct snapshot_slot *out)
{
    out->packed_pages = slab->packed_pages;
    for (unsigned i = 0; i < PACKED_HEADS; i++) {
        const uint32_t word = slab->packed[i].word;
        if (PACKED_STATE(word) != PACKED_LIVE)
            continue;
        out->packed_spans++;
        out->span_bytes += PACKED_ASKED(word) * PACKED_PAGE_BYTES;
    }
}

static void fill_slot(const struct slab *slab, struct snapshot_slot *out)
{
    const slab_ctl ctl = atomic_load_explicit(&slab->ctl, memory_order_relaxed);
    out->state = (uint8_t)CTL_STATE(ctl);
    out->dirty_pages = atomic_load_explicit(&slab->dirty_pages, memory_order_relaxed);
    if (slab_state_has_class(CTL_STATE(ctl))) {
        out->class_id = (uint8_t)CTL_CLASS(ctl);
        out->used = (uint16_t)CTL_USED(ctl);
        out->n_blocks = class_table[CTL_CLASS(ctl)].n_blocks;
    } else if (CTL_STATE(ctl) == SLAB_SPAN_HEAD) {
        out->span_slabs = slab->span_slabs;
        out->span_bytes = slab->span_bytes;
    } else if (CTL_STATE(ctl) == SLAB_PACKED) {
        fill_packed_slot(slab, out);
    }
}

/* Of a SuperSlab outside the pool whose slots still tell: how much of it may be in memory, as the census counts it. */
static uint32_t dirty_sum(const struct image_arena *arena, uint32_t i, size_t page_bytes)
{
    size_t sum_bytes = 0;
    for (unsigned slot = 0; slot < SUPERSLAB_SLABS; slot++)
        sum_bytes += count_bits(atomic_load_explicit(&image_slab(arena, i, slot)->dirty_pages, memory_order_relaxed)) *
                     page_bytes;
    return (uint32_t)min_size(sum_bytes, SUPERSLAB_BYTES);
}

static void fill_superslab(const struct image *image, uint32_t number, uint32_t i, struct snapshot_superslab *out)
{
    const struct image_arena *arena = &image->arenas[number];
    const struct superslab *ss = &arena->superslabs[i];
    *out = (struct snapshot_superslab){.address = target_address(arena->there.base) + ((uint64_t)i << SUPERSLAB_SHIFT),
                                       .arena = number,
                                       .state = ss->state};
    if (ss->state == SUPERSLAB_POOLED) {
        out->tier = ss->tier;
        for (unsigned slot = 0; slot < SUPERSLAB_SLABS; slot++)
            fill_slot(image_slab(arena, i, slot), &out->slot[slot]);
        return;
    }
    out->dirty_prefix_bytes = ss->dirty_by_slab ? dirty_sum(arena, i, image->slab_page_bytes) : ss->dirty_prefix_bytes;
    if (ss->state == SUPERSLAB_RUN) {
        out->run_superslabs = ss->run_superslabs;
        out->run_bytes = ss->run_bytes;
    }
}

static int by_address(const void *a, const void *b)
{
    const uint64_t first = ((const struct snapshot_superslab *)a)->address;
    const uint64_t second = ((const struct snapshot_superslab *)b)->address;
    return (first > second) - (first < second);
}

static bool fill_superslabs(const struct image *image, struct snapshot *out)
{
    size_t n = 0;
    for (size_t a = 0; a < image->n_arenas; a++)
        for (uint32_t i = 0; i < image->arenas[a].high; i++)
            n += image->arenas[a].superslabs[i].state != SUPERSLAB_ABSENT;
    out->superslabs = calloc(n == 0 ? 1 : n, sizeof *out->superslabs);
    if (out->superslabs == NULL)
        return false;
    for (size_t a = 0; a < image->n_arenas; a++)
        for (uint32_t i = 0; i < image->arenas[a].high; i++)
            if (image->arenas[a].superslabs[i].state != SUPERSLAB_ABSENT)
                fill_superslab(image, (uint32_t)a, i, &out->superslabs[out->n_superslabs++]);
    qsort(out->superslabs, out->n_superslabs, sizeof *out->superslabs, by_address);
    return true;
}

static bool fill_threads(const struct image *image, struct snapshot *out)
{
    const struct thread *at = NULL;
    out->threads = calloc(image->n_threads == 0 ? 1 : image->n_threads, sizeof *out->threads);
    if (out->threads == NULL)
        return false;
    while (out->n_threads < image->n_threads && census_thread_next(&image->source, &at, &out->threads[out->n_threads]))
        out->n_threads++;
    return true;
}

static void fill_names(const struct image *image, struct snapshot *out)
{
    const struct target *target = image->target;
    out->pid = target->pid;
    snprintf(out->name, sizeof out->name, "%s", target->name);
    snprintf(out->version, sizeof out->version, "%.*s", ANCHOR_VERSION_BYTES - 1, target->anchor.version);
    snprintf(out->profile, sizeof out->profile, "%s", profile_name(image->config.profile));
}

int snapshot_read(struct target *target, struct snapshot *out, char *why, size_t why_bytes)
{
    struct image image;
    *out = (struct snapshot){0};
    if (image_take(target, IMAGE_SUMS, &image, why, why_bytes) != 0)
        return -1;
    image_repair(&image);
    fill_names(&image, out);
    out->time_ns = image.time_ns;
    out->resident_bytes = resident_bytes(target);
    out->slab_page_bytes = image.slab_page_bytes;
    out->n_torn = image.n_torn;
    census_take(&image.source, &out->census);
    const bool filled = fill_superslabs(&image, out) && fill_threads(&image, out);
    image_free(&image);
    if (filled)
        return 0;
    snapshot_free(out);
    snprintf(why, why_bytes, "process %d: no memory for a list of its SuperSlabs", (int)target->pid);
    return -1;
}

int snapshot_take(pid_t pid, struct snapshot *out, char *why, size_t why_bytes)
{
    struct target target;
    *out = (struct snapshot){0};
    if (target_open_to_read(pid, &target, why, why_bytes) != 0)
        return -1;
    const int result = snapshot_read(&target, out, why, why_bytes);
    target_close(&target);
    return result;
}

void snapshot_free(struct snapshot *snapshot)
{
    free(snapshot->superslabs);
    free(snapshot->threads);
    *snapshot = (struct snapshot){0};
}
