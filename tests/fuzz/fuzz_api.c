/* fuzz_api.c - bytes become calls of the whole interface, by up to four threads in turn, beside a model of every block.
 * Owns     the logical threads, the faults, the budget's expected state.
 * Called by  libFuzzer, AFL++ or replay.c, by LLVMFuzzerTestOneInput     Calls  ops.h, model.h, hakmem_testing
 * Threads  one works at a time, the others sleep, so that an input does the same each time. The interpreter is the first of
 *          them; it and the helpers live for one input, so each input begins with no thread record in use.
 * Checked at each call: the result, errno, alignment, usable size, zeroes, overlap with any other block, contents when a
 *          block is given back or resized; that a refusal has a reason, and the reason is a request that no system serves,
 *          a fault that happened during this very call, or a budget that is used up.
 * Checked now and then, and at the end: pool_check; statistics against the model; every block's contents.
 * Checked at the end: all memory is given back.
 * Why not faults, time and threads of the system's own: a finding must be found again by its bytes alone.
 */
#include "front/sleepers.h"
#include "front/thread.h"
#include "front/route.h"
#include "hakmem/hakmem.h"
#include "meta/arena.h"
#include "meta/sizeclass.h"
#include "os/os.h"
#include "pool/background.h"
#include "pool/large.h"
#include "pool/shared_pool.h"
#include "service/config.h"
#include "service/stats.h"
#include "model.h"

#include <errno.h>
#include <limits.h>
#include <malloc.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len_bytes);

/* The libc family as src/api/override.c has it, by the names of names.h. */
void *names_malloc(size_t size_bytes);
void names_free(void *block);
void *names_calloc(size_t count, size_t size_bytes);
void *names_realloc(void *block, size_t size_bytes);
void *names_aligned_alloc(size_t alignment, size_t size_bytes);
int names_posix_memalign(void **result, size_t alignment, size_t size_bytes);
void names_free_sized(void *block, size_t size_bytes);
void names_free_aligned_sized(void *block, size_t alignment, size_t size_bytes);
void *names_memalign(size_t alignment, size_t size_bytes);
void *names_valloc(size_t size_bytes);
void *names_pvalloc(size_t size_bytes);
void *names_reallocarray(void *block, size_t count, size_t size_bytes);
void *names_reallocf(void *block, size_t size_bytes);
int names_reallocarr(void *pointer, size_t count, size_t size_bytes);
size_t names_malloc_usable_size(void *block);
size_t names_malloc_size(const void *block);
size_t names_malloc_good_size(size_t size_bytes);
int names_malloc_trim(size_t pad_bytes);
struct mallinfo2 names_mallinfo2(void);
int names_mallopt(int parameter, int value);
int names_malloc_info(int options, FILE *stream);

#define HELD_MAX_BYTES (256 * MIB)
#define ARENA_BYTES                                                                                                    \
    (16 * MIB) /* small, so that there are blocks in later arenas, too; HAKMEM_ARENA_BYTES overrules it */
#define SPAN_SAMPLE_BYTES (100 * KIB)
enum {
    ERRNO_MARK = 1789,   /* what errno is before each call */
    EFFORT_MAX = 10000,  /* of an input, in units of a small block; what is left of it then is ignored */
    OPS_PER_CHECK = 32,  /* the books are checked every so many operations */
    N_JSON_MAX = 1,      /* it reads /proc, which takes as long as a short input */
    SETTLE_TRIES = 10000 /* a thread that has handed over is asleep within a few */
};

static unsigned effort, n_json;

/* ---- Faults of the system ---------------------------------------------------------------------------------------- */

static struct {
    unsigned long first, n; /* as os_fail_from has it, counted from the last call on */
    unsigned mask;
    bool fired;           /* during the last call */
    size_t refused_bytes; /* that the system did not take back, at most: they go on counting, in later inputs, too */
    size_t limit_bytes;
} faults;

/* Around each call: the system fails in it as it shall, and in nothing that the fuzzer itself asks. */
static void begin_call(void)
{
    faults.fired = false;
    if (faults.n != 0)
        os_fail_from(faults.first, faults.n, faults.mask);
    errno = ERRNO_MARK;
}

/* Returns errno as the call left it. */
static int end_call(void)
{
    int call_errno = errno;
    unsigned long n_seen = os_fail_from(0, 0, 0);
    if (faults.n == 0)
        return call_errno;
    if (n_seen < faults.first) {
        faults.first -= n_seen;
        return call_errno;
    }
    unsigned long n_failed = n_seen - faults.first + 1;
    faults.fired = true;
    if ((faults.mask & (OS_CALL_PURGE | OS_CALL_DECOMMIT)) != 0)
        faults.refused_bytes = SIZE_MAX / 2;
    faults.first = 1;
    faults.n -= n_failed < faults.n ? n_failed : faults.n;
    return call_errno;
}

