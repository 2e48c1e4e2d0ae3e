"""nix-store --verify: what the database says against what lies in the store."""
import os
import shutil
import subprocess

import pytest

from conftest import ALICE


@pytest.fixture
def daemon(make_daemon):
    return make_daemon()


def build(daemon, expr):
    return daemon.nix_build(expr).stdout.strip()


def vandalise(path, data):
    os.chmod(path, 0o644)
    with open(path, "w") as f:
        f.write(data)
    os.chmod(path, 0o444)


def verify(daemon, *args, user="root", ok=True):
    r = daemon.run("nix-store", "--verify", *args, user=user, check=False)
    assert (r.returncode == 0) == ok, r.stderr
    return r.stderr


def test_sound_store(daemon):
    build(daemon, 'sh "sound" "mkdir $out; echo a > $out/a; ln -s a $out/b; echo x > $out/x"')
    said = verify(daemon, "--check-contents", user=ALICE)
    assert "reading the Nix store..." in said and "checking store hashes..." in said


def test_changed_contents(daemon):
    good = build(daemon, 'sh "good" "echo good > $out"')
    out = build(daemon, 'sh "bad" "echo fine > $out"')
    vandalise(out, "worse\n")
    assert "modified" not in verify(daemon)
    said = verify(daemon, "--check-contents", ok=False)
    assert f"path '{out}' was modified! expected hash 'sha256:" in said and good not in said
    h = subprocess.run(["nix-hash", "--type", "sha256", "--base32", out], capture_output=True, text=True).stdout.strip()
    assert f"got 'sha256:{h}'" in said


def test_files_that_are_gone(daemon):
    """A row goes when nothing refers to it any more; a referrer that is there keeps it."""
    expr = """let a = sh "a" "echo > $out"; b = shWith { name = "b"; inherit a; } "echo $a > $out"; in [ a b ]"""
    a, b = build(daemon, expr).split()
    os.unlink(a)
    said = verify(daemon, ok=False)
    assert f"path '{a}' disappeared, but it still has valid referrers!" in said
    os.unlink(b)
    said = verify(daemon)
    assert f"path '{a}' disappeared, removing from database..." in said
    assert said.index(f"path '{b}' disappeared") < said.index(f"path '{a}' disappeared")
    for p in (a, b):
        assert daemon.run("nix-store", "--check-validity", p, check=False).returncode != 0
    assert build(daemon, expr).split() == [a, b] and os.path.exists(a), "and it is built again"


def test_same_words_as_stock(daemon, tmp_path):
    """The stock client on a store of its own, harmed in the same way."""
    own = tmp_path / "own"
    env = {"NIX_STORE_DIR": str(own / "store"), "NIX_STATE_DIR": str(own / "state"), "NIX_LOG_DIR": str(own / "log"),
           "NIX_CONF_DIR": str(daemon.etc), "HOME": str(own), "PATH": "/usr/bin:/bin", "NIX_REMOTE": ""}
    (own / "store").mkdir(parents=True)
    p = own / "plain"
    p.write_text("text")

    def harm(add, say, store):
        path = add("nix-store", "--add", str(p)).stdout.strip()
        gone = add("nix-store", "--add-fixed", "sha256", str(p)).stdout.strip()
        vandalise(path, "other")
        os.unlink(gone)
        return say("nix-store", "--verify", "--check-contents").stderr.replace(str(store), "STORE")

    def stock(*argv):
        return subprocess.run(argv, env=env, capture_output=True, text=True)
    def ours(*argv):
        return daemon.run(*argv, user="root", check=False)
    os.chmod(own, 0o755)
    theirs = harm(stock, stock, own / "store")
    mine = harm(ours, ours, daemon.store)
    strip = lambda t: sorted(l.split("STORE/")[0] + l.split("-plain")[-1] for l in t.splitlines() if "link" not in l
                             and l != "checking path existence..."  # 2.8 says that, newer ones do not
                             and not l.startswith("warning: the group"))  # of a client that opens a store as root
    assert strip(theirs) == strip(mine)


def test_repair_is_for_trusted_clients(daemon):
    assert "you are not privileged to repair paths" in verify(daemon, "--repair", user=ALICE, ok=False)


def test_nobody_talks_a_valid_path_away(daemon):
    """The session's word that a path is gone is looked at by the daemon: the files decide (see forget_gone)."""
    out = build(daemon, 'sh "kept" "echo > $out"')
    moved = daemon.base / "aside"
    os.rename(out, moved)
    os.symlink("/nonexistent", out)  # something is there
    said = verify(daemon)
    assert "disappeared" not in said
    os.unlink(out)
    shutil.move(moved, out)
    assert daemon.run("nix-store", "--check-validity", out).returncode == 0
