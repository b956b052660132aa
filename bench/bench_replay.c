/* bench_replay.c - replays the recorded allocation calls of a real program on whatever malloc the process has.
 * Usage      bench_replay FILE.trace.gz [REPEAT]
 * Owns       the decoded calls and the table of objects, both in memory from mmap.
 * Called by  bench/bench.py, or by hand.     Calls  the functions of the allocator by their plain names; zlib.
 * Threads    one: all calls are made from it in the order of the recording. That keeps the life times of the program's
 *            objects; what the program's threads did at once is folded into one line.
 * Input      what bench/record.sh writes; bench/recorder.c describes the format.
 * Output     one line: bench_replay trace=NAME calls=N repeat=R elapsed_s=S check=C
 *            calls is what one repeat replays; check is a sum over sizes, the same under every allocator.
 * Exit       0; 1 and one line on stderr for a file that is not a whole trace, for a call that returned NULL, and for a
 *            block that lost what was written to it; 2 for bad arguments.
 * I1  The whole trace is decoded and checked before the first call is replayed: every id is below the header's count,
 *     an allocation is of an id that is not live, a free of one that is. The timed loop checks none of it again.
 * I2  The first and the last byte of every live object of one byte or more hold the tag of its id.
 * I3  No allocator serves this program before the clock starts: zlib's memory is a static array, the rest is mapped.
 * Every new block gets a byte in each page of 4 KiB, its first and its last byte, as a program fills what it asks for;
 * so an allocator pays for the pages it gets from the system. All that lives at the end of a repeat is freed. */
#define _GNU_SOURCE
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <malloc.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>
#include <zlib.h>

/* As in recorder.c. */
enum operation { OP_MALLOC = 1, OP_CALLOC, OP_REALLOC, OP_FREE, OP_MEMALIGN, OP_ALIGNED_ALLOC, OP_POSIX_MEMALIGN };

enum {
    FORMAT_VERSION = 1,
    HEADER_BYTES = 48,
    MAX_RECORDS = 1 << 24, /* 128 MiB of calls; an id needs 24 bits */
    MAX_THREADS = 1 << 16,
    MAX_SIZE_BYTES = 1 << 28,
    MAX_LIVE_BYTES = 1 << 30, /* what a damaged file may make this program allocate */
    MAX_ALIGNMENT_LOG2 = 20,
    PAGE_BYTES = 4096,
    DEFAULT_CALLS = 20000000, /* replayed at least, without REPEAT: 0.4 to 0.8 s per trace on glibc */
    MAX_REPEAT = 1000000,
};

struct call {
    uint32_t id : 24;
    uint32_t operation : 3;
    uint32_t alignment_log2 : 5;
    uint32_t size_bytes; /* 0 for a free */
};
static_assert(sizeof(struct call) == 8, "a call takes 8 bytes, so that the trace adds little to the peak of memory");

struct trace {
    char name[128];
    struct call *calls;
    size_t n_calls;
    size_t n_ids;
};

struct object {
    unsigned char *block;
    uint32_t size_bytes;
    bool live;
};

/* ---- Reading bytes --------------------------------------------------------------------------------------------- */

struct reader {
    const char *path;
    int file;
    z_stream zlib;
    size_t next;  /* in out */
    size_t limit; /* in out */
    bool ended;   /* zlib saw the end of the stream, and its checksum is right */
    unsigned char in[1 << 14];
    unsigned char out[1 << 14];
};

static struct reader reader;

static _Noreturn void die_file(const char *why)
{
    fprintf(stderr, "bench_replay: %s: %s\n", reader.path, why);
    exit(1);
}

/* zlib asks for its state and its window once each, about 40 KiB, and never again. */
static void *zlib_claim(void *unused, unsigned count, unsigned size_bytes)
{
    static _Alignas(64) unsigned char memory[1 << 17];
    static size_t used_bytes;
    const size_t wanted_bytes = ((size_t)count * size_bytes + 63) / 64 * 64;
    (void)unused;
    if (wanted_bytes > sizeof memory - used_bytes)
        return NULL;
    used_bytes += wanted_bytes;
    return memory + used_bytes - wanted_bytes;
}

static void zlib_return(void *unused, void *pointer)
{
    (void)unused;
    (void)pointer;
}

static void reader_open(const char *path)
{
    enum { GZIP_ONLY = 16 + MAX_WBITS };
    reader.path = path;
    reader.file = open(path, O_RDONLY | O_CLOEXEC);
    if (reader.file < 0)
        die_file(strerror(errno));
    reader.zlib.zalloc = zlib_claim;
    reader.zlib.zfree = zlib_return;
    if (inflateInit2(&reader.zlib, GZIP_ONLY) != Z_OK)
        die_file("zlib does not start");
}

