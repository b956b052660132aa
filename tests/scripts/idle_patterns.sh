#!/bin/bash
# idle_patterns.sh - programs drawn by lot, of all sizes of blocks, fall asleep: what stays in memory is what their blocks need.
#
#   T1  a tenth more than the pages on which a block lies, and 6 MiB, is enough (bench/bench_memory.c, patterns). The tenth is for
#       what classes of sizes round up; 4 MiB may be idle before the background thread starts
#   T2  the check can fail: with HAKMEM_PURGE_DELAY_MS=-1 some pattern keeps more
#
# Nothing is timed: each waits until it is so, half a minute at most.
# ctest: timeout 600
set -euo pipefail
source "$(dirname "$0")/_common.sh"

# The first ones; and those of the first 120 that kept more before what lies behind large blocks went back, and before heaps of nothing
# but large blocks woke the thread.
readonly SEEDS=(1 2 3 4 5 6 7 8 9 25 34 51 61 77 92 114) AT_ONCE=4

patterns() { # MILLISECONDS; environment: what is preloaded, and the variables
    printf '%s\n' "${SEEDS[@]}" | xargs -P "$AT_ONCE" -I{} "$HAKMEM_BUILD_DIR/bench_memory" patterns {} "$1" 10 6144
}

step "memory goes back to what is needed"
LD_PRELOAD=$HAKMEM_LIB patterns 30000

step "without purging it does not"
if LD_PRELOAD=$HAKMEM_LIB HAKMEM_PURGE_DELAY_MS=-1 patterns 0 > /dev/null; then
    fail "T2: nothing is kept with purging switched off"
fi
