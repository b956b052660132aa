#!/bin/bash
# libc_handle.sh - who looks for malloc and its family in libc, by a handle of it, as foreign function interfaces do, finds the program's; all
# else is as it was: other names, other namespaces, what is not there, and who asks for the next one.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/_common.sh"
require gcc python3

cat > next.c << 'EOF'
#define _GNU_SOURCE
#include <dlfcn.h>
int atoi(const char *text) { return text[0] == 0 ? 0 : 4711; }
int (*own_atoi(void))(const char *) { return atoi; }
void *find_next(const char *name) { return dlsym(RTLD_NEXT, name); }
EOF
cat > program.c << 'EOF'
#define _GNU_SOURCE
#include <dlfcn.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
void *find_next(const char *name);
int (*own_atoi(void))(const char *);
static int n_wrong;
static void check(int holds, const char *what)
{
    if (!holds) {
        printf("not so: %s\n", what);
        n_wrong++;
    }
}
static const char *file_of(const void *symbol)
{
    Dl_info info;
    return symbol != NULL && dladdr(symbol, &info) != 0 ? info.dli_fname : "none";
}
static void use(void *libc, const char *how)
{
    char *(*copy)(const char *) = (char *(*)(const char *))dlsym(libc, "strdup");
    void (*give)(void *) = (void (*)(void *))dlsym(libc, "free");
    void *(*take)(size_t) = (void *(*)(size_t))dlsym(libc, "malloc");
    void *(*grow)(void *, size_t) = (void *(*)(void *, size_t))dlsym(libc, "realloc");
    for (int i = 0; i < 1000; i++) {
        give(copy("a block of libc's making"));
        free(take(1 + i * 7));
        give(grow(malloc(1 + i * 7), 100));
    }
    printf("%s: ok\n", how);
}
int main(void)
{
    static const char *const family[] = {
        "malloc", "calloc", "realloc", "reallocarray", "free", "posix_memalign", "aligned_alloc", "memalign", "valloc", "pvalloc",
        "malloc_usable_size", "mallinfo", "mallinfo2", "mallopt", "malloc_trim", "malloc_stats", "malloc_info",
        "sigaction", "signal", "setrlimit", "prlimit"};
    void *libc = dlopen("libc.so.6", RTLD_NOW), *libm = dlopen("libm.so.6", RTLD_NOW), *all = dlopen(NULL, RTLD_NOW);
    use(libc, "by a handle of libc's");
    use(libm, "by one of a library that needs libc");
    use(all, "by the program's");
    for (size_t i = 0; i < sizeof family / sizeof family[0]; i++) {
        void *default_s = dlsym(RTLD_DEFAULT, family[i]);
        check(dlsym(libc, family[i]) == default_s, family[i]);
        check(strstr(file_of(default_s), "libhakmem.so") != NULL, "it is ours");
        check(dlsym(RTLD_NEXT, family[i]) == default_s, "the program's next one");
    }
    check(strstr(file_of(dlsym(libc, "printf")), "libc.so.6") != NULL, "printf is libc's");
    check(strstr(file_of(dlsym(libm, "cos")), "libm.so.6") != NULL, "cos is libm's");
    check(strstr(file_of(dlsym(libc, "dlsym")), "libhakmem.so") != NULL, "dlsym is ours");
    check(dlsym(libc, "no_such_name") == NULL && dlerror() != NULL && dlerror() == NULL, "what is not there is told once");
    check(dlsym(libc, "free") != NULL && dlerror() == NULL, "what is there is no error");
    /* next.so comes behind the library in the order of the search, and its own atoi before libc's. */
    check(strstr(file_of(find_next("atoi")), "libc.so.6") != NULL, "the next one is that of who asks");
    check(strstr(file_of(own_atoi()), "next.so") != NULL, "next.so's own");
    check(strstr(file_of(find_next("free")), "libc.so.6") != NULL, "also of the family");
    void *other = dlmopen(LM_ID_NEWLM, "libc.so.6", RTLD_NOW);
    check(other != NULL && dlsym(other, "free") != dlsym(libc, "free"), "another namespace has its own");
    return n_wrong != 0;
}
EOF
gcc -shared -fPIC -O1 -fno-builtin -o next.so next.c
# shellcheck disable=SC2016 # $ORIGIN is the linker's
gcc -O1 -fno-builtin -Wl,--no-as-needed -o program program.c ./next.so '-Wl,-rpath,$ORIGIN'

step "in C"
on_hakmem ./program || fail "status $?"

