#!/bin/bash
# map.sh - `hakmem map` of a process that lives: the text, the JSON, SVG, PNG and page say what the process has; what cannot be
# looked at, and what cannot be written, is said in one line, and nothing is left half written.
# ctest: timeout 300
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/_common.sh"
source "$(dirname "${BASH_SOURCE[0]}")/_map.sh"
require jq python3

map() { "$hakmem" map "$@"; }

# A command must end with this status, with one line on stderr that starts with "hakmem" and has the text.
assert_refused() { # STATUS TEXT COMMAND...
    local expected=$1 text=$2 status=0
    shift 2
    "$@" > refused.out 2> refused.err || status=$?
    [[ $status -eq $expected ]] || fail "$*: status $status instead of $expected: $(cat refused.err)"
    [[ $(wc -l < refused.err) -eq 1 ]] || fail "$*: not one line: $(cat refused.err)"
    grep -q "^hakmem" refused.err || fail "$*: $(cat refused.err)"
    grep -qF -e "$text" refused.err || fail "$*: no '$text' in: $(cat refused.err)"
    [[ ! -s refused.out ]] || fail "$*: it also printed: $(head -c 200 refused.out)"
}

of_class() { # FIELD FILE: a number of the class that serves 96 bytes
    jq -e ".classes[] | select(.block_bytes == 96) | .$1" "$2"
}

step "JSON: what the process has is there"
start_target
tell fill
map "$pid" --json > full.json
[[ $(wc -l < full.json) -eq 1 ]] || fail "one sample is not one line"
jq -e ".pid == $pid and .name == \"map-target\" and .profile == \"conservative\"" full.json > /dev/null || fail "whose heap is it?"
held=$(($(of_class used_blocks full.json) - $(of_class cached_blocks full.json)))
[[ $held -ge 60000 && $held -lt 60100 ]] || fail "60,000 blocks of 96 bytes are $held"
jq -e '.totals.spans >= 1 and .totals.span_bytes >= 200000 and .totals.runs == 1 and .totals.run_superslabs == 3' full.json \
    > /dev/null || fail "the span or the run is missing: $(jq -c .totals full.json)"
jq -e '[.superslabs[] | select(.kind == "run")] | length == 1 and .[0].run_bytes >= 5242880' full.json > /dev/null \
    || fail "no row for the run"
jq -e '.totals | .memory_bytes == .used_bytes + .free_bytes + .idle_bytes' full.json > /dev/null || fail "the sums do not add up"
jq -e '(.totals.memory_bytes - .totals.committed_bytes) as $d | $d >= -65536 and $d <= 65536' full.json > /dev/null \
    || fail "the pages of the map are not the committed bytes: $(jq -c .totals full.json)"

step "after most is freed: in memory and not used"
tell thin
map "$pid" --json > thin.json
held=$(($(of_class used_blocks thin.json) - $(of_class cached_blocks thin.json)))
[[ $held -ge 600 && $held -lt 700 ]] || fail "600 blocks are left, and the map has $held"
[[ $(of_class free_bytes thin.json) -gt 4000000 ]] || fail "5.7 MB are free inside slabs, and the map has $(of_class free_bytes thin.json)"

step "after a trim: given back"
tell trim
map --name map-target --json > trimmed.json
[[ $(of_class memory_bytes trimmed.json) -lt $(($(of_class memory_bytes thin.json) * 9 / 10)) ]] \
    || fail "pages went back, and the map does not show it"
jq -e '.totals.runs == 0' trimmed.json > /dev/null || fail "the run was freed"

step "text"
map "$pid" > text
if LC_ALL=C grep -q '[^ -~]' text; then fail "a file got more than ASCII"; fi
grep -q "^map-target, pid $pid " text || fail "the text does not say whose heap it is"
n_rows=$(jq '.superslabs | length' trimmed.json)
[[ $(grep -cE '^[0-9a-f]{12} ' text) -eq $n_rows ]] || fail "not a line for each of $n_rows SuperSlabs"
map "$pid" --limit 1 | grep -q "1 of $n_rows rows are shown" || fail "a limit is not said"
map "$pid" --color always | grep -q $'\033\[38;' || fail "no colours though asked for"
COLUMNS=60 map "$pid" | awk 'length > 60 { exit 1 }' || fail "wider than COLUMNS"

step "files"
map "$pid" -o heap.svg -o heap.PNG -o heap.html
python3 - << 'EOF' || fail "a file is not what it should be"
import struct, xml.dom.minidom
xml.dom.minidom.parse("heap.svg")
head = open("heap.PNG", "rb").read(24)
assert head[:8] == b"\x89PNG\r\n\x1a\n" and head[12:16] == b"IHDR"
width, height = struct.unpack(">II", head[16:24])
assert width == 2560 and height > 900, (width, height)
page = open("heap.html", encoding="utf-8").read()
assert page.startswith("<!DOCTYPE html>") and page.endswith("</html>\n")
EOF
[[ $(find . -name 'heap.*' | wc -l) -eq 3 ]] || fail "something else is left: $(ls)"

