/* recorder.c - records the allocation calls of one program as a trace for bench_replay.
 * Build      gcc -std=c17 -O2 -Wall -Wextra -fPIC -shared -o build/librecorder.so bench/recorder.c
 * Usage      LD_PRELOAD=build/librecorder.so RECORD_FILE=out RECORD_NAME=sqlite3 sqlite3 …    writes out.PID
 * Owns       the names malloc, calloc, realloc, free, posix_memalign, aligned_alloc, memalign and malloc_usable_size of
 *            the process; the table from pointers to objects; the file.
 * Called by  bench/record.sh.     Calls  glibc's allocator by its __libc_ names, which need no look-up.
 * Threads    any; what is recorded is the order in which calls take the lock. A forked child records nothing.
 * Environment  RECORD_FILE  the file, to which a dot and the process id are appended; unset: nothing is recorded.
 *              RECORD_NAME  only the program whose executable file has this name is recorded, so that shells in between
 *                           are left out; unset: every program.
 *              RECORD_MAX   how many calls are recorded (default 3000000); after that calls are only forwarded.
 * I1  An object has one id from its allocation until its free; an allocation takes the lowest id that no live object
 *     has. A realloc keeps the id.
 * I2  A pointer leaves the table before the real free or realloc, and enters it after the real allocation, so no two
 *     objects have the same pointer in it.
 * I3  No call into the allocator is made while the lock is held, and the recorder's own memory comes from mmap.
 * Left out: free(NULL), calls that fail, frees of pointers that were never seen, blocks of more than MAX_SIZE_BYTES.
 *
 * Format, version 1: a header of six little-endian numbers, then records without gaps or an end mark.
 *   u64 magic "HAKTRACE"   u32 version   u32 threads   u64 records   u64 ids (the highest id + 1)
 *   u64 bytes requested, all records together          u64 bytes of the records
 * A record is two to four varints (7 bits a byte, low bits first, the high bit set in all but the last byte):
 *   head       thread << 3 | operation (enum operation); threads are numbered in the order of their first call
 *   alignment  its log2; only for memalign, aligned_alloc and posix_memalign
 *   size       in bytes; for all but free
 *   id         its distance from the id of the record before (0 before the first): d >= 0 is 2d, d < 0 is -2d - 1
 * A realloc of an id that is not live is realloc(NULL, size). realloc(pointer, 0) is recorded as the free it is.
 * Why distances and lowest ids: a program's next call is mostly about its last object or one beside it, so most ids
 * are one small byte, and gzip makes a call about one byte. */
#define _GNU_SOURCE
#include <assert.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))

extern void *__libc_malloc(size_t size_bytes);
extern void *__libc_calloc(size_t count, size_t size_bytes);
extern void *__libc_realloc(void *pointer, size_t size_bytes);
extern void *__libc_memalign(size_t alignment, size_t size_bytes);
extern void __libc_free(void *pointer);

enum operation { OP_MALLOC = 1, OP_CALLOC, OP_REALLOC, OP_FREE, OP_MEMALIGN, OP_ALIGNED_ALLOC, OP_POSIX_MEMALIGN };

enum {
    FORMAT_VERSION = 1,
    DEFAULT_RECORDS = 3000000,
    MAX_RECORDS = 1 << 24,    /* also bounds the ids: bench_replay keeps an id in 24 bits */
    MAX_SIZE_BYTES = 1 << 28, /* what bench_replay accepts for one block */
    BUFFER_BYTES = 1 << 20,
    MAX_RECORD_BYTES = 4 * 10, /* four varints of 64 bits */
    MAX_THREADS = 1 << 16,
    N_LEVELS = 4, /* 64 to the 4th power ids */
};
static_assert(MAX_RECORDS == 64 * 64 * 64 * 64, "the id map has a bit for every id");

static const char magic[8] = "HAKTRACE";

struct header {
    char magic[8];
    uint32_t version;
    uint32_t n_threads;
    uint64_t n_records;
    uint64_t n_ids;
    uint64_t requested_bytes;
    uint64_t record_bytes;
};
static_assert(sizeof(struct header) == 48, "the header has no gaps");

struct entry {
    uintptr_t pointer; /* 0: empty */
    uint32_t id;
};

/* NEW until the first call reads the environment. OFF is final. */
enum state { STATE_NEW, STATE_ON, STATE_OFF };

