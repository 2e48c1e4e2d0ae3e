"""Each operation in each form that a version or feature of the protocol gives it: test/data/gates. What is not read of an answer, or too
much, shows in the next one, which is looked at as well."""
import hashlib
import os
import pathlib
import re

import pytest

import stock
from test_trust_settings import serve
from worker import Closed, Refused, Worker, frames, info_tail, nar, source_ca, source_path, string, strings, u64

VERSIONS = ["18", "21", "34", "35", "37", "38", "38+"]
FEATURES = ["realisation-with-path-not-hash", "delete-dead-specific-referrers"]
ROWS = [[c.strip() for c in line.split("|")] for line in (pathlib.Path(__file__).parents[1] / "data/gates").read_text().splitlines()
        if line and not line.startswith("#")]
DUMP = nar({"a": b"x", "b": (b"tool",), "c": "a"})


def word(d, w, text):
    if text.startswith("["):
        return strings([word(d, w, x)[8:].rstrip(b"\0") for x in text[1:-1].split(",") if x])
    if text.startswith("="):
        return string(text[1:])
    if text.isdigit():
        return u64(int(text))
    made = source_path(str(d.store), "made", DUMP)
    return {
        "KNOWN": lambda: string(d.known), "LOW": lambda: string(d.low), "DRV": lambda: string(d.drv), "DRV!*": lambda: string(d.drv + "!*"),
        "GHOST": lambda: string(f"{d.store}/{'a' * 32}-ghost"), "LINK": lambda: string(f"{d.base}/some-link"),
        "PERMROOT": lambda: string(f"{d.state}/gcroots/perm"), "HASH": lambda: string(os.path.basename(d.known)[:32]),
        "DRVNAME": lambda: string(os.path.basename(d.drv)), "NAR": lambda: DUMP, "PULLED-NAR": lambda: b"", "FRAMED-NAR": lambda: frames(DUMP),
        "FRAMED-TEXT": lambda: frames(b"text"), "MADE-INFO": lambda: string(made) + info_tail(DUMP, ca=source_ca(DUMP)),
        "FRAMED-MADE": lambda: frames(u64(1) + string(made) + info_tail(DUMP, ca=source_ca(DUMP)) + DUMP),
        "BASIC": lambda: (string(d.drv) + u64(1) + b"".join(map(string, ("out", d.known, "", ""))) + strings([]) +
                          b"".join(map(string, ("x86_64-linux", "/bin/sh"))) + strings([]) + u64(0)),
    }[text]()


def optional(w):
    return w.u64() if w.u64() else None


def result(w, features):
    """Status, outputs; times are read and left out."""
    minor, status, text = w.version[1], w.u64(), w.string()
    if minor >= 29:
        [w.u64() for _ in range(4)]
    if minor >= 37:
        optional(w), optional(w)
    outputs = 0
    if minor >= 28:
        outputs = w.u64()
        for _ in range(outputs):
            w.string(), w.string()
            if features:
                w.strings()
    return status, text, outputs


def answer(w, text, features):
    out = []
    for kind in text.split():
        if kind == "info":
            out.append({k: v for k, v in w.info().items() if k != "time"})
        elif kind == "any":
            w.strings()
        elif kind == "nar":
            out.append(w.read(len(nar(b"low"))) and "nar")
        elif kind == "map":
            out.append(sorted((w.string(), w.string()) for _ in range(w.u64())))
        elif kind == "result":
            out.append(result(w, features))
        elif kind == "results":
            out.append([(w.string(), result(w, features)) for _ in range(w.u64())])
        else:
            got = {"u64": w.u64, "str": w.string, "strs": w.strings}[kind]()
            out.append(sorted(got) if kind == "strs" else got)
    return out


def plain(d, value):
    text = re.sub(r"\x1b\[[0-9;]*m", "", repr(value)).replace(str(d.base), "BASE")
    return re.sub(r"(sha256:)?[0-9a-df-np-sv-z]{52}", "HASH", re.sub(r"[0-9a-df-np-sv-z]{32}-", "H-", text))


def ask(d, row, version):
    """What comes, or the words of the refusal; then whether the stream is in step."""
    minor, features = int(version.rstrip("+")), FEATURES if version.endswith("+") else []
    w = Worker(d.socket, (1, minor), greet=False, timeout=60)
    w.greet(features)
    w.version = (1, min(minor, w.server & 255))
    try:
        rest = [DUMP]

        def give(n):
            part, rest[0] = rest[0][:n], rest[0][n:]
            return part
        w.send(int(row[0]), *[word(d, w, t) for t in row[4].split()])
        w.finish(on_read=give)
        said = plain(d, answer(w, row[5], bool(features) and d.ours))
        assert w.valid(d.known) == 1, "out of step"
        return said
    except Refused as e:
        return "refused: " + plain(d, str(e)).strip("'")
    except Closed:
        return "closed"
    finally:
        w.close()


@pytest.fixture(scope="module")
def both(binaries, users, request):
    made = []

    def make(ours):
        import tempfile

        from conftest import Daemon

        def make_daemon(mode, start):
            d = Daemon(tempfile.mkdtemp(prefix="airplant-", dir="/tmp"), binaries, users, mode)
            made.append(d)
            return d
        d = serve(make_daemon, False, ours, "sandbox-paths = /bin/sh=/bin/busybox\nsubstituters =\ntrusted-substituters =\n")
        out = d.nix_build('let low = builtins.toFile "low" "low"; in sh "known" "printf low > $out"', user="root").stdout.strip()
        d.known, d.ours = out, ours
        d.drv = d.run("nix-store", "-q", "--deriver", out, user="root").stdout.strip()
        d.low = out
        return d
    yield make(False), make(True)
    import shutil
    import subprocess
    for d in made:
        d.stop()
        subprocess.run(["chmod", "-R", "u+rwx", str(d.base)], stderr=subprocess.DEVNULL)
        shutil.rmtree(d.base, ignore_errors=True)


@pytest.mark.parametrize("version", VERSIONS)
def test_gates(both, version):
    theirs, ours = both
    with Worker(theirs.socket, (1, 34)) as w:
        newest = w.server & 255
    wrong = []
    for row in ROWS:
        if not VERSIONS.index(row[2]) <= VERSIONS.index(version) <= VERSIONS.index(row[3]):
            continue
        here = ask(ours, row, version)
        if stock.version() == row[6] or int(version.rstrip("+")) > newest:
            if here.startswith(("refused", "closed")):
                wrong.append((row[:2], here))
            continue
        there = ask(theirs, row, version)
        if there != here:
            wrong.append((row[:2], there, here))
    assert not wrong, "\n".join(map(str, wrong))


def test_each_operation_has_its_row():
    """And at least one form at each version in which it is known."""
    source = (pathlib.Path(__file__).parents[2] / "src/session/ops.c").read_text()
    names = set(re.findall(r'\{ OP_\w+, "(\w+)"', source))
    rows = {r[1].split(",")[0].split(" ")[0] for r in ROWS}
    elsewhere = {"FindRoots": "test_options.py", "ImportPaths": "test_wire.py", "OptimiseStore": "test_optimise.py", "AddTempRoots": "test_wire.py",
                 "RegisterDrvOutput": "test_realise.py", "QueryRealisation": "test_realise.py"}
    assert names == (rows | set(elsewhere)) & names, names - rows - set(elsewhere)
