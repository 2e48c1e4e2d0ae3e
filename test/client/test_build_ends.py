"""The end of a build, whatever it leaves: the client's answer and the next build wait for no deletion, memory stays small,
processes that are stopped, traced or deep in the kernel end with the others, and in the end nothing is left.

With a million files (some minutes):  MANY_FILES=1000000 python3 -m pytest test/client/test_build_ends.py -k many_files
"""
import os
import signal
import subprocess
import sys
import pathlib
import time

import pytest

from conftest import DAEMON, PRELUDE, wait_for

sys.path.append(str(pathlib.Path(__file__).parents[1] / "boundary"))
from worker import Worker  # noqa: E402

MANY = int(os.environ.get("MANY_FILES", "40000"))
PYTHON_PATHS = "extra-sandbox-paths = /usr /lib /lib64\n"
MEMORY_MAX = 64 << 20  # of one process of ours


def spool(daemon):
    return daemon.state / "airplant/spool"


def is_all_gone(daemon):
    marks = [f.read_bytes() for f in (daemon.base / "ids").iterdir()] if daemon.mode == "broker" else []
    return not any(m not in (b"", b"-") for m in marks) and not list(spool(daemon).glob("b-*")) and \
        not os.listdir(spool(daemon) / "lost") and not os.listdir(spool(daemon) / "trash")


def memory(daemon):
    """The peak of each of our processes, by name."""
    peaks = {}
    for pid, name in daemon.children().items():
        try:
            status = open(f"/proc/{pid}/status").read()
        except OSError:
            continue
        if name.startswith("airplant") and "VmHWM:" in status:
            peaks[f"{name} {pid}"] = int(status.split("VmHWM:")[1].split()[0]) * 1024
    return peaks


def python_builder(name, code):
    code = code.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
    return (f'derivation {{ name = "{name}"; system = builtins.currentSystem; outputs = [ "out" ]; '
            f'builder = "/usr/bin/python3"; args = [ "-c" "{code}" ]; }}')


def answers_quickly(daemon):
    best = 1e9
    for _ in range(3):
        start = time.monotonic()
        with Worker(daemon.socket) as w:
            w.valid(str(daemon.store / ("a" * 32 + "-x")))
        best = min(best, time.monotonic() - start)
    assert best < 0.1


@pytest.mark.parametrize("mode", ["broker", "single"])
def test_many_files_delay_nobody(make_daemon, mode):
    daemon = make_daemon(mode, "max-jobs = 1\n")
    client = daemon.popen("nix-build", "--no-out-link", "-E", PRELUDE + f'''sh "many"
        "mkdir d; cd d; seq 1 {MANY} | xargs touch; cd ..; echo made; echo > $out"''')
    for line in client.stdout:
        if line.strip() == "made":
            break
    assert client.wait(600) == 0
    left = spool(daemon)
    assert list(left.glob("b-*/build/d")) or list(left.glob("trash/*/build/d")) or list(left.glob("*/*/.rm*")), \
        "the client waited until the files were deleted"
    # The next one, which has the only slot, while they are being deleted.
    assert daemon.nix_build('sh "next" "echo > $out"').returncode == 0
    assert not is_all_gone(daemon), "this machine deletes too fast for this test: set MANY_FILES"
    answers_quickly(daemon)
    peaks = {}
    while not is_all_gone(daemon):
        peaks |= memory(daemon)
        time.sleep(0.05)
    assert peaks and max(peaks.values()) < MEMORY_MAX, peaks


def test_deep_and_locked_trees(make_daemon):
    """Paths of 10000 components, directories without a permission, names that are no text: in the scratch and in /tmp."""
    daemon = make_daemon("broker", PYTHON_PATHS)
    code = r"""
import os
os.mkdir('locked'); os.mkdir('locked/in'); open('locked/in/f', 'w').close(); os.mkdir(b'\xff\n*'); os.symlink('/etc', 'link')
os.link('locked/in/f', 'second'); os.mkfifo('fifo')
for top, depth in ('/build/deep', 10000), ('/tmp/deep', 500):
    os.makedirs(top, exist_ok=True); os.chdir(top)
    for i in range(depth):
        os.mkdir('d'); os.chdir('d')
    open('bottom', 'w').close()
os.chmod('/build/locked/in', 0); os.chmod('/build/locked', 0)
open(os.environ['out'], 'w').close()
"""
    assert daemon.run("nix-build", "--no-out-link", "-E", python_builder("deep", code)).returncode == 0
    assert daemon.nix_build('sh "next" "echo > $out"').returncode == 0
    wait_for(lambda: is_all_gone(daemon), daemon.daemon_log, seconds=60)
    assert "cannot be" not in daemon.tail()


