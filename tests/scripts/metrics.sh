#!/bin/bash
# metrics.sh - `hakmem metrics`: what it prints is what the formats demand, by promtool and by prometheus_client's strict parser; what
# it serves, refuses and warns of, and how it ends. metrics_prometheus.sh has Prometheus itself read it.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/_common.sh"
# shellcheck source=tests/scripts/_inspected.sh
source "$HAKMEM_SOURCE_DIR/tests/scripts/_inspected.sh"
require promtool curl setpriv
python=
for candidate in python3 /usr/bin/python3; do
    if "$candidate" -c 'import prometheus_client' 2> /dev/null; then python=$candidate; break; fi
done
[[ -n $python ]] || fail "no python3 has the module prometheus_client (Debian: python3-prometheus-client)"
start_inspected "metered-$$"

# One sample's value.
value() { # FILE SERIES
    awk -v series="$2" '$1 == series { print $2; exit }' "$1"
}

step "the text"
"$hakmem" metrics "$inspected" > open
begin=$EPOCHREALTIME
"$hakmem" metrics --no-classes "$inspected" > timed
awk -v begin="$begin" -v end="$EPOCHREALTIME" '$1 == "hakmem_read_seconds" { ok = $2 > 0 && $2 <= end - begin } END { exit !ok }' timed ||
    fail "it was read in $(value timed hakmem_read_seconds) s, which took less than $begin to $EPOCHREALTIME"
"$hakmem" metrics --classic --label-pid --label-name "$inspected" > classic
promtool check metrics < classic > lint 2>&1 || fail "promtool: $(cat lint)"
[[ ! -s lint ]] || fail "promtool: $(cat lint)"
cat > parse.py << 'END'
import sys
from prometheus_client.openmetrics.parser import text_string_to_metric_families
families = {f.name: f for f in text_string_to_metric_families(open(sys.argv[1]).read())}
assert len(families) > 40, len(families)
assert all(f.documentation for f in families.values())
for f in families.values():
    assert f.type in ("gauge", "counter", "info"), f.type
    assert ("bytes" in f.name.split("_")) == (f.unit == "bytes"), f.name
    assert f.type != "counter" or all(s.value >= 0 for s in f.samples)
blocks = {(s.labels["class"], s.labels["state"]): s.value for s in families["hakmem_class_blocks"].samples}
assert 20000 <= blocks["64", "live"] < 20100 and blocks["run", "live"] == 1, blocks
print(len(families), "families,", sum(len(f.samples) for f in families.values()), "series")
END
"$python" parse.py open || fail "prometheus_client refuses the text"
[[ $(tail -n 1 open) == "# EOF" ]] || fail "the last line is $(tail -n 1 open)"
[[ $(value open 'hakmem_live_bytes') -ge $((20000 * 64 + 3000 * 1000 + (100 << 10) + (4 << 20))) ]] || fail "live bytes"
[[ $(value open hakmem_process_resident_bytes) -gt 8000000 ]] || fail "resident bytes"
grep -qF "hakmem_process_info{version=\"0.1.0\",profile=\"conservative\",pid=\"$inspected\",name=\"metered-" classic ||
    fail "the labels: $(grep _info classic)"
if grep -E "\"$inspected\"|metered|0x|/" open | grep -v '^# HELP'; then fail "the text tells more than it should"; fi
cat > documented.py << 'END'
import re, sys
families = re.findall(r"# HELP (\S+) (.+)\n# TYPE (\S+) (\S+)\n(?:# UNIT .*\n)?([a-z_]+)", open("open").read())
rows = re.findall(r"^\| `(hakmem_[a-z_]+)` \| (\w+) \| .*? \| (.+) \|$", open(sys.argv[1]).read(), re.M)
told = {(sample, kind, text) for _, text, _, kind, sample in families}
assert told == set(rows) and len(rows) == len(families), told ^ set(rows)
END
"$python" documented.py "$HAKMEM_SOURCE_DIR/docs/inspect.md" || fail "docs/inspect.md has another table of metrics"
[[ $(grep -vc '^#' open) -eq 429 ]] || fail "docs/inspect.md says 429 series, there are $(grep -vc '^#' open)"
"$hakmem" metrics --no-classes "$inspected" > few
[[ $(grep -vc '^#' few) -eq 87 ]] || fail "docs/inspect.md says 87 series, there are $(grep -vc '^#' few)"
if grep -q hakmem_class_ few; then fail "--no-classes leaves classes in"; fi

# Starts a server and sets $server and $url.
start_server() { # ARGUMENTS
    rm -f server.out
    "$hakmem" metrics "$@" > server.out 2> server.err & server=$!
    started_pids+=("$server")
    wait_for "the server" grep -qs '^Listening on ' server.out
    url=$(sed -n 's/^Listening on //p' server.out)
}
end_server() { # SIGNAL
    local status=0
    kill -s "$1" "$server"
    wait "$server" || status=$?
    [[ $status -eq 0 ]] || fail "status $status after SIG$1"
}
status_of() { curl -s -o body -D headers -w '%{http_code}' --max-time 60 "$@"; }

