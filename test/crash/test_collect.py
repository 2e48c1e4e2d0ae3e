"""Several clients of two users add, build, root and unroot at random while one collects in a loop, and the core, the
tracer and the sessions are killed in between: nothing that a client was promised is ever missing.

A promise holds from the answer on: to a temporary root and the answer "valid" after it, to an add and to a build, until
the connection ends; to an indirect root, until the client removes its link. It is checked in the
middle by the one who was promised, and after each kill for the links.

AIRPLANT_HAMMER=seconds makes it longer.
"""
import contextlib
import ctypes
import os
import pathlib
import platform
import pwd
import random
import signal
import sys
import threading
import time

from conftest import ALICE, BOB

sys.path.append(str(pathlib.Path(__file__).parents[1] / "boundary"))
from test_crash import assert_clean, named  # noqa: E402
from worker import Closed, Refused, Worker, nar, strings  # noqa: E402

SECONDS = float(os.environ.get("AIRPLANT_HAMMER", "12"))
TEMP_ROOT, INDIRECT_ROOT, COLLECT, DELETE = 11, 12, 20, 2
ALL = (1 << 64) - 1


SETRESUID = {"x86_64": 117, "aarch64": 147}[platform.machine()]
libc = ctypes.CDLL(None, use_errno=True)


@contextlib.contextmanager
def connected(daemon, uid):
    """A connection of that user. The system call itself changes this thread alone."""
    def become(uid):
        assert libc.syscall(SETRESUID, -1, uid, -1) == 0, os.strerror(ctypes.get_errno())
    become(uid)
    try:
        w = Worker(daemon.socket, timeout=30)
    finally:
        become(0)
    with w:
        yield w


