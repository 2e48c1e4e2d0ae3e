"""The worker protocol, spoken byte by byte: the answers of each version, and hostile clients.

After each attack: one clear error or a closed connection, other clients undisturbed, nothing left in
the store or the spool, the database as before, and the same daemon process.
"""
import hashlib
import os
import shutil
import socket
import sqlite3
import subprocess
import tempfile
import time

import pytest

from conftest import ALICE, Daemon, wait_for
from worker import (Closed, Raw, Refused, Worker, base32, frames, info_tail, nar, nar_head, nar_node,
                    source_ca, source_path, store_path, string, strings, u64)

VERSIONS = [18, 21, 26, 30, 34, 35, 37, 38]
HUGE = [2**31 - 1, 2**31, 2**31 + 1, 2**32, 2**63, 2**64 - 1]


class Machine:
    """The daemon of this module, and what must not change under attack."""

    def __init__(self, daemon):
        self.daemon, self.socket, self.store = daemon, daemon.socket, str(daemon.store)
        self.bystander = Worker(self.socket)
        self.known = self.bystander.add_text("known", b"known\n")

    def untrusted(self, minor=38, **kw):
        os.seteuid(self.daemon.users[ALICE].pw_uid)
        try:
            return Worker(self.socket, (1, minor), timeout=10, **kw)
        finally:
            os.seteuid(0)

    def trusted(self, minor=38, **kw):
        return Worker(self.socket, (1, minor), timeout=10, **kw)

    def rows(self):
        with sqlite3.connect(f"file:{self.daemon.state}/db/db.sqlite?mode=ro", uri=True) as c:
            return (c.execute("select * from ValidPaths order by id").fetchall(), c.execute("select * from Refs").fetchall(),
                    c.execute("select * from DerivationOutputs").fetchall())

    def spooled(self):
        """Files that lie in the spool (the directories of waiting sessions are empty)."""
        return [os.path.join(d, f) for d, _, files in os.walk(self.daemon.state / "airplant/spool") for f in files]

    def snapshot(self):
        return sorted(os.listdir(self.store)), self.rows()


@pytest.fixture(scope="module")
def module_daemon(binaries, users):
    daemon = Daemon(tempfile.mkdtemp(prefix="airplant-", dir="/tmp"), binaries, users, "single").start()
    yield Machine(daemon)
    daemon.stop()
    subprocess.run(["chmod", "-R", "u+rwx", str(daemon.base)], stderr=subprocess.DEVNULL)
    shutil.rmtree(daemon.base, ignore_errors=True)


@pytest.fixture
def m(module_daemon):
    """Asserts after each test that nothing happened."""
    m = module_daemon
    before, pid = m.snapshot(), m.daemon.core.pid
    yield m
    assert m.bystander.valid(m.known) == 1
    assert m.daemon.core.poll() is None and m.daemon.core.pid == pid
    if getattr(m, "changes", False):
        m.changes = False
    else:
        assert m.snapshot() == before
    wait_for(lambda: not m.spooled(), m.daemon.daemon_log)


@pytest.fixture
def changing(m):
    """For tests that do add something."""
    m.changes = True
    return m


def refused(w, *parts, text=None):
    """The operation ends in one error or a closed connection; gives the error's text."""
    with w:
        try:
            w.op(*parts)
        except Refused as e:
            assert str(e).strip()
            if text:
                assert text in str(e)
            return str(e)
        except Closed:
            assert not text, "closed without a word"
            return ""
    raise AssertionError("was not refused")


# -- answers ----------------------------------------------------------------------------------

@pytest.mark.parametrize("minor", VERSIONS)
def test_greeting(m, minor):
    with m.trusted(minor) as w:
        assert w.server == 0x126
        assert (w.daemon_version is not None) == (minor >= 33)
        assert w.trust == (1 if minor >= 35 else None)
        w.options(("keep-going", "true"))
        assert w.valid(m.known) == 1
    with m.untrusted(minor) as w:
        assert w.trust == (2 if minor >= 35 else None)


