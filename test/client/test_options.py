"""Settings of the daemon and of its clients: what each does, and who may change it."""
import grp
import json
import os
import pathlib
import pwd
import re
import subprocess
import time

import pytest

from conftest import ALICE, BOB, DAEMON, PRELUDE, wait_for


@pytest.fixture
def one(make_daemon):
    return make_daemon("single")


def gated(make_daemon, mode="single", conf=""):
    """A daemon whose builders can see files that the test makes: /gate."""
    daemon = make_daemon(mode, start=False)
    gate = daemon.base / "gate"
    gate.mkdir()
    gate.chmod(0o777)
    daemon.write_conf(f"sandbox-paths = /bin/sh=/bin/busybox /bin/busybox /gate={gate}\n" + conf)
    daemon.start()
    return daemon, gate


WAIT = "while ! [ -e /gate/open ]; do :; done"


def most_at_once(daemon, gate, clients, want):
    """The number of builders, which must become `want` and never more."""
    builders = lambda: [p for p, n in daemon.children().items() if n in ("sh", "busybox")]
    wait_for(lambda: len(builders()) == want, daemon.daemon_log)
    for _ in range(15):
        assert len(builders()) <= want
        time.sleep(0.02)
    (gate / "open").touch()
    for c in clients:
        out = c.communicate(timeout=60)[0]
        assert c.returncode == 0, out


def three(who):
    return PRELUDE + "[ " + " ".join(f'(sh "{who}{i}" "{WAIT}; echo > $out")' for i in range(3)) + " ]"


@pytest.mark.parametrize("jobs", [1, 3])
def test_max_jobs_is_for_the_machine(make_daemon, jobs):
    """Two clients with six builds: never more at once than the administrator allowed."""
    daemon, gate = gated(make_daemon, "broker", f"max-jobs = {jobs}\n")
    clients = [daemon.popen("nix-build", "--no-out-link", "-E", three(u), user=u) for u in (ALICE, BOB)]
    most_at_once(daemon, gate, clients, jobs)


@pytest.mark.parametrize("mine,want", [(1, 1), (3, 2)])
def test_max_jobs_of_one_client(make_daemon, mine, want):
    """A client's own -j bounds what it pays for; it cannot ask for more than the administrator set."""
    daemon, gate = gated(make_daemon, "broker", "max-jobs = 2\n")
    most_at_once(daemon, gate, [daemon.popen("nix-build", "--no-out-link", "-j", str(mine), "-E", three(ALICE))], want)


def test_max_jobs_zero(make_daemon):
    daemon = make_daemon("single", "max-jobs = 0\n")
    r = daemon.nix_build('sh "no" "echo > $out"', check=False)
    assert r.returncode != 0 and re.search(r"max-jobs|unable to start any build", r.stderr)


def test_timeout(one):
    start = time.monotonic()
    r = one.nix_build('sh "slow" "while :; do :; done"', check=False, args=["--timeout", "1"])
    assert r.returncode != 0 and "timed out after 1 seconds" in r.stderr
    assert time.monotonic() - start < 10
    wait_for(lambda: "sh" not in one.children().values(), one.daemon_log)


def test_max_silent_time(make_daemon):
    daemon, _ = gated(make_daemon)
    r = daemon.nix_build('sh "silent" "while :; do :; done"', check=False, args=["--max-silent-time", "1"])
    assert r.returncode != 0 and "timed out after 1 seconds" in r.stderr
    # Who speaks often enough may take longer than that.
    r = daemon.nix_build('sh "talks" "for i in 1 2 3 4; do echo $i; /bin/busybox sleep 0.4; done; echo > $out"',
                         args=["--max-silent-time", "1"])
    assert r.returncode == 0


