#!/bin/bash
# top_screen.sh - `hakmem top` in a real terminal (tmux): what it shows, what the keys do, other sizes, every way to end; and
# the terminal is afterwards as it was.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/_common.sh"
# shellcheck source=tests/scripts/_inspected.sh
source "$HAKMEM_SOURCE_DIR/tests/scripts/_inspected.sh"
require tmux stty

on_tmux() { env -u TMUX LC_ALL=C.UTF-8 tmux -S "$work/tmux" -f /dev/null "$@"; }
end_tmux() {
    kill -KILL "$(on_tmux display-message -p -t view '#{pane_pid}')" || true # before it writes into $work again
    on_tmux kill-server || true
}
trap 'end_tmux > /dev/null 2>&1; clean_up' EXIT

screen() { on_tmux capture-pane -p -t view; }
keys() { on_tmux send-keys -t view "$@"; }
shows() { screen > captured && grep -qE -e "$1" captured; }
# Until the screen has a line of that form.
await() { # EXPRESSION
    local i
    for ((i = 0; i < 600; i++)); do
        if shows "$1"; then return 0; fi
        sleep 0.1
    done
    cat captured
    fail "the screen does not come to show: $1"
}

# The rows of the table: what lies between the heading and the last line.
rows() { screen | sed -n '/^ *\(BLOCK\|TID\)/,$p' | sed '1d;$d' | grep -v '^$'; }
column() { rows | awk -v field="$1" '{ print $field }'; }

start_inspected
on_tmux new-session -d -x 80 -y 24 -s view \
    "env PATH='$PATH' PS1='prompt> ' TERM=screen LC_ALL=C.UTF-8 bash --norc --noprofile -i"
on_tmux set-option -g remain-on-exit on
await '^prompt>'

keys "trap : INT" Enter # else the shell would not go on behind a command that SIGINT has ended

# Runs it between two looks at the terminal's modes, on a line of a number that the screen can be asked for.
n_runs=0
start_top() { # [ENVIRONMENT...]
    n_runs=$((n_runs + 1))
    keys "clear; stty -g > before; $* $hakmem top $inspected; echo \"run $n_runs: status \$?\"; stty -g > after" Enter
}
# Its end: the status, the same modes, and the text that was there before it.
assert_ended() { # STATUS
    await "^run $n_runs: status "
    shows "^run $n_runs: status $1\$" || { cat captured; fail "not status $1"; }
    wait_for "the modes" test -s after
    assert_same before after
    ! shows 'q quit' || { cat captured; fail "the view is still there"; }
    [[ $(on_tmux display-message -p -t view '#{alternate_on} #{cursor_flag}') == "0 1" ]] ||
        fail "the terminal is in its alternate screen, or has no cursor"
    rm -f before after
}
top_pid() { on_tmux display-message -p -t view '#{pane_pid}' | xargs pgrep -x hakmem -P; }

step "80 columns, 24 rows"
start_top
await 'growth/s +[-+0-9]' # the second sample is there
screen > first
grep -q "^inspected $inspected  hakmem [0-9.]*, conservative .* every 1 s\$" first || fail "the title: $(head -n 1 first)"
for label in live committed resident cached blocks peak returned waste refills/s flushes/s purged/s locks/s waits/s \
    hot draining "in LRU" threads list/s slot/s reopen/s LRU/s system/s; do
    grep -qF -e "$label" first || fail "no $label: $(cat first)"
done
grep -q '^ BLOCK  SLABS   LIVE  CACHED   FREE  USED MEMORY▼  WASTE  GROW/S' first || fail "the heading: $(cat first)"
grep -qE '^    64 .*20\.0k .*█' first || fail "the class of 64 bytes: $(cat first)"
grep -q '^q quit  h help .*p pause' first || fail "the keys: $(tail -n 1 first)"

step "sorting"
[[ $(column 1 | head -n 2 | tr '\n' ' ') == "run 1024 " ]] || fail "not by memory: $(rows)"
keys s
await 'WASTE▼'
keys s
await 'GROW/S▼'
keys s
await 'BLOCK▼'
[[ $(column 1 | head -n 3 | tr '\n' ' ') == "run span 32768 " || $(column 1 | head -n 2 | tr '\n' ' ') == "run span " ]] ||
    fail "not by block size: $(rows)"
column 1 | grep -v '[a-z]' > sizes
sort -rnc sizes || fail "sizes do not fall: $(cat sizes)"
keys r
await 'BLOCK▲'
column 1 | grep -v '[a-z]' > sizes
sort -nc sizes || fail "sizes do not rise: $(cat sizes)"
keys r s s
await 'LIVE▼'
[[ $(column 1 | head -n 1) == 64 ]] || fail "not by live blocks: $(rows)"
keys S
await 'SLABS▼'

step "threads"
keys t
await '^ +TID NAME +CACHED▼'
await 'holder one'
for name in inspected "holder two" busy; do shows "$name" || fail "no thread $name: $(cat captured)"; done
keys S
await 'NAME▼'
[[ $(column 2 | head -n 1) == inspected ]] || fail "not by name: $(rows)"
keys Tab
await 'SLABS▼'

