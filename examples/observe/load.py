#!/usr/bin/env python3
"""load.py - visitors of a site that keeps its sessions and its users in kv.

Usage: load.py SOCKET [--visits N] [--rate N] [--ttl MS] [--users N] [--seconds S] [--settle]

A visit makes a session that expires after MS, and reads the one that was made 500 visits before. One visitor in 4 logs
out, which deletes the session. The first and each 16th after it is a new user, who stays. Values have 100 to 600 bytes.
The visits are the same in every run.

  --visits N   how many (20000)
  --rate N     so many per second; 0, the default: as fast as the server answers
  --ttl MS     of a session, in milliseconds (2000)
  --users N    so many new users, and no more (2000)
  --seconds S  end after S seconds at the latest (600)
  --settle     wait at the end until all sessions have expired
Prints what the server says about its keys at the end. Status 1 if it answers wrongly or not at all.
"""
import argparse
import random
import socket
import sys
import time

BATCH = 50  # visits whose commands are sent before the answers are read: some 30 KiB


class Server:
    def __init__(self, path, timeout):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(timeout)
        self.socket.connect(path)
        self.lines = self.socket.makefile("r", encoding="ascii")

    def ask(self, commands):
        """The answers, one for each command."""
        self.socket.sendall("".join(command + "\n" for command in commands).encode())
        answers = [self.lines.readline().rstrip("\n") for _ in commands]
        if "" in answers or "ERROR" in answers:
            sys.exit("load.py: %s" % ("the server is gone" if "" in answers else "the server understands something else"))
        return answers

    def info(self):
        return dict(field.split("=") for field in self.ask(["INFO"])[0].split())


def value(numbers):
    return "%0*d" % (numbers.randint(100, 600), numbers.getrandbits(60))


def visit(n, ttl_ms, users, numbers):
    commands = ["SETEX session:%d %d %s" % (n, ttl_ms, value(numbers)), "GET session:%d" % (n - 500)]
    if numbers.random() < 1 / 4:
        commands.append("DEL session:%d" % (n - 500))
    if n % 16 == 0 and n // 16 < users:
        commands.append("SET user:%d %s" % (n // 16, value(numbers)))
    return commands


def main():
    parser = argparse.ArgumentParser(usage=__doc__.split("\n")[2][7:])
    parser.add_argument("socket")
    for name, standard in ("visits", 20000), ("rate", 0), ("ttl", 2000), ("users", 2000), ("seconds", 600):
        parser.add_argument("--" + name, type=int, default=standard)
    parser.add_argument("--settle", action="store_true")
    options = parser.parse_args()
    server = Server(options.socket, options.seconds)
    numbers = random.Random(1)
    begin = time.monotonic()
    for first in range(0, options.visits, BATCH):
        if time.monotonic() - begin > options.seconds:
            break
        server.ask([command for n in range(first, min(first + BATCH, options.visits))
                    for command in visit(n, options.ttl, options.users, numbers)])
        if options.rate != 0:
            time.sleep(max(0, begin + (first + BATCH) / options.rate - time.monotonic()))
    info = server.info()
    while options.settle and info["expiring"] != "0":
        time.sleep(0.05)
        info = server.info()
    print(" ".join("%s=%s" % pair for pair in info.items()))


main()