def test_log_size_limit(make_daemon):
    daemon = make_daemon("single", "max-build-log-size = 10000\n")
    r = daemon.nix_build('sh "chatty" "while :; do echo xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx; done"', check=False)
    assert r.returncode != 0 and re.search(r"log.*10000 bytes|more than 10000", r.stderr)
    wait_for(lambda: "sh" not in daemon.children().values(), daemon.daemon_log)
    assert daemon.nix_build('sh "brief" "echo x; echo > $out"').returncode == 0


def test_keep_failed(daemon):
    r = daemon.nix_build('sh "kept" "echo remains > file; exit 1"', check=False, args=["--keep-failed"])
    kept = re.search(r'keeping build directory "([^"]+)"', r.stderr)
    assert r.returncode != 0 and kept, r.stderr
    files = [os.path.join(d, f) for d, _, names in os.walk(kept.group(1)) for f in names]
    text = [open(f).read() for f in files if f.endswith("/file")]
    assert text == ["remains\n"]
    # It is there for who asked: an ordinary user can read it.
    path = next(f for f in files if f.endswith("/file"))
    assert daemon.run("cat", path).stdout == "remains\n"
    subprocess.run(["rm", "-rf", kept.group(1)])


def test_a_build_without_a_sandbox_is_kept_where_it_was(make_daemon):
    """What it leaves (scripts, caches of configurations) names its directory: upstream keeps that one. Others leave nothing there."""
    for mode in ("broker", "single"):
        d = make_daemon(mode, "sandbox = false\n")
        for script, code in (("echo at $PWD; echo remains > file; exit 1", 1), ("echo at $PWD; echo > $out", 0)):
            r = d.nix_build(f'sh "kept" "{script}"', check=False, args=["--keep-failed"])
            place = re.search("^at (.*)$", r.stderr, re.M).group(1)
            kept = re.findall(r'keeping build directory "([^"]+)"', r.stderr)
            assert (r.returncode != 0, kept) == (code != 0, [place] * code), r.stderr
            if code:
                assert d.run("cat", f"{place}/file").stdout == "remains\n"
        wait_for(lambda: os.listdir(d.state / "builds") == ["nix-build-kept-0"], d.daemon_log)


def test_kept_is_a_copy_for_one_user(daemon):
    """CVE-2021-27851: nothing changes hands, nothing of the build's inodes is handed out, and nobody else can look."""
    script = """
        echo one > a; ln a b; ln -s /etc/passwd link; mkfifo pipe; mkdir open closed; chmod 777 . open; echo s > closed/secret
        chmod 000 closed/secret closed; printf '#!x' > run; chmod 755 run; exit 1"""
    r = daemon.nix_build(f'sh "kept" \'\'{script}\'\'', check=False, args=["--keep-failed"])
    kept = pathlib.Path(re.search(r'keeping build directory "([^"]+)"', r.stderr).group(1))
    build = next(p.parent for p in kept.rglob("run"))
    uid = pwd.getpwnam(DAEMON).pw_uid
    for path in [kept, *kept.rglob("*")]:
        st = path.lstat()
        assert st.st_uid == uid and not st.st_mode & 0o7022 or path.is_symlink(), path
        assert path.is_dir() or st.st_nlink == 1, path
    assert sorted(os.listdir(build)) == ["a", "b", "closed", "link", "open", "run"]
    assert os.readlink(build / "link") == "/etc/passwd"
    alice = daemon.run("sh", "-c", f"cat {build}/a {build}/b {build}/closed/secret; test -x {build}/run && ls {build}/open")
    assert alice.stdout == "one\none\ns\n"
    for f in ("", "a", "closed/secret"):
        assert daemon.run("ls", "-l", build / f, user=BOB, check=False).returncode != 0
    assert daemon.run("touch", build / "open/new", check=False).returncode != 0
    subprocess.run(["rm", "-rf", kept])


def test_not_kept_without_asking(one):
    r = one.nix_build('sh "gone" "echo remains > file; exit 1"', check=False)
    assert "keeping build directory" not in r.stderr