/* ---- The budget -------------------------------------------------------------------------------------------------- */

static struct {
    size_t soft_bytes, hard_bytes; /* 0: none */
    size_t line_bytes;             /* what is above the hard line already may stay */
} lines;

static size_t committed_bytes(void)
{
    return (size_t)stats_read(&stats_counters.committed_bytes);
}

/* After each call: the heap has not grown over the line. A refused move of pages lets both ends count. */
static void check_lines(void)
{
    size_t used_bytes = committed_bytes();
    if (lines.hard_bytes == 0)
        return;
    if (faults.fired && used_bytes > lines.line_bytes)
        lines.line_bytes = used_bytes;
    REQUIRE(used_bytes <= lines.line_bytes + SLAB_BYTES && "the budget holds", NULL);
    lines.line_bytes = max_size(lines.hard_bytes, min_size(lines.line_bytes, used_bytes));
}

/* Whether the budget has a reason to refuse: with the request, what it keeps back, and a slab's worth of haste. */
static bool budget_is_short(size_t size_bytes)
{
    size_t kept_bytes = min_size(max_size(lines.hard_bytes / 64, 64 * KIB), 4 * MIB);
    return lines.hard_bytes != 0 &&
           committed_bytes() + round_up(size_bytes, os_page_bytes()) + kept_bytes + 2 * SLAB_BYTES > lines.hard_bytes;
}

/* ---- What the program does when it is told of pressure ------------------------------------------------------------- */

static struct {
    unsigned mode; /* 0: it is not told; 1: nothing; 2: calls malloc and free; 3: frees blocks */
    unsigned slot; /* from which on */
    unsigned n_soft, n_hard;
    bool running;
} pressure;

static void on_pressure(enum hak_pressure kind, void *argument)
{
    int saved_errno = errno;
    REQUIRE(argument == &pressure && !pressure.running && pressure.mode != 0, NULL);
    REQUIRE(kind == HAK_PRESSURE_SOFT || kind == HAK_PRESSURE_HARD, NULL);
    pressure.running = true;
    *(kind == HAK_PRESSURE_SOFT ? &pressure.n_soft : &pressure.n_hard) += 1;
    if (pressure.mode == 2) {
        void *blocks[3] = {hak_malloc(40), hak_calloc(3, 1000), hak_malloc(40000)};
        for (unsigned i = 0; i < 3; i++)
            hak_free(blocks[i]);
    }
    for (unsigned i = 0; pressure.mode == 3 && i < 256; i++) {
        struct record *r = &model_slots[(pressure.slot + i) % N_SLOTS];
        if (r->block == NULL || r->in_call)
            continue;
        void *block = r->block;
        model_check(r);
        model_leave(r);
        hak_free(block);
    }
    pressure.running = false;
    errno = saved_errno;
}

/* ---- Contexts ------------------------------------------------------------------------------------------------------ */

static bool may_be_deferred; /* a span was perhaps returned under the lock */

/* A signal handler that interrupted a slow path finds the thread busy and its door closed, or the pool locked by its own
 * thread, or both. */
static struct thread *enter_context(enum op_context context)
{
    struct thread *thread = NULL;
    if (context == CONTEXT_ON_SLOW_PATH || context == CONTEXT_ON_SLOW_PATH_UNDER_LOCK)
        thread = thread_enter();
    if (context == CONTEXT_UNDER_LOCK || context == CONTEXT_ON_SLOW_PATH_UNDER_LOCK)
        REQUIRE(may_be_deferred = pool_lock(HAK_LOCK_SPAN), NULL);
    return thread;
}

static void leave_context(enum op_context context, struct thread *thread)
{
    if (context == CONTEXT_UNDER_LOCK || context == CONTEXT_ON_SLOW_PATH_UNDER_LOCK)
        pool_unlock();
    if (thread != NULL)
        thread_leave(thread);
}

/* ---- Blocks -------------------------------------------------------------------------------------------------------- */

static size_t natural_alignment(size_t size_bytes)
{
    return size_bytes <= 8 ? 8 : 16;
}

static bool is_impossible(size_t size_bytes, size_t alignment)
{
    return size_bytes > PTRDIFF_MAX || round_up(size_bytes, os_page_bytes()) >> ADDRESS_BITS != 0 ||
           alignment >> ADDRESS_BITS != 0;
}

/* A request was refused. The reservations' limit is for a block and what it takes to align it and to record it; hardened
 * mode has more to it: inaccessible pages around it, room to grow, a SuperSlab's worth of address space. */