static _Atomic enum state state; /* relaxed: it is read again under the lock before it matters */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static __thread uint32_t thread_number __attribute__((tls_model("initial-exec"))); /* index + 1; 0: none yet */

/* All of these are protected by the lock. */
static struct header header;
static uint64_t max_records;
static uint32_t last_id;
static int output = -1;
static unsigned char *buffer;
static size_t buffered_bytes;
static struct entry *table; /* open addressing, linear probing, at most half full */
static size_t table_mask;
static uint64_t
    *taken[N_LEVELS]; /* level 0: a bit per id. Level n: a bit per word of level n - 1, set when it is full */

/* ---- Ids ------------------------------------------------------------------------------------------------------- */

static uint32_t id_take_lowest(void)
{
    size_t index = 0;
    for (int level = N_LEVELS - 1; level >= 0; level--)
        index = index * 64 + (size_t)__builtin_ctzll(~taken[level][index]);
    size_t bit = index;
    for (int level = 0; level < N_LEVELS; level++, bit /= 64) {
        taken[level][bit / 64] |= UINT64_C(1) << bit % 64;
        if (taken[level][bit / 64] != UINT64_MAX)
            break;
    }
    return (uint32_t)index;
}

static void id_give_back(uint32_t id)
{
    size_t bit = id;
    for (int level = 0; level < N_LEVELS; level++, bit /= 64)
        taken[level][bit / 64] &= ~(UINT64_C(1) << bit % 64);
}

/* ---- Pointers -------------------------------------------------------------------------------------------------- */

static size_t table_home(uintptr_t pointer)
{
    return (size_t)((pointer >> 4) * UINT64_C(0x9E3779B97F4A7C15) >> 20) & table_mask;
}

/* The entry of the pointer, or the empty one where it would go. */
static size_t table_find(uintptr_t pointer)
{
    size_t index = table_home(pointer);
    while (table[index].pointer != 0 && table[index].pointer != pointer)
        index = (index + 1) & table_mask;
    return index;
}

/* Entries after the hole move back into it unless they would come before their home. */
static void table_remove(size_t hole)
{
    for (size_t index = (hole + 1) & table_mask; table[index].pointer != 0; index = (index + 1) & table_mask) {
        const size_t home = table_home(table[index].pointer);
        if (((index - home) & table_mask) >= ((index - hole) & table_mask)) {
            table[hole] = table[index];
            hole = index;
        }
    }
    table[hole].pointer = 0;
}

/* ---- The file -------------------------------------------------------------------------------------------------- */

static void stop(const char *why)
{
    atomic_store_explicit(&state, STATE_OFF, memory_order_relaxed);
    if (why == NULL)
        return;
    char line[160];
    const int length = snprintf(line, sizeof line, "recorder: %s: %s\n", why, strerrorname_np(errno));
    if (write(STDERR_FILENO, line, (size_t)length) < 0)
        return; /* there is nobody left to tell */
}

static bool write_all(const void *bytes, size_t n_bytes, off_t at)
{
    const char *next = bytes;
    while (n_bytes > 0) {
        const ssize_t written = pwrite(output, next, n_bytes, at);
        if (written < 0 && errno == EINTR)
            continue;
        if (written <= 0)
            return false;
        next += written;
        n_bytes -= (size_t)written;
        at += written;
    }
    return true;
}

/* The header is written last, so the file is whole after every flush. */
static void flush(void)
{
    const int saved_errno = errno;
    const off_t at = (off_t)(sizeof header + header.record_bytes);
    header.record_bytes += buffered_bytes;
    if (!write_all(buffer, buffered_bytes, at) || !write_all(&header, sizeof header, 0))
        stop("cannot write the trace");
    buffered_bytes = 0;
    errno = saved_errno;
}

static void put_varint(uint64_t value)
{
    for (; value >= 0x80; value >>= 7)
        buffer[buffered_bytes++] = (unsigned char)(value | 0x80);
    buffer[buffered_bytes++] = (unsigned char)value;
}

