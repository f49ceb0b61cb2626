"""The carry law on every rollout by name: chunks, slots, snapshots, prompts of one stream, and
streams that have run for years."""

from __future__ import annotations

import dataclasses
import functools
import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from streamzoo.layers import contract
from streamzoo.layers.contract import Subject, signature
from streamzoo.layers.gaps import zero_invalid
from streamzoo.layers.rollout import ROLLOUTS, Ahead, Ranked, Regions
from streamzoo.layers.rollout.keep import CONDITION, SINK
from streamzoo.layers.rollout.policy import Adjacent
from streamzoo.zoo.generate import Generator
from streamzoo.zoo.generate.generator import STEPS

from .test_generator import prompt, tiny

BATCH, WARM = 3, 16  # blocks after which every memory is full, and slow frames have left the window
FAST = ("anchor-forcing", "rolling-forcing", "stream-diffusion-v2")
LONG = ("longlive", *FAST)  # each order, and the laws that switch between blocks
NAMES = [pytest.param(n, marks=[pytest.mark.slow] * (n not in FAST)) for n in ROLLOUTS]
TEXT = np.random.default_rng(0).normal(size=(BATCH, 6, 8)).astype(np.float32)


@functools.cache
def generator(name):
    return Generator(*tiny(), name)


@functools.cache
def subject(name):
    """Blocks of a stream as the kit has frames: the input of a block is its prompt."""
    made = generator(name)

    def blocks(state, text, valid):
        def one(state, now):
            text, active = now
            step = STEPS[made.rollout.order]
            return step(made.engine, made.variables, state, text, active=active)

        here = jnp.ones(text.shape[:2], bool) if valid is None else valid
        state, out = jax.lax.scan(one, state, (text.swapaxes(0, 1), here.swapaxes(0, 1)))
        out = jax.tree.map(lambda a: a.swapaxes(0, 1), out)
        return state, jax.tree.map(lambda a: zero_invalid(a, here), out)

    def texts(seed, batch, steps):
        return jax.random.normal(jax.random.key(seed), (batch, steps, 6, 8), jnp.float32)

    def start(batch):  # the noise of all is that of the first, as the kit lets streams change rows
        first = made.start(1)
        return jax.tree.map(lambda a: jnp.repeat(a, batch, axis=0), first)

    return Subject(start, blocks, texts)


@functools.cache
def warm(name):
    """A batch with full memories, which had two prompts; on the host."""
    made = generator(name)
    state = made.start(BATCH, seed=3)
    for block in range(WARM):
        if block == WARM // 2:
            state = made.switch(state, TEXT)
        state, _ = made.step(state, TEXT)
    return jax.tree.map(np.asarray, state)


def going_on(made, state, text, steps=2):
    out = []
    for _ in range(steps):
        state, block = made.step(state, text)
        out.append(block)
    return jax.tree.map(np.asarray, (state, out))


def same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def rows(tree, which):
    return jax.tree.map(lambda a: a[which], tree)


@pytest.mark.slow
@pytest.mark.parametrize("name", ROLLOUTS)
def test_blocks_at_once_are_blocks_one_by_one_and_slots_are_alone(name):
    s = subject(name)
    contract.check_chunking(s, steps=3, batch=BATCH, seeds=0, clips=())
    contract.check_slots(s, batch=BATCH, steps=3)


@pytest.mark.slow
@pytest.mark.parametrize("name", LONG)
def test_any_split_scans_and_pauses(name):
    s = subject(name)
    contract.check_chunking(s, steps=7, seeds=3, clips=())
    contract.check_scan(s, steps=5)
    contract.check_gaps(s, steps=6, seeds=2)
    contract.check_peek(s)


@pytest.mark.parametrize("name", NAMES)
def test_no_leaf_of_the_carry_changes_its_shape_or_type(name):
    made, state = generator(name), warm(name)
    assert signature(state) == signature(made.start(BATCH))
    assert all(a.shape[0] == BATCH for a in jax.tree.leaves(state))
    one, two = contract.carry_bytes(made.start(1)), contract.carry_bytes(made.start(2))
    assert two == 2 * one


