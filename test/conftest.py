"""A daemon per test, in a scratch directory, with real clients of real users.

Each id mode gets the same tests: `broker` (two system users and the id broker; needs root),
`subid` (newuidmap and a grant; needs root to write the grant), `single` (one ordinary user).
"""
import os
import pathlib
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time

import pytest

# A job in the background may have been started with these ignored; what a builder of the stock daemon
# sees would then differ, since it passes them on.
for number in (signal.SIGHUP, signal.SIGQUIT):
    signal.signal(number, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)

REPO = pathlib.Path(__file__).resolve().parents[1]


def own_block():
    """Several runs may go on at once on one machine, and the broker refuses ids that are in use: each
    run has a block of 8388608 ids to itself, as long as it holds a name (an abstract socket)."""
    for i in range(1, 24):
        s = socket.socket(socket.AF_UNIX)
        try:
            s.bind(f"\0airplant-test-ids-{i}")
            return i * 8388608, s
        except OSError:
            s.close()
    raise RuntimeError("23 runs of the tests have all ids")


_offset, _block = own_block()
START_ID = 872415232 + _offset
SUBID_START = (1 << 30) + _offset
SLOT_IDS = 65536
# System users that the tests own: made when missing, left in place (they hold nothing).
DAEMON, BROKER, ALICE, BOB = "airplant-test", "airplant-test-ids", "airplant-alice", "airplant-bob"
TRACER = "airplant-test-roots"


def pytest_addoption(parser):
    parser.addoption("--build-dir", default=str(REPO / "build/release"))


def ensure_user(name):
    try:
        return pwd.getpwnam(name)
    except KeyError:
        subprocess.run(["useradd", "--system", "--user-group", "--no-create-home",
                        "--shell", "/usr/sbin/nologin", name], check=True)
        return pwd.getpwnam(name)


@pytest.fixture(scope="session")
def users():
    if os.getuid() != 0:
        pytest.skip("needs root: several users and the id broker take part")
    return {n: ensure_user(n) for n in (DAEMON, BROKER, TRACER, ALICE, BOB)}


