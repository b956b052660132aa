# real_perl.pl - a Perl program as programs are: hashes, splits, regular expressions, sorting. Called by bench.py.
# Every value comes from a loop's number, so the output is the same under every allocator.
use strict;
use warnings;

my (%count, %by_length, @lines);
for my $i (1 .. 60000) {
    push @lines, join ' ', map { 'w' . ($i * $_ * 7919 % 30011) } 1 .. 3 + $i % 7;
}
for my $line (@lines) {
    for my $word (split / /, $line) {
        $count{$word}++;
        push @{ $by_length{ length $word } }, $word if $word =~ /^w(\d)\d*\1$/;
    }
}
(my $text = join "\n", @lines) =~ s/(w\d)(\d+)/$2-$1/g;
my @best = (sort { $count{$b} <=> $count{$a} || $a cmp $b } keys %count)[0 .. 9];
my @by_end = sort map { scalar reverse } @lines;
my %index = map { $lines[$_] => [split /\s+/, $lines[$_]] } 0 .. $#lines;
print length $text, " @best\n";
print scalar(map { @$_ } values %by_length), " $by_end[1000] ", scalar(keys %index), "\n";
