/* bench_random_mixed.c - throughput of one thread that allocates and frees small blocks at random.
 * Owns       a working set of slots; each is empty or holds one block of 16 to 1039 bytes.
 * Called by  bench/run.sh, bench/compare.sh, or by hand:
 *            bench_random_mixed_<allocator> [iterations [working_set [seed]]]
 * Calls      plain malloc and free. The file is compiled twice, linked with hakmem and not; HAKMEM_BENCH_LINKS_HAKMEM
 *            only changes how the name of the profile is found, so the timed loop is the same code in both.
 * Threads    one.
 * Exit       0 and one line on stdout; 1 and one line on stderr when malloc returns NULL or a block lost what was
 *            written to it, so that a broken allocator never has a time; 2 for bad arguments.
 * I1  Slot i is empty (block NULL), or the first and last bytes of its block hold the pattern of i.
 * I2  The slots lie in memory from mmap that is touched before the clock starts: no allocator serves them, and every
 *     allocator is charged the same for them.
 * Why first and last byte: a block that is handed out twice, or that overlaps another, shows as a wrong byte, and two
 * writes cost the same under every allocator. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>

#ifndef HAKMEM_BENCH_ALLOCATOR
#define HAKMEM_BENCH_ALLOCATOR "system"
#endif

enum { MIN_SIZE_BYTES = 16, N_SIZES = 1024 }; /* sizes 16..1039; N_SIZES is a power of two */

#define MAX_ITERATIONS UINT64_C(1000000000000)
#define MAX_WORKING_SET UINT64_C(100000000) /* below 2^32, which pick_slot needs */

static const char program[] = "bench_random_mixed_" HAKMEM_BENCH_ALLOCATOR;

struct slot {
    unsigned char *block;
    size_t size_bytes; /* what was asked for; meaningful while block is not NULL */
};

struct settings {
    uint64_t iterations;
    uint64_t n_slots;
    uint64_t seed;
};

/* ---- The timed loop -------------------------------------------------------------------------------------------- */

static _Noreturn __attribute__((cold, noinline)) void die_no_memory(size_t size_bytes)
{
    fprintf(stderr, "%s: malloc(%zu) returned NULL\n", program, size_bytes);
    exit(1);
}

static _Noreturn __attribute__((cold, noinline)) void die_corrupt(uint64_t index, const struct slot *slot)
{
    fprintf(stderr, "%s: CORRUPTION: slot %" PRIu64 ", block %p of %zu bytes, no longer holds what was written\n",
            program, index, (const void *)slot->block, slot->size_bytes);
    exit(1);
}

/* xorshift64; the state is never 0. */
static inline uint64_t next_random(uint64_t *state)
{
    uint64_t x = *state;
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    return *state = x;
}

/* The high half of a random number chooses the slot without a division; the low bits choose the size. */
static inline uint64_t pick_slot(uint64_t random, uint64_t n_slots)
{
    return ((random >> 32) * n_slots) >> 32;
}

static inline unsigned char pattern(uint64_t index)
{
    return (unsigned char)(index ^ (index >> 8));
}

static inline void slot_fill(struct slot *slot, uint64_t index, size_t size_bytes)
{
    unsigned char *block = malloc(size_bytes);
    if (__builtin_expect(block == NULL, 0))
        die_no_memory(size_bytes);
    block[0] = pattern(index);
    block[size_bytes - 1] = (unsigned char)~pattern(index);
    slot->block = block;
    slot->size_bytes = size_bytes;
}

static inline void slot_empty(struct slot *slot, uint64_t index)
{
    unsigned char *block = slot->block;
    const unsigned char first = pattern(index);
    if (__builtin_expect(block[0] != first || block[slot->size_bytes - 1] != (unsigned char)~first, 0))
        die_corrupt(index, slot);
    free(block);
    slot->block = NULL;
}

static __attribute__((noinline)) void mix(struct slot *slots, const struct settings *set)
{
    const uint64_t n_slots = set->n_slots;
    uint64_t state = set->seed;
    for (uint64_t left = set->iterations; left != 0; left--) {
        const uint64_t random = next_random(&state);
        const uint64_t index = pick_slot(random, n_slots);
        struct slot *slot = &slots[index];
        if (slot->block != NULL)
            slot_empty(slot, index);
        else
            slot_fill(slot, index, MIN_SIZE_BYTES + (random & (N_SIZES - 1)));
    }
}

/* ---- Arguments ------------------------------------------------------------------------------------------------- */

/* Returns a decimal number from 1 to max, or ends the program with one line and status 2. */
static uint64_t parse_number(const char *name, const char *text, uint64_t max)
{
    char *end;
    errno = 0;
    const unsigned long long value = strtoull(text, &end, 10);
    if (text[0] < '0' || text[0] > '9' || *end != '\0' || errno != 0 || value == 0 || value > max) {
        fprintf(stderr, "%s: %s must be a number from 1 to %" PRIu64 ", not '%s'\n", program, name, max, text);
        exit(2);
    }
    return value;
}

