"""Fixed-output builds: a network namespace of their own, pasta's network in it, nothing of the host's."""
import contextlib
import hashlib
import os
import shutil
import socket
import struct
import subprocess
import threading
import time

import pytest

from conftest import ALICE, BOB, DAEMON

HELLO = b"hello\n"
TOOLS = "sandbox-paths = /bin/sh=/bin/busybox /bin/busybox /lib /lib64? /usr/lib /usr/lib64? /usr/bin%s\n"


def fixed(name, script, content=HELLO, extra=""):
    """A fixed output that runs a script which must leave `content`."""
    digest = hashlib.sha256(content).hexdigest()
    return (f'shWith {{ name = "{name}"; outputHashMode = "flat"; outputHashAlgo = "sha256"; '
            f'outputHash = "{digest}"; {extra} }} \'\'{script}\'\'')


def with_tun(daemon, mode="0666"):
    """The daemon sees a /dev/net/tun of its own, as distributions have it; the machine's stays as it is."""
    node = daemon.base / "tun"
    subprocess.run(["mknod", "-m", mode, node, "c", "10", "200"], check=True)
    return wrap(daemon, f"mkdir -p /dev/net; [ -e /dev/net/tun ] || : > /dev/net/tun; mount --bind {node} /dev/net/tun")


def wrap(daemon, commands):
    """Shell commands before the daemon starts, in a mount namespace of its own."""
    daemon.wrap = [*daemon.wrap, "unshare", "--mount", "--propagation", "private", "sh", "-c",
                   commands + ' && exec "$@"', "sh"]
    return daemon


@pytest.fixture(params=["broker", "subid", "single"])
def networked(request, make_daemon):
    return make_networked(make_daemon, request.param)


def make_networked(make_daemon, mode="broker", conf="", commands="true"):
    assert shutil.which("pasta"), "these tests need pasta (package passt)"
    d = make_daemon(mode, TOOLS % "" + conf, start=False)
    return wrap(with_tun(d), commands).start()


@contextlib.contextmanager
def listener(address, family=socket.AF_INET, answer=HELLO):
    """An HTTP server that counts its visitors."""
    s = socket.socket(family)
    s.bind(address)
    s.listen()
    seen = []

    def serve():
        while True:
            try:
                c, who = s.accept()
            except OSError:
                return
            seen.append(who)
            with c, contextlib.suppress(OSError):
                c.recv(4096)
                c.sendall(b"HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n" % len(answer) + answer)

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield s.getsockname(), seen
    finally:
        s.shutdown(socket.SHUT_RDWR)
        s.close()


def own_address():
    """A non-loopback IPv4 address of this machine."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.connect(("192.0.2.1", 9))
        return s.getsockname()[0]


def fetch(url, then="cat got > $out"):
    return f"/bin/busybox timeout 5 /bin/busybox wget -q -O got {url} || echo refused > got; {then}"


def test_fetches(networked):
    with listener((own_address(), 0)) as ((host, port), seen):
        r = networked.nix_build(fixed("got", fetch(f"http://{host}:{port}/x")))
    assert open(r.stdout.strip(), "rb").read() == HELLO and len(seen) == 1
    assert "no network" not in r.stderr
    assert networked.run("nix-store", "--verify-path", r.stdout.strip()).returncode == 0


def test_host_services_are_out_of_reach(networked):
    script = """
import socket, sys
def reach(family, address):
    s = socket.socket(family); s.settimeout(2)
    try: s.connect(address)
    except OSError as e: return "no"
    return "YES"
gateway = "169.254.1.1"
for n, f, a in %r: print(n, reach(f, a))
"""
    name = f"\0airplant-{os.getpid()}"
    with (listener(("127.0.0.1", 0)) as (v4, seen4), listener(("::1", 0), socket.AF_INET6) as (v6, seen6),
          listener(name, socket.AF_UNIX) as (_, seen_unix)):
        tries = [("v4", int(socket.AF_INET), v4), ("v6", int(socket.AF_INET6), v6[:2]),
                 ("mapped", int(socket.AF_INET6), ("::ffff:127.0.0.1", v4[1])),
                 ("gateway", int(socket.AF_INET), ("169.254.1.1", v4[1])),
                 ("gateway6", int(socket.AF_INET6), ("fd53:4e49:583a::1", v6[1])),
                 ("abstract", int(socket.AF_UNIX), name)]
        probe = networked.base / "probe.py"
        probe.write_text(script % (tries,))
        probe.chmod(0o644)
        networked.stop()
        networked.write_conf(TOOLS % f" /probe={probe}")
        networked.start()
        r = networked.nix_build(fixed("reach", "/usr/bin/python3 /probe; echo hello > $out"))
    answers = dict(line.split() for line in r.stderr.splitlines() if line.split()[-1:] in (["no"], ["YES"]))
    assert answers == {n: "no" for n, *_ in tries}, r.stderr
    assert not seen4 and not seen6 and not seen_unix


def test_no_pasta(make_daemon):
    """No program, no network: an empty namespace with a reason, never the host's."""
    d = make_daemon("broker", TOOLS % "" + "pasta-path = /nonexistent/pasta\n")
    with listener(("127.0.0.1", 0)) as ((_, port), seen):
        r = d.nix_build(fixed("none", "/bin/busybox ip -o link; echo hello > $out"))
        assert "note: this build has no network: pasta could not start: executing '/nonexistent/pasta'" in r.stderr
        assert "lo:" in r.stderr and "eth0" not in r.stderr
        r = d.nix_build(fixed("wants", f"/bin/busybox wget -O $out http://127.0.0.1:{port}/"), check=False)
        assert r.returncode != 0 and "\nnote: this build had no network: pasta could not start" in r.stderr.replace("       ", "")
        assert not seen
    assert list(d.children().values()).count("pasta") == 0


def test_tun_is_closed(make_daemon):
    d = with_tun(make_daemon("broker", TOOLS % "", start=False), "0600").start()
    r = d.nix_build(fixed("tun", "echo hello > $out"))
    assert "this build has no network: pasta could not start: /dev/net/tun has mode 0600" in r.stderr
    assert "'chmod 0666 /dev/net/tun'" in r.stderr


def fake_pasta(d, script):
    path = d.base / "pasta"
    path.write_text("#!/bin/sh\n" + script)
    path.chmod(0o755)
    d.write_conf(TOOLS % "" + f"pasta-path = {path}\n")
    return with_tun(d).start()


def test_pasta_hangs(make_daemon):
    d = fake_pasta(make_daemon("broker", start=False), "exec sleep 100\n")
    start = time.monotonic()
    r = d.nix_build(fixed("hangs", "echo hello > $out"))
    assert "no network: pasta was not ready after 10 seconds" in r.stderr and time.monotonic() - start < 20


def test_pasta_ends_early(make_daemon):
    d = fake_pasta(make_daemon("broker", start=False), "echo 1; exec sleep 0.5\n")
    r = d.nix_build(fixed("early", "/bin/busybox sleep 30; echo hello > $out"), check=False)
    assert r.returncode != 0 and "pasta, which gives this build its network, ended before the build did" in r.stderr
