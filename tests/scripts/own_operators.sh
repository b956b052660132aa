#!/bin/bash
# own_operators.sh - a program that defines some forms of operator new and delete for itself has the others made of those, as the
# standard says, preloaded or linked with hakmem; and one that brings its own malloc gets back the blocks of it that come to hakmem.
set -euo pipefail
source "$(dirname "$0")/_common.sh"
require "$HAKMEM_CXX"
ulimit -c 0

# All forms are used. Those that the program defines count, and put a header before each block, so that a form that hakmem served
# by itself would give or take a wrong address.
cat > forms.cc << 'END'
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <new>
struct alignas(64) header { std::size_t size, mark; };
static long n_new, n_delete;
static void *make(std::size_t size)
{
    if (size == 77777)
        throw std::bad_alloc();
    auto *h = static_cast<header *>(std::aligned_alloc(64, (sizeof(header) + size + 63) / 64 * 64));
    *h = {size, 0x5eed};
    n_new++;
    return h + 1;
}
static void unmake(void *block)
{
    if (block == nullptr)
        return;
    auto *h = static_cast<header *>(block) - 1;
    if (h->mark != 0x5eed)
        std::abort();
    h->mark = 0;
    n_delete++;
    std::free(h);
}
#ifdef SIMPLE
void *operator new(std::size_t n) { return make(n); }
void operator delete(void *p) noexcept { unmake(p); }
#endif
#ifdef ARRAY
void *operator new[](std::size_t n) { return make(n); }
void operator delete[](void *p) noexcept { unmake(p); }
#endif
#ifdef ALIGNED
void *operator new(std::size_t n, std::align_val_t) { return make(n); }
void operator delete(void *p, std::align_val_t) noexcept { unmake(p); }
#endif
static long n_forms;
static void use(void *block, std::size_t size, std::size_t alignment)
{
    if (alignment == 16 && size < 16)
        alignment = 8; /* nothing that needs more fits */
    if (block == nullptr || (reinterpret_cast<std::uintptr_t>(block) & (alignment - 1)) != 0)
        std::abort();
    for (std::size_t i = 0; i < size; i++)
        static_cast<volatile char *>(block)[i] = 1;
    n_forms++;
}
int main()
{
    const auto align = std::align_val_t(64);
    for (std::size_t n = 1; n < 60000; n = n * 3 + 1) {
        void *p;
        use(p = ::operator new(n), n, 16), ::operator delete(p);
        use(p = ::operator new(n), n, 16), ::operator delete(p, n);
        use(p = ::operator new(n, std::nothrow), n, 16), ::operator delete(p, std::nothrow);
        use(p = ::operator new[](n), n, 16), ::operator delete[](p);
        use(p = ::operator new[](n), n, 16), ::operator delete[](p, n);
        use(p = ::operator new[](n, std::nothrow), n, 16), ::operator delete[](p, std::nothrow);
        use(p = ::operator new(n, align), n, 64), ::operator delete(p, align);
        use(p = ::operator new(n, align), n, 64), ::operator delete(p, n, align);
        use(p = ::operator new(n, align, std::nothrow), n, 64), ::operator delete(p, align, std::nothrow);
        use(p = ::operator new[](n, align), n, 64), ::operator delete[](p, align);
        use(p = ::operator new[](n, align), n, 64), ::operator delete[](p, n, align);
        use(p = ::operator new[](n, align, std::nothrow), n, 64), ::operator delete[](p, align, std::nothrow);
    }
#if defined SIMPLE && !defined STATIC /* where nobody can catch what it throws: docs/porting.md */
    if (::operator new(77777, std::nothrow) != nullptr || ::operator new[](77777, std::nothrow) != nullptr)
        std::abort();
#endif
    std::printf("%ld of %ld, %ld\n", n_new, n_forms, n_delete);
}
END

# A malloc of the program's own, and a library whose own operator new calls it.
cat > own_malloc.cc << 'END'
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <new>
#include <string>
#include <unistd.h>
static char pool[1 << 20];
static std::size_t used;
struct alignas(16) header { std::size_t size, mark; };
static header *header_of(void *block)
{
    auto *h = static_cast<header *>(block) - 1;
    if (reinterpret_cast<char *>(h) < pool || reinterpret_cast<char *>(h) >= pool + sizeof pool || h->mark != 0x5eed)
        _exit(3); /* not ours */
    return h;
}
extern "C" {
void *malloc(std::size_t n)
{
    std::size_t whole = (sizeof(header) + n + 15) / 16 * 16;
    if (whole > sizeof pool - used)
        return nullptr;
    auto *h = reinterpret_cast<header *>(pool + used + (-reinterpret_cast<std::size_t>(pool) & 15));
    used += whole;
    *h = {n, 0x5eed};
    return h + 1;
}
void free(void *block)
{
    if (block != nullptr)
        header_of(block)->mark = 0;
}
void *calloc(std::size_t count, std::size_t n)
{
    void *block = malloc(count * n);
    return block == nullptr ? nullptr : std::memset(block, 0, count * n);
}
void *realloc(void *block, std::size_t n)
{
    void *larger = malloc(n);
    if (block != nullptr && larger != nullptr) {
        std::memcpy(larger, block, header_of(block)->size < n ? header_of(block)->size : n);
        free(block);
    }
    return larger;
}
void *own_new(std::size_t n);
}
int main()
{
    void *block = reallocarray(malloc(10), 3, 10);
    free(reallocarray(block, 5, 10));
    ::operator delete(own_new(30));
    ::operator delete(own_new(30), std::size_t(30));
    ::operator delete[](own_new(30));
    ::operator delete(own_new(30), std::nothrow);
    delete[] new int[100];
    delete new std::string(1000, 'x');
    std::puts("done");
}
END
cat > own.cc << 'END'
#include <cstdlib>
#include <new>
void *operator new(std::size_t n) { return std::malloc(n); }
extern "C" void *own_new(std::size_t n) { return ::operator new(n); }
END

