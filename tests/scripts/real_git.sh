#!/bin/bash
# real_git.sh - git on hakmem makes the same history, packs and differences as on the system's malloc.
#
# A repository of 400 commits on two branches that merge once, by git fast-import from a stream that is the same every
# time; then clone, gc --aggressive with two threads, fsck, log, diff, blame, grep, merge and archive. Which bytes a
# pack made by two threads has is up to their timing, so the packs' objects are compared, not the packs.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/_common.sh"
require git perl

export GIT_CONFIG_NOSYSTEM=1 GIT_TERMINAL_PROMPT=0 GIT_PAGER=cat
export GIT_AUTHOR_NAME=tester GIT_AUTHOR_EMAIL=tester@example.invalid GIT_AUTHOR_DATE='1700000000 +0000'
export GIT_COMMITTER_NAME=tester GIT_COMMITTER_EMAIL=tester@example.invalid GIT_COMMITTER_DATE='1700000000 +0000'
git config --global init.defaultBranch main
git config --global protocol.file.allow always
git config --global pack.threads 2
git config --global gc.auto 0
git config --global advice.detachedHead false
n_commits=400

# Files of some hundred lines, of which every commit changes a few.
cat > stream.pl << 'EOF'
use strict;
use warnings;
my $n_commits = shift;
my $x = 20231114;
sub below { $x = ($x * 1103515245 + 12345) % 2147483648; return int($x / 65536) % $_[0]; }
my @words = qw(alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi omicron pi rho sigma tau);
sub line { return join(" ", map { $words[below(scalar @words)] } 1 .. 3 + below(8)) . " " . below(1000) . "\n"; }
my %file;
$file{sprintf("dir%d/sub%d/file%d.txt", $_ % 5, $_ % 7, $_)} = [map { line() } 1 .. 100 + below(400)] for 1 .. 60;
my @names = sort keys %file;
for my $commit (1 .. $n_commits) {
    my $branch = $commit % 10 == 0 && $commit < $n_commits ? "side" : "main";
    print "commit refs/heads/$branch\nmark :$commit\ncommitter tester <tester\@example.invalid> ";
    print 1600000000 + $commit * 60, " +0000\n";
    my $message = "change $commit\n\n" . join("", map { line() } 1 .. below(5));
    print "data ", length($message), "\n$message\n";
    print "from :9\n" if $commit == 10;
    print "merge :", $n_commits / 2, "\n" if $commit == $n_commits / 2 + 1;
    my @changed = $commit == 1 ? @names : map { $names[below(scalar @names)] } 1 .. 3;
    for my $name (@changed) {
        my $lines = $file{$name};
        splice(@$lines, below(scalar @$lines), below(4), map { line() } 1 .. below(6)) if $commit > 1;
        push @$lines, line() if !@$lines;
        my $text = join("", @$lines);
        print "M 100644 inline $name\ndata ", length($text), "\n$text\n";
    }
}
print "done\n";
EOF
perl stream.pl "$n_commits" > stream.txt

# All of git's work, in the directory NAME; what git says of it goes to NAME.out and NAME.err.
work_with_git() { # on_hakmem|on_system NAME
    local where=$1 name=$2
    run() { # DIRECTORY ARGUMENT...
        (cd "$name/$1" && "$where" git "${@:2}") > part.out 2>> "$name.err" < "${input:-/dev/null}" \
            || fail "git ${*:2} ended with status $? ($name): $(tail -n 5 "$name.err")"
        cat part.out >> "$name.out"
    }
    # For output that is long: its digest, and that it is not empty.
    digest() { # DIRECTORY ARGUMENT...
        local said=$name.out-before
        mv "$name.out" "$said"
        run "$@"
        [[ -s $name.out ]] || fail "git ${*:2} said nothing ($name)"
        echo "${*:2}: $(sha256_of "$name.out")" >> "$said"
        mv "$said" "$name.out"
    }
    rm -rf "$name"
    mkdir "$name"
    run . init -q origin
    input=$work/stream.txt run origin fast-import --quiet --done
    run origin reset -q --hard
    run origin gc --aggressive --quiet --prune=now
    run . clone -q "file://$work/$name/origin" clone
    run clone checkout -q -b side origin/side
    run clone checkout -q main
    # Nearly every file changed on both sides since the first merge.
    run clone merge -q -X ours -m 'merge side' origin/side
    run clone repack -q -a -d -f --depth=20 --window=60
    echo "before fsck" >> "$name.out"
    run clone fsck --full --strict --no-progress
    echo "after fsck" >> "$name.out"
    run clone rev-list --count --all
    run clone rev-parse HEAD
    digest clone log --stat --graph --all -M
    digest clone log -p --topo-order --diff-algorithm=histogram
    digest clone diff --word-diff HEAD~40 HEAD
    digest clone blame -M -C dir1/sub1/file1.txt
    digest clone grep -n -E 'alpha.*(beta|omicron).* [0-9]+7$' HEAD~100
    digest clone archive --format=tar HEAD
    digest clone cat-file --batch-check --batch-all-objects
    digest origin cat-file --batch-check --batch-all-objects
    assert_no_report "$name.err" "$name.out"
}

step "the preload takes effect"
git init -q "$work/proof"
assert_runs_on_hakmem git -C "$work/proof" hash-object --stdin-paths

step "import, gc --aggressive, clone, merge, fsck, log, diff, blame"
work_with_git on_system system
work_with_git on_hakmem hakmem
assert_same system.out hakmem.out
assert_same system.err hakmem.err
# fsck has nothing to say, and the history is the stream's and the last merge.
grep -A 1 -x 'before fsck' hakmem.out > fsck.out
assert_line "after fsck" fsck.out
assert_line "$((n_commits + 1))" hakmem.out

step "what hakmem packed is whole for a git on the system's malloc"
git -C hakmem/clone fsck --full --strict > fsck.out 2>&1 || { cat fsck.out; fail "fsck refuses what git on hakmem packed"; }
git verify-pack "$work"/hakmem/clone/.git/objects/pack/*.idx || fail "a pack made on hakmem is damaged"
echo "git: the same $((n_commits + 1)) commits and the same output"
