/* progress.c - see progress.h.
 * Owns       a list.     Called by  check.c     Calls  image.h, target.h     Threads  one.
 * A thread is inside while its record says busy (a slow path) or claimed (somebody looks after its cache, or what the record of one that
 * is gone keeps). It has left when neither is said, or its slow calls are more than they were, or the record has become another thread's.
 * Threads without a record (at the very beginning and end of their lives, and the library's own) are not seen; what they do under the lock,
 * is. */
#define _GNU_SOURCE
#include "progress.h"

#include <stdlib.h>
#include <string.h>

/* The fields of a thread's record from the first that is of interest to the last. */
#define FIRST_BYTE offsetof(struct thread, refills)
#define END_BYTE (offsetof(struct thread, thread_id) + sizeof(int32_t))
struct part {
    char bytes[END_BYTE - FIRST_BYTE];
};

struct sample {
    uint64_t count;
    int32_t thread_id;
    bool inside;
};

static uint64_t number_at(const struct part *part, size_t offset, size_t len_bytes)
{
    uint64_t number = 0;
    memcpy(&number, part->bytes + (offset - FIRST_BYTE), len_bytes); /* the lower bytes come first */
    return number;
}

static struct sample sample_of(const struct part *part)
{
    struct sample sample = {.count = number_at(part, offsetof(struct thread, refills), 8) +
                                     number_at(part, offsetof(struct thread, flushes), 8),
                            .thread_id = (int32_t)number_at(part, offsetof(struct thread, thread_id), 4)};
    /* also of one that no thread has */
    sample.inside = number_at(part, offsetof(struct thread, claim), 4) != THREAD_UNCLAIMED ||
                    (number_at(part, offsetof(struct thread, in_use), 4) != 0 &&
                     number_at(part, offsetof(struct thread, busy), 4) != 0);
    return sample;
}

/* Reads some threads' parts, up to TARGET_MAX_PIECES at once. `number` gives the threads; NULL: from `first` on. */
static bool read_parts(struct image *image, const struct insider *number, size_t first, size_t n, struct part *parts)
{
    struct target_piece piece[TARGET_MAX_PIECES];
    for (size_t i = 0; i < n; i++) {
        const size_t thread = number == NULL ? first + i : number[i].thread;
        piece[i] = (struct target_piece){image->threads[thread]->address + FIRST_BYTE, &parts[i], sizeof parts[i]};
    }
    return target_read_pieces(image->target, piece, n);
}

static uint64_t locks_taken(const struct image *image)
{
    uint64_t sum = 0;
    for (unsigned i = 0; i < HAK_LOCK_N_CAUSES; i++)
        sum += atomic_load_explicit(&image->counters.lock_acquisitions[i], memory_order_relaxed);
    return sum;
}

bool progress_note(struct image *image, struct progress *out)
{
    struct part parts[TARGET_MAX_PIECES];
    *out = (struct progress){0};
    out->insiders = calloc(image->n_threads == 0 ? 1 : image->n_threads, sizeof *out->insiders);
    if (out->insiders == NULL || !image_refresh_process(image))
        return false;
    out->lock_word = image->lock_word;
    out->n_locks = locks_taken(image);
    for (size_t first = 0; first < image->n_threads; first += TARGET_MAX_PIECES) {
        const size_t n = min_size(image->n_threads - first, TARGET_MAX_PIECES);
        if (!read_parts(image, NULL, first, n, parts))
            return false;
        for (size_t i = 0; i < n; i++) {
            const struct sample now = sample_of(&parts[i]);
            if (now.inside)
                out->insiders[out->n++] = (struct insider){first + i, now.count, now.thread_id};
        }
    }
    return true;
}

bool progress_look(struct image *image, struct progress *progress, bool *left)
{
    struct part parts[TARGET_MAX_PIECES];
    size_t n_left = 0;
    if (!image_refresh_process(image))
        return false;
    if (image->lock_word != progress->lock_word || locks_taken(image) != progress->n_locks)
        progress->lock_word = 0;
    for (size_t first = 0; first < progress->n; first += TARGET_MAX_PIECES) {
        struct insider *insider = progress->insiders + first;
        const size_t n = min_size(progress->n - first, TARGET_MAX_PIECES);
        if (!read_parts(image, insider, 0, n, parts))
            return false;
        for (size_t i = 0; i < n; i++) {
            const struct sample now = sample_of(&parts[i]);
            if (now.inside && now.count == insider[i].count && now.thread_id == insider[i].thread_id)
                progress->insiders[n_left++] = insider[i];
        }
    }
    progress->n = n_left;
    *left = n_left == 0 && progress->lock_word == 0;
    return true;
}

void progress_free(struct progress *progress)
{
    free(progress->insiders);
    *progress = (struct progress){0};
}
