"""A supervisor that its builder has taken over (hostile.c in the place of airplant-build): what the core believes it.

It is told nothing about other builds and has no way to them; so this is about what it says: messages, outputs,
descriptors. Seen red without the defence named:

    place_check.c: is_store_object, of outputs too           test_forged_outputs[9], [10], [11]
    build_stage.c: references to what it was given alone     test_forged_outputs[6]
    build_run.c: is_pidfd; ids are given once                test_messages
    build_run.c: results that are not a supervisor's         test_the_end_twice
"""
import hashlib
import os
import shutil
import socket
import struct
import subprocess
import tempfile
import time

import pytest

from conftest import ALICE, Daemon, PRELUDE, wait_for
from puppet import AT_FDCWD, SUPERVISOR, Ended, Puppet, messages, programs, text, texts, u64
from worker import Worker, nar

KINDS = messages("build.h", "build_msg")
START, NEED_IDS, IDS, RUNNING, LOG, END, RELEASE, BYE = (
    KINDS["BUILD_" + name] for name in ("START", "NEED_IDS", "IDS", "RUNNING", "LOG", "END", "RELEASE", "BYE"))


class Machine:
    def __init__(self, daemon, bin_dir):
        self.daemon, self.count = daemon, 0
        self.listener = socket.socket(socket.AF_UNIX)
        path = f"{bin_dir}/airplant-build.commands"
        self.listener.bind(path)
        os.chmod(path, 0o666)
        self.listener.listen(64)
        self.listener.settimeout(0.05)
        self.spares = []
        with Worker(daemon.socket) as w:
            self.known = w.add_text("known", b"known\n")
            self.other = w.add_text("other", b"not an input\n")

    def build(self, attrs="", script="echo > $out"):
        """A client that waits for a build, and the supervisor of it, which has its orders and its ids."""
        self.count += 1
        name = f"victim-{self.count}"
        expr = f'shWith {{ name = "{name}"; src = builtins.storePath "{self.known}"; {attrs} }} "{script}"'
        client = self.daemon.popen("nix-build", "--no-out-link", "-E", PRELUDE + expr)
        puppet, kind, data = self.with_orders()
        assert kind == START
        fields, at = [], 0
        for _ in range(5):
            n = struct.unpack("<I", data[at:at + 4])[0]
            fields.append(data[at + 4:at + 4 + n].decode())
            at += n + 5
        puppet.drv, puppet.name, _, _, puppet.scratch = fields
        return client, puppet, name

    def with_orders(self):
        """Spares have none yet."""
        end = time.monotonic() + 20
        while time.monotonic() < end:
            try:
                self.spares.append(Puppet(self.listener.accept()[0]))
            except (TimeoutError, Ended):
                pass
            for p in list(self.spares):
                try:
                    message = p.receive(block=False)
                except Ended:
                    self.spares.remove(p)
                    continue
                if message:
                    self.spares.remove(p)
                    return p, message[0], message[2]
        raise AssertionError("no build was started")

    def get_ids(self, p):
        assert p.send(NEED_IDS) > 0
        kind, _, _ = p.receive()
        assert kind == IDS

    def out_of(self, p):
        r = self.daemon.run("nix-store", "-q", "--outputs", f"{self.daemon.store}/{p.drv}")
        return os.path.basename(r.stdout.strip())


@pytest.fixture(scope="module")
def machine(request, binaries, users):
    bin_dir = programs(binaries, request.config.getoption("--build-dir"), "airplant-build")
    daemon = Daemon(tempfile.mkdtemp(prefix="airplant-", dir="/tmp"), type(binaries)(bin_dir), users, "single").start()
    yield Machine(daemon, bin_dir)
    daemon.stop()
    subprocess.run(["chmod", "-R", "u+rwx", str(daemon.base)], stderr=subprocess.DEVNULL)
    shutil.rmtree(daemon.base, ignore_errors=True)
    shutil.rmtree(bin_dir)


@pytest.fixture
def m(machine):
    pid, before = machine.daemon.core.pid, sorted(os.listdir(machine.daemon.store))
    yield machine
    assert machine.daemon.core.poll() is None and machine.daemon.core.pid == pid
    for path, contents in ((machine.known, "known\n"), (machine.other, "not an input\n")):
        assert open(path).read() == contents
    with Worker(machine.daemon.socket) as w:
        assert w.valid(machine.known) == 1
    new = set(os.listdir(machine.daemon.store)) - set(before)
    assert all(n.endswith(".drv") for n in new) or getattr(machine, "changes", False), new
    machine.changes = False


