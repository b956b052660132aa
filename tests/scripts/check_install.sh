#!/bin/bash
# check_install.sh - installs into an empty prefix, moves it, and builds programs against it as users do.
#
# The manual page says what the command's help says, line for line, and man has no complaint.
#
# Each program (tests/consumer) proves by hakmem's own statistics that its malloc, or its operator new, is hakmem:
#   C by pkg-config, shared             C by pkg-config --static, fully static
#   C by CMake, shared and static       C++ by CMake, shared and static
#   a static library behind other libraries, where the program itself never calls malloc
#   the same, C, with the sources inside another project, which has targets of its own by common names
#   a plug-in that contains the archive and is closed again; a program that mold has linked, which the command finds
set -euo pipefail

cc=${HAKMEM_CC:-cc}
cxx=${HAKMEM_CXX:-c++}
consumer=$HAKMEM_SOURCE_DIR/tests/consumer
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# What the surroundings preload or search would hide a mistake here.
unset LD_PRELOAD LD_LIBRARY_PATH CFLAGS CXXFLAGS LDFLAGS CMAKE_PREFIX_PATH

step() { echo "-- $*"; }

step "install"
cmake --install "$HAKMEM_BUILD_DIR" --prefix "$work/first" > "$work/install.log"
# An installed tree may be moved; a path of the build or of the first prefix in it would show now.
prefix="$work/moved prefix"
mv "$work/first" "$prefix"
libdir=$(dirname "$(find "$prefix" -name libhakmem.so)")

for file in include/hakmem/hakmem.h bin/hakmem; do
    if [[ ! -e $prefix/$file ]]; then echo "not installed: $file"; exit 1; fi
done
for file in libhakmem.so libhakmem.so.0 libhakmem.a pkgconfig/hakmem.pc cmake/hakmem/hakmemConfig.cmake; do
    if [[ ! -e $libdir/$file ]]; then echo "not installed: $file"; exit 1; fi
done
if [[ ! -x $prefix/bin/hakmem ]]; then echo "bin/hakmem is not executable"; exit 1; fi
if find "$prefix" -name '*bench*' | grep .; then echo "a benchmark was installed"; exit 1; fi
if grep -rlF -e "$HAKMEM_SOURCE_DIR" -e "$work/first" "$libdir/pkgconfig" "$libdir/cmake"; then
    echo "an installed file names a directory of this machine"
    exit 1
fi

step "the manual page"
page=$prefix/share/man/man1/hakmem.1
man -P cat --warnings --no-justification --no-hyphenation -l "$page" > "$work/page" 2> "$work/complaints" < /dev/null
if [[ -s $work/complaints ]]; then cat "$work/complaints"; exit 1; fi
said_by_page() { # ARGUMENT... of the command
    "$prefix/bin/hakmem" "$@" | sed 's/^ *//; /^$/d' > "$work/said"
    while read -r line; do
        if ! grep -qF -e "$line" "$work/page"; then echo "not in the manual page: $line"; return 1; fi
    done < "$work/said"
    [[ -s $work/said ]]
}
said_by_page --help
said_by_page help variables
for name in run top map profile diff check metrics; do said_by_page "$name" --help; done

# pkg-config escapes the space of the prefix for a shell, so a shell has to read its answer. The compiler adds libc
# after it, which is to be shared again where the program is.
export PKG_CONFIG_PATH=$libdir/pkgconfig
by_pkg_config() { # OUTPUT COMPILER OPTION-OF-PKG-CONFIG ARGUMENT...
    local output=$1 compiler=$2 option=$3 libc=-Wl,-Bdynamic
    shift 3
    if [[ " $* " == *" -static "* ]]; then libc=; fi
    eval "$compiler -O2 -Wall -Wextra -Werror $(printf '%q ' "$@") -o $(printf %q "$output")" \
         "$(pkg-config ${option:+"$option"} --cflags --libs hakmem) $libc"
}

step "C, pkg-config, shared"
by_pkg_config "$work/c-shared" "$cc" "" "$consumer/c/main.c"
LD_LIBRARY_PATH=$libdir "$work/c-shared"

step "C, pkg-config --static, fully static"
by_pkg_config "$work/c-static" "$cc" --static -static "$consumer/c/main.c"
"$work/c-static"

