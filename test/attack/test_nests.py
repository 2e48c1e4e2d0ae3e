"""Hostile builds that have a daemon of their own (the feature recursive-nix): what they may know, bring in and cost.

Each script runs inside of a build, with a raw client (worker.py). Seen red without the defence named:

    session/nest.c: nest_allows                       test_sees_its_own_paths_alone
    core/session_nest.c: session_nest_knows           test_adds_nothing_that_it_does_not_know
    core/session_nest.c: session_nest_may_build       test_builds_nothing_that_it_does_not_know
    place.h: PLACE_CHECK_VALID                        test_adds_nothing_that_it_does_not_know
    sessions.c: sessions_end_nest                     test_its_session_ends_with_it
    nest.c: CONNECTIONS_PER_BUILD                     test_flood
    goals_nest.c: request_closes_circle               test_circle
"""
import array
import hashlib
import os
import re
import shutil
import socket
import subprocess
import threading
import time

import pytest

from conftest import ALICE, BOB, PRELUDE, REPO, wait_for
import puppet  # noqa: F401  finds worker.py
from worker import Closed, Worker

CONF = ("experimental-features = nix-command recursive-nix ca-derivations\nmax-jobs = 4\n"
        "sandbox-paths = /bin/sh=/bin/busybox /usr /lib /lib64 /shared=%s\n")


@pytest.fixture(params=["broker", "single"])
def daemon(request, make_daemon):
    return make(make_daemon, request.param)


def make(make_daemon, mode="broker", conf=""):
    d = make_daemon(mode, start=False)
    d.shared = d.base / "shared"
    d.shared.mkdir()
    d.shared.chmod(0o777)
    shutil.copy(REPO / "test/boundary/worker.py", d.shared)
    d.write_conf(CONF % d.shared + conf)
    return d.start()


HEAD = """
import os, socket, sys, time
sys.dont_write_bytecode = True
sys.path.insert(0, "/shared")
from worker import *
SOCKET = os.environ["NIX_REMOTE"].removeprefix("unix://")
out, store = os.environ["out"], os.environ["NIX_STORE"]
def refused(fn, *words):
    try:
        r = fn()
    except Refused as e:
        assert all(w in str(e) for w in words), str(e)
        return str(e)
    raise AssertionError(f"not refused: {r}")
w = Worker(SOCKET)
"""
TAIL = """
os.path.exists(out) or os.mkdir(out)
"""
number = iter(range(1000))


def build(d, script, more="", check=True, **kw):
    n = next(number)
    (d.shared / f"script{n}.py").write_text(HEAD + script + TAIL)
    return d.nix_build(f'shWith {{ name = "hostile{n}"; requiredSystemFeatures = [ "recursive-nix" ]; {more} }} '
                       f'"/usr/bin/python3 /shared/script{n}.py"', check=check, **kw)


def secret(d):
    """A path that no build has among its inputs, something that refers to it, and its derivation."""
    r = d.run("nix-instantiate", "-E", PRELUDE + 'sh "secret" "echo secret > $out; echo $out >> $out"')
    drv = r.stdout.strip()
    return d.run("nix-store", "-r", drv).stdout.strip(), drv


def test_sees_its_own_paths_alone(daemon):
    path, drv = secret(daemon)
    own = daemon.run("nix-store", "--add", daemon.shared / "worker.py").stdout.strip()
    build(daemon, f"""
path, drv, own = "{path}", "{drv}", os.environ["own"]
assert not os.path.exists(path)
assert w.trust == 2
for p in path, drv:
    assert w.valid(p) == 0 and w.path_info(p) is None
    refused(lambda: w.op(38, p), "cannot dump unknown path")
    refused(lambda: w.op(10, p), "cannot substitute unknown path")
    refused(lambda: w.op(41, p), "unknown path")
    refused(lambda: w.op(22, p), "unknown path")
    refused(lambda: w.op(28, p), "is not valid" if p == drv else "is not a derivation")
    w.op(6, p); assert w.strings() == []
    w.op(33, p); assert w.strings() == []
    w.op(31, strings([p]), 1); assert w.strings() == []
    w.op(40, strings([p, drv + "!out"]))
    assert w.strings() == [] and w.strings() == [] and set(w.strings()) == {{p, drv}}; w.u64(), w.u64()
    w.op(11, p); assert w.u64() == 1
refused(lambda: w.op(29, path.split("/")[-1][:32]), "queryPathFromHashPart")
w.op(23)
assert w.strings() == [own], "all that there is"
assert w.valid(own) == 1 and os.path.exists(own)
info = w.path_info(own)
assert info["deriver"] == "" and info["time"] == 0 and info["sigs"] == [] and info["ultimate"] == 0
w.op(6, own); assert w.strings() == []
""", more=f'own = builtins.storePath "{own}";')