# Each leaves processes behind that are not running when the build ends, and says so when they are there.
LEAVERS = {
    "stopped": """
pid = os.fork()
if pid == 0:
    os.kill(os.getpid(), signal.SIGSTOP)
os.waitpid(pid, os.WUNTRACED)
""",
    "traced": """
libc = ctypes.CDLL(None, use_errno=True)
pid = os.fork()
if pid == 0:
    if libc.ptrace(0, 0, 0, 0) != 0:
        os._exit(1)
    os.kill(os.getpid(), signal.SIGSTOP)
assert os.WIFSTOPPED(os.waitpid(pid, 0)[1]), 'not traced'
tracer = os.fork()
if tracer == 0:
    os.setsid()
    child = os.fork()
    if child == 0:
        libc.ptrace(0, 0, 0, 0)
        os.kill(os.getpid(), signal.SIGSTOP)
    os.waitpid(child, 0)
    os.kill(os.getpid(), signal.SIGSTOP)
os.waitpid(tracer, os.WUNTRACED)
""",
    # A parent that waits for its vfork child sleeps in the state D.
    "in the kernel": """
libc = ctypes.CDLL(None, use_errno=True)
pid = os.fork()
if pid == 0:
    if libc.syscall(56, 0x4000 | 17, 0, 0, 0, 0) == 0:
        time.sleep(1000)
    os._exit(0)
while open('/proc/%d/stat' % pid).read().rsplit(')', 1)[1].split()[0] != 'D':
    time.sleep(0.01)
""",
}


@pytest.mark.parametrize("how", LEAVERS)
@pytest.mark.parametrize("end", ["by itself", "timeout", "client leaves"])
def test_processes_that_do_not_run(make_daemon, how, end):
    daemon = make_daemon("broker", PYTHON_PATHS)
    code = "import ctypes, os, signal, time\n" + LEAVERS[how] + "print('now', flush=True)\n"
    code += "open(os.environ['out'], 'w').close()\n" if end == "by itself" else "time.sleep(1000)\n"
    client = daemon.popen("nix-build", "--no-out-link", *(["--timeout", "2"] if end == "timeout" else []), "-E",
                          python_builder("leaver", code))
    said = ""
    for line in client.stdout:
        said += line
        if line.strip() == "now":
            break
    else:
        raise AssertionError(said)
    if end == "client leaves":
        client.kill()
    client.communicate(timeout=20)
    assert end == "client leaves" or (client.returncode == 0) == (end == "by itself")
    wait_for(lambda: is_all_gone(daemon), daemon.daemon_log, seconds=10)
    users = {open(f"/proc/{p}/status").read().split("Uid:\t")[1].split()[0] for p in os.listdir("/proc")
             if p.isdigit() and os.path.exists(f"/proc/{p}/status")}
    assert not [u for u in users if daemon.start_id <= int(u) < daemon.start_id + daemon.id_count]


@pytest.mark.parametrize("mode", ["broker", "single"])
def test_cancelled_while_its_outputs_are_collected(make_daemon, mode):
    """The tree is measured and given away when its client leaves: nothing is registered, and all of it goes."""
    daemon = make_daemon(mode, "max-jobs = 1\n")
    client = daemon.popen("nix-build", "--no-out-link", "-E", PRELUDE + '''sh "huge"
        "mkdir $out; cd $out; seq 1 30000 | xargs touch; echo made"''')
    for line in client.stdout:
        if line.strip() == "made":
            break
    time.sleep(0.15)  # some way into it
    assert client.poll() is None
    client.kill()
    client.wait()
    assert daemon.nix_build('sh "next" "echo > $out"').returncode == 0
    wait_for(lambda: is_all_gone(daemon), daemon.daemon_log, seconds=60)
    assert not [f for f in os.listdir(daemon.store) if f.endswith("-huge")]
    assert daemon.run("nix-store", "--verify").returncode == 0


