"""A task of one's own is one file, a model, a card and a view; every way of running shows it."""

import dataclasses
import io
import json

import av
import flax.linen as nn
import flax.struct
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import streamzoo
from streamzoo.streaming import Result, Step, rollout, views
from streamzoo.streaming.cli import main
from streamzoo.streaming.serve.server import Server
from streamzoo.zoo import registry
from streamzoo.zoo.registry import Card

from .serving import engine, run
from .stub import SIZE
from .test_serve_page import ask, look, pushing, settings
from .test_serve_web import hear, say

NAME = "toydepth-s1"


@flax.struct.dataclass
class Depth:
    depth: jnp.ndarray  # [B, T, h, w] in [0, 1]


@dataclasses.dataclass(frozen=True)
class DepthConfig:
    image_size: tuple[int, int] = SIZE


class ToyDepth(nn.Module):
    """What is dark is far away."""

    config: DepthConfig
    task = "depth"
    latency, cross_stream, inputs = 0, False, ("frames",)

    @nn.nowrap
    def init_carry(self, batch, frame_shape=None):
        return jnp.zeros((batch, 1))

    @nn.compact
    def __call__(self, carry, frames, valid=None):
        gain = self.param("gain", nn.initializers.ones, ())
        return carry, Depth(1 - gain * frames.mean(-1))


class DepthView(views.View[Depth]):
    def fields(self, result):
        return {"nearest": round(float(result.output.depth.min()), 4)}

    def sent(self, result):
        return {"output": self.fields(result)}

    def picture(self, image, result):
        grey = (255 * np.asarray(result.output.depth)).round().astype(np.uint8)
        large = Image.fromarray(grey).resize(image.shape[1::-1], Image.Resampling.NEAREST)
        return np.stack([np.asarray(large)] * 3, axis=-1)


CARD = Card(NAME, summary="a toy", input_size=SIZE, mean=(0.0,) * 3, std=(1.0,) * 3)


@pytest.fixture
def depth(monkeypatch):
    monkeypatch.setattr(views, "VIEWS", {k: v for k, v in views.VIEWS.items() if k != "depth"})
    views.register_view("depth", DepthView)
    with pytest.raises(ValueError, match="'depth' has a view already"):
        views.register_view("depth", DepthView)
    registry.register(NAME, ToyDepth, DepthConfig(), CARD)
    yield streamzoo.init_params(NAME)
    registry._ENTRIES.pop(NAME)


def halves(left, right, size=SIZE):
    image = np.full((*size, 3), left, np.uint8)
    image[:, size[1] // 2 :] = right
    return image


def test_the_map_is_painted_by_watch(depth, tmp_path):
    film, out = tmp_path / "film.mp4", tmp_path / "out"
    with av.open(str(film), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for _ in range(3):
            image = halves(40, 200, (64, 96))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))
    assert main(["watch", str(film), "--model", NAME, "--random-weights", "--out", str(out)]) == 0
    lines = [json.loads(line) for line in (out / "film.jsonl").read_text().splitlines()]
    assert len(lines) == 3
    for line in lines:
        assert line.keys() == {"frame", "time", "model_ms", "latency_ms", "nearest"}
        assert line["nearest"] == pytest.approx(55 / 255, abs=0.02)
    with av.open(str(out / "film.mp4")) as video:
        pictures = [f.to_ndarray(format="rgb24") for f in video.decode(video=0)]
    assert len(pictures) == 3 and pictures[0].shape == (64, 96, 3)
    for picture in pictures:  # the map, twice as wide as the model saw it, in place of the film
        assert abs(picture[:, 4:40].mean() - 215) < 8 and abs(picture[:, 56:92].mean() - 55) < 8


def test_the_map_is_painted_on_the_servers_tiles_and_its_record_sent(depth):
    async def serve():
        async with (
            engine(step=Step(depth[0], depth[1], CARD)) as e,
            Server(e, settings()) as server,
        ):
            async with pushing(server.sessions, "a") as session, look(server) as socket:
                await say(socket, type="watch")
                await hear(socket, "watching")
                header, after, seen = {}, 0, []
                while len(seen) < 2:
                    header, pictures = await ask(socket, ["a"], after)
                    after = header["after"]
                    seen += zip(header["tiles"], pictures, strict=True)
                newest = session.recent.newest
                for tile, jpeg in seen:
                    grey = tile["index"] % 200  # what was pushed
                    picture = np.asarray(Image.open(io.BytesIO(jpeg)))
                    assert abs(picture.mean() - (255 - grey)) < 4
                assert newest["output"].keys() == {"nearest"}

    run(serve())


def test_the_map_is_painted_of_a_rollout(depth):
    model, params = depth
    frames = np.stack([halves(40, 200), halves(0, 255)])
    _, out = rollout(model, params, streamzoo.preprocess(frames[None], CARD))
    assert out.depth.shape == (1, 2, 4, 6)
    card = streamzoo.model_card(NAME)
    for t, (left, right) in enumerate(((215, 55), (255, 0))):
        result = Result.of(card, t, t / 10, 1.0, Depth(np.asarray(out.depth[0, t])))
        painted = result.draw(np.zeros((64, 96, 3), np.uint8))
        np.testing.assert_array_equal(painted, halves(left, right, (64, 96)))
        assert result.scores() is None and result.persons() == [] and result.rows() == []