def test_adds_nothing_that_it_does_not_know(daemon):
    """Neither by a reference, nor by saying that it has what is there."""
    path, drv = secret(daemon)
    info = daemon.run("nix-store", "--dump", path, check=False)
    assert info.returncode == 0
    shutil.copy(path, daemon.shared / "contents")
    text = daemon.run("nix-store", "--add", daemon.shared / "worker.py").stdout.strip()
    build(daemon, f"""
path, drv, text = "{path}", "{drv}", "{text}"
refused(lambda: w.add_text("names-it", b"x", refs=[path]), "is unknown in recursive Nix")
dump = nar(open("/shared/contents", "rb").read())
for kw in ({{}}, {{"refs": [path]}}, {{"refs": [path], "ultimate": 1}}, {{"refs": [path], "no_sigs": 1}}, {{"refs": [path], "repair": 1}},
           {{"refs": [path], "sigs": ["k:" + "A" * 86 + "=="]}}):
    refused(lambda: w.add_nar(path, dump, **kw))
    assert w.valid(path) == 0
refused(lambda: w.add_nar(path, dump, refs=[path], ca="fixed:r:sha256:" + base32(hashlib.sha256(dump).digest())))
# The address of what is there, with other contents.
refused(lambda: w.add_nar(text, nar(b"other"), ca=source_ca(nar(b"other"))))
refused(lambda: w.add_nar(text, nar(b"other"), ca=source_ca(nar(open("/shared/worker.py", "rb").read()))))
for p in path, drv, text:
    assert w.valid(p) == 0 and not os.path.exists(p)
# With the contents themselves it gets the same path.
assert w.add("worker.py", "fixed:r:sha256", nar(open("/shared/worker.py", "rb").read()))[0] == text
assert w.valid(text) == 1 and os.path.exists(text)
""")
    assert daemon.run("nix-store", "-q", "--references", path).stdout.split() == [path]


def test_builds_nothing_that_it_does_not_know(daemon):
    path, drv = secret(daemon)
    daemon.run("nix-store", "--delete", path)
    build(daemon, f"""
path, drv = "{path}", "{drv}"
for target in drv + "!out", drv + "!*", drv, path:
    for op in 9, 46:
        refused(lambda: w.op(op, strings([target]), 0), "in recursive Nix because path is unknown")
refused(lambda: w.op(46, strings([path]), 1))  # repair
refused(lambda: w.op(46, strings([path]), 2), "unsupported build mode")
refused(lambda: w.op(36, drv, u64(1), string("out"), string(path), string(""), string(""), strings([]), "x86_64-linux", "/bin/sh",
                     strings([]), u64(0), 0))
assert w.valid(path) == 0 and not os.path.exists(path)
""")
    assert not os.path.exists(path)


def test_changes_nothing(daemon):
    """No settings, signatures, roots, collections, logs, realisations, and no trust."""
    kept = daemon.run("nix-store", "--add", daemon.shared / "worker.py").stdout.strip()
    r = build(daemon, """
w.options(("trusted-users", "*"), ("sandbox", "false"), ("post-build-hook", "/bin/sh"), ("allowed-users", "root"))
own = w.add_text("own", b"own\\n")
refused(lambda: w.op(37, own, strings(["k:" + "A" * 86 + "=="])), "addSignatures")
refused(lambda: w.op(47, own, "/tmp/root"), "not privileged")
refused(lambda: w.op(42, '{"id":"sha256:' + "0" * 64 + '!out","outPath":"' + own.split("/")[-1] + '","signatures":[],"dependentRealisations":{}}'),
        "registerDrvOutput")
refused(lambda: w.op(45, own.split("/")[-1], frames(b"log")), "not privileged")
w.op(12, "/shared/root"); assert w.u64() == 1
w.op(14); assert w.u64() == 0
w.op(20, 2, strings([]), 0, 2**63, 0, 0, 0); assert (w.strings(), w.u64(), w.u64()) == ([], 0, 0)
refused(lambda: w.op(20, 2, strings([]), 1, 2**63, 0, 0, 0), "ignore liveness")
w.op(34); assert w.u64() == 1
w.op(35, 1, 1); assert w.u64() == 0
for op in 16, 27, 99:
    try:
        Worker(SOCKET).op(op, own, 0)
        raise AssertionError("operation %d" % op)
    except (Refused, Closed):
        pass
""")
    assert os.path.exists(kept)
    own = [p for p in daemon.store.iterdir() if p.name.endswith("-own")]
    assert len(own) == 1 and own[0].read_text() == "own\n"
    roots = daemon.run("nix-store", "--gc", "--print-roots", user="root").stdout
    assert "/shared/root" not in roots