@pytest.mark.parametrize("minor", VERSIONS)
def test_each_answer(changing, minor):
    m = changing
    dump = nar({"a": b"x", "b": (b"tool",), "c": "a"})
    path = source_path(m.store, f"tree{minor}", dump)
    ghost = f"{m.store}/{'a' * 32}-ghost"
    with m.trusted(minor) as w:
        w.options()
        text = w.add_text(f"text{minor}", b"text")
        w.add_nar(path, dump, ca=source_ca(dump), refs=[])
        if minor >= 25:
            assert w.add(f"tree{minor}", "fixed:r:sha256", dump)[0] == path
        else:
            assert w.add_old(f"tree{minor}", 0, 1, "sha256", dump) == path
        info = w.path_info(path)
        assert info["hash"] == hashlib.sha256(dump).hexdigest() and info["size"] == len(dump)
        assert info["refs"] == [] and info["ca"] == source_ca(dump) and info["ultimate"] == 0
        assert w.path_info(ghost) is None and w.valid(ghost) == 0
        w.op(6, path)
        assert w.strings() == []
        w.op(10, path)
        assert w.u64() == 1
        w.op(11, path)
        assert w.u64() == 1
        w.op(12, f"{m.daemon.base}/some-link")
        assert w.u64() == 1
        w.op(14)
        assert all(w.string() and w.string() for _ in range(w.u64()))
        w.op(23)
        assert {path, text, m.known} <= set(w.strings())
        w.op(29, os.path.basename(path)[:32])
        assert w.string() == path
        w.op(29, "z" * 32)
        assert w.string() == ""
        w.op(30, strings([path]) if minor < 22 else u64(1) + string(path) + string(""))
        assert w.u64() == 0
        w.op(31, strings([path, ghost]), *([0] if minor >= 27 else []))
        assert w.strings() == [path]
        w.op(32, strings([path]))
        assert w.strings() == []
        w.op(33, path)
        assert w.strings() == []
        w.op(37, path, strings([]))
        assert w.u64() == 1
        w.op(38, path)
        assert w.read(len(dump)) == dump
        w.op(40, strings([path]))
        assert (w.strings(), w.strings(), w.strings(), w.u64(), w.u64()) == ([], [], [], 0, 0)
        w.op(9, strings([path]), 0)
        assert w.u64() == 1
        if minor >= 34:
            w.op(46, strings([path]), 0)
            assert w.u64() == 1 and w.string() == path and w.u64() in (0, 1, 2)
            w.string(), [w.u64() for _ in range(4)]
            if minor >= 37:
                assert w.u64() in (0, 1) and w.u64() in (0, 1)
            assert w.u64() == 0
        for kind, want in ((4, info["hash"]), (18, "")):
            w.op(kind, path)
            assert w.string() == want
        w.op(5, path)
        assert w.strings() == []
        if minor >= 32:
            w.add_multiple([(path, dump, {"ca": source_ca(dump)})])
        assert w.valid(path) == 1  # nothing is left over in the stream


def test_old_client_is_told(m):
    for minor in (0, 10, 17):
        with pytest.raises(Refused, match="too old"):
            m.trusted(minor)


def test_client_that_waits_after_the_first_word(m):
    w = m.trusted(greet=False)
    w.send(0x6e697863)
    assert w.u64() == 0x6478696f and w.u64() == 0x126
    w.close()


def test_many_requests_in_one_write(m):
    with m.trusted() as w:
        w.send(b"".join(u64(1) + string(m.known) for _ in range(500)))
        for _ in range(500):
            w.finish()
            assert w.u64() == 1


# -- nonsense ---------------------------------------------------------------------------------

@pytest.mark.parametrize("first", [b"GET / HTTP/1.1\r\n\r\n", u64(0), u64(2**64 - 1), b"\xff" * 64, b""])
def test_no_greeting(m, first):
    with m.untrusted(greet=False) as w:
        w.send(first)
        w.s.shutdown(socket.SHUT_WR)
        with pytest.raises((Closed, Refused)):
            w.finish()


@pytest.mark.parametrize("number", [0, 2, 15, 17, 24, 25, 48, 50, 255, 1000, 1001, 2**32 + 1, 2**64 - 1])
def test_unknown_operation(m, number):
    refused(m.untrusted(), number, text="invalid operation")


