#!/bin/bash
# odd_systems.sh - where the system is not as usual: a program that is started as an argument of the dynamic linker, an emulator whose
# madvise does nothing and says that it has, filters that end the process for a call, a program whose own malloc is not ready before main,
# a system that charges memory whether it is in use or not.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/_common.sh"
require gcc timeout

step "started through the dynamic linker: no thread of hakmem's is started where libc frees what belonged to stacks"
linker=$(LC_ALL=C readelf -l "$(command -v env)" | sed -n 's/.*interpreter: \(.*\)]/\1/p')
[[ -x $linker ]] || fail "no dynamic linker found: '$linker'"
HAKMEM_PROFILE=/dev/null HAKMEM_PROFILE_INTERVAL=1 HAKMEM_PURGE_DELAY_MS=250 \
    timeout -s KILL 200 "$linker" --preload "$HAKMEM_LIB" "$HAKMEM_BUILD_DIR/tests/preload_stack_cache" again || fail "status $?"

step "madvise that says it has cleared memory, and has not: calloc's blocks are zero all the same"
cat > lying.c << 'EOF'
#define _GNU_SOURCE
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>
int madvise(void *address, size_t len, int advice)
{
    return advice == MADV_DONTNEED || advice == 24 ? 0 : (int)syscall(SYS_madvise, address, len, advice);
}
EOF
cat > zeros.c << 'EOF'
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
int main(void)
{
    static char *block[200];
    int wrong = 0;
    for (int size = 1000; size < 3000000; size = size * 3 / 2) {
        for (int i = 0; i < 200 && i * (long)size < 100000000; i++)
            memset(block[i] = malloc(size), 1, size);
        for (int i = 0; i < 200 && i * (long)size < 100000000; i++)
            free(block[i]);
        for (int i = 0; i < 200 && i * (long)size < 100000000; i++) {
            block[i] = calloc(1, size);
            for (int k = 0; k < size; k++)
                wrong += block[i][k] != 0;
        }
        for (int i = 0; i < 200 && i * (long)size < 100000000; i++)
            free(block[i]);
    }
    printf("%d bytes are not zero\n", wrong);
    return wrong != 0;
}
EOF
gcc -shared -fPIC -O1 -o lying.so lying.c
gcc -O1 -o zeros zeros.c
HAKMEM_PURGE_DELAY_MS=0 LD_PRELOAD="$HAKMEM_LIB $PWD/lying.so" ./zeros || fail "status $?"
on_hakmem HAKMEM_PURGE_DELAY_MS=0 ./zeros || fail "without it: status $?"

step "filters that kill: for what HAKMEM_BACKGROUND=off does not call; and, in usual mode, for opening files and for asking for a thread's time"
cat > filtered.c << 'EOF'
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <malloc.h>
#include <pthread.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>
#ifndef SYS_close_range
#define SYS_close_range 436
#endif
#define KILL_FOR(number) BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number, 0, 1), BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS)
#define ALL(filter) {sizeof filter / sizeof filter[0], filter}
static struct sock_filter questions[] = {
    BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
    KILL_FOR(SYS_prctl), KILL_FOR(SYS_mincore), KILL_FOR(SYS_process_vm_readv), KILL_FOR(SYS_close_range),
    BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)};
static struct sock_filter files[] = {
    BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
#ifdef SYS_open
    KILL_FOR(SYS_open),
#endif
    KILL_FOR(SYS_openat), KILL_FOR(SYS_execve), KILL_FOR(SYS_clock_gettime), BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)};
