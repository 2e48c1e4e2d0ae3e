"""A daemon that was taken over (a program of the daemon's user, without the core's own filter): what it can do to the
broker, the tracer, other users and the machine; and what a process of the same user can do to our sealed ones.

The broker's rules are in test/boundary/test_ids.py, the tracer's answers in test/boundary/test_roots.py. Seen red without
the defence named:

    confine/seal.c: PR_SET_DUMPABLE (and verify)             test_neighbours_of_the_same_user, test_other_processes[broker]
    roots/main.c: SO_PEERCRED of who asks the tracer         test_privileged_helpers_do_not_listen_to_others
"""
import ctypes
import errno
import os
import pwd
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time

import pytest

from conftest import ALICE, BROKER, DAEMON, PRELUDE, TRACER, wait_for

REFUSED = (errno.EPERM, errno.EACCES)
libc = ctypes.CDLL(None, use_errno=True)
CALLS = dict(kcmp=312, process_vm_readv=310, process_vm_writev=311, pidfd_send_signal=424, pidfd_open=434, pidfd_getfd=438,
             process_madvise=440, process_mrelease=448, move_pages=279, migrate_pages=256, ioprio_set=251, sched_setattr=314,
             get_robust_list=274, tgkill=234, rt_sigqueueinfo=129, setns=308, ptrace=101, prlimit64=302, setpriority=141,
             sched_setaffinity=203, sched_setscheduler=144, perf_event_open=298, bpf=321, kexec_load=246, init_module=175,
             delete_module=176, reboot=169, settimeofday=164, sethostname=170, swapon=167, mount=165, umount2=166, chroot=161,
             pivot_root=155, mknod=133, setuid=105, setgid=106, setgroups=116, setresuid=117, capset=126, acct=163, iopl=172,
             syslog=103, open_by_handle_at=304, fanotify_init=300, chown=92, quotactl=179, lookup_dcookie=212, vhangup=153,
             socket=41)


def call(name, *args):
    """0 or an errno."""
    args = [ctypes.c_char_p(a) if isinstance(a, bytes) else ctypes.c_long(a) if isinstance(a, int) else a for a in args]
    ctypes.set_errno(0)
    return ctypes.get_errno() if libc.syscall(ctypes.c_long(CALLS[name]), *args) < 0 else 0


def attempt(f):
    try:
        f()
    except OSError as e:
        return e.errno
    return 0


def as_daemon(f, user=DAEMON):
    """f's result, which can be written as a Python value, from a process of the daemon's user, which has nothing else."""
    who = pwd.getpwnam(user)
    r, w = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setgroups([])
            os.setresgid(who.pw_gid, who.pw_gid, who.pw_gid)
            os.setresuid(who.pw_uid, who.pw_uid, who.pw_uid)
            libc.prctl(38, 1, 0, 0, 0)  # no_new_privs
            out = repr(f())
        except BaseException as e:  # noqa: B902
            out = repr("!" + repr(e))
        os.write(w, out.encode())
        os._exit(0)
    os.close(w)
    with os.fdopen(r) as pipe:
        text = pipe.read()
    os.waitpid(pid, 0)
    got = eval(text)
    assert not (isinstance(got, str) and got.startswith("!")), got
    return got


