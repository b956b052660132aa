/* test_inspect.c - tools/target, snapshot, image, judge and freeze against a child of this process: what they say of a heap that rests is
 * what it says itself, and whatever its records are made to say, nothing crashes.
 * Owns     a child, this program begun anew, whose heap has something of everything and rests; its records are written to from here.
 * Threads  one here; the child has four.
 * Usage    ROUNDS=100000 SEED=7 build/tests/test_inspect     more damage, and other damage, than the test run has time for
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "freeze.h"
#include "image.h"
#include "judge.h"
#include "left_out.h"
#include "progress.h"
#include "snapshot.h"

#include "front/profile.h"
#include "hakmem/hakmem.h"

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { N_BLOCKS = 6000, N_THREADS = 3, N_ROUNDS = 1500, MAX_EDITS = 6, MAX_REGIONS = 64 };

/* ---- The child ----------------------------------------------------------------------------------------------------- */

static struct child {
    pid_t pid;
    int answer;
    struct hak_stats stats; /* as it says them itself, at rest */
} child;

static pthread_barrier_t filled;

static void fill(unsigned seed)
{
    static void *kept[N_THREADS + 1][N_BLOCKS];
    for (unsigned i = 0; i < N_BLOCKS; i++) {
        seed = seed * 1664525 + 1013904223;
        const size_t size_bytes = i % 500 == 0  ? (seed >> 8) % 3000000
                                  : i % 50 == 0 ? (seed >> 8) % 200000
                                                : (seed >> 8) % 700;
        kept[seed % (N_THREADS + 1)][i] = hak_malloc(size_bytes + 1);
        if (i % 3 == 0)
            hak_free(kept[seed % (N_THREADS + 1)][i]);
    }
}

static void *fill_and_rest(void *seed)
{
    fill((unsigned)(uintptr_t)seed);
    pthread_barrier_wait(&filled);
    for (;;)
        pause();
    return NULL;
}

__attribute__((noreturn)) static void live(int answer)
{
    struct hak_stats stats;
    pthread_t thread;
    pthread_barrier_init(&filled, NULL, N_THREADS + 1);
    for (unsigned i = 0; i < N_THREADS; i++)
        if (pthread_create(&thread, NULL, fill_and_rest, (void *)(uintptr_t)(i + 1)) != 0)
            _exit(1);
    fill(99);
    pthread_barrier_wait(&filled);
    hak_stats_get(&stats, sizeof stats);
    if (write(answer, &stats, sizeof stats) != (ssize_t)sizeof stats)
        _exit(1);
    for (;;)
        pause();
}

static void start_child(const char *secure)
{
    int ends[2];
    assert_int_equal(pipe(ends), 0);
    child.pid = fork();
    assert_true(child.pid >= 0);
    if (child.pid == 0) { /* the variables are read when a program begins */
        char number[16];
        prctl(PR_SET_PDEATHSIG, SIGKILL); /* it does not outlive a test that crashes */
        snprintf(number, sizeof number, "%d", ends[1]);
        setenv("HAKMEM_BACKGROUND", "off", 1);
        setenv("HAKMEM_PURGE_DELAY_MS", "100000", 1); /* with none there are no packed spans */
        setenv("HAKMEM_SECURE", secure, 1);
        execl("/proc/self/exe", "test_inspect", number, NULL);
        _exit(1);
    }
    close(ends[1]);
    child.answer = ends[0];
    assert_int_equal(read(ends[0], &child.stats, sizeof child.stats), sizeof child.stats);
}

static int end_child(void **state)
{
    (void)state;
    kill(child.pid, SIGKILL);
    waitpid(child.pid, NULL, 0);
    close(child.answer);
    return 0;
}

static int start_plain(void **state)
{
    (void)state;
    start_child("0");
    return 0;
}

static int start_secure(void **state)
{
    (void)state;
    start_child("1");
    return 0;
}

static int start_profiled(void **state)
{
    (void)state;
    setenv("HAKMEM_PROFILE", "/dev/null", 1);
    setenv("HAKMEM_PROFILE_INTERVAL", "20000", 1);
    start_child("0");
    return 0;
}

static void test_says_what_the_profile_says(void **state)
{
    struct snapshot snapshot;
    char why[TARGET_WHY_BYTES];
    (void)state;
    assert_true(child.stats.rounding_samples > 0 && child.stats.rounding_bytes > 0);
    assert_int_equal(snapshot_take(child.pid, &snapshot, why, sizeof why), 0);
    assert_memory_equal(&snapshot.census.stats, &child.stats, sizeof child.stats);
    snapshot_free(&snapshot);
}

