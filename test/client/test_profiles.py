"""Profiles, generations, result links and channels belong to their users: two ordinary ones and root, at once, with the
tracer of roots. Nobody gets at another's, and nothing on the way complains."""
import os
import pathlib
import pwd
import re
import stat
import struct
import subprocess
import sys
import threading

import pytest

from conftest import ALICE, BOB, DAEMON, PRELUDE

COMPLAINTS = re.compile("ermission|warning|error", re.I)
VERSION = tuple(map(int, re.search(r"(\d+)\.(\d+)", subprocess.run(
    ["nix-store", "--version"], capture_output=True, text=True).stdout).groups()))
OWN_DIRECTORIES = VERSION >= (2, 14)  # clients that keep profiles in homes, and make all directories themselves


@pytest.fixture
def daemon(make_daemon):
    d = make_daemon("single", start=False)
    d.roots_setting = "tracer"
    d.write_conf()
    d.start()
    d.start_roots()
    return d


def step(daemon, user, *argv, **kw):
    """A command that works, without a word about permissions, a warning or an error."""
    r = daemon.run(*argv, user=user, **kw)
    assert not COMPLAINTS.search(r.stderr), f"{argv}: {r.stderr}"
    return r.stdout.strip()


def package(daemon, user, name, more=""):
    return step(daemon, user, "nix-build", "--no-out-link", "-E", PRELUDE +
                f'sh "{user}-{name}" "mkdir -p $out/bin; echo {user} {name} > $out/bin/{name}; {more}"')


def profile_of(daemon, user):
    """Where this client keeps the default profile of `user`."""
    if not OWN_DIRECTORIES:
        return daemon.state / "profiles" / ("default" if user == "root" else f"per-user/{user}/profile")
    if user == "root":
        return daemon.state / "profiles/per-user/root/profile"
    return daemon.homes[user] / ".local/state/nix/profiles/profile"


def at_once(job, users):
    failed = []

    def run(user):
        try:
            job(user)
        except BaseException as e:  # noqa: BLE001: shown by the caller's thread
            failed.append((user, e))

    threads = [threading.Thread(target=run, args=(u,)) for u in users]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    if failed:
        raise AssertionError(f"{failed[0][0]}: {failed[0][1]}") from failed[0][1]


STUCK = pathlib.Path(__file__).parents[1] / "boundary/stuck_fuse.py"
USERS = [ALICE, BOB, "root"]


def generations(daemon, user, *args):
    return [int(line.split()[0]) for line in step(daemon, user, "nix-env", *args, "--list-generations").splitlines()]


def installed(daemon, user):
    return sorted(os.listdir(daemon.homes[user] / ".nix-profile/bin"))


def go_through_generations(daemon, user):
    one, two = package(daemon, user, "one-1.0"), package(daemon, user, "two-1.0")
    step(daemon, user, "nix-env", "-i", one)
    link = daemon.homes[user] / ".nix-profile"
    assert os.readlink(link) == str(profile_of(daemon, user))
    assert os.path.realpath(link / "bin/one-1.0") == one + "/bin/one-1.0"
    step(daemon, user, "nix-env", "-i", two)
    assert installed(daemon, user) == ["one-1.0", "two-1.0"]
    assert sorted(step(daemon, user, "nix-env", "-q").split()) == [f"{user}-one-1.0", f"{user}-two-1.0"]
    step(daemon, user, "nix-env", "--rollback")
    assert installed(daemon, user) == ["one-1.0"]
    step(daemon, user, "nix-env", "--switch-generation", "2")
    step(daemon, user, "nix-env", "-e", f"{user}-one")
    assert installed(daemon, user) == ["two-1.0"] and generations(daemon, user) == [1, 2, 3]
    for name in os.listdir(profile_of(daemon, user).parent):
        if name.startswith("profile-"):
            assert os.lstat(profile_of(daemon, user).parent / name).st_uid == pwd.getpwnam(user).pw_uid
    step(daemon, user, "nix-env", "--delete-generations", "1")
    assert generations(daemon, user) == [2, 3]
    return one, two


