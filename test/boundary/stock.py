"""The stock daemon, on a store of the tests' own: the oracle. Not a test.

It is the `nix-daemon` of this machine (2.8 on Debian 12; test/client/matrix brings newer ones), or the command in
$AIRPLANT_STOCK_DAEMON."""
import functools
import os
import re
import shlex
import shutil
import subprocess

from conftest import wait_for

COMMAND = shlex.split(os.environ.get("AIRPLANT_STOCK_DAEMON", "")) or [shutil.which("nix-daemon") or "nix-daemon"]


@functools.cache
def version():
    """As "2.8"."""
    said = subprocess.run([*COMMAND, "--version"], capture_output=True, text=True).stdout
    return re.search(r"(\d+\.\d+)(\.|$)", said).group(1)


def no_build_hook():
    """2.8 cannot do without one, and asks none when there are no builders."""
    return "" if version() == "2.8" else "build-hook =\n"


def env(d):
    return d.env() | {"NIX_REMOTE": "", "_NIX_TEST_NO_LSOF": "1"}


def start(d):
    """In the place of ours, as root, with the configuration that is there.

    It opens the store in a process of each connection. Two that make a new database at the same time get in each other's
    way, and one of them closes its connection without a word: so the store is made before anybody connects."""
    subprocess.run(["nix-store", "--init"], env=env(d), check=True, stdin=subprocess.DEVNULL)
    with open(d.daemon_log, "ab") as out:
        d.procs.append(subprocess.Popen(COMMAND, env=env(d), stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT))
    wait_for(d.answers, d.daemon_log, d.procs[-1])
    return d


def stop(d):
    d.stop()
    d.socket.unlink(missing_ok=True)
