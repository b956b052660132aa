#!/bin/bash
# fuzz_short.sh - every input of the fuzzer's corpus and every finding of the past is run once more, in default mode and in
# hardened modes, with sampled blocks, and under a heap profile.
set -euo pipefail
source "$(dirname "$0")/_common.sh"

replay=$HAKMEM_BUILD_DIR/tests/fuzz_replay
inputs=$HAKMEM_SOURCE_DIR/tests/fuzz
[[ $(ls "$inputs/corpus" | wc -l) -ge 100 ]] || fail "the corpus is missing"

step "default mode"
"$replay" "$inputs"/regressions/* "$inputs"/corpus/*
for mode in canary canary,zero,guard 1; do
    step "HAKMEM_SECURE=$mode"
    HAKMEM_SECURE=$mode "$replay" "$inputs"/regressions/* "$inputs"/corpus/*
done
step "HAKMEM_GUARD_SAMPLE=3"
HAKMEM_GUARD_SAMPLE=3 "$replay" "$inputs"/regressions/* "$inputs"/corpus/*
for interval in 1 4K; do
    step "HAKMEM_PROFILE, $interval"
    HAKMEM_PROFILE=/dev/null HAKMEM_PROFILE_INTERVAL=$interval "$replay" "$inputs"/regressions/* "$inputs"/corpus/*
done
