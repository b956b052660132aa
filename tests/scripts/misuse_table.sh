#!/bin/bash
# misuse_table.sh - how many misuses of the heap does each mode stop? Runs every case of tests/misuse in every mode and
# prints a table, one letter per size of a kind (8 bytes, 4 KiB, 256 KiB; one where size makes no difference):
#   R  report: aborted after a line of hakmem        S  signal: ended otherwise, mostly by a fault
#   h  harmless: what the allocator answered took the effect away
#   l  late: stopped after the program's last line   -  missed: nothing stopped it
# R, S and h count as stopped. It fails where a mode stops less than its floor, where default mode does not report what
# it promises to, and where a case differs from tests/misuse/expected.txt (case, default, secure, max), for better or
# worse. After a change that is meant: HAKMEM_UPDATE_GOLDEN=1 tests/scripts/misuse_table.sh, and look at the difference.
#
# Usage: misuse_table.sh [MODE...]     with MODE one of default, 1, max (the values of HAKMEM_SECURE): all three without
# arguments; or glibc, for comparison: it has no floor and nothing is expected of it.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/_common.sh"
require xargs
unset HAKMEM_SECURE
ulimit -c 0

FLOOR_DEFAULT=47
FLOOR_SECURE=100
FLOOR_MAX=110

# What default mode ends with a report, whatever else changes: addresses that are no block's, and large blocks.
must_report=('double_free*@256K' 'double_free_then_work@*' 'free_address_1@-' 'free_static@-' 'free_code@-'
    'free_unmapped@-' 'free_stack@*' 'free_alloca@*' 'free_plus_*@256K' 'free_plus_1g@*')

expected_file=$HAKMEM_SOURCE_DIR/tests/misuse/expected.txt
programs=("$HAKMEM_BUILD_DIR/tests/misuse_suite" "$HAKMEM_BUILD_DIR/tests/misuse_suite_cxx")
columns=(default 1 max) # of the file of what is expected, where mode 1 is called secure

if [[ $# -eq 0 ]]; then set -- "${columns[@]}"; fi
modes=()
for mode in "$@"; do
    case $mode in
        default | 1 | max | glibc) modes+=("$mode") ;;
        *) fail "unknown mode $mode: the modes are default, 1, max, glibc" ;;
    esac
done

# ---- Running ---------------------------------------------------------------------------------------------------------

