"""Models of audio: equal to the published graphs on real speech, however it is cut; the law."""

import json
import wave
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

import streamzoo
from streamzoo.layers.gru import GRU, side_by_side
from streamzoo.layers.signal.ticks import verify_signal
from streamzoo.zoo import Card, create_model, model_card
from streamzoo.zoo.convert import ConvertError, convert_checkpoint
from streamzoo.zoo.speech.dtln.model import DTLN, DTLNConfig
from streamzoo.zoo.speech.gtcrn.model import GTCRN, GTCRNConfig
from streamzoo.zoo.speech.moonshine2.model import MoonshineEncoder, MoonshineEncoderConfig
from streamzoo.zoo.speech.silero.model import SileroConfig, SileroVAD
from streamzoo.zoo.streams import as_stream

SHARED = Path(__file__).parents[3] / "shared"
WEIGHTS, GOLDENS, SPEECH = (SHARED / p for p in ("data/weights", "goldens/speech", "data/speech"))
needs_shared = pytest.mark.skipif(
    not (GOLDENS.is_dir() and SPEECH.is_dir()), reason="shared speech is not beside the tree"
)
NAMES = {"silero-vad/v6": 511, "dtln/dns": 511, "gtcrn/dns3": 511}


def golden(name):
    with np.load(GOLDENS / f"{name}.npz") as file:
        return dict(file)


def speech(name="librispeech-1995-1837-0001.wav", seconds=3):
    with wave.open(str(SPEECH / name)) as file:
        assert file.getframerate() == 16_000 and file.getnchannels() == 1
        data = file.readframes(seconds * 16_000)
    return np.frombuffer(data, "<i2").astype(np.float32) / 32768


def heard(model, variables, audio, lengths=(), flush=True):
    """What comes of one stream: (frames [F, ...], the carry before the flush)."""
    step, carry, at, parts = jax.jit(model.apply), model.init_carry(1), 0, []
    audio = jnp.asarray(audio)[None]
    for n in (*lengths, audio.shape[1] - sum(lengths)):
        carry, out = step(variables, carry, audio[:, at : at + n])
        parts.append(out)
        at += n
    if flush:
        parts.append(jax.jit(lambda c: model.apply(variables, c, method="flush"))(carry)[1])
    return np.concatenate([np.asarray(p.x)[np.asarray(p.valid)] for p in parts]), carry


@needs_shared
def test_silero_is_its_onnx_graph():
    z = golden("silero_vad")
    model, variables = streamzoo.load("silero-vad/v6")
    got, carry = heard(model, variables, z["audio"], [700, 1, 20_000])
    np.testing.assert_allclose(got[: len(z["probs"])], z["probs"], atol=1e-5)
    want = z["final_state"][:, 0]
    np.testing.assert_allclose(carry["lstm"].h[0], want[:1], atol=2e-5)
    np.testing.assert_allclose(carry["lstm"].c[0], want[1:], rtol=1e-5, atol=1e-4)
    # and without what lies before a block, nobody would speak
    assert got.max() > 0.9 > 0.5 > z["probs_without_context_WRONG"].max()


@needs_shared
def test_the_two_files_of_silero_hold_different_weights():
    z = golden("silero_vad")
    safe = WEIGHTS / "silero_vad_16k.safetensors"
    _, variables = convert_checkpoint(safe)
    got, _ = heard(create_model("silero-vad"), variables, z["audio"])
    want = z["probs_safetensors_weights"]
    np.testing.assert_allclose(got[: len(want)], want, atol=1e-5)
    assert np.abs(want - z["probs"]).max() > 0.1