step "samples"
map "$pid" --samples 5 --every 0.05 --json -o five.html > five.json
[[ $(wc -l < five.json) -eq 5 ]] || fail "five samples are not five lines"
jq -e -s 'length == 5 and ([.[].time_ns] | . == sort and . == unique)' five.json > /dev/null || fail "five samples are not five times"
grep -q '"seconds":0.2' five.html || fail "the fifth sample is not 0.2 seconds after the first"

step "the process ends while it is sampled: what was seen is there"
: > ended.json
"$hakmem" map "$pid" --samples 100000 --every 0.05 --json -o ended.html > ended.json 2> ended.err 8>&- 9<&- &
sampler=$!
started_pids+=("$sampler")
until [[ $(wc -l < ended.json) -ge 3 ]]; do sleep 0.02; done
stop_target
wait "$sampler" || fail "the map ended with status $?: $(cat ended.err)"
[[ $(wc -l < ended.err) -eq 1 ]] || fail "not one line: $(cat ended.err)"
grep -q "what was seen until then" ended.err || fail "it does not say so: $(cat ended.err)"
[[ $(grep -o '"seconds":' ended.html | wc -l) -eq $(wc -l < ended.json) ]] || fail "samples are missing in the page"

step "Ctrl-C ends the sampling, not the page"
start_target
tell fill
"$hakmem" map "$pid" --samples 100000 --every 3600 --json -o stopped.html > stopped.json 8>&- 9<&- &
sampler=$!
started_pids+=("$sampler")
until [[ -s stopped.json ]]; do sleep 0.02; done
kill -TERM "$sampler"
wait "$sampler" || fail "the map ended with status $?"
grep -q '</html>' stopped.html || fail "there is no page"

step "what cannot be looked at"
assert_refused 2 "4194305" map 4194305
sleep 1000 8>&- 9<&- &
started_pids+=("$!")
assert_refused 2 "$!" map "$!"
assert_refused 2 "no-such-name" map --name no-such-name
if [[ $(id -u) -eq 0 ]] && command -v setpriv > /dev/null; then
    # Of a directory that another user may enter: the build tree may be closed to him.
    mkdir -m 755 "$work/open"
    chmod 755 "$work"
    cp "$hakmem" "$work/open/"
    assert_refused 2 "$pid" setpriv --reuid=65534 --regid=65534 --clear-groups "$work/open/hakmem" map "$pid"
else
    leave_out "not root: whether another user's process is refused"
fi

step "what cannot be written"
assert_refused 1 "no-such-directory" map "$pid" -o no-such-directory/heap.svg
mkdir taken.png
assert_refused 1 "taken.png" map "$pid" -o taken.png
ln -s /dev/full full.svg
ln -s /dev/full full.png
ln -s /dev/full full.html
for file in full.svg full.png full.html; do assert_refused 1 "$file" map "$pid" -o "$file"; done
status=0
map "$pid" > /dev/full 2> err || status=$?
[[ $status -eq 1 && $(wc -l < err) -eq 1 ]] || fail "text to a full disk: status $status, $(cat err)"
echo before > heap.svg
status=0
(ulimit -f 1 && map "$pid" -o heap.svg) > /dev/null 2> err || status=$?
[[ $status -eq 1 && $(cat heap.svg) == before ]] || fail "what was there is gone: status $status, $(cat err)"
[[ -z $(find . -name '.hakmem*') ]] || fail "left half written: $(ls -a)"

step "links: to nothing, and to what is written to already"
ln -s "$work/made.svg" dangling.svg
map "$pid" -o dangling.svg
[[ -L dangling.svg && -s made.svg && ! -L made.svg ]] || fail "it did not make what the link leads to: $(ls -l)"
ln -s /dev/stdout stdout.svg
echo before > log
map "$pid" -o stdout.svg >> log
[[ $(head -n 1 log) == before && $(tail -n 1 log) == *"</svg>" ]] || fail "the output's file was replaced: $(head -c 100 log)"

step "wrong options"
assert_refused 2 "which process" map
assert_refused 2 "not a number" map 0
assert_refused 2 "not a number" map 12x
assert_refused 2 "one process at a time" map "$pid" "$pid"
assert_refused 2 "one process at a time" map "$pid" --name map-target
assert_refused 2 "must end in" map "$pid" -o heap.gif
assert_refused 2 "known: class, occupancy, tier" map "$pid" --by size
assert_refused 2 "known: light, dark" map "$pid" --theme pink
assert_refused 2 "not a number" map "$pid" --samples 0 -o a.html
assert_refused 2 "not a number" map "$pid" --every nan -o a.html
assert_refused 2 "several samples" map "$pid" --samples 2
assert_refused 2 "several samples" map "$pid" --samples 2 -o a.svg -o a.html
assert_refused 2 "no-such-option" map "$pid" --no-such-option
[[ ! -e a.html ]] || fail "a file after wrong options"
map --help | grep -q "usage: hakmem map" || fail "no help"

stop_target
echo "map: text, JSON, SVG, PNG and page of a process that lives"

finish