def test_profiles_of_three_users_at_once(daemon):
    made = {}

    def job(user):
        made[user] = go_through_generations(daemon, user)

    at_once(job, USERS)
    step(daemon, "root", "nix-store", "--gc")
    for user in USERS:  # generation 2 has both
        assert all(os.path.exists(p) for p in made[user]), user
    # Each deletes what is his, while the others do the same, and build. (Up to 2.13 root's -d goes over the profiles of
    # all, and locks them meanwhile against their users.)
    delete = {ALICE: ["nix-collect-garbage", "-d"], BOB: ["nix-collect-garbage", "--delete-old"],
              "root": ["nix-env", "--delete-generations", "old"]}
    at_once(lambda user: (step(daemon, user, *delete[user]), package(daemon, user, "after-1.0")), USERS)
    step(daemon, "root", "nix-collect-garbage", "-d")
    step(daemon, ALICE, "nix-collect-garbage")
    for user in USERS:
        assert generations(daemon, user) == [3] and installed(daemon, user) == ["two-1.0"]
        assert not os.path.exists(made[user][0]) and os.path.exists(made[user][1]), user
    step(daemon, BOB, "nix-env", "-e", "*")
    step(daemon, BOB, "nix-collect-garbage", "--delete-older-than", "30d")
    assert generations(daemon, BOB) == [3, 4] and os.path.exists(made[BOB][1])
    # A generation that was left behind long ago.
    old = profile_of(daemon, BOB).parent / "profile-3-link"
    step(daemon, BOB, "touch", "-h", "-d", "40 days ago", old)
    step(daemon, BOB, "touch", "-h", "-d", "35 days ago", str(old).replace("-3-", "-4-"))
    step(daemon, BOB, "nix-collect-garbage", "--delete-older-than", "30d")
    assert generations(daemon, BOB) == [4] and not os.path.exists(made[BOB][1])
    assert os.path.exists(made[ALICE][1]), "one user's collection took another's generation"


def test_new_style_profiles(daemon):
    """`nix profile`: 2.8 has it too."""
    add = "add" if VERSION >= (2, 29) else "install"

    def job(user):
        for n in "ab":
            out = package(daemon, user, n)
            step(daemon, user, "nix", "profile", add, out)
        assert installed(daemon, user) == ["a", "b"]
        step(daemon, user, "nix", "profile", "rollback")
        assert installed(daemon, user) == ["a"]
        assert "Version" in step(daemon, user, "nix", "profile", "history")
        step(daemon, user, "nix", "profile", "remove", "0" if VERSION < (2, 20) else "--all")
        step(daemon, user, "nix", "profile", "wipe-history")
        step(daemon, user, "nix-store", "--gc")

    at_once(job, USERS)


def test_results_and_shells(daemon):
    def job(user):
        home = daemon.homes[user]
        expr = PRELUDE + f'sh "{user}-res" "echo > $out"'
        step(daemon, user, "nix-build", "-o", home / "result", "-E", expr)
        step(daemon, user, "mkdir", "-p", "-m", "0700", home / "deep/er")
        step(daemon, user, "nix-build", "-o", home / "deep/er/result", "-E", expr)
        step(daemon, user, "nix-instantiate", "--add-root", home / "drv", *(["--indirect"] if VERSION < (2, 5) else []),
             "-E", expr)
        out = os.readlink(home / "result")
        step(daemon, user, "nix-store", "--gc")
        assert os.path.exists(out) and os.path.exists(os.readlink(home / "drv")), user
        shell = PRELUDE + f'''shWith {{ name = "env"; stdenv = sh "{user}-stdenv" "mkdir $out; echo : > $out/setup";
                              dep = sh "{user}-dep" "echo {user} > $out"; }} "true"'''
        assert step(daemon, user, "nix-shell", "-E", shell, "--run", "cat $dep",
                    env={"NIX_BUILD_SHELL": "/bin/bash"}) == user
        (home / "result").unlink()
        (home / "deep/er/result").unlink()
        step(daemon, user, "nix-store", "--gc")
        assert not os.path.exists(out), user
        (home / "drv").unlink()
        step(daemon, user, "nix-store", "--gc")

    at_once(job, USERS)
    assert os.listdir(daemon.state / "gcroots/auto") == []
    assert os.listdir(daemon.store) == [".links"]