class Hammer:
    def __init__(self, daemon, seed):
        self.daemon, self.end, self.wrong = daemon, threading.Event(), []
        self.count = dict.fromkeys(("collected", "gone", "checked", "links", "built", "found again"), 0)
        self.seen = [None] * 400  # paths that somebody once had
        self.uid = {u: pwd.getpwnam(u).pw_uid for u in (ALICE, BOB)}
        jobs = [(self.uses, ALICE), (self.uses, BOB), (self.uses, BOB), (self.builds, ALICE), (self.collects, None)]
        self.threads = [threading.Thread(target=self.guard, args=(f, random.Random(seed * 10 + i), user, i))
                        for i, (f, user) in enumerate(jobs)]
        for t in self.threads:
            t.start()

    def guard(self, f, r, user, i):
        try:
            while not self.end.is_set():
                try:
                    f(r, user, i)
                except (Closed, Refused, OSError) as e:
                    if isinstance(e, TimeoutError):
                        raise AssertionError("a client waits for nothing") from e
                    if isinstance(e, Refused) and "is not valid" in str(e):
                        raise
                    time.sleep(0.01)
        except BaseException as e:
            self.wrong.append(f"{f.__name__}: {e!r}")
            self.end.set()

    def stop(self):
        self.end.set()
        for t in self.threads:
            t.join(60)
            assert not t.is_alive(), "a client hangs"
        assert not self.wrong, self.wrong

    def there(self, path, promise):
        self.count["checked"] += 1
        assert os.path.lexists(path), f"{path} is missing: {promise}"

    def check(self, w, held):
        for path in held:
            self.there(path, "held by a connection")
            assert w.valid(path), f"{path} is not valid: held by a connection"

    def use(self, w, r, i, held):
        """One random thing that ends with a promise."""
        what, old = r.randrange(4), r.choice(self.seen)
        if what == 0 and old:
            w.op(TEMP_ROOT, old)
            assert w.u64() == 1
            if not w.valid(old):
                return  # gone, and said so: no promise
            self.count["found again"] += 1
            held.add(old)
        elif what == 1:
            path = w.add_text(f"text-{i}", r.randbytes(8))  # often the same as another's
            held.add(path)
            self.seen[r.randrange(400)] = path
        else:
            refs = sorted(r.sample(sorted(held), min(len(held), r.randrange(4))))
            dump = nar({"a": r.randbytes(r.randrange(3000)), "refs": "\n".join(refs).encode()})
            path = w.add(f"tree-{i}", "fixed:r:sha256", dump, refs)[0]
            held.add(path)
            self.seen[r.randrange(400)] = path

    def link(self, w, r, user, i, held, links):
        if r.random() < 0.4 and links:
            os.unlink(links.pop(r.choice(sorted(links))))
        if not held or len(links) > 8:
            return
        link = self.daemon.state / f"links/{user}-{i}-{r.randrange(10**9)}"
        path = r.choice(sorted(held))
        os.symlink(path, link)
        os.lchown(link, self.uid[user], -1)
        w.op(INDIRECT_ROOT, str(link))
        w.u64()
        links[path] = link
        self.count["links"] += 1

    def uses(self, r, user, i):
        """Connections of random length. What it linked outlives them."""
        links = {}
        try:
            while not self.end.is_set():
                try:
                    with connected(self.daemon, self.uid[user]) as w:
                        held = set()
                        for path in links:
                            assert w.valid(path), f"{path} is not valid: {links[path]} leads to it"
                        for _ in range(r.randrange(60)):
                            self.use(w, r, i, held)
                            if r.random() < 0.2:
                                self.link(w, r, user, i, held, links)
                        self.check(w, held)
                except (Closed, Refused, OSError) as e:
                    assert not isinstance(e, TimeoutError), "a client waits for nothing"
                    # A link whose root was being made when the daemon died is no promise.
                    auto = {os.readlink(p) for p in (self.daemon.state / "gcroots/auto").iterdir()}
                    for path, link in list(links.items()):
                        if str(link) not in auto:
                            os.unlink(links.pop(path))
                    time.sleep(0.01)
                for path, link in links.items():
                    self.there(path, f"{link} leads to it")
        finally:
            for link in links.values():
                os.unlink(link)

    def builds(self, r, user, i):
        n = r.randrange(12)
        p = self.daemon.nix_build(f'''
            let a = sh "a-{n}" "echo a > $out"; b = sh "b-{n}" "read x < ${{a}}; echo $x ${{a}} > $out"; in
            sh "c-{n}" "read x < ${{b}}; echo ${{b}} > $out"''', check=False, user=user)
        if p.returncode == 0:
            self.count["built"] += 1
            return
        # The daemon may have been killed; nothing that it needs may have been missing.
        for word in ("No such file", "is not valid", "does not exist", "disappeared", "cannot open"):
            assert word not in p.stderr or "daemon" in p.stderr or str(self.daemon.socket) in p.stderr, p.stderr

    def collects(self, r, user, i):
        with Worker(self.daemon.socket, timeout=60) as w:
            while not self.end.is_set():
                w.op(COLLECT, DELETE, strings([]), 0, r.choice([ALL, ALL, 20000]), 0, 0, 0)
                self.count["gone"] += len(w.strings())
                w.u64(), w.u64()
                self.count["collected"] += 1


def make(make_daemon):
    daemon = make_daemon("broker", start=False)
    daemon.roots_setting = "tracer"
    daemon.write_conf("keep-derivations = false\nkeep-outputs = false\n")
    daemon.start()
    daemon.start_roots()
    links = daemon.state / "links"  # both users' homes at once
    links.mkdir()
    links.chmod(0o777)
    return daemon


def test_nothing_promised_is_missing(make_daemon):
    daemon = make(make_daemon)
    h = Hammer(daemon, 1)
    h.end.wait(SECONDS / 2)
    h.stop()
    print(h.count)
    assert all(h.count.values()), h.count
    daemon.roots.terminate()
    daemon.roots.wait()
    assert_clean(daemon, [])


def test_kill(make_daemon):
    daemon, r = make(make_daemon), random.Random(2)
    h, end, kills = Hammer(daemon, 2), time.monotonic() + SECONDS, 0
    while time.monotonic() < end and not h.end.is_set():
        time.sleep(r.random())
        victim = r.choice(["airplantd", "airplant-roots", "airplant-sessio", "airplant-build"])
        if victim == "airplantd":
            os.kill(daemon.core.pid, signal.SIGKILL)
            daemon.core.wait()
            daemon.start_core()
        elif victim == "airplant-roots":
            daemon.roots.kill()
            daemon.roots.wait()
            time.sleep(0.2 * r.random())
            daemon.start_roots()
        else:
            for pid in named(daemon, victim)[:1]:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
        kills += 1
    h.stop()
    print(h.count, kills)
    assert all(h.count.values()), h.count
    assert_clean(daemon, [])