static void open_child(struct target *target)
{
    char why[TARGET_WHY_BYTES] = "";
    if (target_open(child.pid, target, why, sizeof why) != 0)
        fail_msg("%s", why);
}

/* ---- At rest ------------------------------------------------------------------------------------------------------- */

static void test_says_what_the_heap_says(void **state)
{
    struct snapshot snapshot;
    char why[TARGET_WHY_BYTES];
    uint64_t n_used = 0, n_cached = 0, n_held = 0, span_bytes = 0, run_bytes = 0;
    (void)state;
    assert_int_equal(snapshot_take(child.pid, &snapshot, why, sizeof why), 0);
    assert_memory_equal(&snapshot.census.stats, &child.stats, sizeof child.stats);
    assert_int_equal(snapshot.n_torn, 0);
    assert_int_equal(snapshot.pid, child.pid);
    assert_string_equal(snapshot.version, hak_version());
    assert_string_equal(snapshot.profile, "conservative");
    assert_int_equal(snapshot.n_threads, N_THREADS + 1);
    for (size_t i = 0; i < snapshot.n_threads; i++) {
        n_cached += snapshot.threads[i].cached_blocks;
        n_held += snapshot.threads[i].cached_blocks;
        for (unsigned c = CLASS_FIRST; c < CLASS_END; c++)
            n_held -= snapshot.threads[i].cached_by_class[c];
    }
    for (size_t i = 0; i < snapshot.n_superslabs; i++) {
        const struct snapshot_superslab *ss = &snapshot.superslabs[i];
        assert_true(i == 0 || ss->address > ss[-1].address);
        run_bytes += ss->run_bytes;
        for (unsigned slot = 0; ss->state == SUPERSLAB_POOLED && slot < SUPERSLAB_SLABS; slot++) {
            n_used += ss->slot[slot].used;
            span_bytes += ss->slot[slot].span_bytes;
        }
    }
    const struct hak_stats *s = &child.stats;
    assert_int_equal(run_bytes, s->run_bytes);
    assert_int_equal(span_bytes, s->span_bytes);
    assert_int_equal(n_used + s->spans + n_held + s->runs, s->live_blocks + s->cached_blocks);
    assert_true(n_cached > 0 && n_cached <= s->cached_blocks);
    snapshot_free(&snapshot);
}

/* Blocks above 32 KiB that share slots are there, too, and as many as the SuperSlabs say. */
static void test_shows_packed_spans(void **state)
{
    struct snapshot snapshot;
    char why[TARGET_WHY_BYTES];
    uint64_t n_spans = 0, n_packed = 0, n_pages = 0, bytes = 0;
    (void)state;
    assert_int_equal(snapshot_take(child.pid, &snapshot, why, sizeof why), 0);
    for (size_t i = 0; i < snapshot.n_superslabs; i++)
        for (unsigned k = 0; k < SUPERSLAB_SLABS; k++) {
            const struct snapshot_slot *slot = &snapshot.superslabs[i].slot[k];
            n_spans += slot->state == SLAB_SPAN_HEAD;
            n_packed += slot->packed_spans;
            n_pages += count_bits(slot->packed_pages);
            bytes += slot->state == SLAB_PACKED ? slot->span_bytes : 0;
            assert_int_equal(slot->packed_pages & ~slot->dirty_pages, 0);
        }
    assert_true(n_packed > 0 && n_spans > 0);
    assert_int_equal(n_spans + n_packed, child.stats.spans);
    assert_true(bytes >= n_packed * (32768 + PACKED_PAGE_BYTES) && bytes <= n_pages * PACKED_PAGE_BYTES);
    snapshot_free(&snapshot);
}

static void test_is_clean(void **state)
{
    struct target target;
    struct image image;
    struct violations found;
    struct judged judged;
    char why[TARGET_WHY_BYTES];
    (void)state;
    open_child(&target);
    assert_int_equal(image_take(&target, IMAGE_DETAIL, &image, why, sizeof why), 0);
    assert_true(judge(&image, &found, &judged));
    if (found.n != 0)
        fail_msg("%s: %s", rule_names[found.at[0].rule], found.at[0].text);
    assert_int_equal(judged.threads, N_THREADS + 1);
    assert_int_equal(judged.spans, child.stats.spans);
    assert_int_equal(judged.runs, child.stats.runs);
    assert_true(judged.cached_blocks > 0);
    violations_free(&found);
    image_free(&image);
    target_close(&target);
}

