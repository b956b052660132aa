#!/usr/bin/env python3
"""bench.py - what `make bench` shows: many workloads on hakmem, on glibc and on the peers found here.

Usage: bench.py                      run the workloads; write a table, a JSON file and pictures
       bench.py --redraw bench.json  the table and the pictures again, from the measurements of an earlier run

Every allocator serves the same programs, by LD_PRELOAD. They take turns, and each round starts with another one, so
that a change in the machine's load meets all. A time is the least of all rounds, a peak of memory the largest. A run
that crashes, fails, hangs, prints something else than the others or is not served by the library is reported as that,
and is no measurement: its allocator has no time for that workload, and is not asked again.
Output:      OUT/bench.txt, bench.json; OUT/bench-time, bench-memory, bench-geomean as .svg and .png, by gnuplot.
Exit status: 1 when hakmem failed in a workload, 2 for bad arguments, 130 when interrupted (with what was measured until
             then), else 0. A peer that fails, and a program that is not installed, are only reported.
Environment: HAKMEM_BUILD_DIR  default build
             OUT               default bench-results in the build directory
             ROUNDS            default 5
             ONLY              the workloads, as shell patterns: "random_* real_*"; default all
             SIDES             the allocators: "hakmem glibc"; default all that are found
             PEERS             further allocators: "name=/path/to/lib.so ..."
             LIMIT_S           seconds after which a run counts as hung, default 120
HAKMEM_TINY_PROFILE and the variables of the peers reach the libraries as usual.
"""
import argparse
import collections
import contextlib
import dataclasses
import datetime
import fnmatch
import hashlib
import json
import math
import os
import pathlib
import platform
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import time

HERE = pathlib.Path(__file__).resolve().parent

# ---- Workloads -------------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Workload:
    """One row. The kind says where time, memory and output come from:

    line   the program prints NAME=value pairs: elapsed_s is the time, check the output, allocator says who served it
    whole  the time of the whole process, and what it wrote to stdout or to {product}
    redis  a server under the allocator, driven by a client that is not

    {build} {here} {scratch} {product} {python} {gxx} in a command and in stdin are filled in."""

    name: str
    group: str
    command: str
    kind: str = "line"
    stdin: str = ""
    compare_output: bool = True
    compare_memory: bool = True

    def words(self, places):
        return [word.format_map(places) for word in self.command.split()]


def mixed(working_set, millions):
    return Workload(f"random_mixed_{working_set}", "mixed",
                    f"{{build}}/bench_random_mixed_system {millions}000000 {working_set}", compare_output=False)


def classic(group, *names):
    return [Workload(name, group, f"{{build}}/bench_workloads {name}") for name in names]


def traces():
    return [Workload("trace_" + file.name.removesuffix(".trace.gz"), "traces",
                     f"{{build}}/bench_replay {{here}}/traces/{file.name}")
            for file in sorted((HERE / "traces").glob("*.trace.gz"))]


# The peak that the kernel reports for a command is that of its largest process, descendants included: for the compiler
# that is cc1plus, for startup it is the program that starts the others, which says nothing.
# xz: blocks of 6 MiB, because one block of the usual size would hold all of the input, and leave one thread idle.
# redis: 16 commands in one packet, because one by one nearly all of the time goes to the kernel's sockets.
WORKLOADS = [
    mixed(256, 10), mixed(4096, 10), mixed(100000, 10), mixed(1000000, 5),
    *classic("patterns", "burst_lifo_25", "burst_lifo_400", "burst_lifo_6400", "burst_fifo_25", "burst_fifo_400",
             "burst_fifo_6400", "skewed", "bignum", "logic", "large", "buffers_64k", "buffers_1m", "realloc_vector",
             "realloc_string", "calloc", "aligned"),
    *classic("threads", "larson", "prodcons_1_1", "prodcons_1_n", "cache_thrash", "cache_scratch", "stress",
             "thread_churn", "threads_100"),
    *traces(),
    Workload("startup", "real", "{build}/bench_workloads spawn", compare_memory=False),
    Workload("sqlite3", "real", "sqlite3 -init /dev/null -batch -bail :memory:", "whole", stdin="{here}/sqlite.sql"),
    Workload("python3", "real", "{python} -s -S -B {here}/real_python.py", "whole"),
    Workload("perl", "real", "perl {here}/real_perl.pl", "whole"),
    Workload("g++", "real", "{gxx} -std=c++17 -O1 -c {here}/real_gxx.cc -o {product}", "whole"),
    Workload("xz", "real", "xz -T2 -6 --block-size=6MiB -c {scratch}/xz.txt", "whole"),
    Workload("redis", "real", "redis-server", "redis"),
]
REDIS_CLIENT = "redis-benchmark -n 200000 -t set,get,lpush,hset -r 100000 -P 16 -q"
XZ_INPUT_BYTES = 24 << 20

