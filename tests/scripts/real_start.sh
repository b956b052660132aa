#!/bin/bash
# real_start.sh - small programs start, work and end on hakmem, also with little address space and inside valgrind.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/_common.sh"
require /bin/true /bin/ls bash awk sort sed find tar sqlite3 /usr/bin/python3.11 valgrind gcc

step "the preload takes effect"
assert_runs_on_hakmem /bin/ls -la /usr/bin

step "true, ls, env: no word of their own, and the words they should say"
for ((i = 0; i < 200; i++)); do
    on_hakmem /bin/true > true.out 2>&1 || fail "/bin/true ended with status $?"
    assert_same /dev/null true.out
done
status=0
on_hakmem /bin/false || status=$?
[[ $status -eq 1 ]] || fail "/bin/false ended with status $status"
for command in "/bin/ls -laR /usr/include" "find /usr/share/perl -type f -printf %p:%s\n" "tar -cf - -C /usr/include ." \
               "sort -r -S 1M --parallel=2 text" "awk {n[\$2]+=length(\$0)}END{for(k=0;k<97;k++)print(k,n[k])} text"; do
    [[ -e text ]] || awk 'BEGIN { for (i = 0; i < 200000; i++) print i * 7919 % 200003, i % 97, "line" i }' > text
    # shellcheck disable=SC2086 # a command and its arguments, without spaces inside
    on_system $command > system.out || fail "fails on the system's malloc: $command"
    # shellcheck disable=SC2086
    on_hakmem $command > hakmem.out 2> hakmem.err || fail "status $?: $command: $(cat hakmem.err)"
    assert_same system.out hakmem.out
    assert_same /dev/null hakmem.err
done

step "bash: pipelines, subshells, substitutions, traps, background jobs"
cat > shell.sh << 'EOF'
set -euo pipefail
trap 'echo "end $?"' EXIT
seq 1 20000 | sed 's/7/seven/g' | sort | uniq -c | awk '{ n += length($0) } END { print "pipeline", n }'
declare -A count
for ((i = 0; i < 20000; i++)); do count[$((i % 1013))]+=x; done
echo "array ${#count[@]} ${#count[5]}"
text=$(for i in {1..300}; do echo "$(echo "inner $i" | tr a-z A-Z)"; done)
echo "substitution ${#text} ${text: -9}"
(cd /; (trap 'echo trapped; exit 3' TERM; kill -TERM $BASHPID; echo not reached)) || echo "subshell $?"
for i in 1 2 3 4 5 6 7 8; do (sleep 0.0$i; exit $i) & pids+=($!); done
sum=0
for pid in "${pids[@]}"; do wait "$pid" || sum=$((sum + $?)); done
echo "jobs $sum"
[[ "key=value; other=thing" =~ ^([a-z]+)=([a-z]+)\;\ (.*)$ ]] && echo "match ${BASH_REMATCH[*]:1}"
cat << END | (read -r first; read -r second; echo "here $second $first")
one
two
END
diff <(seq 1 1000) <(seq 1 1000 | sed 's/^500$/changed/') || true
long=$(printf 'y%.0s' {1..100000}); echo "long ${#long} ${#long}"; echo "${long//yy/z}" | wc -c
exec 5< <(echo from a descriptor); read -r line <&5; echo "$line"
EOF
on_system bash shell.sh > system.out 2> system.err
on_hakmem bash shell.sh > hakmem.out 2> hakmem.err || fail "bash ended with status $?: $(cat hakmem.err)"
assert_same system.out hakmem.out
assert_same system.err hakmem.err
for line in "jobs 36" "subshell 3" "trapped" "end 0" "match key value other=thing"; do assert_line "$line" hakmem.out; done