def test_a_porter_that_dies_is_replaced(make_daemon):
    daemon = make_daemon("single")
    porter = lambda: [p for p, n in daemon.children().items() if n == "airplant-porter"]
    with Worker(daemon.socket) as before:
        for _ in range(2):
            was = porter()
            assert len(was) == 1
            os.kill(was[0], signal.SIGKILL)
            for _ in range(4):  # more than there are spares
                with Worker(daemon.socket) as w:
                    assert not w.valid(str(daemon.store / ("a" * 32 + "-x")))
            wait_for(lambda: porter() and porter() != was, daemon.daemon_log)
            assert before.add_text("kept", b"text")  # a session of before goes on
    assert "the jail is made anew" in daemon.tail()


def test_a_full_disk_does_not_stop_the_cleaning(make_daemon):
    """A build fills the disk with a deep tree and fails; its files go all the same, and the next one has room."""
    daemon = make_daemon("broker", PYTHON_PATHS, start=False)
    pw = daemon.users[DAEMON]
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size=24m,mode=0755,uid={pw.pw_uid},gid={pw.pw_gid}", "none", str(daemon.store)],
                   check=True)
    try:
        daemon.start()
        code = r"""
import os
for i in range(300):
    os.mkdir('directory-%d' % i); os.chdir('directory-%d' % i); open('f', 'w').write('x' * 5000)
with open('/build/rest', 'wb') as f:
    while True:
        f.write(bytes(65536)); f.flush()
"""
        r = daemon.run("nix-build", "--no-out-link", "-E", python_builder("fills", code), check=False)
        assert r.returncode != 0 and "No space left on device" in r.stderr
        where, = daemon.store.glob("*-airplant")
        assert where.is_dir(), "the spool is not on the small disk"
        wait_for(lambda: not list(where.glob("b-*")) and not os.listdir(where / "lost") and not os.listdir(where / "trash"),
                 daemon.daemon_log)
        assert daemon.nix_build('sh "next" "echo > $out"').returncode == 0
        wait_for(lambda: not any(f.read_bytes() not in (b"", b"-") for f in (daemon.base / "ids").iterdir()), daemon.daemon_log)
        assert "cannot be" not in daemon.tail()
    finally:
        daemon.stop()
        subprocess.run(["umount", "-l", str(daemon.store)], check=True)


FUSE = """
import ctypes, os, struct, threading
libc = ctypes.CDLL(None, use_errno=True)
os.makedirs('/build/fuse')
fd = os.open('/dev/fuse', os.O_RDWR)
if libc.mount(b'stuck', b'/build/fuse', b'fuse', 6, b'fd=%d,rootmode=40000,user_id=0,group_id=0' % fd) != 0:
    raise OSError(ctypes.get_errno(), 'mount')
def server():
    while True:
        _, op, unique, _ = struct.unpack_from('<IIQQ', os.read(fd, 1 << 17))
        if op == 26:
            body = struct.pack('<IIIIHHIIHH', 7, 31, 65536, 0, 12, 10, 65536, 1, 32, 0) + bytes(28)
            os.write(fd, struct.pack('<IiQ', 16 + len(body), 0, unique) + body)
if os.fork() == 0:
    server()
os.close(fd)  # while somebody who waits for the server had it himself, nobody could end him
for _ in range(3):
    if os.fork() == 0:
        os.stat('/build/fuse/never')
import time
time.sleep(0.5)
open(os.environ['out'], 'w').close()
print('now', flush=True)
"""


@pytest.mark.parametrize("end", ["by itself", "client leaves"])
def test_a_file_system_that_does_not_answer(make_daemon, end):
    """A build that is root of its ids mounts a file system of its own in its scratch, whose server never answers; some of its
    processes wait for that."""
    if not os.path.exists("/dev/fuse"):
        pytest.fail("this machine has no /dev/fuse")
    daemon = make_daemon("broker", PYTHON_PATHS + "extra-sandbox-paths = /dev/fuse\n")
    code = FUSE + ("" if end == "by itself" else "time.sleep(1000)\n")
    expr = python_builder("fuse", code).replace("builder =", 'requiredSystemFeatures = [ "uid-range" ]; builder =')
    client = daemon.popen("nix-build", "--no-out-link", "-E", expr)
    said = ""
    for line in client.stdout:
        said += line
        if line.strip() == "now":
            break
    else:
        raise AssertionError(said)
    if end == "client leaves":
        client.kill()
    client.communicate(timeout=20)
    assert (client.returncode == 0) == (end == "by itself")
    assert daemon.nix_build('sh "next" "echo > $out"').returncode == 0
    answers_quickly(daemon)
    wait_for(lambda: is_all_gone(daemon), daemon.daemon_log)