@pytest.mark.parametrize("text", ["nonsense", ":AAAA", "k:", "k:A", "k:A A", "k:AA\n", "k:AA=A", "k:A*", "a b:AAAA"])
def test_corrupt_signature(m, text):
    """2.34 cannot read a path's row that has one: nobody may put it there."""
    refused(m.untrusted(), 37, m.known, strings([text]), text="is corrupt")
    dump = nar(b"signed")
    refused(m.untrusted(), 39, nar_head(source_path(m.store, "signed", dump), dump, sigs=[text], ca=source_ca(dump)), frames(dump),
            text="is corrupt")


STRING_FIRST = [1, 4, 5, 6, 7, 8, 10, 11, 12, 18, 26, 28, 29, 33, 36, 37, 38, 39, 41, 42, 43, 45, 47]
LIST_FIRST = [9, 30, 31, 32, 40, 46, 49]


@pytest.mark.parametrize("size", HUGE)
def test_false_lengths(m, size):
    """A length that is not followed by as much must cost nothing but the connection."""
    for op in STRING_FIRST + LIST_FIRST:
        w = m.untrusted()
        w.send(op, size, b"x" * 64)
        w.s.shutdown(socket.SHUT_WR)
        with pytest.raises((Refused, Closed)):
            w.finish()
            raise AssertionError(op)
        w.close()
    refused(m.untrusted(), 7, "name", "fixed:r:sha256", size)  # references
    refused(m.untrusted(), 39, m.known, "", "0" * 64, size)
    refused(m.untrusted(), 19, *[0] * 12, size)
    w = m.untrusted()
    w.send(7, "name", "fixed:r:sha256", strings([]), 0, size, b"x" * 64)
    w.s.shutdown(socket.SHUT_WR)
    with pytest.raises((Refused, Closed)):
        w.finish()
    w.close()


@pytest.mark.parametrize("answer", [u64(n) + b"x" * 64 for n in HUGE] + [u64(0), u64(65537) + b"x" * 65544])
def test_false_answers_to_read(m, answer):
    """Ops 27 and 39 of old clients ask for their data piece by piece."""
    for number, head in ((27, b""), (39, nar_head(source_path(m.store, "pulled", nar(b"x")), nar(b"x")))):
        with m.untrusted(22) as w:
            w.send(number, head)
            assert w.u64() == 0x64617461 and w.u64() > 0
            w.send(answer)
            w.s.shutdown(socket.SHUT_WR)
            with pytest.raises((Refused, Closed)):
                w.finish(on_read=lambda n: b"")


def test_padding_must_be_zero(m):
    for op in (1, 6, 10, 11, 26):
        path = m.known.encode()
        assert len(path) % 8
        w = m.untrusted()
        refused(w, op, u64(len(path)) + path + b"\1" * (-len(path) % 8), text="padding")


def test_paths_that_are_none(m):
    for path in ("", "/", "relative", "/etc/passwd", m.store, m.store + "/", f"{m.store}/../{'a' * 32}-x",
                 f"{m.store}/{'a' * 32}-x/../../y", f"{m.store}/{'a' * 31}-x", f"{m.store}/{'e' * 32}-x",
                 f"{m.store}/{'a' * 32}-", f"{m.store}/{'a' * 32}-a/b", f"{m.store}/{'a' * 32}-.",
                 f"{m.store}/{'a' * 32}-..", f"{m.store}/{'a' * 32}-a\0b", f"{m.store}/{'a' * 32}-\xff",
                 f"{m.store}/{'a' * 32}-" + "n" * 212, f"{m.store}/{'a' * 32}-a b"):
        for op in (1, 6, 10, 11, 26, 33, 38):
            refused(m.untrusted(), op, path)


def test_names_of_objects(m):
    for name in ("", ".", "..", ".hidden/..", "a/b", "../x", "a b", "a\0b", "ü", "n" * 212, "x.\n", "*"):
        for method in ("text:sha256", "fixed:r:sha256"):
            with m.untrusted() as w, pytest.raises((Refused, Closed)):
                w.add(name, method, b"text" if method[0] == "t" else nar(b"text"))