# Prints one line MODE CASE VERDICT. The program's own output is empty or one word.
run_case() { # MODE CASE PROGRAM
    local errors=errors.$BASHPID said status=0 verdict surroundings=("LD_PRELOAD=$HAKMEM_LIB")
    case $1 in
        default) ;;
        glibc) surroundings=(-u LD_PRELOAD) ;;
        *) surroundings+=("HAKMEM_SECURE=$1") ;;
    esac
    said=$(env "${surroundings[@]}" "$3" run "$2" 2> "$errors") || status=$?
    case $said,$status in
        NOT_CAUGHT,0) verdict=missed ;;
        NOT_CAUGHT,*) verdict=late ;;
        HARMLESS,0) verdict=harmless ;;
        ,142) verdict=hangs ;; # SIGALRM
        ,134) if grep -q '^hakmem: ' "$errors"; then verdict=report; else verdict=signal; fi ;;
        ,13[0-9]) verdict=signal ;;
        *) verdict=broken ;;
    esac
    echo "$1 $2 $verdict"
    if [[ $verdict == broken ]]; then echo "$2 in mode $1: status $status: $said $(head -c 300 "$errors")" >&2; fi
}
run_cases() {
    while [[ $# -gt 0 ]]; do
        run_case "$1" "$2" "$3"
        shift 3
    done
}
export -f run_case run_cases
export HAKMEM_LIB

cases=()
for program in "${programs[@]}"; do
    [[ -x $program ]] || fail "$program is not built"
    for case in $("$program" list); do
        cases+=("$case")
        for mode in "${modes[@]}"; do echo "$mode $case $program"; done
    done
done > jobs.txt
[[ ${#cases[@]} -gt 0 ]] || fail "there are no cases"
assert_runs_on_hakmem "${programs[0]}" run read_empty@-
assert_runs_on_hakmem "${programs[1]}" run new_free@-
# shellcheck disable=SC2016 # expanded by the shell that xargs starts
xargs -P 2 -n 60 bash -c 'run_cases "$@"' _ < jobs.txt > verdicts.txt || fail "a case could not be run"

declare -A verdicts expected
while read -r mode case verdict; do verdicts[$mode $case]=$verdict; done < verdicts.txt
while read -r case in_default in_secure in_max; do
    expected[default $case]=$in_default expected[1 $case]=$in_secure expected[max $case]=$in_max
done < <(grep -v '^#' "$expected_file" 2> /dev/null)

# ---- The table -------------------------------------------------------------------------------------------------------

declare -A letters=([report]=R [signal]=S [harmless]=h [late]=l [missed]=- [hangs]=T [broken]=B)
declare -A rows n_stopped n_late
kinds=()
for case in "${cases[@]}"; do
    kind=${case%@*}
    if [[ -z ${kinds[*]} || ${kinds[-1]} != "$kind" ]]; then kinds+=("$kind"); fi
    for mode in "${modes[@]}"; do
        verdict=${verdicts[$mode $case]:-broken}
        rows[$mode $kind]+=${letters[$verdict]}
        case $verdict in
            report | signal | harmless) n_stopped[$mode]=$((${n_stopped[$mode]:-0} + 1)) ;;
            late) n_late[$mode]=$((${n_late[$mode]:-0} + 1)) ;;
        esac
    done
done
print_row() { # NAME FIELD...
    printf '%-30s' "$1"
    shift
    printf ' %8s' "$@"
    echo
}
print_row kind "${modes[@]}"
for kind in "${kinds[@]}"; do
    fields=()
    for mode in "${modes[@]}"; do fields+=("${rows[$mode $kind]}"); done
    print_row "$kind" "${fields[@]}"
done
stopped=() late=()
for mode in "${modes[@]}"; do stopped+=("${n_stopped[$mode]:-0}") late+=("${n_late[$mode]:-0}"); done
print_row "stopped, of ${#cases[@]}" "${stopped[@]}"
print_row "late" "${late[@]}"

# ---- The verdict -----------------------------------------------------------------------------------------------------

wrong=0
complain() {
    wrong=$((wrong + 1))
    echo "WRONG: $*" >&2
}

for case in "${cases[@]}"; do
    for mode in "${modes[@]}"; do
        case ${verdicts[$mode $case]:-} in
            hangs) complain "$case hangs in mode $mode" ;;
            broken | '') complain "$case cannot be run in mode $mode" ;;
        esac
    done
done

if [[ " ${modes[*]} " == *" default "* ]]; then
    for pattern in "${must_report[@]}"; do
        n=0
        for case in "${cases[@]}"; do
            # shellcheck disable=SC2053 # it is a pattern
            if [[ $case != $pattern ]]; then continue; fi
            n=$((n + 1))
            [[ ${verdicts[default $case]} == report ]] ||
                complain "$case must be reported in mode default: ${verdicts[default $case]}"
        done
        [[ $n -gt 0 ]] || complain "no case is called $pattern"
    done
fi

check_floor() { # MODE FLOOR
    if [[ " ${modes[*]} " != *" $1 "* ]]; then return; fi
    [[ ${n_stopped[$1]:-0} -ge $2 ]] || complain "mode $1 stops ${n_stopped[$1]:-0} cases, fewer than $2"
}
check_floor default "$FLOOR_DEFAULT"
check_floor 1 "$FLOOR_SECURE"
check_floor max "$FLOOR_MAX"

is_as_expected() { # MODE CASE
    local expects=${expected[$1 $2]:-nothing} did=${verdicts[$1 $2]:-}
    [[ $expects == "$did" || (" missed late " == *" $expects "* && " missed late " == *" $did "*) ]]
}

# What is expected, with the modes that were run replaced by what they did.
for mode in "${modes[@]}"; do
    if [[ $mode == glibc ]]; then continue; fi
    for case in "${cases[@]}"; do
        [[ -n ${HAKMEM_UPDATE_GOLDEN:-} ]] || is_as_expected "$mode" "$case" ||
            complain "$case in mode $mode: ${verdicts[$mode $case]:-}, expected ${expected[$mode $case]:-nothing}"
        expected[$mode $case]=${verdicts[$mode $case]:-}
    done
done
{
    echo "# case default secure max: what each mode does with each case; written by tests/scripts/misuse_table.sh"
    for case in "${cases[@]}"; do
        echo "$case ${expected[default $case]:-missed} ${expected[1 $case]:-missed} ${expected[max $case]:-missed}"
    done
} > expected
if [[ -n ${HAKMEM_UPDATE_GOLDEN:-} ]]; then
    cp expected "$expected_file"
elif [[ $(grep -vc '^#' "$expected_file" 2> /dev/null) -ne ${#cases[@]} ]]; then
    complain "$expected_file has not ${#cases[@]} cases"
fi
[[ $wrong -eq 0 ]] || fail "$wrong complaints"