TIME_GOAL, MEMORY_GOAL = 1.10, 1.25  # rows where hakmem needs more than this of the best peer are listed

# ---- Settings --------------------------------------------------------------------------------------------------------

DEBIAN_PEERS = {  # the libraries that have to be there; the last one is preloaded
    "mimalloc": [["libmimalloc.so.2", "libmimalloc.so.2.0"]],
    "jemalloc": [["libjemalloc.so.2"]],
    "tcmalloc": [["libtcmalloc_minimal.so.4"]],
    "tbbmalloc": [["libtbbmalloc.so.2"], ["libtbbmalloc_proxy.so.2"]],
}


@dataclasses.dataclass
class Side:
    name: str
    preload: str  # empty for glibc: nothing is preloaded


@dataclasses.dataclass
class Settings:
    build: pathlib.Path
    out: pathlib.Path
    rounds: int
    limit_s: int
    workloads: list
    sides: list
    missing_sides: dict  # name: why


def die(message):
    print(f"bench.py: {message}", file=sys.stderr)
    sys.exit(2)


def number_from(name, default):
    text = os.environ.get(name) or default
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        die(f"{name} is a number above 0, not '{text}'")
    return int(text)


def library_directories():
    with contextlib.suppress(OSError):
        shown = subprocess.run(["gcc", "-print-multiarch"], capture_output=True, text=True, check=False).stdout.strip()
        if shown:
            yield pathlib.Path("/usr/lib", shown)
    yield pathlib.Path("/usr/lib", platform.machine() + "-linux-gnu")
    yield pathlib.Path("/usr/lib64")


def find_library(names):
    for directory in library_directories():
        for name in names:
            if (directory / name).exists():
                return str(directory / name)
    return None


def debian_peers():
    found, missing = [], {}
    for name, needed in DEBIAN_PEERS.items():
        paths = [find_library(names) for names in needed]
        if None in paths:
            missing[name] = f"no {needed[paths.index(None)][0]} installed"
        else:
            found.append(Side(name, paths[-1]))
    return found, missing


def peers_from_environment():
    for peer in os.environ.get("PEERS", "").split():
        name, _, path = peer.partition("=")
        if not name or not path.startswith("/"):
            die(f"PEERS: '{peer}' is not name=/path/to/lib.so")
        if not os.path.exists(path):
            die(f"PEERS: {path} is missing")
        yield Side(name, path)


def find_sides(build):
    debian, missing = debian_peers()
    sides = [Side("hakmem", str(build / "libhakmem.so")), Side("glibc", ""), *debian, *peers_from_environment()]
    for name, times in collections.Counter(side.name for side in sides).items():
        if times > 1:
            die(f"two allocators are called {name}")
    wanted = os.environ.get("SIDES", "").split() or [side.name for side in sides] + list(missing)
    for name in wanted:
        if name not in missing and all(side.name != name for side in sides):
            die(f"SIDES: no allocator is called {name}")
    return [side for side in sides if side.name in wanted], {n: why for n, why in missing.items() if n in wanted}


def find_workloads():
    patterns = os.environ.get("ONLY", "").split() or ["*"]
    for pattern in patterns:
        if not fnmatch.filter([row.name for row in WORKLOADS], pattern):
            die(f"ONLY: no workload is called {pattern}; there are {' '.join(row.name for row in WORKLOADS)}")
    return [row for row in WORKLOADS if any(fnmatch.fnmatchcase(row.name, pattern) for pattern in patterns)]


def read_settings():
    build = pathlib.Path(os.environ.get("HAKMEM_BUILD_DIR") or HERE.parent / "build").resolve()
    for file in build / "libhakmem.so", build / "measure":
        if not file.exists():
            die(f"{file} is missing: build first (make), or set HAKMEM_BUILD_DIR")
    sides, missing = find_sides(build)
    out = pathlib.Path(os.environ.get("OUT") or build / "bench-results").resolve()
    return Settings(build, out, number_from("ROUNDS", "5"), number_from("LIMIT_S", "120"), find_workloads(), sides,
                    missing)


# ---- One run ---------------------------------------------------------------------------------------------------------


class Failed(Exception):
    """Why a run gave no measurement."""


@dataclasses.dataclass
class Measurement:
    workload: str
    side: str
    round: int
    time_s: float | None = None
    peak_kib: int | None = None
    output: str | None = None  # a check sum: must be the same on every side
    failure: str | None = None


def value_of(name, line):
    for word in line.split():
        key, equals, value = word.partition("=")
        if equals and key == name:
            return value
    return None


def program_environment():
    """The environment without what would reach only some of the sides, and with all that makes an output repeatable."""
    environment = {name: value for name, value in os.environ.items() if name not in ("LD_PRELOAD", "HAKMEM_STATS")}
    return environment | {"LC_ALL": "C", "PYTHONHASHSEED": "0", "PERL_HASH_SEED": "0"}


