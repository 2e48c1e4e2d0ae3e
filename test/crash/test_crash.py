"""Every process is killed at random moments while clients add and build.

After each round the daemon starts again, the stock implementation finds nothing wrong with the store,
no builder has survived, no file of a build id is left anywhere, and every slot is free: neither leased nor quarantined.
"""
import fcntl
import os
import pathlib
import pwd
import random
import re
import signal
import subprocess
import sys
import threading
import time

import pytest

from conftest import ALICE, BOB, DAEMON, START_ID, SUBID_START, wait_for

sys.path.append(str(pathlib.Path(__file__).parents[1] / "boundary"))
from worker import Closed, Refused, Worker, nar, source_ca, source_path  # noqa: E402


class Load:
    """Clients that add and build as fast as they can, whatever happens to the daemon."""

    def __init__(self, daemon, seed):
        self.daemon, self.end, self.done = daemon, threading.Event(), []
        self.threads = [threading.Thread(target=f, args=(seed * 100 + i,)) for i, f in
                        enumerate((self.adds, self.adds, self.copies, self.builds, self.builds))]
        for t in self.threads:
            t.start()

    def stop(self):
        self.end.set()
        for t in self.threads:
            t.join(60)
            assert not t.is_alive(), "a client hangs"

    def worker(self, f):
        while not self.end.is_set():
            try:
                with Worker(self.daemon.socket, timeout=20) as w:
                    while not self.end.is_set():
                        f(w)
            except (Closed, Refused, OSError) as e:
                assert not isinstance(e, TimeoutError), "a client waits for nothing"
                time.sleep(0.01)

    def adds(self, seed):
        r, i = random.Random(seed), 0

        def add(w):
            nonlocal i
            i += 1
            text = w.add_text(f"text-{seed}-{i}", r.randbytes(r.randrange(3000)))
            dump = nar({"a": r.randbytes(r.randrange(100000)), "b": {"c": "link", "d": (b"x",)}, "e": text})
            self.done.append(w.add(f"tree-{seed}-{i}", "fixed:r:sha256", dump, [text])[0])
        self.worker(add)

    def copies(self, seed):
        r, i = random.Random(seed), 0

        def add(w):
            nonlocal i
            dumps = [nar({"n": r.randbytes(r.randrange(50000))}) for _ in range(10)]
            i += 1
            paths = [source_path(str(self.daemon.store), f"copy-{seed}-{i}", d) for d in dumps]
            w.add_multiple([(p, d, {"ca": source_ca(d)}) for p, d in zip(paths, dumps)])
            self.done += paths
        self.worker(add)

    def builds(self, seed):
        i = 0
        while not self.end.is_set():
            i += 1
            r = self.daemon.nix_build(f'''
                let a = sh "a-{seed}-{i}" "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; echo a > $out"; in
                shWith {{ name = "b-{seed}-{i}"; outputs = [ "out" "dev" ]; }}
                       "echo ${{a}} > $out; echo $out > $dev; echo log"''', check=False, user=(ALICE, BOB)[seed % 2])
            if r.returncode == 0:
                self.done.append(r.stdout.strip().splitlines()[0])
            else:
                time.sleep(0.02)


def named(daemon, *names):
    return [pid for pid, name in daemon.children().items() if name in names]


def start_of(pid):
    try:
        return open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()[19]
    except OSError:
        return None


def kill(daemon, victim, r):
    """SIGKILL for one process. When the core dies, everything below it must."""
    if victim == "airplant-ids":
        daemon.broker.kill()
        daemon.broker.wait()
        daemon.start_broker()
    elif victim in ("airplantd", "core and supervisors"):
        os.kill(daemon.core.pid, signal.SIGSTOP)
        for pid in named(daemon, "airplant-build") if victim != "airplantd" else ():
            os.kill(pid, signal.SIGSTOP)  # so that none cleans up after itself
        below = {pid: start_of(pid) for pid in daemon.children() if pid not in (daemon.core.pid, daemon.broker.pid)}
        for pid in named(daemon, "airplant-build") if victim != "airplantd" else ():
            os.kill(pid, signal.SIGKILL)
        daemon.core.kill()
        daemon.core.wait()
        wait_for(lambda: not [p for p, t in below.items() if t and start_of(p) == t], daemon.daemon_log, seconds=10)
        daemon.start_core()
    else:
        names = {"builder": ("sh", "busybox")}.get(victim, (victim,))
        found = named(daemon, *names)
        if found:
            try:
                os.kill(r.choice(found), signal.SIGKILL)
            except ProcessLookupError:
                pass


