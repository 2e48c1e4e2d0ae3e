"""A machine that runs Airplant as the far end of ssh-ng: real clients through `airplantd --stdio`.

The clients start the remote program themselves when the host is called localhost, so no sshd takes part."""
import pytest

from conftest import ALICE

URI = "ssh-ng://localhost?remote-program={}"


@pytest.fixture
def daemon(make_daemon):
    return make_daemon()


@pytest.fixture
def uri(daemon):
    """The client splits the program's words itself in some versions and not in others: one word."""
    p = daemon.base / "far-end"
    lines = "\n".join(f"export {k}='{v}'" for k, v in daemon.env(ALICE).items() if k.startswith("NIX_") and k != "NIX_REMOTE")
    p.write_text(f"#!/bin/sh\n{lines}\nexec {daemon.bin}/airplantd --stdio\n")
    p.chmod(0o755)
    return URI.format(p)


def test_ping_and_queries(daemon, uri):
    out = daemon.nix_build('sh "far" "echo here > $out"').stdout.strip()
    r = daemon.run("nix", "store", "ping", "--store", uri, env={"NIX_REMOTE": ""})
    assert "ssh-ng://" in r.stderr + r.stdout  # 2.26 leaves the host out
    r = daemon.run("nix", "path-info", "--store", uri, "-s", out, env={"NIX_REMOTE": ""})
    assert out in r.stdout


def test_copy_there(daemon, uri):
    p = daemon.base / "plain"
    p.write_text("carried")
    path = daemon.run("nix", "store", "add-file", "--store", uri, str(p), env={"NIX_REMOTE": ""}).stdout.strip()
    assert daemon.run("cat", path).stdout == "carried"


def test_build_there(daemon, uri):
    r = daemon.run("nix", "build", "--impure", "--no-link", "--json", "--store", uri, "--expr",
                   'derivation { name = "there"; system = "x86_64-linux"; builder = "/bin/sh"; args = ["-c" "echo built > $out"]; }',
                   env={"NIX_REMOTE": ""})
    assert "there" in r.stdout
    path = r.stdout.split('"out":"')[1].split('"')[0]
    assert daemon.run("cat", path).stdout == "built\n"


def test_the_caller_stays_who_they_are(daemon, uri):
    """Alice is not trusted on the far side: what she asks for beyond that is refused there."""
    out = daemon.nix_build('sh "mine" "echo mine > $out"').stdout.strip()
    r = daemon.run("nix-store", "--store", uri, "--delete", "--ignore-liveness", out, env={"NIX_REMOTE": ""}, check=False)
    assert r.returncode != 0 and daemon.run("cat", out).stdout == "mine\n"


def test_the_daemon_is_away(daemon, uri):
    daemon.stop()
    r = daemon.run(f"{daemon.bin}/airplantd", "--stdio", check=False)
    assert r.returncode == 1
    assert f"cannot connect to the daemon at '{daemon.socket}'" in r.stderr


def test_end_of_input_ends_it(daemon):
    """Nothing said, nothing left behind."""
    r = daemon.run(f"{daemon.bin}/airplantd", "--stdio", input="", timeout=10)
    assert r.returncode == 0 and r.stdout == ""