static void check_refusal(const struct record *r, size_t size_bytes, size_t alignment)
{
    if (is_impossible(size_bytes, alignment))
        return;
    size_t need_bytes = config.secure == 0 ? size_bytes : size_bytes + 2 * alignment + 2 * MIB + 64 * KIB;
    REQUIRE((faults.fired || budget_is_short(need_bytes) || need_bytes + alignment + 2 * MIB > faults.limit_bytes) &&
                "a refusal has a reason",
            r);
}

/* What a request costs of the input's effort, above all pages that are touched; false: it is more than is left, or than may be held. */
static bool may_ask(const struct op *op, size_t size_bytes)
{
    unsigned cost = op->context == CONTEXT_PLAIN ? 1 : 20;
    if (!is_impossible(size_bytes, 1)) {
        if (model_held_bytes + size_bytes > HELD_MAX_BYTES)
            return false;
        size_t touched_bytes = op->how % 16 == 4 || op->how % 16 == 8 ? size_bytes : min_size(size_bytes, MIB);
        cost += (unsigned)(touched_bytes / (4 * KIB));
    }
    if (op->alignment > 64 * KIB)
        cost += 50;
    effort += cost;
    return effort <= EFFORT_MAX;
}

enum family { BY_MALLOC, BY_ALIGNMENT, BY_POSIX_MEMALIGN, BY_RESULT };

/* One request by one of the functions: what it promises besides size_bytes. */
struct request {
    size_t size_bytes, alignment; /* of the block, as promised */
    bool zeroed;
    bool keeps_errno;   /* errno says nothing, the result does */
    int expected_errno; /* EINVAL: a bad argument; 0: none */
};

static void *ask(const struct op *op, struct request *q)
{
    void *block = NULL;
    size_t count, size_bytes = op->size_bytes, alignment = op->alignment;
    *q = (struct request){.size_bytes = size_bytes, .alignment = natural_alignment(size_bytes)};
    switch (op->how % 16) {
    case 4:
    case 8:
        count = op->how < 16 ? 1 : 1 + size_bytes % 7;
        q->size_bytes = size_bytes - size_bytes % count;
        q->alignment = natural_alignment(q->size_bytes);
        q->zeroed = true;
        return op->how % 16 == 4 ? hak_calloc(count, size_bytes / count) : names_calloc(size_bytes / count, count);
    case 5:
    case 9:
        q->alignment = alignment;
        q->expected_errno = is_power_of_two(alignment) ? 0 : EINVAL;
        return op->how % 16 == 5 ? hak_aligned_alloc(alignment, size_bytes)
                                 : names_aligned_alloc(alignment, size_bytes);
    case 6:
        return hak_realloc(NULL, size_bytes);
    case 7:
        return names_malloc(size_bytes);
    case 10: {
        void *untouched = &model_slots, *result = untouched;
        int status = names_posix_memalign(&result, alignment, size_bytes);
        bool bad = !is_power_of_two(alignment) || alignment < sizeof(void *);
        q->alignment = alignment;
        q->keeps_errno = bad;
        q->expected_errno = bad ? EINVAL : 0;
        REQUIRE(status == 0 ? result != untouched : result == untouched && status == (bad ? EINVAL : ENOMEM), NULL);
        return status == 0 ? result : NULL;
    }
    case 11:
        if (alignment > (size_t)1 << 63)
            q->expected_errno = EINVAL;
        q->alignment = 16;
        while (q->expected_errno == 0 && q->alignment < alignment)
            q->alignment *= 2;
        return names_memalign(alignment, size_bytes);
    case 12:
        q->alignment = os_page_bytes();
        return names_valloc(size_bytes);
    case 13:
        block = names_pvalloc(size_bytes);
        if (block != NULL)
            q->size_bytes = round_up(max_size(size_bytes, 1), os_page_bytes());
        q->alignment = os_page_bytes();
        return block;
    case 14:
        return names_reallocarray(NULL, size_bytes, 1);
    case 15:
        if (op->how < 16 || size_bytes == 0)
            return names_reallocf(NULL, size_bytes);
        q->keeps_errno = true;
        int status = names_reallocarr(&block, 1, size_bytes);
        REQUIRE(status == (block == NULL ? ENOMEM : 0), NULL);
        return block;
    default:
        return hak_malloc(size_bytes);
    }
}