step "in python, by ctypes"
cat > foreign.py << 'EOF'
import ctypes
libc = ctypes.CDLL("libc.so.6")
libc.strdup.restype = libc.malloc.restype = ctypes.c_void_p
libc.free.argtypes = [ctypes.c_void_p]
program = ctypes.CDLL(None)
program.free.argtypes = [ctypes.c_void_p]
for i in range(1000):
    libc.free(libc.strdup(b"a block"))
    program.free(libc.malloc(i))
# Blocks that hold pages, most of them freed, and what is left lies among them.
blocks = [bytearray(5000) for i in range(20000)]
del blocks[::2], blocks[:9000]
print("trimmed", libc.malloc_trim(0))
EOF
on_hakmem HAKMEM_PURGE_DELAY_MS=-1 python3 foreign.py > out || fail "status $?"
[[ $(cat out) == "trimmed 1" ]] || fail "malloc_trim: $(cat out)"

step "a library behind it with a dlsym of its own is asked, too"
cat > behind.c << 'EOF'
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>
static char mark;
void *dlsym(void *handle, const char *name)
{
    void *(*libc_s)(void *, const char *) = (void *(*)(void *, const char *))dlvsym(RTLD_NEXT, "dlsym", getenv("DLSYM_VERSION"));
    return strcmp(name, "behind_s_name") == 0 ? &mark : libc_s(handle, name);
}
EOF
cat > asks.c << 'EOF'
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
int main(void)
{
    void *libc = dlopen("libc.so.6", RTLD_NOW);
    void (*give)(void *) = (void (*)(void *))dlsym(libc, "free");
    give(strdup("a block"));
    printf("%s %s\n", dlsym(libc, "behind_s_name") != NULL ? "asked" : "passed by",
           dlsym(libc, "free") == dlsym(RTLD_DEFAULT, "free") ? "ours" : "libc's");
    return 0;
}
EOF
gcc -shared -fPIC -O1 -fno-builtin -o behind.so behind.c
gcc -O1 -fno-builtin -o asks asks.c
DLSYM_VERSION=$(nm -D "$(gcc -print-file-name=libc.so.6)" | sed -n 's/.* dlsym@@*//p' | sort -V | head -1)
export DLSYM_VERSION
on_hakmem LD_PRELOAD="$HAKMEM_LIB:$PWD/behind.so" ./asks > out || fail "status $?"
[[ $(cat out) == "asked ours" ]] || fail "$(cat out)"

step "a program with a malloc of its own gets libc's, also of the names that it lacks"
cat > own.c << 'EOF'
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
static void *(*take)(size_t), *(*clear)(size_t, size_t), *(*grow)(void *, size_t);
static void (*give)(void *);
static void look_up(void)
{
    void *libc = dlopen("libc.so.6", RTLD_NOW);
    take = (void *(*)(size_t))dlsym(libc, "malloc");
    clear = (void *(*)(size_t, size_t))dlsym(libc, "calloc");
    grow = (void *(*)(void *, size_t))dlsym(libc, "realloc");
    give = (void (*)(void *))dlsym(libc, "free");
}
/* What libc and the loader want before that, and while it is looked up. */
static _Alignas(16) char early[65536];
static size_t n_early;
static void *take_early(size_t size)
{
    void *block = early + n_early;
    n_early += (size + 15) & ~(size_t)15;
    return block;
}
static int is_early(void *block) { return (char *)block >= early && (char *)block < early + sizeof early; }
void *malloc(size_t size) { return take == NULL ? take_early(size) : take(size); }
void *calloc(size_t n, size_t size) { return clear == NULL ? take_early(n * size) : clear(n, size); }
void *realloc(void *block, size_t size)
{
    if (block == NULL)
        return malloc(size);
    if (!is_early(block))
        return grow(block, size);
    return memcpy(malloc(size), block, size); /* of early[], or behind it what nobody reads */
}
void free(void *block)
{
    if (!is_early(block) && block != NULL)
        give(block);
}
int main(void)
{
    look_up();
    void *libc = dlopen("libc.so.6", RTLD_NOW);
    int (*aligned)(void **, size_t, size_t) = (int (*)(void **, size_t, size_t))dlsym(libc, "posix_memalign");
    size_t (*usable)(void *) = (size_t (*)(void *))dlsym(libc, "malloc_usable_size");
    for (int i = 0; i < 1000; i++) {
        void *block = NULL;
        if (aligned(&block, 64, 1 + i * 7) != 0 || usable(block) < (size_t)(1 + i * 7))
            return 1;
        free(block);
        char *copy = strdup("a block");
        if (usable(copy) < 8)
            return 2;
        free(copy);
    }
    puts("libc's");
    return 0;
}
EOF
gcc -O1 -fno-builtin -rdynamic -o own own.c
on_hakmem ./own > out || fail "status $?"
[[ $(cat out) == "libc's" ]] || fail "$(cat out)"
