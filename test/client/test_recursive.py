"""Builds that talk to the daemon (the feature recursive-nix): a real client inside of a real build."""
import os
import re

import pytest

from conftest import PRELUDE, wait_for

# The machine's own client, in the sandbox with all it needs.
CONF = ("experimental-features = nix-command recursive-nix ca-derivations\n"
        "sandbox-paths = /bin/sh=/bin/busybox /usr /lib /lib64 /etc/alternatives?\n")


def recursive(name, script, more=""):
    return (f'(shWith {{ name = "{name}"; requiredSystemFeatures = [ "recursive-nix" ]; PATH = "/usr/bin"; {more} }} '
            "''\n  set -e\n" + script + "''" + ")")


def inner(name, script, more=""):
    """An expression for use inside of a build."""
    return (f'derivation {{ name = "{name}"; system = "x86_64-linux"; builder = "/bin/sh"; '
            f'args = [ "-c" "{script}" ]; {more} }}')


@pytest.fixture(params=["broker", "single"])
def daemon(request, make_daemon):
    return make_daemon(request.param, CONF)


def refs(daemon, path):
    return daemon.run("nix-store", "-q", "--references", path).stdout.split()


def test_add_and_use(daemon):
    """What is added appears in the sandbox at once, read-only, and may be referred to."""
    out = daemon.nix_build(recursive("adds", """
      echo $NIX_REMOTE
      mkdir tree $out; echo hello > tree/file; echo flat > flat; ln -s nowhere link
      for i in tree flat link; do
        p=$(nix-store --add $i)
        nix-store --check-validity $p
        ln -s $p $out/$i
      done
      cat $out/tree/file $out/flat
      [ "$(readlink $(readlink $out/link))" = nowhere ]
      if echo changed > $out/tree/file; then exit 1; fi
      if /bin/sh -c "echo new > $out/tree/new"; then exit 1; fi
    """)).stdout.strip()
    found = refs(daemon, out)
    assert sorted(re.sub(".*/[a-z0-9]{32}-", "", p) for p in found) == ["flat", "link", "tree"]
    assert open(f"{out}/tree/file").read() == "hello\n"
    daemon.run("nix-store", "--verify", "--check-contents", user="root")


def test_build_inside(daemon):
    """An inner build is built outside of its asker's sandbox, and seen in there."""
    out = daemon.nix_build(recursive("outer", """
      nix-build --no-out-link -E '%s' > path
      cp $(cat path) copy; cat copy
      mkdir $out; ln -s $(cat path) $out/inner
    """ % inner("inner", "echo from within > $out"))).stdout.strip()
    assert open(out + "/inner").read() == "from within\n"
    assert refs(daemon, out) == [os.readlink(out + "/inner")]


DEEP = """{ n, self }: derivation {
  name = "deep-${toString n}"; system = "x86_64-linux"; builder = "/bin/sh"; PATH = "/usr/bin"; inherit n; self = builtins.path { path = self; name = "deep.nix"; };
  requiredSystemFeatures = [ "recursive-nix" ];
  args = [ "-c" ''set -e
    if [ $n = 0 ]; then echo bottom > $out; exit; fi
    nix-build --no-out-link $self --arg n $((n - 1)) --arg self $self > path
    cp $(cat path) $out'' ];
}"""


def deep(daemon, n, **kw):
    (daemon.homes["airplant-alice"] / "deep.nix").write_text(DEEP)
    return daemon.run("nix-build", "--no-out-link", "./deep.nix", "--arg", "n", n, "--arg", "self", "./deep.nix", **kw)


def test_one_slot(make_daemon):
    """With a single slot each build gives it to the one that it asked for."""
    daemon = make_daemon("broker", CONF + "max-jobs = 1\n")
    assert open(deep(daemon, 3).stdout.strip()).read() == "bottom\n"


def test_depth_is_bounded(make_daemon):
    daemon = make_daemon("broker", CONF + "max-jobs = 1\n")
    r = deep(daemon, 12, check=False)
    assert r.returncode != 0 and "more than 8 deep" in r.stderr, r.stderr


def test_logs_go_to_who_waits(daemon):
    """As upstream: the asker is told results, the client of the outer build sees both logs."""
    r = daemon.nix_build(recursive("outer", """
      nix-build --no-out-link -E '%s' > path 2> told || exit 1
      ! grep SAID told
      nix-build --no-out-link -E '%s' 2> told && exit 1
      cat told; grep -q "failed with exit code 3" told
      ln -s $(cat path) $out
    """ % (inner("inner", "echo I SAID something; echo > $out"), inner("failing", "echo WOE; exit 3"))))
    assert "I SAID something" in r.stderr and re.search("building '.*-inner.drv'", r.stderr), r.stderr
    assert refs(daemon, r.stdout.strip()) == [os.readlink(r.stdout.strip())]


def test_collections_leave_it_alone(daemon):
    """What the build may use is kept as long as it runs, though nothing else refers to it yet."""
    out = daemon.nix_build(recursive("keeps", """
      echo one > one; a=$(nix-store --add one)
      b=$(nix-build --no-out-link -E '%s')
      echo $a $b > names
      nix-store --gc > /dev/null
      cat $a $b
      touch /tmp/mark
      mkdir $out; ln -s $a $out/a; ln -s $b $out/b
    """ % inner("two", "echo two > $out"))).stdout.strip()
    assert open(out + "/a").read() + open(out + "/b").read() == "one\ntwo\n"


