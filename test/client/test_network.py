"""Fixed-output builds: a network namespace of their own, pasta's network in it, nothing of the host's."""
import contextlib
import hashlib
import mmap
import os
import shutil
import socket
import struct
import subprocess
import threading
import time

import pytest

from conftest import ALICE, BOB, DAEMON, PRELUDE

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


def test_private_addresses(make_daemon):
    """Two builds at once: each is alone in its namespace, and neither reaches what the other listens on."""
    d = make_networked(make_daemon, conf="max-jobs = 2\n")
    shared = d.base / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    d.stop()
    d.write_conf(TOOLS % f" /shared={shared}")
    d.start()
    serve = fixed("serve", "(while :; do echo from-the-other-build | /bin/busybox nc -l -p 7777; done) & "
                  "/bin/busybox touch /shared/up; i=0; while [ ! -e /shared/done ] && [ $i -lt 100 ]; do /bin/busybox sleep 0.1; "
                  "i=$((i+1)); done; echo hello > $out")
    call = fixed("call", "i=0; while [ ! -e /shared/up ] && [ $i -lt 100 ]; do /bin/busybox sleep 0.1; i=$((i+1)); done; "
                 "for a in 127.0.0.1 169.254.1.1 169.254.1.2 " + own_address() + "; do "
                 "echo | /bin/busybox nc -w 1 $a 7777 ; done; /bin/busybox touch /shared/done; "
                 "echo hello > $out", content=HELLO, extra='other = "1";')
    first = d.popen("nix-build", "--no-out-link", "-E", PRELUDE + serve, user=ALICE)
    r = d.nix_build(call, user=BOB)
    log = first.communicate(timeout=60)[0]
    assert first.returncode == 0, log
    assert (shared / "up").exists() and "from-the-other" not in r.stderr.replace("echo from-the-other", "") and "no network" not in r.stderr + log


def test_names_are_looked_up(make_daemon):
    """Through a name server on the host's loopback, as systemd-resolved is."""
    dns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    dns.bind(("127.0.0.53", 53))
    asked = []

    def serve():
        while True:
            try:
                q, who = dns.recvfrom(512)
            except OSError:
                return
            asked.append(q[12:])
            end = q.index(b"\0", 12) + 5
            a = q[end - 4:end - 2] == b"\0\1"
            answer = b"\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4" + socket.inet_aton(own_address())
            dns.sendto(q[:2] + b"\x81\x80\0\1" + struct.pack(">H", a) + b"\0\0\0\0" + q[12:end] + (answer if a else b""), who)

    threading.Thread(target=serve, daemon=True).start()
    try:
        d = make_daemon("broker", TOOLS % "", start=False)
        (d.base / "resolv.conf").write_text("search lan.example\nnameserver 127.0.0.53\noptions edns0\n")
        wrap(with_tun(d), f"mount --bind {d.base}/resolv.conf /etc/resolv.conf").start()
        with listener((own_address(), 0)) as ((_, port), seen):
            r = d.nix_build(fixed("name", "/bin/busybox cat /etc/resolv.conf; " + fetch(f"http://mirror.test:{port}/")))
        assert open(r.stdout.strip(), "rb").read() == HELLO and len(seen) == 1
        assert b"\6mirror\4test" in asked[0]
        assert "nameserver 169.254.1.1\nsearch lan.example\noptions edns0\n" in "\n".join(
            line.strip() for line in r.stderr.splitlines()) + "\n"
    finally:
        dns.close()


def test_loopback_by_setting(make_daemon):
    """fixed-output-loopback opens TCP services of the host's loopback, and nothing else does; a proxy there works then."""
    with listener(("127.0.0.1", 0)) as ((host, port), seen), listener(f"\0airplant-lo-{os.getpid()}", socket.AF_UNIX) as (name, unix):
        d = make_networked(make_daemon, conf="fixed-output-loopback = true\n")
        d.nix_build(fixed("lo", fetch(f"http://127.0.0.1:{port}/")))
        assert len(seen) == 1
        proxied = "http_proxy=http://127.0.0.1:%d; export http_proxy; " % port
        d.nix_build(fixed("proxy", proxied + fetch("http://far.test/x")))
        assert len(seen) == 2 and not unix


