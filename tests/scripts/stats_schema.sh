#!/bin/bash
# stats_schema.sh - what the statistics are said to be is what they are: each way to get them as JSON fits docs/stats-schema.json,
# whose fields docs/statistics.md explains; malloc_info's XML has the same figures; none of it allocates, and nothing is cut.
set -euo pipefail
source "$(dirname "$0")/_common.sh"
require "${HAKMEM_CC:=cc}"
schema=$HAKMEM_SOURCE_DIR/docs/stats-schema.json

# Another python3 that comes first may not see Debian's packages.
python=
for candidate in python3 /usr/bin/python3; do
    if "$candidate" -c 'from jsonschema import Draft202012Validator' 2> /dev/null; then python=$candidate; break; fi
done
[[ -n $python ]] || fail "no python3 has the module jsonschema (Debian: python3-jsonschema)"
ask() { "$python" "$HAKMEM_SOURCE_DIR/tests/scripts/_stats_schema.py" "$@" || fail "$*"; }

# Threads that hold blocks and rest. Writes its statistics to one.json, and to two.json after some more work; malloc_info to
# info.xml, malloc_stats to stderr. Ends while its threads still are.
cat > work.c << 'EOF'
#include <hakmem/hakmem.h>
#include <malloc.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static pthread_barrier_t barrier;
static char text[4 << 20], buffer[BUFSIZ];

static void churn(unsigned random, unsigned n)
{
    static __thread void *blocks[64];
    for (unsigned i = 0; i < n; i++) {
        random = random * 1103515245 + 12345;
        void **block = &blocks[random >> 26];
        free(*block);
        *block = malloc((random >> 8) % 300 == 0 ? random >> 10 : (random >> 8) % 3000);
    }
}

static void *rest(void *number)
{
    churn((unsigned)(size_t)number, 2000);
    pthread_barrier_wait(&barrier);
    for (;;)
        pause();
    return NULL;
}

static void write_json(const char *path)
{
    size_t len = hak_stats_json(text, sizeof text);
    FILE *file = fopen(path, "w");
    if (len >= sizeof text || file == NULL || fwrite(text, 1, len, file) != len || fclose(file) != 0)
        exit(3);
}

/* Every malloc of up to 1 KiB is a refill if HAKMEM_TINY_PROFILE=off. */
static void print_without_malloc(void)
{
    struct hak_stats before, after;
    FILE *file = fopen("info.xml", "w");
    if (file == NULL)
        exit(3);
    setvbuf(file, buffer, _IOFBF, sizeof buffer);
    hak_stats_get(&before, sizeof before);
    hak_stats_json(text, sizeof text);
    malloc_stats();
    if (malloc_info(0, file) != 0 || fflush(file) != 0)
        exit(3);
    hak_stats_get(&after, sizeof after);
    if (memcmp(&before, &after, sizeof after) != 0) {
        fputs("to print changes what is printed\n", stderr);
        exit(4);
    }
    FILE *same = fopen("info.json", "w"); /* fopen allocates, and is seen: else the comparison proves nothing */
    hak_stats_get(&after, sizeof after);
    if (same == NULL || memcmp(&before, &after, sizeof after) == 0)
        exit(5);
    fputs(text, same);
    fclose(same);
}

int main(int argc, char **argv)
{
    unsigned n = argc > 1 ? (unsigned)atoi(argv[1]) : 0;
    pthread_attr_t attributes;
    pthread_t thread;
    pthread_attr_init(&attributes);
    pthread_attr_setstacksize(&attributes, 128 << 10);
    pthread_barrier_init(&barrier, NULL, n + 1);
    for (size_t i = 0; i < n; i++)
        if (pthread_create(&thread, &attributes, rest, (void *)i) != 0)
            exit(3);
    churn(77, 20000);
    pthread_barrier_wait(&barrier);
    write_json("one.json");
    print_without_malloc();
    churn(78, 20000);
    write_json("two.json");
    return 0;
}
EOF
"$HAKMEM_CC" -O1 -I "$HAKMEM_SOURCE_DIR/include" -o work work.c "$HAKMEM_LIB" -Wl,-rpath,"$(dirname "$HAKMEM_LIB")" -pthread
# Nothing of the library's own happens beside the readings that are compared.
export HAKMEM_BACKGROUND=off HAKMEM_PURGE_DELAY_MS=-1

