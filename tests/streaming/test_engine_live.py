"""A model that looks across streams, behind slots and the engine: who is gone is not seen."""

from __future__ import annotations

import asyncio
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from streamzoo.streaming import Slots, Step
from streamzoo.streaming.engine import Costs, Engine
from streamzoo.streaming.engine.pool import Pool, bucket_sizes
from streamzoo.zoo.live import LiveConfig, LiveModel
from streamzoo.zoo.registry import Card

SIZE, SLOTS = (16, 16), 4
TINY = LiveConfig(
    image_size=SIZE, encoder="conv16", embed=8, period=2, key_dim=8, cross_heads=2, dim=8,
    hidden=8, classes=3, max_boxes=2, person_cells=1, roi_size=1,
)  # fmt: skip


@pytest.fixture(scope="module")
def step():
    """Weights are normal with a deviation of 0.3, so that the streams do see each other."""
    model = LiveModel(TINY)
    frames = jnp.zeros((1, 1, *SIZE, 3))
    shapes = jax.eval_shape(model.init, jax.random.key(0), model.init_carry(1), frames)
    rng = np.random.default_rng(5)
    draw = lambda a: jnp.asarray(0.3 * rng.normal(size=a.shape), a.dtype)
    return Step(model, jax.tree.map(draw, shapes), Card("toy-live", input_size=SIZE))


def video(seed, frames=6):
    return np.random.default_rng(seed).integers(0, 256, (frames, *SIZE, 3), np.uint8)


def alone(step, videos, rows=SLOTS):
    """Anomaly logits [T] of each video, by the model itself in a batch of ``rows``: the videos in
    the first rows, and in the others noise that takes no part."""
    steps = len(videos[0])
    frames = np.stack([*videos, *(video(90 + k, steps) for k in range(rows - len(videos)))])
    active, carry, seen = np.arange(rows) < len(videos), step.init_carry(rows, SIZE), []
    for t in range(steps):
        valid = np.ones((rows, 1), bool)  # the noise is there, and only not active
        carry, out = step(carry, frames[:, t : t + 1], valid, active=active)
        seen.append(np.asarray(out.anomaly_logits)[: len(videos), 0])
    return np.stack(seen, axis=1)


def through(slots, names, frames):
    """The same, frame by frame through slots or a pool."""
    if not isinstance(slots, Pool):
        return [float(out.anomaly_logits) for out in slots.step(frames).values()]
    out, rows = slots.launch(list(frames), list(frames.values()), slots.size)
    return np.asarray(out.anomaly_logits)[rows, 0].tolist()


@pytest.mark.parametrize("kind", ["slots", "pool"])
def test_idle_slots_and_streams_that_left_have_no_influence(step, kind):
    """Streams before them in the same slots have seen other things; answers are bit for bit those
    of a batch that never had them, and not those of a batch in which they still take part."""
    slots = Slots(step, SLOTS) if kind == "slots" else Pool(step, SLOTS, (SLOTS,))
    for name in "wxyz":
        slots.admit(name)
    for t in range(5):
        through(slots, "wxyz", {n: video(50 + ord(n))[t] for n in "wxyz"})
    for name in "wxyz":
        slots.release(name) if isinstance(slots, Pool) else slots.evict(name)
    for name in "ab":
        slots.admit(name)
    a, b = video(0), video(1)
    got = [through(slots, "ab", {"a": a[t], "b": b[t]}) for t in range(6)]
    np.testing.assert_array_equal(np.asarray(got, np.float32).T, alone(step, [a, b]))
    assert np.abs(alone(step, [a, b])[0] - alone(step, [a, b, video(2)])[0]).max() > 1e-4


def test_a_live_model_behind_the_engine_answers_as_by_itself(step):
    a, b = video(0), video(1)

    async def watch():
        engine = Engine(step, slots=SLOTS, max_load=1e9, costs=Costs({SLOTS: [1e-4]}))
        assert engine.buckets == (SLOTS,)  # by default, as streams have to be together
        async with engine:
            gone = engine.add("gone", fps=1)
            await gone.push(video(7)[0])
            await anext(aiter(gone))
            gone.close()
            one, answers = engine.add("a", fps=1), []
            for frame in a:
                await one.push(frame)
                answer: Any = await anext(aiter(one))
                answers.append(answer.result.output.anomaly_logits)
        return answers

    got = np.asarray(asyncio.run(watch()))
    np.testing.assert_array_equal(got, alone(step, [a])[0])
    assert np.abs(got - alone(step, [a, b])[0]).max() > 1e-4


def test_smaller_batches_are_refused_for_a_model_across_streams(step):
    assert bucket_sizes(step.model, 6) == (6,) and bucket_sizes(object(), 6) == (1, 2, 4, 6)
    with pytest.raises(ValueError, match=r"LiveModel looks across streams.*give \(4,\)"):
        Pool(step, 4, (2, 4))
    with pytest.raises(ValueError, match="from 1 to the 4 slots"):
        bucket_sizes(object(), 4, (0, 4))