def test_check(one):
    same = 'sh "same" "echo x > $out"'
    out = one.nix_build(same).stdout
    assert one.nix_build(same, args=["--check"]).stdout == out
    other = 'sh "random" "read x < /proc/sys/kernel/random/uuid; echo $x > $out"'
    path = one.nix_build(other).stdout.strip()
    before = open(path).read()
    r = one.nix_build(other, args=["--check"], check=False)
    assert r.returncode != 0 and re.search(r"may not be deterministic", r.stderr)
    assert open(path).read() == before
    one.run("nix-store", "--verify-path", path)
    r = one.nix_build('sh "never" "echo x > $out"', args=["--check"], check=False)
    assert r.returncode != 0 and re.search(r"not valid|checking is not possible", r.stderr)


def test_check_of_several_outputs(one):
    out = one.nix_build('shWith { name = "m"; outputs = [ "out" "dev" ]; } "echo > $out; echo > $dev"').stdout.strip()
    assert one.nix_build('shWith { name = "m"; outputs = [ "out" "dev" ]; } "echo > $out; echo > $dev"',
                         args=["--check"]).stdout.strip().splitlines()[0] == out


REFERENCES = [
    ("allowedReferences = [];", "echo ${a} > $out", "not allowed to refer to"),
    ("allowedReferences = [ a ];", "echo ${a} > $out", None),
    ("allowedReferences = [ \"out\" ];", "echo $out > $out", None),
    ("allowedReferences = [];", "echo $out > $out", "not allowed to refer to"),
    ("allowedRequisites = [ b ];", "echo ${b} > $out", "not allowed to refer to"),
    ("allowedRequisites = [ a b ];", "echo ${b} > $out", None),
    ("disallowedReferences = [ a ];", "echo ${a} > $out", "not allowed to refer to"),
    ("disallowedReferences = [ a ];", "echo ${b} > $out", None),
    ("disallowedRequisites = [ a ];", "echo ${b} > $out", "not allowed to refer to"),
]


@pytest.mark.parametrize("attrs,script,error", REFERENCES)
def test_reference_checks(one, attrs, script, error):
    r = one.nix_build(f'''let a = sh "a" "echo a > $out"; b = sh "b" "echo ${{a}} > $out"; in
                          shWith {{ name = "refs"; {attrs} }} "{script}"''', check=False)
    if error:
        assert r.returncode != 0 and error in r.stderr, r.stderr
        assert not [f for f in os.listdir(one.store) if f.endswith("-refs")]
    else:
        assert r.returncode == 0, r.stderr


def test_export_references_graph(one):
    out = one.nix_build('''let a = sh "a" "echo a > $out"; b = sh "b" "echo ${a} > $out"; in
        shWith { name = "graph"; exportReferencesGraph = [ "g" b ]; } "while read x; do echo $x; done < g > $out"''')
    lines = open(out.stdout.strip()).read().splitlines()
    # path, deriver, count, references
    paths = [l for l in lines if l.startswith("/")]
    assert [os.path.basename(p).split("-", 1)[1] for p in paths if not p.endswith(".drv")] in (
        ["a", "b", "a"], ["b", "a", "a"])
    assert sorted(l for l in lines if l.isdigit()) == ["0", "1"]


def test_graphs_are_limited(one):
    """They are read while everybody waits."""
    expr = '''let a = builtins.toFile "a" "x"; graphs = n: builtins.concatStringsSep " " (builtins.genList (i: "g${toString i} ${a}") n);
        in shWith { name = "graphs"; exportReferencesGraph = graphs %d; } "while read x; do echo $x; done < g0 > $out"'''
    one.nix_build(expr % 100)
    r = one.nix_build(expr % 6000, check=False)
    assert r.returncode != 0 and "have more than 100000 paths together" in r.stderr, r.stderr


