#!/usr/bin/env python3
"""contention.py - what threads share, counted: the library's atomic instructions and locks per million operations.

Usage: contention.py [SCALE in per cent, default 25]

Runs `bench_workloads contend_N` for N = 1, 2, 8 and 32 threads: random blocks of 16 to 1023 bytes, every 16th freed by
another thread. An operation is one malloc or one free; the start and the end of the threads are counted with them.
  atomics    instructions with a lock prefix (and exchanges with memory) that the library executed, by callgrind, which
             runs one thread at a time: the number does not depend on the machine, only on how the threads take turns
  locks      acquisitions of the pool lock, and how many of them had to wait, from the library's own statistics in a run
             without callgrind
  refills    batches of blocks from slabs to magazines, and flushes back
Needs valgrind, objdump and a C compiler (CC). Exit status: 1 when a run fails, 2 for bad arguments.
"""
import json
import os
import pathlib
import re
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
BUILD = pathlib.Path(os.environ.get("HAKMEM_BUILD_DIR") or HERE.parent / "build").resolve()
THREADS = (1, 2, 8, 32)


def run(command, **options):
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False, **options)
    if done.returncode != 0:
        sys.exit(f"contention.py: {command[0]} failed with {done.returncode}: {done.stderr.strip()[-500:]}")
    return done.stdout


def build_program(scratch):
    """The workloads and the library in one program at fixed addresses, so that callgrind's are those of objdump."""
    program = scratch / "workloads"
    run([os.environ.get("CC", "cc"), "-O2", "-fno-builtin-malloc", "-no-pie", HERE / "bench_workloads.c",
         BUILD / "libhakmem.a", "-lpthread", "-o", program])
    return program


def atomic_addresses(program):
    """Addresses of the atomic instructions in the library's functions, and of no other function."""
    ours = set()
    for line in run(["nm", "--defined-only", BUILD / "libhakmem.a"]).splitlines():
        words = line.split()
        if len(words) == 3 and words[1] in "tTwW":
            ours.add(words[2])
    found, function = set(), None
    for line in run(["objdump", "-d", "--no-show-raw-insn", program]).splitlines():
        header = re.match(r"[0-9a-f]+ <(.+)>:$", line)
        if header:
            function = header.group(1)
            continue
        instruction = re.match(r"\s*([0-9a-f]+):\s+(.*)", line)
        if instruction and function in ours:
            text = instruction.group(2)
            if text.startswith("lock ") or (text.startswith("xchg ") and "(" in text):
                found.add(int(instruction.group(1), 16))
    if not found:
        sys.exit("contention.py: no atomic instruction was found in the library")
    return found


def count_atomics(program, name, scale, addresses, scratch):
    out = scratch / "callgrind.out"
    run(["valgrind", "--tool=callgrind", "--dump-instr=yes", "--compress-pos=no", "--compress-strings=no",
         f"--callgrind-out-file={out}", program, name, scale])
    n, after_call = 0, False
    for line in out.read_text().splitlines():
        if line.startswith("calls="):
            after_call = True  # the next line is what the call cost, not the instruction
        elif line.startswith("0x"):
            words = line.split()
            if not after_call and int(words[0], 16) in addresses:
                n += int(words[-1])
            after_call = False
    return n


def statistics(program, name, scale, scratch):
    path = scratch / "stats.json"
    text = run([program, name, scale], env=os.environ | {"HAKMEM_STATS": str(path)})
    return int(re.search(r"ops=(\d+)", text).group(1)), json.loads(path.read_text())


def main():
    scale = sys.argv[1] if len(sys.argv) > 1 else "25"
    if len(sys.argv) > 2 or not scale.isascii() or not scale.isdigit() or not 1 <= int(scale) <= 10000:
        print(__doc__, file=sys.stderr)
        sys.exit(2)
    with tempfile.TemporaryDirectory() as directory:
        scratch = pathlib.Path(directory)
        program = build_program(scratch)
        addresses = atomic_addresses(program)
        print("Per million operations\nthreads   atomics     locks   of them waited   refills   flushes")
        for threads in THREADS:
            name = f"contend_{threads}"
            ops, stats = statistics(program, name, scale, scratch)
            atomics = count_atomics(program, name, scale, addresses, scratch)
            values = (atomics, sum(stats["lock_acquisitions"].values()), stats["lock_contended"], stats["refills"],
                      stats["flushes"])
            print("{:7}{:10.0f}{:10.1f}{:17.1f}{:10.0f}{:10.0f}".format(
                threads, *(value * 1e6 / ops for value in values)), flush=True)


main()
