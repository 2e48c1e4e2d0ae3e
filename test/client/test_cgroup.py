"""Builds in control groups of their own, below a directory that was delegated to the daemon.

The limits need the controllers of cgroup v2, which a machine with the mixed layout has elsewhere: test/vm/run
tests those in an emulated machine. Here is everything else: which group a build is in, that it is ended and
removed with it, and what the daemon says about what is missing.
"""
import os
import pathlib
import re
import shutil
import signal
import subprocess
import time

import pytest

from conftest import DAEMON, PRELUDE, wait_for


def v2_mount():
    for line in open("/proc/self/mountinfo"):
        left, right = line.split(" - ")
        if right.split()[0] == "cgroup2":
            return pathlib.Path(left.split()[4])
    pytest.fail("this machine has no cgroup v2 mounted anywhere: nothing of this file can be tested")


class Group:
    """A directory that belongs to the daemon's user, as systemd's Delegate=yes makes it."""

    def __init__(self, name, user):
        self.path = v2_mount() / name
        self.path.mkdir()
        for f in (self.path, *(self.path / n for n in ("cgroup.procs", "cgroup.threads", "cgroup.subtree_control"))):
            os.chown(f, user.pw_uid, user.pw_gid)

    def leaves(self):
        return sorted(p.name for p in self.path.iterdir() if p.is_dir())

    def remove(self):
        for top, dirs, _ in os.walk(self.path, topdown=False):
            (pathlib.Path(top) / "cgroup.kill").write_text("1")
            for d in dirs:
                wait_for(lambda: not (pathlib.Path(top) / d / "cgroup.procs").read_text(), "/dev/null")
                (pathlib.Path(top) / d).rmdir()
        self.path.rmdir()


@pytest.fixture
def delegated(make_daemon, users):
    groups = []

    def make(mode="broker", conf="", own_conf="", inside=True):
        d = make_daemon(mode, conf, start=False)
        g = Group(f"airplant-test-{d.base.name}", users[DAEMON])
        groups.append((d, g))
        d.group = g
        d.own_conf = own_conf.replace("GROUP", str(g.path))
        d.write_conf(conf)
        if inside:
            d.wrap = ["sh", "-c", f'echo $$ > {g.path}/cgroup.procs && exec "$@"', "sh"]
        return d

    yield make
    for d, g in groups:
        d.stop()
        g.remove()


def groups_of(pids):
    return {name: re.search(r"^0::(.*)$", open(f"/proc/{p}/cgroup").read(), re.M)[1] for p, name in pids.items()}


@pytest.mark.parametrize("mode", ["broker", "subid", "single"])
def test_one_leaf_per_build(delegated, mode):
    d = delegated(mode).start()
    wait_for(lambda: f"cgroups: one per build below '{d.group.path}'" in d.daemon_log.read_text(), d.daemon_log)
    assert d.group.leaves() == ["airplantd"] and not (d.group.path / "cgroup.procs").read_text()
    client = d.popen("nix-build", "--no-out-link", "-E",
                     'derivation { name = "odd?name+1"; system = builtins.currentSystem; builder = "/bin/sh"; '
                     'args = [ "-c" "/bin/sh -c \\"while :; do :; done\\" & read x < /proc/self/cgroup; echo group=$x; wait" ]; }')
    wait_for(lambda: "build-odd_name_1.1" in d.group.leaves(), d.daemon_log)
    leaf = d.group.path / "build-odd_name_1.1"
    wait_for(lambda: len((leaf / "cgroup.procs").read_text().split()) >= 2, d.daemon_log)
    # Nothing but the builder's processes is in it; everything of the daemon's own is in the daemon's.
    names = {open(f"/proc/{p}/comm").read().strip() for p in (leaf / "cgroup.procs").read_text().split()}
    assert names <= {"sh", "busybox"}
    own = f"/{d.group.path.name}/airplantd"
    groups = groups_of({p: n for p, n in d.children().items() if n.startswith("airplant") and n != "airplant-ids"})
    assert groups and set(groups.values()) == {own}, groups
    client.send_signal(signal.SIGINT)
    client.wait(20)
    wait_for(lambda: d.group.leaves() == ["airplantd"], d.daemon_log)
    assert "odd?name" in client.stdout.read()


def test_the_builder_sees_its_group_as_the_root(delegated):
    d = delegated().start()
    script = "while read l; do case $l in 0::*) echo $l > $out;; esac; done < /proc/self/cgroup"
    r = d.nix_build(f'sh "seen" "{script}"')
    assert open(r.stdout.strip()).read() == "0::/\n"


