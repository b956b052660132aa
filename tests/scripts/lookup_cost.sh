#!/bin/bash
# lookup_cost.sh - to find out what lies at an address costs the same however many SuperSlabs there are.
# A program maps N SuperSlabs and then asks for the size of L blocks spread over them. The instructions that L look-ups
# take, counted by callgrind, must not grow from 64 to 1,024 SuperSlabs: in the first arena, where all of them lie by
# default, and in arenas of 64 MiB each.
# ctest: timeout 600
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/_common.sh"
require valgrind "${HAKMEM_CC:=cc}"

readonly LOOKUPS=2048
cat > lookup.c << 'EOF'
#include <malloc.h>
#include <stdlib.h>
int main(int argc, char **argv)
{
    enum { SUPERSLAB_BYTES = 2 << 20 }; /* look-ups: in the last quarter, so never in the first of several arenas */
    size_t n = strtoul(argv[1], NULL, 10), n_lookups = strtoul(argv[2], NULL, 10), sum = 0;
    static char *blocks[1 << 14]; /* eight of 256 KiB in a SuperSlab, and no room between them */
    for (size_t i = 0; i < n * 8; i++)
        if ((blocks[i] = malloc(256 << 10)) == NULL)
            return 3;
    size_t n_superslabs = 1;
    for (size_t i = 1; i < n * 8; i++)
        n_superslabs += (size_t)blocks[i] / SUPERSLAB_BYTES != (size_t)blocks[i - 1] / SUPERSLAB_BYTES;
    if (argc != 3 || n_superslabs < n)
        return 4;
    for (size_t i = 0; i < n_lookups; i++)
        sum += malloc_usable_size(blocks[n * 6 + n * 2 * i / 2048]);
    return sum == n_lookups * (256 << 10) ? 0 : 5;
}
EOF
"$HAKMEM_CC" -O1 -o lookup lookup.c

instructions() { # SUPERSLABS LOOKUPS [SETTING]
    env ${3:+"$3"} LD_PRELOAD="$HAKMEM_LIB" valgrind --tool=callgrind --callgrind-out-file=/dev/null ./lookup "$1" "$2" \
        > valgrind.out 2>&1 || { tail -n 5 valgrind.out; fail "lookup $1 $2 ended with status $?"; }
    sed -n 's/.*Collected : \([0-9]*\).*/\1/p' valgrind.out
}

# Within 1 %: the program's own start differs by some dozens of instructions from run to run.
for setting in HAKMEM_ARENA_BYTES=0 HAKMEM_ARENA_BYTES=64M; do
    step "$LOOKUPS look-ups, $setting"
    first=
    for n in 64 256 1024; do
        cost=$(($(instructions $n $LOOKUPS "$setting") - $(instructions $n 0 "$setting")))
        first=${first:-$cost}
        echo "   $n SuperSlabs: $cost instructions, $((cost / LOOKUPS)) for each look-up"
        [[ $cost -gt $((LOOKUPS * 10)) ]] || fail "the look-ups were not counted"
        [[ $((cost - first)) -le $((first / 100)) ]] || fail "$cost instructions for $n SuperSlabs, $first for 64"
    done
done
