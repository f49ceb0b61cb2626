"""StreamingLLM: the authors' cache, chunk by chunk; rows that close ranks, as a stream."""

import dataclasses
import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from streamzoo.layers import contract
from streamzoo.layers.contract import Subject
from streamzoo.layers.memory import Reader, Rotary, View, empty_slots
from streamzoo.layers.policies import POLICIES as POLICY_NAMES
from streamzoo.layers.policies import ChunkSinks, Contiguous, Recent, StreamingVLM, create
from streamzoo.layers.policies import streaming_vlm as vlm
from streamzoo.layers.policies.contiguous import drop, move, ordered, places, trim
from streamzoo.zoo.convert import convert
from streamzoo.zoo.text import Decoder, DecoderConfig
from streamzoo.zoo.text.decoder.convert import rules

from ...zoo.language import tiny, tokens

GOLDENS = Path(__file__).parents[4] / "shared/goldens/language"
needs_goldens = pytest.mark.skipif(not GOLDENS.is_dir(), reason="shared goldens are not there")


@needs_goldens
def test_chunks_see_what_they_see_in_the_authors_cache():
    with np.load(GOLDENS / "streamingllm.npz") as file:
        z = dict(file)
    names = {"embed": "model.embed_tokens", "norm": "model.norm", "head": "lm_head"}
    weights = {}
    for key, array in z.items():
        if not key.startswith("p/"):
            continue
        name = key[2:].removesuffix(".weight")
        if name.startswith("layers."):
            own = name.endswith(("gate_proj", "up_proj", "down_proj"))
            block, part = name.rsplit(".", 1)
            name = f"model.{block}.mlp.{part}" if own else f"model.{name}"
        weights[f"{names.get(name, name)}.weight"] = array
    policy = ChunkSinks(budget=16, sinks=4)
    config = DecoderConfig(
        vocabulary=50, dim=32, hidden=48, depth=2, heads=4, kv_heads=2, head_dim=8, tied=False,
        eps=1e-6, policy=policy,
    )  # fmt: skip
    model = Decoder(config)
    variables = convert(weights, rules(2, False, False, tied=False))
    room = jax.jit(policy.make_room, static_argnums=1)

    @jax.jit
    def step(carry, ids, count):
        return model.apply(variables, carry, ids, jnp.arange(12)[None] < count)

    carry, at, logits, order = model.init_carry(1), 0, [], np.zeros(16, int)
    for count, kept in zip(z["chunks"].tolist(), z["kept"], strict=True):
        carry = room(carry, count)
        ids = np.zeros((1, 12), np.int32)
        ids[:, :count] = z["ids"][:, at : at + count]
        carry, out = step(carry, ids, count)
        logits.append(out[0, :count])
        at += count
        serial = np.asarray(carry.notes["serial"])[0]
        order = np.asarray(ordered(carry.notes))[0]
        np.testing.assert_array_equal(serial[order][: (kept >= 0).sum()], kept[kept >= 0])
    np.testing.assert_allclose(np.concatenate(logits), z["logits"], atol=2e-5 * 2.1)
    keys = np.asarray(carry.keys)[0][:, order]
    np.testing.assert_allclose(keys[0].swapaxes(0, 1), z["final_k0"][0], atol=1e-5)
    np.testing.assert_allclose(keys[1].swapaxes(0, 1), z["final_k1"][0], atol=5e-5)
    with pytest.raises(ValueError, match="room for 12 beside"):
        policy.make_room(carry, 13)


POLICIES = {
    "contiguous": Contiguous(48),
    "contiguous-full": Contiguous(5),  # the oldest row leaves
    "streaming-vlm": StreamingVLM(8, 1, 1, 2, 2),
}


@functools.cache
def subject(name):
    model, variables = tiny(policy=POLICIES[name], sections=(2, 1, 1))
    return Subject.of(model, variables, tokens)


# one memory's gaps and chunks stand for all in the fast part: test_decoder.py
LAWS = [
    pytest.param(name, law, marks=pytest.mark.slow) for name in POLICIES for law in contract.LAWS
]


@pytest.mark.parametrize("name, law", LAWS)
def test_carry_law(name, law):
    law(subject(name))


@pytest.mark.parametrize("name", ["contiguous-full", pytest.param("head", marks=pytest.mark.slow)])
def test_a_full_memory_forgets_its_oldest_rows_and_never_the_new(name):
    """With a head in front, a token sees what it would see with those rows alone, side by side."""
    head = name == "head"
    policy = StreamingVLM(6, 1, 1, 2, 2) if head else Contiguous(5)
    model, variables = tiny(policy=policy, depth=1)
    step = jax.jit(model.apply)
    ids = tokens(3, 1, 11)
    told = {"segment": np.where(np.arange(11) < 2, vlm.HEAD, vlm.TALK)[None]} if head else {}
    at = lambda a, b: {k: v[:, a:b] for k, v in told.items()}
    carry = model.init_carry(1)
    carry, _ = step(variables, carry, ids[:, :2], told=at(0, 2))
    carry, _ = step(variables, carry, ids[:, 2:8], told=at(2, 8))
    carry, logits = step(variables, carry, ids[:, 8:], told=at(8, 11))
    want = [0, 1, 7, 8, 9, 10] if head else [6, 7, 8, 9, 10]
    assert sorted(serials(carry)) == want
    kept = ids[:, want]
    alone = step(
        variables, model.init_carry(1), kept, told={k: v[:, want] for k, v in told.items()}
    )
    np.testing.assert_allclose(logits[:, -1], alone[1][:, -1], atol=2e-5)


