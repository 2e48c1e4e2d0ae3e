"""The id broker against an honest and a hostile daemon (src/ipc/ids.h).

Needs root, for two users that exist only in a mount namespace of the test's own, and the built
broker: below --build-dir, or AIRPLANT_IDS, or build/src/ids/airplant-ids.
"""
import array
import ctypes
import fcntl
import os
import shutil
import signal
import socket
import struct
import subprocess
import time

import pytest

from conftest import SLOT_IDS, START_ID

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BROKER = os.environ.get("AIRPLANT_IDS", os.path.join(ROOT, "build/src/ids/airplant-ids"))
DAEMON, OWN, OTHER = 64111, 64112, 64113
WIDTH, SLOTS = SLOT_IDS, 128
START = START_ID  # a block that no other run uses
OK, BUSY, REFUSED, NONE = 0, 1, 2, 3
PLAIN, RANGE, RANGE4, CLEAN, RETURN = 1, 2, 3, 4, 5
CLONE_NEWUSER = 0x10000000
libc = ctypes.CDLL(None, use_errno=True)

pytestmark = [
    pytest.mark.skipif(os.getuid() != 0, reason="needs root, to give a process two capabilities"),
]


@pytest.fixture(autouse=True, scope="module")
def built_broker(request):
    global BROKER
    build = request.config.getoption("--build-dir", default=None)
    if build:
        BROKER = os.path.join(build, "src/ids/airplant-ids")
    if not os.access(BROKER, os.X_OK):
        pytest.skip(f"{BROKER} is not built")


PASSWD = f"""root:x:0:0::/:/bin/sh
daemonuser:x:{DAEMON}:{DAEMON}::/:/bin/false
brokeruser:x:{OWN}:{OWN}::/:/bin/false
"""
GROUP = f"root:x:0:\ndaemonuser:x:{DAEMON}:\nbrokeruser:x:{OWN}:\n"


def command(dir, args, passwd=PASSWD, group=GROUP, subuid="", uid=OWN,
            caps="-all,+setuid,+setgid", bounding="-all,+setuid,+setgid"):
    """unshare and bind-mount our own user database, then become the broker's user."""
    for name, text in (("passwd", passwd), ("group", group), ("subuid", subuid), ("subgid", "")):
        with open(f"{dir}/{name}", "w") as f:
            f.write(text)
        os.chmod(f"{dir}/{name}", 0o644)
    script = "".join(f"touch /etc/{n}; mount --bind {dir}/{n} /etc/{n} || exit 99; "
                     for n in ("passwd", "group", "subuid", "subgid"))
    script += (f'exec setpriv --reuid {uid} --regid {uid} --clear-groups --inh-caps {caps} '
               f'--ambient-caps {caps} --bounding-set {bounding} "$@"')
    return ["unshare", "-m", "sh", "-c", script, "sh", BROKER, *args]


@pytest.fixture
def dir(tmp_path_factory):
    """/tmp/…: others must be able to reach the socket."""
    import tempfile
    d = tempfile.mkdtemp(prefix="airplant-ids-", dir="/tmp")
    os.chmod(d, 0o755)
    os.mkdir(f"{d}/run")
    os.chown(f"{d}/run", OWN, OWN)
    os.chmod(f"{d}/run", 0o755)
    os.mkdir(f"{d}/locks")
    os.chown(f"{d}/locks", OWN, OWN)
    os.chmod(f"{d}/locks", 0o750)
    yield d
    shutil.rmtree(d)


def options(dir, *more):
    return ["--socket", f"{dir}/run/socket", "--daemon-user", "daemonuser",
            "--locks", f"{dir}/locks", "--start-id", str(START), *more]


class Broker:
    def __init__(self, dir, *more):
        self.dir = dir
        self.log = open(f"{dir}/log", "w+")
        self.p = subprocess.Popen(command(dir, options(dir, *more)), stderr=self.log)
        for _ in range(200):
            if "slots from id" in self.text() or self.p.poll() is not None:
                break
            time.sleep(0.02)
        assert self.p.poll() is None, self.text()
        self.pid = self.p.pid

    def text(self):
        with open(f"{self.dir}/log") as f:
            return f.read()

    def stop(self):
        self.p.kill()
        self.p.wait()
        self.log.close()


