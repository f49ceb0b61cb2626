"""Trials of an engine: their plans, a step whose time is known, and one that fails."""

from __future__ import annotations

import asyncio
import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamzoo.streaming import Step
from streamzoo.streaming.engine import Costs, EngineError, Snapshot
from streamzoo.streaming.engine.trial import Plan, Trial, run_trial
from streamzoo.train.stream_figures import about, row

from . import stub


@given(st.integers(0, 2**32), st.integers(1, 40))
@settings(max_examples=20, deadline=None)
def test_the_same_seed_shows_the_same_frames_at_the_same_phases(seed, streams):
    plan = Plan(streams, 12.5, 3.0, seed)
    one, two, other = (p.draw((6, 8)) for p in (plan, plan, Plan(streams, 12.5, 3.0, seed + 1)))
    np.testing.assert_array_equal(one[0], two[0])
    np.testing.assert_array_equal(one[1], two[1])
    assert (np.asarray(one[0]) != np.asarray(other[0])).any() and (one[1] != other[1]).any()
    assert ((one[1] >= 0) & (one[1] < 1 / 12.5)).all() and plan.frames == 37


@pytest.mark.parametrize(
    "wrong, text",
    [
        (dict(streams=0), "streams=0"), (dict(fps=math.nan), "fps=nan"),
        (dict(seconds=math.inf), "seconds=inf"), (dict(budget=-1), "budget=-1"),
        (dict(seed=-1), "seed=-1"), (dict(seconds=0.2), "are 3 frames of a stream"),
    ],
)  # fmt: skip
def test_impossible_plans_are_refused(wrong, text):
    with pytest.raises(ValueError, match=text):
        Plan(**{"streams": 1, **wrong})


class Lasting(Step):
    """Takes 40 milliseconds for whatever it is given."""

    def __call__(self, *args, **kwargs):
        time.sleep(0.04)
        return super().__call__(*args, **kwargs)


def test_a_step_of_known_time_is_found_to_take_it():
    """The least of many latencies, as a busy machine adds to the others."""
    step = Lasting(stub.Stub(), stub.params(), stub.CARD)
    one = asyncio.run(run_trial(step, Plan(1, 10.0, 2.0, budget=100.0)))
    assert 0.04 <= one.latencies().min() < 0.06
    assert 0.04 <= one.costs.mean(1) < 0.4
    assert one.latencies("offered").min() >= 0.04


def test_latency_counts_from_the_capture_and_the_warm_up_is_left_out():
    """Frames 1/10 s apart, offered 60 ms after their capture, answered 30 ms after that."""
    captured = np.arange(20) / 10
    trial = Trial(
        Plan(1, 10.0, 2.0), np.zeros(20, int), captured, captured + 0.06, captured + 0.09,
        Costs({1: [0.01]}), Snapshot(20, 20),
    )  # fmt: skip
    np.testing.assert_allclose(trial.latencies(), [0.09] * 18)
    np.testing.assert_allclose(trial.latencies("offered"), [0.03] * 18)
    assert row(trial)["p50_ms"] == pytest.approx(90)
    assert trial.holds(0.0901) and not trial.holds(0.0899)


class Told(stub.Stub):
    """What a report asks of a model."""

    latency = 0

    def init_carry(self, batch, frame_shape=None):
        return super().init_carry(batch, frame_shape)


class Compiling(Step):
    """Takes 0.3 s to compile anything."""

    def _compiled(self, jitted, args):
        time.sleep(0.3)
        return super()._compiled(jitted, args)


def test_compiling_is_told_apart_and_is_in_no_latency():
    step = Compiling(Told(), stub.params(), stub.CARD)
    one = asyncio.run(run_trial(step, Plan(2, 10.0, 1.0, budget=100.0)))
    told = about(step, "stub", "")
    assert told["programs"] == step.compiles == 2  # batches of 1 and 2
    assert 0.6 <= step.compile_seconds == pytest.approx(told["compile_seconds"], abs=1e-3)
    assert one.latencies().min() < 0.6


class Failing(Step):
    """Runs out of memory after 12 steps, 9 of which are for its costs."""

    calls = 0

    def __call__(self, *args, **kwargs):
        self.calls += 1
        if self.calls > 12:
            raise RuntimeError("out of memory")
        return super().__call__(*args, **kwargs)


def test_a_step_that_raises_is_not_a_measurement():
    with pytest.raises(EngineError, match="frames failed, the first: .*out of memory"):
        asyncio.run(run_trial(Failing(stub.Stub(), stub.params(), stub.CARD), Plan(1, 25.0, 1.0)))
