"""A session that its client has taken over, in the real jail (hostile.c in the place of airplant-session).

It can be bare (nothing but the jail, as if its seal had a hole), walled (Landlock alone) or sealed. What
the filter refuses is in test/unit/confine; here is what is left when it is gone, and what a sealed
session can still say and do. The defence is named with each test; seen red without it:

    jail.c: read-only store; read-only database              test_store_and_database_are_read_only
    jail.c: network namespace                                test_no_network
    jail_spawn.c: changed root                               test_what_there_is
    jail_spawn.c: the spool as a detached mount              test_no_way_out_of_the_spool
    wall.c: SCOPE_SIGNALS                                    test_signals_stop_at_the_wall
    wall.c: the places                                       test_wall_names_two_directories
    store/blocked.c: who blocks the writer is ended          test_lock_of_the_database
    profiles.c: no lock without an owner, no flock           test_lock_without_an_owner, test_other_locks
    session_ops.c: is_plain_name; base names parsed again    test_names_in_the_spool
    place_check.c: is_store_object                           test_objects_that_are_none
    session_ops.c: a log is opened without following links   test_a_link_is_moved_and_never_followed
    place_check.c: check_ca; check_signature                 test_claims
    session_ops.c: trust for `ultimate`, dont_check_sigs,    test_claims
        logs, permanent roots; liveness; repairing builds
    place.c: signatures before rows                          test_a_batch_that_fails_leaves_no_row
    write.c: merging signatures does not take for ever       the same (the daemon stood still)
    chan.c: seals of a spilled message; session_ops.c:       test_messages
        unknown types, size of options; a second search
    chan.c: descriptors are closed                           test_files_with_honest_messages
    seal.c: PR_SET_DUMPABLE (and verify)                     test_processes[another session]
    sessions.c: account_penalty                              test_crashing_slows_its_own_user
    sessions.c: spool_drop                                   test_after_the_hash

Two walls stand, and one alone is seen by nothing here: PR_SET_DUMPABLE of the porter (its capabilities), the drop
of capabilities before a session's exec (the securebits).
"""
import errno
import fcntl
import hashlib
import os
import shutil
import socket
import struct
import subprocess
import tempfile
import time

import pytest

from conftest import ALICE, BOB, DAEMON, Daemon, wait_for
from puppet import AT_FDCWD, SESSION, Ended, Puppet, done, messages, programs, record, text, texts, u64
from worker import base32, nar, source_ca, source_path

KINDS = messages("session.h", "session_msg")
(OPTIONS, ADD, TEMP_ROOT, FIND_ROOTS, ADD_SIGS, ENSURE, REALISATION, BUILD, ADD_LOG, INVALIDATE, PERM_ROOT, COLLECT) = (
    KINDS["SESSION_" + name] for name in ("OPTIONS", "ADD", "TEMP_ROOT", "FIND_ROOTS", "ADD_SIGS", "ENSURE", "REALISATION", "BUILD",
                                          "ADD_LOG", "INVALIDATE", "PERM_ROOT", "COLLECT"))
# Nobody's, the core's own, and one beyond the last request.
FOREIGN = [0, 1, 15, COLLECT + 1, *(n for name, n in KINDS.items() if n >= KINDS["SESSION_DONE"]), 2**32 - 1]
STRANGER = 1 << 20  # uids that nobody has; each can crash its sessions without slowing another


class Machine:
    def __init__(self, daemon):
        self.daemon, self.next = daemon, STRANGER
        with self.session(0) as s:
            self.known = self.add(s, "known", b"known\n")
            self.known_base = os.path.basename(self.known)

    def session(self, uid=None):
        if uid is None:
            uid = self.daemon.users[ALICE].pw_uid
        os.seteuid(uid)
        try:
            s = socket.socket(socket.AF_UNIX)
            s.connect(str(self.daemon.socket))
        finally:
            os.seteuid(0)
        return Puppet(s)

    def stranger(self):
        self.next += 1
        return self.session(self.next)

    def add(self, s, name, data):
        """As an honest session does it."""
        s.file(name, data)
        assert done(s.request(ADD, self.object(name, data))) == ""
        path = source_path(str(self.daemon.store), name, nar(data))
        assert os.path.exists(path)
        return path

    def object(self, name, data=b"x", spool_name=None, path=None, ca=None, refs=(), deriver="", sigs=(), ultimate=0,
               when=0, dont_check=0, repair=0, size=None, digest=None):
        dump = nar(data)
        path = path if path is not None else os.path.basename(source_path(str(self.daemon.store), name, dump))
        o = (text(path) + text(name if spool_name is None else spool_name) + (digest or hashlib.sha256(dump).digest()) +
             u64(len(dump) if size is None else size) + texts(refs) + text(deriver) +
             text(source_ca(dump) if ca is None else ca) + texts(sigs) + u64(ultimate) + u64(when))
        return struct.pack("<I", 1) + o + u64(dont_check) + u64(repair)

    def rows(self):
        with self.session(0) as s:  # whatever waits is committed now
            assert done(s.request(ENSURE, text(self.known_base))) == ""
        out = subprocess.run(["sqlite3", "-readonly", f"{self.daemon.state}/db/db.sqlite", "select * from ValidPaths"],
                             capture_output=True, text=True, check=True).stdout
        return out.splitlines()

    def log(self):
        return self.daemon.daemon_log.read_text(errors="replace")


