"""LiveVLM: rows chosen by buckets, held against plain loops; pages of a question."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from streamzoo.layers.memory import Rotary, empty_slots
from streamzoo.layers.policies import LiveVLM
from streamzoo.layers.policies.buckets import bucketed
from streamzoo.zoo.text import Decoder

from ...zoo.language import tiny, tokens

ROTARY = Rotary((10_000.0 ** (-np.arange(4) / 4)).astype(np.float32), np.zeros(4, int))


def by_hand(score, bucket, there, most, room, first):
    """The published two phases, one row at a time."""
    order = [i for i in np.argsort(-score, kind="stable") if there[i]]
    kept, held = [], {}
    for i in order[:first]:
        if len(kept) < most:
            kept.append(i)
            held[bucket[i]] = held.get(bucket[i], 0) + 1
    for i in order[first:]:
        if len(kept) < most and held.get(bucket[i], 0) < room:
            kept.append(i)
            held[bucket[i]] = held.get(bucket[i], 0) + 1
    return np.isin(np.arange(len(score)), kept)


def test_buckets_fill_as_one_row_at_a_time_would():
    rng = np.random.default_rng(0)
    choose = jax.jit(bucketed, static_argnums=(3, 4, 5))
    for most, room, first in ((8, 2, 0), (8, 1, 3), (8, 8, 0), (20, 3, 5)):
        score = rng.standard_normal((40, 24)).astype(np.float32)
        bucket = rng.integers(0, 6, (40, 24)).astype(np.int32)
        there = rng.random((40, 24)) < 0.8
        got = np.asarray(choose(score, bucket, there, most, room, first))
        want = [by_hand(*row, most, room, first) for row in zip(score, bucket, there, strict=True)]
        np.testing.assert_array_equal(got, want)
        if room >= most:  # no bucket is ever full: these are the best
            best = np.argsort(np.argsort(np.where(there, -score, np.inf), axis=1), axis=1) < most
            np.testing.assert_array_equal(got, best & there)
        if not first:
            count = [np.bincount(b[g], minlength=6).max() for b, g in zip(bucket, got, strict=True)]
            assert max(count) <= room


def turned(x, place):
    """x [..., 8] at a place, in float64, by complex numbers."""
    pair = (x[..., :4] + 1j * x[..., 4:]) * np.exp(1j * place * ROTARY.rates.astype(float))
    return np.concatenate([pair.real, pair.imag], axis=-1)


def one_layer(policy, q, k, v):
    """The stream in plain Python: (answers, serials that are held)."""
    held, answers = [], []
    for t in range(len(q)):
        behind = t - policy.sinks
        late = [s for s in held if s >= policy.sinks]
        if behind > 0 and behind % policy.recent == 0:
            asks = range(max(0, t - policy.asked), t)
            score = np.zeros(len(late))
            for a in asks:
                seen = np.array([s <= a for s in late])
                for h in range(4):
                    logit = np.array([turned(q[a, h], a) @ turned(k[s, h // 2], s) for s in late])
                    weight = np.where(seen, np.exp(logit / 8**0.5), 0)
                    score += weight / max(weight.sum(), 1e-30) / len(asks)
            stretch = -(-behind // (policy.buckets or policy.long))
            bucket = np.array([(s - policy.sinks) // stretch for s in late])
            stays = by_hand(score, bucket, late, policy.long, policy.room, policy.top)
            stays |= np.zeros(len(late), bool)
            held = [s for s in held if s < policy.sinks] + [
                s for s, stay in zip(late, stays, strict=True) if stay
            ]
        held.append(t)
        said = np.zeros((4, 8))
        for h in range(4):
            logit = np.array([turned(q[t, h], t) @ turned(k[s, h // 2], s) for s in held])
            weight = np.exp(logit / 8**0.5)
            said[h] = (weight / weight.sum()) @ np.array([v[s, h // 2] for s in held])
        answers.append(said)
    return np.array(answers), held


@pytest.mark.parametrize("buckets, top", [(3, 0), pytest.param(None, 2, marks=pytest.mark.slow)])
def test_a_layer_keeps_and_says_what_plain_loops_do(buckets, top):
    policy = LiveVLM(2, 6, 5, buckets, top=top, asked=3)
    rng = np.random.default_rng(1)
    q, k, v = (2 * rng.standard_normal((1, 33, n, 8)).astype(np.float32) for n in (4, 2, 2))
    fresh = empty_slots(1, 1, policy.capacity, 2, 8, policy.notes(1))
    slots = dataclasses.replace(fresh, layered=policy.layered(fresh.keys, 4, 1))

    @jax.jit
    def read(slots, q, k, v):
        valid = jnp.ones(q.shape[:2], bool)
        arrival = policy.arrive(slots, valid, 1, {})
        every = policy.memories(slots, arrival, valid, ROTARY, jnp.ones(1, bool))
        y, rows, _ = every.layer(jnp.int32(0))(q, k, v)
        return policy.settle(slots, arrival, jax.tree.map(lambda a: a[None], rows), ()), y

    slots, said = read(slots, q, k, v)
    want, held = one_layer(policy, *(a[0].astype(float) for a in (q, k, v)))
    np.testing.assert_allclose(said[0], want, atol=2e-5)
    serial = np.asarray(slots.notes["serial"])[0]
    assert sorted(serial[serial >= 0].tolist()) == held
    assert len(held) < 33 and min(held[2:]) < 10  # old rows are among them


POLICY = LiveVLM(2, 16, 8, 4, top=2, asked=4, page=3, ratio=0.4)


@functools.cache
def told(policy=POLICY, steps=35):
    model, variables = tiny(policy=policy)
    carry, _ = jax.jit(model.apply)(variables, model.init_carry(2), tokens(0, 2, steps))
    ask = jax.jit(functools.partial(model.apply, method=Decoder.ask), static_argnames="room")
    return model, variables, carry, ask


@pytest.mark.slow
def test_a_question_that_reads_every_page_reads_as_the_stream_does():
    """No compression falls into the question; its answer goes on as the stream would."""
    policy = dataclasses.replace(POLICY, ratio=1.0)
    model, variables, carry, ask = told(policy)
    before = jax.tree.map(np.array, carry)
    question, more = tokens(1, 2, 3), tokens(2, 2, 2)
    answer, logits = ask(variables, carry, question, room=2)
    jax.tree.map(np.testing.assert_array_equal, before, carry)
    after, want = jax.jit(model.apply)(variables, carry, question)
    np.testing.assert_allclose(logits, want, atol=2e-5)
    later = model.clone(config=dataclasses.replace(model.config, policy=policy.answer(5)))
    said = jax.jit(later.apply)(variables, answer, more)[1]
    np.testing.assert_allclose(said, jax.jit(model.apply)(variables, after, more)[1], atol=2e-5)


@pytest.mark.slow
def test_pages_are_the_best_share_and_do_not_know_where_they_stand():
    model, variables, carry, ask = told()
    question = tokens(1, 2, 3)
    _, near = ask(variables, carry, question, room=1)
    everything = told(dataclasses.replace(POLICY, ratio=1.0))[3](variables, carry, question, room=1)
    assert float(jnp.abs(near - everything[1]).max()) > 1e-3  # some pages were not read
    far = {**carry.layered, "place": carry.layered["place"] + 100_000}
    moved = dataclasses.replace(carry, next=carry.next + 100_000, layered=far)
    np.testing.assert_allclose(ask(variables, moved, question, room=1)[1], near, atol=1e-5)
    rng = np.random.default_rng(3)
    keys = rng.standard_normal((1, POLICY.capacity, 2, 8)).astype(np.float32)
    q = rng.standard_normal((1, 4, 4, 8)).astype(np.float32)
    serial = np.arange(POLICY.capacity)[None]
    serial[0, 14:18] = -1  # 12 rows of 16 are held: 4 pages, of which 2 are read
    valid = np.array([[True, True, True, False]])
    read = np.asarray(POLICY.pages(q, keys, serial, valid))[0]
    mean = q[0, :3].mean(axis=0)
    score = [
        sum(mean[h] @ keys[0, 2 + 3 * p : 5 + 3 * p, h // 2].mean(axis=0) for h in range(4))
        for p in range(4)
    ]
    best = sorted(np.argsort(score)[-2:].tolist())
    want = [0, 1, *(2 + 3 * p + i for p in best for i in range(3)), *range(18, 26)]
    assert np.flatnonzero(read).tolist() == want


@pytest.mark.parametrize(
    "make, says",
    [
        (lambda: LiveVLM(long=0), "at least one chosen"),
        (lambda: LiveVLM(ratio=0.0), "a share of the pages above 0"),
        (lambda: LiveVLM(long=4, buckets=5), "5 buckets share 4"),
    ],
)
def test_policies_that_cannot_be(make, says):
    with pytest.raises(ValueError, match=says):
        make()
