"""builtin:fetchurl and builtin:unpack-channel, with real servers on an address of this machine."""
import contextlib
import hashlib
import http.server
import io
import lzma
import os
import ssl
import subprocess
import tarfile
import threading
import zipfile

import pytest

from conftest import ALICE
from test_network import make_networked, own_address

BODY = b"fetched\n"


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.0"

    def log_message(self, *_):
        pass

    def do_GET(self):
        self.server.seen.append((self.path, dict(self.headers)))
        answer = self.server.answers.get(self.path.split("?")[0])
        if callable(answer):
            return answer(self)
        self.reply(*(answer if isinstance(answer, tuple) else (200 if answer is not None else 404, answer or b"nothing\n")))

    def reply(self, status, body=b"", **headers):
        self.send_response(status)
        for k, v in headers.items():
            self.send_header(k.replace("_", "-"), v)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@contextlib.contextmanager
def server(answers, tls=None):
    s = http.server.ThreadingHTTPServer((own_address(), 0), Handler)
    s.answers, s.seen, s.daemon_threads = answers, [], True
    if tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tls / "cert", tls / "key")
        s.socket = context.wrap_socket(s.socket, server_side=True)
    threading.Thread(target=s.serve_forever, daemon=True).start()
    s.url = f"http{'s' if tls else ''}://{s.server_address[0]}:{s.server_address[1]}"
    try:
        yield s
    finally:
        s.shutdown()
        s.server_close()


def drv(url, content=BODY, name="got", mode="flat", digest=None, extra=""):
    digest = digest or hashlib.sha256(content).hexdigest()
    return (f'derivation {{ name = "{name}"; system = "builtin"; builder = "builtin:fetchurl"; url = "{url}"; urls = [ "{url}" ]; '
            f'outputHash = "{digest}"; outputHashAlgo = "sha256"; outputHashMode = "{mode}"; preferLocalBuild = true; {extra} }}')


def fetched(daemon, expr, user=ALICE):
    return open(daemon.nix_build(expr, user=user).stdout.strip(), "rb").read()


def refused(daemon, expr, *texts):
    r = daemon.nix_build(expr, check=False)
    assert r.returncode != 0
    for t in texts:
        assert t in r.stderr, r.stderr
    return r.stderr


QUICK = "download-attempts = 1\nconnect-timeout = 3\nstalled-download-timeout = 3\n"


@pytest.fixture
def daemon(make_daemon):
    return make_networked(make_daemon, conf=QUICK)


@pytest.mark.parametrize("mode", ["broker", "subid", "single"])
def test_fetchurl(make_daemon, mode):
    daemon = make_networked(make_daemon, mode, conf=QUICK)
    with server({"/x": BODY}) as s:
        r = daemon.nix_build(drv(f"{s.url}/x"))
        assert open(r.stdout.strip(), "rb").read() == BODY
        [(path, headers)] = s.seen
        assert "Airplant" in headers["User-Agent"] and "Authorization" not in headers
    assert daemon.run("nix-store", "--verify-path", r.stdout.strip()).returncode == 0


def test_nix_expression_of_the_client(daemon):
    with server({"/dir/name-1.0": BODY}) as s:
        expr = f'import <nix/fetchurl.nix> {{ url = "{s.url}/dir/name-1.0"; sha256 = "{hashlib.sha256(BODY).hexdigest()}"; }}'
        r = daemon.run("nix-build", "--no-out-link", "-E", expr)
    assert r.stdout.strip().endswith("-name-1.0")


def test_executable(daemon):
    with server({"/x": BODY}) as s:
        digest = hashlib.sha256(b"".join(map(nix_string, ["nix-archive-1", "(", "type", "regular", "executable", "", "contents", BODY, ")"]))).hexdigest()
        r = daemon.nix_build(drv(f"{s.url}/x", mode="recursive", digest=digest, extra="executable = true;"))
    assert os.stat(r.stdout.strip()).st_mode & 0o111 == 0o111


def nix_string(t):
    t = t.encode() if isinstance(t, str) else t
    return len(t).to_bytes(8, "little") + t + bytes(-len(t) % 8)


