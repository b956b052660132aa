#!/bin/bash
# check_format.sh - proves that `make format` would change nothing: every source file is as .clang-format has it.
#
# Versions of clang-format differ in details, so it is asked only where it is Debian 12's, version 14; elsewhere the
# script counts as skipped. The check is first tried on a line that it must refuse.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/_common.sh"

version=$(clang-format --version 2> /dev/null | sed -n 's/.*version \([0-9]*\)\..*/\1/p')
if [[ $version != 14 ]]; then
    leave_out "clang-format 14 (here: ${version:-none})"
    finish
fi

refused() { clang-format --style="file:$HAKMEM_SOURCE_DIR/.clang-format" --dry-run -Werror "$@" 2> complaints; [[ -s complaints ]]; }

step "a line out of shape is refused"
echo 'int  f( void ){return 1 ;}' > bad.c
refused bad.c || fail "a check that refuses nothing"

step "no file is"
mapfile -t files < <(find "$HAKMEM_SOURCE_DIR"/{src,include,tools,tests,bench,examples} -name "*.[ch]" -o -name "*.cc")
[[ ${#files[@]} -gt 200 ]] || fail "only ${#files[@]} files"
if refused "${files[@]}"; then
    fail "make format would change $(sed -n 's/^\([^:]*\):.*error:.*/\1/p' complaints | sort -u | tr '\n' ' ')"
fi
