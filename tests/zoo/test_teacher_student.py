"""The teacher as a stream, the mismatch that reuse brings, and students born from teachers."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from streamzoo.layers.mixers import mix
from streamzoo.zoo.action import (
    CausalViT,
    SlidingWindow,
    StudentConfig,
    VideoMAE,
    VideoMAEConfig,
    WindowConfig,
)
from streamzoo.zoo.action.student.from_teacher import student_from_teacher
from streamzoo.zoo.action.videomae.naive import NaiveReuseCache

SHAPE: dict[str, Any] = dict(image_size=(32, 32), dim=32, depth=6, heads=2, frames=4, num_classes=5)


def video(seed, batch, steps):
    return jax.random.normal(jax.random.key(seed), (batch, steps, 32, 32, 3))


def teacher(head="roi", **overrides):
    model = VideoMAE(VideoMAEConfig(**{**SHAPE, "head": head, **overrides}))
    params = jax.jit(model.init)(jax.random.key(0), video(0, 1, 4))
    return model, jax.tree.map(lambda a: 2 * a + 0.02, params)


@pytest.mark.parametrize("head", ["frame", "roi"])
@pytest.mark.parametrize("stride", [1, 3])
def test_the_stream_of_a_teacher_is_the_teacher_on_every_window(head, stride):
    offline, params = teacher(head)
    stream = SlidingWindow(WindowConfig(**SHAPE, head=head, stride=stride))
    x = video(1, 2, 12)
    step, clip = jax.jit(stream.apply), jax.jit(offline.apply)
    carry, got = stream.init_carry(2), []
    for t in range(12):
        carry, out = step(params, carry, x[:, t : t + 1])
        got.append(out)
    name = "logits" if head == "frame" else "box_logits"
    for t in range(12):
        window = np.maximum(np.arange(t - 3 * stride, t + 1, stride), 0)
        want = clip(params, x[:, window])
        np.testing.assert_array_equal(getattr(got[t], name)[:, 0], getattr(want, name))
    # and in pieces of many frames, of which some did not come
    valid = np.ones((2, 14), bool)
    valid[:, [3, 9]] = False
    x = np.insert(x, [3, 8], 9.0, axis=1)
    carry, pieces = stream.init_carry(2), []
    for at in (slice(0, 9), slice(9, 14)):
        carry, out = step(params, carry, x[:, at], valid[:, at])
        pieces.append(getattr(out, name))
    whole = np.concatenate(pieces, axis=1)
    one = np.concatenate([getattr(out, name) for out in got], axis=1)
    np.testing.assert_allclose(whole[:, valid[0]], one, atol=1e-5)
    assert not whole[:, ~valid[0]].any()


def test_taps_of_the_stream_are_those_of_the_windows():
    offline, params = teacher("roi")
    stream = SlidingWindow(WindowConfig(**SHAPE, head="roi"))
    x = video(5, 2, 5)
    names = ("hidden", "attention", "roi")
    _, out = stream.apply(params, stream.init_carry(2), x, taps=names)
    want = offline.apply(params, x[:, 1:], taps=names)
    for name in names:
        got = out.taps[name][:, :, -1] if name != "roi" else out.taps[name][:, -1]
        np.testing.assert_allclose(got, want.taps[name], atol=1e-4)


def test_a_centred_window_declares_its_latency_and_flushes():
    _, params = teacher("frame")
    config = WindowConfig(**SHAPE, head="frame", lookahead=2)
    stream = SlidingWindow(config)
    assert stream.latency == 2
    x = video(2, 1, 6)
    carry, out = stream.apply(params, stream.init_carry(1), x)
    _, tail = stream.apply(params, carry, method="flush")
    assert tail.logits.shape == (1, 2, 5)
    offline = VideoMAE(VideoMAEConfig(**SHAPE, head="frame"))
    want = offline.apply(params, x[:, [3, 4, 5, 5]]).logits  # frame 4 with one frame after it
    np.testing.assert_allclose(tail.logits[:, 0], want, atol=1e-5)


def test_reusing_cached_states_is_wrong_and_the_error_grows_with_depth():
    model, params = teacher("none")
    naive = NaiveReuseCache(model.config, params)
    step = jax.jit(naive.step)
    carry, x = naive.init_carry(1), video(3, 1, 16)
    hidden: Any = None
    for t in range(0, 16, 2):
        carry, hidden = step(carry, x[:, t : t + 2])
    window = model.apply(params, x[:, -4:], taps=("hidden",)).taps["hidden"]
    exact = window[:, :, -hidden.shape[2] :]
    size = lambda a: np.sqrt((np.asarray(a) ** 2).sum(axis=(1, 2, 3)))
    error = size(hidden - exact) / size(exact)
    assert error.min() > 1e-3, error
    assert error[-1] > 1.5 * error[0], error
    # On the very first tubelet there is nothing to reuse: a window of one tubelet is exact
    # but for its place, which shows that the control computes what it says.
    first = NaiveReuseCache(VideoMAEConfig(**{**SHAPE, "frames": 2}, head="none"), params)
    _, hidden = first.step(first.init_carry(1), x[:, :2])
    want = model.apply(params, x[:, :2], taps=("hidden",)).taps["hidden"]
    np.testing.assert_allclose(hidden, want, atol=1e-4 * np.abs(want).max())


def student(**overrides):
    shape = dict(image_size=(32, 32), dim=32, depth=6, heads_per_block=2, num_classes=5)
    model = CausalViT(StudentConfig(**{**shape, "temporal": (mix("none"),), **overrides}))
    return model, jax.jit(model.init)(jax.random.key(1), model.init_carry(1), video(0, 1, 1))


@pytest.mark.slow
def test_a_student_born_from_its_teacher_sees_a_still_tubelet_as_it_does():
    """Without mixing, a window of one tubelet and the same positions, all blocks are equal."""
    big, big_params = teacher("none", frames=2)
    small, params = student(eps=1e-6)
    params = student_from_teacher(small, params, big, big_params)
    x = video(4, 1, 1)
    _, out = small.apply(params, small.init_carry(1), x, taps=("hidden",))
    want = big.apply(big_params, jnp.repeat(x, 2, axis=1), taps=("hidden",)).taps["hidden"]
    np.testing.assert_allclose(out.taps["hidden"][:, :, 0], want, atol=1e-4 * np.abs(want).max())


@pytest.mark.slow
def test_blocks_are_chosen_and_the_pattern_is_filled_in_order():
    big, big_params = teacher("none")
    small, params = student(depth=4, temporal=(mix("none"), mix("lstm")))
    got = student_from_teacher(small, params, big, big_params, blocks=[0, 2, 3, 5])["params"]
    old = big_params["params"]["blocks"]["layer0"]["mlp"]["up"]["kernel"]
    for slot, rows in (("layer0", np.array([0, 3])), ("layer1", np.array([2, 5]))):
        np.testing.assert_array_equal(got["blocks"][slot]["mlp"]["up"]["kernel"], old[rows])
    assert "mixer" in got["blocks"]["layer1"]
    with pytest.raises(ValueError, match="give 4 numbers from 0 to 5"):
        student_from_teacher(small, params, big, big_params, blocks=[0, 9, 1, 2])
    other, other_params = student(dim=64)
    with pytest.raises(ValueError, match="student dim 64 and teacher dim 32"):
        student_from_teacher(other, other_params, big, big_params)