step "C, pkg-config --static, fully static: a signal handler that frees"
by_pkg_config "$work/handler" "$cc" --static -static "$consumer/c/handler.c"
"$work/handler"

step "C++, pkg-config --static, fully static"
by_pkg_config "$work/cxx-static" "$cxx" --static -static "$consumer/cxx/main.cc"
"$work/cxx-static"

step "C, the archive behind other libraries"
"$cc" -O2 -shared -fPIC -fno-builtin -o "$work/libother.so" "$consumer/c/other.c"
by_pkg_config "$work/behind" "$cc" --static "$consumer/c/behind.c" "$work/libother.so" -Wl,-rpath,"$work" -Wl,-Bstatic
"$work/behind"

step "a plug-in that contains the archive, closed while its thread and the library's are there"
by_pkg_config "$work/plugin.so" "$cc" --static -shared -fPIC "$consumer/c/plugin.c" -Wl,-Bstatic
"$cc" -O2 -Wall -Wextra -Werror -pthread -o "$work/host" "$consumer/c/host.c"
"$work/host" "$work/plugin.so"

step "C++, pkg-config --static, fully static, by mold: the command finds its note"
by_pkg_config "$work/by-mold" "$cxx" --static -static -fuse-ld=mold "$consumer/cxx/main.cc"
"$work/by-mold"
cat > "$work/wait.c" << 'EOF'
#include <stdlib.h>
#include <unistd.h>
int main(void)
{
    free(malloc(100));
    if (write(1, "!", 1) == 1)
        sleep(60);
}
EOF
by_pkg_config "$work/wait-by-mold" "$cc" --static -static -fuse-ld=mold "$work/wait.c"
exec 3< <(exec "$work/wait-by-mold")
waiting=$!
read -r -n 1 -u 3
"$prefix/bin/hakmem" check "$waiting" || { kill "$waiting"; exit 1; }
kill "$waiting"

for target in hakmem::hakmem hakmem::hakmem-static; do
    step "C and C++, CMake, $target"
    build=$work/cmake-${target##*:}
    cmake -G Ninja -S "$consumer/cmake" -B "$build" -DCMAKE_PREFIX_PATH="$prefix" -DHAKMEM_TARGET=$target \
          -DCMAKE_C_COMPILER="$cc" -DCMAKE_CXX_COMPILER="$cxx" > "$work/cmake.log" || { cat "$work/cmake.log"; exit 1; }
    cmake --build "$build" > "$work/cmake.log" || { cat "$work/cmake.log"; exit 1; }
    "$build/consumer_c"
    "$build/consumer_cxx"
    "$build/consumer_behind"
done

step "C, CMake, add_subdirectory"
mkdir "$work/foreign"
cat > "$work/foreign/CMakeLists.txt" << EOF
cmake_minimum_required(VERSION 3.25)
project(foreign LANGUAGES C)
foreach(name IN ITEMS bench measure products recorder test tests)
    add_custom_target(\${name})
endforeach()
add_subdirectory("$HAKMEM_SOURCE_DIR" hakmem)
foreach(library IN ITEMS hakmem hakmem-static)
    add_executable(with-\${library} "$consumer/c/main.c")
    target_link_libraries(with-\${library} PRIVATE hakmem::\${library})
endforeach()
install(TARGETS with-hakmem)
EOF
cmake -G Ninja -S "$work/foreign" -B "$work/foreign/build" -DCMAKE_UNITY_BUILD=ON -DCMAKE_BUILD_TYPE=Debug -DCMAKE_C_COMPILER="$cc" \
      -DCMAKE_CXX_COMPILER="$cxx" > "$work/cmake.log" || { cat "$work/cmake.log"; exit 1; }
cmake --build "$work/foreign/build" > "$work/cmake.log" || { cat "$work/cmake.log"; exit 1; }
"$work/foreign/build/with-hakmem"
"$work/foreign/build/with-hakmem-static"
cmake --install "$work/foreign/build" --prefix "$work/foreign/prefix" > "$work/cmake.log"
if find "$work/foreign/prefix" -name '*hakmem.*' | grep .; then echo "hakmem was installed with another project"; exit 1; fi
echo "install: every consumer ran on hakmem"
