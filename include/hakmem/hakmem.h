/* hakmem.h - the native interface of the hakmem allocator.
 *
 * A program needs nothing from this header to run on hakmem: preloading or linking the library replaces the malloc
 * family and the C++ operators. The functions here are for programs that want to name the allocator, ask it questions
 * or steer it.
 *
 * Every block that any function of the malloc family or of this header returns may be given to any of them: hak_free
 * takes a block of malloc, free takes a block of hak_malloc.
 *
 * Unless a contract says otherwise:
 *   Threads  any thread, at any time, also before main and after the thread's own destructors.
 *   Signals  not async-signal-safe, as no malloc is (POSIX.1-2017 2.4.3). A handler that interrupts this allocator and
 *            allocates all the same is served, on x86-64 and arm64, if it was installed by sigaction or signal and is among the first 64
 *            different ones of the process. One that is not so is served if it interrupts a slow path; it may damage the heap if
 *            it interrupts a hit.
 *   Fork     a child of fork() may call everything, whatever the parent's other threads were doing.
 *   errno    left alone on success; ENOMEM with a NULL result when there is no memory.
 */
#ifndef HAKMEM_H
#define HAKMEM_H

#include <stddef.h>
#include <stdint.h>

#define HAKMEM_VERSION_MAJOR 0
#define HAKMEM_VERSION_MINOR 1
#define HAKMEM_VERSION_PATCH 0

#if defined(__GNUC__)
#define HAK_API __attribute__((visibility("default")))
#define HAK_ALLOCATES __attribute__((malloc, warn_unused_result))
#else
#define HAK_API
#define HAK_ALLOCATES
#endif

