# shellcheck shell=bash disable=SC2034 # some names are for the scripts
# _common.sh - what the scripts that run real programs under preload share. Sourced by them, never run.
#
# Needs     HAKMEM_LIB (the libhakmem.so under test), HAKMEM_SOURCE_DIR and HAKMEM_BUILD_DIR, as ctest sets them.
# Gives     $work, an empty directory that is removed at exit, also the current directory and HOME; the functions below.
# Verdict   a script compares what a program wrote under hakmem with what it wrote under the system's malloc, or with an
#           answer known beforehand. An exit status alone proves little, and a program that is missing is a failure:
#           packaging/setup-debian.sh installs all of them. What depends on the machine may be left out (leave_out): then the
#           script counts as skipped, unless something else in it fails.
: "${HAKMEM_LIB:?must name the libhakmem.so under test}"
: "${HAKMEM_SOURCE_DIR:?must name the source tree}"
: "${HAKMEM_BUILD_DIR:?must name the build tree}"

# What the caller's surroundings preload, configure or translate would make two runs differ.
unset LD_PRELOAD LD_LIBRARY_PATH GLIBC_TUNABLES CFLAGS CXXFLAGS LDFLAGS MAKEFLAGS
unset HAKMEM_STATS HAKMEM_TINY_PROFILE HAKMEM_ON_ERROR HAKMEM_LRU_SUPERSLABS HAKMEM_EMPTY_SLABS HAKMEM_ARENA_BYTES
unset HAKMEM_GAPS HAKMEM_DEBUG HAKMEM_PURGE_DELAY_MS HAKMEM_BACKGROUND HAKMEM_THP HAKMEM_BUDGET HAKMEM_SECURE
unset HAKMEM_GUARD_SAMPLE HAKMEM_PROFILE HAKMEM_PROFILE_INTERVAL
unset PYTHONMALLOC PYTHONPATH PYTHONHOME PYTHONSTARTUP PERL5OPT PERL5LIB NODE_OPTIONS NODE_EXTRA_CA_CERTS NODE_PATH
# A hook of git, for one, sets these for whatever it starts.
unset "${!GIT_@}"
export LC_ALL=C TZ=UTC

step() { echo "-- $*"; }

fail() {
    echo "FAILED: $*" >&2
    exit 1
}

# A part that this machine has not what it takes for: it is named, and the script ends by finish.
left_out=()
leave_out() { # WHAT
    echo "   left out: $*"
    left_out+=("$*")
}

# The end of a script in which a part may be left out. All that could be tried holds; but what was not is no pass.
finish() {
    [[ ${#left_out[@]} -eq 0 ]] || exit 77
}

# Scripts add what must end before $work goes: server processes.
started_pids=()
clean_up() {
    local pid
    for pid in "${started_pids[@]}"; do kill -KILL "$pid" 2> /dev/null || true; done
    rm -rf "$work" || true
}
work=$(mktemp -d "${TMPDIR:-/tmp}/hakmem-real.XXXXXX")
trap clean_up EXIT
trap 'exit 1' HUP INT TERM
export HOME=$work
cd "$work" || exit 1

[[ -r $HAKMEM_LIB ]] || fail "there is no library $HAKMEM_LIB"
HAKMEM_LIB=$(realpath "$HAKMEM_LIB")

# Every program that the script needs, by name or path.
require() {
    local program
    for program in "$@"; do
        command -v "$program" > /dev/null || fail "$program is not installed"
    done
}

on_hakmem() { env LD_PRELOAD="$HAKMEM_LIB" "$@"; }
on_system() { env -u LD_PRELOAD "$@"; }

# Runs a command on hakmem and leaves the statistics of its first process in FILE. Its other output is untouched.
on_hakmem_with_stats() { # FILE COMMAND...
    local file=$1
    shift
    rm -f "$file"
    on_hakmem HAKMEM_STATS="$file" "$@"
}

# One number of a file of statistics, the first of that name: the sums come before the lists; fails where the field is not there.
stat_of() { # FIELD FILE
    local text value
    text=$(< "$2")
    text=${text#*"\"$1\":"}
    value=${text%%[!0-9]*}
    [[ -n $value ]] || fail "no field $1 in the statistics: $(head -c 300 "$2")"
    echo "$value"
}

# The proof that HAKMEM_STATS wrote FILE, and that the process's own calls of malloc, not just the start of the library,
# made it: memory for blocks was committed and blocks were moved to a thread.
assert_stats() { # FILE
    [[ -s $1 ]] || fail "no statistics were written: the preload did not take effect, or the process died"
    local live_bytes refills
    live_bytes=$(stat_of live_bytes "$1")
    refills=$(stat_of refills "$1")
    [[ $refills -gt 0 ]] || fail "the process never asked hakmem for a block: $(head -c 300 "$1")"
    echo "   on hakmem: $live_bytes bytes live at exit, $(stat_of peak_committed_bytes "$1") committed at the peak"
}

# Runs a command once, its output unseen, to prove that LD_PRELOAD puts it on hakmem.
assert_runs_on_hakmem() { # COMMAND...
    local status=0
    on_hakmem_with_stats "$work/proof.json" "$@" > "$work/proof.out" 2>&1 < /dev/null || status=$?
    if [[ $status -ne 0 ]]; then
        tail -n 20 "$work/proof.out"
        fail "$* ended with status $status on hakmem"
    fi
    assert_stats "$work/proof.json"
}

# Two files with the same bytes.
assert_same() { # EXPECTED GOT
    local file
    for file in "$1" "$2"; do [[ -e $file ]] || fail "there is no $file to compare"; done
    if ! cmp -s "$1" "$2"; then
        diff "$1" "$2" | head -n 20 | cut -c 1-200 || true
        fail "$2 differs from $1"
    fi
}

# A line of FILE that equals TEXT: an answer that is known without running anything.
assert_line() { # TEXT FILE
    grep -qxF -e "$1" "$2" || { tail -n 20 "$2" | cut -c 1-200; fail "$2 lacks the line: $1"; }
}

# The library reports misuse and its own damage in lines that start with its name; there is none in the files.
assert_no_report() { # FILE...
    if grep -a -H '^hakmem: ' "$@"; then fail "hakmem reported an error"; fi
}

sha256_of() { sha256sum "$1" | cut -d ' ' -f 1; }

profiles=(conservative hot off full)
