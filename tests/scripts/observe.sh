#!/bin/bash
# observe.sh - the hunt of docs/observe.md, in small: the leak that is planted in examples/observe/kv.c is found from outside, in a
# process that was started with no option; and in the one without it nothing is found.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/_common.sh"
hakmem=$HAKMEM_BUILD_DIR/hakmem
example=$HAKMEM_SOURCE_DIR/examples/observe
[[ -x $hakmem ]] || fail "there is no $hakmem"
require python3 promtool

# Waits until a command succeeds; the words say what for.
wait_for() { # WORDS COMMAND...
    local words=$1 i
    shift
    for ((i = 0; i < 600; i++)); do
        if "$@" > /dev/null 2>&1; then return 0; fi
        sleep 0.1
    done
    fail "waited in vain for $words"
}

load() { python3 "$example/load.py" socket "$@"; }

live_bytes() { "$hakmem" top --once "$pid" | awk '$1 == "live_bytes" { print $2 }'; }

# All that is asked of one of the two servers. Leaves NAME.leaks and NAME.diff, and what its live bytes grew by in $growth.
hunt() { # NAME
    local name=$1 before
    step "$name: a session that begins while it works, a first look, more work, a second look"
    cp "$HAKMEM_BUILD_DIR/examples/$name" "$name.$$" # a name of its own, for who looks for a server by its name
    "$hakmem" run -- "./$name.$$" socket > "$name.out" &
    pid=$!
    started_pids+=("$pid")
    wait_for "$name" grep -q listening "$name.out"
    # Until it is ended, and longer than a minute: a session begins when the server asks for more than a thread has at hand.
    python3 "$example/load.py" socket --ttl 1000 --rate 3000 --visits 200000 > /dev/null &
    local loader=$!
    "$hakmem" profile --seconds 100 --interval 16K -o "$name.later.pb.gz" "$pid" &
    local profiler=$!
    started_pids+=("$loader" "$profiler")
    wait_for "the session" "$hakmem" profile --seconds 0 -o "$name.begun.pb.gz" "$pid"
    kill "$loader"
    wait "$loader" 2> /dev/null || true
    load --visits 500 --ttl 50 --settle
    "$hakmem" profile --seconds 0 -o "$name.earlier.pb.gz" "$pid"
    before=$(live_bytes)
    load --visits 10000 --ttl 50 --settle
    growth=$(($(live_bytes) - before))
    kill -TERM "$profiler"
    wait "$profiler" || fail "the profile ended with status $?"
    "$hakmem" profile -f leaks "$name.later.pb.gz" > "$name.leaks"
    "$hakmem" diff "$name.earlier.pb.gz" "$name.later.pb.gz" > "$name.diff"
    "$hakmem" check "$pid" || fail "the heap is not sound"
    "$hakmem" metrics "$pid" > "$name.metrics"
    kill -KILL "$pid"
    wait "$pid" 2> /dev/null || true
    rm socket
}

# The first stack of a listing: the indented lines behind the first amount.
first_stack() { awk '/^    / { print; n++; next } n { exit }' "$1"; }

hunt kv
step "the leak is the first in both listings, with its lines"
# 10,000 sessions of 350 bytes on average, a quarter of which is deleted.
[[ $growth -gt 2000000 ]] || fail "it has leaked $growth bytes only"
line=$(grep -n 'need(malloc(sizeof \*value' "$example/kv.c" | cut -d : -f 1)
for listing in kv.leaks kv.diff; do
    first_stack $listing > stack
    head -n 1 stack | grep -q "^    value_new  .*kv\.c:$line\$" || fail "$listing: not value_new at line $line: $(head -n 12 $listing)"
    grep -q '^    command_setex  ' stack || fail "$listing: not by SETEX: $(cat stack)"
done
grep -m 1 '^+' kv.diff
awk '/^hakmem_live_bytes / { exit !($2 > 2000000) }' kv.metrics || fail "the metrics do not have it"

hunt kv-fixed
step "without the leak there is no trace of it"
[[ $growth -lt 1000000 ]] || fail "it has grown by $growth bytes"
for listing in kv-fixed.leaks kv-fixed.diff; do
    if grep -q command_setex $listing; then fail "$listing: $(head -n 30 $listing)"; fi
done

step "the build line of the page, and its alerts"
line="cc -O2 -g -o kv examples/observe/kv.c"
grep -qxF "\$ $line" "$HAKMEM_SOURCE_DIR/docs/observe.md" || fail "the page does not say: $line"
(cd "$HAKMEM_SOURCE_DIR" && "${HAKMEM_CC:-cc}" -O2 -g -o "$work/by-hand" examples/observe/kv.c)
promtool check rules "$example/alerts.yml" > said 2>&1 || fail "$(cat said)"
promtool test rules "$example/alerts_test.yml" > said 2>&1 || fail "$(cat said)"

echo "observe: the planted leak is found, and is not where it is not"