def against(pid):
    """{what: errno} of everything that reaches for a process."""
    room = ctypes.create_string_buffer(4096)
    iov = (ctypes.c_size_t * 2)(ctypes.addressof(room), 8)
    attr = struct.pack("<IIQiIQQQ", 48, 5, 0, 0, 0, 0, 0, 0)

    def pidfd(name, *args):
        fd = os.pidfd_open(pid)
        try:
            return call(name, fd, *args)
        finally:
            os.close(fd)
    got = {
        "kill": attempt(lambda: os.kill(pid, 0)), "kill -9": attempt(lambda: os.kill(pid, 9)), "stop": attempt(lambda: os.kill(pid, 19)),
        "tgkill": call("tgkill", pid, pid, 9), "queue": call("rt_sigqueueinfo", pid, 15, room),
        "pidfd signal": pidfd("pidfd_send_signal", 9, 0, 0), "getfd": pidfd("pidfd_getfd", 0, 0),
        "madvise": pidfd("process_madvise", iov, 1, 21, 0), "setns": pidfd("setns", 0x10000000),
        "attach": call("ptrace", 16, pid, 0, 0), "seize": call("ptrace", 0x4206, pid, 0, 0),
        "read": call("process_vm_readv", pid, iov, 1, iov, 1, 0), "write": call("process_vm_writev", pid, iov, 1, iov, 1, 0),
        "prlimit": call("prlimit64", pid, 7, struct.pack("<QQ", 0, 0), 0), "read limits": call("prlimit64", pid, 7, 0, room),
        "priority": call("setpriority", 0, pid, 19), "affinity": call("sched_setaffinity", pid, 8, struct.pack("<Q", 1)),
        "scheduler": call("sched_setscheduler", pid, 5, struct.pack("<i", 0)), "sched_setattr": call("sched_setattr", pid, attr, 0),
        "ioprio": call("ioprio_set", 1, pid, 3 << 13), "move_pages": call("move_pages", pid, 0, 0, 0, 0, 0),
        "kcmp": call("kcmp", pid, os.getpid(), 0, 0, 0), "robust list": call("get_robust_list", pid, room, room),
        "perf": call("perf_event_open", struct.pack("<II", 1, 112) + bytes(104), pid, -1, -1, 0),
    }
    for name in ("mem", "environ", "maps", "smaps", "auxv", "stack", "syscall", "personality", "pagemap", "io", "numa_maps"):
        got[name] = attempt(lambda: open(f"/proc/{pid}/{name}", "rb").read(1))
    for name in ("mem", "oom_score_adj", "clear_refs", "uid_map", "loginuid", "comm", "timerslack_ns"):
        got[name + " for writing"] = attempt(lambda: os.write(os.open(f"/proc/{pid}/{name}", os.O_WRONLY), b"0"))
    for name in ("fd", "fdinfo", "root", "cwd", "map_files", "task/%d/fd" % pid):
        got[name] = attempt(lambda: os.listdir(f"/proc/{pid}/{name}"))
    for name in ("exe", "ns/user", "ns/net", "ns/mnt"):
        got[name] = attempt(lambda: os.readlink(f"/proc/{pid}/{name}"))
    return got


@pytest.fixture
def daemon(make_daemon):
    """The broker and the tracer, whose daemon is us."""
    daemon = make_daemon("broker", start=False)
    daemon.start_broker()
    daemon.start_roots()
    return daemon


def open_to(got):
    absent = (errno.ENOENT, errno.ENOSYS)  # not in this kernel
    return {what: errno.errorcode.get(e, e) for what, e in got.items() if e not in REFUSED and e not in absent}


@pytest.mark.parametrize("who", ["broker", "tracer", "reader", "another user's", "root's"])
def test_other_processes(daemon, who):
    """Another real and saved uid (broker), another user (all others): neither signals nor limits nor a look inside."""
    stranger = None
    if who in ("another user's", "root's"):
        stranger = subprocess.Popen(["sleep", "60"], user=ALICE if who[0] == "a" else 0, extra_groups=[])
        pid = stranger.pid
        time.sleep(0.1)
    elif who == "reader":
        # One that is at work: its client reads nothing, so it waits.
        pid = daemon.roots.pid
        holder = connect(daemon, slow=True)
        wait_for(lambda: len(of(daemon.roots.pid)) > 0 or True, daemon.daemon_log)
        pid = next(iter(of(daemon.roots.pid)), pid)
        got = open_to(as_daemon(lambda: against(pid)))
        holder.close()
        # What is gone meanwhile is out of reach as well.
        got = {k: v for k, v in got.items() if v != "ESRCH"}
        assert not got
        return
    else:
        pid = {"broker": daemon.broker, "tracer": daemon.roots}[who].pid
    try:
        # Reading limits is no more than ps shows; Linux lets readers of the same gid see nothing else either.
        assert not open_to(as_daemon(lambda: against(pid)))
        assert os.kill(pid, 0) is None
    finally:
        if stranger:
            stranger.kill()
            stranger.wait()


def of(pid):
    try:
        return [int(p) for p in open(f"/proc/{pid}/task/{pid}/children").read().split()]
    except OSError:
        return []