def test_a_home_that_is_deleted(daemon):
    """The links in a home that is there no more are stale; those in one that is closed are not."""
    def build(user):
        step(daemon, user, "nix-build", "-o", daemon.homes[user] / "result", "-E", PRELUDE + f'sh "{user}-r" "echo > $out"')
        return os.readlink(daemon.homes[user] / "result")

    hers, his = build(ALICE), build(BOB)
    daemon.homes[ALICE].chmod(0)
    step(daemon, BOB, "nix-collect-garbage", "-d")
    assert os.path.exists(hers) and os.path.exists(his)
    daemon.homes[ALICE].chmod(0o700)
    subprocess.run(["rm", "-rf", daemon.homes[ALICE]], check=True)
    step(daemon, BOB, "nix-collect-garbage", "-d")
    assert not os.path.exists(hers) and os.path.exists(his)
    assert len(os.listdir(daemon.state / "gcroots/auto")) == 1


@pytest.mark.skipif(not os.access("/dev/fuse", os.W_OK), reason="needs /dev/fuse")
def test_a_home_that_nobody_else_may_enter(daemon):
    """As on a file server that maps root to nobody: EACCES, whatever one's capabilities. Its links hold what they held."""
    home = daemon.homes[ALICE]
    step(daemon, ALICE, "nix-build", "-o", home / "result", "-E", PRELUDE + 'sh "r" "echo > $out"')
    one = package(daemon, ALICE, "one")
    step(daemon, ALICE, "nix-env", "-i", one)
    kept = os.readlink(home / "result")
    step(daemon, BOB, "nix-collect-garbage", "-d")
    fuse = subprocess.Popen([sys.executable, STUCK, home, str(pwd.getpwnam(ALICE).pw_uid)], stdin=subprocess.PIPE,
                            stdout=subprocess.PIPE)
    try:
        assert fuse.stdout.readline() == b"ready\n"
        with pytest.raises(PermissionError):
            os.readlink(home / "result")
        dead = package(daemon, BOB, "dead")
        step(daemon, BOB, "nix-collect-garbage", "-d")
        assert os.path.exists(kept) and os.path.exists(one) and not os.path.exists(dead)
    finally:
        fuse.communicate()
    (home / "result").unlink()
    step(daemon, BOB, "nix-collect-garbage", "-d")
    assert not os.path.exists(kept) and os.path.exists(one)


@pytest.mark.parametrize("where", ["per-user", "state", "manifest"])
def test_profiles_made_by_clients_of_other_times(daemon, where):
    """~/.nix-profile leads where the client that made it kept profiles; clients of all versions go on there."""
    home, uid = daemon.homes[ALICE], pwd.getpwnam(ALICE).pw_uid
    connect(daemon, ALICE)
    place = {"per-user": per_user(daemon)[0] / ALICE, "state": home / ".local/state/nix/profiles",
             "manifest": home / "my"}[where]
    if where != "per-user":
        step(daemon, ALICE, "mkdir", "-p", place)
    step(daemon, ALICE, "ln", "-s", place / "profile", home / ".nix-profile")
    one, two = package(daemon, ALICE, "one"), package(daemon, ALICE, "two")
    step(daemon, ALICE, "nix-env", "-i", one)
    step(daemon, ALICE, "nix-env", "-i", two)
    assert installed(daemon, ALICE) == ["one", "two"] and generations(daemon, ALICE) == [1, 2]
    assert os.lstat(place / "profile").st_uid == uid and os.readlink(home / ".nix-profile") == str(place / "profile")
    step(daemon, BOB, "nix-collect-garbage", "-d")
    step(daemon, "root", "nix-store", "--gc")
    step(daemon, ALICE, "nix-env", "--rollback")
    assert installed(daemon, ALICE) == ["one"]
    step(daemon, ALICE, "nix-env", "--delete-generations", "old")
    step(daemon, BOB, "nix-store", "--gc")
    assert os.path.exists(one) and not os.path.exists(two)
    assert may_write(daemon, ALICE, place) and not may_write(daemon, BOB, place)


