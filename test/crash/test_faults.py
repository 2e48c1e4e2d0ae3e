"""Each step of an add, a build, a collection and so on fails once, or the core is killed there.

What counts is listed in faults.c, which lets the N-th call fail by ptrace. N goes from 1 until the scenario passes
untouched (AIRPLANT_FAULTS=all, which test/crash/faults sets), or takes a few values (./check). After each step the
fault is over: the daemon answers, the database is sound, each valid path is there and has its hash, what a client was
promised is valid, and a client that was refused has read why.
"""
import contextlib
import errno
import hashlib
import os
import pathlib
import platform
import random
import re
import signal
import sqlite3
import subprocess
import sys
import time

import pytest

from conftest import DAEMON, REPO, wait_for

sys.path.append(str(pathlib.Path(__file__).parents[1] / "boundary"))
from test_crash import quarantined, stock_verifies  # noqa: E402
from worker import Closed, Raw, Refused, Worker, nar, source_ca, source_path, strings  # noqa: E402

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="faults.c knows the registers of x86_64 alone")
WHICH = os.environ.get("AIRPLANT_FAULTS", "")  # "all", or numbers of steps: "17 18"
SAMPLES = 2
COLLECT, DELETE, OPTIMISE, VERIFY, BUILD, NO_LIMIT = 20, 2, 34, 35, 46, (1 << 64) - 1


@pytest.fixture(scope="session")
def faults(tmp_path_factory):
    program = tmp_path_factory.mktemp("faults") / "faults"
    subprocess.run(["gcc", "-O1", "-o", program, REPO / "test/crash/faults.c"], check=True)
    return program


class Faults:
    """While it is entered, the daemon's N-th step fails."""

    def __init__(self, program, daemon, of, kind, how, n):
        self.argv, self.daemon = [program, of, kind, how, str(n)], daemon

    def __enter__(self):
        core = self.daemon.core.pid
        pids = [core] + [p for p, name in self.daemon.children().items() if p != core and name.startswith("airplant")
                         and name not in ("airplant-ids", "airplant-roots")]
        self.p = subprocess.Popen([*self.argv, *map(str, pids)], stdout=subprocess.PIPE, text=True)
        self.early = []  # what happens meanwhile is traced already
        while (line := self.p.stdout.readline()) != "ready\n":
            assert line, "it cannot trace"
            self.early.append(line)
        return self

    def __exit__(self, *_):
        self.p.terminate()
        self.lines = [*map(str.strip, self.early), *self.p.communicate(timeout=10)[0].splitlines()]
        self.hits = [line for line in self.lines if line.startswith("HIT")]


def nar_of(path):
    """A tree as nar() takes it."""
    if os.path.islink(path):
        return os.readlink(path)
    if os.path.isdir(path):
        return {n: nar_of(os.path.join(path, n)) for n in sorted(os.listdir(path))}
    with open(path, "rb") as f:
        return (f.read(),) if os.stat(path).st_mode & 0o100 else f.read()


def check_store(daemon):
    """The database is sound; what is valid is whole."""
    with contextlib.closing(sqlite3.connect(f"file:{daemon.state}/db/db.sqlite?mode=ro", uri=True, timeout=10)) as db:
        assert db.execute("pragma integrity_check").fetchall() == [("ok",)]
        assert db.execute("pragma foreign_key_check").fetchall() == []
        rows = db.execute("select path, hash from ValidPaths").fetchall()
        assert db.execute("select count(*) from Refs where referrer not in (select id from ValidPaths)").fetchall() == [(0,)]
    for path, digest in rows:
        assert os.path.lexists(path), f"{path} is valid, and is not there"
        assert "sha256:" + hashlib.sha256(nar(nar_of(path))).hexdigest() == digest, f"{path} is not what it was"
    return {p for p, _ in rows}


def spool_of(daemon):
    return daemon.state / "airplant/spool"