static void give_back(const struct op *op, struct record *r)
{
    void *block = r->block, *result = NULL;
    size_t size_bytes = r->size_bytes, alignment = r->alignment;
    if (block != NULL) {
        model_check(r);
        model_leave(r);
    }
    effort++;
    struct thread *thread = enter_context(op->context);
    begin_call();
    switch (op->how % 8) {
    case 3:
        hak_free_sized(block, size_bytes);
        break;
    case 4:
        names_free(block);
        break;
    case 5:
        names_free_sized(block, size_bytes);
        break;
    case 6:
        names_free_aligned_sized(block, alignment, size_bytes);
        break;
    case 7:
        if (block != NULL)
            result = op->how < 16 ? hak_realloc(block, 0) : names_realloc(block, 0);
        break;
    default:
        hak_free(block);
        break;
    }
    int call_errno = end_call();
    leave_context(op->context, thread);
    REQUIRE(call_errno == ERRNO_MARK && "free keeps errno", r);
    REQUIRE(result == NULL, r);
    check_lines();
}

static void claim(const struct op *op, struct record *r)
{
    static const struct op plain_free = {.kind = OP_GIVE_BACK};
    struct request q;
    if (r->block != NULL)
        give_back(&plain_free, r);
    if (!may_ask(op, op->size_bytes))
        return;
    unsigned n_hard = pressure.n_hard;
    r->in_call = true;
    struct thread *thread = enter_context(op->context);
    begin_call();
    void *block = ask(op, &q);
    int call_errno = end_call();
    leave_context(op->context, thread);
    r->in_call = false;
    if (q.expected_errno != 0) {
        REQUIRE(block == NULL && call_errno == (q.keeps_errno ? ERRNO_MARK : q.expected_errno), r);
    } else if (block == NULL) {
        REQUIRE(call_errno == (q.keeps_errno ? ERRNO_MARK : ENOMEM), r);
        check_refusal(r, q.size_bytes, q.alignment);
        REQUIRE((op->how % 16 > 3 || pressure.mode == 0 || op->context != CONTEXT_PLAIN || pressure.n_hard > n_hard) &&
                    "who wants to know of pressure is told",
                r);
    } else {
        REQUIRE(call_errno == ERRNO_MARK, r);
        REQUIRE(!is_impossible(q.size_bytes, q.alignment), r);
        model_enter(r, block, q.size_bytes, q.alignment, q.zeroed);
        REQUIRE(r->emergency || r->sampled || q.alignment > 16 || config.secure != 0 ||
                    r->usable_bytes >= hak_good_size(q.size_bytes),
                r);
        REQUIRE(!r->emergency || op->context >= CONTEXT_UNDER_LOCK, r);
        REQUIRE((config.secure == 0 && !r->sampled) || r->emergency || r->usable_bytes == q.size_bytes ||
                    (r->sampled && q.alignment <= 16 && r->usable_bytes == max_size(q.size_bytes, q.alignment)),
                r);
    }
    check_lines();
}

static size_t resized_bytes(const struct op *op, const struct record *r)
{
    switch (op->how % 8) {
    case 4:
        return r->size_bytes + op->value % 8192;
    case 5:
        return r->size_bytes / 2 + op->value % 16;
    case 6:
        return min_size(r->size_bytes * 2 + op->value % 16, SIZE_WANTED_MAX_BYTES);
    case 7:
        return r->usable_bytes + op->value % 2;
    default:
        return op->size_bytes;
    }
}

/* Resizes by one of the functions. *frees: the old block has gone even if the result is NULL; *keeps_errno as above. */
static void *ask_resize(const struct op *op, void *block, size_t size_bytes, bool *frees, bool *keeps_errno)
{
    switch (op->how / 8) {
    case 1:
        return op->value & 1 ? names_realloc(block, size_bytes) : names_reallocarray(block, size_bytes, 1);
    case 2:
        *frees = true;
        return names_reallocf(block, size_bytes);
    case 3: {
        void *moved = block;
        int status = names_reallocarr(&moved, 1, size_bytes);
        *keeps_errno = true;
        REQUIRE(status == 0 || (status == ENOMEM && moved == block), NULL);
        return status == 0 ? moved : NULL;
    }
    default:
        return hak_realloc(block, size_bytes);
    }
}

static void resize(const struct op *op, struct record *r)
{
    struct record was = *r;
    bool frees = false, keeps_errno = false;
    if (r->block == NULL)
        return;
    size_t size_bytes = resized_bytes(op, r);
    if (!may_ask(op, size_bytes))
        return;
    model_check(r);
    r->in_call = true;
    struct thread *thread = enter_context(op->context);
    begin_call();
    void *block = ask_resize(op, r->block, size_bytes, &frees, &keeps_errno);
    int call_errno = end_call();
    leave_context(op->context, thread);
    r->in_call = false;
    if (block != NULL) {
        REQUIRE(call_errno == ERRNO_MARK && size_bytes != 0, r);
        model_leave(r);
        model_check_kept(&was, block, min_size(was.size_bytes, size_bytes));
        model_enter(r, block, size_bytes, natural_alignment(size_bytes), false);
    } else if (size_bytes == 0) {
        REQUIRE(call_errno == ERRNO_MARK, r);
        model_leave(r);
    } else {
        REQUIRE(call_errno == (keeps_errno ? ERRNO_MARK : ENOMEM), r);
        REQUIRE(size_bytes > was.usable_bytes && "shrinking never fails", r);
        check_refusal(r, size_bytes + (frees ? was.usable_bytes : 0), 16);
        if (frees)
            model_leave(r);
        else
            model_check(r);
    }
    check_lines();
}

