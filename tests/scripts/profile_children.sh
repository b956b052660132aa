#!/bin/bash
# profile_children.sh - children of a process that `hakmem profile PID` samples are not sampled: nobody would end it there. And what a dump
# says of a path with a newline, which the reader takes.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/_common.sh"
require gcc
hakmem=$HAKMEM_BUILD_DIR/hakmem
unset HAKMEM_PROFILE HAKMEM_PROFILE_INTERVAL

cat > server.c << 'EOF'
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
static volatile sig_atomic_t wanted;
static void on_signal(int number) { (void)number; wanted = 1; }
static void work(void)
{
    static void *kept[3000];
    for (int i = 0; i < 3000; i++) /* more than a cache holds */
        free(kept[i]);
    for (int i = 0; i < 3000; i++)
        kept[i] = malloc(100 + i);
    usleep(2000);
}
int main(void)
{
    signal(SIGUSR1, on_signal);
    for (;;) {
        work();
        if (!wanted)
            continue;
        wanted = 0;
        pid_t child = fork();
        if (child == 0)
            for (;;)
                work();
        FILE *file = fopen("child.new", "w");
        fprintf(file, "%d\n", (int)child);
        fclose(file);
        rename("child.new", "child");
    }
}
EOF
gcc -O1 -o server server.c
env LD_PRELOAD="$HAKMEM_LIB" ./server &
pid=$!
started_pids+=("$pid")

step "a child of a process that is sampled from outside"
"$hakmem" profile "$pid" --seconds 1000 --interval 4K > sampler.out 2> sampler.err &
sampler=$!
started_pids+=("$sampler")
for i in $(seq 500); do
    if "$hakmem" profile "$pid" --seconds 0 > /dev/null 2>&1; then break; fi
    kill -0 $sampler || fail "$(cat sampler.err)"
    sleep 0.02
done
kill -USR1 "$pid"
for i in $(seq 500); do
    if [[ -s child ]]; then break; fi
    sleep 0.02
done
child=$(< child)
started_pids+=("$child")
status=0
"$hakmem" profile "$pid" --seconds 0.1 > /dev/null 2> err || status=$?
[[ $status -ne 0 ]] || fail "the process itself is not sampled any more"
grep -q "(EBUSY)" err || fail "$(cat err)"
"$hakmem" profile "$child" --seconds 0.2 --interval 8K > of-child 2> err || fail "the child: $(cat err)"
grep -q "one for 8.0 KiB in the mean" of-child || fail "the child: $(head -n 1 of-child)"
kill -TERM $sampler
wait $sampler || fail "$(cat sampler.err)"

step "a library whose path has a newline"
mkdir $'a\nb'
cat > part.c << 'EOF'
#include <stdlib.h>
void *part_allocate(void) { void *block = malloc(1000); __asm__ volatile("" : "+r"(block)); return block; }
EOF
cat > opener.c << 'EOF'
#include <dlfcn.h>
#include <stdio.h>
int main(int argc, char **argv)
{
    void *part = dlopen(argv[argc - 1], RTLD_NOW);
    if (part == NULL)
        return puts(dlerror());
    for (int i = 0; i < 100; i++)
        ((void *(*)(void))dlsym(part, "part_allocate"))();
    dlclose(part);
    return 0;
}
EOF
gcc -shared -fPIC -O1 -o $'a\nb/part.so' part.c
gcc -O1 -o opener opener.c
env LD_PRELOAD="$HAKMEM_LIB" HAKMEM_PROFILE="$PWD/dump" HAKMEM_PROFILE_INTERVAL=1 ./opener $'a\nb/part.so' > out 2> err || fail "$(cat out err)"
[[ ! -s out ]] || fail "$(cat out)"
grep -q '^# module .*/a\\012b/part\.so$' dump || fail "the path is not written as the system's map has it: $(grep -a part.so dump)"
"$hakmem" profile dump > text 2> err || fail "the dump: $(cat err)"
grep -q "part.so" text || { cat text; fail "the library is not named"; }

step "a process whose threads all live for a moment"
cat > short.c << 'EOF'
#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>
static void *live(void *unused)
{
    for (int i = 0; i < 20; i++) {
        void *block = malloc(100 + i);
        __asm__ volatile("" : "+r"(block));
        free(block);
    }
    usleep(500);
    return unused;
}
int main(void)
{
    for (;;) {
        pthread_t thread[3];
        for (int i = 0; i < 3; i++)
            pthread_create(&thread[i], NULL, live, NULL);
        for (int i = 0; i < 3; i++)
            pthread_join(thread[i], NULL);
    }
}
EOF
gcc -O1 -o short short.c -pthread
env LD_PRELOAD="$HAKMEM_LIB" ./short &
pid=$!
started_pids+=("$pid")
sleep 0.2
"$hakmem" profile "$pid" --seconds 0.3 --interval 1K > text 2> err || fail "$(cat err)"
grep -q "^heap profile of short, process $pid, " text || fail "$(head -n 1 text)"
