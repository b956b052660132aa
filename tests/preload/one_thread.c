/* one_thread.c - for libc a program with one thread stays one, though the background thread is at work; and that one never keeps rights
 * that the program has given up by any of libc's functions.
 */
#include "check.h"

#include <dirent.h>
#include <fcntl.h>
#include <grp.h>
#include <pthread.h>
#include <signal.h>
#include <sys/single_threaded.h>
#include <sys/wait.h>

enum { N = 40000, BLOCK_BYTES = 1000 };
static char *blocks[N];

static void fill_and_free(void)
{
    for (unsigned i = 0; i < N; i++) {
        blocks[i] = check_malloc(BLOCK_BYTES);
        memset(blocks[i], 1, BLOCK_BYTES);
    }
    for (unsigned i = 0; i < N; i++)
        free(blocks[i]);
}

/* The number of a thread of this process that is not the calling one; 0: there is none. */
static int other_thread(void)
{
    int found = 0, self = (int)gettid();
    DIR *tasks = opendir("/proc/self/task");
    REQUIRE(tasks != NULL);
    for (struct dirent *entry; (entry = readdir(tasks)) != NULL;) {
        int number = atoi(entry->d_name);
        if (number != 0 && number != self)
            found = number;
    }
    closedir(tasks);
    return found;
}

/* The background thread's number. */
static int start_it(void)
{
    int number = 0;
    for (unsigned i = 0; number == 0 && i < 100;
         i++) { /* it may have seen the end of the blocks before, and be about to end */
        fill_and_free();
        number = other_thread();
    }
    REQUIRE(number != 0);
    return number;
}

static bool lives(int number)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/self/task/%d", number);
    return access(path, F_OK) == 0;
}

static void libc_sees_one(void)
{
    CHECK(__libc_single_threaded);
    for (unsigned i = 0; i < 3; i++) { /* one thread after the other, on the same stack */
        size_t before_bytes = check_resident_bytes();
        start_it();
        check_await_resident("what was freed", before_bytes + 8 * CHECK_MIB);
        for (unsigned k = 0; k < 3000 && other_thread() != 0; k++)
            usleep(10000);
        CHECK(other_thread() == 0);
        CHECK(__libc_single_threaded);
    }
}

/* ---- Rights ------------------------------------------------------------------------------------------------------ */

/* Each as it changes nothing, or is refused. */
static int call_setuid(void)
{
    return setuid(getuid());
}
static int call_seteuid(void)
{
    return seteuid(geteuid());
}
static int call_setreuid(void)
{
    return setreuid(getuid(), geteuid());
}
static int call_setresuid(void)
{
    return setresuid(getuid(), geteuid(), (uid_t)-1);
}
static int call_setgid(void)
{
    return setgid(getgid());
}
static int call_setegid(void)
{
    return setegid(getegid());
}
static int call_setregid(void)
{
    return setregid(getgid(), getegid());
}
static int call_setresgid(void)
{
    return setresgid(getgid(), getegid(), (gid_t)-1);
}
static int call_setgroups(void)
{
    return setgroups(0, NULL);
}
static int call_initgroups(void)
{
    return initgroups("root", getgid());
}

static const struct {
    const char *name;
    int (*call)(void);
    bool needs_root;
} calls[] = {{"setuid", call_setuid, false},      {"seteuid", call_seteuid, false},
             {"setreuid", call_setreuid, false},  {"setresuid", call_setresuid, false},
             {"setgid", call_setgid, false},      {"setegid", call_setegid, false},
             {"setregid", call_setregid, false},  {"setresgid", call_setresgid, false},
             {"setgroups", call_setgroups, true}, {"initgroups", call_initgroups, true}};

static void each_call_ends_it(void)
{
    for (unsigned i = 0; i < CHECK_COUNT(calls); i++) {
        pid_t pid = fork();
        REQUIRE(pid >= 0);
        if (pid == 0) {
            int number = start_it();
            errno = 0;
            int status = calls[i].call();
            bool refused = calls[i].needs_root && geteuid() != 0;
            CHECK_THAT(status == (refused ? -1 : 0) && errno == (refused ? EPERM : 0), "%s: %d, errno %d",
                       calls[i].name, status, errno);
            CHECK_THAT(!lives(number), "%s does not end it", calls[i].name);
            CHECK(__libc_single_threaded);
            _exit(check_status());
        }
        check_wait(pid, calls[i].name);
    }
}

