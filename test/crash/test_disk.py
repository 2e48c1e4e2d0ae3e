"""Disks that go bad under the daemon: a database that is damaged, a file system that turns read-only or is full, no
descriptor left. One sentence says what and where; nothing is deleted; what can be answered is."""
import contextlib
import os
import pathlib
import re
import resource
import signal
import sqlite3
import subprocess
import sys
import time

import pytest

from conftest import ALICE, BOB, DAEMON, wait_for

sys.path.append(str(pathlib.Path(__file__).parents[1] / "boundary"))
from test_crash import stock_verifies  # noqa: E402
from test_faults import SCENARIOS, WHICH, Run, check_spool, check_store  # noqa: E402
from worker import Closed, Refused, Worker, nar, strings  # noqa: E402

COLLECT, DELETE, VERIFY, ALL = 20, 2, 35, (1 << 64) - 1
WHAT_TO_DO = "sqlite3 db.sqlite .recover"


def fill(daemon, n=300):
    with Worker(daemon.socket) as w:
        last, paths = [], []
        for i in range(n):
            last = [w.add_text(f"n-{i}", b"x %d" % i, last[-1:])]
            paths += last
    return paths


def overwrite(db):
    with open(db, "r+b") as f:
        for at in range(4096, os.path.getsize(db), 4096):
            f.seek(at)
            f.write(b"\xa5" * 2048)


def first_page(db):
    with open(db, "r+b") as f:
        f.write(b"\xa5" * 4096)


