"""The lock files of outputs, which other programs on the same store know: upstream's own nix, opened by its owner."""
import fcntl
import os
import subprocess
import threading
import time

from conftest import DAEMON, PRELUDE, wait_for


def lock_files(daemon):
    return sorted(p.name for p in daemon.store.glob("*.lock"))


def instantiate(daemon, expr):
    drv = daemon.run("nix-instantiate", "-E", PRELUDE + expr).stdout.strip()
    return drv, daemon.run("nix-store", "-q", drv).stdout.strip()


def read_until(client, text):
    for line in client.stdout:
        if text in line:
            return
    raise AssertionError(f"the client did not say: {text}")


def test_whoever_comes_second_waits(make_daemon):
    """Somebody has the lock: the client is told, the build starts when it is free, and no file is left."""
    daemon = make_daemon("broker")
    drv, out = instantiate(daemon, 'sh "locked" "echo built > $out"')
    with open(out + ".lock", "w") as f:
        os.chown(f.fileno(), daemon.users[DAEMON].pw_uid, -1)
        fcntl.flock(f, fcntl.LOCK_EX)
        client = daemon.popen("nix-store", "-r", drv)
        read_until(client, f"waiting for lock on '{out}'")
        time.sleep(0.2)
        assert client.poll() is None and not os.path.exists(out)
        assert daemon.nix_build('sh "other" "echo built > $out"').returncode == 0
    assert out in client.communicate(timeout=20)[0] and client.returncode == 0
    assert lock_files(daemon) == []


def test_a_lock_that_the_daemon_may_not_open(make_daemon):
    """Root's own nix makes its lock files for itself alone. The kernel tells whether one is held; one that was left is no lock."""
    daemon = make_daemon("broker")
    drv, out = instantiate(daemon, 'sh "locked" "echo built > $out"')
    with open(out + ".lock", "w") as f:
        os.chmod(out + ".lock", 0o600)
        fcntl.flock(f, fcntl.LOCK_EX)
        client = daemon.popen("nix-store", "-r", drv)
        read_until(client, "waiting for lock on")
        time.sleep(1.2)
        assert client.poll() is None
    client.communicate(timeout=20)
    assert client.returncode == 0 and lock_files(daemon) == []


def test_collections_leave_locks_that_are_held(make_daemon):
    """Nobody in the daemon knows the path. Those of others than the daemon are locked as the kernel says."""
    daemon = make_daemon("broker")
    for mode in (0o600, 0o644):
        path = daemon.store / ("a" * 32 + "-foreign.lock")
        with open(path, "w") as f:
            path.chmod(mode)
            fcntl.flock(f, fcntl.LOCK_EX)
            daemon.run("nix-store", "--gc", user="root")
            assert lock_files(daemon) == [path.name]
        daemon.run("nix-store", "--gc", user="root")
        assert lock_files(daemon) == []


def test_builds_hold_theirs(make_daemon):
    """As long as they run, and whether they succeed or not."""
    daemon = make_daemon("broker")
    for end in ("exit 0", "exit 1"):
        drv, out = instantiate(daemon, f'sh "slow" "sleep 1; echo > $out; {end}"')
        client = daemon.popen("nix-store", "-r", drv)
        wait_for(lambda: lock_files(daemon) == [os.path.basename(out) + ".lock"], daemon.daemon_log)
        with open(out + ".lock") as f:
            try:
                fcntl.flock(f, fcntl.LOCK_SH | fcntl.LOCK_NB)
                raise AssertionError("nobody holds it")
            except BlockingIOError:
                pass
        client.communicate(timeout=30)
        assert (client.returncode == 0) == (end == "exit 0") and lock_files(daemon) == []


def test_upstreams_own_nix_and_clients_build_the_same(make_daemon):
    """The store's owner opens it himself while the daemon serves others: one of the two builds, the other finds it done."""
    daemon = make_daemon("single", "sandbox = false\n")
    runs = daemon.base / "runs"
    runs.touch()
    runs.chmod(0o666)
    drv, out = instantiate(daemon, f'sh "same" "echo x >> {runs}; /bin/busybox sleep 1; echo built > $out"')
    owner = daemon.users[DAEMON]

    def direct():
        done.append(subprocess.run(
            ["setpriv", "--reuid", str(owner.pw_uid), "--regid", str(owner.pw_gid), "--clear-groups", "nix-store", "-r", drv],
            env=daemon.env(DAEMON) | {"NIX_REMOTE": "local", "HOME": str(daemon.base)}, capture_output=True, text=True))

    for first in (direct, lambda: done.append(daemon.run("nix-store", "-r", drv, check=False))):
        done, before = [], len(runs.read_text())
        second = (lambda: done.append(daemon.run("nix-store", "-r", drv, check=False))) if first is direct else direct
        threads = [threading.Thread(target=first), threading.Thread(target=second)]
        threads[0].start()
        wait_for(lambda: len(runs.read_text()) > before, daemon.daemon_log)
        threads[1].start()
        for t in threads:
            t.join()
        assert [(p.returncode, p.stderr) for p in done if p.returncode] == []
        assert len(runs.read_text()) == before + 2, "built twice"
        daemon.run("nix-store", "--delete", out, user="root")
