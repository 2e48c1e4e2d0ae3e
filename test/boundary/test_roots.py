"""The tracer of roots (src/ipc/roots.h): what it finds, what ordinary users do to hide or to stop it,
what it may do. Needs root: several users, and the two capabilities."""
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import time

import pytest

from conftest import ALICE, BOB, DAEMON, TRACER, can_see

DIGITS = "0123456789abcdfghijklmnpqrsvwxyz"
FIELDS = {"A": 1, "P": 2, "L": 5, "I": 1, "S": 1, "F": 2, "Z": 1}
HERE = pathlib.Path(__file__).resolve().parent


def parse(data):
    """Records as tuples. Whatever a client must refuse is an assertion."""
    assert data.endswith(b"\0"), data[-100:]
    fields, records = data[:-1].decode(errors="surrogateescape").split("\0"), []
    while fields:
        n = FIELDS[fields[0][0]]
        records.append((fields[0][0], fields[0][1:], *fields[1:n]))
        assert len(records[-1]) == n + 1
        fields = fields[n:]
    assert records[0] == ("A", "1") and records[-1] == ("Z", str(len(records) - 1))
    return records


def connect(path, uid):
    """The bytes that a process of `uid` is sent."""
    code = f"""if 1:
        import os, socket, sys
        os.setgroups([]); os.setresgid({uid}, {uid}, {uid}); os.setresuid({uid}, {uid}, {uid})
        s = socket.socket(socket.AF_UNIX)
        s.connect(sys.argv[1])
        while data := s.recv(65536):
            sys.stdout.buffer.write(data)"""
    return subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, timeout=40, check=True).stdout


class Tracer:
    def __init__(self, daemon, *options):
        self.daemon, self.n = daemon, 0
        self.uid = daemon.users[DAEMON].pw_uid
        for d in ("gcroots/auto", "profiles/per-user"):
            (daemon.state / d).mkdir(parents=True)
        self.state = daemon.state
        self.socket = daemon.start_roots(*options)

    def path(self, name, directory=False, digit=None):
        """A file in the store, with the store's owner."""
        self.n += 1
        digit = digit or DIGITS[self.n % 32]
        p = self.daemon.store / (digit * 32 + "-" + name)
        if directory:
            p.mkdir()
        else:
            p.write_text("x")
        os.chown(p, self.uid, self.uid)
        return p

    def records(self):
        return parse(connect(self.socket, self.uid))

    def ask(self):
        """({base: {what, …}}, {link: (state, owner, target, base)}), of a complete answer."""
        roots, links = {}, {}
        for r in self.records():
            assert r[0] != "I", r
            if r[0] == "P":
                roots.setdefault(r[1], set()).add(r[2])
            elif r[0] == "L":
                links[r[1]] = r[2:]
        return roots, links


@pytest.fixture
def tracer(make_daemon):
    return Tracer(make_daemon("broker", start=False))


def as_user(user, *argv, **kw):
    return subprocess.Popen(["setpriv", "--reuid", user, "--regid", user, "--clear-groups", *map(str, argv)],
                            stdin=subprocess.PIPE, stdout=subprocess.PIPE, **kw)


def python(user, code, *args, **kw):
    """A process of `user` that says when it has done what it is for, and waits."""
    p = as_user(user, sys.executable, "-c", "import os, sys, time\n" + code +
                "\nprint('ready', flush=True); time.sleep(600)", *args, **kw)
    assert p.stdout.readline() == b"ready\n"
    return p


@pytest.fixture
def run():
    started = []

    def start(*args, **kw):
        started.append(python(*args, **kw))
        return started[-1]

    yield start
    for p in started:
        p.kill()
        p.wait()


