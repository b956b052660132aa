/* metapool.c - see metapool.h.
 * Owns     the regions it cuts pieces from.
 * Called by  front/thread.c, front/harden.c (quarantines)     Calls  os.h
 * Threads  one at a time: callers hold the pool lock.
 */
#include "meta/metapool.h"

#include "os/os.h"

#define REGION_BYTES MIB /* address space taken at a time */

static struct {
    char *next, *end; /* what is left of the last region */
} metapool;

_Atomic size_t metapool_committed;

void *metapool_claim(void)
{
    if (metapool.next == metapool.end) {
        char *region = os_reserve(REGION_BYTES, METAPOOL_PIECE_BYTES);
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
