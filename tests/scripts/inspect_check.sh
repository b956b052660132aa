#!/bin/bash
# inspect_check.sh - hakmem check reads live processes from outside: linked in every way, single and busy with threads, damaged.
#
#   K1  a process on hakmem is found by what is mapped, however the library got into it, and is clean; so is one that never rests
#   K2  each way of damaging a record is found, at the address where it is, and only while it is there
#   K3  what cannot be read ends with status 2 and one line that says why: no such process, a zombie, another user's, one that is not on
#       hakmem, another version, other structures
#   K4  a process that is stopped for a look goes on, whatever becomes of the command
#   K5  with standard output or error closed, the process is not written to
#   K6  where all spans are on the move, all the time, nothing is taken for damage: clean, or too fast to be judged
#   K7  under strace, and with several commands at a time, a process stands still while it is copied; one that was stopped before stays so
#   K8  a process whose first thread has ended is looked at by way of others, even if those end meanwhile
#   K9  the name of a process reaches no terminal as it is
#   K10 a library whose note was moved by patchelf, so that its distance leads astray, is found all the same
#   K11 and nobody is kept searching by a process that says that such a library has terabytes of variables
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/_common.sh"
require jq readelf grep dd python3 strace
hakmem=$HAKMEM_BUILD_DIR/hakmem
tests=$HAKMEM_BUILD_DIR/tests
chmod 755 "$work" # another user looks from here

# Starts a program and waits until its heap is there. Its number is in $pid, what it says in the file $out.
start() { # COMMAND...
    out=$(mktemp "$work/out.XXXXXX")
    HAKMEM_BACKGROUND=${background-off} "$@" > "$out" 2>&1 &
    pid=$!
    started_pids+=("$pid")
    until grep -q ready "$out"; do
        kill -0 "$pid" 2> /dev/null || fail "$* has ended: $(cat "$out")"
        sleep 0.02
    done
}

stop() {
    kill -KILL "$pid"
    wait "$pid" 2> /dev/null || true
}

# Runs `hakmem check` and compares its status. What it says is in $said.
check() { # STATUS ARGUMENT...
    local want=$1 status=0
    shift
    said=$("$hakmem" check "$@" 2>&1) || status=$?
    [[ $status -eq $want ]] || fail "hakmem check $*: status $status, not $want: $said"
}

# The same for what cannot be read: one line, which matches PATTERN.
refused() { # PATTERN ARGUMENT...
    local pattern=$1
    shift
    check 2 "$@"
    [[ $(wc -l <<< "$said") -eq 1 && $said =~ ^hakmem:\ .*$pattern ]] || fail "hakmem check $* says: $said"
    echo "   $said"
}

step "the command itself is not on hakmem"
if readelf -nW "$hakmem" | grep -w hakmem; then fail "hakmem's note is in the command"; fi

step "linked in every way (K1)"
cp "$HAKMEM_LIB" "$work/libstripped.so"
strip "$work/libstripped.so"
for way in shared static static_pie stripped; do
    start "$tests/inspect_$way"
    check 0 "$pid"
    echo "   $said"
    [[ $said =~ "3 runs, 1 threads" ]] || fail "inspect_$way: $said"
    check 0 --stop "$pid"
    stop
done
start env LD_PRELOAD="$work/libstripped.so" "$tests/inspect_plain"
check 0 "$pid"
stop
start env LD_PRELOAD="$HAKMEM_LIB" "$tests/inspect_plain"
check 0 --json "$pid"
jq -e --argjson pid "$pid" '.pid == $pid and .name == "inspect_plain" and .clean and (.stopped | not) and .looks == 1 and
    .violations == [] and .slabs > 100 and .spans > 10 and .runs == 3 and .cached_blocks > 100 and .threads == 1 and
    .bytes_read > 100000' <<< "$said" > /dev/null || fail "the JSON is not as it should be: $said"

