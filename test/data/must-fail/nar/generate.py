#!/usr/bin/env python3
"""Writes the hostile archives of this folder: each must be refused, and none may write outside of
its target. test/unit/nar replays every *.nar that is here."""

import os
import struct

HERE = os.path.dirname(os.path.abspath(__file__))


def s(data):
    if isinstance(data, str):
        data = data.encode()
    return struct.pack("<Q", len(data)) + data + b"\0" * (-len(data) % 8)


MAGIC = s("nix-archive-1")
OPEN, CLOSE = s("(") + s("type"), s(")")


def reg(data, executable=False):
    mark = s("executable") + s("") if executable else b""
    return OPEN + s("regular") + mark + s("contents") + s(data) + CLOSE


def link(target):
    return OPEN + s("symlink") + s("target") + s(target) + CLOSE


def entry(name, node):
    return s("entry") + s("(") + s("name") + s(name) + s("node") + node + s(")")


def directory(*entries):
    return OPEN + s("directory") + b"".join(entries) + CLOSE


def deep(levels):
    """`levels` directories inside each other."""
    head = OPEN + s("directory") + s("entry") + s("(") + s("name") + s("d") + s("node")
    return head * (levels - 1) + directory() + (s(")") + CLOSE) * (levels - 1)


def sized(length):
    """A file that claims a length."""
    return OPEN + s("regular") + s("contents") + struct.pack("<Q", length) + b"x" * 32


def string_len(length):
    """An entry name that claims a length."""
    head = OPEN + s("directory") + s("entry") + s("(") + s("name")
    return head + struct.pack("<Q", length) + b"x" * 32


canary = reg("written by a hostile archive\n")
cases = {
    "magic-other": s("nix-archive-2") + reg("x"),
    "magic-short": s("nix-archive") + reg("x"),
    "magic-long": struct.pack("<Q", 1 << 40) + b"nix-archive-1\0\0\0" + reg("x"),
    "magic-padding": struct.pack("<Q", 13) + b"nix-archive-1\0\0x" + reg("x"),
    "name-empty": MAGIC + directory(entry("", canary)),
    "name-dot": MAGIC + directory(entry(".", canary)),
    "name-dotdot": MAGIC + directory(entry("..", canary)),
    "name-dotdot-slash": MAGIC + directory(entry("../canary", canary)),
    "name-slash": MAGIC + directory(entry("a/b", canary)),
    "name-absolute": MAGIC + directory(entry("/tmp/canary", canary)),
    "name-nul": MAGIC + directory(entry("canary\0x", canary)),
    "name-256": MAGIC + directory(entry("a" * 256, canary)),
    "dup": MAGIC + directory(entry("a", canary), entry("a", canary)),
    "dup-link-then-dir": MAGIC
    + directory(entry("a", link("..")), entry("a", directory(entry("canary", canary)))),
    "unsorted": MAGIC + directory(entry("b", canary), entry("a", canary)),
    "unsorted-prefix": MAGIC + directory(entry("aa", canary), entry("a", canary)),
    "unsorted-signed": MAGIC + directory(entry(b"\xc3", canary), entry("a", canary)),
    "depth-65": MAGIC + deep(65),
    "depth-65-file": MAGIC
    + (OPEN + s("directory") + s("entry") + s("(") + s("name") + s("d") + s("node")) * 64
    + canary,
    "link-empty": MAGIC + link(""),
    "link-nul": MAGIC + link("a\0b"),
    "link-4096": MAGIC + link("a" * 4096),
    "padding-contents": MAGIC
    + OPEN + s("regular") + s("contents") + struct.pack("<Q", 1) + b"x\0\0\0\0\0\0\1" + CLOSE,
    "padding-tag": MAGIC + struct.pack("<Q", 1) + b"(\0\0\0\0\0\0\1",
    "executable-value": MAGIC
    + OPEN + s("regular") + s("executable") + s("x") + s("contents") + s("") + CLOSE,
    "executable-twice": MAGIC
    + OPEN + s("regular") + (s("executable") + s("")) * 2 + s("contents") + s("") + CLOSE,
    "executable-late": MAGIC
    + OPEN + s("regular") + s("contents") + s("") + s("executable") + s("") + CLOSE,
    "contents-twice": MAGIC + OPEN + s("regular") + (s("contents") + s("x")) * 2 + CLOSE,
    "type-unknown": MAGIC + OPEN + s("device") + CLOSE,
    "type-twice": MAGIC + OPEN + s("regular") + s("type") + s("symlink") + s("target") + s("x") + CLOSE,
    "tag-long": MAGIC + s("(" * 33),
    "entry-without-node": MAGIC + OPEN + s("directory") + s("entry") + s("(") + s("name") + s("a") + s(")") + CLOSE,
    "entry-node-first": MAGIC + OPEN + s("directory") + s("entry") + s("(") + s("node") + canary + s("name") + s("a") + s(")") + CLOSE,
    "dir-with-contents": MAGIC + OPEN + s("directory") + s("contents") + s("x") + CLOSE,
}
for n in range(1, 17):
    cases["size-2e64-%d" % n] = MAGIC + sized(2**64 - n)
    cases["string-2e64-%d" % n] = MAGIC + string_len(2**64 - n)
for n in (31, 32, 63):
    for d in (-1, 0, 1):
        cases["string-2e%d%+d" % (n, d)] = MAGIC + string_len(2**n + d)
cases["size-2e63"] = MAGIC + sized(2**63)
cases["size-2e63+1"] = MAGIC + sized(2**63 + 1)

for name, data in cases.items():
    with open(os.path.join(HERE, name + ".nar"), "wb") as f:
        f.write(data)