def channel(daemon, text):
    """A channel's tarball; its expressions give a package `tool` that contains `text`."""
    top = daemon.base / "channels" / text
    (top / "chan-1.0").mkdir(parents=True, exist_ok=True)
    (top / "chan-1.0/default.nix").write_text("{ ... }: { tool = derivation { name = \"tool-1.0\"; system = "
        'builtins.currentSystem; builder = "/bin/sh"; '
        f'args = [ "-c" "mkdir -p $out/bin; echo {text} > $out/bin/tool" ]; }}; }}\n')
    subprocess.run(["tar", "-C", top, "-cJf", top / "nixexprs.tar.xz", "chan-1.0"], check=True)
    return f"file://{top}/nixexprs.tar.xz"


def test_channels(daemon):
    url, second = channel(daemon, "first"), channel(daemon, "second")

    def tool(user):
        step(daemon, user, "nix-env", "-f", daemon.homes[user] / ".nix-defexpr/channels/mine", "-iA", "tool")
        return (daemon.homes[user] / ".nix-profile/bin/tool").read_text().strip()

    def subscribe(user):
        step(daemon, user, "nix-channel", "--add", url, "mine")
        assert step(daemon, user, "nix-channel", "--list") == f"mine {url}"
        step(daemon, user, "nix-channel", "--update")
        assert tool(user) == "first"
        where = os.readlink(daemon.homes[user] / ".nix-defexpr/channels")
        assert where == str(profile_of(daemon, user).parent / "channels") or (user == "root" and "per-user/root" in where)

    def update(user):
        step(daemon, user, "nix-channel", "--add", second, "mine")
        step(daemon, user, "nix-channel", "--update")
        assert tool(user) == "second"
        step(daemon, user, "nix-channel", "--rollback")
        assert tool(user) == "first"
        step(daemon, user, "nix-store", "--gc")
        assert tool(user) == "first"
        step(daemon, user, "nix-channel", "--remove", "mine")
        assert step(daemon, user, "nix-channel", "--list") == ""

    at_once(subscribe, USERS)
    at_once(update, USERS)
    for user in USERS:
        step(daemon, user, "nix-collect-garbage", "-d")
        assert (daemon.homes[user] / ".nix-profile/bin/tool").read_text() == "first\n"


# ---- who can get at whose ----

def per_user(daemon):
    return [daemon.state / parent / "per-user" for parent in ("profiles", "gcroots")]


def may_write(daemon, user, directory):
    r = daemon.run("sh", "-c", 'ln -s /x "$1/.t" && rm "$1/.t"', "sh", directory, user=user, check=False)
    return r.returncode == 0


ACL = "system.posix_acl_access"


def writers(directory):
    """The users whom its access list lets write."""
    entries = struct.iter_unpack("<HHI", os.getxattr(directory, ACL)[4:])
    return {uid for tag, may, uid in entries if tag == 2 and may & 2}


def connect(daemon, user):
    daemon.run("nix-store", "--add", "/etc/hostname", user=user)


def log_of(daemon):
    return daemon.daemon_log.read_text()