static void put_record(enum operation operation, unsigned alignment_log2, size_t size_bytes, uint32_t id)
{
    if (thread_number == 0)
        thread_number = header.n_threads < MAX_THREADS ? ++header.n_threads : MAX_THREADS;
    put_varint((uint64_t)(thread_number - 1) << 3 | operation);
    if (operation >= OP_MEMALIGN)
        put_varint(alignment_log2);
    if (operation != OP_FREE) {
        put_varint(size_bytes);
        header.requested_bytes += size_bytes;
    }
    put_varint(id >= last_id ? 2 * (uint64_t)(id - last_id) : 2 * (uint64_t)(last_id - id) - 1);
    last_id = id;
    if (id >= header.n_ids)
        header.n_ids = (uint64_t)id + 1;
    header.n_records++;
    if (buffered_bytes > BUFFER_BYTES - MAX_RECORD_BYTES)
        flush();
    if (header.n_records == max_records) {
        flush();
        stop(NULL);
    }
}

/* ---- Start and end --------------------------------------------------------------------------------------------- */

static void *map(size_t n_bytes)
{
    void *memory = mmap(NULL, n_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return memory != MAP_FAILED ? memory : NULL;
}

static bool map_tables(void)
{
    size_t capacity = 1024;
    while (capacity < 2 * max_records)
        capacity *= 2;
    table_mask = capacity - 1;
    table = map(capacity * sizeof *table);
    buffer = map(BUFFER_BYTES);
    bool mapped = table != NULL && buffer != NULL;
    size_t level_bytes = MAX_RECORDS / 8;
    for (int level = 0; level < N_LEVELS; level++, level_bytes /= 64)
        mapped = (taken[level] = map(level_bytes)) != NULL && mapped;
    return mapped;
}

static bool is_the_program(const char *name)
{
    char path[4096];
    const ssize_t length = readlink("/proc/self/exe", path, sizeof path - 1);
    if (length <= 0)
        return false;
    path[length] = '\0';
    const char *slash = strrchr(path, '/');
    return name == NULL || strcmp(slash != NULL ? slash + 1 : path, name) == 0;
}

static void start(void)
{
    const char *file = getenv("RECORD_FILE");
    const char *limit = getenv("RECORD_MAX");
    if (file == NULL || !is_the_program(getenv("RECORD_NAME"))) {
        stop(NULL);
        return;
    }
    max_records = limit != NULL ? strtoull(limit, NULL, 10) : DEFAULT_RECORDS;
    if (max_records == 0 || max_records > MAX_RECORDS)
        max_records = MAX_RECORDS;
    char path[4096];
    snprintf(path, sizeof path, "%s.%ld", file, (long)getpid());
    output = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (output < 0 || !map_tables()) {
        stop("cannot start");
        return;
    }
    memcpy(header.magic, magic, sizeof magic);
    header.version = FORMAT_VERSION;
    atomic_store_explicit(&state, STATE_ON, memory_order_relaxed);
}

/* Takes the lock and returns true when the call is to be recorded. */
static bool recording(void)
{
    if (atomic_load_explicit(&state, memory_order_relaxed) == STATE_OFF)
        return false;
    const int saved_errno = errno;
    pthread_mutex_lock(&lock);
    if (atomic_load_explicit(&state, memory_order_relaxed) == STATE_NEW)
        start();
    errno = saved_errno;
    if (atomic_load_explicit(&state, memory_order_relaxed) == STATE_ON)
        return true;
    pthread_mutex_unlock(&lock);
    return false;
}

/* The child has a copy of the lock, perhaps taken, and the parent's file; it leaves both alone. */
static void stop_in_child(void)
{
    atomic_store_explicit(&state, STATE_OFF, memory_order_relaxed);
}

static __attribute__((constructor)) void at_load(void)
{
    pthread_atfork(NULL, NULL, stop_in_child);
}

static __attribute__((destructor)) void at_exit(void)
{
    if (!recording())
        return;
    flush();
    stop(NULL);
    pthread_mutex_unlock(&lock);
}

/* ---- The life of an object ------------------------------------------------------------------------------------- */

static unsigned log2_up(size_t alignment)
{
    return alignment > 1 ? 64 - (unsigned)__builtin_clzll(alignment - 1) : 0;
}

/* A pointer that is still in the table was freed by a call that did not come by here, such as one inside libc. */
static void forget_stale(uintptr_t pointer)
{
    const size_t index = table_find(pointer);
    if (table[index].pointer == 0)
        return;
    const uint32_t id = table[index].id;
    table_remove(index);
    id_give_back(id);
    put_record(OP_FREE, 0, 0, id);
}

static void enter(void *pointer, uint32_t id)
{
    const size_t index = table_find((uintptr_t)pointer);
    table[index] = (struct entry){.pointer = (uintptr_t)pointer, .id = id};
}

static void *born(enum operation operation, size_t alignment, size_t size_bytes, void *pointer)
{
    if (pointer == NULL || size_bytes > MAX_SIZE_BYTES || !recording())
        return pointer;
    forget_stale((uintptr_t)pointer);
    if (atomic_load_explicit(&state, memory_order_relaxed) == STATE_ON) {
        const uint32_t id = id_take_lowest();
        enter(pointer, id);
        put_record(operation, log2_up(alignment), size_bytes, id);
    }
    pthread_mutex_unlock(&lock);
    return pointer;
}

/* Takes the pointer out of the table. Returns false when it is not there, or nothing is recorded. */
static bool take_out(void *pointer, uint32_t *id)
{
    if (pointer == NULL || !recording())
        return false;
    const size_t index = table_find((uintptr_t)pointer);
    const bool known = table[index].pointer != 0;
    if (known) {
        *id = table[index].id;
        table_remove(index);
    }
    pthread_mutex_unlock(&lock);
    return known;
}

static void died(uint32_t id)
{
    if (!recording())
        return;
    id_give_back(id);
    put_record(OP_FREE, 0, 0, id);
    pthread_mutex_unlock(&lock);
}

static void moved(void *pointer, uint32_t id, bool failed, size_t size_bytes)
{
    if (!recording())
        return;
    forget_stale((uintptr_t)pointer);
    if (atomic_load_explicit(&state, memory_order_relaxed) == STATE_ON) {
        enter(pointer, id);
        if (!failed)
            put_record(OP_REALLOC, 0, size_bytes, id);
    }
    pthread_mutex_unlock(&lock);
}

/* ---- The names ------------------------------------------------------------------------------------------------- */

EXPORT void *malloc(size_t size_bytes)
{
    return born(OP_MALLOC, 0, size_bytes, __libc_malloc(size_bytes));
}

EXPORT void *calloc(size_t count, size_t size_bytes)
{
    void *pointer = __libc_calloc(count, size_bytes);
    return pointer != NULL ? born(OP_CALLOC, 0, count * size_bytes, pointer) : NULL;
}

EXPORT void free(void *pointer)
{
    uint32_t id;
    if (take_out(pointer, &id))
        died(id);
    __libc_free(pointer);
}

EXPORT void *realloc(void *pointer, size_t size_bytes)
{
    uint32_t id;
    if (!take_out(pointer, &id))
        return born(OP_REALLOC, 0, size_bytes, __libc_realloc(pointer, size_bytes));
    void *result = __libc_realloc(pointer, size_bytes);
    if (result == NULL && size_bytes != 0)
        moved(pointer, id, true, 0);
    else if (result == NULL || size_bytes > MAX_SIZE_BYTES)
        died(id);
    else
        moved(result, id, false, size_bytes);
    return result;
}

EXPORT void *memalign(size_t alignment, size_t size_bytes)
{
    return born(OP_MEMALIGN, alignment, size_bytes, __libc_memalign(alignment, size_bytes));
}

EXPORT void *aligned_alloc(size_t alignment, size_t size_bytes)
{
    return born(OP_ALIGNED_ALLOC, alignment, size_bytes, __libc_memalign(alignment, size_bytes));
}

EXPORT int posix_memalign(void **result, size_t alignment, size_t size_bytes)
{
    if (alignment < sizeof(void *) || (alignment & (alignment - 1)) != 0)
        return EINVAL;
    void *pointer = born(OP_POSIX_MEMALIGN, alignment, size_bytes, __libc_memalign(alignment, size_bytes));
    if (pointer == NULL)
        return ENOMEM;
    *result = pointer;
    return 0;
}

/* A program that is linked with another allocator, as redis-server is with jemalloc, must not ask that one about a
 * block of glibc's. glibc exports no __libc_ name for this function, so libc itself is asked for it. */
EXPORT size_t malloc_usable_size(void *pointer)
{
    static _Atomic uintptr_t found; /* relaxed: every thread finds the same address */
    uintptr_t address = atomic_load_explicit(&found, memory_order_relaxed);
    if (address == 0) {
        void *libc = dlopen("libc.so.6", RTLD_LAZY | RTLD_NOLOAD);
        address = libc != NULL ? (uintptr_t)dlsym(libc, "malloc_usable_size") : 0;
        if (address == 0)
            abort();
        atomic_store_explicit(&found, address, memory_order_relaxed);
    }
    return ((size_t(*)(void *))address)(pointer);
}
