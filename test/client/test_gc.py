"""Collecting garbage: real clients of several users, the real tracer, and tracers that fail or lie."""
import os
import pathlib
import pwd
import socket
import sqlite3
import subprocess
import sys
import threading
import time

import pytest

from conftest import ALICE, BOB, DAEMON, REPO

sys.path.append(str(pathlib.Path(__file__).parents[1] / "boundary"))
from worker import Refused, Worker, nar, strings  # noqa: E402

COLLECT, TEMP_ROOT = 20, 11
LIVE, DEAD, DELETE, SPECIFIC = range(4)
ALL = (1 << 64) - 1


def add(daemon, name, content="x", user=ALICE):
    path = daemon.homes[user] / name
    path.write_text(content)
    os.chown(path, pwd.getpwnam(user).pw_uid, -1)
    return daemon.run("nix-store", "--add", str(path), user=user).stdout.strip()


def add_text(w, name, refs=()):
    return w.add(name, "text:sha256", name.encode(), list(refs))[0]


def collect(w, action, paths=(), ignore=0, max_freed=ALL):
    w.op(COLLECT, action, strings(list(paths)), ignore, max_freed, 0, 0, 0)
    return set(w.strings()), (w.u64(), w.u64())[0]


class Tracer:
    """Answers the core with what the test wants it to hear."""

    def __init__(self, daemon):
        self.daemon, self.answer, self.asked, self.go = daemon, stream(), threading.Event(), threading.Event()
        self.go.set()
        where = daemon.base / "roots"
        where.mkdir(exist_ok=True)
        self.s = socket.socket(socket.AF_UNIX)
        self.s.bind(str(where / "socket"))
        os.chmod(where / "socket", 0o666)
        self.s.listen()
        self.thread = threading.Thread(target=self.serve, daemon=True)
        self.thread.start()

    def serve(self):
        while True:
            try:
                c, _ = self.s.accept()
            except OSError:
                return
            self.asked.set()
            threading.Thread(target=self.tell, args=(c,), daemon=True).start()

    def tell(self, c):
        self.go.wait(20)
        try:
            for part in self.answer if isinstance(self.answer, list) else [self.answer]:
                c.sendall(part)
                time.sleep(0.01)
        except OSError:
            pass
        c.close()

    def close(self):
        if self.s.fileno() < 0:
            return
        self.s.shutdown(socket.SHUT_RDWR)
        self.s.close()
        self.thread.join(5)


def record(letter, *fields):
    return letter.encode() + b"".join(str(f).encode() + b"\0" for f in fields)


def stream(*records, count=None):
    records = [record("A", 1), *records]
    return b"".join(records) + record("Z", len(records) if count is None else count)


@pytest.fixture
def traced(make_daemon):
    """A daemon that knows of a tracer, which the test plays."""
    made = []

    def make(mode="single", conf=""):
        d = make_daemon(mode, start=False)
        d.roots_setting = "tracer"
        d.write_conf(conf)
        d.start()
        made.append(Tracer(d))
        return d, made[-1]

    yield make
    for t in made:
        t.close()


def test_garbage_goes_and_roots_stay(daemon):
    dead, live = add(daemon, "dead"), add(daemon, "live")
    os.symlink(live, daemon.state / "gcroots/live")
    (daemon.store / "leftover").mkdir()
    (daemon.store / (os.path.basename(live) + ".lock")).touch()
    for f in ("leftover", os.path.basename(live) + ".lock"):
        os.chown(daemon.store / f, pwd.getpwnam(DAEMON).pw_uid, -1)
    assert dead in daemon.run("nix-store", "--gc", "--print-dead").stdout.split()
    assert live in daemon.run("nix-store", "--gc", "--print-live").stdout.split()
    r = daemon.run("nix-store", "--gc", user="root")
    assert f"deleting '{dead}'" in r.stderr and "3 store paths deleted" in r.stdout, r.stdout + r.stderr
    assert sorted(os.listdir(daemon.store)) == sorted([".links", os.path.basename(live)])
    assert daemon.run("nix-store", "--check-validity", dead, check=False).returncode == 1
    assert daemon.run("nix-store", "--check-validity", live).returncode == 0


