#!/usr/bin/env python3
"""latency.py - what `make bench-latency` shows: how long single calls of malloc and free take, at the median and in the tail.

Usage: latency.py

Every allocator runs `bench_workloads latency` (random sizes to 2 KiB, a working set of 10,000 blocks, each call between two
readings of the time stamp counter, whose own cost is subtracted) in turns. Shown is the least of all rounds of each
percentile, in cycles: what the machine's other users add only makes it larger.
Environment: HAKMEM_BUILD_DIR, ROUNDS (default 5), SIDES, PEERS, as bench.py has them.
Exit status: 1 when a run fails, 2 for bad arguments.
"""
import os
import pathlib
import re
import subprocess
import sys

import bench

COLUMNS = [f"{call}_{part}" for call in ("malloc", "free") for part in ("p50", "p99", "p999")]


def one_run(program, side):
    environment = bench.program_environment()
    if side.preload:
        environment["LD_PRELOAD"] = side.preload
    run = subprocess.run([program, "latency"], env=environment, capture_output=True, text=True, check=False)
    if run.returncode != 0 or "cannot be preloaded" in run.stderr:
        sys.exit(f"latency.py: {side.name} failed: {run.stderr.strip() or run.returncode}")
    values = {name: int(value) for name, value in re.findall(r"(\w+_p\d+)=(\d+)", run.stdout)}
    if sorted(values) != sorted(COLUMNS):
        sys.exit(f"latency.py: {side.name} printed something else than percentiles: {run.stdout.strip()}")
    return values


def main():
    if len(sys.argv) != 1:
        print(__doc__, file=sys.stderr)
        sys.exit(2)
    build = pathlib.Path(os.environ.get("HAKMEM_BUILD_DIR", bench.HERE.parent / "build"))
    sides, missing = bench.find_sides(build)
    rounds = bench.number_from("ROUNDS", "5")
    best = {side.name: dict.fromkeys(COLUMNS) for side in sides}
    for number in range(rounds):
        turn = number % len(sides)
        for side in sides[turn:] + sides[:turn]:
            for name, value in one_run(build / "bench_workloads", side).items():
                known = best[side.name][name]
                best[side.name][name] = value if known is None else min(known, value)
    print(f"Cycles, the least of {rounds} rounds in turns")
    print(f"{'':12}" + "".join(f"{name.replace('_', ' '):>13}" for name in COLUMNS))
    for side in sides:
        print(f"{side.name:12}" + "".join(f"{best[side.name][name]:13}" for name in COLUMNS))
    for name, why in missing.items():
        print(f"{name}: not measured: {why}")


main()