def wait_until(predicate, seconds=10):
    end = time.monotonic() + seconds
    while not predicate():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_links(tracer):
    d, state = tracer.daemon, tracer.state
    home = d.homes[ALICE]
    direct, reg, profile, result, chained = (tracer.path(n) for n in ("direct", "regular", "profile", "result", "chain"))
    (state / "gcroots/sub").mkdir()
    (state / "gcroots/sub/direct").symlink_to(f"{direct}/bin")
    (state / "gcroots" / reg.name).write_text("")
    (state / "profiles/per-user/deep").mkdir()
    (state / "profiles/per-user/deep/profile-1-link").symlink_to(profile)
    (home / "a b\n").mkdir()
    (home / "a b\n/result").symlink_to(result)
    (home / "one").symlink_to("a b\n/../two")
    (home / "two").symlink_to(f"{home}/three")
    (home / "three").symlink_to(chained)
    (home / "loop").symlink_to("loop2")
    (home / "loop2").symlink_to("loop")
    (home / "file").write_text("")
    (home / "lost").symlink_to("nothing")
    for p in home.rglob("*"):
        os.chown(p, d.users[ALICE].pw_uid, -1, follow_symlinks=False)
    assert home.stat().st_mode & 0o777 == 0o700
    for i, target in enumerate(("a b\n/result", "one", "loop", "file", "missing", "missing/dir", "lost")):
        (state / "gcroots/auto" / str(i)).symlink_to(home / target)
    (state / "gcroots/auto/not-valid").symlink_to(f"{d.store}/{'z' * 32}-not-there")
    roots, links = tracer.ask()
    alice = str(d.users[ALICE].pw_uid)
    assert roots == {direct.name: {f"{state}/gcroots/sub/direct"}, reg.name: {f"{state}/gcroots/{reg.name}"},
                     profile.name: {f"{state}/profiles/per-user/deep/profile-1-link"},
                     result.name: {f"{home}/a b\n/result"}, chained.name: {f"{home}/one"}}
    assert {k[13:]: (v[0], v[1], v[3]) for k, v in links.items()} == {
        "0": ("a", alice, result.name), "1": ("a", alice, chained.name), "2": ("o", alice, ""),
        "3": ("o", alice, ""), "4": ("g", "-", ""), "5": ("g", "-", ""), "6": ("o", alice, "")}
    assert links["gcroots/auto/1"][2] == f"{home}/one"


def test_a_process_of_each_kind(tracer, run):
    """exe, cwd, open file, mapped file, environment: of users whose processes nobody else may look at."""
    exe, cwd, opened, mapped, env = (tracer.path(n, n == "cwd") for n in ("exe", "cwd", "opened", "mapped", "env"))
    shutil.copy2("/bin/sleep", exe)
    mapped.write_bytes(b"x" * 4096)
    sleeper = as_user(ALICE, exe, "600")
    holder = run(BOB, f"""
import ctypes, mmap
os.chdir({str(cwd)!r})
f = os.open({str(opened)!r}, os.O_RDONLY)
g = os.open({str(mapped)!r}, os.O_RDONLY)
m = mmap.mmap(g, 4096, mmap.MAP_SHARED, mmap.PROT_READ)
ctypes.CDLL(None).prctl(4, 0)  # not dumpable
""", env={"LONG": "x" * 100000, "TOOL": f"a{env}/bin:b", "PATH": os.environ["PATH"]})
    opened.unlink()  # " (deleted)" stands behind the name then
    opened.write_text("another file of that name")
    try:
        wait_until(lambda: os.readlink(f"/proc/{sleeper.pid}/exe") == str(exe))
        roots, _ = tracer.ask()
    finally:
        sleeper.kill()
        sleeper.wait()
    p = f"/proc/{holder.pid}"
    assert f"/proc/{sleeper.pid}/exe" in roots[exe.name]
    assert roots[cwd.name] == {f"{p}/cwd"}
    assert any(re.fullmatch(p + r"/fd/\d+", w) for w in roots[opened.name])
    assert f"{p}/maps" in roots[mapped.name]
    assert roots[env.name] == {f"{p}/environ"}


def test_other_namespaces(tracer, run):
    """The store is mounted somewhere else there, or only one path of it; other pids, other users."""
    inside, alone, moved = (tracer.path(n, True) for n in ("inside", "alone", "moved"))
    base = tracer.daemon.base
    (base / "mnt").mkdir()
    code = f"""
libc = __import__('ctypes').CDLL(None, use_errno=True)
def check(r): assert r == 0, __import__('ctypes').get_errno()
uid = os.getuid()
check(libc.unshare(0x10000000 | 0x20000 | 0x20000000))  # user, mount, pid
open('/proc/self/setgroups', 'w').write('deny')
open('/proc/self/uid_map', 'w').write(f'0 {{uid}} 1')
check(libc.mount(b'none', b'/', None, 0x44000, None))  # private
check(libc.mount({str(base)!r}.encode(), b'/mnt', None, 0x1000, None))
if os.fork():
    os.wait()
os.chdir('/mnt/store/{inside.name}')
check(libc.mount({str(moved)!r}.encode(), {str(base / "mnt")!r}.encode(), None, 0x1000, None))
"""
    run(ALICE, code, env={"PATH": os.environ["PATH"]})
    run(BOB, f"os.chdir({str(alone)!r})", env={"ELSEWHERE": f"/other{inside}/x"})
    roots, _ = tracer.ask()
    assert any(w.endswith("/cwd") for w in roots[inside.name]) and alone.name in roots
    assert any(w.endswith("/mountinfo") for w in roots[moved.name])