def test_leaf_is_gone_before_the_answer_is_old(delegated):
    """Also when a build fails, and when its supervisor is killed."""
    d = delegated().start()
    assert d.nix_build('sh "bad" "exit 3"', check=False).returncode != 0
    wait_for(lambda: d.group.leaves() == ["airplantd"], d.daemon_log)
    client = d.popen("nix-build", "--no-out-link", "-E",
                     'derivation { name = "k"; system = builtins.currentSystem; builder = "/bin/sh"; '
                     'args = [ "-c" "while :; do :; done" ]; }')
    wait_for(lambda: any(n.startswith("build-k.") for n in d.group.leaves()), d.daemon_log)
    leaf = next(n for n in d.group.leaves() if n.startswith("build-k."))
    wait_for(lambda: (d.group.path / leaf / "cgroup.procs").read_text(), d.daemon_log)
    builder = int((d.group.path / leaf / "cgroup.procs").read_text().split()[0])
    parent = int(open(f"/proc/{builder}/stat").read().rsplit(")", 1)[1].split()[1])
    os.kill(parent, signal.SIGKILL)
    client.wait(20)
    wait_for(lambda: d.group.leaves() == ["airplantd"], d.daemon_log)
    stat = pathlib.Path(f"/proc/{builder}/stat")
    assert not stat.exists() or stat.read_text().rsplit(")", 1)[1].split()[0] in "ZX"


def test_processor_time_is_the_groups(delegated):
    """That of children nobody waited for counts too: a builder alone would not know of it."""
    d = delegated().start()
    script = "(i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done) & (i=0; while [ $i -lt 600000 ]; do i=$((i+1)); done); echo > $out"
    d.nix_build(f'sh "busy" "{script}"')
    line = re.findall(r"busy\.drv: built as uid \d+ in ([\d.]+) s \(([\d.]+) s of processor", d.daemon_log.read_text())
    assert line and float(line[0][1]) > 0.2, d.tail()


def test_leftovers_of_a_killed_daemon(delegated):
    d = delegated().start()
    wait_for(lambda: "cgroups: one" in d.daemon_log.read_text(), d.daemon_log)
    old = d.group.path / "build-old.7"
    old.mkdir()
    for f in (old, old / "cgroup.kill"):
        shutil.chown(f, DAEMON)
    sleeper = subprocess.Popen(["sleep", "1000"])
    (old / "cgroup.procs").write_text(str(sleeper.pid))
    d.core.kill()
    d.core.wait()
    d.start_core()
    assert sleeper.wait(5) == -signal.SIGKILL
    d.core.terminate()
    d.core.wait()
    d.start_core()
    wait_for(lambda: d.group.leaves() == ["airplantd"], d.daemon_log)  # it listens before it looks there


def test_a_group_with_another_name(delegated):
    d = delegated(own_conf="build-cgroup = GROUP\n", inside=False)
    inner = d.group.path / "elsewhere"
    inner.mkdir()
    d.wrap = ["sh", "-c", f'echo $$ > {inner}/cgroup.procs && exec "$@"', "sh"]
    d.start()
    wait_for(lambda: f"one per build below '{d.group.path}'" in d.daemon_log.read_text(), d.daemon_log)
    d.nix_build('sh "x" "echo > $out"')
    assert re.search("x.drv: built as", d.daemon_log.read_text())
    wait_for(lambda: d.group.leaves() == ["elsewhere"], d.daemon_log)


def test_what_is_missing_is_said(delegated, make_daemon):
    plain = make_daemon("broker")
    wait_for(lambda: "cgroups: " in plain.daemon_log.read_text(), plain.daemon_log)
    log = plain.daemon_log.read_text()
    assert len(re.findall("cgroups: none for builds, because ", log)) == 1 and "Delegate=yes" in log, log
    plain.nix_build('sh "x" "echo > $out"')
    outside = delegated(own_conf="build-cgroup = GROUP\n", inside=False).start()
    wait_for(lambda: "does not lie in" in outside.daemon_log.read_text(), outside.daemon_log)
    controllers = (v2_mount() / "cgroup.controllers").read_text().split()
    missing = [c for c in ("memory", "pids", "cpu") if c not in controllers]
    d = delegated().start()
    text = f"without the controllers {', '.join(missing)}:" if missing else "with limits"
    wait_for(lambda: text in d.daemon_log.read_text(), d.daemon_log)