step "of several anchors the one whose heap is in use counts (K1)"
cat > "$work/copies.c" << 'END'
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

int main(int argc, char **argv) /* maps a library as it is in the file; and, with a second argument, loads it once more */
{
    static void *volatile block[1000];
    const int file = open(argv[1], O_RDONLY);
    if (mmap(NULL, (size_t)lseek(file, 0, SEEK_END), PROT_READ, MAP_PRIVATE, file, 0) == MAP_FAILED)
        return 1;
    if (argc > 2 && dlmopen(LM_ID_NEWLM, argv[1], RTLD_NOW) == NULL)
        return puts(dlerror()), 1;
    for (int i = 0; i < 1000; i++)
        block[i] = malloc(1000);
    puts("ready");
    fflush(stdout);
    pause();
}
END
"${HAKMEM_CC:-cc}" -O1 -o "$work/copies" "$work/copies.c" -ldl
kept=$pid
start env -u LD_PRELOAD "$work/copies" "$HAKMEM_LIB"
refused "process $pid \(copies\) is not on hakmem" "$pid"
stop
for again in "" again; do
    start env LD_PRELOAD="$HAKMEM_LIB" "$work/copies" "$HAKMEM_LIB" ${again:+"$again"}
    check 0 "$pid"
    [[ $said =~ with\ (1[0-9]{3})\ blocks\ in\ use ]] || fail "it is the wrong heap: $said"
    stop
done
pid=$kept

step "each damage is found where it is (K2)"
for kind in bits bits-large gaps slab class-map full clean-page span run taken lists superslab masks magazine cached cached-twice cached-free \
            current held held-slot committed pool-counts unreadable span-packed span-length span-pages masks-packed \
            masks-free-packed lists-packed held-packed; do
    read -r address where value <<< "$("$tests/inspect_damage" "$pid" "$kind")"
    [[ -n $value ]] || fail "no damage of kind $kind"
    check 1 "$pid"
    case $kind in
        *-large | *-slot | span-* | *-packed) rule=${kind%%-*} ;;
        *) rule=$kind ;;
    esac
    grep -q "^$address: $rule: " <<< "$said" || fail "$kind at $address is not found: $said"
    grep "^$address: $rule: " <<< "$said" | head -n 1 | sed 's/^/   /'
    if [[ $kind == bits ]]; then
        check 1 --json "$pid"
        jq -e --arg address "$address" '(.clean | not) and (.violations | length == 1) and .violations[0].rule == "bits" and
            .violations[0].address == $address and .violations[0].class_bytes > 0' <<< "$said" > /dev/null || fail "JSON: $said"
        check 1 --stop "$pid"
        [[ $said =~ "5 looks" ]] || fail "five stops were due: $said"
    fi
    "$tests/inspect_damage" "$pid" undo "$where" "$value"
    check 0 "$pid"
done

step "by name"
unique=only$$ # whoever else runs this test now
cp "$tests/inspect_plain" "$work/$unique"
first=$pid
start env LD_PRELOAD="$HAKMEM_LIB" "$work/$unique"
check 0 --name $unique
[[ $said == "process $pid ($unique): clean"* ]] || fail "by name: $said"
start env LD_PRELOAD="$HAKMEM_LIB" "$work/$unique"
refused "several processes on hakmem are named $unique: [0-9]+, [0-9]+;" --name $unique
long=only$$-of-a-long-name # of which the system keeps 15 characters
cp "$tests/inspect_plain" "$work/$long"
start env LD_PRELOAD="$HAKMEM_LIB" "$work/$long"
check 0 --name $long
check 0 --name "${long:0:15}"
stop
refused "no process named nobodyhasthisname" --name nobodyhasthisname

