"""Builds that get a range of ids and are root of it: requiredSystemFeatures = [ "uid-range" ]."""
import os
import pathlib
import re
import shutil
import subprocess

import pytest

from conftest import DAEMON, SUBID_START, wait_for
from test_cgroup import delegated  # noqa: F401 (a fixture)

CONF = "sandbox-paths = /bin/sh=/bin/busybox /bin/busybox\n"
B = "/bin/busybox"


def build(d, name, script, feature="uid-range", attrs="", **kw):
    text = script.replace("''", "'''").replace("${", "''${")
    return d.nix_build(f'shWith {{ name = "{name}"; requiredSystemFeatures = [ "{feature}" ]; {attrs} }} '
                       f"''\nb={B}\nset -e\n{text}\n''", **kw)


def text_of(r):
    return open(r.stdout.strip()).read()


@pytest.fixture(params=["broker", "subid"])
def ranged(request, delegated):
    d = delegated(request.param, CONF)
    d.subids = 1 << 20
    return d.start()


PROBE = """
{
  $b id -u; $b id -g; $b cat /proc/self/uid_map /proc/self/gid_map; $b cat /proc/self/setgroups
  $b grep -E '^(CapEff|NoNewPrivs|Seccomp):' /proc/self/status
  echo $$; $b hostname; $b cat /etc/passwd; $b cat /proc/self/cgroup; $b ls /sys/class/net; $b ls -ldn /sys/fs/cgroup
} > $out 2>&1
"""


@pytest.mark.parametrize("feature, count", [("uid-range", 65536), ("uid-range-262144", 262144)])
def test_root_of_its_ids(ranged, feature, count):
    s = text_of(build(ranged, "root", PROBE, feature)).splitlines()
    assert s[:2] == ["0", "0"]
    assert [x.split() for x in s[2:4]] == [["0", "0", str(count)]] * 2 and s[4] == "allow"
    status = dict(x.split(":\t") for x in s[5:8])
    assert int(status["CapEff"], 16) & (1 << 21) and status["NoNewPrivs"] == "1" and status["Seccomp"] == "2"
    rest = "\n".join(s[8:])
    assert s[8:10] == ["1", "localhost"] and "nixbld:x:0:0:Nix build user:/build:/noshell" in rest
    assert "0::/\n" in rest and re.search("^lo$", rest, re.M) and re.search(r"drwx.* 0 +0 .*/sys/fs/cgroup", rest)


def test_outputs_and_leftovers_of_all_its_ids(ranged):
    """Any id of the range may own an output and what is left behind; bits and attributes stay inside."""
    r = build(ranged, "many", """
      $b mkdir -p $out/dir /build/left/over; echo x > $out/dir/f; echo y > $out/s; echo z > $out/u
      $b chown -R 33:44 $out/dir; $b chown 65535:65535 $out/s; $b chmod 6755 $out/s; $b chmod 2755 $out/dir
      $b stat -c %a $out/s; $b chown 1234 /build/left; $b chmod 0 /build/left/over
    """)
    out = r.stdout.strip()
    assert "6755" in r.stderr  # it had them
    for top, dirs, files in os.walk(out):
        for n in [".", *dirs, *files]:
            st = os.lstat(os.path.join(top, n))
            assert st.st_uid == ranged.users[DAEMON].pw_uid and st.st_mode & 0o7222 == 0, (top, n, oct(st.st_mode))
    wait_for(lambda: not any(n.startswith("build-") for n in ranged.group.leaves()), ranged.daemon_log)
    assert "left files" not in ranged.daemon_log.read_text()


def test_keep_failed(ranged):
    r = build(ranged, "failing", "$b mkdir /build/d; echo kept > /build/d/f; $b chown -R 77:88 /build/d; "
              "$b chmod 4755 /build/d/f; exit 3", check=False, args=("--keep-failed",))
    path = re.search('keeping build directory "([^"]+)"', r.stderr)
    assert r.returncode != 0 and path, r.stderr
    kept = pathlib.Path(path[1]) / "d/f"
    st = kept.stat()
    assert kept.read_text() == "kept\n" and st.st_uid == ranged.users[DAEMON].pw_uid and not st.st_mode & 0o6000


