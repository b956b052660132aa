# common.sh - what run.sh and compare.sh share; sourced, with the names of the build's products.
# shellcheck shell=bash disable=SC2034  # the names are used by the scripts that source this

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
build=$(cd "${HAKMEM_BUILD_DIR:-$here/../build}" 2>/dev/null && pwd) || build=${HAKMEM_BUILD_DIR:-build}
library=$build/libhakmem.so
measure=$build/measure
bench_hakmem=$build/bench_random_mixed_hakmem
bench_system=$build/bench_random_mixed_system
export LC_ALL=C
unset LD_PRELOAD HAKMEM_STATS

die() {
    echo "${0##*/}: $*" >&2
    exit 1
}

need_files() {
    local file
    for file; do
        [[ -e $file ]] || die "$file is missing: build first (make), or set HAKMEM_BUILD_DIR"
    done
}

# value NAME LINE: the value of NAME=value in a line of such pairs.
value() {
    [[ " $2 " =~ \ $1=([^ ]*)\  ]] && echo "${BASH_REMATCH[1]}"
}

# how_it_ended LINE: what a line of measure says about a command that failed.
how_it_ended() {
    local signal
    signal=$(value signal "$1")
    if [[ $signal != 0 ]]; then
        echo "crashed (signal $signal)"
    else
        echo "failed (exit status $(value exit "$1"))"
    fi
}

# calculate EXPRESSION [FORMAT]: the result of awk's arithmetic.
calculate() {
    awk "BEGIN { printf(\"${2:-%.2f}\", ($1)) }"
}

# smaller A B, larger A B: of two numbers; a missing A leaves B.
smaller() {
    calculate "${1:-$2} < $2 ? ${1:-$2} : $2" %.6f
}

larger() {
    calculate "${1:-$2} > $2 ? ${1:-$2} : $2" %d
}