step "a name that a terminal would obey (K9)"
cp "$tests/inspect_plain" "$work/"$'a\e[31m\nb\xc2\x9bc'
start env LD_PRELOAD="$HAKMEM_LIB" "$work/"$'a\e[31m\nb\xc2\x9bc'
check 0 "$pid"
[[ $said == "process $pid (a?[31m?b?c): clean;"* ]] || fail "its name is shown as it is: $said"
check 0 --json "$pid"
[[ $(jq -r .name <<< "$said") == $'a\e[31m\nb\xc2\x9bc' ]] || fail "its name is another one in the JSON: $said"
stop
start env -u LD_PRELOAD "$work/"$'a\e[31m\nb\xc2\x9bc'
refused "process $pid \(a\?\[31m\?b\?c\) is not on hakmem" "$pid"
stop

step "what cannot be read (K3)"
refused "'12x' is no process id" 12x
refused "takes one process"
refused "takes one process" 1 2
sleep 0 &
gone=$!
wait "$gone"
refused "there is no process $gone" "$gone"
start env -u LD_PRELOAD "$tests/inspect_plain"
refused "process $pid \(inspect_plain\) is not on hakmem" "$pid"
stop
start "$tests/inspect_plain" zombie
zombie=$(sed -n 's/^ready //p' "$out")
refused "process $zombie \(.*\) is a zombie" "$zombie"
stop
if [[ -r /proc/2/comm && $(< /proc/2/comm) == kthreadd ]]; then refused "is a thread of the kernel" 2; fi

elsewhere() { # PATTERN COMMAND...: what is begun by the command is refused
    local pattern=$1
    shift
    for arguments in "$first" "--name $unique"; do
        hakmem="$* $HAKMEM_BUILD_DIR/hakmem"
        # shellcheck disable=SC2086 # several words
        refused_by_words "$pattern" $arguments
    done
    hakmem=$HAKMEM_BUILD_DIR/hakmem
}
refused_by_words() { # PATTERN ARGUMENT...
    local pattern=$1 status=0
    shift
    said=$($hakmem check "$@" 2>&1) || status=$?
    [[ $status -eq 2 && $(wc -l <<< "$said") -eq 1 && $said =~ ^hakmem:\ .*$pattern ]] || fail "$hakmem check $*: status $status: $said"
    echo "   $said"
}
if unshare -m mount --bind "$work" /proc 2> /dev/null; then
    printf '#!/bin/sh\nmount --bind "%s" /proc && exec "$@"\n' "$work" > "$work/without-proc"
    chmod +x "$work/without-proc"
    elsewhere "there is no /proc here" unshare -m "$work/without-proc"
    elsewhere "/proc is that of another pid namespace" unshare -fp
else
    leave_out "no namespaces here: what is said where /proc is none, or another's"
fi

at=$(grep -obUaF HKanchor "$HAKMEM_LIB" | head -n 1 | cut -d : -f 1)
[[ -n $at ]] || fail "there is no anchor in the library"
patched() { # OFFSET BYTES: a copy of the library, with bytes of the anchor changed
    cp "$HAKMEM_LIB" "$work/libpatched.so"
    printf '%b' "$2" | dd of="$work/libpatched.so" bs=1 seek=$((at + $1)) conv=notrunc status=none
}
patched 32 '\x63'
start env LD_PRELOAD="$work/libpatched.so" "$tests/inspect_plain"
refused "has hakmem [0-9.]+ with records of layout 99; this command is hakmem [0-9.]+ and knows layout [0-9]+" "$pid"
stop
patched 16 '0\x1b[2J\n\x9b\x00\x00\x00\x00\x00\x00\x00\x00\x00\x63' # what a terminal would obey
start env LD_PRELOAD="$work/libpatched.so" "$tests/inspect_plain"
refused "has hakmem 0\?\[2J\?\? with records of layout 99" "$pid"
stop
patched 48 '\x81'
start env LD_PRELOAD="$work/libpatched.so" "$tests/inspect_plain"
refused "whose struct slab has 129 bytes; this command is hakmem [0-9.]+ and knows one of 128" "$pid"
stop