def truncate(db):
    os.truncate(db, os.path.getsize(db) // 2 // 4096 * 4096)


def emptied(db):
    os.truncate(db, 0)


def drop_table(db):
    with contextlib.closing(sqlite3.connect(db)) as c:
        c.execute("drop table Refs")
        c.commit()


HARM = {f.__name__: f for f in (overwrite, first_page, truncate, emptied, drop_table)}


def checkpointed(daemon):
    """All rows in the file itself."""
    daemon.stop()
    with contextlib.closing(sqlite3.connect(daemon.state / "db/db.sqlite")) as c:
        c.execute("pragma wal_checkpoint(truncate)")
    for f in (daemon.state / "db").iterdir():
        os.chown(f, daemon.users[DAEMON].pw_uid, daemon.users[DAEMON].pw_gid)


def in_store(daemon):
    return sorted(p.name for p in daemon.store.iterdir())


@pytest.mark.parametrize("harm", HARM)
def test_damaged_at_start(make_daemon, harm):
    daemon = make_daemon("single")
    fill(daemon)
    checkpointed(daemon)
    before, saved = in_store(daemon), (daemon.state / "db/db.sqlite").read_bytes()
    HARM[harm](daemon.state / "db/db.sqlite")
    with contextlib.suppress(AssertionError):
        daemon.start()
    assert daemon.core.wait(10) == 1
    said = daemon.tail().splitlines()[-1]
    assert f"the database '{daemon.state}/db/db.sqlite' is damaged" in said and WHAT_TO_DO in said
    assert in_store(daemon) == before
    (daemon.state / "db/db.sqlite").write_bytes(saved)
    daemon.start()
    assert ask(daemon) == {}


def ask(daemon):
    """One operation of each kind. What was refused, and how."""
    said = {}
    some = str(daemon.store / next(n for n in in_store(daemon) if n.endswith("-n-7")))
    for name, parts, results in (("add", None, ""), ("all", (23,), "p"), ("referrers", (6, some), "p"), ("verify", (VERIFY, 0, 0), "u"),
                                 ("collect", (COLLECT, 1, strings([]), 0, ALL, 0, 0, 0), "p")):
        try:
            with Worker(daemon.socket, timeout=10) as w:
                if parts:
                    w.op(*parts)
                    w.strings() if results == "p" else w.u64()
                else:
                    w.add_text("more", b"more %d" % time.monotonic_ns())
        except Refused as e:
            said[name] = str(e)
    return said


@pytest.mark.parametrize("harm", HARM)
def test_damaged_while_it_runs(make_daemon, harm):
    daemon = make_daemon("single")
    fill(daemon)
    checkpointed(daemon)
    daemon.start()
    before, saved = in_store(daemon), (daemon.state / "db/db.sqlite").read_bytes()
    with Worker(daemon.socket) as w:  # has it open, and goes on or says why not
        assert len(w.op(23) or w.strings()) == 300
        HARM[harm](daemon.state / "db/db.sqlite")
        said = ask(daemon)
        assert said and all("damaged" in s and WHAT_TO_DO in s for s in said.values()), said
        with contextlib.suppress(Refused):
            w.op(23)
            w.strings()
    refused = daemon.run("nix-store", "--gc", user="root", check=False)
    assert refused.returncode != 0 and "damaged" in refused.stderr
    assert daemon.core.poll() is None and in_store(daemon) == before
    daemon.core.kill()
    daemon.core.wait()
    for f in (daemon.state / "db").glob("db.sqlite*"):
        f.unlink()
    (daemon.state / "db/db.sqlite").write_bytes(saved)
    os.chown(daemon.state / "db/db.sqlite", daemon.users[DAEMON].pw_uid, daemon.users[DAEMON].pw_gid)
    daemon.socket.unlink()
    daemon.start_core()
    assert ask(daemon) == {} and set(before) < set(in_store(daemon))


def test_log_of_the_database_is_deleted_while_it_runs(make_daemon):
    daemon = make_daemon("single")
    paths = fill(daemon)
    for end in ("-wal", "-shm"):
        (daemon.state / f"db/db.sqlite{end}").unlink()
    said = ask(daemon)
    assert said and all("restart it" in s for s in said.values()), said
    daemon.stop()
    daemon.start()
    with Worker(daemon.socket) as w:
        assert all(map(w.valid, paths))


@pytest.fixture
def on_disk(make_daemon):
    """A daemon whose directories all lie on a file system of their own."""
    made = []

    def make(*mount, mode="broker"):
        d = make_daemon(mode, "keep-derivations = false\nmin-free = 0\n", start=False)
        d.own_conf = "gc-reserved-space = 262144\n"
        d.write_conf("keep-derivations = false\nmin-free = 0\n")
        d.daemon_log = d.base.with_name(d.base.name + ".log")
        copy = d.base.with_name(d.base.name + ".copy")
        subprocess.run(["cp", "-a", d.base, copy], check=True)
        made.append((d, copy))
        subprocess.run(["mount", *mount, d.base], check=True)
        subprocess.run(["cp", "-a", f"{copy}/.", d.base], check=True)
        subprocess.run(["rm", "-rf", copy], check=True)
        return d.start()

    yield make
    for d, copy in made:
        with contextlib.suppress(OSError):  # a file of it cannot be deleted
            d.stop()
        subprocess.run(["umount", "-l", d.base], check=False)
        subprocess.run(["rm", "-rf", d.daemon_log, copy], check=True)


class Full:
    """While it is entered, this many bytes are free."""

    def __init__(self, daemon, left):
        self.file, self.left = daemon.base / "fill", left

    def __enter__(self):
        st = os.statvfs(self.file.parent)
        with open(self.file, "wb") as f:
            os.posix_fallocate(f.fileno(), 0, st.f_bavail * st.f_frsize - self.left)

    def __exit__(self, *_):
        self.file.unlink()


SIZES = range(0, 1 << 20, 4096) if WHICH == "all" else (0, 8192, 32768, 65536, 196608)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_full_disk(on_disk, scenario):
    """Really full, with a little more left each time, until it is enough three times in a row."""
    daemon = on_disk("-t", "tmpfs", "-o", "size=48m,mode=0755", "tmpfs")
    run, enough, refused = Run(None, daemon, SCENARIOS[scenario]()), 0, 0
    for left in SIZES:
        text = run.within(Full(daemon, left))
        assert text is None or "No space left on device" in text, f"{left} bytes: {text}"
        assert daemon.core.poll() is None
        run.settle()
        enough, refused = (enough + 1, refused) if text is None else (0, refused + 1)
        if enough == 3:
            break
    assert refused or scenario in ("collect", "optimise")
    daemon.run("nix-store", "--gc", user="root")
    check_spool(daemon)
    stock_verifies(daemon)


def read_only(daemon, said):
    """What is refused says why; questions are answered as long as there are sessions that wait."""
    assert "all" not in said, said
    assert said and all("Read-only file system" in s for s in said.values()), said
    for argv in (["nix-store", "--gc"], ["nix-build", "--no-out-link", "-E", """derivation { name = "a"; builder = "/bin/sh";
                  system = builtins.currentSystem; args = [ "-c" "echo > $out" ]; }"""]):
        r = daemon.run(*argv, user="root", check=False)
        assert r.returncode != 0 and "Read-only file system" in r.stderr, r.stderr
    assert daemon.core.poll() is None


def test_store_turns_read_only(make_daemon):
    """The mount of the store, under the daemon that sees it so."""
    daemon = make_daemon("broker", start=False)
    daemon.wrap = ["unshare", "--mount", "--propagation", "private", "sh", "-c", f'mount --bind {daemon.store} {daemon.store} && exec "$@"', "sh"]
    daemon.start()
    paths = fill(daemon, 10)
    remount = ["nsenter", "-t", str(daemon.core.pid), "-m", "mount", "-o"]
    subprocess.run([*remount, "remount,bind,ro", daemon.store], check=True)
    said = ask(daemon)
    assert "add" in said and "all" not in said and all("Read-only file system" in s for s in said.values()), said
    r = daemon.run("nix-store", "--gc", user="root", check=False)
    assert "Read-only file system" in r.stderr and all(map(os.path.exists, paths))
    r = daemon.nix_build('sh "b" "echo b > $out"', check=False)
    assert r.returncode != 0 and "Read-only file system" in r.stderr, r.stderr
    subprocess.run([*remount, "remount,bind,rw", daemon.store], check=True)
    with Worker(daemon.socket) as w:
        assert all(map(w.valid, paths))
    assert ask(daemon) == {}
    assert daemon.nix_build('sh "a" "echo a > $out"').returncode == 0
    check_store(daemon)


def test_disk_breaks(on_disk, tmp_path):
    """ext4 that has met an error: each write fails from then on, in the middle of the daemon's life."""
    image = tmp_path / "image"
    with open(image, "wb") as f:
        f.truncate(64 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-F", image], check=True)
    try:
        daemon = on_disk("-o", "loop,errors=remount-ro", image)
    except subprocess.CalledProcessError:
        pytest.skip("NO LOOP DEVICES on this machine: the same errors are tried call by call in test_faults.py alone")
    paths = fill(daemon, 10)
    subprocess.run(["sync", "-f", daemon.base], check=True)
    subprocess.run(["mount", "-o", "remount,abort", daemon.base], check=True)
    read_only(daemon, ask(daemon))
    for p in daemon.procs:
        p.kill()
        p.wait()
    daemon.procs = []
    subprocess.run(["umount", "-l", daemon.base], check=True)
    assert subprocess.run(["fsck.ext4", "-y", image], capture_output=True).returncode in (0, 1)
    subprocess.run(["mount", "-o", "loop", image, daemon.base], check=True)
    daemon.socket.unlink(missing_ok=True)
    daemon.start()
    with Worker(daemon.socket) as w:
        assert all(map(w.valid, paths))
    assert ask(daemon) == {}
    check_store(daemon)


def test_no_descriptors_left(make_daemon):
    """More clients than the limit of open files allows: they wait or are sent away; who is there goes on, and so does all
    when they have left."""
    daemon = make_daemon("broker", start=False)
    daemon.wrap = ["prlimit", "--nofile=96:96"]
    daemon.start()
    fill(daemon, 10)
    with Worker(daemon.socket) as w:
        kept = w.add_text("kept", b"kept")
        crowd = []
        for i in range(60):
            with contextlib.suppress(OSError, Closed, Refused):
                crowd.append(Worker(daemon.socket, timeout=0.5))
        assert 2 < len(crowd) < 60
        assert w.valid(kept)
        with contextlib.suppress(Refused):
            w.add_text("more", b"more")
        for text in refused_within(daemon, w):
            assert "Too many open files" in text, text
        for c in crowd:
            c.close()
    assert "too many open files" in daemon.daemon_log.read_text().lower()

    def served():
        try:
            return ask(daemon) == {}
        except (OSError, Closed):
            return False
    wait_for(served, daemon.daemon_log)
    assert daemon.core.poll() is None
    assert daemon.nix_build('sh "a" "echo a > $out"').returncode == 0
    check_store(daemon)


def refused_within(daemon, w):
    """What one who has his connection is told of a collection and of an add."""
    for op in (lambda: w.op(COLLECT, 1, strings([]), 0, ALL, 0, 0, 0) or (w.strings(), w.u64(), w.u64()),
               lambda: w.add("tree", "fixed:r:sha256", nar({"a": b"x", "d": {"e": b"y"}}))):
        try:
            op()
        except Refused as e:
            yield str(e)