def packed(daemon):
    """A small tree as NAR, and its hash."""
    top = daemon.base / "tree"
    top.mkdir()
    (top / "tool").write_text("#!/bin/sh\n")
    (top / "tool").chmod(0o755)
    (top / "link").symlink_to("tool")
    nar = subprocess.run(["nix-store", "--dump", top], capture_output=True, check=True).stdout
    return nar, hashlib.sha256(nar).hexdigest()


def test_unpack(daemon):
    nar, digest = packed(daemon)
    with server({"/a.nar": nar, "/a.nar.xz": lzma.compress(nar)}) as s:
        for name in ("a.nar", "a.nar.xz"):
            r = daemon.nix_build(drv(f"{s.url}/{name}", name=name.replace(".", "-"), mode="recursive", digest=digest, extra="unpack = true;"))
            out = r.stdout.strip()
            assert os.readlink(f"{out}/link") == "tool" and os.access(f"{out}/tool", os.X_OK)


@pytest.mark.parametrize("name, data", [
    ("cut", lambda nar: nar[:-16]), ("cut.xz", lambda nar: lzma.compress(nar)[:-30]), ("rubbish.xz", lambda nar: b"rubbish" * 100),
    ("dots", lambda nar: nar.replace(nix_string("link"), nix_string(".."))),
    ("bomb.xz", lambda nar: lzma.compress(bytes(1 << 26)))])
def test_bad_archives(daemon, name, data):
    nar, digest = packed(daemon)
    with server({"/" + name: data(nar)}) as s:
        refused(daemon, drv(f"{s.url}/{name}", name="bad", mode="recursive", digest=digest, extra="unpack = true;"), "unable to download")


def test_not_there(daemon):
    with server({}) as s:
        refused(daemon, drv(f"{s.url}/none"), f"unable to download '{s.url}/none': HTTP error 404")
        assert len(s.seen) == 1


def test_wrong_hash(daemon):
    with server({"/x": b"something else"}) as s:
        refused(daemon, drv(f"{s.url}/x"), "hash mismatch in fixed-output derivation")


def test_again_when_it_may_go_better(make_daemon):
    daemon = make_networked(make_daemon, conf="download-attempts = 3\n")
    answers = iter([(503, b""), (429, b""), (200, BODY)])
    with server({"/x": lambda h: h.reply(*next(answers))}) as s:
        assert fetched(daemon, drv(f"{s.url}/x")) == BODY
        assert len(s.seen) == 3


def test_redirects(daemon):
    with server({"/x": BODY, "/r": lambda h: h.reply(302, Location="/x"), "/loop": lambda h: h.reply(302, Location="/loop"),
                 "/file": lambda h: h.reply(302, Location="file:///etc/hosts")}) as s:
        assert fetched(daemon, drv(f"{s.url}/r")) == BODY
        refused(daemon, drv(f"{s.url}/loop", name="loop"), "unable to download")
        assert len(s.seen) < 20
        refused(daemon, drv(f"{s.url}/file", name="file"), "unable to download")


def test_hashed_mirrors(make_daemon):
    digest = hashlib.sha256(BODY).hexdigest()
    with server({f"/m/sha256/{digest}": BODY, "/x": b"never asked"}) as s:
        daemon = make_networked(make_daemon, conf=QUICK + f"hashed-mirrors = {s.url}/none {s.url}/m\n")
        assert fetched(daemon, drv(f"{s.url}/x")) == BODY
        assert [p for p, _ in s.seen] == [f"/none/sha256/{digest}", f"/m/sha256/{digest}"]


def test_slow_server_is_given_up(daemon):
    stop = threading.Event()
    with server({"/x": lambda h: stop.wait(30)}) as s:
        refused(daemon, drv(f"{s.url}/x"), "unable to download")
        stop.set()


# -- who may see what -------------------------------------------------------------------------

def test_passwords_go_to_their_host_alone(daemon):
    with server({"/x": BODY}) as s, server({"/r": lambda h: h.reply(302, Location=f"{s.url}/x")}) as other:
        host = s.server_address[0]
        (daemon.etc / "netrc").write_text(f"machine {host} login me password secret\nmachine elsewhere.example login me password other\n")
        daemon.nix_build(drv(f"{s.url}/x"))
        assert s.seen[0][1]["Authorization"].startswith("Basic ")
        daemon.nix_build(drv(f"http://elsewhere.example@{host}:{s.server_address[1]}/x", name="user"), check=False)
        assert not [h for _, h in other.seen if "Authorization" in h]
    kept = subprocess.run(["grep", "-rl", "secret", daemon.state, daemon.store, daemon.log], capture_output=True, text=True).stdout
    assert not kept, kept