@pytest.mark.slow
@needs_shared
def test_gtcrn_is_its_onnx_graph():
    z = golden("gtcrn_stream")
    model, variables = streamzoo.load("gtcrn/dns3")
    carry, parts = model.init_carry(1)["net"], []
    step = jax.jit(lambda c, x: model.apply(variables, c, x, method="enhance"))
    for a, b in ((0, 1), (1, 11), (11, 60)):
        carry, out = step(carry, jnp.asarray(z["spec_in"][None, a:b]))
        parts.append(np.asarray(out[0]))
        if b < 60:
            want = z[f"conv_cache_after{b - 1}"][:, 0].transpose(0, 2, 3, 1)  # [2, 16, F, C]
            for half, name in enumerate(("encode", "decode")):
                tails = [np.asarray(block["tail"][0]) for block in carry[name]]
                tails = tails[:: -1 if half else 1]  # theirs by dilation
                np.testing.assert_allclose(np.concatenate(tails), want[half], atol=5e-5)
            for i, states in enumerate(carry["middle"]):
                got = np.concatenate([np.asarray(s[0]) for s in states], axis=-1)
                np.testing.assert_allclose(got, z[f"inter_cache_after{b - 1}"][i, 0], atol=5e-5)
    np.testing.assert_allclose(np.concatenate(parts), z["spec_out"], atol=1e-5)


@pytest.mark.slow
@needs_shared
def test_gtcrn_as_audio_is_what_its_frames_add_up_to():
    z = golden("gtcrn_stream")
    model, variables = streamzoo.load("gtcrn/dns3")
    audio = jnp.asarray(z["audio"])[None]
    start = model.init_carry(1)
    # theirs hears nothing before the first sample: its first frame is full
    frames = start["frames"] | {"tail": start["frames"]["tail"].at[:, -256:].set(audio[:, :256])}
    got, at, carry = [], 256, start | {"frames": frames}
    step = jax.jit(model.apply)
    for n in (100, 413, 256, 9000, audio.shape[1] - 256 - 9769):
        carry, out = step(variables, carry, audio[:, at : at + n])
        got.append(np.asarray(out.x)[np.asarray(out.valid)])
        at += n
    got = np.concatenate(got)
    assert len(got) == len(audio[0]) - 512
    np.testing.assert_allclose(got, z["wave_out"][: len(got)], atol=1e-5)


@pytest.mark.slow
@needs_shared
def test_dtln_is_its_onnx_graphs():
    z = golden("dtln_stream")
    _, variables = convert_checkpoint(WEIGHTS / "dtln_stream_1.onnx")
    model = create_model("dtln")
    got, carry = heard(model, variables, z["audio"], [1, 126, 130, 5000], flush=False)
    want = z["wave_out"][384:]  # theirs begins with what was before the first sample
    assert len(got) == len(want)
    np.testing.assert_allclose(got, want, atol=2e-6)
    for name, state in (("spectral", "final_state1"), ("learned", "final_state2")):
        mine = [[np.asarray(leaf[0, 0]) for leaf in lstm] for lstm in carry["net"][name]]
        np.testing.assert_allclose(np.moveaxis(mine, 1, -1), z[state][0], rtol=1e-5, atol=2e-4)
    ended, _ = heard(model, variables, z["audio"][:1000])
    assert len(ended) == 1000
    np.testing.assert_allclose(ended[:500], got[:500], atol=2e-6)
    # the bundled ones are stored in half the bits
    bundled, params = streamzoo.load("dtln/dns")
    near, _ = heard(bundled, params, z["audio"], flush=False)
    assert np.abs(near - want).max() < 0.01 * np.abs(want).max()


def moonshine2(folder):
    """(golden arrays, module, variables) of the tiny network, converted from a published folder."""
    z = golden("moonshine_v2_streaming")
    weights = {k.removeprefix("param/"): z[k] for k in z if k.startswith("param/")}
    save_file(weights, folder / "model.safetensors")
    heads = {"num_attention_heads": 4}
    shown = {"model_type": "moonshine_streaming", **heads,
             "encoder_config": {**heads, "num_key_value_heads": 4}}  # fmt: skip
    (folder / "config.json").write_text(json.dumps(shown))
    plan, variables = convert_checkpoint(folder)
    return z, create_model(plan.model, **plan.overrides), variables


