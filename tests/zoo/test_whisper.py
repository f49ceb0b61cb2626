"""Whisper and CarelessWhisper: equal to the published networks; a stream is the masked clip."""

import functools
import json
import struct
import wave
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

import streamzoo
from streamzoo.layers.signal.chunks import BlockCausal
from streamzoo.layers.signal.mel import whisper_window
from streamzoo.zoo import create_model, list_models, model_card
from streamzoo.zoo.convert import ConvertError, convert_checkpoint
from streamzoo.zoo.ctranslate2 import read_ctranslate2
from streamzoo.zoo.errors import WeightsError
from streamzoo.zoo.packages import installed
from streamzoo.zoo.speech.whisper.convert import ctranslate2_names
from streamzoo.zoo.speech.whisper.live import Live
from streamzoo.zoo.speech.whisper.model import CarelessWhisper, Whisper, WhisperConfig
from streamzoo.zoo.speech.whisper.stable import Text, grown, updated
from streamzoo.zoo.speech.whisper.transcribe import Prompt, Transcriber, prompt, read_prompt
from streamzoo.zoo.speech.written import best_tokens

NAME = "whisper-tiny/en"
SHARED = Path(__file__).parents[3] / "shared"
SPEECH, GOLDENS = SHARED / "data/speech", SHARED / "goldens/speech"
needs_shared = pytest.mark.skipif(not GOLDENS.is_dir(), reason="shared speech is not there")


def golden(name):
    with np.load(GOLDENS / f"{name}.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def careless(tmp_path_factory):
    """(golden arrays, CarelessWhisper's tiny network with its LoRA added)."""
    z, folder = golden("carelesswhisper"), tmp_path_factory.mktemp("careless")
    kept = ("param/", "buffer/")
    weights = {k.split("/", 1)[1]: z[k] for k in z if k.startswith(kept)}
    save_file(weights, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"n_audio_head": 4}))
    plan, variables = convert_checkpoint(folder)
    chosen = {**plan.overrides, "window": 60, "chunk": 5, "extra": 1}
    assert plan.overrides["window"] == 60 and plan.overrides["heads"] == 4
    return z, CarelessWhisper(WhisperConfig(**chosen)), variables


@needs_shared
@pytest.mark.parametrize("chunk, extra", [(15, 0), (15, 1), (5, 2), (8, 1)])
def test_masks_are_the_published(chunk, extra):
    want = golden("carelesswhisper")[f"mask/g{chunk}_e{extra}"]
    frames = chunk * 8
    block = create_model("carelesswhisper-tiny").config.block(False)
    stack = BlockCausal(block, 1, chunk, extra, frames)
    valid = jnp.ones((1, 64), bool)
    got, after = stack.sees(jnp.zeros(1, jnp.int32), valid)
    limit = min(64, frames)  # where a window of ours ends
    np.testing.assert_array_equal(got[0, :limit, frames:][:, :limit], want[:limit, :limit])
    assert after.tolist() == [64 % frames]


