"""What a builder can reach: processes, namespaces, devices, the machine, other builds; and who can reach it.

Each test names its defence. test/attack/mutate takes them out one at a time, and says which test does not notice.
"""
import os
import pathlib
import re
import signal
import subprocess
import time

import pytest

from attack_builds import (answers, assert_intact, attacker, builder_of, fixed, make_hostile, plain, start, stop_traced, until, wait_clean)
from conftest import ALICE, BOB, MODES, wait_for


@pytest.mark.parametrize("system", ["x86_64-linux", "i686-linux"])
@pytest.mark.parametrize("mode", ["broker", "single"])
def test_nothing_is_in_reach(make_daemon, attacker, mode, system):
    """Some 150 attempts, while another user's build with a secret runs: signals, /proc, capabilities, ids, namespaces, mounts,
    devices, sysctls, keyrings, terminals, file flags, sockets of every family. Defence: the namespaces of child_start(),
    root.c and proc.c, privileges_drop(), confine/builder.c."""
    d = make_hostile(make_daemon, attacker, mode)
    other = start(d, 'shWith { name = "other"; secret = "SECRET-OF-BOB"; } "echo now; while :; do /bin/busybox sleep 1; done"', user=BOB)
    until(other, "now")
    r = d.nix_build(f'shWith {{ name = "reach"; system = "{system}"; }} "/attack reach; /bin/busybox grep -a SECRET /proc/*/environ; echo > $out"')
    said = answers(r.stderr)
    assert len(said) > 130 and {k: v for k, v in said.items() if v == "ok"} == {}
    assert "sees process" not in r.stderr and "SECRET" not in r.stderr
    assert re.search(r"/proc/1/root is /\n", r.stderr) and re.search(r"/proc/1/cwd is /build\n", r.stderr)
    other.send_signal(signal.SIGINT)
    other.wait(20)
    wait_clean(d)
    assert_intact(d)


@pytest.mark.parametrize("kind", [plain, fixed])
@pytest.mark.parametrize("mode", ["broker", "single"])
def test_two_builds_share_nothing(make_daemon, attacker, mode, kind):
    """What one leaves while both run, the other does not find: SysV and POSIX IPC, /dev/shm, /tmp, abstract sockets. Defence:
    CLONE_NEWIPC, CLONE_NEWNET, and mounts of one's own."""
    d = make_hostile(make_daemon, attacker, mode, binds=["/shared=SHARED"])
    one = start(d, kind("one", "/attack ipc leave /shared/left /shared/go; echo hello > $out"), user=BOB)
    wait_for((d.shared / "left").exists, d.daemon_log)
    r = d.nix_build(kind("two", "/attack ipc find; echo hello > $out"))
    found = answers(r.stderr)
    (d.shared / "go").touch()
    left = answers(one.communicate(timeout=30)[0])
    words = {"shm", "msg", "sem", "mq", "dev-shm", "tmp", "abstract"}
    assert {left[w] for w in words} == {"ok"}, left
    assert not [w for w in words if found[w] == "ok"] and words <= found.keys(), found
    assert_intact(d)


def test_ids_of_the_daemon_cannot_be_mapped(make_daemon, attacker):
    """With nested-sandboxes a builder makes user namespaces: none in which an id is that is not its own. Defence: the inner
    namespace I of enter_inner(), which does not map the daemon's id."""
    d = make_hostile(make_daemon, attacker, conf="nested-sandboxes = true\n")
    r = d.nix_build(plain("maps", "/attack map-ids; echo > $out"))
    lines = re.findall(r"^([ug]id \d+ \d+ \d+): (\w+) (\w+)$", r.stderr, re.M)
    assert len(lines) == 14 and all(x[1:] == ("unshared", "EPERM") for x in lines), r.stderr
    assert_intact(d)


# The kernel asks for the same uid alone, whatever the user namespace: SECURITY.md says so.
SAME_UID_MAY = {"prlimit", "kill"}


@pytest.mark.parametrize("mode", ["broker", "subid"])  # in mode single it is the daemon's own
@pytest.mark.parametrize("kind", [plain, fixed])
def test_whoever_has_the_builds_uid(make_daemon, attacker, mode, kind):
    """A process of the machine that runs under the leased uid (which nobody but root can start) cannot look into the build:
    not by ptrace, not by /proc, not by its file descriptors, not by its directory. Defence: the user namespace I, of which
    it has no capability; the spool's mode. What the kernel allows it is SAME_UID_MAY."""
    d = make_hostile(make_daemon, attacker, mode)
    client = start(d, kind("poked", "echo now; while :; do :; done"))
    until(client, "now")
    pid, uid = builder_of(d, client)
    r = subprocess.run([attacker, "poke", str(pid), str(uid)], capture_output=True, text=True, check=True)
    said = answers(r.stdout)
    assert len(said) == 17 and {k for k, v in said.items() if v == "ok"} <= SAME_UID_MAY, r.stdout
    where = d.state / "airplant/spool"
    scratch = next(where.glob("b-*"))
    for path in (where, scratch, scratch / "build", scratch / "store"):
        r = subprocess.run(["setpriv", "--reuid", str(uid), "--regid", str(uid), "--clear-groups", "sh", "-c", f"cd {path} || ls {path}"],
                           capture_output=True, text=True)
        assert r.returncode != 0 and "denied" in r.stderr, path
    client.send_signal(signal.SIGINT)
    client.wait(20)
    wait_clean(d)
    assert_intact(d)


@pytest.mark.parametrize("mode", ["broker", "single"])
def test_sandbox_paths_that_a_build_has_prepared(make_daemon, attacker, mode):
    """One sandbox path lies in another that builders may write to. Somebody exchanges a directory there and a link to the store
    without a pause while builds start (and strace slows the supervisor's mkdir down): what the administrator wants in
    /shared/a/b/c never lands elsewhere, and nothing is made on the host. Defence: build/bind.c follows no link on its way."""
    d = make_hostile(make_daemon, attacker, mode, binds=["/shared=SHARED"])
    inner = d.base / "inner"
    inner.mkdir()
    (inner / "f").write_text("inner\n")
    d.stop()
    d.write_conf(f"extra-sandbox-paths = /bin/busybox /attack={attacker} /shared={d.shared} /shared/a/b/c={inner}\n")
    d.wrap = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=mkdir,mkdirat"]
    d.start()
    names = lambda: {n for n in os.listdir(d.store) if not n.startswith(".") and "-" not in n}
    before = names()
    swapper = subprocess.Popen(["/usr/bin/python3", "-c", SWAP, str(d.shared), str(d.store)])
    try:
        ends = [d.nix_build(plain(f"race{i}", "/bin/busybox cat /shared/a/b/c/f > $out"), check=False).returncode for i in range(12)]
        assert swapper.poll() is None
    finally:
        swapper.kill()
        swapper.wait()
    stop_traced(d)
    assert names() == before == set(), ends


SWAP = r"""
import ctypes, os, sys
libc = ctypes.CDLL(None)
os.chdir(sys.argv[1])
os.umask(0)
os.makedirs("a/b/c")
os.symlink(sys.argv[2], "l")
while True:
    libc.syscall(316, -100, b"a", -100, b"l", 2)
"""
