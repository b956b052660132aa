#!/bin/bash
# namespaces.sh - a library in a namespace of its own (dlmopen) has a libc of its own, whose keys of threads count from 0 as those of the
# program's libc do, and whose values lie in the same place: none is hakmem's, and what it leaves there is its own destructor's.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/_common.sh"
require gcc

cat > part.c << 'EOF'
#include <pthread.h>
#include <stdlib.h>
enum { N = 24 };
struct own { int number, canary; };
static pthread_key_t keys[N];
static pthread_once_t once = PTHREAD_ONCE_INIT;
static int bad, destroyed;
static void destroy(void *value)
{
    struct own *own = value;
    bad += own->canary != 4711;
    destroyed++;
    free(own);
}
static void make(void)
{
    for (int i = 0; i < N; i++)
        bad += pthread_key_create(&keys[i], destroy) != 0;
}
void part_use(void)
{
    pthread_once(&once, make);
    for (int i = 0; i < N; i++) {
        struct own *own = pthread_getspecific(keys[i]);
        if (own == NULL) {
            own = malloc(sizeof *own);
            *own = (struct own){i, 4711};
            pthread_setspecific(keys[i], own);
        }
        bad += own->number != i || own->canary != 4711;
    }
}
int part_bad(void) { return bad; }
int part_destroyed(void) { return destroyed; }
EOF
cat > program.c << 'EOF'
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
static void (*use)(void);
static void *run(void *first)
{
    if (first != NULL)
        free(malloc(100));
    use();
    for (int i = 0; i < 1000; i++)
        free(malloc(i * 10));
    use();
    return NULL;
}
int main(int argc, char **argv)
{
    pthread_t thread;
    void *part = dlmopen(LM_ID_NEWLM, argv[argc - 1], RTLD_NOW);
    if (part == NULL) {
        puts(dlerror());
        return 1;
    }
    use = (void (*)(void))dlsym(part, "part_use");
    run(part);
    for (int i = 0; i < 20; i++) {
        pthread_create(&thread, NULL, run, i % 2 == 0 ? part : NULL);
        pthread_join(thread, NULL);
    }
    printf("%d bad, %d destroyed\n", ((int (*)(void))dlsym(part, "part_bad"))(), ((int (*)(void))dlsym(part, "part_destroyed"))());
    return 0;
}
EOF
gcc -shared -fPIC -O1 -o part.so part.c
gcc -O1 -o program program.c -pthread

step "a library in a namespace of its own, with keys"
on_system ./program "$PWD/part.so" > expected
grep -q "^0 bad, " expected || fail "on the system's malloc: $(cat expected)"
on_hakmem ./program "$PWD/part.so" > out 2> err || fail "status $?: $(cat out err)"
assert_same expected out
assert_same /dev/null err

step "the same, hardened"
HAKMEM_SECURE=1 on_hakmem ./program "$PWD/part.so" > out 2> err || fail "status $?: $(cat out err)"
assert_same expected out
