/* sent_signals.c - a process ends by the signal that it is sent, or sends itself, in any mode: what the library does about faults
 * takes none away. And a fault ends it as it would without the library.
 */
#include "check.h"

#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>

static const int numbers[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGTERM};

static void end_by_itself(int number)
{
    free(malloc(1000));
    raise(number);
}

static void end_by_parent(int number)
{
    (void)number;
    free(malloc(1000));
    pause();
}

static void end_by_fault(int number)
{
    char *page = mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    (void)number;
    free(malloc(1000));
    *(volatile char *)page = 1;
}

static void handle(int number)
{
    _exit(number == SIGSEGV ? 7 : 8);
}

static void end_in_handler(int number)
{
    signal(number, handle);
    end_by_itself(number);
}

static void go_on_if_ignored(int number)
{
    signal(number, SIG_IGN);
    raise(number);
    _exit(7);
}

static struct sigaction before;
static sigjmp_buf again;

/* Tells whoever was there before of each fault, and goes on. */
static void tell_and_go_on(int number, siginfo_t *info, void *context)
{
    if ((before.sa_flags & SA_SIGINFO) != 0)
        before.sa_sigaction(number, info, context);
    else if (before.sa_handler != SIG_DFL && before.sa_handler != SIG_IGN)
        before.sa_handler(number);
    siglongjmp(again, 1);
}

static void go_on_after_faults(int number)
{
    struct sigaction action = {.sa_sigaction = tell_and_go_on, .sa_flags = SA_SIGINFO};
    char *page = mmap(NULL, 4096, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    sigaction(number, &action, &before);
    if (before.sa_handler != SIG_DFL || before.sa_flags != 0)
        _exit(1);
    for (volatile int i = 0; i < 3; i++)
        if (sigsetjmp(again, 1) == 0)
            *(volatile char *)page = 1;
    signal(number, SIG_DFL);
    _exit(signal(number, SIG_IGN) == SIG_DFL ? 7 : 2);
}

/* signal() tells as little as sigaction() of who was there before the program. */
static void ask_by_signal(int number)
{
    bool told =
        signal(number, handle) == SIG_DFL && signal(number, SIG_IGN) == handle && signal(number, SIG_DFL) == SIG_IGN;
    _exit(told ? 7 : 1);
}

/* How a child ends that does this. */
static int status_after(void (*ends)(int), int number, int sent)
{
    int status = 0;
    pid_t child = fork();
    REQUIRE(child >= 0);
    if (child == 0) {
        alarm(10); /* ends it if nothing else does */
        ends(number);
        _exit(0);
    }
    if (sent)
        kill(child, number);
    REQUIRE(waitpid(child, &status, 0) == child);
    return status;
}

int main(void)
{
    struct rlimit none = {0, 0};
    check_on_hakmem();
    setrlimit(RLIMIT_CORE, &none);
    for (size_t i = 0; i < CHECK_COUNT(numbers); i++) {
        int status = status_after(end_by_itself, numbers[i], 0);
        CHECK_THAT(WIFSIGNALED(status) && WTERMSIG(status) == numbers[i], "raise(%d): status %#x", numbers[i], status);
        status = status_after(end_by_parent, numbers[i], 1);
        CHECK_THAT(WIFSIGNALED(status) && WTERMSIG(status) == numbers[i], "kill(%d): status %#x", numbers[i], status);
    }
    int status = status_after(end_by_fault, 0, 0);
    CHECK_THAT(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV, "a fault: status %#x", status);
    status = status_after(end_in_handler, SIGSEGV, 0);
    CHECK_THAT(WIFEXITED(status) && WEXITSTATUS(status) == 7, "raise with a handler: status %#x", status);
    status = status_after(go_on_if_ignored, SIGSEGV, 0);
    CHECK_THAT(WIFEXITED(status) && WEXITSTATUS(status) == 7, "raise if ignored: status %#x", status);
    status = status_after(ask_by_signal, SIGSEGV, 0);
    CHECK_THAT(WIFEXITED(status) && WEXITSTATUS(status) == 7, "what signal() tells: status %#x", status);
    status = status_after(go_on_after_faults, SIGSEGV, 0);
    CHECK_THAT(WIFEXITED(status) && WEXITSTATUS(status) == 7, "faults that the program goes on after: status %#x",
               status);
    return check_status();
}