if [[ $(id -u) -eq 0 ]] && command -v setpriv > /dev/null; then
    cp "$hakmem" "$work/hakmem"
    hakmem="setpriv --reuid=65534 --regid=65534 --clear-groups $work/hakmem"
    ask_as_nobody() {
        local status=0
        said=$($hakmem check "$@" 2>&1) || status=$?
        [[ $status -eq 2 && $said =~ ^hakmem:\ no\ permission\ to\ read\ process\ $1:\ it\ runs\ as\ user\ 0 ]] ||
            fail "as another user: status $status: $said"
        echo "   $said"
    }
    ask_as_nobody "$first"
    hakmem=$HAKMEM_BUILD_DIR/hakmem
else
    leave_out "not root: whether another user's process is refused"
fi

step "its first thread has ended, and others end meanwhile (K8)"
cp "$tests/inspect_plain" "$work/heirs"
start_heirs() { # heirs | hasty
    start env LD_PRELOAD="$HAKMEM_LIB" "$work/heirs" "$1"
    for ((i = 0; i < 500; i++)); do
        if grep -q '^State:.Z' "/proc/$pid/status"; then return; fi
        sleep 0.02
    done
    fail "its first thread does not end"
}
start_heirs heirs # without the library's own thread all of its threads end
check 0 "$pid"
check 0 --stop "$pid"
"$hakmem" top --json --every 0.1 --samples 8 "$pid" > "$work/samples" || fail "top: status $?"
jq -e -s 'length == 8 and all(.process_resident_bytes > 1000000)' "$work/samples" > /dev/null ||
    fail "its samples: $(jq -c .process_resident_bytes "$work/samples" | tr '\n' ' ')"
read -r address where value <<< "$("$tests/inspect_damage" "$pid" bits)"
for ((i = 0; i < 3; i++)); do check 1 "$pid"; done # takes a tenth of a second or more
check 1 --stop "$pid"
stop
start_heirs hasty # most of those by which it is read end meanwhile
for ((i = 0; i < 10; i++)); do
    check 0 "$pid"
    "$hakmem" top --json "$pid" > "$work/samples" || fail "top: status $?"
    jq -e '.process_resident_bytes > 1000000' "$work/samples" > /dev/null || fail "its sample: $(< "$work/samples")"
done
stop
background=on start_heirs heirs
rm "$work/heirs" # its symbols are found by /proc alone
"$hakmem" profile "$pid" --seconds 1 --interval 1000 --value alloc_space --format folded > "$work/folded" || fail "profile: status $?"
grep -q 'use_blocks' "$work/folded" || fail "its profile: $(< "$work/folded")"
stop

step "closed descriptors (K5)"
start env LD_PRELOAD="$HAKMEM_LIB" "$tests/inspect_plain"
closed() { # STATUS PATTERN ARGUMENT...
    local want=$1 pattern=$2 status=0
    shift 2
    "$hakmem" "$@" 2> "$work/closed.err" >&- || status=$?
    [[ $status -eq $want ]] || fail "hakmem $* >&-: status $status, not $want: $(< "$work/closed.err")"
    [[ $(< "$work/closed.err") =~ $pattern ]] || fail "hakmem $* >&- says: $(< "$work/closed.err")"
}
unwritten="^hakmem: cannot write the output: Bad file descriptor$"
closed 2 "$unwritten" check "$pid"
closed 2 "$unwritten" check --stop "$pid"
closed 1 "$unwritten" --version
status=0
"$hakmem" check 99999999 <&- >&- 2>&- || status=$?
[[ $status -eq 2 ]] || fail "all closed: status $status"
status=0
"$hakmem" check "$pid" <&- 2>&- > "$work/closed.out" || status=$?
[[ $status -eq 0 && $(< "$work/closed.out") == *clean* ]] || fail "without input and error: $status, $(< "$work/closed.out")"
if strace -o "$work/strace" -e trace=openat "$hakmem" check "$pid" > /dev/null 2>&1; then
    grep -q '/mem", O_RDONLY' "$work/strace" || fail "its memory is not opened to be read: $(grep /mem "$work/strace")"
    if grep -q '/mem", O_RDWR' "$work/strace"; then fail "its memory is opened to be written"; fi