def connect(daemon, what="roots/socket", slow=False, patient=False):
    os.seteuid(daemon.users[DAEMON].pw_uid)
    try:
        s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET if what == "ids.socket" else socket.SOCK_STREAM)
        s.settimeout(None if patient else 10)  # without one it waits where the queue is full
        if slow:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
        s.connect(str(daemon.base / what))
        return s
    finally:
        os.seteuid(0)


def answer(s):
    data = b""
    while True:
        part = s.recv(65536)
        if not part:
            return data
        data += part


def complete(data):
    records = data.split(b"\0")
    return data.startswith(b"A1\0") and records[-1] == b"" and records[-2].startswith(b"Z")


def rss(pid):
    return int([line for line in open(f"/proc/{pid}/status") if line.startswith("VmRSS")][0].split()[1])


def test_sockets(daemon):
    """Files, half a message, a thousand connections: the next honest request is served by the same two processes,
    which hold nothing of it."""
    before = {p.pid: (rss(p.pid), len(os.listdir(f"/proc/{p.pid}/fd"))) for p in (daemon.broker, daemon.roots)}
    root = os.open("/", os.O_RDONLY)
    for what in ("roots/socket", "ids.socket"):
        for data, fds in ((b"x", [root] * 200), (b"x" * 7, []), (b"\0" * 8, [root]), (b"\1\0\0\0\1\0\0\0", [root] * 3),
                          (b"\1\0\0\0\1\0\0\0", []), (b"x" * 100000, []), (b"\1\0\0\0\1\0\0\0", [os.pidfd_open(1)])):
            with connect(daemon, what) as s:
                try:
                    socket.send_fds(s, [data], fds)
                    s.shutdown(socket.SHUT_WR)
                except OSError:
                    pass
        held = []
        for _ in range(1000):
            try:
                held.append(connect(daemon, what))
            except OSError:
                break
            if len(held) > 500:
                held.pop(0).close()
        for s in held:
            s.close()
    os.close(root)
    start = time.monotonic()
    with connect(daemon, patient=True) as s:
        s.settimeout(60)
        assert complete(answer(s))
    assert time.monotonic() - start < 30
    child = subprocess.Popen(["sleep", "10"])
    with connect(daemon, "ids.socket") as s:
        socket.send_fds(s, [struct.pack("<II", 1, 1)], [os.pidfd_open(child.pid)])
        assert struct.unpack("<II", s.recv(200)[:8]) == (1, 2)  # refused: a process in the machine's namespace
    child.kill()
    child.wait()
    for p in (daemon.broker, daemon.roots):
        assert p.poll() is None
        memory, fds = before[p.pid]
        assert rss(p.pid) - memory < 8192 and len(os.listdir(f"/proc/{p.pid}/fd")) <= fds + 1


def test_privileges_of_the_machine(daemon):
    """No capability: what takes one fails, whichever it is."""
    victim = daemon.base / "victim"
    victim.write_text("x")
    secret = daemon.homes[ALICE] / "secret"
    secret.write_text("x")
    base, alice = str(daemon.base).encode(), daemon.users[ALICE].pw_uid

    def rogue():
        got = {name: call(name, *args) for name, args in {
            "setuid": (0,), "setgid": (0,), "setgroups": (1, struct.pack("<I", 0)), "setresuid": (alice, alice, alice),
            "mount": (b"none", b"/mnt", b"tmpfs", 0, 0), "umount2": (b"/proc", 2), "chroot": (b"/",), "pivot_root": (b"/", b"/"),
            "mknod": (base + b"/../sda", 0o60600, 0x800), "init_module": (0, 0, b""), "delete_module": (b"x", 0),
            "kexec_load": (0, 0, 0, 0), "settimeofday": (struct.pack("<qq", 1, 0), 0), "sethostname": (b"x", 1),
            "swapon": (b"/x", 0), "acct": (b"/x",), "iopl": (3,), "syslog": (5, 0, 0), "fanotify_init": (0x4, 0),
            "open_by_handle_at": (-100, struct.pack("<Ii", 8, 1) + bytes(8), 0), "chown": (base + b"/victim", alice, alice),
            "vhangup": (), "reboot": (0x12345678, 672274793, 0, 0), "socket": (17, 3, 0),
        }.items()}
        for name, path in {"shadow": "/etc/shadow", "a home": str(secret), "memory": "/proc/kcore", "another's environment": "/proc/1/environ",
                           "locks of the broker": str(daemon.base / "ids")}.items():
            got[name] = attempt(lambda: os.listdir(path) if name.startswith("locks") else open(path, "rb").read(1))
        for path in ("/etc", "/usr", "/usr/bin", "/root", "/proc/sys/kernel/core_pattern", "/sys/kernel/uevent_helper",
                     "/proc/sysrq-trigger", str(daemon.bin), str(daemon.bin / "airplantd"), str(daemon.base / "ids"),
                     str(daemon.base / "roots"), str(daemon.homes[ALICE]), "/var/lib", "/run"):
            got["write " + path] = attempt(lambda: os.close(os.open(path, os.O_WRONLY)) if not os.path.isdir(path) else
                                           os.close(os.open(path + "/airplant-was-here", os.O_CREAT | os.O_WRONLY)))
        got["low port"] = low_port()
        return got
    got = as_daemon(rogue)
    accepted = (*REFUSED, errno.ENOENT, errno.ENOSYS, errno.EROFS, errno.ENODEV, errno.EINVAL)
    bad = {k: errno.errorcode.get(v, v) for k, v in got.items() if v not in accepted}
    assert not bad
    for name in ("setuid", "setresuid", "mount", "chroot", "shadow", "a home", "locks of the broker"):
        assert got[name] in REFUSED, name


