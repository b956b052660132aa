#!/usr/bin/env bash
# run.sh - what `make run` shows: two workloads on hakmem and on the system's malloc, and what hakmem's tiers did.
#
# Both sides take turns (hakmem, system, hakmem, ...), so that a change in the machine's load meets both. A time is the
# least of all rounds, a peak of memory the largest. Any run that fails, or whose output differs, ends this script.
# Environment: HAKMEM_BUILD_DIR (default build); HAKMEM_TINY_PROFILE reaches the library as usual.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=common.sh
source "$(dirname "$0")/common.sh"

readonly MIXED_ITERATIONS=10000000 MIXED_SETS=(256 4096 100000) MIXED_ROUNDS=5 SQLITE_ROUNDS=3

need_files "$library" "$measure" "$bench_hakmem" "$bench_system"
command -v sqlite3 >/dev/null || die "sqlite3 is missing: install the package sqlite3"
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

declare -A seconds peak_kib # indexed by "WORKLOAD SIDE"

note_result() { # WORKLOAD SIDE SECONDS KIB
    seconds[$1 $2]=$(smaller "${seconds[$1 $2]:-}" "$3")
    peak_kib[$1 $2]=$(larger "${peak_kib[$1 $2]:-}" "$4")
}

# measured OPTION... -- COMMAND...: measure, which reports to $scratch/measured; ends the script when the command fails.
measured() {
    "$measure" -o "$scratch/measured" "$@" && return
    die "$(how_it_ended "$(<"$scratch/measured")"): $*"
}

mixed_once() { # SIDE SET
    local program=$bench_system line
    [[ $1 == hakmem ]] && program=$bench_hakmem
    measured -- "$program" "$MIXED_ITERATIONS" "$2" >"$scratch/line"
    line=$(<"$scratch/line")
    [[ $(value allocator "$line") == "$1" ]] || die "$program did not run on $1: $line"
    note_result "random_mixed $2" "$1" "$(value elapsed_s "$line")" "$(value max_rss_kib "$(<"$scratch/measured")")"
}

sqlite_once() { # SIDE [OPTION OF measure]...
    local side=$1
    shift
    [[ $side == hakmem ]] && set -- -e "LD_PRELOAD=$library" "$@"
    measured "$@" -- sqlite3 -init /dev/null -batch -bail :memory: <"$here/sqlite.sql" >"$scratch/$side.out"
}

sqlite_round() {
    local side line
    for side in hakmem system; do
        sqlite_once "$side"
        line=$(<"$scratch/measured")
        note_result sqlite3 "$side" "$(value elapsed_s "$line")" "$(value max_rss_kib "$line")"
    done
    cmp -s "$scratch/hakmem.out" "$scratch/system.out" || die "sqlite3 gave different results on hakmem and the system"
    [[ $(tail -n 1 "$scratch/hakmem.out") == ok ]] || die "sqlite3 found its database damaged"
}

run_all() {
    local set round
    for set in "${MIXED_SETS[@]}"; do
        for ((round = 1; round <= MIXED_ROUNDS; round++)); do
            echo "random_mixed, working set $set: round $round of $MIXED_ROUNDS" >&2
            mixed_once hakmem "$set"
            mixed_once system "$set"
        done
    done
    for ((round = 1; round <= SQLITE_ROUNDS; round++)); do
        echo "sqlite3: round $round of $SQLITE_ROUNDS" >&2
        sqlite_round
    done
}

# ---- The table ----

mops() { # WORKLOAD SIDE
    [[ $1 == sqlite3 ]] && echo - && return
    calculate "$MIXED_ITERATIONS / 1e6 / ${seconds[$1 $2]}" %.1f
}