else
    leave_out "strace does not run here: whether memory is opened to be read alone"
fi
check 0 "$pid"
stop

step "spans on the move (K6)"
cat > "$work/moving.c" << 'END'
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static void *move(void *seed)
{
    void *volatile block[1000] = {0};
    for (unsigned long s = (unsigned long)seed + 1;;) {
        s = s * 6364136223846793005ul + 1442695040888963407ul;
        free(block[(s >> 33) % 1000]);
        block[(s >> 33) % 1000] = malloc(33000 + (s >> 20) % 600000);
    }
    return NULL;
}

int main(void)
{
    static void *volatile kept[500];
    pthread_t thread;
    for (int i = 0; i < 500; i++)
        kept[i] = malloc(1500000);
    for (long i = 0; i < 3; i++)
        pthread_create(&thread, NULL, move, (void *)i);
    puts("ready");
    fflush(stdout);
    pause();
}
END
"${HAKMEM_CC:-cc}" -O1 -o "$work/moving" "$work/moving.c" -pthread
background=on start env LD_PRELOAD="$HAKMEM_LIB" nice "$work/moving"
for ((i = 0; i < 6; i++)); do
    status=0
    said=$("$hakmem" check "$pid" 2>&1) || status=$?
    [[ $status -eq 0 || ($status -eq 2 && $said =~ ((heap changes|lists change) too fast to be judged|in the making)) ]] ||
        fail "a sound heap: status $status: $said"
    check 0 --stop "$pid"
done
echo "   $said"
stop

step "a heap that grows meanwhile (K6)"
cat > "$work/growing.c" << 'END'
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

int main(void)
{
    static void *volatile block;
    const struct timespec moment = {.tv_nsec = 50000};
    puts("ready");
    fflush(stdout);
    for (int i = 0; i < 15000; i++) { /* 2 MiB of addresses each time, that nobody touches */
        for (int j = 0; j < 64; j++)
            block = malloc(32000);
        nanosleep(&moment, NULL);
    }
    pause();
}
END
"${HAKMEM_CC:-cc}" -O1 -o "$work/growing" "$work/growing.c"
start env LD_PRELOAD="$HAKMEM_LIB" "$work/growing"
for ((i = 0; i < 5; i++)); do
    status=0
    said=$("$hakmem" check "$pid" 2>&1) || status=$?
    [[ $status -eq 0 || ($status -eq 2 && $said =~ (heap changes|lists change)" too fast to be judged") ]] ||
        fail "a sound heap: status $status: $(tail -n 3 <<< "$said")"
    check 0 --stop "$pid"
done
echo "   $said"
stop

step "stopped once it is said so, and by one command at a time (K7)"
hold_turn() { # PID: has the turn to stop it, as another command would, until its standard input ends
    python3 -c 'import socket, sys
turn = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
turn.bind(b"\0hakmem stop of " + sys.argv[1].encode())
print("held", flush=True)
sys.stdin.read()' "$1"
}
start env LD_PRELOAD="$HAKMEM_LIB" "$tests/inspect_plain"
kept_waiting=$pid # until the end of this test
coproc KEPT { hold_turn "$kept_waiting"; }
read -r -u "${KEPT[0]}"
"$hakmem" check --stop "$kept_waiting" > "$work/kept" 2>&1 &
waiting=$!
exec {keeper}>&"${KEPT[1]}"

