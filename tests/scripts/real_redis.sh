#!/bin/bash
# real_redis.sh - a redis server on hakmem keeps its data through load, background saves, reloads and a restart.
#
# The server listens on a socket in the temporary directory only. Debian's redis is linked with jemalloc, so this is
# also the test of a program that brings a malloc of its own: the preloaded one has to win, for every call.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/_common.sh"
require redis-server redis-cli redis-benchmark

socket=$work/redis.sock
cli() { redis-cli -s "$socket" "$@"; }

# Starts a server with the given settings in its environment; its log is NAME.log.
start_server() { # NAME [SETTING...]
    local name=$1
    shift
    env "$@" redis-server --port 0 --unixsocket "$socket" --dir "$work" --dbfilename dump.rdb --save '' \
        --enable-debug-command yes --io-threads 2 --daemonize no > "$name.log" 2>&1 < /dev/null &
    server_pid=$!
    started_pids=("$server_pid")
    local i
    for ((i = 0; i < 200; i++)); do
        if [[ $(cli ping 2> /dev/null || true) == PONG ]]; then return; fi
        kill -0 "$server_pid" 2> /dev/null || break
        sleep 0.05
    done
    tail -n 20 "$name.log"
    fail "redis-server did not answer ($name)"
}

stop_server() { # NAME
    local status=0
    cli shutdown "${2:-nosave}" > /dev/null || true
    wait "$server_pid" || status=$?
    started_pids=()
    if [[ $status -ne 0 ]]; then
        tail -n 40 "$1.log"
        fail "redis-server ended with status $status ($1)"
    fi
    assert_no_report "$1.log"
}

expect() { # ANSWER COMMAND...
    local answer=$1 got
    shift
    got=$(cli "$@" | tr '\n' ' ')
    [[ $got == "$answer " ]] || fail "redis answered '$got' instead of '$answer' to: ${*:0:5}"
}

# The same 100,000 commands for every server, as text: strings, hashes, lists, sets, sorted sets, streams.
write_commands() {
    awk 'BEGIN {
        x = 42
        for (i = 0; i < 100000; i++) {
            x = (x * 1103515245 + 12345) % 2147483648
            k = x % 5000
            v = sprintf("%0" (1 + x % 300) "d", x)
            kind = i % 8
            if (kind == 0) print "SET str:" k, v
            else if (kind == 1) print "APPEND str:" k, v
            else if (kind == 2) print "HSET hash:" k % 500, "f" x % 97, v
            else if (kind == 3) print "RPUSH list:" k % 300, v
            else if (kind == 4) print "ZADD zset:" k % 200, x % 10007, "m" x % 1009
            else if (kind == 5) print "SADD set:" k % 400, x % 65537
            else if (kind == 6) print "XADD stream:" k % 50, i + 1 "-1", "f", v
            else print (x % 3 ? "DEL str:" : "UNLINK hash:") k
        }
    }'
}

# Loads all commands in one stream, then the first of them again one by one with their answers in answers.txt, and
# prints what tells the contents apart: redis' own digest over all keys and values.
load_and_digest() {
    cli --pipe < commands.txt > pipe.txt
    grep -qx 'errors: 0, replies: 100000' pipe.txt || { cat pipe.txt >&2; fail "redis refused commands"; }
    # Not the XADDs: their numbers are used up.
    head -n 10000 commands.txt | grep -v ^XADD | cli > answers.txt
    cli debug digest
}
write_commands > commands.txt

step "the digest on the system's malloc"
start_server system
expected_digest=$(load_and_digest)
cp answers.txt system-answers.txt
stop_server system
[[ $expected_digest =~ ^[0-9a-f]{40}$ ]] || fail "no digest: $expected_digest"

