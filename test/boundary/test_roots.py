"""The tracer of roots (src/ipc/roots.h): what it finds, what ordinary users do to hide or to stop it,
what it may do. Needs root: several users, and the two capabilities."""
import ctypes
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import time

import pytest

from conftest import ALICE, BOB, DAEMON, TRACER, can_see

DIGITS = "0123456789abcdfghijklmnpqrsvwxyz"
FIELDS = {"A": 1, "P": 2, "L": 5, "I": 1, "S": 1, "F": 2, "Z": 1}
libc = ctypes.CDLL(None, use_errno=True)


def parse(data):
    """Records as tuples. Whatever a client must refuse is an assertion."""
    assert data.endswith(b"\0"), data[-100:]
    fields, records = data[:-1].decode(errors="surrogateescape").split("\0"), []
    while fields:
        n = FIELDS[fields[0][0]]
        records.append((fields[0][0], fields[0][1:], *fields[1:n]))
        assert len(records[-1]) == n + 1
        fields = fields[n:]
    assert records[0] == ("A", "1") and records[-1] == ("Z", str(len(records) - 1))
    return records


def connect(path, uid):
    """The bytes that a process of `uid` is sent."""
    code = f"""if 1:
        import os, socket, sys
        os.setgroups([]); os.setresgid({uid}, {uid}, {uid}); os.setresuid({uid}, {uid}, {uid})
        s = socket.socket(socket.AF_UNIX)
        s.connect(sys.argv[1])
        while data := s.recv(65536):
            sys.stdout.buffer.write(data)"""
    return subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, timeout=120, check=True).stdout


class Tracer:
    def __init__(self, daemon, *options):
        self.daemon, self.n = daemon, 0
        self.uid = daemon.users[DAEMON].pw_uid
        for d in ("gcroots/auto", "profiles/per-user"):
            (daemon.state / d).mkdir(parents=True)
        self.state = daemon.state
        self.socket = daemon.start_roots(*options)

    def path(self, name, directory=False, digit=None):
        """A file in the store, with the store's owner."""
        self.n += 1
        digit = digit or DIGITS[self.n % 32]
        p = self.daemon.store / (digit * 32 + "-" + name)
        if directory:
            p.mkdir()
        else:
            p.write_text("x")
        os.chown(p, self.uid, self.uid)
        return p

    def records(self):
        return parse(connect(self.socket, self.uid))

    def ask(self):
        """({base: {what, …}}, {link: (state, owner, target, base)}), of a complete answer."""
        roots, links = {}, {}
        for r in self.records():
            assert r[0] != "I", r
            if r[0] == "P":
                roots.setdefault(r[1], set()).add(r[2])
            elif r[0] == "L":
                links[r[1]] = r[2:]
        return roots, links


@pytest.fixture
def tracer(make_daemon):
    return Tracer(make_daemon("broker", start=False))


def as_user(user, *argv, **kw):
    return subprocess.Popen(["setpriv", "--reuid", user, "--regid", user, "--clear-groups", *map(str, argv)],
                            stdin=subprocess.PIPE, stdout=subprocess.PIPE, **kw)


def python(user, code, *args, **kw):
    """A process of `user` that says when it has done what it is for, and waits."""
    p = as_user(user, sys.executable, "-c", "import os, sys, time\n" + code +
                "\nprint('ready', flush=True); time.sleep(600)", *args, **kw)
    assert p.stdout.readline() == b"ready\n"
    return p


@pytest.fixture
def run():
    started = []

    def start(*args, **kw):
        started.append(python(*args, **kw))
        return started[-1]

    yield start
    for p in started:
        p.kill()
        p.wait()


