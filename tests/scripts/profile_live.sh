#!/bin/bash
# profile_live.sh - `hakmem profile PID`: processes that were started without any option are sampled from outside; they go on as
# before; and every reason not to is said in one line. With an interval of 1 byte every block is a sample, so numbers are exact.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/_common.sh"
source "$(dirname "${BASH_SOURCE[0]}")/_profile.sh"
target=profile-$$ # a name that no other process has
"$HAKMEM_CC" -O2 -g -o $target profile-target.c -pthread

# Begins to sample the target in the background, and waits until it does. The rest of its arguments are the command's.
begin() { # ARGUMENT...
    local i from=$EPOCHREALTIME
    "$hakmem" profile "$pid" "$@" > sampler.out 2> sampler.err &
    sampler=$!
    started_pids+=("$sampler")
    for i in $(seq 600); do
        # What is there is this session's if it is still on, which a duration says, and began after we did.
        if "$hakmem" profile "$pid" --seconds 0 2> /dev/null | head -n 1 |
            awk -v from="$from" -v now="$EPOCHREALTIME" '{ for (i = 2; i <= NF; i++) if ($i == "s;") ours = $(i - 1) < now - from } END { exit !ours }'; then
            return
        fi
        kill -0 "$sampler" 2> /dev/null || fail "it has ended: $(cat sampler.err)"
        sleep 0.02
    done
    fail "the target is not sampled after $i tries"
}
await_sampler() {
    local status=0
    wait "$sampler" || status=$?
    [[ $status -eq 0 ]] || fail "status $status: $(cat sampler.err)"
}
assert_blocks() { # N SITE FILE
    local n
    n=$("$hakmem" profile "$3" --value inuse_objects --format folded 2> /dev/null | folded_sum /dev/stdin ";$2")
    [[ $n -eq $1 ]] || fail "$3: $n live blocks by $2 instead of $1"
}

step "a process that nobody has prepared"
start_target ./$target
tell busy
tell leak 30 # before: is not in the profile
begin --seconds 1000 --interval 1 -o live.pb.gz
tell leak 50
tell inline 7
tell thread 20
"$hakmem" profile "$pid" --seconds 0 -o meanwhile.pb.gz
kill -INT "$sampler" 2> /dev/null # which this shell has it ignore
kill -TERM "$sampler"
await_sampler
[[ ! -s sampler.err ]] || fail "it says: $(cat sampler.err)"
for file in meanwhile.pb.gz live.pb.gz; do
    assert_blocks 50 site_leak $file
    assert_blocks 7 site_inlines $file
    assert_blocks 20 site_thread $file
done
"$hakmem" profile live.pb.gz --format leaks --top 0 > leaks
for site in site_leak inlined_below site_inlines; do
    grep -q "^    $site  .*/profile-target.c:$(line_of $site)\$" leaks || { cat leaks; fail "$site is without its line"; }
done

step "it has ended, and what is live stays true"
tell leak 5 # after: is not in the profile
"$hakmem" profile "$pid" --seconds 0 -o after.pb.gz
assert_blocks 50 site_leak after.pb.gz
tell free
"$hakmem" profile "$pid" --seconds 0 -o freed.pb.gz
assert_blocks 0 site_leak freed.pb.gz

step "it can begin again; the standard interval; by name"
begin --seconds 1000
kill -ALRM "$sampler"
await_sampler
grep -q "^heap profile of $target, process $pid, .* one for 512.0 KiB in the mean\$" sampler.out || { cat sampler.out; fail "the head"; }
"$hakmem" profile --name $target --seconds 0.1 --interval 4K > by-name
grep -q "^heap profile of $target, process $pid, .* one for 4.0 KiB in the mean\$" by-name || { cat by-name; fail "the head"; }

step "several commands in the same instant: one has the session, the others are refused, and it is ended"
for round in $(seq 6); do
    several=()
    for i in 1 2 3 4; do
        "$hakmem" profile "$pid" --seconds 0.3 --interval $((i * 1000)) > several.$i.out 2> several.$i.err &
        several+=("$!")
    done
    n=0
    for i in 1 2 3 4; do
        if wait "${several[i - 1]}"; then
            n=$((n + 1))
        else
            grep -q "(EBUSY)" several.$i.err || fail "round $round: $(cat several.$i.err)"
        fi
    done
    [[ $n -ge 1 ]] || fail "round $round: none has sampled"
    "$hakmem" profile "$pid" --seconds 0.05 > /dev/null || fail "round $round: it is sampled still"
done

step "one that is killed leaves its session to the next"
begin --seconds 1000
kill -KILL "$sampler"
wait "$sampler" 2> /dev/null || true
refuses "is sampled already (EBUSY); --seconds 0 reads what it has so far" profile "$pid" --seconds 1
"$hakmem" profile "$pid" --seconds 0 > /dev/null

step "a process that ends"
stop_target
start_target ./$target
tell busy
begin --seconds 1000 --interval 1 -o ended.pb.gz
tell leak 40
# It is looked at every second; the file's last look must be after the leak.
for _ in $(seq 300); do
    n=$("$hakmem" profile "$pid" --seconds 0 --value inuse_objects --format folded | folded_sum /dev/stdin ";site_leak")
    if [[ $n -eq 40 ]]; then break; fi
    sleep 0.1
done
sleep 2.5
tell idle
echo end >&8
await_sampler
grep -q "^hakmem: process $pid has ended: this is its profile as it was up to a second before\$" sampler.err || fail "$(cat sampler.err)"
assert_blocks 40 site_leak ended.pb.gz
stop_target

