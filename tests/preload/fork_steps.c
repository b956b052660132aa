/* fork_steps.c - a debugger's trap after each instruction of the library, and in its handler a fork: while a thread gets its record, lets
 * it go, empties those of others, and on slow paths. Each child goes on with what the handler interrupted, and then uses the heap with
 * several threads: no block has two owners, none has changed, and nobody hangs.
 * x86-64: elsewhere it does the same without traps, and says so.
 * ctest: timeout 600
 */
#include "check.h"

#include <link.h>
#include <malloc.h>
#include <pthread.h>
#include <semaphore.h>
#include <ucontext.h>

#define N_CHILDREN 700 /* about, of each scenario */
#define CHILD_LIMIT_S 20
#define N_OTHERS 3
#define N_KEPT 60

enum { CHILD_GOOD = 0, CHILD_DAMAGED = 4, CHILD_WITHOUT_MEMORY = 5 };

static struct {
    const char *scenario;
    bool counts; /* the first run counts the steps only */
    unsigned n_steps, stride, n_children, n_bad;
} now;

static volatile sig_atomic_t is_child;
static uintptr_t base, text_from, text_to;

/* ---- What a child does in the end -------------------------------------------------------------------------------- */

struct kept {
    void *block;
    size_t size_bytes;
};

/* Blocks of many sizes, all distinct. */
static int fill(struct kept *kept, unsigned n, uint64_t seed)
{
    uint64_t state = seed;
    for (unsigned i = 0; i < n; i++) {
        kept[i].size_bytes = check_random_size(&state, i % 12 == 0 ? 18 : 11);
        kept[i].block = malloc(kept[i].size_bytes);
        if (kept[i].block == NULL)
            return CHILD_WITHOUT_MEMORY;
        check_fill(kept[i].block, kept[i].size_bytes, seed + i);
    }
    return CHILD_GOOD;
}

static int empty(struct kept *kept, unsigned n, uint64_t seed)
{
    int result = CHILD_GOOD;
    for (unsigned i = 0; i < n; i++) {
        if (!check_filled(kept[i].block, kept[i].size_bytes, seed + i))
            result = CHILD_DAMAGED;
        free(kept[i].block);
    }
    return result;
}

static pthread_barrier_t together;

static void *allocate_beside_others(void *seed)
{
    struct kept kept[N_KEPT];
    int result = CHILD_GOOD;
    for (unsigned round = 0; round < 3 && result == CHILD_GOOD; round++) {
        result = fill(kept, N_KEPT, (uintptr_t)seed);
        pthread_barrier_wait(&together); /* now all hold theirs */
        if (result == CHILD_GOOD)
            result = empty(kept, N_KEPT, (uintptr_t)seed);
        pthread_barrier_wait(&together);
    }
    return (void *)(intptr_t)result;
}

static int use_heap(void)
{
    pthread_t threads[N_OTHERS];
    int result = CHILD_GOOD;
    pthread_barrier_init(&together, NULL, N_OTHERS);
    for (uintptr_t i = 0; i < N_OTHERS; i++)
        if (pthread_create(&threads[i], NULL, allocate_beside_others, (void *)(1000 * (i + 1))) != 0)
            return CHILD_WITHOUT_MEMORY;
    for (unsigned i = 0; i < N_OTHERS; i++) {
        void *of_thread = NULL;
        pthread_join(threads[i], &of_thread);
        result |= (int)(intptr_t)of_thread;
    }
    return result;
}

static void end_child(struct kept *kept, unsigned n, uint64_t seed)
{
    int result = empty(kept, n, seed);
    for (unsigned round = 0; round < 2 && result == CHILD_GOOD; round++) {
        result = use_heap();
        malloc_trim(0);
    }
    _exit(result);
}

/* ---- Steps ------------------------------------------------------------------------------------------------------- */

