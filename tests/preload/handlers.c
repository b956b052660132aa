/* handlers.c - signal handlers that allocate in the midst of malloc and free, one instruction after the other; and that
 * installing a handler does what it does without hakmem: earlier handlers are told as they were given, flags and masks stay,
 * whatever may be installed works.
 * The processor steps through malloc, free, calloc and realloc (x86's trap flag), and at every instruction a SIGTRAP handler
 * takes a block, gives one back, or both. No block is handed out twice, none is damaged.
 */
#include "check.h"

#include <pthread.h>
#if defined(__x86_64__)
#include "step.h"

#include <asm/prctl.h>
#endif
#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>

/* ---- Installing -------------------------------------------------------------------------------------------------- */

static volatile int n_first, n_second, n_info;
static volatile int seen_number;
static volatile bool seen_info;

static void first(int number)
{
    seen_number = number;
    n_first++;
}

static void second(int number)
{
    seen_number = number;
    n_second++;
}

static void with_info(int number, siginfo_t *info, void *context)
{
    seen_number = number;
    seen_info = info != NULL && info->si_signo == number && info->si_pid == getpid() && context != NULL;
    n_info++;
}

static void check_installing(void)
{
    struct sigaction before, action = {.sa_handler = first, .sa_flags = SA_RESTART | SA_NODEFER};
    sigaddset(&action.sa_mask, SIGUSR2);
    CHECK_THAT(signal(SIGUSR1, SIG_IGN) == SIG_DFL, "SIGUSR1 was not SIG_DFL");
    CHECK_THAT(sigaction(SIGUSR1, &action, &before) == 0 && before.sa_handler == SIG_IGN, "SIG_IGN was not told");
    CHECK_THAT(sigaction(SIGUSR1, NULL, &before) == 0 && before.sa_handler == first, "the handler was not told");
    CHECK_THAT((before.sa_flags & (SA_RESTART | SA_NODEFER | SA_SIGINFO)) == (SA_RESTART | SA_NODEFER), "flags are %#x",
               (unsigned)before.sa_flags);
    CHECK_THAT(sigismember(&before.sa_mask, SIGUSR2) == 1 && sigismember(&before.sa_mask, SIGHUP) == 0, "another mask");
    raise(SIGUSR1);
    CHECK_THAT(n_first == 1 && seen_number == SIGUSR1, "the handler ran %d times", n_first);

    CHECK_THAT(signal(SIGUSR1, second) == first, "signal() did not tell the handler before");
    raise(SIGUSR1);
    CHECK_THAT(n_second == 1 && n_first == 1, "the second handler ran %d times", n_second);
    CHECK_THAT(sigaction(SIGUSR1, NULL, &before) == 0 && before.sa_handler == second &&
                   (before.sa_flags & SA_RESTART) != 0,
               "signal() installs something else");

    struct sigaction info = {.sa_sigaction = with_info, .sa_flags = SA_SIGINFO | SA_RESETHAND};
    CHECK_THAT(sigaction(SIGUSR1, &info, &before) == 0 && before.sa_handler == second, "second was not told");
    raise(SIGUSR1);
    CHECK_THAT(n_info == 1 && seen_info, "the handler was not told about the signal");
    CHECK_THAT(sigaction(SIGUSR1, NULL, &before) == 0 && before.sa_handler == SIG_DFL, "SA_RESETHAND does not reset");

    extern void (*__sysv_signal(int, void (*)(int)))(int);
    CHECK_THAT(__sysv_signal(SIGUSR1, first) == SIG_DFL, "System V's signal() tells another handler");
    CHECK_THAT(sigaction(SIGUSR1, NULL, &before) == 0 && before.sa_handler == first &&
                   ((unsigned)before.sa_flags & (SA_RESTART | SA_RESETHAND | SA_NODEFER)) ==
                       (SA_RESETHAND | SA_NODEFER),
               "System V's signal() installs something else");
    raise(SIGUSR1);
    CHECK_THAT(n_first == 2 && signal(SIGUSR1, SIG_DFL) == SIG_DFL, "System V's handler stays");
    errno = 0;
    CHECK_THAT(__sysv_signal(SIGUSR1, SIG_ERR) == SIG_ERR && errno == EINVAL, "SIG_ERR was installed");

    errno = 0;
    CHECK_THAT(sigaction(SIGKILL, &action, NULL) == -1 && errno == EINVAL, "SIGKILL got a handler");
    errno = 0;
    CHECK_THAT(signal(12345, first) == SIG_ERR && errno == EINVAL, "signal 12345 got a handler");
    CHECK_THAT(sigaction(12345, NULL, &before) == -1, "signal 12345 has a handler");

    /* The child of a vfork shares the memory, not the handlers. */
    REQUIRE(signal(SIGUSR1, first) == SIG_DFL);
    pid_t child = vfork();
    if (child == 0) {
        signal(SIGUSR1, SIG_DFL);
        signal(SIGUSR1, second);
        _exit(0);
    }
    REQUIRE(child > 0 && waitpid(child, NULL, 0) == child);
    n_first = n_second = 0;
    raise(SIGUSR1);
    CHECK_THAT(n_first == 1 && n_second == 0, "a child of vfork has changed the parent's handler");
    signal(SIGUSR1, SIG_DFL);
}