def check_spool(daemon):
    """Nothing stays but empty directories of sessions that wait."""
    def left():
        return [os.path.join(d, f) for d, dirs, files in os.walk(spool_of(daemon)) for f in files + dirs
                if d != str(spool_of(daemon)) or f.startswith("b-")]
    def builds():
        """The supervisor that waits has a directory."""
        return [p for p in left() if not re.search(r"/b-\d+(/|$)", p)]
    try:
        wait_for(lambda: not builds() and not quarantined(daemon), daemon.daemon_log)
    except AssertionError:
        raise AssertionError(f"left in the spool: {builds()[:5]}, quarantined: {quarantined(daemon)}\n{daemon.tail()}") from None


# ---- scenarios: `prepare` what is there before, then `act`, which returns what was promised ----

class Add:
    counted, kept = "all", ()

    def prepare(self, daemon, i):
        pass

    def act(self, daemon, i):
        with Worker(daemon.socket, timeout=15) as w:
            text = w.add_text(f"text-{i}", b"text %d" % i)
            return [text, w.add(f"tree-{i}", "fixed:r:sha256", nar({"a": b"x" * 100000 + b"%d" % i, "d": {"b": (b"x",), "c": "a"}}),
                                [text])[0]]


class AddMany(Add):
    def act(self, daemon, i):
        dumps = [nar({"n": b"%d %d" % (i, k)}) for k in range(8)]
        paths = [source_path(str(daemon.store), f"many-{i}", d) for d in dumps]
        with Worker(daemon.socket, timeout=15) as w:
            w.add_multiple([(p, d, {"ca": source_ca(d)}) for p, d in zip(paths, dumps)])
        return paths


class Build:
    counted, kept = "all", ()

    def prepare(self, daemon, i):
        self.drv = daemon.run("nix-instantiate", "-E", f'''
            let sh = name: script: derivation {{ inherit name; system = builtins.currentSystem; builder = "/bin/sh";
                                                 outputs = [ "out" "dev" ]; args = [ "-c" script ]; }};
                a = sh "a-{i}" "echo a > $out; echo > $dev"; in
            sh "b-{i}" "read x < ${{a}}; echo log; echo $x $dev > $out; mkdir $dev; echo ${{a.dev}} > $dev/f"''',
            user="root").stdout.strip()

    def act(self, daemon, i):
        with Worker(daemon.socket, timeout=15) as w:
            w.op(BUILD, strings([self.drv + "!*"]), 0)
            for _ in range(w.u64()):
                w.string()
                status, text = w.u64(), w.string()
                w.u64(), w.u64(), w.u64(), w.u64()
                for _ in range(2):
                    if w.u64():
                        w.u64()
                outputs = [(w.string(), w.string())[1] for _ in range(w.u64())]
                if status > 2:
                    raise Refused(text + "\n" + "\n".join(w.log))
        return [str(daemon.store / re.search(r'"outPath":\s*"(?:[^"]*/)?([^"/]+)"', o).group(1)) for o in outputs]


class Collect:
    counted = "airplantd"

    def prepare(self, daemon, i):
        with Worker(daemon.socket) as w:
            last = []
            for k in range(12):
                last = [w.add(f"dead-{i}-{k}", "fixed:r:sha256", nar({"a": {"b": b"%d" % k}}), last)[0]]
            live = w.add_text(f"live-{i}", b"live %d" % i)
        (daemon.state / "gcroots/live").unlink(missing_ok=True)
        (daemon.state / "gcroots/live").symlink_to(live)
        (daemon.state / "gcroots/auto/stale").unlink(missing_ok=True)
        (daemon.state / "gcroots/auto/stale").symlink_to("/tmp/airplant-nothing-is-there")
        (daemon.store / f"left-over-{i}").mkdir()
        os.chown(daemon.store / f"left-over-{i}", daemon.users[DAEMON].pw_uid, -1)
        self.kept = [live]

    def act(self, daemon, i):
        with Worker(daemon.socket, timeout=15) as w:
            w.op(COLLECT, DELETE, strings([]), 0, NO_LIMIT, 0, 0, 0)
            gone = w.strings()
            for p in gone:
                assert not os.path.lexists(p) or f"deleting '{p}': " in "\n".join(w.log), f"{p} is there"
        # The child that deletes takes part; where its steps fail, something is left.
        end, trash = time.monotonic() + 0.5, daemon.state / "airplant/spool/trash"
        while time.monotonic() < end and os.listdir(trash):
            time.sleep(0.01)
        return self.kept


