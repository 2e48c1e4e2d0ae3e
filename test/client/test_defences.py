"""Defences whose loss no ordinary use would show. Each test goes red when its defence is taken out."""
import os
import signal
import stat
import subprocess
import time

from conftest import BOB, DAEMON, PRELUDE, wait_for

PYTHON_PATHS = "extra-sandbox-paths = /usr /lib /lib64\n"


def python_builder(name, code):
    code = code.replace("\n", "\\n").replace('"', '\\"')
    return (f'derivation {{ name = "{name}"; system = builtins.currentSystem; '
            f'builder = "/usr/bin/python3"; args = [ "-c" "{code}" ]; }}')


def locked_slots(daemon):
    inodes = {str(os.stat(daemon.base / "ids" / f).st_ino) for f in os.listdir(daemon.base / "ids")}
    locks = [line.split() for line in open("/proc/locks")]
    return [w for w in locks if any(x.split(":")[-1] in inodes for x in w if x.count(":") == 2)]


def running_build(daemon, client, builder_name):
    """Waits for a line "now" in the log; gives the pids of the builder and of its supervisor."""
    text = ""
    for line in client.stdout:
        text += line
        if line.strip() == "now":
            break
    running = daemon.children()
    builders = [p for p, n in running.items() if n.startswith(builder_name)]
    for builder in builders:
        parent = int(open(f"/proc/{builder}/stat").read().rsplit(")", 1)[1].split()[1])
        if running.get(parent) == "airplant-build":
            return builder, parent
    raise AssertionError(text + str(running))


def test_no_builder_outlives_its_supervisor(make_daemon):
    """A builder can clear its death signal. It ends all the same, and its ids are taken until then."""
    daemon = make_daemon("broker", PYTHON_PATHS)
    code = "import ctypes, time; ctypes.CDLL(None).prctl(1, 0); print('now', flush=True); time.sleep(300)"
    client = daemon.popen("nix-build", "--no-out-link", "-E", python_builder("immortal", code))
    builder, supervisor = running_build(daemon, client, "python")
    assert locked_slots(daemon)
    os.kill(supervisor, signal.SIGKILL)
    wait_for(lambda: not os.path.exists(f"/proc/{builder}"), daemon.daemon_log)
    wait_for(lambda: not locked_slots(daemon), daemon.daemon_log)
    assert client.wait(20) != 0


BUSY = 'sh "busy" "echo > /build/left; echo now; while :; do :; done"'


def spool(daemon, sub="."):
    return sorted(os.listdir(daemon.state / "airplant/spool" / sub))


def test_cancelled_build_has_time_to_delete(make_daemon):
    """Only a build's supervisor can delete its files: it is not killed while it may be at that."""
    daemon = make_daemon("broker")
    client = daemon.popen("nix-build", "--no-out-link", "-E", PRELUDE + BUSY)
    builder, supervisor = running_build(daemon, client, "")
    os.kill(supervisor, signal.SIGSTOP)  # as good as a slow disk
    client.kill()
    time.sleep(6)
    os.kill(supervisor, signal.SIGCONT)
    wait_for(lambda: not [f for f in spool(daemon) if f.startswith("b-")] and not spool(daemon, "trash"),
             daemon.daemon_log)
    assert "left files" not in daemon.tail()


def make_stale(daemon, name):
    """A directory where an output belongs: what a crash leaves. It gives way to the next attempt."""
    drv = daemon.run("nix-instantiate", "-E", PRELUDE + f'sh "{name}" "echo > $out"').stdout.strip()
    stale = daemon.run("nix-store", "-q", "--outputs", drv).stdout.strip()
    os.mkdir(stale)
    os.chown(stale, daemon.users[DAEMON].pw_uid, daemon.users[DAEMON].pw_gid)
    open(stale + "/file", "w").close()
    return drv, stale


def test_what_cannot_be_deleted_holds_up_nothing(make_daemon):
    """A file that nobody can delete is named once; the rest of the trash is emptied, and so is what a killed supervisor left."""
    daemon = make_daemon("broker")
    drv, stale = make_stale(daemon, "stuck")
    number = os.stat(stale + "/file").st_ino
    subprocess.run(["chattr", "+i", stale + "/file"], check=True)
    try:
        daemon.run("nix-store", "-r", drv)
        wait_for(lambda: "cannot be deleted: Operation not permitted ('file' in it" in daemon.tail(), daemon.daemon_log)
        daemon.run("nix-store", "-r", make_stale(daemon, "other")[0])
        wait_for(lambda: len(spool(daemon, "trash")) == 1, daemon.daemon_log, seconds=5)
        client = daemon.popen("nix-build", "--no-out-link", "-E", PRELUDE + BUSY)
        builder, supervisor = running_build(daemon, client, "")
        os.kill(supervisor, signal.SIGKILL)
        assert client.wait(20) != 0
        wait_for(lambda: not spool(daemon, "lost") and not locked_slots(daemon), daemon.daemon_log)
        assert len(spool(daemon, "trash")) == 1
        assert daemon.tail().count("cannot be deleted") == 1 and "cannot be cleaned" not in daemon.tail()
    finally:
        subprocess.run(["find", str(daemon.base), "-inum", str(number), "-exec", "chattr", "-i", "{}", ";"], check=True)
    daemon.stop()
    daemon.start()
    wait_for(lambda: not spool(daemon, "trash"), daemon.daemon_log)