step "the schema, the tables of statistics.md and struct hak_stats have the same fields"
ask documented "$schema" "$HAKMEM_SOURCE_DIR/docs/statistics.md" "$HAKMEM_SOURCE_DIR/include/hakmem/hakmem.h"

step "in the process, at exit on stderr, at exit in a file; under each profile and mode"
runs=()
for setting in HAKMEM_TINY_PROFILE={conservative,hot,off,full} HAKMEM_SECURE=1 HAKMEM_GUARD_SAMPLE=20 HAKMEM_BUDGET=256M \
    HAKMEM_PROFILE=/dev/null; do
    run=$work/${setting//\//_}
    mkdir "$run"
    pushd "$run" > /dev/null
    env "$setting" HAKMEM_PROFILE_INTERVAL=4096 HAKMEM_STATS="$run/exit.json" ../work 3 2> /dev/null || fail "$setting: status $?"
    env "$setting" HAKMEM_PROFILE_INTERVAL=4096 HAKMEM_STATS=json ../work 3 2> exit.err || fail "$setting: status $?"
    if [[ $setting != HAKMEM_PROFILE=* ]] && grep -q rounding_ two.json exit.json; then fail "$setting: rounding without a profile"; fi
    popd > /dev/null
    runs+=("$run")
done
[[ $(stat_of rounding_bytes "$run/two.json") -gt 0 ]] || fail "the heap profile's rounding is not in the statistics"
ask valid "$schema" "${runs[@]/%//one.json}" "${runs[@]/%//two.json}" "${runs[@]/%//info.json}" "${runs[@]/%//exit.err}" \
    "${runs[@]/%//exit.json}"
ask grows "$schema" "${runs[@]}"
ask xml "${runs[@]}"

step "the schema refuses what is wrong"
ask strict "$schema" "$run/two.json"

step "nothing is cut, however many threads there are"
HAKMEM_STATS=json ./work 700 2> many.err
HAKMEM_STATS="$work/many.json" ./work 700 2> /dev/null
ask valid "$schema" many.err many.json
[[ $(stat_of threads many.json) -ge 700 && $(wc -c < many.json) -gt 131072 ]] || fail "700 threads are not in many.json"

step "processes that end at the same time, with one file"
cat > together.c << 'END'
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>
int main(void)
{
    int gate[2];
    char unused;
    if (pipe(gate) != 0)
        return 1;
    for (int i = 0; i < 6; i++)
        if (fork() == 0) {
            close(gate[1]);
            for (int k = 0; k < 40 * i; k++) /* texts of different lengths */
                malloc(16 << k % 12);
            return (int)read(gate[0], &unused, 1);
        }
    close(gate[1]);
    while (wait(NULL) > 0) {
    }
    return 0;
}
END
"$HAKMEM_CC" -O0 -w -o together together.c
for i in $(seq 30); do
    on_hakmem HAKMEM_STATS="$work/together$i.json" ./together
done
ask valid "$schema" together*.json

step "a file that cannot be written is one line on stderr, and the program's status stays"
for path in /dev/full "$work/none/there.json"; do
    HAKMEM_STATS=$path ./work 0 2> unwritten.err || fail "HAKMEM_STATS=$path: status $?"
    assert_line "hakmem: HAKMEM_STATS: the file cannot be written" unwritten.err
done

step "a file that another process is writing is awaited, for half a second"
exec {locked}> locked.json
flock "$locked"
began_ns=$(date +%s%N)
HAKMEM_STATS="$work/locked.json" ./work 0 2> /dev/null || fail "a locked file: status $?"
waited_ms=$((($(date +%s%N) - began_ns) / 1000000))
[[ $waited_ms -ge 450 ]] || fail "a locked file is written to after $waited_ms ms"
exec {locked}>&-
ask valid "$schema" locked.json