def wait_until(predicate, seconds=10):
    end = time.monotonic() + seconds
    while not predicate():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_links(tracer):
    d, state = tracer.daemon, tracer.state
    home = d.homes[ALICE]
    direct, reg, profile, result, chained = (tracer.path(n) for n in ("direct", "regular", "profile", "result", "chain"))
    (state / "gcroots/sub").mkdir()
    (state / "gcroots/sub/direct").symlink_to(f"{direct}/bin")
    (state / "gcroots" / reg.name).write_text("")
    (state / "profiles/per-user/deep").mkdir()
    (state / "profiles/per-user/deep/profile-1-link").symlink_to(profile)
    (home / "a b\n").mkdir()
    (home / "a b\n/result").symlink_to(result)
    (home / "one").symlink_to("a b\n/../two")
    (home / "two").symlink_to(f"{home}/three")
    (home / "three").symlink_to(chained)
    (home / "loop").symlink_to("loop2")
    (home / "loop2").symlink_to("loop")
    (home / "file").write_text("")
    (home / "lost").symlink_to("nothing")
    for p in home.rglob("*"):
        os.chown(p, d.users[ALICE].pw_uid, -1, follow_symlinks=False)
    assert home.stat().st_mode & 0o777 == 0o700
    for i, target in enumerate(("a b\n/result", "one", "loop", "file", "missing", "missing/dir", "lost")):
        (state / "gcroots/auto" / str(i)).symlink_to(home / target)
    (state / "gcroots/auto/not-valid").symlink_to(f"{d.store}/{'z' * 32}-not-there")
    roots, links = tracer.ask()
    alice = str(d.users[ALICE].pw_uid)
    assert roots == {direct.name: {f"{state}/gcroots/sub/direct"}, reg.name: {f"{state}/gcroots/{reg.name}"},
                     profile.name: {f"{state}/profiles/per-user/deep/profile-1-link"},
                     result.name: {f"{home}/a b\n/result"}, chained.name: {f"{home}/one"}}
    assert {k[13:]: (v[0], v[1], v[3]) for k, v in links.items()} == {
        "0": ("a", alice, result.name), "1": ("a", alice, chained.name), "2": ("o", alice, ""),
        "3": ("o", alice, ""), "4": ("g", "-", ""), "5": ("g", "-", ""), "6": ("o", alice, "")}
    assert links["gcroots/auto/1"][2] == f"{home}/one"


def test_a_process_of_each_kind(tracer, run):
    """exe, cwd, open file, mapped file, environment: of users whose processes nobody else may look at."""
    exe, cwd, opened, mapped, env = (tracer.path(n, n == "cwd") for n in ("exe", "cwd", "opened", "mapped", "env"))
    shutil.copy2("/bin/sleep", exe)
    mapped.write_bytes(b"x" * 4096)
    sleeper = as_user(ALICE, exe, "600")
    holder = run(BOB, f"""
import ctypes, mmap
os.chdir({str(cwd)!r})
f = os.open({str(opened)!r}, os.O_RDONLY)
g = os.open({str(mapped)!r}, os.O_RDONLY)
m = mmap.mmap(g, 4096, mmap.MAP_SHARED, mmap.PROT_READ)
ctypes.CDLL(None).prctl(4, 0)  # not dumpable
""", env={"LONG": "x" * 100000, "TOOL": f"a{env}/bin:b", "PATH": os.environ["PATH"]})
    opened.unlink()  # " (deleted)" stands behind the name then
    opened.write_text("another file of that name")
    try:
        wait_until(lambda: os.readlink(f"/proc/{sleeper.pid}/exe") == str(exe))
        roots, _ = tracer.ask()
    finally:
        sleeper.kill()
        sleeper.wait()
    p = f"/proc/{holder.pid}"
    assert f"/proc/{sleeper.pid}/exe" in roots[exe.name]
    assert roots[cwd.name] == {f"{p}/cwd"}
    assert any(re.fullmatch(p + r"/fd/\d+", w) for w in roots[opened.name])
    assert f"{p}/maps" in roots[mapped.name]
    assert roots[env.name] == {f"{p}/environ"}