background=on start env LD_PRELOAD="$HAKMEM_LIB" nice "$tests/inspect_plain" 4
mkfifo "$work/turn"
hold_turn "$pid" < "$work/turn" > "$work/turn.out" &
started_pids+=("$!")
exec 7> "$work/turn"
until grep -qs held "$work/turn.out"; do sleep 0.02; done
"$hakmem" check --stop "$pid" > "$work/second" 2>&1 7>&- &
second=$!
sleep 0.5
kill -0 "$second" 2> /dev/null || fail "it stops a process that another command stops: $(< "$work/second")"
if grep '^State:.T' "/proc/$pid/status"; then fail "it is stopped"; fi
exec 7>&-
wait "$second" || fail "after its turn has come: $(< "$work/second")"

for ((i = 0; i < 3; i++)); do
    several=()
    for ((j = 0; j < 4; j++)); do
        "$hakmem" check --stop "$pid" > "$work/several.$j" 2>&1 &
        several+=("$!")
    done
    for ((j = 0; j < 4; j++)); do wait "${several[j]}" || fail "one of four at a time: $(< "$work/several.$j")"; done
    if grep '^State:.T' "/proc/$pid/status"; then fail "it does not go on"; fi
done
stop
start env LD_PRELOAD="$HAKMEM_LIB" "$tests/inspect_plain" # in the midst of nothing
kill -STOP "$pid"
until grep -q '^State:.T' "/proc/$pid/status"; do sleep 0.02; done
check 0 --stop "$pid"
grep -q '^State:.T' "/proc/$pid/status" || fail "it was stopped before, and goes on"
stop
if command -v gdb > /dev/null; then
    start gdb -q -batch -ex "set environment LD_PRELOAD $HAKMEM_LIB" -ex "break sleep" -ex run -ex "shell exec sleep 300" "$tests/inspect_plain"
    held=$(pgrep -P "$pid" -x inspect_plain)
    started_pids+=("$held")
    for ((i = 0; i < 500; i++)); do
        if grep -q '^State:.t' "/proc/$held/status"; then break; fi
        sleep 0.02
    done
    sleep 0.2 # until gdb has come to rest
    strace -o "$work/strace" -e trace=pidfd_send_signal,kill "$hakmem" check --stop "$held" > "$work/held" || fail "in gdb: $(< "$work/held")"
    if grep SIG "$work/strace"; then fail "what a debugger has stopped gets a signal"; fi
    mapfile -t children < <(pgrep -P "$pid")
    stop
    kill -KILL "${children[@]}"
else
    leave_out "there is no gdb: whether what a debugger has stopped gets no signal"
fi

if strace -o /dev/null true 2> /dev/null; then
    cat > "$work/calls.c" << 'END'
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

int main(void)
{
    static void *volatile block[100];
    puts("ready");
    fflush(stdout);
    for (unsigned i = 0;; i++) {
        free(block[i % 100]);
        block[i % 100] = malloc(1000);
        getppid();
    }
}
END
    "${HAKMEM_CC:-cc}" -O1 -o "$work/calls" "$work/calls.c"
    start strace -f -o /dev/null env LD_PRELOAD="$HAKMEM_LIB" "$work/calls"
    traced=$(pgrep -P "$pid" | tail -n 1)
    started_pids+=("$traced")
    for ((i = 0; i < 10; i++)); do
        strace -o "$work/strace" -e trace=pidfd_send_signal,kill "$hakmem" check --stop "$traced" > "$work/traced" 2>&1 ||
            fail "under strace: $(< "$work/traced")"
        [[ $(grep -c SIGSTOP "$work/strace") -ge 1 ]] || fail "it counts as stopped at one of its system calls"
    done
    kill -KILL "$traced"
    stop
else
    leave_out "strace does not run here: whether a process under it stands still"
fi

step "eight threads that never rest (K1), stopped now and then (K4)"
background=on start env LD_PRELOAD="$HAKMEM_LIB" nice "$tests/inspect_plain" 8
for ((i = 0; i < 12; i++)); do
    if ((i % 3 == 2)); then check 0 --stop "$pid"; else check 0 "$pid"; fi
