#!/bin/bash
# profile_tools.sh - other programs read what hakmem writes: `go tool pprof` and google-pprof the library's dump and .pb.gz, an XML
# reader the image; all say the same. `hakmem diff` says what has grown, between runs and between versions of a program.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/_common.sh"
source "$(dirname "${BASH_SOURCE[0]}")/_profile.sh"
require go google-pprof python3
export GOCACHE=$work/go-cache GOPATH=$work/go GOFLAGS=-mod=mod GOTOOLCHAIN=local PPROF_TMPDIR=$work

"$HAKMEM_CC" -O2 -g -o profile-target profile-target.c -pthread
dump_of() { # FILE COMMAND...
    local file=$1 command
    shift
    for command in "$@"; do echo "$command"; done |
        LD_PRELOAD=$HAKMEM_LIB HAKMEM_PROFILE=$work/$file HAKMEM_PROFILE_INTERVAL=1 ./profile-target > /dev/null
}
assert_grep() { # REGEX FILE
    grep -qE -e "$1" "$2" || { head -n 50 "$2"; fail "$2 has no line like: $1"; }
}

step "one profile in all formats"
dump_of heap.dump "leak 100" "inline 50" "thread 25" "free" "leak 30"
for format in pb.gz folded svg html txt; do
    "$hakmem" profile heap.dump -o "heap.$format" 2> err
    [[ -s heap.$format && ! -s err ]] || fail "heap.$format: $(cat err)"
done
"$hakmem" profile heap.pb.gz -o again.pb.gz
assert_same heap.pb.gz again.pb.gz
"$hakmem" profile heap.pb.gz -o again.svg
assert_same heap.svg again.svg

step "-o /dev/stdout adds to the file that the output goes to"
for command in "profile heap.dump" "diff heap.dump heap.dump"; do
    echo before > log
    # shellcheck disable=SC2086 # it is several words
    { "$hakmem" $command --format text -o /dev/stdout; echo behind; } >> log
    [[ $(head -n 1 log) == before && $(tail -n 1 log) == behind && $(wc -l < log) -ge 3 ]] || { cat log; fail "$command"; }
done

step "go tool pprof: the compressed profile, with functions and lines"
pprof() { go tool pprof -symbolize=none "$@" 2> pprof.err || fail "pprof $*: $(cat pprof.err)"; }
pprof -top heap.pb.gz > top
assert_grep '^Type: inuse_space$' top
assert_grep '^ +29.30kB .* site_leak$' top # 30 of 1000 bytes
pprof -top -sample_index=inuse_objects heap.pb.gz > top
assert_grep '^ +30 .* site_leak$' top
pprof -top -sample_index=alloc_objects heap.pb.gz > top
assert_grep '^ +130 .* site_leak$' top
assert_grep '^ +25 .* site_thread$' top
assert_grep '^ +50 .* inlined_below( \(inline\))?$' top
pprof -raw heap.pb.gz > raw
assert_grep '^PeriodType: space bytes$' raw
assert_grep '^Period: 1$' raw
assert_grep '^ *alloc_objects/count alloc_space/bytes inuse_objects/count inuse_space/bytes\[dflt\]$' raw
assert_grep "site_leak $work/profile-target.c:$(line_of site_leak) s=" raw
assert_grep "^1: 0x[0-9a-f]+/0x[0-9a-f]+/0x1000 $work/profile-target [0-9a-f]{40} \[FN\]\[FL\]\[LN\]\[IN\]$" raw
pprof -lines -traces -sample_index=alloc_objects heap.pb.gz > traces
assert_grep "inlined_below $work/profile-target.c:$(line_of inlined_below)" traces
assert_grep "site_inlines $work/profile-target.c:$(line_of site_inlines)" traces

step "go tool pprof: the library's dump, whose names it finds itself"
go tool pprof -top -sample_index=alloc_objects profile-target heap.dump > top 2> pprof.err || fail "$(cat pprof.err)"
assert_grep '^ +130 .* site_leak$' top

step "google-pprof: the same dump"
google-pprof --text --alloc_objects profile-target heap.dump > top 2> pprof.err || fail "$(cat pprof.err)"
assert_grep '^ +130 +[0-9.]+% .* site_leak$' top
google-pprof --text --inuse_space --lines profile-target heap.dump > top 2> pprof.err || fail "$(cat pprof.err)"
assert_grep "site_leak .*/profile-target.c:[0-9]+" top # it takes the innermost address as it is: a line behind the call

step "folded stacks and text: the same sums"
[[ $(folded_sum heap.folded ";main;site_leak ") -eq 30000 ]] || { cat heap.folded; fail "30 blocks of 1000 bytes"; }
if grep -vE '^[^ ].* [0-9]+$' heap.folded; then fail "no folded stack"; fi
total=$(sed -n '1s/heap profile: [0-9]*: \([0-9]*\) .*/\1/p' heap.dump)
[[ $(folded_sum heap.folded "") -eq $total ]] || fail "all stacks have $(folded_sum heap.folded "") bytes, the dump $total"
assert_grep '^ +29.3 KiB +[0-9.]+% +29.3 KiB +[0-9.]+%  site_leak  .*/profile-target.c$' heap.txt

