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


def test_no_builder_outlives_its_supervisor(make_daemon):
    """A builder can clear its death signal. It ends all the same, and its ids are taken until then."""
    daemon = make_daemon("broker", PYTHON_PATHS)
    code = "import ctypes, time; ctypes.CDLL(None).prctl(1, 0); print('immortal', flush=True); time.sleep(300)"
    client = daemon.popen("nix-build", "--no-out-link", "-E", python_builder("immortal", code))
    text = ""
    for line in client.stdout:
        text += line
        if "immortal" in line and "building" not in line and "drv" not in line:
            break
    running = daemon.children()
    builder = [p for p, n in running.items() if n.startswith("python")]
    supervisors = [p for p, n in running.items() if n == "airplant-build"]
    assert len(builder) == 1, text + str(running)
    assert locked_slots(daemon)
    parent = int(open(f"/proc/{builder[0]}/stat").read().rsplit(")", 1)[1].split()[1])
    assert parent in supervisors
    os.kill(parent, signal.SIGKILL)
    wait_for(lambda: not os.path.exists(f"/proc/{builder[0]}"), daemon.daemon_log)
    wait_for(lambda: not locked_slots(daemon), daemon.daemon_log)
    assert client.wait(20) != 0


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
