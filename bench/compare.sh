#!/usr/bin/env bash
# compare.sh - what `make bench-compare` shows: bench_random_mixed on hakmem, on the peers found here, and on glibc.
#
# One binary runs under each allocator by LD_PRELOAD, in turns, so that a change in the machine's load meets all. A time
# is the least of all rounds, a peak of memory the largest. A run that crashes, fails, hangs or is served by another
# allocator than the one asked for is reported as that, and its allocator gets no time for that working set.
# Exit status: 1 when hakmem is among the failed, else 0.
# Environment: HAKMEM_BUILD_DIR  default build
#              ROUNDS            default 7
#              ITER              operations of one run, default 10000000
#              WS                working sets, default "256 4096 100000"
#              PEERS             further allocators: "name=/path/to/lib.so ..."
#              LIMIT_S           seconds after which a run counts as hung, default 120
# HAKMEM_TINY_PROFILE reaches the library as usual.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=common.sh
source "$(dirname "$0")/common.sh"

readonly ROUNDS=${ROUNDS:-7} ITER=${ITER:-10000000} WS=${WS:-256 4096 100000} LIMIT_S=${LIMIT_S:-120}
readonly DEBIAN_PEERS='mimalloc=libmimalloc.so.2 jemalloc=libjemalloc.so.2 tcmalloc=libtcmalloc_minimal.so.4'

for number in "$ROUNDS" "$ITER" "$LIMIT_S" $WS; do
    [[ $number =~ ^[1-9][0-9]*$ ]] || die "ROUNDS, ITER, LIMIT_S and WS are numbers above 0, not '$number'"
done
need_files "$library" "$measure" "$bench_system"
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

names=(hakmem)
declare -A path=([hakmem]=$library) # empty for glibc: nothing is preloaded

find_installed() { # SONAME: prints the path of an installed library, or nothing
    local file
    for file in "/usr/lib/$(uname -m)-linux-gnu/$1" "/usr/lib64/$1"; do
        [[ -e $file ]] && echo "$file" && return
    done
    PATH=$PATH:/sbin:/usr/sbin ldconfig -p 2>/dev/null | awk -v name="$1" '$1 == name && !done { print $NF; done = 1 }'
}

add_allocator() { # NAME PATH
    [[ -z ${path[$1]+known} ]] || die "two allocators are called $1"
    names+=("$1")
    path[$1]=$2
}

find_allocators() {
    local peer file
    for peer in $DEBIAN_PEERS; do
        file=$(find_installed "${peer#*=}")
        if [[ -n $file ]]; then
            add_allocator "${peer%%=*}" "$file"
        else
            echo "${peer%%=*}: no ${peer#*=} installed, left out" >&2
        fi
    done
    for peer in ${PEERS:-}; do
        [[ $peer == ?*=/* ]] || die "PEERS: '$peer' is not name=/path/to/lib.so"
        need_files "${peer#*=}"
        add_allocator "${peer%%=*}" "${peer#*=}"
    done
    add_allocator glibc ''
}

declare -A seconds peak_kib failure # indexed by "NAME WORKING_SET"

check_served() { # NAME LINE: fails unless the benchmark says that a preloaded library served it
    local allocator
    allocator=$(value allocator "$2") || return
    case $1 in
    glibc) [[ $allocator == system ]] ;;
    hakmem) [[ $allocator == hakmem ]] ;;
    *) [[ $allocator != system ]] ;;
    esac
}

run_once() { # NAME WORKING_SET
    local key="$1 $2" status=0 line measured
    local options=(-o "$scratch/measured")
    [[ -z ${path[$1]} ]] || options+=(-e "LD_PRELOAD=${path[$1]}")
    timeout "$LIMIT_S" "$measure" "${options[@]}" -- "$bench_system" "$ITER" "$2" >"$scratch/line" || status=$?
    line=$(<"$scratch/line")
    if ((status == 124)); then
        failure[$key]="hung (no result in $LIMIT_S s)"
    elif ((status != 0)); then
        failure[$key]=$(how_it_ended "$(<"$scratch/measured")")
    elif ! check_served "$1" "$line"; then
        failure[$key]="did not run on ${path[$1]}"
    else
        measured=$(<"$scratch/measured")
        seconds[$key]=$(smaller "${seconds[$key]:-}" "$(value elapsed_s "$line")")
        peak_kib[$key]=$(larger "${peak_kib[$key]:-}" "$(value max_rss_kib "$measured")")
    fi
}

run_all() {
    local set round name
    for set in $WS; do
        for ((round = 1; round <= ROUNDS; round++)); do
            echo "working set $set: round $round of $ROUNDS" >&2
            for name in "${names[@]}"; do
                [[ -n ${failure[$name $set]:-} ]] || run_once "$name" "$set"
            done
        done
    done
}

print_row() { # NAME WORKING_SET
    local key="$1 $2" ratio=-
    if [[ -n ${failure[$key]:-} ]]; then
        printf '%11s  %-16s %s\n' "$2" "$1" "${failure[$key]}"
        return
    fi
    [[ -n ${failure[hakmem $2]:-} ]] || ratio=$(calculate "${seconds[$key]} / ${seconds[hakmem $2]}")
    printf '%11s  %-16s %8s %12s %10s\n' "$2" "$1" "$(calculate "${seconds[$key]} * 1e9 / $ITER")" "$ratio" \
        "$(calculate "${peak_kib[$key]} / 1024" %.1f)"
}

print_table() {
    local set name
    printf '\n%11s  %-16s %8s %12s %10s\n' 'working set' allocator ns/op 'time/hakmem' 'peak MiB'
    for set in $WS; do
        for name in "${names[@]}"; do
            print_row "$name" "$set"
        done
    done
    echo "bench_random_mixed, $ITER operations, least time and largest peak of $ROUNDS rounds in turns."
}

find_allocators
run_all
print_table
for set in $WS; do
    [[ -z ${failure[hakmem $set]:-} ]] || exit 1
done
