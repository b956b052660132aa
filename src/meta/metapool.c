/* metapool.c - see metapool.h.
 * Owns     the regions it cuts pieces from.
 * Called by  front/thread.c, front/harden.c (quarantines); arena.c, registry.c (metapool_reserve)     Calls  os.h
 * Threads  one at a time: callers hold the pool lock; metapool_reserve any.
 */
#include "meta/metapool.h"

#include "os/os.h"

#define REGION_BYTES MIB /* address space taken at a time */

static struct {
    char *next, *end; /* what is left of the last region */
} metapool;

_Atomic size_t metapool_committed;

static bool guarded;

void metapool_guard(void)
{
    guarded = true;
}

char *metapool_reserve(size_t len_bytes)
{
    if (!guarded)
        return os_reserve(len_bytes, METAPOOL_GUARD_BYTES);
    char *space = os_reserve(len_bytes + 2 * METAPOOL_GUARD_BYTES, METAPOOL_GUARD_BYTES);
    return space == NULL ? NULL : space + METAPOOL_GUARD_BYTES;
}

void metapool_unreserve(char *space, size_t len_bytes)
{
    size_t guard_bytes = guarded ? METAPOOL_GUARD_BYTES : 0;
    os_unreserve(space - guard_bytes, len_bytes + 2 * guard_bytes);
}

void *metapool_claim(void)
{
    if (metapool.next == metapool.end) {
        char *region = metapool_reserve(REGION_BYTES);
        if (region == NULL)
            return NULL;
        os_advise_huge(region, REGION_BYTES, false); /* Of a record's space little is in use. */
        metapool.next = region;
        metapool.end = region + REGION_BYTES;
    }
    char *piece = metapool.next;
    if (!os_commit(piece, METAPOOL_PIECE_BYTES))
        return NULL;
    metapool.next += METAPOOL_PIECE_BYTES;
    atomic_fetch_add_explicit(&metapool_committed, METAPOOL_PIECE_BYTES, memory_order_relaxed); /* a statistic */
    return piece;
}

size_t metapool_committed_bytes(void)
{
    return atomic_load_explicit(&metapool_committed, memory_order_relaxed); /* a statistic */
}