def test_nobody_makes_names_for_others(daemon):
    connect(daemon, BOB)
    for top in [daemon.state, *(daemon.state / p for p in ("profiles", "gcroots", "gcroots/auto")), *per_user(daemon)]:
        assert os.stat(top).st_mode & 0o022 == 0 and not may_write(daemon, BOB, top), top
    connect(daemon, ALICE)
    for top in per_user(daemon):
        assert may_write(daemon, ALICE, top / ALICE) and may_write(daemon, BOB, top / BOB)
        assert not may_write(daemon, BOB, top / ALICE) and not may_write(daemon, ALICE, top / BOB)
        for argv in (["mv", top / ALICE, top / "x"], ["rmdir", top / ALICE], ["chmod", "777", top / ALICE],
                     ["python3", "-c", f"import os; os.setxattr('{top / ALICE}', '{ACL}', os.getxattr('{top / BOB}', '{ACL}'))"], ["ln", "-sfn", "/tmp", top / ALICE]):
            daemon.run(*argv, user=BOB, check=False)
        assert stat.S_ISDIR(os.lstat(top / ALICE).st_mode) and not may_write(daemon, BOB, top / ALICE)
        assert not os.path.lexists(top / ALICE / "tmp")


def plant(kind, path, owner):
    uid = pwd.getpwnam(owner).pw_uid
    if kind == "a directory":
        path.mkdir(mode=0o777)
        (path / "profile").symlink_to("/evil")
    elif kind == "a link":
        path.symlink_to("/tmp")
    else:
        path.write_text("")
    os.chown(path, uid, uid, follow_symlinks=False)


@pytest.mark.parametrize("kind", ["a directory", "a link", "a file"])
def test_what_was_planted_before(make_daemon, kind):
    """CVE-2019-17365: the directory was open to all, and somebody has been quicker."""
    d = make_daemon("single", start=False)
    for top in per_user(d):
        top.mkdir(parents=True)
        for path in (top, top.parent):
            os.chown(path, pwd.getpwnam(DAEMON).pw_uid, -1)
        top.chmod(0o1777)
        plant(kind, top / ALICE, BOB)
    d.start()
    connect(d, ALICE)
    for top in per_user(d):
        assert os.stat(top).st_mode & 0o7777 == 0o1755, oct(os.stat(top).st_mode)
        assert stat.S_ISDIR(os.lstat(top / ALICE).st_mode) and os.listdir(top / ALICE) == []
        assert may_write(d, ALICE, top / ALICE) and not may_write(d, BOB, top / ALICE)
        kept, = [n for n in os.listdir(top) if n not in (ALICE, "root")]
        assert kept == f".{ALICE}.{pwd.getpwnam(BOB).pw_uid}.0" and f"it is now '{top}/{kept}'" in log_of(d)
    # What is his is left alone from now on.
    (per_user(d)[0] / ALICE / "mine").mkdir()
    connect(d, ALICE)
    assert os.listdir(per_user(d)[0] / ALICE) == ["mine"]
    assert log_of(d).count("it is now") == 2


def test_directories_open_to_all_that_the_daemon_may_not_close(make_daemon):
    d = make_daemon("single", start=False)
    top = per_user(d)[0]
    top.mkdir(parents=True)
    top.chmod(0o1777)
    with pytest.raises(AssertionError, match="the mode of '.*/profiles/per-user' lets other users"):
        d.start()


def test_directories_of_the_stock_daemon_stay(make_daemon):
    """They were given to their users; links in the place of one, that root made, are an administrator's."""
    d = make_daemon("single", start=False)
    for top in per_user(d):
        (top / ALICE).mkdir(parents=True)
        (top / "root").mkdir()
        for path in (top.parent, top):
            os.chown(path, pwd.getpwnam(DAEMON).pw_uid, -1)
        os.chown(top / ALICE, pwd.getpwnam(ALICE).pw_uid, -1)
        (top / BOB).symlink_to(d.homes[BOB])
    before = {top: {n: os.lstat(top / n) for n in os.listdir(top)} for top in per_user(d)}
    d.start()
    for user in USERS:
        connect(d, user)
        connect(d, user)
    for top, was in before.items():
        assert {n: os.lstat(top / n).st_ino for n in os.listdir(top)} == {n: st.st_ino for n, st in was.items()}
        assert may_write(d, ALICE, top / ALICE) and not may_write(d, BOB, top / ALICE)
    assert "it is now" not in log_of(d)