@pytest.fixture
def broker(dir):
    b = Broker(dir)
    yield b
    assert b.p.poll() is None, "the broker ended: " + b.text()
    b.stop()


def as_user(uid, f):
    """Runs f in a child with that uid; its result (a repr-able value) comes back."""
    r, w = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.setgroups([])
            os.setresgid(uid, uid, uid)
            os.setresuid(uid, uid, uid)
            libc.prctl(4, 1, 0, 0, 0)  # PR_SET_DUMPABLE: set*id took it away
            os.write(w, repr(f()).encode())
            code = 0
        except BaseException as e:  # noqa: B902 — the child must never return
            os.write(w, ("!" + repr(e)).encode())
        finally:
            os._exit(code)
    os.close(w)
    data = b""
    while chunk := os.read(r, 65536):
        data += chunk
    os.close(r)
    os.waitpid(pid, 0)
    text = data.decode()
    assert not text.startswith("!"), text
    return eval(text)  # our own repr


def connect(broker):
    s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    s.connect(f"{broker.dir}/run/socket")  # blocks while the queue is full
    s.settimeout(3)
    return s


def request(version=1, kind=1):
    return struct.pack("=II", version, kind)


def send(s, data, fds):
    s.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else [])


def receive(s):
    data, anc, flags, _ = s.recvmsg(4096, socket.CMSG_SPACE(4))
    if not data:
        return None
    version, status, base, count = struct.unpack("=IIII", data[:16])
    assert version == 1 and len(data) == 128
    fds = [f for _, _, d in anc for f in array.array("i", d)]
    return status, base, count, data[16:].split(b"\0")[0].decode(), fds


class Child:
    """A process that unshares its user namespace (`levels` times) and waits."""

    def __init__(self, levels=1, map_self=False, wait=True):
        r, w = os.pipe()
        hold_r, self.hold = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            for fd in set(range(3, 300)) - {w, hold_r}:  # nor what keeps other children waiting
                try:
                    os.close(fd)
                except OSError:
                    pass
            uid, gid = os.getuid(), os.getgid()
            for i in range(levels):
                if libc.unshare(CLONE_NEWUSER) != 0:
                    os._exit(1)
                if map_self or i + 1 < levels:
                    for name, text in (("setgroups", "deny"), ("gid_map", f"{gid} {gid} 1"),
                                       ("uid_map", f"{uid} {uid} 1")):
                        with open(f"/proc/self/{name}", "w") as f:
                            f.write(text)
            os.write(w, b"x")
            if wait:
                os.read(hold_r, 1)
            os._exit(0)
        os.close(w)
        os.close(hold_r)
        assert os.read(r, 1) == b"x" or not wait
        os.close(r)
        self.pidfd = os.pidfd_open(self.pid)

    def map(self, name):
        with open(f"/proc/{self.pid}/{name}") as f:
            return [tuple(map(int, line.split())) for line in f]

    def end(self):
        """Lets it go; the signal that ended it."""
        os.close(self.hold)
        os.close(self.pidfd)
        _, status = os.waitpid(self.pid, 0)
        return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0


def lease(s, child, kind=PLAIN, *fds):
    send(s, request(kind=kind), [child.pidfd, *fds])
    return receive(s)


def give_back(s, fd):
    """Returns a lease, and closes it; the status."""
    send(s, request(kind=RETURN), [fd])
    status = receive(s)[0]
    os.close(fd)
    return status


def test_honest(broker):
    def daemon():
        s, c = connect(broker), Child()
        status, base, count, reason, fds = lease(s, c)
        with open(f"/proc/{c.pid}/setgroups") as f:
            setgroups = f.read().strip()
        maps = c.map("uid_map"), c.map("gid_map")
        return status, base, count, reason, len(fds), maps, setgroups, c.end()

    status, base, count, reason, n_fds, maps, setgroups, sig = as_user(DAEMON, daemon)
    assert (status, reason, n_fds, count, sig) == (OK, "", 1, 1, 0)
    assert base == START
    assert maps == ([(0, base, 1), (1, DAEMON, 1)],) * 2
    assert setgroups == "allow"  # or the builder could not drop the daemon's groups


