/* huge_pages.c - see huge_pages.h.
 * Owns     `huge` of SuperSlabs, what a child shares with its parent.     Called by  shared_pool.c, span.c, run.c (fresh ones), purge.c, tail.c,
 *          packed_pages.c (before parts go back), fork.c
 * Calls    os.h, release.h, dirty.h, slab.h; budget.h, config.h, stats.h
 * Threads  any; the records of other SuperSlabs are read as a guess.
 */
#include "pool/huge_pages.h"

#include "os/os.h"
#include "pool/dirty.h"
#include "pool/release.h"
#include "service/budget.h"
#include "service/config.h"
#include "service/stats.h"
#include "superslab/slab.h"

/* A heap that has grown to so much may hold a huge page of which not all is used: an eighth of it at most. (xmllint: 0.89 of the
 * time of 32 MiB. See docs/memory.md.) */
#define HUGE_HEAP_BYTES (16 * MIB)

/* What a fork's child shares with its parent does not count: a huge page would be most of what the child has to itself. (8 children of a
 * process of 68 MiB that each hold 300 KB: 2.8 MB of their own each, and 0.8 without.) */
static _Atomic size_t shared_bytes;

void huge_pages_fork_child(void)
{
    /* relaxed: a hint */
    atomic_store_explicit(&shared_bytes, (size_t)stats_read(&stats_counters.mapped_bytes), memory_order_relaxed);
}

/* What this process alone has mapped. What it gives back is what it shared, as far as it can be. */
static size_t own_bytes(void)
{
    size_t all_bytes = (size_t)stats_read(&stats_counters.mapped_bytes);
    size_t shared = atomic_load_explicit(&shared_bytes, memory_order_relaxed); /* relaxed, both: a hint */
    if (all_bytes < shared) {
        shared = all_bytes;
        atomic_store_explicit(&shared_bytes, shared, memory_order_relaxed);
    }
    return all_bytes - shared;
}

/* How densely the next SuperSlab will be used: of the slabs in so many before it, the pages handed out tell. */
#define SLABS_SUPERSLABS 16

/* Whether slabs are filled as the heap grows: threads that each begin a slab per class touch a few pages of each, and huge
 * pages would make them use all (bench_workloads threads_100: 58 MiB instead of 9). */
static bool slabs_are_dense(const struct superslab *fresh)
{
    unsigned n_slabs = 0, n_pages = 0, n_all = count_bits(slab_all_pages());
    const struct superslab *first = fresh - (fresh->index < SLABS_SUPERSLABS ? fresh->index : SLABS_SUPERSLABS);
    for (const struct superslab *ss = first; ss < fresh; ss++) {
        if (atomic_load_explicit(&ss->state, memory_order_acquire) != SUPERSLAB_POOLED)
            continue;
        for (unsigned i = 0; i < SUPERSLAB_SLABS; i++) {
            const struct slab *slab = superslab_slab(ss, i);
            enum slab_state state = CTL_STATE(slab_ctl_read(slab));
            if (state != SLAB_OWNED && state != SLAB_PARTIAL && state != SLAB_FULL)
                continue;
            n_slabs++; /* relaxed: a guess */
            n_pages += count_bits(atomic_load_explicit(&slab->dirty_pages, memory_order_relaxed));
        }
    }
    return n_slabs >= SUPERSLAB_SLABS && n_pages * 8 >= n_slabs * n_all * 7;
}

/* Of spans nobody knows how much of them is touched but the system. It is asked about the nearest SPANS_ASKED SuperSlabs before the
 * fresh one that hold spans in small pages: of what was handed out there, all but UNTOUCHED_SIXTEENTHS must be in memory, for what a
 * program leaves untouched stays so. (An answer takes 4 microseconds.) And of the nearest SPANS_SUPERSLABS that hold spans, all but
 * SPARE_SIXTEENTHS must be handed out, as their blocks may leave gaps that nobody fits into; the first SPANS_FILLING of them do not
 * count, for they are often filling still. Behind the first SPARE_SUPERSLABS of an arena gaps are worth more than page faults: all but one
 * sixteenth. (1,500 MiB of blocks of 300,000 bytes, of which six fit into 30 slots: 1.03 times what was written, and 1.16 without.) */
