"""FastConformer: equal to the published networks, at every look-ahead, clip and stream; the law."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from streamzoo.layers.signal.emitted import Emitted
from streamzoo.zoo import create_model, list_models, model_card
from streamzoo.zoo.convert import ConvertError, convert_checkpoint
from streamzoo.zoo.speech.fastconformer.model import FastConformer, FastConformerConfig
from streamzoo.zoo.speech.fastconformer.recognise import Recogniser, ctc_tokens

GOLDENS = Path(__file__).parents[3] / "shared/goldens/speech"
needs_shared = pytest.mark.skipif(not GOLDENS.is_dir(), reason="shared speech is not there")


def golden(name):
    with np.load(GOLDENS / f"{name}.npz") as file:
        return dict(file)


def weights_of(z):
    return {key.removeprefix("param/"): z[key] for key in z if key.startswith("param/")}


def converted(folder, weights, config):
    save_file(weights, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    plan, variables = convert_checkpoint(folder)
    return create_model(plan.model, **plan.overrides), variables


@pytest.fixture(scope="module")
def nemo(tmp_path_factory):
    """(golden arrays, NeMo's tiny network with a CTC head of ours)."""
    z, head = golden("nemo_cache_aware_fastconformer"), np.random.default_rng(0)
    weights = {f"encoder.{key}": value for key, value in weights_of(z).items()}
    weights["ctc_decoder.decoder_layers.0.weight"] = head.normal(size=(9, 32, 1)).astype("f4")
    weights["ctc_decoder.decoder_layers.0.bias"] = np.zeros(9, "f4")
    weights["preprocessor.featurizer.window"] = np.zeros(400, "f4")
    config = {"encoder": {"att_context_size": [[16, 3], [16, 1], [16, 0]], "xscaling": True}}
    return z, *converted(tmp_path_factory.mktemp("nemo"), weights, config)


@pytest.fixture(scope="module")
def nemotron(tmp_path_factory):
    """(golden arrays, transformers' tiny network)."""
    z = golden("nemotron_streaming_rnnt")
    encoder = {"sliding_window": 9, "default_num_lookahead_tokens": 1}
    config = {
        "model_type": "nemotron_asr_streaming",
        "encoder_config": encoder,
        "max_symbols_per_step": 3,
    }
    return z, *converted(tmp_path_factory.mktemp("nemotron"), weights_of(z), config)


def looking(model, ahead):
    return FastConformer(dataclasses.replace(model.config, ahead=ahead))


def encoded(model, variables, mel, size, first=None):
    """Spectra [1, T, bands] in pieces of ``size``, the first perhaps shorter: (features, carries).

    All pieces are of one length, shorter ones with gaps, so that one program serves them.
    """
    step = jax.jit(lambda c, x, v: model.apply(variables, c, x, v, method="encode"))
    carry, at, got, carries = model.init_carry(1)[1], 0, [], []
    while at < mel.shape[1]:
        n = min(first or size, mel.shape[1] - at) if not at else min(size, mel.shape[1] - at)
        piece = jnp.full((1, size, mel.shape[2]), jnp.nan).at[:, :n].set(mel[:, at : at + n])
        carry, out = step(carry, piece, jnp.arange(size)[None] < n)
        got.append(np.asarray(out.x)[np.asarray(out.valid)])
        carries.append(carry)
        at += n
    return np.concatenate(got), carries


def flush(model, carry):
    return model.net.flush(carry[1])[1]


# by look-ahead: spectra of a piece, of the first one, and the pieces that end NeMo's first steps
CUTS = {0: (8, 1, (0, 1, 2)), 1: (8, 1, (1, 3, 5)), 3: (32, 25, (0, 1, 2))}


@needs_shared
@pytest.mark.parametrize("ahead", CUTS)
def test_a_stream_is_nemos_masked_pass(nemo, ahead):
    z, model, variables = nemo
    model, (size, first, steps) = looking(model, ahead), CUTS[ahead]
    want = z[f"ctx16_{ahead}/offline"][0].T
    got, carries = encoded(model, variables, jnp.asarray(z["mel"][:1].swapaxes(1, 2)), size, first)
    assert len(got) == 21 // (ahead + 1) * (ahead + 1)
    np.testing.assert_allclose(got, want[: len(got)], atol=2e-5)
    # where NeMo does not stream like its own masked pass, ours does
    away = np.abs(z[f"ctx16_{ahead}/stream"][0].T - want).max()
    assert (away > 0.03) if ahead == 0 else (away < 1e-5)
    for i, at in enumerate(steps):
        if ahead:
            _caches(z, variables, carries[at][-1], f"ctx16_{ahead}/step{i}")


def _caches(z, variables, carry, at):
    """Theirs holds the inputs of attention, ours what they are projected to."""
    count = int(z[f"{at}_cache_len"][0])
    assert carry["seen"].tolist() == [count]
    for i in range(3):
        block = jax.tree.map(lambda a, i=i: a[i], variables["params"]["net"]["layers_10"]["block"])
        x = z[f"{at}_cache_last_channel"][i, 0, -count:]
        both = x @ block["attn"]["qkv"]["kernel"][:, 32:] + block["attn"]["qkv"]["bias"][32:]
        got = carry["blocks"]["past"][0, i, -count:].reshape(count, 64)
        np.testing.assert_allclose(got, both, atol=2e-5)
        tail = carry["blocks"]["conv"]["tail"][0, i]
        np.testing.assert_allclose(tail, z[f"{at}_cache_last_time"][i, 0].T, atol=2e-5)


@pytest.mark.slow
@needs_shared
def test_a_clip_and_a_shorter_one_beside_it(nemo):
    z, model, variables = nemo
    mel = jnp.asarray(z["mel"].swapaxes(1, 2))
    valid = jnp.arange(161) < jnp.asarray([[161], [137]])
    mel = jnp.where(valid[..., None], mel, jnp.nan)
    step = jax.jit(lambda c, x, v: model.apply(variables, c, x, v, method="encode"))
    end = jax.jit(lambda c: model.apply(variables, ((), c), method=flush))

    def heard(order):
        carry, out = step(model.init_carry(2)[1], mel[order], valid[order])
        rest = end(carry)
        x, here = (np.concatenate([getattr(p, k) for p in (out, rest)], 1) for k in ("x", "valid"))
        return [row[mask] for row, mask in zip(x, here, strict=True)]

    long, short = heard(np.array([0, 1]))
    np.testing.assert_allclose(long, z["ctx16_3/offline"][0].T, atol=2e-5)
    assert len(short) == z["ctx16_3/offline_len"][1] == 18
    twice = heard(np.array([1, 1]))  # as without the longer one
    np.testing.assert_allclose(twice, [short, short], atol=1e-6)


@needs_shared
@pytest.mark.parametrize(
    "ahead, key",
    [
        (1, ""),
        pytest.param(0, "_lookahead0", marks=pytest.mark.slow),
        pytest.param(3, "_lookahead3", marks=pytest.mark.slow),
    ],
)
def test_nemotrons_features(nemotron, ahead, key):
    z, model, variables = nemotron
    model = looking(model, ahead)
    got, _ = encoded(model, variables, jnp.asarray(z["mel"]), 23)
    assert len(got) == 18 // (ahead + 1) * (ahead + 1)
    np.testing.assert_allclose(got, z[f"enc_offline{key}"][0, : len(got)], atol=2e-5)


@needs_shared
def test_nemotrons_lattice(nemotron):
    z, model, variables = nemotron
    tokens, x = jnp.asarray(z["pred_labels"][:, 1:], jnp.int32), jnp.asarray(z["enc_offline"])
    heard = model.apply(variables, x, method="heard")
    np.testing.assert_allclose(heard, z["pooler_offline"], atol=1e-5)
    got = jax.jit(lambda x: model.apply(variables, x, tokens, method="lattice"))(x)
    np.testing.assert_allclose(got, z["joint_logits"], atol=1e-5)


def sayings(own, variables, x, cuts):
    """Tokens of features [1, F, D] in pieces, per frame."""
    carry, frames, step = own.init_carry(1), [], jax.jit(own.decode)
    for a, b in zip((0, *cuts), (*cuts, x.shape[1]), strict=True):
        part = jnp.asarray(x[:, a:b])
        out = Emitted(part, jnp.ones(part.shape[:2], bool), jnp.zeros(part.shape[:2], jnp.int32))
        carry, said = step(variables, carry, out)
        frames += [row[:n].tolist() for row, n in zip(said.tokens[0], said.counts[0], strict=True)]
    return frames, carry


@needs_shared
def test_nemotrons_greedy_tokens_in_pieces(nemotron):
    z, model, variables = nemotron
    frames, carry = sayings(Recogniser(model), variables, z["enc_offline"], (1, 6))
    got = [16]  # theirs begins with the blank, and says it where a frame ends by it
    for frame in frames:
        got += frame + [16] * (len(frame) < 3)
    assert got == z["greedy_stream"][0].tolist() == z["greedy_offline"][0].tolist()
    assert carry["frame"].tolist() == [18] and {len(f) for f in frames} == {0, 3}


def tiny(ahead=1, **options: Any):
    fields: Any = dict(dim=8, hidden=16, heads=2, depth=2, channels=4, kernel=3, before=4, bands=16,
                  vocabulary=5, predictor=6, most=2)  # fmt: skip
    return FastConformer(FastConformerConfig(**fields | options, ahead=ahead))


@pytest.fixture(scope="module")
def made():
    model = tiny()
    shapes = jax.eval_shape(model.init, jax.random.key(1), model.init_carry(1), jnp.zeros((1, 1)))
    draw = np.random.default_rng(0)  # faster than the initialisers' program
    return jax.tree.map(lambda p: draw.normal(0, 0.5, p.shape).astype("f4"), shapes)


def test_ctc_says_a_token_once_until_a_blank(made):
    model, best = tiny(), [2, 2, 5, 2, 3, 3, 5, 5, 1]
    kernel = made["params"]["ctc_head"] | {"kernel": jnp.eye(8)[:, :6], "bias": jnp.zeros(6)}
    variables = {"params": made["params"] | {"ctc_head": kernel}}
    x = jnp.eye(8)[jnp.asarray(best)][None]
    frames, _ = sayings(Recogniser(model, "ctc"), variables, x, (1, 5))
    assert sum(frames, []) == [2, 2, 3, 1] and [len(f) for f in frames] == [
        1,
        0,
        0,
        1,
        1,
        0,
        0,
        0,
        1,
    ]
    here = jnp.asarray([[True, False, True]])
    said = {"last": jnp.asarray([5]), "states": ()}
    out = Emitted(x[:, jnp.asarray([0, 2, 1])], here, jnp.zeros((1, 3), jnp.int32))
    _, _, count = ctc_tokens(model, variables, said, out)
    assert count.tolist() == [[1, 0, 0]]  # a gap is no blank


@pytest.mark.slow
@pytest.mark.parametrize("head", ["ctc", "transducer"])
def test_words_of_audio_are_the_same_however_it_is_cut(made, head):
    own = Recogniser(tiny(), head)
    audio = jax.random.normal(jax.random.key(3), (1, 13_000))

    def heard(cuts):
        carry, said, maybe = own.init_carry(1), [], []
        for a, b in zip((0, *cuts), (*cuts, 13_000), strict=True):
            carry, out = own(made, carry, audio[:, a:b])
            said += out.of()
            maybe.append(said + own.peek(made, carry).of())
        _, rest = own.flush(made, carry)
        return said + rest.of(), said, maybe

    whole, _, _ = heard(())
    parts, final, maybe = heard((3000, 4000, 8000))
    assert parts == whole == maybe[-1] and whole
    if head == "ctc":  # which hears one token in all of this noise
        return
    assert len(whole) > 4 and len(final) < len(whole)
    # the published padding completes one more frame than the audio fills
    assert all(time < 13_000 / 16_000 + 0.08 for _, time in whole) and whole[-1][1] > 0.5


@pytest.mark.slow
@pytest.mark.parametrize("ahead", [0, 1, 6, 13])
def test_four_look_aheads_of_one_set_of_weights(made, ahead):
    model = tiny(ahead, before=14)
    audio = jax.random.normal(jax.random.key(2), (2, 30_000))
    step, end = jax.jit(model.apply), jax.jit(lambda c: model.apply(made, c, method="flush"))

    def heard(cuts):
        carry, parts = model.init_carry(2), []
        for a, b in zip((0, *cuts), (*cuts, 30_000), strict=True):
            carry, out = step(made, carry, audio[:, a:b])
            parts.append(out)
        rest = end(carry)[1]
        assert int(sum(p.valid[0].sum() for p in parts)) == model.emitted(30_000)
        parts.append(rest)
        x, here = (np.concatenate([getattr(p, k) for p in parts], 1) for k in ("x", "valid"))
        return x[0][here[0]]

    whole, parts = heard(()), heard((1, 2000, 9000, 9600))
    assert len(whole) == model.length(30_000) and model.latency == 1375 + 1280 * ahead
    np.testing.assert_allclose(parts, whole, atol=2e-5)


def test_names():
    for name in list_models("fastconformer-*"):
        card, model = model_card(name), create_model(name)
        assert card.latency == model.latency == 18_015 and model.inputs == ("audio",)
        assert create_model(name, ahead=0).latency == 1375


@pytest.mark.parametrize(
    "change, says",
    [
        ({"encoder": {}}, "model_config.yaml"),
        ({"encoder": {"att_context_size": [16, 3], "conv_norm_type": "batch_norm"}}, "cache-aware"),
        ({"encoder": {"att_context_size": [16, 3], "feat_in": 64}}, "64 bands"),
    ],
)
@needs_shared
def test_other_models_are_refused(tmp_path, change, says):
    weights = weights_of(golden("nemo_cache_aware_fastconformer"))
    with pytest.raises(ConvertError, match=says):
        converted(tmp_path, weights, change)


@needs_shared
def test_an_encoder_alone_is_refused(tmp_path):
    weights = weights_of(golden("nemo_cache_aware_fastconformer"))
    with pytest.raises(ConvertError, match="without a head"):
        converted(tmp_path, weights, {"encoder": {"att_context_size": [16, 3]}})


def test_heads_that_are_not_there():
    with pytest.raises(ValueError, match="this model has transducer"):
        Recogniser(tiny(ctc=False), "ctc")
    with pytest.raises(ValueError, match="needs a head"):
        tiny(ctc=False, layers=0)
    with pytest.raises(ValueError, match="would see no other"):
        tiny(ahead=4)
