"""What a build is kept apart with is missing: it is refused with a sentence, and no builder runs."""
import contextlib
import sys

import pytest

from conftest import DAEMON, PRELUDE, wait_for

BUILD = PRELUDE + 'sh "refused" "echo ran >&2; echo > $out"'


def limited(daemon, kind, limit):
    """The core in a user namespace of its own, whose limit is `limit`."""
    pw = daemon.users[DAEMON]
    script = f"echo {limit} > /proc/sys/user/max_{kind}_namespaces && exec setpriv --inh-caps=-all --ambient-caps=-all \"$@\""
    return lambda argv: [*argv[:-1], "unshare", "--user", f"--map-user={pw.pw_uid}", f"--map-group={pw.pw_gid}",
                         "--keep-caps", "sh", "-c", script, "sh", argv[-1]]


def refused(daemon):
    r = daemon.run("nix-build", "--no-out-link", "-E", BUILD, check=False)
    assert r.returncode != 0 and "ran" not in r.stderr.splitlines(), r.stderr
    return r.stderr


# Sessions use some, so that the limit that stops builds alone is not 0 for all kinds.
@pytest.mark.parametrize("kind, word, limit", [
    ("user", "user", 1), ("net", "network", 1), ("pid", "pid", 0), ("uts", "uts", 1), ("ipc", "ipc", 1)])
def test_namespaces(make_daemon, kind, word, limit):
    daemon = make_daemon("single", start=False)
    daemon.change = limited(daemon, kind, limit)
    daemon.start()
    assert (f"a build cannot be isolated: this machine refuses {word} namespaces (the limit "
            f"user.max_{kind}_namespaces is 0 or reached; raise it)") in refused(daemon)


@pytest.mark.parametrize("kind, word", [("user", "user"), ("net", "network")])
def test_no_session_without(make_daemon, kind, word):
    """Sessions need them, too: then the daemon does not start."""
    daemon = make_daemon("single", start=False)
    daemon.change = limited(daemon, kind, 0)
    with contextlib.suppress(AssertionError):
        daemon.start()  # it listens before it gives up
    expected = (f"sessions cannot be isolated: this machine refuses {word} namespaces (the limit "
            f"user.max_{kind}_namespaces is 0 or reached; raise it)")
    wait_for(lambda: daemon.core.poll() == 1 and expected in daemon.tail(), daemon.daemon_log)


# prctl(PR_SET_SECCOMP) is how a builder gets its filter; our own processes use seccomp(2).
FORBID = """
import ctypes, os, struct, sys
code = b"".join(struct.pack("HBBI", *i) for i in (
    (0x20, 0, 0, 0), (0x15, 0, 3, int(sys.argv[1])), (0x20, 0, 0, 16), (0x15, 0, 1, int(sys.argv[2])),
    (0x06, 0, 0, 0x50000 | 1), (0x06, 0, 0, 0x7fff0000)))
buf = ctypes.create_string_buffer(code, len(code))
class Program(ctypes.Structure):
    _fields_ = [("len", ctypes.c_ushort), ("filter", ctypes.c_void_p)]
p = Program(len(code) // 8, ctypes.addressof(buf))
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, ctypes.byref(p)) == 0, os.strerror(ctypes.get_errno())
os.execv(sys.argv[3], sys.argv[3:])
"""


def forbidding(number, first_argument):
    return lambda argv: [*argv[:-1], sys.executable, "-c", FORBID, str(number), str(first_argument), argv[-1]]


def test_filter_of_the_builder(make_daemon):
    daemon = make_daemon("single", start=False)
    daemon.change = forbidding(157, 22)
    daemon.start()
    text = refused(daemon)
    assert "unable to load seccomp BPF program" in text and "CONFIG_SECCOMP_FILTER" in text
    daemon.stop()
    daemon.write_conf("filter-syscalls = false\n")  # as the sentence says
    daemon.start()
    daemon.run("nix-build", "--no-out-link", "-E", BUILD)


def test_filter_of_the_daemon(make_daemon):
    daemon = make_daemon("single", start=False)
    daemon.change = forbidding(317, 1)
    with contextlib.suppress(AssertionError):
        daemon.start()
    expected = "cannot install the system call filter of airplantd (a kernel with CONFIG_SECCOMP_FILTER is needed)"
    wait_for(lambda: daemon.core.poll() == 1 and expected in daemon.tail(), daemon.daemon_log)


def test_broker(make_daemon):
    daemon = make_daemon("broker")
    daemon.broker.terminate()
    daemon.broker.wait()
    (daemon.base / "ids.socket").unlink(missing_ok=True)
    text = refused(daemon)
    assert "ids.socket" in text and "broker" in text, text