def test_slots_run_out_and_come_back(broker):
    def daemon():
        s = connect(broker)
        held, bases, busy = [], [], 0
        for _ in range(200):
            c = Child()
            status, base, count, _, fds = lease(s, c)
            busy += status == BUSY
            assert (status, len(fds)) in ((OK, 1), (BUSY, 0))
            assert status == OK or c.map("uid_map") == []
            bases += [base] if status == OK else []
            held += fds
            assert c.end() == 0
        os.close(held[2])  # dropped, not returned
        assert give_back(s, held[5]) == OK
        assert give_back(s, held[3]) == OK
        c = Child()
        first = lease(s, c)
        c.end()
        return bases, busy, first[:2]

    bases, busy, again = as_user(DAEMON, daemon)
    assert bases == [START + WIDTH * i for i in range(SLOTS)]
    assert busy == 200 - SLOTS
    assert again == (OK, START + WIDTH * 5)  # the one that rested longest, not the lowest


def test_leases_outlive_the_broker(dir):
    first = Broker(dir)
    def take(b, n):
        s, out, keep = connect(b), [], []
        for _ in range(n):
            c = Child()
            _, base, _, _, fds = lease(s, c)
            out.append(base)
            keep += fds
            c.end()
        return out, keep

    def daemon():
        out, keep = take(first, 2)
        os.write(ready_w, b"x")
        os.read(go_r, 1)
        return out

    ready_r, ready_w = os.pipe()
    go_r, go_w = os.pipe()
    import threading
    result = []
    t = threading.Thread(target=lambda: result.append(as_user(DAEMON, daemon)), daemon=True)
    t.start()
    os.read(ready_r, 1)
    first.stop()
    second = Broker(dir)
    later = as_user(DAEMON, lambda: take(second, SLOTS - 2)[0])
    os.write(go_w, b"x")
    t.join()
    second.stop()
    assert not set(result[0]) & set(later)
    assert len(set(later)) == SLOTS - 2


def test_range_kinds(broker):
    def daemon():
        s, got = connect(broker), []
        for kind in (RANGE, RANGE4, PLAIN):
            c = Child()
            status, base, count, reason, fds = lease(s, c, kind)
            with open(f"/proc/{c.pid}/setgroups") as f:
                setgroups = f.read().strip()
            got.append((status, base, count, c.map("uid_map"), c.map("gid_map"), setgroups))
            c.end()
        return got

    def maps(base, count):
        return [(0, base, count), (count, DAEMON, 1)]
    wide = START + 4 * WIDTH  # four whole slots, the first a multiple of four
    assert as_user(DAEMON, daemon) == [
        (OK, START, WIDTH, maps(START, WIDTH), maps(START, WIDTH), "allow"),
        (OK, wide, 4 * WIDTH, maps(wide, 4 * WIDTH), maps(wide, 4 * WIDTH), "allow"),
        (OK, START + WIDTH, 1, maps(START + WIDTH, 1), maps(START + WIDTH, 1), "allow"),
    ]


def test_leases_never_overlap(dir):
    """All kinds mixed until nothing is free: no two that are held have an id in common."""
    def daemon():
        s, held, refused = connect(b), [], set()
        for i in range(60):
            kind = (PLAIN, RANGE4, RANGE)[i % 3]
            c = Child()
            status, base, count, _, fds = lease(s, c, kind)
            c.end()
            if status == OK:
                held.append((base, base + count, fds[0]))
            else:
                assert status == BUSY and not fds
                refused.add(kind)
            if i == 40:
                for k in range(0, len(held), 2):  # some come back
                    assert give_back(s, held[k][2]) == OK
                held = held[1::2]
        return sorted(h[:2] for h in held), refused

    b = Broker(dir, "--id-count", str(18 * WIDTH))
    held, refused = as_user(DAEMON, daemon)
    b.stop()
    assert refused == {PLAIN, RANGE, RANGE4}
    assert all(a[1] <= b[0] for a, b in zip(held, held[1:])), held
    assert all(START <= a[0] and a[1] <= START + 18 * WIDTH for a in held)


