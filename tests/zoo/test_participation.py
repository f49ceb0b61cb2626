"""Deep Forcing: sinks that are turned to where they stand, and tokens that stay by attention."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from streamzoo.layers.memory import Rotary, View
from streamzoo.layers.rollout import Keep, Rollout
from streamzoo.layers.rollout.keep import RECENT, SINK, TOP
from streamzoo.layers.rollout.participation import Weigher, strongest
from streamzoo.layers.rollout.policy import deep_forcing
from streamzoo.zoo.generate import Generator
from streamzoo.zoo.generate.participation import chosen

from .test_generator import prompt, tiny

TEXT = prompt(0)
NOISY = np.random.default_rng(3).normal(size=(1, 3, 4, 4, 4)).astype(np.float32)
TIMES = np.full((1, 3), 800.0, np.float32)


@functools.cache
def generator(top):
    return Generator(*tiny(), deep_forcing(top))


@functools.cache
def after(top, blocks):
    """The stream after so many blocks."""
    if not blocks:
        return generator(top).start()
    return generator(top).step(after(top, blocks - 1), TEXT)[0]


def held(state, region):
    """Frames in the slots of a region."""
    serial = np.asarray(state.memory.notes["serial"])[0]
    return sorted(int(s) for s in serial[deep_forcing().keep.region == region] if s >= 0)


def by_angle(x, rates, places):
    """Turns x [..., Dh] as halves, in float64: pair i by rates[i] * places[..., i]."""
    half = x.shape[-1] // 2
    z = (x[..., :half] + 1j * x[..., half:]) * np.exp(1j * rates * places)
    return np.concatenate([z.real, z.imag], axis=-1)


@pytest.mark.slow
def test_turned_sinks_are_sinks_at_their_new_place():
    """The paper turns the time of sinks' keys by first tail - last sink; here they are read at the
    place to which that leads (arXiv 2512.05081, equations 5 and 6)."""
    made, state = generator(2), after(2, 6)  # before anything is compressed
    engine, memory = made.engine, state.memory
    serial = np.asarray(memory.notes["serial"])
    memory = dataclasses.replace(
        memory,
        notes={**memory.notes, "serial": np.where(serial >= 9, serial + 40, serial)},
    )
    state = dataclasses.replace(state, memory=memory)
    own = 58 + np.arange(3, dtype=np.int32)[None]
    table = engine.table(state, own)
    delta = 49 - 8
    keys = np.asarray(table.keys)
    assert keys[0, :9].tolist() == [i + delta for i in range(9)]
    assert sorted(keys[0, 9:18].tolist()) == [*range(49, 58)]
    want = engine.peek(made.variables, memory, table, NOISY, TIMES, TEXT)
    rotary = engine.module.config.rotary
    turned = np.asarray(memory.keys, np.float64)
    # [B, L, C, N * heads, Dh]: only pairs of time turn
    move = np.where(rotary.axis == 0, delta, 0)
    turned[:, :, :9] = by_angle(turned[:, :, :9], rotary.rates.astype(np.float64), move)
    other = dataclasses.replace(memory, keys=turned.astype(np.float32))
    there = table._replace(keys=np.where(np.arange(keys.shape[1]) < 9, keys - delta, keys))
    got = engine.peek(made.variables, other, there, NOISY, TIMES, TEXT)
    np.testing.assert_allclose(got.flow, want.flow, atol=3e-5)
    # and it matters where they stand
    far = engine.peek(made.variables, memory, there, NOISY, TIMES, TEXT)
    assert np.abs(far.flow - want.flow).max() > 1e-3


def test_score_is_the_sum_of_products_with_turned_queries():
    rng = np.random.default_rng(0)
    slots, tokens, heads, groups, width = 5, 3, 4, 2, 6
    draw = lambda *shape: rng.normal(size=shape).astype(np.float32)
    keys, q = draw(1, 1, slots, groups, width), draw(1, tokens, heads, width)
    new = draw(1, tokens, groups, width)
    rotary = Rotary(np.float32([1.0, 0.3, 0.1]), np.array([0, 1, 2]))
    places = rng.integers(0, 9, (1, slots + tokens, 3)).astype(np.int32)
    view = View(None, jnp.asarray(places), jnp.asarray(places[:, slots:, None]))
    reader = Weigher.of(jnp.asarray(keys), jnp.asarray(keys), view, rotary, jnp.ones(1, bool))
    new = jnp.asarray(new)
    one: Any = reader.layer(jnp.int32(0))
    _, score, _ = one(jnp.asarray(q), new, new)
    want = np.zeros(slots)
    for j in range(slots):
        for t in range(tokens):
            for head in range(heads):
                key = keys[0, 0, j, head // 2].astype(np.float64)
                key = by_angle(key, rotary.rates, places[0, j])
                want[j] += by_angle(q[0, t, head], rotary.rates, places[0, slots + t]) @ key
    np.testing.assert_allclose(score[0, :, 0, 0], want, atol=1e-4)


def test_strongest_tokens_do_not_depend_on_their_slots():
    rng = np.random.default_rng(1)
    score = rng.integers(0, 3, (1, 40)).astype(np.float32)  # many are equal
    time = np.arange(40, dtype=np.int32)[None]
    here = (time % 7 != 0) & (time != 12)
    best = strongest(jnp.asarray(score), jnp.asarray(time), jnp.asarray(here), 9)
    by_hand = sorted(sorted(np.flatnonzero(here[0]), key=lambda i: (-score[0, i], i))[:9])
    assert best[0].tolist() == by_hand
    for _ in range(3):
        mixed = rng.permutation(40)
        order = [jnp.asarray(a[:, mixed]) for a in (score, time, here)]
        found = strongest(order[0], order[1], order[2], 9)
        assert mixed[np.asarray(found[0])].tolist() == by_hand


def test_memory_is_compressed_when_it_is_full_and_only_then():
    assert held(after(2, 6), TOP) == [] and held(after(2, 6), RECENT) == [*range(9, 18)]
    # before block 7 memory and block fill the window: two frames' worth, one whole frame
    assert held(after(2, 7), TOP) == [15, 16] and held(after(2, 7), RECENT) == [*range(17, 21)]
    assert held(after(2, 7), SINK) == [*range(9)]
    assert held(after(2, 8), TOP) == [15, 16] and held(after(2, 8), RECENT) == [*range(17, 24)]
    assert held(after(2, 9), TOP) == [21, 22] and held(after(2, 9), RECENT) == [*range(23, 27)]
    keys = lambda state: np.asarray(state.memory.keys)[:, :, deep_forcing().keep.region == TOP]
    np.testing.assert_array_equal(keys(after(2, 7)), keys(after(2, 8)))
    assert np.abs(keys(after(2, 9)) - keys(after(2, 8))).max() > 0


@pytest.mark.slow
def test_the_tokens_with_most_attention_stay_each_in_its_own_cell():
    """Against a read of those tokens that is written out by hand."""
    made, state = generator(2), after(2, 6)
    engine, memory = made.engine, state.memory
    own = 18 + np.arange(3, dtype=np.int32)[None]
    table = engine.table(state, own)
    score = engine.weigh(made.variables, memory, table, NOISY, TIMES, TEXT)
    small = chosen(engine, memory, score)
    state = dataclasses.replace(state, memory=small)
    got = engine.peek(made.variables, small, engine.table(state, own), NOISY, TIMES, TEXT)

    serial = np.asarray(memory.notes["serial"])[0]
    rows, tokens = [], []  # (frame, place in time, slot, cell)
    for slot in np.argsort(serial):
        for cell in range(4):
            if 0 <= serial[slot] < 9 or serial[slot] == 17:
                rows.append((int(serial[slot]), slot, cell))
            elif 9 <= serial[slot] < 17:
                tokens.append((float(score[0, slot, cell]), int(serial[slot]), slot, cell))
    best = sorted(sorted(tokens, key=lambda t: -t[0])[:8], key=lambda t: t[1:])
    assert {t[3] for t in best} != {0}  # not only the first cells
    rows = [(f + 15 - 8 if f < 9 else f, s, c) for f, s, c in rows]  # sinks end at the tail's first
    rows += [(15 + i // 4, s, c) for i, (_, _, s, c) in enumerate(best)]
    each = lambda a: a.reshape(1, 2, -1, 4, 2, 12)
    pick = lambda a: jnp.stack([each(a)[:, :, s, c] for _, s, c in rows], axis=2)
    flat = lambda a: a.reshape(1, 2, len(rows) // 4, 8, 12)
    new = [(f, c // 2, c % 2) for f in own[0] for c in range(4)]
    at = np.asarray([[(t, c // 2, c % 2) for t, _, c in rows] + new], np.int32)
    at[..., 0] -= 18
    view = View(None, jnp.asarray(at), jnp.asarray(at[:, len(rows) :, None]))
    want = made.engine.module.apply(
        made.variables, NOISY, TIMES, TEXT, flat(pick(memory.keys)), flat(pick(memory.values)),
        view, method="recall",
    )  # fmt: skip
    np.testing.assert_allclose(got.flow, want[0], atol=2e-5)


@pytest.mark.slow
def test_nothing_changes_where_all_tokens_stay():
    """Eight frames' worth of the eight that may leave: the block that fills the window is made as
    without."""
    plain, every = generator(0), generator(8)
    draws = np.random.default_rng(2).normal(size=(1, 4, 3, 4, 4, 4)).astype(np.float32)
    _, want = plain.step(after(0, 6), TEXT, draws=draws)
    state, got = every.step(after(8, 6), TEXT, draws=draws)
    assert int((state.memory.notes["serial"] >= 0).sum()) == 9 + 8 + 4
    np.testing.assert_allclose(got.latents, want.latents, atol=2e-5)


def test_what_cannot_be_compressed_is_refused():
    with pytest.raises(ValueError, match="9 of 9 frames, 1 whole beside"):
        Keep(sinks=9, recent=9, top=9)
    with pytest.raises(ValueError, match="block by block, and without a recache"):
        Rollout(deep_forcing().keep, deep_forcing().read, switch="recache", latents=18)


@pytest.mark.slow
def test_a_cut_of_the_batch_is_compressed_alone():
    """One stream is full and another is not: each as it is alone."""
    made = generator(2)
    both = jax.tree.map(lambda *a: jnp.concatenate(a), after(2, 6), after(2, 4))
    state, _ = made.step(both, np.repeat(TEXT, 2, axis=0))
    serial = np.asarray(state.memory.notes["serial"])
    for row, blocks in enumerate((7, 5)):
        want = after(2, blocks)
        np.testing.assert_array_equal(serial[row], want.memory.notes["serial"][0])
        np.testing.assert_array_equal(state.memory.notes["cell"][row], want.memory.notes["cell"][0])
