/* progress.h - who is inside the allocator of another process, and whether they have moved on since.
 *
 * What a thread is just changing looks wrong. It is mostly done with it in some nanoseconds; but on a machine with more threads than
 * processors a thread may stand there, without a processor, for a tenth of a second and more. So time alone proves nothing: two looks
 * count as two only if whoever was in the midst of something at the first has been seen to leave it.
 */
#ifndef HAKMEM_TOOLS_PROGRESS_H
#define HAKMEM_TOOLS_PROGRESS_H

#include "image.h"

struct insider {
    size_t thread;  /* of the image's */
    uint64_t count; /* its slow calls so far */
    int32_t thread_id;
};

struct progress {
    size_t n;
    struct insider *insiders; /* threads that were inside, and were not seen to leave */
    uint64_t lock_word;       /* of the pool lock, if it was held and was not seen to be dropped; else 0 */
    uint64_t n_locks;         /* how often it was taken until then */
};

/* Notes who is inside now. Returns false when that cannot be read, or there is no memory. */
bool progress_note(struct image *image, struct progress *out);

/* Forgets those that have left since. Returns false when that cannot be read. *left is set when nobody of those noted is inside any
 * longer. */
bool progress_look(struct image *image, struct progress *progress, bool *left);

void progress_free(struct progress *progress);

#endif
