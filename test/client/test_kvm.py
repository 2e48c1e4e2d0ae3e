"""/dev/kvm in builds that require kvm, and in no others.

Which device lies at that name is not what is tested, and few test machines have a real one: the daemon runs in a mount
namespace in which another device (that of /dev/zero) lies there, with the owner and mode of a distribution's.
"""
import os
import stat

import pytest

from conftest import MODES

GROUP = 64123  # of the device, and of the daemon
CONF = "sandbox-paths = /bin/sh=/bin/busybox /bin/busybox\n"
OPEN = "/bin/busybox dd if=/dev/kvm bs=1 count=1 2> /dev/null | /bin/busybox wc -c > $out; /bin/busybox id -G >> $out"


@pytest.fixture
def with_kvm(make_daemon):
    made = not os.path.exists("/dev/kvm")
    if made:
        open("/dev/kvm", "x").close()  # something to mount on, for this test

    def make(mode, access, groups):
        d = make_daemon(mode, CONF, start=False)
        node = d.base / "kvm"
        os.mknod(node, stat.S_IFCHR | access, os.makedev(1, 5))
        os.chown(node, 0, GROUP)
        node.chmod(access)
        d.wrap = ["unshare", "--mount", "--propagation", "private", "sh", "-c",
                  f'mount --bind {node} /dev/kvm && exec "$@"', "sh"]
        d.change = lambda argv: [f"--groups={GROUP}" if a == "--clear-groups" and groups else a for a in argv]
        return d.start()

    yield make
    if made:
        os.unlink("/dev/kvm")


def build(d, name, features, check=True):
    return d.nix_build(f'shWith {{ name = "{name}"; requiredSystemFeatures = [ {features} ]; }} "{OPEN}"', check=check)


@pytest.mark.parametrize("mode", MODES)
def test_through_the_daemons_group(with_kvm, mode):
    d = with_kvm(mode, 0o660, True)
    assert open(build(d, "kvm", '"kvm"').stdout.strip()).read().split()[0] == "1"
    others = open(build(d, "other", "").stdout.strip()).read().split()
    assert others[0] == "0"
    if mode != "single":
        assert others[1:] == ["100"]  # the group is gone, not only the device
    if mode == "broker":
        assert open(build(d, "both", '"kvm" "uid-range"').stdout.strip()).read().split()[0] == "1"


def test_open_to_all(with_kvm):
    d = with_kvm("broker", 0o666, False)
    assert open(build(d, "kvm", '"kvm"').stdout.strip()).read().split() == ["1", "100"]


@pytest.mark.parametrize("access, groups", [(0o660, False), (0o600, True)])
def test_not_offered_where_it_would_not_open(with_kvm, access, groups):
    d = with_kvm("broker", access, groups)
    r = build(d, "kvm", '"kvm"', check=False)
    assert r.returncode != 0 and "kvm" in r.stderr and not os.path.exists(r.stdout.strip() or "/nonexistent")
