#!/usr/bin/env bash
# record.sh - records the allocation calls of real programs as traces for bench_replay.
# Usage: record.sh [NAME]...    all traces, or the named ones, into bench/traces/NAME.trace.gz; prints a table of them.
#
# The inputs are chosen so that the whole life of each program is in its trace, from its first call to its exit, and so
# that a compressed trace stays below MAX_TRACE_BYTES. The traces lie in the repository: nobody needs to record them to
# replay them. A recording on another machine differs, because the programs do.
# Environment: HAKMEM_BUILD_DIR (default build).
# Needs: librecorder.so in the build directory (recorder.c says how it is built); sqlite3, python3.11, g++, redis-server
# with redis-benchmark and redis-cli, perl, gzip.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=common.sh
source "$(dirname "$0")/common.sh"

readonly MAX_TRACE_BYTES=$((400 * 1024))
recorder=$build/librecorder.so
traces=$here/traces
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# recorded NAME PROGRAM COMMAND...: runs the command; every process of PROGRAM writes $scratch/NAME.PID.
recorded() {
    local name=$1 program=$2
    shift 2
    env LD_PRELOAD="$recorder" RECORD_FILE="$scratch/$name" RECORD_NAME="$program" "$@"
}

# executable COMMAND: the name of the file that runs; redis-server may be a symbolic link to a file of another name.
executable() {
    basename "$(realpath "$(command -v "$1")")"
}

# header_number FILE OFFSET BYTES: one number of a trace's header.
header_number() {
    od -An -t "u$3" -j "$2" -N "$3" "$1" | tr -d ' '
}

# keep NAME: compresses the one trace that was recorded, and prints its row.
keep() {
    local files=("$scratch/$1".*) kept=$traces/$1.trace.gz
    [[ ${#files[@]} == 1 && -s ${files[0]} ]] || die "$1: not one process was recorded, but ${#files[@]}: ${files[*]}"
    gzip -9 -n <"${files[0]}" >"$kept"
    (($(stat -c %s "$kept") <= MAX_TRACE_BYTES)) || die "$kept is larger than $MAX_TRACE_BYTES bytes: use less input"
    printf '| %s | %d | %d | %d | %d | %d |\n' "$1" "$(header_number "${files[0]}" 16 8)" \
        "$(header_number "${files[0]}" 24 8)" "$(header_number "${files[0]}" 12 4)" \
        "$(header_number "${files[0]}" 32 8)" "$(stat -c %s "$kept")"
}

# The script of make run with a fifth of its rows.
record_sqlite3() {
    sed -e 's/i < 20000)/i < 5000)/; s/% 20000/% 5000/g; s/i < 280000)/i < 60000)/' "$here/sqlite.sql" |
        recorded sqlite3 "$(executable sqlite3)" sqlite3 :memory: >/dev/null
}

# PYTHONMALLOC=malloc: each object of Python is a call, not a share of an arena of 256 KiB.
record_python() {
    local program
    program=$(python3.11 -c 'import os, sys; print(os.path.basename(os.path.realpath(sys.executable)))')
    cat >"$scratch/program.py" <<'PROGRAM'
import json

words = ["word%d" % (i * 7919 % 997) for i in range(1500)]
tree = {}
for i, w in enumerate(words):
    tree[w] = {"n": i, "tags": [w[:3], w[-2:], str(i)], "next": {"a": i / 7, "b": [i, i + 1]}}
for _ in range(3):
    tree = json.loads(json.dumps(tree))
lines = []
for i in range(4000):
    lines.append("%s-%d: %s" % (words[i % 1500], i, "x" * (i * 31 % 120)))
    if i % 500 == 499:
        lines = sorted(lines, key=lambda line: line[::-1])[: len(lines) // 2]
text = "\n".join(lines)
counts = {}
for token in text.replace("-", " ").split():
    counts[token] = counts.get(token, 0) + 1
print(len(text), len(tree), sorted(counts.items(), key=lambda kv: (-kv[1], kv[0]))[:3])
PROGRAM
    recorded python "$program" PYTHONMALLOC=malloc PYTHONHASHSEED=0 python3.11 -s -S -B "$scratch/program.py" >/dev/null
}

record_gxx() {
    cat >"$scratch/words.cpp" <<'PROGRAM'
#include <iostream>
#include <map>
#include <string>
#include <vector>

template <typename Key> struct Index {
    std::map<Key, std::vector<std::string>> lines;
    void add(const Key &key, std::string line) { lines[key].push_back(std::move(line)); }
};

int main()
{
    Index<std::string> by_word;
    Index<std::size_t> by_length;
    for (std::string word; std::cin >> word;) {
        by_word.add(word, word + "!");
        by_length.add(word.size(), word);
    }
    for (const auto &[length, words] : by_length.lines)
        std::cout << length << ' ' << words.size() << '\n';
    return by_word.lines.empty();
}
PROGRAM
    recorded gxx cc1plus g++ -std=c++17 -O0 -S -o "$scratch/words.s" "$scratch/words.cpp"
}

record_redis() {
    local socket=$scratch/redis.sock server tries
    recorded redis "$(executable redis-server)" redis-server --port 0 --unixsocket "$socket" --save '' \
        --appendonly no --dir "$scratch" >"$scratch/server.log" &
    server=$!
    for ((tries = 0; tries < 100; tries++)); do
        [[ -S $socket ]] && break
        sleep 0.1
    done
    redis-benchmark -s "$socket" -t set,get,lpush,hset -n 6000 -r 3000 -d 100 -c 10 -q >/dev/null
    redis-cli -s "$socket" shutdown nosave
    wait "$server"
}

record_perl() {
    cat >"$scratch/program.pl" <<'PROGRAM'
use strict;
my (%count, %where, @lines);
for my $i (1 .. 6000) {
    push @lines, join ' ', map { 'w' . ($i * $_ * 7919 % 3001) } 1 .. 2 + $i % 7;
}
for my $line (@lines) {
    for my $word (split / /, $line) {
        $count{$word}++;
        push @{ $where{ length $word } }, $word if $word =~ /^w(\d)\d*\1$/;
    }
}
(my $text = join "\n", @lines) =~ s/(w\d)(\d+)/$2-$1/g;
my @best = (sort { $count{$b} <=> $count{$a} || $a cmp $b } keys %count)[0 .. 9];
print length $text, " @best ", scalar(map { @$_ } values %where), "\n";
PROGRAM
    recorded perl "$(executable perl)" PERL_HASH_SEED=0 PERL_DESTRUCT_LEVEL=2 perl "$scratch/program.pl" >/dev/null
}

readonly NAMES=(sqlite3 python gxx redis perl)
need_files "$recorder"
mkdir -p "$traces"
echo '| trace | calls | objects at once | threads | bytes requested | bytes of the file |'
echo '|---|--:|--:|--:|--:|--:|'
(($# > 0)) || set -- "${NAMES[@]}"
for name; do
    [[ " ${NAMES[*]} " == *" $name "* ]] || die "no trace is called $name: choose from ${NAMES[*]}"
    "record_$name"
    keep "$name"
done
