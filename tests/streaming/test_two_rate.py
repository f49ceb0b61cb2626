"""A fast model here and a slow one elsewhere, on a network that delays, loses and comes back."""

import functools
import threading
import time

import jax
import numpy as np
import pytest

from streamzoo.streaming import Session, Step
from streamzoo.streaming.slim import slim
from streamzoo.streaming.two_rate import Question, TwoRate, answer_of
from streamzoo.zoo.compress import compress, running

from .test_runtimes import FRAMES, near, step_of

LONG = np.concatenate([FRAMES] * 4)


class Network:
    """Between the two models: what is asked waits in it until ``deliver``, or is lost."""

    def __init__(self, ask):
        self._ask, self._gate = ask, threading.Semaphore(0)
        self.down, self.questions = False, []

    def __call__(self, question):
        self.questions.append(question)
        assert self._gate.acquire(timeout=300)
        if self.down:
            raise ConnectionError("no route")
        return self._ask(question)

    def deliver(self, two, counter):
        """Lets one question through, and waits until what came of it is known."""
        before = getattr(two, counter)
        self._gate.release()
        end = time.monotonic() + 300
        while getattr(two, counter) == before:
            assert time.monotonic() < end, counter
            time.sleep(0.002)


@pytest.fixture
def slow():
    """The float weights, which go on from a state that int8 ones left."""
    step = step_of("swa", "jax")
    step.peek(step.init_carry(1), LONG[0][None, None])  # compiled before anybody waits for it
    return step


@functools.cache
def narrow():
    step = step_of("swa", "jax")
    params = compress(step.params, "int8")
    return Step(running(step.model, params), params, step.card)


def fast():
    return Session(narrow())


def test_no_frame_waits_and_a_late_answer_is_of_its_frame(slow):
    """While nothing comes back every frame is answered as by the session alone; the answer that
    comes is the slow model's of the frame that was asked, from the state before it."""
    alone = fast()
    expected = [alone.push(f).output for f in LONG[:12]]
    network = Network(answer_of(slow))
    with TwoRate(fast(), network, when=lambda r: r.index >= 2, patience=6) as two:
        said = [two.push(f) for f in LONG[:5]]  # the network holds the question of frame 3
        near([s.fast.output for s in said], expected[:5], 0)
        assert [s.asked for s in said] == [False, False, False, True, False]
        assert all(s.slow is None for s in said)
        network.deliver(two, "answered")
        now = two.push(LONG[5])
        assert now.about == 3 and now.asked  # and the next question is out
        begun = fast()
        for f in LONG[:3]:
            begun.push(f)
        question = network.questions[0]
        near(question.state, begun.state(), 0)
        carry = slow.init_carry(1)
        carry = jax.tree.unflatten(jax.tree.structure(carry), list(question.state.values()))
        exact = slim(slow.peek(carry, LONG[3][None, None]))
        exact = jax.tree.map(lambda a: np.asarray(a)[0, 0], exact)
        near(now.slow, exact, 1e-6)
        assert np.abs(now.slow.logits - expected[3].logits).max() > 1e-5  # not the fast one's
        later = [two.push(f) for f in LONG[6:12]]
        assert [s.about for s in later] == [3, 3, 3, 3, None, None]  # 6 frames old, then too old
        near([s.fast.output for s in later], expected[6:], 0)


def test_a_network_that_is_down_costs_nothing_and_comes_back(slow):
    network = Network(answer_of(slow))
    with TwoRate(fast(), network, when=lambda r: True, patience=3, pause=4) as two:
        network.down = True
        two.push(LONG[0])
        assert two.push(LONG[1]).asked
        network.deliver(two, "failures")
        quiet = [two.push(f) for f in LONG[2:6]]  # nothing is asked for 4 frames
        assert not any(s.asked or s.slow for s in quiet)
        assert two.push(LONG[6]).asked
        for f in LONG[7:12]:
            two.push(f)
        network.down = False
        network.deliver(two, "late")  # it came, and nobody needs it any more
        found = two.push(LONG[12])
        assert found.slow is None and found.asked
        network.deliver(two, "answered")
        assert two.push(LONG[13]).about == 12
        assert (two.asked, two.failures, two.late, two.answered) == (4, 1, 1, 1)


def test_a_question_keeps_its_frame_when_the_caller_takes_the_buffer_again(slow):
    network, buffer = Network(answer_of(slow)), np.empty_like(LONG[0])
    with TwoRate(fast(), network, when=lambda r: True) as two:
        for frame in LONG[:4]:
            buffer[:] = frame
            two.push(buffer)
        network.deliver(two, "answered")  # the question of frame 1
    np.testing.assert_array_equal(network.questions[0].frame, LONG[1])


def test_a_closed_one_lets_its_question_go(slow):
    network = Network(answer_of(slow))
    with TwoRate(fast(), network, when=lambda r: True) as two:
        two.push(LONG[0])
        two.push(LONG[1])
    two.close()
    with pytest.raises(ValueError, match="patience=-1: give a number of frames"):
        TwoRate(fast(), network, when=lambda r: True, patience=-1)


def test_a_state_of_another_model_is_refused(slow):
    network = answer_of(step_of("tsa", "jax"))
    session = fast()
    with pytest.raises(ValueError, match="not one of tsa-test16: the fast and the slow"):
        network(Question(0, 0.0, LONG[0], session.state()))
