/* damage.c - damages one record of another process's heap, so that `hakmem check` has something to find.
 *
 * Usage: inspect_damage PID KIND     writes; then prints the address that check should name ("heap": none), and how to undo it: "ADDRESS WHERE VALUE"
 *        inspect_damage PID undo WHERE VALUE
 * KIND is the name of the rule that is broken, or begins with it. What is damaged is not in any thread's hands, so that the process may even run on, for
 * as long as nobody comes to it.
 */
#include "image.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static struct target target;
static struct image image;

/* A change of the aligned 8 bytes at an address. */
struct change {
    uint64_t where, value; /* what it becomes */
    uint64_t named;        /* by check */
};

static uint64_t read_there(uint64_t address)
{
    uint64_t value;
    if (!target_read(&target, address, &value, sizeof value)) {
        perror("inspect_damage: read");
        exit(2);
    }
    return value;
}

/* The change of a part of 8 bytes. */
static struct change change_part(uint64_t address, size_t len_bytes, uint64_t value, uint64_t named)
{
    struct change change = {.where = address & ~(uint64_t)7, .named = named};
    change.value = read_there(change.where);
    memcpy((char *)&change.value + (address & 7), &value, len_bytes);
    return change;
}

/* ---- What to damage ------------------------------------------------------------------------------------------------ */

static uint64_t superslab_record(const struct image_arena *arena, uint32_t i)
{
    return target_address(arena->there.superslabs) + i * sizeof(struct superslab);
}

static uint64_t memory_of(const struct image_arena *arena, size_t slab)
{
    return target_address(arena->there.base) + ((uint64_t)slab << SLAB_SHIFT);
}

static uint64_t slab_record(const struct image_arena *arena, size_t slab)
{
    return target_address(arena->there.slabs) + slab * sizeof(struct slab);
}

/* The first slot of the pool, in the first arena, whose slab is in a state, of a class with at least so many blocks a slab, and has
 * at least so many free blocks. */
static size_t find_slab(unsigned state, unsigned n_blocks, unsigned n_free)
{
    const struct image_arena *arena = &image.arenas[0];
    for (uint32_t i = 0; i < arena->high; i++)
        for (unsigned slot = 0; slot < SUPERSLAB_SLABS; slot++) {
            const slab_ctl ctl = image_slab(arena, i, slot)->ctl;
            const struct class_info *class = &class_table[CTL_CLASS(ctl) % CLASS_SET_SLOTS];
            if (arena->superslabs[i].state == SUPERSLAB_POOLED && CTL_STATE(ctl) == state &&
                (state == SLAB_SPAN_HEAD || (class->n_blocks >= n_blocks && class->n_blocks - CTL_USED(ctl) >= n_free)))
                return (size_t)i * SUPERSLAB_SLABS + slot;
        }
    fprintf(stderr, "inspect_damage: no slab of state %u\n", state);
    exit(2);
}

static size_t find_slab_with_gaps(void)
{
    const struct image_arena *arena = &image.arenas[0];
    for (size_t i = 0; i < (size_t)arena->high * SUPERSLAB_SLABS; i++)
        if (CTL_STATE(arena->slabs[i].ctl) == SLAB_PARTIAL && slab_has_gaps(&arena->slabs[i]))
            return i;
    fprintf(stderr, "inspect_damage: no slab with gaps\n");
    exit(2);
}

/* The first packed span of the program's, in the first arena, that may be shorter: its slot, and the number of its head there. */
static size_t find_packed(unsigned *head)
{
    const struct image_arena *arena = &image.arenas[0];
    for (size_t i = 0; i < (size_t)arena->high * SUPERSLAB_SLABS; i++)
        for (*head = 0; *head < PACKED_HEADS; ++*head)
            if (arena->superslabs[i / SUPERSLAB_SLABS].state == SUPERSLAB_POOLED &&
                CTL_STATE(arena->slabs[i].ctl) == SLAB_PACKED &&
                PACKED_STATE(arena->slabs[i].packed[*head].word) == PACKED_LIVE &&
                PACKED_LENGTH(arena->slabs[i].packed[*head].word) > PACKED_LEAST_PAGES)
                return i;
    fprintf(stderr, "inspect_damage: no packed span\n");
    exit(2);
}

