#!/bin/bash
# run.sh - the whole test run of `make test`: every kind of build, and the tests that tell something there.
#
#   release  gcc, warnings are errors; all tests
#   clang    warnings are errors; built only
#   debug    with the event log; unit tests
#   asan     AddressSanitizer and UndefinedBehaviorSanitizer; unit tests
#   races    ThreadSanitizer; the unit tests with threads that take seconds. Left out, and counted as skipped, where the kernel's
#            address layout is none that ThreadSanitizer can work with
#   tsan     ThreadSanitizer; all unit tests, only when named
#
# Usage: run.sh [KIND...]     without arguments: release clang debug asan races.
# A kind that fails does not stop the others. The last line is the sum of all.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1

passed=0
failed=0
skipped=0

# Adds the counts of one run of ctest, as its report in JUnit's format has them.
add_counts() {
    local report=$1 line total failures disabled unrun
    line=$(tr '\n' ' ' < "$report" 2> /dev/null | sed -n 's/.*<testsuite \([^>]*\)>.*/\1/p' | head -n 1)
    if [[ -z $line ]]; then return; fi
    count_of() { sed -n "s/.*\b$1=\"\([0-9]*\)\".*/\1/p" <<< "$line"; }
    total=$(count_of tests)
    failures=$(count_of failures)
    disabled=$(count_of disabled)
    unrun=$(count_of skipped)
    failed=$((failed + failures))
    skipped=$((skipped + disabled + unrun))
    passed=$((passed + total - failures - disabled - unrun))
}

readonly RACES=(gap tail keepers lru profile span_cache shared_pool class_set stats threads pool_policy census)

# The preset of a kind, and what of it is built.
build() {
    local kind=$1 preset=$1 targets=()
    if [[ $kind == races ]]; then
        preset=tsan
        targets=(--target "${RACES[@]/#/test_}")
    fi
    echo "==== $kind: build"
    cmake --preset "$preset" -DHAKMEM_WERROR=ON -DHAKMEM_REQUIRE_TEST_TOOLS=ON > /dev/null \
        && cmake --build --preset "$preset" "${targets[@]}"
}

# Whether a program runs under ThreadSanitizer here.
thread_sanitizer_works() {
    local scratch status=0
    scratch=$(mktemp -d)
    echo 'int main(void) { return 0; }' > "$scratch/empty.c"
    clang -fsanitize=thread -o "$scratch/empty" "$scratch/empty.c" && "$scratch/empty" || status=1
    rm -rf "$scratch"
    return $status
}

# Runs the tests of a preset; further arguments choose among them.
check() {
    local kind=$1 report
    shift
    report=$(mktemp)
    echo "==== $kind: test"
    local failed_before=$failed
    local status=0
    ctest --preset "$kind" --output-junit "$report" "$@" || status=$?
    add_counts "$report"
    rm -f "$report"
    # A ctest that fails without naming a test has still failed.
    if [[ $status -ne 0 && $failed -eq $failed_before ]]; then failed=$((failed + 1)); fi
}

if [[ $# -eq 0 ]]; then set -- release clang debug asan races; fi
for kind in "$@"; do
    if [[ $kind == races ]] && ! thread_sanitizer_works; then
        echo "==== races: ThreadSanitizer does not run here"
        skipped=$((skipped + ${#RACES[@]}))
        continue
    fi
    if ! build "$kind"; then
        echo "==== $kind: the build failed"
        failed=$((failed + 1))
        continue
    fi
    case "$kind" in
        release) check release ;;
        clang) ;;
        races) check tsan --tests-regex "^test_($(IFS='|'; echo "${RACES[*]}"))\$" ;;
        *) check "$kind" --label-regex '^unit$' ;;
    esac
done

echo "$passed passed, $failed failed, $skipped skipped"
[[ $failed -eq 0 ]]
