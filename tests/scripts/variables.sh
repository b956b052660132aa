#!/bin/bash
# variables.sh - each variable takes the values that it is documented to take without a word, and any other with one line that
# names it; the program runs either way. None is left out, here or in the documentation. A set-user-ID program listens to none.
set -euo pipefail
source "$(dirname "$0")/_common.sh"

# The program says on stderr nothing of its own.
says() { # NAME VALUE
    env "$1=$2" "LD_PRELOAD=$HAKMEM_LIB" ls / 2>&1 > listing
    [[ -s listing ]] || fail "$1=$2: ls lists nothing"
}

: > tried
good() { # NAME VALUE...
    local name=$1 value said
    echo "$name good" >> tried
    shift
    for value in "$@"; do
        said=$(says "$name" "$value")
        [[ -z $said ]] || fail "$name=$value is said to be wrong: $said"
    done
}

bad() { # NAME VALUE...
    local name=$1 value said
    echo "$name bad" >> tried
    shift
    for value in "$@"; do
        said=$(says "$name" "$value")
        [[ $said == "hakmem: $name=$(cut -c 1-100 <<< "$value")"*" is not understood (expected "*"); using "* ]] || fail "$name=$value: $said"
        [[ $(wc -l <<< "$said") -eq 1 ]] || fail "$name=$value takes more than a line"
    done
}

step "values that are taken"
good HAKMEM_TINY_PROFILE conservative hot off full
good HAKMEM_ON_ERROR abort warn
good HAKMEM_STATS 0 "$work/statistics"
good HAKMEM_GAPS on off
good HAKMEM_DEBUG 0
good HAKMEM_LRU_SUPERSLABS 0 65536
good HAKMEM_EMPTY_SLABS 0 1048576
good HAKMEM_PURGE_DELAY_MS -1 0 86400000
good HAKMEM_BACKGROUND auto off
good HAKMEM_THP never auto always
good HAKMEM_GUARD_SAMPLE 0 auto 1 1000 1000000000
good HAKMEM_BUDGET 0 1M 64M 1G 8M:16M 50% 100% auto
good HAKMEM_SECURE 0 1 max canary zero,canary canary,zero,quarantine,random,guard,type type
good HAKMEM_ARENA_BYTES 0 2M 64G
good HAKMEM_PROFILE 0 /dev/null
good HAKMEM_PROFILE_INTERVAL 1 512K 1T

step "values that are not"
bad HAKMEM_TINY_PROFILE "" Hot "hot "
bad HAKMEM_ON_ERROR "" ignore
bad HAKMEM_STATS "" 2 yes "/$(printf 'x%.0s' {1..1100})"
bad HAKMEM_LRU_SUPERSLABS "" -1 65537 4K 99999999999999999999999
bad HAKMEM_EMPTY_SLABS "" x 1048577
bad HAKMEM_PURGE_DELAY_MS "" -2 86400001
bad HAKMEM_BACKGROUND "" on
bad HAKMEM_GAPS "" yes
bad HAKMEM_DEBUG "" 2
bad HAKMEM_THP "" yes
bad HAKMEM_GUARD_SAMPLE -1 1000000001 often 1K ""
bad HAKMEM_BUDGET "" 1 100K 0% 101% 16M:8M :8M 8M: 8MB 1T1 99999999T \
    "$(printf '1%.0s' {1..300})" "$(printf '1%.0s' {1..300}):2M" "1M:$(printf '0%.0s' {1..300})2M" "$(printf '1%.0s' {1..300})%"
bad HAKMEM_SECURE "" 2 Max canary, ,canary canary,,zero canary,0 all zero,canaries
bad HAKMEM_ARENA_BYTES "" 1M 65T -1
bad HAKMEM_PROFILE "" "/$(printf 'x%.0s' {1..1100})"
bad HAKMEM_PROFILE_INTERVAL "" 0 -1 1KB 2T 99999999999999999999999

step "all of them"
"$HAKMEM_BUILD_DIR/hakmem" help variables > listed
sed -n 's/^\(HAKMEM_[A-Z_]*\)=.*/\1/p' listed > names
[[ $(wc -l < names) -ge 16 ]] || fail "there are but $(wc -l < names) variables"
while read -r name; do
    grep -qx "$name good" tried && grep -qx "$name bad" tried || fail "$name is not tried"
    grep -q "^| \`$name\` |" "$HAKMEM_SOURCE_DIR/docs/configuration.md" || fail "docs/configuration.md does not know $name"
done < names

step "a set-user-ID program listens to none, and hands none on"
cat > privileged.c << 'EOF'
#include <stdio.h>
#include <stdlib.h>
#include <sys/auxv.h>
#include <unistd.h>
int main(void)
{
    free(malloc(100));
    puts(getauxval(AT_SECURE) != 0 ? "privileged" : "like any");
    fflush(stdout);
    return getenv("START") != NULL && execl("/usr/bin/env", "env", (char *)NULL) != 0;
}
EOF
"${HAKMEM_CC:-gcc}" -o privileged privileged.c "$HAKMEM_BUILD_DIR/libhakmem.a" -Wl,-u,malloc -pthread -ldl
HAKMEM_STATS=1 HAKMEM_THP=bad ./privileged > out 2> err
grep -qx "like any" out || fail "it says $(cat out)"
grep -q '^hakmem ' err && grep -q '^hakmem: HAKMEM_THP=bad' err || fail "it does not run on hakmem: $(cat err)"
env -i HAKMEM_GAPS=on START=1 HAKMEM_OTHER=1 HAKMEM_BUDGET=1G ./privileged > out || fail "status $?"
[[ "$(cat out)" == $'like any\nHAKMEM_GAPS=on\nSTART=1\nHAKMEM_OTHER=1\nHAKMEM_BUDGET=1G' ]] || fail "it hands on: $(cat out)"
if chown 65534:65534 privileged 2> /dev/null && chmod u+s privileged && ./privileged > out && grep -qx privileged out; then
    for setting in HAKMEM_STATS=1 "HAKMEM_STATS=$work/by-root.json" HAKMEM_PROFILE=report "HAKMEM_PROFILE=$work/by-root.gz" HAKMEM_THP=bad \
        HAKMEM_SECURE=bad HAKMEM_BUDGET=bad HAKMEM_ARENA_BYTES=bad; do
        env "$setting" ./privileged > out 2> err || fail "$setting: status $?"
        [[ ! -s err && ! -e by-root.json && ! -e by-root.gz ]] || fail "$setting: a set-user-ID program listens: $(head -n 3 err)"
    done
    env -i HAKMEM_STATS=/nowhere START=1 HAKMEM_PROFILE=report HAKMEM_OTHER=1 HAKMEM_BUDGET=1G LAST=1 ./privileged > out || fail "status $?"
    [[ "$(cat out)" == $'privileged\nSTART=1\nHAKMEM_OTHER=1\nLAST=1' ]] || fail "it hands on: $(cat out)"
else
    leave_out "no set-user-ID program can be made here"
fi
finish