/* ---- Books --------------------------------------------------------------------------------------------------------- */

/* A span that was returned under the lock waits for the next claim or return of a span, and until then the class map still
 * has it. This claim is none that the budget sees. */
static void put_back_deferred(void)
{
    bool zeroed;
    if (!may_be_deferred)
        return;
    void *block = large_claim(SPAN_SAMPLE_BYTES, 1, LARGE_ANYWHERE, &zeroed);
    REQUIRE(block == NULL || large_return(block), NULL);
    lines.line_bytes = max_size(lines.line_bytes, committed_bytes());
    may_be_deferred = false;
}

static void check_books(void)
{
    struct hak_stats s;
    put_back_deferred();
    const char *wrong = pool_check();
    if (wrong != NULL)
        model_fail(wrong, NULL);
    REQUIRE(hak_stats_get(&s, sizeof s) == 0 && s.struct_size_bytes == sizeof s, NULL);
    REQUIRE(s.live_blocks == model_live_blocks && "live blocks by the statistics", NULL);
    REQUIRE((config.secure != 0 ? s.live_bytes >= model_live_bytes : s.live_bytes == model_live_bytes) &&
                "live bytes by the statistics",
            NULL);
    REQUIRE(s.superslabs == s.superslabs_hot + s.superslabs_draining, NULL);
    REQUIRE(s.slots_unused + s.slots_active + s.slots_empty == s.superslabs * SUPERSLAB_SLABS, NULL);
    REQUIRE(s.committed_bytes <= s.peak_committed_bytes && s.mapped_bytes <= s.reserved_bytes, NULL);
    REQUIRE(s.committed_bytes <= s.mapped_bytes + faults.refused_bytes, NULL);
    REQUIRE(s.threads <= N_THREADS, NULL);
    REQUIRE(s.budget_hard_bytes == lines.hard_bytes && s.budget_soft_bytes == lines.soft_bytes, NULL);
}

/* A shorter, older struct is filled as far as it goes; the text is cut where it must be. */
static void look_at_stats(const struct op *op)
{
    union {
        struct hak_stats s;
        unsigned char bytes[sizeof(struct hak_stats)];
    } out;
    size_t size_bytes = op->value % (sizeof out + 1);
    memset(&out, 0xee, sizeof out);
    errno = ERRNO_MARK;
    int status = hak_stats_get(&out.s, size_bytes);
    REQUIRE(size_bytes < 8 ? status == -1 && errno == EINVAL : status == 0 && errno == ERRNO_MARK, NULL);
    REQUIRE(size_bytes < 8 || (out.s.version == HAK_STATS_VERSION && out.s.struct_size_bytes == size_bytes), NULL);
    for (size_t i = size_bytes < 8 ? 0 : size_bytes; i < sizeof out; i++)
        REQUIRE(out.bytes[i] == 0xee, NULL);

    struct mallinfo2 info = names_mallinfo2();
    REQUIRE(info.uordblks >= model_live_bytes && info.arena == committed_bytes(), NULL);
    if (op->how % 4 != 0 || n_json++ >= N_JSON_MAX)
        return;
    static char text[32 * KIB];
    size_t room_bytes = op->how < 8 ? sizeof text : op->value % 64;
    memset(text, 0x7e, sizeof text);
    size_t len = hak_stats_json(text, room_bytes);
    REQUIRE(len < sizeof text && len > 100, NULL);
    if (len < room_bytes)
        REQUIRE(text[0] == '{' && text[len - 1] == '}' && text[len] == 0, NULL);
    else
        REQUIRE((room_bytes == 0 || text[room_bytes - 1] == 0) && text[room_bytes] == 0x7e, NULL);
    struct hak_resident now;
    REQUIRE(op->how < 28 || hak_resident_get(&now) == 0 || errno == ENOSYS, NULL);
}

/* ---- The other operations ------------------------------------------------------------------------------------------ */

