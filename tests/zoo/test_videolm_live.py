"""Models that speak by themselves: VideoLLM-online, Dispider, Think While Watching."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from streamzoo.layers import contract
from streamzoo.layers.contract import Subject
from streamzoo.layers.policies import Dual
from streamzoo.layers.policies.dual import SAID, WATCHED
from streamzoo.streaming.triggers import Interval
from streamzoo.train.metrics.live import live_figures, time_differences
from streamzoo.zoo.convert import convert
from streamzoo.zoo.text import Decoder, DecoderConfig
from streamzoo.zoo.text.decoder.convert import rules
from streamzoo.zoo.videolm.dispider import Decider
from streamzoo.zoo.videolm.live import Connector, Live

from ..language import case, dense, golden, needs_goldens
from .language import tiny, tokens


def decoder(z, at, **fields):
    """(model, variables) of the weights ``p/...`` of a golden."""
    own = case(z, "p")
    depth = 1 + max(int(k.split("layers.")[1].split(".")[0]) for k in own if "layers." in k)
    sizes = {**dict(dim=32, hidden=48, head_dim=8, eps=1e-6), **fields}
    config = DecoderConfig(depth=depth, heads=4, kv_heads=2, **sizes)
    weights = {k: v for k, v in own.items() if k.startswith((at or "layers.", "norm", "lm_head"))}
    if at == "":
        weights |= {k: v for k, v in own.items() if k.startswith("embed_tokens")}
    table = rules(depth, bool(config.biased), config.normed, config.tied, at.replace(".", r"\."))
    return Decoder(config), convert(weights, table)


@functools.cache
def online():
    z, meta = golden("videollm_online")
    model, variables = decoder(
        z, "model.", vocabulary=60, tied=False, theta=10_000.0, end=2, context=256
    )
    connector = {"params": {"up": dense(z, "p/connector.0"), "down": dense(z, "p/connector.2")}}
    embed = jax.jit(functools.partial(Connector(32).apply, connector))
    return z, meta["constants"], model, variables, embed


@needs_goldens
@pytest.mark.parametrize(
    "threshold", ["0.05", *(pytest.param(t, marks=pytest.mark.slow) for t in ("0.3", "0.725"))]
)
def test_what_is_said_and_when_is_videollm_onlines(threshold):
    z, told, model, variables, embed = online()
    z = case(z, f"th{threshold}")
    interval = Interval(told["interval"], float(threshold))
    live = Live(
        model, variables, lambda logits: interval(None, logits)[1], told["interval"],
        told["start"], (told["stream_prompt"],), told["gen_prompt"], told["max_new"],
    )  # fmt: skip
    state, said, times, p = live.begin(), [], [], []
    for at, frame in enumerate(np.asarray(embed(z["frames"]))):
        state, heard = live.push(state, frame)
        p.append(interval.probability(heard.logits))
        if heard.reply:
            said.append(list(heard.reply))
            times.append(at / 2)
    np.testing.assert_allclose(p, z["p_interval"], rtol=1e-3)
    assert times == z["speak_times"].tolist()
    for reply, want in zip(said, z["replies"], strict=True):
        assert reply == want[: len(reply)].tolist()


@needs_goldens
def test_timing_and_words_are_measured_as_in_videollm_online():
    z, told, model, variables, embed = online()
    ids, labels = z["input_ids"][0], z["labels"][0]
    frames = np.asarray(embed(z["train_frames"]))  # [12, 2, 32]

    def read(features):
        step = functools.partial(model.apply, variables)
        return np.asarray(jax.jit(step)(model.init_carry(1), None, features=features[None])[1][0])

    words = np.asarray(variables["params"]["embed"]["embedding"])
    x = words[np.minimum(ids, 59)]
    x[ids == 61] = frames.reshape(-1, 32)
    logits = read(x)
    np.testing.assert_allclose(logits, z["logits"], atol=2e-4)

    def later(at, first, count):
        more = [np.concatenate([words[[11]], f]) for f in frames[first : first + count]]
        return read(np.concatenate([x[:at], *more]))[at:].reshape(count, 3, -1)[:, -1]

    for threshold in ("0.0", "0.3", "0.725"):
        got = live_figures(
            logits, ids, labels, picture=61, silence=11, end=2, per_frame=2,
            threshold=float(threshold), later=later,
        )  # fmt: skip
        np.testing.assert_allclose(got, z[f"stream_evaluate_th{threshold}"], rtol=1e-4)


def test_a_reply_that_ended_is_followed_by_its_prompt():
    model, variables = tiny(depth=1, context=32)
    live = Live(model, variables, lambda logits: 7, 7, start=(1, 2), again=(3, 4))
    frame = np.zeros((2, 32), np.float32)
    state, heard = live.push(live.begin(), frame)
    assert heard.reply == () and state.pending == (7,) and int(state.memory.seen[0]) == 4
    ended = state._replace(pending=(model.config.end,))
    for before, more in ((state, 3), (ended, 5)):  # silence, or the end and the prompt, and two
        assert int(live.push(before, frame)[0].memory.seen[0]) == 4 + more


def test_a_late_reply_is_looked_for_no_longer_than_an_early_one():
    """Two frames in the first turn, five in the next: one of them is shown."""
    ids = np.asarray([9, 9, 1, 0, 9, 9, 9, 9, 9, 1, 0])
    labels = np.asarray([2, 1, 1, -100, *[-100] * 7])
    logits = np.zeros((11, 10))
    logits[:, 2] = 5.0  # silence everywhere
    asked = []

    def later(at, first, count):
        asked.append((at, first, count))
        return np.tile(logits[:1], (count, 1))

    labels[1] = 2
    got = live_figures(
        logits, ids, labels, picture=9, silence=2, end=0, per_frame=1, later=later
    )  # fmt: skip
    assert asked == [(2, 2, 1)] and got.frames_off == 1.0


def test_moments_are_matched_one_to_one():
    off, precision, recall = time_differences([1.0, 1.2, 9.0], [1.1, 20.0], reach=2.0)
    np.testing.assert_allclose(off, [0.1])
    assert (precision, recall) == (pytest.approx(1 / 3), 0.5)
    assert time_differences([], [])[1:] == (1.0, 1.0)


@needs_goldens
def test_when_to_answer_is_dispiders():
    z, _ = golden("dispider_decision")
    model, variables = decoder(
        z, "", vocabulary=8, dim=24, hidden=40, head_dim=6, biased="qkv", theta=10_000.0,
        context=128,
    )  # fmt: skip
    decider = Decider(
        model, variables, z["silent_head"], z["question"][0], z["ans_token"][0],
        z["todo_token"][0],
    )  # fmt: skip
    state, logits = decider.begin(), []
    for clip, kinds in zip(z["clips"], z["indicators"], strict=True):
        state, logit = decider.push(state, clip, kinds == 100, kinds == 200)
        logits.append(logit)
    np.testing.assert_allclose(logits, z["silent_logits"], atol=2e-5)
    assert (np.flatnonzero(np.asarray(logits) > 0) + 1).tolist() == z["answer_clips"].tolist()
    assert len(state.past) == len(z["answer_clips"])


@needs_goldens
def test_two_texts_side_by_side_are_think_while_watchings():
    z, _ = golden("tww_dual_cache")
    # their embedding is beside the weights
    model, variables = decoder(
        {**z, "p/embed_tokens.weight": z["official/emb"]}, "", vocabulary=64, head_dim=12,
        normed=True, theta=10_000.0, sections=(2, 2, 2), interleaved=True, policy=Dual(48, 16),
    )  # fmt: skip

    @jax.jit
    def step(carry, x, count, told):
        valid = jnp.arange(19)[None] < count
        return model.apply(
            variables, carry, None, valid, features=x, told=told, method=Decoder.read
        )

    def padded(rows):
        return np.pad(rows, ((0, 19 - len(rows)), (0, 0)))[None]

    carry = model.init_carry(1)
    ends = ("/ids",)
    steps = {k.split("/")[1] for k in z if k.startswith("official/") and k.endswith(ends)}
    steps = sorted(steps, key=lambda name: int(name.split("_")[0]))
    assert len(steps) == 10
    for name in steps:
        own = case(z, f"official/{name}")
        segment = SAID if "write" in name else WATCHED
        count = len(own["ids"])
        told = {
            "place": padded(own["pos"].T.astype(np.int32)),
            "segment": np.full((1, 19), segment, np.int32),
        }
        carry, hidden = step(carry, padded(z["official/emb"][own["ids"]]), count, told)
        hidden = hidden[:, :count]
        np.testing.assert_allclose(hidden[0], z[f"intended/{name}/hidden"], atol=2e-5, err_msg=name)


def test_what_is_said_never_changes_what_is_watched():
    model, variables = tiny(policy=Dual(12, 4))
    step = jax.jit(model.apply)
    ids, said = tokens(0, 1, 8), tokens(1, 1, 3)
    told = {"segment": jnp.full((1, 3), SAID)}
    quiet = loud = model.init_carry(1)
    for at in range(0, 8, 2):
        quiet, a = step(variables, quiet, ids[:, at : at + 2])
        loud, b = step(variables, loud, ids[:, at : at + 2])
        np.testing.assert_array_equal(a, b)
        loud, _ = step(variables, loud, said, told=told)
    np.testing.assert_array_equal(quiet.keys[:, :, :12], loud.keys[:, :, :12])
    assert bool((loud.notes["serial"][:, 12:] >= 0).all())
    with pytest.raises(ValueError, match="slots of what is"):
        Dual(0, 4)


def subject():
    model, variables = tiny(policy=Dual(5, 3))

    def step(carry, ids, valid):  # every third token is said
        told = {"segment": (ids % 3 == 0).astype(jnp.int32)}
        return model.apply(variables, carry, ids, valid, told=told)

    return Subject(model.init_carry, step, tokens)


@pytest.mark.slow
@pytest.mark.parametrize("law", contract.LAWS, ids=lambda law: law.__name__)
def test_carry_law(law):
    law(subject())