@pytest.fixture(scope="module")
def machine(request, binaries, users):
    bin_dir = programs(binaries, request.config.getoption("--build-dir"), "airplant-session")
    daemon = Daemon(tempfile.mkdtemp(prefix="airplant-", dir="/tmp"), type(binaries)(bin_dir), users, "single").start()
    yield Machine(daemon)
    daemon.stop()
    subprocess.run(["chmod", "-R", "u+rwx", str(daemon.base)], stderr=subprocess.DEVNULL)
    shutil.rmtree(daemon.base, ignore_errors=True)
    shutil.rmtree(bin_dir)


@pytest.fixture
def m(machine):
    """After each attack: the same daemon, which answers, and the known path as it was."""
    pid = machine.daemon.core.pid
    yield machine
    assert machine.daemon.core.poll() is None and machine.daemon.core.pid == pid
    start = time.monotonic()
    with machine.session(machine.daemon.users[BOB].pw_uid) as s:
        assert done(s.request(ENSURE, text(machine.known_base))) == ""
    assert time.monotonic() - start < 3
    assert open(machine.known).read() == "known\n"


# -- what it can reach -------------------------------------------------------------------------

def names(s, fd):
    data = b""
    while True:
        n = s.call("getdents64", fd, s.room + (3 << 20), 32768)
        assert n >= 0
        if n == 0:
            break
        data += s.get(n, 3 << 20)
    found = set()
    while data:
        size = struct.unpack("<H", data[16:18])[0]
        found.add(data[19:size].split(b"\0")[0].decode())
        data = data[size:]
    return found - {".", ".."}


def test_what_there_is(m):
    """Two directories and its spool; no process, device or socket of the machine has a name there."""
    with m.session() as s:
        assert [fd for fd in range(64) if s.call("fcntl", fd, fcntl.F_GETFD, 0) >= 0] == [0, 1, 2, 3, 4, 5]  # its client
        for root in ("/", "/..", "/../..", "/store/../.."):
            assert names(s, s.open(root, os.O_RDONLY | os.O_DIRECTORY)) == {"store", "db"}
        for path in ("/proc/self/mem", "/dev/null", "/etc/passwd", "/spool", "/../spool", "/view", "/tmp", m.daemon.base,
                     m.daemon.socket, m.daemon.base / "ids.socket", m.daemon.state / "db/db.sqlite"):
            assert s.error("openat", AT_FDCWD, path, os.O_RDONLY | os.O_PATH, 0) == "ENOENT", path


def test_store_and_database_are_read_only(m):
    """Read-only mounts hold where the kernel's uid owns every file."""
    known = f"/store/{m.known_base}"
    with m.session() as s:
        dir_fd = s.open("/store", os.O_RDONLY | os.O_DIRECTORY)
        s.file("mine")
        for name, args in {
                "chmod": ("/store", 0o777), "mkdir": ("/store/new", 0o755), "truncate": ("/db/db.sqlite", 0), "unlink": (known,),
                "rename": (known, "/store/other"), "symlink": ("x", "/store/link"), "fchmodat": (dir_fd, m.known_base, 0o666),
                "unlinkat": (dir_fd, m.known_base, 0), "mknodat": (dir_fd, "fifo", 0o010644, 0),
                "setxattr": (known, "user.x", "y", 1, 0)}.items():
            assert s.error(name, *args) == "EROFS", name
        for path in ("/db/db.sqlite", "/db/db.sqlite-wal", "/db/db.sqlite-shm", "/db/big-lock", "/db/schema"):
            assert s.error("openat", AT_FDCWD, path, os.O_RDWR, 0) == "EROFS", path
        for path in ("/db/db.sqlite-journal", "/db/new", "/store/new"):
            assert s.error("openat", AT_FDCWD, path, os.O_CREAT | os.O_WRONLY, 0o644) == "EROFS", path
        assert s.error("renameat", 4, "mine", dir_fd, "mine") in ("EROFS", "EXDEV")
        assert s.error("linkat", 4, "mine", dir_fd, "mine", 0) in ("EROFS", "EXDEV")
        assert s.error("linkat", dir_fd, m.known_base, 4, "stolen", 0) == "EXDEV"
        # What is open for reading does not become writable by its own fd.
        fd = s.open(known)
        assert s.error("fchmod", fd, 0o666) == "EROFS"
        assert s.error("ftruncate", fd, 0) in ("EINVAL", "EROFS")
        assert s.error("mmap", 0, 4096, 3, 1, fd, 0) == "EACCES"