static void trim(const struct op *op)
{
    size_t before_bytes = committed_bytes();
    begin_call();
    if (op->how < 8)
        names_malloc_trim(op->value);
    else
        hak_trim(op->how < 29 ? (int)(op->how % 3) : (int)op->how - 30);
    end_call();
    /* A SuperSlab that the system refused to take back counts as there up to its last page that is. */
    bool refused = faults.fired && (faults.mask & (OS_CALL_PURGE | OS_CALL_DECOMMIT)) != 0;
    REQUIRE((refused || committed_bytes() <= before_bytes) && "trim gives back", NULL);
    effort += 100;
}

/* A tick, or three: so many make the delay. Between ticks nothing goes back by the clock, so time passes all at once. */
static void tick(const struct op *op)
{
    int64_t delay_ms = config.purge_delay_ms;
    for (unsigned i = 0; i < (op->n > 3 ? 3 : op->n); i++) {
        if (op->how & 1)
            config.purge_delay_ms = 0; /* whatever waits has waited for long enough */
        begin_call();
        if ((op->how & 6) != 2)
            sleepers_tick();
        if ((op->how & 6) != 4)
            shared_pool_tick();
        end_call();
        config.purge_delay_ms = delay_ms;
    }
    effort += 100;
}

static void set_budget(const struct op *op)
{
    size_t soft_bytes = 0, hard_bytes = MIB + op->value % 256 * (256 * KIB);
    switch (op->how % 8) {
    case 0:
    case 1:
        hard_bytes = 0;
        break;
    case 2:
        soft_bytes = hard_bytes / 2;
        break;
    case 3:
        soft_bytes = hard_bytes + op->value % 2;
        break;
    case 4:
        hard_bytes = op->value % 3 == 0 ? 1 : MIB - op->value % 2;
        break;
    case 5:
        soft_bytes = op->value;
        hard_bytes = 0;
        break;
    case 6:
        hard_bytes = committed_bytes() + MIB;
        break;
    default:
        break;
    }
    bool off = soft_bytes == 0 && hard_bytes == 0, right = off || (hard_bytes >= MIB && soft_bytes <= hard_bytes);
    begin_call();
    int status = hak_budget_set(soft_bytes, hard_bytes);
    int call_errno = end_call();
    REQUIRE(right ? status == 0 && call_errno == ERRNO_MARK : status == -1 && call_errno == EINVAL, NULL);
    if (right) {
        lines.hard_bytes = hard_bytes;
        lines.soft_bytes = soft_bytes != 0 ? soft_bytes : hard_bytes - hard_bytes / 8;
        lines.line_bytes = max_size(hard_bytes, committed_bytes());
    }
    size_t soft_now, hard_now;
    hak_budget_get(&soft_now, &hard_now);
    hak_budget_get(NULL, NULL);
    REQUIRE(soft_now == lines.soft_bytes && hard_now == lines.hard_bytes, NULL);
    effort += 100;
}

static void set_faults(const struct op *op)
{
    static const unsigned masks[8] = {OS_CALL_ALL,    OS_CALL_RESERVE,
                                      OS_CALL_COMMIT, OS_CALL_PURGE,
                                      OS_CALL_MOVE,   OS_CALL_PURGE | OS_CALL_DECOMMIT | OS_CALL_MOVE,
                                      OS_CALL_LOOK,   OS_CALL_RESERVE | OS_CALL_COMMIT};
    static const unsigned long lengths[4] = {1, 1, 3, ULONG_MAX / 2};
    faults.n = op->how >= 24 ? 0 : lengths[op->stride % 4];
    faults.first = 1 + op->value % 16;
    faults.mask = masks[op->how % 8];
}

static void set_limit(const struct op *op)
{
    static const size_t limits_bytes[4] = {SIZE_MAX, SIZE_MAX, 64 * MIB, 8 * MIB};
    faults.limit_bytes = limits_bytes[op->how % 4];
    os_fail_reservations_above(faults.limit_bytes);
}

static void set_pressure(const struct op *op)
{
    pressure.mode = op->how % 4;
    pressure.slot = op->slot;
    hak_budget_on_pressure(pressure.mode == 0 ? NULL : on_pressure, &pressure);
}