def low_port():
    if int(open("/proc/sys/net/ipv4/ip_unprivileged_port_start").read()) == 0:
        return errno.EACCES  # this machine lets everybody
    with socket.socket() as s:
        return attempt(lambda: s.bind(("127.0.0.1", 81)))


def test_neighbours_of_the_same_user(make_daemon):
    """Core, porter and supervisor run as the daemon's user, and so may others (a builder without a sandbox where ids are
    single). None can be looked into or attached to. Signals reach them: that is a loss of service. Sessions are not among
    them: they execute inside the jail, whose user namespace the daemon's user owns; but see test_sessions.py, none of
    them is outside of it."""
    daemon = make_daemon("broker")
    client = daemon.popen("nix-build", "--no-out-link", "-E", PRELUDE + 'sh "sleeper" "while :; do :; done"')
    try:
        wait_for(lambda: {"sh", "busybox"} & set(daemon.children().values()), daemon.daemon_log)
        time.sleep(0.3)
        found = {}
        for pid, name in daemon.children().items():
            found.setdefault(name, pid)
        assert {"airplantd", "airplant-porter", "airplant-build"} <= set(found)
        inside = ("getfd", "setns", "attach", "seize", "read", "write", "mem", "environ", "maps", "auxv", "fd", "root", "cwd",
                  "mem for writing", "ns/user", "stack", "kcmp", "perf", "map_files", "uid_map for writing")
        for name in ("airplantd", "airplant-porter", "airplant-build"):
            got = as_daemon(lambda: harmless(found[name]))
            assert not {k: v for k, v in open_to(got).items() if k in inside}, name
    finally:
        client.send_signal(signal.SIGINT)
        client.wait()


def harmless(pid):
    """against(), without what the same user may do."""
    kill, pidfd = os.kill, CALLS["pidfd_send_signal"]
    try:
        os.kill = lambda *_: None
        for name in ("tgkill", "rt_sigqueueinfo", "pidfd_send_signal", "prlimit64", "setpriority", "sched_setaffinity",
                     "sched_setscheduler", "sched_setattr", "ioprio_set"):
            CALLS[name] = 39  # getpid
        return against(pid)
    finally:
        os.kill = kill


def test_privileged_helpers_do_not_listen_to_others(daemon):
    """Neither socket answers anybody but the daemon's user, the superuser's other services included."""
    for user in (ALICE, BROKER, TRACER):
        def knock():
            out = []
            for what in ("roots/socket", "ids.socket"):
                s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET if what == "ids.socket" else socket.SOCK_STREAM)
                s.settimeout(5)
                try:
                    s.connect(str(daemon.base / what))
                    out.append(len(s.recv(100)))
                except OSError as e:
                    out.append(-e.errno)
            return out
        got = as_daemon(knock, user)
        assert all(n <= 0 for n in got), (user, got)