class Optimise:
    counted = "all"

    def prepare(self, daemon, i):
        with Worker(daemon.socket) as w:
            self.kept = [w.add(f"equal-{i}-{k}", "fixed:r:sha256", nar({"a": b"equal %d" % i, "b": b"b%d" % k}))[0]
                         for k in range(4)]

    def act(self, daemon, i):
        with Worker(daemon.socket, timeout=15) as w:
            w.op(OPTIMISE)
            w.u64()
        return self.kept


class Repair(Build):
    """A broken output is built again and takes its place."""

    def prepare(self, daemon, i):
        super().prepare(daemon, i)
        self.kept = super().act(daemon, i)
        broken = next(p for p in self.kept if p.endswith(f"b-{i}-dev"))
        os.chmod(broken + "/f", 0o644)
        with open(broken + "/f", "a") as f:
            f.write("more")

    def act(self, daemon, i):
        with Worker(daemon.socket, timeout=15) as w:
            w.op(VERIFY, 1, 1)
            if w.u64():
                raise Refused("it is not repaired: " + "\n".join(w.log)[-1000:])
        return self.kept


SCENARIOS = {"add": Add, "add many": AddMany, "build": Build, "collect": Collect, "optimise": Optimise, "repair": Repair}


class Run:
    def __init__(self, faults, daemon, scenario):
        self.program, self.daemon, self.s, self.i = faults, daemon, scenario, 0
        self.promised = []

    def step(self, kind, how, n, of=None):
        """One try with the N-th call struck. Gives the calls that were struck and the client's error."""
        f = Faults(self.program, self.daemon, of or self.s.counted, kind, how, n)
        return f, self.within(f)

    def within(self, fault):
        d, self.i, text = self.daemon, self.i + 1, None
        self.s.prepare(d, self.i)
        self.promised = list(self.s.kept)
        with fault:
            try:
                self.promised = self.s.act(d, self.i)
            except Refused as e:
                text = str(e)
            except (Closed, OSError) as e:
                text = f"closed: {e!r}"
        return text

    def restart(self):
        """At once: children of the one that was killed may still have its socket and its lock."""
        self.daemon.socket.unlink(missing_ok=True)
        self.daemon.start_core()

    def settle(self):
        """The fault is over."""
        d = self.daemon
        if d.core.poll() is not None:
            self.restart()
        try:
            with Worker(d.socket, timeout=15) as w:
                again = w.add_text(f"after-{self.i}", b"after %d" % self.i)
                assert w.valid(again)
                for p in self.promised:
                    assert w.valid(p), f"{p} was promised"
            self.promised = self.s.act(d, self.i)  # and now it can be done
        except (Refused, Closed, OSError) as e:
            raise AssertionError(f"afterwards: {e!r}\n{d.tail()[-1500:]}") from e
        check_store(d)


def numbers(program, daemon, scenario, kind, of=None):
    """The steps to try: all, or some. A first pass, without faults, counts them."""
    run = Run(program, daemon, scenario)
    for _ in range(2):  # the first time everything is made that is made once
        f, text = run.step(kind, "count", 0, of)
        assert text is None, text
        run.settle()
    n = len(f.lines)
    assert n > 2, f.lines
    print(f"{n} steps", *f.lines, sep="\n")
    if WHICH:
        return run, range(1, n + 12) if WHICH == "all" else [int(w) for w in WHICH.split()]
    r = random.Random(n)
    return run, sorted(r.sample(range(1, n + 1), min(n, SAMPLES)))