step "a process that executes another program"
start_target ./$target
tell busy
begin --seconds 1000 --interval 1 -o executed.pb.gz
tell leak 40
sleep 2.5
echo execute >&8
await_sampler
grep -q "^hakmem: process $pid runs another program now: this is its profile as it was up to a second before\$" sampler.err ||
    fail "$(cat sampler.err)"
assert_blocks 40 site_leak executed.pb.gz
kill -KILL "$pid"
exec 8>&- 9<&-
wait "$pid" || true
start_target ./$target
tell busy
begin --seconds 1000
kill -STOP "$sampler" # so that it cannot have looked before
echo execute >&8
for _ in $(seq 500); do
    [[ $(< "/proc/$pid/comm") != sleep ]] || break
    sleep 0.02
done
kill -CONT "$sampler"
status=0
wait "$sampler" || status=$?
# It may have been stopped before it had heard the answer, or before it had read anything.
said="hakmem: process $pid runs another program now"
[[ $status -eq 0 || ($status -eq 2 && ($(< sampler.err) == "$said" || $(< sampler.err) == "$said, too early to have been read")) ]] ||
    fail "status $status: $(cat sampler.err)"
grep -q "runs another program now" sampler.err || fail "$(cat sampler.err)"
kill -KILL "$pid"
exec 8>&- 9<&-
wait "$pid" || true

step "a file that cannot be written: said before it is sampled"
status=0
timeout 60 "$hakmem" profile $$ --seconds 1000 -o nowhere/x.svg 2> refused.err || status=$?
[[ $status -eq 1 && $(< refused.err) == "hakmem: cannot write nowhere/x.svg: No such file or directory" ]] ||
    fail "status $status: $(cat refused.err)"

step "what is refused"
refuses "process $$ " profile $$
refuses "is not on hakmem" profile $$
refuses "there is no process" profile 99999999
refuses "there is no process" profile 0
refuses "no process named" profile --name nobody-has-this
start_target ./$target
tell busy
refuses "has no profile: it was not started with HAKMEM_PROFILE" profile "$pid" --seconds 0
tell limit 8 # MiB more address space; the records take 29
refuses "has no memory for a profile (ENOMEM)" profile "$pid"
stop_target
start_target ./$target
tell busy
tell limit 0
refuses "could not start the thread that begins a profile (EPERM)" profile "$pid"
stop_target
for variable in HAKMEM_SECURE=1 HAKMEM_GUARD_SAMPLE=1000; do
    start_target $variable ./$target
    tell busy
    refuses "runs with ${variable%=*}, which goes with no profile (ENOTSUP)" profile "$pid"
    stop_target
done
start_target HAKMEM_BACKGROUND=off ./$target
tell busy
refuses "HAKMEM_BACKGROUND=off" profile "$pid"
refuses "(EPERM)" profile "$pid"
stop_target
start_target HAKMEM_PROFILE=/dev/null HAKMEM_PROFILE_INTERVAL=1 ./$target
tell leak 11
refuses "(EBUSY)" profile "$pid" --seconds 1
"$hakmem" profile "$pid" --seconds 0 -o from-start.pb.gz
assert_blocks 11 site_leak from-start.pb.gz
stop_target
start_target ./$target
tell steady
sleep 0.3 # until its thread has all it needs
refuses "made no call within 10 s that could begin a profile: it is idle or frozen, or" profile "$pid" --seconds 1
kill -STOP "$pid"
refuses "made no call within 10 s that could begin a profile: it is stopped" profile "$pid" --seconds 1
kill -CONT "$pid"
tell idle
tell busy # what was asked for is withdrawn
sleep 0.3
refuses "has no profile" profile "$pid" --seconds 0
stop_target

step "threads that only hit are reached by --stop"
start_target ./$target
tell steady
sleep 0.3
begin --seconds 1000 --interval 1 --stop -o steady.pb.gz
tell leak 9
kill -TERM "$sampler"
await_sampler
assert_blocks 9 site_leak steady.pb.gz
n=$("$hakmem" profile steady.pb.gz --value alloc_objects --format folded | folded_sum /dev/stdin ";site_busy")
[[ $n -gt 0 ]] || fail "the thread that only hits has $n blocks in the profile"
stop_target

step "wrong arguments"
refuses "takes one process or one file" profile
refuses "takes one process or one file" profile 1 2
refuses "takes one process or one file" profile --name x 1
refuses "--seconds: '-1' is not" profile 1 --seconds -1
refuses "--seconds: 'x' is not" profile 1 --seconds x
refuses "--interval: '0' is not" profile 1 --interval 0
refuses "--interval: '2T' is not" profile 1 --interval 2T
refuses "--interval: '1KB' is not" profile 1 --interval 1KB
refuses "--format: 'pdf' is not" profile live.pb.gz --format pdf
refuses "--value: 'x' is not" profile live.pb.gz --value x
refuses "--top: 'x' is not" profile live.pb.gz --top x
refuses "no format has this ending" profile live.pb.gz -o x.pdf
refuses "--output: 'b.txt' is a second file, after 'a.txt'" profile live.pb.gz -o a.txt -o b.txt
[[ ! -e a.txt && ! -e b.txt ]] || fail "one of two files is written"
refuses "are about a process" profile live.pb.gz --seconds 3
refuses "cannot read nowhere" profile nowhere
refuses "is no heap profile" profile profile-target.c
status=0
"$hakmem" profile --nonsense 2> refused.err || status=$?
[[ $status -eq 2 && $(cat refused.err) == "hakmem profile: unrecognized option"* ]] || fail "--nonsense: $(cat refused.err)"
"$hakmem" help profile | grep -q "^usage: hakmem profile " || fail "help profile"
"$hakmem" profile --help | cmp - <("$hakmem" help profile) || fail "--help"