def test_a_thread_with_its_own_directory_and_a_process_without_a_first_thread(tracer, run):
    own, first = tracer.path("own", True), tracer.path("first")
    p = run(ALICE, f"""
import ctypes, threading
libc = ctypes.CDLL(None)
def work():
    assert libc.unshare(0x200) == 0  # CLONE_FS
    os.chdir({str(own)!r})
    print('ready', flush=True)
    time.sleep(600)
threading.Thread(target=work).start()
libc.syscall(60, 0)  # exit: of this thread alone
""", env={"A": f"{first}", "PATH": os.environ["PATH"]})
    wait_until(lambda: "Z" in open(f"/proc/{p.pid}/stat").read().split()[2])
    roots, _ = tracer.ask()
    assert roots[own.name] and all(re.fullmatch(rf"/proc/{p.pid}/task/\d+/cwd", w) for w in roots[own.name])
    assert roots[first.name] and all(w.endswith("/environ") for w in roots[first.name])


def test_a_directory_deeper_than_a_path_can_be(tracer, run):
    """It stops each collection of the stock daemon. Here the store path is found by climbing."""
    deep, held, filed = tracer.path("deep", True), tracer.path("held", True), tracer.path("filed", True)
    for d in (deep, held, filed):
        d.chmod(0o777)
    dig = """
for i in range(30):
    os.mkdir('x' * 200); os.chdir('x' * 200)
"""
    run(ALICE, f"os.chdir({str(deep)!r})" + dig)
    run(BOB, f"os.chdir({str(held)!r})" + dig + "f = os.open('.', os.O_RDONLY); g = os.open('own', os.O_CREAT | os.O_WRONLY); "
        "os.chdir('/')")
    # A plain file of the store's owner's, at such a depth. (Nothing of it but the file is held.)
    p = run(DAEMON, f"os.chdir({str(filed)!r})" + dig + "f = os.open('file', os.O_CREAT | os.O_RDWR, 0o444); os.chdir('/')")
    assert all(r[0] != "F" for r in tracer.records())
    roots, _ = tracer.ask()
    assert any(re.fullmatch(rf"/proc/{p.pid}/fd/\d+", w) for w in roots[filed.name]), roots[filed.name]
    assert any(w.endswith("/cwd") for w in roots[deep.name])
    assert any("/fd/" in w for w in roots[held.name])


def test_names_that_forge(tracer, run):
    """Newlines, escapes, the mark of deleted files, fields of maps: a name shows what it holds, no more."""
    victim, real = tracer.path("victim"), tracer.path("real", True)
    odd = real / "a\n7f00-7f01 r-xp 0 0 0 (deleted)\\040 "
    odd.write_bytes(b"x" * 4096)
    p = run(ALICE, f"""
import mmap
f = os.open({os.fsencode(odd)!r}, os.O_RDONLY)
m = mmap.mmap(f, 4096, mmap.MAP_SHARED, mmap.PROT_READ)
os.close(f)
""", env={"ALMOST": f"{str(victim)[:-8]} {tracer.daemon.store}/{'e' * 32}-x {tracer.daemon.store}/{'a' * 31}-x",
          "PATH": os.environ["PATH"]})
    roots, _ = tracer.ask()
    assert f"/proc/{p.pid}/maps" in roots[real.name]
    assert victim.name not in roots


def test_megabytes_of_environment(tracer, run):
    """Nothing is cut off, and nothing lost where one read ends and the next begins."""
    held = [tracer.path(f"p{i}", digit=d) for i, d in enumerate(DIGITS[:24])]
    env, at = {}, 0
    for i, p in enumerate(held):
        fill = (i + 1) * 65536 - 20 - len(str(tracer.daemon.store)) - at - len("Vxx=")
        env[f"V{i:02}"] = "/" * fill + str(p)
        at += len("Vxx=") + fill + len(str(p)) + 1
    p = run(ALICE, "", env=env | {"PATH": os.environ["PATH"]})
    assert open(f"/proc/{p.pid}/environ").read(65536).endswith(held[0].name[:19])
    roots, _ = tracer.ask()
    assert set(roots) >= {p.name for p in held}