def test_dropped_lease_is_quarantined(dir):
    """Across a kill -9 of the broker too: only CLEAN gets it, only a return frees it."""
    def drop(kind):
        s, c = connect(b), Child()
        status, _, _, _, fds = lease(s, c, kind)
        c.end()
        os.close(fds[0])
        return status

    def busy(kind):
        s, c = connect(b), Child()
        status = lease(s, c, kind)[0]
        c.end()
        return status

    def clean():
        s, c = connect(b), Child()
        status, base, count, _, fds = lease(s, c, CLEAN)
        maps = c.map("uid_map"), c.map("gid_map")
        c.end()
        d = Child()
        again = lease(s, d, CLEAN)[0]  # leased to the first cleaner now
        d.end()
        return status, base, count, maps, again, give_back(s, fds[0])

    for kind, n in ((PLAIN, 1), (RANGE, 1), (RANGE4, 4)):
        b = Broker(dir, "--id-count", str(n * WIDTH))
        assert as_user(DAEMON, lambda: drop(kind)) == OK
        assert as_user(DAEMON, lambda: [busy(k) for k in (PLAIN, RANGE, kind)]) == [BUSY] * 3
        b.stop()
        b = Broker(dir, "--id-count", str(n * WIDTH))
        assert as_user(DAEMON, lambda: busy(kind)) == BUSY
        # The whole slot, whatever the build had of it, and the daemon behind.
        maps = ([(0, START, n * WIDTH), (n * WIDTH, DAEMON, 1)],) * 2
        assert as_user(DAEMON, clean) == (OK, START, n * WIDTH, maps, NONE, OK)
        b.stop()
        b = Broker(dir, "--id-count", str(n * WIDTH))
        assert as_user(DAEMON, lambda: busy(CLEAN)) == NONE
        assert as_user(DAEMON, lambda: drop(kind)) == OK
        assert as_user(DAEMON, clean)[-1] == OK
        b.stop()


def test_clean_with_the_lease(broker):
    def daemon():
        s, c, d = connect(broker), Child(), Child()
        _, base, _, _, (fd,) = lease(s, c, RANGE)
        status, again, count, _, (copy,) = lease(s, d, CLEAN, fd)
        maps = d.map("uid_map")
        os.close(fd)
        e = Child()
        held = lease(s, e, CLEAN)[0]  # the copy holds it
        returned = give_back(s, copy)
        free = lease(s, e, CLEAN)[0]
        return [x.end() for x in (c, d, e)], (status, again - base, count, maps[0][1] - base), held, returned, free
    assert as_user(DAEMON, daemon) == ([0, 0, 0], (OK, 0, WIDTH, 0), NONE, OK, NONE)


FORGED = ["/dev/null", "/etc/passwd", "/", "/proc/self/ns/user", "fifo", "pidfd", "unlocked", "old"]


@pytest.mark.parametrize("kind", [CLEAN, RETURN])
@pytest.mark.parametrize("what", FORGED)
def test_fd_that_is_no_lease(broker, what, kind):
    """Neither ids nor a free slot for an fd that is not the lease of a slot."""
    def daemon():
        s, c, d = connect(broker), Child(), Child()
        _, base, _, _, (real,) = lease(s, c)
        if what == "pidfd":
            fd = d.pidfd
        elif what == "fifo":
            fd = os.pipe()[0]
        elif what == "unlocked":  # returned and freed, and kept: another's lease by now
            fd = real
            send(s, request(kind=RETURN), [fd])
            assert receive(s)[0] == OK
        elif what == "old":
            # A lease that was let go of, by force, and is somebody else's now.
            fcntl.flock(real, fcntl.LOCK_UN)
            other = Child()
            got = lease(s, other, CLEAN)
            assert got[:2] == (OK, base)
            other.end()
            fd = real
        else:
            fd = os.open(what, os.O_RDONLY)
        if kind == CLEAN:
            status, _, _, reason, fds = lease(s, d, CLEAN, fd)
            maps = d.map("uid_map")
        else:
            send(s, request(kind=RETURN), [fd])
            status, _, _, reason, fds = receive(s)
            maps = []
        return status, reason, fds, maps, c.end(), d.end()
    status, reason, fds, maps, *ends = as_user(DAEMON, daemon)
    assert (status, fds, maps, ends) == (REFUSED, [], [], [0, 0]), reason
    assert "slot" in reason