static void test_reads_and_writes(void **state)
{
    struct target target;
    uint64_t before, now;
    uint32_t low;
    (void)state;
    open_child(&target);
    const uint64_t address = target_address(target.anchor.profile) + offsetof(struct profile_state, from_ms);
    for (int by_file = 0; by_file < 2; by_file++) {
        target.reads_by_call = !by_file;
        assert_true(target_read(&target, address, &before, sizeof before));
        assert_true(target_write_u64(&target, address, 0x1122334455667788));
        assert_true(target_write_u32(&target, address + 4, 0xaabbccdd));
        assert_true(target_read(&target, address, &now, sizeof now));
        assert_true(now == 0xaabbccdd55667788);
        assert_true(target_read(&target, address, &low, sizeof low));
        assert_int_equal(low, 0x55667788);
        assert_true(target_write_u64(&target, address, before));
        assert_false(target_write_u64(&target, address + 1, 0));
        assert_false(target_read(&target, 0x1000, &now, sizeof now));
        assert_int_equal(errno, EFAULT);
        assert_false(target_read(&target, UINT64_MAX - 3, &now, sizeof now));
        assert_false(target_write_u64(&target, 0x1000, 0));
    }
    assert_true(target_is_alive(&target));
    target_close(&target);
}

/* What a look at the child says by a target that reads in some way. */
static void assert_clean_by(struct target *target)
{
    struct image image;
    struct violations found;
    struct judged judged;
    char why[TARGET_WHY_BYTES] = "";
    if (image_take(target, IMAGE_DETAIL, &image, why, sizeof why) != 0)
        fail_msg("%s", why);
    assert_true(judge(&image, &found, &judged));
    assert_int_equal(found.n, 0);
    assert_int_equal(judged.threads, N_THREADS + 1);
    violations_free(&found);
    image_free(&image);
}

/* Containers may refuse process_vm_readv, and kernels to write by /proc/PID/mem: the one does without the other. */
static void test_does_with_less(void **state)
{
    struct target target;
    uint64_t before, now;
    char path[64];
    (void)state;
    open_child(&target);
    target.reads_by_call = false;
    assert_clean_by(&target);
    snprintf(path, sizeof path, "/proc/%d/mem", (int)child.pid);
    close(target.memory);
    target.memory = open(path, O_RDONLY | O_CLOEXEC);
    const uint64_t address = target_address(target.anchor.profile) + offsetof(struct profile_state, from_ms);
    assert_true(target_read(&target, address, &before, sizeof before));
    assert_true(target_write_u64(&target, address, before + 1));
    assert_true(target_read(&target, address, &now, sizeof now));
    assert_true(now == before + 1);
    assert_true(target_write_u64(&target, address, before));
    close(target.memory);
    target.memory = -1;
    target.reads_by_call = true;
    assert_clean_by(&target);
    target_close(&target);
}

static void test_where_the_call_is_refused(void **state)
{
    struct sock_filter rules[] = {BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
                                  BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_process_vm_readv, 0, 1),
                                  BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
                                  BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)};
    const struct sock_fprog filter = {sizeof rules / sizeof rules[0], rules};
    int status;
    (void)state;
    const pid_t looker = fork();
    if (looker == 0) {
        struct target target;
        struct image image;
        char why[TARGET_WHY_BYTES] = "";
        if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter) != 0)
            _exit(77);
        if (target_open(child.pid, &target, why, sizeof why) != 0 || target.reads_by_call ||
            image_take(&target, IMAGE_DETAIL, &image, why, sizeof why) != 0 || image.n_threads != N_THREADS + 1)
            _exit(1);
        _exit(0);
    }
    assert_int_equal(waitpid(looker, &status, 0), looker);
    assert_true(WIFEXITED(status));
    if (WEXITSTATUS(status) == 77)
        leave_out(); /* no filters here */
    assert_int_equal(WEXITSTATUS(status), 0);
}