def stock_verifies(daemon):
    pw = pwd.getpwnam(DAEMON)
    r = subprocess.run(["setpriv", "--reuid", str(pw.pw_uid), "--regid", str(pw.pw_gid), "--clear-groups",
                        "nix-store", "--verify", "--check-contents"],
                       env=daemon.env(DAEMON) | {"NIX_REMOTE": "", "HOME": "/nonexistent"}, capture_output=True, text=True)
    complaints = [line for line in r.stderr.splitlines()
                  if re.search(r"warning|error|modified|disappeared|not valid|does not exist|missing", line)]
    assert r.returncode == 0 and not complaints, r.stderr[-3000:]


def assert_clean(daemon, done):
    daemon.stop()
    stock_verifies(daemon)
    daemon.start()
    spool = daemon.state / "airplant/spool"

    def left():
        """Every file that is nobody's any more goes, whoever it belongs to; and so do the directories of builds."""
        paths = [os.path.join(d, f) for d, dirs, files in os.walk(spool) for f in files + dirs]
        return [p for p in paths if p.startswith(f"{spool}/b-") or os.path.dirname(p) != str(spool)]

    try:
        wait_for(lambda: not left() and not quarantined(daemon), daemon.daemon_log, seconds=20)
    except AssertionError:
        raise AssertionError(f"left in the spool: {left()[:10]}; quarantined: {quarantined(daemon)}\n{daemon.tail()}") from None
    assert not (found := leased_anywhere(daemon)), found[:10]
    assert not (alive := leased_processes(daemon)), alive
    for lock in (daemon.base / "ids").iterdir():
        with open(lock) as f:
            fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)  # free
    # What was answered to a client is there.
    with Worker(daemon.socket) as w:
        missing = [p for p in done if not w.valid(p)]
        assert not missing, missing[:3]
    again = daemon.nix_build('sh "after" "echo after > $out"').stdout.strip()
    assert open(again).read() == "after\n"


def is_leased(uid):
    return START_ID <= uid < START_ID + 8388608 or SUBID_START <= uid < SUBID_START + 65536 * 16


def leased_anywhere(daemon):
    found = []
    for top in (daemon.base, daemon.store, daemon.state):
        for d, dirs, files in os.walk(top):
            for f in dirs + files:
                try:
                    if is_leased(os.lstat(os.path.join(d, f)).st_uid):
                        found.append(os.path.join(d, f))
                except OSError:
                    pass
    return found


def leased_processes(daemon):
    """Those that see this daemon's directories mounted: others may run on the machine."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if is_leased(os.stat(f"/proc/{pid}").st_uid) and daemon.base.name in open(f"/proc/{pid}/mountinfo").read():
                found.append(pid)
        except OSError:
            pass
    return found


def quarantined(daemon, where=None):
    """Slots whose mark is set although nobody holds their lease."""
    found = []
    for slot in (where or daemon.base / "ids").rglob("ids-*"):
        with open(slot, "rb") as f:
            try:
                fcntl.flock(f, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            if f.read(1) not in (b"", b"-"):
                found.append(slot.name)
    return found


VICTIMS = ("airplantd", "core and supervisors", "airplant-sessio", "airplant-build", "builder", "airplant-ids")


@pytest.mark.parametrize("seed", range(int(os.environ.get("AIRPLANT_CRASH_ROUNDS", "3"))))
def test_random_kills(make_daemon, seed):
    r = random.Random(seed)
    daemon = make_daemon("broker", "max-jobs = 4\n")
    load = Load(daemon, seed)
    try:
        for victim in r.sample(VICTIMS * 2, 12):
            time.sleep(r.random() * 0.2)
            kill(daemon, victim, r)
            assert daemon.core.poll() is None, daemon.tail()
    finally:
        load.stop()
    assert len(load.done) > 20, "too little happened to mean anything"
    assert_clean(daemon, load.done)


def test_killed_while_collecting(make_daemon):
    """Whenever it happens: what is valid is there, and the next collection takes the rest."""
    r = random.Random(7)
    daemon = make_daemon("broker")
    daemon.run("nix-store", "--version")
    kept = None
    for i in range(6):
        with Worker(daemon.socket) as w:
            last = []
            for k in range(600):
                last = [w.add_text(f"n-{i}-{k}", b"x" * r.randrange(500), last)]
            kept = kept or last[0]
        root = daemon.state / "gcroots/kept"
        if not root.exists():
            os.symlink(kept, root)
        gc = daemon.popen("nix-store", "--gc", user="root")
        deleting = iter(gc.stdout.readline, "")
        if i % 2:
            assert any("deleting '" in line for line in deleting)
        time.sleep(r.random() * 0.05)
        daemon.core.kill()
        daemon.core.wait()
        gc.communicate(timeout=20)
        daemon.start_core()
    daemon.stop()
    stock_verifies(daemon)
    daemon.start()
    closure = daemon.run("nix-store", "-qR", kept).stdout.split()
    assert len(closure) == 600
    daemon.run("nix-store", "--gc", user="root")
    assert {str(p) for p in daemon.store.iterdir() if p.name != ".links"} == set(closure)
