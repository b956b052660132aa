#!/usr/bin/env python3
"""forgetful.py - a program that keeps each page that it has ever rendered, for the second hunt of docs/observe.md.

Usage: forgetful.py [PAGES]     200 a second, by default for a minute
"""
import sys
import time
import zlib

kept = {}


def render(n):
    return b"<p>This is page %d.</p>" % n * 200


def remember(n):
    kept[n] = zlib.compress(render(n), 0)


for n in range(int(sys.argv[1]) if len(sys.argv) > 1 else 12000):
    remember(n)
    time.sleep(0.005)