def test_structured_attributes(one):
    script = '''
      x=; while read -r l || [ -n "$l" ]; do x=$x$l; done < .attrs.json
      path=''${x#*\\"out\\":\\"}; path=''${path%%\\"*}
      [ -e .attrs.sh ] && [ -z "$out" ] && [ -z "$list" ] && echo "$x" > $path'''.replace('\\\\"', '\\"')
    out = one.nix_build('shWith { name = "structured"; __structuredAttrs = true; list = [ 1 2 ]; flag = true; '
                        'nested.a = "x y"; } ' + "''" + script + "''").stdout.strip()
    attrs = json.loads(open(out).read())
    assert attrs["list"] == [1, 2] and attrs["flag"] is True and attrs["nested"] == {"a": "x y"}
    assert attrs["outputs"] == {"out": out}


def test_out_links_and_indirect_roots(one):
    home = one.homes[ALICE]
    home.chmod(0o711)
    r = one.run("nix-build", "-o", home / "result", "-E", PRELUDE + 'sh "linked" "echo > $out"')
    out = r.stdout.strip()
    assert os.readlink(home / "result") == out
    auto = one.state / "gcroots/auto"
    assert [os.readlink(auto / f) for f in os.listdir(auto)] == [str(home / "result")]
    roots = one.run("nix-store", "--gc", "--print-roots", user="root").stdout
    assert f"{home}/result -> {out}" in roots.replace('"', "")  # later clients quote
    censored = one.run("nix-store", "--gc", "--print-roots", user=BOB).stdout
    assert str(home) not in censored
    # The link is deleted: so is the root.
    (home / "result").unlink()
    assert out not in one.run("nix-store", "--gc", "--print-roots", user="root").stdout
    second = one.run("nix-store", "-r", out, "--add-root", home / "second").stdout.strip()
    assert os.path.realpath(second) == out


def test_every_query(one):
    out = one.nix_build('let a = sh "a" "echo a > $out"; in shWith { name = "q"; outputs = [ "out" "dev" ]; v = "1"; } '
                        '"echo ${a} $dev > $out; echo > $dev"').stdout.split()[0]
    q = lambda *a, **kw: one.run("nix-store", "-q", *a, **kw).stdout
    names = lambda text: sorted(os.path.basename(p).split("-", 1)[1] for p in text.split())
    drv = q("--deriver", out).strip()
    assert names(q("--outputs", drv)) == ["q", "q-dev"]
    assert names(q("--requisites", out)) == names(q("-R", out)) == ["a", "q", "q-dev"]
    assert names(q("--references", out)) == ["a", "q-dev"]
    assert names(q("--references", drv)) == ["a.drv"]
    assert names(q("--referrers", q("--references", out).split()[0])) == ["q"]
    assert names(q("--requisites", "--include-outputs", drv)) == ["a", "a.drv", "q", "q-dev", "q.drv"]
    assert names(q("--use-output", "--references", drv)) == ["a", "q-dev"]
    assert names(q("--force-realise", "--outputs", drv)) == ["q", "q-dev"]
    assert q("--binding", "v", drv) == "1\n"
    assert re.fullmatch(r"sha256:[0-9a-z]{52}\n", q("--hash", out))
    assert int(q("--size", out)) > 0
    for view, word in (("--tree", "q-dev"), ("--graph", "digraph"), ("--graphml", "<graphml")):
        assert word in q(view, out)
    assert q("--resolve", out).strip() == out
    for option in ("--references", "--referrers", "--deriver", "--hash", "--size"):
        r = one.run("nix-store", "-q", option, f"{one.store}/{'a' * 32}-ghost", check=False)
        assert (r.returncode != 0 and "is not valid" in r.stderr) or (option == "--referrers" and not r.stdout.strip())


# -- who may change what ----------------------------------------------------------------------

ANYBODY = [("build-cores", "1"), ("keep-going", "true"), ("timeout", "100"), ("max-silent-time", "100"),
           ("fallback", "true"), ("keep-failed", "false"), ("substitute", "false"), ("max-jobs", "1")]