def as_uid(daemon, uid, user):
    """Connects as a bare number, whatever $USER says."""
    return subprocess.run(["setpriv", "--reuid", str(uid), "--regid", str(uid), "--clear-groups", "nix-store", "--add",
                           "/etc/hostname"], env=daemon.env(ALICE) | {"USER": user, "HOME": "/nonexistent"},
                          capture_output=True, text=True, cwd="/")


NO_SUCH_UID = 1987654


def test_accounts_without_a_name(daemon):
    connect(daemon, ALICE)
    top = per_user(daemon)[0]
    for pretend in (ALICE, str(pwd.getpwnam(ALICE).pw_uid), "../../profiles", ".x"):
        assert as_uid(daemon, NO_SUCH_UID, pretend).returncode == 0
    for top in per_user(daemon):
        assert sorted(set(os.listdir(top)) - {"root"}) == [ALICE]
        assert may_write(daemon, ALICE, top / ALICE)
        r = subprocess.run(["setpriv", "--reuid", str(NO_SUCH_UID), "--clear-groups", "touch", str(top / ALICE / "x")],
                           capture_output=True)
        assert r.returncode != 0
    assert "it is now" not in log_of(daemon)


class Passwd:
    """The daemon's own /etc/passwd, which a test changes under it."""

    def __init__(self, d):
        self.file = d.base / "passwd"
        self.set()
        d.wrap = ["unshare", "--mount", "--propagation", "private", "sh", "-c",
                  f'mount --bind {self.file} /etc/passwd && exec "$@"', "sh"]

    def set(self, **uids):
        lines = [line for line in open("/etc/passwd") if line.split(":")[0] not in uids]
        lines += [f"{name}:x:{uid}:{uid}::/nonexistent:/bin/false\n" for name, pairs in uids.items()
                  for uid in (pairs if isinstance(pairs, list) else [pairs])]
        with open(self.file, "w") as f:  # in place: it is mounted
            f.writelines(lines)


def test_one_who_gets_the_name_of_another(make_daemon):
    """Accounts come and go. A name's next owner gets no directory that its last one can write to, nor does a number's
    next owner write to what is another's by now; and of two accounts with one name, the first has it."""
    d = make_daemon("single", start=False)
    passwd = Passwd(d)
    d.start()
    first, second = NO_SUCH_UID, NO_SUCH_UID + 1

    def writes(uid, top, name="dave"):
        return subprocess.run(["setpriv", "--reuid", str(uid), "--clear-groups", "touch", str(top / name / f"by-{uid}")],
                              capture_output=True).returncode == 0

    passwd.set(dave=first)
    assert as_uid(d, first, "dave").returncode == 0
    assert all(writes(first, top) for top in per_user(d))
    # dave is deleted; another dave comes.
    passwd.set(dave=second)
    assert as_uid(d, second, "dave").returncode == 0
    for top in per_user(d):
        assert writes(second, top) and not writes(first, top)
        assert os.listdir(top / "dave") == [f"by-{second}"]
        assert os.listdir(top / f".dave.{first}.0") == [f"by-{first}"]
    # The number of the first is given to erin, who owns nothing of his.
    passwd.set(dave=second, erin=first)
    assert as_uid(d, first, "erin").returncode == 0
    assert all(writes(first, top, "erin") and not writes(first, top) for top in per_user(d))
    # Two with one name: no quarrel.
    passwd.set(dave=[second, NO_SUCH_UID + 2])
    for uid in (second, NO_SUCH_UID + 2, second):
        assert as_uid(d, uid, "dave").returncode == 0
    for top in per_user(d):
        assert writes(second, top) and not writes(NO_SUCH_UID + 2, top)
        assert not os.path.exists(top / f".dave.{second}.0")