def test_certificates(make_daemon):
    d = make_daemon("broker", TOOLS % "", start=False)
    (d.base / "certs").write_text("certificates of the test\n")
    (d.base / "certs").chmod(0o644)
    d.write_conf(TOOLS % "" + f"ssl-cert-file = {d.base}/certs\n")
    with_tun(d).start()
    r = d.nix_build(fixed("certs", "/bin/busybox cat /etc/ssl/certs/ca-certificates.crt; echo hello > $out"))
    assert "certificates of the test" in r.stderr
    r = d.nix_build('sh "plain" "[ ! -e /etc/ssl ] && echo none > $out"')
    assert open(r.stdout.strip()).read() == "none\n"


def pasta_of(d):
    return [pid for pid, name in d.children().items() if name.startswith(("pasta", "passt"))]


def runs(pid):
    try:
        return open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("mode", ["broker", "single"])
def test_pasta_is_confined_and_ends(make_daemon, mode):
    d = make_networked(make_daemon, mode)
    waiting = fixed("waits", "echo started; /bin/busybox sleep 60; echo hello > $out")
    for victim in ("client", "airplant-build", "airplantd"):
        client = d.popen("nix-build", "--no-out-link", "-E", PRELUDE + waiting)
        end = time.monotonic() + 20
        while not pasta_of(d) or "sh" not in "".join(d.children().values()) or not os.path.exists(
                f"/proc/{pasta_of(d)[0]}/root") or os.listdir(f"/proc/{pasta_of(d)[0]}/root"):
            assert time.monotonic() < end, d.children()
            time.sleep(0.02)
        pid = pasta_of(d)[0]
        time.sleep(0.2)
        status = dict(line.split(":\t", 1) for line in open(f"/proc/{pid}/status").read().splitlines() if ":\t" in line)
        uid = d.users[DAEMON].pw_uid
        assert ({int(x) for x in status["Uid"].split()} == {uid}) == (mode == "single")
        assert status["NoNewPrivs"] == "1" and status["Seccomp"] == "2"
        assert int(status["CapEff"], 16) & ~((1 << 10) | (1 << 12) | (1 << 21) | (1 << 19)) == 0
        assert int(status["CapBnd"], 16) & 0b1111 == 0  # CHOWN, DAC_OVERRIDE, DAC_READ_SEARCH, FOWNER
        fds = [os.readlink(f"/proc/{pid}/fd/{n}") for n in os.listdir(f"/proc/{pid}/fd")]
        assert not [f for f in fds if f.startswith("/") and f not in ("/dev/net/tun", "/dev/null", "/") and "/net" not in f], fds
        for ns in ("pid", "mnt", "user"):
            assert os.readlink(f"/proc/{pid}/ns/{ns}") != os.readlink(f"/proc/self/ns/{ns}")
        assert os.readlink(f"/proc/{pid}/ns/net") == os.readlink("/proc/self/ns/net")
        if victim == "client":
            client.kill()
        else:
            for p in [p for p, name in d.children().items() if name == victim][:1 if victim == "airplantd" else 5]:
                os.kill(p, 9)
        client.communicate(timeout=20)
        end = time.monotonic() + 10
        while runs(pid):
            assert time.monotonic() < end, "pasta outlived its build"
            time.sleep(0.02)


