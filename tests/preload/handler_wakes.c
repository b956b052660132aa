/* handler_wakes.c - what a signal handler frees starts no thread while the handler runs: it may have interrupted pthread_create, which
 * holds a lock that a second one waits for. Afterwards the memory goes back all the same; also if the handler was left by siglongjmp,
 * from whichever stack. A handler that interrupted a wait, or the program's own code, does start it: nobody may make a call again.
 */
#include "check.h"

#include <dirent.h>
#include <setjmp.h>
#include <signal.h>
#include <unistd.h>

#define N_BLOCKS 64
#define BLOCK_BYTES (256 * (size_t)1024)
#define WAIT_MS 20000

static char *blocks[N_BLOCKS];
static volatile unsigned n_threads_inside;
static volatile bool leaves;
static sigjmp_buf outside;

static unsigned count_threads(void)
{
    unsigned n = 0;
    DIR *directory = opendir("/proc/self/task");
    REQUIRE(directory != NULL);
    for (const struct dirent *entry; (entry = readdir(directory)) != NULL;)
        n += entry->d_name[0] != '.';
    closedir(directory);
    return n;
}

static void on_signal(int number)
{
    (void)number;
    for (unsigned i = 0; i < N_BLOCKS; i++) {
        free(blocks[i]);
        blocks[i] = NULL; /* the signal may come again */
    }
    n_threads_inside = count_threads();
    if (leaves)
        siglongjmp(outside, 1);
}

static void fill(void)
{
    for (unsigned i = 0; i < N_BLOCKS; i++)
        blocks[i] = check_malloc(BLOCK_BYTES);
}

static void wait_for_one_thread(void)
{
    for (unsigned ms = 0; count_threads() != 1; ms++) {
        REQUIRE(ms < WAIT_MS);
        usleep(1000);
    }
}

#define RAISED 1u /* by libc, which ends up where it would in pthread_create: behind a system call */
#define WAITED_FOR 2u
#define COMPUTED 4u
#define LEFT 8u

/* Of a child, to its parent, until that has been in the handler, and ends this. */
static void send_signals(pid_t parent)
{
    usleep(100000);
    for (unsigned ms = 0; ms < WAIT_MS && kill(parent, SIGUSR1) == 0; ms += 100)
        usleep(100000);
    _exit(1);
}

static void call_handler(unsigned how)
{
    if (how & RAISED) {
        raise(SIGUSR1);
    } else {
        pid_t self = getpid(), child = fork();
        REQUIRE(child >= 0);
        if (child == 0)
            send_signals(self);
        if (how & WAITED_FOR)
            pause();
        while (n_threads_inside == 0) {
        }
        kill(child, SIGKILL);
        waitpid(child, NULL, 0);
    }
}

static void check(int flags, unsigned how, const char *name)
{
    struct sigaction action = {.sa_handler = on_signal, .sa_flags = flags | SA_NODEFER};
    REQUIRE(sigaction(SIGUSR1, &action, NULL) == 0);
    wait_for_one_thread();
    fill();
    size_t full_bytes = check_resident_bytes();
    leaves = (how & LEFT) != 0;
    n_threads_inside = 0;
    if (sigsetjmp(outside, 1) == 0)
        call_handler(how);
    unsigned n_expected = how & RAISED ? 1 : 2;
    CHECK_THAT(n_threads_inside == n_expected, "%s: %u threads inside of the handler", name, n_threads_inside);
    for (unsigned ms = 0; check_resident_bytes() + N_BLOCKS / 2 * BLOCK_BYTES > full_bytes; ms++) {
        CHECK_THAT(ms < WAIT_MS, "%s: the memory stays", name);
        if (ms >= WAIT_MS)
            return;
        usleep(1000);
        if (how & RAISED)
            free(malloc(100));
    }
}

int main(void)
{
    static char stack[64 * 1024];
    stack_t alternate = {.ss_sp = stack, .ss_size = sizeof stack};
    check_on_hakmem();
    REQUIRE(sigaltstack(&alternate, NULL) == 0);
    check(0, RAISED, "a handler");
    check(0, RAISED | LEFT, "a handler that is left");
    check(SA_ONSTACK, RAISED, "a handler on the alternate stack");
    check(SA_ONSTACK, RAISED | LEFT, "a handler on the alternate stack that is left");
    check(0, WAITED_FOR, "a handler in a wait");
    check(0, COMPUTED, "a handler in the program's code");
    return check_status();
}
