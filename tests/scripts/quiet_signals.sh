#!/bin/bash
# quiet_signals.sh - what hakmem writes by itself raises no signal in the program: neither SIGPIPE, where nobody reads what it
# writes to, nor SIGXFSZ at a limit on the size of files.
#
#   Q1  with a limit of 0 bytes, statistics and profiles to a file leave the exit status as it is, and what is lost is said
#   Q2  so do statistics and reports of misuse to a pipe that nobody reads; a misuse that ends the process does so by SIGABRT
#   Q3  the program's own signals are what they were: its own write ends it, ignored ones stay ignored, a handler is called for
#       its own writes alone, and what was pending is pending, once
#   Q4  under a filter that kills for what sshd's does, the process lives
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/_common.sh"
require gcc

# One word says what happens to the process before it ends with status 7, and a second one what it does besides.
cat > quiet.c << 'END'
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/* On stdout, for stderr is what is written to in vain. The calls are few, and those that a filter may forbid are not among them. */
#define REQUIRE(what)                                                                                                  \
    do                                                                                                                 \
        if (!(what)) {                                                                                                 \
            (void)!write(1, "not true: " #what "\n", sizeof "not true: " #what);                                       \
            _exit(3);                                                                                                  \
        }                                                                                                              \
    while (0)

static int raised; /* what a write to stderr raises from now on */
static volatile sig_atomic_t n_handled;

static void handle(int number)
{
    (void)number;
    n_handled++;
}

static void close_pipe(void)
{
    int ends[2];
    REQUIRE(pipe(ends) == 0 && close(ends[0]) == 0 && dup2(ends[1], 2) == 2 && close(ends[1]) == 0);
    raised = SIGPIPE;
}

static void set_limit(void)
{
    struct rlimit none = {0, 0};
    REQUIRE(setrlimit(RLIMIT_FSIZE, &none) == 0);
    raised = SIGXFSZ;
}

/* A misuse that is reported at once. errno and the mask are the program's. */
static void misuse(void)
{
    char block[64] __attribute__((aligned(16)));
    void *volatile address = block;
    errno = 1234;
    free(address);
    REQUIRE(errno == 1234);
}

static int own_write(void)
{
    return write(2, "x", 1) < 0 ? errno : 0;
}

static sigset_t mask_of(int number)
{
    sigset_t set;
    sigemptyset(&set);
    if (number != 0)
        sigaddset(&set, number);
    return set;
}

static int is_pending(void)
{
    sigset_t set;
    REQUIRE(sigpending(&set) == 0);
    return sigismember(&set, raised);
}

static int is_blocked(void)
{
    sigset_t set;
    REQUIRE(sigprocmask(SIG_BLOCK, NULL, &set) == 0);
    return sigismember(&set, SIGPIPE) || sigismember(&set, SIGXFSZ);
}

/* How often the signal can be taken. */
static int count_pending(void)
{
    struct timespec none = {0, 0};
    sigset_t set = mask_of(raised);
    int n = 0;
    while (sigtimedwait(&set, NULL, &none) == raised)
        n++;
    return n;
}

static void own(void)
{
    misuse();
    REQUIRE(!is_blocked() && !is_pending());
    own_write();
    REQUIRE(!"the program's own write raises the signal");
}

static void ignored(void)
{
    signal(raised, SIG_IGN);
    misuse();
    REQUIRE(!is_blocked() && !is_pending() && own_write() != 0);
}

static void handled(void)
{
    signal(raised, handle);
    misuse();
    REQUIRE(!is_blocked() && n_handled == 0 && own_write() != 0 && n_handled == 1);
    misuse();
    REQUIRE(n_handled == 1);
}

static void blocked(void)
{
    sigset_t set = mask_of(raised);
    REQUIRE(sigprocmask(SIG_BLOCK, &set, NULL) == 0);
    misuse();
    REQUIRE(is_blocked() && !is_pending());
    raise(raised); /* of this thread */
    misuse();
    REQUIRE(count_pending() == 1);
    kill(getpid(), raised); /* of the process */
    misuse();
    REQUIRE(count_pending() == 1);
    REQUIRE(own_write() != 0);
    misuse();
    REQUIRE(count_pending() == 1 && is_blocked());
}

/* Kills for calls that are not in sshd's list for what it does before a user is known, and refuses what that refuses. */
static void filter(void)
{
    static const unsigned kill_for[] = {SYS_prctl, SYS_rt_sigtimedwait, SYS_rt_sigpending, SYS_rt_sigaction,
                                        SYS_prlimit64, SYS_pread64, SYS_gettid};
    struct sock_filter program[32];
    unsigned short n = 0;
    program[n++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
    for (unsigned i = 0; i < sizeof kill_for / sizeof *kill_for; i++) {
        program[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, kill_for[i], 0, 1);
        program[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS);
    }
    program[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_openat, 0, 1);
    program[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EACCES);
    program[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
    struct sock_fprog all = {n, program};
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &all) != 0)
        _exit(77);
}

static void filtered(void)
{
    filter();
    misuse();
    misuse();
    REQUIRE(is_blocked()); /* as documented */
}

int main(int argc, char **argv)
{
    const char *where = argv[1], *what = argc > 2 ? argv[2] : "";
    sigset_t none = mask_of(0);
    signal(SIGPIPE, SIG_DFL); /* whatever the parent does with them */
    signal(SIGXFSZ, SIG_DFL);
    REQUIRE(sigprocmask(SIG_SETMASK, &none, NULL) == 0);
    free(malloc(100));
    if (strcmp(where, "pipe") == 0)
        close_pipe();
    else
        set_limit();
    static const struct {
        const char *name;
        void (*function)(void);
    } acts[] = {{"misuse", misuse},   {"own", own},         {"ignored", ignored},
                {"handled", handled}, {"blocked", blocked}, {"filtered", filtered}};
    for (unsigned i = 0; i < sizeof acts / sizeof *acts; i++)
        if (strcmp(what, acts[i].name) == 0)
            acts[i].function();
    return 7;
}
END
gcc -O1 -o quiet quiet.c
ulimit -c 0

# The variables, and then the program's words; its stderr is a file.
ends_with() { # STATUS [NAME=VALUE...] WORD...
    local expected=$1 status=0 variables=()
    shift
    while [[ $1 == *=* ]]; do variables+=("$1"); shift; done
    { on_hakmem "${variables[@]}" ./quiet "$@" > said 2> errors; } 2> /dev/null || status=$?
    cat said
    [[ $status -eq $expected ]] || fail "${variables[*]} quiet $*: status $status instead of $expected: $(head -c 300 errors)"
}

step "Q1: a limit on the size of files"
for variable in HAKMEM_PROFILE="$work/x.gz" HAKMEM_PROFILE=report HAKMEM_STATS={1,json,"$work/x.json"}; do
    ends_with 7 "$variable" limit
    [[ ! -s errors && ! -s x.gz && ! -s x.json ]] || fail "$variable: something was written beyond the limit"
done
ends_with 7 HAKMEM_ON_ERROR=warn limit misuse
on_hakmem HAKMEM_PROFILE="$work/x.gz" ./quiet limit 2>&1 | cat > lines || true
assert_line "hakmem: HAKMEM_PROFILE: the file cannot be written: $work/x.gz" lines
on_hakmem HAKMEM_STATS="$work/x.json" ./quiet limit 2>&1 | cat > lines || true
assert_line "hakmem: HAKMEM_STATS: the file cannot be written" lines

step "Q2: a pipe that nobody reads"
for variable in HAKMEM_STATS={1,json} HAKMEM_PROFILE=report; do
    ends_with 7 "$variable" pipe
done
ends_with 7 HAKMEM_ON_ERROR=warn pipe misuse
ends_with 134 HAKMEM_ON_ERROR=abort pipe misuse

# The calls of a container, for one, are filtered: then Q3 does not hold, which is documented.
if grep -qx $'Seccomp:\t0' /proc/self/status; then
    step "Q3: the program's own signals"
    ends_with 141 HAKMEM_ON_ERROR=warn pipe own
    ends_with 153 HAKMEM_ON_ERROR=warn limit own
    for act in ignored handled blocked; do
        for where in pipe limit; do
            ends_with 7 HAKMEM_ON_ERROR=warn "$where" "$act"
        done
    done
else
    leave_out "calls are filtered here: whether the mask is given back"
fi

step "Q4: a filter that kills"
status=0
on_system ./quiet pipe filtered > /dev/null 2>&1 || status=$? # without hakmem libc ends it for the misuse
if [[ $status -eq 77 ]]; then
    leave_out "this system has no seccomp filters"
else
    for where in pipe limit; do
        ends_with 7 HAKMEM_ON_ERROR=warn "$where" filtered
        for variable in HAKMEM_STATS={1,json,"$work/x.json"} HAKMEM_PROFILE={report,"$work/x.gz"}; do
            ends_with 7 HAKMEM_ON_ERROR=warn "$variable" "$where" filtered
        done
    done
fi
finish
