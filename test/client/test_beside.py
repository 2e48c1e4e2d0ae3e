"""Root's own nix commands, which open the store without the daemon, beside a daemon that runs: neither's garbage collector
deletes what the other's users need (src/core/beside.h)."""
import fcntl
import os
import socket
import subprocess
import threading
import time

import pytest

from conftest import ALICE, PRELUDE, wait_for
from test_gc import DELETE, TEMP_ROOT, Tracer, add, add_text, collect
from worker import Refused, Worker

CONF = "build-users-group =\nkeep-derivations = false\ntrusted-users = root\n"


@pytest.fixture
def d(make_daemon):
    return make_daemon("single", CONF)


def root_runs(d, *argv, env=None, **kw):
    """A stock command that opens the store itself."""
    return subprocess.Popen(list(map(str, argv)), env=d.env() | {"NIX_REMOTE": ""} | (env or {}), stdout=subprocess.PIPE,
                            stderr=subprocess.STDOUT, text=True, **kw)


def ended(p, timeout=90):  # stock Nix searches all processes for roots with regular expressions
    out, _ = p.communicate(timeout=timeout)
    assert p.returncode == 0, out
    return out


def forgotten(d, name):
    """A path that nobody holds, not even the session that added it."""
    path = add(d, name)
    wait_for(lambda: path not in d.run("nix-store", "--gc", "--print-roots", user="root").stdout, d.daemon_log)
    return path


def valid(d, path):
    return d.run("nix-store", "--check-validity", path, check=False).returncode == 0 and os.path.lexists(path)


def test_root_collects_beside_clients(d):
    dead = forgotten(d, "dead")
    with Worker(d.socket) as w:
        held = add_text(w, "held")
        ended(root_runs(d, "nix-store", "--gc"))
        assert valid(d, held) and not os.path.exists(dead)
        w.op(TEMP_ROOT, held)  # and it goes on
        w.u64()
    wait_for(lambda: all(f.stat().st_size == 0 for f in (d.state / "temproots").iterdir()), d.daemon_log)
    ended(root_runs(d, "nix-store", "--gc"))
    assert not os.path.exists(held)


def test_root_collects_beside_a_build(d):
    d.nix_build('sh "dep" "echo dep > $out"')
    go = d.base / "go"
    go.mkdir()
    d.write_conf(CONF + f"extra-sandbox-paths = {go}\n")
    d.stop()
    d.start()
    expr = f'''let dep = sh "dep" "echo dep > $out"; in sh "late" "while [ ! -e {go}/now ]; do read -t 0.1 x < /dev/zero || :; done; echo ${{dep}} > $out"'''
    p = d.popen("nix-build", "--no-out-link", "-E", PRELUDE + expr)
    wait_for(lambda: "building" in d.tail() or any("airplant-build" in n for n in d.children().values()), d.daemon_log)
    time.sleep(0.5)
    ended(root_runs(d, "nix-store", "--gc"))
    (go / "now").touch()
    out, _ = p.communicate(timeout=30)
    assert p.returncode == 0, out
    assert "late" in out


def test_promises_while_root_collects(d):
    """The stock collector has read everybody's roots, and stands still: what is promised from here on it has to be told."""
    dead, late = forgotten(d, "dead"), forgotten(d, "late")
    dep = d.nix_build('sh "dep" "echo dep > $out"').stdout.strip()
    fifo = d.base / "fifo"
    os.mkfifo(fifo)
    gc = root_runs(d, "nix-store", "--gc", env={"_NIX_TEST_GC_SYNC": str(fifo), "_NIX_TEST_GC_SYNC_2": str(fifo)})
    go = os.open(fifo, os.O_WRONLY)  # it is there
    with Worker(d.socket) as w:
        w.op(TEMP_ROOT, late)
        w.u64()
        fresh = add_text(w, "fresh")
        built = d.nix_build('let a = sh "a" "echo a > $out"; in sh "b" "echo ${a} > $out"').stdout.strip()
        d.nix_build('let a = sh "dep" "echo dep > $out"; in sh "user" ": ${a}; echo > $out"')
        os.close(go)
        assert "deleting" in ended(gc)
        assert valid(d, late) and valid(d, fresh) and valid(d, built) and not os.path.exists(dead)
        assert valid(d, dep)  # it was there, and nobody asked for it but a build
    # Afterwards as before.
    time.sleep(1.2)
    ended(root_runs(d, "nix-store", "--gc"))
    assert not os.path.exists(late)


