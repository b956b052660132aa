#!/usr/bin/env python3
"""memory.py - what `make bench-memory` shows: how much memory a program keeps after it has let go of it.

Usage: memory.py

Every allocator runs the scenes of bench_memory (see there) in turns; hakmem a second time with purging switched off
(HAKMEM_PURGE_DELAY_MS=-1), which shows what it costs. Shown is the median of all rounds; of times the least.
  quiet    resident memory a second after all but every thousandth block was freed, over the least that is needed: the pages
           on which a block is left, the program's table, and what it had at the start
  emptied  MiB above start and table, a second after the rest was freed as well
  free     time of the freeing, over the same without purging
  patterns MiB above what is needed, PATTERN_WAIT_MS after each of 60 programs, drawn by lot, has fallen asleep; eight of them at a
           time, for nothing is timed
  sawtooth time of allocating, writing and freeing 64 MiB, once a period, over the same without purging, and the same as a
           part of the period; page faults
Environment: HAKMEM_BUILD_DIR, ROUNDS (default 5), SIDES, PEERS, as bench.py has them; OUT, a directory for memory.txt and
memory.json (default: the build directory).
Exit status: 1 when a run fails, 2 for bad arguments.
"""
import concurrent.futures
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys

import bench

RETURN = {
    "small, in order": "inorder 1 16 255 600",
    "small, random order": "random 1 16 255 600",
    "small, freed by the other of 2 threads": "other 2 16 255 600",
    "small, 8 threads that then sleep": "random 8 16 255 600",
    "small, 1,000 threads of 1 MiB that then sleep": "inorder 1000 16 255 1000",
    "1 KiB to 32 KiB, random order": "random 1 1024 32768 600",
    "1 KiB to 1 MiB, random order": "random 1 1024 1048576 600",
}
SAWTOOTH = {10: 100, 100: 20, 1000: 5, 3000: 3, 10000: 2}  # period in ms: cycles
PATTERNS = range(1, 61)
PATTERN_WAIT_MS = 4000
OFF = "no purging"


def one_run(build, side, arguments):
    environment = bench.program_environment()
    if side.preload:
        environment["LD_PRELOAD"] = side.preload
    if side.name == OFF:
        environment["HAKMEM_PURGE_DELAY_MS"] = "-1"
    run = subprocess.run([build / "bench_memory", *arguments.split()], env=environment, capture_output=True, text=True,
                         check=False)
    values = {name: float(value) for name, value in re.findall(r"(\w+)=([\d.]+)", run.stdout)}
    if run.returncode != 0 or "cannot be preloaded" in run.stderr or "faults" not in values:
        sys.exit(f"memory.py: {side.name}: bench_memory {arguments}: {run.stderr.strip() or run.returncode}")
    return values


def run_in_turns(build, sides, rounds, arguments):
    """The values of each side: of times the least, of all else the median."""
    values = {side.name: [] for side in sides}
    for number in range(rounds):
        turn = number % len(sides)
        for side in sides[turn:] + sides[:turn]:
            values[side.name].append(one_run(build, side, arguments))
    return {name: {key: (min if key.endswith("_s") else statistics.median)(run[key] for run in runs)
                   for key in runs[0]} for name, runs in values.items()}


def run_patterns(build, side):
    """MiB above what is needed, and how many times that is left, of each pattern."""
    def one(seed):
        values = one_run(build, side, f"patterns {seed} {PATTERN_WAIT_MS}")
        own = values["start"] + values["table"]
        return {"above_mib": (values["quiet"] - values["needed"]) / 1024,
                "ratio": (values["quiet"] - own) / max(values["needed"] - own, 1024)}
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        return list(pool.map(one, PATTERNS))


def main():
    if len(sys.argv) != 1:
        print(__doc__, file=sys.stderr)
        sys.exit(2)
    build = pathlib.Path(os.environ.get("HAKMEM_BUILD_DIR") or bench.HERE.parent / "build").resolve()
    out = pathlib.Path(os.environ.get("OUT") or build)
    out.mkdir(parents=True, exist_ok=True)
    rounds = bench.number_from("ROUNDS", "5")
    peers, missing = bench.find_sides(build)
    ours = [side for side in peers if side.name == "hakmem"]
    off = [bench.Side(OFF, side.preload) for side in ours]
    lines, everything = [], {"return": {}, "patterns": {}, "sawtooth": {}}

    def say(line=""):
        print(line, flush=True)
        lines.append(line)

    names = [side.name for side in peers]
    say(f"Resident memory, a second after the program let go of it: the median of {rounds} rounds in turns")
    say(f"{'quiet over needed':48}" + "".join(f"{name:>12}" for name in names))
    for title, arguments in RETURN.items():
        found = everything["return"][title] = run_in_turns(build, peers + off, rounds, f"return {arguments}")
        say(f"{title:48}" + "".join(f"{found[n]['quiet'] / found[n]['needed']:12.2f}" for n in names))
    say()
    say(f"{'emptied: MiB above start and table':48}" + "".join(f"{name:>12}" for name in names))
    for title, found in everything["return"].items():
        above = [(found[n]["emptied"] - found[n]["start"] - found[n]["table"]) / 1024 for n in names]
        say(f"{title:48}" + "".join(f"{mib:12.1f}" for mib in above))
    say()
    say(f"{f'{len(PATTERNS)} patterns: MiB above what is needed':48}" + "".join(f"{name:>12}" for name in names))
    for side in peers:
        everything["patterns"][side.name] = run_patterns(build, side)
    for title, of in {"mean": statistics.mean, "most": max}.items():
        found = [of(run["above_mib"] for run in everything["patterns"][n]) for n in names]
        say(f"{title:48}" + "".join(f"{mib:12.1f}" for mib in found))
    ratios = [statistics.geometric_mean(max(run["ratio"], 0.01) for run in everything["patterns"][n]) for n in names]
    say(f"{'times what is needed (1 MiB at least), mean':48}" + "".join(f"{ratio:12.2f}" for ratio in ratios))
    if ours:
        say()
        say("What purging costs hakmem: time of freeing over the same without purging")
        for title, found in everything["return"].items():
            say(f"{title:48}{found['hakmem']['free_s'] / found[OFF]['free_s']:12.2f}")
        say()
        say(f"{'Sawtooth of 64 MiB':48}{'time':>12}{'of period':>12}{'faults':>12}{'without':>12}")
        for period, cycles in SAWTOOTH.items():
            found = everything["sawtooth"][period] = run_in_turns(build, ours + off, rounds,
                                                                  f"sawtooth 64 {period} {cycles}")
            more_s = found["hakmem"]["work_s"] - found[OFF]["work_s"]
            total_s = max(period / 1000 * cycles, found[OFF]["work_s"])
            say(f"{f'period {period} ms':48}{found['hakmem']['work_s'] / found[OFF]['work_s']:12.2f}"
                f"{100 * more_s / total_s:10.1f} %{found['hakmem']['faults']:12.0f}{found[OFF]['faults']:12.0f}")
    for name, why in missing.items():
        say(f"{name}: not measured: {why}")
    (out / "memory.txt").write_text("\n".join(lines) + "\n")
    (out / "memory.json").write_text(json.dumps(everything, indent=1) + "\n")
    print(f"\nWritten: {out}/memory.txt, memory.json")


main()
