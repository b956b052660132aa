#!/bin/bash
# models.sh - the models in tests/models, written for SPIN, are exhausted without an error; each broken variant has one.
#
#   M1  a model as it is: all states are visited, nothing is left out for want of depth or memory, and there is no error
#   M2  a variant, which is the model with one BROKEN_ name of its text defined: an assertion fails, or somebody waits
#       for ever. A model in which a plausible mistake goes unnoticed proves nothing
#   M3  each variant is explained in the model's header, and each name there is a variant
#   M4  each function that a header says the model stands for is defined in the file that it names. Whoever renames
#       one is sent here, to see whether the model still tells what the code does
#   M5  each model is described in docs/models.md
#
# Usage: models.sh [MODEL...]     names without .pml; the default is all of them.
# A model with a line "models: optimize" has millions of states: a better compiled search is worth the compiler's time.
# On an error that ought not to be, the shortest way there that was found is printed.
# ctest: timeout 1200
set -euo pipefail
export LC_ALL=C

DEPTH=3000000    # steps; a search that needs more fails
MEMORY_MIB=2000  # of one search

root=${HAKMEM_SOURCE_DIR:-$(realpath "$(dirname "${BASH_SOURCE[0]}")/../..")}
models=$root/tests/models
for program in spin gcc; do
    if ! command -v "$program" > /dev/null; then
        echo "$program is not installed"
        if [[ -n ${HAKMEM_REQUIRE_TEST_TOOLS:-} ]]; then exit 1; fi
        exit 77
    fi
done
work=$(mktemp -d "${TMPDIR:-/tmp}/hakmem-models.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM
cd "$work"
status=0

complain() {
    echo "FAILED: $*"
    status=1
}

# The comment that opens a model.
header_of() { sed '/\*\//q' "$models/$1.pml"; }

# Lines "FILE NAME" of the functions that a header names.
functions_of() {
    header_of "$1" | awk '$1 == "*" && $2 ~ /^src\/.*\.[ch]:$/ {
        sub(/:$/, "", $2)
        for (i = 3; i <= NF; i++) print $2, $i
    }'
}

# A definition begins at the left margin and, other than a declaration, does not end with a semicolon.
is_defined() { # FILE NAME
    [[ -r $root/$1 ]] && grep -Eq "^[a-zA-Z_].*[ *]$2\(([^;]*|.*\{.*)\$" "$root/$1"
}

check_functions() { # MODEL
    local file name n=0
    while read -r file name; do
        n=$((n + 1))
        is_defined "$file" "$name" || complain "$1 stands for $name, which is not defined in $file"
    done < <(functions_of "$1")
    [[ $n -gt 0 ]] || complain "$1 names no function that it stands for"
}

variants_of() { grep -o 'BROKEN_[a-z_]*' "$models/$1.pml" | sort -u; }

# Compiles a search of a model or of a variant. Searches for mistakes go breadth first: the shortest way is found.
build() { # MODEL [VARIANT]
    local flags=(-w -DSAFETY "-DMEMLIM=$MEMORY_MIB") variant=()
    if [[ -n ${2:-} ]]; then
        flags+=(-O0 -DBFS)
        variant=("-D$2")
    elif grep -q 'models: optimize' "$models/$1.pml"; then
        flags+=(-O1)
    else
        flags+=(-O0)
    fi
    rm -f pan* model.pml*
    cp "$models/$1.pml" model.pml
    spin "${variant[@]}" -a model.pml > spin.out 2>&1 || { cat spin.out; return 1; }
    gcc "${flags[@]}" -o pan pan.c
}

states() { sed -n 's/^ *\([0-9]*\) states, stored.*/\1/p' pan.out | head -n 1; }
what_failed() {
    grep -m 1 -E '^pan:[0-9]+: (assertion violated|invalid end state)' pan.out | sed 's/^pan:[0-9]*: //' | cut -c 1-90
}

run_model() { # MODEL
    local from=$SECONDS
    build "$1" || { complain "$1 cannot be built"; return; }
    ./pan "-m$DEPTH" -w24 > pan.out 2>&1 || true
    if grep -q 'errors: 0' pan.out && ! grep -Eq 'too small|not completed|reached -DMEMLIM|out of memory' pan.out; then
        echo "$1: $(states) states, no error, $((SECONDS - from)) s"
        return
    fi
    complain "$1: $(grep -E 'errors:|too small|not completed|MEMLIM' pan.out | tr -s '\n ' ' ')"
    if [[ -e model.pml.trail ]]; then
        what_failed
        gcc -w -O0 -DSAFETY -DBFS "-DMEMLIM=$MEMORY_MIB" -o pan pan.c
        ./pan > /dev/null 2>&1 || true
        spin -t -p -g model.pml 2>&1 | sed 's/model.pml//' | tail -n 60 || true
    fi
}

run_variant() { # MODEL VARIANT
    local from=$SECONDS what
    build "$1" "$2" || { complain "$1 $2 cannot be built"; return; }
    ./pan -w20 > pan.out 2>&1 || true
    what=$(what_failed || true)
    if [[ -n $what ]]; then
        echo "    $2: found after $(states) states, $((SECONDS - from)) s: $what"
    else
        complain "$1 $2: no error was found: $(grep -E 'errors:|MEMLIM' pan.out | tr -s '\n ' ' ')"
    fi
}

check_variants() { # MODEL
    local variant n
    [[ -n $(variants_of "$1") ]] || complain "$1 has no broken variant"
    for variant in $(variants_of "$1"); do
        n=$(header_of "$1" | grep -cE "^ \*   $variant " || true)
        [[ $n -eq 1 ]] || complain "$1 does not explain $variant in its header"
        run_variant "$1" "$variant"
    done
}

# The check of names is worth something only if it can fail.
if is_defined src/superslab/slab.c slab_is_made_up || ! is_defined src/superslab/slab.c slab_own; then
    complain "the check of functions' names does not work"
fi

names=("$@")
if [[ ${#names[@]} -eq 0 ]]; then
    for file in "$models"/*.pml; do names+=("$(basename "$file" .pml)"); done
fi
for name in "${names[@]}"; do
    [[ -r $models/$name.pml ]] || { complain "there is no model $name"; continue; }
    check_functions "$name"
    grep -qF "\`$name.pml\`" "$root/docs/models.md" || complain "docs/models.md does not describe $name.pml"
    run_model "$name"
    check_variants "$name"
done
exit $status
