"""Equal files share an inode: nix-store --optimise and auto-optimise-store."""
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import pytest

from conftest import ALICE, wait_for

sys.path.append(str(pathlib.Path(__file__).parents[1] / "boundary"))
from worker import Worker, nar, source_ca, source_path  # noqa: E402


@pytest.fixture
def daemon(make_daemon):
    return make_daemon()


def build(daemon, expr, **kw):
    return pathlib.Path(daemon.nix_build(expr, **kw).stdout.strip())


def tree(name, extra=""):
    return f'''sh "{name}" "mkdir -p $out/d; echo hello > $out/a; echo hello > $out/d/b; echo hello > $out/x; chmod +x $out/x; : > $out/empty; : > $out/empty2; ln -s target $out/l; ln -s target $out/d/l; {extra}"'''


def ino(p):
    return os.lstat(p).st_ino


def facts(top):
    """What a NAR or a person could tell: kinds, modes, times, contents."""
    found = {}
    for d, dirs, files in os.walk(top):
        for n in [""] + dirs + files:
            p = os.path.join(d, n)
            st = os.lstat(p)
            found[os.path.relpath(p, top)] = (st.st_mode, st.st_mtime, os.readlink(p) if os.path.islink(p) else
                                              open(p).read() if os.path.isfile(p) else None)
    return found


def verified(daemon):
    r = daemon.run("nix-store", "--verify", "--check-contents", user="root", check=False)
    assert r.returncode == 0, r.stderr


def test_optimise(daemon):
    one, two = build(daemon, tree("one")), build(daemon, tree("two"))
    before = facts(one), facts(two)
    r = daemon.run("nix-store", "--optimise", "-v")
    assert "freed by hard-linking" in r.stderr
    assert ino(one / "a") == ino(one / "d/b") == ino(two / "a") == ino(two / "d/b")
    assert ino(one / "x") == ino(two / "x") != ino(one / "a"), "the executable bit is part of the contents"
    assert ino(one / "l") == ino(two / "d/l") and ino(one / "empty") == ino(two / "empty2")
    assert (facts(one), facts(two)) == before
    links = daemon.store / ".links"
    for p in links.iterdir():
        h = subprocess.run(["nix-hash", "--type", "sha256", "--base32", p], capture_output=True, text=True).stdout.strip()
        assert p.name == h
    assert sorted(ino(p) for p in links.iterdir()) == sorted({ino(one / n) for n in ("a", "x", "l", "empty")} | {
        ino(p) for p in links.iterdir() if os.lstat(p).st_nlink == 2})
    again = daemon.run("nix-store", "--optimise", "-v").stderr
    assert "0.0 KiB freed by hard-linking 0 files" in again
    verified(daemon)


def test_same_links_as_stock(daemon, tmp_path):
    """The stock client optimises a copy of the store: the same names in .links, the same inodes shared."""
    one = build(daemon, tree("one"))
    two = build(daemon, tree("two", "echo other > $out/other"))
    own = tmp_path / "own"
    own.mkdir()
    os.chmod(tmp_path, 0o755)
    env = {"PATH": "/usr/bin:/bin", "HOME": str(own), "NIX_STORE_DIR": str(daemon.store), "NIX_STATE_DIR": str(own / "state"),
           "NIX_LOG_DIR": str(own / "log"), "NIX_CONF_DIR": str(daemon.etc), "NIX_REMOTE": ""}
    daemon.run("nix-store", "--optimise")
    ours = {p.name: os.lstat(p).st_nlink for p in (daemon.store / ".links").iterdir()}
    # The stock one says where a file belongs: nothing is left for it to do.
    daemon.stop()
    subprocess.run(["cp", "-a", daemon.state, own / "state"], check=True)
    r = subprocess.run(["nix-store", "--optimise", "-v"], env=env, capture_output=True, text=True)
    assert "hard-linking 0 files" in r.stderr, r.stderr
    assert {p.name: os.lstat(p).st_nlink for p in (daemon.store / ".links").iterdir()} == ours
    assert one.exists() and two.exists()


def test_collection_empties_links(daemon):
    build(daemon, tree("one"))
    build(daemon, tree("two"))
    daemon.run("nix-store", "--optimise")
    assert list((daemon.store / ".links").iterdir())
    daemon.run("nix-store", "--gc", user="root")
    assert not list((daemon.store / ".links").iterdir())


def test_auto_for_builds(make_daemon):
    """Whoever asks for a build finds its files shared already."""
    daemon = make_daemon(conf="auto-optimise-store = true\n")
    one, two = build(daemon, tree("one")), build(daemon, tree("two"))
    assert ino(one / "a") == ino(two / "a") and os.lstat(one / "a").st_nlink == 5
    verified(daemon)