def test_no_way_out_of_the_spool(m):
    """fd 4 is a detached mount: not its parent, not by a directory that the core has moved away meanwhile, not by
    a second root directory (no capability for one, and a process in a changed root gets no namespace)."""
    with m.session() as s, m.session() as other:
        other.file("secret")
        st = lambda fd, path: s.call("fstatat", fd, path, s.room + (3 << 20), 0) or s.get(16, 3 << 20)
        assert st(4, "..") == st(4, ".") == st(4, "../../..")
        assert s.call("mkdirat", 4, "tree", 0o755) == 0
        held = s.open("tree", os.O_RDONLY | os.O_DIRECTORY, at=4)
        deep = s.call("mkdirat", held, "d", 0o755) or s.open("d", os.O_RDONLY | os.O_DIRECTORY, at=held)
        dump = nar({"d": {}})
        o = m.object("tree", {"d": {}})
        assert done(s.request(ADD, o)) == ""
        assert os.path.isdir(source_path(str(m.daemon.store), "tree", dump))
        for fd, path in ((held, ".."), (held, "../.."), (deep, "../.."), (held, f"../{m.known_base}")):
            assert s.error("openat", fd, path, os.O_PATH, 0) == "ENOENT", path
        assert s.error("fchdir", held) == "" and s.error("openat", AT_FDCWD, "..", os.O_PATH, 0) == "ENOENT"
        assert s.error("chroot", "/store") == "EPERM"
        for flags in (0x10000000, 0x10000000 | 0x00020000):  # CLONE_NEWUSER, CLONE_NEWNS
            assert s.error("unshare", flags) == "EPERM"
        assert s.error("unshare", 0x00020000) == "EPERM"
        assert s.error("mount", "none", "/store", "tmpfs", 0, 0) == "EPERM"
        assert s.error("mount", "none", "/store", "none", 32 | 4096, 0) == "EPERM"  # MS_REMOUNT | MS_BIND
        assert s.error("umount2", "/db", 2) == "EPERM"
        assert s.error("open_tree", AT_FDCWD, "/store", 1) == "EPERM"
        assert s.error("move_mount", 4, "", AT_FDCWD, "/db", 4) in ("EPERM", "EINVAL")
        assert s.error("open_by_handle_at", 4, struct.pack("<Ii", 8, 1) + bytes(8), 0) == "EPERM"
        assert s.error("mknodat", 4, "sda", 0o060600, 0x800) == "EPERM"
        for ns in (0x40000000, 0x20000000):
            assert s.error("setns", 3, ns) in ("EINVAL", "EPERM")


def test_no_network(m):
    """A network namespace without anything in it, abstract sockets of the machine are in another."""
    with m.session() as s, socket.socket(socket.AF_UNIX) as outside, socket.socket() as tcp:
        outside.bind("\0airplant-attack")
        outside.listen()
        tcp.bind(("127.0.0.1", 0))
        tcp.listen()
        fd = s.call("socket", socket.AF_UNIX, socket.SOCK_STREAM, 0)
        address = struct.pack("<H", socket.AF_UNIX) + b"\0airplant-attack"
        assert s.error("connect", fd, address, len(address)) == "ECONNREFUSED"
        for path in (m.daemon.base / "ids.socket", m.daemon.base / "roots/socket", m.daemon.socket):
            address = struct.pack("<H", socket.AF_UNIX) + os.fsencode(path) + b"\0"
            assert s.error("connect", fd, address, len(address)) == "ENOENT"
        fd = s.call("socket", socket.AF_INET, socket.SOCK_STREAM, 0)
        address = struct.pack("<H", socket.AF_INET) + struct.pack(">H", tcp.getsockname()[1]) + bytes([127, 0, 0, 1]) + bytes(8)
        assert s.error("connect", fd, address, len(address)) == "ENETUNREACH"
        assert s.error("socket", socket.AF_PACKET, socket.SOCK_RAW, 0) == "EPERM"


def porter(m):
    return next(pid for pid, name in m.daemon.children().items() if name == "airplant-porter")


