#!/bin/bash
# check_exports.sh - proves that the shared library exports what its version script lists, and nothing else.
#
#   E1  every plain name of the list is exported
#   E2  every exported name is on the list
#   E3  the hak_ names exported are the functions that hakmem.h declares
#   E4  no exported name has a version: the dynamic linker would not take malloc@@X for a program's malloc@GLIBC_2.2.5,
#       and a preloaded library would silently serve nobody
#   E5  the library needs libc alone
#   E6  it calls none of libc's cancellation points (POSIX.1-2017, 2.9.5.2) but the two that src/os/write.c calls with cancellation
#       switched off: a cancelled thread would end in the middle of malloc. Nor syscall, which others define
# It also holds the object to its link options: symbols bound at start, never unloaded, no executable stack.
set -euo pipefail
export LC_ALL=C

lib=$HAKMEM_LIB
map=$HAKMEM_SOURCE_DIR/src/api/exports.map
header=$HAKMEM_SOURCE_DIR/include/hakmem/hakmem.h
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
status=0

# Reports the lines of file $2 under the heading $1, if there are any.
complain_of() {
    if [[ -s $2 ]]; then
        echo "$1:"
        sed 's/^/    /' "$2"
        status=1
    fi
}

# The list without its comments: the names between global: and local:, one a line.
tr '\n' ' ' < "$map" | sed 's:/\*[^*]*\*\(\([^/*][^*]*\)\?\*\)*/: :g; s/.*global://; s/local:.*//' | tr ';' '\n' \
    | sed 's/[[:space:]]//g' | grep -v '^$' | sort -u > "$work/list"
grep -v '[*?[]' "$work/list" > "$work/plain"
# A pattern is turned into an extended regular expression: only the star is used in it.
grep '[*?[]' "$work/list" | sed 's/\*/.*/g; s/^/^/; s/$/$/' > "$work/patterns" || true

nm -D --defined-only "$lib" | awk '{ print $NF }' | sort > "$work/exported_with_versions"
sed 's/@.*//' "$work/exported_with_versions" | sort -u > "$work/exported"

comm -23 "$work/plain" "$work/exported" > "$work/e1"
complain_of "E1, on the list but not exported" "$work/e1"

comm -13 "$work/plain" "$work/exported" | { grep -Evf "$work/patterns" || true; } > "$work/e2"
complain_of "E2, exported but not on the list" "$work/e2"

sed -n 's/^HAK_API .*[ *]\(hak_[a-z0-9_]*\)(.*/\1/p' "$header" | sort -u > "$work/declared"
grep '^hak_' "$work/exported" > "$work/exported_hak" || true
comm -3 "$work/declared" "$work/exported_hak" > "$work/e3"
complain_of "E3, declared but not exported (left), exported but not declared (right)" "$work/e3"

grep '@' "$work/exported_with_versions" > "$work/e4" || true
complain_of "E4, exported with a version" "$work/e4"

readelf -dW "$lib" > "$work/dynamic"
sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p' "$work/dynamic" | { grep -Evx 'libc\.so\.6|ld-linux[^ ]*' || true; } > "$work/e5"
complain_of "E5, needed beside libc" "$work/e5"

nm -D --undefined-only "$lib" | awk '{ print $NF }' | sed 's/@.*//' | { grep -Ex "$(tr -s ' \n' '|' <<< "accept accept4 clock_nanosleep \
close closefrom connect creat creat64 epoll_pwait epoll_wait fcntl fcntl64 fdatasync fsync getrandom lockf lockf64 mq_receive mq_send \
msgrcv msgsnd msync nanosleep open open64 openat openat64 pause poll ppoll pread pread64 preadv preadv64 pselect \
pthread_clockjoin_np pthread_cond_clockwait pthread_cond_timedwait pthread_cond_wait pthread_join pthread_testcancel \
pthread_timedjoin_np pwrite pwrite64 pwritev pwritev64 read readv recv recvfrom recvmsg select sem_clockwait sem_timedwait sem_wait \
send sendmsg sendto sigpause sigsuspend sigwait sigwaitinfo sleep syscall system tcdrain usleep wait wait3 wait4 waitid waitpid writev" \
    | sed 's/|*$//')" || true; } > "$work/e6"
complain_of "E6, a cancellation point" "$work/e6"

grep -q 'SONAME.*\[libhakmem\.so\.0\]' "$work/dynamic" || { echo "the SONAME is not libhakmem.so.0"; status=1; }
grep -q 'FLAGS_1.*NOW' "$work/dynamic" || { echo "symbols are not bound at start"; status=1; }
grep -q 'FLAGS_1.*NODELETE' "$work/dynamic" || { echo "the library can be unloaded"; status=1; }
readelf -lW "$lib" | grep 'GNU_STACK.*RW ' > /dev/null || { echo "the stack would be executable"; status=1; }

echo "exports: $(wc -l < "$work/exported") names, $(wc -l < "$work/exported_hak") of them hak_"
exit $status
