"""Training of generators: gradients against the authors' own numbers, and memory against length."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from streamzoo.layers.rollout.policy import self_forcing
from streamzoo.train.generate import (
    Scores,
    SelfRollout,
    critic_loss,
    dmd_gradient,
    dmd_loss,
    frame_times,
    partition_loss,
    tail_weights,
    teacher_forcing_loss,
)
from streamzoo.train.generate.dmd import DMD
from streamzoo.train.generate.rollout import Plan
from streamzoo.zoo.generate import Generator

from ..layers.compare import close
from ..zoo.test_generator import generator, prompt
from ..zoo.wan_goldens import golden, last, needs_goldens, network


def gradients(z, kind):
    """The golden's gradients of one kind, by the names of their parameters."""
    return {k.split(":", 1)[1]: v for k, v in z.items() if k.startswith(kind + ":")}


def converted(weights, few):
    """The golden's few gradients, in a checkpoint of zeros, through the converter."""
    full = {key: np.zeros_like(value) for key, value in weights.items()}
    marked = {key: np.ones_like(value) * (key in few) for key, value in weights.items()}
    full |= {key: value.reshape(weights[key].shape) for key, value in few.items()}
    return network(full)[1], network(marked)[1]


@needs_goldens
@pytest.mark.parametrize("which", ["b", pytest.param("a", marks=pytest.mark.slow)])
def test_gradient_of_a_self_rollout_is_that_of_a_detached_cache(which):
    z, weights, meta = golden(f"self_forcing_train_rollout_{which}")
    module, variables = network(weights)
    exit_step = meta["exit_step"]
    made = Generator(module, variables, self_forcing(21, 0))
    table = made.rollout.levels.schedule
    # the authors' context noise of "0" is the smallest noise share of the table
    roll = SelfRollout(made.engine, context_sigma=float(table.sigmas[-1]))
    noise, tape, target = (last(z[k]) for k in ("init_noise", "tape", "target"))
    tape = tape.reshape(7, exit_step + 1, 3, 4, 4, 4)
    draws = np.zeros((7, 1, 4, 3, 4, 4, 4), np.float32)
    draws[:, :, 0] = noise.reshape(7, 1, 3, 4, 4, 4)
    draws[:, 0, 1 : exit_step + 1] = tape[:, :exit_step]
    context = tape[:, None, -1]
    exits = np.full(7, exit_step, np.int32)
    plan = Plan(draws, context, exits, np.zeros((7, 1), bool), np.zeros_like(context))
    state, text = made.start(), z["cond"]
    _, pred = jax.jit(roll.roll)(variables, state, text, plan)
    close("frames", pred, last(z["pred"]), 3e-6)
    _, got = jax.jit(roll.gradient)(variables, state, text, plan, target / 100)
    want, there = converted(weights, gradients(z, "g_detached"))
    leaky, _ = converted(weights, gradients(z, "g_official"))
    apart = 0.0
    flat = zip(*map(jax.tree.leaves, (got, want, there, leaky)), strict=True)
    for ours, detached, mask, official in flat:
        size = np.abs(detached).max()
        if mask.any() and size:
            error = (np.abs(np.asarray(ours) - detached) * mask).max() / size
            assert error <= 2e-5, error
            apart = max(apart, np.abs(official - detached).max() / size)
    assert apart > 0.1  # what leaks through the authors' cache is no rounding


def tiny_plan(roll, blocks, **options):
    return roll.plan(jax.random.key(3), blocks, 1, **options)


@pytest.mark.slow
def test_gradient_block_by_block_is_that_of_the_whole_rollout():
    """Also from a state that was carried here: what LongLive's long tuning does (its window is the
    rollout, the carry a constant)."""
    made, text = generator("longlive"), prompt(0)
    roll, state = SelfRollout(made.engine), made.start()
    for _ in range(3):
        state, _ = made.step(state, text)
    plan = tiny_plan(roll, 2)
    weights = np.random.default_rng(0).normal(size=(1, 6, 4, 4, 4)).astype(np.float32)

    @jax.jit
    def whole(variables):
        loss = lambda v: (roll.roll(v, state, text, plan)[1] * weights).sum()
        return jax.grad(loss)(variables)

    want = whole(made.variables)
    after, got = jax.jit(roll.gradient)(made.variables, state, text, plan, weights)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-4), got, want)
    assert int(after.memory.seen[0]) == 15
    # a tail alone: the blocks before it count nothing
    tail = weights * tail_weights(6, 3)[None, :, None, None, None]
    _, late = jax.jit(roll.gradient)(made.variables, state, text, plan, tail)
    assert any(
        np.abs(a - b).max() > 1e-3 for a, b in zip(*map(jax.tree.leaves, (late, got)), strict=True)
    )


