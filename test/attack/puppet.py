"""The other end of hostile.c: its system calls, and what it can say to the core, from Python."""
import errno
import os
import re
import shutil
import socket
import struct
import subprocess
import sys
import tempfile

from conftest import REPO

sys.path.append(str(REPO / "test/boundary"))  # worker.py

# x86_64
NR = dict(read=0, write=1, open=2, close=3, mmap=9, rt_sigaction=13, dup2=33, socket=41, connect=42, sendmsg=46, recvmsg=47,
          bind=49, socketpair=53, clone=56, fork=57, execve=59, kill=62, fcntl=72, flock=73, truncate=76, getcwd=79, chdir=80,
          rename=82, mkdir=83, unlink=87, symlink=88, chmod=90, fchmod=91, ptrace=101, setpriority=141, sched_setparam=142,
          sched_setscheduler=144, chroot=161, mount=165, umount2=166, setxattr=188, fchdir=81, exit=60, unshare=272,
          openat=257, mkdirat=258, mknodat=259, fstatat=262, unlinkat=263, renameat=264, linkat=265, symlinkat=266,
          fchmodat=268, setns=308, process_vm_readv=310, name_to_handle_at=303, open_by_handle_at=304, prlimit64=302,
          memfd_create=319, execveat=322, pidfd_send_signal=424, open_tree=428, move_mount=429, pidfd_open=434,
          pidfd_getfd=438, process_madvise=440, getdents64=217, pread64=17, pwrite64=18, ftruncate=77, getpid=39,
          getppid=110, tgkill=234, nanosleep=35, setrlimit=160, ioprio_set=251, process_vm_writev=311)
AT_FDCWD = -100


def messages(header, enum):
    """{name: number} of an enum of src/ipc, as the compiler counts."""
    body = re.search(r"enum %s \{(.*?)\n\};" % enum, (REPO / "src/ipc" / header).read_text(), re.S)[1]
    found, number = {}, -1
    for name, value in re.findall(r"^\t([A-Z_]+)(?: = (\d+))?,", body, re.M):
        found[name] = number = int(value) if value else number + 1
    return found


SESSION, SUPERVISOR = 0, 1  # enum confine_profile


def record(name, **values):
    """A record of src/ipc/session.c, empty but for `values` (already encoded)."""
    body = re.search(r"LAYOUT\(session_%s_layout,(.*?)\);" % name, (REPO / "src/ipc/session.c").read_text(), re.S)[1]
    empty = {"U64": u64(0), "STR": text(""), "STRV": texts([]), "LIST": texts([]), "HASH": bytes(32)}
    fields = re.findall(r"(\w+)\(session_%s, (\w+)" % name, body)
    assert values.keys() <= {field for _, field in fields}
    return b"".join(values.get(field, empty[kind]) for kind, field in fields)


def u64(n):
    return struct.pack("<q", n) if n < 0 else struct.pack("<Q", n)


def text(s):
    """STR of ipc/record.h."""
    s = s.encode() if isinstance(s, str) else s
    return struct.pack("<I", len(s)) + s + b"\0"


def texts(items):
    return struct.pack("<I", len(items)) + b"".join(map(text, items))


def header(kind, length, number=1, flags=0):
    return struct.pack("<IIII", kind, number, length, flags)


class Ended(Exception):
    """The hostile process is gone."""


