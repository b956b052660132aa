# shellcheck shell=bash disable=SC2034 # some names are for the scripts
# _inspected.sh - a program whose heap is known, for scripts that look into it from outside. Sourced behind _common.sh.
#
# Gives     $hakmem, the command; start_inspected [NAME]: starts the program on hakmem and sets $inspected, its number, when its heap
#           is as it stays: 20000 blocks of 64 bytes live, of thread "holder one", 3000 of 1000 bytes of thread "holder two", one
#           of 100 KiB and one of 4 MiB. A thread "busy" goes on allocating and freeing 2000 blocks of 500 bytes.
# Why no timing: each wait is for something that happens, and gives up after a minute.
hakmem=$HAKMEM_BUILD_DIR/hakmem
[[ -x $hakmem ]] || fail "there is no $hakmem"

cat > inspected.c << 'END'
#define _GNU_SOURCE
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static pthread_barrier_t ready;
static void *kept[20000 + 3000 + 2];

static void hold(const char *name, void **place, int n, size_t size)
{
    pthread_setname_np(pthread_self(), name);
    for (int i = 0; i < n; i++)
        memset(place[i] = malloc(size), 1, size);
    pthread_barrier_wait(&ready);
    for (;;)
        pause();
}

static void *one(void *unused) { (void)unused; hold("holder one", kept, 20000, 64); return NULL; }
static void *two(void *unused) { (void)unused; hold("holder two", kept + 20000, 3000, 1000); return NULL; }

static void *busy(void *unused)
{
    (void)unused;
    void *volatile block[2000];
    pthread_setname_np(pthread_self(), "busy");
    for (;;) {
        for (int i = 0; i < 2000; i++)
            block[i] = malloc(500);
        for (int i = 0; i < 2000; i++)
            free(block[i]);
        usleep(1000);
    }
    return NULL;
}

int main(void)
{
    pthread_t thread;
    pthread_barrier_init(&ready, NULL, 3);
    memset(kept[23000] = malloc(100 << 10), 1, 100 << 10);
    memset(kept[23001] = malloc(4 << 20), 1, 4 << 20);
    pthread_create(&thread, NULL, one, NULL);
    pthread_create(&thread, NULL, two, NULL);
    pthread_barrier_wait(&ready);
    pthread_create(&thread, NULL, busy, NULL);
    puts("ready");
    fflush(stdout);
    for (;;)
        pause();
}
END
"${HAKMEM_CC:-cc}" -O1 -o inspected inspected.c -pthread

# Waits until a command succeeds; the words say what for.
wait_for() { # WORDS COMMAND...
    local words=$1 i
    shift
    for ((i = 0; i < 600; i++)); do
        if "$@"; then return 0; fi
        sleep 0.1
    done
    fail "waited in vain for $words"
}

# The program under a name of its own, so that two tests at a time do not find each other's.
start_inspected() { # [NAME]
    local name=${1:-inspected}
    [[ -e $name ]] || cp inspected "$name"
    rm -f "$name.out"
    env LD_PRELOAD="$HAKMEM_LIB" "./$name" > "$name.out" &
    inspected=$!
    started_pids+=("$inspected")
    wait_for "$name" grep -qs ready "$name.out"
}

stop_inspected() {
    kill -KILL "$inspected" 2> /dev/null || true
    wait "$inspected" 2> /dev/null || true
}

# A command that must refuse: status 2, nothing on stdout, one line on stderr that begins with "hakmem: " and has the words.
refuses() { # WORDS COMMAND...
    local words=$1 status=0
    shift
    "$@" > refused.out 2> refused.err < /dev/null || status=$?
    [[ $status -eq 2 ]] || fail "status $status instead of 2: $*: $(cat refused.err)"
    [[ ! -s refused.out ]] || fail "it printed something: $*"
    [[ $(wc -l < refused.err) -eq 1 && $(cat refused.err) == "hakmem"*": "* ]] || fail "not one line: $*: $(cat refused.err)"
    grep -qF -e "$words" refused.err || fail "the line lacks '$words': $(cat refused.err)"
}
