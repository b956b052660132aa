#!/usr/bin/env python3
"""make-pictures.py - runs the commands of docs/observe.md and puts their outputs and pictures in the place of those that are there.

Usage: make-pictures.py [--build DIR] [--debug DIR]

  --build DIR   where libhakmem.so and hakmem are (build, of this source tree)
  --debug DIR   what stands in for /usr/lib/debug in blocks that need a program's debug information; by unshare, as root

What the page holds says what is done:
  ```console             each line that begins with "$ " is run, in one shell, and what it prints takes the place of the lines behind it.
                         What runs in the background prints nothing.
  <!-- screen: COMMAND | keys: K K | seconds: N -->
                         the block behind it becomes what a terminal of 80 by 24 shows N seconds after these keys
  <!-- picture: FILE NAME [half] -->
                         FILE, which a command has written, becomes docs/NAME, a PNG in half its width and height
  <!-- needs: debug information of PROGRAM -->
                         the block behind it is left as it is where there is none

The commands run in /tmp/hunt, which must not exist, so that paths in the outputs are the same each time. It takes three minutes, in
which no other kv may run; `unshare -m -p -f --mount-proc make-pictures.py` sees to that.
Needs: python3, tmux, readelf, a C compiler, /usr/bin/python3. Numbers in the sentences of the page are not looked at: read it again.
"""
import argparse
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import time
import zlib

SOURCE = os.path.realpath(os.path.join(os.path.dirname(__file__), "..", ".."))
PAGE = os.path.join(SOURCE, "docs", "observe.md")
HUNT = "/tmp/hunt"
END = "--end-of-output--"