static struct sock_fprog programs[] = {ALL(questions), ALL(files)};
static int trims;
static void *work(void *unused)
{
    static __thread void *block[300];
    for (int round = 0; round < 4; round++) {
        for (int i = 0; i < 300; i++)
            memset(block[i] = malloc(i % 50 == 0 ? 3000000 : i % 3 == 0 ? 100000 : 2000), 1, 2000);
        for (int i = 0; i < 300; i++)
            free(block[i]);
        usleep(300000);
        if (trims)
            malloc_trim(0);
    }
    return unused;
}
static int forbid(const char *what, const char *whom)
{
    struct sock_fprog *program = &programs[strcmp(what, "files") == 0];
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0)
        return 2;
    return syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, strcmp(whom, "all") == 0 ? SECCOMP_FILTER_FLAG_TSYNC : 0, program) == 0 ? 0 : 2;
}
int main(int argc, char **argv) /* questions|files before|after own|all */
{
    int before = argc == 4 && strcmp(argv[2], "before") == 0;
    pthread_t thread[2];
    trims = strcmp(argv[1], "files") == 0;
    free(malloc(1000));
    if (before && forbid(argv[1], argv[3]) != 0)
        return 2;
    for (int i = 0; i < 2; i++)
        if (pthread_create(&thread[i], NULL, work, NULL) != 0)
            return 3;
    usleep(100000);
    if (!before && forbid(argv[1], argv[3]) != 0)
        return 2;
    work(NULL);
    for (int i = 0; i < 2; i++)
        pthread_join(thread[i], NULL);
    return 0;
}
EOF
gcc -O1 -fno-builtin -o filtered filtered.c -pthread
for secure in 0 1 max; do
    on_hakmem HAKMEM_BACKGROUND=off HAKMEM_SECURE=$secure ./filtered questions before own || fail "secure $secure: status $?"
done
on_hakmem HAKMEM_BACKGROUND=off HAKMEM_BUDGET=300M ./filtered questions before own || fail "with a budget: status $?"
cat > inherited.c << 'EOF'
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>
/* Runs a program under a filter that it begins with, and that kills for prctl. */
int main(int argc, char **argv)
{
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_prctl, 0, 1), BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)};
    struct sock_fprog program = {sizeof filter / sizeof filter[0], filter};
    if (argc < 2 || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0)
        return 2;
    execvp(argv[1], argv + 1);
    return 3;
}
EOF
gcc -O1 -o inherited inherited.c
./inherited env HAKMEM_BACKGROUND=off LD_PRELOAD="$HAKMEM_LIB" ls / > listing || fail "a filter that the program begins with: status $?"
seq 100000 > longer.json
./inherited env HAKMEM_BACKGROUND=off HAKMEM_STATS="$PWD/longer.json" LD_PRELOAD="$HAKMEM_LIB" ls / > listing || fail "statistics, under a filter: status $?"
[[ $(wc -l < longer.json) -eq 1 && $(stat_of live_bytes longer.json) -gt 0 ]] || fail "under a filter what was in the file of statistics is left in it"
for when in before after; do
    for whom in own all; do
        on_hakmem ./filtered files $when $whom || fail "files, $when the work, $whom: status $?"
    done
done

step "a program with a malloc of its own that is not ready before main"
cat > own.c << 'EOF'
#include <stddef.h>
#include <stdlib.h>
static int ready;
static char space[1 << 20];
static size_t used;
static void *take(size_t n)
{
    if (!ready)
        abort();
    used += 32;
    *(size_t *)(space + used - 16) = n;
    used += (n + 15) / 16 * 16;
    return space + used - (n + 15) / 16 * 16;
}
void *malloc(size_t n) { return take(n); }
void free(void *p) { if (p != NULL && !ready) abort(); }
void *calloc(size_t n, size_t m) { return take(n * m); }
void *realloc(void *p, size_t n)
{
    char *to = take(n);
    for (size_t i = 0; p != NULL && i < *(size_t *)((char *)p - 16) && i < n; i++)
        to[i] = ((char *)p)[i];
    return to;
}
int main(void)
{
    ready = 1;
    return malloc(10) == NULL;
}
EOF
gcc -O1 -fno-builtin -o own own.c
for variable in HAKMEM_STATS=0 HAKMEM_PROFILE="$PWD/own.heap" HAKMEM_GUARD_SAMPLE=100; do
    on_hakmem "$variable" ./own || fail "$variable: status $?"
done

