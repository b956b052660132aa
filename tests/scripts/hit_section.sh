#!/bin/bash
# hit_section.sh - every function that a hit path is part of lies in the section by which sleepers.c knows them.
#
#   S1  in the objects of src/api, only code in that section looks at a thread's cache
#   S2  so do the functions of src/front that callers enter with their door open: front_claim_above_small, front_claim_aligned
# It reads the static library's relocations, so it sees what the compiler inlined.
set -euo pipefail
source "$(dirname "$0")/_common.sh"

section=hakmem_hits
readelf -rW "$HAKMEM_BUILD_DIR/libhakmem.a" | awk '
    /^File: /              { match($0, /\([^)]*\)/); object = substr($0, RSTART + 1, RLENGTH - 2) }
    /^Relocation section / { split($0, part, "\047"); section = part[2] }
    / tls_cache/           { print object, section }' | sort | uniq -c > looks

step "S1: what looks at tls_cache"
cat looks
for object in malloc.c.o override.c.o override_cxx.c.o override_signal.c.o; do
    grep -q " $object \.rela$section\$" looks || fail "$object has no hit path: the check sees nothing"
    if grep " $object " looks | grep -qv "\.rela$section\$"; then
        fail "$object looks at a thread's cache outside of section $section"
    fi
done
if grep -vE ' (malloc|override|override_cxx|override_signal|doors|refill|large_block|free|fork|harden|thread|sleepers|magazine|pressure|sampler)\.c\.o ' looks; then
    fail "another object looks at a thread's cache"
fi

for function in front_claim_above_small front_claim_aligned; do
    step "S2: $function"
    objdump -t "$HAKMEM_BUILD_DIR/libhakmem.a" | grep -E "F $section.* $function$" \
        || fail "$function is not in section $section"
done