RUBBISH = """
import random
random.seed(1)
for n in range(40):
    s = socket.socket(socket.AF_UNIX)
    s.connect(SOCKET)
    s.settimeout(5)
    try:
        s.sendall((b"" if n % 2 else u64(MAGIC_CLIENT)) + random.randbytes(random.randrange(1, 20000)))
        s.shutdown(socket.SHUT_WR)
        while s.recv(65536): pass
    except OSError:
        pass
    s.close()
assert w.valid(store + "/" + "0" * 32 + "-x") == 0  # the first connection is as it was
"""


def test_rubbish(daemon):
    before = daemon.core.pid
    build(daemon, RUBBISH)
    assert daemon.core.pid == before and daemon.core.poll() is None
    daemon.nix_build('sh "after" "echo > $out"')


def sessions(d):
    return [pid for pid, name in d.children().items() if name == "airplant-sessio"]


def test_flood(make_daemon):
    """More connections than a build may have wait, cost no process, and keep nobody else waiting."""
    d = make(make_daemon)
    most = []

    def look():
        while not (d.shared / "over").exists():
            most.append(len(sessions(d)))
            time.sleep(0.05)
    threading.Thread(target=look, daemon=True).start()
    p = d.popen("nix-build", "--no-out-link", "-E", PRELUDE + flood(d))
    wait_for(lambda: (d.shared / "flooded").exists(), d.daemon_log)
    start = time.monotonic()
    d.nix_build('sh "other" "echo > $out"', user=BOB)
    took = time.monotonic() - start
    (d.shared / "go").write_text("")
    assert p.wait(60) == 0, p.stdout.read()
    (d.shared / "over").write_text("")
    assert 40 < max(most) <= 64 + 8 and took < 10, (max(most), took)


def flood(d):
    (d.shared / "flood.py").write_text(HEAD + """
many = []
for n in range(120):
    s = socket.socket(socket.AF_UNIX)
    s.setblocking(False)
    for tries in range(50):
        try:
            s.connect(SOCKET)
            many.append(s)
            break
        except BlockingIOError:
            time.sleep(0.02)
assert len(many) > 100, len(many)
open("/shared/flooded", "w")
while not os.path.exists("/shared/go"): time.sleep(0.05)
for s in many: s.close()
assert Worker(SOCKET).valid(store + "/" + "0" * 32 + "-x") == 0
""" + TAIL)
    return 'shWith { name = "flood"; requiredSystemFeatures = [ "recursive-nix" ]; } "/usr/bin/python3 /shared/flood.py"'


def test_its_session_ends_with_it(daemon):
    """A connection that was handed to somebody outside is of no use to him when the build is over."""
    taken = []
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(str(daemon.shared / "outside"))
        os.chmod(daemon.shared / "outside", 0o777)
        s.listen()

        def receive():
            c, _ = s.accept()
            with c:
                _, anc, _, _ = c.recvmsg(1, socket.CMSG_SPACE(4))
                taken.append(socket.socket(fileno=array.array("i", anc[0][2])[0]))
                w = Worker.__new__(Worker)
                w.s, w.log, w.version = taken[0], [], (1, 38)
                w.s.settimeout(10)
                assert w.valid(f"{daemon.store}/{'0' * 32}-x") == 0
                c.send(b"x")
        t = threading.Thread(target=receive, daemon=True)
        t.start()
        build(daemon, """
import array
o = socket.socket(socket.AF_UNIX)
o.connect("/shared/outside")
o.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [w.s.fileno()]))])
o.recv(1)
""")
        t.join(20)
    w = Worker.__new__(Worker)
    w.s, w.log, w.version = taken[0], [], (1, 38)
    w.s.settimeout(10)
    with pytest.raises((Closed, OSError)):
        w.valid(f"{daemon.store}/{'0' * 32}-x")
    w.s.close()


