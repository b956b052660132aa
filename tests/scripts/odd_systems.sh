#!/bin/bash
# odd_systems.sh - where the system is not as usual: a program that is started as an argument of the dynamic linker, an emulator whose
# madvise does nothing and says that it has, a filter that kills for each call that it does not name.
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

step "a filter that kills for prctl, mincore, process_vm_readv and close_range: HAKMEM_BACKGROUND=off calls none of them"
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
static void *work(void *unused)
{
    static __thread void *block[300];
    for (int round = 0; round < 4; round++) {
        for (int i = 0; i < 300; i++)
            memset(block[i] = malloc(i % 50 == 0 ? 3000000 : i % 3 == 0 ? 100000 : 2000), 1, 2000);
        for (int i = 0; i < 300; i++)
            free(block[i]);
        usleep(300000);
        malloc_trim(0);
    }
    return unused;
}
int main(void)
{
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        KILL_FOR(SYS_prctl), KILL_FOR(SYS_mincore), KILL_FOR(SYS_process_vm_readv), KILL_FOR(SYS_close_range),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)};
    struct sock_fprog program = {sizeof filter / sizeof filter[0], filter};
    pthread_t thread[2];
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) != 0)
        return 2;
    for (int i = 0; i < 2; i++)
        if (pthread_create(&thread[i], NULL, work, NULL) != 0)
            return 3;
    for (int i = 0; i < 2; i++)
        pthread_join(thread[i], NULL);
    return 0;
}
EOF
gcc -O1 -o filtered filtered.c -pthread
on_hakmem HAKMEM_BACKGROUND=off ./filtered || fail "status $?"
on_hakmem HAKMEM_BACKGROUND=off HAKMEM_BUDGET=300M ./filtered || fail "with a budget: status $?"

echo "odd_systems: the linker as a program, an emulator's madvise, a filter that kills"