static void reader_fill_in(void)
{
    const ssize_t n_bytes = read(reader.file, reader.in, sizeof reader.in);
    if (n_bytes < 0)
        die_file(strerror(errno));
    if (n_bytes == 0)
        die_file("the file is cut short");
    reader.zlib.next_in = reader.in;
    reader.zlib.avail_in = (unsigned)n_bytes;
}

/* Decompresses until there is a byte or the stream ends. Returns false at the end. */
static bool reader_fill_out(void)
{
    reader.next = reader.limit = 0;
    while (reader.limit == 0 && !reader.ended) {
        if (reader.zlib.avail_in == 0)
            reader_fill_in();
        reader.zlib.next_out = reader.out;
        reader.zlib.avail_out = sizeof reader.out;
        const int status = inflate(&reader.zlib, Z_NO_FLUSH);
        if (status != Z_OK && status != Z_STREAM_END && status != Z_BUF_ERROR)
            die_file(reader.zlib.msg != NULL ? reader.zlib.msg : "the file cannot be decompressed");
        reader.limit = sizeof reader.out - reader.zlib.avail_out;
        reader.ended = status == Z_STREAM_END;
    }
    return reader.limit != 0;
}

static unsigned char next_byte(void)
{
    if (reader.next == reader.limit && !reader_fill_out())
        die_file("the trace ends before its last call");
    return reader.out[reader.next++];
}

static void expect_end(void)
{
    char byte;
    if (reader.next != reader.limit || reader_fill_out() || reader.zlib.avail_in != 0 ||
        read(reader.file, &byte, 1) > 0)
        die_file("the file goes on after its last call");
    close(reader.file);
}

static uint64_t next_fixed(int n_bytes)
{
    uint64_t value = 0;
    for (int index = 0; index < n_bytes; index++)
        value |= (uint64_t)next_byte() << 8 * index;
    return value;
}

/* No number of a trace needs more than 35 bits; a longer one is damage. */
static uint64_t next_varint(uint64_t max, const char *what)
{
    uint64_t value = 0;
    for (int shift = 0; shift < 35; shift += 7) {
        const unsigned char byte = next_byte();
        value |= (uint64_t)(byte & 0x7F) << shift;
        if (byte < 0x80 && value <= max)
            return value;
        if (byte < 0x80)
            break;
    }
    die_file(what);
}

/* ---- Decoding -------------------------------------------------------------------------------------------------- */

struct header {
    uint32_t n_threads;
    size_t n_records;
    size_t n_ids;
    uint64_t requested_bytes;
};

/* What is known of the trace so far; the sizes of all ids, to prove that each call is one that a program can make. */
struct decoder {
    struct header header;
    uint32_t last_id;
    uint64_t live_bytes;
    uint64_t requested_bytes;
    uint32_t *live_size; /* size + 1, by id; 0: not live */
};

