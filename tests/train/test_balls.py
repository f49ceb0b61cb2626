"""The generator of balls: its clips, what is measured of them, and the chain on few steps."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from streamzoo.train.balls import chain as chains
from streamzoo.train.balls.clips import FRAMES, SINKS, clips, frame_times, told
from streamzoo.train.balls.measure import drift, features, frechet, reference, seen
from streamzoo.train.balls.self_forcing import SelfForcing
from streamzoo.zoo.generate.balls.picture import CLASSES, HIGH, LOW, WIDTHS


def real(streams=64, frames=36, seed=0):
    times = jnp.broadcast_to(jnp.arange(frames, dtype=jnp.float32), (streams, frames))
    latents, classes = clips(jax.random.key(seed), times)
    return np.asarray(latents).reshape(streams, frames, -1), np.asarray(classes)


def test_balls_are_what_they_are_drawn_as():
    latents, classes = real()
    balls = seen(latents)
    np.testing.assert_array_equal(balls.classes, np.repeat(classes[:, None], 36, axis=1))
    assert balls.misfit.max() < 0.05 and set(classes) == set(range(4))
    assert balls.middles.min() > LOW - 0.1 and balls.middles.max() < HIGH + 0.1
    # away from the walls a ball's speed stays, on a grid of an eighth of a cell
    turn = np.abs(np.diff(balls.middles, 2, axis=1)).max(-1)
    inside = (balls.middles > LOW + 1.5) & (balls.middles < HIGH - 1.5)
    inside = np.all(inside, axis=-1)[:, 1:-1]
    assert turn[inside].max() < 0.5 and turn.max() > 1


def test_half_of_the_clips_have_a_gap_behind_the_sinks():
    times = np.asarray(frame_times(jax.random.key(0), 400))
    steps = np.diff(times, axis=1)
    gap = steps[:, SINKS - 1] > 1
    assert 0.4 < gap.mean() < 0.6 and times.shape == (400, FRAMES)
    np.testing.assert_allclose(np.delete(steps, SINKS - 1, axis=1), 1, atol=1e-4)
    # the ball is the same on both sides of it
    latents, classes = clips(jax.random.key(1), jnp.asarray(times))
    found = seen(np.asarray(latents).reshape(400, FRAMES, -1)).classes
    assert (found == np.asarray(classes)[:, None]).all()


def test_half_of_the_conditions_say_nothing():
    classes = jnp.arange(400, dtype=jnp.int32) % 4
    given = np.asarray(told(jax.random.key(0), classes, 8))
    silent = (given == 0).all(axis=(1, 2))
    assert 0.4 < silent.mean() < 0.6
    assert (given[~silent].argmax(-1)[:, 0] == np.asarray(classes)[~silent]).all()


def test_drift_is_seen_where_it_is_and_nowhere_else():
    latents, wanted = real(128)[0], reference(count=1000)
    at_rest = drift(latents, wanted)
    assert at_rest.kept == [1.0] * 3 and at_rest.jumps == 0 and max(at_rest.distance) < 0.2
    assert at_rest.growth < 3 and min(at_rest.last) > 0.15 and 0.9 < at_rest.seam < 1.1
    other, _ = real(128, seed=1)
    changed = latents.copy()
    changed[:, 24:] = other[:, 24:]  # another ball, elsewhere
    found = drift(changed, wanted)
    assert found.kept[1] == 1 and found.kept[2] < 0.4 and found.distance[2] < 0.2
    faded = latents.copy()
    faded[:, 24:] *= 0.7
    found = drift(faded, wanted)
    assert found.distance[2] > 3 * found.distance[0] and found.growth > 3
    # in step: every second window is far from real clips, from the first on
    swings = found._replace(distance=[0.1, 0.3] * 5)
    assert swings.growth == pytest.approx(3) and swings.bounce_growth == pytest.approx(1)
    one_kind = np.repeat(latents[:1], 128, axis=0)
    assert max(drift(one_kind, wanted).last) == 1


def test_a_distribution_is_at_no_distance_from_itself():
    latents, _ = real()
    a = features(latents)
    assert abs(frechet(a, a)) < 1e-6 and frechet(a, a + 0.5) > 1
    assert len(CLASSES) == len(WIDTHS) == 4


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    """A chain of very few steps, its first two stages made."""
    config = chains.ChainConfig(
        teacher_steps=2,
        causal_steps=2,
        rollout_steps=2,
        batch=8,
        fresh=4,
        going=4,
        entering=2,
        regression=0.5,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chains, "STEPS_PER_CALL", 2)
        chain = chains.Chain(config, 0, tmp_path_factory.mktemp("balls"), lambda text: None)
        return chain, chain.run("causal")


@pytest.mark.slow
def test_a_stage_that_is_there_is_not_run_again(short):
    chain, made = short
    again = chains.Chain(chain.config, 0, chain.out, lambda text: None)
    again.fit = lambda *_: pytest.fail("trained again")
    jax.tree.map(np.testing.assert_array_equal, again.run("causal"), made)
    assert not again.seconds


@pytest.mark.slow
def test_a_blurred_memory_is_not_gone_on_from_and_the_oldest_streams_leave(short):
    chain, variables = short
    third = SelfForcing(chain, variables)
    old = jax.jit(third.begun)(variables, jax.random.key(0))
    roll = jax.jit(third.roll)
    clip, condition, after, _, _ = roll(variables, old, jax.random.key(1))
    assert clip.shape == (8, FRAMES, 1, 1, 32) and condition.shape == (8, 1, 8)
    # what goes on is judged with the block that its memory began with
    np.testing.assert_array_equal(clip[4:, :3], old["head"])
    age = lambda streams: np.asarray(streams["state"].memory.seen)
    assert age(old).tolist() == [12] * 4 and age(after).tolist() == [12] * 4 + [21] * 4
    step = lambda exit_pass, i: third.next_going(old, after, jnp.int32(exit_pass), jnp.int32(i))
    assert age(step(0, 0)).tolist() == [12] * 4  # nothing changes
    jax.tree.map(np.testing.assert_array_equal, step(0, 0), old)
    assert age(step(3, 0)).tolist() == [12, 12, 21, 21]
    assert age(step(3, 1)).tolist() == [21, 21, 12, 12]
    np.testing.assert_array_equal(step(1, 0)["head"][2:], old["head"][2:])
    np.testing.assert_array_equal(step(1, 0)["head"][:2], after["head"][:2])


@pytest.mark.slow
def test_gradient_reaches_the_clip_and_the_regression_is_one_term(short):
    chain, variables = short
    third = SelfForcing(chain, variables)
    going = jax.jit(third.begun)(variables, jax.random.key(0))
    grad = lambda t: jax.jit(jax.value_and_grad(t.student_loss, has_aux=True))(
        variables, variables, going, jax.random.key(2)
    )
    (with_it, _), slope = grad(third)
    chain.config = dataclasses.replace(chain.config, regression=0.0)
    alone = SelfForcing(chain, variables)
    (without, aux), other = grad(alone)
    assert float(without) == pytest.approx(float(aux[-1]["dmd"])) and float(with_it) > float(
        without
    )
    size = lambda tree: sum(float(jnp.abs(a).sum()) for a in jax.tree.leaves(tree))
    assert size(slope) > 0 and size(jax.tree.map(jnp.subtract, slope, other)) > 0
    # the critic is the teacher here, so the student has nowhere to go
    assert size(other) < 1e-3 * size(slope)