/* The kernel's struct sigaction, of which glibc's is another form. What the kernel calls is no handler of the program's. */
struct in_kernel {
    void (*called)(int);
    unsigned long flags;
    void (*restorer)(void);
    uint64_t mask;
};

static struct in_kernel asked_of_kernel(int number)
{
    struct in_kernel action = {.called = NULL};
    CHECK_THAT(syscall(SYS_rt_sigaction, number, NULL, &action, sizeof action.mask) == 0, "the kernel does not tell");
    return action;
}

static void check_kernel_s_view(void)
{
    struct sigaction before, action = {.sa_handler = first};
    extern void (*bsd_signal(int, void (*)(int)))(int);
    REQUIRE(sigaction(SIGUSR2, &action, NULL) == 0);
    void (*called)(int) = asked_of_kernel(SIGUSR2).called;
    CHECK_THAT(called != first, "the kernel calls the handler itself");
    for (unsigned i = 0; i < 200; i++) { /* more often than there are trampolines */
        REQUIRE(sigaction(SIGUSR2, &action, &before) == 0 && signal(SIGUSR2, first) == first);
        CHECK_THAT(before.sa_handler == first, "another handler was told");
    }
    CHECK_THAT(asked_of_kernel(SIGUSR2).called == called, "the same handler has come by another way");
    action.sa_handler = called; /* by who has asked the kernel, and puts it back */
    n_first = 0;
    REQUIRE(sigaction(SIGUSR2, &action, NULL) == 0 && sigaction(SIGUSR2, NULL, &before) == 0);
    CHECK_THAT(before.sa_handler == first && asked_of_kernel(SIGUSR2).called == called,
               "it is taken for another handler");
    raise(SIGUSR2);
    CHECK_THAT(n_first == 1, "the handler ran %d times", n_first);
    CHECK_THAT(bsd_signal(SIGUSR2, second) == first && asked_of_kernel(SIGUSR2).called != second,
               "BSD's signal() is another");
    n_second = 0;
    raise(SIGUSR2);
    CHECK_THAT(n_second == 1 && bsd_signal(SIGUSR2, SIG_IGN) == second && signal(SIGUSR2, SIG_DFL) == SIG_IGN,
               "BSD's signal() tells another");
    errno = 0;
    extern void (*__sysv_signal(int, void (*)(int)))(int);
    CHECK_THAT(__sysv_signal(12345, first) == SIG_ERR && errno == EINVAL,
               "signal 12345 got a handler by System V's signal()");
    errno = 0;
    CHECK_THAT(signal(SIGUSR2, SIG_ERR) == SIG_ERR && errno == EINVAL && bsd_signal(SIGUSR2, SIG_ERR) == SIG_ERR,
               "SIG_ERR was installed");
}

/* More different handlers than there are trampolines: all work. */
static volatile int n_by_number[100];
#define HANDLER(i)                                                                                                     \
    static void handler_##i(int number)                                                                                \
    {                                                                                                                  \
        n_by_number[i] += number == SIGUSR1;                                                                           \
    }
