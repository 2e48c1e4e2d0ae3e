"""What a build leaves when its supervisor is killed: hostile trees, files that cannot be deleted, and a process of the build's own id
that changes names while they are deleted. The slot is free when all of it is gone, and not before."""
import os
import signal
import subprocess
import time

import pytest

from conftest import wait_for
from test_crash import is_leased, leased_anywhere, named, quarantined

LEAVE = """
    mkdir locked; mkdir locked/in; echo x > locked/in/f; chmod 0 locked/in locked
    i=0; while [ $i -lt 400 ]; do mkdir directory-$i; cd directory-$i; echo x > f; i=$((i+1)); done; cd $NIX_BUILD_TOP
    mkdir swapped; mkdir swapped/d; echo x > swapped/d/f; mkdir store; echo x > $out; ln -s /etc link
    echo > ready; while :; do sleep 1; done
"""


@pytest.fixture(params=["broker", "subid"])
def daemon(request, make_daemon):
    return make_daemon(request.param)


def spool(daemon):
    return daemon.state / "airplant/spool"


def start(daemon, script=LEAVE):
    """A build that waits, its scratch, and its supervisor."""
    client = daemon.popen("nix-build", "--no-out-link", "-E", f"""derivation {{
        name = "leaves"; system = builtins.currentSystem; builder = "/bin/sh"; args = [ "-c" ''{script}'' ]; }}""")
    ready = lambda: [d for d in spool(daemon).glob("b-*") if (d / "build/ready").exists()]
    wait_for(ready, daemon.daemon_log)
    scratch = ready()[0]
    mine = [p for p in named(daemon, "airplant-build") if str(scratch.name) in open(f"/proc/{p}/mountinfo").read()]
    assert len(mine) == 1
    return client, scratch, mine[0]


def slots_locked(daemon):
    where = daemon.base / "ids" if daemon.mode == "broker" else daemon.state / "airplant/ids"
    return quarantined(daemon, where)


def is_all_gone(daemon):
    return not slots_locked(daemon) and not leased(daemon) and not os.listdir(spool(daemon) / "lost") \
        and not list(spool(daemon).glob("b-*"))


def leased(daemon):
    return [p for p in leased_anywhere(daemon) if "/ids" not in p]


def test_a_killed_supervisor_leaves_nothing(daemon):
    client, scratch, supervisor = start(daemon)
    assert leased(daemon)
    os.kill(supervisor, signal.SIGKILL)
    assert "ended without an answer" in client.communicate(timeout=30)[0]
    wait_for(lambda: is_all_gone(daemon), daemon.daemon_log)
    assert "error" not in daemon.tail().replace("was ended by signal 9", "").split("error: the supervisor of")[-1]


def test_stopped_processes_do_not_stop_the_end(daemon):
    r = daemon.run("nix-build", "--no-out-link", "--timeout", "1", "-E", '''derivation {
        name = "stops"; system = builtins.currentSystem; builder = "/bin/sh";
        args = [ "-c" "(while :; do :; done) & (kill -STOP $! ; kill -STOP 0; kill -STOP -1); while :; do sleep 1; done" ]; }''',
        check=False, timeout=30)
    assert "timed out after" in r.stderr
    wait_for(lambda: is_all_gone(daemon), daemon.daemon_log)


def test_what_cannot_be_deleted_keeps_its_slot(make_daemon):
    daemon = make_daemon("broker")
    client, scratch, supervisor = start(daemon)
    victim = scratch / "build/swapped/d/f"
    uid = victim.stat().st_uid
    assert is_leased(uid)
    if subprocess.run(["chattr", "+i", str(victim)], stderr=subprocess.DEVNULL).returncode != 0:
        client.kill()
        pytest.fail("this file system has no immutable files: run the tests where /tmp lies on one that has")
    number = victim.stat().st_ino
    try:
        os.kill(supervisor, signal.SIGKILL)
        client.communicate(timeout=30)
        wait_for(lambda: f"the slot of uid {uid} cannot be cleaned" in daemon.tail(), daemon.daemon_log)
        assert f"'f' of uid {uid}" in daemon.tail() and "Operation not permitted" in daemon.tail()
        again = daemon.nix_build('sh "other" "echo other > $out"')  # the daemon goes on, with another slot
        assert again.returncode == 0 and f"built as uid {uid} " not in daemon.tail()
        daemon.stop()
        assert f"ids-{uid}" in slots_locked(daemon)
    finally:
        subprocess.run(["find", str(daemon.base), "-inum", str(number), "-exec", "chattr", "-i", "{}", ";"], check=True)
    daemon.start()
    wait_for(lambda: is_all_gone(daemon), daemon.daemon_log)


