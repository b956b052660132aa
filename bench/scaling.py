#!/usr/bin/env python3
"""scaling.py - what `make bench-scaling` shows: operations per second as threads are added, of hakmem, glibc and the peers.

Usage: scaling.py                         run; write a table, a JSON file and a picture
       scaling.py --redraw scaling.json   the table and the picture again, from the measurements of an earlier run

Every allocator runs `bench_threads PATTERN N` with N = 1, 2, 4 ... threads, up to the number of processors; each thread does
the same work. They take turns, and each round starts with another one. Shown is the best of all rounds. The picture
needs gnuplot; without it there is none.
Output:      OUT/scaling.txt, scaling.json, and scaling.svg and .png.
Exit status: 1 when a run of hakmem failed, 2 for bad arguments, else 0. A peer that fails is reported, and not asked again
             for that pattern.
Environment: HAKMEM_BUILD_DIR, OUT, ROUNDS (default 5), SIDES, PEERS, as bench.py has them
             ONLY         the patterns; default all
             THREADS      "1 2 4 8": the numbers of threads
             WORK         the work of each thread in per cent, default 100
"""
import json
import os
import pathlib
import subprocess
import sys

import bench

PATTERNS = {
    "own": "nothing shared",
    "hand_on": "working sets change hands",
    "exchange": "one block of 16 freed by another",
    "pass_lists": "all blocks freed by another",
    "grow_and_shrink": "heaps grow and shrink",
    "large": "40 to 512 KiB",
    "short_lives": "threads of 100 blocks",
}
LIMIT_S = 120


def numbers_of_threads():
    words = os.environ.get("THREADS", "").split()
    if any(not word.isascii() or not word.isdigit() or not 1 <= int(word) <= 512 for word in words):
        bench.die("THREADS: numbers from 1 to 512")
    if words:
        return [int(word) for word in words]
    n_cpus, numbers = len(os.sched_getaffinity(0)), [1]
    while numbers[-1] * 2 <= n_cpus:
        numbers.append(numbers[-1] * 2)
    return numbers


def one_run(build, side, pattern, threads, work):
    """(operations per second, None) or (None, why)."""
    environment = bench.program_environment()
    if side.preload:
        environment["LD_PRELOAD"] = side.preload
    command = [build / "bench_threads", pattern, str(threads), str(work)]
    try:
        run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        return None, f"hung (no result in {LIMIT_S} s)"
    if "cannot be preloaded" in run.stderr:
        return None, "not loaded"
    if run.returncode != 0:
        return None, f"status {run.returncode} {run.stderr.strip()[-160:]}"
    ops, elapsed_s = bench.value_of("ops", run.stdout), bench.value_of("elapsed_s", run.stdout)
    return int(ops) / float(elapsed_s), None


