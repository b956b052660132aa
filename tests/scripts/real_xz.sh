#!/bin/bash
# real_xz.sh - xz with two threads compresses 60 MB on hakmem to the same bytes as on the system's malloc, and back.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/_common.sh"
require xz perl

# Text made of repeated words, numbers that do not repeat, and runs: it shrinks to about a third.
cat > data.pl << 'EOF'
use strict;
use warnings;
my $x = 42;
my @words = map { join("", map { $x = ($x * 1103515245 + 12345) % 2147483648; chr(97 + int($x / 65536) % 26) } 1 .. 7) } 1 .. 512;
my $n_bytes = 0;
while ($n_bytes < 60_000_000) {
    my $block = "";
    for (1 .. 500) {
        $x = ($x * 1103515245 + 12345) % 2147483648;
        $block .= $words[($x >> 12) & 511] . " " . $words[($x >> 21) & 511] . " " . pack("N", $x) . "\n";
    }
    $block .= chr(($x >> 16) & 255) x (($x >> 8) & 8191);
    print $block;
    $n_bytes += length($block);
}
EOF
perl data.pl > data
[[ $(stat -c %s data) -ge 60000000 ]] || fail "the data was not made"

step "the preload takes effect"
head -c 5000000 data > little
assert_runs_on_hakmem xz -T2 -1 --block-size=1MiB --keep little

step "compress"
compress=(xz -T2 -1 --block-size=3MiB --check=sha256 --stdout data)
on_system "${compress[@]}" > system.xz
on_hakmem "${compress[@]}" > hakmem.xz 2> hakmem.err || fail "xz ended with status $? on hakmem: $(cat hakmem.err)"
assert_same system.xz hakmem.xz
n_compressed=$(stat -c %s hakmem.xz)
[[ $n_compressed -gt 6000000 && $n_compressed -lt 55000000 ]] || fail "60 MB became $n_compressed bytes"

step "decompress, with two threads and with one"
for n_threads in 2 1; do
    on_hakmem xz -d "-T$n_threads" --stdout hakmem.xz > back 2>> hakmem.err || fail "xz -d -T$n_threads: $(cat hakmem.err)"
    [[ $(sha256_of back) == "$(sha256_of data)" ]] || fail "xz -d -T$n_threads gave other data"
done

step "a damaged file is found to be damaged"
head -c 1000000 hakmem.xz > cut.xz
if on_hakmem xz -d -T2 --stdout cut.xz > /dev/null 2> cut.err; then fail "xz accepted a file that was cut"; fi
grep -q 'Unexpected end of input' cut.err || fail "xz did not say what is wrong: $(cat cut.err)"

step "the largest preset with one thread: blocks of 100 MB"
on_system xz -9e --stdout little > little.system.xz
on_hakmem xz -9e --stdout little > little.hakmem.xz 2>> hakmem.err || fail "xz -9e: $(cat hakmem.err)"
assert_same little.system.xz little.hakmem.xz
assert_no_report hakmem.err cut.err
echo "xz: 60 MB to $n_compressed bytes and back"
