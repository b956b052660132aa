#!/bin/bash
# own_new.sh - in hardened mode, blocks that a library's own operator new takes from malloc and that come to hakmem's operator
# delete are no mistake, nor are those of hakmem's new that come to the library's own delete; and without such a library they are.
set -euo pipefail
source "$(dirname "$0")/_common.sh"
require "$HAKMEM_CXX"
ulimit -c 0

# Its operators are its own, by -Bsymbolic-functions, as with the libraries that are linked with a C++ runtime of their own.
cat > own.cc << 'END'
#include <cstdlib>
#include <new>
void *operator new(std::size_t n) { return std::malloc(n < 16 ? 16 : n); }
void *operator new[](std::size_t n) { return std::malloc(n < 16 ? 16 : n); }
void operator delete(void *block) noexcept { std::free(block); }
void operator delete(void *block, std::size_t) noexcept { std::free(block); }
void operator delete[](void *block) noexcept { std::free(block); }
void operator delete[](void *block, std::size_t) noexcept { std::free(block); }
extern "C" void *own_new(std::size_t n) { return ::operator new(n); }
extern "C" void *own_new_array(std::size_t n) { return ::operator new[](n); }
extern "C" void own_delete(void *block) { ::operator delete(block); }
END
cat > user.cc << 'END'
#include <cstdio>
#include <initializer_list>
#include <new>
#include <string_view>
extern "C" void *own_new(std::size_t), *own_new_array(std::size_t);
extern "C" void own_delete(void *);
int main(int, char **argument)
{
    const std::string_view mistake = argument[1] == nullptr ? "" : argument[1];
    for (std::size_t n : std::initializer_list<std::size_t>{1, 25, 600, 4096, 9000, 40000, 3000000}) {
        ::operator delete(own_new(n));
        ::operator delete(own_new(n), n);
        ::operator delete[](own_new_array(n));
        ::operator delete[](own_new_array(n), n);
        own_delete(::operator new(n));
    }
    void *block = own_new(77);
    ::operator delete(block);
    if (mistake == "twice")
        ::operator delete(block);
    if (mistake == "array")
        delete[] new int;
    std::puts("done");
}
END
cat > program.cc << 'END'
#include <cstdio>
#include <cstdlib>
#include <new>
void *operator new(std::size_t n) { return std::malloc(n); }
int main()
{
    delete new int(1);
    std::puts("done");
}
END
# Three mistakes: before a library is loaded, while it is, and afterwards. It uses new and does not define it, which the older kind
# of hash table must tell apart.
cat > mismatch.cc << 'END'
#include <cstdlib>
#include <dlfcn.h>
#include <new>
static void mismatch(std::size_t n)
{
    ::operator delete(std::malloc(n));
    std::free(::operator new(n + 100));
}
int main(int, char **argument)
{
    delete new int(1);
    mismatch(101);
    void *library = dlopen(argument[1], RTLD_NOW);
    if (library == nullptr)
        return 2;
    mismatch(102);
    dlclose(library);
    mismatch(103);
}
END
echo 'OWN_1 { *; };' > versions

build() { # OUTPUT ARGUMENT...
    "$HAKMEM_CXX" -std=c++17 -fsized-deallocation -O0 -w -o "$@" || fail "$1 cannot be built"
}
build mismatch mismatch.cc -Wl,--hash-style=sysv -ldl
build program program.cc

runs_clean() { # MODE COMMAND...
    on_hakmem HAKMEM_SECURE="$1" "${@:2}" > said 2>&1 || fail "${*:2} in mode $1: $(< said)"
    [[ $(< said) == "done" ]] || fail "${*:2} in mode $1 said: $(< said)"
}

step "a library with its own new"
for style in -Wl,--hash-style=gnu -Wl,--hash-style=sysv -Wl,--version-script=versions; do
    build libown.so own.cc -shared -fPIC -Wl,-Bsymbolic-functions "$style"
    build user user.cc ./libown.so
    for mode in type 1 max; do runs_clean $mode ./user; done
done

finds() { # MODE MISTAKE LINE
    if on_hakmem HAKMEM_SECURE="$1" ./user "$2" > said 2>&1; then fail "mode $1 finds no $2"; fi
    grep -q "^hakmem: $3: " said || fail "mode $1 says of $2: $(< said)"
}

step "there, other mistakes are still found"
for mode in 1 max; do
    finds $mode twice "operator delete: block freed twice"
    finds $mode array "operator delete\[]: the block was allocated by operator new"
done

step "a program with its own new and no delete"
for mode in 1 max; do runs_clean $mode ./program; done

step "a program that mixes malloc and delete"
for mode in type 1 max; do
    if on_hakmem HAKMEM_SECURE=$mode ./mismatch ./libown.so > said 2>&1; then fail "mode $mode finds nothing"; fi
    grep -q '^hakmem: operator delete: the block was allocated by malloc or the like: .* 101)$' said ||
        fail "mode $mode says: $(< said)"
done

# The numbers of bytes that are reported if the program may go on.
reported() { # LIBRARY
    on_hakmem HAKMEM_SECURE=1 HAKMEM_ON_ERROR=warn ./mismatch "$1" > said 2>&1 || fail "with $1: $(< said)"
    sed -n 's/^hakmem: operator delete: the block was allocated by malloc .* \([0-9]*\))$/\1/p
        s/^hakmem: free: the block was allocated by operator new.* \([0-9]*\))$/\1/p' said | paste -s -d ' '
}

step "libraries that come and go"
[[ $(reported ./libown.so) == "101 201" ]] || fail "with a library with its own new: $(< said)"
for name in libstdc++.so.6.0.99 libc++.so.1 libc++abi.so.1; do
    cp libown.so $name
    [[ $(reported ./$name) == "101 201 102 202 103 203" ]] || fail "with what is called $name: $(< said)"
done