#define UNTOUCHED_SIXTEENTHS 2
#define SPARE_SIXTEENTHS 3
#define SPARE_SUPERSLABS 128
#define SPARE_SIXTEENTHS_BEHIND 1
#define SPANS_ASKED 2
#define SPANS_SUPERSLABS 8
#define SPANS_FILLING 2
#define SPANS_BEFORE 32 /* so far back they are looked for */

enum spans_seen {
    SPANS_FEW,     /* too few in small pages, and in less than a quarter of the SuperSlabs */
    SPANS_UNKNOWN, /* too few in small pages */
    SPANS_UNTOUCHED,
    SPANS_SPARSE,
    SPANS_DENSE
};

/* Of slabs whose blocks are two pages long or more nobody knows it either: so many of them count as a span. */
#define LONG_SLABS (SUPERSLAB_SLABS / 4)

/* Bytes handed out of a SuperSlab that holds spans; 0: it holds none. Of most that don't, the class map knows, in one line of the cache. */
static size_t bytes_beside_spans(const struct superslab *ss)
{
    const _Atomic uint8_t *class_map = ss->arena->class_map + superslab_slab_index(ss, 0);
    unsigned n_marked = 0, n_long = 0, n_spans = 0, least_long = class_of(2 * slab_page_bytes()) * CLASS_OFFSET_SCALE;
    size_t sum_bytes = 0;
    for (unsigned i = 0; i < SUPERSLAB_SLABS; i++) { /* relaxed: a guess */
        unsigned offset = atomic_load_explicit(&class_map[i], memory_order_relaxed);
        n_marked += offset == CLASS_SPAN * CLASS_OFFSET_SCALE;
        n_long += offset >= least_long;
    }
    for (unsigned i = 0; i < SUPERSLAB_SLABS && (n_marked != 0 || n_long >= LONG_SLABS); i++) {
        const struct slab *slab = superslab_slab(ss, i);
        enum slab_state state = CTL_STATE(slab_ctl_read(slab));
        n_spans += state == SLAB_SPAN_HEAD || state == SLAB_PACKED;
        sum_bytes += slab_dirty_bytes(slab);
    }
    return n_spans == 0 && n_long < LONG_SLABS ? 0 : sum_bytes;
}

/* The system is asked last, and not where the answer would change nothing: who only wants to know whether they are dense. Where it may
 * not be asked, or where hardened mode may have read what was handed out (a page that has been read counts as in memory), they may be
 * untouched. (10,000 blocks of 28,000 bytes of which one is written to: 272 MB of 39, where that was taken to be dense.) */
static enum spans_seen look_at_spans(const struct superslab *fresh, bool whether_dense)
{
    size_t asked_bytes = 0, in_memory_bytes = 0, all_bytes = 0, handed_out_bytes = 0;
    const struct superslab *asked[SPANS_ASKED];
    unsigned n_seen = 0, n_asked = 0, n_before = fresh->index < SPANS_BEFORE ? fresh->index : SPANS_BEFORE;
    for (unsigned i = 1; i <= n_before && (n_asked < SPANS_ASKED || n_seen < SPANS_SUPERSLABS); i++) {
        const struct superslab *ss = fresh - i;
        if (atomic_load_explicit(&ss->state, memory_order_acquire) != SUPERSLAB_POOLED)
            continue;
        size_t bytes = bytes_beside_spans(ss);
        if (bytes == 0)
            continue;
        n_seen++;
        if (n_seen > SPANS_FILLING && n_seen <= SPANS_SUPERSLABS) {
            all_bytes += SUPERSLAB_BYTES;
            handed_out_bytes += bytes;
        }
        if (n_asked < SPANS_ASKED && !atomic_load(&ss->huge)) {
            asked[n_asked++] = ss;
            asked_bytes += bytes;
        }
    }
    if (n_asked < SPANS_ASKED || all_bytes == 0)
        return n_seen * 4 < n_before ? SPANS_FEW : SPANS_UNKNOWN;
    unsigned spare = fresh->index < SPARE_SUPERSLABS ? SPARE_SIXTEENTHS : SPARE_SIXTEENTHS_BEHIND;
    bool sparse = handed_out_bytes * 16 < all_bytes * (16 - spare);
    if (sparse && whether_dense)
        return SPANS_SPARSE;
    if (!release_may_ask(1) || config.secure != 0)
        return n_seen * 4 < n_before ? SPANS_FEW : SPANS_UNTOUCHED;
    for (unsigned i = 0; i < n_asked; i++)
        in_memory_bytes += os_resident_bytes(superslab_memory(asked[i]), SUPERSLAB_BYTES);
    if (in_memory_bytes * 16 < asked_bytes * (16 - UNTOUCHED_SIXTEENTHS))
        return SPANS_UNTOUCHED;
    return sparse ? SPANS_SPARSE : SPANS_DENSE;
}