static void test_says_why_not(void **state)
{
    struct target target;
    char why[TARGET_WHY_BYTES] = "";
    const pid_t gone = fork();
    (void)state;
    if (gone == 0)
        _exit(0);
    siginfo_t info;
    assert_int_equal(waitid(P_PID, (id_t)gone, &info, WEXITED | WNOWAIT), 0);
    assert_int_equal(target_open(gone, &target, why, sizeof why), -1);
    assert_non_null(strstr(why, "is a zombie"));
    waitpid(gone, NULL, 0);
    assert_int_equal(target_open(gone, &target, why, sizeof why), -1);
    assert_non_null(strstr(why, "there is no process"));
    assert_int_equal(target_open(0, &target, why, sizeof why), -1);
    assert_int_equal(target_open(-1, &target, why, sizeof why), -1);
    assert_int_equal(target_find_by_name("no such name", why, sizeof why), 0);
    assert_non_null(strstr(why, "no process named"));
}

/* ---- Damaged ------------------------------------------------------------------------------------------------------- */

struct region {
    uint64_t address;
    size_t len_bytes;
};

static struct region regions[MAX_REGIONS];
static size_t n_regions;

static void add_region(uint64_t address, size_t len_bytes)
{
    assert_true(n_regions < MAX_REGIONS);
    regions[n_regions++] = (struct region){address & ~(uint64_t)7, len_bytes & ~(size_t)7};
}

/* Everything that is read of a process: where its ELF headers, its anchor and its heap's records lie. */
static void note_regions(struct image *image)
{
    const struct anchor *anchor = &image->target->anchor;
    n_regions = 0;
    add_region(image->target->anchor_address, sizeof *anchor);
    add_region(target_address(anchor->arenas), 8);
    add_region(target_address(anchor->threads), 8);
    add_region(target_address(anchor->classes), CLASS_SET_SLOTS * sizeof(struct class_info));
    add_region(target_address(anchor->counters), sizeof image->counters);
    add_region(target_address(anchor->pool), sizeof image->pool);
    add_region(target_address(anchor->pool_lock), 8);
    add_region(target_address(anchor->budget), sizeof image->budget);
    add_region(target_address(anchor->config), 64);
    add_region(target_address(anchor->page_bytes), 8);
    add_region(target_address(anchor->metapool_bytes), 8);
    for (size_t i = 0; i < image->n_arenas; i++) {
        const struct image_arena *arena = &image->arenas[i];
        add_region(arena->address, sizeof(struct arena));
        add_region(target_address(arena->there.superslabs), arena->high * sizeof(struct superslab));
        add_region(target_address(arena->there.slabs), (size_t)arena->high * SUPERSLAB_SLABS * sizeof(struct slab));
        add_region(target_address(arena->there.class_map), (size_t)arena->high * SUPERSLAB_SLABS);
        add_region(target_address(arena->there.taken), 8);
    }
    for (size_t i = 0; i < image->n_threads; i++) {
        add_region(image->threads[i]->address, sizeof(struct thread));
        add_region(image->threads[i]->address + offsetof(struct thread, door), 256); /* lengths and lists: more often */
        add_region(image->threads[i]->address + THREAD_RECORD_BYTES, 4096);
    }
}

static uint64_t random_state = 88172645463325252u;
static int n_rounds = N_ROUNDS;

static uint64_t any(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state;
}

/* A number that may come to be taken for one that it is not. */
static uint64_t bad_number(uint64_t before)
{
    const struct region *region = &regions[any() % n_regions];
    switch (any() % 9) {
    case 0:
        return any();
    case 1:
        return 0;
    case 2:
        return UINT64_MAX;
    case 3:
        return before + 1;
    case 4:
        return before - 1;
    case 5:
        return before ^ (uint64_t)1 << (any() % 64);
    case 6:
        return before ^ (any() & 0xff) << (any() % 8 * 8);
    case 7:
        return region->address + any() % (region->len_bytes + 1);
    default:
        return (before & 0xffffffff00000000) | (any() & 0xffffffff);
    }
}

struct edit {
    uint64_t address, before;
};

