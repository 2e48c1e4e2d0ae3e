"""What the tests of hostile builds share: the attacker's program, a daemon whose sandbox has it, and canaries."""
import hashlib
import os
import pathlib
import signal
import subprocess
import tempfile
import threading
import time

import pytest

from conftest import PRELUDE, wait_for

HERE = pathlib.Path(__file__).resolve().parent
HELLO = "hello\n"


@pytest.fixture(scope="session")
def attacker():
    """test/attack/attacker.c, where every user can run it."""
    where = pathlib.Path(tempfile.mkdtemp(prefix="airplant-attack-", dir="/tmp"))
    where.chmod(0o755)
    subprocess.run(["gcc", "-O1", "-Wall", "-static", "-o", where / "attacker", HERE / "attacker.c"], check=True)
    yield where / "attacker"
    (where / "attacker").unlink()
    where.rmdir()


def make_hostile(make_daemon, attacker, mode="broker", conf="", binds=(), own_conf=""):
    """A daemon in whose sandbox /attack is the attacker, /bin/busybox is busybox, and /shared a directory of the host that
    everybody may write to. A canary lies beside it, and a store path in the store."""
    d = make_daemon(mode, start=False)
    d.shared = d.base / "shared"
    d.shared.mkdir()
    d.shared.chmod(0o777)
    d.canaries = d.base / "canaries"
    d.canaries.mkdir()
    for n in range(3):
        (d.canaries / f"c{n}").write_text(f"canary {n}\n")
    d.own_conf = own_conf
    d.write_conf(f"extra-sandbox-paths = /bin/busybox /attack={attacker} {' '.join(binds).replace('SHARED', str(d.shared))}\n"
                 + conf)
    d.start()
    d.honest = d.nix_build('sh "honest" "echo honest > $out"').stdout.strip()
    d.before = snapshot(d.canaries), snapshot(pathlib.Path(d.honest))
    return d


def snapshot(top):
    """Everything lstat says, and the contents; not the time of access."""
    found = {}
    for path in [top, *sorted(top.rglob("*"))] if top.is_dir() else [top]:
        st = path.lstat()
        text = path.read_bytes() if path.is_file() else os.readlink(path) if path.is_symlink() else None
        found[str(path)] = (st.st_mode, st.st_uid, st.st_gid, st.st_nlink, st.st_ino, st.st_mtime_ns, st.st_ctime_ns, text)
    return found


def assert_intact(d):
    """The canaries and the honest path are as they were; the store verifies; no file of the daemon's has a bit it must not
    have; the next build works."""
    assert (snapshot(d.canaries), snapshot(pathlib.Path(d.honest))) == d.before
    r = d.run("nix-store", "--verify", "--check-contents", user="root", check=False)
    assert r.returncode == 0 and "modified" not in r.stderr, r.stderr
    # os.walk does not mind what goes meanwhile (a session's spool).
    for path in (pathlib.Path(top, n) for where in (d.store, d.state) for top, dirs, files in os.walk(where) for n in dirs + files):
        try:
            st = path.lstat()
        except FileNotFoundError:
            continue
        assert not st.st_mode & 0o6000 or path.is_dir() and not st.st_mode & 0o4000, path
    assert d.nix_build(f'sh "after-{time.monotonic_ns()}" "echo > $out"').returncode == 0


def stop_traced(d):
    """Ends a daemon that runs under strace, which does not pass a signal on."""
    for pid, name in d.children().items():
        if name == "airplantd":
            os.kill(pid, signal.SIGTERM)
    d.core.wait(10)
    d.stop()


def wait_clean(d):
    """No scratch is left, and no process of a build."""
    spool = d.state / "airplant/spool"
    wait_for(lambda: not list(spool.glob("b-*")) and not os.listdir(spool / "trash") and not os.listdir(spool / "lost"),
             d.daemon_log)


def fixed(name, script, content=HELLO):
    digest = hashlib.sha256(content.encode()).hexdigest()
    return (f'shWith {{ name = "{name}"; outputHashMode = "flat"; outputHashAlgo = "sha256"; '
            f"outputHash = \"{digest}\"; }} ''{script}''")


def plain(name, script):
    return f"sh \"{name}\" ''{script}''"


def start(d, expr, user="airplant-alice", args=()):
    return d.popen("nix-build", "--no-out-link", *args, "-E", PRELUDE + expr, user=user)


def until(client, text, seconds=60):
    """Reads a client's output up to the line `text`; gives what came."""
    seen, timer = "", threading.Timer(seconds, client.kill)
    timer.start()
    try:
        for line in client.stdout:
            seen += line
            if line.strip() == text:
                return seen
    finally:
        timer.cancel()
    raise AssertionError(seen)


def answers(text):
    """The attacker's lines, as a dictionary."""
    return dict(line.rsplit(": ", 1) for line in text.splitlines() if ": " in line)


def builder_of(d, client, name="attacker"):
    """(pid, host uid) of the one builder that runs."""
    found = []

    def look():
        found[:] = [p for p, n in d.children().items() if n in (name, "sh", "busybox", "attack")]
        return found

    wait_for(look, d.daemon_log)
    pid = min(found)
    return pid, os.stat(f"/proc/{pid}").st_uid