# Forks until it is refused; what came before stays.
BOMB = """derivation { name = "bomb"; system = builtins.currentSystem; builder = "/bin/sh"; args = [ "-c" ''
  (while :; do /bin/busybox sleep 1000 & done) & while :; do /bin/busybox sleep 1000; done'' ]; }"""


@pytest.mark.parametrize("mode", ["broker", "single"])
@pytest.mark.parametrize("with_group", [True, False])
def test_fork_bomb(delegated, make_daemon, mode, with_group):
    """Is stopped with the pids controller and without one; a neighbour builds meanwhile."""
    conf, own = "sandbox-paths = /bin/sh=/bin/busybox /bin/busybox\n", "build-pids-max = 200\n"
    d = delegated(mode, conf, own) if with_group else make_daemon(mode, conf, start=False)
    d.own_conf = own
    d.write_conf(conf)
    d.start()
    sleepers = lambda: sum(n == "busybox" for n in d.children().values())
    bomb = d.popen("nix-build", "--no-out-link", "-E", BOMB)
    wait_for(lambda: sleepers() > 150, d.daemon_log)
    time.sleep(0.3)
    assert 150 < sleepers() <= 200
    d.nix_build('sh "neighbour" "/bin/busybox true && /bin/busybox true; echo > $out"')
    bomb.send_signal(signal.SIGINT)
    bomb.wait(30)
    wait_for(lambda: sleepers() == 0, d.daemon_log)


@pytest.mark.parametrize("line, word", [("build-memory-max = 101%", "build-memory-max"), ("build-pids-max = 0", "build-pids-max"),
                                        ("build-pids-max = 50%", "build-pids-max"), ("build-cpu-weight = max", "build-cpu-weight"),
                                        ("build-cpu-weight = 10001", "build-cpu-weight")])
def test_bad_limits_are_refused(make_daemon, line, word):
    d = make_daemon("broker", start=False)
    d.own_conf = line + "\n"
    d.write_conf()
    with pytest.raises(AssertionError, match=f"setting '{word}' has invalid value"):
        d.start()


def test_clients_cannot_change_limits(delegated):
    d = delegated(own_conf="build-pids-max = 300\n").start()
    r = d.nix_build('sh "c" "echo > $out"', args=("--option", "build-pids-max", "max"), user="root")
    assert r.returncode == 0
    if "pids" in (v2_mount() / "cgroup.controllers").read_text().split():
        assert "processes" in d.daemon_log.read_text()


def test_hooks_have_a_group_and_are_ended_with_it(delegated):
    d = delegated("single", own_conf="hook-timeout = 2\n")
    hook = d.base / "hook"
    number = 200000 + os.getpid()
    # Two forks away from a parent that is gone, in a session of its own.
    hook.write_text(f"#!/bin/sh\n[ ! -e {d.base}/quick ] || exec setsid -f sleep {number} > /dev/null 2>&1\n(setsid sleep {number} &)\nsleep {number}\n")
    hook.chmod(0o755)
    d.write_conf(f"post-build-hook = {hook}\n")
    d.start()
    client = d.popen("nix-build", "--no-out-link", "-E", PRELUDE + 'sh "x" "echo > $out"')
    wait_for(lambda: "hook-hook.2" in d.group.leaves(), d.daemon_log)
    procs = d.group.path / "hook-hook.2/cgroup.procs"

    def names():
        return [open(f"/proc/{p}/comm").read().strip() for p in procs.read_text().split()]
    wait_for(lambda: names().count("sleep") == 2, d.daemon_log)
    assert "airplantd" not in names()
    out = client.communicate(timeout=60)[0]
    assert client.returncode != 0 and "timed out after 2 seconds" in out
    wait_for(lambda: not procs.exists() or not procs.read_text(), d.daemon_log)
    (d.base / "quick").touch()
    d.nix_build('sh "y" "echo > $out"')
    (left,) = [n for n in d.group.leaves() if n.startswith("hook-hook.") and (d.group.path / n / "cgroup.procs").read_text()]
    pids = (d.group.path / left / "cgroup.procs").read_text().split()  # on purpose: it goes on
    for p in pids:
        os.kill(int(p), signal.SIGKILL)
    wait_for(lambda: not (d.group.path / left / "cgroup.procs").read_text(), d.daemon_log)
    d.nix_build('sh "z" "echo > $out"')
    assert left not in d.group.leaves()
