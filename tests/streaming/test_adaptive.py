"""A session that keeps a target of time, and an engine that does, on a model of two numbers."""

import asyncio
import itertools

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest

from streamzoo.streaming import Step
from streamzoo.streaming.adaptive import AdaptiveSession
from streamzoo.streaming.engine import Engine
from streamzoo.streaming.engine.gears import Branches, Way
from streamzoo.streaming.variants import Variant, answers_alike, shrunk
from streamzoo.streaming.ways import branches_of
from streamzoo.zoo.registry import Card

SIZE = (64, 96)
CARD = Card("mean-brightness", summary="a toy", input_size=SIZE, mean=(0.0,) * 3, std=(1.0,) * 3)


class Brightness(nn.Module):
    """The mean colour so far: of pictures of any size."""

    latency, cross_stream, inputs = 0, False, ("frames",)

    @nn.nowrap
    def init_carry(self, batch, frame_shape=None):
        return jnp.zeros((batch, 3), jnp.float32)

    @nn.compact
    def __call__(self, carry, frames, valid=None):
        now = frames.mean((2, 3))[:, 0]
        here = jnp.ones(now.shape[:1], bool) if valid is None else valid[:, 0]
        carry = jnp.where(here[:, None], 0.5 * carry + 0.5 * now, carry)
        return carry, {"mean": carry[:, None]}


class Mapped(Brightness):
    """Its answer has the size of its pictures."""

    @nn.compact
    def __call__(self, carry, frames, valid=None):
        return carry, {"map": frames.mean(-1)}


def step_of(module=Brightness):
    return Step(module(), {"params": {}}, CARD)


def film(count=12, seed=0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    base = rng.integers(0, 255, (1, *SIZE, 3))
    drift = 8 * np.arange(count)[:, None, None, None]
    return np.clip(base // 2 + drift, 0, 255).astype(np.uint8)


def test_branches_are_sizes_and_intervals_whose_answers_fit():
    found = branches_of(step_of(), SIZE, film(), precisions=(), every=(1, 3))
    assert [v.size for v in found.variants] == [(64, 64), (32, 64)] or len(found.variants) == 2
    assert found.ways[0].accuracy == 1 and found.ways[0].variant == 0
    by = {(w.variant, w.every): w.accuracy for w in found.ways}
    for k in range(3):
        assert by[k, 3] < by[k, 1], "an answer that is held is less near"
    assert by[1, 1] > 0.9
    # a model whose answer has the size of its pictures has one size
    assert not branches_of(step_of(Mapped), SIZE, film(), precisions=()).variants
    assert not answers_alike(step_of(Mapped), step_of(Mapped), SIZE, (32, 64))


def test_frames_are_shrunk_by_their_mean():
    frames = film(2)[None]
    small = shrunk(frames, (32, 48))
    assert small.shape == (1, 2, 32, 48, 3) and shrunk(frames, SIZE) is frames
    assert abs(small.astype(float).mean() - frames.astype(float).mean()) < 2


class Clock:
    """Time passes when a step runs: by its pixels, times the contention."""

    def __init__(self):
        self.now, self.slow = 0.0, 1.0

    def __call__(self):
        return self.now


class Timed(Step):
    """A step that takes a microsecond per pixel of simulated time."""

    clock: Clock

    def __call__(self, carry, frames, valid=None, **extras):
        self.clock.now += 1e-6 * frames.shape[2] * frames.shape[3] * self.clock.slow
        return super().__call__(carry, frames, valid, **extras)


def adaptive(target, every=(1, 2, 4)):
    clock = Clock()
    step = Timed(Brightness(), {"params": {}}, CARD)
    step.clock = clock
    ways = [Way(f"{n} {k}", n, k, 1 - 0.1 * n - 0.02 * k) for n in (0, 1) for k in every]
    branches = Branches((Variant(step, (32, 48)),), tuple(ways))
    return AdaptiveSession(step, SIZE, target, branches, clock=clock), clock


def test_a_session_keeps_its_target_when_the_machine_slows_down():
    """6.1 ms per whole frame alone; the target is 8.5 ms; then four times as slow."""
    session, clock = adaptive(0.0085)
    spent = {1.0: [], 4.0: []}
    for n in range(120):
        clock.slow = 1.0 if n < 40 else 4.0
        before = clock.now
        result = session.push(film(1)[0], n / 30)
        assert result.index == n and np.isfinite(result.output["mean"]).all()
        spent[clock.slow].append(clock.now - before)
    assert np.mean(spent[1.0]) == pytest.approx(64 * 96e-6), "alone: whole, every frame"
    settled = np.mean(spent[4.0][16:])
    assert settled <= 0.0085 < 4 * 64 * 96e-6
    assert session.used["0 1"] >= 40 and session.computed < 120
    assert "frames computed" in session.told()


def test_a_left_out_frame_has_the_last_answer_and_its_own_number():
    session, _ = adaptive(1e-4, every=(4,))  # nothing is fast enough: the fastest
    results = [session.push(frame, n / 10) for n, frame in enumerate(film(8))]
    assert [r.index for r in results] == list(range(8))
    assert [r.time for r in results] == [n / 10 for n in range(8)]
    same = [
        np.array_equal(a.output["mean"], b.output["mean"]) for a, b in itertools.pairwise(results)
    ]
    assert same == [True, True, True, False, True, True, True]
    with pytest.raises(ValueError, match="should be"):
        session.push(np.zeros((5, 5, 3), np.uint8))


def test_the_engine_runs_the_gear_that_it_chose():
    """Real steps: streams get answers of the variant, and the report says which branch."""
    step = step_of()
    ways = (Way("whole", 0, 1, 0.5), Way("half", 1, 1, 0.9))
    branches = Branches((Variant(step, (32, 48)),), ways)

    async def go():
        async with Engine(step, slots=2, buckets=(1, 2), branches=branches, max_load=1e9) as engine:
            stream = engine.add("cam", 15, budget=60.0, policy="lossless", check=False)
            for frame in film(4):
                await stream.push(frame)
            stream.finish()
            return [answer async for answer in stream], engine.report()

    answers, report = asyncio.run(go())
    assert report["branch"]["name"] == "half" and len(answers) == 4
    carry = np.zeros((1, 3), np.float32)
    for frame, answer in zip(film(4), answers, strict=True):
        small = shrunk(frame[None, None], (32, 48)).astype(np.float32) / 255
        carry = 0.5 * carry + 0.5 * small.mean((2, 3))[:, 0]
        np.testing.assert_allclose(answer.result.output["mean"], carry[0], atol=1e-5)


def test_a_model_across_streams_has_one_way():
    class Across(Brightness):
        cross_stream = True

    with pytest.raises(ValueError, match="looks across streams"):
        branches_of(step_of(Across), SIZE, film())
