#!/bin/bash
# profile_symbols.sh - the names in a profile: of programs of all kinds, of libraries that are gone, unloaded or replaced, of
# inlined functions and of C++; and no name where it would be a wrong one.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/_common.sh"
source "$(dirname "${BASH_SOURCE[0]}")/_profile.sh"
require objcopy strip readelf clang

# Runs the target once with every block a sample, its input from here; the dump is in FILE.
dump_of() { # FILE PROGRAM COMMAND...
    local file=$1 program=$2 command
    shift 2
    for command in "$@"; do echo "$command"; done |
        env LD_PRELOAD="$HAKMEM_LIB" HAKMEM_PROFILE="$work/$file" HAKMEM_PROFILE_INTERVAL=1 "$program" > /dev/null 2> dump.err ||
        fail "$program: $(cat dump.err)"
    assert_no_report dump.err
}
leaks_of() { "$hakmem" profile "$1" --format leaks --top 0 2> leaks.err; }
assert_has() { # FILE TEXT
    grep -qF -e "$2" "$1" || { head -n 60 "$1"; fail "$1 lacks: $2"; }
}
assert_lacks() { # FILE TEXT
    if grep -F -e "$2" "$1"; then fail "$1 has: $2"; fi
}
assert_quiet() { [[ ! -s leaks.err ]] || fail "it says: $(cat leaks.err)"; }

step "position-independent or not, optimized or not, without frame pointers, by gcc and by clang"
for compiler in "$HAKMEM_CC" clang; do
    for options in "-O2 -fomit-frame-pointer" "-O2 -no-pie -fno-pie" "-O0 -fomit-frame-pointer" "-O2 -gdwarf-4"; do
        # shellcheck disable=SC2086 # they are several
        "$compiler" $options -g -o profile-target profile-target.c -pthread 2> cc.err || fail "$(cat cc.err)"
        dump_of plain.heap ./profile-target "leak 10" "inline 20" "thread 30"
        leaks_of plain.heap > leaks
        assert_quiet
        assert_has leaks "site_leak  $work/profile-target.c:$(line_of site_leak)"
        assert_has leaks "inlined_below  $work/profile-target.c:$(line_of inlined_below)"
        assert_has leaks "site_inlines  $work/profile-target.c:$(line_of site_inlines)"
        assert_has leaks "in 30 blocks"
        grep -A 3 "    site_thread" leaks | grep -q "    allocate_in_thread" || fail "the thread's stack: $(cat leaks)"
    done
done

step "statically linked: the allocator's own frames are left out"
"$HAKMEM_CC" -O2 -g -static -o static-target profile-target.c "$HAKMEM_BUILD_DIR/libhakmem.a" -Wl,-u,malloc -pthread 2> cc.err ||
    fail "$(cat cc.err)"
printf 'leak 10\ninline 20\n' | HAKMEM_PROFILE=$work/static.heap HAKMEM_PROFILE_INTERVAL=1 ./static-target > static.out
[[ $(wc -l < static.out) -eq 2 ]] || fail "the static target: $(cat static.out)"
leaks_of static.heap > leaks
assert_quiet
assert_has leaks "site_leak  $work/profile-target.c:$(line_of site_leak)"
grep -A 1 "in 10 blocks" leaks | tail -n 1 | grep -q "    site_leak" || fail "the first frame is not the program's: $(cat leaks)"
assert_lacks leaks stack_take
assert_lacks leaks "    malloc"
# The same by names alone.
cp static-target whole
objcopy --strip-debug whole static-target
leaks_of static.heap > leaks
assert_quiet
grep -A 1 "in 10 blocks" leaks | tail -n 1 | grep -q "    site_leak" || fail "the first frame is not the program's: $(cat leaks)"
assert_lacks leaks stack_take

step "stripped: by exported names and places; with its debug file beside it by all names again"
"$HAKMEM_CC" -O2 -g -o profile-target profile-target.c -pthread
cp profile-target whole
strip -o profile-target whole
dump_of stripped.heap ./profile-target "leak 10"
leaks_of stripped.heap > leaks
assert_quiet
assert_lacks leaks site_leak
grep -q "^    profile-target+0x" leaks || fail "a place in the file: $(cat leaks)"
objcopy --only-keep-debug whole profile-target.debug
objcopy --add-gnu-debuglink=profile-target.debug profile-target
leaks_of stripped.heap > leaks
assert_quiet
assert_has leaks "site_leak  $work/profile-target.c:$(line_of site_leak)"

step "replaced and removed: no wrong names, and one line that says so"
"$HAKMEM_CC" -O2 -g -o profile-target profile-target.c -pthread
dump_of replaced.heap ./profile-target "leak 10" "thread 5" "inline 3"
cp profile-target before
"$HAKMEM_CC" -O1 -g -DOTHER -o profile-target profile-target.c -pthread
leaks_of replaced.heap > leaks
assert_lacks leaks site_
[[ $(cat leaks.err) == "hakmem: $work/profile-target has been replaced since the profile was taken: its functions are not named" ]] ||
    fail "$(cat leaks.err)"
grep -q "^    profile-target+0x" leaks || fail "a place in the file: $(cat leaks)"
rm profile-target
leaks_of replaced.heap > leaks
assert_lacks leaks site_
[[ $(cat leaks.err) == "hakmem: $work/profile-target cannot be read any more: its functions are not named" ]] || fail "$(cat leaks.err)"
mv before profile-target
leaks_of replaced.heap > leaks
assert_quiet
assert_has leaks site_leak