#define TEN(do, tens)                                                                                                  \
    do                                                                                                                 \
    (tens##0) do(tens##1) do(tens##2) do(tens##3) do(tens##4) do(tens##5) do(tens##6) do(tens##7) do(tens##8) do(      \
        tens##9)
#define NINETY(do) TEN(do, 1) TEN(do, 2) TEN(do, 3) TEN(do, 4) TEN(do, 5) TEN(do, 6) TEN(do, 7) TEN(do, 8) TEN(do, 9)
NINETY(HANDLER)
#define ENTRY(i) {i, handler_##i},
static const struct {
    int number;
    void (*handler)(int);
} many[] = {NINETY(ENTRY)};

static void check_many(void)
{
    void (*last)(int) = SIG_DFL;
    for (unsigned round = 0; round < 2; round++)
        for (unsigned i = 0; i < sizeof many / sizeof many[0]; i++) {
            CHECK_THAT(signal(SIGUSR1, many[i].handler) == last, "handler %d was not told", many[i].number - 1);
            raise(SIGUSR1);
            CHECK_THAT(n_by_number[many[i].number] == (int)round + 1, "handler %d did not run", many[i].number);
            last = many[i].handler;
        }
    signal(SIGUSR1, SIG_DFL);
}

/* ---- In the midst of malloc and free ----------------------------------------------------------------------------- */

#if defined(__x86_64__)

/* A program that lends the thread's register to other code (Wine does, emulators of DOS do), and whose handlers put it right before they do
 * anything else. Nothing lies where thread-local variables would be meanwhile. */
static unsigned long own_register, other_register;
static volatile int n_lent;

static inline long bare_call(long number, long a, long b)
{
    long result;
    __asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b) : "rcx", "r11", "memory");
    return result;
}

__attribute__((no_stack_protector)) static void put_right(int number)
{
    (void)number;
    bare_call(SYS_arch_prctl, ARCH_SET_FS, (long)own_register);
    free(malloc(100));
    n_lent++;
    bare_call(SYS_arch_prctl, ARCH_SET_FS, (long)other_register);
}