def test_a_tail_is_the_last_frames():
    assert tail_weights(6, 2).tolist() == [0, 0, 0, 0, 1, 1]
    assert tail_weights(6, 6).all()
    for tail in (0, 7):
        with pytest.raises(ValueError, match=f"a tail of {tail} of 6 frames"):
            tail_weights(6, tail)


@pytest.mark.slow
def test_memory_of_a_training_step_does_not_grow_with_the_rollout():
    made, text = generator("longlive"), prompt(0)
    roll, state = SelfRollout(made.engine), made.start()

    def bytes_of(function, blocks):
        plan = tiny_plan(roll, blocks)
        slopes = jnp.ones((1, 3 * blocks, 4, 4, 4))
        lowered = jax.jit(function).lower(made.variables, state, text, plan, slopes)
        return lowered.compile().memory_analysis().temp_size_in_bytes

    whole = lambda v, s, c, p, slopes: jax.grad(
        lambda v: (roll.roll(v, s, c, p)[1] * slopes).sum()
    )(v)
    short, long = (bytes_of(roll.gradient, n) for n in (2, 16))
    # of 14 more blocks nothing stays but their frames
    assert long - short <= 14 * 3 * 4 * 4 * 4 * 4 * 4
    assert bytes_of(whole, 16) > 2 * long


@pytest.mark.slow
def test_inference_makes_what_training_makes():
    """The frames of a rollout with the last exit are the generator's, and so is its carry."""
    made, text = generator("longlive"), prompt(0)
    roll, state = SelfRollout(made.engine), made.start()
    plan = tiny_plan(roll, 5, last_exit=True)
    trained, frames = jax.jit(roll.roll)(made.variables, state, text, plan)
    for number in range(5):
        state, block = made.step(state, text, draws=plan.draws[number])
        np.testing.assert_allclose(block.latents, frames[:, 3 * number : 3 * number + 3], atol=1e-5)
    assert jax.tree.structure(trained) == jax.tree.structure(state)
    np.testing.assert_allclose(trained.memory.keys, state.memory.keys, atol=1e-5)
    np.testing.assert_array_equal(trained.memory.notes["serial"], state.memory.notes["serial"])


def test_an_oracle_gives_real_context():
    """To one of two streams, for its first block: in the keys that later blocks read, and in the
    latents that a new prompt's memory is made of."""
    made, text = generator("longlive"), prompt(0, 2)
    roll, state = SelfRollout(made.engine), made.start(2)
    plan = roll.plan(jax.random.key(3), 2, 2, last_exit=True)
    truth = jnp.full_like(plan.truth, 0.7)
    told = plan._replace(oracle=jnp.array([[True, False], [False, False]]), truth=truth)
    run = jax.jit(roll.roll)
    after, frames = run(made.variables, state, text, told)
    _, without = run(made.variables, state, text, plan)
    np.testing.assert_array_equal(frames[:, :3], without[:, :3])
    np.testing.assert_array_equal(frames[1], without[1])
    assert np.abs(frames[0, 3:] - without[0, 3:]).max() > 1e-3
    real = made.extend(state, truth[0], text)
    got, want = (np.asarray(s.memory.keys)[:, :, :3] for s in (after, real))
    np.testing.assert_allclose(got[0], want[0], atol=1e-5)
    assert np.abs(got[1] - want[1]).max() > 1e-3
    # the latest six of twelve, oldest first: the real block, then the student's own
    kept = np.asarray(after.latents)[:, -6:]
    np.testing.assert_array_equal(kept[0, :3], truth[0, 0])
    np.testing.assert_array_equal(kept[1], frames[1])
    np.testing.assert_array_equal(kept[0, 3:], frames[0, 3:])