class Shell:
    """A shell that is asked line by line."""

    def __init__(self, environment):
        self.process = subprocess.Popen(["bash", "--norc"], cwd=HUNT, env=environment, text=True, bufsize=1, start_new_session=True,
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    def run(self, command):
        if command.endswith("&"):
            command = command[:-1] + "> /dev/null 2>&1 < /dev/null &"
        self.process.stdin.write(command + "\necho $?" + END + "\n")
        lines = []
        for line in self.process.stdout:
            if line.endswith(END + "\n"):
                if line != "0" + END + "\n":
                    sys.exit("make-pictures.py: status %s of: %s\n%s" % (line[:-len(END) - 1], command, "".join(lines)))
                return lines
            lines.append(line)
        sys.exit("make-pictures.py: the shell has ended at: " + command)

    def end(self):
        os.killpg(self.process.pid, signal.SIGKILL)  # and what is left in the background
        self.process.wait()


def run_block(shell, lines, wrap):
    out = []
    for line in lines:
        if line.startswith("$ "):
            command = line[2:].rstrip("\n")
            print("$ " + command, flush=True)
            out += [line] + shell.run(wrap % command if wrap else command)
    return out


def screen(command, keys, seconds, environment):
    """What a terminal shows."""
    def tmux(*arguments):
        return subprocess.run(["tmux", "-S", HUNT + "/tmux", "-f", "/dev/null", *arguments], check=True, text=True,
                              env=environment, stdout=subprocess.PIPE).stdout
    print("  " + command, flush=True)
    tmux("new-session", "-d", "-x", "80", "-y", "24", "-s", "view", command)
    time.sleep(2)
    for key in keys:
        tmux("send-keys", "-t", "view", key)
    time.sleep(seconds)
    text = tmux("capture-pane", "-p", "-t", "view")
    tmux("kill-server")
    return [line.rstrip() + "\n" for line in text.rstrip("\n").split("\n")]


def debug_file(program, root):
    notes = subprocess.run(["readelf", "-n", program], check=True, text=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout
    build_id = re.search("Build ID: ([0-9a-f]+)", notes)[1]
    return "%s/.build-id/%s/%s.debug" % (root, build_id[:2], build_id[2:])


def unfilter(kind, line, above, n):
    for x in range(len(line)):
        a, b, c = (line[x - n] if x >= n else 0), above[x], (above[x - n] if x >= n else 0)
        if kind == 1:
            line[x] = (line[x] + a) & 255
        elif kind == 2:
            line[x] = (line[x] + b) & 255
        elif kind == 3:
            line[x] = (line[x] + (a + b) // 2) & 255
        elif kind == 4:
            distances = abs(b - c), abs(a - c), abs(a + b - 2 * c)
            line[x] = (line[x] + (a, b, c)[distances.index(min(distances))]) & 255


def halve(data):
    """A PNG of 8 bits a channel: the means of four pixels each."""
    at, packed = 8, b""
    while at < len(data):
        length, kind = struct.unpack(">I4s", data[at:at + 8])
        if kind == b"IHDR":
            width, height, depth, colours = struct.unpack(">IIBB", data[at + 8:at + 18])
        if kind == b"IDAT":
            packed += data[at + 8:at + 8 + length]
        at += 12 + length
    assert depth == 8 and colours in (2, 6), "another kind of PNG"
    n = 3 if colours == 2 else 4
    raw, size = zlib.decompress(packed), width * n
    above, rows = bytearray(size), []
    for y in range(height):
        line = bytearray(raw[y * (size + 1) + 1:(y + 1) * (size + 1)])
        unfilter(raw[y * (size + 1)], line, above, n)
        rows.append(line)
        above = line
    out = bytearray()
    for y in range(0, height - 1, 2):
        a, b = rows[y], rows[y + 1]
        out.append(0)
        for x in range(0, size - n, 2 * n):
            out += bytes((a[x + i] + a[x + n + i] + b[x + i] + b[x + n + i] + 2) // 4 for i in range(n))

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
    head = struct.pack(">IIBBBBB", width // 2, height // 2, 8, colours, 0, 0, 0)
    return data[:8] + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(out), 9)) + chunk(b"IEND", b"")


def picture(file, name, options):
    with open(os.path.join(HUNT, file), "rb") as source:
        data = source.read()
    if "half" in options:
        data = halve(data)
    with open(os.path.join(SOURCE, "docs", name), "wb") as out:
        out.write(data)
    print("  docs/%s: %d KiB" % (name, len(data) // 1024), flush=True)


def take_block(page, i):
    """The lines of the block that begins at line i, without its fences, and where it ends."""
    end = i + 1
    while page[end] != "```\n":
        end += 1
    return page[i + 1:end], end


def main():
    parser = argparse.ArgumentParser(usage=__doc__.split("\n")[2][7:])
    parser.add_argument("--build", default=os.path.join(SOURCE, "build"))
    parser.add_argument("--debug")
    options = parser.parse_args()
    environment = dict(os.environ, PATH=os.path.realpath(options.build) + ":" + os.environ["PATH"], LC_ALL="C.UTF-8", TERM="screen")
    environment.pop("TMUX", None)
    with open(PAGE, encoding="utf-8") as source:
        page = source.readlines()
    os.mkdir(HUNT)
    os.symlink(os.path.join(SOURCE, "examples"), HUNT + "/examples")
    shell, out, i = Shell(environment), [], 0
    wrap, skip, terminal = None, False, None
    try:
        while i < len(page):
            line = page[i]
            out.append(line)
            i += 1
            directive = re.match(r"<!-- (screen|picture|needs): (.*) -->$", line)
            if directive and directive[1] == "screen":
                terminal = [part.strip() for part in directive[2].split("|")]
            elif directive and directive[1] == "picture":
                file, name, *rest = directive[2].split()
                picture(file, name, rest)
            elif directive and not os.path.exists(debug_file(directive[2].split()[-1], "/usr/lib/debug")):
                if options.debug and os.path.exists(debug_file(directive[2].split()[-1], options.debug)):
                    wrap = "unshare -m sh -c 'mount --bind %s /usr/lib/debug && %%s'" % os.path.realpath(options.debug)
                else:
                    print("make-pictures.py: no %s: a block is left as it is" % directive[2], file=sys.stderr)
                    skip = True
            elif line.startswith("```") and line != "```\n":
                block, end = take_block(page, i - 1)
                if terminal is not None:
                    block = screen(terminal[0], terminal[1].split()[1:], float(terminal[2].split()[1]), environment)
                elif line == "```console\n" and not skip:
                    block = run_block(shell, block, wrap)
                out += block + ["```\n"]
                i, wrap, skip, terminal = end + 1, None, False, None
    finally:
        shell.end()
        shutil.rmtree(HUNT)
    with open(PAGE, "w", encoding="utf-8") as target:
        target.writelines(out)


if __name__ == "__main__":
    main()