print_row() { # WORKLOAD
    local h=${seconds[$1 hakmem]} s=${seconds[$1 system]} hk=${peak_kib[$1 hakmem]} sk=${peak_kib[$1 system]} ratio=-
    [[ $1 == sqlite3 ]] || ratio=$(calculate "$s / $h")
    printf '%-20s %8s %7s %6s  %8.3f %7.3f %6s  %8s %7s %6s\n' "$1" "$(mops "$1" hakmem)" "$(mops "$1" system)" \
        "$ratio" "$h" "$s" "$(calculate "$h / $s")" "$(calculate "$hk / 1024" %.1f)" "$(calculate "$sk / 1024" %.1f)" \
        "$(calculate "$hk / $sk")"
}

print_table() {
    local set
    printf '\n%-20s %-24s %-24s %s\n' '' ' million operations/s' '         seconds' '    peak memory, MiB'
    printf '%-20s %8s %7s %6s  %8s %7s %6s  %8s %7s %6s\n' workload hakmem system ratio hakmem system ratio hakmem \
        system ratio
    for set in "${MIXED_SETS[@]}"; do
        print_row "random_mixed $set"
    done
    print_row sqlite3
    echo "ratio: hakmem / system. random_mixed N: working set of N slots. sqlite3: 300,000 rows, same output on both."
}

# ---- What the tiers did ----

count_of() { # FILE FIELD: a number of the library's JSON object
    sed -n "s/.*\"$2\" *: *\([0-9][0-9]*\).*/\1/p" "$1"
}

lock_acquisitions() { # FILE: the sum over all causes
    sed -n 's/.*"lock_acquisitions" *: *{\([^}]*\)}.*/\1/p' "$1" | awk -F'[:,]' '{ for (i = 2; i <= NF; i += 2) n += $i; print n + 0 }'
}

stats_row() { # LABEL FUNCTION ARGUMENT
    printf '%-46s' "$1"
    local file
    for file in "$scratch/mixed.json" "$scratch/sqlite.json"; do
        printf ' %16s' "$($2 "$file" "${3:-}")"
    done
    echo
}

mib_of() { calculate "$(count_of "$1" "$2") / 1048576" %.1f; }

print_tiers() {
    local largest=${MIXED_SETS[-1]}
    measured -e "HAKMEM_STATS=$scratch/mixed.json" -- "$bench_hakmem" "$MIXED_ITERATIONS" "$largest" >/dev/null
    sqlite_once hakmem -e "HAKMEM_STATS=$scratch/sqlite.json"
    [[ -s $scratch/mixed.json && -s $scratch/sqlite.json ]] || die "the library wrote no statistics (HAKMEM_STATS=FILE)"

    printf '\n%-46s %16s %16s\n' 'what the tiers did (a run of its own, at exit)' "mixed $largest" sqlite3
    stats_row 'SuperSlabs mapped' count_of superslabs_mapped_total
    stats_row '  given back at once, at tier FREE' count_of superslabs_released_total
    stats_row '  given back from the LRU cache' count_of superslabs_evicted_total
    stats_row '  now HOT' count_of superslabs_hot
    stats_row '  now DRAINING' count_of superslabs_draining
    stats_row '  now empty, in the LRU cache' count_of superslabs_cached
    stats_row 'tier changes HOT -> DRAINING' count_of tier_hot_to_draining
    stats_row '  DRAINING -> HOT' count_of tier_draining_to_hot
    stats_row '  to FREE' count_of tier_to_free
    stats_row "slabs acquired from the class's list" count_of stage_class_list
    stats_row '  from a slot of the pool' count_of stage_slot
    stats_row '  by reopening a DRAINING SuperSlab' count_of stage_reopen
    stats_row '  from the LRU cache' count_of stage_lru
    stats_row '  from the system' count_of stage_os
    stats_row 'slabs released' count_of slabs_released
    stats_row '  reused by another class' count_of slot_reuses_other_class
    stats_row 'lock acquisitions, all causes' lock_acquisitions
    stats_row '  that had to wait' count_of lock_contended
    stats_row 'committed at the peak, MiB' mib_of peak_committed_bytes
    stats_row 'committed at exit, MiB' mib_of committed_bytes
    stats_row 'given back from inside SuperSlabs, MiB' mib_of purged_bytes
}

run_all
print_table
print_tiers