step "a program whose file is removed or replaced while it runs"
for what in removed replaced; do
    cp profile-target running
    start_target ./running
    tell busy
    rm running
    if [[ $what == replaced ]]; then "$HAKMEM_CC" -O1 -g -o running profile-target.c -pthread; fi
    ("$hakmem" profile "$pid" --seconds 3 --interval 1 --format leaks --top 0 > leaks 2> leaks.err) &
    sampler=$!
    for _ in $(seq 200); do
        if "$hakmem" profile "$pid" --seconds 0 > /dev/null 2>&1; then break; fi
        sleep 0.02
    done
    tell leak 10
    wait "$sampler"
    assert_quiet
    assert_has leaks "site_leak  $work/profile-target.c:$(line_of site_leak)"
    stop_target
done

step "libraries that are unloaded, and lie where others lay"
for name in first second; do
    # At the same addresses the same stacks would be one: see Limits in docs/heap-profile.md. So their code is not of one length.
    cat > $name.c << END
#include <stdlib.h>
int other_function(int n) { return n * ${#name} $([[ $name == first ]] || echo '+ n / 7 + n % 11 * n / 13'); }
static __attribute__((noinline)) void *site_in_$name(size_t n)
{
    void *p = malloc(n); /* line of site_in_$name */
    __asm__ volatile("" : "+r"(p) : : "memory");
    return p;
}
void *plugin_allocate(size_t n)
{
    void *p = site_in_$name(n);
    __asm__ volatile("" : "+r"(p) : : "memory");
    return p;
}
END
    "$HAKMEM_CC" -O2 -g -shared -fPIC -o $name.so $name.c
done
dump_of plugins.heap ./profile-target "plugin 10 $work/first.so" "plugin 20 $work/second.so" "plugin 3 ./first.so"
grep -q "^# module .* $work/first.so\$" plugins.heap || fail "the dump does not know the library"
if sed -n '/^MAPPED_LIBRARIES/,$p' plugins.heap | grep "first.so" | grep -qv " 00:00 0 "; then fail "the library is still loaded"; fi
leaks_of plugins.heap > leaks
assert_quiet
for name in first second; do assert_has leaks "site_in_$name  $work/$name.c:5"; done
grep -B 2 "    site_in_second" leaks | grep -q "in 20 blocks" || { cat leaks; fail "the second library's blocks"; }
n=$("$hakmem" profile plugins.heap --value inuse_objects --format folded | folded_sum /dev/stdin ";site_in_first")
[[ $n -eq 13 ]] || { cat leaks; fail "$n blocks of the first library instead of 13"; }

step "the same from outside"
start_target ./profile-target
tell busy
("$hakmem" profile "$pid" --seconds 4 --interval 1 --value inuse_objects --format folded > folded 2> leaks.err) &
sampler=$!
for _ in $(seq 200); do
    if "$hakmem" profile "$pid" --seconds 0 > /dev/null 2>&1; then break; fi
    sleep 0.02
done
tell "plugin 10 $work/first.so"
tell "plugin 20 $work/second.so"
wait "$sampler"
assert_quiet
for row in "10 site_in_first" "20 site_in_second"; do
    [[ $(folded_sum folded ";${row#* }") -eq ${row% *} ]] || { cat folded; fail "$row"; }
done
stop_target

step "C++: short names and full ones, lambdas, what is inlined; the vDSO under a signal handler"
cat > names.cc << 'END'
#include <csignal>
#include <cstdlib>
#include <ctime>
#include <map>
#include <string>
#include <sys/time.h>
namespace app {
template <class T> __attribute__((noinline)) T *leak(std::map<int, T> &, unsigned long n)
{
    T *p = static_cast<T *>(malloc(n * sizeof(T)));
    asm volatile("" : "+r"(p) : : "memory");
    return p;
}
}
static volatile int n_handled;
static void handle(int)
{
    void *p = malloc(77);
    asm volatile("" : "+r"(p) : : "memory");
    free(p);
    n_handled++;
}
int main()
{
    std::map<int, long> unused;
    app::leak<long>(unused, 100);
    auto lambda = [](unsigned long n) __attribute__((noinline)) {
        void *p = malloc(n);
        asm volatile("" : "+r"(p) : : "memory");
    };
    lambda(5000);
    signal(SIGALRM, handle);
    struct itimerval timer = {{0, 500}, {0, 500}};
    setitimer(ITIMER_REAL, &timer, nullptr);
    while (n_handled < 300) {
        struct timespec now;
        clock_gettime(CLOCK_MONOTONIC, &now);
    }
    timer = {};
    setitimer(ITIMER_REAL, &timer, nullptr);
    return 0;
}
END
"$HAKMEM_CXX" -O2 -g -o names names.cc
LD_PRELOAD=$HAKMEM_LIB HAKMEM_PROFILE=$work/names.heap HAKMEM_PROFILE_INTERVAL=1 ./names
leaks_of names.heap > leaks
assert_quiet
assert_has leaks "    app::leak  $work/names.cc:10"
assert_has leaks "    main::{unnamed}::operator()  $work/names.cc:28"
"$hakmem" profile names.heap --format leaks --full-names | grep -qF "    long* app::leak<long>(std::map<int, long, " || fail "the full name"
if grep -q "\[vdso\]" names.heap; then
    "$hakmem" profile names.heap --format folded --value alloc_space > folded
    grep -q "clock_gettime.*;handle " folded || { cat folded; fail "no stack of a handler that interrupts clock_gettime"; }
    grep -q "__vdso_clock_gettime" folded || { cat folded; fail "the vDSO's function is not named"; }
fi