/* Wrong arguments, and what has one answer. */
static void ask_questions(const struct op *op)
{
    static const char *const expected_names[N_PROFILES] = {"conservative", "hot", "off", "full"};
    static const int expected_routes[N_PROFILES] = {HAK_ROUTE_TINY_FIRST, -1, HAK_ROUTE_POOL_ONLY, HAK_ROUTE_TINY_ONLY};
    struct record *r = &model_slots[op->slot];
    int range = (int)(op->value % 12) - 2, route = hak_route_get(range), expected = expected_routes[config.profile];
    REQUIRE(range < 0 || range > 7 ? route == -1 : expected == -1 ? route >= 0 && route <= 2 : route == expected, NULL);
    REQUIRE(strcmp(hak_profile_name(), expected_names[config.profile]) == 0, NULL);
    REQUIRE(hak_version()[0] != 0, NULL);

    size_t good_bytes = hak_good_size(op->size_bytes);
    REQUIRE(good_bytes == names_malloc_good_size(op->size_bytes), NULL);
    REQUIRE(is_impossible(op->size_bytes, 1) ? op->size_bytes >> ADDRESS_BITS == 0 || good_bytes == 0
                                             : good_bytes >= op->size_bytes && hak_good_size(good_bytes) == good_bytes,
            NULL);
    REQUIRE(hak_usable_size(NULL) == 0 && names_malloc_usable_size(NULL) == 0, NULL);
    REQUIRE(names_mallopt((int)op->value, 1) == 1, NULL);

    /* Products that wrap, also to something small or to nothing. */
    size_t count = (size_t)1 << (33 + op->how % 31), each = ((size_t)1 << (31 - op->how % 31)) + op->value % 3;
    size_t wrapped;
    bool wraps = __builtin_mul_overflow(count, each, &wrapped);
    void *block = r->block, *kept = block;
    errno = ERRNO_MARK;
    if (wraps) {
        REQUIRE(hak_calloc(count, each) == NULL && errno == ENOMEM, NULL);
        errno = ERRNO_MARK;
        REQUIRE(names_calloc(each, count) == NULL && errno == ENOMEM, NULL);
        errno = ERRNO_MARK;
        REQUIRE(names_reallocarray(block, count, each) == NULL && errno == ENOMEM, NULL);
        errno = ERRNO_MARK;
        REQUIRE(names_reallocarr(&kept, each, count) == EOVERFLOW && kept == block && errno == ERRNO_MARK, NULL);
    }
    errno = ERRNO_MARK;
    REQUIRE(hak_stats_get(NULL, sizeof(struct hak_stats)) == -1 && errno == EINVAL, NULL);
    errno = ERRNO_MARK;
    REQUIRE(names_malloc_info(1, NULL) == -1 && errno == EINVAL, NULL);
    if (block != NULL)
        model_check(r);
}

static void look(struct record *r)
{
    if (r->block == NULL)
        return;
    model_check(r);
    REQUIRE(names_malloc_size(r->block) == r->usable_bytes, r);
    REQUIRE(names_malloc_usable_size(r->block) == r->usable_bytes, r);
}

static void run_on_slots(const struct op *op)
{
    for (unsigned i = 0; i < op->n && effort <= EFFORT_MAX; i++) {
        struct record *r = &model_slots[(op->slot + i * op->stride) % N_SLOTS];
        if (op->kind == OP_CLAIM)
            claim(op, r);
        else if (op->kind == OP_GIVE_BACK)
            give_back(op, r);
        else if (op->kind == OP_RESIZE)
            resize(op, r);
        else
            look(r);
    }
}

static void run_op(const struct op *op)
{
    switch (op->kind) {
    case OP_TRIM:
        trim(op);
        break;
    case OP_TICK:
        tick(op);
        break;
    case OP_BUDGET:
        set_budget(op);
        break;
    case OP_PRESSURE:
        set_pressure(op);
        break;
    case OP_FAULT:
        set_faults(op);
        break;
    case OP_LIMIT:
        set_limit(op);
        break;
    case OP_STATS:
        check_books();
        look_at_stats(op);
        break;
    case OP_ASK:
        ask_questions(op);
        break;
    default:
        run_on_slots(op);
        break;
    }
}

/* ---- Threads ------------------------------------------------------------------------------------------------------- */

static struct worker {
    pthread_t thread;
    int32_t id;          /* the system's */
    bool alive;          /* written by the interpreter; its own is set while it runs */
    const struct op *op; /* the next one; NULL: exit */
    sem_t go, done;
} workers[N_THREADS];

/* All others sleep. A tick or a relief asks the system whether they do, and a thread that has handed over may still be on
 * its way there. Where the system does not tell, the allocator leaves them alone, too. */
static void settle(unsigned self)
{
    for (unsigned t = 0; t < N_THREADS; t++) {
        uintptr_t stack_pointer;
        for (unsigned i = 0; t != self && workers[t].alive && i < SETTLE_TRIES; i++) {
            if (os_thread_waits(workers[t].id, &stack_pointer))
                break;
            os_yield();
        }
    }
}

static void run_settled(const struct op *op)
{
    if (op->kind == OP_TRIM || op->kind == OP_TICK || op->kind == OP_BUDGET || lines.hard_bytes != 0)
        settle(op->thread);
    run_op(op);
}

