#!/bin/bash
# contention.sh - threads share little: bench/contention.py counts the library's atomic instructions and locks, and per million
# operations there are at most as many as here. Measured on the day this was written: 1017, 1990, 7858 and 27916 atomic
# instructions, and 80, 157, 565 and 2046 locks, for 1, 2, 8 and 32 threads; most of it at the threads' start and end.
# ctest: timeout 600
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/_common.sh"
require valgrind objdump python3 "${HAKMEM_CC:=cc}"

export HAKMEM_BUILD_DIR CC=$HAKMEM_CC
"$HAKMEM_SOURCE_DIR/bench/contention.py" 25 > table || fail "bench/contention.py: status $?"
cat table

# threads, most atomic instructions, most locks: twice what was measured
while read -r threads atomics locks; do
    awk -v threads="$threads" -v atomics="$atomics" -v locks="$locks" '
        $1 == threads { found = 1; ok = $2 > 0 && $2 <= atomics && $3 > 0 && $3 <= locks && (threads > 1 || $4 == 0) }
        END { exit !(found && ok) }' table || fail "$threads threads: more than $atomics atomic instructions or $locks locks"
done << 'EOF'
1 2000 160
2 4000 320
8 16000 1200
32 56000 4100
EOF