/* So that there are always such ones, each so manieth has small pages: in heaps of up to so many SuperSlabs, and above. */
#define PROBE_INTERVAL 8
#define PROBE_SUPERSLABS 64
#define PROBE_INTERVAL_ABOVE 16

static bool is_probe(const struct superslab *fresh)
{
    unsigned interval = fresh->index < PROBE_SUPERSLABS ? PROBE_INTERVAL : PROBE_INTERVAL_ABOVE;
    return fresh->index % interval == interval - 1;
}

bool huge_pages_fit(void)
{
    size_t page_bytes = os_page_bytes();
    return page_bytes * (page_bytes / sizeof(uint64_t)) == SUPERSLAB_BYTES;
}

/* Whether a heap is so large that some may have huge pages, if the program leaves it to us. */
static bool may_be_huge(void)
{
    return config.huge_pages != HUGE_PAGES_NEVER && huge_pages_fit() && own_bytes() > HUGE_HEAP_BYTES;
}

/* With `always`, but not where there is a budget: they would hold what does not count against it. */
static bool are_always_huge(void)
{
    return config.huge_pages == HUGE_PAGES_ALWAYS && !budget_is_set();
}

bool huge_pages_for_spans(const struct superslab *fresh)
{
    if (are_always_huge())
        return true;
    return may_be_huge() && !is_probe(fresh) && !budget_is_set() && look_at_spans(fresh, true) == SPANS_DENSE;
}

/* It will hold spans, too, if those before it do. (200 MB of blocks of 33 to 400 KB of which a third is touched, beside 100 MB of small
 * ones: 170 MB instead of 216.) */
bool huge_pages_for_slabs(const struct superslab *fresh)
{
    if (are_always_huge())
        return true;
    if (!may_be_huge() || budget_presses() || !slabs_are_dense(fresh))
        return false;
    enum spans_seen spans = look_at_spans(fresh, false);
    return spans == SPANS_FEW || ((spans == SPANS_SPARSE || spans == SPANS_DENSE) && !is_probe(fresh));
}

static bool has(struct huge_part part, uint32_t i)
{
    return i >= part.first && i < part.end;
}

void superslab_choose_pages(struct superslab *ss, uint32_t n, struct huge_part part)
{
    /* Small pages would keep the system from using a huge one, and cost more than a huge one does: one by one, they are
     * mostly missing. */
    for (uint32_t i = part.first; i < part.end; i++)
        if (!superslab_is_clean(ss + i) && !ss[i].huge && os_purge(superslab_memory(ss + i), SUPERSLAB_BYTES))
            superslab_forget_slots(ss + i, true);
    for (uint32_t i = 0; i < n;) {
        uint32_t end = i;
        bool huge = has(part, i);
        while (end < n && superslab_is_clean(ss + end) && ss[end].huge != huge && huge == has(part, end))
            ss[end++].huge = huge;
        if (end > i)
            os_advise_huge(superslab_memory(ss + i), (size_t)(end - i) << SUPERSLAB_SHIFT, huge);
        i = end > i ? end : i + 1;
    }
}

void superslab_use_small_pages(struct superslab *ss)
{
    if (atomic_exchange(&ss->huge, 0) == 0)
        return;
    os_advise_huge(superslab_memory(ss), SUPERSLAB_BYTES, false);
    os_split_huge_page(superslab_memory(ss));
}