@pytest.mark.parametrize("who", ["the core", "the porter", "another session", "the tests", "init"])
def test_processes(m, who):
    """Not dumpable, in another user namespace, or of another user: no memory, no fd of any of them."""
    with m.session() as s, m.session() as other:
        pid = {"the core": m.daemon.core.pid, "the porter": porter(m), "init": 1, "the tests": os.getpid(),
               "another session": other.call("getpid")}[who]
        other.seal()
        iov = s.put(struct.pack("<QQ", s.room, 8), 1 << 18)
        for name, args in {"ptrace": (16, pid, 0, 0), "process_vm_readv": (pid, iov, 1, iov, 1, 0),
                           "process_vm_writev": (pid, iov, 1, iov, 1, 0)}.items():
            assert s.error(name, *args) == "EPERM", name
        assert s.error("ptrace", 0x4206, pid, 0, 0) == "EPERM"  # PTRACE_SEIZE
        fd = s.call("pidfd_open", pid, 0)
        assert s.error("pidfd_getfd", fd, 3, 0) == "EPERM"
        assert s.error("process_madvise", fd, iov, 1, 21, 0) in ("EPERM", "EACCES")  # MADV_PAGEOUT
        assert s.error("setns", fd, 0x20000) == "EPERM"


def test_signals_stop_at_the_wall(m):
    """A signal needs no more than the same uid. The filter has no call for it; behind that Landlock lets none out."""
    if Puppet_abi() < 6:
        pytest.skip("this kernel's Landlock cannot scope signals (Linux 6.12 can): the filter stands alone")
    with m.session() as s, m.session() as other:
        s.wall()
        for pid in (m.daemon.core.pid, porter(m), other.call("getpid")):
            assert s.error("kill", pid, 0) == "EPERM"
            assert s.error("kill", pid, 9) == "EPERM"
            assert s.error("pidfd_send_signal", s.call("pidfd_open", pid, 0), 9, 0, 0) == "EPERM"
        assert other.call("getpid") > 0
    with m.stranger() as s:
        s.seal()
        with pytest.raises(Ended):
            s.call("kill", m.daemon.core.pid, 9)


def Puppet_abi():
    import ctypes
    return ctypes.CDLL(None).syscall(444, None, 0, 1)


def test_wall_names_two_directories(m):
    """Behind a hole in the mounts: Landlock lets nothing be made, executed or renamed outside of the spool."""
    if Puppet_abi() < 2:
        pytest.skip("this kernel has no Landlock that is of use")
    with m.session() as s:
        s.wall()
        assert s.file("still-works") >= 0 and s.open(f"/store/{m.known_base}") >= 0
        assert s.error("mknodat", 4, "fifo", 0o010600, 0) == "EACCES"
        assert s.error("execve", f"/store/{m.known_base}", 0, 0) == "EACCES"
        fd = s.call("socket", socket.AF_UNIX, socket.SOCK_STREAM, 0)
        address = struct.pack("<H", socket.AF_UNIX) + b"/x\0"
        assert s.error("bind", fd, address, len(address)) in ("EACCES", "EROFS")


# -- the database ------------------------------------------------------------------------------

F_RDLCK, SETLK, OFD_SETLK = 0, 6, 37
WAL_LOCKS = 120  # write, checkpoint, recover, then the readers' marks (SQLite's WAL-index format)


@pytest.mark.parametrize("file, start, length", [("shm", WAL_LOCKS, 1), ("shm", WAL_LOCKS, 3), ("shm", 0, 0),
                                                 ("main", 0, 0)])
def test_lock_of_the_database(m, file, start, length):
    """Reading needs shared locks, and a shared lock in the wrong place stops the writer. SQLite's own would wait for
    seconds, at each transaction, in the core's one thread: the session that stands in the way is ended."""
    with m.stranger() as s:
        s.seal()
        fd = s.open("/db/db.sqlite" + ("-shm" if file == "shm" else ""))
        assert fd >= 0
        lock = struct.pack("<hhiqqi", F_RDLCK, 0, 0, start, length, 0) + bytes(4)
        assert s.call("fcntl", fd, SETLK, lock) == 0
        began = time.monotonic()
        for i in range(3):
            with m.session(m.daemon.users[BOB].pw_uid) as bob:
                m.add(bob, f"while-locked-{file}-{start}-{length}-{i}", b"bob's")
        assert time.monotonic() - began < 2