@needs_shared
def test_stream_is_the_masked_pass(careless):
    z, model, variables = careless
    mel = jnp.asarray(z["mel"].swapaxes(1, 2))
    want = z["enc_full_masked"][0]
    clip = jax.jit(functools.partial(model.apply, method="of_spectra"), static_argnames="causal")
    np.testing.assert_allclose(clip(variables, mel, causal=True)[0], want, atol=2e-5)
    full = clip(variables, mel)[0]
    np.testing.assert_allclose(full, z["enc_full_nomask"][0], atol=2e-5)
    assert np.abs(full - want).max() > 1
    hear = jax.jit(functools.partial(model.apply, method="hear"))
    carry, got = model.init_carry(1)[1], []
    for i in range(12):  # of 10 spectra each, as 2 g + 2 and so on would be
        carry, out = hear(variables, carry, mel[:, 10 * i : 10 * i + 10])
        got.append(np.asarray(out.x)[np.asarray(out.valid)])
        # two spectra beyond a chunk, and the first two chunks are one
        assert sum(map(len, got)) == max(0, (10 * i + 10 - 2) // 10 * 5) * (i > 1)
    rest = jax.jit(functools.partial(model.apply, method=_end))(variables, carry)
    got.append(np.asarray(rest.x)[np.asarray(rest.valid)])
    np.testing.assert_allclose(np.concatenate(got), want, atol=2e-5)
    np.testing.assert_allclose(z["enc_stream_mel_plus2"][0], want, atol=1e-4)
    assert np.abs(z["enc_stream_mel_exact"][0] - want).max() > 1


def _end(model, carry):
    return model._normed(model.net.flush(carry)[1])


@needs_shared
def test_decoder_logits_at_any_time(careless):
    z, model, variables = careless
    tokens = jnp.asarray(z["tokens"], jnp.int32)

    @jax.jit
    def logits(features):
        seen = jnp.ones(features.shape[:2], bool)
        memory = model.apply(variables, features, seen, 9, method="begin")
        memory, first = model.apply(variables, memory, tokens[:, :4], method="write")
        return jnp.concatenate(
            [first, model.apply(variables, memory, tokens[:, 4:], method="write")[1]], axis=1
        )

    features = jnp.asarray(z["enc_full_masked"])
    np.testing.assert_allclose(logits(features), z["dec_logits_full"], atol=5e-5)
    np.testing.assert_allclose(logits(features[:, :20]), z["dec_logits_first20"], atol=5e-5)


@needs_shared
def test_stable_prefixes_are_the_published():
    z = golden("carelesswhisper_stable_greedy")
    lost = 0
    for case in range(24):
        of = {k: z[f"case{case}/{k}"] for k in ("tokens_in", "logits", "last_logits")}
        check, first, look = z[f"case{case}/flags_check_first_lookback"].tolist()
        tokens = tuple(of["tokens_in"][0].tolist())
        text = Text(tokens, of["last_logits"][0])
        text, complete = updated(text, of["logits"][0], 11, look if check and not first else None)
        assert list(text.tokens) == z[f"case{case}/tokens_out"][0].tolist()
        assert complete == bool(z[f"case{case}/completed"])
        np.testing.assert_array_equal(text.logits, z[f"case{case}/last_logits_after"][0])
        lost += len(text.tokens) < len(tokens)
    assert lost > 5


def test_a_text_grows_and_only_its_last_tokens_go():
    vocabulary, end, asked = 8, 7, []

    def says(*words):
        def ask(tokens):
            asked.append(len(tokens))
            logits = np.zeros((len(tokens), vocabulary), np.float32)
            for i in range(len(tokens)):
                logits[i, words[i] if i < len(words) else end] = 1
            return logits

        return ask

    text = grown(Text((0,)), says(1, 2, 3), end)
    assert text.tokens == (0, 1, 2, 3) and asked == [1, 2, 3, 4]
    # the third is heard otherwise now; the first is too, and is too far back to go
    text = grown(text, says(5, 2, 4, 6), end, look=2)
    assert text.tokens == (0, 1, 2, 4, 6)
    assert len(grown(Text((0,)), says(*[1] * 99), end, most=5).tokens) == 6


def tiny(kind: Any = Whisper, **options: Any) -> Any:
    fields: Any = dict(dim=8, heads=2, encoder=2, decoder=1, bands=8, vocabulary=9, end=8)
    fields |= dict(window=12, room=6, chunk=3, extra=1)
    return kind(WhisperConfig(**fields | options))


def made(model, *args):
    shapes = jax.eval_shape(model.init, jax.random.key(0), *args)
    draw = np.random.default_rng(0)  # faster than the initialisers' program
    return jax.tree.map(lambda p: draw.normal(0, 0.5, p.shape).astype("f4"), shapes)


def test_one_chunk_of_the_whole_window_is_whisper():
    """And both have the same parameters."""
    offline, stream = tiny(), tiny(CarelessWhisper, chunk=12, extra=0)
    silence = jnp.zeros((1, 320))
    variables = made(offline, silence, jnp.zeros((1, 1), jnp.int32))
    shapes = jax.eval_shape(stream.init, jax.random.key(0), stream.init_carry(1), silence)
    assert jax.tree.map(jnp.shape, variables) == jax.tree.map(jnp.shape, shapes)
    mel = jax.random.normal(jax.random.key(1), (1, 24, 8))
    whole = jax.jit(functools.partial(offline.apply, method="of_spectra"))(variables, mel)
    hear = jax.jit(functools.partial(stream.apply, method="hear"))
    carry, out = hear(variables, stream.init_carry(1)[1], mel)
    assert not out.valid.any()  # the last feature waits for the spectrum behind it
    rest = jax.jit(functools.partial(stream.apply, method=_end))(variables, carry)
    np.testing.assert_allclose(rest.x[0][np.asarray(rest.valid[0])], whole[0], atol=1e-5)


def test_after_a_window_a_stream_begins_anew():
    model = tiny(CarelessWhisper)
    variables = made(model, model.init_carry(1), jnp.zeros((1, 320)))
    stack = BlockCausal(model.config.block(False), 2, 3, 1, 12)
    own = {"params": {"block": variables["params"]["net"]["layers_5"]["block"]}}
    x = jax.random.normal(jax.random.key(2), (1, 30, 8))
    step, end = jax.jit(stack.apply), jax.jit(lambda c: stack.apply(own, c, method="flush")[1])

    def heard(x, size):
        carry, got = stack.init_carry(1), []
        for at in range(0, x.shape[1], size):
            carry, out = step(own, carry, x[:, at : at + size])
            got.append(np.asarray(out.x)[np.asarray(out.valid)])
        assert sum(map(len, got)) == stack.emitted(x.shape[1])
        rest = end(carry)
        return np.concatenate([*got, np.asarray(rest.x)[np.asarray(rest.valid)]])

    whole = heard(x, 30)
    np.testing.assert_allclose(heard(x, 2), whole, atol=1e-5)
    np.testing.assert_allclose(heard(x[:, 12:24], 2), whole[12:24], atol=1e-5)
    assert np.abs(heard(x[:, 4:16], 2) - whole[4:16]).max() > 0.1


def test_greedy_tokens_obey_prompt_bans_and_limit():
    model = tiny()
    audio = jax.random.normal(jax.random.key(3), (2, 12 * 320))
    told = jnp.asarray([2, 5], jnp.int32)
    variables = made(model, audio[:1], told[None])
    call = functools.partial(best_tokens, model, variables, audio, jnp.asarray([3840, 900]))
    none, three = jnp.zeros(9, bool), jnp.full(2, 3)
    out, count = call(three, 4, told, none.at[8].set(True), none)
    heard = jnp.where(jnp.arange(3840) < jnp.asarray([[3840], [900]]), audio, 0)
    given = jnp.concatenate([jnp.broadcast_to(told, (2, 2)), out[:, :3]], axis=1)
    logits = np.asarray(jax.jit(model.apply)(variables, heard, given))
    np.testing.assert_array_equal(logits[:, 1:4, :8].argmax(-1), out[:, :3])
    assert count.tolist() == [3, 3] and np.asarray(out)[:, 3].tolist() == [8, 8]
    banned = none.at[out[0, 0]].set(True)
    assert call(three, 4, told, none.at[8].set(True), banned)[0][0, 0] != out[0, 0]


@pytest.mark.slow
def test_the_stream_of_audio_however_it_is_cut():
    model = tiny(CarelessWhisper)
    audio = jax.random.normal(jax.random.key(4), (1, 9000))
    variables = made(model, model.init_carry(1), audio[:, :320])
    step = jax.jit(model.apply)

    def heard(cuts):
        carry, got = model.init_carry(1), []
        for a, b in zip((0, *cuts), (*cuts, 9000), strict=True):
            carry, out = step(variables, carry, audio[:, a:b])
            got.append(np.asarray(out.x)[np.asarray(out.valid)])
        rest = jax.jit(lambda c: model.apply(variables, c, method="flush"))(carry)[1]
        assert sum(map(len, got)) == model.emitted(9000)
        return np.concatenate([*got, np.asarray(rest.x)[np.asarray(rest.valid)]])

    whole = heard(())
    assert len(whole) == model.length(9000)
    np.testing.assert_allclose(heard((1, 400, 2500, 7000)), whole, atol=2e-5)


@pytest.mark.slow
def test_live_words_are_the_same_however_audio_is_cut():
    """And what is final stays, while a window passes and another begins."""
    model = tiny(CarelessWhisper, room=12)
    variables = made(model, model.init_carry(1), jnp.zeros((1, 320)))
    audio = np.random.default_rng(1).normal(size=6400).astype("f4")
    ends = []
    for size in (6400, 800):
        live = Live(model, variables, Prompt((2, 5), never=(8,)), look=2, most=3)
        before: tuple[int, ...] = ()
        for at in range(0, 6400, size):
            said = live.push(audio[at : at + size])
            assert said.final[: len(before)] == before and len(said.provisional) <= 2
            before = said.final
        ends.append(live.flush())
        assert ends[-1].final[: len(before)] == before and not ends[-1].provisional
    assert ends[0] == ends[1] and len(ends[0].final) > 12 and 8 not in ends[0].final


# --- files -----------------------------------------------------------------------------------


def stored(path, arrays, spec="WhisperSpec"):
    text = lambda s: struct.pack("<H", len(s) + 1) + s.encode() + b"\0"
    kinds = {"float32": 0, "int8": 1, "float16": 4}
    data = struct.pack("<I", 6) + text(spec) + struct.pack("<II", 3, len(arrays))
    for name, array in arrays.items():
        data += text(name) + struct.pack("<B", array.ndim)
        data += struct.pack(f"<{array.ndim}I", *array.shape)
        data += struct.pack("<BI", kinds[array.dtype.name], array.nbytes) + array.tobytes()
    path.write_bytes(data + struct.pack("<I", 1) + text("b") + text(next(iter(arrays))))


def test_files_of_ctranslate2(tmp_path):
    path, arrays = tmp_path / "model.bin", {"a/weight": np.arange(6, dtype="f2").reshape(2, 3)}
    stored(path, arrays)
    got, told = read_ctranslate2(path)
    np.testing.assert_array_equal(got["a/weight"], arrays["a/weight"])
    assert got["b"] is got["a/weight"] and told["spec"] == "WhisperSpec"
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(WeightsError, match="not a complete file"):
        read_ctranslate2(path)
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(WeightsError, match="not a complete file|ends within"):
        read_ctranslate2(path)
    stored(path, {"a/weight_scale": np.ones(2, "f4")})
    with pytest.raises(WeightsError, match="integers"):
        read_ctranslate2(path)
    path.write_bytes(b"\x80\x04\x95 a pickle, which is refused")
    with pytest.raises(WeightsError, match="pickle"):
        convert_checkpoint(path)


@needs_shared
def test_half_of_a_lora_is_refused(tmp_path):
    z = golden("carelesswhisper")
    weights = {k.removeprefix("param/"): z[k] for k in z if k.startswith("param/")}
    del weights["encoder.blocks.0.attn.key.lora_layer.lora_A"]
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(ConvertError, match="half of the LoRA"):
        convert_checkpoint(tmp_path)


def test_prompts_by_the_size_of_a_vocabulary():
    assert prompt(51_864) == (50_257, 50_362)
    assert prompt(51_865) == (50_258, 50_259, 50_359, 50_363)
    assert prompt(51_866, 2) == (50_258, 50_261, 50_360, 50_364)


def test_names():
    for name in list_models("carelesswhisper-*"):
        card, model = model_card(name), create_model(name)
        # a chunk of 300 ms, 20 ms beyond it, and half of a spectrum's window
        assert card.latency == model.latency == 14 * 320 + 2 * 160 + 199
    assert not model_card(NAME).streaming


@pytest.mark.slow
def test_random_weights_are_transformers(tmp_path):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes = dict(
        vocab_size=30, num_mel_bins=80, encoder_layers=2, decoder_layers=2, d_model=32,
        encoder_attention_heads=4, decoder_attention_heads=4, encoder_ffn_dim=128,
        decoder_ffn_dim=128, max_source_positions=50, max_target_positions=10,
        decoder_start_token_id=1, eos_token_id=2, bos_token_id=1, pad_token_id=2,
    )  # fmt: skip
    theirs = transformers.WhisperForConditionalGeneration(
        transformers.WhisperConfig(**sizes)
    ).eval()
    with torch.no_grad():
        for p in theirs.parameters():
            p.add_(0.1 * torch.randn_like(p))
    theirs.save_pretrained(tmp_path)
    plan, variables = convert_checkpoint(tmp_path)
    model = create_model(plan.model, **plan.overrides)
    audio = np.random.default_rng(0).standard_normal((1, 16_000)).astype(np.float32) * 0.3
    mel = np.asarray(whisper_window(jnp.asarray(audio)))
    tokens = np.array([[1, 7, 9, 28, 4]])
    with torch.no_grad():
        given = torch.tensor(mel.swapaxes(1, 2))
        want = theirs(input_features=given, decoder_input_ids=torch.tensor(tokens)).logits
    got = jax.jit(model.apply)(variables, audio, tokens.astype(np.int32))
    np.testing.assert_allclose(got, want.numpy(), atol=2e-4)


@pytest.mark.slow
@needs_shared
def test_real_weights_give_the_published_numbers():
    try:
        file = installed(model_card(NAME).source)
    except WeightsError as error:
        pytest.skip(str(error))
    z = golden("whisper_tiny_en_real")
    with wave.open(str(SPEECH / str(z["utterance"]))) as sound:
        audio = np.frombuffer(sound.readframes(1 << 30), "<i2").astype(np.float32) / 32768
    model: Any
    model, params = streamzoo.load(NAME)
    padded = jnp.pad(jnp.asarray(audio)[None], ((0, 0), (0, 480_000 - len(audio))))
    mel = np.asarray(whisper_window(padded))[0]
    np.testing.assert_allclose(mel[:320].T, z["mel_first320"], atol=5e-5)
    features, _ = jax.jit(functools.partial(model.apply, method="encode"))(params, audio[None])
    np.testing.assert_allclose(features[0, :160], z["encoder_out_first160"], atol=2e-3)
    hears = Transcriber(model, params, file.with_name("tokenizer.json"))
    want = z["token_ids_unsuppressed_greedy"].tolist()
    assert hears(audio).tokens == [token for token in want if token < 50_256]
    told = read_prompt(file.with_name("config.json"), model.config.vocabulary)
    heard = Transcriber(model, params, file.with_name("tokenizer.json"), told)(audio)
    assert heard.text and 1 not in heard.tokens


@pytest.mark.slow
@needs_shared
@pytest.mark.parametrize("name", ["librispeech-1995-1837-0001", "an4_fash_cen7-fash-b"])
def test_tokens_of_real_speech_are_transformers(name):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    try:
        file = installed(model_card(NAME).source)
    except WeightsError as error:
        pytest.skip(str(error))
    with wave.open(str(SPEECH / f"{name}.wav")) as sound:
        audio = np.frombuffer(sound.readframes(1 << 30), "<i2").astype(np.float32) / 32768
    sizes = dict(
        vocab_size=51_864, d_model=384, encoder_attention_heads=6, decoder_attention_heads=6,
        decoder_start_token_id=50_257, eos_token_id=50_256, bos_token_id=50_256,
        pad_token_id=50_256,
    )  # fmt: skip
    theirs = transformers.WhisperForConditionalGeneration(transformers.WhisperConfig(**sizes))
    weights = ctranslate2_names(read_ctranslate2(file)[0])
    theirs.load_state_dict({k: torch.tensor(v) for k, v in weights.items()}, strict=False)
    theirs.eval()
    mel = transformers.WhisperFeatureExtractor()(audio, sampling_rate=16_000)["input_features"]
    model: Any
    model, params = streamzoo.load(NAME)
    told = read_prompt(file.with_name("config.json"), model.config.vocabulary)
    got = Transcriber(model, params, None, told)(audio).tokens
    text = torch.tensor([[*told.tokens, *got]])
    with torch.no_grad():
        logits = theirs(input_features=torch.tensor(mel), decoder_input_ids=text).logits[0].numpy()
    logits = logits[len(told.tokens) - 1 :]
    logits[:, list(told.never)] = -np.inf
    logits[0, list(told.never_first)] = -np.inf
    assert logits.argmax(-1).tolist() == [*got, 50_256] and len(got) > 5
