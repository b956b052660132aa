#!/bin/bash
# deepbind.sh - what a program opens with RTLD_DEEPBIND uses the program's malloc; and who opens something is still the one by
# whose search path it is looked for.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/_common.sh"
require gcc

mkdir -p opener/parts
cat > part.c << 'EOF'
#include <stdlib.h>
#include <string.h>
char *part_text(void) { return strdup("a block of the part's"); }
void part_free(void *block) { free(block); }
EOF
cat > opener.c << 'EOF'
#include <dlfcn.h>
void *open_part(const char *name, int mode) { return dlopen(name, mode); }
EOF
cat > program.c << 'EOF'
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
void *open_part(const char *name, int mode);
static int use(void *part, const char *how)
{
    if (part == NULL) {
        printf("%s: %s\n", how, dlerror());
        return 1;
    }
    char *(*text)(void) = (char *(*)(void))dlsym(part, "part_text");
    void (*give)(void *) = (void (*)(void *))dlsym(part, "part_free");
    for (int i = 0; i < 1000; i++) {
        free(text());
        give(malloc(1 + i * 7));
    }
    printf("%s: ok\n", how);
    return dlclose(part);
}
int main(int argc, char **argv)
{
    int failed = use(dlopen(argv[argc - 1], RTLD_NOW | RTLD_DEEPBIND), "deep");
    failed |= use(dlmopen(LM_ID_BASE, argv[argc - 1], RTLD_NOW | RTLD_DEEPBIND), "deep, by dlmopen");
    failed |= use(open_part("part.so", RTLD_LAZY | RTLD_DEEPBIND), "by the opener's path");
    failed |= dlopen("part.so", RTLD_NOW) != NULL; /* not by the program's */
    puts(dlerror() != NULL ? "told" : "not told");
    failed |= dlopen(NULL, RTLD_NOW) == NULL;
    return failed;
}
EOF
gcc -shared -fPIC -O1 -o opener/parts/part.so part.c
# shellcheck disable=SC2016 # $ORIGIN is the linker's
gcc -shared -fPIC -O2 -fno-optimize-sibling-calls -o opener/opener.so opener.c '-Wl,-rpath,$ORIGIN/parts' -Wl,--enable-new-dtags
# shellcheck disable=SC2016 # as above
gcc -O1 -o program program.c opener/opener.so '-Wl,-rpath,$ORIGIN/opener' -Wl,--enable-new-dtags

step "with RTLD_DEEPBIND"
on_system ./program "$PWD/opener/parts/part.so" > expected
on_hakmem ./program "$PWD/opener/parts/part.so" > out 2> err || fail "status $?: $(cat out err)"
assert_same expected out
assert_same /dev/null err
[[ $(grep -c ": ok" out) -eq 3 ]] || fail "not all were opened: $(cat out)"

step "the same, hardened"
HAKMEM_SECURE=1 on_hakmem ./program "$PWD/opener/parts/part.so" > out 2> err || fail "status $?: $(cat out err)"
assert_same expected out