def end(status=0, error="", outputs=(), real_path="", log_size=0):
    return (u64(status) + text(error) + struct.pack("<I", len(outputs)) + b"".join(outputs) + text(real_path) + u64(0) * 4 +
            u64(log_size))


def made(path, name="out", digest=None, size=200, refs=(), ca=""):
    return text(name) + text(path) + (digest or bytes(32)) + u64(size) + texts(refs) + text(ca)


def file(p, path, data=b"x", mode=0o444):
    fd = p.open(path, os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o600)
    assert fd >= 0, fd
    assert p.call("write", fd, data, len(data)) == len(data) and p.call("fchmod", fd, mode) == 0
    p.call("close", fd)


def failed(client, *words):
    said, _ = client.communicate(timeout=30)
    assert client.returncode != 0
    assert not words or any(w in said for w in words), said
    return said


def test_honest(m):
    """So that the others do not fail for another reason."""
    m.changes = True
    client, p, name = m.build()
    with p:
        m.get_ids(p)
        out = m.out_of(p)
        assert p.call("mkdir", f"{p.scratch}/out", 0o700) == 0
        file(p, f"{p.scratch}/out/{out}", b"made\n")
        digest = hashlib.sha256(nar(b"made\n")).digest()
        p.send(END, end(outputs=[made(out, digest=digest, size=len(nar(b"made\n")), refs=[os.path.basename(m.known)])]))
        assert p.receive()[0] == RELEASE
        p.send(BYE, u64(1) + text(""))
    said, _ = client.communicate(timeout=30)
    assert client.returncode == 0 and open(f"{m.daemon.store}/{out}").read() == "made\n", said
    assert os.path.basename(m.known) in m.daemon.run("nix-store", "-q", "--references", f"{m.daemon.store}/{out}").stdout


MESSAGES = {
    "unknown type": lambda p: p.send(77),
    "the core's own": lambda p: p.send(START, b""),
    "its ids again": lambda p: p.send(NEED_IDS),
    "running, no pidfd": lambda p: p.send(RUNNING, u64(0)),
    "running, a directory": lambda p: p.send(RUNNING, u64(0), [p.open("/", os.O_RDONLY)]),
    "running, two": lambda p: p.send(RUNNING, u64(0), [p.call("pidfd_open", p.call("getpid"), 0)] * 2),
    "malformed end": lambda p: p.send(END, b"x" * 100),
    "empty end": lambda p: p.send(END),
    "count": lambda p: p.send(END, u64(0) + text("") + struct.pack("<I", 2**32 - 1) + bytes(100)),
    "malformed log": lambda p: p.send(LOG, b"x"),
    "malformed bye": lambda p: p.send(BYE, b"x"),
    "no message": lambda p: p.send_raw(b"abc"),
    "false length": lambda p: p.send(LOG, u64(5), length=2**31),
    "a hundred files": lambda p: p.send(LOG, u64(1), [3] * 100),
    "spilled to nothing": lambda p: p.send_raw(struct.pack("<IIII", END, 0, 8, 1), [p.open("/", os.O_RDONLY)]),
}


@pytest.mark.parametrize("what", MESSAGES)
def test_messages(m, what):
    """The build is over, with a sentence; the process is ended."""
    client, p, _ = m.build()
    with p:
        m.get_ids(p)
        try:
            MESSAGES[what](p)
        except Ended:
            pass
        failed(client, "was given up", "ended without an answer")
        with pytest.raises(Ended):
            while True:
                p.call("getpid")
                time.sleep(0.01)


def outputs_that_are_none(m, p, out):
    o, known, other = f"{p.scratch}/out", os.path.basename(m.known), os.path.basename(m.other)
    make = lambda **kw: (p.call("mkdir", o, 0o700), file(p, f"{o}/{out}", **kw))

    def missing(): p.call("mkdir", o, 0o700)
    def no_directory(): pass
    def link_to_store(): p.call("symlink", str(m.daemon.store), o)
    def two(): make(); return [made(out), made(out)]
    def wrong_name(): make(); return [made(out, name="lib")]
    def none(): make(); return []
    def reference(): make(); return [made(out, refs=[other])]
    def reference_up(): make(); return [made(out, refs=["../../etc/passwd"])]
    def size(): make(); return [made(out, size=2**64 - 1)]
    def suid(): make(mode=0o4555)
    def writable(): make(mode=0o666)
    def fifo(): p.call("mkdir", o, 0o700), p.call("mknodat", AT_FDCWD, f"{o}/{out}", 0o010444, 0)
    def of_another_path(): p.call("mkdir", o, 0o700), file(p, f"{o}/{known}"); return [made(known)]
    return [missing, no_directory, link_to_store, two, wrong_name, none, reference, reference_up, size, suid, writable, fifo,
            of_another_path]


