"""Hostile clients: what one user's connections cost the others, and what they claim. (The protocol itself, byte by
byte: test/boundary/test_wire.py. Settings and trust: test/client/test_options.py.)

Seen red without the defence named:

    listen.c: no session for who has left                    test_flood[connections without a word]
    accounts.c: CONNECTIONS_PER_UID                          test_connections_of_one_user
    db.h: half of the room for signatures                    test_signatures_fill_one_half
    write.c: merging signatures does not take for ever       test_flood[signatures]
    listen.c: who is not allowed                             test_who_is_not_allowed
    gc.c: pins of what is added during a collection          test_collections_and_adds
"""
import hashlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time

import pytest

from conftest import ALICE, BOB, REPO, Daemon, wait_for
import puppet  # noqa: F401  finds worker.py
from worker import (Closed, Refused, Worker, base32, frames, nar, nar_head, source_ca, source_path, store_path, string, strings,
                    u64)


class Machine:
    def __init__(self, daemon):
        self.daemon, self.store = daemon, str(daemon.store)
        with self.client("root") as w:
            self.known = w.add_text("known", b"known\n")

    def client(self, user, timeout=30):
        os.seteuid(self.daemon.users[user].pw_uid if user != "root" else 0)
        try:
            w = Worker.__new__(Worker)
            w.s, w.log, w.version = socket.socket(socket.AF_UNIX), [], (1, 38)
            w.s.connect(str(self.daemon.socket))  # as clients do it: it waits where the queue is full
            w.s.settimeout(timeout)
            w.greet()
            return w
        finally:
            os.seteuid(0)

    def sessions(self):
        return [pid for pid, name in self.daemon.children().items() if name == "airplant-sessio"]

    def worst(self, seconds, user=BOB, act=None):
        """The longest that `user` waits for an answer, or for a whole connection, meanwhile."""
        worst, n, end = 0, 0, time.monotonic() + seconds
        while time.monotonic() < end:
            start = time.monotonic()
            with self.client(user) as w:
                assert w.valid(self.known) == 1
                if act:
                    act(w, n)
            worst = max(worst, time.monotonic() - start)
            n += 1
        return worst


@pytest.fixture(scope="module")
def machine(binaries, users):
    daemon = Daemon(tempfile.mkdtemp(prefix="airplant-", dir="/tmp"), binaries, users, "single").start()
    yield Machine(daemon)
    daemon.stop()
    subprocess.run(["chmod", "-R", "u+rwx", str(daemon.base)], stderr=subprocess.DEVNULL)
    shutil.rmtree(daemon.base, ignore_errors=True)


@pytest.fixture
def m(machine):
    pid = machine.daemon.core.pid
    yield machine
    assert machine.daemon.core.poll() is None and machine.daemon.core.pid == pid
    with machine.client(BOB) as w:
        assert w.valid(machine.known) == 1
    assert open(machine.known).read() == "known\n"


