#!/bin/bash
# soak.sh - two minutes of tests/soak: 80 seconds in default mode, 40 in hardened mode.
# ctest: timeout 600
set -euo pipefail
source "$(dirname "$0")/_common.sh"

step "default mode"
"$HAKMEM_BUILD_DIR/soak" 80
step "hardened mode"
HAKMEM_SECURE=1 "$HAKMEM_BUILD_DIR/soak" 40
