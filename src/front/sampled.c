/* sampled.c - see sampled.h.
 * Owns     the places and their records.
 * Called by  harden.c (the doors of malloc), free.c, api/malloc.c, harden.c (faults), api/introspect.c     Calls  os.h, stack.h, report.h
 * Threads  any, and signal handlers: no lock. A place is changed by who has exchanged its state for CHANGING; the record of a
 *          live block belongs to who holds the block.
 */
#include "front/sampled.h"

#include "meta/sizeclass.h"
#include "os/os.h"
#include "service/report.h"
#include "service/stack.h"

#include <errno.h>
#include <string.h>

#define N_PLACES 512

/* The two low bits of a place's state; above them the number of frees until it was freed: the lowest is the oldest. */
enum place_state { PLACE_FREE = 0, PLACE_LIVE, PLACE_CHANGING };
#define STATE_BITS 2
#define STATE_OF(state) ((enum place_state)((state) & ((1 << STATE_BITS) - 1)))

struct record {
    char *block, *pages; /* pages: the first that is accessible */
    size_t size_bytes, pages_bytes;
    bool is_dirty; /* the system refused to take the pages back */
    struct stack allocated, freed;
};

struct sampled_space sampled_space;

static struct record *records; /* of the places, by number */
static SELDOM_USED _Atomic uint64_t states[N_PLACES];
static _Atomic uint64_t n_freed;
struct sampled_figures sampled_figures;
static unsigned char pattern;

/* Of the longest block: whole pages, of which one may be longer than that. */
static size_t room_bytes(void)
{
    return round_up(CLASS_MAX_BYTES, os_page_bytes());
}

static size_t place_bytes(void)
{
    return room_bytes() + os_page_bytes();
}

static char *place_at(unsigned i)
{
    return (char *)sampled_space.base + os_page_bytes() + i * place_bytes(); /* NOLINT: our own address space */
}

/* The place whose pages, or whose inaccessible page behind them, an address lies in. */
static unsigned place_around(const void *address)
{
    size_t offset_bytes = (uintptr_t)address - sampled_space.base;
    return offset_bytes < os_page_bytes() ? 0 : (unsigned)((offset_bytes - os_page_bytes()) / place_bytes());
}

bool sampled_start(void)
{
    size_t len_bytes = os_page_bytes() + N_PLACES * place_bytes();
    size_t records_bytes = round_up(N_PLACES * sizeof(struct record), os_page_bytes());
    char *base = os_reserve(len_bytes, os_page_bytes());
    void *memory = base == NULL ? NULL : os_reserve(records_bytes, os_page_bytes());
    if (memory == NULL || !os_commit(memory, records_bytes)) {
        if (memory != NULL)
            os_unreserve(memory, records_bytes);
        if (base != NULL)
            os_unreserve(base, len_bytes);
        return false;
    }
    records = memory;
    /* no small number, no text, not 0xff: what is mostly stored shows */
    pattern = (unsigned char)((os_random() & 0x3e) | 0x81);
    sampled_space.base = (uintptr_t)base;
    sampled_space.len_bytes = len_bytes;
    return true;
}

/* Takes the place that has been free for longest. N_PLACES: none is free. */
static unsigned take_place(void)
{
    for (;;) {
        unsigned oldest = N_PLACES;
        uint64_t oldest_state = UINT64_MAX;
        for (unsigned i = 0; i < N_PLACES; i++) {
            uint64_t state = atomic_load_explicit(&states[i], memory_order_relaxed); /* relaxed: taken below, or not */
            if (STATE_OF(state) == PLACE_FREE && state < oldest_state) {
                oldest = i;
                oldest_state = state;
            }
        }
        if (oldest == N_PLACES || atomic_compare_exchange_strong(&states[oldest], &oldest_state, PLACE_CHANGING))
            return oldest;
    }
}

static void let_go_of_place(unsigned i)
{
    atomic_store(&states[i], (atomic_fetch_add(&n_freed, 1) + 1) << STATE_BITS | PLACE_FREE);
}

static bool is_padded(const char *from, const char *to)
{
    while (from != to && (unsigned char)*from == pattern)
        from++;
    return from == to;
}

void *sampled_claim(size_t size_bytes, size_t alignment)
{
    size_t page_bytes = os_page_bytes();
    if (size_bytes > CLASS_MAX_BYTES || alignment > page_bytes)
        return NULL;
    unsigned i = take_place();
    if (i == N_PLACES)
        return NULL;
    bool at_end = (os_random() & 1) != 0;
    size_t pages_bytes = round_up(size_bytes, page_bytes);
    char *pages = place_at(i) + (at_end ? room_bytes() - pages_bytes : 0);
    struct record *record = &records[i];
    bool is_dirty = record->is_dirty;
    if (pages_bytes != 0 && !os_commit(pages, pages_bytes)) {
        let_go_of_place(i);
        return NULL;
    }
    if (is_dirty) /* by an earlier block, which lay somewhere in the place */
        memset(pages, 0, pages_bytes);
    size_t least_alignment = max_size(alignment, size_bytes <= 8 ? 8 : 16);
    char *block =
        at_end ? (char *)((uintptr_t)(pages + pages_bytes - size_bytes) & ~(uintptr_t)(least_alignment - 1)) : pages;
    memset(pages, pattern, (size_t)(block - pages));
    memset(block + size_bytes, pattern, (size_t)(pages + pages_bytes - (block + size_bytes)));
    record->block = block;
    record->pages = pages;
    record->size_bytes = size_bytes;
    record->pages_bytes = pages_bytes;
    record->freed.n_frames = 0;
    stack_take(&record->allocated);
    stack_sign(&record->allocated);
    atomic_store(&states[i], PLACE_LIVE);
    atomic_fetch_add(&sampled_figures.n_total, 1);
    atomic_fetch_add(&sampled_figures.n_live, 1);
    atomic_fetch_add(&sampled_figures.live_bytes, size_bytes);
    return block;
}