step "scrolling"
on_tmux resize-window -t view -x 80 -y 16
await '^q quit'
await '1-[0-9]+ of'
keys s s r Down
await '2-[0-9]+ of'
keys End
keys Up
keys Home
await '1-[0-9]+ of'

step "pause, help"
keys p
await 'paused'
keys p
await 'every 1 s'
keys h
await 'waste +committed, neither live nor cached'
keys x
await '^ BLOCK'

step "other sizes"
on_tmux resize-window -t view -x 120 -y 40
await '^ BLOCK.*█ live ▒ cached · free'
await '^memory +live .*committed.*resident.*cached'
wait_for "the last row" sh -c "[ \"\$(LC_ALL=C.UTF-8 tmux -S '$work/tmux' capture-pane -p -t view | sed -n 40p | cut -c 1-6)\" = 'q quit' ]"
on_tmux resize-window -t view -x 50 -y 15
await '^live +[0-9.]+M committed +[0-9.]+M resident +[0-9.]+M$'
await '^ BLOCK  SLABS   LIVE   FREE  USED  MEMORY  WASTE'
on_tmux resize-window -t view -x 20 -y 6
await '^q quit'
on_tmux resize-window -t view -x 80 -y 24
await '^memory +live'

step "q ends it with status 0"
keys q
assert_ended 0

step "stopped and continued"
start_top
await '^q quit'
keys C-z
assert_ended 148 # so the shell says of a job that was stopped
keys "stty -g > before; fg" Enter
await '^q quit'
keys q
await '^prompt>'
keys "clear; echo back: \$?; stty -g > after" Enter
await '^back: 0'
wait_for "the modes" test -s after
assert_same before after
rm -f before after

step "signals end it as they end others, a fault of its own too"
for signal in INT TERM HUP QUIT SEGV ABRT; do
    start_top "ulimit -c 0;"
    await '^q quit'
    if [[ $signal == INT ]]; then keys C-c; else kill -s "$signal" "$(top_pid)"; fi
    assert_ended $((128 + $(kill -l "$signal")))
done

step "a size that no terminal has"
for size in "COLUMNS=99999999 LINES=99999999" "COLUMNS=99999999" "LINES=0"; do
    start_top "$size"
    await '^q quit'
    keys q
    assert_ended 0
done

step "a terminal of 65535 columns, and one that becomes so and is small again"
terminal=$(on_tmux display-message -p -t view '#{pane_tty}')
has_begun() { [[ $(on_tmux display-message -p -t view '#{alternate_on}') == 1 ]]; }
start_top "stty cols 65535 rows 32767;"
wait_for "the view" has_begun
stty -F "$terminal" cols 80 rows 24
await ' [0-9]+-[0-9]+ of [0-9]+$'
stty -F "$terminal" cols 65535 rows 24
is_drawn_wide() { ! shows ' [0-9]+-[0-9]+ of [0-9]+$'; }
wait_for "the wide view" is_drawn_wide
top=$(top_pid)
[[ $(awk '/^VmHWM/ { print $2 }' "/proc/$top/status") -lt 1000000 ]] || fail "memory: $(grep ^Vm "/proc/$top/status")"
keys q
wait_for "its end" test -s after
stty -F "$terminal" cols 80 rows 24
assert_ended 0

step "a terminal that is unknown"
start_top "TERM=no-such-terminal"
await "^hakmem: the terminal 'no-such-terminal' is not known to ncurses"
assert_ended 2
start_top "TERM=dumb"
await "^hakmem: the terminal 'dumb' cannot move its cursor; --once prints without it"
assert_ended 2

step "colours, and none with NO_COLOR"
has_colours() { on_tmux capture-pane -p -e -t view | grep -qE $'\e\\[([0-9;]*;)?3[1-6]m'; }
start_top
await '^    64 .*█'
has_colours || fail "no colours: $(on_tmux capture-pane -p -e -t view | head -n 3)"
keys q
assert_ended 0
start_top NO_COLOR=1
await '^    64 .*█'
! has_colours || fail "colours: $(on_tmux capture-pane -p -e -t view | head -n 3)"
keys q
assert_ended 0

step "ASCII"
start_top "LC_ALL=C"
await '^    64 .*20\.0k .* ##'
! grep -q '[^ -~]' <(screen) || fail "not ASCII: $(screen)"
keys q
assert_ended 0

step "the process ends: its last figures are printed"
start_top
await '^q quit'
on_tmux set-option -t view history-limit 1000
stop_inspected
await "^run $n_runs: status 0"
on_tmux capture-pane -p -J -S -200 -t view > captured
grep -q "^Process $inspected has ended\. Its last figures:" captured || fail "no word of the end: $(cat captured)"
grep -q "^live_bytes  *[0-9]" captured || fail "no figures: $(cat captured)"
[[ $(sed -n 's/^class .*//;T;n;s/ .*//p' captured) == 64 ]] || fail "the classes are not by size: $(cat captured)"
grep -qE "^[0-9]+ .* holder one" captured || fail "no threads: $(cat captured)"
assert_ended 0
