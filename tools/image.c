/* image.c - see image.h.
 * Owns       the copies.     Called by  snapshot.c, check.c, progress.c     Calls  target.h     Threads  one.
 * I1  Every length that is read or allocated was held against a bound: of the address space, of the arena that it belongs to, of
 *     this machine's memory.
 * I2  Every list that is followed ends: by a bound, and where it comes back to itself.
 * Why large reads first and a look afterwards: the less time lies between the first byte and the last, the less has changed. */
#define _GNU_SOURCE
#include "image.h"

#include "clock.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define MAX_ARENAS ((size_t)1 << 16)  /* each has an address range of its own, mostly gigabytes */
#define MAX_THREADS ((size_t)1 << 18) /* records, of which there are as many as there were threads at once */
#define RE_READS 3                    /* of what makes no sense */
#define LIST_READS 16                 /* until nobody is at the lists meanwhile */
#define SUMS_THREAD_BYTES offsetof(struct thread, first_array)
_Static_assert(offsetof(struct thread, span_places) < SUMS_THREAD_BYTES &&
                   offsetof(struct thread, packed_places) < SUMS_THREAD_BYTES,
               "what a thread holds is summed up");

/* Zeros that cost memory only where they are written. NULL: no address space. A length of 0 gives a page. */
static void *map_zeros(size_t len_bytes)
{
    void *zeros = mmap(NULL, len_bytes == 0 ? 1 : len_bytes, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return zeros == MAP_FAILED ? NULL : zeros;
}

static void unmap_zeros(void *zeros, size_t len_bytes)
{
    if (zeros != NULL)
        munmap(zeros, len_bytes == 0 ? 1 : len_bytes);
}

static size_t half_of_memory_bytes(void)
{
    const long pages = sysconf(_SC_PHYS_PAGES), page_bytes = sysconf(_SC_PAGESIZE);
    return pages > 0 && page_bytes > 0 ? (size_t)pages * (size_t)page_bytes / 2 : SIZE_MAX;
}

/* ---- Arenas -------------------------------------------------------------------------------------------------------- */

static size_t large_map_bytes(void)
{
    return SLAB_MAX_WORDS * sizeof(uint64_t);
}

/* Whether `n` entries from an address on lie in the arena's records. */
static bool lies_in_records(const struct arena *arena, const volatile void *from, size_t n, size_t entry_bytes)
{
    const uint64_t begin = target_address(arena->metadata), at = target_address(from);
    return at >= begin && at - begin <= arena->metadata_bytes &&
           n <= (arena->metadata_bytes - (at - begin)) / entry_bytes;
}

/* Whether an arena's record can be one: its lengths agree with each other and with the address space. */
static bool arena_makes_sense(const struct arena *arena)
{
    const uint64_t base = target_address(arena->base);
    const uint32_t high = atomic_load(&arena->high);
    return base != 0 && base % SUPERSLAB_BYTES == 0 && base >> ADDRESS_BITS == 0 &&
           arena->len_bytes == (size_t)arena->n_superslabs << SUPERSLAB_SHIFT &&
           (base + arena->len_bytes - 1) >> ADDRESS_BITS == 0 && high <= arena->n_superslabs &&
           target_address(arena->metadata) >> ADDRESS_BITS == 0 && arena->metadata_bytes >> ADDRESS_BITS == 0 &&
           lies_in_records(arena, arena->superslabs, high, sizeof(struct superslab)) &&
           lies_in_records(arena, arena->slabs, (size_t)high * SUPERSLAB_SLABS, sizeof(struct slab)) &&
           lies_in_records(arena, arena->large_bits, (size_t)high * SUPERSLAB_SLABS, large_map_bytes()) &&
           lies_in_records(arena, arena->taken, (high + 63) / 64, sizeof(uint64_t)) &&
           target_address(arena->class_map) >> ADDRESS_BITS == 0;
}

static bool read_arena_record(struct target *target, uint64_t address, struct arena *record)
{
    if (address % _Alignof(struct arena) != 0)
        return false;
    for (int i = 0; i <= RE_READS; i++)
        if (target_read(target, address, record, sizeof *record) && arena_makes_sense(record))
            return true;
    return false;
}

static bool has_slabs_to_read(const struct image *image, const struct superslab *ss)
{
    const unsigned state = atomic_load_explicit(&ss->state, memory_order_relaxed);
    return state == SUPERSLAB_POOLED || ss->dirty_by_slab != 0 ||
           (state == SUPERSLAB_RUN && image->extent == IMAGE_DETAIL); /* its head */
}

/* Whether a slab's bits are in its large bit map, or its second map is. */
static bool has_large_map(const struct slab *slab)
{
    const slab_ctl ctl = atomic_load_explicit(&slab->ctl, memory_order_relaxed);
    const unsigned class_id = CTL_CLASS(ctl);
    return slab_state_has_class(CTL_STATE(ctl)) && class_id >= CLASS_FIRST && class_id < CLASS_END &&
           (class_table[class_id].n_words > SLAB_SMALL_WORDS || slab_has_gaps(slab));
}

static uint64_t slabs_address(const struct image_arena *arena, uint32_t superslab)
{
    return target_address(arena->there.slabs) + (uint64_t)superslab * SUPERSLAB_SLABS * sizeof(struct slab);
}

/* The slab records of SuperSlabs from `from` on, up to `end`. */
static void read_slabs(struct image *image, struct image_arena *arena, uint32_t from, uint32_t end)
{
    struct slab *to = arena->slabs + (size_t)from * SUPERSLAB_SLABS;
    const size_t len_bytes = (size_t)(end - from) * SUPERSLAB_SLABS * sizeof *to;
    if (from != end && !target_read(image->target, slabs_address(arena, from), to, len_bytes)) {
        memset((void *)to, 0, len_bytes);
        image->n_torn += end - from;
    }
}

/* The large bit maps of a SuperSlab's slabs, from the first that is in use to the last, as a piece to be read. False: none is. */
static bool large_map_piece(const struct image_arena *arena, uint32_t superslab, struct target_piece *piece)
{
    unsigned first = SUPERSLAB_SLABS, last = 0;
    for (unsigned i = 0; i < SUPERSLAB_SLABS; i++)
        if (has_large_map(image_slab(arena, superslab, i))) {
            first = first < i ? first : i;
            last = i;
        }
    if (first == SUPERSLAB_SLABS)
        return false;
    const size_t slab = (size_t)superslab * SUPERSLAB_SLABS + first;
    piece->address = target_address(arena->there.large_bits) + slab * large_map_bytes();
    piece->to = arena->large_bits + slab * SLAB_MAX_WORDS;
    piece->len_bytes = (last - first + 1) * large_map_bytes();
    return true;
}

static void read_detail(struct image *image, struct image_arena *arena)
{
    struct target *target = image->target;
    struct target_piece piece;
    bool whole = target_read(target, target_address(arena->there.class_map), arena->class_map,
                             (size_t)arena->high * SUPERSLAB_SLABS) &&
                 target_read(target, target_address(arena->there.taken), arena->taken,
                             (arena->high + 63) / 64 * sizeof(uint64_t));
    for (uint32_t i = 0; i < arena->high; i++)
        if (large_map_piece(arena, i, &piece))
            whole &= target_read(target, piece.address, piece.to, piece.len_bytes);
    image->n_torn += !whole;
}

/* Reserves the room for an arena's copies. */
static bool make_room(struct image *image, struct image_arena *arena)
{
    const size_t n_slabs = (size_t)arena->high * SUPERSLAB_SLABS;
    arena->superslabs = map_zeros(arena->high * sizeof(struct superslab));
    arena->slabs = map_zeros(n_slabs * sizeof(struct slab));
    if (image->extent == IMAGE_DETAIL) {
        arena->class_map = map_zeros(n_slabs);
        arena->taken = map_zeros((arena->high + 63) / 64 * sizeof(uint64_t));
        arena->large_bits = map_zeros(n_slabs * large_map_bytes());
        arena->listed = map_zeros(arena->high * sizeof(struct superslab));
    }
    return arena->superslabs != NULL && arena->slabs != NULL &&
           (image->extent == IMAGE_SUMS ||
            (arena->class_map != NULL && arena->taken != NULL && arena->large_bits != NULL && arena->listed != NULL));
}

static void free_arena(struct image_arena *arena)
{
    const size_t n_slabs = (size_t)arena->high * SUPERSLAB_SLABS;
    unmap_zeros(arena->superslabs, arena->high * sizeof(struct superslab));
    unmap_zeros(arena->slabs, n_slabs * sizeof(struct slab));
    unmap_zeros(arena->class_map, n_slabs);
    unmap_zeros(arena->taken, (arena->high + 63) / 64 * sizeof(uint64_t));
    unmap_zeros(arena->listed, arena->high * sizeof(struct superslab));
    unmap_zeros(arena->large_bits, n_slabs * large_map_bytes());
}

/* How much memory the copies of an arena's slabs take at most. */
static size_t copy_bytes(const struct image *image, const struct image_arena *arena)
{
    size_t n = 0;
    for (uint32_t i = 0; i < arena->high; i++)
        n += has_slabs_to_read(image, &arena->superslabs[i]);
    return arena->high * sizeof(struct superslab) +
           n * SUPERSLAB_SLABS * (sizeof(struct slab) + (image->extent == IMAGE_DETAIL ? 1 + large_map_bytes() : 0));
}

/* Copies an arena. 0; -1 when there is no room. */
static int read_arena(struct image *image, struct image_arena *arena, size_t *sum_bytes)
{
    arena->high = atomic_load(&arena->there.high);
    const size_t lists_bytes = arena->high * sizeof(struct superslab) * (image->extent == IMAGE_DETAIL ? 2 : 1);
    if (lists_bytes > half_of_memory_bytes() - *sum_bytes || !make_room(image, arena)) /* before a byte is read */
        return -1;
    if (!target_read(image->target, target_address(arena->there.superslabs), arena->superslabs,
                     arena->high * sizeof(struct superslab))) {
        memset((void *)arena->superslabs, 0, arena->high * sizeof(struct superslab));
        image->n_torn++;
    }
    *sum_bytes += copy_bytes(image, arena);
    if (*sum_bytes > half_of_memory_bytes())
        return -1;
    for (uint32_t i = 0, from = 0; i <= arena->high; i++)
        if (i == arena->high || !has_slabs_to_read(image, &arena->superslabs[i])) {
            read_slabs(image, arena, from, i);
            from = i + 1;
        }
    if (image->extent == IMAGE_DETAIL)
        read_detail(image, arena);
    return 0;
}

static bool is_known_arena(const struct image *image, uint64_t address)
{
    for (size_t i = 0; i < image->n_arenas; i++)
        if (image->arenas[i].address == address)
            return true;
    return false;
}

/* Room for one more at the end of an array that doubles. */
static void *grown(void *array, size_t n, size_t entry_bytes)
{
    return (n & (n - 1)) == 0 ? reallocarray(array, n == 0 ? 1 : 2 * n, entry_bytes) : array;
}

static int read_arenas(struct image *image)
{
    uint64_t address = 0;
    size_t sum_bytes = 0;
    if (!target_read(image->target, target_address(image->target->anchor.arenas), &address, sizeof address))
        return -1;
    while (address != 0) {
        struct image_arena arena = {.address = address};
        if (image->n_arenas == MAX_ARENAS || is_known_arena(image, address) ||
            !read_arena_record(image->target, address, &arena.there)) {
            image->n_torn++;
            break;
        }
        struct image_arena *arenas = grown(image->arenas, image->n_arenas, sizeof *arenas);
        if (arenas == NULL)
            return -1;
        image->arenas = arenas;
        const int result = read_arena(image, &arena, &sum_bytes);
        arenas[image->n_arenas++] = arena;
        if (result != 0)
            return -1;
        address = target_address(atomic_load(&arena.there.next));
    }
    return 0;
}

/* ---- Threads ------------------------------------------------------------------------------------------------------- */

static bool is_piece_address(uint64_t address)
{
    return address != 0 && address % METAPOOL_PIECE_BYTES == 0 && address >> ADDRESS_BITS == 0;
}

/* A freed block that waits is one of the record's quarantine, which is a piece of its own. */
static bool read_quarantine(struct image *image, struct image_thread *thread)
{
    const uint64_t address = target_address(thread->record->quarantine);
    thread->record->quarantine = NULL;
    if (address == 0)
        return true;
    if (thread->quarantine == NULL)
        thread->quarantine = malloc(sizeof *thread->quarantine);
    if (!is_piece_address(address) || thread->quarantine == NULL ||
        !target_read(image->target, address, thread->quarantine, sizeof *thread->quarantine))
        return false;
    thread->record->quarantine = thread->quarantine;
    return true;
}

static bool read_record(struct image *image, struct image_thread *thread)
{
    struct thread *record = thread->record, *next = record->next;
    struct target *target = image->target;
    bool whole;
    if (image->extent == IMAGE_SUMS) {
        whole = target_read(target, thread->address, record, SUMS_THREAD_BYTES);
    } else {
        whole = target_read(target, thread->address, record, sizeof *record);
        size_t n_slots = record->array_slots_used < THREAD_ARRAY_SLOTS ? record->array_slots_used : THREAD_ARRAY_SLOTS;
        whole = whole && target_read(target, thread->address + THREAD_RECORD_BYTES, thread_array_space(record),
                                     n_slots * sizeof(void *));
    }
    whole = whole && read_quarantine(image, thread);
    if (!whole) /* half a record would count what it does not have */
        memset((void *)record, 0, thread->record_bytes);
    record->next = next;
    return whole;
}

bool image_refresh_thread(struct image *image, struct image_thread *thread)
{
    return read_record(image, thread);
}

static void free_thread(struct image_thread *thread)
{
    if (thread != NULL) {
        free(thread->record);
        free(thread->quarantine);
        free(thread);
    }
}

static struct image_thread *new_thread(const struct image *image, uint64_t address)
{
    struct image_thread *thread = calloc(1, sizeof *thread);
    if (thread == NULL)
        return NULL;
    thread->address = address;
    thread->record_bytes = image->extent == IMAGE_SUMS ? sizeof(struct thread) : THREAD_BYTES;
    thread->record = calloc(1, thread->record_bytes);
    if (thread->record != NULL)
        return thread;
    free_thread(thread);
    return NULL;
}

static int read_threads(struct image *image)
{
    uint64_t address = 0, earlier = 0; /* earlier: one that was met before; whoever comes back to it goes in circles */
    if (!target_read(image->target, target_address(image->target->anchor.threads), &address, sizeof address))
        return -1;
    while (address != 0) {
        if (image->n_threads == MAX_THREADS || !is_piece_address(address) || address == earlier) {
            image->n_torn++;
            break;
        }
        if ((image->n_threads & (image->n_threads - 1)) == 0)
            earlier = address;
        struct image_thread **threads = grown(image->threads, image->n_threads, sizeof *threads);
        struct image_thread *thread = threads == NULL ? NULL : new_thread(image, address);
        image->threads = threads == NULL ? image->threads : threads;
        if (thread == NULL)
            return -1;
        image->threads[image->n_threads++] = thread;
        uint64_t next = 0;
        if (!target_read(image->target, address + offsetof(struct thread, next), &next, sizeof next) ||
            !read_record(image, thread))
            image->n_torn++;
        if (image->n_threads > 1)
            image->threads[image->n_threads - 2]->record->next = thread->record;
        address = next;
    }
    return 0;
}

/* ---- The process --------------------------------------------------------------------------------------------------- */

bool image_refresh_process(struct image *image)
{
    const struct anchor *anchor = &image->target->anchor;
    uint64_t page_bytes = 0;
    const struct target_piece pieces[] = {
        {target_address(anchor->counters), &image->counters, sizeof image->counters},
        {target_address(anchor->pool_lock), &image->lock_word, sizeof image->lock_word},
        {target_address(anchor->budget), &image->budget, sizeof image->budget},
        {target_address(anchor->config), &image->config, sizeof image->config},
        {target_address(anchor->metapool_bytes), &image->metapool_bytes, sizeof image->metapool_bytes},
        {target_address(anchor->sampled), &image->sampled, sizeof image->sampled},
        {target_address(anchor->guarded), &image->guarded, sizeof image->guarded},
        {target_address(anchor->page_bytes), &page_bytes, sizeof page_bytes},
        {target_address(anchor->cut_off), &image->cut_off, sizeof image->cut_off},
    };
    if (!target_read_pieces(image->target, pieces, sizeof pieces / sizeof pieces[0]))
        return false;
    const bool known = is_power_of_two(page_bytes) && page_bytes >= 4096 && page_bytes <= SLAB_BYTES;
    image->n_torn += !known;
    image->slab_page_bytes = known ? page_bytes : 4096;
    return true;
}

/* The pool's state before and after its lists: if they are the same, nothing was taken out or put in meanwhile. */
static bool read_lists(struct image *image, struct pool_state *after)
{
    const uint64_t pool_address = target_address(image->target->anchor.pool);
    struct target_piece piece[TARGET_MAX_PIECES];
    size_t n = 0;
    piece[n++] = (struct target_piece){pool_address, &image->pool, sizeof image->pool};
    for (size_t a = 0; a < image->n_arenas; a++) {
        struct image_arena *arena = &image->arenas[a];
        if (n == TARGET_MAX_PIECES - 1) { /* so many arenas are rare; then not all by one call */
            if (!target_read_pieces(image->target, piece, n))
                return false;
            n = 0;
        }
        piece[n++] = (struct target_piece){target_address(arena->there.superslabs), arena->listed,
                                           arena->high * sizeof(struct superslab)};
    }
    piece[n++] = (struct target_piece){pool_address, after, sizeof *after};
    return target_read_pieces(image->target, piece, n);
}

bool image_refresh_lists(struct image *image)
{
    struct pool_state after;
    for (int i = 0; i < LIST_READS; i++) {
        if (!read_lists(image, &after))
            return false;
        image->lists_torn = memcmp((const void *)&image->pool, (const void *)&after, sizeof after) != 0;
        if (!image->lists_torn)
            break;
    }
    return true;
}

bool image_has_grown(const struct image *image)
{
    uint64_t next = 0;
    uint32_t high;
    if (image->n_arenas == 0)
        return !target_read(image->target, target_address(image->target->anchor.arenas), &next, sizeof next) ||
               next != 0;
    for (size_t i = 0; i < image->n_arenas; i++)
        if (!target_read(image->target, image->arenas[i].address + offsetof(struct arena, high), &high, sizeof high) ||
            high != image->arenas[i].high)
            return true;
    const struct image_arena *last = &image->arenas[image->n_arenas - 1];
    return !target_read(image->target, last->address + offsetof(struct arena, next), &next, sizeof next) ||
           next != target_address(atomic_load(&last->there.next));
}

bool image_refresh_superslab(struct image *image, struct image_arena *arena, uint32_t i)
{
    struct target_piece piece[5];
    size_t n = 0;
    piece[n++] = (struct target_piece){target_address(arena->there.superslabs) + i * sizeof(struct superslab),
                                       &arena->superslabs[i], sizeof(struct superslab)};
    piece[n++] = (struct target_piece){slabs_address(arena, i), arena->slabs + (size_t)i * SUPERSLAB_SLABS,
                                       SUPERSLAB_SLABS * sizeof(struct slab)};
    if (image->extent == IMAGE_DETAIL) {
        piece[n++] = (struct target_piece){target_address(arena->there.class_map) + (uint64_t)i * SUPERSLAB_SLABS,
                                           arena->class_map + (size_t)i * SUPERSLAB_SLABS, SUPERSLAB_SLABS};
        piece[n++] = (struct target_piece){target_address(arena->there.taken) + i / 64 * sizeof(uint64_t),
                                           &arena->taken[i / 64], sizeof(uint64_t)};
    }
    if (!target_read_pieces(image->target, piece, n))
        return false;
    /* Which large bit maps are in use is known only now: once more, with them. */
    return image->extent != IMAGE_DETAIL || !large_map_piece(arena, i, &piece[n]) ||
           target_read_pieces(image->target, piece, n + 1);
}

/* The stacks of a heap profile, for what the census makes of them. */
static bool read_profile(struct image *image)
{
    struct profile_state *profile = &image->profile;
    if (!target_read(image->target, target_address(image->target->anchor.profile), profile, sizeof *profile))
        return false;
    const uint64_t records = target_address(profile->records);
    const uint32_t n = atomic_load(&profile->n_records);
    profile->records = NULL;
    if (records == 0 || atomic_load(&profile->session) == 0 || profile->version != PROFILE_VERSION || n == 0)
        return true;
    struct profile_record *copy = n > PROFILE_MAX_RECORDS ? NULL : malloc((n + 1) * sizeof *copy);
    if (copy == NULL || !target_read(image->target, records, copy, (n + 1) * sizeof *copy)) {
        free(copy);
        image->n_torn++;
        return true;
    }
    profile->records = copy;
    return true;
}

static void describe_source(struct image *image)
{
    struct census_source *source = &image->source;
    const size_t hard_bytes = atomic_load(&image->budget.hard_bytes);
    for (size_t i = 0; i < image->n_arenas; i++) {
        struct image_arena *arena = &image->arenas[i];
        memcpy((void *)&arena->record, (const void *)&arena->there, sizeof arena->record);
        arena->record.high = arena->high;
        arena->record.superslabs = arena->superslabs;
        arena->record.slabs = arena->slabs;
        arena->record.next = i + 1 < image->n_arenas ? &arena[1].record : NULL;
    }
    *source = (struct census_source){.arenas = image->n_arenas == 0 ? NULL : &image->arenas[0].record,
                                     .threads = image->n_threads == 0 ? NULL : image->threads[0]->record,
                                     .counters = &image->counters,
                                     .metapool_bytes = image->metapool_bytes,
                                     .slab_page_bytes = image->slab_page_bytes,
                                     .sampled_blocks = atomic_load(&image->sampled.n_live),
                                     .sampled_bytes = atomic_load(&image->sampled.live_bytes),
                                     .sampled_total = atomic_load(&image->sampled.n_total),
                                     .waiting_blocks = atomic_load(&image->guarded.n_waiting),
                                     .waiting_bytes = atomic_load(&image->guarded.waiting_bytes),
                                     .profile = image->profile.records == NULL ? NULL : &image->profile};
    if (hard_bytes != SIZE_MAX) { /* there is a budget */
        source->budget_soft_bytes = atomic_load(&image->budget.soft_bytes);
        source->budget_hard_bytes = hard_bytes;
    }
}

/* ---- What makes no sense ------------------------------------------------------------------------------------------- */

static bool packed_slot_makes_sense(const struct slab *slab, unsigned slot)
{
    const unsigned n_pages = count_bits(slab->packed_pages);
    for (unsigned i = 0; i < PACKED_HEADS; i++)
        if (!packed_word_makes_sense(slot, i, slab->packed[i].word))
            return false;
    return n_pages != 0 && slab->ctl == SLAB_CTL(SLAB_PACKED, 0, n_pages);
}

static bool slot_makes_sense(const struct slab *slab, unsigned slot)
{
    const slab_ctl ctl = atomic_load_explicit(&slab->ctl, memory_order_relaxed);
    const unsigned state = CTL_STATE(ctl), class_id = CTL_CLASS(ctl);
    if (state == SLAB_SPAN_HEAD)
        return slab->span_slabs >= 1 && slab->span_slabs <= SUPERSLAB_SLABS - slot &&
               slab->span_bytes <= slab->span_slabs * SLAB_BYTES;
    if (state == SLAB_SPAN_BODY)
        return slab->span_slabs >= 1 && slab->span_slabs <= slot;
    if (state == SLAB_PACKED)
        return packed_slot_makes_sense(slab, slot);
    if (slab_state_has_class(state))
        return class_id >= CLASS_FIRST && class_id < CLASS_END && CTL_USED(ctl) <= class_table[class_id].n_blocks;
    return state <= SLAB_HELD;
}

static bool superslab_makes_sense(const struct image_arena *arena, uint32_t i)
{
    const struct superslab *ss = &arena->superslabs[i];
    const unsigned state = atomic_load_explicit(&ss->state, memory_order_relaxed);
    if (state == SUPERSLAB_RUN)
        return ss->run_superslabs >= 1 && ss->run_superslabs <= arena->high - i &&
               ss->run_bytes <= (size_t)ss->run_superslabs << SUPERSLAB_SHIFT;
    if (state != SUPERSLAB_POOLED)
        return state <= SUPERSLAB_LEAVING;
    for (unsigned slot = 0; slot < SUPERSLAB_SLABS; slot++)
        if (!slot_makes_sense(image_slab(arena, i, slot), slot))
            return false;
    return atomic_load_explicit(&ss->tier, memory_order_relaxed) <= SS_TIER_FREE;
}

static void repair_packed_slot(struct slab *slab, unsigned slot)
{
    const unsigned n_pages = count_bits(slab->packed_pages);
    for (unsigned i = 0; i < PACKED_HEADS; i++)
        if (!packed_word_makes_sense(slot, i, slab->packed[i].word))
            slab->packed[i].word = 0;
    slab->ctl = n_pages == 0 ? SLAB_CTL(SLAB_TAKEN, 0, 0) : SLAB_CTL(SLAB_PACKED, 0, n_pages);
}

static void repair_slot(struct slab *slab, unsigned slot)
{
    const slab_ctl ctl = atomic_load_explicit(&slab->ctl, memory_order_relaxed);
    const unsigned state = CTL_STATE(ctl), class_id = CTL_CLASS(ctl);
    const size_t most_slabs = state == SLAB_SPAN_BODY ? slot : SUPERSLAB_SLABS - slot;
    if (slot_makes_sense(slab, slot))
        return;
    if (state == SLAB_SPAN_HEAD || (state == SLAB_SPAN_BODY && slot != 0)) {
        slab->span_slabs = (uint16_t)min_size(max_size(slab->span_slabs, 1), most_slabs);
        if (state == SLAB_SPAN_HEAD)
            slab->span_bytes = min_size(slab->span_bytes, slab->span_slabs * SLAB_BYTES);
    } else if (state == SLAB_PACKED) {
        repair_packed_slot(slab, slot);
    } else if (slab_state_has_class(state) && class_id >= CLASS_FIRST && class_id < CLASS_END) {
        slab->ctl = SLAB_CTL(state, class_id, class_table[class_id].n_blocks);
    } else {
        slab->ctl = SLAB_CTL(SLAB_TAKEN, 0, 0);
    }
}

static void repair_superslab(struct image_arena *arena, uint32_t i)
{
    struct superslab *ss = &arena->superslabs[i];
    for (unsigned slot = 0; slot < SUPERSLAB_SLABS; slot++)
        repair_slot(&arena->slabs[(size_t)i * SUPERSLAB_SLABS + slot], slot);
    if (ss->state > SUPERSLAB_LEAVING)
        ss->state = SUPERSLAB_ABSENT;
    if (ss->tier > SS_TIER_FREE)
        ss->tier = SS_TIER_HOT;
    if (ss->state == SUPERSLAB_RUN) {
        ss->run_superslabs = (uint32_t)min_size(max_size(ss->run_superslabs, 1), arena->high - i);
        ss->run_bytes = min_size(ss->run_bytes, (size_t)ss->run_superslabs << SUPERSLAB_SHIFT);
    }
}

/* Of every SuperSlab, whatever its state: no more than all of it may be in memory. */
static void bound_dirty(struct superslab *ss)
{
    if (ss->dirty_prefix_bytes > SUPERSLAB_BYTES)
        ss->dirty_prefix_bytes = SUPERSLAB_BYTES;
}

void image_repair(struct image *image)
{
    for (size_t a = 0; a < image->n_arenas; a++)
        for (uint32_t i = 0; i < image->arenas[a].high; i++) {
            struct image_arena *arena = &image->arenas[a];
            for (int tries = 0; tries < RE_READS && !superslab_makes_sense(arena, i); tries++)
                image_refresh_superslab(image, arena, i);
            if (!superslab_makes_sense(arena, i)) {
                image->n_torn++;
                repair_superslab(arena, i);
            }
            bound_dirty(&arena->superslabs[i]);
        }
}

/* ---- All of it ----------------------------------------------------------------------------------------------------- */

int image_take(struct target *target, enum image_extent extent, struct image *out, char *why, size_t why_bytes)
{
    *out = (struct image){.target = target, .extent = extent, .time_ns = (uint64_t)clock_now_ns()};
    errno = 0;
    if (read_arenas(out) != 0 || read_threads(out) != 0 || !image_refresh_process(out) || !read_profile(out) ||
        (extent == IMAGE_DETAIL && !image_refresh_lists(out))) {
        const int error = errno;
        image_free(out);
        if (!target_is_alive(target))
            return target_refuse(why, why_bytes, "process %d has ended", (int)target->pid);
        if (error == EFAULT || error == ESRCH || error == EPERM || error == EACCES)
            return target_refuse(why, why_bytes, "process %d: its memory cannot be read (any longer): %s",
                                 (int)target->pid, strerror(error));
        return target_refuse(why, why_bytes,
                             "process %d: no memory for a copy of its heap's records, or they are more than half of "
                             "this machine's",
                             (int)target->pid);
    }
    describe_source(out);
    return 0;
}

void image_free(struct image *image)
{
    for (size_t i = 0; i < image->n_arenas; i++)
        free_arena(&image->arenas[i]);
    for (size_t i = 0; i < image->n_threads; i++)
        free_thread(image->threads[i]);
    free(image->profile.records);
    free(image->arenas);
    free((void *)image->threads);
    *image = (struct image){0};
}