def end_group(process):
    """A program that hangs may have started others: they share its process group."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@contextlib.contextmanager
def started(command, **options):
    """A process in a group of its own, so that the keyboard's signals reach this script alone. Ended when left."""
    process = subprocess.Popen(command, start_new_session=True, env=program_environment() | options.pop("env", {}),
                               **options)
    try:
        yield process
    finally:
        if process.poll() is None:
            end_group(process)


def wait_for(process, limit_s):
    try:
        return process.wait(limit_s)
    except subprocess.TimeoutExpired:
        raise Failed(f"hung (no result in {limit_s} s)") from None


def last_line(path):
    lines = path.read_text(errors="replace").strip().splitlines()
    return f": {lines[-1].strip()[:160]}" if lines else ""


def check_loaded(stderr_path):
    """The dynamic linker goes on without a library that it cannot load: the run would be one of glibc."""
    if "cannot be preloaded" in stderr_path.read_text(errors="replace"):
        raise Failed("not loaded" + last_line(stderr_path))


def check_ended_well(report, stderr_path):
    ended_by, status = value_of("signal", report), value_of("exit", report)
    if status is None:
        raise Failed("not started" + last_line(stderr_path))
    if ended_by != "0":
        raise Failed(f"crash (signal {ended_by})" + last_line(stderr_path))
    if status != "0":
        raise Failed(f"exit status {status}" + last_line(stderr_path))


def check_served(side, line):
    """The benchmark that names its allocator must name the one that was asked for."""
    served_by = value_of("allocator", line)
    expected = {"hakmem": "hakmem", "glibc": "system"}.get(side.name)
    if served_by is None or served_by == expected or (expected is None and served_by != "system"):
        return
    raise Failed(f"served by {served_by}")


