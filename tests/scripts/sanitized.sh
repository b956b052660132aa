#!/bin/bash
# sanitized.sh - programs that need a sanitizer's runtime are started without hakmem, in one line, and run.
set -euo pipefail
source "$(dirname "$0")/_common.sh"
require gcc

cat > program.c <<'END'
#include <stdio.h>
#include <stdlib.h>
int main(void)
{
    free(malloc(100));
    puts("ran");
}
END

for kind in address thread; do
    step "gcc -fsanitize=$kind"
    gcc -fsanitize=$kind -o "sanitized_$kind" program.c
    # ThreadSanitizer refuses some kernels' address layouts: then it does so without hakmem as well.
    if ! "./sanitized_$kind" > /dev/null 2>&1; then
        leave_out "it does not run at all on this machine"
        continue
    fi
    said=$("$HAKMEM_BUILD_DIR/hakmem" run -- "./sanitized_$kind" 2> errors) || fail "it does not run under hakmem run"
    [[ $said == ran ]] || fail "it says $said"
    [[ $(wc -l < errors) -eq 1 ]] && grep -q 'is built with a sanitizer.* runs without hakmem$' errors \
        || fail "it is not said in one line that hakmem steps aside: $(cat errors)"
done

step "a program without one"
gcc -o plain program.c
HAKMEM_STATS=1 "$HAKMEM_BUILD_DIR/hakmem" run -- ./plain 2> errors | grep -qx ran || fail "it does not run"
grep -q '^hakmem ' errors || fail "it did not run on hakmem: $(cat errors)"
finish
