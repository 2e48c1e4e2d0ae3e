"""Repairing: paths that are not what they were are built again, and nothing else is."""
import os
import pathlib
import shutil

import pytest

from conftest import ALICE

TREE = ('let low = sh "low" "mkdir $out; echo low > $out/file"; '
        'in sh "top" "mkdir $out; ln -s ${low} $out/low; echo top > $out/file"')


def spoil(path):
    p = pathlib.Path(path)
    p.chmod(0o755)
    (p / "bad").write_text("bad")
    (p / "file").chmod(0o644)
    (p / "file").write_text("not what it was")


@pytest.fixture
def built(make_daemon):
    d = make_daemon("broker")
    top = d.nix_build(TREE, user="root").stdout.strip()
    return d, top, os.readlink(top + "/low")


def is_whole(d, path, word):
    assert (pathlib.Path(path) / "file").read_text() == word + "\n"
    assert not (pathlib.Path(path) / "bad").exists()
    assert oct(os.stat(path).st_mode & 0o7777) == "0o555" and os.stat(path).st_mtime == 1
    d.run("nix-store", "--verify-path", path, user="root", env={"NIX_REMOTE": "daemon"})


def test_build_repair_replaces_what_is_broken(built):
    d, top, low = built
    inode = os.stat(top).st_ino
    spoil(top)
    r = d.nix_build(TREE, user="root", args=["--repair"])
    assert "repairing outputs of" in r.stderr and r.stdout.strip() == top
    is_whole(d, top, "top")
    assert os.stat(top).st_ino != inode
    inode = os.stat(top).st_ino
    d.nix_build(TREE, user="root", args=["--repair"])  # whole: left alone
    assert os.stat(top).st_ino == inode


def test_build_repair_looks_below_the_outputs(built):
    d, top, low = built
    spoil(low)
    r = d.nix_build(TREE, user="root", args=["--repair"])
    assert f"found corrupted or missing path '{low}' in the output closure of" in r.stderr
    is_whole(d, low, "low")
    spoil(low)
    spoil(top)  # its input has to be whole before it is built again
    d.nix_build(TREE, user="root", args=["--repair"])
    is_whole(d, low, "low")
    is_whole(d, top, "top")
    shutil.rmtree(top)
    d.nix_build(TREE, user="root", args=["--repair"])
    is_whole(d, top, "top")


def test_what_cannot_be_built_cannot_be_repaired(built):
    d, top, low = built
    source = d.homes["root"] / "source"
    source.mkdir()
    (source / "file").write_text("source\n")
    user = 'sh "user" "mkdir $out; ln -s ${%s} $out/source"' % source
    out = d.nix_build(user, user="root").stdout.strip()
    path = os.readlink(out + "/source")
    spoil(path)
    r = d.run("nix-build", "--no-out-link", "--repair", d.run("nix-store", "-q", "--deriver", out).stdout.strip(),
              user="root", check=False)
    assert r.returncode != 0
    assert "some paths in the output closure of derivation" in r.stderr and "could not be repaired" in r.stderr, r.stderr


def test_verify_repairs(built):
    d, top, low = built
    spoil(low)
    assert d.run("nix-store", "--verify", "--check-contents", user="root", check=False).returncode == 1
    r = d.run("nix-store", "--verify", "--check-contents", "--repair", user="root")
    assert f"path '{low}' was modified!" in r.stderr
    is_whole(d, low, "low")
    shutil.rmtree(low)
    d.run("nix-store", "--verify", "--repair", user="root")
    is_whole(d, low, "low")
    source = d.homes["root"] / "source"
    source.mkdir()
    (source / "file").write_text("source\n")
    path = d.run("nix-store", "--add", source, user="root").stdout.strip()
    spoil(path)
    r = d.run("nix-store", "--verify", "--check-contents", "--repair", user="root", check=False)
    assert r.returncode == 1 and f"cannot repair path '{path}'" in r.stderr, r.stderr


def test_only_trusted_clients_repair(built):
    d, top, low = built
    spoil(low)
    r = d.nix_build(TREE, user=ALICE, args=["--repair"], check=False)
    assert r.returncode != 0 and "repairing is not allowed because you are not in 'trusted-users'" in r.stderr
    r = d.run("nix-store", "--verify", "--check-contents", "--repair", user=ALICE, check=False)
    assert r.returncode != 0 and "you are not privileged to repair paths" in r.stderr
    assert (pathlib.Path(low) / "bad").exists()


def test_adding_with_repair_replaces_contents(built):
    d, top, low = built
    f = d.homes["root"] / "plain"
    f.mkdir()
    (f / "file").write_text("plain\n")
    path = d.run("nix-store", "--add", f, user="root").stdout.strip()
    spoil(path)
    d.run("nix-instantiate", "--eval", "--repair", "--read-write-mode", "-E", f'"${{{f}}}"', user="root")
    is_whole(d, path, "plain")


# -- .links: a second name of each file, after its hash --------------------------------------------

@pytest.fixture
def linked(make_daemon):
    """Two outputs whose one file is the same inode, and a third name of it in .links; it is then changed in place."""
    d = make_daemon("single", "auto-optimise-store = true\n")
    expr = '[ (sh "a" "echo a; echo same > $out") (sh "b" "echo b; echo same > $out") ]'
    a, b = d.nix_build(expr, user="root").stdout.split()
    (link,) = [l for l in (d.store / ".links").iterdir() if l.stat().st_ino == os.stat(a).st_ino]
    assert os.stat(a).st_nlink == 3
    os.chmod(a, 0o644)
    with open(a, "r+") as f:
        f.write("evil")
    os.chmod(a, 0o444)
    os.utime(a, (1, 1))  # nothing but the contents tells
    return d, expr, a, b, link


def test_a_corrupt_link_does_not_come_back(linked):
    d, expr, a, b, link = linked
    r = d.nix_build(expr, user="root", args=["--repair"])
    assert [open(p).read() for p in (a, b, link)] == ["same\n"] * 3, r.stderr
    assert os.stat(a).st_ino == os.stat(b).st_ino == link.stat().st_ino
    d.run("nix-store", "--verify", "--check-contents", user="root")


def test_verify_removes_corrupt_links(linked):
    d, expr, a, b, link = linked
    r = d.run("nix-store", "--verify", "--check-contents", user="root", check=False)
    assert r.returncode == 1 and f'link "{link}" was modified! expected hash {link.name}, got \'' in r.stderr and link.exists()
    r = d.run("nix-store", "--verify", "--check-contents", "--repair", user="root")
    assert f'removed link "{link}"' in r.stderr
    assert [open(p).read() for p in (a, b, link)] == ["same\n"] * 3
    assert d.run("nix-store", "--verify", "--check-contents", user="root").returncode == 0