static COLD void report(const char *call, const char *what, const void *block, const struct record *record)
{
    report_mistake(call, what, block, "asked for bytes", record->size_bytes);
    stack_report("allocated", &record->allocated);
    stack_report("freed", &record->freed);
    report_end_of_mistake();
}

void sampled_return(void *block, const char *call)
{
    unsigned i = place_around(block);
    struct record *record = &records[i];
    uint64_t live = PLACE_LIVE;
    if (record->block != block) {
        report(call, "pointer into the middle of a block", block, record);
        return;
    }
    if (!atomic_compare_exchange_strong(&states[i], &live, PLACE_CHANGING)) {
        report(call, "block freed twice", block, record);
        return;
    }
    int saved_errno = errno;
    atomic_fetch_sub(&sampled_figures.n_live, 1);
    atomic_fetch_sub(&sampled_figures.live_bytes, record->size_bytes);
    stack_take(&record->freed);
    stack_sign(&record->freed);
    if (!is_padded(record->pages, block))
        report(call, "written before the block's beginning", block, record);
    if (!is_padded((char *)block + record->size_bytes, record->pages + record->pages_bytes))
        report(call, "written behind the block's end", block, record);
    char *pages = record->is_dirty ? place_at(i) : record->pages;
    size_t pages_bytes = record->is_dirty ? room_bytes() : record->pages_bytes;
    record->is_dirty = pages_bytes != 0 && !os_decommit(pages, pages_bytes);
    if (record->is_dirty)
        os_forbid(pages, pages_bytes); /* Refused as well: then the block stays accessible. */
    let_go_of_place(i);
    errno = saved_errno;
}

size_t sampled_size_bytes(const void *block, const char *call)
{
    unsigned i = place_around(block);
    const struct record *record = &records[i];
    bool live = STATE_OF(atomic_load(&states[i])) == PLACE_LIVE;
    if (live && record->block == block)
        return record->size_bytes;
    report(call, record->block != block ? "pointer into the middle of a block" : "block freed already", block, record);
    return SIZE_MAX;
}

/* How far an address lies from the block of a place; SIZE_MAX: none has been there. */
static size_t distance(const char *address, unsigned i)
{
    const char *block = i < N_PLACES ? records[i].block : NULL,
               *end = block + (block == NULL ? 0 : records[i].size_bytes);
    if (block == NULL)
        return SIZE_MAX;
    return address < block ? (size_t)(block - address) : address < end ? 0 : (size_t)(address - end);
}

/* The place whose block an address lies in, or is nearest to: its own, or one beside it. */
static unsigned nearest_place(const char *address)
{
    unsigned own = place_around(address), nearest = own;
    if (distance(address, own + 1) < distance(address, nearest))
        nearest = own + 1;
    if (own > 0 && distance(address, own - 1) < distance(address, nearest))
        nearest = own - 1;
    return nearest;
}

void sampled_explain(const void *address, uintptr_t pc)
{
    const char *at = address;
    unsigned i = nearest_place(at);
    const struct record *record = &records[i];
    const char *block = record->block, *end = block + record->size_bytes;
    const char *state = STATE_OF(atomic_load(&states[i])) == PLACE_LIVE ? "" : ", which was freed";
    if (block == NULL)
        report_line("hakmem: fault: no block lies at %p", address);
    else if (at >= end)
        report_line("hakmem: fault: %p lies %z bytes behind the end of the block of %z bytes at %p%s", address,
                    (size_t)(at - end), record->size_bytes, block, state);
    else if (at < block)
        report_line("hakmem: fault: %p lies %z bytes before the block of %z bytes at %p%s", address,
                    (size_t)(block - at), record->size_bytes, block, state);
    else
        report_line("hakmem: fault: %p lies in the block of %z bytes at %p%s", address, record->size_bytes, block,
                    state);
    struct stack here;
    stack_take_interrupted(&here, pc);
    stack_sign(&here);
    stack_report("touched", &here);
    if (block != NULL) {
        stack_report("allocated", &record->allocated);
        stack_report("freed", &record->freed);
    }
}

uint64_t sampled_total(void)
{
    return atomic_load_explicit(&sampled_figures.n_total, memory_order_relaxed); /* relaxed: a number, no more */
}

void sampled_count(uint64_t *n, uint64_t *size_bytes)
{
    *n = atomic_load_explicit(&sampled_figures.n_live, memory_order_relaxed); /* relaxed, both: a guess */
    *size_bytes = atomic_load_explicit(&sampled_figures.live_bytes, memory_order_relaxed);
}