step "the image is XML, and has its frames without a script"
python3 - heap.svg > frames << 'END'
import sys, xml.etree.ElementTree as tree
root = tree.parse(sys.argv[1]).getroot()
assert root.tag == "{http://www.w3.org/2000/svg}svg", root.tag
for text in root.iter("{http://www.w3.org/2000/svg}text"):
    print(text.text)
END
assert_grep '^site_leak$' frames
assert_grep '^Heap of profile-target, process [0-9]+$' frames

step "hakmem diff: between two runs, whose addresses differ"
dump_of second.dump "leak 180" "thread 25" "free" "leak 90" "inline 4"
"$hakmem" profile second.dump -o second.pb.gz
for files in "heap.dump second.dump" "heap.pb.gz second.pb.gz" "heap.dump second.pb.gz"; do
    # shellcheck disable=SC2086 # they are two
    "$hakmem" diff $files > growth
    assert_grep '^live bytes: \+62.5 KiB, from ' growth
    sed -n '3p' growth | grep -q '^+58.6 KiB: from 29.3 KiB in 30 blocks to 87.9 KiB in 90 blocks$' || { cat growth; fail "the largest growth is not first"; }
    sed -n '4p' growth | grep -q "^    site_leak  $work/profile-target.c:$(line_of site_leak)\$" || { cat growth; fail "its line"; }
    assert_grep '^\+3.9 KiB: from 0 B in 0 blocks to 3.9 KiB in 4 blocks$' growth
    # shellcheck disable=SC2086
    "$hakmem" diff $files --value alloc_objects -o growth.folded
    [[ $(folded_sum growth.folded ";site_leak ") -eq 140 ]] || { cat growth.folded; fail "140 blocks more"; }
    [[ $(folded_sum growth.folded ";inlined_below ") -eq -46 ]] || { cat growth.folded; fail "46 blocks fewer"; }
    # shellcheck disable=SC2086
    "$hakmem" diff $files -o growth.pb.gz
    pprof -top -sample_index=inuse_objects growth.pb.gz > top
    assert_grep '^ +60 .* site_leak$' top
done
"$hakmem" diff heap.dump heap.pb.gz > growth
[[ $(wc -l < growth) -eq 1 ]] || { cat growth; fail "a profile differs from itself"; }
"$hakmem" profile growth.pb.gz | head -n 1 | grep -q "^difference of heap profiles" || fail "a difference is shown as a profile"

step "hakmem diff: between two versions of a program"
{ echo; echo; cat profile-target.c; } > newer.c
mv newer.c profile-target.c
"$HAKMEM_CC" -O2 -g -o profile-target profile-target.c -pthread
dump_of newer.dump "leak 31"
"$hakmem" diff heap.pb.gz newer.dump > growth
assert_grep '^\+1000 B: from 29.3 KiB in 30 blocks to 30.3 KiB in 31 blocks$' growth
assert_grep "^    site_leak  $work/profile-target.c:$(line_of site_leak)\$" growth

step "the report at exit: its parts are its whole"
# Each of 30 call sites leaks, two and two as much; the report lists 20 of them.
{
    echo '#include <stdlib.h>'
    for i in $(seq 30); do echo "__attribute__((noinline)) void *leak_$i(void) { void *p = malloc($(((i + 1) / 2 * 2000))); __asm__ volatile(\"# $i\" : \"+r\"(p) : : \"memory\"); return p; }"; done
    echo 'int main(void) {'
    for i in $(seq 30); do echo "    leak_$i();"; done
    echo '}'
} > leaks.c
"$HAKMEM_CC" -O1 -rdynamic -o leaks leaks.c
LD_PRELOAD=$HAKMEM_LIB HAKMEM_PROFILE=report HAKMEM_PROFILE_INTERVAL=1 ./leaks 2> report
total=$(sed -n 's/^hakmem: live at exit, by samples: \([0-9]*\) bytes in [0-9]* blocks$/\1/p' report)
parts=$(awk '/^hakmem:   [0-9]+ bytes in / { n += $2 } /^hakmem:   and / { n += $3 } END { print n }' report)
[[ $total -ge 465000 && $total -eq $parts ]] || { cat report; fail "all is $total, the parts are $parts"; }
[[ $(grep -c '^hakmem:   [0-9]* bytes in 1 blocks, allocated by$' report) -eq 20 ]] || { cat report; fail "not 20 stacks"; }
sed -n 2,3p report | grep -q '^hakmem:   30000 bytes in 1 blocks, allocated by$' || { cat report; fail "the largest is not first"; }
assert_grep '^hakmem:     #0 0x[0-9a-f]+ leak_30 \(.*/leaks\+0x[0-9a-f]+\)$' report

step "what is refused"
refuses "takes two profiles" diff heap.dump
refuses "takes two profiles" diff heap.dump heap.dump heap.dump
refuses "cannot read nowhere" diff heap.dump nowhere
refuses "is no heap profile" diff profile-target.c heap.dump
refuses "--format: 'svg' is not" diff heap.dump heap.dump --format svg
refuses "no format of differences has this ending" diff heap.dump heap.dump -o x.svg
refuses "--output: 'b.txt' is a second file, after 'a.txt'" diff heap.dump heap.dump -o a.txt -o b.txt
head -c 300 heap.pb.gz > cut.pb.gz
refuses "cut.pb.gz is cut or damaged" profile cut.pb.gz
"$hakmem" help diff | grep -q "^usage: hakmem diff " || fail "help diff"
