"""Every way into a model makes the card's picture, and every answer is about the whole picture."""

import asyncio
import dataclasses
from pathlib import Path

import av
import jax.numpy as jnp
import numpy as np
import pytest

from streamzoo.streaming import Session, Slots, Step, open_source
from streamzoo.streaming.engine import Costs, Engine
from streamzoo.streaming.engine.feed import Feed
from streamzoo.streaming.framing import Framing
from streamzoo.streaming.serve.limits import Limits
from streamzoo.streaming.serve.pictures import Pictures
from streamzoo.streaming.serve.wire import RAW, FrameMessage
from streamzoo.streaming.sources.push import PushSource
from streamzoo.zoo import list_models, model_card
from streamzoo.zoo.action.outputs import ActionOutput
from streamzoo.zoo.detect import Detections
from streamzoo.zoo.picture import picture
from streamzoo.zoo.pose import Pose
from streamzoo.zoo.preprocess import fitted


def rules():
    """One card of each rule that is not "stretch", with the names that have it."""
    found = {}
    for name in list_models():
        card = model_card(name)
        if card.fit != "stretch":
            rule = card.fit, card.filter, card.short_side, card.input_size, card.fill
            found.setdefault(rule, card)
    assert {rule[0] for rule in found} == {"crop", "pad", "letterbox"}
    return [pytest.param(c, id=f"{c.name}-{c.fit}") for c in found.values()]


class Finder:
    """Says where the white is in its frames."""

    latency = 0

    def init_carry(self, batch, frame_shape=None):
        return jnp.zeros((batch, 1))

    def apply(self, params, carry, frames, valid=None):
        white = frames[..., 1] > 0.75
        edges = []
        for axis in (-1, -2):
            line = white.any(axis=-2 if axis == -1 else -1)
            size = line.shape[-1]
            edges.append(jnp.argmax(line, axis=-1) / size)
            edges.append(1 - jnp.argmax(line[..., ::-1], axis=-1) / size)
        x1, x2, y1, y2 = edges
        boxes = jnp.stack([x1, y1, x2, y2], axis=-1)[:, :, None]
        there = white.any(axis=(-1, -2))[..., None]
        return carry, Detections(boxes, there * 1.0, there * 0, there)


def step_of(card):
    plain = dataclasses.replace(
        card, task="detect", mean=(0.0,) * 3, std=(1.0,) * 3, classes=("white",)
    )
    return Step(Finder(), None, plain)


def drawn(height, width):
    """A picture with a white box near its middle, and where that is."""
    image = np.full((height, width, 3), 40, np.uint8)
    y1, y2, x1, x2 = height * 3 // 8, height * 5 // 8, width * 4 // 9, width * 5 // 9
    image[y1:y2, x1:x2] = 255
    return image, np.asarray([x1 / width, y1 / height, x2 / width, y2 / height])


def film(path, image):
    with av.open(str(path), "w") as out:
        stream = out.add_stream("ffv1", rate=5)
        stream.height, stream.width, stream.pix_fmt = *image.shape[:2], "bgr0"
        out.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        out.mux(stream.encode())
    return path


def engine(step, slots=2):
    return Engine(step, slots=slots, buckets=(slots,), max_load=1e9, costs=Costs({slots: [1e-4]}))


def near(found, want, card):
    """Equal to a pixel and a half of the frame's, in fractions of the picture."""
    assert len(found) == 1
    np.testing.assert_allclose(found[0]["box"], want, atol=4.5 / min(card.input_size))


@pytest.mark.parametrize("card", rules())
def test_every_way_in_makes_the_cards_picture(card, tmp_path):
    image, _ = drawn(90, 160)
    step = step_of(card)
    card, size = step.card, engine(step).frame_shape
    assert size == card.input_size
    want = picture(image, card) if card.own_rule else None
    shape = want.shape[:2] if want is not None else fitted((90, 160), size)
    with open_source(film(tmp_path / "a.mkv", image), size=size) as source:
        of_file, told = source.read().image, source.size
    sent = FrameMessage(RAW, 0, image.tobytes(), height=90, width=160)
    of_client = Pictures(size, Limits())(sent)
    pushed = PushSource(size=size)
    pushed.push(image)
    of_push = pushed.read(timeout=5).image
    pushed.close()
    for got in (of_file, of_client, of_push, Framing(card)(image).image):
        assert got.shape[:2] == shape
        np.testing.assert_array_equal(got, of_file if want is None else want)
    assert told == shape


