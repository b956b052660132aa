#!/bin/bash
# file_pages.sh - what few programs run of the library's file does not get into the memory of others: cmake/order.ld.
#
#   S1  the rare functions lie in a segment of their own, and all that hits are made of in the first
#   S2  a program that allocates, frees, starts threads and ends them has no page of the rare ones in memory
#   S3  it has when it runs one of them: S2 would see it
#   S4  no code of libgcc's that asks for the kind of processor: it would run in every process, before main, and each CPUID
#       costs a virtual machine some microseconds
#   S5  what a small program runs lies in the first 64 KiB of the file
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/_common.sh"
require readelf nm awk /usr/bin/python3.11

readelf -lW "$HAKMEM_LIB" > segments
grep -q hakmem_rare segments || { echo "the linker took no order: nothing to look at"; exit 77; }

step "S1: segments"
cat segments
segment_of() { awk -v name="$1" '$1 ~ /^[0-9]+$/ { for (i = 2; i <= NF; i++) if ($i == name) { print $1 + 0; exit } }' segments; }
[[ $(segment_of .text) == 0 && $(segment_of hakmem_hits) == 0 ]] || fail "ordinary functions are not in the first segment"
rare=$(segment_of hakmem_rare)
[[ $rare -gt 0 && $rare == $(segment_of .eh_frame) ]] || fail "the rare ones are not in a segment of their own"

cat > touch.py << 'EOF'
import ctypes, threading, sys
def work():
    kept = [bytearray(n * 12) for n in range(400)]
    del kept[::2]
    kept += [bytearray(100000) for n in range(5)]
work()
thread = threading.Thread(target=work)
thread.start()
thread.join()
if len(sys.argv) > 1:
    ctypes.CDLL(None).malloc_trim(0)
resident, rare = [], False
for line in open("/proc/self/smaps"):
    word = line.split()
    if not word[0].endswith(":"):  # a mapping: the library's code that does not begin the file
        rare = "/libhakmem.so" in line and word[1] == "r-xp" and int(word[2], 16) != 0
    elif rare and word[0] == "Rss:":
        resident.append(int(word[1]))
print(sum(resident) if resident else "no such mapping")
EOF
step "S2: a program that runs none of them"
# No variable is set, for it would be parsed; and so little is idle that no tick is due.
resident=$(on_hakmem /usr/bin/python3.11 -S touch.py)
[[ $resident == 0 ]] || fail "KiB of rare functions in memory: $resident"

step "S3: a program that runs one"
resident=$(on_hakmem /usr/bin/python3.11 -S touch.py trim)
[[ $resident -gt 0 ]] || fail "none is in memory after a trim: $resident"
echo "$resident KiB after a trim"

step "S4: no constructor of libgcc's"
nm "$HAKMEM_LIB" > symbols
grep -q ' front_claim_slow$' symbols || fail "the library has no symbols to look at"
! grep __cpu_ symbols || fail "these come with __builtin_cpu_supports"

step "S5: a small program"
for name in on_load thread_start_process thread_enter_first harden_answers arena_create_for front_claim_slow claim_class slab_claim \
    front_return_slow malloc free calloc realloc; do
    address=$(awk -v name="$name" '$3 == name { print $1; exit }' symbols)
    [[ -n $address ]] || fail "no symbol $name"
    ((16#$address < 65536)) || fail "$name lies at 0x$address"
done
