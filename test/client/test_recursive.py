"""Builds that talk to the daemon (the feature recursive-nix): a real client inside of a real build."""
import os
import re
import time

import pytest

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
