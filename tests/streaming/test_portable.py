"""Streams that are shared by threads, pickled and copied."""

import copy
import pickle
import threading
from typing import Any

import jax
import numpy as np
import pytest

from streamzoo.streaming import Session, Slots, Step
from streamzoo.streaming.session import SessionClosed
from streamzoo.zoo import init_params, model_card

SIZE = (32, 48)
TINY: dict[str, Any] = dict(
    image_size=SIZE, dim=32, depth=1, heads_per_block=2, num_classes=5, heads=("frame",)
)


@pytest.fixture(scope="module")
def step():
    return Step(*init_params("dsta-ti16", **TINY), model_card("dsta-ti16"))


def pictures(count, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, *SIZE, 3), np.uint8)


def from_threads(work, parts):
    """What ``work`` raised in one thread per part."""
    raised = []

    def guarded(part):
        try:
            work(part)
        except Exception as error:  # told below
            raised.append(error)

    threads = [threading.Thread(target=guarded, args=(part,)) for part in parts]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    return raised


def test_threads_that_share_a_session_take_turns(step):
    session, frames, seen = Session(step, SIZE), pictures(32), []

    def work(mine):
        for frame in mine:
            session.peek(frame)
            seen.append(session.push(frame).index)

    assert not from_threads(work, [frames[k::4] for k in range(4)])
    assert sorted(seen) == list(range(32))
    session.close()
    with pytest.raises(SessionClosed):
        session.push(frames[0])


def test_threads_that_share_slots_take_turns(step):
    slots, frames = Slots(step, 4, SIZE), pictures(8)

    def work(name):
        slots.admit(name)
        for frame in frames:
            slots.step({name: frame})
        slots.evict(name)

    assert not from_threads(work, range(4))
    assert slots.streams == []


def test_one_compile_for_threads_that_share_a_step():
    step = Step(*init_params("dsta-ti16", **TINY), model_card("dsta-ti16"))
    assert not from_threads(lambda _: Session(step, SIZE), range(4))
    assert step.compiles == 1


@pytest.mark.parametrize(
    "again", [lambda s: pickle.loads(pickle.dumps(s)), copy.deepcopy], ids=["pickle", "deepcopy"]
)
def test_a_copy_goes_on_from_the_same_frame(step, again):
    frames = pictures(6)
    session = Session(step, SIZE)
    for frame in frames[:3]:
        session.push(frame)
    second = again(session)
    want = [session.push(frame) for frame in frames[3:]]
    got = [second.push(frame) for frame in frames[3:]]
    for a, b in zip(got, want, strict=True):
        assert a.index == b.index
        np.testing.assert_array_equal(a.output.logits, b.output.logits)
    assert second.push(frames[0]).time < 3600  # seconds of its age, not of another clock

    slots = Slots(step, 2, SIZE)
    slots.admit("door")
    slots.step({"door": frames[0]})
    other = again(slots)
    want, got = (s.step({"door": frames[1]})["door"] for s in (slots, other))
    jax.tree.map(np.testing.assert_array_equal, got, want)


def test_a_closed_session_stays_closed(step):
    session = Session(step, SIZE)
    session.close()
    with pytest.raises(SessionClosed):
        pickle.loads(pickle.dumps(session)).push(pictures(1)[0])