def test_an_account_whose_name_is_anothers_number(make_daemon):
    d = make_daemon("single", start=False)
    passwd = Passwd(d)
    d.start()
    passwd.set(**{str(NO_SUCH_UID): NO_SUCH_UID + 1})
    for uid in (NO_SUCH_UID, NO_SUCH_UID + 1, NO_SUCH_UID):
        assert as_uid(d, uid, str(NO_SUCH_UID)).returncode == 0
    for top in per_user(d):
        assert writers(top / str(NO_SUCH_UID)) == {NO_SUCH_UID + 1}
        assert set(os.listdir(top)) - {"root"} == {str(NO_SUCH_UID)}


@pytest.mark.parametrize("how", ["closed", "not writable", "none", "a link"])
def test_homes_of_all_kinds(daemon, how):
    """The daemon looks into no home. What a client can do without one, it does."""
    home = daemon.homes[ALICE]
    if how == "not writable":
        os.chown(home, 0, 0)
        home.chmod(0o755)
    elif how == "none":
        home.rmdir()
    elif how == "a link":
        (daemon.base / "elsewhere").mkdir(mode=0o700)
        os.chown(daemon.base / "elsewhere", pwd.getpwnam(ALICE).pw_uid, -1)
        home.rmdir()
        home.symlink_to(daemon.base / "elsewhere")
    profile = daemon.base / "profile-dir"
    profile.mkdir(mode=0o700)
    os.chown(profile, pwd.getpwnam(ALICE).pw_uid, -1)
    env = {} if how in ("closed", "a link") else {"XDG_CACHE_HOME": str(profile), "XDG_STATE_HOME": str(profile)}
    out = daemon.run("nix-build", "--no-out-link", "-E", PRELUDE + 'sh "p" "mkdir -p $out/bin; echo > $out/bin/p"', cwd="/",
                     env=env).stdout.strip()
    r = daemon.run("nix-env", "-p", profile / "p", "-i", out, cwd="/", env=env)
    if how in ("closed", "a link"):
        assert not COMPLAINTS.search(r.stderr), r.stderr
        step(daemon, ALICE, "nix-env", "-i", out, cwd="/")
        step(daemon, ALICE, "nix-build", "-o", home / "result", "-E", PRELUDE + 'sh "r" "echo > $out"', cwd="/")
        kept = os.readlink(home / "result")
    step(daemon, BOB, "nix-store", "--gc")
    assert os.path.exists(out)
    if how in ("closed", "a link"):
        assert os.path.exists(kept)
        # A link elsewhere in its place: what it led to goes, and nothing of BOB's comes to harm.
        (home / "result").unlink()
        (home / "result").symlink_to("/etc/passwd")
        step(daemon, BOB, "nix-store", "--gc")
        assert not os.path.exists(kept) and os.path.exists("/etc/passwd")


def test_links_into_the_homes_of_others(daemon):
    """Whoever registers another's link as a root gets nothing but a root more; he learns no name and removes none."""
    step(daemon, ALICE, "nix-build", "-o", daemon.homes[ALICE] / "result", "-E", PRELUDE + 'sh "r" "echo > $out"')
    connect(daemon, BOB)
    evil = per_user(daemon)[1] / BOB
    for name, target in {"a": daemon.homes[ALICE] / "result", "loop": evil / "loop", "up": "../../..", "root": "/root",
                         "proc": "/proc/1/root", "nowhere": daemon.homes[ALICE] / "nothing"}.items():
        daemon.run("ln", "-s", target, evil / name, user=BOB)
    daemon.run("mkdir", "-m", "0", evil / "closed", user=BOB)
    kept = os.readlink(daemon.homes[ALICE] / "result")
    roots = daemon.run("nix-store", "--gc", "--print-roots", user=BOB).stdout
    assert str(daemon.homes[ALICE]) not in roots
    step(daemon, ALICE, "nix-store", "--gc")
    assert os.path.exists(kept) and os.readlink(daemon.homes[ALICE] / "result") == kept
    assert sorted(os.listdir(evil)) == ["a", "closed", "loop", "nowhere", "proc", "root", "up"]
    (daemon.homes[ALICE] / "result").unlink()
    step(daemon, ALICE, "nix-store", "--gc")
    assert not os.path.exists(kept)