static struct settings parse_arguments(int argc, char **argv)
{
    struct settings set = {.iterations = 10000000, .n_slots = 256, .seed = 42};
    if (argc > 4) {
        fprintf(stderr, "usage: %s [iterations [working_set [seed]]]\n", program);
        exit(2);
    }
    if (argc > 1)
        set.iterations = parse_number("iterations", argv[1], MAX_ITERATIONS);
    if (argc > 2)
        set.n_slots = parse_number("working_set", argv[2], MAX_WORKING_SET);
    if (argc > 3)
        set.seed = parse_number("seed", argv[3], UINT64_MAX);
    return set;
}

/* ---- Which allocator is it really? ------------------------------------------------------------------------------ */

/* The loaded object that defines a symbol for this process; all NULL when none does. It is asked of the dynamic linker,
 * not of LD_PRELOAD, because a library that could not be preloaded leaves the variable set. */
static Dl_info object_of(const char *symbol)
{
    Dl_info info = {0};
    const void *address = dlsym(RTLD_DEFAULT, symbol);
    if (address == NULL || dladdr(address, &info) == 0)
        info.dli_fbase = NULL;
    return info;
}

#ifdef HAKMEM_BENCH_LINKS_HAKMEM
#include "hakmem/hakmem.h"

static const char *hakmem_profile(void)
{
    return hak_profile_name();
}

/* A statically linked hakmem exports malloc from the program, but not hak_profile_name. */
static const void *expected_base(void)
{
    Dl_info info = object_of("hak_profile_name");
    if (info.dli_fbase == NULL)
        dladdr(&program, &info);
    return info.dli_fbase;
}
#else
static const char *hakmem_profile(void)
{
    const char *(*profile_name)(void);
    *(void **)&profile_name = dlsym(RTLD_DEFAULT, "hak_profile_name");
    return profile_name != NULL ? profile_name() : "unknown";
}

static const void *expected_base(void)
{
    return object_of("getrusage").dli_fbase;
}
#endif

/* "/usr/lib/libmimalloc.so.2" is "mimalloc". */
static void name_from_path(char *name, size_t size_bytes, const char *path)
{
    const char *base = strrchr(path, '/');
    base = base != NULL ? base + 1 : path;
    if (strncmp(base, "lib", 3) == 0)
        base += 3;
    snprintf(name, size_bytes, "%.*s", (int)strcspn(base, "."), base);
}

/* The compiled-in name when malloc is the one this program was linked for; else the library that took its place. */
static void allocator_name(char *name, size_t size_bytes)
{
    const Dl_info serving = object_of("malloc");
    if (serving.dli_fbase == NULL || serving.dli_fbase == expected_base())
        snprintf(name, size_bytes, "%s", HAKMEM_BENCH_ALLOCATOR);
    else if (serving.dli_fbase == object_of("getrusage").dli_fbase)
        snprintf(name, size_bytes, "system");
    else
        name_from_path(name, size_bytes, serving.dli_fname);
}

/* ---- The run --------------------------------------------------------------------------------------------------- */

static double now_s(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

static struct slot *map_slots(uint64_t n_slots)
{
    void *slots = mmap(NULL, n_slots * sizeof(struct slot), PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (slots == MAP_FAILED) {
        fprintf(stderr, "%s: no memory for %" PRIu64 " slots: %s\n", program, n_slots, strerror(errno));
        exit(1);
    }
    return slots;
}

static void empty_all(struct slot *slots, uint64_t n_slots)
{
    for (uint64_t index = 0; index < n_slots; index++)
        if (slots[index].block != NULL)
            slot_empty(&slots[index], index);
}

int main(int argc, char **argv)
{
    const struct settings set = parse_arguments(argc, argv);
    struct slot *slots = map_slots(set.n_slots);

    const double start_s = now_s();
    mix(slots, &set);
    const double elapsed_s = now_s() - start_s;

    empty_all(slots, set.n_slots);
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);

    char name[64];
    allocator_name(name, sizeof name);
    const char *profile = strcmp(name, "hakmem") == 0 ? hakmem_profile() : "-";
    printf("bench_random_mixed allocator=%s profile=%s iterations=%" PRIu64 " ws=%" PRIu64 " seed=%" PRIu64
           " ops_per_s=%.0f elapsed_s=%.6f peak_rss_kib=%ld\n",
           name, profile, set.iterations, set.n_slots, set.seed, (double)set.iterations / elapsed_s, elapsed_s,
           usage.ru_maxrss);
    if (fflush(stdout) != 0) {
        fprintf(stderr, "%s: cannot write the result: %s\n", program, strerror(errno));
        return 1;
    }
    return 0;
}
