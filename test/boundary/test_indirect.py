"""Indirect roots in places that do not answer, and many of them (operation 12); many temporary ones."""
import os
import pathlib
import pwd
import subprocess
import sys
import threading
import time

import pytest

from conftest import ALICE
from worker import Refused, Worker, u64, string

HERE = pathlib.Path(__file__).parent
needs_fuse = pytest.mark.skipif(not os.access("/dev/fuse", os.W_OK), reason="needs /dev/fuse")


@pytest.fixture
def fuse():
    """A file system of alice's in which looking up a name takes for ever, or which lets nobody else in."""
    made = []

    def mount(where, options=""):
        where.mkdir()
        made.append(subprocess.Popen([sys.executable, HERE / "stuck_fuse.py", where, str(pwd.getpwnam(ALICE).pw_uid), options],
                                     stdin=subprocess.PIPE, stdout=subprocess.PIPE))
        assert made[-1].stdout.readline() == b"ready\n"
        return where

    yield mount
    for f in made:
        f.stdin.close()
        f.wait()


@needs_fuse
def test_a_place_that_never_answers(make_daemon, fuse):
    """The core does not wait for it: nobody else would be served."""
    d = make_daemon()
    where = fuse(d.base / "silent", ",allow_other")
    with Worker(d.socket, timeout=10) as w:
        w.op(12, str(where / "result"))
        assert w.u64() == 1
    start = time.monotonic()
    d.run("nix-store", "--dump-db")
    assert time.monotonic() - start < 5


@needs_fuse
def test_who_holds_nothing_stops_no_collection(make_daemon, fuse):
    """The tracer cannot look there, and the daemon remembers that the link was made by one who held nothing, or what
    he held; also after a restart."""
    d = make_daemon("broker", start=False)
    d.roots_setting = "tracer"
    d.write_conf()
    d.start()
    d.start_roots()
    where = fuse(d.base / "closed")
    paths = []
    for i in range(2):
        (d.base / f"file{i}").write_text(str(i))
        paths.append(pathlib.Path(d.run("nix-store", "--add", d.base / f"file{i}", user="root").stdout.strip()))
    for link, held in (("nothing", None), ("something", paths[0])):
        with Worker(d.socket) as w:
            for op, name in ([(11, held)] if held else []) + [(12, where / link)]:
                w.op(op, str(name))
                assert w.u64() == 1
    for _ in range(2):
        r = d.run("nix-store", "--gc", user="root")
        assert "garbage is not collected" not in r.stderr
        assert paths[0].exists() and not paths[1].exists()
        d.core.terminate()
        d.core.wait()
        d.start_core()


@needs_fuse
def test_what_is_remembered_is_limited(make_daemon, fuse):
    d = make_daemon()
    where, n = fuse(d.base / "closed"), 65536
    with Worker(d.socket, timeout=60) as w:
        for at in range(0, n + 1, 1024):
            some = range(at, min(at + 1024, n + 1))
            w.s.sendall(b"".join(u64(11) + string(f"{d.store}/{i:032d}-x") for i in some))
            for _ in some:
                w.finish()
                assert w.u64() == 1
        with pytest.raises(Refused, match="too much that they could lead to"):
            w.op(12, str(where / "much"))
        (d.base / "here").symlink_to(d.store)
        w.op(12, str(d.base / "here"))
        assert w.u64() == 1
    assert d.core.poll() is None


def test_many_temporary_roots_are_looked_at_in_slices(make_daemon):
    """Who has many, and asks for all roots again and again, holds up himself."""
    d, n = make_daemon(), 150000
    waits, stop = [], threading.Event()

    def others():
        with Worker(d.socket, timeout=60) as w:
            for i in range(100000):
                start = time.monotonic()
                w.op(11, f"{d.store}/{i:032d}-y")
                assert w.u64() == 1
                waits.append(time.monotonic() - start)
                if stop.wait(0.005):
                    return

    with Worker(d.socket, timeout=60) as w:
        for at in range(0, n, 1000):
            w.s.sendall(b"".join(u64(11) + string(f"{d.store}/{i:032d}-x") for i in range(at, at + 1000)))
            for _ in range(1000):
                w.finish()
                assert w.u64() == 1
        t = threading.Thread(target=others)
        t.start()
        start = time.monotonic()
        w.op(14)
        assert w.u64() == 0  # none of them exists
        took = time.monotonic() - start
        stop.set()
        t.join()
    # In one piece the longest wait is nearly all of it.
    assert max(waits) < 0.1 + took / 2, (max(waits), took)