@pytest.mark.slow
@needs_shared
def test_moonshine2_is_transformers_encoder_and_late_by_what_it_says(tmp_path_factory):
    z, model, variables = moonshine2(tmp_path_factory.mktemp("moonshine2"))
    audio = z["audio"]
    assert model.latency == model.lookahead == 12 * 320
    got, _ = heard(model, variables, audio, [3203] * 5)
    np.testing.assert_allclose(got, z["encoder_out"], atol=2e-5)
    # a prefix of theirs is final up to 12 frames before its end: what ours has said by then
    step = jax.jit(model.apply)
    end = jax.jit(lambda c: model.apply(variables, c, method="flush")[1])
    carry, said, at = model.init_carry(1), [], 0
    for frames in (20, 30, 40):
        carry, out = step(variables, carry, jnp.asarray(audio[None, at : frames * 320]))
        at, rest = frames * 320, end(carry)
        said.append(np.asarray(out.x)[np.asarray(out.valid)])
        so_far = np.concatenate(said)
        assert len(so_far) == model.emitted(at) == frames - 12
        np.testing.assert_allclose(so_far, z["encoder_out"][: frames - 12], atol=2e-5)
        ended = np.concatenate([so_far, np.asarray(rest.x)[np.asarray(rest.valid)]])
        np.testing.assert_allclose(ended, z[f"encoder_out_cut{frames}"], atol=2e-5)
    assert np.abs(z["encoder_out_cut20"][10:] - z["encoder_out"][10:20]).max() > 0.01


@pytest.mark.slow
@needs_shared
def test_moonshine2_beside_a_longer_stream_is_as_alone(tmp_path_factory):
    """Where the reference lets 40 frames of a padded batch see 3 more."""
    z, model, variables = moonshine2(tmp_path_factory.mktemp("moonshine2b"))
    both = jnp.stack([jnp.asarray(z["audio"])] * 2)
    valid = jnp.arange(both.shape[1]) < jnp.asarray([[40 * 320], [60 * 320]])
    both = jnp.where(valid, both, jnp.nan)
    carry, out = jax.jit(model.apply)(variables, model.init_carry(2), both, valid)
    _, rest = jax.jit(lambda c: model.apply(variables, c, method="flush"))(carry)
    x = np.concatenate([out.x, rest.x], axis=1)
    here = np.concatenate([out.valid, rest.valid], axis=1)
    np.testing.assert_allclose(x[0][here[0]], z["encoder_out_cut40"], atol=2e-5)
    np.testing.assert_allclose(x[1][here[1]], z["encoder_out"], atol=2e-5)