def test_the_tracer_sees_private_homes(make_daemon):
    daemon = make_daemon("broker", start=False)
    daemon.roots_setting = "tracer"
    daemon.write_conf()
    daemon.start()
    daemon.start_roots()
    drv = daemon.run("nix-instantiate", "-E", 'derivation { name = "a"; system = builtins.currentSystem; '
                     'builder = "/bin/sh"; args = [ "-c" "echo > $out" ]; }').stdout.strip()
    link = daemon.homes[ALICE] / "result"
    daemon.run("nix-store", "-r", drv, "--add-root", link, "--indirect")
    made = os.readlink(link)
    daemon.run("nix-store", "--gc", user=BOB)
    assert os.path.exists(made), "what a user's link keeps was deleted"
    # Only who owns the link, or is trusted, reads its name.
    assert str(link) in daemon.run("nix-store", "--gc", "--print-roots").stdout
    assert str(link) in daemon.run("nix-store", "--gc", "--print-roots", user="root").stdout
    theirs = daemon.run("nix-store", "--gc", "--print-roots", user=BOB).stdout
    assert str(link) not in theirs and "{censored}" in theirs
    link.unlink()
    r = daemon.run("nix-store", "--gc", user=BOB)
    assert "removing stale link" in r.stderr and not os.path.exists(made)
    assert os.listdir(daemon.state / "gcroots/auto") == []


def test_added_again_while_files_go(make_daemon):
    """Rows go at once, files after that: what comes back in between keeps its new files."""
    daemon = make_daemon("single")

    def tree(i):
        return w.add("tree", "fixed:r:sha256", nar({"nr": str(i).encode()}), [])[0]
    with Worker(daemon.socket) as w:
        paths = [tree(i) for i in range(800)]
    with Worker(daemon.socket) as w:
        while collect(w, LIVE)[0]:  # until the daemon has noticed that the first client left
            time.sleep(0.1)
    answer = []

    def collects():
        with Worker(daemon.socket, timeout=60) as c:
            answer.append(collect(c, DELETE)[0])
    thread = threading.Thread(target=collects)
    with Worker(daemon.socket) as w:
        thread.start()
        while os.path.lexists(paths[-1]) and not answer:  # the youngest goes first
            pass
        again = [tree(i) for i in range(100)]
        thread.join()
        assert again == paths[:100]
        assert [p for p in again if not os.path.lexists(p + "/nr")] == [] and all(map(w.valid, again))
    assert answer[0] == set(paths)
    assert sorted(os.listdir(daemon.store)) == sorted([".links", *map(os.path.basename, again)])