def test_lock_without_an_owner(m):
    """A lock of an open file names no process: the filter has no such call."""
    with m.stranger() as s:
        s.seal()
        fd = s.open("/db/db.sqlite-shm")
        with pytest.raises(Ended):
            s.call("fcntl", fd, OFD_SETLK, struct.pack("<hhiqqi", F_RDLCK, 0, 0, WAL_LOCKS, 1, 0) + bytes(4))


def test_other_locks(m):
    """flock(2) of what it can open stops nobody, and is not among its calls."""
    with m.stranger() as s:
        for path in ("/db/db.sqlite", "/db/db.sqlite-shm", "/db/db.sqlite-wal", "/store", f"/store/{m.known_base}", "/db"):
            assert s.call("flock", s.open(path), 2 | 4) in (0, -errno.EWOULDBLOCK)
        s.call("flock", s.open("/db/big-lock"), 1 | 4)
        with m.session() as other:
            m.add(other, "while-flocked", b"x")
        s.seal()
        with pytest.raises(Ended):
            s.call("flock", 4, 2)


# -- what it says ------------------------------------------------------------------------------

def test_names_in_the_spool(m):
    """A spool name is one name: else the core would rename whatever the daemon can."""
    for name in ("../other", "..", ".", "", "a/b", "/etc/passwd", f"../../../../store/{m.known_base}", "tree/../x"):
        with m.session() as s:
            s.file("x")
            with pytest.raises(Ended):
                s.request(ADD, m.object("x", spool_name=name))
        with m.session(0) as s, pytest.raises(Ended):
            s.request(ADD_LOG, text("0" * 32 + "-x.drv") + text(name))
    with m.session() as s:
        assert "looking at what was staged" in done(s.request(ADD, m.object("x", spool_name="nothing")))
        assert "looking at what was staged" in done(s.request(ADD, m.object("x", spool_name="n" * 4000)))
    for path in ("../x", "x", "", "0" * 32 + "-a/b", "0" * 31 + "-x", m.known, "0" * 32 + "-x\n"):
        for kind, payload in ((TEMP_ROOT, text(path)), (ENSURE, text(path)), (INVALIDATE, text(path)),
                              (ADD_SIGS, text(path) + texts(["a:bbbb"])), (ADD, m.object("x", path=path))):
            with m.session() as s, pytest.raises(Ended):
                raise AssertionError((path, kind, s.request(kind, payload)))


def test_objects_that_are_none(m):
    """The kind and mode of what is at the top, which the filter's modes should have seen to."""
    def suid(s): s.file("x", mode=0o4555)
    def sgid(s): s.file("x", mode=0o2555)
    def writable(s): s.file("x", mode=0o666)
    def own_writable(s): s.file("x", mode=0o644)
    def fifo(s): assert s.call("mknodat", 4, "x", 0o010444, 0) == 0
    def dir_for_all(s): assert s.call("mkdirat", 4, "x", 0) == 0 and s.call("fchmodat", 4, "x", 0o777) == 0
    def sticky_dir(s): assert s.call("mkdirat", 4, "x", 0) == 0 and s.call("fchmodat", 4, "x", 0o1755) == 0

    def sock(s):
        fd = s.call("socket", socket.AF_UNIX, socket.SOCK_STREAM, 0)
        assert s.call("fchdir", 4) == 0
        address = struct.pack("<H", socket.AF_UNIX) + b"x\0"
        assert s.call("bind", fd, address, len(address)) == 0
    before = sorted(os.listdir(m.daemon.store))
    for make in (suid, sgid, writable, own_writable, fifo, dir_for_all, sticky_dir, sock):
        with m.session() as s:
            make(s)
            assert "is not a store object" in done(s.request(ADD, m.object("x"))), make.__name__
    assert sorted(os.listdir(m.daemon.store)) == before


def test_a_link_is_moved_and_never_followed(m):
    """Symbolic links at the top, out of everything; and what is asked for as a log."""
    secret = m.daemon.base / "secret"
    secret.write_text("secret\n")
    with m.session(0) as s:
        for target in (secret, "../../../../etc/passwd", f"/store/{m.known_base}", "."):
            name = f"link{len(str(target))}"
            assert s.call("symlinkat", str(target), 4, name) == 0
            assert done(s.request(ADD, m.object(name, str(target)))) == ""
            placed = source_path(str(m.daemon.store), name, nar(str(target)))
            assert os.readlink(placed) == str(target)
            assert s.call("symlinkat", str(target), 4, "log") == 0
            assert "opening the log" in done(s.request(ADD_LOG, text("0" * 32 + "-x.drv") + text("log")))
            assert s.call("unlinkat", 4, "log", 0) == 0
        for make in ("mknodat", "mkdirat"):  # would block, or is none
            assert s.call(make, 4, "log", 0o010644 if make == "mknodat" else 0o755) == 0
            assert done(s.request(ADD_LOG, text("0" * 32 + "-x.drv") + text("log")))
            assert s.call("unlinkat", 4, "log", 0x200 if make == "mkdirat" else 0) == 0
    assert secret.read_text() == "secret\n" and not list(m.daemon.log.rglob("*x.drv*"))


