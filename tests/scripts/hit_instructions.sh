#!/bin/bash
# hit_instructions.sh - what a malloc hit and a free hit execute: at most 15 and 16 instructions, kept as golden files.
# The hit is the straight line through the function: no jump taken, from its entry to its return. It is read from the
# disassembly of the shared library, built in release mode by gcc and by clang. Where the compiler is the one that the
# golden file names, its instructions must be the golden ones; with any other compiler only their number counts.
# After a change that is meant: HAKMEM_UPDATE_GOLDEN=1 tests/scripts/hit_instructions.sh, and look at the difference.
# ctest: timeout 600
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/_common.sh"
require objdump cmake ninja gcc clang

if [[ $(uname -m) != x86_64 ]]; then
    echo "the golden files are for x86-64"
    exit 77
fi
golden_dir=$HAKMEM_SOURCE_DIR/tests/golden

# The instructions of a hit, one per line, addresses left out.
hit_of() { # LIBRARY FUNCTION
    local address
    address=$(nm -D --defined-only "$1" | sed -n "s/^\([0-9a-f]*\) . $2\$/\1/p")
    [[ -n $address ]] || fail "$1 has no $2"
    objdump -d --no-show-raw-insn --start-address="0x$address" --stop-address="$((0x$address + 160))" "$1" |
        sed -n 's/^ *[0-9a-f]*:\t//p' | sed 's/ *#.*//; s/-\{0,1\}0x[0-9a-f]*(%rip)/GLOBAL(%rip)/; s/^\(j[a-z]*\) .*/\1 SLOW/; s/ \+$//' |
        sed '/^ret/q'
}

check_hit() { # COMPILER LIBRARY FUNCTION MOST
    local golden=$golden_dir/$3.$1.txt version n
    version=$(basename "$1") && version="$version $("$1" -dumpversion | cut -d . -f 1)"
    hit_of "$2" "$3" > hit
    n=$(wc -l < hit)
    echo "   $1: $3 hits in $n instructions"
    grep -q '^ret' hit || fail "$3 does not return within its first instructions: $(head -n 20 hit)"
    if grep -E '^(call|jmp|lock|xchg|mfence)' hit; then fail "$3's hit has an instruction that it should not have"; fi
    [[ $n -le $4 ]] || { cat hit; fail "$3's hit takes $n instructions by $1, more than $4"; }
    { echo "$version"; cat hit; } > golden
    if [[ -n ${HAKMEM_UPDATE_GOLDEN:-} ]]; then
        mkdir -p "$golden_dir"
        cp golden "$golden"
    elif [[ $(head -n 1 "$golden") == "$version" ]]; then
        assert_same "$golden" golden
    else
        echo "   the golden file is of $(head -n 1 "$golden"): only counted"
    fi
}

for compiler in gcc clang; do
    step "$compiler"
    cmake -S "$HAKMEM_SOURCE_DIR" -B "build-$compiler" -G Ninja -DCMAKE_BUILD_TYPE=RelWithDebInfo "-DCMAKE_C_FLAGS_RELWITHDEBINFO=-O2 -g -DNDEBUG" -DHAKMEM_BUILD_TESTS=OFF -DHAKMEM_BUILD_COMMAND=OFF \
        -DCMAKE_C_COMPILER="$compiler" > cmake.log 2>&1 || { tail cmake.log; fail "cmake with $compiler"; }
    cmake --build "build-$compiler" --target libhakmem.so > build.log 2>&1 ||
        cmake --build "build-$compiler" --target hakmem_shared > build.log 2>&1 || { tail build.log; fail "$compiler"; }
    check_hit "$compiler" "build-$compiler/libhakmem.so" malloc 15
    check_hit "$compiler" "build-$compiler/libhakmem.so" free 16
done
