#!/bin/bash
# check_package.sh - makes the Debian packages and looks what is in them, by whom it may be used, and that it runs.
#
# Unpacked, not installed: the machine that runs the test stays as it is.
source "$(dirname "$0")/_common.sh"

step "cpack"
umask 022
cpack --config "$HAKMEM_BUILD_DIR/CPackConfig.cmake" -B "$work/made" > log 2>&1 || { cat log; fail "cpack"; }
version=$("$HAKMEM_BUILD_DIR/hakmem" --version | sed 's/^hakmem //')
machine=$(dpkg --print-architecture)
mkdir root
for name in libhakmem0 libhakmem-dev hakmem; do
    deb=$work/made/${name}_${version}_$machine.deb
    [[ -e $deb ]] || fail "no package $name of version $version"
    dpkg-deb -x "$deb" root
    dpkg-deb -f "$deb" Depends > "$name.depends"
done

step "what needs what"
# The library depends on libc alone.
grep -qx 'libc6 ([^,]*)' libhakmem0.depends || fail "libhakmem0 depends on: $(cat libhakmem0.depends)"
for name in libhakmem-dev hakmem; do
    grep -qF "libhakmem0 (= $version)" "$name.depends" || fail "$name depends on: $(cat $name.depends)"
done
grep -q 'libdw1' hakmem.depends || fail "what the command is linked with was not looked for: $(cat hakmem.depends)"

step "which file is where"
files_of() { dpkg-deb -c "$work/made/$1_${version}_$machine.deb" | awk '$1 !~ /^d/ { print $6 }' | sort; }
[[ $(files_of libhakmem0) == "./usr/lib/libhakmem.so.0"$'\n'"./usr/lib/libhakmem.so.$version" ]] ||
    fail "libhakmem0 has: $(files_of libhakmem0)"
[[ $(files_of hakmem) == "./usr/bin/hakmem"$'\n'"./usr/share/man/man1/hakmem.1" ]] || fail "hakmem has: $(files_of hakmem)"
for file in include/hakmem/hakmem.h lib/libhakmem.so lib/libhakmem.a lib/pkgconfig/hakmem.pc; do
    files_of libhakmem-dev | grep -qxF "./usr/$file" || fail "libhakmem-dev has no $file"
done
# Two packages with one file cannot both be installed.
[[ -z $({ files_of libhakmem0; files_of libhakmem-dev; files_of hakmem; } | sort | uniq -d) ]] || fail "a file is in two packages"
dpkg-deb -I "$work/made/libhakmem0_${version}_$machine.deb" postinst | grep -q ldconfig || fail "ldconfig is not run"

step "it runs"
root/usr/bin/hakmem run --stats -- python3 -c 'print("works")' > out 2> stats
[[ $(cat out) == works ]] || fail "the program wrote: $(cat out)"
grep -q "^hakmem $version, " stats || fail "no statistics: $(cat stats)"