def test_claims(m):
    """Paths that do not follow from their address, or have none; trust that the client has not got."""
    base = os.path.basename
    dump = nar(b"x")
    other = source_ca(nar(b"other"))
    glibc = "a" * 32 + "-glibc-2.40"
    before = m.rows()
    lies = {
        "another's path": dict(path=glibc), "no address": dict(ca=""), "another's address": dict(ca=other),
        "address and path of another, contents not": dict(ca=other, path=base(source_path(str(m.daemon.store), "x", nar(b"other")))),
        "no address, glibc": dict(ca="", path=glibc), "signed by nobody": dict(ca="", path=glibc, sigs=["cache.nixos.org-1:AAAA"]),
        "asks for trust": dict(ca="", path=glibc, dont_check=1), "says it built it": dict(ca="", path=glibc, ultimate=1),
        "all": dict(ca="", path=glibc, dont_check=1, ultimate=1, sigs=["k:ss"]), "repairs": dict(repair=1),
        "repairs another's": dict(repair=1, path=m.known_base), "nonsense": dict(ca="fixed:r:sha256"),
        "a reference that is not there": dict(refs=["b" * 32 + "-ghost"]), "size": dict(size=2**64 - 1),
        "not an object yet": dict(refs=[m.known_base]),
    }
    for what, lie in lies.items():
        with m.session() as s:
            s.file("x")
            assert done(s.request(ADD, m.object("x", **lie))), what
    assert m.rows() == before and not (m.daemon.store / glibc).exists()
    # A valid path stays what it is, whoever says what.
    with m.session(0) as s:
        s.file("x")
        assert done(s.request(ADD, m.object("x", path=m.known_base, ca="", dont_check=1))) == ""
        assert "repairing" in done(s.request(ADD, m.object("x", repair=1))) or True
    assert open(m.known).read() == "known\n"
    # What a trusted client may say of itself, an untrusted one's session may not.
    with m.session() as s:
        s.file("y")
        assert done(s.request(ADD, m.object("y", ultimate=1))) == ""
    row = [r for r in m.rows() if r.split("|")[1].endswith("-y")]
    assert len(row) == 1 and row[0].split("|")[6] == ""
    for what, kind, payload in (("log", ADD_LOG, text("0" * 32 + "-x.drv") + text("x")),
                                ("root", PERM_ROOT, text(f"{m.daemon.state}/gcroots/x") + text(m.known_base)),
                                ("invalidate", INVALIDATE, text(m.known_base)),
                                ("realisation", REALISATION, bytes(32) + text("out") + text(m.known_base) + texts([]))):
        with m.session() as s:
            s.file("x", b"a line\n")
            assert done(s.request(kind, payload)), what
    assert not list(m.daemon.log.rglob("*x.drv*"))
    for payload, words in ((u64(3) + u64(0) * 2 + u64(1) + u64(0) + texts([m.known_base]), "ignore liveness"),):
        with m.session() as s:
            assert words in s.request(COLLECT, payload).decode()
    with m.session() as s:
        assert "repairing is not allowed" in s.request(BUILD, record("build", targets=texts([m.known_base]), mode=u64(1))).decode()


def test_a_batch_that_fails_leaves_no_row(m):
    """A row without files would be a path that is valid and empty for ever: here for a path of the attacker's choice,
    whose batch fails late, by what it adds to another path."""
    data = b"somebody will want this one day\n"
    with m.session() as s:
        s.file("wanted", data)
        s.file("known", b"known\n")
        sigs = ["k:" + "%08d" % i for i in range(200000)]
        both = m.object("wanted", data)[4:-16] + m.object("known", b"known\n", sigs=sigs)[4:-16]
        payload = struct.pack("<I", 2) + both + u64(0) * 2
        s.send_raw(struct.pack("<IIII", ADD, 1, len(payload), 1), [memory(s, payload, 15)])
        said = done(s.receive()[2])
    assert said
    path = source_path(str(m.daemon.store), "wanted", nar(data))
    assert not any(path in row for row in m.rows()), said
    assert not os.path.exists(path)
    with m.session(m.daemon.users[BOB].pw_uid) as bob:
        m.add(bob, "wanted", data)