KINDS = {"full": ("space", errno.ENOSPC, True), "bad": ("change", errno.EIO, False), "read-only": ("change", errno.EROFS, True),
         "no descriptors": ("fds", errno.EMFILE, False)}


@pytest.mark.parametrize("fault", KINDS)
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_each_step_fails(make_daemon, faults, scenario, fault):
    kind, error, stays = KINDS[fault]
    of = "airplantd" if kind == "fds" else None  # the others have few, and no limit that clients could reach
    daemon = make_daemon("broker", "keep-derivations = false\nmin-free = 0\n")
    run, todo = numbers(faults, daemon, SCENARIOS[scenario](), kind, of)
    wrong = []
    for n in todo:
        core = daemon.core.pid
        f, text = run.step(kind, f"{error}{'+' if stays else ''}", n, of)
        if not f.hits:
            break
        try:
            assert daemon.core.poll() is None, "the core has ended"
            if text is not None:
                # SQLite opens what it may not write, and says so.
                second = os.strerror(errno.EROFS if "db.sqlite" in f.hits[0] else error)
                assert os.strerror(error) in text or second in text, f"not the cause: {text}"
            run.settle()
        except AssertionError as e:
            wrong.append(f"--- {n}: {f.hits[0]}\nclient: {str(text)[:300]}\n{str(e)[:1800]}")
            if not os.environ.get("AIRPLANT_FAULTS_GO_ON"):
                break
            if daemon.core.poll() is not None:
                run.restart()
    assert not wrong, "\n".join(wrong)
    daemon.run("nix-store", "--gc", user="root")
    check_spool(daemon)
    stock_verifies(daemon)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_killed_at_each_step(make_daemon, faults, scenario):
    """kill -9 of the core, wherever it and its children are."""
    daemon = make_daemon("broker", "keep-derivations = false\nmin-free = 0\n")
    run, todo = numbers(faults, daemon, SCENARIOS[scenario](), "change")
    wrong = []
    for n in todo:
        f, text = run.step("change", "kill", n)
        if not f.hits:
            break
        try:
            assert text is None or text.startswith("closed"), text
            daemon.core.wait(10)
            run.settle()
            check_spool(daemon)
        except AssertionError as e:
            wrong.append(f"--- {n}: {f.hits[0]}\nclient: {str(text)[:300]}\n{str(e)[:1800]}")
            if not os.environ.get("AIRPLANT_FAULTS_GO_ON"):
                break
            if daemon.core.poll() is not None:
                run.restart()
    assert not wrong, "\n".join(wrong)
    daemon.run("nix-store", "--gc", user="root")
    check_spool(daemon)
    stock_verifies(daemon)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_helpers_killed_at_each_step(make_daemon, faults, scenario):
    """kill -9 of whichever session, supervisor or child of the core is at that step. The core goes on."""
    daemon = make_daemon("broker", "keep-derivations = false\nmin-free = 0\n")
    of = "airplant-session,airplant-build,children"
    run, todo = numbers(faults, daemon, SCENARIOS[scenario](), "change", of)
    wrong = []
    for n in todo:
        f, text = run.step("change", "die", n, of)
        if not f.hits:
            break
        try:
            assert daemon.core.poll() is None, "the core has ended"
            run.settle()
            check_spool(daemon)
        except AssertionError as e:
            wrong.append(f"--- {n}: {f.hits[0]}\nclient: {str(text)[:300]}\n{str(e)[:1800]}")
            if not os.environ.get("AIRPLANT_FAULTS_GO_ON"):
                break
    assert not wrong, "\n".join(wrong)
    stock_verifies(daemon)