@pytest.mark.parametrize("card", rules())
def test_boxes_come_back_on_the_picture(card, tmp_path):
    image, want = drawn(90, 160)
    step = step_of(card)
    card = step.card
    with Session(step) as session:
        near(session.push(image).objects(), want, card)

    async def main():
        async with engine(step, slots=1) as e:
            stream = e.add("cam", 5, budget=60.0, policy="lossless", check=False)
            source = open_source(film(tmp_path / "a.mkv", image), size=e.frame_shape)
            feed = Feed(source, stream)
            answers = [answer async for answer in stream]
            await feed.wait()
            stream.close()
            bare = e.add("bare", 5, budget=60.0, policy="lossless", check=False)
            await bare.push(image)
            return [*answers, await anext(bare)]

    answers = asyncio.run(main())
    assert len(answers) == 2
    for answer in answers:
        near(answer.result.objects(), want, card)


class Seen(Step):
    """A step that keeps the frames it was given."""

    def __call__(self, carry, frames, valid=None, **extras):
        self.frames = frames
        return super().__call__(carry, frames, valid, **extras)


def test_a_batch_of_several_shapes_has_the_cards_grey_beside_its_pictures():
    step = Seen(Finder(), None, step_of(model_card("yolox-nano/coco")).card)
    slots = Slots(step, 2)
    wide, tall = drawn(90, 160), drawn(150, 100)
    slots.admit("wide"), slots.admit("tall")
    out = slots.step({"wide": wide[0], "tall": tall[0]})
    np.testing.assert_allclose(out["wide"].boxes[0], wide[1], atol=0.01)
    np.testing.assert_allclose(out["tall"].boxes[0], tall[1], atol=0.01)
    assert (step.frames[0, 0, 234:] == 114).all() and (step.frames[1, 0, :, 277:] == 114).all()
    assert (step.frames[0, 0, :234] != 114).all()


def test_another_size_than_the_cards_is_the_callers_own():
    """Frames of a chosen size are as they come, and of a card without a rule too."""
    image, _ = drawn(90, 160)
    for card, size in ((model_card("clip-b16"), (90, 160)), (model_card("tsa-lite0"), None)):
        framing = Framing(card, size)
        with pytest.raises(ValueError, match=r"frame \(8, 8, 3\) should be"):
            framing(np.zeros((8, 8, 3), np.uint8))
    assert Framing(model_card("clip-b16"), (90, 160))(image).image is image
    with pytest.raises(ValueError, match="float64 and should be uint8"):
        Framing(model_card("clip-b16"))(image / 255)


def test_slots_that_hold_nothing_stay_zero_and_points_move_as_boxes_do():
    image = np.zeros((200, 100, 3), np.uint8)  # the input shows the middle half of it
    card = dataclasses.replace(model_card("clip-b16"), short_side=224)
    told = Framing(card)(image).told
    boxes = np.asarray([[0, 0, 1, 1], [0, 0, 0, 0]], np.float32)
    there = np.asarray([True, False])
    want = [[0, 0.25, 1, 0.75], [0, 0, 0, 0]]
    points = np.zeros((2, 17, 3), np.float32)
    points[0] = (0.5, 0.0, 0.9)
    pose = told(Pose(points, boxes, np.ones(2), there))
    np.testing.assert_allclose(pose.boxes, want, atol=1e-6)
    np.testing.assert_allclose(pose.keypoints[0, 0], (0.5, 0.25, 0.9), atol=1e-6)
    assert not pose.keypoints[1].any()
    persons = told(ActionOutput(boxes=boxes, box_valid=there))
    np.testing.assert_allclose(persons.boxes, want, atol=1e-6)
    assert told(ActionOutput()).boxes is None


@pytest.mark.slow
def test_a_detector_answers_a_batch_of_shapes_as_a_session_of_one(tmp_path):
    """Persons and cars of a real street, found in the full frame as in one of the picture's shape:
    the network pads with zeros where the second one ends, so scores move a little."""
    with open_source(Path(__file__).parents[1] / "bench/results/street.jpg") as source:
        image = source.read().image[100:900]  # wide
    card = model_card("yolox-nano/coco")
    with Session.of(card.name, frame_shape=fitted(image.shape[:2], card.input_size)) as session:
        with open_source(film(tmp_path / "a.mkv", image), size=session.frame_shape) as source:
            want = session.push(source.read().image).objects()
    with Session.of(card.name) as session:
        got = session.push(image).objects()
    assert len(want) > 3
    sure = [o for o in want if o["score"] > 0.5]
    for one in sure:
        near = [o for o in got if o["label"] == one["label"]
                and np.abs(np.subtract(o["box"], one["box"])).max() < 0.03]  # fmt: skip
        assert near, one
    assert sure