@pytest.mark.slow
@needs_goldens
def test_distribution_matching_gradient_is_the_authors():
    z, weights, _ = golden("dmd_gradient")
    of = lambda name: {k[5:]: v for k, v in weights.items() if k.startswith(name)}
    model, real = network(of("real."))
    _, fake = network(of("fake."))

    def score(variables, text):
        return jax.jit(lambda x, t: model.apply(variables, x, t, text))

    scores = Scores(score(real, z["cond"]), score(fake, z["cond"]), score(real, z["uncond"]))
    config = DMD(guidance=3.0, shift=5.0, score_shift=8.0)
    x, noise = last(z["x"]), last(z["noise"])
    slope, figures = dmd_gradient(x, noise, z["t_used"], scores, config)
    close("gradient", slope, last(z["kl_grad"]), 1e-5)
    loss = lambda x: dmd_loss(x, noise, z["t_used"], scores, config)[0]
    np.testing.assert_allclose(loss(x), z["loss"], rtol=1e-5)
    by_frames = np.asarray(jax.grad(loss)(x)) * x.size
    close("by frames", by_frames, last(z["grad_x"]) * x.size, 1e-5)
    np.testing.assert_allclose(figures["size"], z["grad_norm_log"], rtol=1e-5)
    one = lambda x: dmd_loss(
        x, noise, z["t_used"], scores, config, weights=jnp.asarray(tail_weights(6, 2))
    )[0]
    late = np.asarray(jax.grad(one)(x)) * x.size
    assert not late[:, :4].any()
    np.testing.assert_allclose(late[:, 4:], by_frames[:, 4:], rtol=1e-5)


def test_a_critic_teaches_the_student_nothing():
    frames = jnp.ones((1, 2, 2, 2, 1))
    noise, times = 0.3 * frames, jnp.full((1, 2), 500.0)
    perfect = lambda noisy, times: noise - frames
    assert critic_loss(frames, noise, times, perfect) == 0
    slope = jax.grad(lambda x: critic_loss(x, noise, times, lambda n, t: 0 * n))(frames)
    assert not np.asarray(slope).any()


@pytest.mark.slow
def test_teacher_forcing_is_the_stream_with_real_frames():
    """In one pass over a clip every noisy block sees what it would see in a stream that was fed the
    real frames before it."""
    made, text = generator(self_forcing(12, 0)), prompt(0)
    rng = np.random.default_rng(1)
    clean, noise = (rng.normal(size=(1, 9, 4, 4, 4)).astype(np.float32) for _ in range(2))
    times = np.repeat(np.array([[900.0, 500.0, 200.0]], np.float32), 3, axis=1)
    model = made.engine.module
    loss = functools.partial(teacher_forcing_loss, model)
    got = jax.jit(lambda v: loss(v, clean, noise, times, text, 3))(made.variables)
    sigma = made.rollout.levels.sigma(times)
    noisy = (1 - sigma)[..., None, None, None] * clean + sigma[..., None, None, None] * noise
    state, square = made.start(), []
    for block in range(3):
        part = slice(3 * block, 3 * block + 3)
        own = np.arange(9, dtype=np.int32)[None, part]
        seen = made.engine.peek(
            made.variables, state.memory, made.engine.table(state, own), noisy[:, part],
            times[:, part], text,
        )  # fmt: skip
        square.append(np.square(seen.flow - (noise - clean)[:, part]))
        state = made.extend(state, clean[:, part], text)
    np.testing.assert_allclose(got, np.mean(square), rtol=1e-5)


def test_times_of_blocks_are_drawn_alone_and_have_the_margin_of_a_clip():
    times = np.asarray(frame_times(jax.random.key(0), 4000, 6, 3))
    assert (times[:, :3] == times[:, :1]).all() and (times[:, 3:] == times[:, 3:4]).all()
    assert abs(np.corrcoef(times[:, 0], times[:, 3])[0, 1]) < 0.05
    clip = np.asarray(frame_times(jax.random.key(1), 4000, 6, 6))
    assert (clip == clip[:, :1]).all()
    for share in (0.1, 0.5, 0.9):
        a, b = (np.quantile(x[:, 0], share) for x in (times, clip))
        assert abs(a - b) < 30
    with pytest.raises(ValueError, match="7 frames are no whole blocks of 3"):
        frame_times(jax.random.key(0), 1, 7, 3)


def test_a_partition_in_one_step():
    """Straight paths need one step: a teacher whose flow is constant is met by itself."""
    levels = jnp.stack([jnp.full((1, 2), 0.8), jnp.full((1, 2), 0.5)], axis=-1)
    noisy = jnp.ones((1, 2, 2, 2, 1))
    straight = lambda x, t: jnp.full_like(x, 2.0)
    assert partition_loss(straight, straight, noisy, levels, 4) < 1e-10
    bent = lambda x, t: x
    # (1 - 0.3 / 4)^4 of Euler against 1 - 0.3
    want = ((1 - 0.075) ** 4 - 0.7) ** 2
    np.testing.assert_allclose(partition_loss(bent, bent, noisy, levels, 4), want, rtol=1e-4)


def test_rollouts_that_cannot_be_trained_are_refused():
    made = generator("rolling-forcing")
    with pytest.raises(ValueError, match="block by block"):
        SelfRollout(made.engine)
