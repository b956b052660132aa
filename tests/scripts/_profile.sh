# shellcheck shell=bash
# _profile.sh - what the scripts about `hakmem profile` and `hakmem diff` share. Sourced by them, after _common.sh.
#
# Gives     $hakmem, the command; profile-target.c, a program whose call sites are known; functions to start, tell and stop it.
hakmem=$HAKMEM_BUILD_DIR/hakmem
[[ -x $hakmem ]] || fail "there is no command $hakmem"
unset DEBUGINFOD_URLS HAKMEM_PROFILE HAKMEM_PROFILE_INTERVAL HAKMEM_GUARD_SAMPLE

# Does what it reads, line by line, and answers each line when it is done. Each site_... is a function of its own, on a line that
# its comment names.
cat > profile-target.c << 'END'
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#ifdef __clang__
#define NOINLINE __attribute__((noinline))
#else
#define NOINLINE __attribute__((noinline, noclone)) /* pprof's own look at symbols does not know site_leak.constprop.0 */
#endif
#define TEXT_OF(x) #x
#define TEXT(x) TEXT_OF(x)
/* No tail call; and the line makes functions differ, so that the compiler does not make one of two. */
#define KEEP(p) __asm__ volatile("# " TEXT(__LINE__) : "+r"(p) : : "memory")
static void *kept[100000];
static unsigned n_kept;
static volatile int busy;
NOINLINE static void *site_leak(size_t n)
{
    void *p = malloc(n); /* line of site_leak */
    KEEP(p);
    return p;
}
NOINLINE static void *site_thread(size_t n)
{
    void *p = malloc(n);
    KEEP(p);
    return p;
}
NOINLINE static void *site_child(size_t n)
{
    void *p = malloc(n);
    KEEP(p);
    return p;
}
static inline __attribute__((always_inline)) void *inlined_below(size_t n)
{
    void *p = malloc(n); /* line of inlined_below */
    KEEP(p);
    return p;
}
NOINLINE static void *site_inlines(size_t n)
{
    void *p = inlined_below(n); /* line of site_inlines */
    KEEP(p);
    return p;
}
NOINLINE static void *site_busy(size_t n)
{
    void *p = malloc(n);
    KEEP(p);
    return p;
}
/* Until it is told to end. Steady: its cache serves it; else it wants now more, now less, and also meets the slower paths. */
static void *stay_busy(void *steady)
{
    unsigned n = 0;
    while (busy) {
        void *p[2000];
        n = steady != NULL ? 3 : (n * 7 + 13) % 2000;
        for (unsigned i = 0; i < n; i++)
            p[i] = site_busy(100 + i % 20 * 10);
        for (unsigned i = 0; i < n; i++)
            free(p[i]);
        usleep(1000);
    }
    return NULL;
}
static void *allocate_in_thread(void *n)
{
    for (unsigned i = 0; i < *(unsigned *)n; i++)
        kept[n_kept++] = site_thread(1000);
    return NULL;
}
static void call_plugin(const char *path, unsigned n)
{
    void *plugin = dlopen(path, RTLD_NOW);
    if (plugin == NULL) {
        puts(dlerror());
        exit(4);
    }
    void *(*allocate)(size_t);
    *(void **)&allocate = dlsym(plugin, "plugin_allocate");
    for (unsigned i = 0; i < n; i++)
        kept[n_kept++] = allocate(1000);
    dlclose(plugin);
}
int main(void)
{
    char line[500], word[16], path[400];
    unsigned n;
    pthread_t thread, busy_thread;
    while (fgets(line, sizeof line, stdin) != NULL) {
        n = 0;
        path[0] = 0;
        sscanf(line, "%15s %u %399s", word, &n, path);
        if (strcmp(word, "leak") == 0) {
            while (n-- > 0)
                kept[n_kept++] = site_leak(1000);
        } else if (strcmp(word, "inline") == 0) {
            while (n-- > 0)
                kept[n_kept++] = site_inlines(1000);
        } else if (strcmp(word, "free") == 0) {
            while (n_kept > 0)
                free(kept[--n_kept]);
        } else if (strcmp(word, "thread") == 0) {
            pthread_create(&thread, NULL, allocate_in_thread, &n);
            pthread_join(thread, NULL);
        } else if (strcmp(word, "fork") == 0) {
            if (fork() == 0) {
                while (n-- > 0)
                    kept[n_kept++] = site_child(1000);
                exit(0);
            }
            wait(NULL);
        } else if (strcmp(word, "busy") == 0) {
            busy = 1;
            pthread_create(&busy_thread, NULL, stay_busy, NULL);
        } else if (strcmp(word, "steady") == 0) {
            busy = 1;
            pthread_create(&busy_thread, NULL, stay_busy, &busy_thread);
        } else if (strcmp(word, "idle") == 0) {
            busy = 0;
            pthread_join(busy_thread, NULL);
        } else if (strcmp(word, "plugin") == 0) {
            call_plugin(path, n);
        } else if (strcmp(word, "limit") == 0) {
            unsigned long pages = 0;
            FILE *statm = fopen("/proc/self/statm", "r");
            fscanf(statm, "%lu", &pages);
            fclose(statm);
            struct rlimit limit = {pages * 4096 + n * 1048576ul, pages * 4096 + n * 1048576ul};
            syscall(SYS_prlimit64, 0, RLIMIT_AS, &limit, NULL); /* behind the library, which would make room */
        } else if (strcmp(word, "execute") == 0) {
            execlp("sleep", "sleep", "1000", NULL);
        } else if (strcmp(word, "end") == 0) {
            break;
        } else {
            return 3;
        }
        puts("done");
        fflush(stdout);
    }
    return 0;
}
END
line_of() { grep -n "line of $1 " profile-target.c | cut -d : -f 1; }

# The target's stdin is file descriptor 8, its stdout 9. Variables may precede the program.
start_target() { # [VARIABLE=VALUE]... PROGRAM; leaves its number in $pid
    rm -f in out
    mkfifo in out
    env LD_PRELOAD="$HAKMEM_LIB" "$@" < in > out 2> target.err &
    pid=$!
    started_pids+=("$pid")
    exec 8> in 9< out
}
tell() { # COMMAND
    local answer
    echo "$*" >&8
    read -r -t 60 answer <&9 || fail "the target does not answer to $*"
    [[ $answer == "done" ]] || fail "the target answers '$answer' to $*"
}
stop_target() {
    exec 8>&- 9<&-
    wait "$pid" || fail "the target ended with status $?"
    assert_no_report target.err
}

# Runs the command, which must refuse: status 2, nothing on stdout, one line on stderr that has the text.
refuses() { # TEXT ARGUMENT...
    local text=$1 status=0
    shift
    "$hakmem" "$@" > refused.out 2> refused.err || status=$?
    [[ $status -eq 2 ]] || fail "hakmem $*: status $status instead of 2: $(head -c 500 refused.err)"
    [[ ! -s refused.out ]] || fail "hakmem $*: writes something although it refuses"
    [[ $(wc -l < refused.err) -eq 1 ]] || fail "hakmem $*: more or less than a line: $(cat refused.err)"
    [[ $(cat refused.err) == "hakmem: "*"$text"* ]] || fail "hakmem $*: says '$(cat refused.err)', not '$text'"
}

# One amount of a folded file: the sum of the lines that have the text.
folded_sum() { # FILE TEXT
    awk -v text="$2" 'index($0, text) { n += $NF } END { print n + 0 }' "$1"
}
