#!/bin/bash
# top.sh - `hakmem top` for scripts: a heap that is known is told right, as text and as JSON; samples, ends and errors.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/_common.sh"
# shellcheck source=tests/scripts/_inspected.sh
source "$HAKMEM_SOURCE_DIR/tests/scripts/_inspected.sh"
require jq
start_inspected

step "text"
"$hakmem" top --once "$inspected" > text
figure() { awk -v name="$1" -v field="${2:-2}" '$1 == name { print $field; exit }' text; }
[[ $(figure process) == "$inspected" && $(figure process 3) == inspected ]] || fail "the head: $(head -n 1 text)"
[[ $(figure live_bytes) -ge $((20000 * 64 + 3000 * 1000 + (100 << 10) + (4 << 20))) ]] || fail "live_bytes $(figure live_bytes)"
[[ $(figure 64 3) -ge 20000 && $(figure 64 3) -lt 20100 ]] || fail "64: $(figure 64 3) blocks live"
[[ $(figure 1024 3) -ge 3000 && $(figure 1024 3) -lt 3100 ]] || fail "1024: $(figure 1024 3) blocks live"
[[ $(figure span 7) -ge $((100 << 10)) && $(figure run 7) -eq $((4 << 20)) ]] || fail "spans and runs: $(figure span 7) $(figure run 7)"
[[ $(figure threads) -eq 4 ]] || fail "threads: $(figure threads)"
for name in inspected "holder one" "holder two" busy; do
    grep -q "  $name\$" text || fail "no thread $name: $(tail -n 5 text)"
done
[[ $(figure torn_records) -eq 0 ]] || echo "   (some records were torn, as may be)"

step "JSON fits the statistics' schema, and the process's own sums"
"$hakmem" top --json "$inspected" > json
[[ $(wc -l < json) -eq 1 ]] || fail "not one line"
jq -e --argjson pid "$inspected" '.pid == $pid and .name == "inspected" and .interval_s == null and .rates == null' json > /dev/null ||
    fail "the head: $(jq -c 'del(.heap, .threads)' json)"
jq -e '[.threads[].name] | sort == ["busy", "holder one", "holder two", "inspected"]' json > /dev/null ||
    fail "threads: $(jq -c .threads json)"
jq -e '.heap | .live_blocks >= 23002 and (.classes[] | select(.block_bytes == 64) | .live_blocks) >= 20000' json > /dev/null ||
    fail "blocks: $(jq -c .heap json)"
jq -c .heap json > heap.json
python=
for candidate in python3 /usr/bin/python3; do
    if "$candidate" -c 'from jsonschema import Draft202012Validator' 2> /dev/null; then python=$candidate; break; fi
done
[[ -n $python ]] || fail "no python3 has the module jsonschema (Debian: python3-jsonschema)"
"$python" -c '
import json, sys
from jsonschema import Draft202012Validator
Draft202012Validator(json.load(open(sys.argv[1]))).validate(json.load(open("heap.json")))' "$HAKMEM_SOURCE_DIR/docs/stats-schema.json" ||
    fail "the heap does not fit docs/stats-schema.json"

step "without a terminal it is --once; --name finds the same process"
start_inspected "inspected-$$"
"$hakmem" top --name "inspected-$$" < /dev/null > named
grep -q "^process $inspected inspected-$$\$" named || fail "the head: $(head -n 1 named)"
stop_inspected
inspected=${started_pids[0]}

step "samples have rates from the second on"
"$hakmem" top --json --every 0.3 --samples 3 "$inspected" > samples
[[ $(wc -l < samples) -eq 3 ]] || fail "$(wc -l < samples) lines"
jq -e -s '(.[0].rates == null) and ([.[1:][] | .interval_s > 0.05 and .rates.refills > 0 and .rates.flushes > 0 and
          (.threads[] | select(.name == "busy") | .refills_per_s > 0)] | all)' samples > /dev/null ||
    fail "rates: $(jq -c '.rates' samples)"
"$hakmem" top --once --every 0.1 --samples 2 "$inspected" > two
[[ $(grep -c '^process ' two) -eq 2 && $(grep -c '^interval_s ' two) -eq 1 ]] || fail "not two samples of text"

