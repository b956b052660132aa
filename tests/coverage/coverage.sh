#!/bin/bash
# coverage.sh - how many lines of the library the tests run, file by file; `make coverage`.
#
# Builds build/coverage, runs its tests, and prints gcovr's table; every line that did not run is marked in
# build/coverage/html/index.html. Left out are the tests that count instructions or look at the compiled library, and those
# of other builds, and quiet_signals, under whose limit counts cannot be written. A process that a signal ends writes no
# counts, so what is found is a lower bound.
#
# Usage: coverage.sh [CTEST-OPTION...]     further options choose among the tests.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

cmake --preset coverage > /dev/null
cmake --build --preset coverage
find build/coverage -name '*.gcda' -delete

# A test may fail here alone, by the time that counting takes: that is shown, and no reason to show no figures.
failed=0
ctest --preset coverage \
    -E '^(check_|hit_|lookup_cost|contention|models|sanitized|real_node|real_compile|fuzz_short$|quiet_signals$)' "$@" || failed=$?

mkdir -p build/coverage/html
gcovr --root . --object-directory build/coverage --filter 'src/' --gcov-ignore-parse-errors \
    --html-details build/coverage/html/index.html --txt -
exit "$failed"
