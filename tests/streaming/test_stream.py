"""The streaming core on a tiny student: step, rollout, slots and sessions."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from streamzoo.layers.contract import carry_bytes
from streamzoo.streaming import Session, Slots, Step, rollout
from streamzoo.streaming.session import SessionClosed
from streamzoo.streaming.slots import SlotError
from streamzoo.zoo import init_params, model_card, preprocess

SIZE = (32, 48)
TINY: dict[str, Any] = dict(
    image_size=SIZE, dim=32, depth=2, heads_per_block=2, num_classes=5, heads=("frame",)
)


@pytest.fixture(scope="module")
def tiny():
    return init_params("dsta-ti16", **TINY)


@pytest.fixture(scope="module")
def step(tiny):
    return Step(tiny[0], tiny[1], model_card("dsta-ti16"))


def video(seed, *shape):
    return np.random.default_rng(seed).integers(0, 256, (*shape, *SIZE, 3), np.uint8)


def test_one_compile_per_shape_and_ahead_of_time(tiny):
    step = Step(tiny[0], tiny[1], model_card("dsta-ti16"))
    step.compile(1, 1, SIZE)
    assert step.compiles == 1
    carry = step.init_carry(1, SIZE)
    for t in range(4):
        carry, _ = step(carry, video(t, 1, 1))
    assert step.compiles == 1
    step(step.init_carry(2, SIZE), video(0, 2, 1))
    assert step.compiles == 2


def test_the_carry_is_donated_and_peek_keeps_it(step):
    carry = step.init_carry(1, SIZE)
    before = jax.tree.map(np.array, carry)
    frames = video(0, 1, 1)
    first, second = step.peek(carry, frames), step.peek(carry, frames)
    np.testing.assert_array_equal(first.logits, second.logits)
    for a, b in zip(jax.tree.leaves(carry), jax.tree.leaves(before), strict=True):
        np.testing.assert_array_equal(a, b)
    old = carry
    carry, out = step(carry, frames)
    np.testing.assert_array_equal(out.logits, first.logits)
    assert all(a.is_deleted() for a in jax.tree.leaves(old))


@pytest.mark.parametrize("chunk", [1, 4])
def test_rollout_is_the_clip(tiny, chunk):
    model, params = tiny
    x = preprocess(video(1, 2, 10), model_card("dsta-ti16"))
    want_carry, want = jax.jit(model.apply)(params, model.init_carry(2), x)
    run = jax.jit(lambda p, x: rollout(model, p, x, chunk=chunk))
    carry, out = run(params, x)
    np.testing.assert_allclose(out.logits, want.logits, atol=1e-5)
    for a, b in zip(jax.tree.leaves(carry), jax.tree.leaves(want_carry), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_a_long_rollout_takes_no_more_memory_than_a_short_one(tiny):
    model, params = tiny
    temporary = []
    for steps in (8, 64):
        x = jax.ShapeDtypeStruct((1, steps, *SIZE, 3), jnp.float32)
        run = jax.jit(lambda p, x: rollout(model, p, x)[1])
        stats = run.lower(params, x).compile().memory_analysis()
        temporary.append(stats.temp_size_in_bytes - x.size * 4)  # the transposed input itself
    assert temporary[1] <= temporary[0] + 64 * 1024


def test_slots_streams_come_and_go_without_compiling(step):
    slots = Slots(step, 3, SIZE)
    alone = {}
    for name, seed, length in (("a", 0, 6), ("b", 1, 4), ("c", 2, 5)):
        carry, answers = step.init_carry(1, SIZE), []
        for frame in video(seed, length):
            carry, out = step(carry, frame[None, None])
            answers.append(np.asarray(out.logits[0, 0]))
        alone[name] = answers
    frames = {"a": video(0, 6), "b": video(1, 4), "c": video(2, 5)}

    def tick(**at):
        out = slots.step({k: frames[k][t] for k, t in at.items()})
        for k, t in at.items():
            np.testing.assert_allclose(out[k].logits, alone[k][t], atol=1e-5)

    slots.admit("a")
    tick(a=0)
    compiled = step.compiles
    tick(a=1)
    slots.admit("b")
    tick(a=2, b=0)
    tick(b=1)  # a has no frame now and does not notice
    slots.admit("c")
    tick(a=3, b=2, c=0)
    kept = slots.evict("b")
    tick(a=4, c=1)
    slots.reset("c")
    tick(c=0)
    slots.admit("b", kept)  # goes on where it left
    tick(a=5, b=3, c=1)
    moved = slots.extract("c")
    slots.evict("a")
    slots.admit("again", moved)
    assert np.asarray(slots.step({"again": frames["c"][2]})["again"].logits) == pytest.approx(
        alone["c"][2], abs=1e-5
    )
    assert step.compiles == compiled


def test_slots_refuse_with_a_reason(step):
    slots = Slots(step, 1, SIZE)
    slots.admit("a")
    with pytest.raises(SlotError, match="all 1 slots are taken"):
        slots.admit("b")
    with pytest.raises(SlotError, match="'a' is admitted already"):
        slots.admit("a")
    with pytest.raises(SlotError, match="no stream 'z'; admitted are"):
        slots.evict("z")
    with pytest.raises(SlotError, match=r"stream 'a': frame \(8, 8, 3\) should be"):
        slots.step({"a": np.zeros((8, 8, 3), np.uint8)})
    with pytest.raises(SlotError, match="not one stream of this model"):
        slots.insert("a", step.init_carry(2, SIZE))


def test_session(step):
    frames = video(3, 5)
    with Session(step, SIZE) as session:
        size = session.carry_bytes
        peeked = session.peek(frames[0])
        results = [session.push(frame, t / 25) for t, frame in enumerate(frames)]
        assert [r.index for r in results] == list(range(5))
        assert results[3].time == pytest.approx(3 / 25)
        np.testing.assert_array_equal(peeked.output.logits, results[0].output.logits)
        want = jax.nn.sigmoid(results[0].output.logits)  # the card is multi-label
        scores = results[0].scores()
        assert scores is not None
        np.testing.assert_allclose(scores, want, atol=1e-6)
        assert session.carry_bytes == size
        session.reset()
        again = session.push(frames[0])
        np.testing.assert_array_equal(again.output.logits, results[0].output.logits)
        with pytest.raises(ValueError, match=r"frame \(32, 40, 3\) should be \(32, 48, 3\)"):
            session.push(frames[0][:, :40])
        with pytest.raises(ValueError, match="float64 and should be uint8"):
            session.push(frames[0] / 255)
    with pytest.raises(SessionClosed):
        session.push(frames[0])
    session.close()


def test_wrong_frames_and_carries_have_clear_errors(tiny):
    model, params = tiny
    good = jnp.zeros((1, 1, *SIZE, 3))
    carry = model.init_carry(1)
    for bad, message in (
        (good[0, 0], r"\[batch, time, height, width, 3\], got \[32, 48, 3\]"),
        (good.astype(jnp.uint8), "uint8; streamzoo.preprocess"),
        (good[:, :, :30], "multiples of 16, got time 1 and 30x48"),
    ):
        with pytest.raises(ValueError, match=message):
            model.apply(params, carry, bad)
    with pytest.raises(ValueError, match="another batch size"):
        model.apply(params, model.init_carry(2), good)
    other, _ = init_params("tsa-ti16", **TINY)
    with pytest.raises(ValueError, match="the carry is of another model"):
        model.apply(params, other.init_carry(1), good)
    with pytest.raises(ValueError, match="frame size"):
        model.apply(params, model.init_carry(1, (64, 64)), good)


def test_preprocess():
    card = model_card("tsa-s16")
    frames = video(0, 2)
    x = preprocess(frames, card)
    want = (frames / 255.0 - np.array(card.mean)) / np.array(card.std)
    np.testing.assert_allclose(x, want, atol=1e-5)
    np.testing.assert_allclose(preprocess(frames / np.float32(255), card), x, atol=1e-5)
    with pytest.raises(ValueError, match=r"lie in \[0, 1\]"):
        preprocess(frames.astype(np.float32), card)
    with pytest.raises(ValueError, match="int32"):
        preprocess(frames.astype(np.int32), card)
    with pytest.raises(ValueError, match="RGB"):
        preprocess(frames[..., :2], card)


def test_carry_bytes_of_the_session_is_that_of_its_leaves(step):
    session = Session(step, SIZE)
    assert session.carry_bytes == carry_bytes(step.init_carry(1, SIZE))