@needs_shared
@pytest.mark.slow
@pytest.mark.parametrize("name", ["librispeech-1995-1837-0001.wav", "an4_fbbh_an89-fbbh-b.wav"])
def test_on_other_speech_they_are_onnxruntime(name):
    ort = pytest.importorskip("onnxruntime")
    audio = speech(name)
    session = lambda file: ort.InferenceSession(str(WEIGHTS / file))
    vad, state = session("silero_vad_16k_op15.onnx"), np.zeros((2, 1, 128), np.float32)
    padded, want = np.pad(audio, (64, 0)), []
    for i in range(len(audio) // 512):
        given = {"input": padded[None, i * 512 : i * 512 + 576], "state": state}
        p, state = vad.run(None, given | {"sr": np.array(16_000, np.int64)})
        want.append(p[0, 0])
    model, variables = streamzoo.load("silero-vad/v6")
    got, _ = heard(model, variables, audio, flush=False)
    np.testing.assert_allclose(got, want, atol=1e-5)

    net = session("gtcrn_stream.onnx")
    caches = [np.zeros(v.shape, np.float32) for v in net.get_inputs()[1:]]
    names = [v.name for v in net.get_inputs()]
    window = np.sqrt(0.5 - 0.5 * np.cos(2 * np.pi * np.arange(512) / 512)).astype(np.float32)
    padded, out = np.pad(audio, (256, 0)), np.zeros(len(audio) + 512, np.float32)
    for i in range(len(audio) // 256):
        z = np.fft.rfft(padded[i * 256 : i * 256 + 512] * window)
        mix = np.stack([z.real, z.imag], -1).astype(np.float32)[None, :, None]
        enhanced, *caches = net.run(None, dict(zip(names, [mix, *caches], strict=True)))
        frame = np.fft.irfft(enhanced[0, :, 0, 0] + 1j * enhanced[0, :, 0, 1])
        out[i * 256 : i * 256 + 512] += frame * window
    model, variables = streamzoo.load("gtcrn/dns3")
    got, _ = heard(model, variables, audio, flush=False)
    np.testing.assert_allclose(got, out[256 : 256 + len(got)], atol=2e-5)


TINY = {
    "silero": SileroVAD(SileroConfig(12, 4, 8, (3, 4, 3, 5))),
    "dtln": DTLN(DTLNConfig(8, 4, 3, 5)),
    "gtcrn": GTCRN(GTCRNConfig(12, 3, 2, 4, (1, 2))),
    "moonshine2": MoonshineEncoder(MoonshineEncoderConfig(4, 8, 2, 2, ((2, 1), (1, 0)))),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", TINY)
def test_the_law(name):
    model = TINY[name]
    noise = lambda seed, batch, steps: jax.random.normal(jax.random.key(seed), (batch, steps))
    variables = jax.jit(model.init)(jax.random.key(1), model.init_carry(1), noise(0, 1, 2))
    variables = jax.tree.map(
        lambda p: p + 0.1 * jax.random.normal(jax.random.key(p.size), p.shape), variables
    )
    verify_signal(model, variables, noise)


def test_names_tell_what_they_hear():
    for name, late in NAMES.items():
        card, model = model_card(name), create_model(name)
        assert card.task == "speech" and card.licence == "MIT" and card.frame_rate == 16_000
        assert card.latency == model.latency == late and model.inputs == ("audio",)
        assert card.carry_bytes == sum(a.nbytes for a in jax.tree.leaves(model.init_carry(1)))
        # a video source has no sound for them
        with pytest.raises(ValueError, match="hears audio"):
            as_stream(model, card)


@pytest.mark.parametrize("name", ["silero-vad", "dtln", "gtcrn"])
def test_other_input_is_refused(name):
    model, wrong = (
        create_model(name),
        {
            "16-bit": jnp.zeros((1, 5), jnp.int16),
            "batch, samples": jnp.zeros((5,)),
            "channels": jnp.zeros((1, 5, 2)),
            "at least one": jnp.zeros((1, 0)),
        },
    )
    for message, audio in wrong.items():
        with pytest.raises(ValueError, match=message):
            jax.eval_shape(lambda: model.init(jax.random.key(0), model.init_carry(1), audio))


@needs_shared
def test_half_of_dtln_is_refused(tmp_path):
    alone = tmp_path / "model_1.onnx"
    alone.write_bytes((WEIGHTS / "dtln_stream_1.onnx").read_bytes())
    with pytest.raises(ConvertError, match="model_2.onnx, should lie beside"):
        convert_checkpoint(alone)


def test_cards_of_audio_are_read_back():
    card = model_card("silero-vad/v6")
    assert Card.from_json(card.to_json()) == card
    assert json.loads(card.to_json())["sha256"]


@pytest.mark.slow
@needs_shared
def test_moonshine2_writes_what_transformers_writes(tmp_path_factory):
    z, model, variables = moonshine2(tmp_path_factory.mktemp("moonshine2c"))
    features, _ = heard(model, variables, z["audio"], [5000])
    seen = np.ones((1, len(features)), bool)
    begin = jax.jit(
        lambda f: model.apply(variables, f, seen, 16, method="begin"), static_argnums=()
    )
    write = jax.jit(lambda m, t: model.apply(variables, m, t, method="write"))
    # at once, and in two pieces
    memory, logits = write(begin(features[None]), z["dec_ids"].astype(np.int32))
    np.testing.assert_allclose(logits[0], z["dec_logits"], atol=2e-5)
    memory, first = write(begin(features[None]), z["dec_ids"][:, :3].astype(np.int32))
    _, rest = write(memory, z["dec_ids"][:, 3:].astype(np.int32))
    both = np.concatenate([first, rest], axis=1)
    np.testing.assert_allclose(both[0], z["dec_logits"], atol=2e-5)
    want = z["greedy_ids"][0]
    memory, tokens = begin(features[None]), [int(want[0])]
    while len(tokens) < len(want):
        memory, logits = write(memory, np.array([tokens[-1:]], np.int32))
        tokens.append(int(logits[0, -1].argmax()))
    assert tokens == want.tolist()


@pytest.mark.slow
@needs_shared
def test_moonshine2_says_early_what_is_not_final(tmp_path_factory):
    z, model, variables = moonshine2(tmp_path_factory.mktemp("moonshine2d"))
    carry, out = jax.jit(model.apply)(variables, model.init_carry(1), z["audio"][None, : 40 * 320])
    early = jax.jit(lambda c: model.apply(variables, c, method="provisional"))(carry)
    final = np.asarray(out.x)[np.asarray(out.valid)]
    not_final = np.asarray(early.x)[np.asarray(early.valid)]
    assert (len(final), len(not_final)) == (28, 12)
    np.testing.assert_allclose(not_final, z["encoder_out_cut40"][28:], atol=2e-5)
    # they change when more comes, and the carry is as if they had not been asked for
    assert np.abs(not_final - z["encoder_out"][28:40]).max() > 0.01
    _, out = jax.jit(model.apply)(variables, carry, z["audio"][None, 40 * 320 :])
    np.testing.assert_allclose(
        np.asarray(out.x)[np.asarray(out.valid)], z["encoder_out"][28:48], atol=2e-5
    )


@pytest.mark.slow
@needs_shared
def test_moonshine2s_encoder_alone_is_read(tmp_path):
    z = golden("moonshine_v2_streaming")
    weights = {k.removeprefix("param/"): z[k] for k in z if k.startswith("param/model.encoder")}
    save_file(weights, tmp_path / "model.safetensors")
    told = {"num_attention_heads": 4, "num_key_value_heads": 4, "model_type": "moonshine_streaming"}
    (tmp_path / "config.json").write_text(json.dumps({"encoder_config": told} | told))
    plan, variables = convert_checkpoint(tmp_path)
    assert plan.model == "moonshine2-encoder-tiny"
    got, _ = heard(create_model(plan.model, **plan.overrides), variables, z["audio"])
    np.testing.assert_allclose(got, z["encoder_out"], atol=2e-5)


def test_grus_side_by_side_are_each_alone():
    """One loop for several directions and groups gives what a loop for each gives."""
    grus = [GRU(3) for _ in range(3)]
    parts = [jax.random.normal(jax.random.key(i), (2, 5, 4, 6)) for i in range(3)]

    class All(nn.Module):
        def setup(self):
            self.grus = grus

        def __call__(self, parts):
            return side_by_side(self.grus, parts, (False, True, False))

    variables = All().init(jax.random.key(3), parts)
    together = All().apply(variables, parts)
    for i, (x, y) in enumerate(zip(parts, together, strict=True)):
        own = {"params": variables["params"][f"grus_{i}"]}
        x = x[:, ::-1] if i == 1 else x
        want = np.asarray(GRU(3).apply(own, jnp.zeros((2, 4, 3)), x)[1])
        np.testing.assert_allclose(np.asarray(y), want[:, ::-1] if i == 1 else want, atol=1e-6)
