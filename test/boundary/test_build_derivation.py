"""BuildDerivation (operation 36) and the small new operations, byte by byte."""
import hashlib
import os

import pytest

from conftest import ALICE
from worker import Closed, Refused, Worker, base32, source_path, store_path, strings, string, u64

SYSTEM = "x86_64-linux"


@pytest.fixture
def daemon(make_daemon):
    return make_daemon()


def jobs(w):
    """SetOptions with room for two builds."""
    w.op(19, 0, 0, 0, 3, 2, *[0] * 7, 0)


def basic(path, outputs, script, srcs=(), env=None, mode=0):
    """outputs: (name, path, algo, hash) each."""
    env = {o[0]: o[1] for o in outputs} | {"name": path.split("-", 1)[1].removesuffix(".drv"), "PATH": ""} | (env or {})
    return (string(path) + u64(len(outputs)) + b"".join(string(f) for o in outputs for f in o) + strings(list(srcs)) +
            string(SYSTEM) + string("/bin/sh") + strings(["-c", script]) +
            u64(len(env)) + b"".join(string(x) for pair in sorted(env.items()) for x in pair) + u64(mode))


def result(w):
    r = {"status": w.u64(), "error": w.string()}
    if w.version[1] >= 29:
        r |= {"times": w.u64(), "non_det": w.u64(), "start": w.u64(), "stop": w.u64()}
    if w.version[1] >= 37:
        r["cpu"] = [w.u64() and w.u64() for _ in range(2)]
    if w.version[1] >= 28:
        if "realisation-with-path-not-hash" in getattr(w, "offered", ()):
            r["outputs"] = {w.string(): (w.string(), w.strings()) for _ in range(w.u64())}
        else:
            r["outputs"] = {w.string(): w.string() for _ in range(w.u64())}
    return r


def drv(daemon, name="sent", digit="0"):
    return f"{daemon.store}/{digit * 32}-{name}.drv"


def out(daemon, name="sent", digit="1"):
    return f"{daemon.store}/{digit * 32}-{name}"


@pytest.mark.parametrize("minor", [18, 21, 27, 28, 29, 34, 35, 37, 38])
def test_input_addressed(daemon, minor):
    """A trusted client names derivation and output paths as it likes; neither must be there before."""
    with Worker(daemon.socket, (1, minor)) as w:
        jobs(w)
        w.op(36, basic(drv(daemon), [("out", out(daemon), "", "")], "echo hello > $out"))
        r = result(w)
        assert (r["status"], r["error"]) == (0, "")
        if minor >= 28:
            [(id, text)] = r["outputs"].items()
            assert id.endswith("!out") and os.path.basename(out(daemon)) in text
        assert open(out(daemon)).read() == "hello\n"
        assert w.path_info(out(daemon))["deriver"] == drv(daemon)
        # once more: it is there
        w.op(36, basic(drv(daemon), [("out", out(daemon), "", "")], "echo hello > $out"))
        assert result(w)["status"] == 2
    assert not os.path.exists(drv(daemon))


def test_outputs_by_path(daemon):
    """Clients from 2.35 on read outputs in another form."""
    w = Worker(daemon.socket, greet=False)
    w.offered = ["realisation-with-path-not-hash"]
    w.greet(w.offered)
    assert "realisation-with-path-not-hash" in w.features
    jobs(w)
    w.op(36, basic(drv(daemon), [("dev", out(daemon, "sent-dev"), "", ""), ("out", out(daemon), "", "")],
                   "echo hello > $out; echo dev > $dev"))
    r = result(w)
    assert r["outputs"] == {"out": (out(daemon), []), "dev": (out(daemon, "sent-dev"), [])}
    w.close()


def test_two_derivations_of_one_name(daemon):
    """The text counts, not the path that the client gave it."""
    with Worker(daemon.socket) as w:
        jobs(w)
        for digit in "12":
            w.op(36, basic(drv(daemon), [("out", out(daemon, digit=digit), "", "")], f"echo {digit} > $out"))
            assert result(w)["status"] == 0
            assert open(out(daemon, digit=digit)).read() == digit + "\n"


def test_failure_and_check(daemon):
    with Worker(daemon.socket) as w:
        jobs(w)
        w.op(36, basic(drv(daemon), [("out", out(daemon), "", "")], "exit 7"))
        r = result(w)
        assert r["status"] == 3 and "exit code 7" in r["error"] and r["outputs"] == {}
        script = "read x < /proc/sys/kernel/random/uuid; echo $x > $out"
        w.op(36, basic(drv(daemon), [("out", out(daemon), "", "")], script))
        assert result(w)["status"] == 0
        w.op(36, basic(drv(daemon), [("out", out(daemon), "", "")], script, mode=2))
        r = result(w)
        assert r["status"] == 12 and "may not be deterministic" in r["error"] and r["non_det"]