@pytest.mark.parametrize("name", NAMES)
def test_one_stream_gets_a_prompt_and_the_others_stay_bit_for_bit(name):
    made, state = generator(name), warm(name)
    others, one = np.array([0, 2]), np.array([False, True, False])
    after = made.switch(state, prompt(9, BATCH), which=one)
    same(rows(after, others), rows(state, others))
    text = np.where(one[:, None, None], prompt(9, BATCH), TEXT)
    _, got = going_on(made, after, text)
    _, want = going_on(made, state, TEXT)
    same(rows([b._asdict() for b in got], others), rows([b._asdict() for b in want], others))
    assert np.abs(got[-1].latents[1] - want[-1].latents[1]).max() > 1e-3
    # the prompt is counted, and what a law of prompts keeps of it is there
    assert after.prompts.tolist() == [2, 3, 2]
    assert int(after.since[1]) == int(state.memory.seen[1])


@pytest.mark.parametrize("name", NAMES)
def test_a_stream_that_was_saved_resumes_bit_for_bit(name):
    made, state = generator(name), warm(name)
    file = io.BytesIO()
    np.savez(file, *jax.tree.leaves(state))
    file.seek(0)
    with np.load(file) as saved:
        leaves = [saved[f"arr_{i}"] for i in range(len(saved.files))]
    again = jax.tree.unflatten(jax.tree.structure(state), leaves)
    want = going_on(made, state, TEXT)
    same(going_on(made, again, TEXT), want)
    # and noise that was saved is the stream's own
    other = dataclasses.replace(again, key=again.key + np.uint32([[0], [1], [0]]))
    _, got = going_on(made, other, TEXT)
    differs = [(got[-1].latents[i] != want[1][-1].latents[i]).any() for i in range(BATCH)]
    assert differs == [False, True, False]


def much_later(made, state, frames):
    """The same streams as if ``frames`` more had passed. Sinks whose places are given by the
    position law keep their numbers; where places are absolute, only their distance counts. The
    number of a step chooses the noise: it stays, but where it numbers frames as well."""
    r = made.rollout
    fixed = [CONDITION] * isinstance(r.read.positions, Ahead)
    if isinstance(r.read.positions, Ranked | Regions | Adjacent):
        fixed.append(SINK)
    serial = state.memory.notes["serial"]
    moves = (serial >= 0) & ~np.isin(r.keep.region, fixed)
    later = lambda a, by: np.asarray(a + by, np.int32)
    memory = dataclasses.replace(
        state.memory,
        notes={**state.memory.notes, "serial": np.where(moves, later(serial, frames), serial)},
        seen=later(state.memory.seen, frames),
        next=later(state.memory.next, frames),
    )
    return dataclasses.replace(
        state,
        memory=memory,
        since=later(state.since, frames),
        begun=later(state.begun, frames // r.block),
        steps=later(state.steps, frames // r.block) if r.order == "window" else state.steps,
    )


TURN = 72  # frames: whole turns of every ring, and of the slow blocks
YEAR = 60 * 3600 * 24 * 365


@pytest.mark.parametrize("name", NAMES)
def test_frame_a_million_and_a_year_are_as_frame_fifty(name):
    """The same noise gives the same video, bit for bit."""
    made, state, draws = generator(name), warm(name), None
    r = made.rollout
    if r.order == "window":
        shape = (BATCH, r.under_way + 1, r.block, *made.engine.shapes.frame_shape)
        draws = np.random.default_rng(2).normal(size=shape).astype(np.float32)
    _, want = made.step(state, TEXT, draws=draws)
    for frames in (10**6, YEAR):
        frames = -(-frames // TURN) * TURN
        after, got = made.step(much_later(made, state, frames), TEXT, draws=draws)
        np.testing.assert_array_equal(got.latents, want.latents)
        np.testing.assert_array_equal(got.start, want.start + frames)
        assert got.valid.all() and signature(after) == signature(state)