def run_as(uid, gid=None, threads=False):
    """A process with that uid; its pid."""
    r, w = os.pipe()
    pid = os.fork()
    if pid == 0:
        gid = uid if gid is None else gid
        os.setgroups([])
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
        os.write(w, b"x")
        time.sleep(60)
        os._exit(0)
    os.close(w)
    assert os.read(r, 1) == b"x"
    os.close(r)
    return pid


def ended(pid):
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


@pytest.mark.parametrize("kind,offset", [(PLAIN, 0), (RANGE, 0), (RANGE, WIDTH - 1), (RANGE4, 3 * WIDTH + 5)])
def test_returned_while_something_runs(dir, kind, offset):
    """The daemon's word is not enough: a slot under whose ids a process runs is not leased."""
    def daemon():
        s, c = connect(b), Child()
        status, base, _, _, fds = lease(s, c, kind)
        c.end()
        return status, [give_back(s, fd) for fd in fds]

    n = 4 if kind == RANGE4 else 1
    b = Broker(dir, "--id-count", str(n * WIDTH))
    assert as_user(DAEMON, daemon) == (OK, [OK])
    pid = run_as(START + offset)
    assert as_user(DAEMON, daemon) == (BUSY, [])
    ended(pid)
    assert as_user(DAEMON, daemon) == (OK, [OK])
    b.stop()


def test_requests_have_a_rate(broker):
    def daemon():
        s, c = connect(broker), Child(levels=0)
        began = time.monotonic()
        for _ in range(1100):  # two full seconds' worth and some
            assert lease(s, c)[0] == REFUSED
        c.end()
        return time.monotonic() - began
    assert as_user(DAEMON, daemon) > 1


ODD = {
    "no fd": lambda pidfd: (request(), []),
    "two fds": lambda pidfd: (request(), [pidfd, pidfd]),
    "nine fds": lambda pidfd: (request(), [pidfd] * 9),
    "short": lambda pidfd: (request()[:7], [pidfd]),
    "long": lambda pidfd: (request() + b"\0", [pidfd]),
    "very long": lambda pidfd: (request() * 500, [pidfd]),
    "version 2": lambda pidfd: (request(version=2), [pidfd]),
    "kind 0": lambda pidfd: (request(kind=0), [pidfd]),
    "kind 6": lambda pidfd: (request(kind=6), [pidfd]),
    "a number in the kind": lambda pidfd: (request(kind=872415232), [pidfd]),
    "a lease beside a plain request": lambda pidfd: (request(kind=PLAIN), [pidfd, pidfd]),
    "a return with two fds": lambda pidfd: (request(kind=RETURN), [pidfd, pidfd]),
}


@pytest.mark.parametrize("what", ODD)
def test_odd_message_costs_the_connection(broker, what):
    def daemon():
        s, c = connect(broker), Child()
        send(s, *ODD[what](c.pidfd))
        gone = receive(s) is None
        maps = c.map("uid_map")
        again = lease(connect(broker), c)[0]
        return gone, maps, again, c.end()

    assert as_user(DAEMON, daemon) == (True, [], OK, 0)
    assert len(os.listdir(f"/proc/{broker.pid}/fd")) <= 12  # odd fds were closed


def refusal(broker, make):
    """(status, reason, signal that ended the process) of a request for what make() gives."""
    def daemon():
        s, c = connect(broker), make()
        status, base, count, reason, fds = lease(s, c)
        assert (base, count, fds) == (0, 0, []) and status == REFUSED, (status, base, reason)
        before = c.map("uid_map") if getattr(c, "hold", None) is not None else None
        sig = c.end()
        honest = Child()
        ok = lease(s, honest)[0]  # the connection goes on
        honest.end()
        return reason, sig, ok, before
    return as_user(DAEMON, daemon)


def test_process_in_the_machines_namespace(broker):
    reason, sig, ok, _ = refusal(broker, lambda: Child(levels=0))
    assert "user namespace" in reason and (sig, ok) == (0, OK)


def test_namespace_with_maps(broker):
    reason, sig, ok, before = refusal(broker, lambda: Child(map_self=True))
    assert "map already" in reason and (sig, ok) == (0, OK)
    assert before == [(DAEMON, DAEMON, 1)]