class Daemon:
    """One scratch store with its daemon (and broker)."""
    made = 0

    def __init__(self, base, bin_dir, users, mode, conf="", user=DAEMON):
        self.user = user
        self.base, self.bin, self.users, self.mode = pathlib.Path(base), bin_dir, users, mode
        self.procs = []
        self.wrap = []  # a command in front of the daemon's, as root: to start it somewhere special
        self.own_conf = ""  # more of airplant.conf
        self.change = lambda argv: argv  # of the core's command line, by a test
        self.roots_setting = "own"
        self.subids = 128
        self.store, self.state = self.base / "store", self.base / "var/nix"
        self.log, self.etc = self.base / "var/log/nix", self.base / "etc"
        self.socket = self.base / "socket"
        self.daemon_log = self.base / "daemon.log"
        # A quarter of the run's block each, in turn: a test may have several daemons.
        self.id_count = 32 * SLOT_IDS
        self.start_id = START_ID + Daemon.made % 4 * self.id_count
        Daemon.made += 1
        for d in (self.store, self.state, self.log, self.etc):
            d.mkdir(parents=True)
            os.chown(d, users[user].pw_uid, users[user].pw_gid)
        for d in (self.base, self.base / "var", self.base / "var/log"):
            os.chown(d, users[user].pw_uid, users[user].pw_gid)
            d.chmod(0o755)
        self.homes = {}
        for n in (ALICE, BOB, "root"):
            home = self.base / ("home-" + n)
            home.mkdir()
            home.chmod(0o700)
            os.chown(home, pwd.getpwnam(n).pw_uid, pwd.getpwnam(n).pw_gid)
            self.homes[n] = home
        self.write_conf(conf)

    def write_conf(self, extra=""):
        (self.etc / "nix.conf").write_text(
            "sandbox = true\nsandbox-paths = /bin/sh=/bin/busybox\nsubstituters =\n"
            "experimental-features = nix-command flakes\nmax-jobs = 2\n" + extra)
        (self.etc / "airplant.conf").write_text(f"ids = {self.mode}\nids-socket = {self.base}/ids.socket\n"
            # No tracer for all users unless the test starts one: the roots of the daemon's own user are enough.
            f"roots = {self.roots_setting}\nroots-socket = {self.base}/roots/socket\n" + self.own_conf)

    def env(self, user="root"):
        return {"NIX_STORE_DIR": str(self.store), "NIX_STATE_DIR": str(self.state),
                "NIX_LOG_DIR": str(self.log), "NIX_CONF_DIR": str(self.etc),
                "NIX_DAEMON_SOCKET_PATH": str(self.socket), "NIX_REMOTE": "daemon",
                "HOME": str(self.homes.get(user, "/nonexistent")), "USER": user,
                "TMPDIR": "/tmp", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "NIX_PATH": ""}

    def spawn(self, name, argv, **kw):
        p = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=kw.pop("stdout"),
                             stderr=subprocess.STDOUT, **kw)
        p.name = name
        self.procs.append(p)
        return p

    def start(self):
        if self.mode == "broker":
            self.start_broker()
        self.start_core()
        return self

    def start_broker(self):
        d, i = self.users[self.user], self.users[BROKER]
        locks, caps = self.base / "ids", "-all,+setuid,+setgid"
        locks.mkdir(exist_ok=True)
        os.chown(locks, i.pw_uid, i.pw_gid)
        locks.chmod(0o750)
        os.chown(self.base, i.pw_uid, i.pw_gid)
        (self.base / "ids.socket").unlink(missing_ok=True)
        with open(self.daemon_log, "ab") as out:
            self.broker = self.spawn("airplant-ids", [
                "setpriv", "--reuid", str(i.pw_uid), "--regid", str(i.pw_gid), "--clear-groups",
                "--inh-caps", caps, "--ambient-caps", caps, "--bounding-set", caps,
                str(self.bin / "airplant-ids"), "--socket", f"{self.base}/ids.socket",
                "--daemon-user", self.user, "--locks", str(locks), "--start-id", str(self.start_id),
                "--id-count", str(self.id_count)], stdout=out, env={})
        wait_for(lambda: (self.base / "ids.socket").exists(), self.daemon_log, self.broker)
        os.chown(self.base, d.pw_uid, d.pw_gid)

    def start_roots(self, *options):
        """The tracer of roots on its socket, and upstream's for the same user."""
        t, caps = self.users[TRACER], "-all,+dac_read_search,+sys_ptrace"
        where = self.base / "roots"
        where.mkdir(exist_ok=True)
        os.chown(where, t.pw_uid, t.pw_gid)
        if not can_see(1):
            # Some sandboxes hide their own first process, also from root.
            options += ("--skip-hidden",)
        with open(self.daemon_log, "ab") as out:
            self.roots = self.spawn("airplant-roots", [
                "setpriv", "--reuid", str(t.pw_uid), "--regid", str(t.pw_gid), "--clear-groups",
                "--inh-caps", caps, "--ambient-caps", caps, "--bounding-set", caps,
                str(self.bin / "airplant-roots"), "--socket", f"{where}/socket", "--daemon-user", self.user,
                "--upstream-socket", f"{where}/upstream", "--store", str(self.store), "--state", str(self.state),
                *options], stdout=out, env={})
        wait_for(lambda: (where / "upstream").exists() and (where / "socket").exists(), self.daemon_log, self.roots)
        return where / "socket"

    def start_core(self):
        d = self.users[self.user]
        env = self.env(self.user)
        env["NIX_REMOTE"] = ""
        argv = ["setpriv", "--reuid", str(d.pw_uid), "--regid", str(d.pw_gid), "--clear-groups",
                "--inh-caps=-all", str(self.bin / "airplantd")]
        if self.mode == "subid":
            argv = self.with_grant(argv)
        argv = self.change(argv)
        with open(self.daemon_log, "ab") as out:
            self.core = self.spawn("airplantd", [*self.wrap, *argv], stdout=out, env=env)
        wait_for(self.answers, self.daemon_log, self.core)

    def with_grant(self, argv):
        """The daemon alone sees /etc/subuid and /etc/subgid with a grant: the machine's stay as they are."""
        binds = ""
        for name in ("subuid", "subgid"):
            (self.etc / name).write_text(f"{self.user}:{SUBID_START}:{self.subids}\n")
            binds += f"{{ [ -e /etc/{name} ] || touch /etc/{name}; }} && mount --bind {self.etc}/{name} /etc/{name} && "
        return ["unshare", "--mount", "--propagation", "private", "sh", "-c", binds + 'exec "$@"', "sh", *argv]

    def answers(self):
        with socket.socket(socket.AF_UNIX) as s:
            try:
                s.connect(str(self.socket))
                return True
            except OSError:
                return False

    def stop(self):
        for p in reversed(self.procs):
            if p.poll() is None:
                p.terminate()
        for p in reversed(self.procs):
            try:
                p.wait(10)
            except subprocess.TimeoutExpired:
                p.kill()
                p.wait()
        self.procs = []
        (self.base / "ids.socket").unlink(missing_ok=True)

    def run(self, *argv, user=ALICE, check=True, input=None, env=None, cwd=None, timeout=120):
        """Runs a client as `user`. Gives the CompletedProcess (text)."""
        full = self.env(user) | (env or {})
        pw = pwd.getpwnam(user)
        r = subprocess.run(["setpriv", "--reuid", str(pw.pw_uid), "--regid", str(pw.pw_gid), "--clear-groups",
                            *map(str, argv)], env=full, input=input, text=True, capture_output=True,
                           cwd=cwd or str(self.homes.get(user, "/")), timeout=timeout)
        if check and r.returncode != 0:
            raise AssertionError(f"{argv} failed ({r.returncode}):\n{r.stdout}\n{r.stderr}\n"
                                 f"daemon:\n{self.tail()}")
        return r

    def popen(self, *argv, user=ALICE):
        pw = pwd.getpwnam(user)
        return subprocess.Popen(["setpriv", "--reuid", str(pw.pw_uid), "--regid", str(pw.pw_gid), "--clear-groups",
                                 *map(str, argv)], env=self.env(user), text=True, stdin=subprocess.DEVNULL,
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=str(self.homes[user]))


    def nix_build(self, expr, user=ALICE, check=True, args=(), **kw):
        """nix-build of an expression in which `sh NAME SCRIPT` makes a derivation."""
        return self.run("nix-build", "--no-out-link", *args, "-E", PRELUDE + expr, user=user, check=check, **kw)

    def tail(self):
        return self.daemon_log.read_text(errors="replace")[-4000:]

    def children(self):
        """Every process of this daemon: {pid: executable name}."""
        roots, found = {p.pid for p in self.procs}, {}
        parents = {}
        for d in os.listdir("/proc"):
            if d.isdigit():
                try:
                    stat = open(f"/proc/{d}/stat").read()
                except OSError:
                    continue
                comm, rest = stat[stat.index("(") + 1:stat.rindex(")")], stat[stat.rindex(")") + 2:].split()
                parents[int(d)] = (int(rest[1]), comm, rest[0])
        for pid in parents:
            p = pid
            while p in parents and p not in roots:
                p = parents[p][0]
            if p in roots and parents[pid][2] != "Z":
                found[pid] = parents[pid][1]
        return found