step "/proc of another pid namespace: the numbers there are other threads', and nobody's cache is taken for a sleeper's"
cat > numbers.c << 'EOF'
#define _GNU_SOURCE
#include <malloc.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>
enum { N = 16, STACK_BYTES = 65536, BLOCKS = 4 };
static volatile int n_bad;
static void *sleep_on(void *unused)
{
    free(malloc(100));
    for (;;)
        pause();
    return unused;
}
static void *work(void *number)
{
    for (unsigned long n = 0;; n += BLOCKS) {
        unsigned long *block[BLOCKS];
        for (unsigned i = 0; i < BLOCKS; i++) {
            block[i] = malloc(64);
            block[i][0] = (unsigned long)number;
            block[i][1] = n + i;
        }
        for (unsigned i = 0; i < BLOCKS; i++) {
            n_bad += block[i][0] != (unsigned long)number || block[i][1] != n + i;
            free(block[i]);
        }
    }
    return NULL;
}
int main(void)
{
    char *stacks = mmap(NULL, N * STACK_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    for (long i = 0; i < N; i++) { /* with nothing between them */
        pthread_attr_t attributes;
        pthread_t thread;
        pthread_attr_init(&attributes);
        if (pthread_attr_setstack(&attributes, stacks + i * STACK_BYTES, STACK_BYTES) != 0 ||
            pthread_create(&thread, &attributes, i % 4 < 2 ? sleep_on : work, (void *)i) != 0)
            return 3;
    }
    for (time_t end = time(NULL) + 5; time(NULL) < end && n_bad == 0;)
        malloc_trim(0);
    _exit(n_bad != 0);
}
EOF
gcc -O1 -fno-builtin -o numbers numbers.c -pthread
if ! unshare -fp --mount-proc true 2> /dev/null; then
    leave_out "no pid namespaces may be made here"
else
    unshare -fp --mount-proc bash -c "unshare -fp env LD_PRELOAD='$HAKMEM_LIB' ./numbers; exit \$?" || fail "status $?"
fi

step "vm.overcommit_memory=2: SuperSlabs that went back are charged no more, and serve again"
cat > charged.c << 'EOF'
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
enum { N = 2000, BYTES = 100000 };
static unsigned char *block[N];
static long writable_kib(void)
{
    char line[200];
    long kib = -1;
    FILE *status = fopen("/proc/self/status", "r");
    while (fgets(line, sizeof line, status) != NULL)
        if (sscanf(line, "VmData: %ld", &kib) == 1)
            break;
    fclose(status);
    return kib;
}
/* What is seen when it is below the bound, or after so many seconds. */
static long settled_kib(long bound_kib, int most_s)
{
    long kib = writable_kib();
    for (int i = 0; kib > bound_kib && i < 10 * most_s; i++) {
        usleep(100000);
        kib = writable_kib();
    }
    return kib;
}
int main(int argc, char **argv)
{
    long bound_kib = atol(argv[1]), wrong = 0, kib = 0;
    for (int round = 0; round < 2; round++) {
        for (int i = 0; i < N; i++) {
            block[i] = calloc(1, BYTES);
            for (int k = 0; k < BYTES; k++)
                wrong += block[i][k] != 0;
            memset(block[i], 1, BYTES);
        }
        wrong += writable_kib() < N / 1024 * BYTES;
        for (int i = 0; i < N; i++)
            free(block[i]);
        kib = settled_kib(bound_kib, argc > 2 ? 2 : 30);
        if (argc > 2) /* where nothing is charged all of it stays writable */
            break;
    }
    printf("%ld KiB are writable, of %d; %ld wrong\n", kib, N * BYTES / 1024, wrong);
    return wrong != 0 || (argc > 2 ? kib < N * (BYTES / 1024) / 2 : kib > bound_kib);
}
EOF
gcc -O1 -o charged charged.c
echo 2 > two
echo 0 > zero
for mode in zero two; do
    if ! unshare -m mount --bind "$mode" /proc/sys/vm/overcommit_memory 2> /dev/null; then
        leave_out "no mount namespaces may be made here"
        break
    fi
    only=
    [[ $mode == two ]] || only=once
    unshare -m bash -c "mount --bind $mode /proc/sys/vm/overcommit_memory && env LD_PRELOAD='$HAKMEM_LIB' ./charged 40000 $only" ||
        fail "mode $mode: status $?"
done

finish