def test_nested_namespace(broker):
    reason, sig, ok, before = refusal(broker, lambda: Child(levels=2))
    assert "within another" in reason and (sig, ok) == (0, OK)


def test_dead_process(broker):
    def dead():
        c = Child(wait=False)
        os.waitid(os.P_PIDFD, c.pidfd, os.WEXITED)  # reaped: the number is free
        c.end, c.map = (lambda: 0), (lambda name: [])
        return c
    reason, _, ok, _ = refusal(broker, dead)
    assert "no pidfd of a live process" in reason and ok == OK


def test_zombie(broker):
    def zombie():
        c = Child(wait=False)
        os.waitid(os.P_PIDFD, c.pidfd, os.WEXITED | os.WNOWAIT)
        return c
    reason, _, ok, _ = refusal(broker, zombie)
    assert ok == OK


@pytest.mark.parametrize("path", ["/dev/null", "/proc/self", "/proc/self/status", "/", "fifo"])
def test_fd_that_is_no_pidfd(broker, path):
    class NoChild:
        def __init__(self):
            self.pidfd = os.pipe()[0] if path == "fifo" else os.open(path, os.O_RDONLY)
            self.end = lambda: 0
    reason, _, ok, _ = refusal(broker, NoChild)
    assert "no pidfd" in reason and ok == OK


def test_foreign_namespace(broker):
    """A pidfd of another user's process that waits in a fresh namespace of its own."""
    r, w = os.pipe()
    hold_r, hold_w = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.setgroups([])
        os.setresgid(OTHER, OTHER, OTHER)
        os.setresuid(OTHER, OTHER, OTHER)
        libc.prctl(4, 1, 0, 0, 0)
        libc.unshare(CLONE_NEWUSER)
        os.write(w, b"x")
        os.read(hold_r, 1)
        os._exit(0)
    os.read(r, 1)

    class Foreign:
        def __init__(self):
            self.pidfd = os.pidfd_open(pid)
            self.end = lambda: 0
    reason, _, ok, _ = refusal(broker, Foreign)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert "cannot be signalled" in reason and ok == OK


def test_other_user_is_hung_up_on(broker):
    assert as_user(OTHER, lambda: connect(broker).recv(1)) == b""
    assert connect(broker).recv(1) == b""  # nor root
    assert broker.text().count("not the daemon's") == 1


def test_others_do_not_stand_in_the_way(broker):
    def others():
        for _ in range(300):
            connect(broker)
        return 0

    def daemon():
        s, c = connect(broker), Child()
        return lease(s, c)[0], c.end()
    as_user(OTHER, others)
    assert as_user(DAEMON, daemon) == (OK, 0)


def test_second_connection(broker):
    def daemon():
        a, b = connect(broker), connect(broker)
        second = b.recv(1)
        c = Child()
        first = lease(a, c)[0]
        c.end()  # it has a copy of the connection
        a.close()
        b = connect(broker)
        d = Child()
        third = lease(b, d)[0]
        d.end()
        return second, first, third
    assert as_user(DAEMON, daemon) == (b"", OK, OK)


