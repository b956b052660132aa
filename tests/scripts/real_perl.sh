#!/bin/bash
# real_perl.sh - perl on hakmem: big hashes, arrays, strings, regular expressions, sorts, and children behind pipes.
#
# The output under the system's malloc is the answer, and parts of it are known beforehand. A smaller run repeats it on
# every tiny profile.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/_common.sh"
require perl

# Hashes are in the same order in every run.
export PERL_HASH_SEED=0 PERL_PERTURB_KEYS=0

cat > work.pl << 'EOF'
use strict;
use warnings;
use List::Util qw(sum max reduce);
use Digest::SHA qw(sha256_hex);

my $n = shift;
my $x = 7;
sub next_number { $x = ($x * 1103515245 + 12345) % 2147483648; return $x; }

# A hash that grows, loses half of its keys and grows again; its values are arrays and hashes.
my %record;
for my $i (1 .. $n) {
    my $key = sprintf("key-%06d-%s", $i, "k" x ($i % 40));
    $record{$key} = { id => $i, list => [map { next_number() % 1000 } 1 .. $i % 9], name => "n" . next_number() };
}
print "records ", scalar(keys %record), "\n";
for my $key (keys %record) { delete $record{$key} if $record{$key}{id} % 2; }
print "left ", scalar(keys %record), "\n";
$record{"new-$_"} = { id => -$_, list => [], name => "x" x ($_ % 300) } for 1 .. $n;
print "ids ", sum(map { $_->{id} } values %record), "\n";
print "lists ", sum(map { sum(0, @{ $_->{list} }) } values %record), "\n";
print "order ", sha256_hex(join(",", keys %record)), "\n";

# Sorts: by number, by text, by a computed key, stable.
my @numbers = map { next_number() } 1 .. 2 * $n;
my @sorted = sort { $a <=> $b } @numbers;
for my $i (1 .. $#sorted) { die "not sorted at $i" if $sorted[$i - 1] > $sorted[$i]; }
print "numbers ", sha256_hex("@sorted"), " $sorted[0] $sorted[-1]\n";
my @keys = map { $_->[1] } sort { $a->[0] <=> $b->[0] || $a->[1] cmp $b->[1] } map { [length($_), $_] } keys %record;
print "keys ", sha256_hex("@keys"), " $keys[0]\n";

# Arrays used from both ends, and slices.
my @queue;
my $moved = 0;
for my $i (1 .. 4 * $n) {
    push @queue, "item $i";
    $moved += length(shift @queue) if $i % 3;
    unshift @queue, pop @queue if $i % 5 == 0;
}
splice(@queue, 10, 100, map { $_ x 3 } "a" .. "zz");
print "queue ", scalar(@queue), " $moved ", sha256_hex(join("|", @queue)), "\n";

# Strings that grow by append and insertion; regular expressions with captures, look-ahead and replacement code.
my $text = "";
$text .= sprintf("%d:%s;", $_, join(".", map { next_number() % 256 } 1 .. 4)) for 1 .. $n;
my %hits;
while ($text =~ /(\d+):((?:\d{1,3}\.){3})(\d{1,3})(?=;)/g) { $hits{$2 =~ tr/1//}++; }
print "hits ", join(" ", map { "$_=$hits{$_}" } sort { $a <=> $b } keys %hits), "\n";
(my $changed = $text) =~ s/(\d+)\.(\d+)/$1 > $2 ? "<$2,$1>" : uc("x$1y$2")/ge;
print "changed ", length($changed), " ", sha256_hex($changed), "\n";
substr($changed, 17 * $_, 3) = "inserted" for 1 .. $n / 50;
print "inserted ", sha256_hex($changed), "\n";
print "split ", scalar(split(/[;,<>]+/, $changed)), " ", scalar(my @l = ("ab" x 500) =~ /(?<p>a)(?<q>b)/g), "\n";

# Recursion and closures: trees of nodes, built and dropped.
sub tree { my $depth = shift; return $depth ? [tree($depth - 1), tree($depth - 1), "d$depth"] : ["leaf"]; }
sub nodes { my $t = shift; return 1 + sum(0, map { ref($_) ? nodes($_) : 0 } @$t); }
print "nodes ", nodes(tree(12)), "\n";
my @counters = map { my $c = $_; sub { return $c += shift } } 1 .. 1000;
print "closures ", sum(map { my $f = $_; $f->(5); $f->(7) } @counters), "\n";

# Eight children fork out of this heap, change their copies of it, and answer through a pipe each.
my @readers;
for my $child (1 .. 8) {
    pipe(my $reader, my $writer) or die "pipe: $!";
    my $pid = fork();
    die "fork: $!" if !defined $pid;
    if ($pid == 0) {
        close $reader;
        delete @record{ grep { $record{$_}{id} % 8 == $child % 8 } keys %record };
        $record{"child-$child-$_"} = { id => $_, list => [1 .. 20], name => "c" x 100 } for 1 .. $n / 10;
        my @answer = sort keys %record;
        print $writer "child $child ", scalar(@answer), " ", sha256_hex("@answer"), "\n", "filler\n" x 20000;
        close $writer;
        exit($child);
    }
    close $writer;
    push @readers, [$pid, $child, $reader];
}
for (@readers) {
    my ($pid, $child, $reader) = @$_;
    my @lines = <$reader>;
    waitpid($pid, 0) == $pid or die "waitpid: $!";
    die "child $child: status $?" if $? != $child << 8;
    print $lines[0], "lines ", scalar(@lines), "\n";
}
print "still ", scalar(keys %record), " ", `echo from a shell`;
print "done\n";
EOF

run_perl() { # on_hakmem|on_system N NAME
    "$1" perl work.pl "$2" > "$3.out" 2> "$3.err" || fail "perl ended with status $? ($3): $(cat "$3.err")"
    assert_same /dev/null "$3.err"
}

step "the preload takes effect"
assert_runs_on_hakmem perl -e 'my %h = map { $_ => "v" x 50 } 1 .. 100000; print scalar(keys %h), "\n"'
[[ $(stat_of peak_committed_bytes proof.json) -gt 10000000 ]] || fail "perl's hash was not in hakmem's memory"
assert_line 100000 proof.out

step "60,000 records"
run_perl on_system 60000 system
run_perl on_hakmem 60000 hakmem
assert_same system.out hakmem.out
for line in "records 60000" "left 30000" "ids -900000000" "nodes 8191" "closures 512500" "still 90000 from a shell" "done"; do
    assert_line "$line" hakmem.out
done

step "12,000 records on every profile"
run_perl on_system 12000 small
assert_line "left 6000" small.out
for profile in "${profiles[@]}"; do
    export HAKMEM_TINY_PROFILE=$profile
    run_perl on_hakmem 12000 "$profile"
    assert_same small.out "$profile.out"
done
echo "perl: the same output"