@pytest.mark.parametrize("number", range(13))
def test_forged_outputs(m, number):
    """Other outputs than the derivation has, references to what the build was not given, things that are no objects."""
    client, p, _ = m.build()
    with p:
        m.get_ids(p)
        out = m.out_of(p)
        act = outputs_that_are_none(m, p, out)[number]
        claim = act()
        p.send(END, end(outputs=claim if isinstance(claim, list) else [made(out)]))
        failed(client)
    assert not os.path.lexists(f"{m.daemon.store}/{out}"), act.__name__
    with Worker(m.daemon.socket) as w:
        assert w.valid(f"{m.daemon.store}/{out}") == 0


def say(p, *message):
    """It may be ended already."""
    try:
        p.send(*message)
    except Ended:
        pass


def test_the_end_twice(m):
    client, p, _ = m.build()
    with p:
        m.get_ids(p)
        p.send(END, end(status=3, error="once"))
        say(p, END, end(status=0, error="twice"))
        failed(client, "once")
    client, p, _ = m.build()
    with p:
        m.get_ids(p)
        for status in (1, 2, 99):  # substituted, already valid: not a supervisor's to say
            say(p, END, end(status=status, error="strange"))
        failed(client, "strange")


def test_real_path_of_what_is_not_fixed(m):
    """Only a fixed output may turn out to be something else."""
    client, p, _ = m.build()
    with p:
        m.get_ids(p)
        p.call("mkdir", f"{p.scratch}/out", 0o700)
        claimed = "a" * 32 + "-glibc-2.40"
        file(p, f"{p.scratch}/out/{claimed}")
        p.send(END, end(status=5, error="mismatch", outputs=[made(claimed, ca="fixed:r:sha256:" + "0" * 52)], real_path=claimed))
        failed(client, "mismatch")
    assert not os.path.lexists(f"{m.daemon.store}/{claimed}")


def test_silence(m):
    """It says nothing: the client may leave, and it is ended (after the time that an honest one has to delete)."""
    client, p, _ = m.build()
    with p:
        client.kill()
        client.wait()
        wait_for(lambda: not alive(p), m.daemon.daemon_log, seconds=15)


def alive(p):
    try:
        return p.call("getpid") > 0
    except Ended:
        return False


def test_it_dies(m):
    client, p, _ = m.build()
    with p:
        m.get_ids(p)
        p.tell(b"S", 60, 0, 0, 0, 0, 0, 0)
        failed(client, "ended without an answer")


def test_flood(m):
    """Messages and files as fast as it can: others have their turn."""
    client, p, _ = m.build()
    fds = len(os.listdir(f"/proc/{m.daemon.core.pid}/fd"))
    with p:
        m.get_ids(p)
        worst = 0
        for i in range(300):
            for _ in range(5):
                p.send(LOG, u64(i), [3, 3, 3], block=False)
            if i % 10 == 0:
                start = time.monotonic()
                with Worker(m.daemon.socket) as w:
                    w.add_text(f"meanwhile-{i % 3}", b"x")
                worst = max(worst, time.monotonic() - start)
        assert worst < 1
        m.changes = True
        p.send(END, end(status=3, error="the end"))
        failed(client, "the end")
    wait_for(lambda: len(os.listdir(f"/proc/{m.daemon.core.pid}/fd")) <= fds + 2, m.daemon.daemon_log)


def test_sealed(m):
    """With its seal it cannot leave: no second program, no other process, no other channel."""
    for call, args in (("kill", (1, 0)), ("execve", ("/bin/sh", 0, 0)), ("socket", (1, 1, 0)), ("ptrace", (16, 1, 0, 0)),
                       ("mount", ("none", "/", "tmpfs", 0, 0)), ("flock", (3, 1))):
        client, p, _ = m.build()
        with p:
            m.get_ids(p)
            # The seal keeps capabilities of the namespace that an honest one has made.
            assert p.call("unshare", 0x10000000) == 0
            p.seal(SUPERVISOR)
            with pytest.raises(Ended):
                p.call(call, *args)
            failed(client)