class Flood:
    """Other processes, of ALICE: each runs `code` again and again until the end of the block."""

    def __init__(self, m, code, n=3):
        uid = m.daemon.users[ALICE].pw_uid
        program = f"""
import os, sys, itertools
os.setuid({uid})
sys.path[:0] = [{str(REPO / "test/boundary")!r}]
from worker import *
path, known, store = {str(m.daemon.socket)!r}, {m.known!r}, {m.store!r}
print("go", flush=True)
for i in itertools.count({{first}}):
{chr(10).join("    " + line for line in code.strip().splitlines())}
"""
        self.procs = [subprocess.Popen([sys.executable, "-c", program.replace("{first}", str(k << 20))],
                                       stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for k in range(n)]

    def __enter__(self):
        for p in self.procs:
            assert p.stdout.readline() == "go\n"
        time.sleep(0.3)
        return self

    def __exit__(self, *_):
        alive = [p.poll() is None for p in self.procs]
        for p in self.procs:
            p.kill()
        said = [p.communicate()[1] for p in self.procs]
        assert all(alive), said


# -- one user's share --------------------------------------------------------------------------

FLOODS = {
    "connections": "Worker(path).close()",
    "connections without a word": "s = socket.socket(socket.AF_UNIX); s.connect(path); s.close()",
    "queries": """
if i & 0xfffff == 0: w = Worker(path)
w.valid(known)
""",
    "adds": """
if i & 0xfffff == 0: w = Worker(path)
w.add_text(f"alice-{i % 1000}", b"x" * 100)
""",
    "errors": """
if i & 0xfffff == 0: w = Worker(path)
try: w.op(5, store + "/" + "a" * 32 + "-ghost")
except Refused: pass
""",
    "temporary roots": """
if i & 0xfffff == 0: w = Worker(path)
w.send(b"".join(u64(11) + string("%s/%032d-r" % (store, i * 100 + k)) for k in range(100)))
for _ in range(100): w.finish(); w.u64()
""",
    "signatures": """
if i & 0xfffff == 0: w = Worker(path)
try: w.op(37, known, strings(["k:%08d" % k for k in range(i * 1000, i * 1000 + 100000)]))
except Refused: pass
""",
    "searches for roots": """
if i & 0xfffff == 0: w = Worker(path)
w.op(14)
for _ in range(w.u64()): w.string(), w.string()
""",
}


@pytest.mark.parametrize("what", FLOODS)
def test_flood(m, what):
    """Three processes of one user as fast as they can: another's connection, query and add stay quick (the bound is
    generous: the tests' machine has two processors, and the flood's own processes take their share)."""
    with Flood(m, FLOODS[what]):
        worst = m.worst(1.5, act=lambda w, n: w.add_text(f"bob-{what.replace(' ', '-')}-{n}", b"bob's"))
    assert worst < 1.5


def test_connections_of_one_user(m):
    """He has so many; then his next is closed, and nobody else's."""
    mine = []
    try:
        for _ in range(530):
            s = socket.socket(socket.AF_UNIX)
            os.seteuid(m.daemon.users[ALICE].pw_uid)
            try:
                s.connect(str(m.daemon.socket))
            finally:
                os.seteuid(0)
            mine.append(s)
        closed = lambda: sum(ended(s) for s in mine)
        wait_for(lambda: closed() == 18, m.daemon.daemon_log, seconds=30)
        assert m.worst(0.3) < 1
        assert not ended(mine[0])
    finally:
        for s in mine:
            s.close()
    wait_for(lambda: len(m.sessions()) <= 8, m.daemon.daemon_log, seconds=30)
    with m.client(ALICE) as w:
        assert w.valid(m.known) == 1


def ended(s):
    s.setblocking(False)
    try:
        return s.recv(1, socket.MSG_PEEK) == b""
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True


def test_half_an_add_blocks_nobody(m):
    """No lock is held while a client's bytes are waited for: another adds the same path meanwhile."""
    dump = nar({"f": b"contents" * 1000})
    path = source_path(m.store, "shared", dump)
    with m.client(ALICE) as slow, m.client(ALICE) as slow_text:
        slow.send(39, nar_head(path, dump, ca=source_ca(dump)), frames(dump)[:-200])
        slow_text.send(7, "shared", "fixed:r:sha256", strings([]), 0, frames(dump)[:5000])
        time.sleep(0.1)
        start = time.monotonic()
        with m.client(BOB) as w:
            w.add_nar(path, dump, ca=source_ca(dump))
            assert w.valid(path) == 1
        assert time.monotonic() - start < 1
        slow.send(frames(dump)[-200:])
        slow.finish()
        assert slow.valid(path) == 1


def test_builds_are_shared_out(make_daemon):
    """Fifty builds of one user wait; another's gets the next free slot."""
    daemon = make_daemon("single", "max-jobs = 2\n")
    many = "[ " + " ".join(f'(sh "alice-{i}" "echo {i}; sleep 0.7; echo > $out")' for i in range(50)) + " ]"
    flood = daemon.popen("nix-build", "--no-out-link", "-E", PRELUDE + many)
    try:
        wait_for(lambda: any("sleep" in n or n == "sh" or n == "busybox" for n in daemon.children().values()),
                 daemon.daemon_log, flood, seconds=30)
        start = time.monotonic()
        daemon.nix_build('sh "bobs" "echo > $out"', user=BOB)
        assert time.monotonic() - start < 8  # all of hers take 17
        assert flood.poll() is None
    finally:
        flood.kill()
        flood.wait()


from conftest import PRELUDE  # noqa: E402


# -- memory and time of one request ------------------------------------------------------------

def peak(pid):
    for line in open(f"/proc/{pid}/status"):
        if line.startswith("VmHWM"):
            return int(line.split()[1]) >> 10


def test_memory_of_a_session(m):
    """What a client says may be large, or may claim to be: MiB at the worst moment."""
    text = b"x" * (60 << 20)
    dump = nar({"big": b"\0" * (150 << 20)})
    acts = {
        "a NAR": (40, lambda w: w.add_nar(source_path(m.store, "big", dump), dump, ca=source_ca(dump))),
        "a text": (200, lambda w: w.add_text("text", text)),
        "a claim": (20, lambda w: (w.send(9, u64(4 << 20), b"x" * 64), w.s.shutdown(socket.SHUT_WR), w.finish())),
        "a list of paths": (300, lambda w: w.op(31, strings([m.known] * 200000), 0)),
    }
    for what, (limit, act) in acts.items():
        before = set(m.sessions())
        with m.client(ALICE) as w:
            w.valid(m.known)
            pids = set(m.sessions()) | before
            peaks, stop = {}, threading.Event()

            def watch():
                while not stop.is_set():
                    for pid in pids:
                        try:
                            peaks[pid] = max(peaks.get(pid, 0), peak(pid) or 0)
                        except OSError:
                            pass
                    time.sleep(0.005)
            t = threading.Thread(target=watch)
            t.start()
            try:
                act(w)
            except (Refused, Closed):
                pass
            finally:
                stop.set()
                t.join()
        assert max(peaks.values()) < limit, what


def test_a_hundred_thousand_targets(m):
    """In one request: of paths that are there, and of ones that are not. Nobody else waits for it."""
    there = strings([m.known] * 100000)
    ghosts = strings([f"{m.store}/{i:032d}-ghost.drv!out" for i in range(100000)])
    for number, tail in ((9, (0,)), (46, (0,)), (40, ())):
        for targets in (there, ghosts):
            with m.client(ALICE, timeout=60) as w:
                w.send(number, targets, *tail)
                waited = m.worst(0.3)
                start = time.monotonic()
                try:
                    w.finish()
                except (Refused, Closed):
                    pass
                assert time.monotonic() - start < 20 and waited < 1.5, number


def fixed_drv(store, name, inputs=(), env=(), path=None):
    """(text, output) of a fixed-output derivation: its path does not depend on its inputs."""
    digest = hashlib.sha256(name.encode()).hexdigest()
    inner = hashlib.sha256(f"fixed:out:sha256:{digest}:".encode()).hexdigest()
    out = path or store_path(store, "output:out", inner, name)
    pairs = sorted((dict(env) | {"name": name, "out": out}).items())
    ins = ",".join(f'("{p}",["out"])' for p in sorted(inputs))
    return (f'Derive([("out","{out}","sha256","{digest}")],[{ins}],[],"x86_64-linux","/bin/false",[],[' +
            ",".join(f'("{k}","{v}")' for k, v in pairs) + "])").encode(), out


def test_chain_of_ten_thousand(m):
    """Derivations that need each other, 10^4 deep: added, asked about, and built up to the failure at the bottom. Nothing
    recurses over it, in the session or in the core."""
    previous, n = None, 10000
    with m.client(ALICE, timeout=60) as w:
        paths = []
        for i in range(n):
            text, _ = fixed_drv(m.store, f"deep-{i}", [previous] if previous else [])
            refs = [previous] if previous else []
            kind = ":".join(["text", *refs])
            previous = store_path(m.store, kind, hashlib.sha256(text).hexdigest(), f"deep-{i}.drv")
            paths.append((text, refs))
        for first in range(0, n, 100):
            part = paths[first:first + 100]
            w.send(b"".join(u64(7) + string(f"deep-{first + k}.drv") + string("text:sha256") + strings(refs) + u64(0) +
                            frames(text) for k, (text, refs) in enumerate(part)))
            for _ in part:
                w.finish()
                last = w.string()
                w.info()
        assert last == previous
        w.op(40, strings([previous + "!out"]))
        assert len(w.strings()) == n and w.strings() == w.strings() == [] and w.u64() == w.u64() == 0
        w.send(9, strings([previous + "!out"]), 0)
        assert m.worst(0.5) < 2
        with pytest.raises(Refused):
            w.finish()
        w.op(32, strings([previous]))
        assert w.strings() == []


def test_derivations_that_are_too_much(m):
    """A cycle cannot be said (a path follows from the text that names it), and what names itself is not valid; an
    environment of many megabytes is one more text, or too much of one."""
    for size in (1 << 20, 20 << 20, 70 << 20):
        text, _ = fixed_drv(m.store, f"huge-{size}", env={"x": "y" * size})
        with m.client(ALICE) as w:
            try:
                w.add_text(f"huge-{size}.drv", text)
            except (Refused, Closed):
                assert size > 4 << 20
    ghost = f"{m.store}/{'b' * 32}-ghost.drv"
    text, _ = fixed_drv(m.store, "haunted", [ghost])
    for refs in ([], [ghost]):
        with m.client(ALICE) as w, pytest.raises(Refused):
            w.add_text("haunted.drv", text, refs)
    many = [f"{m.store}/{i:032d}-ghost.drv" for i in range(50000)]
    text, _ = fixed_drv(m.store, "crowd", many)
    with m.client(ALICE) as w, pytest.raises((Refused, Closed)):
        w.add_text("crowd.drv", text, many)


# -- claims ------------------------------------------------------------------------------------

def basic(outputs, builder="/bin/sh", args=("-c", "echo forged > $out"), env=()):
    """A BasicDerivation of op 36."""
    out = u64(len(outputs)) + b"".join(string(x) for o in outputs for x in o)
    pairs = u64(len(env)) + b"".join(string(x) for p in env for x in p)
    return out + strings([]) + string("x86_64-linux") + string(builder) + strings(list(args)) + pairs


def test_forged_derivations_without_a_file(m):
    """Op 36 brings a derivation of its own. What it claims to make is somebody else's: valid, or not yet there."""
    before = sorted(os.listdir(m.store))
    wanted = f"{m.store}/{'c' * 32}-glibc-2.40"
    for user in (ALICE, BOB):
        for out in (m.known, wanted, "/etc/passwd", f"{m.store}/../x", ""):
            for name in ("forged.drv", "known.drv"):
                with m.client(user) as w:
                    try:
                        w.op(36, f"{m.store}/{'d' * 32}-{name}", basic([("out", out, "", "")], env=[("out", out)]), 0)
                        status, error = w.u64(), w.string()
                        assert status not in (0, 1, 2) and error
                    except (Refused, Closed):
                        pass
    assert sorted(os.listdir(m.store)) == before


def test_signatures_fill_one_half(m):
    """Anybody may sign any path. What he adds does not keep good signatures out, and everybody who asks for the path
    gets all of them: there are not many."""
    with m.client("root") as w:
        path = w.add_text("popular", b"popular")
    with m.client(ALICE) as w:
        for i in range(100):
            try:
                w.op(37, path, strings([f"k{i}:" + "A" * 4000]))
                w.u64()
            except Refused as e:
                assert "too many signatures" in str(e)
                break
        else:
            raise AssertionError("no end")
        assert i < 16
        with pytest.raises(Refused):
            w.op(37, path, strings(["k:%08d" % n for n in range(1000000)]))
    with m.client("root") as w:
        w.op(37, path, strings(["good-1:" + "A" * 86 + "=="]))
        assert w.u64() == 1
        sigs = w.path_info(path)["sigs"]
        assert len("".join(sigs)) < 64 << 10 and any(s.startswith("good-1:") for s in sigs)


HOSTILE = ["a\nairplantd: forged line", "\x1b]0;owned\x07", "%s%n%x", "\xff\xfe", "-", "--help", "$(id)", "`id`", "a" * 4095, "\r\n",
           "../../..", "{}", "'\"\\", "\u202egnp.exe", "\0x"]


def test_hostile_texts(m):
    """In every field that takes a text: one error or an answer; and no line in the log of a client's making."""
    mark = "forged line"
    ghost = f"{m.store}/{'a' * 32}-"
    for t in HOSTILE:
        for parts in ((1, ghost + t), (5, t), (7, t, "text:sha256", strings([]), 0, frames(b"")), (7, "n", t, strings([]), 0, frames(b"")),
                      (7, "n", "text:sha256", strings([t]), 0, frames(b"")), (9, strings([t]), 0), (9, strings([ghost + "x.drv!" + t]), 0),
                      (10, t), (11, ghost + t), (12, t), (12, "/" + t), (19, *[0] * 12, 1, t, t), (26, t), (29, t), (31, strings([t]), 0),
                      (33, t), (36, ghost + "x.drv", basic([(t, t, t, t)], t, [t], [(t, t)]), 0), (37, m.known, strings([t])),
                      (38, t), (39, m.known, t, t), (40, strings([t])), (41, t), (42, t), (43, t), (45, t), (46, strings([t]), 0),
                      (47, m.known, t)):
            with m.client(ALICE) as w:
                w.send(*parts)
                w.s.shutdown(socket.SHUT_WR)
                try:
                    w.finish()
                except (Refused, Closed):
                    pass
    log = m.daemon.daemon_log.read_text(errors="replace")
    assert not [line for line in log.splitlines() if mark in line and line.startswith("airplantd: forged")]
    assert "\x1b]" not in log


def test_collections_and_adds(m):
    """Collections one after another, of a user without trust: what another is adding at that moment stays."""
    code = """
if i & 0xfffff == 0: w = Worker(path)
w.op(20, 2, strings([]), 0, 2**64 - 1, 0, 0, 0)
w.strings(), w.u64(), w.u64()
"""
    with m.client("root") as keeper, m.client(BOB) as w:
        keeper.op(11, m.known), keeper.u64()
        with Flood(m, code, n=2):
            end, n = time.monotonic() + 1.5, 0
            while time.monotonic() < end:
                one = w.add_text(f"kept-{n}", b"kept")
                two = w.add_text(f"kept-too-{n}", one.encode(), [one])
                assert w.valid(one) == 1 and w.valid(two) == 1 and os.path.exists(one)
                n += 1
        assert n > 10


# -- who may not -------------------------------------------------------------------------------

def test_who_is_not_allowed(make_daemon):
    """Not a byte of his is read (he gets his answer before he says anything), and however often he comes, others are
    served; nothing of what he sends makes a process."""
    daemon = make_daemon("single", f"allowed-users = {ALICE} root\n")
    m = Machine(daemon)
    before = m.sessions()
    held = []
    for i in range(300):
        s = socket.socket(socket.AF_UNIX)
        os.seteuid(daemon.users[BOB].pw_uid)
        try:
            s.connect(str(daemon.socket))
        finally:
            os.seteuid(0)
        held.append(s)
        if i < 3:
            s.settimeout(5)
            assert b"is not allowed to connect" in s.recv(4096)
    assert m.worst(0.5, ALICE) < 1
    assert len(m.sessions()) <= len(before) + 2
    for s in held:
        s.close()
    with pytest.raises((Refused, Closed, AssertionError)):
        m.client(BOB)