def test_auto_is_a_restricted_setting(daemon):
    one = build(daemon, tree("one"), args=["--option", "auto-optimise-store", "true"], user="root")
    two = build(daemon, tree("two"), args=["--option", "auto-optimise-store", "true"], user=ALICE)
    assert os.lstat(one / "a").st_nlink == 3 and os.lstat(two / "a").st_nlink == 1


def test_auto_for_additions(make_daemon):
    daemon = make_daemon(conf="auto-optimise-store = true\n")
    paths = []
    for i in range(3):
        p = daemon.base / f"src{i}"
        p.mkdir()
        (p / "same").write_text("the same")
        (p / "own").write_text(str(i))
        paths.append(pathlib.Path(daemon.run("nix-store", "--add", p).stdout.strip()))
    wait_for(lambda: len({ino(p / "same") for p in paths}) == 1, daemon.daemon_log, seconds=10)
    verified(daemon)


def test_nobody_waits(daemon):
    """A large store is optimised while others build; the one who asked may leave."""
    build(daemon, 'sh "many" "mkdir $out; i=0; while [ $i -lt 3000 ]; do echo $((i % 100)) > $out/$i; i=$((i + 1)); done"')
    p = daemon.popen("nix-store", "--optimise")
    t = time.monotonic()
    build(daemon, 'sh "meanwhile" "echo > $out"')
    assert time.monotonic() - t < 5
    p.kill()
    p.wait()
    daemon.run("nix-store", "--optimise")
    verified(daemon)


def test_strange_things_stay(daemon):
    """A corrupted link gives way, a writable file is left alone."""
    one = build(daemon, tree("one"))
    daemon.run("nix-store", "--optimise")
    [link] = [p for p in (daemon.store / ".links").iterdir() if ino(p) == ino(one / "a")]
    fresh = daemon.store / ".links/fresh"
    fresh.write_text("something of another length")
    os.rename(fresh, link)
    two = build(daemon, tree("two"))
    r = daemon.run("nix-store", "--optimise")
    assert "removing corrupted link" in r.stderr
    assert (two / "a").read_text() == "hello\n"
    three = build(daemon, tree("three"))
    os.chmod(three / "x", 0o755)
    assert "skipping suspicious writable file" in daemon.run("nix-store", "--optimise").stderr
    assert ino(three / "x") != ino(two / "x")
    os.chmod(three / "x", 0o555)
    verified(daemon)


def test_killed_in_the_middle(daemon):
    for i in range(3):
        build(daemon, f'sh "n{i}" "mkdir $out; i=0; while [ $i -lt 2000 ]; do echo $((i % 50)) > $out/$i; i=$((i + 1)); done"')
    p = daemon.popen("nix-store", "--optimise")
    time.sleep(0.05)
    daemon.core.kill()
    daemon.core.wait()
    p.wait()
    daemon.stop()
    daemon.start()
    verified(daemon)
    daemon.run("nix-store", "--optimise")
    verified(daemon)
    assert not [n for n in os.listdir(daemon.store) if n.startswith(".tmp")]


def core_children(daemon):
    """Children that are the core's own image: what it has done beside it."""
    line = open(f"/proc/{daemon.core.pid}/cmdline").read()
    found = []
    for p in open(f"/proc/{daemon.core.pid}/task/{daemon.core.pid}/children").read().split():
        try:
            if open(f"/proc/{p}/cmdline").read() == line and open(f"/proc/{p}/comm").read().strip() == "airplantd":
                found.append(int(p))
        except OSError:
            pass
    return found


def memory(pid):
    return int(re.search(r"^RssAnon:\s+(\d+) kB", open(f"/proc/{pid}/status").read(), re.M)[1])


def test_wishes_that_nobody_waits_for(daemon):
    """Who asks and leaves, again and again, leaves nothing behind in the core."""
    with Worker(daemon.socket) as w:
        w.add_multiple([(source_path(daemon.store, f"file-{i}", nar(b"%d" % i)), nar(b"%d" % i), {"ca": source_ca(nar(b"%d" % i))})
                        for i in range(4000)])
    stopped = []
    with Worker(daemon.socket) as first:
        first.send(34)
        while not stopped:
            for p in core_children(daemon):
                os.kill(p, signal.SIGSTOP)
                stopped.append(p)
        before = memory(daemon.core.pid)
        for i in range(100):
            with Worker(daemon.socket) as w:
                w.send(34)
                assert w.u64() in (0x53545254, 0x6f6c6d67)  # it is asked for
        time.sleep(0.2)
        grown = memory(daemon.core.pid) - before
        for p in stopped:
            os.kill(p, signal.SIGCONT)
        assert grown < 8000, f"{grown} kB more"
        first.finish()
    daemon.run("nix-store", "--optimise", timeout=20)
