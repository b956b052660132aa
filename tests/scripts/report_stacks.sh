#!/bin/bash
# report_stacks.sh - the stacks of a report begin with the program's own function, whatever the program is built like: its name, where it is
# exported, and its place, by which addr2line finds its line.
set -euo pipefail
source "$(dirname "$0")/_common.sh"
require "$HAKMEM_CC" addr2line
ulimit -c 0

# The call of a function that does not return is a function's last instruction: it would return to where the next function begins.
cat > program.c << 'END'
#include <stdlib.h>
char *volatile block;
__attribute__((noinline)) void take_block(void)
{
    block = malloc(48);
    __asm__ volatile("" : : : "memory");
}
__attribute__((noinline)) void give_block(void)
{
    free(block);
    __asm__ volatile("" : : : "memory");
}
__attribute__((noinline)) void touch_block(void)
{
    block[3] = 1;
    __asm__ volatile("" : : : "memory");
}
__attribute__((noinline, noreturn)) void work(int touches)
{
    take_block();
    give_block();
    if (touches)
        touch_block();
    free(block);
    abort();
}
__attribute__((noinline, noreturn)) void begin(int touches)
{
    __asm__ volatile("" : : : "memory");
    work(touches);
}
int next_to_begin = 1;
__attribute__((noinline)) int come_next(int n) { return n + next_to_begin; }
int main(int argc, char **argv)
{
    (void)argv;
    if (come_next(argc) > 1)
        begin(argc > 1);
}
END

# The lines of the stack of who did it, without the words before an address.
stack() { # WHAT
    sed -n "/^hakmem:   $1 by thread [0-9]*:\$/,\$p" report | tail -n +2 | sed -n 's/^hakmem:     #/#/p; t; q' | sed 's/^#[0-9]* //'
}

place_of() { sed -n "s|.*(\(.*/\)\?$1+\(0x[0-9a-f]*\))\$|\2|p"; }

expect() { # PROGRAM WHAT FUNCTION
    local found
    found=$(stack "$2" | place_of "$1" | xargs -r addr2line -f -e "$1" | sed -n '1~2p' | xargs)
    [[ "$found " == "$3 work begin main "* || ($1 == static && $2 != touched && "$found " == *" $3 work begin main "*) ]] ||
        fail "$1: $2 by $3, called by work, begin, main: $found, of $(stack "$2")"
}

check() { # PROGRAM LIBRARY
    { HAKMEM_GUARD_SAMPLE=1 LD_PRELOAD=$2 "./$1"; } 2> report && fail "$1: no end"
    grep -q "^hakmem: free: block freed twice: " report || fail "$1: $(cat report)"
    expect "$1" allocated take_block
    expect "$1" freed give_block
    { HAKMEM_GUARD_SAMPLE=1 LD_PRELOAD=$2 "./$1" touch; } 2> report && fail "$1: no end"
    grep -q "^hakmem: fault: .* which was freed$" report || fail "$1: $(cat report)"
    expect "$1" touched touch_block
    expect "$1" allocated take_block
    expect "$1" freed give_block
}

build() { "$HAKMEM_CC" -O1 -g -fno-builtin -fno-optimize-sibling-calls -falign-functions=1 "$@"; }

step "programs that can be moved, and programs that cannot"
build -fPIE -pie -o movable program.c
check movable "$HAKMEM_LIB"
build -fno-pie -no-pie -o fixed program.c
check fixed "$HAKMEM_LIB"

step "names of functions that are exported"
build -fPIE -pie -rdynamic -o exports program.c
check exports "$HAKMEM_LIB"
for row in touched:touch_block allocated:take_block freed:give_block; do
    named=$(stack "${row%:*}" | grep "/\?exports+0x" | awk '{ print $2 }' | head -n 4 | xargs)
    [[ $named == "${row#*:} work begin main" ]] || fail "${row%:*} by $named: $(stack "${row%:*}")"
    stack "${row%:*}" | grep -q " __libc_start_main.* (.*libc[.]so" || fail "${row%:*}: the stack has no beginning: $(stack "${row%:*}")"
done

step "a program that is linked statically, where ours are functions like any"
if build -fno-pie -static -o static program.c "$HAKMEM_BUILD_DIR/libhakmem.a" -Wl,-u,malloc -pthread -ldl 2> linked; then
    check static ""
else
    leave_out "no static program can be linked here: $(head -n 1 linked)"
fi
finish