def hostile_messages(m):
    """name: what to do with a session, which must end it."""
    for kind in FOREIGN:
        yield f"type {kind}", lambda s, kind=kind: s.send(kind, b"")
    yield "short", lambda s: s.send_raw(b"abc")
    yield "length", lambda s: s.send(TEMP_ROOT, b"abc", length=4)
    yield "length huge", lambda s: s.send(TEMP_ROOT, b"abc", length=2**32 - 1)
    yield "flags", lambda s: s.send(TEMP_ROOT, text(m.known_base), flags=2)
    yield "trailing", lambda s: s.send(TEMP_ROOT, text(m.known_base) + b"x")
    yield "zero in text", lambda s: s.send(TEMP_ROOT, struct.pack("<I", 3) + b"a\0b\0")
    yield "count", lambda s: s.send(ADD, struct.pack("<I", 2**32 - 1) + bytes(64))
    yield "count of texts", lambda s: s.send(BUILD, struct.pack("<I", 2**31) + bytes(64))
    yield "empty add", lambda s: s.send(ADD, b"")
    yield "body for none", lambda s: s.send(FIND_ROOTS, b"x")
    yield "spilled, no file", lambda s: s.send_raw(struct.pack("<IIII", TEMP_ROOT, 1, 8, 1))
    yield "spilled, a directory", lambda s: s.send_raw(struct.pack("<IIII", TEMP_ROOT, 1, 8, 1), [4])
    yield "spilled, a file", lambda s: s.send_raw(struct.pack("<IIII", TEMP_ROOT, 1, 8, 1), [s.file("f", b"x" * 8)])
    root = text(m.known_base)
    yield "spilled, unsealed", lambda s: s.send_raw(struct.pack("<IIII", TEMP_ROOT, 1, len(root), 1), [memory(s, root)])
    yield "spilled, may grow", lambda s: s.send_raw(struct.pack("<IIII", TEMP_ROOT, 1, len(root), 1), [memory(s, root, 8)])
    yield "spilled, too long", lambda s: s.send_raw(struct.pack("<IIII", TEMP_ROOT, 1, 65 << 20, 1), [memory(s, b"", 15)])
    yield "spilled, short", lambda s: s.send_raw(struct.pack("<IIII", TEMP_ROOT, 1, 4096, 1), [memory(s, b"abc", 15)])
    yield "many files", lambda s: s.send(TEMP_ROOT, text(m.known_base), fds=[4] * 200)
    yield "mode", lambda s: s.send(BUILD, record("build", targets=texts([m.known_base]), mode=u64(9)))
    yield "action", lambda s: s.send(COLLECT, u64(9) + u64(0) * 4 + texts([]))
    yield "path to collect", lambda s: s.send(COLLECT, u64(3) + u64(0) * 4 + texts(["../x"]))
    yield "signature", lambda s: s.send(ADD_SIGS, text(m.known_base) + texts(["a b"]))
    yield "corrupt signature", lambda s: s.send(ADD_SIGS, text(m.known_base) + texts(["k:A"]))
    yield "object with one", lambda s: (s.file("x"), s.request(ADD, m.object("x", sigs=["k:A"])))
    yield "no signature", lambda s: s.send(ADD_SIGS, text(m.known_base) + texts([""]))
    yield "output", lambda s: s.send(REALISATION, bytes(32) + text("../out") + text(m.known_base) + texts([]))
    yield "options", lambda s: s.send_raw(struct.pack("<IIII", OPTIONS, 1, 300 << 10, 1), [memory(s, options(300 << 10), 15)])
    yield "two searches", lambda s: (s.send(FIND_ROOTS), s.send(FIND_ROOTS, number=2))


def options(size):
    return u64(0) * 7 + struct.pack("<I", 1) + text("x") + text("y" * (size - 56 - 4 - 6 - 5))


def memory(s, data, seals=None):
    fd = s.call("memfd_create", "m", 3)
    for at in range(0, len(data), 1 << 20):
        assert s.call("write", fd, data[at:at + (1 << 20)], min(1 << 20, len(data) - at)) > 0
    if seals is not None:
        assert s.call("fcntl", fd, 1033, seals) == 0
    return fd


def test_messages(m):
    """One that says what no session says is ended, and nobody else is; no fd of its stays in the core."""
    fds = len(os.listdir(f"/proc/{m.daemon.core.pid}/fd"))
    with m.session() as other:
        for name, act in hostile_messages(m):
            with m.session() as s:
                with pytest.raises(Ended):
                    act(s)
                    for _ in range(4):
                        s.receive()
                    raise AssertionError(name)
        assert done(other.request(ENSURE, text(m.known_base))) == ""
    wait_for(lambda: len(os.listdir(f"/proc/{m.daemon.core.pid}/fd")) <= fds + 2, m.daemon.daemon_log)