step "the process ends"
start_inspected ends
for samples in 0 1000000; do
    [[ $samples -eq 0 ]] || start_inspected ends
    rm -f until-end
    "$hakmem" top --json --every 0.1 --samples $samples "$inspected" > until-end 2> err & looker=$!
    wait_for "the first samples" test -s until-end
    stop_inspected
    status=0
    wait "$looker" || status=$?
    [[ $status -eq $((samples > 0)) ]] || fail "status $status after --samples $samples: $(cat err)"
    [[ $(cat err) == "hakmem: process $inspected has ended after "*" samples" ]] || fail "the line: $(cat err)"
    jq -e -s 'length > 0' until-end > /dev/null || fail "not JSON to the last line"
done
inspected=${started_pids[0]}

step "it executes another program: that one is looked at, and no rate is negative"
cat > executes.c << 'END'
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
int main(int argc, char **argv)
{
    for (int i = 0; i < 100000; i++)
        if (malloc(argc < 2 ? 300 : 30) == NULL) return 1;
    puts(argc < 2 ? "first" : "second");
    fflush(stdout);
    getchar();
    if (argc < 2) execl(argv[0], argv[0], "again", NULL);
    return 0;
}
END
"${HAKMEM_CC:-cc}" -O1 -o executes executes.c
mkfifo keys
env LD_PRELOAD="$HAKMEM_LIB" ./executes < keys > executes.out & executes=$!
started_pids+=("$executes")
exec 7> keys
wait_for "the first program" grep -q first executes.out
"$hakmem" top --json --every 0.1 --samples 0 "$executes" > both 2> err & looker=$!
wait_for "a sample of the first" test -s both
echo x >&7
wait_for "the second program" grep -q second executes.out
wait_for "a sample of the second" sh -c 'jq -e -s "any(.heap.live_bytes < 20000000 and .heap.live_blocks > 99000)" both > /dev/null 2>&1'
echo x >&7
wait "$looker" || fail "status $?: $(cat err)"
exec 7>&-
jq -e -s '[.[].rates // {} | del(.live_bytes, .committed_bytes) | .. | numbers | . >= 0] | all' both > /dev/null || fail "a negative rate"

if unshare --pid --fork true 2> /dev/null; then
    step "a process in a pid namespace of its own: its threads have their names"
    cp inspected "inside-$$"
    env LD_PRELOAD="$HAKMEM_LIB" unshare --pid --fork "./inside-$$" > inside.out & outer=$!
    wait_for "the process" grep -qs ready inside.out
    inner=$(pgrep -P "$outer")
    started_pids+=("$inner" "$outer")
    "$hakmem" top --once "$inner" > text
    grep -qE '^[2-9] .* holder one$' text || fail "no thread holder one: $(tail -n 5 text)"
else
    leave_out "no pid namespace can be made here"
fi

step "errors: one line and status 2"
refuses "there is no process 99999999" "$hakmem" top 99999999
refuses "is not on hakmem" "$hakmem" top $$
refuses "one process" "$hakmem" top
refuses "one process" "$hakmem" top 1 2
refuses "one process" "$hakmem" top --name x 1
refuses "'0' is no process id" "$hakmem" top 0
refuses "'-5' is no process id" "$hakmem" top -- -5
refuses "'12x' is no process id" "$hakmem" top 12x
refuses "no process named nobody-has-this" "$hakmem" top --name nobody-has-this
refuses "--every takes" "$hakmem" top --every 0 1
refuses "--every takes" "$hakmem" top --every 1s 1
refuses "--every takes" "$hakmem" top --every nan 1
refuses "--samples takes" "$hakmem" top --samples -1 1
refuses "--samples takes" "$hakmem" top --samples 1.5 1
refuses "exclude each other" "$hakmem" top --once --json 1
refuses "unrecognized option" "$hakmem" top --wrong 1
if [[ $(id -u) -eq 0 ]]; then
    chmod 755 "$work"
    cp "$hakmem" other-hakmem
    refuses "no permission" setpriv --reuid 65534 --regid 65534 --clear-groups ./other-hakmem top "$inspected"
fi

step "output that cannot be written: status 1"
for form in --once --json; do
    status=0
    "$hakmem" top $form "$inspected" > /dev/full 2> err || status=$?
    [[ $status -eq 1 && $(cat err) == "hakmem: cannot write the output: "* ]] || fail "$form: status $status: $(cat err)"
done

finish