static void wait_for(sem_t *semaphore)
{
    while (sem_wait(semaphore) != 0)
        continue; /* a signal of the fuzzer's */
}

static void *help(void *argument)
{
    struct worker *w = argument;
    w->id = os_thread_id();
    sem_post(&w->done);
    for (;;) {
        wait_for(&w->go);
        if (w->op == NULL)
            return NULL;
        run_settled(w->op);
        sem_post(&w->done);
    }
}

static void must(bool done, const char *what)
{
    if (!done) {
        fprintf(stderr, "fuzz: %s failed\n", what);
        abort();
    }
}

static void end_helper(struct worker *w)
{
    if (!w->alive)
        return;
    w->op = NULL;
    sem_post(&w->go);
    must(pthread_join(w->thread, NULL) == 0, "pthread_join");
    w->alive = false;
}

static void run_on_thread(const struct op *op)
{
    struct worker *w = &workers[op->thread];
    if (op->kind == OP_THREAD_END) {
        if (op->thread != 0)
            end_helper(w);
        return;
    }
    if (op->thread == 0) {
        run_settled(op);
        return;
    }
    if (!w->alive) {
        must(pthread_create(&w->thread, NULL, help, w) == 0, "pthread_create");
        wait_for(&w->done);
        w->alive = true;
    }
    w->op = op;
    sem_post(&w->go);
    wait_for(&w->done);
}

/* ---- An input ------------------------------------------------------------------------------------------------------ */

struct input {
    const uint8_t *bytes;
    size_t len_bytes;
};

static void begin(const struct ops_settings *settings)
{
    config.profile = (enum profile)settings->profile;
    config.huge_pages = (enum huge_pages)settings->huge_pages;
    config.purge_delay_ms = settings->purge_delay_ms;
    config.packed_heap_bytes = settings->packed ? 0 : SIZE_MAX;
    config.lru_superslabs = settings->lru_superslabs;
    config.empty_slabs = settings->empty_slabs;
    tiny_route_set(config.profile); /* no thread has a record, no block is out */
    faults.n = 0;
    faults.limit_bytes = SIZE_MAX;
    effort = n_json = 0;
    workers[0].id = os_thread_id();
    workers[0].alive = true;
}

/* The system agrees again, everything is given back: nothing is left. */
static void end(void)
{
    static const struct op plain_free = {.kind = OP_GIVE_BACK};
    faults.n = 0;
    os_fail_reservations_above(SIZE_MAX);
    check_books();
    model_check_all();
    memset(&pressure, 0, sizeof pressure);
    hak_budget_on_pressure(NULL, NULL);
    memset(&lines, 0, sizeof lines);
    REQUIRE(hak_budget_set(0, 0) == 0, NULL);
    for (unsigned i = 0; i < N_SLOTS; i++)
        if (model_slots[i].block != NULL)
            give_back(&plain_free, &model_slots[i]);
    for (unsigned t = 1; t < N_THREADS; t++)
        end_helper(&workers[t]);
    put_back_deferred();
    hak_trim(HAK_TRIM_PAGES);
    check_books();
    struct hak_stats s;
    REQUIRE(hak_stats_get(&s, sizeof s) == 0, NULL);
    REQUIRE(s.live_blocks == 0 && s.spans == 0 && s.runs == 0 && s.threads <= 1, NULL);
    REQUIRE(s.committed_bytes <= faults.refused_bytes && "all memory is given back", NULL);
    faults.refused_bytes = s.committed_bytes;
    REQUIRE(model_held_bytes == 0, NULL);
}

static void *interpret(void *argument)
{
    const struct input *input = argument;
    struct ops_reader reader;
    struct ops_settings settings = ops_begin(&reader, input->bytes, input->len_bytes);
    struct op op;
    begin(&settings);
    for (unsigned i = 1; effort <= EFFORT_MAX && ops_next(&reader, &op); i++) {
        run_on_thread(&op);
        if (i % OPS_PER_CHECK == 0)
            check_books();
    }
    end();
    return NULL;
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc;
    (void)argv;
    thread_start_process();
    config.background = false;
    background_wake(); /* The clock's first tick is over: the next one is half a day away. */
    if (config.arena_bytes == 0)
        arena_set_len_bytes(ARENA_BYTES);
    for (unsigned t = 0; t < N_THREADS; t++)
        must(sem_init(&workers[t].go, 0, 0) == 0 && sem_init(&workers[t].done, 0, 0) == 0, "sem_init");
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t len_bytes)
{
    struct input input = {bytes, len_bytes};
    must(pthread_create(&workers[0].thread, NULL, interpret, &input) == 0, "pthread_create");
    must(pthread_join(workers[0].thread, NULL) == 0, "pthread_join");
    return 0;
}
