#!/bin/bash
# run.sh - `hakmem run`: what it sets for the program, how it ends when it is not the program that ends, and of what it warns.
set -euo pipefail
source "$(dirname "$0")/_common.sh"
require gcc setpriv
hakmem=$HAKMEM_BUILD_DIR/hakmem

# A command that ends with a status and one line on stderr that has the words; without words there is none.
ends() { # STATUS WORDS COMMAND...
    local want=$1 words=$2 status=0
    shift 2
    "$@" > out 2> errors || status=$?
    [[ $status -eq $want ]] || fail "status $status instead of $want: $*: $(cat errors)"
    if [[ -z $words ]]; then
        [[ ! -s errors ]] || fail "it says: $(cat errors)"
    else
        [[ $(wc -l < errors) -eq 1 ]] && grep -qF -e "$words" errors || fail "the line lacks '$words': $*: $(cat errors)"
    fi
}

# One variable of the program that is run.
variable() { # NAME COMMAND...
    local name=$1
    shift
    "$@" env | sed -n "s/^$name=//p"
}

step "what it sets"
found=$(variable LD_PRELOAD "$hakmem" run --)
[[ $found == /*/libhakmem.so* ]] || fail "LD_PRELOAD is '$found'"
[[ $(variable LD_PRELOAD env LD_PRELOAD=libm.so.6 "$hakmem" run) == "$found:libm.so.6" ]] || fail "what was preloaded is not behind it"
[[ $(variable LD_PRELOAD "$hakmem" run -- "$hakmem" run --) == "$found" ]] || fail "a run in a run preloads it twice"
for profile in conservative hot off full; do
    [[ $(variable HAKMEM_TINY_PROFILE "$hakmem" run --profile "$profile") == "$profile" ]] || fail "--profile $profile is not set"
done
[[ $(variable HAKMEM_TINY_PROFILE env HAKMEM_TINY_PROFILE=hot "$hakmem" run) == hot ]] || fail "the profile is not left alone"
"$hakmem" run --stats true 2> errors || fail "status $? with --stats"
grep -q '^hakmem ' errors || fail "--stats prints nothing"
[[ $(variable HAKMEM_STATS "$hakmem" run --stats 2> /dev/null) == 1 ]] || fail "--stats is not set"
[[ $("$hakmem" run echo -p --stats) == "-p --stats" ]] || fail "the program's options are taken"

step "how it ends"
ends 7 "" "$hakmem" run sh -c 'exit 7'
ends 127 "No such file" "$hakmem" run ./no-such-program
ends 126 "Permission denied" "$hakmem" run "$HAKMEM_SOURCE_DIR/README.md"
ends 2 "unknown profile" "$hakmem" run --profile warm true
ends 2 "no program" "$hakmem" run
ends 2 "no command" "$hakmem" walk
ends 2 "unrecognized option" "$hakmem" --no-such-option
status=0
"$hakmem" > out 2> errors || status=$?
[[ $status -eq 2 && ! -s out ]] && grep -q '^usage: ' errors || fail "without a command: status $status, $(cat out errors)"
mkdir alone "with blank"
cp "$hakmem" alone
cp "$hakmem" "with blank"
cp "$HAKMEM_LIB" "with blank/libhakmem.so"
ends 125 "its path contains a colon or a space" "with blank/hakmem" run true

step "what runs without it"
echo 'int main(void) { return 3; }' > program.c
gcc -o dynamic program.c
gcc -static -o static program.c
ends 3 "" "$hakmem" run ./dynamic
ends 3 "static is statically linked: it will not run on hakmem" "$hakmem" run ./static
printf '#!%s\n' "$work/static" > script
chmod +x script
ends 3 "script is statically linked" "$hakmem" run ./script
(PATH=$work:$PATH ends 3 "static is statically linked" "$hakmem" run static)
chmod u+s dynamic
ends 3 "" "$hakmem" run ./dynamic # its own user's
if [[ $(id -u) -eq 0 ]]; then
    chmod 755 "$work"
    ends 3 "dynamic is setuid: it will not run on hakmem" setpriv --reuid 65534 --clear-groups "$hakmem" run ./dynamic
    chmod u-s,g+s dynamic
    ends 3 "dynamic is setgid: it will not run on hakmem" setpriv --regid 65534 --clear-groups "$hakmem" run ./dynamic
else
    leave_out "only root can run as another user: set-user-ID programs"
fi
finish
