"""How many frame intervals have passed reaches the model, wherever a stream runs."""

import asyncio
import math

import jax.numpy as jnp
import pytest

from streamzoo.streaming import Session, Step
from streamzoo.streaming.elapsed import MOST, Elapsed
from streamzoo.streaming.engine import Costs, Engine
from streamzoo.streaming.slots import Slots
from streamzoo.zoo import create_model

from .stub import CARD, SIZE, Stub, params, video


class Paced(Stub):
    """It answers with the intervals that it was told."""

    latency, cross_stream, inputs = 0, False, ("frames", "elapsed")

    def apply(self, params, carry, x, valid=None, *, elapsed=None):
        valid = jnp.ones(x.shape[:2], bool) if valid is None else valid
        carry, out = super().apply(params, carry, x, valid)
        return carry, out | {"elapsed": jnp.zeros(valid.shape, int) if elapsed is None else elapsed}


STEP = Step(Paced(), params(), CARD)
TIMES = [100.0, 100.1, 100.2, 100.5, 100.58, 100.7, 99.0, 103.0]
INTERVALS = [1, 1, 1, 3, 1, 1, 1, 40]  # at 10 frames/s


def test_intervals_are_counted_from_capture_times():
    elapsed = Elapsed(10.0)
    assert [elapsed(t) for t in TIMES] == INTERVALS
    assert elapsed(math.nan) == elapsed(None) == 1 and elapsed(103.2) == 2
    assert elapsed(1e12) == MOST
    elapsed.reset()
    assert elapsed(5e12) == 1
    assert [Elapsed(None)(t) for t in (0.0, 50.0)] == [1, 1]
    with pytest.raises(ValueError, match="fps=0"):
        Elapsed(0)


def test_of_a_stream_of_the_engine():
    """Every stream by its own rate and its own last frame that was launched."""

    async def main():
        costs = Costs({4: [1e-4]})
        async with Engine(STEP, slots=4, buckets=(4,), max_load=1e9, costs=costs) as engine:
            found = {}
            for fps in (10, 20):
                stream = engine.add(fps, fps, budget=60.0, policy="lossless", check=False)
                answers = found[fps] = []
                for frame, time in zip(video(0, len(TIMES)), TIMES, strict=True):
                    await stream.push(frame, time)
                    answers.append(int((await anext(stream)).result.output["elapsed"]))
            return found

    found = asyncio.run(main())
    assert found[10] == INTERVALS and found[20] == [1, 2, 2, 6, 2, 2, 1, 80]


def test_of_a_session_and_of_slots():
    told = lambda result: int(result.output["elapsed"])
    with Session(STEP, SIZE, fps=10) as session:
        frames = video(0, 4)
        assert [told(session.push(f, t)) for f, t in zip(frames, TIMES, strict=False)] == [
            1,
            1,
            1,
            3,
        ]
        assert told(session.peek(frames[0])) == 1 and told(session.push(frames[0], 100.6)) == 1
        session.reset()
        assert told(session.push(frames[0], 200.0)) == 1
    with Session(STEP, SIZE) as session:  # no rate: the model's own default
        assert [told(session.push(frames[0], t)) for t in (0.0, 9.0)] == [0, 0]
    slots = Slots(STEP, 2, SIZE)
    slots.admit("a")
    assert slots.step({"a": frames[0]})["a"]["elapsed"] == 1


def test_the_tracker_of_every_command_takes_it():
    assert "elapsed" in create_model("follow-nano").inputs