def test_root_uses_a_path_while_we_collect(make_daemon):
    d = make_daemon("single", CONF, start=False)
    d.roots_setting = "tracer"
    d.write_conf(CONF)
    tracer = Tracer(d)
    d.start()
    used, dead = forgotten(d, "used"), forgotten(d, "dead")
    tracer.asked.clear()
    tracer.go.clear()
    with Worker(d.socket) as w:
        t = threading.Thread(target=collect, args=(w, DELETE))
        t.start()
        assert tracer.asked.wait(10)
        assert stat_mode(d.state / "gc-socket/socket") == 0o600
        ended(root_runs(d, "nix-store", "-r", used))  # told over our socket, and gone before the end
        with socket.socket(socket.AF_UNIX) as s:  # whoever may speak need not make sense
            s.connect(str(d.state / "gc-socket/socket"))
            for line in (b"\n", b"x\n", b"/etc/passwd\n", bytes(d.store) + b"/short\n", bytes(d.store) + b"/\0\n"):
                s.sendall(line)
                assert s.recv(1) == b"1"
            with pytest.raises(ConnectionResetError):
                s.sendall(b"x" * 5000)
                s.recv(1)
        tracer.go.set()
        t.join(20)
    assert valid(d, used) and not os.path.exists(dead)
    assert not (d.state / "gc-socket/socket").exists()


def stat_mode(path):
    return os.stat(path).st_mode & 0o777


def test_we_collect_beside_roots_build(make_daemon):
    """What a stock process has noted in its file, which is root's, the tracer reads."""
    d = make_daemon("single", CONF, start=False)
    d.roots_setting = "tracer"
    d.write_conf(CONF)
    d.start_roots()
    d.start()
    go = d.base / "go"
    source, dead = forgotten(d, "source"), forgotten(d, "dead")
    drv = d.run("nix-instantiate", "-E", PRELUDE + f'''
        sh "slow" "while [ ! -e {go} ]; do /bin/busybox sleep 0.1; done; /bin/busybox cat ${{builtins.storePath {source}}} > $out"''').stdout.strip()
    p = root_runs(d, "nix-store", "-r", drv, env={"NIX_CONFIG": "sandbox = false"})
    wait_for(lambda: any(f.name == str(p.pid) and f.stat().st_size for f in (d.state / "temproots").iterdir()), d.daemon_log, p)
    time.sleep(0.5)
    with Worker(d.socket) as w:
        collect(w, DELETE)
    assert valid(d, source) and valid(d, drv) and not os.path.exists(dead)
    go.touch()
    out = ended(p).strip().splitlines()[-1]
    assert open(out).read() == "x"
    # When it has ended, nothing is left of what it needed.
    with Worker(d.socket) as w:
        collect(w, DELETE)
    assert not os.path.exists(drv)


def test_a_lock_that_another_has(d):
    add(d, "dead")
    with open(d.state / "gc.lock", "r+") as f, Worker(d.socket) as w:
        fcntl.flock(f, fcntl.LOCK_EX)
        t = threading.Thread(target=collect, args=(w, DELETE))
        t.start()
        t.join(0.7)
        assert t.is_alive()
        fcntl.flock(f, fcntl.LOCK_UN)
        t.join(10)
        assert not t.is_alive()
        assert any("waiting for the big garbage collector lock" in line for line in w.log)


def test_without_the_tracer_what_root_needs_is_not_known(d):
    dead = forgotten(d, "dead")
    sleeper = subprocess.Popen(["sleep", "60"])
    name = d.state / "temproots" / str(sleeper.pid)
    try:
        with open(os.open(name, os.O_RDWR | os.O_CREAT, 0o600), "w") as f, Worker(d.socket) as w:
            fcntl.flock(f, fcntl.LOCK_EX)
            with pytest.raises(Refused, match="uses the store without the daemon"):
                collect(w, DELETE)
            assert os.path.exists(dead)
    finally:
        sleeper.kill()
        sleeper.wait()
    with Worker(d.socket) as w:
        collect(w, DELETE)
    assert not os.path.exists(dead)


def test_root_collects_where_the_daemon_works_in_the_store(make_daemon):
    """A store that is a mount of its own: rename must work from the spool, so it lies there."""
    d = make_daemon("single", CONF, start=False)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"mode=1775,uid={d.users[d.user].pw_uid}", "tmpfs", str(d.store)], check=True)
    try:
        d.start()
        dead = forgotten(d, "dead")
        spool, = d.store.glob("*-airplant")
        inode = spool.stat().st_ino
        for i in range(2):  # while something is promised, and while nothing is
            with Worker(d.socket) as w:
                held = add_text(w, f"held{i}")
                ended(root_runs(d, "nix-store", "--gc"))
                assert valid(d, held) and not os.path.exists(dead)
            time.sleep(1.2)
            ended(root_runs(d, "nix-store", "--gc"))
            assert not os.path.exists(held)
            assert spool.stat().st_ino == inode
            dead = forgotten(d, f"dead{i}")
            assert d.nix_build(f'sh "x{i}" "echo > $out"').returncode == 0
        with Worker(d.socket) as w:
            collect(w, DELETE)
        assert spool.stat().st_ino == inode and not os.path.exists(dead)
    finally:
        d.stop()
        subprocess.run(["umount", "-l", str(d.store)], check=True)


def test_a_daemon_that_is_killed_promises_nothing(d):
    w = Worker(d.socket)
    held = add_text(w, "held")
    ended(root_runs(d, "nix-store", "--gc"))
    assert valid(d, held)
    d.core.kill()
    d.core.wait()
    w.close()
    ended(root_runs(d, "nix-store", "--gc"))
    assert not os.path.exists(held)
