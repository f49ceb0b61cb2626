"""`streamzoo depth`: a video of depth, lines, flicker, cameras, points; clear words otherwise."""

import json
from types import SimpleNamespace

import av
import numpy as np
import pytest

from streamzoo.streaming.cli import main
from streamzoo.streaming.ply import write_ply
from streamzoo.streaming.watch import Meter, rows_of
from streamzoo.zoo import registry
from streamzoo.zoo.depth.model import DepthConfig
from streamzoo.zoo.depth.temporal.model import TemporalDepth, TemporalDepthConfig
from streamzoo.zoo.depth.vggt.config import VGGTConfig
from streamzoo.zoo.depth.vggt.stream import VGGTStream
from streamzoo.zoo.encode.vit import ImageViTConfig
from streamzoo.zoo.registry import Card

SIZE = (28, 42)
ENCODER = ImageViTConfig(SIZE, 14, 16, 4, 2, table_grid=(2, 3), pool="none")
TINY = DepthConfig(ENCODER, (0, 1, 2, 3), widths=(4, 4, 4, 4), fused=8, hidden=4, max_depth=10.0)
GEOMETRY = VGGTConfig(
    SIZE, conv_stem=True, dim=16, depth=1, heads=2, layers=(0, 0, 0, 0), camera_depth=1,
    camera_heads=2, rounds=1, widths=(4, 4, 4, 4), fused=8, hidden=4, window=2,
)  # fmt: skip
MODELS = {
    "tinydepth-s14": (TemporalDepth, TemporalDepthConfig(TINY)),
    "tinygeometry-s14": (VGGTStream, GEOMETRY),
}


@pytest.fixture
def models():
    for name, (build, config) in MODELS.items():
        card = Card(name, summary="a toy", input_size=SIZE, task="depth")
        registry.register(name, build, config, card)
    yield
    for name in MODELS:
        registry._ENTRIES.pop(name)


@pytest.fixture
def film(tmp_path):
    path = tmp_path / "film.mp4"
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 255, (56, 84, 3), np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 84, 56, "yuv420p"
        for _ in range(4):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def watch(film, name, out, *more):
    return main(["depth", str(film), "--model", name, "--random-weights", "--out", str(out), *more])


def test_depth_of_a_file(models, film, tmp_path, capsys):
    out = tmp_path / "out"
    assert watch(film, "tinydepth-s14", out) == 0
    lines = [json.loads(line) for line in (out / "film.jsonl").read_text().splitlines()]
    assert len(lines) == 4
    assert all(line["depth"]["unit"] == "m" for line in lines)
    assert all(0 < line["depth"]["near"] <= line["depth"]["far"] <= 10 for line in lines)
    assert lines[0]["depth"]["confidence"] == 0 and lines[-1]["depth"]["confidence"] > 0.5
    with av.open(str(out / "film.mp4")) as video:
        assert [f.to_ndarray(format="rgb24").shape for f in video.decode(video=0)] == [
            (56, 168, 3)
        ] * 4, "the picture, and its depth beside it"
    assert "flicker: " in capsys.readouterr().err
    assert not list(out.glob("*.ply"))


@pytest.mark.slow
def test_cameras_and_points_of_a_file(models, film, tmp_path, capsys):
    out = tmp_path / "out"
    assert watch(film, "tinygeometry-s14", out, "--no-video") == 0
    path = [json.loads(line) for line in (out / "film.cameras.jsonl").read_text().splitlines()]
    assert [line["frame"] for line in path] == [0, 1, 2, 3]
    turn = np.asarray(path[2]["rotation"])
    np.testing.assert_allclose(turn @ turn.T, np.eye(3), atol=1e-3)
    head, _, body = (out / "film.ply").read_bytes().partition(b"end_header\n")
    count = int(head.decode().split("element vertex ")[1].split()[0])
    assert count == 4 * (SIZE[0] * SIZE[1] // 2) and len(body) == 15 * count
    assert json.loads((out / "film.jsonl").read_text().splitlines()[0])["depth"]["unit"] == "scene"
    assert watch(film, "tinygeometry-s14", out, "--no-video") == 2
    assert "--overwrite" in capsys.readouterr().err


def test_wrong_use_is_told(film, tmp_path, capsys):
    for words, told in (
        (["--scene", "indoor", "--model", "dpt-l16"], "give one of them"),
        (["--model", "yolox-nano/coco"], "says no depth"),
        (["--model", "dpt-l16"], "has no weights"),
        (["--model", "vggt-l14"], "is offline"),
    ):
        assert main(["depth", str(film), "--out", str(tmp_path / "o"), *words]) == 2
        assert told in capsys.readouterr().err


def test_a_run_that_comes_to_nothing_leaves_no_folder(film, tmp_path, capsys, monkeypatch):
    """Weights that cannot be had are told in one short line."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    out = tmp_path / "new"
    assert main(["depth", str(film), "--out", str(out), "--scene", "indoor"]) == 2
    told = capsys.readouterr().err
    assert "not on this machine" in told and "HF_HUB_OFFLINE" in told
    assert "depth-nano/worlds comes with the package" in told and len(told) < 400
    assert not out.exists()
    assert main(["depth", str(tmp_path / "no.mp4"), "--out", str(out)]) != 0
    assert not out.exists()


def test_the_live_table_counts_to_where_it_ends():
    source = SimpleNamespace(frame_count=200, delay=0, live=False)
    session = SimpleNamespace(carry_bytes=1)
    shown = lambda most: rows_of(Meter(), session, source, most=most)["frames"]
    assert [shown(most) for most in (3, 300, None)] == ["0/3", "0/200", "0/200"]


def test_points_that_are_nowhere_are_left_out(tmp_path):
    points = np.asarray([[0, 1, 2], [np.inf, 0, 0], [3, 4, 5]], np.float32)
    colours = np.asarray([[1, 2, 3], [4, 5, 6], [7, 8, 9]], np.uint8)
    write_ply(tmp_path / "a.ply", points, colours)
    head, _, body = (tmp_path / "a.ply").read_bytes().partition(b"end_header\n")
    assert b"element vertex 2" in head
    assert np.frombuffer(body[:12], "<f4").tolist() == [0, 1, 2] and list(body[12:15]) == [1, 2, 3]
    with pytest.raises(ValueError, match="3 points and 2 colours"):
        write_ply(tmp_path / "b.ply", points, colours[:2])