build() { # OUTPUT ARGUMENT...
    "$HAKMEM_CXX" -std=c++17 -fsized-deallocation -O0 -w -fno-builtin -o "$@" || fail "$1 cannot be built"
}
says() { # WHAT COMMAND...
    "${@:2}" > said 2>&1 || fail "${*:2}: status $?: $(< said)"
    [[ $(< said) == "$1" ]] || fail "${*:2} said: $(< said), not: $1"
}
archive=(-Wl,-u,malloc -Wl,-u,_Znwm -Wl,-u,sigaction "$HAKMEM_BUILD_DIR/libhakmem.a" -lpthread -ldl)

# 12 forms, 10 sizes. The forms of arrays are made of the simple ones, and those of arrays with an alignment of the aligned ones.
for defined in SIMPLE:60 ARRAY:30 ALIGNED:60 SIMPLE,ARRAY:60 SIMPLE,ALIGNED:120 SIMPLE,ARRAY,ALIGNED:120; do
    flags="-D${defined%:*}" n=${defined#*:}
    step "operators of the program's own: ${defined%:*}"
    build forms forms.cc ${flags//,/ -D}
    says "$n of 120, $n" ./forms
    for mode in HAKMEM_SECURE=0 HAKMEM_SECURE=1 HAKMEM_GUARD_SAMPLE=10; do
        says "$n of 120, $n" on_hakmem $mode ./forms
    done
    build linked forms.cc ${flags//,/ -D} -Wl,--no-as-needed "$HAKMEM_LIB" "-Wl,-rpath,$(dirname "$HAKMEM_LIB")"
    says "$n of 120, $n" ./linked
    build archived forms.cc ${flags//,/ -D} "${archive[@]}"
    says "$n of 120, $n" ./archived
    build static forms.cc ${flags//,/ -D} -DSTATIC -static "${archive[@]}"
    says "$n of 120, $n" ./static
done

step "a malloc of the program's own"
build libown.so own.cc -shared -fPIC -Wl,-Bsymbolic-functions
build own_malloc own_malloc.cc ./libown.so
says "done" ./own_malloc
for mode in HAKMEM_SECURE=0 HAKMEM_SECURE=1 HAKMEM_GUARD_SAMPLE=10; do
    says "done" on_hakmem $mode ./own_malloc
done

step "a library with a C++ runtime of its own that it shows to nobody"
cat > hidden.cc << 'END'
#include <new>
#include <string>
extern "C" void drop(std::string *text) { delete text; }
extern "C" bool allocate(std::size_t n)
{
    try {
        delete[] new char[n];
    } catch (const std::bad_alloc &) {
        return false;
    }
    return true;
}
END
cat > maker.cc << 'END'
#include <cstdio>
#include <string>
extern "C" void drop(std::string *text);
extern "C" bool allocate(std::size_t n);
int main()
{
    for (int i = 0; i < 100; i++)
        drop(new std::string(1000, 'x'));
    std::printf(allocate(10) ? "done\n" : "refused\n");
}
END
build libhidden.so hidden.cc -shared -fPIC -static-libstdc++ -static-libgcc -Wl,--exclude-libs,ALL
build maker maker.cc ./libhidden.so
says "done" ./maker
for mode in HAKMEM_SECURE=0 HAKMEM_SECURE=1; do
    says "done" on_hakmem $mode ./maker
done

# The forms that come to hakmem ask the dynamic linker, once and early: not where its lock is held by who waits for the thread that deletes
# something, nor so that a program finds another message than its own, or one that never was.
step "operators of the program's own and the dynamic linker's lock and messages"
cat > host.cc << 'END'
#include <cstdio>
#include <cstdlib>
#include <dlfcn.h>
#include <new>
void *operator new(std::size_t n) { return std::malloc(n); }
void operator delete(void *p) noexcept { std::free(p); }
int main()
{
    const char *none = dlerror();
    void *plugin = dlopen("./plug.so", RTLD_NOW);
    if (none != nullptr || plugin == nullptr) {
        std::puts(none != nullptr ? none : dlerror());
        return 1;
    }
    dlsym(plugin, "nothing of the kind");
    delete[] new int[10];
    const char *message = dlerror();
    std::puts(message != nullptr ? "done" : "the message is lost");
}
END
cat > plug.cc << 'END'
#include <thread>
static struct waits {
    waits()
    {
        std::thread thread([] { volatile int n = 100; int *a = new int[n]; a[0] = 1; delete[] a; });
        thread.join();
    }
} waits;
END
build plug.so plug.cc -shared -fPIC -pthread
build host host.cc -pthread -ldl
says "done" timeout 60 ./host
says "done" on_hakmem timeout 60 ./host
build host host.cc -pthread -ldl -Wl,--no-as-needed "$HAKMEM_LIB" "-Wl,-rpath,$(dirname "$HAKMEM_LIB")"
says "done" timeout 60 ./host