def test_thousands_of_processes(tracer):
    """Time stays small, and the one root among them is found."""
    held = tracer.path("held")
    code = """
import os, sys, time
n = 0
for _ in range(3000):
    try:
        if os.fork() == 0:
            time.sleep(600)
        n += 1
    except BlockingIOError:
        break
os.environ
f = os.open(sys.argv[1], os.O_RDONLY)
print(n, flush=True); time.sleep(600)
"""
    p = as_user(ALICE, sys.executable, "-S", "-c", code, held, start_new_session=True)
    try:
        assert int(p.stdout.readline()) > 1000
        start = time.monotonic()
        roots, _ = tracer.ask()
        assert held.name in roots and time.monotonic() - start < 30
    finally:
        os.killpg(p.pid, signal.SIGKILL)
        p.wait()


@pytest.mark.skipif(not os.access("/dev/fuse", os.W_OK), reason="needs /dev/fuse")
def test_homes_that_do_not_answer(tracer):
    """A home that lets nobody in counts as alive, and so does one that never answers. Neither holds up
    what is behind it."""
    d, state, fuses = tracer.daemon, tracer.state, []
    held = tracer.path("held")
    for name, options in (("closed", ""), ("silent", ",allow_other")):
        where = d.base / name
        where.mkdir()
        fuses.append(subprocess.Popen([sys.executable, HERE / "stuck_fuse.py", where, str(d.users[ALICE].pw_uid),
                                       options], stdin=subprocess.PIPE, stdout=subprocess.PIPE))
        assert fuses[-1].stdout.readline() == b"ready\n"
        for i in range(6):
            (state / f"gcroots/auto/{name}-{i}").symlink_to(where / f"link-{i}")
    (d.homes[BOB] / "result").symlink_to(held)
    for i in range(10):
        (state / f"gcroots/auto/good-{i}").symlink_to(d.homes[BOB] / "result")
    try:
        start = time.monotonic()
        roots, links = tracer.ask()
        took = time.monotonic() - start
    finally:
        for f in fuses:
            f.stdin.close()
            f.wait()
    assert {v[0] for k, v in links.items() if "good" in k} == {"a"} and held.name in roots
    assert [v[0] for k, v in links.items() if "good" not in k] == ["u"] * 12
    assert len(links) == 22 and took < 15


def test_who_may_ask(tracer):
    assert parse(connect(tracer.socket, tracer.uid))
    for user in (ALICE, TRACER):
        assert connect(tracer.socket, tracer.daemon.users[user].pw_uid) == b""
    assert connect(tracer.socket, 0) == b""
    assert b"connected; refused" in tracer.daemon.daemon_log.read_bytes()


def test_a_client_that_leaves(tracer):
    leave = f"""if 1:
        import os, socket, sys
        os.setgroups([]); os.setresuid({tracer.uid}, {tracer.uid}, {tracer.uid})
        for path in sys.argv[1:]:
            s = socket.socket(socket.AF_UNIX)
            s.connect(path)
            s.close()"""
    subprocess.run([sys.executable, "-c", leave, tracer.socket, tracer.socket.with_name("upstream")], check=True)
    tracer.ask()
    assert tracer.daemon.roots.poll() is None
    # No reader stays behind, not even as a zombie.
    assert not open(f"/proc/{tracer.daemon.roots.pid}/task/{tracer.daemon.roots.pid}/children").read()