step "over HTTP"
start_server --listen 0 "$inspected"
[[ $url =~ ^http://127\.0\.0\.1:[1-9][0-9]*/metrics$ && ! -s server.err ]] || fail "the address: $(cat server.out server.err)"
port=${url##*:}
port=${port%/metrics}
exec 9<> "/dev/tcp/127.0.0.1/$port" # a client that says nothing
[[ $(status_of "$url") == 200 ]] || fail "$(head -n 1 headers)"
grep -qi '^content-type: text/plain; version=0.0.4; charset=utf-8' headers || fail "$(cat headers)"
promtool check metrics < body > lint 2>&1 || fail "promtool: $(cat lint)"
[[ $(status_of -H 'Accept: application/openmetrics-text; version=1.0.0' "$url") == 200 ]] || fail "$(head -n 1 headers)"
grep -qi '^content-type: application/openmetrics-text; version=1.0.0; charset=utf-8' headers || fail "$(cat headers)"
cp body open
"$python" parse.py open || fail "prometheus_client refuses the text"
if grep -qi "hakmem/\|^server:\|microhttpd" headers; then fail "it tells what it is: $(cat headers)"; fi
[[ $(status_of --head "$url") == 200 ]] || fail "HEAD: $(head -n 1 headers)"
[[ $(status_of -d x=y "$url") == 405 ]] || fail "POST: $(head -n 1 headers)"
grep -qi '^allow: GET, HEAD' headers || fail "$(cat headers)"
[[ $(status_of "${url%metrics}") == 404 ]] || fail "/: $(head -n 1 headers)"
[[ $(status_of "${url%metrics}proc") == 404 ]] || fail "/proc: $(head -n 1 headers)"

step "the limits that docs/inspect.md names"
[[ $(status_of -H "X: $(printf '%20000s' x)" "$url") == 4[13]* ]] || fail "headers of 20,000 bytes: $(head -n 1 headers)"
cat > crowd.py << 'END'
import socket, sys
def connect():
    return socket.create_connection(("127.0.0.1", int(sys.argv[1])))
def ask(client, seconds):
    client.settimeout(seconds)
    try:
        return client.recv(8)
    except TimeoutError:
        return b""
crowd = [connect() for _ in range(31)] # and the one that says nothing
last = connect()
last.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
assert ask(last, 0.5) == b"", "there are more than 32 connections"
crowd.pop().close()
assert ask(last, 60) == b"HTTP/1.1", "who waits is not served when one has gone"
END
"$python" crowd.py "$port" || fail "the number of connections"

step "few descriptors, and none left for a while: it goes on when there are again"
few=(bash -c 'ulimit -n 20 && exec "$@"' few "$hakmem")
"${few[@]}" metrics --listen 0 --linger 2 "$inspected" > few.out 2> few.err & few_server=$!
started_pids+=("$few_server")
wait_for "the server" grep -qs '^Listening on ' few.out
few_url=$(sed -n 's/^Listening on //p' few.out)
[[ $(status_of "$few_url") == 200 ]] || fail "$(head -n 1 headers)"
cat > many.py << 'END'
import os, socket, sys, time
port, server = int(sys.argv[1]), sys.argv[2]
clients = [socket.create_connection(("127.0.0.1", port)) for _ in range(30)]
end = time.monotonic() + 60
while len(os.listdir(f"/proc/{server}/fd")) < 20:
    assert time.monotonic() < end, "not all descriptors are taken"
    time.sleep(0.02)
time.sleep(2.5) # it looks after the process each second
END
few_port=${few_url##*:}
python3 many.py "${few_port%/metrics}" "$few_server" || fail "the crowd"
serves_again() { [[ $(status_of "$few_url") == 200 ]]; }
wait_for "an answer after the crowd" serves_again
if grep -q 'has ended' few.err; then fail "the process has not ended: $(cat few.err)"; fi
kill "$few_server"
wait "$few_server" || fail "status $?: $(cat few.err)"

step "its counters rise"
before=$(value open hakmem_refills_total)
rises() { [[ $(curl -s --max-time 60 "$url" | awk '$1 == "hakmem_refills_total" { print $2 }') -gt $before ]]; }
wait_for "more refills than $before" rises

step "who says nothing is sent away"
timeout 60 cat <&9 > /dev/null || fail "a silent connection stays open"
exec 9>&-

step "a port that is taken: status 1"
status=0
"$hakmem" metrics --listen "$port" "$inspected" > out 2> err || status=$?
[[ $status -eq 1 && $(cat err) == "hakmem: cannot listen: Address already in use" && ! -s out ]] || fail "status $status: $(cat err)"

step "SIGTERM and SIGINT end it with status 0"
end_server TERM
start_server --listen "127.0.0.1:$port" "$inspected" # the port is free again at once
[[ $url == "http://127.0.0.1:$port/metrics" ]] || fail "the address: $url"
end_server INT

step "an address that others reach is warned of, in one line"
start_server --listen 0.0.0.0:0 "$inspected"
[[ $(wc -l < server.err) -eq 1 && $(cat server.err) == "hakmem: warning: http://0.0.0.0:"*" is not a loopback address"* ]] ||
    fail "the warning: $(cat server.err)"
end_server TERM
if [[ -e /proc/net/if_inet6 ]] && grep -q ' lo$' /proc/net/if_inet6; then
    start_server --listen '[::1]:0' "$inspected"
    [[ $(status_of -g "$url") == 200 && ! -s server.err ]] || fail "IPv6: $(cat headers server.err)"
    end_server TERM
fi

step "the process ends: 503, and then the server ends by itself with status 0"
start_inspected ends
start_server --listen 0 --linger 600 "$inspected"
[[ $(status_of "$url") == 200 ]] || fail "$(head -n 1 headers)"
stop_inspected
[[ $(status_of "$url") == 503 ]] || fail "$(head -n 1 headers)"
if grep -q "[0-9]" body; then fail "it tells: $(cat body)"; fi
[[ $(cat server.err) == "hakmem: process $inspected has ended; answering 503 for 600 s" ]] || fail "the line: $(cat server.err)"
end_server TERM
start_inspected ends
start_server --listen 0 --linger 6 "$inspected"
stop_inspected
wait_for "word of the end" grep -q 'has ended' server.err
sleep 1
[[ $(status_of "$url") == 503 ]] || fail "it does not linger for 6 s: $(cat server.err)"
status=0
wait "$server" || status=$?
[[ $status -eq 0 ]] || fail "status $status"

step "by name it waits for the next one"
start_inspected "next-$$"
start_server --listen 0 --linger 0 --label-pid --name "next-$$"
first=$inspected
stop_inspected
[[ $(status_of "$url") == 503 ]] || fail "$(head -n 1 headers)"
start_inspected "next-$$"
answers() { [[ $(status_of "$url") == 200 ]]; }
wait_for "the next process" answers
grep -q "pid=\"$inspected\"" body || fail "$(grep _info body)"
[[ $first != "$inspected" ]] || fail "the same process"

step "by name it says why it finds none, once"
stop_inspected
kill -STOP "$server" # else it may look when there is one
start_inspected "next-$$"
start_inspected "next-$$"
kill -CONT "$server"
several() { [[ $(status_of "$url") == 503 ]] && grep -q "several processes on hakmem are named next-$$" server.err; }
wait_for "word of the several" several
status_of "$url" > /dev/null
[[ $(grep -c several server.err) == 1 ]] || fail "it says so again: $(cat server.err)"
end_server TERM
stop_inspected
kill -9 "${started_pids[-2]}" 2> /dev/null || true
inspected=${started_pids[0]}

step "errors: one line and status 2"
refuses "there is no process 99999999" "$hakmem" metrics 99999999
refuses "there is no process 99999999" "$hakmem" metrics --listen 0 99999999
refuses "is not on hakmem" "$hakmem" metrics $$
refuses "one process" "$hakmem" metrics
refuses "one process" "$hakmem" metrics --name x 1
refuses "'x' is no process id" "$hakmem" metrics x
refuses "no process named nobody-has-this" "$hakmem" metrics --listen 0 --name nobody-has-this
refuses "--listen takes" "$hakmem" metrics --listen 127.0.0.1 "$inspected"
refuses "--listen takes" "$hakmem" metrics --listen 127.0.0.1:70000 "$inspected"
refuses "--listen takes" "$hakmem" metrics --listen example.org:80 "$inspected"
refuses "--linger takes" "$hakmem" metrics --listen 0 --linger -1 "$inspected"
refuses "--linger takes" "$hakmem" metrics --listen 0 --linger 86401 "$inspected"
refuses "--classic is for printing" "$hakmem" metrics --listen 0 --classic "$inspected"
refuses "unrecognized option" "$hakmem" metrics --wrong
status=0
"$hakmem" metrics "$inspected" > /dev/full 2> err || status=$?
[[ $status -eq 1 && $(cat err) == "hakmem: cannot write the output: "* ]] || fail "status $status: $(cat err)"
status=0
timeout 60 "$hakmem" metrics --listen 0 "$inspected" > /dev/full 2> err || status=$?
[[ $status -eq 1 && $(cat err) == "hakmem: cannot write the output: "* ]] || fail "a server whose address is not told: $status: $(cat err)"
