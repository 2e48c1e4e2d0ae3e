"""How the daemon is started, told to reload, and ended."""
import os
import signal
import socket
import subprocess
import time

from conftest import ALICE, BOB, DAEMON, wait_for


def spawn_as_daemon(daemon, argv, **kw):
    pw = daemon.users[DAEMON]
    return daemon.spawn("airplantd", ["setpriv", "--reuid", str(pw.pw_uid), "--regid", str(pw.pw_gid),
                                      "--clear-groups", "--inh-caps=-all", *map(str, argv)],
                        stdout=open(daemon.daemon_log, "ab"), **kw)


def test_socket_activation(make_daemon):
    """The socket comes from the service manager; clients wait in it before the daemon runs."""
    daemon = make_daemon("single", start=False)
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(str(daemon.socket))
        os.chmod(daemon.socket, 0o666)
        s.listen(16)
        early = daemon.popen("nix-store", "--check-validity", f"{daemon.store}/{'a' * 32}-x")
        fd = s.fileno()
        os.set_inheritable(fd, True)
        env = daemon.env(DAEMON) | {"NIX_REMOTE": "", "LISTEN_FDS": "1", "LISTEN_FDNAMES": "airplant.socket"}
        # LISTEN_PID must name the process that is going to be the daemon.
        p = spawn_as_daemon(daemon, ["bash", "-c", f'[ {fd} = 3 ] || exec 3<&{fd} {fd}<&-; '
                                     f'export LISTEN_PID=$$; exec {daemon.bin}/airplantd'],
                            pass_fds=[fd], env=env)
        try:
            out = early.communicate(timeout=10)[0]
        except subprocess.TimeoutExpired:
            early.kill()
            raise AssertionError("no answer:\n" + daemon.tail() + str(daemon.children()))
        assert early.returncode == 1 and "path" in out and "is not valid" in out, out + daemon.tail()
        assert p.poll() is None
    # The socket is the service manager's: it stays when the daemon ends.
    p.terminate()
    assert p.wait(10) == 0
    assert daemon.socket.exists()


def test_ids_auto_takes_the_broker(make_daemon):
    daemon = make_daemon("broker", start=False)
    daemon.start_broker()
    daemon.mode = "auto"
    daemon.write_conf()
    daemon.start()
    wait_for(lambda: "ids: broker at" in daemon.tail(), daemon.daemon_log, seconds=5)


def test_ids_auto_says_that_it_is_single(make_daemon):
    daemon = make_daemon("auto")
    wait_for(lambda: "ids: single" in daemon.tail(), daemon.daemon_log, seconds=5)
    assert daemon.tail().count("ids:") == 1


def test_reload(make_daemon):
    daemon = make_daemon("single")
    ask = lambda: daemon.run("nix-store", "--check-validity", f"{daemon.store}/{'a' * 32}-x", user=BOB, check=False).stderr
    assert "is not valid" in ask()
    daemon.write_conf(f"allowed-users = {ALICE}\n")
    daemon.core.send_signal(signal.SIGHUP)
    wait_for(lambda: "settings reloaded" in daemon.tail(), daemon.daemon_log)
    assert "is not allowed to connect" in ask()
    # A file that cannot be read as settings leaves the old ones in force.
    (daemon.etc / "airplant.conf").write_text("durable = sometimes\n")
    daemon.core.send_signal(signal.SIGHUP)
    wait_for(lambda: "not reloaded" in daemon.tail(), daemon.daemon_log)
    assert "is not allowed to connect" in ask()


def test_broken_settings_say_where(make_daemon):
    daemon = make_daemon("single", start=False)
    (daemon.etc / "nix.conf").write_text("sandbox = true\nmax-jobs = many\n")
    p = spawn_as_daemon(daemon, [daemon.bin / "airplantd"], env=daemon.env(DAEMON))
    assert p.wait(10) == 1
    assert "max-jobs" in daemon.tail() and "nix.conf" in daemon.tail()


def running_builders(daemon):
    return sum(n in ("sh", "busybox") for n in daemon.children().values())


def test_max_jobs_is_for_the_machine(make_daemon):
    """Two clients, each asking for four at a time, get what the administrator set, together."""
    daemon = make_daemon("broker", "max-jobs = 2\n")
    expr = "map (n: derivation { name = \"%s-${toString n}\"; system = builtins.currentSystem; builder = \"/bin/sh\"; " \
           "args = [ \"-c\" \"while :; do :; done\" ]; }) [ 1 2 3 4 ]"
    clients = [daemon.popen("nix-build", "--no-out-link", "-j4", "-E", expr % user, user=user) for user in (ALICE, BOB)]
    try:
        wait_for(lambda: running_builders(daemon) == 2, daemon.daemon_log)
        for _ in range(10):
            time.sleep(0.05)
            assert running_builders(daemon) <= 2
    finally:
        for client in clients:
            client.terminate()
            client.wait()


def test_sigterm_during_a_build(make_daemon):
    daemon = make_daemon("broker")
    client = daemon.popen("nix-build", "--no-out-link", "-E",
                          'derivation { name = "s"; system = builtins.currentSystem; builder = "/bin/sh"; '
                          'args = [ "-c" "echo begun; while :; do :; done" ]; }')
    wait_for(lambda: {"sh", "busybox"} & set(daemon.children().values()), daemon.daemon_log)
    daemon.core.terminate()
    assert daemon.core.wait(10) == 0
    client.wait(20)
    assert client.returncode != 0
    assert not {"sh", "busybox"} & set(daemon.children().values())
    assert not [d for d in os.listdir(daemon.state / "airplant/spool") if d.startswith("b-")]