def test_rewritten_derivation_is_not_built(make_daemon):
    """A session that was taken over can rewrite what it added; nobody may build it."""
    daemon = make_daemon("single")
    expr = 'sh "honest" "echo HONEST > $out"'
    drv = daemon.run("nix-instantiate", "-E", PRELUDE + expr).stdout.strip()
    text = open(drv).read()
    os.chmod(drv, 0o644)
    open(drv, "w").write(text.replace("HONEST", "EVIL!!"))
    os.chmod(drv, 0o444)
    r = daemon.run("nix-store", "-r", drv, user=BOB, check=False)
    assert r.returncode != 0 and "was modified" in r.stderr
    assert not [f for f in os.listdir(daemon.store) if f.endswith("-honest")]


def test_database_is_private(make_daemon):
    """Who can open the database can lock it against its writer."""
    daemon = make_daemon("single")
    assert stat.S_IMODE(os.stat(daemon.state / "db").st_mode) == 0o700
    r = daemon.run("cat", daemon.state / "db/db.sqlite-shm", user=BOB, check=False)
    assert r.returncode != 0


def test_sessions_end_cleanly(make_daemon):
    """A session that its own filter kills at its end counts as a crash of its user."""
    daemon = make_daemon("single")
    for _ in range(5):
        daemon.run("nix-store", "--check-validity", daemon.store / ("a" * 32 + "-x"), check=False)
    assert "crash" not in daemon.tail() and "signal" not in daemon.tail()


def test_one_daemon_per_state(make_daemon):
    daemon = make_daemon("single")
    pw = daemon.users[DAEMON]
    r = subprocess.run(["setpriv", "--reuid", str(pw.pw_uid), "--regid", str(pw.pw_gid), "--clear-groups",
                        "--inh-caps=-all", str(daemon.bin / "airplantd")], capture_output=True, text=True,
                       env=daemon.env(DAEMON) | {"NIX_DAEMON_SOCKET_PATH": str(daemon.base / "other")}, timeout=20)
    assert r.returncode == 1 and "another airplantd" in r.stderr


def test_root_is_refused(binaries):
    r = subprocess.run([binaries / "airplantd"], capture_output=True, text=True, env={}, timeout=20)
    assert r.returncode == 1 and "does not run as root" in r.stderr


def test_no_chroot_as_the_daemon_needs_trust(make_daemon):
    """With ids = single such a builder could write the store and the database."""
    daemon = make_daemon("single", "sandbox = relaxed\n")
    expr = f'shWith {{ name = "open"; __noChroot = true; }} "echo x > {daemon.state}/db/pwn; echo > $out"'
    r = daemon.nix_build(expr, user=BOB, check=False)
    assert r.returncode != 0 and "trusted-users" in r.stderr
    assert not (daemon.state / "db/pwn").exists()
    assert "can change its store" in daemon.tail()


def test_one_users_timeout_is_not_anothers(make_daemon):
    daemon = make_daemon("single", start=False)
    gate = daemon.base / "gate"
    gate.mkdir()
    daemon.write_conf(f"sandbox-paths = /bin/sh=/bin/busybox /gate={gate}\n")
    daemon.start()
    expr = PRELUDE + 'sh "shared" "echo now; while ! [ -e /gate/open ]; do :; done; echo > $out"'
    hasty = daemon.popen("nix-build", "--no-out-link", "--timeout", "1", "-E", expr)
    running_build(daemon, hasty, "")
    other = daemon.popen("nix-build", "--no-out-link", "-E", expr, user=BOB)
    running_build(daemon, other, "")
    assert hasty.wait(20) != 0
    (gate / "open").touch()
    text, _ = other.communicate(timeout=20)
    assert other.returncode == 0, text


def test_sandbox_path_in_the_store_is_read_only(make_daemon):
    """With ids = single the builder owns what is in the store."""
    daemon = make_daemon("single")
    path = daemon.run("nix-store", "--add", "/etc/hostname").stdout.strip()
    daemon.stop()
    daemon.write_conf(f"extra-sandbox-paths = /bin/busybox {path} /seen={daemon.store}\n")
    daemon.start()
    name = os.path.basename(path)
    daemon.nix_build(f'sh "w" "for f in {path} /seen/{name}; do ! /bin/busybox chmod 644 $f && ! echo x > $f || exit 1; done; echo > $out"')
    assert daemon.run("nix-store", "--verify-path", path).returncode == 0