class Puppet:
    """A process under control. Paths, strings and bytes are put where it can point at them."""

    def __init__(self, s, timeout=10):
        self.s = s
        self.s.settimeout(timeout)
        self.room = self.ask(b"B")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.s.close()

    def tell(self, what, *numbers):
        try:
            self.s.sendall(what + bytes(7) + b"".join(map(u64, numbers)))
        except OSError as e:
            raise Ended from e

    def read(self, n):
        out = b""
        while len(out) < n:
            try:
                part = self.s.recv(n - len(out))
            except ConnectionResetError:
                part = b""
            if not part:
                raise Ended
            out += part
        return out

    def ask(self, what, *numbers):
        self.tell(what, *numbers)
        return struct.unpack("<q", self.read(8))[0]

    def put(self, data, at=1 << 20):
        """Returns the address."""
        self.tell(b"W", self.room + at, len(data))
        try:
            self.s.sendall(data)
        except OSError as e:
            raise Ended from e
        return self.room + at

    def get(self, n, at=1 << 20):
        self.tell(b"R", self.room + at, n)
        return self.read(n)

    def place(self, args):
        """Numbers for arguments: strings and bytes go into the scratch memory, one after another."""
        out, at = [], 1 << 20
        for a in args:
            if isinstance(a, (str, bytes, os.PathLike)):
                data = os.fsencode(a) + b"\0" if not isinstance(a, bytes) else a
                out.append(self.put(data, at))
                at += (len(data) + 15) & ~15
            else:
                out.append(a)
        return out + [0] * (6 - len(out))

    def call(self, name, *args):
        """The result; negative: -errno."""
        return self.ask(b"S", NR[name], *self.place(args))

    def in_child(self, name, *args):
        return self.ask(b"C", NR[name], *self.place(args))

    def error(self, name, *args):
        """The errno's name, or "" when it worked."""
        r = self.call(name, *args)
        return errno.errorcode.get(-r, str(r)) if r < 0 else ""

    def open(self, path, flags=os.O_RDONLY, mode=0, at=AT_FDCWD):
        return self.call("openat", at, path, flags, mode)

    def seal(self, profile=SESSION):
        assert self.ask(b"P", profile) == 0

    def wall(self, profile=SESSION):
        assert self.ask(b"L", profile) == 0

    def file(self, name, data=b"x", mode=0o444, at=4):
        """A file in its spool."""
        fd = self.open(name, os.O_CREAT | os.O_WRONLY | os.O_EXCL, 0o600, at)
        assert fd >= 0, fd
        assert self.call("write", fd, data, len(data)) == len(data)
        assert self.call("fchmod", fd, mode) == 0
        return fd

    # -- its channel to the core ----------------------------------------------------------------

    def send(self, kind, payload=b"", fds=(), number=1, flags=0, length=None, to=3, block=True):
        """One message, whatever it holds. The result of sendmsg."""
        data = header(kind, len(payload) if length is None else length, number, flags) + payload
        return self.send_raw(data, fds, to, block)

    def send_raw(self, data, fds=(), to=3, block=True):
        control = b""
        if fds:
            control = struct.pack("<QII", 16 + 4 * len(fds), socket.SOL_SOCKET, socket.SCM_RIGHTS)
            control += struct.pack(f"<{len(fds)}i", *fds) + bytes(4 * (len(fds) % 2))
        at = self.put(data, 2 << 20)
        where = self.put(control, 1 << 19) if fds else 0
        iov = self.put(struct.pack("<QQ", at, len(data)), 1 << 18)
        message = self.put(struct.pack("<QIIQQQQII", 0, 0, 0, iov, 1, where, len(control), 0, 0), 1 << 17)
        return self.ask(b"S", NR["sendmsg"], to, message, socket.MSG_NOSIGNAL | (0 if block else socket.MSG_DONTWAIT), 0, 0, 0)

    def receive(self, block=True):
        """(type, id, payload) of the core's next message; raises Ended when there is none to come."""
        at = self.room + (2 << 20)
        iov = self.put(struct.pack("<QQ", at, 1 << 20), 1 << 18)
        control = self.room + (1 << 19)
        message = self.put(struct.pack("<QIIQQQQII", 0, 0, 0, iov, 1, control, 256, 0, 0), 1 << 17)
        n = self.ask(b"S", NR["recvmsg"], 3, message, 0 if block else socket.MSG_DONTWAIT, 0, 0, 0)
        if n == -errno.EAGAIN:
            return None
        if n <= 0:
            raise Ended
        data = self.get(n, 2 << 20)
        kind, number, _, _ = struct.unpack("<IIII", data[:16])
        return kind, number, data[16:]

    def request(self, kind, payload=b"", fds=(), number=1):
        """A request and its answer's payload."""
        assert self.send(kind, payload, fds, number) > 0
        while True:
            _, answered, data = self.receive()
            if answered == number:
                return data


def done(payload):
    """"" or the sentence of a SESSION_DONE."""
    ok, n = struct.unpack("<QI", payload[:12])
    return "" if ok else payload[12:12 + n].decode()


def open_filters(program):
    """Sessions inherit the porter's filter, which is compiled into the core. In this copy it kills nobody (each "return
    SECCOMP_RET_KILL_PROCESS" allows), so that what stands behind it is seen. The hostile program has filters of its own."""
    kill, allow = bytes.fromhex("0600000000000080"), bytes.fromhex("060000000000ff7f")
    with open(program, "rb") as f:
        code = f.read()
    assert kill in code
    with open(program, "wb") as f:
        # An instruction lies at a multiple of four; the same bytes elsewhere are something else.
        f.write(re.sub(re.escape(kill), lambda m: m[0] if m.start() % 4 else allow, code))


def programs(binaries, build, *replaced):
    """The executables, with hostile ones in the place of some. A directory to be removed."""
    out = tempfile.mkdtemp(prefix="airplant-bin-", dir="/tmp")
    os.chmod(out, 0o755)
    for p in binaries.iterdir():
        shutil.copy2(p, out)
    for name in replaced:
        os.unlink(f"{out}/{name}")
    if "airplant-session" in replaced:
        open_filters(f"{out}/airplantd")
    src = f"{build}/src"
    subprocess.run(["gcc", "-O1", "-D_GNU_SOURCE", "-std=gnu17", "-static", f"-I{REPO}/src", "-o", f"{out}/hostile",
                    REPO / "test/attack/hostile.c", f"{src}/confine/libconfine.a", f"{src}/base/libbase.a"], check=True)
    for name in replaced:
        shutil.copy2(f"{out}/hostile", f"{out}/{name}")
    return out