def test_daemon_cannot_touch_the_broker(broker):
    pid = broker.pid

    def errno_of(f):
        try:
            f()
        except OSError as e:
            return e.errno
        return 0

    def call(name, *args):
        def f():
            if libc[name](*args) < 0:
                raise OSError(ctypes.get_errno(), name)
        return f

    def getfd(pid):
        fd = os.pidfd_open(pid)
        try:
            call("syscall", 438, fd, 0, 0)()  # pidfd_getfd
        finally:
            os.close(fd)

    def daemon():
        import resource
        room = ctypes.create_string_buffer(8)
        iov = (ctypes.c_size_t * 2)(ctypes.addressof(room), 8)
        return {
            "kill": errno_of(lambda: os.kill(pid, 0)),
            "kill -9": errno_of(lambda: os.kill(pid, 9)),
            "ptrace": errno_of(call("ptrace", 16, pid, 0, 0)),
            "prlimit": errno_of(lambda: resource.prlimit(pid, resource.RLIMIT_NOFILE, (0, 0))),
            "setpriority": errno_of(lambda: os.setpriority(os.PRIO_PROCESS, pid, 19)),
            "mem": errno_of(lambda: os.open(f"/proc/{pid}/mem", os.O_RDONLY)),
            "fd": errno_of(lambda: os.listdir(f"/proc/{pid}/fd")),
            "pidfd_getfd": errno_of(lambda: getfd(pid)),
            "process_vm_readv": errno_of(call("process_vm_readv", pid, iov, 1, iov, 1, 0)),
            "sched_setaffinity": errno_of(lambda: os.sched_setaffinity(pid, {0})),
            "setscheduler": errno_of(lambda: os.sched_setscheduler(pid, os.SCHED_IDLE, os.sched_param(0))),
            "mem for writing": errno_of(lambda: os.open(f"/proc/{pid}/mem", os.O_WRONLY)),
            "root": errno_of(lambda: os.listdir(f"/proc/{pid}/root")),
            "oom_score_adj": errno_of(lambda: os.open(f"/proc/{pid}/oom_score_adj", os.O_WRONLY)),
            "maps": errno_of(lambda: open(f"/proc/{pid}/maps").read()),
            "locks for writing": errno_of(lambda: os.open(f"{broker.dir}/locks/x", os.O_CREAT | os.O_WRONLY)),
            "environ": errno_of(lambda: open(f"/proc/{pid}/environ").read()),
            "locks": errno_of(lambda: os.listdir(f"{broker.dir}/locks")),
            "slot": errno_of(lambda: os.open(f"{broker.dir}/locks/ids-{START}", os.O_RDONLY)),
        }
    got = as_user(DAEMON, daemon)
    assert not {k: e for k, e in got.items() if e not in (1, 13)}


def test_state_of_the_broker(broker):
    with open(f"/proc/{broker.pid}/status") as f:
        status = dict(line.rstrip("\n").split(":\t", 1) for line in f if ":\t" in line)
    assert int(status["CapInh"], 16) == 0
    assert int(status["CapPrm"], 16) == 0xC0
    assert int(status["CapEff"], 16) == 0xC0
    assert int(status["CapBnd"], 16) == 0xC0
    assert int(status["CapAmb"], 16) == 0
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    assert status["Uid"].split() == [str(OWN), str(DAEMON), str(OWN), str(DAEMON)]
    assert status["Gid"].split() == [str(OWN)] * 4
    assert status["Groups"].strip() == ""


def test_links_libc_alone():
    out = subprocess.run(["ldd", BROKER], capture_output=True, text=True, check=True).stdout
    libs = sorted(line.split()[0] for line in out.splitlines())
    assert [n for n in libs if "vdso" not in n and "ld-linux" not in n] == ["libc.so.6"]


BLOCK = START + 5 * WIDTH + 7
REFUSED_STARTS = {
    "user": (dict(passwd=PASSWD + f"eve:x:{BLOCK}:100::/:/bin/sh\n"), [], "the user 'eve'"),
    "primary group": (dict(passwd=PASSWD + f"eve:x:1000:{BLOCK}::/:/bin/sh\n"), [], "the user 'eve'"),
    "group": (dict(group=GROUP + f"crew:x:{BLOCK}:\n"), [], "the group 'crew'"),
    "subuid": (dict(subuid=f"eve:{START - 10}:11\n"), [], "/etc/subuid for 'eve'"),
    "huge subuid": (dict(subuid="eve:100000:18446744073709551615\n"), [], "/etc/subuid for 'eve'"),
    "root": (dict(uid=0), [], "must not run as root"),
    "daemon's own user": (dict(uid=DAEMON), [], "apart from the daemon's"),
    "no capabilities": (dict(caps="-all"), [], "CAP_SETUID"),
    "one capability": (dict(caps="-all,+setuid"), [], "without the capabilities"),
    "low block": ({}, ["--start-id", "1000"], "no usable block"),
    "block with uid 0": ({}, ["--start-id", "0"], "no usable block"),
    "block over the end": ({}, ["--start-id", "4294900000"], "no usable block"),
    "small block": ({}, ["--id-count", "100"], "no usable block"),
    "half a slot": ({}, ["--id-count", "98304"], "no usable block"),
    "unaligned block": ({}, ["--start-id", "872415233"], "no usable block"),
    "huge block": ({}, ["--id-count", "2147483648"], "no usable block"),
    "number": ({}, ["--start-id", "12x"], "not a number"),
    "negative": ({}, ["--start-id", "-1"], "not a number"),
    "unknown user": ({}, ["--daemon-user", "nobody-there"], "no user 'nobody-there'"),
    "daemon is root": ({}, ["--daemon-user", "root"], "must not be root"),
    "locks of another": ({}, ["--locks", "/tmp"], "the directory for locks"),
}


