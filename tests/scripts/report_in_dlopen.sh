#!/bin/bash
# report_in_dlopen.sh - what is wrong with a sampled block is reported, with stacks, while another thread is inside dlopen, whose lock it holds,
# and waits for the one that makes the mistake: the process ends, as it would without hakmem, and does not hang.
set -euo pipefail
source "$(dirname "$0")/_common.sh"
require "$HAKMEM_CC"
ulimit -c 0

cat > library.c << 'END'
#include <pthread.h>
#include <stdlib.h>
void *make_mistake(void *unused)
{
    char *volatile block = malloc(24);
    free(block);
#ifdef TOUCHES
    block[0] = 1;
#else
    free(block);
#endif
    return unused;
}
__attribute__((constructor)) static void construct(void)
{
    pthread_t thread;
    if (pthread_create(&thread, NULL, make_mistake, NULL) == 0)
        pthread_join(thread, NULL);
}
END
cat > program.c << 'END'
#include <dlfcn.h>
int main(int argc, char **argv)
{
    return argc == 2 && dlopen(argv[1], RTLD_NOW) != 0 ? 0 : 2;
}
END
"$HAKMEM_CC" -O1 -fno-builtin -shared -fPIC -pthread -o libtwice.so library.c
"$HAKMEM_CC" -O1 -fno-builtin -shared -fPIC -pthread -DTOUCHES -o libtouches.so library.c
"$HAKMEM_CC" -O1 -o program program.c

check() { # LIBRARY STATUS TEXT
    local status=0
    HAKMEM_GUARD_SAMPLE=1 on_hakmem timeout 60 ./program "./$1" > out 2> err || status=$?
    [[ $status == "$2" ]] || fail "$1: status $status: $(cat err)"
    grep -q "$3" err || fail "$1: nothing was said of '$3': $(cat err)"
    grep -q "make_mistake (.*$1+0x" err || fail "$1: no stack names the function: $(cat err)"
}

step "a block is freed twice"
check libtwice.so 134 "freed twice"

step "a freed block is written to"
check libtouches.so 139 "which was freed"