static uint32_t find_superslab(unsigned state)
{
    for (uint32_t i = 0; i < image.arenas[0].high; i++)
        if (image.arenas[0].superslabs[i].state == state)
            return i;
    fprintf(stderr, "inspect_damage: no SuperSlab of state %u\n", state);
    exit(2);
}

/* A magazine with two blocks at least. */
static const struct image_thread *find_magazine(unsigned *class_id)
{
    for (size_t i = 0; i < image.n_threads; i++)
        for (unsigned c = CLASS_FIRST; c < CLASS_END; c++)
            if (magazine_count(&image.threads[i]->record->cache.magazine[c]) >= 2) {
                *class_id = c;
                return image.threads[i];
            }
    fprintf(stderr, "inspect_damage: no magazine with two blocks\n");
    exit(2);
}

static uint64_t magazine_address(const struct image_thread *thread, unsigned class_id)
{
    return thread->address + offsetof(struct thread, cache.magazine) + class_id * sizeof(struct magazine);
}

/* A block in use (or a free one) of a slab: its number. */
static unsigned find_block(size_t slab, bool is_free)
{
    const struct image_arena *arena = &image.arenas[0];
    const struct slab *record = &arena->slabs[slab];
    const struct class_info *class = &class_table[CTL_CLASS(record->ctl)];
    const uint64_t *bits = class->n_words <= SLAB_SMALL_WORDS ? (const uint64_t *)(const void *)record->small_bits
                                                              : &arena->large_bits[slab * SLAB_MAX_WORDS];
    for (unsigned i = 0; i < class->n_blocks; i++)
        if ((bits[i / 64] >> (i % 64) & 1) == is_free)
            return i;
    return 0;
}

static struct change flip_bit(size_t slab, unsigned block, uint64_t named)
{
    const struct image_arena *arena = &image.arenas[0];
    const struct class_info *class = &class_table[CTL_CLASS(arena->slabs[slab].ctl)];
    const uint64_t bits = class->n_words <= SLAB_SMALL_WORDS
                              ? slab_record(arena, slab) + offsetof(struct slab, small_bits)
                              : target_address(arena->there.large_bits) + slab * SLAB_MAX_WORDS * sizeof(uint64_t);
    const uint64_t where = bits + block / 64 * sizeof(uint64_t);
    return (struct change){where, read_there(where) ^ (uint64_t)1 << (block % 64), named};
}

/* ---- The kinds ----------------------------------------------------------------------------------------------------- */

static struct change damage_slab(const char *kind)
{
    const struct image_arena *arena = &image.arenas[0];
    const bool large = strcmp(kind, "bits-large") == 0, slot = strcmp(kind, "held-slot") == 0,
               span = slot || strcmp(kind, "span") == 0, gaps = strcmp(kind, "gaps") == 0;
    const size_t slab =
        gaps ? find_slab_with_gaps() : find_slab(span ? SLAB_SPAN_HEAD : SLAB_PARTIAL, large ? 513 : 8, large ? 1 : 4);
    const uint64_t record = slab_record(arena, slab), memory = memory_of(arena, slab);
    const slab_ctl ctl = arena->slabs[slab].ctl;
    if (slot)
        return change_part(record, 4, SLAB_CTL(SLAB_HELD, 0, 0), memory);
    if (span)
        return change_part(record + offsetof(struct slab, span_slabs), 2, arena->slabs[slab].span_slabs + 17u, memory);
    if (gaps)
        return change_part(record + offsetof(struct slab, n_following), 2, arena->slabs[slab].n_following + 1u, memory);
    if (strcmp(kind, "slab") == 0)
        return change_part(record + offsetof(struct slab, memory), 8, memory + SLAB_BYTES, memory);
    if (strcmp(kind, "class-map") == 0)
        return change_part(target_address(arena->there.class_map) + slab, 1,
                           (uint64_t)(CTL_CLASS(ctl) - 1) * CLASS_OFFSET_SCALE, memory);
    if (strcmp(kind, "full") == 0)
        return change_part(record, 4, SLAB_CTL(SLAB_FULL, CTL_CLASS(ctl), CTL_USED(ctl)), memory);
    if (strcmp(kind, "clean-page") == 0)
        return change_part(record + offsetof(struct slab, dirty_pages), 2, 0,
                           memory + (uint64_t)find_block(slab, false) * class_table[CTL_CLASS(ctl)].bytes);
    if (strcmp(kind, "bits") == 0)
        return change_part(record, 4, ctl - 1, memory);
    return flip_bit(slab, find_block(slab, true), memory); /* bits-large */
}