/* All that the tools make of a process, whatever it is like. */
static void look_at_it(void)
{
    char why[TARGET_WHY_BYTES];
    struct target target;
    struct snapshot snapshot;
    struct image image;
    struct violations found;
    struct judged judged;
    struct progress inside;
    bool left;
    if (target_open(child.pid, &target, why, sizeof why) != 0)
        return;
    if (snapshot_read(&target, &snapshot, why, sizeof why) == 0) {
        for (size_t i = 0; i < snapshot.n_superslabs; i++)
            for (unsigned slot = 0; slot < SUPERSLAB_SLABS; slot++) {
                const struct snapshot_slot *one = &snapshot.superslabs[i].slot[slot];
                assert_true(one->class_id < CLASS_END && one->used <= one->n_blocks && one->state <= SLAB_PACKED);
                assert_true(one->span_slabs + slot <= SUPERSLAB_SLABS && one->packed_spans <= PACKED_HEADS &&
                            (one->state == SLAB_PACKED) == (one->packed_pages != 0));
                assert_true(one->span_bytes <= one->span_slabs * SLAB_BYTES + one->packed_spans * SUPERSLAB_BYTES);
            }
        snapshot_free(&snapshot);
    }
    if (image_take(&target, IMAGE_DETAIL, &image, why, sizeof why) == 0) {
        assert_true(judge(&image, &found, &judged));
        violations_free(&found);
        if (progress_note(&image, &inside))
            progress_look(&image, &inside, &left);
        progress_free(&inside);
        image_repair(&image);
        for (size_t i = 0; i < image.n_threads; i++)
            image_refresh_thread(&image, image.threads[i]);
        image_free(&image);
    }
    target_close(&target);
}

/* Damages some records, looks, and undoes it. */
static void play_round(struct target *target)
{
    struct edit edits[MAX_EDITS];
    const size_t n = 1 + any() % MAX_EDITS;
    for (size_t i = 0; i < n; i++) {
        const struct region *region = &regions[any() % n_regions];
        edits[i].address = region->address + any() % (region->len_bytes / 8) * 8;
        assert_true(target_read(target, edits[i].address, &edits[i].before, 8));
        assert_true(target_write_u64(target, edits[i].address, bad_number(edits[i].before)));
    }
    look_at_it();
    for (size_t i = n; i-- > 0;)
        if (!target_write_u64(target, edits[i].address, edits[i].before))
            fail_msg("%#" PRIx64 " cannot be written to again: %s", edits[i].address, strerror(errno));
}

static void test_damage_crashes_nothing(void **state)
{
    struct target target;
    struct image image;
    char why[TARGET_WHY_BYTES];
    open_child(&target);
    assert_int_equal(image_take(&target, IMAGE_DETAIL, &image, why, sizeof why), 0);
    note_regions(&image);
    image_free(&image);
    for (int i = 0; i < n_rounds; i++)
        play_round(&target);
    target_close(&target);
    test_is_clean(state); /* and so each round was one of its own */
}

/* The ELF headers and the notes are believed as little. */
static void test_damaged_headers_crash_nothing(void **state)
{
    struct target target;
    Elf64_Ehdr header;
    uint64_t start = 0;
    char path[64];
    (void)state;
    open_child(&target);
    snprintf(path, sizeof path, "/proc/%d/maps", (int)child.pid);
    FILE *maps = fopen(path, "re");
    assert_non_null(maps);
    char line[512];
    while (start == 0 && fgets(line, sizeof line, maps) != NULL)
        if (strstr(line, "/test_inspect") != NULL) /* its first mapping is of its beginning */
            sscanf(line, "%" SCNx64, &start);
    fclose(maps);
    assert_true(target_read(&target, start, &header, sizeof header));
    assert_memory_equal(header.e_ident, ELFMAG, SELFMAG);
    n_regions = 0;
    add_region(start, sizeof header);
    add_region(start + header.e_phoff, header.e_phnum * sizeof(Elf64_Phdr));
    add_region(start + header.e_phoff + header.e_phnum * sizeof(Elf64_Phdr), 512); /* notes are next */
    for (int i = 0; i < n_rounds / 3; i++)
        play_round(&target);
    target_close(&target);
    test_is_clean(state);
}

/* ---- Stopped ------------------------------------------------------------------------------------------------------- */

static char state_of_child(void)
{
    char path[64], line[256], state = '\0';
    snprintf(path, sizeof path, "/proc/%d/status", (int)child.pid);
    FILE *status = fopen(path, "re");
    while (status != NULL && fgets(line, sizeof line, status) != NULL)
        if (sscanf(line, "State: %c", &state) == 1)
            break;
    if (status != NULL)
        fclose(status);
    return state;
}

/* It goes on within ten seconds. */
static void assert_goes_on(void)
{
    const struct timespec moment = {0, 10000000};
    for (int i = 0; i < 1000 && state_of_child() == 'T'; i++)
        nanosleep(&moment, NULL);
    assert_int_not_equal(state_of_child(), 'T');
}