/* A server that goes to and fro does not wait for the end of a thread each time. */
static void not_for_ever(void)
{
    pid_t pid = fork();
    REQUIRE(pid >= 0);
    if (pid == 0) {
        unsigned n = 0;
        bool stays = false;
        for (; __libc_single_threaded && n < 100;
             n++) { /* where this one was kept waiting, it may have ended by itself */
            start_it();
            REQUIRE(seteuid(geteuid()) == 0);
        }
        CHECK_THAT(n >= 8 && !__libc_single_threaded, "%u times", n);
        for (unsigned i = 0; !stays && i < 20; i++) {
            int number = start_it();
            REQUIRE(seteuid(geteuid()) == 0);
            stays = lives(number);
        }
        CHECK(stays);
        _exit(check_status());
    }
    check_wait(pid, "changing rights often");
}

/* What a task's status says in a line. */
static void status_of(int task, const char *heading, char *line, size_t size_bytes)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/self/task/%d/status", task);
    FILE *stream = fopen(path, "r");
    line[0] = 0;
    while (stream != NULL && fgets(line, (int)size_bytes, stream) != NULL &&
           strncmp(line, heading, strlen(heading)) != 0)
        line[0] = 0;
    if (stream != NULL)
        fclose(stream);
}

static void rights_are_gone(void)
{
    if (geteuid() != 0) {
        check_leave_out("who is not root has no rights to give up");
        return;
    }
    pid_t pid = fork();
    REQUIRE(pid >= 0);
    if (pid == 0) {
        start_it();
        REQUIRE(setgroups(0, NULL) == 0 && setgid(65534) == 0 && setuid(65534) == 0);
        static const char *const headings[] = {"Uid:", "Gid:", "Groups:", "CapPrm:", "CapEff:"};
        for (unsigned i = 0; i < CHECK_COUNT(headings); i++) {
            char own[256], its[256] = "";
            status_of((int)gettid(), headings[i], own, sizeof own);
            for (unsigned k = 0; its[0] == 0 && k < 20; k++) /* of the next one, unless it has ended meanwhile */
                status_of(start_it(), headings[i], its, sizeof its);
            CHECK_THAT(own[0] != 0 && strcmp(own, its) == 0, "%.80s but %.80s", own, its);
        }
        CHECK(__libc_single_threaded);
        _exit(check_status());
    }
    check_wait(pid, "giving up rights");
}

/* ---- Who misuses the heap ----------------------------------------------------------------------------------------- */

static __thread int of_first_thread;

static void on_abort(int number)
{
    _exit(number == SIGABRT && of_first_thread == 1 && gettid() == getpid() ? 42 : 43);
}

/* Deep in the stack, for what is left there of a call of free may look like one that is not yet at its end: such a thread's cache stays. */
static __attribute__((noinline)) void free_twice(void)
{
    volatile char room[32 * CHECK_KIB];
    room[0] = 0;
    char *volatile twice = check_malloc(48), *volatile between = check_malloc(48);
    free(twice);
    free(between);
    free(twice);
    __asm__ volatile("" : : "r"(room) : "memory");
}

/* The background thread finds it, in the cache of the first one, which sleeps. The program's handler runs in a thread that libc knows. */
static void a_handler_runs_in_the_first_thread(void)
{
    pid_t pid = fork();
    REQUIRE(pid >= 0);
    if (pid == 0) {
        int null = open("/dev/null", O_WRONLY | O_CLOEXEC);
        REQUIRE(dup2(null, STDERR_FILENO) == STDERR_FILENO);
        of_first_thread = 1;
        signal(SIGABRT, on_abort);
        start_it();
        free_twice();
        for (unsigned i = 0; i < 60; i++)
            sleep(1);
        _exit(44);
    }
    int status;
    REQUIRE(waitpid(pid, &status, 0) == pid);
    CHECK_THAT(WIFEXITED(status) && WEXITSTATUS(status) == 42, "status %#x", (unsigned)status);
}

/* ---- With threads of the program's own --------------------------------------------------------------------------- */

static void *sleep_a_while(void *unused)
{
    usleep(100000);
    return unused;
}

/* libc knows of several threads from then on. */
static void a_program_starts_one(void)
{
    pthread_t thread;
    size_t before_bytes = check_resident_bytes();
    start_it();
    REQUIRE(pthread_create(&thread, NULL, sleep_a_while, NULL) == 0);
    CHECK(!__libc_single_threaded);
    REQUIRE(pthread_join(thread, NULL) == 0);
    fill_and_free();
    check_await_resident("what was freed beside a thread", before_bytes + 8 * CHECK_MIB);
}

int main(void)
{
    check_on_hakmem();
#if defined(__x86_64__)
    libc_sees_one();
    each_call_ends_it();
    not_for_ever();
    rights_are_gone();
    a_handler_runs_in_the_first_thread();
#else
    check_leave_out("the background thread is one of libc's on this processor");
#endif
    a_program_starts_one();
    return check_status();
}