static int find_text(struct dl_phdr_info *info, size_t size, void *address)
{
    (void)size;
    for (unsigned i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *segment = &info->dlpi_phdr[i];
        uintptr_t from = info->dlpi_addr + segment->p_vaddr;
        if (segment->p_type != PT_LOAD || (segment->p_flags & PF_X) == 0 ||
            (uintptr_t)address - from >= segment->p_memsz)
            continue;
        base = info->dlpi_addr;
        text_from = from;
        text_to = from + segment->p_memsz;
        return 1;
    }
    return 0;
}

#if defined(__x86_64__)
#define TRAP_FLAG 0x100

static void on_trap(int signal_number, siginfo_t *info, void *context)
{
    greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;
    uintptr_t pc = (uintptr_t)registers[REG_RIP];
    int saved_errno = errno, status = 0;
    (void)signal_number;
    (void)info;
    if (is_child || pc < text_from || pc >= text_to || now.n_steps++ % now.stride != 0 || now.counts)
        return;
    pid_t pid = fork();
    if (pid == 0) {
        is_child = 1;
        signal(SIGALRM, SIG_DFL);
        alarm(CHILD_LIMIT_S);
        registers[REG_EFL] &= ~TRAP_FLAG;
    } else {
        now.n_children++;
        if (pid < 0 || waitpid(pid, &status, 0) != pid || status != 0) {
            if (++now.n_bad <= 5)
                check_say("%s: fork at %#lx: child %d ended with status %#x%s", now.scenario,
                          (unsigned long)(pc - base), (int)pid, (unsigned)status,
                          WIFSIGNALED(status) && WTERMSIG(status) == SIGALRM ? ": it hung" : "");
        }
    }
    errno = saved_errno;
}

static void begin_steps(void)
{
    __asm__ volatile("pushfq; orq $0x100, (%%rsp); popfq" ::: "memory", "cc");
}

static void end_steps(void)
{
    __asm__ volatile("pushfq; andq $~0x100, (%%rsp); popfq" ::: "memory", "cc");
}

static void watch_traps(void)
{
    struct sigaction action;
    memset(&action, 0, sizeof action);
    action.sa_sigaction = on_trap;
    action.sa_flags = SA_SIGINFO | SA_RESTART;
    sigfillset(&action.sa_mask);
    REQUIRE(sigaction(SIGTRAP, &action, NULL) == 0);
}
#else
static void begin_steps(void) {}

static void end_steps(void) {}

static void watch_traps(void)
{
    check_leave_out("no traps here: nothing forks");
}
#endif

/* ---- Scenarios --------------------------------------------------------------------------------------------------- */

static void run(void *(*function)(void *))
{
    pthread_t thread;
    REQUIRE(pthread_create(&thread, NULL, function, NULL) == 0);
    pthread_join(thread, NULL);
}

/* The first blocks of a thread. */
static void *be_born(void *unused)
{
    struct kept kept[2];
    begin_steps();
    for (unsigned i = 0; i < CHECK_COUNT(kept); i++) {
        kept[i].size_bytes = 100 + 200 * i;
        kept[i].block = malloc(kept[i].size_bytes);
    }
    end_steps();
    for (unsigned i = 0; i < CHECK_COUNT(kept); i++)
        check_fill(kept[i].block, kept[i].size_bytes, 7 + i);
    if (is_child)
        end_child(kept, CHECK_COUNT(kept), 7);
    empty(kept, CHECK_COUNT(kept), 7);
    return unused;
}

static pthread_key_t after_hakmem; /* its destructor comes after the library's */
static struct kept of_thread[40];

static void have_died(void *unused)
{
    (void)unused;
    end_steps();
    if (is_child)
        end_child(of_thread, CHECK_COUNT(of_thread), 9);
}

static void *die(void *unused)
{
    struct kept freed[40];
    pthread_setspecific(after_hakmem, &after_hakmem);
    fill(of_thread, CHECK_COUNT(of_thread), 9);
    fill(freed, CHECK_COUNT(freed), 11);
    empty(freed, CHECK_COUNT(freed), 11);
    begin_steps();
    return unused;
}

static void live_and_die(void)
{
    run(die);
    CHECK(empty(of_thread, CHECK_COUNT(of_thread), 9) == CHILD_GOOD);
}

static sem_t is_asleep, may_go;