@pytest.mark.parametrize("sandbox", ["true", "false"])
def test_registered_bytes_are_out_of_reach(make_daemon, sandbox):
    """Whoever holds the builder's file open, or mapped, does not hold what was registered: CVE-2024-27297."""
    d = make_networked(make_daemon)
    script = "echo hello > $out; echo made; i=0; while [ ! -e /shared/go ] && [ $i -lt 200 ]; do /bin/busybox sleep 0.05; i=$((i+1)); done"
    shared = d.base / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    d.stop()
    d.write_conf(TOOLS % f" /shared={shared}" + f"sandbox = {sandbox}\n")
    d.start()
    build = fixed("leak", script)
    if sandbox == "false":
        build = f"sh \"leak\" ''{script.replace('/shared/', str(shared) + '/')}''"
    client = d.popen("nix-build", "--no-out-link", "-E", PRELUDE + build)
    found, end = [], time.monotonic() + 20
    while not found:
        assert time.monotonic() < end
        found = [f for f in (*d.store.glob(".airplant/**/store/*-leak"), *d.state.glob("**/store/*-leak"))
                 if f.is_file() and f.stat().st_size == len(HELLO)]
        time.sleep(0.02)
    held = os.open(found[0], os.O_RDWR)
    inode = os.fstat(held).st_ino
    mapped = mmap.mmap(held, len(HELLO), mmap.MAP_SHARED)
    (shared / "go").touch()
    out = client.communicate(timeout=30)[0].split()[-1]
    assert client.returncode == 0
    mapped[:] = b"EVIL!\n"
    mapped.flush()
    os.pwrite(held, b"evil!\n", 0)
    assert os.stat(out).st_ino != inode and open(out, "rb").read() == HELLO
    assert d.run("nix-store", "--verify-path", out).returncode == 0


def test_hard_links_out_of_the_output(make_daemon):
    d = make_networked(make_daemon)
    r = d.nix_build(fixed("link", "echo hello > $NIX_BUILD_TOP/kept; /bin/busybox ln $NIX_BUILD_TOP/kept $out"), check=False)
    assert r.returncode != 0 and ("hard links outside" in r.stderr or "link" in r.stderr)
    assert not list(d.store.glob("*-link"))


SENDER = """
import array, os, socket, time
fd = os.open(os.environ["out"], os.O_RDWR | os.O_CREAT, 0o644)
os.write(fd, b"hello\\n")
for name in %r:
    s = socket.socket(socket.AF_UNIX)
    s.settimeout(3)
    try:
        s.connect(name)
        socket.send_fds(s, [b"x"], [fd])
        s.recv(1)
        print("sent", "abstract" if name[0] == chr(0) else "pathname")
    except OSError as e:
        print("refused", "abstract" if name[0] == chr(0) else "pathname")
"""


def test_leaked_descriptor(make_daemon):
    """Upstream's ca-fd-leak: the builder hands its open output to somebody outside. The abstract socket is not
    there; a socket in a directory that the administrator shares is, and helps nobody."""
    d = make_daemon("broker", start=False)
    shared = d.base / "shared"
    shared.mkdir()
    abstract, path = f"\0airplant-leak-{os.getpid()}", str(shared / "s")
    (d.base / "sender.py").write_text(SENDER % (["\0" + abstract[1:], "/shared/s"],))
    (d.base / "sender.py").chmod(0o644)
    got = []

    def receive(s):
        with contextlib.suppress(OSError):
            c, _ = s.accept()
            got.extend(socket.recv_fds(c, 1, 1)[1])
            c.send(b"x")

    with contextlib.ExitStack() as stack:
        for name in (abstract, path):
            s = stack.enter_context(socket.socket(socket.AF_UNIX))
            s.bind(name)
            s.listen()
            threading.Thread(target=receive, args=(s,), daemon=True).start()
        os.chmod(path, 0o777)
        shared.chmod(0o777)
        d.write_conf(TOOLS % f" /shared={shared} /sender={d.base}/sender.py")
        with_tun(d).start()
        r = d.nix_build(fixed("fdleak", "/usr/bin/python3 /sender"))
    assert "refused abstract" in r.stderr, r.stderr
    out = r.stdout.strip()
    for fd in got:
        os.pwrite(fd, b"evil!\n", 0)
        assert os.fstat(fd).st_ino != os.stat(out).st_ino
        os.close(fd)
    assert "sent pathname" in r.stderr and len(got) == 1, r.stderr
    assert open(out, "rb").read() == HELLO
    assert d.run("nix-store", "--verify-path", out).returncode == 0