def test_passwords_are_not_what_is_fetched(daemon):
    """They lie in the build directory, which a URL can name; whoever sees a build's output sees what it says."""
    text = b"machine elsewhere.example login me password secret\n"
    (daemon.etc / "netrc").write_bytes(text)
    for i, url in enumerate(("file:///build/netrc", "FILE:/build/netrc", "file://localhost/proc/self/cwd/netrc", "file:netrc")):
        refused(daemon, drv(url, name=f"stolen-{i}", content=text), "unable to download")


def test_passwords_are_not_kept(daemon):
    (daemon.etc / "netrc").write_text("machine elsewhere.example login me password secret\n")
    with server({}) as s:
        r = daemon.nix_build(drv(f"{s.url}/x"), check=False, args=["--keep-failed"])
        assert len(s.seen) == 1 and "keeping build directory" not in r.stderr


def test_proxies_are_the_daemons(daemon):
    """One that the derivation names would be told the passwords for the hosts behind it."""
    with server({"/x": BODY}) as s, server({}) as proxy:
        (daemon.etc / "netrc").write_text(f"machine {s.server_address[0]} login me password secret\n")
        assert fetched(daemon, drv(f"{s.url}/x", extra=f'http_proxy = "{proxy.url}"; all_proxy = "{proxy.url}"; HTTP_PROXY = "{proxy.url}";')) == BODY
        assert not proxy.seen and s.seen[0][1]["Authorization"].startswith("Basic ")


@pytest.mark.parametrize("url", ["file:///etc/shadow", "file:///proc/1/environ", "scp://localhost/x", "gopher://localhost/x", "dict://localhost/x",
                                 "-o/tmp/x", "", "http://[", "file:///netrc", "http://\\r\\nX: y"])
def test_hostile_urls(daemon, url):
    secret = daemon.base / "secret"
    secret.write_text("secret of the machine")
    refused(daemon, drv(url))
    refused(daemon, drv(f"file://{secret}", name="secret", content=b"secret of the machine"), "unable to download")


def test_environment_is_not_the_derivations(daemon):
    """A derivation that names a library does not have it run in the daemon's program."""
    lib = daemon.base / "lib.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", lib, "-xc", "-"], text=True, check=True,
                   input="#include <unistd.h>\n__attribute__((constructor)) static void f(void) { _exit(0); }\n")
    with server({"/x": BODY}) as s:
        assert fetched(daemon, drv(f"{s.url}/x", extra=f'LD_PRELOAD = builtins.path {{ path = {lib}; name = "lib.so"; }};')) == BODY
        assert len(s.seen) == 1


def test_not_fixed(daemon):
    refused(daemon, 'derivation { name = "x"; system = "builtin"; builder = "builtin:fetchurl"; url = "http://x/"; }',
            "'builtin:fetchurl' must be a fixed-output or impure derivation")


def certificate(where, name):
    subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", where / "key", "-out", where / "cert", "-days", "2",
                    "-subj", "/CN=test", "-addext", f"subjectAltName=IP:{name}"], check=True, capture_output=True)


def test_tls(make_daemon, tmp_path):
    good, wrong = tmp_path / "good", tmp_path / "wrong"
    for d, name in ((good, own_address()), (wrong, "203.0.113.1")):
        d.mkdir()
        certificate(d, name)
    os.chmod(tmp_path, 0o755)
    trusted = tmp_path / "bundle"
    trusted.write_text((good / "cert").read_text() + (wrong / "cert").read_text())
    daemon = make_networked(make_daemon, conf=QUICK + f"ssl-cert-file = {trusted}\n", commands=f"mkdir -p {make_readable(tmp_path)}")
    with server({"/x": BODY}, good) as s:
        assert fetched(daemon, drv(f"{s.url}/x")) == BODY
    with server({"/x": BODY}, wrong) as s:
        refused(daemon, drv(f"{s.url}/x", name="wrong-name"), "unable to download")
        assert not s.seen
    untrusting = make_networked(make_daemon, conf=QUICK)
    with server({"/x": BODY}, good) as s:
        refused(untrusting, drv(f"{s.url}/x", name="unknown"), "unable to download")
        assert not s.seen