static void *sleep_with_cache(void *unused)
{
    struct kept freed[40];
    fill(freed, CHECK_COUNT(freed), 11);
    empty(freed, CHECK_COUNT(freed), 11);
    sem_post(&is_asleep);
    while (sem_wait(&may_go) != 0)
        ;
    return unused;
}

static void *come_and_go(void *unused)
{
    struct kept freed[40];
    fill(freed, CHECK_COUNT(freed), 13);
    empty(freed, CHECK_COUNT(freed), 13);
    return unused;
}

/* Records of a thread that sleeps and of one that is gone. */
static void trim(void)
{
    struct kept kept[40];
    pthread_t sleeper;
    REQUIRE(sem_init(&is_asleep, 0, 0) == 0 && sem_init(&may_go, 0, 0) == 0);
    REQUIRE(pthread_create(&sleeper, NULL, sleep_with_cache, NULL) == 0);
    while (sem_wait(&is_asleep) != 0)
        ;
    usleep(20000); /* so that it does sleep */
    run(come_and_go);
    fill(kept, CHECK_COUNT(kept), 15);
    begin_steps();
    malloc_trim(0);
    end_steps();
    if (is_child)
        end_child(kept, CHECK_COUNT(kept), 15);
    CHECK(empty(kept, CHECK_COUNT(kept), 15) == CHILD_GOOD);
    sem_post(&may_go);
    pthread_join(sleeper, NULL);
}

/* Claims and returns of many blocks of a class, which go through slow paths, and of large ones. */
static void churn(void)
{
    static struct kept kept[240];
    malloc_trim(0);
    begin_steps();
    for (unsigned i = 0; i < CHECK_COUNT(kept); i++) {
        kept[i].size_bytes = i % 40 == 0 ? 50000 + 3000 * (size_t)i : 1500;
        kept[i].block = malloc(kept[i].size_bytes);
    }
    for (unsigned i = 0; i < CHECK_COUNT(kept); i += 80) { /* shorter: a copy traps after each byte */
        kept[i].size_bytes /= 2;
        kept[i].block = realloc(kept[i].block, kept[i].size_bytes);
    }
    for (unsigned i = CHECK_COUNT(kept) / 2; i < CHECK_COUNT(kept); i++) {
        free(kept[i].block);
        kept[i].block = NULL;
    }
    end_steps();
    for (unsigned i = 0; i < CHECK_COUNT(kept) / 2; i++)
        check_fill(kept[i].block, kept[i].size_bytes, 17 + i);
    if (is_child)
        end_child(kept, CHECK_COUNT(kept) / 2, 17);
    CHECK(empty(kept, CHECK_COUNT(kept) / 2, 17) == CHILD_GOOD);
}

static void live(void)
{
    run(be_born);
}

/* Twice: first to count the steps, so that children are spread over all of them. */
static void step_through(const char *scenario, void (*function)(void))
{
    now.scenario = scenario;
    now.n_children = now.n_bad = now.n_steps = 0;
    now.stride = 1;
    now.counts = true;
    function();
    now.stride = now.n_steps / N_CHILDREN | 1;
    now.n_steps = 0;
    now.counts = false;
    function();
    check_say("%s: %u instructions, %u children", scenario, now.n_steps, now.n_children);
    CHECK_THAT(now.n_bad == 0, "%s: %u of %u children ended badly", scenario, now.n_bad, now.n_children);
#if defined(__x86_64__)
    CHECK(now.n_children > N_CHILDREN / 10);
#endif
}

int main(void)
{
    check_on_hakmem();
    free(malloc(1));
    /* Destructors come in the order of keys, and the library's is among the first 32. */
    for (unsigned i = 0; i < 64; i++)
        REQUIRE(pthread_key_create(&after_hakmem, i == 63 ? have_died : NULL) == 0);
    REQUIRE(dl_iterate_phdr(find_text, check_symbol("malloc")) == 1);
    watch_traps();
    step_through("birth", live);
    step_through("death", live_and_die);
    step_through("trim", trim);
    step_through("churn", churn);
    CHECK(use_heap() == CHILD_GOOD);
    return check_status();
}
