#!/usr/bin/env python3
"""longlife.py - the second half of `make bench-memory`: what a server's memory does in a long life, made short.

Usage: longlife.py                          run the scenes; write a table, a JSON file and pictures
       longlife.py --redraw longlife.json   the table and the pictures again, from the samples of an earlier run

Every allocator is preloaded into the same programs, one after another, and memory is looked at each 100 ms. Scenes:
  cache   bench_longlife cache: a cache with a budget of bytes, whose values' sizes drift (four times the same way)
  phases  bench_longlife phases: 100 phases of parsing, indexing and serving, which leave the same bytes live, and rest
  redis   redis-server gets 400,000 keys with values of 100 to 1000 bytes, and loses 90 % of them at random, by DEL;
          then nobody asks it for anything for ten seconds. Live are the bytes of the keys and values that it has; the
          server's own tables and headers, some 90 bytes a key, come on top for every allocator alike.
All resident memory is above what the process had before the scene began. In the table:
  median, worst  resident over live bytes. phases: at the end of each phase's rest. cache: at all samples but those of
                 the first cycle of sizes. redis: at all samples of the ten seconds but those of the first
  drift          phases: the mean of the last 9 phases over the mean of the phases 11 to 19 (each kind thrice in both).
                 cache: the mean of the last cycle of sizes over the mean of the second
  peak, last     MiB resident: the most at any sample, and at the last one
  needed         the pages on which a block is left, over live bytes, at the last look. What is resident above that
                 could go back; the rest is how the allocator scattered the blocks
  CPU s, faults  processor time and page faults of the program
Output:      OUT/longlife.txt, longlife.json; OUT/longlife-cache, -phases, -redis, and -tiers (hakmem's SuperSlabs in
             `phases`), each as .svg and .png, by gnuplot.
Exit status: 1 when hakmem failed in a scene, 2 for bad arguments. A peer that fails, and a missing redis-server, are
             only reported.
Environment: HAKMEM_BUILD_DIR, SIDES, PEERS, as bench.py has them; OUT, default the build directory
             SECONDS  of cache and of phases for each allocator, default 60, 10 to 3600; below 40 the rests in phases
                      are shorter than hakmem's delay of 250 ms
             ONLY     the scenes, as shell patterns; default all
"""
import argparse
import contextlib
import fnmatch
import json
import os
import pathlib
import random
import re
import resource
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import types

import bench

SCENES = ("cache", "phases", "redis")
N_CYCLES = 4  # of sizes in `cache`
REDIS_KEYS, REDIS_KEPT_PART, REDIS_BATCH = 400_000, 0.1, 500
REDIS_FILL_S, REDIS_DELETE_S, REDIS_QUIET_S = 5, 3, 10  # evenly spread, so that the allocators' curves lie together
SAMPLE_S = 0.1
COLUMNS = ["t_ms", "live_bytes", "rss_bytes", "label", "needed_bytes"]

# ---- One run: {"columns", "samples": rows, "cpu_s", "faults"} --------------------------------------------------------


def run_program(build, side, scene, seconds, scratch):
    stderr = scratch / "stderr"
    with open(stderr, "wb") as errors, \
            bench.started([build / "bench_longlife", scene, str(seconds)], env={"LD_PRELOAD": side.preload},
                          stdout=subprocess.PIPE, stderr=errors, text=True) as process:
        try:
            output, _ = process.communicate(timeout=4 * seconds + 60)
        except subprocess.TimeoutExpired:
            raise bench.Failed(f"hung (no result in {4 * seconds + 60} s)") from None
    bench.check_loaded(stderr)
    if process.returncode != 0:
        raise bench.Failed(f"status {process.returncode}" + bench.last_line(stderr))
    run = {name: float(value) for name, value in re.findall(r"(\w+)=([\d.]+)", output)}
    run["columns"] = re.search(r"^# columns: (.*)$", output, re.MULTILINE).group(1).split()
    run["samples"] = [[int(word) if word.isdigit() else word for word in line.split()]
                      for line in output.splitlines() if not line.startswith("#")]
    if side.name == "hakmem" and "hak_superslabs_hot" not in run["columns"]:
        raise bench.Failed("served by another allocator")
    return run


def request(*words):
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)