# ---- root without the daemon: its nix opens the store itself, unless it is told not to ----

def direct(daemon, *argv, **kw):
    return daemon.run("env", "-u", "NIX_REMOTE", *argv, user="root", **kw)


def daemon_with(make_daemon, conf):
    d = make_daemon("single", start=False)
    d.roots_setting = "tracer"
    d.write_conf(conf)
    d.start()
    d.start_roots()
    return d


def test_root_is_kept_to_the_daemon(make_daemon):
    d = daemon_with(make_daemon, "store = daemon\nbuild-users-group = nogroup\n")
    out = package(d, ALICE, "p")
    for argv in (["nix-env", "-i", out], ["nix-env", "-q"], ["nix-collect-garbage", "-d"]):
        r = direct(d, *argv)
        assert not COMPLAINTS.search(r.stderr), r.stderr
    assert "build-users-group" not in log_of(d)
    owners = {os.lstat(d.store / n).st_uid for n in ["", *os.listdir(d.store)]}
    assert owners == {pwd.getpwnam(DAEMON).pw_uid}


def test_root_on_the_store_itself(make_daemon):
    """What he adds is there for all; what he made the daemon cannot delete, and says so."""
    d = daemon_with(make_daemon, "build-users-group =\n")
    expr = PRELUDE + 'let a = sh "a" "mkdir $out; echo a > $out/a"; in '
    hers = d.nix_build('sh "one" "mkdir -p $out/bin; echo > $out/bin/one"').stdout.strip()
    his = direct(d, "nix-build", "-o", d.homes["root"] / "result", "-E", expr + "a").stdout.strip()
    direct(d, "nix-env", "-i", hers)
    assert d.nix_build('let a = sh "a" "mkdir $out; echo a > $out/a"; in sh "b" "cat ${a}/a > $out"').stdout
    assert f"{his}.drv" not in log_of(d), "it was built again"
    step(d, ALICE, "nix-collect-garbage", "-d")
    assert os.path.exists(hers) and os.path.exists(his)
    (d.homes["root"] / "result").unlink()
    r = d.run("nix-store", "--gc")
    assert f"cannot delete '{his}': it belongs to uid 0, not to the daemon" in r.stderr and os.path.exists(his)
    step(d, ALICE, "nix-store", "--check-validity", his)
    direct(d, "nix-env", "-e", "*")
    direct(d, "nix-collect-garbage", "-d")
    assert not os.path.exists(his) and not os.path.exists(hers)
    assert d.run("nix-store", "--check-validity", his, check=False).returncode == 1
    step(d, ALICE, "nix-store", "--verify", "--check-contents")
    assert d.nix_build('sh "one" "mkdir -p $out/bin; echo > $out/bin/one"').stdout.strip() == hers


def test_a_store_that_root_has_taken(make_daemon):
    """One query of root's, where there is a group of build users, is enough. The daemon says what has happened."""
    d = daemon_with(make_daemon, "build-users-group = nogroup\n")
    connect(d, ALICE)
    direct(d, "nix-store", "-q", "--hash", package(d, ALICE, "p"))
    assert os.stat(d.store).st_uid == 0
    says = f"the store '{d.store}' belongs to uid 0 now"
    for _ in range(2):
        r = d.run("nix-store", "--add", "/etc/passwd", check=False)
        assert r.returncode != 0 and says in r.stderr and "'store = daemon' in nix.conf" in r.stderr
        r = d.nix_build('sh "new" "echo > $out"', check=False)
        assert r.returncode != 0 and says in r.stderr
    assert len(re.findall(f"airplantd: error: {re.escape(says)}", log_of(d))) == 1, log_of(d)
    fix, = set(re.findall(r"As root, '(chown [^']*)'", r.stderr))
    subprocess.run(fix, shell=True, check=True)
    d.run("nix-store", "--add", "/etc/passwd")
    package(d, ALICE, "q")
