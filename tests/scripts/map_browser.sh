#!/bin/bash
# map_browser.sh - the page of `hakmem map` in a browser: a process that changes is sampled, and headless Chromium points at its
# slabs, moves the slider, switches the colours, and uses the keyboard. See _map_browser.py.
# ctest: timeout 300
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/_common.sh"
source "$(dirname "${BASH_SOURCE[0]}")/_map.sh"
require python3 chromium chromedriver

# Waits until one more sample than there are now is whole.
wait_for_sample() {
    local n
    n=$(wc -l < samples.json)
    until [[ $(wc -l < samples.json) -gt $((n + 1)) ]]; do sleep 0.02; done
}

step "samples of a process that changes"
start_target
tell rename
tell fill
: > samples.json
"$hakmem" map "$pid" --samples 100000 --every 0.05 --json -o page.html > samples.json 8>&- 9<&- &
sampler=$!
started_pids+=("$sampler")
wait_for_sample
tell thin
wait_for_sample
tell trim
wait_for_sample
kill -TERM "$sampler"
wait "$sampler" || fail "the map ended with status $?"
stop_target

step "the page in a browser"
python3 "$HAKMEM_SOURCE_DIR/tests/scripts/_map_browser.py" page.html samples.json || fail "the page does not do what it should"