def rows(daemon, n_dead, n_kept):
    """Rows alone; one root refers to those that are kept. In the middle, so that others are passed before them."""
    name = "{}/{:032d}-nr".format
    db = sqlite3.connect(daemon.state / "db/db.sqlite")
    with db:
        db.executemany("insert into ValidPaths (id, path, hash, registrationTime, narSize) values (?, ?, ?, 1, 500)",
                       ((i, name(daemon.store, i), "sha256:" + "0" * 64) for i in range(1, n_dead + n_kept + 1)))
        root = n_dead // 2 + n_kept
        db.executemany("insert into Refs values (?, ?)", ((root, i) for i in range(n_dead // 2 + 1, root)))
        db.executemany("insert into Refs values (?, ?)", ((i, i - 1) for i in range(2, n_dead // 2) if i % 50))
    db.close()
    pathlib.Path(name(daemon.store, root)).touch()
    os.symlink(name(daemon.store, root), daemon.state / "gcroots/root")
    return [name(daemon.store, i) for i in range(1, n_dead // 2)]


@pytest.mark.parametrize("writes", [False, True])
def test_wanted_while_rows_go(make_daemon, writes):
    """Who asks for what is about to go, or writes something else, in the middle of the one transaction."""
    daemon = make_daemon("single")
    with Worker(daemon.socket):
        left = rows(daemon, 50000, 10000)
    over, wrong, held, lost = threading.Event(), ["it did not come to its end"], [], []

    def wants():
        with Worker(daemon.socket, timeout=60) as c:
            while not over.is_set():
                path = left[149 * (len(held) + len(lost)) % len(left)]
                c.op(TEMP_ROOT, path)
                assert c.u64() == 1
                (held if c.valid(path) else lost).append(path)
                if writes:
                    add_text(c, f"other-{len(held) + len(lost)}")
                time.sleep(0.003)
            wrong[:] = [p for p in held if not c.valid(p)]
    thread = threading.Thread(target=wants)
    with Worker(daemon.socket, timeout=60) as w:
        thread.start()
        gone, _ = collect(w, DELETE)
    over.set()
    thread.join()
    assert wrong == [] and len(gone) > 30000 and held and lost
    db = sqlite3.connect(f"file:{daemon.state}/db/db.sqlite?mode=ro", uri=True)
    assert db.execute("pragma foreign_key_check").fetchall() == []
    assert db.execute("pragma integrity_check").fetchall() == [("ok",)]
    assert db.execute("select count(*) from ValidPaths").fetchall()[0][0] >= 10000 + len(set(held))


BROKEN = {
    "nothing": b"", "no hello": record("Z", 0), "no end": record("A", 1),
    "a short count": stream(record("P", "0" * 32 + "-x", "/proc/1/exe"), count=1),
    "a long count": stream(count=2), "another version": record("A", 2) + record("Z", 1),
    "something behind the end": stream() + b"A", "an unknown record": stream(record("Q", 1)),
    "no store path": stream(record("P", "../../etc", "x")), "half a record": stream()[:-1],
    "an endless field": record("A", 1) + b"P" + b"x" * 100000, "two hellos": stream(record("A", 1)),
    "a strange state": stream(record("L", "gcroots/auto/x", "z", "-", "/x", "")),
    "it says so": stream(record("I", "cannot look into /secret")),
    "an unreadable root": stream(record("L", "gcroots/auto/x", "u", "-", "/x/result", "")),
}


def test_without_a_complete_answer_nothing_goes(traced):
    daemon, tracer = traced()
    dead = add(daemon, "dead")
    for what, answer in BROKEN.items():
        tracer.answer = answer
        r = daemon.run("nix-store", "--gc", check=False)
        assert r.returncode != 0 and "garbage is not collected" in r.stderr, (what, r.stderr)
        assert os.path.exists(dead), what
    assert "/secret" in daemon.tail()
    # An answer of a real tracer's, cut short. (At every byte: test/unit/core/test_tracer.c.)
    whole = (REPO / "test/data/roots-answer").read_bytes()
    with Worker(daemon.socket) as w:
        for n in range(0, len(whole), 23):
            tracer.answer = whole[:n]
            with pytest.raises(Refused, match="garbage is not collected"):
                collect(w, DELETE)
            assert os.path.exists(dead), n
    tracer.answer = [stream()[i:i + 1] for i in range(len(stream()))]  # slow is no failure
    daemon.run("nix-store", "--gc")
    assert not os.path.exists(dead)
    # Nobody behind the socket.
    dead = add(daemon, "dead")
    tracer.close()
    r = daemon.run("nix-store", "--gc", check=False)
    assert r.returncode != 0 and "airplant-roots" in r.stderr and os.path.exists(dead)


def test_a_root_that_cannot_be_read_any_more(traced):
    """What an indirect root led to when it was last seen stays."""
    daemon, tracer = traced()
    kept, other = add(daemon, "kept"), add(daemon, "other")
    link = ("gcroots/auto/x", 1000, "/home/x/result")
    tracer.answer = stream(record("P", os.path.basename(kept), link[2]),
                           record("L", link[0], "a", link[1], link[2], os.path.basename(kept)))
    daemon.run("nix-store", "--gc")
    assert os.path.exists(kept) and not os.path.exists(other)
    daemon.stop()
    daemon.start()
    tracer.answer = stream(record("L", link[0], "u", "-", link[2], ""))
    daemon.run("nix-store", "--gc")
    assert os.path.exists(kept)
    tracer.answer = stream(record("L", link[0], "g", "-", link[2], ""))
    daemon.run("nix-store", "--gc")
    assert not os.path.exists(kept)


def test_a_user_whose_processes_cannot_all_be_seen(traced):
    """What he has used since the machine's start stays: he added it, held it, had it built. Others' goes."""
    daemon, tracer = traced("broker", conf="keep-derivations = false\n")
    uid = pwd.getpwnam(ALICE).pw_uid
    added, others, both = add(daemon, "added"), add(daemon, "others", user=BOB), add(daemon, "both")
    assert add(daemon, "both", user=BOB) == both
    built = daemon.nix_build('sh "a" "echo a > $out"').stdout.strip()
    time.sleep(5.2)  # it is on disk by then
    daemon.core.kill()
    daemon.core.wait()
    daemon.start_core()
    tracer.answer = stream(record("F", uid, 3), record("F", uid, 1))
    r = daemon.run("nix-store", "--gc", user="root")
    assert all(map(os.path.exists, (added, both, built))) and not os.path.exists(others), r.stderr
    assert f"user {uid} has so much open that 3 of his processes" in daemon.tail()
    refused = daemon.run("nix-store", "--delete", added, check=False)
    assert "still alive" in refused.stderr
    tracer.answer = stream(record("F", pwd.getpwnam(BOB).pw_uid, 1))
    daemon.run("nix-store", "--gc", user="root")
    assert os.path.exists(both) and not os.path.exists(added) and not os.path.exists(built)
    tracer.answer = stream()
    daemon.run("nix-store", "--gc", user="root")
    assert not os.path.exists(both)


def test_what_is_wanted_meanwhile_stays(traced):
    """While the tracer takes its time: a client that held a path and left, an add, a build."""
    daemon, tracer = traced(conf="keep-derivations = false\n")
    held, dead = add(daemon, "held"), add(daemon, "dead")
    below, early = add(daemon, "below"), add(daemon, "early")
    old = Worker(daemon.socket)
    old.op(TEMP_ROOT, early)
    assert old.u64() == 1
    tracer.go.clear()
    gc = daemon.popen("nix-store", "--gc", user="root")
    assert tracer.asked.wait(10)
    old.close()  # he held it before; his link may be younger than the tracer's look
    with Worker(daemon.socket) as w:
        w.op(TEMP_ROOT, held)
        assert w.u64() == 1 and w.valid(held)
    with Worker(daemon.socket) as w:
        new = add_text(w, "new", [below])
    built = daemon.nix_build('sh "a" "echo a > $out"').stdout.strip()
    tracer.go.set()
    out, _ = gc.communicate(timeout=30)
    assert gc.returncode == 0 and f"deleting '{dead}'" in out, out
    assert all(map(os.path.exists, (held, early, new, below, built))) and not os.path.exists(dead)
    daemon.run("nix-store", "--gc", user="root")
    assert not any(map(os.path.exists, (held, early, new, below, built)))


def test_a_build_is_not_disturbed(daemon):
    build = daemon.popen("nix-build", "--no-out-link", "-E", '''
        let sh = name: script: derivation { inherit name; system = builtins.currentSystem; builder = "/bin/sh";
                                            args = [ "-c" script ]; };
            a = sh "a" "echo a > $out";
            slow = "echo started; i=0; while [ $i -lt 400000 ]; do i=$((i+1)); done;";
            b = sh "b" "${slow} read x < ${a}; echo $x > $out"; in
        sh "c" "read x < ${b}; read y < ${a}; echo $x$y > $out"''')
    assert any("started" in line for line in iter(build.stdout.readline, ""))
    for _ in range(3):
        daemon.run("nix-store", "--gc", user="root")
    out, _ = build.communicate(timeout=60)
    assert build.returncode == 0, out
    assert open(out.split()[-1]).read() == "aa\n"


def test_one_user_or_a_tracer(make_daemon):
    """Without a tracer the roots of others cannot be known, from the first other client on, for ever."""
    daemon = make_daemon("single", start=False)
    daemon.roots_setting = "auto"
    daemon.write_conf()
    daemon.start()
    daemon.run("nix-store", "--gc", user=DAEMON)
    daemon.run("nix-store", "--gc", user="root")
    dead = add(daemon, "dead")
    for _ in range(2):
        r = daemon.run("nix-store", "--gc", user="root", check=False)
        assert r.returncode != 0 and "several users" in r.stderr and "roots = own" in r.stderr, r.stderr
        assert os.path.exists(dead)
        daemon.stop()
        daemon.start()


def test_delete(daemon):
    with Worker(daemon.socket) as w:
        low = add_text(w, "low")
        top = add_text(w, "top", [low])
        rooted = add_text(w, "rooted")
    os.symlink(rooted, daemon.state / "gcroots/r")
    for path in (low, rooted):
        r = daemon.run("nix-store", "--delete", path, check=False)
        assert f"Cannot delete path '{path}' since it is still alive." in r.stderr, r.stderr
        assert os.path.exists(path)
    r = daemon.run("nix-store", "--delete", "--ignore-liveness", rooted, check=False)
    assert "you are not allowed to ignore liveness" in r.stderr and os.path.exists(rooted)
    daemon.run("nix-store", "--delete", low, top)
    assert not os.path.exists(low) and not os.path.exists(top)
    daemon.run("nix-store", "--delete", "--ignore-liveness", rooted, user="root")
    assert not os.path.exists(rooted)


def test_delete_with_referrers(daemon):
    """The newer form of the operation (feature delete-dead-specific-referrers)."""
    with Worker(daemon.socket) as w:
        low = add_text(w, "low")
        top, other = add_text(w, "top", [low]), add_text(w, "other")
        held = add_text(w, "held", [low])
    os.symlink(held, daemon.state / "gcroots/held")
    w = Worker(daemon.socket, greet=False)
    w.greet(["delete-dead-specific-referrers"])
    assert "delete-dead-specific-referrers" in w.features

    def ask(action, referrers):
        w.op(COLLECT, action, 0, strings([low]), referrers, 0, ALL, 0, 0, 0)
        return set(w.strings()), w.u64(), w.u64()
    with pytest.raises(Refused, match="still alive"):
        ask(SPECIFIC, 1)
    assert ask(DELETE, 1)[0] == set()
    os.unlink(daemon.state / "gcroots/held")
    assert ask(DELETE, 0)[0] == set()
    assert ask(DEAD, 1)[0] == {low, top, held}
    assert ask(DELETE, 1)[0] == {low, top, held}
    assert os.path.exists(other)
    w.close()


def test_limit(daemon):
    with Worker(daemon.socket) as w:
        paths = {add_text(w, f"n{i}") for i in range(5)}
    with Worker(daemon.socket) as w:
        assert collect(w, DELETE, max_freed=0)[0] == set()
        gone, freed = collect(w, DELETE, max_freed=200)
        assert 1 <= len(gone) < 5 and freed > 200 and all(os.path.exists(p) != (p in gone) for p in paths)
        assert collect(w, DELETE)[0] == paths - gone


@pytest.mark.parametrize("keep", ["", "keep-outputs = true\n", "keep-derivations = false\n",
                                  "keep-outputs = true\nkeep-derivations = false\n"])
def test_the_same_paths_as_the_stock_collector(make_daemon, keep):
    daemon = make_daemon("single", keep)
    daemon.nix_build('let a = sh "a" "echo a > $out"; b = sh "b" "read x < ${a}; echo $out ${a} > $out"; in '
                     'sh "c" "read x < ${b}; echo > $out"')
    drvs = {p.name[33:]: p for p in daemon.store.iterdir() if p.name.endswith(".drv")}
    b = next(p for p in daemon.store.iterdir() if p.name[32:] == "-b")
    for root in (b, drvs["a.drv"]):
        (daemon.state / "gcroots/r").unlink(missing_ok=True)
        os.symlink(root, daemon.state / "gcroots/r")
        ours = {what: set(daemon.run("nix-store", "--gc", f"--print-{what}").stdout.split())
                for what in ("live", "dead")}
        daemon.stop()
        pw = pwd.getpwnam(DAEMON)
        for what in ours:
            for _ in range(5):  # it gives up when a process ends that it looks at
                stock = subprocess.run(["setpriv", "--reuid", str(pw.pw_uid), "--regid", str(pw.pw_gid),
                                        "--clear-groups", "nix-store", "--gc", f"--print-{what}"],
                                       env=daemon.env(DAEMON) | {"NIX_REMOTE": "", "HOME": "/nonexistent"},
                                       capture_output=True, text=True)
                if stock.returncode == 0:
                    break
            assert stock.returncode == 0, stock.stderr
            assert set(stock.stdout.split()) == ours[what], (what, keep, root)
        daemon.start()
    assert ours["dead"]


def test_one_who_leaves_ends_his_collection(traced):
    daemon, tracer = traced()
    dead = add(daemon, "dead")
    tracer.go.clear()
    w = Worker(daemon.socket)
    w.send(COLLECT, DELETE, strings([]), 0, ALL, 0, 0, 0)
    assert tracer.asked.wait(10)
    tracer.asked.clear()
    second = daemon.popen("nix-store", "--gc", "--print-dead", user="root")  # waits for its turn
    time.sleep(0.1)
    w.close()
    assert tracer.asked.wait(10)
    tracer.go.set()
    assert dead in second.communicate(timeout=20)[0] and os.path.exists(dead)


@pytest.fixture
def small_disk(make_daemon):
    """A store with a file system of its own, of 16 MB."""
    made = []

    def make(conf):
        d = make_daemon("single", conf, start=False)
        pw = pwd.getpwnam(DAEMON)
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size=16m,mode=0755,uid={pw.pw_uid},gid={pw.pw_gid}", "tmpfs",
                        d.store], check=True)
        made.append(d)
        return d.start()

    yield make
    for d in made:
        d.stop()
        subprocess.run(["umount", d.store], check=True)


def test_a_disk_that_fills_up_is_emptied(small_disk):
    """Adds and builds wait for the space, rather than fail for want of it."""
    daemon = small_disk("min-free = 10485760\nmax-free = 12582912\nmin-free-check-interval = 0\n")
    mb4 = "x" * (4 << 20)
    for i in range(6):  # 24 MB
        last = add(daemon, f"n{i}", f"{i}" + mb4)
        assert os.path.exists(last)
    assert "collecting garbage to free" in daemon.daemon_log.read_text()
    assert len([p for p in daemon.store.iterdir() if p.name[32:34] == "-n"]) < 4
    # A build is an occasion as well.
    drv = daemon.run("nix-instantiate", "-E", 'derivation { name = "a"; system = builtins.currentSystem; '
                     'builder = "/bin/sh"; args = [ "-c" "echo a > $out" ]; }').stdout.strip()
    os.symlink(drv, daemon.state / "gcroots/drv")
    daemon.stop()
    daemon.start()
    (daemon.store / "fill").write_bytes(b"x" * (8 << 20))
    before = daemon.daemon_log.read_text().count("collecting garbage to free")
    out = daemon.run("nix-store", "-r", drv).stdout.strip()
    assert open(out).read() == "a\n"
    assert daemon.daemon_log.read_text().count("collecting garbage to free") > before
    assert not (daemon.store / "fill").exists()


def test_a_full_disk_can_be_collected(small_disk):
    daemon = small_disk("")
    dead = add(daemon, "dead", "x" * (4 << 20))
    with open(daemon.store / "fill", "wb", 0) as f, pytest.raises(OSError):
        os.chown(f.fileno(), pwd.getpwnam(DAEMON).pw_uid, -1)
        while True:
            f.write(b"x" * 65536)
    with Worker(daemon.socket) as w, pytest.raises(Refused, match="No space left"):
        w.add("more", "fixed:r:sha256", b"\r\0\0\0\0\0\0\0nix-archive-1\0\0\0\x01\0\0\0\0\0\0\0(\0\0\0\0\0\0\0"
              b"\x04\0\0\0\0\0\0\0type\0\0\0\0\x07\0\0\0\0\0\0\0regular\0\x08\0\0\0\0\0\0\0contents"
              + (1 << 20).to_bytes(8, "little") + b"x" * (1 << 20) + b"\x01\0\0\0\0\0\0\0)\0\0\0\0\0\0\0")
    assert "2 store paths deleted" in daemon.run("nix-store", "--gc").stdout
    assert not os.path.exists(dead)
    time.sleep(0.5)
    add(daemon, "more", "x" * (4 << 20))