static struct change damage_packed(const char *kind)
{
    unsigned i;
    const struct image_arena *arena = &image.arenas[0];
    const size_t slab = find_packed(&i);
    const uint64_t record = slab_record(arena, slab), memory = memory_of(arena, slab);
    const uint64_t head = record + offsetof(struct slab, packed) + i * sizeof(struct packed_head);
    const uint32_t word = arena->slabs[slab].packed[i].word, pages = arena->slabs[slab].packed_pages;
    const unsigned slot = slab % SUPERSLAB_SLABS, n = PACKED_LENGTH(word);
    const uint64_t block = memory + (packed_first_page(slot, i, word) - slot * PACKED_PAGES) * PACKED_PAGE_BYTES;
    const struct superslab *ss = &arena->superslabs[slab / SUPERSLAB_SLABS];
    const uint64_t ss_record = superslab_record(arena, (uint32_t)(slab / SUPERSLAB_SLABS));
    if (strcmp(kind, "span-packed") == 0)
        return change_part(head, 4, PACKED_WORD(PACKED_LIVE, PACKED_PAGE(word), PACKED_LEAST_PAGES - 1, 1), block);
    if (strcmp(kind, "span-length") == 0) /* its last page is in no block */
        return change_part(head, 4, PACKED_WORD(PACKED_LIVE, PACKED_PAGE(word), n - 1, n - 1),
                           memory + (packed_first_page(0, i, word) + n - 1) / PACKED_PAGES * SLAB_BYTES);
    if (strcmp(kind, "span-pages") == 0)
        return change_part(record + offsetof(struct slab, packed_pages), 2, pages & (pages - 1), memory);
    if (strcmp(kind, "masks-packed") == 0)
        return change_part(ss_record + offsetof(struct superslab, packed_slots), 4, ss->packed_slots ^ 1u << slot,
                           memory);
    if (strcmp(kind, "masks-free-packed") == 0)
        return change_part(ss_record + offsetof(struct superslab, packed_free) + slot * PACKED_PAGES / 8, 1,
                           (~pages & 0xff) ^ 1, memory);
    if (strcmp(kind, "lists-packed") == 0)
        return change_part(ss_record + offsetof(struct superslab, packed_row), 4, ss->packed_row ^ 64u,
                           memory - slot * SLAB_BYTES);
    /* held-packed */
    return change_part(head, 4, PACKED_WORD(PACKED_HELD, PACKED_PAGE(word), n, PACKED_ASKED(word)), block);
}

static struct change damage_superslab(const char *kind)
{
    const struct image_arena *arena = &image.arenas[0];
    const uint32_t i = find_superslab(strcmp(kind, "run") == 0 ? SUPERSLAB_RUN : SUPERSLAB_POOLED);
    const uint64_t record = superslab_record(arena, i), memory = memory_of(arena, (size_t)i * SUPERSLAB_SLABS);
    if (strcmp(kind, "run") == 0)
        return change_part(record + offsetof(struct superslab, run_superslabs), 4, 1u << 30, memory);
    if (strcmp(kind, "taken") == 0) {
        const uint64_t where = target_address(arena->there.taken) + i / 64 * sizeof(uint64_t);
        return (struct change){where, read_there(where) ^ (uint64_t)1 << (i % 64), memory};
    }
    if (strcmp(kind, "lists") == 0)
        return change_part(record + offsetof(struct superslab, bucket), 1, arena->superslabs[i].bucket ^ 1u, memory);
    if (strcmp(kind, "superslab") == 0)
        return change_part(record + offsetof(struct superslab, index), 4, i + 1, memory);
    const size_t slab = find_slab(SLAB_PARTIAL, 1, 1); /* masks */
    const uint64_t mask =
        superslab_record(arena, (uint32_t)(slab / SUPERSLAB_SLABS)) + offsetof(struct superslab, empty_slots);
    return change_part(mask, 4, arena->superslabs[slab / SUPERSLAB_SLABS].empty_slots | 1u << (slab % SUPERSLAB_SLABS),
                       memory_of(arena, slab));
}

