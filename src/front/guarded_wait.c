/* guarded_wait.c - large blocks of hardened mode that wait between free and reuse: their quarantine.
 * Owns     the quarantine, its figures, how many were freed.     Called by  guarded.c, harden.c, pressure.c (trim)
 * Calls    front.h (behind the doors), large.h, os.h
 * Threads  any: a place is exchanged by an atomic operation, and what was in it belongs to who did.
 */
#include "front/guarded_block.h"

#include "front/wipe.h"
#include "os/os.h"
#include "pool/large.h"
#include "service/budget.h"
#include "service/report.h"

#include <string.h>

/* Of the process; their pages are given back. */
#define LARGE_QUARANTINE_SLOTS 1024 /* with SECURE_PAGES */
#define LARGE_QUARANTINE_FEW 64
#define LARGE_QUARANTINE_LEAST 16 /* so many others are freed before one may be handed out again */
static SELDOM_USED _Atomic uintptr_t large_quarantine[LARGE_QUARANTINE_SLOTS];
static _Atomic uint32_t n_large_freed;
struct guarded_figures guarded_figures;

/* Random bits of the process: a keyed hash of a count. */
static _Atomic uint64_t n_random;

static uint64_t random_bits_of_process(void)
{
    return fold(atomic_fetch_add_explicit(&n_random, 1, memory_order_relaxed) ^ harden_secrets.address,
                harden_secrets.factor);
}

void guarded_fork_child(void)
{
    atomic_store(&n_random, os_random());
}

void guarded_release(struct large *large)
{
    char *base = large->base;
    large->seal = 0;
    large->block = NULL;
    if (large->is_guarded)
        large_open(base);
    front_return_block(base, "free");
}

/* A place of the quarantine: where a block's record is, and above the address the lower bits of its length in pages, by which most that
 * do not fit are told without a look at the record. */
#define LENGTH_SHIFT 48
_Static_assert(LENGTH_SHIFT >= ADDRESS_BITS, "a length lies above an address");

static uintptr_t length_bits(size_t total_bytes)
{
    return (uintptr_t)(total_bytes / os_page_bytes()) << LENGTH_SHIFT;
}

static struct large *record_of(uintptr_t place)
{
    return (struct large *)(place & (((uintptr_t)1 << LENGTH_SHIFT) - 1)); /* NOLINT: our own record */
}

/* Puts a freed block, or NULL, into a place of the quarantine, and gives what was there. */
static struct large *exchange_waiting(_Atomic uintptr_t *slot, struct large *in)
{
    if (in != NULL) { /* before it is seen there: the figures never fall below zero */
        atomic_fetch_add(&guarded_figures.n_waiting, 1);
        atomic_fetch_add(&guarded_figures.waiting_bytes, large_usable_bytes(in->base));
    }
    struct large *out = record_of(atomic_exchange(slot, in == NULL ? 0 : (uintptr_t)in | length_bits(in->total_bytes)));
    if (out != NULL) {
        atomic_fetch_sub(&guarded_figures.n_waiting, 1);
        atomic_fetch_sub(&guarded_figures.waiting_bytes, large_usable_bytes(out->base));
    }
    return out;
}

/* A block that has waited in reach of the program is to be as it was. */
static void check_clear(const struct large *large, const char *call)
{
    char *data = large->base + large->front_bytes;
    if (!is_cleared_in_place(large->total_bytes, large->is_guarded) || !checks(SECURE_ZERO) ||
        likely(wipe_is_clear(data, large->data_bytes)))
        return;
    report_misuse(call, "a free block was written to", data, "bytes", large->data_bytes);
    memset(data, 0, large->data_bytes);
}

static unsigned large_slots(void)
{
    return checks(SECURE_PAGES) ? LARGE_QUARANTINE_SLOTS : LARGE_QUARANTINE_FEW;
}

/* Whether a place has a block after which too few others were freed. A look beside whoever may take it. */
static bool is_young(const _Atomic uintptr_t *slot)
{
    const struct large *large = record_of(atomic_load(slot));
    return large != NULL && atomic_load(&n_large_freed) - large->freed_at <= LARGE_QUARANTINE_LEAST;
}

/* At a random place that is free or has a block that has waited for long enough. */
static void let_wait(struct large *large)
{
    unsigned mask = large_slots() - 1, at = (unsigned)random_bits_of_process() & mask;
    for (unsigned tries = 0; tries <= LARGE_QUARANTINE_LEAST && is_young(&large_quarantine[at]); tries++)
        at = (at + 1) & mask;
    large = exchange_waiting(&large_quarantine[at], large);
    if (large == NULL)
        return;
    check_clear(large, "free");
    guarded_release(large);
}

void guarded_let_wait(struct large *large)
{
    large->freed_at = atomic_fetch_add(&n_large_freed, 1);
    let_wait(large);
}

static bool fits(const struct large *large, size_t total_bytes, size_t front_bytes, size_t alignment, bool guard)
{
    return large != NULL && large->total_bytes == total_bytes && large->front_bytes == front_bytes &&
           large->is_guarded == guard && ((uintptr_t)(large->base + front_bytes) & (alignment - 1)) == 0 &&
           atomic_load(&n_large_freed) - large->freed_at > LARGE_QUARANTINE_LEAST;
}

char *guarded_take_waiting(size_t total_bytes, size_t front_bytes, size_t data_bytes, size_t alignment, bool guard)
{
    if (!checks(SECURE_GUARD) || !checks(SECURE_QUARANTINE) || budget_is_set())
        return NULL;
    unsigned at = (unsigned)(random_bits_of_process() % large_slots());
    const unsigned mask = large_slots() - 1;
    const uintptr_t wanted = length_bits(total_bytes) >> LENGTH_SHIFT;
    for (unsigned tries = 0; tries < LARGE_QUARANTINE_FEW; tries++, at = (at + 1) & mask) {
        /* relaxed, and a look beside whoever may take it: its record is never unmapped, and is looked at again below. */
        uintptr_t place = atomic_load_explicit(&large_quarantine[at], memory_order_relaxed);
        if (likely(place >> LENGTH_SHIFT != wanted) ||
            !fits(record_of(place), total_bytes, front_bytes, alignment, guard))
            continue;
        struct large *large = exchange_waiting(&large_quarantine[at], NULL);
        if (large == NULL)
            continue;
        if (fits(large, total_bytes, front_bytes, alignment, guard) &&
            (!guard || os_commit(large->base + front_bytes, data_bytes))) {
            char *base = large->base;
            large_take_pages(base, front_bytes + data_bytes);
            check_clear(large, "malloc");
            large->seal = 0;
            large->block = NULL;
            return base;
        }
        let_wait(large);
        return NULL;
    }
    return NULL;
}

size_t guarded_waiting(size_t *sum_bytes)
{
    *sum_bytes = atomic_load(&guarded_figures.waiting_bytes);
    return atomic_load(&guarded_figures.n_waiting);
}

void guarded_release_waiting(void)
{
    for (unsigned i = 0; i < LARGE_QUARANTINE_SLOTS; i++) {
        struct large *large = exchange_waiting(&large_quarantine[i], NULL);
        if (large == NULL)
            continue;
        check_clear(large, "free");
        guarded_release(large);
    }
}
