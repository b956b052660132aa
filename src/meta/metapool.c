/* metapool.c - see metapool.h.
 * Owns     the regions it cuts pieces from, and a list of free pieces per power of two.
 * Called by  front/thread.c, front/magazine.c.     Calls  os.h
 * Threads  one at a time: callers hold the pool lock.
 * Pieces never go back to the system: their number is bounded by the threads that live at once.
 */
#include "meta/metapool.h"

#include "os/os.h"

#include <string.h>

#define REGION_BYTES MIB        /* address space taken at a time */
#define COMMIT_BYTES (64 * KIB) /* made writable at a time: a multiple of any system page */
#define N_SIZES 10              /* 64 << 0 .. 64 << 9 */

struct piece {
    struct piece *next;
};

static struct {
    char *next, *committed, *end;
    struct piece *free[N_SIZES];
    _Atomic size_t committed_bytes;
} metapool;

static unsigned size_index(size_t size_bytes)
{
    return size_bytes <= METAPOOL_MIN_BYTES ? 0
                                            : (unsigned)(64 - __builtin_clzl((size_bytes - 1) / METAPOOL_MIN_BYTES));
}

static void *cut(size_t len_bytes)
{
    char *piece = (char *)round_up((uintptr_t)metapool.next, min_size(len_bytes, 4096));
    if (metapool.next == NULL || piece + len_bytes > metapool.end) {
        /* The rest of the old region is left: less than one piece. */
        char *region = os_reserve(REGION_BYTES, COMMIT_BYTES);
        if (region == NULL)
            return NULL;
        metapool.next = metapool.committed = piece = region;
        metapool.end = region + REGION_BYTES;
    }
    while (piece + len_bytes > metapool.committed) {
        if (!os_commit(metapool.committed, COMMIT_BYTES))
            return NULL;
        metapool.committed += COMMIT_BYTES;
        atomic_fetch_add_explicit(&metapool.committed_bytes, COMMIT_BYTES, memory_order_relaxed); /* a statistic */
    }
    metapool.next = piece + len_bytes;
    return piece;
}

void *metapool_claim(size_t size_bytes)
{
    unsigned k = size_index(size_bytes);
    struct piece *piece = metapool.free[k];
    if (piece == NULL)
        return cut((size_t)METAPOOL_MIN_BYTES << k); /* never written: zero */
    metapool.free[k] = piece->next;
    memset(piece, 0, (size_t)METAPOOL_MIN_BYTES << k);
    return piece;
}

void metapool_return(void *piece, size_t size_bytes)
{
    unsigned k = size_index(size_bytes);
    ((struct piece *)piece)->next = metapool.free[k];
    metapool.free[k] = piece;
}

size_t metapool_committed_bytes(void)
{
    return atomic_load_explicit(&metapool.committed_bytes, memory_order_relaxed); /* a statistic */
}