@pytest.mark.parametrize("what", REFUSED_STARTS)
def test_refuses_to_start(dir, what):
    how, more, sentence = REFUSED_STARTS[what]
    p = subprocess.run(command(dir, options(dir, *more), **how), capture_output=True, text=True,
                       timeout=10)
    assert p.returncode == 1 and sentence in p.stderr, p.stderr


@pytest.mark.parametrize("who", ["uid", "gid"])
def test_ids_that_run(dir, who):
    """Refused while a process has an id of the block, and says which."""
    used = START + 9 * WIDTH + 3
    pid = run_as(used, 100) if who == "uid" else run_as(OTHER, used)
    p = subprocess.run(command(dir, options(dir)), capture_output=True, text=True, timeout=10)
    ended(pid)
    assert p.returncode == 1 and f"the running process '{pid}'" in p.stderr, p.stderr
    Broker(dir).stop()


@pytest.mark.parametrize("held", [True, False], ids=["leased", "quarantined"])
def test_restart_while_builds_run(dir, held):
    """What runs under a slot that is leased, or was left behind, is no reason to stay away."""
    def daemon():
        s, c = connect(b), Child()
        fds = lease(s, c, RANGE4)[4]
        c.end()
        os.write(ready_w, b"x")
        if held:
            os.read(go_r, 1)
        return len(fds)

    import threading
    ready_r, ready_w = os.pipe()
    go_r, go_w = os.pipe()
    b = Broker(dir)
    t = threading.Thread(target=lambda: as_user(DAEMON, daemon), daemon=True)
    t.start()
    os.read(ready_r, 1)
    pid = run_as(START + 3 * WIDTH + 1)
    b.stop()
    again = Broker(dir)  # fails the test when it does not come up
    os.write(go_w, b"x")
    t.join()
    again.stop()
    ended(pid)


def test_hidden_processes(dir):
    """Who cannot see the processes cannot say that ids are free."""
    args = command(dir, options(dir))
    args[4] = "mount -t proc -o hidepid=invisible proc /proc || exit 99; " + args[4]
    p = subprocess.run(args, capture_output=True, text=True, timeout=10)
    assert p.returncode == 1 and "hidepid" in p.stderr, p.stderr


def test_second_broker(dir):
    first = Broker(dir)
    p = subprocess.run(command(dir, options(dir)), capture_output=True, text=True, timeout=10)
    first.stop()
    assert p.returncode == 1 and "another broker" in p.stderr, p.stderr


def test_forged_slot_file(dir):
    os.symlink("/etc/passwd", f"{dir}/locks/ids-{START + 7 * WIDTH}")
    p = subprocess.run(command(dir, options(dir)), capture_output=True, text=True, timeout=10)
    assert p.returncode == 1 and f"ids-{START + 7 * WIDTH}" in p.stderr


@pytest.mark.skipif(not shutil.which("systemd-socket-activate"),
                    reason="needs systemd-socket-activate, to hand a socket over")
def test_socket_activation(dir):
    path = f"{dir}/run/socket"
    p = subprocess.Popen(["systemd-socket-activate", "--seqpacket", "-l", path, *command(
        dir, ["--daemon-user", str(DAEMON), "--locks", f"{dir}/locks", "--start-id", str(START)])], stderr=subprocess.PIPE)
    for _ in range(100):
        if os.path.exists(path):
            break
        time.sleep(0.02)
    os.chmod(path, 0o666)

    class Activated:
        pass
    Activated.dir = dir

    def daemon():
        s, c = connect(Activated), Child()
        return lease(s, c)[:3], c.end()
    try:
        assert as_user(DAEMON, daemon) == ((OK, START, 1), 0)
        assert sorted(os.listdir(f"/proc/{p.pid}/fd"), key=int)[:4] == ["0", "1", "2", "3"]
    finally:
        p.kill()
        p.wait()