class Redis:
    """A server, the connection to it, and the samples of its memory."""

    def __init__(self, server, path):
        self.server, self.live_bytes, self.samples = server, 0, []
        self.connection = socket.socket(socket.AF_UNIX)
        self.connection.settimeout(60)
        self.connection.connect(path)
        self.base_bytes, self.start_s, self.next_s = self.resident_bytes(), 0.0, 0.0

    def resident_bytes(self):
        with contextlib.suppress(OSError):
            status = pathlib.Path(f"/proc/{self.server.pid}/status").read_text()
            if "VmRSS:" in status:
                return int(re.search(r"VmRSS:\s+(\d+)", status).group(1)) * 1024
        bench.check_server(self.server.wait(10))
        raise bench.Failed("the server ended")

    def sample(self, label):
        """Takes one when it is time for one."""
        now_s = time.monotonic() - self.start_s
        if now_s >= self.next_s:
            above_base_bytes = max(self.resident_bytes() - self.base_bytes, 0)
            self.samples.append([round(now_s * 1000), self.live_bytes, above_base_bytes, label, 0])
            while self.next_s <= now_s:
                self.next_s += SAMPLE_S

    def wait_until(self, when_s, label):
        """Seconds since the start; samples meanwhile."""
        while (left_s := self.start_s + when_s - time.monotonic()) > 0:
            time.sleep(min(left_s, 0.02))
            self.sample(label)
        self.sample(label)

    def ask(self, requests, n_bytes):
        """Sends the requests at once and waits for answers of so many bytes in all."""
        try:
            self.connection.sendall(b"".join(requests))
            answer = bytearray()
            while len(answer) < n_bytes and (got := self.connection.recv(1 << 16)):
                answer += got
        except OSError as error:
            raise bench.Failed(f"the server does not answer: {error}") from None
        if len(answer) != n_bytes or answer.startswith(b"-"):
            raise bench.Failed(f"the server answered {bytes(answer[:60])!r}")

    def fill_and_empty(self):
        numbers = random.Random(1)
        text = numbers.randbytes(4096)
        lengths = [numbers.randint(100, 1000) for _ in range(REDIS_KEYS)]
        keys = [b"key:%d:%08x" % (i, numbers.getrandbits(32)) for i in range(REDIS_KEYS)]
        gone = numbers.sample(range(REDIS_KEYS), round(REDIS_KEYS * (1 - REDIS_KEPT_PART)))
        self.start_s = time.monotonic()
        for i in range(0, REDIS_KEYS, REDIS_BATCH):
            batch = range(i, min(i + REDIS_BATCH, REDIS_KEYS))
            self.ask([request(b"SET", keys[k], text[k % 3000:k % 3000 + lengths[k]]) for k in batch],
                     len(b"+OK\r\n") * len(batch))
            self.live_bytes += sum(len(keys[k]) + lengths[k] for k in batch)
            self.wait_until(REDIS_FILL_S * batch.stop / REDIS_KEYS, "fill")
        start_s = time.monotonic() - self.start_s
        for i in range(0, len(gone), REDIS_BATCH):
            batch = gone[i:i + REDIS_BATCH]
            self.ask([request(b"DEL", keys[k]) for k in batch], len(b":1\r\n") * len(batch))
            self.live_bytes -= sum(len(keys[k]) + lengths[k] for k in batch)
            self.wait_until(start_s + REDIS_DELETE_S * (i + len(batch)) / len(gone), "delete")
        start_s = time.monotonic() - self.start_s
        self.wait_until(start_s + 1, "quiet")
        self.wait_until(start_s + REDIS_QUIET_S, "rested")


def run_redis(side, scratch):
    stderr = scratch / "stderr"
    with tempfile.TemporaryDirectory(prefix="hakmem-bench-") as directory, open(stderr, "wb") as log:
        path = directory + "/redis.sock"
        command = ["redis-server", "--port", "0", "--unixsocket", path, "--save", "", "--appendonly", "no", "--dir",
                   directory]
        with bench.started(command, env={"LD_PRELOAD": bench.redis_preload(side)}, stdout=log, stderr=log) as server:
            bench.wait_for_redis(server, path)
            bench.check_mapped(server, side)
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            redis = Redis(server, path)
            redis.fill_and_empty()
            bench.redis_says(path, b"SHUTDOWN NOSAVE\r\n")
            bench.check_server(bench.wait_for(server, 20))
    bench.check_loaded(stderr)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {"columns": COLUMNS, "samples": redis.samples, "faults": after.ru_minflt - before.ru_minflt,
            "cpu_s": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime}