def test_a_collection_meanwhile(make_daemon):
    daemon = make_daemon("broker", CONF, start=False)
    shared = daemon.base / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    daemon.write_conf(CONF.replace("/etc/alternatives?", f"/shared={shared}"))
    daemon.start()
    p = daemon.popen("nix-build", "--no-out-link", "-E", PRELUDE + recursive("keeps", """
      echo one > one; a=$(nix-store --add one)
      b=$(nix-build --no-out-link -E '%s')
      echo $a $b > /shared/names.new; mv /shared/names.new /shared/names
      while [ ! -e /shared/done ]; do sleep 0.05; done
      nix-store --check-validity $a $b
      mkdir $out; ln -s $a $out/a; ln -s $b $out/b
    """ % inner("two", "echo two > $out")))
    wait_for(lambda: (shared / "names").exists(), daemon.daemon_log)
    deleted = daemon.run("nix-store", "--gc", user="root").stdout
    for path in (shared / "names").read_text().split():
        assert os.path.exists(path) and path not in deleted
    (shared / "done").write_text("")
    assert p.wait(30) == 0, p.stdout.read()


def test_cancelling(daemon):
    """When the outer build is not wanted any more the inner one is not either."""
    p = daemon.popen("nix-build", "--no-out-link", "-E", PRELUDE + recursive("outer", """
      nix-build --no-out-link -E '%s'
    """ % inner("endless", "while :; do /usr/bin/sleep 1; done")))
    builders = lambda: [pid for pid, name in daemon.children().items() if name in ("sh", "busybox")]
    wait_for(lambda: len(builders()) >= 2, daemon.daemon_log)
    p.kill()
    p.wait()
    wait_for(lambda: not [n for n in daemon.children().values() if n in ("sh", "busybox", "sleep", "nix-build")], daemon.daemon_log)
    wait_for(lambda: not list((daemon.state / "airplant/spool").glob("b-*")), daemon.daemon_log)
    daemon.nix_build('sh "after" "echo > $out"')


USES = """
  echo one > one; a=$(nix-store --add one); ls -d $a; cat $a
  mkdir tree; echo two > tree/f; b=$(nix-store --add tree); cat $b/f
  c=$(nix-build --no-out-link -E '%s'); cat $c
  mkdir $out; ln -s $a $out/a; ln -s $b $out/b; ln -s $c $out/c
""" % inner("three", "echo three > $out")


def used(daemon, r):
    out = r.stdout.strip().split("\n")[-1]
    assert [open(f"{out}/{x}").read() for x in ("a", "b/f", "c")] == ["one\n", "two\n", "three\n"]
    assert len(refs(daemon, out)) == 3


@pytest.mark.parametrize("mode", ["broker", "single"])
def test_without_a_sandbox(make_daemon, mode):
    daemon = make_daemon(mode, start=False)
    # Neither build's scratch may lie where the other, or its own builder, cannot pass.
    daemon.write_conf("sandbox = false\nexperimental-features = nix-command recursive-nix\n")
    daemon.start()
    # The path was looked for before it was there.
    used(daemon, daemon.nix_build(recursive("host", "ls $NIX_STORE > /dev/null\n" + USES)))


def test_root_of_a_range(make_daemon):
    daemon = make_daemon("broker", CONF)
    used(daemon, daemon.nix_build(recursive("range", USES).replace('[ "recursive-nix" ]', '[ "recursive-nix" "uid-range" ]')))


def test_many_inputs(daemon):
    """Their places lie on an overlay then."""
    used(daemon, daemon.nix_build(recursive(
        "many", USES, 'inputs = builtins.genList (i: builtins.toFile "f${toString i}" "x") 150;')))


def test_fixed_output_and_check(daemon):
    out = daemon.nix_build(recursive("fixed", "x=$(nix-build --no-out-link -E '%s'); echo -n x > $out" % inner("i", "echo > $out"),
                                     'outputHashMode = "flat"; outputHashAlgo = "sha256"; outputHash = builtins.hashString "sha256" "x";'))
    assert open(out.stdout.strip()).read() == "x"
    expr = recursive("checked", USES)
    used(daemon, daemon.nix_build(expr))
    daemon.nix_build(expr, args=["--check"])


def test_floating(daemon):
    """Outputs named after what was built, inside and outside; realisations are there for who had them built."""
    args = ["--option", "experimental-features", "nix-command ca-derivations"]
    ca = '__contentAddressed = true; outputHashMode = "recursive"; outputHashAlgo = "sha256";'
    out = daemon.nix_build(recursive("floating", """
      export NIX_CONFIG="experimental-features = nix-command ca-derivations"
      c=$(nix-build --no-out-link -E '%s'); cat $c
      d=$(nix-build --no-out-link -E '%s'); [ $c = $d ]
      mkdir $out; ln -s $c $out/c
    """ % (inner("i", "echo ca > $out", ca), inner("i", "echo ca > $out; :", ca)), ca), args=args).stdout.strip()
    assert open(out + "/c").read() == "ca\n" and refs(daemon, out) == [os.readlink(out + "/c")]


def test_needs_the_feature(make_daemon):
    daemon = make_daemon("broker")
    r = daemon.nix_build(recursive("none", "echo > $out"), check=False)
    assert r.returncode != 0 and "recursive-nix" in r.stderr