/* Whoever has stopped it ends by a signal, or by its own will. */
static void stop_and_end_by(int number)
{
    const pid_t stopper = fork();
    if (stopper == 0) {
        char why[TARGET_WHY_BYTES];
        if (number != 0 && number != SIGKILL)
            signal(number, SIG_DFL); /* what runs the tests may ignore it */
        if (freeze_begin(child.pid, why, sizeof why) != 0 || freeze_stop(why, sizeof why) != 0 ||
            state_of_child() != 'T')
            _exit(1);
        if (number != 0)
            raise(number);
        freeze_end();
        _exit(0);
    }
    int status;
    assert_int_equal(waitpid(stopper, &status, 0), stopper);
    if (number == 0)
        assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    else
        assert_true(WIFSIGNALED(status) && WTERMSIG(status) == number);
    assert_goes_on();
}

static void test_goes_on(void **state)
{
    (void)state;
    stop_and_end_by(0);
    stop_and_end_by(SIGINT);
    stop_and_end_by(SIGTERM);
    stop_and_end_by(SIGKILL);
}

/* nohup, for one, has a signal ignored: then it ends nothing. Afterwards the handlers are those of before, and the next command's turn
 * has come. */
static void test_leaves_nothing_behind(void **state)
{
    char why[TARGET_WHY_BYTES];
    int status;
    (void)state;
    const pid_t stopper = fork();
    if (stopper == 0) {
        struct sigaction now;
        signal(SIGHUP, SIG_IGN);
        signal(SIGTERM, SIG_DFL);
        alarm(20); /* the turn of who comes second is waited for longer */
        signal(SIGALRM, SIG_DFL);
        if (freeze_begin(child.pid, why, sizeof why) != 0 || freeze_stop(why, sizeof why) != 0)
            _exit(1);
        raise(SIGHUP);
        if (state_of_child() != 'T')
            _exit(2);
        freeze_end();
        if (sigaction(SIGTERM, NULL, &now) != 0 || now.sa_handler != SIG_DFL)
            _exit(3);
        if (freeze_begin(child.pid, why, sizeof why) != 0)
            _exit(4);
        freeze_end();
        _exit(0);
    }
    assert_int_equal(waitpid(stopper, &status, 0), stopper);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
    assert_goes_on();
}

static void test_stays_stopped(void **state)
{
    char why[TARGET_WHY_BYTES];
    int status;
    (void)state;
    assert_int_equal(kill(child.pid, SIGSTOP), 0);
    assert_int_equal(waitpid(child.pid, &status, WUNTRACED), child.pid);
    assert_int_equal(freeze_begin(child.pid, why, sizeof why), 0);
    assert_int_equal(freeze_stop(why, sizeof why), 0);
    freeze_end();
    assert_int_equal(state_of_child(), 'T');
    assert_int_equal(kill(child.pid, SIGCONT), 0);
    assert_goes_on();
}

int main(int argc, char **argv)
{
    if (argc == 2)
        live(atoi(argv[1]));
    if (getenv("ROUNDS") != NULL)
        n_rounds = atoi(getenv("ROUNDS"));
    if (getenv("SEED") != NULL)
        random_state ^= strtoull(getenv("SEED"), NULL, 0) << 32;
    const struct CMUnitTest of_default[] = {cmocka_unit_test(test_says_what_the_heap_says),
                                            cmocka_unit_test(test_shows_packed_spans),
                                            cmocka_unit_test(test_is_clean),
                                            cmocka_unit_test(test_reads_and_writes),
                                            cmocka_unit_test(test_does_with_less),
                                            cmocka_unit_test(test_where_the_call_is_refused),
                                            cmocka_unit_test(test_says_why_not),
                                            cmocka_unit_test(test_damage_crashes_nothing),
                                            cmocka_unit_test(test_damaged_headers_crash_nothing),
                                            cmocka_unit_test(test_goes_on),
                                            cmocka_unit_test(test_leaves_nothing_behind),
                                            cmocka_unit_test(test_stays_stopped)};
    const struct CMUnitTest of_secure[] = {cmocka_unit_test(test_says_what_the_heap_says),
                                           cmocka_unit_test(test_is_clean),
                                           cmocka_unit_test(test_damage_crashes_nothing)};
    const struct CMUnitTest of_profiled[] = {cmocka_unit_test(test_says_what_the_profile_says),
                                             cmocka_unit_test(test_is_clean)};
    return status_with_left_out(cmocka_run_group_tests_name("default", of_default, start_plain, end_child) +
                                cmocka_run_group_tests_name("HAKMEM_SECURE=1", of_secure, start_secure, end_child) +
                                cmocka_run_group_tests_name("HAKMEM_PROFILE", of_profiled, start_profiled, end_child));
}