step "little address space: ulimit -v 400000, and 100000 for the smallest"
# KIBIBYTES ANSWER COMMAND...
limited() {
    local kib=$1 answer=$2
    shift 2
    (
        ulimit -v "$kib"
        on_hakmem_with_stats "$work/limited.json" "$@"
    ) > limited.out 2>&1 || { cat limited.out; fail "status $? with ulimit -v $kib: $*"; }
    assert_line "$answer" limited.out
    assert_stats limited.json > /dev/null
    [[ $(stat_of reserved_bytes limited.json) -lt $((kib * 1024)) ]] || fail "more address space than ulimit -v $kib allows"
}
touch marker
sum_of_squares='select sum(x*x) from (with recursive n(x) as (select 1 union all select x+1 from n where x<100000) select x from n)'
lists='print(sum(len(x) for x in [[i] * 100 for i in range(100000)]))'
for kib in 400000 100000; do
    limited "$kib" marker /bin/ls
    limited "$kib" 333338333350000 sqlite3 :memory: "$sum_of_squares"
    limited "$kib" 499500 bash -c 'for ((i = 0; i < 1000; i++)); do ((n += i)) || true; done; echo $n'
done
limited 400000 10000000 env PYTHONMALLOC=malloc /usr/bin/python3.11 -c "$lists"
# Memory that cannot be had is refused in the program's own words, not by a signal.
status=0
(ulimit -v 400000; on_hakmem /usr/bin/python3.11 -c 'x = bytearray(1 << 30)') > limited.out 2>&1 || status=$?
[[ $status -eq 1 ]] || fail "python ended with status $status where there is no memory"
assert_line MemoryError limited.out

step "valgrind runs hakmem as code of the program"
# Nulgrind leaves malloc alone. Memcheck puts its own in the place of every malloc that it finds, unless it is told to
# look for the synonym only in a library that nobody has (nouserintercepts): the statistics show who served.
cat > blocks.c << 'EOF'
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { N_BLOCKS = 2000, N_ROUNDS = 5 };

static void *work(void *seed)
{
    static _Thread_local unsigned char *block[N_BLOCKS];
    unsigned long sum = 0;
    for (unsigned round = 0; round < N_ROUNDS; round++) {
        for (unsigned i = 0; i < N_BLOCKS; i++) {
            size_t n = 1 + (i * 37 + round) % 5000;
            block[i] = malloc(n);
            memset(block[i], (int)(i & 0xff), n);
        }
        for (unsigned i = 0; i < N_BLOCKS; i++) {
            block[i] = realloc(block[i], 6000);
            sum += block[i][0];
        }
        for (unsigned i = 0; i < N_BLOCKS; i++)
            free(block[i]);
    }
    unsigned char *large = calloc(1, 3000000);
    for (size_t i = 0; i < 3000000; i++)
        sum += large[i];
    free(large);
    *(unsigned long *)seed = sum;
    return NULL;
}

int main(void)
{
    unsigned long sums[2];
    pthread_t thread;
    if (pthread_create(&thread, NULL, work, &sums[0]) != 0)
        return 1;
    work(&sums[1]);
    pthread_join(thread, NULL);
    printf("sums %lu %lu\n", sums[0], sums[1]);
    return 0;
}
EOF
gcc -g -O1 -pthread -o blocks blocks.c
in_valgrind() { # PROGRAM... with valgrind's options before it
    on_hakmem_with_stats "$work/valgrind.json" valgrind --log-file="$work/valgrind.log" --error-exitcode=99 "$@" \
        > valgrind.out 2> valgrind.err || { cat valgrind.log valgrind.err; fail "valgrind $1 ended with status $?"; }
    assert_no_report valgrind.err
    assert_stats valgrind.json
    if grep -E 'Invalid |uninitialised|SIGSEGV|SIGABRT|unhandled' valgrind.log; then fail "valgrind $1 found an error"; fi
}
on_system ./blocks > blocks.out
for options in --tool=none "--tool=memcheck --soname-synonyms=somalloc=nouserintercepts"; do
    # shellcheck disable=SC2086 # several options
    in_valgrind $options ./blocks
    assert_same blocks.out valgrind.out
    [[ $(stat_of peak_committed_bytes valgrind.json) -gt 10000000 ]] || fail "hakmem did not serve inside valgrind"
done
grep -q 'ERROR SUMMARY: 0 errors' valgrind.log || fail "memcheck reported: $(tail -n 3 valgrind.log)"
in_valgrind --tool=none /bin/ls /usr/include
on_system /bin/ls /usr/include > system.out
assert_same system.out valgrind.out
echo "start: everything started and answered"