def test_who_does_not_ask_has_none(daemon):
    """Nor has a fixed output, nor does a build see another's socket."""
    out = daemon.nix_build("""
      derivation { name = "fixed"; system = builtins.currentSystem; builder = "/bin/sh";
        outputHashMode = "flat"; outputHashAlgo = "sha256"; outputHash = builtins.hashString "sha256" "x";
        args = [ "-c" "[ -z \\"$NIX_REMOTE\\" ] && [ ! -e .nix-socket ] && [ ! -e /build/.nix-socket ] && echo -n x > $out" ]; }""")
    assert open(out.stdout.strip()).read() == "x"
    p = daemon.popen("nix-build", "--no-out-link", "-E", PRELUDE +
                     'shWith { name = "first"; requiredSystemFeatures = [ "recursive-nix" ]; } '
                     '"echo $NIX_REMOTE > /shared/socket; while [ ! -e /shared/done ]; do /usr/bin/sleep 0.05; done; echo > $out"')
    wait_for(lambda: (daemon.shared / "socket").exists(), daemon.daemon_log)
    scratch = [s for s in (daemon.state / "airplant/spool").glob("b-*") if (s / "build/.nix-socket").exists()]
    assert len(scratch) == 1
    daemon.nix_build(f'sh "second" "[ ! -e /build/.nix-socket ] && [ ! -e {scratch[0]} ] && echo > $out"')
    # Its directory is closed to whoever is on the machine.
    with socket.socket(socket.AF_UNIX) as s:
        os.seteuid(daemon.users[ALICE].pw_uid)
        try:
            with pytest.raises(PermissionError):
                s.connect(f"{scratch[0]}/build/.nix-socket")
        finally:
            os.seteuid(0)
    (daemon.shared / "done").write_text("")
    assert p.wait(30) == 0, p.stdout.read()


def test_circle(make_daemon):
    """A build that asks for itself, also through another, is refused instead of waiting for ever."""
    d = make(make_daemon)
    expr = """{ self, via }: let make = name: ask: derivation { inherit name; self = builtins.storePath self; system = "x86_64-linux"; builder = "/bin/sh"; PATH = "/usr/bin";
        requiredSystemFeatures = [ "recursive-nix" ];
        args = [ "-c" "set -e; nix-build --no-out-link $self --argstr self $self --argstr via ${ask}; echo > $out" ]; };
      in if via == "a" then make "a" "a" else if via == "b" then make "b" "c" else make "c" "b" """
    (d.shared / "circle.nix").write_text(expr)
    path = d.run("nix-store", "--add", d.shared / "circle.nix").stdout.strip()
    for via in "a", "b":
        r = d.run("nix-build", "--no-out-link", path, "--argstr", "self", path, "--argstr", "via", via, check=False, timeout=60)
        assert r.returncode != 0 and "would have to end first" in r.stderr, r.stderr
    d.nix_build('sh "after" "echo > $out"')


def test_what_shows_paths_is_killed(make_daemon):
    """The build hears of it, and may fail; nothing else does, and nothing is left."""
    d = make(make_daemon)
    (d.shared / "kill.py").write_text(HEAD + """
a = w.add_text("before", b"x")
assert os.path.exists(a)
open("/shared/ready", "w")
while not os.path.exists("/shared/killed"): time.sleep(0.05)
for n in range(3):
    refused(lambda: w.add_text("after%d" % n, b"x"), "what shows paths to the build has ended")
assert w.valid(a) == 1
""" + TAIL)
    p = d.popen("nix-build", "--no-out-link", "-E", PRELUDE +
                'shWith { name = "killed"; requiredSystemFeatures = [ "recursive-nix" ]; } "/usr/bin/python3 /shared/kill.py"')
    wait_for(lambda: (d.shared / "ready").exists(), d.daemon_log)
    builds = [pid for pid, name in d.children().items() if name == "airplant-build"]
    parents = {int(re.search(r"^PPid:\t(\d+)", open(f"/proc/{pid}/status").read(), re.M)[1]): pid for pid in builds}
    (showing,) = [child for parent, child in parents.items() if parent in builds]
    os.kill(showing, 9)
    (d.shared / "killed").write_text("")
    assert p.wait(30) == 0, p.stdout.read()
    wait_for(lambda: not list((d.state / "airplant/spool").glob("b-*")), d.daemon_log)
    d.nix_build('sh "after" "echo > $out"')