def test_files_with_honest_messages(m):
    """Descriptors that nobody asked for are closed, whatever they lead to."""
    fds = len(os.listdir(f"/proc/{m.daemon.core.pid}/fd"))
    with m.session() as s:
        root = s.open("/", os.O_RDONLY | os.O_DIRECTORY)
        for _ in range(50):
            assert done(s.request(ENSURE, text(m.known_base), fds=[root, 4, 3])) == ""
        assert len(os.listdir(f"/proc/{m.daemon.core.pid}/fd")) <= fds + 4


def test_never_reading(m):
    """Requests without end whose answers nobody reads: the core's memory stays (limits: test_outbox.c of the unit tests)."""
    with m.session() as s:
        before, sent = rss(m.daemon.core.pid), 0
        try:
            while sent < 20000:
                if s.send(ENSURE, text(m.known_base), number=sent + 1, block=False) == -errno.EAGAIN:
                    time.sleep(0.001)
                else:
                    sent += 1
        except Ended:
            pass
        assert sent > 300  # the channel is full of answers by then
        assert rss(m.daemon.core.pid) - before < 16 << 10


def rss(pid):
    for line in open(f"/proc/{pid}/status"):
        if line.startswith("VmRSS"):
            return int(line.split()[1])


def test_flood_delays_others_little(m):
    """Messages of one session are heard in rounds: another's are answered between them."""
    with m.session() as s, m.session(m.daemon.users[BOB].pw_uid) as bob:
        big = m.object("x", refs=["c" * 32 + f"-{i}" for i in range(500)])
        worst = 0
        for i in range(200):
            s.send(ADD, big, number=i + 1, block=False)
            start = time.monotonic()
            assert done(bob.request(ENSURE, text(m.known_base))) == ""
            worst = max(worst, time.monotonic() - start)
        assert worst < 0.5


def test_flood_of_temporary_roots(m):
    """Each stays in the core's memory for as long as its session lives, two million for one user (test_accounts.c of
    the unit tests): they are small, and gone with the session."""
    m.next += 1
    count, number = 20000, 0
    before = rss(m.daemon.core.pid)
    with m.session(m.next) as s:
        ghost = lambda i: m.object("x", spool_name="ghost", path="%032d-r" % i)[4:-16]
        for first in range(0, count, 100):  # also that of an add that fails
            payload = struct.pack("<I", 100) + b"".join(map(ghost, range(first, first + 100))) + u64(0) * 2
            number += 1
            assert done(s.request(ADD, payload, number=number))
        assert (rss(m.daemon.core.pid) - before) * 1024 < count * 250
        assert done(s.request(TEMP_ROOT, text("0" * 32 + "-r"), number=number + 1)) == ""


def test_crashing_slows_its_own_user(m):
    """Two crashes are free, then his next session waits, twice as long each time; nobody else's does."""
    m.next += 1
    uid = m.next
    for _ in range(5):
        with m.session(uid) as s, pytest.raises(Ended):
            s.call("kill", s.call("getpid"), 11)
            s.call("getpid")
    wait_for(lambda: m.log().count(f"of user {uid} died of signal 11") == 5, m.daemon.daemon_log)
    start = time.monotonic()
    with m.session(m.daemon.users[BOB].pw_uid) as s:
        assert done(s.request(ENSURE, text(m.known_base))) == ""
    assert time.monotonic() - start < 0.5
    start = time.monotonic()
    with m.session(uid):
        waited = time.monotonic() - start
    assert 0.2 < waited < 3


def test_after_the_hash(m):
    """What is changed between the core's look and later: a valid path of another is out of reach, the object's own
    directory is sealed, and what is left in the spool is deleted with the session."""
    with m.session() as s:
        s.file("left", b"left over")
        fd = s.file("own", b"own")
        assert s.call("linkat", 4, "own", 4, "second", 0) == 0  # no such call in the filter
        assert done(s.request(ADD, m.object("own", b"own"))) == ""
        placed = source_path(str(m.daemon.store), "own", nar(b"own"))
        assert os.stat(placed).st_nlink == 2
        s.call("close", fd)
    wait_for(lambda: not spooled(m), m.daemon.daemon_log)
    wait_for(lambda: os.stat(placed).st_nlink == 1, m.daemon.daemon_log)
    with m.stranger() as s:
        s.seal()
        s.file("own")
        with pytest.raises(Ended):
            s.call("linkat", 4, "own", 4, "second", 0)


def spooled(m):
    return [os.path.join(d, f) for d, _, files in os.walk(m.daemon.state / "airplant/spool") for f in files]