def test_methods(m):
    for method in ("", "text", "text:", "text:md5", "fixed:", "fixed:r:", "fixed:r:sha3", "fixed:sha256:x", "r:sha256",
                   "fixed:R:sha256", "x" * 4096, "\0"):
        with m.untrusted() as w, pytest.raises((Refused, Closed)):
            w.add("name", method, nar(b""))
    # The connection lives on after an error that left the stream in order.
    with m.untrusted() as w:
        with pytest.raises(Refused):
            w.add("bad/name", "text:sha256", b"x")
        assert w.valid(m.known) == 1


# -- NARs -------------------------------------------------------------------------------------

def deep(n):
    """Directories in each other, without recursion."""
    t = lambda *words: b"".join(map(string, words))
    return (string("nix-archive-1") + t("(", "type", "directory", "entry", "(", "name", "d", "node") * n +
            nar_node(b"") + t(")", ")") * n)


def bad_nars():
    t = lambda *words: b"".join(map(string, words))
    raw = lambda *words: string("nix-archive-1") + t(*words)
    good = nar({"a": b"12345", "b": b""})
    for name in ("", ".", "..", "a/b", "/", "a\0b", "../../../../etc/passwd", "x" * 256):
        yield "name " + repr(name)[:20], nar({name: b"x"})
    yield "order", nar([("b", b""), ("a", b"")])
    yield "twice", nar([("a", b""), ("a", b"")])
    yield "deep", deep(100000)
    yield "magic", string("nix-archive-2") + good[24:]
    yield "empty", b""
    yield "no node", raw()
    yield "no type", raw("(", ")")
    yield "type", raw("(", "type", "socket", ")")
    yield "two types", raw("(", "type", "regular", "type", "directory", ")")
    yield "executable directory", raw("(", "type", "directory", "executable", "", ")")
    yield "executable with text", raw("(", "type", "regular", "executable", "yes", "contents", "", ")")
    yield "link without target", raw("(", "type", "symlink", ")")
    yield "link with zero", nar("a\0b")
    yield "link to nothing", nar("")
    yield "long link", nar("x" * 5000)
    yield "entry in a file", raw("(", "type", "regular", "entry", ")")
    yield "huge file", raw("(", "type", "regular", "contents") + u64(2**63)
    yield "huger file", raw("(", "type", "regular", "contents") + u64(2**64 - 1) + b"x" * 64
    yield "padding", raw("(", "type", "regular", "contents") + u64(1) + b"x" + b"\1" * 7 + t(")")
    for cut in (8, 16, len(good) // 2, len(good) - 16, len(good) - 8, len(good) - 1):
        yield f"cut at {cut}", good[:cut]
    yield "trailing", good + string("more")


BAD_NARS = dict(bad_nars())


@pytest.mark.parametrize("name", BAD_NARS)
def test_bad_nars(m, name):
    dump = BAD_NARS[name]
    path = source_path(m.store, "bad", dump)
    if name != "trailing":  # what stands behind the NAR of op 7 is read over
        with m.trusted() as w, pytest.raises((Refused, Closed)):
            w.add("bad", "fixed:r:sha256", dump)
    with m.trusted() as w, pytest.raises((Refused, Closed)):
        w.add_nar(path, dump, ca=source_ca(dump))
    with m.trusted() as w, pytest.raises((Refused, Closed)):
        w.add_multiple([(path, dump, {"ca": source_ca(dump)})])
    # Old forms, without frames: the end of the stream is the end of the NAR.
    if name not in ("trailing",):
        for minor in (18, 22):
            with m.trusted(minor) as w:
                if minor == 18:
                    w.send(7, "bad", 0, 1, "sha256", dump)
                    w.s.shutdown(socket.SHUT_WR)
                    with pytest.raises((Refused, Closed)):
                        w.finish()
                else:
                    with pytest.raises((Refused, Closed, AssertionError)):
                        w.add_nar(path, dump, ca=source_ca(dump))


def test_lies_about_a_nar(m):
    dump = nar({"f": b"contents"})
    path = source_path(m.store, "lies", dump)
    ca = source_ca(dump)
    other = base32(hashlib.sha256(b"other").digest())
    lies = {
        "hash": dict(ca=ca, digest="0" * 64), "short hash": dict(ca=ca, digest="00"), "no hash": dict(ca=ca, digest="zz" * 32),
        "size": dict(ca=ca, size=len(dump) + 8), "size zero": dict(ca=ca, size=1), "size huge": dict(ca=ca, size=2**64 - 1),
        "content address": dict(ca="fixed:r:sha256:" + other), "flat": dict(ca="fixed:sha256:" + other),
        "not an address": dict(ca="fixed"), "references": dict(ca=ca, refs=[m.known]),
        "invalid reference": dict(ca=ca, refs=[f"{m.store}/{'a' * 32}-ghost"]),
        "no address": {}, "bad signature": dict(sigs=["key:AAAA"]), "worse signature": dict(sigs=["nonsense"]),
        "ultimate": dict(ultimate=1), "don't check": dict(no_sigs=1), "repair": dict(repair=1),
    }
    for what, lie in lies.items():
        with m.untrusted() as w, pytest.raises((Refused, Closed)):
            w.add_nar(path, dump, **lie)
            raise AssertionError(what)
        if "no_sigs" in lie or "repair" in lie:
            continue
        with m.untrusted() as w, pytest.raises((Refused, Closed)):
            w.add_multiple([(path, dump, lie)], no_sigs=1)
            raise AssertionError(what)
    for what in ("hash", "size", "content address", "invalid reference"):
        with m.trusted() as w, pytest.raises((Refused, Closed)):
            w.add_nar(path, dump, no_sigs=1, **lies[what])
            raise AssertionError(what)
    # A batch of which the second is bad.
    second = nar(b"second")
    with m.untrusted() as w, pytest.raises((Refused, Closed)):
        w.add_multiple([(source_path(m.store, "second", second), second, {"ca": ""}), (path, dump, lies["hash"])])


def test_existing_path_stays(m):
    """Other contents under the name of a valid path, as a trusted client."""
    before = open(m.known).read()
    dump = nar(b"other\n")
    with m.trusted() as w:
        try:
            w.add_nar(m.known, dump, no_sigs=1)
        except (Refused, Closed):
            pass
    assert open(m.known).read() == before
    with m.trusted() as w:
        assert w.path_info(m.known)["hash"] == hashlib.sha256(nar(before.encode())).hexdigest()


def drv(name, output, env=(), platform="x86_64-linux"):
    env = dict(env) | {"name": name, "out": output}
    pairs = ",".join(f'("{k}","{v}")' for k, v in sorted(env.items()))
    return f'Derive([("out","{output}","","")],[],[],"{platform}","/bin/sh",["-c","echo > $out"],[{pairs}])'.encode()


def test_forged_derivations(m):
    for text in (drv("forged", m.known), drv("forged", f"{m.store}/{'a' * 32}-forged"), b"", b"Derive(", b"not one",
                 drv("forged", "/etc/passwd"), b"Derive([],[],[],\"x\",\"x\",[],[])", b"\0" * 100,
                 drv("other", m.known)):
        for method in ("text:sha256",):
            with m.untrusted() as w, pytest.raises((Refused, Closed)):
                w.add("forged.drv", method, text)
                raise AssertionError(text)
    # The same by the other doors: as a NAR with the same content address.
    text = drv("forged", m.known)
    dump = nar(text)
    digest = hashlib.sha256(text).hexdigest()
    path = store_path(m.store, "text", digest, "forged.drv")
    ca = "text:sha256:" + base32(bytes.fromhex(digest))
    with m.untrusted() as w, pytest.raises((Refused, Closed)):
        w.add_nar(path, dump, ca=ca)
    with m.trusted() as w, pytest.raises((Refused, Closed)):
        w.add_nar(path, dump, ca=ca, no_sigs=1)
    with m.untrusted() as w, pytest.raises((Refused, Closed)):
        w.add_multiple([(path, dump, {"ca": ca})])


def test_build_what_is_not_there(m):
    ghost = f"{m.store}/{'a' * 32}-ghost.drv"
    for target in (ghost + "!out", ghost + "!*", ghost, m.known + "!out", "!", "!out", ghost + "!", ghost + "!a,,b",
                   ghost + "!out!out", ghost + "!" + ",".join(f"o{i}" for i in range(5000)), ""):
        try:
            with m.untrusted() as w:
                w.op(9, strings([target]), 0)
                raise AssertionError(target)
        except (Refused, Closed):
            pass
        with m.untrusted() as w:  # results or an error
            try:
                w.op(46, strings([target]), 0)
            except (Refused, Closed):
                pass
    refused(m.untrusted(), 9, strings([m.known]), 77)  # no such mode
    refused(m.untrusted(), 9, strings([m.known]), 1, text="repairing is not allowed")


# -- timing and manners -----------------------------------------------------------------------

WHOLE = {
    1: lambda m: string(m.known),
    7: lambda m: string("half") + string("fixed:r:sha256") + strings([]) + u64(0) + frames(nar({"f": b"x" * 5000}), 1000),
    9: lambda m: strings([m.known]) + u64(0),
    19: lambda m: u64(0) * 12 + u64(1) + string("a") + string("b"),
    26: lambda m: string(m.known),
    31: lambda m: strings([m.known] * 3) + u64(0),
    39: lambda m: nar_head(source_path(m.store, "half", nar({"f": b"x"})), nar({"f": b"x"})) + frames(nar({"f": b"x"})),
    40: lambda m: strings([m.known]),
    44: lambda m: u64(0) + u64(1) + frames(u64(1) + string(source_path(m.store, "half", nar(b"x"))) +
                                          info_tail(nar(b"x")) + nar(b"x"), 24),
}


@pytest.mark.parametrize("number", WHOLE)
def test_leaving_in_the_middle(m, number):
    """Every eighth byte is a place to go away, at once or only with one half."""
    data = WHOLE[number](m)
    cuts = sorted({0, 1, 7, 8, 9, len(data) // 3, len(data) // 2, len(data) - 9, len(data) - 1})
    for cut in cuts:
        if not 0 <= cut < len(data):
            continue
        for half in (False, True):
            with m.untrusted() as w:
                w.send(number, data[:cut])
                if half:
                    w.s.shutdown(socket.SHUT_WR)
                    with pytest.raises((Closed, Refused)):
                        w.finish()


def test_never_reading(m):
    """A client that asks without reading stops itself alone."""
    w = m.trusted()
    w.s.setblocking(False)
    request, sent = (u64(23)) * 4096, 0
    end = time.monotonic() + 3
    while time.monotonic() < end:
        try:
            sent += w.s.send(request)
        except BlockingIOError:
            break
    assert sent
    start = time.monotonic()
    for _ in range(50):
        assert m.bystander.valid(m.known) == 1
    with m.untrusted() as other:
        assert other.valid(m.known) == 1
    assert time.monotonic() - start < 2
    w.close()


def test_slow_client_blocks_nobody(m):
    slow = m.untrusted(greet=False)
    greeting = u64(0x6e697863) + u64(0x126) + strings([]) + u64(0) * 2
    for i in range(len(greeting)):
        slow.s.send(greeting[i:i + 1])
        if i % 8 == 0:
            with m.untrusted() as w:
                assert w.valid(m.known) == 1
    assert slow.u64() == 0x6478696f
    slow.close()


def test_two_hundred_idle_connections(m):
    idle = [m.untrusted() for _ in range(200)]
    start = time.monotonic()
    with m.untrusted() as w:
        assert w.valid(m.known) == 1
    assert time.monotonic() - start < 2
    assert all(w.valid(m.known) == 1 for w in idle[::20])
    for w in idle:
        w.close()


def test_error_and_then_the_next_request(m):
    with m.untrusted() as w:
        for _ in range(20):
            with pytest.raises(Refused):
                w.op(5, f"{m.store}/{'a' * 32}-ghost")
            assert w.valid(m.known) == 1