def test_policies_by_name():
    for name in POLICY_NAMES:
        assert create(name, 128).capacity == 128, name
    assert create("streaming-vlm").capacity == 1024
    # VST: one turn's picture and reply in place, an eighth and five eighths of the text before
    assert create("vst", 128) == StreamingVLM(128, 1, 1, 16, 80)
    with pytest.raises(ValueError, match="did you mean streaming-"):
        create("streaming-vllm")
    with pytest.raises(ValueError, match="leave none for what comes"):
        ChunkSinks(budget=4)


def slots_of(policy, *rows):
    """One stream whose slots hold (segment, turn, role, advance) in this order."""
    slots = empty_slots(1, 1, policy.capacity, 1, 2, policy.notes(3))
    table = np.zeros((policy.capacity, 4), np.int32)
    table[: len(rows)] = rows
    notes = {n: table[None, :, i] for i, n in enumerate(("segment", "turn", "role", "advance"))}
    serial = np.where(np.arange(policy.capacity) < len(rows), np.arange(policy.capacity), -1)
    kept = {**slots.notes, **notes, "serial": serial[None].astype(np.int32)}
    return dataclasses.replace(slots, notes=jax.tree.map(jnp.asarray, kept))


def serials(slots):
    serial = np.asarray(slots.notes["serial"])[0][np.asarray(ordered(slots.notes))[0]]
    return serial[serial >= 0].tolist()


def test_rows_close_ranks_wherever_one_left():
    policy = Contiguous(8)
    slots = slots_of(policy, *[(2, 0, 0, 1)] * 2, (2, 0, 0, 3), *[(2, 0, 0, 1)] * 3)
    assert places(slots.notes)[0, :6, 0].tolist() == [0, 1, 2, 5, 6, 7]
    gone = drop(slots, jnp.arange(8)[None] == 1)
    assert serials(gone) == [0, 2, 3, 4, 5]
    assert places(gone.notes)[0, [0, 2, 3, 4, 5], 0].tolist() == [0, 1, 4, 5, 6]
    moved = move(gone, jnp.arange(8)[None] == 4, 0)
    assert serials(moved) == [4, 0, 2, 3, 5]
    assert serials(trim(moved, moved.notes["serial"] >= 0, 1, 2)) == [4, 3, 5]


def test_a_reply_that_ended_at_its_limit_loses_no_word():
    """The authors' code drops the last word of one as if it were the mark of silence."""
    said = [(vlm.TALK, 0, role, 1) for role in (vlm.USER, vlm.FRAME, vlm.WORD, vlm.WORD)]
    for end, cut, kept in (
        (vlm.WORD, False, [2, 3, 4]),
        (vlm.WORD, True, [2, 3]),
        (vlm.SILENT, False, [2, 3]),
        (vlm.SILENT, True, [2, 3]),
    ):
        policy = StreamingVLM(12, text_rounds=1, visual_rounds=3, cut=cut)
        slots = slots_of(policy, *said, (vlm.TALK, 0, end, 1), (vlm.TALK, 0, vlm.FRAME, 1))
        assert serials(policy.begin_turn(slots, 0)) == [0, 1, 2, 3, 4, 5]
        after = policy.begin_turn(slots, 1)
        assert serials(after) == [*kept, 0]
        assert after.notes["segment"][0, kept[0]] == vlm.PAST


@pytest.mark.slow
def test_attention_that_has_nowhere_to_go():
    """A zero sink is softmax off by one, in float64; a learned one is a first token like others."""
    rng = np.random.default_rng(0)
    q, k, v = (rng.standard_normal((1, 3, 2, 8)).astype(np.float32) for _ in range(3))
    rotary = Rotary(np.ones(4, np.float32), np.zeros(4, int))
    seen = jnp.tril(jnp.ones((3, 3), bool))[None]
    still = jnp.zeros((1, 3, 1), jnp.int32)
    view = View(seen, still, still[:, :, None])
    none = jnp.zeros((1, 1, 0, 2, 8))
    reader = Reader.of(none, none, view, rotary, jnp.zeros(1, bool), rest=True)
    got = reader.layer(jnp.int32(0))(q, k, v)[0]
    logit = np.einsum("bthd,bkhd->bhtk", q.astype(float), k.astype(float)) / 8**0.5
    weight = np.exp(logit) * np.tril(np.ones((3, 3)))
    weight /= 1 + weight.sum(axis=-1, keepdims=True)
    np.testing.assert_allclose(got, np.einsum("bhtk,bkhd->bthd", weight, v), atol=1e-6)

    model, variables = tiny(sink="learned", policy=Recent(1, 3, "cache"), depth=1)
    embedding = variables["params"]["embed"]["embedding"]
    plain, _ = tiny(policy=Recent(1, 3, "cache"), depth=1)
    params = {k: v for k, v in variables["params"].items() if k != "sink"}
    params["embed"] = {"embedding": embedding.at[299].set(variables["params"]["sink"])}
    ids = np.concatenate([np.full((1, 1), 299, np.int32), tokens(0, 1, 6) % 299], axis=1)
    want = plain.apply({"params": params}, plain.init_carry(1), ids)[1]
    begun = model.apply(variables, model.init_carry(1), method=Decoder.begin)
    got = model.apply({"params": params | {"sink": embedding[0]}}, begun, ids[:, 1:])[1]
    np.testing.assert_allclose(got[..., :299], want[:, 1:, :299], atol=2e-5)  # it stays
    with pytest.raises(TypeError, match="begins with its first token"):
        plain.apply({"params": params}, plain.init_carry(1), method=Decoder.begin)
    for wrong, says in (("some", "choose from"), ("zero", "no zero sink")):
        with pytest.raises(ValueError, match=says):
            DecoderConfig(sink=wrong, policy="livevlm")
