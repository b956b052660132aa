#!/bin/bash
# budget_limits.sh - under limits that the system enforces: a program with a budget is refused memory and lives, where the same
# program without one is killed; and the budget that `auto` and a percentage make of a control group's limit.
#
# Limits    a memory control group of version 1 or 2, where this machine lets us make one (as root, mostly); without it that
#           part is left out. RLIMIT_AS and RLIMIT_DATA everywhere.
# ctest: serial
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/_common.sh"
require gcc

# Claims, fills and keeps blocks until malloc fails, checks them all, frees a half, goes on. Prints how far it came. With the
# word "handler" it has a function that is told, which allocates.
cat > hog.c << 'EOF'
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
struct block { struct block *next; size_t size, number; };
static struct block *list;
static size_t n, sum, random_state = 1;
static void claim_until_null(void)
{
    for (;; n++) {
        random_state = random_state * 6364136223846793005u + 1442695040888963407u;
        size_t size = sizeof(struct block) + (random_state >> 33) % ((n & 63) == 0 ? 300000 : 2000);
        struct block *b = malloc(size);
        if (b == NULL) {
            if (errno != ENOMEM) { puts("wrong errno"); exit(3); }
            return;
        }
        memset(b, (int)(n & 0xff), size);
        b->next = list; b->size = size; b->number = n;
        list = b; sum += size;
        if (sum > (size_t)4 << 30) { puts("no limit"); exit(4); }
    }
}
static void check_and_free_half(void)
{
    struct block *kept = NULL, *next;
    size_t i = 0;
    for (; list != NULL; list = next) {
        next = list->next;
        for (size_t k = sizeof *list; k < list->size; k++)
            if (((unsigned char *)list)[k] != (list->number & 0xff)) { puts("damaged"); exit(5); }
        if (i++ % 2 == 0) { sum -= list->size; free(list); }
        else { list->next = kept; kept = list; }
    }
    list = kept;
}
int main(void)
{
    size_t reached = 0;
    for (int round = 0; round < 6; round++) {
        claim_until_null();
        if (round == 0) reached = sum;
        char *note = malloc(500); /* what dealing with it needs */
        if (note == NULL && getenv("HAKMEM_BUDGET") != NULL) { puts("no reserve"); exit(6); }
        free(note);
        check_and_free_half();
    }
    printf("%zu\n", reached >> 20);
    return 0;
}
EOF
gcc -O1 -o hog hog.c

# Between two numbers of MiB, by what the program printed.
between() { # LEAST MOST FILE
    local mib
    mib=$(cat "$3")
    [[ $mib =~ ^[0-9]+$ && $mib -ge $1 && $mib -le $2 ]] || fail "came to '$mib' MiB, not to between $1 and $2"
}

# Blocks of a length that leaves a third of its slots untouched, until malloc fails. Prints what is in memory above the start, in MiB.
cat > resident.c << 'EOF'
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
static long resident_mib(void)
{
    long size, pages = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    if (file == NULL || fscanf(file, "%ld %ld", &size, &pages) != 2) { puts("no /proc"); exit(2); }
    fclose(file);
    return pages * sysconf(_SC_PAGESIZE) >> 20;
}
int main(void)
{
    long before = resident_mib();
    for (char *block; (block = malloc(40000)) != NULL;)
        memset(block, 1, 40000);
    printf("%ld\n", resident_mib() - before);
    return 0;
}
EOF
gcc -O1 -o resident resident.c

step "huge pages everywhere hold no more than the budget"
for huge in auto always; do
    HAKMEM_THP=$huge HAKMEM_BUDGET=128M on_hakmem ./resident > out || fail "status $?: $(cat out)"
    between 110 134 out
done

step "no limit but the budget's"
HAKMEM_BUDGET=64M on_hakmem ./hog > out || fail "status $?: $(cat out)"
between 56 64 out
HAKMEM_BUDGET=20M:32M on_hakmem ./hog > out || fail "status $?: $(cat out)"
between 27 32 out

step "limits of the process"
for limit in "-v 400000" "-d 200000"; do
    for budget in 64M 150M; do
        # shellcheck disable=SC2086 # an option and its value
        (ulimit $limit; HAKMEM_BUDGET=$budget on_hakmem ./hog > out) || fail "status $?: $limit $budget: $(cat out)"
        between 50 150 out
    done
    # shellcheck disable=SC2086 # as above; without a budget the system's refusal comes through
    (ulimit $limit; on_hakmem ./hog > out) || fail "status $?: $limit: $(cat out)"
    between 100 400 out
