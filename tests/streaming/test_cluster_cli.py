"""`streamzoo cluster`: its errors, without starting a Ray."""

import importlib.util
import subprocess
import sys

import pytest

from streamzoo.layers.install import how_to_install
from streamzoo.streaming import cli
from streamzoo.streaming.cluster import Scaling
from streamzoo.streaming.cluster.launch import Cluster
from streamzoo.streaming.serve.server import Settings, bind

needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="needs the extra cluster"
)


@needs_ray
@pytest.mark.parametrize(
    "words, message",
    [
        ([], "needs --store"),
        (["--store", "s", "--replicas", "4:1"], "--replicas 4:1: 1 <= MIN <= MAX"),
        (["--store", "s", "--replicas", "many"], "give MIN:MAX, such as 1:4"),
        (["--store", "s", "--slots", "0"], "--slots 0: give a whole number, at least 1"),
        (["--store", "s", "--host", "0.0.0.0"], "reached from other machines"),
        (["--store", "s", "--token-file", "/nowhere"], "token file /nowhere"),
        (["--store", "s", "--model", "tsa-tset16/tiny"], "unknown model"),
        (["--store", "s", "--model", "videomae-b16"], "is offline"),
    ],
)
def test_wrong_use_is_one_clear_line(capsys, monkeypatch, tmp_path, words, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("STREAMZOO_TOKEN", raising=False)
    assert cli.main(["cluster", *words]) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1 and "Traceback" not in err


@needs_ray
def test_a_port_that_is_taken_is_said_before_ray_is_started(capsys, tmp_path):
    with bind("127.0.0.1", 0) as sock:
        port = str(sock.getsockname()[1])
        assert cli.main(["cluster", "--store", str(tmp_path / "s"), "--port", port]) == 2
        assert f"127.0.0.1:{port} cannot be bound" in capsys.readouterr().err


def test_an_extra_that_is_missing_is_named(capsys, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "ray" else find(name)
    )
    assert cli.main(["cluster", "--store", "s"]) == 2
    assert how_to_install("cluster") in capsys.readouterr().err


def test_the_server_and_the_directory_do_not_import_ray():
    rooms = "streamzoo.streaming.{0}.server streamzoo.streaming.cli streamzoo.streaming.{1}"
    names = [*rooms.format("serve", "cluster").split(), "streamzoo.streaming.cluster.placing"]
    names += [f"streamzoo.streaming.cluster.{name}" for name in ("client", "command", "replica")]
    code = f"import sys, {', '.join(names)}; assert 'ray' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_settings_that_do_not_go_together(tmp_path):
    with pytest.raises(ValueError, match="needs --store"):
        Cluster(Settings())
    with pytest.raises(ValueError, match="1 <= MIN <= MAX"):
        Cluster(Settings(store=tmp_path), (0, 2))
    assert Cluster(Settings(store=tmp_path, port=9), scaling=Scaling()).address.endswith(":9")
