"""A machine that others build on: stock clients send it derivations with BuildDerivation, over ssh-ng:// (our
--stdio) and ssh:// (their own nix-store --serve, which talks to our socket).

The client starts the remote program itself when the host is called localhost, so no sshd takes part."""
import os
import re

import pytest

from conftest import PRELUDE


@pytest.fixture(params=["ssh-ng", "ssh"])
def remote(request, make_daemon):
    """A daemon, and the address under which root builds on it."""
    d = make_daemon(conf="system-features = far\n")
    run = {"ssh-ng": f"{d.bin}/airplantd --stdio", "ssh": "/usr/bin/nix-store --serve --write"}[request.param]
    p = d.base / "far-end"
    vars = "\n".join(f"export {k}='{v}'" for k, v in d.env().items() if k.startswith("NIX_"))
    p.write_text(f"#!/bin/sh\n{vars}\nexec {run}\n")
    p.chmod(0o755)
    d.uri = f"{request.param}://localhost?remote-program={p}"
    return d


@pytest.fixture
def near(remote):
    """A local store of the stock nix, with the same store directory behind another root: only the far one builds."""
    root = remote.base / "near"
    for name in ("store", "state", "log", "etc"):
        (root / name).mkdir(parents=True)
    (root / "etc/nix.conf").write_text(
        "experimental-features = nix-command\nsubstituters =\nmax-jobs = 0\nsandbox = false\nbuild-users-group =\n"
        "require-sigs = false\n"
        f"builders = {remote.uri} x86_64-linux - 2 1 far - -\n")
    env = {"NIX_STORE_DIR": str(remote.store), "NIX_STATE_DIR": str(root / "state"), "NIX_LOG_DIR": str(root / "log"),
           "NIX_CONF_DIR": str(root / "etc"), "NIX_REMOTE": f"local?root={root}&store={remote.store}&state={root}/state&log={root}/log"}

    def build(expr, check=True):
        return remote.run("nix-build", "--no-out-link", "-E", PRELUDE + expr, user="root", check=check, env=env)
    build.root = root
    build.read = lambda out: (root / "nix/store" / os.path.basename(out)).read_text()
    return build


CHAIN = """
let low = shWith { name = "low"; requiredSystemFeatures = [ "far" ]; } "echo from the far end; echo low > $out";
    src = builtins.toFile "source" "sourced\\n";
in shWith { name = "high"; requiredSystemFeatures = [ "far" ]; } "read a < ${low}; read b < ${src}; echo $a $b > $out"
"""


def test_chain(remote, near):
    """Two builds, each sent to the far end with its inputs copied there before; outputs are copied back."""
    r = near(CHAIN)
    out = r.stdout.strip()
    assert near.read(out) == "low sourced\n"
    assert "from the far end" in r.stderr
    assert (remote.store / os.path.basename(out)).read_text() == "low sourced\n", "it was built there"
    assert remote.run("nix-store", "--check-validity", out).returncode == 0
    assert remote.daemon_log.read_text().count(": built as uid") == 2
    # The derivation itself was never copied.
    assert not list(remote.store.glob("*-high.drv"))
    assert remote.run("nix-store", "-q", "--deriver", out).stdout.strip().endswith("-high.drv")


def test_failure(remote, near):
    r = near('shWith { name = "bad"; requiredSystemFeatures = [ "far" ]; } "echo said before; exit 3"', check=False)
    assert r.returncode == 100 or r.returncode == 1
    assert "said before" in r.stderr and "failed with exit code 3" in r.stderr


def test_fixed_output(remote, near):
    r = near('shWith { name = "fixed"; requiredSystemFeatures = [ "far" ]; outputHashMode = "flat"; outputHashAlgo = "sha256";'
             ' outputHash = builtins.hashString "sha256" "fix"; } "printf fix > $out"')
    assert near.read(r.stdout.strip()) == "fix"


def test_built_already(remote, near):
    """The second client has an empty store: the far end has the output, and says so without building."""
    near(CHAIN)
    remote.run("rm", "-rf", near.root / "state", near.root / "nix", user="root")
    (near.root / "state").mkdir()
    out = near(CHAIN).stdout.strip()
    assert near.read(out) == "low sourced\n"
    assert remote.daemon_log.read_text().count(": built as uid") == 2


def test_copy_and_query(remote):
    """nix copy and nix path-info to and from the far end."""
    out = remote.nix_build('sh "one" "echo one > $out"').stdout.strip()
    info = remote.run("nix", "path-info", "--store", remote.uri, "-s", out, env={"NIX_REMOTE": ""}, user="root")
    assert re.search(re.escape(out) + r"\s+\d+", info.stdout)