def test_missing_source(daemon):
    with Worker(daemon.socket) as w:
        jobs(w)
        w.op(36, basic(drv(daemon), [("out", out(daemon), "", "")], "exit 0", srcs=[out(daemon, "gone", "3")]))
        r = result(w)
        assert r["status"] != 0 and "does not exist" in r["error"]


def fixed(daemon, content=b"fix", name="sent"):
    digest = hashlib.sha256(content).hexdigest()
    path = store_path(str(daemon.store), "output:out", hashlib.sha256(f"fixed:out:sha256:{digest}:".encode()).hexdigest(), name)
    return path, [("out", path, "sha256", digest)]


AS_ALICE = """
import sys; sys.path[:0] = [{here!r}, {conftest!r}]
from test_build_derivation import *
w = Worker({socket!r}); jobs(w)
try:
    w.op(36, bytes.fromhex({request!r})); print(result(w))
except Refused as e: print("refused:", e)
w.op(1, {path!r}); print("in step", w.u64())"""


def as_alice(daemon, request, path):
    here = os.path.dirname(__file__)
    return daemon.run("/usr/bin/python3", "-c", AS_ALICE.format(
        here=here, conftest=os.path.dirname(here), socket=str(daemon.socket), request=request.hex(), path=path)).stdout


def test_untrusted_input_addressed(daemon):
    """Upstream's sentence; the output path of another user's derivation stays free."""
    said = as_alice(daemon, basic(drv(daemon), [("out", out(daemon), "", "")], "echo evil > $out"), out(daemon))
    assert "refused: you are not privileged to build input-addressed derivations" in said and "in step 0" in said
    assert not os.path.exists(out(daemon))


def test_untrusted_deferred(daemon):
    said = as_alice(daemon, basic(drv(daemon), [("out", "", "", "")], "echo evil > $out"), out(daemon))
    assert "refused: you are not privileged" in said


def test_untrusted_fixed(daemon):
    """Its derivation gets the path that follows from its contents, whatever the client called it."""
    path, outputs = fixed(daemon)
    said = as_alice(daemon, basic(drv(daemon), outputs, "printf fix > $out"), path)
    assert "'status': 0" in said and "in step 1" in said
    assert open(path, "rb").read() == b"fix"
    deriver = daemon.run("nix-store", "-q", "--deriver", path).stdout.strip()
    assert deriver.endswith("-sent.drv") and deriver != drv(daemon) and os.path.exists(deriver)


def test_fixed_with_a_foreign_path(daemon):
    """Neither a trusted nor another client may have a fixed output at a path of its choice."""
    _, outputs = fixed(daemon)
    wrong = [("out", out(daemon), *outputs[0][2:])]
    request = basic(drv(daemon), wrong, "printf fix > $out")
    assert "refused: " in as_alice(daemon, request, out(daemon))
    with Worker(daemon.socket) as w:
        jobs(w)
        with pytest.raises(Refused):
            w.op(36, request)
    assert not os.path.exists(out(daemon))


@pytest.mark.parametrize("outputs", [
    [], [("out", "/etc/passwd", "", "")], [("o\"ut", "{out}", "", "")], [("out", "{out}", "r:sha256", "")],
    [("out", "{out}\",\"\",\"\")],[(\"/x.drv", "", "")], [("a", "{out}", "", ""), ("a", "{out}", "", "")]])
def test_nonsense(daemon, outputs):
    outputs = [tuple(f.replace("{out}", out(daemon)) for f in o) for o in outputs]
    with Worker(daemon.socket) as w:
        jobs(w)
        with pytest.raises(Refused):
            w.op(36, basic(drv(daemon), outputs, "echo > $out"))
        assert w.valid(out(daemon)) == 0, "in step"
    with Worker(daemon.socket) as w:
        with pytest.raises((Refused, Closed)):
            w.op(36, basic(drv(daemon), [("out", out(daemon), "", "")], "echo > $out", mode=9))


def test_temp_roots(daemon):
    """Operation 49: many temporary roots at once, which a collection respects as long as the client is there."""
    with Worker(daemon.socket, greet=False) as w:
        w.greet(["addTempRoots"])
        assert "addTempRoots" in w.features
        jobs(w)
        paths = [w.add_text(f"t{i}", b"text") for i in range(3)]
        with Worker(daemon.socket) as other:
            other.options()
            more = [other.add_text(f"o{i}", b"text") for i in range(3)]
            w.op(49, strings(more[:2]))
            assert w.u64() == 1
        daemon.run("nix-store", "--gc", user="root")
        assert [os.path.exists(p) for p in paths + more] == [True] * 5 + [False]
        with pytest.raises((Refused, Closed)):
            w.op(49, strings(["/etc/passwd"]))