def run_all(build, scenes, sides, seconds):
    runs = {}
    with tempfile.TemporaryDirectory(prefix="hakmem-longlife-") as scratch:
        for scene in scenes:
            runs[scene] = {}
            for side in sides:
                print(f"{scene}: {side.name}", file=sys.stderr, flush=True)
                try:
                    if scene == "redis":
                        runs[scene][side.name] = run_redis(side, pathlib.Path(scratch))
                    else:
                        runs[scene][side.name] = run_program(build, side, scene, seconds, pathlib.Path(scratch))
                except bench.Failed as reason:
                    runs[scene][side.name] = {"failure": str(reason)}
    return runs


# ---- What follows from a run -----------------------------------------------------------------------------------------


def column(run, name, labels=None):
    """One column of all samples, or of those with these labels."""
    where, label = run["columns"].index(name), run["columns"].index("label")
    return [row[where] for row in run["samples"] if labels is None or row[label] in labels]


def ratios(run, labels=None):
    rss, live = column(run, "rss_bytes", labels), column(run, "live_bytes", labels)
    return [above / below for above, below in zip(rss, live) if below > 0]


def summarize(scene, run):
    """The table's figures; None where there is none."""
    if "failure" in run:
        return {"failure": run["failure"]}
    drift = None
    if scene == "phases":
        shown = ratios(run, ("rested",))
        drift = statistics.mean(shown[-9:]) / statistics.mean(shown[10:19])
    elif scene == "cache":
        every = ratios(run)
        cycle = [every[len(every) * i // N_CYCLES:len(every) * (i + 1) // N_CYCLES] for i in range(N_CYCLES)]
        shown = every[len(cycle[0]):]
        drift = statistics.mean(cycle[-1]) / statistics.mean(cycle[1])
    else:
        shown = ratios(run, ("rested",))
    rss, live, needed = (column(run, name + "_bytes") for name in ("rss", "live", "needed"))
    return {"median": statistics.median(shown), "worst": max(shown), "drift": drift, "peak": max(rss) / 2**20,
            "last": rss[-1] / 2**20, "needed": needed[-1] / live[-1] if needed[-1] else None, "CPU s": run["cpu_s"],
            "faults": run["faults"]}


FORMATS = {"median": ".2f", "worst": ".2f", "drift": ".2f", "peak": ".1f", "last": ".1f", "needed": ".2f",
           "CPU s": ".1f", "faults": ".0f"}


def text_of(document):
    machine = document["machine"]
    yield f"{machine['cpu']}, {machine['n_cpus']} CPUs, Linux {machine['kernel']}, {machine['date']}"
    yield f"{document['seconds']} s for cache and for phases. Resident over live bytes; peak and last in MiB"
    for scene, sides in document["runs"].items():
        yield ""
        summaries = {side: summarize(scene, run) for side, run in sides.items()}
        lines = [[scene, *FORMATS, ""]]
        lines += [[side, *("-" if found[name] is None else format(found[name], FORMATS[name]) for name in FORMATS), ""]
                  for side, found in summaries.items() if "failure" not in found]
        yield from bench.aligned(lines)
        yield from (f"{side}: failed: {found['failure']}" for side, found in summaries.items() if "failure" in found)
    yield from (f"{name}: not measured: {why}" for name, why in document["missing"].items())


# ---- Pictures --------------------------------------------------------------------------------------------------------

TITLES = {"cache": "A cache whose values’ sizes drift: resident memory",
          "phases": "100 phases of a server’s life: resident memory at the end of each phase’s rest",
          "redis": "redis loses 90 % of its keys: resident memory"}
LIVE_STYLE = "lw 2 dt 2 lc rgb 'black'"
TIERS = {"hak_superslabs_hot": ("HOT", "lc rgb '#e8433f'"), "hak_superslabs_draining": ("DRAINING", "lc rgb '#1f77b4'"),
         "hak_superslabs_cached": ("cached", "lc rgb '#999999'")}


def axes(title, y_title, runs):
    end_s = max(column(run, "t_ms")[-1] for run in runs) / 1000
    return [f"set title {bench.quoted(title)}", "set xlabel 'seconds'", f"set ylabel '{y_title}'", "set yrange [0:]",
            f"set xrange [0:{end_s}]", "set key outside right top vertical Left reverse samplen 2",
            "set grid lt 1 lc rgb '#dddddd'", "set border 3 lc rgb '#888888'",
            "set tics nomirror textcolor rgb 'black'"]


def curve_points(run, name, labels, scale):
    points = zip(column(run, "t_ms", labels), column(run, name, labels))
    return [f"{t / 1000:.2f} {value / scale:.3f}" for t, value in points]


def memory_script(scene, runs):
    """One curve per allocator; hakmem's is drawn last, above the others. The key names what is drawn last first."""
    labels = ("rested",) if scene == "phases" else None
    styles = bench.styles(types.SimpleNamespace(sides=list(runs)))
    script = [*axes(TITLES[scene], "MiB", runs.values()), "set key invert"]
    script += bench.data_block("live", curve_points(next(iter(runs.values())), "live_bytes", labels, 2**20))
    plots = [f"$live with lines {LIVE_STYLE} title 'live bytes'"]
    for i, side in enumerate(sorted(reversed(runs), key=lambda name: name == "hakmem")):
        color = styles[side][styles[side].index("lc "):]
        script += bench.data_block(f"side{i}", curve_points(runs[side], "rss_bytes", labels, 2**20))
        plots.append(f"$side{i} with lines lw {2.5 if side == 'hakmem' else 1.5} {color} title {bench.quoted(side)}")
    return script + ["plot " + ", ".join(plots)], (1000, 500)


def tiers_script(run):
    script, plots = axes("phases: hakmem’s SuperSlabs of 2 MiB by tier", "SuperSlabs", [run]), []
    for name, (title, color) in TIERS.items():
        script += bench.data_block(title, curve_points(run, name, None, 1))
        plots.append(f"${title} with lines lw 1.5 {color} title '{title}'")
    return script + ["plot " + ", ".join(plots)], (1000, 400)


def draw_all(document, out):
    if not bench.ready_to_draw(out, "longlife"):
        return
    for scene, sides in document["runs"].items():
        good = {side: run for side, run in sides.items() if "failure" not in run}
        if good:
            bench.draw(*memory_script(scene, good), out / f"longlife-{scene}")
        if scene == "phases" and "hakmem" in good:
            bench.draw(*tiers_script(good["hakmem"]), out / "longlife-tiers")


# ---- Main ------------------------------------------------------------------------------------------------------------


def write_all(document, out):
    text = "\n".join(text_of(document)) + "\n"
    (out / "longlife.txt").write_text(text)
    print(text, end="")
    draw_all(document, out)
    print(f"\nin {out}: {' '.join(sorted(file.name for file in out.glob('longlife*') if file.is_file()))}")


def wanted_scenes():
    patterns = os.environ.get("ONLY", "").split() or ["*"]
    for pattern in patterns:
        if not fnmatch.filter(SCENES, pattern):
            bench.die(f"ONLY: no scene is called {pattern}; there are {' '.join(SCENES)}")
    return [scene for scene in SCENES if any(fnmatch.fnmatchcase(scene, pattern) for pattern in patterns)]


def measure(out):
    build = pathlib.Path(os.environ.get("HAKMEM_BUILD_DIR") or bench.HERE.parent / "build").resolve()
    for file in build / "libhakmem.so", build / "bench_longlife":
        if not file.exists():
            bench.die(f"{file} is missing: build first (make), or set HAKMEM_BUILD_DIR")
    scenes, seconds = wanted_scenes(), bench.number_from("SECONDS", "60")
    if not 10 <= seconds <= 3600:
        bench.die(f"SECONDS is 10 to 3600, not {seconds}")
    sides, missing = bench.find_sides(build)
    if "redis" in scenes and not shutil.which("redis-server"):
        scenes.remove("redis")
        missing["redis"] = "no redis-server installed"
    document = {"machine": bench.describe_machine(), "seconds": seconds, "missing": missing,
                "runs": run_all(build, scenes, sides, seconds)}
    document["summary"] = {scene: {side: summarize(scene, run) for side, run in runs.items()}
                           for scene, runs in document["runs"].items()}
    (out / "longlife.json").write_text(json.dumps(document) + "\n")
    return document


def main():
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that it too ends the programs that run
    arguments = argparse.ArgumentParser(description="A server's memory over time; longlife.py's head says more.")
    arguments.add_argument("--redraw", metavar="longlife.json", type=pathlib.Path, help="draw an earlier run again")
    chosen = arguments.parse_args()
    default = os.environ.get("HAKMEM_BUILD_DIR") or bench.HERE.parent / "build"
    if chosen.redraw:
        default = chosen.redraw.resolve().parent
    out = pathlib.Path(os.environ.get("OUT") or default).resolve()
    out.mkdir(parents=True, exist_ok=True)
    document = json.loads(chosen.redraw.read_text()) if chosen.redraw else measure(out)
    write_all(document, out)
    return 1 if any("failure" in runs.get("hakmem", {}) for runs in document["runs"].values()) else 0


if __name__ == "__main__":
    sys.exit(main())