def test_socket_activation(make_daemon):
    """Sockets of the service manager: ours as fd 3, upstream's as fd 4."""
    daemon, caps = make_daemon("broker", start=False), "-all,+dac_read_search,+sys_ptrace"
    (daemon.state / "gcroots").mkdir()
    listeners = []
    for name in ("own", "upstream"):
        s = socket.socket(socket.AF_UNIX)
        s.bind(str(daemon.base / name))
        os.chmod(daemon.base / name, 0o666)
        s.listen()
        listeners.append(s)
    fds = [s.fileno() for s in listeners]
    uid = daemon.users[TRACER].pw_uid
    with open(daemon.daemon_log, "ab") as out:
        daemon.spawn("airplant-roots", [
            "setpriv", "--reuid", str(uid), "--regid", str(daemon.users[TRACER].pw_gid), "--clear-groups", "--inh-caps", caps,
            "--ambient-caps", caps, "--bounding-set", caps, "bash", "-c",
            f'exec 30<&{fds[0]} 31<&{fds[1]} && exec 3<&30 4<&31 && export LISTEN_PID=$$ && exec "$@"', "bash",
            daemon.bin / "airplant-roots", "--daemon-user", DAEMON, "--store", daemon.store, "--state", daemon.state,
            *([] if can_see(1) else ["--skip-hidden"])], stdout=out, pass_fds=fds, env={"LISTEN_FDS": "2"})
    uid = daemon.users[DAEMON].pw_uid
    assert parse(connect(daemon.base / "own", uid))
    assert upstream(connect(daemon.base / "upstream", uid), str(daemon.store))
    for s in listeners:
        s.close()


def test_privileges(tracer):
    text = open(f"/proc/{tracer.daemon.roots.pid}/status").read()
    status = dict(re.findall(r"^(\w+):\t(.*)$", text, re.M))
    caps = f"{1 << 2 | 1 << 19:016x}"
    assert status["CapEff"] == status["CapPrm"] == status["CapBnd"] == caps
    assert status["CapAmb"] == status["CapInh"] == "0" * 16
    assert status["NoNewPrivs"] == "1" and status["Seccomp"] == "2" and status["Groups"].strip() == ""
    assert set(status["Uid"].split()) == {str(tracer.daemon.users[TRACER].pw_uid)}


def upstream(data, store):
    """As the stock client reads: up to an end of file or an empty entry. Raises like it."""
    found = []
    for entry in data.split(b"\0"):
        if not entry:
            break
        prefix, base = entry.decode().rsplit("/", 1)
        if prefix != store or not re.fullmatch(r"[0-9a-df-np-sv-z]{32}-[0-9a-zA-Z+\-._?=]{1,211}", base):
            raise ValueError(entry)
        found.append(base)
    return found


def test_upstream_socket(tracer, run):
    held, other = tracer.path("held"), tracer.path("other")
    run(ALICE, f"f = os.open({str(held)!r}, os.O_RDONLY)")
    data = connect(tracer.socket.with_name("upstream"), tracer.uid)
    found = upstream(data, str(tracer.daemon.store))
    assert held.name in found and other.name not in found and found[-1].startswith("0" * 32)
    # A stock client takes any end for the end. Wherever a tracer that died can have stopped
    # (each message is whole, or was not sent), what came is no list of paths.
    for end in [m.end() for m in re.finditer(re.escape(f"{tracer.daemon.store}/".encode()), data)]:
        with pytest.raises(ValueError):
            upstream(data[:end], str(tracer.daemon.store))
    assert connect(tracer.socket.with_name("upstream"), 0) == b""


def test_a_collection_with_all_of_it(make_daemon, run):
    """The whole way: links in closed homes, processes of others, and nothing without the tracer."""
    daemon = make_daemon("broker", start=False)
    daemon.roots_setting = "tracer"
    daemon.write_conf()
    daemon.start()
    linked, held, dead = (daemon.nix_build(f'sh "{n}" "echo {n} > $out"').stdout.strip() for n in ("linked", "held", "dead"))
    daemon.run("nix-store", "--realise", linked, "--add-root", daemon.homes[ALICE] / "result", "--indirect")
    holder = run(BOB, f"f = os.open({held!r}, os.O_RDONLY)")
    refused = daemon.run("nix-store", "--gc", user="root", check=False)
    assert refused.returncode != 0 and "tracer" in refused.stderr and os.path.exists(dead)
    daemon.start_roots()
    daemon.run("nix-store", "--gc", user="root")
    assert os.path.exists(linked) and os.path.exists(held) and not os.path.exists(dead)
    printed = daemon.run("nix-store", "--gc", "--print-roots", user="root").stdout.replace('"', "")  # 2.34 quotes
    assert f"{daemon.homes[ALICE]}/result -> {linked}" in printed
    holder.kill()
    holder.wait()
    (daemon.homes[ALICE] / "result").unlink()
    daemon.run("nix-store", "--gc", user="root")
    assert not os.path.exists(held) and not os.path.exists(linked)
    assert os.listdir(daemon.state / "gcroots/auto") == []