step "the same commands on hakmem"
start_server hakmem LD_PRELOAD="$HAKMEM_LIB" HAKMEM_STATS="$work/stats.json"
grep -qF "$HAKMEM_LIB" "/proc/$server_pid/maps" || fail "the server does not have hakmem in its memory map"
digest=$(load_and_digest)
assert_same system-answers.txt answers.txt
[[ $digest == "$expected_digest" ]] || fail "digest $digest instead of $expected_digest"

step "answers known beforehand"
expect OK set greeting hello
expect hello get greeting
expect 11 append greeting ' world'
expect 'hello world' get greeting
expect 3 hset h a 1 b 2 c 3
expect 5 hincrby h c 2
expect '1 2 5' hmget h a b c
expect 4 rpush l one two three four
expect 'two three' lrange l 1 2
expect 3 zadd z 3 three 1 one 2 two
expect 'one 1 two 2 three 3' zrange z 0 -1 withscores
expect OK set short lived px 60
expect OK set long lived ex 1000
sleep 0.2
expect '' get short
expect lived get long
expect 6 eval 'local n = 0 for i = 1, #ARGV do n = n + ARGV[i] end return n' 0 1 2 3
expect 1000000 eval 'return #string.rep(ARGV[1], 100000)' 0 0123456789
cli info memory > info.txt
used_memory=$(tr -d '\r' < info.txt | sed -n 's/^used_memory:\([0-9]*\)$/\1/p')
[[ ${used_memory:-0} -gt 5000000 && $used_memory -lt 500000000 ]] || fail "INFO memory says used_memory=$used_memory"

step "load: redis-benchmark with pipelining, then without"
redis-benchmark -s "$socket" -n 100000 -r 20000 -d 200 -P 16 -c 20 -q -t set,get,incr,lpush,rpop,sadd,hset,zadd,mset \
    > bench.txt 2>&1 || { cat bench.txt; fail "redis-benchmark failed"; }
redis-benchmark -s "$socket" -n 10000 -r 20000 -d 3000 -c 50 -q -t set,lpush,lrange_100 \
    > bench2.txt 2>&1 || { cat bench2.txt; fail "redis-benchmark failed"; }
n_results=$(tr '\r' '\n' < bench.txt | grep -c 'requests per second, p50')
[[ $n_results -eq 9 ]] || { cat bench.txt; fail "redis-benchmark gave $n_results results instead of 9"; }
expect 'hello world' get greeting

step "BGSAVE under writes: a fork of the server that allocates and ends"
cli bgsave > /dev/null
redis-benchmark -s "$socket" -n 100000 -r 20000 -d 100 -P 16 -c 10 -q -t set,hset > /dev/null 2>&1
saved=no
for ((i = 0; i < 300; i++)); do
    cli info persistence | tr -d '\r' > persistence.txt
    if grep -qx 'rdb_bgsave_in_progress:0' persistence.txt; then saved=yes; break; fi
    sleep 0.1
done
[[ $saved == yes ]] || fail "BGSAVE did not end within 30 s"
assert_line 'rdb_last_bgsave_status:ok' persistence.txt

step "DEBUG RELOAD keeps the data"
# Nothing may expire or be written in between.
before=$(cli debug digest)
expect OK debug reload
after=$(cli debug digest)
[[ $before == "$after" ]] || fail "the digest changed from $before to $after by DEBUG RELOAD"

step "freed at once and in the background, then filled again"
expect OK flushall async
expect 0 dbsize
digest=$(load_and_digest)
[[ $digest == "$expected_digest" ]] || fail "digest $digest instead of $expected_digest after FLUSHALL"

step "SHUTDOWN SAVE; a server on the system's malloc reads what was saved"
stop_server hakmem save
assert_stats stats.json
[[ $(stat_of peak_committed_bytes stats.json) -gt 20000000 ]] || fail "the server's data was not in hakmem's memory"
start_server reread
digest=$(cli debug digest)
[[ $digest == "$expected_digest" ]] || fail "digest $digest instead of $expected_digest after a restart"
stop_server reread
echo "redis: $expected_digest throughout"