RESTRICTED = [("sandbox", "false"), ("sandbox-paths", "/etc=/etc"), ("build-users-group", "root"),
              ("trusted-users", "*"), ("allowed-users", "*"), ("extra-sandbox-paths", "/etc"),
              ("trusted-public-keys", "k:AAAA"), ("require-sigs", "false"), ("pre-build-hook", "/bin/true"),
              ("post-build-hook", "/bin/true"), ("builders", "ssh://x"), ("filter-syscalls", "false"),
              ("diff-hook", "/bin/true"), ("impersonate-linux-26", "true"), ("auto-allocate-uids", "true"),
              ("system-features", "kvm"), ("max-build-log-size", "1")]


@pytest.mark.parametrize("name,value", ANYBODY)
def test_settings_of_anybody(one, name, value):
    r = one.nix_build(f'sh "s-{name}" "echo > $out"', args=["--option", name, value])
    assert "restricted setting" not in r.stderr


@pytest.mark.parametrize("name,value", RESTRICTED)
def test_settings_of_trusted_users(one, name, value):
    r = one.nix_build(f'sh "s-{name}" "echo > $out"', args=["--option", name, value])
    if "unknown setting" in r.stderr or "experimental feature" in r.stderr:
        pytest.skip("this client does not send the setting")
    if name in ("trusted-users", "allowed-users") and "warning" not in r.stderr:
        version = subprocess.run(["nix", "--version"], capture_output=True, text=True).stdout
        assert " 2.8" not in version
        pytest.skip("later clients do not send the setting: it is the daemon's own")
    # Clients send extra-X as X, with what they had before.
    assert f"'{name.removeprefix('extra-')}'" in r.stderr.replace("'extra-", "'") and "restricted setting" in r.stderr


def test_restricted_setting_has_no_effect(one):
    seen = '[ -e /etc/shadow ] && echo seen > $out || echo hidden > $out'
    out = one.nix_build(f'sh "look" "{seen}"', args=["--option", "sandbox-paths", "/bin/sh=/bin/busybox /etc/shadow"])
    assert open(out.stdout.strip()).read() == "hidden\n"
    out = one.nix_build('sh "look2" "echo $$ > $out"', args=["--option", "sandbox", "false"]).stdout.strip()
    assert open(out).read() == "1\n"


def test_trusted_users_may(make_daemon):
    daemon = make_daemon("single", f"trusted-users = root {ALICE}\n")
    args = ["--option", "extra-sandbox-paths", "/etc/debian_version"]
    look = lambda name: f'sh "{name}" "[ -e /etc/debian_version ] && echo seen > $out || echo hidden > $out"'
    assert open(daemon.nix_build(look("one"), args=args).stdout.strip()).read() == "seen\n"
    r = daemon.nix_build(look("two"), args=args, user=BOB)
    assert open(r.stdout.strip()).read() == "hidden\n" and "restricted setting" in r.stderr


def test_trusted_by_group(make_daemon):
    group = grp.getgrgid(pwd.getpwnam(ALICE).pw_gid).gr_name
    daemon = make_daemon("single", f"trusted-users = @{group}\n")
    r = daemon.nix_build('sh "g" "echo > $out"', args=["--option", "require-sigs", "false"])
    assert "restricted setting" not in r.stderr
    r = daemon.nix_build('sh "h" "echo > $out"', args=["--option", "require-sigs", "false"], user=BOB)
    assert "restricted setting" in r.stderr


def test_a_builder_that_closes_its_log_has_ended(daemon):
    """Upstream's rule, which its test `timeout` looks at: nobody would hear of such a one any more. An exit status counts all the same."""
    r = daemon.nix_build('sh "closed" "echo said; exec >/dev/null 2>&1; echo > $out; sleep 1000"', check=False)
    assert r.returncode != 0 and "builder failed due to signal 9 (Killed)" in r.stderr and "> said" in r.stderr
    r = daemon.nix_build('[ (sh "status" "echo before; exit 7") (sh "none" "echo > $out") ]', check=False, args=["--keep-going"])
    assert "failed with exit code 7" in r.stderr and r.stderr.count("error: Cannot build") == 1