__attribute__((no_stack_protector)) static void check_lent_register(void)
{
    char *pages = mmap(NULL, 8192, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    REQUIRE(pages != MAP_FAILED && mprotect(pages + 4096, 4096, PROT_READ | PROT_WRITE) == 0);
    REQUIRE(bare_call(SYS_arch_prctl, ARCH_GET_FS, (long)&own_register) == 0);
    other_register = (unsigned long)pages + 4096;
    REQUIRE(signal(SIGUSR1, put_right) == SIG_DFL);
    pid_t self = getpid();
    bare_call(SYS_arch_prctl, ARCH_SET_FS, (long)other_register);
    for (int i = 0; i < 3; i++)
        bare_call(SYS_kill, self, SIGUSR1);
    bare_call(SYS_arch_prctl, ARCH_SET_FS, (long)own_register);
    CHECK_THAT(n_lent == 3, "%d of 3 signals were handled", n_lent);
    signal(SIGUSR1, SIG_DFL);
    munmap(pages, 8192);
}

#define MAX_HELD 4096
#define SIZE 48

struct held {
    unsigned char *block;
    unsigned char pattern;
};

static struct held by_handler[MAX_HELD];
static volatile unsigned n_by_handler, n_traps, mode, n_bad;
static sigjmp_buf out;
static volatile int leave_after; /* traps; 0: never */

static bool is_whole(const struct held *held)
{
    for (unsigned i = 0; i < SIZE; i++)
        if (held->block[i] != held->pattern)
            return false;
    return true;
}

static void take(struct held *held)
{
    held->block = malloc(SIZE);
    REQUIRE(held->block != NULL);
    held->pattern = (unsigned char)(n_traps % 251 + 1);
    memset(held->block, held->pattern, SIZE);
}

static void give(struct held *held)
{
    n_bad += !is_whole(held);
    memset(held->block, 0, SIZE);
    free(held->block);
}

static void on_trap(int number)
{
    (void)number;
    int saved_errno = errno;
    n_traps++;
    unsigned what = mode == 3 ? n_traps * 7 / 3 % 3 : mode;
    if (what == 0 && n_by_handler < MAX_HELD)
        take(&by_handler[n_by_handler++]);
    else if (what == 1 && n_by_handler > 0)
        give(&by_handler[--n_by_handler]);
    else if (what == 2) {
        struct held held;
        take(&held);
        give(&held);
    }
    errno = saved_errno;
    if (leave_after != 0 && --leave_after == 0)
        siglongjmp(out, 1);
}

/* The program's own calls, each stepped through. */
static void step_through(struct held *held, unsigned round)
{
    void *block = NULL;
    step_on();
    if (round % 2 == 0)
        block = malloc(SIZE);
    else
        block = calloc(3, SIZE / 3);
    step_off();
    REQUIRE(block != NULL);
    held->block = block;
    if (round % 2 != 0) {
        held->pattern = 0;
        n_bad += !is_whole(held);
    }
    held->pattern = (unsigned char)(round % 251 + 1);
    memset(block, held->pattern, SIZE);
    if (round % 3 == 0) {
        step_on();
        block = realloc(held->block, 4 * SIZE);
        step_off();
        REQUIRE(block != NULL);
        held->block = block;
    }
}

static void step_free(struct held *held)
{
    n_bad += !is_whole(held);
    memset(held->block, 0, SIZE);
    step_on();
    free(held->block);
    step_off();
}

static void give_all(void)
{
    while (n_by_handler > 0)
        give(&by_handler[--n_by_handler]);
}

static void check_stepping(void)
{
    enum { N_HELD = 8, N_ROUNDS = 120 };
    struct held held[N_HELD] = {{0}};
    struct sigaction action = {.sa_handler = on_trap};
    REQUIRE(sigaction(SIGTRAP, &action, NULL) == 0);
    for (mode = 0; mode < 4; mode++) {
        for (unsigned round = 0; round < N_ROUNDS; round++) {
            struct held *slot = &held[round % N_HELD];
            if (slot->block != NULL)
                step_free(slot);
            step_through(slot, round);
            if (n_by_handler > MAX_HELD - 600)
                give_all();
        }
        CHECK_THAT(n_bad == 0, "mode %u: %u blocks were damaged", mode, n_bad);
    }
    CHECK_THAT(n_traps > 4 * N_ROUNDS * 20, "only %u traps", n_traps);
    for (unsigned i = 0; i < N_HELD; i++)
        give(&held[i]);
    give_all();
}

/* A handler that leaves for good by siglongjmp, after each number of instructions of a malloc in turn. What the malloc had
 * taken is lost; all else goes on. */
static void check_leaving(void)
{
    mode = 2;
    for (volatile int after = 1; after < 60; after++) {
        leave_after = after;
        if (sigsetjmp(out, 1) == 0) {
            step_on();
            free(malloc(SIZE));
            step_off();
        }
        step_off();
        leave_after = 0;
        struct held held[32];
        for (unsigned i = 0; i < 32; i++)
            take(&held[i]);
        for (unsigned i = 0; i < 32; i++)
            for (unsigned k = 0; k < i; k++)
                CHECK_THAT(held[i].block != held[k].block, "a block has two owners after %d instructions", after);
        for (unsigned i = 0; i < 32; i++)
            give(&held[i]);
    }
    CHECK_THAT(n_bad == 0, "%u blocks were damaged", n_bad);
}

static void *in_a_thread(void *argument)
{
    check_stepping();
    check_leaving();
    return argument;
}

static void check_inside(void)
{
    pthread_t thread;
    check_stepping();
    check_leaving();
    REQUIRE(pthread_create(&thread, NULL, in_a_thread, NULL) == 0); /* from a thread's first call on */
    REQUIRE(pthread_join(thread, NULL) == 0);
}

#else
static void check_inside(void) {}
#endif

int main(void)
{
    check_on_hakmem();
    check_installing();
    check_kernel_s_view();
#if defined(__x86_64__)
    check_lent_register();
#endif
    check_inside();
    check_many(); /* takes all trampolines there are */
    return check_status();
}