def measure(build, sides, patterns, threads, rounds, work):
    best, failures = {}, {}
    for number in range(rounds):
        for pattern in patterns:
            for n in threads:
                if pattern == "pass_lists" and n % 2 != 0:
                    continue
                turn = number % len(sides)
                for side in sides[turn:] + sides[:turn]:
                    if f"{pattern} {side.name}" in failures:
                        continue
                    speed, why = one_run(build, side, pattern, n, work)
                    if why:
                        failures[f"{pattern} {side.name}"] = f"{n} threads: {why}"
                        continue
                    places = best.setdefault(pattern, {}).setdefault(side.name, {})
                    places[str(n)] = max(speed, places.get(str(n), 0))
            print(f"\rround {number + 1} of {rounds}: {pattern:20}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return best, failures


def text_of(document):
    threads = document["threads"]
    yield f"Million operations per second, the best of {document['rounds']} rounds in turns; {document['machine']}"
    for pattern, sides in document["best"].items():
        yield f"\n{pattern}: {PATTERNS[pattern]}"
        shown = [n for n in threads if any(str(n) in speeds for speeds in sides.values())]
        yield f"{'threads':12}" + "".join(f"{n:10}" for n in shown) + f"{'scaling':>10}"
        for side in document["sides"]:
            if side not in sides:
                continue
            speeds = [sides[side].get(str(n)) for n in shown]
            line = "".join(f"{speed / 1e6:10.1f}" if speed else f"{'-':>10}" for speed in speeds)
            if len(shown) > 1 and speeds[0] and speeds[-1]:
                line += f"{speeds[-1] / speeds[0] / (shown[-1] / shown[0]):10.2f}"
            yield f"{side:12}" + line
    yield "\nscaling: the speed-up from the fewest to the most threads, over the ideal one"
    for place, why in document["failures"].items():
        yield f"failed: {place}: {why}"


def draw(document, out):
    """One small picture a pattern, all sides in each."""
    if not bench.ready_to_draw(out, "scaling"):
        return
    patterns, threads = list(document["best"]), document["threads"]
    n_rows = (len(patterns) + 3) // 4
    peers = iter(bench.PEER_STYLES * len(document["sides"]))
    styles = {side: bench.HAKMEM_STYLE.replace("ps 1.9", "ps 0.9 lw 2.4") if side == "hakmem" else next(peers)
              for side in document["sides"]}
    script = []
    for i, pattern in enumerate(patterns):
        for k, side in enumerate(document["sides"]):
            speeds = document["best"][pattern].get(side, {})
            script += bench.data_block(f"d{i}_{k}", [f"{n} {speeds[str(n)] / 1e6}" for n in threads if str(n) in speeds])
    script += [f"set multiplot layout {n_rows},4 title {bench.quoted('Million operations per second by threads; ' + document['machine'])}",
               "set logscale x 2", f"set xrange [{threads[0] * 0.9}:{threads[-1] * 1.1}]", "set yrange [0:*]",
               "set key off", "set grid lc rgb '#dddddd'", "set tics font ',10'"]
    for i, pattern in enumerate(patterns):
        script.append(f"set title {bench.quoted(pattern + ': ' + PATTERNS[pattern])} font ',11'")
        script.append("plot " + ", ".join(f"$d{i}_{k} with linespoints {styles[side]} title {bench.quoted(side)}"
                                          for k, side in enumerate(document["sides"])))
    script += ["unset title", "unset tics", "unset border", "unset grid", "unset logscale", "set key on center center vertical",
               "set xrange [0:1]", "set yrange [0:1]",
               "plot " + ", ".join(f"-1 with linespoints {styles[side]} title {bench.quoted(side)}"
                                   for side in document["sides"]),
               "unset multiplot"]
    bench.draw(script, (1300, 330 * n_rows + 40), out / "scaling")


def show(document, out):
    out.mkdir(parents=True, exist_ok=True)
    text = "\n".join(text_of(document)) + "\n"
    (out / "scaling.txt").write_text(text)
    (out / "scaling.json").write_text(json.dumps(document, indent=1) + "\n")
    print(text, end="")
    draw(document, out)


def main():
    build = pathlib.Path(os.environ.get("HAKMEM_BUILD_DIR") or bench.HERE.parent / "build").resolve()
    out = pathlib.Path(os.environ.get("OUT") or build / "bench-results").resolve()
    if len(sys.argv) == 3 and sys.argv[1] == "--redraw":
        show(json.loads(pathlib.Path(sys.argv[2]).read_text()), out)
        return
    if len(sys.argv) != 1:
        print(__doc__, file=sys.stderr)
        sys.exit(2)
    patterns = os.environ.get("ONLY", "").split() or list(PATTERNS)
    for pattern in patterns:
        if pattern not in PATTERNS:
            bench.die(f"ONLY: no pattern is called {pattern}; there are {' '.join(PATTERNS)}")
    if not (build / "bench_threads").exists():
        bench.die(f"{build / 'bench_threads'} is missing: build first (make), or set HAKMEM_BUILD_DIR")
    sides, missing = bench.find_sides(build)
    threads, rounds = numbers_of_threads(), bench.number_from("ROUNDS", "5")
    best, failures = measure(build, sides, patterns, threads, rounds, bench.number_from("WORK", "100"))
    failures |= {name: why for name, why in missing.items()}
    machine = f"{bench.describe_machine()['cpu']}, {len(os.sched_getaffinity(0))} processors"
    show({"machine": machine, "rounds": rounds, "threads": threads, "sides": [side.name for side in sides],
          "best": best, "failures": failures}, out)
    sys.exit(1 if any(place.endswith(" hakmem") for place in failures) else 0)


main()
