#!/bin/bash
# header_standards.sh - hakmem.h compiles, without a warning, in every standard of C and C++ that the compilers know.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/_common.sh"
require gcc
require g++

cat > use.c << 'EOF'
#include <hakmem/hakmem.h>
#include <hakmem/hakmem.h>
int use(void);
int use(void)
{
    void *block = hak_malloc(10);
    hak_free(block);
    return hak_version() != 0;
}
EOF
compilers=(gcc g++)
if command -v clang > /dev/null; then compilers+=(clang); fi
if command -v clang++ > /dev/null; then compilers+=(clang++); fi
n=0
for compiler in "${compilers[@]}"; do
    case $compiler in
        *++) language=c++ standards=(c++98 gnu++98 c++03 c++11 c++14 c++17 c++20 c++2b) ;;
        *) language=c standards=(c89 gnu89 c99 c11 gnu11 c17 c2x) ;;
    esac
    for standard in "${standards[@]}"; do
        "$compiler" -x $language -std="$standard" -Wall -Wextra -pedantic -Werror -fsyntax-only \
            -I"$HAKMEM_SOURCE_DIR/include" use.c 2> err || fail "$compiler -std=$standard: $(cat err)"
        n=$((n + 1))
    done
done
echo "$n standards by ${#compilers[@]} compilers"
