"""The stock daemon and Airplant take turns on one store; `airplant switch` hands it over, both ways."""
import grp
import os
import pwd
import shutil
import signal
import sqlite3
import stat
import subprocess
import time

import pytest

import conftest
from conftest import ALICE, PRELUDE, wait_for
from test_store import rows

# Users of this run's own, with ids that nobody has, also not in a container: the command refuses while any process of the
# daemon's user or of a build user runs.
USER, GROUP, BUILDER = (f"airplant-{name}{os.getpid()}" for name in ("sw", "bg", "bu"))
FIRST_ID = 20000 + os.getpid() % 10000 * 3
CONF = "trusted-users = root\nkeep-derivations = false\n"


@pytest.fixture(scope="module")
def builders(users):
    run = lambda *argv: subprocess.run(list(map(str, argv)), check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    run("groupadd", "-g", FIRST_ID, GROUP)
    try:
        for i, name in enumerate((USER, BUILDER), 1):
            run("groupadd", "-g", FIRST_ID + i, name)
            run("useradd", "-u", FIRST_ID + i, "-g", name, "--no-create-home", "--shell", "/usr/sbin/nologin", name)
        run("usermod", "-a", "-G", GROUP, BUILDER)
        yield grp.getgrnam(GROUP).gr_gid
    finally:
        for name in (USER, BUILDER):
            subprocess.run(["userdel", name], stderr=subprocess.DEVNULL)
        subprocess.run(["groupdel", GROUP], stderr=subprocess.DEVNULL)


class Turns:
    def __init__(self, d):
        self.d, self.stock = d, None
        self.env = d.env() | {"NIX_REMOTE": ""}
        self.uid = pwd.getpwnam(USER).pw_uid

    def switch(self, to, *args, check=True, env=None):
        r = subprocess.run([str(self.d.bin / "airplant"), "switch", "--to", to, "--user", USER, *args],
                           env=self.env | (env or {}), capture_output=True, text=True)
        assert not check or r.returncode == 0, r.stdout + r.stderr
        return r

    def start_stock(self):
        with open(self.d.daemon_log, "ab") as out:
            self.stock = subprocess.Popen(["nix-daemon"], env=self.env, stdout=out, stderr=out, start_new_session=True)
        wait_for(self.d.answers, self.d.daemon_log, self.stock)

    def stop(self):
        if self.stock:
            self.stock.terminate()
            self.stock.wait()
            self.stock = None
        self.d.stop()
        self.d.socket.unlink(missing_ok=True)

    def start(self, who):
        if who == "stock":
            self.start_stock()
        else:
            self.d.start_roots()
            self.d.start()

    def to(self, who):
        """The way an administrator goes: stop the one, hand over, start the other."""
        self.stop()
        self.switch(who)
        self.start(who)

    def stock_run(self, *argv, check=True):
        """Root's own tools, without any daemon."""
        r = subprocess.run(argv, env=self.env, capture_output=True, text=True, timeout=60)
        assert not check or r.returncode == 0, r.stderr
        return r


@pytest.fixture
def turns(make_daemon, builders):
    # Stock Nix 2.34 does not build below a directory that all may write to.
    d = make_daemon("broker", start=False, user=USER, where="/var/lib")
    d.roots_setting = "tracer"
    d.write_conf(CONF + f"build-users-group = {GROUP}\n")
    t = Turns(d)
    yield t
    t.stop()


def owners(top):
    return {os.lstat(os.path.join(base, n)).st_uid for base, dirs, files in os.walk(top) for n in dirs + files}


def expression(n):
    """Something new in each turn, which refers to what the turn before has built."""
    chain = "".join(f' p{i} = sh "p{i}" "mkdir $out; echo ${{p{i - 1}}} > $out/dep{i}; echo same > $out/same{i}"; '
                    for i in range(1, n + 1))
    return f'let p0 = sh "p0" "mkdir $out"; {chain} in p{n}'


def work(t, n):
    """What clients do in a turn. Says what is to be there afterwards."""
    d = t.d
    link = d.homes[ALICE] / f"result{n % 2}"
    out = d.run("nix-build", "--out-link", link, "-E", PRELUDE + expression(n), user=ALICE).stdout.strip()
    source = d.homes[ALICE] / f"source{n}"
    source.mkdir()
    (source / "file").write_text("same\n")
    (source / "other").write_text(f"{n}\n")
    subprocess.run(["chown", "-R", ALICE, str(source)], check=True)
    added = d.run("nix-store", "--add", source, user=ALICE).stdout.strip()
    d.run("nix-env", "-i", out, user=ALICE)
    d.run("nix-store", "--optimise", user="root")
    d.run("nix-store", "--gc", user="root")
    assert not os.path.exists(added), "nobody needs it"
    assert out in d.run("nix-store", "-q", "--roots", out, user=ALICE).stdout or os.path.exists(out)
    d.run("nix-store", "--verify", "--check-contents", user="root")
    return out


def database(t):
    with sqlite3.connect(f"file:{t.d.state}/db/db.sqlite?mode=ro", uri=True) as c:
        assert c.execute("pragma integrity_check").fetchall() == [("ok",)]
        assert c.execute("pragma foreign_key_check").fetchall() == []
    r = rows(t.d.state / "db/db.sqlite")
    for path, *_ in r["paths"]:
        assert os.path.lexists(path)
    return {k: r[k] for k in ("paths", "refs", "outputs")}


def check_owner(t, who, group):
    d = t.d
    st = os.stat(d.store)
    assert stat.S_IMODE(st.st_mode) == 0o1775
    assert (st.st_uid, st.st_gid) == ((0, group) if who == "stock" else (t.uid, pwd.getpwuid(t.uid).pw_gid))
    assert owners(d.store) == {0 if who == "stock" else t.uid}
    assert owners(d.state / "db") == {0 if who == "stock" else t.uid}
    assert stat.S_IMODE(os.stat(d.state / "db").st_mode) == (0o755 if who == "stock" else 0o700)


def test_turns(turns, builders):
    t = turns
    (t.d.store).mkdir(exist_ok=True)
    seen = []
    os.chown(t.d.store, 0, builders)
    t.start("stock")
    for n, who in enumerate(["stock", "airplant"] * 3, 1):
        if n > 1:
            t.to(who)
        out = work(t, n)
        seen.append(out)
        # Root's tools beside whoever serves: they read the same store.
        if who == "stock":
            assert t.stock_run("nix-store", "-q", "--hash", out).stdout.startswith("sha256:")
        t.stop()
        database(t)
        check_owner(t, who, builders)
    # The last one's, and those that profiles and the other link keep.
    assert all(os.path.exists(p) for p in seen)
    ended = database(t)
    # The same by the stock daemon alone.
    for top in (t.d.store, t.d.state, t.d.log):
        subprocess.run(["chmod", "-R", "u+w", str(top)], check=True)
        shutil.rmtree(top)
        top.mkdir(parents=True)
    for p in t.d.homes[ALICE].iterdir():
        shutil.rmtree(p) if p.is_dir() and not p.is_symlink() else p.unlink()
    t.start("stock")
    for n in range(1, 7):
        work(t, n)
    t.stop()
    assert database(t) == ended


def fill(t, n_paths=30, n_files=20):
    """A stock store, made by hand: valid paths do not matter here."""
    d = t.d
    t.stock_run("nix-store", "--verify")  # makes the database
    for i in range(n_paths):
        p = d.store / f"{i:032d}-x"
        (p / "a/b").mkdir(parents=True)
        for k in range(n_files):
            (p / "a" / f"f{k}").write_text(f"{i} {k}")
            (p / "a" / f"f{k}").chmod(0o444)
        (p / "link").symlink_to("/etc/passwd")
        (p / "a").chmod(0o555)
        p.chmod(0o555)


def test_dry_run_changes_nothing(turns, builders):
    t = turns
    os.chown(t.d.store, 0, builders)
    fill(t)
    before = {p: os.lstat(p)[:6] for p in map(str, t.d.base.rglob("*")) if p != str(t.d.daemon_log)}
    r = t.switch("airplant", "--dry-run")
    assert "would change" in r.stdout
    assert {p: os.lstat(p)[:6] for p in map(str, t.d.base.rglob("*")) if p != str(t.d.daemon_log)} == before
    t.switch("airplant")
    assert owners(t.d.store) == {t.uid}
    assert " 0 have a new owner" in t.switch("airplant").stdout
    t.switch("stock")
    assert owners(t.d.store) == {0}
    assert os.lstat("/etc/passwd").st_uid == 0


def test_nothing_outside_is_given_away(turns):
    """Links to root's files, a directory that is one, a mount: what they lead to stays root's."""
    t = turns
    fill(t, 3, 3)
    victim = t.d.base / "victim"
    victim.mkdir()
    (victim / "secret").write_text("")
    os.link(victim / "secret", t.d.store / ("9" * 32 + "-hard"))
    os.symlink(victim, t.d.store / ("8" * 32 + "-soft"))
    os.symlink(victim, t.d.store / ("0" * 31 + "1-x") / "down")
    os.rename(t.d.state / "gcroots", t.d.state / "gcroots.real")
    os.symlink(victim, t.d.state / "gcroots")
    mounted = t.d.store / ("7" * 32 + "-mount")
    mounted.mkdir()
    subprocess.run(["mount", "--bind", str(victim), str(mounted)], check=True)
    try:
        r = t.switch("airplant", check=False)
        assert r.returncode != 0 and "gcroots" in r.stderr
        (t.d.state / "gcroots").unlink()
        os.rename(t.d.state / "gcroots.real", t.d.state / "gcroots")
        r = t.switch("airplant")
        assert "files with several names stay root's" in r.stdout
    finally:
        subprocess.run(["umount", str(mounted)], check=True)
    assert os.stat(victim).st_uid == 0 and os.stat(victim / "secret").st_uid == 0
    assert os.lstat(t.d.store / ("8" * 32 + "-soft")).st_uid == t.uid
    # On the way back only what is Airplant's own changes.
    bobs = t.d.base / "bobs"
    bobs.write_text("")
    os.chown(bobs, pwd.getpwnam(conftest.BOB).pw_uid, -1)
    os.link(bobs, t.d.store / ("6" * 32 + "-bobs"))
    t.switch("stock")
    assert os.stat(bobs).st_uid == pwd.getpwnam(conftest.BOB).pw_uid


def test_refused_while_somebody_uses_it(turns, builders):
    t = turns
    os.chown(t.d.store, 0, builders)
    t.start("stock")
    for to in ("airplant", "stock"):
        r = t.switch(to, check=False)
        assert r.returncode != 0 and "listens at" in r.stderr
    t.stop()
    # A command of root's that has the store open, and no daemon.
    fifo = t.d.base / "fifo"
    os.mkfifo(fifo)
    p = subprocess.Popen(["nix-store", "--import"], env=t.env, stdin=subprocess.PIPE)
    wait_for(lambda: "big-lock" in str([os.readlink(f"/proc/{p.pid}/fd/{fd}") for fd in os.listdir(f"/proc/{p.pid}/fd")]),
             t.d.daemon_log, p)
    r = t.switch("airplant", check=False)
    assert r.returncode != 0 and "the store is in use" in r.stderr
    p.communicate(b"\0" * 8)
    sleeper = subprocess.Popen(["setpriv", "--reuid", BUILDER, "--clear-groups", "--regid", GROUP, "sleep", "60"])
    try:
        wait_for(lambda: os.stat(f"/proc/{sleeper.pid}").st_uid != 0, t.d.daemon_log, sleeper)
        r = t.switch("airplant", check=False)
        assert r.returncode != 0 and "a build is not over" in r.stderr
    finally:
        sleeper.kill()
        sleeper.wait()
    t.switch("airplant")
    t.start("airplant")
    r = t.switch("stock", check=False)
    assert r.returncode != 0 and ("listens at" in r.stderr or "the store is in use" in r.stderr)
    t.stop()
    t.switch("stock")
    # Airplant does not start with what is not its own, and says what to do.
    with pytest.raises(AssertionError, match="airplant switch --to airplant"):
        t.d.start()


@pytest.mark.parametrize("to", ["airplant", "stock"])
def test_killed_half_way(turns, builders, to):
    """Wherever it is killed, stock Nix can use the store; done again, it is whole."""
    t = turns
    os.chown(t.d.store, 0, builders)
    fill(t, 300, 10)
    if to == "stock":
        t.switch("airplant")
    argv = [str(t.d.bin / "airplant"), "switch", "--to", to, "--user", USER]
    old = 0 if to == "airplant" else t.uid
    sample = [t.d.store / f"{i:032d}-x" / "a/b" for i in range(0, 300, 5)]
    left = lambda: sum(os.lstat(p).st_uid == old for p in sample)
    partial = 0
    for goal in (50, 35, 20, 5):
        p = subprocess.Popen(argv, env=t.env, stdout=subprocess.DEVNULL, start_new_session=True)
        while left() > goal and p.poll() is None:
            pass
        if p.returncode is None:
            os.killpg(p.pid, signal.SIGKILL)
        p.wait()
        if len(owners(t.d.store)) > 1:
            partial += 1
            assert os.stat(t.d.store).st_uid == 0, "who owns it has the store: stock, until it is done or from the beginning"
        if to == "airplant":
            source = t.d.base / f"source{goal}"
            source.write_text(str(goal))
            t.stock_run("nix-store", "--add", str(source))
    assert partial, "never in the middle"
    time.sleep(0.1)  # its workers die as well
    t.switch(to)
    assert owners(t.d.store) == {t.uid if to == "airplant" else 0}
    t.start(to)
    assert t.d.nix_build('sh "x" "echo > $out"').returncode == 0