def test_what_it_may_and_may_not(ranged):
    """Root inside: mounts, networks and groups of its own. Nobody outside: inputs, limits and the host's."""
    r = build(ranged, "may", """
      try() { name=$1; shift; if "$@" > /dev/null 2>&1; then echo "$name yes"; else echo "$name no"; fi; }
      {
        $b mkdir /build/m; try tmpfs $b mount -t tmpfs none /build/m
        try proc $b unshare -p -f -m -n $b mount -t proc none /proc
        try chroot $b chroot / $b true
        try link $b ip link add v0 type veth peer name v1
        try group $b mkdir /sys/fs/cgroup/mine
        try enter $b sh -c 'echo $$ > /sys/fs/cgroup/mine/cgroup.procs'
        try rmdir $b rmdir /sys/fs/cgroup/mine
        try setuid $b chown 65535:7 /build/m
        try mknod $b mknod /build/sda b 8 0
        try remount $b mount -o remount,rw,bind $src
        try reveal $b umount $src
        try input $b chmod 777 $src
        try write $b sh -c 'echo > $src'
        try sysrq $b sh -c 'echo h > /proc/sysrq-trigger'
        try limit $b sh -c 'echo max > /sys/fs/cgroup/pids.max'
        try depth $b sh -c 'echo 99 > /sys/fs/cgroup/cgroup.max.depth'
        try kill $b sh -c 'echo 0 > /sys/fs/cgroup/cgroup.kill'
        [ "$($b cat $src)" = input ]
      } > $out
    """, attrs='src = builtins.toFile "src" "input";')
    s = dict(x.split() for x in text_of(r).splitlines())
    yes = {k for k, v in s.items() if v == "yes"}
    assert yes == {"tmpfs", "proc", "chroot", "link", "group", "enter", "rmdir", "setuid"}, s


def test_supervisor_leaves_no_groups_behind(ranged):
    build(ranged, "deep", """
      $b mkdir -p /sys/fs/cgroup/a/b/c/d /sys/fs/cgroup/x/y /sys/fs/cgroup/x/z
      ($b sh -c 'echo $$ > /sys/fs/cgroup/a/b/c/cgroup.procs; exec /bin/busybox sleep 1000') &
      until $b grep -q . /sys/fs/cgroup/a/b/c/cgroup.procs; do $b usleep 10000; done
      echo > $out
    """)
    wait_for(lambda: not any(n.startswith("build-") for n in ranged.group.leaves()), ranged.daemon_log)


def test_many_inputs(ranged):
    """More than a hundred: the root lies in another place then."""
    deps = " ".join(f'"${{builtins.toFile "in{i}" "{i}"}}"' for i in range(130))
    r = ranged.nix_build(f'shWith {{ name = "wide"; requiredSystemFeatures = [ "uid-range" ]; deps = [ {deps} ]; }} '
                         f"''set -e; for i in $deps; do {B} cat $i; done > $out''")
    assert text_of(r) == "".join(str(i) for i in range(130))


def test_two_at_once_have_different_ids(ranged):
    for n in ("one", "two"):
        build(ranged, n, "echo > $out")
    uids = re.findall(r"(?:one|two)\.drv: built as uid (\d+)", ranged.daemon_log.read_text())
    assert len(uids) == 2


def test_not_where_there_are_no_ids(make_daemon):
    d = make_daemon("single", CONF)
    r = build(d, "none", "echo > $out", check=False)
    assert r.returncode != 0 and "uid-range" in r.stderr and "missing system features" in r.stderr or \
        "required to build" in r.stderr, r.stderr
    assert "'uid-range' are not offered" in d.daemon_log.read_text()


def test_without_a_group(make_daemon):
    """Where no cgroup is delegated it says so, and the rest works."""
    d = make_daemon("broker", CONF)
    wait_for(lambda: "have no cgroup of their own" in d.daemon_log.read_text(), d.daemon_log)
    assert text_of(build(d, "bare", "$b id -u > $out")) == "0\n"