done

step "values that are not understood"
for value in 1K 100 0% 101% x% 5M:4M 0:4M : auto2 -1 "" 99999999T; do
    HAKMEM_BUDGET=$value on_hakmem /bin/true 2> err
    grep -q "^hakmem: HAKMEM_BUDGET=$value is not understood" err || fail "no word about HAKMEM_BUDGET=$value: $(cat err)"
done
for value in 0 1M 80% 100% auto 1G 512M:1G; do
    HAKMEM_BUDGET=$value on_hakmem /bin/true 2> err
    assert_same /dev/null err
done

# A control group with a limit of 64 MiB, without swap. Sets $group, and $limits, the files to write to when it is raised;
# fails where none can be made.
make_group() {
    local name=hakmem-test.$$
    if mkdir "/sys/fs/cgroup/memory/$name" 2> /dev/null; then
        group=/sys/fs/cgroup/memory/$name
        limits=("$group/memory.memsw.limit_in_bytes" "$group/memory.limit_in_bytes")
        echo 64M > "$group/memory.limit_in_bytes" || return 1
        echo 64M > "$group/memory.memsw.limit_in_bytes" 2> /dev/null || true
        return 0
    fi
    if grep -qw memory /sys/fs/cgroup/cgroup.subtree_control 2> /dev/null && mkdir "/sys/fs/cgroup/$name" 2> /dev/null; then
        group=/sys/fs/cgroup/$name
        limits=("$group/memory.max")
        echo 64M > "$group/memory.max" || return 1
        echo 0 > "$group/memory.swap.max" 2> /dev/null || true
        return 0
    fi
    return 1
}
in_group() { bash -c 'echo $$ > "$0/cgroup.procs" && exec "$@"' "$group" "$@"; }

group=
trap 'clean_up; [[ -z $group ]] || rmdir "$group" 2> /dev/null || true' EXIT
if ! make_group; then
    leave_out "no memory control group can be made here"
    finish
fi
step "a control group of 64 MiB: without a budget the kernel kills"
status=0
in_group env LD_PRELOAD="$HAKMEM_LIB" ./hog > out 2> err || status=$?
[[ $status -eq 137 ]] || fail "status $status instead of death by SIGKILL: the limit does not hold, so nothing is proven"

step "with a budget of 80 %, of 90 % by itself, and of 56 MiB it lives"
for budget in 80% auto 56M; do
    in_group env LD_PRELOAD="$HAKMEM_LIB" HAKMEM_BUDGET=$budget HAKMEM_STATS=/"${work#/}"/stats.json ./hog > out 2> err ||
        fail "status $? with HAKMEM_BUDGET=$budget: $(cat out err)"
    between 40 58 out
    [[ $(stat_of budget_refusals stats.json) -gt 0 ]] || fail "nothing was refused"
    echo "   $budget: came to $(cat out) MiB; at most $(stat_of peak_committed_bytes stats.json) bytes committed," \
         "line $(stat_of budget_hard_bytes stats.json)"
    [[ $(stat_of peak_committed_bytes stats.json) -le $(($(stat_of budget_hard_bytes stats.json) + 2097152)) ]] ||
        fail "more than the budget and a SuperSlab was committed"
done

# Claims and fills blocks of 1 MiB; where one is refused it says so, and tries again, for 20 seconds.
cat > patient.c << 'EOF'
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
int main(void)
{
    for (int i = 0, tries = 0; i < 100; ) {
        char *block = malloc(1 << 20);
        if (block != NULL) { memset(block, 1, 1 << 20); i++; continue; }
        if (tries == 0) { printf("%d\n", i); fflush(stdout); }
        if (++tries == 200) return 1;
        usleep(100000);
    }
    puts("all");
    return 0;
}
EOF
gcc -O1 -o patient patient.c
step "a limit that is raised while the program runs"
in_group env LD_PRELOAD="$HAKMEM_LIB" HAKMEM_BUDGET=auto ./patient > patient.out 2> err &
patient=$!
for ((i = 0; i < 100; i++)); do
    [[ ! -s patient.out ]] || break
    sleep 0.1
done
between 40 58 patient.out
for limit in "${limits[@]}"; do
    echo 200M > "$limit" 2> /dev/null || true
done
wait $patient || fail "status $? after the limit was raised: $(cat patient.out err)"
[[ $(tail -n 1 patient.out) == all ]] || fail "not all blocks were had: $(cat patient.out)"