static struct change damage_thread(const char *kind)
{
    unsigned class_id;
    const struct image_thread *thread = find_magazine(&class_id);
    const struct magazine *magazine = &thread->record->cache.magazine[class_id];
    const uint64_t base = target_address(magazine->base), block = read_there(base);
    if (strcmp(kind, "magazine") == 0)
        return change_part(magazine_address(thread, class_id) + offsetof(struct magazine, top), 8,
                           target_address(magazine->limit) + 8, thread->address);
    if (strcmp(kind, "held") == 0)
        return change_part(thread->address + offsetof(struct thread, span_cache.held_slabs), 2, 3, thread->address);
    if (strcmp(kind, "cached") == 0)
        return (struct change){base, block + 4, block + 4};
    if (strcmp(kind, "cached-twice") == 0)
        return (struct change){base + 8, block, block};
    if (strcmp(kind, "cached-free") == 0) {
        const size_t slab = (size_t)(block - target_address(image.arenas[0].there.base)) >> SLAB_SHIFT;
        return flip_bit(slab, (unsigned)(block % SLAB_BYTES) / class_table[class_id].bytes, block);
    }
    const size_t slab = find_slab(SLAB_PARTIAL, 1, 1); /* current */
    return (struct change){thread->address + offsetof(struct thread, current) + class_id * sizeof(void *),
                           slab_record(&image.arenas[0], slab), memory_of(&image.arenas[0], slab)};
}

static struct change damage_process(const char *kind)
{
    const uint64_t committed =
        target_address(target.anchor.counters) + offsetof(struct stats_counters, committed_bytes);
    const uint64_t active = target_address(target.anchor.pool) + offsetof(struct pool_state, n_active_slots);
    if (strcmp(kind, "committed") == 0)
        return (struct change){committed, read_there(committed) + 4096, 0};
    if (strcmp(kind, "pool-counts") == 0)
        return (struct change){active, read_there(active) + 1, 0};
    if (strcmp(kind, "unreadable") == 0)
        return (struct change){image.arenas[0].address + offsetof(struct arena, next), 0x1000, 0};
    fprintf(stderr, "inspect_damage: unknown kind '%s'\n", kind);
    exit(2);
}

static bool is_one_of(const char *kind, const char *const *kinds)
{
    while (*kinds != NULL && strcmp(*kinds, kind) != 0)
        kinds++;
    return *kinds != NULL;
}

static struct change plan(const char *kind)
{
    static const char *const of_slabs[] = {"bits",       "bits-large", "slab", "class-map", "full",
                                           "clean-page", "span",       "gaps", "held-slot", NULL};
    static const char *const of_packed[] = {"span-packed",       "span-length",  "span-pages",  "masks-packed",
                                            "masks-free-packed", "lists-packed", "held-packed", NULL};
    static const char *const of_superslabs[] = {"run", "taken", "lists", "superslab", "masks", NULL};
    static const char *const of_threads[] = {"magazine", "cached", "cached-twice", "cached-free", "current",
                                             "held",     NULL};
    if (is_one_of(kind, of_slabs))
        return damage_slab(kind);
    if (is_one_of(kind, of_packed))
        return damage_packed(kind);
    if (is_one_of(kind, of_superslabs))
        return damage_superslab(kind);
    if (is_one_of(kind, of_threads))
        return damage_thread(kind);
    return damage_process(kind);
}

static void write_there(uint64_t where, uint64_t value)
{
    if (!target_write_u64(&target, where, value)) {
        perror("inspect_damage: write");
        exit(2);
    }
}

int main(int argc, char **argv)
{
    char why[TARGET_WHY_BYTES];
    const bool undo = argc == 5 && strcmp(argv[2], "undo") == 0;
    if (argc != 3 && !undo)
        return 2;
    if (target_open(atoi(argv[1]), &target, why, sizeof why) != 0 ||
        (!undo && image_take(&target, IMAGE_DETAIL, &image, why, sizeof why) != 0)) {
        fprintf(stderr, "inspect_damage: %s\n", why);
        return 2;
    }
    if (undo) {
        write_there(strtoull(argv[3], NULL, 0), strtoull(argv[4], NULL, 0));
    } else {
        const struct change change = plan(argv[2]);
        char named[24] = "heap";
        if (change.named != 0)
            snprintf(named, sizeof named, "%#" PRIx64, change.named);
        printf("%s %#" PRIx64 " %#" PRIx64 "\n", named, change.where, read_there(change.where));
        write_there(change.where, change.value);
        image_free(&image);
    }
    target_close(&target);
    return 0;
}
