"""ReKV: window, retrieval and answer of the authors' attention, and of a whole model."""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from streamzoo.layers import contract
from streamzoo.layers.contract import Subject
from streamzoo.layers.memory import Reader, Rotary, empty_slots, store
from streamzoo.layers.policies import ReKV, SinkWindow
from streamzoo.layers.transformer import Attention, BlockConfig
from streamzoo.zoo.text import Decoder

from ...zoo.language import tiny, tokens

GOLDENS = Path(__file__).parents[4] / "shared/goldens/language"
needs_goldens = pytest.mark.skipif(not GOLDENS.is_dir(), reason="shared goldens are not there")
ROTARY = Rotary((10_000.0 ** (-np.arange(4) / 4)).astype(np.float32), np.zeros(4, int))
TURNED = jnp.ones(1, bool)


@needs_goldens
@pytest.mark.parametrize(
    "case",
    [
        "chunk2",
        *(pytest.param(c, marks=pytest.mark.slow) for c in ("offloaded", "not_full", "few")),
    ],
)
def test_attention_is_the_authors(case):
    """Their blocks, in one chunk; then the frames, the question's answer, and three words more."""
    with np.load(GOLDENS / "rekv.npz") as file:
        z = {k.split("/")[1]: file[k] for k in file if k.startswith(case + "/")}
        p = {k[2:]: file[k] for k in file if k.startswith("p/")}
    top, chunk, frames, local, init, frame, block, _ = (int(n) for n in z["args"])
    config = BlockConfig(32, 4, kv_heads=2, head_dim=8, out_bias=False)
    join = lambda part: np.concatenate([p[f"{n}.{part}"].T for n in "qkv"], axis=-1)
    qkv = {"kernel": join("weight"), "bias": join("bias")}
    variables = {"params": {"qkv": qkv, "out": {"kernel": p["o.weight"].T}}}
    module: Any = Attention(config)
    recall = lambda x, memory: module.apply(variables, x, memory, method=Attention.recall)
    kept = max(init + frames * frame, init + -(-local // frame) * frame)
    policy = ReKV(kept, init, local, block, frame=frame, top=min(top, frames), chunk=chunk)

    def hear(policy, slots, x):
        valid = jnp.ones(x.shape[:2], bool)
        arrival = policy.arrive(slots, valid, 1, {})
        memory = Reader.of(slots.keys, slots.values, arrival.view, ROTARY, TURNED)
        y, k, v = recall(x, memory.layer(jnp.int32(0)))
        after = store(slots, k[:, None], v[:, None], arrival.notes, arrival.slot)
        return dataclasses.replace(after, seen=arrival.seen), y[0]

    @jax.jit
    def everything(x, question, more):
        slots, seen = hear(policy, empty_slots(1, 1, kept, 2, 8, {}), x)
        valid = jnp.ones(question.shape[:2], bool)
        memory = policy.recall(slots, valid, ROTARY, TURNED)
        y, k, v = recall(question, memory.layer(jnp.int32(0)))
        q = module.apply(variables, question, method=Attention.project)[0]
        scores = policy.scores(q, slots.keys[:, 0], valid)
        place, _ = policy.choose(scores, slots.notes["serial"])
        # their answer goes on without the question, which their cache never gets
        rows = k.shape[1] - question.shape[1]
        none = jnp.zeros((1, 0), bool)
        k, v = k[:, None, :rows], v[:, None, :rows]
        answer = policy.begin_answer(slots, k, v, none, 6)
        _, said = hear(policy.answer(6), answer, more)
        return seen, y[0], said, place[0], scores[0], k[0, 0]

    got = everything(z["x"], z["question"], z["decode_x"])
    seen, y, said, place, scores, past = map(np.asarray, got)
    np.testing.assert_allclose(seen, z["encode_out"], atol=1e-5)
    np.testing.assert_array_equal(place, z["retrieved"])
    np.testing.assert_allclose(y, z["qa_out"], atol=1e-5)
    np.testing.assert_allclose(past.swapaxes(0, 1), z["past_k"][0], atol=1e-5)
    np.testing.assert_allclose(said, z["decode_out"], atol=1e-5)
    if len(z["similarity"]):
        np.testing.assert_allclose(scores[:frames], z["similarity"], atol=1e-4)


POLICY = ReKV(2 + 3 * 12, 2, 6, frame=3, top=4)


@functools.cache
def model():
    return tiny(policy=POLICY)


@pytest.mark.slow
@pytest.mark.parametrize("law", contract.LAWS)
def test_carry_law(law):
    net, variables = model()
    law(Subject.of(net, variables, tokens))


@pytest.mark.slow
def test_a_question_leaves_no_trace_and_its_answer_is_a_cold_prefill():
    """All frames chosen: the answer is that of a model that reads what was kept as one text."""
    net, variables = model()
    ids, question, said = tokens(0, 2, 2 + 3 * 4), tokens(1, 2, 5), tokens(2, 2, 3)
    carry, _ = jax.jit(net.apply)(variables, net.init_carry(2), ids)
    before = jax.tree.map(np.array, carry)
    ask = jax.jit(functools.partial(net.apply, method=Decoder.ask), static_argnames="room")
    answer, logits = ask(variables, carry, question, room=3)
    jax.tree.map(np.testing.assert_array_equal, before, carry)
    assert answer.seen.tolist() == [19, 19]
    goes_on = net.clone(config=dataclasses.replace(net.config, policy=POLICY.answer(8)))
    more = jax.jit(goes_on.apply)(variables, answer, said)[1]
    # the frames' own keys are the same, so what follows is one text
    whole = np.concatenate([ids, question, said], axis=1)
    want = jax.jit(goes_on.apply)(variables, goes_on.init_carry(2), whole)[1]
    np.testing.assert_allclose(logits, want[:, 14:19], atol=2e-5)
    np.testing.assert_allclose(more, want[:, 19:], atol=2e-5)


def test_frames_are_chosen_by_chunks_and_fill_up():
    policy = ReKV(1 + 2 * 8, 1, 4, frame=2, top=4, chunk=2)
    scores = jnp.asarray([[0.0, 1, 5, 0, 9, 9, 9, 9]])
    serial = np.full((1, 17), -1)
    serial[0, :11] = np.arange(11)  # five whole frames, the fifth a chunk of its own
    place, there = policy.choose(scores, jnp.asarray(serial))
    assert place.tolist() == [[0, 2, 3, 4]] and there.all()
    serial[0, 9:] = -1  # four frames, so all
    place, there = policy.choose(scores, jnp.asarray(serial))
    assert place[0, :4].tolist() == [0, 1, 2, 3] and there.all()
    serial[0, 5:] = -1
    place, there = policy.choose(scores, jnp.asarray(serial))
    assert place[0, :2].tolist() == [0, 1] and there.tolist() == [[True, True, False, False]]


@pytest.mark.parametrize(
    "make, says",
    [
        (lambda: SinkWindow(10, 4, 8), "do not fit"),
        (lambda: ReKV(21, 4, 8, frame=4), "not whole frames"),
        (lambda: ReKV(20, 4, 8, frame=4, top=5), "at most the 4"),
        (lambda: ReKV(20, 4, 8, frame=4, top=3, chunk=2), "a multiple of 2"),
        (lambda: SinkWindow().notes(3), "3 axes"),
    ],
)
def test_policies_that_cannot_be(make, says):
    with pytest.raises(ValueError, match=says):
        make()


def test_a_policy_that_retrieves_nothing_is_said():
    net, variables = tiny()
    with pytest.raises(TypeError, match="retrieves nothing"):
        net.apply(variables, net.init_carry(1), tokens(0, 1, 2), method=Decoder.ask)
