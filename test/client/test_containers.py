"""Whole systems inside of builds: systemd-nspawn boots Debian with systemd as PID 1 in a uid-range build.

The system comes from debootstrap, once: it is kept as an archive in a cache directory ($AIRPLANT_CACHE, default
/var/cache/airplant). The build unpacks it and is root of it; the host's programs come in by sandbox-paths. All that the
derivation says about it is requiredSystemFeatures = [ "uid-range" ].
"""
import os
import pathlib
import subprocess
import tempfile

import pytest

from conftest import wait_for
from test_cgroup import delegated  # noqa: F401 (a fixture)

CACHE = pathlib.Path(os.environ.get("AIRPLANT_CACHE", "/var/cache/airplant"))

# One container: NAME, what runs in it, its address on the bridge.
SCRIPT = r'''
export PATH=/usr/bin:/usr/sbin:/bin:/sbin
echo 0123456789abcdef0123456789abcdef > /etc/machine-id  # systemd-nspawn wants one around it
set -e
container() {
  mkdir -p /build/$1
  tar -C /build/$1 --numeric-owner --exclude='./dev/*' -xpf /container.tar
  cp /bin/busybox /build/$1/usr/local/bin/
  : > /build/$1/etc/machine-id
  cat > /build/$1/etc/systemd/system/job.service <<END
[Unit]
After=dbus.service
Requires=dbus.service
SuccessAction=poweroff
FailureAction=poweroff
[Service]
Type=oneshot
StandardOutput=file:/job.log
StandardError=file:/job.log
ExecStart=/bin/sh -e /job
END
  ln -s /etc/systemd/system/job.service /build/$1/etc/systemd/system/multi-user.target.wants/
  cat > /build/$1/job
}
boot() {
  name=$1; shift
  mkdir /sys/fs/cgroup/$name
  sh -c "echo \$\$ > /sys/fs/cgroup/$name/cgroup.procs; exec systemd-nspawn \"\$@\"" sh \
    --register=no --keep-unit --private-users=no --console=pipe -D /build/$name -M $name "$@" --boot > /build/$name.console 2>&1 \
    || { echo "nspawn: $?"; cat /build/$name.console; }
}
'''


@pytest.fixture(scope="module")
def archive():
    path = CACHE / "container-bookworm.tar"
    if not path.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as root:
            subprocess.run(["debootstrap", "--variant=minbase", "--include=systemd,systemd-sysv,dbus,iproute2",
                            "bookworm", root + "/root"], check=True, stdout=subprocess.DEVNULL)
            subprocess.run(["tar", "-C", root + "/root", "--numeric-owner", "--exclude=./var/cache/apt/*", "--exclude=./var/lib/apt/lists/*",
                            "--exclude=./usr/share/doc/*", "--exclude=./usr/share/locale/*", "-cf", root + "/tar", "."], check=True)
            os.rename(root + "/tar", path)
    path.chmod(0o644)
    return path


@pytest.fixture
def hosting(delegated, archive):
    conf = f"sandbox-paths = /bin /sbin /usr /lib /lib64 /etc/alternatives? /container.tar={archive}\n"
    return delegated("broker", conf).start()


def run(d, name, script):
    text = (SCRIPT + script).replace("''", "'''").replace("${", "''${")
    r = d.nix_build(f'shWith {{ name = "{name}"; requiredSystemFeatures = [ "uid-range" ]; }} '
                    f"''{text}''", timeout=170)
    return open(r.stdout.strip()).read()


def test_systemd_boots(hosting):
    text = run(hosting, "one", r'''
container alpha <<'END'
ps=$(cat /proc/1/comm); echo "pid 1: $ps"
systemctl is-system-running || true
systemctl show -p Version | cut -c1-12
stat -c "%a %u" /usr/bin/su
runuser -u nobody -- id -u
cat /proc/self/uid_map
END
boot alpha
cat /build/alpha/job.log > $out
''')
    lines = text.split("\n")
    assert lines[0] == "pid 1: systemd" and "Version=" in text
    assert "4755 0" in lines and "65534" in lines and "         0          0      65536" in lines


def test_two_talk_to_each_other(hosting):
    text = run(hosting, "two", r'''
ip link add br0 type bridge && ip link set br0 up
container server <<'END'
ip addr add 10.9.8.1/24 dev host0 && ip link set host0 up
busybox nc -l -p 77 -e /bin/echo hello from server
END
container client <<'END'
ip addr add 10.9.8.2/24 dev host0 && ip link set host0 up
for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15; do busybox nc -w 9 10.9.8.1 77 < /dev/null && break; sleep 1; done
END
boot server --network-bridge=br0 &
boot client --network-bridge=br0
wait
cat /build/client/job.log > $out
''')
    assert text == "hello from server\n"
    wait_for(lambda: not any(n.startswith("build-") for n in hosting.group.leaves()), hosting.daemon_log)
    assert "left files" not in hosting.daemon_log.read_text()
