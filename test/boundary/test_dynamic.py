"""Derivations that are outputs of derivations: what no client of this distribution can say."""
import pytest

from worker import Refused, Worker

FEATURES = "experimental-features = nix-command ca-derivations dynamic-derivations\n"
OUT = "/1rz4g4znpzjwh1xymhjpm42vipw92pr73vdgl6xs1hycac8kf2n9"  # stands for the output "out"


def derive(outputs, script, inputs="", srcs="", out=OUT, head="Derive("):
    return (f'{head}[("out","",{outputs})],[{inputs}],[{srcs}],"x86_64-linux","/bin/sh",'
            f'["-c","{script}"],[("out","{out}")])').encode()


def derivations(w):
    """One that makes a derivation, and one that wants what that one gives."""
    inner = w.add_text("inner.drv", derive('"r:sha256",""', "echo inner > $out"))
    maker = w.add_text("inner.drv.drv", derive('"text:sha256",""', f"cat {inner} > $out", srcs=f'"{inner}"'),
                       [inner])
    user = w.add_text("user.drv", derive(
        '"",""', "echo user > $out", inputs=f'("{maker}",([],[("out",["out"])]))', out="",
        head='DrvWithVersion("xp-dyn-drv",'), [maker])
    return inner, maker, user


def build(w, target):
    """op 46 with one target: status, error, outputs."""
    w.send(46, 1, target, 0)
    w.finish()
    assert w.u64() == 1 and w.string() == target
    status, error = w.u64(), w.string()
    [w.u64() for _ in range(4)]
    [w.u64() for _ in range(2) if w.u64()]
    return status, error, {w.string(): w.string() for _ in range(w.u64())}


def output_map(w, drv):
    w.op(41, drv)
    return {w.string(): w.string() for _ in range(w.u64())}


def test_outputs_of_outputs(make_daemon):
    daemon = make_daemon("single", FEATURES)
    with Worker(daemon.socket) as w:
        inner, maker, user = derivations(w)
        assert output_map(w, maker) == {"out": ""}
        status, error, outputs = build(w, f"{maker}!out!out")
        assert status == 0, error
        assert output_map(w, maker) == {"out": inner}
        assert open(output_map(w, inner)["out"]).read() == "inner\n"
        assert any('"outPath":"' in o and "-inner" in o for o in outputs.values())
        assert build(w, f"{maker}!out!out")[0] == 2  # it is there
        assert build(w, f"{user}!out")[0] == 0
        assert open(output_map(w, user)["out"]).read() == "user\n"
        assert "does not have wanted outputs 'dev'" in build(w, f"{maker}!out!dev")[1]
        assert "does not have wanted outputs 'dev'" in build(w, f"{maker}!dev!out")[1]
        not_drv = w.add_text("x.drv", derive('"text:sha256",""', "echo x > $out"))
        assert "is not a derivation" in build(w, f"{not_drv}!out!out")[1]
        fails = w.add_text("y.drv.drv", derive('"text:sha256",""', "exit 3"))
        status, error, _ = build(w, f"{fails}!out!out")
        assert status == 10 and error == f"failed to obtain derivation of '{fails}^out'"
        assert any("exit code 3" in line for line in w.log)


def test_a_derivation_that_is_made_is_checked(make_daemon):
    """A builder cannot bring a derivation into the store that a client could not."""
    daemon = make_daemon("single", FEATURES)
    with Worker(daemon.socket) as w:
        bad = w.add_text("bad.drv.drv", derive('"text:sha256",""', "echo Derive > $out"))
        status, error, _ = build(w, f"{bad}!out")
        assert status != 0 and "error parsing derivation" in error
        assert not [p for p in daemon.store.iterdir() if p.name.endswith("-bad.drv")]


def test_without_the_feature(make_daemon):
    daemon = make_daemon("single", "experimental-features = nix-command ca-derivations\n")
    with Worker(daemon.socket) as w:
        inner = w.add_text("inner.drv", derive('"r:sha256",""', "echo inner > $out"))
        for text in [derive('"text:sha256",""', "x"),
                     derive('"",""', "x", inputs=f'("{inner}",([],[("out",["out"])]))', out="",
                            head='DrvWithVersion("xp-dyn-drv",')]:
            with pytest.raises(Refused, match="experimental Nix feature 'dynamic-derivations' is disabled"):
                w.add_text("n.drv", text, [inner] if b"xp-dyn" in text else [])
        with pytest.raises(Refused, match="experimental Nix feature 'dynamic-derivations' is disabled"):
            w.op(9, 1, f"{inner}!out!out", 0)
