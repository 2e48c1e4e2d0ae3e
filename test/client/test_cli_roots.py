"""`airplant roots`: why a path stays."""
import os
import pathlib
import pwd
import sys

from conftest import ALICE, BOB

sys.path.append(str(pathlib.Path(__file__).parents[1] / "boundary"))
from worker import Worker  # noqa: E402


def roots(daemon, *args, user=ALICE, **kw):
    return daemon.run(daemon.bin / "airplant", "roots", *args, user=user, check=False, **kw)


def lines(text):
    return [line.strip() for line in text.splitlines()]


def test_the_chain(make_daemon):
    daemon = make_daemon("single")
    with Worker(daemon.socket) as w:
        low = w.add_text("low", b"low")
        middle = w.add_text("middle", low.encode(), [low])
        top = w.add_text("top", middle.encode(), [middle])
        other = w.add_text("other", b"other")
        # A connection that is open holds what it added.
        r = roots(daemon, other, user="root")
        assert r.returncode == 0 and f"process {os.getpid()} (" in r.stdout or "for the time of its connection" in r.stdout, r.stdout
    link = daemon.state / "gcroots/link"
    os.symlink(top, link)
    os.lchown(link, pwd.getpwnam(BOB).pw_uid, -1)
    r = roots(daemon, low + "/some/file")
    assert r.returncode == 0, r.stderr
    assert lines(r.stdout) == [f"the link {link} of {BOB} leads to", f"{top}, which refers to",
                               f"{middle}, which refers to", low]
    r = roots(daemon, other)
    assert r.returncode == 1 and r.stdout == f"Nothing keeps {other} alive: no root leads to it.\n"
    # A result, and what is none.
    result = daemon.homes[ALICE] / "result"
    os.symlink(low, result)
    assert roots(daemon, result).stdout.splitlines()[-1].strip() == low
    for wrong, word in ((f"{daemon.store}/{'0' * 32}-x", "no valid path"), ("/etc/passwd", "not in the Nix store"),
                        ("/nothing", "No such file")):
        r = roots(daemon, wrong)
        assert r.returncode == 2 and word in r.stderr, r.stderr
    assert roots(daemon).returncode == 2
    assert daemon.run(daemon.bin / "airplant", check=False).returncode == 2
    daemon.stop()
    r = roots(daemon, low)
    assert r.returncode == 2 and "cannot connect to the daemon" in r.stderr


def test_the_same_as_what_a_collection_keeps(make_daemon):
    """What it says nothing keeps goes, and nothing else: with derivations and outputs, too."""
    for keep in ("", "keep-outputs = true\n", "keep-derivations = false\n"):
        daemon = make_daemon("single", keep)
        out = daemon.nix_build('let a = sh "a" "echo a > $out"; b = sh "b" "read x < ${a}; echo ${a} > $out"; in '
                               'sh "c" "read x < ${b}; echo > $out"').stdout.strip()
        b = next(p for p in daemon.store.iterdir() if p.name[32:] == "-b")
        os.symlink(b, daemon.state / "gcroots/b")
        assert pathlib.Path(out).exists()
        paths = [str(p) for p in daemon.store.iterdir() if p.name != ".links"]
        said = {p: roots(daemon, p).returncode for p in paths}
        assert set(said.values()) == {0, 1}, said
        daemon.run("nix-store", "--gc", user="root")
        assert {p for p in paths if os.path.exists(p)} == {p for p in paths if said[p] == 0}, keep


def test_other_users_roots_have_no_names(make_daemon):
    daemon = make_daemon("broker", start=False)
    daemon.roots_setting = "tracer"
    daemon.write_conf()
    daemon.start()
    daemon.start_roots()
    with Worker(daemon.socket) as w:
        path = w.add_text("x", b"x")
    link = daemon.homes[BOB] / "mine"
    daemon.run("nix-store", "-r", path, "--add-root", link, "--indirect", user=BOB)
    r = roots(daemon, path)
    assert r.returncode == 0 and str(link) not in r.stdout and "something of another user keeps" in r.stdout
    assert "are told to trusted users" in r.stdout
    assert f"the link {link} of {BOB} leads to" in roots(daemon, path, user=BOB).stdout
    assert f"the link {link} of {BOB} leads to" in roots(daemon, path, user="root").stdout
    for i in range(12):
        os.symlink(path, daemon.state / f"gcroots/{i}")
    r = roots(daemon, path)
    assert "3 more (--all shows them)" in r.stdout, r.stdout
    assert "more" not in roots(daemon, "--all", path).stdout
