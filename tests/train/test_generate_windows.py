"""Training of a rolling window: which frames are judged, what carries gradient, and that DMD on
them moves a student; and of the self rollout, that it trains with the carry that streams."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from streamzoo.layers.contract import signature
from streamzoo.layers.diffusion import track_channels
from streamzoo.layers.rollout import Adjacent, Keep, Levels, Read, Rollout
from streamzoo.train.generate import Scores, SelfRollout, WindowRollout, dmd_loss
from streamzoo.train.generate.dmd import DMD
from streamzoo.zoo.generate import Generator, window

from ..zoo.test_generator import TINY, generator, prompt, tiny

# Rolling Forcing with two levels and blocks of two frames
VALUE = Rollout(
    Keep(sinks=2, recent=4), Read(8, positions=Adjacent()), Levels.few(1000, 500), block=2,
    clean_read=Read(8, sinks=False), order="window",
)  # fmt: skip
TEXT = prompt(0)


@functools.cache
def made():
    return Generator(*tiny(), VALUE)


def rolled(n=3):
    roll = WindowRollout(made().engine)
    return roll, roll.plan(jax.random.key(1), n, 1)


@pytest.mark.slow
def test_windows_that_are_judged_do_not_overlap_and_leave_out_nothing():
    """Numbers of the frames of every second step: each once, in order; and they are the frames that
    the stream itself had there."""
    roll, plan = rolled()
    state, frames = jax.jit(roll.roll)(made().variables, made().start(), TEXT, plan)
    assert roll.frames == 4 and frames.shape == (1, 12, 4, 4, 4)
    engine, other, numbers, seen = made().engine, made().start(), [], []
    look = jax.jit(functools.partial(window.denoised, engine))
    for step, draws in enumerate(np.asarray(plan).reshape(6, 1, 2, 2, 4, 4, 4)):
        if step % 2:
            found = look(made().variables, other, TEXT, draws)
            numbers += np.asarray(found.own)[0].tolist()
            seen.append(np.asarray(found.clean))
        other, _ = made().step(other, TEXT, draws=draws)
    assert numbers == [*range(12)]
    np.testing.assert_allclose(frames, np.concatenate(seen, axis=1), atol=1e-5)
    assert signature(state) == signature(made().start())


@pytest.mark.slow
def test_gradient_is_that_of_the_judged_pass_alone():
    """Against a pass whose window, memory and state are numbers that came from elsewhere."""
    roll, plan = rolled(2)
    weights = np.random.default_rng(0).normal(size=(1, 8, 4, 4, 4)).astype(np.float32)
    loss = lambda v: (roll.roll(v, made().start(), TEXT, plan)[1] * weights).sum()
    got = jax.jit(jax.grad(loss))(made().variables)
    state, want = made().start(), None
    steps = np.asarray(plan).reshape(4, 1, 2, 2, 4, 4, 4)
    alone = lambda v, state, draws, weight: (
        window.denoised(made().engine, v, state, TEXT, draws).clean * weight
    ).sum()
    slope = jax.jit(jax.grad(alone))
    for step, draws in enumerate(steps):
        if step % 2:
            weight = weights[:, 2 * step - 2 : 2 * step + 2]
            found = slope(made().variables, state, draws, weight)
            want = found if want is None else jax.tree.map(jnp.add, want, found)
        state, _ = made().step(state, TEXT, draws=draws)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-4), got, want)


@pytest.mark.slow
def test_dmd_on_windows_moves_the_student_to_the_teacher():
    """The teacher's video is one grey level, the critic is perfect: after a few steps the student's
    windows are nearer to it, the last ones too."""
    roll, _ = rolled(2)
    grey = 0.4
    flow_to = lambda target: (
        lambda noisy, times: (noisy - target) / (times / 1000)[..., None, None, None]
    )

    def loss(variables, key):
        one, two = jax.random.split(key)
        plan = roll.plan(one, 2, 1)
        _, frames = roll.roll(variables, made().start(), TEXT, plan)
        noise = jax.random.normal(two, frames.shape)
        times = jnp.full(frames.shape[:2], 500.0)
        scores = Scores(flow_to(grey), flow_to(jax.lax.stop_gradient(frames)))
        value, _ = dmd_loss(frames, noise, times, scores, DMD(guidance=0, shift=1.0))
        return value, jnp.abs(frames - grey).mean(axis=(0, 2, 3, 4))

    step = jax.jit(jax.value_and_grad(loss, has_aux=True))
    variables, apart = made().variables, []
    for i in range(12):
        (_, error), slope = step(variables, jax.random.key(i))
        size = jnp.sqrt(sum(jnp.square(a).sum() for a in jax.tree.leaves(slope)))
        variables = jax.tree.map(lambda a, g, s=size: a - 0.3 * g / s, variables, slope)
        apart.append(np.asarray(error))
    assert np.mean(apart[-3:]) < 0.7 * np.mean(apart[:3])
    assert np.mean(np.asarray(apart[-3:])[:, 4:]) < 0.7 * np.mean(np.asarray(apart[:3])[:, 4:])


def test_other_orders_are_refused():
    with pytest.raises(ValueError, match="of the order 'window'"):
        WindowRollout(generator("longlive").engine)


@pytest.mark.slow
def test_the_carry_that_trains_is_the_carry_that_streams():
    """MotionStream's law: sinks and a local window in training as in inference, so that the context
    is constant. The state after a rollout in training goes on as a stream, bit for bit as one that
    was streamed there."""
    streamed = generator("self-forcing-w12s3")
    roll, state = SelfRollout(streamed.engine), streamed.start()
    sizes = []
    for blocks in (2, 8):
        plan = roll.plan(jax.random.key(0), blocks, 1, last_exit=True)
        after, _ = jax.jit(roll.roll)(streamed.variables, state, TEXT, plan)
        assert signature(after) == signature(state)
        sizes.append(sum(a.nbytes for a in jax.tree.leaves(after)))
    assert len(set(sizes)) == 1
    other = state
    for draws in np.asarray(plan.draws):
        other, _ = streamed.step(other, TEXT, draws=draws)
    np.testing.assert_array_equal(after.memory.notes["serial"], other.memory.notes["serial"])
    np.testing.assert_allclose(after.memory.keys, other.memory.keys, atol=2e-5)


@pytest.mark.slow
def test_tracks_steer_in_training_as_in_streaming():
    """A network with channels for tracks: the rollout that trains is what streams with the same
    tracks; without tracks it is as with zeros; and the first block alone follows its own."""
    streamed = Generator.create("wan-tiny", rollout="self-forcing-w12s3", **TINY, control=4)
    rng = np.random.default_rng(0)
    moved = lambda a: np.asarray(a) + 0.2 * rng.normal(size=a.shape).astype(np.float32)
    variables = jax.tree.map(moved, streamed.variables)
    streamed = Generator(streamed.engine.module, variables, streamed.rollout)
    points = rng.uniform(0, 32, (1, 6, 5, 2)).astype(np.float32)
    tracks = track_channels(points, np.ones((1, 6, 5), bool), np.arange(5)[None], (4, 4), 4, 8)
    control = np.asarray(tracks).reshape(1, 2, 3, 4, 4, 4).swapaxes(0, 1)
    roll, state = SelfRollout(streamed.engine), streamed.start()
    plan = roll.plan(jax.random.key(0), 2, 1, last_exit=True)._replace(control=control)
    after, frames = jax.jit(roll.roll)(variables, state, TEXT, plan)
    assert signature(after) == signature(state)

    def stream(control):
        state, out = streamed.start(), []
        for draws, tracks in zip(np.asarray(plan.draws), control, strict=True):
            state, made = streamed.step(state, TEXT, draws=draws, control=tracks)
            out.append(np.asarray(made.latents))
        return np.concatenate(out, axis=1)

    got = stream(control)
    np.testing.assert_allclose(got, frames, atol=3e-5)
    other = control.copy()
    other[1] = 0
    later = stream(other)
    np.testing.assert_array_equal(later[:, :3], got[:, :3])
    assert np.abs(later[:, 3:] - got[:, 3:]).max() > 1e-3
    none, made = streamed.step(streamed.start(), TEXT, draws=np.asarray(plan.draws[0]))
    _, zeros = streamed.step(
        streamed.start(), TEXT, draws=np.asarray(plan.draws[0]), control=0 * control[0]
    )
    np.testing.assert_allclose(made.latents, zeros.latents, atol=1e-5)
    with pytest.raises(ValueError, match="latents of 6 channels; the model has 4 and 4 of a con"):
        streamed.step(streamed.start(), TEXT, control=control[0][..., :2])