def test_who_waits_for_the_last_slot_has_it_cleaned(make_daemon):
    """Slots that could not be cleaned are tried again when a build wants one, not only when a minute has passed."""
    daemon = make_daemon("broker", start=False)
    daemon.id_count = 65536  # one slot
    daemon.start()
    client, scratch, supervisor = start(daemon)
    lost = spool(daemon) / "lost"
    if subprocess.run(["chattr", "+i", str(lost)], stderr=subprocess.DEVNULL).returncode != 0:
        client.kill()
        pytest.fail("this file system has no immutable files: run the tests where /tmp lies on one that has")
    try:
        os.kill(supervisor, signal.SIGKILL)
        client.communicate(timeout=30)
        wait_for(lambda: "cannot be cleaned" in daemon.tail() and "next try in 60 seconds" in daemon.tail(), daemon.daemon_log)
        waits = daemon.popen("nix-build", "--no-out-link", "-E", """derivation {
            name = "waits"; system = builtins.currentSystem; builder = "/bin/sh"; args = [ "-c" "echo > $out" ]; }""")
        time.sleep(1.5)
        assert waits.poll() is None
    finally:
        subprocess.run(["chattr", "-i", str(lost)], check=True)
    out, _ = waits.communicate(timeout=15)
    assert waits.returncode == 0 and "waiting for a free build user ID" in out, out


SWAPPER = r"""
import ctypes, os, sys
libc = ctypes.CDLL(None)
os.fchdir(int(sys.argv[1]))
os.setgid(int(sys.argv[2])); os.setuid(int(sys.argv[2]))
target = sys.argv[3].encode()
while True:
    for name in (b"a", b"b"):
        try:
            os.mkdir(name)
            os.mkdir(name + b"/sub")
        except OSError: pass
    try: os.symlink(target, b"link")
    except OSError: pass
    libc.syscall(316, -100, b"a", -100, b"link", 2)
    libc.syscall(316, -100, b"link", -100, b"b", 2)
"""


def test_names_that_change_lead_nowhere(make_daemon):
    """A process with the slot's id and a way in, which no builder has: it exchanges directories and links."""
    daemon = make_daemon("broker")
    client, scratch, supervisor = start(daemon)
    uid = (scratch / "build/swapped").stat().st_uid
    canaries = daemon.base / "canaries"
    (canaries / "sub").mkdir(parents=True)
    for i in range(50):
        (canaries / f"c{i}").write_text("x")
        (canaries / "sub" / f"c{i}").write_text("x")
    subprocess.run(["chown", "-R", str(uid), str(canaries)], check=True)  # as easy to delete as anything
    canaries.chmod(0o777)
    before = sorted(os.listdir(canaries)), sorted(os.listdir(canaries / "sub"))
    fd = os.open(scratch / "build/swapped", os.O_RDONLY | os.O_DIRECTORY)
    swappers = [subprocess.Popen(["/usr/bin/python3", "-c", SWAPPER, str(fd), str(uid), str(canaries)], pass_fds=[fd])
                for _ in range(2)]
    try:
        time.sleep(0.2)
        os.kill(supervisor, signal.SIGKILL)
        client.communicate(timeout=30)
        time.sleep(3)
        assert all(p.poll() is None for p in swappers)
    finally:
        for p in swappers:
            p.kill()
            p.wait()
        os.close(fd)
    assert (sorted(os.listdir(canaries)), sorted(os.listdir(canaries / "sub"))) == before
    subprocess.run(["rm", "-r", str(canaries)], check=True)
    daemon.stop()  # it may have given up for a minute: the next one begins at once
    daemon.start()
    wait_for(lambda: is_all_gone(daemon), daemon.daemon_log)


FLOODER = r"""
import os, sys
os.fchdir(int(sys.argv[1]))
os.setgid(int(sys.argv[2])); os.setuid(int(sys.argv[2]))
while True:
    for i in range(3000):
        try: os.close(os.open(f"{sys.argv[3]}{i}", os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        except OSError: pass
"""


def test_names_that_do_not_end_cost_one_slot(make_daemon):
    """A process that got the slot's id from elsewhere makes files as fast as they are deleted. Somebody gives up, and says why."""
    daemon = make_daemon("broker")
    client, scratch, supervisor = start(daemon)
    uid = (scratch / "build/swapped").stat().st_uid
    fd = os.open(scratch / "build/swapped", os.O_RDONLY | os.O_DIRECTORY)
    flooders = [subprocess.Popen(["/usr/bin/python3", "-c", FLOODER, str(fd), str(uid), name], pass_fds=[fd])
                for name in "abc"]
    try:
        time.sleep(0.2)
        os.kill(supervisor, signal.SIGKILL)
        client.communicate(timeout=30)
        assert daemon.nix_build('sh "meanwhile" "echo > $out"').returncode == 0
        wait_for(lambda: f"the slot of uid {uid} cannot be cleaned" in daemon.tail(), daemon.daemon_log, seconds=60)
        assert f"a process runs as its uid {uid}, and deleting takes longer than" in daemon.tail()
        assert all(p.poll() is None for p in flooders) and not named(daemon, "airplant-build clean")
        again = daemon.nix_build('sh "other" "echo other > $out"')
        assert again.returncode == 0 and f"built as uid {uid} " not in daemon.tail()
    finally:
        for p in flooders:
            p.kill()
            p.wait()
        os.close(fd)
    daemon.stop()
    daemon.start()
    wait_for(lambda: is_all_gone(daemon), daemon.daemon_log)
