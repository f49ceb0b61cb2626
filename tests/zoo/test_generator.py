"""What makes video: peek and commit, recache, flush, slow frames, sources; types and refusals."""

from __future__ import annotations

import contextlib
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from streamzoo.layers.contract import signature
from streamzoo.layers.rollout import ROLLOUTS, Absolute, Keep, Levels, Read, Rollout, rollout
from streamzoo.layers.rollout.policy import infinity_rope
from streamzoo.zoo.generate import Generator

TINY = dict(
    channels=4, image_size=(4, 4), dim=24, hidden=48, depth=2, heads=2, frequencies=16, text_dim=8,
    text_length=6,
)  # fmt: skip


@functools.cache
def tiny():
    """(network, variables), everything off its initial value, so that prompt and time count."""
    made = Generator.create("wan-tiny", **TINY)
    rng = np.random.default_rng(5)
    moved = lambda a: np.asarray(a) + 0.2 * rng.normal(size=a.shape).astype(np.float32)
    return made.engine.module, jax.tree.map(moved, made.variables)


@functools.cache
def generator(value):
    return Generator(*tiny(), value)


def prompt(seed, batch=1):
    return np.random.default_rng(seed).normal(size=(batch, 6, 8)).astype(np.float32)


def run(made, state, text, steps):
    out = []
    for _ in range(steps):
        state, block = made.step(state, text)
        out.append(block)
    return state, out


def same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.slow
def test_peek_changes_nothing_and_a_block_of_a_video_is_as_if_made():
    made, text = generator("longlive"), prompt(0)
    state, blocks = run(made, made.start(), text, 2)
    engine, own = made.engine, np.arange(6, 9, dtype=np.int32)[None]
    before = jax.tree.map(np.asarray, state)
    table = engine.table(state, own)
    noisy = np.ones((1, 3, 4, 4, 4), np.float32)
    times = np.full((1, 3), 500.0, np.float32)
    engine.peek(made.variables, state.memory, table, noisy, times, text)
    same(state, before)
    other = made.start()
    for block in blocks:
        other = made.extend(other, block.latents, text)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), other, state)


def test_recache_is_idempotent_and_equals_a_fresh_memory():
    """A second recache under the same prompt finds what the first one wrote; a stream that never
    saw the old prompt and is given the kept latents ends with the same memory."""
    made, old, new = generator("longlive-new-sink"), prompt(0), prompt(1)
    state, _ = run(made, made.start(), old, 5)
    once = made.switch(state, new)
    twice = made.switch(once, new)
    same(once.memory, twice.memory)
    stranger = made.start()
    stranger = dataclasses.replace(
        stranger,
        latents=state.latents,
        memory=dataclasses.replace(stranger.memory, seen=state.memory.seen, next=state.memory.next),
    )
    fresh = made.switch(stranger, new)
    held = np.asarray(fresh.memory.notes["serial"]) >= 0
    np.testing.assert_array_equal(fresh.memory.notes["serial"], once.memory.notes["serial"])
    keys = lambda s: np.asarray(s.memory.keys)[:, :, held[0]]
    np.testing.assert_allclose(keys(fresh), keys(once), atol=1e-6)
    assert np.abs(keys(once) - np.asarray(state.memory.keys)[:, :, held[0]]).max() > 1e-2


def test_a_flush_leaves_the_sinks_and_the_last_frames():
    made = generator(infinity_rope(12, 1))
    state, _ = run(made, made.start(), prompt(0), 5)
    serial = np.asarray(made.switch(state, prompt(1)).memory.notes["serial"])[0]
    assert sorted(serial[serial >= 0].tolist()) == [0, 13, 14]


def test_slow_frames_stay_when_the_window_has_passed():
    made = generator("context-forcing")
    state, _ = run(made, made.start(), prompt(0), 12)
    table = made.engine.table(state, np.arange(36, 39, dtype=np.int32)[None])
    frames = sorted(np.asarray(table.frames)[0].tolist())
    # every fourth block: the first ones of frames 12 and 24; sinks, the window, its own
    assert [f for f in frames if f >= 0] == [0, 1, 2, 12, 13, 14, 24, 25, 26, *range(30, 39)]


def test_a_reference_stays_ahead():
    made = generator("live-avatar")
    state = made.refer(made.start(), np.ones((1, 1, 4, 4, 4), np.float32), prompt(0))
    state, made_frames = run(made, state, prompt(0), 1)
    assert int(np.asarray(state.memory.notes["serial"])[0, -1]) == 30
    _, without = run(made, made.start(), prompt(0), 1)
    assert np.abs(made_frames[0].latents - without[0].latents).max() > 1e-4
    for start, place in ((0, 30), (18, 30), (21, 33), (10**6, 10**6 + 12)):
        own = start + np.arange(3, dtype=np.int32)[None]
        table = made.engine.table(state, own)
        assert int(table.keys[0, 9]) == place, start