def digest(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


class Runner:
    """Runs workloads; owns the scratch directory, where all files of the runs lie."""

    def __init__(self, settings, scratch):
        self.settings = settings
        self.scratch = scratch
        self.stdout, self.stderr, self.report = (scratch / name for name in ("stdout", "stderr", "report"))
        self.places = {
            "build": settings.build, "here": HERE, "scratch": scratch, "product": scratch / "product",
            # The interpreter itself: the command python3 may be a script that looks for it.
            "python": os.path.realpath(sys.executable),
            "gxx": shutil.which("g++-12") or "g++",
        }
        if any(row.name == "xz" for row in settings.workloads):
            write_xz_input(scratch / "xz.txt")

    def missing_program(self, row):
        programs = [row.words(self.places)[0]] + (REDIS_CLIENT.split()[:1] if row.kind == "redis" else [])
        return next((os.path.basename(program) for program in programs if not shutil.which(program)), None)

    def run(self, row, side, number):
        measurement = Measurement(row.name, side.name, number)
        try:
            one_run = self.redis if row.kind == "redis" else self.measured
            measurement.time_s, measurement.peak_kib, measurement.output = one_run(row, side)
        except Failed as reason:
            measurement.failure = str(reason)
        return measurement

    def measured(self, row, side):
        """Time in seconds, peak in KiB and output of a row of the kind line or whole."""
        for path in self.report, self.places["product"]:
            path.unlink(missing_ok=True)
        preload = ["-e", f"LD_PRELOAD={side.preload}"] if side.preload else []
        command = [self.settings.build / "measure", "-o", self.report, *preload, "--", *row.words(self.places)]
        stdin = row.stdin.format_map(self.places) or os.devnull
        with open(stdin, "rb") as source, open(self.stdout, "wb") as out, open(self.stderr, "wb") as errors, \
                started(command, stdin=source, stdout=out, stderr=errors) as process:
            wait_for(process, self.settings.limit_s)
        report = self.report.read_text() if self.report.exists() else ""
        check_loaded(self.stderr)
        check_ended_well(report, self.stderr)
        time_s, output = self.line_result(side) if row.kind == "line" else self.whole_result(report)
        return time_s, int(value_of("max_rss_kib", report)), output if row.compare_output else None

    def line_result(self, side):
        line = self.stdout.read_text(errors="replace")
        check_served(side, line)
        if value_of("elapsed_s", line) is None:
            raise Failed("printed no elapsed_s")
        return float(value_of("elapsed_s", line)), value_of("check", line)

    def whole_result(self, report):
        product = self.places["product"]
        return float(value_of("elapsed_s", report)), digest(product if product.exists() else self.stdout)

    def redis(self, row, side):
        # A socket's path is limited to 107 bytes, so it does not lie in OUT.
        with tempfile.TemporaryDirectory(prefix="hakmem-bench-") as directory, open(self.stderr, "wb") as log:
            path = directory + "/redis.sock"
            command = row.words(self.places) + ["--port", "0", "--unixsocket", path, "--save", "", "--appendonly", "no",
                                                "--dir", directory]
            with started(command, env={"LD_PRELOAD": redis_preload(side)}, stdout=log, stderr=log) as server:
                wait_for_redis(server, path)
                check_mapped(server, side)
                time_s = self.drive_redis(server, path)
                peak_kib = peak_of(server)
                redis_says(path, b"SHUTDOWN NOSAVE\r\n")
                check_server(wait_for(server, self.settings.limit_s))
        check_loaded(self.stderr)
        return time_s, peak_kib, None

    def drive_redis(self, server, path):
        start_s = time.monotonic()
        with started([*REDIS_CLIENT.split(), "-s", path], stdout=subprocess.DEVNULL,
                     stderr=subprocess.DEVNULL) as client:
            status = wait_for(client, self.settings.limit_s)
        elapsed_s = time.monotonic() - start_s
        if status != 0:
            time.sleep(0.5)  # the server may be about to end
            check_server(server.poll() or 0)
            raise Failed(f"redis-benchmark: exit status {status}")
        return elapsed_s


def redis_preload(side):
    """Debian links redis-server with jemalloc; for glibc, the C library is put before it."""
    if side.preload:
        return side.preload
    with open("/proc/self/maps") as maps:
        return next((line.split()[-1] for line in maps if line.rstrip().endswith("/libc.so.6")), "")


def redis_says(path, command):
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(1)
        try:
            connection.connect(path)
            connection.sendall(command)
            return connection.recv(64)
        except OSError:
            return b""


def wait_for_redis(server, path, limit_s=20):
    end_s = time.monotonic() + limit_s
    while redis_says(path, b"PING\r\n") != b"+PONG\r\n":
        if server.poll() is not None:
            check_server(server.returncode)
            raise Failed("the server ended at once")
        if time.monotonic() > end_s:
            raise Failed(f"hung (the server does not answer in {limit_s} s)")
        time.sleep(0.02)


def check_server(status):
    if status < 0:
        raise Failed(f"crash (signal {-status})")
    if status > 0:
        raise Failed(f"exit status {status}")


def check_mapped(server, side):
    if side.preload and os.path.realpath(side.preload) not in pathlib.Path(f"/proc/{server.pid}/maps").read_text():
        raise Failed("not loaded")


def peak_of(process):
    for line in pathlib.Path(f"/proc/{process.pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1])
    raise Failed("the kernel tells no peak")


def write_xz_input(path):
    """Each line comes a few times in a row, as in a log: on such text xz takes seconds, not tens of them."""
    numbers = random.Random(1)
    words = [f"{numbers.getrandbits(30):x}" for _ in range(3000)]
    with open(path, "w") as file:
        while file.tell() < XZ_INPUT_BYTES:
            file.write((" ".join(numbers.choices(words, k=12)) + "\n") * 8)
        file.truncate(XZ_INPUT_BYTES)


# ---- All runs --------------------------------------------------------------------------------------------------------


class Progress:
    """What runs now: one line that is written over on a terminal, plain lines elsewhere."""

    def __init__(self, n_runs):
        self.n_runs, self.n_done, self.start_s = n_runs, 0, time.monotonic()
        self.terminal = sys.stderr.isatty()

    def show(self, row, number, rounds, side):
        elapsed_s = time.monotonic() - self.start_s
        left = ""
        if self.n_done > 0:
            left = f", about {clock(elapsed_s / self.n_done * (self.n_runs - self.n_done))} left"
        text = f"{row.name}: round {number} of {rounds}, {side.name} ({clock(elapsed_s)}{left})"
        width = shutil.get_terminal_size().columns - 1
        print(f"\r\033[K{text[:width]}" if self.terminal else text, end="" if self.terminal else "\n", file=sys.stderr,
              flush=True)

    def end(self):
        if self.terminal:
            print("\r\033[K", end="", file=sys.stderr, flush=True)


def clock(seconds):
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


def run_workload(runner, row, progress):
    settings, done, failed = runner.settings, [], set()
    for number in range(1, settings.rounds + 1):
        first = (number - 1) % len(settings.sides)
        for side in settings.sides[first:] + settings.sides[:first]:
            if side.name not in failed:
                progress.show(row, number, settings.rounds, side)
                done.append(runner.run(row, side, number))
                if done[-1].failure:
                    failed.add(side.name)
            progress.n_done += 1
    mark_other_outputs(done)
    return done


def mark_other_outputs(measurements):
    """What glibc's runs printed is right; without one, what most runs printed."""
    good = [one for one in measurements if not one.failure]
    trusted = [one.output for one in good if one.side == "glibc"] or [one.output for one in good]
    if not trusted:
        return
    expected = collections.Counter(trusted).most_common(1)[0][0]
    for one in good:
        if one.output != expected:
            one.failure = f"wrong output: {one.output}, not {expected}"


def run_all(settings):
    """The measurements, and which programs are missing; fewer than all when the user interrupts."""
    measurements, missing, interrupted = [], {}, False
    progress = Progress(len(settings.workloads) * settings.rounds * len(settings.sides))
    with tempfile.TemporaryDirectory(prefix="scratch-", dir=settings.out) as scratch:
        runner = Runner(settings, pathlib.Path(scratch))
        try:
            for row in settings.workloads:
                program = runner.missing_program(row)
                if program:
                    missing[row.name] = program
                    progress.n_runs -= settings.rounds * len(settings.sides)
                else:
                    measurements += run_workload(runner, row, progress)
        except KeyboardInterrupt:
            interrupted = True
    progress.end()
    return measurements, missing, interrupted


# ---- What was measured: the document that is written as JSON, and what follows from it -------------------------------


def describe_machine():
    model = "unknown"
    with contextlib.suppress(OSError, StopIteration), open("/proc/cpuinfo") as lines:
        model = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return {"cpu": model, "n_cpus": os.cpu_count(), "kernel": platform.release(),
            "date": datetime.date.today().isoformat()}


def make_document(settings, measurements, missing_programs, interrupted):
    measured = {one.workload for one in measurements} | set(missing_programs)
    return {
        "machine": describe_machine(),
        "rounds": settings.rounds,
        "interrupted": interrupted,
        "sides": [dataclasses.asdict(side) for side in settings.sides],
        "missing_sides": settings.missing_sides,
        "workloads": [{"name": row.name, "group": row.group, "command": row.command,
                       "compare_memory": row.compare_memory, "missing_program": missing_programs.get(row.name)}
                      for row in settings.workloads if row.name in measured],
        "measurements": [dataclasses.asdict(one) for one in measurements],
    }


QUANTITIES = {"time": ("time_s", min), "memory": ("peak_kib", max)}


class Results:
    """Values, ratios and means of a document; the table and the pictures read nothing else."""

    def __init__(self, document):
        self.document = document
        self.sides = [side["name"] for side in document["sides"]]
        self.peers = [name for name in self.sides if name != "hakmem"]
        self.rows = document["workloads"]
        self.runs = collections.defaultdict(list)
        for one in document["measurements"]:
            self.runs[one["workload"], one["side"]].append(one)

    def failure(self, row, side):
        return next((one["failure"] for one in self.runs[row["name"], side] if one["failure"]), None)

    def value(self, quantity, row, side):
        """The least time or the largest peak, or None."""
        runs = self.runs[row["name"], side]
        if not runs or self.failure(row, side) or (quantity == "memory" and not row["compare_memory"]):
            return None
        field, choose = QUANTITIES[quantity]
        return choose(one[field] for one in runs)

    def best_peer(self, quantity, row):
        """Name and value, or None and None."""
        values = {side: self.value(quantity, row, side) for side in self.peers}
        name = min((side for side in self.peers if values[side]), key=values.get, default=None)
        return name, values.get(name)

    def ratio(self, quantity, row, side):
        value, (_, best) = self.value(quantity, row, side), self.best_peer(quantity, row)
        return value / best if value and best else None

    def mean_sides(self, quantity):
        """An allocator that succeeded nowhere has no mean, and takes no row from the others."""
        return [side for side in self.sides if any(self.ratio(quantity, row, side) for row in self.rows)]

    def mean_rows(self, quantity):
        """The rows where all those sides succeeded: only over the same rows are means comparable."""
        sides = self.mean_sides(quantity)
        return [row for row in self.rows if sides and all(self.ratio(quantity, row, side) for side in sides)]

    def means(self, quantity):
        """Side: geometric mean; empty when there is no row to take it over."""
        rows = self.mean_rows(quantity)
        if not rows:
            return {}
        return {side: math.exp(math.fsum(math.log(self.ratio(quantity, row, side)) for row in rows) / len(rows))
                for side in self.mean_sides(quantity)}

    def over_goal(self, quantity, goal):
        if "hakmem" not in self.sides:
            return []
        ratios = [(self.ratio(quantity, row, "hakmem"), row["name"]) for row in self.rows]
        return sorted(((ratio, name) for ratio, name in ratios if ratio and ratio > goal), reverse=True)

    def failures(self):
        return [(row["name"], side, self.failure(row, side)) for row in self.rows for side in self.sides
                if self.failure(row, side)]

    def summary(self):
        return {
            **{f"{quantity}_geometric_means": self.means(quantity) for quantity in QUANTITIES},
            **{f"{quantity}_rows_in_means": len(self.mean_rows(quantity)) for quantity in QUANTITIES},
            "hakmem_over_time_goal": {name: ratio for ratio, name in self.over_goal("time", TIME_GOAL)},
            "hakmem_over_memory_goal": {name: ratio for ratio, name in self.over_goal("memory", MEMORY_GOAL)},
            "failures": [{"workload": row, "side": side, "failure": why} for row, side, why in self.failures()],
        }


# ---- The table -------------------------------------------------------------------------------------------------------


def show_value(quantity, value):
    if quantity == "memory":
        return f"{value / 1024:.1f}"
    return f"{value:.3f} s" if value >= 1 else f"{value * 1000:.1f} ms"


def cell(results, quantity, row, side):
    failure, value = results.failure(row, side), results.value(quantity, row, side)
    if failure:
        return failure.split(":")[0]  # the rest is told below the tables
    return show_value(quantity, value) if value is not None else "-"


def against_best(results, quantity, row):
    """hakmem against the best peer: ratio and name; an exclamation mark when it is over the goal."""
    ratio = results.ratio(quantity, row, "hakmem") if "hakmem" in results.sides else None
    if ratio is None:
        return "-"
    goal = TIME_GOAL if quantity == "time" else MEMORY_GOAL
    return f"{ratio:.2f}{'!' if ratio > goal else ' '} {results.best_peer(quantity, row)[0]}"


def aligned(lines):
    """Columns as wide as they need; the first and the last to the left, the others to the right."""
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    for line in lines:
        middle = (text.rjust(width) for text, width in zip(line[1:-1], widths[1:-1]))
        yield "  ".join([line[0].ljust(widths[0]), *middle, line[-1]]).rstrip()


def table(results, quantity, title):
    rows = [row for row in results.rows if not row["missing_program"] and (quantity == "time" or row["compare_memory"])]
    lines = [["workload", *results.sides, "hakmem / best other"]]
    lines += [[row["name"], *(cell(results, quantity, row, side) for side in results.sides),
               against_best(results, quantity, row)] for row in rows]
    yield title
    yield from aligned(lines)
    if quantity == "time":
        yield from (f"{row['name']}  missing program: {row['missing_program']}" for row in results.rows
                    if row["missing_program"])
    yield ""


def means_table(results):
    yield "Geometric means of the ratio to the best peer (the best of all but hakmem) of each workload; 1.00 is best of"
    yield "all peers everywhere. Only workloads count where every allocator succeeded that did in any."
    lines = [["", *results.sides, ""]]
    for quantity in QUANTITIES:
        means, n_rows = results.means(quantity), len(results.mean_rows(quantity))
        n_all = sum(quantity == "time" or row["compare_memory"] for row in results.rows)
        lines.append([quantity, *(f"{means[side]:.3f}" if side in means else "-" for side in results.sides),
                      f"{n_rows} of {n_all} workloads"])
    yield from aligned(lines)
    yield ""


def over_goal_lines(results):
    for quantity, goal in ("time", TIME_GOAL), ("memory", MEMORY_GOAL):
        over = ", ".join(f"{name} {ratio:.2f}" for ratio, name in results.over_goal(quantity, goal))
        yield textwrap.fill(f"hakmem over {goal:.2f} of the best peer in {quantity}: {over or 'nowhere'}", 120,
                            subsequent_indent="  ", break_on_hyphens=False)


def text_of(results):
    document = results.document
    machine = document["machine"]
    yield f"{machine['cpu']}, {machine['n_cpus']} CPUs, Linux {machine['kernel']}, {machine['date']}"
    yield from aligned([[side["name"], "", side["preload"] or "nothing preloaded"] for side in document["sides"]]
                       + [[name, "", f"missing: {why}"] for name, why in document["missing_sides"].items()])
    yield ""
    rounds = f"{document['rounds']} rounds in turns"
    if document["interrupted"]:
        rounds += "; interrupted, some workloads are missing"
    yield from table(results, "time", f"Time, the least of {rounds}")
    yield from table(results, "memory", f"Peak of memory in MiB, the largest of {rounds}")
    yield from means_table(results)
    if "hakmem" in results.sides and results.peers:
        yield from over_goal_lines(results)
    for workload, side, why in results.failures():
        yield f"failed: {workload} on {side}: {why}"


# ---- Pictures --------------------------------------------------------------------------------------------------------

# hakmem is a large filled mark, on which those of the peers can be seen; they differ by shape as well as by colour.
HAKMEM_STYLE = "pt 7 ps 1.9 lc rgb '#e8433f'"
PEER_STYLES = ["pt 5 ps 0.9 lc rgb '#555555'", "pt 9 ps 1.0 lc rgb '#1f77b4'", "pt 11 ps 1.0 lc rgb '#2ca02c'",
               "pt 13 ps 1.1 lc rgb '#9467bd'", "pt 4 ps 0.9 lc rgb '#e08214'", "pt 8 ps 1.0 lc rgb '#17a2b8'",
               "pt 10 ps 1.0 lc rgb '#a0522d'", "pt 12 ps 1.0 lc rgb '#c51b7d'"]
RATIO_SHOWN_MAX = 10.0  # one bad row would press all others together
RATIO_TICS = (0.1, 0.2, 0.3, 0.5, 0.6, 0.7, 0.8, 0.9, 1, 1.1, 1.25, 1.5, 2, 3, 4, 6, 8, 10)


def quoted(text):
    """Gnuplot's single-quoted string, with the characters that its labels give a meaning taken literally."""
    for special in "\\_^{}@&~":
        text = text.replace(special, "\\" + special)
    return "'" + text.replace("'", "''") + "'"


def styles(results):
    peers = iter(PEER_STYLES * len(results.sides))
    return {side: HAKMEM_STYLE if side == "hakmem" else next(peers) for side in results.sides}


def data_block(name, lines):
    return [f"${name} << END", *lines, "END"]


def picture_rows(results, quantity):
    """(y, label, row) from the top down; row is None at the title of a group."""
    lines, group = [], None
    for row in results.rows:
        if not any(results.ratio(quantity, row, side) for side in results.sides):
            continue
        if row["group"] != group:
            group = row["group"]
            lines.append(("{/:Bold " + quoted(group)[1:-1] + "}", None))
        lines.append((quoted(row["name"])[1:-1], row))
    return [(-i, label, row) for i, (label, row) in enumerate(lines)]


def ratio_marks(results, quantity, lines):
    """Side: its points, for those that have any; hakmem first, because what is drawn first lies below."""
    marks = {}
    for side in sorted(results.sides, key=lambda name: name != "hakmem"):
        points = [(results.ratio(quantity, row, side), y) for y, _, row in lines if row]
        points = [(min(ratio, RATIO_SHOWN_MAX), y) for ratio, y in points if ratio]
        if points:
            marks[side] = points
    return marks


def ratio_axis(marks):
    ratios = [ratio for points in marks.values() for ratio, _ in points]
    low, high = min([0.95, *ratios]) / 1.04, max([1.1, *ratios]) * 1.06
    tics = [tic for tic in RATIO_TICS if low < tic < high]
    names = [f"'{tic:g}{'+' if tic == RATIO_SHOWN_MAX else ''}' {tic}" for tic in tics]
    return ["set logscale x", f"set xrange [{low}:{high}]", f"set xtics ({', '.join(names)})"]


def failure_labels(results, lines):
    for y, _, row in lines:
        failed = [side for side in results.sides if row and results.failure(row, side)]
        if failed:
            text = quoted("failed: " + ", ".join(failed))
            yield f"set label {text} at graph 0.995, first {y + 0.25} right textcolor rgb '#c00000'"


def ratio_script(results, quantity):
    """One line per workload, one mark per allocator: further left is better."""
    lines, means = picture_rows(results, quantity), results.means(quantity)
    marks = ratio_marks(results, quantity, lines)
    what = "Time" if quantity == "time" else "Peak of memory"
    note = "; in the key: geometric means" if means else ""
    script = [f"set key title '{what}, relative to the best peer of each workload; further left is better{note}'",
              "set key outside top center horizontal samplen 1 width 1", *ratio_axis(marks),
              f"set yrange [{-len(lines)}:1]", "set tics textcolor rgb 'black'",
              "set ytics (" + ", ".join(f"'{label}' {y}" for y, label, _ in lines) + ") scale 0",
              "set grid xtics lt 1 lc rgb '#dddddd'", "set border 1 lc rgb '#888888'",
              f"set arrow from 1,{-len(lines)} to 1,1 nohead lw 1.5 lc rgb '#666666' back"]
    script += [f"set arrow from graph 0, first {y} to graph 1, first {y} nohead lc rgb '#eeeeee' back"
               for y, _, row in lines if row]
    script += failure_labels(results, lines)
    plots = []
    for i, (side, points) in enumerate(marks.items()):
        script += data_block(f"side{i}", [f"{ratio:.4f} {y}" for ratio, y in points])
        key = quoted(side + (f" {means[side]:.2f}" if side in means else ""))
        plots.append(f"$side{i} using 1:2 with points {styles(results)[side]} title {key}")
    return script + ["plot " + ", ".join(plots)], (1000, 150 + 22 * len(lines))


def mean_label(side, points):
    """The name stands to the right of its point, or to the left when the next point is in the way there."""
    x, y = points[side]
    width, height = (max(p[axis] for p in points.values()) - min(p[axis] for p in points.values()) for axis in (0, 1))
    crowded = any(0 < other_x - x < 0.2 * width and abs(other_y - y) < 0.06 * height
                  for other_x, other_y in points.values())
    name = quoted(side)[1:-1]
    text = "{/:Bold " + name + "}" if side == "hakmem" else name
    return f"set label '{text}' at {x},{y} {'right offset -1.2,0' if crowded else 'left offset 1.2,0'}"


def padded(values):
    """An axis with 1, the best peer, and space for names."""
    low, high = min(1.0, *values), max(1.0, *values)
    space = 0.2 * (high - low) + 0.02
    return f"[{low - space}:{high + space}]"


def mean_script(results):
    """Time against memory, one named point per allocator: the best is at the lower left."""
    times, peaks = results.means("time"), results.means("memory")
    points = {side: (times[side], peaks[side]) for side in results.sides if side in times and side in peaks}
    script = ["set title 'Geometric means of the ratio to the best peer; lower left is better'",
              f"set xlabel 'time ({len(results.mean_rows('time'))} workloads)'",
              f"set ylabel 'peak of memory ({len(results.mean_rows('memory'))} workloads)'",
              f"set xrange {padded(times.values())}", f"set yrange {padded(peaks.values())}",
              "set grid lt 1 lc rgb '#dddddd'", "set border 3 lc rgb '#888888'",
              "set tics nomirror textcolor rgb 'black'", "unset key"]
    plots = []
    for i, (side, (x, y)) in enumerate(points.items()):
        script += data_block(f"side{i}", [f"{x} {y}"])
        script.append(mean_label(side, points))
        plots.append(f"$side{i} using 1:2 with points {styles(results)[side]}")
    return script + ["plot " + ", ".join(plots)], (800, 600)


def draw(script, size, path):
    """Writes path.svg and path.png; gnuplot's message when it cannot."""
    width, height = size
    for ending, terminal in ("svg", f"svg size {width},{height} background rgb 'white' font 'sans-serif,13'"), \
            ("png", f"pngcairo size {width},{height} font 'sans,10'"):
        head = [f"set terminal {terminal} enhanced", f"set output {json.dumps(f'{path}.{ending}')}"]
        done = subprocess.run(["gnuplot"], input="\n".join(head + script) + "\n", text=True, capture_output=True,
                              env=program_environment(), check=False)
        if done.returncode != 0 or done.stderr:
            print(f"bench.py: {path}.{ending}: gnuplot: {done.stderr.strip()}", file=sys.stderr)


def ready_to_draw(out, family):
    """Removes the family's pictures of an earlier run, which would pass for those of this one; False: nothing draws."""
    for old in [*out.glob(f"{family}-*.svg"), *out.glob(f"{family}-*.png")]:
        old.unlink()
    if shutil.which("gnuplot"):
        return True
    print(f"{family}.py: no pictures: install the package gnuplot-nox", file=sys.stderr)
    return False


def draw_all(results, out):
    if not ready_to_draw(out, "bench"):
        return
    for quantity in QUANTITIES:
        if picture_rows(results, quantity):
            draw(*ratio_script(results, quantity), out / f"bench-{quantity}")
    if results.means("time") and results.means("memory"):
        draw(*mean_script(results), out / "bench-geomean")


# ---- Main ------------------------------------------------------------------------------------------------------------


def write_all(results, out):
    text = "\n".join(text_of(results)) + "\n"
    (out / "bench.txt").write_text(text)
    print(text, end="")
    draw_all(results, out)
    print(f"\nin {out}: {' '.join(sorted(file.name for file in out.glob('bench*') if file.is_file()))}")


def redraw(path):
    try:
        results = Results(json.loads(path.read_text()))
    except (OSError, ValueError, KeyError) as error:
        die(f"{path}: {error!r}")
    out = pathlib.Path(os.environ.get("OUT") or path.resolve().parent)
    out.mkdir(parents=True, exist_ok=True)
    write_all(results, out)


def bench():
    settings = read_settings()
    settings.out.mkdir(parents=True, exist_ok=True)
    for name, why in settings.missing_sides.items():
        print(f"{name}: missing: {why}", file=sys.stderr)
    measurements, missing_programs, interrupted = run_all(settings)
    document = make_document(settings, measurements, missing_programs, interrupted)
    results = Results(document)
    with open(settings.out / "bench.json", "w") as file:
        json.dump(document | {"summary": results.summary()}, file, indent=1)
    write_all(results, settings.out)
    if interrupted:
        return 130
    return 1 if any(side == "hakmem" for _, side, _ in results.failures()) else 0


def main():
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that it too ends the programs that run
    arguments = argparse.ArgumentParser(description="Benchmarks of hakmem and its peers; bench.py's head says more.")
    arguments.add_argument("--redraw", metavar="bench.json", type=pathlib.Path, help="draw an earlier run again")
    chosen = arguments.parse_args()
    if chosen.redraw:
        redraw(chosen.redraw)
        return 0
    return bench()


if __name__ == "__main__":
    sys.exit(main())