done
echo "   $said"
for ((i = 0; i < 8; i++)); do
    "$hakmem" check --stop "$pid" > /dev/null 2>&1 &
    checker=$!
    sleep "0.00$i"
    kill -KILL "$checker" 2> /dev/null || true
    wait "$checker" 2> /dev/null || true
done
for ((i = 0; i < 500; i++)); do
    if ! grep -q '^State:.T' "/proc/$pid/status"; then break; fi
    sleep 0.02
done
if grep '^State:.T' "/proc/$pid/status"; then fail "the process does not go on after a killed check --stop"; fi
check 0 "$pid"
stop

step "a command whose turn does not come gives up (K7)"
status=0
wait "$waiting" || status=$?
[[ $status -eq 2 && $(< "$work/kept") == "hakmem: process $kept_waiting is not stopped: another command has stopped it and has not ended" ]] ||
    fail "it should have given up: status $status, $(< "$work/kept")"
exec {keeper}>&-
echo "passed"

# `hakmem check` of a program on that library, of $work.
check_sleep_on() { # FILE
    LD_PRELOAD=$work/$1 sleep 60 &
    pid=$!
    started_pids+=("$pid")
    until grep -q "$1" "/proc/$pid/maps"; do sleep 0.02; done
    sleep 0.2
    check 0 "$pid"
    stop
}

step "a note that leads astray (K10)"
cp "$HAKMEM_BUILD_DIR/libhakmem.so" "$work/moved.so"
note=$(readelf -SW "$work/moved.so" | sed -n 's/^.*[.]note[.]hakmem *NOTE *[0-9a-f]* *\([0-9a-f]*\) .*$/\1/p')
printf '\1\0\0\0\0\0\0\0' | dd of="$work/moved.so" bs=1 seek=$((16#$note + 20)) conv=notrunc status=none # behind 12 bytes and the name
check_sleep_on moved.so
if command -v patchelf > /dev/null; then
    patchelf --set-rpath "/$(printf 'a%.0s' {1..100})" --output "$work/patched.so" "$HAKMEM_BUILD_DIR/libhakmem.so"
    check_sleep_on patched.so
fi
echo "passed"

step "a note that leads astray, and no end of what might be searched (K11)"
cat > "$work/endless.py" << 'END'
import ctypes, mmap, struct, sys, time
MAP_NORESERVE, LENGTH = 0x4000, 4 << 40
file = open(sys.argv[1], "w+b")
file.truncate(4096)
elf = mmap.mmap(file.fileno(), 4096)
much = mmap.mmap(-1, LENGTH, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE, mmap.PROT_READ | mmap.PROT_WRITE)
def address(of):
    return ctypes.addressof(ctypes.c_char.from_buffer(of))
def segment(kind, flags, offset, start, length, align):
    return struct.pack("<IIQQQQQQ", kind, flags, offset, start, start, length, length, align)
segments = (segment(1, 5, 0, 0, 4096, 4096) + segment(4, 4, 1024, 1024, 28, 4) +
            segment(1, 6, 0, (address(much) - address(elf)) % 2**64, LENGTH, 4096))
header = b"\x7fELF\2\1\1" + bytes(9) + struct.pack("<HHIQQQIHHHHHH", 3, 62, 1, 0, 64, 0, 0, 64, 56, 3, 0, 0, 0)
elf[0 : 64 + len(segments)] = header + segments
elf[1024:1052] = struct.pack("<III8sq", 7, 8, 1, b"hakmem", 8)
print("ready", flush=True)
time.sleep(600)
END
start env -u LD_PRELOAD python3 "$work/endless.py" "$work/endless.elf"
status=0
said=$(timeout 60 "$hakmem" check "$pid" 2>&1) || status=$?
[[ $status -eq 2 && $said == *"is not on hakmem"* ]] || fail "status $status: $said"
stop
echo "passed"

finish