#ifdef __cplusplus
extern "C" {
#if __cplusplus >= 201103L
#define HAK_NOEXCEPT noexcept
#else
#define HAK_NOEXCEPT throw()
#endif
#else
#define HAK_NOEXCEPT
#endif

/* ---- Blocks ---------------------------------------------------------------------------------------------------- */

/* Allocates size_bytes bytes, uninitialised.
 * Returns    a block, aligned to 16 bytes (8 for requests up to 8 bytes); size 0 gives a unique block; NULL on failure.
 * errno      ENOMEM when memory is exhausted or size_bytes > PTRDIFF_MAX.
 * Ownership  the caller's until it is freed.
 * Cost       a hit takes no lock, no atomic operation and about 15 instructions.
 * Source     ISO C17 7.22.3.4. */
HAK_API HAK_ALLOCATES void *hak_malloc(size_t size_bytes) HAK_NOEXCEPT;

/* Allocates an array of count elements of size_bytes bytes each, every byte zero.
 * Returns, errno, Ownership  as hak_malloc; a product that overflows fails with ENOMEM.
 * Cost       as hak_malloc, plus clearing; memory known to be zero is not cleared again.
 * Source     ISO C17 7.22.3.2. */
HAK_API HAK_ALLOCATES void *hak_calloc(size_t count, size_t size_bytes) HAK_NOEXCEPT;

/* Resizes a block; the first min(old, new) bytes keep their contents.
 * Returns    the block, which may have moved (then the old one is freed); NULL on failure, the old block intact.
 *            hak_realloc(NULL, n) is hak_malloc(n); hak_realloc(block, 0) frees block and returns NULL, errno
 *            untouched. Making a block smaller does not fail.
 * errno      ENOMEM as hak_malloc; EINVAL when block is none, under HAKMEM_ON_ERROR=warn.
 * Ownership  of the result the caller's; of the old block too when NULL is returned for a size that is not 0.
 * Cost       no copy while the block is large enough, and at most a quarter of it would lie idle, or a half above 32 KiB. Blocks
 *            above 32 KiB grow where they lie if the memory behind them is free; those above 2 MiB move by remapping their pages.
 *            A block that outgrows its class gets a quarter more than it had, up to 32 KiB.
 * Source     ISO C17 7.22.3.5; size 0 as glibc does it. */
HAK_API __attribute__((warn_unused_result)) void *hak_realloc(void *block, size_t size_bytes) HAK_NOEXCEPT;

/* Allocates size_bytes bytes at a multiple of alignment_bytes, which must be a power of two.
 * Returns    a block to be freed with hak_free; NULL on failure.
 * errno      EINVAL when alignment_bytes is not a power of two; ENOMEM as hak_malloc.
 * Ownership  as hak_malloc.
 * Cost       as hak_malloc up to 4096 bytes and an alignment of as much, where the thread has a block at hand; else a slow
 *            path.
 * Source     ISO C17 7.22.3.1, without its former demand that size be a multiple of the alignment. */
HAK_API HAK_ALLOCATES void *hak_aligned_alloc(size_t alignment_bytes, size_t size_bytes) HAK_NOEXCEPT;

/* Frees a block. NULL is ignored.
 * errno      always preserved.
 * Misuse     a pointer that is not a block, or a block that is found to be free already, is reported in one line on
 *            stderr and ends the process by abort(); HAKMEM_ON_ERROR=warn reports, ignores the call and goes on. For
 *            blocks up to 32 KiB the check is made when the block leaves the thread's magazine, not on the hit path, but in
 *            hardened mode (HAKMEM_SECURE).
 * Cost       a hit takes no lock, no atomic operation and about 16 instructions.
 * Source     ISO C17 7.22.3.3; errno as POSIX.1-2024. */
HAK_API void hak_free(void *block) HAK_NOEXCEPT;

/* Frees a block whose requested size the caller knows. NULL is ignored.
 * errno      always preserved.
 * Misuse     as hak_free. Of a block above 32 KiB another size is reported likewise, if it makes another number of pages; in
 *            hardened mode (HAKMEM_SECURE) any other size of any block, or, by a list of checks without type, none.
 * Cost       as hak_free: a hit does not look at the size.
 * Source     C23 7.24.3.4. */
HAK_API void hak_free_sized(void *block, size_t size_bytes) HAK_NOEXCEPT;

/* Bytes that the block really has, at least what was asked for; constant until it is resized; 0 for NULL. In hardened mode, and
 * of blocks that HAKMEM_GUARD_SAMPLE has picked, exactly what was asked for.
 * The caller must not use more than it asked for (compilers trust the requested size).
 * Misuse     as hak_free, but at once; under HAKMEM_ON_ERROR=warn the answer is 0.
 * Cost       a look at the slab's records; takes no lock. */
HAK_API size_t hak_usable_size(const void *block) HAK_NOEXCEPT;

/* The least that hak_usable_size of a fresh block of size_bytes would be, unless HAKMEM_GUARD_SAMPLE picks it: asking for so much
 * costs no more. 0 when such a request cannot be served; in hardened mode also for 0 bytes. Async-signal-safe once the process has started; takes no lock. */
HAK_API size_t hak_good_size(size_t size_bytes) HAK_NOEXCEPT;

/* ---- Memory and the system ------------------------------------------------------------------------------------- */

enum hak_trim_level {
    HAK_TRIM_CACHE = 0, /* this thread's cache, those of threads that sleep, and the cache of empty SuperSlabs */
    HAK_TRIM_SLABS = 1, /* and the pages of every empty slab */
    HAK_TRIM_PAGES = 2  /* and every wholly free page inside slabs in use */
};

/* Gives free memory back to the system. A level below those that there are does what HAK_TRIM_CACHE does, one above them what
 * HAK_TRIM_PAGES does.
 * Returns    bytes given back, by all threads while the call ran; an empty slab counts as 64 KiB and an empty SuperSlab as 2 MiB,
 *            whatever of it was in memory.
 * errno      left alone.
 * Cost       one pass over the SuperSlabs, and one system call for each run of pages given back.
 * Limits     blocks cached by other running threads, and the slabs that these claim from, stay with them. */
HAK_API size_t hak_trim(int level) HAK_NOEXCEPT;

/* ---- Budget ---------------------------------------------------------------------------------------------------- */

/* How much memory the heap may hold: what counts is committed_bytes of struct hak_stats. Records come on top, 0.2
 * per cent, or up to 1.8 for blocks below 128 bytes; the program's other memory (stacks, code, its own mappings) is not counted.
 * The environment variable HAKMEM_BUDGET sets the same at the start. Lines set here do not follow a control group's limit.
 *
 * Above soft_bytes caches shrink, and what is idle goes back at once. At hard_bytes, less a 64th (64 KiB to 4 MiB), requests
 * fail with ENOMEM, operator new throws; blocks that the program has stay as they are, and what is free inside
 * slabs in use, or becomes free, serves. Once a request has failed, those of up to 1 KiB may use the 64th that was kept.
 * A thread passes the line by 64 KiB at most. What is above already when a budget is set stays.
 * hard_bytes     1 MiB at least, or 0 for no budget (then soft_bytes is 0 too)
 * soft_bytes     not above hard_bytes, or 0 for seven eighths of it
 * Returns        0, or -1 with errno EINVAL, and nothing has changed.
 * Cost           as hak_trim(HAK_TRIM_PAGES), if more than soft_bytes is held. */
HAK_API int hak_budget_set(size_t soft_bytes, size_t hard_bytes) HAK_NOEXCEPT;

/* The lines in force, 0 and 0 without a budget. Either pointer may be NULL. Async-signal-safe. */
HAK_API void hak_budget_get(size_t *soft_bytes, size_t *hard_bytes) HAK_NOEXCEPT;

enum hak_pressure {
    /* more than soft_bytes is held, or would be, though what was idle went back. Once each time */
    HAK_PRESSURE_SOFT = 1,
    HAK_PRESSURE_HARD = 2 /* a request is about to fail, by the budget or because the system refuses memory */
};

/* Names the function that is told of pressure; NULL ends it. One at a time: the last one named counts. Another thread may be inside the one
 * before when this returns: what its argument leads to must live on until it has come back.
 * It runs in the thread whose request met the line, inside its call of malloc, with no lock of the allocator held. It may
 * call malloc and free. It must not wait for a lock that the thread may hold around its own calls of malloc, and must not leave
 * by an exception, by longjmp or by the end of its thread: it would count as running for ever. It is not called again while it runs,
 * in any thread: one whose request fails meanwhile waits for its end, 100 ms at most. After HAK_PRESSURE_HARD the request is tried
 * once more.
 * Cost       of naming it: a lock, which a thread that gives memory back because of the budget may hold for as long. */
typedef void (*hak_pressure_function)(enum hak_pressure pressure, void *argument);
HAK_API void hak_budget_on_pressure(hak_pressure_function function, void *argument) HAK_NOEXCEPT;

/* ---- Routes ---------------------------------------------------------------------------------------------------- */

enum hak_route { HAK_ROUTE_TINY_ONLY = 0, HAK_ROUTE_TINY_FIRST = 1, HAK_ROUTE_POOL_ONLY = 2 };

/* The route of range C0..C7 (requests up to 8, 16, 32, 64, 128, 256, 512, 1024 bytes) under the profile in force.
 * Returns    an enum hak_route, or -1 when range is not 0..7.
 * Cost       a table look-up. */
HAK_API int hak_route_get(int range) HAK_NOEXCEPT;

/* The name of the profile in force: "conservative", "hot", "off" or "full". A constant string. */
HAK_API const char *hak_profile_name(void) HAK_NOEXCEPT;

/* ---- Statistics ------------------------------------------------------------------------------------------------ */

#define HAK_STATS_VERSION 3

enum hak_lock_cause {
    HAK_LOCK_ACQUIRE_SLAB, /* a slot for a class, stages 2 and 3 */
    HAK_LOCK_RELEASE_SLAB, /* an emptied slab, a SuperSlab that goes back */
    HAK_LOCK_SPAN,         /* blocks above 32 KiB: claim, return, resize */
    HAK_LOCK_TIER,         /* a SuperSlab changes its tier; a tick's look at it */
    HAK_LOCK_METADATA,     /* thread records */
    HAK_LOCK_TRIM,         /* trims, purges, what ticks take from the LRU cache */
    HAK_LOCK_FORK,         /* in the child of a fork */
    HAK_LOCK_N_CAUSES
};

#define HAK_STATS_TENTHS 10

/* A reading of the allocator. Counts are exact when no other thread is allocating, and otherwise within what was in
 * flight. All sizes are bytes. Fields are only ever added at the end; docs/statistics.md explains each. */
struct hak_stats {
    uint32_t version;           /* HAK_STATS_VERSION of the library */
    uint32_t struct_size_bytes; /* bytes of this struct that were filled in */

    uint64_t live_bytes;   /* usable bytes of blocks that callers hold */
    uint64_t live_blocks;  /* their number */
    uint64_t cached_bytes; /* in the caches of threads, or waiting in quarantine */
    uint64_t cached_blocks;
    uint64_t committed_bytes;      /* pages handed out and not given back since: memory that may be resident */
    uint64_t peak_committed_bytes; /* the most that was */
    uint64_t reserved_bytes;       /* address space, most of which costs nothing */
    uint64_t metadata_bytes;       /* made writable for records, bit maps, magazines; most of it untouched */

    uint64_t superslabs;          /* in the pool now */
    uint64_t superslabs_hot;      /* by tier */
    uint64_t superslabs_draining; /* by tier */
    uint64_t superslabs_cached;   /* empty ones in the LRU cache, not in the pool */
    uint64_t superslabs_mapped_total;
    uint64_t superslabs_released_total; /* given back to the system at once, at tier FREE */
    uint64_t superslabs_evicted_total;  /* given back from the LRU cache */
    uint64_t slots_unused, slots_active, slots_empty;
    uint64_t spans, span_bytes; /* blocks above 32 KiB inside SuperSlabs */
    uint64_t runs, run_bytes;   /* blocks made of whole SuperSlabs */

    /* Where slabs and spans came from. A request that has to go on to the next stage counts in each that gave
     * something. */
    uint64_t stage_class_list; /* slabs acquired from the class's list of slabs with free blocks (stage 1) */
    uint64_t stage_slot;       /* from an UNUSED or EMPTY slot of a SuperSlab in the pool (stage 2) */
    uint64_t stage_reopen;     /* by reopening a DRAINING SuperSlab (end of stage 2) */
    uint64_t stage_lru;        /* from the LRU cache (stage 3) */
    uint64_t stage_os;         /* from the system (stage 3) */

    uint64_t slabs_released;          /* slots that went ACTIVE -> EMPTY */
    uint64_t slot_reuses_other_class; /* EMPTY slots that another class took */
    uint64_t tier_hot_to_draining;    /* SuperSlabs that began to drain */
    uint64_t tier_draining_to_hot;    /* that were reopened */
    uint64_t tier_to_free;            /* that left the pool empty */
    /* emptied slabs that waited, as their SuperSlab was referred to; nothing does so yet */
    uint64_t release_refused_pinned;
    uint64_t purged_bytes; /* given back to the system from inside SuperSlabs */

    uint64_t lock_acquisitions[HAK_LOCK_N_CAUSES];
    uint64_t lock_contended; /* of those, how many had to wait */

    uint64_t refills, flushes; /* batches between magazines and slabs */
    uint64_t threads;          /* thread records in use */
    uint64_t arenas;

    uint64_t caches_emptied; /* of threads that slept, by ticks and trims */
    uint64_t mapped_bytes;   /* SuperSlabs in the pool, the LRU cache and runs, whatever of them is in memory */

    uint64_t budget_soft_bytes, budget_hard_bytes; /* 0: no budget */
    uint64_t budget_refusals; /* times that the budget refused a request, before the program was told or it failed */
    uint64_t budget_reliefs;  /* times that all idle memory was given back because of it */

    uint64_t sampled_total; /* blocks that got a place of their own, by HAKMEM_GUARD_SAMPLE */

    /* Since version 2. */
    uint64_t fragmentation_bytes; /* committed, and neither live nor cached: holes, and what waits to go back */
    uint64_t empty_bytes;         /* of that, in slots and SuperSlabs that hold nothing */
    uint64_t sampled_blocks;      /* blocks in places of their own now: a part of live, not of committed */
    uint64_t sampled_bytes;
    uint64_t waiting_blocks; /* freed spans and runs that wait in quarantine (HAKMEM_SECURE): a part of cached */
    uint64_t waiting_bytes;
    /* How full the SuperSlabs of a tier are, by tenths, as the tiers see it: what blocks that are out, cached ones included, take
     * of the slabs that have any. [9] is nine tenths and more. */
    uint64_t hot_by_fullness[HAK_STATS_TENTHS], draining_by_fullness[HAK_STATS_TENTHS];
    /* What rounding up to block sizes wastes, where the heap profile knows it: an estimate. Of live blocks that were
     * allocated in its session, with rounding_of_bytes usable bytes, so many were not asked for. */
    uint64_t rounding_bytes, rounding_of_bytes;
    uint64_t rounding_samples; /* the noted live blocks that it is estimated from; 0: nothing is known */

    /* Since version 3. */
    uint64_t gap_slabs;        /* sparse slabs whose gaps serve larger blocks now */
    uint64_t gap_blocks_total; /* blocks that got a place in such a gap */
};

/* Fills in *out, of which the caller has size_bytes (use sizeof); a shorter, older struct is filled as far as it goes.
 * Returns    0, or -1 with errno EINVAL when out is NULL or size_bytes < 8.
 * Signals    async-signal-safe, with 5.5 KiB of stack.
 * Cost       one pass over the SuperSlabs in use; takes no lock. */
HAK_API int hak_stats_get(struct hak_stats *out, size_t size_bytes) HAK_NOEXCEPT;

/* What the system says of the heap's memory; blocks alone, records apart. */
struct hak_resident {
    uint64_t resident_bytes; /* in memory */
    uint64_t huge_bytes;     /* of that, in transparent huge pages (AnonHugePages) */
};

/* Fills in *out, which must not be NULL. Allocates nothing, takes no lock.
 * Returns    0, or -1 with errno ENOSYS when the system does not tell (/proc is not there); then *out is as it was.
 * Cost       the system walks the page tables of the whole process: some 50 microseconds, and up to 10 ms per GiB. */
HAK_API int hak_resident_get(struct hak_resident *out) HAK_NOEXCEPT;

/* Both as one JSON object, keys named as the fields, and in it lists of the size classes in use and of the threads with what each
 * caches. docs/stats-schema.json is its schema. Writes at most size_bytes bytes including the terminating NUL. Allocates nothing.
 * Returns    the length without the NUL that the whole text has; >= size_bytes means that it was cut. It is some 2 KiB, 200 bytes
 *            more for each class in use, and up to 900 for each thread (of which 4096 are listed).
 * Limits     takes 10 KiB of stack. Not async-signal-safe. */
HAK_API size_t hak_stats_json(char *buffer, size_t size_bytes) HAK_NOEXCEPT;

/* ---- Heap profile ----------------------------------------------------------------------------------------------- */

/* Which call stacks allocate, and whose blocks are live, by a sample: a block of b bytes is noted with the chance
 * 1 - exp(-b/interval), and then counts for the inverse. The environment variable HAKMEM_PROFILE does the same from the start,
 * and `hakmem profile PID` from outside. docs/heap-profile.md has the format, and how far the estimates can be off. */

/* Begins. What an earlier profile noted is dropped; blocks that are live already are not in it.
 * interval_bytes  bytes from one sample to the next in the mean, up to 2^40; 0 for the default, 512 KiB
 * Returns         0, or -1 with errno EBUSY (one is on, begins or ends, or a dump of another thread takes too long), EINVAL, ENOMEM, or
 *                 ENOTSUP (HAKMEM_SECURE or HAKMEM_GUARD_SAMPLE is on).
 * Limits          65,535 different stacks of at most 48 frames; memory for them as they come, 29 MiB at most.
 * Cost            while it is on, 15 to 16 instructions more for each small block, for each sample some 3,400, and a page of memory
 *                 for as long as the block lives. Beginning waits for threads that are inside the
 *                 allocator, up to 50 ms, and for a dump that another thread writes, some two seconds at most.
 *                 docs/heap-profile.md has it measured. */
HAK_API int hak_profile_start(size_t interval_bytes) HAK_NOEXCEPT;

/* Ends. What was noted stays, and what of it is live stays true. Nothing happens where no profile is on.
 * Cost       waits for threads that are inside the allocator, up to 50 ms. */
HAK_API void hak_profile_stop(void) HAK_NOEXCEPT;

/* Writes what was noted so far to a file: text, which `go tool pprof` and `hakmem profile` read. Any number of times. Allocates
 * nothing. A file that is there is overwritten; a new one can be read by its owner alone (mode 0600).
 * Returns    0, or -1 with errno as open(), write() and close() have it, EINVAL when path is NULL.
 * Limits     takes 7 KiB of stack. Not async-signal-safe.
 * Signals    none is raised: EPIPE comes without SIGPIPE, EFBIG without SIGXFSZ.
 * Cost       a line for each stack, and /proc/thread-self/maps. */
HAK_API int hak_profile_dump(const char *path) HAK_NOEXCEPT;

/* "MAJOR.MINOR.PATCH", a constant string. */
HAK_API const char *hak_version(void) HAK_NOEXCEPT;

#ifdef __cplusplus
}
#endif
#endif