static void *map(size_t n_bytes)
{
    void *memory = mmap(NULL, n_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        die_file("no memory for the trace");
    return memory;
}

static struct header decode_header(void)
{
    struct header header;
    if (next_fixed(8) != UINT64_C(0x45434152544B4148)) /* "HAKTRACE" */
        die_file("not a trace of allocation calls");
    if (next_fixed(4) != FORMAT_VERSION)
        die_file("a trace of an unknown version");
    header.n_threads = (uint32_t)next_fixed(4);
    header.n_records = next_fixed(8);
    header.n_ids = next_fixed(8);
    header.requested_bytes = next_fixed(8);
    next_fixed(8); /* the length of the records, which matters only to a tool that skips them */
    if (header.n_records == 0 || header.n_records > MAX_RECORDS || header.n_ids == 0 ||
        header.n_ids > header.n_records || header.n_threads == 0 || header.n_threads > MAX_THREADS)
        die_file("the header's numbers make no sense");
    return header;
}

static uint32_t decode_id(struct decoder *decoder)
{
    const uint64_t code = next_varint(UINT32_MAX, "a distance between ids is out of range");
    const int64_t distance = (code & 1) != 0 ? -(int64_t)(code / 2) - 1 : (int64_t)(code / 2);
    const int64_t id = (int64_t)decoder->last_id + distance;
    if (id < 0 || id >= (int64_t)decoder->header.n_ids)
        die_file("an id is out of range");
    return decoder->last_id = (uint32_t)id;
}

static struct call decode_fields(struct decoder *decoder)
{
    struct call call = {0};
    const uint64_t head = next_varint((uint64_t)MAX_THREADS << 3, "a thread is out of range");
    call.operation = head & 7;
    if (call.operation == 0 || head >> 3 >= decoder->header.n_threads)
        die_file("an operation is unknown or its thread out of range");
    if (call.operation >= OP_MEMALIGN)
        call.alignment_log2 = (uint32_t)next_varint(MAX_ALIGNMENT_LOG2, "an alignment is out of range") & 31;
    if (call.operation == OP_POSIX_MEMALIGN && call.alignment_log2 < 3)
        die_file("an alignment of posix_memalign is below that of a pointer");
    if (call.operation != OP_FREE)
        call.size_bytes = (uint32_t)next_varint(MAX_SIZE_BYTES, "a size is out of range");
    call.id = decode_id(decoder) & 0xFFFFFF;
    return call;
}

/* I1. A realloc may be of any id: one that is not live stands for realloc(NULL, size). */
static void check_life(struct decoder *decoder, struct call call)
{
    uint32_t *live = &decoder->live_size[call.id];
    if (call.operation == OP_FREE && *live == 0)
        die_file("an object is freed that is not live");
    if (call.operation != OP_FREE && call.operation != OP_REALLOC && *live != 0)
        die_file("an object is allocated that is already live");
    if (*live != 0)
        decoder->live_bytes -= *live - 1;
    *live = call.operation != OP_FREE ? call.size_bytes + 1 : 0;
    decoder->live_bytes += call.size_bytes;
    decoder->requested_bytes += call.size_bytes;
    if (decoder->live_bytes > MAX_LIVE_BYTES)
        die_file("more bytes are live at once than this program allocates");
}

/* "traces/perl.trace.gz" is "perl". */
static void name_trace(struct trace *trace, const char *path)
{
    const char *slash = strrchr(path, '/');
    snprintf(trace->name, sizeof trace->name, "%s", slash != NULL ? slash + 1 : path);
    char *suffix = strstr(trace->name, ".trace");
    if (suffix != NULL)
        *suffix = '\0';
}

static struct trace trace_read(const char *path)
{
    struct trace trace = {0};
    reader_open(path);
    struct decoder decoder = {.header = decode_header()};
    decoder.live_size = map(decoder.header.n_ids * sizeof *decoder.live_size);
    trace.calls = map(decoder.header.n_records * sizeof *trace.calls);
    for (; trace.n_calls < decoder.header.n_records; trace.n_calls++) {
        const struct call call = decode_fields(&decoder);
        check_life(&decoder, call);
        trace.calls[trace.n_calls] = call;
    }
    if (decoder.requested_bytes != decoder.header.requested_bytes)
        die_file("the sizes do not add up to the header's sum");
    expect_end();
    munmap(decoder.live_size, decoder.header.n_ids * sizeof *decoder.live_size);
    trace.n_ids = decoder.header.n_ids;
    name_trace(&trace, path);
    return trace;
}

/* ---- The timed loop -------------------------------------------------------------------------------------------- */

static _Noreturn __attribute__((cold, noinline)) void die_no_memory(uint32_t id, size_t size_bytes)
{
    fprintf(stderr, "bench_replay: %s: no memory for object %" PRIu32 " of %zu bytes\n", reader.path, id, size_bytes);
    exit(1);
}

static _Noreturn __attribute__((cold, noinline)) void die_corrupt(uint32_t id, const struct object *object)
{
    fprintf(stderr,
            "bench_replay: %s: CORRUPTION: object %" PRIu32 ", block %p of %" PRIu32
            " bytes, does not hold what was written\n",
            reader.path, id, (void *)object->block, object->size_bytes);
    exit(1);
}

/* Never 0, so that a block of calloc's is told from one that is in use. */
static inline unsigned char tag_of(uint32_t id)
{
    return (unsigned char)((id ^ id >> 8) | 1);
}

/* Writes a byte of every page from the one that begins at or after from_bytes, and the last byte of the block. */
static inline void touch(const struct object *object, uint32_t from_bytes, unsigned char tag)
{
    volatile unsigned char *block = object->block;
    if (object->size_bytes == 0)
        return;
    for (size_t at = ((size_t)from_bytes + PAGE_BYTES - 1) / PAGE_BYTES * PAGE_BYTES; at < object->size_bytes;
         at += PAGE_BYTES)
        block[at] = tag;
    block[object->size_bytes - 1] = tag;
}

static inline void expect_ends(uint32_t id, const struct object *object, unsigned char wanted)
{
    if (object->size_bytes != 0 &&
        __builtin_expect(object->block[0] != wanted || object->block[object->size_bytes - 1] != wanted, 0))
        die_corrupt(id, object);
}

static void *replay_posix_memalign(size_t alignment, size_t size_bytes)
{
    void *block;
    return posix_memalign(&block, alignment, size_bytes) == 0 ? block : NULL;
}

static inline void *allocate(struct call call)
{
    const size_t alignment = (size_t)1 << call.alignment_log2;
    switch (call.operation) {
    case OP_MALLOC:
        return malloc(call.size_bytes);
    case OP_CALLOC:
        return calloc(1, call.size_bytes);
    case OP_MEMALIGN:
        return memalign(alignment, call.size_bytes);
    case OP_ALIGNED_ALLOC:
        return aligned_alloc(alignment, call.size_bytes);
    default:
        return replay_posix_memalign(alignment, call.size_bytes);
    }
}

static inline void replay_allocate(struct call call, struct object *object)
{
    *object = (struct object){.block = allocate(call), .size_bytes = call.size_bytes, .live = true};
    if (__builtin_expect(object->block == NULL, 0))
        die_no_memory(call.id, call.size_bytes);
    if (call.operation == OP_CALLOC)
        expect_ends(call.id, object, 0);
    touch(object, 0, tag_of(call.id));
}

/* Of a block that stays as large as it was or grows, only what is new is touched. */
static void replay_realloc(struct call call, struct object *object)
{
    const unsigned char tag = tag_of(call.id);
    const uint32_t old_bytes = object->live ? object->size_bytes : 0;
    if (object->live)
        expect_ends(call.id, object, tag);
    unsigned char *block = realloc(object->live ? object->block : NULL, call.size_bytes);
    if (__builtin_expect(block == NULL, 0))
        die_no_memory(call.id, call.size_bytes);
    *object = (struct object){.block = block, .size_bytes = call.size_bytes, .live = true};
    if (old_bytes != 0 && call.size_bytes != 0 && block[0] != tag)
        die_corrupt(call.id, object);
    touch(object, old_bytes, tag);
}

static inline void replay_free(uint32_t id, struct object *object)
{
    expect_ends(id, object, tag_of(id));
    free(object->block);
    object->live = false;
}

/* Returns the sum of all sizes that were asked for and freed. */
static __attribute__((noinline)) uint64_t replay_calls(const struct trace *trace, struct object *objects)
{
    uint64_t check = 0;
    for (size_t index = 0; index < trace->n_calls; index++) {
        const struct call call = trace->calls[index];
        struct object *object = &objects[call.id];
        if (call.operation == OP_FREE)
            replay_free(call.id, object);
        else if (call.operation == OP_REALLOC)
            replay_realloc(call, object);
        else
            replay_allocate(call, object);
        check += object->size_bytes;
    }
    return check;
}

static uint64_t free_the_live(const struct trace *trace, struct object *objects)
{
    uint64_t check = 0;
    for (uint32_t id = 0; id < trace->n_ids; id++)
        if (objects[id].live) {
            check += objects[id].size_bytes;
            replay_free(id, &objects[id]);
        }
    return check;
}

/* ---- The run --------------------------------------------------------------------------------------------------- */

static double now_s(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

/* Returns 0 when it was not given. */
static size_t parse_repeat(const char *text)
{
    if (text == NULL)
        return 0;
    char *end;
    errno = 0;
    const unsigned long long value = strtoull(text, &end, 10);
    if (text[0] < '0' || text[0] > '9' || *end != '\0' || errno != 0 || value == 0 || value > MAX_REPEAT) {
        fprintf(stderr, "bench_replay: REPEAT must be a number from 1 to %d, not '%s'\n", MAX_REPEAT, text);
        exit(2);
    }
    return value;
}

int main(int argc, char **argv)
{
    if (argc < 2 || argc > 3) {
        fprintf(stderr, "usage: bench_replay FILE.trace.gz [REPEAT]\n");
        return 2;
    }
    size_t repeat = parse_repeat(argv[2]);
    const struct trace trace = trace_read(argv[1]);
    struct object *objects = map(trace.n_ids * sizeof *objects);
    if (repeat == 0)
        repeat = (DEFAULT_CALLS + trace.n_calls - 1) / trace.n_calls;

    uint64_t check = 0;
    const double start_s = now_s();
    for (size_t round = 0; round < repeat; round++) {
        check += replay_calls(&trace, objects);
        check += free_the_live(&trace, objects);
    }
    const double elapsed_s = now_s() - start_s;

    printf("bench_replay trace=%s calls=%zu repeat=%zu elapsed_s=%.6f check=%" PRIu64 "\n", trace.name, trace.n_calls,
           repeat, elapsed_s, check);
    if (fflush(stdout) != 0) {
        fprintf(stderr, "bench_replay: cannot write the result: %s\n", strerror(errno));
        return 1;
    }
    return 0;
}