def make_readable(path):
    for p in (path, *path.parents):
        if str(p).startswith("/tmp/"):
            os.chmod(p, os.stat(p).st_mode | 0o055)
    return path


# -- channels ---------------------------------------------------------------------------------

def tarball(members, mode="w:xz"):
    b = io.BytesIO()
    with tarfile.open(fileobj=b, mode=mode) as t:
        for name, content in members:
            i = tarfile.TarInfo(name)
            if content is None:
                i.type, i.mode = tarfile.DIRTYPE, 0o755
            elif isinstance(content, str):
                i.type, i.linkname = tarfile.SYMTYPE, content
            else:
                i.size, i.mode = len(content), 0o6755
            t.addfile(i, io.BytesIO(content) if isinstance(content, bytes) else None)
    return b.getvalue()


def channel(daemon, members, name="nixpkgs", mode="w:xz"):
    p = daemon.base / "channel.tar"
    p.write_bytes(tarball(members, mode))
    return (f'derivation {{ name = "channel"; system = "builtin"; builder = "builtin:unpack-channel"; channelName = "{name}"; '
            f'src = builtins.path {{ path = {p}; name = "c.tar"; }}; preferLocalBuild = true; }}')


@pytest.mark.parametrize("mode", ["w:xz", "w:gz", "w:bz2", "w"])
def test_channel(daemon, mode):
    r = daemon.nix_build(channel(daemon, [("nixos-1", None), ("nixos-1/default.nix", b"{ }"), ("nixos-1/l", "default.nix")], mode=mode))
    top = f"{r.stdout.strip()}/nixpkgs"
    assert open(f"{top}/default.nix").read() == "{ }" and os.readlink(f"{top}/l") == "default.nix"
    assert os.stat(f"{top}/default.nix").st_mode & 0o7777 == 0o555


@pytest.mark.parametrize("members, text", [
    ([], "is empty"), ([("a", None), ("b", None)], "contains more than one file"),
    ([("../../../../tmp/escaped", b"x")], "failed to extract"), ([("/build/escaped", b"x")], "failed to extract"),
    ([("a", None), ("a/l", "/build"), ("a/l/escaped", b"x")], "failed to extract")])
def test_hostile_channels(daemon, members, text):
    refused(daemon, channel(daemon, members), text)
    assert not os.path.exists("/tmp/escaped")


def test_channel_of_names_in_utf8(daemon):
    p = daemon.base / "channel.zip"
    with zipfile.ZipFile(p, "w") as z:
        z.writestr("c/f\u00fcr.nix", "{ }")
    r = daemon.nix_build('derivation { name = "channel"; system = "builtin"; builder = "builtin:unpack-channel"; channelName = "n"; '
                         f'src = builtins.path {{ path = {p}; name = "c.zip"; }}; preferLocalBuild = true; }}')
    assert os.listdir(os.fsencode(r.stdout.strip() + "/n")) == ["f\u00fcr.nix".encode()]


def test_channel_names(daemon):
    for name in ("a/b", "..", ""):
        refused(daemon, channel(daemon, [("a", None)], name=name), "channelName" if name else "attribute 'channelName' missing")


def test_nix_channel(daemon):
    """The client's own command, for a channel on a server."""
    with server({"/chan": b"", "/chan/nixexprs.tar.xz": tarball([("c", None), ("c/default.nix", b"{ }: 42")])}) as s:
        env = {"NIX_PATH": ""}
        daemon.run("nix-channel", "--add", f"{s.url}/chan", "mine", env=env)
        r = daemon.run("nix-channel", "--update", env=env)
        assert "unpacking" in r.stderr + r.stdout
        v = daemon.run("nix-instantiate", "--eval", "-E", f"import ({daemon.state}/profiles/per-user/{ALICE}/channels + \"/mine\") {{ }}", env=env)
        assert v.stdout.strip() == "42"