STRICT = ("longlive", "rain")


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] * (n not in STRICT)) for n in ROLLOUTS]
)
def test_strict_flags_64_bits_and_donation(name):
    made = generator(name)
    state = jax.eval_shape(lambda: made.engine.init_state(jnp.zeros((2, 2), jnp.uint32)))
    text = jax.ShapeDtypeStruct((2, 6, 8), jnp.float32)
    want = jax.eval_shape(made._step, made.variables, state, text)
    assert signature(want[0]) == signature(state)
    with contextlib.ExitStack() as flags:
        flags.enter_context(jax.numpy_rank_promotion("raise"))
        flags.enter_context(jax.numpy_dtype_promotion("strict"))
        assert signature(jax.eval_shape(made._step, made.variables, state, text)) == signature(want)
        switched = jax.eval_shape(
            made._switch, made.variables, state, text, jax.ShapeDtypeStruct((2,), bool)
        )
        assert signature(switched) == signature(state)
        with jax.enable_x64(True):
            got = jax.eval_shape(made._step, made.variables, state, text)
    assert signature(got) == signature(want)


@pytest.mark.parametrize(
    "make, says",
    [
        (lambda: Rollout(Keep(sinks=12, recent=1), Read(12)), "12 sinks and a block of 3 frames"),
        (lambda: Rollout(Keep(sinks=3, recent=2), Read(12)), "reads 6 recent ones, and 2 are kept"),
        (lambda: Rollout(Keep(sinks=4, recent=6), Read(12)), "4 sinks are no whole blocks of 3"),
        (lambda: Rollout(switch="forget"), "switch 'forget': choose from"),
        (lambda: Rollout(switch="recache", latents=6), "latents of at least 9 frames, not 6"),
        (lambda: Rollout(order="diagonal"), "order 'diagonal': choose from"),
        (lambda: Rollout(order="levels"), "clean=False"),
        (lambda: Rollout(Keep(refresh=0.2, sinks=3, recent=6)), "frame by frame, not by blocks"),
        (lambda: Keep(sinks=-1), "not negative"),
        (lambda: Keep(refresh=0.2), "no sinks to refresh"),
        (lambda: Levels(((500.0, 500.0),)), "from at most 1000 down"),
        (lambda: Levels(()), "at least one level"),
    ],
)
def test_laws_that_do_not_go_together(make, says):
    with pytest.raises(ValueError, match=says):
        make()


def test_conditions_and_sources_of_another_shape():
    made = generator("longlive")
    with pytest.raises(ValueError, match=r"a condition \[6, 8\] of 1 streams: \[B, K, D\]"):
        made.step(made.start(), prompt(0)[0])
    with pytest.raises(ValueError, match=r"takes \[1, 3, 4, 4, 4\]"):
        made.step(made.start(), prompt(0), source=np.zeros((1, 3, 8, 8, 4), np.float32))
    with pytest.raises(ValueError, match="2 frames of a condition; this rollout keeps 1"):
        live = generator("live-avatar")
        live.refer(live.start(), np.zeros((1, 2, 4, 4, 4), np.float32), prompt(0))


@pytest.mark.slow
def test_a_source_is_what_its_first_level_leaves_of_it():
    levels = Levels(((500.0, 250.0),), shift=1.0)
    value = Rollout(levels=levels, read=Read(12, positions=Absolute()))
    made = generator(value)
    draws = np.zeros((1, 2, 3, 4, 4, 4), np.float32)
    source = np.ones((1, 3, 4, 4, 4), np.float32)
    _, with_source = made.step(made.start(), prompt(0), draws=draws, source=source)
    _, none = made.step(made.start(), prompt(0), draws=draws)
    # half of the source goes in; by hand: one pass at 500, then one at 250
    engine, state = made.engine, made.start()
    own = np.arange(3, dtype=np.int32)[None]
    x = 0.5 * source
    for time, up in ((500.0, 0.25), (250.0, 0.0)):
        times = np.full((1, 3), time, np.float32)
        table = engine.table(state, own)
        seen = engine.peek(made.variables, state.memory, table, x, times, prompt(0))
        x = (1 - up) * (x - time / 1000 * seen.flow)
    np.testing.assert_allclose(with_source.latents, x, atol=1e-5)
    assert np.abs(none.latents - with_source.latents).max() > 0.05


def test_one_program_per_shape():
    made, text = generator("diagonal-distillation"), prompt(0)
    state = made.start()
    for _ in range(4):
        state, _ = made.step(state, text)
    assert made._step._cache_size() == 1
    assert rollout("diagonal-distillation").levels.calls == (4, 3, 2)