PRELUDE = """
let sh = name: script: derivation {
      inherit name; system = builtins.currentSystem; builder = "/bin/sh"; args = [ "-c" script ]; };
    shWith = attrs: script: derivation ({
      system = builtins.currentSystem; builder = "/bin/sh"; args = [ "-c" script ]; } // attrs);
in
"""


def wait_for(predicate, log, proc=None, seconds=20):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if predicate():
            return
        if proc is not None and proc.poll() is not None:
            break
        time.sleep(0.02)
    raise AssertionError("did not come up:\n" + pathlib.Path(log).read_text(errors="replace")[-4000:])


def can_see(pid):
    try:
        os.readlink(f"/proc/{pid}/exe")
        return True
    except PermissionError:
        return False


MODES = ["broker", "subid", "single"]


@pytest.fixture(scope="session")
def binaries(request, tmp_path_factory):
    """The executables side by side, as an installation has them, where every user can reach them
    (the checkout may lie in somebody's private directory)."""
    build = pathlib.Path(request.config.getoption("--build-dir"))
    bin_dir = pathlib.Path(tempfile.mkdtemp(prefix="airplant-bin-", dir="/tmp"))
    bin_dir.chmod(0o755)
    for name in ("core/airplantd", "session/airplant-session", "build/airplant-build", "ids/airplant-ids", "fetch/airplant-fetch",
                 "roots/airplant-roots", "cli/airplant"):
        shutil.copy2(build / "src" / name, bin_dir)
    yield bin_dir
    shutil.rmtree(bin_dir)


@pytest.fixture
def make_daemon(binaries, users):
    made = []

    def make(mode="broker", conf="", start=True, user=DAEMON, where="/tmp"):
        if mode == "subid" and not shutil.which("newuidmap"):
            pytest.skip("newuidmap is not installed (package uidmap)")
        base = tempfile.mkdtemp(prefix="airplant-", dir=where)
        d = Daemon(base, binaries, users | {user: ensure_user(user)}, mode, conf, user)
        made.append(d)
        return d.start() if start else d

    yield make
    for d in made:
        d.stop()
        subprocess.run(["chmod", "-R", "u+rwx", str(d.base)], stderr=subprocess.DEVNULL)
        shutil.rmtree(d.base, ignore_errors=True)


@pytest.fixture(params=MODES)
def daemon(request, make_daemon):
    return make_daemon(request.param)
