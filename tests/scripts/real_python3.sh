#!/bin/bash
# real_python3.sh - CPython's own tests pass on hakmem, with hakmem in place of Python's allocator as well.
#
# Debian's python3.11 with the tests of the package libpython3.11-testsuite. Python serves objects up to 512 bytes from
# an allocator of its own; PYTHONMALLOC=malloc sends those to malloc too. The list of tests that Python says it has is
# compared with the list of those that ran on hakmem and did not fail, and of those that Python skips, so a test that vanishes
# counts as a failure. Those it skips are counted apart, and may be a fifth: some are for other systems.
#
# Nothing is excluded because it failed: as root, without a network, all of these pass on the system's malloc. Of
# test_multiprocessing_spawn (100 s in all) only the classes below run, to save time; the same test bodies run complete
# in test_multiprocessing_fork, where a worker is a fork of a process with threads.
#
# Some of the tests measure time: ctest: serial
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/_common.sh"

# By path: another Python may come first in PATH, and would have other tests.
python=/usr/bin/python3.11
require "$python"
"$python" -c 'import test.test_json' 2> /dev/null || fail "libpython3.11-testsuite is not installed"
ulimit -c 0
export LC_ALL=C.UTF-8

step "the preload takes effect"
cat > objects.py << 'EOF'
words = {i: "word %d" % (i * 7919 % 100003) for i in range(200000)}
print(len(words), sum(len(w) for w in words.values()), max(words.values()))
EOF
assert_runs_on_hakmem PYTHONMALLOC=malloc "$python" objects.py
# 200,000 strings of about 60 bytes and their dictionary; with Python's own allocator malloc would see little of it.
[[ $(stat_of peak_committed_bytes proof.json) -gt 20000000 ]] || fail "PYTHONMALLOC=malloc did not reach hakmem"
on_system "$python" objects.py > system.out
assert_same system.out proof.out

# Runs `python -m test` with the given arguments and settings on hakmem; what it says goes to NAME.out.
run_tests() { # NAME SETTING -m-test-ARGUMENT...
    local name=$1 setting=$2
    shift 2
    mkdir "$work/$name"
    on_system "$python" -m test --list-cases "$@" | sort > "$name.listed"
    [[ -s $name.listed ]] || fail "Python lists no tests for: $*"
    local status=0
    on_hakmem "$setting" "$python" -m test --verbose --timeout 300 --tempdir "$work/$name" --junit-xml "$work/$name.xml" \
        "$@" > "$name.out" 2>&1 < /dev/null || status=$?
    if [[ $status -ne 0 ]] || ! grep -q '^Tests result: SUCCESS$' "$name.out"; then
        grep -a -A 30 -E '^(ERROR|FAIL): |Fatal Python error|^hakmem: ' "$name.out" | head -n 200 || true
        tail -n 15 "$name.out"
        fail "python -m test $* ended with status $status on hakmem ($setting)"
    fi
    assert_no_report "$name.out"
    "$python" - "$name.xml" "$name.skipped" > "$name.seen" << 'EOF'
import sys
import xml.etree.ElementTree as tree

names, skipped = [], []
for case in tree.parse(sys.argv[1]).getroot().iter("testcase"):
    if case.find("failure") is None and case.find("error") is None:
        names.append(case.get("name"))
        reason = case.find("skipped")
        if reason is not None:
            skipped.append(case.get("name") + ": " + " ".join((reason.text or "").split()))
print("\n".join(sorted(names)))
with open(sys.argv[2], "w") as file:
    file.writelines(line + "\n" for line in sorted(skipped))
EOF
    assert_same "$name.listed" "$name.seen"
    local n_listed n_skipped
    n_listed=$(wc -l < "$name.listed")
    n_skipped=$(wc -l < "$name.skipped")
    echo "   $((n_listed - n_skipped)) tests of: $*; $n_skipped more are skipped by Python"
    if [[ $((n_skipped * 5)) -gt $n_listed ]]; then
        head -n 20 "$name.skipped"
        fail "Python skips $n_skipped of $n_listed tests of: $*"
    fi
}

step "json, threading, multiprocessing by fork; at the same time subprocess, multiprocessing by spawn"
run_tests objects PYTHONMALLOC=malloc test_json test_threading test_multiprocessing_fork > objects.say 2>&1 &
objects_pid=$!
(
    run_tests spawned PYTHONMALLOC=pymalloc test_subprocess
    run_tests spawned_workers PYTHONMALLOC=malloc test_multiprocessing_spawn -m WithProcessesTestPool \
        -m WithManagerTestPool -m WithProcessesTestQueue -m WithProcessesTestSharedMemory -m WithProcessesTestProcess
) > spawned.say 2>&1 &
spawned_pid=$!
status=0
wait "$objects_pid" || status=$?
wait "$spawned_pid" || status=$?
cat objects.say spawned.say
[[ $status -eq 0 ]] || fail "Python's tests do not pass on hakmem"
echo "python3: every listed test that Python does not skip ran and passed"
