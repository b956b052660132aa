# shellcheck shell=bash
# _map.sh - a process whose heap map.sh and map_browser.sh look at. Sourced by them, after _common.sh.
#
# Gives     start_target, tell, stop_target; $pid; $hakmem, the command.
hakmem=$HAKMEM_BUILD_DIR/hakmem

# Does what it reads, line by line, and answers each line when it is done.
cat > target.c << 'EOF'
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
enum { N = 60000 };
static void *small[N], *other, *medium, *large;
int main(void)
{
    char line[32];
    while (fgets(line, sizeof line, stdin) != NULL) {
        if (strcmp(line, "fill\n") == 0) {
            for (int i = 0; i < N; i++)
                small[i] = memset(malloc(96), 1, 96);
            other = memset(malloc(300), 1, 300); /* a slab of another class, beside stdio's */
            medium = memset(malloc(200000), 1, 200000);
            large = memset(malloc(5 << 20), 1, 5 << 20);
        } else if (strcmp(line, "thin\n") == 0) {
            for (int i = 0; i < N; i++)
                if (i % 100 != 0)
                    free(small[i]);
            free(medium);
            free(large);
        } else if (strcmp(line, "trim\n") == 0) {
            malloc_trim(0);
        } else if (strcmp(line, "rename\n") == 0) {
            prctl(PR_SET_NAME, "<b>&\"\033[1m</b>");
        } else {
            return 3;
        }
        puts("done");
        fflush(stdout);
    }
    return 0;
}
EOF
"$HAKMEM_CC" -O1 -o map-target target.c

start_target() { # leaves its number in $pid; its stdin is file descriptor 8, its stdout 9
    rm -f in out
    mkfifo in out
    # Nothing goes back by itself here, so that what is seen does not depend on when one looks.
    env LD_PRELOAD="$HAKMEM_LIB" HAKMEM_PURGE_DELAY_MS=1000000 ./map-target < in > out &
    pid=$!
    started_pids+=("$pid")
    exec 8> in 9< out
}
tell() {
    local answer
    echo "$1" >&8
    read -r -t 60 answer <&9 || fail "the target does not answer to $1"
    [[ $answer == "done" ]] || fail "the target answers '$answer'"
}
stop_target() {
    exec 8>&- 9<&-
    wait "$pid" || fail "the target ended with status $?: it was to be looked at, nothing more"
}
