"""What each process may do, as the kernel reports it, while a build runs."""
import os
import re
import signal

from conftest import BROKER, DAEMON, PRELUDE, wait_for

SLEEPER = PRELUDE + 'sh "sleeper" "while :; do :; done"'


def status(pid):
    text = open(f"/proc/{pid}/status").read()
    return dict(re.findall(r"^(\w+):\t(.*)$", text, re.M))


def by_name(daemon):
    found = {}
    for pid, name in daemon.children().items():
        found.setdefault(name, []).append(pid)
    return found


def test_table(make_daemon):
    daemon = make_daemon("broker")
    client = daemon.popen("nix-build", "--no-out-link", "-E", SLEEPER)
    try:
        wait_for(lambda: {"sh", "busybox"} & set(by_name(daemon)), daemon.daemon_log)
        names = by_name(daemon)
        uid = daemon.users[DAEMON].pw_uid
        core = status(daemon.core.pid)
        assert core["CapPrm"] == core["CapEff"] == core["CapInh"] == core["CapAmb"] == "0" * 16
        assert core["Uid"].split() == [str(uid)] * 4
        ids = status(daemon.broker.pid)
        own = daemon.users[BROKER].pw_uid
        assert ids["Uid"].split()[:3] == [str(own), str(uid), str(own)]
        assert ids["CapEff"] == ids["CapPrm"] == ids["CapBnd"] == "00000000000000c0"
        assert ids["CapAmb"] == ids["CapInh"] == "0" * 16
        assert ids["NoNewPrivs"] == "1" and ids["Seccomp"] == "2"
        for pid in names["airplant-sessio"]:
            s = status(pid)
            assert s["CapEff"] == s["CapPrm"] == s["CapBnd"] == "0" * 16
            assert s["NoNewPrivs"] == "1" and s["Seccomp"] == "2"
            # No network, and not the host's mounts.
            for ns in ("net", "mnt", "user", "ipc"):
                assert os.readlink(f"/proc/{pid}/ns/{ns}") != os.readlink(f"/proc/self/ns/{ns}")
            # It cannot write, forge or read the daemon's log.
            assert os.readlink(f"/proc/{pid}/fd/2") == "/dev/null"
        # Capabilities of a supervisor count in its own namespace only.
        for pid in names["airplant-build"]:
            assert os.readlink(f"/proc/{pid}/ns/user") != os.readlink("/proc/self/ns/user")
    finally:
        client.send_signal(signal.SIGINT)
        client.wait()


def test_helpers_link_libc_alone(binaries):
    import subprocess
    for helper in ("airplant-ids", "airplant-roots"):
        out = subprocess.run(["ldd", binaries / helper], capture_output=True, text=True).stdout
        libs = {line.split()[0] for line in out.splitlines()}
        assert {re.sub(r"\..*", "", os.path.basename(x)) for x in libs} <= {"linux-vdso", "libc", "ld-linux-x86-64"}, out


def test_kill_nine_anything(make_daemon):
    """Whatever dies, the store opens and every valid path is whole."""
    for victim in ("airplant-build", "airplant-sessio", "airplantd"):
        daemon = make_daemon("broker")
        good = daemon.nix_build('sh "good" "echo good > $out"').stdout.strip()
        client = daemon.popen("nix-build", "--no-out-link", "-E", SLEEPER)
        wait_for(lambda: {"sh", "busybox"} & set(by_name(daemon)), daemon.daemon_log)
        for pid in by_name(daemon).get(victim, []):
            os.kill(pid, signal.SIGKILL)
        client.wait(20)
        assert client.returncode != 0
        wait_for(lambda: not ({"sh", "busybox"} & set(by_name(daemon))), daemon.daemon_log)
        if victim == "airplantd":
            daemon.core.wait()
            daemon.stop()
            daemon.start()
        daemon.run("nix-store", "--verify-path", good)
        again = daemon.nix_build('sh "after" "echo after > $out"').stdout.strip()
        assert open(again).read() == "after\n"
        daemon.stop()
