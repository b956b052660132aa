#!/bin/bash
# profile_browser.sh - the flame graphs of `hakmem profile` in a browser, page and image: headless Chromium hovers, clicks, searches,
# changes the amount, and uses the keyboard; names that would be markup stay text. See _profile_browser.py.
# ctest: timeout 300
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/_common.sh"
source "$(dirname "${BASH_SOURCE[0]}")/_profile.sh"
require python3 chromium chromedriver

step "a profile whose sums are known, and whose names are not kind"
# No file of it exists, so names are those of files, and places in them.
cat > heap.dump << 'END'
heap profile: 1100: 1000000 [3100: 4000000] @ heapprofile
# module 1000-9000 1000 aa 
# module 20000-30000 20000 bb /nowhere/]]><img src=x onerror=alert(1)>&"'.so
# module 40000-50000 40000 cc /nowhere/plain.so
500: 600000 [1500: 1600000] @ 0x20101 0x1501 0x1201
300: 300000 [300: 300000] @ 0x40101 0x20201 0x1501 0x1201
299: 99000 [299: 99000] @ 0x40201 0x1601 0x1201
1: 1000 [1: 1000] @ 0x40301 0x1201
0: 0 [1000: 2000000] @ 0x40401 0x1601 0x1201
# hakmem 0.1.0 pid=77 interval_bytes=524288 seconds=12.500 samples=99 dropped=0 time=1700000000

MAPPED_LIBRARIES:
1000-2000 r-xp 00000000 fe:00 5  /nowhere/prog
END
for format in html svg; do
    "$hakmem" profile heap.dump -o heap.$format 2> err
    [[ $(wc -l < err) -eq 3 ]] || fail "three files are not there: $(cat err)"
done
if grep -q '<img' heap.html heap.svg; then fail "a name is markup"; fi
if grep -Eo '(https?:)?//[a-z0-9.-]+' heap.html heap.svg | grep -vE '//(www\.w3\.org|nowhere)$'; then fail "the page names a server"; fi

step "in a browser"
python3 "$HAKMEM_SOURCE_DIR/tests/scripts/_profile_browser.py" heap.html heap.svg || fail "the pages do not do what they should"
